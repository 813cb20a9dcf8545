"""The records of one session among all that nodes have kept: messages, states and keys, datagrams with them.

Nodes name sessions in their own ways (the gateway's identifier, the Diameter Session-Id, a UE's), and datagrams
mostly have no name at all. A name belongs to the session when a record under it holds one of its identifiers: an IKE
SPI, a Session-Id; those records' own identifiers count as well, since an IKE SA that is rekeyed has new SPIs. A
datagram belongs to it by an SPI of IKE or ESP, and what has none (NAT-keepalives) by its pair of addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from protocols.trace.ike_header import IkeHeader, observed
from protocols.trace.order import text_of
from protocols.trace.pcap import ObservedDatagram
from protocols.trace.records import JsonValue, TraceRecord

WINDOW = 2.0  # seconds around a session's life in which its IMSI, as a name, means this one
_IDENTIFYING = frozenset({"spi", "spi_i", "spi_r", "inbound_spi", "outbound_spi", "Session-Id", "diameter_session_id"})
_IKE_SPI, _ESP_SPI = 16, 8  # hexadecimal digits
_NOTICE = "records-dropped"

Name = tuple[str, str]  # a node, and what it calls the session


def records_of(records: Sequence[TraceRecord], session: Mapping[str, JsonValue]) -> list[TraceRecord]:
    """Those of one session, in the order given; ``session``: as ``sessions.get`` of the gateway describes it.

    Notices that a node no longer had everything come along.
    """
    imsi = session.get("imsi")
    by_name: dict[Name, list[TraceRecord]] = {}
    for record in records:
        if record.session is not None and record.session != imsi:
            by_name.setdefault((record.node, record.session), []).append(record)
    held = {name: _identifiers([record.body for record in own]) | {name[1]} for name, own in by_name.items()}
    identifiers = _identifiers([dict(session), {"spi": session.get("id")}])
    identifiers |= {value for value in (session.get("id"),) if isinstance(value, str)}
    names: set[Name] = set()
    while found := {name for name, own in held.items() if name not in names and _lasting(own) & _lasting(identifiers)}:
        names |= found
        identifiers = identifiers.union(*(held[name] for name in found))
    since, until = _life(session, [record.wall for name in names for record in by_name[name]])
    taken = _Datagrams(records, identifiers)
    return [
        record
        for record in records
        if (record.node, record.session or "") in names
        or (record.session is not None and record.session == imsi and since <= record.wall <= until)
        or (record.session is None and (taken.take(record) or text_of(record, "name") == _NOTICE))
    ]


def _lasting(identifiers: set[str]) -> set[str]:
    """Those that mean one session only: an ESP SPI has 32 bits, and each receiver chooses its own."""
    return {identifier for identifier in identifiers if len(identifier) != _ESP_SPI}


def _identifiers(values: Iterable[JsonValue]) -> set[str]:
    """SPIs and Session-Ids, wherever they stand; not the zero SPI of a first request (RFC 7296 §3.1)."""
    return {
        text
        for value in values
        for key, text in _texts(value)
        if key in _IDENTIFYING and (_is_spi(text) if "spi" in key else text.count(";") >= 2)
    }


def _is_spi(text: str) -> bool:
    return len(text) in (_IKE_SPI, _ESP_SPI) and not text.strip("0123456789abcdef") and bool(text.strip("0"))


def _texts(value: JsonValue, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for inner, item in value.items():
            yield from _texts(item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)


def _life(session: Mapping[str, JsonValue], walls: Sequence[float]) -> tuple[float, float]:
    created = session.get("created")
    begin = float(created) if isinstance(created, int | float) else min(walls, default=0.0)
    end = max(walls, default=begin) if session.get("state") == "closed" else float("inf")
    return begin - WINDOW, end + WINDOW


class _Datagrams:
    """Which datagrams are the session's, by what they hold."""

    def __init__(self, records: Sequence[TraceRecord], identifiers: set[str]) -> None:
        self._identifiers = identifiers
        self._pairs: set[tuple[str, str, str]] = set()
        for record in records:
            seen = observed(record)
            if seen is not None and self._named(seen):
                self._pairs.add(_pair(record))

    def take(self, record: TraceRecord) -> bool:
        """Whether a record is one of them."""
        seen = observed(record)
        if seen is None or seen.transport not in ("udp", "ip"):
            return False
        return self._named(seen) or (seen.protocol in ("keepalive", "unknown") and _pair(record) in self._pairs)

    def _named(self, seen: ObservedDatagram) -> bool:
        header = IkeHeader.of(seen)
        if header is not None:
            return not self._identifiers.isdisjoint(header.spis)
        return seen.protocol == "esp" and seen.payload[:4].hex() in self._identifiers


def _pair(record: TraceRecord) -> tuple[str, str, str]:
    return record.node, text_of(record, "local"), text_of(record, "remote")
