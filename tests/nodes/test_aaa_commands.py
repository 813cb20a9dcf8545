"""``aaa subscriber``, ``aaa migrate``, ``aaa sessions``: what they print, and refusals of one line, exit 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aaa.__main__ import application
from aaa.config import AaaConfiguration
from aaa.subscribers import SubscriberDatabase
from protocols.io.configuration import load
from tests.harness.material import ROOT
from tests.peers.aaa_node import run_aaa

IMSI = "001010000000001"
K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"  # TS 35.208 §4.3.1, set 1


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'aaa.db'}"


def aaa(*words: str, environment: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(application, list(words), env=environment)


def add(url: str, *words: str, imsi: str = IMSI, k: str = K) -> Result:
    keys = ["--k", k] if any(word.startswith("--op") for word in words) else ["--k", k, "--opc", OPC]
    return aaa("subscriber", "add", imsi, *keys, "--database", url, *words)


def test_add_list_show_remove(url: str) -> None:
    apns = ("--apn", "internet,type=ipv4,ul=1000,dl=2000,ipv4=10.45.0.7", "--apn", "ims")
    assert add(url, *apns, "--msisdn", "4917100001", "--sqn", "0000000000ff").exit_code == 0
    listed = aaa("subscriber", "list", "--database", url)
    assert listed.output == f"{IMSI}  enabled  internet,ims  4917100001\n"
    shown = aaa("subscriber", "show", IMSI, "--database", url, "--json")
    assert json.loads(shown.output) == {
        "imsi": IMSI,
        "msisdn": "4917100001",
        "enabled": True,
        "non_3gpp_allowed": True,
        "algorithm": "milenage",
        "k": "(not shown, see --secrets)",
        "op": None,
        "opc": "(not shown, see --secrets)",
        "amf": "8000",
        "sqn": "0000000000e7",  # SEQ 7, and IND as SEQ has it
        "apns": [
            {"apn": "internet", "type": "ipv4", "ul": 1000, "dl": 2000, "ipv4": "10.45.0.7", "default": True},
            {
                "apn": "ims",
                "type": "ipv4v6",
                "ul": 100_000_000,
                "dl": 100_000_000,
                "ipv4": None,
                "default": False,
            },
        ],
    }
    assert aaa("subscriber", "remove", IMSI, "--database", url).exit_code == 0
    assert aaa("subscriber", "list", "--database", url, "--json").output == "[]\n"


def test_keys_are_shown_on_demand_only(url: str) -> None:
    add(url)
    plain = aaa("subscriber", "show", IMSI, "--database", url).output
    assert K not in plain
    assert OPC not in plain
    secrets = aaa("subscriber", "show", IMSI, "--database", url, "--secrets").output
    assert f"k: {K}\n" in secrets
    assert f"opc: {OPC}\n" in secrets


def test_keys_come_from_the_environment_as_well(url: str) -> None:
    keys = {"AAA_K": K, "AAA_OPC": OPC}
    assert aaa("subscriber", "add", IMSI, "--database", url, environment=keys).exit_code == 0
    assert f"k: {K}" in aaa("subscriber", "show", IMSI, "--database", url, "--secrets").output


def test_flags_of_access(url: str) -> None:
    add(url, "--disabled", "--no-non-3gpp")
    assert "disabled,no-non-3gpp" in aaa("subscriber", "list", "--database", url).output
    assert add(url, "--replace").exit_code == 0
    assert "enabled" in aaa("subscriber", "list", "--database", url).output


@pytest.mark.parametrize(
    ("words", "imsi", "k", "named", "expected"),
    [
        ((), IMSI, "0123", "--k", "32 hexadecimal digits"),
        ((), IMSI, "x" * 32, "--k", "32 hexadecimal digits"),
        ((), IMSI, K[:16] + " " + K[16:], "--k", "32 hexadecimal digits"),
        (("--opc", OPC + "00"), IMSI, K, "--opc", "32 hexadecimal digits"),
        (("--op", "nothing"), IMSI, K, "--op", "32 hexadecimal digits"),
        (("--op", OPC, "--opc", OPC), IMSI, K, "--opc", "either --opc or --op"),
        (("--amf", "80000"), IMSI, K, "--amf", "4 hexadecimal digits"),
        (("--sqn", "fffffffffffff"), IMSI, K, "--sqn", "12 hexadecimal digits"),
        (("--msisdn", "+49171"), IMSI, K, "--msisdn", "15 digits"),
        ((), "00101abc", K, "IMSI", "6 to 15 digits"),
        (("--apn", "in ternet"), IMSI, K, "--apn", "NAME"),
        (("--apn", "internet,type=ipv5"), IMSI, K, "--apn", "ipv5"),
        (("--apn", "internet,speed=1"), IMSI, K, "--apn", "type="),
        (("--apn", "internet,ul=4294967296"), IMSI, K, "--apn", "bit rate"),
        (("--apn", "internet,ipv4=10.0.0"), IMSI, K, "--apn", "10.0.0"),
        (("--apn", "ims", "--apn", "IMS"), IMSI, K, "--apn", "once"),
    ],
)
def test_wrong_values_are_refused_in_one_line(
    url: str, words: tuple[str, ...], imsi: str, k: str, named: str, expected: str
) -> None:
    result = add(url, *words, imsi=imsi, k=k)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"command line: {named}: got ")
    assert expected in line
    assert k not in line  # no key is echoed
    assert OPC not in line


def test_an_imsi_is_added_once(url: str) -> None:
    add(url)
    result = add(url)
    assert result.exit_code == 2
    assert "--replace" in result.stderr


@pytest.mark.parametrize("command", ["show", "remove"])
def test_an_unknown_imsi_is_an_error(url: str, command: str) -> None:
    result = aaa("subscriber", command, IMSI, "--database", url)
    assert result.exit_code == 1
    assert result.stderr == f"no subscriber has IMSI {IMSI}\n"


@pytest.mark.parametrize("command", [("subscriber", "list"), ("migrate",)])
def test_a_database_has_to_be_named(command: tuple[str, ...]) -> None:
    result = aaa(*command)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "--database" in result.stderr


def test_a_wrong_database_url_is_refused_without_being_printed() -> None:
    result = aaa("subscriber", "list", "--database", "nosuch://user:secretword@host/name")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "SQLAlchemy URL" in line
    assert "secretword" not in line


def test_migrate_tells_the_revision(url: str) -> None:
    first = aaa("migrate", "--database", url).output
    with SubscriberDatabase(url) as database:
        revision = database.revision()
    assert first == f"database is at revision {revision} (was empty)\n"
    assert aaa("migrate", "--database", url).output == f"database is at revision {revision}\n"


def test_sessions_without_a_node_is_one_line(tmp_path: Path) -> None:
    result = aaa("sessions", "--control", str(tmp_path / "aaa.sock"))
    assert result.exit_code == 1
    assert "no node is running there" in result.stderr
    assert aaa("sessions").exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("serve",),
        ("migrate",),
        ("sessions",),
        ("subscriber",),
        ("subscriber", "add"),
        ("subscriber", "list"),
        ("subscriber", "show"),
        ("subscriber", "remove"),
    ],
)
def test_help_everywhere(words: tuple[str, ...]) -> None:
    result = aaa(*words, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_the_example_configuration_is_valid_and_its_defaults_are_the_defaults(tmp_path: Path) -> None:
    example = load(ROOT / "aaa" / "example.yaml", AaaConfiguration)
    bare = tmp_path / "bare.yaml"
    bare.write_text(
        f"identity: {{host: {example.identity.host}, realm: {example.identity.realm}}}\n"
        f"database: {example.database}\ncontrol: {example.control}\n"
    )
    assert load(bare, AaaConfiguration) == example


def test_the_console_script_runs() -> None:
    result = run_aaa("--help")
    assert result.returncode == 0
    assert "subscriber" in result.stdout
