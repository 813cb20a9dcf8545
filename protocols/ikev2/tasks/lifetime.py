"""Lifetimes of IKE and child SAs (RFC 7296 §2.8): soft limits start a rekey, hard ones end the SA; back-off.

A rekey that is put off by TEMPORARY_FAILURE is tried again with growing pauses (§2.25), one that is refused
for good is left to the hard limit, which ends the IKE SA ("MUST close the IKE SA and any associated Child
SAs"). What the data plane counts, octets, packets and sequence numbers, comes in by ``rekey_child.limit_reached``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocols.ikev2.config import Lifetime
from protocols.ikev2.events import CreateChildSaRefused
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.registry import NotifyType
from protocols.ikev2.task import Task
from protocols.ikev2.tasks import child, informational
from protocols.ikev2.timing import Timer

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

LAG = 0.1  # of the soft limit, by which who waited for the first SA is later, so that the ends do not collide
LAG_MAXIMUM = 0.4  # of what lies between soft and hard limit
BACK_OFF_BASE_INTERVAL = 2.0  # §2.25: "MUST NOT immediately retry"
BACK_OFF_CAP = 60.0
TEMPORARY_FAILURE_LIFETIME = 300.0  # §2.25: after "several minutes" of it the state is out of sync
SUPERSEDED_LIFETIME = 60.0  # for who replaced an SA to delete the old one
EXPIRED_LIFETIME = 30.0  # for a DELETE that cannot leave because another request waits
ALL_DRAWS = 1 << 16
STATES_LOST_MAXIMUM = 3  # RFC 9370 §2.2.4: "after several retries" it is a fatal error


@dataclass(kw_only=True)
class BackOff:
    """What a task remembers of having been put off; it carries this from one attempt to the next."""

    since: float | None = None
    attempts: int = 0
    states_lost: int = 0


def arm_child(sa: IkeSa, spi: bytes, now: float) -> None:
    """A new child SA: when to rekey it, and when it ends."""
    lifetime, made = sa.config.child_lifetime, sa.children[spi]
    if lifetime is None:
        return
    made.rekey_at = _rekey_at(sa, lifetime, now)
    made.expires_at = _after(now, lifetime.hard_seconds)
    arm(sa, made)


def arm_ike(sa: IkeSa, now: float) -> None:
    """A new IKE SA: when to rekey it, and when it ends."""
    lifetime = sa.config.ike_lifetime
    if lifetime is None:
        return
    for timer, deadline in (
        (Timer.IKE_REKEY, _rekey_at(sa, lifetime, now)),
        (Timer.IKE_EXPIRY, _after(now, lifetime.hard_seconds)),
    ):
        if deadline is not None:
            sa.timers.set(timer, deadline)


def superseded(sa: IkeSa, replaced: child.ChildSa, now: float) -> None:
    """Another child SA has taken its place; if the peer does not delete it in time, we do."""
    replaced.replaced = True
    replaced.rekey_at = None
    replaced.expires_at = now + SUPERSEDED_LIFETIME
    arm(sa, replaced)


def expire(sa: IkeSa, why: str, now: float) -> None:
    """An SA that was not replaced in time MUST NOT be used any more (§2.8): the IKE SA ends with all of them."""
    for spi in list(sa.children):
        child.remove(sa, spi, why, now)
    # should the DELETE have to wait for an answer that does not come, the SA ends without one
    sa.timers.set(Timer.SUPERSEDED, now + EXPIRED_LIFETIME)
    sa.initiate(informational.DeleteIkeSa(why), now, urgent=True)


def refused(sa: IkeSa, task: Task, back_off: BackOff, what: str, notify: NotifyPayload, now: float) -> None:
    """The peer refused a CREATE_CHILD_SA: it ends nothing; TEMPORARY_FAILURE is asked again after a pause.

    So is STATE_NOT_FOUND, the end of a series of additional key exchanges (RFC 9370 §2.2.4), a few times.
    """
    again_at: float | None = None
    if notify.type == NotifyType.TEMPORARY_FAILURE:
        back_off.since = now if back_off.since is None else back_off.since
        if now - back_off.since > TEMPORARY_FAILURE_LIFETIME:
            expire(sa, f"TEMPORARY_FAILURE for {now - back_off.since:.0f} s: the ends are out of step", now)
            return
        again_at = now + _pause(sa, back_off)
    elif notify.type == NotifyType.STATE_NOT_FOUND:
        back_off.states_lost += 1
        if back_off.states_lost > STATES_LOST_MAXIMUM:
            expire(sa, "STATE_NOT_FOUND again and again: the ends are out of step", now)
            return
        again_at = now + _pause(sa, back_off)
    if again_at is not None:
        sa.later(task, again_at)
    sa.emit(CreateChildSaRefused(what=what, notify=notify, again_at=again_at))


def _pause(sa: IkeSa, back_off: BackOff) -> float:
    interval = min(BACK_OFF_BASE_INTERVAL * 2.0**back_off.attempts, BACK_OFF_CAP)
    back_off.attempts += 1
    return interval * (1 + _draw(sa) / 2)  # two ends that were in one another's way do not meet again


def _rekey_at(sa: IkeSa, lifetime: Lifetime, now: float) -> float | None:
    soft, hard = lifetime.soft, lifetime.hard_seconds
    if soft is None or hard is None:
        return None
    # whoever has rekeyed since, the first initiator comes first (§2.8: jitter alone leaves collisions to chance)
    lag = 0.0 if sa.first_initiator else min(soft * LAG, (hard - soft) * LAG_MAXIMUM)
    early = soft * lifetime.jitter * _draw(sa) if lifetime.jitter else 0.0
    return now + soft + lag - early


def _draw(sa: IkeSa) -> float:
    """From 0 to below 1."""
    return int.from_bytes(sa.entropy.octets(2), "big") / ALL_DRAWS


def _after(now: float, interval: float | None) -> float | None:
    return None if interval is None else now + interval


def arm(sa: IkeSa, one: child.ChildSa) -> None:
    """Look at a child SA when something of it is due."""
    for deadline in (one.rekey_at, one.expires_at):
        if deadline is not None:
            sa.timers.set_earlier(Timer.CHILD_LIFETIME, deadline)
