"""Rules of TS 29.273 that no other test is about; each test names its clause."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aaa.authorization import Refusal, RefusalCause, authorise
from aaa.hss.port import SubscriberProfile
from aaa.hss.profile import user_data
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ExperimentalResultCode, RatType

USER = laboratory_subscriber(1)


@pytest.mark.parametrize("requested", [None, "internet"])
def test_no_apn_is_granted_where_all_are_disabled(requested: str | None) -> None:
    """§8.2.3.4: Non-3GPP-IP-Access-APN, NON_3GPP_APNS_DISABLE."""
    profile = SubscriberProfile(imsi=USER.imsi, user_data=user_data(USER, {}))
    assert not isinstance(authorise(profile, requested), Refusal)
    disabled = replace(profile, user_data=replace(profile.user_data, non_3gpp_ip_access_apn=False))
    refusal = authorise(disabled, requested)
    assert isinstance(refusal, Refusal)
    assert refusal.cause is RefusalCause.APN_NOT_SUBSCRIBED
    assert refusal.result == Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION)


@pytest.mark.parametrize(("rat_type", "allowed"), [(RatType.WLAN, False), (RatType.VIRTUAL, True), (None, True)])
def test_a_rat_type_that_the_profile_bars_is_refused(rat_type: RatType | None, allowed: bool) -> None:
    """§7.1.2.1.2: by the AAA server as well, whose HSS may be another's."""
    profile = SubscriberProfile(imsi=USER.imsi, user_data=user_data(replace(USER, wlan_allowed=False), {}))
    outcome = authorise(profile, "internet", rat_type=rat_type)
    if allowed:
        assert not isinstance(outcome, Refusal)
    else:
        assert isinstance(outcome, Refusal)
        assert outcome.result == Result.of(ExperimentalResultCode.DIAMETER_ERROR_RAT_TYPE_NOT_ALLOWED)
