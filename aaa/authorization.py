"""The authorisation decision on SWm (TS 29.273 §7.1.2.1.2): a pure function of profile and request.

Before the EAP exchange the HSS's own checks are made (unknown user, no non-3GPP subscription: TS 29.273
§8.1.2.1.2), because no vector is issued then. What the AAA server decides itself (barring, the APN) waits
until the user is authenticated: a stranger learns nothing about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from aaa.hss.port import SubscriberProfile
from aaa.subscribers.subscriber import ApnSubscription
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ExperimentalResultCode, ResultCode
from protocols.threegpp.identity import Apn


class RefusalCause(str, Enum):
    """Why an attach is refused, as records and lists name it."""

    USER_UNKNOWN = "user-unknown"
    NON_3GPP_NOT_SUBSCRIBED = "non-3gpp-not-subscribed"
    SUBSCRIBER_DISABLED = "subscriber-disabled"
    APN_NOT_SUBSCRIBED = "apn-not-subscribed"
    AUTHENTICATION_FAILED = "authentication-failed"
    BACKEND_FAILED = "backend-failed"
    UNKNOWN_SESSION = "unknown-session"
    UNEXPECTED_REQUEST = "unexpected-request"


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A refusal: its cause, the result that tells the gateway, one plain sentence for people."""

    cause: RefusalCause
    result: Result
    text: str


def access_refusal(profile: SubscriberProfile | None) -> Refusal | None:
    """What forbids to authenticate at all (TS 29.273 §8.1.2.1.2)."""
    if profile is None:
        return Refusal(
            cause=RefusalCause.USER_UNKNOWN,
            result=Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN),
            text="The subscriber is unknown.",
        )
    if not profile.non_3gpp_allowed:
        return Refusal(
            cause=RefusalCause.NON_3GPP_NOT_SUBSCRIBED,
            result=Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_NO_NON_3GPP_SUBSCRIPTION),
            text=f"Subscriber {profile.imsi} has no subscription to non-3GPP access.",
        )
    return None


def authorise(profile: SubscriberProfile, requested: str | None) -> ApnSubscription | Refusal:
    """The subscription that an authenticated user is granted (TS 29.273 §7.1.2.1.2).

    ``requested`` is Service-Selection; without it the default APN is taken, else the first one.
    """
    if not profile.enabled:
        return Refusal(
            cause=RefusalCause.SUBSCRIBER_DISABLED,
            result=Result.of(ResultCode.DIAMETER_AUTHORIZATION_REJECTED),
            text=f"Subscriber {profile.imsi} is disabled.",
        )
    if requested is None:
        chosen = next((apn for apn in profile.apns if apn.is_default), None)
        if chosen is None and profile.apns:
            chosen = profile.apns[0]
        missing = "any APN"
    else:
        chosen = _subscription(profile, requested)
        missing = f"APN {requested!r}"
    if chosen is None:
        return Refusal(
            cause=RefusalCause.APN_NOT_SUBSCRIBED,
            result=Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION),
            text=f"Subscriber {profile.imsi} has no subscription to {missing}.",
        )
    return chosen


def _subscription(profile: SubscriberProfile, requested: str) -> ApnSubscription | None:
    try:
        apn = Apn(requested)
    except ValueError:
        return None
    wanted = apn.network_identifier
    return next((held for held in profile.apns if held.apn.network_identifier == wanted), None)
