"""Where a UE's USIM comes from: vectors that both ends are given, so that nobody has K; a card that is absent."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from aaa.command_line import application
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.errors import ConfigurationError
from protocols.io.configuration import load
from protocols.io.control import ControlError
from tests.harness.material import ROOT
from tests.nodes.scripted_aaa_world import EPDG_HOST, World
from tests.peers import aaa_node
from tests.peers.aaa_node import AaaProcess
from ue.config import UeConfiguration

USER = laboratory_subscriber(1)


def run_aaa(*words: object) -> Result:
    """One ``aaa`` command."""
    return CliRunner().invoke(application, [str(word) for word in words])


def attach(aaa: AaaProcess, usim: dict[str, Any], times: int) -> list[str]:
    """Attach so often; each time what came of it."""

    async def run() -> list[str]:
        peer = {"host": aaa_node.HOST, "address": "127.0.0.1", "port": aaa.port}
        diameter = {"host": EPDG_HOST, "realm": aaa_node.REALM, "peers": [peer]}
        eap = {"reauthentication": False, "pseudonyms": False}
        world = World(aaa.directory, gateway={"diameter": diameter}, ue={"usim": usim, "eap": eap, "state": "state"})
        world.servers = ()
        found = []
        async with world:
            await world.event("peer-up", "epdg")
            for _ in range(times):
                try:
                    await world.ue.attach()
                except ControlError as refused:
                    found.append(str(refused))
                else:
                    found.append("attached")
                    await world.ue.detach()
        return found

    return asyncio.run(run())


def test_both_ends_use_vectors_from_a_file_and_nobody_has_k(tmp_path: Path) -> None:
    aaa = AaaProcess(tmp_path)
    aaa.provision(USER)
    aaa.write_configuration()
    file = tmp_path / "vectors.yaml"
    words = ("subscriber", "vectors", str(USER.imsi), "--count", "3", "--output", file, "-c", aaa.configuration)
    written = run_aaa(*words)
    assert (written.exit_code, written.output) == (0, f"3 vectors of subscriber {USER.imsi} in {file}\n")
    again = tmp_path / "again.yaml"
    assert run_aaa(*words[:6], again, *words[7:]).exit_code == 0
    rands, others = ([each["rand"] for each in yaml.safe_load(each.read_text())["vectors"]] for each in (file, again))
    assert len({*rands, *others}) == 6

    assert run_aaa("subscriber", "update", str(USER.imsi), "--k", "00" * 16, "-c", aaa.configuration).exit_code == 0
    at_the_hss = tmp_path / "hss-vectors.yaml"
    at_the_hss.write_text(file.read_text())
    entries = yaml.safe_load(file.read_text())
    del entries["vectors"][2]["res"]  # the card will not take the third
    entries["vectors"][2]["outcome"] = "mac-failure"
    del entries["vectors"][1]
    file.write_text(yaml.safe_dump(entries))
    aaa.extra = "hss: {vectors: [hss-vectors.yaml]}\n"
    with aaa:
        first, second, third, fourth = attach(aaa, {"vectors": "vectors.yaml"}, 4)
    assert first == "attached"
    assert f"vectors.yaml has no vector for RAND {rands[1]}" in second
    assert "vectors.yaml has a MAC failure" in third
    assert "NETWORK_FAILURE" in fourth  # the HSS has none left


BASE = (ROOT / "ue" / "example.yaml").read_text()
SECTIONS = [
    ("{}", "usim: got a mapping, expected one of k, vectors, card and server"),
    ("{k: 465b5ce8b199b49faa5f0a2ee238a6bc, vectors: v.yaml}", "expected one of k, vectors, card and server"),
    ("{card: {reader: 0}, server: {url: 'http://127.0.0.1'}}", "expected one of k, vectors, card and server"),
    ("{vectors: v.yaml, opc: 465b5ce8b199b49faa5f0a2ee238a6bc}", "expected opc and op with k only"),
    ("{card: {pin: 12}}", "usim.card.pin: got a value that is not shown, expected 4 to 8 digits, in quotes"),
    ("{card: {reader: 0, slot: 1}}", "usim.card.slot: got an unknown key"),
]


def configured(tmp_path: Path, **changes: object) -> Path:
    values = yaml.safe_load(BASE)
    values["gateway"]["revocation"] = "off"  # which YAML 1.1 has as false
    file = tmp_path / "ue.yaml"
    file.write_text(yaml.safe_dump({**values, **changes}))
    return file


@pytest.mark.parametrize(("section", "expected"), SECTIONS)
def test_a_wrong_section_is_one_line(section: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(configured(tmp_path, usim=yaml.safe_load(section)), UeConfiguration)
    assert expected in str(refused.value)


def test_only_a_card_stands_for_the_imsi(tmp_path: Path) -> None:
    values = yaml.safe_load(BASE)
    for section in ({"card": {"reader": "Gemalto"}}, {"server": {"url": "https://sim.example"}}):
        file = configured(tmp_path, usim=section)
        file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith("imsi:")))
        assert load(file, UeConfiguration).imsi == ""
    without = configured(tmp_path, usim=values["usim"])
    without.write_text("".join(line for line in without.read_text().splitlines(True) if not line.startswith("imsi:")))
    words = "imsi: got nothing, expected an IMSI, which only a card or a server of one can tell instead"
    with pytest.raises(ConfigurationError, match=words):
        load(without, UeConfiguration)


REFUSING = """
import sys
sys.modules["smartcard"] = None
from ue.__main__ import main
sys.argv = ["ue", "attach", "-c", sys.argv[1]]
main()
"""


def test_without_pyscard_the_extra_is_named(tmp_path: Path) -> None:
    file = configured(tmp_path, usim={"card": {"reader": 0}})
    ended = subprocess.run(
        [sys.executable, "-c", REFUSING, str(file)], capture_output=True, text=True, timeout=30, check=False, cwd=ROOT
    )
    assert ended.returncode == 1
    assert ended.stderr == "usim.card needs pyscard, which the extra epdg-emulator[card] brings\n"
