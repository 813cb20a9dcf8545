"""Schedules from files: the shipped ones by name, anybody's by path; an error names file, line, key and expectation."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.mobility.schedule import EVENTS, AccessEvent, Family, MoveExpectation, NatAppears, NatSection, Schedule
from lab.network.nat import NatKind
from protocols.errors import ConfigurationError
from protocols.io.configuration import validate
from protocols.io.documents import Document, Location, Words, read_file, read_text

SHIPPED = Path(__file__).parent / "schedules"
SUFFIX = ".yaml"
NAME_CHARACTERS = 64
LIFETIME_MAXIMUM = 2_000_000  # of a mapping in connection tracking, whose sysctl counts jiffies in 31 bits
_NAME = re.compile(r"[a-z][a-z0-9-]*")
_MISSING = object()


@dataclass(frozen=True, kw_only=True)
class NamedSchedule:
    """A schedule and what it is called: its file's name without the ending."""

    name: str
    schedule: Schedule
    file: Path


def shipped() -> list[str]:
    """The names of the schedules that come with the laboratory."""
    return sorted(path.stem for path in SHIPPED.glob(f"*{SUFFIX}"))


def schedule_name(text: str) -> bool:
    """Whether a schedule can be called so: small letters, digits and hyphens, at most ``NAME_CHARACTERS``."""
    return len(text) <= NAME_CHARACTERS and _NAME.fullmatch(text) is not None


def load_schedule(text: str) -> NamedSchedule:
    """A shipped schedule by name or any by its path; ``ConfigurationError`` in one line."""
    path = Path(text)
    if text in shipped():
        path = SHIPPED / f"{text}{SUFFIX}"
    elif not path.suffix and not path.exists():
        near = difflib.get_close_matches(text, shipped(), 1)
        hint = f"did you mean {near[0]}?" if near else "`lab list` names those that are shipped"
        raise ConfigurationError(file=text, key="(schedule)", value=text, expected=f"a schedule's name or file; {hint}")
    return NamedSchedule(name=path.stem, schedule=read_schedule(read_file(path)), file=path)


def parse_schedule(text: str, file: str = "(text)") -> Schedule:
    """A schedule from its text."""
    return read_schedule(read_text(text, file))


def read_schedule(document: Document) -> Schedule:
    """A schedule from its document."""
    _check_events(document)
    schedule = validate(document, Schedule)
    for location, value, expected in _findings(schedule):
        raise document.error(location, value, expected)
    return schedule


def misfit(named: NamedSchedule, error: ConfigurationError) -> ConfigurationError:
    """The refusal of a node's configuration, told of the schedule's own section where it comes from that.

    The file that the node was given is gone when a person reads this.
    """
    node, keys = Path(error.file).stem, tuple(error.key.split("."))
    try:
        document = read_file(named.file)
    except ConfigurationError:
        return error
    for location in ((node, *keys), keys):
        found: object = document.data
        for step in location[:2]:
            found = found.get(step, _MISSING) if isinstance(found, dict) else _MISSING
        if found is not _MISSING and Path(error.file).suffix == SUFFIX:
            return document.error(location, error.value, error.expected)
    return error


def check_for_nftables(named: NamedSchedule) -> None:
    """``ConfigurationError`` for a lifetime that connection tracking cannot have: it counts whole seconds."""
    places: list[tuple[Location, NatSection]] = [
        (("accesses", name, "nat"), access.nat) for name, access in named.schedule.accesses.items()
    ]
    for number, event in enumerate(named.schedule.events):
        if isinstance(event, NatAppears):
            places.append((("events", number, "nat"), event.nat))
    for place, nat in places:
        if nat.kind is not NatKind.NONE and (nat.lifetime % 1 or nat.lifetime > LIFETIME_MAXIMUM):
            expected = f"whole seconds up to {LIFETIME_MAXIMUM} where nftables translates"
            raise read_file(named.file).error((*place, "lifetime"), f"{nat.lifetime:g}", expected)


def _check_events(document: Document) -> None:
    """Words and keys of events: which keys there are depends on the word, which a generic check does not know."""
    events = document.data.get("events") if isinstance(document.data, dict) else None
    for number, event in enumerate(events if isinstance(events, list) else []):
        if not isinstance(event, dict):
            raise document.error(("events", number), _shown(event), "an event such as {at: 5, do: move, to: home}")
        word = event.get("do")
        if not isinstance(word, str) or word not in EVENTS:
            raise document.error(("events", number, "do"), _shown(word), _near(word, list(EVENTS), "one of"))
        _check_keys(document, ("events", number), event, list(EVENTS[word].model_fields), word)
        expect = event.get("expect")
        if isinstance(expect, dict):
            known = list(MoveExpectation.model_fields)
            _check_keys(document, ("events", number, "expect"), expect, known, "the expectation of a move")


