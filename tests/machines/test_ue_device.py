"""The UE's device on virtual time: real IKE at both ends, the real EAP-AKA server behind the gateway."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

import pytest

from aaa.subscribers.laboratory import laboratory_subscriber
from aaa.subscribers.subscriber import Subscriber
from protocols.algorithms.milenage import Milenage
from protocols.algorithms.sqn import IND_BITS, IND_COUNT, SqnWindow, compose, seq_of
from protocols.algorithms.vector import AkaVector, generate_vector, verify_auts
from protocols.eap.aka import server as eap
from protocols.eap.packet import EapCode, EapPacket
from protocols.entropy import SeededEntropy
from protocols.errors import LocalError
from protocols.ikev2.config import InitiatorConfig, ResponderConfig
from protocols.ikev2.endpoint import IkeEndpoint
from protocols.ikev2.events import (
    AddressesUpdated,
    ChildSaRemoved,
    ConfigurationExchanged,
    ConfigurationReply,
    ConfigurationRequested,
    EapReply,
    EapResponseReceived,
    Event,
    IdentityReceived,
    IkeSaRekeyed,
    MessageReceived,
    NatStatus,
    PathSuspected,
    PathValidated,
    Refusal,
    SaState,
)
from protocols.ikev2.fragment import Fragment
from protocols.ikev2.message import Header, Message
from protocols.ikev2.payloads import ConfigurationAttribute, IdiPayload, NotifyPayload
from protocols.ikev2.registry import ConfigAttributeType, IdType, NotifyType
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.sealer import MessageSealer
from protocols.ikev2.tasks.informational import DeleteChildSa, DeleteIkeSa
from protocols.names import Resolution
from protocols.path import Address, Datagram, Endpoint, Path
from protocols.secret import Secret
from protocols.selectors import TrafficSelector
from protocols.threegpp.causes import PrivateNotify
from protocols.threegpp.identity import Nai
from protocols.threegpp.swu import DeviceSwu, GatewaySwu
from tests.harness.certificates import make_pki
from tests.harness.pair import initiator_config, responder_config
from ue.commands import (
    AccessPorts,
    AdoptSuccessor,
    AnswerIke,
    AnswerSuccessor,
    AskUsim,
    CloseAccess,
    Command,
    Connect,
    ConnectSuccessor,
    DeleteSa,
    DropSuccessor,
    ExpectChildSa,
    Finished,
    InstallChildSa,
    MoveSa,
    OpenAccess,
    RemoveChildSa,
    Resolve,
    StartHost,
    StopHost,
    SuspendSa,
    Tell,
    UpdateChildSa,
    UseAddresses,
)
from ue.connection import Move, MoveOutcome
from ue.context import DeviceState
from ue.device import Device
from ue.retry import RetryPolicy
from ue.selection import Barred, Selection, SelectionPolicy
from ue.usim import MemorySqnStore, SoftwareUsim

USER = laboratory_subscriber(1)
NAI = str(Nai.root(USER.imsi, USER.imsi.plmn(2)))
GATEWAY = Endpoint.of("203.0.113.1", 500)
GATEWAY_NATT = Endpoint.of("203.0.113.1", 4500)
OTHER_GATEWAY = IPv4Address("203.0.113.2")
INNER, DNS, P_CSCF = IPv4Address("10.45.0.2"), IPv4Address("10.45.0.1"), IPv4Address("10.45.0.3")
ACCESSES = {
    "a": "192.0.2.1",
    "b": "198.51.100.1",
    "deaf": "198.51.100.99",
    "taken": "192.0.2.77",
    "v6": "2001:db8:c::1",
}
LATENCY = 0.010
IMEI = "356938035643809"


class Unwilling:
    """A gateway's sealer that turns its first response into N(UNACCEPTABLE_ADDRESSES)."""

    def __init__(self, sealer: MessageSealer) -> None:
        self._sealer = sealer
        self._done = False

    def seal(self, message: Message) -> bytes:
        if message.response and not self._done:
            self._done = True
            message = replace(message, payloads=(NotifyPayload(type=NotifyType.UNACCEPTABLE_ADDRESSES),))
        return self._sealer.seal(message)

    def open(self, octets: bytes, header: Header) -> Message:
        return self._sealer.open(octets, header)

    def seal_fragments(self, message: Message, limit: int) -> tuple[bytes, ...]:
        return self._sealer.seal_fragments(message, limit)

    def open_fragment(self, octets: bytes, header: Header) -> Fragment:
        return self._sealer.open_fragment(octets, header)


