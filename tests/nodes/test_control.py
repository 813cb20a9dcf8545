"""The control socket: who may open it, what it answers, how a trace is followed and resumed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from itertools import count
from pathlib import Path

import pytest

from protocols.errors import BackendError, ConfigurationError, DecodeError, LocalError, RemoteError
from protocols.io.control import LINE_OCTETS, ControlClient, ControlError, ControlServer, Params, call_sync
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue, Kind, TraceRecord


def recorder(ring: int = 1000) -> Recorder:
    ticks = count()
    return Recorder("epdg", monotonic=lambda: float(next(ticks)), wall=lambda: 1.7e9, ring=ring)


async def echo(params: Params) -> JsonValue:
    return dict(params)


async def missing(params: Params) -> JsonValue:
    raise ControlError("not-found", f"there is no session {params['id']}")


def raising(error: Exception) -> Callable[[Params], Awaitable[JsonValue]]:
    async def handler(params: Params) -> JsonValue:
        raise error

    return handler


async def lines_of(path: Path, request: bytes, answers: int) -> list[dict[str, JsonValue]]:
    """What the server answers to octets written as they are."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request)
    found = [json.loads(await reader.readuntil(b"\n")) for _ in range(answers)]
    writer.close()
    await writer.wait_closed()
    return found


# --- The socket file --------------------------------------------------------------------------------


def test_only_the_owner_may_open_it_and_it_goes_with_the_node(tmp_path: Path) -> None:
    path = tmp_path / "run" / "epdg.sock"

    async def run() -> None:
        async with ControlServer(path, {}, recorder()):
            assert stat.S_ISSOCK(path.stat().st_mode)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not path.exists()

    asyncio.run(run())


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "epdg.sock"
    with socket.socket(socket.AF_UNIX) as former:
        former.bind(str(path))

    async def run() -> None:
        async with ControlServer(path, {"echo": echo}):
            assert await ControlClient(path).call("echo", a=1) == {"a": 1}

    asyncio.run(run())


def test_a_running_node_keeps_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "epdg.sock"

    async def run() -> None:
        async with ControlServer(path, {"echo": echo}):
            with pytest.raises(BackendError, match="is in use: a node is running with it") as caught:
                await ControlServer(path, {}).start()
            assert "\n" not in str(caught.value)
            assert await ControlClient(path).call("echo") == {}

    asyncio.run(run())


def test_other_files_are_not_touched_and_bad_paths_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("text")
    with pytest.raises(BackendError, match="no socket"):
        asyncio.run(ControlServer(path, {}).start())
    assert path.read_text() == "text"
    with pytest.raises(BackendError, match="cannot be opened"):
        asyncio.run(ControlServer(tmp_path / ("x" * 120), {}).start())


# --- Requests ---------------------------------------------------------------------------------------

ANSWERS = {
    "not-found": ControlError("not-found", "no"),
    "refused": LocalError("not now"),
    "bad-params": ConfigurationError(file="request", key="to", value="x", expected="an address"),
    "peer": RemoteError("the peer broke a rule"),
    "backend": BackendError("the kernel said no"),
    "internal": ZeroDivisionError("a defect of ours"),
}


@pytest.mark.parametrize("code", ANSWERS)
def test_errors_have_a_code(tmp_path: Path, code: str) -> None:
    path = tmp_path / "s"
    error = ANSWERS[code]

    async def run() -> None:
        async with ControlServer(path, {"method": raising(error)}):
            with pytest.raises(ControlError) as caught:
                await ControlClient(path).call("method")
            assert caught.value.code == code
            # what a defect says is for the log, not for the client
            assert (str(error) in caught.value.message) == (code != "internal")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"GET / HTTP/1.1", "bad-request"),
        (b"\xff\xfe\x00", "bad-request"),
        (b"[1, 2]", "bad-request"),
        (b"[" * 100_000, "bad-request"),
        (b'{"id": {"a": 1}, "method": "echo"}', "bad-request"),
        (b'{"id": 7}', "bad-request"),
        (b'{"id": 7, "method": 3}', "bad-request"),
        (b'{"id": 7, "method": "echo", "params": [1]}', "bad-params"),
        (b'{"id": 7, "method": "none.such"}', "unknown-method"),
        (b'{"id": 7, "method": "trace.subscribe", "params": {"since": -1}}', "bad-params"),
        (b'{"id": 7, "method": "trace.subscribe", "params": {"since": true}}', "bad-params"),
        (b'{"id": 7, "method": "trace.subscribe", "params": {"kinds": "keys"}}', "bad-params"),
        (b'{"id": 7, "method": "trace.subscribe", "params": {"kinds": ["sounds"]}}', "bad-params"),
        (b'{"id": 7, "method": "trace.subscribe", "params": {"follow": 0}}', "bad-params"),
    ],
)
def test_a_hostile_line_is_answered_and_the_connection_lives(tmp_path: Path, line: bytes, code: str) -> None:
    path = tmp_path / "s"

    async def run() -> None:
        async with ControlServer(path, {"echo": echo}, recorder()):
            follow = b'\n{"id": 8, "method": "echo", "params": {"still": "here"}}\n'
            first, second = await lines_of(path, line + follow, 2)
            answers = sorted((first, second), key=lambda answer: "result" in answer)
            error = answers[0]["error"]
            assert isinstance(error, dict)
            assert error["code"] == code
            assert answers[1] == {"id": 8, "result": {"still": "here"}}

    asyncio.run(run())


