"""MOBIKE (RFC 4555): negotiation, address update, return routability. A move is a transaction.

::

    ue (new address)                                   gateway
    SK {N(UPDATE_SA_ADDRESSES), N(NATD)*}  -->
                          <--  SK {N(NATD)*}            IKE is on the new path, child SAs are not
                          <--  SK {N(COOKIE2)}          its own request, after the response
    SK {N(COOKIE2)}  -->                                now the child SAs follow, all together

No answer to the check in time: IKE returns to the last validated path, where the child SAs still are; the
same request goes on being retransmitted there, a late answer proves nothing, and a fresh check follows. A
newer update supersedes an older one. A wrong COOKIE2 closes the IKE SA (§3.7); TEMPORARY_FAILURE, which a
UE answers while it has not seen our response to its update, postpones the check. By policy the child SAs
follow before the check (``after-update``) or without one (``never``).

Left out here: additional addresses, NO_NATS_ALLOWED, path testing, moves by ESP alone (§3.8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.errors import RemoteError
from protocols.ikev2.config import ReturnRoutability
from protocols.ikev2.events import (
    AddressesUpdated,
    AddressUpdateFailed,
    AddressUpdateStarted,
    ChildSaPathChanged,
    NatStatus,
    PathValidated,
    SaState,
)
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload, Payload
from protocols.ikev2.registry import ExchangeType, NotifyType
from protocols.ikev2.tasks import natd
from protocols.ikev2.timing import Timer
from protocols.path import Path
from protocols.secret import Secret

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

COOKIE2_LENGTH = 16  # §4.2.5: 8 to 64 octets


class Mobility:
    """Where the SA is: the path in use is ``sa.path``; ``validated`` is the last one known to be good.

    ``esp_path`` is where the child SAs are. ``check`` is the return-routability check of the path in use,
    queued or under way, if any.
    """

    def __init__(self, path: Path) -> None:
        self.negotiated = False
        self.validated = path
        self.validated_nat = NatStatus()
        self.esp_path: Path | None = None
        self.check: ReturnRoutabilityCheck | None = None
        self.update: UpdateAddresses | None = None

    def child_path(self, sa: IkeSa) -> Path:
        """The outer path of a child SA that is made now: that of the others, before a move is complete."""
        if self.esp_path is None:
            self.esp_path = sa.path
            self.validated_nat = sa.nat
        return self.esp_path

    def encapsulation(self, sa: IkeSa) -> bool:
        """Whether child SAs made now are in UDP: as the path they are on asks for."""
        return (sa.nat if self.esp_path in (None, sa.path) else self.validated_nat).encapsulation

    def supersede_check(self, sa: IkeSa) -> None:
        """The path in use is another one: the check of the old one proves nothing any more."""
        self.check = None
        sa.timers.disarm_return_routability()

    def check_expired(self, sa: IkeSa, now: float) -> None:
        """No answer in time: back to the last validated path; the request goes on, as a formality."""
        if self.check is None:
            return
        self.supersede_check(sa)
        failed = sa.path
        sa.nat = self.validated_nat
        sa.change_path(self.validated, now)
        sa.timers.arm_keepalive(now, behind_nat=sa.nat.local)
        move_children(sa, self.validated)
        if failed != self.validated:
            sa.emit(
                AddressUpdateFailed(
                    old=self.validated,
                    new=failed,
                    why="the return-routability check was not answered",
                )
            )
        start_check(sa, back=True)

    def check_again(self, sa: IkeSa) -> None:
        """The check that the peer was too busy for."""
        if self.check is not None:
            sa.enqueue(self.check)

    @property
    def in_doubt(self) -> bool:
        """Whether a path that was never validated is in use and waits for its check."""
        return self.check is not None and self.check.path != self.validated


class UpdateAddresses:
    """The initiator's move (§3.5): from now on the SA sends from ``path``; child SAs follow the response."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, path: Path) -> None:
        self._path = path
        self._old = path

    def start(self, sa: IkeSa, now: float) -> None:
        """Change addresses at once; whatever is outstanding is retransmitted from there first (§3.5)."""
        self._old = sa.mobility.esp_path or sa.path
        sa.mobility.update = self
        sa.emit(AddressUpdateStarted(old=self._old, new=self._path, nat=sa.nat))
        sa.change_path(self._path, now)
        sa.initiate(self, now, urgent=True)

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """N(UPDATE_SA_ADDRESSES) and fresh NAT detection; nothing when a newer move has come."""
        if sa.mobility.update is not self:
            return None
        return (
            NotifyPayload(type=NotifyType.UPDATE_SA_ADDRESSES),
            *natd.build(sa.spi_i, sa.spi_r, sa.path, sa.config.force_encapsulation),
        )

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """The gateway took the addresses, or says why not; an answer to an older move changes nothing."""
        if sa.mobility.update is not self:
            return
        sa.mobility.update = None
        for refusal in message.all(NotifyPayload):
            if refusal.type.is_error:
                why = f"the gateway refused: {refusal.type.name}"
                sa.change_path(sa.mobility.validated, now)
                sa.emit(AddressUpdateFailed(old=self._old, new=self._path, why=why))
                return
        sa.nat = natd.evaluate(message, path, sa.config.force_encapsulation) or sa.nat
        adopt(sa, self._path)
        sa.timers.arm_keepalive(now, behind_nat=sa.nat.local)
        move_children(sa, self._path)
        sa.emit(AddressesUpdated(old=self._old, new=self._path, nat=sa.nat, validated=True))


