"""Parts of the dashboard by themselves: configuration, command line, event ring, trace index, redaction."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from dashboards.__main__ import application, listen, sign_in_link
from dashboards.app import create_app
from dashboards.config import DashboardsConfig
from dashboards.ladder import build
from dashboards.redaction import REDACTED, redacted
from dashboards.ring import Source, Trace, select
from dashboards.security import COOKIE_LIFETIME, Principal, Security
from dashboards.stream import BATCH, EventHub, EventStream
from dashboards.tokens import Role
from protocols.errors import BackendError, ConfigurationError
from protocols.io.configuration import load, parse
from protocols.trace.records import Kind, TraceRecord

NODES = "nodes: [{name: epdg, kind: epdg, control: run/epdg.sock}]\n"
TOKEN = "correct-horse-battery-staple"


def configuration(extra: str = "") -> DashboardsConfig:
    """A configuration with one gateway."""
    return parse(extra + "\n" + NODES, DashboardsConfig)


# --- configuration and command line -----------------------------------------------------------------


def test_example_configuration_is_valid() -> None:
    example = Path(__file__).parents[2] / "dashboards" / "example.yaml"
    config = load(example, DashboardsConfig)
    assert str(config.listen) == "127.0.0.1:8080"
    assert [node.kind for node in config.nodes] == ["epdg", "aaa", "ue"]
    assert config.open_to_read
    assert config.token is None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("listen: somewhere\n" + NODES, "listen"),
        ("nodes: []", "nodes"),
        ("nodes: [{name: a, kind: mme, control: x}]", "nodes.0.kind"),
        ("nodes: [{name: a b, kind: ue, control: x}]", "nodes.0.name"),
        ("nodes: [{name: a, kind: ue, control: x}, {name: a, kind: aaa, control: y}]", "nodes"),
        ("token: short\n" + NODES, "token"),
        ("event_ring: 1\n" + NODES, "event_ring"),
        ("colour: green\n" + NODES, "colour"),
        ("cors_origins: ['*']\n" + NODES, "cors_origins"),
        ("cors_origins: [https://a.example/path]\n" + NODES, "cors_origins"),
        ("tls: {certificate: a.pem}\n" + NODES, "tls.key"),
        ("audit_octets: 1\n" + NODES, "audit_octets"),
    ],
)
def test_mistakes_are_named(text: str, key: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse(text, DashboardsConfig)
    assert refused.value.key == key
    assert "short" not in str(refused.value)


def test_print_link(tmp_path: Path) -> None:
    path = tmp_path / "dashboards.yaml"
    path.write_text(f"token: {TOKEN}&more\nlisten: '[::1]:8081'\n{NODES}")
    answer = CliRunner().invoke(application, ["serve", "-c", str(path), "--print-link"])
    assert answer.exit_code == 0
    assert answer.stdout.strip() == f"http://[::1]:8081/sign-in?token={TOKEN}%26more"
    path.write_text(NODES)
    answer = CliRunner().invoke(application, ["serve", "-c", str(path), "--print-link"])
    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert "token: got nothing, expected a token" in answer.stderr


def test_sign_in_link_of_every_address_names_loopback() -> None:
    assert sign_in_link(configuration("listen: 0.0.0.0:80"), "t").startswith("http://127.0.0.1:80/")
    assert sign_in_link(configuration("listen: '[::]:80'"), "t").startswith("http://[::1]:80/")


def test_small_answers_do_not_wait_for_acknowledgements() -> None:
    """Asyncio switches Nagle's algorithm off (RFC 9293 §3.7.4) on sockets that say that they are TCP."""

    async def run() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listen(configuration("listen: 127.0.0.1:0")) as listening:
            async with await asyncio.start_server(connected, sock=listening):
                _, writer = await asyncio.open_connection(*listening.getsockname())
                no_delay = await accepted
                writer.close()
                await writer.wait_closed()
        return no_delay

    assert asyncio.run(run()) == 1


def test_taken_address_is_one_plain_error() -> None:
    with listen(configuration("listen: 127.0.0.1:0")) as held:
        port = held.getsockname()[1]
        with pytest.raises(BackendError, match=f"cannot listen on 127.0.0.1:{port}"):
            listen(configuration(f"listen: 127.0.0.1:{port}"))


# --- beyond loopback --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"Authorization": "Bearer no"}, 401), ({"Authorization": f"Bearer {TOKEN}"}, 200)],
)
@pytest.mark.parametrize("path", ["/api/v1/nodes", "/api/v1/me", "/metrics"])
def test_beyond_loopback_reading_needs_the_token(headers: Mapping[str, str], status: int, path: str) -> None:
    app = create_app(configuration("listen: 192.0.2.1:8080"), TOKEN)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://192.0.2.1:8080") as client:
            return await client.get(path, headers=headers)

    answer = asyncio.run(ask())
    assert answer.status_code == (200 if path.endswith("/me") else status)
    if path.endswith("/me"):
        known = status == 200
        name, role = ("operator", "operator") if known else (None, None)
        assert answer.json() == {"signed_in": known, "open_to_read": False, "name": name, "role": role}


