"""``lab demo`` as a user runs it: a process with its nodes, its evidence before tshark, and nothing left behind.

As root every run has a network namespace of its own, so that nobody's ports are in its way.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab.namespaces import Namespace, terminate
from protocols.errors import BackendError
from protocols.io.evidence import read_trace
from protocols.trace.records import Kind
from tests.peers.namespaces import require_namespaces
from tests.peers.processes import require_program, wait_until
from tests.peers.tshark import Tshark

WARNING = 0x00600000  # severity "warning" of Wireshark's expert infos
STORY_INTERVAL = 90.0
STEP_INTERVAL = 40.0
A, B, NAT_OUTSIDE, DEAF, GATEWAY = "127.0.2.1", "127.0.3.1", "127.0.6.1", "127.0.7.1", "127.0.1.1"
UPDATE_SA_ADDRESSES, COOKIE2 = "16400", "16401"  # RFC 4555 §4


@contextlib.contextmanager
def place() -> Iterator[Namespace | None]:
    """A network namespace where that is allowed, else this one."""
    if os.geteuid() != 0:
        yield None
        return
    try:
        namespace = Namespace("demo")
    except BackendError:
        yield None
        return
    with namespace:
        yield namespace


@dataclass
class Run:
    """One ``lab demo`` with a temporary directory of its own, by which its processes are known."""

    directory: Path
    namespace: Namespace | None
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self, *words: str) -> None:
        command = [sys.executable, "-m", "lab", "demo", *words]
        environment = {"TMPDIR": str(self.directory)}
        with self._file("out").open("wb") as out, self._file("err").open("wb") as err:
            if self.namespace is not None:
                self.process = self.namespace.popen(command, stdout=out, stderr=err, environment=environment)
            else:
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env={**os.environ, **environment}
                )

    def finish(self, *words: str) -> int:
        """Run to the end; the exit status."""
        self.start(*words)
        return self.end(STORY_INTERVAL)

    def end(self, timeout: float = STEP_INTERVAL) -> int:
        """Wait for the end; the exit status."""
        try:
            return self.process.wait(timeout)
        finally:
            terminate(self.process)

    def until(self, text: str) -> str:
        """Wait until it has printed a line with ``text``; that line."""
        return wait_until(
            lambda: next((line for line in self.out.splitlines() if text in line), None),
            what=f"lab demo does not print {text!r}",
            timeout=STEP_INTERVAL,
            process=self.process,
            log=lambda: self.out + self.err,
        )

    def _file(self, stream: str) -> Path:
        return self.directory / f"demo.{stream}"

    @property
    def out(self) -> str:
        return self._file("out").read_text()

    @property
    def err(self) -> str:
        return self._file("err").read_text()

    def processes(self) -> dict[str, int]:
        """Node → process id of what still runs of it."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if any(str(self.directory) in word for word in words) and "-m" in words:
                    found[words[words.index("-m") + 1]] = int(entry.name)
        return found

    def assert_nothing_is_left(self) -> None:
        assert self.processes() == {}
        assert [path.name for path in self.directory.glob("epdg-lab-*")] == []


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Run]:
    with place() as namespace:
        yield Run(tmp_path, namespace)


@dataclass(frozen=True)
class Evidence:
    """What a run left."""

    status: int
    out: str
    err: str
    directory: Path
    result: dict[str, Any]
    run: Run

    @property
    def capture(self) -> Path:
        return self.directory / "capture.pcapng"

    @property
    def moves(self) -> list[dict[str, Any]]:
        moves: list[dict[str, Any]] = self.result["moves"]
        return moves


def evidence_of(run: Run, *words: str) -> Evidence:
    output = run.directory / "evidence"
    status = run.finish("--exit", "--output", str(output), *words)
    text = (output / "result.json").read_text() if (output / "result.json").exists() else "{}"
    assert status == 0, run.out + run.err
    return Evidence(status, run.out, run.err, output, json.loads(text), run)


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    """One run to its end with evidence, for all tests that look at it."""
    with place() as namespace:
        yield evidence_of(Run(tmp_path_factory.mktemp("demo"), namespace))


