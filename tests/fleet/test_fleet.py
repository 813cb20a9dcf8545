"""Fleets against a real gateway and a real AAA server: what they count is what those have counted."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from lab.fleet.blocking import BlockingControlClient
from lab.fleet.config import FleetFile
from lab.fleet.control import control_methods
from lab.fleet.engine import EngineState, FleetEngine
from lab.fleet.figures import DIRECTIONS, Latency, Quality
from lab.fleet.plan import FleetPlan
from lab.fleet.schedule import Action, FleetEvent, FleetSchedule
from lab.fleet.talk import TalkKind
from lab.processes import poll_until
from protocols.errors import BackendError, ConfigurationError
from protocols.io.control import ControlError, ControlServer
from protocols.path import Path as NetworkPath
from tests.fleet.conftest import SUBSCRIBERS, FleetWorld
from tests.peers.processes import wait_until
from ue.tunnel import Tunnel

ROOT = Path(__file__).resolve().parents[2]
BRISK = FleetSchedule(
    name="brisk",
    title="Attach, talk, move twice, detach",
    repeat=False,
    spread=0.1,
    events=(
        FleetEvent(at=0, do=Action.ATTACH),
        FleetEvent(at=0.2, do=Action.TALK, rate=10, seconds=1.5),
        FleetEvent(at=0.6, do=Action.MOVE, to="next"),
        FleetEvent(at=1.0, do=Action.REKEY_CHILD),
        FleetEvent(at=1.7, do=Action.MOVE, to="wifi-c"),
        FleetEvent(at=3.2, do=Action.DETACH),
    ),
)
CALLS = FleetSchedule(
    name="calls",
    title="Attach, call",
    repeat=False,
    events=(
        FleetEvent(at=0, do=Action.ATTACH),
        FleetEvent(at=0.1, do=Action.TALK, kind=TalkKind.VOICE, seconds=60, share=1.0),
    ),
)
HOLD = FleetSchedule(name="hold", title="Attach", repeat=False, events=(FleetEvent(at=0, do=Action.ATTACH),))


def plan(schedule: FleetSchedule = BRISK, **changes: object) -> FleetPlan:
    values: dict[str, object] = {"count": 20, "rate": 40.0, "duration": 20.0, **changes}
    return FleetPlan(schedule=schedule, **values)  # type: ignore[arg-type]


def difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return dict(Counter(after) - Counter(before))


def test_twenty_ues_attach_talk_move_and_detach_as_both_nodes_have_counted(world: FleetWorld) -> None:
    async def scenario() -> None:
        before = await world.totals()
        async with FleetEngine(world.file) as engine:
            engine.start(plan())
            await asyncio.wait_for(engine.finished(), 30)
            figures = engine.latest()
        await world.emptied()
        after = difference(await world.totals(), before)
        assert (figures.begun, figures.done, figures.abandoned, figures.failed, figures.skipped) == (20, 20, 0, 0, 0)
        assert figures.outcomes == {
            "attach": {"success": 20},
            "move": {"success": 40},
            "rekey": {"begun": 20},
            "detach": {"success": 20},
        }
        assert (after["attached"], after["detached"]) == (20, 20), after
        # on a busy machine the second move may come before the address of the first was checked
        assert after["moved"] + after.get("address-update-unchecked", 0) == 40 + after.get("address-update-failed", 0)
        assert [figures.latencies[each].count for each in Latency] == [20, 40, 20, 20]
        # a busy machine attaches late and has less time to talk; what is under way at a detach is neither
        assert figures.packets_sent >= 20
        assert figures.packets_sent >= figures.packets_received + figures.packets_lost
        assert figures.packets_received > 0
        assert not figures.lost
        assert not engine.members

    world.run(scenario())


def test_what_was_sent_and_answered_is_counted_packet_by_packet(world: FleetWorld) -> None:
    """One UE that talks without moving: the gateway has decrypted what the UE has sent, and sealed its answers."""

    async def scenario() -> None:
        async with FleetEngine(world.file) as engine:
            member = engine.member(30)
            await member.attach()
            score = await member.talked(40, 0.5)
            counted = await world.esp_packets(member.pdn.subscriber)
            figures = engine.latest()
        assert score.sent > 1
        assert (figures.packets_sent, figures.packets_received) == (score.sent, score.received)
        assert score.sent >= counted["inbound"] >= score.received
        assert counted["outbound"] >= score.received
        assert score.received == score.sent - score.lost > 0
        await world.emptied()

    world.run(scenario())


def test_voice_of_a_share_of_the_ues_is_scored_while_it_goes_on(world: FleetWorld) -> None:
    """Of four UEs that would call three may; a detach ends their calls early, and what was reported is scored."""
    configuration = world.file.configuration.model_copy(update={"calls_at_once": 3})

    async def scenario() -> None:
        async with FleetEngine(replace(world.file, configuration=configuration)) as engine:
            engine.start(plan(CALLS, count=4, rate=100, duration=60))
            await _reached(lambda: engine.latest().calling == 3 and "call" in engine.latest().outcomes)
            assert engine.latest().outcomes["call"] == {"too many at once": 1}
            callers = [member.pdn.subscriber for member in engine.members.values() if member.calling]

            async def talked() -> bool | None:
                counted = [await world.esp_packets(caller) for caller in callers]
                return True if min(each["inbound"] for each in counted) >= 150 else None

            await poll_until(talked, what="three seconds of voice", interval=30, pause=0.2)
            await engine.stop()
            figures = engine.latest()
        assert figures.outcomes["call"] == {"too many at once": 1, "success": 3}
        assert figures.calling == 0
        for direction in DIRECTIONS:
            packets, scores = figures.voice[direction], figures.quality[direction, Quality.MOS]
            assert scores.count == 3
            assert packets.sent > packets.lost
            assert 1 <= scores.minimum <= scores.maximum <= 4.5
            assert figures.quality[direction, Quality.LOSS].maximum < 1
            assert figures.quality[direction, Quality.JITTER].count == 3
        assert not figures.packets_sent  # echo requests are counted apart
        await world.emptied()

    world.run(scenario())


def test_a_call_that_nobody_answers_is_told(world: FleetWorld) -> None:
    """Behind the gateway nobody has that address."""
    configuration = world.file.configuration.model_copy(update={"destination": ip_address("10.255.255.9")})

    async def scenario() -> None:
        async with FleetEngine(replace(world.file, configuration=configuration)) as engine:
            member = engine.member(31)
            await member.attach()
            member.call(0.3)
            assert member.calling
            await _reached(lambda: "call" in engine.latest().outcomes)
            figures = engine.latest()
        assert figures.outcomes["call"] == {"no answer": 1}
        assert figures.voice["uplink"].lost == figures.voice["uplink"].sent > 0
        assert figures.quality["uplink", Quality.MOS].maximum < 2
        assert figures.voice["downlink"].sent == 0
        await world.emptied()

    world.run(scenario())


async def _reached(holds: Callable[[], bool]) -> None:
    async def look() -> bool | None:
        return True if holds() else None

    await poll_until(look, what="what the test waits for", interval=20)


def test_no_more_ues_attach_at_a_time_than_may(world: FleetWorld) -> None:
    """Twelve that come at once, three at a time: the others wait for their turn, and are late."""
    at_once = 3
    configuration = world.file.configuration.model_copy(update={"attaching_at_once": at_once})

    async def scenario() -> None:
        async with FleetEngine(replace(world.file, configuration=configuration)) as engine:
            engine.start(plan(HOLD, count=12, rate=1000, duration=10))
            seen = set[int]()
            while engine.latest().succeeded("attach") < 12:
                seen.add(engine.latest().attaching)
                await asyncio.sleep(0.002)
            await engine.stop()
            figures = engine.latest()
        assert max(seen) == at_once
        assert figures.outcomes == {"attach": {"success": 12}, "detach": {"success": 12}}
        lateness = figures.latencies[Latency.LATENESS]
        assert lateness.count == 12
        assert lateness.maximum > 2 * figures.latencies[Latency.ATTACH].minimum  # behind three others
        await world.emptied()

    world.run(scenario())


def test_who_attaches_late_does_all_that_follows_as_much_later(world: FleetWorld) -> None:
    """Twelve that come at once, one at a time: the last stays attached as long as the first."""
    stays = 0.5
    schedule = FleetSchedule(
        name="half a second",
        title="Attach, detach",
        repeat=False,
        events=(FleetEvent(at=0, do=Action.ATTACH), FleetEvent(at=stays, do=Action.DETACH)),
    )
    configuration = world.file.configuration.model_copy(update={"attaching_at_once": 1})

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with FleetEngine(replace(world.file, configuration=configuration)) as engine:
            engine.start(plan(schedule, count=12, rate=1000, duration=60))
            seen: dict[int, list[float]] = {}
            while engine.latest().succeeded("detach") < 12:
                for member in engine.members.values():
                    if member.attached:
                        seen.setdefault(member.index, []).append(loop.time())
                await asyncio.sleep(0.002)
            figures = engine.latest()
        assert len(seen) == figures.gathered == 12
        # less the attach itself, which is much less than how late the last one was
        latest = figures.latencies[Latency.LATENESS].maximum
        assert min(times[-1] - times[0] for times in seen.values()) > stays - latest / 2
        await world.emptied()

    world.run(scenario())


def test_whose_turn_has_not_come_at_the_end_is_counted(world: FleetWorld) -> None:
    configuration = world.file.configuration.model_copy(update={"attaching_at_once": 1})

    async def scenario() -> None:
        async with FleetEngine(replace(world.file, configuration=configuration)) as engine:
            engine.start(plan(HOLD, count=12, rate=1000, duration=60))
            await _reached(lambda: engine.latest().begun == 12 and engine.latest().waiting > 0)
            await engine.stop()
            figures = engine.latest()
        assert figures.unserved > 0
        assert figures.unserved + figures.gathered == figures.done == 12
        assert (figures.waiting, figures.succeeded("detach")) == (0, figures.gathered)
        await world.emptied()

    world.run(scenario())


def test_refused_ues_are_counted_by_cause_and_disturb_nobody(world: FleetWorld) -> None:
    """Three UEs that the HSS does not know among five that it does."""

    async def scenario() -> None:
        before = await world.totals()
        first = SUBSCRIBERS - 4
        async with FleetEngine(_beginning_at(world.file, first)) as engine:
            engine.start(plan(HOLD, count=8, duration=1.5))
            await asyncio.wait_for(engine.finished(), 30)
            figures = engine.latest()
        await world.emptied()
        after = difference(await world.totals(), before)
        attaches = figures.outcomes["attach"]
        assert attaches["success"] == after["attached"] == 5 - 1 + 1
        assert attaches["IMSI_UNKNOWN"] + attaches["USER_UNKNOWN"] + attaches["AUTHENTICATION_FAILED"] == 3, attaches
        assert figures.outcomes["detach"] == {"success": 5}
        assert (figures.done, figures.failed) == (8, 0)

    world.run(scenario())


def _beginning_at(file: FleetFile, index: int) -> FleetFile:
    """A fleet whose first UE is the rule's UE of that index (from 1)."""
    section = file.configuration.subscribers
    first = f"{int(section.first_imsi) + index - 1:015}"
    changed = section.model_copy(update={"first_imsi": first})
    return replace(file, configuration=file.configuration.model_copy(update={"subscribers": changed}))


