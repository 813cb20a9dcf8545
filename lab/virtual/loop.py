"""An event loop of asyncio on virtual time: no waiting, no sockets, no threads, and the same order in every run.

When nothing is ready the clock jumps to the next timer. Timers of one moment run in the order in which they
were set; tasks and futures hash by the order in which they were made, so that sets of them (asyncio's own too)
are walked in the same order in every process. Streams are those of ``lab.virtual.streams``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import heapq
import math
import socket
from asyncio import events
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextvars import Context
from itertools import count
from typing import Any, TypeVar, TypeVarTuple

from lab.virtual.streams import StreamNetwork, VirtualSocket
from protocols.errors import BackendError
from protocols.path import Endpoint

START = 1000.0  # monotonic seconds at the beginning: as on a machine that was started a while ago

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Deadlock(BackendError):
    """Nothing is left to happen, and what the loop was to run has not ended."""


class _Timer(asyncio.TimerHandle):
    """A timer that knows its turn among those of the same moment."""

    def __init__(self, turn: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._turn = turn

    def __lt__(self, other: object) -> bool:
        assert isinstance(other, _Timer)
        return (self.when(), self._turn) < (other.when(), other._turn)


class _Task(asyncio.Task[Any]):
    """A task that hashes by its number."""

    def __init__(self, number: int, *arguments: Any, **keywords: Any) -> None:
        self._number = number  # before the task enters the set of all tasks
        super().__init__(*arguments, **keywords)

    def __hash__(self) -> int:
        return self._number


class _Future(asyncio.Future[Any]):
    """A future that hashes by its number."""

    def __init__(self, number: int, *, loop: asyncio.AbstractEventLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class _Jumping:
    """What stands where asyncio has its selector: instead of waiting, the clock jumps."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> Sequence[object]:
        """No file is ever ready."""
        if timeout is None:
            raise Deadlock(self._loop.standstill())
        if timeout > 0:
            self._loop.jump()
        return ()


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop; ``run`` is what ``asyncio.run`` is elsewhere.

    ``failures``: what asyncio would have logged (exceptions that nobody took), for whoever runs the loop to judge.
    """

    _scheduled: list[asyncio.TimerHandle]
    _clock_resolution: float

    def __init__(self, start: float = START) -> None:
        super().__init__()
        self._now = start
        self._turns = count()
        self._numbers = count(1)
        self._selector = _Jumping(self)
        self._clock_resolution = math.ulp(start)
        self.streams = StreamNetwork(self)
        self.failures: list[str] = []
        self.set_exception_handler(_note_failure)
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]  # typeshed wants a generic Protocol

    # --- time

    def time(self) -> float:
        """Virtual seconds; they go on only when nothing is left to do."""
        return self._now

    def jump(self) -> None:
        """On to the next timer, which then is due: by the smallest step that the clock can tell."""
        self._now = max(self._now, self._scheduled[0].when())
        self._clock_resolution = math.ulp(self._now)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call at a moment; after all that were set for the same moment before."""
        if not math.isfinite(when):
            raise ValueError(f"a timer at {when}")
        timer = _Timer(next(self._turns), when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]  # BaseEventLoop's own bookkeeping
        return timer

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call after so many seconds."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    # --- running

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run to the end, cancel what is left, close; ``Deadlock`` when nothing is left to happen before that."""
        try:
            events.set_event_loop(self)
            return self.run_until_complete(main)
        finally:
            try:
                self._cancel_all()
                self.run_until_complete(self.shutdown_asyncgens())
            finally:
                events.set_event_loop(None)
                self.close()

    def standstill(self) -> str:
        """What waits for what never comes."""
        waiting = sorted(self._tasks_left(), key=hash)
        names = ", ".join(getattr(task.get_coro(), "__qualname__", task.get_name()) for task in waiting)
        return f"nothing is left to happen at {self._now:.6f} s, and these wait: {names or 'nobody'}"

    def create_future(self) -> asyncio.Future[Any]:
        """A future with a number."""
        return _Future(next(self._numbers), loop=self)

    def run_in_executor(  # type: ignore[override]  # typeshed: a future of the call's own type
        self, executor: concurrent.futures.Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Done at once, in this thread: what blocks takes no virtual time."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to who waits
            future.set_exception(error)
        return future

    def add_signal_handler(self, sig: int, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Signals are not for this loop."""

    def remove_signal_handler(self, sig: int) -> bool:
        """There was none."""
        return False

    # --- streams

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """The next connection to a listening socket."""
        assert isinstance(sock, VirtualSocket)
        transport = await sock.waiting.get()
        accepted = VirtualSocket(self.streams, Endpoint.of(*sock.getsockname()), transport)
        return accepted, accepted.getpeername()

    async def connect_accepted_socket(  # type: ignore[override]  # of asyncio's many options the nodes use these
        self, protocol_factory: Callable[[], asyncio.Protocol], sock: socket.socket, **options: object
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Begin to serve an accepted connection; without TLS."""
        assert isinstance(sock, VirtualSocket)
        assert sock.accepted is not None
        protocol = protocol_factory()
        sock.accepted.begin(protocol)
        return sock.accepted, protocol

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str, port: int, **options: object
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect in memory; ``ConnectionRefusedError`` where nobody listens."""
        return await self.streams.connect(protocol_factory, Endpoint.of(host, port))

    # --- what BaseEventLoop leaves to those that wait for files

    def _process_events(self, event_list: Sequence[object]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody waits who would have to be woken."""

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Generator[Any, None, T], context: Context | None = None
    ) -> asyncio.Task[T]:
        return _Task(next(self._numbers), coroutine, loop=loop, context=context)

    def _tasks_left(self) -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks(self) if not task.done()]

    def _cancel_all(self) -> None:
        """Latest first: who was started by another one ends before it."""
        left = sorted(self._tasks_left(), key=hash, reverse=True)
        for task in left:
            task.cancel()
        if left:
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))


def _note_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, VirtualLoop)
    error = context.get("exception")
    loop.failures.append(f"{context.get('message')}: {error!r}" if error is not None else str(context.get("message")))
