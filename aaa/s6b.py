"""The S6b sessions of this server (TS 29.273 §9.1.2): PDN gateways authorise the sessions of attached users.

::

    PGW                                AAA                                     HSS
     AAR [APN, who I am]        -->     ProfileRequested                 -->   SAR AAA_USER_DATA_REQUEST
                                        PgwUpdateRequested               -->   SAR PGW_UPDATE
     <--  AAA [APN-Configuration, Session-Timeout]
     STR                        -->     PgwUpdateRequested (no PGW)      -->   SAR PGW_UPDATE
     <--  STA

A user is authorised here while the gateway of its access has it attached. A pure machine. Left out: DSMIPv6
and PMIPv6 (GTP on S2b is served), emergency sessions without authentication.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aaa.authorization import Refusal, RefusalCause, authorise
from aaa.events import ServerIdentity
from aaa.hss.port import SubscriberProfile
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ExperimentalResultCode, ResultCode
from protocols.diameter.profile import GTPV2_SUPPORTED, ApnConfiguration
from protocols.diameter.s6b import Aaa, Aar, Sta, Str
from protocols.threegpp.identity import Imsi, Nai

SESSION_GRACE_INTERVAL = 30.0  # the PGW's own Session-Timeout fires first and sends its STR
RELEASE_INTERVAL = 30.0  # for the PGW's STR once the access is gone: S2b tells it before us

_SUCCESS = Result.of(ResultCode.DIAMETER_SUCCESS)


@dataclass(frozen=True, kw_only=True, slots=True)
class PgwSession:
    """A session that a PGW was authorised for; ``pgw`` is how it named itself, host or address."""

    session_id: str
    host: str
    realm: str
    imsi: Imsi
    user_name: str
    apn: str
    pgw: str
    authorised: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileRequested:
    """SAR AAA_USER_DATA_REQUEST. Answer with ``answer_profile`` or ``answer_refusal``."""

    token: int
    imsi: Imsi


@dataclass(frozen=True, kw_only=True, slots=True)
class PgwUpdateRequested:
    """SAR PGW_UPDATE. Answer with ``answer_update`` or ``answer_refusal``; without a token nobody waits."""

    token: int | None
    imsi: Imsi
    apn: str
    pgw: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AaaReady:
    """The answer to the AAR of ``token``; ``text`` is one plain sentence."""

    token: int
    answer: Aaa
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AbortRequested:
    """The PGW should have ended the session and did not."""

    session: PgwSession
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PgwSessionEnded:
    """A session left the table; ``text`` is one plain sentence."""

    session: PgwSession
    text: str


S6bEvent = ProfileRequested | PgwUpdateRequested | AaaReady | AbortRequested | PgwSessionEnded


@dataclass(kw_only=True, slots=True)
class _Authorising:
    """An AAR that is owed an answer."""

    aar: Aar
    imsi: Imsi
    granted: ApnConfiguration | None = None
    timeout: int = 0


class PgwSessions:
    """All S6b sessions by Session-Id; events of all of them come out of one queue, in order."""

    def __init__(
        self, *, identity: ServerIdentity, is_registered: Callable[[Imsi], bool], session_timeout: int
    ) -> None:
        """``is_registered`` tells whether a user is attached at this server; ``session_timeout`` in seconds."""
        self._identity = identity
        self._is_registered = is_registered
        self._session_timeout = session_timeout
        self._sessions: dict[str, PgwSession] = {}
        self._by_user: dict[Imsi, set[str]] = {}
        self._pushed: dict[str, SubscriberProfile] = {}
        self._waiting: dict[int, _Authorising] = {}
        self._deadlines: dict[str, float] = {}
        self._released: set[str] = set()  # whose access is gone
        self._heap: list[tuple[float, str]] = []
        self._events: deque[S6bEvent] = deque()

    # --- requests of a PGW --------------------------------------------------------------------------

    def receive_aar(self, aar: Aar, token: int, now: float) -> None:
        """AAR --> ; ``token`` comes back in ``AaaReady``. One for a present session authorises it anew."""
        imsi = imsi_of(aar.user_name)
        if imsi is None or not self._is_registered(imsi):
            result = Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN)
            self._refuse(aar, token, result, f"user {aar.user_name or 'unnamed'} is not attached here")
            return
        present = self._sessions.get(aar.session_id)
        if present is not None and (present.imsi, present.host) != (imsi, aar.origin_host):
            result = Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)
            self._refuse(aar, token, result, "the Session-Id is another session's")
            return
        self._waiting[token] = _Authorising(aar=aar, imsi=imsi)
        pushed = self._pushed.pop(aar.session_id, None)
        if pushed is None:
            self._events.append(ProfileRequested(token=token, imsi=imsi))
        else:
            self.answer_profile(token, pushed, now)

    def receive_str(self, request: Str) -> Sta:
        """STR --> ; <-- STA. The HSS forgets the PGW with the APN's last session."""
        session = self._sessions.get(request.session_id)
        code = ResultCode.DIAMETER_UNKNOWN_SESSION_ID
        if session is not None and session.host.lower() == request.origin_host.lower():
            code = ResultCode.DIAMETER_SUCCESS
            self._end(session, "the PDN gateway terminated the session")
        return Sta(
            session_id=request.session_id,
            origin_host=self._identity.host,
            origin_realm=self._identity.realm,
            result=Result.of(code),
        )

    # --- the HSS's answers --------------------------------------------------------------------------

    def answer_profile(self, token: int, profile: SubscriberProfile, now: float) -> None:
        """The HSS's answer to ``ProfileRequested``."""
        waiting = self._waiting[token]
        granted = authorise(profile, waiting.aar.service_selection)
        if isinstance(granted, Refusal):
            # TS 29.273 §9.1.2.2.3: an APN that is not allowed is an authorisation that is rejected
            result = granted.result
            if granted.cause is RefusalCause.APN_NOT_SUBSCRIBED:
                result = Result.of(ResultCode.DIAMETER_AUTHORIZATION_REJECTED)
            self._finish_refused(token, result, granted.text)
            return
        limit = profile.user_data.session_timeout
        waiting.granted = granted
        waiting.timeout = self._session_timeout if limit is None else min(limit, self._session_timeout)
        present = self._sessions.get(waiting.aar.session_id)
        apn, pgw = granted.service_selection, _pgw_of(waiting.aar)
        if present is not None and (present.apn, present.pgw) == (apn, pgw):
            self.answer_update(token, now)
        else:
            self._events.append(PgwUpdateRequested(token=token, imsi=waiting.imsi, apn=apn, pgw=pgw))

    def answer_update(self, token: int, now: float) -> None:
        """The HSS knows the PGW: the session is authorised."""
        waiting = self._waiting.pop(token)
        aar, granted = waiting.aar, waiting.granted
        assert granted is not None
        session = PgwSession(
            session_id=aar.session_id,
            host=aar.origin_host,
            realm=aar.origin_realm,
            imsi=waiting.imsi,
            user_name=aar.user_name or "",
            apn=granted.service_selection,
            pgw=_pgw_of(aar),
            authorised=now,
        )
        self._put(session)
        self._released.discard(aar.session_id)
        self._arm(aar.session_id, now + waiting.timeout + SESSION_GRACE_INTERVAL)
        features = None if aar.mip6_feature_vector is None else aar.mip6_feature_vector & GTPV2_SUPPORTED
        answer = Aaa(
            session_id=aar.session_id,
            origin_host=self._identity.host,
            origin_realm=self._identity.realm,
            result=_SUCCESS,
            auth_request_type=aar.auth_request_type,
            mip6_feature_vector=features,
            session_timeout=waiting.timeout,
            apn_configuration=granted,
        )
        text = f"PDN gateway {session.pgw} serves subscriber {session.imsi} on APN {session.apn}."
        self._events.append(AaaReady(token=token, answer=answer, text=text))

    def answer_refusal(self, token: int, refusal: Refusal) -> None:
        """The HSS refuses a question, or it does not answer."""
        result = refusal.result
        if result.is_protocol_error:  # a redirect of SWm's, or what else is no matter of the PGW's
            result = Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)
        self._finish_refused(token, result, refusal.text)

    # --- what others say ----------------------------------------------------------------------------

    def push(self, session_id: str, profile: SubscriberProfile) -> None:
        """Keep what a PPR brought for the session's next AAR."""
        self._pushed[session_id] = profile

    def release(self, imsi: Imsi, apn: str, now: float) -> None:
        """The user's access to ``apn`` is gone: the PGW has a while to end its session, then it is told to."""
        for session in self.of_user(imsi):
            if session.apn == apn and session.session_id not in self._released:
                self._released.add(session.session_id)
                self._arm(session.session_id, now + RELEASE_INTERVAL)

    def end(self, session_id: str, why: str) -> None:
        """Take a session out of the table; nothing when it is gone."""
        session = self._sessions.get(session_id)
        if session is not None:
            self._end(session, why)

    # --- time ---------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``handle_timeout`` is due next."""
        while self._heap and self._deadlines.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # superseded or closed
        return self._heap[0][0] if self._heap else None

    def handle_timeout(self, now: float) -> None:
        """End the sessions whose time is over; have those aborted whose access is gone."""
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            session = self._sessions[heapq.heappop(self._heap)[1]]
            del self._deadlines[session.session_id]
            if session.session_id in self._released:
                self._events.append(AbortRequested(session=session, why="the user's access is gone"))
            else:
                self._end(session, "its Session-Timeout is over and the PDN gateway sent no STR")

    # --- what comes out -----------------------------------------------------------------------------

    def poll_event(self) -> S6bEvent | None:
        """The next event, ``None`` when there is none."""
        return self._events.popleft() if self._events else None

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[PgwSession]:
        return iter(tuple(self._sessions.values()))

    def get(self, session_id: str) -> PgwSession | None:
        """The session of this Session-Id."""
        return self._sessions.get(session_id)

    def of_user(self, imsi: Imsi) -> tuple[PgwSession, ...]:
        """The user's sessions."""
        return tuple(self._sessions[session_id] for session_id in sorted(self._by_user.get(imsi, ())))

    # --- inside -------------------------------------------------------------------------------------

    def _arm(self, session_id: str, deadline: float) -> None:
        self._deadlines[session_id] = deadline
        heapq.heappush(self._heap, (deadline, session_id))

    def _put(self, session: PgwSession) -> None:
        self._forget(session.session_id)
        self._sessions[session.session_id] = session
        self._by_user.setdefault(session.imsi, set()).add(session.session_id)

    def _forget(self, session_id: str) -> None:
        session = self._sessions.pop(session_id, None)
        if session is None:
            return
        held = self._by_user[session.imsi]
        held.discard(session_id)
        if not held:
            del self._by_user[session.imsi]

    def _end(self, session: PgwSession, why: str) -> None:
        self._forget(session.session_id)
        self._deadlines.pop(session.session_id, None)
        self._pushed.pop(session.session_id, None)
        self._released.discard(session.session_id)
        others = any(held.apn == session.apn for held in self.of_user(session.imsi))
        # A user who is registered no more has no PGW at the HSS either (TS 29.273 §8.1.2.2.2)
        if not others and self._is_registered(session.imsi):
            self._events.append(PgwUpdateRequested(token=None, imsi=session.imsi, apn=session.apn, pgw=None))
        text = f"Subscriber {session.imsi}: the PDN gateway's session on {session.apn} ended because {why}."
        self._events.append(PgwSessionEnded(session=session, text=text))

    def _finish_refused(self, token: int, result: Result, text: str) -> None:
        waiting = self._waiting.pop(token)
        self._refuse(waiting.aar, token, result, text.rstrip("."))

    def _refuse(self, aar: Aar, token: int, result: Result, why: str) -> None:
        answer = Aaa(
            session_id=aar.session_id,
            origin_host=self._identity.host,
            origin_realm=self._identity.realm,
            result=result,
            auth_request_type=aar.auth_request_type,
            error_message=why,
        )
        text = f"PDN gateway {aar.origin_host} was refused: {why}."
        self._events.append(AaaReady(token=token, answer=answer, text=text))


def imsi_of(user_name: str | None) -> Imsi | None:
    """The IMSI in a User-Name: a root NAI (TS 23.003 §19.3.2), or the bare digits without a realm."""
    name = user_name or ""
    try:
        return Imsi(name) if name.isdecimal() else Nai.parse(name).imsi
    except ValueError:
        return None


def _pgw_of(aar: Aar) -> str:
    return aar.mip6_agent_info or aar.origin_host
