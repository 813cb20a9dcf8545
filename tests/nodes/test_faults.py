"""Every fault that ``aaa`` can be told, provoked at a real UE behind a real gateway: what each of them says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.io.control import ControlError
from protocols.trace.records import JsonValue, Kind, TraceRecord
from tests.harness.aka_user import AkaUser, aka_user
from tests.nodes.test_swx import Home, own_home
from tests.nodes.test_ue_node import GATEWAY, USER, Ue, records_of
from tests.peers.aaa_node import AaaProcess, Gateway
from tests.peers.epdg_node import EpdgProcess
from tests.peers.processes import wait_until

NETWORK_FAILURE = "the gateway could not reach or use the AAA server (NETWORK_FAILURE 10500)"
ATTACHED = "attached"
PRIME = laboratory_subscriber(2)  # who is authenticated by EAP-AKA'
GREY, BLACK = "356938035643809", "990000862471853"  # devices on lists of the AAA server


def elsewhere(values: dict[str, object]) -> None:
    """A UE beside the one of the world."""
    accesses = values["accesses"]
    assert isinstance(accesses, dict)
    values["accesses"] = {"wifi-b": accesses["wifi-b"]}


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
            self.ue.call("ue.attach", force=True)  # in spite of a back-off that an earlier refusal brought
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
        diameter["request_interval"] = 1.0
        ike = values.setdefault("ike", {})
        assert isinstance(ike, dict)
        ike["request_device_identity"] = True

    def patient(values: dict[str, object]) -> None:
        values["retransmission"] = {"base_interval": 2.0, "limit": 2}
        values["imei"] = GREY

    def directory(name: str) -> Path:
        return tmp_path_factory.mktemp(name)

    prime = f"{{imsi: {PRIME.imsi}-{PRIME.imsi}, methods: [aka-prime]}}"
    equipment = "equipment: {grey: [35693803*], black: [99*]}\n"
    aaa = AaaProcess(directory("aaa"), extra=f"eap: {{rules: [{prime}]}}\n{equipment}")
    aaa.provision(USER, PRIME)
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
    ({}, {"result": "DIAMETER_TOO_BUSY"}, "CONGESTION"),
    ({"command": "MAR"}, {"result": "DIAMETER_ERROR_RAT_TYPE_NOT_ALLOWED"}, "RAT_TYPE_NOT_ALLOWED 11001"),
    ({"command": "SAR"}, {"result": "DIAMETER_ERROR_USER_UNKNOWN"}, "USER_UNKNOWN 9001"),
    ({}, {"wrong_autn": True}, "MAC-A in AUTN does not verify"),
    ({}, {"wrong_mac": True}, "AT_MAC of EAP-Request/AKA-Challenge does not verify"),
    ({}, {"wrong_keys": True}, "AT_MAC of EAP-Request/AKA-Challenge does not verify"),
    ({"step": "challenge"}, {"eap_failure": True}, "authentication rejected by the network"),
    ({"step": "challenge"}, {"silence": True}, NETWORK_FAILURE),
    ({"step": "final"}, {"delay": 1.5}, NETWORK_FAILURE),
    ({"step": "challenge"}, {"truncate": 20}, NETWORK_FAILURE),
    ({"step": "challenge"}, {"wrong_session_id": True}, NETWORK_FAILURE),
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


def test_a_back_off_is_told_to_the_ue(world: World) -> None:
    """OC-OLR (RFC 7683) on SWm, BACKOFF_TIMER (TS 24.302 §8.2.9.1) on SWu."""
    world.add("wait", {"step": "final"}, {"result": "DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION", "backoff": 45}, times=1)
    assert "NO_APN_SUBSCRIPTION" in world.attach()
    with pytest.raises(ControlError, match="NO_APN_SUBSCRIPTION and asked it to stay away for another 4"):
        world.ue.call("ue.attach")
    assert world.attach() == ATTACHED


def test_a_refusal_at_the_end_leaves_no_session_behind(world: World) -> None:
    world.add("end", {"step": "final"}, {"result": "DIAMETER_AUTHORIZATION_REJECTED"})
    world.attach()
    assert world.aaa.call("sessions.list", state="authenticated")["total"] == 0


def test_an_old_sqn_makes_the_usim_report_its_own(world: World) -> None:
    """TS 33.102 §6.3.5: AUTS, and the vector that follows it is taken."""
    world.add("old", {}, {"old_sqn": True})
    before = len(records_of(world.aaa.control))
    assert world.attach() == ATTACHED
    events = [r.body["name"] for r in records_of(world.aaa.control)[before:] if r.kind is Kind.EVENT]
    assert [name for name in events if name != "equipment-grey"][:3] == [
        "fault-applied",
        "resynchronised",
        "authenticated",
    ]


def test_eap_aka_does_not_look_at_the_separation_bit(world: World) -> None:
    """TS 33.402 §6.2 has the UE check it in EAP-AKA' only; the MAC over the cleared bit is right."""
    world.add("bit", {}, {"clear_amf_bit": True})
    assert world.attach() == ATTACHED
    assert world.applied()[-1].body["text"].startswith("Fault rule bit: AMF separation bit cleared")  # type: ignore[union-attr]


