"""What a process of a fleet can be asked over its control socket: its part of a fleet by plan, or UEs one by one."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import Field

from lab.fleet.arrivals import Arrivals
from lab.fleet.engine import FleetEngine
from lab.fleet.mix import DEFAULT_PERSONA, PersonaMix
from lab.fleet.plan import FleetPlan, Part
from lab.fleet.schedule import FleetSchedule, check_accesses
from protocols.io.configuration import ConfigurationModel, Count, Interval, parse
from protocols.io.control import Handler, Params
from protocols.io.process import process_view
from protocols.trace.records import JsonValue

KIND = "fleet"
DISTRIBUTION = "epdg-emulator"

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PartSection(ConfigurationModel):
    """Every ``of``-th UE from ``number`` on."""

    number: Count = 0
    of: Annotated[Count, Field(ge=1)] = 1


class StartSection(ConfigurationModel):
    """A plan and a part of it, as ``fleet.start`` has them."""

    count: Annotated[Count, Field(ge=1)]
    rate: Rate
    duration: Interval
    schedule: FleetSchedule
    persona: str = DEFAULT_PERSONA
    arrivals: Arrivals = Arrivals.EVEN
    rounds: Annotated[Count, Field(ge=1)] | None = None
    seed: int = 0
    part: PartSection = PartSection()

    @classmethod
    def of(cls, plan: FleetPlan, part: Part) -> StartSection:
        """The section that says the same."""
        return cls(
            count=plan.count,
            rate=plan.rate,
            duration=plan.duration,
            schedule=plan.schedule,
            persona=str(plan.mix),
            arrivals=plan.arrivals,
            rounds=plan.rounds,
            seed=plan.seed,
            part=PartSection(number=part.number, of=part.of),
        )

    def plan(self) -> FleetPlan:
        """As a value."""
        return FleetPlan(
            count=self.count,
            rate=self.rate,
            duration=self.duration,
            schedule=self.schedule,
            mix=PersonaMix.parse(self.persona),
            arrivals=self.arrivals,
            rounds=self.rounds,
            seed=self.seed,
        )


class AttachSection(ConfigurationModel):
    """``fleet.ue.attach``."""

    index: Count
    persona: str = DEFAULT_PERSONA
    access: str | None = None


class MoveSection(ConfigurationModel):
    """``fleet.ue.move``."""

    index: Count
    to: str | None = None


class TalkSection(ConfigurationModel):
    """``fleet.ue.talk``."""

    index: Count
    rate: Annotated[float, Field(gt=0, le=200)] = 10.0
    seconds: Annotated[float, Field(gt=0, le=50)] = 1.0  # the answer has to come before a client loses patience


class IndexSection(ConfigurationModel):
    """``fleet.ue.detach``."""

    index: Count


def control_methods(engine: FleetEngine, node: str) -> Mapping[str, Handler]:
    """What the process answers."""
    methods = _Methods(engine, node)
    return {
        "node.status": methods.status,
        "fleet.start": methods.start,
        "fleet.stop": methods.stop,
        "fleet.status": methods.status,
        "fleet.figures": methods.figures,
        "fleet.ue.attach": methods.attach,
        "fleet.ue.move": methods.move,
        "fleet.ue.talk": methods.talk,
        "fleet.ue.detach": methods.detach,
    }


SectionT = TypeVar("SectionT", bound=ConfigurationModel)


def _section(params: Params, model: type[SectionT]) -> SectionT:
    return parse(json.dumps(params), model, file="params")


class _Methods:
    def __init__(self, engine: FleetEngine, node: str) -> None:
        self._engine = engine
        self._node = node

    async def status(self, params: Params) -> JsonValue:
        del params
        return {
            "node": self._node,
            "kind": KIND,
            "version": importlib.metadata.version(DISTRIBUTION),
            "started": self._engine.recorder.started,
            "trace": self._engine.recorder.view(),
            "state": self._engine.state.value,
            "ues": len(self._engine.members),
            "memory_octets": self._engine.memory_octets,
            "process": process_view(),
        }

    async def start(self, params: Params) -> JsonValue:
        section = _section(params, StartSection)
        check_accesses(section.schedule, self._engine.accesses)
        self._engine.start(section.plan(), Part(number=section.part.number, of=section.part.of))
        return await self.status({})

    async def stop(self, params: Params) -> JsonValue:
        del params
        await self._engine.stop()
        return await self.status({})

    async def figures(self, params: Params) -> JsonValue:
        del params
        return self._engine.latest().to_json()

    async def attach(self, params: Params) -> JsonValue:
        section = _section(params, AttachSection)
        member = self._engine.member(section.index, section.persona)
        seconds = await member.attach(section.access)
        return {"index": section.index, "seconds": seconds, "access": member.access}

    async def move(self, params: Params) -> JsonValue:
        section = _section(params, MoveSection)
        member = self._engine.known_member(section.index)
        seconds = await member.move(section.to)
        return {"index": section.index, "seconds": seconds, "access": member.access}

    async def talk(self, params: Params) -> JsonValue:
        section = _section(params, TalkSection)
        score = await self._engine.known_member(section.index).talked(section.rate, section.seconds)
        return {"index": section.index, "sent": score.sent, "received": score.received, "lost": score.lost}

    async def detach(self, params: Params) -> JsonValue:
        section = _section(params, IndexSection)
        seconds = await self._engine.known_member(section.index).detach()
        return {"index": section.index, "seconds": seconds}
