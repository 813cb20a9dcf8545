"""Whole IP packets of the node's own given to the kernel, which asks its policies.

The kernel sees addresses alone of such packets, neither protocol nor ports: policies that name them do not apply.
"""

from __future__ import annotations

from protocols.errors import BackendError
from protocols.io.routed import RoutedPackets


class Injector:
    """In the network namespace of the thread that makes it; ``BackendError``: no right to raw sockets."""

    def __init__(self) -> None:
        try:
            self._packets = RoutedPackets(names_protocol=False)
        except OSError as error:
            raise BackendError(f"raw sockets: {error.strerror}") from error

    def send(self, packet: bytes) -> bool:
        """A whole IP packet; whether the kernel took it."""
        try:
            self._packets.send(packet)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Give the sockets back."""
        self._packets.close()