@dataclass
class World:
    """A device with its IKE end point, and a gateway with a subscriber's EAP-AKA server behind it."""

    subscriber: Subscriber = USER
    k: Secret | None = None
    usim_window: SqnWindow = field(default_factory=SqnWindow)
    ue_config: InitiatorConfig | None = None
    gateway_config: ResponderConfig | None = None
    grant: Callable[[], ConfigurationReply | Refusal] | None = None
    host_failure: str | None = None
    rogue: bool = False
    accesses: tuple[str, ...] = ()
    p_cscf_reselection: bool = False
    reactivate: bool = True
    imei: str = IMEI
    selection: SelectionPolicy | None = None
    patience: float | None = None
    zone: dict[str, tuple[Address, ...] | str] | None = None
    retry: RetryPolicy | None = None

    def __post_init__(self) -> None:
        assert self.subscriber.opc is not None
        self.now = 0.0
        self.usim = SoftwareUsim(
            imsi=USER.imsi,
            k=self.k or self.subscriber.k,
            opc=self.subscriber.opc,
            store=MemorySqnStore(self.usim_window),
        )
        self.device = Device(
            imsi=USER.imsi,
            nai=NAI,
            apn="internet",
            gateway=GATEWAY if self.selection is None else None,
            select=None if self.selection is None else self._select,
            patience=self.patience,
            resolves=self.zone is not None,
            retry=self.retry,
            entropy=SeededEntropy("device"),
            accesses=self.accesses,
            gateways={"gw.example": OTHER_GATEWAY},
            reactivate=self.reactivate,
        )
        self.config = self.ue_config or initiator_config(
            identity=IdiPayload(id_type=IdType.ID_RFC822_ADDR, data=NAI.encode())
        )
        self.ue = IkeEndpoint(
            entropy=SeededEntropy("ue"),
            extension=lambda: DeviceSwu(
                imei=self.imei,
                server_authenticated=lambda: self.device.server_authenticated,
                p_cscf_reselection=self.p_cscf_reselection,
                only_allowed=self.device.only_allowed,
                back_off=self.device.back_off_received,
                reactivation=self.device.reactivation_received,
            ),
        )
        self.swu: list[GatewaySwu] = []
        self.gateway = IkeEndpoint(
            entropy=SeededEntropy("gateway"),
            responder=self.gateway_config or responder_config(),
            extension=self._gateway_extension,
        )
        self.server = eap.EapAkaServer(entropy=SeededEntropy("server"))
        self.sequence = compose(1, 1)
        self.open: set[Endpoint] = set()
        self.deaf = {Endpoint.of(ACCESSES["deaf"], port) for port in (500, 4500)}
        self.gateway_up = True
        self.gateway_dead: set[Address] = set()
        self.sa: IkeSa | None = None
        self.successor: IkeSa | None = None
        self.gateway_sas: list[IkeSa] = []
        self.commands: list[Command] = []
        self.questions: list[str] = []
        self.told: list[Tell] = []
        self.finished: dict[int, str | None] = {}
        self.installed: dict[bytes, Path] = {}
        self.addresses: tuple[object, ...] = ()
        self.gateway_updates = 0
        self.gateway_exchanged: list[ConfigurationExchanged] = []
        self._flying: list[tuple[float, int, str, Datagram]] = []
        self._count = 0
        self._tickets = 0

    def _select(self, version: int, barred: Barred) -> Selection:
        assert self.selection is not None
        return Selection(self.selection, version, barred)

    def _resolution(self, name: str) -> Resolution:
        found = (self.zone or {}).get(name, ())
        if isinstance(found, str):
            return Resolution(name=name, failure=found)
        return Resolution(name=name, addresses=found)

    def _gateway_extension(self) -> GatewaySwu:
        self.swu.append(GatewaySwu(request_device_identity=True))
        return self.swu[-1]

    # --- what a test says

    def ask(self, begin: Callable[[int], list[Command]], seconds: float = 5.0) -> str | None:
        """Ask the device for something and let time pass; the failure, or ``None``."""
        ticket = self.ask_only(begin)
        self.run(seconds)
        return self.finished[ticket]

    def ask_only(self, begin: Callable[[int], list[Command]]) -> int:
        """Ask the device for something."""
        self._tickets += 1
        self.carry_out(begin(self._tickets))
        return self._tickets

    def attach(self, access: str = "a", seconds: float = 5.0) -> str | None:
        return self.ask(lambda ticket: self.device.attach(access, ticket, self.now), seconds)

    def move(self, access: str, *, keep_old: bool = False, seconds: float = 5.0) -> str | None:
        return self.ask(lambda ticket: self.device.move(access, ticket, self.now, keep_old=keep_old), seconds)

    def detach(self) -> str | None:
        return self.ask(lambda ticket: self.device.detach(ticket, self.now))

    def event(self, name: str) -> Tell:
        (found,) = [told for told in self.told if told.name == name]
        return found

    # --- time and the wire

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            self._settle()
            times = [t for t in (self.ue.next_deadline(), self.gateway.next_deadline()) if t is not None]
            times += [self._flying[0][0]] if self._flying else []
            if not times or min(times) > end:
                break
            self.now = max(self.now, min(times))
            while self._flying and self._flying[0][0] <= self.now:
                _, _, sender, datagram = heapq.heappop(self._flying)
                self._arrive(sender, datagram)
            self.ue.handle_timeout(self.now)
            self.gateway.handle_timeout(self.now)
        self.now = end

    def _arrive(self, sender: str, datagram: Datagram) -> None:
        if sender == "gateway":
            if datagram.path.local in self.open - self.deaf:
                self.ue.receive(datagram, self.now)
        elif self.gateway_up and datagram.path.local.address not in self.gateway_dead:
            self.gateway.receive(datagram, self.now)

    def _settle(self) -> None:
        busy = True
        while busy:
            busy = False
            while (found := self.ue.poll_event()) is not None:
                busy = True
                self._ue_event(*found)
            while (found := self.gateway.poll_event()) is not None:
                busy = True
                self._gateway_event(*found)
            for name, endpoint in (("ue", self.ue), ("gateway", self.gateway)):
                while (datagram := endpoint.poll_transmit()) is not None:
                    busy = True
                    if name == "gateway" or datagram.path.local in self.open:
                        self._count += 1
                        arriving = Datagram(datagram.path.reversed(), datagram.payload)
                        heapq.heappush(self._flying, (self.now + LATENCY, self._count, name, arriving))

    # --- the runtime

    def _ue_event(self, sa: IkeSa, event: Event) -> None:
        if sa is self.successor:
            self.carry_out(self.device.handle_successor(event))
        elif sa is self.sa or isinstance(event, ChildSaRemoved):
            if isinstance(event, IkeSaRekeyed):
                self.sa = event.successor
            self.carry_out(self.device.handle(event, self.now))

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            self.commands.append(command)
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        device = self.device
        match command:
            case OpenAccess():
                if command.access == "taken":
                    self.carry_out(device.access_failed("taken", "the port is in use", self.now))
                    return
                address = ACCESSES[command.access]
                ports = AccessPorts(ike=Endpoint.of(address, 500), nat_traversal=Endpoint.of(address, 4500))
                self.open |= {ports.ike, ports.nat_traversal}
                self.carry_out(device.access_opened(command.access, ports, self.now))
            case CloseAccess():
                self.open -= {Endpoint.of(ACCESSES[command.access], port) for port in (500, 4500)}
            case Connect():
                gateway = GATEWAY if command.gateway is None else Endpoint(command.gateway, 500)
                path = Path(device.ports(command.access).ike, gateway)
                config = replace(
                    self.config,
                    redirected=command.trail,
                    session=command.session,
                    gateway_names=command.names or self.config.gateway_names,
                    init_patience=command.patience,
                )
                self.sa = self.ue.connect(config, path, self.now)
                self.carry_out(device.connected(self.sa.window))
            case Resolve():
                self.questions.append(command.name)
                self.carry_out(device.resolved(self._resolution(command.name), self.now))
            case ConnectSuccessor():
                path = Path(device.ports(command.access).ike, Endpoint(command.gateway, GATEWAY.port))
                wanted = tuple(
                    ConfigurationAttribute(type=ConfigAttributeType.INTERNAL_IP4_ADDRESS, value=address.packed)
                    for address in command.addresses
                )
                config = replace(self.config, initial_contact=False, configuration_request=wanted)
                self.successor = self.ue.connect(config, path, self.now)
            case AnswerSuccessor():
                assert self.successor is not None
                self.ue.answer(self.successor, command.answer, self.now)
            case AdoptSuccessor():
                former, self.sa, self.successor = self.sa, self.successor, None
                assert former is not None
                assert self.sa is not None
                self.carry_out(device.adopted(self.sa.window))
                self._delete(former, "replaced")
            case DropSuccessor():
                assert self.successor is not None
                self._delete(self.successor, command.why)
                self.successor = None
            case MoveSa():
                assert self.sa is not None
                self.ue.move(self.sa, command.path, self.now)
            case SuspendSa():
                assert self.sa is not None
                self.ue.suspend(self.sa, self.now)
            case UseAddresses():
                assert self.sa is not None
                self.ue.set_addresses(self.sa, command.addresses, self.now, tell=False)
            case DeleteSa():
                assert self.sa is not None
                self._delete(self.sa, command.why)
            case AskUsim():
                self.carry_out(device.usim_answered(self.usim.authenticate(command.rand, command.autn)))
            case AnswerIke():
                assert self.sa is not None
                self.ue.answer(self.sa, command.answer, self.now)
            case StartHost():
                self.addresses = command.addresses
                if self.host_failure is None:
                    self.carry_out(device.host_started(self.now))
                else:
                    self.carry_out(device.host_failed(self.host_failure))
            case StopHost():
                self.addresses = ()
            case InstallChildSa():
                self.installed[command.spec.inbound_spi] = command.spec.path
            case UpdateChildSa():
                self.installed[command.inbound_spi] = command.path
            case RemoveChildSa():
                del self.installed[command.inbound_spi]
            case Tell():
                self.told.append(command)
            case Finished():
                assert command.ticket not in self.finished
                self.finished[command.ticket] = command.failure

    def _delete(self, sa: IkeSa, why: str) -> None:
        if sa.sealer is None or sa.mobility.suspended:
            self.ue.close(sa, why, self.now)
        elif sa.state not in (SaState.DELETING, SaState.CLOSED):
            self.ue.initiate(sa, DeleteIkeSa(why), self.now)

    # --- the gateway

    def _gateway_event(self, sa: IkeSa, event: Event) -> None:
        if sa not in self.gateway_sas:
            self.gateway_sas.append(sa)
        if isinstance(event, IdentityReceived):
            if self.rogue:
                success = EapPacket(code=EapCode.SUCCESS, identifier=1).encode()
                self.gateway.answer(sa, EapReply(packet=success, msk=Secret(bytes(64))), self.now)
                return
            self.server = eap.EapAkaServer(entropy=SeededEntropy("server"))
            self.server.start(event.identity.data)
            self._serve(sa)
        elif isinstance(event, EapResponseReceived):
            self.server.receive(event.packet)
            self._serve(sa)
        elif isinstance(event, ConfigurationRequested):
            self.gateway.answer(sa, (self.grant or granted)(), self.now)
        elif isinstance(event, ConfigurationExchanged):
            self.gateway_exchanged.append(event)
        elif isinstance(event, MessageReceived) and event.message.notify(NotifyType.UPDATE_SA_ADDRESSES) is not None:
            self.gateway_updates += 1

    def _serve(self, sa: IkeSa) -> None:
        while (event := self.server.poll_event()) is not None:
            if isinstance(event, eap.VectorRequested):
                self.server.answer_vector(self._vector(event.resynchronisation))
            elif isinstance(event, eap.PacketToSend):
                self.gateway.answer(sa, EapReply(packet=event.packet), self.now)
            elif isinstance(event, eap.Succeeded):
                self.gateway.answer(sa, EapReply(packet=event.packet, msk=event.msk), self.now)
            elif isinstance(event, eap.Failed):
                notify = NotifyPayload(type=NotifyType.AUTHENTICATION_FAILED)
                refusal = Refusal(notify=notify, text=event.why, eap_packet=event.packet)
                self.gateway.answer(sa, refusal, self.now)

    def _vector(self, resynchronisation: eap.Resynchronisation | None) -> AkaVector:
        """The next vector of the home network, which knows the subscriber's own K."""
        assert self.subscriber.opc is not None
        milenage = Milenage(self.subscriber.k, opc=self.subscriber.opc)
        if resynchronisation is not None:
            self.sequence = verify_auts(milenage, rand=resynchronisation.rand, auts=resynchronisation.auts)
        self.sequence = compose(seq_of(self.sequence) + 1, 1)
        return generate_vector(milenage, rand=SeededEntropy(self.sequence).octets(16), sqn=self.sequence)


