"""The AAA node in a process: Diameter on SWm, control socket, recorder, the bridge to the database.

Everything that blocks (SQLAlchemy) runs on one thread behind ``Bridge``; everything else on one event loop.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import signal

from aaa import questions
from aaa.config import AaaConfiguration
from aaa.events import DeregistrationRequested, Question, ServerIdentity
from aaa.hss.in_process import Bridge, InProcessHss
from aaa.hss.local import LocalHss
from aaa.hss.port import HomeSubscriberServer
from aaa.hss.procedures import HssProcedures
from aaa.server import SwmServer
from aaa.sessions import SessionLimits, Sessions
from aaa.subscribers.database import SubscriberDatabase
from protocols.diameter.codec import DiameterMessage, RequestError
from protocols.diameter.dictionary import SWM_APPLICATION, CommandCode
from protocols.eap.aka.server import ServerOptions
from protocols.errors import BackendError
from protocols.io.clock import SystemClock
from protocols.io.control import ControlError, ControlServer, Params
from protocols.io.diameter import DiameterIdentity, PeerChange, Traffic
from protocols.io.diameter.composition import make_node, open_node
from protocols.io.entropy import SystemEntropy
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

NODE = "aaa"
KIND = "aaa"
DISTRIBUTION = "epdg-emulator"
LIST_LIMIT = 100
LIST_LIMIT_MAXIMUM = 1000

_log = logging.getLogger(__name__)


class AaaNode:
    """One AAA server with its HSS; ``run`` serves until ``stop``."""

    def __init__(self, configuration: AaaConfiguration, database: SubscriberDatabase) -> None:
        self._configuration = configuration
        self._database = database
        self._clock = SystemClock()
        entropy = SystemEntropy()
        identity, sessions = configuration.identity, configuration.sessions
        self.recorder = Recorder(
            NODE,
            monotonic=self._clock.monotonic,
            wall=self._clock.wall,
            export_keys=configuration.trace.export_keys,
            ring=configuration.trace.ring,
        )
        self._bridge = Bridge()
        vectors = LocalHss(database, entropy, sequence_block=configuration.hss.sequence_block)
        self._hss: HomeSubscriberServer = InProcessHss(
            HssProcedures(database, vectors, database.registrations), self._bridge, server=identity.host
        )
        self._server = SwmServer(
            Sessions(
                identity=ServerIdentity(host=identity.host, realm=identity.realm),
                entropy=entropy,
                options=ServerOptions(
                    always_request_identity=configuration.eap.always_request_identity,
                    first_identity_request=configuration.eap.identity_request,
                    checkcode=configuration.eap.checkcode,
                    result_indications=configuration.eap.result_indications,
                ),
                limits=SessionLimits(timeout=sessions.timeout, unfinished_interval=sessions.unfinished_interval),
            ),
            self.recorder,
            ask=self._ask,
            monotonic=self._clock.monotonic,
            wall=self._clock.wall,
        )
        self._diameter = make_node(
            DiameterIdentity(host=identity.host, realm=identity.realm),
            configuration.diameter,
            listen=configuration.listen,
            entropy=entropy,
            wall=self._clock.wall,
        )
        self._diameter.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, self._diameter_eap)
        self._diameter.on_request(SWM_APPLICATION, CommandCode.SESSION_TERMINATION, self._session_termination)
        self._diameter.on_traffic(self._record_traffic)
        self._diameter.on_peer(self._record_peer)
        self._control = ControlServer(
            configuration.control,
            {
                "node.status": self._status,
                "sessions.list": self._list_sessions,
                "sessions.get": self._get_session,
                "peers.list": self._list_peers,
            },
            self.recorder,
        )
        self._questions: asyncio.TaskGroup | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = asyncio.Event()
        self._listening: tuple[str, ...] = ()

    async def run(self) -> None:
        """Migrate, listen, serve until ``stop``, then disconnect from every peer; ``BackendError``."""
        failure: BackendError | None = None
        try:
            revision = await self._bridge.run(self._database.migrate)
            async with asyncio.TaskGroup() as questions:
                self._questions = questions
                try:
                    await self._open(revision)
                    await self._stopping.wait()
                except BackendError as error:
                    failure = error  # raised inside the group it would leave as an ExceptionGroup
                # peers first: what the HSS still answers goes out before DPR ends the connections
                await self._diameter.close()
        finally:
            await self._close()
        if failure is not None:
            raise failure

    async def _open(self, revision: str) -> None:
        """Listen; the control socket comes last, so that a node that answers there is ready."""
        configuration = self._configuration
        self._listening = await open_node(self._diameter, configuration.diameter, configuration.listen)
        await self._control.start()
        listening = ", ".join(self._listening)
        text = f"The AAA server listens on {listening}, database revision {revision}."
        _log.info("%s", text)
        self.recorder.event("started", text, {"listen": listening})

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._control.close()
        await self._diameter.close()
        self._bridge.close()
        self._database.close()

    # --- Diameter -----------------------------------------------------------------------------------

    async def _diameter_eap(self, request: DiameterMessage) -> DiameterMessage:
        answer: asyncio.Future[DiameterMessage] = asyncio.get_running_loop().create_future()

        def respond(message: DiameterMessage) -> None:
            if not answer.done():  # the connection may have gone meanwhile
                answer.set_result(message)

        self._server.receive_der(request, respond)
        self._arm()
        return await answer

    async def _session_termination(self, request: DiameterMessage) -> DiameterMessage:
        answer = self._server.receive_str(request)
        self._arm()
        return answer

    # --- the HSS ------------------------------------------------------------------------------------

    def _ask(self, question: Question | DeregistrationRequested) -> None:
        assert self._questions is not None
        if isinstance(question, DeregistrationRequested):
            self._questions.create_task(questions.deregister(question, self._hss))
        else:
            self._questions.create_task(self._answer(question))

    async def _answer(self, question: Question) -> None:
        await questions.answer(question, self._hss, self._server)
        self._arm()

    # --- time ---------------------------------------------------------------------------------------

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._server.next_deadline()
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._server.handle_timeout()
        self._arm()

    # --- the trace ----------------------------------------------------------------------------------

    def _record_traffic(self, traffic: Traffic) -> None:
        session: str | None = None
        if traffic.message is not None:
            try:
                session = traffic.message.session_id
            except RequestError:  # octets that are no text; the answer says so
                session = None
        for kind, body in traffic.records(export_keys=self.recorder.export_keys):
            self.recorder.record(kind, body, session)

    def _record_peer(self, change: PeerChange) -> None:
        name = "peer-up" if change.is_up else "peer-down"
        data: dict[str, JsonValue] = {"peer": change.peer, "remote": str(change.remote)}
        self.recorder.event(name, f"Diameter peer {change.text}.", data)

    # --- control ------------------------------------------------------------------------------------

    async def _status(self, params: Params) -> JsonValue:
        identity = self._configuration.identity
        return {
            "node": NODE,
            "kind": KIND,
            "version": importlib.metadata.version(DISTRIBUTION),
            "started": self.recorder.started,
            "host": identity.host,
            "realm": identity.realm,
            "listen": ", ".join(self._listening) or None,
            "sessions": len(self._server),
            "subscribers": await self._bridge.run(self._database.count),
            "dropped": {"diameter": {str(why): count for why, count in self._diameter.dropped.items()}},
        }

    async def _list_sessions(self, params: Params) -> JsonValue:
        wanted = {name: params[name] for name in ("imsi", "apn", "state") if params.get(name) is not None}
        limit = params.get("limit") or LIST_LIMIT
        cursor = params.get("cursor") or "0"
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= LIST_LIMIT_MAXIMUM:
            raise ControlError("bad-params", f"limit is a number from 1 to {LIST_LIMIT_MAXIMUM}")
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

    async def _list_peers(self, params: Params) -> JsonValue:
        return {"peers": [peer.to_json() for peer in self._diameter.peers()]}


async def serve(configuration: AaaConfiguration, database: SubscriberDatabase) -> None:
    """Run a node until SIGTERM or SIGINT."""
    node = AaaNode(configuration, database)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.stop)
    await node.run()
