"""The responder's half of IKE_AUTH (RFC 7296 §1.2, §2.15, §2.16; RFC 5998 §3; RFC 5685 §6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.errors import AuthenticationError, LocalError, RemoteError
from protocols.ikev2.certificates import Requested
from protocols.ikev2.events import (
    Answer,
    AuthenticationKind,
    ConfigurationReply,
    ConfigurationRequested,
    EapReply,
    EapResponseReceived,
    IdentityReceived,
    RedirectReply,
    Refusal,
    SaState,
)
from protocols.ikev2.extension import Step
from protocols.ikev2.identity import identity_text
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import (
    AuthPayload,
    EapPayload,
    IdiPayload,
    IdrPayload,
    Payload,
)
from protocols.ikev2.registry import NotifyType
from protocols.ikev2.signatures import refused
from protocols.ikev2.table import Procedure
from protocols.ikev2.task import Response
from protocols.ikev2.tasks import (
    auth,
    childless,
    conclusion,
    config,
    eap_rounds,
    mobike,
    redirect,
    tickets,
)
from protocols.secret import Secret

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


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
        self._child = childless.request(sa, message)
        tickets.note(sa, message)
        self._mobike = mobike.announced(message)
        mobike.take_announcement(sa, message)
        self._initial_contact = message.notify(NotifyType.INITIAL_CONTACT) is not None
        self._eap_only = message.notify(NotifyType.EAP_ONLY_AUTHENTICATION) is not None
        self._certificates = Requested.of(message)
        self._msk: Secret | None = None
        self._rounds = eap_rounds.Rounds()
        self._step = Step.IDENTITY_RESPONSE
        self._kind = self._authenticate(sa, message)

    def _authenticate(self, sa: IkeSa, message: Message) -> AuthenticationKind:
        """How the UE proves itself; without EAP it has done so by now, or there is no authenticator."""
        settings = sa.responder_config
        payload = message.first(AuthPayload)
        kind = AuthenticationKind.EAP if payload is None else auth.kind_of(payload)
        if kind not in settings.authentications:
            allowed = ", ".join(sorted(each.value for each in settings.authentications))
            raise refused(f"the UE authenticates by {kind.value}, this gateway allows {allowed}")
        if payload is None:
            if not settings.credentials and not self._eap_only:
                raise refused("no certificate, and the peer did not offer EAP-only authentication")
        elif kind is AuthenticationKind.PSK:
            auth.verify_key(sa, payload, self._shared_key(sa), self._identity, "pre-shared key")
        else:
            own = self._identity
            auth.verify_certificate(sa, message, payload, settings.verifier, own, carried=own)
        return kind

    def ask(self, sa: IkeSa) -> None:
        """Tell who the UE is and ask what comes next: the first EAP packet or, without EAP, its configuration."""
        sa.deferred = self
        sa.emit(
            IdentityReceived(
                identity=self._identity,
                responder_identity=self._requested,
                configuration=self._configuration,
                path=sa.path,
                authentication=self._kind,
                redirectable=sa.redirect_supported,
            )
        )
        if self._kind is not AuthenticationKind.EAP:
            self._ask_configuration(sa)

    def answer(self, sa: IkeSa, answer: Answer, now: float) -> Response | None:
        """Complete the response that waits."""
        if isinstance(answer, Refusal):
            auth.report_refusal(sa, answer.text, answer.notify, answer.reason, answer.facts)
            eap = () if answer.eap_packet is None else (EapPayload(packet=answer.eap_packet),)
            return Response(payloads=(*eap, answer.notify, *answer.beside), close=answer.text)
        if isinstance(answer, ConfigurationReply):
            return self._build_final(sa, answer, now)
        if isinstance(answer, RedirectReply):
            return self._redirect(sa, answer, now)
        if not isinstance(answer, EapReply) or answer.packet is None:
            raise LocalError("the gateway needs an EAP packet to pass on")
        if self._kind is not AuthenticationKind.EAP:
            raise LocalError("an EAP packet for a UE that does not use EAP")
        self._msk = answer.msk
        self._rounds.asked(answer.packet)
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
        if message.first(AuthPayload) is not None:
            raise RemoteError("EAP and AUTH in one request", NotifyType.INVALID_SYNTAX)
        self._rounds.response(eap.packet)
        sa.extension.take(Step.EAP_REQUEST, message)
        sa.deferred = self
        sa.emit(EapResponseReceived(packet=eap.packet))

    def process_final(self, sa: IkeSa, message: Message) -> None:
        """The UE's AUTH from the MSK (§2.16): nothing is granted before it verifies."""
        payload = message.first(AuthPayload)
        if payload is None or self._msk is None:
            raise AuthenticationError("AUTH before EAP has succeeded", NotifyType.AUTHENTICATION_FAILED)
        auth.verify_key(sa, payload, self._msk, self._identity, "MSK")
        sa.extension.take(Step.FINAL_REQUEST, message)
        sa.deferred = self
        self._ask_configuration(sa)

    def _ask_configuration(self, sa: IkeSa) -> None:
        sa.emit(
            ConfigurationRequested(
                identity=self._identity,
                responder_identity=self._requested,
                configuration=self._configuration,
                initial_contact=self._initial_contact,
                redirectable=sa.redirect_supported,
            )
        )

    def _identify(self, sa: IkeSa) -> list[Payload]:
        """IDr, and CERT and AUTH unless the peer offered EAP-only and we agree (RFC 5998 §3)."""
        settings = sa.responder_config
        identity = self._responder_identity()
        if not settings.credentials or (self._eap_only and settings.eap_only):
            return [identity]
        return [identity, *self._prove_by_certificate(sa, identity)]

    def _prove_by_certificate(self, sa: IkeSa, identity: IdrPayload) -> list[Payload]:
        certificates, proof = auth.prove_by_certificate(
            sa, sa.responder_config.credentials, identity, self._certificates, self._requested
        )
        return [*certificates, proof]

    def _prove(self, sa: IkeSa, identity: IdrPayload) -> list[Payload]:
        """The last response's AUTH: from the MSK, or with IDr in the only response there is."""
        if self._kind is AuthenticationKind.EAP:
            if self._msk is None:
                raise LocalError("configuration before EAP has succeeded")
            return [auth.prove_by_key(sa, self._msk, identity)]
        if (sa.responder_config.own_authentication or self._kind) is AuthenticationKind.PSK:
            return [identity, auth.prove_by_key(sa, self._shared_key(sa), identity)]
        return [identity, *self._prove_by_certificate(sa, identity)]

    def _shared_key(self, sa: IkeSa) -> Secret:
        name = identity_text(self._identity)
        key = sa.responder_config.shared_keys.get(name)
        if key is None:
            raise refused(f"there is no pre-shared key for {name}")
        return key

    def _redirect(self, sa: IkeSa, reply: RedirectReply, now: float) -> Response:
        """N(REDIRECT) in the first or the last response, with AUTH and without a child SA (RFC 5685 §6)."""
        why = f"redirected to {reply.gateway}"
        identity = self._responder_identity()
        if self._step is Step.IDENTITY_RESPONSE and self._kind is AuthenticationKind.EAP:
            proof = self._prove_by_certificate(sa, identity)
            return Response(payloads=(identity, *proof, redirect.tell(sa, reply.gateway)), close=why)
        proof = self._prove(sa, identity)
        notify = redirect.tell(sa, reply.gateway)
        sa.authenticator = None
        sa.enter(SaState.ESTABLISHED, why)
        sa.timers.arm_setup(now, None)
        redirect.expect_delete(sa, now)
        return Response(payloads=(*proof, notify))

    def _responder_identity(self) -> IdrPayload:
        if self._identity_r is None:
            raise RemoteError("no IDr asked for and none configured", NotifyType.AUTHENTICATION_FAILED)
        return self._identity_r

    def _build_final(self, sa: IkeSa, reply: ConfigurationReply, now: float) -> Response | None:
        identity = self._responder_identity()
        proof = tuple(self._prove(sa, identity))
        sa.mobility.negotiated = sa.config.mobike and self._mobike
        return conclusion.grant(sa, self._child, reply, self._identity, identity, proof, now)


def process_request(sa: IkeSa, procedure: Procedure, message: Message, now: float) -> None:
    """An IKE_AUTH request at the responder; each is answered later, when its question is."""
    if procedure is Procedure.IDENTITY:
        if message.first(EapPayload) is not None:
            raise RemoteError("EAP before the gateway has asked", NotifyType.INVALID_SYNTAX)
        authenticator = Authenticator(sa, message)
        sa.extension.take(Step.IDENTITY_REQUEST, message)
        sa.authenticator = authenticator
        sa.enter(SaState.AUTHENTICATING, "IKE_AUTH request received")
        sa.timers.arm_setup(now, sa.responder_config.setup_lifetime)
        authenticator.ask(sa)
        return
    if sa.authenticator is None:
        raise LocalError("no IKE_AUTH is going on")
    if procedure is Procedure.EAP:
        sa.authenticator.process_eap(sa, message)
    else:
        sa.authenticator.process_final(sa, message)