def test_eap_aka_prime_does(world: World, tmp_path: Path) -> None:
    """RFC 9048 §3.4, TS 33.402 §6.1: with the bit cleared the vector is not for EAP-AKA'."""
    world.add("bit", {"imsi": str(PRIME.imsi)}, {"clear_amf_bit": True}, times=1)
    refused = Ue(tmp_path, world.epdg.authority, PRIME, elsewhere).command("attach")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "separation bit" in refused.stderr


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
    before = len(world.applied())
    assert world.attach() == ATTACHED
    wait_until(lambda: len(world.applied()) > before, what="the STR", timeout=10.0, log=world.aaa.log)
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


# --- the equipment list -------------------------------------------------------------------------------


def test_the_equipment_list_is_asked(world: World, tmp_path: Path) -> None:
    """DEVICE_IDENTITY, Terminal-Information; the grey device was let in by all the tests above."""

    def other(values: dict[str, object]) -> None:
        elsewhere(values)
        values["imei"] = BLACK

    assert world.attach() == ATTACHED
    noted = [record for record in records_of(world.aaa.control) if record.body.get("name") == "equipment-grey"]
    assert GREY[:14] in str(noted[-1].body["text"])
    refused = Ue(tmp_path, world.epdg.authority, change=other).command("attach")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "the network does not accept this equipment (ILLEGAL_ME 9006)" in refused.stderr


# --- an HSS and an AAA server apart -------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with own_home(tmp_path) as started:
        yield started


def test_rules_of_an_hss_alone_and_of_a_server_without_keys(home: Home) -> None:
    def attach(user: AkaUser) -> list[str]:
        async def run() -> list[str]:
            async with Gateway.connected(home.aaa.port) as gateway:
                return [answer.result.name for answer in await gateway.attach(user)]

        return asyncio.run(run())

    def rule(name: str, command: str, **action: JsonValue) -> dict[str, JsonValue]:
        return {"name": name, "match": {"command": command}, "action": dict(action), "times": 1}

    user = aka_user(USER)
    assert attach(user) == ["DIAMETER_MULTI_ROUND_AUTH", "DIAMETER_SUCCESS"]
    home.hss.call("faults.add", rule=rule("autn", "MAR", wrong_autn=True))
    assert attach(user.again())[-1] == "DIAMETER_AUTHENTICATION_REJECTED"
    home.hss.call("faults.add", rule=rule("sqn", "MAR", old_sqn=True))
    assert attach(user.again()) == [*2 * ["DIAMETER_MULTI_ROUND_AUTH"], "DIAMETER_SUCCESS"]
    home.hss.call("faults.add", rule=rule("mar", "MAR", result="DIAMETER_ERROR_ROAMING_NOT_ALLOWED"))
    assert attach(user.again()) == ["DIAMETER_ERROR_ROAMING_NOT_ALLOWED"]
    told = [str(r.body["text"]) for r in records_of(home.hss.control) if r.body.get("name") == "fault-applied"]
    assert [text.split(",")[0] for text in told] == [
        "Fault rule autn: wrong AUTN",
        "Fault rule sqn: old SQN",
        "Fault rule mar: result DIAMETER_ERROR_ROAMING_NOT_ALLOWED",
    ]
    # the server has no keys, and can spoil what it was given
    with pytest.raises(ControlError, match="the HSS is elsewhere"):
        home.aaa.call("faults.add", rule=rule("no", "MAR", old_sqn=True))
    home.aaa.call("faults.add", rule=rule("autn", "DER", wrong_autn=True))
    assert attach(user.again())[-1] == "DIAMETER_AUTHENTICATION_REJECTED"
    assert attach(user.again())[-1] == "DIAMETER_SUCCESS"
    with pytest.raises(ControlError, match="no method"):
        home.aaa.call("subscribers.list")
