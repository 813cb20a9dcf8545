"""Datagram records as a capture file (pcapng, draft-ietf-opsawg-pcapng), readable by Wireshark.

Records hold what crossed a socket, so the headers below are synthesised: IPv4 (RFC 791) or IPv6
(RFC 8200) with UDP, with TCP (RFC 9293) whose handshake, sequence and acknowledgement numbers are
made up per connection, or with SCTP (RFC 9260) in DATA chunks alone, tags and numbers made up as well; all
with right checksums. What lay inside TLS stands in TCP as it is, where Wireshark can read it. The link type
is raw IP, one interface per node.
A datagram seen by its sender and again by its receiver stands once, as its sender saw it; one that a NAT
changed on the way stands in both its forms. A connection is shown as one of its ends saw it.

Left out: IP fragments, TCP losses and resets (streams are what the sockets handed over). Keys stand in a profile
beside the capture (``keys``).
"""

from __future__ import annotations

import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from protocols.errors import DecodeError
from protocols.path import Address, Endpoint
from protocols.trace.order import Timeline
from protocols.trace.pcapng import APPLICATION, Section
from protocols.trace.records import STREAMS, JsonValue, Kind, TraceRecord

PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_ESP, PROTOCOL_SCTP = 6, 17, 50, 132
PENDING_DATAGRAMS = 4096  # how many sent datagrams wait for their receiver's record
SEGMENT_OCTETS = 60_000  # longest payload of one synthesised segment or chunk
PAYLOAD_DIAMETER = 46  # SCTP payload protocol identifier (RFC 6733 §11.5: Diameter in the clear)

_SYN, _PSH, _ACK = 0x02, 0x08, 0x10
_CHUNK_DATA, _BEGINNING, _ENDING = 0, 0x02, 0x01  # SCTP
_ENDPOINT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+)):(?P<port>[0-9]{1,5})")


# --- Records ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ObservedDatagram:
    """A ``datagram`` record's body with its addresses in the direction of travel."""

    node: str
    outgoing: bool
    transport: str
    source: Endpoint
    destination: Endpoint
    payload: bytes
    protocol: str

    @classmethod
    def of(cls, record: TraceRecord) -> ObservedDatagram:
        """From a record of kind ``datagram``; ``DecodeError`` when its body is not one."""
        body = record.body
        direction, transport, payload = (body.get(key) for key in ("direction", "transport", "payload"))
        if direction not in ("in", "out") or transport not in ("udp", "ip", *STREAMS):
            raise DecodeError("datagram record: unknown direction or transport")
        if not isinstance(payload, str):
            raise DecodeError("datagram record: payload is not hexadecimal")
        try:
            octets = bytes.fromhex(payload)
        except ValueError:
            raise DecodeError("datagram record: payload is not hexadecimal") from None
        local = _endpoint(body.get("local"), with_port=transport != "ip")
        remote = _endpoint(body.get("remote"), with_port=transport != "ip")
        if local.address.version != remote.address.version:
            raise DecodeError("datagram record: addresses of two IP versions")
        outgoing = direction == "out"
        return cls(
            node=record.node,
            outgoing=outgoing,
            transport=str(transport),
            source=local if outgoing else remote,
            destination=remote if outgoing else local,
            payload=octets,
            protocol=str(body.get("protocol", "unknown")),
        )


def _endpoint(value: JsonValue, *, with_port: bool) -> Endpoint:
    """``192.0.2.1:500`` or ``[2001:db8::1]:500``; an address alone when there are no ports."""
    parts = _ENDPOINT.fullmatch(value) if isinstance(value, str) else None
    try:
        if isinstance(value, str) and not with_port:
            return Endpoint.of(value, 0)
        if parts is not None and int(parts["port"]) <= 65535:
            return Endpoint.of(parts["v6"] or parts["v4"], int(parts["port"]))
    except ValueError:
        pass
    raise DecodeError(f"datagram record: {value!r} is no address and port")


# --- Internet headers -------------------------------------------------------------------------------


def checksum(octets: bytes) -> int:
    """The Internet checksum (RFC 1071): ones' complement of the ones' complement sum."""
    if len(octets) % 2:
        octets += b"\0"
    words: tuple[int, ...] = struct.unpack(f"!{len(octets) // 2}H", octets)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip_packet(source: Address, destination: Address, protocol: int, payload: bytes) -> bytes:
    """An IPv4 (RFC 791 §3.1) or IPv6 (RFC 8200 §3) packet around ``payload``."""
    if isinstance(source, IPv4Address):
        header = struct.pack(
            "!BBHHHBBH4s4s",
            0x45,
            0,
            20 + len(payload),
            0,
            0x4000,  # DF: the identification field then has no meaning (RFC 6864)
            64,
            protocol,
            0,
            source.packed,
            destination.packed,
        )
        return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload
    header = struct.pack("!IHBB", 0x60000000, len(payload), protocol, 64)
    return header + source.packed + destination.packed + payload


