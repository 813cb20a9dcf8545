"""Which sessions a question means, and in which order: told from what they are, before any of them is described."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Protocol

from epdg.live import Live
from protocols.io.control import Params
from protocols.io.parameters import number, text, unfit, whole_number
from protocols.path import Address
from protocols.trace.records import JsonValue

LIST_LIMIT = 100
LIST_LIMIT_MAXIMUM = 1000
SEVERAL_MAXIMUM = 1000
ORDERS = ("created", "-created", "imsi", "apn", "state")

_BETWEEN = "\n"  # what stands between the parts of a session's text: words with it are in none

View = dict[str, JsonValue]


class Subject(Protocol):
    """A session as far as it is looked for; ``addresses`` are the inner ones and the UE's outer one."""

    @property
    def identifier(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def imsi(self) -> str: ...
    @property
    def nai(self) -> str: ...
    @property
    def apn(self) -> str: ...
    @property
    def created(self) -> float: ...
    @property
    def addresses(self) -> tuple[Address, ...]: ...
    @property
    def text(self) -> str:
        """What ``searchable`` makes of it."""

    def view(self) -> View:
        """The whole of it, for an answer."""


def searchable(imsi: str, nai: str, apn: str, addresses: Iterable[Address]) -> str:
    """All that words are looked for in, in lower case."""
    return _BETWEEN.join((imsi, nai, apn, *map(str, addresses))).lower()


class LiveSubject:
    """A session that is there; its text is kept with it, since making one takes longer than looking through it."""

    __slots__ = ("_live", "_view")

    def __init__(self, live: Live, view: Callable[[Live], View]) -> None:
        self._live = live
        self._view = view

    @property
    def identifier(self) -> str:
        return self._live.session.identifier

    @property
    def state(self) -> str:
        return self._live.session.state.value

    @property
    def imsi(self) -> str:
        return self._live.session.imsi or ""

    @property
    def nai(self) -> str:
        return self._live.session.nai

    @property
    def apn(self) -> str:
        return self._live.session.apn or ""

    @property
    def created(self) -> float:
        return self._live.session.created

    @property
    def addresses(self) -> tuple[Address, ...]:
        return (*self._live.session.inner_addresses, self._live.sa.path.remote.address)

    @property
    def text(self) -> str:
        """Made anew when anything in it is another."""
        live, session = self._live, self._live.session
        made_of = (session.imsi, session.nai, session.apn, session.inner_addresses, live.sa.path.remote.address)
        if live.searched is None or live.searched[0] != made_of:
            live.searched = made_of, searchable(self.imsi, self.nai, self.apn, self.addresses)
        return live.searched[1]

    def view(self) -> View:
        """Made now, counters included."""
        return self._view(self._live)


class EndedSubject:
    """A session that has ended, as it was shown last."""

    __slots__ = ("_shown",)

    def __init__(self, shown: View) -> None:
        self._shown = shown

    @property
    def identifier(self) -> str:
        return str(self._shown["id"])

    @property
    def state(self) -> str:
        return str(self._shown["state"])

    @property
    def imsi(self) -> str:
        return str(self._shown["imsi"] or "")

    @property
    def nai(self) -> str:
        return str(self._shown["nai"] or "")

    @property
    def apn(self) -> str:
        return str(self._shown["apn"] or "")

    @property
    def created(self) -> float:
        created = self._shown["created"]
        assert isinstance(created, int | float)
        return created

    @property
    def addresses(self) -> tuple[Address, ...]:
        inner, ike = self._shown["inner_addresses"], self._shown["ike"]
        assert isinstance(inner, list)
        assert isinstance(ike, dict)
        path = ike["path"]
        outer = [str(path["remote"]).rpartition(":")[0].strip("[]")] if isinstance(path, dict) else []
        return tuple(ip_address(str(each)) for each in (*inner, *outer))

    @property
    def text(self) -> str:
        """Made now: few have ended of late."""
        return searchable(self.imsi, self.nai, self.apn, self.addresses)

    def view(self) -> View:
        """As it was shown last."""
        return self._shown


Test = Callable[[Subject], bool]

_KEYS: Mapping[str, Callable[[Subject], tuple[float | str, str]]] = {
    "created": lambda subject: (subject.created, subject.identifier),
    "imsi": lambda subject: (subject.imsi, subject.identifier),
    "apn": lambda subject: (subject.apn, subject.identifier),
    "state": lambda subject: (subject.state, subject.identifier),
}


def page(subjects: Iterable[Subject], params: Params) -> View:
    """The answer to ``sessions.list``: a page of the sessions that match, described, and how many do.

    ``bad-params`` for a parameter that does not fit.
    """
    limit, start = _limit(params), _start(params)
    found = list(subjects)
    for test in _tests(params):
        found = [subject for subject in found if test(subject)]
    order = text(params, "sort")
    if order is not None:
        if order not in ORDERS:
            raise unfit(f"sort is one of {', '.join(ORDERS)}")
        found.sort(key=_KEYS[order.removeprefix("-")], reverse=order.startswith("-"))
    shown: list[JsonValue] = [subject.view() for subject in found[start : start + limit]]
    more = start + limit < len(found)
    return {"sessions": shown, "next": str(start + limit) if more else None, "total": len(found)}


def _limit(params: Params) -> int:
    expected = f"limit is a whole number from 1 to {LIST_LIMIT_MAXIMUM}"
    limit = whole_number(params, "limit", expected)
    if limit is None:
        return LIST_LIMIT
    if not 1 <= limit <= LIST_LIMIT_MAXIMUM:
        raise unfit(expected)
    return limit


def _start(params: Params) -> int:
    expected = "cursor is what a previous answer gave as next"
    cursor = text(params, "cursor", expected)
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 10):
        raise unfit(expected)
    return int(cursor)


