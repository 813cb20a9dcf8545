"""Runs of the laboratory in the dashboard: results that ``lab run --output`` has written, over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.nodes.dashboards_world import site
from tests.nodes.test_dashboards_api import API, assert_problem

RUN = "a-b-a-outstanding-virtual-1"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the laboratory leaves, and files that are none of its."""
    directory = tmp_path_factory.mktemp("results")
    words = ["lab", "run", "a-b-a-outstanding", "--seed", "1", "--output", str(directory)]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (directory / "broken.json").write_text("{")
    (directory / "other.json").write_text(json.dumps({"what": "else"}))
    (directory / "wrong.json").write_text(json.dumps({"schedule": "x", "moves": 5}))
    return directory


@pytest.fixture(scope="module")
def client(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        site(tmp_path_factory.mktemp("site"), f"results: {results}") as running,
        httpx.Client(base_url=running.url + API, timeout=10) as connected,
    ):
        yield connected


def test_runs_are_listed_with_their_figures(client: httpx.Client) -> None:
    listed = client.get("/runs").json()
    assert listed["unreadable"] == 3
    (run,) = listed["runs"]
    assert (run["name"], run["schedule"], run["stage"], run["passed"]) == (RUN, "a-b-a-outstanding", "virtual", True)
    assert run["uplink"]["sent"] > 0
    assert run["checks"]


def test_one_run_has_its_moves_and_its_picture(client: httpx.Client) -> None:
    run = client.get(f"/runs/{RUN}").json()
    assert run["timeline"] is True
    assert {move["outcome"] for move in run["moves"]} >= {"completed"}
    picture = client.get(f"/runs/{RUN}/timeline.svg")
    assert picture.headers["content-type"].startswith("image/svg+xml")
    assert "default-src 'none'" in picture.headers["content-security-policy"]
    assert b"<svg" in picture.content


@pytest.mark.parametrize("name", ["nothing", "broken", "other", "wrong", "..%2Fsecret", ".hidden"])
def test_what_is_no_run_is_not_found(client: httpx.Client, name: str) -> None:
    assert_problem(client.get(f"/runs/{name}"), 404)


def test_files_that_are_hostile_hide_nothing_and_hang_nobody(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    check = {"subject": "leaks", "expected": "none", "found": "none"}
    good = {"schedule": "x", "checks": [{**check, "passed": True}]}
    hostile = {
        "nan": '{"schedule": "x", "duration_ms": NaN, "uplink": {"outage_ms": 1e999}}',
        "truthy": json.dumps({"schedule": "x", "checks": [{**check, "passed": "false"}]}),
        "unchecked": json.dumps({"schedule": "x", "checks": [], "passed": True}),
        "surrogate": '{"schedule": "x", "title": "\\ud800"}',
        "nested": "[" * 200_000,
        "number": '{"schedule": "x", "seed": ' + "9" * 5000 + "}",
        "line\n": json.dumps(good),
        "<b>": json.dumps(good),
    }
    for name, text in hostile.items():
        (results / f"{name}.json").write_text(text)
    (results / "octets.json").write_bytes(b'{"schedule": "\xff"}')
    (results / "directory.json").mkdir()
    (results / "nowhere.json").symlink_to(tmp_path / "not-there")
    os.mkfifo(results / "pipe.json")
    (results / "good.json").write_text(json.dumps(good))
    with (
        site(tmp_path, f"results: {results}") as running,
        httpx.Client(base_url=running.url + API, timeout=10) as asking,
    ):
        answer = asking.get("/runs")
        assert answer.status_code == 200
        passed = {run["name"]: run["passed"] for run in answer.json()["runs"]}
        assert passed == {"good": True, "nan": False, "truthy": False, "unchecked": False}
        assert answer.json()["unreadable"] == 6
        for name in ("surrogate", "nested", "number", "octets", "directory", "nowhere", "pipe"):
            assert_problem(asking.get(f"/runs/{name}"), 404)


def test_without_a_directory_there_are_no_runs(tmp_path: Path) -> None:
    with site(tmp_path, f"results: {tmp_path / 'later'}") as running:
        assert httpx.get(running.url + API + "/runs").json() == {"runs": [], "unreadable": 0}