def _with_checksum(source: Address, destination: Address, protocol: int, segment: bytes, position: int) -> bytes:
    """``segment`` with its checksum over the pseudo-header (RFC 768, RFC 9293 §3.1, RFC 8200 §8.1)."""
    addresses = source.packed + destination.packed
    if source.version == 4:
        pseudo = addresses + struct.pack("!BBH", 0, protocol, len(segment))
    else:
        pseudo = addresses + struct.pack("!IHBB", len(segment), 0, 0, protocol)
    value = checksum(pseudo + segment)
    if protocol == PROTOCOL_UDP and value == 0:
        value = 0xFFFF  # zero would say "no checksum" (RFC 768)
    return segment[:position] + struct.pack("!H", value) + segment[position + 2 :]


def udp_packet(source: Endpoint, destination: Endpoint, payload: bytes) -> bytes:
    """An IP packet with a UDP datagram (RFC 768)."""
    segment = struct.pack("!HHHH", source.port, destination.port, 8 + len(payload), 0) + payload
    segment = _with_checksum(source.address, destination.address, PROTOCOL_UDP, segment, 6)
    return ip_packet(source.address, destination.address, PROTOCOL_UDP, segment)


def _tcp_packet(
    source: Endpoint, destination: Endpoint, sequence: int, acknowledged: int, flags: int, payload: bytes
) -> bytes:
    segment = struct.pack(
        "!HHIIBBHHH", source.port, destination.port, sequence, acknowledged, 5 << 4, flags, 65535, 0, 0
    )
    segment = _with_checksum(source.address, destination.address, PROTOCOL_TCP, segment + payload, 16)
    return ip_packet(source.address, destination.address, PROTOCOL_TCP, segment)


class _Connection:
    """A TCP connection's made-up numbers; ``node`` is the end whose records are shown."""

    def __init__(self, node: str, initiator: Endpoint, responder: Endpoint) -> None:
        self.node = node
        self._initiator = initiator
        self._responder = responder
        self._next = {initiator: 1000, responder: 5000}

    def handshake(self) -> list[bytes]:
        """SYN, SYN ACK, ACK (RFC 9293 §3.5): whoever spoke first is taken to have opened."""
        return [
            self._segment(self._initiator, _SYN, b""),
            self._segment(self._responder, _SYN | _ACK, b""),
            self._segment(self._initiator, _ACK, b""),
        ]

    def data(self, source: Endpoint, payload: bytes) -> list[bytes]:
        """The segments that carry ``payload``."""
        return [
            self._segment(source, _PSH | _ACK, payload[start : start + SEGMENT_OCTETS])
            for start in range(0, len(payload), SEGMENT_OCTETS)
        ]

    def _segment(self, source: Endpoint, flags: int, payload: bytes) -> bytes:
        destination = self._responder if source == self._initiator else self._initiator
        acknowledged = self._next[destination] if flags & _ACK else 0
        packet = _tcp_packet(source, destination, self._next[source], acknowledged, flags, payload)
        length = len(payload) + (1 if flags & _SYN else 0)
        self._next[source] = (self._next[source] + length) & 0xFFFFFFFF
        return packet


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901  bit by bit
        table.append(value)
    return tuple(table)


_CRC32C = _crc32c_table()


def crc32c(octets: bytes) -> int:
    """SCTP's checksum (RFC 9260 appendix A): the CRC of Castagnoli, in the order of bits it is sent in."""
    value = 0xFFFFFFFF
    for octet in octets:
        value = value >> 8 ^ _CRC32C[(value ^ octet) & 0xFF]
    return value ^ 0xFFFFFFFF


