"""What the AAA server begins itself: ASR and RAR to the gateway of a session (RFC 6733 §8.3, §8.5).

::

    AAA                               ePDG (SWm, TS 29.273 §7.1.2.4, §7.1.2.5) or PGW (S6b, §9.1.2.4, §9.1.2.5)
     ASR                         -->
     <--  ASA 2001, STR               the session is over with the STR
     RAR                         -->
     <--  RAA 2001, AAR               the AAA (answer) holds the present profile

A pure machine for the sessions of both applications: requests go out as events, answers and what follows
them are fed in. A request that nobody answers is sent again; a gateway that does not know the session, or
never answers an ASR, ends it here.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from enum import Enum

from aaa.events import ServerIdentity
from protocols.diameter import s6b, swm
from protocols.diameter.codec import DiameterMessage, Result
from protocols.diameter.commands import AbortSessionRequest, ReAuthRequest
from protocols.diameter.dictionary import S6B_APPLICATION, SWM_APPLICATION, ResultCode
from protocols.errors import LocalError

ATTEMPT_LIMIT = 3
RETRY_INTERVAL = 10.0  # RFC 6733 §8.1 leaves to us when an ASR that failed is sent again
FOLLOW_INTERVAL = 30.0  # for the STR after an ASA and the AAR after an RAA; the gateway has a UE to tell

_UNKNOWN_SESSION = Result.of(ResultCode.DIAMETER_UNKNOWN_SESSION_ID)


class Procedure(str, Enum):
    """What is done to a session."""

    ABORT = "abort"
    REAUTHORISE = "reauthorise"


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldSession:
    """A session and whose it is: ``host`` and ``realm`` are the gateway's Diameter identity."""

    application: int
    session_id: str
    host: str
    realm: str
    user_name: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestToSend:
    """Send it, and call ``answered`` or ``unanswered`` with ``token``."""

    token: int
    session: HeldSession
    request: DiameterMessage


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionLost:
    """The session has to leave its table: no STR will come for it."""

    session: HeldSession
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcedureEnded:
    """How it went; ``result`` is the gateway's, ``None`` when it gave none. ``text`` is one plain sentence."""

    session: HeldSession
    procedure: Procedure
    why: str
    succeeded: bool
    result: Result | None
    text: str


InitiatedEvent = RequestToSend | SessionLost | ProcedureEnded


@dataclass(kw_only=True, slots=True)
class _Running:
    procedure: Procedure
    session: HeldSession
    why: str
    attempts: int = 0
    token: int | None = None  # while a request is out
    result: Result | None = None  # once it is answered, and the STR or AAR is awaited
    deadline: float | None = None
    again: str | None = None  # why there is to be another re-authorisation after this one