@pytest.fixture
def tshark(evidence: Evidence, tmp_path: Path) -> Tshark:
    return Tshark(tmp_path, evidence.directory / "wireshark-profile")


# --- What the user reads ----------------------------------------------------------------------------


def judge(result: dict[str, Any]) -> None:
    """What must hold of the figures wherever the demonstration plays."""
    assert result["ok"] is True
    assert result["failures"] == []
    assert result["detached"] is True
    assert 0 < result["attach"]["seconds"] < 5
    assert result["attach"]["ike_requests"] == 4  # IKE_SA_INIT, IKE_AUTH: identity, challenge, AUTH
    assert result["attach"]["swm_requests"] == 2
    for move in result["moves"]:
        assert move["inner_addresses_unchanged"]
        assert move["ike_spis_unchanged"]
        assert move["esp_spis_unchanged"]
        assert 0 < move["outage_ms"] < 1000
        assert move["packets_sent"] >= 20
        assert move["packets_lost"] < move["packets_sent"] / 4
        assert move["ike_requests"] == 1
        assert all(flow["sent"] == flow["received"] + flow["lost"] for flow in move["flows"])


def test_the_figures(evidence: Evidence) -> None:
    judge(evidence.result)
    result = evidence.result
    assert (result["schema"], result["stage"]) == (1, "loopback")
    assert result["attach"]["inner_addresses"] == ["10.45.0.2"]
    assert result["attach"]["dns"] == ["10.45.0.1"]
    assert [(move["from"], move["to"]) for move in evidence.moves] == [
        ("wifi-a", "wifi-b"),
        ("wifi-b", "wifi-nat"),
        ("wifi-nat", "wifi-a"),
        ("wifi-a", "wifi-deaf"),
        ("wifi-deaf", "wifi-a"),
    ]
    assert [move["nat_detected"] for move in evidence.moves] == [False, True, False, False, False]
    assert [move["address_checked"] for move in evidence.moves] == [True, True, True, False, True]
    assert [move["gateway_sends_to"].rpartition(":")[0] for move in evidence.moves] == [A_AFTER[i] for i in range(5)]
    assert {flow["kind"] for flow in result["traffic"]["flows"]} == {"icmp", "udp"}
    assert result["stage_report"]["nat_hop"]["mappings_made"] == 1
    assert result["stage_report"]["nat_hop"]["dropped"] == {}


A_AFTER = (B, NAT_OUTSIDE, A, A, A)  # where the gateway sends ESP after each move


def test_an_address_that_cannot_hear_gets_no_traffic(evidence: Evidence) -> None:
    vain = evidence.moves[3]
    assert vain["adopted"] is False
    assert "not answered" in vain["why"]
    assert vain["packets_redirected"] == 0
    assert vain["packets_lost"] == 0
    assert vain["packets_sent"] > 200  # all through the seconds that the gateway waited


def test_the_steps_are_told(evidence: Evidence) -> None:
    for expected in (
        r"UE \(Wi-Fi A, 127\.0\.2\.1:15000\) → ePDG +IKE_SA_INIT request 0 \[ SAi1, KEi, Ni,",
        r"ePDG → AAA +DER \[ Session-Id,",
        r"AAA → UE +EAP-Request/AKA-Challenge \[ AT_RAND, AT_AUTN,",
        r"AAA → ePDG +DEA DIAMETER_SUCCESS \[",
        r"UE: +Attached to internet on wifi-a with 10\.45\.0\.2",
        r"UE \(Wi-Fi B, 127\.0\.3\.1:14500\) → ePDG +INFORMATIONAL request 4 \[ N\(UPDATE_SA_ADDRESSES\)",
        r"ePDG → UE \(Wi-Fi B, 127\.0\.3\.1:14500\) +INFORMATIONAL request 0 \[ N\(COOKIE2\) \]",
        r"ePDG: The UE stays at 127\.0\.2\.1:14500; 127\.0\.7\.1:14500 was not adopted",
        r"ePDG → AAA +STR \[",
        r"Wi-Fi B → Wi-Fi NAT .* yes +yes +found +answered +traffic follows",
        r"✓ Everything held that was expected\.",
    ):
        assert re.search(expected, evidence.out), expected
    assert evidence.err == ""
    assert "\x1b" not in evidence.out


