"""The fast data plane: ESP (RFC 4303) by a compiled core on libcrypto, where it was built.

As ``protocols.dataplane.userspace.engine`` in everything that can be seen, which the tests hold it to. The core is
``native/``; whoever moves many packets works on it from threads of its own, one packet at a time goes through
``receive_esp`` and ``send_inner``. Replay windows of more than 4096 packets are left out.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, NamedTuple

from protocols.dataplane.port import (
    Carried,
    ChildSaCounters,
    DataPlaneEvent,
    LifetimeReached,
    PeerEndpointObserved,
    SequenceNumbersRunningOut,
)
from protocols.dataplane.userspace.engine import ICMP_BURST, ICMP_RATE, Deliver, PathMtu, Transmit
from protocols.errors import BackendError, LocalError
from protocols.esp.mss import clamped, is_syn, mss_for
from protocols.esp.packet import inner_mtu
from protocols.esp.path_mtu import fragments_of, limit_of, may_be_fragmented, too_big
from protocols.esp.sa import ChildSaSpec, DropReason, EspMode, SelectorSet, UsageLimits, check_spec
from protocols.esp.tunnel import DEFAULT_POLICY, TunnelPolicy
from protocols.ikev2.rate import TokenBucket
from protocols.ikev2.suites import EspSuite
from protocols.ip import PACKET_MAXIMUM, Flow, IpPacket, flow_of
from protocols.path import Address, Endpoint, Path
from protocols.secret import Secret
from protocols.selectors import TrafficSelector

if TYPE_CHECKING:
    from protocols.dataplane.fast._native import Core

try:
    import protocols.dataplane.fast._native as _native
except ImportError as error:
    _missing: str | None = str(error)
else:
    _missing = None

_ENDPOINT = struct.Struct(">BH16s")
_SELECTOR = struct.Struct(">BBHH16s16s")
_UNLIMITED = (1 << 64) - 1
_PATHS_KEPT = 4096  # packed and unpacked, of the SAs that are sending or receiving


def available() -> bool:
    """Whether the core was built."""
    return _missing is None


def why_not() -> str | None:
    """Why the core is not there, ``None`` when it is."""
    return _missing


def lacking(suites: Iterable[EspSuite]) -> tuple[str, ...]:
    """The names of those that this libcrypto does not have; each seals a packet."""
    tried = {replace(suite, group=None, additional=()) for suite in suites}
    return tuple(sorted(suite.name for suite in tried if not _seals(suite)))


def _seals(suite: EspSuite) -> bool:
    address, outer = IPv4Address("192.0.2.1"), Endpoint(IPv4Address("192.0.2.2"), 4500)
    anything = (TrafficSelector.network("0.0.0.0/0"),)
    encryption, integrity = (Secret(bytes(range(n))) for n in (suite.encryption_key_length, suite.integrity_key_length))
    plane = FastDataPlane(deliver=lambda *_: None, transmit=lambda *_: None)
    try:
        plane.install(
            ChildSaSpec(
                inbound_spi=b"\x00\x00\x01\x00",
                outbound_spi=b"\x00\x00\x01\x00",
                suite=suite,
                inbound_encryption_key=encryption,
                inbound_integrity_key=integrity,
                outbound_encryption_key=encryption,
                outbound_integrity_key=integrity,
                local_selectors=anything,
                remote_selectors=anything,
                path=Path(outer, outer),
            )
        )
    except LocalError:
        return False
    return plane.send_inner(IpPacket(source=address, destination=address, protocol=253, payload=b"").encode())


def ipsec_mb() -> str | None:
    """The release of Intel's libIPSec_MB that AES-GCM is done by; ``None`` where that is libcrypto."""
    return None if _missing is not None else _native.ipsec_mb()


def new_core(contexts: int | None = None, *, libcrypto_alone: bool = False) -> Core:
    """A core without SAs; ``BackendError`` when it was not built, or the system has no room for one.

    ``contexts``: so many directions of SAs with AEAD suites keep one of libcrypto's, 1.2 kB each; by default 512.
    ``libcrypto_alone``: AES-GCM too is libcrypto's, where libIPSec_MB is installed.
    """
    if _missing is not None:
        raise BackendError(f"the fast data plane was not built (make fast): {_missing}")
    try:
        return _native.Core(_native.CONTEXTS if contexts is None else contexts, libcrypto_alone)
    except OSError as error:
        raise BackendError(f"the fast data plane: {error.strerror}") from error