def _shown(value: object) -> object:
    """What an error line quotes: a list's or mapping's content may be without end."""
    return Words(f"a {type(value).__name__}") if isinstance(value, list | dict) else value


def _check_keys(document: Document, place: Location, section: dict[str, object], known: list[str], what: str) -> None:
    for key in section:
        if key not in known:
            expected = f"no such key of {what}: " + _near(key, known, "known keys are")
            raise document.error((*place, key), Words("an unknown key"), expected)


def _near(word: object, known: list[str], words: str) -> str:
    near = difflib.get_close_matches(str(word), known, 1)
    return f"{words} {', '.join(known)}" + (f" (did you mean {near[0]}?)" if near else "")


def _findings(schedule: Schedule) -> Iterator[tuple[Location, object, str]]:
    """What does not fit together."""
    accesses, addresses = list(schedule.accesses), list(schedule.gateway.addresses)
    for place, names in ((("accesses",), accesses), (("gateway", "addresses"), addresses)):
        for name in names:
            if not _NAME.fullmatch(name):
                yield (*place, name), name, "a name of small letters, digits and hyphens"
    for name, access in schedule.accesses.items():
        yield from _nat_findings(schedule, ("accesses", name, "nat", "kind"), name, access.nat.kind)
    if schedule.persona is not None:
        from ue import personas  # late: few schedules name one

        if not schedule.persona.endswith(personas.SUFFIX) and schedule.persona not in personas.shipped():
            expected = f"one of {', '.join(personas.shipped())}, or a file whose name ends in {personas.SUFFIX}"
            yield ("persona",), schedule.persona, expected
    if not schedule.stages:
        yield ("stages",), Words("an empty list"), "at least one stage"
    before = 0.0
    translated = {name for name, access in schedule.accesses.items() if access.nat.kind is not NatKind.NONE}
    for number, event in enumerate(schedule.events):
        at: Location = ("events", number)
        for key, known, kind in (
            ("access", accesses, "an access of this schedule"),
            ("to", accesses, "an access of this schedule"),
            ("address", addresses, "an address of the gateway in this schedule"),
        ):
            value = getattr(event, key, None)
            if value is not None and value not in known:
                yield (*at, key), value, f"{kind}: {', '.join(known)}"
        if isinstance(event, NatAppears) and event.access in accesses:
            if event.nat.kind is NatKind.NONE:
                yield (*at, "nat", "kind"), "none", "a kind of NAT; nat-gone takes one away"
            yield from _nat_findings(schedule, (*at, "nat", "kind"), event.access, event.nat.kind)
            translated.add(event.access)
        elif event.do in ("nat-rebind", "nat-gone") and isinstance(event, AccessEvent):
            if event.access not in translated:
                yield (*at, "access"), event.access, "an access that is behind a NAT then"
            if event.do == "nat-gone":
                translated.discard(event.access)
        if event.at < before:
            yield (*at, "at"), event.at, f"a moment not before the event above it, {before:g} s"
        if event.at > schedule.duration:
            yield (*at, "at"), event.at, f"a moment within the duration, {schedule.duration:g} s"
        before = event.at
        expect = getattr(event, "expect", None)
        if isinstance(expect, MoveExpectation) and expect.access not in (None, *accesses):
            yield (*at, "expect", "access"), expect.access, f"an access of this schedule: {', '.join(accesses)}"
    if not any(event.do == "attach" for event in schedule.events):
        yield ("events",), Words("no attach"), "an event with do: attach"
    for key, known in (("final_access", accesses), ("final_gateway", addresses)):
        value = getattr(schedule.expect, key)
        if value is not None and value not in known:
            yield ("expect", key), value, f"one of {', '.join(known)}"


def _nat_findings(
    schedule: Schedule, place: Location, access: str, kind: NatKind
) -> Iterator[tuple[Location, object, str]]:
    """What a NAT cannot be on an access of this schedule."""
    if schedule.accesses[access].family is Family.IPV6 and kind is not NatKind.NONE:
        yield place, kind.value, "none: there is no NAT of IPv6 here"
