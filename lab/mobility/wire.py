"""A wire between two interfaces in user space: frames pass; UDP and ESP are delayed, lost, doubled, dropped on purpose.

What a kernel's netem does where it is built in, and more: the laboratory reads IKE messages and knows which to
lose. Partial checksums go along as ``virtio_net_hdr`` (PACKET_VNET_HDR), so that the kernel completes them.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from ipaddress import ip_address
from random import Random

from lab.mobility.matching import MessageLosses
from lab.namespaces import Namespace
from lab.network.access import AccessNetwork
from lab.network.impairments import Impairments
from protocols.errors import BackendError
from protocols.path import Address

ETH_P_ALL = 0x0003  # <linux/if_ether.h>
ETH_P_IP = b"\x08\x00"
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23  # <linux/if_packet.h>
VNET_HEADER_LENGTH = 10
ETHERNET_HEADER_LENGTH = 14
UDP_HEADER_LENGTH = 8
UDP, ESP = socket.IPPROTO_UDP, socket.IPPROTO_ESP
FRAME_MAXIMUM = 65600
DRAIN_LIMIT = 64


class Wire:
    """Between the UE's side and the network's side of one access; both interfaces are in one namespace."""

    def __init__(
        self,
        namespace: Namespace,
        ue_side: str,
        network_side: str,
        access: AccessNetwork,
        losses: MessageLosses,
        down: set[Address],
        random: Random,
    ) -> None:
        self.access = access
        self.dropped: Counter[str] = Counter()
        self._losses = losses
        self._down = down
        self._random = random
        self._loop = asyncio.get_running_loop()
        self._ue = namespace.call(lambda: _open(ue_side))
        self._network = namespace.call(lambda: _open(network_side))
        self._loop.add_reader(self._ue.fileno(), self._drain, self._ue, self._network, True)
        self._loop.add_reader(self._network.fileno(), self._drain, self._network, self._ue, False)

    def close(self) -> None:
        """Close both sockets; again is harmless."""
        for each in (self._ue, self._network):
            if each.fileno() >= 0:
                self._loop.remove_reader(each.fileno())
                each.close()

    def _drain(self, source: socket.socket, target: socket.socket, outbound: bool) -> None:
        for _ in range(DRAIN_LIMIT):
            try:
                frame = source.recv(FRAME_MAXIMUM)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # the interface went down, or away
                self.dropped["receive"] += 1
                return
            self._carry(frame, target, outbound)

    def _carry(self, frame: bytes, target: socket.socket, outbound: bool) -> None:
        packet = _packet(frame)
        if packet is None:  # ARP, ICMP: of the link itself
            self._send(target, frame)
            return
        remote = ip_address(packet[16:20] if outbound else packet[12:16])
        payload = packet[(packet[0] & 15) * 4 + (0 if packet[9] == ESP else UDP_HEADER_LENGTH) :]
        if not self.access.up or self.access.captive:
            self.dropped["down" if not self.access.up else "captive"] += 1
        elif remote in self._down:
            self.dropped["gateway-down"] += 1
        elif self._losses.takes(payload, self.access.name):
            self.dropped["lost-on-purpose"] += 1
        else:
            quality: Impairments = self.access.uplink if outbound else self.access.downlink
            now = self._loop.time()
            for arrival in quality.plan(len(packet), self._random, now):
                if arrival <= now:
                    self._send(target, frame)
                else:
                    self._loop.call_at(arrival, self._send, target, frame)

    def _send(self, target: socket.socket, frame: bytes) -> None:
        try:
            target.send(frame)
        except (OSError, ValueError):  # a full queue, an interface that is down, a wire that is closed
            self.dropped["send"] += 1


def _open(interface: str) -> socket.socket:
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        try:
            opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)  # what the wire itself sends does not come back
            opened.bind((interface, 0))
            # ETH_P_ALL before bind hears every interface: what has come meanwhile is not of this one
            opened.setblocking(False)
            while True:
                try:
                    opened.recv(FRAME_MAXIMUM)
                except BlockingIOError:
                    break
        except OSError:
            opened.close()
            raise
    except OSError as error:
        raise BackendError(f"a wire on {interface}: {error.strerror}") from error
    return opened


def _packet(frame: bytes) -> bytes | None:
    """The IPv4 packet in a frame if it carries UDP or ESP."""
    start = VNET_HEADER_LENGTH + ETHERNET_HEADER_LENGTH
    if len(frame) < start + 28 or frame[start - 2 : start] != ETH_P_IP or frame[start + 9] not in (UDP, ESP):
        return None
    return frame[start:]
