"""Control of a node: JSON lines over a Unix socket that only its owner may open (mode 0600).

Request ``{"id": 1, "method": "sessions.list", "params": {}}``, answer ``{"id": 1, "result": ...}`` or
``{"id": 1, "error": {"code": "not-found", "message": "..."}}``. Requests of one connection run side by
side, answers carry their ``id``. ``trace.subscribe`` answers with where the trace stands and then sends
``{"event": record}`` lines on the same connection; ``{"since": n}`` first replays what is kept after
record ``n`` (0 for everything kept, null for nothing), ``{"kinds": [...]}`` filters: nothing of other kinds leaves the
node. With ``{"follow": false}`` there is no more than what the node has by then, and ``{"end": n}`` after it. A
subscription reads from the recorder's ring at the pace of its client, so that a slow one never delays the node: what
left the ring meanwhile is lost to it, and an event record ``records-dropped`` stands in its place. Left out: TCP with
TLS and a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from protocols.errors import (
    BackendError,
    ConfigurationError,
    DecodeError,
    LocalError,
    RemoteError,
    StackError,
)
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue, Kind, TraceRecord

LINE_OCTETS = 1 << 20  # longest request
ANSWER_OCTETS = 64 << 20  # longest answer a client takes
REQUESTS_AT_ONCE = 64  # per connection; further lines wait in the socket
BATCH_RECORDS = 256  # how many records a subscription takes from the ring at a time
ACCEPT_TURNS = 4  # of the event loop, from a connection until asyncio tells us of it
ANSWER_INTERVAL = 60.0  # how long a client waits for an answer

_log = logging.getLogger(__name__)

Params = dict[str, JsonValue]
Handler = Callable[[Params], Awaitable[JsonValue]]


class ControlError(StackError):
    """The answer is no: ``code`` for programs ("not-found", "bad-params", ...), ``message`` for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Unanswered(BackendError):
    """The node took the question and has said nothing in all the time that it was given."""


# --- Server -----------------------------------------------------------------------------------------


