"""Inner addresses of an APN: an IPv4 address and an IPv6 /64 per session (TS 23.402 §4.7.3), static ones too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from protocols.path import Address

PREFIX_LENGTH = 64  # TS 23.402 §4.7.3: every UE has an IPv6 prefix of its own
INTERFACE_IDENTIFIER = 1  # of an address that the pool makes up

_INTERFACE_BITS = 128 - PREFIX_LENGTH
_INTERFACE_MASK = (1 << _INTERFACE_BITS) - 1

Network = IPv4Network | IPv6Network


class AddressPool:
    """Addresses of a network, handed out in turn so that a released one rests before it comes again.

    What is handed out is a *unit*: an IPv4 address, or an IPv6 prefix with one address in it. The first host
    address is the gateway's own, and its unit is never handed out.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._shift = _INTERFACE_BITS if network.version == 6 else 0
        # IPv4: network address, gateway and broadcast address are nobody's; IPv6: the gateway's prefix
        self._first = self._unit(network[0]) + (1 if network.version == 6 else 2)
        self._count = max(0, self._unit(network[-1]) + (1 if network.version == 6 else 0) - self._first)
        self._next = 0
        self._taken: set[int] = set()

    @property
    def gateway(self) -> Address:
        """The network's first host address."""
        return self.network[1]

    @property
    def in_use(self) -> int:
        """Addresses or prefixes handed out now."""
        return len(self._taken)

    def allocate(self, wanted: Address | None = None) -> Address | None:
        """``wanted`` if it is free and in the network, else the next free one; ``None``: all are taken.

        An IPv6 interface identifier that is wanted is kept where the prefix cannot be (RFC 7296 §3.15.3).
        """
        if wanted is not None and self.is_free(wanted):
            self._taken.add(self._unit(wanted))
            return self._address(self._unit(wanted), wanted)
        for _ in range(self._count):
            unit = self._first + self._next
            self._next = (self._next + 1) % self._count
            if unit not in self._taken:
                self._taken.add(unit)
                return self._address(unit, wanted)
        return None

    def is_free(self, address: Address) -> bool:
        """Whether ``allocate`` can hand this very address (or its prefix) out now."""
        unit = self._unit(address)
        return address in self.network and self._first <= unit < self._first + self._count and unit not in self._taken

    def reserve(self, address: Address) -> bool:
        """Take a static address, in the network or outside; ``False`` when another session has it."""
        if self._unit(address) in self._taken:
            return False
        self._taken.add(self._unit(address))
        return True

    def release(self, address: Address) -> None:
        """Give an address back; one that is not taken is ignored."""
        self._taken.discard(self._unit(address))

    def _unit(self, address: Address) -> int:
        return int(address) >> self._shift

    def _address(self, unit: int, wanted: Address | None) -> Address:
        if self.network.version == 4:
            return IPv4Address(unit)
        identifier = INTERFACE_IDENTIFIER if wanted is None else int(wanted) & _INTERFACE_MASK
        return IPv6Address(unit << self._shift | (identifier or INTERFACE_IDENTIFIER))


class AddressPools:
    """The pools of an APN, at most one of each IP version."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._pools: dict[int, AddressPool] = {network.version: AddressPool(network) for network in networks}

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions that the APN has."""
        return tuple(sorted(self._pools))

    @property
    def pools(self) -> tuple[AddressPool, ...]:
        """Each pool."""
        return tuple(self._pools[version] for version in self.versions)

    @property
    def in_use(self) -> int:
        """Addresses and prefixes handed out now."""
        return sum(pool.in_use for pool in self._pools.values())

    def allocate(
        self,
        versions: Iterable[int],
        *,
        wanted: Sequence[Address] = (),
        static: Sequence[Address] = (),
        held: Sequence[Address] = (),
        single: bool = False,
        other: bool = True,
    ) -> tuple[Address, ...]:
        """One address of each version that is possible: the static one, the wanted one, or the next.

        With ``single`` one address in all. Without ``other`` a wanted address that cannot be had is not
        replaced. A static address that another session has is not replaced either. ``held`` are addresses that
        the same subscriber has already and takes along.
        """
        found: list[Address] = []
        for version in versions:
            pool = self._pools.get(version)
            if pool is None or (single and found):
                continue
            address = _of(held, version) or self._allocate(
                pool, _of(static, version), _of(wanted, version), other=other
            )
            if address is not None:
                found.append(address)
        return tuple(found)

    def release(self, address: Address) -> None:
        """Give an address back."""
        pool = self._pools.get(address.version)
        if pool is not None:
            pool.release(address)

    def _allocate(
        self, pool: AddressPool, static: Address | None, wanted: Address | None, *, other: bool
    ) -> Address | None:
        if static is not None:
            return static if pool.reserve(static) else None
        if wanted is not None and not other and not pool.is_free(wanted):
            return None
        return pool.allocate(wanted)


def _of(addresses: Sequence[Address], version: int) -> Address | None:
    return next((address for address in addresses if address.version == version), None)
