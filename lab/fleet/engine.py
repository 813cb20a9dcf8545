"""The UEs of one process: one IKE end point, one pair of sockets for each access, one loop, no thread.

UEs come by plan (``start``) or one by one (``member``, for whoever steers them himself). A UE is made when it comes and
forgotten when it is done. At the end everybody detaches, so many at a time, within a bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from lab.fleet.config import FleetFile
from lab.fleet.figures import FleetFigures, Latency
from lab.fleet.member import FleetPdn, Member
from lab.fleet.mix import DEFAULT_PERSONA
from lab.fleet.plan import WHOLE, Arrival, FleetPlan, Part, Step
from lab.fleet.schedule import Action, FleetEvent
from lab.fleet.swu import FleetSwu
from lab.fleet.talk import CALL, TOO_MANY, TalkKind
from lab.fleet.turns import AttachLimit, Turns
from protocols.errors import LocalError, StackError
from protocols.ikev2.config import InitiatorConfig
from protocols.io.control import ControlError
from protocols.io.platform import Platform
from protocols.trace.recorder import Recorder
from ue.config import UeConfiguration
from ue.context import DeviceState
from ue.profile import initiator_config, own_identity
from ue.temporary import MemoryTemporaryIdentityStore
from ue.usim import SoftwareUsim

_log = logging.getLogger(__name__)


class EngineState(str, Enum):
    """Where a fleet is in its life."""

    IDLE = "idle"
    RUNNING = "running"
    LEAVING = "leaving"
    DONE = "done"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What the UEs of a persona share."""

    configuration: UeConfiguration
    ike_config: InitiatorConfig


