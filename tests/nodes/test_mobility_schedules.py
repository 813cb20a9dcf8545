"""Every shipped schedule on every stage it lists where time is real; virtual time has them all in every run.

Takes as long as the schedules do, about six minutes a stage, and holds where the processors are not busy otherwise.
"""

from __future__ import annotations

import pytest

from lab.mobility.command import open_stage
from lab.mobility.loader import load_schedule, shipped
from lab.mobility.player import play
from lab.mobility.stage_name import StageName

PLAYED = [
    pytest.param(name, stage, marks=[pytest.mark.root] if stage is StageName.NAMESPACES else [])
    for name in shipped()
    for stage in (StageName.LOOPBACK, StageName.NAMESPACES)
    if stage in load_schedule(name).schedule.stages
]


@pytest.mark.long
@pytest.mark.parametrize(("name", "stage"), PLAYED)
def test_expectations_of_a_shipped_schedule_hold_in_real_time(name: str, stage: StageName) -> None:
    result, _ = play(load_schedule(name), open_stage(stage), None, lambda schedule, at, words: None)
    assert [check for check in result.checks if not check.passed] == []
    assert result.attaches
