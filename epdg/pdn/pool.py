"""Inner addresses of an APN: one per session, static ones when the subscription names them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network


class AddressPool:
    """Addresses of a network, handed out in turn so that a released one rests before it comes again.

    The first address of the network is the gateway's own and never handed out.
    """

    def __init__(self, network: IPv4Network) -> None:
        self.network = network
        self._hosts = network.num_addresses - 2
        self._next = 0
        self._taken: set[IPv4Address] = set()

    @property
    def gateway(self) -> IPv4Address:
        """The network's first host address."""
        return self.network[1]

    @property
    def in_use(self) -> int:
        """Addresses handed out now."""
        return len(self._taken)

    def allocate(self, wanted: IPv4Address | None = None) -> IPv4Address | None:
        """``wanted`` if it is free and in the network, else the next free one; ``None``: all are taken."""
        if wanted is not None and wanted in self.network and self._usable(wanted):
            self._taken.add(wanted)
            return wanted
        for _ in range(self._hosts):
            candidate = self.network[1 + self._next]
            self._next = (self._next + 1) % self._hosts
            if self._usable(candidate):
                self._taken.add(candidate)
                return candidate
        return None

    def reserve(self, address: IPv4Address) -> bool:
        """Take a static address, in the network or outside; ``False`` when another session has it."""
        if address in self._taken:
            return False
        self._taken.add(address)
        return True

    def release(self, address: IPv4Address) -> None:
        """Give an address back; one that is not taken is ignored."""
        self._taken.discard(address)

    def _usable(self, address: IPv4Address) -> bool:
        edges = (self.network.network_address, self.network.broadcast_address, self.gateway)
        return address not in self._taken and address not in edges
