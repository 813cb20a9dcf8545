"""What the changes of interfaces say of accesses (RFC 4621 §5.1.1), without a kernel."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address

from protocols.io.netlink import Interface, InterfaceAddress, Route
from protocols.path import Address
from ue.config import AccessSection
from ue.interfaces import ABSENCE_INTERVAL, InterfaceTriggers
from ue.steering import Steering

FOUR, SIX = (
    InterfaceAddress(address=ip_address(text), prefix_lengths=frozenset({24})) for text in ("10.0.0.2", "fd00::2")
)
ROUTES = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
WAYS = [frozenset({Route(destination=destination, metric=0, way="")}) for destination in ROUTES]
BOTH = Interface(up=True, held=(FOUR, SIX), routes=WAYS[0] | WAYS[1])
WITHOUT_IPV4 = replace(BOTH, held=(SIX,), routes=WAYS[1])
ACCESSES = {
    "four": AccessSection(address=ip_address("0.0.0.0"), interface="wlan0"),
    "six": AccessSection(address=ip_address("::"), interface="wlan0"),
}


class Told(Steering):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def gained(self, access: str, address: Address | None = None, *, what: str = "an address") -> None:
        self.heard.append((access, what))

    def lost(self, access: str, what: str = "its address") -> None:
        self.heard.append((access, f"lost {what}"))

    def route_changed(self, access: str) -> None:
        self.heard.append((access, "route"))


def told(old: Interface, new: Interface, gateway: str) -> list[tuple[str, str]]:
    """What is said of a change while IKE SAs are with a gateway."""

    async def story() -> list[tuple[str, str]]:
        steering = Told()
        triggers = InterfaceTriggers(ACCESSES, steering, lambda: [ip_address(gateway)])
        triggers.changed("wlan0", old, new)
        await asyncio.sleep(2 * ABSENCE_INTERVAL)
        triggers.close()
        return steering.heard

    return asyncio.run(story())


def test_ipv4_that_goes_leaves_the_access_of_ipv6_on_the_same_interface() -> None:
    """Its routes have never led to a gateway of the other IP version."""
    assert told(BOTH, WITHOUT_IPV4, "192.0.2.1") == [("four", "lost its address")]


def test_the_route_to_the_gateway_goes_and_the_address_stays() -> None:
    heard = told(BOTH, replace(BOTH, routes=WITHOUT_IPV4.routes), "192.0.2.1")
    assert heard == [("four", "lost its route to the gateway")]
