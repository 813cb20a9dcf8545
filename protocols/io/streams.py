"""Listening stream sockets, which a node takes from what it stands on (``protocols.io.platform``)."""

from __future__ import annotations

import socket
from collections.abc import Callable

from protocols.io.sockets import family_of
from protocols.path import Address

BACKLOG = 100

StreamBinder = Callable[[Address, int], socket.socket]


def listening_socket(address: Address, port: int) -> socket.socket:
    """A TCP socket that listens, for a loop to accept from; port 0 asks for a free one. ``OSError``."""
    # by its name: else asyncio leaves Nagle's algorithm on, and an answer waits for an acknowledgement
    made = socket.socket(family_of(address), socket.SOCK_STREAM, socket.IPPROTO_TCP)
    return listening(made, address, port)


def listening(made: socket.socket, address: Address, port: int) -> socket.socket:
    """A stream socket, from now on bound and listening without blocking; ``OSError``, and it is closed."""
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.version == 6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((str(address), port))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made
