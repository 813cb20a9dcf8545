"""What can be played, and where: the schedules that ship and those of a directory, the stages of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lab.mobility.evaluation import describe
from lab.mobility.loader import SUFFIX, NamedSchedule, load_schedule, schedule_name, shipped
from lab.mobility.recording import Played
from lab.mobility.schedule import Schedule
from lab.mobility.stage_name import StageName
from protocols.errors import ConfigurationError
from protocols.io.control import ControlError
from protocols.trace.records import JsonValue


def why_no_stage(stage: StageName) -> str | None:
    """Why nothing can be played on a stage by this process, in plain words."""
    if stage is StageName.NAMESPACES:
        if os.geteuid() != 0:
            return "network namespaces need root, which this laboratory does not run as; the loopback stage needs none"
        if shutil.which("nsenter") is None:
            return "the program nsenter is not installed"
    return None


class Catalogue:
    """Schedules by name; a file is read anew at each question, since people edit them."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def view(self) -> dict[str, JsonValue]:
        """All of them, the stages, and which files are no schedules."""
        schedules: list[JsonValue] = []
        unreadable: list[JsonValue] = []
        for name in self._names():
            try:
                schedules.append(_view(self._load(name)))
            except ConfigurationError as error:
                unreadable.append({"name": name, "why": str(error)})
        stages: list[JsonValue] = [{"name": stage.value, "why_not": why_no_stage(stage)} for stage in StageName]
        return {"schedules": schedules, "stages": stages, "unreadable": unreadable}

    def find(self, name: str, stage: StageName) -> NamedSchedule:
        """The schedule of a name; ``ControlError`` when there is none, or when it cannot be played on the stage."""
        if name not in self._names():
            raise ControlError("not-found", f"there is no schedule {name}; lab.schedules names those that there are")
        try:
            named = self._load(name)
        except ConfigurationError as error:
            raise ControlError("not-possible", str(error)) from None
        stages = named.schedule.stages
        if stage not in stages:
            names = ", ".join(each.value for each in stages)
            raise ControlError("not-possible", f"{name} is not played on {stage.value}; its stages: {names}")
        why = why_no_stage(stage)
        if why is not None:
            raise ControlError("not-possible", f"nothing is played on {stage.value} here: {why}")
        return named

    def _names(self) -> list[str]:
        return sorted({*shipped(), *(path.stem for path in self._own())})

    def _own(self) -> Iterator[Path]:
        if self._directory is not None and self._directory.is_dir():
            yield from (path for path in self._directory.glob(f"*{SUFFIX}") if schedule_name(path.stem))

    def _load(self, name: str) -> NamedSchedule:
        """One's own goes before a shipped one of the same name."""
        own = {path.stem: path for path in self._own()}
        return load_schedule(str(own.get(name, name)))


def _view(named: NamedSchedule) -> JsonValue:
    schedule = named.schedule
    return {
        "name": named.name,
        "title": schedule.title,
        "about": schedule.about.strip(),
        "duration": schedule.duration,
        "seed": schedule.seed,
        "persona": schedule.persona,
        "stages": [stage.value for stage in schedule.stages],
        "accesses": _accesses(schedule),
        "events": [
            {"at": event.at, "text": describe(Played(event=event, began=event.at, ended=event.at, error=None))}
            for event in schedule.events
        ],
    }


def _accesses(schedule: Schedule) -> list[JsonValue]:
    return [
        {"name": name, "family": access.family.value, "nat": access.nat.kind.value}
        for name, access in schedule.accesses.items()
    ]