def test_an_endless_line_ends_its_connection_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def run() -> None:
        async with ControlServer(path, {"echo": echo}):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"x" * (LINE_OCTETS + 2))
            answer = json.loads(await reader.readuntil(b"\n"))
            assert answer["error"]["code"] == "bad-request"
            assert await reader.read() == b""
            writer.close()
            assert await ControlClient(path).call("echo") == {}

    asyncio.run(run())


def test_requests_of_one_connection_run_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def run() -> None:
        gate = asyncio.Event()

        async def wait(params: Params) -> JsonValue:
            await gate.wait()
            return "at last"

        async def release(params: Params) -> JsonValue:
            gate.set()
            return "released"

        async with ControlServer(path, {"wait": wait, "release": release}):
            request = b'{"id": "w", "method": "wait"}\n{"id": "r", "method": "release"}\n'
            answers = await lines_of(path, request, 2)
            assert {str(answer["id"]): answer["result"] for answer in answers} == {
                "w": "at last",
                "r": "released",
            }

    asyncio.run(run())


def test_a_client_that_closed_its_side_still_gets_its_answer(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def run() -> bytes:
        async with ControlServer(path, {"echo": echo}):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b'{"id": 1, "method": "echo"}')  # as from printf, without a newline
            writer.write_eof()
            octets = await reader.read()
            writer.close()
            return octets

    assert json.loads(asyncio.run(run())) == {"id": 1, "result": {}}


def test_closing_ends_a_handler_that_never_answers(tmp_path: Path) -> None:
    path = tmp_path / "s"
    ended = []

    async def run() -> None:
        entered = asyncio.Event()

        async def forever(params: Params) -> JsonValue:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)
            return None

        async with ControlServer(path, {"forever": forever}):
            asking = asyncio.create_task(ControlClient(path).call("forever"))
            await entered.wait()
        with pytest.raises(BackendError, match="closed the connection before it answered"):
            await asking

    asyncio.run(run())
    assert ended == [True]


