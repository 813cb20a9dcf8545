"""A whole run of a fleet: nodes of its own where they are wanted, the processes, live figures, metrics, the summary."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from lab.fleet.both_ends import PROCEDURES, GatewayCounts, both_ends, differences
from lab.fleet.config import FleetFile
from lab.fleet.figures import FleetFigures
from lab.fleet.load import BEGAN, ENDED, GATHERED, LEAVING, Moment
from lab.fleet.metrics import MetricsServer
from lab.fleet.nodes import FleetNodes, NodesPlan
from lab.fleet.plan import FleetPlan
from lab.fleet.processes import FleetProcesses
from lab.fleet.remarks import remarks
from lab.fleet.schedule import Playable, check_accesses
from lab.fleet.show import Show, table, voice_tables
from lab.run_directory import RunDirectory
from protocols.errors import BackendError, StackError
from protocols.io.control import ControlClient
from protocols.trace.records import JsonValue

DISTRIBUTION = "epdg-emulator"
SIGNALLED = 128  # and the signal's number: 130 after Ctrl-C
SAMPLE_INTERVAL = 1.0
SESSIONS_END_INTERVAL = 5.0  # that STR and STA may take after the last DELETE
ASK_INTERVAL = 0.05  # between two questions meanwhile


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run is told; ``file`` or ``nodes``, one of the two.

    ``plateau``: seconds after which everybody detaches, once all UEs have had their first attach.
    """

    plan: FleetPlan
    plateau: float | None = None
    playable: Playable
    processes: int = 1
    file: FleetFile | None = None
    nodes: NodesPlan | None = None
    metrics: int | None = None
    output: Path | None = None


@dataclass(kw_only=True)
class RunResult:
    """What a run came to."""

    options: RunOptions
    began: float
    seconds: float = 0.0
    figures: FleetFigures = field(default_factory=FleetFigures)
    attaches_per_second_peak: float = 0.0
    moves_per_second_peak: float = 0.0
    attached_at_most: int = 0
    memory_octets: list[JsonValue] = field(default_factory=list)
    moments: dict[str, Moment] = field(default_factory=dict)
    gateway: GatewayCounts | None = None
    nodes: dict[str, JsonValue] = field(default_factory=dict)
    interrupted: int | None = None
    error: str | None = None

    @property
    def failures(self) -> list[str]:
        """Why the run was no success, in sentences; that UEs were refused is a figure, no failure."""
        found = [] if self.error is None else [self.error]
        if not self.figures.succeeded("attach"):
            found.append("no UE has attached")
        if self.figures.failed:
            found.append(f"{self.figures.failed} UEs failed by a defect; see the logs")
        if self.figures.abandoned:
            found.append(f"{self.figures.abandoned} UEs had not detached when the time was over")
        return found

    @property
    def remarks(self) -> Iterator[str]:
        """What there is to say beside figures and failures."""
        return remarks(self.figures, self.options.plan, self.moments)

    @property
    def status(self) -> int:
        """The exit status: after a signal that which shells expect, whatever else there was; 1 after failures."""
        if self.interrupted is not None:
            return SIGNALLED + self.interrupted
        return 1 if self.failures else 0

    def summary(self) -> dict[str, JsonValue]:
        """The summary file."""
        plan, seconds = self.options.plan, self.seconds
        attaches, moves = self.figures.succeeded("attach"), self.figures.succeeded("move")
        return {
            "version": importlib.metadata.version(DISTRIBUTION),
            "began": self.began,
            "seconds": round(seconds, 3),
            "interrupted": self.interrupted is not None,
            "failures": [*self.failures],
            "plan": {
                "count": plan.count,
                "rate": plan.rate,
                "arrivals": plan.arrivals.value,
                "duration": plan.duration,
                "plateau": self.options.plateau,
                "rounds": plan.rounds,
                "seed": plan.seed,
                "personas": str(plan.mix),
                "schedule": plan.schedule.name,
                "left_out": [*self.options.playable.left_out],
                "processes": self.options.processes,
            },
            "attaches_per_second": {
                "average": _share(attaches, seconds),
                "peak": round(self.attaches_per_second_peak, 1),
            },
            "moves_per_second": {"average": _share(moves, seconds), "peak": round(self.moves_per_second_peak, 1)},
            "attached_at_most": self.attached_at_most,
            "memory_octets": self.memory_octets,
            "moments": {name: moment.to_json() for name, moment in self.moments.items()},
            "remarks": [*self.remarks],
            "figures": self.figures.summary(),
            "both_ends": None if self.gateway is None else both_ends(self.figures, self.gateway),
            "nodes": self.nodes,
        }


