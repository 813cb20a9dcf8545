"""Control methods that look at sessions and change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from epdg.control.session_selection import EndedSubject, LiveSubject, Subject, View, page, several
from epdg.sessions import Sessions
from protocols.io.control import ControlError, Handler, Params
from protocols.trace.records import JsonValue


class SessionQueries:
    """Sessions as JSON."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def methods(self) -> Mapping[str, Handler]:
        """By name."""
        return {
            "sessions.list": self.list,
            "sessions.get": self.get,
            "sessions.several": self.several,
        }

    async def list(self, params: Params) -> JsonValue:
        """Live ones first, then those that have ended, the last one first, or sorted; a page of those that match."""
        return page(self._subjects(), params)

    async def get(self, params: Params) -> JsonValue:
        """One, live or ended."""
        identifier = params.get("id")
        view = self._find(identifier) if isinstance(identifier, str) else None
        if view is None:
            raise ControlError("not-found", f"no session {identifier}")
        return view

    async def several(self, params: Params) -> JsonValue:
        """Those that are named, live or ended."""
        return several(self._find, params)

    def _find(self, identifier: str) -> View | None:
        live = self._sessions.find(identifier)
        return self._sessions.ended.get(identifier) if live is None else self._sessions.view(live)

    def _subjects(self) -> Iterator[Subject]:
        for live in self._sessions.live.values():
            yield LiveSubject(live, self._sessions.view)
        for shown in reversed(self._sessions.ended.values()):
            yield EndedSubject(shown)
