"""The AAA server of a process: its Diameter node on SWm, the sessions there, the questions they ask the HSS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from aaa import questions
from aaa.config import AaaConfiguration
from aaa.eap import EapService
from aaa.eap_configuration import TemporarySection
from aaa.events import DeregistrationRequested, Question, ServerIdentity, TemporaryQuestion
from aaa.faults.wrapping import Faults
from aaa.gateways import Gateways
from aaa.hss.client import SwxClient
from aaa.hss.in_process import Bridge, InProcessHss
from aaa.hss.port import HomeSubscriberServer
from aaa.hss.procedures import HssProcedures
from aaa.hss.registration import ServingServer
from aaa.observation import DiameterObservation
from aaa.server import SwmServer
from aaa.sessions import SessionLimits, Sessions
from aaa.temporary import ContextStore, KeyFile, TemporaryIdentities
from protocols.diameter.codec import DiameterMessage
from protocols.diameter.dictionary import SWM_APPLICATION, CommandCode
from protocols.entropy import Entropy
from protocols.io.diameter import S6B, SWM, SWX, DiameterIdentity
from protocols.io.diameter.composition import make_node, open_node
from protocols.io.diameter.configuration import PeerSection
from protocols.io.platform import Clock
from protocols.io.streams import StreamBinder
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

INTERFACE = "SWm"
SWX_INTERFACE = "SWx"


class AaaServer:
    """SWm on one Diameter node, which is the client of SWx too where the HSS is behind Diameter."""

    def __init__(
        self,
        configuration: AaaConfiguration,
        recorder: Recorder,
        *,
        clock: Clock,
        entropy: Entropy,
        bind: StreamBinder,
        speaks_swx: bool,
        faults: Faults,
    ) -> None:
        self._configuration = configuration
        self._keys = key_file(configuration.eap.temporary, entropy, clock.wall)
        self._identities: TemporaryIdentities | None = None
        self._contexts_bridge: Bridge | None = None
        identity, sessions = configuration.identity, configuration.sessions
        self._server = SwmServer(
            Sessions(
                identity=ServerIdentity(host=identity.host, realm=identity.realm),
                entropy=entropy,
                eap=faults.eap(
                    EapService(
                        options=configuration.eap.options(),
                        rules=configuration.eap.policy(),
                        ring=lambda: None if self._keys is None else self._keys.ring,
                    )
                ),
                limits=SessionLimits(
                    timeout=sessions.timeout,
                    unfinished_interval=sessions.unfinished_interval,
                    unfinished=sessions.unfinished_limit,
                ),
                equipment=configuration.equipment.as_list(),
                emergency=configuration.emergency_policy(),
            ),
            recorder,
            ask=self._ask,
            monotonic=clock.monotonic,
            wall=clock.wall,
        )
        self._diameter = make_node(
            DiameterIdentity(
                host=identity.host, realm=identity.realm, applications=(SWM, S6B, SWX) if speaks_swx else (SWM, S6B)
            ),
            configuration.diameter,
            listen=configuration.listen,
            entropy=entropy,
            wall=clock.wall,
            bind=bind,
        )
        self._faults = faults
        faulty = faults.handlers(session=self._server.session, forsake=self._forsake)
        for command, handler in (
            (CommandCode.DIAMETER_EAP, self._diameter_eap),
            (CommandCode.SESSION_TERMINATION, self._session_termination),
        ):
            self._diameter.on_request(SWM_APPLICATION, command, faulty.wrap(handler))
        self.gateways = Gateways(
            identity=ServerIdentity(host=identity.host, realm=identity.realm),
            server=self._server,
            hss=self._asked,
            sender=self._diameter,
            recorder=recorder,
            session_timeout=sessions.timeout,
            monotonic=clock.monotonic,
            spawn=self._spawn,
        )
        for (application, command), serve in self.gateways.handlers().items():
            wrapped = faulty.wrap(serve) if application == SWM_APPLICATION else serve
            self._diameter.on_request(application, command, wrapped)
        self._observation = DiameterObservation(recorder, interface=INTERFACE)
        self._diameter.on_traffic(self._observation.traffic)
        self._diameter.on_peer(self._observation.peer)
        self._diameter.on_restart(self._restarted)
        self._wall = clock.wall
        self._hss: HomeSubscriberServer | None = None
        self._peers: tuple[PeerSection, ...] = ()
        self._tasks: asyncio.TaskGroup | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.listening: tuple[str, ...] = ()

    @property
    def sessions(self) -> SwmServer:
        """The sessions, for lists and for what the HSS says (``HssListener``)."""
        return self._server

    @property
    def identity(self) -> ServingServer:
        """Who this server is for an HSS."""
        return ServingServer(self._configuration.identity.host, self._configuration.identity.realm)

    # --- where the HSS is ---------------------------------------------------------------------------

    def use_in_process(self, procedures: HssProcedures, bridge: Bridge) -> None:
        """The HSS of this process, asked by a call."""
        self._hss = self._faults.hss(InProcessHss(procedures, bridge, server=self.identity))

    def use_swx(self, peers: tuple[PeerSection, ...], realm: str) -> None:
        """An HSS behind Diameter: ``peers`` lead to it, in ``realm``."""
        self._peers = peers
        for peer in peers:
            self._observation.place(peer.host, SWX_INTERFACE)
        self._hss = self._faults.hss(
            SwxClient(
                self._diameter,
                realm=realm,
                timeout=self._configuration.hss.timeout,
                wall=self._wall,
                listener=self._server,
                traced=self._configuration.telemetry is not None,
            )
        )

    # --- temporary identities -----------------------------------------------------------------------

    def use_contexts(self, contexts: ContextStore, bridge: Bridge) -> None:
        """Where re-authentication contexts lie, if this server has temporary identities at all."""
        temporary = self._configuration.eap.temporary
        if temporary is not None and self._keys is not None:
            self._contexts_bridge = bridge
            self._identities = TemporaryIdentities(
                keys=self._keys, contexts=contexts, lifetime=temporary.lifetime, wall=self._wall
            )

    def roll_key(self) -> int | None:
        """Begin with a new key of temporary identities; its index, ``None`` where there are none. ``BackendError``."""
        return None if self._keys is None else self._keys.roll()

    # --- life ---------------------------------------------------------------------------------------

    async def open(self, tasks: asyncio.TaskGroup) -> None:
        """Listen and connect; questions run in ``tasks``. ``BackendError``."""
        assert self._hss is not None
        self._tasks = tasks
        section = self._configuration.diameter
        section = section.model_copy(update={"peers": (*section.peers, *self._peers)})
        self.listening = await open_node(self._diameter, section, self._configuration.listen)

    async def close(self) -> None:
        """End the connections; what the HSS still answers goes out before."""
        if self._timer is not None:
            self._timer.cancel()
        self.gateways.close()
        await self._diameter.close()

    def dropped(self) -> dict[str, JsonValue]:
        """Octets and messages that were dropped, by reason."""
        return {str(why): count for why, count in self._diameter.dropped.items()}

    def figures(self) -> dict[str, JsonValue]:
        """How long answers to its requests took, by command."""
        return self._diameter.figures()

    def peers(self) -> list[JsonValue]:
        """The Diameter peers, each with its interface."""
        return [
            {**peer.to_json(), "interface": self._observation.interface_of(peer.host)}
            for peer in self._diameter.peers()
        ]

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

    def _forsake(self, session_id: str) -> None:
        """End a session that was granted, and of which the gateway is told that it was refused."""
        self._server.end(session_id, "the gateway was told that it was refused")
        self._arm()

    def _restarted(self, gateway: str) -> None:
        """A gateway lost its sessions (RFC 6733 §8.16): no STR will come for them."""
        self._server.end_all(gateway, "its gateway restarted without it")
        self.gateways.restarted(gateway)
        self._arm()

    # --- the HSS ------------------------------------------------------------------------------------

    def _ask(self, question: Question | TemporaryQuestion | DeregistrationRequested) -> None:
        assert self._tasks is not None
        if isinstance(question, TemporaryQuestion):
            self._tasks.create_task(self._answer_temporary(question))
            return
        assert self._hss is not None
        if isinstance(question, DeregistrationRequested):
            self._tasks.create_task(questions.deregister(question, self._hss))
        else:
            self._tasks.create_task(self._answer(question, self._hss))

    async def _answer(self, question: Question, hss: HomeSubscriberServer) -> None:
        await questions.answer(question, hss, self._server)
        self._arm()

    def _asked(self) -> HomeSubscriberServer:
        assert self._hss is not None
        return self._hss

    def _spawn(self, work: Coroutine[object, None, None]) -> None:
        assert self._tasks is not None
        self._tasks.create_task(work)

    async def _answer_temporary(self, question: TemporaryQuestion) -> None:
        await questions.answer_temporary(question, self._identities, self._contexts_bridge, self._server)
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


def key_file(section: TemporarySection | None, entropy: Entropy, wall: Callable[[], float]) -> KeyFile | None:
    """The keys of temporary identities, where configured; ``ConfigurationError`` when the file is unusable."""
    if section is None:
        return None
    return KeyFile(
        section.key_file, interval=section.rollover_interval, kept=section.rollovers_kept, entropy=entropy, wall=wall
    )
