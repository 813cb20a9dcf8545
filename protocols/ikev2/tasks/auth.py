"""AUTH payloads (RFC 7296 §2.15, §2.16), what establishes an SA, and how a refusal ends one (§2.21)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.errors import AuthenticationError, RemoteError
from protocols.ikev2.events import (
    Established,
    Refused,
    SaState,
)
from protocols.ikev2.keymat import auth_octets, shared_key_auth
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import (
    AuthPayload,
    ConfigurationAttribute,
    EapPayload,
    IdiPayload,
    IdrPayload,
    NotifyPayload,
)
from protocols.ikev2.registry import AuthMethod, NotifyType
from protocols.ikev2.suites import Prf
from protocols.ikev2.tasks import child, config, informational
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
    """The SA is up: both AUTH payloads verified."""
    sa.authenticator = None
    sa.enter(SaState.ESTABLISHED, "both ends are authenticated")
    config.obey(sa, configuration)
    sa.timers.arm_setup(now, None)
    sa.timers.arm_liveness(now)
    sa.timers.arm_keepalive(now, behind_nat=sa.nat.local)
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
    child.announce_installed(sa)


def fail(sa: IkeSa, error: RemoteError, now: float) -> None:
    """A response that breaks a rule ends the SA; a peer that believes it is up is told (§2.21.2)."""
    peer_is_up = sa.state in (SaState.HALF_OPEN, SaState.AUTHENTICATING, SaState.ESTABLISHED) and not isinstance(
        error, PeerRefusal
    )
    notify = error.notify if isinstance(error, PeerRefusal) else None
    sa.emit(Refused(text=str(error), notify=notify, by_peer=isinstance(error, PeerRefusal)))
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


def raise_on_error(sa: IkeSa, message: Message) -> None:
    """Raise ``PeerRefusal`` for the first error Notify (§3.10.1) and for EAP-Failure alone."""
    for notify in message.all(NotifyPayload):
        if notify.type.is_error:
            text = sa.extension.explain(notify) or f"the peer refused: {notify.type.name}"
            raise PeerRefusal(text, notify)
    eap = message.first(EapPayload)
    if eap is not None and eap.packet[:1] == bytes([EAP_FAILURE]):
        raise PeerRefusal("the peer refused: EAP-Failure", NotifyPayload(type=NotifyType.AUTHENTICATION_FAILED))


def report_refusal(sa: IkeSa, text: str, notify: NotifyPayload) -> None:
    """Tell the outside that we refuse the peer."""
    sa.emit(Refused(text=text, notify=notify, by_peer=False))


def settings_identity(sa: IkeSa) -> IdiPayload:
    """The initiator's own IDi."""
    return sa.initiator_config.identity


def signed_octets(sa: IkeSa, identity: IdiPayload | IdrPayload, *, original_initiator: bool) -> bytes:
    """What AUTH of one end covers (§2.15): its first message, the other's nonce, its MACed ID."""
    suite, keys = sa.established_keys()
    prf = Prf.of(suite.prf)
    if original_initiator:
        return auth_octets(sa.init_request, sa.nonce_r, prf, keys.sk_pi, identity.encode())
    return auth_octets(sa.init_response, sa.nonce_i, prf, keys.sk_pr, identity.encode())


def msk_auth(sa: IkeSa, msk: Secret, identity: IdiPayload | IdrPayload, *, original_initiator: bool) -> bytes:
    """AUTH data of one end from the MSK (§2.16)."""
    suite, _ = sa.established_keys()
    octets = signed_octets(sa, identity, original_initiator=original_initiator)
    return shared_key_auth(Prf.of(suite.prf), msk, octets)


def verify_msk_auth(auth: AuthPayload, expected: bytes, who: str) -> None:
    """Compare an AUTH payload with the data it must carry; never skipped."""
    wrong = auth.method != AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE
    if wrong or Secret(auth.data) != Secret(expected):
        raise AuthenticationError(
            f"the AUTH payload of the {who} does not verify with the MSK", NotifyType.AUTHENTICATION_FAILED
        )
