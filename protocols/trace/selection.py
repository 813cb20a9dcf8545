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

_IMSI_DIGITS = 15  # at most (TS 23.003 §2.2)

Name = tuple[str, str]  # a node, and what it calls the session


class Names:
    """What one node calls its sessions, by the identifiers that stand in the records under each name.

    An IMSI is the name of a subscriber: what is told under it may be of any session of that one, and is left out.
    """

    def __init__(self) -> None:
        self._identifiers: dict[str, set[str]] = {}
        self._names: dict[str, set[str]] = {}  # by identifier, of those that mean one session only

    def add(self, name: str, body: Mapping[str, JsonValue]) -> None:
        """Note the identifiers in a record's body."""
        if _is_subscriber(name):
            return
        known = self._identifiers.setdefault(name, set())
        for identifier in ({name} if not known else set()) | _identifiers([dict(body)]):
            if identifier not in known:
                known.add(identifier)
                if _is_lasting(identifier):
                    self._names.setdefault(identifier, set()).add(name)

    def forget(self, name: str) -> None:
        """There are no records under this name any more."""
        for identifier in self._identifiers.pop(name, set()):
            names = self._names.get(identifier, set())
            names.discard(name)
            if not names:
                self._names.pop(identifier, None)

    def clear(self) -> None:
        """Forget everything."""
        self._identifiers.clear()
        self._names.clear()

    def identifiers(self, name: str) -> frozenset[str]:
        """All that are known of a name, itself included."""
        return frozenset(self._identifiers.get(name, ()))

    def having(self, identifiers: Iterable[str]) -> set[str]:
        """The names with one of these identifiers."""
        return set().union(*(self._names.get(identifier, set()) for identifier in identifiers))


def names_of(nodes: Mapping[str, Names], identifiers: Iterable[str]) -> tuple[set[Name], set[str]]:
    """All names of the session that has one of these identifiers, at every node, and all its identifiers."""
    known = set(identifiers)
    wanted, names = set(known), set[Name]()
    while wanted:
        found = {(node, name) for node, held in nodes.items() for name in held.having(wanted)} - names
        names |= found
        wanted = {identifier for node, name in found for identifier in nodes[node].identifiers(name)} - known
        known |= wanted
    return names, known


def life_of(session: Mapping[str, JsonValue], walls: Iterable[float]) -> tuple[float, float]:
    """From when to when an IMSI, as a name, means this session; ``walls``: when something was told under its names."""
    created = session.get("created")
    begin = float(created) if isinstance(created, int | float) else 0.0
    if session.get("state") != "closed":
        return begin - WINDOW, float("inf")
    paths = session.get("paths")
    left = [path.get("until") for path in paths if isinstance(path, dict)] if isinstance(paths, list) else []
    known = [*walls, *(float(until) for until in left if isinstance(until, int | float))]
    return begin - WINDOW, max(known, default=float("inf")) + WINDOW


def identifiers_of(session: Mapping[str, JsonValue]) -> set[str]:
    """The identifiers of a session as ``sessions.get`` of the gateway describes it."""
    name = session.get("id")
    return _identifiers([dict(session)]) | ({name} if isinstance(name, str) else set())


def lasting_identifiers(body: Mapping[str, JsonValue]) -> set[str]:
    """What stands in a record's body and means one session only: SPIs of IKE, Session-Ids."""
    return {identifier for identifier in _identifiers([dict(body)]) if _is_lasting(identifier)}


def records_of(records: Sequence[TraceRecord], session: Mapping[str, JsonValue]) -> list[TraceRecord]:
    """Those of one session, in the order given; ``session``: as ``sessions.get`` of the gateway describes it.

    Notices that a node no longer had everything come along.
    """
    imsi = session.get("imsi")
    nodes: dict[str, Names] = {}
    for record in records:
        if record.session is not None:
            nodes.setdefault(record.node, Names()).add(record.session, record.body)
    names, identifiers = names_of(nodes, identifiers_of(session))
    walls = [record.wall for record in records if (record.node, record.session or "") in names]
    since, until = life_of(session, walls)
    taken = _Datagrams(records, identifiers)
    return [
        record
        for record in records
        if (record.node, record.session or "") in names
        or (record.session is not None and record.session == imsi and since <= record.wall <= until)
        or (record.session is None and (taken.take(record) or text_of(record, "name") == _NOTICE))
    ]


def _is_lasting(identifier: str) -> bool:
    """Whether it means one session only: an ESP SPI has 32 bits, and each receiver chooses its own."""
    return len(identifier) != _ESP_SPI or not _is_spi(identifier)


def _is_subscriber(name: str) -> bool:
    return name.isdecimal() and len(name) <= _IMSI_DIGITS


def _identifiers(values: Iterable[JsonValue]) -> set[str]:
    """SPIs and Session-Ids, wherever they stand; not the zero SPI of a first request (RFC 7296 §3.1)."""
    return {
        text
        for value in values
        for key, text in texts_in(value)
        if key in _IDENTIFYING and (_is_spi(text) if "spi" in key else text.count(";") >= 2)
    }


def _is_spi(text: str) -> bool:
    return len(text) in (_IKE_SPI, _ESP_SPI) and not text.strip("0123456789abcdef") and bool(text.strip("0"))


def texts_in(value: JsonValue, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text, wherever it stands, with the key that it or its list stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for inner, item in value.items():
            yield from texts_in(item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from texts_in(item, key)


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
