"""Sockets of either IP version: their options, how one sends by them, and why one cannot be had."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from functools import lru_cache

from protocols.errors import BackendError
from protocols.path import Address, Endpoint

ADDRESSES_KEPT = 4096
BUFFER_OCTETS = 4 * 1024 * 1024
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # <asm-generic/socket.h>
UDP_SEGMENT = 103  # <linux/udp.h>, of udp(7)
SEGMENT_LENGTH = struct.Struct("=H")
RECEIVE_ERRORS = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}
"""IP_RECVERR and IPV6_RECVERR of Linux's ip(7), ipv6(7), which Python's module does not have."""
TRAFFIC_CLASS = struct.Struct("=i")
PATH_MTUS = {4: (socket.IPPROTO_IP, 14), 6: (socket.IPPROTO_IPV6, 24)}
"""IP_MTU and IPV6_MTU, which it does not have either."""
TRAFFIC_CLASSES = {4: (socket.IPPROTO_IP, socket.IP_TOS), 6: (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)}
RECEIVED_TRAFFIC_CLASSES = {4: (socket.IPPROTO_IP, socket.IP_RECVTOS), 6: (socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS)}
TRAFFIC_CLASS_OCTETS = socket.CMSG_SPACE(TRAFFIC_CLASS.size)


def family_of(address: Address) -> socket.AddressFamily:
    """Of sockets for an address."""
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def set_buffers(opened: socket.socket, receive: int, send: int) -> None:
    """As asked for with CAP_NET_ADMIN, else as much as the system gives; 0: as they are."""
    for forced, usual, octets in (
        (SO_RCVBUFFORCE, socket.SO_RCVBUF, receive),
        (SO_SNDBUFFORCE, socket.SO_SNDBUF, send),
    ):
        if octets:
            try:
                opened.setsockopt(socket.SOL_SOCKET, forced, octets)
            except PermissionError:
                opened.setsockopt(socket.SOL_SOCKET, usual, octets)


def bind_to_interface(opened: socket.socket, interface: str, what: str) -> None:
    """Send and receive by this network interface only; ``BackendError`` says that it is for ``what``."""
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
    except OSError as error:
        raise BackendError(f"cannot use interface {interface} for {what}: {reason_of(error)}") from error


@lru_cache(maxsize=ADDRESSES_KEPT)
def socket_address(remote: Endpoint) -> tuple[str, int]:
    """An end point as sockets name it."""
    return str(remote.address), remote.port


def send_by(
    opened: socket.socket, datagrams: Sequence[bytes], remote: Endpoint, traffic_class: int | None, usual: int
) -> str | None:
    """Send by a socket that marks with ``usual`` what has no traffic class of its own; the name of an error.

    Several datagrams, of one length but for the last, go as a train (UDP_SEGMENT).
    """
    ancillary = []
    if len(datagrams) > 1:
        ancillary.append((socket.IPPROTO_UDP, UDP_SEGMENT, SEGMENT_LENGTH.pack(len(datagrams[0]))))
    if traffic_class is not None and traffic_class != usual:
        ancillary.append((*TRAFFIC_CLASSES[remote.address.version], TRAFFIC_CLASS.pack(traffic_class)))
    address = socket_address(remote)
    try:
        try:
            opened.sendmsg(datagrams, ancillary, 0, address)
        except ConnectionRefusedError:  # an ICMP error of an earlier datagram, whomever it was for
            opened.sendmsg(datagrams, ancillary, 0, address)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "error")
    return None


def path_mtu_between(local: Address, remote: Endpoint, interface: str | None) -> int | None:
    """What the kernel takes the MTU of a path to be, by its routes and by ICMP; ``None``: it has no such path."""
    with socket.socket(family_of(local), socket.SOCK_DGRAM) as probe:
        try:
            if interface is not None:
                bind_to_interface(probe, interface, "a probe")
            probe.bind((str(local), 0))
            probe.connect((str(remote.address), remote.port))
            return probe.getsockopt(*PATH_MTUS[local.version])
        except (OSError, BackendError):
            return None


def reason_of(error: OSError) -> str:
    """Why a socket cannot be had, in words."""
    if error.errno == errno.EADDRINUSE:
        return "the port is in use"
    if error.errno == errno.EACCES:
        return "ports below 1024 need root (choose 15000 and 14500, say)"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have the address"
    return error.strerror or str(error)
