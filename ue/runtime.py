"""The UE in a process: sockets on its accesses, USIM, data plane, control socket, recorder.

It carries out what the device says and brings the answers back. Inner packets go to an in-process host or
a TUN device. ESP always goes in UDP, NAT or not: a peer on port 4500 must understand it (RFC 7296 §2.23).
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, summarize_address_range
from itertools import count

from protocols.dataplane.port import ChildSaCounters, LifetimeReached, PeerEndpointObserved
from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.dataplane.userspace.host import FlowKind, InProcessHost
from protocols.dataplane.userspace.tun import TunDevice
from protocols.errors import BackendError, LocalError, StackError
from protocols.ikev2.endpoint import IkeEndpoint
from protocols.ikev2.events import (
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
from protocols.io.algorithms import weakness
from protocols.io.control import ControlError
from protocols.io.driver import Driver
from protocols.io.link import Link, LossyLink, NextHopLink, Opener, Receiver
from protocols.io.platform import LinkOpener, Platform
from protocols.io.tap import DatagramTap
from protocols.io.udp import SwuPorts
from protocols.path import Address, Datagram, Endpoint, Path
from protocols.selectors import TrafficSelector
from protocols.threegpp.identity import Imsi
from protocols.threegpp.observation import record_esp_keys, record_ike_event
from protocols.threegpp.swu import DeviceSwu
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue
from ue.backoff import FileBackOff
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
    Finished,
    InstallChildSa,
    KeepBackOff,
    KeepTemporaryIdentities,
    MoveSa,
    OpenAccess,
    RemoveChildSa,
    RetireChildSa,
    StartHost,
    StopHost,
    SuspendSa,
    Tell,
    UpdateChildSa,
    UseAddresses,
)
from ue.config import AccessSection, DataPlaneKind, UeConfiguration
from ue.connection import Move, MoveOutcome
from ue.control import control_methods
from ue.device import Device, DeviceState
from ue.observation import counters_view, record_eap, session_view
from ue.profile import (
    authenticator,
    identification,
    initiator_config,
    root_nai,
    software_usim,
    state_directory,
    temporary_identity_store,
)
from ue.traffic import DEFAULT_RATE, Flow, Flows

KIND = "ue"
DISTRIBUTION = "epdg-emulator"
SILENCE_PATIENCE = 64  # intervals between two hints at most
DETACH_INTERVAL = 2.0  # for the gateway to answer DELETE when the UE stops
RETRY_INTERVALS = (5.0, 10.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 1800.0, 3600.0)  # Android's

Network = IPv4Network | IPv6Network

_log = logging.getLogger(__name__)


class UeNode:
    """One UE; ``run`` serves until ``stop`` or until the work it was given is done."""

    def __init__(self, configuration: UeConfiguration, platform: Platform | None = None) -> None:
        self._platform = platform or Platform()
        self.configuration = configuration
        self._clock = self._platform.clock
        self.wall_offset = self._clock.wall() - self._clock.monotonic()
        self._entropy = self._platform.entropy
        try:
            state_directory(configuration).mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise BackendError(f"state directory {state_directory(configuration)}: {error.strerror}") from error
        self._ike_config = initiator_config(configuration, self._clock.moment)
        self._usim = software_usim(configuration)
        self.recorder = Recorder(
            configuration.node,
            monotonic=self._clock.monotonic,
            wall=self._clock.wall,
            export_keys=configuration.trace.export_keys,
            ring=configuration.trace.ring,
        )
        self._temporary = temporary_identity_store(configuration)
        gateway = configuration.gateway
        self._gateway_ike = Endpoint(gateway.address, gateway.ike_port)
        natt: dict[int, Endpoint] = {
            address.version: Endpoint(address, gateway.nat_traversal_port) for address in gateway.addresses
        }
        self._dropped_notifies: Counter[str] = Counter()
        self._back_off = FileBackOff(state_directory(configuration) / f"back-off-{configuration.imsi}.json")
        self.device = Device(
            imsi=Imsi(configuration.imsi),
            nai=root_nai(configuration),
            apn=configuration.apn,
            gateway=self._gateway_ike,
            entropy=self._entropy,
            authenticator=authenticator(configuration, self._entropy, self._temporary.load()),
            accesses=tuple(configuration.accesses),
            gateways=configuration.redirect.names,
            other_versions=natt,
            reactivate=configuration.reactivate,
            back_off=self._back_off.read(self.wall_offset),
        )
        self._endpoint = IkeEndpoint(
            entropy=self._entropy,
            extension=lambda: DeviceSwu(
                imei=configuration.imei,
                server_authenticated=lambda: self.device.server_authenticated,
                p_cscf_reselection=configuration.request.p_cscf_reselection,
                only_allowed=self.device.only_allowed,
                back_off=self.device.back_off_received,
                reactivation=self.device.reactivation_received,
                emergency_support=self.device.emergency_support_received,
                dropped=self._dropped_notifies,
            ),
            inbound_packets=self._inbound_packets,
        )
        self._ports = SwuPorts(on_ike=self._received_ike, on_esp=self._received_esp, tap=DatagramTap(self.recorder))
        self._data_plane = UserspaceDataPlane(
            entropy=self._entropy, deliver=self._delivered, transmit=self._transmit_esp
        )
        self.flows = Flows(self._send_inner)
        self._host: InProcessHost | None = None
        self._tun: TunDevice | None = None
        self._sa: IkeSa | None = None
        self._successor: IkeSa | None = None  # authenticates anew
        self._sessions: dict[bytes, str] = {}
        self._accesses_open: dict[str, AccessPorts] = {}
        self._last_counters: dict[bytes, ChildSaCounters] = {}
        self._installed: set[bytes] = set()
        self._driver: Driver[tuple[IkeSa, Event], Datagram] | None = None
        self._commands: deque[Command] = deque()
        self._carrying_out = False
        self._tickets = count(1)
        self._waiting: dict[int, asyncio.Future[str | None]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._control = self._platform.control(configuration.control, control_methods(self), self.recorder)

    # --- life

    async def run(self, work: Callable[[], Awaitable[None]] | None = None) -> None:
        """Serve the control socket and do ``work``; without any until ``stop``. Detaches at the end."""
        failure: StackError | None = None
        watching: asyncio.Task[None] | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._driver = Driver(self._endpoint, on_event=self._ike_event, transmit=self._ports.send_ike)
                try:
                    await self._control.start()
                    if self.configuration.silence_interval is not None:
                        watching = tasks.create_task(self._watch_silence(self.configuration.silence_interval))
                    self.recorder.event("started", f"The UE {self.configuration.imsi} is ready.")
                    self._warn_of_weak_algorithms()
                    await self._until_stopped(work or self._stopping.wait)
                except StackError as error:
                    failure = error  # raised inside the group it would leave as an ExceptionGroup
                finally:
                    await self._leave()
                    if watching is not None:
                        watching.cancel()
        finally:
            await self._close()
        if failure is not None:
            raise failure

    def _warn_of_weak_algorithms(self) -> None:
        config = self._ike_config
        warning = weakness({"algorithms.ike": config.ike_policy, "algorithms.esp": config.esp_policy})
        if warning is not None:
            _log.warning("%s", warning)
            self.recorder.event("weak-algorithms", warning)

    def stop(self) -> None:
        """End ``run``: the gateway is told and may answer; a second call does not wait for that."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    async def stopped(self) -> None:
        """Return when the node is told to stop."""
        await self._stopping.wait()

    async def stay_attached(self) -> None:
        """Attach, and try again after a while when that fails or the connection is lost (Android's pace)."""
        failures = 0
        while True:
            try:
                await self.attach()
                failures = 0
            except StackError as error:
                _log.error("%s", error)
            await self._idle.wait()
            if self.device.connection is not None and self.device.connection.detach_requested:
                await self.stopped()  # somebody detached the UE: it stays so until it is told otherwise
                return
            interval = RETRY_INTERVALS[min(failures, len(RETRY_INTERVALS) - 1)]
            back_off = self.device.back_off
            if back_off is not None:
                interval = max(
                    interval, back_off.until - self._now()
                )  # without an end: until the process is started anew
            failures += 1
            _log.info("attaching again in %g s", interval)
            await asyncio.sleep(interval)
            await self._idle.wait()

    async def _watch_silence(self, interval: float) -> None:
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
                self._pump()

    async def _until_stopped(self, work: Callable[[], Awaitable[object]]) -> None:
        async def done() -> None:
            await work()

        working = asyncio.ensure_future(done())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (working, stopping):
                each.cancel()
            await asyncio.wait((working, stopping))
        if not working.cancelled():
            working.result()

    async def _leave(self) -> None:
        """DELETE to the gateway, a bounded wait for its answer."""
        if self.device.state in (DeviceState.ATTACHING, DeviceState.ESTABLISHED):
            self._carry_out(self.device.detach(next(self._tickets), self._now()))
        waits = [asyncio.ensure_future(event.wait()) for event in (self._idle, self._hurry)]
        try:
            await asyncio.wait(waits, timeout=DETACH_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._sa is not None and self._sa.state is not SaState.CLOSED:
            self._endpoint.close(self._sa, "the UE stops", self._now())
            self._pump()

    async def _close(self) -> None:
        if self._driver is not None:
            self._driver.close()
        self.flows.stop_all()
        await self._control.close()
        self._ports.close_all()
        self._stop_host()

    # --- what a person asks for

    async def attach(self, access: str | None = None, *, force: bool = False) -> None:
        """Attach; returns when the UE is attached, ``ControlError`` says in one sentence why it is not.

        ``force``: even though the network has asked to be left alone (BACKOFF_TIMER).
        """
        name = self._access_name(access) if access is not None else next(iter(self.configuration.accesses))
        gateway = self.configuration.gateway
        if self.configuration.accesses[name].address.version not in {each.version for each in gateway.addresses}:
            raise ControlError("refused", f"the gateway {gateway.address} cannot be reached from access {name}")
        await self._wait_for("refused", lambda ticket: self.device.attach(name, ticket, self._now(), force=force))

    async def move(self, to: str, *, keep_old: bool = False) -> Move:
        """Move to an access, named or by its address; returns the measures when the gateway has agreed."""
        name = self._access_name(to)
        connection = self.device.connection
        await self._wait_for(
            "move-failed", lambda ticket: self.device.move(name, ticket, self._now(), keep_old=keep_old)
        )
        assert connection is not None  # or the move had been refused
        return next(move for move in reversed(connection.moves) if move.outcome is MoveOutcome.COMPLETED)

    async def detach(self) -> None:
        """Detach; returns when the gateway has answered or is given up."""
        await self._wait_for("detach-failed", lambda ticket: self.device.detach(ticket, self._now()))

    def rekey_ike(self) -> None:
        """Begin to rekey the IKE SA (RFC 7296 §1.3.2)."""
        self._endpoint.initiate(self._attached_sa(), RekeyIke(), self._now())
        self._pump()

    def rekey_child(self, inbound_spi: str | None = None) -> list[str]:
        """Begin to rekey a child SA, without an SPI all of them (RFC 7296 §1.3.3); which ones it were."""
        sa = self._attached_sa()
        spis = [spi for spi, one in sa.children.items() if not one.replaced and inbound_spi in (None, spi.hex())]
        if not spis:
            raise ControlError("not-found", f"there is no child SA {inbound_spi}")
        for spi in spis:
            self._endpoint.initiate(sa, RekeyChild(spi), self._now())
        self._pump()
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
        self._carry_out(self.device.close_access(self._access_name(name)))

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

    def _access_name(self, text: str) -> str:
        """An access by name or by address."""
        name = self.configuration.access_named(text)
        if name is None:
            known = ", ".join(self.configuration.accesses)
            raise ControlError("not-found", f"there is no access {text}; known are {known}")
        return name

    # --- IKE

    def _now(self) -> float:
        return self._clock.monotonic()

    def wall(self, moment: float) -> float:
        """The wall clock at a moment of the monotonic one."""
        return moment + self.wall_offset

    def _pump(self) -> None:
        if self._driver is not None:
            self._driver.pump()

    def _received_ike(self, datagram: Datagram) -> None:
        self._endpoint.receive(datagram, self._now())
        self._pump()

    def _ike_event(self, found: tuple[IkeSa, Event]) -> None:
        sa, event = found
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
            self._idle.set()
        else:
            self._idle.clear()
        self._pump()

    def _carry_out_one(self, command: Command) -> None:
        match command:
            case OpenAccess():
                self._open_access(command.access)
            case CloseAccess():
                self._close_access(command.access)
            case Connect():
                self._connect(command)
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
            case StartHost():
                self._start_host(command.addresses)
            case StopHost():
                self._stop_host()
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
        gateway = command.gateway or self.configuration.gateway.address
        self._gateway_ike = Endpoint(gateway, self._gateway_ike.port)
        config = replace(
            self._ike_config,
            nat_traversal_port=ports.nat_traversal.port,
            initial_contact=not self._endpoint.sas,  # RFC 7296 §2.4: true only of the first with this gateway
            identity=self._own_identity(command.identity),
            redirected=command.trail,
            session=command.session,
            initial_paths=() if command.gateway is not None else self._alternatives(ports.ike),
        )
        self._sa = None
        self._last_counters.clear()
        sa = self._endpoint.connect(config, self._way_to_gateway(ports.ike), self._now())
        self._sa = sa
        self._carry_out(self.device.connected(sa.window))

    def _inbound_packets(self, spi: bytes) -> int:
        try:
            return self._data_plane.counters(spi).evidence
        except LocalError:
            return 0

    def _way_to_gateway(self, local: Endpoint) -> Path:
        """To the gateway's address of the same IP version: the configuration has one for every access."""
        if self._gateway_ike.address.version == local.address.version:
            return Path(local, self._gateway_ike)
        gateway = self.configuration.gateway
        address = next(each for each in gateway.addresses if each.version == local.address.version)
        return Path(local, Endpoint(address, gateway.ike_port))

    def _alternatives(self, local: Endpoint) -> tuple[Path, ...]:
        """Where the first request is tried as well (RFC 4555 §3.1)."""
        known = self.configuration.gateway.alternatives
        fitting = [each for each in known if each.version == local.address.version]
        return tuple(Path(local, Endpoint(each, self._gateway_ike.port)) for each in fitting)

    def _connect_successor(self, command: ConnectSuccessor) -> None:
        """RFC 7296 §2.8.3: from scratch, and beside the present one, so without INITIAL_CONTACT."""
        ports = self.device.ports(command.access)
        wanted: dict[int | None, Address] = {address.version: address for address in command.addresses}
        request = tuple(
            replace(attribute, value=_requested(wanted.get(_INNER_ADDRESS.get(attribute.type))))
            for attribute in self._ike_config.configuration_request
        )
        config = replace(
            self._ike_config,
            nat_traversal_port=ports.nat_traversal.port,
            identity=self._own_identity(command.identity),
            initial_contact=False,
            configuration_request=request,
        )
        path = Path(ports.ike, Endpoint(command.gateway, self._gateway_ike.port))
        self._successor = self._endpoint.connect(config, path, self._now())
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
        return identification(identity) if by_eap else self._ike_config.identity

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
        section = self.configuration.accesses[name]
        opened: list[Endpoint] = []
        try:
            for port, encapsulating in ((section.ike_port, False), (section.nat_traversal_port, True)):
                local = Endpoint(section.address, port)
                opened.append(
                    self._ports.open(
                        local, encapsulating=encapsulating, opener=_opener(section, local, self._platform.open_link)
                    )
                )
        except StackError as error:
            for local in opened:
                self._ports.close(local)
            self._carry_out(self.device.access_failed(name, str(error), self._now()))
            return
        ports = AccessPorts(ike=opened[0], nat_traversal=opened[1])
        self._accesses_open[name] = ports
        self._carry_out(self.device.access_opened(name, ports, self._now()))

    def _close_access(self, name: str) -> None:
        ports = self._accesses_open.pop(name, None)
        if ports is not None:
            self._ports.close(ports.ike)
            self._ports.close(ports.nat_traversal)

    # --- inner packets

    def _start_host(self, addresses: tuple[Address, ...]) -> None:
        if self.configuration.data_plane.kind is DataPlaneKind.IN_PROCESS:
            self._host = InProcessHost(*addresses)
            self._carry_out(self.device.host_started(self._now()))
            return
        assert self._tasks is not None
        self._tasks.create_task(self._open_tun(addresses))

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
        outside = (*gateway.addresses, *gateway.alternatives)
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
        self.stop()

    def _stop_host(self) -> None:
        self.flows.stop_all()
        self._host = None
        if self._tun is not None:
            self._tun.close()
            self._tun = None

    def _received_esp(self, octets: bytes, path: Path) -> None:
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
            self._pump()

    def _transmit_esp(self, octets: bytes, path: Path, encapsulation: bool) -> None:
        del encapsulation
        self._ports.send_esp(octets, path)

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

    def status(self) -> dict[str, JsonValue]:
        """The node's health."""
        return {
            "node": self.configuration.node,
            "kind": KIND,
            "version": importlib.metadata.version(DISTRIBUTION),
            "started": self.recorder.started,
            "imsi": self.configuration.imsi,
            "state": self.device.state.value,
            "listen": [str(endpoint) for endpoint in self._ports.local_endpoints],
            "sessions": int(self.device.state is DeviceState.ESTABLISHED),
            "accesses": {
                name: {
                    "address": str(access.address),
                    "next_hop": None if access.next_hop is None else str(access.next_hop),
                    "hears": access.hears,
                    "open": name in self.device.open_accesses,
                }
                for name, access in self.configuration.accesses.items()
            },
            "dropped": {
                "ike": {str(name): number for name, number in self._dropped_ike().items()},
                "swu": {str(name): number for name, number in self._ports.dropped.items()},
                "esp": {reason.value: number for reason, number in self._data_plane.drops.items()},
            },
        }

    def _dropped_ike(self) -> Counter[str]:
        dropped = self._endpoint.dropped + self._dropped_notifies
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
            gateway=str(self._gateway_ike),
            session=self._session(),
        )

    def child_counters(self) -> list[JsonValue]:
        """What each child SA has carried."""
        if self._sa is None:
            return []
        return [{"inbound_spi": spi.hex(), "counters": counters_view(self._counters(spi))} for spi in self._sa.children]

    def _counters(self, spi: bytes) -> ChildSaCounters | None:
        try:
            return self._data_plane.counters(spi)
        except LocalError:
            return self._last_counters.get(spi)


def _opener(section: AccessSection, local: Endpoint, open_link: LinkOpener) -> Opener:
    """The link of an access: a socket, by way of a hop where there is one, deaf where it is."""

    def opener(receive: Receiver) -> Link:
        return open_link(local, receive)

    hop = section.next_hop
    through = opener if hop is None else (lambda receive: NextHopLink(opener, hop, receive))
    if section.hears:
        return through
    return lambda receive: LossyLink(through, receive, receive_loss=1.0)


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
