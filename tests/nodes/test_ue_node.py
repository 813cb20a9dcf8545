"""``ue`` as a process beside the real ``aaa`` and ``epdg``: attach, ping, move, refusals, control, signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from aaa.subscribers import Subscriber
from aaa.subscribers.laboratory import laboratory_subscriber
from epdg.pki import make_pki
from lab.namespaces import terminate
from protocols.errors import BackendError, ConfigurationError
from protocols.io.configuration import load
from protocols.io.control import ControlClient, ControlError, call_sync
from protocols.trace.keys import WiresharkProfile
from protocols.trace.records import JsonValue, Kind, TraceRecord
from tests.harness.material import ROOT
from tests.peers import evidence
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import CORE_HOST, FQDN, EpdgProcess
from tests.peers.processes import wait_until, without_process
from ue.command_line import application
from ue.config import UeConfiguration

USER, BARRED = laboratory_subscriber(1), laboratory_subscriber(2)
UNKNOWN = laboratory_subscriber(99)
GATEWAY = "127.0.41.1"
IKE_PORT, NATT_PORT = 15000, 14500
ADDRESSES = {"wifi-a": "127.0.41.21", "wifi-b": "127.0.41.31", "deaf": "127.0.41.41"}
TIMEOUT = 20.0

Change = Callable[[dict[str, object]], None]


@pytest.fixture(scope="module")
def aaa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AaaProcess]:
    node = AaaProcess(tmp_path_factory.mktemp("aaa"))
    node.provision(USER, replace(BARRED, non_3gpp_allowed=False))
    with node:
        yield node


@pytest.fixture(scope="module")
def epdg(aaa: AaaProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EpdgProcess]:
    with EpdgProcess(tmp_path_factory.mktemp("epdg"), aaa.port, address=GATEWAY) as node:
        yield node


@dataclass
class Ue:
    """A UE's configuration in a directory, commands with it, and the node that one of them may be."""

    directory: Path
    authority: Path
    subscriber: Subscriber = USER
    change: Change | None = None
    process: subprocess.Popen[str] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        assert self.subscriber.opc is not None
        ports: dict[str, object] = {"ike_port": IKE_PORT, "nat_traversal_port": NATT_PORT}
        accesses = {name: {"address": address, **ports} for name, address in ADDRESSES.items()}
        accesses["deaf"]["hears"] = False
        values: dict[str, object] = {
            "imsi": str(self.subscriber.imsi),
            "plmn": {"mcc": "001", "mnc": "01"},
            "usim": {"k": self.subscriber.k.reveal().hex(), "opc": self.subscriber.opc.reveal().hex()},
            "apn": "internet",
            "gateway": {"address": GATEWAY, **ports, "ca": str(self.authority)},
            "accesses": accesses,
            "retransmission": {"base_interval": 0.2, "limit": 2},
            "control": "ue.sock",
            "state": "state",
            "trace": {"export_keys": True},
        }
        if self.change is not None:
            self.change(values)
        self.configuration.write_text(yaml.safe_dump(values, sort_keys=False))

    @property
    def configuration(self) -> Path:
        return self.directory / "ue.yaml"

    @property
    def control(self) -> Path:
        return self.directory / "ue.sock"

    @property
    def log(self) -> Path:
        return self.directory / "ue.log"

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command to its end."""
        return subprocess.run(
            self._words(*words), capture_output=True, text=True, timeout=60, check=False, cwd=self.directory
        )

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The same of one that asks the running node."""
        verb, *rest = words
        return without_process(application, verb, "-c", self.configuration, *rest)

    def _words(self, verb: str, *rest: str) -> list[str]:
        return [sys.executable, "-m", "ue", verb, "-c", str(self.configuration), *rest]

    @contextlib.contextmanager
    def node(self, *words: str, state: str | None = None) -> Iterator[Ue]:
        """A node, from its first answer (and state) on."""
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                self._words(*words), stdout=output, stderr=subprocess.STDOUT, text=True, cwd=self.directory
            )
        try:
            wait_until(lambda: self._answers(state), what="ue", timeout=TIMEOUT, log=self.log.read_text)
            yield self
        finally:
            evidence.keep(self.control)
            terminate(self.process)  # type: ignore[arg-type]

    def _answers(self, state: str | None) -> bool:
        with contextlib.suppress(BackendError):
            return self.call("ue.status")["state"] == (state or "idle")
        return False

    def call(self, method: str, **params: JsonValue) -> dict[str, JsonValue]:
        answer = call_sync(self.control, method, **params)
        assert isinstance(answer, dict)
        return answer

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        evidence.keep(self.control)
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT)

    def records(self) -> list[TraceRecord]:
        """Everything its trace holds now."""
        return records_of(self.control)


