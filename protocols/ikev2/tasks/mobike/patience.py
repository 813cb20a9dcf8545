"""No address at all (the zero address set of RFC 4621 §5.4), and silence that ends nothing (RFC 4555 §3.11).

MOBIKE has no message for "I shall be away": an initiator without an address says nothing, and the other end
holds the SA for ``hold_lifetime`` from the last message on, retransmitting ever more rarely up to the cap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ikev2.events import SaState, Suspended
from protocols.ikev2.timing import Timer

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

SENDING_TIMERS = (Timer.RETRANSMIT, Timer.LIVENESS, Timer.KEEPALIVE, Timer.PATH_TEST)


def suspend(sa: IkeSa) -> None:
    """Nothing is sent until the next move."""
    if sa.state is not SaState.ESTABLISHED or sa.mobility.suspended:
        return
    sa.mobility.suspended = True
    sa.mobility.testing = sa.mobility.doubt = None
    for timer in SENDING_TIMERS:
        sa.timers.cancel(timer)
    sa.emit(Suspended(path=sa.path))


def resume(sa: IkeSa, now: float) -> None:
    """There is an address again: what was outstanding is sent from there."""
    if not sa.mobility.suspended:
        return
    sa.mobility.suspended = False
    sa.timers.arm_liveness(now)
    sa.timers.arm_keepalive(now, behind_nat=sa.nat.local)
    if sa.window.restart_retransmission(now):
        sa.timers.set(Timer.RETRANSMIT, now)


def held_until(sa: IkeSa, now: float) -> float | None:
    """The retransmission limit is reached: when to send again, as long as the peer's silence may last."""
    lifetime = sa.config.hold_lifetime
    if lifetime is None or sa.state is not SaState.ESTABLISHED:
        return None
    end = sa.mobility.heard_at + lifetime
    return None if now >= end else min(now + sa.config.retransmission.cap, end)
