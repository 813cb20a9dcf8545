"""IKE_AUTH with EAP (RFC 7296 §1.2, §2.16; RFC 5998): the exchange that authenticates a UE.

::

    SK {IDi, [CERTREQ,] [IDr,] CP, SAi2, TSi, TSr, N(..)}  -->
                      <--  SK {IDr, [CERT*, AUTH,] EAP}
    SK {EAP}  -->                                             (as often as the method needs)
                      <--  SK {EAP(success)}
    SK {AUTH}  -->
                      <--  SK {AUTH, CP, SAr2, TSi, TSr, N(..)}

Left out here: AUTH without EAP for the original initiator (pre-shared key, certificate).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.errors import AuthenticationError, LocalError, RemoteError
from protocols.ikev2.certificates import verify_auth
from protocols.ikev2.events import (
    Answer,
    ConfigurationReply,
    ConfigurationRequested,
    EapReply,
    EapRequestReceived,
    EapResponseReceived,
    IdentityReceived,
    Refusal,
    SaState,
)
from protocols.ikev2.extension import Step
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import (
    AuthPayload,
    CertPayload,
    CertreqPayload,
    EapPayload,
    IdiPayload,
    IdrPayload,
    NotifyPayload,
    Payload,
)
from protocols.ikev2.registry import AuthMethod, CertEncoding, ExchangeType, NotifyType
from protocols.ikev2.table import Procedure
from protocols.ikev2.task import Response
from protocols.ikev2.tasks import auth, child, config, mobike
from protocols.path import Path
from protocols.secret import Secret

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


class Authentication:
    """The initiator's IKE_AUTH requests, one after the other."""

    exchange = ExchangeType.IKE_AUTH

    def __init__(self) -> None:
        self._next: tuple[Payload, ...] | None = None
        self._identity_r: IdrPayload | None = None
        self._msk: Secret | None = None
        self._answered: Step = Step.IDENTITY_REQUEST
        self._offer: child.Offer | None = None

    # --- requests

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        """The first request, or what the last answer of the EAP peer made ready."""
        if self._next is not None:
            return self._next
        settings = sa.initiator_config
        self._offer = child.Offer.make(sa)
        payloads: list[Payload] = [settings.identity]
        if settings.verifier is not None:
            authorities = settings.verifier.authorities()
            payloads.append(CertreqPayload(encoding=CertEncoding.X509_SIGNATURE, authorities=authorities))
        if settings.responder_identity is not None:
            payloads.append(settings.responder_identity)
        payloads.append(NotifyPayload(type=NotifyType.INITIAL_CONTACT))
        if settings.eap_only:
            payloads.append(NotifyPayload(type=NotifyType.EAP_ONLY_AUTHENTICATION))
        payloads += mobike.announce(sa)
        payloads += config.build_request(sa)
        payloads += self._offer.payloads()
        payloads += sa.extension.payloads(Step.IDENTITY_REQUEST)
        sa.enter(SaState.AUTHENTICATING, "IKE_AUTH request sent")
        return tuple(payloads)

    def answer(self, sa: IkeSa, answer: Answer, now: float) -> None:
        """The EAP peer's reply: the next request carries it, or the AUTH that its MSK makes."""
        if not isinstance(answer, EapReply):
            raise LocalError(f"{type(answer).__name__} does not answer an EAP request")
        if answer.msk is not None:
            self._msk = answer.msk
            payload = AuthPayload(
                method=AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE,
                data=auth.msk_auth(sa, answer.msk, auth.settings_identity(sa), original_initiator=True),
            )
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
        auth.raise_on_error(sa, message)
        if self._answered is Step.FINAL_REQUEST:
            self._finish(sa, message, now)
            return
        if self._answered is Step.IDENTITY_REQUEST:
            sa.extension.take(Step.IDENTITY_RESPONSE, message)
            self._verify_gateway(sa, message)
        else:
            sa.extension.take(Step.EAP_RESPONSE, message)
        eap = message.first(EapPayload)
        if eap is None:
            raise AuthenticationError("the gateway goes on without EAP", NotifyType.AUTHENTICATION_FAILED)
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
            if settings.eap_only:
                return  # RFC 5998 §3: the final AUTH from the MSK authenticates the gateway
            raise AuthenticationError(
                "the gateway did not authenticate itself and EAP-only was not offered",
                NotifyType.AUTHENTICATION_FAILED,
            )
        if settings.verifier is None:
            raise AuthenticationError("no trust anchor to verify the gateway by", NotifyType.AUTHENTICATION_FAILED)
        chain = tuple(cert.data for cert in message.all(CertPayload) if cert.encoding == CertEncoding.X509_SIGNATURE)
        # TS 24.302 §7.2.2.1: IDr is the APN; echoed it names no host, and the configured names must do
        echoed = identity == settings.responder_identity and bool(settings.gateway_names)
        key = settings.verifier.verify(chain, None if echoed else identity, settings.gateway_names)
        verify_auth(key, payload, auth.signed_octets(sa, identity, original_initiator=False))

    def _finish(self, sa: IkeSa, message: Message, now: float) -> None:
        """The gateway's AUTH from the MSK, then what it grants."""
        payload = message.first(AuthPayload)
        if payload is None or self._msk is None or self._identity_r is None or self._offer is None:
            raise AuthenticationError("no final AUTH from the gateway", NotifyType.AUTHENTICATION_FAILED)
        expected = auth.msk_auth(sa, self._msk, self._identity_r, original_initiator=False)
        auth.verify_msk_auth(payload, expected, "gateway")
        sa.extension.take(Step.FINAL_RESPONSE, message)
        sa.mobility.negotiated = sa.config.mobike and mobike.announced(message)
        self._offer.accept(sa, message, now)
        auth.establish(sa, auth.settings_identity(sa), self._identity_r, config.granted(message), now)


