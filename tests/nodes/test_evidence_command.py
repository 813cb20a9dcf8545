"""``epdg evidence`` with gateway, AAA server and UE as processes: one archive of one session of several."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from protocols.io.control import call_sync
from protocols.trace.jsonl import decode_lines
from protocols.trace.records import Kind
from tests.nodes.test_ue_node import ADDRESSES, IKE_PORT, NATT_PORT, USER, Ue, session
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import CORE_HOST, EpdgProcess
from tests.peers.processes import find_program, wait_until
from tests.peers.tshark import Tshark

GATEWAY = "127.0.44.1"
SUITE = "aes256-sha384-esn"  # not what is taken by default, and its ICV covers what is not sent


@dataclass
class World:
    """A gateway, its AAA server, and a UE that has been attached twice."""

    aaa: AaaProcess
    epdg: EpdgProcess
    ue: Ue

    def evidence(self, identifier: str, output: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """The command to its end."""
        run = [sys.executable, "-m", "epdg", "evidence", identifier, "-c", self.epdg.configuration, "-o", output]
        return subprocess.run([*run, *words], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("evidence")
    for name in ("aaa", "epdg", "ue"):
        (directory / name).mkdir()
    aaa = AaaProcess(directory / "aaa")
    aaa.provision(USER)

    def change(values: dict[str, object]) -> None:
        ports: dict[str, object] = {"ike_port": IKE_PORT, "nat_traversal_port": NATT_PORT}
        values["gateway"] = {**ports, "address": GATEWAY, "ca": str(directory / "epdg" / "pki" / "ca.pem")}
        values["accesses"] = {name: {"address": address, **ports} for name, address in ADDRESSES.items()}
        values["algorithms"] = {"esp": [SUITE]}

    def offer(values: dict[str, object]) -> None:
        values["ike"] = {"esp_suites": [SUITE]}

    with aaa, EpdgProcess(directory / "epdg", aaa.port, address=GATEWAY, changes=offer) as epdg:
        ue = Ue(directory / "ue", epdg.authority, change=change)
        with ue.node("run"):
            ue.call("ue.attach")  # a session whose records are of no concern
            ue.call("ue.detach")
            ue.call("ue.attach")
            ue.call("ue.traffic.start", destination=CORE_HOST, rate=20)
            moved = ue.call("ue.move", to="wifi-b")
            assert moved
            wait_until(lambda: _answered(ue), timeout=10, what="answers on the new path")
            ue.call("ue.traffic.stop")
            yield World(aaa, epdg, ue)


def _answered(ue: Ue) -> bool:
    received = ue.call("ue.traffic.statistics")["received"]
    return isinstance(received, int) and received > 5


def identifier(world: World) -> str:
    (one,) = world.epdg.sessions(state="established")
    return str(one["id"])


def test_the_archive_of_a_session_opens_in_tshark(world: World, tmp_path: Path) -> None:
    output = tmp_path / "evidence.zip"
    one = identifier(world)
    done = world.evidence(one, output, "--with", world.aaa.control, "--with", world.ue.control)
    assert (done.returncode, done.stderr) == (0, "")
    assert "decrypted.pcapng" in done.stdout
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    with zipfile.ZipFile(output) as archive:
        archive.extractall(tmp_path)
    directory = tmp_path / f"evidence-{one}"
    assert {file.name for file in (directory / "configuration").iterdir()} == {"epdg.json", "aaa.json", "ue.json"}

    records = list(decode_lines((directory / "trace.jsonl").read_text().splitlines(keepends=True)))
    assert {record.node for record in records} == {"epdg", "aaa", "ue"}
    attached = [record for record in records if record.kind is Kind.EVENT and record.body["name"] == "attached"]
    assert sorted(record.node for record in attached) == ["epdg", "ue"]  # of this session, not of the first one
    assert {record.session for record in attached} == {one, str(session(world.ue)["id"])}

    if find_program("tshark") is None:
        pytest.skip("tshark is not installed (Debian packages: .ci/peers.txt): the capture was not opened")
    tshark = Tshark(tmp_path, directory / "wireshark-profile")
    capture = directory / "capture.pcapng"
    assert tshark.fields(capture, ("frame.number",), display_filter="isakmp && eap") != []
    assert tshark.complaints(capture) == []
    clear = Tshark(tmp_path).fields(directory / "decrypted.pcapng", ("ip.src",), display_filter="icmp.type == 8")
    assert len(clear) > 5


def test_a_gateway_alone_has_evidence_as_well(world: World, tmp_path: Path) -> None:
    done = world.evidence(identifier(world), tmp_path / "alone.zip")
    assert done.returncode == 0
    with zipfile.ZipFile(tmp_path / "alone.zip") as archive:
        (result,) = (archive.read(name) for name in archive.namelist() if name.endswith("result.json"))
        lines = [archive.read(name).decode() for name in archive.namelist() if name.endswith("trace.jsonl")]
    assert json.loads(result)["session"]["apn"] == "internet"
    assert {record.node for record in decode_lines(lines[0].splitlines(keepends=True))} == {"epdg"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("0123456789abcdef", "out.zip"), "no session 0123456789abcdef"),
        (("ID", "out.zip", "--with", "absent.sock"), "control socket absent.sock: no node is running there"),
        (("ID", "missing/out.zip"), "missing/out.zip cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_had_is_one_line(world: World, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    one, output, *rest = words
    done = world.evidence(identifier(world) if one == "ID" else one, Path(output), *rest)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not Path(output).exists()


def test_configurations_are_shown_without_secrets(world: World) -> None:
    assert USER.opc is not None
    for control in (world.epdg.control, world.aaa.control, world.ue.control):
        shown = json.dumps(call_sync(control, "node.configuration"))
        assert "control" in shown
        for secret in (USER.k, USER.opc):
            assert secret.reveal().hex() not in shown
