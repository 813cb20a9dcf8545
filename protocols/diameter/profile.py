"""The subscriber's profile as SWm, SWx and S6b carry it (TS 29.273 §8.2.3.1, TS 29.272 §7.3.35).

Also the groups that stand beside it: Terminal-Information, MIP6-Agent-Info and the overload report of
RFC 7683. Left out, and passed over when received: Trace-Info, Emergency-Info, the trusted WLAN's own AVPs,
APN-OI-Replacement and Specific-APN-Info inside an APN-Configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from protocols.diameter.codec import Address, Avp, AvpContainer, AvpGroup
from protocols.diameter.commands import addresses, needed_integer, needed_text, optional
from protocols.diameter.dictionary import (
    Non3gppIpAccess,
    Non3gppIpAccessApn,
    OverloadReportType,
    PdnGwAllocationType,
    PdnType,
    PreEmptionCapability,
    PreEmptionVulnerability,
    SubscriptionIdType,
    VplmnDynamicAddressAllowed,
)
from protocols.errors import DecodeError

MIP6_INTEGRATED = 0x0000000000000001  # RFC 5447 §4.2.5
GTPV2_SUPPORTED = 0x0000400000000000  # TS 29.273 §9.2.3.2.3

OLR_DEFAULT_ALGO = 0x0000000000000001  # RFC 7683 §7.2
OVERLOAD_VALIDITY_DEFAULT = 30  # seconds, RFC 7683 §7.5
OVERLOAD_VALIDITY_LIMIT = 86_400  # seconds, RFC 7683 §7.5

MAXIMUM_BANDWIDTH = 0xFFFFFFFF  # bits per second; TS 29.214 §5.3.14: Unsigned32


@dataclass(frozen=True, slots=True)
class Ambr:
    """Aggregate maximum bit rates in bits per second (TS 29.272 §7.3.41)."""

    uplink: int
    downlink: int

    def to_avp(self) -> Avp:
        """Encode; a rate above what an Unsigned32 holds is sent as the largest one."""
        return Avp.of(
            "AMBR",
            (
                Avp.of("Max-Requested-Bandwidth-UL", min(self.uplink, MAXIMUM_BANDWIDTH)),
                Avp.of("Max-Requested-Bandwidth-DL", min(self.downlink, MAXIMUM_BANDWIDTH)),
            ),
        )

    @classmethod
    def within(cls, container: AvpContainer) -> Ambr | None:
        """The AMBR of a message or group."""
        group = container.group("AMBR")
        if group is None:
            return None
        return cls(
            needed_integer(group, "Max-Requested-Bandwidth-UL"), needed_integer(group, "Max-Requested-Bandwidth-DL")
        )


@dataclass(frozen=True, slots=True)
class Arp:
    """Allocation-Retention-Priority (TS 29.212 §5.3.32); level 1 is the highest of 15.

    Absent members mean: may not pre-empt others, may be pre-empted (§5.3.46, §5.3.47).
    """

    priority_level: int
    pre_emption_capability: bool = False
    pre_emption_vulnerability: bool = True


@dataclass(frozen=True, slots=True)
class QosProfile:
    """EPS-Subscribed-QoS-Profile of the default bearer (TS 29.272 §7.3.37)."""

    qci: int
    arp: Arp

    def to_avp(self) -> Avp:
        """Encode as the group."""
        capability = (
            PreEmptionCapability.PRE_EMPTION_CAPABILITY_ENABLED
            if self.arp.pre_emption_capability
            else PreEmptionCapability.PRE_EMPTION_CAPABILITY_DISABLED
        )
        vulnerability = (
            PreEmptionVulnerability.PRE_EMPTION_VULNERABILITY_ENABLED
            if self.arp.pre_emption_vulnerability
            else PreEmptionVulnerability.PRE_EMPTION_VULNERABILITY_DISABLED
        )
        priority = (
            Avp.of("Priority-Level", self.arp.priority_level),
            Avp.of("Pre-emption-Capability", capability),
            Avp.of("Pre-emption-Vulnerability", vulnerability),
        )
        return Avp.of(
            "EPS-Subscribed-QoS-Profile",
            (Avp.of("QoS-Class-Identifier", self.qci), Avp.of("Allocation-Retention-Priority", priority)),
        )

    @classmethod
    def within(cls, container: AvpContainer) -> QosProfile | None:
        """The QoS profile of an APN-Configuration."""
        group = container.group("EPS-Subscribed-QoS-Profile")
        if group is None:
            return None
        priority = group.group("Allocation-Retention-Priority")
        if priority is None:
            raise DecodeError("Allocation-Retention-Priority is missing")
        return cls(
            needed_integer(group, "QoS-Class-Identifier"),
            Arp(
                needed_integer(priority, "Priority-Level"),
                priority.integer("Pre-emption-Capability") == PreEmptionCapability.PRE_EMPTION_CAPABILITY_ENABLED,
                priority.integer("Pre-emption-Vulnerability")
                != PreEmptionVulnerability.PRE_EMPTION_VULNERABILITY_DISABLED,
            ),
        )


@dataclass(frozen=True, slots=True)
class TerminalInformation:
    """Terminal-Information (TS 29.272 §7.3.3): the IMEI's 14 or 15 digits, two of the software."""

    imei: str
    software_version: str | None = None

    def to_avp(self) -> Avp:
        """Encode as the group."""
        return Avp.of(
            "Terminal-Information",
            (Avp.of("IMEI", self.imei), *optional("Software-Version", self.software_version)),
        )

    @classmethod
    def within(cls, container: AvpContainer) -> TerminalInformation | None:
        """The terminal of a message; ``None`` also for one that is named by an MEID only."""
        group = container.group("Terminal-Information")
        imei = None if group is None else group.text("IMEI")
        return None if group is None or imei is None else cls(imei, group.text("Software-Version"))


