"""A gateway as a process, as its operator runs it: logs for machines, a configuration that is read again (SIGHUP)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodes.test_ue_node import GATEWAY, IKE_PORT, NATT_PORT, Ue
from tests.nodes.test_ue_node import aaa as aaa
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import EpdgProcess


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
