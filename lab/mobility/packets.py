"""The outage of one direction of a voice stream around a move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from protocols.media.log import PacketFate


@dataclass(frozen=True, kw_only=True)
class Outage:
    """The longest time without a packet: the last one before, the first one after (``None``: none came)."""

    last: float
    first: float | None
    interval: float


def outage(stream: Sequence[PacketFate], since: float, until: float) -> Outage | None:
    """The longest silence at the receiver that touches the time from ``since`` to ``until``.

    ``None``: the stream had nothing to say then. A stream that ends before anything came again counts to
    the last packet sent.
    """
    if not stream or stream[0].sent > until or stream[-1].sent < since:
        return None
    moments = sorted(fate.received for fate in stream if fate.received is not None)
    gaps = [Outage(last=last, first=first, interval=first - last) for last, first in pairwise(moments)]
    end, last_sent = moments[-1] if moments else stream[0].sent, stream[-1].sent
    if last_sent > end:
        gaps.append(Outage(last=end, first=None, interval=last_sent - end))
    touching = [gap for gap in gaps if gap.last <= until and (gap.first is None or gap.first >= since)]
    return max(touching, key=lambda gap: gap.interval, default=None)
