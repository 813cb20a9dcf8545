"""Nodes as processes of the laboratory: started, watched, ended by their process id, never left behind.

Every node is a process group of its own, so that Ctrl-C reaches the laboratory alone, which then ends them
in order. Where the kernel offers it (Linux) a node gets SIGTERM when the laboratory dies without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from protocols.errors import BackendError
from protocols.io.control import ControlClient
from protocols.trace.records import JsonValue

READY_INTERVAL = 30.0  # imports on a busy machine take their time
POLL_INTERVAL = 0.02
TERMINATION_INTERVAL = 8.0  # DELETE, STR and DPR have two seconds each to be answered
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

T = TypeVar("T")


async def poll_until(
    look: Callable[[], Awaitable[T | None]], *, what: str, interval: float, pause: float = POLL_INTERVAL
) -> T:
    """What ``look`` returns once it is not ``None``; ``BackendError`` names ``what`` at the deadline."""
    try:
        async with asyncio.timeout(interval):
            while True:
                found = await look()
                if found is not None:
                    return found
                await asyncio.sleep(pause)
    except TimeoutError:
        raise BackendError(f"{what}: nothing after {interval:g} s") from None


def dies_with_parent() -> Callable[[], None] | None:
    """What a child does before it becomes the program, ``None`` where the kernel knows no such wish."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:
            os._exit(1)  # the laboratory died before its death could be a signal

    return prepare


class NodeProcess:
    """One process; what it prints goes to ``log``, what it is asked goes through ``control``."""

    def __init__(self, name: str, words: Sequence[str | Path], *, log: Path, control: Path | None = None) -> None:
        self.name = name
        self.words = [os.fspath(word) for word in words]
        self.log = log
        self.control = control
        self._process: asyncio.subprocess.Process | None = None
        self._ending = False

    async def start(self) -> None:
        """Start it; ``BackendError`` when the program is not there."""
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                process_group=0,
                preexec_fn=dies_with_parent(),
            )
        except OSError as error:
            raise BackendError(f"{self.name} cannot be started: {self.words[0]}: {error.strerror}") from error
        finally:
            os.close(output)

    @property
    def started(self) -> bool:
        """Whether it has been started, running or not."""
        return self._process is not None

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """Its process id, ``None`` before it is started."""
        return None if self._process is None else self._process.pid

    @property
    def client(self) -> ControlClient:
        """A client of its control socket."""
        assert self.control is not None, "this process has no control socket"
        return ControlClient(self.control)

    async def ready(self) -> dict[str, JsonValue]:
        """Its status as soon as it answers; ``BackendError`` when it ends instead or takes too long."""

        async def status() -> dict[str, JsonValue] | None:
            self._check_running()
            with contextlib.suppress(BackendError):
                answer = await self.client.call("node.status")
                return answer if isinstance(answer, dict) else None
            return None

        return await poll_until(status, what=f"{self.name} does not get ready", interval=READY_INTERVAL)

    async def said(self, beginning: str) -> str:
        """The rest of the first line it prints that begins so."""

        async def line() -> str | None:
            self._check_running()
            lines = self.text().splitlines(keepends=True)
            return next((line for line in lines if line.startswith(beginning) and line.endswith("\n")), None)

        found = await poll_until(line, what=f"{self.name} does not get ready", interval=READY_INTERVAL)
        return found.removeprefix(beginning).strip()

    def text(self) -> str:
        """Everything it has printed."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    async def watch(self) -> None:
        """Return when it has been ended; ``BackendError`` with its last words when it ends by itself."""
        assert self._process is not None
        await self._process.wait()
        if not self._ending:
            raise self._ended()

    async def ended(self, interval: float) -> int:
        """The exit status of a program that ends by itself; ``BackendError`` when it takes longer than ``interval``."""
        assert self._process is not None
        try:
            async with asyncio.timeout(interval):
                return await self._process.wait()
        except TimeoutError:
            raise BackendError(f"{self.name} is not done after {interval:g} s") from None

    async def interrupt(self) -> None:
        """SIGINT and a bounded wait, for a program that prints its result then."""
        await self._end(signal.SIGINT)

    async def terminate(self, interval: float = TERMINATION_INTERVAL) -> None:
        """SIGTERM, after ``interval`` SIGKILL; again is harmless."""
        await self._end(signal.SIGTERM, interval)

    async def _end(self, number: signal.Signals, interval: float = TERMINATION_INTERVAL) -> None:
        self._ending = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            async with asyncio.timeout(interval):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _check_running(self) -> None:
        if self._process is not None and self._process.returncode is not None:
            raise self._ended()

    def _ended(self) -> BackendError:
        assert self._process is not None
        lines = [line for line in self.text().splitlines() if line.strip()]
        last = f": {lines[-1].strip()}" if lines else ""
        return BackendError(f"{self.name} ended with status {self._process.returncode}{last}")
