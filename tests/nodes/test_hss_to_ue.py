"""From the HSS to the UE: what changes in the subscriber database reaches the handset, over SWx, SWm and SWu.

::

    HSS (process)      AAA (process)      ePDG and UE (this process)
     RTR        -->     ASR        -->     INFORMATIONAL { DELETE }  -->
     PPR        -->     RAR        -->     AAR: the profile is fetched and applied
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from aaa.subscribers.laboratory import laboratory_subscriber
from dashboards.schemas import BitRates, SessionView
from protocols.io.control import ControlClient
from tests.nodes.dashboards_world import site
from tests.nodes.scripted_aaa_world import EPDG_HOST, World
from tests.nodes.test_dashboards_api import API, BEARER
from tests.nodes.test_swx import Home
from tests.peers import aaa_node
from tests.peers.processes import wait_until

USER = laboratory_subscriber(1)
Story = Callable[[World], Awaitable[None]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """An HSS that looks for changes all the time, and its AAA server."""
    home = Home.started(tmp_path_factory.mktemp("home"))
    with contextlib.ExitStack() as stack:
        stack.push(home.hss.__exit__)
        stack.push(home.aaa.__exit__)
        yield home


def tell(home: Home, story: Story) -> None:
    """A gateway whose AAA server is the process, and an attached UE."""

    async def run() -> None:
        peer = {"host": aaa_node.HOST, "address": "127.0.0.1", "port": home.aaa.port}
        diameter = {"host": EPDG_HOST, "realm": aaa_node.REALM, "peers": [peer]}
        home.hss.provision(USER)
        world = World(home.hss.directory, gateway={"diameter": diameter})
        world.servers = ()
        async with world:
            await world.event("peer-up", "epdg")
            await world.ue.attach()
            await world.event("attached", "ue")
            await story(world)

    asyncio.run(run())


def test_the_ladder_of_a_session_has_all_four_in_columns(home: Home, tmp_path: Path) -> None:
    """As the dashboard shows it: which box sent what to which, seen by both where both are traced."""
    directory = home.hss.directory
    traced = {"gw": ("epdg", "epdg"), "home": ("hss", "hss"), "phone": ("ue", "ue"), "visited": ("aaa", "aaa")}
    nodes = "\n".join(
        f"  - {{ name: {name}, kind: {kind}, control: {directory / file}.sock }}"
        for name, (kind, file) in traced.items()
    )

    def ladder(session: str) -> dict[str, Any] | None:
        shown = httpx.get(f"{running.url}{API}/sessions/{session}/ladder", headers=BEARER, timeout=10).json()
        names = [entry["name"] for entry in shown.get("entries", ())]
        return dict(shown) if "SAA" in names and "attached" in names else None

    async def story(world: World) -> None:
        session = str(world.session["id"])
        shown = await asyncio.to_thread(wait_until, lambda: ladder(session), what="the ladder", timeout=20)
        assert shown["columns"] == ["UE", "ePDG", "AAA", "HSS"]
        arrows = [
            (entry["name"], entry["from"], entry["to"], entry["seen_by"])
            for entry in shown["entries"]
            if entry["protocol"] == "diameter" and entry["interface"] in ("SWm", "SWx")
        ]
        assert arrows == [
            ("DER", "ePDG", "AAA", ["gw", "visited"]),
            ("MAR", "AAA", "HSS", ["visited", "home"]),
            ("MAA", "HSS", "AAA", ["home", "visited"]),
            ("DEA", "AAA", "ePDG", ["visited", "gw"]),
            ("DER", "ePDG", "AAA", ["gw", "visited"]),
            ("SAR", "AAA", "HSS", ["visited", "home"]),
            ("SAA", "HSS", "AAA", ["home", "visited"]),
            ("DEA", "AAA", "ePDG", ["visited", "gw"]),
        ]
        assert {(entry["from"], entry["to"]) for entry in shown["entries"] if entry["interface"] == "SWu"} == {
            ("UE", "ePDG"),
            ("ePDG", "UE"),
        }

    with site(tmp_path, nodes=nodes) as running:
        tell(home, story)


def test_a_registration_that_the_hss_ends_is_the_end_of_the_tunnel(home: Home) -> None:
    async def story(world: World) -> None:
        assert await asyncio.to_thread(home.registration, USER) is not None
        hss = ControlClient(home.hss.control)
        answer = await hss.call("registrations.terminate", imsi=str(USER.imsi), reason="the subscription moved")
        assert isinstance(answer, dict)
        assert answer["success"]
        assert (await world.event("detached", "ue"))["by_peer"] is True
        await world.event("detached", "epdg")  # which the UE's answer takes a moment to reach
        assert world.last["last_error"] == {"cause": "aborted", "text": "the AAA server has ended the session"}
        assert await asyncio.to_thread(home.registration, USER) is None

    tell(home, story)


def test_a_changed_subscription_reaches_the_session(home: Home) -> None:
    async def story(world: World) -> None:
        apns = tuple(replace(apn, ambr_uplink_bits=7000, ambr_downlink_bits=8000) for apn in USER.apns)
        home.hss.provision(replace(USER, apns=apns))
        assert (await world.event("authorisation-renewed", "epdg"))["changes"] == "ambr, session_timeout"
        (live,) = world.gateway.sessions.live.values()
        shown = SessionView.model_validate(world.gateway.sessions.view(live))  # as the dashboard shows it
        assert shown.authorisation is not None
        assert shown.authorisation.ambr == BitRates(uplink_bits=7000, downlink_bits=8000)
        assert world.ue.pdn().device.state.value == "established"

    tell(home, story)


def test_an_apn_that_is_taken_away_ends_the_session(home: Home) -> None:
    async def story(world: World) -> None:
        home.hss.provision(replace(USER, apns=tuple(apn for apn in USER.apns if str(apn.apn) != "internet")))
        await world.event("detached", "ue")

    tell(home, story)


def test_an_operator_aborts_the_session_of_a_ue(home: Home) -> None:
    async def story(world: World) -> None:
        session = str(world.session["diameter_session_id"])
        answer = await ControlClient(home.aaa.control).call("sessions.abort", id=session, reason="a test")
        assert isinstance(answer, dict)
        assert answer["succeeded"]
        await world.event("detached", "ue")

    tell(home, story)
