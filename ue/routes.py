"""Which networks are led into the UE's TUN device, so that the tunnel's own packets are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network, summarize_address_range

from protocols.path import Address
from protocols.selectors import TrafficSelector

METRIC = 2048  # of networks around a gateway: what is on the access's own link stays there, also of the same size

Network = IPv4Network | IPv6Network


def granted_routes(selectors: Iterable[TrafficSelector], outside: Iterable[Address]) -> list[Network]:
    """The networks of the granted selectors, without those that hold a gateway's address."""
    gateways = tuple(outside)
    networks = [
        network
        for selector in selectors
        if not any(selector.contains(address) for address in gateways)
        for network in summarize_address_range(selector.start, selector.end)
    ]
    return list(dict.fromkeys(networks))


def configured_routes(
    networks: Iterable[Network], outside: Iterable[Address], told: Iterable[Address]
) -> list[Network]:
    """The networks as configured, those that hold the gateway without it and the others it has told of.

    In a network without the gateway, what it tells of is behind it.
    """
    gateways, others = tuple(outside), tuple(told)
    found: list[Network] = []
    for network in networks:
        holes = (*gateways, *others) if any(address in network for address in gateways) else ()
        found += without([network], holes)
    return list(dict.fromkeys(found))


def without(networks: Sequence[Network], outside: Iterable[Address]) -> list[Network]:
    """The networks with the gateways' addresses cut out: 0.0.0.0/0 becomes the 32 networks around one."""
    left: list[Network] = list(networks)
    for address in outside:
        hole = ip_network(address)
        left = [part for network in left for part in _cut(network, hole)]
    return list(dict.fromkeys(left))


def _cut(network: Network, hole: Network) -> list[Network]:
    if isinstance(network, IPv4Network) and isinstance(hole, IPv4Network):
        return [*network.address_exclude(hole)] if hole.subnet_of(network) else [network]
    if isinstance(network, IPv6Network) and isinstance(hole, IPv6Network):
        return [*network.address_exclude(hole)] if hole.subnet_of(network) else [network]
    return [network]
