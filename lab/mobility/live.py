"""Nodes as processes for the stages in real time: started in order, followed, ended; a clock that is the system's."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lab.configurations import Changes, NetworkPlan, RunFiles, check, prepare
from lab.processes import NodeProcess, poll_until
from protocols.errors import StackError
from protocols.io.control import ControlClient
from protocols.path import Address
from protocols.trace.records import Kind, TraceRecord

KINDS = (Kind.EVENT, Kind.MESSAGE, Kind.KEYS)
PEER_INTERVAL = 20.0  # for the gateway's Diameter connection
LAST_RECORDS_INTERVAL = 0.5  # for what the nodes have recorded to be read

T = TypeVar("T")
Words = Sequence[str | Path]


def run_live(main: Coroutine[Any, Any, T]) -> T:
    """As ``asyncio.run``; SIGTERM ends it as Ctrl-C does, and what was started is ended first."""

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await main

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


class LiveNodes:
    """UE, gateway and AAA server as processes; ``words`` says how each is run."""

    def __init__(self, files: RunFiles, words: Mapping[str, Words]) -> None:
        self._files = files
        self._nodes = {
            name: NodeProcess(name, list(words[name]), log=files.log(name), control=files.control(name))
            for name in ("ue", "epdg", "aaa")
        }
        self.ue, self.epdg, self.aaa = (self._nodes[name].client for name in ("ue", "epdg", "aaa"))
        self._kept: list[TraceRecord] = []
        self._takers: list[Callable[[TraceRecord], None]] = []
        self._followers: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All three, ready and acquainted; none is left at the end."""
        try:
            await self._nodes["aaa"].start()
            await self._nodes["ue"].start()
            await self._nodes["aaa"].ready()
            await self._nodes["epdg"].start()  # now its first connection is accepted
            for name in ("epdg", "ue"):
                await self._nodes[name].ready()
                following = self._follow(self._nodes[name].client)
                self._followers.append(asyncio.get_running_loop().create_task(following))

            async def acquainted() -> bool | None:
                names = (record.body.get("name") for record in self._kept if record.node == "epdg")
                return "peer-up" in names or None

            await poll_until(acquainted, what="the gateway's Diameter connection", interval=PEER_INTERVAL)
            yield
        finally:
            for name in ("ue", "epdg", "aaa"):
                await asyncio.shield(self._nodes[name].terminate())
            for follower in self._followers:
                follower.cancel()
            await asyncio.gather(*self._followers, return_exceptions=True)

    async def watched(self, work: Awaitable[T]) -> T:
        """The outcome of ``work`` while all nodes live; ``BackendError`` with the last words of one that ends."""
        working = asyncio.ensure_future(work)
        watchers = [asyncio.ensure_future(node.watch()) for node in self._nodes.values()]
        try:
            await asyncio.wait((working, *watchers), return_when=asyncio.FIRST_COMPLETED)
            for watcher in watchers:
                if watcher.done():
                    watcher.result()
            return await working
        finally:
            for task in (working, *watchers):
                task.cancel()
            await asyncio.gather(working, *watchers, return_exceptions=True)

    def text(self) -> str:
        """What the nodes have printed, for who looks for a fault."""
        return "\n".join(f"--- {name}\n{node.text()}" for name, node in self._nodes.items())

    async def _follow(self, client: ControlClient) -> None:
        with contextlib.suppress(StackError):  # the node ends: its process is watched
            async with contextlib.aclosing(client.subscribe(0, KINDS)) as records:  # type: ignore[type-var]
                async for record in records:
                    if record.kind is not Kind.KEYS:
                        self._kept.append(record)
                    for taker in self._takers:
                        taker(record)

    # --- what a scene needs

    def now(self) -> float:
        """The wall clock."""
        return time.time()

    async def sleep_until(self, moment: float) -> None:
        """Wait."""
        await asyncio.sleep(max(moment - time.time(), 0.0))

    def records(self) -> Sequence[TraceRecord]:
        """Of UE and gateway."""
        return list(self._kept)

    def on_record(self, taker: Callable[[TraceRecord], None]) -> None:
        """From now on, keys too."""
        self._takers.append(taker)


class LiveScene:
    """What scenes in real time have in common: the nodes, the clock, the records."""

    def __init__(self, nodes: LiveNodes, gateways: Mapping[str, Address]) -> None:
        """``gateways``: addresses by the schedule's names."""
        self._nodes = nodes
        self._gateways = gateways
        self.ue, self.epdg, self.aaa = nodes.ue, nodes.epdg, nodes.aaa

    def now(self) -> float:
        """The wall clock."""
        return self._nodes.now()

    async def sleep_until(self, moment: float) -> None:
        """Wait."""
        await self._nodes.sleep_until(moment)

    def records(self) -> Sequence[TraceRecord]:
        """Of UE and gateway."""
        return self._nodes.records()

    def on_record(self, taker: Callable[[TraceRecord], None]) -> None:
        """From now on."""
        self._nodes.on_record(taker)

    def gateway_named(self, address: str) -> str | None:
        """By the schedule's name."""
        return next((name for name, each in self._gateways.items() if str(each) == address), None)


def configure(files: RunFiles, plan: NetworkPlan, changes: Mapping[str, Changes]) -> None:
    """Write what the nodes are told; keys are exported, since the laboratory reads messages.

    ``ConfigurationError`` before any of them starts: what a process said would name a file that is gone.
    """
    prepare(files, plan, export_keys=True, dashboard=None, changes=changes)
    check(files)


def node_words(files: RunFiles, name: str) -> list[str]:
    """The command of a stock node."""
    verb = "run" if name == "ue" else "serve"
    return [sys.executable, "-m", name, verb, "-c", str(files.configuration(name))]
