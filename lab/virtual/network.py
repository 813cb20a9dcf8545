"""The network between virtual nodes: hosts, accesses (``lab.network``), datagrams on the timers of a loop.

Who has an address of an access is behind that access; everybody else is in the core, where nothing is lost
and nothing takes time. What has happened to each datagram is logged, and all of it is in one digest.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from lab.network.access import AccessNetwork
from lab.network.nat import NatKind
from protocols.errors import BackendError
from protocols.io.link import Receiver
from protocols.path import Address, Endpoint, Path

LOG_LENGTH = 200_000  # datagrams kept; the digest is over all of them
FIRST_PORT, LAST_PORT = 32768, 60999  # Linux's ephemeral ports


@dataclass(frozen=True, slots=True)
class LoggedDatagram:
    """``fate``: "sent" by a node (addresses as it sees them), "received" by one, or why it went no further.

    ``traffic_class``: DSCP and ECN, as sent; nothing on the way changes them.
    """

    moment: float
    fate: str
    source: Endpoint
    destination: Endpoint
    octets: bytes
    traffic_class: int = 0


class VirtualLink:
    """A UDP port of a virtual node."""

    def __init__(self, network: VirtualNetwork, local: Endpoint, receive: Receiver) -> None:
        self.local = local
        self.dropped: Counter[str] = Counter()
        self.traffic_class = 0
        self._network = network
        self._receive = receive

    def send(self, octets: bytes, remote: Endpoint, traffic_class: int | None = None) -> None:
        """Into the network; without a word where there is no way."""
        self._network.send(self.local, octets, remote, traffic_class or 0)

    def report_traffic_class(self) -> None:
        """It is told in any case."""

    def close(self) -> None:
        """Give the port back."""
        self._network.close(self)

    def receive(self, octets: bytes, source: Endpoint, traffic_class: int) -> None:
        """From the network."""
        self.traffic_class = traffic_class
        self._receive(octets, Path(self.local, source))


class VirtualNetwork:
    """``hosts`` are the addresses in the core; further addresses can be put behind an access at any time.

    Each of ``losses`` is asked for every datagram that is sent over an access, whether it is lost there; each of
    ``edits`` says what comes of it there (somebody on the way who changes it).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        accesses: Iterable[AccessNetwork],
        hosts: Iterable[Address],
        *,
        seed: str | int = 0,
        log_length: int = LOG_LENGTH,
    ) -> None:
        self.accesses = {access.name: access for access in accesses}
        self.down: set[Address] = set()
        self.dropped: Counter[str] = Counter()
        self.losses: list[Callable[[bytes, AccessNetwork], bool]] = []
        self.edits: list[Callable[[bytes, AccessNetwork], bytes]] = []
        self.log: deque[LoggedDatagram] = deque(maxlen=log_length)
        self._loop = loop
        self._hosts = dict.fromkeys(hosts)
        self._behind = {access.address: access for access in self.accesses.values()}
        # each access has its own: what one loses does not hang on what crosses another
        self._randoms = {name: Random(f"{seed}/{name}") for name in self.accesses}  # noqa: S311 - no secrets
        self._links: dict[Endpoint, VirtualLink] = {}
        self._next_port = FIRST_PORT
        self._digest = hashlib.sha256()

    # --- what nodes do

    def open_link(self, local: Endpoint, receive: Receiver) -> VirtualLink:
        """Open a UDP port, 0 for a free one; ``BackendError`` as a socket would be refused."""
        if local.address not in self._hosts and local.address not in self._behind:
            raise BackendError(f"cannot use UDP {local}: this machine does not have the address")
        if local.port == 0:
            local = Endpoint(local.address, self._free_port(local.address))
        if local in self._links:
            raise BackendError(f"cannot use UDP {local}: the port is in use")
        link = self._links[local] = VirtualLink(self, local, receive)
        return link

    def send(self, source: Endpoint, octets: bytes, destination: Endpoint, traffic_class: int = 0) -> None:
        """A datagram on its way."""
        self._note("sent", source, destination, octets, traffic_class)
        access = self._behind.get(source.address)
        if source.address.version != destination.address.version:
            self._drop("no-way-between-ip-versions", source, destination, octets)
            return
        crossed = access or self._behind_whom(destination)
        if crossed is not None and any(loses(octets, crossed) for loses in self.losses):
            self._drop("lost-on-purpose", source, destination, octets)
            return
        if crossed is not None:
            for edit in self.edits:
                octets = edit(octets, crossed)
        if access is None:
            if source.address in self.down:
                self._drop("source-down", source, destination, octets)
            else:
                self._loop.call_soon(self._in_the_core, octets, source, destination, traffic_class)
            return
        passage = access.outbound(len(octets), source, destination, self._randoms[access.name], self._loop.time())
        if passage is None:
            self._drop("lost-outbound", source, destination, octets)
            return
        for arrival in passage.arrivals:
            self._loop.call_at(arrival, self._in_the_core, octets, passage.source, destination, traffic_class)

    def close(self, link: VirtualLink) -> None:
        """A port is free again."""
        if self._links.get(link.local) is link:
            del self._links[link.local]

    # --- what the laboratory does

    def place(self, address: Address, access: str) -> None:
        """Put a further address behind an access."""
        self._behind[address] = self.accesses[access]

    def set_host(self, address: Address, *, up: bool) -> None:
        """A host's address dies without a word, or comes back."""
        if address not in self._hosts:
            raise BackendError(f"no host of the network has the address {address}")
        if up:
            self.down.discard(address)
        else:
            self.down.add(address)

    @property
    def open_ports(self) -> tuple[Endpoint, ...]:
        """What is open now, for whoever looks for leaks."""
        return tuple(self._links)

    def digest(self) -> str:
        """Of every datagram so far, with its moment and fate: equal in runs that are equal."""
        return self._digest.hexdigest()

    # --- on the way

    def _in_the_core(self, octets: bytes, source: Endpoint, destination: Endpoint, traffic_class: int) -> None:
        access = self._behind_whom(destination)
        if access is None:
            if destination.address in self.down:
                self._drop("destination-down", source, destination, octets)
            elif destination.address in self._behind:  # an address behind a NAT means nothing out here
                self._drop("nobody-there", source, destination, octets)
            else:
                self._arrive(octets, source, destination, traffic_class)
            return
        passage = access.inbound(len(octets), source, destination, self._randoms[access.name], self._loop.time())
        if passage is None:
            self._drop("lost-inbound", source, destination, octets)
            return
        for arrival in passage.arrivals:
            self._loop.call_at(arrival, self._at_the_ue, access, octets, source, passage.destination, traffic_class)

    def _behind_whom(self, destination: Endpoint) -> AccessNetwork | None:
        """The access whose NAT has the address outside, or which has it itself where nothing is translated."""
        for each in self.accesses.values():
            if each.nat is not None and _translates(each) and each.nat.outside == destination.address:
                return each
        access = self._behind.get(destination.address)
        return None if access is None or _translates(access) else access

    def _at_the_ue(
        self, access: AccessNetwork, octets: bytes, source: Endpoint, destination: Endpoint, traffic_class: int
    ) -> None:
        if not access.up:
            self._drop("left-meanwhile", source, destination, octets)
        else:
            self._arrive(octets, source, destination, traffic_class)

    def _arrive(self, octets: bytes, source: Endpoint, destination: Endpoint, traffic_class: int) -> None:
        link = self._links.get(destination)
        if link is None:
            self._drop("nobody-there", source, destination, octets)
            return
        self._note("received", source, destination, octets, traffic_class)
        link.receive(octets, source, traffic_class)

    def _drop(self, why: str, source: Endpoint, destination: Endpoint, octets: bytes) -> None:
        self.dropped[why] += 1
        self._note(why, source, destination, octets)

    def _note(self, fate: str, source: Endpoint, destination: Endpoint, octets: bytes, traffic_class: int = 0) -> None:
        moment = self._loop.time()
        self.log.append(LoggedDatagram(moment, fate, source, destination, octets, traffic_class))
        self._digest.update(
            f"{moment!r} {fate} {len(octets)} ".encode() + _packed(source) + _packed(destination) + octets
        )

    def _free_port(self, address: Address) -> int:
        while True:
            port = self._next_port
            self._next_port = FIRST_PORT if port == LAST_PORT else port + 1
            if Endpoint(address, port) not in self._links:
                return port


def _translates(access: AccessNetwork) -> bool:
    return access.nat is not None and access.nat.kind is not NatKind.NONE


def _packed(endpoint: Endpoint) -> bytes:
    return endpoint.address.packed + endpoint.port.to_bytes(2, "big")
