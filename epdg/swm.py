"""SWm at the gateway (TS 29.273 §7): DER, AAR and STR out for sessions, ASR and RAR in, answered for them.

A Session-Id finds its session for as long as that lives or waits for an answer. Requests are believed of the AAA server
that has the session and of others of its realm. A server that fell silent is told of to the next one that its user is
taken to (AAA-Failure-Indication, §7.2.3.5).
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Iterable

from epdg.commands import Command, SendAar, SendDer, SendStr
from epdg.config import DiameterSection
from epdg.emergency import EMERGENCY_INDICATION
from epdg.live import Live
from epdg.refusals import GatewayCause
from epdg.session import SessionState
from protocols.diameter.codec import DiameterMessage, RequestError
from protocols.diameter.profile import OLR_DEFAULT_ALGO
from protocols.diameter.swm import (
    GTPV2_SUPPORTED,
    SWM_APPLICATION,
    Aaa,
    Aar,
    Asa,
    Asr,
    CommandCode,
    Dea,
    Der,
    Raa,
    Rar,
    Result,
    ResultCode,
    SessionIdSource,
    Str,
    TerminalInformation,
)
from protocols.entropy import Entropy
from protocols.errors import BackendError, RemoteError
from protocols.io.diameter import SWM, DiameterIdentity, PeerChange, Traffic
from protocols.io.diameter.composition import make_node, open_node
from protocols.io.platform import Clock
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

SERVERS_KEPT = 10_000  # users whose last AAA server is known
FAILURE_INDICATED = 1  # AAA-Failure-Indication (TS 29.273 §8.2.3.21)

CarryOut = Callable[[Live, list[Command]], None]


class SwmClient:
    """The gateway's Diameter node and what it does for sessions; ``carry_out`` takes the commands that follow."""

    def __init__(
        self,
        section: DiameterSection,
        *,
        visited_network: str,
        recorder: Recorder,
        clock: Clock,
        entropy: Entropy,
        carry_out: CarryOut,
    ) -> None:
        self._section = section
        self._visited_network = visited_network
        self._recorder = recorder
        self._clock = clock
        self._carry_out = carry_out
        self._node = make_node(
            DiameterIdentity(host=section.host, realm=section.realm, applications=(SWM,)),
            section,
            entropy=entropy,
            wall=clock.wall,
        )
        self._node.on_traffic(self._record_traffic)
        self._node.on_peer(self._record_peer)
        self._node.on_request(SWM_APPLICATION, CommandCode.ABORT_SESSION, self._abort)
        self._node.on_request(SWM_APPLICATION, CommandCode.RE_AUTH, self._reauthorise)
        self._session_ids = SessionIdSource(section.host, wall=clock.wall())
        self._sessions: dict[str, Live] = {}
        self._questions: set[asyncio.Task[None]] = set()
        self._servers: OrderedDict[str, str] = OrderedDict()

    # --- life

    async def open(self) -> None:
        """Connect to the configured peers."""
        await open_node(self._node, self._section)

    async def close(self) -> None:
        """Give up what waits, and leave the peers (DPR)."""
        for question in list(self._questions):
            question.cancel()
        await self._node.close()

    async def settle(self) -> None:
        """Return when nothing waits for an answer any more; an answer may bring forth an STR."""
        while self._questions:
            await asyncio.wait(self._questions)

    @property
    def dropped(self) -> Counter[str]:
        """What the node did not take, by reason."""
        return self._node.dropped

    def figures(self) -> dict[str, JsonValue]:
        """How long the AAA server's answers took, by command."""
        return self._node.figures()

    def peers(self) -> list[JsonValue]:
        """The peers as the control interface shows them."""
        return [peer.to_json() for peer in self._node.peers()]

    # --- the table of sessions

    def new_session_id(self) -> str:
        """A Session-Id that was never used."""
        return self._session_ids.next()

    def register(self, live: Live) -> None:
        """From now on its Session-Id finds this session."""
        self._sessions[live.diameter_session_id] = live

    def forget(self, live: Live) -> None:
        """Of a session that has ended and waits for no answer no Diameter message will come any more."""
        over = live.session.state is SessionState.CLOSED and not live.questions
        if over and self._sessions.get(live.diameter_session_id) is live:
            del self._sessions[live.diameter_session_id]

    def inherit(self, heir: Live, former: Live) -> None:
        """The Diameter session of ``former`` goes on as that of ``heir``, which resumes it."""
        self._sessions.pop(heir.diameter_session_id, None)
        heir.diameter_session_id = former.diameter_session_id
        self.register(heir)

    # --- requests of ours

    def send(self, live: Live, command: SendDer | SendAar | SendStr) -> None:
        """Send it, and bring the answer back to the session."""
        if isinstance(command, SendDer):
            self._ask(live, self._send_der(live, command))
        elif isinstance(command, SendAar):
            self._ask(live, self._send_aar(live, command))
        else:
            self._ask(live, self._send_str(live, command))

    def _ask(self, live: Live, question: Coroutine[None, None, None]) -> None:
        def done(task: asyncio.Task[None]) -> None:
            self._questions.discard(task)
            live.questions.discard(task)
            self.forget(live)

        task = asyncio.get_running_loop().create_task(question)
        self._questions.add(task)
        live.questions.add(task)
        task.add_done_callback(done)

    @property
    def _destination_realm(self) -> str:
        return self._section.destination_realm or self._section.realm

    async def _send_der(self, live: Live, command: SendDer) -> None:
        der = Der(
            session_id=live.diameter_session_id,
            origin_host=self._section.host,
            origin_realm=self._section.realm,
            destination_realm=self._destination_realm,
            destination_host=command.destination_host,
            user_name=command.user_name,
            eap_payload=command.eap_payload,
            service_selection=command.apn,
            ue_local_ip=command.ue_address.remote.address,
            visited_network_identifier=self._visited_network,
            terminal_information=terminal_information(command.device_identity),
            mip6_feature_vector=GTPV2_SUPPORTED if command.first else None,
            aaa_failure_indication=self._failure_indication(command),
            emergency_services=EMERGENCY_INDICATION if command.emergency else None,
            overload_features=OLR_DEFAULT_ALGO,
            state=command.state,
        )
        asked = asyncio.get_running_loop().time()
        try:
            dea = Dea.from_message(await self._node.request(der.to_message(), self._section.request_interval))
        except BackendError as error:
            self._unreachable(live, str(error), asyncio.get_running_loop().time() - asked)
            commands = live.session.aaa_failed(str(error))
        except RemoteError as error:
            commands = live.session.aaa_failed(
                f"the answer of the AAA server cannot be used: {error}", GatewayCause.AAA_UNUSABLE
            )
        else:
            self._remember_server(live, command.user_name, dea.origin_host)
            commands = live.session.aaa_answered(dea)
        self._carry_out(live, commands)

    async def _send_aar(self, live: Live, command: SendAar) -> None:
        aar = Aar(
            session_id=live.diameter_session_id,
            origin_host=self._section.host,
            origin_realm=self._section.realm,
            destination_realm=self._destination_realm,
            destination_host=command.destination_host,
            user_name=command.user_name,
            ue_local_ip=command.ue_address.remote.address,
            overload_features=OLR_DEFAULT_ALGO,
        )
        try:
            answer = Aaa.from_message(await self._node.request(aar.to_message(), self._section.request_interval))
        except (BackendError, RemoteError) as error:
            commands = live.session.authorisation_failed(str(error))
        else:
            commands = live.session.authorisation_answered(answer, self._clock.wall())
        self._carry_out(live, commands)

    async def _send_str(self, live: Live, command: SendStr) -> None:
        request = Str(
            session_id=live.diameter_session_id,
            origin_host=self._section.host,
            origin_realm=self._section.realm,
            destination_realm=self._destination_realm,
            destination_host=command.destination_host,
            user_name=command.user_name,
            termination_cause=command.termination_cause,
        )
        try:
            await self._node.request(request.to_message(), self._section.request_interval)
        except BackendError as error:
            text = f"SWm: the AAA server was not told of the session's end: {error}."
            self._recorder.event("str-failed", text, {"why": str(error)}, live.session.identifier)

    def _unreachable(self, live: Live, why: str, seconds: float) -> None:
        """No answer, or nobody to ask: with the peers as they are, which records of no session tell."""
        peers: list[JsonValue] = [
            {"host": peer.host, "remote": str(peer.remote), "state": peer.state, "last_error": peer.last_error}
            for peer in self._node.peers()
        ]
        data: dict[str, JsonValue] = {"why": why, "seconds": round(seconds, 3), "peers": peers}
        self._recorder.event("aaa-unreachable", f"SWm: {why}.", data, live.session.identifier)

    def _remember_server(self, live: Live, user_name: str, host: str) -> None:
        former = self._servers.get(user_name, host)
        if former != host and not self._is_up(former):
            text = f"{host} answered for {user_name}: {former}, which had the user, is down."
            self._recorder.event("aaa-failover", text, {"former": former, "host": host}, live.session.identifier)
        self._servers[user_name] = host
        self._servers.move_to_end(user_name)
        while len(self._servers) > SERVERS_KEPT:
            self._servers.popitem(last=False)

    def _failure_indication(self, command: SendDer) -> int | None:
        """Whether the AAA server that had this user is a peer of ours that is down."""
        server = self._servers.get(command.user_name)
        if not command.first or server is None:
            return None
        known = any(peer.host == server for peer in self._node.peers())
        return FAILURE_INDICATED if known and not self._is_up(server) else None

    def _is_up(self, host: str) -> bool:
        return any(peer.host == host and peer.state == "Open" for peer in self._node.peers())

    # --- requests of the AAA server's

    async def _abort(self, request: DiameterMessage) -> DiameterMessage:
        """ASR (TS 29.273 §7.2.2.2.1)."""
        asr = Asr.from_message(request)
        live = self._meant(asr.session_id, asr.origin_host, asr.origin_realm)
        code, commands = self._unknown if live is None else live.session.abort()
        answer = Asa(
            session_id=asr.session_id,
            origin_host=self._section.host,
            origin_realm=self._section.realm,
            result=Result(0, code),
        )
        self._afterwards(live, commands)
        return answer.to_message(request)

    async def _reauthorise(self, request: DiameterMessage) -> DiameterMessage:
        """RAR (TS 29.273 §7.2.2.4.1)."""
        rar = Rar.from_message(request)
        live = self._meant(rar.session_id, rar.origin_host, rar.origin_realm)
        code, commands = self._unknown if live is None else live.session.reauthorise(rar.re_auth_request_type)
        answer = Raa(
            session_id=rar.session_id,
            origin_host=self._section.host,
            origin_realm=self._section.realm,
            result=Result(0, code),
        )
        self._afterwards(live, commands)
        return answer.to_message(request)

    @property
    def _unknown(self) -> tuple[ResultCode, Iterable[Command]]:
        return ResultCode.DIAMETER_UNKNOWN_SESSION_ID, ()

    def _afterwards(self, live: Live | None, commands: Iterable[Command]) -> None:
        """The answer goes first: what follows may be a request about the same session."""
        if live is not None and commands:
            asyncio.get_running_loop().call_soon(self._carry_out, live, list(commands))

    def _meant(self, session_id: str, host: str, realm: str) -> Live | None:
        """The session, if it is one of that AAA server's or of another one's of the same realm."""
        live = self._sessions.get(session_id)
        if live is None:
            return None
        server = live.session.aaa.host
        own = server is not None and host.lower() == server.lower()
        return live if own or realm.lower() == self._destination_realm.lower() else None

    # --- what is seen

    def _record_traffic(self, traffic: Traffic) -> None:
        if not self._recorder.enabled:
            return
        live = None if traffic.message is None else self._sessions.get(_session_id(traffic.message))
        for kind, body in traffic.records(export_keys=self._recorder.export_keys):
            self._recorder.record(kind, body, None if live is None else live.session.identifier)

    def _record_peer(self, change: PeerChange) -> None:
        self._recorder.event("peer-up" if change.is_up else "peer-down", change.text, {"peer": change.peer})


def _session_id(message: DiameterMessage) -> str:
    """The Session-Id; empty where there is none, or octets that are no text."""
    try:
        return message.text("Session-Id") or ""
    except RequestError:
        return ""


def terminal_information(digits: str | None) -> TerminalInformation | None:
    """Terminal-Information from an IMEI (14 or 15 digits) or IMEISV (16: two of the software)."""
    if digits is None:
        return None
    if len(digits) == 16:
        return TerminalInformation(digits[:14], digits[14:])
    return TerminalInformation(digits)
