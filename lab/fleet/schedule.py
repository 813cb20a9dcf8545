"""What every UE of a fleet does: a YAML file of timed events, which is gone through once or again and again.

``lab/fleet/schedules`` holds those that ship. The schedules of ``lab run`` can be used as well: of their events those
that a fleet can play are taken, and ``left_out`` names the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from lab.fleet.talk import TalkKind
from lab.mobility import loader
from lab.mobility import schedule as mobility
from lab.mobility.loader import NamedSchedule
from protocols.errors import ConfigurationError
from protocols.io.configuration import ConfigurationModel, Interval, unfit, validate
from protocols.io.documents import Document, read_file

NEXT_ACCESS = "next"
DIRECTORY = "schedules"
SUFFIX = ".yaml"

Moment = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Action(str, Enum):
    """What a UE can do."""

    ATTACH = "attach"
    TALK = "talk"
    MOVE = "move"
    SUSPEND = "suspend"
    REKEY_IKE = "rekey-ike"
    REKEY_CHILD = "rekey-child"
    DETACH = "detach"


class FleetEvent(ConfigurationModel):
    """One thing at a time: ``at`` is in seconds since the UE's round began.

    ``to``: the name of an access, its place among the fleet's from 1 on (counted round where there are fewer), or
    ``next``, the one after the one in use. The rest is of ``talk``: ``rate`` echo requests a second or a voice call,
    for ``seconds``, of that ``share`` of the UEs; the others pass it over.
    """

    at: Moment
    do: Action
    to: str | None = None
    rate: Annotated[float, Field(gt=0, le=200)] | None = None
    seconds: Interval | None = None
    kind: TalkKind = TalkKind.ECHO
    share: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _fitting(self) -> FleetEvent:
        talks = self.do is Action.TALK
        if (self.to is not None) and self.do not in (Action.MOVE, Action.ATTACH):
            raise PydanticCustomError("event", "to at attach and move only")
        voice = self.kind is TalkKind.VOICE
        if not talks and (voice or self.share is not None):
            raise PydanticCustomError("event", "kind and share at talk only")
        if voice and self.rate is not None:
            raise unfit("no rate where kind is voice: it has its own", "rate")
        if (talks and not voice) != (self.rate is not None) or talks != (self.seconds is not None):
            raise PydanticCustomError("event", "rate and seconds at talk, and only there")
        return self


class FleetSchedule(ConfigurationModel):
    """The events of one round in order.

    A round begins ``length`` seconds after the one before (without: ``pause`` after its last event). ``spread``: the
    share by which every interval between two events is varied, by the seed.
    """

    name: str = Field(min_length=1)
    title: str = Field(min_length=1)
    repeat: bool = True
    pause: Moment = 0.0
    length: Interval | None = None
    spread: Annotated[float, Field(ge=0, lt=1)] = 0.0
    events: tuple[FleetEvent, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _in_order(self) -> FleetSchedule:
        moments = [event.at for event in self.events]
        if moments != sorted(moments):
            raise unfit("events in the order of their times", "events")
        if self.events[0].do is not Action.ATTACH:
            raise unfit("attach as the first event", "events")
        if self.length is not None and self.length < moments[-1]:
            raise unfit("at least the last event's time", "length")
        if self.repeat and not (self.pause or self.length or moments[-1]):
            raise unfit("rounds that take time: a pause, a length, or a time at detach", "events")
        return self


@dataclass(frozen=True, kw_only=True)
class Playable:
    """A schedule that a fleet plays, and what it leaves out of the file, in words."""

    schedule: FleetSchedule
    left_out: tuple[str, ...] = ()


def shipped() -> tuple[str, ...]:
    """The names of the schedules that ship."""
    return tuple(sorted(each.name.removesuffix(SUFFIX) for each in _directory().iterdir() if _is_schedule(each.name)))


def find(text: str) -> Playable:
    """A schedule by the name of one that ships, or by a file; ``ConfigurationError`` names the line."""
    if text in shipped():
        return read(read_file(_directory() / f"{text}{SUFFIX}"))
    if text in loader.shipped():
        return _of_a_laboratory(loader.load_schedule(text))
    path = Path(text)
    if not path.suffix and not path.exists():
        expected = f"a file, one of {', '.join(shipped())}, or a schedule of `lab list`"
        raise ConfigurationError(file="command line", key="--schedule", value=text, expected=expected)
    return read(read_file(path))


def read(document: Document) -> Playable:
    """A schedule of a fleet, or of ``lab run``, which has accesses of its own, out of its document."""
    if isinstance(document.data, Mapping) and "accesses" in document.data:
        file = Path(document.file)
        named = loader.NamedSchedule(name=file.stem, schedule=loader.read_schedule(document), file=file)
        return _of_a_laboratory(named)
    return Playable(schedule=validate(document, FleetSchedule))


def check_accesses(schedule: FleetSchedule, known: Sequence[str]) -> None:
    """``ConfigurationError`` when a schedule names an access that the fleet has not."""
    names = {event.to for event in schedule.events if event.to is not None and event.to != NEXT_ACCESS}
    missing = sorted(name for name in names if name not in known and not is_place(name))
    if missing:
        expected = f"one of the fleet's accesses: {', '.join(known)}, or {NEXT_ACCESS}"
        raise ConfigurationError(file=schedule.name, key="events.to", value=missing[0], expected=expected)


def is_place(text: str) -> bool:
    """Whether an access is named by its place."""
    return text.isascii() and text.isdigit() and int(text) > 0


def _of_a_laboratory(named: NamedSchedule) -> Playable:
    """The events of a schedule of ``lab run`` that a fleet can play, round after round.

    Its accesses are the fleet's in their order: how they are is the network's business here.
    """
    found, left_out = named.schedule, Counter[str]()
    places = {name: str(place) for place, name in enumerate(found.accesses, start=1)}
    events: list[FleetEvent] = []
    for event in found.events:
        match event:
            case mobility.Attach():
                access = event.access or found.first_access
                events.append(FleetEvent(at=event.at, do=Action.ATTACH, to=places[access]))
            case mobility.MoveTo() | mobility.Resume():
                events.append(FleetEvent(at=event.at, do=Action.MOVE, to=places[event.to]))
            case mobility.Command() if event.do in _COMMON:
                events.append(FleetEvent(at=event.at, do=Action(event.do)))
            case _:
                left_out[event.do] += 1
    if found.traffic.kind != "none":
        left_out["traffic"] += 1
    if not events or events[0].do is not Action.ATTACH:
        raise ConfigurationError(
            file=str(named.file),
            key="events",
            value=named.name,
            expected="attach as the first event that a fleet plays",
        )
    if events[-1].do is not Action.DETACH:
        events.append(FleetEvent(at=found.duration, do=Action.DETACH))
    schedule = FleetSchedule(name=named.name, title=found.title, length=found.duration, events=tuple(events))
    return Playable(schedule=schedule, left_out=tuple(f"{word} ({number})" for word, number in left_out.items()))


_COMMON = frozenset({"rekey-ike", "rekey-child", "suspend", "detach"})


def _directory() -> Path:
    return Path(str(files("lab.fleet"))) / DIRECTORY


def _is_schedule(name: str) -> bool:
    return name.endswith(SUFFIX)
