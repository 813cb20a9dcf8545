"""Child SAs (RFC 4303): the frozen specification that the key exchange hands over, and its running state.

Tunnel mode and BEET mode, IPv4 and IPv6 inside; anti-replay with 32- and 64-bit sequence numbers; selectors checked on
receipt. Left to others: lifetimes (``protocols.ikev2``), fragmentation (``path_mtu``), DSCP, ECN (``traffic_class``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf

from protocols.entropy import Entropy
from protocols.errors import AuthenticationError, DecodeError, LocalError
from protocols.esp import beet
from protocols.esp.packet import (
    HEADER_LENGTH,
    SEQUENCE_MASK,
    SPI_LENGTH,
    SPI_MINIMUM,
    EspOpener,
    EspSealer,
    check_keys,
    opener_of,
    sealer_of,
    strip_trailer,
)
from protocols.ikev2.suites import EspSuite
from protocols.ip import IPIP, IPV6, NO_NEXT_HEADER, PACKET_MAXIMUM, Flow, flow_key, flow_of, is_fragment, transport_of
from protocols.path import Path
from protocols.secret import Secret
from protocols.selectors import PORT_MAXIMUM, TrafficSelector

REPLAY_WINDOW_MINIMUM = 32  # RFC 4303 §3.4.3
REPLAY_WINDOW = 128
FLOWS_KEPT = 256  # of an SA: what its selectors are not asked about again
MAXIMUM_SEQUENCE = (1 << 32) - 1  # RFC 4303 §3.3.3
MAXIMUM_EXTENDED_SEQUENCE = (1 << 64) - 1  # RFC 4303 §2.2.1


@dataclass(frozen=True, kw_only=True)
class UsageLimits:
    """How much one direction of a child SA may carry (RFC 4301 §4.4.2.1): inner octets, packets.

    At a soft limit a rekey is due; from a hard one on the SA carries nothing more.
    """

    soft_octets: int | None = None
    hard_octets: int | None = None
    soft_packets: int | None = None
    hard_packets: int | None = None


UNLIMITED = UsageLimits()


class EspMode(str, Enum):
    """What of the inner packet is in the ESP packet: all of it (RFC 4303 §3.1.2), or not its IP header."""

    TUNNEL = "tunnel"
    BEET = "beet"


@dataclass(frozen=True, kw_only=True)
class ChildSaSpec:
    """One pair of ESP SAs as negotiated; SPIs are four octets.

    ``inbound`` is what we receive (our SPI), ``outbound`` what we send (the peer's SPI). Encryption
    keys of AEAD suites include their salt. ``path`` is the outer path; with ``encapsulation`` ESP goes
    in UDP (RFC 3948) between the path's ports, without it as IP protocol 50 between its addresses.
    """

    inbound_spi: bytes
    outbound_spi: bytes
    suite: EspSuite
    inbound_encryption_key: Secret
    inbound_integrity_key: Secret
    outbound_encryption_key: Secret
    outbound_integrity_key: Secret
    local_selectors: tuple[TrafficSelector, ...]
    remote_selectors: tuple[TrafficSelector, ...]
    path: Path
    encapsulation: bool = True
    replay_window: int = REPLAY_WINDOW
    limits: UsageLimits = UNLIMITED
    mode: EspMode = EspMode.TUNNEL


class DropReason(str, Enum):
    """Why a packet went no further.

    Of an SA: ``REPLAYED`` (or too old), ``BAD_ICV``, ``BAD_SELECTOR``, ``MALFORMED``, ``DUMMY`` (RFC 4303
    §2.6), ``SEQUENCE_EXHAUSTED``, ``LIFETIME_EXPIRED``, ``TOO_BIG`` for the path (RFC 4301 §8.2.1), ``FRAGMENT``
    without the ports that the selectors name (§7.3), or in BEET mode, ``CONGESTION`` met by what knows no ECN
    (RFC 6040 §4.2). Of no SA: ``UNKNOWN_SPI`` from outside; ``NO_SA`` whose selectors match, and ``NOT_IP``, from
    inside.
    """

    REPLAYED = "replayed"
    BAD_ICV = "bad_icv"
    BAD_SELECTOR = "bad_selector"
    MALFORMED = "malformed"
    DUMMY = "dummy"
    UNKNOWN_SPI = "unknown_spi"
    NO_SA = "no_sa"
    NOT_IP = "not_ip"
    SEQUENCE_EXHAUSTED = "sequence_exhausted"
    LIFETIME_EXPIRED = "lifetime_expired"
    TOO_BIG = "too_big"
    FRAGMENT = "fragment"
    CONGESTION = "congestion"


def _reached(count: int, limit: int | None) -> bool:
    return limit is not None and count >= limit


def check_spec(spec: ChildSaSpec) -> None:
    """``LocalError`` when a specification cannot be carried out: SPIs, keys, replay window, selectors."""
    for spi in (spec.inbound_spi, spec.outbound_spi):
        if len(spi) != SPI_LENGTH or int.from_bytes(spi, "big") < SPI_MINIMUM:
            raise LocalError(f"{spi.hex() or 'nothing'} is not an ESP SPI")
    check_keys(spec.suite, spec.inbound_encryption_key, spec.inbound_integrity_key)
    check_keys(spec.suite, spec.outbound_encryption_key, spec.outbound_integrity_key)
    if spec.replay_window and spec.replay_window < REPLAY_WINDOW_MINIMUM:
        raise LocalError(f"a replay window of {spec.replay_window} packets, {REPLAY_WINDOW_MINIMUM} is the least")
    if spec.suite.esn and not spec.replay_window:
        # RFC 4303 §3.3.3: a receiver without anti-replay should not have negotiated ESN.
        raise LocalError("extended sequence numbers need a replay window")
    if not spec.local_selectors or not spec.remote_selectors:
        raise LocalError("a child SA without traffic selectors")
    if spec.mode is EspMode.BEET:
        beet.InnerAddresses.of(spec.local_selectors, spec.remote_selectors)


class ReplayWindow:
    """The anti-replay window (RFC 4303 §3.4.3, with ESN Appendix A2); size 0 switches it off.

    ``check`` before the ICV, ``advance`` after it: only a verified packet moves the window. Bit 0 of the
    bitmap is the highest sequence number accepted so far.
    """

    def __init__(self, size: int, esn: bool) -> None:
        self._size = size
        self._esn = esn
        self._mask = (1 << size) - 1
        self._top = 0
        self._bitmap = 0

    @property
    def top(self) -> int:
        """The highest sequence number accepted so far, 0 before the first."""
        return self._top

    def check(self, low: int) -> int | None:
        """The full sequence number of a packet that shows ``low``; ``None``: seen before, or too old."""
        sequence = self._extend(low) if self._esn else low
        if not self._size:
            return sequence
        if sequence <= 0 or sequence > MAXIMUM_EXTENDED_SEQUENCE:
            return None
        behind = self._top - sequence
        if behind < 0:
            return sequence
        if behind >= self._size or self._bitmap >> behind & 1:
            return None
        return sequence

    def advance(self, sequence: int) -> None:
        """Note a packet whose ICV was right."""
        if not self._size:
            self._top = max(self._top, sequence)
            return
        ahead = sequence - self._top
        if ahead <= 0:
            self._bitmap |= (1 << -ahead) & self._mask
        elif ahead >= self._size:
            self._bitmap = 1 & self._mask
            self._top = sequence
        else:
            self._bitmap = (self._bitmap << ahead | 1) & self._mask
            self._top = sequence

    def _extend(self, low: int) -> int:
        """Guess the high 32 bits from where the window stands (RFC 4303 Appendix A2.1)."""
        high, top_low = self._top >> 32, self._top & SEQUENCE_MASK
        bottom_low = top_low - self._size + 1
        if bottom_low >= 0:  # Case A: the window lies within one subspace
            return (high << 32 | low) if low >= bottom_low else (high + 1 << 32 | low)
        if low >= bottom_low + (1 << 32):  # Case B: it reaches back into the one before
            return ((high - 1) << 32) + low
        return high << 32 | low


class SelectorSet:
    """Traffic selectors compiled to integers, for one comparison per packet (RFC 4301 §5.2)."""

    def __init__(self, selectors: tuple[TrafficSelector, ...]) -> None:
        self._rows = tuple(
            (
                selector.version,
                int(selector.start),
                int(selector.end),
                selector.protocol,
                selector.start_port,
                selector.end_port,
            )
            for selector in selectors
        )

    def matches(self, version: int, address: int, protocol: int, port: int | None) -> bool:
        """Whether one of them selects this end of a packet; ``port`` as in ``protocols.ip.Flow``."""
        for row_version, start, end, row_protocol, start_port, end_port in self._rows:
            if not start <= address <= end or version != row_version:
                continue
            if row_protocol and row_protocol != protocol:
                continue
            if port is None:
                if start_port == 0 and end_port == PORT_MAXIMUM:
                    return True
            elif start_port <= port <= end_port:
                return True
        return False

    def matches_but_for_port(self, version: int, address: int, protocol: int) -> bool:
        """Whether one of them selects this end of a packet at some port."""
        return any(
            start <= address <= end and row_version == version and row_protocol in (0, protocol)
            for row_version, start, end, row_protocol, _, _ in self._rows
        )


class ChildSa:
    """One child SA at work: keyed contexts, sequence numbers, replay window, counters, present path.

    A new path touches nothing else: sequence numbers and window go on (RFC 4555 §3.5). The contexts are
    keyed by the first packet in their direction.
    """

    def __init__(self, spec: ChildSaSpec, entropy: Entropy) -> None:
        check_spec(spec)
        self.spec = spec
        self.path = spec.path
        self.encapsulation = spec.encapsulation
        self.window = ReplayWindow(spec.replay_window, spec.suite.esn)
        self.local_selectors = SelectorSet(spec.local_selectors)
        self.remote_selectors = SelectorSet(spec.remote_selectors)
        self.sequence = 0
        self.inbound_packets = 0
        self.inbound_octets = 0
        self.strayed_packets = 0
        self.outbound_packets = 0
        self.outbound_octets = 0
        self.drops: dict[DropReason, int] = {}
        self.fragmented = 0
        self.mss_clamped = 0
        self.congestion_marked = 0
        self.ecn_unused = 0
        self.inner_mtu = PACKET_MAXIMUM  # what the path carries in one piece, as far as is known
        self.inner_mtu_until = -inf
        self._maximum_sequence = MAXIMUM_EXTENDED_SEQUENCE if spec.suite.esn else MAXIMUM_SEQUENCE
        self._soft_sequence = self._maximum_sequence - (self._maximum_sequence >> 3)
        self.limited = spec.limits != UNLIMITED
        self.spent = False
        self.settled: Path | None = None  # the last path that packets came on, while it is the right one
        self._accepted: set[bytes] = set()  # ``flow_key`` of inbound packets that the selectors let through
        self._soft_reached = False
        self.overhead_saved_octets = 0
        self._beet: beet.InnerAddresses | None = None
        if spec.mode is EspMode.BEET:
            self._beet = beet.InnerAddresses.of(spec.local_selectors, spec.remote_selectors)
        self._entropy = entropy
        self._sealer: EspSealer | None = None
        self._opener: EspOpener | None = None

    def reaches_limit(self) -> bool:
        """Whether the last packet brought one direction to its soft limit, or to the hard one: then ``spent``."""
        limits = self.spec.limits
        octets = max(self.inbound_octets, self.outbound_octets)
        packets = max(self.inbound_packets, self.outbound_packets)
        if not self.spent and (_reached(octets, limits.hard_octets) or _reached(packets, limits.hard_packets)):
            self.spent = self._soft_reached = True
            return True
        if not self._soft_reached and (_reached(octets, limits.soft_octets) or _reached(packets, limits.soft_packets)):
            self._soft_reached = True
            return True
        return False

    @property
    def exhausted(self) -> bool:
        """Whether every sequence number has been sent (RFC 4303 §3.3.3)."""
        return self.sequence >= self._maximum_sequence

    @property
    def at_sequence_threshold(self) -> bool:
        """Whether the last packet sent used up seven eighths of the sequence numbers, or all of them."""
        sequence = self.sequence
        return sequence >= self._soft_sequence and sequence in (self._soft_sequence, self._maximum_sequence)

    def selects(self, flow: Flow) -> bool:
        """Whether an outbound packet is this SA's: source local, destination remote."""
        return self.remote_selectors.matches(
            flow.version, flow.destination, flow.protocol, flow.destination_port
        ) and self.local_selectors.matches(flow.version, flow.source, flow.protocol, flow.source_port)

    def selects_but_for_ports(self, flow: Flow) -> bool:
        """Whether an outbound packet would be this SA's if it showed the right ports."""
        return self.remote_selectors.matches_but_for_port(
            flow.version, flow.destination, flow.protocol
        ) and self.local_selectors.matches_but_for_port(flow.version, flow.source, flow.protocol)

    def carries(self, packet: bytes) -> bool:
        """Whether the mode lets an inner packet through: BEET mode has no place for what makes a fragment one."""
        return self._beet is None or not is_fragment(packet)

    def seal(self, packet: bytes, version: int) -> bytes:
        """Encapsulate an inner IP packet (RFC 4303 §3.3) that it ``carries``.

        ``LocalError`` once the sequence numbers are used up: they MUST NOT cycle (RFC 4303 §3.3.3).
        """
        if self.sequence >= self._maximum_sequence:
            raise LocalError(f"SA {self.spec.outbound_spi.hex()} has no sequence number left")
        sealer = self._sealer
        if sealer is None:
            sealer = self._sealer = sealer_of(
                self.spec.suite,
                self.spec.outbound_spi,
                self.spec.outbound_encryption_key,
                self.spec.outbound_integrity_key,
                self._entropy,
            )
        self.sequence += 1
        if self._beet is None:
            octets = sealer.seal(self.sequence, packet, IPIP if version == 4 else IPV6)
        else:
            next_header, payload = beet.strip(packet)
            octets = sealer.seal(self.sequence, payload, next_header)
            self.overhead_saved_octets += len(packet) - len(payload)
        self.outbound_packets += 1
        self.outbound_octets += len(packet)
        return octets

    def open(self, octets: bytes) -> bytes | DropReason:
        """Verify and decapsulate an ESP packet with our SPI (RFC 4303 §3.4): the inner packet, or why not.

        In the order of RFC 4303 §3.4: replay check, ICV, window, decryption, padding, selectors
        (RFC 4301 §5.2). What is dropped is counted here, what is returned as well. A dummy packet has
        proved who sent it, a packet with the wrong selectors too: both have moved the window.
        """
        if len(octets) < HEADER_LENGTH:
            return self.drop(DropReason.MALFORMED)
        sequence = self.window.check(int.from_bytes(octets[SPI_LENGTH:HEADER_LENGTH], "big"))
        if sequence is None:
            return self.drop(DropReason.REPLAYED)
        opener = self._opener
        if opener is None:
            opener = self._opener = opener_of(
                self.spec.suite,
                self.spec.inbound_spi,
                self.spec.inbound_encryption_key,
                self.spec.inbound_integrity_key,
            )
        try:
            plaintext = opener.open(octets, sequence)
        except DecodeError:
            return self.drop(DropReason.MALFORMED)
        except AuthenticationError:
            return self.drop(DropReason.BAD_ICV)
        self.window.advance(sequence)
        try:
            next_header, payload = strip_trailer(plaintext)
            if next_header == NO_NEXT_HEADER:
                return self.drop(DropReason.DUMMY)  # RFC 4303 §2.6: MUST be discarded without an error
            packet = payload if self._beet is None else beet.restore(next_header, payload, self._beet)
            key = flow_key(packet)
            if key is not None and key in self._accepted and next_header == (IPIP if packet[0] == 0x45 else IPV6):
                self.inbound_packets += 1
                self.inbound_octets += len(packet)
                return packet
            flow = flow_of(packet)
        except DecodeError:
            return self.drop(DropReason.MALFORMED)
        if self._beet is None and next_header != (IPIP if flow.version == 4 else IPV6):
            return self.drop(DropReason.MALFORMED)
        # RFC 4301 §5.2: the packet MUST match the selectors of the SA it came by.
        if not (
            self.remote_selectors.matches(flow.version, flow.source, flow.protocol, flow.source_port)
            and self.local_selectors.matches(flow.version, flow.destination, flow.protocol, flow.destination_port)
        ):
            return self.drop(self._why_not_selected(packet, flow))
        self.inbound_packets += 1
        self.inbound_octets += flow.length
        # A peer may pad a pseudo header with more than it saves.
        self.overhead_saved_octets += max(len(packet) - len(payload), 0)
        if key is not None and self._beet is None:
            if len(self._accepted) >= FLOWS_KEPT:
                self._accepted.clear()
            self._accepted.add(key)
        # RFC 4303 §2.7: what follows the packet is padding against traffic analysis.
        return packet if flow.length == len(packet) else packet[: flow.length]

    def _why_not_selected(self, packet: bytes, flow: Flow) -> DropReason:
        """RFC 4301 §7.3: a later fragment MUST be discarded where ports are selected, and that is auditable."""
        without_ports = transport_of(packet)[1] is None
        if (
            without_ports
            and self.remote_selectors.matches_but_for_port(flow.version, flow.source, flow.protocol)
            and self.local_selectors.matches_but_for_port(flow.version, flow.destination, flow.protocol)
        ):
            return DropReason.FRAGMENT
        return DropReason.BAD_SELECTOR

    def drop(self, reason: DropReason) -> DropReason:
        """Count a packet of this SA that goes no further."""
        self.drops[reason] = self.drops.get(reason, 0) + 1
        return reason
