"""Plays a schedule in a scene, whatever its stage, and writes down what happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine

from lab.mobility.evaluation import describe, evaluate
from lab.mobility.loader import NamedSchedule, misfit
from lab.mobility.recording import Played, Recording, Stream
from lab.mobility.result import PacketSeries, RunResult
from lab.mobility.schedule import (
    AaaSlow,
    AccessEvent,
    Attach,
    Captive,
    Command,
    Event,
    GatewayEvent,
    Hint,
    Impair,
    Lose,
    MoveTo,
    NatAppears,
    NatSection,
    Resume,
)
from lab.mobility.stage import Client, Scene, Stage, Voice
from protocols.errors import ConfigurationError, StackError
from protocols.media.log import PacketFate, join
from protocols.trace.records import JsonValue, Kind, TraceRecord

DRAIN_INTERVAL = 1.0  # for packets that are under way when the talking ends
RELEASE_INTERVAL = 10.0  # for the gateway and the AAA server to let go of what was detached
RELEASE_POLL_INTERVAL = 0.1
AAA_RULE = "schedule-slow"

Progress = Callable[[str, float, str], None]
"""Told of every event: the schedule's name, seconds since the beginning, words."""


Watch = Callable[[float, TraceRecord], None]
"""Given every record of UE and gateway as it comes, with the seconds since the beginning."""


def play(
    named: NamedSchedule, stage: Stage, seed: int | None, progress: Progress, watch: Watch | None = None
) -> tuple[RunResult, PacketSeries]:
    """Play a schedule on a stage and judge it; ``BackendError`` when the stage cannot be set."""
    chosen = named.schedule.seed if seed is None else seed

    async def work(scene: Scene) -> Recording:
        player = Player(named, stage, chosen, scene, progress)
        if watch is not None:
            began = scene.now()
            scene.on_record(lambda record: watch(record.wall - began, record))
        return await player.play()

    try:
        recording = stage.perform(named.schedule, chosen, work)
    except ConfigurationError as error:
        raise misfit(named, error) from error
    series = PacketSeries(
        uplink=[fate for stream in recording.streams for fate in stream.uplink],
        downlink=[fate for stream in recording.streams for fate in stream.downlink],
    )
    return evaluate(recording, real_time=stage.real_time), series