class InitiatedProcedures:
    """The procedures that are under way, at most one for each session; an abort takes a re-authorisation's place."""

    def __init__(self, identity: ServerIdentity) -> None:
        self._identity = identity
        self._running: dict[tuple[int, str], _Running] = {}
        self._tokens: dict[int, _Running] = {}
        self._token = 0
        self._heap: list[tuple[float, tuple[int, str]]] = []
        self._events: deque[InitiatedEvent] = deque()

    # --- what is wanted -----------------------------------------------------------------------------

    def abort(self, session: HeldSession, why: str) -> None:
        """ASR --> ; nothing when one is under way."""
        running = self._running.get(_key(session))
        if running is not None:
            if running.procedure is Procedure.ABORT:
                return
            self._finish(running, succeeded=False, text="the session is aborted instead")
        self._begin(_Running(procedure=Procedure.ABORT, session=session, why=why))

    def reauthorise(self, session: HeldSession, why: str) -> bool:
        """RAR --> ; once more after the AAR that is still to come. False when the session is being aborted."""
        running = self._running.get(_key(session))
        if running is None:
            self._begin(_Running(procedure=Procedure.REAUTHORISE, session=session, why=why))
        elif running.procedure is Procedure.REAUTHORISE:
            running.again = why  # the AAR may have been answered already with what was true before
        else:
            return False
        return True

    def is_running(self, application: int, session_id: str) -> bool:
        """Whether something is under way for this session."""
        return (application, session_id) in self._running

    # --- what comes in ------------------------------------------------------------------------------

    def answered(self, token: int, result: Result, now: float) -> None:
        """ASA or RAA; one that nobody waits for any more is passed over."""
        running = self._tokens.pop(token, None)
        if running is None:
            return
        running.token = None
        if result.is_success:
            running.result = result
            self._wait(running, now + FOLLOW_INTERVAL)
            return
        running.result = result
        if result == _UNKNOWN_SESSION:
            self._lose(running, succeeded=running.procedure is Procedure.ABORT, why="its gateway does not know it")
        elif running.procedure is Procedure.ABORT:
            # RFC 6733 §8.1: whatever the ASA says, the session is cleaned up
            self._lose(running, succeeded=False, why=f"its gateway answered the abort with {result}")
        else:
            self._finish(running, succeeded=False, text=f"the gateway answered with {result}")

    def unanswered(self, token: int, why: str, now: float) -> None:
        """The request could not be sent, or no answer came in time: RFC 6733 §8.1, wait and send it again."""
        running = self._tokens.pop(token, None)
        if running is None:
            return
        running.token = None
        if running.attempts < ATTEMPT_LIMIT:
            self._wait(running, now + RETRY_INTERVAL)
        elif running.procedure is Procedure.ABORT:
            self._lose(running, succeeded=False, why=f"its gateway cannot be reached ({why})")
        else:
            self._finish(running, succeeded=False, text=f"the gateway cannot be reached ({why})")

    def authorised(self, application: int, session_id: str, result: Result) -> None:
        """An AAR of the session was answered with ``result``: that ends a re-authorisation.

        A gateway that was refused ends the session with an STR (TS 29.273 §7.1.2.5).
        """
        running = self._running.get((application, session_id))
        if running is not None and running.procedure is Procedure.REAUTHORISE:
            if not result.is_success:
                self._finish(running, succeeded=False, text=f"the gateway was told {result}")
                return
            self._finish(running, succeeded=True, text="the gateway has the present profile")
            if running.again is not None:
                self.reauthorise(running.session, running.again)

    def ended(self, application: int, session_id: str) -> None:
        """The session left its table (STR, or its time was over): nothing more is done to it."""
        running = self._running.get((application, session_id))
        if running is not None:
            aborted = running.procedure is Procedure.ABORT
            text = "the gateway ended the session" if aborted else "the session ended meanwhile"
            self._finish(running, succeeded=aborted, text=text)

    # --- time ---------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``handle_timeout`` is due next."""
        while self._heap:
            deadline, key = self._heap[0]
            running = self._running.get(key)
            if running is not None and running.deadline == deadline:
                return deadline
            heapq.heappop(self._heap)  # superseded or finished
        return None

    def handle_timeout(self, now: float) -> None:
        """Send again, or give up."""
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            running = self._running[heapq.heappop(self._heap)[1]]
            running.deadline = None
            if running.result is None:
                self._send(running)
            elif running.procedure is Procedure.ABORT:
                self._lose(running, succeeded=True, why="its gateway agreed to the abort and sent no STR")
            else:
                self._finish(running, succeeded=False, text="the gateway agreed and sent no AAR")

    def poll_event(self) -> InitiatedEvent | None:
        """The next event, ``None`` when there is none."""
        return self._events.popleft() if self._events else None

    # --- inside -------------------------------------------------------------------------------------

    def _begin(self, running: _Running) -> None:
        self._running[_key(running.session)] = running
        self._send(running)

    def _send(self, running: _Running) -> None:
        self._token += 1
        running.attempts += 1
        running.token = self._token
        self._tokens[self._token] = running
        request = _request(self._identity, running.procedure, running.session)
        self._events.append(RequestToSend(token=self._token, session=running.session, request=request))

    def _wait(self, running: _Running, deadline: float) -> None:
        running.deadline = deadline
        heapq.heappush(self._heap, (deadline, _key(running.session)))

    def _lose(self, running: _Running, *, succeeded: bool, why: str) -> None:
        self._finish(running, succeeded=succeeded, text=why)
        self._events.append(SessionLost(session=running.session, why=why))

    def _finish(self, running: _Running, *, succeeded: bool, text: str) -> None:
        del self._running[_key(running.session)]
        if running.token is not None:
            del self._tokens[running.token]
        what = "abort" if running.procedure is Procedure.ABORT else "re-authorisation"
        how = "is done" if succeeded else "failed"
        self._events.append(
            ProcedureEnded(
                session=running.session,
                procedure=running.procedure,
                why=running.why,
                succeeded=succeeded,
                result=running.result,
                text=f"The {what} of session {running.session.session_id} ({running.why}) {how}: {text}.",
            )
        )


def _key(session: HeldSession) -> tuple[int, str]:
    return session.application, session.session_id


_REQUESTS: dict[tuple[int, Procedure], type[AbortSessionRequest] | type[ReAuthRequest]] = {
    (SWM_APPLICATION, Procedure.ABORT): swm.Asr,
    (SWM_APPLICATION, Procedure.REAUTHORISE): swm.Rar,
    (S6B_APPLICATION, Procedure.ABORT): s6b.Asr,
    (S6B_APPLICATION, Procedure.REAUTHORISE): s6b.Rar,
}


def _request(identity: ServerIdentity, procedure: Procedure, session: HeldSession) -> DiameterMessage:
    """TS 29.273 §7.2.2.3.1, §7.2.2.4.1, §9.2.2.4.1, §9.2.2.6.1."""
    kind = _REQUESTS.get((session.application, procedure))
    if kind is None:
        raise LocalError(f"application {session.application} has no {procedure.value}")
    return kind(
        session_id=session.session_id,
        origin_host=identity.host,
        origin_realm=identity.realm,
        destination_realm=session.realm,
        destination_host=session.host,
        user_name=session.user_name,
    ).to_message()
