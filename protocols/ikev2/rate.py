"""A token bucket: how often something may be done because of what anybody can send."""

from __future__ import annotations


class TokenBucket:
    """``rate`` actions a second, ``burst`` of them at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Whether one more is allowed now; if so it is counted."""
        self._refill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def half_full(self, now: float) -> bool:
        """Whether there was little to do for a while."""
        self._refill(now)
        return self._tokens >= self._burst / 2

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
