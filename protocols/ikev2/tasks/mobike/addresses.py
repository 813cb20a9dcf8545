"""Additional addresses (RFC 4555 §3.4, §3.6): each end tells the other its complete list, and again when it changes.

::

    SK {N(ADDITIONAL_*_ADDRESS)+ | N(NO_ADDITIONAL_ADDRESSES), [N(NO_NATS_ALLOWED)]}  -->
                          <--  SK {}

The address in the IP header belongs to the list. A list moves nothing; an initiator whose peer has the
address in use no more moves to one that it has. A responder that loses the address in use sends from
another one, ESP included (§3.5 allows it), and tries the initiator's other addresses too. RFC 4555 has no
word for a preference: a responder that wants a peer elsewhere names that address alone until the peer has
come, then all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from protocols.errors import LocalError
from protocols.ikev2.events import PeerAddressesChanged, SaState
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload, Payload
from protocols.ikev2.registry import ExchangeType, NotifyType
from protocols.ikev2.tasks.mobike import patience, probe, update
from protocols.ikev2.tasks.mobike.mobility import ADDRESSES_MAXIMUM, adopt, move_children, updated, usable
from protocols.ikev2.tasks.mobike.prohibition import no_nats
from protocols.path import Address, Endpoint, Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

ADDRESS_LENGTHS = {NotifyType.ADDITIONAL_IP4_ADDRESS: 4, NotifyType.ADDITIONAL_IP6_ADDRESS: 16}


class AnnounceAddresses:
    """The complete list as it is when the request leaves (§3.6)."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self) -> None:
        self._path: Path | None = None
        self._repeats = 0
        self.from_several = False

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """N(ADDITIONAL_*)+ or N(NO_ADDITIONAL_ADDRESSES); nothing when a newer list has been queued."""
        if sa.mobility.announcing is not self:
            return None
        self._path, self.from_several = sa.path, False
        return payloads(sa)

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        """Told; again if the request has left from several addresses, or a NAT was found in between (§3.9)."""
        if sa.mobility.announcing is not self or sa.state is not SaState.ESTABLISHED:
            return
        if message.notify(NotifyType.UNEXPECTED_NAT_DETECTED) is not None:
            self._repeats += 1
            if self._repeats <= sa.config.retransmission.limit:
                sa.enqueue(self)
                return
        if path == sa.mobility.validated and self._path == sa.path and sa.mobility.check is None:
            sa.change_path(path, now)  # the initiator decides which addresses IKE uses (§2.1), and those work
        again = sa.path != self._path
        if self.from_several and not again:
            self._repeats += 1
            again = self._repeats <= sa.config.retransmission.limit
        if again:
            sa.enqueue(self)  # §3.6: sent from several source addresses, "a new ... request MUST be sent"
            return
        sa.mobility.announcing = None


def set_addresses(
    sa: IkeSa, own: Iterable[Endpoint] | None, now: float, *, tell: bool = True, prefer: bool = False
) -> None:
    """This end has these addresses from now on, in order of preference; the peer is told if ``tell``.

    ``None``: the one in use and the configured ones, as at the start. At the initiator: none at all suspends
    the SA until there are some again, and losing the one in use moves it. At the responder: ``prefer`` asks the peer
    to use the first one.
    """
    mobility = sa.mobility
    if own is None:
        mobility.own = None
        return
    addresses = tuple(dict.fromkeys(own))
    if len(addresses) > ADDRESSES_MAXIMUM:
        raise LocalError(f"{len(addresses)} addresses; an end has at most {ADDRESSES_MAXIMUM}")
    if not addresses and not sa.first_initiator:
        raise LocalError("a responder needs an address")
    mobility.own = addresses
    if sa.state is not SaState.ESTABLISHED or not mobility.negotiated:
        return
    if not addresses:
        patience.suspend(sa)
        return
    mobility.preferred = addresses[0].address if prefer and not sa.first_initiator else None
    lost = sa.path.local not in mobility.own_addresses(sa)
    if sa.first_initiator and (lost or mobility.suspended):
        candidates = mobility.pairs(sa) if lost else [sa.path]
        if candidates:
            update.UpdateAddresses(candidates[0]).start(sa, now)
    elif lost or mobility.preferred not in (None, sa.path.local.address):
        _leave(sa, now, lost=lost)
    probe.widen(sa, now)
    if tell and (mobility.told != _complete(sa) or (lost and not sa.first_initiator)):
        announce_again(sa)


