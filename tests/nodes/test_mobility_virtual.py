"""Every shipped schedule on virtual time: its expectations hold, and the same seed gives the same octets."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lab.__main__ import application
from lab.mobility.loader import NamedSchedule, load_schedule, parse_schedule, shipped
from lab.mobility.player import play
from lab.mobility.result import PacketSeries, RunResult
from lab.mobility.table import show
from lab.mobility.virtual import VirtualStage

SHORT = """
title: Short
duration: 3
accesses: {a: {up: {delay: 10ms}, down: {delay: 10ms}}, b: {up: {delay: 10ms, loss: 0.1}, down: {delay: 10ms}}}
events:
  - {at: 0, do: attach}
  - {at: 1, do: move, to: b, expect: {outcome: completed, outage_ms: %s}}
"""


def played(named: NamedSchedule, seed: int | None = None) -> tuple[RunResult, PacketSeries]:
    return play(named, VirtualStage(), seed, lambda name, at, words: None)


def of_text(text: str) -> NamedSchedule:
    return NamedSchedule(name="of-text", schedule=parse_schedule(text), file=Path("of-text.yaml"))


@pytest.mark.parametrize("name", shipped())
def test_expectations_of_a_shipped_schedule_hold(name: str) -> None:
    result, _ = played(load_schedule(name))
    assert [check for check in result.checks if not check.passed] == []
    assert result.attaches


def test_same_seed_same_octets_in_two_processes_and_another_seed_another_result(tmp_path: Path) -> None:
    """The other process has another hash seed and time zone; this one has done other things before."""
    schedule = tmp_path / "short.yaml"
    schedule.write_text(SHORT % 300, encoding="utf-8")
    digests, texts = [], []
    assert os.environ.get("PYTHONHASHSEED") != "1"
    environment = {**os.environ, "PYTHONHASHSEED": "1", "TZ": "Etc/GMT+5"}
    for elsewhere in (False, True):
        output = tmp_path / str(elsewhere)
        words = ["run", str(schedule), "--seed", "5", "--output", str(output)]
        if elsewhere:
            command = [sys.executable, "-m", "lab", *words]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        else:
            assert CliRunner().invoke(application, words).exit_code == 0
        stem = "short-virtual-5"
        written = {path.name: path.read_bytes() for path in output.iterdir()}
        assert sorted(written) == [f"{stem}.json", f"{stem}.png", f"{stem}.svg"]
        assert str(tmp_path).encode() not in b"".join(written.values())
        texts.append(written[f"{stem}.json"].decode())
        digests.append([hashlib.sha256(written[f"{stem}.{kind}"]).hexdigest() for kind in ("json", "svg", "png")])
    assert digests[0] == digests[1]
    another, _ = played(NamedSchedule(name="short", schedule=parse_schedule(SHORT % 300), file=schedule), seed=6)
    assert another.to_text().replace('"seed": 6', '"seed": 5') != texts[0]


def test_a_move_is_measured_from_the_last_packet_before_to_the_first_one_after() -> None:
    result, series = played(of_text(SHORT.replace(", loss: 0.1", "") % 300))
    (move,) = result.moves
    assert (move.origin, move.target, move.commanded, move.outcome) == ("a", "b", True, "completed")
    assert move.uplink is not None
    assert move.downlink is not None
    for figures, fates in ((move.uplink, series.uplink), (move.downlink, series.downlink)):
        moments = sorted(fate.received for fate in fates if fate.received is not None)
        before, after = max(
            zip(moments, moments[1:], strict=False),
            key=lambda pair: round(pair[1] - pair[0], 6) if pair[1] >= 1.0 else 0.0,  # the first of those alike
        )
        assert figures.outage_ms == pytest.approx((after - before) * 1000, abs=0.01)
        assert figures.outage_from_ms == pytest.approx(before * 1000, abs=0.01)
        assert figures.lost == sum(fate.received is None and 1.0 <= fate.sent < 2.1 for fate in fates)
    assert move.update_ms == 20.0  # one round trip of twice 10 ms
    assert move.check_ms == 20.0
    assert (move.requests, move.retransmissions, move.round_trips, move.checks) == (1, 0, 2, 1)
    assert move.path_before.local.startswith("10.1.0.2:")
    assert move.path_after is not None
    assert move.path_after.local.startswith("10.2.0.2:")


def test_an_expectation_that_does_not_hold_fails_the_run() -> None:
    result, _ = played(of_text(SHORT % 1))
    failed = [check.subject for check in result.checks if not check.passed]
    assert failed == ["move 1 (a to b): uplink outage, ms", "move 1 (a to b): downlink outage, ms"]
    assert not result.passed


def test_a_move_to_an_access_that_answers_nothing_ends_on_the_old_one_which_was_kept() -> None:
    captive = SHORT.replace(", loss: 0.1}, down: {delay: 10ms}", "}, captive: true")
    text = captive.replace("duration: 3", "duration: 40").replace(
        "to: b, expect: {outcome: completed, outage_ms: %s}",
        ("to: b, make: make-before-break, expect: {outcome: failed}"),
    )
    result, _ = played(
        of_text(text + "expect: {moves: 0, attaches: 1, final_access: a, outage_ms: 30, packets_lost: 0}\n")
    )
    assert [check for check in result.checks if not check.passed] == []
    (move,) = result.moves
    assert str(move.why).startswith("another path answered: 10.1.0.2:4500")


@pytest.mark.parametrize("persona", ["strongswan", "pixel-aosp"])
def test_a_schedule_may_name_a_persona(persona: str) -> None:
    result, _ = played(of_text(f"persona: {persona}\n" + SHORT.replace(", loss: 0.1", "") % 100))
    assert [check for check in result.checks if not check.passed] == []
    (move,) = result.moves
    # strongSwan asks on the new path before it tells of it (RFC 4555 §3.10)
    assert (move.requests, move.spis_unchanged) == ((2, True) if persona == "strongswan" else (1, True))


def test_what_is_left_over_is_a_leak_and_fails_the_run() -> None:
    deaf = "".join(f"  - {{at: 2.9, do: captive, access: {access}}}\n" for access in ("a", "b"))
    result, _ = played(of_text((SHORT + deaf).replace(", loss: 0.1", "") % 300))
    assert any("the gateway's sessions" in leak for leak in result.leaks)
    assert [check.subject for check in result.checks if not check.passed] == ["leaks"]


def test_messages_are_lost_by_their_kind_and_counted() -> None:
    for kind in ("update-request", "update-response", "cookie2-request", "cookie2-response"):
        text = SHORT.replace(", loss: 0.1", "").replace("events:", "gateway: {addresses: {main: ipv4}}\nevents:") % 900
        text = text.replace("  - {at: 1,", f"  - {{at: 1, do: lose, message: {kind}}}\n  - {{at: 1,", 1)
        result, _ = played(of_text(text))
        assert result.messages_lost == {kind: 1}
        (move,) = result.moves
        assert move.outcome == "completed"
        # an UPDATE that is lost costs the UE a retransmission, a COOKIE2 the gateway
        assert (move.retransmissions > 0) is kind.startswith("update")
        assert move.check_ms is not None
        assert (move.check_ms > 100) is kind.startswith("cookie2")


def test_the_answer_to_a_liveness_check_is_lost_though_it_looks_for_nats_as_well() -> None:
    text = SHORT.replace(", loss: 0.1", "") % 900
    check = "  - {at: 1, do: lose, message: liveness-response}\n  - {at: 1, do: liveness}\n"
    result, _ = played(of_text(text.replace("  - {at: 1,", check + "  - {at: 1.1,", 1)))
    assert result.messages_lost == {"liveness-response": 1}
    assert result.passed


def test_what_is_lost_on_the_way_is_the_moves_and_the_silence_of_a_dead_gateway_is_told_whole() -> None:
    text = (SHORT % 900).replace(", loss: 0.1", "").replace("10ms", "50ms")
    result, series = played(of_text(text))
    (move,) = result.moves
    for figures, fates in ((move.uplink, series.uplink), (move.downlink, series.downlink)):
        assert figures is not None
        assert figures.lost == sum(fate.received is None for fate in fates)  # nothing else takes any here
    dead = "title: T\nduration: 130\naccesses: {a: {}}\nevents:\n  - {at: 0, do: attach}\n"
    dead += "  - {at: 5, do: gateway-down, address: main}\n  - {at: 100, do: gateway-up, address: main}\n"
    result, series = played(of_text(dead + "  - {at: 110, do: attach}\n"))
    assert len(result.attaches) == 2
    for whole, fates in ((result.uplink, series.uplink), (result.downlink, series.downlink)):
        moments = sorted(fate.received for fate in fates if fate.received is not None)
        longest = max(after - before for before, after in itertools.pairwise(moments))
        assert longest > 100
        assert whole.outage_ms == pytest.approx(longest * 1000, abs=0.01)


def test_command_line_lists_and_refuses(tmp_path: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(application, ["list"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in shipped())
    unknown = runner.invoke(application, ["run", "walk-hom"])
    assert unknown.exit_code == 2
    elsewhere = runner.invoke(application, ["run", "suspend-weekend", "--stage", "loopback"])
    assert elsewhere.exit_code == 2
    nowhere = tmp_path / "file" / "below"
    nowhere.parent.write_text("", encoding="utf-8")
    before = runner.invoke(application, ["run", "suspend-weekend", "--output", str(nowhere)])
    assert (before.exit_code, before.stdout) == (1, "")  # said before anything is played
    phone = tmp_path / "phone.yaml"
    phone.write_text((SHORT % 1).replace("duration", "persona: nokia\nduration"), encoding="utf-8")
    refused = runner.invoke(application, ["run", str(phone)])
    assert refused.exit_code == 2
    assert f"{phone}:3: persona: got 'nokia', expected one of" in refused.stderr
    broken = tmp_path / "broken.yaml"
    broken.write_text("title: T\nduration: 3\naccesses: {a: {}}\nevents:\n  - {at: 0, do: atach}\n", encoding="utf-8")
    assert runner.invoke(application, ["run", str(broken)]).exit_code == 2


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("ue: {hello: 1}", "6: ue.hello: got an unknown key"),
        ("ue:\n  gateway:\n    ike_port: no", "8: ue.gateway.ike_port: got 'no'"),
        ("epdg: {listen: 5}", "6: epdg.listen: got 5"),
        ("persona: nokia", "6: persona: got 'nokia'"),
    ],
)
def test_what_a_node_refuses_is_told_of_the_schedules_file(tmp_path: Path, section: str, expected: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"title: T\nduration: 3\naccesses: {{a: {{}}}}\nevents:\n  - {{at: 0, do: attach}}\n{section}\n")
    answer = CliRunner().invoke(application, ["run", str(file)])
    assert answer.exit_code == 2
    (line,) = answer.output.splitlines()
    assert line.startswith(f"{file}:{expected}")


def test_exit_status_and_json_tell_of_failure(tmp_path: Path) -> None:
    schedule = tmp_path / "short.yaml"
    schedule.write_text(SHORT % 1, encoding="utf-8")
    output = tmp_path / "out"
    answer = CliRunner().invoke(application, ["run", str(schedule), "--output", str(output), "--repeat", "2"])
    assert answer.exit_code == 1
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(output.glob("*.json"))]
    assert [result["seed"] for result in results] == [1, 2]
    assert {result["schema"] for result in results} == {1}
    assert not any(result["passed"] for result in results)


@pytest.mark.parametrize("stage", ["virtual", "loopback"])
def test_a_backend_that_a_stage_does_not_have_is_refused_in_one_line(stage: str) -> None:
    done = CliRunner().invoke(application, ["run", "walk-home", "--stage", stage, "--backend", "kernel"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("command line: --backend: got 'kernel', expected auto or python: ")
    assert stage in done.stderr


@pytest.mark.parametrize("words", [[], ["--all", "lift"]])
def test_which_schedules_are_played_is_said_once(words: list[str]) -> None:
    done = CliRunner().invoke(application, ["run", *words])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("command line: SCHEDULES: got ")


@pytest.mark.long
def test_all_schedules_of_a_stage_by_one_word() -> None:
    done = CliRunner().invoke(application, ["run", "--all"])
    assert done.exit_code == 0
    assert done.stdout.count("Every expectation held.") == len(shipped())


def test_tables_fit_a_terminal_of_80_columns() -> None:
    result, _ = played(
        of_text((SHORT % 300).replace("b:", "metropolitan-network:").replace("to: b", "to: metropolitan-network"))
    )
    shown = io.StringIO()
    show(result, Console(file=shown, width=80))
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    (move,) = result.moves
    assert move.update_ms is not None
    assert any(f"{move.update_ms:.1f}" in line and "1+0" in line for line in lines)
    assert "…" not in shown.getvalue()


@pytest.mark.parametrize("stage", ["virtual", "loopback"])
def test_the_kernels_nat_is_refused_where_there_is_none(stage: str) -> None:
    done = CliRunner().invoke(application, ["run", "walk-home", "--stage", stage, "--nat", "nftables"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"command line: --nat: got 'nftables', expected lab: on {stage} ")


@pytest.mark.parametrize(
    ("lifetime", "event", "line", "key"),
    [
        ("1500ms", "", 3, "accesses.a.nat.lifetime: got '1.5'"),
        ("30d", "", 3, "accesses.a.nat.lifetime: got '2.592e+06'"),
        ("9s", "  - {at: 1, do: nat-appears, access: a, nat: {kind: symmetric, lifetime: 0.5}}\n", 6, "events.1.nat."),
    ],
)
def test_a_lifetime_that_connection_tracking_cannot_have_is_refused_in_one_line(
    lifetime: str, event: str, line: int, key: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    accesses = f"accesses: {{a: {{nat: {{kind: restricted, lifetime: {lifetime}}}}}}}"
    file.write_text(f"title: T\nduration: 3\n{accesses}\nevents:\n  - {{at: 0, do: attach}}\n{event}", encoding="utf-8")
    words = ["run", str(file), "--stage", "namespaces", "--nat", "nftables"]
    done = CliRunner().invoke(application, words)
    assert (done.exit_code, done.stdout) == (2, "")
    (told,) = done.stderr.splitlines()
    assert told.startswith(f"{file}:{line}: {key}")
    assert told.endswith("expected whole seconds up to 2000000 where nftables translates")


def test_a_result_says_what_carried_esp_and_what_translated() -> None:
    result, _ = played(of_text(SHORT % 300))
    assert result.to_json()["nat"] == "lab"
    assert result.to_json()["backends"] == {"ue": "python", "epdg": "python"}
    assert result.place == "virtual, ESP by python"
