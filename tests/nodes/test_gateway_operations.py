"""A gateway as a process, as its operator runs it: logs for machines, a configuration that is read again (SIGHUP)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.nodes.test_ue_node import GATEWAY, IKE_PORT, NATT_PORT, Ue
from tests.nodes.test_ue_node import aaa as aaa
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import EpdgProcess
from tests.peers.processes import wait_until


def configured(values: dict[str, object]) -> None:
    values["listen"] = {"addresses": [GATEWAY], "ike_port": IKE_PORT, "nat_traversal_port": NATT_PORT}
    values["logging"] = {"format": "json"}


@pytest.fixture
def epdg(aaa: AaaProcess, tmp_path: Path) -> Iterator[EpdgProcess]:
    directory = tmp_path / "epdg"
    directory.mkdir()
    with EpdgProcess(directory, aaa.port, address=GATEWAY, changes=configured) as node:
        yield node


def log(epdg: EpdgProcess) -> list[dict[str, object]]:
    return [json.loads(line) for line in epdg.log().splitlines()]


def test_every_line_is_an_object_and_has_the_session_it_is_about(epdg: EpdgProcess, tmp_path: Path) -> None:
    with Ue(tmp_path, epdg.authority).node("attach", state="established"):
        (one,) = epdg.sessions(state="established")
    lines = log(epdg)
    assert all({"time", "level", "node", "text"} <= set(line) for line in lines)
    assert {line["node"] for line in lines} == {"epdg"}
    about = [str(line["text"]) for line in lines if line.get("session") == one["id"]]
    assert any("is attached to internet" in text for text in about)


def test_sighup_reads_the_configuration_again_and_the_ue_stays(epdg: EpdgProcess, tmp_path: Path) -> None:
    def hang_up(text: str) -> None:
        epdg.configuration.write_text(text)
        assert epdg.process is not None
        epdg.process.send_signal(signal.SIGHUP)

    def said(words: str) -> None:
        wait_until(lambda: words in epdg.log(), what=words, timeout=10, log=epdg.log)

    with Ue(tmp_path, epdg.authority).node("attach", state="established"):
        (one,) = epdg.sessions(state="established")
        values = yaml.safe_load(epdg.configuration.read_text())
        values["apns"]["internet"]["dns"] = ["10.45.0.9"]
        values["data_plane"]["mtu"] = 1300
        values["logging"] = {"format": "text"}
        hang_up(yaml.safe_dump(values))
        said("changed: apns.internet.dns, logging")
        said("data_plane.mtu: the change needs a restart")
        values["limits"] = {"connections_per_ue": 2}
        epdg.configuration.write_text(yaml.safe_dump(values))
        command = [sys.executable, "-m", "epdg", "reload", "-c", str(epdg.configuration)]
        done = subprocess.run(command, check=True, timeout=30, capture_output=True, text=True)
        assert done.stdout == "limits: changed\ndata_plane.mtu: needs a restart\n"
        values["apns"]["internet"]["dns"] = ["nowhere"]
        hang_up(yaml.safe_dump(values))
        said("the configuration is as it was: ")
        assert epdg.log().splitlines()[-1].count("apns.internet.dns") == 1
        assert [each["id"] for each in epdg.sessions(state="established")] == [one["id"]]
        assert epdg.call("sessions.liveness", id=one["id"])["answered"] is True
    assert "Traceback" not in epdg.log()