def next_event(core: Core) -> DataPlaneEvent | None:
    """Of all SAs of a core; ``None`` when there is none."""
    found = core.poll_event()
    if found is None:
        return None
    kind, number, last, packed = found
    spi = number.to_bytes(4, "big")
    if kind == _native.PEER_ENDPOINT_OBSERVED:
        return PeerEndpointObserved(inbound_spi=spi, path=_unpacked_path(packed))
    if kind == _native.SEQUENCE_NUMBERS_RUNNING_OUT:
        return SequenceNumbersRunningOut(inbound_spi=spi, exhausted=last)
    return LifetimeReached(inbound_spi=spi, hard=last)


def by_reason(counts: Sequence[int]) -> dict[DropReason, int]:
    """What a core counts by number."""
    codes = {reason: getattr(_native, reason.name, None) for reason in DropReason}
    return {reason: counts[code] for reason, code in codes.items() if code is not None and counts[code]}


def without_room(core: Core) -> int:
    """Packets that a core dropped for want of memory or of room in a buffer."""
    return core.drops()[_native.NO_ROOM]


class _Standing(NamedTuple):
    """An SA with its present path, and the longest inner packet that goes in one piece."""

    spec: ChildSaSpec
    path: Path
    encapsulation: bool
    inner_mtu: int = PACKET_MAXIMUM

    def carries_fragment(self, flow: Flow) -> bool:
        """Whether one of the pieces of a packet would go: not in BEET mode, nor where it shows too little."""
        if self.spec.mode is EspMode.BEET:
            return False
        local, remote = SelectorSet(self.spec.local_selectors), SelectorSet(self.spec.remote_selectors)
        return remote.matches(flow.version, flow.destination, flow.protocol, flow.destination_port) and local.matches(
            flow.version, flow.source, flow.protocol, flow.source_port
        )


