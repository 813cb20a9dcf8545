"""An ``InterfaceWatch`` before a real kernel: an interface renamed, and more events than the socket holds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network

import pytest
from pyroute2 import IPRoute

from lab.namespaces import IFA_F_NODAD, Namespace
from protocols.errors import BackendError
from protocols.io.netlink import Interface, InterfaceWatch
from protocols.path import Address
from tests.peers.namespaces import require_namespaces

pytestmark = pytest.mark.root

LIMIT = 20.0
FLOOD = 1500  # times two changes, while nobody listens
ADDRESS = "10.1.0.2"


Until = Callable[[Callable[[Interface], bool]], Awaitable[None]]
Change = Callable[[IPRoute], object]


def change(*changes: Change) -> None:
    """Carry out changes in a thread of its own: the caller's loop stands still meanwhile."""

    def all_of_them() -> None:
        with IPRoute() as route:
            for each in changes:
                each(route)

    with ThreadPoolExecutor(1) as executor:
        executor.submit(all_of_them).result()


def link(index: int, **settings: object) -> Change:
    return lambda route: route.link("set", index=index, **settings)


def address(index: int, command: str, text: str) -> Change:
    return lambda route: route.addr(command, index=index, address=text, prefixlen=24)


def default_route(index: int, command: str, next_hop: str) -> Change:
    return lambda route: route.route(command, dst="0.0.0.0/0", gateway=next_hop, oif=index, priority=100)


def watching(name: str, body: Callable[[int, Until], Awaitable[None]]) -> None:
    """Play ``body`` beside a watch of ``name``, where an interface ``first`` has an address."""
    require_namespaces()
    changed = asyncio.Event()
    states = [Interface()]

    def told(_: str, old: Interface, new: Interface) -> None:
        assert old == states[-1]
        states.append(new)
        changed.set()

    def failed(error: BackendError) -> None:
        raise error

    async def until(reached: Callable[[Interface], bool]) -> None:
        while not reached(states[-1]):
            changed.clear()
            await changed.wait()

    async def run(index: int) -> None:
        watch = InterfaceWatch([name], told, failed)
        async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as tasks:
            await watch.open(tasks)
            await body(index, until)
            watch.close()

    def inside() -> None:
        with IPRoute() as route:
            route.link("add", ifname="first", kind="veth", peer="other")
            route.link("set", index=route.link_lookup(ifname="other")[0], state="up")
            (index,) = route.link_lookup(ifname="first")
        change(link(index, state="up"), address(index, "add", ADDRESS))
        asyncio.run(run(index))

    with Namespace("watch", ipv6=True) as namespace:
        namespace.call(inside)


def test_an_interface_comes_to_its_name_and_leaves_it_by_renaming() -> None:
    async def body(index: int, until: Until) -> None:
        change(link(index, state="down"), link(index, ifname="wlan0"), link(index, state="up"))
        await until(lambda state: state.usable == (ip_address(ADDRESS),) and bool(state.routes))
        change(link(index, state="down"), link(index, ifname="wlan1"))
        await until(lambda state: state == Interface())
        change(link(index, ifname="wlan0"), link(index, state="up"))
        await until(lambda state: state.usable == (ip_address(ADDRESS),))

    watching("wlan0", body)


def test_what_the_kernel_could_not_tell_is_read_again() -> None:
    """ENOBUFS: more changes than the socket holds while nobody reads; the last ones count."""

    async def body(index: int, until: Until) -> None:
        there_and_gone = [address(index, command, "10.1.0.3") for command in ("add", "del")]
        change(
            *there_and_gone * FLOOD,
            address(index, "add", "10.2.0.2"),
            address(index, "del", ADDRESS),
        )
        await until(lambda state: state.usable == (ip_address("10.2.0.2"),))

    watching("first", body)


def test_routes_that_the_kernel_does_not_say_are_gone() -> None:
    """Replaced ones, and those that go with the last address: what comes in their place is a change each time."""

    def ways(state: Interface) -> list[str]:
        everywhere = ip_network("0.0.0.0/0")
        return [route.way.split()[0] for route in state.routes if route.destination == everywhere]

    async def body(index: int, until: Until) -> None:
        change(default_route(index, "add", "10.1.0.1"))
        for next_hop in ("10.1.0.9", "10.1.0.1", "10.1.0.9"):
            change(default_route(index, "replace", next_hop))
            await until(lambda state, way=next_hop: ways(state) == [way])  # type: ignore[misc]
        change(address(index, "del", ADDRESS))
        await until(lambda state: not state.usable and not ways(state))
        change(address(index, "add", ADDRESS), default_route(index, "add", "10.1.0.9"))
        await until(lambda state: bool(state.usable) and ways(state) == ["10.1.0.9"])

    watching("first", body)


def test_a_link_is_of_use_when_its_authentication_is_over() -> None:
    """As a supplicant of IEEE 802.1X has it: the carrier is there, the link is dormant until the keys are."""

    async def body(index: int, until: Until) -> None:
        change(link(index, linkmode=1), link(index, operstate="DORMANT"))
        await until(lambda state: bool(state.held) and not state.usable)
        change(link(index, operstate="UP"))
        await until(lambda state: state.usable == (ip_address(ADDRESS),))

    watching("first", body)


def test_a_network_that_is_renumbered() -> None:
    """RFC 4862 §5.5.4: the old IPv6 address is deprecated first, and goes later; IPv4 is as it was all the while."""
    old, new = ip_address("2001:db8:1::2"), ip_address("2001:db8:2::2")

    def lives(text: str, preferred: int) -> Change:
        return lambda route: route.addr(
            "replace", index=index_of[0], address=text, prefixlen=64, preferred=preferred, valid=3600, flags=IFA_F_NODAD
        )

    def v6(state: Interface) -> list[Address]:
        return [each for each in state.usable if each.version == 6]

    index_of: list[int] = []

    async def body(index: int, until: Until) -> None:
        index_of.append(index)
        change(lives(str(old), 1800))
        await until(lambda state: v6(state) == [old])
        change(lives(str(new), 1800))
        await until(lambda state: v6(state) == [old, new])
        change(lives(str(old), 0))
        await until(lambda state: v6(state) == [new, old])
        change(lambda route: route.addr("del", index=index, address=str(old), prefixlen=64))
        await until(lambda state: v6(state) == [new] and ip_address(ADDRESS) in state.usable)

    watching("first", body)
