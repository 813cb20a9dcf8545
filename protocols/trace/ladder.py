"""The message ladder: what went between the boxes, merged from the records of several nodes.

Columns are the nodes (UE left, gateway, AAA right) and, where a peer is not traced, its role. Entries
are in the order of ``order.Timeline``: ``message`` records as arrows, one for a message that both ends
saw (of EAP these are the UE and the AAA server); ``event`` records as notes; ESP and keepalive datagrams counted in
runs; datagrams nobody could parse.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from protocols.trace.order import EAP, Place, Timeline, detail_of, end_to_end, text_of
from protocols.trace.records import STREAMS, JsonValue, Kind, TraceRecord

_RUN_PROTOCOLS = ("esp", "keepalive", "unknown")
_KIND_ORDER = {"ue": 0, "": 1, "epdg": 2, "aaa": 3, "hss": 4}
_INTERFACE_ENDS = {"SWu": ("ue", "epdg"), "SWm": ("epdg", "aaa"), "SWx": ("aaa", "hss"), EAP: ("ue", "aaa")}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One box: a traced node, or the role of a peer that was not traced."""

    name: str
    kind: str
    traced: bool

    def to_json(self) -> dict[str, JsonValue]:
        """As a JSON object."""
        return {"name": self.name, "kind": self.kind, "traced": self.traced}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line: an ``arrow`` from ``source`` to ``destination``, or a ``note`` at ``source``.

    ``at`` is seconds since the ladder's start, ``seen_by`` the nodes with a record of it, ``count`` how
    many datagrams a run stands for.
    """

    shape: str
    wall: float
    at: float
    source: str
    destination: str | None
    protocol: str
    interface: str
    name: str
    summary: str
    detail: dict[str, JsonValue] = field(default_factory=dict)
    retransmission: bool = False
    session: str | None = None
    seen_by: tuple[str, ...] = ()
    count: int = 1

    def to_json(self) -> dict[str, JsonValue]:
        """As a JSON object."""
        return {
            "shape": self.shape,
            "wall": self.wall,
            "at": self.at,
            "source": self.source,
            "destination": self.destination,
            "protocol": self.protocol,
            "interface": self.interface,
            "name": self.name,
            "summary": self.summary,
            "detail": self.detail,
            "retransmission": self.retransmission,
            "session": self.session,
            "seen_by": list(self.seen_by),
            "count": self.count,
        }


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Columns from left to right and entries from first to last."""

    started: float
    columns: tuple[Column, ...]
    entries: tuple[Entry, ...]

    def is_unreported(self, entry: Entry) -> bool:
        """Whether a message's receiver is traced and has no record of it: it was lost, or its record was."""
        return (
            entry.destination is not None
            and entry.destination not in entry.seen_by
            and entry.protocol not in _RUN_PROTOCOLS
            and entry.interface != EAP
            and any(column.traced and column.name == entry.destination for column in self.columns)
        )

    def to_json(self) -> dict[str, JsonValue]:
        """As a JSON object."""
        return {
            "started": self.started,
            "columns": [column.to_json() for column in self.columns],
            "entries": [entry.to_json() for entry in self.entries],
        }


def node_kind(node: str) -> str:
    """``ue``, ``epdg``, ``aaa`` or ``hss`` from a node's name (``ue-2``, ``epdg.lab``), else empty."""
    for kind in ("epdg", "aaa", "hss", "ue"):
        if node.lower().startswith(kind):
            return kind
    return ""


def build_ladder(records: Iterable[TraceRecord], kinds: Mapping[str, str] | None = None) -> Ladder:
    """The merged ladder of all nodes whose records these are; ``kinds``: node name → kind, else told from names."""
    return _Builder(records, kinds or {}).build()


# --- Building ---------------------------------------------------------------------------------------


