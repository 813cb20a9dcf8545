"""What a node imports before it serves."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

IMPORTS = """
import json, sys
sys.argv = ["{node}", "--help"]
from {node}.__main__ import main
try:
    main()
except SystemExit:
    pass
import {serving}
sys.stderr.write(json.dumps([name for name in {unwanted} if name in sys.modules]))
"""
PICTURES = ("matplotlib", "numpy", "PIL")
LABORATORY = ("locust", "scapy", "hypothesis")


@pytest.mark.parametrize(
    ("node", "serving", "unwanted"),
    [
        ("epdg", "epdg.runtime", ("diameter", "sqlalchemy", "fastapi", "protocols.trace.drawing")),
        ("aaa", "aaa.runtime", ("diameter", "alembic", "fastapi", "protocols.ikev2")),
        ("ue", "ue.runtime", ("diameter", "protocols.diameter", "sqlalchemy", "fastapi")),
        (
            "dashboards",
            "dashboards.app",
            ("diameter", "protocols.diameter", "protocols.esp", "protocols.ikev2.message"),
        ),
    ],
)
def test_a_node_starts_without_what_it_does_not_serve_with(node: str, serving: str, unwanted: tuple[str, ...]) -> None:
    program = IMPORTS.format(node=node, serving=serving, unwanted=[*unwanted, *PICTURES, *LABORATORY])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr) == []
