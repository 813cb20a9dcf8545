"""The sockets of the access networks; PDN connections share them: one is open for as long as anybody holds it."""

from __future__ import annotations

from collections.abc import Mapping

from protocols.errors import StackError
from protocols.io.link import Link, LossyLink, NextHopLink, Opener, Receiver, UdpLink
from protocols.io.platform import LinkOpener
from protocols.io.udp import SwuPorts
from protocols.path import Endpoint
from ue.commands import AccessPorts
from ue.config import AccessSection


class Accesses:
    """Ports 500 and 4500, or what stands for them, on each access."""

    def __init__(
        self, sections: Mapping[str, AccessSection], ports: SwuPorts, open_link: LinkOpener, dscp: int = 0
    ) -> None:
        """``dscp`` is that of everything sent, where sockets are the system's."""
        self._sections = sections
        self._ports = ports
        self._open_link = _marking(open_link, dscp) if dscp else open_link
        self._open: dict[str, AccessPorts] = {}
        self._holders: dict[str, set[int]] = {}

    def open(self, name: str, holder: object) -> AccessPorts:
        """Where the ports are; ``StackError`` when they cannot be opened."""
        ports = self._open.get(name)
        if ports is None:
            ports = self._open[name] = self._bind(self._sections[name])
        self._holders.setdefault(name, set()).add(id(holder))
        return ports

    def close(self, name: str, holder: object) -> None:
        """Let go of an access; the last one closes its ports."""
        holders = self._holders.get(name, set())
        holders.discard(id(holder))
        ports = self._open.get(name)
        if ports is not None and not holders:
            del self._open[name]
            self._ports.close(ports.ike)
            self._ports.close(ports.nat_traversal)

    def _bind(self, section: AccessSection) -> AccessPorts:
        opened: list[Endpoint] = []
        try:
            for port, encapsulating in ((section.ike_port, False), (section.nat_traversal_port, True)):
                local = Endpoint(section.address, port)
                opener = _opener(section, local, self._open_link)
                opened.append(self._ports.open(local, encapsulating=encapsulating, opener=opener))
        except StackError:
            for local in opened:
                self._ports.close(local)
            raise
        return AccessPorts(ike=opened[0], nat_traversal=opened[1])


def _marking(open_link: LinkOpener, dscp: int) -> LinkOpener:
    def marked(local: Endpoint, receive: Receiver) -> Link:
        link = open_link(local, receive)
        if isinstance(link, UdpLink):
            link.mark(dscp)
        return link

    return marked


def _opener(section: AccessSection, local: Endpoint, open_link: LinkOpener) -> Opener:
    """The link of an access: a socket, by way of a hop where there is one, deaf where it is."""

    def opener(receive: Receiver) -> Link:
        return open_link(local, receive)

    hop = section.next_hop
    through = opener if hop is None else (lambda receive: NextHopLink(opener, hop, receive))
    if section.hears:
        return through
    return lambda receive: LossyLink(through, receive, receive_loss=1.0)