class FleetEngine:
    """Made on the running loop, inside ``async with``."""

    def __init__(self, file: FleetFile, platform: Platform | None = None) -> None:
        self._platform = platform or Platform()
        self._file = file
        self._rule = file.rule
        self.accesses = file.accesses
        configuration = file.configuration
        clock = self._platform.clock
        self.recorder = Recorder(
            configuration.node,
            monotonic=clock.monotonic,
            wall=clock.wall,
            ring=configuration.trace.ring,
            enabled=configuration.trace.enabled,
        )
        self.figures = FleetFigures()
        self.state = EngineState.IDLE
        self.members: dict[int, Member] = {}
        self._profiles: dict[str, Profile] = {}
        self._profile(DEFAULT_PERSONA)  # so that its certificates are looked at before anybody comes
        self._swu = FleetSwu(
            self._profile(DEFAULT_PERSONA).configuration.accesses,
            platform=self._platform,
            recorder=self.recorder,
            tapped=configuration.trace.enabled,
        )
        self._swu.figures = self.figures
        self._loop = asyncio.get_running_loop()
        self._sleepers: set[asyncio.Future[None]] = set()
        self._turns = Turns(AttachLimit(configuration.attaching_at_once))
        self._leaving = asyncio.Semaphore(configuration.leaving_at_once)
        self._ending = False
        self._hurrying = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()  # nobody is left, or the fleet ends
        self._running: asyncio.Task[None] | None = None
        self._begun_at = 0.0

    async def __aenter__(self) -> FleetEngine:
        self._group = asyncio.TaskGroup()
        self._swu.open(await self._group.__aenter__())
        try:
            for name in self.accesses:
                self._swu.accesses.open(name, self)  # open for all, whoever comes and goes
        except BaseException:
            self._swu.close()
            await self._group.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        for member in self.members.values():
            member.abandon()
        self._swu.close()
        await self._group.__aexit__(None, None, None)

    # --- a fleet by plan

    def start(self, plan: FleetPlan, part: Part = WHOLE) -> None:
        """Begin; ``LocalError`` when a fleet has begun before, ``ConfigurationError`` when it has too many UEs."""
        if self.state is not EngineState.IDLE or self.members:
            raise LocalError(f"the fleet is {self.state.value} already")
        self._rule.imsi(plan.count - 1)  # who has no IMSI would end the fleet in its middle
        for persona, _ in plan.mix.weights:
            self._profile(persona)
        self.state = EngineState.RUNNING
        self._begun_at = self._loop.time()
        self._running = self._loop.create_task(self._run(plan, part))

    async def stop(self) -> None:
        """Let everybody detach; returns when all have, or their time is over."""
        self._end()
        if self._running is not None:
            await self._running
        else:
            await self._leave()

    def hurry(self) -> None:
        """Wait for nobody who has not detached yet."""
        self._hurrying.set()

    async def finished(self) -> None:
        """Return when the fleet that was started is over."""
        if self._running is not None:
            await asyncio.shield(self._running)

    async def _run(self, plan: FleetPlan, part: Part) -> None:
        expiry = self._loop.call_at(self._begun_at + plan.duration, self._end)
        try:
            for arrival in plan.arriving(part):
                if not await self._until(self._begun_at + arrival.at):
                    break
                self._admit(plan, arrival)
            if self._tasks and not self._ending:
                self._over.clear()
                await self._over.wait()
        finally:
            expiry.cancel()
        self._end()
        await self._leave()

    def _admit(self, plan: FleetPlan, arrival: Arrival) -> None:
        member = self._make(arrival.index, arrival.persona)
        task = self._loop.create_task(self._live(member, plan.steps(arrival.index), self._begun_at + arrival.at))
        self._tasks.add(task)
        task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._over.set()

    async def _live(self, member: Member, steps: Iterator[Step], begin: float) -> None:
        """One UE's life; what goes wrong in it stays in it. Who attaches late does all that follows as much later."""
        try:
            for step in steps:
                due = begin + step.at
                if not await self._until(due):
                    break
                if step.event.do is Action.ATTACH:
                    begin += await self._attach(member, step.event, due)
                    continue
                with contextlib.suppress(StackError):  # counted where it happened
                    await self._play(member, step.event)
            if member.attached:
                await self._until(math.inf)  # its schedule says nothing more: it stays
            await self._take_leave(member)
        except Exception:  # noqa: BLE001 - the top loop of one UE among thousands
            self.figures.failed += 1
            _log.exception("UE %d failed", member.index)
            member.abandon()
        self._forget(member)

    async def _attach(self, member: Member, event: FleetEvent, due: float) -> float:
        """Attach when there is a turn; how much later than it was due that began."""
        if member.attached:
            self.figures.skipped += 1
            return 0.0
        async with self._turns.one():
            now = self._loop.time()
            late = now - due
            if self._ending:
                self.figures.unserved += 1
                return late
            self.figures.latencies[Latency.LATENESS].add(late)
            with contextlib.suppress(StackError):  # counted where it happened
                await member.attach(event.to)
            seconds, used = self._loop.time() - now, self._turns.waiting > 0
            self._turns.limit.took(seconds, attached=member.attached, used=used)
        if not member.gathered:
            member.gathered = True
            self.figures.gathered += 1
        return late

    async def _play(self, member: Member, event: FleetEvent) -> None:
        if not member.attached:
            self.figures.skipped += 1
            return
        match event.do:
            case Action.TALK:
                self._talk(member, event)
            case Action.MOVE:
                await member.move(event.to)
            case Action.SUSPEND:
                member.suspend()
            case Action.REKEY_IKE | Action.REKEY_CHILD:
                member.rekey(ike=event.do is Action.REKEY_IKE)
            case Action.DETACH:
                await member.detach()

    def _talk(self, member: Member, event: FleetEvent) -> None:
        assert event.seconds is not None
        if event.kind is TalkKind.ECHO:
            assert event.rate is not None
            member.talk(event.rate, event.seconds)
        elif sum(each.calling for each in self.members.values()) < self._file.configuration.calls_at_once:
            member.call(event.seconds)
        else:
            self.figures.outcome(CALL, TOO_MANY)

    async def _until(self, moment: float) -> bool:
        """Whether the moment has come before the end."""
        if self._ending or self._loop.time() >= moment:
            return not self._ending
        sleeper: asyncio.Future[None] = self._loop.create_future()
        self._sleepers.add(sleeper)
        alarm = None if moment == math.inf else self._loop.call_at(moment, _wake, sleeper)
        try:
            await sleeper
        finally:
            if alarm is not None:
                alarm.cancel()
            self._sleepers.discard(sleeper)
        return not self._ending

    def _end(self) -> None:
        """Nobody comes any more and nobody begins anything."""
        self._ending = True
        if self.state is not EngineState.DONE:
            self.state = EngineState.LEAVING
        for sleeper in tuple(self._sleepers):
            _wake(sleeper)
        self._turns.open()
        self._over.set()

    async def _leave(self) -> None:
        """Those with a life of their own end it themselves; the others are led out."""
        by_hand = [member for member in self.members.values() if not self._tasks]
        leaving = {*self._tasks, *(self._loop.create_task(self._lead_out(member)) for member in by_hand)}
        if leaving:
            late = await self._wait_for(leaving)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        for member in tuple(self.members.values()):
            self.figures.abandoned += 1
            member.abandon()
            self._forget(member)
        self.state = EngineState.DONE

    async def _wait_for(self, leaving: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
        """Who has not left when the time is over, or there is a hurry."""
        hurrying = self._loop.create_task(self._hurrying.wait())
        everybody = self._loop.create_task(asyncio.wait(leaving))
        interval = self._file.configuration.leave_interval
        await asyncio.wait((hurrying, everybody), timeout=interval, return_when=asyncio.FIRST_COMPLETED)
        for task in (hurrying, everybody):
            task.cancel()
        await asyncio.wait((hurrying, everybody))
        return {task for task in leaving if not task.done()}

    async def _lead_out(self, member: Member) -> None:
        await member.settled()
        await self._take_leave(member)
        self._forget(member)

    async def _take_leave(self, member: Member) -> None:
        if not member.attached:
            return
        async with self._leaving:
            with contextlib.suppress(StackError):
                await member.detach()

    def _forget(self, member: Member) -> None:
        if self.members.pop(member.index, None) is not None:
            member.end_talk()
            self.figures.done += 1

    # --- UEs one by one

    def member(self, index: int, persona: str = DEFAULT_PERSONA) -> Member:
        """A UE that somebody else steers, made when it is first asked for."""
        if self.state is not EngineState.IDLE:
            raise LocalError(f"the fleet is {self.state.value}")
        known = self.members.get(index)
        if known is not None and known.persona != persona and persona != DEFAULT_PERSONA:
            raise ControlError("refused", f"UE {index} is {known.persona}")
        return known or self._make(index, persona)

    def known_member(self, index: int) -> Member:
        """A UE that is there; ``ControlError`` when it is not."""
        known = self.members.get(index)
        if known is None:
            raise ControlError("not-found", f"UE {index} has not attached")
        return known

    # --- making

    def _make(self, index: int, persona: str) -> Member:
        profile = self._profile(persona)
        imsi = self._rule.imsi(index)
        k, opc = self._rule.keys(index)
        configuration = profile.configuration.model_copy(update={"imsi": imsi.digits})
        pdn = FleetPdn(
            configuration,
            swu=self._swu,
            platform=self._platform,
            recorder=self.recorder,
            usim=SoftwareUsim(imsi=imsi, k=k, opc=opc),
            temporary=MemoryTemporaryIdentityStore(),
            ike_config=replace(profile.ike_config, identity=own_identity(configuration)),
        )
        pdn.figures = self.figures
        member = Member(
            index=index,
            persona=persona,
            pdn=pdn,
            accesses=self.accesses,
            destination=self._file.configuration.destination,
            figures=self.figures,
        )
        self.members[index] = member
        self.figures.begun += 1
        return member

    def _profile(self, persona: str) -> Profile:
        known = self._profiles.get(persona)
        if known is None:
            configuration = self._file.ue(persona)
            ike_config = initiator_config(configuration, self._platform.clock.moment)
            known = self._profiles[persona] = Profile(configuration=configuration, ike_config=ike_config)
        return known

    # --- views

    def latest(self) -> FleetFigures:
        """The figures, with how many UEs are at what now."""
        states = [member.state for member in self.members.values()]
        self.figures.attaching = states.count(DeviceState.ATTACHING)
        self.figures.attached = states.count(DeviceState.ESTABLISHED)
        self.figures.waiting = self._turns.waiting
        self.figures.calling = sum(member.calling for member in self.members.values())
        return self.figures

    @property
    def memory_octets(self) -> int:
        """The most memory that the process has had; 0 where the system does not say (proc(5), VmHWM).

        getrusage would count what the parent had at the fork.
        """
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return 0


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
