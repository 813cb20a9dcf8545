"""Why a user may not attach, in one sentence each: provoked by subscriptions, devices, limits and overload."""

from __future__ import annotations

import asyncio

import pytest

from lab.virtual.world import VirtualWorld
from protocols.errors import StackError
from protocols.trace.records import JsonValue
from tests.harness.explanations import Deed, attach
from tests.harness.session_story import Case, another_ue, explained

IMSI = "001010000000001"
IMEI = "356938035643809"
APN_IMS: JsonValue = {"apn": "ims"}


def changed(**changes: JsonValue) -> Deed:
    """An attach with another subscription."""

    async def told(world: VirtualWorld) -> None:
        await world.aaa.call("subscribers.update", imsi=IMSI, changes=changes)
        await attach(world)

    return told


async def removed(world: VirtualWorld) -> None:
    await world.aaa.call("subscribers.remove", imsi=IMSI)
    await attach(world)


async def all_apns(world: VirtualWorld) -> None:
    for apn in ("internet", "ims"):
        try:
            await world.ue.call("ue.attach", pdn=apn)
        except StackError:
            return


async def beside_another(world: VirtualWorld) -> None:
    async with another_ue(world):
        await twice(world)


async def half_way_and_again(world: VirtualWorld) -> None:
    """The first attach gets stuck between the AAA server's challenge and the UE's answer."""
    first = asyncio.create_task(attach(world))
    await world.advance(0.035)
    world.accesses["wifi-a"].captive = True
    await world.ue.call("ue.detach")
    await first
    world.accesses["wifi-a"].captive = False
    await twice(world)


async def twice(world: VirtualWorld) -> None:
    await attach(world)
    await world.advance(15)
    await attach(world)


CASES = {
    "unknown": Case(
        told=removed,
        finding=(("user-unknown", f"The HSS does not know subscriber {IMSI}."),),
    ),
    "no subscription": Case(
        told=changed(non_3gpp_allowed=False),
        finding=(("no-non-3gpp-subscription", f"Subscriber {IMSI} has no subscription to non-3GPP access."),),
    ),
    "roaming": Case(
        told=changed(roaming_allowed=False),
        changes={"epdg": {"plmn": {"mcc": "262", "mnc": "01"}}},
        finding=(
            (
                "roaming-not-allowed",
                "Roaming is not allowed: Subscriber 001010000000001 may not roam in mnc001.mcc262.3gppnetwork.org.",
            ),
        ),
    ),
    "RAT type": Case(
        told=changed(wlan_allowed=False),
        finding=(("rat-type-not-allowed", f"The subscription of subscriber {IMSI} bars access by radio of WLAN."),),
    ),
    "APN": Case(
        told=changed(apns=[{"apn": "internet"}]),
        changes={"ue": {"apn": "ims"}},
        finding=(("apn-not-subscribed", f"Subscriber {IMSI} has no subscription to APN ims, and has internet."),),
    ),
    "disabled": Case(
        told=changed(enabled=False),
        finding=(("subscriber-disabled", f"Subscriber {IMSI} is disabled: barred from non-3GPP access."),),
    ),
    "not served": Case(
        told=changed(apns=[{"apn": "corporate"}]),
        changes={"ue": {"apn": "corporate"}},
        finding=(("apn-not-served", "The AAA server allows APN corporate, and this gateway does not serve it."),),
    ),
    "no APN": Case(
        changes={
            "epdg": {"authentication": {"methods": ["psk"], "psk": {"ue@example.org": "a long secret"}}},
            "ue": {
                "apn": "epdg.epc.mnc001.mcc001.pub.3gppnetwork.org",
                "authentication": "psk",
                "identity": "ue@example.org",
                "psk": "a long secret",
                "gateway": {"ca": None},
            },
        },
        finding=(
            (
                "no-apn",
                "The UE names no APN in IDr, none comes from a subscription, and the gateway has no default_apn.",
            ),
        ),
    ),
    "no APN subscribed": Case(
        told=changed(apns=[]),
        changes={"ue": {"apn": "epdg.epc.mnc001.mcc001.pub.3gppnetwork.org"}},
        finding=(("apn-not-subscribed", "Subscriber 001010000000001 has no subscription to any APN."),),
    ),
    "black list": Case(
        changes={
            "aaa": {"equipment": {"black": [IMEI]}},
            "epdg": {"ike": {"request_device_identity": True}},
            "ue": {"imei": IMEI},
        },
        finding=(("illegal-equipment", f"A device with IMEI {IMEI} is on the black list."),),
    ),
    "bound": Case(
        told=changed(imei="490154203237518"),
        changes={"epdg": {"ike": {"request_device_identity": True}}, "ue": {"imei": IMEI}},
        finding=(
            (
                "equipment-bound-elsewhere",
                f"A device with IMEI {IMEI} uses a subscription that is bound to another one.",
            ),
        ),
    ),
    "connections": Case(
        told=all_apns,
        changes={"epdg": {"limits": {"connections_per_ue": 1}}, "ue": {"additional_pdns": {"ims": {}}}},
        finding=(
            (
                "too-many-connections",
                f"Subscriber {IMSI} has 1 PDN connections already, which is as many as the gateway allows.",
            ),
        ),
    ),
    "emergency": Case(
        changes={
            "epdg": {"emergency": {"apn": "sos"}, "apns": {"sos": {"pool": "10.50.0.0/24"}}},
            "aaa": {"emergency": {"apn": "sos"}},
            "ue": {"apn": "sos", "usim": None, "imei": IMEI, "eap": {"emergency": True}},
        },
        finding=(("emergency-unauthenticated", "No emergency session without authentication: the UE has no IMSI."),),
    ),
    "congestion": Case(
        told=beside_another,
        changes={"epdg": {"limits": {"congestion_threshold": 1}}},
        finding=(
            ("congestion", "The gateway has as many sessions as it takes; the UE is to stay away for 60 s."),
            ("back-off-running", "The UE did not even ask: after CONGESTION it stays away for another 45 s."),
        ),
    ),
    "overload": Case(
        told=half_way_and_again,
        changes={
            "aaa": {
                "sessions": {"unfinished_limit": 1},
                "faults": [{"name": "report", "match": {"step": "final"}, "action": {"backoff": 90}}],
            }
        },
        finding=(
            ("fault-rule", "The fault rule report of the AAA server did it, in the answer to DER: back-off of 90 s."),
            (
                "aaa-overloaded",
                "The AAA server is overloaded, for 90 s by its report; the UE is to stay away for 60 s.",
            ),
            ("back-off-running", "The UE did not even ask: after CONGESTION it stays away for another 45 s."),
        ),
    ),
    "busy": Case(
        told=half_way_and_again,
        changes={"aaa": {"sessions": {"unfinished_limit": 1}}},
        finding=(
            (
                "aaa-too-busy",
                "The AAA server is too busy (Too many sessions have not been authenticated yet); the "
                "UE is to stay away for 60 s.",
            ),
            ("back-off-running", "The UE did not even ask: after CONGESTION it stays away for another 45 s."),
        ),
    ),
}


PROVOKED = {name for case in CASES.values() for name, _ in case.finding}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_refusal_is_explained(case: Case) -> None:
    assert explained(case) == case.finding
