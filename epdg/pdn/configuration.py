"""A UE's CFG_REQUEST read, and the CFG_REPLY that an APN gives (RFC 7296 §3.15, TS 24.302 §7.4.1, §8.2.4).

Left out: INTERNAL_IP4_SUBNET and INTERNAL_IP6_SUBNET (a PDN connection leads everywhere), DHCP and NBNS.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from epdg.pdn.pool import PREFIX_LENGTH
from protocols.diameter.dictionary import PdnType
from protocols.ikev2.payloads import ConfigurationAttribute, NotifyPayload
from protocols.ikev2.registry import ConfigAttributeType, NotifyType
from protocols.path import Address
from protocols.selectors import TrafficSelector
from protocols.threegpp.causes import PrivateNotify
from protocols.threegpp.swu import P_CSCF_ATTRIBUTES

ANY_DESTINATION = {4: TrafficSelector.network("0.0.0.0/0"), 6: TrafficSelector.network("::/0")}
HOST_NETMASK = bytes([255, 255, 255, 255])
WORDS = {(): "none", (4,): "IPv4", (6,): "IPv6", (4, 6): "IPv4 and IPv6"}

_ADDRESS = {4: ConfigAttributeType.INTERNAL_IP4_ADDRESS, 6: ConfigAttributeType.INTERNAL_IP6_ADDRESS}
_DNS = {4: ConfigAttributeType.INTERNAL_IP4_DNS, 6: ConfigAttributeType.INTERNAL_IP6_DNS}
_ONLY = {4: PrivateNotify.PDN_TYPE_IPV4_ONLY_ALLOWED, 6: PrivateNotify.PDN_TYPE_IPV6_ONLY_ALLOWED}
_ALLOWED: dict[PdnType | None, tuple[int, ...]] = {
    PdnType.IPv4: (4,),
    PdnType.IPv6: (6,),
}  # others allow both, IPv4_OR_IPv6 one at a time
_IPV6_LENGTHS = (16, 17)  # an address; an address with its prefix length

SUPPORTED = (
    *_ADDRESS.values(),
    ConfigAttributeType.INTERNAL_IP4_NETMASK,
    *_DNS.values(),
    ConfigAttributeType.APPLICATION_VERSION,
    ConfigAttributeType.SUPPORTED_ATTRIBUTES,
    ConfigAttributeType.TIMEOUT_PERIOD_FOR_LIVENESS_CHECK,
    *(kind for kinds in P_CSCF_ATTRIBUTES.values() for kind in kinds),
)


@dataclass(frozen=True, kw_only=True)
class GrantedNetwork:
    """What an APN gives to a UE, and what the gateway says of itself."""

    versions: tuple[int, ...] = (4,)
    dns: tuple[Address, ...] = ()
    p_cscf: tuple[Address, ...] = ()
    application_version: str | None = None
    liveness_period: int | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """A CFG_REQUEST: the attributes it names, the IP versions it wants addresses of, addresses it suggests.

    A suggested address is one the UE has had before: it comes by handover (TS 24.302 §7.2.2.1).
    """

    kinds: frozenset[int] = frozenset()
    versions: tuple[int, ...] = ()
    wanted: tuple[Address, ...] = ()

    @classmethod
    def of(cls, attributes: Iterable[ConfigurationAttribute]) -> Request:
        """Read it; unknown attributes and values of impossible lengths are passed over (§3.15.1)."""
        kinds: dict[int, None] = {}
        wanted: list[Address] = []
        for attribute in attributes:
            kinds.setdefault(int(attribute.type))
            address = _suggested(attribute)
            if address is not None and not address.is_unspecified:
                wanted.append(address)
        versions = tuple(version for version, kind in _ADDRESS.items() if kind in kinds)
        return cls(kinds=frozenset(kinds), versions=versions, wanted=tuple(wanted))

    def restricted(self, pdn_type: PdnType | None) -> tuple[int, ...]:
        """The versions that the subscription allows of those that are wanted."""
        return tuple(version for version in self.versions if version in allowed_versions(pdn_type))


def reply(
    request: Request, addresses: tuple[Address, ...], network: GrantedNetwork
) -> tuple[ConfigurationAttribute, ...]:
    """The attributes of CFG_REPLY: the addresses, and of the rest what was asked for."""
    granted: list[ConfigurationAttribute] = []
    versions = {address.version for address in addresses}

    def grant(kind: int, value: bytes) -> None:
        granted.append(ConfigurationAttribute(type=ConfigAttributeType.of(kind), value=value))

    for address in addresses:
        if address.version == 4:
            grant(_ADDRESS[4], address.packed)
            if ConfigAttributeType.INTERNAL_IP4_NETMASK in request.kinds:
                grant(ConfigAttributeType.INTERNAL_IP4_NETMASK, HOST_NETMASK)
        else:
            grant(_ADDRESS[6], address.packed + bytes([PREFIX_LENGTH]))
    for server in network.dns:
        if server.version in versions and _DNS[server.version] in request.kinds:
            grant(_DNS[server.version], server.packed)
    granted += p_cscf(request, network.p_cscf, versions)
    if ConfigAttributeType.APPLICATION_VERSION in request.kinds and network.application_version is not None:
        grant(ConfigAttributeType.APPLICATION_VERSION, network.application_version.encode("ascii"))
    if ConfigAttributeType.SUPPORTED_ATTRIBUTES in request.kinds:
        value = b"".join(int(kind).to_bytes(2, "big") for kind in sorted(SUPPORTED))
        grant(ConfigAttributeType.SUPPORTED_ATTRIBUTES, value)
    period = ConfigAttributeType.TIMEOUT_PERIOD_FOR_LIVENESS_CHECK
    if period in request.kinds and network.liveness_period is not None:
        grant(period, network.liveness_period.to_bytes(4, "big"))
    return tuple(granted)


def p_cscf(
    request: Request, servers: tuple[Address, ...], versions: Iterable[int]
) -> tuple[ConfigurationAttribute, ...]:
    """P-CSCF addresses in the attributes that the UE names: RFC 7651's, or those used before it."""
    return tuple(
        ConfigurationAttribute(type=ConfigAttributeType.of(kind), value=server.packed)
        for version in sorted(versions)
        for kind in P_CSCF_ATTRIBUTES[version]
        if kind in request.kinds
        for server in servers
        if server.version == version
    )