def test_nothing_is_left_behind(evidence: Evidence) -> None:
    evidence.run.assert_nothing_is_left()


def test_the_trace_has_all_nodes(evidence: Evidence) -> None:
    records = read_trace(evidence.directory / "trace.jsonl")
    assert {record.node for record in records} == {"ue", "epdg", "aaa"}
    assert {record.node for record in records if record.kind is Kind.DATAGRAM} == {"epdg"}
    for node in ("ue", "epdg", "aaa"):
        numbers = [record.sequence for record in records if record.node == node]
        assert len(numbers) == len(set(numbers))
    assert (evidence.directory / "trace.jsonl").stat().st_mode & 0o077 == 0


# --- What tshark sees -------------------------------------------------------------------------------


def complaints(tshark: Tshark, capture: Path) -> list[str]:
    """Malformed packets, expert errors and warnings; that a packet was lost during a move is no fault of it."""
    return [text for text in tshark.complaints(capture, severity=WARNING) if "Wrong Sequence Number" not in text]


@pytest.mark.peer
def test_tshark_has_nothing_to_complain_about(evidence: Evidence, tshark: Tshark) -> None:
    assert complaints(tshark, evidence.capture) == []


@pytest.mark.peer
def test_every_esp_packet_is_decrypted_and_whole_on_every_path(evidence: Evidence, tshark: Tshark) -> None:
    names = ("ip.src", "ip.dst", "esp.spi", "esp.sequence", "esp.icv_good", "icmp", "echo")
    rows = tshark.fields(evidence.capture, names, display_filter="esp")
    assert len(rows) > 500
    paths: defaultdict[tuple[str, str], int] = defaultdict(int)
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        assert row["esp.icv_good"] == ["1"], row
        assert row["icmp"] or row["echo"], row
        paths[row["ip.src"][0], row["ip.dst"][0]] += 1
        numbers[row["esp.spi"][0]].append(int(row["esp.sequence"][0]))
    for place in (A, B, NAT_OUTSIDE):
        assert paths[place, GATEWAY] > 20, place
        assert paths[GATEWAY, place] > 20, place
    assert DEAF not in {address for path in paths for address in path}
    assert len(numbers) == 2  # one SA for each direction, from the first move to the last
    for sequence in numbers.values():
        assert len(sequence) == len(set(sequence))  # no datagram stands in the capture twice


@pytest.mark.peer
def test_the_moves_are_decrypted(evidence: Evidence, tshark: Tshark) -> None:
    names = ("ip.src", "isakmp.notify.msgtype", "isakmp.flag_r")
    rows = tshark.fields(evidence.capture, names, display_filter="isakmp.exchangetype == 37")
    updates = [row["ip.src"][0] for row in rows if UPDATE_SA_ADDRESSES in row["isakmp.notify.msgtype"]]
    assert [each for each, former in zip(updates, [None, *updates], strict=False) if each != former] == [
        B,
        NAT_OUTSIDE,
        A,
        DEAF,
        A,
    ]
    cookies = [row["ip.src"][0] for row in rows if COOKIE2 in row["isakmp.notify.msgtype"]]
    assert {B, NAT_OUTSIDE, A, GATEWAY} == set(cookies)


