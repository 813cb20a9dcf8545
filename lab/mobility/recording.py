"""What was seen while a schedule was played: the facts that a result is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lab.mobility.schedule import Event, Schedule
from lab.mobility.stage_name import NatName, StageName
from protocols.media.log import PacketFate
from protocols.trace.records import JsonValue, TraceRecord


@dataclass(frozen=True, kw_only=True)
class Played:
    """An event of the schedule: when it was begun and done, and why it could not be."""

    event: Event
    began: float
    ended: float
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One voice stream, both directions, packets in the order of sending."""

    uplink: Sequence[PacketFate]
    downlink: Sequence[PacketFate]


@dataclass(kw_only=True)
class Recording:
    """Facts of one run; moments are seconds since its beginning, but for those inside of ``moves`` and ``records``.

    ``moves``, ``paths`` and ``attaches`` are the UE's own views, oldest first; ``began`` is the wall clock at the
    beginning. ``backends``: what carries ESP in each of the nodes that do.
    """

    schedule: Schedule
    name: str
    stage: StageName
    seed: int
    began: float
    nat: NatName = NatName.LAB
    played: list[Played] = field(default_factory=list)
    moves: list[dict[str, JsonValue]] = field(default_factory=list)
    paths: list[dict[str, JsonValue]] = field(default_factory=list)
    attaches: list[dict[str, JsonValue]] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    records: Sequence[TraceRecord] = ()
    final_access: str | None = None
    final_gateway: str | None = None
    backends: dict[str, str] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    leaks: list[str] = field(default_factory=list)
    duration: float = 0.0
