"""Transport addresses as values: an end point, a path between two, and a datagram on a path."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address
ENDPOINTS_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a UDP or TCP port."""

    address: Address
    port: int
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.address, self.port)))  # that of an address is slow

    def __hash__(self) -> int:
        return self._hash

    @classmethod
    def of(cls, address: str | Address, port: int) -> Endpoint:
        """Build from text or an address; ``ValueError`` on bad text."""
        return _known(address, port)

    def __str__(self) -> str:
        if self.address.version == 6:
            return f"[{self.address}]:{self.port}"
        return f"{self.address}:{self.port}"


@lru_cache(maxsize=ENDPOINTS_KEPT)
def _known(address: str | Address, port: int) -> Endpoint:
    """Every datagram names its source: to parse it costs more than to open its ESP."""
    return Endpoint(ip_address(address) if isinstance(address, str) else address, port)


@dataclass(frozen=True, slots=True)
class Path:
    """Where we are and where the peer is, as seen from this end."""

    local: Endpoint
    remote: Endpoint

    def reversed(self) -> Path:
        """The same path as the peer sees it when nothing translates addresses between."""
        return Path(self.remote, self.local)

    def __str__(self) -> str:
        return f"{self.local} <-> {self.remote}"


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP payload (without the non-ESP marker of RFC 3948) and the path it goes or came on."""

    path: Path
    payload: bytes
