"""ESP in the kernel for a node: one ``XfrmDataPlane``, a view of it for each plane, links that leave ESP to the kernel.

Left out, and refused by name so that another backend is chosen: a DSCP of the outer header other than the inner one's
or none, and an outer MTU that leaves IPv6 inside less than its 1280 octets. Packets too long for the path the kernel
fragments or answers itself. With an XFRM interface no inner packet is longer than its MTU, which is never more than
what all SAs of its plane carry within ``outer_mtu``, and the MSS of SYNs that pass it can be lowered (``segments``).
Without, the kernel fragments outer packets alone, by the MTU that it knows: then there is no ``outer_mtu``, nor that.

The kernel routes ESP packets by their addresses: the interface that a link is bound to does not count for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence

from protocols.dataplane.carrier import CarriedPlane
from protocols.dataplane.port import Backend, Carried, ChildSaCounters, DataPlaneEvent
from protocols.dataplane.userspace.engine import Deliver, PathMtu, Transmit
from protocols.dataplane.userspace.tun import Interface, Network
from protocols.dataplane.xfrm import segments
from protocols.dataplane.xfrm.backend import REQIDS, XfrmDataPlane, in_use
from protocols.dataplane.xfrm.device import KernelDevice, has_xfrm_interfaces, remove_leftovers, why_no_device
from protocols.dataplane.xfrm.injection import Injector
from protocols.dataplane.xfrm.probe import probe
from protocols.dataplane.xfrm.statistics import Statistics
from protocols.errors import BackendError, DecodeError, LocalError
from protocols.esp.packet import inner_mtu
from protocols.esp.sa import ChildSaSpec, DropReason, SelectorSet
from protocols.esp.tunnel import DEFAULT_POLICY, TunnelPolicy
from protocols.ikev2.suites import EspSuite
from protocols.io.link import Link, Receiver, UdpLink
from protocols.io.namespace import NetworkNamespace
from protocols.io.raw import NO_PORT, RawOpener
from protocols.ip import PACKET_MAXIMUM, Flow, flow_of
from protocols.path import Endpoint, Path
from protocols.selectors import PORT_MAXIMUM, TrafficSelector

FIRST_IF_ID = REQIDS.start
NOT_BY_THE_KERNEL = "not-by-the-kernel"  # ESP that came by a link which is no socket of the kernel's
ASKED_AT_ONCE = 128  # SAs, for sums over all of them
LOOK_INTERVAL = 0.5  # seconds between looks at the SAs of paths that were left
OUTER_MTU_MINIMUM = (
    1400  # with any suite, in UDP over IPv6, 1280 octets are left inside: a device with less has no IPv6
)

_log = logging.getLogger(__name__)


def unfit(policy: TunnelPolicy) -> str | None:
    """What of a policy the kernel cannot do, by its key in the configuration; ``None``: nothing."""
    if policy.dscp:
        return f"data_plane.dscp: {policy.dscp}: the kernel copies the inner DSCP or sends 0"
    if policy.outer_mtu is not None and policy.outer_mtu < OUTER_MTU_MINIMUM:
        return f"data_plane.outer_mtu: {policy.outer_mtu}: the kernel's device takes {OUTER_MTU_MINIMUM} or more"
    return None


def why_not(policy: TunnelPolicy, suites: Iterable[EspSuite] = (), interfaces: Collection[str] = ()) -> str | None:
    """Why the kernel cannot carry a node's ESP, ``None`` when it can; SAs and devices are tried and removed.

    One node in a network namespace at a time. ``interfaces``: those that its links are to be bound to.
    """
    reason = unfit(policy)
    if reason is not None:
        return reason
    if len(set(interfaces)) > 1:
        return f"accesses by {', '.join(sorted(set(interfaces)))}: the kernel routes ESP by its tables alone"
    finding = probe(suites)
    lacks = (*finding.missing, *finding.lacking)
    return "it lacks " + "; ".join(lacks) if lacks else in_use() or why_no_device() or _not_by_this_kernel(policy)


def _not_by_this_kernel(policy: TunnelPolicy) -> str | None:
    """What of a policy takes XFRM interfaces or nftables that this kernel does not have."""
    asked = {"outer_mtu": policy.outer_mtu, "clamp_mss": policy.mss}
    needing = next((f"data_plane.{key}: {value}" for key, value in asked.items() if value is not None), None)
    if needing is not None and not has_xfrm_interfaces():
        return f"{needing}: the kernel has no XFRM interfaces (module xfrm_interface)"
    reason = None if policy.mss is None else segments.why_not()
    return None if reason is None else f"data_plane.clamp_mss: {policy.mss}: {reason}"


class KernelCarrier:
    """``Carrier`` in the kernel; ``LocalError`` for a policy that is ``unfit``."""

    backend = Backend.KERNEL
    sees_packets = False

    def __init__(self, *, policy: TunnelPolicy = DEFAULT_POLICY, reqids: range = REQIDS) -> None:
        reason = unfit(policy)
        if reason is not None:
            raise LocalError(reason)
        self._policy = policy
        self._reqids = reqids
        self._planes: list[KernelPlane] = []
        self._devices: list[KernelDevice] = []
        self._clamps: dict[str, segments.MssClamp] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._kernel: XfrmDataPlane | None = None
        self._injector: Injector | None = None
        self._statistics: Statistics | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._interfaces = False
        self.not_by_the_kernel = 0
        self.open_raw: RawOpener | None = KernelEspLink

    def start(self) -> None:
        """Take XFRM of this network namespace into use, and remove what a former run has left.

        ``BackendError``: what the kernel lacks, or another process has it in use.
        """
        if self._kernel is not None:
            raise LocalError("the kernel's data plane is started already")
        finding = probe()
        if not finding.usable:
            raise BackendError(f"the kernel cannot carry ESP: it lacks {'; '.join(finding.missing)}")
        reason = _not_by_this_kernel(self._policy)
        if reason is not None:
            raise BackendError(reason)
        self._kernel = XfrmDataPlane(reqids=self._reqids, copies_dscp=self._policy.dscp is None)
        try:
            for name in remove_leftovers():
                _log.warning("the device %s of a run that did not end is removed", name)
            for table in segments.remove_leftovers():
                _log.warning("the nftables table inet %s of a run that did not end is removed", table)
            self._interfaces = has_xfrm_interfaces()
            self._injector = Injector()
        except BackendError:
            self.close()
            raise
        self._statistics = Statistics(self._by_sas)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._kernel.fileno(), self._tell)

    def open_link(self, local: Endpoint, receive: Receiver) -> Link:
        """A UDP socket whose ESP the kernel takes; ``BackendError``."""
        link = UdpLink(local, receive)
        try:
            link.take_out_esp()
        except BackendError:
            link.close()
            raise
        return link

    def plane(
        self,
        *,
        deliver: Deliver,
        transmit: Transmit,
        told: Callable[[], None],
        path_mtu: PathMtu,
        policy: TunnelPolicy | None = None,
    ) -> CarriedPlane:
        """A view of the kernel's SAs; ``deliver``, ``transmit`` and ``path_mtu`` are never called."""
        del deliver, transmit, path_mtu
        if policy is not None and policy != self._policy:
            raise LocalError("the kernel's data plane has one policy for all its planes")
        made = KernelPlane(self, FIRST_IF_ID + len(self._planes) + 1, told)
        self._planes.append(made)
        return made

    async def open_device(
        self,
        plane: CarriedPlane,
        name: str,
        addresses: Sequence[Interface],
        mtu: int,
        routes: Sequence[Network] = (),
        *,
        metric: int = 0,
        namespace: NetworkNamespace | None = None,
    ) -> KernelDevice:
        """The plane's XFRM interface where the kernel has them, else a dummy; see ``KernelDevice``.

        Left out: a ``namespace``, ``LocalError``.
        """
        if namespace is not None:
            raise LocalError("the kernel's device is in the node's own network namespace")
        if not isinstance(plane, KernelPlane) or plane not in self._planes:
            raise LocalError("a device for another carrier's plane")
        if self._policy.mss is not None and name not in self._clamps:
            self._clamps[name] = segments.MssClamp(name, self._policy.mss)
        device = await KernelDevice.open(
            name,
            addresses,
            mtu,
            routes,
            metric=metric,
            if_id=plane.if_id,
            inject=self._inject,
            clamp=self._clamps.get(name),
        )
        self._devices = [each for each in self._devices if not each.closed] + [device]
        plane.fit(device)
        return device

    @property
    def dropped(self) -> Counter[str]:
        """By all of the network namespace's XFRM since the start, less what planes count (``statistics``)."""
        found = Counter() if self._statistics is None else Counter(self._statistics.dropped())
        if self.not_by_the_kernel:
            found[NOT_BY_THE_KERNEL] = self.not_by_the_kernel
        return found

    @property
    def counted(self) -> dict[str, int]:
        """``mss_clamped``: SYNs of all its devices; nftables does not know of SAs."""
        return {"mss_clamped": sum(clamp.clamped for clamp in self._clamps.values())} if self._clamps else {}

    def close(self) -> None:
        """Remove SAs, policies and devices; again is harmless."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        for device in self._devices:
            device.close()
        self._devices.clear()
        if self._kernel is not None:
            for plane in self._planes:
                plane.end()
        if self._statistics is not None:
            self._statistics.close()
        if self._injector is not None:
            self._injector.close()
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            if self._loop is not None:
                self._loop.remove_reader(kernel.fileno())
            kernel.close()

    # ------------------------------------------------------------------ for the planes

    @property
    def kernel(self) -> XfrmDataPlane:
        """``LocalError`` before ``start``."""
        if self._kernel is None:
            raise LocalError("the kernel's data plane is not started")
        return self._kernel

    @property
    def has_interfaces(self) -> bool:
        """Whether the kernel has XFRM interfaces; known after ``start``."""
        return self._interfaces

    @property
    def outer_mtu(self) -> int | None:
        """Octets of the longest outer packet, ``None``: what the kernel knows of the path."""
        return self._policy.outer_mtu

    def send(self, packet: bytes) -> bool:
        """A packet of the node's own, into the kernel's stack; whether it took it."""
        return self._inject(packet)

    def look(self) -> None:
        """A call may have read events: they are told of soon."""
        if self._loop is not None and self.kernel.with_events():
            self._loop.call_soon(self._tell)

    def moved(self) -> None:
        """SAs may have been left on former paths: they are ended in time."""
        if self._looking is None:
            self._expire()

    def _expire(self) -> None:
        self._looking = None
        if self._loop is None or self._kernel is None:
            return
        try:
            self._kernel.expire(self._loop.time())
        except BackendError as error:
            _log.error("%s", error)
        if self._kernel.lingering:
            self._looking = self._loop.call_later(LOOK_INTERVAL, self._expire)

    def _by_sas(self) -> Counter[DropReason]:
        return sum((Counter(plane.drops_now()) for plane in self._planes), Counter())

    def _inject(self, packet: bytes) -> bool:
        return self._injector is not None and self._injector.send(packet)

    def _tell(self) -> None:
        if self._kernel is None:
            return
        try:
            waiting = self._kernel.with_events()
        except BackendError as error:
            _log.error("%s", error)
            return
        for plane in self._planes:
            if not waiting.isdisjoint(plane.installed):
                plane.told()


class KernelPlane:
    """``CarriedPlane``: the SAs of one network of a node's, among all of the kernel's."""

    def __init__(self, carrier: KernelCarrier, if_id: int, told: Callable[[], None]) -> None:
        self.told = told
        self._carrier = carrier
        self._if_id = if_id
        self._specs: dict[bytes, ChildSaSpec] = {}
        self._gone: Counter[DropReason] = Counter()
        self._carried_before = Carried()
        self._known: dict[bytes, ChildSaCounters] = {}
        self._in_turn: deque[bytes] = deque()
        self._device: KernelDevice | None = None
        self._inner_mtus: dict[bytes, int] = {}

    @property
    def if_id(self) -> int:
        """Of its XFRM interface, 0 where the kernel has none."""
        return self._if_id if self._carrier.has_interfaces else 0

    @property
    def installed(self) -> tuple[bytes, ...]:
        """The inbound SPIs of what is installed."""
        return tuple(self._specs)

    @property
    def drops(self) -> dict[DropReason, int]:
        """Those that the kernel counts for each SA, replayed packets and wrong ICVs, and of ``send_inner``.

        Of more than ``ASKED_AT_ONCE`` SAs so many are asked anew each time, as for ``carried``.
        """
        self._ask_some()
        return self._drops()

    def drops_now(self) -> dict[DropReason, int]:
        """The same, all SAs asked anew."""
        for spi in self._specs:
            self._known[spi] = self._carrier.kernel.counters(spi)
        return self._drops()

    @property
    def carried(self) -> Carried:
        """By all SAs, removed ones included: the kernel has no sum, and thousands would take it long."""
        self._ask_some()
        return Carried.sum((self._carried_before, *self._known.values()))

    def install(self, spec: ChildSaSpec) -> None:
        """See ``XfrmDataPlane.install``."""
        self._carrier.kernel.install(spec, if_id=self.if_id)
        self._begin(spec)
        self._measure(spec, spec.path, spec.encapsulation)

    def replace(self, old_inbound_spi: bytes, spec: ChildSaSpec, *, send_at_once: bool = True) -> None:
        """See ``XfrmDataPlane.replace``."""
        self._require(old_inbound_spi)
        self._carrier.kernel.replace(old_inbound_spi, spec, send_at_once=send_at_once)
        self._begin(spec)
        self._measure(spec, spec.path, spec.encapsulation)
        self._carrier.look()

    def update_path(self, inbound_spi: bytes, path: Path, encapsulation: bool) -> None:
        """See ``XfrmDataPlane.update_path``."""
        self._require(inbound_spi)
        try:
            self._carrier.kernel.update_path(inbound_spi, path, encapsulation)
        finally:
            self._carrier.moved()
        self._measure(self._specs[inbound_spi], path, encapsulation)
        self._carrier.look()

    def expect(self, inbound_spi: bytes, path: Path, encapsulation: bool) -> None:
        """See ``XfrmDataPlane.expect``."""
        self._require(inbound_spi)
        self._carrier.kernel.expect(inbound_spi, path, encapsulation)
        self._carrier.moved()
        self._carrier.look()

    def retire(self, inbound_spi: bytes) -> None:
        """See ``XfrmDataPlane.retire``."""
        self._require(inbound_spi)
        self._carrier.kernel.retire(inbound_spi)
        self._carrier.look()

    def remove(self, inbound_spi: bytes) -> None:
        """See ``XfrmDataPlane.remove``."""
        self._require(inbound_spi)
        last = self._carrier.kernel.counters(inbound_spi)
        self._carrier.kernel.remove(inbound_spi)
        del self._specs[inbound_spi]
        del self._known[inbound_spi]
        self._gone += Counter({DropReason.REPLAYED: last.replayed, DropReason.BAD_ICV: last.bad_icv})
        self._carried_before = Carried.sum((self._carried_before, last))
        if self._inner_mtus.pop(inbound_spi, None) is not None:
            self.fit()
        self._carrier.look()

    def counters(self, inbound_spi: bytes) -> ChildSaCounters:
        """See ``XfrmDataPlane.counters``."""
        self._require(inbound_spi)
        counters = self._carrier.kernel.counters(inbound_spi)
        self._carrier.look()
        return counters

    def end(self) -> None:
        """Remove all that is installed."""
        for spi in self.installed:
            self.remove(spi)

    def fit(self, device: KernelDevice | None = None) -> None:
        """Let its device, or another one from now on, have an MTU that all SAs carry (RFC 4301 §8.2)."""
        self._device = device or self._device
        if self._device is not None:
            self._device.limit(min(self._inner_mtus.values(), default=PACKET_MAXIMUM))

    def _measure(self, spec: ChildSaSpec, path: Path, encapsulation: bool) -> None:
        outer_mtu = self._carrier.outer_mtu
        if outer_mtu is None:
            return
        self._inner_mtus[spec.inbound_spi] = inner_mtu(
            spec.suite, outer_mtu, outer_version=path.remote.address.version, encapsulation=encapsulation
        )
        self.fit()

    def poll_event(self) -> DataPlaneEvent | None:
        """The next event about an SA of this plane's."""
        return self._carrier.kernel.poll_event(self._specs)

    def receive_esp(self, octets: bytes, path: Path, traffic_class: int = 0) -> None:
        """ESP that a link of another kind has brought: the kernel cannot be given it, and it is counted."""
        del octets, path, traffic_class
        self._carrier.not_by_the_kernel += 1

    def send_inner(self, packet: bytes) -> bool:
        """A packet of the node's own; whether an SA selects it and the kernel took it, else it is dropped and counted.

        Without an XFRM interface selectors that name a protocol or ports do not count (``injection``).
        """
        try:
            flow = flow_of(packet)
        except DecodeError:
            self._gone[DropReason.NOT_IP] += 1
            return False
        if any(self._selects(spec, flow) for spec in self._specs.values()) and self._carrier.send(packet):
            return True
        self._gone[DropReason.NO_SA] += 1
        return False

    def _selects(self, spec: ChildSaSpec, flow: Flow) -> bool:
        local, remote = (
            SelectorSet(tuple(each for each in selectors if self.if_id or _of_addresses_alone(each)))
            for selectors in (spec.local_selectors, spec.remote_selectors)
        )
        return remote.matches(flow.version, flow.destination, flow.protocol, flow.destination_port) and local.matches(
            flow.version, flow.source, flow.protocol, flow.source_port
        )

    def _begin(self, spec: ChildSaSpec) -> None:
        self._specs[spec.inbound_spi] = spec
        self._known[spec.inbound_spi] = ChildSaCounters()
        self._in_turn.append(spec.inbound_spi)

    def _ask_some(self) -> None:
        """Ask the kernel for the counters of some SAs, those that it was longest ago."""
        for _ in range(min(ASKED_AT_ONCE, len(self._in_turn))):
            spi = self._in_turn.popleft()
            if spi in self._specs:
                self._known[spi] = self._carrier.kernel.counters(spi)
                self._in_turn.append(spi)

    def _drops(self) -> dict[DropReason, int]:
        replayed = sum(counted.replayed for counted in self._known.values())
        bad_icv = sum(counted.bad_icv for counted in self._known.values())
        return dict(self._gone + Counter({DropReason.REPLAYED: replayed, DropReason.BAD_ICV: bad_icv}))

    def _require(self, inbound_spi: bytes) -> None:
        if inbound_spi not in self._specs:
            raise LocalError(f"SA {inbound_spi.hex()} is not installed")


class KernelEspLink:
    """ESP straight on IP, which the kernel takes and sends itself: nothing comes by it, and what is sent is counted."""

    def __init__(self, local: Endpoint, receive: Receiver) -> None:
        del receive
        self.local = Endpoint(local.address, NO_PORT)
        self.dropped: Counter[str] = Counter()

    def send(self, octets: bytes, remote: Endpoint, traffic_class: int | None = None) -> None:
        """Not sent: nobody but the kernel has sequence numbers to give out."""
        del octets, remote, traffic_class
        self.dropped[NOT_BY_THE_KERNEL] += 1

    def close(self) -> None:
        """Nothing to let go of."""


def _of_addresses_alone(selector: TrafficSelector) -> bool:
    return not selector.protocol and selector.start_port == 0 and selector.end_port == PORT_MAXIMUM
