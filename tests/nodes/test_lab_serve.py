"""``lab serve`` as a process: schedules played for whoever asks, stopped, refused; a run that crashes harms nobody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab.__main__ import application
from lab.mobility.loader import shipped
from lab.serving.config import LaboratoryConfiguration
from protocols.io.configuration import load
from protocols.io.control import ControlError
from protocols.trace.records import JsonValue
from tests.harness.material import ROOT
from tests.nodes.test_ue_node import records_of
from tests.peers.lab_node import LabProcess, session_of
from tests.peers.processes import wait_until

SHORT = """\
title: There and back
duration: 4
accesses:
  a: {up: {delay: 8ms}, down: {delay: 8ms}}
  b: {up: {delay: 8ms}, down: {delay: 8ms}}
events:
  - {at: 0, do: attach}
  - {at: 1, do: move, to: b}
  - {at: 2, do: move, to: a, make: make-before-break}
expect: {moves: 2}
"""
REAL_TIME = "walk-home"  # sixteen seconds on loopback


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabProcess]:
    directory = tmp_path_factory.mktemp("lab")
    own = directory / "own"
    own.mkdir()
    (own / "short.yaml").write_text(SHORT)
    (own / "hopeless.yaml").write_text(SHORT.replace("moves: 2", "moves: 7"))
    (own / "broken.yaml").write_text(SHORT.replace("to: b", "to: nowhere"))
    (own / "Not A Name.yaml").write_text(SHORT)
    with LabProcess(directory, "schedules: own\nqueue: 2\nkept: 3\n") as node:
        yield node


def items(answer: dict[str, JsonValue], name: str) -> list[dict[str, JsonValue]]:
    found = answer[name]
    assert isinstance(found, list)
    return [each for each in found if isinstance(each, dict)]


def refusal(lab: LabProcess, method: str, **params: JsonValue) -> tuple[str, str]:
    with pytest.raises(ControlError) as caught:
        lab.call(method, **params)
    return caught.value.code, caught.value.message


def begun(lab: LabProcess, identifier: str) -> None:
    """Until something has happened in a run."""
    wait_until(
        lambda: bool(items(lab.call("lab.get", id=identifier), "steps")), what="a step", timeout=60, log=lambda: lab.log
    )


def nothing_left(leader: int, directory: Path) -> None:
    """Of a run: no process, no temporary file."""
    assert session_of(leader) == []
    assert not directory.exists()


def temporary_directory(leader: int) -> Path:
    """Where a run's files lie while it is played."""
    environment = Path(f"/proc/{leader}/environ").read_bytes().split(b"\0")
    return Path(next(each for each in environment if each.startswith(b"TMPDIR=")).partition(b"=")[2].decode())


def test_schedules_are_told_with_what_happens_and_where(lab: LabProcess) -> None:
    answer = lab.call("lab.schedules")
    schedules = {str(each["name"]): each for each in items(answer, "schedules")}
    assert set(schedules) == {*shipped(), "short", "hopeless"}
    short = schedules["short"]
    assert (short["title"], short["duration"], short["stages"]) == (
        "There and back",
        4.0,
        ["virtual", "loopback", "namespaces"],
    )
    assert short["accesses"] == [{"name": name, "family": "ipv4", "nat": "none"} for name in ("a", "b")]
    assert [(each["at"], each["text"]) for each in items(short, "events")][1:] == [(1.0, "move b"), (2.0, "move a")]
    assert schedules["suspend-weekend"]["stages"] == ["virtual"]
    (broken,) = items(answer, "unreadable")
    assert broken["name"] == "broken"
    assert "an access of this schedule" in str(broken["why"])
    assert {str(each["name"]): each["why_not"] for each in items(answer, "stages")}["loopback"] is None


def test_a_schedule_is_played_and_its_result_stands_where_the_dashboard_reads(lab: LabProcess) -> None:
    identifier = lab.run("short", seed=5)
    run = lab.over(identifier)
    name = f"short-virtual-5-{identifier}"
    assert (run["state"], run["passed"], run["result"], run["progress"]) == ("done", True, name, 1.0)
    steps = items(run, "steps")
    told = [(each["node"], each["name"]) for each in steps]
    assert ("schedule", "move") in told
    assert told.index(("ue", "attached")) < told.index(("ue", "moved"))
    assert told.count(("epdg", "moved")) == 2
    assert json.loads((lab.results / f"{name}.json").read_text())["passed"] is True
    assert (lab.results / f"{name}.svg").read_text().startswith("<?xml")
    assert [path for path in lab.results.iterdir() if path.name.startswith(".")] == []
    told_of = [
        str(record.body["name"])
        for record in records_of(lab.control)
        if isinstance(data := record.body["data"], dict) and data["id"] == identifier
    ]
    assert told_of == ["run-queued", "run-started", *["run-step"] * len(steps), "run-done"]


def test_a_run_whose_expectations_do_not_hold_says_which(lab: LabProcess) -> None:
    run = lab.over(lab.run("hopeless"))
    assert (run["state"], run["passed"]) == ("done", False)
    (failed,) = run["failed_checks"] if isinstance(run["failed_checks"], list) else []
    assert "7" in str(failed)


