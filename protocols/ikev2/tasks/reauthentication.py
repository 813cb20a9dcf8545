"""Repeated authentication (RFC 4478): AUTH_LIFETIME told, taken, and what happens when it is over.

::

    SK {AUTH}  -->
                      <--  SK {AUTH, CP, SAr2, TSi, TSr, N(AUTH_LIFETIME)}
                      <--  SK {N(AUTH_LIFETIME)}           when the policy changes
    SK {}  -->

Who waited for the first SA tells; the first initiator makes a new IKE SA in time (RFC 7296 §2.8.3), which its
user does on ``ReauthenticationDue``. A rekey passes the limit on to the new SA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ikev2.events import ReauthenticationDue, SaState
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload, Payload
from protocols.ikev2.registry import ExchangeType, NotifyType
from protocols.ikev2.tasks import informational
from protocols.ikev2.timing import Timer
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

LIFETIME_LENGTH = 4
LIFETIME_MAXIMUM = (1 << 32) - 1
EARLY = 0.1  # of the lifetime, and at most so many seconds, the initiator begins before it is over
EARLY_MAXIMUM = 300.0
AGAIN_INTERVAL = 30.0  # an authentication that failed is due again
LATE_INTERVAL = 10.0  # §2: the responder deletes "soon after the end"
REASONABLE_INTERVAL = 60.0  # §2: for a lifetime of zero "the original responder SHOULD allow a reasonable time"


class AuthenticationLifetime:
    """The responder's policy has changed (§2); the peer has ``lifetime`` seconds, 0: it begins at once."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """N(AUTH_LIFETIME)."""
        return None if sa.state is not SaState.ESTABLISHED else (_limit(sa, self._lifetime, now),)

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """That it came is all."""


def announce(sa: IkeSa, now: float) -> tuple[NotifyPayload, ...]:
    """N(AUTH_LIFETIME) for the last IKE_AUTH response, where the configuration limits an authentication."""
    lifetime = sa.responder_config.authentication_lifetime
    return () if lifetime is None else (_limit(sa, lifetime, now),)


def take(sa: IkeSa, message: Message, now: float) -> None:
    """The initiator reads the limit, in IKE_AUTH or later; anybody else's is none of its business."""
    notify = message.notify(NotifyType.AUTH_LIFETIME)
    if notify is None or len(notify.data) != LIFETIME_LENGTH or not sa.first_initiator:
        return
    lifetime = float(int.from_bytes(notify.data, "big"))
    sa.authenticated_until = now + lifetime
    sa.timers.set(Timer.AUTHENTICATION, now + lifetime - min(lifetime * EARLY, EARLY_MAXIMUM))


def due(sa: IkeSa, now: float) -> None:
    """The initiator is to authenticate anew; the responder's patience is over."""
    if sa.state is not SaState.ESTABLISHED:
        return
    if not sa.first_initiator:
        sa.initiate(informational.DeleteIkeSa("the authentication lifetime is over"), now)
        return
    sa.emit(ReauthenticationDue(until=sa.authenticated_until))
    # the responder "SHOULD allow a reasonable time" even where it says zero (§2): one attempt must not be the only
    if now + AGAIN_INTERVAL < sa.authenticated_until + REASONABLE_INTERVAL:
        sa.timers.set(Timer.AUTHENTICATION, now + AGAIN_INTERVAL)


def _limit(sa: IkeSa, lifetime: float, now: float) -> NotifyPayload:
    seconds = min(int(lifetime), LIFETIME_MAXIMUM)
    sa.authenticated_until = now + seconds
    sa.timers.set(Timer.AUTHENTICATION, now + (seconds + LATE_INTERVAL if seconds else REASONABLE_INTERVAL))
    return NotifyPayload(type=NotifyType.AUTH_LIFETIME, data=seconds.to_bytes(LIFETIME_LENGTH, "big"))
