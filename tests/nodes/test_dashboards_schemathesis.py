"""schemathesis finds nothing: requests made of the OpenAPI description, right ones and wrong ones, to real servers.

Behind the dashboard are a real ``aaa serve``, a real ``lab serve`` and the control servers of a gateway and a UE.
Left out: the event stream, which never ends, and the signing out of nobody.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from aaa.subscribers.laboratory import laboratory_subscriber
from tests.nodes.dashboards_world import TOKEN, site
from tests.nodes.test_dashboards_api import API
from tests.peers.aaa_node import AaaProcess
from tests.peers.lab_node import LabProcess

pytestmark = pytest.mark.skipif(find_spec("schemathesis") is None, reason="schemathesis is of the test extra")

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
SESSION = "18f7e6d5c4b3a291"  # of the description's examples
RUN_INTERVAL, LONG_INTERVAL = 15, 75  # seconds; what has been tried then has been tried: with --long, everything


@pytest.mark.parametrize("authorised", [True, False], ids=["operator", "nobody"])
def test_schemathesis_finds_nothing(tmp_path: Path, authorised: bool, request: pytest.FixtureRequest) -> None:
    interval = LONG_INTERVAL if request.config.getoption("--long") else RUN_INTERVAL
    (tmp_path / "aaa").mkdir()
    (tmp_path / "lab").mkdir()
    node = AaaProcess(tmp_path / "aaa")
    node.provision(laboratory_subscriber(1))
    nodes = f"  - {{ name: core, kind: aaa, control: {node.control} }}"
    laboratory = LabProcess(tmp_path / "lab", "queue: 1\n")
    nodes += f"\n  - {{ name: lab, kind: lab, control: {laboratory.control} }}"
    with node, laboratory, site(tmp_path, f"audit_log: {tmp_path / 'audit.jsonl'}", nodes=nodes) as running:
        running.do(running.world.attach, 1, identifier=SESSION)
        words = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION)]
        words += ["run", f"{running.url}/openapi.json", "--exclude-path", f"{API}/events", "--seed", "1"]
        words += ["--phases", "examples,coverage,fuzzing", "--max-examples", "3", "--generation-database", "none"]
        words += ["--max-time", str(interval if authorised else interval // 5), "--request-timeout", "10"]
        words += ["--workers", "2", "--no-color", "--no-shrink", "--continue-on-failure", "--warnings", "off"]
        if authorised:
            words += ["--header", f"Authorization: Bearer {TOKEN}"]
        found = subprocess.run(
            words, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=interval + 85, check=False
        )
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr
    assert " passed" in found.stdout.partition("Test cases:")[2]
