"""Personas in nodes: on real sockets at the real gateway, as a process on the wire, on the command line, in files."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lab.namespaces import terminate
from protocols.errors import ConfigurationError, LocalError
from protocols.ikev2.message import decode_message
from protocols.ikev2.payloads import KePayload
from protocols.io.configuration import load
from tests.harness.persona import SOMEBODY, names
from tests.nodes.scripted_aaa_world import GATEWAY, IKE_PORT, NATT_PORT, WIFI_A, Changes, World
from ue.command_line import application
from ue.config import UeConfiguration
from ue.control import control_methods
from ue.personas import DIRECTORY, shipped

DSCP = 46
STANDS = {*shipped()} - {"samsung-default", "samsung-carrier"}
LEGACY: Changes = {"suites": ["legacy"], "esp_suites": ["legacy"]}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("personas")


@pytest.mark.parametrize("persona", shipped())
def test_a_persona_attaches_and_moves(persona: str, directory: Path) -> None:
    """EAP-AKA, certificate, MOBIKE on real sockets; who has MOBIKE off cannot move."""

    async def run() -> None:
        async with World(directory, gateway={"ike": LEGACY}, ue={"persona": persona}) as world:
            await world.ue.attach()
            status = await control_methods(world.ue)["ue.status"]({})
            assert isinstance(status, dict)
            assert isinstance(status["persona"], dict)
            assert status["persona"]["name"] == persona
            before = world.at_ue["inner_addresses"]
            if persona not in STANDS:
                with pytest.raises(LocalError, match="does not support MOBIKE"):
                    await world.ue.move("b")
                return
            move = await world.ue.move("b")
            assert move.inner_address_unchanged
            assert move.spis_unchanged
            assert world.at_ue["inner_addresses"] == before
            assert (world.ue.pdn().sa.window.requests_sent > 6) is (persona == "strongswan")

    asyncio.run(run())


def test_android_moves_by_a_rekey_to_a_gateway_without_mobike(directory: Path) -> None:
    async def run() -> None:
        gateway: Changes = {"ike": {**LEGACY, "mobike": False}}
        async with World(directory, gateway=gateway, ue={"persona": "pixel-aosp"}) as world:
            await world.ue.attach()
            move = await world.ue.move("b")
            assert move.inner_address_unchanged
            assert not move.spis_unchanged
            paths = world.session["ike"]
            assert isinstance(paths, dict)
            assert str(paths["path"]["remote"]).startswith("127.0.61.31")

    asyncio.run(run())


def test_the_first_datagram_of_a_process(tmp_path: Path) -> None:
    """`ue attach` as a process: DSCP 46, the payloads in Android's order, KE of group 2."""
    ports = {"ike_port": IKE_PORT, "nat_traversal_port": NATT_PORT}
    values = {
        **SOMEBODY,
        "persona": "pixel-aosp",
        "gateway": {"address": GATEWAY, **ports},
        "accesses": {"a": {"address": WIFI_A, **ports}},
        "state": "state",
    }
    (tmp_path / "ue.yaml").write_text(yaml.safe_dump(values))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gateway:
        gateway.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        gateway.bind((GATEWAY, IKE_PORT))
        gateway.settimeout(20)
        words = [sys.executable, "-m", "ue", "attach", "-c", "ue.yaml"]
        process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
        try:
            octets, ancillary, _, source = gateway.recvmsg(65535, 64)
        finally:
            terminate(process)
    request = decode_message(octets)
    assert source == (WIFI_A, IKE_PORT)
    assert [data[0] if len(data) == 1 else struct.unpack("i", data)[0] for _, _, data in ancillary] == [DSCP << 2]
    assert names(request.payloads) == ["SA", "KE", "NONCE", "N(16388)", "N(16389)", "N(16430)", "N(16431)"]
    ke = request.first(KePayload)
    assert ke is not None
    assert int(ke.group) == 2


# --- files and the command line ---------------------------------------------------------------------------


def persona_file(directory: Path, text: str) -> Path:
    file = directory / "mine.yaml"
    file.write_text(text)
    return file


