"""Who may make an IKE SA: half-open SAs by source, and when a COOKIE is demanded (RFC 7296 §2.6, RFC 8019 §4).

A cookie is demanded when there are many half-open SAs or when more arrive than ``cookie_rate``; what
counts as many shrinks with the share of initiators that never came back (RFC 8019 §4.2), and a demand
once made ends only when things have been calm for a while. Left out: puzzles (RFC 8019 §4.4).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from protocols.errors import Fact
from protocols.ikev2.rate import TokenBucket
from protocols.ikev2.sa import IkeSa
from protocols.path import Address, Endpoint, Path

PREFIX_LENGTH_IPV6: Final = 8  # octets: RFC 8019 §4.2, a /64; of an IPv4 address all four count
EVIDENCE_PRIOR: Final = 8  # initiators of whom good is assumed before anything is known
TOLD_RATE: Final = 20  # turned away requests that are told of, each second
EVIDENCE_MAXIMUM: Final = 256  # above it what is known counts half: the past fades


class CookieDemand:
    """Whether IKE_SA_INIT requests must return a cookie first (§2.6)."""

    def __init__(self, threshold: int, rate: float) -> None:
        self._configured = threshold
        self._arrivals = TokenBucket(rate, burst=2 * rate)
        self._came_back = 0
        self._expired = 0
        self._on = False

    @property
    def threshold(self) -> int:
        """How many half-open SAs are too many now: as configured, less if initiators use not to come back."""
        known = self._came_back + self._expired + EVIDENCE_PRIOR
        return -(-self._configured * (self._came_back + EVIDENCE_PRIOR) // known)

    def wanted(self, half_open: int, now: float) -> bool:
        """One more request has arrived: must it have a cookie?"""
        if not self._arrivals.take(now) or half_open >= self.threshold:
            self._on = True
        elif self._on and half_open <= self.threshold // 2 and self._arrivals.half_full(now):
            self._on = False
        return self._on

    def learn(self, *, came_back: bool) -> None:
        """An initiator has sent its authentic IKE_AUTH request, or its half-open SA has expired without."""
        if came_back:
            self._came_back += 1
        else:
            self._expired += 1
        if self._came_back + self._expired > EVIDENCE_MAXIMUM:
            self._came_back //= 2
            self._expired //= 2


@dataclass(frozen=True, kw_only=True)
class TurnedAway:
    """An IKE_SA_INIT request that made no SA: ``reason`` is a slug, ``facts`` what is behind it."""

    spi_i: bytes
    path: Path
    reason: str
    text: str
    facts: Mapping[str, Fact] = field(default_factory=dict)


class TurnedAwayRequests:
    """Those to be told of: never more than a few each second, however many there are."""

    def __init__(self) -> None:
        self._waiting: deque[TurnedAway] = deque(maxlen=TOLD_RATE)
        self._rate = TokenBucket(TOLD_RATE, TOLD_RATE)

    def add(self, request: TurnedAway, now: float) -> None:
        """One more."""
        if self._rate.take(now):
            self._waiting.append(request)

    def poll(self) -> TurnedAway | None:
        """The next one."""
        return self._waiting.popleft() if self._waiting else None


@dataclass(kw_only=True)
class HalfOpen:
    """A responder SA whose set-up is not finished; ``came_back``: its initiator is no forgery."""

    sa: IkeSa
    key: tuple[bytes, Endpoint]
    source: bytes
    came_back: bool = False


class HalfOpenSas:
    """By the initiator's SPI and end point, by our SPI, and how many there are of each source."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[bytes, Endpoint], HalfOpen] = {}
        self._by_spi: dict[bytes, HalfOpen] = {}
        self._sources: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._by_spi)

    def find(self, spi_i: bytes, remote: Endpoint) -> IkeSa | None:
        """The SA that an earlier copy of this request has made."""
        found = self._by_key.get((spi_i, remote))
        return None if found is None else found.sa

    def of(self, local_spi: bytes) -> HalfOpen | None:
        """The entry of an SA, ``None`` once it is up or gone."""
        return self._by_spi.get(local_spi)

    def from_source(self, address: Address) -> int:
        """How many there are of an IPv4 address or an IPv6 /64."""
        return self._sources[_source(address)]

    def add(self, sa: IkeSa, remote: Endpoint) -> None:
        """A new one."""
        entry = HalfOpen(sa=sa, key=(sa.spi_i, remote), source=_source(remote.address))
        self._by_key[entry.key] = self._by_spi[sa.local_spi] = entry
        self._sources[entry.source] += 1

    def remove(self, entry: HalfOpen) -> None:
        """It is up or gone."""
        del self._by_key[entry.key]
        del self._by_spi[entry.sa.local_spi]
        self._sources[entry.source] -= 1
        if not self._sources[entry.source]:
            del self._sources[entry.source]


def _source(address: Address) -> bytes:
    return address.packed if address.version == 4 else address.packed[:PREFIX_LENGTH_IPV6]