@pytest.mark.peer
def test_the_attach_is_decrypted(evidence: Evidence, tshark: Tshark) -> None:
    names = ("isakmp.messageid", "isakmp.cfg.attr.internal_ip4_address", "eap.code", "isakmp.enc.decrypted")
    rows = tshark.fields(evidence.capture, names, display_filter="isakmp.exchangetype == 35")
    assert len(rows) == 6
    assert all(row["isakmp.enc.decrypted"] for row in rows)
    assert [code for row in rows for code in row["eap.code"]] == ["1", "2", "3"]
    granted = [address for row in rows for address in row["isakmp.cfg.attr.internal_ip4_address"]]
    assert "10.45.0.2" in granted


@pytest.mark.peer
def test_swm_decodes_as_swm(evidence: Evidence, tshark: Tshark) -> None:
    names = ("diameter.cmd.code", "diameter.flags.request", "diameter.applicationId", "diameter.Result-Code")
    rows = tshark.fields(evidence.capture, names, display_filter="diameter")
    commands = [
        (row["diameter.cmd.code"][0], row["diameter.flags.request"][0] in ("1", "True"), row["diameter.applicationId"])
        for row in rows
    ]
    swm = [(code, request) for code, request, application in commands if application == ["16777264"]]
    assert swm == [("268", True), ("268", False)] * 2 + [("275", True), ("275", False)]  # DER DEA, STR STA
    assert {code for code, _, application in commands if application == ["0"]} >= {"257", "282"}  # CER, DPR
    results = [result for row in rows if row["diameter.cmd.code"] == ["268"] for result in row["diameter.Result-Code"]]
    assert results == ["1001", "2001"]
    der = tshark.fields(
        evidence.capture,
        ("diameter.Session-Id", "diameter.User-Name", "diameter.RAT-Type", "diameter.Service-Selection"),
        display_filter="diameter.cmd.code == 268 && diameter.flags.request == 1",
    )
    assert {row["diameter.Session-Id"][0] for row in der} == {der[0]["diameter.Session-Id"][0]}
    assert all(row["diameter.User-Name"][0].startswith("0001010000000001@nai.epc.mnc001.mcc001") for row in der)
    assert all(row["diameter.RAT-Type"] == ["0"] and row["diameter.Service-Selection"] == ["internet"] for row in der)


# --- Network namespaces -----------------------------------------------------------------------------


@pytest.mark.root
def test_across_network_namespaces(tmp_path: Path) -> None:
    require_namespaces()
    require_program("ping", "nsenter")
    run = Run(tmp_path, None)
    found = evidence_of(run, "--netns", "--no-dashboard")
    judge(found.result)
    assert found.result["stage"] == "network-namespaces"
    assert [(move["to"], move["adopted"], move["nat_detected"]) for move in found.moves] == [
        ("wifi-b", True, True),
        ("wifi-a", True, False),
        ("wifi-deaf", False, False),
        ("wifi-a", True, False),
    ]
    assert found.moves[2]["packets_redirected"] == 0
    assert [flow["kind"] for flow in found.result["traffic"]["flows"]] == ["icmp"]
    assert "64 bytes from 10.77.3.2" in (found.directory / "logs/ping-1.log").read_text()
    run.assert_nothing_is_left()
    require_program("tshark")
    tshark = Tshark(tmp_path, found.directory / "wireshark-profile")
    assert complaints(tshark, found.capture) == []
    rows = tshark.fields(found.capture, ("ip.dst", "esp.icv_good", "icmp"), display_filter="esp")
    assert {row["esp.icv_good"][0] for row in rows} == {"1"}
    assert {row["ip.dst"][0] for row in rows} == {"10.77.0.1", "10.77.1.2", "10.77.5.2"}


# --- When it does not go well -----------------------------------------------------------------------


