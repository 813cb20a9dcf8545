"""The recorder of one node: numbers observations, keeps the latest, fans out to subscribers.

No thread, file or clock of its own: both clocks are injected, subscribers are plain functions. A
subscriber must return at once and must not raise; whoever writes to something slow (a control
connection, a file) keeps a bounded queue on its own side. Secrets pass only with key export on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Mapping

from protocols.errors import LocalError
from protocols.trace.records import JsonValue, Kind, TraceRecord

RING_RECORDS = 20_000  # about a minute of a busy node, a day of one attached UE

Subscriber = Callable[[TraceRecord], None]
Body = Callable[..., dict[str, JsonValue]]
_Unmade = tuple[int, float, float, Kind, str | None, Body, tuple[object, ...]]  # sequence, clocks, kind, session, body


class Recorder:
    """What a node observed, in order; ``sequence`` starts at 1 and has no gaps."""

    def __init__(
        self,
        node: str,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        export_keys: bool = False,
        ring: int = RING_RECORDS,
        enabled: bool = True,
    ) -> None:
        """``enabled``: without, nothing is recorded, and whoever makes expensive bodies may look here first."""
        if ring < 1:
            raise LocalError("a recorder keeps at least one record")
        self.node = node
        self.enabled = enabled
        self.export_keys = export_keys
        self.started = wall()
        self._monotonic = monotonic
        self._wall = wall
        self._ring: deque[TraceRecord | _Unmade] = deque(maxlen=ring)
        self._sequence = 0
        self._subscribers: dict[int, Subscriber] = {}
        self._subscriptions = 0
        self._waiting: tuple[Callable[[], None], ...] = ()

    @property
    def sequence(self) -> int:
        """The number of the latest record, 0 before the first."""
        return self._sequence

    @property
    def oldest(self) -> int:
        """The number of the oldest record still kept; one past ``sequence`` when there is none."""
        return self._sequence - len(self._ring) + 1

    def view(self) -> dict[str, JsonValue]:
        """How much is kept: ``records`` of at most ``ring``, back to ``oldest`` (wall clock; null without any)."""
        first = self._ring[0] if self._ring else None
        wall = first.wall if isinstance(first, TraceRecord) else None if first is None else first[2]
        return {"enabled": self.enabled, "records": len(self._ring), "ring": self._ring.maxlen, "oldest": wall}

    def keep(self, ring: int) -> None:
        """Keep so many records from now on, the latest."""
        if ring != self._ring.maxlen:
            self._ring = deque(self._ring, maxlen=ring)

    def record(self, kind: Kind | str, body: Mapping[str, JsonValue], session: str | None = None) -> TraceRecord | None:
        """Number, keep and fan out one observation; ``None`` for keys while key export is off, or when not enabled."""
        kind = Kind(kind)
        if not self.enabled or (kind is Kind.KEYS and not self.export_keys):
            return None
        self._sequence += 1
        record = TraceRecord(
            sequence=self._sequence,
            monotonic=self._monotonic(),
            wall=self._wall(),
            node=self.node,
            kind=kind,
            session=session,
            body=dict(body),
        )
        self._ring.append(record)
        for waiting in self._waiting:
            waiting()
        for subscriber in tuple(self._subscribers.values()):
            subscriber(record)
        return record

    def record_later(self, kind: Kind, body: Body, *arguments: object, session: str | None = None) -> None:
        """As ``record``, for what comes by the thousand: the body is made when somebody looks at it, if ever.

        ``body`` is called with ``arguments`` and makes the same of them at any time.
        """
        if self._subscribers or kind is Kind.KEYS:
            self.record(kind, body(*arguments), session)
        elif self.enabled:
            self._sequence += 1
            self._ring.append((self._sequence, self._monotonic(), self._wall(), kind, session, body, arguments))
            for waiting in self._waiting:
                waiting()

    def event(
        self, name: str, text: str, data: Mapping[str, JsonValue] | None = None, session: str | None = None
    ) -> None:
        """Record something a person wants to know, as one plain sentence."""
        self.record(Kind.EVENT, {"name": name, "text": text, "data": dict(data or {})}, session)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` with every record from now on; returns what ends the subscription."""
        self._subscriptions += 1
        number = self._subscriptions
        self._subscribers[number] = subscriber

        def unsubscribe() -> None:
            self._subscribers.pop(number, None)

        return unsubscribe

    def wake(self, waiting: Callable[[], None]) -> Callable[[], None]:
        """Call ``waiting`` after every record from now on, for who reads ``since``; returns what ends that."""
        self._waiting = (*self._waiting, waiting)

        def end() -> None:
            self._waiting = tuple(each for each in self._waiting if each is not waiting)

        return end

    def since(
        self, sequence: int, limit: int | None = None, kinds: Container[Kind] | None = None
    ) -> tuple[TraceRecord, ...]:
        """The kept records numbered above ``sequence``, oldest first, at most ``limit`` of them; of these ``kinds``."""
        newer = min(self._sequence - sequence, len(self._ring))
        if newer <= 0:
            return ()
        taken = newer if limit is None else min(newer, limit)
        indices = range(-newer, taken - newer)
        if kinds is not None:
            return tuple(self._made(index) for index in indices if _kind(self._ring[index]) in kinds)
        return tuple(self._made(index) for index in indices)

    def _made(self, index: int) -> TraceRecord:
        entry = self._ring[index]
        if isinstance(entry, TraceRecord):
            return entry
        sequence, monotonic, wall, kind, session, body, arguments = entry
        record = self._ring[index] = TraceRecord(
            sequence=sequence,
            monotonic=monotonic,
            wall=wall,
            node=self.node,
            kind=kind,
            session=session,
            body=body(*arguments),
        )
        return record


def _kind(entry: TraceRecord | _Unmade) -> Kind:
    return entry.kind if isinstance(entry, TraceRecord) else entry[3]
