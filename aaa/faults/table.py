"""Which fault rule applies to what happens now: a pure machine over rules, attempts and counters.

The share of attempts that a rule hits follows from its seed, its name, the IMSI and the attempt's number:
the same run gives the same faults, whatever else happens beside it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from aaa.faults.rule import HSS_COMMANDS, Action, AttachStep, FaultRule, Point
from protocols.errors import LocalError
from protocols.threegpp.identity import Apn
from protocols.trace.records import JsonValue

RULES_LIMIT = 1000
ATTEMPTS_LIMIT = 100_000  # of subscribers and sessions that one rule counts; the one from longest ago is forgotten
_SHARES = 1 << 64


class FaultExists(LocalError):
    """A rule has this name already."""


class UnknownFault(LocalError):
    """No rule has this name."""


class TooManyFaults(LocalError):
    """The table is full."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Occasion:
    """What is known where a rule may take hold; ``commands`` are the requests that are in hand, innermost first."""

    commands: tuple[str, ...]
    session_id: str | None = None
    imsi: str | None = None
    apn: str | None = None
    step: AttachStep | None = None
    has_eap: bool = False
    has_mac: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A rule that applies now."""

    rule: str
    action: Action
    attempt: int


@dataclass(kw_only=True)
class _Entry:
    """A rule, what it did, and the attempts it saw: how many of each IMSI, and which number a session has."""

    rule: FaultRule
    configured: bool
    matched: int = 0
    applied: int = 0
    attempts: OrderedDict[str, int] = field(default_factory=OrderedDict)
    sessions: OrderedDict[tuple[str, str], int] = field(default_factory=OrderedDict)

    @property
    def remaining(self) -> int | None:
        return None if self.rule.times is None else max(0, self.rule.times - self.applied)

    def to_json(self) -> dict[str, JsonValue]:
        return {
            **self.rule.to_json(),
            "origin": "configuration" if self.configured else "control",
            "remaining": self.remaining,
            "matched": self.matched,
            "applied": self.applied,
        }


class FaultTable:
    """The rules in order; the first that applies decides. Rules live in memory only."""

    def __init__(self, rules: Iterable[FaultRule] = ()) -> None:
        self._entries: dict[str, _Entry] = {}
        for rule in rules:
            self._put(rule, configured=True)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, rule: FaultRule) -> dict[str, JsonValue]:
        """Append a rule; ``FaultExists``, ``TooManyFaults``."""
        return self._put(rule, configured=False).to_json()

    def remove(self, name: str) -> dict[str, JsonValue]:
        """Take a rule out; what it was and did, ``UnknownFault``."""
        entry = self._entries.pop(name, None)
        if entry is None:
            raise UnknownFault(f"there is no fault rule {name}")
        return entry.to_json()

    def clear(self) -> int:
        """Take every rule out; how many there were."""
        count = len(self._entries)
        self._entries.clear()
        return count

    def rules(self) -> list[JsonValue]:
        """The rules in order, with their counters."""
        return [entry.to_json() for entry in self._entries.values()]

    def decide(self, occasion: Occasion, point: Point) -> Fault | None:
        """The rule that takes hold at this point, counted as applied; ``None`` mostly."""
        for entry in self._entries.values():
            rule = entry.rule
            concerned = rule.action.spoils_vector if point is Point.VECTOR else rule.action.spoils_answer
            if not concerned or not _is_for(rule, occasion, point):
                continue
            attempt = _count(entry, occasion)
            if not _is_possible(rule, occasion, point):
                continue
            entry.matched += 1
            if not rule.enabled or entry.remaining == 0:
                continue
            if rule.match.attempts is not None and not rule.match.attempts.matches(attempt):
                continue
            if rule.match.share < 1 and _fraction(rule, occasion, attempt) >= rule.match.share:
                continue
            entry.applied += 1
            return Fault(rule=rule.name, action=rule.action, attempt=attempt)
        return None

    def clears_amf_bit(self, imsi: str, apn: str | None) -> bool:
        """Whether a rule may clear the AMF separation bit of a subscriber's vectors now."""
        occasion = Occasion(commands=("MAR", "DER"), imsi=imsi, apn=apn)
        return any(
            entry.rule.action.clear_amf_bit
            and entry.rule.enabled
            and entry.remaining != 0
            and _is_for(entry.rule, occasion, Point.VECTOR)
            for entry in self._entries.values()
        )

    def _put(self, rule: FaultRule, *, configured: bool) -> _Entry:
        if rule.name in self._entries:
            raise FaultExists(f"there is a fault rule {rule.name} already")
        if len(self._entries) >= RULES_LIMIT:
            raise TooManyFaults(f"there are {RULES_LIMIT} fault rules, which is the limit")
        entry = _Entry(rule=rule, configured=configured)
        self._entries[rule.name] = entry
        return entry


def _is_for(rule: FaultRule, occasion: Occasion, point: Point) -> bool:
    match = rule.match
    if point is Point.VECTOR:
        wanted = match.command is None or match.command in occasion.commands
    else:
        command = occasion.commands[0]
        wanted = match.command == command or (match.command is None and command not in HSS_COMMANDS)
    if not wanted:
        return False
    if match.imsi is not None and not match.imsi.matches(occasion.imsi):
        return False
    return match.apn is None or match.apn == _network_identifier(occasion.apn)


def _network_identifier(apn: str | None) -> str | None:
    try:
        return None if apn is None else Apn(apn).network_identifier
    except ValueError:
        return None


def _is_possible(rule: FaultRule, occasion: Occasion, point: Point) -> bool:
    """Whether this answer is the step that is meant, and has what the rule spoils."""
    step, action = rule.match.step, rule.action
    if step is not None and step is not occasion.step:
        return False
    if point is Point.VECTOR:
        return True
    return (occasion.has_mac or not action.wrong_mac) and (occasion.has_eap or not action.eap_failure)


def _count(entry: _Entry, occasion: Occasion) -> int:
    """The number of this attempt; another session of the same subscriber is the next one."""
    who, session = occasion.imsi or "", occasion.session_id or ""
    number = entry.sessions.get((who, session)) if session else None
    if number is None:
        number = entry.attempts.pop(who, 0) + 1
        entry.attempts[who] = number
        if session:
            entry.sessions[who, session] = number
        for kept in (entry.attempts, entry.sessions):
            if len(kept) > ATTEMPTS_LIMIT:
                kept.popitem(last=False)
    return number


def _fraction(rule: FaultRule, occasion: Occasion, attempt: int) -> float:
    """A number from 0 to below 1, the same for the same attempt."""
    text = f"{rule.match.seed}/{rule.name}/{occasion.imsi}/{attempt}"
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") / _SHARES