class FastDataPlane:
    """``DataPlane`` on the compiled core; ``deliver`` takes inner packets, ``transmit`` ESP packets.

    ``path_mtu`` tells what the network takes the outer path's MTU to be, ``None``: it does not know. It is asked when
    an SA is installed or moved, and by ``ask_path_mtus``. ``core``: one that is shared with planes of other devices,
    each of which sends what comes from its ``device``, less than 64, by SAs of its own.

    ``BackendError`` when the core was not built.
    """

    def __init__(
        self,
        *,
        deliver: Deliver,
        transmit: Transmit,
        policy: TunnelPolicy = DEFAULT_POLICY,
        path_mtu: PathMtu | None = None,
        now: Callable[[], float] = time.monotonic,
        core: Core | None = None,
        device: int = 0,
    ) -> None:
        self._core = core or new_core()
        self._device = device
        self._core.set_policy(_native.INNER_DSCP if policy.dscp is None else policy.dscp, _mss(policy))
        self._path_mtu: PathMtu | None = path_mtu if policy.outer_mtu is None else lambda path: policy.outer_mtu
        self._deliver = deliver
        self._transmit = transmit
        self._policy = policy
        self._now = now
        self._icmp = TokenBucket(ICMP_RATE, ICMP_BURST)
        self._installed: dict[bytes, _Standing] = {}

    @property
    def core(self) -> Core:
        """The core, for whoever carries packets past ``deliver`` and ``transmit``."""
        return self._core

    def install(self, spec: ChildSaSpec) -> None:
        """See ``DataPlane.install``; ``LocalError``: the SPI is taken or the specification impossible."""
        self._put(spec)

    def replace(self, old_inbound_spi: bytes, spec: ChildSaSpec, *, send_at_once: bool = True) -> None:
        """See ``DataPlane.replace``."""
        self._require(old_inbound_spi)
        self._put(spec, _spi(old_inbound_spi), send_at_once)

    def update_path(self, inbound_spi: bytes, path: Path, encapsulation: bool) -> None:
        """See ``DataPlane.update_path``."""
        self._require(inbound_spi)
        self._core.update_path(_spi(inbound_spi), _packed_path(path), encapsulation)
        self._installed[inbound_spi] = self._installed[inbound_spi]._replace(path=path, encapsulation=encapsulation)
        self.ask_path_mtu(inbound_spi)

    def expect(self, inbound_spi: bytes, path: Path, encapsulation: bool) -> None:
        """See ``DataPlane.expect``: packets are taken from everywhere, by their SPI."""
        del path, encapsulation
        self._require(inbound_spi)

    def retire(self, inbound_spi: bytes) -> None:
        """See ``DataPlane.retire``."""
        self._require(inbound_spi)
        self._core.retire(_spi(inbound_spi))

    def remove(self, inbound_spi: bytes) -> None:
        """See ``DataPlane.remove``."""
        self._require(inbound_spi)
        self._core.remove(_spi(inbound_spi))
        del self._installed[inbound_spi]

    def counters(self, inbound_spi: bytes) -> ChildSaCounters:
        """See ``DataPlane.counters``."""
        self._require(inbound_spi)
        found = self._core.counters(_spi(inbound_spi))
        if found is None:
            raise LocalError(f"SA {inbound_spi.hex()} is not installed")
        return ChildSaCounters(
            inbound_packets=found[0],
            strayed_packets=found[1],
            inbound_octets=found[2],
            outbound_packets=found[3],
            outbound_octets=found[4],
            replayed=found[5],
            bad_icv=found[6],
            bad_selector=found[7],
            malformed=found[8],
            dummy=found[9],
            too_big=found[10],
            fragment=found[11],
            congestion=found[12],
            fragmented=found[13],
            mss_clamped=found[14],
            congestion_marked=found[15],
            ecn_unused=found[16],
            overhead_saved_octets=found[17],
        )

    def ask_path_mtus(self) -> None:
        """Ask for the path MTUs anew; whoever knows that they change calls it, every so often."""
        for inbound_spi in self._installed:
            self.ask_path_mtu(inbound_spi)

    def poll_event(self) -> DataPlaneEvent | None:
        """See ``DataPlane.poll_event``; ``event_descriptor`` says when there is one."""
        return next_event(self._core)

    @property
    def event_descriptor(self) -> int:
        """A file descriptor that is readable while ``poll_event`` has something; not to be closed."""
        return self._core.eventfd()

    @property
    def drops(self) -> dict[DropReason, int]:
        """Every packet dropped since the start by reason, those of removed SAs and of no SA included."""
        return by_reason(self._core.drops())

    @property
    def carried(self) -> Carried:
        """By all SAs of its device together, removed ones included."""
        found = self._core.carried(self._device)
        return Carried(
            inbound_packets=found[0], inbound_octets=found[1], outbound_packets=found[2], outbound_octets=found[3]
        )

    @property
    def installed(self) -> tuple[bytes, ...]:
        """The inbound SPIs of what is installed."""
        return tuple(self._installed)

    def receive_esp(self, octets: bytes, path: Path, traffic_class: int = 0) -> None:
        """An ESP packet from outside, on ``path``: in UDP or, from port 0, straight on IP (RFC 7296 §2.23)."""
        result = self._core.open(octets, _packed_path(path), traffic_class)
        if isinstance(result, bytes):
            self._deliver(result, octets[:4])

    def send_inner(self, packet: bytes) -> bool:
        """Tunnel an IP packet from inside; whether an SA took it, otherwise it is dropped and counted."""
        result = self._core.seal(packet, self._device)
        return self.send_long(packet, result) if isinstance(result, bytes) else self._sent(result)

    def send_long(self, packet: bytes, inbound_spi: bytes) -> bool:
        """A packet that its SA's path does not carry in one piece (RFC 4301 §8.2.1)."""
        spi, standing, flow = _spi(inbound_spi), self._installed[inbound_spi], flow_of(packet)
        mtu = limit_of(flow.version, standing.inner_mtu)
        packet = whole = packet[: flow.length]
        if self._policy.mss is not None and is_syn(packet):
            mss = self._policy.mss
            packet = clamped(packet, mss if isinstance(mss, int) else mss_for(mtu, flow.version))
        lowered = packet is not whole
        if not may_be_fragmented(packet):
            self._core.count_long(spi, lowered, False, True)
            answer = too_big(packet, mtu)
            if answer is not None and self._icmp.take(self._now()):
                self._deliver(answer, inbound_spi)
            return False
        fragments = fragments_of(packet, mtu)
        in_pieces = standing.carries_fragment(flow_of(fragments[-1]))
        self._core.count_long(spi, lowered, in_pieces, False)
        # RFC 4301 §7.3: fragments without ports MUST NOT go; the outer packet is fragmented instead.
        return all(self._sent(self._core.seal_by(spi, piece)) for piece in (fragments if in_pieces else [packet]))

    def _sent(self, result: tuple[bytes, bytes, bool, int] | int) -> bool:
        if isinstance(result, int):
            return False
        octets, path, encapsulation, traffic_class = result
        self._transmit(octets, _unpacked_path(path), encapsulation, traffic_class)
        return True

    def _put(self, spec: ChildSaSpec, old: int | None = None, send_at_once: bool = True) -> None:
        check_spec(spec)
        if spec.replay_window > _native.WINDOW_MAXIMUM:
            raise LocalError(f"a replay window of {spec.replay_window} packets, {_native.WINDOW_MAXIMUM} is the most")
        suite = spec.suite
        row = (
            _spi(spec.inbound_spi),
            _spi(spec.outbound_spi),
            suite.encryption.value,
            0 if suite.integrity is None else suite.integrity.value,
            suite.esn,
            spec.inbound_encryption_key.reveal(),
            spec.inbound_integrity_key.reveal(),
            spec.outbound_encryption_key.reveal(),
            spec.outbound_integrity_key.reveal(),
            _packed_selectors(spec.local_selectors),
            _packed_selectors(spec.remote_selectors),
            _packed_path(spec.path),
            spec.encapsulation,
            spec.mode is EspMode.BEET,
            spec.replay_window,
            _limits(spec.limits),
            self._device,
        )
        outcome = self._core.install(*row) if old is None else self._core.replace(*row, old, send_at_once)
        if outcome == _native.TAKEN:
            raise LocalError(f"SA {spec.inbound_spi.hex()} is installed already")
        if outcome == _native.UNSUPPORTED:
            raise LocalError(f"this libcrypto has no {suite.name}")
        if outcome != _native.DONE:
            raise BackendError(f"SA {spec.inbound_spi.hex()} cannot be installed: no memory")
        self._installed[spec.inbound_spi] = _Standing(spec, spec.path, spec.encapsulation)
        self.ask_path_mtu(spec.inbound_spi)

    def ask_path_mtu(self, inbound_spi: bytes) -> None:
        """The same of one SA."""
        if self._path_mtu is None:
            return
        standing = self._installed[inbound_spi]
        path, encapsulation = standing.path, standing.encapsulation
        outer_mtu, octets = self._path_mtu(path), PACKET_MAXIMUM
        if outer_mtu is not None:
            suite, version = standing.spec.suite, path.remote.address.version
            octets = max(inner_mtu(suite, outer_mtu, outer_version=version, encapsulation=encapsulation), 0)
        if octets != standing.inner_mtu:
            self._installed[inbound_spi] = standing._replace(inner_mtu=octets)
            self._core.set_inner_mtu(_spi(inbound_spi), octets)

    def _require(self, inbound_spi: bytes) -> None:
        if inbound_spi not in self._installed:
            raise LocalError(f"SA {inbound_spi.hex()} is not installed")


