"""What the API says of the laboratory: schedules, and runs of them while they wait, are played and are over."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from dashboards.aaa_schemas import Wanted
from dashboards.schemas import Answer

StageName = Literal["virtual", "loopback", "namespaces"]
RunState = Literal["queued", "running", "done", "failed", "stopped"]
SEED_MAXIMUM = (1 << 53) - 1


class ScheduleAccess(Answer):
    """An access network of the UE."""

    name: str
    family: str
    nat: str


class ScheduleEvent(Answer):
    """What happens, ``at`` seconds after the beginning."""

    at: float
    text: str


class ScheduleView(Answer):
    """A schedule; ``duration`` in seconds of its own time, which may be virtual."""

    name: str
    title: str
    about: str = ""
    duration: float
    seed: int
    persona: str | None = None
    stages: list[StageName]
    accesses: list[ScheduleAccess]
    events: list[ScheduleEvent]


class StageView(Answer):
    """Where schedules are played; ``why_not``: why this laboratory cannot there."""

    name: StageName
    why_not: str | None


class UnreadableSchedule(Answer):
    """A file of the laboratory's own directory that is no schedule."""

    name: str
    why: str


class ScheduleList(Answer):
    """What can be played, and where."""

    schedules: list[ScheduleView]
    stages: list[StageView]
    unreadable: list[UnreadableSchedule] = []


class LabRunWanted(Wanted):
    """A schedule, by its name."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"schedule": "walk-home"}, {"schedule": "lift", "stage": "virtual", "seed": 7}]
        },
    )

    schedule: str = Field(pattern=r"^[a-z][a-z0-9-]{0,63}$", examples=["walk-home"])
    stage: StageName = "virtual"
    seed: int | None = Field(default=None, ge=0, le=SEED_MAXIMUM, description="the schedule's own without it")


class LabStep(Answer):
    """What happened: an event of the schedule, or of a node of the run."""

    at: float
    node: str
    name: str
    text: str


class LabRunView(Answer):
    """A run; ``result`` is its name under ``/runs`` once it is done, if the dashboard reads the same directory."""

    id: str
    schedule: str
    title: str
    stage: StageName
    seed: int
    duration: float
    state: RunState
    stopping: bool = Field(description="it has been told to stop, and ends its nodes")
    created: float
    started: float | None
    ended: float | None
    at: float = Field(description="how far it is, seconds of its own time")
    progress: float = Field(ge=0, le=1)
    result: str | None
    passed: bool | None = Field(description="every expectation of the schedule held")
    failed_checks: list[str]
    error: str | None


class LabRunDetail(LabRunView):
    """A run and what has happened in it so far."""

    steps: list[LabStep]
    steps_left_out: int


class LabRunList(Answer):
    """The runs that the laboratory remembers, the latest first."""

    runs: list[LabRunView]


class LabRunEvent(LabRunView):
    """The data of the event ``lab-run``: the run as it is now, and what has just happened."""

    node: str
    text: str
    step: LabStep | None