def test_cookies_end_after_their_lifetime() -> None:
    from starlette.requests import Request
    from starlette.responses import Response

    now = 1000.0
    security = Security(configuration(), TOKEN, monotonic=lambda: now)
    response = Response()
    security.sign_in(response, TOKEN)
    cookie = response.headers["set-cookie"].partition(";")[0]
    request = Request({"type": "http", "headers": [(b"cookie", cookie.encode())]})
    assert security.principal(request) == Principal("operator", Role.OPERATOR)
    now += COOKIE_LIFETIME
    assert security.principal(request) is None


# --- event stream -----------------------------------------------------------------------------------


def test_stalled_reader_is_let_go_and_holds_nobody_up() -> None:
    async def run() -> tuple[int, list[str]]:
        hub = EventHub(ring=16)
        never = asyncio.Event()
        got: list[str] = []
        all_there = asyncio.Event()

        async def stalled(message: Any) -> None:
            await never.wait()

        async def reading(message: Any) -> None:
            got.append(message.get("body", b"").decode())
            if '"n":9}' in got[-1]:
                all_there.set()

        async def receive() -> Any:
            await never.wait()

        def stream(send_timeout: float) -> EventStream:
            return EventStream(
                hub,
                last_event_id=None,
                wanted=lambda _: True,
                heartbeat_interval=60,
                send_timeout=send_timeout,
            )

        slow = asyncio.create_task(stream(0.01)({"type": "http"}, receive, stalled))
        quick = asyncio.create_task(stream(60)({"type": "http"}, receive, reading))
        while "hello" not in "".join(got):
            await asyncio.wait({slow, quick}, timeout=0.001)
        for number in range(10):
            hub.publish("record", {"n": number})
        await all_there.wait()
        await slow  # ended by itself
        left = hub.readers
        hub.close()
        await quick
        return left, got

    left, got = asyncio.run(run())
    assert left == 1
    assert "".join(got).count("event: record") == 10


def test_hub_keeps_no_more_than_its_ring() -> None:
    async def run() -> None:
        hub = EventHub(ring=32)
        for number in range(1000):
            hub.publish("record", number)
        assert hub.after(0) == ([], False)
        events, whole = hub.after(1000 - 32)
        assert whole
        assert [event.data for event in events] == [str(number) for number in range(968, 1000)]
        assert hub.resume(f"{hub.epoch}-968") == (968, True)
        assert hub.resume(f"{hub.epoch}-967") == (1000, False)
        assert hub.resume(None) == (1000, True)

    asyncio.run(run())


def test_reader_gets_everything_in_batches() -> None:
    async def run() -> None:
        hub = EventHub(ring=1000)
        for number in range(BATCH + 10):
            hub.publish("record", number)
        first, _ = hub.after(0)
        second, _ = hub.after(first[-1].sequence)
        assert len(first) == BATCH
        assert [event.sequence for event in first + second] == list(range(1, BATCH + 11))

    asyncio.run(run())


# --- trace index and ladder -------------------------------------------------------------------------

SPI_I, SPI_R = "a1b2c3d4e5f60718", "18f7e6d5c4b3a291"


def record(
    sequence: int, session: str | None, kind: Kind = Kind.MESSAGE, *, node: str = "ue", **body: Any
) -> TraceRecord:
    """A record of a node at ``sequence`` seconds."""
    return TraceRecord(
        sequence=sequence,
        monotonic=float(sequence),
        wall=float(sequence),
        node=node,
        kind=kind,
        session=session,
        body=body,
    )


def test_trace_forgets_the_oldest_and_what_only_it_told() -> None:
    trace = Trace("epdg", ring=3)
    trace.append(record(1, "one", detail={"spi_i": SPI_I}))
    trace.append(record(2, None, detail={"spi_i": SPI_R}))  # of no session: not kept
    trace.append(record(3, "two"))
    trace.append(record(4, "two"))
    assert trace.names.having([SPI_I]) == {"one"}
    assert trace.names.having([SPI_R]) == set()
    trace.append(record(5, "two"))
    assert trace.names.having([SPI_I]) == set()
    assert list(trace.records("one")) == []
    assert [each.sequence for each in trace.records("two")] == [3, 4, 5]


def test_imsi_identifies_a_session_only_while_it_lives() -> None:
    trace = Trace("ue", ring=100)
    imsi = "001010000000001"
    for second in (10, 99, 100, 150, 200, 300):
        trace.append(record(second, imsi, Kind.EVENT, name="attached", text=f"at {second}"))
    session: dict[str, Any] = {
        "imsi": imsi,
        "state": "closed",
        "created": 100.0,
        "paths": [{"until": 200.0}],
        "ike": {"spi_i": SPI_I, "spi_r": "0" * 16},
    }
    entries, names, _ = build(select([Source("ue", "ue", trace)], "s1", session), now=1000.0)
    assert [entry.text for entry in entries] == ["at 99", "at 100", "at 150", "at 200"]
    assert names == [("ue", imsi)]


