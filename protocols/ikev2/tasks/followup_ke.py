"""IKE_FOLLOWUP_KE (RFC 9370 §2.2.4): the additional key exchanges of CREATE_CHILD_SA, whatever that makes.

::

    HDR(CREATE_CHILD_SA), SK {SA(.. ADDKE* ..), Ni, KEi, ..}  -->
                      <--  HDR(CREATE_CHILD_SA), SK {SA(.. ADDKE* ..), Nr, KEr, .., N(ADDITIONAL_KEY_EXCHANGE)(link1)}
    HDR(IKE_FOLLOWUP_KE), SK {KEi(1), N(ADDITIONAL_KEY_EXCHANGE)(link1)}  -->
                      <--  HDR(IKE_FOLLOWUP_KE), SK {KEr(1), N(ADDITIONAL_KEY_EXCHANGE)(link2)}
    HDR(IKE_FOLLOWUP_KE), SK {KEi(2), N(ADDITIONAL_KEY_EXCHANGE)(link2)}  -->
                      <--  HDR(IKE_FOLLOWUP_KE), SK {KEr(2)}

The SA is made when the last of them is done. Both ends may have a series under way about the same SA only
until each knows all four nonces: who used the lowest stops. The responder keeps what is unfinished a bounded
time, and answers STATE_NOT_FOUND afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from protocols.errors import LocalError, RemoteError
from protocols.ikev2.events import SaState
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import KePayload, NotifyPayload, Payload
from protocols.ikev2.registry import ExchangeType, KeGroup, NotifyType
from protocols.ikev2.suites import EspSuite, IkeSuite, KeyExchange
from protocols.ikev2.task import Response
from protocols.ikev2.tasks import intermediate
from protocols.ikev2.timing import Timer
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

LINK_LENGTH: Final = 8  # opaque to the peer
UNFINISHED_LIFETIME: Final = 30.0  # between two exchanges of a series; twice what an initiator retransmits by default
THE_IKE_SA: Final = b""  # what a series is about when it is not about a child SA

Finish = Callable[[tuple[Payload, ...], bytes, float], Response | None]
"""Makes the SA with the secrets of the additional key exchanges; gives the last response, which begins like that.

``None`` until a question of its is answered.
"""


class Owner(Protocol):
    """Whose CREATE_CHILD_SA request a series belongs to."""

    def completed(self, sa: IkeSa, message: Message, additional: bytes, now: float) -> None:
        """All are done; ``additional`` is SK(1) | ... | SK(n)."""

    def abandoned(self, sa: IkeSa, notify: NotifyPayload, now: float) -> None:
        """The peer refused; there is no SA."""


class FollowupKe:
    """The initiator's task of one additional key exchange after CREATE_CHILD_SA."""

    exchange = ExchangeType.IKE_FOLLOWUP_KE

    def __init__(self, owner: Owner, methods: tuple[KeGroup, ...], link: bytes, additional: bytes = b"") -> None:
        self._owner = owner
        self._methods = methods
        self._link = link
        self._additional = additional
        self._key_exchange: KeyExchange | None = None

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """KEi(n) and the responder's link, intact; nothing once the IKE SA ends."""
        if sa.state is not SaState.ESTABLISHED:
            return None
        self._key_exchange = KeyExchange.generate(self._methods[0], sa.entropy)
        ke = KePayload(group=self._key_exchange.group, data=self._key_exchange.public)
        return (ke, NotifyPayload(type=NotifyType.ADDITIONAL_KEY_EXCHANGE, data=self._link))

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """KEr(n): the next one, or the SA."""
        refused = next((notify for notify in message.all(NotifyPayload) if notify.type.is_error), None)
        if refused is not None:
            self._owner.abandoned(sa, refused, now)
            return
        if self._key_exchange is None:
            raise LocalError("IKE_FOLLOWUP_KE response before the request")
        ke = intermediate.checked(message.first(KePayload), self._methods[0])
        additional = self._additional + self._key_exchange.shared(ke.data)
        if len(self._methods) == 1:
            self._owner.completed(sa, message, additional, now)
        else:
            following = FollowupKe(self._owner, self._methods[1:], link_of(message), additional)
            sa.initiate(following, now, urgent=True)