class ReturnRoutabilityCheck:
    """N(COOKIE2) to the new address as a request of its own (§3.7); the answer must carry the same octets.

    ``back``: after a roll-back, of the path returned to. There is nowhere to go from there, so that only
    the retransmission limit ends it.
    """

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, old: Path, path: Path, *, back: bool) -> None:
        self._old = old
        self._back = back
        self._cookie = b""
        self._postponed = 0
        self.path = path

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """A fresh unpredictable cookie; nothing when the path is no longer in question."""
        if sa.mobility.check is not self:
            return None
        self._cookie = sa.entropy.octets(COOKIE2_LENGTH)
        if not self._back:
            sa.timers.arm_return_routability(now, sa.responder_config.return_routability_interval)
        return (NotifyPayload(type=NotifyType.COOKIE2, data=self._cookie),)

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """Adopt the path; a wrong cookie closes the SA, a late answer proves nothing."""
        cookie = message.notify(NotifyType.COOKIE2)
        if cookie is None and message.notify(NotifyType.TEMPORARY_FAILURE) is not None:
            self._postpone(sa, now)
            return
        if cookie is None or Secret(cookie.data) != Secret(self._cookie):
            # RFC 4555 §3.7: "the IKE_SA MUST be closed"
            raise RemoteError("COOKIE2 came back wrong")
        if sa.mobility.check is not self:
            return
        sa.mobility.check = None
        sa.timers.disarm_return_routability()
        adopt(sa, self.path)
        sa.emit(PathValidated(path=self.path))
        move_children(sa, self.path)
        if not self._back:
            sa.emit(AddressesUpdated(old=self._old, new=self.path, nat=sa.nat, validated=True))

    def _postpone(self, sa: IkeSa, now: float) -> None:
        """A fresh check as often and as late as a request is sent again, then it counts as unanswered."""
        if sa.mobility.check is not self:
            return
        sa.timers.disarm_return_routability()
        policy = sa.config.retransmission
        if self._postponed < policy.limit:
            sa.timers.set(Timer.CHECK_AGAIN, now + policy.interval(self._postponed))
            self._postponed += 1
        elif self._back:
            sa.mobility.check = None
        else:
            sa.mobility.check_expired(sa, now)


def announce(sa: IkeSa) -> tuple[NotifyPayload, ...]:
    """N(MOBIKE_SUPPORTED) (§3.3), where the configuration wants it."""
    return (NotifyPayload(type=NotifyType.MOBIKE_SUPPORTED),) if sa.config.mobike else ()


def announced(message: Message) -> bool:
    """Whether the peer supports MOBIKE."""
    return message.notify(NotifyType.MOBIKE_SUPPORTED) is not None


def process_request(sa: IkeSa, message: Message, path: Path, now: float) -> list[Payload]:
    """COOKIE2 is echoed at any time (§3.7); UPDATE_SA_ADDRESSES moves the SA if its initiator asks."""
    payloads: list[Payload] = []
    update = message.notify(NotifyType.UPDATE_SA_ADDRESSES)
    if update is not None and sa.mobility.negotiated and not sa.first_initiator:
        # §1.3, §3.5: who started the first IKE SA decides, whoever has rekeyed it since
        payloads += take_update(sa, message, path, now)
    elif message.notify(NotifyType.NAT_DETECTION_SOURCE_IP) is not None:
        # a liveness check with NAT detection (§3.8) is answered in kind
        payloads += natd.build(sa.spi_i, sa.spi_r, path, sa.config.force_encapsulation)
    cookie = message.notify(NotifyType.COOKIE2)
    if cookie is not None:
        payloads.append(NotifyPayload(type=NotifyType.COOKIE2, data=cookie.data))
    return payloads


def take_update(sa: IkeSa, message: Message, path: Path, now: float) -> list[Payload]:
    """IKE goes to where the request came from; the child SAs by policy."""
    mobility = sa.mobility
    nat = natd.evaluate(message, path, sa.config.force_encapsulation) or sa.nat
    mobility.supersede_check(sa)
    sa.emit(AddressUpdateStarted(old=mobility.validated, new=path, nat=nat))
    sa.nat = nat
    sa.change_path(path, now)
    sa.timers.arm_keepalive(now, behind_nat=sa.nat.local)
    policy = sa.responder_config.return_routability
    if policy is not ReturnRoutability.BEFORE_UPDATE:
        move_children(sa, path)
    if policy is ReturnRoutability.NEVER:
        old = mobility.validated
        adopt(sa, path)
        sa.emit(AddressesUpdated(old=old, new=path, nat=nat, validated=False))
    else:
        start_check(sa)
    return list(natd.build(sa.spi_i, sa.spi_r, path, sa.config.force_encapsulation))


def start_check(sa: IkeSa, *, back: bool = False) -> None:
    """Check the path in use, after the response that is being built."""
    if sa.state is not SaState.ESTABLISHED:
        return
    sa.mobility.check = ReturnRoutabilityCheck(sa.mobility.validated, sa.path, back=back)
    sa.enqueue(sa.mobility.check)


def adopt(sa: IkeSa, path: Path) -> None:
    """This path is good."""
    sa.mobility.validated = path
    sa.mobility.validated_nat = sa.nat


def move_children(sa: IkeSa, path: Path) -> None:
    """All child SAs send on ``path`` from now on; SPIs, keys, sequence numbers and windows stay (§3.5)."""
    encapsulation = sa.nat.encapsulation
    if sa.mobility.esp_path == path and all(
        child.spec.encapsulation == encapsulation for child in sa.children.values()
    ):
        return
    sa.mobility.esp_path = path
    for child in sa.children.values():
        child.moved(path, encapsulation)
        sa.emit(ChildSaPathChanged(inbound_spi=child.spec.inbound_spi, path=path, encapsulation=encapsulation))
