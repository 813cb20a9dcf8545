"""The SWm sessions of this server (RFC 6733 §8): opened by DER, closed by STR or by time.

A pure machine around ``Authentication``: one of these for each node, one of those for each Session-Id. With the
last session of a user goes its registration at the HSS (TS 29.273 §8.1.2.2.2).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from aaa.authentication import Authentication
from aaa.authorization import Refusal
from aaa.eap import EapService
from aaa.emergency import EmergencyPolicy
from aaa.equipment import ANY_EQUIPMENT, EquipmentList
from aaa.events import (
    AnswerReady,
    AuthenticationState,
    DeregisteredByHss,
    DeregistrationRequested,
    ProfileChangedByHss,
    ServerIdentity,
    SessionEnded,
    SessionEvent,
)
from aaa.hss.port import SubscriberProfile
from protocols.algorithms.vector import AkaVector
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ResultCode, ServerAssignmentType
from protocols.diameter.swm import Dea, Der, Sta, Str
from protocols.eap.aka.temporary import ReauthenticationContext
from protocols.entropy import Entropy
from protocols.threegpp.identity import Imsi

UNFINISHED_LIMIT = 10_000  # sessions without success; RFC 6733 leaves it to us
SESSION_GRACE_INTERVAL = 30.0  # the gateway's own Session-Timeout fires first and sends its STR


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionLimits:
    """``timeout`` is the Session-Timeout AVP, ``unfinished_interval`` the life of a session before success.

    ``unfinished``: how many sessions there may be without success.
    """

    timeout: int
    unfinished_interval: float
    unfinished: int = UNFINISHED_LIMIT


class Sessions:
    """All sessions by Session-Id; events of all of them come out of one queue, in order."""

    def __init__(
        self,
        *,
        identity: ServerIdentity,
        entropy: Entropy,
        eap: EapService,
        limits: SessionLimits,
        equipment: EquipmentList = ANY_EQUIPMENT,
        emergency: EmergencyPolicy | None = None,
    ) -> None:
        self._identity = identity
        self._entropy = entropy
        self._eap = eap
        self._limits = limits
        self._equipment = equipment
        self._emergency = emergency
        self._sessions: dict[str, Authentication] = {}
        self._unfinished: set[str] = set()
        self._deadlines: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._registered: dict[Imsi, set[str]] = {}  # the sessions for which a user is registered here
        self._registrations: dict[str, Imsi] = {}  # the same the other way round
        self._events: deque[SessionEvent] = deque()

    # --- what comes in ------------------------------------------------------------------------------

    def receive_der(self, der: Der, request: int, now: float) -> None:
        """Take a DER; ``request`` is a token that comes back in ``AnswerReady``."""
        session = self._sessions.get(der.session_id)
        if session is None and len(self._unfinished) >= self._limits.unfinished:
            self._events.append(self._too_many(der, request))
            return
        if session is None:
            session = Authentication(
                der,
                identity=self._identity,
                entropy=self._entropy,
                eap=self._eap,
                session_timeout=self._limits.timeout,
                created=now,
                is_registered=self.is_registered,
                equipment=self._equipment,
                emergency=self._emergency,
            )
            self._sessions[der.session_id] = session
        elif not session.is_of(der.origin_host):
            self._events.append(self._anothers(der, request))
            return
        session.receive(der, request, now)
        self._collect(session, now)

    def receive_str(self, request: Str) -> Sta:
        """Take an STR and answer it (RFC 6733 §8.4.2)."""
        session = self._sessions.get(request.session_id)
        code = ResultCode.DIAMETER_UNKNOWN_SESSION_ID  # also for one that was refused: it never began
        is_mine = session is not None and session.is_of(request.origin_host)
        if session is not None and is_mine and session.state is not AuthenticationState.REFUSED:
            code = ResultCode.DIAMETER_SUCCESS
            self._end(session, expired=False, why="the gateway terminated the session")
        return Sta(
            session_id=request.session_id,
            origin_host=self._identity.host,
            origin_realm=self._identity.realm,
            result=Result.of(code),
        )

    def end(self, session_id: str, why: str) -> None:
        """The session is over without an STR: its gateway does not know it, or cannot be reached."""
        session = self._sessions.get(session_id)
        if session is not None:
            self._end(session, expired=False, why=why)

    def answer_vector(self, session_id: str, vector: AkaVector, now: float) -> None:
        """The HSS's answer to ``VectorRequested``; late answers to sessions that are gone are dropped."""
        session = self._waiting(session_id, AuthenticationState.WAITING_FOR_VECTOR)
        if session is not None:
            session.answer_vector(vector, now)
            self._collect(session, now)

    def answer_vector_refusal(self, session_id: str, text: str, now: float) -> None:
        """The HSS refuses a vector: AUTS does not verify."""
        session = self._waiting(session_id, AuthenticationState.WAITING_FOR_VECTOR)
        if session is not None:
            session.answer_vector_refusal(text)
            self._collect(session, now)

    def answer_profile(self, session_id: str, profile: SubscriberProfile, now: float) -> None:
        """The HSS's answer to ``RegistrationRequested`` and ``UserDataRequested``.

        A registration for which no session is left is taken back at once: the session that asked is gone, or
        the profile does not allow what it wants.
        """
        held = self.is_registered(profile.imsi)
        session = self._waiting(session_id, AuthenticationState.WAITING_FOR_PROFILE)
        if session is not None:
            session.answer_profile(profile, now)
            self._collect(session, now)
        if not held and not self.is_registered(profile.imsi):
            self._deregister(profile.imsi)

    def answer_context(self, session_id: str, context: ReauthenticationContext | None, now: float) -> None:
        """The answer to ``ContextRequested``."""
        session = self._waiting(session_id, AuthenticationState.WAITING_FOR_CONTEXT)
        if session is not None:
            session.answer_context(context, now)
            self._collect(session, now)

    def answer_kept(self, session_id: str, now: float) -> None:
        """The answer to ``ContextIssued``."""
        session = self._waiting(session_id, AuthenticationState.WAITING_FOR_STORAGE)
        if session is not None:
            session.answer_kept(now)
            self._collect(session, now)

    def answer_refusal(self, session_id: str, refusal: Refusal, now: float) -> None:
        """The HSS refuses a question, or it does not answer."""
        session = self._waiting(
            session_id, AuthenticationState.WAITING_FOR_PROFILE, AuthenticationState.WAITING_FOR_VECTOR
        )
        if session is not None:
            session.answer_refusal(refusal, now)
            self._collect(session, now)

    def deregistered(self, imsi: Imsi, reason: int, text: str) -> bool:
        """RTR: the HSS has this server no longer as the user's; whether the user has sessions here."""
        sessions = self.of_user(imsi)
        for session in sessions:
            session.withdraw(text)
            del self._registrations[session.session_id]
            self._events.append(DeregisteredByHss(session_id=session.session_id, imsi=imsi, reason=reason, text=text))
        self._registered.pop(imsi, None)
        return bool(sessions)

    def profile_changed(self, imsi: Imsi, profile: SubscriberProfile | None) -> bool:
        """PPR: another profile holds from now on; whether the user has sessions here."""
        sessions = self.of_user(imsi)
        for session in sessions:
            if profile is not None:
                session.change_profile(profile)
            self._events.append(ProfileChangedByHss(session_id=session.session_id, imsi=imsi, profile=profile))
        return bool(sessions)

    # --- time ---------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``handle_timeout`` is due next, ``None`` without sessions."""
        while self._heap and self._deadlines.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # superseded or closed
        return self._heap[0][0] if self._heap else None

    def handle_timeout(self, now: float) -> None:
        """End the sessions whose time is over."""
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            session = self._sessions[heapq.heappop(self._heap)[1]]
            if session.state is AuthenticationState.REFUSED:
                why = "it was refused"
            elif session.state is AuthenticationState.AUTHENTICATED:
                why = "its Session-Timeout is over and the gateway sent no STR"
            else:
                why = "the gateway did not continue it"
            self._end(session, expired=True, why=why)

    # --- what comes out -----------------------------------------------------------------------------

    def poll_event(self) -> SessionEvent | None:
        """The next event, ``None`` when there is none."""
        return self._events.popleft() if self._events else None

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Authentication]:
        return iter(tuple(self._sessions.values()))

    def get(self, session_id: str) -> Authentication | None:
        """The session of this Session-Id."""
        return self._sessions.get(session_id)

    def is_registered(self, imsi: Imsi) -> bool:
        """Whether a session here is one for which the HSS has this server as the user's."""
        return imsi in self._registered

    def of_user(self, imsi: Imsi) -> tuple[Authentication, ...]:
        """The sessions for which the user is registered here."""
        return tuple(self._sessions[session_id] for session_id in self._registered.get(imsi, ()))

    # --- inside -------------------------------------------------------------------------------------

    def _anothers(self, der: Der, request: int) -> AnswerReady:
        """A DER under the Session-Id of another gateway's session (RFC 6733 §8.8: they are unique): no key for it."""
        answer = Dea(
            session_id=der.session_id,
            origin_host=self._identity.host,
            origin_realm=self._identity.realm,
            result=Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY),
            error_message="The Session-Id is another gateway's.",
        )
        return AnswerReady(session_id=der.session_id, requests=(request,), answer=answer)

    def _too_many(self, der: Der, request: int) -> AnswerReady:
        """A flood of sessions that come to nothing holds no more memory than this (RFC 6733 §7.1.3)."""
        answer = Dea(
            session_id=der.session_id,
            origin_host=self._identity.host,
            origin_realm=self._identity.realm,
            result=Result.of(ResultCode.DIAMETER_TOO_BUSY),
            error_message="Too many sessions have not been authenticated yet.",
        )
        return AnswerReady(session_id=der.session_id, requests=(request,), answer=answer)

    def _waiting(self, session_id: str, *states: AuthenticationState) -> Authentication | None:
        session = self._sessions.get(session_id)
        return session if session is not None and session.state in states else None

    def _collect(self, session: Authentication, now: float) -> None:
        while (event := session.poll_event()) is not None:
            self._events.append(event)
        self._follow_registration(session)
        if session.state is AuthenticationState.AUTHENTICATED and session.authenticated is not None:
            self._unfinished.discard(session.session_id)
            deadline = session.authenticated + session.session_timeout + SESSION_GRACE_INTERVAL
        else:
            if session.authenticated is None:
                self._unfinished.add(session.session_id)
            deadline = now + self._limits.unfinished_interval
        if self._deadlines.get(session.session_id) != deadline:
            self._deadlines[session.session_id] = deadline
            heapq.heappush(self._heap, (deadline, session.session_id))

    def _end(self, session: Authentication, *, expired: bool, why: str) -> None:
        del self._sessions[session.session_id]
        del self._deadlines[session.session_id]
        self._unfinished.discard(session.session_id)
        state = session.state
        session.close(why)
        while (event := session.poll_event()) is not None:
            self._events.append(event)
        self._follow_registration(session)
        if state is AuthenticationState.REFUSED:
            return  # that was said when it was refused
        who = f"Subscriber {session.imsi}" if session.imsi is not None else f"User {session.user_name or 'unnamed'}"
        self._events.append(
            SessionEnded(
                session_id=session.session_id,
                identity=session.user_name,
                was_authenticated=state is AuthenticationState.AUTHENTICATED,
                expired=expired,
                text=f"{who}: the session ended because {why}.",
                imsi=session.imsi,
                apn=session.apn,
            )
        )

    def _follow_registration(self, session: Authentication) -> None:
        """Keep count of the sessions that a registration at the HSS stands for; without one it ends."""
        before, now = self._registrations.get(session.session_id), session.registered
        if before == now:
            return
        if now is not None:
            self._registrations[session.session_id] = now
            self._registered.setdefault(now, set()).add(session.session_id)
        else:
            del self._registrations[session.session_id]
        if before is not None:
            holders = self._registered[before]
            holders.discard(session.session_id)
            if not holders:
                del self._registered[before]
                self._deregister(before)

    def _deregister(self, imsi: Imsi) -> None:
        self._events.append(DeregistrationRequested(imsi=imsi, why=ServerAssignmentType.USER_DEREGISTRATION))
