"""Where names and times stand in a run's picture: nothing is written over, nothing that happened is cut out."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from lab.mobility.plot import (
    CHARACTER_WIDTH,
    EVENT,
    IDLE_INTERVAL,
    LANES_MAXIMUM,
    PANELS_MAXIMUM,
    Label,
    lanes_of,
    panels_of,
)

MOMENTS = st.lists(st.floats(0, 300_000), max_size=40)
WEEKEND = 216_000.0


@given(MOMENTS)
def test_panels_hold_every_moment_and_lie_side_by_side(moments: list[float]) -> None:
    panels = panels_of(moments, max([*moments, 1.0]))
    assert 1 <= len(panels) <= PANELS_MAXIMUM
    assert all(any(panel.start <= moment <= panel.end for panel in panels) for moment in moments)
    for before, after in zip(panels, panels[1:], strict=False):
        assert before.end < after.start
        assert abs(before.left + before.width - after.left) < 1e-9
    assert abs(panels[-1].left + panels[-1].width - 1) < 1e-9


def test_a_weekend_without_a_packet_is_cut_out() -> None:
    first, second = panels_of([0.0, 5.0, 8.0, WEEKEND - 10, WEEKEND - 1], WEEKEND)
    assert first.end - first.start < 10
    assert second.start < WEEKEND - 10 < WEEKEND <= second.end
    assert second.end - second.start < 11


def test_a_pause_of_less_than_the_limit_stays() -> None:
    (panel,) = panels_of([0.0, IDLE_INTERVAL - 1], IDLE_INTERVAL)
    assert (panel.start, panel.end) == (0.0, IDLE_INTERVAL)


@given(MOMENTS, st.integers(1, 30))
def test_no_two_names_of_a_line_overlap(moments: list[float], length: int) -> None:
    panels = panels_of(moments, max([*moments, 1.0]))
    labels = [Label(moment=moment, text="x" * length, colour=EVENT) for moment in sorted(moments)]
    placed = lanes_of(labels, panels)
    width = CHARACTER_WIDTH * length
    spans = [
        (lane, panel.share(label.moment) - (width if leftwards else 0)) for label, panel, lane, leftwards in placed
    ]
    assert all(
        abs(start - other) >= width
        for (lane, start), (same, other) in combinations(spans, 2)
        if lane == same
    )  # fmt: skip
    assert all(lane < LANES_MAXIMUM for lane, _ in spans)


def test_two_moves_at_once_stand_below_each_other() -> None:
    panels = panels_of([0.0, 14.0], 14.0)
    labels = [Label(moment=moment, text=text, colour=EVENT) for moment, text in ((5.0, "1: a → b"), (5.2, "2: b → a"))]
    assert [lane for _, _, lane, _ in lanes_of(labels, panels)] == [0, 1]
