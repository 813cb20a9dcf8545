"""Inner addresses of an APN: an IPv4 address and an IPv6 /64 per session (TS 23.402 §4.7.3), static ones too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from protocols.path import Address

PREFIX_LENGTH = 64  # TS 23.402 §4.7.3: every UE has an IPv6 prefix of its own
INTERFACE_IDENTIFIER = 1  # of an address that the pool makes up

_INTERFACE_BITS = 128 - PREFIX_LENGTH
_INTERFACE_MASK = (1 << _INTERFACE_BITS) - 1

Network = IPv4Network | IPv6Network
AddressRange = tuple[Address, Address]
"""The first and the last address, both in it."""


class ForeignAddresses:
    """What no static address of an APN may be: addresses of other APNs and of the gateway itself.

    Static addresses outside every pool are entered here by all APNs, so that none is given twice.
    """

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = tuple(networks)
        self._taken: set[tuple[int, int]] = set()

    def take(self, address: Address, own: Sequence[Network]) -> bool:
        """Enter a static address outside ``own``; ``False`` when it is somebody else's."""
        if any(address in network for network in self._networks if network not in own):
            return False
        if _key(address) in self._taken:
            return False
        self._taken.add(_key(address))
        return True

    def discard(self, address: Address) -> None:
        """Give one back."""
        self._taken.discard(_key(address))


class AddressPool:
    """Addresses of one IP version, handed out in turn so that a released one rests as long as it can.

    What is handed out is a *unit*: an IPv4 address, or an IPv6 prefix with one address in it. Of each network the first
    host address is the gateway's own, and its unit is never handed out; ``excluded`` ones only as static addresses.
    """

    def __init__(
        self,
        *networks: Network,
        excluded: Iterable[AddressRange] = (),
        stable: bool = False,
        foreign: ForeignAddresses | None = None,
    ) -> None:
        """``stable``: who comes again gets the address it had, unless it was given to another since."""
        self.networks = networks
        self._version = networks[0].version
        self._shift = _INTERFACE_BITS if self._version == 6 else 0
        self._foreign = foreign or ForeignAddresses()
        self._whole = [self._span(network) for network in networks]
        holes = sorted((self._unit(first), self._unit(last) + 1) for first, last in excluded)
        self._dynamic = [piece for span in self._whole for piece in _without(span, holes)]
        self._fresh = self._never_handed_out()
        self._rested: dict[int, None] = {}  # released, the one that rests longest first
        self._taken: set[int] = set()
        self._outside: set[Address] = set()
        self._stable = stable
        self._former: dict[str, int] = {}
        self._owner: dict[int, str] = {}

    @property
    def gateways(self) -> tuple[Address, ...]:
        """The first host address of each network."""
        return tuple(network[1] for network in self.networks)

    @property
    def in_use(self) -> int:
        """Addresses or prefixes handed out now."""
        return len(self._taken) + len(self._outside)

    def allocate(self, wanted: Address | None = None, who: str = "") -> Address | None:
        """``wanted`` if it is free and can be handed out, else the next free one; ``None``: all are taken.

        An IPv6 interface identifier that is wanted is kept where the prefix cannot be (RFC 7296 §3.15.3).
        """
        unit = None
        if wanted is not None and self.is_free(wanted):
            unit = self._unit(wanted)
        elif self._stable and self._former.get(who, -1) in self._rested:
            unit = self._former[who]
        if unit is None:
            unit = next(self._fresh, None)
        if unit is None:
            unit = next(iter(self._rested), None)
        if unit is None:
            return None
        self._take(unit)
        if self._stable and who:
            self._former.pop(self._owner.pop(unit, ""), None)
            self._owner.pop(self._former.get(who, -1), None)
            self._former[who], self._owner[unit] = unit, who
        return self._address(unit, wanted)

    def is_free(self, address: Address) -> bool:
        """Whether ``allocate`` can hand this very address (or its prefix) out now."""
        unit = self._unit(address)
        return address.version == self._version and self._is_dynamic(unit) and unit not in self._taken

    def reserve(self, address: Address) -> bool:
        """Take a static address, in the networks or outside; ``False`` when it is not to be had.

        Another session has it, or it is the gateway's own, another APN's, or no host's address.
        """
        if self.is_outside(address):
            if not self._foreign.take(address, self.networks):
                return False
            self._outside.add(address)
            return True
        unit = self._unit(address)
        if unit in self._taken or not any(first <= unit < end for first, end in self._whole):
            return False
        self._take(unit)
        return True

    def is_outside(self, address: Address) -> bool:
        """Whether an address is in none of the networks: nothing leads to it unless it is told."""
        return not any(address in network for network in self.networks)

    def release(self, address: Address) -> None:
        """Give an address back; one that is not taken is ignored."""
        if address in self._outside:
            self._outside.discard(address)
            self._foreign.discard(address)
            return
        unit = self._unit(address)
        if unit in self._taken:
            self._taken.discard(unit)
            if self._is_dynamic(unit):
                self._rested[unit] = None

    def _take(self, unit: int) -> None:
        self._taken.add(unit)
        self._rested.pop(unit, None)

    def _never_handed_out(self) -> Iterator[int]:
        for first, end in self._dynamic:
            for unit in range(first, end):
                if unit not in self._taken and unit not in self._rested:
                    yield unit

    def _is_dynamic(self, unit: int) -> bool:
        return any(first <= unit < end for first, end in self._dynamic)

    def _span(self, network: Network) -> tuple[int, int]:
        """IPv4: network address, gateway and broadcast address are nobody's; IPv6: the gateway's prefix."""
        if network.version == 6:
            return self._unit(network[0]) + 1, self._unit(network[-1]) + 1
        return self._unit(network[0]) + 2, self._unit(network[-1])

    def _unit(self, address: Address) -> int:
        return int(address) >> self._shift

    def _address(self, unit: int, wanted: Address | None) -> Address:
        if self._version == 4:
            return IPv4Address(unit)
        identifier = INTERFACE_IDENTIFIER if wanted is None else int(wanted) & _INTERFACE_MASK
        return IPv6Address(unit << self._shift | (identifier or INTERFACE_IDENTIFIER))


