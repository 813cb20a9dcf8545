"""A schedule's network with other people's nodes on it: the laboratory's stage of namespaces, its events one by one.

What a schedule commands (``move``) is an address that comes and, in the same moment, one that goes. ``lose`` picks
messages by their header and length, since charon exports no keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field

from lab.mobility.loader import load_schedule
from lab.mobility.matching import MessageLosses
from lab.mobility.namespaces import CORE, NUMBERING, Topology, topology_of
from lab.mobility.schedule import (
    AaaSlow,
    AccessEvent,
    Attach,
    Captive,
    Command,
    Event,
    GatewayEvent,
    Impair,
    Lose,
    MessageKind,
    MoveTo,
    Resume,
    Schedule,
)
from protocols.errors import StackError
from protocols.ikev2.message import decode_header
from protocols.ikev2.registry import ExchangeType
from tests.peers.processes import PeerError

CHANGE_TIMEOUT = 35.0
SWITCH_INTERVAL = 0.0005  # seconds that the wires wait for another thread; Python's own 5 ms would be in all figures
LENGTHS = {  # of INFORMATIONAL messages under AES-CBC and HMAC-SHA-256-128, octets
    MessageKind.UPDATE_REQUEST: 136,  # UPDATE_SA_ADDRESSES and NAT detection
    MessageKind.UPDATE_RESPONSE: 120,  # NAT detection; an empty INFORMATIONAL has 80
    MessageKind.LIVENESS_RESPONSE: 0,  # the next one, whatever it says
}
NON_ESP_MARKER = bytes(4)
KEEPALIVE_LENGTH = 1
RELAY_PORT = 11812
DATAGRAM_MAXIMUM = 65535


class LossesByLength(MessageLosses):
    """Knows updates of addresses without their keys: nothing else INFORMATIONAL is as long in these scenarios."""

    def __init__(self) -> None:
        super().__init__()
        self.esp: Counter[str] = Counter()
        """Packets of ESP that were seen, by access."""
        self._wanted: list[tuple[MessageKind, str | None]] = []

    def order(self, kind: MessageKind, count: int, access: str | None) -> None:
        """Lose the next ones."""
        if kind not in LENGTHS:
            raise PeerError(f"{kind.value} cannot be told without keys")
        self._wanted += [(kind, access)] * count

    def takes(self, octets: bytes, access: str) -> bool:
        """Whether this UDP payload is lost."""
        if not octets.startswith(NON_ESP_MARKER):
            self.esp[access] += len(octets) > KEEPALIVE_LENGTH
            return False
        body = octets[len(NON_ESP_MARKER) :]
        try:
            header = decode_header(body)
        except StackError:
            return False
        if header.exchange != ExchangeType.INFORMATIONAL:
            return False
        for each in self._wanted:
            kind, where = each
            asked = kind is MessageKind.UPDATE_REQUEST
            if header.response is not asked and len(body) >= LENGTHS[kind] and where in (None, access):
                self._wanted.remove(each)
                self.lost[kind.value] += 1
                return True
        return False


@dataclass(kw_only=True)
class ScheduledStage:
    """A schedule's network, carried by a thread of its own; events are called from the caller's thread."""

    schedule: Schedule
    topology: Topology
    losses: LossesByLength
    loop: asyncio.AbstractEventLoop
    on: str
    aaa_delay: float = 0.0
    """Seconds by which requests to the RADIUS server come later."""
    without: list[tuple[float, float]] = field(default_factory=list)
    """Moments (wall clock) between which the UE had no address, or nobody talked."""
    _gone: float | None = None

    def happen(self, event: Event) -> None:
        """Let it happen, now."""
        match event:
            case MoveTo(to=to):
                self.join(to)
                self.leave(self.on)
                self.on = to
            case AccessEvent(do="address-lost", access=access):
                self.leave(access)
            case AccessEvent(do="address-gained", access=access):
                self.join(access)
            case AccessEvent(do="nat-rebind", access=access):
                self.do(self.topology.rebind(access))
            case Impair(access=access, up=up, down=down):
                self.do(self.topology.impair(access, up, down))
            case Captive(access=access, captive=captive):
                self.do(self.topology.captive(access, captive))
            case GatewayEvent(address=address):
                self.do(self.topology.gateway(address, event.do == "gateway-up"))
            case Lose(message=message, count=count, access=access):
                self.do(self.topology.lose(message, count, access))
            case AaaSlow(delay=delay):
                self.aaa_delay = delay
            case Command(do="aaa-normal"):
                self.aaa_delay = 0.0
            case _:
                raise PeerError(f"{event.do} does not happen to a network")

    def do(self, change: Coroutine[object, object, None]) -> None:
        """On the wires' loop."""
        asyncio.run_coroutine_threadsafe(change, self.loop).result(CHANGE_TIMEOUT)

    def leave(self, access: str) -> None:
        """Its address goes."""
        found = self.topology.accesses[access]
        began = time.time()
        # not on the wires' loop: they carry meanwhile
        if found.address.version == 4:
            self.topology.ue.delete_address(found.interface, found.address)
            found.wire.access.up = False  # not before: the UE cannot know of a wire
        else:  # whose default route does not go by itself
            asyncio.run(self.topology.present(access, False))
        if not any(each.wire.access.up for each in self.topology.accesses.values()):
            self._gone = began

    def join(self, access: str) -> None:
        """Its address comes, where it has none."""
        if not self.topology.accesses[access].wire.access.up:
            asyncio.run(self.topology.present(access, True))
        if self._gone is not None:
            self.without.append((self._gone, time.time()))
            self._gone = None

    def taken(self) -> int:
        """Packets that accesses have lost by their quality."""
        accesses = (each.wire.access for each in self.topology.accesses.values())
        return sum(access.dropped["outbound-lost"] + access.dropped["inbound-lost"] for access in accesses)

    def elsewhere(self) -> int:
        """Packets of ESP on accesses other than the one that the UE attached on."""
        return sum(count for access, count in self.losses.esp.items() if access != first_access(self.schedule))

    @contextlib.contextmanager
    def radius_relay(self, port: int) -> Iterator[int]:
        """What comes to the port that this gives goes to ``port`` of the core, ``aaa_delay`` later."""
        outside = self.topology.core.call(lambda: _bound(RELAY_PORT))
        inside = self.topology.core.call(lambda: _bound(0))
        clients: list[tuple[str, int]] = []

        def ask() -> None:
            octets, client = outside.recvfrom(DATAGRAM_MAXIMUM)
            clients[:] = [client]
            self.loop.call_later(self.aaa_delay, inside.sendto, octets, (str(CORE.ip), port))

        def answer() -> None:
            outside.sendto(inside.recv(DATAGRAM_MAXIMUM), clients[0])

        async def watch() -> None:
            self.loop.add_reader(outside, ask)
            self.loop.add_reader(inside, answer)

        async def end() -> None:
            for each in (outside, inside):
                self.loop.remove_reader(each)
                each.close()

        self.do(watch())
        try:
            yield RELAY_PORT
        finally:
            self.do(end())


