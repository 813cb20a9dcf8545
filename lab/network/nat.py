"""A NAT of UDP (RFC 4787), by the kinds of RFC 3489 §5, as a pure machine.

Mapping is endpoint-independent (RFC 4787 §4.1) but for the symmetric kind, whose mappings are address- and
port-dependent; filtering (§5) is by kind. Outbound datagrams alone keep a mapping alive (§4.3 REQ-6; REQ-5
for its life). Outside ports go round a range, so that a mapping that is made anew has another port.
Left out: port preservation and parity (§4.2), hairpinning (§6), ICMP, fragments (§11).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from protocols.path import Address, Endpoint

MAPPING_LIFETIME = 300.0  # RFC 4787 §4.3 REQ-5: five minutes are recommended, two at the least
FIRST_PORT, LAST_PORT = 20_000, 29_999  # below what systems hand out themselves
MAPPINGS_MAXIMUM = 1024
REMOTES_MAXIMUM = 256  # whom a mapping lets in; the one that was spoken to the longest ago makes room


class NatKind(str, Enum):
    """RFC 3489 §5; restricted is by address."""

    NONE = "none"
    FULL_CONE = "full-cone"
    RESTRICTED = "restricted"
    PORT_RESTRICTED = "port-restricted"
    SYMMETRIC = "symmetric"


@dataclass(kw_only=True)
class Mapping:
    """An inside end point and the outside one that stands for it; ``remotes``: when each was last sent to."""

    inside: Endpoint
    outside: Endpoint
    used: float
    remotes: dict[Endpoint, float] = field(default_factory=dict)


class Nat:
    """One NAT; times are seconds of whatever clock the caller has."""

    def __init__(
        self,
        kind: NatKind,
        outside: Address,
        lifetime: float = MAPPING_LIFETIME,
        *,
        first_port: int = FIRST_PORT,
        last_port: int = LAST_PORT,
        mappings_maximum: int = MAPPINGS_MAXIMUM,
    ) -> None:
        if lifetime <= 0:
            raise ValueError(f"lifetime {lifetime:g}: expected seconds above 0")
        if not 0 < first_port <= last_port <= 65535:
            raise ValueError(f"ports {first_port} to {last_port}: expected a range of ports")
        self.kind = kind
        self.outside = outside
        self.lifetime = lifetime
        self._first_port, self._last_port = first_port, last_port
        self._next_port = first_port
        self._maximum = min(mappings_maximum, last_port - first_port + 1)
        self._by_inside: dict[tuple[Endpoint, Endpoint | None], Mapping] = {}
        self._by_outside: dict[Endpoint, Mapping] = {}
        self.mappings_made = 0
        self.mappings_expired = 0
        self.rebindings = 0
        self.dropped: Counter[str] = Counter()

    def outbound(self, source: Endpoint, destination: Endpoint, now: float) -> Endpoint | None:
        """Where a datagram from inside seems to come from; ``None``: there is no room for another mapping."""
        if self.kind is NatKind.NONE:
            return source
        mapping = self._mapping(self._key(source, destination), now) or self._map(source, destination, now)
        if mapping is None:
            self.dropped["no-room"] += 1
            return None
        mapping.used = now
        mapping.remotes.pop(destination, None)
        mapping.remotes[destination] = now
        if len(mapping.remotes) > REMOTES_MAXIMUM:
            mapping.remotes.pop(next(iter(mapping.remotes)))
        return mapping.outside

    def inbound(self, outside: Endpoint, source: Endpoint, now: float) -> Endpoint | None:
        """Whom inside a datagram to an outside end point is for; ``None``: it is not let in."""
        if self.kind is NatKind.NONE:
            return outside
        mapping = self._by_outside.get(outside)
        if mapping is None or self._has_expired(mapping, now):
            self.dropped["no-mapping"] += 1
            return None
        if not self._lets_in(mapping, source, now):
            self.dropped["filtered"] += 1
            return None
        return mapping.inside

    def rebind(self, outside: Address | None = None) -> None:
        """Forget everything, as after a restart; mappings that come get other ports, and perhaps another address."""
        self._by_inside.clear()
        self._by_outside.clear()
        self.rebindings += 1
        if outside is not None:
            self.outside = outside

    def expire(self, now: float) -> None:
        """Forget mappings whose life is over; they count for nothing before that already."""
        for key, mapping in list(self._by_inside.items()):
            if self._has_expired(mapping, now):
                del self._by_inside[key], self._by_outside[mapping.outside]
                self.mappings_expired += 1

    def mappings(self, now: float) -> tuple[tuple[Endpoint, Endpoint], ...]:
        """Inside and outside end points of what is mapped."""
        self.expire(now)
        return tuple((mapping.inside, mapping.outside) for mapping in self._by_inside.values())

    def _key(self, source: Endpoint, destination: Endpoint) -> tuple[Endpoint, Endpoint | None]:
        return source, destination if self.kind is NatKind.SYMMETRIC else None

    def _mapping(self, key: tuple[Endpoint, Endpoint | None], now: float) -> Mapping | None:
        mapping = self._by_inside.get(key)
        if mapping is not None and self._has_expired(mapping, now):
            del self._by_inside[key], self._by_outside[mapping.outside]
            self.mappings_expired += 1
            return None
        return mapping

    def _map(self, source: Endpoint, destination: Endpoint, now: float) -> Mapping | None:
        if len(self._by_inside) >= self._maximum:
            self.expire(now)
        if len(self._by_inside) >= self._maximum:
            return None
        outside = Endpoint(self.outside, self._next_port)
        while outside in self._by_outside:  # ends: there are fewer mappings than ports
            self._advance()
            outside = Endpoint(self.outside, self._next_port)
        self._advance()
        mapping = Mapping(inside=source, outside=outside, used=now)
        self._by_inside[self._key(source, destination)] = self._by_outside[outside] = mapping
        self.mappings_made += 1
        return mapping

    def _advance(self) -> None:
        self._next_port = self._first_port if self._next_port == self._last_port else self._next_port + 1

    def _has_expired(self, mapping: Mapping, now: float) -> bool:
        return now - mapping.used >= self.lifetime

    def _lets_in(self, mapping: Mapping, source: Endpoint, now: float) -> bool:
        if self.kind is NatKind.FULL_CONE:
            return True
        fresh = (remote for remote, used in mapping.remotes.items() if now - used < self.lifetime)
        if self.kind is NatKind.RESTRICTED:
            return any(remote.address == source.address for remote in fresh)
        return source in fresh
