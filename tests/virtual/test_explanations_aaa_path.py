"""What goes wrong between gateway, AAA server and HSS, in one sentence each: silence, dead peers, spoilt answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aaa.config import AaaConfiguration, Role
from aaa.runtime import AaaNode
from lab.configurations import AAA_HOST, HSS_HOST, REALM
from lab.virtual.nodes import VirtualControl
from lab.virtual.streams import SOURCE
from lab.virtual.world import AAA, HSS, VirtualWorld
from protocols.entropy import SeededEntropy
from protocols.io.platform import Platform
from protocols.path import Endpoint
from protocols.trace.records import JsonValue
from tests.harness.explanations import Deed, attach
from tests.harness.session_story import Case, explained

IMSI = "001010000000001"
AAA_PEER: JsonValue = {"host": AAA_HOST, "address": str(AAA.address), "port": AAA.port}
HSS_PEER: JsonValue = {"host": HSS_HOST, "address": str(HSS.address), "port": HSS.port}

BEFORE_ORIGIN_REALM, BEFORE_MSK = 140, 296  # octets of a DEA of this world


def faulty(action: dict[str, JsonValue], **match: JsonValue) -> dict[str, dict[str, JsonValue]]:
    """The AAA server's configuration with one rule."""
    rule: JsonValue = {"name": "spoilt", "action": action, "match": match}
    return {"aaa": {"faults": [rule]}}


def silent(who: Endpoint) -> Deed:
    """A server's address says nothing any more."""

    async def told(world: VirtualWorld) -> None:
        world.streams.silence(who.address)
        await attach(world)

    return told


def gone(who: Endpoint) -> Deed:
    """A server ends its connections and listens no more."""

    async def told(world: VirtualWorld) -> None:
        hang_up(world, who)
        await world.advance(1)
        await attach(world)

    return told


def hang_up(world: VirtualWorld, who: Endpoint) -> None:
    world.streams.unlisten(who)
    for transport in list(world.streams.open):
        if (str(who.address), who.port) in (transport.get_extra_info("sockname"), transport.get_extra_info("peername")):
            transport.abort()


async def silent_at_the_end(world: VirtualWorld) -> None:
    await attach(world)
    world.streams.silence(AAA.address)
    await world.ue.call("ue.detach")
    await world.advance(15)


CASES = {
    "a rule refuses": Case(
        changes=faulty({"result": "DIAMETER_ERROR_ROAMING_NOT_ALLOWED"}),
        finding=(
            (
                "fault-rule",
                "The fault rule spoilt of the AAA server did it, in the answer to DER: result "
                "DIAMETER_ERROR_ROAMING_NOT_ALLOWED.",
            ),
        ),
    ),
    "a rule refuses for the HSS": Case(
        changes=faulty({"result": "DIAMETER_ERROR_USER_UNKNOWN"}, command="MAR"),
        finding=(
            (
                "fault-rule",
                "The fault rule spoilt of the AAA server did it, in the answer to MAR: result "
                "DIAMETER_ERROR_USER_UNKNOWN.",
            ),
        ),
    ),
    "a rule spoils the vector": Case(
        changes=faulty({"wrong_autn": True}),
        finding=(
            ("fault-rule", "The fault rule spoilt of the AAA server did it, in the answer to MAR: wrong AUTN."),
            ("autn-rejected", "AUTN rejected by the UE: K or OPc in its USIM differ from the subscriber's in the HSS."),
        ),
    ),
    "a rule delays": Case(
        changes=faulty({"delay": 1.5}, step="final"),
        finding=(
            (
                "fault-rule-survived",
                "The fault rule spoilt of the AAA server did it, in the answer to DER: delay of 1.5 s.",
            ),
        ),
    ),
    "no peer": Case(
        told=gone(AAA),
        finding=(
            (
                "no-diameter-peer",
                "The gateway has no Diameter peer to ask: aaa.epc.mnc001.mcc001.3gppnetwork.org is "
                "closed (192.0.2.10 port 3868: Connection refused).",
            ),
        ),
    ),
    "no application": Case(
        told=gone(AAA),
        changes={"epdg": {"diameter": {"peers": [AAA_PEER, HSS_PEER]}}},
        finding=(
            (
                "diameter-no-common-application",
                "The Diameter peer hss.epc.mnc001.mcc001.3gppnetwork.org refuses the gateway: no "
                "application in common, so no SWm.",
            ),
        ),
    ),
    "AAA server silent": Case(
        told=silent(AAA),
        finding=(
            ("aaa-silent", "The AAA server aaa.epc.mnc001.mcc001.3gppnetwork.org did not answer DER within 10 s."),
        ),
    ),
    "another session": Case(
        changes=faulty({"wrong_session_id": True}),
        finding=(
            ("fault-rule", "The fault rule spoilt of the AAA server did it, in the answer to DER: wrong Session-Id."),
            (
                "aaa-answer-of-another-session",
                "The AAA server's answer has a Session-Id that is not the request's: it was not taken.",
            ),
        ),
    ),
    "no MSK": Case(
        changes=faulty({"truncate": BEFORE_MSK}, step="final"),
        finding=(
            (
                "fault-rule",
                "The fault rule spoilt of the AAA server did it, in the answer to DER: the answer "
                "cut after 296 octets.",
            ),
            ("aaa-success-without-msk", "The AAA server says success, and gives no EAP-Success or no MSK."),
        ),
    ),
    "unusable": Case(
        changes=faulty({"truncate": BEFORE_ORIGIN_REALM}),
        finding=(
            (
                "fault-rule",
                "The fault rule spoilt of the AAA server did it, in the answer to DER: the answer "
                "cut after 140 octets.",
            ),
            ("aaa-answer-unusable", "The AAA server's answer cannot be used: Origin-Realm is missing."),
        ),
    ),
    "HSS silent": Case(
        told=silent(HSS),
        finding=(
            (
                "hss-silent",
                "The HSS hss.epc.mnc001.mcc001.3gppnetwork.org did not answer the AAA server's MAR within 5 s.",
            ),
        ),
    ),
    "no HSS": Case(
        told=gone(HSS), finding=(("hss-unreachable", "The AAA server has no HSS to send MAR to: none is connected."),)
    ),
    "unable to comply": Case(
        told=silent(HSS),
        changes={"aaa": {"trace": {"enabled": False}}},
        finding=(
            (
                "aaa-unable-to-comply",
                "The AAA server is unable to comply; it says: The home subscriber server failed: "
                "MAR: no answer from hss.epc.mnc001.mcc001.3gppnetwork.org in 5 s.",
            ),
        ),
    ),
    "end not told": Case(
        told=silent_at_the_end,
        finding=(
            (
                "end-not-told",
                "The AAA server does not know of the session's end (STR: no answer from "
                "aaa.epc.mnc001.mcc001.3gppnetwork.org in 10 s).",
            ),
        ),
    ),
}