def test_a_defect_of_one_ue_ends_that_ue_alone(world: FleetWorld, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Tunnel):
        """One whose data plane raises what nobody foresaw."""

        def _data_plane_events(self) -> None:
            raise ZeroDivisionError

    async def scenario() -> None:
        async with FleetEngine(world.file) as engine:
            for index in range(3):
                await engine.member(index).attach()
            victim = engine.member(1).pdn
            victim.tunnel.__class__ = Broken
            access = victim.device.ports("wifi-a").nat_traversal
            victim.receive_esp(bytes(40), NetworkPath(access, access))
            assert engine.latest().failed == 1
            await engine.member(0).move()
            score = await engine.member(2).talked(20, 0.3)
            assert score.received > 0
            assert engine.latest().attached == 2
        await world.emptied()

    world.run(scenario())
    assert "ZeroDivisionError" in caplog.text


def test_what_a_process_is_asked_over_its_control_socket(world: FleetWorld, tmp_path: Path) -> None:
    """UEs one by one, with the blocking client that Locust's users have."""

    async def scenario() -> None:
        async with FleetEngine(world.file) as engine:
            control = tmp_path / "fleet.sock"
            async with ControlServer(control, control_methods(engine, "fleet"), engine.recorder):
                client = BlockingControlClient(control)

                async def call(method: str, **params: object) -> dict[str, object]:
                    answer = await asyncio.to_thread(client.call, method, **params)  # type: ignore[arg-type]
                    assert isinstance(answer, dict)
                    return answer  # type: ignore[return-value]

                attached = await call("fleet.ue.attach", index=3)
                assert attached["access"] == "wifi-a"
                moved = await call("fleet.ue.move", index=3)
                assert moved["access"] == "wifi-b"
                assert isinstance(moved["seconds"], float)
                assert 0 < moved["seconds"] < 5
                talked = await call("fleet.ue.talk", index=3, rate=20, seconds=0.2)
                assert isinstance(talked["received"], int)
                assert isinstance(talked["lost"], int)
                assert talked["received"] > 0
                assert talked["received"] + talked["lost"] == talked["sent"]
                with pytest.raises(ControlError, match="there is no access nowhere"):
                    await call("fleet.ue.move", index=3, to="nowhere")
                with pytest.raises(ControlError, match="UE 4 has not attached"):
                    await call("fleet.ue.detach", index=4)
                with pytest.raises(ControlError, match="index: got 'x', expected a whole number"):
                    await call("fleet.ue.detach", index="x")
                with pytest.raises(ControlError, match="the fleet is idle already"):
                    await call("fleet.start", count=1, rate=1, duration=1, schedule=HOLD.model_dump(mode="json"))
                await call("fleet.ue.detach", index=3)
                status = await call("fleet.stop")
                assert status["state"] == "done"
                figures = await call("fleet.figures")
                assert (figures["begun"], figures["done"]) == (1, 1)
        await world.emptied()
        with pytest.raises(BackendError, match="fleet.sock"):
            BlockingControlClient(control).call("node.status")

    world.run(scenario())