class Authenticator:
    """The responder's side of IKE_AUTH: asks for EAP answers and configuration, answers when it has them."""

    def __init__(self, sa: IkeSa, message: Message) -> None:
        identity = message.first(IdiPayload)
        if identity is None:
            raise RemoteError("IKE_AUTH without IDi", NotifyType.INVALID_SYNTAX)
        self._identity = identity
        self._requested = message.first(IdrPayload)
        self._identity_r = self._requested or sa.responder_config.identity
        self._configuration = config.requested(message)
        self._child = child.Request.of(sa, message)
        self._mobike = mobike.announced(message)
        self._initial_contact = message.notify(NotifyType.INITIAL_CONTACT) is not None
        self._eap_only = message.notify(NotifyType.EAP_ONLY_AUTHENTICATION) is not None
        if sa.responder_config.credential is None and not self._eap_only:
            raise AuthenticationError(
                "no certificate, and the peer did not offer EAP-only authentication", NotifyType.AUTHENTICATION_FAILED
            )
        self._msk: Secret | None = None
        self._step = Step.IDENTITY_RESPONSE

    def answer(self, sa: IkeSa, answer: Answer, now: float) -> Response:
        """Complete the response that waits."""
        if isinstance(answer, Refusal):
            auth.report_refusal(sa, answer.text, answer.notify)
            eap = () if answer.eap_packet is None else (EapPayload(packet=answer.eap_packet),)
            return Response(payloads=(*eap, answer.notify), close=answer.text)
        if isinstance(answer, ConfigurationReply):
            return self._build_final(sa, answer, now)
        if not isinstance(answer, EapReply) or answer.packet is None:
            raise LocalError("the gateway needs an EAP packet to pass on")
        self._msk = answer.msk
        payloads: list[Payload] = []
        step, self._step = self._step, Step.EAP_RESPONSE
        if step is Step.IDENTITY_RESPONSE:
            payloads += self._identify(sa)
        payloads.append(EapPayload(packet=answer.packet))
        payloads += sa.extension.payloads(step)
        return Response(payloads=tuple(payloads))

    def process_eap(self, sa: IkeSa, message: Message) -> None:
        """An EAP packet for the AAA server."""
        eap = message.first(EapPayload)
        if eap is None or self._msk is not None:
            raise RemoteError("EAP after it had succeeded", NotifyType.INVALID_SYNTAX)
        sa.extension.take(Step.EAP_REQUEST, message)
        sa.deferred = self
        sa.emit(EapResponseReceived(packet=eap.packet))

    def process_final(self, sa: IkeSa, message: Message) -> None:
        """The UE's AUTH from the MSK (§2.16): nothing is granted before it verifies."""
        payload = message.first(AuthPayload)
        if payload is None or self._msk is None:
            raise AuthenticationError("AUTH before EAP has succeeded", NotifyType.AUTHENTICATION_FAILED)
        auth.verify_msk_auth(payload, auth.msk_auth(sa, self._msk, self._identity, original_initiator=True), "UE")
        sa.extension.take(Step.FINAL_REQUEST, message)
        sa.deferred = self
        sa.emit(
            ConfigurationRequested(
                identity=self._identity,
                responder_identity=self._requested,
                configuration=self._configuration,
                initial_contact=self._initial_contact,
            )
        )

    def _identify(self, sa: IkeSa) -> list[Payload]:
        """IDr, and CERT and AUTH unless the peer offered EAP-only and we agree (RFC 5998 §3)."""
        settings = sa.responder_config
        identity = self._responder_identity()
        if settings.credential is None or (self._eap_only and settings.eap_only):
            return [identity]
        octets = auth.signed_octets(sa, identity, original_initiator=False)
        return [
            identity,
            *settings.credential.cert_payloads(),
            settings.credential.sign(octets, sa.peer_hashes),
        ]

    def _responder_identity(self) -> IdrPayload:
        if self._identity_r is None:
            raise RemoteError("no IDr asked for and none configured", NotifyType.AUTHENTICATION_FAILED)
        return self._identity_r

    def _build_final(self, sa: IkeSa, reply: ConfigurationReply, now: float) -> Response:
        if self._msk is None:
            raise LocalError("configuration before EAP has succeeded")
        identity = self._responder_identity()
        sa.mobility.negotiated = sa.config.mobike and self._mobike
        data = auth.msk_auth(sa, self._msk, identity, original_initiator=False)
        granted = self._child.grant(sa, reply, now)
        payloads: list[Payload] = [
            AuthPayload(method=AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE, data=data),
            *config.build_reply(reply),
            *granted,
            *(mobike.announce(sa) if sa.mobility.negotiated else ()),
            *sa.extension.payloads(Step.FINAL_RESPONSE),
        ]
        auth.establish(sa, self._identity, identity, reply.attributes, now)
        return Response(payloads=tuple(payloads))


def process_request(sa: IkeSa, procedure: Procedure, message: Message, now: float) -> None:
    """An IKE_AUTH request at the responder; each is answered later, when its question is."""
    if procedure is Procedure.IDENTITY:
        if message.first(AuthPayload) is not None:
            raise AuthenticationError("this gateway authenticates UEs by EAP", NotifyType.AUTHENTICATION_FAILED)
        sa.extension.take(Step.IDENTITY_REQUEST, message)
        authenticator = Authenticator(sa, message)
        sa.authenticator = authenticator
        sa.enter(SaState.AUTHENTICATING, "IKE_AUTH request received")
        sa.timers.arm_setup(now, sa.responder_config.setup_lifetime)
        sa.deferred = authenticator
        first = message.first(IdiPayload)
        if first is not None:
            sa.emit(
                IdentityReceived(
                    identity=first,
                    responder_identity=message.first(IdrPayload),
                    configuration=config.requested(message),
                    path=sa.path,
                )
            )
        return
    if sa.authenticator is None:
        raise LocalError("no IKE_AUTH is going on")
    if procedure is Procedure.EAP:
        sa.authenticator.process_eap(sa, message)
    else:
        sa.authenticator.process_final(sa, message)