def _spi(octets: bytes) -> int:
    return int.from_bytes(octets, "big")


def _mss(policy: TunnelPolicy) -> int:
    if policy.mss is None:
        return _native.ANY_MSS
    return policy.mss if isinstance(policy.mss, int) else _native.MSS_OF_PATH


def _packed_address(address: Address) -> bytes:
    return address.packed.ljust(16, b"\x00")


def _packed_selectors(selectors: tuple[TrafficSelector, ...]) -> bytes:
    return b"".join(
        _SELECTOR.pack(
            selector.version,
            selector.protocol,
            selector.start_port,
            selector.end_port,
            _packed_address(selector.start),
            _packed_address(selector.end),
        )
        for selector in selectors
    )


def _packed_endpoint(endpoint: Endpoint) -> bytes:
    return _ENDPOINT.pack(endpoint.address.version, endpoint.port, _packed_address(endpoint.address))


@lru_cache(maxsize=_PATHS_KEPT)
def _packed_path(path: Path) -> bytes:
    return _packed_endpoint(path.local) + _packed_endpoint(path.remote)


def _unpacked_endpoint(packed: bytes) -> Endpoint:
    version, port, address = _ENDPOINT.unpack(packed)
    return Endpoint(IPv4Address(address[:4]) if version == 4 else IPv6Address(address), port)


@lru_cache(maxsize=_PATHS_KEPT)
def _unpacked_path(packed: bytes) -> Path:
    return Path(_unpacked_endpoint(packed[: _ENDPOINT.size]), _unpacked_endpoint(packed[_ENDPOINT.size :]))


def _limits(limits: UsageLimits) -> tuple[int, int, int, int]:
    each = (limits.soft_octets, limits.hard_octets, limits.soft_packets, limits.hard_packets)
    soft_octets, hard_octets, soft_packets, hard_packets = (
        _UNLIMITED if limit is None else min(limit, _UNLIMITED) for limit in each
    )
    return soft_octets, hard_octets, soft_packets, hard_packets
