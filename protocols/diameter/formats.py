"""Command Code Formats: which AVPs a request must or may hold, and what groups are made of.

RFC 6733 §3.2, RFC 4072 §3 and TS 29.273 §7.2.2 (SWm), §8.2.2 (SWx) and §9.2.2 (S6b). An AVP with the M
flag that stands in no format here is refused (RFC 6733 §4.1); one without it is passed over.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocols.diameter.dictionary import (
    BASE_APPLICATION,
    S6B_APPLICATION,
    SWM_APPLICATION,
    SWX_APPLICATION,
    CommandCode,
)


@dataclass(frozen=True, kw_only=True)
class Occurrence:
    """How often an AVP stands in a command or group; ``maximum`` None means without limit."""

    name: str
    minimum: int
    maximum: int | None


def _required(*names: str) -> tuple[Occurrence, ...]:
    return tuple(Occurrence(name=name, minimum=1, maximum=1) for name in names)


def _optional(*names: str) -> tuple[Occurrence, ...]:
    return tuple(Occurrence(name=name, minimum=0, maximum=1) for name in names)


def _any(*names: str) -> tuple[Occurrence, ...]:
    return tuple(Occurrence(name=name, minimum=0, maximum=None) for name in names)


def _some(*names: str) -> tuple[Occurrence, ...]:
    return tuple(Occurrence(name=name, minimum=1, maximum=None) for name in names)


_ROUTING = _any("Proxy-Info", "Route-Record")
_SESSION = _required("Session-Id", "Origin-Host", "Origin-Realm", "Auth-Application-Id")
_IMPLICIT_SESSION = _required(
    "Session-Id",
    "Vendor-Specific-Application-Id",
    "Auth-Session-State",
    "Origin-Host",
    "Origin-Realm",
    "Destination-Realm",
    "User-Name",
)
_ABORT_SESSION = (
    *_SESSION,
    *_required("Destination-Realm", "Destination-Host"),
    *_optional("User-Name", "Origin-State-Id", "Auth-Session-State", "Vendor-Specific-Application-Id"),
    *_ROUTING,
)
_RE_AUTH = (
    *_SESSION,
    *_required("Destination-Realm", "Destination-Host", "Re-Auth-Request-Type"),
    *_optional("User-Name", "Origin-State-Id", "Vendor-Specific-Application-Id"),
    *_ROUTING,
)

REQUEST_FORMATS: dict[tuple[int, int], tuple[Occurrence, ...]] = {
    (BASE_APPLICATION, CommandCode.CAPABILITIES_EXCHANGE): (
        *_required("Origin-Host", "Origin-Realm", "Vendor-Id", "Product-Name"),
        *_some("Host-IP-Address"),
        *_optional("Origin-State-Id", "Firmware-Revision"),
        *_any(
            "Supported-Vendor-Id",
            "Auth-Application-Id",
            "Inband-Security-Id",
            "Acct-Application-Id",
            "Vendor-Specific-Application-Id",
        ),
    ),
    (BASE_APPLICATION, CommandCode.DEVICE_WATCHDOG): (
        *_required("Origin-Host", "Origin-Realm"),
        *_optional("Origin-State-Id"),
    ),
    (BASE_APPLICATION, CommandCode.DISCONNECT_PEER): (
        *_required("Origin-Host", "Origin-Realm", "Disconnect-Cause"),
        *_optional("Origin-State-Id"),
    ),
    # RFC 4072 §3.1 with TS 29.273 §7.2.2.1.1
    (SWM_APPLICATION, CommandCode.DIAMETER_EAP): (
        *_SESSION,
        *_required("Destination-Realm", "Auth-Request-Type", "EAP-Payload"),
        *_optional(
            "Destination-Host",
            "User-Name",
            "RAT-Type",
            "Service-Selection",
            "MIP6-Feature-Vector",
            "Visited-Network-Identifier",
            "AAA-Failure-Indication",
            "UE-Local-IP-Address",
            "Terminal-Information",
            "Emergency-Services",
            "Mobile-Node-Identifier",
            "MIP6-Agent-Info",
            "WLAN-Identifier",
            "QoS-Capability",
            "Origin-State-Id",
            "NAS-Identifier",
            "NAS-IP-Address",
            "NAS-IPv6-Address",
            "NAS-Port",
            "NAS-Port-Id",
            "NAS-Port-Type",
            "Port-Limit",
            "EAP-Key-Name",
            "Service-Type",
            "Authorization-Lifetime",
            "Auth-Grace-Period",
            "Auth-Session-State",
            "Callback-Number",
            "Called-Station-Id",
            "Calling-Station-Id",
            "Originating-Line-Info",
            "Connect-Info",
            "Framed-Interface-Id",
            "Framed-IP-Address",
            "Framed-IP-Netmask",
            "Framed-MTU",
            "Framed-Protocol",
            "Vendor-Specific-Application-Id",
            "OC-Supported-Features",
        ),
        *_any("State", "Supported-Features", "Framed-Compression", "Framed-IPv6-Prefix", "Tunneling"),
        *_ROUTING,
    ),
    # TS 29.273 §7.2.2.1.3
    (SWM_APPLICATION, CommandCode.AA): (
        *_SESSION,
        *_required("Destination-Realm", "Auth-Request-Type"),
        *_optional(
            "Destination-Host",
            "User-Name",
            "OC-Supported-Features",
            "AAR-Flags",
            "UE-Local-IP-Address",
            "Origin-State-Id",
            "Vendor-Specific-Application-Id",
        ),
        *_any("State", "Class", "Supported-Features"),
        *_ROUTING,
    ),
    # RFC 6733 §8.4.1 with TS 29.273 §7.2.2.2.1
    (SWM_APPLICATION, CommandCode.SESSION_TERMINATION): (
        *_SESSION,
        *_required("Destination-Realm", "Termination-Cause", "User-Name"),
        *_optional("Destination-Host", "Origin-State-Id", "OC-Supported-Features", "Vendor-Specific-Application-Id"),
        *_any("Class"),
        *_ROUTING,
    ),
    # RFC 6733 §8.5.1 with TS 29.273 §7.2.2.3.1 and §9.2.2.4.1
    (SWM_APPLICATION, CommandCode.ABORT_SESSION): _ABORT_SESSION,
    (S6B_APPLICATION, CommandCode.ABORT_SESSION): _ABORT_SESSION,
    # RFC 6733 §8.3.1 with TS 29.273 §7.2.2.4.1 and §9.2.2.6.1
    (SWM_APPLICATION, CommandCode.RE_AUTH): _RE_AUTH,
    (S6B_APPLICATION, CommandCode.RE_AUTH): (*_RE_AUTH, *_optional("RAR-Flags")),
    # RFC 7155 §3.1 with TS 29.273 §9.2.2.2.1 and §9.2.2.5.1
    (S6B_APPLICATION, CommandCode.AA): (
        *_SESSION,
        *_required("Destination-Realm", "Auth-Request-Type"),
        *_optional(
            "Destination-Host",
            "User-Name",
            "MIP6-Agent-Info",
            "MIP6-Feature-Vector",
            "Visited-Network-Identifier",
            "QoS-Capability",
            "Service-Selection",
            "RAT-Type",
            "MIP-MN-HA-SPI",
            "OC-Supported-Features",
            "Origination-Time-Stamp",
            "Maximum-Wait-Time",
            "Emergency-Services",
            "Origin-State-Id",
            "Auth-Session-State",
            "Authorization-Lifetime",
            "Auth-Grace-Period",
            "NAS-Identifier",
            "NAS-IP-Address",
            "NAS-IPv6-Address",
            "NAS-Port-Type",
            "Service-Type",
            "Called-Station-Id",
            "Calling-Station-Id",
            "Framed-Interface-Id",
            "Framed-IP-Address",
            "Framed-IP-Netmask",
            "Framed-Protocol",
            "Vendor-Specific-Application-Id",
        ),
        *_any("Supported-Features", "Framed-IPv6-Prefix", "State", "Class"),
        *_ROUTING,
    ),
    # RFC 6733 §8.4.1 with TS 29.273 §9.2.2.3.1
    (S6B_APPLICATION, CommandCode.SESSION_TERMINATION): (
        *_SESSION,
        *_required("Destination-Realm", "Termination-Cause"),
        *_optional(
            "Destination-Host",
            "User-Name",
            "Origin-State-Id",
            "OC-Supported-Features",
            "Vendor-Specific-Application-Id",
        ),
        *_any("Class"),
        *_ROUTING,
    ),
    # TS 29.273 §8.2.2.1
    (SWX_APPLICATION, CommandCode.MULTIMEDIA_AUTH): (
        *_IMPLICIT_SESSION,
        *_required("3GPP-SIP-Auth-Data-Item", "3GPP-SIP-Number-Auth-Items"),
        *_optional(
            "Destination-Host",
            "RAT-Type",
            "AN-Trusted",
            "ANID",
            "Visited-Network-Identifier",
            "Terminal-Information",
            "AAA-Failure-Indication",
            "OC-Supported-Features",
            "Origin-State-Id",
        ),
        *_any("Supported-Features"),
        *_ROUTING,
    ),
    # TS 29.273 §8.2.2.3
    (SWX_APPLICATION, CommandCode.SERVER_ASSIGNMENT): (
        *_IMPLICIT_SESSION,
        *_required("Server-Assignment-Type"),
        *_optional(
            "Destination-Host",
            "Service-Selection",
            "Context-Identifier",
            "MIP6-Agent-Info",
            "Visited-Network-Identifier",
            "Terminal-Information",
            "Emergency-Services",
            "OC-Supported-Features",
            "Origin-State-Id",
        ),
        *_any("Active-APN", "Supported-Features"),
        *_ROUTING,
    ),
    # TS 29.273 §8.2.2.4
    (SWX_APPLICATION, CommandCode.REGISTRATION_TERMINATION): (
        *_IMPLICIT_SESSION,
        *_required("Destination-Host", "Deregistration-Reason"),
        *_optional("Origin-State-Id"),
        *_any("Supported-Features"),
        *_ROUTING,
    ),
    # TS 29.273 §8.2.2.2
    (SWX_APPLICATION, CommandCode.PUSH_PROFILE): (
        *_IMPLICIT_SESSION,
        *_required("Destination-Host"),
        *_optional("Non-3GPP-User-Data", "PPR-Flags", "Origin-State-Id"),
        *_any("Supported-Features"),
        *_ROUTING,
    ),
}
"""Command Code Formats of the requests that this project serves, by (application, command)."""

GROUP_FORMATS: dict[str, tuple[Occurrence, ...]] = {
    "Vendor-Specific-Application-Id": (
        *_some("Vendor-Id"),
        *_optional("Auth-Application-Id", "Acct-Application-Id"),
    ),
    "Experimental-Result": _required("Vendor-Id", "Experimental-Result-Code"),
    "Proxy-Info": _required("Proxy-Host", "Proxy-State"),
    "Terminal-Information": _optional("IMEI", "3GPP2-MEID", "Software-Version"),
    "AMBR": _required("Max-Requested-Bandwidth-UL", "Max-Requested-Bandwidth-DL"),
    "APN-Configuration": (
        *_required("Context-Identifier", "PDN-Type", "Service-Selection"),
        *_optional(
            "EPS-Subscribed-QoS-Profile",
            "VPLMN-Dynamic-Address-Allowed",
            "MIP6-Agent-Info",
            "Visited-Network-Identifier",
            "PDN-GW-Allocation-Type",
            "3GPP-Charging-Characteristics",
            "AMBR",
            "APN-OI-Replacement",
        ),
        *_any("Served-Party-IP-Address", "Specific-APN-Info"),
    ),
    "EPS-Subscribed-QoS-Profile": _required("QoS-Class-Identifier", "Allocation-Retention-Priority"),
    "Allocation-Retention-Priority": (
        *_required("Priority-Level"),
        *_optional("Pre-emption-Capability", "Pre-emption-Vulnerability"),
    ),
    "MIP6-Agent-Info": (
        *_any("MIP-Home-Agent-Address"),
        *_optional("MIP-Home-Agent-Host", "MIP6-Home-Link-Prefix"),
    ),
    "MIP-Home-Agent-Host": _required("Destination-Realm", "Destination-Host"),
    "Subscription-Id": _required("Subscription-Id-Type", "Subscription-Id-Data"),
    "Non-3GPP-User-Data": (
        *_optional(
            "Subscription-Id",
            "Non-3GPP-IP-Access",
            "Non-3GPP-IP-Access-APN",
            "Session-Timeout",
            "MIP6-Feature-Vector",
            "AMBR",
            "3GPP-Charging-Characteristics",
            "Context-Identifier",
            "APN-OI-Replacement",
            "Trace-Info",
            "UE-Usage-Type",
            "Emergency-Info",
        ),
        *_any("RAT-Type", "APN-Configuration"),
    ),
    # TS 29.273 §8.2.3.6: the item of a request
    "3GPP-SIP-Auth-Data-Item": _optional(
        "3GPP-SIP-Item-Number",
        "3GPP-SIP-Authentication-Scheme",
        "3GPP-SIP-Authenticate",
        "3GPP-SIP-Authorization",
        "Confidentiality-Key",
        "Integrity-Key",
    ),
    "Deregistration-Reason": (*_required("Reason-Code"), *_optional("Reason-Info")),
    "OC-Supported-Features": _optional("OC-Feature-Vector"),
    "OC-OLR": (
        *_required("OC-Sequence-Number", "OC-Report-Type"),
        *_optional("OC-Reduction-Percentage", "OC-Validity-Duration"),
    ),
    "Supported-Features": _required("Vendor-Id", "Feature-List-ID", "Feature-List"),
}
"""Members of the groups that this project builds or checks."""
