"""Spans of one node, made of the records that it writes anyway: ``attach`` and what belongs to it, ``move``.

::

    attach                                  gateway, UE
      IKE_SA_INIT
      IKE_AUTH                              a round of EAP each
        DER (client)                        gateway
          DER (server)                      AAA server
            MAR, SAR (client)
              MAR, SAR (server)             HSS
      move
        UPDATE_SA_ADDRESSES
        return routability check
      STR, AAR; ASR, RAR                    towards the AAA server, and from it
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from protocols.trace.order import detail_of, text_of
from protocols.trace.records import Kind, TraceRecord
from protocols.trace.spans.diameter import DiameterSpans
from protocols.trace.spans.span import ROOT, Side, Span, trace_of

SESSIONS = 10_000  # attaches and moves under way
FOLLOWED = (Kind.MESSAGE, Kind.EVENT)

_ATTACHING = ("IKE_SA_INIT", "IKE_INTERMEDIATE", "IKE_AUTH")
_MOVE, _UPDATE, _CHECK = "move", "UPDATE_SA_ADDRESSES", "return routability check"
_ATTACHED, _MOVED = {"attached": True, "refused": False}, {"moved": True, "address-update-failed": False}


@dataclass
class _Open:
    name: str
    side: Side
    parent: str
    start: float
    retransmissions: int = 0


@dataclass
class _Session:
    trace: bytes = b""
    link: bytes | None = None
    started: float | None = None  # of an attach that has not ended
    outcome: TraceRecord | None = None
    move: tuple[str, float] | None = None  # key and start of one that has not ended
    latest_move: str | None = None
    open: dict[str, _Open] = field(default_factory=dict)
    waiting: list[Span] = field(default_factory=list)  # until the trace is known


class SessionSpans:
    """Records of one node in, spans that have ended out."""

    def __init__(self, kind: str) -> None:
        """``kind``: ``ue``, ``epdg``, ``aaa`` or ``hss``."""
        self._is_ue = kind == "ue"
        self._speaks_ike = kind in ("ue", "epdg")
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._diameter = DiameterSpans()
        self._forgotten = 0

    @property
    def unfinished(self) -> int:
        """How many have been forgotten before they ended."""
        return self._forgotten + self._diameter.unfinished

    def take(self, record: TraceRecord) -> list[Span]:
        """What ended with this record."""
        protocol = text_of(record, "protocol")
        if record.kind is Kind.MESSAGE and protocol == "diameter":
            return list(self._diameter_message(record))
        if record.session is None or not self._speaks_ike:
            return []
        if record.kind is Kind.MESSAGE and protocol == "ikev2":
            return list(self._ike_message(record, record.session))
        return list(self._event(record, record.session)) if record.kind is Kind.EVENT else []

    # --- Diameter

    def _diameter_message(self, record: TraceRecord) -> Iterator[Span]:
        session = self._sessions.get(record.session or "") if self._speaks_ike else None
        parent = None
        if session is not None:
            session_id = detail_of(record).get("Session-Id")
            if not session.trace and isinstance(session_id, str):
                session.trace = trace_of(session_id)
                yield from self._told(session)
            parent = next((key for key, each in session.open.items() if each.name in _ATTACHING), None)
        span = self._diameter.take(record, parent)
        if span is not None:
            yield span

    # --- IKEv2

    def _ike_message(self, record: TraceRecord, name: str) -> Iterator[Span]:
        exchange, _, what = text_of(record, "name").partition(" ")
        summary, detail = text_of(record, "summary"), detail_of(record)
        outwards, is_request = text_of(record, "direction") == "out", what == "request"
        side = Side.CLIENT if outwards is is_request else Side.SERVER
        key = f"{side.value}:{exchange}:{detail.get('spi_i')}:{detail.get('message_id')}"
        if is_request:
            self._request(record, name, exchange, summary, key, side)
            return
        session = self._sessions.get(name)
        begun = None if session is None else session.open.pop(key, None)
        if session is None or begun is None:
            return
        attributes: dict[str, str | int | float] = {"ike.retransmissions": begun.retransmissions}
        message_id = detail.get("message_id")
        if isinstance(message_id, int):
            attributes["ike.message_id"] = message_id
        session.waiting.append(
            Span(
                key=key,
                parent=begun.parent,
                name=begun.name,
                side=begun.side,
                start=begun.start,
                end=record.wall,
                attributes=attributes,
            )
        )
        yield from self._told(session)
        yield from self._conclude(session, name, record.wall)

    def _request(self, record: TraceRecord, name: str, exchange: str, summary: str, key: str, side: Side) -> None:
        session = self._sessions.get(name)
        if session is not None and key in session.open:
            session.open[key].retransmissions += 1
            return
        what, parent = exchange, ROOT
        if exchange == "INFORMATIONAL":
            update, check = f"N({_UPDATE})" in summary, "N(COOKIE2)" in summary
            if not update and not check:
                return
            session = session or self._new(name, record)
            if update:
                session.move = (f"{_MOVE}:{key}", record.wall)
                session.latest_move = session.move[0]
            what, parent = (_UPDATE if update else _CHECK), session.latest_move or ROOT
        elif exchange not in _ATTACHING:
            return
        elif session is None:
            if exchange != _ATTACHING[0]:
                return  # of an attach whose beginning was not seen
            session = self._new(name, record)
            session.started = record.wall
        session.open[key] = _Open(what, side, parent, record.wall)

    def _new(self, name: str, record: TraceRecord) -> _Session:
        session = self._sessions[name] = _Session()
        spi_i = detail_of(record).get("spi_i")
        of_ue = trace_of(f"ike-sa {spi_i}")
        if self._is_ue:
            session.trace = of_ue
        else:
            session.link = of_ue
        while len(self._sessions) > SESSIONS:
            self._sessions.popitem(last=False)
            self._forgotten += 1
        return session

    # --- events

    def _event(self, record: TraceRecord, name: str) -> Iterator[Span]:
        session, what = self._sessions.get(name), text_of(record, "name")
        if session is None:
            return
        if what in _ATTACHED and session.started is not None:
            session.outcome = record
            yield from self._conclude(session, name, record.wall)
        elif what in _MOVED and session.move is not None:
            key, start = session.move
            session.move = None
            session.waiting.append(
                Span(
                    key=key,
                    parent=ROOT,
                    name=_MOVE,
                    side=Side.INTERNAL,
                    start=start,
                    end=record.wall,
                    attributes={"epdg.session": name},
                    error=None if _MOVED[what] else text_of(record, "text"),
                )
            )
            yield from self._told(session)
        elif what == "detached":
            session.outcome = session.outcome or record
            yield from self._conclude(session, name, record.wall)
            self._sessions.pop(name, None)

    def _conclude(self, session: _Session, name: str, end: float) -> Iterator[Span]:
        """The attach has ended, and so has the last exchange of it."""
        outcome, start = session.outcome, session.started
        if outcome is None or start is None or any(each.name in _ATTACHING for each in session.open.values()):
            return
        attached = _ATTACHED.get(text_of(outcome, "name"), False)
        session.started = None
        session.trace = session.trace or trace_of(f"{outcome.node} {name} {start}")  # no AAA server was asked
        session.waiting.append(
            Span(
                key=ROOT,
                parent=None,
                name=ROOT,
                side=Side.INTERNAL,
                start=start,
                end=end,
                attributes={"epdg.session": name},
                error=None if attached else text_of(outcome, "text"),
                link=session.link,
            )
        )
        yield from self._told(session)
        yield from self._diameter.unanswered(name, end)
        if not attached:
            self._sessions.pop(name, None)

    def _told(self, session: _Session) -> Iterator[Span]:
        if session.trace:
            yield from [span.of(session.trace) for span in session.waiting]
            session.waiting.clear()
