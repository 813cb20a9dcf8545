"""The gateway in a process: sockets, SWm, data plane, control socket, recorder; carries out what sessions say."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
from collections import Counter
from collections.abc import Coroutine
from ipaddress import ip_address, ip_interface

from epdg.addresses import GatewayAddresses
from epdg.authentication import own_credentials, ue_verifier
from epdg.config import DataPlaneKind, EpdgConfiguration, RedirectPoint, RedirectSection, RequestedAddress
from epdg.observation import session_view
from epdg.pdn.configuration import GrantedNetwork
from epdg.pdn.pool import AddressPools
from epdg.qcd import read_secrets
from epdg.resumption import ticket_office
from epdg.session import (
    AllocateAddress,
    AnswerIke,
    Command,
    ReleaseAddress,
    SendConfiguration,
    SendDer,
    SendStr,
    Session,
    SessionState,
    Tell,
)
from protocols.dataplane.port import ChildSaCounters, LifetimeReached, SequenceNumbersRunningOut
from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.dataplane.userspace.host import InProcessHost
from protocols.dataplane.userspace.tun import TunDevice
from protocols.diameter.swm import Dea, Der, SessionIdSource, Str, TerminalInformation
from protocols.errors import BackendError, LocalError, RemoteError
from protocols.ikev2.config import ResponderConfig
from protocols.ikev2.endpoint import IkeEndpoint
from protocols.ikev2.events import (
    ChildSaInstalled,
    ChildSaPathChanged,
    ChildSaRemoved,
    ChildSaRetired,
    Closed,
    ConfigurationRequested,
    Established,
    Event,
    IkeSaRekeyed,
    Resumed,
    SuccessorCreated,
)
from protocols.ikev2.payloads import IdrPayload
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.ikev2.redirection import Gateway, InitialRedirect
from protocols.ikev2.registry import IdType
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.tasks.config import ExchangeConfiguration
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.ikev2.tasks.reauthentication import LIFETIME_MAXIMUM, AuthenticationLifetime
from protocols.ikev2.tasks.redirect import RedirectPeer
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.io.algorithms import weakness
from protocols.io.clock import SystemClock
from protocols.io.control import ControlError, ControlServer, Params
from protocols.io.diameter import SWM, DiameterIdentity, PeerChange, Traffic
from protocols.io.diameter.composition import make_node, open_node
from protocols.io.driver import Driver
from protocols.io.entropy import SystemEntropy
from protocols.io.lifetime import machine_lifetime
from protocols.io.tap import DatagramTap
from protocols.io.udp import SwuPorts
from protocols.path import Address, Datagram, Endpoint, Path
from protocols.threegpp.identity import Plmn, epdg_fqdn
from protocols.threegpp.observation import record_esp_keys, record_ike_event
from protocols.threegpp.swu import GatewaySwu
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

KIND = "epdg"
DISTRIBUTION = "epdg-emulator"
LIST_LIMIT = 100
LIST_LIMIT_MAXIMUM = 1000
LOGGED = frozenset(
    {"attached", "moved", "redirected", "refused", "address-update-failed", "p-cscf-restored", "detached"}
)
DETACH_INTERVAL = 2.0  # for UEs to answer DELETE when the gateway stops
CLOSED_KEPT = 200  # ended sessions that can still be looked at

_log = logging.getLogger(__name__)


class Live:
    """A session with the SA it belongs to and its Diameter session."""

    def __init__(self, session: Session, sa: IkeSa, diameter_session_id: str) -> None:
        self.session = session
        self.sa = sa  # the present one: rekeying replaces it
        self.first_spi = sa.local_spi
        self.diameter_session_id = diameter_session_id
        self.expiry: asyncio.TimerHandle | None = None
        self.questions: set[asyncio.Task[None]] = set()


class EpdgNode:
    """One gateway; ``run`` serves until ``stop``."""

    def __init__(self, configuration: EpdgConfiguration) -> None:
        self._configuration = configuration
        self._clock = SystemClock()
        self._entropy = SystemEntropy()
        self._started = self._clock.wall()
        self.recorder = Recorder(
            configuration.node,
            monotonic=self._clock.monotonic,
            wall=self._clock.wall,
            export_keys=configuration.trace.export_keys,
            ring=configuration.trace.ring,
        )
        plmn = Plmn(configuration.plmn.mcc, configuration.plmn.mnc)
        self._fqdn = epdg_fqdn(plmn)
        self._addresses = GatewayAddresses(configuration.listen.addresses)
        self._endpoint = IkeEndpoint(
            entropy=self._entropy,
            responder=self._responder(),
            extension=lambda: GatewaySwu(request_device_identity=configuration.ike.request_device_identity),
            inbound_packets=self._inbound_packets,
        )
        self._ports = SwuPorts(on_ike=self._received_ike, on_esp=self._received_esp, tap=DatagramTap(self.recorder))
        self._data_plane = UserspaceDataPlane(
            entropy=self._entropy, deliver=self._delivered, transmit=self._transmit_esp
        )
        self._hosts: dict[bytes, InProcessHost] = {}
        self._tun: TunDevice | None = None
        self._pools = {name: AddressPools(apn.networks) for name, apn in configuration.apns.items()}
        diameter = configuration.diameter
        self._diameter = make_node(
            DiameterIdentity(host=diameter.host, realm=diameter.realm, applications=(SWM,)),
            diameter,
            entropy=self._entropy,
            wall=self._clock.wall,
        )
        self._diameter.on_traffic(self._record_traffic)
        self._diameter.on_peer(self._record_peer)
        self._session_ids = SessionIdSource(diameter.host, wall=self._clock.wall())
        self._visited_network = plmn.domain
        self._live: dict[bytes, Live] = {}
        self._superseded: Live | None = None
        self._ended: dict[str, dict[str, JsonValue]] = {}
        self._by_successor: dict[bytes, Live] = {}
        self._by_spi: dict[bytes, Live] = {}
        self._by_diameter: dict[str, str] = {}
        self.totals: Counter[str] = Counter()
        self._questions: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._emptied = asyncio.Event()
        self._driver: Driver[tuple[IkeSa, Event], Datagram] | None = None
        self._control = ControlServer(
            configuration.control,
            {
                "node.status": self._status,
                "sessions.list": self._list_sessions,
                "sessions.get": self._get_session,
                "sessions.detach": self._detach_session,
                "sessions.restore-pcscf": self._restore_p_cscf,
                "sessions.rekey-ike": self._rekey_ike,
                "sessions.rekey-child": self._rekey_child,
                "sessions.reauthenticate": self._reauthenticate,
                "sessions.redirect": self._redirect_session,
                "peers.list": self._list_peers,
                "addresses.list": self._list_addresses,
                "addresses.withdraw": self._withdraw_address,
                "addresses.restore": self._restore_address,
                "addresses.prefer": self._prefer_address,
            },
            self.recorder,
        )

    # --- life

    async def run(self) -> None:
        """Open everything, serve until ``stop``, then let go of UEs, AAA server and sockets."""
        configuration = self._configuration
        self._driver = Driver(self._endpoint, on_event=self._ike_event, transmit=self._ports.send_ike)
        try:
            for address in configuration.listen.addresses:
                self._open_ports(address)
            await self._open_core()
            await open_node(self._diameter, configuration.diameter)
            await self._control.start()
            self._warn_of_weak_algorithms()
            listening = ", ".join(str(endpoint) for endpoint in self._ports.local_endpoints)
            text = f"The gateway {self._fqdn} listens on {listening}."
            _log.info("%s", text)
            self.recorder.event("started", text, {"listen": listening})
            await self._stopping.wait()
            await self._let_go()
        finally:
            await self._close()

    def _warn_of_weak_algorithms(self) -> None:
        ike = self._configuration.ike
        warning = weakness({"ike.suites": IkePolicy.of(ike.suites), "ike.esp_suites": EspPolicy.of(ike.esp_suites)})
        if warning is not None:
            _log.warning("%s", warning)
            self.recorder.event("weak-algorithms", warning)

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()

    async def _let_go(self) -> None:
        """DELETE to every UE, STR for every session, a bounded wait for the answers."""
        now = self._now()
        self._emptied.clear()
        for live in list(self._live.values()):
            live.session.detach()
            self._endpoint.initiate(live.sa, DeleteIkeSa("the gateway stops"), now)
        self._pump()
        if self._live:
            try:
                async with asyncio.timeout(DETACH_INTERVAL):
                    await self._emptied.wait()
            except TimeoutError:
                _log.warning("%d UEs did not answer DELETE", len(self._live))
        for live in list(self._live.values()):
            self._endpoint.close(live.sa, "the gateway stops", self._now())
        self._pump()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DETACH_INTERVAL):
                while self._questions:  # an answer may bring forth an STR
                    await asyncio.wait(self._questions)

    async def _close(self) -> None:
        if self._driver is not None:
            self._driver.close()
        for question in list(self._questions):
            question.cancel()
        await self._diameter.close()
        await self._control.close()
        self._ports.close_all()
        if self._tun is not None:
            self._tun.close()

    async def _open_core(self) -> None:
        plane = self._configuration.data_plane
        if plane.kind is DataPlaneKind.IN_PROCESS:
            gateways = [pool.gateway for pools in self._pools.values() for pool in pools.pools]
            for address in (*plane.hosts, *gateways):
                self._hosts[address.packed] = InProcessHost(address)
            return
        addresses = [
            ip_interface(f"{pool.gateway}/{pool.network.prefixlen}")
            for pools in self._pools.values()
            for pool in pools.pools
        ]
        self._tun = await TunDevice.open(plane.device, addresses, plane.mtu)
        self._tun.start(self._from_core, self._tun_failed)

    def _open_ports(self, address: Address) -> None:
        listen = self._configuration.listen
        self._ports.open(Endpoint(address, listen.ike_port), encapsulating=False)
        self._ports.open(Endpoint(address, listen.nat_traversal_port), encapsulating=True)

    def _close_ports(self, address: Address) -> None:
        listen = self._configuration.listen
        self._ports.close(Endpoint(address, listen.ike_port))
        self._ports.close(Endpoint(address, listen.nat_traversal_port))

    def _responder(self) -> ResponderConfig:
        configuration = self._configuration
        ike = configuration.ike
        authentication = configuration.authentication
        redirect, resumption = ike.redirect, ike.resumption
        initial = None
        if redirect is not None and (redirect.stage is RedirectPoint.INIT or redirect.anycast):
            threshold = redirect.threshold if redirect.stage is RedirectPoint.INIT else None
            initial = InitialRedirect(
                gateway=redirect.gateway, threshold=threshold, anycast=frozenset(redirect.anycast)
            )
        tickets = None
        if resumption is not None:
            tickets = ticket_office(
                resumption.secret_file, resumption.lifetime, resumption.key_interval, self._clock.wall
            )
        return ResponderConfig(
            ike_policy=IkePolicy.of(ike.suites),
            esp_policy=EspPolicy.of(ike.esp_suites),
            retransmission=ike.retransmission.policy(),
            mobike=ike.mobike,
            fragmentation=ike.fragmentation,
            fragment_size=ike.fragment_size,
            window_size=ike.window_size,
            force_encapsulation=ike.force_encapsulation,
            nat_traversal_port=configuration.listen.nat_traversal_port,
            remote_nat_traversal_port=configuration.listen.nat_traversal_port,
            liveness_interval=ike.liveness_interval,
            keepalive_interval=ike.keepalive_interval,
            child_lifetime=machine_lifetime(ike.child_lifetime),
            ike_lifetime=machine_lifetime(ike.ike_lifetime),
            additional_children=ike.additional_children,
            credentials=own_credentials(configuration),
            authentications=frozenset(authentication.methods),
            shared_keys=authentication.psk,
            verifier=ue_verifier(authentication, self._clock.moment),
            own_authentication=authentication.gateway,
            identity=IdrPayload(id_type=IdType.ID_FQDN, data=self._fqdn.encode()),
            eap_only=ike.eap_only,
            additional_addresses=self._addresses.usable,
            acceptable_addresses=ike.acceptable_addresses,
            follow_esp=ike.follow_esp,
            move_by_rekey=ike.move_by_rekey,
            hold_lifetime=ike.hold_lifetime,
            return_routability=ike.return_routability,
            return_routability_interval=ike.return_routability_interval,
            half_open_lifetime=ike.half_open_lifetime,
            cookie_threshold=ike.cookie_threshold,
            cookie_rate=ike.cookie_rate,
            half_open_limit=ike.half_open_limit,
            authentication_lifetime=ike.authentication_lifetime,
            half_open_limit_per_source=ike.half_open_limit_per_source,
            unprotected_rate=ike.unprotected_rate,
            crash_secrets=() if ike.qcd_secret is None else read_secrets(ike.qcd_secret, self._entropy),
            childless=ike.childless,
            redirect=initial,
            redirected_lifetime=ike.redirected_lifetime,
            tickets=tickets,
        )

    # --- IKE

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _pump(self) -> None:
        if self._driver is not None:
            self._driver.pump()

    def _received_ike(self, datagram: Datagram) -> None:
        self._endpoint.receive(datagram, self._now())
        self._pump()

    def _ike_event(self, found: tuple[IkeSa, Event]) -> None:
        sa, event = found
        live = self._live.get(sa.local_spi) or self._by_successor.get(sa.local_spi)
        if live is None:
            live = self._begin(sa)
        record_ike_event(self.recorder, event, live.session.identifier)
        if isinstance(event, SuccessorCreated):
            self._by_successor[event.successor.local_spi] = live
        elif isinstance(event, IkeSaRekeyed):
            live.sa = event.successor
        elif isinstance(event, Closed) and sa is not live.sa:
            self._by_successor.pop(sa.local_spi, None)
            return  # rekeyed: the session goes on under another SA
        self._child_event(live, event)
        if isinstance(event, ConfigurationRequested) and event.initial_contact:
            self._forget_former(live)
        if isinstance(event, Resumed):
            self._inherit(live)
        self._carry_out(live, live.session.handle(event, self._clock.wall()))
        if isinstance(event, Established):
            self._granted_time(live)
        if isinstance(event, Closed):
            self._superseded = live if event.resumed else None
            self._end(live)

    def _inherit(self, heir: Live) -> None:
        """The former SA of a resumed one has just ended: its Diameter session goes on under the new one."""
        former, self._superseded = self._superseded, None
        if former is None:
            return  # it was lost before, and the AAA server was told so
        heir.session.inherit(former.session)
        self._by_diameter.pop(heir.diameter_session_id, None)
        heir.diameter_session_id = former.diameter_session_id
        self._by_diameter[heir.diameter_session_id] = heir.session.identifier

    def _elsewhere(self) -> Gateway | None:
        """Where a UE that comes now is sent when it is authenticated (RFC 5685 §6)."""
        redirect = self._configuration.ike.redirect
        if redirect is None or redirect.stage is not RedirectPoint.AUTHENTICATION:
            return None
        return redirect.gateway if len(self._live) >= redirect.threshold else None

    def _granted_time(self, live: Live) -> None:
        """Session-Timeout of the DEA (RFC 6733 §8.13)."""
        if live.session.session_timeout:
            loop = asyncio.get_running_loop()
            live.expiry = loop.call_later(live.session.session_timeout, self._session_expired, live)

    def _session_expired(self, live: Live) -> None:
        live.session.expire()
        self._endpoint.initiate(live.sa, DeleteIkeSa("the session time granted by the AAA server is over"), self._now())
        self._pump()

    def _forget_former(self, newcomer: Live) -> None:
        """RFC 7296 §2.4: with INITIAL_CONTACT all other SAs of that identity are dead; no DELETE is due.

        Only what was authenticated counts: a second tunnel that the UE sets up meanwhile goes on. Their end
        is carried out at once, so that the newcomer can have the address of a former session.
        """
        for former in list(self._live.values()):
            known = former.session.established is not None and former.session.subscriber == newcomer.session.subscriber
            if known and former is not newcomer:
                self._endpoint.close(former.sa, "the UE started anew (INITIAL_CONTACT)", self._now())
        while (found := self._endpoint.poll_event()) is not None:
            self._ike_event(found)

    def _begin(self, sa: IkeSa) -> Live:
        session = Session(
            sa.local_spi.hex(),
            default_apn=self._configuration.default_apn,
            own_names=frozenset({self._fqdn}),
            created=self._clock.wall(),
            elsewhere=self._elsewhere(),
        )
        live = Live(session, sa, self._session_ids.next())
        self._live[sa.local_spi] = live
        if self._addresses.withdrawn:
            self._tell_addresses(live)
        self._by_diameter[live.diameter_session_id] = session.identifier
        self.totals["sessions"] += 1
        return live

    def _end(self, live: Live) -> None:
        del self._live[live.first_spi]
        self._by_successor.pop(live.sa.local_spi, None)
        if live.expiry is not None:
            live.expiry.cancel()
        self._forget_diameter(live)
        if not self._live:
            self._emptied.set()
        if not live.session.nai and live.session.last_error is None:
            return  # nobody yet: another group was asked for, or nothing more came
        self._ended[live.session.identifier] = self._view(live)
        while len(self._ended) > CLOSED_KEPT:
            self._ended.pop(next(iter(self._ended)))

    def _child_event(self, live: Live, event: Event) -> None:
        session = live.session.identifier
        if isinstance(event, ChildSaInstalled):
            self._by_spi[event.spec.inbound_spi] = live
            if event.replaces is None:
                self._data_plane.install(event.spec)
            else:
                self._data_plane.replace(event.replaces, event.spec, send_at_once=event.send_at_once)
            record_esp_keys(self.recorder, event.spec, event.spec.path, session)
        elif isinstance(event, ChildSaPathChanged):
            self._data_plane.update_path(event.inbound_spi, event.path, event.encapsulation)
            child = live.sa.children.get(event.inbound_spi)
            if child is not None:
                record_esp_keys(self.recorder, child.spec, event.path, session)
        elif isinstance(event, ChildSaRetired):
            self._data_plane.retire(event.inbound_spi)
        elif isinstance(event, ChildSaRemoved):
            self._data_plane.remove(event.inbound_spi)
            self._by_spi.pop(event.inbound_spi, None)

    def _carry_out(self, live: Live, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, AnswerIke):
                self._endpoint.answer(live.sa, command.answer, self._now())
                self._pump()
            elif isinstance(command, SendDer):
                self._ask(live, self._send_der(live, command))
            elif isinstance(command, SendStr):
                self._ask(live, self._send_str(live, command))
            elif isinstance(command, AllocateAddress):
                addresses, network = self._allocate(live, command)
                self._carry_out(live, live.session.address_allocated(addresses, network))
            elif isinstance(command, SendConfiguration):
                task = ExchangeConfiguration(command.type, command.attributes)
                self._endpoint.initiate(live.sa, task, self._now())
                self._pump()
            elif isinstance(command, ReleaseAddress):
                pool = self._pools.get(command.apn)
                if pool is not None and not self._held_by_another(live, command.apn, (command.address,)):
                    pool.release(command.address)
            elif isinstance(command, Tell):
                self.totals[command.name] += 1
                if command.name in LOGGED:
                    _log.info("%s", command.text)
                self.recorder.event(command.name, command.text, command.data, live.session.identifier)

    def _held_by_another(self, live: Live, apn: str, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
        """Which of these addresses another session of the same subscriber has, one that is authenticated anew."""
        held: set[Address] = set()
        for other in self._live.values():
            session = other.session
            same = session.subscriber == live.session.subscriber and session.apn == apn
            if other is not live and same and session.state is not SessionState.CLOSED:
                held.update(session.inner_addresses)
        return tuple(address for address in addresses if address in held)

    def _allocate(self, live: Live, command: AllocateAddress) -> tuple[tuple[Address, ...], GrantedNetwork | None]:
        apn = self._configuration.apns.get(command.apn)
        if apn is None:
            return (), None
        ike, pools = self._configuration.ike, self._pools[command.apn]
        network = GrantedNetwork(
            versions=pools.versions,
            dns=apn.dns,
            p_cscf=apn.p_cscf,
            application_version=ike.application_version,
            liveness_period=ike.ue_liveness_period,
        )
        addresses = pools.allocate(
            command.versions,
            wanted=command.wanted,
            static=command.static,
            # these go with the newer of the two sessions (RFC 7296 §2.8.3)
            held=self._held_by_another(live, command.apn, (*command.static, *command.wanted)),
            single=command.single,
            other=apn.requested_address is RequestedAddress.PREFERRED,
        )
        return addresses, network

    # --- SWm

    def _ask(self, live: Live, question: Coroutine[None, None, None]) -> None:
        def done(task: asyncio.Task[None]) -> None:
            self._questions.discard(task)
            live.questions.discard(task)
            self._forget_diameter(live)

        task = asyncio.get_running_loop().create_task(question)
        self._questions.add(task)
        live.questions.add(task)
        task.add_done_callback(done)

    def _forget_diameter(self, live: Live) -> None:
        """Of a session that has ended and waits for no answer no Diameter message will come any more."""
        if live.session.state is SessionState.CLOSED and not live.questions:
            self._by_diameter.pop(live.diameter_session_id, None)

    async def _send_der(self, live: Live, command: SendDer) -> None:
        diameter = self._configuration.diameter
        device = live.sa.extension
        imei = device.device_identity if isinstance(device, GatewaySwu) else None
        der = Der(
            session_id=live.diameter_session_id,
            origin_host=diameter.host,
            origin_realm=diameter.realm,
            destination_realm=diameter.destination_realm or diameter.realm,
            destination_host=command.destination_host,
            user_name=command.user_name,
            eap_payload=command.eap_payload,
            service_selection=command.apn,
            ue_local_ip=command.ue_address.remote.address,
            visited_network_identifier=self._visited_network,
            terminal_information=terminal_information(imei),
            state=command.state,
        )
        try:
            answer = await self._diameter.request(der.to_message(), diameter.request_interval)
            commands = live.session.aaa_answered(Dea.from_message(answer))
        except BackendError as error:
            self.recorder.event("aaa-unreachable", f"SWm: {error}.", {}, live.session.identifier)
            commands = live.session.aaa_failed(str(error))
        except RemoteError as error:
            commands = live.session.aaa_failed(f"its answer cannot be used: {error}")
        self._carry_out(live, commands)

    async def _send_str(self, live: Live, command: SendStr) -> None:
        diameter = self._configuration.diameter
        request = Str(
            session_id=live.diameter_session_id,
            origin_host=diameter.host,
            origin_realm=diameter.realm,
            destination_realm=diameter.destination_realm or diameter.realm,
            destination_host=command.destination_host,
            user_name=command.user_name,
            termination_cause=command.termination_cause,
        )
        try:
            await self._diameter.request(request.to_message(), diameter.request_interval)
        except BackendError as error:
            text = f"SWm: the AAA server was not told of the session's end: {error}."
            self.recorder.event("str-failed", text, {}, live.session.identifier)

    def _record_traffic(self, traffic: Traffic) -> None:
        session = None
        if traffic.message is not None:
            session = self._by_diameter.get(traffic.message.text("Session-Id") or "")
        for kind, body in traffic.records(export_keys=self._configuration.trace.export_keys):
            self.recorder.record(kind, body, session)

    def _record_peer(self, change: PeerChange) -> None:
        self.recorder.event("peer-up" if change.is_up else "peer-down", change.text, {"peer": change.peer})

    # --- data plane

    def _received_esp(self, octets: bytes, path: Path) -> None:
        self._data_plane.receive_esp(octets, path)
        self._data_plane_events()

    def _data_plane_events(self) -> None:
        while (event := self._data_plane.poll_event()) is not None:
            live = self._by_spi.get(event.inbound_spi)
            if live is None:
                continue
            if isinstance(event, SequenceNumbersRunningOut):
                self._endpoint.limit_reached(live.sa, event.inbound_spi, self._now(), hard=event.exhausted)
                self._pump()
            elif isinstance(event, LifetimeReached):
                self._endpoint.limit_reached(live.sa, event.inbound_spi, self._now(), hard=event.hard)
                self._pump()
            elif self._endpoint.esp_heard_from(live.sa, event.inbound_spi, event.path, self._now()):
                text = f"ESP of {live.session.imsi or live.session.nai} comes from {event.path.remote}; ours follows."
                moved: dict[str, JsonValue] = {"remote": str(event.path.remote)}
                self.recorder.event("esp-followed", text, moved, live.session.identifier)
                self._pump()
            else:
                text = f"ESP of {live.session.imsi or live.session.nai} comes from {event.path.remote}; not followed."
                data: dict[str, JsonValue] = {"remote": str(event.path.remote)}
                self.totals["esp-from-elsewhere"] += 1
                self.recorder.event("esp-from-elsewhere", text, data, live.session.identifier)

    def _transmit_esp(self, octets: bytes, path: Path, encapsulation: bool) -> None:
        if not encapsulation:
            self.totals["esp-without-encapsulation"] += 1
            return
        self._ports.send_esp(octets, path)

    def _delivered(self, packet: bytes, inbound_spi: bytes) -> None:
        del inbound_spi
        if self._tun is not None:
            self._tun.write(packet)
            return
        host = self._hosts.get(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40])
        if host is None:
            self.totals["core-no-such-host"] += 1
            return
        answer = host.receive(packet)
        if answer is not None:
            self._data_plane.send_inner(answer)

    def _from_core(self, packet: bytes) -> None:
        self._data_plane.send_inner(packet)
        self._data_plane_events()

    def _tun_failed(self, error: BackendError) -> None:
        self.recorder.event("tun-failed", f"The TUN device failed: {error}.")
        _log.error("%s", error)
        self.stop()

    # --- control

    async def _status(self, params: Params) -> JsonValue:
        del params
        return {
            "node": self._configuration.node,
            "kind": KIND,
            "version": importlib.metadata.version(DISTRIBUTION),
            "started": self._started,
            "fqdn": self._fqdn,
            "listen": [str(endpoint) for endpoint in self._ports.local_endpoints],
            "sessions": len(self._live),
            "half_open": self._endpoint.half_open,
            "totals": dict(self.totals),
            "dropped": {
                "ike": {str(k): v for k, v in self._dropped_ike().items()},
                "swu": {str(k): v for k, v in self._ports.dropped.items()},
                "esp": {str(getattr(k, "value", k)): v for k, v in self._data_plane.drops.items()},
                "diameter": {str(k): v for k, v in self._diameter.dropped.items()},
            },
            "addresses_in_use": {name: pool.in_use for name, pool in self._pools.items()},
        }

    def _dropped_ike(self) -> Counter[str]:
        dropped = Counter(self._endpoint.dropped)
        for live in self._live.values():
            dropped.update(live.sa.dropped)
        return dropped

    async def _list_sessions(self, params: Params) -> JsonValue:
        limit = params.get("limit", LIST_LIMIT)
        cursor = params.get("cursor")
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= LIST_LIMIT_MAXIMUM:
            raise ControlError("bad-params", f"limit: a whole number from 1 to {LIST_LIMIT_MAXIMUM}")
        if not (cursor is None or (isinstance(cursor, str) and cursor.isdecimal())):
            raise ControlError("bad-params", "cursor: what a previous answer gave as next")
        views = [self._view(live) for live in self._live.values()] + list(reversed(self._ended.values()))
        views = [view for view in views if _matches(view, params)]
        start = int(cursor) if cursor else 0
        page = views[start : start + limit]
        more = start + limit < len(views)
        return {"sessions": list(page), "next": str(start + limit) if more else None, "total": len(views)}

    async def _get_session(self, params: Params) -> JsonValue:
        identifier = params.get("id")
        live = self._find(identifier)
        if live is not None:
            return self._view(live)
        if isinstance(identifier, str) and identifier in self._ended:
            return self._ended[identifier]
        raise ControlError("not-found", f"no session {identifier}")

    async def _detach_session(self, params: Params) -> JsonValue:
        live = self._find(params.get("id"))
        if live is None:
            raise ControlError("not-found", f"no session {params.get('id')}")
        if live.session.state is SessionState.CLOSING:
            return {"id": live.session.identifier, "state": live.session.state.value}
        live.session.detach()
        self._endpoint.initiate(live.sa, DeleteIkeSa("detached by the operator"), self._now())
        self._pump()
        return {"id": live.session.identifier, "state": live.session.state.value}

    async def _restore_p_cscf(self, params: Params) -> JsonValue:
        """P-CSCF restoration by its extended mechanism (TS 23.380 §5.6.5): other addresses, no new tunnel."""
        live = self._find(params.get("id"))
        if live is None:
            raise ControlError("not-found", f"no session {params.get('id')}")
        swu = live.sa.extension
        if not (isinstance(swu, GatewaySwu) and swu.p_cscf_reselection):
            raise ControlError("not-possible", "the UE did not announce P_CSCF_RESELECTION_SUPPORT")
        commands = live.session.restore_p_cscf(_addresses(params.get("addresses")))
        if not commands:
            raise ControlError("not-possible", "the UE is not attached, or asked for no P-CSCF of these IP versions")
        self._carry_out(live, commands)
        return {"id": live.session.identifier, "state": live.session.state.value}

    async def _rekey_ike(self, params: Params) -> JsonValue:
        """RFC 7296 §1.3.2; the answer says that it has begun."""
        live = self._established(params)
        self._endpoint.initiate(live.sa, RekeyIke(), self._now())
        self._pump()
        return {"id": live.session.identifier}

    async def _rekey_child(self, params: Params) -> JsonValue:
        """RFC 7296 §1.3.3: the child SA with this inbound SPI, without one all of them."""
        live = self._established(params)
        wanted = params.get("inbound_spi")
        spis = [spi for spi, child in live.sa.children.items() if not child.replaced and wanted in (None, spi.hex())]
        if not spis:
            raise ControlError("not-found", f"no child SA {wanted} in session {live.session.identifier}")
        for spi in spis:
            self._endpoint.initiate(live.sa, RekeyChild(spi), self._now())
        self._pump()
        return {"id": live.session.identifier, "inbound_spis": [spi.hex() for spi in spis]}

    async def _reauthenticate(self, params: Params) -> JsonValue:
        """RFC 4478 §2: the UE has so many seconds to authenticate anew, none: it is to begin at once."""
        live, lifetime = self._established(params), params.get("lifetime", 0)
        if not isinstance(lifetime, int | float) or isinstance(lifetime, bool) or not 0 <= lifetime <= LIFETIME_MAXIMUM:
            raise ControlError("bad-params", f"lifetime is a number of seconds from 0 to {LIFETIME_MAXIMUM}")
        self._endpoint.initiate(live.sa, AuthenticationLifetime(lifetime), self._now())
        self._pump()
        return {"id": live.session.identifier}

    def _established(self, params: Params) -> Live:
        live = self._find(params.get("id"))
        if live is None:
            raise ControlError("not-found", f"no session {params.get('id')}")
        if live.session.state is not SessionState.ESTABLISHED:
            raise ControlError("not-now", f"session {live.session.identifier} is {live.session.state.value}")
        return live

    async def _list_addresses(self, params: Params) -> JsonValue:
        del params
        return self._addresses.view()

    async def _withdraw_address(self, params: Params) -> JsonValue:
        """Lose an address: its ports close; UEs are told, or with ``silently`` have to find out."""
        address = self._addresses.named(params)
        silently = params.get("silently", False)
        if not isinstance(silently, bool):
            raise ControlError("bad-params", "silently is true or false")
        self._addresses.withdraw(address)
        self._close_ports(address)
        text = f"The gateway has lost {address}{' without a word' if silently else ''}."
        self.recorder.event("address-withdrawn", text, {"address": str(address), "silently": silently})
        if not silently:
            self._tell_everybody()
        return self._addresses.view()

    async def _restore_address(self, params: Params) -> JsonValue:
        """Have an address again."""
        address = self._addresses.named(params)
        if address in self._addresses.withdrawn:
            self._open_ports(address)
            self._addresses.restore(address)
            self.recorder.event("address-restored", f"The gateway has {address} again.", {"address": str(address)})
            self._tell_everybody()
        return self._addresses.view()

    async def _prefer_address(self, params: Params) -> JsonValue:
        """Ask one session, or all of them, to use an address (RFC 4555 §3.6)."""
        address = self._addresses.named(params)
        if address in self._addresses.withdrawn:
            raise ControlError("not-found", f"the gateway has lost {address}")
        chosen = list(self._live.values())
        if params.get("id") is not None:
            one = self._find(params.get("id"))
            if one is None:
                raise ControlError("not-found", f"no session {params.get('id')}")
            chosen = [one]
        for live in chosen:
            self._tell_addresses(live, prefer=address)
        self._pump()
        return self._addresses.view()

    def _tell_everybody(self) -> None:
        for live in list(self._live.values()):
            self._tell_addresses(live)
        self._pump()

    def _tell_addresses(self, live: Live, prefer: Address | None = None) -> None:
        port = self._configuration.listen.nat_traversal_port
        endpoints = [Endpoint(address, port) for address in self._addresses.present(prefer)]
        self._endpoint.set_addresses(live.sa, endpoints, self._now(), prefer=prefer is not None)

    async def _redirect_session(self, params: Params) -> JsonValue:
        """RFC 5685 §5: the UE is told to go to another gateway, and deletes the session itself."""
        live = self._find(params.get("id"))
        if live is None:
            raise ControlError("not-found", f"no session {params.get('id')}")
        gateway = params.get("gateway")
        try:
            target = RedirectSection.model_validate({"gateway": gateway}).gateway
        except ValueError:
            raise ControlError("bad-params", "gateway: an address or a domain name") from None
        if live.session.state is not SessionState.ESTABLISHED:
            raise ControlError("not-possible", f"the session is {live.session.state.value}")
        try:
            task = RedirectPeer(live.sa, target)
        except LocalError as error:
            raise ControlError("not-possible", str(error)) from error
        self._endpoint.initiate(live.sa, task, self._now())
        self._pump()
        return {"id": live.session.identifier, "gateway": str(target)}

    async def _list_peers(self, params: Params) -> JsonValue:
        del params
        return {"peers": [peer.to_json() for peer in self._diameter.peers()]}

    def _find(self, identifier: JsonValue) -> Live | None:
        return next((live for live in self._live.values() if live.session.identifier == identifier), None)

    def _view(self, live: Live) -> dict[str, JsonValue]:
        return session_view(
            live.session,
            live.sa,
            self._counters,
            gateway=self._configuration.node,
            diameter_session_id=live.diameter_session_id,
        )

    def _inbound_packets(self, spi: bytes) -> int:
        counters = self._counters(spi)
        return 0 if counters is None else counters.evidence

    def _counters(self, spi: bytes) -> ChildSaCounters | None:
        try:
            return self._data_plane.counters(spi)
        except LocalError:
            return None


def terminal_information(digits: str | None) -> TerminalInformation | None:
    """Terminal-Information from an IMEI (14 or 15 digits) or IMEISV (16: two of the software)."""
    if digits is None:
        return None
    if len(digits) == 16:
        return TerminalInformation(digits[:14], digits[14:])
    return TerminalInformation(digits)


def _addresses(value: JsonValue) -> tuple[Address, ...]:
    listed = value if isinstance(value, list) else []
    try:
        if listed:
            return tuple(ip_address(str(each)) for each in listed)
    except ValueError:
        pass
    raise ControlError("bad-params", "addresses: a list of IP addresses")


def _matches(view: dict[str, JsonValue], params: Params) -> bool:
    for name in ("imsi", "apn", "state"):
        wanted = params.get(name)
        if wanted is not None and view[name] != wanted:
            return False
    address = params.get("address")
    if address is None:
        return True
    inner = view["inner_addresses"]
    ike = view["ike"]
    remote = ike["path"]["remote"] if isinstance(ike, dict) and isinstance(ike["path"], dict) else ""
    return (isinstance(inner, list) and address in inner) or str(remote).rpartition(":")[0].strip("[]") == address
