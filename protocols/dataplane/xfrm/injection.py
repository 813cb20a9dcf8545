"""Whole IP packets of the node's own given to the kernel, which asks its policies (raw(7), IP_HDRINCL; RFC 3542 §3).

The kernel sees addresses alone of such packets, neither protocol nor ports: policies that name them do not apply.
"""

from __future__ import annotations

import contextlib
import socket
import struct

from protocols.errors import BackendError

IP_PKTINFO = 8  # <linux/in.h>
IPV6_FREEBIND = 78  # <linux/in6.h>: the source may be nobody's here
_PACKET_INFORMATION = struct.Struct("=i4s4s")  # in_pktinfo: interface, source, unused
_ADDRESSES = {4: slice(12, 20), 6: slice(8, 40)}


class Injector:
    """Raw sockets in the network namespace of the thread that makes it; ``BackendError``: no right to them."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        try:
            self._sockets[4] = _raw(socket.AF_INET)
        except OSError as error:
            raise BackendError(f"raw sockets: {error.strerror}") from error
        with contextlib.suppress(OSError):  # a kernel without IPv6
            self._sockets[6] = _raw(socket.AF_INET6)
            self._sockets[6].setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)

    def send(self, packet: bytes) -> bool:
        """A whole IP packet; whether the kernel took it."""
        version = packet[0] >> 4 if packet else 0
        opened = self._sockets.get(version)
        if opened is None:
            return False
        addresses = packet[_ADDRESSES[version]]
        half = len(addresses) // 2
        source, destination = addresses[:half], addresses[half:]
        try:
            if version == 4:
                information = _PACKET_INFORMATION.pack(0, source, bytes(4))
                level, kind, family = socket.IPPROTO_IP, IP_PKTINFO, socket.AF_INET
            else:
                information = source + bytes(4)
                level, kind, family = socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, socket.AF_INET6
            there = (socket.inet_ntop(family, destination), 0)
            opened.sendmsg((packet,), ((level, kind, information),), 0, there)
        except (OSError, ValueError):
            return False
        return True

    def close(self) -> None:
        """Give the sockets back."""
        for opened in self._sockets.values():
            opened.close()
        self._sockets.clear()


def _raw(family: int) -> socket.socket:
    return socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
