"""A container's start: addresses and routes through netlink, then the command itself.

``ADDRESSES``  ``INTERFACE=ADDRESS/LENGTH``, separated by commas
``ROUTES``     ``DESTINATION via NEXT-HOP [from ADDRESS]``, separated by commas; with ``from`` a route is for
               packets of that source address alone
``UNLESS``     a file; when it exists there is nothing to do and the command is not run
"""

from __future__ import annotations

import errno
import os
import sys
from ipaddress import ip_network
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

FIRST_TABLE = 100  # routing tables of ``from`` routes; below 253 everything is free
ROUTE_WORDS = {"via": "gateway", "from": "source"}


def entries(name: str) -> list[str]:
    """The comma-separated entries of an environment variable."""
    return [entry.strip() for entry in os.environ.get(name, "").split(",") if entry.strip()]


def add_address(route: IPRoute, entry: str) -> None:
    """Add an address; one of an earlier start of the same container may stand already."""
    interface, _, text = entry.partition("=")
    address, _, length = text.partition("/")
    (index,) = route.link_lookup(ifname=interface)
    try:
        route.addr("add", index=index, address=address, prefixlen=int(length))
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


def add_route(route: IPRoute, entry: str, table: int) -> None:
    """Add a route: to the main table, or with ``from`` to ``table`` and a rule that leads there."""
    destination, *words = entry.split()
    options = {ROUTE_WORDS[word]: value for word, value in zip(words[::2], words[1::2], strict=True)}
    source = options.get("source")
    if source is None:
        route.route("replace", dst=destination, gateway=options["gateway"])
        return
    route.route("replace", dst=destination, gateway=options["gateway"], table=table)
    length = ip_network(source).prefixlen
    route.flush_rules(table=table)
    route.rule("add", src=source, src_len=length, table=table, priority=table)


def set_up_network() -> None:
    """Everything that ``ADDRESSES`` and ``ROUTES`` ask for."""
    addresses, routes = entries("ADDRESSES"), entries("ROUTES")
    if not addresses and not routes:
        return
    with IPRoute() as route:
        for entry in addresses:
            add_address(route, entry)
        for number, entry in enumerate(routes):
            add_route(route, entry, FIRST_TABLE + number)


def main() -> None:
    """Set up, then become the command."""
    done = os.environ.get("UNLESS")
    if done and Path(done).exists():
        print(f"{done} exists already")
        return
    set_up_network()
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
