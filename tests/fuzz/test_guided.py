"""Invariant: a bounded run of each coverage-guided target finds nothing; see ``targets`` and ``guided``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import guided, targets

EXECUTIONS = 400  # for each target
SECONDS = 6  # for each process, which takes two or three more to start
PROCESSES = 2
GROUPS = [",".join(list(targets.TARGETS)[number::PROCESSES]) for number in range(PROCESSES)]


@pytest.mark.parametrize("names", GROUPS)
def test_targets_find_nothing(names: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python or machine")
    outcome = guided.run(names, tmp_path, executions=EXECUTIONS * len(names.split(",")), seconds=SECONDS)
    assert outcome.finding is None, outcome.finding
    assert outcome.executions
    assert outcome.coverage > 0


@pytest.mark.parametrize("name", targets.TARGETS)
def test_seeds_are_taken(name: str) -> None:
    count = 0
    for octets in targets.seeds(name):
        targets.TARGETS[name](octets)
        count += 1
    assert count


def test_a_defect_is_found(tmp_path: Path) -> None:
    """The fuzzer does report an exception: a target that has one, beyond what its seeds reach."""
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python or machine")
    outcome = guided.run("defective", tmp_path, executions=200_000)
    assert outcome.finding is not None
    assert "a defect on purpose" in outcome.finding
