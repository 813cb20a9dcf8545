"""``aaa serve`` told things over its control socket and by ``aaa fault``: rules come, act, are listed and go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aaa.command_line import application
from aaa.config import AaaConfiguration, Role
from aaa.equipment import EquipmentStatus
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.errors import ConfigurationError
from protocols.io.configuration import load, parse
from protocols.io.control import ControlError
from protocols.trace.records import JsonValue
from tests.harness.material import ROOT
from tests.harness.refusals import without_line
from tests.peers.aaa_node import AaaProcess

USER = laboratory_subscriber(1)
OLD_SQN = "faults: [{name: a, action: {old_sqn: true}}]"


@pytest.fixture(scope="module")
def aaa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AaaProcess]:
    node = AaaProcess(
        tmp_path_factory.mktemp("aaa"),
        extra="faults: [{name: configured, match: {imsi: 99*}, action: {silence: true}}]\n",
    )
    node.provision(USER)
    with node:
        yield node


def cli(*words: str | Path) -> Result:
    return CliRunner().invoke(application, [str(word) for word in words])


def test_fault_rules_by_command(aaa: AaaProcess) -> None:
    where = ("-c", aaa.configuration)
    words = ("--imsi", "00101*", "--attempts", "1-2", "--result", "10415:5450", "--backoff", "30", "--times", "2")
    assert cli("fault", "add", "refuse", *words, *where).output == "fault rule refuse added\n"
    listed = cli("fault", "list", "--control", aaa.control).output.splitlines()
    assert listed == [
        "configured  imsi=99*  silence  matched 0, applied 0",
        "refuse  imsi=00101* attempts=1-2  result=DIAMETER_ERROR_USER_NO_NON_3GPP_SUBSCRIPTION backoff=30  "
        "matched 0, applied 0  2 left",
    ]
    rules = json.loads(cli("fault", "list", "--json", *where).output)
    assert [rule["origin"] for rule in rules] == ["configuration", "control"]
    assert rules[1]["match"] == {"imsi": "00101*", "attempts": "1-2"}
    assert cli("fault", "remove", "refuse", *where).output == "fault rule refuse removed\n"
    assert cli("fault", "add", "again", "--wrong-mac", "--disabled", *where).exit_code == 0
    assert cli("fault", "clear", *where).output == "2 fault rules removed\n"
    assert cli("fault", "list", *where).output == ""
    configured: dict[str, JsonValue] = {"name": "configured", "match": {"imsi": "99*"}, "action": {"silence": True}}
    assert aaa.call("faults.add", rule=configured)["origin"] == "control"
    assert aaa.call("node.status")["faults"] == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("x",), "command line: action: got a mapping, expected one of wrong_autn, "),
        (("x", "--result", "2001"), "command line: action.result: got '2001', expected a result that refuses"),
        (("x", "--silence", "--imsi", "22-1"), "command line: match.imsi: got '22-1', expected an IMSI, a prefix"),
        (("x", "--silence", "--attempts", "0"), "command line: match.attempts: got '0', expected an attempt's number"),
        (("x", "--silence", "--step", "last"), "command line: match.step: got 'last', expected 'identity', "),
        (("x", "--silence", "--delay", "0"), "command line: action.delay: got 0.0, expected more than 0"),
        (("x", "--wrong-mac", "--backoff", "0"), "command line: action.backoff: got 0, expected at least 1"),
        (("x", "--wrong-mac", "--delay", "nan"), "command line: action.delay: got "),
        (("x", "--wrong-mac", "--share", "inf"), "command line: match.share: got "),
        (("x" * 500, "--wrong-mac"), "command line: name: got "),
        (("a b", "--silence"), "command line: name: got 'a b', expected text like "),
    ],
)
def test_a_bad_rule_on_the_command_line_is_one_line(words: tuple[str, ...], line: str) -> None:
    result = cli("fault", "add", *words, "--control", "nowhere.sock")
    assert result.exit_code == 2
    (said,) = result.stderr.splitlines()
    assert said.startswith(line)


def test_a_command_without_a_node_is_one_line() -> None:
    result = cli("fault", "list")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("faults.add", {}, "bad-params"),
        ("faults.add", {"rule": {"name": "x"}}, "bad-params"),
        ("faults.add", {"rule": {"name": "x", "action": {"nonsense": True}}}, "bad-params"),
        ("faults.add", {"rule": {"name": "configured", "action": {"silence": True}}}, "exists"),
        ("faults.remove", {"name": "nobody"}, "not-found"),
        ("faults.remove", {"name": 7}, "bad-params"),
        ("subscribers.get", {"imsi": "1"}, "bad-params"),
        ("subscribers.get", {"imsi": "001019999999999"}, "not-found"),
        ("subscribers.get", {"imsi": str(USER.imsi), "secrets": "yes"}, "bad-params"),
        ("subscribers.list", {"cursor": "x"}, "bad-params"),
        ("subscribers.list", {"apn": "not an apn"}, "bad-params"),
        ("subscribers.list", {"enabled": "maybe"}, "bad-params"),
        ("subscribers.add", {"subscriber": "all"}, "bad-params"),
        ("subscribers.update", {"imsi": str(USER.imsi), "changes": {"imsi": "001019999999999"}}, "refused"),
        ("subscribers.remove", {"imsi": "001019999999999"}, "not-found"),
        ("subscribers.import", {"subscribers": []}, "bad-params"),
        ("subscribers.import", {"text": "001010000000009,0,0", "format": "xml"}, "bad-params"),
        ("subscribers.import", {"text": "# nobody", "format": "csv"}, "bad-params"),
        ("subscribers.import", {"text": "subscribers: {", "format": "yaml"}, "bad-params"),
        ("subscribers.import", {"subscribers": [7, {}]}, "bad-params"),
        ("subscribers.export", {"format": "xml"}, "bad-params"),
        ("registrations.get", {"imsi": str(USER.imsi)}, "not-found"),
        ("sessions.list", {"limit": 2000}, "bad-params"),
        ("sessions.get", {"id": "none"}, "not-found"),
    ],
)
def test_what_control_refuses(aaa: AaaProcess, method: str, params: dict[str, JsonValue], code: str) -> None:
    with pytest.raises(ControlError) as refused:
        aaa.call(method, **params)
    assert refused.value.code == code
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("form", ["csv", "yaml"])
def test_the_parts_of_an_export_make_one_file(aaa: AaaProcess, form: str) -> None:
    aaa.provision(*(laboratory_subscriber(number) for number in range(2, 6)))
    whole = aaa.call("subscribers.export", format=form, secrets=True)
    assert whole["next"] is None
    text, cursor = "", None
    while not text or cursor is not None:
        part = aaa.call("subscribers.export", format=form, secrets=True, limit=2, cursor=cursor)
        text, cursor = text + str(part["text"]), part["next"]
    assert text == whole["text"]


def configuration(extra: str) -> AaaConfiguration:
    text = (
        "identity: {host: aaa.example.org, realm: example.org}\ndatabase: sqlite:///aaa.db\ncontrol: aaa.sock\n" + extra
    )
    return parse(text, AaaConfiguration, file="f")


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (
            "faults: [{name: a, action: {silence: true}}, {name: a, action: {silence: true}}]",
            "f: faults: got a list, expected every rule's name once",
        ),
        ("faults: [{name: a}]", "f: faults.0.action: got nothing, expected a value"),
        (
            "faults: [{name: a, action: {result: NONSENSE}}]",
            "f: faults.0.action.result: got 'NONSENSE', expected a result's name, its number, or vendor:number",
        ),
        (
            "faults: [{name: a, match: {share: 2}, action: {silence: true}}]",
            "f: faults.0.match.share: got 2, expected at most 1",
        ),
        ("faults: [{name: a, action: {delay: -1}}]", "f: faults.0.action.delay: got -1, expected more than 0"),
        (
            "faults: [{name: a, match: {command: XYR}, action: {silence: true}}]",
            "f: faults.0.match.command: got 'XYR', expected 'DER', 'AAR', 'STR', 'MAR' or 'SAR'",
        ),
    ],
)
def test_a_bad_rule_in_the_configuration_is_one_line(extra: str, line: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        configuration(extra)
    said = without_line(refused.value)
    assert said.startswith(line)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ("equipment: {black: [nothing]}", "f: equipment.black.0: got 'nothing', expected an IMEI of 14 to 16 digits"),
        ("equipment: {black: nowhere.txt}", "f: equipment.black: got 'nowhere.txt', expected a list, or a text file"),
        (
            "equipment: {black: ['35*'], grey: ['35*']}",
            "f: equipment: got a mapping, expected every device in one list only",
        ),
        ("equipment: {unknown: pink}", "f: equipment.unknown: got 'pink', expected 'white', 'grey' or 'black'"),
    ],
)
def test_a_bad_equipment_list_is_one_line(extra: str, line: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        configuration(extra)
    assert without_line(refused.value).startswith(line)


def test_an_equipment_list_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "stolen.txt").write_text("35693803*\n")
    text = (
        "identity: {host: aaa.example.org, realm: example.org}\n"
        "control: aaa.sock\nequipment: {black: stolen.txt, unknown: grey}\n"
    )
    listed = parse(text, AaaConfiguration, directory=tmp_path).equipment.as_list()
    assert listed.status("35693803000000") is EquipmentStatus.BLACK
    assert listed.status("01000000000000") is EquipmentStatus.GREY


def test_a_server_without_keys_refuses_rules_that_need_them() -> None:
    made = configuration("hss: {peers: [{host: hss.example.org, address: 127.0.0.1}]}\n" + OLD_SQN)
    made.check(Role.BOTH, "f")
    with pytest.raises(ConfigurationError) as refused:
        made.check(Role.AAA, "f")
    assert without_line(refused.value) == (
        "f: faults.0.action: got 'old SQN', expected another action: "
        "this one needs the subscribers' keys, and the role is aaa"
    )


def test_the_rule_in_the_example_is_one() -> None:
    """What stands there in a comment, every key of it."""
    text = (ROOT / "aaa" / "example.yaml").read_text(encoding="utf-8")
    block = text[text.index("#   faults:\n") : text.index("\nfaults: []")]
    written = "\n".join(line.removeprefix("#   ") for line in block.splitlines())
    excluded = ("silence", "old_sqn", "clear_amf_bit")  # by another that stands there
    written = "\n".join(line for line in written.splitlines() if line.strip().partition(":")[0] not in excluded)
    (rule,) = configuration(written.replace("step: final", "step: challenge")).faults
    names = type(rule.action).model_fields
    assert rule.action.given == set(names) - set(excluded)
    assert load(ROOT / "aaa" / "example.yaml", AaaConfiguration).faults == ()
