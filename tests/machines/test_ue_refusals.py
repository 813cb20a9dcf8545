"""A UE that is asked to wait, and a network that wants it back (TS 24.302 §7.2, §8.2.9.1)."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from protocols.errors import LocalError, RemoteError
from protocols.ikev2.events import Refusal, Refused
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.registry import NotifyType
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.threegpp.backoff import DEACTIVATED, MAXIMUM, backoff_notify, decode_backoff, encode_backoff
from protocols.threegpp.causes import PrivateNotify
from protocols.threegpp.swu import reactivation_notify
from tests.harness.pair import Pair, refuse_with
from tests.machines.test_ue_device import World, attached, granted
from ue.backoff import BackOff, FileBackOff
from ue.context import DeviceState
from ue.device import REACTIVATION_INTERVAL, REACTIVATIONS_MAXIMUM

CONGESTION = NotifyPayload(type=NotifyType.of(PrivateNotify.CONGESTION))


@pytest.mark.parametrize(
    ("seconds", "octets", "back"),
    [
        (0, "0160", 0),
        (2, "0161", 2),
        (3, "0162", 4),  # rounded up
        (62, "017f", 62),
        (63, "0183", 90),
        (900, "019e", 900),
        (960, "01b0", 960),
        (3600, "0106", 3600),
        (6 * 3600, "0126", 6 * 3600),
        (40 * 3600, "0144", 40 * 3600),
        (MAXIMUM, "01df", MAXIMUM),
        (DEACTIVATED, "01e0", DEACTIVATED),
    ],
)
def test_gprs_timer_3(seconds: float, octets: str, back: float) -> None:
    """TS 24.008 table 10.5.163a: the unit that comes nearest."""
    assert encode_backoff(seconds).hex() == octets
    assert decode_backoff(bytes.fromhex(octets)) == back


@pytest.mark.parametrize("octets", ["", "01", "00", "0200", "020000", "010000"])
def test_a_backoff_timer_of_another_length_is_none(octets: str) -> None:
    with pytest.raises(RemoteError):
        decode_backoff(bytes.fromhex(octets))


def test_a_back_off_has_bounds() -> None:
    with pytest.raises(LocalError):
        encode_backoff(MAXIMUM + 1)


def refused(*beside: NotifyPayload) -> World:
    """A UE that the gateway has just refused."""
    world = World(grant=lambda: Refusal(notify=CONGESTION, text="full", beside=beside))
    failure = world.attach()
    assert failure is not None
    assert "congested" in failure
    return world


@pytest.mark.parametrize("seconds", [2.0, 60.0, 3600.0, DEACTIVATED])
def test_a_refusal_with_all_that_may_stand_beside_it_is_understood_by_others(seconds: float) -> None:
    """The suite's tshark reads what went over the wire here."""
    only = NotifyPayload(type=NotifyType.of(PrivateNotify.PDN_TYPE_IPV4_ONLY_ALLOWED))
    pair = Pair()
    pair.epdg.answers = refuse_with(CONGESTION, "full", backoff_notify(seconds), only)
    pair.attach()
    found = pair.ue.take(Refused)
    assert found.notify is not None
    assert found.notify.type == PrivateNotify.CONGESTION
    assert pair.wire[-1].count("N(") == 3


def test_a_refused_ue_stays_away_until_its_time_is_over() -> None:
    world = refused(backoff_notify(60))
    began = world.device.back_off
    assert began is not None
    assert began.cause == "CONGESTION"
    assert world.event("back-off").data == {"cause": "CONGESTION", "seconds": 60.0}
    world.grant = granted
    with pytest.raises(LocalError, match=r"refused the UE with CONGESTION and asked it to stay away for another 5\d s"):
        world.attach()
    world.run(60)
    assert world.attach() is None
    assert world.device.back_off is None


def test_force_asks_all_the_same() -> None:
    world = refused(backoff_notify(DEACTIVATED))
    world.grant = granted
    world.run(10 * 365 * 86400.0)
    with pytest.raises(LocalError, match="until the UE is switched off and on"):
        world.attach()
    assert world.ask(lambda ticket: world.device.attach("a", ticket, world.now, force=True)) is None
    assert world.device.back_off is None


@pytest.mark.parametrize("data", [b"", b"\1", b"\2\0\0"])
def test_a_malformed_timer_refuses_no_longer_than_its_notify(data: bytes) -> None:
    timer = NotifyPayload(type=NotifyType.of(PrivateNotify.BACKOFF_TIMER), data=data)
    world = refused(timer)
    assert world.device.back_off is None


