"""How fast a TCP connection sends and when it sends again: RFC 5681, RFC 6582 and RFC 6298."""

from __future__ import annotations

RTO_INITIAL = 1.0  # RFC 6298 §2.1
RTO_MINIMUM = 0.2  # RFC 6298 §2.4 has 1 s; Linux and Android have this
RTO_MAXIMUM = 60.0  # RFC 6298 §2.5
GRANULARITY = 0.001
DUPLICATES = 3  # RFC 5681 §3.2


class RetransmissionTimeout:
    """RTO from samples of the round-trip time (RFC 6298 §2), doubled while nothing is acknowledged (§5.5)."""

    def __init__(self) -> None:
        self.smoothed: float | None = None
        self.backoff = 0
        self._variation = 0.0
        self._base = RTO_INITIAL

    def interval(self) -> float:
        """Seconds until what is sent now is sent again."""
        doubled: float = self._base * (1 << min(self.backoff, 10))
        return min(RTO_MAXIMUM, doubled)

    def sample(self, trip: float) -> None:
        """A round-trip time of a segment that was sent once (RFC 6298 §2.2, §2.3)."""
        if self.smoothed is None:
            self.smoothed, self._variation = trip, trip / 2
        else:
            self._variation += (abs(self.smoothed - trip) - self._variation) / 4
            self.smoothed += (trip - self.smoothed) / 8
        self._base = max(RTO_MINIMUM, self.smoothed + max(GRANULARITY, 4 * self._variation))


class CongestionWindow:
    """Slow start, congestion avoidance, fast recovery (RFC 5681 §3) with partial acknowledgments (RFC 6582)."""

    def __init__(self, mss: int) -> None:
        self._mss = mss
        self._initial = (2 if mss > 2190 else 3 if mss > 1095 else 4) * mss  # RFC 5681 §3.1
        self.octets = self._initial
        self._threshold = 1 << 30
        self._duplicates = 0
        self._recover: int | None = None

    def acknowledged(self, acknowledgment: int, octets: int, flight: int) -> bool:
        """So much was acknowledged, ``flight`` is not yet; whether the next hole is to be filled at once."""
        mss = self._mss
        if self._recover is not None and acknowledgment < self._recover:
            self.octets = max(mss, self.octets - octets + (mss if octets >= mss else 0))  # RFC 6582 §3.2
            return True
        self._duplicates = 0
        if self._recover is not None:
            self.octets = min(self._threshold, max(flight, mss) + mss)
            self._recover = None
        elif self.octets < self._threshold:
            self.octets += min(octets, mss)
        else:
            self.octets += max(1, mss * mss // self.octets)
        return False

    def duplicate(self, highest: int, flight: int) -> bool:
        """A duplicate acknowledgment (RFC 5681 §3.2); whether it is the one that makes a segment go again."""
        self._duplicates += 1
        if self._recover is not None:
            self.octets += self._mss
        elif self._duplicates == DUPLICATES:
            self._recover = highest
            self._threshold = max(flight // 2, 2 * self._mss)
            self.octets = self._threshold + DUPLICATES * self._mss
            return True
        return False

    def expired(self, flight: int, *, again: bool) -> None:
        """The retransmission timer (RFC 5681 §3.1, (4)); ``again``: the same segment's once more."""
        if not again:
            self._threshold = max(flight // 2, 2 * self._mss)
        self.octets = self._mss
        self._duplicates = 0
        self._recover = None

    def idle(self) -> None:
        """Nothing was sent for a retransmission timeout (RFC 5681 §4.1)."""
        self.octets = min(self.octets, self._initial)