AT = {"address": "203.0.113.1", "ca": "ca.pem"}
HEADER = "name: mine\ndescription: A phone of mine\nlax: [everything]\nconfiguration:\n"
ERRORS = {
    "name: Mine!\ndescription: x\nconfiguration: {}\n": "mine.yaml:1: name: got 'Mine!', expected text like",
    "name: mine\nconfiguration: {}\n": "mine.yaml: description: got nothing, expected a value",
    HEADER.replace("lax", "lacks"): "mine.yaml:3: lacks: got a list, expected no such key",
    HEADER: "mine.yaml:4: configuration: got nothing, expected a mapping",
    HEADER + "  fragment_size: 100\n": "mine.yaml:5: fragment_size: got 100, expected at least 256",
    HEADER + "  mobike: true\n  ike:\n    dscp: 64\n": "mine.yaml:7: ike.dscp: got 64, expected at most 63",
    HEADER + "  ike:\n    dcsp: 46\n": "mine.yaml:6: ike.dcsp: got an unknown key, expected no such key (did you mean",
    HEADER + "  ike: {group: modp1}\n": "mine.yaml:5: ike.group: got 'modp1', expected a key exchange group such as",
    HEADER + "  ike: {payload_order: {init: [SA, N(NONE_SUCH)]}}\n": (
        "mine.yaml:5: ike.payload_order.init.1: got 'N(NONE_SUCH)', expected a payload (SA, KE, "
    ),
    HEADER + "  algorithms:\n    ike: [default]\n    esp: ['aes{128,256']\n": "mine.yaml:7: algorithms.esp.0: got",
    HEADER + "  imsi: '001010000000002'\n": "mine.yaml:5: configuration.imsi: got a key, expected how the UE speaks",
    HEADER + "  data_plane: {device: ue1}\n": "mine.yaml:5: configuration.data_plane: got a key, expected how the UE",
    HEADER.replace("lax", "based_on: nokia\nlax") + "  mobike: true\n": (
        "mine.yaml:3: based_on: got 'nokia', expected one of iphone, "
    ),
    HEADER.replace("lax", "based_on: mine.yaml\nlax") + "  mobike: true\n": (
        "mine.yaml: based_on: got a circle, expected a persona that is not based on this one"
    ),
    "name: [\n": "mine.yaml:2: (syntax): got",
}


@pytest.mark.parametrize("text", ERRORS, ids=range(len(ERRORS)))
def test_an_error_in_a_persona_names_file_line_key_and_what_was_expected(tmp_path: Path, text: str) -> None:
    """In a UE's configuration and on the command line alike."""
    file = persona_file(tmp_path, text)
    (tmp_path / "ue.yaml").write_text(yaml.safe_dump({**SOMEBODY, "persona": "mine.yaml", "gateway": AT}))
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path / "ue.yaml", UeConfiguration)
    assert str(refused.value).startswith(f"{tmp_path}/{ERRORS[text]}")
    shown = CliRunner().invoke(application, ["personas", str(file)])
    assert shown.exit_code == 2
    assert shown.stderr.startswith(f"{tmp_path}/{ERRORS[text]}")
    assert len(shown.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("nokia", "ue.yaml:3: persona: got 'nokia', expected one of iphone, iphone-group1, "),
        ("[]", "ue.yaml:3: persona: got something else than text, expected one of"),
        ("none.yaml", "none.yaml: (file): got no such file"),
    ],
)
def test_a_persona_that_is_none(tmp_path: Path, value: str, words: str) -> None:
    (tmp_path / "ue.yaml").write_text(f"# a UE\nnode: ue\npersona: {value}\n")
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path / "ue.yaml", UeConfiguration)
    assert str(refused.value).startswith(f"{tmp_path}/{words}")


