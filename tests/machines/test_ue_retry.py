"""When a UE attaches again after each refusal (TS 24.302 §7.2.2.2, §8.1.2.2), measured on virtual time."""

from __future__ import annotations

import math

import pytest

from protocols.ikev2.events import Refusal
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.registry import NotifyType
from protocols.threegpp.backoff import DEACTIVATED, backoff_notify
from protocols.threegpp.causes import PrivateNotify
from tests.machines.test_ue_device import World
from ue.backoff import BackOff
from ue.retry import INTERVALS, RULES, Bar, NextAttempt, Retries, RetryPolicy, Rule, ranges

PACE = [0.0, 5.0, 15.0, 25.0, 45.0, 85.0]
ONCE = [0.0]
DAY = 86_400.0


def attempts(
    cause: int | None,
    *,
    policy: RetryPolicy | None = None,
    back_off: float | None = None,
    horizon: float = 100.0,
) -> list[float]:
    """The moments of the attaches of a UE that the gateway refuses each time, with real IKE and EAP at both ends."""
    policy = policy or RetryPolicy()
    world = World(retry=policy)
    if cause is None:
        world.gateway_up = False
    else:
        timer = () if back_off is None else (backoff_notify(back_off),)
        refusal = Refusal(notify=NotifyPayload(type=NotifyType.of(cause)), text="no", beside=timer)
        world.grant = lambda: refusal
    retries, moments = Retries(policy), list[float]()
    while world.now <= horizon:
        begun = world.now
        moments.append(begun)
        assert world.attach(seconds=0.5 if cause is not None else 40.0) is not None
        connection = world.device.connection
        assert connection is not None
        assert connection.ended is not None
        following = retries.failed(
            connection.cause, begun, for_good=connection.for_good, back_off=world.device.back_off
        )
        if following.never:
            break
        world.run(following.at - world.now)
    return moments


TABLE: list[tuple[int | None, list[float]]] = [
    (24, PACE),
    (PrivateNotify.PDN_CONNECTION_REJECTION, ONCE),
    (PrivateNotify.MAX_CONNECTION_REACHED, PACE),
    (PrivateNotify.NON_3GPP_ACCESS_TO_EPC_NOT_ALLOWED, ONCE),
    (PrivateNotify.USER_UNKNOWN, ONCE),
    (PrivateNotify.NO_APN_SUBSCRIPTION, ONCE),
    (PrivateNotify.AUTHORIZATION_REJECTED, ONCE),
    (PrivateNotify.ILLEGAL_ME, ONCE),
    (PrivateNotify.NETWORK_FAILURE, PACE),
    (PrivateNotify.RAT_TYPE_NOT_ALLOWED, ONCE),
    (PrivateNotify.IMEI_NOT_ACCEPTED, ONCE),
    (PrivateNotify.PLMN_NOT_ALLOWED, ONCE),
    (PrivateNotify.UNAUTHENTICATED_EMERGENCY_NOT_SUPPORTED, ONCE),
    (PrivateNotify.CONGESTION, PACE),
    (NotifyType.NO_PROPOSAL_CHOSEN, PACE),
    (NotifyType.INTERNAL_ADDRESS_FAILURE, PACE),
    (NotifyType.TS_UNACCEPTABLE, PACE),
    (9050, PACE),  # no cause of the standard: RFC 7296 §3.10.1 has it fail, and nothing more
]


@pytest.mark.parametrize(("cause", "moments"), TABLE, ids=[str(cause) for cause, _ in TABLE])
def test_moments_of_the_attempts_after_each_refusal(cause: int | None, moments: list[float]) -> None:
    """The one gateway there is: whoever it bars is not asked again."""
    assert attempts(cause) == moments


def test_every_cause_of_the_standard_has_a_row() -> None:
    refusing = {int(notify) for notify in PrivateNotify if NotifyType.of(int(notify)).is_error}
    fields = {8241, 8242, 8244, 8245}  # of a TFT, which never comes with an attach
    assert refusing - fields == {cause for cause, _ in TABLE if cause in set(map(int, PrivateNotify))}


