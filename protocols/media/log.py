"""What became of a stream's packets: both ends' logs joined, and figures of a window of time.

Moments are seconds of one clock for both logs: whoever joins logs of two clocks shifts one of them first.
Reordering as in RFC 4737 §3 (a packet behind one that was sent later), jitter as in RFC 3550 §6.4.1 (A.8).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

JITTER_GAIN = 16  # RFC 3550 §6.4.1: the divisor of each step

Entry = tuple[int, float]


@dataclass(frozen=True, kw_only=True)
class PacketFate:
    """One packet: when it was sent, when its first copy arrived (``None``: not), and how many arrived."""

    sequence: int
    sent: float
    received: float | None
    copies: int


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One direction between two moments: of the packets sent then, what arrived at any time.

    ``sent`` = ``received`` + ``lost``; ``duplicated`` counts copies beyond the first. ``longest_gap_ms`` is the
    longest time in the window without an arrival, its edges included. ``jitter_ms`` is the estimate at its end.
    """

    sent: int
    received: int
    lost: int
    duplicated: int
    reordered: int
    longest_gap_ms: float
    jitter_ms: float | None


def join(sent: Iterable[Entry], received: Iterable[Entry]) -> tuple[PacketFate, ...]:
    """Each packet that one end sent with what the other received of it, in order of sending.

    A number that was received but not sent (the sender's log is bounded) has no fate.
    """
    arrivals: dict[int, tuple[float, int]] = {}
    for sequence, moment in received:
        first, copies = arrivals.get(sequence, (moment, 0))
        arrivals[sequence] = (min(first, moment), copies + 1)
    fates = []
    for sequence, moment in sent:
        first_copy = arrivals.get(sequence)
        fates.append(
            PacketFate(
                sequence=sequence,
                sent=moment,
                received=None if first_copy is None else first_copy[0],
                copies=0 if first_copy is None else first_copy[1],
            )
        )
    return tuple(fates)


def window(
    fates: Iterable[PacketFate], since: float | None = None, until: float | None = None
) -> tuple[PacketFate, ...]:
    """The packets sent from ``since`` to before ``until``."""
    return tuple(
        fate for fate in fates if (since is None or fate.sent >= since) and (until is None or fate.sent < until)
    )


def figures(fates: Sequence[PacketFate], since: float | None = None, until: float | None = None) -> Figures:
    """The figures of the packets sent from ``since`` to before ``until``; all of them by default."""
    chosen = window(fates, since, until)
    arrived = _by_arrival(chosen)
    return Figures(
        sent=len(chosen),
        received=len(arrived),
        lost=len(chosen) - len(arrived),
        duplicated=sum(fate.copies - 1 for fate in chosen if fate.copies),
        reordered=_reordered(arrived),
        longest_gap_ms=longest_gap(fates, since, until) * 1000,
        jitter_ms=_jitter_ms(arrived),
    )


def longest_gap(fates: Sequence[PacketFate], since: float | None = None, until: float | None = None) -> float:
    """Seconds without an arrival at most, from ``since`` (or the first sending) to ``until`` (or the last)."""
    if not fates:
        return 0.0
    start = fates[0].sent if since is None else max(since, fates[0].sent)
    end = fates[-1].sent if until is None else min(until, fates[-1].sent)
    if end <= start:
        return 0.0
    inside = sorted(fate.received for fate in fates if fate.received is not None and start <= fate.received <= end)
    return max(later - earlier for earlier, later in pairwise([start, *inside, end]))


def around(fates: Iterable[PacketFate], moment: float) -> tuple[float | None, float | None]:
    """The last arrival up to a moment and the first after it: the edges of an outage that began there."""
    before: float | None = None
    after: float | None = None
    for fate in fates:
        if fate.received is None:
            continue
        if fate.received <= moment:
            before = fate.received if before is None else max(before, fate.received)
        else:
            after = fate.received if after is None else min(after, fate.received)
    return before, after


def burst_ratio(delivered: Sequence[bool]) -> float:
    """Mean length of the runs of losses over what random loss of the same rate gives (ITU-T G.107 §3.5)."""
    lost = sum(not each for each in delivered)
    if not lost or lost == len(delivered):
        return 1.0
    bursts = sum(not each and (position == 0 or delivered[position - 1]) for position, each in enumerate(delivered))
    return max(1.0, lost / bursts * (1 - lost / len(delivered)))


def _by_arrival(fates: Iterable[PacketFate]) -> list[tuple[float, PacketFate]]:
    arrived = [(fate.received, fate) for fate in fates if fate.received is not None]
    return sorted(arrived, key=lambda each: each[0])


def _reordered(arrived: Sequence[tuple[float, PacketFate]]) -> int:
    highest = -1
    count = 0
    for _, fate in arrived:
        if fate.sequence < highest:
            count += 1
        highest = max(highest, fate.sequence)
    return count


def _jitter_ms(arrived: Sequence[tuple[float, PacketFate]]) -> float | None:
    if len(arrived) < 2:
        return None
    jitter = 0.0
    for (earlier, before), (later, after) in pairwise(arrived):
        jitter += (abs((later - after.sent) - (earlier - before.sent)) - jitter) / JITTER_GAIN
    return jitter * 1000
