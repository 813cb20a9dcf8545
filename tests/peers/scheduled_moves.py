"""The laboratory's schedules at Debian's strongSwan as gateway: our UE and charon's, by what happens to the network.

The stage is the laboratory's of namespaces (wires, NATs, both gateway addresses), with charon and hostapd in place
of our gateway and AAA server. A UE is told nothing: what a schedule commands (``move``) is for both an address that
comes and, in the same moment, one that goes. Ping runs through the tunnel. ``lose`` picks messages by their header and
length, since charon exports no keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from lab.mobility.loader import load_schedule
from lab.mobility.matching import MessageLosses
from lab.mobility.namespaces import CORE, INNER, NUMBERING, Topology, topology_of
from lab.mobility.schedule import (
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
    Schedule,
)
from lab.namespaces import HOST_BEHIND_GATEWAY
from protocols.errors import StackError
from protocols.ikev2.message import decode_header
from protocols.ikev2.registry import ExchangeType
from tests.peers.certificates import CertificateAuthority
from tests.peers.hostapd import Hostapd, Subscriber, aka_users, password_user
from tests.peers.moves import (
    APN,
    CHARON_DPD,
    CHARON_RETRANSMISSION,
    FQDN,
    IMSI,
    OPC,
    PASSWORD,
    PATIENCE,
    CharonUe,
    K,
    Measured,
    Mover,
    OurUe,
)
from tests.peers.node_process import NodeProcess
from tests.peers.ping_flow import PingFlow
from tests.peers.processes import PeerError, wait_until
from tests.peers.strongswan import Charon, gateway_connections, ue_connection
from tests.peers.strongswan_scene import UE

PLAYED = (
    "walk-home",
    "lift",
    "flapping-wifi",
    "nat-reboot",
    "silent-path",
    "gateway-failover",
    "lost-update",
    "lost-response",
    "a-b-a-outstanding",
)
LEAD = 1.0  # seconds of undisturbed traffic before the first event, in place of the schedule's own
TAIL = 3.0  # and so many after the last one
INTERVAL = 0.01  # seconds between two echo requests
CAUSE = 1.5  # a silence that begins no longer after an event has to do with it
SETTLED = 30  # answers without a break: the traffic is back
UPDATE_REQUEST_MINIMUM = 136  # octets of UPDATE_SA_ADDRESSES and NAT detection under AES-CBC and HMAC-SHA-256-128
UPDATE_RESPONSE_MINIMUM = 120  # NAT detection; an empty INFORMATIONAL has 80
NON_ESP_MARKER = bytes(4)


class LossesByLength(MessageLosses):
    """Knows updates of addresses without their keys: nothing else INFORMATIONAL is as long in these scenarios."""

    def __init__(self) -> None:
        super().__init__()
        self._wanted: dict[MessageKind, int] = {}

    def order(self, kind: MessageKind, count: int, access: str | None) -> None:
        """Lose the next ones; only updates are known."""
        if kind not in (MessageKind.UPDATE_REQUEST, MessageKind.UPDATE_RESPONSE):
            raise PeerError(f"{kind.value} cannot be told without keys")
        self._wanted[kind] = count

    def takes(self, octets: bytes, access: str) -> bool:
        """Whether this UDP payload is lost."""
        if not self._wanted or not octets.startswith(NON_ESP_MARKER):
            return False
        body = octets[len(NON_ESP_MARKER) :]
        try:
            header = decode_header(body)
        except StackError:
            return False
        kind = MessageKind.UPDATE_RESPONSE if header.response else MessageKind.UPDATE_REQUEST
        minimum = UPDATE_RESPONSE_MINIMUM if header.response else UPDATE_REQUEST_MINIMUM
        left = self._wanted.get(kind, 0)
        if header.exchange != ExchangeType.INFORMATIONAL or len(body) < minimum or not left:
            return False
        self._wanted[kind] = left - 1
        self.lost[kind.value] += 1
        return True


# --- the stage ------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class ScheduledStage:
    """A schedule's network, carried by a thread of its own; events are called from the caller's thread."""

    schedule: Schedule
    topology: Topology
    loop: asyncio.AbstractEventLoop
    on: str
    without: list[tuple[float, float]] = field(default_factory=list)
    """Moments (wall clock) between which the UE had no address."""
    _gone: float | None = None

    def happen(self, event: Event) -> None:
        """Let it happen, now."""
        match event:
            case MoveTo(to=to):
                self._join(to)
                self._leave(self.on)
                self.on = to
            case AccessEvent(do="address-lost", access=access):
                self._leave(access)
            case AccessEvent(do="address-gained", access=access):
                self._join(access)
            case AccessEvent(do="nat-rebind", access=access):
                self._do(self.topology.rebind(access))
            case Impair(access=access, up=up, down=down):
                self._do(self.topology.impair(access, up, down))
            case Captive(access=access, captive=captive):
                self._do(self.topology.captive(access, captive))
            case GatewayEvent(address=address):
                self._do(self.topology.gateway(address, event.do == "gateway-up"))
            case Lose(message=message, count=count, access=access):
                self._do(self.topology.lose(message, count, access))
            case _:
                raise PeerError(f"{event.do} does not happen to a network")

    def _do(self, change: Coroutine[object, object, None]) -> None:
        """On the wires' loop."""
        asyncio.run_coroutine_threadsafe(change, self.loop).result(PATIENCE)

    def _leave(self, access: str) -> None:
        began = time.time()
        self._do(self.topology.present(access, False))
        if not any(each.wire.access.up for each in self.topology.accesses.values()):
            self._gone = began

    def _join(self, access: str) -> None:
        self._do(self.topology.present(access, True))
        if self._gone is not None:
            self.without.append((self._gone, time.time()))
            self._gone = None


