"""The decrypted view: a capture of what IKE, ESP and Diameter carried, which opens without any keys.

IKE and Diameter messages stand in it as exported PDUs (Wireshark's upper PDU link type: tags that name dissector and
addresses, then the message); the inner packets of ESP, opened with the keys that the trace has, as raw IP. An IKE
message has the header that was on the wire (RFC 7296 §3.1) and, in place of SK, the payloads that were in it.

Left out: what no key record opens, dummy packets (RFC 4303 §2.6), inner packets without an IP header (BEET,
transport mode), IKE retransmissions, messages of over 200,000 octets, arrivals of what its sender's record shows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from protocols.errors import StackError
from protocols.esp.packet import EspOpener, check_keys, opener_of, strip_trailer
from protocols.ikev2.encryption import ENCRYPTION
from protocols.ikev2.registry import EncryptionId, IntegrityId, PayloadType
from protocols.ikev2.suites import EspSuite
from protocols.path import Endpoint
from protocols.secret import Secret
from protocols.trace.ike_header import Carrier, Key, carriers, message_key, observed
from protocols.trace.keys import EspKeysRecord
from protocols.trace.order import Timeline, text_of
from protocols.trace.pcap import ObservedDatagram
from protocols.trace.pcapng import LINKTYPE_UPPER_PDU, Section
from protocols.trace.records import STREAMS, JsonValue, Kind, TraceRecord

# Tags of an exported PDU (wsutil/exported_pdu_tlvs.h), and its numbers for transports
_TAG_END, _TAG_DISSECTOR, _TAG_PORT_TYPE, _TAG_SOURCE_PORT, _TAG_DESTINATION_PORT = 0, 12, 24, 25, 26
_TAG_ADDRESSES = {4: (20, 21), 6: (22, 23)}
_PORT_TYPES = {"sctp": 1, "tcp": 2, "tls": 2, "udp": 3}
_IP_NEXT_HEADERS = (4, 41)
_GENERIC_HEADER_LENGTH = 4
_LONGEST_PAYLOAD = 0xFFFF - _GENERIC_HEADER_LENGTH
_LONGEST_PDU = 200_000  # octets of a message shown; Wireshark refuses a whole file for a packet of over 262144


def exported_pdu(dissector: str, source: Endpoint, destination: Endpoint, transport: str, message: bytes) -> bytes:
    """``message`` behind the tags that say what it is and whose."""
    from_tag, to_tag = _TAG_ADDRESSES[source.address.version]
    tags = (
        (_TAG_DISSECTOR, dissector.encode()),
        (from_tag, source.address.packed),
        (to_tag, destination.address.packed),
        (_TAG_PORT_TYPE, struct.pack("!I", _PORT_TYPES[transport])),
        (_TAG_SOURCE_PORT, struct.pack("!I", source.port)),
        (_TAG_DESTINATION_PORT, struct.pack("!I", destination.port)),
    )
    octets = b"".join(
        struct.pack("!HH", tag, len(value) + -len(value) % 4) + value + b"\0" * (-len(value) % 4) for tag, value in tags
    )
    return octets + struct.pack("!HH", _TAG_END, 0) + message


def encode_clear(records: Sequence[TraceRecord], comment: Callable[[TraceRecord], str]) -> bytes:
    """The capture; ``comment``: what stands beside the packet of a datagram record."""
    return _View(records, comment).encode()


class _View:
    def __init__(self, records: Sequence[TraceRecord], comment: Callable[[TraceRecord], str]) -> None:
        self._timeline = Timeline(records)
        self._comment = comment
        self._openers = _Openers(records)
        self._carriers: dict[Key, Carrier] = carriers(records)
        self._streams = {
            (record.node, record.sequence): record for record in records if record.body.get("transport") in STREAMS
        }
        self._section = Section()

    def encode(self) -> bytes:
        """Sent before received, what both ends saw once."""
        blocks = [self._section.start()]
        for place in self._timeline.places():
            record = self._timeline.record(place)
            if record.kind is Kind.DATAGRAM and place not in self._timeline.datagram_senders:
                blocks.append(self._inner(record))
            elif record.kind is Kind.MESSAGE and place not in self._timeline.senders:
                blocks.append(
                    self._diameter(record) if text_of(record, "protocol") == "diameter" else self._ike(record)
                )
        return b"".join(blocks)

    def _inner(self, record: TraceRecord) -> bytes:
        seen = observed(record)
        packet = self._openers.open(seen) if seen is not None and seen.protocol == "esp" else b""
        if not packet:
            return b""
        return self._section.packet(
            f"{record.node}: inside ESP", packet, wall=record.wall, comment=self._comment(record)
        )

    def _ike(self, record: TraceRecord) -> bytes:
        key = message_key(record)
        carrier = None if key is None else self._carriers.get(key)
        if carrier is None or record.body.get("retransmission") is True:
            return b""
        message = _in_clear(carrier.header.octets, record.body.get("detail"))
        return self._pdu("isakmp", carrier.record, carrier.seen, message) if message else b""

    def _diameter(self, record: TraceRecord) -> bytes:
        carrier = self._streams.get((record.node, record.sequence - 1))
        seen = None if carrier is None else observed(carrier)
        if carrier is None or seen is None or seen.protocol != "diameter":
            return b""
        return self._pdu("diameter", carrier, seen, seen.payload)

    def _pdu(self, dissector: str, carrier: TraceRecord, seen: ObservedDatagram, message: bytes) -> bytes:
        if len(message) > _LONGEST_PDU:
            return b""
        pdu = exported_pdu(dissector, seen.source, seen.destination, seen.transport, message)
        return self._section.packet(
            f"{carrier.node}: {dissector}",
            pdu,
            wall=carrier.wall,
            comment=self._comment(carrier),
            link=LINKTYPE_UPPER_PDU,
        )


def _in_clear(header: bytes, detail: JsonValue) -> bytes:
    """The message without SK: its payloads one after the other (RFC 7296 §3.2); empty when they do not stand there."""
    payloads = detail.get("payloads") if isinstance(detail, dict) else None
    chain: list[tuple[int, bytes]] = []
    for payload in payloads if isinstance(payloads, list) else []:
        kind, octets = (payload.get("type"), payload.get("octets")) if isinstance(payload, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(octets, str):
            return b""
        number = PayloadType.__members__.get(kind)
        unknown = kind.removeprefix("UNKNOWN_")
        if number is None and not unknown.isdecimal():
            return b""
        try:
            chain.append((int(unknown) if number is None else int(number), bytes.fromhex(octets)))
        except ValueError:
            return b""
    if not isinstance(payloads, list):
        return b""
    if any(not 0 < number < 256 or len(octets) > _LONGEST_PAYLOAD for number, octets in chain):
        return b""
    numbers = [*(number for number, _ in chain), 0]  # after the last comes none
    body = b"".join(
        struct.pack("!BBH", after, 0, _GENERIC_HEADER_LENGTH + len(octets)) + octets
        for (_, octets), after in zip(chain, numbers[1:], strict=True)
    )
    return header[:16] + bytes([numbers[0]]) + header[17:24] + struct.pack("!I", len(header) + len(body)) + body


class _Openers:
    """ESP SAs by SPI and receiver, as the key records have them.

    Records do not say whether sequence numbers are extended (RFC 4303 §2.2.1): both are tried, the high half zero.
    """

    def __init__(self, records: Sequence[TraceRecord]) -> None:
        self._openers: dict[tuple[bytes, object], tuple[EspOpener, ...]] = {}
        for record in records:
            if record.kind is Kind.KEYS and record.body.get("table") == "esp":
                try:
                    keys = EspKeysRecord.of(record.body)
                    self._openers[keys.spi, keys.destination.address] = _openers_of(keys)
                except (StackError, KeyError, ValueError):
                    continue  # what does not fit opens nothing

    def open(self, seen: ObservedDatagram) -> bytes:
        """The inner IP packet, empty when there is none to be had."""
        sequence = int.from_bytes(seen.payload[4:8], "big")
        for opener in self._openers.get((seen.payload[:4], seen.destination.address), ()):
            try:
                next_header, packet = strip_trailer(opener.open(seen.payload, sequence))
            except StackError:
                continue
            return packet if next_header in _IP_NEXT_HEADERS else b""
        return b""


def _openers_of(keys: EspKeysRecord) -> tuple[EspOpener, ...]:
    encryption = EncryptionId[keys.encryption]
    row = ENCRYPTION[encryption]
    bits = 8 * (len(keys.encryption_key) - row.salt_length)
    secrets = Secret(keys.encryption_key), Secret(keys.integrity_key)
    openers = []
    for esn in (False, True):
        suite = EspSuite(
            encryption=encryption,
            encryption_key_bits=bits if row.key_bits else None,
            integrity=None if keys.integrity is None else IntegrityId[keys.integrity],
            esn=esn,
        )
        check_keys(suite, *secrets)
        openers.append(opener_of(suite, keys.spi, *secrets))
    return tuple(openers)