def granted() -> ConfigurationReply:
    """What an ordinary gateway grants."""
    return ConfigurationReply(
        attributes=(
            ConfigurationAttribute(type=ConfigAttributeType.INTERNAL_IP4_ADDRESS, value=INNER.packed),
            ConfigurationAttribute(type=ConfigAttributeType.INTERNAL_IP4_DNS, value=DNS.packed),
            ConfigurationAttribute(type=ConfigAttributeType.P_CSCF_IP4_ADDRESS, value=P_CSCF.packed),
        ),
        local_selectors=(TrafficSelector.network("0.0.0.0/0"),),
        remote_selectors=(TrafficSelector.host(INNER),),
    )


def attached(world: World | None = None) -> World:
    """A world whose UE is attached on access a."""
    world = world or World()
    assert world.attach() is None
    return world


# --- attach -------------------------------------------------------------------------------------------


def test_attach_by_eap_aka_gives_addresses_and_a_child_sa_and_measures_itself() -> None:
    world = attached()
    connection = world.device.connection
    assert connection is not None
    assert world.device.state is DeviceState.ESTABLISHED
    assert connection.addresses == world.addresses == (INNER,)
    assert connection.dns == (DNS,)
    assert connection.p_cscf == (P_CSCF,)
    assert connection.mobike
    assert len(world.installed) == 1
    # IKE_SA_INIT, IKE_AUTH with IDi, with EAP, with AUTH: four round trips of two latencies each
    assert connection.attach_requests == 4
    assert connection.attach_retransmissions == 0
    assert connection.attach_interval == pytest.approx(8 * LATENCY)
    assert world.event("attached").data["inner_addresses"] == [str(INNER)]


