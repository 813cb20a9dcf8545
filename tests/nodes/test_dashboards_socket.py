"""The dashboard's events over a WebSocket, against a running server and live nodes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websocket
from starlette.websockets import WebSocket

from dashboards.stream import TRY_AGAIN_LATER, EventHub, follow_socket
from tests.nodes.dashboards_world import TOKEN, Site, site
from tests.nodes.test_dashboards_api import API, assert_problem


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as started:
        yield started


@contextlib.contextmanager
def opened(running: Site, query: str = "", **options: Any) -> Iterator[websocket.WebSocket]:
    """An open socket of the feed."""
    url = f"{running.url.replace('http', 'ws', 1)}{API}/events/ws{query}"
    socket = websocket.WebSocket()
    try:
        socket.connect(url, timeout=10, suppress_origin="origin" not in options, **options)
        yield socket
    finally:
        socket.shutdown()


def received(socket: websocket.WebSocket) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(socket.recv())
    return message


def test_events_are_filtered_and_resumed(running: Site) -> None:
    with opened(running, "?events=record&session=s000002") as socket:
        hello = received(socket)
        assert hello["event"] == "hello"
        assert hello["id"].startswith(hello["data"]["epoch"])
        running.do(running.world.attach, 1)
        running.do(running.world.attach, 2)
        first = received(socket)
        assert (first["event"], first["data"]["session"]) == ("record", "s000002")
    with opened(running, f"?events=record&session=s000002&after={first['id']}") as socket:
        assert received(socket)["event"] == "hello"
        second = received(socket)
        assert second["data"]["session"] == "s000002"
        assert int(second["id"].partition("-")[2]) > int(first["id"].partition("-")[2])
        assert second["data"]["sequence"] == first["data"]["sequence"] + 1
    with opened(running, "?after=00000000-5") as socket:
        assert received(socket)["event"] == "reset"


def close_code(socket: websocket.WebSocket) -> int:
    """Why the server closes the socket."""
    while (frame := socket.recv_data(control_frame=True))[0] != websocket.ABNF.OPCODE_CLOSE:
        pass
    return int.from_bytes(frame[1][:2])


def refusal(running: Site, query: str = "", **options: Any) -> httpx.Response:
    """The answer to a handshake that is refused, as HTTP."""
    with pytest.raises(websocket.WebSocketBadStatusException) as refused, opened(running, query, **options):
        pass
    request = httpx.Request("GET", f"{running.url}{API}/events/ws")
    found = refused.value
    return httpx.Response(
        found.status_code, headers=found.resp_headers, content=found.resp_body or b"", request=request
    )


def test_refusals_are_problems_before_the_handshake(tmp_path: Path) -> None:
    extra = "require_sign_in: true\nevent_readers: 1"
    with site(tmp_path, extra) as running:
        own = {"header": {"Authorization": f"Bearer {TOKEN}"}}
        assert_problem(refusal(running), 401)
        assert_problem(refusal(running, "?events=keys", **own), 422)
        assert_problem(refusal(running, origin="https://evil.example", **own), 403)
        assert refusal(running, host="evil.example", **own).status_code == 403
        with opened(running, origin=running.url, **own) as socket:
            assert received(socket)["event"] == "hello"
            assert_problem(refusal(running, **own), 503)


def test_what_a_reader_says_is_passed_over_and_bounded(running: Site) -> None:
    with opened(running) as socket:
        assert received(socket)["event"] == "hello"
        for _ in range(10):
            socket.send("what?")
        running.do(running.world.attach, 1)
        assert received(socket)["event"] in ("record", "node")
        socket.send("x" * 5000)
        assert close_code(socket) == 1009


def test_a_stalled_reader_is_told_and_let_go() -> None:
    async def run() -> tuple[int, list[dict[str, Any]]]:
        hub = EventHub(ring=16)
        never = asyncio.Event()
        sent: list[dict[str, Any]] = []

        async def receive() -> Any:
            await never.wait()

        async def stalled(message: Any) -> None:
            sent.append(message)
            if message["type"] == "websocket.send":
                await never.wait()

        socket = WebSocket(
            {"type": "websocket", "path": "/", "headers": [], "extensions": {}}, _connected(receive), stalled
        )
        await socket.accept()
        await follow_socket(
            hub, socket, last_event_id=None, wanted=lambda _: True, heartbeat_interval=60, send_timeout=0.01
        )
        return hub.readers, sent

    readers, sent = asyncio.run(run())
    assert readers == 0
    assert sent[-1]["type"] == "websocket.close"
    assert sent[-1]["code"] == TRY_AGAIN_LATER
    assert "too slow" in sent[-1]["reason"]


def _connected(receive: Any) -> Any:
    """The handshake first."""
    opening = iter([{"type": "websocket.connect"}])

    async def first() -> Any:
        return next(opening, None) or await receive()

    return first


def test_the_end_of_the_server_closes_the_socket(tmp_path: Path) -> None:
    with contextlib.ExitStack() as server:
        running = server.enter_context(site(tmp_path))
        with opened(running) as socket:
            assert received(socket)["event"] == "hello"
            server.close()
            assert close_code(socket) in (1001, 1012)  # ours, or uvicorn's when it is quicker
