"""The IKE header of datagram records (RFC 7296 §3.1), and which datagram carried which message record.

A node's datagrams and messages know of each other by it: both are of one node, one direction and one header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from protocols.errors import DecodeError
from protocols.trace.order import detail_of, text_of
from protocols.trace.pcap import ObservedDatagram
from protocols.trace.records import Kind, TraceRecord

NON_ESP_MARKER = bytes(4)  # RFC 3948 §2.2
LENGTH = 28
SKF = 53  # Encrypted Fragment payload (RFC 7383 §2.5)
_RESPONSE = 0x20
_NAME = re.compile(r"(?P<exchange>.+) (?P<kind>request|response)")

Key = tuple[str, str, str, int, bool]  # node, direction, SPI of the initiator, Message ID, whether a response


@dataclass(frozen=True, kw_only=True)
class IkeHeader:
    """``octets`` are all 28 of it; ``fragment``: number and total of an Encrypted Fragment payload."""

    octets: bytes
    fragment: tuple[int, int] | None

    @classmethod
    def of(cls, seen: ObservedDatagram) -> IkeHeader | None:
        """Of a datagram; ``None`` when it is no IKE."""
        payload = seen.payload.removeprefix(NON_ESP_MARKER)
        if seen.protocol != "ikev2" or len(payload) < LENGTH:
            return None
        fragment = None
        if payload[16] == SKF and len(payload) >= LENGTH + 8:
            fragment = int.from_bytes(payload[32:34], "big"), int.from_bytes(payload[34:36], "big")
        return cls(octets=payload[:LENGTH], fragment=fragment)

    @property
    def spis(self) -> tuple[str, str]:
        """Of the initiator and the responder, in hexadecimal."""
        return self.octets[:8].hex(), self.octets[8:16].hex()

    def key(self, node: str, *, outgoing: bool) -> Key:
        """By which the message is found that this datagram carried, or a part of it."""
        message_id, response = int.from_bytes(self.octets[20:24], "big"), bool(self.octets[19] & _RESPONSE)
        return node, "out" if outgoing else "in", self.spis[0], message_id, response


def message_key(record: TraceRecord) -> Key | None:
    """The same of a message record; ``None`` when it is no IKE message."""
    name, detail = _NAME.fullmatch(text_of(record, "name")), detail_of(record)
    spi_i, message_id = detail.get("spi_i"), detail.get("message_id")
    if record.kind is not Kind.MESSAGE or name is None or record.body.get("protocol") != "ikev2":
        return None
    if not isinstance(spi_i, str) or not isinstance(message_id, int):
        return None
    return record.node, text_of(record, "direction"), spi_i, message_id, name["kind"] == "response"


def observed(record: TraceRecord) -> ObservedDatagram | None:
    """A datagram record as one; ``None`` for other kinds and for what does not parse."""
    if record.kind is not Kind.DATAGRAM:
        return None
    try:
        return ObservedDatagram.of(record)
    except DecodeError:
        return None


@dataclass(frozen=True, kw_only=True)
class Carrier:
    """A datagram that carried an IKE message, or the first part of it."""

    record: TraceRecord
    seen: ObservedDatagram
    header: IkeHeader


def carriers(records: Iterable[TraceRecord]) -> dict[Key, Carrier]:
    """The first carrier of each IKE message."""
    found: dict[Key, Carrier] = {}
    for record in records:
        seen = observed(record)
        header = None if seen is None else IkeHeader.of(seen)
        if seen is not None and header is not None:
            key = header.key(record.node, outgoing=seen.outgoing)
            found.setdefault(key, Carrier(record=record, seen=seen, header=header))
    return found