class ControlServer:
    """Serves a node's control methods and its trace on a Unix socket."""

    def __init__(
        self,
        path: Path | str,
        handlers: Mapping[str, Handler],
        recorder: Recorder | None = None,
    ) -> None:
        self.path = Path(path)
        self._handlers = dict(handlers)
        self._recorder = recorder
        self._server: asyncio.Server | None = None
        self._identity: tuple[int, int] | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; a socket file that nobody listens on is replaced. ``BackendError`` in one line."""
        listening = _listen(self.path)
        status = self.path.stat()
        self._identity = (status.st_dev, status.st_ino)
        self._server = await asyncio.start_unix_server(self._accept, sock=listening, limit=LINE_OCTETS)

    async def close(self) -> None:
        """Remove the socket file if it is still ours, stop listening, end every connection."""
        if self._server is None:
            return
        with contextlib.suppress(OSError):
            status = self.path.stat()
            if (status.st_dev, status.st_ino) == self._identity:
                self.path.unlink()
        # Nobody connects any more; who just did is known before asyncio forgets the server, which would leave it open
        for _ in range(ACCEPT_TURNS):
            await asyncio.sleep(0)
        self._server.close()
        for connection in tuple(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> ControlServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(lambda ended: self._ended(ended, writer))

    def _ended(self, connection: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
        """A task that was cancelled before it began has closed nothing itself."""
        self._connections.discard(connection)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(reader, writer, self._handlers, self._recorder)
        try:
            await connection.serve()
        except asyncio.CancelledError:
            pass  # close() ends connections; nobody awaits this task but the stream machinery
        except Exception:  # noqa: BLE001 - top loop of a connection
            _log.exception("control connection failed")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class _Connection:
    """One client: reads requests, runs them side by side, writes whole lines."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handlers: Mapping[str, Handler],
        recorder: Recorder | None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handlers = handlers
        self._recorder = recorder
        self._subscribed = False

    async def serve(self) -> None:
        """Serve until the client closes: outstanding requests are finished, subscriptions end."""
        places = asyncio.Semaphore(REQUESTS_AT_ONCE)
        streams: list[asyncio.Task[None]] = []
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    line = await self._reader.readuntil(b"\n")
                except asyncio.IncompleteReadError as end:
                    line = end.partial  # the last line may come without its newline
                except asyncio.LimitOverrunError:
                    await self._send_error(None, "bad-request", f"a line of over {LINE_OCTETS} octets")
                    break
                except ConnectionError:
                    break
                if not line:
                    break
                if not line.strip():
                    continue
                await places.acquire()
                group.create_task(self._answer(line, places, group, streams))
            # every request taken so far gets its answer before its connection ends
            for _ in range(REQUESTS_AT_ONCE):
                await places.acquire()
            for stream in streams:
                stream.cancel()

    async def _answer(
        self,
        line: bytes,
        places: asyncio.Semaphore,
        group: asyncio.TaskGroup,
        streams: list[asyncio.Task[None]],
    ) -> None:
        identifier: JsonValue = None
        try:
            request = _decode_object(line)
            if request is None:
                await self._send_error(None, "bad-request", "a request is one JSON object on one line")
                return
            identifier = request.get("id")
            method, params = request.get("method"), request.get("params", {})
            if isinstance(identifier, dict | list):
                await self._send_error(None, "bad-request", "id is a number or text")
            elif not isinstance(method, str):
                await self._send_error(identifier, "bad-request", "method is missing or not text")
            elif not isinstance(params, dict):
                await self._send_error(identifier, "bad-params", "params is not an object")
            elif method == "trace.subscribe" and self._recorder is not None:
                wanted = self._subscription(self._recorder, params)
                await self._send({"id": identifier, "result": _standing(self._recorder)})
                streams.append(group.create_task(self._stream(self._recorder, *wanted)))
            elif method in self._handlers:
                result = await self._handlers[method](params)
                await self._send({"id": identifier, "result": result})
            else:
                await self._send_error(identifier, "unknown-method", f"this node has no method {method}")
        except StackError as error:
            await self._send_error(identifier, error_code(error), str(error))
        except Exception:  # noqa: BLE001 - top loop: a defect must not end the node
            _log.exception("control request failed")
            await self._send_error(identifier, "internal", "the node failed to answer; see its log")
        finally:
            places.release()

    def _subscription(self, recorder: Recorder, params: Params) -> tuple[int, frozenset[Kind] | None, int | None]:
        """After which record, of which kinds, up to which record."""
        since, kinds, follow = params.get("since"), params.get("kinds"), params.get("follow", True)
        if since is not None and (not isinstance(since, int) or isinstance(since, bool) or since < 0):
            raise ControlError("bad-params", "since is a record number or null")
        if not isinstance(follow, bool):
            raise ControlError("bad-params", "follow is true or false")
        wanted, until = _kinds(kinds), None if follow else recorder.sequence
        if self._subscribed:
            raise ControlError("refused", "this connection is subscribed already")
        self._subscribed = True
        if since is None:
            return recorder.sequence, wanted, until
        # a number this node has not reached yet is one of its former life: everything is new
        return (since if since <= recorder.sequence else 0), wanted, until

    async def _stream(self, recorder: Recorder, since: int, kinds: frozenset[Kind] | None, until: int | None) -> None:
        """Send the records after ``since``, and go on as they come or end at ``until``."""
        more = asyncio.Event()
        end = recorder.wake(more.set)
        try:
            while True:
                more.clear()
                if until is not None and since >= until:
                    await self._send({"end": since})
                    return
                if recorder.sequence == since:
                    await more.wait()
                elif recorder.oldest > since + 1:
                    (following,) = recorder.since(since, 1)
                    await self._send({"event": _dropped(recorder.node, since + 1, following).to_json()})
                    since = following.sequence - 1
                else:
                    batch = recorder.since(since, BATCH_RECORDS, kinds)
                    since = min(since + BATCH_RECORDS, recorder.sequence)
                    for record in batch:
                        await self._send({"event": record.to_json()})
                    await asyncio.sleep(0)  # records nobody here asked for may come for ever
        finally:
            end()

    async def _send_error(self, identifier: JsonValue, code: str, message: str) -> None:
        await self._send({"id": identifier, "error": {"code": code, "message": message}})

    async def _send(self, value: dict[str, JsonValue]) -> None:
        line = _encode(value)
        if self._writer.is_closing():
            return
        with contextlib.suppress(ConnectionError):
            self._writer.write(line)
            await self._writer.drain()


def _standing(recorder: Recorder) -> dict[str, JsonValue]:
    """Where a recorder stands: ``started`` tells a restarted node from one that went on."""
    return {
        "node": recorder.node,
        "started": recorder.started,
        "sequence": recorder.sequence,
        "oldest": recorder.oldest,
    }


def _dropped(node: str, first: int, following: TraceRecord) -> TraceRecord:
    """The notice in place of lost records; it carries the last one's number, so that resuming fits."""
    last = following.sequence - 1
    return TraceRecord(
        sequence=last,
        monotonic=following.monotonic,
        wall=following.wall,
        node=node,
        kind=Kind.EVENT,
        body={
            "name": "records-dropped",
            "text": f"Trace records {first} to {last} had left the node's memory before they were read.",
            "data": {"first": first, "last": last},
        },
    )


def _kinds(value: JsonValue) -> frozenset[Kind] | None:
    if value is None:
        return None
    known = {kind.value: kind for kind in Kind}
    if not isinstance(value, list):
        raise ControlError("bad-params", "kinds is a list or null")
    kinds: set[Kind] = set()
    for name in value:
        if not isinstance(name, str) or name not in known:
            raise ControlError("bad-params", "kinds are " + ", ".join(known))
        kinds.add(known[name])
    return frozenset(kinds)


def error_code(error: StackError) -> str:
    """What programs are told of an error."""
    if isinstance(error, ControlError):
        return error.code
    if isinstance(error, ConfigurationError):
        return "bad-params"
    if isinstance(error, LocalError):
        return "refused"
    if isinstance(error, RemoteError):
        return "peer"
    return "backend" if isinstance(error, BackendError) else "internal"


