"""One session as all nodes that traced it saw it, with the questions that a cause asks of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from protocols.trace.ladder import node_kind
from protocols.trace.order import Timeline, text_of
from protocols.trace.records import JsonValue, Kind, TraceRecord


class Story:
    """The records of one session in their common order (``protocols.trace.order``)."""

    def __init__(self, records: Iterable[TraceRecord], kinds: Mapping[str, str] | None = None) -> None:
        """``kinds``: node name → ``ue``, ``epdg``, ``aaa`` or ``hss``; by default told from the names."""
        timeline = Timeline(record for record in records if record.kind is not Kind.DATAGRAM)
        self.records = tuple(timeline.record(place) for place in timeline.places())
        self._kinds = dict(kinds or {})

    def kind_of(self, record: TraceRecord) -> str:
        """What the node that wrote it is."""
        return self._kinds.get(record.node) or node_kind(record.node)

    def events(self, *names: str, of: str | None = None) -> Iterator[TraceRecord]:
        """Events by name, oldest first; ``of``: a kind of node."""
        for record in self.records:
            if record.kind is Kind.EVENT and text_of(record, "name") in names and of in (None, self.kind_of(record)):
                yield record

    def messages(
        self, name: str, *, direction: str | None = None, of: str | None = None, after: TraceRecord | None = None
    ) -> Iterator[TraceRecord]:
        """Messages whose name begins so (``IKE_AUTH``, ``DEA``, ``EAP-Response``), oldest first."""
        begun = after is None
        for record in self.records:
            if not begun:
                begun = record is after
                continue
            if (
                record.kind is Kind.MESSAGE
                and text_of(record, "name").startswith(name)
                and direction in (None, text_of(record, "direction"))
                and of in (None, self.kind_of(record))
            ):
                yield record


def datum(record: TraceRecord, key: str) -> JsonValue:
    """A member of an event's ``data``; ``None`` when absent."""
    data = record.body.get("data")
    return data.get(key) if isinstance(data, dict) else None


def said(record: TraceRecord, key: str) -> str:
    """The same as text, empty when it is none."""
    value = datum(record, key)
    return value if isinstance(value, str) else ""
