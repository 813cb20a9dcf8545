"""Quick crash detection (RFC 6290), maker and taker of tokens; unprotected error Notifies (RFC 7296 §2.21.4).

::

    SK {..., N(QUICK_CRASH_DETECTION), ...}  -->            (IKE_AUTH, INFORMATIONAL: the token of the sender)
        -- the maker loses its state --
    SK {...}  -->
                      <--  HDR, N(INVALID_IKE_SPI), N(QUICK_CRASH_DETECTION)+

The maker keeps nothing but its secrets (§5.1). Left out: tokens with INVALID_SPI after a crash (§8.2),
which need a persistent table of child SPIs; a taker understands them.
"""

from __future__ import annotations

import hmac
from collections import deque
from typing import TYPE_CHECKING, Final

from protocols.ikev2.events import SaState
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.rate import TokenBucket
from protocols.ikev2.registry import ExchangeType, NotifyType, ProtocolId
from protocols.ikev2.tasks import informational
from protocols.path import Path
from protocols.secret import Secret

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

SECRET_LENGTH: Final = 32  # §5.1
SECRETS_MAXIMUM: Final = 4  # §4.5: generations that one message may carry
TOKEN_LENGTH_MINIMUM: Final = 16  # §5
TOKEN_LENGTH_MAXIMUM: Final = 128
TOKENS_KEPT: Final = 4  # §5: "MAY store several earlier tokens"
VERIFICATION_RATE: Final = 1.0  # messages a second whose tokens are looked at (§8.1)
VERIFICATION_BURST: Final = 8
HINT_RATE: Final = 0.1  # probes a second that unprotected Notifies may cause (RFC 7296 §2.21.4)
HINT_BURST: Final = 1


class CrashDetection:
    """What one IKE SA keeps: the peer's tokens, and how often it listens to what anybody may have sent."""

    def __init__(self) -> None:
        self.tokens: deque[Secret] = deque(maxlen=TOKENS_KEPT)
        self.verifications = TokenBucket(VERIFICATION_RATE, VERIFICATION_BURST)
        self.hints = TokenBucket(HINT_RATE, HINT_BURST)

    def take(self, message: Message) -> None:
        """Keep the tokens of a protected message (§4.2–§4.4); those of no legal length are passed over."""
        for notify in message.notifies(NotifyType.QUICK_CRASH_DETECTION):
            token = Secret(notify.data)
            if TOKEN_LENGTH_MINIMUM <= len(notify.data) <= TOKEN_LENGTH_MAXIMUM and token not in self.tokens:
                self.tokens.append(token)

    def verify(self, tokens: tuple[NotifyPayload, ...]) -> bool:
        """Whether one of the first four is one of ours (§4.5)."""
        offered = [Secret(notify.data) for notify in tokens[:SECRETS_MAXIMUM]]
        return any(token == kept for token in offered for kept in self.tokens)


class RenewToken:
    """INFORMATIONAL { N(QUICK_CRASH_DETECTION) }: the token of an SA that this end has rekeyed (§4.3, §4.4)."""

    exchange = ExchangeType.INFORMATIONAL

    def build_request(self, sa: IkeSa, now: float) -> tuple[NotifyPayload, ...] | None:
        """The present token; nothing without a secret."""
        return announce(sa) or None

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """That it came is all."""


def announce(sa: IkeSa) -> tuple[NotifyPayload, ...]:
    """Our token of this SA for a protected message, after AUTH and before CP (§4.2); nothing without a secret."""
    return present(sa.config.crash_secrets[:1], sa.spi_i, sa.spi_r)


def present(secrets: tuple[Secret, ...], spi_i: bytes, spi_r: bytes) -> tuple[NotifyPayload, ...]:
    """The tokens of an SA by every generation of the secret (§4.5, §5.1), the newest first."""
    return tuple(
        NotifyPayload(
            NotifyType.QUICK_CRASH_DETECTION,
            hmac.digest(secret.reveal(), spi_i + spi_r, "sha256"),
            protocol=ProtocolId.IKE,
        )
        for secret in secrets[:SECRETS_MAXIMUM]
    )


def take(sa: IkeSa, message: Message) -> None:
    """The peer's token of this SA; what CREATE_CHILD_SA carries is the new SA's, whose ``crash`` takes it (§4.3)."""
    if message.exchange in (ExchangeType.IKE_AUTH, ExchangeType.INFORMATIONAL):
        sa.crash.take(message)


def unprotected(sa: IkeSa, message: Message, now: float) -> None:
    """Somebody says without protection that the peer does not know this SA.

    With a token of the peer's the SA ends at once, in silence (§3). Without, nothing changes, and the peer
    is probed: it is a hint, taken not too often (RFC 7296 §2.4, §2.21.4).
    """
    if message.notify(NotifyType.INVALID_IKE_SPI) is None and message.notify(NotifyType.INVALID_SPI) is None:
        return
    tokens = message.notifies(NotifyType.QUICK_CRASH_DETECTION)
    if tokens:
        if not sa.crash.verifications.take(now):
            sa.dropped["crash-token-rate"] += 1
            return
        if sa.crash.verify(tokens):
            sa.close("the peer has lost the IKE SA (quick crash detection)", now, by_peer=True)
            return
        sa.dropped["crash-token-wrong"] += 1
    idle = sa.state is SaState.ESTABLISHED and sa.window.outstanding is None
    if idle and sa.crash.hints.take(now):
        sa.initiate(informational.Liveness(), now)
