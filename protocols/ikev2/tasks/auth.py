"""AUTH payloads (RFC 7296 §2.15, §2.16), what establishes an SA, and how a refusal ends one (§2.21)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from protocols.errors import AuthenticationError, Fact, RemoteError
from protocols.ikev2.certificates import CertificateVerifier, Credential, Identity, Requested, choose, evidence_in
from protocols.ikev2.events import (
    AuthenticationKind,
    Established,
    Refused,
    SaState,
)
from protocols.ikev2.extension import Step
from protocols.ikev2.keymat import auth_octets, shared_key_auth
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import (
    AuthPayload,
    CertPayload,
    CertreqPayload,
    ConfigurationAttribute,
    EapPayload,
    IdiPayload,
    IdrPayload,
    NotifyPayload,
)
from protocols.ikev2.registry import AuthMethod, ExchangeType, NotifyType
from protocols.ikev2.signatures import refused, verify_auth
from protocols.ikev2.suites import Prf
from protocols.ikev2.tasks import child, config, informational, lifetime, set_window_size
from protocols.secret import Secret

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

EAP_FAILURE = 4  # RFC 3748 §4.2


def establish(
    sa: IkeSa,
    identity: IdiPayload,
    identity_r: IdrPayload | None,
    configuration: tuple[ConfigurationAttribute, ...],
    now: float,
) -> None:
    """The SA is up: both AUTH payloads verified.

    Its child SA is told of first: who is told ``Established`` knows whether the data plane has taken it.
    """
    sa.authenticator = None
    sa.enter(SaState.ESTABLISHED, "both ends are authenticated")
    config.obey(sa, configuration)
    sa.timers.arm_setup(now, None)
    sa.timers.arm_liveness(now)
    lifetime.arm_ike(sa, now)
    sa.timers.arm_keepalive(now, behind_nat=sa.nat.local)
    child.announce_installed(sa)
    sa.emit(
        Established(
            identity=identity,
            responder_identity=identity_r,
            configuration=configuration,
            mobike=sa.mobility.negotiated,
            nat=sa.nat,
            path=sa.path,
            requests=sa.window.requests_sent,
        )
    )
    set_window_size.announce(sa)


def fail(sa: IkeSa, error: RemoteError, now: float) -> None:
    """A response that breaks a rule ends the SA; a peer that believes it is up is told (§2.21.2)."""
    up = (SaState.INTERMEDIATE, SaState.HALF_OPEN, SaState.AUTHENTICATING, SaState.ESTABLISHED)
    peer_is_up = sa.state in up and not isinstance(error, PeerRefusal)
    notify = error.notify if isinstance(error, PeerRefusal) else None
    by_peer = isinstance(error, PeerRefusal)
    sa.emit(Refused(text=str(error), notify=notify, by_peer=by_peer, reason=error.reason, facts=error.facts))
    if peer_is_up and sa.sealer is not None:
        complaint: tuple[NotifyPayload, ...] = ()
        if isinstance(error, AuthenticationError):
            complaint = (NotifyPayload(type=NotifyType.AUTHENTICATION_FAILED),)  # §2.21.2
        sa.initiate(informational.DeleteIkeSa(str(error), complaint), now, urgent=True)
    else:
        sa.close(str(error), now, by_peer=isinstance(error, PeerRefusal))


class PeerRefusal(RemoteError):
    """The peer answered with an error Notify."""

    def __init__(self, text: str, notify: NotifyPayload) -> None:
        super().__init__(text)
        self.notify = notify


def close_without_child(sa: IkeSa, refused: NotifyPayload, now: float) -> None:
    """The peer is authentic and refuses the child SA alone: "the IKE SA is established", and of no use (§2.21.2)."""
    sa.authenticator = None
    sa.enter(SaState.ESTABLISHED, "both ends are authenticated; there is no child SA")
    sa.timers.arm_setup(now, None)
    text = sa.extension.explain(refused) or f"the peer refused the child SA: {refused.type.name}"
    sa.emit(Refused(text=text, notify=refused))
    sa.initiate(informational.DeleteIkeSa(text), now, urgent=True)


def raise_on_error(sa: IkeSa, message: Message, *, but: NotifyPayload | None = None) -> None:
    """Raise ``PeerRefusal`` for the first error Notify (§3.10.1) ``but`` this, and for EAP-Failure alone."""
    for notify in message.all(NotifyPayload):
        if notify.type.is_error and notify is not but:
            text = sa.extension.explain(notify) or f"the peer refused: {notify.type.name}"
            if message.exchange == ExchangeType.IKE_AUTH:  # what is not protected may be anybody's
                sa.extension.take(Step.REFUSAL, message)
            raise PeerRefusal(text, notify)
    eap = message.first(EapPayload)
    if eap is not None and eap.packet[:1] == bytes([EAP_FAILURE]):
        raise PeerRefusal("the peer refused: EAP-Failure", NotifyPayload(type=NotifyType.AUTHENTICATION_FAILED))


def report_refusal(
    sa: IkeSa, text: str, notify: NotifyPayload, reason: str = "", facts: Mapping[str, Fact] | None = None
) -> None:
    """Tell the outside that we refuse the peer."""
    sa.emit(Refused(text=text, notify=notify, by_peer=False, reason=reason, facts=facts or {}))


def signed_octets(sa: IkeSa, identity: Identity, *, original_initiator: bool) -> bytes:
    """What AUTH of one end covers (§2.15): its first message, the other's nonce, its MACed ID, IntAuth (RFC 9242)."""
    suite, keys = sa.established_keys()
    prf = Prf.of(suite.prf)
    if original_initiator:
        octets = auth_octets(sa.init_request, sa.nonce_r, prf, keys.sk_pi, identity.encode())
    else:
        octets = auth_octets(sa.init_response, sa.nonce_i, prf, keys.sk_pr, identity.encode())
    return octets + sa.intermediate.int_auth()