def agent_info(pgw: str | None) -> tuple[Avp, ...]:
    """MIP6-Agent-Info (RFC 5447 §4.2.1) of a PGW named by its address or its host name.

    The realm of a host name is what follows its first label.
    """
    if pgw is None:
        return ()
    try:
        member = Avp.of("MIP-Home-Agent-Address", ip_address(pgw))
    except ValueError:
        realm = pgw.partition(".")[2] or pgw
        member = Avp.of("MIP-Home-Agent-Host", (Avp.of("Destination-Realm", realm), Avp.of("Destination-Host", pgw)))
    return (Avp.of("MIP6-Agent-Info", (member,)),)


def agent_within(container: AvpContainer) -> str | None:
    """The host name in MIP6-Agent-Info, else its first address."""
    group = container.group("MIP6-Agent-Info")
    if group is None:
        return None
    host = group.group("MIP-Home-Agent-Host")
    if host is not None:
        return needed_text(host, "Destination-Host")
    return next((str(address) for address in addresses(group, "MIP-Home-Agent-Address")), None)


def subscription_id(msisdn: str | None) -> tuple[Avp, ...]:
    """Subscription-Id of the MSISDN's digits (RFC 4006 §8.46)."""
    if msisdn is None:
        return ()
    members = (
        Avp.of("Subscription-Id-Type", SubscriptionIdType.END_USER_E164),
        Avp.of("Subscription-Id-Data", msisdn),
    )
    return (Avp.of("Subscription-Id", members),)


