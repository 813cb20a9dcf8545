"""``docs/aaa.md`` is right: its YAML is configuration, its commands and paths exist, its tables are complete.

So are the YAML and the commands of the README.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from aaa.command_line import application as aaa
from aaa.config import AaaConfiguration
from aaa.faults.rule import Action, FaultRule
from aaa.subscribers.document import APN_FIELDS, DocumentError, subscriber_from
from aaa.subscribers.forms.yaml_form import parse_yaml
from dashboards.app import API, MODULES
from epdg.command_line import app as epdg
from epdg.config import EpdgConfiguration
from epdg.refusals import SHIPPED, read_refusals
from protocols.io.configuration import ConfigurationModel, load
from tests.harness.guides import README, blocks, commands, example_with, guide, understood
from ue.command_line import application as ue
from ue.config import UeConfiguration

GUIDE = guide("aaa")
MODELS: dict[str, type[ConfigurationModel]] = {
    "aaa": AaaConfiguration,
    "epdg": EpdgConfiguration,
    "ue": UeConfiguration,
}
APPLICATIONS = {"aaa": aaa, "epdg": epdg, "ue": ue}
BLOCKS = blocks(GUIDE)
PIECES = [(block.of, block.text) for block in [*BLOCKS, *blocks(README)] if block.of in MODELS]
SHELL = commands(BLOCKS)
COMMANDS = [line for line in [*SHELL, *commands(blocks(README))] if line.split()[0] in APPLICATIONS]
COMMANDS += re.findall(r"`(aaa fault add [^`]+)`", GUIDE)
REQUESTS = [line for line in SHELL if line.startswith("curl ")]


def test_nothing_in_the_guide_is_left_unchecked() -> None:
    assert {language for language, _, _ in BLOCKS} == {"sh", "yaml"}
    assert {of for language, of, _ in BLOCKS if language == "yaml"} == {*MODELS, "subscribers", "refusals"}
    assert len(SHELL) == len(REQUESTS) + sum(line.split()[0] in APPLICATIONS for line in SHELL)


@pytest.mark.parametrize(("node", "text"), PIECES)
def test_pieces_of_configuration_fit_into_the_example(node: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / f"{node}.yaml"
    file.write_text(example_with(node, text), encoding="utf-8")
    load(file, MODELS[node])


def test_the_subscribers_of_the_guide_can_be_imported() -> None:
    (text,) = [text for _, of, text in BLOCKS if of == "subscribers"]
    documents = [document for _, document in parse_yaml(text, "docs/aaa.md")]
    assert len([subscriber_from(each) for each in documents if not isinstance(each, DocumentError)]) == 2
    row = re.search(r"^\| of an APN \| (.+?) \|", GUIDE, re.MULTILINE)
    assert row is not None
    assert {"apn", *re.findall(r"`(\w+)`", row[1])} == {*APN_FIELDS}


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_exist_with_their_options(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    understood(line, APPLICATIONS)


@pytest.mark.parametrize("line", REQUESTS)
def test_requests_have_paths_and_bodies_of_the_api(line: str) -> None:
    words = shlex.split(line)
    method = words[words.index("-X") + 1] if "-X" in words else "GET"
    path = words[-1].partition("?")[0].partition(API)[2]
    assert (method, path) in Routes()
    if "-d" in words and path == "/faults":
        FaultRule.model_validate(json.loads(words[words.index("-d") + 1]))


def test_methods_and_paths_that_are_named_exist() -> None:
    named = re.findall(r"`(GET|POST|PATCH|DELETE) (/api/v1/[^`]+)`", GUIDE)
    assert named
    assert not [each for each in named if (each[0], each[1].removeprefix(API)) not in Routes()]


class Routes:
    """What the dashboard serves."""

    def __contains__(self, wanted: tuple[str, str]) -> bool:
        method, path = wanted
        return any(
            method in (getattr(route, "methods", None) or ())
            and (getattr(route, "path", "") == path or route.path_regex.fullmatch(path))  # type: ignore[attr-defined]
            for module in MODULES
            for route in module.router.routes
        )


def test_the_table_of_refusals_is_the_policy_file() -> None:
    policy = yaml.safe_load(SHIPPED.read_text("utf-8"))
    expected = {
        str(name): (entry["notify"], entry.get("back_off"))
        for section in ("results", "experimental_results", "gateway")
        for name, entry in policy[section].items()
    }
    section = GUIDE[GUIDE.index("## Refusals") : GUIDE.index("## Faults")]
    rows = re.findall(r"^\| `([\w-]+)` \| (\w+) \| (?:BACKOFF_TIMER (\d+) s )?", section, re.MULTILINE)
    assert {name: (notify, int(wait) if wait else None) for name, notify, wait in rows} == expected


def test_the_refusal_of_the_guide_is_a_policy(tmp_path: Path) -> None:
    (text,) = [text for _, of, text in BLOCKS if of == "refusals"]
    policy = yaml.safe_load(SHIPPED.read_text("utf-8"))
    policy["experimental_results"] |= yaml.safe_load(text)["experimental_results"]
    file = tmp_path / "refusals.yaml"
    file.write_text(yaml.safe_dump(policy), encoding="utf-8")
    read_refusals(file)


def test_every_action_of_a_fault_has_an_example() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `aaa fault add [\w-]+ -c aaa.yaml (.+?)` \|", GUIDE, re.MULTILINE)
    assert {name for name, _ in rows} == {*Action.model_fields}
    assert not [name for name, options in rows if f"--{name.replace('_', '-')}" not in options]
