"""A result judged by the expectations that its schedule holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from lab.mobility.recording import Played
from lab.mobility.result import Check, DirectionFigures, MoveResult, RunResult
from lab.mobility.schedule import Lose, MoveExpectation, MoveTo, Resume, Schedule


def judge(result: RunResult, schedule: Schedule, played: Sequence[Played], *, real_time: bool) -> RunResult:
    """The result with its checks; where time is real the schedule's slack is granted."""
    slack = schedule.expect.real_time_slack if real_time else 0.0
    checks = [
        *_whole(result, schedule, slack),
        *_lost_on_purpose(result, played),
        *_commanded(result, schedule, played, slack),
    ]
    if schedule.expect.each_move is not None:
        for move in result.moves:
            if move.outcome == "completed":
                checks.extend(_move(move, schedule.expect.each_move, schedule, slack, result.final_access))
    return replace(result, checks=tuple(dict.fromkeys(checks)))  # a move's own and each move's may be the same


def _whole(result: RunResult, schedule: Schedule, slack: float) -> Iterator[Check]:
    expect = schedule.expect
    completed = sum(move.outcome == "completed" for move in result.moves)
    if expect.attached:
        yield _check("attach", "succeeds", f"{len(result.attaches)} made", bool(result.attaches))
    if expect.attaches is not None:
        yield _equal("attaches", expect.attaches, len(result.attaches))
    if expect.moves is not None:
        yield _equal("moves completed", expect.moves, completed)
    if expect.moves_maximum is not None:
        yield _most("moves completed", expect.moves_maximum, completed)
    for name, figures in (("uplink", result.uplink), ("downlink", result.downlink)):
        if schedule.traffic.kind == "voice":
            yield _check(
                f"{name} traffic", "flows", f"{figures.sent - figures.lost} packets", figures.sent > figures.lost
            )
        if expect.outage_ms is not None:
            yield _most(f"longest {name} outage, ms", expect.outage_ms + slack * 1000, figures.outage_ms)
        if expect.packets_lost is not None:
            yield _most(f"{name} packets lost", expect.packets_lost + _packets(slack, schedule), figures.lost)
        if expect.mos is not None:
            found = figures.mos
            passed = found is not None and found >= expect.mos
            yield _check(f"{name} MOS", f"at least {expect.mos:g}", str(found), passed)
    if expect.final_access is not None:
        yield _equal("final access", expect.final_access, result.final_access)
    if expect.final_gateway is not None:
        yield _equal("final gateway address", expect.final_gateway, result.final_gateway)
    yield _check("leaks", "none", "; ".join(result.leaks) or "none", not result.leaks)


def _lost_on_purpose(result: RunResult, played: Sequence[Played]) -> Iterator[Check]:
    """Each order to lose messages took one at least: else the run shows nothing of what it is about."""
    orders = Counter(each.event.message.value for each in played if isinstance(each.event, Lose))
    for kind, number in sorted(orders.items()):
        lost = result.messages_lost.get(kind, 0)
        yield _check(f"{kind} lost on purpose", f"at least {number}", str(lost), lost >= number)


def _commanded(result: RunResult, schedule: Schedule, played: Sequence[Played], slack: float) -> Iterator[Check]:
    """Each command to move with the move that came of it, in order."""
    left = [move for move in result.moves if move.commanded]
    for each in played:
        event = each.event
        if not isinstance(event, MoveTo | Resume):
            if each.error is not None:
                yield _check(f"{event.do} at {event.at:g} s", "is done", each.error, False)
            continue
        began, ended, cause = round(each.began * 1000, 3), round(each.ended * 1000, 3), f"{event.do} {event.to}"
        move = next((move for move in left if move.cause == cause and began <= move.started_ms <= ended), None)
        if move is None:
            found, refused = each.error or "no move", event.expect.outcome == "refused"
            expected = "a refusal" if refused else "a move"
            passed = refused and each.error is not None
            yield _check(f"{event.do} to {event.to} at {event.at:g} s", expected, found, passed)
            continue
        left.remove(move)
        yield from _move(move, event.expect, schedule, slack, result.final_access)


def _move(
    move: MoveResult, expect: MoveExpectation, schedule: Schedule, slack: float, final_access: str | None
) -> Iterator[Check]:
    name = f"move {move.number} ({move.origin} to {move.target})"
    if expect.outcome is not None:
        yield _equal(f"{name}: outcome", expect.outcome, move.outcome)
    directions: tuple[tuple[str, DirectionFigures | None], ...] = (("uplink", move.uplink), ("downlink", move.downlink))
    for direction, figures in directions:
        if expect.outage_ms is not None:
            maximum = expect.outage_ms + slack * 1000
            found = None if figures is None or not figures.recovered else figures.outage_ms
            yield _most(f"{name}: {direction} outage, ms", maximum, found)
        if expect.packets_lost is not None:
            maximum_lost = expect.packets_lost + _packets(slack, schedule)
            yield _most(f"{name}: {direction} packets lost", maximum_lost, None if figures is None else figures.lost)
    if expect.requests is not None:
        yield _most(f"{name}: IKE requests", expect.requests, move.requests)
    if expect.inner_address_unchanged is not None:
        yield _equal(f"{name}: inner address unchanged", expect.inner_address_unchanged, move.inner_address_unchanged)
    if expect.spis_unchanged is not None:
        yield _equal(f"{name}: SPIs unchanged", expect.spis_unchanged, move.spis_unchanged)
    if expect.access is not None:
        after = move.target if move.outcome == "completed" else final_access
        yield _equal(f"{name}: access afterwards", expect.access, after)


def _packets(slack: float, schedule: Schedule) -> int:
    return math.ceil(slack * schedule.traffic.rate)


def _check(subject: str, expected: str, found: str, passed: bool) -> Check:
    return Check(subject=subject, expected=expected, found=found, passed=passed)


def _equal(subject: str, expected: object, found: object) -> Check:
    return _check(subject, _word(expected), _word(found), expected == found)


def _most(subject: str, maximum: float, found: float | None) -> Check:
    """Nothing found is not within a maximum: nobody measured."""
    shown = "nothing" if found is None else f"{found:g}"
    return _check(subject, f"at most {maximum:g}", shown, found is not None and found <= maximum)


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "nothing" if value is None else str(value)
