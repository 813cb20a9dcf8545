"""Who the UEs of a fleet are and what they do: rules, shares, schedules, all the same for the same seed."""

from __future__ import annotations

import hashlib
import hmac
import re
import stat
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aaa.command_line import application as aaa
from aaa.subscribers import Subscriber, SubscriberDatabase
from lab.__main__ import application as lab
from lab.fleet.arrivals import Arrivals
from lab.fleet.config import FleetConfiguration
from lab.fleet.mix import PersonaMix
from lab.fleet.plan import FleetPlan, Part
from lab.fleet.rule import SubscriberRule, read_master
from lab.fleet.schedule import Action, find, shipped
from lab.fleet.subscribers import export, subscriber
from protocols.errors import ConfigurationError
from protocols.io.configuration import load
from protocols.secret import Secret
from protocols.threegpp.identity import Imsi

MASTER = Secret(bytes(range(32)))
RULE = SubscriberRule(first_imsi=Imsi("001010000000001"), master=MASTER)
ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "lab" / "fleet" / "example.yaml"


# --- Subscribers ------------------------------------------------------------------------------------


def test_keys_are_made_by_the_formula_that_is_stated() -> None:
    k, opc = RULE.keys(41)
    assert k.reveal() == hmac.new(MASTER.reveal(), b"K:001010000000042", hashlib.sha256).digest()[:16]
    assert opc.reveal() == hmac.new(MASTER.reveal(), b"OPc:001010000000042", hashlib.sha256).digest()[:16]


@pytest.mark.parametrize("form", ["csv", "yaml"])
def test_the_hss_has_exactly_the_subscribers_of_the_rule(tmp_path: Path, form: str) -> None:
    output, config = tmp_path / f"subscribers.{form}", tmp_path / "aaa.yaml"
    master = tmp_path / "fleet.master"
    master.write_text(MASTER.reveal().hex())
    config.write_text(
        "identity: {host: aaa.test, realm: test}\ndatabase: sqlite:///aaa.db\ncontrol: aaa.sock\n", encoding="utf-8"
    )
    words = ["fleet", "subscribers", "--count", "7", "--master", str(master), "--output", str(output)]
    made = CliRunner().invoke(lab, [*words, "--apn", "internet", "--apn", "ims"])
    assert made.exit_code == 0, made.output
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    apns = ["--apn", "internet", "--apn", "ims"] if form == "csv" else []
    done = CliRunner().invoke(aaa, ["subscriber", "import", "-c", str(config), str(output), *apns])
    assert done.exit_code == 0, done.output
    with SubscriberDatabase(f"sqlite:///{tmp_path / 'aaa.db'}") as database:
        found = [_identity(database.get(RULE.imsi(index))) for index in range(7)]
        assert database.get(RULE.imsi(7)) is None
    assert found == [_identity(subscriber(RULE, index, ["internet", "ims"])) for index in range(7)]


def _identity(found: Subscriber | None) -> object:
    assert found is not None
    assert found.opc is not None
    apns = {str(apn.apn) for apn in found.apns}
    return str(found.imsi), found.k.reveal(), found.opc.reveal(), found.algorithm, apns


def test_a_master_key_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "fleet.master"
    made = read_master(file, create=True)
    assert read_master(file).reveal() == made.reveal()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("00ff")
    with pytest.raises(ConfigurationError, match="at least 16 octets in hexadecimal"):
        read_master(file)


def test_an_imsi_range_ends_where_its_digits_end(tmp_path: Path) -> None:
    rule = SubscriberRule(first_imsi=Imsi("999999999999998"), master=MASTER)
    assert str(rule.imsi(1)) == "999999999999999"
    with pytest.raises(ConfigurationError, match="first_imsi"):
        export(rule, 3, ["internet"], tmp_path / "subscribers.yaml")
    assert not (tmp_path / "subscribers.yaml").exists()


# --- Personas ---------------------------------------------------------------------------------------


def test_shares_of_personas_are_exact_and_belong_to_the_seed() -> None:
    mix = PersonaMix.parse("pixel-aosp=60, iphone=30,strongswan=10")
    dealt = [mix.of(index, 7) for index in range(1000)]
    assert Counter(dealt) == {"pixel-aosp": 600, "iphone": 300, "strongswan": 100}
    assert dealt == [mix.of(index, 7) for index in range(1000)]
    assert dealt != [mix.of(index, 8) for index in range(1000)]
    assert PersonaMix.parse(str(mix)) == mix


@pytest.mark.parametrize("text", ["", "a=", "a=0", "a=1001", "a=-1", "a,a", "a=1,,b", "=3", "a=x"])
def test_a_mix_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--persona"):
        PersonaMix.parse(text)


# --- Plans ------------------------------------------------------------------------------------------


