"""Arrows, events and changes of state of a session, merged from what several nodes recorded of it.

What one node sent and another received is one arrow, paired and put in order as everywhere else
(``protocols.trace.order``). A message that its receiver, although traced, never recorded has not arrived,
and the arrow says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protocols.trace.order import EAP, Timeline, detail_of, end_to_end
from protocols.trace.records import JsonValue, Kind, TraceRecord

COLUMN = {"ue": "UE", "epdg": "ePDG", "aaa": "AAA", "hss": "HSS"}
ENDS = {"SWu": ("UE", "ePDG"), "SWm": ("ePDG", "AAA"), "SWx": ("AAA", "HSS"), EAP: ("UE", "AAA")}
SAME_EVENT_INTERVAL = 2.0  # seconds within which two nodes tell of the same thing
ARRIVAL_LIMIT = 1.0  # seconds after which a message nobody took counts as not arrived


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
    made_of: tuple[tuple[str, int], ...] = ()  # node and sequence of its records

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
            "records": [f"{node}:{sequence}" for node, sequence in self.made_of],
            "from": self.source,
            "to": self.target,
            "interface": self.interface,
            "protocol": self.protocol,
            "peer": self.peer,
            "retransmission": self.retransmission,
            "arrived": self.arrived,
            "transit": self.transit,
        }


def merge(
    records: Iterable[TraceRecord], kinds: Mapping[str, str], *, now: float, traced_by: Iterable[str] = ()
) -> list[Entry]:
    """The entries of one session in order; ``kinds``: node name → kind, ``now``: the wall clock.

    ``traced_by``: nodes that have traced the session, beside those whose records these are.
    """
    timeline = Timeline(end_to_end(record) for record in records)
    traced = {COLUMN[kinds[node]] for node in (*timeline.by_node, *traced_by)}
    entries: list[Entry] = []
    for place in timeline.places():
        record = timeline.record(place)
        kind = kinds[place[0]]
        if record.kind is Kind.EVENT:
            _add_event(entries, _event(kind, record), kind)
        elif record.kind is Kind.STATE:
            entries.append(_state(kind, record))
        elif record.kind is Kind.MESSAGE and place not in timeline.senders:
            arrival = timeline.receivers.get(place)
            entries.append(_arrow(kind, record, None if arrival is None else timeline.record(arrival), traced, now))
    return entries


def _arrow(kind: str, record: TraceRecord, received: TraceRecord | None, traced: set[str], now: float) -> Entry:
    """``record`` is of the sender where it is traced, else of the receiver."""
    interface = _text(record.body.get("interface"))
    here = COLUMN[kind]
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
        id=f"{record.node}:{record.sequence}",
        kind="message",
        wall=record.wall,
        node=record.node,
        name=_text(record.body.get("name")) or "message",
        text=_text(record.body.get("summary")) or _text(record.body.get("name")) or "message",
        detail=detail,
        seen_by=[end.node for end in ends],
        made_of=tuple((end.node, end.sequence) for end in ends),
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


def _event(kind: str, record: TraceRecord) -> Entry:
    name = _text(record.body.get("name")) or "event"
    return Entry(
        id=f"{record.node}:{record.sequence}",
        kind="event",
        wall=record.wall,
        node=record.node,
        name=name,
        text=_text(record.body.get("text")) or name,
        detail=record.body.get("data"),
        seen_by=[record.node],
        made_of=((record.node, record.sequence),),
        source=COLUMN[kind],
    )


def _add_event(entries: list[Entry], entry: Entry, kind: str) -> None:
    """Two nodes that tell of the same thing make one band; the gateway's words are kept."""
    for index, other in enumerate(entries):
        if (
            other.kind == "event"
            and other.name == entry.name
            and entry.node not in other.seen_by
            and abs(other.wall - entry.wall) <= SAME_EVENT_INTERVAL
        ):
            if kind == "epdg":
                entry.seen_by += other.seen_by
                entry.made_of += other.made_of
                del entries[index]  # the gateway's place in the order counts, too
                break
            other.seen_by.append(entry.node)
            other.made_of += entry.made_of
            return
    entries.append(entry)


def _state(kind: str, record: TraceRecord) -> Entry:
    machine = _text(record.body.get("machine")) or "session"
    old, new, why = (_text(record.body.get(key)) or "" for key in ("old", "new", "why"))
    return Entry(
        id=f"{record.node}:{record.sequence}",
        kind="state",
        wall=record.wall,
        node=record.node,
        name=machine,
        text=f"{machine}: {old + ' → ' if old else ''}{new}" + (f" ({why})" if why else ""),
        detail={"machine": machine, "old": old, "new": new, "why": why},
        seen_by=[record.node],
        made_of=((record.node, record.sequence),),
        source=COLUMN[kind],
    )


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None
