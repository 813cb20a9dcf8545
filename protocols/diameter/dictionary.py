"""Names, codes and types of AVPs, commands, values, and this project's own rules for the flags.

The AVP dictionary of the ``diameter`` package gives names, codes and data types. What a sender must put
into the flags is stated here, from RFC 6733 §4.5, RFC 4072 §3, TS 29.273 §7.2.3, §8.2.3 and §9.2.3. The AVPs
that TS 29.229 calls SIP-Auth-Data-Item, SIP-Authenticate, … bear the prefix 3GPP- here, as in the package:
RFC 4740 has the plain names with other codes and types. Command Code Formats: ``formats``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from protocols.diameter.package import avp_dictionaries

VENDOR_3GPP = 10415

BASE_APPLICATION = 0
SWM_APPLICATION = 16777264
SWX_APPLICATION = 16777265
S6B_APPLICATION = 16777272
STA_APPLICATION = 16777250
RELAY_APPLICATION = 0xFFFFFFFF


class CommandCode(IntEnum):
    """Command codes (RFC 6733 §3.1, RFC 4072 §3, TS 29.273)."""

    CAPABILITIES_EXCHANGE = 257
    RE_AUTH = 258
    AA = 265
    DIAMETER_EAP = 268
    ACCOUNTING = 271
    CREDIT_CONTROL = 272
    ABORT_SESSION = 274
    SESSION_TERMINATION = 275
    DEVICE_WATCHDOG = 280
    DISCONNECT_PEER = 282
    SERVER_ASSIGNMENT = 301
    MULTIMEDIA_AUTH = 303
    REGISTRATION_TERMINATION = 304
    PUSH_PROFILE = 305


_COMMAND_INITIALS = {
    CommandCode.CAPABILITIES_EXCHANGE: "CE",
    CommandCode.RE_AUTH: "RA",
    CommandCode.AA: "AA",
    CommandCode.DIAMETER_EAP: "DE",
    CommandCode.ACCOUNTING: "AC",
    CommandCode.CREDIT_CONTROL: "CC",
    CommandCode.ABORT_SESSION: "AS",
    CommandCode.SESSION_TERMINATION: "ST",
    CommandCode.DEVICE_WATCHDOG: "DW",
    CommandCode.DISCONNECT_PEER: "DP",
    CommandCode.SERVER_ASSIGNMENT: "SA",
    CommandCode.MULTIMEDIA_AUTH: "MA",
    CommandCode.REGISTRATION_TERMINATION: "RT",
    CommandCode.PUSH_PROFILE: "PP",
}


def command_name(command: int, *, request: bool) -> str:
    """The abbreviation of the standards (``DER``), or the number for a command without one."""
    initials = _COMMAND_INITIALS.get(command)  # type: ignore[call-overload]
    letter = "R" if request else "A"
    return f"{initials}{letter}" if initials is not None else f"command {command} {letter}"


class ResultCode(IntEnum):
    """Result-Code values (RFC 6733 §7.1)."""

    DIAMETER_MULTI_ROUND_AUTH = 1001
    DIAMETER_SUCCESS = 2001
    DIAMETER_LIMITED_SUCCESS = 2002
    DIAMETER_COMMAND_UNSUPPORTED = 3001
    DIAMETER_UNABLE_TO_DELIVER = 3002
    DIAMETER_REALM_NOT_SERVED = 3003
    DIAMETER_TOO_BUSY = 3004
    DIAMETER_LOOP_DETECTED = 3005
    DIAMETER_REDIRECT_INDICATION = 3006
    DIAMETER_APPLICATION_UNSUPPORTED = 3007
    DIAMETER_INVALID_HDR_BITS = 3008
    DIAMETER_INVALID_AVP_BITS = 3009
    DIAMETER_UNKNOWN_PEER = 3010
    DIAMETER_AUTHENTICATION_REJECTED = 4001
    DIAMETER_OUT_OF_SPACE = 4002
    ELECTION_LOST = 4003
    DIAMETER_AVP_UNSUPPORTED = 5001
    DIAMETER_UNKNOWN_SESSION_ID = 5002
    DIAMETER_AUTHORIZATION_REJECTED = 5003
    DIAMETER_INVALID_AVP_VALUE = 5004
    DIAMETER_MISSING_AVP = 5005
    DIAMETER_RESOURCES_EXCEEDED = 5006
    DIAMETER_CONTRADICTING_AVPS = 5007
    DIAMETER_AVP_NOT_ALLOWED = 5008
    DIAMETER_AVP_OCCURS_TOO_MANY_TIMES = 5009
    DIAMETER_NO_COMMON_APPLICATION = 5010
    DIAMETER_UNSUPPORTED_VERSION = 5011
    DIAMETER_UNABLE_TO_COMPLY = 5012
    DIAMETER_INVALID_BIT_IN_HEADER = 5013
    DIAMETER_INVALID_AVP_LENGTH = 5014
    DIAMETER_INVALID_MESSAGE_LENGTH = 5015
    DIAMETER_INVALID_AVP_BIT_COMBO = 5016
    DIAMETER_NO_COMMON_SECURITY = 5017


class ExperimentalResultCode(IntEnum):
    """Experimental-Result-Code values of vendor 10415 met on SWm and SWx (TS 29.273, 29.229, 29.272)."""

    DIAMETER_AUTHENTICATION_DATA_UNAVAILABLE = 4181
    DIAMETER_ERROR_USER_UNKNOWN = 5001
    DIAMETER_ERROR_IDENTITY_NOT_REGISTERED = 5003
    DIAMETER_ERROR_ROAMING_NOT_ALLOWED = 5004
    DIAMETER_ERROR_IDENTITY_ALREADY_REGISTERED = 5005
    DIAMETER_ERROR_AUTH_SCHEME_NOT_SUPPORTED = 5006
    DIAMETER_ERROR_USER_NO_NON_3GPP_SUBSCRIPTION = 5450
    DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION = 5451
    DIAMETER_ERROR_RAT_TYPE_NOT_ALLOWED = 5452
    DIAMETER_ERROR_ILLEGAL_EQUIPMENT = 5554


class DisconnectCause(IntEnum):
    """Disconnect-Cause values (RFC 6733 §5.4.3)."""

    REBOOTING = 0
    BUSY = 1
    DO_NOT_WANT_TO_TALK_TO_YOU = 2


class AuthRequestType(IntEnum):
    """Auth-Request-Type values (RFC 6733 §8.7)."""

    AUTHENTICATE_ONLY = 1
    AUTHORIZE_ONLY = 2
    AUTHORIZE_AUTHENTICATE = 3


class ReAuthRequestType(IntEnum):
    """Re-Auth-Request-Type values (RFC 6733 §8.12)."""

    AUTHORIZE_ONLY = 0
    AUTHORIZE_AUTHENTICATE = 1


class TerminationCause(IntEnum):
    """Termination-Cause values (RFC 6733 §8.15)."""

    DIAMETER_LOGOUT = 1
    DIAMETER_SERVICE_NOT_PROVIDED = 2
    DIAMETER_BAD_ANSWER = 3
    DIAMETER_ADMINISTRATIVE = 4
    DIAMETER_LINK_BROKEN = 5
    DIAMETER_AUTH_EXPIRED = 6
    DIAMETER_USER_MOVED = 7
    DIAMETER_SESSION_TIMEOUT = 8


class RatType(IntEnum):
    """RAT-Type values (TS 29.212 §5.3.31) that an ePDG meets."""

    WLAN = 0
    VIRTUAL = 1


class PdnType(IntEnum):
    """PDN-Type values (TS 29.272 §7.3.62)."""

    IPv4 = 0
    IPv6 = 1
    IPv4v6 = 2
    IPv4_OR_IPv6 = 3


class AuthSessionState(IntEnum):
    """Auth-Session-State values (RFC 6733 §8.11)."""

    STATE_MAINTAINED = 0
    NO_STATE_MAINTAINED = 1


class ServerAssignmentType(IntEnum):
    """Server-Assignment-Type values (TS 29.229 §6.3.15; the last three TS 29.273 §8.2.3.12 for SWx)."""

    NO_ASSIGNMENT = 0
    REGISTRATION = 1
    RE_REGISTRATION = 2
    UNREGISTERED_USER = 3
    TIMEOUT_DEREGISTRATION = 4
    USER_DEREGISTRATION = 5
    TIMEOUT_DEREGISTRATION_STORE_SERVER_NAME = 6
    USER_DEREGISTRATION_STORE_SERVER_NAME = 7
    ADMINISTRATIVE_DEREGISTRATION = 8
    AUTHENTICATION_FAILURE = 9
    AUTHENTICATION_TIMEOUT = 10
    DEREGISTRATION_TOO_MUCH_DATA = 11
    AAA_USER_DATA_REQUEST = 12
    PGW_UPDATE = 13
    RESTORATION = 14


class ReasonCode(IntEnum):
    """Reason-Code values of a Deregistration-Reason (TS 29.229 §6.3.17)."""

    PERMANENT_TERMINATION = 0
    NEW_SERVER_ASSIGNED = 1
    SERVER_CHANGE = 2
    REMOVE_S_CSCF = 3


class Non3gppIpAccess(IntEnum):
    """Non-3GPP-IP-Access values (TS 29.273 §8.2.3.3)."""

    NON_3GPP_SUBSCRIPTION_ALLOWED = 0
    NON_3GPP_SUBSCRIPTION_BARRED = 1


class Non3gppIpAccessApn(IntEnum):
    """Non-3GPP-IP-Access-APN values (TS 29.273 §8.2.3.4)."""

    NON_3GPP_APNS_ENABLE = 0
    NON_3GPP_APNS_DISABLE = 1


class PdnGwAllocationType(IntEnum):
    """PDN-GW-Allocation-Type values (TS 29.272 §7.3.44)."""

    STATIC = 0
    DYNAMIC = 1


class VplmnDynamicAddressAllowed(IntEnum):
    """VPLMN-Dynamic-Address-Allowed values (TS 29.272 §7.3.38)."""

    NOTALLOWED = 0
    ALLOWED = 1


class PreEmptionCapability(IntEnum):
    """Pre-emption-Capability values (TS 29.212 §5.3.46)."""

    PRE_EMPTION_CAPABILITY_ENABLED = 0
    PRE_EMPTION_CAPABILITY_DISABLED = 1


class PreEmptionVulnerability(IntEnum):
    """Pre-emption-Vulnerability values (TS 29.212 §5.3.47)."""

    PRE_EMPTION_VULNERABILITY_ENABLED = 0
    PRE_EMPTION_VULNERABILITY_DISABLED = 1


class SubscriptionIdType(IntEnum):
    """Subscription-Id-Type values (RFC 4006 §8.47)."""

    END_USER_E164 = 0
    END_USER_IMSI = 1
    END_USER_SIP_URI = 2
    END_USER_NAI = 3
    END_USER_PRIVATE = 4


class OverloadReportType(IntEnum):
    """OC-Report-Type values (RFC 7683 §7.6)."""

    HOST_REPORT = 0
    REALM_REPORT = 1


VALUE_NAMES: dict[str, type[IntEnum]] = {
    "Result-Code": ResultCode,
    "Experimental-Result-Code": ExperimentalResultCode,
    "Disconnect-Cause": DisconnectCause,
    "Auth-Request-Type": AuthRequestType,
    "Re-Auth-Request-Type": ReAuthRequestType,
    "Termination-Cause": TerminationCause,
    "RAT-Type": RatType,
    "PDN-Type": PdnType,
    "Auth-Session-State": AuthSessionState,
    "Server-Assignment-Type": ServerAssignmentType,
    "Reason-Code": ReasonCode,
    "Non-3GPP-IP-Access": Non3gppIpAccess,
    "Non-3GPP-IP-Access-APN": Non3gppIpAccessApn,
    "PDN-GW-Allocation-Type": PdnGwAllocationType,
    "VPLMN-Dynamic-Address-Allowed": VplmnDynamicAddressAllowed,
    "Pre-emption-Capability": PreEmptionCapability,
    "Pre-emption-Vulnerability": PreEmptionVulnerability,
    "Subscription-Id-Type": SubscriptionIdType,
    "OC-Report-Type": OverloadReportType,
}
"""Enumerations whose names a trace shows, by AVP."""

SECRET_AVPS = frozenset(
    {
        "EAP-Master-Session-Key",
        "Confidentiality-Key",
        "Integrity-Key",
        "User-Password",
        "3GPP-SIP-Authorization",
        "SIP-Authorization",
        "MIP-MN-HA-MSA",
        "MIP-Session-Key",
    }
)
"""AVPs whose octets a description never shows."""


class AvpType(Enum):
    """Data formats (RFC 6733 §4.2 and §4.3)."""

    OCTET_STRING = "OctetString"
    UTF8_STRING = "UTF8String"
    DIAMETER_IDENTITY = "DiameterIdentity"
    INTEGER32 = "Integer32"
    INTEGER64 = "Integer64"
    UNSIGNED32 = "Unsigned32"
    UNSIGNED64 = "Unsigned64"
    FLOAT32 = "Float32"
    FLOAT64 = "Float64"
    ADDRESS = "Address"
    TIME = "Time"
    GROUPED = "Grouped"


_MINIMUM_LENGTHS: dict[AvpType, int] = {
    AvpType.INTEGER32: 4,
    AvpType.UNSIGNED32: 4,
    AvpType.FLOAT32: 4,
    AvpType.TIME: 4,
    AvpType.INTEGER64: 8,
    AvpType.UNSIGNED64: 8,
    AvpType.FLOAT64: 8,
    AvpType.ADDRESS: 6,
}
"""Octets of the shortest legal value; zero for the types that are not listed."""


@dataclass(frozen=True, kw_only=True)
class AvpDefinition:
    """What is known of one AVP; ``mandatory`` is the M flag that we send."""

    name: str
    code: int
    vendor: int
    type: AvpType
    mandatory: bool
    minimum_length: int


# Flags of RFC 6733 §4.5, RFC 4072, RFC 5447, TS 29.273 §7.2.3, §8.2.3 and §9.2.3, TS 29.272 §7.3.1 and
# TS 29.212 §5.3.0 where the package's dictionary has none or differs.
_FLAGS: dict[str, bool] = {
    "EAP-Payload": True,
    "EAP-Reissued-Payload": True,
    "EAP-Master-Session-Key": True,
    "Product-Name": False,
    "Firmware-Revision": False,
    "Error-Message": False,
    "Error-Reporting-Host": False,
    "UE-Local-IP-Address": False,
    "Terminal-Information": False,
    "IMEI": False,
    "Software-Version": False,
    "AAA-Failure-Indication": False,
    "Emergency-Services": False,
    "Supported-Features": False,
    "Mobile-Node-Identifier": True,
    "Non-3GPP-User-Data": True,
    "RAT-Type": False,
    "Allocation-Retention-Priority": False,
    "Priority-Level": False,
    "Pre-emption-Capability": False,
    "Pre-emption-Vulnerability": False,
    "AN-Trusted": False,
    "PPR-Flags": False,
    "AAR-Flags": False,
    "RAR-Flags": False,
    "Active-APN": False,
    "Emergency-Info": False,
    "Access-Network-Info": False,
    "Origination-Time-Stamp": False,
    "Maximum-Wait-Time": False,
    "OC-Supported-Features": False,
    "OC-Feature-Vector": False,
    "OC-OLR": False,
    "OC-Sequence-Number": False,
    "OC-Report-Type": False,
    "OC-Reduction-Percentage": False,
    "OC-Validity-Duration": False,
}

# Absent from the dictionary of the package; RFC 5777.
_ADDITIONS = (
    AvpDefinition(
        name="QoS-Capability", code=578, vendor=0, type=AvpType.GROUPED, mandatory=True, minimum_length=0
    ),  # RFC 5777 §3
)

_IDENTITIES = frozenset(
    {
        "Origin-Host",
        "Origin-Realm",
        "Destination-Host",
        "Destination-Realm",
        "Route-Record",
        "Proxy-Host",
        "Error-Reporting-Host",
        "3GPP-AAA-Server-Name",
    }
)

_UNSIGNED = frozenset({"Result-Code", "Inband-Security-Id", "Authorization-Lifetime"})


def _type_of(name: str, package_type: str) -> AvpType:
    if name in _IDENTITIES:
        return AvpType.DIAMETER_IDENTITY
    if name in _UNSIGNED:
        return AvpType.UNSIGNED32
    plain = package_type.removeprefix("Avp")
    return AvpType.UTF8_STRING if plain == "Utf8String" else AvpType(plain)


def _read_package() -> tuple[dict[str, AvpDefinition], dict[tuple[int, int], AvpDefinition]]:
    """Definitions by name and by (vendor, code); of two with one name IETF's wins, then 3GPP's."""
    by_name: dict[str, AvpDefinition] = {}
    by_code: dict[tuple[int, int], AvpDefinition] = {}
    dictionaries = avp_dictionaries()
    others = sorted(vendor for vendor in dictionaries if vendor not in (0, VENDOR_3GPP))
    for vendor in (0, VENDOR_3GPP, *others):
        for code, entry in dictionaries[vendor].items():
            name = entry["name"]
            kind = _type_of(name, entry["type"].__name__)
            definition = AvpDefinition(
                name=name,
                code=int(code),
                vendor=int(vendor),
                type=kind,
                mandatory=_FLAGS.get(name, bool(entry.get("mandatory", False))),
                minimum_length=_MINIMUM_LENGTHS.get(kind, 0),
            )
            by_code[definition.vendor, definition.code] = definition
            by_name.setdefault(name, definition)
    for definition in _ADDITIONS:
        by_code[definition.vendor, definition.code] = definition
        by_name[definition.name] = definition
    return by_name, by_code


BY_NAME, BY_CODE = _read_package()
