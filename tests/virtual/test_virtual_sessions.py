"""Which sessions a gateway lists, asked of the real node on virtual time: filters, text, times, order, pages."""

from __future__ import annotations

import pytest

from lab.virtual.world import VirtualWorld, run
from protocols.io.control import ControlError
from protocols.trace.records import JsonValue


async def listed(world: VirtualWorld, **params: JsonValue) -> list[dict[str, JsonValue]]:
    """What the gateway lists."""
    answer = await world.epdg.call("sessions.list", **params)
    assert isinstance(answer, dict)
    sessions = answer["sessions"]
    assert isinstance(sessions, list)
    return [session for session in sessions if isinstance(session, dict)]


async def states(world: VirtualWorld, **params: JsonValue) -> list[JsonValue]:
    return [session["state"] for session in await listed(world, **params)]


def test_live_and_ended_sessions_are_found_alike() -> None:
    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.attach")
        (first,) = await listed(world)
        await world.ue.call("ue.detach")
        await world.advance(60)
        await world.ue.call("ue.attach")
        both = await listed(world)
        assert [session["state"] for session in both] == ["established", "closed"]
        second = both[0]
        inner, imsi = second["inner_addresses"], second["imsi"]
        assert isinstance(inner, list)
        assert isinstance(imsi, str)
        for one in (
            {"imsi": imsi},
            {"apn": second["apn"]},
            {"address": "10.1.0.2"},
            {"q": imsi[2:]},
            {"q": "@NAI.EPC"},
            {"q": "10.1.0.2"},
            {"q": ".1.0"},
            {"q": "0"},
            {"since": first["created"], "until": second["created"]},
        ):
            assert await states(world, **one) == ["established", "closed"], one
        for none in (
            {"q": "elsewhere"},
            {"q": imsi[-3:] + "\n"},
            {"address": "no address"},
            {"until": 1.0},
            {"imsi": imsi[:-1]},
        ):
            assert await states(world, **none) == [], none
        formerly = first["inner_addresses"]
        assert isinstance(formerly, list)
        assert await states(world, address=inner[0]) == await states(world, q=str(inner[0])) == ["established"]
        assert await states(world, address=formerly[0]) == await states(world, q=str(formerly[0])) == ["closed"]
        assert await states(world, since=second["created"]) == ["established"]
        assert await states(world, state="closed") == ["closed"]
        assert await states(world, sort="created") == ["closed", "established"]
        assert await states(world, sort="-created") == ["established", "closed"]
        assert await states(world, sort="state") == ["closed", "established"]
        assert await states(world, sort="created", limit=1, cursor="1") == ["established"]
        page = await world.epdg.call("sessions.list", limit=1)
        assert isinstance(page, dict)
        assert (page["next"], page["total"]) == ("1", 2)
        assert await world.epdg.call("sessions.get", id=second["id"]) == second
        several = await world.epdg.call("sessions.several", ids=[first["id"], "none", second["id"]])
        assert several == {
            "sessions": [await world.epdg.call("sessions.get", id=first["id"]), second],
            "unknown": ["none"],
        }
        for wrong in ({}, {"ids": "none"}, {"ids": [1]}, {"ids": ["none"] * 1001}):
            with pytest.raises(ControlError, match="ids are up to 1000 identifiers of sessions"):
                await world.epdg.call("sessions.several", **wrong)
        for wrong in ({"sort": "age"}, {"q": 5}, {"since": "now"}, {"cursor": "9" * 10}, {"cursor": "x"}, {"limit": 0}):
            with pytest.raises(ControlError) as refused:
                await world.epdg.call("sessions.list", **wrong)
            assert refused.value.code == "bad-params"

    run(story)


def test_a_session_that_has_moved_is_found_where_it_is() -> None:
    """What is looked through is kept with the session, and is another one as soon as the address is."""

    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.attach")
        for here, elsewhere, to in (("10.1.0.2", "10.2.0.2", "wifi-b"), ("10.2.0.2", "10.1.0.2", "wifi-a")):
            assert await states(world, q=here) == ["established"]
            assert await states(world, q=elsewhere) == []
            await world.ue.call("ue.move", to=to)

    run(story)
