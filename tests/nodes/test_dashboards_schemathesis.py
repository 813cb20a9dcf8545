"""schemathesis finds nothing: requests made of the OpenAPI description, right ones and wrong ones, to real servers.

Behind the dashboard are a real ``aaa serve``, a real ``lab serve`` and the control servers of a gateway and a UE.
Left out: the event stream, which never ends, and the signing out of nobody.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
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


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the dashboard is."""
    directory = tmp_path_factory.mktemp("servers")
    (directory / "aaa").mkdir()
    (directory / "lab").mkdir()
    node = AaaProcess(directory / "aaa")
    node.provision(laboratory_subscriber(1))
    nodes = f"  - {{ name: core, kind: aaa, control: {node.control} }}"
    laboratory = LabProcess(directory / "lab", "queue: 1\n")
    nodes += f"\n  - {{ name: lab, kind: lab, control: {laboratory.control} }}"
    with node, laboratory, site(directory, f"audit_log: {directory / 'audit.jsonl'}", nodes=nodes) as running:
        running.do(running.world.attach, 1, identifier=SESSION)
        yield running.url


@pytest.mark.parametrize("authorised", [False, True], ids=["nobody", "operator"])
def test_schemathesis_finds_nothing(
    address: str, tmp_path: Path, authorised: bool, request: pytest.FixtureRequest
) -> None:
    interval = LONG_INTERVAL if request.config.getoption("--long") else RUN_INTERVAL
    words = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION)]
    words += ["run", f"{address}/openapi.json", "--exclude-path", f"{API}/events", "--seed", "1"]
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
