"""Control methods that look at sessions and change nothing."""

from __future__ import annotations

from collections.abc import Mapping

from epdg.sessions import Sessions
from protocols.io.control import ControlError, Handler, Params
from protocols.io.parameters import text, unfit, whole_number
from protocols.trace.records import JsonValue

LIST_LIMIT = 100
LIST_LIMIT_MAXIMUM = 1000


class SessionQueries:
    """Sessions as JSON."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def methods(self) -> Mapping[str, Handler]:
        """By name."""
        return {
            "sessions.list": self.list,
            "sessions.get": self.get,
        }

    async def list(self, params: Params) -> JsonValue:
        """Live ones first, then those that have ended, the last one first; a page of those that match."""
        expected = f"limit is a whole number from 1 to {LIST_LIMIT_MAXIMUM}"
        limit = whole_number(params, "limit", expected)
        if limit is None:
            limit = LIST_LIMIT
        if not 1 <= limit <= LIST_LIMIT_MAXIMUM:
            raise unfit(expected)
        expected = "cursor is what a previous answer gave as next"
        cursor = text(params, "cursor", expected)
        if cursor is not None and not cursor.isdecimal():
            raise unfit(expected)
        live = [self._sessions.view(each) for each in self._sessions.live.values()]
        views = [view for view in (*live, *reversed(self._sessions.ended.values())) if _matches(view, params)]
        start = int(cursor) if cursor else 0
        page: list[JsonValue] = [*views[start : start + limit]]
        more = start + limit < len(views)
        return {"sessions": page, "next": str(start + limit) if more else None, "total": len(views)}

    async def get(self, params: Params) -> JsonValue:
        """One, live or ended."""
        identifier = params.get("id")
        live = self._sessions.find(identifier)
        if live is not None:
            return self._sessions.view(live)
        if isinstance(identifier, str) and identifier in self._sessions.ended:
            return self._sessions.ended[identifier]
        raise ControlError("not-found", f"no session {identifier}")


def _matches(view: dict[str, JsonValue], params: Params) -> bool:
    for name in ("imsi", "apn", "state"):
        wanted = params.get(name)
        if wanted is not None and view[name] != wanted:
            return False
    address = params.get("address")
    if address is None:
        return True
    inner = view["inner_addresses"]
    ike = view["ike"]
    remote = ike["path"]["remote"] if isinstance(ike, dict) and isinstance(ike["path"], dict) else ""
    return (isinstance(inner, list) and address in inner) or str(remote).rpartition(":")[0].strip("[]") == address
