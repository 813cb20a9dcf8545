"""Sessions of a gateway that have changed: how many, by what, and how they are now, for whoever wants to know that.

A gateway with thousands of sessions has a thousand changes a second, of which its readers look at a few. So what is
published is that a session has changed; the gateway is asked for it when a reader wants it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from dashboards.event import Told, as_json
from dashboards.problems import Problem
from dashboards.schemas import SessionView
from dashboards.stream import EventHub
from protocols.io.control import ControlError
from protocols.trace.records import JsonValue, Kind, TraceRecord

SEVERAL = 200  # sessions that are asked for at once: other questions get their turn in between
REFRESH_INTERVAL = 0.05  # seconds over which changes of one session become one event

Call = Callable[..., Coroutine[Any, Any, JsonValue]]

logger = logging.getLogger("dashboards")


class SessionChanges:
    """Of one gateway; ``call`` asks it."""

    def __init__(self, gateway: str, hub: EventHub, call: Call) -> None:
        self._gateway = gateway
        self._hub = hub
        self._call = call
        self._sessions: set[str] = set()
        self._events: Counter[str] = Counter()
        self._any = asyncio.Event()

    def note(self, record: TraceRecord) -> None:
        """The gateway has recorded something."""
        if record.session is None or record.kind is Kind.MESSAGE:
            return
        name = record.body.get("name")
        self._events[name if isinstance(name, str) and record.kind is Kind.EVENT else record.kind.value] += 1
        self._sessions.add(record.session)
        self._any.set()

    async def run(self) -> None:
        """Publish what has changed until cancelled."""
        while True:
            await self._any.wait()
            await asyncio.sleep(REFRESH_INTERVAL)
            self._any.clear()
            sessions, self._sessions = self._sessions, set()
            events, self._events = self._events, Counter()
            self._hub.publish(
                "changes", {"gateway": self._gateway, "sessions": len(sessions), "events": dict(sorted(events.items()))}
            )
            for session in sorted(sessions):
                self._hub.publish_changed(session, self.look_up)

    async def look_up(self, sessions: Sequence[str]) -> dict[str, Told]:
        """The events that tell how these are now; none of what cannot be asked for or understood."""
        told: dict[str, Told] = {}
        for names in _batched(sessions, SEVERAL):
            try:
                answer = await self._call("sessions.several", ids=[*names])
            except ControlError as error:
                logger.warning("%s does not tell what has changed: %s", self._gateway, error)
            except Problem:
                break  # away: the page asks for everything when it is back
            else:
                answer = answer if isinstance(answer, dict) else {}
                told |= {view.id: Told("session", view.model_dump_json()) for view in self._views(answer)}
                told |= {name: Told("session-gone", as_json({"id": name})) for name in _texts(answer.get("unknown"))}
        return told

    def _views(self, answer: dict[str, JsonValue]) -> Iterator[SessionView]:
        sessions = answer.get("sessions")
        for value in sessions if isinstance(sessions, list) else ():
            try:
                view = SessionView.model_validate(value)
            except ValidationError as error:
                members = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
                session = value.get("id") if isinstance(value, dict) else None
                logger.warning("%s describes session %s in an unknown way: %s", self._gateway, session, members)
                continue
            view.gateway = self._gateway  # as people know it: two gateways may call themselves alike
            yield view


def _batched(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """In pieces of up to ``size``."""
    for start in range(0, len(names), size):
        yield names[start : start + size]


def _texts(value: JsonValue) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