def selectors(
    addresses: tuple[Address, ...],
) -> tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]:
    """What the child SA may carry: everywhere (our side), and what the UE was given (its side)."""
    local = tuple(ANY_DESTINATION[address.version] for address in addresses)
    return local, tuple(_owned(address) for address in addresses)


def possible(network: GrantedNetwork, pdn_type: PdnType | None) -> tuple[int, ...]:
    """The IP versions that both the APN and the subscription have."""
    return tuple(version for version in network.versions if version in allowed_versions(pdn_type))


def allowed_versions(pdn_type: PdnType | None) -> tuple[int, ...]:
    """The IP versions that a subscription allows; without one both."""
    return _ALLOWED.get(pdn_type, (4, 6))


def only_allowed(request: Request, addresses: tuple[Address, ...], allowed: Iterable[int]) -> tuple[NotifyPayload, ...]:
    """PDN_TYPE_IPv4_ONLY_ALLOWED or IPv6, where both were wanted and only one can ever be had (TS 24.302 §8.1.2.3)."""
    if len(request.versions) < 2 or len(addresses) != 1:
        return ()
    return only_possible(allowed)


def only_possible(allowed: Iterable[int]) -> tuple[NotifyPayload, ...]:
    """The same beside a refusal, where the other one alone was wanted; nothing where not exactly one can be had."""
    single = set(allowed)
    return (NotifyPayload(type=NotifyType.of(_ONLY[single.pop()])),) if len(single) == 1 else ()


def _suggested(attribute: ConfigurationAttribute) -> Address | None:
    value = attribute.value
    if attribute.type == _ADDRESS[4] and len(value) == 4:
        return IPv4Address(value)
    if attribute.type == _ADDRESS[6] and len(value) in _IPV6_LENGTHS:
        return IPv6Address(value[:16])
    return None


def _owned(address: Address) -> TrafficSelector:
    """An IPv4 address; the whole /64 of an IPv6 one, in which the UE may choose addresses (TS 23.402 §4.7.3)."""
    if address.version == 4:
        return TrafficSelector.host(address)
    return TrafficSelector.network(str(IPv6Network((address, PREFIX_LENGTH), strict=False)))
