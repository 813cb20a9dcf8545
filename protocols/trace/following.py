"""Sessions as they happen: records of several nodes come in, lines of their ladders go out, each once.

Nodes name sessions in their own ways. Names belong together when records under them hold the same identifier (an IKE
SPI, a Session-Id); what a node keeps under an IMSI (SWx) belongs to the session that named this IMSI last. A line
waits ``HOLD_INTERVAL`` for what other nodes tell of the same time, a message ``ARRIVAL_LIMIT`` for the record of its
other end, where that traces.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from protocols.trace.arrows import ARRIVAL_LIMIT, COLUMN, Entry, merge
from protocols.trace.explanation.catalogue import explain
from protocols.trace.explanation.cause import Finding
from protocols.trace.order import EAP
from protocols.trace.records import Kind, TraceRecord
from protocols.trace.selection import lasting_identifiers, texts_in

FOLLOWED = (Kind.MESSAGE, Kind.EVENT)
HOLD_INTERVAL = 0.3  # seconds
KEPT = 2000  # newest records of a session that an explanation looks at
SESSIONS = 1000  # sessions known at a time; the one that was silent for longest gives way

_IMSI = re.compile(r"(?:[0-8](?=\d{14,15}@))?(\d{14,15})(?:@.*)?", re.ASCII)  # alone, or in an NAI (TS 23.003 §19.3)

Name = tuple[str, str]  # a node, and what it calls the session
Place = tuple[str, int]  # a node, and the sequence of a record


@dataclass(frozen=True, kw_only=True)
class Line:
    """Something to show of session ``number`` (0: of none): an entry of the ladder, why it failed, or its name."""

    wall: float
    number: int
    entry: Entry | None = None
    finding: Finding | None = None
    name: Name | None = None


@dataclass(eq=False)
class _Session:
    number: int
    names: set[Name] = field(default_factory=set)
    identifiers: set[str] = field(default_factory=set)
    imsis: set[str] = field(default_factory=set)
    kept: deque[TraceRecord] = field(default_factory=lambda: deque(maxlen=KEPT))
    pending: dict[Place, TraceRecord] = field(default_factory=dict)
    taken: dict[Place, float] = field(default_factory=dict)
    latest: float = 0.0
    unexplained: bool = False
    explained: set[tuple[str, Place]] = field(default_factory=set)
    named: Name | None = None
    announced: bool = False


class Following:
    """The sessions of several nodes, all of them or those that are asked for."""

    def __init__(self, *, session: str | None = None, imsi: str | None = None) -> None:
        """``session``: any node's name for it, an SPI or a Session-Id."""
        self._session = session
        self._imsi = imsi
        self._kinds: dict[str, str] = {}
        self._sessions: OrderedDict[int, _Session] = OrderedDict()
        self._by_name: dict[Name, _Session] = {}
        self._by_identifier: dict[str, _Session] = {}
        self._by_imsi: dict[str, _Session] = {}
        self._number = 0
        self._of_nodes: list[TraceRecord] = []

    def take(self, record: TraceRecord, kind: str, now: float) -> None:
        """A record of a node; its ``node`` is the name to show, ``kind`` one of ``arrows.COLUMN``."""
        self._kinds[record.node] = kind
        if record.kind not in FOLLOWED:
            return
        if record.session is None:
            if record.kind is Kind.EVENT and self._session is None and self._imsi is None:
                self._of_nodes.append(record)
            return
        session = self._session_of(record, (record.node, record.session))
        place = (record.node, record.sequence)
        session.kept.append(record)
        session.pending[place] = record
        session.taken[place] = session.latest = now
        while len(session.pending) > KEPT:  # of a session that nobody asked for
            oldest = next(iter(session.pending))
            del session.pending[oldest], session.taken[oldest]
        session.unexplained |= record.kind is Kind.EVENT
        if kind == "epdg" and session.named is None:
            session.named = (record.node, record.session)
        self._sessions.move_to_end(session.number)
        if len(self._sessions) > SESSIONS:
            self._forget(next(iter(self._sessions.values())))

    def lines(self, now: float) -> list[Line]:
        """What can be told by now, in order."""
        found = [
            (record.wall, Line(wall=record.wall, number=0, entry=entry))
            for record in self._of_nodes
            for entry in merge((record,), self._kinds, now=now)
        ]
        self._of_nodes.clear()
        for session in self._sessions.values():
            if self._wanted(session):
                latest = 0.0  # clocks of nodes differ; within a session the order is that of cause and effect
                for line in (*self._settled(session, now), *self._explanations(session, now)):
                    latest = max(latest, line.wall)
                    found.append((latest, line))
        return [line for _, line in sorted(found, key=lambda pair: pair[0])]

    # --- which session

    def _wanted(self, session: _Session) -> bool:
        if self._imsi is not None and self._imsi not in session.imsis:
            return False
        if self._session is None or self._session in session.identifiers:
            return True
        return any(name == self._session for _, name in session.names)

    def _session_of(self, record: TraceRecord, name: Name) -> _Session:
        identifiers = lasting_identifiers(record.body)
        imsis = {found[1] for _, text in texts_in(record.body) if (found := _IMSI.fullmatch(text))}
        is_imsi = _IMSI.fullmatch(name[1]) is not None
        known = {id(each): each for each in (self._by_identifier.get(text) for text in identifiers) if each}
        if name in self._by_name and not is_imsi:
            known[id(self._by_name[name])] = self._by_name[name]
        if not known and is_imsi:
            latest = self._by_imsi.get(name[1]) or self._by_name.get(name)
            known = {} if latest is None else {id(latest): latest}
        session, *others = sorted(known.values(), key=lambda each: each.number) or [self._new()]
        for other in others:
            self._join(session, other)
        session.names.add(name)
        session.identifiers |= identifiers
        session.imsis |= imsis
        self._by_name[name] = session
        self._by_identifier.update(dict.fromkeys(identifiers, session))
        self._by_imsi.update(dict.fromkeys(imsis, session))
        return session

    def _new(self) -> _Session:
        self._number += 1
        session = self._sessions[self._number] = _Session(self._number)
        return session

    def _join(self, session: _Session, other: _Session) -> None:
        session.kept.extend(other.kept)
        session.pending |= other.pending
        session.taken |= other.taken
        session.unexplained |= other.unexplained
        session.explained |= other.explained
        session.latest = max(session.latest, other.latest)
        session.named = session.named or other.named
        session.announced |= other.announced
        session.names |= other.names
        session.identifiers |= other.identifiers
        session.imsis |= other.imsis
        self._by_name.update(dict.fromkeys(other.names, session))
        self._by_identifier.update(dict.fromkeys(other.identifiers, session))
        self._by_imsi.update(dict.fromkeys(other.imsis, session))
        del self._sessions[other.number]

    def _forget(self, session: _Session) -> None:
        del self._sessions[session.number]
        for name in session.names:
            if self._by_name.get(name) is session:
                del self._by_name[name]
        for table, texts in ((self._by_identifier, session.identifiers), (self._by_imsi, session.imsis)):
            for text in texts:
                if table.get(text) is session:
                    del table[text]

    # --- what can be told

    def _settled(self, session: _Session, now: float) -> Iterator[Line]:
        if not session.pending:
            return
        nodes = {node for node, _ in session.names} | self._gateways()
        for entry in merge(session.pending.values(), self._kinds, now=now, traced_by=nodes):
            age = now - max(session.taken[place] for place in entry.made_of)
            if age < (ARRIVAL_LIMIT if self._waits(entry, nodes) else HOLD_INTERVAL):
                return
            for place in entry.made_of:
                del session.pending[place], session.taken[place]
            if session.named is not None and not session.announced:
                session.announced = True
                yield Line(wall=entry.wall, number=session.number, name=session.named)
            yield Line(wall=entry.wall, number=session.number, entry=entry)

    def _gateways(self) -> set[str]:
        """Gateways trace every session of theirs, also one whose first request never came."""
        return {node for node, kind in self._kinds.items() if kind == "epdg"}

    def _waits(self, entry: Entry, nodes: set[str]) -> bool:
        """Whether the other end of a message may still tell of it."""
        if entry.kind != "message" or len(entry.made_of) > 1 or entry.interface == EAP:
            return False
        here = COLUMN[self._kinds[entry.node]]
        other = entry.target if entry.source == here else entry.source
        return other in {COLUMN[self._kinds[node]] for node in nodes}

    def _explanations(self, session: _Session, now: float) -> Iterator[Line]:
        """Why it failed, once everybody has told what there is."""
        if not session.unexplained or session.pending or now - session.latest < ARRIVAL_LIMIT:
            return
        session.unexplained = False
        for finding in explain(session.kept, self._kinds):
            key = finding.cause.name, finding.evidence[-1]
            if not finding.cause.remark and key not in session.explained:
                session.explained.add(key)
                yield Line(wall=max(finding.wall, session.kept[-1].wall), number=session.number, finding=finding)
