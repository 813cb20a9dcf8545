"""A node that may use weak algorithms says so once, in its log and in its trace; others say nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocols.trace.records import Kind, TraceRecord
from tests.nodes.test_ue_node import Ue, records_of
from tests.peers.epdg_node import EpdgProcess

NOBODY = 9  # a port without an AAA server
GATEWAY = "127.0.45.1"

LISTS = [([], 0), (["modern", "legacy"], 1)]


def warnings(records: list[TraceRecord]) -> list[str]:
    found = [record.body for record in records if record.kind is Kind.EVENT]
    return [str(body["text"]) for body in found if body["name"] == "weak-algorithms"]


@pytest.mark.parametrize(("suites", "count"), LISTS)
def test_the_gateway(tmp_path: Path, suites: list[str], count: int) -> None:
    def change(values: dict[str, object]) -> None:
        if suites:
            values["ike"] = {"suites": suites}

    epdg = EpdgProcess(tmp_path, NOBODY, address=GATEWAY, changes=change)
    try:
        epdg.start(with_peer=False)
        told = warnings(records_of(epdg.control))
        logged = [line for line in epdg.log().splitlines() if "WARNING" in line and "Weak algorithms" in line]
    finally:
        epdg.stop()
    assert len(told) == len(logged) == count
    assert all("modp1024" in text and "in ike.suites." in text for text in (*told, *logged))


@pytest.mark.parametrize(("suites", "count"), LISTS)
def test_the_ue(tmp_path: Path, suites: list[str], count: int) -> None:
    def change(values: dict[str, object]) -> None:
        if suites:
            values["algorithms"] = {"ike": suites}
        gateway = values["gateway"]
        assert isinstance(gateway, dict)
        gateway.pop("ca")
        gateway["eap_only"] = True

    with Ue(tmp_path, tmp_path / "ca.pem", change=change).node("run") as ue:
        told = warnings(ue.records())
        logged = [line for line in ue.log.read_text().splitlines() if "WARNING" in line and "Weak algorithms" in line]
    assert len(told) == len(logged) == count
    assert all("modp1024" in text and "in algorithms.ike." in text for text in (*told, *logged))
