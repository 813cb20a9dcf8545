"""A gateway that hangs: nobody waits for it, and those that answer are shown."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx

from tests.nodes.dashboards_nodes import four_nodes
from tests.peers.dashboards_node import API
from tests.peers.processes import wait_until

GATEWAY, SECOND_GATEWAY, PLACE = "127.0.49.1", "127.0.49.2", "127.0.49.21"
CALL_TIMEOUT = 2.0
AT_ONCE = CALL_TIMEOUT / 2


def asked(client: httpx.Client, path: str) -> tuple[int, Any, float]:
    """Status, answer and how long it took."""
    begun = time.monotonic()
    answer = client.get(f"{API}{path}")
    return answer.status_code, answer.json(), time.monotonic() - begun


def reachable(client: httpx.Client, name: str) -> bool:
    return next(node["reachable"] for node in client.get(f"{API}/nodes").json()["nodes"] if node["name"] == name)


def test_nobody_waits_for_a_gateway_that_hangs(tmp_path: Path) -> None:
    extra = f"call_timeout: {CALL_TIMEOUT}"
    with four_nodes(tmp_path, gateway=GATEWAY, place=PLACE, second_gateway=SECOND_GATEWAY, extra=extra) as nodes:
        client, second = nodes.client, nodes.second
        nodes.ue.call("ue.attach")
        (session,) = asked(client, "/sessions?state=established")[1]["sessions"]
        assert second is not None
        assert second.process is not None
        os.kill(second.process.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: not reachable(client, "gw-2"), what="that it hangs", timeout=4 * CALL_TIMEOUT)
            for path in ("/sessions", "/sessions?sort=-created") * 2:
                status, page, seconds = asked(client, path)
                assert (status, page["unreachable"]) == (200, ["gw-2"])
                assert session["id"] in [each["id"] for each in page["sessions"]]
                assert seconds < AT_ONCE
            status, problem, seconds = asked(client, "/sessions?gateway=gw-2")
            assert (status, problem["node"]) == (503, "gw-2")
            assert "it does not answer since " in problem["detail"]
            assert seconds < AT_ONCE
        finally:
            os.kill(second.process.pid, signal.SIGCONT)
        wait_until(lambda: reachable(client, "gw-2"), what="that it answers again", timeout=4 * CALL_TIMEOUT)
        assert asked(client, "/sessions")[1]["unreachable"] == []
