"""What a schedule needs of the place where it is played, so that one player serves every stage.

A ``Stage`` opens a ``Scene``: three nodes with their control methods, a network that can be changed, a clock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lab.mobility.schedule import DirectionSection, MessageKind, NatSection, Schedule
from lab.mobility.stage_name import NatName, StageName
from protocols.trace.records import JsonValue, TraceRecord

T = TypeVar("T")


class Client(Protocol):
    """Speaks to a node as ``protocols.io.control.ControlClient`` does."""

    async def call(self, method: str, /, **params: JsonValue) -> JsonValue:
        """The result; ``ControlError`` or ``BackendError`` in one sentence."""


class Network(Protocol):
    """What can happen to the accesses of the UE and to the gateway's addresses, by their names in the schedule."""

    async def present(self, access: str, present: bool) -> None:
        """The access is there, or gone with its address."""

    async def captive(self, access: str, captive: bool) -> None:
        """The access swallows everything, or does so no more."""

    async def impair(self, access: str, up: DirectionSection | None, down: DirectionSection | None) -> None:
        """Another quality of a direction; ``None`` leaves it."""

    async def rebind(self, access: str) -> None:
        """The access's NAT restarts: it forgets its mappings and makes others."""

    async def translate(self, access: str, nat: NatSection) -> None:
        """Another NAT, or none, behind the access."""

    async def gateway(self, address: str, up: bool) -> None:
        """An address of the gateway can be reached, or not."""

    async def lose(self, message: MessageKind, count: int, access: str | None) -> None:
        """The next messages of a kind vanish."""

    def lost(self) -> dict[str, int]:
        """How many messages of each kind ``lose`` has taken."""


@dataclass(frozen=True, kw_only=True)
class VoiceLogs:
    """What both ends of a voice stream have noted: sequence numbers and moments of the scene's clock."""

    uplink_sent: Sequence[tuple[int, float]]
    uplink_received: Sequence[tuple[int, float]]
    downlink_sent: Sequence[tuple[int, float]]
    downlink_received: Sequence[tuple[int, float]]


class Voice(Protocol):
    """A voice stream through the tunnel, both ways."""

    async def stop(self) -> None:
        """Send no more; again is harmless."""

    async def logs(self) -> VoiceLogs:
        """What was sent and what was received so far."""


class Scene(Protocol):
    """An open stage, its nodes running, nobody attached."""

    @property
    def ue(self) -> Client:
        """The UE."""

    @property
    def epdg(self) -> Client:
        """The gateway."""

    @property
    def aaa(self) -> Client:
        """The AAA server."""

    @property
    def network(self) -> Network:
        """What can be done to the network."""

    @property
    def tells_accesses(self) -> bool:
        """Whether the UE has to be told that an address has come or gone, since nothing else tells it."""

    def now(self) -> float:
        """The clock of the nodes' records and measures: wall-clock seconds."""

    async def sleep_until(self, moment: float) -> None:
        """Return at a moment of ``now``."""

    def records(self) -> Sequence[TraceRecord]:
        """Events and messages of all nodes so far, each node's in order."""

    def on_record(self, taker: Callable[[TraceRecord], None]) -> None:
        """``taker`` gets every event and message from now on."""

    def gateway_named(self, address: str) -> str | None:
        """The schedule's name of an address of the gateway."""

    async def voice(self, rate: float) -> Voice:
        """Begin to talk."""

    async def leaks(self) -> list[str]:
        """What the stage itself finds left over, beside what the nodes say of themselves."""


class Stage(Protocol):
    """A kind of place."""

    @property
    def name(self) -> StageName:
        """What results call it."""

    @property
    def nat(self) -> NatName:
        """What its NATs are."""

    @property
    def real_time(self) -> bool:
        """Whether time is that of the machine, and processes take their share of it."""

    def perform(self, schedule: Schedule, seed: int, work: Callable[[Scene], Awaitable[T]]) -> T:
        """Open a scene for the schedule, do ``work`` in it, leave nothing behind; ``BackendError`` if it cannot."""
