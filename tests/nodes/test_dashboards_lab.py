"""The laboratory over the dashboard's REST interface and event stream: a real ``lab serve`` behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.nodes.dashboards_world import site
from tests.nodes.test_dashboards_api import API, BEARER, assert_problem, epoch, events
from tests.peers.lab_node import LabProcess
from tests.peers.processes import wait_until

SCHEDULE = {"schedule": "a-b-a-outstanding", "seed": 4}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabProcess]:
    with LabProcess(tmp_path_factory.mktemp("lab"), "queue: 1\n") as node:
        yield node


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def client(lab: LabProcess, directory: Path) -> Iterator[httpx.Client]:
    nodes = f"  - {{ name: bench, kind: lab, control: {lab.control} }}"
    extra = f"results: {lab.results}\naudit_log: {directory / 'audit.jsonl'}"
    with (
        site(directory, extra, nodes=nodes) as running,
        httpx.Client(base_url=running.url, timeout=20, headers=BEARER) as connected,
    ):
        yield connected


def test_a_schedule_is_started_followed_and_its_figures_read(client: httpx.Client, directory: Path) -> None:
    (known,) = (
        each for each in client.get(f"{API}/lab/schedules").json()["schedules"] if each["name"] == SCHEDULE["schedule"]
    )
    assert "virtual" in known["stages"]
    stream = events(client, f"{epoch(client)}-0", events="lab-run")
    assert next(stream)[1] == "hello"
    started = client.post(f"{API}/lab/runs", json=SCHEDULE)
    assert started.status_code == 202
    run = started.json()
    assert (run["state"], run["stage"], run["seed"], run["passed"]) == ("queued", "virtual", 4, None)
    told = []
    for _, name, data in stream:
        assert (name, data["id"], data["node"]) == ("lab-run", run["id"], "bench")
        told.append(data)
        if data["state"] not in ("queued", "running"):
            break
    assert told[-1]["passed"] is True
    assert [each["progress"] for each in told] == sorted(each["progress"] for each in told)
    steps = [each["step"] for each in told if each["step"]]
    assert {"schedule", "ue", "epdg"} == {step["node"] for step in steps}
    shown = client.get(f"{API}/lab/runs/{run['id']}").json()
    assert (shown["state"], shown["steps"]) == ("done", steps)
    figures = client.get(f"{API}/runs/{shown['result']}").json()
    assert (figures["schedule"], figures["seed"], figures["passed"]) == ("a-b-a-outstanding", 4, True)
    assert client.get(f"{API}/runs/{shown['result']}/timeline.svg").status_code == 200
    last = json.loads((directory / "audit.jsonl").read_text().splitlines()[-1])
    assert (last["method"], last["path"], last["node"], last["status"]) == ("POST", f"{API}/lab/runs", "bench", 202)


def test_runs_are_listed_and_stopped(client: httpx.Client) -> None:
    playing = client.post(f"{API}/lab/runs", json={"schedule": "suspend-weekend"}).json()["id"]
    wait_until(lambda: client.get(f"{API}/lab/runs/{playing}").json()["state"] == "running", what="the run", timeout=30)
    waiting = client.post(f"{API}/lab/runs", json=SCHEDULE).json()["id"]
    full = assert_problem(client.post(f"{API}/lab/runs", json=SCHEDULE), 409)
    assert full["detail"] == "bench: the queue is full: 1 runs wait"
    assert [each["id"] for each in client.get(f"{API}/lab/runs").json()["runs"]][:2] == [waiting, playing]
    assert client.delete(f"{API}/lab/runs/{waiting}").json()["state"] == "stopped"
    stopped = client.delete(f"{API}/lab/runs/{playing}")
    assert (stopped.status_code, stopped.json()["stopping"]) == (202, True)
    wait_until(lambda: client.get(f"{API}/lab/runs/{playing}").json()["state"] == "stopped", what="its end", timeout=60)
    assert_problem(client.delete(f"{API}/lab/runs/{playing}"), 409)


def test_refusals_are_problems_in_the_laboratorys_words(client: httpx.Client) -> None:
    runs = f"{API}/lab/runs"
    assert "no schedule walk-hme" in assert_problem(client.post(runs, json={"schedule": "walk-hme"}), 404)["detail"]
    elsewhere = {"schedule": "suspend-weekend", "stage": "loopback"}
    assert "its stages: virtual" in assert_problem(client.post(runs, json=elsewhere), 409)["detail"]
    for wrong in ({"schedule": "../../etc/passwd"}, {**SCHEDULE, "stage": "moon"}, {**SCHEDULE, "seed": -1}, {}):
        assert_problem(client.post(runs, json=wrong), 422)
    assert_problem(client.get(f"{runs}/0123456789ab"), 404)
    assert_problem(client.get(f"{runs}/0123456789ab", params={"node": "moon"}), 404)
    assert_problem(client.post(runs, json=SCHEDULE, headers={"Authorization": "Bearer nobody-knows-this-one"}), 401)


def test_without_a_laboratory_there_is_one_sentence(tmp_path: Path) -> None:
    with site(tmp_path) as running, httpx.Client(base_url=running.url + API, timeout=10) as connected:
        missing = assert_problem(connected.get("/lab/schedules"), 404)
        assert missing["detail"] == "There is no laboratory; configured under nodes: none."