def test_who_is_attaching_when_the_fleet_ends_detaches_too(world: FleetWorld) -> None:
    """The gateway may have granted the session already, and would keep it."""

    async def scenario() -> dict[str, int]:
        before = await world.totals()
        async with FleetEngine(world.file) as engine:
            attaching = asyncio.create_task(engine.member(5).attach())

            async def begun() -> bool | None:
                return True if "sessions" in difference(await world.totals(), before) else None

            await poll_until(begun, what="the gateway's session", interval=10, pause=0.0)
            await engine.stop()
            await attaching
        await world.emptied()
        return difference(await world.totals(), before)

    after = world.run(scenario())
    assert (after["attached"], after["detached"]) == (1, 1)


def test_a_fleet_with_more_ues_than_imsis_is_refused_before_it_begins(world: FleetWorld) -> None:
    section = world.file.configuration.subscribers.model_copy(update={"first_imsi": "001019999999998"})
    file = replace(world.file, configuration=world.file.configuration.model_copy(update={"subscribers": section}))

    async def scenario() -> None:
        async with FleetEngine(file) as engine:
            with pytest.raises(ConfigurationError, match="first_imsi: got '001019999999998', expected an IMSI that"):
                engine.start(FleetPlan(count=10**15, rate=100, duration=5, schedule=HOLD))
            assert engine.state is EngineState.IDLE

    world.run(scenario())


