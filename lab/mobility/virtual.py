"""The virtual stage: all nodes in this process on virtual time; a run depends on its schedule and seed alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from lab.mobility.accesses import Numbering, access_machines, change_quality, nat_machine
from lab.mobility.matching import MessageLosses
from lab.mobility.schedule import DirectionSection, MessageKind, NatSection, Schedule
from lab.mobility.stage import Scene, Voice
from lab.mobility.stage_name import NatName, StageName
from lab.mobility.voices import NodeVoice
from lab.network.access import AccessNetwork
from lab.virtual.loop import VirtualLoop
from lab.virtual.nodes import VirtualControl
from lab.virtual.world import CORE_HOST, VirtualWorld
from protocols.path import Address
from protocols.trace.records import Kind, TraceRecord

NUMBERING = Numbering(
    access4="10.{}.0.2",
    access6="2001:db8:{}::2",
    outside="198.51.100.{}",
    gateway4="203.0.113.{}",
    gateway6="2001:db8:ffff::{}",
)
KINDS = (Kind.EVENT, Kind.MESSAGE, Kind.KEYS)

T = TypeVar("T")


class VirtualStage:
    """Virtual time in this process."""

    name = StageName.VIRTUAL
    nat = NatName.LAB
    real_time = False

    def perform(self, schedule: Schedule, seed: int, work: Callable[[Scene], Awaitable[T]]) -> T:
        """A world of its own for each run."""
        return VirtualLoop().run(self._main(schedule, seed, work))

    async def _main(self, schedule: Schedule, seed: int, work: Callable[[Scene], Awaitable[T]]) -> T:
        places = NUMBERING.places(schedule)
        accesses = access_machines(schedule, places.accesses, places.outsides)
        world = VirtualWorld(
            seed=seed,
            accesses=tuple(accesses.values()),
            gateways=tuple(places.gateways.values()),
            changes={"ue": places.ue_changes(schedule), "epdg": schedule.epdg, "aaa": schedule.aaa},
            export_keys=True,
        )
        async with world:
            scene = VirtualScene(world, VirtualNetworkControl(world, places.gateways, places.outsides))
            try:
                return await work(scene)
            finally:
                await scene.close()


class VirtualNetworkControl:
    """Changes to the accesses' machines hold at once."""

    def __init__(self, world: VirtualWorld, gateways: dict[str, Address], outsides: dict[str, Address]) -> None:
        self._world = world
        self.gateways = gateways
        self._outsides = outsides
        self.losses = MessageLosses()
        world.network.losses.append(self._loses)

    def _loses(self, octets: bytes, access: AccessNetwork) -> bool:
        return self.losses.takes(octets, access.name)

    async def present(self, access: str, present: bool) -> None:
        """There or not."""
        self._world.accesses[access].up = present

    async def captive(self, access: str, captive: bool) -> None:
        """Swallows everything or not."""
        self._world.accesses[access].captive = captive

    async def impair(self, access: str, up: DirectionSection | None, down: DirectionSection | None) -> None:
        """Another quality."""
        change_quality(self._world.accesses[access], up, down)

    async def rebind(self, access: str) -> None:
        """The NAT restarts."""
        nat = self._world.accesses[access].nat
        if nat is not None:
            nat.rebind()

    async def translate(self, access: str, nat: NatSection) -> None:
        """Another NAT or none."""
        self._world.accesses[access].nat = nat_machine(nat, self._outsides[access])

    async def gateway(self, address: str, up: bool) -> None:
        """Reachable or not."""
        self._world.network.set_host(self.gateways[address], up=up)

    async def lose(self, message: MessageKind, count: int, access: str | None) -> None:
        """The next ones vanish."""
        self.losses.order(message, count, access)

    def lost(self) -> dict[str, int]:
        """By kind."""
        return dict(self.losses.lost)


class VirtualScene:
    """A virtual world as the player wants it."""

    tells_accesses = True

    def __init__(self, world: VirtualWorld, network: VirtualNetworkControl) -> None:
        self._world = world
        self.network = network
        self.ue, self.epdg, self.aaa = world.ue, world.epdg, world.aaa
        self._takers: list[Callable[[TraceRecord], None]] = [network.losses.learn]
        loop = asyncio.get_running_loop()
        self._followers = [loop.create_task(self._follow(node)) for node in (world.ue, world.epdg)]

    async def close(self) -> None:
        """Follow no more."""
        for follower in self._followers:
            follower.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)

    async def _follow(self, node: VirtualControl) -> None:
        async for record in node.subscribe(None, KINDS):
            for taker in self._takers:
                taker(record)

    def now(self) -> float:
        """The nodes' wall clock."""
        return self._world.clock.wall()

    async def sleep_until(self, moment: float) -> None:
        """Time passes as far as that."""
        await self._world.sleep_until(self._world.now() + moment - self.now())

    def records(self) -> Sequence[TraceRecord]:
        """Of UE and gateway."""
        traces = (*self._world.ue.trace, *self._world.epdg.trace)
        return [record for record in traces if record.kind in (Kind.EVENT, Kind.MESSAGE)]

    def on_record(self, taker: Callable[[TraceRecord], None]) -> None:
        """From now on."""
        self._takers.append(taker)

    def gateway_named(self, address: str) -> str | None:
        """By the schedule's name."""
        return next((name for name, each in self.network.gateways.items() if str(each) == address), None)

    async def voice(self, rate: float) -> Voice:
        """Between the UE and the host behind the gateway."""
        return await NodeVoice.start(self.ue, self.epdg, str(CORE_HOST), rate)

    async def leaks(self) -> list[str]:
        """What the world finds in the nodes themselves."""
        return await self._world.leaks()
