"""Every command of every program: what is wrong with its words is one line and exit status 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.main import get_command

from aaa.command_line import application as aaa
from dashboards.__main__ import application as dashboards
from epdg.command_line import app as epdg
from lab.__main__ import application as lab
from protocols.io.console import status_of
from ue.command_line import application as ue

PROGRAMS = {"aaa": aaa, "dashboards": dashboards, "epdg": epdg, "lab": lab, "ue": ue}


def commands(command: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:  # Any: typer does not name its click
    """A command and those below it, but for one that hands its words on to another program."""
    if not command.context_settings.get("ignore_unknown_options"):
        yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, *words, name)


EVERY = [
    pytest.param(application, words, command, id=" ".join((name, *words)))
    for name, application in PROGRAMS.items()
    for words, command in commands(get_command(application))
]


@pytest.mark.parametrize(("application", "words", "command"), EVERY)
def test_an_unknown_option_or_a_missing_word_is_one_line(
    application: typer.Typer, words: tuple[str, ...], command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = [([*words, "--no-such-option"], "no such option: --no-such-option")]
    required = [parameter for parameter in command.params if parameter.required]
    if required:
        expected.append(([*words], "missing "))
    for given, beginning in expected:
        assert status_of(application, given) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert len(said.err.splitlines()) == 1
        place, _, problem = said.err.partition(": ")
        assert place.split()[-len(words) :] == [*words] or not words
        assert problem.startswith(beginning)


@pytest.mark.parametrize("module", [*PROGRAMS, "lab.fleet"])
def test_a_program_says_it_so(module: str) -> None:
    words = [sys.executable, "-m", module, "--no-such-option"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"python -m {module}: no such option: --no-such-option\n"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["host", "--control", "x", "--port", "0"], "invalid value for '--port': 0 is not in the range 1<=x<=65535."),
        (["frobnicate"], "no such command 'frobnicate'."),
        (["run", "--sta", "loopback"], "no such option: --sta"),
        (["run", "x", "--stage", "a\nb"], "invalid value for '--stage'"),
    ],
)
def test_other_wrong_words(words: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(lab, words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f": {problem}" in said


def test_help_is_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(lab, ["run", "--help"]) == 0
    assert "Usage:" in capsys.readouterr().out
    status_of(lab, [])
    said = capsys.readouterr()
    assert "Usage:" in said.out
    assert said.err == ""


def test_a_command_that_is_done_or_refuses_keeps_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    application = typer.Typer()

    @application.command()
    def refuse() -> None:
        raise typer.Exit(1)

    @application.command()
    def ask() -> None:
        raise typer.Abort

    assert status_of(application, ["refuse"]) == 1
    assert status_of(application, ["ask"]) == 1
    assert status_of(lab, ["list"]) == 0
    assert "walk-home" in capsys.readouterr().out
