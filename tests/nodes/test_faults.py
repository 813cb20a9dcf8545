"""Every fault that ``aaa`` can be told, provoked at a real UE behind a real gateway: what each of them says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from protocols.io.control import ControlError
from protocols.trace.records import JsonValue, Kind, TraceRecord
from tests.nodes.test_ue_node import GATEWAY, USER, Ue, records_of
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import EpdgProcess

NETWORK_FAILURE = "the gateway could not reach or use the AAA server (NETWORK_FAILURE 10500)"
ATTACHED = "attached"


@dataclass
class World:
    """One AAA server, gateway and UE for all rules."""

    aaa: AaaProcess
    epdg: EpdgProcess
    ue: Ue

    def add(self, name: str, match: dict[str, JsonValue], action: dict[str, JsonValue], **more: JsonValue) -> None:
        self.aaa.call("faults.add", rule={"name": name, "match": match, "action": action, **more})

    def attach(self) -> str:
        """One attempt: what the UE says of it; it leaves again."""
        try:
            self.ue.call("ue.attach")
        except ControlError as error:
            return error.message
        self.ue.call("ue.detach")
        return ATTACHED

    def applied(self) -> list[TraceRecord]:
        """The faults that the AAA server says it committed."""
        return [record for record in records_of(self.aaa.control) if record.body.get("name") == "fault-applied"]

    def dropped(self) -> dict[str, int]:
        """What the gateway dropped of the AAA server's messages."""
        (peer,) = self.epdg.call("peers.list")["peers"]  # type: ignore[misc]
        return peer["dropped"]  # type: ignore[index,return-value,call-overload]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    def hasty(values: dict[str, object]) -> None:
        diameter = values["diameter"]
        assert isinstance(diameter, dict)
        diameter["request_interval"] = 0.4

    def patient(values: dict[str, object]) -> None:
        values["retransmission"] = {"base_interval": 2.0, "limit": 2}

    def directory(name: str) -> Path:
        return tmp_path_factory.mktemp(name)

    aaa = AaaProcess(directory("aaa"))
    aaa.provision(USER)
    with (
        aaa,
        EpdgProcess(directory("epdg"), aaa.port, address=GATEWAY, changes=hasty) as epdg,
        Ue(directory("ue"), epdg.authority, change=patient).node("run") as ue,
    ):
        yield World(aaa, epdg, ue)


@pytest.fixture
def world(nodes: World) -> Iterator[World]:
    yield nodes
    nodes.aaa.call("faults.clear")


REFUSED = [
    ({}, {"result": "DIAMETER_ERROR_USER_UNKNOWN"}, "USER_UNKNOWN 9001"),
    ({"step": "challenge"}, {"result": "10415:5004"}, "PLMN_NOT_ALLOWED 11011"),
    ({"step": "final"}, {"result": "DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION"}, "NO_APN_SUBSCRIPTION 9002"),
    ({}, {"result": "DIAMETER_TOO_BUSY"}, NETWORK_FAILURE),
    ({"command": "MAR"}, {"result": "DIAMETER_ERROR_RAT_TYPE_NOT_ALLOWED"}, "RAT_TYPE_NOT_ALLOWED 11001"),
    ({"command": "SAR"}, {"result": "DIAMETER_ERROR_USER_UNKNOWN"}, "USER_UNKNOWN 9001"),
    ({}, {"wrong_autn": True}, "MAC-A in AUTN does not verify"),
    ({}, {"wrong_mac": True}, "AT_MAC of the challenge does not verify"),
    ({}, {"wrong_keys": True}, "AT_MAC of the challenge does not verify"),
    ({"step": "challenge"}, {"eap_failure": True}, "authentication rejected by the network"),
    ({"step": "challenge"}, {"silence": True}, NETWORK_FAILURE),
    ({"step": "final"}, {"delay": 0.6}, NETWORK_FAILURE),
    ({"step": "challenge"}, {"truncate": 20}, NETWORK_FAILURE),
]