def msisdn_within(container: AvpContainer) -> str | None:
    """The digits of the first Subscription-Id that is an MSISDN."""
    for group in container.groups("Subscription-Id"):
        if group.integer("Subscription-Id-Type") == SubscriptionIdType.END_USER_E164:
            return needed_text(group, "Subscription-Id-Data")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApnConfiguration:
    """APN-Configuration (TS 29.272 §7.3.35, TS 29.273 §7.2.3.1); ``service_selection`` is the APN.

    ``served_party_addresses`` holds the static addresses of the user, at most one of each version; an IPv6
    prefix is its first address. ``mip6_agent_info`` is the allocated PGW: host name or address.
    """

    context_identifier: int
    service_selection: str
    pdn_type: PdnType = PdnType.IPv4
    ambr: Ambr | None = None
    served_party_addresses: tuple[Address, ...] = ()
    qos: QosProfile | None = None
    vplmn_dynamic_address_allowed: bool | None = None
    mip6_agent_info: str | None = None
    pdn_gw_allocation_type: PdnGwAllocationType | None = None
    charging_characteristics: str | None = None

    @property
    def static_ipv4(self) -> IPv4Address | None:
        """The user's own IPv4 address, if there is one."""
        return next((held for held in self.served_party_addresses if isinstance(held, IPv4Address)), None)

    @property
    def static_ipv6(self) -> IPv6Address | None:
        """The first address of the user's own IPv6 prefix, if there is one."""
        return next((held for held in self.served_party_addresses if isinstance(held, IPv6Address)), None)

    def to_avp(self) -> Avp:
        """Encode as the group."""
        allowed = self.vplmn_dynamic_address_allowed
        return Avp.of(
            "APN-Configuration",
            (
                Avp.of("Context-Identifier", self.context_identifier),
                *(Avp.of("Served-Party-IP-Address", address) for address in self.served_party_addresses),
                Avp.of("PDN-Type", self.pdn_type),
                Avp.of("Service-Selection", self.service_selection),
                *(() if self.qos is None else (self.qos.to_avp(),)),
                *optional(
                    "VPLMN-Dynamic-Address-Allowed", None if allowed is None else VplmnDynamicAddressAllowed(allowed)
                ),
                *agent_info(self.mip6_agent_info),
                *optional("PDN-GW-Allocation-Type", self.pdn_gw_allocation_type),
                *optional("3GPP-Charging-Characteristics", self.charging_characteristics),
                *(() if self.ambr is None else (self.ambr.to_avp(),)),
            ),
        )

    @classmethod
    def from_group(cls, group: AvpGroup) -> ApnConfiguration:
        """Decode the group's members; ``DecodeError`` on what is missing or has no meaning."""
        pdn_type = needed_integer(group, "PDN-Type")
        if pdn_type not in PdnType._value2member_map_:
            raise DecodeError(f"PDN-Type {pdn_type}")
        allowed = group.integer("VPLMN-Dynamic-Address-Allowed")
        allocation = group.integer("PDN-GW-Allocation-Type")
        if allocation is not None and allocation not in PdnGwAllocationType._value2member_map_:
            raise DecodeError(f"PDN-GW-Allocation-Type {allocation}")
        return cls(
            context_identifier=needed_integer(group, "Context-Identifier"),
            service_selection=needed_text(group, "Service-Selection"),
            pdn_type=PdnType(pdn_type),
            ambr=Ambr.within(group),
            served_party_addresses=addresses(group, "Served-Party-IP-Address"),
            qos=QosProfile.within(group),
            vplmn_dynamic_address_allowed=None if allowed is None else allowed == VplmnDynamicAddressAllowed.ALLOWED,
            mip6_agent_info=agent_within(group),
            pdn_gw_allocation_type=None if allocation is None else PdnGwAllocationType(allocation),
            charging_characteristics=group.text("3GPP-Charging-Characteristics"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Non3gppUserData:
    """Non-3GPP-User-Data (TS 29.273 §8.2.3.1): the whole profile, as the HSS gives it to the AAA server.

    ``non_3gpp_ip_access`` False: barred; ``non_3gpp_ip_access_apn`` False: every APN is disabled, emergency
    apart. ``rat_types_barred`` are the RAT-Types that are *not* allowed. ``subscription_id`` is the MSISDN.
    """

    non_3gpp_ip_access: bool
    non_3gpp_ip_access_apn: bool
    default_context_identifier: int | None = None
    apns: tuple[ApnConfiguration, ...] = ()
    subscription_id: str | None = None
    rat_types_barred: tuple[int, ...] = ()
    session_timeout: int | None = None
    mip6_feature_vector: int | None = None
    ambr: Ambr | None = None
    charging_characteristics: str | None = None

    def to_avp(self) -> Avp:
        """Encode as the group."""
        access = (
            Non3gppIpAccess.NON_3GPP_SUBSCRIPTION_ALLOWED
            if self.non_3gpp_ip_access
            else Non3gppIpAccess.NON_3GPP_SUBSCRIPTION_BARRED
        )
        access_apn = (
            Non3gppIpAccessApn.NON_3GPP_APNS_ENABLE
            if self.non_3gpp_ip_access_apn
            else Non3gppIpAccessApn.NON_3GPP_APNS_DISABLE
        )
        return Avp.of(
            "Non-3GPP-User-Data",
            (
                *subscription_id(self.subscription_id),
                Avp.of("Non-3GPP-IP-Access", access),
                Avp.of("Non-3GPP-IP-Access-APN", access_apn),
                *(Avp.of("RAT-Type", rat_type) for rat_type in self.rat_types_barred),
                *optional("Session-Timeout", self.session_timeout),
                *optional("MIP6-Feature-Vector", self.mip6_feature_vector),
                *(() if self.ambr is None else (self.ambr.to_avp(),)),
                *optional("3GPP-Charging-Characteristics", self.charging_characteristics),
                *optional("Context-Identifier", self.default_context_identifier),
                *(apn.to_avp() for apn in self.apns),
            ),
        )

    @classmethod
    def within(cls, container: AvpContainer) -> Non3gppUserData | None:
        """The profile of a message; ``None`` also when the group holds none (trace alone, or nothing at all)."""
        group = container.group("Non-3GPP-User-Data")
        if group is None or (group.find("Non-3GPP-IP-Access") is None and group.find("APN-Configuration") is None):
            return None
        return cls(
            non_3gpp_ip_access=needed_integer(group, "Non-3GPP-IP-Access")
            == Non3gppIpAccess.NON_3GPP_SUBSCRIPTION_ALLOWED,
            non_3gpp_ip_access_apn=needed_integer(group, "Non-3GPP-IP-Access-APN")
            == Non3gppIpAccessApn.NON_3GPP_APNS_ENABLE,
            default_context_identifier=group.integer("Context-Identifier"),
            apns=tuple(ApnConfiguration.from_group(apn) for apn in group.groups("APN-Configuration")),
            subscription_id=msisdn_within(group),
            rat_types_barred=integers(group, "RAT-Type"),
            session_timeout=group.integer("Session-Timeout") or None,  # RFC 6733 §8.13: zero is no end
            mip6_feature_vector=group.integer("MIP6-Feature-Vector"),
            ambr=Ambr.within(group),
            charging_characteristics=group.text("3GPP-Charging-Characteristics"),
        )

    @property
    def default_apn(self) -> ApnConfiguration | None:
        """The APN that Context-Identifier names (TS 29.273 §8.2.3.1)."""
        default = self.default_context_identifier
        return next((apn for apn in self.apns if apn.context_identifier == default), None)


def integers(container: AvpContainer, name: str) -> tuple[int, ...]:
    """The values of every integer AVP of that name."""
    return tuple(value for value in container.values(name) if isinstance(value, int))


@dataclass(frozen=True, slots=True)
class OverloadReport:
    """OC-OLR (RFC 7683 §7.3): ``validity`` in seconds, ``reduction`` in per cent of the requests.

    A validity of zero ends the report. Of two with one type the one with the higher ``sequence`` counts.
    """

    sequence: int
    validity: int = OVERLOAD_VALIDITY_DEFAULT
    reduction: int = 100
    report_type: int = OverloadReportType.HOST_REPORT

    def to_avp(self) -> Avp:
        """Encode as the group."""
        return Avp.of(
            "OC-OLR",
            (
                Avp.of("OC-Sequence-Number", self.sequence),
                Avp.of("OC-Report-Type", self.report_type),
                Avp.of("OC-Reduction-Percentage", self.reduction),
                Avp.of("OC-Validity-Duration", self.validity),
            ),
        )

    @classmethod
    def within(cls, container: AvpContainer) -> OverloadReport | None:
        """The first report that can be read.

        RFC 7683 §5.2.1.2 and §7.5: a report without sequence number or type and values out of range are
        passed over, not an error of the answer that carries them.
        """
        for group in container.groups("OC-OLR"):
            sequence = group.integer("OC-Sequence-Number")
            report_type = group.integer("OC-Report-Type")
            reduction = group.integer("OC-Reduction-Percentage")
            validity = group.integer("OC-Validity-Duration")
            if validity is None or validity > OVERLOAD_VALIDITY_LIMIT:
                validity = OVERLOAD_VALIDITY_DEFAULT
            if sequence is None or report_type is None or not 0 <= (reduction or 0) <= 100:
                continue
            return cls(sequence, validity, reduction or 0, report_type)
        return None


def overload_features(features: int | None) -> tuple[Avp, ...]:
    """OC-Supported-Features (RFC 7683 §7.1), in requests of who reacts and answers of who reports."""
    if features is None:
        return ()
    return (Avp.of("OC-Supported-Features", (Avp.of("OC-Feature-Vector", features),)),)


def overload_avps(features: int | None, report: OverloadReport | None) -> tuple[Avp, ...]:
    """What an answer says of overload: a report never goes without the features (RFC 7683 §5.1.2)."""
    if report is None:
        return overload_features(features)
    return (*overload_features(OLR_DEFAULT_ALGO if features is None else features), report.to_avp())


def overload_features_within(container: AvpContainer) -> int | None:
    """The feature vector; without one in the group the default algorithm is meant (RFC 7683 §7.2)."""
    group = container.group("OC-Supported-Features")
    if group is None:
        return None
    features = group.integer("OC-Feature-Vector")
    return OLR_DEFAULT_ALGO if features is None else features
