"""The newest records of each node that belong to sessions, kept small, and those of one session among them.

Records are kept as JSON octets, the payloads of IKE messages apart: most are looked at once or never, and Python
objects take several times the room (docs/dashboard.md has the figures). Which records belong to a session is decided as
everywhere else (``protocols.trace.selection``).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from protocols.trace.records import JsonValue, Kind, TraceRecord
from protocols.trace.selection import Names, identifiers_of, life_of, names_of

ATTACHED, ENDED = "attached", "attach-ended"  # the latter tells less than what came before it
REFUSED, TURNED_AWAY = "refused", "turned-away"
WITHOUT_REFUSAL = "ended"  # how attaches that ended without one are counted
FAILED = frozenset({REFUSED, TURNED_AWAY, ENDED})  # events that say so


class Kept:
    """One record; ``payloads`` are those of an IKE message."""

    __slots__ = ("body", "kind", "monotonic", "payloads", "sequence", "session", "wall")

    def __init__(self, record: TraceRecord) -> None:
        self.sequence = record.sequence
        self.monotonic = record.monotonic
        self.wall = record.wall
        self.kind = record.kind
        self.session = record.session
        payloads = payloads_of(record)
        self.body = _packed(without_payloads(record).body)
        self.payloads = None if payloads is None else _packed(payloads)

    def record(self, node: str, *, whole: bool) -> TraceRecord:
        """The record again; ``whole``: with payloads."""
        body = json.loads(self.body)
        if whole and self.payloads is not None:
            body["detail"]["payloads"] = json.loads(self.payloads)
        return TraceRecord(
            sequence=self.sequence,
            monotonic=self.monotonic,
            wall=self.wall,
            node=node,
            kind=self.kind,
            session=self.session,
            body=body,
        )

    def text(self, node: str) -> str:
        """As ``TraceRecord.to_json`` has it, without payloads."""
        frame: JsonValue = {
            "sequence": self.sequence,
            "monotonic": self.monotonic,
            "wall": self.wall,
            "node": node,
            "kind": self.kind.value,
            "session": self.session,
        }
        return f'{_packed(frame)[:-1].decode()},"body":{self.body.decode()}}}'


@dataclass(frozen=True, slots=True)
class Failure:
    """When a node told that an attach had come to nothing, its words, and what it counts it as."""

    wall: float
    text: str
    outcome: str


class Trace:
    """The newest records of one node that belong to sessions, found by session and by identifier."""

    def __init__(self, node: str, *, ring: int) -> None:
        self.ring = ring
        self.names = Names()
        self.failures: dict[str, Failure] = {}  # by name, in the order in which they were told
        self.attached: set[str] = set()  # names that the node told were attached
        self._node = node
        self._order: deque[Kept] = deque()
        self._by_session: dict[str, deque[Kept]] = {}

    def __len__(self) -> int:
        return len(self._order)

    @property
    def oldest(self) -> float | None:
        """When the oldest record was made, ``None`` without any."""
        return self._order[0].wall if self._order else None

    def append(self, record: TraceRecord, kept: Kept | None = None) -> None:
        """Keep a record, as ``kept`` where it has been packed before; the oldest gives way when the ring is full."""
        session = record.session
        if session is None:
            return
        if len(self._order) >= self.ring:
            self._drop_oldest()
        kept = kept or Kept(record)
        self._order.append(kept)
        self._by_session.setdefault(session, deque()).append(kept)
        self.names.add(session, record.body)
        if record.kind is Kind.EVENT:
            self._note(session, record)

    def clear(self) -> None:
        """Forget everything (the node was started anew)."""
        self._order.clear()
        self._by_session.clear()
        self.names.clear()
        self.failures.clear()
        self.attached.clear()

    def records(
        self, session: str, since: float = 0.0, until: float = float("inf"), *, whole: bool = False
    ) -> Iterator[TraceRecord]:
        """What is kept under one of the node's own session names, oldest first; ``whole``: with payloads."""
        for kept in tuple(self._by_session.get(session, ())):
            if since <= kept.wall <= until:
                yield kept.record(self._node, whole=whole)

    def walls(self, session: str) -> Iterator[float]:
        """When the first and the last record under a name were made."""
        kept = self._by_session.get(session)
        if kept:
            yield from (kept[0].wall, kept[-1].wall)

    def last(self, session: str) -> int:
        """The number of the latest record under a name, 0 without one."""
        kept = self._by_session.get(session)
        return kept[-1].sequence if kept else 0

    def find(self, session: str, sequence: int) -> TraceRecord | None:
        """One record with its payloads."""
        for kept in self._by_session.get(session, ()):
            if kept.sequence == sequence:
                return kept.record(self._node, whole=True)
        return None

    def _note(self, session: str, record: TraceRecord) -> None:
        name, text = record.body.get("name"), record.body.get("text")
        if name == ATTACHED:
            self.attached.add(session)
        elif name in FAILED and isinstance(text, str) and not (name == ENDED and session in self.failures):
            self.failures[session] = Failure(record.wall, text, _outcome(name, record.body.get("data")))

    def _drop_oldest(self) -> None:
        session = self._order.popleft().session or ""
        records = self._by_session[session]
        records.popleft()
        if not records:
            del self._by_session[session]
            self.names.forget(session)
            self.failures.pop(session, None)
            self.attached.discard(session)


