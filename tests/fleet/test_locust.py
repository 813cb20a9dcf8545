"""Locust's distributed mode: a master and two workers on this machine, each worker with a fleet process of its own."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from lab.fleet.nodes import FIRST_IMSI
from lab.processes import poll_until
from tests.fleet.conftest import FleetWorld
from tests.peers.aaa_node import free_port

if find_spec("locust") is None:  # not imported: it would patch the sockets and threads of this very process
    pytest.skip("locust is not installed", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
USERS, RANGE, MOVES = 6, 20, 3
TIMEOUT = 60.0


def test_users_of_two_workers_are_ues_of_two_fleet_processes(world: FleetWorld, tmp_path: Path) -> None:
    before = world.run(world.totals())
    port = str(free_port())
    common = ["--fleet-range", str(RANGE)]
    lead = ["--master", "--headless", "-u", str(USERS), "-r", "6", "--expect-workers", "2", "--exit-code-on-error", "0"]
    lead += [
        "--master-bind-host",
        "127.0.0.1",
        "--master-bind-port",
        port,
        "--stop-timeout",
        "30",
    ]  # a bound: nobody who has ended is waited for
    lead += ["--csv", str(tmp_path / "figures"), "--json-file", str(tmp_path / "figures")]
    follow = ["--worker", "--master-host", "127.0.0.1", "--master-port", port, "--fleet-config", str(world.plan.fleet)]
    processes = {
        name: _locust(tmp_path / f"{name}.log", [*words, *common])
        for name, words in (("master", lead), ("worker-1", follow), ("worker-2", follow))
    }
    try:
        world.run(_flown(world, before))
        processes["master"].send_signal(signal.SIGTERM)
        statuses = {name: process.wait(TIMEOUT) for name, process in processes.items()}
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
    logs = {name: (tmp_path / f"{name}.log").read_text() for name in processes}
    assert set(statuses.values()) == {0}, logs
    with (tmp_path / "figures_stats.csv").open(newline="") as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    assert int(rows["attach"]["Request Count"]) >= USERS
    assert int(rows["attach"]["Failure Count"]) == 0, logs
    assert float(rows["attach"]["Min Response Time"]) > 0
    in_json = {entry["name"]: entry["num_requests"] for entry in json.loads((tmp_path / "figures.json").read_text())}
    assert in_json["attach"] == int(rows["attach"]["Request Count"])
    world.run(world.emptied())
    after = world.run(world.totals())
    attached = after["attached"] - before.get("attached", 0)
    assert attached == in_json["attach"]
    unchecked, failed = (
        after.get(name, 0) - before.get(name, 0) for name in ("address-update-unchecked", "address-update-failed")
    )
    assert after["moved"] - before.get("moved", 0) + unchecked - failed == in_json.get("move", 0)
    assert after["detached"] - before.get("detached", 0) == attached
    gateway = (world.plan.directory / "epdg.log").read_text()
    first = int(FIRST_IMSI.digits)
    for index in (0, RANGE):  # the first UE of each worker
        assert f"{first + index:015} is attached" in gateway


def test_a_worker_whose_fleet_process_is_gone_gives_up_with_one_line(world: FleetWorld, tmp_path: Path) -> None:
    log = tmp_path / "locust.log"
    words = ["--headless", "-u", "3", "-r", "3", "--stop-timeout", "5", "--fleet-config", str(world.plan.fleet)]
    process = _locust(log, [*words, "--fleet-range", str(RANGE)])
    try:
        before = world.run(world.totals()).get("attached", 0)

        async def attached() -> bool | None:
            return True if (await world.totals()).get("attached", 0) >= before + 3 else None

        world.run(poll_until(attached, what="UEs of Locust's users", interval=TIMEOUT))
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
        os.kill(int(child), signal.SIGTERM)
        assert process.wait(TIMEOUT) == 1, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    (line,) = [line for line in log.read_text().splitlines() if "Given up" in line]
    assert "Given up: the fleet process has ended with status" in line
    world.run(world.emptied())


def test_users_that_are_never_answered_give_up(tmp_path: Path) -> None:
    log = tmp_path / "locust.log"
    process = _locust(log, ["--headless", "-u", "1", "-r", "1", "--fleet-control", str(tmp_path / "nobody.sock")])
    try:
        assert process.wait(TIMEOUT) == 1, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    (line,) = [line for line in log.read_text().splitlines() if "Given up" in line]
    assert "Given up: no answer in 5 tries: control socket" in line


async def _flown(world: FleetWorld, before: dict[str, int]) -> None:
    """Everybody has attached, and some have moved."""

    async def look() -> bool | None:
        now = await world.totals()
        attached, moved = (now.get(name, 0) - before.get(name, 0) for name in ("attached", "moved"))
        return True if attached >= USERS and moved >= MOVES else None

    await poll_until(look, what="UEs of Locust's users", interval=TIMEOUT, pause=0.1)


def _locust(log: Path, words: list[str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "lab", "fleet", "locust", *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
        )