def test_imei_is_told_only_after_the_network_is_authenticated() -> None:
    """TS 24.302 §7.2.2.1: not in the first IKE_AUTH, but with the answer to the challenge."""
    world = attached()
    assert world.swu[-1].device_identity == IMEI
    refused = World(k=Secret(bytes(16)))
    assert refused.attach() is not None
    assert refused.swu[-1].device_identity is None


def test_wrong_key_is_found_by_the_usim_and_told_as_such() -> None:
    world = World(k=Secret(bytes(16)))
    failure = world.attach()
    assert failure is not None
    assert failure.startswith("authentication rejected: MAC-A in AUTN does not verify")
    assert world.device.state is DeviceState.CLOSED
    assert world.open == set()
    assert world.event("refused").data["by_peer"] is True
    assert world.addresses == ()


def test_a_stale_sequence_number_is_resynchronised() -> None:
    world = World(usim_window=SqnWindow((1 << 20,) * IND_COUNT))
    assert world.attach() is None
    assert world.usim.sqn_ms >> IND_BITS == (1 << 20) + 1


@pytest.mark.parametrize(
    ("notify", "words"),
    [
        (PrivateNotify.NO_APN_SUBSCRIPTION, "the subscription does not include this APN (NO_APN_SUBSCRIPTION 9002)"),
        (PrivateNotify.USER_UNKNOWN, "the network does not know this IMSI (USER_UNKNOWN 9001)"),
        (NotifyType.AUTHENTICATION_FAILED, "authentication rejected by the network (AUTHENTICATION_FAILED 24)"),
    ],
)
def test_a_refusal_by_the_gateway_is_one_plain_sentence(notify: int, words: str) -> None:
    payload = NotifyPayload(type=NotifyType.of(notify))
    world = World(grant=lambda: Refusal(notify=payload, text="no"))
    assert world.attach() == words
    assert world.device.state is DeviceState.CLOSED
    assert world.device.connection is not None
    assert world.device.connection.last_error is not None


