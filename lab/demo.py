"""The demonstration: a UE attaches, moves while its traffic runs, and is not followed to where it cannot hear.

Real nodes as processes, real UDP, real Diameter over TCP. The laboratory only tells the UE what to do,
through its control socket; what it prints and judges it has from the nodes' traces.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from lab.configurations import LABORATORY, RunFiles, prepare
from lab.narration import Narrator
from lab.processes import NodeProcess, poll_until
from lab.results import AttachFigures, DemoResult, MoveFigures
from lab.run_directory import RunDirectory
from lab.stages import WIFI_A, Stage, Step, check_free
from lab.traces import ALL_BUT_DATAGRAMS, Traces, data, event, message
from lab.traffic import Traffic
from protocols.errors import BackendError, StackError
from protocols.io.control import ControlClient
from protocols.io.evidence import CAPTURE_FILE, PROFILE_DIRECTORY, EvidenceWriter
from protocols.path import Endpoint
from protocols.trace.records import JsonValue, TraceRecord

DASHBOARD_ADDRESS = "127.0.0.1"
DASHBOARD_PORT = 8080
DASHBOARD_PORTS_TRIED = 20
PACKETS_PER_SECOND = 50.0
IDLE_PACKETS_PER_SECOND = 2.0  # after the story, for whoever looks at the dashboard
STOP_INTERVAL = 0.8  # seconds of undisturbed traffic between one move and the next
LEAD_INTERVAL = 0.1  # how long before a move its window begins: several packets
PEER_INTERVAL = 20.0
EVENT_INTERVAL = 20.0  # longer than the gateway waits for the answer to its check
TRAFFIC_INTERVAL = 15.0
DETACH_INTERVAL = 10.0
TRAFFIC_POLL_INTERVAL = 0.05
LAST_RECORDS_INTERVAL = 3.0
LABORATORY_INTERVAL = 50.0  # for it to end: the nodes of a run that is played then take leave first
REQUEST, RESPONSE, COOKIE2 = "INFORMATIONAL request", "INFORMATIONAL response", "N(COOKIE2)"
LOGS_DIRECTORY = "logs"
SIGN_IN = "Sign in at "


_SERVED = {
    "aaa": ("aaa", "serve"),
    "epdg": ("epdg", "serve"),
    "ue": ("ue", "run"),
    "dashboards": ("dashboards", "serve"),
    LABORATORY: ("lab", "serve"),
}
CORE_NODES = ("ue", "epdg", "aaa")


class Stopped(StackError):
    """Somebody pressed Ctrl-C or sent SIGTERM before the end."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the command line decides; ``port`` is ``None`` for 8080 or the next that is free."""

    leave: bool = False
    output: Path | None = None
    dashboard: bool = True
    port: int | None = None
    packets_per_second: float = PACKETS_PER_SECOND


def run_demo(stage: Stage, options: DemoOptions, console: Console) -> int:
    """Play the demonstration; the exit status: 0 when everything held that was expected.

    ``BackendError`` when it cannot begin. Whatever was started or made is gone when this returns.
    """
    return asyncio.run(_run(stage, options, console))


async def _run(stage: Stage, options: DemoOptions, console: Console) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    with contextlib.ExitStack() as stack:
        stack.enter_context(stage.open())
        dashboard = _dashboard_endpoint(options, console)
        directory = Path(stack.enter_context(RunDirectory("demo")))
        evidence = None if options.output is None else stack.enter_context(EvidenceWriter(options.output))
        demo = Demo(
            stage,
            options,
            console,
            RunFiles(directory=directory),
            dashboard=dashboard,
            evidence=evidence,
            stopping=stopping,
        )
        try:
            await demo.play()
        finally:
            demo.keep_logs()
    return demo.conclude()