def certificate_requests(sa: IkeSa) -> tuple[CertreqPayload, ...]:
    """CERTREQ of a gateway that takes certificates from UEs (§1.2, §3.7)."""
    settings = sa.responder_config
    if AuthenticationKind.CERTIFICATE not in settings.authentications or settings.verifier is None:
        return ()
    return settings.verifier.requests()


def prove_by_key(sa: IkeSa, secret: Secret, identity: Identity) -> AuthPayload:
    """Our AUTH from a pre-shared key or the MSK (§2.15, §2.16)."""
    return AuthPayload(
        method=AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE,
        data=_keyed(sa, secret, identity, original_initiator=sa.original_initiator),
    )


def prove_by_certificate(
    sa: IkeSa,
    credentials: tuple[Credential, ...],
    identity: Identity,
    requested: Requested,
    wanted: Identity | None,
) -> tuple[tuple[CertPayload, ...], AuthPayload]:
    """Our CERT payloads and AUTH; CERTREQ, what the peer can verify and whom it wants choose the credential."""
    credential = choose(credentials, requested, sa.peer_hashes, wanted)
    octets = signed_octets(sa, identity, original_initiator=sa.original_initiator)
    stapled = credential.ocsp_payloads() if requested.ocsp else ()
    return (*credential.cert_payloads(), *stapled), credential.sign(octets, sa.peer_hashes)


def kind_of(payload: AuthPayload) -> AuthenticationKind:
    """How the sender of an AUTH payload proves itself (§3.8)."""
    if payload.method == AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE:
        return AuthenticationKind.PSK
    return AuthenticationKind.CERTIFICATE


def verify_key(sa: IkeSa, payload: AuthPayload, secret: Secret, identity: Identity, what: str) -> None:
    """The peer's AUTH from a shared key, compared in constant time; never skipped."""
    expected = _keyed(sa, secret, identity, original_initiator=not sa.original_initiator)
    wrong = payload.method != AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE
    if wrong or Secret(payload.data) != Secret(expected):
        raise refused(
            f"the AUTH payload of the {_peer(sa)} does not verify with the {what}",
            "auth-wrong",
            {"of": _peer(sa), "key": what},
        )


def verify_certificate(
    sa: IkeSa,
    message: Message,
    payload: AuthPayload,
    verifier: CertificateVerifier | None,
    identity: Identity,
    *,
    carried: Identity | None,
    names: tuple[str, ...] = (),
) -> None:
    """The peer's certificate for ``carried`` and ``names``, then its signature over ``identity`` and the rest."""
    if verifier is None:
        raise refused(f"no trust anchor to verify the {_peer(sa)} by")
    chain, evidence = evidence_in(message)
    key = verifier.verify(chain, carried, names, evidence=evidence, client=not sa.original_initiator)
    verify_auth(key, payload, signed_octets(sa, identity, original_initiator=not sa.original_initiator))


def _keyed(sa: IkeSa, secret: Secret, identity: Identity, *, original_initiator: bool) -> bytes:
    suite, _ = sa.established_keys()
    octets = signed_octets(sa, identity, original_initiator=original_initiator)
    return shared_key_auth(Prf.of(suite.prf), secret, octets)


def _peer(sa: IkeSa) -> str:
    return "gateway" if sa.original_initiator else "UE"
