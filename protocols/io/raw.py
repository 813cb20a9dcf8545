"""ESP straight on IP (RFC 4303, protocol 50): raw sockets, and whether a node uses them.

The kernel puts fragments together and makes the outer header; of IPv4 it hands the header in with the packet
(raw(7)), of IPv6 it does not (RFC 3542 §3). Needs CAP_NET_RAW.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from protocols.errors import BackendError
from protocols.io.link import DRAIN_LIMIT, RECEIVE_OCTETS, BoundLink, Link, Receiver
from protocols.io.sockets import (
    BUFFER_OCTETS,
    RECEIVED_TRAFFIC_CLASSES,
    TRAFFIC_CLASS,
    TRAFFIC_CLASS_OCTETS,
    TRAFFIC_CLASSES,
    family_of,
    reason_of,
    set_buffers,
    socket_address,
)
from protocols.path import Address, Endpoint

NO_PORT = 0  # in the end points of a packet that has none
ENCAPSULATION_PORT = 4500  # RFC 3948
Forcing = bool | Literal["auto"]
RawOpener = Callable[[Endpoint, Receiver], Link]


def open_esp(address: Address) -> socket.socket:
    """A raw socket of ESP, bound; ``BackendError`` in one line."""
    with ExitStack() as undo:
        try:
            opened = undo.enter_context(socket.socket(family_of(address), socket.SOCK_RAW, socket.IPPROTO_ESP))
            opened.setblocking(False)
            set_buffers(opened, BUFFER_OCTETS, BUFFER_OCTETS)
            opened.bind((str(address), NO_PORT))
        except OSError as error:
            raise BackendError(f"cannot use ESP on {address}: {reason_of(error)}") from error
        undo.pop_all()
    return opened


class RawEspLink(BoundLink):
    """Protocol 50 of one address, on the running loop; ports of end points mean nothing and are zero."""

    def __init__(self, local: Endpoint, receive: Receiver) -> None:
        """Bind; ``BackendError`` in one line."""
        with ExitStack() as undo:
            opened = undo.enter_context(open_esp(local.address))
            super().__init__(opened, Endpoint(local.address, NO_PORT), f"ESP on {local.address}", receive)
            undo.pop_all()
        self._with_header = local.address.version == 4
        self._loop.add_reader(opened.fileno(), self._drain)

    def report_traffic_class(self) -> None:
        """Ask for the traffic class of what arrives; IPv4's comes with the header."""
        if not self._with_header:
            self._socket.setsockopt(*RECEIVED_TRAFFIC_CLASSES[6], 1)

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
