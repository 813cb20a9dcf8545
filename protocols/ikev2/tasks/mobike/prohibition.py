"""NO_NATS_ALLOWED (RFC 4555 §3.9, §4.2.6): addresses are protected where NAT traversal is not enabled.

It is enabled when both ends sent NAT detection in IKE_SA_INIT. What follows UNEXPECTED_NAT_DETECTED is in
``update`` and ``addresses`` (a new request, a bounded number of times); in IKE_AUTH it ends the attempt, and
whoever wanted the SA starts anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.registry import NotifyType
from protocols.path import Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa


def no_nats(sa: IkeSa) -> tuple[NotifyPayload, ...]:
    """N(NO_NATS_ALLOWED) for a message on the path in use, where NAT traversal is not enabled (§3.9)."""
    if sa.mobility.nat_traversal:
        return ()
    return (NotifyPayload(type=NotifyType.NO_NATS_ALLOWED, data=path_octets(sa.path)),)


def nats_prohibited(message: Message, path: Path) -> bool:
    """Whether the peer's NO_NATS_ALLOWED disagrees with the header of its message (§3.9)."""
    prohibition = message.notify(NotifyType.NO_NATS_ALLOWED)
    return prohibition is not None and prohibition.data != path_octets(path.reversed())


def path_octets(path: Path) -> bytes:
    """Source address, destination address, source port, destination port (§4.2.6): 12 or 36 octets."""
    ports = path.local.port.to_bytes(2, "big") + path.remote.port.to_bytes(2, "big")
    return path.local.address.packed + path.remote.address.packed + ports
