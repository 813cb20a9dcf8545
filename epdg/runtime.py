"""The gateway in a process: sockets, SWm, data plane, control socket, recorder; carries out what sessions say."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections import Counter
from ipaddress import ip_network

from epdg.addresses import GatewayAddresses
from epdg.commands import (
    AllocateAddress,
    AnswerIke,
    AuthenticateAnew,
    Command,
    DeleteUe,
    GrantTime,
    ReleaseAddress,
    SendAar,
    SendConfiguration,
    SendDer,
    SendStr,
    Tell,
)
from epdg.config import EpdgConfiguration, RedirectPoint, RequestedAddress
from epdg.control import control_methods
from epdg.core import Core
from epdg.live import Live, SubscriberSessions
from epdg.observation import session_view
from epdg.pdn.configuration import GrantedNetwork
from epdg.pdn.pool import AddressPools, ForeignAddresses
from epdg.profile import data_plane_needs, responder_config, service_policy
from epdg.session import Session, SessionState
from epdg.swm import SwmClient
from epdg.telling import turned_away
from protocols.dataplane.choice import carrier_of, choose
from protocols.dataplane.port import ChildSaCounters, LifetimeReached, SequenceNumbersRunningOut
from protocols.errors import BackendError, LocalError, StackError
from protocols.ikev2.endpoint import IkeEndpoint, installs_child_sa
from protocols.ikev2.events import (
    ChildSaInstalled,
    ChildSaPathChanged,
    ChildSaRemoved,
    ChildSaRetired,
    Closed,
    ConfigurationRequested,
    Event,
    IkeSaRekeyed,
    Resumed,
    SaState,
    SuccessorCreated,
)
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.ikev2.redirection import Gateway
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.task import Task
from protocols.ikev2.tasks.config import ExchangeConfiguration
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.ikev2.tasks.reauthentication import AuthenticationLifetime
from protocols.io.algorithms import weakness
from protocols.io.driver import Driver
from protocols.io.esp_tap import EspTap
from protocols.io.link import Opener
from protocols.io.platform import Platform
from protocols.io.raw import esp_transport
from protocols.io.tap import DatagramTap
from protocols.io.udp import SwuPorts
from protocols.path import Address, Datagram, Endpoint, Path
from protocols.threegpp.identity import Plmn, epdg_fqdn
from protocols.threegpp.observation import record_esp_keys, record_ike_event
from protocols.threegpp.swu import GatewaySwu
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

LOGGED = frozenset(
    {
        "attached",
        "moved",
        "redirected",
        "refused",
        "address-update-failed",
        "p-cscf-restored",
        "authorisation-renewed",
        "authorisation-not-renewed",
        "dismissed",
        "detached",
    }
)
REASONED = {
    "address-update-failed": "why",
    "address-update-unchecked": "why",
    "attach-ended": "why",
    "detached": "why",
    "refused": "cause",
}
REASONS_MAXIMUM = 40  # of one kind, told apart
DETACH_INTERVAL = 2.0  # for UEs to answer DELETE when the gateway stops
CLOSED_KEPT = 200  # ended sessions that can still be looked at

_log = logging.getLogger(__name__)


class EpdgNode:
    """One gateway; ``run`` serves until ``stop``."""

    def __init__(self, configuration: EpdgConfiguration, platform: Platform | None = None) -> None:
        platform = platform or Platform()
        self.configuration = configuration
        self._clock = platform.clock
        self._entropy = platform.entropy
        self.started = self._clock.wall()
        self.wall_offset = self.started - self._clock.monotonic()
        self.recorder = Recorder(
            configuration.node,
            monotonic=self._clock.monotonic,
            wall=self._clock.wall,
            export_keys=configuration.trace.export_keys,
            ring=configuration.trace.ring,
            enabled=configuration.trace.enabled,
        )
        plmn = Plmn(configuration.plmn.mcc, configuration.plmn.mnc)
        self.fqdn = epdg_fqdn(plmn)
        self.addresses = GatewayAddresses(configuration.listen.addresses)
        needs = data_plane_needs(configuration)
        self.backend = choose(configuration.data_plane.backend, needs)
        self.carrier = carrier_of(self.backend, needs, platform)
        self._esp_transport = esp_transport(
            configuration.ike.force_encapsulation, self.carrier.open_raw, (configuration.listen.nat_traversal_port,)
        )
        self.endpoint = IkeEndpoint(
            entropy=self._entropy,
            responder=responder_config(
                configuration,
                fqdn=self.fqdn,
                addresses=self.addresses.usable,
                force_encapsulation=self._esp_transport.forced,
                clock=self._clock,
                entropy=self._entropy,
            ),
            extension=self._extension,
            inbound_packets=self._inbound_packets,
        )
        unseen = self.recorder.enabled and not self.carrier.sees_packets
        self.esp_tap = EspTap(self.recorder) if unseen else None
        self.ports = SwuPorts(
            on_ike=self._received_ike,
            on_esp=self._received_esp,
            tap=DatagramTap(self.recorder),
            esp_tap=self.esp_tap,
            open_link=platform.open_link,
        )
        self.data_plane = self.carrier.plane(
            deliver=self._delivered,
            transmit=self.ports.send_esp,
            told=self._data_plane_events,
            path_mtu=self.ports.path_mtu,
        )
        self.pools = _address_pools(configuration)
        self.core = Core(configuration.data_plane, configuration.apns, self._from_core, self._entropy)
        self._service = service_policy(configuration)
        self.swm = SwmClient(
            configuration.diameter,
            visited_network=plmn.domain,
            recorder=self.recorder,
            clock=self._clock,
            entropy=self._entropy,
            carry_out=self.carry_out,
        )
        self.dropped_notifies: Counter[str] = Counter()
        self.live: dict[bytes, Live] = {}
        self._subscribers = SubscriberSessions()
        self._superseded: Live | None = None
        self.ended: dict[str, dict[str, JsonValue]] = {}
        self._by_successor: dict[bytes, Live] = {}
        self._by_spi: dict[bytes, Live] = {}
        self.totals: Counter[str] = Counter()
        self.reasons: dict[str, Counter[str]] = {}
        self._stopping = asyncio.Event()
        self._emptied = asyncio.Event()
        self._driver: Driver[tuple[IkeSa, Event], Datagram] | None = None
        self._control = platform.control(configuration.control, control_methods(self), self.recorder)

    # --- life

    async def run(self) -> None:
        """Open everything, serve until ``stop``, then let go of UEs, AAA server and sockets."""
        configuration = self.configuration
        self._driver = Driver(
            self.endpoint, on_event=self._ike_event, transmit=self.ports.send_ike, urgent=installs_child_sa
        )
        try:
            self.carrier.start()
            for address in configuration.listen.addresses:
                self.open_ports(address)
            open_device = functools.partial(self.carrier.open_device, self.data_plane)
            await self.core.open(open_device, self._device_lost, self._device_back)
            await self.swm.open()
            await self._control.start()
            self._warn_of_weak_algorithms()
            for remark in (self.backend.remark, self._esp_transport.remark):
                if remark is not None:
                    _log.info("%s", remark)
            listening = ", ".join(str(endpoint) for endpoint in self.ports.local_endpoints)
            text = f"The gateway {self.fqdn} listens on {listening}."
            _log.info("%s", text)
            self.recorder.event("started", text, {"listen": listening})
            await self._stopping.wait()
            await self._let_go()
        finally:
            await self._close()

    def _warn_of_weak_algorithms(self) -> None:
        ike = self.configuration.ike
        warning = weakness({"ike.suites": IkePolicy.of(ike.suites), "ike.esp_suites": EspPolicy.of(ike.esp_suites)})
        if warning is not None:
            _log.warning("%s", warning)
            self.recorder.event("weak-algorithms", warning)

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()

    async def _let_go(self) -> None:
        """DELETE to every UE, STR for every session, a bounded wait for the answers."""
        now = self.now()
        self._emptied.clear()
        for live in list(self.live.values()):
            live.session.detach("gateway-stops")
            self.endpoint.initiate(live.sa, DeleteIkeSa("the gateway stops"), now)
        self.pump()
        if self.live:
            try:
                async with asyncio.timeout(DETACH_INTERVAL):
                    await self._emptied.wait()
            except TimeoutError:
                _log.warning("%d UEs did not answer DELETE", len(self.live))
        for live in list(self.live.values()):
            self.endpoint.close(live.sa, "the gateway stops", self.now())
        self.pump()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DETACH_INTERVAL):
                await self.swm.settle()

    async def _close(self) -> None:
        if self._driver is not None:
            self._driver.close()
        await self.swm.close()
        await self._control.close()
        self.ports.close_all()
        self.core.close()
        self.carrier.close()

    def _extension(self) -> GatewaySwu:
        configuration = self.configuration
        return GatewaySwu(
            request_device_identity=configuration.ike.request_device_identity
            or configuration.ike.require_device_identity,
            emergency_support=configuration.emergency is not None,
            dropped=self.dropped_notifies,
        )

    def open_ports(self, address: Address) -> None:
        """Serve IKE at an address."""
        listen = self.configuration.listen
        self.ports.open(Endpoint(address, listen.ike_port), encapsulating=False)
        local, open_raw = Endpoint(address, listen.nat_traversal_port), self._esp_transport.open_raw
        opener = functools.partial(self.carrier.open_link, local)
        raw: Opener | None = None if open_raw is None else functools.partial(open_raw, local)
        self.ports.open(local, encapsulating=True, opener=opener, raw=raw)

    def close_ports(self, address: Address) -> None:
        """Serve IKE at an address no more."""
        listen = self.configuration.listen
        self.ports.close(Endpoint(address, listen.ike_port))
        self.ports.close(Endpoint(address, listen.nat_traversal_port))

    # --- IKE

    def now(self) -> float:
        """The machines' clock."""
        return asyncio.get_running_loop().time()

    def pump(self) -> None:
        """Send what waits and take what the IKE SAs tell."""
        if self._driver is not None:
            self._driver.pump()

    def _received_ike(self, datagram: Datagram) -> None:
        self.endpoint.receive(datagram, self.now())
        while (turned := self.endpoint.poll_turned_away()) is not None:
            told = turned_away(turned)  # there is no session: the UE's SPI names the attempt
            self.recorder.event(told.name, told.text, told.data, turned.spi_i.hex())
        self.pump()

    def _ike_event(self, found: tuple[IkeSa, Event]) -> None:
        sa, event = found
        live = self.live.get(sa.local_spi) or self._by_successor.get(sa.local_spi)
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
        try:
            self._child_event(live, event)
        except StackError as error:
            self._not_carried(live, error)
        if isinstance(event, ConfigurationRequested) and event.initial_contact:
            self._forget_former(live)
        if isinstance(event, Resumed):
            self._inherit(live)
        device = live.sa.extension
        if isinstance(device, GatewaySwu) and device.device_identity is not None:
            live.session.device_identity = device.device_identity
        self.carry_out(live, live.session.handle(event, self._clock.wall()))
        if isinstance(event, Closed):
            self._superseded = live if event.resumed else None
            self._end(live)

    def _inherit(self, heir: Live) -> None:
        """The former SA of a resumed one has just ended: its Diameter session goes on under the new one."""
        former, self._superseded = self._superseded, None
        if former is None:
            return  # it was lost before, and the AAA server was told so
        heir.session.inherit(former.session)
        self.swm.inherit(heir, former)

    def _elsewhere(self) -> Gateway | None:
        """Where a UE that comes now is sent when it is authenticated (RFC 5685 §6)."""
        redirect = self.configuration.ike.redirect
        if redirect is None or redirect.stage is not RedirectPoint.AUTHENTICATION:
            return None
        return redirect.gateway if len(self.live) >= redirect.threshold else None

    def _congested(self, who: str) -> bool:
        """Whether there are as many sessions as the gateway is to take, and none of this NAI's or subscriber's."""
        threshold = self.configuration.limits.congestion_threshold
        if threshold is None:
            return False
        up = [each.session for each in self.live.values() if each.session.state is SessionState.ESTABLISHED]
        return len(up) >= threshold and not any(who in (session.nai, session.subscriber) for session in up)

    def _granted_time(self, live: Live, seconds: int | None) -> None:
        """Session-Timeout (RFC 6733 §8.13), the first or another one."""
        if live.expiry is not None:
            live.expiry.cancel()
            live.expiry = None
        if seconds:
            live.expiry = asyncio.get_running_loop().call_later(seconds, self._session_expired, live)

    def _session_expired(self, live: Live) -> None:
        live.session.expire()
        self.endpoint.initiate(live.sa, DeleteIkeSa("the session time granted by the AAA server is over"), self.now())
        self.pump()

    def _forget_former(self, newcomer: Live) -> None:
        """RFC 7296 §2.4: with INITIAL_CONTACT all other SAs of that identity are dead; no DELETE is due.

        Only what was authenticated counts: a second tunnel that the UE sets up meanwhile goes on. Their end
        is carried out at once, so that the newcomer can have the address of a former session.
        """
        for former in self._subscribers.beside(newcomer):
            if former.session.established is not None:
                former.session.supersede()
                self.endpoint.close(former.sa, "the UE started anew (INITIAL_CONTACT)", self.now())
        while (found := self.endpoint.poll_event()) is not None:
            self._ike_event(found)

    def _begin(self, sa: IkeSa) -> Live:
        session = Session(
            sa.local_spi.hex(),
            default_apn=self.configuration.default_apn,
            own_names=frozenset({self.fqdn}),
            created=self._clock.wall(),
            policy=self._service,
            elsewhere=self._elsewhere(),
            congested=self._congested,
        )
        live = Live(session, sa, self.swm.new_session_id())
        self.live[sa.local_spi] = live
        if self.addresses.withdrawn:
            self.tell_addresses(live)
        self.swm.register(live)
        self.totals["sessions"] += 1
        return live

    def _end(self, live: Live) -> None:
        del self.live[live.first_spi]
        self._subscribers.forget(live)
        self._by_successor.pop(live.sa.local_spi, None)
        if live.expiry is not None:
            live.expiry.cancel()
        self.swm.forget(live)
        if not self.live:
            self._emptied.set()
        if not live.session.nai and live.session.last_error is None:
            return  # nobody yet: another group was asked for, or nothing more came
        self.ended[live.session.identifier] = self.view(live)
        while len(self.ended) > CLOSED_KEPT:
            self.ended.pop(next(iter(self.ended)))

    def _child_event(self, live: Live, event: Event) -> None:
        session = live.session.identifier
        if isinstance(event, ChildSaInstalled):
            if event.replaces is None or event.replaces not in self._by_spi:
                self.data_plane.install(event.spec)
            else:
                self.data_plane.replace(event.replaces, event.spec, send_at_once=event.send_at_once)
            self._by_spi[event.spec.inbound_spi] = live
            record_esp_keys(self.recorder, event.spec, event.spec.path, session)
        elif isinstance(event, ChildSaPathChanged) and event.inbound_spi in self._by_spi:
            self.data_plane.update_path(event.inbound_spi, event.path, event.encapsulation)
            child = live.sa.children.get(event.inbound_spi)
            if child is not None:
                record_esp_keys(self.recorder, child.spec, event.path, session)
        elif isinstance(event, ChildSaRetired) and event.inbound_spi in self._by_spi:
            self.data_plane.retire(event.inbound_spi)
        elif isinstance(event, ChildSaRemoved) and event.inbound_spi in self._by_spi:
            del self._by_spi[event.inbound_spi]
            try:
                counters = self._counters(event.inbound_spi)
                live.session.carried.update({} if counters is None else vars(counters))
            finally:
                self.data_plane.remove(event.inbound_spi)

    def _not_carried(self, live: Live, error: StackError) -> None:
        """What carries ESP refuses a child SA or its move, the kernel without an algorithm, say: the session ends."""
        text = f"ESP of {live.session.imsi or live.session.nai} cannot be carried: {error}."
        self.totals["esp-not-carried"] += 1
        self.recorder.event("esp-not-carried", text, {"why": str(error)}, live.session.identifier)
        _log.error("%s", text)
        if live.sa.state is not SaState.CLOSED:
            self.carry_out(live, live.session.not_carried(str(error)))

    def carry_out(self, live: Live, commands: list[Command]) -> None:
        """Do what a session says."""
        if live.first_spi in self.live:
            self._subscribers.follow(live)
        for command in commands:
            if isinstance(command, AnswerIke):
                self.endpoint.answer(live.sa, command.answer, self.now())
                self.pump()
            elif isinstance(command, SendDer | SendAar | SendStr):
                self.swm.send(live, command)
            elif isinstance(command, AllocateAddress):
                self.carry_out(live, self._grant_addresses(live, command))
            elif isinstance(command, DeleteUe):
                self._initiate(live, DeleteIkeSa(command.why, command.notifies))
            elif isinstance(command, AuthenticateAnew):
                self._initiate(live, AuthenticationLifetime(0))
            elif isinstance(command, GrantTime):
                self._granted_time(live, command.seconds)
            elif isinstance(command, SendConfiguration):
                self._initiate(live, ExchangeConfiguration(command.type, command.attributes))
            elif isinstance(command, ReleaseAddress):
                pool = self.pools.get(command.apn)
                if pool is not None and not self._held_by_another(live, command.apn, (command.address,)):
                    pool.release(command.address)
                    self.core.dismiss(command.address)
            elif isinstance(command, Tell):
                self._count(command)
                if command.name in LOGGED:
                    _log.info("%s", command.text)
                self.recorder.event(command.name, command.text, command.data, live.session.identifier)

    def _count(self, told: Tell) -> None:
        """How often; of what ends, or goes another way than asked, also why, in a bounded number of reasons."""
        self.totals[told.name] += 1
        key = REASONED.get(told.name)
        if key is None:
            return
        reason = str(told.data.get(key))
        if "by_peer" in told.data and key == "why":
            reason = f"by the {'UE' if told.data['by_peer'] else 'gateway'}: {reason}"
        counted = self.reasons.setdefault(told.name, Counter())
        counted[reason if reason in counted or len(counted) < REASONS_MAXIMUM else "other"] += 1

    def _initiate(self, live: Live, task: Task) -> None:
        self.endpoint.initiate(live.sa, task, self.now())
        self.pump()

    def _grant_addresses(self, live: Live, command: AllocateAddress) -> list[Command]:
        limit = self.configuration.limits.connections_per_ue
        if limit is not None and not live.session.emergency and self._connections_beside(live, command) >= limit:
            return live.session.too_many_connections(limit)
        addresses, network = self._allocate(live, command)
        return live.session.address_allocated(addresses, network)

    def _connections_beside(self, live: Live, command: AllocateAddress) -> int:
        """Other PDN connections of the subscriber; not those whose addresses this one asks for, to take their place."""
        others = [each.session for each in self._subscribers.beside(live)]
        return sum(
            other.state is SessionState.ESTABLISHED and not set(other.inner_addresses) & set(command.wanted)
            for other in others
        )

    def _held_by_another(self, live: Live, apn: str, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
        """Which of these addresses another session of the same subscriber has, one that is authenticated anew."""
        held: set[Address] = set()
        for other in self._subscribers.beside(live):
            session = other.session
            if session.apn == apn and session.state is not SessionState.CLOSED:
                held.update(session.inner_addresses)
        return tuple(address for address in addresses if address in held)

    def _allocate(self, live: Live, command: AllocateAddress) -> tuple[tuple[Address, ...], GrantedNetwork | None]:
        apn = self.configuration.apns.get(command.apn)
        if apn is None:
            return (), None
        ike, pools = self.configuration.ike, self.pools[command.apn]
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
            who=live.session.subscriber,
            single=command.single,
            other=apn.requested_address is RequestedAddress.PREFERRED,
        )
        return self._admitted(command.apn, addresses), network

    def _admitted(self, apn: str, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
        """Those that packets can be led to: a static address outside the pools may be another host's."""
        admitted = []
        for address in addresses:
            try:
                if self.pools[apn].is_outside(address):
                    self.core.admit(apn, address)
            except BackendError as error:
                _log.warning("the static address %s cannot be had: %s", address, error)
                self.pools[apn].release(address)
            else:
                admitted.append(address)
        return tuple(admitted)

    # --- data plane

    def _received_esp(self, octets: bytes, path: Path, traffic_class: int = 0) -> None:
        self.data_plane.receive_esp(octets, path, traffic_class)
        self._data_plane_events()

    def _data_plane_events(self) -> None:
        while (event := self.data_plane.poll_event()) is not None:
            live = self._by_spi.get(event.inbound_spi)
            if live is None:
                continue
            if isinstance(event, SequenceNumbersRunningOut):
                self.endpoint.limit_reached(live.sa, event.inbound_spi, self.now(), hard=event.exhausted)
                self.pump()
            elif isinstance(event, LifetimeReached):
                self.endpoint.limit_reached(live.sa, event.inbound_spi, self.now(), hard=event.hard)
                self.pump()
            elif self.endpoint.esp_heard_from(live.sa, event.inbound_spi, event.path, self.now()):
                text = f"ESP of {live.session.imsi or live.session.nai} comes from {event.path.remote}; ours follows."
                moved: dict[str, JsonValue] = {"remote": str(event.path.remote)}
                self.recorder.event("esp-followed", text, moved, live.session.identifier)
                self.pump()
            else:
                text = f"ESP of {live.session.imsi or live.session.nai} comes from {event.path.remote}; not followed."
                data: dict[str, JsonValue] = {"remote": str(event.path.remote)}
                self.totals["esp-from-elsewhere"] += 1
                self.recorder.event("esp-from-elsewhere", text, data, live.session.identifier)

    def _delivered(self, packet: bytes, inbound_spi: bytes) -> None:
        del inbound_spi
        if not self.core.deliver(packet):
            self.totals["core-no-such-host"] += 1

    def _from_core(self, packet: bytes) -> None:
        self.data_plane.send_inner(packet)
        self._data_plane_events()

    def _device_lost(self, error: BackendError) -> None:
        self.totals["device-lost"] += 1
        self.recorder.event("device-lost", f"The device of the inner addresses went away: {error}.")
        _log.error("%s", error)

    def _device_back(self) -> None:
        device = self.configuration.data_plane.device
        self.recorder.event("device-back", f"The device {device} was made anew.")
        _log.warning("the device %s was made anew", device)

    def tell_addresses(self, live: Live, prefer: Address | None = None) -> None:
        """Tell a UE which addresses the gateway has, and that it is to use one of them (RFC 4555 §3.6)."""
        port = self.configuration.listen.nat_traversal_port
        endpoints = [Endpoint(address, port) for address in self.addresses.present(prefer)]
        self.endpoint.set_addresses(live.sa, endpoints, self.now(), prefer=prefer is not None)

    # --- views

    def find(self, identifier: JsonValue) -> Live | None:
        """A live session by its id."""
        return next((live for live in self.live.values() if live.session.identifier == identifier), None)

    def view(self, live: Live) -> dict[str, JsonValue]:
        """A session as the control interface shows it."""
        return session_view(
            live.session,
            live.sa,
            self._counters,
            gateway=self.configuration.node,
            diameter_session_id=live.diameter_session_id,
        )

    def _inbound_packets(self, spi: bytes) -> int:
        counters = self._counters(spi)
        return 0 if counters is None else counters.evidence

    def _counters(self, spi: bytes) -> ChildSaCounters | None:
        try:
            return self.data_plane.counters(spi)
        except LocalError:
            return None


def _address_pools(configuration: EpdgConfiguration) -> dict[str, AddressPools]:
    """The pools by APN; no static address is another APN's or the gateway's own."""
    own = (*configuration.listen.addresses, *configuration.data_plane.hosts)
    networks = [network for apn in configuration.apns.values() for network in apn.networks]
    foreign = ForeignAddresses((*networks, *(ip_network(address) for address in own)))
    return {
        name: AddressPools(apn.networks, excluded=apn.excluded, stable=apn.stable_addresses, foreign=foreign)
        for name, apn in configuration.apns.items()
    }
