"""INFORMATIONAL (RFC 7296 §1.4): liveness (§2.4), DELETE of the IKE SA or of child SAs (§1.4.1).

A request may carry several things; each adds its payloads to the one response. MOBIKE's are in ``mobike``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ikev2.events import Refused, SaState
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import DeletePayload, NotifyPayload, Payload
from protocols.ikev2.registry import ExchangeType, NotifyType, ProtocolId
from protocols.ikev2.task import Response
from protocols.ikev2.tasks import child, config, mobike
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


class Liveness:
    """An empty request: the peer's response proves that it lives (§2.4)."""

    exchange = ExchangeType.INFORMATIONAL

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        """Nothing inside."""
        return ()

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """That it came is all."""


class DeleteIkeSa:
    """End the IKE SA and everything under it; ``notifies`` go along (3GPP causes)."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, why: str, notifies: tuple[NotifyPayload, ...] = ()) -> None:
        self._why = why
        self._notifies = notifies

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        """D(IKE)."""
        sa.enter(SaState.DELETING, self._why)
        return (*self._notifies, DeletePayload(protocol=ProtocolId.IKE, spis=()))

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """The peer let go too."""
        sa.close(self._why, now)


class DeleteChildSa:
    """Close one pair of child SAs, by our inbound SPI."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, inbound_spi: bytes) -> None:
        self._spi = inbound_spi

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """D(ESP, our SPI)."""
        if self._spi not in sa.children:
            return None
        return (DeletePayload(protocol=ProtocolId.ESP, spis=(self._spi,)),)

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """The peer's half is gone; drop ours."""
        child.remove(sa, self._spi, "replaced or closed by us")


def process_request(sa: IkeSa, message: Message, path: Path, now: float) -> Response | None:
    """Take everything an INFORMATIONAL request carries, answer all of it at once; ``None``: a question is open."""
    failed = message.notify(NotifyType.AUTHENTICATION_FAILED)
    if failed is not None:
        # §2.21.2: an initiator that cannot verify us says so in an exchange of its own
        why = "the peer does not accept our authentication"
        sa.emit(Refused(text=why, notify=failed))
        return Response(close=why, by_peer=True)
    payloads: list[Payload] = []
    closed: list[bytes] = []
    for delete in message.all(DeletePayload):
        if delete.protocol == ProtocolId.IKE:
            return Response(close="the peer deleted the IKE SA", by_peer=True)
        if delete.protocol == ProtocolId.ESP:
            closed += _delete_children(sa, delete.spis)
    if closed:
        payloads.append(DeletePayload(protocol=ProtocolId.ESP, spis=tuple(closed)))
    payloads += mobike.process_request(sa, message, path, now)
    return config.process_request(sa, message, tuple(payloads))


def _delete_children(sa: IkeSa, spis: tuple[bytes, ...]) -> list[bytes]:
    """Close the pairs whose outbound SPI the peer names; answer with our inbound SPIs (§1.4.1)."""
    ours: list[bytes] = []
    for spi in spis:
        pair = next((c.spec.inbound_spi for c in sa.children.values() if c.spec.outbound_spi == spi), None)
        if pair is not None:
            child.remove(sa, pair, "the peer deleted it")
            ours.append(pair)
    return ours
