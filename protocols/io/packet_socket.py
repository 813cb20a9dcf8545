"""Packet sockets (packet(7)): what network interfaces take in and give out, before or beside the kernel's own stack.

What comes has a virtio_net_hdr before it, which says what is joined and which checksums are owed (``super_packet``).
Needs CAP_NET_RAW.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from contextlib import ExitStack
from typing import NamedTuple

from protocols.errors import DecodeError
from protocols.io import packet_filter
from protocols.io.packet_filter import (
    LOAD_HALF,
    LOAD_HALF_INDEXED,
    LOAD_OCTET,
    LOAD_OCTET_INDEXED,
    LOAD_WORD,
    LOAD_WORD_INDEXED,
    NETWORK_HEADER,
    Check,
)
from protocols.io.sockets import set_buffers
from protocols.ip import IPV6_HEADER_LENGTH
from protocols.path import Address

ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD  # <linux/if_ether.h>
PACKET_HOST, PACKET_OUTGOING = 0, 4  # <linux/if_packet.h>
SOL_PACKET = 263  # <linux/socket.h>
PACKET_STATISTICS = 6
PACKET_AUXDATA = 8
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
FRAGMENT_BITS = 0x3FFF
RECEIVE_OCTETS = 65535 + 256  # a packet with what lies before it

_AUXILIARY = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata: status, two lengths, mac, net, VLAN
_AUXILIARY_OCTETS = socket.CMSG_SPACE(_AUXILIARY.size)
_STATISTICS = struct.Struct("=II")  # struct tpacket_stats: packets, drops


class Transport(NamedTuple):
    """How a filter loads from the header behind IP's: an octet, two, four; and from which offset on."""

    octet: int
    half: int
    word: int
    offset: int


TRANSPORTS = {
    4: Transport(LOAD_OCTET_INDEXED, LOAD_HALF_INDEXED, LOAD_WORD_INDEXED, NETWORK_HEADER),
    6: Transport(LOAD_OCTET, LOAD_HALF, LOAD_WORD, NETWORK_HEADER + IPV6_HEADER_LENGTH),
}


class Packet(NamedTuple):
    """A packet behind its virtio_net_hdr and ``network`` octets of a link's header; ``whole``: its end is there.

    ``way``: ``PACKET_HOST``, say.
    """

    octets: bytes
    network: int
    whole: bool
    interface: str
    way: int


def open_packet_socket(device: str | None = None, *, buffer_octets: int, outgoing: bool = True) -> socket.socket:
    """A socket of one device or of all, which hears nothing before it is given a filter; ``OSError``.

    ``outgoing``: hears what leaves, too.
    """
    with ExitStack() as undo:
        # of no protocol nothing comes before it is bound to a device
        protocol = socket.htons(ETH_P_ALL) if device is None else 0
        opened = undo.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, protocol))
        packet_filter.attach(opened, packet_filter.NOTHING)
        opened.setblocking(False)
        set_buffers(opened, buffer_octets, 0)
        for option, value in ((PACKET_AUXDATA, 1), (PACKET_VNET_HDR, 1), (PACKET_IGNORE_OUTGOING, int(not outgoing))):
            if value:
                opened.setsockopt(SOL_PACKET, option, value)
        if device is not None:
            opened.bind((device, ETH_P_ALL))
        else:
            with contextlib.suppress(BlockingIOError):
                while True:
                    opened.recv(1)  # it came before there was a filter
        undo.pop_all()
    return opened


def read_packet(opened: socket.socket, maximum: int = RECEIVE_OCTETS) -> Packet:
    """What has arrived, as much of it as ``maximum``; ``BlockingIOError`` when nothing has, ``DecodeError``."""
    octets, ancillary, flags, address = opened.recvmsg(maximum, _AUXILIARY_OCTETS)
    if not ancillary:
        raise DecodeError("a packet without its place")
    network = _AUXILIARY.unpack_from(ancillary[0][2])[4]
    return Packet(octets, network, not flags & socket.MSG_TRUNC, address[0], address[2])


def overflown(opened: socket.socket) -> int:
    """How many packets have found the buffer full since the last time."""
    _, lost = _STATISTICS.unpack(opened.getsockopt(SOL_PACKET, PACKET_STATISTICS, _STATISTICS.size))
    return int(lost)


def checks_of(way: int, address: Address, protocol: int) -> list[Check]:
    """Packets of a protocol that come for an address (``PACKET_HOST``) or leave from it; no fragments of IPv4."""
    words = struct.unpack(f">{len(address.packed) // 4}I", address.packed)
    here = {4: (12, 16), 6: (8, 24)}[address.version][way == PACKET_HOST]
    four = address.version == 4
    return [
        (LOAD_WORD, packet_filter.PACKET_TYPE, 0xFFFFFFFF, way),
        (LOAD_WORD, packet_filter.PROTOCOL, 0xFFFF, ETH_P_IP if four else ETH_P_IPV6),
        (LOAD_OCTET, NETWORK_HEADER + (9 if four else 6), 0xFF, protocol),
        *([(LOAD_HALF, NETWORK_HEADER + 6, FRAGMENT_BITS, 0)] if four else []),
        *((LOAD_WORD, NETWORK_HEADER + here + 4 * index, 0xFFFFFFFF, word) for index, word in enumerate(words)),
    ]
