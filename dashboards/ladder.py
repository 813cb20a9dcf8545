"""One session's message ladder, merged from what the gateway, the AAA and the UE each recorded.

What one node sent and another received is one arrow, paired and put in order as everywhere else
(``protocols.trace.order``). A message that its receiver, although traced, never recorded has not arrived,
and the arrow says so. Nodes name sessions in their own ways (the gateway's
identifier, the Diameter Session-Id, a UE's): they are matched by the identifiers inside the records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from protocols.trace.order import EAP, Timeline, detail_of, end_to_end
from protocols.trace.records import JsonValue, Kind, TraceRecord

COLUMN = {"ue": "UE", "epdg": "ePDG", "aaa": "AAA", "hss": "HSS"}
ENDS = {"SWu": ("UE", "ePDG"), "SWm": ("ePDG", "AAA"), "SWx": ("AAA", "HSS"), EAP: ("UE", "AAA")}
SAME_EVENT_INTERVAL = 2.0  # seconds within which two nodes tell of the same thing
ARRIVAL_LIMIT = 1.0  # seconds after which a message nobody took counts as not arrived
WINDOW = 2.0  # seconds around a session's life in which its IMSI identifies it
ENTRIES = 2000  # newest entries shown
RECORDS = 8000  # newest records they are made of


def _closed(session: Mapping[str, JsonValue]) -> float | None:
    """When a closed session left its last path."""
    paths = session.get("paths")
    if session.get("state") != "closed" or not isinstance(paths, list) or not paths:
        return None
    last = paths[-1]
    until = last.get("until") if isinstance(last, dict) else None
    return float(until) if isinstance(until, int | float) else None


class Trace:
    """The newest records of one node that belong to sessions, found by session and by identifier.

    An identifier is a text inside a record that can only mean one session: an IKE SPI, a Session-Id.
    """

    def __init__(self, *, ring: int) -> None:
        self._ring = ring
        self._order: deque[TraceRecord] = deque()
        self._by_session: dict[str, deque[TraceRecord]] = {}
        self._identifiers: dict[str, set[str]] = {}  # session -> identifiers seen with it
        self._sessions: dict[str, set[str]] = {}  # identifier -> sessions seen with it

    def append(self, record: TraceRecord) -> None:
        """Keep a record; the oldest gives way when the ring is full."""
        session = record.session
        if session is None:
            return
        if len(self._order) >= self._ring:
            self._drop_oldest()
        self._order.append(record)
        self._by_session.setdefault(session, deque()).append(record)
        known = self._identifiers.setdefault(session, set())
        for text in _texts(record.body):
            if text not in known and _is_identifier(text):
                known.add(text)
                self._sessions.setdefault(text, set()).add(session)

    def clear(self) -> None:
        """Forget everything (the node was started anew)."""
        for table in (self._order, self._by_session, self._identifiers, self._sessions):
            table.clear()

    def records(self, session: str) -> tuple[TraceRecord, ...]:
        """What is kept under one of the node's own session names, oldest first."""
        return tuple(self._by_session.get(session, ()))

    def names(self, identifiers: Iterable[str]) -> set[str]:
        """The node's names for the session that has one of these identifiers."""
        found: set[str] = set()
        for identifier in identifiers:
            found |= self._sessions.get(identifier, set())
            if identifier in self._by_session:
                found.add(identifier)
        return found

    def _drop_oldest(self) -> None:
        session = self._order.popleft().session
        assert session is not None
        records = self._by_session[session]
        records.popleft()
        if records:
            return
        del self._by_session[session]
        for identifier in self._identifiers.pop(session):
            sessions = self._sessions[identifier]
            sessions.discard(session)
            if not sessions:
                del self._sessions[identifier]


@dataclass(frozen=True, slots=True)
class Source:
    """One node: its name, its kind, its trace."""

    name: str
    kind: str
    trace: Trace


@dataclass(frozen=True, slots=True)
class Identifiers:
    """What a session is called: unambiguous names, and the IMSI with the span in which it means this one."""

    unique: frozenset[str]
    imsi: str | None
    since: float
    until: float

    @classmethod
    def of(cls, identifier: str, session: Mapping[str, JsonValue] | None) -> Identifiers:
        """Collect them from the gateway's session value; ``None`` when it has forgotten the session."""
        unique = {identifier}
        if session is None:
            return cls(frozenset(unique), None, 0.0, 0.0)
        ike = session.get("ike")
        candidates = [session.get("diameter_session_id")]
        if isinstance(ike, dict):
            candidates += [ike.get("spi_i"), ike.get("spi_r")]
        unique |= {value for value in candidates if isinstance(value, str) and value.strip("0")}
        imsi = session.get("imsi")
        created, closed = session.get("created"), _closed(session)
        return cls(
            frozenset(unique),
            imsi if isinstance(imsi, str) else None,
            (float(created) if isinstance(created, int | float) else 0.0) - WINDOW,
            float("inf") if closed is None else closed + WINDOW,
        )


@dataclass(slots=True)
class Entry:
    """One arrow, event or change of state on the ladder."""

    id: str
    kind: str
    wall: float
    node: str
    name: str
    text: str
    detail: JsonValue
    seen_by: list[str]
    source: str | None = None
    target: str | None = None
    interface: str | None = None
    protocol: str | None = None
    peer: str | None = None
    retransmission: bool = False
    arrived: bool | None = None
    transit: float | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """The entry as the API shows it."""
        return {
            "id": self.id,
            "kind": self.kind,
            "wall": self.wall,
            "node": self.node,
            "name": self.name,
            "text": self.text,
            "detail": self.detail,
            "seen_by": list(self.seen_by),
            "from": self.source,
            "to": self.target,
            "interface": self.interface,
            "protocol": self.protocol,
            "peer": self.peer,
            "retransmission": self.retransmission,
            "arrived": self.arrived,
            "transit": self.transit,
        }


