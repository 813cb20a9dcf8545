"""One PDN connection of a UE at work: its device, its IKE SA, its data plane, what goes through it.

It carries out what the device says and brings the answers back. Inner packets go to an in-process host or
a TUN device. ESP always goes in UDP, NAT or not: a peer on port 4500 must understand it (RFC 7296 §2.23).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, summarize_address_range
from itertools import count

from protocols.dataplane.port import ChildSaCounters, LifetimeReached, PeerEndpointObserved
from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.dataplane.userspace.host import FlowKind, InProcessHost
from protocols.dataplane.userspace.tun import TunDevice
from protocols.errors import BackendError, LocalError, StackError
from protocols.ikev2.config import InitiatorConfig
from protocols.ikev2.events import (
    AddressesUpdated,
    Answer,
    AuthenticationKind,
    ChildSaRemoved,
    Closed,
    EapReply,
    EapRequestReceived,
    Event,
    IkeSaRekeyed,
    SaState,
    SuccessorCreated,
)
from protocols.ikev2.payloads import IdiPayload
from protocols.ikev2.registry import ConfigAttributeType
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.io.control import ControlError
from protocols.io.platform import Platform
from protocols.path import Address, Endpoint, Path
from protocols.selectors import TrafficSelector
from protocols.threegpp.identity import Imsi
from protocols.threegpp.observation import record_esp_keys, record_ike_event
from protocols.threegpp.swu import DeviceSwu
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue
from ue.backoff import FileBackOff
from ue.commands import (
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
    Finished,
    InstallChildSa,
    KeepBackOff,
    KeepTemporaryIdentities,
    MoveSa,
    OpenAccess,
    RemoveChildSa,
    Resolve,
    RetireChildSa,
    StartHost,
    StopHost,
    SuspendSa,
    Tell,
    UpdateChildSa,
    UseAddresses,
)
from ue.config import DataPlaneKind, UeConfiguration
from ue.connection import Move, MoveOutcome
from ue.device import Device, DeviceState
from ue.observation import counters_view, record_eap, session_view
from ue.profile import (
    authenticator,
    identification,
    initiator_config,
    root_nai,
    state_directory,
)
from ue.selection import Selection
from ue.swu import Swu
from ue.temporary import TemporaryIdentityStore
from ue.traffic import DEFAULT_RATE, Flow, Flows
from ue.usim import SoftwareUsim

SILENCE_PATIENCE = 64  # intervals between two hints at most

Network = IPv4Network | IPv6Network

_log = logging.getLogger(__name__)


class Pdn:
    """A PDN connection, attached or not; ``name`` is its APN."""

    def __init__(
        self,
        configuration: UeConfiguration,
        *,
        swu: Swu,
        platform: Platform,
        recorder: Recorder,
        usim: SoftwareUsim | None,
        temporary: TemporaryIdentityStore,
        ike_config: InitiatorConfig | None = None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        """``ike_config`` where it is known already; ``failed`` is called when the TUN device cannot go on."""
        self.configuration = configuration
        self.name = configuration.apn
        self.recorder = recorder
        self._swu = swu
        self._endpoint = swu.endpoint
        self._failed = failed
        self.wall_offset = platform.clock.wall() - platform.clock.monotonic()
        self.ike_config = ike_config or initiator_config(configuration, platform.clock.moment)
        self._usim = usim
        self._temporary = temporary
        gateway = configuration.gateway
        fixed = None if gateway.address is None else Endpoint(gateway.address, gateway.ike_port)
        self._gateway_ike: Endpoint | None = fixed
        self._gateway_names = configuration.gateway_names
        self._resolver = platform.resolver(configuration.dns.settings(), platform.clock.monotonic)
        policy, chosen = configuration.selection_policy, gateway.selection
        natt: dict[int, Endpoint] = {
            address.version: Endpoint(address, gateway.nat_traversal_port) for address in gateway.addresses
        }
        self.dropped_notifies: Counter[str] = Counter()
        self._back_off = FileBackOff(state_directory(configuration) / f"back-off-{configuration.imsi}.json")
        self.device = Device(
            imsi=Imsi(configuration.imsi),
            nai=root_nai(configuration),
            apn=configuration.apn,
            gateway=fixed,
            gateway_port=gateway.ike_port,
            select=None if policy is None else lambda version, barred: Selection(policy, version, barred),
            patience=None if chosen is None else chosen.patience,
            resolves=True,
            retry=configuration.retry.policy(),
            entropy=platform.entropy,
            authenticator=authenticator(configuration, platform.entropy, temporary.load()),
            accesses=tuple(configuration.accesses),
            gateways=configuration.redirect.names,
            other_versions=natt,
            reactivate=configuration.reactivate,
            moves_by_rekey=self.ike_config.habits.moves_by_rekey,
            back_off=self._back_off.read(self.wall_offset),
        )
        self._data_plane = UserspaceDataPlane(
            entropy=platform.entropy, deliver=self._delivered, transmit=self._transmit_esp
        )
        self.flows = Flows(self._send_inner)
        self._host: InProcessHost | None = None
        self._tun: TunDevice | None = None
        self._sa: IkeSa | None = None
        self._successor: IkeSa | None = None  # authenticates anew
        self._sessions: dict[bytes, str] = {}
        self._last_counters: dict[bytes, ChildSaCounters] = {}
        self._installed: set[bytes] = set()
        self._commands: deque[Command] = deque()
        self._carrying_out = False
        self._lookups: set[asyncio.Task[None]] = set()
        self._tickets = count(1)
        self._waiting: dict[int, asyncio.Future[str | None]] = {}
        self.idle = asyncio.Event()
        self.idle.set()

    def _extension(self) -> DeviceSwu:
        """The 3GPP part of an IKE SA of this connection's."""
        return DeviceSwu(
            imei=self.configuration.imei,
            server_authenticated=lambda: self.device.server_authenticated,
            p_cscf_reselection=self.configuration.request.p_cscf_reselection,
            pdu_session=self.configuration.request.pdu_session,
            only_allowed=self.device.only_allowed,
            back_off=self.device.back_off_received,
            reactivation=self.device.reactivation_received,
            emergency_support=self.device.emergency_support_received,
            dropped=self.dropped_notifies,
        )

    def leave(self) -> None:
        """Begin to detach if there is anything to detach from."""
        if self.device.state in (DeviceState.ATTACHING, DeviceState.ESTABLISHED):
            self._carry_out(self.device.detach(next(self._tickets), self._now()))

    def close(self) -> None:
        """Let go of everything, without a word to the gateway where it has not answered."""
        for lookup in self._lookups:
            lookup.cancel()
        if self._sa is not None and self._sa.state is not SaState.CLOSED:
            self._endpoint.close(self._sa, "the UE stops", self._now())
            self._swu.pump()

    def stop_host(self) -> None:
        """Nothing goes through the tunnel any more."""
        self.flows.stop_all()
        self._host = None
        if self._tun is not None:
            self._tun.close()
            self._tun = None

    async def watch_silence(self, interval: float) -> None:
        """Much is sent and nothing comes back: a hint that the path is bad (RFC 4555 §3.5, §3.12).

        Asked at once, then ever more rarely for as long as the silence lasts: traffic may have one direction.
        """
        received, sent, quiet, patience = 0, 0, 0, 1
        while True:
            await asyncio.sleep(interval)
            counters = [self._data_plane.counters(spi) for spi in self._installed]
            inbound = sum(each.evidence for each in counters)
            outbound = sum(each.outbound_packets for each in counters)
            if inbound != received or outbound < sent:
                quiet, patience = 0, 1
            elif outbound > sent:
                quiet += 1
            received, sent = inbound, outbound
            if quiet >= patience and self._sa is not None:
                quiet, patience = 0, min(2 * patience, SILENCE_PATIENCE)
                self._endpoint.suspect(self._sa, self._now())
                self._swu.pump()

    # --- what a person asks for

    async def attach(self, access: str | None = None, *, force: bool = False, again: bool = False) -> None:
        """Attach; returns when the UE is attached, ``ControlError`` says in one sentence why it is not.

        ``force``: even though the network has asked to be left alone (BACKOFF_TIMER). ``again``: nobody has asked.
        """
        name = access or next(iter(self.configuration.accesses))
        gateway = self.configuration.gateway
        known = {each.version for each in gateway.addresses}
        if gateway.selection is None and self.configuration.accesses[name].address.version not in known:
            raise ControlError("refused", f"the gateway {gateway.address} cannot be reached from access {name}")
        await self._wait_for(
            "refused", lambda ticket: self.device.attach(name, ticket, self._now(), force=force, again=again)
        )

    async def move(self, to: str, *, keep_old: bool = False) -> Move:
        """Move to an access; returns the measures when the gateway has agreed."""
        connection = self.device.connection
        await self._wait_for("move-failed", lambda ticket: self.device.move(to, ticket, self._now(), keep_old=keep_old))
        assert connection is not None  # or the move had been refused
        return next(move for move in reversed(connection.moves) if move.outcome is MoveOutcome.COMPLETED)

    async def detach(self) -> None:
        """Detach; returns when the gateway has answered or is given up."""
        await self._wait_for("detach-failed", lambda ticket: self.device.detach(ticket, self._now()))

    def _rekey_after_move(self, event: AddressesUpdated) -> None:
        """As a UE does whose data plane cannot send an ESP SA by another path (kernel-libipsec)."""
        if event.new != event.old and self._sa is not None and self._sa.children:
            self.rekey_child()

    def rekey_ike(self) -> None:
        """Begin to rekey the IKE SA (RFC 7296 §1.3.2)."""
        self._endpoint.initiate(self._attached_sa(), RekeyIke(), self._now())
        self._swu.pump()

    def rekey_child(self, inbound_spi: str | None = None) -> list[str]:
        """Begin to rekey a child SA, without an SPI all of them (RFC 7296 §1.3.3); which ones it were."""
        sa = self._attached_sa()
        spis = [spi for spi, one in sa.children.items() if not one.replaced and inbound_spi in (None, spi.hex())]
        if not spis:
            raise ControlError("not-found", f"there is no child SA {inbound_spi}")
        for spi in spis:
            self._endpoint.initiate(sa, RekeyChild(spi), self._now())
        self._swu.pump()
        return [spi.hex() for spi in spis]

    def _attached_sa(self) -> IkeSa:
        if self.device.state is not DeviceState.ESTABLISHED:
            raise LocalError("the UE is not attached")
        return self._require_sa()

    def suspend(self) -> None:
        """Leave every access; the next move brings the UE back (RFC 4621 §5.4)."""
        self._carry_out(self.device.suspend(self._now()))

    def close_access(self, name: str) -> None:
        """Close an access that a move has kept open, or cut the one in use off."""
        self._carry_out(self.device.close_access(name))

    async def _wait_for(self, code: str, begin: Callable[[int], list[Command]]) -> None:
        ticket = next(self._tickets)
        outcome: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        commands = begin(ticket)  # LocalError: not possible now
        self._waiting[ticket] = outcome
        try:
            self._carry_out(commands)
            failure = await outcome
        finally:
            self._waiting.pop(ticket, None)
        if failure is not None:
            raise ControlError(code, failure)

    # --- IKE

    def _now(self) -> float:
        return self._swu.now()

    def wall(self, moment: float) -> float:
        """The wall clock at a moment of the monotonic one."""
        return moment + self.wall_offset

    def ike_event(self, sa: IkeSa, event: Event) -> None:
        """An IKE SA of this connection's says something."""
        session = self._session_of(sa)
        record_ike_event(self.recorder, event, session)
        if isinstance(event, EapRequestReceived):
            record_eap(self.recorder, event.packet, direction="in", peer=str(sa.path.remote), session=session)
        if isinstance(event, SuccessorCreated):
            self._sessions[event.successor.local_spi] = session
        if sa is self._successor:
            self._carry_out(self.device.handle_successor(event))
            if isinstance(event, Closed):
                self._successor = None
                self._sessions.pop(sa.local_spi, None)
            return
        if sa is not self._sa and not isinstance(event, ChildSaRemoved):
            if isinstance(event, Closed):
                self._sessions.pop(sa.local_spi, None)
            return
        if isinstance(event, IkeSaRekeyed):
            self._sa = event.successor
        self._carry_out(self.device.handle(event, self._now()))
        if isinstance(event, AddressesUpdated) and self.configuration.ike.rekey_after_move:
            self._rekey_after_move(event)

    # --- what the device says

    def _carry_out(self, commands: list[Command]) -> None:
        """In order; what a command brings forth comes before what stands behind it."""
        self._commands.extendleft(reversed(commands))
        if self._carrying_out:
            return
        self._carrying_out = True
        try:
            while self._commands:
                self._carry_out_one(self._commands.popleft())
        finally:
            self._carrying_out = False
            self._commands.clear()  # what stood behind a command that failed was meant for after it
        if self.device.state in (DeviceState.IDLE, DeviceState.CLOSED):
            self.idle.set()
        else:
            self.idle.clear()
        self._swu.pump()

    def _carry_out_one(self, command: Command) -> None:
        match command:
            case OpenAccess():
                self._open_access(command.access)
            case CloseAccess():
                self._swu.accesses.close(command.access, self)
            case Connect():
                self._connect(command)
            case Resolve():
                assert self._swu.tasks is not None
                task = self._swu.tasks.create_task(self._resolve(command))
                self._lookups.add(task)
                task.add_done_callback(self._lookups.discard)
            case ConnectSuccessor():
                self._connect_successor(command)
            case AnswerSuccessor():
                if self._successor is not None:
                    self._answer(self._successor, command.answer)
            case AdoptSuccessor():
                self._adopt_successor()
            case DropSuccessor():
                self._delete(command.why, self._successor)
                self._successor = None
            case MoveSa():
                self._endpoint.move(self._require_sa(), command.path, self._now())
            case SuspendSa():
                self._endpoint.suspend(self._require_sa(), self._now())
            case UseAddresses():
                self._endpoint.set_addresses(self._require_sa(), command.addresses, self._now(), tell=False)
            case DeleteSa():
                self._delete(command.why, self._sa)
            case AskUsim():
                self._ask_usim(command)
            case KeepTemporaryIdentities():
                self._keep_temporary_identities(command)
            case AnswerIke():
                self._answer(self._require_sa(), command.answer)
            case InstallChildSa():
                if command.replaces is None:
                    self._data_plane.install(command.spec)
                else:
                    self._data_plane.replace(command.replaces, command.spec, send_at_once=command.send_at_once)
                self._installed.add(command.spec.inbound_spi)
                self._swu.adopt_child(command.spec.inbound_spi, self)
                record_esp_keys(self.recorder, command.spec, command.spec.path, self._session())
            case UpdateChildSa():
                self._data_plane.update_path(command.inbound_spi, command.path, command.encapsulation)
                spec = self._data_plane.child_sa(command.inbound_spi).spec
                record_esp_keys(self.recorder, spec, command.path, self._session())
            case RetireChildSa():
                self._data_plane.retire(command.inbound_spi)
            case RemoveChildSa():
                self._last_counters[command.inbound_spi] = self._data_plane.counters(command.inbound_spi)
                self._data_plane.remove(command.inbound_spi)
                self._installed.discard(command.inbound_spi)
                self._swu.drop_child(command.inbound_spi)
            case StartHost():
                self._start_host(command.addresses)
            case StopHost():
                self.stop_host()
            case KeepBackOff():
                self._keep_back_off(command)
            case Tell():
                _log.info("%s", command.text)
                self.recorder.event(command.name, command.text, command.data, self._session() or None)
            case Finished():
                waiting = self._waiting.get(command.ticket)
                if waiting is not None and not waiting.done():
                    waiting.set_result(command.failure)

    def _keep_back_off(self, command: KeepBackOff) -> None:
        try:
            self._back_off.write(command.back_off, self.wall_offset)
        except BackendError as error:
            _log.error("%s", error)

    def _session(self) -> str:
        return "" if self._sa is None else self._session_of(self._sa)

    def _session_of(self, sa: IkeSa) -> str:
        """A session is named by its first IKE SA, whatever rekeying has made of that."""
        return self._sessions.get(sa.local_spi, sa.local_spi.hex())

    def _require_sa(self) -> IkeSa:
        if self._sa is None:
            raise LocalError("there is no IKE SA")
        return self._sa

    def _connect(self, command: Connect) -> None:
        ports = self.device.ports(command.access)
        gateway = self.configuration.gateway
        self._gateway_ike = self._way_to_gateway(command.gateway or gateway.address, ports.ike)
        # Names that were configured hold for every gateway
        self._gateway_names = gateway.names or command.names or self.configuration.gateway_names
        config = replace(
            self.ike_config,
            gateway_names=self._gateway_names,
            init_patience=command.patience,
            nat_traversal_port=ports.nat_traversal.port,
            initial_contact=not self._endpoint.sas,  # RFC 7296 §2.4: true only of the first with this gateway
            identity=self._own_identity(command.identity),
            redirected=command.trail,
            session=command.session,
            initial_paths=() if command.gateway is not None else self._alternatives(ports.ike),
        )
        self._sa = None
        self._last_counters.clear()
        sa = self._swu.connect(self, config, Path(ports.ike, self._gateway_ike), self._extension())
        self._sa = sa
        self._carry_out(self.device.connected(sa.window))

    def inbound_packets(self, spi: bytes) -> int:
        """How many packets of a child SA have shown that the gateway lives."""
        try:
            return self._data_plane.counters(spi).evidence
        except LocalError:
            return 0

    async def _resolve(self, command: Resolve) -> None:
        resolution = await self._resolver.resolve(command.name, command.kinds)
        self._carry_out(self.device.resolved(resolution, self._now()))

    def _way_to_gateway(self, address: Address | None, local: Endpoint) -> Endpoint:
        """Its address of the access's IP version: the configuration has one for every access."""
        gateway = self.configuration.gateway
        if address is None or address.version != local.address.version:
            address = next(each for each in gateway.addresses if each.version == local.address.version)
        return Endpoint(address, gateway.ike_port)

    def _alternatives(self, local: Endpoint) -> tuple[Path, ...]:
        """Where the first request is tried as well (RFC 4555 §3.1)."""
        gateway = self.configuration.gateway
        fitting = [each for each in gateway.alternatives if each.version == local.address.version]
        return tuple(Path(local, Endpoint(each, gateway.ike_port)) for each in fitting)

    def _connect_successor(self, command: ConnectSuccessor) -> None:
        """RFC 7296 §2.8.3: from scratch, and beside the present one, so without INITIAL_CONTACT."""
        ports = self.device.ports(command.access)
        wanted: dict[int | None, Address] = {address.version: address for address in command.addresses}
        request = tuple(
            replace(attribute, value=_requested(wanted.get(_INNER_ADDRESS.get(attribute.type))))
            for attribute in self.ike_config.configuration_request
        )
        config = replace(
            self.ike_config,
            gateway_names=self._gateway_names,
            nat_traversal_port=ports.nat_traversal.port,
            identity=self._own_identity(command.identity),
            initial_contact=False,
            configuration_request=request,
        )
        path = Path(ports.ike, Endpoint(command.gateway, self.configuration.gateway.ike_port))
        self._successor = self._swu.connect(self, config, path, self._extension())
        self._sessions[self._successor.local_spi] = self._session()

    def _adopt_successor(self) -> None:
        former, self._sa, self._successor = self._sa, self._successor, None
        self._carry_out(self.device.adopted(self._require_sa().window))
        self._delete("replaced by one that was authenticated anew", former)

    def _delete(self, why: str, sa: IkeSa | None) -> None:
        if sa is None or sa.state is SaState.CLOSED:
            return
        if sa.state in (SaState.INITIAL, SaState.INIT_SENT) or sa.mobility.suspended:
            self._endpoint.close(sa, why, self._now())
        elif sa.state is not SaState.DELETING:
            self._endpoint.initiate(sa, DeleteIkeSa(why), self._now())

    def _own_identity(self, identity: str) -> IdiPayload:
        """IDi: what EAP begins with, where EAP is how the UE proves itself."""
        by_eap = self.configuration.authentication is AuthenticationKind.EAP
        return identification(identity) if by_eap else self.ike_config.identity

    def _keep_temporary_identities(self, command: KeepTemporaryIdentities) -> None:
        """A file that cannot be written costs a full authentication later, not this one."""
        try:
            self._temporary.save(command.held)
        except StackError as error:
            _log.error("%s", error)
            text = f"The UE's temporary identities could not be kept: {error}."
            self.recorder.event("temporary-identities-not-kept", text)

    def _ask_usim(self, command: AskUsim) -> None:
        assert self._usim is not None  # authentication by EAP needs one
        try:
            verdict = self._usim.authenticate(command.rand, command.autn)
        except StackError as error:
            self._carry_out(self.device.usim_failed(str(error)))
        else:
            self._carry_out(self.device.usim_answered(verdict))

    def _answer(self, sa: IkeSa, reply: Answer) -> None:
        if isinstance(reply, EapReply) and reply.packet is not None:
            peer, session = str(sa.path.remote), self._session()
            record_eap(self.recorder, reply.packet, direction="out", peer=peer, session=session)
        self._endpoint.answer(sa, reply, self._now())

    # --- accesses

    def _open_access(self, name: str) -> None:
        if self.device.state is DeviceState.ATTACHING and self._sa is not None:
            self._sessions.pop(self._sa.local_spi, None)
            self._sa = None  # what is said from here on belongs to the new connection
        try:
            ports = self._swu.accesses.open(name, self)
        except StackError as error:
            self._carry_out(self.device.access_failed(name, str(error), self._now()))
            return
        self._carry_out(self.device.access_opened(name, ports, self._now()))

    # --- inner packets

    def _start_host(self, addresses: tuple[Address, ...]) -> None:
        if self.configuration.data_plane.kind is DataPlaneKind.IN_PROCESS:
            self._host = InProcessHost(*addresses)
            self._carry_out(self.device.host_started(self._now()))
            return
        assert self._swu.tasks is not None
        self._swu.tasks.create_task(self._open_tun(addresses))

    async def _open_tun(self, addresses: tuple[Address, ...]) -> None:
        plane = self.configuration.data_plane
        interfaces = [
            IPv4Interface(address) if address.version == 4 else IPv6Interface(address) for address in addresses
        ]
        try:
            tun = await TunDevice.open(plane.device, interfaces, plane.mtu, self._routes())
        except StackError as error:
            self._carry_out(self.device.host_failed(str(error)))
            return
        if self.device.state is not DeviceState.ESTABLISHED:
            tun.close()
            return
        self._tun = tun
        tun.start(self._send_inner, self._tun_failed)
        self._carry_out(self.device.host_started(self._now()))

    def _routes(self) -> list[Network]:
        """Networks to lead into the device: as configured, else as granted without the gateway's own."""
        plane = self.configuration.data_plane
        if plane.routes:
            return list(plane.routes)
        gateway = self.configuration.gateway
        outside = [*gateway.addresses, *gateway.alternatives]
        if self._gateway_ike is not None:
            outside.append(self._gateway_ike.address)
        granted = [
            network
            for child in self._require_sa().children.values()
            for selector in child.spec.remote_selectors
            if not any(selector.contains(address) for address in outside)
            for network in _networks(selector)
        ]
        return list(dict.fromkeys(granted))

    def _tun_failed(self, error: BackendError) -> None:
        self.recorder.event("tun-failed", f"The TUN device failed: {error}.")
        _log.error("%s", error)
        self._failed()

    def receive_esp(self, octets: bytes, path: Path) -> None:
        """ESP for a child SA of this connection's."""
        self._data_plane.receive_esp(octets, path)
        self._data_plane_events()

    def _send_inner(self, packet: bytes) -> bool:
        sent = self._data_plane.send_inner(packet)
        self._data_plane_events()
        return sent

    def _data_plane_events(self) -> None:
        """Rekey in time before sequence numbers run out; ESP from elsewhere than the gateway moves nothing."""
        while (event := self._data_plane.poll_event()) is not None:
            sa = self._sa
            if sa is None or isinstance(event, PeerEndpointObserved):
                continue
            hard = event.hard if isinstance(event, LifetimeReached) else event.exhausted
            self._endpoint.limit_reached(sa, event.inbound_spi, self._now(), hard=hard)
            self._swu.pump()

    def _transmit_esp(self, octets: bytes, path: Path, encapsulation: bool) -> None:
        del encapsulation
        self._swu.ports.send_esp(octets, path)

    def _delivered(self, packet: bytes, inbound_spi: bytes) -> None:
        del inbound_spi
        if self.flows.receive(packet):
            return
        if self._tun is not None:
            self._tun.write(packet)
        elif self._host is not None:
            answer = self._host.receive(packet)
            if answer is not None:
                self._data_plane.send_inner(answer)

    # --- traffic

    def start_traffic(
        self, kind: FlowKind, destination: Address, rate: float = DEFAULT_RATE, limit: int | None = None
    ) -> Flow:
        """Begin a flow of echo requests; ``LocalError`` when there is no inner address for it."""
        connection = self.device.connection
        if connection is None or self.device.state is not DeviceState.ESTABLISHED:
            raise LocalError("the UE is not attached")
        for source in connection.addresses:
            if source.version == destination.version:
                return self.flows.start(kind, source, destination, rate, limit)
        raise LocalError(f"the UE has no IPv{destination.version} address to reach {destination} from")

    # --- views

    @property
    def sa(self) -> IkeSa | None:
        """The present IKE SA."""
        return self._sa

    @property
    def esp_drops(self) -> Counter[str]:
        """ESP that was dropped, by reason."""
        return Counter({reason.value: number for reason, number in self._data_plane.drops.items()})

    def dropped_ike(self) -> Counter[str]:
        """What was dropped of IKE and of its notifies, by reason."""
        dropped = Counter(self.dropped_notifies)
        if self._sa is not None and self._sa.state is not SaState.CLOSED:
            dropped.update(self._sa.dropped)
        return dropped

    def session(self) -> dict[str, JsonValue] | None:
        """The present or last connection, ``None`` before the first."""
        connection = self.device.connection
        if connection is None:
            return None
        return session_view(
            self.device,
            connection,
            self._sa,
            self._counters,
            self.wall,
            gateway=None if self._gateway_ike is None else str(self._gateway_ike),
            session=self._session(),
        )

    def child_counters(self) -> list[JsonValue]:
        """What each child SA has carried."""
        if self._sa is None:
            return []
        return [{"inbound_spi": spi.hex(), "counters": counters_view(self._counters(spi))} for spi in self._sa.children]

    def holdings(self) -> tuple[str, ...]:
        """What is still there of a connection; nothing once it has ended."""
        found = [f"child SA {spi.hex()}" for spi in self._data_plane.installed]
        for sa in (self._sa, self._successor):
            if sa is not None and sa.state is not SaState.CLOSED:
                found.append(f"IKE SA {sa.local_spi.hex()}")
        if self._host is not None or self._tun is not None:
            found.append("host of the inner addresses")
        return (*found, *(f"access {name}" for name in self.device.open_accesses))

    def _counters(self, spi: bytes) -> ChildSaCounters | None:
        try:
            return self._data_plane.counters(spi)
        except LocalError:
            return self._last_counters.get(spi)


_INNER_ADDRESS = {
    ConfigAttributeType.INTERNAL_IP4_ADDRESS: 4,
    ConfigAttributeType.INTERNAL_IP6_ADDRESS: 6,
}
_PREFIX_LENGTH = bytes([64])  # RFC 7296 §3.15.1: an IPv6 address is asked for with one


def _requested(address: Address | None) -> bytes:
    """An address to ask for; nothing leaves it to the gateway."""
    if address is None:
        return b""
    return address.packed if address.version == 4 else address.packed + _PREFIX_LENGTH


def _networks(selector: TrafficSelector) -> list[Network]:
    """A selector's addresses as networks; ports and protocols are the data plane's business."""
    start, end = selector.start, selector.end
    return [*summarize_address_range(start, end)]