def records_of(control: Path) -> list[TraceRecord]:
    """Everything that a node's trace holds now."""

    async def read() -> list[TraceRecord]:
        client = ControlClient(control)
        standing = await client.call("trace.subscribe")
        assert isinstance(standing, dict)
        found: list[TraceRecord] = []
        async with contextlib.aclosing(client.subscribe(0)) as stream:
            async for record in stream:
                found.append(record)
                if record.sequence == standing["sequence"]:
                    break
        return found

    return asyncio.run(read())


@pytest.fixture
def ue(epdg: EpdgProcess, tmp_path: Path) -> Ue:
    return Ue(tmp_path, epdg.authority)


def section(answer: dict[str, JsonValue], name: str) -> dict[str, JsonValue]:
    found = answer[name]
    assert isinstance(found, dict)
    return found


def session(node: Ue) -> dict[str, JsonValue]:
    found = node.call("ue.status")["sessions"]
    assert isinstance(found, list)
    (one,) = found
    assert isinstance(one, dict)
    return one


def gateway_remote(epdg: EpdgProcess) -> str:
    (one,) = epdg.sessions(state="established")
    return str(section(section(one, "ike"), "path")["remote"])


# --- in the foreground --------------------------------------------------------------------------------


def test_attach_ping_and_leave(ue: Ue, epdg: EpdgProcess) -> None:
    done = ue.command("attach", "--ping", CORE_HOST, "--count", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ping {CORE_HOST}: 2 sent, 2 received" in done.stdout
    arrows = [
        line[10:].split(" [")[0]
        for line in done.stdout.splitlines()
        if line[10:].startswith(("--> I", "<-- I"))  # time, arrow, IKE message; EAP is indented
    ]
    assert arrows[:4] == [
        "--> IKE_SA_INIT request 0",
        "<-- IKE_SA_INIT response 0",
        "--> IKE_AUTH request 1",
        "<-- IKE_AUTH response 1",
    ]
    assert arrows[-2:] == ["--> INFORMATIONAL request 4", "<-- INFORMATIONAL response 4"]
    assert "\x1b" not in done.stdout  # plain text where nobody looks at a terminal
    assert not epdg.sessions(state="established")
    assert done.stderr == ""


def test_a_ping_that_nobody_answers_is_a_failure(ue: Ue) -> None:
    done = ue.command("attach", "--ping", "10.99.0.250", "--count", "1")
    assert done.returncode == 1
    assert "1 sent, 0 received" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_attach_stays_until_a_signal_and_deletes_the_sa(ue: Ue, epdg: EpdgProcess, number: signal.Signals) -> None:
    with ue.node("attach", state="established"):
        (held,) = epdg.sessions(state="established")
        assert held["imsi"] == str(USER.imsi)
        moved = ue.ask("move", "--to", ADDRESSES["wifi-b"])  # it serves its control socket
        assert moved.returncode == 0, moved.stderr
        assert "inner address and SPIs unchanged" in moved.stdout
        assert ue.stop(number) == 0
    assert not epdg.sessions(state="established")
    assert "Detached from internet" in ue.log.read_text()


def _wrong_key(values: dict[str, object]) -> None:
    usim = values["usim"]
    assert isinstance(usim, dict)
    usim["k"] = "00" * 16


def _set(name: str, value: object) -> Change:
    def change(values: dict[str, object]) -> None:
        values[name] = value

    return change


def _gateway_down(values: dict[str, object]) -> None:
    gateway = values["gateway"]
    assert isinstance(gateway, dict)
    gateway["address"] = "127.0.41.99"


@pytest.mark.parametrize(
    ("subscriber", "change", "words"),
    [
        (USER, _wrong_key, "authentication rejected: MAC-A in AUTN does not verify"),
        (UNKNOWN, None, "the network does not know this IMSI (USER_UNKNOWN 9001)"),
        (BARRED, None, "does not allow non-3GPP access"),
        (USER, _set("apn", "corporate"), "the subscription does not include this APN (NO_APN_SUBSCRIPTION 9002)"),
        (USER, _gateway_down, "no response from the gateway 127.0.41.99:15000, asked 3 times on wifi-a"),
    ],
    ids=["wrong K", "unknown IMSI", "no non-3GPP", "unknown APN", "gateway down"],
)
def test_a_refused_attach_is_exit_1_and_one_line(
    epdg: EpdgProcess, tmp_path: Path, subscriber: Subscriber, change: Change | None, words: str
) -> None:
    done = Ue(tmp_path, epdg.authority, subscriber, change).command("attach")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert not epdg.sessions(state="established")


def test_a_gateway_with_a_certificate_of_another_authority_is_not_accepted(epdg: EpdgProcess, tmp_path: Path) -> None:
    other = make_pki(tmp_path / "other", (FQDN, "internet"))
    done = Ue(tmp_path, other.authority).command("attach")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "the gateway is not accepted: certificate" in done.stderr


def test_a_port_in_use_is_one_line(epdg: EpdgProcess, tmp_path: Path) -> None:
    def on_the_gateways_address(values: dict[str, object]) -> None:
        values["accesses"] = {"wifi-a": {"address": GATEWAY, "ike_port": IKE_PORT, "nat_traversal_port": NATT_PORT}}

    done = Ue(tmp_path, epdg.authority, change=on_the_gateways_address).command("attach")
    assert done.returncode == 1
    assert done.stderr == f"cannot use UDP {GATEWAY}:{IKE_PORT}: the port is in use\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("imsi", "12"), "imsi: got '12', expected 6 to 15 digits"),
        (_set("imsi", "262010000000001"), "an IMSI that begins with the MCC and MNC under plmn"),
        (_set("usim", {"k": "00" * 16}), "usim: got a mapping, expected either opc or op"),
        (
            _set("gateway", {"address": GATEWAY}),
            "gateway.ca: got nothing, expected a PEM file to verify the gateway by, or eap_only: true",
        ),
        (_set("algorithms", {"ike": ["rot13"]}), "algorithms.ike.0: got 'rot13'"),
        (_set("accesses", {"v6": {"address": "::1"}}), "of the gateway address's IP version"),
        (_set("fragment_size", 100), "fragment_size: got 100"),
        (_set("window_size", 0), "window_size: got 0"),
        (_set("acess", "wifi-a"), "acess"),
    ],
)
def test_a_bad_configuration_is_refused_in_one_line(tmp_path: Path, change: Change, words: str) -> None:
    node = Ue(tmp_path, tmp_path / "ca.pem", change=change)
    with pytest.raises(ConfigurationError) as refused:
        load(node.configuration, UeConfiguration)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("verb", ["attach", "run"])
