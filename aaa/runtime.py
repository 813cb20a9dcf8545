"""A process of this package: AAA server, HSS or both, with one recorder, one control socket, one event loop.

Everything that blocks (SQLAlchemy) runs on one thread behind ``Bridge``.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import signal

from aaa.config import AaaConfiguration, Role
from aaa.hss.in_process import Bridge
from aaa.hss.node import HssNode
from aaa.hss.push import NotRegistered
from aaa.node import AaaServer
from aaa.subscribers.database import SubscriberDatabase
from protocols.diameter.dictionary import ResultCode
from protocols.errors import BackendError
from protocols.io.clock import SystemClock
from protocols.io.control import ControlError, ControlServer, Handler, Params
from protocols.io.diameter.configuration import ListenSection, PeerSection
from protocols.io.entropy import SystemEntropy
from protocols.threegpp.identity import Imsi
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

NODE = "aaa"
HSS_NODE = "hss"  # the name and kind of a process that is an HSS alone
DISTRIBUTION = "epdg-emulator"
LIST_LIMIT = 100
LIST_LIMIT_MAXIMUM = 1000

_log = logging.getLogger(__name__)


def node_name(role: Role) -> str:
    """The name and kind of a process in ``role``."""
    return HSS_NODE if role is Role.HSS else NODE


class AaaNode:
    """One process in its role; ``run`` serves until ``stop``. The configuration has been checked for the role."""

    def __init__(
        self, configuration: AaaConfiguration, database: SubscriberDatabase | None, role: Role = Role.BOTH
    ) -> None:
        self._configuration = configuration
        self._database = database
        self._role = role
        clock, entropy = SystemClock(), SystemEntropy()
        self.recorder = Recorder(
            node_name(role),
            monotonic=clock.monotonic,
            wall=clock.wall,
            export_keys=configuration.trace.export_keys,
            ring=configuration.trace.ring,
        )
        self._bridge = Bridge()
        self._aaa: AaaServer | None = None
        self._hss: HssNode | None = None
        uses_swx = configuration.uses_swx(role)
        if role is not Role.HSS:
            self._aaa = AaaServer(configuration, self.recorder, clock=clock, entropy=entropy, speaks_swx=uses_swx)
            if database is not None:
                self._aaa.use_contexts(database.contexts, self._bridge)
        if role is not Role.AAA:
            assert database is not None
            self._hss = HssNode(configuration, database, self._bridge, self.recorder, clock=clock, entropy=entropy)
            if role is Role.HSS:
                self._hss.serve_swx(configuration.hss.listen or ListenSection(), configuration.diameter, is_traced=True)
            elif uses_swx:
                self._hss.serve_swx(
                    configuration.hss.listen or ListenSection(port=0),
                    configuration.diameter.model_copy(update={"peers": ()}),
                    is_traced=False,
                )
            else:
                assert self._aaa is not None
                self._hss.serve_in_process(self._aaa.sessions)
                self._aaa.use_in_process(self._hss.procedures, self._bridge)
        self._control = ControlServer(configuration.control, self._methods(), self.recorder)
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Migrate, listen, serve until ``stop``, then disconnect from every peer; ``BackendError``."""
        failure: BackendError | None = None
        try:
            revision = None if self._database is None else await self._bridge.run(self._database.migrate)
            async with asyncio.TaskGroup() as tasks:
                watch: asyncio.Task[None] | None = None
                try:
                    await self._open(tasks, revision)
                    if self._hss is not None:
                        watch = tasks.create_task(self._hss.watch())
                    await self._stopping.wait()
                except BackendError as error:
                    failure = error  # raised inside the group it would leave as an ExceptionGroup
                if watch is not None:
                    watch.cancel()
                # peers first: what the HSS still answers goes out before DPR ends the connections
                await self._close_diameter()
        finally:
            await self._control.close()
            await self._close_diameter()
            self._bridge.close()
            if self._database is not None:
                self._database.close()
        if failure is not None:
            raise failure

    async def _open(self, tasks: asyncio.TaskGroup, revision: str | None) -> None:
        """Listen; the control socket comes last, so that a node that answers there is ready."""
        listening: tuple[str, ...] = ()
        if self._hss is not None:
            await self._hss.open()
            listening += self._hss.listening
        if self._aaa is not None:
            if self._configuration.uses_swx(self._role):
                self._aaa.use_swx(*self._way_to_the_hss())
            await self._aaa.open(tasks)
            listening = self._aaa.listening + listening
        await self._control.start()
        who = {Role.AAA: "The AAA server listens", Role.HSS: "The HSS listens", Role.BOTH: "The AAA server listens"}
        where = ", ".join(listening)
        with_database = "" if revision is None else f", database revision {revision}"
        text = f"{who[self._role]} on {where}{with_database}."
        _log.info("%s", text)
        self.recorder.event("started", text, {"listen": where, "role": self._role.value})

    def _way_to_the_hss(self) -> tuple[tuple[PeerSection, ...], str]:
        """The peers of SWx and the HSS's realm; an HSS in this process is reached where it listens."""
        section = self._configuration.hss
        realm = section.realm or self._configuration.identity.realm
        if self._hss is None:
            return section.peers, realm
        assert section.identity is not None
        address, _, port = self._hss.listening[0].rpartition(":")
        peer = PeerSection.model_validate(
            {"host": section.identity.host, "address": address.strip("[]"), "port": int(port)}
        )
        return (peer, *section.peers), section.realm or section.identity.realm

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()

    async def _close_diameter(self) -> None:
        if self._aaa is not None:
            await self._aaa.close()
        if self._hss is not None:
            await self._hss.close()

    # --- control ------------------------------------------------------------------------------------

    def _methods(self) -> dict[str, Handler]:
        methods: dict[str, Handler] = {"node.status": self._status, "peers.list": self._list_peers}
        if self._aaa is not None:
            methods |= {"sessions.list": self._list_sessions, "sessions.get": self._get_session}
            methods["eap.roll-key"] = self._roll_key
        if self._hss is not None:
            methods |= {
                "registrations.get": self._get_registration,
                "registrations.terminate": self._terminate_registration,
                "registrations.push-profile": self._push_profile,
            }
        return methods

    async def _status(self, params: Params) -> JsonValue:
        aaa, hss = self._aaa, self._hss
        identity = self._configuration.identity if aaa is not None else self._configuration.hss.identity
        assert identity is not None
        listening = aaa.listening if aaa is not None else hss.listening if hss is not None else ()
        dropped: dict[str, JsonValue] = {}
        for part in (aaa, hss):
            dropped |= {} if part is None else part.dropped()
        database = self._database if hss is not None else None
        return {
            "node": node_name(self._role),
            "kind": node_name(self._role),
            "version": importlib.metadata.version(DISTRIBUTION),
            "started": self.recorder.started,
            "role": self._role.value,
            "host": identity.host,
            "realm": identity.realm,
            "listen": ", ".join(listening) or None,
            "sessions": 0 if aaa is None else len(aaa.sessions),
            "subscribers": None if database is None else await self._bridge.run(database.count),
            "hss": None if hss is None else await hss.status(),
            "dropped": {"diameter": dropped},
        }

    async def _list_sessions(self, params: Params) -> JsonValue:
        assert self._aaa is not None
        wanted = {name: params[name] for name in ("imsi", "apn", "state") if params.get(name) is not None}
        limit = params.get("limit") or LIST_LIMIT
        cursor = params.get("cursor") or "0"
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= LIST_LIMIT_MAXIMUM:
            raise ControlError("bad-params", f"limit is a number from 1 to {LIST_LIMIT_MAXIMUM}")
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

    async def _roll_key(self, params: Params) -> JsonValue:
        assert self._aaa is not None
        try:
            index = self._aaa.roll_key()
        except BackendError as error:
            raise ControlError("backend", str(error)) from error
        if index is None:
            raise ControlError("not-found", "this server makes no temporary identities: it has no eap.temporary")
        return {"index": index}

    async def _list_peers(self, params: Params) -> JsonValue:
        return {"peers": [peer for part in (self._aaa, self._hss) if part is not None for peer in part.peers()]}

    async def _get_registration(self, params: Params) -> JsonValue:
        assert self._hss is not None
        imsi = _imsi(params)
        found = await self._hss.registration(imsi)
        if found is None:
            raise ControlError("not-found", f"no server serves subscriber {imsi}")
        return found

    async def _terminate_registration(self, params: Params) -> JsonValue:
        assert self._hss is not None
        imsi, reason = _imsi(params), params.get("reason")
        if reason is not None and not isinstance(reason, str):
            raise ControlError("bad-params", "reason is a text for people")
        try:
            result = await self._hss.deregister(imsi, reason)
        except NotRegistered as error:
            raise ControlError("not-found", str(error)) from error
        except BackendError as error:
            raise ControlError("backend", str(error)) from error
        return {"imsi": str(imsi), "result": str(result), "success": result.code == ResultCode.DIAMETER_SUCCESS}

    async def _push_profile(self, params: Params) -> JsonValue:
        assert self._hss is not None
        imsi = _imsi(params)
        try:
            result = await self._hss.profile_changed(imsi)
        except NotRegistered as error:
            raise ControlError("not-found", str(error)) from error
        except BackendError as error:
            raise ControlError("backend", str(error)) from error
        return {"imsi": str(imsi), "result": str(result), "success": result.code == ResultCode.DIAMETER_SUCCESS}


def _imsi(params: Params) -> Imsi:
    text = params.get("imsi")
    try:
        return Imsi(text if isinstance(text, str) else "")
    except ValueError:
        raise ControlError("bad-params", "imsi is 6 to 15 digits") from None


async def serve(configuration: AaaConfiguration, database: SubscriberDatabase | None, role: Role) -> None:
    """Run a node until SIGTERM or SIGINT."""
    node = AaaNode(configuration, database, role)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.stop)
    await node.run()
