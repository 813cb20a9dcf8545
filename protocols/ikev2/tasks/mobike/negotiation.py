"""What IKE_AUTH says of MOBIKE (RFC 4555 §3.2, §3.4): MOBIKE_SUPPORTED, addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.errors import RemoteError
from protocols.ikev2.events import PeerAddressesChanged
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.registry import NotifyType
from protocols.ikev2.tasks.mobike.addresses import additional, address_notify, none_additional, peer_set
from protocols.ikev2.tasks.mobike.prohibition import nats_prohibited, no_nats

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


def announce(sa: IkeSa) -> tuple[NotifyPayload, ...]:
    """N(MOBIKE_SUPPORTED) (§3.2), our other addresses (§3.4), where the configuration wants it."""
    if not wanted(sa):
        return ()
    addresses = additional(sa)
    if addresses or sa.habits.always_lists_addresses:
        sa.mobility.told = frozenset({sa.path.local.address, *addresses})
    return (
        NotifyPayload(type=NotifyType.MOBIKE_SUPPORTED),
        *(address_notify(address) for address in addresses),
        *(() if addresses or not sa.habits.always_lists_addresses else (none_additional(),)),
        *(no_nats(sa) if sa.first_initiator else ()),
    )


def wanted(sa: IkeSa) -> bool:
    """Whether this end speaks MOBIKE on the IP version that the SA is on."""
    return sa.config.mobike and sa.path.remote.address.version in sa.habits.mobike_versions


def announced(message: Message) -> bool:
    """Whether the peer supports MOBIKE."""
    return message.notify(NotifyType.MOBIKE_SUPPORTED) is not None


def take_announcement(sa: IkeSa, message: Message) -> None:
    """Keep the peer's addresses, and refuse a peer that forbids the NAT that is there (§3.9)."""
    if not wanted(sa) or not announced(message):
        return
    if not sa.first_initiator and nats_prohibited(message, sa.path):
        raise RemoteError("the peer allows no NAT, and there is one", NotifyType.UNEXPECTED_NAT_DETECTED)
    sa.mobility.peer_addresses = peer_set(sa, message, sa.path)
    if len(sa.mobility.peer_addresses) > 1:
        sa.emit(PeerAddressesChanged(addresses=sa.mobility.peer_addresses))
