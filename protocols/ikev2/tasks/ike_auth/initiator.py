"""The initiator's half of IKE_AUTH (RFC 7296 §1.2, §2.15, §2.16; RFC 5998 §3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.errors import AuthenticationError, LocalError, RemoteError
from protocols.ikev2.certificates import Requested
from protocols.ikev2.events import (
    Answer,
    AuthenticationKind,
    EapReply,
    EapRequestReceived,
    SaState,
)
from protocols.ikev2.extension import Step
from protocols.ikev2.habits import ResponderCheck, arranged
from protocols.ikev2.identity import identity_text
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import (
    AuthPayload,
    EapPayload,
    IdrPayload,
    NotifyPayload,
    Payload,
)
from protocols.ikev2.registry import ExchangeType, NotifyType
from protocols.ikev2.signatures import refused
from protocols.ikev2.tasks import (
    auth,
    child,
    childless,
    conclusion,
    config,
    crash_detection,
    eap_rounds,
    mobike,
    redirect,
    tickets,
)
from protocols.path import Path
from protocols.secret import Secret

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


class Authentication:
    """The initiator's IKE_AUTH requests, one after the other."""

    exchange = ExchangeType.IKE_AUTH

    def __init__(self, requested: Requested | None = None) -> None:
        """``requested``: what CERTREQ in the response to IKE_SA_INIT asks for."""
        self._requested = requested or Requested()
        self._next: tuple[Payload, ...] | None = None
        self._identity_r: IdrPayload | None = None
        self._msk: Secret | None = None
        self._rounds = eap_rounds.Rounds()
        self._gateway_authenticated = False
        self._answered: Step = Step.IDENTITY_REQUEST
        self._offer: child.Offer | None = None

    # --- requests

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        """The first request, or what the last answer of the EAP peer made ready."""
        if self._next is not None:
            return self._next
        settings = sa.initiator_config
        self._offer = childless.offer(sa)
        certificates, proof = self._prove(sa)
        payloads: list[Payload] = [settings.identity, *certificates]
        if settings.verifier is not None and settings.habits.certificate_requests:
            payloads += settings.verifier.requests()
        if settings.responder_identity is not None:
            payloads.append(settings.responder_identity)
        payloads += proof
        if settings.initial_contact:
            payloads.append(NotifyPayload(type=NotifyType.INITIAL_CONTACT))
        payloads += crash_detection.announce(sa)
        if settings.eap_only and settings.authentication is AuthenticationKind.EAP:
            payloads.append(NotifyPayload(type=NotifyType.EAP_ONLY_AUTHENTICATION))
        payloads += tickets.ask(sa)
        payloads += mobike.announce(sa)
        payloads += config.build_request(sa)
        payloads += () if self._offer is None else self._offer.payloads()
        payloads += sa.extension.payloads(Step.IDENTITY_REQUEST)
        sa.enter(SaState.AUTHENTICATING, "IKE_AUTH request sent")
        return arranged(payloads, settings.habits.auth_order)

    def _prove(self, sa: IkeSa) -> tuple[tuple[Payload, ...], tuple[AuthPayload, ...]]:
        """CERT payloads and AUTH; neither with EAP, which is asked for by leaving AUTH out (§2.16)."""
        settings = sa.initiator_config
        if settings.authentication is AuthenticationKind.PSK and settings.psk is not None:
            return (), (auth.prove_by_key(sa, settings.psk, settings.identity),)
        if settings.authentication is AuthenticationKind.CERTIFICATE:
            own = settings.identity
            certificates, proof = auth.prove_by_certificate(sa, settings.credentials, own, self._requested, own)
            return certificates, (proof,)
        return (), ()

    def answer(self, sa: IkeSa, answer: Answer, now: float) -> None:
        """The EAP peer's reply: the next request carries it, or the AUTH that its MSK makes."""
        if not isinstance(answer, EapReply):
            raise LocalError(f"{type(answer).__name__} does not answer an EAP request")
        if answer.msk is not None:
            self._msk = answer.msk
            payload = auth.prove_by_key(sa, answer.msk, sa.initiator_config.identity)
            self._next = (payload, *sa.extension.payloads(Step.FINAL_REQUEST))
            self._answered = Step.FINAL_REQUEST
        elif answer.packet is not None:
            self._next = (EapPayload(packet=answer.packet), *sa.extension.payloads(Step.EAP_REQUEST))
            self._answered = Step.EAP_REQUEST
        else:
            raise LocalError("an EAP reply needs a packet or an MSK")
        sa.initiate(self, now, urgent=True)

    # --- responses

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """Every response: refusals first, then what the step is about."""
        final = self._answered is Step.FINAL_REQUEST or (
            sa.initiator_config.authentication is not AuthenticationKind.EAP
        )
        auth.raise_on_error(sa, message, but=child.refused(message) if final else None)
        if self._answered is Step.FINAL_REQUEST:
            if sa.habits.early_notifies:
                sa.extension.take(Step.FINAL_RESPONSE if child.refused(message) is None else Step.REFUSAL, message)
            self._verify_msk(sa, message)
            self._finish(sa, message, now)
            return
        if self._answered is Step.IDENTITY_REQUEST:
            self._verify_gateway(sa, message)
            if sa.initiator_config.authentication is not AuthenticationKind.EAP:
                if message.first(EapPayload) is not None:
                    raise RemoteError("EAP, which this UE did not ask for", NotifyType.INVALID_SYNTAX)
                self._finish(sa, message, now)
                return
            if redirect.obey_first(sa, message, now):
                return
            sa.extension.take(Step.IDENTITY_RESPONSE, message)
        else:
            sa.extension.take(Step.EAP_RESPONSE, message)
        eap = message.first(EapPayload)
        if eap is None:
            raise AuthenticationError("the gateway goes on without EAP", NotifyType.AUTHENTICATION_FAILED)
        self._rounds.request(eap.packet, gateway_authenticated=self._gateway_authenticated)
        sa.deferred = self
        sa.emit(EapRequestReceived(packet=eap.packet))

    def _verify_gateway(self, sa: IkeSa, message: Message) -> None:
        """The gateway's certificate and AUTH, which only EAP-only authentication may leave out."""
        settings = sa.initiator_config
        identity = message.first(IdrPayload)
        if identity is None:
            raise AuthenticationError("the gateway sent no IDr", NotifyType.AUTHENTICATION_FAILED)
        self._identity_r = identity
        payload = message.first(AuthPayload)
        if payload is None:
            if settings.eap_only and settings.authentication is AuthenticationKind.EAP:
                return  # RFC 5998 §3: the final AUTH from the MSK authenticates the gateway
            raise refused("the gateway did not authenticate itself and EAP-only was not offered")
        if auth.kind_of(payload) is AuthenticationKind.PSK:
            self._verify_shared_key(sa, payload, identity)
        else:
            # TS 24.302 §7.2.2.1: IDr is the APN; echoed it names no host, and the configured names must do
            check = settings.habits.responder_check
            echoed = identity == settings.responder_identity and bool(settings.gateway_names)
            passed_over = check is ResponderCheck.NEVER or (echoed and check is ResponderCheck.UNLESS_ECHOED)
            carried = None if passed_over else identity
            names = settings.gateway_names
            auth.verify_certificate(sa, message, payload, settings.verifier, identity, carried=carried, names=names)
        self._gateway_authenticated = True

    def _verify_shared_key(self, sa: IkeSa, payload: AuthPayload, identity: IdrPayload) -> None:
        """A gateway that proves itself by the key of both: it has to be whom we asked for."""
        settings = sa.initiator_config
        if settings.authentication is AuthenticationKind.EAP:
            # §2.16: with EAP the responder MUST use a signature
            raise refused("the gateway proves itself by a shared key, which EAP does not allow")
        if settings.psk is None:
            raise refused("the gateway proves itself by a pre-shared key, and none is configured")
        name = identity_text(identity)
        anybody = settings.responder_identity is None and not settings.gateway_names
        if not (anybody or identity == settings.responder_identity or name in settings.gateway_names):
            raise refused(f"the gateway says that it is {name}, which was not asked for")
        auth.verify_key(sa, payload, settings.psk, identity, "pre-shared key")

    def _verify_msk(self, sa: IkeSa, message: Message) -> None:
        """The gateway's AUTH from the MSK (§2.16)."""
        payload = message.first(AuthPayload)
        if payload is None or self._msk is None or self._identity_r is None:
            raise AuthenticationError("no final AUTH from the gateway", NotifyType.AUTHENTICATION_FAILED)
        auth.verify_key(sa, payload, self._msk, self._identity_r, "MSK")

    def _finish(self, sa: IkeSa, message: Message, now: float) -> None:
        """What the gateway grants, in the one response that is the last."""
        if self._identity_r is None:
            raise LocalError("an IKE_AUTH response before the request")
        conclusion.take(sa, message, self._offer, sa.initiator_config.identity, self._identity_r, now)
