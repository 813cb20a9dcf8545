"""One session's message ladder, merged from what the gateway, the AAA and the UE each recorded.

Its arrows are ``protocols.trace.arrows``; here is what belongs to a session. Nodes name sessions in their own
ways (the gateway's identifier, the Diameter Session-Id, a UE's): they are matched by the identifiers inside the
records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protocols.trace.arrows import Entry, identifiers_in, merge
from protocols.trace.records import JsonValue, TraceRecord

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
        for text in identifiers_in(record.body):
            if text not in known:
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
    kinds = {source.name: source.kind for source, _ in selected}
    entries = merge((record for _, record in selected), kinds, now=now)
    pairs = sorted({(source.name, record.session or "") for source, record in selected})
    beyond = max(0, len(entries) - ENTRIES)
    return entries[beyond:], pairs, left_out + beyond
