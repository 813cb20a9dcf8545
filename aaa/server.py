"""The SWm server (TS 29.273 §7): DER and STR in, DEA and STA out, questions to the HSS, trace records.

No event loop here: whoever runs it hands in messages with a way to respond, and answers the questions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from aaa.authentication import Authentication
from aaa.authorization import Refusal
from aaa.events import (
    AdmittedUnauthenticated,
    AnswerReady,
    Authenticated,
    ContextIssued,
    ContextRequested,
    DeregisteredByHss,
    DeregistrationRequested,
    EapReceived,
    EapSent,
    EquipmentNoted,
    ProfileChangedByHss,
    Question,
    Refused,
    RegistrationRequested,
    Resynchronised,
    SessionEnded,
    SessionEvent,
    StateChanged,
    TemporaryQuestion,
    UserDataRequested,
    VectorRequested,
)
from aaa.hss.port import SubscriberProfile
from aaa.sessions import Sessions
from protocols.algorithms.vector import AkaVector
from protocols.diameter.codec import Avp, DiameterMessage
from protocols.diameter.swm import Der, Str
from protocols.eap.aka.messages import METHOD_NAMES
from protocols.eap.aka.temporary import ReauthenticationContext
from protocols.eap.observation import eap_body
from protocols.threegpp.identity import Imsi
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue, Kind

Respond = Callable[[DiameterMessage], None]
MACHINE = "swm-session"
INTERFACE = "SWm"
ALL_SESSION = 1  # Redirect-Host-Usage (RFC 6733 §6.13)


class SwmServer:
    """Joins the session machine to Diameter messages, the HSS and the recorder."""

    def __init__(
        self,
        sessions: Sessions,
        recorder: Recorder,
        *,
        ask: Callable[[Question | TemporaryQuestion | DeregistrationRequested], None],
        monotonic: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """``ask`` takes a question and later calls one of the ``*_answered`` methods."""
        self._sessions = sessions
        self._recorder = recorder
        self._ask = ask
        self._monotonic = monotonic
        self._wall = wall
        self._requests: dict[int, tuple[DiameterMessage, Respond]] = {}
        self._request = 0
        self._hooks: list[Callable[[SessionEvent], None]] = []

    def on_event(self, hook: Callable[[SessionEvent], None]) -> None:
        """Show ``hook`` every event of a session, after it has been carried out."""
        self._hooks.append(hook)

    @property
    def table(self) -> Sessions:
        """The sessions' own machines."""
        return self._sessions

    # --- requests -----------------------------------------------------------------------------------

    def receive_der(self, message: DiameterMessage, respond: Respond) -> None:
        """A DER; ``RequestError`` when it breaks its format, else ``respond`` is called once."""
        der = Der.from_message(message)
        self._request += 1
        self._requests[self._request] = (message, respond)
        self._sessions.receive_der(der, self._request, self._monotonic())
        self._pump()

    def receive_str(self, message: DiameterMessage) -> DiameterMessage:
        """An STR and its answer; ``RequestError`` when it breaks its format."""
        answer = self._sessions.receive_str(Str.from_message(message))
        self._pump()
        return answer.to_message(message)

    def end(self, session_id: str, why: str) -> None:
        """End a session for which no STR will come."""
        self._sessions.end(session_id, why)
        self._pump()

    def end_all(self, origin_host: str, why: str) -> None:
        """End the sessions of a gateway for which no STR will come."""
        for session in self._sessions:
            if session.is_of(origin_host):
                self._sessions.end(session.session_id, why)
        self._pump()

    # --- the HSS's answers --------------------------------------------------------------------------

    def vector_answered(self, question: VectorRequested, vector: AkaVector) -> None:
        """The vector."""
        self._sessions.answer_vector(question.session_id, vector, self._monotonic())
        self._pump()

    def vector_refused(self, question: VectorRequested, text: str) -> None:
        """AUTS does not verify."""
        self._sessions.answer_vector_refusal(question.session_id, text, self._monotonic())
        self._pump()

    def profile_answered(self, question: RegistrationRequested | UserDataRequested, profile: SubscriberProfile) -> None:
        """The profile."""
        self._sessions.answer_profile(question.session_id, profile, self._monotonic())
        self._pump()

    def context_answered(self, question: ContextRequested, context: ReauthenticationContext | None) -> None:
        """What is kept behind a re-authentication identity."""
        self._sessions.answer_context(question.session_id, context, self._monotonic())
        self._pump()

    def context_kept(self, question: ContextIssued) -> None:
        """A re-authentication context is stored, or cannot be: the user will be authenticated in full next time."""
        self._sessions.answer_kept(question.session_id, self._monotonic())
        self._pump()

    def refused(self, question: Question, refusal: Refusal) -> None:
        """The HSS refuses, or it failed."""
        self._sessions.answer_refusal(question.session_id, refusal, self._monotonic())
        self._pump()

    # --- what the HSS says on its own (HssListener) -------------------------------------------------

    def deregistered(self, imsi: Imsi, reason: int, text: str) -> bool:
        """RTR; whether the user has sessions here."""
        known = self._sessions.deregistered(imsi, reason, text)
        self._pump()
        return known

    def profile_changed(self, imsi: Imsi, profile: SubscriberProfile | None) -> bool:
        """PPR; whether the user has sessions here."""
        known = self._sessions.profile_changed(imsi, profile)
        self._pump()
        return known

    # --- time ---------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``handle_timeout`` is due next."""
        return self._sessions.next_deadline()

    def handle_timeout(self) -> None:
        """End sessions whose time is over."""
        self._sessions.handle_timeout(self._monotonic())
        self._pump()

    # --- lists --------------------------------------------------------------------------------------

    def sessions(self) -> list[JsonValue]:
        """Every session, oldest first."""
        return [self._described(session) for session in self._sessions]

    def session(self, session_id: str) -> dict[str, JsonValue] | None:
        """One session."""
        session = self._sessions.get(session_id)
        return None if session is None else self._described(session)

    def __len__(self) -> int:
        return len(self._sessions)

    def _described(self, session: Authentication) -> dict[str, JsonValue]:
        offset = self._wall() - self._monotonic()
        refusal = session.refusal
        return {
            "id": session.session_id,
            "state": None if session.state is None else session.state.value,
            "imsi": None if session.imsi is None else str(session.imsi),
            "user_name": session.user_name,
            "apn": session.apn,
            "imei": session.imei,
            "gateway": session.origin_host,
            "created": session.created + offset,
            "authenticated": None if session.authenticated is None else session.authenticated + offset,
            "last_error": None
            if refusal is None
            else {"cause": refusal.cause.value, "result": str(refusal.result), "text": refusal.text},
        }

    # --- events -------------------------------------------------------------------------------------

    def _pump(self) -> None:
        while (event := self._sessions.poll_event()) is not None:
            self._take(event)
            for hook in self._hooks:
                hook(event)

    def _take(self, event: SessionEvent) -> None:
        match event:
            case VectorRequested() | RegistrationRequested() | UserDataRequested() | DeregistrationRequested():
                self._ask(event)
            case ContextRequested() | ContextIssued():
                self._ask(event)
            case AnswerReady():
                self._respond(event)
            case EapReceived():
                self._record_eap(event.session_id, event.packet, "in")
            case EapSent():
                self._record_eap(event.session_id, event.packet, "out")
            case StateChanged():
                body: dict[str, JsonValue] = {
                    "machine": MACHINE,
                    "old": None if event.old is None else event.old.value,
                    "new": None if event.new is None else event.new.value,
                    "why": event.why,
                }
                self._recorder.record(Kind.STATE, body, event.session_id)
            case Authenticated():
                how: dict[str, JsonValue] = {"method": f"EAP-{METHOD_NAMES[event.method]}", "fast": event.fast}
                who: dict[str, JsonValue] = {"imsi": str(event.imsi), "apn": event.apn}
                self._recorder.event("authenticated", event.text, {**who, **how}, event.session_id)
            case AdmittedUnauthenticated():
                admitted: dict[str, JsonValue] = {"imei": event.imei, "apn": event.apn}
                self._recorder.event("admitted-unauthenticated", event.text, admitted, event.session_id)
            case Resynchronised():
                self._recorder.event("resynchronised", event.text, {"imsi": str(event.imsi)}, event.session_id)
            case EquipmentNoted():
                self._recorder.event("equipment-grey", event.text, {"imei": event.imei}, event.session_id)
            case Refused():
                data: dict[str, JsonValue] = {
                    "identity": event.identity,
                    "cause": event.refusal.cause.value,
                    "result": event.refusal.result.code,
                    "vendor": event.refusal.result.vendor,
                    **event.refusal.facts,
                }
                self._recorder.event("refused", event.refusal.text, data, event.session_id)
            case DeregisteredByHss():
                self._recorder.event(
                    "deregistered-by-hss",
                    f"The HSS ended the registration of subscriber {event.imsi}: {event.text}.",
                    {"imsi": str(event.imsi), "reason": event.reason, "text": event.text},
                    event.session_id,
                )
            case ProfileChangedByHss():
                self._recorder.event(
                    "profile-changed-by-hss",
                    f"The HSS has another profile for subscriber {event.imsi}.",
                    {"imsi": str(event.imsi)},
                    event.session_id,
                )
            case SessionEnded():
                name = "session-expired" if event.expired else "session-terminated"
                self._recorder.event(name, event.text, {"identity": event.identity}, event.session_id)

    def _respond(self, event: AnswerReady) -> None:
        for number in event.requests:
            request, respond = self._requests.pop(number)
            answer = event.answer.to_message(request)
            if event.reissued is not None:
                reissued = Avp.of("EAP-Reissued-Payload", event.reissued)
                answer = replace(answer, avps=(*answer.avps, reissued))
            if event.redirect_host is not None:  # RFC 6733 §6.1.8: the whole session goes there
                there = Avp.of("Redirect-Host", f"aaa://{event.redirect_host}")
                usage = Avp.of("Redirect-Host-Usage", ALL_SESSION)
                answer = replace(answer, avps=(*answer.avps, there, usage))
            respond(answer)

    def _record_eap(self, session_id: str, packet: bytes, direction: str) -> None:
        session = self._sessions.get(session_id)
        peer = "" if session is None else session.origin_host
        self._recorder.record(
            Kind.MESSAGE, eap_body(packet, direction=direction, interface=INTERFACE, peer=peer), session_id
        )