def select(sources: Iterable[Source], identifiers: Identifiers) -> list[tuple[Source, TraceRecord]]:
    """The records that belong to the session, node by node."""
    selected: list[tuple[Source, TraceRecord]] = []
    for source in sources:
        names = source.trace.names(identifiers.unique)
        for name in names:
            selected += ((source, record) for record in source.trace.records(name))
        if identifiers.imsi is not None and identifiers.imsi not in names:
            selected += (
                (source, record)
                for record in source.trace.records(identifiers.imsi)
                if identifiers.since <= record.wall <= identifiers.until
            )
    return selected


def build(
    sources: Iterable[Source], identifiers: Identifiers, *, now: float
) -> tuple[list[Entry], list[tuple[str, str]], int]:
    """The entries in order, the (node, session name) pairs they came from, and how many were left out."""
    selected = select(sources, identifiers)
    selected.sort(key=lambda pair: pair[1].wall)
    left_out = max(0, len(selected) - RECORDS)
    selected = selected[left_out:]
    by_name = {source.name: source for source, _ in selected}
    traced = {COLUMN[source.kind] for source in by_name.values()}
    timeline = Timeline(end_to_end(record) for _, record in selected)
    entries: list[Entry] = []
    for place in timeline.places():
        record = timeline.record(place)
        source = by_name[place[0]]
        if record.kind is Kind.EVENT:
            _add_event(entries, _event(source, record), source)
        elif record.kind is Kind.STATE:
            entries.append(_state(source, record))
        elif record.kind is Kind.MESSAGE and place not in timeline.senders:
            arrival = timeline.receivers.get(place)
            entries.append(_arrow(source, record, None if arrival is None else timeline.record(arrival), traced, now))
    pairs = sorted({(source.name, record.session or "") for source, record in selected})
    beyond = max(0, len(entries) - ENTRIES)
    return entries[beyond:], pairs, left_out + beyond


def _is_identifier(text: str) -> bool:
    """An IKE SPI in hexadecimal (not the zero of a first request), or a Session-Id (RFC 6733 §8.8)."""
    if len(text) == 16:
        return text.strip("0123456789abcdef") == "" and text.strip("0") != ""
    return text.count(";") >= 2 and len(text) <= 256


def _texts(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _arrow(source: Source, record: TraceRecord, received: TraceRecord | None, traced: set[str], now: float) -> Entry:
    """``record`` is of the sender where it is traced, else of the receiver."""
    interface = _text(record.body.get("interface"))
    here = COLUMN[source.kind]
    there = _other_end(interface, here)
    outwards = record.body.get("direction") == "out"
    sender, receiver = (here, there) if outwards else (there, here)
    if not outwards or received is not None:
        arrived: bool | None = True
    elif receiver in traced and interface != EAP and now - record.wall > ARRIVAL_LIMIT:
        arrived = False
    else:
        arrived = None
    ends = [record] if received is None else [record, received]
    detail: dict[str, JsonValue] = {}
    for end in reversed(ends):
        detail |= detail_of(end)
    return Entry(
        id=f"{source.name}:{record.sequence}",
        kind="message",
        wall=record.wall,
        node=source.name,
        name=_text(record.body.get("name")) or "message",
        text=_text(record.body.get("summary")) or _text(record.body.get("name")) or "message",
        detail=detail,
        seen_by=[end.node for end in ends],
        source=sender,
        target=receiver,
        interface=interface,
        protocol=_text(record.body.get("protocol")),
        peer=_text(record.body.get("peer")),
        retransmission=any(end.body.get("retransmission") is True for end in ends),
        arrived=arrived,
        transit=None if received is None else max(0.0, received.wall - record.wall),
    )


def _other_end(interface: str | None, here: str) -> str | None:
    ends = ENDS.get(interface or "")
    if ends is None or here not in ends:
        return None
    return ends[1] if here == ends[0] else ends[0]


def _event(source: Source, record: TraceRecord) -> Entry:
    name = _text(record.body.get("name")) or "event"
    return Entry(
        id=f"{source.name}:{record.sequence}",
        kind="event",
        wall=record.wall,
        node=source.name,
        name=name,
        text=_text(record.body.get("text")) or name,
        detail=record.body.get("data"),
        seen_by=[source.name],
        source=COLUMN[source.kind],
    )


def _add_event(entries: list[Entry], entry: Entry, source: Source) -> None:
    """Two nodes that tell of the same thing make one band; the gateway's words are kept."""
    for index, other in enumerate(entries):
        if (
            other.kind == "event"
            and other.name == entry.name
            and source.name not in other.seen_by
            and abs(other.wall - entry.wall) <= SAME_EVENT_INTERVAL
        ):
            if source.kind == "epdg":
                entry.seen_by += other.seen_by
                del entries[index]  # the gateway's place in the order counts, too
                break
            other.seen_by.append(source.name)
            return
    entries.append(entry)


def _state(source: Source, record: TraceRecord) -> Entry:
    machine = _text(record.body.get("machine")) or "session"
    old, new, why = (_text(record.body.get(key)) or "" for key in ("old", "new", "why"))
    return Entry(
        id=f"{source.name}:{record.sequence}",
        kind="state",
        wall=record.wall,
        node=source.name,
        name=machine,
        text=f"{machine}: {old + ' → ' if old else ''}{new}" + (f" ({why})" if why else ""),
        detail={"machine": machine, "old": old, "new": new, "why": why},
        seen_by=[source.name],
        source=COLUMN[source.kind],
    )


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None
