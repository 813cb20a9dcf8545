"""The laboratory's parts: configurations, ping's score, what is expected of figures, narration, ports, processes."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from rich.console import Console

from aaa.config import AaaConfiguration
from aaa.subscribers import SubscriberDatabase
from dashboards.config import DashboardsConfig
from epdg.config import EpdgConfiguration
from lab.configurations import SUBSCRIBERS, RunFiles, prepare
from lab.narration import HOLD_INTERVAL, Narrator
from lab.processes import NodeProcess, poll_until
from lab.results import OUTAGE_MAXIMUM_MS, SCHEMA, AttachFigures, DemoResult, MoveFigures
from lab.serving.config import LaboratoryConfiguration
from lab.stages import LoopbackStage, NamespaceStage, Stage, check_free
from lab.traces import Traces, event
from lab.traffic import FlowFigures, parse_ping, ping_figures
from protocols.errors import BackendError
from protocols.io.configuration import load
from protocols.path import Endpoint
from protocols.trace.records import JsonValue, Kind, TraceRecord
from ue.config import UeConfiguration


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await scenario()

    asyncio.run(whole())


# --- Configurations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [LoopbackStage(), NamespaceStage()], ids=lambda stage: stage.name)
@pytest.mark.parametrize("export_keys", [False, True])
def test_every_node_accepts_what_it_is_told(tmp_path: Path, stage: Stage, export_keys: bool) -> None:
    files = RunFiles(directory=tmp_path)
    dashboard = Endpoint.of("127.0.0.1", 8080)
    own = prepare(files, stage.plan, export_keys=export_keys, dashboard=dashboard, laboratory=True)
    ue = load(files.configuration("ue"), UeConfiguration)
    epdg = load(files.configuration("epdg"), EpdgConfiguration)
    aaa = load(files.configuration("aaa"), AaaConfiguration)
    dashboards = load(files.configuration("dashboards"), DashboardsConfig)
    assert [node.trace.export_keys for node in (ue, epdg, aaa)] == [export_keys] * 3
    assert ue.imsi == str(own.imsi) == "001010000000001"
    assert (ue.gateway.address, ue.gateway.ike_port) == (epdg.listen.addresses[0], epdg.listen.ike_port)
    assert {step.to for step in stage.steps} <= set(ue.accesses)
    lab = load(files.configuration("lab"), LaboratoryConfiguration)
    assert [node.control for node in dashboards.nodes] == [epdg.control, aaa.control, ue.control, lab.control]
    assert dashboards.results == lab.results
    assert files.configuration("ue").stat().st_mode & 0o077 == 0
    with SubscriberDatabase(aaa.database) as database:
        assert database.count() == SUBSCRIBERS
        assert database.get(own.imsi) == own


# --- ping -------------------------------------------------------------------------------------------

PING = """PING 10.77.3.2 (10.77.3.2) 56(84) bytes of data.
[100.010000] 64 bytes from 10.77.3.2: icmp_seq=1 ttl=62 time=10.0 ms
[100.030000] 64 bytes from 10.77.3.2: icmp_seq=2 ttl=62 time=10.0 ms
[100.031000] 64 bytes from 10.77.3.2: icmp_seq=2 ttl=62 time=11.0 ms (DUP!)
[100.110000] 64 bytes from 10.77.3.2: icmp_seq=6 ttl=62 time=10.0 ms
ping: sendmsg: Network is unreachable
[100.150000] 64 bytes from 10.77.3.2: icmp_seq=7 ttl=62 time=30.0 ms
"""
SUMMARY = "\n--- 10.77.3.2 ping statistics ---\n9 packets transmitted, 4 received, +1 duplicates, 55% packet loss\n"


def test_ping_score_of_a_whole_run() -> None:
    replies, transmitted = parse_ping(PING + SUMMARY)
    assert [reply.number for reply in replies] == [1, 2, 6, 7]
    assert transmitted == 9
    figures = ping_figures(replies, transmitted, 0.02, None, None)
    assert (figures.sent, figures.received, figures.lost) == (9, 4, 5)
    assert figures.longest_gap_ms == pytest.approx(80.0)
    assert figures.rtt_average_ms == pytest.approx(15.0)


@pytest.mark.parametrize(
    ("since", "until", "sent", "lost", "gap"),
    [
        (100.015, 100.115, 5, 3, 80.0),  # requests 2 to 6
        (100.005, 100.055, 2, 1, 25.0),  # 2 and 3; from the answer to 2 until the end
        (99.0, 100.005, 1, 0, 1005.0),
        (100.105, 100.2, 3, 2, 50.0),  # 7 to 9, of which only the summary tells
    ],
)
def test_ping_score_of_a_window(since: float, until: float, sent: int, lost: int, gap: float) -> None:
    figures = ping_figures(*parse_ping(PING + SUMMARY), 0.02, since, until)
    assert (figures.sent, figures.lost) == (sent, lost)
    assert figures.longest_gap_ms == pytest.approx(gap)


def test_ping_that_was_never_answered() -> None:
    replies, transmitted = parse_ping("PING 10.77.3.2 (10.77.3.2) 56(84) bytes of data.\n")
    figures = ping_figures(replies, transmitted, 0.02, 10.0, 11.0)
    assert (figures.sent, figures.received) == (0, 0)
    assert figures.longest_gap_ms == pytest.approx(1000.0)


# --- Figures ----------------------------------------------------------------------------------------

FLOW = FlowFigures(kind="icmp", sent=50, received=49, lost=1, longest_gap_ms=40.0, rtt_average_ms=0.5)
MOVE = MoveFigures(
    title="To Wi-Fi B",
    origin="wifi-a",
    target="wifi-b",
    adoption_expected=True,
    nat_expected=False,
    adopted=True,
    why=None,
    seen_at="127.0.3.1:14500",
    update_ms=2.0,
    ike_requests=1,
    ike_retransmissions=0,
    inner_addresses_unchanged=True,
    ike_spis_unchanged=True,
    esp_spis_unchanged=True,
    nat_detected=False,
    address_checked=True,
    redirected=0,
    flows=(FLOW,),
)
VAIN = replace(
    MOVE,
    target="wifi-deaf",
    adoption_expected=False,
    adopted=False,
    why="not answered",
    update_ms=None,
    address_checked=False,
    flows=(replace(FLOW, received=50, lost=0),),
)
ATTACH = AttachFigures(
    access="wifi-a",
    seconds=0.04,
    ike_requests=4,
    ike_retransmissions=0,
    swm_requests=2,
    ike_suite="aes128-sha256-x25519",
    esp_suite="aes128gcm16",
    inner_addresses=("10.45.0.2",),
    dns=("10.45.0.1",),
)


def result(*moves: MoveFigures) -> DemoResult:
    return DemoResult(
        stage="loopback",
        started=0.0,
        packets_per_second=50.0,
        destination="10.99.0.1",
        attach=ATTACH,
        moves=list(moves),
        moves_expected=2,
        detached=True,
    )


@pytest.mark.parametrize(
    ("move", "complaint"),
    [
        (replace(MOVE, inner_addresses_unchanged=False), "inner address changed"),
        (replace(MOVE, ike_spis_unchanged=False), "SPIs changed"),
        (replace(MOVE, esp_spis_unchanged=False), "SPIs changed"),
        (replace(MOVE, adopted=False, why="refused"), "did not adopt"),
        (replace(MOVE, address_checked=False), "not checked"),
        (replace(MOVE, nat_detected=True), "NAT was found"),
        (replace(MOVE, nat_expected=True), "NAT was not found"),
        (replace(MOVE, flows=(FLOW, replace(FLOW, longest_gap_ms=OUTAGE_MAXIMUM_MS))), "outage of 1000 ms"),
        (replace(MOVE, flows=(FLOW, replace(FLOW, received=0))), "no answer at all"),
        (replace(VAIN, adopted=True), "adopted an address that was never checked"),
        (replace(VAIN, address_checked=True), "counted as answered"),
        (replace(VAIN, redirected=3), "3 ESP packets"),
        (replace(VAIN, flows=(FLOW,)), "1 packets were lost"),
        (replace(VAIN, flows=(replace(FLOW, lost=0, longest_gap_ms=OUTAGE_MAXIMUM_MS),)), "stays where it is"),
    ],
)
def test_what_does_not_hold_is_said(move: MoveFigures, complaint: str) -> None:
    assert not [*MOVE.failures(), *VAIN.failures()]
    failures = result(MOVE, move).failures()
    assert len(failures) == 1
    assert complaint in failures[0]
    assert result(MOVE, move).to_json()["ok"] is False


def test_a_story_that_broke_off_is_no_success() -> None:
    assert result(MOVE, VAIN).failures() == []
    assert result(MOVE).failures() == ["1 of 2 moves were made"]
    broken = replace(result(MOVE, VAIN), error="epdg ended with status -9", detached=False)
    assert broken.failures()[0] == "epdg ended with status -9"
    assert len(broken.failures()) == 2
    assert replace(result(MOVE, VAIN), attach=None).failures() == ["the UE did not attach"]


def test_the_result_file(tmp_path: Path) -> None:
    result(MOVE, VAIN).write(tmp_path)
    found = json.loads((tmp_path / "result.json").read_text())
    assert (tmp_path / "result.json").stat().st_mode & 0o077 == 0
    assert (found["schema"], found["ok"], found["failures"]) == (SCHEMA, True, [])
    assert found["attach"]["inner_addresses"] == ["10.45.0.2"]
    assert [move["packets_lost"] for move in found["moves"]] == [1, 0]
    with pytest.raises(BackendError, match="No such file"):
        result().write(tmp_path / "nowhere")


def test_the_table_marks_what_failed() -> None:
    text = io.StringIO()
    console = Console(file=text, width=160)
    console.print(result(MOVE, VAIN, replace(MOVE, esp_spis_unchanged=False)).table(str.upper))
    lines = text.getvalue().splitlines()
    assert any("WIFI-A → WIFI-B" in line and "1 of 50" in line and "40 ms" in line for line in lines)
    assert any("WIFI-DEAF" in line and "no answer" in line and "0 packets" in line for line in lines)
    assert sum(" NO " in line for line in lines) == 1


def test_a_narrow_terminal_gets_the_figures_in_sentences() -> None:
    text = io.StringIO()
    console = Console(file=text, width=80)
    failed = replace(MOVE, esp_spis_unchanged=False)
    console.print(result(MOVE, VAIN, failed).listing({"wifi-a": "Wi-Fi A", "wifi-b": "Wi-Fi B"}.get))
    assert "…" not in text.getvalue()
    words = " ".join(text.getvalue().split())
    assert "outage 40 ms, lost 1 of 50 inner IP kept, SPIs kept, no NAT COOKIE2 answered, traffic follows" in words
    assert "COOKIE2 not answered, 0 packets redirected" in words
    assert words.count("NOT KEPT") == 1


# --- Traces and narration ---------------------------------------------------------------------------


def record(node: str, wall: float, kind: Kind, **body: JsonValue) -> TraceRecord:
    return TraceRecord(sequence=1, monotonic=wall, wall=wall, node=node, kind=kind, body=body)


def ike(wall: float, name: str, direction: str, peer: str) -> TraceRecord:
    words: dict[str, JsonValue] = {"protocol": "ikev2", "name": name, "summary": f"{name} [ … ]"}
    return record("epdg", wall, Kind.MESSAGE, direction=direction, peer=peer, **words)


def told(*records: TraceRecord) -> list[str]:
    text = io.StringIO()
    console = Console(file=text, width=160, highlight=False, markup=False)

    async def scenario() -> None:
        narrator = Narrator(console, wall=lambda: 10.0, places={"127.0.2.1": "Wi-Fi A"})
        for each in records:
            narrator.take(each)
        narrator.flush()

    run(scenario)
    return [" ".join(line.split()) for line in text.getvalue().splitlines()]


def test_the_steps_of_several_nodes_in_order_of_time() -> None:
    data: dict[str, JsonValue] = {"Result-Code": "DIAMETER_SUCCESS (2001)"}
    assert told(
        ike(1.0, "IKE_SA_INIT request 0", "in", "127.0.2.1:15000"),
        ike(1.4, "IKE_SA_INIT response 0", "out", "127.0.2.1:15000"),
        ike(1.5, "INFORMATIONAL request 1", "in", "127.0.6.1:4444"),
        record("ue", 1.2, Kind.EVENT, name="attached", text="Attached [to] internet."),
        record(
            "epdg",
            1.3,
            Kind.MESSAGE,
            protocol="diameter",
            name="DEA",
            direction="in",
            summary="DEA [ Session-Id ]",
            detail=data,
        ),
    ) == [
        "+0.000 UE (Wi-Fi A, 127.0.2.1:15000) → ePDG IKE_SA_INIT request 0 [ … ]",
        "+0.200 UE: Attached [to] internet.",
        "+0.300 AAA → ePDG DEA DIAMETER_SUCCESS [ Session-Id ]",
        "+0.400 ePDG → UE (Wi-Fi A, 127.0.2.1:15000) IKE_SA_INIT response 0 [ … ]",
        "+0.500 UE (127.0.6.1:4444) → ePDG INFORMATIONAL request 1 [ … ]",
    ]


def test_what_the_ue_says_of_a_message_follows_the_message() -> None:
    # the gateway records a message a moment after it has left
    assert told(
        record("ue", 1.0, Kind.EVENT, name="moved", text="Moved from wifi-a to wifi-b."),
        ike(1.001, "INFORMATIONAL request 4", "in", "127.0.3.1:14500"),
    ) == [
        "+0.001 UE (127.0.3.1:14500) → ePDG INFORMATIONAL request 4 [ … ]",
        "+0.000 UE: Moved from wifi-a to wifi-b.",
    ]


def test_a_narrow_terminal_still_shows_what_a_message_carries() -> None:
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=True, color_system=None, highlight=False, markup=False)
    update: dict[str, JsonValue] = {
        "protocol": "ikev2",
        "direction": "in",
        "peer": "127.0.2.1:14500",
        "summary": "INFORMATIONAL request 4 [ N(UPDATE_SA_ADDRESSES), N(NAT_DETECTION_SOURCE_IP) ]",
        "retransmission": True,
    }

    async def scenario() -> None:
        narrator = Narrator(console, wall=lambda: 10.0, places={"127.0.2.1": "Wi-Fi A"})
        narrator.take(record("epdg", 1.0, Kind.MESSAGE, **update))
        narrator.flush()

    run(scenario)
    (line,) = text.getvalue().splitlines()
    assert len(line) <= 80
    assert "UE (Wi-Fi A) → ePDG" in line
    assert "(again) INFORMATIONAL request 4 [ N(UPDATE" in line


def test_what_two_nodes_saw_is_told_once_and_watchdogs_not_at_all() -> None:
    seen = ike(1.0, "IKE_AUTH request 1", "in", "127.0.2.1:14500")
    watchdog = record(
        "epdg", 1.2, Kind.MESSAGE, protocol="diameter", name="DWR", direction="in", summary="DWR [ Origin-Host ]"
    )
    state = record("epdg", 1.3, Kind.STATE, machine="ike-sa", old="initial", new="established", why="")
    assert len(told(seen, replace(seen, node="ue", wall=0.9), watchdog, state)) == 1


def test_a_narrator_prints_by_itself_after_a_while() -> None:
    text = io.StringIO()

    async def scenario() -> None:
        clock = asyncio.get_running_loop().time
        narrator = Narrator(Console(file=text, width=160), wall=clock, places={})
        narrator.heading("A chapter")

        async def printed() -> bool | None:
            return "A chapter" in text.getvalue() or None

        assert await poll_until(printed, what="the chapter", interval=20 * HOLD_INTERVAL)

    run(scenario)


def test_an_event_is_waited_for_and_found_again() -> None:
    async def scenario() -> None:
        taken: list[TraceRecord] = []
        traces = Traces([taken.append])
        matches = event("epdg", "moved", after=2.0)
        waiting = asyncio.ensure_future(traces.expect(matches, what="a move", interval=5.0))
        await asyncio.sleep(0)
        traces.take(record("epdg", 1.0, Kind.EVENT, name="moved", text="too early"))
        traces.take(record("ue", 3.0, Kind.EVENT, name="moved", text="somebody else's"))
        traces.take(record("epdg", 3.0, Kind.EVENT, name="moved", text="this"))
        assert (await waiting).body["text"] == "this"
        assert (await traces.expect(matches, what="a move", interval=0.0)).body["text"] == "this"
        assert len(taken) == 3
        with pytest.raises(BackendError, match=r"the end of the world: not within 0\.01 s"):
            await traces.expect(event("epdg", "doomsday", after=0.0), what="the end of the world", interval=0.01)

    run(scenario)


def test_esp_is_counted_by_where_the_gateway_sends_it() -> None:
    traces = Traces([])
    for direction, remote in (("out", "127.0.7.1:14500"), ("in", "127.0.7.1:14500"), ("out", "127.0.2.1:14500")):
        traces.take(record("epdg", 1.0, Kind.DATAGRAM, protocol="esp", direction=direction, remote=remote))
    assert traces.esp_sent_to == {"127.0.7.1": 1, "127.0.2.1": 1}


# --- Ports and processes ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_an_occupied_port_is_one_line(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_STREAM:
            holder.listen()
        endpoint = Endpoint(IPv4Address("127.0.0.1"), holder.getsockname()[1])
        with pytest.raises(BackendError, match=rf"{endpoint}, which the gateway needs, cannot be used") as caught:
            check_free(endpoint, kind, "the gateway")
    assert "\n" not in str(caught.value)
    check_free(endpoint, kind, "the gateway")


def process(tmp_path: Path, code: str) -> NodeProcess:
    return NodeProcess("node", [sys.executable, "-c", code], log=tmp_path / "node.log", control=tmp_path / "node.sock")


def test_a_node_that_ends_by_itself_leaves_its_last_words(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = process(tmp_path, "print('first', flush=True); raise SystemExit('the port is in use')")
        await node.start()
        with pytest.raises(BackendError, match="node ended with status 1: the port is in use"):
            await node.watch()
        with pytest.raises(BackendError, match="node ended with status 1"):
            await node.ready()

    run(scenario)


def test_a_node_is_ended_by_its_id_and_that_is_no_failure(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = process(tmp_path, "import signal; print('waiting', flush=True); signal.pause()")
        await node.start()
        assert await node.said("wait") == "ing"
        watch = asyncio.ensure_future(node.watch())
        await node.terminate()
        await watch
        await node.terminate()

    run(scenario)


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = NodeProcess("ping", ["/nonexistent/ping"], log=tmp_path / "ping.log")
        with pytest.raises(BackendError, match="ping cannot be started: /nonexistent/ping: No such file"):
            await node.start()
        await node.terminate()

    run(scenario)


def test_a_node_is_in_a_process_group_of_its_own(tmp_path: Path) -> None:
    """Ctrl-C at the terminal reaches the laboratory alone."""

    async def scenario() -> None:
        node = process(
            tmp_path, "import os, signal; print('group', os.getpgrp() == os.getpid(), flush=True); signal.pause()"
        )
        await node.start()
        try:
            assert await node.said("group ") == "True"
        finally:
            await node.interrupt()

    run(scenario)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
