"""The sockets of the access networks; PDN connections share them: one is open for as long as anybody holds it."""

from __future__ import annotations

from collections.abc import Mapping

from protocols.dataplane.carrier import Carrier
from protocols.errors import BackendError, StackError
from protocols.io.link import (
    Link,
    LossyLink,
    NextHopLink,
    Opener,
    Receiver,
    ReportsUnreachable,
    SocketLink,
    UnreachableReceiver,
)
from protocols.io.platform import LinkOpener
from protocols.io.udp import SwuPorts
from protocols.path import Address, Endpoint
from ue.commands import AccessPorts
from ue.config import AccessSection


class Accesses:
    """Ports 500 and 4500, or what stands for them, on each access."""

    def __init__(
        self,
        sections: Mapping[str, AccessSection],
        ports: SwuPorts,
        open_link: LinkOpener,
        carrier: Carrier,
        unreachable: UnreachableReceiver,
        dscp: int = 0,
        *,
        bare_esp: bool = False,
    ) -> None:
        """``open_link`` opens ports of IKE alone, ``carrier`` those of ESP, with ``bare_esp`` straight on IP, too,
        where there is no next hop. ``unreachable`` is told of ICMP errors, where the links hear of them. ``dscp`` is
        that of everything sent that has none of its own, where sockets are the system's.
        """
        self._unreachable = unreachable
        self._sections = sections
        self._ports = ports
        self._open_ike = _marking(open_link, dscp)
        self._open_esp = _marking(carrier.open_link, dscp)
        open_raw = carrier.open_raw if bare_esp else None
        self._open_raw = None if open_raw is None else _marking(open_raw, dscp)
        self._addresses: dict[str, Address] = {
            name: section.address for name, section in sections.items() if not section.address.is_unspecified
        }
        self._open: dict[str, AccessPorts] = {}
        self._holders: dict[str, set[int]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in the order of the configuration."""
        return tuple(self._sections)

    def watched(self, name: str) -> bool:
        """Whether the kernel says what becomes of its address."""
        return self._sections[name].interface is not None

    def address(self, name: str) -> Address | None:
        """The address of an access, ``None`` while it has none."""
        return self._addresses.get(name)

    def set_address(self, name: str, address: Address | None) -> None:
        """The access has this address from now on; ``None``: none at all."""
        if address is not None:
            self._addresses[name] = address
        elif self._sections[name].address.is_unspecified:
            self._addresses.pop(name, None)

    def open(self, name: str, holder: object) -> AccessPorts:
        """Where the ports are; ``StackError`` when they cannot be opened."""
        ports = self._open.get(name)
        if ports is not None and ports.ike.address != self._addresses.get(name):
            del self._open[name]  # of an address that the access has no more; others follow when they move
            self._close(ports)
            ports = None
        if ports is None:
            ports = self._open[name] = self._bind(name)
        self._holders.setdefault(name, set()).add(id(holder))
        return ports

    def close(self, name: str, holder: object) -> None:
        """Let go of an access; the last one closes its ports."""
        holders = self._holders.get(name, set())
        holders.discard(id(holder))
        ports = self._open.get(name)
        if ports is not None and not holders:
            del self._open[name]
            self._close(ports)

    def _close(self, ports: AccessPorts) -> None:
        self._ports.close(ports.ike)
        self._ports.close(ports.nat_traversal)

    def _bind(self, name: str) -> AccessPorts:
        section, address = self._sections[name], self._addresses.get(name)
        if address is None:
            raise BackendError(f"access {name} has no address")
        opened: list[Endpoint] = []
        try:
            for port, encapsulating in ((section.ike_port, False), (section.nat_traversal_port, True)):
                local = Endpoint(address, port)
                open_link = self._open_esp if encapsulating else self._open_ike
                opener = _opener(section, local, open_link, self._unreachable)
                raw: Opener | None = None
                if encapsulating and self._open_raw is not None and section.next_hop is None:
                    raw = _opener(section, local, self._open_raw, self._unreachable)
                opened.append(self._ports.open(local, encapsulating=encapsulating, opener=opener, raw=raw))
        except StackError:
            for local in opened:
                self._ports.close(local)
            raise
        return AccessPorts(ike=opened[0], nat_traversal=opened[1])


def _marking(open_link: LinkOpener, dscp: int) -> LinkOpener:
    def marked(local: Endpoint, receive: Receiver) -> Link:
        link = open_link(local, receive)
        if dscp and isinstance(link, SocketLink):
            link.mark(dscp)
        return link

    return marked


def _opener(section: AccessSection, local: Endpoint, open_link: LinkOpener, unreachable: UnreachableReceiver) -> Opener:
    """The link of an access: a socket, by way of a hop where there is one, deaf where it is."""

    def opener(receive: Receiver) -> Link:
        link = open_link(local, receive)
        if isinstance(link, ReportsUnreachable):
            link.report_unreachable(unreachable)
        if section.interface is not None and isinstance(link, SocketLink):
            link.bind_to(section.interface)  # with several accesses the routes prefer one for all
        return link

    hop = section.next_hop
    through = opener if hop is None else (lambda receive: NextHopLink(opener, hop, receive))
    if section.hears:
        return through
    return lambda receive: LossyLink(through, receive, receive_loss=1.0)