def test_a_persona_on_top_of_another(tmp_path: Path) -> None:
    """What it says counts, then what those below say; an error is in the file where it stands."""
    carrier = tmp_path / "carrier.yaml"
    carrier.write_text(
        "name: carrier\ndescription: x\nbased_on: pixel-aosp\nlax: [another]\nconfiguration:\n  ike: {dscp: 10}\n"
    )
    mine = persona_file(
        tmp_path, "name: mine\ndescription: x\nbased_on: carrier.yaml\nconfiguration:\n  mobike: false\n"
    )
    (tmp_path / "ue.yaml").write_text(yaml.safe_dump({**SOMEBODY, "persona": "mine.yaml", "gateway": AT}))
    made = load(tmp_path / "ue.yaml", UeConfiguration)
    assert made.persona is not None
    assert (made.persona.name, len(made.persona.lax), made.persona.lax[-1]) == ("mine", 3, "another")
    assert (made.mobike, made.ike.dscp, made.ike.renew_spi, made.liveness_interval) == (False, 10, True, 120)
    carrier.write_text(carrier.read_text().replace("10}", "99}"))
    with pytest.raises(ConfigurationError, match=r"carrier\.yaml:6: ike\.dscp: got 99"):
        load(tmp_path / "ue.yaml", UeConfiguration)
    assert CliRunner().invoke(application, ["personas", str(mine)]).exit_code == 2


def test_the_users_file_wins_key_by_key_and_an_error_in_it_is_its_own(tmp_path: Path) -> None:
    def written(**changes: object) -> Path:
        values = {**SOMEBODY, "persona": "pixel-aosp", "gateway": AT, **changes}
        (tmp_path / "ue.yaml").write_text(yaml.safe_dump(values))
        return tmp_path / "ue.yaml"

    mine = load(written(ike={"dscp": 0}, fragment_size=1000, path_test_after=1), UeConfiguration)
    assert (mine.ike.dscp, mine.fragment_size, mine.path_test_after) == (0, 1000, 1)
    assert mine.ike.renew_spi
    assert mine.gateway.eap_only
    assert mine.gateway.ca == tmp_path / "ca.pem"
    lists = load(written(algorithms={"ike": ["aes128-sha256-modp1024"]}), UeConfiguration)
    assert lists.algorithms.ike == ("aes128-sha256-modp1024",)
    assert len(lists.algorithms.esp) == 1
    with pytest.raises(ConfigurationError, match=r"ue\.yaml:\d+: ike\.dscp: got 70"):
        load(written(ike={"dscp": 70}), UeConfiguration)
    with pytest.raises(ConfigurationError, match=r"ike\.group: got .*, expected the group of a suite"):
        load(written(algorithms={"ike": ["aes128-sha256-x25519"]}), UeConfiguration)


def test_personas_are_listed_with_what_they_do_not_check() -> None:
    shown = CliRunner().invoke(application, ["personas"])
    assert shown.exit_code == 0
    for name in shipped():
        assert name in shown.stdout
    assert "lax: CVE-2024-20069" in shown.stdout
    listed = json.loads(CliRunner().invoke(application, ["personas", "--json"]).stdout)
    assert [each["name"] for each in listed] == list(shipped())
    assert {each["name"] for each in listed if each["lax"]} == {"mediatek", "pixel-aosp", "pixel-carrier"}


@pytest.mark.parametrize("name", shipped())
def test_the_effective_configuration_is_shown(name: str) -> None:
    """Every key, the persona's value where it has one; YAML that is a persona's configuration again."""
    shown = CliRunner().invoke(application, ["personas", name])
    assert shown.exit_code == 0
    effective = yaml.safe_load(shown.stdout)
    written = yaml.safe_load((DIRECTORY / f"{name}.yaml").read_text())["configuration"]

    def covered(part: object, whole: object) -> bool:
        if isinstance(part, dict) and isinstance(whole, dict):
            return all(key in whole and covered(value, whole[key]) for key, value in part.items())
        if isinstance(part, list) and isinstance(whole, list):
            return len(part) == len(whole) and all(map(covered, part, whole))
        return part == whole or (isinstance(whole, dict) and whole["soft"] == part)  # a lifetime in full

    assert covered(written, effective)
    assert (
        json.loads(CliRunner().invoke(application, ["personas", name, "--json"]).stdout)["configuration"] == effective
    )
    assert {"imsi", "usim", "accesses", "control"} & set(effective) == set()
