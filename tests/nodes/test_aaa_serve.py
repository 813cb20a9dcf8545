"""``aaa serve`` as a process: attached to over Diameter, watched over its control socket, ended by signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aaa.command_line import application
from aaa.subscribers import SubscriberDatabase
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ExperimentalResultCode, ResultCode
from protocols.diameter.swm import Dea
from protocols.eap.packet import EapCode, EapPacket
from protocols.io.control import ControlClient, ControlError, call_sync
from protocols.io.diameter import DiameterIdentity, DiameterNode, PeerAddress
from protocols.secret import Secret
from protocols.trace.records import TraceRecord
from tests.harness.aka_user import AkaUser, aka_user
from tests.peers.aaa_node import GATEWAY, HOST, REALM, AaaProcess, Gateway, free_port, run_aaa

USER, BARRED, ELSEWHERE = (laboratory_subscriber(number) for number in (1, 2, 3))
SUCCESS = Result.of(ResultCode.DIAMETER_SUCCESS)
MULTI_ROUND = Result.of(ResultCode.DIAMETER_MULTI_ROUND_AUTH)


@pytest.fixture(scope="module")
def aaa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AaaProcess]:
    """One node for the tests that leave it as it was."""
    node = AaaProcess(tmp_path_factory.mktemp("aaa"))
    node.provision(USER, replace(BARRED, enabled=False), replace(ELSEWHERE, non_3gpp_allowed=False))
    with node:
        yield node


def attach(node: AaaProcess, user: AkaUser, *, apn: str | None = "internet") -> list[Dea]:
    async def run() -> list[Dea]:
        async with Gateway.connected(node.port) as gateway:
            return await gateway.attach(user, apn=apn)

    return asyncio.run(run())


def records(node: AaaProcess, since: int = 0) -> list[TraceRecord]:
    """What the node has recorded after ``since``."""

    async def run() -> list[TraceRecord]:
        found: list[TraceRecord] = []
        last = await sequence()
        if last <= since:
            return found
        async with contextlib.aclosing(ControlClient(node.control).subscribe(since)) as stream:
            async for record in stream:
                found.append(record)
                if record.sequence >= last:
                    break
        return found

    async def sequence() -> int:
        answer = await ControlClient(node.control).call("trace.subscribe")
        assert isinstance(answer, dict)
        last = answer["sequence"]
        assert isinstance(last, int)
        return last

    return asyncio.run(run())


def test_success_gives_both_ends_the_same_key(aaa: AaaProcess) -> None:
    user = aka_user(USER)
    since = len(records(aaa))
    challenge, success = attach(aaa, user)
    assert challenge.result == MULTI_ROUND
    assert success.result == SUCCESS
    assert success.master_session_key == user.msk
    assert success.user_name == user.nai
    assert success.apn_configuration is not None
    assert success.apn_configuration.service_selection == "internet"
    assert success.session_timeout == 86_400
    seen = records(aaa, since)
    names = [r.body["name"] for r in seen if r.kind.value == "message" and r.body["protocol"] == "diameter"]
    assert [name for name in names if name in ("DER", "DEA")] == ["DER", "DEA", "DER", "DEA"]
    eap = [r.body["name"] for r in seen if r.kind.value == "message" and r.body["protocol"] == "eap"]
    assert eap == [
        "EAP-Response/Identity",
        "EAP-Request/AKA-Challenge",
        "EAP-Response/AKA-Challenge",
        "EAP-Success",
    ]
    events = {r.body["name"]: r for r in seen if r.kind.value == "event"}
    assert "peer-up" in events
    assert events["authenticated"].body["text"] == (
        f"Subscriber {USER.imsi} was authenticated and authorised for APN internet."
    )
    # the key is in the DEA, and nowhere in the trace: key export is off
    assert user.msk is not None
    assert user.msk.reveal().hex() not in json.dumps([r.to_json() for r in seen])


def test_key_export_lets_the_key_into_the_trace(tmp_path: Path) -> None:
    with AaaProcess(tmp_path, extra="trace: {export_keys: true}\n") as node:
        node.provision(USER)
        user = aka_user(USER)
        attach(node, user)
        assert user.msk is not None
        assert user.msk.reveal().hex() in json.dumps([r.to_json() for r in records(node)])


@pytest.mark.parametrize(
    ("user", "apn", "result", "cause"),
    [
        (
            aka_user(USER, k=Secret(bytes(16))),
            "internet",
            ResultCode.DIAMETER_AUTHENTICATION_REJECTED,
            "authentication-failed",
        ),
        (
            aka_user(laboratory_subscriber(99)),
            "internet",
            ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN,
            "user-unknown",
        ),
        (
            aka_user(USER),
            "nowhere",
            ExperimentalResultCode.DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION,
            "apn-not-subscribed",
        ),
        (aka_user(BARRED), "internet", ResultCode.DIAMETER_AUTHORIZATION_REJECTED, "subscriber-disabled"),
        (
            aka_user(ELSEWHERE),
            "internet",
            ExperimentalResultCode.DIAMETER_ERROR_USER_NO_NON_3GPP_SUBSCRIPTION,
            "non-3gpp-not-subscribed",
        ),
    ],
    ids=["wrong K", "unknown IMSI", "unknown APN", "disabled", "no non-3GPP"],
)
def test_refusals(aaa: AaaProcess, user: AkaUser, apn: str, result: int, cause: str) -> None:
    since = len(records(aaa))
    answer = attach(aaa, user, apn=apn)[-1]
    assert answer.result == Result.of(result)
    assert answer.master_session_key is None
    assert answer.eap_payload is not None
    assert EapPacket.decode(answer.eap_payload).code is EapCode.FAILURE
    assert user.failed
    (refused,) = [r for r in records(aaa, since) if r.body.get("name") == "refused"]
    data = refused.body["data"]
    assert isinstance(data, dict)
    assert (data["cause"], data["result"]) == (cause, int(result))


def test_resynchronisation(aaa: AaaProcess) -> None:
    ahead = aka_user(USER, seq_ms=1 << 20)
    assert [answer.result for answer in attach(aaa, ahead)] == [MULTI_ROUND, MULTI_ROUND, SUCCESS]
    assert [answer.result for answer in attach(aaa, ahead.again())] == [MULTI_ROUND, SUCCESS]


def test_sessions_are_listed_and_closed_by_str(aaa: AaaProcess) -> None:
    async def run() -> None:
        control = ControlClient(aaa.control)
        user = aka_user(laboratory_subscriber(4))
        aaa.provision(laboratory_subscriber(4))
        async with Gateway.connected(aaa.port) as gateway:
            session_id = gateway.session_id()
            await gateway.attach(user, session_id=session_id)
            listed = await control.call("sessions.list", imsi=str(user.usim.imsi))
            assert isinstance(listed, dict)
            assert isinstance(listed["sessions"], list)
            (session,) = listed["sessions"]
            assert isinstance(session, dict)
            assert (session["id"], session["state"], session["apn"]) == (session_id, "authenticated", "internet")
            shown = run_aaa("sessions", "-c", aaa.configuration, "--imsi", str(user.usim.imsi))
            assert (shown.returncode, session_id in shown.stdout) == (0, True)
            peers = await control.call("peers.list")
            assert isinstance(peers, dict)
            assert isinstance(peers["peers"], list)
            assert [p["received"].get("DER") for p in peers["peers"]] == [2]  # type: ignore[index, union-attr, call-overload]
            assert (await gateway.terminate(session_id, user.nai)).result == SUCCESS
            again = await gateway.terminate(session_id, user.nai)
            assert again.result == Result.of(ResultCode.DIAMETER_UNKNOWN_SESSION_ID)
            with pytest.raises(ControlError, match="no session"):
                await control.call("sessions.get", id=session_id)

    asyncio.run(run())


def test_many_users_at_once(aaa: AaaProcess) -> None:
    users = [laboratory_subscriber(number) for number in range(100, 120)]
    aaa.provision(*users)

    async def run() -> list[list[Dea]]:
        async with Gateway.connected(aaa.port) as gateway:
            return await asyncio.gather(*(gateway.attach(aka_user(user)) for user in users))

    assert [answers[-1].result for answers in asyncio.run(run())] == [SUCCESS] * len(users)


def test_restart_never_repeats_a_sequence_number(tmp_path: Path) -> None:
    """The USIM refuses a repeated SQN by asking to resynchronise; after a restart it must not need to."""
    node = AaaProcess(tmp_path)
    node.provision(USER)
    user = aka_user(USER)
    accepted: list[int] = []
    for _ in range(3):
        with node:
            assert [answer.result for answer in attach(node, user)] == [MULTI_ROUND, SUCCESS]
            accepted.append(user.usim.sqn_ms)
            assert node.stop() == 0
        user = user.again()
    assert accepted == sorted(set(accepted))


def test_sigterm_disconnects_peers_and_exits_cleanly(tmp_path: Path) -> None:
    with AaaProcess(tmp_path) as node:

        async def run() -> list[str]:
            seen: list[str] = []
            async with Gateway.connected(node.port) as gateway:
                gone = asyncio.Event()
                gateway.node.on_traffic(lambda t: seen.append(t.message.name if t.message else "?"))
                gateway.node.on_peer(lambda change: None if change.is_up else gone.set())
                status = asyncio.get_running_loop().run_in_executor(None, node.stop)
                await asyncio.wait_for(gone.wait(), 10)
                assert await status == 0
            return seen

        assert asyncio.run(run())[:2] == ["DPR", "DPA"]
        assert not node.control.exists()
        assert "Traceback" not in node.log()


def test_database_failure_is_answered_and_survived(tmp_path: Path) -> None:
    with AaaProcess(tmp_path) as node:
        node.provision(USER)
        database = tmp_path / "aaa.db"
        kept = database.read_bytes()
        database.write_bytes(b"this is no database any more" * 200)
        answer = attach(node, aka_user(USER))[-1]
        assert answer.result == Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)
        database.write_bytes(kept)
        assert attach(node, aka_user(USER))[-1].result == SUCCESS
        assert "Traceback" not in node.log()


def test_garbage_on_the_port_harms_nobody(tmp_path: Path) -> None:
    with AaaProcess(tmp_path) as node:
        node.provision(USER)
        with socket.create_connection(("127.0.0.1", node.port), timeout=10) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\nHost: aaa\r\n\r\n")
            with pytest.raises(ConnectionResetError):  # RFC 6733 §2.1
                stranger.recv(64)
        status = call_sync(node.control, "node.status")
        assert isinstance(status, dict)
        assert status["dropped"] == {"diameter": {"not Diameter version 1": 1}}
        assert attach(node, aka_user(USER))[-1].result == SUCCESS
        assert "Traceback" not in node.log()


def test_unfinished_sessions_expire(tmp_path: Path) -> None:
    with AaaProcess(tmp_path, extra="sessions: {unfinished_interval: 0.2}\n") as node:
        node.provision(USER)

        async def run() -> TraceRecord:
            stream = ControlClient(node.control).subscribe(0, ["event"])
            async with Gateway.connected(node.port) as gateway, contextlib.aclosing(stream):
                await gateway.exchange(gateway.session_id(), b"")  # EAP-Start, and then silence
                async with asyncio.timeout(10):
                    async for record in stream:
                        if record.body["name"] == "session-expired":
                            return record
            raise AssertionError("the trace ended")

        assert "did not continue" in str(asyncio.run(run()).body["text"])
        status = call_sync(node.control, "node.status")
        assert isinstance(status, dict)
        assert status["sessions"] == 0


def test_unknown_peers_are_refused(tmp_path: Path) -> None:
    with AaaProcess(tmp_path, listen=", known_peers: [other.example.org]") as node:

        async def run() -> None:
            stream = ControlClient(node.control).subscribe(0, ["message"])
            gateway = DiameterNode(DiameterIdentity(host=GATEWAY, realm=REALM))
            async with asyncio.timeout(10), contextlib.aclosing(stream):
                gateway.add_peer(PeerAddress(host=HOST, address="127.0.0.1", port=node.port))
                async for record in stream:
                    if record.body["name"] == "CEA":
                        detail = record.body["detail"]
                        assert isinstance(detail, dict)
                        assert "DIAMETER_UNKNOWN_PEER" in str(detail["Result-Code"])
                        break
            assert not any(peer.state == "Open" for peer in gateway.peers())
            await gateway.close()

        asyncio.run(run())


# --- how it refuses to start ------------------------------------------------------------------------


def test_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        node = AaaProcess(tmp_path, port=holder.getsockname()[1])
        result = run_aaa("serve", "-c", node.write_configuration())
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]  # before it: a warning that keys are stored in clear
    assert str(node.port) in line
    assert "listen" in line


def test_control_socket_in_use_is_one_line(tmp_path: Path) -> None:
    with AaaProcess(tmp_path) as node:
        node.port = free_port()
        result = run_aaa("serve", "-c", node.write_configuration())
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]  # before it: a warning that keys are stored in clear
    assert "aaa.sock is in use" in line


@pytest.mark.parametrize(
    ("change", "named", "expected"),
    [
        (("port: 0", "port: seventy"), "listen.port", "whole number"),
        (("port: 0", "port: 70000"), "listen.port", "65535"),
        (("database: sqlite:///aaa.db", "database: somewhere"), "database", "SQLAlchemy URL"),
        (("database: sqlite:///aaa.db", "database: 'sqlite://'"), "database", "in memory"),
        (("control: aaa.sock\n", ""), "control", "a value"),
        (("realm:", "realmm:"), "identity.", ""),
        (("control: aaa.sock", "control: aaa.sock\neap: {identity_request: all}"), "eap.identity_request", "permanent"),
        (("control: aaa.sock", "control: aaa.sock\nsessions: {timeout: 0}"), "sessions.timeout", "at least 1"),
        (("control: aaa.sock", "control: aaa.sock\ncontrol: b.sock"), "control", "once"),
        (("identity: {", "identity: {{"), "(syntax)", "YAML"),
        (("sqlite:///aaa.db", "postgresql+psycopg://u:p@q:secretword@host/db"), "database", "SQLAlchemy URL"),
    ],
)
def test_bad_configuration_is_one_line(tmp_path: Path, change: tuple[str, str], named: str, expected: str) -> None:
    node = AaaProcess(tmp_path)
    file = node.write_configuration()
    text = file.read_text()
    assert change[0] in text
    file.write_text(text.replace(*change))
    result = CliRunner().invoke(application, ["serve", "-c", str(file)])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(str(file))
    assert named in line
    assert expected in line
    assert "secretword" not in line


def test_missing_configuration_file_is_one_line(tmp_path: Path) -> None:
    result = run_aaa("serve", "-c", tmp_path / "none.yaml")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1


def test_migrations_run_at_start(tmp_path: Path) -> None:
    with AaaProcess(tmp_path) as node:
        with SubscriberDatabase(node.database_url) as database:
            assert database.revision() == database.migrate()
        assert (tmp_path / "aaa.db").stat().st_mode & 0o777 == 0o600
