"""The UE's EAP against the real ``aaa`` behind the real ``epdg``: fast re-authentication over attaches and restarts."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.trace.records import JsonValue, Kind
from tests.nodes.test_ue_node import GATEWAY, USER, Change, Ue, section, session
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import EpdgProcess

PRIME_NAI = f"6{USER.imsi}@nai.epc.mnc001.mcc001.3gppnetwork.org"
AAA_EAP = """\
eap:
  result_indications: true
  reauthentications: 3
  temporary: {key_file: eap-keys.json}
"""


@pytest.fixture(scope="module")
def aaa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AaaProcess]:
    node = AaaProcess(tmp_path_factory.mktemp("aaa"), extra=AAA_EAP)
    node.provision(USER, laboratory_subscriber(2))
    with node:
        yield node


@pytest.fixture(scope="module")
def epdg(aaa: AaaProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EpdgProcess]:
    with EpdgProcess(tmp_path_factory.mktemp("epdg"), aaa.port, address=GATEWAY) as node:
        yield node


def eap(**values: object) -> Change:
    """This under the UE's ``eap``."""

    def change(configuration: dict[str, object]) -> None:
        configuration["eap"] = values

    return change


def attached(ue: Ue) -> dict[str, JsonValue]:
    """How the UE was authenticated."""
    ue.call("ue.attach")
    return section(session(ue), "eap")


def test_fast_reauthentication_outlives_the_ue(epdg: EpdgProcess, tmp_path: Path) -> None:
    name = "EAP-AKA'"
    ue = Ue(tmp_path, epdg.authority, change=eap(methods=["aka-prime", "aka"], state="eap.json"))
    with ue.node("run"):
        assert attached(ue) == {"method": name, "kind": "full", "identity": PRIME_NAI}
        ue.call("ue.detach")
        again = attached(ue)
        assert (again["method"], again["kind"]) == (name, "fast")
        events = [record for record in ue.records() if record.body.get("name") == "attached"]
        assert [section(record.body, "data")["eap"] for record in events][-1] == again
        messages = [record.body for record in ue.records() if record.kind is Kind.MESSAGE]
        names = [body["name"] for body in messages if body["protocol"] == "eap" and body["direction"] == "out"]
        assert any(str(each).endswith("Reauthentication") for each in names)
        assert ue.stop() == 0
    file = tmp_path / "eap.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = json.loads(file.read_text())
    assert kept["reauthentication"]["counter"] == 1
    assert kept["reauthentication"]["k_re"] not in ue.log.read_text()
    (held,) = epdg.sessions(imsi=str(USER.imsi), state="closed")[-1:]
    assert held["imsi"] == str(USER.imsi)
    with ue.node("run"):
        assert attached(ue)["kind"] == "fast"
        ue.call("ue.detach")
        # three at most, the server says; the pseudonym is what the UE has then
        assert attached(ue)["kind"] == "fast"
        ue.call("ue.detach")
        last = attached(ue)
        assert last["kind"] == "full"
        assert str(last["identity"]).startswith("7")
        ue.call("ue.detach")


def test_a_file_that_cannot_be_used_is_one_line(epdg: EpdgProcess, tmp_path: Path) -> None:
    (tmp_path / "eap.json").write_text('{"imsi": "x", "secret": 1}')
    done = Ue(tmp_path, epdg.authority, change=eap(state="eap.json")).command("attach")
    assert done.returncode == 2
    assert done.stderr.startswith(f"{tmp_path / 'eap.json'}: secret: got 'something else', expected what this UE has")
    assert len(done.stderr.splitlines()) == 1
