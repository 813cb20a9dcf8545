"""Childless IKE SAs (RFC 6023): an IKE_AUTH without SA, TSi and TSr where both ends are configured for it.

::

    HDR, SAi1, KEi, Ni  -->
                      <--  HDR, SAr1, KEr, Nr, N(CHILDLESS_IKEV2_SUPPORTED)
    SK {IDi, .., CP}  -->                                  (EAP as always)
                      <--  SK {AUTH, CP}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.errors import RemoteError
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload, SaPayload, TsiPayload, TsrPayload
from protocols.ikev2.registry import NotifyType, ProtocolId
from protocols.ikev2.tasks import child

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


def announce(sa: IkeSa) -> tuple[NotifyPayload, ...]:
    """N(CHILDLESS_IKEV2_SUPPORTED) of a responder that is configured for it (§3); its protocol is IKE (§4)."""
    sa.childless = sa.responder_config.childless
    if not sa.childless:
        return ()
    return (NotifyPayload(type=NotifyType.CHILDLESS_IKEV2_SUPPORTED, protocol=ProtocolId.IKE),)


def note(sa: IkeSa, message: Message) -> None:
    """§3: the initiator MUST NOT leave the child SA out unless the responder announced that it may."""
    announced = message.notify(NotifyType.CHILDLESS_IKEV2_SUPPORTED) is not None
    sa.childless = sa.initiator_config.childless and announced


def offer(sa: IkeSa) -> child.Offer | None:
    """The child SA that IKE_AUTH asks for, ``None`` when it is left out."""
    return None if sa.childless else child.Offer.make(sa)


def request(sa: IkeSa, message: Message) -> child.Request | None:
    """The child SA that an IKE_AUTH request asks for; only who announced that it may be left out lets it be."""
    whole = any(message.first(kind) is not None for kind in (SaPayload, TsiPayload, TsrPayload))
    if whole:
        return child.Request.of(sa, message)
    if not sa.childless:
        # §3: SHOULD reply with INVALID_SYNTAX
        raise RemoteError("IKE_AUTH without SA, TSi and TSr", NotifyType.INVALID_SYNTAX)
    return None
