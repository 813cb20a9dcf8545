"""``aaa subscriber``, ``aaa migrate``, ``aaa sessions``: what they print, and refusals of one line, exit 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aaa.command_line import application
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
    apn_defaults = {
        "type": "ipv4v6",
        "ul": 100_000_000,
        "dl": 100_000_000,
        "ipv4": None,
        "ipv6": None,
        "qci": 9,
        "priority": 8,
        "pre_emption_capability": False,
        "pre_emption_vulnerability": True,
        "visited_dynamic_address": False,
        "pgw": None,
        "default": False,
    }
    assert json.loads(shown.output) == {
        "imsi": IMSI,
        "msisdn": "4917100001",
        "enabled": True,
        "non_3gpp_allowed": True,
        "roaming_allowed": True,
        "visited_networks": [],
        "wlan_allowed": True,
        "ambr_ul": None,
        "ambr_dl": None,
        "session_timeout": None,
        "imei": None,
        "algorithm": "milenage",
        "k": "(not shown, see --secrets)",
        "op": None,
        "opc": "(not shown, see --secrets)",
        "tuak_iterations": 1,
        "res_length": 8,
        "amf": "8000",
        "sqn_scheme": "not-time-based",
        "ind_bits": 5,
        "sqn": "0000000000e7",  # SEQ 7, and IND as SEQ has it
        "apns": [
            {
                **apn_defaults,
                "apn": "internet",
                "type": "ipv4",
                "ul": 1000,
                "dl": 2000,
                "ipv4": "10.45.0.7",
                "default": True,
            },
            {**apn_defaults, "apn": "ims"},
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
        (("--apn", "in ternet"), IMSI, K, "--apn", "a name"),
        (("--apn", "internet,type=ipv5"), IMSI, K, "--apn", "ipv5"),
        (("--apn", "internet,speed=1"), IMSI, K, "--apn", "type="),
        (("--apn", "internet,ul=4294967296"), IMSI, K, "--apn", "bit rate"),
        (("--apn", "internet,ipv4=10.0.0"), IMSI, K, "--apn", "10.0.0"),
        (("--apn", "internet,ipv6=2001:db8::/48"), IMSI, K, "--apn", "a /64"),
        (("--apn", "internet,qci=0"), IMSI, K, "--apn", "1 to 254"),
        (("--apn", "internet,priority=16"), IMSI, K, "--apn", "1 to 15"),
        (("--algorithm", "rot13"), IMSI, K, "--algorithm", "milenage or tuak or xor"),
        (("--algorithm", "xor", "--opc", OPC), IMSI, K, "--opc", "none with xor"),
        (("--algorithm", "tuak", "--opc", OPC), IMSI, K, "--opc", "64 hexadecimal digits"),
        (("--res-length", "9"), IMSI, K, "options", "RES of milenage has not 9 octets"),
        (("--tuak-iterations", "2"), IMSI, K, "options", "milenage has not 2 iterations"),
        (("--sqn-scheme", "random"), IMSI, K, "--sqn-scheme", "partly-time-based"),
        (("--ind-bits", "17"), IMSI, K, "--ind-bits", "0 to 16 bits"),
        (("--imei", "49-015420"), IMSI, K, "--imei", "14 to 16 digits"),
        (("--visited-networks", "home"), IMSI, K, "--visited-networks", "001-01"),
        (("--ambr-ul", "5"), IMSI, K, "options", "both directions"),
        (("--session-timeout", "0"), IMSI, K, "options", "session timeout"),
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


def shown(url: str, imsi: str = IMSI) -> dict[str, object]:
    result = aaa("subscriber", "show", imsi, "--database", url, "--json", "--secrets")
    found = json.loads(result.output)
    assert isinstance(found, dict)
    return found


def test_update_changes_what_is_given(url: str) -> None:
    add(url, "--msisdn", "491710001", "--sqn", "ff")
    before = shown(url)
    changes = (
        *("--algorithm", "tuak", "--k", K * 2, "--op", OPC * 2, "--tuak-iterations", "2", "--res-length", "16"),
        *(
            "--sqn-scheme",
            "time-based",
            "--ind-bits",
            "0",
            "--amf",
            "b9b9",
            "--msisdn",
            "",
            "--imei",
            "490154203237518",
        ),
        *("--disabled", "--no-roaming", "--visited-networks", "262-02,310-260", "--no-wlan"),
        *("--ambr-ul", "10", "--ambr-dl", "20", "--session-timeout", "60"),
        *("--apn", "ims,ipv6=2001:db8:0:1::/64,qci=5,priority=1,pgw=pgw.example,type=ipv4-or-ipv6"),
    )
    assert aaa("subscriber", "update", IMSI, "--database", url, *changes).output == f"subscriber {IMSI} changed\n"
    after = shown(url)
    assert after == {
        **before,
        "algorithm": "tuak",
        "k": K * 2,
        "op": OPC * 2,
        "opc": None,
        "tuak_iterations": 2,
        "res_length": 16,
        "sqn_scheme": "time-based",
        "ind_bits": 0,
        "sqn": "0000000000ff",
        "amf": "b9b9",
        "msisdn": None,
        "imei": "490154203237518",
        "enabled": False,
        "roaming_allowed": False,
        "visited_networks": ["262-02", "310-260"],
        "wlan_allowed": False,
        "ambr_ul": 10,
        "ambr_dl": 20,
        "session_timeout": 60,
        "apns": after["apns"],
    }
    assert aaa("subscriber", "update", IMSI, "--database", url, "--enabled").exit_code == 0
    assert shown(url) == {**after, "enabled": True}
    assert aaa("subscriber", "update", IMSI, "--database", url, "--algorithm", "xor", "--k", K).exit_code == 0
    assert [shown(url)[name] for name in ("algorithm", "k", "op", "opc")] == ["xor", K, None, None]


def test_update_does_not_let_sqn_go_back(url: str) -> None:
    add(url, "--sqn", "ffff")
    result = aaa("subscriber", "update", IMSI, "--database", url, "--sqn", "20")
    assert result.exit_code == 2
    assert "does not go back" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert aaa("subscriber", "update", IMSI, "--database", url, "--sqn", "1ffff").exit_code == 0
    nothing = aaa("subscriber", "update", IMSI, "--database", url)
    assert nothing.exit_code == 2
    assert "at least one option" in nothing.stderr


def test_lists_are_filtered_and_paged(url: str) -> None:
    for number, words in enumerate(
        (("--apn", "internet"), ("--apn", "ims", "--disabled"), ("--apn", "internet", "--msisdn", "4917299"))
    ):
        add(url, *words, imsi=f"00101000000000{number}")
    add(url, imsi="262021234567890")

    def listed(*words: str) -> list[str]:
        result = aaa("subscriber", "list", "--database", url, *words, "--json")
        return [found["imsi"][-1] for found in json.loads(result.output)]

    assert listed() == ["0", "1", "2", "0"]
    assert listed("--imsi-prefix", "00101") == ["0", "1", "2"]
    assert listed("--apn", "IMS") == ["1"]
    assert listed("--disabled") == ["1"]
    assert listed("--text", "7299") == ["2"]
    assert listed("--text", "im") == ["1"]
    assert listed("--text", "%") == []
    assert listed("--limit", "2") == ["0", "1"]
    assert listed("--limit", "2", "--after", "001010000000001") == ["2", "0"]
    assert aaa("subscriber", "list", "--database", url, "--apn", "-").exit_code == 2


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
        ("subscriber", "update"),
        ("subscriber", "remove"),
        ("subscriber", "import"),
        ("subscriber", "export"),
        ("master-key",),
        ("master-key", "init"),
        ("master-key", "add"),
        ("rekey-database",),
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
