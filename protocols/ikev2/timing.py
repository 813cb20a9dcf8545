"""All timers of an IKE SA, and when each is armed."""

from __future__ import annotations

from enum import Enum

from protocols.ikev2.config import IkeConfig
from protocols.timers import TimerTable


class Timer(Enum):
    """What an IKE SA may wait for."""

    RETRANSMIT = "retransmit"
    SETUP = "setup"
    LIVENESS = "liveness"
    KEEPALIVE = "keepalive"
    CHILD_LIFETIME = "child-lifetime"
    RETIRED = "retired"
    RETURN_ROUTABILITY = "return-routability"
    CHECK_AGAIN = "check-again"
    INIT_REFUSED = "init-refused"
    IKE_REKEY = "ike-rekey"
    IKE_EXPIRY = "ike-expiry"
    SUPERSEDED = "superseded"
    RETRY = "retry"
    AUTHENTICATION = "authentication"
    PATH_TEST = "path-test"
    REDIRECTED = "redirected"
    TICKET = "ticket"
    FOLLOWUP_KE = "followup-ke"


OWN_TIMERS = frozenset(
    {Timer.RETRANSMIT, Timer.SETUP, Timer.IKE_REKEY, Timer.IKE_EXPIRY, Timer.SUPERSEDED, Timer.FOLLOWUP_KE}
)


class SaTimers(TimerTable[Timer]):
    """The table with the configured intervals."""

    def __init__(self, config: IkeConfig) -> None:
        super().__init__()
        self.liveness_interval = config.liveness_interval
        self._keepalive_interval = config.keepalive_interval

    def arm_setup(self, now: float, lifetime: float | None) -> None:
        """Give the set-up ``lifetime`` seconds, or (``None``) as long as it likes."""
        if lifetime is None:
            self.cancel(Timer.SETUP)
        else:
            self.set(Timer.SETUP, now + lifetime)

    def set_liveness_interval(self, interval: float | None) -> None:
        """Probe after this much silence, counted from when the peer is heard next; ``None``: never."""
        self.liveness_interval = interval
        if interval is None:
            self.cancel(Timer.LIVENESS)

    def arm_liveness(self, now: float) -> None:
        """The peer was heard: the next probe is an interval away (RFC 7296 §2.4)."""
        if self.liveness_interval is not None:
            self.set(Timer.LIVENESS, now + self.liveness_interval)

    def arm_keepalive(self, now: float, *, behind_nat: bool) -> None:
        """Keep the mapping of a NAT before us alive (RFC 3948 §4); off when there is none."""
        if behind_nat and self._keepalive_interval is not None:
            self.set(Timer.KEEPALIVE, now + self._keepalive_interval)
        else:
            self.cancel(Timer.KEEPALIVE)

    def set_earlier(self, timer: Timer, deadline: float) -> None:
        """Arm ``timer`` unless it is due earlier anyway."""
        armed = self.get(timer)
        if armed is None or deadline < armed:
            self.set(timer, deadline)

    def inherit(self, predecessor: SaTimers) -> None:
        """Take over what the SA that this one replaces waits for, but for what is its own."""
        self.liveness_interval = predecessor.liveness_interval
        for timer in Timer:
            deadline = predecessor.get(timer)
            if deadline is not None and timer not in OWN_TIMERS:
                self.set(timer, deadline)
            if timer is not Timer.RETRANSMIT:
                predecessor.cancel(timer)

    def arm_return_routability(self, now: float, interval: float) -> None:
        """The peer has this long to answer the check of its new address (RFC 4555 §3.7)."""
        self.set(Timer.RETURN_ROUTABILITY, now + interval)

    def disarm_return_routability(self) -> None:
        """The check is over, or has yet to be sent again."""
        self.cancel(Timer.RETURN_ROUTABILITY)
        self.cancel(Timer.CHECK_AGAIN)
