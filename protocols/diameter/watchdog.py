"""The watchdog of a connection (RFC 3539 §3.4.1 and Appendix A), without its messages and its timer.

The machine that holds it sends the DWRs and arms Tw; it says what a received message, an answered DWR and
an elapsed Tw mean. A connection that its opener lost by the watchdog begins in REOPEN and is returned to
service after three answered watchdogs (§3.4.1 [5]); they follow one another at once instead of one per Tw.
"""

from __future__ import annotations

from enum import Enum

from protocols.entropy import Entropy
from protocols.errors import LocalError

WATCHDOG_INTERVAL = 30.0  # Twinit, RFC 3539 §3.4.1 [1]
WATCHDOG_INTERVAL_MINIMUM = 6.0  # RFC 3539 §3.4.1 [1]: MUST NOT be set lower
WATCHDOG_JITTER = 2.0  # RFC 3539 §3.4.1 [1]: between -2 and 2 seconds
REOPEN_WATCHDOGS = 3  # RFC 3539 §3.4.1 [5]


class WatchdogState(Enum):
    """Whether an open connection is in service (RFC 3539, Appendix A)."""

    OKAY = "OKAY"
    SUSPECT = "SUSPECT"
    REOPEN = "REOPEN"


class WatchdogStep(Enum):
    """What the connection is to do next."""

    WAIT = "wait"
    SEND = "send a DWR"
    CLOSE = "close the connection"


class Watchdog:
    """Whether the peer of one connection is there."""

    def __init__(self, *, reopening: bool, interval: float, entropy: Entropy) -> None:
        if interval < WATCHDOG_INTERVAL_MINIMUM:
            raise LocalError(f"a watchdog interval below {WATCHDOG_INTERVAL_MINIMUM} s (RFC 3539 §3.4.1)")
        self.state = WatchdogState.REOPEN if reopening else WatchdogState.OKAY
        self._interval = interval
        self._entropy = entropy
        self._pending: int | None = None
        self._reopen_answers = 0

    def jittered_interval(self) -> float:
        """Tw = Twinit with a jitter of ±2 s (RFC 3539 §3.4.1 [1])."""
        fraction = int.from_bytes(self._entropy.octets(4), "big") / 0x100000000
        return self._interval + (2 * fraction - 1) * WATCHDOG_JITTER

    def opened(self) -> WatchdogStep:
        """OnConnectionUp: a reopened connection has to prove itself."""
        return WatchdogStep.SEND if self.state is WatchdogState.REOPEN else WatchdogStep.WAIT

    def sent(self, hop_by_hop: int) -> None:
        """SendWatchdog: a DWR with this Hop-by-Hop Identifier is out."""
        self._pending = hop_by_hop

    def received(self) -> bool:
        """OnReceive: any message shows that the peer is there; True when Tw begins anew."""
        if self.state is WatchdogState.SUSPECT:
            self.state = WatchdogState.OKAY
        return self.state is WatchdogState.OKAY

    def is_answered_by(self, hop_by_hop: int) -> bool:
        """Whether a DWA with this Hop-by-Hop Identifier is the one that is awaited; then none is any more."""
        if self._pending != hop_by_hop:
            return False
        self._pending = None
        return True

    def answered(self) -> WatchdogStep:
        """OnReceive of the DWA, on an open connection."""
        if self.state is not WatchdogState.REOPEN:
            return WatchdogStep.WAIT
        self._reopen_answers += 1
        if self._reopen_answers < REOPEN_WATCHDOGS:
            return WatchdogStep.SEND
        self.state = WatchdogState.OKAY
        return WatchdogStep.WAIT

    def elapsed(self) -> WatchdogStep:
        """OnTimerElapsed; unless it is to be closed, Tw begins anew."""
        if self.state is WatchdogState.SUSPECT:
            return WatchdogStep.CLOSE
        if self._pending is None:
            return WatchdogStep.SEND
        if self.state is WatchdogState.OKAY:
            self.state = WatchdogState.SUSPECT
        elif self._reopen_answers < 0:
            return WatchdogStep.CLOSE
        else:
            self._reopen_answers = -1
        return WatchdogStep.WAIT