def test_pace_without_an_answer() -> None:
    """Android's intervals, from the end of each attempt on; the last one for ever."""
    retries, now, moments = Retries(RetryPolicy()), 0.0, []
    for _ in range(15):
        following = retries.failed(None, now)
        moments.append(following.at - now)
        now = following.at
    assert moments == [*INTERVALS, 3600.0, 3600.0, 3600.0]
    retries.attached()
    assert retries.failed(None, now).at == now + 5.0


@pytest.mark.parametrize(
    ("seconds", "moments"),
    [(20.0, [0.0, 20.5, 41.0, 61.5, 82.0]), (DEACTIVATED, ONCE), (0.0, PACE)],
)
@pytest.mark.parametrize("cause", [PrivateNotify.CONGESTION, PrivateNotify.NO_APN_SUBSCRIPTION])
def test_a_back_off_timer_is_obeyed(cause: int, seconds: float, moments: list[float]) -> None:
    """TS 24.302 §8.2.9.1: it takes the place of the bar as well; zero seconds mean no wait."""
    found = attempts(cause, back_off=seconds, horizon=90.0)
    assert found == pytest.approx(moments, abs=2.1)
    assert all(later - earlier >= min(seconds, 90.0) for earlier, later in zip(found, found[1:], strict=False))


# --- what the configuration says instead --------------------------------------------------------------


def test_carriers_stop_after_two_tries() -> None:
    """What profiles of Android phones have for 24, 9000-9050 and 11000-11050."""
    rule = Rule(causes=ranges(["24", "9000-9050", "11000-11050"]), tries=2)
    policy = RetryPolicy(rules=(rule,))
    for cause in (24, PrivateNotify.USER_UNKNOWN, PrivateNotify.PLMN_NOT_ALLOWED):
        assert attempts(cause, policy=policy) == [0.0, 5.0]
    assert attempts(PrivateNotify.NETWORK_FAILURE, policy=policy) == PACE


@pytest.mark.parametrize(
    ("then", "moments"),
    [(None, [0.0, 1.0]), (30.0, [0.0, 1.0, 31.0, 32.0, 62.0, 63.0])],
)
def test_enough_in_a_row(then: float | None, moments: list[float]) -> None:
    policy = RetryPolicy(intervals=(1.0, 2.0), give_up_after=2, then=then)
    assert attempts(PrivateNotify.CONGESTION, policy=policy, horizon=90.0) == moments


def test_a_bar_can_be_lifted_or_set() -> None:
    lifted = Rule(causes=ranges(["USER_UNKNOWN"]))
    assert attempts(PrivateNotify.USER_UNKNOWN, policy=RetryPolicy(rules=(lifted,))) == PACE
    put = Rule(causes=ranges(["CONGESTION"]), bars=Bar.EVERYWHERE)
    assert attempts(PrivateNotify.CONGESTION, policy=RetryPolicy(rules=(put,))) == ONCE


def test_a_success_forgets_the_failures() -> None:
    retries = Retries(RetryPolicy(rules=(Rule(causes=ranges([24]), tries=2),)))
    assert not retries.failed(24, 0.0).never
    retries.attached()
    assert not retries.failed(24, 10.0).never
    assert retries.failed(24, 15.0).never


def test_reasons() -> None:
    retries = Retries(RetryPolicy())
    assert retries.failed(None, 0.0).why == "failure 1 in a row"
    later = BackOff(cause="CONGESTION", until=100.0)
    assert retries.failed(15500, 5.0, back_off=later) == NextAttempt(
        at=100.0, why="the network's back-off after CONGESTION"
    )
    assert retries.failed(9001, 5.0, for_good=True) == NextAttempt(
        at=math.inf, why="after USER_UNKNOWN nobody is asked until the UE is switched off and on"
    )


@pytest.mark.parametrize("text", ["", "USER", "9000-", "-5", "9000-x", "1.5"])
def test_causes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no cause"):
        ranges([text])


def test_no_cause_has_two_rules() -> None:
    covered = [cause for rule in RULES for cause, _ in rule.causes]
    assert len(covered) == len(set(covered))
