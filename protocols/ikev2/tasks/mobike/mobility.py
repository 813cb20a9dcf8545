"""Where an IKE SA is (RFC 4555 §3.3, §3.5): its paths, both ends' addresses, and how child SAs follow."""

from __future__ import annotations

from collections import deque
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from protocols.ikev2.events import AddressesUpdated, ChildSaPathChanged, NatStatus
from protocols.path import Address, Endpoint, Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa
    from protocols.ikev2.tasks.mobike.addresses import AnnounceAddresses
    from protocols.ikev2.tasks.mobike.check import ReturnRoutabilityCheck
    from protocols.ikev2.tasks.mobike.probe import Doubt
    from protocols.ikev2.tasks.mobike.scouting import ProbeThenUpdate
    from protocols.ikev2.tasks.mobike.update import UpdateAddresses

ADDRESSES_MAXIMUM = 32  # of one end; more are not kept (RFC 4555 sets no limit)


class Mobility:
    """Where the SA is: the path in use is ``sa.path``; ``validated`` is the last one known to be good.

    ``esp_path`` is where the child SAs are, ``followed`` where ESP alone has led them since, ``failed`` the
    path that the last check has given up. ``check``, ``scout``, ``update`` and ``announcing`` are queued or under way,
    ``doubt`` is how the path in use is being asked, ``testing`` the pairs that a path test has yet to try. ``own``
    are this end's addresses in order of preference once they were set, ``told`` what the peer was told of them,
    ``preferred`` the one that the peer is asked to use. ``peer_addresses`` is the peer's list, the one in use first.
    """

    def __init__(self, path: Path) -> None:
        self.negotiated = False
        self.nat_traversal = True
        self.validated = path
        self.validated_nat = NatStatus()
        self.esp_path: Path | None = None
        self.followed: Path | None = None
        self.failed: Path | None = None
        self.failed_nat = NatStatus()
        self.rechecks = 0
        self.check: ReturnRoutabilityCheck | None = None
        self.update: UpdateAddresses | None = None
        self.scout: ProbeThenUpdate | None = None
        self.announcing: AnnounceAddresses | None = None
        self.newest_update = -1
        self.newest_list = -1
        self.own: tuple[Endpoint, ...] | None = None
        self.told: frozenset[Address] | None = None
        self.preferred: Address | None = None
        self.peer_addresses: tuple[Address, ...] = ()
        self.destination_hashes: frozenset[bytes] | None = None
        self.doubt: Doubt | None = None
        self.testing: deque[Path] | None = None
        self.suspended = False
        self.heard_at = 0.0

    @classmethod
    def inherit(cls, old: Mobility) -> Mobility:
        """The state of an SA that replaces another (RFC 7296 §2.18); see ``succeed`` for what was under way."""
        new = cls(old.validated)
        new.negotiated, new.nat_traversal = old.negotiated, old.nat_traversal
        new.validated_nat, new.esp_path, new.followed = old.validated_nat, old.esp_path, old.followed
        new.failed, new.failed_nat = old.failed, old.failed_nat
        new.own, new.told, new.preferred = old.own, old.told, old.preferred
        new.peer_addresses, new.heard_at = old.peer_addresses, old.heard_at
        if old.destination_hashes is not None:
            # §3.8: the hashes have the SPIs in them; "an extra address update ... is harmless"
            new.destination_hashes = frozenset()
        return new

    def child_path(self, sa: IkeSa) -> Path:
        """The outer path of a child SA that is made now: that of the others, before a move is complete."""
        if self.esp_path is None:
            self.esp_path = sa.path
            self.validated_nat = sa.nat
        return self.esp_path

    def encapsulation(self, sa: IkeSa) -> bool:
        """Whether child SAs made now are in UDP: as the path they are on asks for."""
        return (sa.nat if self.esp_path in (None, sa.path) else self.validated_nat).encapsulation

    def gain(self, address: Endpoint) -> None:
        """This end is told to send from there, so that it has that address, whatever was set before."""
        if self.own is not None and address not in self.own:
            self.own = (address, *self.own)[:ADDRESSES_MAXIMUM]

    def own_addresses(self, sa: IkeSa) -> tuple[Endpoint, ...]:
        """This end's addresses in order of preference: as set, else the one in use and the configured ones."""
        here = sa.path.local
        if self.own is not None and sa.first_initiator:
            return self.own
        if self.own is not None:
            # a responder has all its addresses on the port that the SA uses
            return tuple(Endpoint(each.address, here.port) for each in self.own)
        others = (Endpoint(address, here.port) for address in sa.config.additional_addresses)
        return tuple(dict.fromkeys((here, *others)))

    def pairs(self, sa: IkeSa) -> list[Path]:
        """The address pairs in order of preference, IPv4 with IPv4, IPv6 with IPv6, but for the one in use."""
        here = sa.path
        remotes = [here.remote]
        # a gateway serves all its addresses on one port, a UE is on another one only behind a NAT
        port = here.remote.port if sa.first_initiator else sa.config.remote_nat_traversal_port
        if not self.nat_traversal:
            port = here.remote.port
        known = [Endpoint(address, port) for address in self.peer_addresses]
        if sa.first_initiator and known and here.remote.address not in self.peer_addresses:
            remotes = []  # the peer has that address no more; where an initiator is its updates say
        remotes += [each for each in known if each.address != here.remote.address]
        found = [Path(local, remote) for local in self.own_addresses(sa) for remote in remotes]
        return [path for path in found if path.local.address.version == path.remote.address.version and path != here]

    @property
    def in_doubt(self) -> bool:
        """Whether a path that was never validated is in use and waits for its check."""
        return self.check is not None and self.check.path != self.validated


def usable(address: Address) -> bool:
    """Whether an address can be one end of a path: multicast, broadcast and none at all cannot."""
    if address.is_multicast or address.is_unspecified:
        return False
    if isinstance(address, IPv6Address):
        return not address.is_link_local and address.ipv4_mapped is None
    return address != IPv4Address("255.255.255.255")


def adopt(sa: IkeSa, path: Path) -> None:
    """This path is good."""
    sa.mobility.validated = path
    sa.mobility.validated_nat = sa.nat
    sa.mobility.followed = None


def move_children(sa: IkeSa, path: Path, *, nat_suspected: bool = False) -> None:
    """All child SAs send on ``path`` from now on; SPIs, keys, sequence numbers and windows stay (§3.5).

    ``nat_suspected``: nothing is known of that path yet. ESP in UDP gets through a NAT, and must be understood without
    one, so that it "enables NAT Traversal" where both ends have it.
    """
    encapsulation = sa.nat.encapsulation or (nat_suspected and sa.mobility.nat_traversal)
    if sa.mobility.esp_path == path and all(
        child.spec.encapsulation == encapsulation for child in sa.children.values()
    ):
        return
    sa.mobility.esp_path = path
    for child in sa.children.values():
        child.moved(path, encapsulation)
        sa.emit(ChildSaPathChanged(inbound_spi=child.spec.inbound_spi, path=path, encapsulation=encapsulation))


def updated(sa: IkeSa, old: Path, *, validated: bool) -> AddressesUpdated:
    """The event of a move that is complete."""
    return AddressesUpdated(old=old, new=sa.path, nat=sa.nat, validated=validated)
