"""One session as all nodes that traced it saw it, with the questions that a cause asks of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import dropwhile

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
        # every cause goes through them
        self._events = tuple(record for record in self.records if record.kind is Kind.EVENT)
        self._messages = tuple(record for record in self.records if record.kind is Kind.MESSAGE)

    def kind_of(self, record: TraceRecord) -> str:
        """What the node that wrote it is."""
        return self._kinds.get(record.node) or node_kind(record.node)

    def events(self, *names: str, of: str | None = None) -> Iterator[TraceRecord]:
        """Events by name, all without one, oldest first; ``of``: a kind of node."""
        for record in self._events:
            named = not names or text_of(record, "name") in names
            if named and of in (None, self.kind_of(record)):
                yield record

    def messages(
        self, name: str, *, direction: str | None = None, of: str | None = None, after: TraceRecord | None = None
    ) -> Iterator[TraceRecord]:
        """Messages whose name begins so (``IKE_AUTH``, ``DEA``, ``EAP-Response``), oldest first."""
        later: Iterable[TraceRecord] = self._messages
        if after is not None:
            later = dropwhile(lambda record: record is not after, self.records)
        for record in later:
            if (
                record.kind is Kind.MESSAGE
                and record is not after
                and text_of(record, "name").startswith(name)
                and direction in (None, text_of(record, "direction"))
                and of in (None, self.kind_of(record))
            ):
                yield record

    def failures(self, matches: Callable[[TraceRecord], bool]) -> Iterator[tuple[TraceRecord, ...]]:
        """Events that match, oldest first, those of one attempt together.

        Last comes the UE's own word that its attach failed, where it gave it: all of them are one failure.
        """
        group: list[TraceRecord] = []
        for record in self.events():
            of_ue = self.kind_of(record) == "ue"
            mine, failed = matches(record), of_ue and text_of(record, "name") == "refused"
            if mine or (group and failed):
                group.append(record)
            if group and (failed or (of_ue and text_of(record, "name") == "attached")):
                yield tuple(group)
                group = []
        if group:
            yield tuple(group)

    def last_before(
        self, record: TraceRecord, name: str, *, direction: str | None = None, of: str | None = None
    ) -> TraceRecord | None:
        """The last message whose name begins so, before a record in the common order; of its node, in its session."""
        found = None
        wanted = {id(message) for message in self.messages(name, direction=direction, of=of)}
        for each in self.records:
            if each is record:
                return found
            if id(each) in wanted and (each.node != record.node or each.session == record.session):
                found = each
        return None

    def saw(self, kind: str) -> bool:
        """Whether a node of this kind has told anything."""
        return any(self.kind_of(record) == kind for record in self.records)


def reason_of(record: TraceRecord) -> str:
    """The slug of an event about something that was refused."""
    return said(record, "reason")


def fact(record: TraceRecord, key: str) -> JsonValue:
    """A value behind an event's reason; ``None`` when absent."""
    facts = datum(record, "facts")
    return facts.get(key) if isinstance(facts, dict) else None


def words(record: TraceRecord, key: str) -> str:
    """The same as text; of a list its members with commas."""
    value = fact(record, key)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def payloads(record: TraceRecord, name: str) -> list[dict[str, JsonValue]]:
    """The payloads of an IKE message by name (``SAi1``, ``N(COOKIE)``), decoded (``ikev2.description``)."""
    detail = record.body.get("detail")
    listed = detail.get("payloads") if isinstance(detail, dict) else None
    found = listed if isinstance(listed, list) else []
    return [each for each in found if isinstance(each, dict) and each.get("name") == name]


def datum(record: TraceRecord, key: str) -> JsonValue:
    """A member of an event's ``data``; ``None`` when absent."""
    data = record.body.get("data")
    return data.get(key) if isinstance(data, dict) else None


def said(record: TraceRecord, key: str) -> str:
    """The same as text, empty when it is none."""
    value = datum(record, key)
    return value if isinstance(value, str) else ""
