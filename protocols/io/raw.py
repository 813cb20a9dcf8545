"""ESP straight on IP (RFC 4303, protocol 50): raw sockets, and whether a node uses them.

The kernel puts fragments together and makes the outer header; of IPv4 it hands the header in with the packet
(raw(7)), of IPv6 it does not (RFC 3542 §3). Needs CAP_NET_RAW.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from protocols.errors import BackendError
from protocols.io.link import (
    BUFFER_OCTETS,
    DRAIN_LIMIT,
    RECEIVE_OCTETS,
    RECEIVED_TRAFFIC_CLASSES,
    TRAFFIC_CLASS,
    TRAFFIC_CLASS_OCTETS,
    TRAFFIC_CLASSES,
    Link,
    PathsBySource,
    Receiver,
    socket_address,
)
from protocols.io.turn import turn_of
from protocols.path import Endpoint

NO_PORT = 0  # in the end points of a packet that has none
ENCAPSULATION_PORT = 4500  # RFC 3948
Forcing = bool | Literal["auto"]
RawOpener = Callable[[Endpoint, Receiver], Link]


class RawEspLink:
    """Protocol 50 of one address, on the running loop; ports of end points mean nothing and are zero."""

    def __init__(self, local: Endpoint, receive: Receiver) -> None:
        """Bind; ``BackendError`` in one line."""
        self.local = Endpoint(local.address, NO_PORT)
        self.dropped: Counter[str] = Counter()
        self._receive = receive
        self._with_header = local.address.version == 4
        self.traffic_class = 0
        self._marked = 0
        family = socket.AF_INET if self._with_header else socket.AF_INET6
        try:
            self._socket = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ESP)
        except OSError as error:
            raise BackendError(f"cannot use ESP on {local.address}: {error.strerror}") from error
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_OCTETS)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_OCTETS)
            self._socket.bind((str(local.address), NO_PORT))
        except OSError as error:
            self._socket.close()
            raise BackendError(f"cannot use ESP on {local.address}: {error.strerror}") from error
        self._paths = PathsBySource(self.local)
        self._loop = asyncio.get_running_loop()
        self._turn = turn_of(self._loop)
        self._loop.add_reader(self._socket.fileno(), self._drain)

    def mark(self, dscp: int) -> None:
        """Send with this DSCP from now on (RFC 2474) what has no traffic class of its own."""
        self._marked = dscp << 2
        self._socket.setsockopt(*TRAFFIC_CLASSES[self.local.address.version], self._marked)

    def report_traffic_class(self) -> None:
        """Ask for the traffic class of what arrives; IPv4's comes with the header."""
        if not self._with_header:
            self._socket.setsockopt(*RECEIVED_TRAFFIC_CLASSES[6], 1)

    def bind_to(self, interface: str) -> None:
        """Send and receive by this network interface only; ``BackendError``."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        except OSError as error:
            self.close()
            address = self.local.address
            raise BackendError(f"cannot use interface {interface} for ESP on {address}: {error.strerror}") from error

    def send(self, octets: bytes, remote: Endpoint, traffic_class: int | None = None) -> None:
        """Send now or not at all."""
        address = (socket_address(remote)[0], NO_PORT)
        try:
            if traffic_class is None or traffic_class == self._marked:
                self._socket.sendto(octets, address)
            else:
                level, kind = TRAFFIC_CLASSES[self.local.address.version]
                self._socket.sendmsg((octets,), ((level, kind, TRAFFIC_CLASS.pack(traffic_class)),), 0, address)
        except OSError as error:
            self.dropped[f"send-{errno.errorcode.get(error.errno or 0, 'error')}"] += 1

    def close(self) -> None:
        """Close the socket; again is harmless."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _drain(self) -> None:
        self._turn.begin()
        try:
            for _ in range(DRAIN_LIMIT):
                try:
                    octets, ancillary, _, source = self._socket.recvmsg(RECEIVE_OCTETS, TRAFFIC_CLASS_OCTETS)
                except (BlockingIOError, InterruptedError):
                    return
                except OSError as error:
                    self.dropped[f"receive-{errno.errorcode.get(error.errno or 0, 'error')}"] += 1
                    return
                packet = octets
                if self._with_header:
                    packet, self.traffic_class = octets[(octets[0] & 15) * 4 :], octets[1]
                elif ancillary:
                    (self.traffic_class,) = TRAFFIC_CLASS.unpack(ancillary[0][2])
                self._receive(packet, self._paths[source])
                if self._socket.fileno() < 0:
                    return
        finally:
            self._turn.end()


def raw_esp_opener() -> RawOpener | None:
    """How this process opens raw links; ``None`` without the right to."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ESP).close()
    except OSError:
        return None
    return RawEspLink


@dataclass(frozen=True, kw_only=True)
class EspTransport:
    """How a node's ESP travels: ``forced`` always in UDP, else as NAT detection says; ``remark`` is for the log."""

    forced: bool
    open_raw: RawOpener | None
    remark: str | None = None


def esp_transport(forcing: Forcing, open_raw: RawOpener | None, ports: Iterable[int]) -> EspTransport:
    """By configuration, right, and the ports that stand for 4500.

    ``auto``: a node without the right, or on other ports, is taken for one of several on this address, whose raw
    sockets would hear one another's packets: it announces a NAT.
    """
    if forcing is True:
        return EspTransport(forced=True, open_raw=None)
    if open_raw is None:
        missing = "raw sockets need root or CAP_NET_RAW"
        if forcing == "auto":
            return EspTransport(forced=True, open_raw=None, remark=f"ESP goes in UDP only: {missing}.")
        remark = f"ESP goes in UDP only, and a peer that sends it straight on IP is not heard: {missing}."
        return EspTransport(forced=False, open_raw=None, remark=remark)
    if forcing == "auto" and any(port != ENCAPSULATION_PORT for port in ports):
        remark = f"ESP goes in UDP only: the port is not {ENCAPSULATION_PORT}."
        return EspTransport(forced=True, open_raw=None, remark=remark)
    return EspTransport(forced=False, open_raw=open_raw)