class AddressPools:
    """The pools of an APN, at most one of each IP version."""

    def __init__(
        self,
        networks: Iterable[Network],
        *,
        excluded: Iterable[AddressRange] = (),
        stable: bool = False,
        foreign: ForeignAddresses | None = None,
    ) -> None:
        networks, excluded = tuple(networks), tuple(excluded)
        self._pools: dict[int, AddressPool] = {}
        for version in sorted({network.version for network in networks}):
            own = [network for network in networks if network.version == version]
            holes = [(first, last) for first, last in excluded if first.version == version]
            self._pools[version] = AddressPool(*own, excluded=holes, stable=stable, foreign=foreign)

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions that the APN has."""
        return tuple(self._pools)

    @property
    def pools(self) -> tuple[AddressPool, ...]:
        """Each pool."""
        return tuple(self._pools.values())

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks of all of them."""
        return tuple(network for pool in self.pools for network in pool.networks)

    @property
    def in_use(self) -> int:
        """Addresses and prefixes handed out now."""
        return sum(pool.in_use for pool in self._pools.values())

    def is_outside(self, address: Address) -> bool:
        """Whether a static address is in none of the networks."""
        return all(pool.is_outside(address) for pool in self.pools)

    def allocate(
        self,
        versions: Iterable[int],
        *,
        wanted: Sequence[Address] = (),
        static: Sequence[Address] = (),
        held: Sequence[Address] = (),
        who: str = "",
        single: bool = False,
        other: bool = True,
    ) -> tuple[Address, ...]:
        """One address of each version that is possible: the static one, the wanted one, or the next.

        With ``single`` one address in all. Without ``other`` a wanted address that cannot be had is not
        replaced. A static address that another session has is not replaced either. ``held`` are addresses that
        the same subscriber has already and takes along. ``who`` is the subscriber, for pools that remember.
        """
        found: list[Address] = []
        for version in versions:
            pool = self._pools.get(version)
            if pool is None or (single and found):
                continue
            address = _of(held, version) or self._allocate(
                pool, _of(static, version), _of(wanted, version), who=who, other=other
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
        self, pool: AddressPool, static: Address | None, wanted: Address | None, *, who: str, other: bool
    ) -> Address | None:
        if static is not None:
            return static if pool.reserve(static) else None
        if wanted is not None and not other and not pool.is_free(wanted):
            return None
        return pool.allocate(wanted, who)


def _of(addresses: Sequence[Address], version: int) -> Address | None:
    return next((address for address in addresses if address.version == version), None)


def _key(address: Address) -> tuple[int, int]:
    """An IPv4 address, or the /64 of an IPv6 one."""
    return address.version, int(address) >> (_INTERFACE_BITS if address.version == 6 else 0)


def _without(span: tuple[int, int], holes: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The pieces of a span of units that are in no hole; holes come sorted."""
    first, end = span
    for hole, after in holes:
        if after <= first or hole >= end:
            continue
        if hole > first:
            yield first, hole
        first = after
    if first < end:
        yield first, end
