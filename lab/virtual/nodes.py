"""What a node on virtual time stands on, and how the laboratory speaks to it: no socket, no file between.

Parameters and answers go through JSON all the same, so that what works here works through a control socket.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from protocols.errors import BackendError, StackError
from protocols.io.control import ControlError, Handler, error_code
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue, Kind, TraceRecord


class VirtualClock:
    """The clocks of a loop on virtual time; ``start`` is the time of day at its beginning."""

    def __init__(self, loop: asyncio.AbstractEventLoop, start: datetime) -> None:
        self._loop = loop
        self._offset = start.timestamp() - loop.time()

    def monotonic(self) -> float:
        """The loop's."""
        return self._loop.time()

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return self._offset + self._loop.time()

    def moment(self) -> datetime:
        """Now, in UTC."""
        return datetime.fromtimestamp(self.wall(), UTC)


class VirtualControl:
    """A node's control methods and its trace, and the client of both (see ``protocols.io.control.ControlClient``)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.trace: list[TraceRecord] = []
        self.ready = asyncio.Event()
        self._handlers: Mapping[str, Handler] = {}
        self._recorder: Recorder | None = None
        self._is_serving = False

    # --- the node's side

    def serve(self, path: Path, handlers: Mapping[str, Handler], recorder: Recorder) -> VirtualControl:
        """What ``Platform.control`` is given."""
        del path
        self._handlers = dict(handlers)
        self._recorder = recorder
        recorder.subscribe(self.trace.append)
        return self

    async def start(self) -> None:
        """Serve from now on."""
        self._is_serving = True
        self.ready.set()

    async def close(self) -> None:
        """Serve no more."""
        self._is_serving = False

    # --- the client's side

    async def call(self, method: str, /, **params: JsonValue) -> JsonValue:
        """The result of one method; ``ControlError`` for an error, ``BackendError`` when the node has ended."""
        if not self._is_serving:
            raise BackendError(f"{self.name}: no node is running there")
        handler = self._handlers.get(method)
        if handler is None:
            raise ControlError("unknown-method", f"this node has no method {method}")
        try:
            sent = json.dumps(params, allow_nan=False)
        except ValueError:
            raise ControlError("bad-params", "a number has no form in JSON") from None
        try:
            result = await handler(json.loads(sent))
        except StackError as error:
            raise ControlError(error_code(error), str(error)) from error
        answer: JsonValue = json.loads(json.dumps(result, allow_nan=False))
        return answer

    async def subscribe(
        self, since: int | None = None, kinds: Iterable[Kind | str] | None = None
    ) -> AsyncIterator[TraceRecord]:
        """The node's records as they come; ``since`` 0 begins with all it has kept."""
        recorder = self._recorder
        if recorder is None:
            raise BackendError(f"{self.name}: no node is running there")
        wanted = None if kinds is None else {Kind(kind) for kind in kinds}
        queue: asyncio.Queue[TraceRecord] = asyncio.Queue()
        for record in () if since is None else recorder.since(since):
            queue.put_nowait(record)
        unsubscribe = recorder.subscribe(queue.put_nowait)
        try:
            while True:
                record = await queue.get()
                if wanted is None or record.kind in wanted:
                    yield record
        finally:
            unsubscribe()
