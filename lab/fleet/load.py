"""What UEs, gateway and AAA server take of the machine: processor time and memory, looked at when a phase begins.

Processor time, unlike a pace, says the same on a busy machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lab.fleet.figures import FleetFigures
from protocols.trace.records import JsonValue

PROCEDURES = ("attach", "move", "detach")
BEGAN, GATHERED, LEAVING, ENDED = "began", "gathered", "leaving", "ended"


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Of every process by its name: seconds of processor time, octets that it holds.

    ``at``: seconds since the fleet began; ``succeeded``: how often each procedure had until then.
    """

    at: float
    succeeded: Mapping[str, int] = field(default_factory=dict)
    processor_seconds: Mapping[str, float] = field(default_factory=dict)
    resident_octets: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, at: float, statuses: Mapping[str, JsonValue], figures: FleetFigures) -> Moment:
        """Out of what the processes say of themselves (``node.status``)."""
        views: dict[str, Mapping[str, JsonValue]] = {}
        for name, status in statuses.items():
            view = status.get("process") if isinstance(status, dict) else None
            if isinstance(view, dict):
                views[name] = view
        seconds = {name: view.get("cpu_seconds") for name, view in views.items()}
        octets = {name: view.get("resident_octets") for name, view in views.items()}
        return cls(
            at=at,
            succeeded={name: figures.succeeded(name) for name in PROCEDURES},
            processor_seconds={name: float(found) for name, found in seconds.items() if isinstance(found, int | float)},
            resident_octets={name: found for name, found in octets.items() if isinstance(found, int)},
        )

    def to_json(self) -> dict[str, JsonValue]:
        """For the summary."""
        return {
            "at": round(self.at, 3),
            "succeeded": dict(self.succeeded),
            "processor_seconds": dict(self.processor_seconds),
            "resident_octets": dict(self.resident_octets),
        }
