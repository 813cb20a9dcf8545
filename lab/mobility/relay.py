"""An access network between real UDP sockets: impairments, NAT and losses on the way, without root.

::

    UE process ── frames over 127.0.0.1 ── relay ── the access's or its NAT's own address ── gateway

The UE's links (``RelayedLink``, in its process) say who they are on the access and to whom each datagram goes;
the relay has a socket for every end point that the network sees. So the gateway is a stock process, and the UE
believes to have the access's address.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from ipaddress import ip_address
from random import Random
from struct import Struct

from lab.mobility.matching import MessageLosses
from lab.network.access import AccessNetwork
from protocols.errors import BackendError
from protocols.io.link import Receiver, UdpLink
from protocols.path import Address, Endpoint, Path

LOOPBACK = ip_address("127.0.0.1")
OPEN, DATA, CLOSE = 0, 1, 2
_FRAME = Struct("!BHB16sH")  # kind, own port, IP version and address and port of the other end


def encode_frame(kind: int, own_port: int, other: Endpoint, octets: bytes = b"") -> bytes:
    """A frame between the UE's link and the relay."""
    address = other.address.packed.rjust(16, b"\0")
    return _FRAME.pack(kind, own_port, other.address.version, address, other.port) + octets


def decode_frame(frame: bytes) -> tuple[int, int, Endpoint, bytes]:
    """Back; both ends are ours, so that a frame that does not fit is a ``BackendError``."""
    if len(frame) < _FRAME.size:
        raise BackendError(f"a relay's frame of {len(frame)} octets")
    kind, own_port, version, address, port = _FRAME.unpack_from(frame)
    other = Endpoint(ip_address(address[-4:] if version == 4 else address), port)
    return kind, own_port, other, frame[_FRAME.size :]


class RelayedLink:
    """The UE's end: a link that is on an access by way of that access's relay."""

    def __init__(self, local: Endpoint, relay: Endpoint, receive: Receiver) -> None:
        self.local = local
        self._relay = relay
        self._receive = receive
        self._inner = UdpLink(Endpoint(LOOPBACK, 0), self._received)
        self.dropped: Counter[str] = self._inner.dropped
        self._inner.send(encode_frame(OPEN, local.port, local), relay)

    def send(self, octets: bytes, remote: Endpoint, traffic_class: int | None = None) -> None:
        """By way of the relay, which knows no traffic classes."""
        del traffic_class
        self._inner.send(encode_frame(DATA, self.local.port, remote, octets), self._relay)

    def close(self) -> None:
        """Tell the relay, which lets go of its side."""
        self._inner.send(encode_frame(CLOSE, self.local.port, self.local), self._relay)
        self._inner.close()

    def _received(self, frame: bytes, path: Path) -> None:
        if path.remote != self._relay:
            self.dropped["not-from-the-relay"] += 1
            return
        _, _, remote, octets = decode_frame(frame)
        self._receive(octets, Path(self.local, remote))


def relayed_opener(relays: Mapping[Address, Mapping[int, Endpoint]], local: Endpoint, receive: Receiver) -> RelayedLink:
    """A link on the access that has this address and port; ``BackendError`` when none has."""
    relay = relays.get(local.address, {}).get(local.port)
    if relay is None:
        raise BackendError(f"cannot use UDP {local}: no access has this address and port")
    return RelayedLink(local, relay, receive)


class Relay:
    """One access on the running loop; what is lost on purpose is told by ``losses``."""

    def __init__(self, access: AccessNetwork, losses: MessageLosses, down: set[Address], random: Random) -> None:
        self.access = access
        self.dropped: Counter[str] = Counter()
        self._losses = losses
        self._down = down  # addresses of the gateway that cannot be reached
        self._random = random
        self._loop = asyncio.get_running_loop()
        self._inside = UdpLink(Endpoint(LOOPBACK, 0), self._from_ue)
        self._ues: dict[int, Endpoint] = {}  # port on the access → the UE's own socket
        self._outside: dict[Endpoint, UdpLink] = {}
        self._is_closed = False

    @property
    def endpoint(self) -> Endpoint:
        """Where the UE's links send to."""
        return self._inside.local

    @property
    def held(self) -> tuple[int, ...]:
        """Ports of the access that the UE has open."""
        return tuple(sorted(self._ues))

    def forget_outside(self) -> None:
        """Close the end points that the network knew: after a NAT's restart or end."""
        for link in self._outside.values():
            link.close()
        self._outside.clear()

    def close(self) -> None:
        """Close every socket; again is harmless. What is on its way opens none any more."""
        self._is_closed = True
        self.forget_outside()
        self._inside.close()

    def _from_ue(self, frame: bytes, path: Path) -> None:
        kind, port, other, octets = decode_frame(frame)
        source = Endpoint(self.access.address, port)
        if kind == OPEN:
            self._ues[port] = path.remote
            if self.access.nat is None:
                self._socket(source)
        elif kind == CLOSE:
            self._ues.pop(port, None)
            link = self._outside.pop(source, None)
            if link is not None:
                link.close()
        elif other.address in self._down:
            self.dropped["gateway-down"] += 1
        elif self._losses.takes(octets, self.access.name):
            self.dropped["lost-on-purpose"] += 1
        else:
            passage = self.access.outbound(len(octets), source, other, self._random, self._loop.time())
            if passage is not None:
                for arrival in passage.arrivals:
                    self._loop.call_at(arrival, self._to_network, passage.source, octets, passage.destination)

    def _to_network(self, source: Endpoint, octets: bytes, destination: Endpoint) -> None:
        link = self._socket(source)
        if link is not None:
            link.send(octets, destination)

    def _socket(self, outside: Endpoint) -> UdpLink | None:
        link = self._outside.get(outside)
        if self._is_closed:
            return None
        if link is None:
            try:
                link = UdpLink(outside, self._from_network)
            except BackendError:
                self.dropped["no-socket"] += 1
                return None
            self._outside[outside] = link
        return link

    def _from_network(self, octets: bytes, path: Path) -> None:
        if path.remote.address in self._down:
            self.dropped["gateway-down"] += 1
            return
        if self._losses.takes(octets, self.access.name):
            self.dropped["lost-on-purpose"] += 1
            return
        passage = self.access.inbound(len(octets), path.remote, path.local, self._random, self._loop.time())
        if passage is not None:
            for arrival in passage.arrivals:
                self._loop.call_at(arrival, self._to_ue, passage.destination.port, octets, passage.source)

    def _to_ue(self, port: int, octets: bytes, source: Endpoint) -> None:
        ue = self._ues.get(port)
        if ue is None or not self.access.up or self._is_closed:
            self.dropped["nobody-there"] += 1
            return
        self._inside.send(encode_frame(DATA, port, source, octets), ue)