@contextlib.contextmanager
def scheduled_stage(schedule: Schedule) -> Iterator[ScheduledStage]:
    """The network of a schedule as at its beginning: accesses that are moved to later are not there yet."""
    attach = next(event for event in schedule.events if isinstance(event, Attach))
    first = attach.access or schedule.first_access
    later = {event.to for event in schedule.events if isinstance(event, MoveTo)} - {first}
    accesses = {
        name: section.model_copy(update={"present": section.present and name not in later})
        for name, section in schedule.accesses.items()
    }
    schedule = schedule.model_copy(update={"accesses": accesses})
    ready, over = threading.Event(), threading.Event()
    made: list[tuple[Topology, asyncio.AbstractEventLoop]] = []
    failure: list[BaseException] = []

    async def carry() -> None:
        with topology_of(schedule, NUMBERING.places(schedule), schedule.seed, LossesByLength()) as topology:
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
    try:
        ready.wait()
        if failure:
            raise failure[0]
        ((topology, loop),) = made
        yield ScheduledStage(schedule=schedule, topology=topology, loop=loop, on=first)
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def charon_gateway_on(stage: ScheduledStage, authority: CertificateAuthority) -> Iterator[None]:
    """charon on all the gateway's addresses, hostapd in the core."""
    topology = stage.topology
    for address in topology.places.gateways.values():  # charon tells UEs of no address that is on loopback
        topology.epdg.delete_address("lo", f"{address}/32")
        topology.epdg.add_address("core", f"{address}/32")
    # kernel-libipsec wants an address of its own in the local selector
    topology.epdg.add_address("lo", f"{HOST_BEHIND_GATEWAY}/32")
    users = (*aka_users(), password_user(UE, PASSWORD))
    with Hostapd(topology.core, users=users, subscribers={IMSI: Subscriber(k=K, opc=OPC)}) as radius:
        configuration = gateway_connections(
            address=", ".join(map(str, topology.places.gateways.values())),
            identities=[FQDN, APN],
            credentials=authority.issue(names=[FQDN, APN]),
            authorities=[authority.credentials.certificate_pem],
            radius=radius.radius_server(CORE.ip),
            pool=INNER,
            local_selectors=[f"{HOST_BEHIND_GATEWAY}/32"],
            esp_proposals="aes128gcm16",
            settings={"interfaces_use": "core"},
        )
        with Charon(topology.epdg, configuration):
            yield