def test_a_timer_without_an_error_means_nothing() -> None:
    """TS 24.302 §8.2.9.1."""
    world = attached(World(grant=lambda: replace(granted(), notifies=(backoff_notify(60),))))
    assert world.device.back_off is None
    ended_by_the_gateway(world, backoff_notify(60))
    assert world.device.back_off is None


def test_zero_seconds_end_an_earlier_back_off() -> None:
    world = refused(backoff_notify(60))
    world.grant = lambda: Refusal(notify=CONGESTION, text="full", beside=(backoff_notify(0),))
    assert world.ask(lambda ticket: world.device.attach("a", ticket, world.now, force=True)) is not None
    assert world.device.back_off is None


def test_a_back_off_outlives_the_process(tmp_path: Path) -> None:
    """By wall clock; one without an end is over when the UE is switched on again."""
    file = FileBackOff(tmp_path / "back-off.json")
    assert file.read(0.0) is None
    file.write(BackOff(cause="CONGESTION", until=100.0), 1000.0)
    assert file.read(900.0) == BackOff(cause="CONGESTION", until=200.0)
    file.write(BackOff(cause="USER_UNKNOWN", until=math.inf), 1000.0)
    assert file.read(0.0) is None
    for nonsense in ('{"cause": "x", "until": NaN}', f'{{"cause": "x", "until": 1{"0" * 400}}}', "\xff"):
        (tmp_path / "back-off.json").write_text(nonsense, encoding="latin-1")
        assert file.read(0.0) is None
    (tmp_path / "back-off.json").write_text("[]")
    assert file.read(0.0) is None


def test_a_device_identity_that_is_none_is_ignored_and_counted() -> None:
    """RFC 7296 §3.10.1: a status type does not end an SA."""
    world = attached(World(imei="12"))
    assert world.swu[-1].device_identity is None
    assert world.swu[-1].dropped == {"device-identity-malformed": 1}


@pytest.mark.parametrize("digits", ["35693803564380", "356938035643809", "3569380356438091"])
def test_an_imei_with_or_without_check_digit_and_an_imeisv_are_told(digits: str) -> None:
    assert attached(World(imei=digits)).swu[-1].device_identity == digits


def ended_by_the_gateway(world: World, *notifies: NotifyPayload, seconds: float = 5.0) -> None:
    (sa,) = world.gateway.sas.values()
    world.gateway.initiate(sa, DeleteIkeSa("aborted", notifies), world.now)
    world.run(seconds)


def test_a_network_that_wants_the_ue_back_gets_it_back() -> None:
    """REACTIVATION_REQUESTED_CAUSE with DELETE: the tunnel is set up again (TS 24.302 §7.2.4.2)."""
    world = attached()
    ended_by_the_gateway(world, reactivation_notify())
    assert world.device.state is DeviceState.ESTABLISHED
    assert [told.name for told in world.told] == ["attached", "detached", "reactivating", "attached"]
    assert len(world.gateway.sas) == 1


def test_a_ue_comes_back_a_bounded_number_of_times_in_a_row() -> None:
    world = attached()
    for _ in range(REACTIVATIONS_MAXIMUM):
        ended_by_the_gateway(world, reactivation_notify())
        assert world.device.state is DeviceState.ESTABLISHED
    ended_by_the_gateway(world, reactivation_notify())
    assert world.device.state is DeviceState.CLOSED
    assert world.event("reactivation-ignored").data["reactivations"] == REACTIVATIONS_MAXIMUM


def test_a_connection_that_lasts_begins_a_new_row() -> None:
    world = attached()
    for _ in range(REACTIVATIONS_MAXIMUM + 1):
        world.run(REACTIVATION_INTERVAL)
        ended_by_the_gateway(world, reactivation_notify())
        assert world.device.state is DeviceState.ESTABLISHED


def test_a_reactivation_that_is_refused_is_told() -> None:
    world = attached()
    world.grant = lambda: Refusal(notify=CONGESTION, text="full", beside=(backoff_notify(60),))
    ended_by_the_gateway(world, reactivation_notify())
    assert world.device.state is DeviceState.CLOSED
    assert world.event("refused").data["cause"] == "CONGESTION"


def test_without_the_cause_or_the_will_the_ue_stays_detached() -> None:
    world = attached()
    ended_by_the_gateway(world)
    assert world.device.state is DeviceState.CLOSED
    unwilling = World(reactivate=False)
    attached(unwilling)
    ended_by_the_gateway(unwilling, reactivation_notify())
    assert unwilling.device.state is DeviceState.CLOSED