class _Association:
    """An SCTP association's made-up numbers; ``node`` is the end whose records are shown."""

    def __init__(self, node: str) -> None:
        self.node = node
        self._transmission: dict[Endpoint, int] = {}
        self._sequence: dict[Endpoint, int] = {}

    def data(self, source: Endpoint, destination: Endpoint, payload: bytes) -> list[bytes]:
        """The packets that carry one message: a DATA chunk each (RFC 9260 §3.3.1), on stream zero."""
        sequence = self._sequence.get(source, 0)
        self._sequence[source] = (sequence + 1) & 0xFFFF
        packets = []
        for start in range(0, len(payload), SEGMENT_OCTETS):
            piece = payload[start : start + SEGMENT_OCTETS]
            flags = (_BEGINNING if start == 0 else 0) | (_ENDING if start + len(piece) == len(payload) else 0)
            number = self._transmission.get(source, 1)
            self._transmission[source] = (number + 1) & 0xFFFFFFFF
            chunk = struct.pack("!BBHIHHI", _CHUNK_DATA, flags, 16 + len(piece), number, 0, sequence, PAYLOAD_DIAMETER)
            body = chunk + piece + b"\0" * (-len(piece) % 4)
            # the verification tag is that of the receiver (§3.1)
            header = struct.pack("!HHII", source.port, destination.port, destination.port, 0)
            header = header[:8] + struct.pack("<I", crc32c(header + body))
            packets.append(ip_packet(source.address, destination.address, PROTOCOL_SCTP, header + body))
        return packets


# --- The capture ----------------------------------------------------------------------------------

Comment = Callable[[TraceRecord], str]


def _session_comment(record: TraceRecord) -> str:
    return "" if record.session is None else f"{record.node}: session {record.session}"


class CaptureEncoder:
    """Writes a capture piece by piece: ``start()`` once, then ``encode()`` of every record."""

    def __init__(self, application: str = APPLICATION, *, comment: Comment = _session_comment) -> None:
        """``comment``: what stands beside the packets of a record, empty for nothing."""
        self._section = Section(application)
        self._comment = comment
        self._connections: dict[frozenset[Endpoint], _Connection] = {}
        self._associations: dict[frozenset[Endpoint], _Association] = {}
        # what was sent and not yet seen to arrive, oldest first: (addresses, payload) → senders
        self._under_way: OrderedDict[tuple[str, Endpoint, Endpoint, bytes], list[str]] = OrderedDict()

    def start(self, names: Mapping[Address, str] | None = None) -> bytes:
        """What stands before the first packet; ``names`` of addresses for who has Wireshark resolve them."""
        return self._section.start(names)

    def encode(self, record: TraceRecord) -> bytes:
        """The blocks of one record; none for other kinds and for what another node has shown already.

        ``DecodeError`` on a datagram record that is not one.
        """
        if record.kind is not Kind.DATAGRAM:
            return b""
        seen = ObservedDatagram.of(record)
        if seen.transport == "sctp":
            packets = self._sctp(seen)
        elif seen.transport in STREAMS:
            packets = self._tcp(seen)
        elif self._arrived(seen):
            return b""
        elif seen.transport == "udp":
            packets = [udp_packet(seen.source, seen.destination, seen.payload)]
        else:
            packets = [ip_packet(seen.source.address, seen.destination.address, PROTOCOL_ESP, seen.payload)]
        comment = self._comment(record) if packets else ""
        return b"".join(
            self._section.packet(record.node, octets, wall=record.wall, outgoing=seen.outgoing, comment=comment)
            for octets in packets
        )

    def _arrived(self, seen: ObservedDatagram) -> bool:
        """Whether this is the arrival of a datagram that its sender's record has shown."""
        key = (seen.transport, seen.source, seen.destination, seen.payload)
        if seen.outgoing:
            self._under_way.setdefault(key, []).append(seen.node)
            if len(self._under_way) > PENDING_DATAGRAMS:
                self._under_way.popitem(last=False)
            return False
        senders = self._under_way.get(key, [])
        others = [node for node in senders if node != seen.node]
        if not others:
            return False
        senders.remove(others[0])
        if not senders:
            del self._under_way[key]
        return True

    def _tcp(self, seen: ObservedDatagram) -> list[bytes]:
        ends = frozenset((seen.source, seen.destination))
        connection = self._connections.get(ends)
        packets: list[bytes] = []
        if connection is None:
            connection = _Connection(seen.node, seen.source, seen.destination)
            self._connections[ends] = connection
            packets = connection.handshake()
        if connection.node != seen.node:
            return []
        return packets + connection.data(seen.source, seen.payload)

    def _sctp(self, seen: ObservedDatagram) -> list[bytes]:
        ends = frozenset((seen.source, seen.destination))
        association = self._associations.setdefault(ends, _Association(seen.node))
        return association.data(seen.source, seen.destination, seen.payload) if association.node == seen.node else []


def encode_capture(
    records: Iterable[TraceRecord],
    application: str = APPLICATION,
    *,
    comment: Comment = _session_comment,
    names: Mapping[Address, str] | None = None,
) -> bytes:
    """A whole capture from the records of one or several nodes, put in one order."""
    encoder = CaptureEncoder(application, comment=comment)
    timeline = Timeline(records)
    blocks = [encoder.encode(timeline.record(place)) for place in timeline.places()]
    return encoder.start(names) + b"".join(blocks)