def _leave(sa: IkeSa, now: float, *, lost: bool) -> None:
    """The responder sends IKE from another address; ESP too, if the one in use is gone (§3.5)."""
    candidates = sa.mobility.pairs(sa)
    if not candidates:
        return
    old = sa.path
    sa.change_path(candidates[0], now)
    if lost:
        sa.mobility.check = None
        sa.timers.disarm_return_routability()
        adopt(sa, sa.path)
        move_children(sa, sa.path)
        sa.emit(updated(sa, old, validated=False))


def announce_again(sa: IkeSa) -> None:
    """Queue the list; one that waits already is enough, one under way is out of date."""
    sa.mobility.announcing = AnnounceAddresses()
    sa.enqueue(sa.mobility.announcing)


def payloads(sa: IkeSa) -> tuple[NotifyPayload, ...]:
    """The complete list for a message on the path in use."""
    addresses = additional(sa)
    sa.mobility.told = frozenset({sa.path.local.address, *addresses})
    listed = tuple(address_notify(address) for address in addresses)
    return (*(listed or (none_additional(),)), *no_nats(sa))


def due(sa: IkeSa) -> bool:
    """Whether the peer was told a list that is no longer true: the next update brings the new one (§3.6)."""
    return sa.mobility.told is not None and sa.mobility.told != _complete(sa)


def additional(sa: IkeSa) -> list[Address]:
    """Our addresses but for the one in the IP header."""
    here = sa.path.local.address
    if sa.mobility.preferred == here:
        return []
    others = dict.fromkeys(each.address for each in sa.mobility.own_addresses(sa) if each.address != here)
    return list(others)[:ADDRESSES_MAXIMUM]


def _complete(sa: IkeSa) -> frozenset[Address]:
    return frozenset({sa.path.local.address, *additional(sa)})


def none_additional() -> NotifyPayload:
    """N(NO_ADDITIONAL_ADDRESSES) (§4.2.3)."""
    return NotifyPayload(type=NotifyType.NO_ADDITIONAL_ADDRESSES)


def address_notify(address: Address) -> NotifyPayload:
    """N(ADDITIONAL_IP4_ADDRESS) or N(ADDITIONAL_IP6_ADDRESS) (§4.2.2)."""
    kind = NotifyType.ADDITIONAL_IP4_ADDRESS if address.version == 4 else NotifyType.ADDITIONAL_IP6_ADDRESS
    return NotifyPayload(type=kind, data=address.packed)


def peer_set(sa: IkeSa, message: Message, path: Path) -> tuple[Address, ...]:
    """The peer's addresses: that of the IP header and those listed; what cannot be one is counted and ignored."""
    found = [path.remote.address]
    for notify in message.all(NotifyPayload):
        length = ADDRESS_LENGTHS.get(notify.type)
        if length is None:
            continue
        if len(notify.data) != length:
            sa.dropped["bad-additional-address"] += 1
            continue
        address: Address = IPv4Address(notify.data) if length == 4 else IPv6Address(notify.data)
        # loopback is an address of the peer's only where the peer is on this host
        if not usable(address) or (address.is_loopback and not path.remote.address.is_loopback):
            sa.dropped["bad-additional-address"] += 1
        elif address not in found:
            found.append(address)
    if len(found) > ADDRESSES_MAXIMUM:
        sa.dropped["too-many-additional-addresses"] += 1
    return tuple(found[:ADDRESSES_MAXIMUM])


def take_list(sa: IkeSa, message: Message, path: Path, now: float) -> None:
    """The new list replaces the old one (§3.6); an initiator leaves an address that is no longer there (§3.5)."""
    mobility = sa.mobility
    if message.message_id < mobility.newest_list:
        return  # §3.6: "it has already received a newer request"
    mobility.newest_list = message.message_id
    addresses = peer_set(sa, message, path)
    changed = frozenset(addresses) != frozenset(mobility.peer_addresses)
    mobility.peer_addresses = addresses
    if changed:
        sa.emit(PeerAddressesChanged(addresses=addresses))
    if sa.first_initiator and sa.path.remote.address not in addresses:
        candidates = mobility.pairs(sa)
        if candidates:
            update.UpdateAddresses(candidates[0]).start(sa, now)