def _tests(params: Params) -> list[Test]:
    """What a session has to be, the cheapest first."""
    tests: list[Test] = []
    if (state := text(params, "state")) is not None:
        tests.append(lambda subject: subject.state == state)
    if (imsi := text(params, "imsi")) is not None:
        tests.append(lambda subject: subject.imsi == imsi)
    if (apn := text(params, "apn")) is not None:
        tests.append(lambda subject: subject.apn == apn)
    if (since := number(params, "since", "since is seconds since 1970-01-01 UTC")) is not None:
        tests.append(lambda subject: subject.created >= since)
    if (until := number(params, "until", "until is seconds since 1970-01-01 UTC")) is not None:
        tests.append(lambda subject: subject.created <= until)
    if (written := text(params, "address")) is not None:
        address = _address(written)
        tests.append(lambda subject: address in subject.addresses)
    if (words := text(params, "q")) is not None:
        looked_for = words.lower()
        tests.append(lambda subject: looked_for in subject.text and _BETWEEN not in looked_for)
    return tests


def several(find: Callable[[str], View | None], params: Params) -> View:
    """The answer to ``sessions.several``: those of the named sessions that there are, and the names of the others.

    ``bad-params`` for what is no list of names.
    """
    names = params.get("ids")
    expected = f"ids are up to {SEVERAL_MAXIMUM} identifiers of sessions"
    if not isinstance(names, list) or len(names) > SEVERAL_MAXIMUM:
        raise unfit(expected)
    shown: list[JsonValue] = []
    unknown: list[JsonValue] = []
    for name in names:
        if not isinstance(name, str):
            raise unfit(expected)
        view = find(name)
        if view is None:
            unknown.append(name)
        else:
            shown.append(view)
    return {"sessions": shown, "unknown": unknown}


def _address(written: str) -> Address | None:
    """``None``, which no session has, for what is no address."""
    try:
        return ip_address(written)
    except ValueError:
        return None