def _bound(port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((str(CORE.ip), port))
    opened.setblocking(False)
    return opened


def overlap(periods: Sequence[tuple[float, float]], begin: float, end: float) -> float:
    """Seconds between two moments that are in any of the periods."""
    covered, reached = 0.0, begin
    for first, last in sorted(periods):
        covered += max(0.0, min(last, end) - max(first, reached))
        reached = max(reached, last)
    return covered


def first_access(schedule: Schedule) -> str:
    """Where the UE attaches."""
    attach = next(event for event in schedule.events if isinstance(event, Attach))
    return attach.access or schedule.first_access


@contextlib.contextmanager
def scheduled_stage(name: str) -> Iterator[ScheduledStage]:
    """The network of a schedule as at its beginning: accesses that are moved to later are not there yet."""
    schedule = load_schedule(name).schedule
    first = first_access(schedule)
    later = {event.to for event in schedule.events if isinstance(event, MoveTo | Resume)} - {first}
    accesses = {
        name: section.model_copy(update={"present": section.present and name not in later})
        for name, section in schedule.accesses.items()
    }
    schedule = schedule.model_copy(update={"accesses": accesses})
    losses = LossesByLength()
    ready, over = threading.Event(), threading.Event()
    interval = sys.getswitchinterval()
    made: list[tuple[Topology, asyncio.AbstractEventLoop]] = []
    failure: list[BaseException] = []

    async def carry() -> None:
        with topology_of(schedule, NUMBERING.places(schedule), schedule.seed, losses) as topology:
            loop = asyncio.get_running_loop()
            made.append((topology, loop))
            ready.set()
            await loop.run_in_executor(None, over.wait)

    def run() -> None:
        try:
            asyncio.run(carry())
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread, nothing is swallowed
            failure.append(error)
            ready.set()

    thread = threading.Thread(target=run, name="wires")
    thread.start()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        ready.wait()
        if failure:
            raise failure[0]
        ((topology, loop),) = made
        yield ScheduledStage(schedule=schedule, topology=topology, losses=losses, loop=loop, on=first)
    finally:
        sys.setswitchinterval(interval)
        over.set()
        thread.join()
