"""Ports 500 and 4500 (RFC 3947, RFC 3948): IKE, the non-ESP marker, ESP in UDP and keepalives, apart; bare ESP.

``SwuPorts`` owns the links of a node. On an *encapsulating* port (4500 or what stands for it) IKE carries
four zero octets in front and everything else is ESP. Beside it may be a raw link for ESP straight on IP; which of
the two ESP goes by is said with each packet, and it is taken from both (RFC 7296 §2.23).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from protocols.errors import LocalError, StackError
from protocols.io.link import PATHS_KEPT, KnowsPathMtu, Link, Opener, Receiver, ReportsTrafficClass, UdpLink
from protocols.io.tap import NAT_KEEPALIVE, NON_ESP_MARKER, DatagramTap
from protocols.path import Address, Datagram, Endpoint, Path

ESP_HEADER_LENGTH = 8


class SwuPorts:
    """The open links by local end point; received datagrams go to ``on_ike`` or, with traffic class, ``on_esp``."""

    def __init__(
        self,
        *,
        on_ike: Callable[[Datagram], None],
        on_esp: Callable[[bytes, Path, int], None],
        tap: DatagramTap | None = None,
        open_link: Callable[[Endpoint, Receiver], Link] = UdpLink,
    ) -> None:
        self._on_ike = on_ike
        self._on_esp = on_esp
        self._tap = tap
        self._open_link = open_link
        self._links: dict[Endpoint, Link] = {}
        self._encapsulating: set[Endpoint] = set()
        self._raw: dict[Address, Link] = {}
        self._dropped: Counter[str] = Counter()

    def open(
        self, local: Endpoint, *, encapsulating: bool, opener: Opener | None = None, raw: Opener | None = None
    ) -> Endpoint:
        """Open a port; ``opener`` makes another link than a plain socket. Returns where it is bound.

        ``raw`` opens the link of bare ESP beside an encapsulating port, for as long as that is open.
        """
        plain = opener or functools.partial(self._open_link, local)
        if encapsulating:
            link = _open_classed(plain, lambda octets, path, kind: self._received(octets, path, True, kind))
        else:
            link = plain(lambda octets, path: self._received(octets, path, False, 0))
        if link.local in self._links:
            raise LocalError(f"{link.local} is open already")
        self._links[link.local] = link
        if encapsulating:
            self._encapsulating.add(link.local)
        if raw is not None and link.local.address not in self._raw:
            try:
                self._raw[link.local.address] = _open_classed(
                    raw, lambda octets, path, kind: self._received_raw(octets, path, link.local, kind)
                )
            except StackError:
                self.close(link.local)
                raise
        return link.local

    def close(self, local: Endpoint) -> None:
        """Close one port, and the raw link beside it."""
        link = self._links.pop(local, None)
        raw = self._raw.pop(local.address, None) if local in self._encapsulating else None
        self._encapsulating.discard(local)
        for each in (link, raw):
            if each is not None:
                each.close()
                self._dropped.update(each.dropped)

    def close_all(self) -> None:
        """Close every port."""
        for local in list(self._links):
            self.close(local)

    @property
    def dropped(self) -> Counter[str]:
        """Everything dropped since the start by reason, by the links that are open too."""
        links = (*self._links.values(), *self._raw.values())
        return sum((link.dropped for link in links), self._dropped)

    @property
    def local_endpoints(self) -> tuple[Endpoint, ...]:
        """Where the open ports are."""
        return tuple(self._links)

    def send_ike(self, datagram: Datagram) -> None:
        """Send an IKE message or a keepalive; without a port for its source it is lost and counted."""
        path = datagram.path
        encapsulating = path.local in self._encapsulating
        octets = datagram.payload
        if encapsulating and octets != NAT_KEEPALIVE:
            octets = NON_ESP_MARKER + octets
        self._send(octets, path, encapsulating, None)

    def send_esp(self, octets: bytes, path: Path, encapsulation: bool, traffic_class: int | None = None) -> None:
        """Send ESP in UDP, which only an encapsulating port can, or straight on IP.

        ``traffic_class`` as in ``Link.send``. Without a raw link it goes in UDP all the same, which the peer must
        understand "even when no NAT was detected" (RFC 7296 §2.23).
        """
        raw = None if encapsulation else self._raw.get(path.local.address)
        if raw is not None:
            if self._tap is not None:
                self._tap.ip("out", path.local.address, path.remote.address, octets)
            raw.send(octets, path.remote, traffic_class)
        elif path.local not in self._encapsulating:
            self._dropped["no-port-for-esp"] += 1
        else:
            self._send(octets, path, True, traffic_class)

    def path_mtu(self, path: Path) -> int | None:
        """Octets of the longest IP packet that goes on ``path`` in one piece, where its link knows."""
        link = self._links.get(path.local)
        return link.path_mtu(path.remote) if isinstance(link, KnowsPathMtu) else None

    def _send(self, octets: bytes, path: Path, encapsulating: bool, traffic_class: int | None) -> None:
        link = self._links.get(path.local)
        if link is None:
            self._dropped["no-port"] += 1
            return
        if self._tap is not None:
            self._tap.udp("out", path, octets, encapsulating=encapsulating)
        link.send(octets, path.remote, traffic_class)

    def _received(self, octets: bytes, path: Path, encapsulating: bool, traffic_class: int) -> None:
        if self._tap is not None:
            self._tap.udp("in", path, octets, encapsulating=encapsulating)
        if octets == NAT_KEEPALIVE:
            return  # RFC 3948 §4: it did its work on the way
        if not encapsulating:
            self._on_ike(Datagram(path, octets))
        elif octets.startswith(NON_ESP_MARKER):
            self._on_ike(Datagram(path, octets[len(NON_ESP_MARKER) :]))
        elif len(octets) > ESP_HEADER_LENGTH:
            self._on_esp(octets, path, traffic_class)
        else:
            self._dropped["short"] += 1

    def _received_raw(self, octets: bytes, path: Path, beside: Endpoint, traffic_class: int) -> None:
        """ESP of protocol 50, as if it had come by the encapsulating port, from no port."""
        if self._tap is not None:
            self._tap.ip("in", beside.address, path.remote.address, octets)
        if len(octets) > ESP_HEADER_LENGTH:
            self._on_esp(octets, _path(beside, path.remote), traffic_class)
        else:
            self._dropped["short"] += 1


@lru_cache(maxsize=PATHS_KEPT)
def _path(local: Endpoint, remote: Endpoint) -> Path:
    """One object for all packets, so that they are told by that."""
    return Path(local, remote)


def _open_classed(opener: Opener, receive: Callable[[bytes, Path, int], None]) -> Link:
    """Open a link whose datagrams come with their traffic class, 0 where it does not see that."""
    reporter: ReportsTrafficClass | None = None
    link = opener(lambda octets, path: receive(octets, path, 0 if reporter is None else reporter.traffic_class))
    if isinstance(link, ReportsTrafficClass):
        reporter = link
        reporter.report_traffic_class()
    return link
