"""Events for those who follow them: one bounded ring that every reader follows at its own pace.

Read as server-sent events (WHATWG HTML §9.2) or over a WebSocket (RFC 6455), each event one JSON text there.

A reader is a cursor into the ring, never a queue of its own: one that is too slow finds that its place
has gone and is told to read everything anew (``reset``). One that takes nothing at all is let go, and the last
event says so (``dropped``). Identifiers are ``<epoch>-<sequence>``, the
epoch drawn at start, so that a number from an earlier run is recognised and not mistaken for a place.

An event's JSON is made when a reader wants it. That a session has changed is an event at once; how it is now is asked
for when somebody wants to know, once for all readers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from dashboards.event import Event, Filter, Lookup, Told, as_json

RETRY_INTERVAL_MS = 1500  # what a browser waits before it comes back
SEND_TIMEOUT = 30.0  # a reader that takes nothing for so long is let go
NOTICE_INTERVAL = 30.0  # seconds in which it can still find out why, reading what was under way
BATCH = 128  # events written at once
GOING_AWAY, TRY_AGAIN_LATER = 1001, 1013  # RFC 6455 §7.4.1 and IANA's registry of close codes

logger = logging.getLogger("dashboards")


class EventHub:
    """The ring. ``publish`` never waits; ``wait`` returns when there is something after a cursor."""

    def __init__(self, *, ring: int) -> None:
        self.epoch = secrets.token_hex(4)
        self.readers = 0
        self.dropped = 0
        self.closed = False
        self._events: deque[Event] = deque(maxlen=ring)
        self._sequence = 0
        self._wake = asyncio.Event()
        self._asking: set[asyncio.Task[None]] = set()

    @property
    def sequence(self) -> int:
        """The number of the newest event, 0 before the first."""
        return self._sequence

    def publish(self, name: str, data: object, session: str | None = None) -> None:
        """Append an event and wake the readers."""
        self._append(name, as_json(data), session)

    def publish_later(self, name: str, make: Callable[[], str], session: str | None = None) -> None:
        """The same, with JSON that ``make`` makes the same of at any time."""
        self._append(name, make, session)

    def publish_changed(self, session: str, lookup: Lookup) -> None:
        """A session has changed; ``lookup`` tells of several which event each has become."""
        self._append("session", None, session, lookup)

    def _append(
        self, name: str, data: str | Callable[[], str] | None, session: str | None, lookup: Lookup | None = None
    ) -> None:
        self._sequence += 1
        self._events.append(Event(self._sequence, name, data, session, lookup))
        self._wake.set()

    def close(self) -> None:
        """End every stream (the server is stopping)."""
        self.closed = True
        self._wake.set()
        for asking in self._asking:
            asking.cancel()

    def resume(self, last_event_id: str | None) -> tuple[int, bool]:
        """The cursor that an identifier stands for, and whether what came after it is still all there."""
        if not last_event_id:
            return self._sequence, True
        epoch, _, number = last_event_id.rpartition("-")
        if epoch != self.epoch or not (number.isascii() and number.isdigit()):
            return self._sequence, False
        cursor = int(number)
        if cursor > self._sequence or cursor < self._oldest() - 1:
            return self._sequence, False
        return cursor, True

    def after(self, cursor: int) -> tuple[list[Event], bool]:
        """Up to ``BATCH`` events after a cursor; False when some of them have been dropped."""
        oldest = self._oldest()
        if cursor < oldest - 1:
            return [], False
        first = cursor - oldest + 1
        last = min(first + BATCH, len(self._events))
        return [self._events[index] for index in range(first, last)], True

    async def follow(
        self, last_event_id: str | None, wanted: Filter, heartbeat_interval: float
    ) -> AsyncIterator[list[Event]]:
        """Batches of events, ``hello`` or ``reset`` first; an empty one after each silent ``heartbeat_interval``.

        ``reset``: events were lost to this reader, who has to read everything anew. Ends when the hub is closed.
        """
        cursor, whole = self.resume(last_event_id)
        yield [self._control(cursor, "hello" if whole else "reset")]
        while not self.closed:
            if not await self.wait(cursor, heartbeat_interval):
                yield []
                continue
            events, whole = self.after(cursor)
            if not whole:
                cursor = self._sequence
                yield [self._control(cursor, "reset")]
            elif events:
                cursor = events[-1].sequence
                chosen = [event for event in events if wanted(event)]
                if await self._ask(chosen):
                    chosen = [event for event in chosen if event.data is not None and wanted(event)]
                if chosen:
                    yield chosen

    async def _ask(self, events: Iterable[Event]) -> bool:
        """Ask for those that only say that a session has changed, or wait for who does; whether there were any."""
        changed = [event for event in events if event.data is None]
        unasked: dict[Lookup, list[Event]] = {}
        for event in changed:
            if event.lookup is not None and event.asked is None:
                unasked.setdefault(event.lookup, []).append(event)
        for lookup, some in unasked.items():
            asking = asyncio.create_task(_learn(lookup, some))  # of no reader: others may wait for it, too
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)
            for event in some:
                event.asked = asking
        under_way = {event.asked for event in changed if event.asked is not None}
        if under_way:
            await asyncio.wait(under_way)
        return bool(changed)

    def identifier(self, event: Event) -> str:
        """What a reader comes back with."""
        return f"{self.epoch}-{event.sequence}"

    async def wait(self, cursor: int, timeout: float) -> bool:
        """Wait for an event after the cursor; False when ``timeout`` seconds passed without one."""
        while self._sequence <= cursor and not self.closed:
            self._wake.clear()  # who waits already has been woken
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                return False
        return True

    @contextmanager
    def reader(self) -> Iterator[None]:
        """Count an open stream."""
        self.readers += 1
        try:
            yield
        finally:
            self.readers -= 1

    def _control(self, cursor: int, name: str) -> Event:
        return Event(cursor, name, f'{{"epoch":"{self.epoch}"}}', None)

    def _oldest(self) -> int:
        return self._events[0].sequence if self._events else self._sequence + 1


async def _learn(lookup: Lookup, events: Sequence[Event]) -> None:
    told: Mapping[str, Told] = {}
    try:
        told = await lookup(list(dict.fromkeys(event.session for event in events if event.session is not None)))
    except Exception:  # top loop: a surprising answer must not end the readers
        logger.exception("asking for what has changed failed")
    for event in events:
        event.learn(told.get(event.session or ""))


class EventStream(Response):
    """A ``text/event-stream`` answer that follows the hub until reader or hub is gone."""

    media_type = "text/event-stream"

    def __init__(
        self,
        hub: EventHub,
        *,
        last_event_id: str | None,
        wanted: Filter,
        heartbeat_interval: float,
        send_timeout: float = SEND_TIMEOUT,
        notice_interval: float = NOTICE_INTERVAL,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._hub = hub
        self._last_event_id = last_event_id
        self._wanted = wanted
        self._heartbeat_interval = heartbeat_interval
        self._send_timeout = send_timeout
        self._notice_interval = notice_interval

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._hub.reader():
            pump = asyncio.create_task(self._pump(send))
            gone = asyncio.create_task(_disconnected(receive))
            try:
                await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (pump, gone):
                    task.cancel()
                outcomes = await asyncio.gather(pump, gone, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, TimeoutError | OSError):
                raise outcome

    async def _pump(self, send: Send) -> None:
        await self._send(send, {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await self._write(send, f"retry: {RETRY_INTERVAL_MS}\n\n")
            async for events in self._hub.follow(self._last_event_id, self._wanted, self._heartbeat_interval):
                await self._write(send, "".join(map(self._format, events)) or ": heartbeat\n\n")
        except TimeoutError:
            self._hub.dropped += 1
            await self._say_dropped(send)
            return
        await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _say_dropped(self, send: Send) -> None:
        """Last words; without an id, so that the reader comes back with that of the last event it took."""
        why = json.dumps({"why": f"Nothing was taken for {self._send_timeout:g} s."})
        async with asyncio.timeout(self._notice_interval):
            notice = f"event: dropped\ndata: {why}\n\n".encode()
            await send({"type": "http.response.body", "body": notice, "more_body": False})

    def _format(self, event: Event) -> str:
        return f"id: {self._hub.identifier(event)}\nevent: {event.name}\ndata: {event.data}\n\n"

    async def _write(self, send: Send, text: str) -> None:
        await self._send(send, {"type": "http.response.body", "body": text.encode(), "more_body": True})

    async def _send(self, send: Send, message: Message) -> None:
        async with asyncio.timeout(self._send_timeout):
            await send(message)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def follow_socket(
    hub: EventHub,
    socket: WebSocket,
    *,
    last_event_id: str | None,
    wanted: Filter,
    heartbeat_interval: float,
    send_timeout: float = SEND_TIMEOUT,
) -> None:
    """Write events to an accepted WebSocket until reader or hub is gone; what the reader says is passed over.

    One that takes nothing for ``send_timeout`` seconds is let go with code 1013 and a reason.
    """

    async def pump() -> tuple[int, str]:
        async for events in hub.follow(last_event_id, wanted, heartbeat_interval):
            for event in events:
                text = f'{{"id":"{hub.identifier(event)}","event":"{event.name}","data":{event.data}}}'
                try:
                    async with asyncio.timeout(send_timeout):
                        await socket.send_text(text)
                except TimeoutError:
                    hub.dropped += 1
                    return TRY_AGAIN_LATER, "too slow: come back with the last id"
        return GOING_AWAY, "the server stops"

    async def gone() -> None:
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass

    with hub.reader():
        pumping, leaving = asyncio.create_task(pump()), asyncio.create_task(gone())
        try:
            await asyncio.wait({pumping, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                return
            code, reason = await pumping
            async with asyncio.timeout(send_timeout):
                await socket.close(code, reason)
        except (TimeoutError, OSError, WebSocketDisconnect):
            pass  # the reader is gone
        finally:
            for task in (pumping, leaving):
                task.cancel()
            await asyncio.gather(pumping, leaving, return_exceptions=True)