@contextlib.contextmanager
def scheduled_ue(kind: str, stage: ScheduledStage, authority: CertificateAuthority) -> Iterator[Mover]:
    """Ours, which manages its connection, or charon."""
    topology = stage.topology
    if kind == CharonUe.name:
        configuration = ue_connection(
            gateway=next(iter(topology.places.gateways.values())),
            gateway_identity=FQDN,
            identity=UE,
            password=PASSWORD,
            authorities=[authority.credentials.certificate_pem],
            remote_selectors=[f"{HOST_BEHIND_GATEWAY}/32"],
            dpd_delay=CHARON_DPD,
            settings=CHARON_RETRANSMISSION,
        )
        with Charon(topology.ue, configuration) as charon:
            yield CharonUe(charon)
        return
    with tempfile.TemporaryDirectory(prefix="mover-") as directory:
        (Path(directory) / "ca.pem").write_bytes(authority.credentials.certificate_pem)
        settings: dict[str, object] = {
            "imsi": IMSI,
            "plmn": {"mcc": "001", "mnc": "01"},
            "usim": {"k": K.hex(), "opc": OPC.hex()},
            "apn": APN,
            "gateway": {"address": str(next(iter(topology.places.gateways.values()))), "ca": "ca.pem"},
            "accesses": {name: {"interface": each.interface} for name, each in topology.accesses.items()},
            "management": {**_management(stage.schedule), "automatic": True},
            "algorithms": {"ike": ["aes128-sha256-x25519"], "esp": ["aes128gcm16"]},
            "data_plane": {"kind": "tun", "routes": [f"{HOST_BEHIND_GATEWAY}/32"]},
        }
        with NodeProcess(topology.ue, "ue", Path(directory), settings, verb="run") as node:
            yield OurUe(node, stage.on)


def _management(schedule: Schedule) -> dict[str, object]:
    """The schedule's, with its order of accesses spelt out: the file that the UE reads has them sorted by name."""
    section = schedule.ue.get("management", {})
    return {"prefer": list(schedule.accesses), **(section if isinstance(section, dict) else {})}


# --- playing --------------------------------------------------------------------------------------------------


def play(name: str, kind: str, patience: float = PATIENCE) -> Measured:
    """A shipped schedule with a UE at charon's gateway: its longest silence, and what was lost in all."""
    schedule = load_schedule(name).schedule
    authority = CertificateAuthority()
    with (
        scheduled_stage(schedule) as stage,
        charon_gateway_on(stage, authority),
        scheduled_ue(kind, stage, authority) as mover,
    ):
        return _measure(stage, mover, patience)


def _measure(stage: ScheduledStage, mover: Mover, patience: float) -> Measured:
    events = [event for event in stage.schedule.events if not isinstance(event, Attach)]
    if any(isinstance(event, Command) for event in events):
        raise PeerError("commands to the UE are not the network's")
    inner = mover.attach()
    with PingFlow(stage.topology.ue, HOST_BEHIND_GATEWAY, source=inner, interval=INTERVAL) as flow:
        flow.wait_answers(SETTLED)
        began = time.time()
        happened: list[float] = []
        for event in events:
            time.sleep(max(0.0, began + LEAD + event.at - events[0].at - time.time()))  # the schedule's own time
            happened.append(time.time())
            stage.happen(event)
        last = time.time()

        def back() -> bool:
            """After a while in which silence shows, there is traffic without a break."""
            recent = [moment for _, moment in flow.answers if moment > time.time() - 4 * SETTLED * INTERVAL]
            return time.time() > last + TAIL and len(recent) >= SETTLED

        try:
            wait_until(back, what="the traffic coming back", timeout=patience)
            returned = True
        except PeerError:
            returned = False
    moments = [moment for _, moment in flow.answers]
    answered = len({number for number, _ in flow.answers})
    silence = max(
        (
            later - earlier - INTERVAL - _overlap(stage.without, earlier, later)
            for earlier, later in pairwise(moments)
            if any(earlier - CAUSE < moment < later for moment in happened)
        ),
        default=0.0,
    )
    silences = (max(0.0, silence) if returned else None,)
    return Measured(silences=silences, sent=answered + flow.lost, lost=flow.lost)


def _overlap(periods: Sequence[tuple[float, float]], begin: float, end: float) -> float:
    return sum(max(0.0, min(last, end) - max(first, begin)) for first, last in periods)
