"""What came of a schedule: figures of every move and of the whole, as values and as JSON.

Moments are milliseconds since the beginning of the schedule. No wall clock and no path of a file is in a
result: the same seed on virtual time gives the same octets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

from lab.mobility.stage_name import NatName
from protocols.media.log import PacketFate
from protocols.trace.records import JsonValue

SCHEMA = 1  # of the JSON


@dataclass(frozen=True, kw_only=True)
class DirectionFigures:
    """One direction around a move: packets sent from its cause until it has settled, and the silence.

    ``outage_ms`` is from the last packet before to the first one after; ``recovered`` is false when none came.
    """

    outage_ms: float | None
    outage_from_ms: float | None
    recovered: bool
    sent: int
    lost: int
    duplicated: int
    reordered: int


@dataclass(frozen=True, kw_only=True)
class Opinions:
    """Mean opinion scores (ITU-T G.107) of both directions; ``None`` where nothing was said."""

    uplink: float | None
    downlink: float | None


@dataclass(frozen=True, kw_only=True)
class PathFigures:
    """A path as its ends write it, ``address:port``; the UE's end is what the UE sees."""

    local: str
    remote: str


@dataclass(frozen=True, kw_only=True)
class MoveResult:
    """One move of the UE. ``cause``: the event of the schedule that it follows; ``commanded``: whether that told it to.

    ``update_ms`` is from the UE's decision to the gateway's answer, ``check_ms`` what the gateway's
    return-routability check took, ``checks`` how often it asked. ``round_trips`` counts exchanges of both ends.
    """

    number: int
    origin: str
    target: str
    commanded: bool
    cause: str
    cause_ms: float
    started_ms: float
    outcome: str
    why: str | None
    update_ms: float | None
    requests: int
    retransmissions: int
    round_trips: int
    checks: int
    check_ms: float | None
    inner_address_unchanged: bool | None
    spis_unchanged: bool | None
    nat: bool | None
    path_before: PathFigures
    path_after: PathFigures | None
    settled_ms: float
    uplink: DirectionFigures | None
    downlink: DirectionFigures | None
    mos_before: Opinions
    mos_during: Opinions
    mos_after: Opinions


@dataclass(frozen=True, kw_only=True)
class AttachResult:
    """One attach; ``ms`` is how long it took, as the UE measured it."""

    at_ms: float
    access: str
    ms: float
    requests: int
    retransmissions: int


@dataclass(frozen=True, kw_only=True)
class EventResult:
    """An event of the schedule and what it said when it could not be done."""

    at_ms: float
    text: str
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Check:
    """An expectation, what was found, and whether that is within it."""

    subject: str
    expected: str
    found: str
    passed: bool


@dataclass(frozen=True, kw_only=True)
class StreamFigures:
    """One direction of the whole traffic; ``outage_ms`` is the longest silence."""

    sent: int
    lost: int
    duplicated: int
    reordered: int
    outage_ms: float | None
    jitter_ms: float | None
    mos: float | None


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A whole run; ``backends``: what carried ESP, by node; ``nat``: what translated where an access has a NAT."""

    schedule: str
    title: str
    stage: str
    nat: str
    seed: int
    backends: dict[str, str]
    duration_ms: float
    events: tuple[EventResult, ...]
    attaches: tuple[AttachResult, ...]
    moves: tuple[MoveResult, ...]
    uplink: StreamFigures
    downlink: StreamFigures
    final_access: str | None
    final_gateway: str | None
    messages_lost: dict[str, int]
    leaks: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every expectation held."""
        return all(check.passed for check in self.checks)

    @property
    def place(self) -> str:
        """The stage in words, with what carried ESP, and whose NAT it was unless the laboratory's own."""
        nat = "" if self.nat == NatName.LAB.value else f", NAT by {self.nat}"
        return f"{self.stage}, ESP by {' and '.join(sorted(set(self.backends.values())))}{nat}"

    def to_json(self) -> dict[str, JsonValue]:
        """The result as a JSON object; ``schema`` tells its form."""
        body = _plain(self)
        assert isinstance(body, dict)
        return {"schema": SCHEMA, "passed": self.passed, **body}

    def to_text(self) -> str:
        """The JSON as a file holds it: keys in order, one octet string for one result."""
        return json.dumps(self.to_json(), indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True, kw_only=True)
class PacketSeries:
    """The packets of a run as the plot shows them; moments are seconds since the beginning."""

    uplink: Sequence[PacketFate]
    downlink: Sequence[PacketFate]


def _plain(value: Any) -> JsonValue:  # dataclasses.fields gives Any
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return round(value, 3)
    assert value is None or isinstance(value, str | int | bool)
    return value
