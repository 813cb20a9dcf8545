"""``docs/ue.md``, ``personas.md``, ``laboratory.md``, ``fleet.md`` and ``sgi.md`` are right.

Their YAML is configuration, their commands exist, their tables are complete and agree with the code.
"""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from aaa.command_line import application as aaa
from dashboards.config import DashboardsConfig
from epdg.command_line import app as epdg
from epdg.config import ApnSection, EgressMode, EpdgConfiguration
from lab.__main__ import application as lab
from lab.fleet import schedule as fleet_schedule
from lab.fleet.config import FleetConfiguration, FleetFile
from lab.fleet.figures import Latency
from lab.fleet.metrics import FleetCollector, FleetFigures
from lab.mobility import schedule as mobility
from lab.mobility.loader import load_schedule, parse_schedule, shipped
from lab.mobility.player import play
from lab.mobility.result import DirectionFigures, MoveResult, RunResult, StreamFigures
from lab.mobility.stage_name import StageName
from lab.mobility.virtual import VirtualStage
from lab.serving.config import LaboratoryConfiguration
from protocols.io.configuration import ConfigurationModel, load
from protocols.io.documents import read_text
from protocols.io.vectors import load_vectors
from protocols.threegpp.causes import notify_named
from tests.harness.guides import README, ROOT, blocks, commands, example_with, guide, understood
from ue import personas
from ue.command_line import application as ue
from ue.config import UeConfiguration
from ue.retry import RULES, Bar

NAMES = ("ue", "personas", "laboratory", "fleet", "sgi")
GUIDES = {name: guide(name) for name in NAMES}
APPLICATIONS = {"aaa": aaa, "epdg": epdg, "lab": lab, "ue": ue}
BLOCKS = [block for text in GUIDES.values() for block in blocks(text)]
YAML = [(block.of, block.text) for block in BLOCKS if block.language == "yaml"]
KINDS = {"ue", "vectors", "persona", "schedule", "fleet", "fleet-schedule", "dashboards", "epdg", "lab/serving"}
MODELS: dict[str, type[ConfigurationModel]] = {
    "ue": UeConfiguration,
    "dashboards": DashboardsConfig,
    "epdg": EpdgConfiguration,
    "lab/serving": LaboratoryConfiguration,
}


_NAME = re.compile(r"`([^`]+)`")


SHELL = commands(BLOCKS)
OF_README = [line.removeprefix(".venv/bin/") for line in commands(blocks(README)) if line.startswith(".venv/bin/")]
COMMANDS = [line for line in [*SHELL, *OF_README] if line.split()[0] in APPLICATIONS]


def table(guide: str, heading: str) -> dict[str, str]:
    """Rows of the first table after a text: the words in backquotes of the first column, and the row."""
    text = GUIDES[guide]
    found: dict[str, str] = {}
    for line in text[text.index(heading) :].splitlines():
        if line.startswith("|"):
            found = {} if line.startswith("|-") else found | dict.fromkeys(_NAME.findall(line.split("|")[1]), line)
        elif found:
            break
    return found


