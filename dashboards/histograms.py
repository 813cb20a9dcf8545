"""Histograms as nodes tell them: cumulative counts by upper bound, added up, and percentiles of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protocols.trace.records import JsonValue


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """``buckets``: (upper bound in seconds, how many took at most that), rising; ``sum`` in seconds."""

    buckets: tuple[tuple[float, int], ...] = ()
    sum: float = 0.0
    count: int = 0

    @classmethod
    def of(cls, told: JsonValue) -> Histogram | None:
        """As ``node.status`` has it (docs/architecture.md); ``None`` when it is something else."""
        if not isinstance(told, Mapping):
            return None
        buckets, total, count = told.get("buckets"), told.get("sum"), told.get("count")
        if not isinstance(buckets, list) or not isinstance(total, int | float) or not isinstance(count, int):
            return None
        found = []
        for each in buckets:
            match each:
                case [int() | float() as bound, int() as number]:
                    found.append((float(bound), number))
                case _:
                    return None
        return cls(buckets=tuple(found), sum=float(total), count=count)

    def percentile(self, percent: float) -> float | None:
        """Seconds, interpolated within a bucket as Prometheus' ``histogram_quantile`` does; ``None`` without any.

        What took longer than the last bound counts as that bound.
        """
        if not self.count:
            return None
        rank = self.count * percent / 100
        below, lower = 0, 0.0
        for bound, number in self.buckets:
            if number >= rank and number > below:
                return lower + (bound - lower) * (rank - below) / (number - below)
            below, lower = number, bound
        return lower


def together(found: Iterable[Histogram | None]) -> Histogram:
    """Their sum; those with other bounds than the first one's are left out."""
    total = Histogram()
    for each in found:
        if each is None:
            continue
        if not total.buckets:
            total = each
        elif [bound for bound, _ in each.buckets] == [bound for bound, _ in total.buckets]:
            pairs = zip(total.buckets, each.buckets, strict=True)
            total = Histogram(
                buckets=tuple((bound, mine + others) for (bound, mine), (_, others) in pairs),
                sum=total.sum + each.sum,
                count=total.count + each.count,
            )
    return total
