"""The catalogue of causes as a whole: each is provoked by some test, named once, and speaks in sentences."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path

import pytest

from protocols.trace.explanation.catalogue import CATALOGUE
from protocols.trace.explanation.cause import Cause
from tests.harness.explanations import healthy

MODULES = [path.stem for path in sorted(Path(__file__).parent.glob("test_explanations_*.py"))]


def provoked() -> set[str]:
    """The causes that the modules beside this one say they provoke."""
    found: set[str] = set()
    for name in MODULES:
        found |= getattr(importlib.import_module(f"{__package__}.{name}"), "PROVOKED", set())
    return found


def test_every_cause_is_provoked_by_a_test() -> None:
    assert provoked() == {cause.name for cause in CATALOGUE}


def test_names_and_titles_are_unique() -> None:
    for values in ([cause.name for cause in CATALOGUE], [cause.title for cause in CATALOGUE]):
        assert [value for value, count in Counter(values).items() if count > 1] == []


@pytest.mark.parametrize("cause", CATALOGUE, ids=lambda cause: cause.name)
def test_a_cause_speaks_in_sentences_and_cites_its_clause(cause: Cause) -> None:
    assert cause.name == cause.name.lower().replace(" ", "-")
    assert cause.advice.endswith(".")
    assert not cause.title.endswith(".")
    assert "§" in cause.clause or cause.clause.startswith("docs/")
    assert list(cause.find(healthy())) == []
