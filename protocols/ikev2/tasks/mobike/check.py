"""The return-routability check (RFC 4555 §3.7): COOKIE2 to a new address, roll-back, a second chance.

A path that stayed deaf for longer than the check's time and then hears gets the cached response to the
update that its UE repeats, and the UE believes that it has moved. So does a UE that answered the check too late,
because it or the gateway was slow; its old address may be gone. So each repetition, and a late answer, that
arrives from the path that was given up starts one fresh check there, as often as a request is sent again at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.errors import LocalError, RemoteError
from protocols.ikev2.events import AddressUpdateFailed, AddressUpdateStarted, PathValidated, SaState
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload, Payload
from protocols.ikev2.registry import ExchangeType, NotifyType
from protocols.ikev2.tasks.mobike.mobility import adopt, move_children, updated
from protocols.ikev2.timing import Timer
from protocols.path import Path
from protocols.secret import Secret

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

COOKIE2_LENGTH = 16  # §4.2.5: 8 to 64 octets


class ReturnRoutabilityCheck:
    """N(COOKIE2) to the new address as a request of its own (§3.7); the answer must carry the same octets.

    ``back``: of a path that is the last resort: the one that a roll-back returned to, or that is asked on demand.
    There is nowhere to go from there, so that only the retransmission limit ends it.
    """

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, old: Path, path: Path, *, back: bool) -> None:
        self._old = old
        self.back = back
        self._cookie = b""
        self._postponed = 0
        self.path = path

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """A fresh unpredictable cookie; nothing when the path is no longer in question."""
        if sa.mobility.check is not self:
            return None
        self._cookie = sa.entropy.octets(COOKIE2_LENGTH)
        if not self.back:
            sa.timers.arm_return_routability(now, sa.responder_config.return_routability_interval)
        return (NotifyPayload(type=NotifyType.COOKIE2, data=self._cookie),)

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """Adopt the path; a wrong cookie closes the SA, a late answer proves nothing."""
        cookie = message.notify(NotifyType.COOKIE2)
        if cookie is None and message.notify(NotifyType.TEMPORARY_FAILURE) is not None:
            self._postpone(sa, now)
            return
        verify_cookie(message, self._cookie)
        if sa.mobility.check is not self:
            _check_anew(sa, path, now)
            return
        sa.mobility.check = None
        sa.timers.disarm_return_routability()
        followed = sa.mobility.followed if self.back else None
        adopt(sa, self.path)
        sa.mobility.followed = followed
        if sa.mobility.failed == self.path:
            sa.mobility.failed = None
        if not self.back:
            sa.timers.arm_keepalive(now, behind_nat=sa.nat.local)
        sa.emit(PathValidated(path=self.path))
        move_children(sa, followed or self.path)
        if not self.back:
            sa.emit(updated(sa, self._old, validated=True))

    def _postpone(self, sa: IkeSa, now: float) -> None:
        """A fresh check as often and as late as a request is sent again, then it counts as unanswered."""
        if sa.mobility.check is not self:
            return
        sa.timers.disarm_return_routability()
        policy = sa.config.retransmission
        if self._postponed < policy.limit:
            sa.timers.set(Timer.CHECK_AGAIN, now + policy.interval(self._postponed))
            self._postponed += 1
        elif self.back:
            sa.mobility.check = None
        else:
            check_expired(sa, now)


def verify_cookie(message: Message, sent: bytes) -> None:
    """RFC 4555 §3.7: "If the values do not match, the IKE_SA MUST be closed"."""
    cookie = message.notify(NotifyType.COOKIE2)
    if cookie is None or Secret(cookie.data) != Secret(sent):
        raise RemoteError("COOKIE2 came back wrong")


def start_check(sa: IkeSa, *, back: bool = False) -> None:
    """Check the path in use, after the response that is being built."""
    if sa.state is not SaState.ESTABLISHED:
        return
    sa.mobility.check = ReturnRoutabilityCheck(sa.mobility.validated, sa.path, back=back)
    sa.enqueue(sa.mobility.check)


def demand_check(sa: IkeSa) -> None:
    """Check the path in use once more, "continuously during the connection" (§3.7); ``PathValidated`` when answered.

    There is nowhere to go from a path that was validated before: only the retransmission limit ends the check.
    ``LocalError``: without MOBIKE, or while a check or a move is under way.
    """
    mobility = sa.mobility
    if sa.state is not SaState.ESTABLISHED:
        raise LocalError(f"no check in state {sa.state.value}")
    if not mobility.negotiated:
        raise LocalError("the peer does not support MOBIKE")
    if mobility.check is not None:
        raise LocalError("a check is under way")
    if mobility.update is not None or mobility.suspended or sa.path != mobility.validated:
        raise LocalError("a change of addresses is under way")
    start_check(sa, back=True)


def supersede_check(sa: IkeSa) -> None:
    """The path in use is another one: the check of the old one proves nothing any more."""
    sa.mobility.check = None
    sa.timers.disarm_return_routability()


def check_expired(sa: IkeSa, now: float) -> None:
    """No answer in time: back to the last validated path; the request goes on, as a formality."""
    mobility = sa.mobility
    if mobility.check is None:
        return
    supersede_check(sa)
    failed, failed_nat = sa.path, sa.nat
    sa.nat = mobility.validated_nat
    sa.change_path(mobility.validated, now)
    if not sa.nat.local or sa.timers.get(Timer.KEEPALIVE) is None:
        sa.timers.arm_keepalive(now, behind_nat=sa.nat.local)
    move_children(sa, mobility.followed or mobility.validated)
    if failed != mobility.validated:
        mobility.failed, mobility.failed_nat = failed, failed_nat
        why = "the return-routability check was not answered"
        sa.emit(AddressUpdateFailed(old=mobility.validated, new=failed, why=why))
    start_check(sa, back=True)


def check_again(sa: IkeSa) -> None:
    """The check that the peer was too busy for."""
    if sa.mobility.check is not None:
        sa.enqueue(sa.mobility.check)


def heard_again(sa: IkeSa, message: Message, path: Path, now: float) -> None:
    """A repeated update from the path that was given up: it may hear now, and its UE believe that it has moved."""
    if message.message_id == sa.mobility.newest_update:
        _check_anew(sa, path, now)


def _check_anew(sa: IkeSa, path: Path, now: float) -> None:
    """The path that was given up was heard: a second chance, a bounded number of times."""
    mobility = sa.mobility
    tried = mobility.rechecks >= sa.config.retransmission.limit
    if path != mobility.failed or sa.state is not SaState.ESTABLISHED or tried:
        return
    mobility.rechecks += 1
    supersede_check(sa)
    sa.emit(AddressUpdateStarted(old=mobility.validated, new=path, nat=mobility.failed_nat))
    sa.nat = mobility.failed_nat
    sa.change_path(path, now)
    start_check(sa)
