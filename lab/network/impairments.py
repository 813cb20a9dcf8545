"""What a path does to datagrams: loss, delay, jitter, duplication, reordering, MTU; each by its share or seconds.

Every datagram is judged by itself, as by Linux's netem: jitter above the sending interval reorders as well.
Left out: bursts of loss, rate limits and queues.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

OVERTAKEN_INTERVAL = 0.02  # the least a reordered datagram is held back, seconds: one packet of voice


@dataclass(frozen=True, kw_only=True)
class Impairments:
    """One direction. Shares from 0 to 1; ``delay`` and ``jitter`` in seconds; ``mtu`` in octets of IP packets.

    Jitter is added to the delay, evenly spread from none to all of it. What is longer than ``mtu`` vanishes
    without a word, as where fragments and ICMP are filtered.
    """

    loss: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    mtu: int | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "duplication", "reordering"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ValueError(f"{name} {share:g}: expected a share from 0 to 1")
        for name in ("delay", "jitter"):
            interval = getattr(self, name)
            if not 0 <= interval < math.inf:
                raise ValueError(f"{name} {interval:g}: expected seconds, 0 or more")
        if self.mtu is not None and self.mtu < 1:
            raise ValueError(f"mtu {self.mtu}: expected octets, 1 or more")

    def plan(self, octets_length: int, random: Random, now: float) -> list[float]:
        """When the copies of an IP packet of so many octets arrive, the earliest first; empty: never."""
        if self.mtu is not None and octets_length > self.mtu:
            return []
        if _happens(self.loss, random):
            return []
        copies = 2 if _happens(self.duplication, random) else 1
        held = max(self.delay, OVERTAKEN_INTERVAL) if _happens(self.reordering, random) else 0.0
        return sorted(now + self.delay + held + self._jitter(random) for _ in range(copies))

    def _jitter(self, random: Random) -> float:
        return self.jitter * random.random() if self.jitter else 0.0


PERFECT = Impairments()


def _happens(share: float, random: Random) -> bool:
    """The random source is asked only where chance decides."""
    return share > 0 and (share >= 1 or random.random() < share)
