"""A run of a schedule as the laboratory's node tells of it: its state, how far it is, what has happened in it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from lab.mobility.stage_name import StageName
from protocols.trace.records import JsonValue

STEPS_KEPT = 500


class RunState(str, Enum):
    """Where a run is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def over(self) -> bool:
        """Whether nothing comes any more."""
        return self not in (RunState.QUEUED, RunState.RUNNING)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be played; ``duration`` is the schedule's, in its own seconds."""

    schedule: str
    title: str
    stage: StageName
    seed: int
    duration: float


@dataclass(frozen=True, kw_only=True)
class RunStep:
    """Something that happened ``at`` seconds after the beginning: an event of the schedule, or of a node."""

    at: float
    node: str
    name: str
    text: str

    def view(self) -> dict[str, JsonValue]:
        """As the control interface shows it."""
        return {"at": round(self.at, 3), "node": self.node, "name": self.name, "text": self.text}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of a run that was played to its end; ``result``: the name of its files."""

    result: str
    passed: bool
    failed_checks: tuple[str, ...]


@dataclass(kw_only=True)
class Run:
    """One run; moments are wall clock, ``file`` is the schedule's."""

    identifier: str
    wanted: Wanted
    file: Path
    created: float
    state: RunState = RunState.QUEUED
    stopping: bool = False
    started: float | None = None
    ended: float | None = None
    at: float = 0.0
    verdict: Verdict | None = None
    error: str | None = None
    steps: deque[RunStep] = field(default_factory=lambda: deque(maxlen=STEPS_KEPT))
    steps_seen: int = 0

    def happened(self, step: RunStep) -> None:
        """Note a step; the oldest gives way."""
        self.at = max(self.at, step.at)
        self.steps.append(step)
        self.steps_seen += 1

    @property
    def progress(self) -> float:
        """0 to 1, of the schedule's time."""
        return 1.0 if self.state is RunState.DONE else min(self.at / self.wanted.duration, 1.0)

    def view(self) -> dict[str, JsonValue]:
        """Everything but the steps."""
        wanted, verdict = self.wanted, self.verdict
        return {
            "id": self.identifier,
            "schedule": wanted.schedule,
            "title": wanted.title,
            "stage": wanted.stage.value,
            "seed": wanted.seed,
            "duration": wanted.duration,
            "state": self.state.value,
            "stopping": self.stopping,
            "created": self.created,
            "started": self.started,
            "ended": self.ended,
            "at": round(self.at, 3),
            "progress": round(self.progress, 3),
            "result": None if verdict is None else verdict.result,
            "passed": None if verdict is None else verdict.passed,
            "failed_checks": [] if verdict is None else [*verdict.failed_checks],
            "error": self.error,
        }

    def full_view(self) -> dict[str, JsonValue]:
        """With the steps so far, the oldest first."""
        steps: list[JsonValue] = [step.view() for step in self.steps]
        return {**self.view(), "steps": steps, "steps_left_out": self.steps_seen - len(steps)}