# --- Clients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", range(8))
def test_closing_ends_a_connection_that_is_just_being_accepted(tmp_path: Path, turns: int) -> None:
    path = tmp_path / "epdg.sock"

    async def run() -> socket.socket:
        server = ControlServer(path, {}, recorder())
        await server.start()
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(path))
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.close()
        return client

    with asyncio.run(run()) as client:
        gc.collect()  # a transport that nobody closed says so
        client.setblocking(False)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_no_node_there_is_one_plain_line(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no node is running there"):
        call_sync(tmp_path / "absent", "node.status")


def test_an_answer_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def run() -> None:
        async def forever(params: Params) -> JsonValue:
            await asyncio.Event().wait()
            return None

        async with ControlServer(path, {"forever": forever}):
            with pytest.raises(BackendError, match="no answer to forever in 0.05 s"):
                await ControlClient(path, answer_interval=0.05).call("forever")

    asyncio.run(run())


def test_a_server_of_another_kind_is_named_so(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def run() -> None:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail.example ESMTP\n")
            await reader.read()
            writer.close()

        server = await asyncio.start_unix_server(speak, str(path))
        async with server:
            with pytest.raises(DecodeError, match="does not speak the control protocol"):
                await ControlClient(path).call("echo")

    asyncio.run(run())


def test_absent_values_and_octets_have_no_form(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def not_a_number(params: Params) -> JsonValue:
        return float("nan")

    async def run() -> None:
        async with ControlServer(path, {"nan": not_a_number}):
            with pytest.raises(ControlError) as caught:
                await ControlClient(path).call("nan")
            assert caught.value.code == "internal"

    asyncio.run(run())


# --- The trace --------------------------------------------------------------------------------------


async def take(path: Path, number: int, since: int | None, kinds: list[str] | None = None) -> list[TraceRecord]:
    found: list[TraceRecord] = []
    async with aclosing(ControlClient(path).subscribe(since, kinds)) as records:
        async for record in records:
            found.append(record)
            if len(found) == number:
                break
    return found


def test_a_subscription_replays_resumes_and_follows(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def run() -> None:
        trace = recorder()
        for name in ("one", "two", "three"):
            trace.event(name, f"{name}.", {"name": name}, "session-1")
        async with ControlServer(path, {}, trace):
            assert await take(path, 3, 0) == list(trace.since(0))
            assert [record.body["name"] for record in await take(path, 1, 2)] == ["three"]
            following = asyncio.create_task(take(path, 2, 2))
            probe = asyncio.create_task(take(path, 1, 0))
            await probe
            trace.event("four", "four.")
            assert [record.body["name"] for record in await following] == ["three", "four"]

    asyncio.run(run())


def test_null_follows_from_now_and_kinds_filter(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def run() -> None:
        trace = recorder()
        trace.event("before", "before.")
        async with ControlServer(path, {}, trace):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b'{"id":1,"method":"trace.subscribe","params":{"kinds":["event"]}}\n')
            standing = json.loads(await reader.readuntil(b"\n"))["result"]
            assert standing == {"node": "epdg", "started": 1.7e9, "sequence": 1, "oldest": 1}
            trace.record(Kind.STATE, {"machine": "m", "old": "a", "new": "b", "why": "test"})
            trace.event("after", "after.")
            event = json.loads(await reader.readuntil(b"\n"))["event"]
            assert (event["sequence"], event["body"]["name"]) == (3, "after")
            writer.write(b'{"id":2,"method":"trace.subscribe"}\n')
            assert json.loads(await reader.readuntil(b"\n"))["error"]["code"] == "refused"
            writer.close()

    asyncio.run(run())


def test_what_left_the_ring_is_told_and_a_restarted_node_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def run() -> None:
        trace = recorder(ring=4)
        for number in range(10):
            trace.event("tick", f"{number}.")
        async with ControlServer(path, {}, trace):
            notice, *rest = await take(path, 5, 3)
            assert notice.body["name"] == "records-dropped"
            assert notice.body["data"] == {"first": 4, "last": 6}
            assert notice.sequence == 6
            assert [record.sequence for record in rest] == [7, 8, 9, 10]
            # a client that followed the node's former life to record 500
            assert [record.sequence for record in await take(path, 5, 500)] == [6, 7, 8, 9, 10]

    asyncio.run(run())


def test_what_a_node_has_kept_comes_without_the_kinds_that_nobody_wants(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def run() -> None:
        trace = recorder(ring=4)
        async with ControlServer(path, {}, trace):
            assert await ControlClient(path).kept() == []
            for number in range(4):
                trace.event("tick", f"{number}.")
            trace.export_keys = True
            trace.record(Kind.KEYS, {"sk_ei": "5ec2e7"}, "session-1")
            request = b'{"id":1,"method":"trace.subscribe","params":{"since":0,"kinds":["event"],"follow":false}}\n'
            standing, *told, end = await lines_of(path, request, 6)
            assert standing["result"]["sequence"] == 5
            assert [line["event"]["body"]["name"] for line in told] == ["records-dropped", "tick", "tick", "tick"]
            assert end == {"end": 5}
            assert [record.sequence for record in await ControlClient(path).kept(["event"])] == [1, 2, 3, 4]
            assert [record.kind for record in await ControlClient(path).kept()][-1] is Kind.KEYS

    asyncio.run(run())


def test_a_node_that_ends_before_it_has_told_everything_is_named_so(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def run() -> None:
        async def cut_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\n")
            writer.write(b'{"id":1,"result":{"sequence":5}}\n')
            writer.close()

        server = await asyncio.start_unix_server(cut_off, str(path))
        with pytest.raises(BackendError, match="before it had given its records"):
            await ControlClient(path).kept()
        server.close()
        await server.wait_closed()

    asyncio.run(run())


def test_a_reader_that_does_not_read_delays_nobody(tmp_path: Path) -> None:
    path = tmp_path / "s"
    text = "x" * 2000

    async def run() -> None:
        trace = recorder(ring=50)
        async with ControlServer(path, {"echo": echo}, trace):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b'{"id":1,"method":"trace.subscribe","params":{"since":0}}\n')
            await reader.readuntil(b"\n")
            for number in range(2000):  # far more than the socket's buffers and the ring hold
                trace.event("tick", text)
                if number % 50 == 49:  # the node goes on answering others meanwhile
                    assert await ControlClient(path).call("echo", a=number) == {"a": number}
            notices, numbers = [], []
            while not numbers or numbers[-1] < 2000:
                event = json.loads(await reader.readuntil(b"\n"))["event"]
                if event["body"]["name"] == "records-dropped":
                    notices.append(event["body"]["data"])
                else:
                    numbers.append(event["sequence"])
            writer.close()
            lost = [n for notice in notices for n in range(notice["first"], notice["last"] + 1)]
            assert lost
            assert sorted(numbers + lost) == list(range(1, 2001))

    asyncio.run(run())


def test_a_node_that_ends_ends_its_subscriptions(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def run() -> None:
        trace = recorder()
        trace.event("only", "only.")
        server = ControlServer(path, {}, trace)
        await server.start()
        found = []
        async with aclosing(ControlClient(path).subscribe(0)) as records:
            async for record in records:
                found.append(record)
                await server.close()
        assert len(found) == 1

    asyncio.run(run())
