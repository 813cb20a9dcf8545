"""How long something took, counted in fixed buckets, as Prometheus has histograms."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

from protocols.errors import Fact

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # Prometheus's own, and 30 s


class Histogram:
    """Durations in seconds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds

    def view(self) -> dict[str, Fact]:
        """``buckets``: [upper bound, how many took at most that], the unbounded one is ``count``; ``sum``: seconds."""
        counts = list(accumulate(self._counts))
        return {
            "buckets": [[bound, count] for bound, count in zip(BOUNDS, counts[:-1], strict=True)],
            "sum": round(self._sum, 6),
            "count": counts[-1],
        }
