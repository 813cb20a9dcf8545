"""``epdg tail`` as a process beside gateway, AAA server and UE: what stands in its output, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.nodes.test_ue_node import GATEWAY, IKE_PORT, NATT_PORT, USER, Ue, _wrong_key
from tests.nodes.test_ue_node import aaa as aaa
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import EpdgProcess
from tests.peers.processes import wait_until


@pytest.fixture(scope="module")
def epdg(aaa: AaaProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EpdgProcess]:
    def change(values: dict[str, object]) -> None:
        values["listen"] = {"addresses": [GATEWAY], "ike_port": IKE_PORT, "nat_traversal_port": NATT_PORT}

    with EpdgProcess(tmp_path_factory.mktemp("epdg"), aaa.port, address=GATEWAY, changes=change) as node:
        yield node


@dataclass
class Tail:
    """A running command and what it has written."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def text(self) -> str:
        return self.output.read_text()

    def shows(self, *words: str) -> None:
        """Wait until all of it stands there."""
        wait_until(lambda: all(each in self.text for each in words), what=str(words), timeout=20, log=lambda: self.text)

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@contextmanager
def tail(directory: Path, *words: str | Path) -> Iterator[Tail]:
    output = directory / "tail.txt"
    command = [sys.executable, "-m", "epdg", "tail", *map(str, words)]
    with output.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
        running = Tail(process, output)
        try:
            running.shows("UE         ePDG       AAA        HSS\n")
            yield running
        finally:
            if process.poll() is None:
                process.kill()


def test_attach_move_and_a_gateway_that_comes_back(aaa: AaaProcess, epdg: EpdgProcess, tmp_path: Path) -> None:
    ue = Ue(tmp_path, epdg.authority)
    with ue.node("run"), tail(tmp_path, "-c", epdg.configuration, "--aaa", aaa.control, "--kept", ue.control) as shown:
        ue.call("ue.attach")
        (one,) = epdg.sessions(state="established")
        shown.shows(f"session {one['id']} at epdg", "IKE_SA_INIT request", "EAP-Success", "is attached to internet")
        ue.call("ue.move", to="wifi-b")
        shown.shows("N(UPDATE_SA_ADDRESSES)", "N(COOKIE2)", "moved from")
        assert epdg.stop(signal.SIGKILL) == -signal.SIGKILL
        shown.shows("-- epdg is away: ")
        epdg.start()
        shown.shows("-- epdg is back, started anew")
        assert shown.text.count("-- epdg is away: ") == 1
        shown.shows("The gateway epdg.epc.mnc001.mcc001.pub.3gppnetwork.org listens on")
        assert shown.end() == 0
    lines = shown.text.splitlines()
    assert "\x1b" not in shown.text
    assert "Traceback" not in shown.text
    update = next(line for line in lines if "N(UPDATE_SA_ADDRESSES)" in line)
    assert " |--------->|          |          | " in update
    der = next(line for line in lines if " DER" in line)
    assert " |          |--------->|          | " in der
    assert "WHY" not in "".join(line for line in lines[: lines.index(update)])


def test_one_users_refusal_says_why(aaa: AaaProcess, epdg: EpdgProcess, tmp_path: Path) -> None:
    bad = Ue(tmp_path, epdg.authority, change=_wrong_key)
    imsi = str(USER.imsi)
    with tail(tmp_path, epdg.control, aaa.control, "--imsi", imsi) as shown:
        assert bad.command("attach").returncode == 1
        shown.shows("WHY: ", "K or OPc")
        assert shown.end(signal.SIGTERM) == 0
    assert shown.text.count("WHY: ") == 1
    names = [word for line in shown.text.splitlines() for word in line.split() if word in ("DER", "DEA", "STR")]
    assert names[:4] == ["DER", "DEA", "DER", "DEA"]


def test_who_reads_no_longer_ends_it(epdg: EpdgProcess, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "epdg", "tail", "-c", str(epdg.configuration), "--kept"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"ePDG" in process.stdout.readline()
        process.stdout.close()
        assert (
            Ue(tmp_path, epdg.authority, change=_wrong_key).command("attach").returncode == 1
        )  # which nobody reads of
        assert process.wait(20) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize("words", [(), ("-c", "nowhere.yaml")])
def test_what_cannot_be_followed_is_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "epdg", "tail", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_node_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    with tail(tmp_path, tmp_path / "nobody.sock") as shown:
        shown.shows("no node is running there")
        assert shown.end() == 0
