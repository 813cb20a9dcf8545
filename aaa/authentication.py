"""Authentication of one SWm session: EAP-AKA server side over DER/DEA (TS 29.273 §7.1, RFC 4072, RFC 4187).

::

    ePDG                                AAA                                  HSS
     DER [EAP-Response/Identity]  -->
                                         VectorRequested               -->   MAR: is the user known, may it?
     <--  DEA 1001 [EAP-Request/AKA-Challenge]                         <--   vector
     DER [EAP-Response/AKA-Challenge]  -->
                                         RegistrationRequested         -->   SAR: served here from now on
     <--  DEA 2001 [EAP-Success], MSK, User-Name, APN-Configuration    <--   profile

Fast re-authentication (RFC 4187 §5) asks for no vector: the context of the identity, which this server keeps, takes
its place. Where both ends want result indications, AKA-Notification goes one round before the last answer.

An emergency session is granted what the configuration says; a UE without a USIM gets EAP-Success at once where that is
allowed (``aaa.emergency``). A pure machine: no clock, socket or database; stores are asked by event and answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from aaa.authorization import Refusal, RefusalCause, authorise, backend_refusal, equipment_refusal
from aaa.eap import EapService
from aaa.emergency import EmergencyPolicy, imei_of, is_emergency, not_admitted
from aaa.equipment import EquipmentList, check_equipment
from aaa.events import (
    AdmittedUnauthenticated,
    AnswerReady,
    Authenticated,
    AuthenticationState,
    ContextIssued,
    ContextRequested,
    EapReceived,
    EapSent,
    EquipmentNoted,
    Event,
    Refused,
    RegistrationRequested,
    Resynchronised,
    ServerIdentity,
    StateChanged,
    UserDataRequested,
    VectorRequested,
)
from aaa.hss.port import SubscriberProfile, VectorRequest
from protocols.algorithms.vector import AkaVector
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ResultCode
from protocols.diameter.profile import GTPV2_SUPPORTED, ApnConfiguration, Non3gppUserData
from protocols.diameter.swm import Dea, Der
from protocols.eap.aka import server as aka
from protocols.eap.aka.messages import NotificationCode
from protocols.eap.aka.temporary import ReauthenticationContext
from protocols.eap.packet import EapCode, EapPacket, EapType, failure
from protocols.eap.packet import success as eap_success
from protocols.eap.unauthenticated import emergency_msk
from protocols.entropy import Entropy
from protocols.errors import DecodeError, LocalError
from protocols.secret import Secret
from protocols.threegpp.identity import Imsi, Nai

INVALID_PACKET_LIMIT = 5  # RFC 4072 §2.4


@dataclass(kw_only=True)
class _Round:
    """One DER that is owed an answer."""

    der: Der
    requests: list[int]

    @property
    def eap_payload(self) -> bytes:
        return self.der.eap_payload


class Authentication:
    """One SWm session from its first DER on; ``origin_host`` and ``origin_realm`` name the gateway."""

    def __init__(
        self,
        der: Der,
        *,
        identity: ServerIdentity,
        entropy: Entropy,
        eap: EapService,
        session_timeout: int,
        created: float,
        is_registered: Callable[[Imsi], bool],
        equipment: EquipmentList,
        emergency: EmergencyPolicy | None = None,
    ) -> None:
        """``is_registered`` tells whether the HSS knows this server as the one that serves a user."""
        self.session_id = der.session_id
        self.origin_host = der.origin_host
        self.origin_realm = der.origin_realm
        self.created = created
        self.authenticated: float | None = None
        self.state: AuthenticationState | None = None
        self.user_name = der.user_name or ""
        self.imsi: Imsi | None = None
        self.registered: Imsi | None = None  # of whom this session is one that is served here
        self.session_timeout = session_timeout  # seconds from success; the profile may shorten it
        self.apn: str | None = der.service_selection
        self.imei: str | None = None
        self._rat_type = der.rat_type
        self.refusal: Refusal | None = None
        self._equipment = equipment
        self._emergency = emergency
        self.emergency: ApnConfiguration | None = None  # of an emergency session: what it is granted
        self._identity = identity
        self._entropy = entropy
        self._service = eap
        self._is_registered = is_registered
        self._eap: aka.EapAkaServer | None = None
        self._granted: tuple[SubscriberProfile, ApnConfiguration] | None = None  # authorised, EAP goes on
        self._denial: Refusal | None = None  # not authorised, EAP goes on
        self._withdrawal: Refusal | None = None  # authorised and taken back, EAP goes on
        self._success: aka.Succeeded | None = None  # while the re-authentication context is stored
        self._round: _Round | None = None
        self._request: bytes | None = None  # the EAP request that is outstanding
        self._discards = 0
        self._features: int | None = None  # MIP6-Feature-Vector, which the gateway says once
        self._last: tuple[bytes, AnswerReady] | None = None
        self._events: deque[Event] = deque()

    # --- what comes in ------------------------------------------------------------------------------

    def receive(self, der: Der, request: int, now: float) -> None:
        """Take a DER; ``request`` is a token that comes back in ``AnswerReady``."""
        payload = der.eap_payload
        if der.terminal_information is not None:
            self.imei = der.terminal_information.imei
        if der.mip6_feature_vector is not None:
            self._features = der.mip6_feature_vector
        if self._round is not None:
            if payload == self._round.eap_payload:
                self._round.requests.append(request)  # retransmission: RFC 6733 §5.5.4
            else:
                self._answer_out_of_turn(request)
            return
        if self._last is not None and payload == self._last[0]:
            self._events.append(replace(self._last[1], requests=(request,)))
            return
        self._round = _Round(der=der, requests=[request])
        if not payload:
            self._ask_identity()
            return
        self._events.append(EapReceived(session_id=self.session_id, packet=payload))
        try:
            packet = EapPacket.decode(payload)
        except DecodeError as error:
            self._discarded(f"not an EAP packet: {error}")
            return
        if packet.code is EapCode.RESPONSE and packet.type == EapType.IDENTITY and self._eap is None:
            self._begin(packet, der)
            imei = imei_of(self.user_name)
            if imei is not None:
                self._admit(imei, packet.identifier, now)
                return
        if self._eap is None:
            self._refuse(
                Refusal(
                    cause=RefusalCause.UNKNOWN_SESSION,
                    result=Result.of(ResultCode.DIAMETER_UNKNOWN_SESSION_ID),
                    text="The gateway continued an EAP exchange that this server does not have.",
                ),
                failure(packet.identifier),
            )
            return
        self._eap.receive(payload)
        self._pump(now)

    def answer_vector(self, vector: AkaVector, now: float) -> None:
        """The HSS's answer to ``VectorRequested``."""
        self._expect(AuthenticationState.WAITING_FOR_VECTOR)
        assert self._eap is not None
        self._eap.answer_vector(vector)
        self._pump(now)

    def answer_vector_refusal(self, text: str) -> None:
        """The HSS refuses a vector because AUTS does not verify (TS 33.102 §6.3.5)."""
        self._expect(AuthenticationState.WAITING_FOR_VECTOR)
        self._stop_eap(
            Refusal(
                cause=RefusalCause.AUTHENTICATION_FAILED,
                result=Result.of(ResultCode.DIAMETER_AUTHENTICATION_REJECTED),
                text=f"Authentication failed: {text}.",
                facts={"failure": aka.AkaFailure.SYNCHRONISATION.value},
            ),
            aka.AkaFailure.SYNCHRONISATION,
        )

    def answer_context(self, context: ReauthenticationContext | None, now: float) -> None:
        """The answer to ``ContextRequested``; without a context there will be a full authentication."""
        self._expect(AuthenticationState.WAITING_FOR_CONTEXT)
        assert self._eap is not None
        self._eap.answer_context(context)
        self._pump(now)

    def answer_profile(self, profile: SubscriberProfile, now: float) -> None:
        """The HSS's answer to ``RegistrationRequested`` and ``UserDataRequested``."""
        self._expect(AuthenticationState.WAITING_FOR_PROFILE)
        assert self._eap is not None
        self.registered = profile.imsi
        finding = check_equipment(self._equipment, self.imei, bound=profile.imei)
        subscribed = self.emergency or authorise(profile, self.apn, rat_type=self._rat_type)
        granted = equipment_refusal(finding) or subscribed
        if finding.text is not None and not finding.refused:
            self._events.append(EquipmentNoted(session_id=self.session_id, imei=self.imei, text=finding.text))
        if isinstance(granted, Refusal):
            self._deny(granted, now)
            return
        self._granted = (profile, granted)
        self._eap.authorise()
        self._pump(now)

    def answer_kept(self, now: float) -> None:
        """The answer to ``ContextIssued``."""
        self._expect(AuthenticationState.WAITING_FOR_STORAGE)
        assert self._success is not None
        success, self._success = self._success, None
        self._grant(success, now)

    def answer_refusal(self, refusal: Refusal, now: float) -> None:
        """The HSS refuses, or it does not answer."""
        if self.state is AuthenticationState.WAITING_FOR_VECTOR:
            backend = refusal.cause is RefusalCause.BACKEND_FAILED
            self._stop_eap(refusal, aka.AkaFailure.BACKEND if backend else aka.AkaFailure.USER_UNKNOWN)
            return
        self._expect(AuthenticationState.WAITING_FOR_PROFILE)
        self._deny(refusal, now)

    def withdraw(self, why: str) -> None:
        """RTR: the HSS ended the registration; a success that was not told yet becomes a refusal."""
        self.registered = None
        if self._granted is not None:
            self._withdrawal = Refusal(
                cause=RefusalCause.SUBSCRIBER_DISABLED,
                result=Result.of(ResultCode.DIAMETER_AUTHORIZATION_REJECTED),
                text=f"The HSS ended the registration meanwhile: {why}.",
            )

    def change_profile(self, profile: SubscriberProfile) -> None:
        """PPR: a success that was not told yet is one for this profile, or a refusal."""
        if self._granted is None or self._withdrawal is not None:
            return
        granted = self.emergency or authorise(profile, self.apn, rat_type=self._rat_type)
        if isinstance(granted, Refusal):
            self._withdrawal = granted
        else:
            self._granted = (profile, granted)

    def is_of(self, origin_host: str) -> bool:
        """Whether this gateway began the session; identities compare without case (RFC 6733 §4.3.1)."""
        return origin_host.lower() == self.origin_host.lower()

    def close(self, why: str) -> None:
        """The session ends: STR, or its time is over. A DER that is owed an answer gets 5012."""
        if self._round is not None:
            self._answer(Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY), None)
        self.registered = None
        self._change(None, why)

    def poll_event(self) -> Event | None:
        """The next event, ``None`` when there is none."""
        return self._events.popleft() if self._events else None

    # --- EAP ----------------------------------------------------------------------------------------

    def _ask_identity(self) -> None:
        """EAP-Start: an empty EAP-Payload (RFC 4072 §2.2) is answered by EAP-Request/Identity."""
        request = EapPacket(
            code=EapCode.REQUEST, identifier=self._entropy.octets(1)[0], type=EapType.IDENTITY, data=b""
        )
        self._change(AuthenticationState.IDENTIFYING, "the gateway sent EAP-Start")
        self._request = request.encode()
        self._answer(Result.of(ResultCode.DIAMETER_MULTI_ROUND_AUTH), self._request)

    def _begin(self, packet: EapPacket, der: Der) -> None:
        """A (new) EAP-AKA exchange; one inside a finished session re-authenticates it."""
        self._eap = self._service.server(der.service_selection, self._entropy)
        self._request = None
        self._discards = 0
        self._granted = self._denial = self._withdrawal = None
        self.refusal = None
        self.user_name = packet.data.decode("utf-8", "replace")
        self.apn = der.service_selection
        self.emergency = self._emergency.granted() if self._emergency is not None and is_emergency(der) else None
        self._change(AuthenticationState.IDENTIFYING, "the user named itself")

    def _admit(self, imei: str, identifier: int, now: float) -> None:
        """A UE without a USIM: an emergency session by policy, or none (TS 33.402 §13.3)."""
        self._eap = None
        self.imsi = self.registered = None  # whoever the session was of before
        self.imei = imei
        finding = check_equipment(self._equipment, imei, bound=None)
        refusal = equipment_refusal(finding)
        if self.emergency is None or self._emergency is None or not self._emergency.unauthenticated:
            refusal = not_admitted(imei)
        if refusal is not None:
            self._refuse(refusal, failure(identifier))
            return
        granted = self.emergency
        assert granted is not None
        self.apn = granted.service_selection
        self.authenticated = now
        self._change(AuthenticationState.AUTHENTICATED, "an emergency without authentication")
        text = f"The UE with IMEI {imei} has an emergency session without authentication."
        admitted = AdmittedUnauthenticated(session_id=self.session_id, imei=imei, apn=self.apn, text=text)
        self._events.append(admitted)
        success = Result.of(ResultCode.DIAMETER_SUCCESS)
        self._answer(success, eap_success(identifier), msk=emergency_msk(imei), granted=granted)

    def _pump(self, now: float) -> None:
        """Carry out what the EAP server wants."""
        assert self._eap is not None
        eap = self._eap
        while (event := eap.poll_event()) is not None:
            match event:
                case aka.PacketToSend():
                    self._request = event.packet
                    self._change(AuthenticationState.CHALLENGED, "an EAP request went out")
                    self._answer(Result.of(ResultCode.DIAMETER_MULTI_ROUND_AUTH), event.packet)
                case aka.VectorRequested():
                    self._request_vector(event)
                case aka.ContextRequested():
                    self._request_context(event)
                case aka.Authenticated():
                    self._request_profile(event)
                case aka.Succeeded():
                    self._succeeded(event, now)
                case aka.Failed():
                    self._failed(event)
                case aka.PacketDiscarded():
                    self._discarded(event.why)

    def _discarded(self, why: str) -> None:
        """EAP passes this packet over, but the DER wants an answer (RFC 4072 §2.4).

        The DEA has no EAP-Payload and repeats the outstanding request in EAP-Reissued-Payload. Only a
        modest number of invalid packets is permitted.
        """
        assert self._round is not None
        self._discards += 1
        if self._request is not None and self._discards < INVALID_PACKET_LIMIT:
            self._answer(Result.of(ResultCode.DIAMETER_MULTI_ROUND_AUTH), None, reissued=self._request, error=why)
            return
        identifier = self._round.eap_payload[1] if len(self._round.eap_payload) > 1 else 0
        self._refuse(
            Refusal(
                cause=RefusalCause.AUTHENTICATION_FAILED,
                result=Result.of(ResultCode.DIAMETER_AUTHENTICATION_REJECTED),
                text=f"Authentication failed: {why}.",
            ),
            failure(identifier),
        )

    def _request_vector(self, event: aka.VectorRequested) -> None:
        assert self._round is not None
        der = self._round.der
        self._name(event.identity, event.imsi)
        if event.resynchronisation is not None:
            self._events.append(
                Resynchronised(
                    session_id=self.session_id,
                    imsi=event.imsi,
                    text=f"The USIM of {event.imsi} reported its own sequence number; the HSS follows it.",
                )
            )
        self._change(AuthenticationState.WAITING_FOR_VECTOR, "a vector is asked for")
        request = VectorRequest(
            imsi=event.imsi,
            method=event.method,
            network_name=event.network_name,
            resynchronisation=event.resynchronisation,
            visited_network=der.visited_network_identifier if self.emergency is None else None,
            rat_type=der.rat_type if self.emergency is None else None,
            emergency=self.emergency is not None,
            replaces_failed_server=der.aaa_failure_indication is not None,
        )
        self._events.append(VectorRequested(session_id=self.session_id, request=request))

    def _stop_eap(self, refusal: Refusal, cause: aka.AkaFailure) -> None:
        """End the EAP exchange without a vector: EAP-Failure goes out with ``refusal``.

        A gateway that is sent to another server goes on there with the same packet: none is sent.
        """
        assert self._eap is not None
        self._eap.answer_failure(cause, refusal.text)
        packet: bytes | None = None
        while (event := self._eap.poll_event()) is not None:
            if isinstance(event, aka.Failed):
                packet = event.packet
        self._refuse(refusal, packet if refusal.redirect_host is None else None)

    def _name(self, identity: bytes, imsi: Imsi) -> None:
        """The user has named itself."""
        self.imsi = imsi
        self.user_name = _permanent_identity(identity.decode("utf-8", "replace"), imsi)

    def _request_context(self, event: aka.ContextRequested) -> None:
        self._name(event.identity, event.imsi)
        self._change(AuthenticationState.WAITING_FOR_CONTEXT, "a re-authentication identity came")
        self._events.append(ContextRequested(session_id=self.session_id, imsi=event.imsi, username=event.username))

    def _request_profile(self, event: aka.Authenticated) -> None:
        """RES and MAC are right; what the user may use is asked of the HSS before anybody is told."""
        self._change(AuthenticationState.WAITING_FOR_PROFILE, "RES and AT_MAC are right, the profile is asked for")
        kind = UserDataRequested if self._is_registered(event.imsi) else RegistrationRequested
        self._events.append(kind(session_id=self.session_id, imsi=event.imsi, imei=self.imei))

    def _deny(self, refusal: Refusal, now: float) -> None:
        """The user is who it says and may not come in: told by notification (RFC 4187 §6.2).

        One that another server serves is told nothing: its gateway goes on there.
        """
        assert self._eap is not None
        if refusal.redirect_host is not None:
            self._refuse(refusal, None)
            return
        self._denial = refusal
        self._eap.deny(_NOTIFICATIONS.get(refusal.cause, _GENERAL_FAILURE), refusal.text)
        self._pump(now)

    def _succeeded(self, event: aka.Succeeded, now: float) -> None:
        """What the next fast re-authentication needs is stored before the gateway is told."""
        self._eap = None
        if event.context is None:
            self._grant(event, now)
            return
        self._success = event
        self._change(AuthenticationState.WAITING_FOR_STORAGE, "the re-authentication context is stored")
        self._events.append(ContextIssued(session_id=self.session_id, context=event.context))

    def _failed(self, event: aka.Failed) -> None:
        denial, self._denial = self._denial, None
        if event.cause is aka.AkaFailure.BACKEND:
            failed = backend_refusal(event.why)
        else:
            text = f"Authentication failed: {event.why}."
            rejected = Result.of(ResultCode.DIAMETER_AUTHENTICATION_REJECTED)
            cause = RefusalCause.AUTHENTICATION_FAILED
            failed = Refusal(cause=cause, result=rejected, text=text, facts={"failure": event.cause.value})
        self._refuse(failed if denial is None else denial, event.packet)

    def _grant(self, success: aka.Succeeded, now: float) -> None:
        assert self._granted is not None
        (profile, granted), self._granted = self._granted, None
        if self._withdrawal is not None:
            assert self._round is not None
            self._refuse(self._withdrawal, failure(self._round.eap_payload[1]))
            return
        self.apn = granted.service_selection
        if profile.user_data.session_timeout is not None:
            self.session_timeout = min(self.session_timeout, profile.user_data.session_timeout)
        self.authenticated = now
        self._change(AuthenticationState.AUTHENTICATED, "the APN is subscribed")
        how = " again without a vector" if success.fast else ""
        self._events.append(
            Authenticated(
                session_id=self.session_id,
                imsi=success.imsi,
                apn=self.apn,
                method=success.method,
                fast=success.fast,
                text=f"Subscriber {success.imsi} was authenticated{how} and authorised for APN {self.apn}.",
            )
        )
        self._answer(
            Result.of(ResultCode.DIAMETER_SUCCESS),
            success.packet,
            msk=success.msk,
            profile=profile.user_data,
            granted=granted,
        )

    # --- answers ------------------------------------------------------------------------------------

    def _answer(
        self,
        result: Result,
        packet: bytes | None,
        *,
        msk: Secret | None = None,
        profile: Non3gppUserData | None = None,
        granted: ApnConfiguration | None = None,
        reissued: bytes | None = None,
        error: str | None = None,
        redirect_host: str | None = None,
    ) -> None:
        assert self._round is not None
        finished, self._round = self._round, None
        if packet is not None:
            self._events.append(EapSent(session_id=self.session_id, packet=packet))
        answer = Dea(
            session_id=self.session_id,
            origin_host=self._identity.host,
            origin_realm=self._identity.realm,
            result=result,
            eap_payload=packet,
            master_session_key=msk,
            user_name=self.user_name if granted is not None else None,
            apn_configuration=granted,
            subscription_id=None if profile is None else profile.subscription_id,
            charging_characteristics=None if profile is None else profile.charging_characteristics,
            session_timeout=None if granted is None else self.session_timeout,
            mip6_feature_vector=None if profile is None else self._mobility(profile),
            error_message=error,
        )
        ready = AnswerReady(
            session_id=self.session_id,
            requests=tuple(finished.requests),
            answer=answer,
            reissued=reissued,
            redirect_host=redirect_host,
        )
        self._last = (finished.eap_payload, ready)
        self._events.append(ready)

    def _mobility(self, profile: Non3gppUserData) -> int | None:
        """What the gateway and the subscription both have of GTP on S2b (TS 29.273 §7.1.2.1.2)."""
        allowed = GTPV2_SUPPORTED if profile.mip6_feature_vector is None else profile.mip6_feature_vector
        return None if self._features is None else self._features & allowed & GTPV2_SUPPORTED

    def _answer_out_of_turn(self, request: int) -> None:
        """A second DER while the first is owed an answer breaks EAP's lock step (RFC 3748 §4.1)."""
        answer = Dea(
            session_id=self.session_id,
            origin_host=self._identity.host,
            origin_realm=self._identity.realm,
            result=Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY),
        )
        self._events.append(AnswerReady(session_id=self.session_id, requests=(request,), answer=answer))

    def _refuse(self, refusal: Refusal, packet: bytes | None) -> None:
        self.refusal = refusal
        self.registered = None
        self._eap = None
        self._change(AuthenticationState.REFUSED, refusal.text)
        self._events.append(Refused(session_id=self.session_id, identity=self.user_name, refusal=refusal))
        self._answer(refusal.result, packet, error=refusal.text, redirect_host=refusal.redirect_host)

    def _change(self, new: AuthenticationState | None, why: str) -> None:
        if new is not self.state:
            self._events.append(StateChanged(session_id=self.session_id, old=self.state, new=new, why=why))
            self.state = new

    def _expect(self, state: AuthenticationState) -> None:
        if self.state is not state:
            raise LocalError(f"session {self.session_id} is {self.state}, not {state}")


_GENERAL_FAILURE = NotificationCode.GENERAL_FAILURE_AFTER_AUTHENTICATION
_NOTIFICATIONS = {
    RefusalCause.APN_NOT_SUBSCRIBED: NotificationCode.NOT_SUBSCRIBED,
    RefusalCause.NON_3GPP_NOT_SUBSCRIBED: NotificationCode.NOT_SUBSCRIBED,
    RefusalCause.ROAMING_NOT_ALLOWED: NotificationCode.NOT_SUBSCRIBED,
    RefusalCause.RAT_TYPE_NOT_ALLOWED: NotificationCode.NOT_SUBSCRIBED,
    RefusalCause.SUBSCRIBER_DISABLED: NotificationCode.TEMPORARILY_DENIED,
}
"""What a user is told who is authenticated and refused (RFC 4187 §10.19)."""


def _permanent_identity(identity: str, imsi: Imsi) -> str:
    """The permanent identity as User-Name: the root NAI in the realm the user named (TS 23.003 §19.3.2)."""
    try:
        realm = Nai.parse(identity).home_realm
    except ValueError:
        realm = ""
    return str(Nai(username=f"0{imsi}", realm=realm))
