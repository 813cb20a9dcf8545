"""REDIRECT (RFC 5685) in all three places: IKE_SA_INIT, IKE_AUTH, and an established IKE SA.

::

    HDR, SAi1, KEi, Ni, N(REDIRECT_SUPPORTED)  -->
                      <--  HDR, N(REDIRECT, New_GW_ID, Ni_data)                 §3: nothing is kept
    HDR, SK {..AUTH..}  -->
                      <--  HDR, SK {[IDr, CERT,] AUTH, N(REDIRECT, New_GW_ID)}  §6: no child SA
                      <--  HDR, SK {N(REDIRECT, New_GW_ID)}                     §5
    HDR, SK {}  -->                                                             then D(IKE)

The machine says ``Redirected``; who owns it connects to the new gateway with the ``RedirectTrail`` that
the event carries, which becomes N(REDIRECTED_FROM) and bounds loops (§7). With the same configuration the
same names and trust anchors count for the new gateway (§3's PAD rule). Left out: Mobile IPv6 (§8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.errors import AuthenticationError, Fact, LocalError, RemoteError
from protocols.ikev2.events import PeerRedirected, Redirected, RedirectIgnored, SaState
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import AuthPayload, NoncePayload, NotifyPayload, Payload
from protocols.ikev2.redirection import (
    Gateway,
    GatewayIdentity,
    RedirectObedience,
    RedirectStage,
    RedirectTrail,
)
from protocols.ikev2.registry import ExchangeType, NotifyType
from protocols.ikev2.tasks import informational
from protocols.ikev2.timing import Timer
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.config import ResponderConfig
    from protocols.ikev2.sa import IkeSa

# --- initiator: announcing and obeying


def announce(sa: IkeSa) -> tuple[NotifyPayload, ...]:
    """N(REDIRECT_SUPPORTED), or N(REDIRECTED_FROM) after a redirect, which says the same (§3, §9.3)."""
    settings = sa.initiator_config
    if settings.redirect is RedirectObedience.NEVER:
        return ()
    sa.redirect_supported = True
    if settings.redirected is not None:
        data = GatewayIdentity(settings.redirected.sender).encode()
        return (NotifyPayload(type=NotifyType.REDIRECTED_FROM, data=data),)
    return (NotifyPayload(type=NotifyType.REDIRECT_SUPPORTED),)


def to_be_discarded(sa: IkeSa, request: Message, response: Message) -> bool:
    """Whether an unprotected response is a REDIRECT not to be obeyed: the SA waits for another one (§3)."""
    notify = response.notify(NotifyType.REDIRECT)
    if notify is None or sa.sealer is not None:
        return False
    try:
        identity = GatewayIdentity.decode(notify.data)
    except RemoteError:
        sa.dropped["redirect-malformed"] += 1
        return True
    nonce = request.first(NoncePayload)
    # §3: MUST verify that the nonce data matches Ni, and MUST silently discard the response otherwise
    if nonce is None or identity.nonce != nonce.data:
        sa.dropped["redirect-forged"] += 1
        return True
    why = None
    if not sa.redirect_supported:
        why = "redirects were not announced"
    elif sa.initiator_config.redirect is not RedirectObedience.ANY:
        why = "it is not authenticated"
    elif identity.gateway is None:
        why = "its identity is of an unknown type"
    if why is None:
        return False
    sa.dropped["redirect-ignored"] += 1
    sa.emit(RedirectIgnored(gateway=identity.gateway, why=why))
    return True


def obey_initial(sa: IkeSa, message: Message, now: float) -> bool:
    """Whether the IKE_SA_INIT response, which ``to_be_discarded`` let pass, sends us away (§3)."""
    notify = message.notify(NotifyType.REDIRECT)
    if notify is None:
        return False
    gateway = GatewayIdentity.decode(notify.data).gateway
    if gateway is not None:
        _follow(sa, gateway, RedirectStage.INIT, now)
        sa.close(f"redirected to {gateway}", now, by_peer=True)
    return gateway is not None


def obey_first(sa: IkeSa, message: Message, now: float) -> bool:
    """Whether the first IKE_AUTH response sends us away; its AUTH has been verified, EAP is left out (§6)."""
    gateway = _wanted(sa, message)
    if gateway is None:
        return False
    if message.first(AuthPayload) is None:
        # §6: "the client MUST verify the gateway's AUTH payload before acting on the REDIRECT payload"
        raise AuthenticationError("redirected by a gateway without AUTH", NotifyType.AUTHENTICATION_FAILED)
    _follow(sa, gateway, RedirectStage.AUTHENTICATION, now)
    sa.close(f"redirected to {gateway}", now, by_peer=True)  # §6: nothing was created, nothing is deleted
    return True


def obey_final(sa: IkeSa, message: Message, now: float) -> bool:
    """Whether the last IKE_AUTH response, whose AUTH has been verified, sends us away (§6)."""
    gateway = _wanted(sa, message)
    if gateway is None:
        return False
    _follow(sa, gateway, RedirectStage.AUTHENTICATION, now)
    sa.initiate(informational.DeleteIkeSa(f"redirected to {gateway}"), now, urgent=True)  # §6: SHOULD
    return True


def process_request(sa: IkeSa, message: Message, now: float) -> None:
    """REDIRECT in an INFORMATIONAL request (§5): the response acknowledges it, the owner decides and deletes."""
    gateway = _wanted(sa, message)
    if gateway is None:
        return
    if sa.state is not SaState.ESTABLISHED:
        return
    trail = _trail(sa, now)
    if trail is None:
        sa.dropped["redirect-loop"] += 1
        sa.emit(RedirectIgnored(gateway=gateway, why=_too_often(sa)))
        return
    sa.emit(Redirected(gateway=gateway, stage=RedirectStage.ESTABLISHED, trail=trail))


def _wanted(sa: IkeSa, message: Message) -> Gateway | None:
    """Where an authenticated message sends this end, when it may (§3, §9.2, §10)."""
    notify = message.notify(NotifyType.REDIRECT)
    if notify is None:
        return None
    identity = GatewayIdentity.decode(notify.data)
    if identity.nonce:
        # §9.2: nonce data MUST NOT be included outside IKE_SA_INIT
        raise RemoteError("nonce data in a protected REDIRECT", NotifyType.INVALID_SYNTAX)
    # §10: only the responder redirects; §3: and only who announced the extension
    why = "redirects were not announced" if sa.first_initiator else "only the responder may redirect"
    if sa.first_initiator and sa.redirect_supported:
        if identity.gateway is not None:
            return identity.gateway
        why = "its identity is of an unknown type"
    sa.dropped["redirect-ignored"] += 1
    sa.emit(RedirectIgnored(gateway=identity.gateway, why=why))
    return None


def _follow(sa: IkeSa, gateway: Gateway, stage: RedirectStage, now: float) -> None:
    trail = _trail(sa, now)
    if trail is None:
        limit = sa.initiator_config.redirect_limit
        facts: dict[str, Fact] = {"gateway": str(gateway), "stage": stage.value, "limit": limit}
        raise RemoteError(_too_often(sa), reason="redirect-loop", facts=facts)
    sa.emit(Redirected(gateway=gateway, stage=stage, trail=trail))


def _trail(sa: IkeSa, now: float) -> RedirectTrail | None:
    """The redirects of late with this one; ``None`` when it is one too many (§7)."""
    settings = sa.initiator_config
    before = () if settings.redirected is None else settings.redirected.moments
    recent = tuple(moment for moment in before if now - moment < settings.redirect_period)
    if len(recent) >= settings.redirect_limit:
        return None
    return RedirectTrail(sa.path.remote.address, (*recent, now))


def _too_often(sa: IkeSa) -> str:
    settings = sa.initiator_config
    return f"redirected more than {settings.redirect_limit} times within {settings.redirect_period:g} s"


# --- responder: noting and redirecting


def note(sa: IkeSa, message: Message) -> None:
    """Keep track of whether the peer may be redirected (§3)."""
    sa.redirect_supported = supported(message)


def supported(message: Message) -> bool:
    """Whether an IKE_SA_INIT request announces the extension (§3); REDIRECTED_FROM does so too."""
    return any(message.notify(kind) for kind in (NotifyType.REDIRECT_SUPPORTED, NotifyType.REDIRECTED_FROM))


def initial_answer(config: ResponderConfig, message: Message, path: Path, sas: int) -> NotifyPayload | None:
    """What answers an IKE_SA_INIT request instead of an SA: N(REDIRECT, New_GW_ID, Ni_data) (§3, §4)."""
    policy, nonce = config.redirect, message.first(NoncePayload)
    if policy is None or nonce is None or not supported(message) or not policy.due(path.local.address, sas):
        return None
    return NotifyPayload(type=NotifyType.REDIRECT, data=GatewayIdentity(policy.gateway, nonce.data).encode())


def tell(sa: IkeSa, gateway: Gateway) -> NotifyPayload:
    """N(REDIRECT) for an IKE_AUTH response (§6); ``LocalError`` when the peer cannot be redirected."""
    payload = _notify(sa, gateway)
    sa.emit(PeerRedirected(gateway=gateway, stage=RedirectStage.AUTHENTICATION))
    return payload


def expect_delete(sa: IkeSa, now: float) -> None:
    """The peer SHOULD delete the SA now; we do it when the time we allow is over (§5, §6)."""
    sa.timers.set(Timer.REDIRECTED, now + sa.responder_config.redirected_lifetime)


def overdue(sa: IkeSa, now: float) -> None:
    """The redirected peer has not left: the gateway MAY delete the SA (§5)."""
    if sa.state is SaState.ESTABLISHED:
        sa.initiate(informational.DeleteIkeSa("the peer was redirected and stayed"), now)


class RedirectPeer:
    """The gateway sends an established peer to another gateway (§5)."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, sa: IkeSa, gateway: Gateway) -> None:
        """``LocalError`` when the peer did not announce the extension or is ours to follow."""
        self._gateway = gateway
        self._payload = _notify(sa, gateway)

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """N(REDIRECT, New_GW_ID); nothing once the SA is being deleted."""
        return (self._payload,) if sa.state is SaState.ESTABLISHED else None

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """Acknowledged: the peer has a while to leave."""
        sa.emit(PeerRedirected(gateway=self._gateway, stage=RedirectStage.ESTABLISHED))
        expect_delete(sa, now)


def _notify(sa: IkeSa, gateway: Gateway) -> NotifyPayload:
    # §3: to a client that did not announce it the responder MUST NOT send REDIRECT, in any scenario
    if sa.first_initiator or not sa.redirect_supported:
        raise LocalError("the peer did not say that it can be redirected (RFC 5685 §3)")
    return NotifyPayload(type=NotifyType.REDIRECT, data=GatewayIdentity(gateway).encode())
