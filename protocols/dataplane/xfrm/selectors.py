"""Traffic selectors as the kernel's policies have them: prefixes of addresses, masks of ports.

A range that is no prefix becomes several, so that a pair of selectors may need many policies. Left out, with a
``LocalError``: types and codes of ICMP, OPAQUE ports, and more than ``PAIRS_MAXIMUM`` policies for one child SA.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, summarize_address_range
from itertools import product
from socket import AF_INET, AF_INET6
from typing import Any

from protocols.errors import LocalError
from protocols.esp.sa import ChildSaSpec
from protocols.selectors import PORT_MAXIMUM, TrafficSelector

PAIRS_MAXIMUM = 64
PORT_BITS = 16
ICMP_PROTOCOLS = (1, 58)
PORT_MASK_ALL = 0xFFFF


@dataclass(frozen=True)
class Side:
    """One side of a policy: ``port`` counts in the bits of ``mask``."""

    network: IPv4Network | IPv6Network
    port: int
    mask: int


@dataclass(frozen=True)
class Pair:
    """What one policy selects, as seen from us; ``if_id``: of packets of this XFRM interface, 0: of all."""

    local: Side
    remote: Side
    protocol: int
    if_id: int = 0

    def selector(self, *, outbound: bool) -> dict[str, Any]:
        """The kernel's selector, for packets from us or to us."""
        source, destination = (self.local, self.remote) if outbound else (self.remote, self.local)
        return {
            "family": AF_INET if source.network.version == 4 else AF_INET6,
            "saddr": str(source.network.network_address),
            "prefixlen_s": source.network.prefixlen,
            "sport": source.port,
            "sport_mask": source.mask,
            "daddr": str(destination.network.network_address),
            "prefixlen_d": destination.network.prefixlen,
            "dport": destination.port,
            "dport_mask": destination.mask,
            "proto": self.protocol,
        }


def pairs_of(spec: ChildSaSpec, if_id: int = 0) -> tuple[Pair, ...]:
    """The policies of a child SA in one direction. ``LocalError``: the kernel cannot express them."""
    found: dict[Pair, None] = {}
    for local, remote in product(spec.local_selectors, spec.remote_selectors):
        if local.version != remote.version or (
            local.protocol and remote.protocol and local.protocol != remote.protocol
        ):
            continue
        protocol = local.protocol or remote.protocol
        for one, other in product(_sides(local, protocol), _sides(remote, protocol)):
            found[Pair(one, other, protocol, if_id)] = None
            if len(found) > PAIRS_MAXIMUM:
                raise LocalError(f"the traffic selectors need more than {PAIRS_MAXIMUM} policies of the kernel's")
    if not found:
        raise LocalError("no local traffic selector goes with a remote one")
    return tuple(found)


def _sides(selector: TrafficSelector, protocol: int) -> Iterator[Side]:
    every_port = selector.start_port == 0 and selector.end_port == PORT_MAXIMUM
    if not every_port and (protocol in ICMP_PROTOCOLS or selector.start_port > selector.end_port):
        raise LocalError(f"the kernel's policies cannot select {selector}")
    for network in summarize_address_range(selector.start, selector.end):
        for port, mask in _blocks(selector.start_port, selector.end_port):
            yield Side(network, port, mask)


def _blocks(start: int, end: int) -> Iterator[tuple[int, int]]:
    """A range of ports as blocks whose size is a power of two: port and mask."""
    while start <= end:
        bits = min(PORT_BITS if start == 0 else (start & -start).bit_length() - 1, (end - start + 1).bit_length() - 1)
        yield start, PORT_MASK_ALL & ~((1 << bits) - 1)
        start += 1 << bits
