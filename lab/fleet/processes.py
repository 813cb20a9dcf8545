"""A fleet across processes: the UEs are dealt to them in turn, what they have counted is added up.

Which UE does what when is decided by the plan alone, so it is the same for any number of processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from lab.fleet.control import StartSection
from lab.fleet.engine import EngineState
from lab.fleet.figures import FleetFigures
from lab.fleet.plan import FleetPlan, Part
from lab.processes import NodeProcess
from protocols.errors import BackendError, StackError
from protocols.io.control import ControlClient
from protocols.trace.records import JsonValue

STOP_MARGIN = 5.0  # seconds beyond what the UEs may take to detach


class FleetProcesses:
    """The processes of one fleet, between ``async with``; ``directory`` holds their sockets and logs."""

    def __init__(self, file: Path, number: int, directory: Path) -> None:
        self.processes = [_process(file, place, directory) for place in range(number)]
        self._watches: list[asyncio.Task[None]] = []
        self._latest: list[FleetFigures] = [FleetFigures() for _ in range(number)]

    async def __aenter__(self) -> FleetProcesses:
        try:
            for process in self.processes:
                await process.start()
            for process in self.processes:
                await process.ready()
        except BaseException:
            await self.__aexit__()
            raise
        self._watches = [asyncio.get_running_loop().create_task(process.watch()) for process in self.processes]
        return self

    async def __aexit__(self, *_: object) -> None:
        """End them all, whatever they are at."""
        await asyncio.gather(*(process.terminate() for process in self.processes if process.started))
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def start(self, plan: FleetPlan) -> None:
        """Begin the fleet in all of them."""
        number = len(self.processes)
        await asyncio.gather(
            *(
                process.client.call(
                    "fleet.start", **StartSection.of(plan, Part(number=place, of=number)).model_dump(mode="json")
                )
                for place, process in enumerate(self.processes)
            )
        )

    async def figures(self) -> FleetFigures:
        """What all of them have counted so far; ``BackendError`` when one has died."""
        self._check()
        for place, process in enumerate(self.processes):
            self._latest[place] = FleetFigures.from_json(await process.client.call("fleet.figures"))
        return self.known

    @property
    def known(self) -> FleetFigures:
        """What they had counted when they were last asked."""
        whole = FleetFigures()
        for figures in self._latest:
            whole.merge(figures)
        return whole

    async def done(self) -> bool:
        """Whether all of them are through."""
        self._check()
        states = [(await self._status(process)).get("state") for process in self.processes]
        return all(state == EngineState.DONE.value for state in states)

    async def status(self) -> dict[str, dict[str, JsonValue]]:
        """What each says of itself."""
        return {process.name: await self._status(process) for process in self.processes}

    async def memory_octets(self) -> list[JsonValue]:
        """The most memory that each has had."""
        return [(await self._status(process)).get("memory_octets") for process in self.processes]

    async def stop(self, leave_interval: float) -> None:
        """Everybody detaches; returns when all processes that live are through."""
        interval = leave_interval + STOP_MARGIN  # thousands of UEs take longer than a client waits by default
        clients = [
            ControlClient(process.control, answer_interval=interval)
            for process in self.processes
            if process.running and process.control is not None
        ]
        with contextlib.suppress(StackError, TimeoutError):
            async with asyncio.timeout(interval):
                await asyncio.gather(*(client.call("fleet.stop") for client in clients), return_exceptions=True)

    async def last_figures(self) -> FleetFigures:
        """What those that live have counted, and what the others had when they were last asked."""
        for place, process in enumerate(self.processes):
            with contextlib.suppress(StackError):
                if process.running:
                    self._latest[place] = FleetFigures.from_json(await process.client.call("fleet.figures"))
        return self.known

    def _check(self) -> None:
        for watch in self._watches:
            if watch.done():
                watch.result()  # which says how it has ended

    @staticmethod
    async def _status(process: NodeProcess) -> dict[str, JsonValue]:
        status = await process.client.call("fleet.status")
        if not isinstance(status, dict):
            raise BackendError(f"{process.name} answers something else than expected")
        return status


def _process(file: Path, place: int, directory: Path) -> NodeProcess:
    name = f"fleet-{place + 1}"
    control = directory / f"{name}.sock"
    words = ("-c", str(file), "--control", str(control), "--node", name)
    return NodeProcess(
        name, [sys.executable, "-m", "lab.fleet", *words], log=directory / f"{name}.log", control=control
    )
