"""What goes through a PDN connection: its child SAs' data plane, a host in the process or a TUN device, flows.

Routes and name servers come and go with the TUN device.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Interface, IPv6Interface, ip_network

from protocols.dataplane.carrier import InnerDevice
from protocols.dataplane.port import ChildSaCounters, LifetimeReached, PeerEndpointObserved
from protocols.dataplane.userspace.clients import StreamKind
from protocols.dataplane.userspace.host import FlowKind, InProcessHost
from protocols.errors import BackendError, LocalError, StackError
from protocols.esp.sa import ChildSaSpec
from protocols.ikev2.sa import IkeSa
from protocols.io.aside import PacketPort
from protocols.io.namespace import NetworkNamespace
from protocols.path import Address, Path
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue
from ue.commands import Command, ExpectChildSa, InstallChildSa, UpdateChildSa
from ue.config import UeConfiguration
from ue.connection import Connection
from ue.context import DeviceState
from ue.device import Device
from ue.path_watch import PathWatch
from ue.pdn_config import DataPlaneKind
from ue.profile import state_directory
from ue.resolver import ResolverFile, resolver_of
from ue.routes import METRIC, Network, configured_routes, granted_routes
from ue.swu import Swu
from ue.traffic import DEFAULT_RATE, Flow, Flows

REOPEN_INTERVAL = 1.0  # seconds between attempts to make a lost device anew
EARLY_MAXIMUM = 64  # packets kept until the device is there, which takes the kernel some milliseconds

_log = logging.getLogger(__name__)


class Tunnel:
    """``sa``: the present IKE SA. ``suspect``: the path is to be tested.

    ``has_default_route``: the first connection in its network namespace, which has default routes and name servers.
    ``numbers``: of flows.
    """

    def __init__(
        self,
        configuration: UeConfiguration,
        device: Device,
        *,
        swu: Swu,
        recorder: Recorder,
        numbers: Iterator[int],
        has_default_route: bool,
        sa: Callable[[], IkeSa | None],
        carry_out: Callable[[list[Command]], None],
        suspect: Callable[[], None],
    ) -> None:
        self._configuration = configuration
        self._device = device
        self._swu = swu
        self._recorder = recorder
        self._has_default_route = has_default_route
        self._sa = sa
        self._carry_out = carry_out
        self._data_plane = swu.carrier.plane(
            deliver=self._delivered,
            transmit=swu.ports.send_esp,
            told=self._data_plane_events,
            path_mtu=swu.ports.path_mtu,
            policy=configuration.data_plane.policy() if swu.carrier.sees_packets else None,
        )
        self._specs: dict[bytes, ChildSaSpec] = {}
        seen = swu.carrier.sees_packets
        self.flows: Flows = Flows(
            self._send_inner if seen else self._send_beside, swu.entropy, numbers, reservations=None if seen else self
        )
        self._beside: PacketPort | None = None
        self._resolver_file = ResolverFile(state_directory(configuration) / f"resolv-conf-{configuration.apn}.json")
        self._host: InProcessHost | None = None
        self._refused = 0
        self._early: deque[bytes] | None = None  # until a connection's device is there; one that is made anew has none
        self._tun: InnerDevice | None = None
        self._namespace: NetworkNamespace | None = None
        self._making = asyncio.Lock()
        if configuration.data_plane.kind is DataPlaneKind.TUN:
            import protocols.dataplane.userspace.tun  # noqa: F401 - netlink's library takes a while: not at the attach
        self._last_counters: dict[bytes, ChildSaCounters] = {}
        interval = configuration.silence_interval
        self._path_watch = interval and PathWatch(interval, counters=self._traffic_counters, hint=suspect, now=swu.now)

    def close(self) -> None:
        """Watch the path no longer."""
        if self._path_watch:
            self._path_watch.close()

    # --- child SAs

    def begin(self) -> None:
        """A new IKE SA: what the child SAs of an earlier one have carried is forgotten."""
        self._last_counters.clear()
        self._early = deque() if self._tun is None else None

    def moved(self) -> None:
        """The path is another one."""
        if self._path_watch:
            self._path_watch.moved()

    def install(self, command: InstallChildSa) -> None:
        """A child SA, new or in the place of another."""
        if command.replaces is None or command.replaces not in self._specs:
            self._data_plane.install(command.spec)
        else:
            self._data_plane.replace(command.replaces, command.spec, send_at_once=command.send_at_once)
        self._specs[command.spec.inbound_spi] = command.spec

    def expect(self, command: ExpectChildSa) -> None:
        """What comes by a child SA may come another way."""
        if command.inbound_spi in self._specs:
            self._data_plane.expect(command.inbound_spi, command.path, command.encapsulation)

    def update(self, command: UpdateChildSa) -> ChildSaSpec | None:
        """A child SA goes another way; which one it is, ``None`` when it could not be installed."""
        if command.inbound_spi not in self._specs:
            return None
        self._data_plane.update_path(command.inbound_spi, command.path, command.encapsulation)
        return self._specs[command.inbound_spi]

    def retire(self, inbound_spi: bytes) -> None:
        """Nothing is sent by a child SA any more."""
        if inbound_spi in self._specs:
            self._data_plane.retire(inbound_spi)

    def remove(self, inbound_spi: bytes) -> None:
        """A child SA is gone; what it has carried is remembered."""
        if self._specs.pop(inbound_spi, None) is None:
            return
        self._last_counters[inbound_spi] = self._data_plane.counters(inbound_spi)
        self._data_plane.remove(inbound_spi)

    @property
    def installed(self) -> tuple[bytes, ...]:
        """Inbound SPIs of the child SAs that are there."""
        return self._data_plane.installed

    @property
    def drops(self) -> Counter[str]:
        """ESP that was dropped, by reason."""
        return Counter({reason.value: number for reason, number in self._data_plane.drops.items()})

    @property
    def heard_at(self) -> float | None:
        """When ESP was last heard where it should be, to half a ``silence_interval``; ``None``: not watched."""
        return self._path_watch.heard_at if self._path_watch else None

    def evidence(self, spi: bytes) -> int:
        """How many packets of a child SA have shown that the gateway lives."""
        try:
            return self._data_plane.counters(spi).evidence
        except LocalError:
            return 0

    def counters(self, spi: bytes) -> ChildSaCounters | None:
        """What a child SA has carried, or had when it went."""
        try:
            return self._data_plane.counters(spi)
        except LocalError:
            return self._last_counters.get(spi)

    def _traffic_counters(self) -> tuple[int, int]:
        """Inner packets sent, and packets that show that the gateway is heard on the path (RFC 4555 §3.12)."""
        counters = [self._data_plane.counters(spi) for spi in self._data_plane.installed]
        return sum(each.outbound_packets for each in counters), sum(each.evidence for each in counters)

    # --- host or TUN device

    @property
    def in_use(self) -> bool:
        """Whether something has the inner addresses."""
        return self._host is not None or self._tun is not None

    def start_host(self, addresses: tuple[Address, ...]) -> None:
        """Put the inner addresses to use; answers through ``host_started`` or ``host_failed`` of the device."""
        if self._configuration.data_plane.kind is DataPlaneKind.IN_PROCESS:
            self._host = InProcessHost(*addresses)
            self._carry_out(self._device.host_started(self._swu.now()))
            return
        connection = self._device.connection
        assert self._swu.tasks is not None
        assert connection is not None  # whose addresses these are
        self._swu.tasks.create_task(self._open_tun(connection))

    def stop_host(self) -> None:
        """Nothing goes through the tunnel any more."""
        self.flows.stop_all()
        self._host = self._early = None
        self._close_tun()
        self.restore_name_servers()

    @property
    def refused(self) -> int:
        """Packets that the kernel did not take out of the tunnel, its queue being full, say."""
        return self._refused + (0 if self._tun is None else self._tun.counters.refused)

    async def _open_tun(self, connection: Connection) -> None:
        try:
            await self._make_tun(connection)
        except StackError as error:
            if self._device.connection is connection:
                self._carry_out(self._device.host_failed(str(error)))
            return
        if self._tun is not None and self._holds(connection):
            self._carry_out(self._device.host_started(self._swu.now()))

    async def _make_tun(self, connection: Connection) -> None:
        """The device with its routes, unless the connection ends meanwhile; ``StackError``: the system refuses.

        One after the other: that of a connection which has just ended may still be on its way.
        """
        async with self._making:
            if self._holds(connection):
                await self._make_tun_alone(connection)

    async def _make_tun_alone(self, connection: Connection) -> None:
        plane = self._configuration.data_plane
        interfaces = [
            IPv4Interface(address) if address.version == 4 else IPv6Interface(address)
            for address in connection.addresses
        ]
        routes = self._routes()
        metric = METRIC if plane.routes and tuple(routes) != plane.routes else 0
        with ExitStack() as undo:
            namespace = None if plane.namespace is None else NetworkNamespace(plane.namespace)
            if namespace is not None:
                undo.callback(namespace.close)
            tun = await self._swu.carrier.open_device(
                self._data_plane, plane.device, interfaces, plane.mtu, routes, metric=metric, namespace=namespace
            )
            undo.callback(tun.close)
            if not self._holds(connection):
                return
            undo.pop_all()
        self._tun, self._namespace = tun, namespace
        self._write_name_servers()
        tun.start(self._send_inner, self._device_lost)
        if namespace is not None:
            namespace.watch(lambda: self._device_lost(BackendError(f"{namespace} was deleted")))
        early, self._early = self._early or (), None
        for packet in early:
            tun.write(packet)
        if not self._swu.carrier.sees_packets:
            self._beside = PacketPort(self.flows.receive, tun.name if tun.comes_in_by_it else None, namespace)
            if self._path_watch:
                self._path_watch.poll_always()

    def _routes(self) -> list[Network]:
        """Networks to lead into the device: as configured, else as granted; never the tunnel's own packets."""
        plane, connection = self._configuration.data_plane, self._device.connection
        if not self._has_default_route and not plane.routes:
            # the first one has the default route; of others it is the IMS servers that are known
            return [] if connection is None else [ip_network(server) for server in connection.p_cscf]
        sa, gateway = self._sa(), self._configuration.gateway
        assert sa is not None  # or the UE would not be attached
        outside: dict[Address, None] = {}
        if plane.namespace is None:  # or the tunnel's own packets leave elsewhere
            outside = dict.fromkeys((*gateway.addresses, *gateway.alternatives, sa.path.remote.address))
            if connection is not None and connection.gateway is not None:
                outside[connection.gateway] = None
        if plane.routes:
            return configured_routes(plane.routes, outside, sa.mobility.peer_addresses)
        return granted_routes((each for child in sa.children.values() for each in child.spec.remote_selectors), outside)

    def _device_lost(self, error: BackendError) -> None:
        """Somebody has taken it away: it is made anew."""
        self._recorder.event("device-lost", f"The device of the inner addresses went away: {error}.")
        _log.error("%s", error)
        if not self._swu.carrier.sees_packets:
            self.flows.stop_all()  # they hold ports beside the device
        self._close_tun()
        assert self._swu.tasks is not None
        self._swu.tasks.create_task(self._reopen_tun())

    async def _reopen_tun(self) -> None:
        connection = self._device.connection
        while self._holds(connection) and self._tun is None:
            assert connection is not None
            try:
                await self._make_tun(connection)
            except StackError:
                await asyncio.sleep(REOPEN_INTERVAL)
            else:
                break
        if self._tun is not None:
            where = "" if self._namespace is None else f" in {self._namespace}"
            self._recorder.event("device-back", f"The device {self._tun.name}{where} was made anew.")

    @property
    def device_view(self) -> JsonValue:
        """The device and its network namespace, null where that is the UE's own; null while there is none."""
        if self._tun is None:
            return None
        return {"name": self._tun.name, "namespace": None if self._namespace is None else self._namespace.name}

    def _holds(self, connection: Connection | None) -> bool:
        """Whether a connection is still the one that is up."""
        state = self._device.state
        return connection is not None and self._device.connection is connection and state is DeviceState.ESTABLISHED

    def _close_tun(self) -> None:
        if self._beside is not None:
            self._beside.close()
            self._beside = None
            if self._path_watch:
                self._path_watch.close()
        if self._tun is not None:
            self._refused += self._tun.counters.refused
            self._tun.close()
            self._tun = None
        if self._namespace is not None:
            self._namespace.close()
            self._namespace = None

    def restore_name_servers(self) -> None:
        """What the resolver's file had before the UE wrote it, also when that was another process of this UE's."""
        try:
            self._resolver_file.restore()
        except BackendError as error:
            _log.error("%s", error)
            self._recorder.event("name-servers-not-restored", f"The name servers could not be put back: {error}.")

    def _write_name_servers(self) -> None:
        """A file that cannot be written costs names, not the connection."""
        plane, connection = self._configuration.data_plane, self._device.connection
        file = plane.resolv_conf
        if file is None and plane.namespace is not None and self._has_default_route:
            file = resolver_of(plane.namespace)
        if file is None or connection is None:
            return
        try:
            self._resolver_file.write(file, connection.dns)
        except BackendError as error:
            _log.error("%s", error)
            self._recorder.event("name-servers-not-written", f"The granted name servers could not be written: {error}.")

    # --- packets

    def receive_esp(self, octets: bytes, path: Path, traffic_class: int = 0) -> None:
        """ESP for a child SA of this connection's."""
        self._data_plane.receive_esp(octets, path, traffic_class)
        self._data_plane_events()

    def _send_inner(self, packet: bytes) -> bool:
        sent = self._data_plane.send_inner(packet)
        if self._path_watch:
            self._path_watch.stirred()
        self._data_plane_events()
        return sent

    # --- packets of the UE's own flows, where this process does not see those of the device

    def reserve(self, protocol: int, address: Address, port: int) -> None:
        """See ``Reservations``."""
        if self._beside is None:
            raise LocalError("the device of the inner addresses is not there")
        self._beside.reserve(protocol, address, port)

    def release(self, protocol: int, address: Address, port: int) -> None:
        """See ``Reservations``."""
        if self._beside is not None:
            self._beside.release(protocol, address, port)

    def _send_beside(self, packet: bytes) -> bool:
        return self._beside is not None and self._beside.send(packet)

    def _data_plane_events(self) -> None:
        """Rekey in time before sequence numbers run out; ESP from elsewhere than the gateway moves nothing."""
        while (event := self._data_plane.poll_event()) is not None:
            sa = self._sa()
            if sa is None or isinstance(event, PeerEndpointObserved):
                continue
            hard = event.hard if isinstance(event, LifetimeReached) else event.exhausted
            self._swu.endpoint.limit_reached(sa, event.inbound_spi, self._swu.now(), hard=hard)
            self._swu.pump()

    def _delivered(self, packet: bytes, inbound_spi: bytes) -> None:
        del inbound_spi
        if self._path_watch:
            self._path_watch.stirred()
        if self.flows.receive(packet):
            return
        if self._tun is not None:
            self._tun.write(packet)
        elif self._host is not None:
            answer = self._host.receive(packet)
            if answer is not None:
                self._data_plane.send_inner(answer)
        elif self._early is not None and len(self._early) < EARLY_MAXIMUM:
            self._early.append(packet)  # RFC 7296 §2.8: the gateway may send as soon as it has answered
        else:
            self._refused += 1

    def start_flow(
        self, kind: FlowKind | StreamKind, destination: Address, rate: float = DEFAULT_RATE, limit: int | None = None
    ) -> Flow:
        """Begin a flow; ``LocalError`` when there is no inner address for it."""
        connection = self._device.connection
        if connection is None or self._device.state is not DeviceState.ESTABLISHED:
            raise LocalError("the UE is not attached")
        for source in connection.addresses:
            if source.version == destination.version:
                return self.flows.start(kind, source, destination, rate, limit)
        raise LocalError(f"the UE has no IPv{destination.version} address to reach {destination} from")
