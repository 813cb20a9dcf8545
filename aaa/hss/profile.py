"""The profile that the HSS tells of a subscriber (Non-3GPP-User-Data, TS 29.273 §8.2.3.1), made of its row."""

from __future__ import annotations

from collections.abc import Mapping

from aaa.subscribers.subscriber import ApnSubscription, PdnType, Subscriber
from protocols.diameter.codec import Address
from protocols.diameter.dictionary import PdnGwAllocationType, RatType
from protocols.diameter.dictionary import PdnType as PdnTypeCode
from protocols.diameter.profile import Ambr, ApnConfiguration, Arp, Non3gppUserData, QosProfile

PDN_TYPES = {
    PdnType.IPV4: PdnTypeCode.IPv4,
    PdnType.IPV6: PdnTypeCode.IPv6,
    PdnType.IPV4V6: PdnTypeCode.IPv4v6,
    PdnType.IPV4_OR_IPV6: PdnTypeCode.IPv4_OR_IPv6,
}


def user_data(subscriber: Subscriber, pgws: Mapping[str, str]) -> Non3gppUserData:
    """The profile; ``pgws`` are the PDN gateways that the AAA server reported, by APN.

    A subscriber who is disabled is barred: its vectors are given, its sessions refused (§8.2.3.3). Without a
    default among the APNs the first one is it.
    """
    apns = subscriber.apns
    default = next((number for number, held in enumerate(apns, 1) if held.is_default), 1 if apns else None)
    return Non3gppUserData(
        # without a subscription only an emergency brings a user this far
        non_3gpp_ip_access=subscriber.enabled and subscriber.non_3gpp_allowed,
        non_3gpp_ip_access_apn=True,
        default_context_identifier=default,
        apns=tuple(_apn(number, held, pgws.get(str(held.apn))) for number, held in enumerate(apns, 1)),
        subscription_id=subscriber.msisdn,
        rat_types_barred=() if subscriber.wlan_allowed else (RatType.WLAN,),
        session_timeout=subscriber.session_timeout,
        ambr=_ambr(subscriber.ambr_uplink_bits, subscriber.ambr_downlink_bits),
    )


def _apn(number: int, held: ApnSubscription, reported: str | None) -> ApnConfiguration:
    """APN-Configuration (TS 29.272 §7.3.35); Context-Identifier counts the APNs from 1.

    The PDN gateway is the one that the user was subscribed to (static), else the ``reported`` one (dynamic).
    """
    pgw = held.pgw or reported
    allocation = PdnGwAllocationType.STATIC if held.pgw else PdnGwAllocationType.DYNAMIC
    return ApnConfiguration(
        context_identifier=number,
        service_selection=str(held.apn),
        pdn_type=PDN_TYPES[held.pdn_type],
        ambr=_ambr(held.ambr_uplink_bits, held.ambr_downlink_bits),
        served_party_addresses=_static_addresses(held),
        qos=QosProfile(held.qci, Arp(held.priority_level, held.pre_emption_capability, held.pre_emption_vulnerability)),
        vplmn_dynamic_address_allowed=held.visited_dynamic_address,
        mip6_agent_info=pgw,
        pdn_gw_allocation_type=None if pgw is None else allocation,
    )


def _static_addresses(held: ApnSubscription) -> tuple[Address, ...]:
    """A static IPv6 prefix is its first address (TS 29.272 §7.3.48)."""
    addresses: list[Address] = []
    if held.static_ipv4 is not None:
        addresses.append(held.static_ipv4)
    if held.static_ipv6 is not None:
        addresses.append(held.static_ipv6.network_address)
    return tuple(addresses)


def _ambr(uplink: int | None, downlink: int | None) -> Ambr | None:
    return None if uplink is None or downlink is None else Ambr(uplink, downlink)