class _Builder:
    def __init__(self, records: Iterable[TraceRecord], kinds: Mapping[str, str]) -> None:
        self._kinds = kinds
        self._timeline = Timeline(end_to_end(record) for record in records)
        self._started = self._timeline.started
        self._nodes = tuple(self._timeline.by_node)
        self._nodes_by_address: dict[str, set[str]] = {}
        self._nodes_by_peer: dict[tuple[str, str], str] = {}
        self._senders: dict[str, set[str]] = {}  # payload of a sent datagram → who sent it
        self._entries: list[Entry] = []
        self._runs: dict[tuple[str, str, str], int] = {}
        self._untraced: dict[str, Column] = {}

    def build(self) -> Ladder:
        """The ladder of all records."""
        self._learn_addresses()
        for place in self._timeline.places():
            record = self._timeline.record(place)
            if record.kind is Kind.MESSAGE and place not in self._timeline.senders:
                self._message(place, record)
            elif record.kind is Kind.EVENT:
                self._note(record)
            elif record.kind is Kind.DATAGRAM:
                self._datagram(record)
        columns = [Column(name=node, kind=self._kind(node), traced=True) for node in self._nodes]
        columns += self._untraced.values()
        columns.sort(key=lambda column: (_KIND_ORDER[column.kind], not column.traced, column.name))
        return Ladder(started=self._started, columns=tuple(columns), entries=tuple(self._entries))

    def _learn_addresses(self) -> None:
        """Which node owns an address, and what a node calls its peers, from what both ends saw."""
        for node, records in self._timeline.by_node.items():
            for record in records:
                if record.kind is not Kind.DATAGRAM:
                    continue
                local = text_of(record, "local")
                for name in {local, _host(local)}:
                    self._nodes_by_address.setdefault(name, set()).add(node)
                if record.body.get("direction") == "out":
                    self._senders.setdefault(text_of(record, "payload"), set()).add(node)
        for place, other in (*self._timeline.senders.items(), *self._timeline.receivers.items()):
            record = self._timeline.record(place)
            if text_of(record, "interface") != EAP:  # its peer is the next node, not the other end
                self._nodes_by_peer[place[0], text_of(record, "peer")] = other[0]

    def _kind(self, node: str) -> str:
        return self._kinds.get(node) or node_kind(node)

    def _message(self, place: Place, record: TraceRecord) -> None:
        incoming = record.body.get("direction") != "out"
        arrival = self._timeline.receivers.get(place)
        received = None if arrival is None else self._timeline.record(arrival)
        if arrival is not None:
            peer = arrival[0]
        else:
            peer = self._peer(record.node, text_of(record, "interface"), text_of(record, "peer"))
        self._add(
            Entry(
                shape="arrow",
                wall=record.wall,
                at=record.wall - self._started,
                source=peer if incoming else record.node,
                destination=record.node if incoming else peer,
                protocol=text_of(record, "protocol"),
                interface=text_of(record, "interface"),
                name=text_of(record, "name"),
                summary=text_of(record, "summary") or text_of(record, "name"),
                detail={**(detail_of(received) if received else {}), **detail_of(record)},
                retransmission=any(end.body.get("retransmission") is True for end in (record, received) if end),
                session=record.session or (received.session if received else None),
                seen_by=(record.node,) if received is None else (record.node, received.node),
            )
        )

    def _note(self, record: TraceRecord) -> None:
        data = record.body.get("data")
        self._add(
            Entry(
                shape="note",
                wall=record.wall,
                at=record.wall - self._started,
                source=record.node,
                destination=None,
                protocol="",
                interface="",
                name=text_of(record, "name"),
                summary=text_of(record, "text") or text_of(record, "name"),
                detail=dict(data) if isinstance(data, dict) else {},
                session=record.session,
                seen_by=(record.node,),
            )
        )

    def _add(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._runs.clear()

    def _datagram(self, record: TraceRecord) -> None:
        """ESP, keepalives and what does not parse; IKEv2 and Diameter have their message records."""
        body = record.body
        protocol, incoming = text_of(record, "protocol"), body.get("direction") != "out"
        if protocol not in _RUN_PROTOCOLS or text_of(record, "transport") in STREAMS:
            return
        if incoming and self._senders.get(text_of(record, "payload"), set()) - {record.node}:
            return  # the sender's own record shows it
        peer = self._peer(record.node, "SWu", text_of(record, "remote"))
        source, destination = (peer, record.node) if incoming else (record.node, peer)
        octets = len(text_of(record, "payload")) // 2
        if protocol == "unknown":
            self._add(self._flow(record, source, destination, f"{octets} octets that do not parse", octets))
            return
        index = self._runs.get((source, destination, protocol))
        if index is None:
            self._entries.append(self._flow(record, source, destination, "", 0))
            index = self._runs[source, destination, protocol] = len(self._entries) - 1
            count = 1
        else:
            count = self._entries[index].count + 1
        total = self._entries[index].detail["octets"]
        total = octets + (total if isinstance(total, int) else 0)
        what = "ESP" if protocol == "esp" else "NAT-keepalive"
        self._entries[index] = replace(
            self._entries[index],
            count=count,
            detail={"octets": total},
            summary=f"{what}, {count} packet{'s' if count > 1 else ''}, {total} octets",
        )

    def _flow(self, record: TraceRecord, source: str, destination: str, summary: str, octets: int) -> Entry:
        protocol = text_of(record, "protocol")
        return Entry(
            shape="arrow",
            wall=record.wall,
            at=record.wall - self._started,
            source=source,
            destination=destination,
            protocol=protocol,
            interface="SWu",
            name={"esp": "ESP", "keepalive": "NAT-keepalive"}.get(protocol, "unparsed datagram"),
            summary=summary,
            detail={"octets": octets},
            session=record.session,
            seen_by=(record.node,),
        )

    def _peer(self, node: str, interface: str, peer: str) -> str:
        """The column at the other end: a traced node where the records tell, else a role or name."""
        known = None if interface == EAP else self._nodes_by_peer.get((node, peer))
        if known is not None:
            return known
        for name in (peer, _host(peer)) if interface != EAP else ():
            found = self._nodes_by_address.get(name, set()) - {node}
            if len(found) == 1:
                return next(iter(found))
        role = _other_end(self._kind(node), interface)
        traced = [name for name in self._nodes if role and self._kind(name) == role]
        if len(traced) == 1:
            return traced[0]
        name = role if role and not traced else peer or "?"
        self._untraced.setdefault(name, Column(name=name, kind=role, traced=False))
        return name


def _host(endpoint: str) -> str:
    """``127.0.0.1`` of ``127.0.0.1:500``; an address alone stays as it is."""
    host, colon, _ = endpoint.rpartition(":")
    return host.strip("[]") if colon and (host.startswith("[") or ":" not in host) else endpoint


def _other_end(kind: str, interface: str) -> str:
    ends = _INTERFACE_ENDS.get(interface, ())
    others = [end for end in ends if end != kind]
    return others[0] if kind in ends and len(others) == 1 else ""


# --- Text -------------------------------------------------------------------------------------------

_TIME_WIDTH = 10


def render_text(ladder: Ladder, *, details: bool = False) -> str:
    """The ladder for a terminal: lanes with arrows, the message beside them.

    A retransmission's arrow is dashed; a message that its traced receiver never reported says so.
    """
    if not ladder.columns:
        return ""
    width = max(14, *(len(column.name) + 4 for column in ladder.columns))
    lanes = {column.name: place * width for place, column in enumerate(ladder.columns)}
    total = max(lanes.values()) + 2
    heading = "".join(f"{column.name:<{width}}" for column in ladder.columns)
    lines = [f"{'seconds':>{_TIME_WIDTH}}  {heading}".rstrip()]
    for entry in ladder.entries:
        drawing = [" "] * total
        for lane in lanes.values():
            drawing[lane] = "|"
        label = entry.summary
        if entry.destination is None:
            drawing[lanes[entry.source]] = "*"
        else:
            draw_arrow(drawing, lanes[entry.source], lanes[entry.destination], entry.retransmission)
            if entry.retransmission:
                label += "  (retransmission)"
            if ladder.is_unreported(entry):
                label += f"  (not reported by {entry.destination})"
        lines.append(f"{entry.at:>+{_TIME_WIDTH}.3f}  {''.join(drawing)} {label}".rstrip())
        if details:
            blank = "".join("|" if place in lanes.values() else " " for place in range(total))
            lines += [f"{'':>{_TIME_WIDTH}}  {blank}   {key}: {value}" for key, value in entry.detail.items()]
    return "\n".join(lines) + "\n"


def draw_arrow(drawing: list[str], source: int, destination: int, dashed: bool) -> None:
    """Draw from one lane to another into a line of characters."""
    left, right = sorted((source, destination))
    for place in range(left + 1, right):
        drawing[place] = " " if dashed and (place - left) % 3 == 0 else "-"
    if source < destination:
        drawing[right - 1] = ">"
    elif source > destination:
        drawing[left + 1] = "<"
