"""NAT detection (RFC 7296 §2.23): the two hashes, and what they say about the path."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from protocols.ikev2.events import NatStatus
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.registry import NotifyType
from protocols.path import Endpoint, Path

if TYPE_CHECKING:
    from protocols.ikev2.sa import IkeSa

UNROUTABLE = Endpoint.of("192.0.2.0", 0)  # RFC 5737 documentation address: matches no packet


def detection_hash(spi_i: bytes, spi_r: bytes, endpoint: Endpoint) -> bytes:
    """SHA-1 over SPIi, SPIr, address and port (§2.23); SPIr is zero in the first request."""
    return hashlib.sha1(spi_i + spi_r + endpoint.address.packed + endpoint.port.to_bytes(2, "big")).digest()


def build(spi_i: bytes, spi_r: bytes, path: Path, forced: bool) -> tuple[NotifyPayload, NotifyPayload]:
    """NAT_DETECTION_SOURCE_IP and NAT_DETECTION_DESTINATION_IP for a message on ``path``.

    ``forced``: the source hash is of an address that nobody has, so that the peer takes us for NATed and
    ESP goes in UDP (§2.23 allows the pretence: "MUST NOT be interpreted as an attack").
    """
    source = UNROUTABLE if forced else path.local
    return (
        NotifyPayload(type=NotifyType.NAT_DETECTION_SOURCE_IP, data=detection_hash(spi_i, spi_r, source)),
        NotifyPayload(type=NotifyType.NAT_DETECTION_DESTINATION_IP, data=detection_hash(spi_i, spi_r, path.remote)),
    )


def offer(sa: IkeSa, path: Path) -> tuple[NotifyPayload, ...]:
    """What ``build`` makes, in every message of ours on ``path`` that has it; nothing without NAT traversal."""
    if not (sa.config.nats_allowed and sa.mobility.nat_traversal):
        return ()
    return build(sa.spi_i, sa.spi_r, path, sa.config.force_encapsulation)


def assess(sa: IkeSa, message: Message, path: Path) -> NatStatus:
    """What IKE_SA_INIT says: a NAT or none, and whether there is NAT traversal (RFC 4555 §3.9)."""
    found = evaluate(message, path, sa.config.force_encapsulation) if sa.config.nats_allowed else None
    sa.mobility.nat_traversal = found is not None
    sa.mobility.destination_hashes = destination_hashes(message)
    return found or NatStatus(forced=sa.config.force_encapsulation)


def destination_hashes(message: Message) -> frozenset[bytes] | None:
    """How the peer sees us, as hashes (RFC 4555 §3.8); ``None`` when it does not say."""
    kind = NotifyType.NAT_DETECTION_DESTINATION_IP
    return frozenset(n.data for n in message.all(NotifyPayload) if n.type == kind) or None


def evaluate(message: Message, path: Path, forced: bool) -> NatStatus | None:
    """What the peer's hashes say of the path the message came on; ``None`` when it sent none.

    Several source hashes may come (§2.23): the peer is behind a NAT when none of them matches.
    """
    sources = [n.data for n in message.all(NotifyPayload) if n.type == NotifyType.NAT_DETECTION_SOURCE_IP]
    destinations = [n.data for n in message.all(NotifyPayload) if n.type == NotifyType.NAT_DETECTION_DESTINATION_IP]
    if not sources or not destinations:
        return None
    seen_remote = detection_hash(message.spi_i, message.spi_r, path.remote)
    seen_local = detection_hash(message.spi_i, message.spi_r, path.local)
    return NatStatus(local=seen_local not in destinations, remote=seen_remote not in sources, forced=forced)