def test_a_gateway_of_another_authority_is_not_accepted_and_is_told() -> None:
    world = World(gateway_config=responder_config(pki=make_pki()))
    failure = world.attach()
    assert failure is not None
    assert failure.startswith("the gateway is not accepted: certificate")
    assert world.event("refused").data["by_peer"] is False
    assert all(sa not in world.gateway.sas.values() for sa in world.gateway_sas)  # DELETE reached it


def test_a_gateway_that_is_down_is_named() -> None:
    world = World()
    world.gateway_up = False
    assert world.attach(seconds=60) == f"no response from the gateway {GATEWAY}, asked 6 times on a"
    assert world.device.state is DeviceState.CLOSED


def test_a_gateway_that_falls_silent_during_the_attach_is_told_apart() -> None:
    world = World()
    ticket = world.ask_only(lambda ticket: world.device.attach("a", ticket, world.now))
    world.run(3 * LATENCY)
    world.gateway_up = False
    world.run(60)
    assert "fell silent during the attach" in (world.finished[ticket] or "")


def test_a_port_in_use_ends_the_attach_before_it_begins() -> None:
    world = World()
    assert world.attach("taken") == "the port is in use"
    assert world.device.state is DeviceState.CLOSED
    assert world.sa is None


def test_no_inner_address_no_attach() -> None:
    empty = ConfigurationReply(
        attributes=(),
        local_selectors=(TrafficSelector.network("0.0.0.0/0"),),
        remote_selectors=(TrafficSelector.network("0.0.0.0/0"),),
    )
    world = World(grant=lambda: empty)
    assert world.attach() == "the gateway assigned no inner address"
    assert world.device.state is DeviceState.CLOSED
    assert world.installed == {}
    assert not world.gateway.sas


def test_a_host_that_cannot_start_ends_the_attach_and_the_sa() -> None:
    world = World(host_failure="TUN device ue0: Operation not permitted")
    assert world.attach() == "TUN device ue0: Operation not permitted"
    assert world.device.state is DeviceState.CLOSED
    assert not world.gateway.sas


def test_eap_success_without_a_challenge_is_no_way_in() -> None:
    """A gateway that knows no key of the subscriber's (RFC 4187 §6.3.4): the UE says that it gives up."""
    world = World(rogue=True)
    failure = world.attach()
    assert failure == "the EAP server breaks the rules: EAP-Success before the server was authenticated"
    assert world.device.state is DeviceState.CLOSED
    assert not world.gateway.sas


def test_one_connection_at_a_time() -> None:
    world = attached()
    with pytest.raises(LocalError, match="attached already"):
        world.device.attach("b", 99, world.now)


def test_the_end_of_the_last_child_sa_is_told() -> None:
    """RFC 7296 §1.4.1: the gateway may delete it and keep the IKE SA; not when the IKE SA goes with it."""
    world = attached()
    (spi,) = world.gateway_sas[-1].children
    world.gateway.initiate(world.gateway_sas[-1], DeleteChildSa(spi), world.now)
    world.run(1.0)
    assert world.device.state is DeviceState.ESTABLISHED
    assert "nothing can be sent" in world.event("no-child-sa").text
    other = attached()
    other.gateway.initiate(other.gateway_sas[-1], DeleteIkeSa("over"), other.now)
    other.run(1.0)
    assert "no-child-sa" not in [tell.name for tell in other.told]


def test_attach_again_after_detach() -> None:
    world = attached()
    assert world.detach() is None
    assert world.device.state is DeviceState.CLOSED
    assert (world.open, world.addresses, world.installed) == (set(), (), {})
    assert not world.gateway.sas
    assert world.attach("b") is None
    assert world.device.connection is not None
    assert world.device.connection.access == "b"


# --- moves --------------------------------------------------------------------------------------------


def test_a_move_breaks_before_it_makes_and_keeps_addresses_and_spis() -> None:
    world = attached()
    del world.commands[:]
    assert world.move("b") is None
    kinds = [type(command) for command in world.commands]
    assert kinds[:3] == [CloseAccess, OpenAccess, MoveSa]
    (move,) = _moves(world)
    assert move.outcome is MoveOutcome.COMPLETED
    assert (move.origin, move.target) == ("a", "b")
    assert (move.requests, move.retransmissions) == (1, 0)
    assert move.update_interval == pytest.approx(2 * LATENCY)
    assert move.inner_address_unchanged
    assert move.spis_unchanged
    assert move.closed_old
    here = Endpoint.of(ACCESSES["b"], 4500)
    assert all(path.local == here for path in world.installed.values())
    assert world.device.open_accesses == ("b",)
    assert "inner address and SPIs unchanged" in world.event("moved").text


