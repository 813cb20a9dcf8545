"""REDIRECT as values (RFC 5685): its Notify data, what each end's policy says, the redirects obeyed so far.

The exchanges are in ``tasks/redirect``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv6Address

from protocols.buffer import Reader
from protocols.errors import DecodeError
from protocols.ikev2.registry import NotifyType
from protocols.path import Address

MAX_REDIRECTS = 5  # RFC 5685 §7
REDIRECT_LOOP_DETECT_PERIOD = 300.0  # RFC 5685 §7
REDIRECTED_LIFETIME = 30.0  # §5 leaves it to us: how long a redirected peer may take to leave

Gateway = IPv4Address | IPv6Address | str
"""Where a UE is sent: an address, or a fully qualified domain name."""


class GatewayIdentityType(IntEnum):
    """GW Ident Type (RFC 5685 §9.2, §12)."""

    IPV4 = 1
    IPV6 = 2
    FQDN = 3


@dataclass(frozen=True)
class GatewayIdentity:
    """The data of REDIRECT and REDIRECTED_FROM (RFC 5685 §9.2, §9.3); ``nonce`` in IKE_SA_INIT only.

    ``gateway`` is ``None`` for an identity type that is not known.
    """

    gateway: Gateway | None
    nonce: bytes = b""

    @classmethod
    def decode(cls, data: bytes) -> GatewayIdentity:
        """From Notify data; ``DecodeError`` with INVALID_SYNTAX when lengths or characters do not fit."""
        try:
            body = Reader(data)
            kind, length = body.u8(), body.u8()
            identity, nonce = body.take(length), body.rest()
            if kind == GatewayIdentityType.IPV4:
                return cls(IPv4Address(identity), nonce)
            if kind == GatewayIdentityType.IPV6:
                return cls(IPv6Address(identity), nonce)
            if kind != GatewayIdentityType.FQDN:
                return cls(None, nonce)
            name = identity.decode("ascii")
            if not name or not name.isprintable() or " " in name:
                raise ValueError("not a domain name")
            return cls(name, nonce)
        except (DecodeError, ValueError) as error:
            raise DecodeError(f"gateway identity: {error}", NotifyType.INVALID_SYNTAX) from error

    def encode(self) -> bytes:
        """The Notify data."""
        if isinstance(self.gateway, IPv4Address):
            kind, identity = GatewayIdentityType.IPV4, self.gateway.packed
        elif isinstance(self.gateway, IPv6Address):
            kind, identity = GatewayIdentityType.IPV6, self.gateway.packed
        else:
            kind, identity = GatewayIdentityType.FQDN, (self.gateway or "").encode("ascii")
        return bytes((kind, len(identity))) + identity + self.nonce


class RedirectStage(Enum):
    """Where in its life an IKE SA was redirected."""

    INIT = "IKE_SA_INIT"
    AUTHENTICATION = "IKE_AUTH"
    ESTABLISHED = "established"


class RedirectObedience(Enum):
    """Which redirects an initiator obeys; ``never`` does not announce the extension (RFC 5685 §3)."""

    NEVER = "never"
    AUTHENTICATED = "authenticated"
    ANY = "any"


@dataclass(frozen=True)
class RedirectTrail:
    """How an initiator got where it is: who sent it on last, and when it was sent on at all (RFC 5685 §7)."""

    sender: Address
    moments: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class InitialRedirect:
    """A responder's policy for IKE_SA_INIT: send peers to ``gateway`` from ``threshold`` IKE SAs on.

    Without a threshold only those to one of the ``anycast`` addresses are, which always is (RFC 5685 §4).
    """

    gateway: Gateway
    threshold: int | None = 0
    anycast: frozenset[Address] = frozenset()

    def due(self, address: Address, sas: int) -> bool:
        """Whether a request to ``address`` is redirected while there are ``sas`` IKE SAs."""
        return address in self.anycast or (self.threshold is not None and sas >= self.threshold)
