"""One UE of a fleet: a PDN connection of the UE emulator's own, what it is told to do, and what came of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from lab.fleet.figures import SUCCESS, FleetFigures, Latency
from lab.fleet.schedule import NEXT_ACCESS, is_place
from lab.fleet.talk import VOICE_RATE, Call, EchoTalk, Talk, TalkScore
from protocols.dataplane.userspace.clients import StreamKind
from protocols.dataplane.userspace.host import FlowKind
from protocols.errors import LocalError, StackError
from protocols.ikev2.events import Closed, Event, SaState
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.io.control import ControlError
from protocols.path import Address, Endpoint, Path
from ue.context import DeviceState
from ue.pdn import Pdn

_log = logging.getLogger(__name__)

ATTACH, MOVE, DETACH, SUSPEND, REKEY = "attach", "move", "detach", "suspend", "rekey"


class FleetPdn(Pdn):
    """A PDN connection whose defects are its own: nothing it raises reaches the UEs that share its sockets."""

    figures: FleetFigures  # set by whoever makes it

    def ike_event(self, sa: IkeSa, event: Event) -> None:
        """As ``Pdn``; a connection that ends unasked is counted."""
        before, connection = self.device.state, self.device.connection
        try:
            super().ike_event(sa, event)
        except Exception:  # noqa: BLE001 - the top loop of one UE among thousands
            self._broken("an event of its IKE SA")
            return
        if before is DeviceState.ESTABLISHED and isinstance(event, Closed) and connection is not None:
            over = self.device.connection is not connection or self.device.state is DeviceState.CLOSED
            if over and not connection.detach_requested:
                self.figures.connection_lost("ended by the gateway" if event.by_peer else "no response")

    def receive_esp(self, octets: bytes, path: Path, traffic_class: int = 0) -> None:
        """As ``Pdn``, but deaf on accesses that this UE has left, whose sockets are open for others."""
        if not self.listens(path.local):
            self.figures.stray_esp += 1
            return
        try:
            super().receive_esp(octets, path, traffic_class)
        except Exception:  # noqa: BLE001 - as above
            self._broken("an ESP packet")

    def listens(self, local: Endpoint) -> bool:
        """Whether this UE is on the access of a socket."""
        device = self.device
        found = (device.ports(name) for name in device.open_accesses)
        return any(local in (ports.nat_traversal, ports.ike) for ports in found)

    def _broken(self, what: str) -> None:
        self.figures.failed += 1
        _log.exception("UE %s failed at %s", self.configuration.imsi, what)
        sa = self.sa
        if sa is not None and sa.state is SaState.ESTABLISHED:
            self._swu.endpoint.initiate(sa, DeleteIkeSa("a defect of the UE"), self._swu.now())
        elif sa is not None:
            self._swu.endpoint.close(sa, "a defect of the UE", self._swu.now())


class Member:
    """A UE by its index; made when it arrives, gone when it is done."""

    def __init__(
        self,
        *,
        index: int,
        persona: str,
        pdn: FleetPdn,
        accesses: Sequence[str],
        destination: Address | None,
        figures: FleetFigures,
    ) -> None:
        self.index = index
        self.persona = persona
        self.pdn = pdn
        self.access = accesses[0]
        self.gathered = False  # whether its first attach is over, well or not
        self._accesses = accesses
        self._destination = destination
        self._figures = figures
        self._loop = asyncio.get_running_loop()
        self._talk: Talk | None = None
        self._settled = asyncio.Event()  # no attach is under way
        self._settled.set()

    @property
    def state(self) -> DeviceState:
        """Where its connection is."""
        return self.pdn.device.state

    @property
    def attached(self) -> bool:
        """Whether it has a connection."""
        return self.state is DeviceState.ESTABLISHED

    async def attach(self, to: str | None = None) -> float:
        """Seconds it took; ``StackError`` when it was refused, which is counted."""
        access = self._resolve(to) if to is not None else self.access
        begun = self._loop.time()
        self._settled.clear()
        try:
            await self.pdn.attach(access)
        except StackError as error:
            self._figures.outcome(ATTACH, self._attach_cause(error), self.persona)
            raise
        finally:
            self._settled.set()
        seconds = self._loop.time() - begun
        self.access = access
        self._figures.outcome(ATTACH, SUCCESS, self.persona)
        self._figures.latencies[Latency.ATTACH].add(seconds)
        return seconds

    async def settled(self) -> None:
        """Return when an attach that is under way has come to an end, either way."""
        await self._settled.wait()

    async def move(self, to: str | None = None) -> float:
        """Seconds until the gateway agreed; ``StackError`` when it did not, which is counted."""
        target = self._resolve(to or NEXT_ACCESS)
        begun = self._loop.time()
        try:
            await self.pdn.move(target)
        except StackError as error:
            self._figures.outcome(MOVE, "not possible" if isinstance(error, LocalError) else self._move_cause())
            raise
        seconds = self._loop.time() - begun
        self.access = target
        self._figures.outcome(MOVE, SUCCESS)
        self._figures.latencies[Latency.MOVE].add(seconds)
        return seconds

    async def detach(self) -> float:
        """Seconds until the gateway answered; ``StackError`` when there was nothing to detach from."""
        self.end_talk()
        begun = self._loop.time()
        connection = self.pdn.device.connection
        await self.pdn.detach()
        seconds = self._loop.time() - begun
        answered = self.pdn.device.connection is connection and (connection is None or connection.last_error is None)
        self._figures.outcome(DETACH, SUCCESS if answered else "no response")
        self._figures.latencies[Latency.DETACH].add(seconds)
        return seconds

    def suspend(self) -> None:
        """Leave every access until the next move."""
        self.pdn.suspend()
        self._figures.outcome(SUSPEND, SUCCESS)

    def rekey(self, *, ike: bool) -> None:
        """Begin to rekey the IKE SA, or all child SAs."""
        if ike:
            self.pdn.rekey_ike()
        else:
            self.pdn.rekey_child()
        self._figures.outcome(REKEY, "begun")

    @property
    def calling(self) -> bool:
        """Whether it is in a voice call."""
        return self._talk is not None and self._talk.calling

    def talk(self, rate: float, seconds: float) -> EchoTalk:
        """Echo requests for a while."""
        self.end_talk()
        flow = self.pdn.start_traffic(FlowKind.ICMP, self._whom(), rate)
        talk = self._talk = EchoTalk(flow, seconds, self._figures)
        return talk

    def call(self, seconds: float) -> None:
        """A voice call of so many seconds."""
        self.end_talk()
        flow = self.pdn.start_traffic(StreamKind.VOICE, self._whom(), VOICE_RATE)
        self._talk = Call(flow, seconds, self._figures)

    async def talked(self, rate: float, seconds: float) -> TalkScore:
        """As ``talk``; returns with the score."""
        talk = self.talk(rate, seconds)
        await talk.ended.wait()
        return talk.score

    def end_talk(self) -> None:
        """Talk no more."""
        if self._talk is not None:
            self._talk.end()
            self._talk = None

    def _whom(self) -> Address:
        if self._destination is None:
            raise LocalError("the fleet has no destination to talk to")
        return self._destination

    def abandon(self) -> None:
        """The time is over: let go without a word."""
        self.end_talk()
        self.pdn.close()
        self.pdn.tunnel.stop_host()

    def _resolve(self, to: str) -> str:
        if to == NEXT_ACCESS:
            return self._accesses[(self._accesses.index(self.access) + 1) % len(self._accesses)]
        if to not in self._accesses and is_place(to):
            return self._accesses[(int(to) - 1) % len(self._accesses)]
        if to not in self._accesses:
            raise ControlError("not-found", f"there is no access {to}; known are {', '.join(self._accesses)}")
        return to

    def _attach_cause(self, error: StackError) -> str:
        device = self.pdn.device
        if isinstance(error, LocalError):
            return "back-off" if device.back_off is not None else "not possible"
        last = None if device.connection is None else device.connection.last_error
        return "unknown" if last is None else last[0]

    def _move_cause(self) -> str:
        connection = self.pdn.device.connection
        moves = [] if connection is None else connection.moves
        return moves[-1].why or moves[-1].outcome.value if moves else "no response"