def run_fleet(options: RunOptions, console: Console) -> RunResult:
    """Run it to its end; what goes wrong outside stands in the result."""
    result = RunResult(options=options, began=time.time())
    with RunDirectory("fleet") as directory:
        try:
            asyncio.run(_Run(options, console, result, Path(directory)).run())
        finally:
            _keep_logs(options.output, Path(directory), result)
    if options.output is not None:
        _write(options.output, result.summary())
    return result


class _Run:
    def __init__(self, options: RunOptions, console: Console, result: RunResult, directory: Path) -> None:
        self._options = options
        self._console = console
        self._result = result
        self._directory = directory
        self._show = Show(console)
        self._latest = FleetFigures()
        self._began = 0.0
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        running = asyncio.current_task()
        assert running is not None

        def stop(number: int) -> None:
            if self._stopping.is_set():
                running.cancel()  # a second time: without waiting for the UEs
            self._stopping.set()
            self._result.interrupted = number

        for number in numbers:
            loop.add_signal_handler(number, stop, number)
        try:
            async with self._file() as file:
                with contextlib.ExitStack() as stack:
                    if self._options.metrics is not None:
                        server = MetricsServer(self._options.metrics, lambda: self._latest)
                        stack.callback(server.close)
                    await self._fly(file)
        except StackError as error:
            self._result.error = self._result.error or str(error)
        except asyncio.CancelledError:
            self._result.error = "interrupted before the UEs had detached"
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    @contextlib.asynccontextmanager
    async def _file(self) -> AsyncIterator[FleetFile]:
        """The configuration to go by, with nodes of its own around it where there are."""
        nodes = self._options.nodes
        if nodes is None:
            assert self._options.file is not None
            yield self._options.file
            return
        self._console.print(f"Making {nodes.count} subscribers, starting the AAA server and the gateway …")
        nodes.prepare()
        async with FleetNodes(nodes):
            yield FleetFile.read(nodes.fleet)
            await self._ask_nodes(nodes)

    async def _fly(self, file: FleetFile) -> None:
        plan, result = self._options.plan, self._result
        check_accesses(plan.schedule, file.accesses)
        before = await self._gateway(file)
        async with FleetProcesses(file.path, self._options.processes, self._directory) as processes:
            began = self._began = time.monotonic()
            await self._note(BEGAN, file, processes)
            try:
                await processes.start(plan)
                with self._show.running():
                    await self._watch(file, processes)
            except BackendError as error:
                result.error = str(error)  # a process has died: the others leave in order
            await processes.stop(file.configuration.leave_interval)
            result.figures = self._latest = await processes.last_figures()
            result.seconds = time.monotonic() - began
            await self._note(ENDED, file, processes)
            with contextlib.suppress(StackError):
                result.memory_octets = await processes.memory_octets()
        result.attaches_per_second_peak = self._show.paces["attach"].peak
        result.moves_per_second_peak = self._show.paces["move"].peak
        self._console.print(table(result.figures, self._show.paces), *voice_tables(result.figures))
        for sentence in result.remarks:
            self._console.print(sentence, soft_wrap=True)
        if before is not None:
            await self._compare(file, before)

    async def _compare(self, file: FleetFile, before: GatewayCounts) -> None:
        """What the gateway has counted meanwhile, once the last DELETE has had its time there."""
        deadline = time.monotonic() + SESSIONS_END_INTERVAL
        detached = PROCEDURES["detach"]
        while (now := await self._gateway(file)) is not None:
            self._result.gateway = now.since(before)
            ended = self._result.gateway.totals[detached] >= self._result.figures.succeeded("detach")
            if ended or time.monotonic() > deadline:
                break
            await asyncio.sleep(ASK_INTERVAL)
        if self._result.gateway is not None:
            for sentence in differences(self._result.figures, self._result.gateway):
                self._console.print(sentence, soft_wrap=True)

    @staticmethod
    async def _gateway(file: FleetFile) -> GatewayCounts | None:
        """What the gateway has counted; ``None`` where it cannot be asked."""
        control = file.configuration.gateway_control
        if control is None:
            return None
        with contextlib.suppress(StackError):
            return GatewayCounts.of(await ControlClient(control).call("node.status"))
        return None

    async def _watch(self, file: FleetFile, processes: FleetProcesses) -> None:
        """Look once a second until all are done, the plateau is over or somebody stops it."""
        leaving: float | None = None
        while not self._stopping.is_set():
            self._latest = await processes.figures()
            self._show.take(self._latest)
            self._result.attached_at_most = max(self._result.attached_at_most, self._latest.attached)
            if GATHERED not in self._result.moments and self._latest.gathered == self._options.plan.count:
                await self._note(GATHERED, file, processes)
                if self._options.plateau is not None:
                    leaving = time.monotonic() + self._options.plateau
            if await processes.done():
                return
            if leaving is not None and time.monotonic() >= leaving:
                await self._note(LEAVING, file, processes)
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAMPLE_INTERVAL):
                    await self._stopping.wait()

    async def _note(self, name: str, file: FleetFile, processes: FleetProcesses) -> None:
        """What all processes that can be asked have taken of the machine until now."""
        controls = {"gateway": file.configuration.gateway_control}
        if self._options.nodes is not None:
            controls["aaa"] = self._options.nodes.control("aaa")
        statuses: dict[str, JsonValue] = {}
        with contextlib.suppress(StackError):  # a process has died, which is told elsewhere
            statuses.update(await processes.status())
            for node, control in controls.items():
                if control is not None:
                    statuses[node] = await ControlClient(control).call("node.status")
        self._result.moments[name] = Moment.of(time.monotonic() - self._began, statuses, self._latest)

    async def _ask_nodes(self, nodes: NodesPlan) -> None:
        """What gateway and AAA server have counted, once they have no session left or have had time enough."""
        deadline = time.monotonic() + SESSIONS_END_INTERVAL
        while True:
            found = {name: await ControlClient(nodes.control(name)).call("node.status") for name in ("epdg", "aaa")}
            left = sum(_sessions(status) for status in found.values())
            if not left or time.monotonic() > deadline:
                self._result.nodes = found
                return
            await asyncio.sleep(ASK_INTERVAL)


def _sessions(status: JsonValue) -> int:
    sessions = status.get("sessions") if isinstance(status, dict) else None
    return sessions if isinstance(sessions, int) else 0


def _share(count: int, seconds: float) -> float:
    return round(count / seconds, 2) if seconds else 0.0


def _write(output: Path, summary: dict[str, JsonValue]) -> None:
    try:
        output.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise BackendError(f"{output}: {error.strerror}") from error


def _keep_logs(output: Path | None, directory: Path, result: RunResult) -> None:
    """What the processes said, beside the summary, where something went wrong."""
    if output is None or not result.failures:
        return
    for log in directory.glob("*.log"):
        text = log.read_text(encoding="utf-8", errors="replace")
        if text.strip():
            with contextlib.suppress(OSError):
                output.with_name(f"{output.stem}-{log.name}").write_text(text, encoding="utf-8")
