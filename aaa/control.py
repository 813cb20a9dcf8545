"""What the AAA node answers on its control socket: status, sessions, peers, fault rules."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from typing import Protocol

from aaa.faults.rule import FaultRule
from aaa.faults.table import FaultExists, FaultTable, UnknownFault
from aaa.hss.in_process import Bridge
from aaa.server import SwmServer
from aaa.subscribers.database import SubscriberDatabase
from protocols.io.configuration import parse
from protocols.io.control import ControlError, Handler, Params
from protocols.io.diameter import DiameterIdentity, DiameterNode
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

NODE = "aaa"
KIND = "aaa"
DISTRIBUTION = "epdg-emulator"
LIST_LIMIT = 100
LIST_LIMIT_MAXIMUM = 1000


class KeyHolder(Protocol):
    """The HSS port as far as fault rules ask: whether subscribers' keys are at hand."""

    @property
    def has_keys(self) -> bool:
        """Whether a right MAC can be made for a wrong AUTN."""


class AaaControl:
    """The control methods of one node."""

    def __init__(
        self,
        *,
        identity: DiameterIdentity,
        recorder: Recorder,
        server: SwmServer,
        diameter: DiameterNode,
        database: SubscriberDatabase,
        bridge: Bridge,
        faults: FaultTable,
        keys: KeyHolder,
    ) -> None:
        self.listening: tuple[str, ...] = ()
        self._identity = identity
        self._recorder = recorder
        self._server = server
        self._diameter = diameter
        self._database = database
        self._bridge = bridge
        self._faults = faults
        self._keys = keys

    def methods(self) -> Mapping[str, Handler]:
        """What ``ControlServer`` is given."""
        return {
            "node.status": self._status,
            "sessions.list": self._list_sessions,
            "sessions.get": self._get_session,
            "peers.list": self._list_peers,
            "faults.list": self._list_faults,
            "faults.add": self._add_fault,
            "faults.remove": self._remove_fault,
            "faults.clear": self._clear_faults,
        }

    # --- the node -----------------------------------------------------------------------------------

    async def _status(self, params: Params) -> JsonValue:
        return {
            "node": NODE,
            "kind": KIND,
            "version": importlib.metadata.version(DISTRIBUTION),
            "started": self._recorder.started,
            "host": self._identity.host,
            "realm": self._identity.realm,
            "listen": ", ".join(self.listening) or None,
            "sessions": len(self._server),
            "subscribers": await self._bridge.run(self._database.count),
            "faults": len(self._faults),
            "dropped": {"diameter": {str(why): count for why, count in self._diameter.dropped.items()}},
        }

    async def _list_peers(self, params: Params) -> JsonValue:
        return {"peers": [peer.to_json() for peer in self._diameter.peers()]}

    # --- sessions -----------------------------------------------------------------------------------

    async def _list_sessions(self, params: Params) -> JsonValue:
        wanted = {name: params[name] for name in ("imsi", "apn", "state") if params.get(name) is not None}
        limit = _limit(params)
        cursor = params.get("cursor") or "0"
        if not isinstance(cursor, str) or not cursor.isdecimal():
            raise ControlError("bad-params", "cursor is what an earlier answer held in next")
        found = [
            session
            for session in self._server.sessions()
            if isinstance(session, dict) and all(session[name] == value for name, value in wanted.items())
        ]
        start = int(cursor)
        end = start + limit
        page: list[JsonValue] = [*found[start:end]]
        return {"sessions": page, "next": str(end) if end < len(found) else None, "total": len(found)}

    async def _get_session(self, params: Params) -> JsonValue:
        identifier = params.get("id")
        session = self._server.session(identifier) if isinstance(identifier, str) else None
        if session is None:
            raise ControlError("not-found", f"there is no session {identifier}")
        return session

    # --- fault rules --------------------------------------------------------------------------------

    async def _list_faults(self, params: Params) -> JsonValue:
        return {"faults": self._faults.rules()}

    async def _add_fault(self, params: Params) -> JsonValue:
        given = params.get("rule")
        if not isinstance(given, dict):
            raise ControlError("bad-params", "rule is an object with name and action")
        rule = parse(json.dumps(given), FaultRule, file="rule")
        if rule.action.needs_key and not self._keys.has_keys:
            raise ControlError("refused", "old_sqn and clear_amf_bit need the subscribers' keys: the HSS is elsewhere")
        try:
            added = self._faults.add(rule)
        except FaultExists as error:
            raise ControlError("exists", str(error)) from None
        self._recorder.event("fault-added", f"Fault rule {rule.name} was added.", {"rule": rule.name})
        return added

    async def _remove_fault(self, params: Params) -> JsonValue:
        name = params.get("name")
        if not isinstance(name, str):
            raise ControlError("bad-params", "name is a rule's name")
        try:
            removed = self._faults.remove(name)
        except UnknownFault as error:
            raise ControlError("not-found", str(error)) from None
        self._recorder.event("fault-removed", f"Fault rule {name} was removed.", {"rule": name})
        return removed

    async def _clear_faults(self, params: Params) -> JsonValue:
        count = self._faults.clear()
        if count:
            self._recorder.event("faults-cleared", f"{count} fault rules were removed.", {"removed": count})
        return {"removed": count}


def _limit(params: Params) -> int:
    limit = params.get("limit") or LIST_LIMIT
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= LIST_LIMIT_MAXIMUM:
        raise ControlError("bad-params", f"limit is a number from 1 to {LIST_LIMIT_MAXIMUM}")
    return limit