PROVOKED = {name for case in CASES.values() for name, _ in case.finding} | {"aaa-failover", "hss-failed"}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_failure_behind_the_gateway_is_explained(case: Case) -> None:
    assert explained(case) == case.finding


SECOND = Endpoint.of("192.0.2.12", 3868)
SECOND_HOST = AAA_HOST.replace("aaa.", "aaa2.", 1)


async def fails_over(world: VirtualWorld) -> None:
    """Another AAA server at the same HSS has the user's second attach, because the first one is gone."""
    configuration = AaaConfiguration.model_validate(
        {
            "identity": {"host": SECOND_HOST, "realm": REALM},
            "listen": {"address": str(SECOND.address), "port": SECOND.port},
            "hss": {"peers": [HSS_PEER]},
            "control": world.ue_node.configuration.control.with_name("aaa2.sock"),
        }
    )
    control = VirtualControl("aaa2")
    platform = Platform(
        clock=world.clock,
        entropy=SeededEntropy("aaa2"),
        open_link=world.network.open_link,
        open_raw_esp=None,
        control=control.serve,
        bind_stream=world.streams.listen,
        resolver=world.names.open,
    )
    node = AaaNode(configuration, None, Role.AAA, platform)

    async def serve() -> None:
        SOURCE.set(SECOND.address)
        await node.run()

    running = asyncio.create_task(serve())
    await control.ready.wait()
    await world.advance(60)
    await attach(world)
    await world.ue.call("ue.detach")
    hang_up(world, AAA)
    await world.advance(1)
    await attach(world)
    await world.ue.call("ue.detach")
    await world.advance(1)
    node.stop()
    await running


def test_another_server_in_the_place_of_one_that_is_down_is_told() -> None:
    peer: JsonValue = {"host": SECOND_HOST, "address": str(SECOND.address), "port": SECOND.port, "priority": 1}
    case = Case(
        told=fails_over,
        changes={
            "epdg": {"diameter": {"peers": [AAA_PEER, peer]}},
            "ue": {"eap": {"pseudonyms": False, "reauthentication": False}},
        },
        finding=(),
    )
    sentence = f"{SECOND_HOST} answered in the place of {AAA_HOST}, which is down."
    assert explained(case) == (("aaa-failover", sentence),)


def test_an_hss_without_vectors_is_named(tmp_path: Path) -> None:
    """It has been given one vector, which is not the USIM's, and no key that makes another."""
    vectors = tmp_path / "vectors.yaml"
    octets = "00112233445566778899aabbccddeeff"
    vectors.write_text(
        f"imsi: '{IMSI}'\nvectors:\n  - {{rand: '{octets}', autn: '{octets}', outcome: mac-failure}}\n", "utf-8"
    )

    async def twice(world: VirtualWorld) -> None:
        await attach(world)
        await world.advance(20)
        await attach(world)

    found = explained(Case(told=twice, changes={"aaa": {"hss": {"vectors": [str(vectors)]}}}, finding=()))
    assert found[-1] == (
        "hss-failed",
        "The HSS failed: it answered DIAMETER_AUTHENTICATION_DATA_UNAVAILABLE (4181): "
        f"All vectors that were given for subscriber {IMSI} are used.",
    )