def _dashboard_endpoint(options: DemoOptions, console: Console) -> Endpoint | None:
    """Where the dashboard will listen: a port that was asked for must be free, another may be chosen."""
    if not options.dashboard:
        return None
    first = DASHBOARD_PORT if options.port is None else options.port
    endpoint = Endpoint.of(DASHBOARD_ADDRESS, first)
    for port in range(first, first + DASHBOARD_PORTS_TRIED):
        chosen = Endpoint(endpoint.address, port)
        try:
            check_free(chosen, socket.SOCK_STREAM, "the dashboard")
        except BackendError:
            if options.port is not None:
                raise BackendError(
                    f"TCP {chosen}, which the dashboard needs, is in use: choose another with --port, "
                    "or do without it by --no-dashboard"
                ) from None
            continue
        if port != first:
            console.print(f"Port {first} is in use by another program: the dashboard takes {port}.", soft_wrap=True)
        return chosen
    raise BackendError(f"no free TCP port for the dashboard from {first} on: choose one with --port")


class Demo:
    """One run: its processes, its story, its result."""

    def __init__(
        self,
        stage: Stage,
        options: DemoOptions,
        console: Console,
        files: RunFiles,
        *,
        dashboard: Endpoint | None,
        evidence: EvidenceWriter | None,
        stopping: asyncio.Event,
    ) -> None:
        self._stage = stage
        self._options = options
        self._console = console
        self._files = files
        self._dashboard = dashboard
        self._stopping = stopping
        self._labels = {access.name: access.label for access in stage.plan.accesses}
        places = {str(access.address): access.label for access in stage.plan.accesses if access.next_hop is None}
        self._narrator = Narrator(console, wall=time.time, places=places)
        takers: list[Callable[[TraceRecord], None]] = [self._narrator.take]
        if evidence is not None:
            takers.append(evidence.add)
        self._traces = Traces(takers)
        self._nodes = {name: self._node(name, module) for name, module in _SERVED.items()}
        self._sign_in = ""
        self._traffic: Traffic = stage.traffic(ControlClient(files.control("ue")), files)
        self._traffic_runs = False
        self._windows: list[tuple[float, float]] = []
        self._unanswered_move: asyncio.Task[str | None] | None = None
        self._followers: list[asyncio.Task[None]] = []
        self._access = WIFI_A
        self.result = DemoResult(
            stage=stage.name,
            started=time.time(),
            packets_per_second=options.packets_per_second,
            destination=str(stage.plan.core_host),
            moves_expected=len(stage.steps),
        )

    def _node(self, name: str, words: tuple[str, ...]) -> NodeProcess:
        """A node as a process, not started yet."""
        module, *rest = words
        command = [sys.executable, "-m", module, *rest, "-c", str(self._files.configuration(name))]
        control = None if name == "dashboards" else self._files.control(name)
        return NodeProcess(name, self._stage.place(name, command), log=self._files.log(name), control=control)

    # --- the frame

    async def play(self) -> None:
        """Everything from the first process to the last; what broke the story off is in the result."""
        try:
            await self._watched(self._begin())
            try:
                await self._watched(self._story())
            except StackError as error:
                self.result.error = str(error)
            await self._take_figures()
            if not self._options.leave:
                self._show_result()
                if self.result.error is None:
                    await self._stay()
            await self._detach()
        finally:
            await self._end()
            self.result.stage_report = self._stage.report()
        if self._options.leave:
            self._show_result()

    async def _watched(self, work: Coroutine[None, None, None]) -> None:
        """Do ``work`` while every node lives and nobody stops the run; else a ``StackError``."""
        try:
            async with asyncio.TaskGroup() as group:
                watchers = [group.create_task(self._until_stopped())]
                watchers += [group.create_task(node.watch()) for node in self._nodes.values() if node.started]
                await work
                for watcher in watchers:
                    watcher.cancel()
        except BaseExceptionGroup as failures:
            expected, others = failures.split(StackError)
            if expected is None or others is not None:
                raise
            raise _first(expected) from None

    async def _until_stopped(self) -> None:
        await self._stopping.wait()
        raise Stopped("stopped before the end")

    async def _begin(self) -> None:
        """Start the nodes; returns when they serve and know one another."""
        self._narrator.heading("Starting aaa, epdg, ue" + ("" if self._dashboard is None else ", dashboards"))
        prepare(
            self._files,
            self._stage.plan,
            export_keys=self._options.output is not None,
            dashboard=self._dashboard,
            laboratory=self._offers_laboratory,
            # the story of the deaf access needs a UE that insists; by itself it would go back after two seconds
            changes={"ue": {"path_test_after": None}},
        )
        for name in ("aaa", "ue", *(() if self._dashboard is None else ("dashboards",))):
            await self._nodes[name].start()
        await self._ready("aaa")
        await self._nodes["epdg"].start()  # now its first connection is accepted
        await self._ready("epdg")
        await self._ready("ue")
        if self._dashboard is not None:
            self._sign_in = await self._nodes["dashboards"].said(SIGN_IN)
            self._narrator.say(f"Dashboard: {self._sign_in}", "bold")
        await self._traces.expect(
            event("epdg", "peer-up", after=0.0), what="the gateway's Diameter connection", interval=PEER_INTERVAL
        )

    async def _ready(self, name: str) -> None:
        """Wait for a node and follow its trace; datagrams are taken where all of them pass: at the gateway."""
        node = self._nodes[name]
        await node.ready()
        kinds = None if name == "epdg" else ALL_BUT_DATAGRAMS
        self._followers.append(asyncio.get_running_loop().create_task(self._traces.follow(node.client, kinds)))

    @property
    def _offers_laboratory(self) -> bool:
        """Whether there is a dashboard to start schedules from, and somebody who stays to do so."""
        return self._dashboard is not None and not self._options.leave

    async def _open_laboratory(self) -> None:
        await self._nodes[LABORATORY].start()
        await self._nodes[LABORATORY].ready()

    async def _stay(self) -> None:
        """Stay up until somebody has seen enough."""
        with contextlib.suppress(StackError):
            await self._start_traffic(IDLE_PACKETS_PER_SECOND)
        try:
            if self._offers_laboratory:
                await self._watched(self._open_laboratory())
            if self._sign_in:
                self._console.print(f"\nDashboard: {self._sign_in}", style="bold", soft_wrap=True)
            self._console.print("Everything stays up until Ctrl-C.", soft_wrap=True)
            await self._watched(self._forever())
        except Stopped:
            self._console.print("Stopping.")
        except StackError as error:
            self.result.error = str(error)

    async def _forever(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def _end(self) -> None:
        """End every process in order: whoever has a peer takes leave of it first."""
        if self._unanswered_move is not None:
            self._unanswered_move.cancel()
        if self._traffic_runs:
            with contextlib.suppress(StackError):
                await self._traffic.stop()
        await asyncio.gather(
            self._nodes["ue"].terminate(),
            self._nodes["dashboards"].terminate(),
            self._nodes[LABORATORY].terminate(LABORATORY_INTERVAL),
        )
        await self._nodes["epdg"].terminate()
        await self._nodes["aaa"].terminate()
        if self._followers:
            await asyncio.wait(self._followers, timeout=LAST_RECORDS_INTERVAL)
        for follower in self._followers:
            follower.cancel()
        failures = await asyncio.gather(*self._followers, return_exceptions=True)
        self._narrator.flush()
        for failure in failures:
            if isinstance(failure, Exception) and not isinstance(failure, StackError):
                raise failure

    # --- the story

    @property
    def _ue(self) -> ControlClient:
        return self._nodes["ue"].client

    async def _story(self) -> None:
        await self._attach()
        await self._start_traffic(self._options.packets_per_second)
        await self._undisturbed()
        for step in self._stage.steps:
            await self._move(step)

    async def _attach(self) -> None:
        self._narrator.heading(f"Attaching from {self._labels[WIFI_A]}")
        session = _object(await self._ue.call("ue.attach", access=WIFI_A))
        attach, ike = _object(session["attach"]), _object(session["ike"])
        child = _object(_list(session["child_sas"])[0])
        self.result.attach = AttachFigures(
            access=WIFI_A,
            seconds=_number(attach["seconds"]),
            ike_requests=int(_number(attach["requests"])),
            ike_retransmissions=int(_number(attach["retransmissions"])),
            swm_requests=len([*self._traces.matching(message("epdg", "out", name="DER"))]),
            ike_suite=str(ike["suite"]),
            esp_suite=str(child["suite"]),
            inner_addresses=tuple(str(address) for address in _list(session["inner_addresses"])),
            dns=tuple(str(address) for address in _list(session["dns"])),
        )
        granted = ", ".join(self.result.attach.inner_addresses)
        dns = ", ".join(self.result.attach.dns)
        self._narrator.say(
            f"Inner address {granted}, DNS {dns}; IKE {self.result.attach.ike_suite}, "
            f"ESP {self.result.attach.esp_suite}.",
            follows_ue=True,
        )

    async def _start_traffic(self, rate: float) -> None:
        await self._traffic.start(rate)
        self._traffic_runs = True

    async def _undisturbed(self) -> None:
        """Let the traffic flow for a while; ``BackendError`` when it does not flow."""
        rate = self._options.packets_per_second
        packets = max(3, round(rate * STOP_INTERVAL))
        goals = [answered + packets for answered in await self._traffic.answered()]

        async def flown() -> bool | None:
            answered = await self._traffic.answered()
            return all(have >= goal for have, goal in zip(answered, goals, strict=False)) or None

        what = f"the traffic to {self._stage.plan.core_host} does not flow"
        await poll_until(flown, what=what, interval=TRAFFIC_INTERVAL + 2 * packets / rate, pause=TRAFFIC_POLL_INTERVAL)

    async def _move(self, step: Step) -> None:
        """One move, from just before it to undisturbed traffic after it."""
        self._narrator.heading(step.title)
        origin, before = self._access, await self._session()
        began = time.time()
        self._stage.relocate(origin, step)
        report = await (self._adopted_move(step, began) if step.adopted else self._refused_move(step, began))
        failure: BackendError | None = None
        try:
            await self._undisturbed()
        except BackendError as error:
            failure = error  # the figures of this move are the proof of it
        ended = time.time()
        after = await self._session()
        gateway = await self._gateway_path()
        told = data(report)
        adopted = report.body.get("name") == "moved"
        figures = MoveFigures(
            title=step.title,
            origin=origin,
            target=step.to,
            adoption_expected=step.adopted,
            nat_expected=step.behind_nat,
            adopted=adopted,
            why=None if adopted else str(told.get("why")),
            seen_at=gateway,
            update_ms=None,
            ike_requests=0,
            ike_retransmissions=0,
            inner_addresses_unchanged=before["inner_addresses"] == after["inner_addresses"],
            ike_spis_unchanged=_ike_spis(before) == _ike_spis(after),
            esp_spis_unchanged=_esp_spis(before) == _esp_spis(after),
            nat_detected=told.get("nat") is True,
            address_checked=adopted and told.get("validated") is True and self._cookie_came_back(began),
            redirected=0,
            flows=await self._traffic.figures(began - LEAD_INTERVAL, ended),
        )
        self.result.moves.append(figures)
        self._windows.append((began - LEAD_INTERVAL, ended))
        lost = f"{figures.packets_lost} packet{'' if figures.packets_lost == 1 else 's'} lost"
        self._narrator.say(f"Traffic: longest time without an answer {figures.outage_ms:.0f} ms, {lost}.")
        if failure is not None:
            raise failure
        self._access = step.to  # also when in vain: the UE believes to be there, and moves on from there
        if step.adopted:
            await self._superseded()

    async def _adopted_move(self, step: Step, began: float) -> TraceRecord:
        await self._ue.call("ue.move", to=step.to, keep_old=step.keep_old)
        return await self._verdict(step, began)

    async def _refused_move(self, step: Step, began: float) -> TraceRecord:
        """The UE waits in vain for an answer, so nobody waits for the UE."""
        self._unanswered_move = asyncio.get_running_loop().create_task(self._move_in_vain(step))
        return await self._verdict(step, began)

    async def _verdict(self, step: Step, began: float) -> TraceRecord:
        """What the gateway says about the new address."""
        return await self._traces.expect(
            event("epdg", "moved", "address-update-failed", after=began),
            what=f"the gateway's verdict on {self._labels[step.to]}",
            interval=EVENT_INTERVAL,
        )

    async def _move_in_vain(self, step: Step) -> str | None:
        """Why the move failed, as it must."""
        try:
            await self._ue.call("ue.move", to=step.to, keep_old=step.keep_old)
        except StackError as error:
            return str(error)
        return None

    async def _superseded(self) -> None:
        """The move in vain is over now: a newer one has taken its place."""
        move, self._unanswered_move = self._unanswered_move, None
        if move is None:
            return
        done, _ = await asyncio.wait((move,), timeout=EVENT_INTERVAL)
        if not done:
            raise BackendError("the UE still waits for the answer to a move that a newer one has superseded")
        if move.result() is None:
            raise BackendError("the UE's move to an address that cannot hear was answered")

    def _cookie_came_back(self, began: float) -> bool:
        """Whether the gateway asked N(COOKIE2) and got an answer since."""
        asked = message("epdg", "out", name=REQUEST, containing=COOKIE2, after=began)
        answered = message("epdg", "in", name=RESPONSE, containing=COOKIE2, after=began)
        return any(self._traces.matching(asked)) and any(self._traces.matching(answered))

    async def _session(self) -> dict[str, JsonValue]:
        status = _object(await self._ue.call("ue.status"))
        sessions = _list(status["sessions"])
        if not sessions:
            raise BackendError("the UE has no connection")
        return _object(sessions[-1])

    async def _gateway_path(self) -> str:
        """Where the gateway sends the session's ESP."""
        answer = _object(await self._nodes["epdg"].client.call("sessions.list", state="established"))
        sessions = _list(answer["sessions"])
        if not sessions:
            raise BackendError("the gateway has no session")
        child = _object(_list(_object(sessions[0])["child_sas"])[0])
        return str(_object(child["path"])["remote"])

    async def _take_figures(self) -> None:
        """Stop the traffic and take the final figures: nothing is in flight any more."""
        if not self._traffic_runs:
            return
        try:
            await self._traffic.stop()
            self._traffic_runs = False
            self.result.flows = await self._traffic.figures(None, None)
            measured = _list((await self._session())["moves"])
            for index, (move, window) in enumerate(zip(self.result.moves, self._windows, strict=True)):
                own = _measured(measured, move.target, window[0])
                seconds = own.get("update_seconds")
                self.result.moves[index] = replace(
                    move,
                    update_ms=seconds * 1000 if isinstance(seconds, int | float) else None,
                    ike_requests=int(_number(own.get("requests", 0))),
                    ike_retransmissions=int(_number(own.get("retransmissions", 0))),
                    redirected=0 if move.adoption_expected else self._redirected(move.target),
                    flows=await self._traffic.figures(*window),
                )
        except StackError as error:
            self.result.error = self.result.error or str(error)

    def _redirected(self, access: str) -> int:
        """ESP packets that the gateway sent to an access."""
        plan = next(plan for plan in self._stage.plan.accesses if plan.name == access)
        return self._traces.esp_sent_to[str(plan.address)]

    async def _detach(self) -> None:
        """DELETE to the gateway, STR to the AAA server; both answered."""
        if self.result.attach is None or not all(self._nodes[name].running for name in CORE_NODES):
            return  # nothing to take leave of, or nobody
        if await self._is_gone():
            return
        self.result.detached = False
        if self._traffic_runs:
            with contextlib.suppress(StackError):
                await self._traffic.stop()
            self._traffic_runs = False
        self._narrator.heading("Detaching")
        began = time.time()
        try:
            async with asyncio.timeout(DETACH_INTERVAL):
                await self._ue.call("ue.detach")
            for matches, what in (
                (event("epdg", "detached", after=began), "the gateway's end of the session"),
                (message("epdg", "in", name="STA", after=began), "the AAA server's answer to STR"),
            ):
                await self._traces.expect(matches, what=what, interval=DETACH_INTERVAL)
            self.result.detached = True
        except TimeoutError:
            self.result.error = self.result.error or f"the UE's detach: not within {DETACH_INTERVAL:g} s"
        except StackError as error:
            self.result.error = self.result.error or str(error)

    async def _is_gone(self) -> bool:
        """Whether somebody has ended the connection already, from the dashboard say."""
        try:
            return _object(await self._ue.call("ue.status"))["state"] != "established"
        except StackError:
            return False

    # --- what is left

    def _show_result(self) -> None:
        self._narrator.flush()
        self._console.print()
        self._print_figures()
        failures = self.result.failures()
        for failure in failures:
            self._console.print(f"✗ {failure}", style="bold red", soft_wrap=True)
        if not failures:
            self._console.print("✓ Everything held that was expected.", style="bold green")

    def _print_figures(self) -> None:
        """The table; sentences where the terminal is too narrow for it, no blanks at line ends in a file."""
        table = self.result.table(self._label)
        boundless = self._console.options.update(max_width=sys.maxsize)
        if self._console.measure(table, options=boundless).maximum > self._console.width:
            table = self.result.listing(self._label)
        if self._console.is_terminal:
            self._console.print(table)
            return
        with self._console.capture() as captured:
            self._console.print(table)
        for line in captured.get().splitlines():
            self._console.print(line.rstrip(), soft_wrap=True)

    def _label(self, access: str) -> str:
        return self._labels.get(access, access)

    def conclude(self) -> int:
        """Write ``result.json``, say where the evidence lies; the exit status."""
        failures = self.result.failures()
        output = self._options.output
        if output is not None:
            self.result.write(output)
            text = (
                f"Evidence in {output}: capture.pcapng, wireshark-profile, trace.jsonl, ladder.txt, result.json. "
                f"It holds the session's keys; WIRESHARK_CONFIG_DIR={output / PROFILE_DIRECTORY} "
                f"wireshark {output / CAPTURE_FILE} opens it decrypted."
            )
            self._console.print(text, soft_wrap=True)
        return 1 if failures else 0

    def keep_logs(self) -> None:
        """Copy what the nodes printed beside the evidence."""
        output = self._options.output
        if output is None:
            return
        with contextlib.suppress(OSError):
            (output / LOGS_DIRECTORY).mkdir(exist_ok=True, mode=0o700)
            for log in self._files.directory.glob("*.log"):
                shutil.copy(log, output / LOGS_DIRECTORY / log.name)


def _first(failures: BaseExceptionGroup[StackError]) -> StackError:
    """The error that came first, out of groups within groups."""
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, StackError)
    return error


def _measured(moves: list[JsonValue], target: str, since: float) -> dict[str, JsonValue]:
    """The UE's own record of the move that began after ``since``."""
    for move in moves:
        if isinstance(move, dict) and move.get("to") == target and _number(move.get("started")) >= since:
            return move
    return {}


def _ike_spis(session: dict[str, JsonValue]) -> tuple[JsonValue, JsonValue]:
    ike = _object(session["ike"])
    return ike["spi_i"], ike["spi_r"]


def _esp_spis(session: dict[str, JsonValue]) -> set[tuple[str, str]]:
    children = [_object(child) for child in _list(session["child_sas"])]
    return {(str(child["inbound_spi"]), str(child["outbound_spi"])) for child in children}


def _object(value: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise BackendError("a node answered something else than expected")
    return value


def _list(value: JsonValue) -> list[JsonValue]:
    if not isinstance(value, list):
        raise BackendError("a node answered something else than expected")
    return value


def _number(value: JsonValue) -> float:
    if not isinstance(value, int | float):
        raise BackendError("a node answered something else than expected")
    return value
