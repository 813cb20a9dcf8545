"""The documents say what is there: links lead somewhere, commands and suites exist, tables are complete."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from typer.main import get_command

from aaa.command_line import application as aaa
from dashboards.__main__ import application as dashboards
from epdg.command_line import app as epdg
from lab.__main__ import application as lab
from protocols.ikev2.key_exchange import WEAK_GROUPS
from protocols.ikev2.proposals import ESP_POLICIES, IKE_POLICIES, EspPolicy, IkePolicy
from protocols.ikev2.suites import (
    ENCRYPTION,
    ENCRYPTION_NAMES,
    GROUP_NAMES,
    INTEGRITY,
    INTEGRITY_NAMES,
    KEY_EXCHANGES,
    PRF_NAMES,
    PRFS,
    EspSuite,
    IkeSuite,
)
from ue.command_line import application as ue

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)")
SUITE = re.compile(rf"`((?:{'|'.join(ENCRYPTION_NAMES)})(?:-[a-z0-9_]+)+|aes[0-9]+[cg]cm[0-9]+|chacha20poly1305)`")
METHOD = re.compile(r"[a-z-]+(?:\.[a-z-]+)+")
BRACES = re.compile(r"\{([0-9,]+)\}")
CONTROLLED = {
    "epdg": ROOT / "epdg" / "control",
    "aaa": ROOT / "aaa",
    "ue": ROOT / "ue",
    "fleet": ROOT / "lab" / "fleet",
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_of_the_repository(document: Path) -> None:
    targets = LINK.findall(document.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (document.parent / target).resolve().exists()]
    assert not missing


def test_make_targets_and_commands_of_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", readme, re.MULTILINE))
    assert {"demo", "test", "lint"} <= named <= set(phony.group(1).split())
    scripts = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for node in re.findall(r"^\| `([a-z]+)` \| `", readme, re.MULTILINE):
        assert f'{node} = "{node}.__main__:main"' in scripts


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_suites_that_are_named_exist(document: Path) -> None:
    for text in SUITE.findall(document.read_text(encoding="utf-8")):
        tokens = set(text.split("-")[1:])
        of = IkeSuite.of if tokens & set(GROUP_NAMES) and "esn" not in tokens else EspSuite.of
        assert of(text).name


def expanded(token: str) -> list[str]:
    """``ecp{256,384}`` is ``ecp256`` and ``ecp384``."""
    braces = BRACES.search(token)
    if braces is None:
        return [token]
    return [each for value in braces[1].split(",") for each in expanded(BRACES.sub(value, token, count=1))]


def algorithms() -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme[readme.index("## Algorithms") : readme.index("## What is not there yet")]


def test_the_readme_names_every_algorithm_and_no_other() -> None:
    tables = "".join(line for line in algorithms().splitlines() if line.startswith("| "))
    named = {name for token in re.findall(r"`([a-z0-9{},]+)`", tables) for name in expanded(token)}
    aliases = {"curve25519", "curve448"}
    there = {*ENCRYPTION_NAMES, *INTEGRITY_NAMES, *PRF_NAMES, *GROUP_NAMES, "esn", "noesn"} - aliases
    assert named == there


def test_the_readme_names_every_weak_algorithm_and_every_policy() -> None:
    text = algorithms()
    weak = {row.name.format(bits=128) for row in ENCRYPTION.values() if row.weak}
    weak |= {row.name for table in (INTEGRITY, PRFS) for row in table.values() if row.weak}
    weak |= {KEY_EXCHANGES[group].name for group in WEAK_GROUPS}
    sentence = text[text.index("Weak are ") : text.index("; they are in no policy")]
    assert set(re.findall(r"`([a-z0-9]+)`", sentence)) == weak
    assert not [name for name in {*IKE_POLICIES, *ESP_POLICIES} if f"`{name}`" not in text]
    assert not [name for name in {*IKE_POLICIES} - {"legacy"} if IkePolicy.of([name]).weak or EspPolicy.of([name]).weak]


COMMANDS = {"aaa": aaa, "dashboards": dashboards, "epdg": epdg, "lab": lab, "ue": ue}


@pytest.mark.parametrize("node", sorted(COMMANDS))
def test_the_readme_names_every_command(node: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{node}` \| (.+) \|$", readme, re.MULTILINE)
    assert row is not None
    written = {word for words in re.findall(r"`([a-z -]+)", row[1]) for word in words.split()}
    assert written == commands(get_command(COMMANDS[node]))


def commands(command: object) -> set[str]:
    """The names of a command's commands, and of theirs."""
    found: set[str] = set()
    for name, each in getattr(command, "commands", {}).items():
        found |= {name} | commands(each)
    return found


@pytest.mark.parametrize("node", sorted(CONTROLLED))
def test_every_control_method_is_described_and_no_other(node: str) -> None:
    architecture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    begin = architecture.index(f"\n### {node}\n")
    end = architecture.find("\n##", begin + 5)
    described = set(re.findall(r"^\| `([a-z.-]+)` \|", architecture[begin:end], re.MULTILINE))
    assert described == {method for file in CONTROLLED[node].glob("*.py") for method in control_methods(file)}


def control_methods(source: Path) -> set[str]:
    """The keys of the mappings that a control server is given: with ``node.status``, or of a module that has them."""
    mappings = [node for node in ast.walk(ast.parse(source.read_text("utf-8"))) if isinstance(node, ast.Dict)]
    names = [{str(key.value) for key in node.keys if isinstance(key, ast.Constant)} for node in mappings]
    whole = source.stem.endswith("control") or source.parent.name == "control"
    return {
        name
        for each in names
        if "node.status" in each or (whole and all(METHOD.fullmatch(name) for name in each))
        for name in each
    }
