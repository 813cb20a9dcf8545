"""The userspace data plane: ESP (RFC 4303) between two injected functions, no sockets of its own.

::

    receive_esp(octets, path) ──► SA by SPI ──► deliver(packet, inbound_spi)
    send_inner(packet) ──► newest SA by selectors ──► transmit(octets, path, encapsulation, traffic_class)

Whoever owns port 4500 hands in the datagrams that are ESP (RFC 3948 §2.2: the first four octets are not
zero) and sends what comes out. The outer header's DSCP and ECN go with it (RFC 4301 §5.1.2, RFC 6040), packets that are
too long for the path are fragmented or answered by ICMP (RFC 4301 §8.2.1), TTLs are left alone: a TUN device is a hop
of the kernel's, which has decremented them, and hosts in the process are where packets begin or end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from math import inf

from protocols.dataplane.port import (
    Carried,
    ChildSaCounters,
    DataPlaneEvent,
    LifetimeReached,
    PeerEndpointObserved,
    SequenceNumbersRunningOut,
)
from protocols.entropy import Entropy
from protocols.errors import DecodeError, LocalError
from protocols.esp.mss import clamped, is_syn, mss_for
from protocols.esp.packet import SPI_LENGTH, inner_mtu
from protocols.esp.path_mtu import fragments_of, limit_of, may_be_fragmented, too_big
from protocols.esp.sa import ChildSa, ChildSaSpec, DropReason
from protocols.esp.traffic_class import CE, ECN_MASK, decapsulated, is_unused, outer_traffic_class
from protocols.esp.tunnel import DEFAULT_POLICY, TunnelPolicy
from protocols.ikev2.rate import TokenBucket
from protocols.ip import PACKET_MAXIMUM, Flow, flow_key, flow_of, transport_of
from protocols.path import Path
from protocols.selectors import TrafficSelector

Deliver = Callable[[bytes, bytes], None]
Transmit = Callable[[bytes, Path, bool, int], None]
PathMtu = Callable[[Path], int | None]

SHORT_LENGTH = 500  # octets; no path carries less of a packet, and nobody is asked about it
PATH_MTU_INTERVAL = 10.0  # seconds until it is asked for anew; outer packets are fragmented meanwhile
FLOWS_KEPT = 4096  # whose outbound SA is known without a search
ICMP_RATE, ICMP_BURST = 100.0, 50.0  # RFC 4443 §2.4 (f) wants a limit, the figures are ours

_ADDRESS_BITS = {4: 32, 6: 128}
_UNVERIFIED = frozenset({DropReason.REPLAYED, DropReason.BAD_ICV, DropReason.MALFORMED})


class UserspaceDataPlane:
    """``DataPlane`` in this process; ``deliver`` takes inner packets, ``transmit`` ESP packets.

    ``path_mtu`` tells what the network takes the outer path's MTU to be, ``None``: it does not know. ICMP errors about
    inner packets are delivered too.
    """

    def __init__(
        self,
        *,
        entropy: Entropy,
        deliver: Deliver,
        transmit: Transmit,
        policy: TunnelPolicy = DEFAULT_POLICY,
        path_mtu: PathMtu | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entropy = entropy
        self._deliver = deliver
        self._transmit = transmit
        self._mss, self._dscp = policy.mss, policy.dscp
        self._path_mtu: PathMtu | None = path_mtu if policy.outer_mtu is None else lambda path: policy.outer_mtu
        self._now = now
        self._icmp = TokenBucket(ICMP_RATE, ICMP_BURST)
        self._sas: dict[bytes, ChildSa] = {}
        self._outbound = _OutboundIndex()
        self._senders: dict[bytes, ChildSa] = {}  # by ``flow_key``, until any SA begins or ceases to send
        self._drops: dict[DropReason, int] = {}
        self._gone = Carried()
        # Keyed by event and SPI: one of a kind waits per SA, however fast packets come.
        self._events: dict[tuple[type[DataPlaneEvent], bytes], DataPlaneEvent] = {}
        self._observed: dict[bytes, Path] = {}
        self._successors: dict[bytes, bytes] = {}

    def install(self, spec: ChildSaSpec) -> None:
        """See ``DataPlane.install``; ``LocalError``: the SPI is taken or the specification impossible."""
        if spec.inbound_spi in self._sas:
            raise LocalError(f"SA {spec.inbound_spi.hex()} is installed already")
        sa = ChildSa(spec, self._entropy)
        self._sas[spec.inbound_spi] = sa
        self._begin_sending(sa)

    def replace(self, old_inbound_spi: bytes, spec: ChildSaSpec, *, send_at_once: bool = True) -> None:
        """See ``DataPlane.replace``: the newest SA whose selectors match is the one that sends."""
        self._require(old_inbound_spi)
        self.install(spec)
        if not send_at_once:
            self._cease_sending(self._sas[spec.inbound_spi])
            self._successors[spec.inbound_spi] = old_inbound_spi
            return
        for waiting, old in self._successors.items():
            if old == old_inbound_spi:
                self._successors[waiting] = spec.inbound_spi

    def update_path(self, inbound_spi: bytes, path: Path, encapsulation: bool) -> None:
        """See ``DataPlane.update_path``."""
        sa = self._require(inbound_spi)
        sa.path = path
        sa.encapsulation = encapsulation
        sa.inner_mtu_until = -inf
        sa.settled = None
        self._observed.pop(inbound_spi, None)
        self._events.pop((PeerEndpointObserved, inbound_spi), None)

    def expect(self, inbound_spi: bytes, path: Path, encapsulation: bool) -> None:
        """See ``DataPlane.expect``: packets are taken from everywhere, by their SPI."""
        del path, encapsulation
        self._require(inbound_spi)

    def retire(self, inbound_spi: bytes) -> None:
        """See ``DataPlane.retire``."""
        sa = self._require(inbound_spi)
        for successor in [new for new, old in self._successors.items() if old == inbound_spi]:
            self._take_over(successor)
        if self._successors.pop(inbound_spi, None) is None:
            self._cease_sending(sa)

    def remove(self, inbound_spi: bytes) -> None:
        """See ``DataPlane.remove``."""
        self.retire(inbound_spi)
        self._gone = Carried.sum((self._gone, self._sas.pop(inbound_spi)))
        self._observed.pop(inbound_spi, None)
        self._events.pop((PeerEndpointObserved, inbound_spi), None)
        self._events.pop((SequenceNumbersRunningOut, inbound_spi), None)
        self._events.pop((LifetimeReached, inbound_spi), None)

    def counters(self, inbound_spi: bytes) -> ChildSaCounters:
        """See ``DataPlane.counters``."""
        sa = self._require(inbound_spi)
        drops = sa.drops
        return ChildSaCounters(
            inbound_packets=sa.inbound_packets,
            strayed_packets=sa.strayed_packets,
            inbound_octets=sa.inbound_octets,
            outbound_packets=sa.outbound_packets,
            outbound_octets=sa.outbound_octets,
            replayed=drops.get(DropReason.REPLAYED, 0),
            bad_icv=drops.get(DropReason.BAD_ICV, 0),
            bad_selector=drops.get(DropReason.BAD_SELECTOR, 0),
            malformed=drops.get(DropReason.MALFORMED, 0),
            dummy=drops.get(DropReason.DUMMY, 0),
            too_big=drops.get(DropReason.TOO_BIG, 0),
            fragment=drops.get(DropReason.FRAGMENT, 0),
            congestion=drops.get(DropReason.CONGESTION, 0),
            fragmented=sa.fragmented,
            mss_clamped=sa.mss_clamped,
            congestion_marked=sa.congestion_marked,
            ecn_unused=sa.ecn_unused,
            overhead_saved_octets=sa.overhead_saved_octets,
        )

    def poll_event(self) -> DataPlaneEvent | None:
        """See ``DataPlane.poll_event``."""
        for key in self._events:
            return self._events.pop(key)
        return None

    @property
    def drops(self) -> dict[DropReason, int]:
        """Every packet dropped since the start by reason, those of removed SAs and of no SA included."""
        return dict(self._drops)

    @property
    def carried(self) -> Carried:
        """By all SAs together, those of removed SAs included."""
        return Carried.sum((self._gone, *self._sas.values()))

    @property
    def installed(self) -> tuple[bytes, ...]:
        """The inbound SPIs of what is installed."""
        return tuple(self._sas)

    def receive_esp(self, octets: bytes, path: Path, traffic_class: int = 0) -> None:
        """An ESP packet from outside, on ``path``: in UDP or, from port 0, straight on IP (RFC 7296 §2.23 wants both).

        Ports are ignored by an SA without encapsulation, and of a packet that has none.
        """
        spi = octets[:SPI_LENGTH]
        sa = self._sas.get(spi)
        if sa is None:
            self._drop(DropReason.UNKNOWN_SPI)
            return
        if sa.spent:
            self._drop(sa.drop(DropReason.LIFETIME_EXPIRED))
            return
        result = sa.open(octets)
        if isinstance(result, DropReason):
            self._drop(result)
            if result in _UNVERIFIED:
                return
        strays = path is not sa.settled and self._strays(sa, path)
        if self._successors and spi in self._successors:
            self._take_over(spi)
        if isinstance(result, bytes):
            if strays:
                sa.strayed_packets += 1
            if sa.limited:
                self._watch(sa)
            packet = self._with_congestion(sa, result, traffic_class) if traffic_class & ECN_MASK else result
            if packet is None:
                return
            if self._mss is not None:
                packet = self._with_mss(sa, packet)
            self._deliver(packet, spi)

    def send_inner(self, packet: bytes) -> bool:
        """Tunnel an IP packet from inside; whether an SA took it, otherwise it is dropped and counted."""
        key = flow_key(packet)
        sa = self._senders.get(key) if key is not None else None
        if sa is None:
            try:
                flow = flow_of(packet)
            except DecodeError:
                self._drop(DropReason.NOT_IP)
                return False
            sa = self._outbound.find(flow)
            if sa is None:
                self._drop_unselected(packet, flow)
                return False
            if len(packet) != flow.length:
                packet = packet[: flow.length]
            if key is not None:
                self._remember(key, sa)
        version, length = packet[0] >> 4, len(packet)
        if self._mss is not None:
            packet = self._with_mss(sa, packet)
        if length > SHORT_LENGTH and length > limit_of(version, self._inner_mtu(sa)):
            return self._send_long(sa, packet)
        return self._send(sa, packet, version)

    def _send(self, sa: ChildSa, packet: bytes, version: int) -> bool:
        """Tunnel a packet that fits; whether it could be."""
        if sa.exhausted:
            self._drop(sa.drop(DropReason.SEQUENCE_EXHAUSTED))
            return False
        if sa.spent:
            self._drop(sa.drop(DropReason.LIFETIME_EXPIRED))
            return False
        if not sa.carries(packet):
            self._drop(sa.drop(DropReason.FRAGMENT))
            return False
        octets = sa.seal(packet, version)
        if sa.at_sequence_threshold:
            spi = sa.spec.inbound_spi
            event = SequenceNumbersRunningOut(inbound_spi=spi, exhausted=sa.exhausted)
            self._events[SequenceNumbersRunningOut, spi] = event
        if sa.limited:
            self._watch(sa)
        self._transmit(octets, sa.path, sa.encapsulation, outer_traffic_class(packet, self._dscp))
        return True

    def _send_long(self, sa: ChildSa, packet: bytes) -> bool:
        """A packet that the path does not carry in one piece (RFC 4301 §8.2.1)."""
        version = packet[0] >> 4
        mtu = limit_of(version, sa.inner_mtu)
        if may_be_fragmented(packet):
            fragments = fragments_of(packet, mtu)
            if not sa.carries(fragments[-1]) or not sa.selects(flow_of(fragments[-1])):
                # RFC 4301 §7.3: fragments without ports MUST NOT go; the outer packet is fragmented instead.
                return self._send(sa, packet, version)
            sa.fragmented += 1
            return all(self._send(sa, fragment, version) for fragment in fragments)
        self._drop(sa.drop(DropReason.TOO_BIG))
        answer = too_big(packet, mtu)
        if answer is not None and self._icmp.take(self._now()):
            self._deliver(answer, sa.spec.inbound_spi)
        return False

    def _inner_mtu(self, sa: ChildSa) -> int:
        """The longest inner packet whose ESP packet the path carries in one piece, as far as is known."""
        if self._path_mtu is not None and (now := self._now()) >= sa.inner_mtu_until:
            sa.inner_mtu_until = now + PATH_MTU_INTERVAL
            outer_mtu = self._path_mtu(sa.path)
            sa.inner_mtu = (
                PACKET_MAXIMUM
                if outer_mtu is None
                else inner_mtu(
                    sa.spec.suite,
                    outer_mtu,
                    outer_version=sa.path.remote.address.version,
                    encapsulation=sa.encapsulation,
                )
            )
        return sa.inner_mtu

    def _with_mss(self, sa: ChildSa, packet: bytes) -> bytes:
        """The packet; a SYN of TCP says no more than fits."""
        if not is_syn(packet):
            return packet
        maximum = self._mss
        if not isinstance(maximum, int):
            version = packet[0] >> 4
            maximum = mss_for(limit_of(version, self._inner_mtu(sa)), version)
        result = clamped(packet, maximum)
        sa.mss_clamped += result is not packet
        return result

    def _with_congestion(self, sa: ChildSa, packet: bytes, traffic_class: int) -> bytes | None:
        """The packet with the ECN that it has met outside, ``None`` when that could not be told (RFC 6040 §4.2)."""
        sa.ecn_unused += is_unused(packet, traffic_class)
        result = decapsulated(packet, traffic_class)
        if result is None:
            self._drop(sa.drop(DropReason.CONGESTION))
        elif result is not packet and traffic_class & ECN_MASK == CE:
            sa.congestion_marked += 1
        return result

    def _drop_unselected(self, packet: bytes, flow: Flow) -> None:
        """No SA selects a packet from inside: of a later fragment it may be the ports that nobody sees."""
        sa = None
        if transport_of(packet)[1] is None:
            sa = self._outbound.find(flow, ChildSa.selects_but_for_ports)
        self._drop(DropReason.NO_SA if sa is None else sa.drop(DropReason.FRAGMENT))

    def _watch(self, sa: ChildSa) -> None:
        """Report a limit that the last packet has reached."""
        if sa.reaches_limit():
            spi = sa.spec.inbound_spi
            self._events[LifetimeReached, spi] = LifetimeReached(inbound_spi=spi, hard=sa.spent)

    def _strays(self, sa: ChildSa, path: Path) -> bool:
        """Whether a packet came between other addresses than those that should be employed (RFC 4555 §3.12).

        Where it came from is noted.
        """
        if not _in_place(sa, path):
            self._observe(sa, path)
            return True
        self._observed.pop(sa.spec.inbound_spi, None)
        if path.local.address != sa.path.local.address:
            return True
        sa.settled = path
        return False

    def _observe(self, sa: ChildSa, path: Path) -> None:
        """Report another remote end point once, until the peer returns or the SA is moved."""
        spi = sa.spec.inbound_spi
        sa.settled = None
        known = self._observed.get(spi)
        if known is None or known.remote != path.remote:
            self._observed[spi] = path
            self._events[PeerEndpointObserved, spi] = PeerEndpointObserved(inbound_spi=spi, path=path)

    def _take_over(self, inbound_spi: bytes) -> None:
        """A successor begins to send."""
        del self._successors[inbound_spi]
        self._begin_sending(self._sas[inbound_spi])

    def _begin_sending(self, sa: ChildSa) -> None:
        self._outbound.add(sa)
        self._senders.clear()

    def _cease_sending(self, sa: ChildSa) -> None:
        self._outbound.discard(sa)
        self._senders.clear()

    def _remember(self, key: bytes, sa: ChildSa) -> None:
        """Packets of this flow are sent by ``sa`` for the time being."""
        if len(self._senders) >= FLOWS_KEPT:
            self._senders.clear()
        self._senders[key] = sa

    def _drop(self, reason: DropReason) -> None:
        self._drops[reason] = self._drops.get(reason, 0) + 1

    def child_sa(self, inbound_spi: bytes) -> ChildSa:
        """The SA at work, for whoever wants to look at its sequence numbers and window."""
        return self._require(inbound_spi)

    def _require(self, inbound_spi: bytes) -> ChildSa:
        sa = self._sas.get(inbound_spi)
        if sa is None:
            raise LocalError(f"SA {inbound_spi.hex()} is not installed")
        return sa


class _OutboundIndex:
    """Which SA sends a packet, without looking at every SA.

    Each SA stands under the prefixes of its narrower side (a gateway's SAs under the peers' addresses, a
    UE's under its own), in one table per side and prefix length; a packet asks each table once. A range
    that is no prefix stands under the prefix around it: the selectors themselves decide.
    """

    def __init__(self) -> None:
        self._tables: dict[int, dict[tuple[bool, int], dict[int, list[ChildSa]]]] = {4: {}, 6: {}}
        self._order: dict[bytes, int] = {}
        self._installed = 0

    def add(self, sa: ChildSa) -> None:
        """Put ``sa`` in as the newest."""
        self._installed += 1
        self._order[sa.spec.inbound_spi] = self._installed
        for version, remote, shift, prefix in _places(sa.spec):
            table = self._tables[version].setdefault((remote, shift), {})
            table.setdefault(prefix, []).append(sa)

    def discard(self, sa: ChildSa) -> None:
        """Take ``sa`` out if it is in, and the tables that it leaves empty."""
        if self._order.pop(sa.spec.inbound_spi, None) is None:
            return
        for version, remote, shift, prefix in _places(sa.spec):
            tables = self._tables[version]
            table = tables[remote, shift]
            table[prefix].remove(sa)
            if not table[prefix]:
                del table[prefix]
            if not table:
                del tables[remote, shift]

    def find(self, flow: Flow, selects: Callable[[ChildSa, Flow], bool] = ChildSa.selects) -> ChildSa | None:
        """The newest SA that selects a packet."""
        found: ChildSa | None = None
        for (remote, shift), table in self._tables[flow.version].items():
            standing = table.get((flow.destination if remote else flow.source) >> shift)
            if standing is None:
                continue
            for sa in reversed(standing):
                if selects(sa, flow):
                    if found is None or self._is_newer(sa, found):
                        found = sa
                    break
        return found

    def _is_newer(self, sa: ChildSa, than: ChildSa) -> bool:
        return self._order[sa.spec.inbound_spi] > self._order[than.spec.inbound_spi]


def _in_place(sa: ChildSa, path: Path) -> bool:
    """Whether a packet came from where the SA sends to, by UDP port where both have one."""
    if sa.encapsulation and path.remote.port:
        return path.remote == sa.path.remote
    return path.remote.address == sa.path.remote.address


def _places(spec: ChildSaSpec) -> set[tuple[int, bool, int, int]]:
    """Where an SA stands in the index: version, whether by remote address, shift, prefix."""
    return {
        (version, remote, shift, prefix)
        for version in _ADDRESS_BITS
        for remote, shift, prefix in _places_of_version(spec, version)
    }


def _places_of_version(spec: ChildSaSpec, version: int) -> Iterator[tuple[bool, int, int]]:
    local = [_prefix(selector) for selector in spec.local_selectors if selector.version == version]
    remote = [_prefix(selector) for selector in spec.remote_selectors if selector.version == version]
    if not local or not remote:
        return
    by_remote = max(shift for shift, _ in remote) <= max(shift for shift, _ in local)
    for shift, prefix in remote if by_remote else local:
        yield by_remote, shift, prefix


def _prefix(selector: TrafficSelector) -> tuple[int, int]:
    """The longest prefix around a selector's addresses, as bits to shift away and what is left."""
    start, end = int(selector.start), int(selector.end)
    shift = (start ^ end).bit_length()
    return shift, start >> shift
