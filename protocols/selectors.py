"""Traffic selectors (RFC 7296 §3.13.1) as values: which packets a child SA may carry."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from protocols.path import Address

PORT_MAXIMUM = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSelector:
    """An address range, a port range and a protocol (0 = any)."""

    start: Address
    end: Address
    protocol: int = 0
    start_port: int = 0
    end_port: int = PORT_MAXIMUM

    @classmethod
    def network(cls, text: str) -> TrafficSelector:
        """All protocols and ports of a network or host written as text, e.g. ``0.0.0.0/0``."""
        network = ip_network(text)
        return cls(start=network[0], end=network[-1])

    @classmethod
    def host(cls, address: str | Address) -> TrafficSelector:
        """All protocols and ports of one address."""
        value = ip_address(address) if isinstance(address, str) else address
        return cls(start=value, end=value)

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.start.version

    def contains(self, address: Address) -> bool:
        """Whether ``address`` lies in the range."""
        return address.version == self.start.version and int(self.start) <= int(address) <= int(self.end)

    def matches(self, address: Address, protocol: int, port: int | None) -> bool:
        """Whether a packet's address, protocol and port (``None``: it has none) lie inside."""
        if not self.contains(address) or self.protocol not in (0, protocol):
            return False
        if port is None:
            return self.start_port == 0 and self.end_port == PORT_MAXIMUM
        return self.start_port <= port <= self.end_port

    def intersect(self, other: TrafficSelector) -> TrafficSelector | None:
        """The packets that both select, ``None`` when there are none (RFC 7296 §2.9)."""
        if self.version != other.version:
            return None
        if self.protocol and other.protocol and self.protocol != other.protocol:
            return None
        low = max(int(self.start), int(other.start))
        high = min(int(self.end), int(other.end))
        low_port = max(self.start_port, other.start_port)
        high_port = min(self.end_port, other.end_port)
        if low > high or low_port > high_port:
            return None
        family = type(self.start)
        return TrafficSelector(
            start=family(low),
            end=family(high),
            protocol=self.protocol or other.protocol,
            start_port=low_port,
            end_port=high_port,
        )

    def covers(self, other: TrafficSelector) -> bool:
        """Whether every packet ``other`` selects is selected here too."""
        return self.intersect(other) == other

    def __str__(self) -> str:
        span = str(self.start) if self.start == self.end else f"{self.start}-{self.end}"
        if self.protocol or self.start_port or self.end_port != PORT_MAXIMUM:
            return f"{span}[{self.protocol}/{self.start_port}-{self.end_port}]"
        return span