def test_nothing_in_the_guides_is_left_unchecked() -> None:
    assert {block.language for block in BLOCKS} == {"sh", "yaml", ""}
    assert {of for of, _ in YAML} == KINDS
    others = {line.split()[0] for line in SHELL if line.split()[0] not in APPLICATIONS}
    assert others == {"ip", "pip"}  # what `ip netns` does is in test_ue_namespace


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_exist_with_their_options(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    context = understood(line, APPLICATIONS)
    for schedule in context.params.get("schedules", ()):
        assert schedule in shipped() or schedule.endswith(".yaml")


@pytest.mark.parametrize(("of", "text"), [(of, text) for of, text in YAML if of in MODELS])
def test_pieces_of_configuration_fit_into_the_example(of: str, text: str, tmp_path: Path) -> None:
    load(_written(tmp_path / "piece.yaml", example_with(of, text)), MODELS[of])


def _written(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def block(of: str) -> str:
    """The text of the one block of a kind."""
    (text,) = [text for kind, text in YAML if kind == of]
    return text


def test_the_vectors_of_the_guide_load(tmp_path: Path) -> None:
    assert len(load_vectors(_written(tmp_path / "vectors.yaml", block("vectors"))).vectors) == 2


def test_the_persona_of_the_guide_is_one(tmp_path: Path) -> None:
    file = _written(tmp_path / "my-phone.yaml", block("persona"))
    example = (ROOT / "ue" / "example.yaml").read_text("utf-8").replace("persona: null", f"persona: {file}")
    configuration = load(_written(tmp_path / "ue.yaml", example), UeConfiguration)
    assert configuration.persona is not None
    assert configuration.persona.name == "my-phone"


def test_the_schedule_of_the_guide_is_one() -> None:
    assert parse_schedule(block("schedule"), "docs/laboratory.md").expect.moves == 2


def test_the_fleet_of_the_guide_is_one(tmp_path: Path) -> None:
    _written(tmp_path / "fleet.master", "00" * 32)
    file = FleetFile.read(_written(tmp_path / "fleet.yaml", block("fleet")))
    assert file.accesses == ("wifi-a", "wifi-b")
    assert {*yaml.safe_load(block("fleet"))} <= {*FleetConfiguration.model_fields}
    playable = fleet_schedule.read(read_text(block("fleet-schedule"), "docs/fleet.md"))
    assert [event.do.value for event in playable.schedule.events] == ["attach", "talk", "move", "rekey-child", "detach"]


def test_the_table_of_refusals_is_what_the_ue_does() -> None:
    bars = {"nobody": Bar.NONE, "its network": Bar.PLMN, "this gateway": Bar.GATEWAY, "everybody": Bar.EVERYWHERE}
    rows = re.findall(r"^\| `(\w+)` (\d+) \| ([\w ]+) \| (yes|no) \|$", GUIDES["ue"], re.MULTILINE)
    assert not [name for name, number, _, _ in rows if notify_named(name) != int(number)]
    written = {int(number): (bars[who], elsewhere == "yes") for _, number, who, elsewhere in rows}
    assert written == {first: (rule.bars, rule.elsewhere) for rule in RULES for first, _ in rule.causes}


def test_the_guide_has_every_persona_and_what_it_does_not_check() -> None:
    header = next(line for line in GUIDES["personas"].splitlines() if line.startswith("| |"))
    above = dict(re.findall(r"^\| `([\w-]+)` \| `([\w-]+)` \| .+ \|$", GUIDES["personas"], re.MULTILINE))
    assert {*re.findall(r"`([\w-]+)`", header), *above} == {*personas.shipped()}
    lax = re.findall(r"^\| `([\w-]+)` \| ([^|]+) \|$", GUIDES["personas"], re.MULTILINE)
    read = [personas.read_persona(personas.persona_file(name))[0] for name in personas.shipped()]
    assert sorted(lax) == sorted((header.name, sentence) for header in read for sentence in header.lax)
    assert above == {each.name: each.based_on for each in read if each.based_on is not None}
    refused = re.search(r"are refused in a persona: (.+?)\.\n", GUIDES["personas"], re.DOTALL)
    assert refused is not None
    assert {*re.findall(r"`(\w+)`", refused[1])} == personas.OWN


def test_the_guide_has_every_schedule_that_ships_with_its_stages() -> None:
    rows = table("laboratory", "## The schedules that ship")
    assert {*rows} == {*shipped()}
    for name, row in rows.items():
        stages = row.strip("| ").split("|")[-1].strip()
        written = {*StageName} if stages == "all" else {StageName(each) for each in stages.split(", ")}
        assert written == {*load_schedule(name).schedule.stages}, name
    assert len(shipped()) == 18, "the README and the changelog say eighteen"


@pytest.mark.parametrize(
    ("guide", "heading", "model"),
    [
        ("laboratory", "| key | default | |\n|---|---|---|\n| `title`", mobility.Schedule),
        ("laboratory", "An access:", mobility.AccessSection),
        ("laboratory", "A direction (each", mobility.DirectionSection),
        ("laboratory", "Of a move (`expect`", mobility.MoveExpectation),
        ("laboratory", "Of the whole (`expect`", mobility.Expectations),
        ("fleet", "| `name`, `title` |", fleet_schedule.FleetSchedule),
    ],
)
def test_tables_of_keys_are_complete(guide: str, heading: str, model: type[ConfigurationModel]) -> None:
    assert {*table(guide, heading)} == {*model.model_fields}


def test_the_table_of_events_is_complete() -> None:
    rows = table("laboratory", "### Events")
    assert {*rows} == {*mobility.EVENTS}
    for name, row in rows.items():
        keys = {*mobility.EVENTS[name].model_fields} - {"at", "do"}
        assert keys <= {*re.findall(r"`(\w+)`", row)}, name
    text = GUIDES["laboratory"]
    sentence = text[text.index("`message` is one of") : text.index("The laboratory opens")]
    assert {*re.findall(r"`([\w-]+)`", sentence)} == {"message", *(kind.value for kind in mobility.MessageKind)}


@pytest.mark.parametrize(
    ("heading", "result", "besides"),
    [("| `schema`, `passed` |", RunResult, {"schema", "passed"}), ("A move:\n", MoveResult, set())],
)
def test_tables_of_results_are_complete(heading: str, result: Any, besides: set[str]) -> None:
    rows = table("laboratory", heading)
    assert {*rows} == {each.name for each in fields(result)} | besides
    direction = DirectionFigures if result is MoveResult else StreamFigures
    assert {each.name for each in fields(direction)} <= {*re.findall(r"`(\w+)`", rows["uplink"])}


def test_the_guide_has_every_metric_and_every_schedule_of_a_fleet() -> None:
    rows = table("fleet", "| metric | labels |")
    families = list(FleetCollector(FleetFigures).collect())
    there = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert {*rows} == there
    assert {*table("fleet", "| schedule | |")} == {*fleet_schedule.shipped()}
    assert all(f"`{latency.value}`" in GUIDES["fleet"] for latency in Latency)
    actions = {action.value for action in fleet_schedule.Action}
    sentence = re.search(r"^`do` is (.+?)\. `to`", GUIDES["fleet"], re.MULTILINE | re.DOTALL)
    assert sentence is not None
    assert actions <= {*re.findall(r"`([\w-]+)`", sentence[1])}


def test_the_guide_has_every_egress_and_every_key_of_an_apn() -> None:
    assert {*table("sgi", "| `egress` |")} == {mode.value for mode in EgressMode}
    named = {*re.findall(r"`?(\w+)`?:", GUIDES["sgi"]), *_NAME.findall(GUIDES["sgi"])}
    elsewhere = {"p_cscf", "requested_address"}  # what UEs are told has nothing to do with packets
    assert {*ApnSection.model_fields} - elsewhere <= named


def test_the_schedule_of_the_guide_holds(tmp_path: Path) -> None:
    file = _written(tmp_path / "my-schedule.yaml", block("schedule"))
    result, _ = play(load_schedule(str(file)), VirtualStage(), None, lambda name, at, words: None)
    assert not [check for check in result.checks if not check.passed]
    assert [move.target for move in result.moves] == ["canteen", "desk"]
