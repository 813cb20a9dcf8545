"""What the gateway gives in CFG_REPLY and tells later (RFC 7296 §3.15, RFC 7651, TS 24.302 §8.2.4), read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from protocols.errors import RemoteError
from protocols.ikev2.payloads import ConfigurationAttribute
from protocols.ikev2.registry import ConfigAttributeType
from protocols.path import Address
from protocols.threegpp.swu import P_CSCF_ATTRIBUTES

IPV6_ADDRESS_LENGTH = 16
PERIOD_LENGTH = 4
INNER_MAXIMUM = 8  # a UE asks for one of each IP version
SERVERS_MAXIMUM = 32
_THIS_NETWORK = IPv4Network("0.0.0.0/8")

_INNER = frozenset({ConfigAttributeType.INTERNAL_IP4_ADDRESS, ConfigAttributeType.INTERNAL_IP6_ADDRESS})
_DNS = frozenset({ConfigAttributeType.INTERNAL_IP4_DNS, ConfigAttributeType.INTERNAL_IP6_DNS})
_P_CSCF = frozenset(kind for kinds in P_CSCF_ATTRIBUTES.values() for kind in kinds)
_VERSION_6 = frozenset(
    {ConfigAttributeType.INTERNAL_IP6_ADDRESS, ConfigAttributeType.INTERNAL_IP6_DNS, *P_CSCF_ATTRIBUTES[6]}
)


@dataclass(frozen=True, kw_only=True)
class Granted:
    """What the UE was given; attributes that are not known here are passed over (RFC 7296 §3.15.1)."""

    addresses: tuple[Address, ...] = ()
    dns: tuple[Address, ...] = ()
    p_cscf: tuple[Address, ...] = ()
    application_version: str | None = None
    supported_attributes: tuple[int, ...] = ()
    liveness_period: int | None = None

    @classmethod
    def of(cls, attributes: Iterable[ConfigurationAttribute]) -> Granted:
        """Read it; ``RemoteError`` says in plain words what makes no sense."""
        listed = tuple(attributes)
        addresses = _addresses(listed, _INNER)
        if len(addresses) > INNER_MAXIMUM:
            raise RemoteError(f"the gateway assigned {len(addresses)} addresses, where {INNER_MAXIMUM} would do")
        for address in addresses:
            if not _of_a_host(address):
                raise RemoteError(f"the gateway assigned {address}, which is no host's address")
        version, period, supported = None, None, b""
        for attribute in listed:
            if attribute.type == ConfigAttributeType.APPLICATION_VERSION:
                version = attribute.value.decode("ascii", "replace")
            elif attribute.type == ConfigAttributeType.SUPPORTED_ATTRIBUTES:
                supported = attribute.value
            elif attribute.type == ConfigAttributeType.TIMEOUT_PERIOD_FOR_LIVENESS_CHECK:
                if len(attribute.value) != PERIOD_LENGTH:
                    raise _wrong_length(attribute)
                period = int.from_bytes(attribute.value, "big")
        return cls(
            addresses=addresses,
            dns=_servers(listed, _DNS),
            p_cscf=_servers(listed, _P_CSCF),
            application_version=version or None,
            supported_attributes=tuple(
                int.from_bytes(supported[at : at + 2], "big") for at in range(0, len(supported) - 1, 2)
            ),
            liveness_period=period,
        )


def p_cscf_among(attributes: Iterable[ConfigurationAttribute]) -> tuple[ConfigurationAttribute, ...]:
    """The attributes that name a P-CSCF."""
    return tuple(attribute for attribute in attributes if attribute.type in _P_CSCF and attribute.value)


def _addresses(attributes: Iterable[ConfigurationAttribute], kinds: frozenset[int]) -> tuple[Address, ...]:
    """The addresses in attributes of some kinds, each once; empty attributes give none."""
    found = [_address(attribute) for attribute in attributes if attribute.type in kinds and attribute.value]
    return tuple(dict.fromkeys(found))


def _servers(attributes: Iterable[ConfigurationAttribute], kinds: frozenset[int]) -> tuple[Address, ...]:
    """The first of the servers; what cannot be the address of one is passed over."""
    return tuple(filter(_of_a_host, _addresses(attributes, kinds)))[:SERVERS_MAXIMUM]


def _of_a_host(address: Address) -> bool:
    """Not one of those that RFC 1122 §3.2.1.3 and RFC 4291 §2.4 give no host for others to reach."""
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        return False
    return address.version == 6 or not (address.is_reserved or address in _THIS_NETWORK)


def _address(attribute: ConfigurationAttribute) -> Address:
    value = attribute.value
    if attribute.type not in _VERSION_6:
        if len(value) != 4:
            raise _wrong_length(attribute)
        return IPv4Address(value)
    prefixed = attribute.type == ConfigAttributeType.INTERNAL_IP6_ADDRESS  # an address and its prefix length
    # some gateways leave the prefix length out: nothing is lost by it, since no link is made of the prefix
    if len(value) != IPV6_ADDRESS_LENGTH and not (prefixed and len(value) == IPV6_ADDRESS_LENGTH + 1):
        raise _wrong_length(attribute)
    return IPv6Address(value[:IPV6_ADDRESS_LENGTH])


def _wrong_length(attribute: ConfigurationAttribute) -> RemoteError:
    return RemoteError(f"the gateway's {attribute.type.name} has {len(attribute.value)} octets")
