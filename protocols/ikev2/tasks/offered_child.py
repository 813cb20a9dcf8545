"""A child SA that the peer asks for is offered to the data plane before it is granted (RFC 7296 §1.2, §1.3, §2.21).

The data plane may have no room for it, not its algorithm, or its SPI already. Who is refused so hears
NO_PROPOSAL_CHOSEN, which "can also be used as \"generic\" Child SA error when Child SA cannot be created for some other
reason" (§3.10.1); the IKE SA stands or is made all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from protocols.errors import LocalError
from protocols.ikev2.events import Answer, ChildSaAnswer, ChildSaOffered
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.registry import NotifyType
from protocols.ikev2.task import Response

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa
    from protocols.ikev2.tasks.child import ChildSa

REFUSED = NotifyPayload(type=NotifyType.NO_PROPOSAL_CHOSEN)

Conclude = Callable[[bool, float], Response]
"""Makes the response, with the child SA or without it."""


class OfferedChildSa:
    """The request waits until the data plane has it, or has refused it."""

    def __init__(self, spi: bytes, conclude: Conclude) -> None:
        self._spi = spi
        self._conclude = conclude

    def answer(self, sa: IkeSa, answer: Answer, now: float) -> Response:
        """Grant it, or forget it and say so."""
        if not isinstance(answer, ChildSaAnswer):
            raise LocalError(f"{type(answer).__name__} does not answer a child SA")
        if not answer.carried:
            sa.children.pop(self._spi, None)
        return self._conclude(answer.carried, now)


def offer(
    sa: IkeSa,
    new: ChildSa,
    conclude: Conclude,
    now: float,
    *,
    replaces: bytes | None = None,
    send_at_once: bool = True,
) -> Response | None:
    """Ask the data plane where there is one to be asked, ``None`` until it has answered; else grant it."""
    if not sa.config.offers_child_sas:
        return conclude(True, now)
    sa.deferred = OfferedChildSa(new.spec.inbound_spi, conclude)
    sa.emit(ChildSaOffered(spec=new.spec, replaces=replaces, send_at_once=send_at_once))
    return None
