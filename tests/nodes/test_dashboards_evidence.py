"""A session's bundle of evidence from the dashboard: what is in it, who may have its keys, and how many at once."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from dashboards.evidence import AT_ONCE
from protocols.trace.jsonl import decode_lines
from protocols.trace.records import Kind, TraceRecord
from tests.nodes.dashboards_nodes import four_nodes
from tests.nodes.dashboards_world import site
from tests.nodes.test_dashboards_api import API, BEARER, assert_problem
from tests.peers.epdg_node import CORE_HOST
from tests.peers.processes import find_program, wait_until
from tests.peers.tshark import Tshark

GATEWAY, PLACE = "127.0.47.1", "127.0.47.21"


class Overheard:
    """A control socket before another one, and what the node behind it has said."""

    def __init__(self, path: Path, node: Path) -> None:
        self.path = path
        self._node = node
        self._told: list[bytes] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), name="overheard")

    async def _run(self) -> None:
        self._ended = asyncio.Event()
        async with await asyncio.start_unix_server(self._carry, str(self.path)):
            await self._ended.wait()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_unix_connection(str(self._node))

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, heard: list[bytes] | None) -> None:
            with contextlib.suppress(ConnectionError):
                while octets := await source.read(1 << 16):
                    if heard is not None:
                        heard.append(octets)
                    sink.write(octets)
                    await sink.drain()
            sink.close()

        await asyncio.gather(copy(reader, requests, None), copy(answers, writer, self._told))

    def take(self) -> bytes:
        """What was said since the last time."""
        told, self._told[:] = b"".join(self._told), []
        return told

    def __enter__(self) -> Overheard:
        self._thread.start()
        wait_until(self.path.exists, what="the socket", timeout=10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)
        self._loop.close()


@dataclass
class World:
    """Nodes as processes that export keys, the session of their UE, and a client of the dashboard before them."""

    identifier: str
    client: httpx.Client
    audit: Path
    gateway: Overheard

    def files(self, query: str = "", *, identifier: str | None = None) -> dict[str, bytes]:
        """The bundle's files by name."""
        answer = self.client.get(f"{API}/sessions/{identifier or self.identifier}/evidence{query}")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/zip"
        name = f"evidence-{identifier or self.identifier}"
        assert answer.headers["content-disposition"] == f'attachment; filename="{name}.zip"'
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            return {entry.removeprefix(f"{name}/"): archive.read(entry) for entry in archive.namelist()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("bundles")
    heard: list[Overheard] = []

    @contextlib.contextmanager
    def overheard(control: Path) -> Iterator[Path]:
        with Overheard(directory / "overheard.sock", control) as between:
            heard.append(between)
            yield between.path

    with four_nodes(directory, gateway=GATEWAY, place=PLACE, ahead=overheard) as nodes:
        ue = nodes.ue
        ue.call("ue.attach")
        ue.call("ue.traffic.start", destination=CORE_HOST, rate=50)

        def answered() -> bool:
            received = ue.call("ue.traffic.statistics")["received"]
            return isinstance(received, int) and received > 5

        wait_until(answered, timeout=10, what="answers")
        ue.call("ue.traffic.stop")
        (session,) = nodes.epdg.sessions(state="established")
        yield World(str(session["id"]), nodes.client, nodes.audit, heard[0])


def records(files: dict[str, bytes]) -> list[TraceRecord]:
    """The bundle's trace."""
    return list(decode_lines(files["trace.jsonl"].decode().splitlines(keepends=True)))


def last_entry(world: World) -> Any:
    """The newest of the audit log."""
    return json.loads(world.audit.read_text().splitlines()[-1])


def test_the_bundle_has_what_all_nodes_know_and_no_keys(world: World) -> None:
    files = world.files()
    assert {"README.txt", "capture.pcapng", "ladder.svg", "ladder.mmd", "trace.jsonl", "result.json"} <= set(files)
    assert {name for name in files if name.startswith("configuration/")} == {
        "configuration/gw.json",
        "configuration/aaa.json",
        "configuration/phone.json",
    }
    assert "decrypted.pcapng" not in files
    found = records(files)
    assert {record.node for record in found} == {"gw", "aaa", "phone"}
    assert Kind.KEYS not in {record.kind for record in found}
    assert json.loads(files["result.json"])["session"]["id"] == world.identifier
    entry = last_entry(world)
    assert (entry["method"], entry["node"], entry["status"]) == ("GET", "gw", 200)
    assert entry["about"] == {"identifier": world.identifier}

    keys = [record.body for record in records(world.files("?keys=true")) if record.kind is Kind.KEYS]
    secrets = {str(value) for body in keys for name, value in body.items() if name.startswith("sk_") and value}
    assert len(secrets) >= 2
    everything = b"".join(files.values())
    for secret in secrets:
        assert secret.encode() not in everything
        assert bytes.fromhex(secret) not in everything


def test_keys_leave_the_node_for_who_may_have_them_alone(world: World) -> None:
    world.gateway.take()
    assert world.files()
    without = world.gateway.take()
    keys = [
        record.body for record in records(world.files("?keys=true")) if record.kind is Kind.KEYS and record.node == "gw"
    ]
    given = world.gateway.take()
    secrets = [str(value) for body in keys for name, value in body.items() if name.startswith("sk_") and value]
    assert len(secrets) >= 2
    for secret in secrets:
        assert secret.encode() in given
        assert secret.encode() not in without


def test_the_bundle_with_keys_opens_in_tshark(world: World, tmp_path: Path) -> None:
    files = world.files("?keys=true")
    entry = last_entry(world)
    assert (entry["status"], entry["about"]) == (200, {"identifier": world.identifier, "keys": "true"})
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    if find_program("tshark") is None:
        pytest.skip("tshark is not installed (Debian packages: .ci/peers.txt): the capture was not opened")
    tshark = Tshark(tmp_path, tmp_path / "wireshark-profile")
    capture = tmp_path / "capture.pcapng"
    assert tshark.fields(capture, ("frame.number",), display_filter="isakmp && eap") != []
    assert tshark.complaints(capture) == []
    clear = Tshark(tmp_path).fields(tmp_path / "decrypted.pcapng", ("ip.src",), display_filter="icmp.type == 8")
    assert len(clear) > 5


def test_a_session_of_nobody_has_no_evidence(world: World) -> None:
    assert_problem(world.client.get(f"{API}/sessions/0123456789abcdef/evidence"), 404)


def test_keys_are_for_operators_and_where_they_are_exported(tmp_path: Path) -> None:
    with site(tmp_path) as running, httpx.Client(base_url=running.url, timeout=10) as client:
        session = running.do(running.world.attach, 1)
        path = f"{API}/sessions/{session['id']}/evidence"
        assert client.get(path).status_code == 200
        assert_problem(client.get(path, params={"keys": "true"}), 401)
        refused = assert_problem(client.get(path, params={"keys": "true"}, headers=BEARER), 409)
        assert refused["type"].endswith("keys-not-exported")
        assert_problem(client.get(path, params={"keys": "perhaps"}), 422)


def test_an_attach_that_the_gateway_has_forgotten_has_evidence(tmp_path: Path) -> None:
    with site(tmp_path) as running, httpx.Client(base_url=running.url, timeout=10) as client:
        session = running.do(running.world.refuse, 3)
        path = f"{API}/sessions/{session['id']}"
        running.do(running.world.sessions.clear)
        wait_until(lambda: client.get(f"{path}/ladder").status_code == 200, what="its records", timeout=10)
        answer = client.get(f"{path}/evidence")
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            trace = archive.read(f"evidence-{session['id']}/trace.jsonl").decode()
        assert {record.node for record in decode_lines(trace.splitlines(keepends=True))} == {"epdg", "aaa", "ue"}


class Mute:
    """A node that takes connections and says nothing until it goes away."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._taken: list[socket.socket] = []
        self._thread = threading.Thread(target=self._take, name="mute")
        self._thread.start()

    def _take(self) -> None:
        while True:
            try:
                self._taken.append(self._socket.accept()[0])
            except OSError:
                return

    def close(self) -> None:
        """Go away."""
        if self._socket.fileno() >= 0:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._thread.join()
            for taken in self._taken:
                taken.close()


def test_few_bundles_are_made_at_once_and_a_node_that_is_away_is_named(tmp_path: Path) -> None:
    control = tmp_path / "mute.sock"
    mute = Mute(control)
    with contextlib.ExitStack() as running:
        running.callback(mute.close)
        nodes = f"  - {{ name: mute, kind: ue, control: {control} }}"
        served = running.enter_context(site(tmp_path, nodes=nodes))
        client = running.enter_context(httpx.Client(base_url=served.url, timeout=30))
        session = served.do(served.world.attach, 1)
        path = f"{API}/sessions/{session['id']}/evidence"
        with ThreadPoolExecutor(AT_ONCE + 1) as threads:
            waiting = [threads.submit(client.get, path) for _ in range(AT_ONCE + 1)]
            (refused,) = wait_until(
                lambda: [each.result() for each in waiting if each.done()] or None, what="a refusal", timeout=10
            )
            assert assert_problem(refused, 503)["type"].endswith("busy")
            mute.close()
            made = [answer for each in waiting if (answer := each.result(20)) is not refused]
        assert [answer.status_code for answer in made] == [200] * AT_ONCE
        with zipfile.ZipFile(io.BytesIO(made[0].content)) as archive:
            told = archive.read(f"evidence-{session['id']}/README.txt").decode()
        assert "mute could not be asked" in told
