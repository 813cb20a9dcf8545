"""What the kernel tells of network interfaces (rtnetlink): addresses, links, routes, as they are and as they change.

One listening socket in the process's network namespace. Of each named interface it keeps whether it can carry
packets, the addresses that can be used, and the routes of the main table that lead through it. IPv6 addresses count
once duplicate address detection is over (RFC 4862 §5.4); link-local ones do not. A link counts once its authentication
is over (RFC 2863: not dormant). Everything is read again when the kernel could not tell all (ENOBUFS), and when an
interface comes to its name by renaming.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any

from protocols.errors import BackendError
from protocols.path import Address

if TYPE_CHECKING:
    from pyroute2 import AsyncIPRoute

IFF_UP = 0x1  # <linux/if.h>
IFF_LOWER_UP = 0x10000
IFA_F_DADFAILED = 0x08  # <linux/if_addr.h>
IFA_F_DEPRECATED = 0x20
IFA_F_TENTATIVE = 0x40
MAIN_TABLE = 254  # <linux/rtnetlink.h>
NLM_F_REPLACE = 0x100  # <linux/netlink.h>


@dataclass(frozen=True, kw_only=True)
class InterfaceAddress:
    """An address; IPv4 knows one and the same with several prefixes, and it is there as long as one of them is."""

    address: Address
    prefix_lengths: frozenset[int]
    deprecated: bool = False


@dataclass(frozen=True, kw_only=True)
class Route:
    """``way``: next hop and preferred source, to see that they have changed."""

    destination: IPv4Network | IPv6Network
    metric: int
    way: str


@dataclass(frozen=True, kw_only=True)
class Interface:
    """``held`` in the order in which they came."""

    up: bool = False
    held: tuple[InterfaceAddress, ...] = ()
    routes: frozenset[Route] = frozenset()

    @property
    def usable(self) -> tuple[Address, ...]:
        """Addresses that packets can be sent from, deprecated ones last (RFC 4862 §5.5.4)."""
        ranked = sorted(self.held, key=lambda each: each.deprecated) if self.up else ()
        return tuple(each.address for each in ranked)

    def reaches(self, address: Address) -> bool:
        """Whether a route leads there."""
        return any(address in route.destination for route in self.routes)


Changed = Callable[[str, Interface, Interface], None]
"""Name, what it was, what it is."""


class InterfaceWatch:
    """Between ``open`` and ``close``; interfaces need not exist yet, and may come back."""

    def __init__(
        self, names: Iterable[str], changed: Changed, failed: Callable[[BackendError], None] = lambda error: None
    ) -> None:
        """``failed`` when the kernel can no longer be heard."""
        self.names = tuple(dict.fromkeys(names))
        self._changed = changed
        self._failed = failed
        self._interfaces = {name: Interface() for name in self.names}
        self._indices: dict[int, str] = {}
        self._incomplete = False
        self._reading: dict[str, Interface] | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self, tasks: asyncio.TaskGroup) -> None:
        """Listen, and tell what there is; returns when that is known."""
        # Imported here: it takes a while, and most nodes watch nothing
        from pyroute2 import AsyncIPRoute
        from pyroute2.netlink.exceptions import NetlinkError

        netlink = AsyncIPRoute()
        try:
            await netlink.bind()  # before the dumps: nothing is missed between
            await self._read_all(netlink)
        except (OSError, NetlinkError) as error:
            netlink.close()
            raise BackendError(f"the kernel does not tell of its interfaces: {error}") from error
        self._incomplete = False
        self._task = tasks.create_task(self._listen(netlink))

    def close(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()

    async def _listen(self, netlink: AsyncIPRoute) -> None:
        from pyroute2 import AsyncIPRoute
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            while True:
                try:
                    async for message in netlink.get():
                        self.take(message)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    netlink.close()
                    netlink = AsyncIPRoute()
                    await netlink.bind()
                    self._incomplete = True
                if self._incomplete:
                    await self._read_again(netlink)
        except (OSError, NetlinkError) as error:
            self._failed(BackendError(f"the kernel does not tell of its interfaces: {error}"))
        finally:
            with contextlib.suppress(OSError, NetlinkError):
                netlink.close()

    async def _read_again(self, netlink: AsyncIPRoute) -> None:
        """As if nothing was known; what is different in the end is told."""
        self._incomplete = False
        self._indices.clear()
        self._reading = {name: Interface() for name in self.names}
        try:
            await self._read_all(netlink)
        finally:
            found, self._reading = self._reading, None
        for name, state in found.items():
            self._set(name, state)

    async def _read_all(self, netlink: AsyncIPRoute) -> None:
        async for message in await netlink.get_links():
            self.take(message)
        async for message in await netlink.get_addr():
            self.take(message)
        async for message in await netlink.get_routes():
            self.take(message)

    def take(self, message: Any) -> None:
        """A message of rtnetlink's, in pyroute2's form."""
        kind = message.get("event")
        if kind in ("RTM_NEWLINK", "RTM_DELLINK"):
            self._link(message, gone=kind == "RTM_DELLINK")
        elif kind in ("RTM_NEWADDR", "RTM_DELADDR"):
            self._address(message, gone=kind == "RTM_DELADDR")
        elif kind in ("RTM_NEWROUTE", "RTM_DELROUTE"):
            self._route(message, gone=kind == "RTM_DELROUTE")

    def _link(self, message: Any, *, gone: bool) -> None:
        index, name = message["index"], message.get_attr("IFLA_IFNAME")
        former = self._indices.get(index)
        if former is not None and former != name:
            del self._indices[index]
            self._set(former, Interface())
        if name not in self._interfaces:
            return
        if gone:
            self._indices.pop(index, None)
            self._set(name, Interface())
            return
        if index not in self._indices and self._reading is None:
            self._incomplete = True  # a new one, or an old one by another name: then its addresses are not told again
        self._indices[index] = name
        carrier = bool(message["flags"] & IFF_UP) and bool(message["flags"] & IFF_LOWER_UP)
        up = carrier and message.get_attr("IFLA_OPERSTATE") != "DORMANT"
        # the kernel does not tell of all the routes that go with a link
        state = self._known(name)
        self._set(name, replace(state, up=up, routes=state.routes if up else frozenset()))

    def _address(self, message: Any, *, gone: bool) -> None:
        name = self._indices.get(message["index"])
        text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if name is None or text is None:
            return
        state, flags = self._known(name), message.get_attr("IFA_FLAGS")
        flags = message["flags"] if flags is None else flags
        address, prefix = ip_address(text), frozenset((message["prefixlen"],))
        unusable = gone or address.is_link_local or bool(flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED))
        held = {each.address: each for each in state.held}
        lengths = held[address].prefix_lengths if address in held else frozenset()
        lengths = lengths - prefix if unusable else lengths | prefix
        held[address] = InterfaceAddress(  # in its old place, where it has one
            address=address, prefix_lengths=lengths, deprecated=bool(flags & IFA_F_DEPRECATED)
        )
        if not lengths:
            del held[address]
        routes = state.routes
        if all(each.address.version != 4 for each in held.values()):
            # with the last IPv4 address all IPv4 routes go, and the kernel does not tell of each
            routes = frozenset(each for each in routes if each.destination.version != 4)
        self._set(name, replace(state, held=tuple(held.values()), routes=routes))

    def _route(self, message: Any, *, gone: bool) -> None:
        name = self._indices.get(message.get_attr("RTA_OIF") or -1)
        family = message["family"]
        if name is None or (message.get_attr("RTA_TABLE") or message["table"]) != MAIN_TABLE:
            return
        if family not in (socket.AF_INET, socket.AF_INET6):
            return
        everywhere = "0.0.0.0" if family == socket.AF_INET else "::"
        route = Route(
            destination=ip_network(f"{message.get_attr('RTA_DST') or everywhere}/{message['dst_len']}"),
            metric=message.get_attr("RTA_PRIORITY") or 0,
            way=f"{message.get_attr('RTA_GATEWAY')} {message.get_attr('RTA_PREFSRC')}",
        )
        state = self._known(name)
        routes = state.routes - {route}
        if message["header"]["flags"] & NLM_F_REPLACE:  # the one before is not told to be gone
            same = (route.destination, route.metric)
            routes = frozenset(each for each in routes if (each.destination, each.metric) != same)
        self._set(name, replace(state, routes=routes if gone else routes | {route}))

    def _known(self, name: str) -> Interface:
        return (self._interfaces if self._reading is None else self._reading)[name]

    def _set(self, name: str, new: Interface) -> None:
        if self._reading is not None:
            self._reading[name] = new
            return
        old, self._interfaces[name] = self._interfaces[name], new
        if new != old:
            self._changed(name, old, new)
