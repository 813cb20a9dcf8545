"""What a listener makes of a window of a stream: packet fates through a jitter buffer into the E-model.

Assumed is a fixed playout buffer: the earliest packet of the window waits ``BUFFER_INTERVAL``, and what comes
later than its own turn is lost to the listener. Delay from mouth to ear is the shortest transit, that buffer, and
the codec's frame and look-ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protocols.media.emodel import AMR_12_2, Codec, mos, rating, transmission_of
from protocols.media.log import PacketFate, burst_ratio, window

BUFFER_INTERVAL = 0.06  # three frames: what a fixed buffer of a voice-over-Wi-Fi client holds in the middle


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """The estimate and what it comes from; ratios of 1, the delay from mouth to ear."""

    mos: float
    rating: float
    loss_ratio: float  # in the network
    late_ratio: float  # for the buffer
    burst_ratio: float
    delay_ms: float


def score(
    fates: Sequence[PacketFate],
    since: float | None = None,
    until: float | None = None,
    *,
    codec: Codec = AMR_12_2,
    buffer_interval: float = BUFFER_INTERVAL,
) -> Opinion | None:
    """The opinion of what was sent from ``since`` to before ``until``; ``None`` when nothing was sent."""
    chosen = window(fates, since, until)
    if not chosen:
        return None
    transits = [None if fate.received is None else fate.received - fate.sent for fate in chosen]
    shortest = min((transit for transit in transits if transit is not None), default=0.0)
    deadline = shortest + buffer_interval
    played = [transit is not None and transit <= deadline for transit in transits]
    lost = sum(transit is None for transit in transits) / len(chosen)
    unplayed = 1 - sum(played) / len(chosen)
    # Clocks that differ make a transit negative: what is known is then the buffer only.
    delay = max(0.0, deadline) + codec.frame_interval + codec.look_ahead_interval
    bursts = burst_ratio(played)
    value = rating(transmission_of(codec, delay_interval=delay, loss_ratio=unplayed, burst_ratio=bursts))
    return Opinion(
        mos=mos(value),
        rating=value,
        loss_ratio=lost,
        late_ratio=max(0.0, unplayed - lost),
        burst_ratio=bursts,
        delay_ms=delay * 1000,
    )
