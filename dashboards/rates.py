"""How much happened in each of the last seconds, from counters that nodes tell every so often.

What a counter has grown by between two answers is spread evenly over the time between them: nobody knows more. A node
that was started anew counts from 0 again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

INTERVAL = 1.0  # seconds
INTERVALS = 120


@dataclass(frozen=True, kw_only=True)
class _Told:
    started: float | None
    at: float
    counters: Mapping[str, float]


class Rates:
    """Series of ``INTERVALS`` intervals of ``INTERVAL``, each the sum over all nodes."""

    def __init__(
        self,
        names: tuple[str, ...],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._series: dict[str, dict[int, float]] = {name: {} for name in names}
        self._monotonic = monotonic
        self._wall = wall
        self._nodes: dict[str, _Told] = {}
        self._silent: set[str] = set()

    def take(self, node: str, started: float | None, counters: Mapping[str, float]) -> None:
        """What a node, which runs since ``started``, has counted up to now."""
        now = self._monotonic()
        before = self._nodes.get(node)
        self._silent.discard(node)
        self._nodes[node] = _Told(started=started, at=now, counters=counters)
        if before is None or now <= before.at:
            return
        for name, series in self._series.items():
            old = before.counters.get(name, 0.0) if before.started == started else 0.0
            _spread(series, before.at, now, max(0.0, counters.get(name, 0.0) - old))

    def lost(self, node: str) -> None:
        """It does not answer: the series go on without it until it does."""
        self._silent.add(node)

    def view(self) -> tuple[float, dict[str, list[float]]]:
        """The wall clock at the end of the last interval that every node has told of, and the series, oldest first."""
        now = self._monotonic()
        told = min((told.at for node, told in self._nodes.items() if node not in self._silent), default=now)
        end = math.floor(told / INTERVAL)
        span = range(end - INTERVALS, end)
        return self._wall() - (now - end * INTERVAL), {
            name: [round(series.get(number, 0.0), 3) for number in span] for name, series in self._series.items()
        }


def _spread(series: dict[int, float], since: float, until: float, growth: float) -> None:
    """Add ``growth`` to the intervals between two moments, to each what of that time lies in it."""
    last = math.floor(until / INTERVAL)
    for number in [number for number in series if number < last - 2 * INTERVALS]:
        del series[number]
    if not growth:
        return
    for number in range(max(math.floor(since / INTERVAL), last - 2 * INTERVALS), last + 1):
        begin, end = max(since, number * INTERVAL), min(until, (number + 1) * INTERVAL)
        if end > begin:
            series[number] = series.get(number, 0.0) + growth * (end - begin) / (until - since)
