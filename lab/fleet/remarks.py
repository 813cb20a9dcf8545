"""What is to be said of a fleet at its end, in sentences: whether it did what was asked for, and what it took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lab.fleet.figures import FleetFigures, Latency
from lab.fleet.load import BEGAN, GATHERED, Moment
from lab.fleet.plan import FleetPlan

LATE = 1.0  # seconds that a UE may begin its attach late without a word


def remarks(figures: FleetFigures, plan: FleetPlan, moments: Mapping[str, Moment]) -> Iterator[str]:
    """None where everything went as asked and nothing was measured."""
    late = figures.latencies[Latency.LATENESS]
    if late.count and late.maximum > LATE:
        middle = late.percentile(50) or 0.0
        yield (
            f"Attaches began up to {late.maximum:.1f} s late, half of them more than {middle:.1f} s: "
            f"{plan.rate:g} UEs a second are more than gateway and machine take."
        )
    if figures.unserved:
        yield f"{figures.unserved} attaches had not begun when the time was over."
    if figures.begun < plan.count:
        yield f"{plan.count - figures.begun} of {plan.count} UEs had not come when the time was over."
    began, gathered, attaches = moments.get(BEGAN), moments.get(GATHERED), figures.gathered
    if began is None or gathered is None or not attaches:
        return
    spent = {
        name: 1000 * (seconds - began.processor_seconds.get(name, 0.0)) / attaches
        for name, seconds in gathered.processor_seconds.items()
    }
    held = {
        name: (octets - began.resident_octets.get(name, 0)) / 1024 / attaches
        for name, octets in gathered.resident_octets.items()
    }
    if spent:
        each = ", ".join(f"{name} {milliseconds:.1f}" for name, milliseconds in spent.items())
        yield f"Until all had attached a UE took {sum(spent.values()):.1f} ms of processor time ({each})."
    if held:
        yield f"A UE holds {', '.join(f'{kilooctets:.0f} KiB in {name}' for name, kilooctets in held.items())}."
