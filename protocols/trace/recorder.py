"""The recorder of one node: numbers observations, keeps the latest, fans out to subscribers.

No thread, file or clock of its own: both clocks are injected, subscribers are plain functions. A
subscriber must return at once and must not raise; whoever writes to something slow (a control
connection, a file) keeps a bounded queue on its own side. Secrets pass only with key export on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from protocols.errors import LocalError
from protocols.trace.records import JsonValue, Kind, TraceRecord

RING_RECORDS = 20_000  # about a minute of a busy node, a day of one attached UE

Subscriber = Callable[[TraceRecord], None]


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
        self._ring: deque[TraceRecord] = deque(maxlen=ring)
        self._sequence = 0
        self._subscribers: dict[int, Subscriber] = {}
        self._subscriptions = 0

    @property
    def sequence(self) -> int:
        """The number of the latest record, 0 before the first."""
        return self._sequence

    @property
    def oldest(self) -> int:
        """The number of the oldest record still kept; one past ``sequence`` when there is none."""
        return self._ring[0].sequence if self._ring else self._sequence + 1

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
        for subscriber in tuple(self._subscribers.values()):
            subscriber(record)
        return record

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

    def since(self, sequence: int, limit: int | None = None) -> tuple[TraceRecord, ...]:
        """The kept records numbered above ``sequence``, oldest first, at most ``limit`` of them."""
        newer = min(self._sequence - sequence, len(self._ring))
        if newer <= 0:
            return ()
        taken = newer if limit is None else min(newer, limit)
        if taken == len(self._ring):
            return tuple(self._ring)
        return tuple(self._ring[index] for index in range(-newer, taken - newer))