def test_eap_goes_from_end_to_end_and_is_never_called_lost() -> None:
    packet = {"protocol": "eap", "name": "EAP-Success", "summary": "EAP-Success", "detail": {"identifier": 1}}
    ue, gateway, aaa = (Trace(node, ring=10) for node in ("ue", "epdg", "aaa"))
    gateway.append(record(1, "s1", Kind.EVENT, node="epdg", name="attach-requested"))
    ue.append(record(1, "s1", Kind.EVENT, node="ue", name="attaching"))
    aaa.append(record(2, "s1", node="aaa", direction="in", interface="SWm", **packet))
    aaa.append(record(3, "s1", node="aaa", direction="out", interface="SWm", **packet))
    sources = [Source("ue", "ue", ue), Source("epdg", "epdg", gateway), Source("aaa", "aaa", aaa)]
    *_, came, went = build(select(sources, "s1", None), now=1000.0)[0]
    assert (came.source, came.target, came.arrived) == ("UE", "AAA", True)
    assert (went.source, went.target, went.arrived) == ("AAA", "UE", None)
    ue.append(record(3, "s1", node="ue", direction="in", interface="SWu", **packet))
    went = build(select(sources, "s1", None), now=1000.0)[0][-1]
    assert (went.arrived, went.seen_by) == (True, ["aaa", "ue"])


def test_event_of_two_nodes_stands_where_the_gateway_told_it() -> None:
    ue, gateway = Trace("ue", ring=10), Trace("epdg", ring=10)
    ue.append(record(1, "s1", Kind.EVENT, node="ue", name="moved", text="I moved."))
    gateway.append(record(2, "s1", node="epdg", direction="in", interface="SWu", name="INFORMATIONAL response 0"))
    gateway.append(record(3, "s1", Kind.EVENT, node="epdg", name="moved", text="The UE moved."))
    ue.append(record(4, "s1", Kind.EVENT, node="ue", name="detached", text="I left."))
    sources = [Source("ue", "ue", ue), Source("epdg", "epdg", gateway)]
    entries, _, _ = build(select(sources, "s1", None), now=1000.0)
    assert [(entry.text, entry.seen_by) for entry in entries] == [
        ("INFORMATIONAL response 0", ["epdg"]),
        ("The UE moved.", ["epdg", "ue"]),
        ("I left.", ["ue"]),
    ]


def test_message_without_an_interface_stays_at_its_node() -> None:
    trace = Trace("aaa", ring=10)
    trace.append(record(1, "s1", node="aaa", direction="out", protocol="other", name="Hello"))
    ((entry,), _, _) = build(select([Source("aaa", "aaa", trace)], "s1", None), now=1000.0)
    assert (entry.source, entry.target, entry.arrived) == ("AAA", None, None)


# --- redaction --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {"SK_ei": "s"},
        {"detail": {"keys": [{"MSK": "s"}]}},
        {"avps": [{"name": "EAP-Master-Session-Key", "value": "s"}]},
        {"CK": "s", "IK": ["s"]},
        {"K": {"value": "s"}},
        {"opc": "s"},
    ],
)
def test_secrets_are_blanked(value: Any) -> None:
    shown = redacted(value)
    assert "'s'" not in str(shown)
    assert REDACTED in str(shown)


def test_what_is_no_secret_stays() -> None:
    value: Any = {"KEi": "group 31", "Nonce": "00", "name": "DEA", "value": 5, "SPIs": ["c0ffee00"]}
    assert redacted(value) == value


# --- the process ------------------------------------------------------------------------------------


def test_process_prints_a_link_that_works_and_stops_with_a_stream_open(tmp_path: Path) -> None:
    path = tmp_path / "dashboards.yaml"
    path.write_text(f"listen: 127.0.0.1:0\n{NODES}")
    command = [sys.executable, "-m", "dashboards", "serve", "-c", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        link = process.stdout.readline().removeprefix("Sign in at ").strip()
        with httpx.Client(base_url=link.partition("/sign-in")[0], timeout=10) as client:
            assert client.get(link).status_code == 303
            assert client.get("/api/v1/me").json()["signed_in"] is True
            with client.stream("GET", "/api/v1/events") as stream:
                lines = stream.iter_lines()
                assert next(lines).startswith("retry:")
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGINT)  # an impatient Ctrl-C breaks nothing
                assert any("hello" in line for line in lines)  # the stream ends properly
        _, errors = process.communicate(timeout=10)
    token = link.partition("token=")[2]
    assert token not in errors
    assert "Traceback" not in errors
    assert process.returncode == 0