@dataclass(frozen=True, slots=True)
class Source:
    """One node: its name, its kind, its trace."""

    name: str
    kind: str
    trace: Trace


@dataclass(frozen=True, slots=True)
class Selection:
    """Where a session's records are: (source, name at it, from when, until when)."""

    parts: tuple[tuple[Source, str, float, float], ...]

    def records(self, *, whole: bool = False) -> list[tuple[Source, TraceRecord]]:
        """The records, node by node."""
        return [
            (source, record)
            for source, name, since, until in self.parts
            for record in source.trace.records(name, since, until, whole=whole)
        ]

    def find(self, node: str, sequence: int) -> TraceRecord | None:
        """One of them with its payloads."""
        for source, name, since, until in self.parts:
            if source.name == node:
                record = source.trace.find(name, sequence)
                if record is not None and since <= record.wall <= until:
                    return record
        return None


def select(sources: Iterable[Source], identifier: str, session: Mapping[str, JsonValue] | None) -> Selection:
    """The records of the session that has this identifier: the gateway's, an IKE SPI, a Session-Id, a node's own name.

    ``session``: as the gateway describes it, ``None`` when it does not know it: then by identifiers alone.
    """
    by_node = {source.name: source for source in sources}
    known = {identifier} | (identifiers_of(session) if session is not None else set())
    names, _ = names_of({name: source.trace.names for name, source in by_node.items()}, known)
    parts = [(by_node[node], name, 0.0, float("inf")) for node, name in sorted(names)]
    imsi = None if session is None else session.get("imsi")
    if session is not None and isinstance(imsi, str):
        since, until = life_of(session, (wall for source, name, _, _ in parts for wall in source.trace.walls(name)))
        parts += [(source, imsi, since, until) for source in by_node.values()]
    return Selection(tuple(parts))


def payloads_of(record: TraceRecord) -> JsonValue:
    """An IKE message's payloads, ``None`` of what has none."""
    detail = record.body.get("detail")
    return detail.get("payloads") if isinstance(detail, dict) and record.kind is Kind.MESSAGE else None


def without_payloads(record: TraceRecord) -> TraceRecord:
    """The record as lists and events have it."""
    detail = record.body.get("detail")
    if record.kind is not Kind.MESSAGE or not isinstance(detail, dict) or "payloads" not in detail:
        return record
    shown = {key: value for key, value in detail.items() if key != "payloads"}
    return TraceRecord(
        sequence=record.sequence,
        monotonic=record.monotonic,
        wall=record.wall,
        node=record.node,
        kind=record.kind,
        session=record.session,
        body={**record.body, "detail": shown},
    )


def _outcome(name: JsonValue, data: JsonValue) -> str:
    """The cause of a refusal, as a gateway counts it."""
    if name != REFUSED:
        return WITHOUT_REFUSAL if name == ENDED else TURNED_AWAY
    cause = data.get("cause") if isinstance(data, dict) else None
    return cause if isinstance(cause, str) else REFUSED


def _packed(value: JsonValue) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
