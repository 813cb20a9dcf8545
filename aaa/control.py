"""What a process of this package answers on its control socket: status, peers, sessions, registrations, fault rules."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Awaitable, Callable, Mapping

from aaa.config import AaaConfiguration, Role
from aaa.faults.rule import FaultRule
from aaa.faults.table import FaultExists, UnknownFault
from aaa.faults.wrapping import Faults
from aaa.gateways import UnknownSession
from aaa.hss.in_process import Bridge
from aaa.hss.node import HssNode
from aaa.hss.push import NotRegistered
from aaa.initiated import ProcedureEnded
from aaa.node import AaaServer
from aaa.subscriber_control import SubscriberControl, imsi_of, limit_of
from aaa.subscribers.database import SubscriberDatabase
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ResultCode
from protocols.errors import BackendError
from protocols.io.configuration import shown, validate
from protocols.io.control import ControlError, Handler, Params
from protocols.io.documents import Document
from protocols.io.process import process_view
from protocols.io.telemetry import Telemetry
from protocols.threegpp.identity import Imsi
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

NODE = "aaa"
HSS_NODE = "hss"  # the name and kind of a process that is an HSS alone
DISTRIBUTION = "epdg-emulator"


def node_name(role: Role) -> str:
    """The name and kind of a process in ``role``."""
    return HSS_NODE if role is Role.HSS else NODE


class AaaControl:
    """The control methods of one process in its role."""

    def __init__(
        self,
        configuration: AaaConfiguration,
        role: Role,
        recorder: Recorder,
        *,
        aaa: AaaServer | None,
        hss: HssNode | None,
        database: SubscriberDatabase | None,
        bridge: Bridge,
        faults: Faults,
        telemetry: Telemetry | None,
    ) -> None:
        self._configuration = configuration
        self._role = role
        self._recorder = recorder
        self._aaa = aaa
        self._hss = hss
        self._database = database
        self._bridge = bridge
        self._faults = faults
        self._telemetry = telemetry
        self._subscribers: SubscriberControl | None = None
        if database is not None and hss is not None:
            self._subscribers = SubscriberControl(database, bridge, hss, recorder)

    def methods(self) -> Mapping[str, Handler]:
        """What ``ControlServer`` is given: what the role has."""
        methods: dict[str, Handler] = {
            "node.status": self._status,
            "node.configuration": self._shown_configuration,
            "peers.list": self._list_peers,
            "eap.roll-key": self._roll_key,
            "sessions.list": self._list_sessions,
            "sessions.get": self._get_session,
            "sessions.abort": self._abort_session,
            "sessions.reauthorise": self._reauthorise_session,
            "pgw-sessions.list": self._list_pgw_sessions,
            "registrations.get": self._get_registration,
            "registrations.terminate": self._terminate_registration,
            "registrations.push-profile": self._push_profile,
            "faults.list": self._list_faults,
            "faults.add": self._add_fault,
            "faults.remove": self._remove_fault,
            "faults.clear": self._clear_faults,
        }
        if self._subscribers is not None:
            methods |= self._subscribers.methods()
        no_aaa, no_hss = self._aaa is None, self._hss is None
        absent = {"sessions": no_aaa, "pgw-sessions": no_aaa, "eap": no_aaa, "registrations": no_hss}
        return {name: handler for name, handler in methods.items() if not absent.get(name.partition(".")[0])}

    # --- the node -----------------------------------------------------------------------------------

    async def _status(self, params: Params) -> JsonValue:
        aaa, hss = self._aaa, self._hss
        identity = self._configuration.identity if aaa is not None else self._configuration.hss_identity
        listening = aaa.listening if aaa is not None else hss.listening if hss is not None else ()
        dropped: dict[str, JsonValue] = {}
        figures: dict[str, JsonValue] = {}
        for name, part in (("aaa", aaa), ("hss", hss)):
            if part is not None:
                figures[name] = part.figures()
        for part in (aaa, hss):
            dropped |= {} if part is None else part.dropped()
        database = self._database if hss is not None else None
        return {
            "node": node_name(self._role),
            "kind": node_name(self._role),
            "version": importlib.metadata.version(DISTRIBUTION),
            "started": self._recorder.started,
            "role": self._role.value,
            "host": identity.host,
            "realm": identity.realm,
            "listen": ", ".join(listening) or None,
            "sessions": 0 if aaa is None else len(aaa.sessions),
            "subscribers": None if database is None else await self._bridge.run(database.count),
            "hss": None if hss is None else await hss.status(),
            "faults": len(self._faults.table),
            "dropped": {"diameter": dropped},
            "figures": figures,
            "process": process_view(),
            "trace": self._recorder.view(),
            "telemetry": None if self._telemetry is None else self._telemetry.view(),
        }

    async def _shown_configuration(self, params: Params) -> JsonValue:
        return shown(self._configuration)

    async def _list_peers(self, params: Params) -> JsonValue:
        return {"peers": [peer for part in (self._aaa, self._hss) if part is not None for peer in part.peers()]}

    async def _roll_key(self, params: Params) -> JsonValue:
        assert self._aaa is not None
        try:
            index = self._aaa.roll_key()
        except BackendError as error:
            raise ControlError("backend", str(error)) from error
        if index is None:
            raise ControlError("not-found", "this server makes no temporary identities: it has no eap.temporary")
        return {"index": index}

    # --- sessions -----------------------------------------------------------------------------------

    async def _list_sessions(self, params: Params) -> JsonValue:
        assert self._aaa is not None
        wanted = {name: params[name] for name in ("imsi", "apn", "state") if params.get(name) is not None}
        limit = limit_of(params)
        cursor = params.get("cursor") or "0"
        if not isinstance(cursor, str) or not cursor.isdecimal():
            raise ControlError("bad-params", "cursor is what an earlier answer held in next")
        found = [
            session
            for session in self._aaa.sessions.sessions()
            if isinstance(session, dict) and all(session[name] == value for name, value in wanted.items())
        ]
        start = int(cursor)
        end = start + limit
        page: list[JsonValue] = [*found[start:end]]
        return {"sessions": page, "next": str(end) if end < len(found) else None, "total": len(found)}

    async def _get_session(self, params: Params) -> JsonValue:
        assert self._aaa is not None
        identifier = params.get("id")
        session = self._aaa.sessions.session(identifier) if isinstance(identifier, str) else None
        if session is None:
            raise ControlError("not-found", f"there is no session {identifier}")
        return session

    async def _abort_session(self, params: Params) -> JsonValue:
        assert self._aaa is not None
        return await _carried_out(self._aaa.gateways.abort, params)

    async def _reauthorise_session(self, params: Params) -> JsonValue:
        assert self._aaa is not None
        return await _carried_out(self._aaa.gateways.reauthorise, params)

    async def _list_pgw_sessions(self, params: Params) -> JsonValue:
        assert self._aaa is not None
        return {"sessions": self._aaa.gateways.pgw_sessions()}

    # --- registrations ------------------------------------------------------------------------------

    async def _get_registration(self, params: Params) -> JsonValue:
        assert self._hss is not None
        imsi = imsi_of(params)
        found = await self._hss.registration(imsi)
        if found is None:
            raise ControlError("not-found", f"no server serves subscriber {imsi}")
        return found

    async def _terminate_registration(self, params: Params) -> JsonValue:
        assert self._hss is not None
        imsi, reason = imsi_of(params), params.get("reason")
        if reason is not None and not isinstance(reason, str):
            raise ControlError("bad-params", "reason is a text for people")
        force = params.get("force", False)
        if not isinstance(force, bool):
            raise ControlError("bad-params", "force is true or false")
        try:
            result = await self._hss.deregister(imsi, reason, force=force)
        except NotRegistered as error:
            raise ControlError("not-found", str(error)) from error
        except BackendError as error:
            raise ControlError("backend", str(error)) from error
        return _told(imsi, result)

    async def _push_profile(self, params: Params) -> JsonValue:
        assert self._hss is not None
        imsi = imsi_of(params)
        try:
            result = await self._hss.profile_changed(imsi)
        except NotRegistered as error:
            raise ControlError("not-found", str(error)) from error
        except BackendError as error:
            raise ControlError("backend", str(error)) from error
        return _told(imsi, result)

    # --- fault rules --------------------------------------------------------------------------------

    async def _list_faults(self, params: Params) -> JsonValue:
        return {"faults": self._faults.table.rules()}

    async def _add_fault(self, params: Params) -> JsonValue:
        given = params.get("rule")
        if not isinstance(given, dict):
            raise ControlError("bad-params", "rule is an object with name and action")
        rule = validate(Document.of(given, "rule"), FaultRule)
        if rule.action.needs_key and not self._faults.has_keys:
            raise ControlError("refused", "old_sqn and clear_amf_bit need the subscribers' keys: the HSS is elsewhere")
        try:
            added = self._faults.table.add(rule)
        except FaultExists as error:
            raise ControlError("exists", str(error)) from None
        self._recorder.event("fault-added", f"Fault rule {rule.name} was added.", {"rule": rule.name})
        return added

    async def _remove_fault(self, params: Params) -> JsonValue:
        name = params.get("name")
        if not isinstance(name, str):
            raise ControlError("bad-params", "name is a rule's name")
        try:
            removed = self._faults.table.remove(name)
        except UnknownFault as error:
            raise ControlError("not-found", str(error)) from None
        self._recorder.event("fault-removed", f"Fault rule {name} was removed.", {"rule": name})
        return removed

    async def _clear_faults(self, params: Params) -> JsonValue:
        count = self._faults.table.clear()
        if count:
            self._recorder.event("faults-cleared", f"{count} fault rules were removed.", {"removed": count})
        return {"removed": count}


async def _carried_out(
    procedure: Callable[[str, str], Awaitable[ProcedureEnded]], params: Params
) -> dict[str, JsonValue]:
    identifier, why = params.get("id"), params.get("reason") or "the operator asked for it"
    if not isinstance(why, str):
        raise ControlError("bad-params", "reason is a text for people")
    try:
        ended = await procedure(identifier if isinstance(identifier, str) else "", why)
    except UnknownSession as error:
        raise ControlError("not-found", str(error)) from None
    except BackendError as error:
        raise ControlError("backend", str(error)) from None
    return {
        "id": ended.session.session_id,
        "gateway": ended.session.host,
        "succeeded": ended.succeeded,
        "result": None if ended.result is None else str(ended.result),
        "text": ended.text,
    }


def _told(imsi: Imsi, result: Result) -> JsonValue:
    return {"imsi": str(imsi), "result": str(result), "success": result.code == ResultCode.DIAMETER_SUCCESS}
