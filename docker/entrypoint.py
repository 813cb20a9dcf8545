"""A container's start: addresses and routes through netlink, credentials once, then the node itself.

``ADDRESSES``    ``INTERFACE=ADDRESS/LENGTH``, separated by commas
``ROUTES``       ``DESTINATION via NEXT-HOP [src ADDRESS] [metric NUMBER]``, separated by commas
``CREDENTIALS``  a directory; ``CREDENTIALS_NAMES``: the dNSNames of the gateway certificate made there
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from credentials import ensure_credentials
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

ROUTE_WORDS = {"via": "gateway", "src": "prefsrc", "metric": "priority"}


def entries(name: str) -> list[str]:
    """The comma-separated entries of an environment variable."""
    return [entry.strip() for entry in os.environ.get(name, "").split(",") if entry.strip()]


def set_up_network() -> None:
    """Addresses and routes; those of an earlier start of the same container may stand already."""
    with IPRoute() as route:
        for entry in entries("ADDRESSES"):
            interface, _, text = entry.partition("=")
            address, _, length = text.partition("/")
            (index,) = route.link_lookup(ifname=interface)
            try:
                route.addr("add", index=index, address=address, prefixlen=int(length))
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
        for entry in entries("ROUTES"):
            destination, *words = entry.split()
            options: dict[str, str | int] = {}
            for word, value in zip(words[::2], words[1::2], strict=True):
                options[ROUTE_WORDS[word]] = int(value) if word == "metric" else value
            route.route("replace", dst=destination, **options)


def main() -> None:
    """Set up, then become the command."""
    set_up_network()
    if directory := os.environ.get("CREDENTIALS"):
        ensure_credentials(Path(directory), os.environ["CREDENTIALS_NAMES"].split())
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
