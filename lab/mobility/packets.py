"""The outage of one direction of a voice stream around a move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from protocols.media.log import PacketFate

ENDING_INTERVAL = 1.0  # a stream that ends so shortly before the end ends with it


@dataclass(frozen=True, kw_only=True)
class Outage:
    """The longest time without a packet: the last one before, the first one after (``None``: none came)."""

    last: float
    first: float | None
    interval: float


def outage(stream: Sequence[PacketFate], since: float, until: float) -> Outage | None:
    """The longest silence at the receiver that touches the time from ``since`` to ``until``.

    ``None``: the stream had nothing to say then. A stream that ends before anything came again counts to
    the last packet sent, one whose first packets were lost from the first packet sent.
    """
    if not stream or stream[0].sent > until or stream[-1].sent < since:
        return None
    moments = sorted(fate.received for fate in stream if fate.received is not None)
    gaps = [Outage(last=last, first=first, interval=first - last) for last, first in pairwise(moments)]
    end, last_sent = moments[-1] if moments else stream[0].sent, stream[-1].sent
    if moments and stream[0].received is None:
        gaps.append(Outage(last=stream[0].sent, first=moments[0], interval=moments[0] - stream[0].sent))
    if last_sent > end:
        gaps.append(Outage(last=end, first=None, interval=last_sent - end))
    touching = [gap for gap in gaps if gap.last <= until and (gap.first is None or gap.first >= since)]
    return max(touching, key=lambda gap: gap.interval, default=None)


def silences_between(streams: Sequence[Sequence[PacketFate]], wanted: Sequence[bool], end: float) -> list[Outage]:
    """The silences from each stream to the next one, and from the last one to ``end`` where it ended before.

    ``wanted``: for each stream whether somebody ended it on purpose; then silence is no outage.
    """
    found: list[Outage] = []
    for number, (stream, is_wanted) in enumerate(zip(streams, wanted, strict=True)):
        if is_wanted or not stream:
            continue
        last = max((fate.received for fate in stream if fate.received is not None), default=stream[0].sent)
        later = [fate.received for each in streams[number + 1 :] for fate in each if fate.received is not None]
        first = min(later, default=None)
        if first is not None or stream[-1].sent < end - ENDING_INTERVAL:
            found.append(Outage(last=last, first=first, interval=max((end if first is None else first) - last, 0.0)))
    return found
