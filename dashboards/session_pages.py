"""Pages of sessions out of several gateways: one gateway after the other, or merged in an order over all of them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import heapq
import itertools
import json
from collections.abc import Callable, Sequence
from http import HTTPStatus

from pydantic import ValidationError

from dashboards.calls import ask
from dashboards.deps import Services
from dashboards.links import NodeLink
from dashboards.problems import Problem, unfit
from dashboards.redaction import redacted
from dashboards.schemas import SessionOrder, SessionPage, SessionView
from protocols.trace.records import JsonValue

Filters = dict[str, JsonValue]
Gateways = Sequence[NodeLink]
SHOWN_MAXIMUM = 10**9  # what a gateway takes for a place

_KEYS: dict[str, Callable[[SessionView], tuple[float | str, str]]] = {
    "created": lambda session: (session.created, session.id),
    "imsi": lambda session: (session.imsi or "", session.id),
    "apn": lambda session: (session.apn or "", session.id),
    "state": lambda session: (session.state, session.id),
}


def gateways(given: Services, name: str | None) -> Gateways:
    """The gateways to ask: all of them, or the one of this name; ``Problem`` 422 where there is none."""
    found = [link for link in given.fleet.gateways if name in (None, link.name)]
    if name is not None and not found:
        known = ", ".join(link.name for link in given.fleet.gateways) or "none"
        raise unfit("gateway", f"there is no gateway {name}; configured under nodes: {known}")
    return found


async def one_after_the_other(gateways: Gateways, filters: Filters, *, limit: int, cursor: str | None) -> SessionPage:
    """The gateways in the order of the configuration, each in its own order."""
    start, inner = _placed(cursor, gateways)
    page = SessionPage(sessions=[], next=None, total=0, unreachable=[])
    problem: Problem | None = None
    for index, link in enumerate(gateways):
        room = limit - len(page.sessions)
        wanted = index >= start and room > 0
        params: dict[str, JsonValue] = {**filters, "limit": room if wanted else 1}
        if wanted and index == start and inner is not None:
            params["cursor"] = inner
        try:
            sessions, following, total = await _asked(link, params)
        except Problem as refused:
            problem = _away(refused, link, page)
            continue
        page.total += total
        if wanted:
            page.sessions += [view(link, session) for session in sessions]
            if following is not None:
                page.next = _place(link, following)
        elif index >= start and total and page.next is None:
            page.next = _place(link, None)
    return _unless_all_are_away(gateways, page, problem)


async def merged(
    gateways: Gateways, filters: Filters, sort: SessionOrder, *, limit: int, cursor: str | None
) -> SessionPage:
    """Sorted over all gateways; a cursor holds how many sessions of each gateway have been shown."""
    shown = _shown(cursor, gateways)
    page = SessionPage(sessions=[], next=None, total=0, unreachable=[])
    problem: Problem | None = None
    found: list[list[tuple[SessionView, str]]] = []
    totals: dict[str, int] = {}
    params: dict[str, JsonValue] = {**filters, "sort": sort, "limit": limit}
    questions = (_asked(link, {**params, "cursor": str(shown[link.name])}) for link in gateways)
    for link, answer in zip(gateways, await asyncio.gather(*questions, return_exceptions=True), strict=True):
        if isinstance(answer, Problem):
            problem = _away(answer, link, page)
            continue
        if isinstance(answer, BaseException):
            raise answer
        sessions, _, total = answer
        page.total += total
        totals[link.name] = total
        found.append([(view(link, session), link.name) for session in sessions])
    key = _KEYS[sort.removeprefix("-")]
    ordered = heapq.merge(*found, key=lambda each: key(each[0]), reverse=sort.startswith("-"))
    for session, name in itertools.islice(ordered, limit):
        page.sessions.append(session)
        shown[name] += 1
    if page.sessions and any(shown[name] < total for name, total in totals.items()):
        page.next = encode([dict(shown)])
    return _unless_all_are_away(gateways, page, problem)


def _away(refused: Problem, link: NodeLink, page: SessionPage) -> Problem:
    """A gateway that cannot be reached is named; any other refusal is raised."""
    if refused.status is not HTTPStatus.SERVICE_UNAVAILABLE:
        raise refused
    page.unreachable.append(link.name)
    return refused


def _unless_all_are_away(gateways: Gateways, page: SessionPage, problem: Problem | None) -> SessionPage:
    if problem is not None and len(page.unreachable) == len(gateways):
        raise problem
    return page


def view(link: NodeLink, session: JsonValue) -> SessionView:
    """A session as the API says it; ``Problem`` 502 when it is something else."""
    try:
        shown = SessionView.model_validate(redacted(session))
    except ValidationError:
        raise unexpected(link) from None
    shown.gateway = link.name  # as people know it, and as the parameter has it
    return shown


def unexpected(link: NodeLink) -> Problem:
    """The gateway said something that is no session."""
    return Problem(
        HTTPStatus.BAD_GATEWAY,
        "node-failed",
        f"{link.name} described a session in a way this dashboard does not understand.",
        node=link.name,
    )


async def _asked(link: NodeLink, params: dict[str, JsonValue]) -> tuple[list[JsonValue], JsonValue, int]:
    answer = await ask(link, "sessions.list", **params)
    if isinstance(answer, dict):
        sessions, total = answer.get("sessions"), answer.get("total")
        if isinstance(sessions, list) and isinstance(total, int):
            return sessions, answer.get("next"), total
    raise unexpected(link)


def encode(value: list[JsonValue]) -> str:
    """A cursor."""
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")


def decode(cursor: str) -> list[JsonValue]:
    """What a cursor holds; ``Problem`` 422 for one that this server did not give out."""
    try:
        octets = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        value = json.loads(octets)
    except (ValueError, binascii.Error):
        raise bad_cursor() from None
    if not isinstance(value, list):
        raise bad_cursor()
    return value


def _place(link: NodeLink, inner: JsonValue) -> str:
    return encode([link.name, inner])


def _placed(cursor: str | None, gateways: Gateways) -> tuple[int, JsonValue]:
    """Which gateway to go on with, and its own cursor."""
    if cursor is None:
        return 0, None
    match decode(cursor):
        case [str(name), (str() | int() | None) as inner]:
            for index, link in enumerate(gateways):
                if link.name == name:
                    return index, inner
    raise bad_cursor()


def _shown(cursor: str | None, gateways: Gateways) -> dict[str, int]:
    """How many sessions of each gateway have been shown."""
    shown = dict.fromkeys((link.name for link in gateways), 0)
    if cursor is not None:
        match decode(cursor):
            case [dict(held)]:
                for name, number in held.items():
                    if name in shown and type(number) is int and 0 <= number < SHOWN_MAXIMUM:
                        shown[name] = number
                    else:
                        raise bad_cursor()
            case _:
                raise bad_cursor()
    return shown


def bad_cursor() -> Problem:
    """The refusal of a cursor."""
    return unfit("cursor", "not one that this server gave out")