def test_an_unusable_configuration_is_exit_2(tmp_path: Path, verb: str) -> None:
    done = Ue(tmp_path, tmp_path / "missing.pem").command(verb)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "gateway.ca: got 'No such file or directory'" in done.stderr


@pytest.mark.parametrize("words", [("attach", "--access", "cellular"), ("move", "--to", "127.9.9.9")])
def test_an_access_that_is_not_configured_is_exit_2(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = Ue(tmp_path, tmp_path / "ca.pem").command(*words)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"command line: {words[1]}: got '{words[2]}'" in done.stderr
    assert "known are wifi-a" in done.stderr


def test_the_example_configuration_is_complete_and_valid() -> None:
    file = ROOT / "ue" / "example.yaml"
    load(file, UeConfiguration)
    written = yaml.safe_load(file.read_text())
    assert set(UeConfiguration.model_fields) == set(written)


@pytest.mark.parametrize("verb", ["attach", "run", "serve", "move", "rekey-ike", "rekey-child", "detach", "status"])
def test_every_command_has_help(verb: str) -> None:
    shown = CliRunner().invoke(application, [verb, "--help"])
    assert shown.exit_code == 0
    assert "Usage" in shown.output


# --- as a node ----------------------------------------------------------------------------------------


def test_a_node_attaches_moves_and_detaches_as_it_is_told(ue: Ue, epdg: EpdgProcess) -> None:
    with ue.node("run"):
        assert ue.call("node.status")["kind"] == "ue"
        status = ue.call("ue.status")
        assert status.pop("data_plane")["backend"] == "python"  # type: ignore[index,call-overload]
        assert status == {"state": "idle", "persona": None, "sessions": [], "traffic": []}
        up = ue.call("ue.attach", access="wifi-a")
        assert (up["state"], up["access"], up["apn"]) == ("established", "wifi-a", "internet")
        (inner,) = up["inner_addresses"]  # type: ignore[misc]
        assert section(up, "attach")["requests"] == 4
        assert section(up, "ike")["mobike"] is True

        ue.call("ue.traffic.start", kind="udp", destination=CORE_HOST, rate=50)
        answered(ue, 5)
        moved = section(ue.call("ue.move", to="wifi-b"), "move")
        assert (moved["from"], moved["to"], moved["outcome"]) == ("wifi-a", "wifi-b", "completed")
        assert (moved["requests"], moved["retransmissions"], moved["kept_old"]) == (1, 0, False)
        assert moved["inner_address_unchanged"] is True
        assert moved["spis_unchanged"] is True
        assert gateway_remote(epdg) == f"{ADDRESSES['wifi-b']}:{NATT_PORT}"
        now = session(ue)
        assert now["inner_addresses"] == [inner]
        assert now["open_accesses"] == ["wifi-b"]
        assert [row["access"] for row in now["paths"]] == ["wifi-a", "wifi-b"]  # type: ignore[index,union-attr,call-overload]
        since_move = answered(ue, 5, since=moved["started"])
        assert since_move["received"] >= 5  # type: ignore[operator]
        assert since_move["longest_gap_ms"] < 1000  # type: ignore[operator]
        stopped = ue.call("ue.traffic.stop")
        assert stopped["running"] is False

        down = ue.call("ue.detach")
        assert down["state"] == "closed"
        assert not epdg.sessions(state="established")
        with pytest.raises(ControlError, match="not attached"):
            ue.call("ue.detach")
        assert ue.call("ue.attach")["state"] == "established"


def answered(node: Ue, count: int, since: JsonValue = None) -> dict[str, JsonValue]:
    """The flow's score once so many requests sent after ``since`` were answered."""

    def look() -> dict[str, JsonValue] | None:
        score = node.call("ue.traffic.statistics", since=since)
        return score if score["received"] >= count else None  # type: ignore[operator]

    return wait_until(look, what="answers to the flow", timeout=TIMEOUT)


def test_there_and_back_from_an_access_that_hears_nothing(ue: Ue, epdg: EpdgProcess) -> None:
    """Return routability (RFC 4555 §3.7): the gateway never adopts it, and the UE comes back in one round trip."""
    with ue.node("run"), ThreadPoolExecutor(1) as elsewhere:
        ue.call("ue.attach")
        lost = elsewhere.submit(ue.call, "ue.move", to="deaf", keep_old=True)
        wait_until(
            lambda: session(ue)["open_accesses"] == ["wifi-a", "deaf"], what="the move to begin", timeout=TIMEOUT
        )
        back = section(ue.call("ue.move", to="wifi-a", keep_old=True), "move")
        assert back["outcome"] == "completed"
        with pytest.raises(ControlError, match="superseded by a move to wifi-a"):
            lost.result(TIMEOUT)
        assert ue.call("ue.access.close", name="deaf")["open_accesses"] == ["wifi-a"]
        assert gateway_remote(epdg) == f"{ADDRESSES['wifi-a']}:{NATT_PORT}"
        ue.call("ue.traffic.start", destination=CORE_HOST, rate=50)
        answered(ue, 3)


def test_refusals_and_bad_parameters_are_plain_sentences(ue: Ue) -> None:
    with ue.node("run"):
        for method, params, code in (
            ("ue.move", {"to": "wifi-b"}, "refused"),
            ("ue.move", {}, "bad-params"),
            ("ue.attach", {"access": "cellular"}, "not-found"),
            ("ue.attach", {"access": 7}, "bad-params"),
            ("ue.traffic.start", {"destination": CORE_HOST}, "refused"),
            ("ue.traffic.statistics", {}, "refused"),
            ("ue.access.close", {"name": "wifi-a"}, "refused"),
        ):
            with pytest.raises(ControlError) as refused:
                ue.call(method, **params)  # type: ignore[arg-type]
            assert refused.value.code == code, (method, params, str(refused.value))
        ue.call("ue.attach")
        for params, code in (
            ({"destination": "nowhere"}, "bad-params"),
            ({"destination": CORE_HOST, "kind": "fax"}, "bad-params"),
            ({"destination": CORE_HOST, "rate": 0}, "refused"),
            ({"destination": CORE_HOST, "rate": 10**400}, "bad-params"),
            ({"destination": "2001:db8::1"}, "refused"),
        ):
            with pytest.raises(ControlError) as refused:
                ue.call("ue.traffic.start", **params)  # type: ignore[arg-type]
            assert refused.value.code == code, (params, str(refused.value))
        ue.call("ue.traffic.start", destination=CORE_HOST, kind="voice")
        for method, more in (
            ("ue.traffic.statistics", {"since": 10**400}),
            ("ue.traffic.log", {"until": -(10**400)}),
            ("ue.access.gained", {"name": "wifi-b", "address": "224.0.0.1"}),
            ("ue.access.gained", {"name": "wifi-b", "address": "0.0.0.0"}),
        ):
            with pytest.raises(ControlError) as refused:
                ue.call(method, **more)  # type: ignore[arg-type]
            assert refused.value.code == "bad-params", (method, str(refused.value))
        for to, status in (("wifi-a", 1), ("cellular", 2)):  # refused; no such thing to ask for
            done = ue.ask("move", "--to", to)
            assert done.returncode == status
            assert len(done.stderr.splitlines()) == 1


def test_the_trace_holds_messages_eap_keys_and_events(ue: Ue) -> None:
    with ue.node("run"):
        ue.call("ue.attach")
        ue.call("ue.move", to="wifi-b")
        records = ue.records()
    messages = [record.body for record in records if record.kind is Kind.MESSAGE]
    ike = [body["name"] for body in messages if body["protocol"] == "ikev2" and body["direction"] == "out"]
    assert ike[:4] == ["IKE_SA_INIT request", "IKE_AUTH request", "IKE_AUTH request", "IKE_AUTH request"]
    eap = [(body["direction"], body["name"]) for body in messages if body["protocol"] == "eap"]
    assert eap == [
        ("in", "EAP-Request/AKA-Challenge"),
        ("out", "EAP-Response/AKA-Challenge"),
        ("in", "EAP-Success"),
    ]
    events = [record.body["name"] for record in records if record.kind is Kind.EVENT]
    assert events == ["started", "attached", "moved"]
    assert {record.body["protocol"] for record in records if record.kind is Kind.DATAGRAM} >= {"ikev2"}
    sessions = {record.session for record in records if record.kind is not Kind.DATAGRAM}
    assert len(sessions - {None}) == 1
    profile = WiresharkProfile(records).files()
    assert len(profile["ikev2_decryption_table"].splitlines()) == 1
    assert len(profile["esp_sa"].splitlines()) == 4  # two directions, on two paths


def test_keys_stay_inside_unless_they_are_exported(epdg: EpdgProcess, tmp_path: Path) -> None:
    node = Ue(tmp_path, epdg.authority, change=_set("trace", {"export_keys": False}))
    with node.node("run"):
        node.call("ue.attach")
        assert not [record for record in node.records() if record.kind is Kind.KEYS]


def test_status_and_detach_commands(ue: Ue, epdg: EpdgProcess) -> None:
    down = ue.ask("status")
    assert down.returncode == 1
    assert "no node is running there" in down.stderr
    with ue.node("serve", state="established"):
        shown = ue.ask("status")
        assert "access:        wifi-a" in shown.stdout
        assert json.loads(ue.ask("status", "--json").stdout)["state"] == "established"
        assert json.loads(ue.ask("move", "--to", "wifi-b", "--json").stdout)["move"]["to"] == "wifi-b"
        assert ue.ask("detach").stdout == "detached\n"
        assert ue.call("ue.status")["state"] == "closed"
        assert ue.stop() == 0
    assert not epdg.sessions(state="established")


def test_serve_attaches_again_when_the_gateway_lets_go(ue: Ue, epdg: EpdgProcess) -> None:
    with ue.node("serve", state="established"):
        (held,) = epdg.sessions(state="established")
        epdg.call("sessions.detach", id=held["id"])
        wait_until(lambda: "attaches again in 5 s" in ue.log.read_text(), what="the retry", timeout=TIMEOUT)
        assert ue.stop() == 0


def test_the_usim_remembers_its_sequence_numbers(ue: Ue) -> None:
    assert ue.command("attach", "--ping", CORE_HOST, "--count", "1").returncode == 0
    file = ue.directory / "state" / f"usim-{USER.imsi}.json"
    assert max(json.loads(file.read_text())["seqs"]) > 0
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("{}")
    done = ue.command("attach")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_a_gateway_that_is_gone_does_not_hold_the_ue_back(ue: Ue, aaa: AaaProcess, tmp_path: Path) -> None:
    place = tmp_path / "gone"
    place.mkdir()
    with EpdgProcess(place, aaa.port, address="127.0.41.2") as gone:
        node = Ue(place, gone.authority, change=_to("127.0.41.2"))
        with node.node("attach", state="established"):
            assert gone.process is not None
            gone.process.send_signal(signal.SIGKILL)
            gone.process.wait(TIMEOUT)
            assert node.stop() == 0  # after a bounded wait for the answer to DELETE


def test_an_icmp_error_has_the_gateway_asked(aaa: AaaProcess, tmp_path: Path) -> None:
    """A hint, no more (RFC 7296 §2.4, RFC 4621 §5.1.1): it brings the question forward, and its answer decides."""

    def by_icmp_alone(values: dict[str, object]) -> None:
        _to("127.0.41.2")(values)
        values["silence_interval"] = values["liveness_interval"] = None

    with EpdgProcess(tmp_path, aaa.port, address="127.0.41.2") as gone:
        (tmp_path / "ue").mkdir()
        node = Ue(tmp_path / "ue", gone.authority, change=by_icmp_alone)
        with node.node("attach", state="established"):
            assert gone.process is not None
            gone.process.send_signal(signal.SIGKILL)
            gone.process.wait(TIMEOUT)
            node.call("ue.traffic.start", destination=CORE_HOST, rate=20)
            wait_until(lambda: node.call("ue.status")["state"] == "closed", what="the end", timeout=TIMEOUT)
            told = [
                str(record.body.get("text")) for record in node.records() if record.body.get("name") == "icmp-error"
            ]
            assert f"ICMP says that 127.0.41.2:{NATT_PORT} cannot be reached: the gateway is asked." in told
            assert len(told) <= 3  # at most one a second


def _to(address: str) -> Change:
    def change(values: dict[str, object]) -> None:
        gateway = values["gateway"]
        assert isinstance(gateway, dict)
        gateway["address"] = address

    return change


@pytest.mark.parametrize("verb", ["attach", "serve"])
def test_a_signal_during_the_attach_ends_it_at_once(epdg: EpdgProcess, tmp_path: Path, verb: str) -> None:
    def patient(values: dict[str, object]) -> None:
        _gateway_down(values)
        values["retransmission"] = {"base_interval": 30, "limit": 1}

    node = Ue(tmp_path, epdg.authority, change=patient)
    with node.node(verb, state="attaching"):
        assert node.stop() == 0
    assert not node.control.exists()
    assert "Traceback" not in node.log.read_text()


def test_a_usim_store_that_cannot_be_written_ends_the_attach(ue: Ue) -> None:
    (ue.directory / "state" / f"usim-{USER.imsi}.json.new").mkdir(parents=True)
    done = ue.command("attach")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("the USIM failed: ")


def test_two_nodes_cannot_share_a_control_socket(ue: Ue) -> None:
    with ue.node("run"):
        second = ue.command("run")
        assert second.returncode == 1
        assert "is in use: a node is running with it" in second.stderr.splitlines()[-1]
        assert os.path.exists(ue.control)


# --- connection management


def managed(values: dict[str, object]) -> None:
    values["management"] = {"automatic": True, "prefer": ["wifi-b", "wifi-a"], "hold": 0.3, "linger": 0.1}


def test_a_node_that_manages_its_connection(epdg: EpdgProcess, tmp_path: Path) -> None:
    """Attached on the preferred access; told what becomes of its accesses, it moves by itself, and says why."""
    ue = Ue(tmp_path, epdg.authority, change=managed)

    def tell(*words: str) -> str:
        done = CliRunner().invoke(application, ["access", *words, "-c", str(ue.configuration)])
        assert done.exit_code == 0, done.output
        return done.output

    def on(access: str) -> None:
        wait_until(
            lambda: (session(ue)["access"], session(ue)["open_accesses"]) == (access, [access]),
            what=f"on {access}",
            timeout=TIMEOUT,
            log=ue.log.read_text,
        )

    with ue.node("serve", state="established"):
        on("wifi-b")
        assert "moving on wifi-b" in tell("lost", "wifi-b")
        on("wifi-a")
        tell("gained", "wifi-b")
        on("wifi-b")
        tell("hint", "wifi-b", "captive")
        on("wifi-a")
        tell("lost", "wifi-a")  # a captive access is not tried, the deaf one is, for a while
        wait_until(
            lambda: section(ue.call("node.status"), "management")["phase"] == "suspended",
            what="suspended",
            timeout=TIMEOUT,
            log=ue.log.read_text,
        )
        tell("gained", "wifi-a", "--address", ADDRESSES["wifi-a"])
        on("wifi-a")
        asked = len(ue.records())
        assert CliRunner().invoke(application, ["liveness", "-c", str(ue.configuration)]).output == "asked\n"
        wait_until(
            lambda: any("INFORMATIONAL" in str(record.body) for record in ue.records()[asked:]),
            what="a question",
            timeout=TIMEOUT,
        )
        reasons = [record.body for record in ue.records() if "access-decision" in str(record.body)]
        assert any("move to wifi-a, break before make" in str(body) for body in reasons)
        bad = CliRunner().invoke(application, ["access", "lost", "moon", "-c", str(ue.configuration)])
        assert bad.exit_code == 2
        with pytest.raises(ControlError, match="hint is good, weak, captive, down"):
            ue.call("ue.access.hint", name="wifi-a", hint="lovely")


def test_a_node_that_does_not_manage_its_connection_only_notes(ue: Ue) -> None:
    with ue.node("run"):
        done = CliRunner().invoke(application, ["access", "lost", "wifi-a", "-c", str(ue.configuration)])
        assert done.output == "noted; management.automatic is off, nothing is decided\n"
        assert section(ue.call("node.status"), "management")["phase"] == "detached"