def start(sa: IkeSa, owner: Owner, suite: IkeSuite | EspSuite, message: Message, now: float) -> None:
    """The response to CREATE_CHILD_SA chose additional key exchanges: do them."""
    sa.initiate(FollowupKe(owner, intermediate.methods(suite), link_of(message)), now, urgent=True)


def link_of(message: Message) -> bytes:
    """The responder "MUST include this notification .. in case the next IKE_FOLLOWUP_KE exchange is expected"."""
    notify = message.notify(NotifyType.ADDITIONAL_KEY_EXCHANGE)
    if notify is None:
        raise RemoteError("no ADDITIONAL_KEY_EXCHANGE where another key exchange follows", NotifyType.INVALID_SYNTAX)
    return notify.data


# --- the responder's side


@dataclass(kw_only=True)
class Unfinished:
    """A series that the peer has begun: what it is about, the lower nonce of its CREATE_CHILD_SA, how far it is."""

    subject: bytes
    lowest_nonce: bytes
    methods: tuple[KeGroup, ...]
    finish: Finish
    link: bytes = b""
    additional: bytes = b""
    deadline: float = 0.0


class Followups:
    """What an IKE SA keeps of the peer's series: one for each SA that they rekey or make."""

    def __init__(self) -> None:
        self._unfinished: dict[bytes, Unfinished] = {}

    def of(self, subject: bytes) -> Unfinished | None:
        """The series about an SA: ``THE_IKE_SA``, or a child SA by our SPI."""
        return self._unfinished.get(subject)

    def by_link(self, link: bytes) -> Unfinished | None:
        """The series that goes on with this link."""
        return next((one for one in self._unfinished.values() if one.link == link), None)

    @property
    def subjects(self) -> tuple[bytes, ...]:
        """What the series are about."""
        return tuple(self._unfinished)

    @property
    def until(self) -> float | None:
        """When the last of them is over."""
        return max((one.deadline for one in self._unfinished.values()), default=None)

    def forget(self, subject: bytes) -> None:
        """There is no series about this SA any more."""
        self._unfinished.pop(subject, None)

    def clear(self) -> None:
        """There is none at all."""
        self._unfinished.clear()

    def expect(self, sa: IkeSa, one: Unfinished, now: float) -> NotifyPayload:
        """Wait for the next exchange of a series; it takes the place of another about the same SA."""
        one.link = sa.entropy.octets(LINK_LENGTH)
        one.deadline = now + UNFINISHED_LIFETIME
        self._unfinished[one.subject] = one
        sa.timers.set_earlier(Timer.FOLLOWUP_KE, one.deadline)
        return NotifyPayload(type=NotifyType.ADDITIONAL_KEY_EXCHANGE, data=one.link)

    def expire(self, sa: IkeSa, now: float) -> None:
        """Forget what the peer has not gone on with."""
        for one in list(self._unfinished.values()):
            if one.deadline <= now:
                self.forget(one.subject)
                sa.dropped["unfinished-key-exchange"] += 1
            else:
                sa.timers.set_earlier(Timer.FOLLOWUP_KE, one.deadline)


def process_request(sa: IkeSa, message: Message, now: float) -> Response | None:
    """The next additional key exchange of a series, or STATE_NOT_FOUND, which ends nothing but the series."""
    link = message.notify(NotifyType.ADDITIONAL_KEY_EXCHANGE)
    one = None if link is None or sa.state is not SaState.ESTABLISHED else sa.followups.by_link(link.data)
    if one is None:
        return Response(payloads=(NotifyPayload(type=NotifyType.STATE_NOT_FOUND),))
    method = one.methods[0]
    ke = intermediate.checked(message.first(KePayload), method)
    public, shared = KeyExchange.respond(method, ke.data, sa.entropy)
    one.methods, one.additional = one.methods[1:], one.additional + shared
    answer = KePayload(group=method, data=public)
    if one.methods:
        return Response(payloads=(answer, sa.followups.expect(sa, one, now)))
    sa.followups.forget(one.subject)
    return one.finish((answer,), one.additional, now)


def postponed(sa: IkeSa, subject: bytes | None, now: float) -> float | None:
    """When to begin a series of ours about an SA (``None``: any) of which the peer has one under way."""
    sa.followups.expire(sa, now)
    if subject is None:
        return sa.followups.until
    theirs = sa.followups.of(subject)
    return None if theirs is None else theirs.deadline
