"""What CER and CEA say of a node (RFC 6733 §5.3.1, §5.3.2), read from the peer's and built for ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from protocols.diameter.codec import Address, Avp, DiameterMessage
from protocols.diameter.dictionary import RELAY_APPLICATION
from protocols.diameter.identity import DiameterIdentity
from protocols.errors import DecodeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Who the peer is, from its CER or CEA."""

    host: str
    realm: str
    applications: frozenset[int]
    product_name: str
    origin_state_id: int
    addresses: tuple[Address, ...]

    @property
    def is_relay(self) -> bool:
        """Whether it forwards every application (RFC 6733 §2.4)."""
        return RELAY_APPLICATION in self.applications

    def supports(self, application: int) -> bool:
        """Whether a request of ``application`` may be sent to it (RFC 6733 §5.3)."""
        return self.is_relay or application in self.applications

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Capabilities:
        """Read a CER or CEA; every kind of Application-Id AVP counts (RFC 6733 §5.3)."""
        applications: set[int] = set()
        containers = (message, *message.groups("Vendor-Specific-Application-Id"))
        for container in containers:
            for name in ("Auth-Application-Id", "Acct-Application-Id"):
                applications.update(value for value in container.values(name) if isinstance(value, int))
        host, realm = message.text("Origin-Host"), message.text("Origin-Realm")
        if not host or not realm:
            raise DecodeError(f"{message.name} without Origin-Host or Origin-Realm")
        return cls(
            host=host,
            realm=realm,
            applications=frozenset(applications),
            product_name=message.text("Product-Name") or "",
            origin_state_id=message.integer("Origin-State-Id") or 0,
            addresses=tuple(
                value for value in message.values("Host-IP-Address") if isinstance(value, IPv4Address | IPv6Address)
            ),
        )


class Judgement(Enum):
    """What becomes of a CER (RFC 6733 §5.3, §5.6)."""

    ACCEPTED = "accepted"
    UNKNOWN_PEER = "unknown"  # DIAMETER_UNKNOWN_PEER
    NOT_CERTIFIED = "not certified"  # DIAMETER_UNKNOWN_PEER: its certificate names another one (§13.1)
    ALREADY_CONNECTED = "already connected"  # ELECTION_LOST
    ELECTION = "election"  # our own connection to the peer goes on and may win (§5.6.4): no CEA yet


Admission = Callable[[Capabilities], Judgement]
"""Judges a CER."""


def admit_all(capabilities: Capabilities) -> Judgement:
    """Accept every peer (RFC 6733 §5.3 leaves it to local policy)."""
    return Judgement.ACCEPTED


def wins_election(host: str, other: str) -> bool:
    """Whether ``host`` succeeds ``other`` (RFC 6733 §5.6.4); its owner keeps the connection that it accepted."""
    return host.lower() > other.lower()


def capability_avps(identity: DiameterIdentity, addresses: tuple[Address, ...]) -> tuple[Avp, ...]:
    """What follows Origin-Realm in CER and CEA (RFC 6733 §5.3.1); ``addresses`` are our ends of the connection.

    A vendor's application is named in Vendor-Specific-Application-Id and, for peers that read only
    those, in Auth-Application-Id as well.
    """
    return (
        *(Avp.of("Host-IP-Address", address) for address in addresses),
        Avp.of("Vendor-Id", identity.vendor_id),
        Avp.of("Product-Name", identity.product_name),
        *identity.state_avps(),
        *(Avp.of("Supported-Vendor-Id", vendor) for vendor in identity.supported_vendors),
        *(Avp.of("Auth-Application-Id", application.identifier) for application in identity.applications),
        *(
            Avp.of(
                "Vendor-Specific-Application-Id",
                (
                    Avp.of("Vendor-Id", application.vendor),
                    Avp.of("Auth-Application-Id", application.identifier),
                ),
            )
            for application in identity.applications
            if application.vendor
        ),
    )


def in_common(identity: DiameterIdentity, capabilities: Capabilities) -> bool:
    """RFC 6733 §5.3: a relay has every application in common; the vendor does not count."""
    return capabilities.is_relay or any(
        application.identifier in capabilities.applications or application.identifier == RELAY_APPLICATION
        for application in identity.applications
    )
