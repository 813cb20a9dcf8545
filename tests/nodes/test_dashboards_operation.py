"""The dashboard's process as its operator runs it: readers of events that take nothing, and its log."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from dashboards.deps import Services
from tests.nodes.dashboards_world import site
from tests.nodes.test_dashboards_parts import NODES
from tests.peers.processes import wait_until

EVENT_OCTETS = 32 * 1024
EVENTS = 1500  # 48 MB: more than the buffers of both ends of a connection hold


def test_a_reader_that_takes_nothing_is_let_go_and_finds_out_why(tmp_path: Path) -> None:
    with site(tmp_path, f"reader_timeout: 0.2\nevent_ring: {2 * EVENTS}") as running, socket.socket() as reader:
        services = running._server.config.app.state.services  # type: ignore[union-attr]
        assert isinstance(services, Services)
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.settimeout(20)
        reader.connect(("127.0.0.1", running.port))
        reader.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        wait_until(lambda: services.hub.readers == 1, what="the reader", timeout=10)
        for number in range(EVENTS):
            running.do(services.hub.publish, "record", {"n": number, "fill": "x" * EVENT_OCTETS})
        wait_until(lambda: services.hub.dropped == 1, what="its being let go", timeout=20)
        running.do(services.hub.publish, "record", {"n": "later"})  # nobody waits for that reader
        taken = b""
        while b"event: dropped" not in taken:
            octets = reader.recv(1 << 20)
            assert octets, "the stream ended without a word"
            taken = taken[-1000:] + octets
        while octets := reader.recv(1 << 20):  # the last chunk and the end of the connection or of the answer
            taken += octets
            if taken.endswith(b"0\r\n\r\n"):
                break
        last = taken.rpartition(b"event: dropped")[2]
        assert b"Nothing was taken for 0.2 s." in last
        assert b"event: record" not in last
        wait_until(lambda: services.hub.readers == 0, what="the end of its stream", timeout=10)


@pytest.mark.parametrize("form", ["json", "text"])
def test_the_log_is_as_configured(tmp_path: Path, form: str) -> None:
    path = tmp_path / "dashboards.yaml"
    path.write_text(f"listen: 127.0.0.1:0\nlogging: {{format: {form}, level: debug}}\n{NODES}")
    command = [sys.executable, "-m", "dashboards", "serve", "-c", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        link = process.stdout.readline().removeprefix("Sign in at ").strip()
        assert httpx.get(link.partition("/sign-in")[0] + "/healthz", timeout=10).status_code == 200
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    lines = errors.splitlines()
    assert process.returncode == 0
    assert lines
    if form == "text":
        assert all(" dashboards " in line and not line.startswith("{") for line in lines)
        return
    objects = [json.loads(line) for line in lines]
    assert all({"time", "level", "node", "logger", "text"} <= set(each) for each in objects)
    assert {each["node"] for each in objects} == {"dashboards"}
    assert any(each["level"] == "debug" and "trace of" in each["text"] for each in objects)


def test_an_unknown_format_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "dashboards.yaml"
    path.write_text(f"logging: {{format: xml}}\n{NODES}")
    command = [sys.executable, "-m", "dashboards", "serve", "-c", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "logging.format" in done.stderr