def occupied(run: Run, kind: str, address: str, port: int) -> subprocess.Popen[bytes]:
    """Somebody else's program on a port, where the demo runs."""
    code = (
        f"import socket, signal\nholder = socket.socket(socket.AF_INET, socket.{kind})\n"
        f"holder.bind(({address!r}, {port}))\n"
        + ("holder.listen()\n" if kind == "SOCK_STREAM" else "")
        + "print('bound', flush=True)\nsignal.pause()\n"
    )
    words = [sys.executable, "-c", code]
    if run.namespace is not None:
        holder = run.namespace.popen(words, stdout=subprocess.PIPE)
    else:
        holder = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"bound\n"
    return holder


@pytest.mark.parametrize(
    ("kind", "address", "port", "words"),
    [
        ("SOCK_DGRAM", GATEWAY, 14500, ["--no-dashboard"]),
        ("SOCK_STREAM", "127.0.0.1", 13868, ["--no-dashboard"]),
        ("SOCK_STREAM", "127.0.0.1", 18099, ["--port", "18099"]),
    ],
    ids=["gateway", "aaa", "dashboard"],
)
def test_a_port_in_use_is_one_line_and_no_process_stays(
    demo: Run, kind: str, address: str, port: int, words: list[str]
) -> None:
    holder = occupied(demo, kind, address, port)
    try:
        assert demo.finish("--exit", *words) == 1
    finally:
        terminate(holder)
        assert holder.stdout is not None
        holder.stdout.close()
    assert len(demo.err.splitlines()) == 1
    assert f"{address}:{port}" in demo.err
    assert demo.out == ""
    demo.assert_nothing_is_left()


def test_a_gateway_that_dies_ends_the_demo(demo: Run) -> None:
    demo.start("--exit", "--no-dashboard")
    demo.until("Attached to internet")
    os.kill(demo.processes()["epdg"], signal.SIGKILL)
    assert demo.end() == 1
    assert "✗ epdg ended with status -9" in demo.out
    assert "✗ 0 of 5 moves were made" in demo.out
    assert demo.err == ""
    demo.assert_nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_stopped_in_the_middle(demo: Run, number: signal.Signals) -> None:
    demo.start("--exit", "--no-dashboard")
    demo.until("Attached to internet")
    demo.process.send_signal(number)
    assert demo.end() == 1
    assert "✗ stopped before the end" in demo.out
    assert "STA DIAMETER_SUCCESS" in demo.out  # and yet everybody takes leave
    demo.assert_nothing_is_left()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells children of their parent's death")
def test_no_node_outlives_a_demo_that_was_killed(demo: Run) -> None:
    demo.start("--no-dashboard")
    demo.until("Attached to internet")
    assert set(demo.processes()) == {"aaa", "epdg", "ue"}
    demo.process.kill()
    assert demo.end() == -signal.SIGKILL
    wait_until(lambda: not demo.processes(), what="nodes of a dead demo", timeout=STEP_INTERVAL)


def test_it_stays_up_with_the_dashboard_until_ctrl_c(demo: Run) -> None:
    demo.start()
    demo.until("stays up until Ctrl-C")
    link = demo.until("Dashboard: http://").partition("Dashboard: ")[2].strip()
    base = link.partition("/sign-in")[0]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/sign-in\?token=\S{20,}", link)

    def get(path: str) -> dict[str, Any]:
        def read() -> dict[str, Any]:
            with urllib.request.urlopen(f"{base}/api/v1{path}", timeout=10) as answer:
                page: dict[str, Any] = json.load(answer)
                return page

        return read() if demo.namespace is None else demo.namespace.call(read)

    page = get("/sessions")
    assert [(each["imsi"], each["state"]) for each in page["sessions"]] == [("001010000000001", "established")]
    # A, B, behind the NAT, A again; the deaf address was never adopted
    assert len(page["sessions"][0]["paths"]) == 4
    assert "walk-home" in {each["name"] for each in get("/lab/schedules")["schedules"]}
    demo.process.send_signal(signal.SIGINT)
    assert demo.end() == 0, demo.out + demo.err
    assert "STA DIAMETER_SUCCESS" in demo.out
    demo.assert_nothing_is_left()
