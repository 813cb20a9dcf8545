"""AAR on SWm: the gateway asks for the present profile of a session (TS 29.273 §7.1.2.2, §7.1.2.5).

It follows an RAR. The answer comes from the profile that the HSS has pushed, else the HSS is asked. A user
who may not go on is refused; the gateway then ends the session with an STR. A pure machine.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from aaa.authentication import Authentication
from aaa.authorization import Refusal, authorise
from aaa.events import AuthenticationState, ServerIdentity
from aaa.hss.port import SubscriberProfile
from aaa.sessions import Sessions
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ResultCode
from protocols.diameter.profile import ApnConfiguration, Non3gppUserData
from protocols.diameter.swm import Aaa, Aar
from protocols.threegpp.identity import Imsi


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileRequested:
    """SAR AAA_USER_DATA_REQUEST. Answer with ``answer_profile`` or ``answer_refusal``."""

    token: int
    imsi: Imsi


@dataclass(frozen=True, kw_only=True, slots=True)
class AaaReady:
    """The answer to the AAR of ``token``; ``text`` is one plain sentence."""

    token: int
    answer: Aaa
    text: str


ReauthorizationEvent = ProfileRequested | AaaReady


class Reauthorization:
    """The AARs that are under way, and the profiles that were pushed for the next ones."""

    def __init__(self, sessions: Sessions, *, identity: ServerIdentity) -> None:
        self._sessions = sessions
        self._identity = identity
        self._waiting: dict[int, Aar] = {}
        self._pushed: dict[str, SubscriberProfile] = {}  # by Session-Id
        self._events: deque[ReauthorizationEvent] = deque()

    def push(self, session_id: str, profile: SubscriberProfile) -> None:
        """Keep what a PPR brought for the session's next AAR."""
        self._pushed[session_id] = profile

    def forget(self, session_id: str) -> None:
        """The session is over."""
        self._pushed.pop(session_id, None)

    def receive(self, aar: Aar, token: int, now: float) -> None:
        """AAR --> ; ``token`` comes back in ``AaaReady``."""
        self._waiting[token] = aar
        session = self._sessions.get(aar.session_id)
        if session is not None and not session.is_of(aar.origin_host):
            session = None
        if session is None or session.state is not AuthenticationState.AUTHENTICATED:
            self._answer(token, Result.of(ResultCode.DIAMETER_UNKNOWN_SESSION_ID), "there is no such session")
            return
        if session.emergency is not None:  # no subscription has a say in it
            self._renew(token, session, session.emergency, None, now)
            return
        assert session.imsi is not None
        pushed = self._pushed.pop(aar.session_id, None)
        if pushed is None:
            self._events.append(ProfileRequested(token=token, imsi=session.imsi))
        else:
            self.answer_profile(token, pushed, now)

    def answer_profile(self, token: int, profile: SubscriberProfile, now: float) -> None:
        """The HSS's answer."""
        session = self._sessions.get(self._waiting[token].session_id)
        if session is None or session.authenticated is None:
            self._answer(token, Result.of(ResultCode.DIAMETER_UNKNOWN_SESSION_ID), "the session ended meanwhile")
            return
        granted = authorise(profile, session.apn)
        if isinstance(granted, Refusal):
            self.answer_refusal(token, granted)
            return
        self._renew(token, session, granted, profile.user_data, now)

    def _renew(
        self,
        token: int,
        session: Authentication,
        granted: ApnConfiguration,
        user_data: Non3gppUserData | None,
        now: float,
    ) -> None:
        assert session.authenticated is not None
        # RFC 6733 §8.13: in the answer to a re-authorisation, Session-Timeout is what is left
        left = session.authenticated + session.session_timeout - now
        answer = Aaa(
            session_id=session.session_id,
            origin_host=self._identity.host,
            origin_realm=self._identity.realm,
            result=Result.of(ResultCode.DIAMETER_SUCCESS),
            user_name=session.user_name,
            apn_configuration=granted,
            session_timeout=max(1, int(left)),
            subscription_id=None if user_data is None else user_data.subscription_id,
            charging_characteristics=None if user_data is None else user_data.charging_characteristics,
        )
        del self._waiting[token]
        who = f"User {session.user_name}" if session.imsi is None else f"Subscriber {session.imsi}"
        text = f"{who} was authorised anew for APN {granted.service_selection}."
        self._events.append(AaaReady(token=token, answer=answer, text=text))

    def answer_refusal(self, token: int, refusal: Refusal) -> None:
        """The HSS refuses, or it failed, or the profile allows the APN no more."""
        result = refusal.result
        if result.is_protocol_error:  # a redirect is for an attach, not for a session that is here
            result = Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)
        self._answer(token, result, refusal.text.rstrip("."))

    def poll_event(self) -> ReauthorizationEvent | None:
        """The next event, ``None`` when there is none."""
        return self._events.popleft() if self._events else None

    def _answer(self, token: int, result: Result, why: str) -> None:
        aar = self._waiting.pop(token)
        answer = Aaa(
            session_id=aar.session_id,
            origin_host=self._identity.host,
            origin_realm=self._identity.realm,
            result=result,
            error_message=why,
        )
        text = f"Session {aar.session_id} was not authorised anew: {why}."
        self._events.append(AaaReady(token=token, answer=answer, text=text))