def _encode(value: Mapping[str, JsonValue]) -> bytes:
    """One line; ``ValueError`` or ``TypeError`` on what JSON has no form for (NaN, octets)."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _decode_object(line: bytes) -> dict[str, JsonValue] | None:
    """The JSON object on a line, ``None`` when there is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _listen(path: Path) -> socket.socket:
    """A listening socket at ``path``, mode 0600 from its first moment."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(path)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        mask = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(mask)
        listening.listen(64)
        listening.setblocking(False)
    except OSError as problem:
        listening.close()
        why = problem.strerror or str(problem)
        raise BackendError(f"control socket {path} cannot be opened: {why}") from None
    except BackendError:
        listening.close()
        raise
    return listening


def _clear(path: Path) -> None:
    """Remove a socket file that nobody listens on; ``BackendError`` when it is in use or no socket."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BackendError(f"control socket {path} cannot be opened: a file that is no socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its backlog is full: somebody listens
    raise BackendError(f"control socket {path} is in use: a node is running with it")


# --- Client -----------------------------------------------------------------------------------------


class ControlClient:
    """Calls a node through its control socket; every call is a connection of its own.

    ``BackendError`` when no node answers there, ``Unanswered`` of them when one hangs; ``ControlError`` when it
    answers with an error.
    """

    def __init__(self, path: Path | str, *, answer_interval: float = ANSWER_INTERVAL) -> None:
        self.path = Path(path)
        self._answer_interval = answer_interval

    async def call(self, method: str, /, **params: JsonValue) -> JsonValue:
        """The result of one method."""
        reader, writer = await self._connect()
        try:
            async with asyncio.timeout(self._answer_interval):
                return await self._request(reader, writer, method, params)
        except TimeoutError:
            raise Unanswered(f"{self.path}: no answer to {method} in {self._answer_interval:g} s") from None
        finally:
            await _hang_up(writer)

    async def subscribe(
        self, since: int | None = None, kinds: Iterable[Kind | str] | None = None
    ) -> AsyncIterator[TraceRecord]:
        """The node's records as they come, until it closes; ``since`` 0 begins with all it has kept."""
        records = self._records(since, kinds, follow=True)
        async with contextlib.aclosing(records):
            async for record in records:
                yield record

    async def kept(self, kinds: Iterable[Kind | str] | None = None) -> list[TraceRecord]:
        """The records that the node has at present, in order, with a notice in place of what left its memory.

        What is of no wanted kind stays in the node. ``BackendError`` when it ends before it has given all.
        """
        records = self._records(0, kinds, follow=False)
        async with contextlib.aclosing(records):
            return [record async for record in records]

    async def _records(
        self, since: int | None, kinds: Iterable[Kind | str] | None, *, follow: bool
    ) -> AsyncGenerator[TraceRecord]:
        wanted: JsonValue = None if kinds is None else [Kind(kind).value for kind in kinds]
        reader, writer = await self._connect()
        try:
            params: Params = {"since": since, "kinds": wanted, "follow": follow}
            await self._request(reader, writer, "trace.subscribe", params)
            while (message := await self._line(reader)) is not None:
                if "event" in message:
                    yield TraceRecord.from_json(message["event"])
                elif "end" in message:
                    return
            if not follow:
                raise BackendError(f"{self.path}: the node closed the connection before it had given its records")
        finally:
            await _hang_up(writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_unix_connection(str(self.path), limit=ANSWER_OCTETS)
        except OSError as problem:
            if isinstance(problem, FileNotFoundError | ConnectionRefusedError):
                why = "no node is running there"
            else:
                why = problem.strerror or str(problem)
            raise BackendError(f"control socket {self.path}: {why}") from None

    async def _request(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: str,
        params: Params,
    ) -> JsonValue:
        try:
            line = _encode({"id": 1, "method": method, "params": params})
        except ValueError:  # Infinity, and what else only Python's JSON has
            raise ControlError("bad-params", "a number has no form in JSON") from None
        with contextlib.suppress(ConnectionError):
            writer.write(line)
            await writer.drain()
        while True:
            message = await self._line(reader)
            if message is None:
                raise BackendError(f"{self.path}: the node closed the connection before it answered {method}")
            error = message.get("error")
            if isinstance(error, dict):
                raise ControlError(str(error.get("code")), str(error.get("message")))
            if message.get("id") == 1 and "result" in message:
                return message["result"]

    async def _line(self, reader: asyncio.StreamReader) -> dict[str, JsonValue] | None:
        """The next message, ``None`` when the node has closed."""
        try:
            line = await reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except asyncio.LimitOverrunError:
            raise DecodeError(f"{self.path}: an answer of over {ANSWER_OCTETS} octets") from None
        message = _decode_object(line)
        if message is None:
            raise DecodeError(f"{self.path}: what listens there does not speak the control protocol")
        return message


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def call_sync(path: Path | str, method: str, /, **params: JsonValue) -> JsonValue:
    """One call from a command line, outside any event loop."""
    return asyncio.run(ControlClient(path).call(method, **params))