@pytest.mark.parametrize(("match", "action", "words"), REFUSED, ids=[str(action) for _, action, _ in REFUSED])
def test_an_attach_that_a_rule_spoils(
    world: World, match: dict[str, JsonValue], action: dict[str, JsonValue], words: str
) -> None:
    world.add("once", match, action, times=1)
    before = len(world.applied())
    assert words in world.attach()
    (event,) = world.applied()[before:]
    assert str(event.body["text"]).startswith("Fault rule once: ")
    assert f"for subscriber {USER.imsi}, attempt 1." in str(event.body["text"])
    assert event.session is not None
    assert world.attach() == ATTACHED  # the rule is spent
    assert not world.epdg.sessions(state="established")


def test_a_refusal_at_the_end_leaves_no_session_behind(world: World) -> None:
    world.add("end", {"step": "final"}, {"result": "DIAMETER_AUTHORIZATION_REJECTED"})
    world.attach()
    assert world.aaa.call("sessions.list", state="authenticated")["total"] == 0


def test_an_old_sqn_makes_the_usim_report_its_own(world: World) -> None:
    """TS 33.102 §6.3.5: AUTS, and the vector that follows it is taken."""
    world.add("old", {}, {"old_sqn": True})
    before = len(records_of(world.aaa.control))
    assert world.attach() == ATTACHED
    names = [r.body["name"] for r in records_of(world.aaa.control)[before:] if r.kind is Kind.EVENT]
    assert names[:3] == ["fault-applied", "resynchronised", "authenticated"]


def test_eap_aka_does_not_look_at_the_separation_bit(world: World) -> None:
    """TS 33.402 §6.2 has the UE check it in EAP-AKA' only; the MAC over the cleared bit is right."""
    world.add("bit", {}, {"clear_amf_bit": True})
    assert world.attach() == ATTACHED
    assert world.applied()[-1].body["text"].startswith("Fault rule bit: AMF separation bit cleared")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("action", "reason", "outcome"),
    [
        ({"duplicate": True}, "answer without a request", ATTACHED),
        ({"truncate": 102}, "malformed answer", NETWORK_FAILURE),
    ],
)
def test_what_is_no_answer_is_dropped_and_counted(
    world: World, action: dict[str, JsonValue], reason: str, outcome: str
) -> None:
    world.add("octets", {"step": "challenge"}, action)
    before = world.dropped().get(reason, 0)
    assert outcome in world.attach()
    assert world.dropped()[reason] == before + 1
    (peer,) = world.epdg.call("peers.list")["peers"]  # type: ignore[misc]
    assert peer["state"] == "Open"  # type: ignore[index,call-overload]


def test_an_answer_within_the_gateways_patience_is_only_late(world: World) -> None:
    world.add("late", {"step": "final"}, {"delay": 0.1})
    assert world.attach() == ATTACHED


def test_an_str_without_an_answer_does_not_hold_the_ue(world: World) -> None:
    world.add("mute", {"command": "STR"}, {"silence": True})
    assert world.attach() == ATTACHED
    assert world.applied()[-1].body["data"]["command"] == "STR"  # type: ignore[index,call-overload]


def test_rules_are_for_subscribers_apns_and_attempts(world: World) -> None:
    world.add("stranger", {"imsi": "26201*"}, {"silence": True})
    world.add("elsewhere", {"apn": "ims"}, {"silence": True})
    world.add("second", {"imsi": "00101*", "apn": "internet", "attempts": "every 2"}, {"result": "5012"})
    outcomes = [world.attach() == ATTACHED for _ in range(4)]
    assert outcomes == [True, False, True, False]
    listed = world.aaa.call("faults.list")["faults"]
    assert isinstance(listed, list)
    assert [(rule["matched"] > 0, rule["applied"]) for rule in listed] == [(False, 0), (False, 0), (True, 2)]  # type: ignore[index,call-overload,operator]