def test_a_move_that_keeps_the_old_access_leaves_its_ports_open() -> None:
    world = attached()
    assert world.move("b", keep_old=True) is None
    assert world.device.open_accesses == ("a", "b")
    assert Endpoint.of(ACCESSES["a"], 4500) in world.open
    world.carry_out(world.device.close_access("a"))
    assert Endpoint.of(ACCESSES["a"], 4500) not in world.open
    with pytest.raises(LocalError, match="not open"):
        world.device.close_access("a")


def test_back_from_a_deaf_access_without_a_new_attach() -> None:
    """The gateway adopts nothing unproved; the older move is superseded, the child SAs never leave access a.

    What a gateway may send there, which proves less, is expected all the same.
    """
    world = attached()
    lost = world.ask_only(lambda ticket: world.device.move("deaf", ticket, world.now, keep_old=True))
    world.run(1.0)  # before it comes back by itself
    assert lost not in world.finished
    assert all(path.local.address == IPv4Address(ACCESSES["a"]) for path in world.installed.values())
    expected = [command for command in world.commands if isinstance(command, ExpectChildSa)]
    assert {command.inbound_spi: str(command.path.local.address) for command in expected} == dict.fromkeys(
        world.installed, ACCESSES["deaf"]
    )
    assert world.move("a", keep_old=True) is None
    assert world.finished[lost] == "the move from a to deaf failed: superseded by a move to a"
    first, second = _moves(world)
    assert first.outcome is MoveOutcome.SUPERSEDED
    assert first.retransmissions >= 1
    assert second.outcome is MoveOutcome.COMPLETED
    assert second.spis_unchanged
    world.run(30)
    assert world.device.state is DeviceState.ESTABLISHED
    (sa,) = world.gateway.sas.values()
    assert sa.path.remote == Endpoint.of(ACCESSES["a"], 4500)


def test_a_deaf_access_with_the_old_one_closed_ends_the_connection() -> None:
    world = attached()
    failure = world.move("deaf", seconds=60)
    assert failure is not None
    assert "no response to our request" in failure
    assert world.device.state is DeviceState.CLOSED
    assert world.event("connection-lost").data["access"] == "a"
    (move,) = _moves(world)
    assert move.outcome is MoveOutcome.FAILED
    assert move.retransmissions == 5 + 24  # by the clock, and in doubt


def test_a_move_to_an_access_that_cannot_open_leaves_the_ue_where_it_was() -> None:
    world = attached()
    assert world.move("taken") == "the move from a to taken failed: the port is in use"
    assert world.device.state is DeviceState.ESTABLISHED
    assert world.device.open_accesses == ("a",)
    assert world.device.connection is not None
    assert world.device.connection.access == "a"
    assert world.move("b") is None


def test_a_move_to_an_access_that_cannot_open_with_the_old_one_kept_sends_nothing() -> None:
    world = attached()
    assert world.move("taken", keep_old=True) is not None
    assert world.gateway_updates == 0
    assert [move.outcome for move in _moves(world)] == [MoveOutcome.FAILED]


def test_a_refused_update_brings_the_ue_back() -> None:
    """RFC 4555 §3.5: UNACCEPTABLE_ADDRESSES; another pair of addresses is tried, the one that worked."""
    world = attached()
    (sa,) = world.gateway.sas.values()
    assert sa.sealer is not None
    sa.sealer = Unwilling(sa.sealer)
    assert world.move("b") == "the move from a to b failed: the gateway refused: UNACCEPTABLE_ADDRESSES"
    failed, back = _moves(world)
    assert failed.outcome is MoveOutcome.FAILED
    assert (back.origin, back.target, back.outcome) == ("b", "a", MoveOutcome.COMPLETED)
    assert world.device.open_accesses == ("a",)
    assert sa.path.remote == Endpoint.of(ACCESSES["a"], 4500)
    assert world.device.state is DeviceState.ESTABLISHED


def test_no_mobike_no_move() -> None:
    world = attached(World(gateway_config=responder_config(mobike=False)))
    with pytest.raises(LocalError, match="does not support MOBIKE"):
        world.device.move("b", 9, world.now)
    assert world.open == {Endpoint.of(ACCESSES["a"], port) for port in (500, 4500)}


def test_a_move_to_where_the_ue_is_or_of_a_ue_that_is_not_attached_is_refused() -> None:
    with pytest.raises(LocalError, match="not attached"):
        World().device.move("b", 1, 0.0)
    world = attached()
    with pytest.raises(LocalError, match="is on a already"):
        world.device.move("a", 9, world.now)


# --- paths that fail ----------------------------------------------------------------------------------


