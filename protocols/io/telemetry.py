"""Spans of a node to an OpenTelemetry collector, over OTLP/HTTP (opentelemetry.io/docs/specs/otlp).

They are made of the records in the node's ring (``protocols.trace.spans``) and wait in a bounded queue for a thread
of their own. A collector that is slow or away costs spans, which are counted, and never the node's time. The packages
are those of the extra ``otel``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from protocols.io.configuration import ConfigurationModel, Count, Interval
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue
from protocols.trace.spans.sessions import FOLLOWED, SessionSpans
from protocols.trace.spans.span import ROOT, Side, Span, span_id

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

READ_INTERVAL = 0.05  # seconds over which records are read together
READ_RECORDS = 500  # at once; then others have their turn
BATCH = 512  # spans in one request
CLOSE_INTERVAL = 2.0  # seconds that a collector has at the node's end
PATH = "/v1/traces"  # OTLP/HTTP's own
EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"

_log = logging.getLogger(__name__)


def _collector(value: str) -> str:
    try:
        url = urlsplit(value)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
    if not usable or url.username is not None or url.query or url.fragment:
        raise PydanticCustomError("otlp", "a collector's URL such as http://127.0.0.1:4318")
    try:
        there = find_spec(EXPORTER) is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        raise PydanticCustomError("otel", "the packages of the extra otel: pip install 'epdg-emulator[otel]'")
    return value.rstrip("/") if url.path.strip("/") else f"{url.scheme}://{url.netloc}{PATH}"


class TelemetrySection(ConfigurationModel):
    """Where spans go. ``queue``: how many wait for the collector; ``timeout``: how long it may take for one request."""

    otlp: Annotated[str, AfterValidator(_collector)]
    queue: Annotated[Count, Field(ge=1, le=1 << 20)] = 4096
    interval: Interval = 1.0
    timeout: Interval = 5.0


class Telemetry:
    """The spans of one node; ``start`` on its event loop, ``close`` at its end."""

    def __init__(self, section: TelemetrySection, recorder: Recorder, kind: str) -> None:
        """``kind``: as ``node.status`` has it."""
        self._section = section
        self._recorder = recorder
        self._spans = SessionSpans(kind)
        self._kind = kind
        self._queue: deque[Span] = deque()
        self._since = recorder.sequence
        self._reading: asyncio.TimerHandle | None = None
        self._end_waking = _nothing
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._send, name="telemetry", daemon=True)
        self.exported = self.failed = self.dropped = self.records_lost = 0

    def view(self) -> dict[str, JsonValue]:
        """Spans by what became of them; ``records_lost`` had left the ring unread."""
        return {
            "exported": self.exported,
            "failed": self.failed,
            "dropped": self.dropped,
            "waiting": len(self._queue),
            "unfinished": self._spans.unfinished,
            "records_lost": self.records_lost,
        }

    def start(self) -> None:
        """From now on."""
        self._since = self._recorder.sequence
        self._end_waking = self._recorder.wake(self._notice)
        self._thread.start()

    async def close(self) -> None:
        """Give the collector what there is, as far as it takes it in ``CLOSE_INTERVAL``."""
        if not self._thread.is_alive():
            return
        self._end_waking()
        if self._reading is not None:
            self._reading.cancel()
        while self._since < self._recorder.sequence:
            self._take()
        self._closing.set()
        await asyncio.to_thread(self._thread.join, CLOSE_INTERVAL)

    # --- on the event loop

    def _notice(self) -> None:
        if self._reading is None:
            self._reading = asyncio.get_running_loop().call_later(READ_INTERVAL, self._read)

    def _read(self) -> None:
        self._reading = None
        self._take()
        if self._since < self._recorder.sequence:
            self._notice()

    def _take(self) -> None:
        lost = max(0, self._recorder.oldest - 1 - self._since)
        self.records_lost += lost
        self._since += lost
        records = self._recorder.since(self._since, READ_RECORDS, FOLLOWED)
        self._since = min(self._since + READ_RECORDS, self._recorder.sequence)
        for record in records:
            for span in self._spans.take(record):
                if len(self._queue) < self._section.queue:
                    self._queue.append(span)
                else:
                    self.dropped += 1

    # --- on the thread

    def _send(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it says so for every request
        exporter: SpanExporter = OTLPSpanExporter(endpoint=self._section.otlp, timeout=self._section.timeout)
        convert = _Conversion(self._recorder.node, self._kind)
        reached = True
        while True:
            closing = self._closing.wait(self._section.interval)
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                done = exporter.export([convert(span) for span in batch]) is SpanExportResult.SUCCESS
                self.exported += len(batch) if done else 0
                self.failed += 0 if done else len(batch)
                if done is not reached:
                    reached = done
                    _log.log(
                        logging.INFO if done else logging.WARNING,
                        "the collector %s %s",
                        self._section.otlp,
                        "takes spans again" if done else "does not take spans; they are lost and counted",
                    )
            if closing:
                exporter.shutdown()
                return


class _Conversion:
    """Spans as the exporter wants them."""

    def __init__(self, node: str, kind: str) -> None:
        from opentelemetry.sdk.resources import Resource

        self._resource = Resource.create({"service.name": kind, "service.instance.id": node})

    def __call__(self, span: Span) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import Link, SpanKind, Status, StatusCode

        kinds = {Side.INTERNAL: SpanKind.INTERNAL, Side.CLIENT: SpanKind.CLIENT, Side.SERVER: SpanKind.SERVER}
        parent = span.parent_identifier
        return ReadableSpan(
            name=span.name,
            context=_context(span.trace, span.identifier, remote=False),
            parent=None if parent is None else _context(span.trace, parent, remote=span.side is Side.SERVER),
            resource=self._resource,
            attributes=span.attributes,
            links=() if span.link is None else (Link(_context(span.link, span_id(span.link, ROOT), remote=True)),),
            kind=kinds[span.side],
            status=Status(StatusCode.OK) if span.error is None else Status(StatusCode.ERROR, span.error),
            start_time=int(span.start * 1e9),
            end_time=int(span.end * 1e9),
        )


def _context(trace: bytes, span: bytes, *, remote: bool) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(
        int.from_bytes(trace), int.from_bytes(span), is_remote=remote, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )


def _nothing() -> None:
    """Before the start there is nothing to end."""


def telemetry_of(section: TelemetrySection | None, recorder: Recorder, kind: str) -> Telemetry | None:
    """What a node that is so configured has."""
    return None if section is None else Telemetry(section, recorder, kind)
