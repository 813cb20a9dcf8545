"""Events of sessions: who asks for some is told of those, and the gateway is asked for none that nobody wants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx

from dashboards.routes.events import SESSIONS_MAXIMUM
from tests.nodes.dashboards_world import ACCESS_B, Site
from tests.nodes.test_dashboards_api import API, assert_problem, epoch, events
from tests.nodes.test_dashboards_socket import opened, received, refusal


def _forget(running: Site, session: str) -> None:
    """It ends, and the gateway keeps nothing of it."""
    running.world.detach(session)
    del running.world.sessions[session]


def until(stream: Iterator[tuple[str, str, Any]], wanted: str) -> tuple[str, Any, list[tuple[str, Any]]]:
    """The id and the data of the next event of a name, and the events before it."""
    before: list[tuple[str, Any]] = []
    for identifier, name, data in stream:
        if name == wanted:
            return identifier, data, before
        before.append((name, data))
    raise AssertionError(f"the stream ended without {wanted}")


def counted(stream: Iterator[tuple[str, str, Any]], name: str) -> list[str]:
    """Read ``changes`` until one tells of such an event; the names of all other events on the way."""
    others: list[str] = []
    for _, event, data in stream:
        if event != "changes":
            others.append(event)
        elif name in data["events"]:
            return others
    raise AssertionError(f"the stream ended without changes by {name}")


def test_some_sessions_in_full_and_of_the_others_that_there_are_changes(running: Site, client: httpx.Client) -> None:
    running.do(running.world.attach, 1)
    running.do(running.world.attach, 2)
    stream = events(client, events="session,changes", session=["s000002", "nobody's"])
    assert next(stream)[1] == "hello"
    running.do(running.world.move, "s000001", ACCESS_B)
    others = counted(stream, "moved")
    assert set(others) <= {"session"}  # of the second one's attach, at most
    running.do(running.world.move, "s000002", ACCESS_B)
    while True:
        _, session, before = until(stream, "session")
        assert session["id"] == "s000002"
        assert all(name == "changes" and data["gateway"] == "epdg" and data["sessions"] for name, data in before)
        if session["ike"]["path"]["remote"] == ACCESS_B:
            break


def test_changes_are_told_to_who_asks_for_them(running: Site, client: httpx.Client) -> None:
    last = f"{epoch(client)}-0"
    running.do(running.world.attach, 1)
    counted(events(client, last, events="changes"), "attached")
    told = [name for name, _ in until(events(client, last), "session")[2]]
    assert "record" in told
    assert "changes" not in told


def test_nobody_asks_the_gateway_for_sessions_that_nobody_wants(running: Site, client: httpx.Client) -> None:
    running.do(running.world.attach, 1)
    running.do(running.world.attach, 2)
    counted(events(client, f"{epoch(client)}-0", events="changes,record"), "attached")
    assert running.world.asked == []
    until(events(client, f"{epoch(client)}-0", events="session", session=["s000002"]), "session")
    assert set(running.world.asked) == {"s000002"}


def test_who_comes_back_finds_what_changed_meanwhile_as_it_is_now(running: Site, client: httpx.Client) -> None:
    running.do(running.world.attach, 1)
    running.do(running.world.attach, 2)
    stream = events(client, f"{epoch(client)}-0", events="session", session=["s000001"])
    last, _, _ = until(stream, "session")
    stream.close()
    running.do(running.world.move, "s000002", ACCESS_B)
    running.do(_forget, running, "s000001")
    resumed = events(client, last, events="session,session-gone", session=["s000001", "s000002"])
    gone, moved = False, False
    for _, name, data in resumed:
        gone |= (name, data.get("id")) == ("session-gone", "s000001")
        moved |= name == "session" and data["id"] == "s000002" and data["ike"]["path"]["remote"] == ACCESS_B
        if gone and moved:
            break
    assert gone
    assert moved


def test_readers_share_what_was_asked_for(running: Site, client: httpx.Client) -> None:
    running.do(running.world.attach, 1)
    last = f"{epoch(client)}-0"

    def seen() -> list[str]:
        """The ids of what is told of the session, to the last."""
        told: list[str] = []
        attached = False
        for identifier, name, data in events(client, last, events="changes,session"):
            attached |= name == "changes" and "attached" in data["events"]
            if name == "session":
                told.append(identifier)
                if attached:
                    break
        return told

    first = seen()
    assert seen() == first
    assert running.world.asked == ["s000001"] * len(first)


def test_too_many_sessions_are_refused(running: Site, client: httpx.Client) -> None:
    names = [f"{number:x}" for number in range(SESSIONS_MAXIMUM + 1)]
    query = "?" + "&".join(f"session={name}" for name in names)
    assert_problem(client.get(f"{API}/events{query}"), 422)
    assert_problem(refusal(running, query), 422)
    with opened(running, query.rpartition("&")[0]) as socket:
        assert received(socket)["event"] == "hello"