def test_a_silent_access_is_left_for_another() -> None:
    """RFC 4555 §3.10: the other accesses are opened, tested in order, and the one that answers is used."""
    world = attached(World(accesses=("a", "taken", "deaf", "b", "v6")))
    assert world.sa is not None
    world.deaf |= {Endpoint.of(ACCESSES["a"], port) for port in (500, 4500)}
    world.ue.suspect(world.sa, world.now)
    world.run(3.0)
    assert world.device.connection is not None
    assert world.device.connection.access == "b"
    assert world.device.open_accesses == ("b",)
    (move,) = _moves(world)
    assert (move.origin, move.target, move.outcome) == ("a", "b", MoveOutcome.COMPLETED)
    assert "Moved from a to b" in world.event("moved").text
    assert "Nothing is heard on a" in world.event("path-suspected").text
    assert world.sa.mobility.own is None


def test_an_access_that_answers_again_is_kept() -> None:
    world = attached(World(accesses=("a", "deaf")))
    assert world.sa is not None
    ports = {Endpoint.of(ACCESSES["a"], port) for port in (500, 4500)}
    world.deaf |= ports
    world.ue.suspect(world.sa, world.now)
    world.run(1.3)
    assert world.device.open_accesses == ("a", "deaf")
    world.deaf -= ports
    world.run(3.0)
    assert world.device.open_accesses == ("a",)
    assert _moves(world) == []


def test_what_was_opened_for_a_test_is_closed_after_another_one() -> None:
    """The path that was found fails as well, and a second test begins before the first has ended."""
    world = attached(World(accesses=("a", "b", "deaf")))
    assert world.sa is not None
    for _ in range(2):
        world.carry_out(world.device.handle(PathSuspected(path=world.sa.path), world.now))
    assert world.device.open_accesses == ("a", "b", "deaf")
    world.carry_out(world.device.handle(PathValidated(path=world.sa.path), world.now))
    assert world.device.open_accesses == ("a",)


def test_a_gateway_address_that_falls_silent_is_left_for_another() -> None:
    other = Endpoint.of("203.0.113.2", 4500)
    world = attached(World(gateway_config=responder_config(additional_addresses=(other.address,)), accesses=("a", "b")))
    assert world.sa is not None
    assert "203.0.113.2" in world.event("gateway-addresses").text
    world.gateway_dead = {GATEWAY.address}
    world.ue.suspect(world.sa, world.now)
    world.run(3.0)
    assert {path.remote for path in world.installed.values()} == {other}
    assert world.device.open_accesses == ("a",)
    assert "used at 203.0.113.2" in world.event("gateway-address-changed").text
    assert world.move("b") is None  # it is the gateway's address now
    assert {path.remote for path in world.installed.values()} == {other}


def test_a_move_to_another_ip_version_needs_a_gateway_address_of_it() -> None:
    world = attached()
    assert world.move("v6", keep_old=True) == "the move from a to v6 failed: the gateway has told of no IPv6 address"
    assert world.device.state is DeviceState.ESTABLISHED
    six = Endpoint.of("2001:db8::1", 4500)
    world = attached(World(gateway_config=responder_config(additional_addresses=(six.address,))))
    assert world.move("v6") is None
    assert {path.remote for path in world.installed.values()} == {six}


def test_a_deaf_target_is_left_for_the_path_that_answers() -> None:
    """A path test ends a move that nobody answers, as a failure; the UE is where it was."""
    world = attached()
    assert world.sa is not None
    moving = world.ask_only(lambda ticket: world.device.move("deaf", ticket, world.now, keep_old=True))
    own = [Endpoint.of(ACCESSES[name], 4500) for name in ("deaf", "a")]
    world.ue.set_addresses(world.sa, own, world.now, tell=False)
    world.run(5.0)
    assert "another path answered" in (world.finished[moving] or "")
    assert world.device.connection is not None
    assert world.device.connection.access == "a"
    assert {path.local for path in world.installed.values()} == {own[1]}


def test_a_ue_that_is_nowhere_for_a_weekend_comes_back() -> None:
    """RFC 4621 §5.4: no access at all, then a move, to the same access here; addresses and SPIs are the same."""
    world = attached(World(gateway_config=responder_config(liveness_interval=120.0, hold_lifetime=7 * 86400.0)))
    world.carry_out(world.device.suspend(world.now))
    assert world.device.open_accesses == ()
    with pytest.raises(LocalError, match="suspended already"):
        world.device.suspend(world.now)
    world.run(2.5 * 86400)
    assert world.move("a") is None
    (move,) = _moves(world)
    assert move.outcome is MoveOutcome.COMPLETED
    assert move.spis_unchanged
    assert world.move("b") is None


def test_a_way_back_that_nobody_answers_can_be_given_up() -> None:
    """It is a pause again then: nothing is sent, and the SA is there for the next attempt."""
    world = attached(World(gateway_config=responder_config(liveness_interval=120.0, hold_lifetime=86400.0)))
    world.carry_out(world.device.suspend(world.now))
    back = world.ask_only(lambda ticket: world.device.move("deaf", ticket, world.now))
    world.run(3.0)
    world.carry_out(world.device.suspend(world.now))
    assert world.finished[back] is not None
    assert world.device.open_accesses == ()
    assert world.sa is not None
    assert world.sa.mobility.suspended
    world.run(600.0)
    assert world.move("b", seconds=60.0) is None


