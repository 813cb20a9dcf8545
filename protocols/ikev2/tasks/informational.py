"""INFORMATIONAL (RFC 7296 §1.4): liveness (§2.4), DELETE of the IKE SA or of child SAs (§1.4.1).

A request may carry several things; each adds its payloads to the one response. MOBIKE's are in ``mobike``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ikev2.events import LivenessAnswered, Refused, SaState
from protocols.ikev2.extension import Step
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import DeletePayload, NotifyPayload, Payload
from protocols.ikev2.registry import ExchangeType, NotifyType, ProtocolId
from protocols.ikev2.task import Concurrent, Response
from protocols.ikev2.tasks import child, child_exchange, config, mobike, reauthentication, rekey_ike, tickets
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


class Liveness(Concurrent):
    """The peer's response proves that it lives (§2.4); with NAT detection where MOBIKE wants it (RFC 4555 §3.8).

    ``suspicious``: a NAT may have come in between since the last update, and is looked for too. ``asked``: somebody
    wants to know, and is told by ``LivenessAnswered``.
    """

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, *, suspicious: bool = False, asked: bool = False) -> None:
        self._suspicious = suspicious
        self._asked = asked

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        """Nothing inside, or how we see the path."""
        return mobike.mapping_probe(sa, suspicious=self._suspicious)

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """That it came is all, unless it says that a NAT on the way has changed."""
        if self._asked:
            sa.emit(LivenessAnswered(path=path))
        mobike.compare_mapping(sa, message, now)


class DeleteIkeSa:
    """End the IKE SA and everything under it; ``notifies`` go along (3GPP causes)."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, why: str, notifies: tuple[NotifyPayload, ...] = ()) -> None:
        self._why = why
        self._notifies = notifies

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        """D(IKE)."""
        sa.enter(SaState.DELETING, self._why)
        tickets.revoke(sa)
        return (*self._notifies, DeletePayload(protocol=ProtocolId.IKE, spis=()))

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """The peer let go too."""
        sa.close(self._why, now)


class DeleteChildSa(Concurrent):
    """Close one pair of child SAs, by our inbound SPI; ``installed``: nothing to do when we do not have it."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, inbound_spi: bytes, *, installed: bool = True) -> None:
        self._spi = inbound_spi
        self._installed = installed

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """D(ESP, our SPI); nothing when it is gone or its DELETE is on the way."""
        closing = sa.children.get(self._spi)
        if closing is None:
            if self._installed:
                return None
        elif closing.closing:
            return None
        else:
            closing.closing = True
        return (DeletePayload(protocol=ProtocolId.ESP, spis=(self._spi,)),)

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """The peer's half is gone; drop ours."""
        child.remove(sa, self._spi, "replaced or closed by us", now)


def process_request(sa: IkeSa, message: Message, path: Path, now: float) -> Response | None:
    """Take everything an INFORMATIONAL request carries, answer all of it at once; ``None``: a question is open."""
    failed = message.notify(NotifyType.AUTHENTICATION_FAILED)
    if failed is not None:
        # §2.21.2: an initiator that cannot verify us says so in an exchange of its own
        why = "the peer does not accept our authentication"
        sa.emit(Refused(text=why, notify=failed))
        return Response(close=why, by_peer=True)
    if sa.heir is not None and message.notify(NotifyType.UPDATE_SA_ADDRESSES) is not None:
        # the move belongs to the SA that took this one's place; COOKIE2 comes back whatever happens (RFC 4555 §3.7)
        temporary = NotifyPayload(type=NotifyType.TEMPORARY_FAILURE)
        return Response(payloads=(temporary, *mobike.process_request(sa, message, path, now)))
    payloads: list[Payload] = []
    closed: list[bytes] = []
    for delete in message.all(DeletePayload):
        if delete.protocol == ProtocolId.IKE:
            rekey_ike.deleted_by_peer(sa, now)
            if sa.heir is not None:
                return Response(close="replaced by rekeying", by_peer=True)
            sa.extension.take(Step.DELETION, message)
            return Response(close="the peer deleted the IKE SA", by_peer=True)
        if delete.protocol == ProtocolId.ESP:
            closed += _delete_children(sa.heir or sa, delete.spis, now)
    if closed:
        payloads.append(DeletePayload(protocol=ProtocolId.ESP, spis=tuple(closed)))
    reauthentication.take(sa, message, now)
    payloads += tickets.process_request(sa, message, now)
    payloads += mobike.process_request(sa, message, path, now)
    return config.process_request(sa, message, tuple(payloads))


def _delete_children(sa: IkeSa, spis: tuple[bytes, ...], now: float) -> list[bytes]:
    """Close the pairs whose outbound SPI the peer names; answer with our inbound SPIs (§1.4.1).

    Where our own DELETE has crossed, "the responses MUST NOT include Delete payloads for the deleted SAs".
    """
    ours: list[bytes] = []
    for spi in spis:
        pair = next((c for c in sa.children.values() if c.spec.outbound_spi == spi), None)
        if pair is None:
            for task in sa.requests_under_way:
                if isinstance(task, child_exchange.ChildExchange):
                    task.deleted_by_peer(spi)
        else:
            child.remove(sa, pair.spec.inbound_spi, "the peer deleted it", now)
            if not pair.closing:
                ours.append(pair.spec.inbound_spi)
    return ours
