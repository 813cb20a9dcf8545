"""The ladder of live sessions in the terminal, merged from the control sockets of several nodes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from epdg.terminal import drawn, heading, remark
from protocols.errors import BackendError, DecodeError
from protocols.io.control import ControlClient, ControlError
from protocols.trace.arrows import COLUMN
from protocols.trace.following import FOLLOWED, Following
from protocols.trace.records import JsonValue

SHOW_INTERVAL = 0.1  # seconds between looks at what can be told
RETRY_INTERVAL = 0.5  # seconds before a node that went away is looked for again

Say = Callable[[str], None]


class _Terminal(Console):
    """Who reads no longer (``| head``) ends the command, as Ctrl-C does."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


async def show(paths: Sequence[Path], *, session: str | None, imsi: str | None, kept: bool) -> None:
    """Print what happens until SIGINT or SIGTERM, or until nobody reads."""
    following = Following(session=session, imsi=imsi)
    console = _Terminal(highlight=False, emoji=False)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    names = _Names()
    remarks: list[str] = []
    sources = [_Source(path, following, names, remarks.append, kept=kept) for path in paths]
    tasks = [asyncio.create_task(source.follow()) for source in sources]
    try:
        console.print(heading(), soft_wrap=True)
        while not stopping.is_set():
            now = time.time()
            lines = [drawn(line) for line in following.lines(now)]
            for text in [*lines, *(remark(now, words) for words in remarks)]:
                console.print(text, soft_wrap=True)
            remarks.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(SHOW_INTERVAL):
                    await stopping.wait()
    except BrokenPipeError:
        pass
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Names:
    """Nodes of one name by a number."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def new(self, name: str) -> str:
        number = self._taken[name] = self._taken.get(name, 0) + 1
        return name if number == 1 else f"{name}-{number}"


class _Source:
    """One node: its records, for as long as it is there, and again when it is back."""

    def __init__(self, path: Path, following: Following, names: _Names, say: Say, *, kept: bool) -> None:
        self._client = ControlClient(path)
        self._path = path
        self._following = following
        self._names = names
        self._say = say
        self._since: int | None = 0 if kept else None
        self._started: JsonValue = None
        self._name: str | None = None
        self._kind = ""
        self._away = False

    async def follow(self) -> None:
        """Follow until cancelled; a node that draws no ladder is left alone."""
        while True:
            try:
                if not await self._greet():
                    return
                await self._read()
                self._gone("it closed the connection")
            except (BackendError, DecodeError, ControlError) as error:
                self._gone(str(error))
            await asyncio.sleep(RETRY_INTERVAL)

    async def _greet(self) -> bool:
        status = await self._client.call("node.status")
        if not isinstance(status, dict):
            raise DecodeError(f"{self._path}: what listens there is no node")
        kind, started = str(status.get("kind")), status.get("started")
        if kind not in COLUMN:
            self._say(f"{self._path} is of kind {kind}: it has no column")
            return False
        self._name = self._name or self._names.new(str(status.get("node")))
        self._kind = kind
        restarted = self._started not in (None, started)
        self._started = started
        if restarted:
            self._since = 0  # it counts anew, and all of its new life is news
        if self._away:
            self._away = False
            self._say(f"{self._name} is back" + (", started anew" if restarted else ""))
        return True

    async def _read(self) -> None:
        assert self._name is not None
        if self._since is None:
            standing = await self._client.call("trace.subscribe")
            sequence = standing.get("sequence") if isinstance(standing, dict) else None
            self._since = sequence if isinstance(sequence, int) else 0
        records = self._client.subscribe(self._since, FOLLOWED)
        assert isinstance(records, AsyncGenerator)
        async with aclosing(records):
            async for record in records:
                self._since = record.sequence
                self._following.take(replace(record, node=self._name), self._kind, time.time())

    def _gone(self, why: str) -> None:
        if not self._away:
            self._away = True
            self._say(f"{self._name or self._path} is away: {why}")