def test_a_way_back_that_the_gateway_refuses_is_a_pause_again() -> None:
    world = attached()
    (sa,) = world.gateway.sas.values()
    world.carry_out(world.device.suspend(world.now))
    assert sa.sealer is not None
    sa.sealer = Unwilling(sa.sealer)
    assert "failed" in (world.move("b") or "")
    assert world.device.open_accesses == ()
    assert world.sa is not None
    assert world.sa.mobility.suspended
    assert world.move("b") is None


def test_an_update_that_finds_no_way_is_sent_again_when_there_is_one() -> None:
    """An address comes before the route to the gateway: no waiting for the clock of retransmission."""
    world = attached()
    world.carry_out(world.device.suspend(world.now))
    assert world.device.recheck() == []
    world.deaf |= {Endpoint.of(ACCESSES["b"], port) for port in (500, 4500)}
    world.ask_only(lambda ticket: world.device.move("b", ticket, world.now))
    world.run(0.1)
    world.deaf.clear()
    world.carry_out(world.device.recheck())
    world.run(0.1)
    (move,) = _moves(world)
    assert move.outcome is MoveOutcome.COMPLETED


def test_another_address_on_the_access_in_use() -> None:
    """The ports are closed and opened again; without that it is no move."""
    world = attached()
    failure = world.ask(lambda ticket: world.device.move("a", ticket, world.now, again=True))
    assert failure is None
    (move,) = _moves(world)
    assert (move.origin, move.target, move.outcome) == ("a", "a", MoveOutcome.COMPLETED)


def test_a_nat_that_is_found_by_checking_again_is_told() -> None:
    """RFC 4555 §3.8: the same addresses, and the gateway sees other ones."""
    world = attached()
    world.carry_out(world.device.recheck())
    world.run(1.0)
    assert not [tell for tell in world.told if tell.name == "nat-changed"]
    assert world.sa is not None
    path = world.sa.path
    for behind in (True, False):
        nat = NatStatus(local=behind)
        world.carry_out(world.device.handle(AddressesUpdated(old=path, new=path, nat=nat, validated=True), world.now))
    told = [tell for tell in world.told if tell.name == "nat-changed"]
    assert [tell.text for tell in told] == [
        "There is a NAT now on the way from a.",
        "There is no NAT any more on the way from a.",
    ]


def test_a_suspended_ue_detaches_alone() -> None:
    world = attached()
    world.carry_out(world.device.suspend(world.now))
    assert world.detach() is None
    assert world.device.state is DeviceState.CLOSED


# --- the end ------------------------------------------------------------------------------------------


def test_a_gateway_that_deletes_the_sa_detaches_the_ue() -> None:
    world = attached()
    (sa,) = world.gateway.sas.values()
    world.gateway.initiate(sa, DeleteIkeSa("maintenance"), world.now)
    world.run(1)
    assert world.device.state is DeviceState.CLOSED
    assert world.event("detached").data["by_peer"] is True
    assert world.addresses == ()


def test_detach_ends_a_move_that_is_under_way() -> None:
    world = attached()
    moving = world.ask_only(lambda ticket: world.device.move("deaf", ticket, world.now, keep_old=True))
    world.run(1)
    leaving = world.ask_only(lambda ticket: world.device.detach(ticket, world.now))
    assert world.finished[moving] == "the move from a to deaf failed: the UE detaches"
    world.run(60)
    assert world.finished[leaving] is None
    assert world.device.state is DeviceState.CLOSED


def test_detach_during_the_attach_cancels_it() -> None:
    world = World()
    attaching = world.ask_only(lambda ticket: world.device.attach("a", ticket, world.now))
    world.run(3 * LATENCY)
    assert world.detach() is None
    assert world.finished[attaching] == "the UE was told to detach"
    assert world.device.state is DeviceState.CLOSED
    assert not world.gateway.sas


def test_a_ue_that_is_not_attached_cannot_detach() -> None:
    with pytest.raises(LocalError, match="not attached"):
        World().device.detach(1, 0.0)


def _moves(world: World) -> list[Move]:
    assert world.device.connection is not None
    return world.device.connection.moves


# --- an IKE SA that ends while it is used -------------------------------------------------------------


def test_nothing_moves_while_the_ue_deletes_its_sa() -> None:
    """An SA that must not go on (a hard lifetime, a redirect) is not moved: one line, and nothing is left behind."""
    world = attached()
    assert world.sa is not None
    world.gateway_up = False
    world.ue.initiate(world.sa, DeleteIkeSa("its hard lifetime is over"), world.now)
    world.run(0.1)
    for begin in (lambda: world.device.move("b", 9, world.now), lambda: world.device.suspend(world.now)):
        with pytest.raises(LocalError, match="the UE is detaching"):
            begin()
    assert world.device.connection is not None
    assert world.device.connection.move is None
    world.run(600.0)
    assert world.device.state is DeviceState.CLOSED
    assert world.open == set()
