"""The equipment list: what a device is, and what that means to an attach."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aaa.authorization import RefusalCause
from aaa.equipment import ANY_EQUIPMENT, EquipmentList, EquipmentStatus, check_equipment, parse_list, parse_pattern
from aaa.events import EquipmentNoted, Refused
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ExperimentalResultCode
from tests.harness.aka_user import aka_user
from tests.machines.test_aaa_authentication import SUCCESS, USER, World

WHITE, GREY, BLACK = EquipmentStatus.WHITE, EquipmentStatus.GREY, EquipmentStatus.BLACK
IMEI = "35693803564380"
LISTS = EquipmentList(
    patterns={"35693803*": BLACK, "3569*": GREY, IMEI: WHITE, "99*": WHITE}, unknown=GREY, unidentified=BLACK
)


@pytest.mark.parametrize(
    ("imei", "status"),
    [
        (IMEI, WHITE),
        (IMEI + "9", WHITE),  # with its check digit
        (IMEI + "02", WHITE),  # an IMEISV
        ("35693803000000", BLACK),  # its TAC
        ("35690000000000", GREY),
        ("99000000000000", WHITE),
        ("01000000000000", GREY),
        (None, BLACK),
    ],
)
def test_the_longest_pattern_decides(imei: str | None, status: EquipmentStatus) -> None:
    assert LISTS.status(imei) is status


def test_a_pattern_for_all() -> None:
    assert EquipmentList(patterns={"*": BLACK}).status(IMEI) is BLACK


@pytest.mark.parametrize("text", ["", "3569380356438", "3569x*", "1" * 17, "1" * 14 + "*", "35-693803*"])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match="35693803"):
        parse_pattern(text)


def test_a_file_of_patterns() -> None:
    assert parse_list(f"# stolen\n\n{IMEI}9  # in May\n35693803*\n") == (IMEI, "35693803*")
    with pytest.raises(ValueError, match="in line 2"):
        parse_list("35693803*\nnothing\n")


@pytest.mark.parametrize(
    ("imei", "bound", "refused"),
    [
        (IMEI, IMEI + "9", False),
        (IMEI + "02", IMEI, False),
        (IMEI, "1" * 14, True),
        (None, IMEI, True),
        (None, None, False),
    ],
)
def test_a_subscription_may_be_bound_to_one_device(imei: str | None, bound: str | None, refused: bool) -> None:
    assert check_equipment(ANY_EQUIPMENT, imei, bound=bound).refused is refused


def test_a_black_device_is_refused_when_its_user_is_known() -> None:
    world = World(USER, equipment=LISTS, imei="35693803000000")
    answer = world.attach(aka_user(USER))[-1]
    assert answer.result == Result.of(ExperimentalResultCode.DIAMETER_ERROR_ILLEGAL_EQUIPMENT)
    assert answer.master_session_key is None
    (refused,) = [event for event in world.events if isinstance(event, Refused)]
    assert refused.refusal.cause is RefusalCause.ILLEGAL_EQUIPMENT
    assert "35693803000000 is on the black list" in refused.refusal.text
    stranger = World(equipment=LISTS, imei="35693803000000")
    assert stranger.attach(aka_user(USER))[-1].result == Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN)


def test_a_grey_device_is_let_in_and_noted() -> None:
    world = World(USER, equipment=LISTS, imei="35690000000000")
    assert world.attach(aka_user(USER))[-1].result == SUCCESS
    (noted,) = [event for event in world.events if isinstance(event, EquipmentNoted)]
    assert noted.text == "A device with IMEI 35690000000000 is on the grey list."


def test_another_device_than_the_bound_one_is_refused() -> None:
    bound = replace(USER, imei=IMEI)
    assert World(bound, imei=IMEI + "9").attach(aka_user(USER))[-1].result == SUCCESS
    other = World(bound, imei="35693803000000").attach(aka_user(USER))[-1]
    assert other.result == Result.of(ExperimentalResultCode.DIAMETER_ERROR_ILLEGAL_EQUIPMENT)
