"""SET_WINDOW_SIZE (RFC 7296 §2.3): once an SA is up, or has replaced one, the peer is told how many requests it takes.

::

    SK {N(SET_WINDOW_SIZE)}  -->
                      <--  SK {}

What the peer announces, in IKE_AUTH or later, is read by ``IkeSa`` from every protected message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload, Payload
from protocols.ikev2.registry import ExchangeType, NotifyType
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


class SetWindowSize:
    """Announce the configured window; from then on that many requests are taken, in any order."""

    exchange = ExchangeType.INFORMATIONAL

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        """N(SET_WINDOW_SIZE): the peer may use it as soon as it has this request."""
        sa.window.size = sa.config.window_size
        return (NotifyPayload(type=NotifyType.SET_WINDOW_SIZE, data=sa.window.size.to_bytes(4, "big")),)

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """That it came is all."""


def announce(sa: IkeSa) -> None:
    """Tell the peer, unless the window is what it is anyway."""
    if sa.config.window_size > 1:
        sa.enqueue(SetWindowSize())
