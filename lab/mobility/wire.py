"""A wire between two interfaces in user space: frames pass; UDP and ESP fare as an access network has it.

What a kernel's netem and NAT do where they are built in, and more: every kind of NAT, and the laboratory reads IKE
messages and knows which to lose. Behind a NAT nothing passes that it cannot translate: ESP without UDP, fragments
(RFC 4787 §11), ICMP. Partial checksums go along as ``virtio_net_hdr`` (PACKET_VNET_HDR), so that the kernel completes
them.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from random import Random

from lab.mobility.frames import UDP, Carried, carried, is_ipv4, translated
from lab.mobility.matching import MessageLosses
from lab.namespaces import Namespace
from lab.network.access import IP_HEADER_LENGTHS, UDP_HEADER_LENGTH, AccessNetwork
from protocols.errors import BackendError
from protocols.path import Address

ETH_P_ALL = 0x0003  # <linux/if_ether.h>
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23  # <linux/if_packet.h>
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
        access = self.access
        found = carried(frame)
        if found is None:
            if access.nat is None or not is_ipv4(frame):  # ARP is of the link itself, and there is no NAT of IPv6
                self._send(target, frame)
            else:
                self.dropped["untranslatable"] += 1
            return
        if (found.destination if outbound else found.source).address in self._down:
            self.dropped["gateway-down"] += 1
        elif self._losses.takes(found.payload, access.name):
            self.dropped["lost-on-purpose"] += 1
        elif access.nat is not None and (found.protocol != UDP or found.is_fragment):
            self.dropped["untranslatable"] += 1
        else:
            self._pass(frame, found, target, outbound)

    def _pass(self, frame: bytes, found: Carried, target: socket.socket, outbound: bool) -> None:
        cross = self.access.outbound if outbound else self.access.inbound
        now = self._loop.time()
        octets = found.length - IP_HEADER_LENGTHS[found.source.address.version] - UDP_HEADER_LENGTH
        passage = cross(octets, found.source, found.destination, self._random, now)
        if passage is None:  # the access has counted it
            return
        if (passage.source, passage.destination) != (found.source, found.destination):
            frame = translated(frame, passage.source, passage.destination)
        for arrival in passage.arrivals:
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