def plan(schedule: str = "commute", **changes: object) -> FleetPlan:
    values: dict[str, object] = {"count": 200, "rate": 20.0, "duration": 30.0, "seed": 3, **changes}
    return FleetPlan(schedule=find(schedule).schedule, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("arrivals", list(Arrivals))
def test_a_plan_is_the_same_however_many_processes_share_it(arrivals: Arrivals) -> None:
    whole = list(plan(arrivals=arrivals).arriving())
    parts = [list(plan(arrivals=arrivals).arriving(Part(number=number, of=3))) for number in range(3)]
    assert sorted((each for part in parts for each in part), key=lambda each: each.index) == whole
    assert [each.at for each in whole] == sorted(each.at for each in whole)


def test_arrivals_keep_the_rate() -> None:
    assert [each.at for each in islice(plan().arriving(), 5)] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    poisson = list(plan(count=2000, rate=100.0, arrivals=Arrivals.POISSON).arriving())
    assert poisson[-1].at == pytest.approx(20, rel=0.1)
    gaps = {round(later.at - earlier.at, 6) for earlier, later in zip(poisson, poisson[1:], strict=False)}
    assert len(gaps) > 1500  # no two alike, as they come by themselves


def test_nobody_comes_after_the_end() -> None:
    assert len(list(plan(duration=2.0).arriving())) == 40


def test_steps_are_in_order_vary_by_ue_and_repeat_until_the_rounds_are_over() -> None:
    schedule = find("commute").schedule
    steps = list(plan(rounds=3).steps(11))
    assert [step.event for step in steps] == list(schedule.events) * 3
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    assert steps == list(plan(rounds=3).steps(11))
    assert steps != list(plan(rounds=3).steps(12))
    assert steps != list(plan(rounds=3, seed=4).steps(11))
    endless = list(islice(plan().steps(11), 500))
    assert len(endless) == 500


def test_a_share_is_of_the_same_ues_whatever_the_number_of_processes() -> None:
    def speaks(index: int, **changes: object) -> bool:
        return any(step.event.do is Action.TALK for step in plan("calls", rounds=2, **changes).steps(index))

    speakers = [index for index in range(2000) if speaks(index)]
    assert 140 < len(speakers) < 260  # one in ten
    assert speakers != [index for index in range(2000) if speaks(index, seed=4)]
    for of in (2, 3):  # nor is it one process that has them all
        assert all(len([index for index in speakers if index % of == number]) > 30 for number in range(of))
    steps = list(plan("calls", rounds=2).steps(speakers[0]))
    assert sum(step.event.do is Action.TALK for step in steps) == 2


def test_every_schedule_that_ships_begins_with_an_attach() -> None:
    assert {"stay", "churn", "commute", "flapping"} <= set(shipped())
    for name in shipped():
        playable = find(name)
        assert playable.schedule.name == name
        assert playable.schedule.events[0].do is Action.ATTACH
        assert not playable.left_out


def test_a_schedule_of_moves_is_played_as_far_as_a_fleet_can(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(
        "title: Train\nduration: 1m\naccesses: {a: {}, b: {}}\nevents:\n"
        "  - {at: 0, do: attach, access: b}\n  - {at: 500ms, do: impair, access: a, up: {loss: 0.1}}\n"
        "  - {at: 5, do: move, to: a}\n  - {at: 10, do: suspend}\n  - {at: 20, do: resume, to: b}\n"
        "  - {at: 30, do: rekey-ike}\n"
    )
    playable = find(str(file))
    assert [(event.at, event.do.value, event.to) for event in playable.schedule.events] == [
        (0, "attach", "2"),
        (5, "move", "1"),
        (10, "suspend", None),
        (20, "move", "2"),
        (30, "rekey-ike", None),
        (60, "detach", None),
    ]
    assert playable.left_out == ("impair (1)", "traffic (1)")


SCHEDULE = "name: x\ntitle: X\nevents:\n  - {at: 0, do: attach}\n"
REFUSED = {
    "not there": ("name: x\ntitle: X\n", ": events: got nothing, expected a value"),
    "unknown": (SCHEDULE + "  - {at: 1, do: dance}\n", ":5: events.1.do: got 'dance', expected"),
    "order": (
        SCHEDULE + "  - {at: 5, do: detach}\n  - {at: 4, do: attach}\n",
        "events: got a list, expected events in the order of their times",
    ),
    "first": ("name: x\ntitle: X\nevents:\n  - {at: 0, do: detach}\n", "attach as the first event"),
    "talk": (SCHEDULE + "  - {at: 1, do: talk}\n", ":5: events.1: got a mapping, expected rate and seconds at talk"),
    "rate of voice": (
        SCHEDULE + "  - {at: 1, do: talk, kind: voice, rate: 5, seconds: 9}\n",
        ":5: events.1.rate: got 5, expected no rate where kind is voice",
    ),
    "no seconds of voice": (SCHEDULE + "  - {at: 1, do: talk, kind: voice}\n", "expected rate and seconds at talk"),
    "kind of talk": (SCHEDULE + "  - {at: 1, do: talk, kind: song, seconds: 9}\n", ":5: events.1.kind: got 'song'"),
    "share": (SCHEDULE + "  - {at: 1, do: talk, rate: 5, seconds: 9, share: 2}\n", ":5: events.1.share: got 2"),
    "share of a move": (SCHEDULE + "  - {at: 1, do: move, share: 0.5}\n", "expected kind and share at talk only"),
    "key": (SCHEDULE + "  - {at: 1, do: move, too: next}\n", ":5: events.1.too: got an unknown key, expected no such"),
    "no time": (SCHEDULE + "  - {at: 0, do: detach}\n", "rounds that take time"),
    "no time without detach": (SCHEDULE, "rounds that take time"),
    "no time at a talk": (SCHEDULE + "  - {at: 0, do: talk, rate: 1, seconds: 1}\n", "rounds that take time"),
    "short": (
        "length: 1\n" + SCHEDULE + "  - {at: 5, do: detach}\n",
        ": length: got 1, expected at least the last event's time",
    ),
    "yaml": ("name: [\n", "expected YAML"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_a_schedule_that_is_none_is_refused_in_one_line_with_its_place(tmp_path: Path, case: str) -> None:
    text, expected = REFUSED[case]
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    answer = CliRunner().invoke(lab, ["fleet", "--with-nodes", "--schedule", str(file)])
    assert answer.exit_code == 2
    (line,) = answer.output.splitlines()
    assert line.startswith(str(file))
    assert expected in line


# --- Command lines and configurations ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "--config: got nothing, expected either --config FILE or --with-nodes"),
        (("--with-nodes", "-c", str(EXAMPLE)), "either --config FILE or --with-nodes"),
        (("--with-nodes", "--persona", "pixel=x"), "--persona: got 'pixel=x'"),
        (
            ("--with-nodes", "--schedule", "nowhere"),
            "--schedule: got 'nowhere', expected a file, one of calls, churn, ",
        ),
        (("--with-nodes", "--network", "10.0.0.0/24"), "--network: got '10.0.0.0/24', expected a /24 of 127.0.0.0/8"),
        (("--with-nodes", "--network", "here"), "--network: got 'here'"),
        (("--with-nodes", "--count", "0"), "Invalid value for '--count'"),
        (("--with-nodes", "--rate", "0"), "Invalid value for '--rate'"),
        (("--with-nodes", "--rate", "fast"), "Invalid value for '--rate'"),
        (("--with-nodes", "--duration", "-1"), "Invalid value for '--duration'"),
        (("-c", "missing.yaml"), "missing.yaml: (file): got no such file"),
        (("subscribers", "--output", "s.yaml"), "--master: got nothing"),
        (("subscribers", "--output", "s.txt", "--master", "m"), "--output: got 's.txt', expected a name that ends in"),
        (("subscribers", "--output", "s.csv", "--master", "m", "--first-imsi", "12"), "--first-imsi: got '12'"),
    ],
)
def test_a_wrong_command_line_exits_with_2(
    words: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = CliRunner(env={"COLUMNS": "300"}).invoke(lab, ["fleet", *words])
    assert answer.exit_code == 2, answer.output
    assert expected in re.sub(r"\x1b\[[0-9;]*m", "", answer.output)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  apn: internet", "  apn: ''", ": ue.apn: got '', expected an APN such as internet"),
        ("  apn: internet", "  usim: {}", ": ue.usim: got the key, expected no such key: the fleet sets it"),
        ("    address: 127.0.1.1", "    address: there", ": ue.gateway.address: got 'there', expected an IP address"),
        ('"001010000000001"', '"1234"', ": subscribers.first_imsi: got '1234', expected 6 to 15 digits"),
        ("leave_interval: 30", "leave_interval: 0", ": leave_interval: got 0, expected more than 0"),
        ("  plmn:", "  plnm:", ": ue.plnm: got"),
    ],
)
def test_a_wrong_configuration_exits_with_2_and_names_its_line(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file = tmp_path / "fleet.yaml"
    file.write_text(text.replace(old, new))
    line = next(number for number, each in enumerate(text.splitlines(), start=1) if old in each)
    (tmp_path / "fleet.master").write_text(MASTER.reveal().hex())
    answer = CliRunner().invoke(lab, ["fleet", "-c", str(file)])
    assert answer.exit_code == 2
    assert answer.output.startswith(f"{file}:{line}{expected}"), answer.output


def test_ports_that_only_one_process_can_have_are_refused_for_several(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    text = EXAMPLE.read_text(encoding="utf-8")
    file.write_text(text.replace("127.0.3.1, ike_port: 0", "127.0.3.1, ike_port: 15000"))
    (tmp_path / "fleet.master").write_text(MASTER.reveal().hex())
    answer = CliRunner().invoke(lab, ["fleet", "-c", str(file), "--processes", "2"])
    assert answer.exit_code == 2
    assert "ue.accesses.wifi-b.ike_port: got 15000, expected 0" in answer.output


def test_the_example_has_every_key_with_its_default() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    found = load(EXAMPLE, FleetConfiguration)
    for key, field in FleetConfiguration.model_fields.items():
        assert f"\n{key}:" in text
        if not field.is_required() and key != "destination":
            assert getattr(found, key) == field.default
