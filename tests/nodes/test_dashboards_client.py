"""The client that a generator makes of ``/openapi.json``: the lines of docs/dashboard.md against a running server."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from tests.nodes.dashboards_world import TOKEN, Site, site

DOCUMENT = Path(__file__).parents[2] / "docs" / "dashboard.md"
IMSI = "001010000000001"


def test_operations_have_names_of_their_own(tmp_path: Path) -> None:
    """A client calls them by these."""
    with site(tmp_path) as running:
        paths = httpx.get(f"{running.url}/openapi.json", timeout=10).json()["paths"]
    names = Counter(operation["operationId"] for path in paths.values() for operation in path.values())
    assert {name: times for name, times in names.items() if times > 1} == {}
    assert all(re.fullmatch("[a-z][a-z_]+", name) for name in names)


@pytest.mark.skipif(find_spec("openapi_python_client") is None, reason="openapi-python-client is not installed")
def test_the_lines_of_the_document_run(tmp_path: Path) -> None:
    (lines,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) == 10
    with site(tmp_path) as running:
        session = running.do(running.world.attach, 1)
        running.do(running.world.attach, 2)
        generate(running, tmp_path)
        lines = lines.replace(IMSI, session["imsi"]).replace("http://127.0.0.1:8080", running.url)
        done = run(tmp_path, "-c", lines.replace("an operator's token", TOKEN))
        assert done.returncode == 0, done.stderr
        shown = done.stdout.splitlines()
        assert shown[0] == f"{session['id']} established {session['inner_addresses']}"
        assert shown[-1] == "202"
        assert any(line.startswith("UE -> ePDG: ") for line in shown)
        assert any(line.startswith("epdg: ") for line in shown)
        assert sum(line == "202" for line in shown) == 1
        question = "print((problem := list_sessions.sync(client=client)).status, type(problem).__name__)"
        stranger = run(tmp_path, "-c", f"{lines.partition('for session')[0]}{question}")
        assert stranger.stdout == "401 Problem\n", stranger.stderr


def generate(running: Site, directory: Path) -> None:
    """As the document says, but for pipx."""
    (command,) = re.findall(r"pipx run openapi-python-client (.*)\n", DOCUMENT.read_text(encoding="utf-8"))
    words = command.replace("http://127.0.0.1:8080", running.url).split()
    done = run(directory, "-m", "openapi_python_client", *words)
    assert done.returncode == 0, done.stdout + done.stderr


def run(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=directory,
    )