class Player:
    """One run."""

    def __init__(self, named: NamedSchedule, stage: Stage, seed: int, scene: Scene, progress: Progress) -> None:
        self._schedule = named.schedule
        self._scene = scene
        self._progress = progress
        self._recording = Recording(
            schedule=named.schedule, name=named.name, stage=stage.name, nat=stage.nat, seed=seed, began=scene.now()
        )
        self._moves: dict[tuple[float, str], dict[str, JsonValue]] = {}
        self._paths: dict[float, dict[str, JsonValue]] = {}
        self._voices: list[Voice] = []
        self._talks = named.schedule.traffic.kind == "voice"
        self._working: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    async def play(self) -> Recording:
        """All events in their time, then the end."""
        recording, scene = self._recording, self._scene
        recording.backends = {"ue": await _backend(scene.ue), "epdg": await _backend(scene.epdg)}
        scene.on_record(self._take_record)
        try:
            for event in self._schedule.events:
                await scene.sleep_until(recording.began + event.at)
                await self._begin(event)
            await scene.sleep_until(recording.began + self._schedule.duration)
            await self._hang_up()
            await self._take_moves()
            await self._take_whereabouts()
            recording.duration = scene.now() - recording.began
            await self._leave()
        finally:
            for task in self._working:
                task.cancel()
            await asyncio.gather(*self._working, return_exceptions=True)
        if self._failure is not None:
            raise self._failure
        recording.moves = [self._moves[key] for key in sorted(self._moves)]
        recording.paths = [self._paths[key] for key in sorted(self._paths)]
        recording.records = [record for record in scene.records() if record.wall >= recording.began]
        recording.lost = scene.network.lost()
        recording.leaks = [*await self._leaks(), *await scene.leaks()]
        recording.played.sort(key=lambda played: played.began)
        return recording

    # --- events

    async def _begin(self, event: Event) -> None:
        """Carry out an event; those that wait for an outcome go on while time does."""
        began = self._scene.now()
        quick = self._network(event)
        if quick is not None:
            await self._carry_out(event, began, quick)
        else:
            self._start(self._carry_out(event, began, self._command(event)))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._working.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        if not task.cancelled() and task.exception() is not None and self._failure is None:
            self._failure = task.exception()

    async def _carry_out(self, event: Event, began: float, work: Coroutine[None, None, None]) -> None:
        error: str | None = "not done before the end"
        start = self._recording.began
        words = describe(Played(event=event, began=0.0, ended=0.0, error=None))
        self._progress(self._recording.name, began - start, words)
        try:
            await work
            error = None
        except StackError as failure:
            error = str(failure)
            self._progress(self._recording.name, self._scene.now() - start, f"{words}: {error}")
        finally:
            ended = self._scene.now() - start
            self._recording.played.append(Played(event=event, began=began - start, ended=ended, error=error))
        await self._take_moves()

    def _network(self, event: Event) -> Coroutine[None, None, None] | None:
        """What the stage does at once, ``None`` for what a node is asked for."""
        network = self._scene.network
        match event:
            case AccessEvent():
                return self._access_event(event)
            case NatAppears():
                return network.translate(event.access, event.nat)
            case Impair():
                return network.impair(event.access, event.up, event.down)
            case Captive():
                return network.captive(event.access, event.captive)
            case GatewayEvent():
                return network.gateway(event.address, event.do == "gateway-up")
            case Lose():
                return network.lose(event.message, event.count, event.access)
            case _:
                return None

    async def _access_event(self, event: AccessEvent) -> None:
        network, ue = self._scene.network, self._scene.ue
        match event.do:
            case "nat-rebind":
                await network.rebind(event.access)
            case "nat-gone":
                await network.translate(event.access, NatSection())
            case "address-lost":
                await network.present(event.access, False)
                if self._scene.tells_accesses:
                    await ue.call("ue.access.lost", name=event.access)
            case "address-gained":
                await network.present(event.access, True)
                if self._scene.tells_accesses:
                    await ue.call("ue.access.gained", name=event.access)

    async def _command(self, event: Event) -> None:
        ue = self._scene.ue
        match event:
            case Attach():
                await ue.call("ue.attach", access=event.access or self._schedule.first_access)
            case MoveTo():
                await ue.call("ue.move", to=event.to, keep_old=event.make == "make-before-break")
            case Resume():
                await ue.call("ue.move", to=event.to)
            case Hint():
                await ue.call("ue.access.hint", name=event.access, hint=event.hint)
            case AaaSlow():
                rule: JsonValue = {"name": AAA_RULE, "action": {"delay": event.delay}}
                await self._scene.aaa.call("faults.add", rule=rule)
            case Command(do="aaa-normal"):
                await self._scene.aaa.call("faults.remove", name=AAA_RULE)
            case Command(do="traffic-start"):
                self._talks = True
                await self._talk()
            case Command(do="traffic-stop"):
                self._talks = False
                await self._hang_up()
            case Command(do="detach"):
                await self._hang_up()
                await self._take_moves()
                await self._take_whereabouts()
                await ue.call("ue.detach")
            case Command():
                await ue.call(f"ue.{event.do}")

    # --- what the nodes say

    def _take_record(self, record: TraceRecord) -> None:
        if record.node != "ue" or record.kind is not Kind.EVENT or record.body.get("name") != "attached":
            return
        data = record.body.get("data")
        if isinstance(data, dict):
            self._recording.attaches.append({**data, "at": record.wall})
        if self._talks:
            self._start(self._talk())

    async def _talk(self) -> None:
        """Talk anew: what was said on another connection is over."""
        await self._stop_talking()
        with contextlib.suppress(StackError):  # it is gone again
            self._voices.append(await self._scene.voice(self._schedule.traffic.rate))

    async def _stop_talking(self) -> None:
        voices, self._voices = self._voices, []
        for voice in voices:
            await voice.stop()
            await self._note(voice)

    async def _hang_up(self) -> None:
        """Stop talking and let arrive what is under way."""
        for voice in self._voices:
            await voice.stop()
        if self._voices:
            await self._scene.sleep_until(self._scene.now() + DRAIN_INTERVAL)
        await self._stop_talking()

    async def _note(self, voice: Voice) -> None:
        logs = await voice.logs()
        start = self._recording.began
        self._recording.streams.append(
            Stream(
                uplink=_since(start, join(logs.uplink_sent, logs.uplink_received)),
                downlink=_since(start, join(logs.downlink_sent, logs.downlink_received)),
            )
        )

    async def _session(self) -> dict[str, JsonValue] | None:
        status = await self._scene.ue.call("ue.status")
        sessions = status.get("sessions") if isinstance(status, dict) else None
        first = sessions[0] if isinstance(sessions, list) and sessions else None
        return first if isinstance(first, dict) else None

    async def _take_moves(self) -> None:
        session = await self._session()
        moves = [] if session is None else session.get("moves")
        for view in moves if isinstance(moves, list) else []:
            if isinstance(view, dict):
                started = view["started"]
                assert isinstance(started, int | float)
                self._moves[float(started), str(view["to"])] = view
        paths = [] if session is None else session.get("paths")
        for view in paths if isinstance(paths, list) else []:
            if isinstance(view, dict):
                since = view["since"]
                assert isinstance(since, int | float)
                self._paths[float(since)] = view

    async def _take_whereabouts(self) -> None:
        session = await self._session()
        if session is None or session.get("state") != "established":
            return
        self._recording.final_access = str(session["access"])
        children = session.get("child_sas")
        for child in children if isinstance(children, list) else []:
            path = child.get("path") if isinstance(child, dict) else None
            if isinstance(path, dict):
                address = str(path["remote"]).rpartition(":")[0].strip("[]")
                self._recording.final_gateway = self._scene.gateway_named(address)

    # --- the end

    async def _leave(self) -> None:
        """Detach, and give everybody the time to let go."""
        session = await self._session()
        if session is not None and session.get("state") in ("attaching", "established"):
            with contextlib.suppress(StackError):  # what is left over is seen by the leaks
                await self._scene.ue.call("ue.detach")
        deadline = self._scene.now() + RELEASE_INTERVAL
        while await self._leaks() and self._scene.now() < deadline:
            await self._scene.sleep_until(self._scene.now() + RELEASE_POLL_INTERVAL)

    async def _leaks(self) -> list[str]:
        """What is left of a connection at either end, one sentence each."""
        leaks: list[str] = []
        session = await self._session()
        if session is not None:
            if session.get("state") not in ("idle", "closed"):
                leaks.append(f"the UE's connection is {session.get('state')}")
            leaks += _left("the UE's child SAs", session.get("child_sas"))
            leaks += _left("the UE's open accesses", session.get("open_accesses"))
        status = await self._scene.ue.call("node.status")
        assert isinstance(status, dict)
        leaks += _left("the UE's sockets", status.get("listen"))
        status = await self._scene.epdg.call("node.status")
        assert isinstance(status, dict)
        leaks += _left("the gateway's sessions", status.get("sessions"))
        leaks += _left("the gateway's half-open IKE SAs", status.get("half_open"))
        leaks += _left("the gateway's inner addresses", status.get("addresses_in_use"))
        status = await self._scene.aaa.call("node.status")
        assert isinstance(status, dict)
        return leaks + _left("the AAA server's sessions", status.get("sessions"))


async def _backend(node: Client) -> str:
    status = await node.call("node.status")
    assert isinstance(status, dict)
    data_plane = status["data_plane"]
    assert isinstance(data_plane, dict)
    return str(data_plane["backend"])


def _left(what: str, value: JsonValue) -> list[str]:
    """A sentence when a counter is not zero, a list or a mapping of counters not empty."""
    if isinstance(value, dict):
        count = sum(each for each in value.values() if isinstance(each, int))
    elif isinstance(value, list):
        count = len(value)
    else:
        count = value if isinstance(value, int) else 0
    return [f"{what}: {count}"] if count else []


def _since(start: float, fates: tuple[PacketFate, ...]) -> tuple[PacketFate, ...]:
    """The same with moments since the beginning."""
    return tuple(
        PacketFate(
            sequence=fate.sequence,
            sent=fate.sent - start,
            received=None if fate.received is None else fate.received - start,
            copies=fate.copies,
        )
        for fate in fates
    )
