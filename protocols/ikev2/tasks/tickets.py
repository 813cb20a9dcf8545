"""Asking for tickets and granting them (RFC 5723 §4.1, §4.2, §6.2); they are presented in ``resume``.

::

    SK {IDi, .., N(TICKET_REQUEST)}  -->          first IKE_AUTH request, or an INFORMATIONAL of its own
                      <--  SK {.., N(TICKET_LT_OPAQUE)}          last IKE_AUTH response; or N(TICKET_NACK)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocols.buffer import Reader
from protocols.errors import DecodeError
from protocols.ikev2.events import SaState, TicketReceived
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import IdiPayload, IdrPayload, NotifyPayload, Payload
from protocols.ikev2.registry import ExchangeType, NotifyType
from protocols.ikev2.ticket import IDENTIFIER_LENGTH, ResumableSession, TicketContents
from protocols.ikev2.timing import Timer
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

REFRESH_AFTER = 0.75  # of a ticket's lifetime
REFRESH_INTERVAL_MINIMUM = 30.0


@dataclass(kw_only=True)
class Resumption:
    """What an IKE SA knows of tickets: asked for, presented at set-up, issued last."""

    requested: bool = False
    presented: TicketContents | None = None
    supersedes: bool = False
    superseded: bool = False
    issued: bytes | None = None
    holder: tuple[IdiPayload, IdrPayload, bytes | None] | None = None
    responder_identity: IdrPayload | None = None


def succeed(old: IkeSa, new: IkeSa) -> None:
    """A rekeyed IKE SA knows whom its ticket is for, and asks for one of its own: the old one goes (§6.2)."""
    revoke(old)
    new.resumption.responder_identity, new.resumption.holder = old.resumption.responder_identity, old.resumption.holder
    if new.first_initiator and new.initiator_config.resumption:
        new.enqueue(RequestTicket())


# --- initiator


def ask(sa: IkeSa) -> tuple[NotifyPayload, ...]:
    """N(TICKET_REQUEST) in the first IKE_AUTH request (§4.2: MUST be there when there are several)."""
    return (NotifyPayload(type=NotifyType.TICKET_REQUEST),) if sa.initiator_config.resumption else ()


def receive(sa: IkeSa, message: Message, responder_identity: IdrPayload, now: float) -> None:
    """The ticket of the last IKE_AUTH response; after TICKET_ACK it is asked for again, once (§4.1)."""
    sa.resumption.responder_identity = responder_identity
    if not sa.initiator_config.resumption:
        return
    _take(sa, message, now)
    if message.notify(NotifyType.TICKET_ACK) is not None:
        sa.enqueue(RequestTicket())


def refresh_due(sa: IkeSa) -> None:
    """The ticket is about to expire: ask for another (§4.1)."""
    if sa.state is SaState.ESTABLISHED:
        sa.enqueue(RequestTicket())


class RequestTicket:
    """A ticket by an INFORMATIONAL exchange, which the client starts (§4.1)."""

    exchange = ExchangeType.INFORMATIONAL

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """N(TICKET_REQUEST)."""
        if sa.state is not SaState.ESTABLISHED or not sa.first_initiator:
            return None
        return (NotifyPayload(type=NotifyType.TICKET_REQUEST),)

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """A ticket or none."""
        _take(sa, message, now)


def _take(sa: IkeSa, message: Message, now: float) -> None:
    notify, identity = message.notify(NotifyType.TICKET_LT_OPAQUE), sa.resumption.responder_identity
    if notify is None or identity is None:
        return
    try:
        body = Reader(notify.data)
        lifetime, ticket = body.u32(), body.rest()
        if not ticket or not lifetime:
            raise DecodeError("no ticket, or none that lives")
    except DecodeError:
        sa.dropped["ticket-malformed"] += 1  # §4.2: the initiator may accept it; the SA needs none
        return
    suite, keys = sa.established_keys()
    session = ResumableSession(
        ticket=ticket,
        gateway=sa.path.remote.address,
        expires=now + lifetime,
        suite=suite,
        sk_d=keys.sk_d,
        identity=sa.initiator_config.identity,
        responder_identity=identity,
    )
    sa.timers.set(Timer.TICKET, now + max(lifetime * REFRESH_AFTER, REFRESH_INTERVAL_MINIMUM))
    sa.emit(TicketReceived(session=session))


# --- responder


def note(sa: IkeSa, message: Message) -> None:
    """Whether the first IKE_AUTH request asks for a ticket."""
    sa.resumption.requested = message.notify(NotifyType.TICKET_REQUEST) is not None


def grant(
    sa: IkeSa, identity: IdiPayload, identity_r: IdrPayload, data: bytes | None, now: float
) -> tuple[NotifyPayload, ...]:
    """For the last IKE_AUTH response: the ticket that was asked for, or N(TICKET_NACK) when ``data`` is ``None``."""
    sa.resumption.holder = (identity, identity_r, data)
    return _issue(sa, now) if sa.resumption.requested else ()


def process_request(sa: IkeSa, message: Message, now: float) -> tuple[NotifyPayload, ...]:
    """N(TICKET_REQUEST) in an INFORMATIONAL request (§4.1)."""
    asked = message.notify(NotifyType.TICKET_REQUEST) is not None
    if not asked or sa.first_initiator or sa.state is not SaState.ESTABLISHED:
        return ()
    return _issue(sa, now)


def revoke(sa: IkeSa) -> None:
    """§6.2: with an IKE SA that is deleted goes its ticket; that of one which was merely lost is for resuming it."""
    if sa.resumption.issued is None:
        return
    office = sa.responder_config.tickets
    if office is not None:
        office.revoke(sa.resumption.issued)


def _issue(sa: IkeSa, now: float) -> tuple[NotifyPayload, ...]:
    office, holder = sa.responder_config.tickets, sa.resumption.holder
    if office is None or holder is None:
        return ()  # the extension is off: as if it were unknown
    identity, identity_r, data = holder
    if data is None:
        return (NotifyPayload(type=NotifyType.TICKET_NACK),)
    lifetime = _lifetime(sa, office.policy.lifetime, now)
    if lifetime < 1:
        return (NotifyPayload(type=NotifyType.TICKET_NACK),)
    suite, keys = sa.established_keys()
    if sa.resumption.issued is not None:
        office.revoke(sa.resumption.issued)
    sa.resumption.issued = sa.entropy.octets(IDENTIFIER_LENGTH)
    contents = TicketContents(
        identifier=sa.resumption.issued,
        identity=identity,
        responder_identity=identity_r,
        suite=suite,
        sk_d=keys.sk_d,
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        expires=office.expiration(lifetime),
        data=data,
    )
    ticket = office.seal(contents, sa.entropy)
    return (NotifyPayload(type=NotifyType.TICKET_LT_OPAQUE, data=lifetime.to_bytes(4, "big") + ticket),)


def _lifetime(sa: IkeSa, most: float, now: float) -> int:
    """Seconds, at most what the IKE SA and its authentication have left: "SHOULD be the minimum" (§6.2)."""
    expiry = sa.timers.get(Timer.IKE_EXPIRY)
    if expiry is None and sa.config.ike_lifetime is not None and sa.config.ike_lifetime.hard_seconds is not None:
        expiry = now + sa.config.ike_lifetime.hard_seconds  # it begins with the response that carries the ticket
    return int(min(most, sa.authenticated_until - now, float("inf") if expiry is None else expiry - now))
