"""Spans of Diameter requests: at the client from request to answer, at the server from its coming to its answer."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from protocols.trace.order import detail_of, text_of
from protocols.trace.records import JsonValue, TraceRecord
from protocols.trace.spans.span import ROOT, Side, Span, names_trace, trace_of

INTERFACES = ("SWm", "SWx")
OPEN_LIMIT = 10_000  # requests that wait for an answer
NOT_ANSWERED = "no answer"

_CODE = re.compile(r"\((\d+)\)")
_FINE = ("1", "2")  # classes of Result-Code (RFC 6733 §7.1): informational, success


@dataclass(frozen=True, kw_only=True)
class _Request:
    trace: bytes
    parent: str | None
    start: float
    session: str | None
    session_id: str


class DiameterSpans:
    """The Diameter half of one node's spans."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, _Request] = OrderedDict()
        self._serving: dict[bytes, str] = {}  # a trace, and the request of it that is being served
        self.unfinished = 0

    def take(self, record: TraceRecord, parent: str | None) -> Span | None:
        """A message; ``parent``: of requests that this node sends for a session of its own."""
        detail = detail_of(record)
        name, session_id = text_of(record, "name"), detail.get("Session-Id")
        if text_of(record, "interface") not in INTERFACES or not isinstance(session_id, str):
            return None
        outwards = text_of(record, "direction") == "out"
        if name.endswith("R"):
            self._begin(record, name, session_id, detail, outwards=outwards, parent=parent)
            return None
        return self._end(record, f"{name[:-1]}R", detail, outwards=outwards)

    def unanswered(self, session: str, end: float) -> Iterator[Span]:
        """Requests of a session that has come to its end without their answers."""
        for key, request in [(key, request) for key, request in self._open.items() if request.session == session]:
            if key.startswith(Side.CLIENT.value):
                del self._open[key]
                yield _span(key, request, end, error=NOT_ANSWERED)

    def _begin(
        self,
        record: TraceRecord,
        name: str,
        session_id: str,
        detail: dict[str, JsonValue],
        *,
        outwards: bool,
        parent: str | None,
    ) -> None:
        side = Side.CLIENT if outwards else Side.SERVER
        key, trace = _key(side, name, detail), trace_of(session_id)
        if key in self._open:
            return  # repeated to another peer (RFC 6733 §5.5.4): one request still
        if not outwards:
            parent = _key(Side.CLIENT, name, detail)
            self._serving[trace] = key
        elif parent is None:
            within = text_of(record, "interface") == "SWm" or names_trace(session_id)
            parent = self._serving.get(trace) or (ROOT if within else None)
        self._open[key] = _Request(
            trace=trace, parent=parent, start=record.wall, session=record.session, session_id=session_id
        )
        while len(self._open) > OPEN_LIMIT:
            oldest, forgotten = self._open.popitem(last=False)
            self._served(forgotten.trace, oldest)
            self.unfinished += 1

    def _end(self, record: TraceRecord, name: str, detail: dict[str, JsonValue], *, outwards: bool) -> Span | None:
        key = _key(Side.SERVER if outwards else Side.CLIENT, name, detail)
        request = self._open.pop(key, None)
        if request is None:
            return None
        self._served(request.trace, key)
        result = _result(detail)
        failed = result is not None and not _code(result).startswith(_FINE)
        peer = text_of(record, "peer")
        return _span(key, request, record.wall, error=result if failed else None, result=result, peer=peer)

    def _served(self, trace: bytes, key: str) -> None:
        if self._serving.get(trace) == key:
            del self._serving[trace]


def _span(
    key: str, request: _Request, end: float, *, error: str | None, result: str | None = None, peer: str = ""
) -> Span:
    side, name, _ = key.split(":")
    attributes: dict[str, str | int | float] = {"diameter.session_id": request.session_id}
    attributes |= {"diameter.result": result} if result else {}
    attributes |= {"server.address" if side == "client" else "client.address": peer} if peer else {}
    return Span(
        trace=request.trace,
        key=key,
        parent=request.parent,
        name=name,
        side=Side(side),
        start=request.start,
        end=end,
        attributes=attributes,
        error=error,
    )


def _key(side: Side, name: str, detail: dict[str, JsonValue]) -> str:
    return f"{side.value}:{name}:{detail.get('end_to_end')}"


def _result(detail: dict[str, JsonValue]) -> str | None:
    """Result-Code or Experimental-Result-Code, as it is written for people."""
    experimental = detail.get("Experimental-Result")
    code = detail.get("Result-Code")
    if code is None and isinstance(experimental, dict):
        code = experimental.get("Experimental-Result-Code")
    return None if code is None else str(code)


def _code(result: str) -> str:
    found = _CODE.search(result)
    return result if found is None else found[1]
