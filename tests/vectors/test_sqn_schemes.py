"""How sequence numbers are made: not, partly and entirely time-based (TS 33.102 §C.1, §C.3), any length of IND.

Whatever the scheme and whatever its clock does: no SQN comes twice, none goes back, and the USIM takes each.
"""

from __future__ import annotations

import random

import pytest

from protocols.algorithms.sqn import (
    CLOCK_UNIT,
    PARTLY_LEAD,
    SEQ2_BITS,
    SEQ_JUMP_LIMIT,
    SqnAllocator,
    SqnGeneration,
    SqnScheme,
    SqnState,
    SqnWindow,
    Transition,
    ind_of,
)

NOW = 1_800_000_000.0  # seconds since 1970
PERIOD = 1 << SEQ2_BITS
PARTLY = SqnScheme(SqnGeneration.PARTLY_TIME_BASED)
TIMED = SqnScheme(SqnGeneration.TIME_BASED)
SCHEMES = [SqnScheme(generation, ind_bits) for generation in SqnGeneration for ind_bits in (0, 1, 5, 8)]


def label(scheme: SqnScheme) -> str:
    return f"{scheme.generation.value}-{scheme.ind_bits}"


class Home:
    """A durable state, a clock, and processes that draw from it one after the other."""

    def __init__(self, scheme: SqnScheme, *, seq: int = 0, now: float = NOW) -> None:
        self.scheme = scheme
        self.state = SqnState(seq)
        self.now = now

    def change(self, transition: Transition) -> SqnState:
        new = transition(self.state)
        self.state = SqnState(new.seq, difference=new.difference)
        return self.state

    def process(self, block: int = 8) -> SqnAllocator:
        return SqnAllocator(self.scheme, self.change, lambda: self.now, block=block)


@pytest.mark.parametrize("scheme", SCHEMES, ids=label)
@pytest.mark.parametrize("clock", ["forward", "stands", "leaps", "back"])
def test_the_usim_takes_every_number_through_crashes(scheme: SqnScheme, clock: str) -> None:
    chance = random.Random(f"{label(scheme)} {clock}")
    home, window, given = Home(scheme), SqnWindow.fresh(scheme.ind_bits), [0]
    for _ in range(60):
        process = home.process()
        for _ in range(chance.randrange(1, 20)):
            sqn = process.next()
            assert scheme.seq_of(sqn) > scheme.seq_of(given[-1])
            assert scheme.seq_of(sqn) <= home.state.seq  # it was stored before it was given out
            given.append(sqn)
            taken = window.accept(sqn)
            assert taken is not None
            window = taken
            home.now += {
                "forward": chance.random() * 5,
                "stands": 0.0,
                "leaps": chance.choice((0.0, 86_400.0)),
                "back": chance.choice((2.0, -3600.0)),
            }[clock]


@pytest.mark.parametrize("scheme", SCHEMES, ids=label)
def test_ind_goes_round(scheme: SqnScheme) -> None:
    """TS 33.102 §C.1.2: every entry of the array in turn."""
    process = Home(scheme).process()
    count = scheme.ind_count
    inds = [ind_of(process.next(), scheme.ind_bits) for _ in range(2 * count)]
    assert inds == [(inds[0] + at) % count for at in range(2 * count)]


@pytest.mark.parametrize("scheme", SCHEMES, ids=label)
@pytest.mark.parametrize("ahead", [5, 1000, SEQ_JUMP_LIMIT + 5])
def test_resynchronisation_makes_the_next_number_acceptable(scheme: SqnScheme, ahead: int) -> None:
    home = Home(scheme)
    process = home.process()
    first = process.next()
    seq_ms = scheme.seq_of(first) + ahead
    window = SqnWindow((seq_ms,) * scheme.ind_count)
    for drawing in (process, home.process()):  # what was going on, and a new one
        drawing.resynchronise(window.sqn_ms)
        home.now += 0.3
        taken = window.accept(drawing.next())
        assert taken is not None
        window = taken


@pytest.mark.parametrize("scheme", SCHEMES, ids=label)
def test_an_old_auts_changes_nothing(scheme: SqnScheme) -> None:
    home = Home(scheme, seq=5000)
    process = home.process()
    before = process.next()
    process.resynchronise(scheme.compose(100, 0))
    assert scheme.seq_of(process.next()) == scheme.seq_of(before) + 1


# --- partly time-based: rules (i) to (iii) of TS 33.102 §C.1.1.1 number 5 ----------------------------


@pytest.mark.parametrize(
    ("seq1", "seq2", "glc", "expected"),
    [
        (7, 100, 101, (7, 101)),  # (i): the clock is ahead
        (7, 100, PERIOD - PARTLY_LEAD + 100, (7, PERIOD - PARTLY_LEAD + 100)),
        (7, 100, PERIOD - PARTLY_LEAD + 101, (7, 101)),  # (ii)
        (7, PARTLY_LEAD, PERIOD - 1, (7, PERIOD - 1)),
        (7, 100, 100, (7, 101)),  # (ii): the clock has not moved
        (7, 100 + PARTLY_LEAD - 1, 100, (7, 100 + PARTLY_LEAD)),  # (ii): ahead of the clock, by D at most
        (7, 10, PERIOD - 5, (7, 11)),  # (ii): the clock has not come round yet, we have
        (7, PERIOD - 1, PERIOD - 3, (8, 0)),  # (ii): SEQ is counted as one number
        (7, PERIOD - 10, 3, (8, 3)),  # (iii): the clock has come round
        (7, 100 + PARTLY_LEAD, 100, (8, 100)),
    ],
)
def test_the_rules_of_the_general_scheme(seq1: int, seq2: int, glc: int, expected: tuple[int, int]) -> None:
    now = float(PERIOD * 100 + glc)  # seconds: the clock unit of §C.3.1
    assert divmod(PARTLY.following(SqnState(seq1 * PERIOD + seq2), now), PERIOD) == expected


# --- entirely time-based: SEQ = GLC + DIF (TS 33.102 §C.1.1.3) ---------------------------------------


def test_the_clock_is_followed_after_the_first_number() -> None:
    home = Home(TIMED, seq=41)
    process = home.process()
    assert TIMED.seq_of(process.next()) == 42
    home.now += 1000 * CLOCK_UNIT + CLOCK_UNIT / 2
    assert TIMED.seq_of(process.next()) == 1042
    assert TIMED.seq_of(home.process().next()) == 1042 + 8  # behind the block that was left
    home.now += 2000 * CLOCK_UNIT
    assert TIMED.seq_of(home.process().next()) == 3042


def test_a_resynchronisation_moves_the_difference_to_the_clock() -> None:
    home = Home(TIMED)
    process = home.process()
    process.next()
    process.resynchronise(TIMED.compose(900_000, 3))
    assert TIMED.seq_of(process.next()) == 900_001
    home.now += 50 * CLOCK_UNIT + CLOCK_UNIT / 2
    assert TIMED.seq_of(process.next()) == 900_051


@pytest.mark.parametrize("bits", [-1, 17])
def test_lengths_of_ind_that_there_are_not(bits: int) -> None:
    with pytest.raises(ValueError, match="IND has 0 to 16 bits"):
        SqnScheme(ind_bits=bits)


def test_the_array_has_an_entry_for_each_ind() -> None:
    window = SqnWindow.fresh(0)
    taken = window.accept(7)
    assert taken is not None
    assert taken.sqn_ms == 7
    assert taken.accept(7) is None
    with pytest.raises(ValueError, match="power of two"):
        SqnWindow((0,) * 3)
    with pytest.raises(ValueError, match="power of two"):
        SqnWindow(())