def test_one_run_at_a_time_a_bounded_queue_and_an_end_in_the_midst(lab: LabProcess) -> None:
    """Real sockets and processes: the run that is stopped leaves none of them, those that wait come to their turn."""
    playing = lab.run(REAL_TIME, "loopback")
    begun(lab, playing)
    leader, waiting, next_one = lab.player(), lab.run("short"), lab.run("short")
    directory = temporary_directory(leader)
    assert len(session_of(leader)) == 4  # itself, UE, gateway and AAA server
    assert refusal(lab, "lab.run", schedule="short") == ("not-now", "the queue is full: 2 runs wait")
    status = lab.call("node.status")
    assert (status["state"], status["run"], status["waiting"]) == ("running", playing, 2)
    assert lab.call("lab.stop", id=waiting)["state"] == "stopped"
    assert lab.call("lab.stop", id=playing)["stopping"] is True
    stopped = lab.over(playing)
    assert (stopped["state"], stopped["result"], stopped["error"]) == ("stopped", None, None)
    nothing_left(leader, directory)
    assert not list(lab.results.glob(f"*{playing}*"))
    assert lab.over(next_one)["state"] == "done"
    assert refusal(lab, "lab.stop", id=playing)[0] == "not-now"


def test_a_run_that_crashes_has_failed_and_the_node_goes_on(lab: LabProcess) -> None:
    crashing = lab.run(REAL_TIME, "loopback")
    begun(lab, crashing)
    leader = lab.player()
    directory = temporary_directory(leader)
    os.kill(leader, signal.SIGKILL)
    run = lab.over(crashing)
    assert (run["state"], run["error"]) == ("failed", "the run's process ended with status -9")
    nothing_left(leader, directory)
    assert lab.call("node.status")["state"] == "idle"
    runs = items(lab.call("lab.runs"), "runs")
    assert (len(runs), runs[0]["id"]) == (3, crashing)  # no more are remembered: the first ones are forgotten


def test_what_cannot_be_played_is_refused_in_one_sentence(lab: LabProcess) -> None:
    code, words = refusal(lab, "lab.run", schedule="walk-hme")
    assert (code, words) == ("not-found", "there is no schedule walk-hme; lab.schedules names those that there are")
    assert refusal(lab, "lab.run", schedule="../lab")[0] == "not-found"
    code, words = refusal(lab, "lab.run", schedule="suspend-weekend", stage="loopback")
    assert (code, words) == ("not-possible", "suspend-weekend is not played on loopback; its stages: virtual")
    assert refusal(lab, "lab.run", schedule="broken")[0] == "not-possible"
    for params in ({"schedule": "short", "stage": "moon"}, {"schedule": "short", "seed": -1}, {"stage": "virtual"}):
        assert refusal(lab, "lab.run", **params)[0] == "bad-params"  # type: ignore[arg-type]
    for method in ("lab.get", "lab.stop"):
        assert refusal(lab, method, id="0123456789ab") == ("not-found", "there is no run 0123456789ab")


def test_namespaces_are_refused_to_who_is_not_root() -> None:
    """A process without root asks the laboratory's catalogue."""
    program = """
import os, sys
from lab.mobility.stage_name import StageName
from lab.serving.catalogue import Catalogue
from protocols.io.control import ControlError
if os.geteuid() == 0:
    os.seteuid(65534)
catalogue = Catalogue(None)
print({each["name"]: each["why_not"] for each in catalogue.view()["stages"]}["namespaces"])
try:
    catalogue.find("walk-home", StageName.NAMESPACES)
except ControlError as error:
    print(error.code, error.message)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    why, refused = done.stdout.splitlines()
    assert why == "network namespaces need root, which this laboratory does not run as; the loopback stage needs none"
    assert refused == f"not-possible nothing is played on namespaces here: {why}"


def test_the_node_ends_with_the_run_that_it_plays(tmp_path: Path) -> None:
    with LabProcess(tmp_path) as node:
        identifier = node.run("suspend-weekend")
        begun(node, identifier)
        leader = node.player()
        directory = temporary_directory(leader)
        assert node.process is not None
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(60) == 0
    assert not node.control.exists()
    nothing_left(leader, directory)
    assert node.log == ""


def test_the_example_has_every_key() -> None:
    example = load(ROOT / "lab" / "serving" / "example.yaml", LaboratoryConfiguration)
    assert example.results == ROOT / "lab" / "serving" / "results"
    text = (ROOT / "lab" / "serving" / "example.yaml").read_text()
    for key in LaboratoryConfiguration.model_fields:
        assert f"\n{key}:" in text


def test_a_wrong_configuration_is_one_line_and_status_2(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text("results: results\ncontrol: lab.sock\nqueue: 0\n")
    refused = CliRunner().invoke(application, ["serve", "-c", str(path)])
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"{path}:3: queue: ")
    assert len(refused.stderr.splitlines()) == 1
