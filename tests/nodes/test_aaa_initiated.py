"""What the AAA server starts by itself reaches the UE: ASR, RAR and the profile fetched anew, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from protocols.diameter.swm import GTPV2_SUPPORTED, Ambr, Result, ResultCode
from tests.nodes.scripted_aaa_world import PROFILE, SUCCESS, WIFI_A, WIFI_B, World

Story = Callable[[World], Awaitable[None]]
ALWAYS: dict[str, object] = {"aaa_initiated": {"reactivation": "always"}}
UNKNOWN = Result(0, ResultCode.DIAMETER_UNKNOWN_SESSION_ID)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory, whose certificates serve all tests."""
    return tmp_path_factory.mktemp("aaa-initiated")


def tell(directory: Path, story: Story, **changes: dict[str, object]) -> None:
    async def run() -> None:
        async with World(directory, **changes) as world:
            await world.ue.attach()
            await world.event("attached", "ue")
            await story(world)

    asyncio.run(run())


def diameter_session(world: World) -> str:
    return str(world.session["diameter_session_id"])


def test_asr_detaches_the_ue_and_is_followed_by_str(pki: Path) -> None:
    async def story(world: World) -> None:
        session = diameter_session(world)
        assert (await world.aaa.abort("nobody;1;2")).result == UNKNOWN
        assert (await world.aaa.abort(session, realm="elsewhere.test", host="a.elsewhere.test")).result == UNKNOWN
        assert (await world.aaa.abort(session)).result == SUCCESS
        assert (await world.event("detached", "ue"))["by_peer"] is True
        await world.until(lambda: len(world.aaa.strs) == 1)
        assert (world.aaa.strs[0].session_id, world.aaa.strs[0].termination_cause) == (session, 4)
        assert world.last["last_error"] == {"cause": "aborted", "text": "the AAA server has ended the session"}
        assert (await world.aaa.abort(session)).result == UNKNOWN
        assert world.ue.pdn().device.state.value == "closed"
        assert world.aaa.ders[0].mip6_feature_vector == GTPV2_SUPPORTED

    tell(pki, story)


def test_a_ue_that_is_wanted_back_comes_back(pki: Path) -> None:
    """REACTIVATION_REQUESTED_CAUSE by the gateway's policy: another tunnel, another Diameter session."""

    async def story(world: World) -> None:
        session = diameter_session(world)
        await world.aaa.abort(session)
        assert (await world.event("reactivating", "ue"))["reactivations"] == 1
        await world.event("attached", "ue")
        assert diameter_session(world) != session
        assert [request.session_id for request in world.aaa.strs] == [session]

    tell(pki, story, gateway=ALWAYS)


def test_rar_has_the_profile_fetched_and_applied(pki: Path) -> None:
    """The AMBR is stored and shown; the AAR says where the UE is now."""

    async def story(world: World) -> None:
        await world.ue.move("b")
        await world.event("moved", "epdg")
        world.aaa.renewal = {
            "result": SUCCESS,
            "apn_configuration": replace(PROFILE, ambr=Ambr(7000, 8000)),
            "session_timeout": 3600,
        }
        assert (await world.aaa.reauthorise("nobody;1;2")).result == UNKNOWN
        assert (await world.aaa.reauthorise(diameter_session(world))).result == SUCCESS
        assert (await world.event("authorisation-renewed", "epdg"))["changes"] == "ambr, session_timeout"
        assert [str(aar.ue_local_ip) for aar in world.aaa.aars] == [WIFI_B]
        authorisation = world.session["authorisation"]
        assert isinstance(authorisation, dict)
        assert authorisation["ambr"] == {"uplink_bits": 7000, "downlink_bits": 8000}
        assert world.session["session_timeout"] == 3600
        assert world.ue.pdn().device.state.value == "established"
        assert str(world.aaa.ders[0].ue_local_ip) == WIFI_A

    tell(pki, story)


def test_the_session_time_of_the_new_profile_ends_the_session(pki: Path) -> None:
    async def story(world: World) -> None:
        world.aaa.renewal = {"result": SUCCESS, "apn_configuration": PROFILE, "session_timeout": 1}
        await world.aaa.reauthorise(diameter_session(world))
        await world.event("detached", "ue")
        await world.until(lambda: len(world.aaa.strs) == 1)
        assert world.aaa.strs[0].termination_cause == 8  # DIAMETER_SESSION_TIMEOUT

    tell(pki, story)


@pytest.mark.parametrize(
    ("renewal", "cause"),
    [
        ({"result": SUCCESS}, "authorisation-changed"),
        (
            {
                "result": SUCCESS,
                "apn_configuration": replace(PROFILE, served_party_addresses=(IPv4Address("10.45.0.77"),)),
            },
            "authorisation-changed",
        ),
        ({"result": Result(10415, 5450)}, "NON_3GPP_ACCESS_TO_EPC_NOT_ALLOWED"),
    ],
)
def test_a_profile_that_is_gone_or_does_not_fit_detaches_the_ue(
    pki: Path, renewal: dict[str, object], cause: str
) -> None:
    async def story(world: World) -> None:
        world.aaa.renewal = renewal
        await world.aaa.reauthorise(diameter_session(world))
        assert (await world.event("dismissed", "epdg"))["cause"] == cause
        await world.event("detached", "ue")
        await world.until(lambda: len(world.aaa.strs) == 1)

    tell(pki, story)


def test_a_new_static_address_is_had_by_coming_back(pki: Path) -> None:
    async def story(world: World) -> None:
        static = replace(PROFILE, served_party_addresses=(IPv4Address("10.45.0.77"),))
        world.aaa.renewal = {"result": SUCCESS, "apn_configuration": static}
        world.aaa.profile = {"apn_configuration": static}
        await world.aaa.reauthorise(diameter_session(world))
        await world.event("attached", "ue")
        assert world.at_ue["inner_addresses"] == ["10.45.0.77"]

    tell(pki, story, gateway=ALWAYS)


def test_rar_may_have_the_ue_authenticate_anew(pki: Path) -> None:
    async def story(world: World) -> None:
        before, session = world.at_ue["inner_addresses"], diameter_session(world)
        await world.aaa.reauthorise(session, 1)
        await world.event("attached", "epdg")
        await world.event("attached", "epdg")
        await world.until(lambda: [request.session_id for request in world.aaa.strs] == [session])
        assert world.at_ue["inner_addresses"] == before

    tell(pki, story)
