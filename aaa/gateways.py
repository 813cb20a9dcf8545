"""The procedures between this AAA server and the gateways of its sessions, carried out.

Joins the machines of ``initiated`` (ASR, RAR), ``reauthorization`` (AAR on SWm) and ``s6b`` to a Diameter
node, the HSS and the recorder. What the HSS begins arrives here too, as events of the sessions: an RTR
(TS 29.273 §8.1.2.2.3) aborts, a PPR (§8.1.2.3) re-authorises.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Protocol

from aaa import reauthorization, s6b
from aaa.authorization import Refusal, authorise, backend_refusal, hss_refusal
from aaa.events import (
    AuthenticationState,
    DeregisteredByHss,
    ProfileChangedByHss,
    ServerIdentity,
    SessionEnded,
    SessionEvent,
)
from aaa.hss.port import HomeSubscriberServer, HssRefusal, SubscriberProfile
from aaa.initiated import HeldSession, InitiatedProcedures, Procedure, ProcedureEnded, RequestToSend, SessionLost
from aaa.server import SwmServer
from protocols.diameter import s6b as s6b_commands
from protocols.diameter import swm
from protocols.diameter.codec import DiameterMessage, Result
from protocols.diameter.dictionary import S6B_APPLICATION, SWM_APPLICATION, CommandCode
from protocols.errors import BackendError, DecodeError, LocalError, StackError
from protocols.io.diameter.answers import Handler
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

_log = logging.getLogger(__name__)


class Sender(Protocol):
    """The Diameter node as far as this needs it."""

    async def request(self, message: DiameterMessage) -> DiameterMessage:
        """The answer; ``BackendError`` when there is none."""


class UnknownSession(LocalError):
    """There is no authenticated session of that Session-Id."""


class Gateways:
    """What is done to sessions at their gateways; on one event loop."""

    def __init__(
        self,
        *,
        identity: ServerIdentity,
        server: SwmServer,
        hss: Callable[[], HomeSubscriberServer],
        sender: Sender,
        recorder: Recorder,
        session_timeout: int,
        monotonic: Callable[[], float],
        spawn: Callable[[Coroutine[object, None, None]], object],
    ) -> None:
        """``hss`` gives the port to the HSS, ``spawn`` runs a coroutine beside everything else.

        ``session_timeout`` is that of S6b sessions, in seconds; a profile may shorten it.
        """
        self._sessions = sessions = server.table
        self._server = server
        self._hss = hss
        self._sender = sender
        self._recorder = recorder
        self._monotonic = monotonic
        self._spawn = spawn
        self._initiated = InitiatedProcedures(identity)
        self._reauthorization = reauthorization.Reauthorization(sessions, identity=identity)
        self._pgw_sessions = s6b.PgwSessions(
            identity=identity, is_registered=sessions.is_registered, session_timeout=session_timeout
        )
        self._token = 0
        self._answers: dict[int, tuple[DiameterMessage, asyncio.Future[DiameterMessage]]] = {}
        self._watchers: dict[tuple[int, str, Procedure], list[asyncio.Future[ProcedureEnded]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_pumping = False
        server.on_event(self._session_event)

    # --- what the operator wants --------------------------------------------------------------------

    async def abort(self, session_id: str, why: str) -> ProcedureEnded:
        """ASR for a session of SWm or S6b; how it went. ``UnknownSession``."""
        return await self._carry_out(Procedure.ABORT, self._held(session_id), why)

    async def reauthorise(self, session_id: str, why: str) -> ProcedureEnded:
        """RAR for a session of SWm or S6b; how it went, the AAR included. ``UnknownSession``."""
        return await self._carry_out(Procedure.REAUTHORISE, self._held(session_id), why)

    def pgw_sessions(self) -> list[JsonValue]:
        """Every S6b session, oldest first."""
        return [
            {
                "id": session.session_id,
                "imsi": str(session.imsi),
                "user_name": session.user_name,
                "apn": session.apn,
                "gateway": session.host,
                "pgw": session.pgw,
            }
            for session in self._pgw_sessions
        ]

    def restarted(self, host: str) -> None:
        """A PGW lost its sessions: no STR will come for them."""
        for session in self._pgw_sessions:
            if session.host.lower() == host.lower():
                self._pgw_sessions.end(session.session_id, "it restarted without it")
        self._pump()

    # --- requests of gateways -----------------------------------------------------------------------

    def handlers(self) -> dict[tuple[int, CommandCode], Handler]:
        """What the Diameter node is to serve, by application and command."""
        return {
            (SWM_APPLICATION, CommandCode.AA): self.swm_aar,
            (S6B_APPLICATION, CommandCode.AA): self.s6b_aar,
            (S6B_APPLICATION, CommandCode.SESSION_TERMINATION): self.s6b_str,
        }

    async def swm_aar(self, message: DiameterMessage) -> DiameterMessage:
        """AAR of an ePDG; ``RequestError`` when it breaks its format."""
        aar = swm.Aar.from_message(message)
        token, answer = self._owed(message)
        self._reauthorization.receive(aar, token, self._monotonic())
        self._pump()
        answered = await answer
        self._initiated.authorised(SWM_APPLICATION, aar.session_id, Result.from_message(answered))
        self._pump()
        return answered

    async def s6b_aar(self, message: DiameterMessage) -> DiameterMessage:
        """AAR of a PGW; ``RequestError`` when it breaks its format."""
        aar = s6b_commands.Aar.from_message(message)
        token, answer = self._owed(message)
        self._pgw_sessions.receive_aar(aar, token, self._monotonic())
        self._pump()
        answered = await answer
        self._initiated.authorised(S6B_APPLICATION, aar.session_id, Result.from_message(answered))
        self._pump()
        return answered

    async def s6b_str(self, message: DiameterMessage) -> DiameterMessage:
        """STR of a PGW; ``RequestError`` when it breaks its format."""
        answer = self._pgw_sessions.receive_str(s6b_commands.Str.from_message(message))
        self._pump()
        return answer.to_message(message)

    # --- time ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Arm no timer any more; who waits for a procedure is told so."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for watchers in self._watchers.values():
            for watcher in watchers:
                if not watcher.done():
                    watcher.set_exception(BackendError("the node stops"))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadlines = [self._initiated.next_deadline(), self._pgw_sessions.next_deadline()]
        deadline = min((at for at in deadlines if at is not None), default=None)
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._monotonic()
        self._initiated.handle_timeout(now)
        self._pgw_sessions.handle_timeout(now)
        self._pump()

    # --- sessions -----------------------------------------------------------------------------------

    def _held(self, session_id: str) -> HeldSession:
        session = self._sessions.get(session_id)
        if session is not None and session.state is AuthenticationState.AUTHENTICATED:
            return HeldSession(
                application=SWM_APPLICATION,
                session_id=session_id,
                host=session.origin_host,
                realm=session.origin_realm,
                user_name=session.user_name,
            )
        pgw_session = self._pgw_sessions.get(session_id)
        if pgw_session is None:
            raise UnknownSession(f"there is no authenticated session {session_id}")
        return _held_of_pgw(pgw_session)

    def _deregistered(self, event: DeregisteredByHss) -> None:
        """RTR: the session is aborted, at the PGWs of the user too (TS 29.273 §8.1.2.2.3.2)."""
        why = f"the HSS ended the registration: {event.text}"
        with suppress(UnknownSession):  # it is being authenticated: the HSS refuses it at the end
            self._initiated.abort(self._held(event.session_id), why)
        for pgw_session in self._pgw_sessions.of_user(event.imsi):
            self._initiated.abort(_held_of_pgw(pgw_session), why)
        self._pump()

    def _profile_changed(self, event: ProfileChangedByHss) -> None:
        """PPR: the session is re-authorised, or aborted when its APN is allowed no more (§8.1.2.3.3)."""
        profile = event.profile
        session = self._sessions.get(event.session_id)
        if session is None or session.state is not AuthenticationState.AUTHENTICATED:
            return  # what is granted at the end is the profile that holds then
        if session.emergency is not None:
            return  # no subscription decides on it
        if profile is not None:
            self._reauthorization.push(event.session_id, profile)
        self._follow_profile(self._held(event.session_id), session.apn, profile)
        for pgw_session in self._pgw_sessions.of_user(event.imsi):
            if pgw_session.apn != session.apn:
                continue
            if profile is not None:
                self._pgw_sessions.push(pgw_session.session_id, profile)
            self._follow_profile(_held_of_pgw(pgw_session), pgw_session.apn, profile)
        self._pump()

    def _follow_profile(self, held: HeldSession, apn: str | None, profile: SubscriberProfile | None) -> None:
        granted = None if profile is None else authorise(profile, apn)
        if isinstance(granted, Refusal):
            self._initiated.abort(held, granted.text.rstrip("."))
        else:
            self._initiated.reauthorise(held, "the profile changed")

    def _session_event(self, event: SessionEvent) -> None:
        """What a SWm session says that concerns its gateway, or the PGW."""
        match event:
            case SessionEnded():
                self._swm_session_ended(event)
            case DeregisteredByHss():
                self._deregistered(event)
            case ProfileChangedByHss():
                self._profile_changed(event)

    def _swm_session_ended(self, event: SessionEnded) -> None:
        """STR, or the session's time was over: the PGWs of an access that is gone have to let go."""
        self._initiated.ended(SWM_APPLICATION, event.session_id)
        self._reauthorization.forget(event.session_id)
        if event.imsi is not None and event.apn is not None:
            others = self._sessions.of_user(event.imsi)
            if not any(other.apn == event.apn for other in others):
                self._pgw_sessions.release(event.imsi, event.apn, self._monotonic())
        self._pump()

    # --- procedures ---------------------------------------------------------------------------------

    async def _carry_out(self, procedure: Procedure, session: HeldSession, why: str) -> ProcedureEnded:
        outcome: asyncio.Future[ProcedureEnded] = asyncio.get_running_loop().create_future()
        key = (session.application, session.session_id, procedure)
        self._watchers.setdefault(key, []).append(outcome)
        if procedure is Procedure.ABORT:
            self._initiated.abort(session, why)
        elif not self._initiated.reauthorise(session, why):
            self._watchers.pop(key)
            raise UnknownSession(f"session {session.session_id} is being aborted")
        self._pump()
        return await outcome

    async def _send(self, event: RequestToSend) -> None:
        try:
            answer = await self._sender.request(event.request)
            result = Result.from_message(answer)
        except (BackendError, DecodeError) as error:
            self._initiated.unanswered(event.token, str(error), self._monotonic())
        else:
            if result.is_protocol_error:  # a relay that cannot deliver it: the gateway has not seen it
                self._initiated.unanswered(event.token, str(result), self._monotonic())
            else:
                self._initiated.answered(event.token, result, self._monotonic())
        self._pump()

    # --- answers and questions ----------------------------------------------------------------------

    def _owed(self, message: DiameterMessage) -> tuple[int, asyncio.Future[DiameterMessage]]:
        self._token += 1
        answer: asyncio.Future[DiameterMessage] = asyncio.get_running_loop().create_future()
        self._answers[self._token] = (message, answer)
        return self._token, answer

    def _answer(self, event: reauthorization.AaaReady | s6b.AaaReady, *, name: str) -> None:
        message, owed = self._answers.pop(event.token)
        data: dict[str, JsonValue] = {"result": event.answer.result.code, "vendor": event.answer.result.vendor}
        self._recorder.event(name, event.text, data, event.answer.session_id)
        if not owed.done():  # the connection may have gone meanwhile
            owed.set_result(event.answer.to_message(message))

    async def _ask_profile(self, event: reauthorization.ProfileRequested | s6b.ProfileRequested) -> None:
        machine = self._reauthorization if isinstance(event, reauthorization.ProfileRequested) else self._pgw_sessions
        try:
            profile = await self._hss().user_data(event.imsi)
        except StackError as error:
            machine.answer_refusal(event.token, _refusal(error))
        except Exception:  # noqa: BLE001 - top loop of a question: a defect must not end the node
            _log.exception("subscriber %s: the HSS failed", event.imsi)
            machine.answer_refusal(event.token, backend_refusal("the server failed; see its log"))
        else:
            machine.answer_profile(event.token, profile, self._monotonic())
        self._pump()

    async def _update_pgw(self, event: s6b.PgwUpdateRequested) -> None:
        refusal: Refusal | None = None
        try:
            await self._hss().update_pgw(event.imsi, event.apn, event.pgw)
        except StackError as error:
            refusal = _refusal(error)
        except Exception:  # noqa: BLE001 - top loop, as above
            _log.exception("subscriber %s: the HSS failed", event.imsi)
            refusal = backend_refusal("the server failed; see its log")
        if event.token is None:
            if refusal is not None:
                _log.warning("subscriber %s: the HSS keeps the PDN gateway of %s", event.imsi, event.apn)
        elif refusal is not None:
            self._pgw_sessions.answer_refusal(event.token, refusal)
        else:
            self._pgw_sessions.answer_update(event.token, self._monotonic())
        self._pump()

    # --- events -------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Carry out what the machines want; what that leads to at once is carried out by the same call."""
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while self._pump_initiated() or self._pump_reauthorization() or self._pump_s6b():
                pass
        finally:
            self._is_pumping = False
        self._arm()

    def _pump_initiated(self) -> bool:
        event = self._initiated.poll_event()
        match event:
            case RequestToSend():
                self._spawn(self._send(event))
            case SessionLost() if event.session.application == SWM_APPLICATION:
                self._server.end(event.session.session_id, event.why)
            case SessionLost():
                self._pgw_sessions.end(event.session.session_id, event.why)
            case ProcedureEnded():
                self._procedure_ended(event)
        return event is not None

    def _procedure_ended(self, event: ProcedureEnded) -> None:
        session = event.session
        data: dict[str, JsonValue] = {
            "procedure": event.procedure.value,
            "why": event.why,
            "gateway": session.host,
            "succeeded": event.succeeded,
            "result": None if event.result is None else str(event.result),
        }
        name = "session-aborted" if event.procedure is Procedure.ABORT else "session-reauthorised"
        if not event.succeeded:
            name = "abort-failed" if event.procedure is Procedure.ABORT else "reauthorisation-failed"
        self._recorder.event(name, event.text, data, session.session_id)
        for watcher in self._watchers.pop((session.application, session.session_id, event.procedure), ()):
            if not watcher.done():
                watcher.set_result(event)

    def _pump_reauthorization(self) -> bool:
        event = self._reauthorization.poll_event()
        match event:
            case reauthorization.ProfileRequested():
                self._spawn(self._ask_profile(event))
            case reauthorization.AaaReady():
                self._answer(event, name="authorised")
        return event is not None

    def _pump_s6b(self) -> bool:
        event = self._pgw_sessions.poll_event()
        match event:
            case s6b.ProfileRequested():
                self._spawn(self._ask_profile(event))
            case s6b.PgwUpdateRequested():
                self._spawn(self._update_pgw(event))
            case s6b.AaaReady():
                self._answer(event, name="pgw-authorised" if event.answer.result.is_success else "pgw-refused")
            case s6b.AbortRequested():
                self._initiated.abort(_held_of_pgw(event.session), event.why)
            case s6b.PgwSessionEnded():
                self._initiated.ended(S6B_APPLICATION, event.session.session_id)
                self._recorder.event(
                    "pgw-session-ended", event.text, {"imsi": str(event.session.imsi)}, event.session.session_id
                )
        return event is not None


def _held_of_pgw(session: s6b.PgwSession) -> HeldSession:
    return HeldSession(
        application=S6B_APPLICATION,
        session_id=session.session_id,
        host=session.host,
        realm=session.realm,
        user_name=session.user_name,
    )


def _refusal(error: StackError) -> Refusal:
    return hss_refusal(error) if isinstance(error, HssRefusal) else backend_refusal(str(error))
