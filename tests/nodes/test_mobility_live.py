"""The same schedules where time is real: stock processes over relays on loopback, and network namespaces (root)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.mobility.loader import NamedSchedule, load_schedule, parse_schedule
from lab.mobility.loopback import LoopbackStage
from lab.mobility.namespaces import NamespaceStage
from lab.mobility.player import play
from lab.mobility.result import RunResult
from lab.mobility.stage import Stage
from lab.mobility.stage_name import NatName
from lab.mobility.virtual import VirtualStage
from protocols.errors import ConfigurationError
from tests.peers.namespaces import require_nftables_nat
from tests.peers.processes import wait_until

SCHEDULE = """
title: To another access behind a NAT whose update is lost, and back
duration: 5
accesses:
  a: {up: {delay: 10ms}, down: {delay: 10ms}}
  b: {nat: {kind: symmetric}, up: {delay: 20ms}, down: {delay: 20ms}}
events:
  - {at: 0, do: attach, access: a}
  - {at: 1.5, do: lose, message: update-request}
  - at: 1.5
    do: move
    to: b
    expect: {outcome: completed, outage_ms: 700, packets_lost: 35, requests: 1,
             inner_address_unchanged: true, spis_unchanged: true, access: b}
  - {at: 3.5, do: nat-rebind, access: b}
  - at: 3.6
    do: move
    to: a
    make: make-before-break
    expect: {outcome: completed, outage_ms: 500, inner_address_unchanged: true, spis_unchanged: true, access: a}
expect: {moves: 2, attaches: 1, final_access: a, real_time_slack: 500ms}
"""


def played(stage: Stage) -> RunResult:
    named = NamedSchedule(name="live", schedule=parse_schedule(SCHEDULE), file=Path("live.yaml"))
    result, series = play(named, stage, None, lambda name, at, words: None)
    assert series.uplink
    assert series.downlink
    return result


def assert_holds(result: RunResult) -> None:
    assert [check for check in result.checks if not check.passed] == []
    assert result.messages_lost == {"update-request": 1}
    there, back = result.moves
    assert there.retransmissions >= 1
    assert there.nat is True
    assert back.nat is False
    for move in result.moves:
        assert move.check_ms is not None
        assert move.uplink is not None
        assert move.uplink.outage_ms is not None
    # the way through the access with 20 ms each way takes longer, whatever the machine adds
    assert back.update_ms is not None
    assert back.update_ms >= 20.0


def test_a_schedule_on_virtual_time() -> None:
    assert_holds(played(VirtualStage()))


def test_the_same_schedule_on_loopback() -> None:
    assert_holds(played(LoopbackStage()))


@pytest.mark.root
@pytest.mark.parametrize(
    "nat", [pytest.param(NatName.LAB, marks=pytest.mark.long), NatName.NFTABLES], ids=lambda each: each.value
)
def test_the_same_schedule_in_network_namespaces(nat: NatName) -> None:
    if nat is NatName.NFTABLES:
        require_nftables_nat()
    result = played(NamespaceStage(nat=nat))
    assert_holds(result)
    assert result.to_json()["nat"] == nat.value
    assert result.place.endswith(", NAT by nftables") is (nat is NatName.NFTABLES)


def test_an_interrupt_ends_every_process(tmp_path: Path) -> None:
    schedule = tmp_path / "long.yaml"
    schedule.write_text(SCHEDULE.replace("duration: 5", "duration: 300"), encoding="utf-8")
    words = [sys.executable, "-m", "lab", "run", str(schedule), "--stage", "loopback"]
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert running.stdout is not None
        assert "attach a" in running.stdout.readline()
        children = _children(running.pid)
        assert len(children) == 3
        running.send_signal(signal.SIGINT)
        rest, _ = running.communicate(timeout=40)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 130
    assert "Traceback" not in rest
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        os.sched_yield()
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory with a short name, for sockets."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize("stage", ["loopback", pytest.param("namespaces", marks=[pytest.mark.root, pytest.mark.long])])
def test_nothing_of_a_run_that_was_killed_is_left_after_the_next(tmp_path: Path, temporary: Path, stage: str) -> None:
    """Its nodes and its namespaces go with it; its directory, which holds keys, goes with the next run of any stage."""
    schedule = tmp_path / "long.yaml"
    schedule.write_text(SCHEDULE.replace("duration: 5", "duration: 300"), encoding="utf-8")
    environment, links = {**os.environ, "TMPDIR": str(temporary)}, socket.if_nameindex()
    words = [sys.executable, "-m", "lab", "run", str(schedule), "--stage", stage]
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        assert running.stdout is not None
        assert "attach a" in running.stdout.readline()
        children, namespaces = _children(running.pid), _namespaces(running.pid)
        assert len(children) >= 3
        assert bool(namespaces) is (stage == "namespaces")
    finally:
        running.kill()
        running.communicate()
    (left,) = temporary.iterdir()
    assert list(left.glob("*.yaml"))
    wait_until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in children) and not namespaces & _namespaces("[0-9]*"),
        what="the end of what a killed run has started",
        timeout=30,
    )
    assert socket.if_nameindex() == links
    words = [sys.executable, "-m", "lab", "run", "lost-update", "--stage", "virtual"]
    subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert list(temporary.iterdir()) == []


def _namespaces(process: int | str) -> set[str]:
    """The network namespaces that a process has open or is in, other than ours."""
    found = set()
    for path in (*Path("/proc").glob(f"{process}/fd/*"), *Path("/proc").glob(f"{process}/ns/net")):
        with contextlib.suppress(OSError):
            found.add(str(path.readlink()))
    return {name for name in found if name.startswith("net:")} - {str(Path("/proc/self/ns/net").readlink())}


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in text.split()]


@pytest.mark.parametrize(
    "stage",
    [VirtualStage, LoopbackStage, pytest.param(NamespaceStage, marks=pytest.mark.root)],
    ids=lambda one: one.name,
)
def test_a_wrong_key_of_a_node_is_told_of_the_schedule_it_stands_in(stage: type[Stage], tmp_path: Path) -> None:
    """What the nodes were told lies in a directory that is gone by then."""
    file = tmp_path / "mine.yaml"
    file.write_text(SCHEDULE + "ue:\n  management: {automatik: true}\n", encoding="utf-8")
    line = len(SCHEDULE.splitlines()) + 2
    with pytest.raises(ConfigurationError) as caught:
        play(load_schedule(str(file)), stage(), None, lambda schedule, at, words: None)
    assert str(caught.value).startswith(
        f"{file}:{line}: ue.management.automatik: got an unknown key, expected no such key"
    )
