"""Whole IP packets of a process's own, sent where the kernel's routes and policies say (raw(7); RFC 3542 §3).

The kernel looks up routes and policies by what it is told apart from the packet: its addresses, and where the protocol
is named and the kernel takes that (Linux 6.4) its protocol; ports never. Needs CAP_NET_RAW.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct

from protocols.ip import IPV4_HEADER_LENGTH, IPV6_HEADER_LENGTH

IP_PKTINFO = 8  # <linux/in.h>
IP_PROTOCOL = 52
IPV6_FREEBIND = 78  # <linux/in6.h>: the source may be nobody's here
_HEADER_LENGTHS = {4: IPV4_HEADER_LENGTH, 6: IPV6_HEADER_LENGTH}


class RoutedPackets:
    """Raw sockets in the network namespace of the thread that makes it; ``OSError``: no right to them."""

    def __init__(self, *, names_protocol: bool) -> None:
        """``names_protocol``: policies for one protocol see the packet, where the kernel can show it to them."""
        self._names_protocol = names_protocol
        self._sockets = {4: _raw(socket.AF_INET)}
        with contextlib.suppress(OSError):  # a kernel without IPv6
            self._sockets[6] = _raw(socket.AF_INET6)
            self._sockets[6].setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)

    def send(self, packet: bytes) -> None:
        """``OSError`` when it does not go."""
        version = packet[0] >> 4 if packet else 0
        if len(packet) < _HEADER_LENGTHS.get(version, len(packet) + 1):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if version not in self._sockets:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        send = self._send_ipv4 if version == 4 else self._send_ipv6
        try:
            send(packet, self._names_protocol)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._names_protocol:
                raise
            send(packet, False)
            self._names_protocol = False  # Linux before 6.4

    def _send_ipv4(self, packet: bytes, names_protocol: bool) -> None:
        told = [(socket.IPPROTO_IP, IP_PKTINFO, bytes(4) + packet[12:16] + bytes(4))]  # in_pktinfo
        if names_protocol:
            told.append((socket.IPPROTO_IP, IP_PROTOCOL, struct.pack("=i", packet[9])))
        self._sockets[4].sendmsg((packet,), told, 0, (socket.inet_ntoa(packet[16:20]), 0))

    def _send_ipv6(self, packet: bytes, names_protocol: bool) -> None:
        told = ((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, packet[8:24] + bytes(4)),)
        there = (socket.inet_ntop(socket.AF_INET6, packet[24:40]), packet[6] if names_protocol else 0)
        self._sockets[6].sendmsg((packet,), told, 0, there)

    def close(self) -> None:
        """Give the sockets back; again is harmless."""
        for opened in self._sockets.values():
            opened.close()
        self._sockets.clear()


def _raw(family: socket.AddressFamily) -> socket.socket:
    return socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
