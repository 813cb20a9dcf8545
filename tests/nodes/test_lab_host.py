"""``lab host`` as processes on loopback: calls on real sockets, their logs at both ends, echo, bad commands."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.namespaces import terminate
from protocols.errors import BackendError
from protocols.io.control import ControlError, call_sync
from protocols.media.log import figures, join
from protocols.trace.records import JsonValue
from tests.nodes.test_media import entries, number
from tests.peers.processes import wait_until

CALLED, CALLER = "127.0.61.1", "127.0.61.2"
PORT, ECHO_PORT = 15004, 15007


class Host:
    """One process."""

    def __init__(self, directory: Path, name: str, *words: str) -> None:
        self.control = directory / f"{name}.sock"
        self.log = directory / f"{name}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lab", "host", "--control", str(self.control), *words],
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def answers(self) -> bool:
        try:
            return bool(self.call("host.status"))
        except BackendError:
            return False

    def call(self, method: str, **params: JsonValue) -> dict[str, JsonValue]:
        answer = call_sync(self.control, method, **params)
        assert isinstance(answer, dict)
        return answer


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    directory = tmp_path_factory.mktemp("hosts")
    words = ("--port", str(PORT))
    called = Host(directory, "called", "--address", CALLED, "--echo-port", str(ECHO_PORT), *words)
    caller = Host(directory, "caller", "--address", CALLER, *words)
    try:
        for host in (called, caller):
            wait_until(host.answers, what="lab host", timeout=20, log=host.log.read_text)
        yield caller, called
    finally:
        for host in (called, caller):
            terminate(host.process)  # type: ignore[arg-type]


def test_a_call_and_its_logs(hosts: tuple[Host, Host]) -> None:
    caller, called = hosts
    started = caller.call("host.start", destination=CALLED, port=PORT, rate=100)
    ssrc = started["ssrc"]

    def view(host: Host, kind: str) -> object:
        """What a host says of this call, null before it has heard of it."""
        return next((each for each in host.call("host.status")[kind] if each["ssrc"] == ssrc), None)  # type: ignore[union-attr,index,call-overload]

    def spoken() -> bool:
        placed, answered = view(caller, "placed"), view(called, "answered")
        return answered is not None and all(
            number(each, way, "received") >= 50 for each, way in ((placed, "downlink"), (answered, "uplink"))
        )

    wait_until(spoken, what="a call", timeout=10, log=called.log.read_text)
    assert caller.call("host.stop", id=started["id"])["running"] is False
    wait_until(lambda: not called.call("host.log", ssrc=ssrc)["running"], what="BYE", timeout=5)
    own, far = caller.call("host.log", ssrc=ssrc), called.call("host.log", ssrc=ssrc)
    for sent, received in ((own["sent"], far["received"]), (far["sent"], own["received"])):
        seen = figures(join(entries(sent), entries(received)))
        assert seen.sent >= 50
        assert seen.lost == 0
    for told in (view(called, "answered"), view(caller, "placed")):
        assert number(told, "mos", "uplink") > 3.5
        assert number(told, "uplink", "received") == len(entries(far["received"]))


def test_echo(hosts: tuple[Host, Host]) -> None:
    _, called = hosts
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(5)
        sender.sendto(b"hello", (CALLED, ECHO_PORT))
        assert sender.recv(100) == b"hello"
    assert called.call("host.status")["echoed"] == 1


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("host.start", {"destination": "nowhere"}, "destination is an IP address"),
        ("host.start", {"destination": CALLED, "rate": 0}, "rate is packets per second"),
        ("host.start", {"destination": CALLED, "port": 0}, "port is a number"),
        ("host.start", {"destination": CALLED, "source": "::1"}, "no call goes from ::1 to 127.0.61.1"),
        ("host.stop", {"id": 99}, "this host has placed no call 99"),
        ("host.log", {"ssrc": 99}, "this host has had no voice call 99"),
        ("host.log", {}, "ssrc is the number"),
        ("host.status", {"since": "noon"}, "since is seconds"),
    ],
)
def test_bad_commands(hosts: tuple[Host, Host], method: str, params: dict[str, JsonValue], message: str) -> None:
    with pytest.raises(ControlError, match=message):
        hosts[0].call(method, **params)


def test_an_address_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    for words, status, line in (
        (("--address", "nowhere"), 2, "'nowhere' is no IP address"),
        (("--address", "203.0.113.9"), 1, "this machine does not have the address"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "lab", "host", "--control", str(tmp_path / "host.sock"), *words],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == status
        assert line in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
