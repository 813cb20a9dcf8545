"""The guides under ``docs`` as tests read them: their blocks, their commands, their pieces of configuration."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from click import Context
from typer import Typer
from typer.main import get_command

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^```(\w*)(?: ([\w/-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block between fences: its language, what it is of (``epdg``, say; may be empty), its text."""

    language: str
    of: str
    text: str


def guide(name: str) -> str:
    """The text of ``docs/<name>.md``."""
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    """All of a guide's."""
    return [Block(*found) for found in _BLOCK.findall(text)]


def commands(found: list[Block]) -> list[str]:
    """The commands of the shell's blocks, without remarks."""
    texts = [block.text.replace("\\\n", " ") for block in found if block.language == "sh"]
    return [line.partition(" #")[0].strip(" &") for text in texts for line in text.splitlines() if line.strip()]


def understood(line: str, applications: dict[str, Typer]) -> Context:
    """What a command line is to its application; ``click.UsageError`` for what it does not have."""
    name, *words = shlex.split(line)
    command: Any = get_command(applications[name])
    while words and words[0] in getattr(command, "commands", {}):
        name = words.pop(0)
        command = command.commands[name]
    context: Context = command.make_context(name, words)
    assert context.info_name == name
    return context


def example_with(node: str, piece: str) -> str:
    """A node's example with the sections of a piece of configuration in the place of its own."""
    theirs = yaml.load(piece, yaml.BaseLoader)
    kept, key = [], ""
    for line in (ROOT / node / "example.yaml").read_text("utf-8").splitlines(keepends=True):
        if line[0].isalpha():
            key = line.partition(":")[0]
        if key not in theirs:
            kept.append(line)
    return "".join(kept) + piece
