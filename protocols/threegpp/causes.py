"""Refusal causes of TS 24.302 §8.1.2: private IKEv2 Notify types and plain words for people.

Which result of the AAA server becomes which of them is the gateway's policy (``epdg/refusals.yaml``).
"""

from __future__ import annotations

from enum import IntEnum

from protocols.ikev2.registry import NotifyType

AUTHENTICATION_FAILED = 24  # RFC 7296 §3.10.1


class PrivateNotify(IntEnum):
    """Private Notify error and status types (TS 24.302 §8.1.2, TS 24.502)."""

    PDN_CONNECTION_REJECTION = 8192
    MAX_CONNECTION_REACHED = 8193
    SEMANTIC_ERROR_IN_THE_TFT_OPERATION = 8241
    SYNTACTICAL_ERROR_IN_THE_TFT_OPERATION = 8242
    SEMANTIC_ERRORS_IN_PACKET_FILTERS = 8244
    SYNTACTICAL_ERRORS_IN_PACKET_FILTERS = 8245
    NON_3GPP_ACCESS_TO_EPC_NOT_ALLOWED = 9000
    USER_UNKNOWN = 9001
    NO_APN_SUBSCRIPTION = 9002
    AUTHORIZATION_REJECTED = 9003
    ILLEGAL_ME = 9006
    NETWORK_FAILURE = 10500
    RAT_TYPE_NOT_ALLOWED = 11001
    IMEI_NOT_ACCEPTED = 11005
    PLMN_NOT_ALLOWED = 11011
    UNAUTHENTICATED_EMERGENCY_NOT_SUPPORTED = 11055
    CONGESTION = 15500
    REACTIVATION_REQUESTED_CAUSE = 40961
    BACKOFF_TIMER = 41041
    PDN_TYPE_IPV4_ONLY_ALLOWED = 41050
    PDN_TYPE_IPV6_ONLY_ALLOWED = 41051
    DEVICE_IDENTITY = 41101
    EMERGENCY_SUPPORT = 41112
    EMERGENCY_CALL_NUMBERS = 41134
    NBIFOM_GENERIC_CONTAINER = 41288
    P_CSCF_RESELECTION_SUPPORT = 41304
    PTI = 41501
    IKEV2_MULTIPLE_BEARER_PDN_CONNECTIVITY = 42011
    EPS_QOS = 42014
    EXTENDED_EPS_QOS = 42015
    TFT = 42017
    MODIFIED_BEARER = 42020
    APN_AMBR = 42094
    EXTENDED_APN_AMBR = 42095
    N1_MODE_CAPABILITY = 51015
    N1_MODE_INFORMATION = 51115
    N1_MODE_S_NSSAI_PLMN_ID = 52216


NOTIFY_NAMES: dict[int, str] = {int(notify): notify.name for notify in PrivateNotify}
"""Names of the private types, for the notation of messages."""

_WORDS: dict[int, str] = {
    14: "no proposal chosen: gateway and UE have no IKE or ESP algorithms in common, or the gateway cannot carry ESP",
    AUTHENTICATION_FAILED: "authentication rejected by the network",
    36: "the gateway has no inner address for the UE (INTERNAL_ADDRESS_FAILURE)",
    38: "the gateway accepts none of the traffic selectors offered (TS_UNACCEPTABLE)",
    PrivateNotify.PDN_CONNECTION_REJECTION: "the network refuses this PDN connection",
    PrivateNotify.MAX_CONNECTION_REACHED: "the limit of PDN connections is reached",
    PrivateNotify.NON_3GPP_ACCESS_TO_EPC_NOT_ALLOWED: "the subscription does not allow non-3GPP access",
    PrivateNotify.USER_UNKNOWN: "the network does not know this IMSI",
    PrivateNotify.NO_APN_SUBSCRIPTION: "the subscription does not include this APN",
    PrivateNotify.AUTHORIZATION_REJECTED: "the network rejected the authorisation",
    PrivateNotify.ILLEGAL_ME: "the network does not accept this equipment",
    PrivateNotify.NETWORK_FAILURE: "network failure: the gateway could not reach or use the AAA server",
    PrivateNotify.RAT_TYPE_NOT_ALLOWED: "the subscription does not allow access by WLAN",
    PrivateNotify.IMEI_NOT_ACCEPTED: "the network does not accept this IMEI",
    PrivateNotify.PLMN_NOT_ALLOWED: "roaming to this network is not allowed",
    PrivateNotify.UNAUTHENTICATED_EMERGENCY_NOT_SUPPORTED: "unauthenticated emergency sessions are not supported",
    PrivateNotify.CONGESTION: "the network is congested",
}


def notify_named(name: str) -> int | None:
    """The error type of a name, 3GPP's or IANA's; ``None`` when it is none that refuses."""
    if name in PrivateNotify.__members__:
        number = int(PrivateNotify[name])
    elif name in NotifyType.__members__:
        number = int(NotifyType[name])
    else:
        return None
    return number if NotifyType.of(number).is_error else None


def notify_name(number: int) -> str:
    """A Notify's name: 3GPP's of the private range, else IANA's."""
    return NOTIFY_NAMES.get(number) or NotifyType.of(number).name


def words(notify_type: int) -> str:
    """One plain clause for a refusal, with its name and number; empty when the type has none."""
    text = _WORDS.get(notify_type)
    if text is None:
        return ""
    return f"{text} ({NOTIFY_NAMES.get(notify_type, 'notify')} {notify_type})"