def test_ctrl_c_lets_everybody_detach_and_the_summary_says_it_all(world: FleetWorld, tmp_path: Path) -> None:
    """`lab fleet` over two processes, with Prometheus."""
    output = tmp_path / "summary.json"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        metrics = probe.getsockname()[1]
    before = world.run(world.totals())
    words = ["--count", "12", "--rate", "40", "--schedule", "stay", "--processes", "2", "--duration", "60"]
    with (tmp_path / "output").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lab", "fleet", "-c", str(world.plan.fleet), *words]
            + ["--metrics", str(metrics), "--output", str(output)],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )
    try:
        wait_until(
            lambda: 'epdg_fleet_ues{state="attached"} 12.0' in _scraped(metrics),
            what="12 UEs attached",
            timeout=40,
            process=process,
            log=(tmp_path / "output").read_text,
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130, (tmp_path / "output").read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    summary = json.loads(output.read_text())
    assert summary["interrupted"] is True
    assert summary["failures"] == []
    assert summary["figures"]["outcomes"] == {"attach": {"success": 12}, "detach": {"success": 12}}
    assert summary["figures"]["latencies"]["attach"]["count"] == 12
    assert summary["plan"]["processes"] == len(summary["memory_octets"]) == 2
    world.run(world.emptied())
    after = difference(world.run(world.totals()), before)
    assert (after["attached"], after["detached"]) == (12, 12)
    lines = (tmp_path / "output").read_text().splitlines()
    assert any("attached 12" in line for line in lines)


def test_a_plateau_begins_when_all_have_attached(world: FleetWorld, tmp_path: Path) -> None:
    """Without a duration: everybody detaches then, and what was taken of the machine is told by phase."""
    output = tmp_path / "summary.json"
    words = ["--count", "8", "--rate", "40", "--schedule", "stay", "--plateau", "0.5", "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-m", "lab", "fleet", "-c", str(world.plan.fleet), *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(output.read_text())
    assert summary["attached_at_most"] == 8
    assert summary["figures"]["outcomes"] == {"attach": {"success": 8}, "detach": {"success": 8}}
    moments = summary["moments"]
    assert list(moments) == ["began", "gathered", "leaving", "ended"]
    assert moments["leaving"]["at"] - moments["gathered"]["at"] >= 0.5
    for name in ("fleet-1", "gateway"):
        seconds = [moment["processor_seconds"][name] for moment in moments.values()]
        assert seconds == sorted(seconds)
        assert seconds[-1] > seconds[0]
    (said,) = [line for line in summary["remarks"] if "processor time" in line]
    assert said in " ".join(done.stdout.split())
    world.run(world.emptied())


def _scraped(port: int) -> str:
    try:
        return str(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode())
    except OSError:
        return ""
