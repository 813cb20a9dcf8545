"""The process that plays a run: started in a session of its own, read line by line, ended with all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from lab.memory import memory_directory
from lab.processes import dies_with_parent, poll_until
from lab.run_directory import RunDirectory
from protocols.errors import BackendError
from protocols.trace.records import JsonValue

LINE_OCTETS = 1 << 20
END_INTERVAL = 40.0  # of a run that is stopped: each of its nodes may take eight seconds to take leave
ORPHANS_INTERVAL = 10.0  # for what a run that crashed has left: the kernel has told it to end (PR_SET_PDEATHSIG)
POLL_INTERVAL = 0.05
LAST_WORDS_OCTETS = 4096

Line = dict[str, JsonValue]


class PlayerProcess:
    """One process; its temporary files lie in a directory of their own, which goes with it."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._killing: asyncio.TimerHandle | None = None
        self._last_words = ""

    async def lines(self) -> AsyncGenerator[Line, None]:
        """What it tells, until it has ended and nothing of it is left; ``BackendError`` when it cannot be started."""
        with RunDirectory("serve", memory_directory()) as name:
            directory = Path(name)
            log = directory / "stderr"
            with log.open("wb") as errors:
                process = await self._start(directory, errors.fileno())
            try:
                assert process.stdout is not None
                async for line in process.stdout:
                    with contextlib.suppress(ValueError):
                        value = json.loads(line)
                        if isinstance(value, dict):
                            yield value
            finally:
                await asyncio.shield(self._end(process))
                self._last_words = _last_line(log)

    async def _start(self, directory: Path, errors: int) -> asyncio.subprocess.Process:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "TMPDIR": str(directory)},
                limit=LINE_OCTETS,
                start_new_session=True,
                preexec_fn=dies_with_parent(),
            )
        except OSError as error:
            raise BackendError(f"a run cannot be started: {error.strerror}") from error
        self._process = process
        if self._stopping:
            self.stop()
        return process

    def stop(self) -> None:
        """Tell it to end, and end it when it does not; again, or before it has begun, is harmless."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None or self._killing is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        self._killing = asyncio.get_running_loop().call_later(END_INTERVAL, self._kill)

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    @property
    def stopped(self) -> bool:
        """Whether it has been told to end."""
        return self._stopping

    @property
    def ending(self) -> str:
        """How it ended, for who expected something else."""
        status = None if self._process is None else self._process.returncode
        return f"the run's process ended with status {status}" + (f": {self._last_words}" if self._last_words else "")

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Wait for its end, and for that of what it started; a bounded time each."""
        assert process.stdout is not None
        if not process.stdout.at_eof():
            self.stop()  # nobody listens any more
        await process.wait()
        if self._killing is not None:
            self._killing.cancel()
        if not await _gone(process.pid):
            for orphan in _session(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGKILL)
            await _gone(process.pid)


async def _gone(leader: int) -> bool:
    """Whether nothing is left of a session, within ``ORPHANS_INTERVAL``."""

    async def none_left() -> bool | None:
        return None if _session(leader) else True

    try:
        return await poll_until(none_left, what="the end of a run", interval=ORPHANS_INTERVAL, pause=POLL_INTERVAL)
    except BackendError:
        return False


def _session(leader: int) -> list[int]:
    """The processes of the session that a process has led (proc_pid_stat(5), field 6), without those that are dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # behind the name, which is in parentheses: state, parent, process group, session
            state, _, _, session = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue  # it has ended meanwhile
        if int(session) == leader and state not in ("Z", "X"):
            found.append(int(path.parent.name))
    return found


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LAST_WORDS_OCTETS))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""
    return ""
