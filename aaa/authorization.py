"""The authorisation decision on SWm (TS 29.273 §7.1.2.1.2): pure functions of profile, request and refusal.

The HSS's own checks (unknown user, no non-3GPP subscription, roaming, RAT: TS 29.273 §8.1.2.1.2) come with
the request for a vector, before the user is challenged. What the AAA server decides itself (barring, RAT,
the APN) waits until the user is authenticated: a stranger learns nothing about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from aaa.equipment import EquipmentFinding
from aaa.hss.port import HssRefusal, SubscriberProfile
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ExperimentalResultCode, ResultCode
from protocols.diameter.profile import ApnConfiguration
from protocols.threegpp.identity import Apn
from protocols.trace.records import JsonValue


class RefusalCause(str, Enum):
    """Why an attach is refused, as records and lists name it."""

    USER_UNKNOWN = "user-unknown"
    NON_3GPP_NOT_SUBSCRIBED = "non-3gpp-not-subscribed"
    ROAMING_NOT_ALLOWED = "roaming-not-allowed"
    RAT_TYPE_NOT_ALLOWED = "rat-type-not-allowed"
    SERVED_ELSEWHERE = "served-elsewhere"
    SUBSCRIBER_DISABLED = "subscriber-disabled"
    APN_NOT_SUBSCRIBED = "apn-not-subscribed"
    ILLEGAL_EQUIPMENT = "illegal-equipment"
    UNAUTHENTICATED = "unauthenticated"
    AUTHENTICATION_FAILED = "authentication-failed"
    BACKEND_FAILED = "backend-failed"
    UNKNOWN_SESSION = "unknown-session"
    UNEXPECTED_REQUEST = "unexpected-request"


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A refusal: its cause, the result that tells the gateway, one plain sentence for people.

    ``redirect_host`` is where the gateway shall turn to instead, ``facts`` what a record says of it to programs.
    """

    cause: RefusalCause
    result: Result
    text: str
    redirect_host: str | None = None
    facts: Mapping[str, JsonValue] = field(default_factory=dict)


_PASSED_ON = {
    Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN): RefusalCause.USER_UNKNOWN,
    Result.of(
        ExperimentalResultCode.DIAMETER_ERROR_USER_NO_NON_3GPP_SUBSCRIPTION
    ): RefusalCause.NON_3GPP_NOT_SUBSCRIBED,
    Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION): RefusalCause.APN_NOT_SUBSCRIBED,
    Result.of(ExperimentalResultCode.DIAMETER_ERROR_ROAMING_NOT_ALLOWED): RefusalCause.ROAMING_NOT_ALLOWED,
    Result.of(ExperimentalResultCode.DIAMETER_ERROR_RAT_TYPE_NOT_ALLOWED): RefusalCause.RAT_TYPE_NOT_ALLOWED,
    Result.of(ExperimentalResultCode.DIAMETER_ERROR_ILLEGAL_EQUIPMENT): RefusalCause.ILLEGAL_EQUIPMENT,
    Result.of(ResultCode.DIAMETER_AUTHORIZATION_REJECTED): RefusalCause.SUBSCRIBER_DISABLED,
}
"""Results of SWx that SWm has as well (TS 29.273 §7.2.2.1.2): the gateway gets them as they are."""


def hss_refusal(refusal: HssRefusal) -> Refusal:
    """What the HSS's answer means on SWm (TS 29.273 §7.1.2.1.2).

    A user whom another AAA server serves is sent there (RFC 6733 §6.12); a result that means nothing to a
    gateway is DIAMETER_UNABLE_TO_COMPLY.
    """
    if refusal.serving_server is not None:
        return Refusal(
            cause=RefusalCause.SERVED_ELSEWHERE,
            result=Result.of(ResultCode.DIAMETER_REDIRECT_INDICATION),
            text=f"The subscriber is served by {refusal.serving_server}.",
            redirect_host=refusal.serving_server,
        )
    cause = _PASSED_ON.get(refusal.result)
    if cause is None:
        return backend_refusal(f"it answered {refusal.result}: {refusal.text}")
    return Refusal(cause=cause, result=refusal.result, text=refusal.text)


def backend_refusal(why: str) -> Refusal:
    """The HSS or its database failed: DIAMETER_UNABLE_TO_COMPLY (RFC 6733 §7.1.5)."""
    return Refusal(
        cause=RefusalCause.BACKEND_FAILED,
        result=Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY),
        text=f"The home subscriber server failed: {why}.",
    )


def equipment_refusal(finding: EquipmentFinding) -> Refusal | None:
    """What the device's being on the black list, or not the one the subscription is bound to, means on SWm."""
    if not finding.refused:
        return None
    return Refusal(
        cause=RefusalCause.ILLEGAL_EQUIPMENT,
        result=Result.of(ExperimentalResultCode.DIAMETER_ERROR_ILLEGAL_EQUIPMENT),
        text=finding.text or "",
    )


def authorise(
    profile: SubscriberProfile, requested: str | None, *, rat_type: int | None = None
) -> ApnConfiguration | Refusal:
    """The APN that an authenticated user is granted (TS 29.273 §7.1.2.1.2).

    ``requested`` is Service-Selection; without it the default APN is taken, else the first one.
    """
    user_data = profile.user_data
    if not user_data.non_3gpp_ip_access:
        return Refusal(
            cause=RefusalCause.SUBSCRIBER_DISABLED,
            result=Result.of(ResultCode.DIAMETER_AUTHORIZATION_REJECTED),
            text=f"Subscriber {profile.imsi} is barred from non-3GPP access.",
        )
    if rat_type is not None and rat_type in user_data.rat_types_barred:
        return Refusal(
            cause=RefusalCause.RAT_TYPE_NOT_ALLOWED,
            result=Result.of(ExperimentalResultCode.DIAMETER_ERROR_RAT_TYPE_NOT_ALLOWED),
            text=f"Subscriber {profile.imsi} may not use this kind of access.",
            facts={"rat_type": rat_type},
        )
    if requested is None:
        chosen = user_data.default_apn or next(iter(user_data.apns), None)
        missing = "any APN"
    else:
        chosen = _subscribed(user_data.apns, requested)
        missing = f"APN {requested!r}"
    if chosen is None or not user_data.non_3gpp_ip_access_apn:
        return Refusal(
            cause=RefusalCause.APN_NOT_SUBSCRIBED,
            result=Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION),
            text=f"Subscriber {profile.imsi} has no subscription to {missing}.",
            facts={"requested": requested, "subscribed": [held.service_selection for held in user_data.apns]},
        )
    return chosen


def _subscribed(apns: tuple[ApnConfiguration, ...], requested: str) -> ApnConfiguration | None:
    try:
        wanted = Apn(requested).network_identifier
    except ValueError:
        return None
    return next((held for held in apns if _network_identifier(held.service_selection) == wanted), None)


def _network_identifier(service_selection: str) -> str | None:
    """Of a subscribed APN; one that is no name is nobody's (the HSS may be anybody's)."""
    try:
        return Apn(service_selection).network_identifier
    except ValueError:
        return None
