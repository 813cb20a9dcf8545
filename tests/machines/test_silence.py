"""Silence as a hint (RFC 4555 §3.5, RFC 4621 §5.1.1), and what comes of it: lossy paths are kept, dead ones left."""

from __future__ import annotations

import pytest

from benchmarks.false_moves import DIRECTIONS, RATES, left, lossy
from tests.harness.traffic import A, TrafficPair
from ue.silence import HINT_INTERVAL, SilenceWatch

TICK = 0.25


def hints(*looks: tuple[int, int]) -> list[float]:
    """When a watch gives hints whose looks see so much sent and heard since the one before."""
    watch, now, sent, heard, found = SilenceWatch(2 * TICK), 0.0, 0, 0, []
    for out, came in looks:
        if out or came:
            watch.stirred(now)
        now += TICK
        sent, heard = sent + out, heard + came
        if watch.deadline is not None and watch.look(sent, heard, now):
            found.append(now)
    return found


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([(0, 0)] * 8, []),
        ([(5, 5)] * 8, []),
        ([(1, 0), (0, 1)] * 8, []),
        ([(1, 0), (0, 0)], [2 * TICK]),  # one packet without an answer
        ([(5, 5), (5, 0), (5, 0)], [3 * TICK]),
        ([(5, 5), (5, 0), (5, 1), (5, 0), (5, 0)], [5 * TICK]),
        ([(5, 0)] * 11, [2 * TICK, 6 * TICK, 10 * TICK]),  # one direction: once a second
        ([(0, 12)] * 8 + [(0, 0)] * 20, [9 * TICK]),  # a stream that breaks off, once
        ([(0, 2)] * 8 + [(0, 0)] * 20, [11 * TICK]),  # a slow one
        ([(0, 1), (0, 0), (0, 0), (0, 0)] * 4 + [(0, 0)] * 20, []),
    ],
)
def test_what_is_a_hint(looks: list[tuple[int, int]], expected: list[float]) -> None:
    assert hints(*looks) == pytest.approx(expected)


def test_an_idle_ue_is_not_looked_at() -> None:
    """Nothing is armed before the first packet, nor after the last of them was answered."""
    watch = SilenceWatch(2 * TICK)
    assert watch.deadline is None
    assert watch.stirred(0.0)
    assert not watch.stirred(0.1)
    now = TICK
    while watch.deadline is not None:
        assert not watch.look(1, 1, now)
        now += TICK
    assert now < 4.0


def test_counters_that_go_down_are_no_silence() -> None:
    """A child SA was removed with what it had counted."""
    watch = SilenceWatch(2 * TICK)
    watch.look(100, 100, 0.25)
    watch.look(110, 100, 0.5)
    assert not watch.look(5, 0, 0.75)


def test_a_new_path_is_asked_about_at_once() -> None:
    watch = SilenceWatch(2 * TICK)
    watch.look(1, 0, 1.0)
    assert watch.look(2, 0, 1.0 + TICK)
    watch.moved()
    watch.look(3, 0, 1.0 + 2 * TICK)
    assert 2 * TICK < HINT_INTERVAL
    assert watch.look(4, 0, 1.0 + 3 * TICK)


# --- with two IKE end points and their data planes ---------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("rate", RATES)
def test_a_lossy_path_is_not_left(rate: float, seed: int) -> None:
    """30 % each way at random for ten minutes, a perfect path beside it: no move, and the SA lives."""
    run = lossy(seed, rate, 600.0)
    assert run.moves == 0
    assert run.alive


@pytest.mark.long
@pytest.mark.parametrize("rate", RATES)
def test_a_lossy_path_is_never_left(rate: float) -> None:
    """The same for a hundred seeds."""
    runs = [lossy(seed, rate, 600.0) for seed in range(100)]
    assert sum(run.moves for run in runs) == 0
    assert all(run.alive for run in runs)


@pytest.mark.parametrize(("up", "down"), DIRECTIONS)
def test_a_dead_path_is_left_within_three_seconds(up: float, down: float) -> None:
    """The address stays, packets vanish both ways; traffic both ways or in one direction."""
    for seed in range(10):
        took = left(seed, up, down)
        assert took is not None
        assert took <= 3.0


def test_a_lossy_path_that_dies_is_left() -> None:
    for seed in range(10):
        took = left(seed, 50, 50, loss=0.3)
        assert took is not None
        assert took <= 3.0


def test_an_idle_ue_sends_nothing() -> None:
    """No traffic: no questions between the liveness checks."""
    pair = TrafficPair(1, up=0, down=0)
    sent = len(pair.seen)
    pair.run(100.0)
    assert len(pair.seen) == sent
    assert pair.ue_at == A
