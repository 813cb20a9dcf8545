"""Invariant: whatever one payload of its gateway's becomes, a UE raises nothing, says why in a line and leaves nothing.

The gateway is ours and holds the keys, so that every message is genuine; after it the UE attaches to an honest one.
"""

from __future__ import annotations

import random

import pytest

from tests.harness.mutation import Mutation, Story, mutations

SLICE = 53  # of a few minutes' cases a few seconds'
PAIRS = 1500


def all_mutations() -> list[Mutation]:
    story = Story()
    story.tell()
    assert story.failures == []
    assert story.left() == []
    assert len(story.sent) >= 19
    return list(mutations(story.sent))


def play(*changes: Mutation) -> None:
    """A story with these mutations, and what has to hold of it."""
    story = Story(changes=changes)
    story.tell()
    name = "; ".join(map(str, changes))
    assert story.left() == [], name
    for why in story.failures:
        assert why, name
        assert why.isprintable(), f"{name}: {why!r}"
        assert len(why) < 300, f"{name}: {why}"
    assert story.honest() is None, name


def test_every_kind_of_mutation_somewhere() -> None:
    for mutation in all_mutations()[::SLICE]:
        play(mutation)


@pytest.mark.long
@pytest.mark.parametrize("part", range(SLICE))
def test_every_mutation(part: int) -> None:
    for mutation in all_mutations()[part::SLICE]:
        play(mutation)


@pytest.mark.long
def test_two_mutations_of_a_story() -> None:
    chance = random.Random(1)
    known = all_mutations()
    for _ in range(PAIRS):
        play(*chance.sample(known, 2))
