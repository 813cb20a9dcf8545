"""AAA server and HSS as two processes that speak SWx (TS 29.273 §8), behind a gateway and beside other servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aaa.command_line import application
from aaa.subscribers import Subscriber
from aaa.subscribers.laboratory import laboratory_subscriber
from dashboards.ladder import build
from dashboards.ring import Source, Trace, select
from protocols.algorithms.vector import AMF_SEPARATION, generate_vector, xor
from protocols.diameter.codec import DiameterMessage, Result
from protocols.diameter.dictionary import (
    SWX_APPLICATION,
    CommandCode,
    ExperimentalResultCode,
    ResultCode,
    ServerAssignmentType,
)
from protocols.diameter.swm import Dea, SessionIdSource
from protocols.diameter.swx import EAP_AKA, EAP_AKA_PRIME, Maa, Mar, Ppa, Ppr, Rta, Rtr, Saa, Sar
from protocols.eap.aka.keys import derive_ck_ik_prime
from protocols.io.control import ControlClient, ControlError, call_sync
from protocols.io.diameter import SWX, DiameterIdentity, DiameterNode, PeerAddress
from protocols.secret import Secret
from protocols.threegpp.identity import Plmn
from protocols.trace.records import JsonValue, TraceRecord
from tests.harness.aka_user import AkaUser, aka_user
from tests.peers.aaa_node import GATEWAY, HOST, REALM, AaaProcess, Gateway, run_aaa
from tests.peers.processes import wait_until

HSS = "hss.epc.mnc001.mcc001.3gppnetwork.org"
OTHER = "aaa2.epc.mnc001.mcc001.3gppnetwork.org"
TIMEOUT = 10.0
SUCCESS = Result.of(ResultCode.DIAMETER_SUCCESS)
MULTI_ROUND = Result.of(ResultCode.DIAMETER_MULTI_ROUND_AUTH)
UNABLE = Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)
USER, WITHOUT, HOMEBODY, WIRED, BARRED = (laboratory_subscriber(number) for number in range(1, 6))
VISITED = "mnc002.mcc262.3gppnetwork.org"


@dataclass
class Home:
    """An HSS, and an AAA server that finds it on loopback."""

    hss: AaaProcess
    aaa: AaaProcess

    @classmethod
    def started(cls, directory: Path, *, hss_keys: str = "poll_interval: 0.1") -> Home:
        """Both, the HSS first."""
        hss = AaaProcess(directory, role="hss", name="hss", host=HSS, extra=f"hss: {{{hss_keys}}}\n")
        hss.provision(*_SUBSCRIBERS)
        hss.start()
        aaa = AaaProcess(directory, role="aaa", extra=to_the_hss(hss.port))
        aaa.start()
        home = cls(hss, aaa)
        home.wait_for_swx()
        return home

    def wait_for_swx(self) -> None:
        """Until the AAA server has its HSS."""
        wait_until(lambda: self.swx_state() == "Open", what="SWx", timeout=TIMEOUT, log=self.aaa.log)

    def swx_state(self) -> str | None:
        """The state of the connection to the HSS, as the AAA server sees it."""
        answer = call_sync(self.aaa.control, "peers.list")
        assert isinstance(answer, dict)
        peers = answer["peers"]
        assert isinstance(peers, list)
        found = [peer for peer in peers if isinstance(peer, dict) and peer["host"] == HSS]
        assert {peer["interface"] for peer in found} <= {"SWx"}
        return str(found[0]["state"]) if found else None

    def registration(self, subscriber: Subscriber) -> dict[str, JsonValue] | None:
        """What the HSS knows of where the user is."""
        try:
            found = call_sync(self.hss.control, "registrations.get", imsi=str(subscriber.imsi))
        except ControlError:
            return None
        assert isinstance(found, dict)
        return found


def to_the_hss(port: int, *, timeout: float = 5.0) -> str:
    return f"hss: {{timeout: {timeout}, peers: [{{host: {HSS}, address: 127.0.0.1, port: {port}}}]}}\n"


_SUBSCRIBERS = (
    USER,
    replace(WITHOUT, non_3gpp_allowed=False),
    replace(HOMEBODY, roaming_allowed=False),
    replace(WIRED, wlan_allowed=False),
    replace(BARRED, enabled=False),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Two processes for the tests that leave them as they were."""
    home = Home.started(tmp_path_factory.mktemp("swx"))
    with contextlib.ExitStack() as stack:
        stack.push(home.hss.__exit__)
        stack.push(home.aaa.__exit__)
        yield home
    assert "Traceback" not in home.aaa.log() + home.hss.log()


@contextlib.contextmanager
def own_home(directory: Path) -> Iterator[Home]:
    """Two processes for one test."""
    home = Home.started(directory)
    with contextlib.ExitStack() as stack:
        stack.push(home.hss.__exit__)
        stack.push(home.aaa.__exit__)
        yield home
    assert "Traceback" not in home.aaa.log() + home.hss.log()


def attach(home: Home, user: AkaUser, *, apn: str | None = "internet", visited: str | None = None) -> list[Dea]:
    async def run() -> list[Dea]:
        async with Gateway.connected(home.aaa.port) as gateway:
            return await gateway.attach(user, apn=apn, visited=visited)

    return asyncio.run(run())


def records(node: AaaProcess) -> list[TraceRecord]:
    """Everything the node has recorded."""

    async def run() -> list[TraceRecord]:
        found: list[TraceRecord] = []
        answer = await ControlClient(node.control).call("trace.subscribe")
        assert isinstance(answer, dict)
        last = answer["sequence"]
        assert isinstance(last, int)
        async with contextlib.aclosing(ControlClient(node.control).subscribe(0)) as stream:
            async for record in stream:
                found.append(record)
                if record.sequence >= last:
                    break
        return found

    return asyncio.run(run())


def arrows_of_swx(
    nodes: list[tuple[str, AaaProcess]], subscriber: Subscriber
) -> list[tuple[str, str | None, str | None, bool | None, list[str]]]:
    """The subscriber's messages of SWx in the ladder: name, from, to, whether it arrived, who saw it."""
    sources = []
    for kind, node in nodes:
        trace = Trace(kind, ring=10_000)
        for record in records(node):
            trace.append(record)
        sources.append(Source(kind, kind, trace))
    entries, _, _ = build(select(sources, "none", {"imsi": str(subscriber.imsi)}), now=0.0)
    return [(e.name, e.source, e.target, e.arrived, e.seen_by) for e in entries if e.interface == "SWx"]


class OtherServer:
    """Another AAA server, which asks the HSS what the test wants and keeps what it is told."""

    def __init__(self, node: DiameterNode) -> None:
        self.node = node
        self.pushed: list[Rtr | Ppr] = []
        self._session_ids = SessionIdSource(node.identity.host, wall=1)
        node.on_request(SWX_APPLICATION, CommandCode.REGISTRATION_TERMINATION, self._terminated)
        node.on_request(SWX_APPLICATION, CommandCode.PUSH_PROFILE, self._changed)

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, port: int) -> AsyncIterator[OtherServer]:
        identity = DiameterIdentity(host=OTHER, realm=REALM, applications=(SWX,))
        node = DiameterNode(identity, reconnect_interval=0.05)
        server = cls(node)
        try:
            node.add_peer(PeerAddress(host=HSS, address="127.0.0.1", port=port))
            await node.wait_open(TIMEOUT)
            yield server
        finally:
            await node.close()

    async def vectors(self, user_name: str, *, scheme: str = EAP_AKA, count: int = 1, anid: str | None = None) -> Maa:
        """MAR --> ; <-- MAA"""
        mar = Mar(
            session_id=self._session_ids.next(),
            origin_host=OTHER,
            origin_realm=REALM,
            destination_realm=REALM,
            user_name=user_name,
            scheme=scheme,
            number_of_items=count,
            access_network_identity=anid,
        )
        return Maa.from_message(await self.node.request(mar.to_message(), TIMEOUT))

    async def assign(self, subscriber: Subscriber, kind: ServerAssignmentType, **fields: str) -> Saa:
        """SAR --> ; <-- SAA"""
        sar = Sar(
            session_id=self._session_ids.next(),
            origin_host=OTHER,
            origin_realm=REALM,
            destination_realm=REALM,
            user_name=str(subscriber.imsi),
            server_assignment_type=kind,
            service_selection=fields.get("apn"),
            pgw=fields.get("pgw"),
        )
        return Saa.from_message(await self.node.request(sar.to_message(), TIMEOUT))

    async def _terminated(self, message: DiameterMessage) -> DiameterMessage:
        rtr = Rtr.from_message(message)
        self.pushed.append(rtr)
        answer = Rta(session_id=rtr.session_id, origin_host=OTHER, origin_realm=REALM, result=SUCCESS)
        return answer.to_message(message)

    async def _changed(self, message: DiameterMessage) -> DiameterMessage:
        ppr = Ppr.from_message(message)
        self.pushed.append(ppr)
        answer = Ppa(session_id=ppr.session_id, origin_host=OTHER, origin_realm=REALM, result=SUCCESS)
        return answer.to_message(message)


# --- a user attaches --------------------------------------------------------------------------------


def test_an_attach_is_mar_sar_and_the_session_s_end_is_sar(home: Home) -> None:
    user = aka_user(USER)

    async def run() -> list[Dea]:
        async with Gateway.connected(home.aaa.port) as gateway:
            session = gateway.session_id()
            answers = await gateway.attach(user, session_id=session)
            registered = await ControlClient(home.hss.control).call("registrations.get", imsi=str(USER.imsi))
            assert registered == {"imsi": str(USER.imsi), "server": HOST, "realm": REALM, "pgws": {}}
            assert (await gateway.terminate(session, user.nai)).result == SUCCESS
            return answers

    challenge, success = asyncio.run(run())
    assert (challenge.result, success.result) == (MULTI_ROUND, SUCCESS)
    assert success.master_session_key == user.msk
    assert success.apn_configuration is not None
    assert success.apn_configuration.service_selection == "internet"
    assert success.apn_configuration.qos is not None
    wait_until(lambda: home.registration(USER) is None, what="deregistration", timeout=TIMEOUT)
    for node, first in ((home.aaa, "out"), (home.hss, "in")):
        seen = [
            record
            for record in records(node)
            if record.kind.value == "message" and record.body["name"] in ("MAR", "MAA", "SAR", "SAA")
        ]
        assert [r.body["name"] for r in seen[:6]] == ["MAR", "MAA", "SAR", "SAA", "SAR", "SAA"]
        assert {r.body["interface"] for r in seen} == {"SWx"}
        assert {r.session for r in seen} == {str(USER.imsi)}
        assert seen[0].body["direction"] == first
    # neither keys of vectors nor the MSK are in any trace
    text = json.dumps([record.to_json() for node in (home.aaa, home.hss) for record in records(node)])
    assert user.msk is not None
    assert user.msk.reveal().hex() not in text
    for record in records(home.hss):
        if record.kind.value == "message" and record.body["name"] == "MAA":
            assert "0000" in text  # what stands in a key's place
            break


@pytest.mark.parametrize(
    ("user", "apn", "visited", "result", "rounds"),
    [
        (
            aka_user(laboratory_subscriber(99)),
            "internet",
            None,
            ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN,
            1,
        ),
        (
            aka_user(WITHOUT),
            "internet",
            None,
            ExperimentalResultCode.DIAMETER_ERROR_USER_NO_NON_3GPP_SUBSCRIPTION,
            1,
        ),
        (
            aka_user(HOMEBODY),
            "internet",
            VISITED,
            ExperimentalResultCode.DIAMETER_ERROR_ROAMING_NOT_ALLOWED,
            1,
        ),
        (aka_user(WIRED), "internet", None, ExperimentalResultCode.DIAMETER_ERROR_RAT_TYPE_NOT_ALLOWED, 1),
        (aka_user(BARRED), "internet", None, ResultCode.DIAMETER_AUTHORIZATION_REJECTED, 3),
        (aka_user(USER), "nowhere", None, ExperimentalResultCode.DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION, 3),
        (aka_user(USER, k=Secret(bytes(16))), "internet", None, ResultCode.DIAMETER_AUTHENTICATION_REJECTED, 2),
    ],
    ids=["unknown", "no non-3GPP", "roaming", "RAT", "barred", "APN", "wrong K"],
)
def test_what_the_hss_says_reaches_the_gateway(
    home: Home, user: AkaUser, apn: str, visited: str | None, result: int, rounds: int
) -> None:
    """TS 29.273 §8.1.2.1.2 to §7.2.2.1.2; the user is not left registered."""
    answers = attach(home, user, apn=apn, visited=visited)
    assert len(answers) == rounds
    assert answers[-1].result == Result.of(result)
    assert user.failed
    wait_until(lambda: home.registration(USER) is None, what="deregistration", timeout=TIMEOUT)


def test_who_may_not_roam_is_served_at_home(home: Home) -> None:
    answers = attach(home, aka_user(HOMEBODY), visited=Plmn("001", "01").domain)
    assert answers[-1].result == SUCCESS


def test_a_subscription_that_is_bound_to_a_device_is_used_in_no_other(home: Home) -> None:
    """Terminal-Information of the DER is in the SAR, and the HSS judges it."""
    subscriber = replace(laboratory_subscriber(26), imei="356938035643809")
    home.hss.provision(subscriber)

    async def run() -> list[Result]:
        async with Gateway.connected(home.aaa.port) as gateway:
            return [
                (await gateway.attach(aka_user(subscriber, seq_ms=number << 10), imei=imei))[-1].result
                for number, imei in enumerate((None, "490154203237518", "356938035643809", "490154203237518"))
            ]

    illegal = Result.of(ExperimentalResultCode.DIAMETER_ERROR_ILLEGAL_EQUIPMENT)
    assert asyncio.run(run()) == [illegal, illegal, SUCCESS, illegal]


def test_how_long_the_hss_takes_is_counted_by_command(home: Home) -> None:
    def counts() -> list[object]:
        status = call_sync(home.aaa.control, "node.status")
        assert isinstance(status, dict)
        figures = status["figures"]
        assert isinstance(figures, dict)
        assert set(figures) == {"aaa"}
        assert isinstance(figures["aaa"], dict)
        taken = figures["aaa"]["round_trips"]
        assert isinstance(taken, dict)
        found = [taken.get(name, {"count": 0, "sum": 0}) for name in ("MAR", "SAR")]
        assert all(isinstance(each, dict) and 0 <= each["sum"] < TIMEOUT for each in found)
        return [each["count"] for each in found if isinstance(each, dict)]

    async def run() -> None:
        user = aka_user(USER)
        async with Gateway.connected(home.aaa.port) as gateway:
            session = gateway.session_id()
            await gateway.attach(user, session_id=session)
            await gateway.terminate(session, user.nai)

    before = counts()
    asyncio.run(run())
    wait_until(lambda: home.registration(USER) is None, what="deregistration", timeout=TIMEOUT)
    after = counts()
    assert [0 if one == other else 1 for one, other in zip(before, after, strict=True)] == [1, 1]


def test_a_ladder_has_the_hss_as_a_column_of_its_own(home: Home) -> None:
    subscriber = laboratory_subscriber(27)
    home.hss.provision(subscriber)
    assert attach(home, aka_user(subscriber))[-1].result == SUCCESS
    assert arrows_of_swx([("aaa", home.aaa), ("hss", home.hss)], subscriber) == [
        ("MAR", "AAA", "HSS", True, ["aaa", "hss"]),
        ("MAA", "HSS", "AAA", True, ["hss", "aaa"]),
        ("SAR", "AAA", "HSS", True, ["aaa", "hss"]),
        ("SAA", "HSS", "AAA", True, ["hss", "aaa"]),
    ]


def test_resynchronisation_over_swx(home: Home) -> None:
    subscriber = laboratory_subscriber(20)
    home.hss.provision(subscriber)
    ahead = aka_user(subscriber, seq_ms=1 << 20)
    assert [answer.result for answer in attach(home, ahead)] == [MULTI_ROUND, MULTI_ROUND, SUCCESS]
    assert [answer.result for answer in attach(home, ahead.again())] == [MULTI_ROUND, SUCCESS]


# --- the HSS ----------------------------------------------------------------------------------------


def test_vectors_of_both_methods_and_no_more_of_them_than_five(home: Home) -> None:
    subscriber = laboratory_subscriber(21)
    home.hss.provision(subscriber)
    functions = subscriber.keys.functions()

    async def run() -> tuple[Maa, Maa, Maa, Maa]:
        async with OtherServer.connected(home.hss.port) as other:
            name = str(subscriber.imsi)
            return (
                await other.vectors(name, count=3),
                await other.vectors(name, count=1000),
                await other.vectors(name, scheme=EAP_AKA_PRIME, anid="WLAN"),
                await other.vectors(name, scheme=EAP_AKA_PRIME),
            )

    three, many, prime, nameless = asyncio.run(run())
    assert (len(three.items), len(many.items)) == (3, 5)
    assert len({item.autn for item in (*three.items, *many.items)}) == 8
    (item,) = prime.items
    assert item.scheme == EAP_AKA_PRIME
    output = functions.f2345(item.rand)
    assert item.autn[6] & AMF_SEPARATION[0]  # TS 33.402 §6.2
    sqn = int.from_bytes(xor(item.autn[:6], output.ak), "big")
    expected = generate_vector(functions, rand=item.rand, sqn=sqn, amf=item.autn[6:8])
    assert (item.autn, item.xres) == (expected.autn, expected.xres)
    assert (item.ck, item.ik) == derive_ck_ik_prime(
        output.ck, output.ik, network_name=b"WLAN", sqn_xor_ak=item.autn[:6]
    )
    assert nameless.result == Result.of(ResultCode.DIAMETER_MISSING_AVP)


def test_a_user_is_served_by_one_server_until_it_lets_go(home: Home) -> None:
    """TS 29.273 §8.1.2.1.2: 5005 with 3GPP-AAA-Server-Name; on SWm a redirection (RFC 6733 §6.1.8)."""
    subscriber = laboratory_subscriber(22)
    home.hss.provision(subscriber)

    async def run() -> None:
        async with (
            OtherServer.connected(home.hss.port) as other,
            Gateway.connected(home.aaa.port) as gateway,
        ):
            assert (await other.vectors(str(subscriber.imsi))).result == SUCCESS
            registered = await other.assign(subscriber, ServerAssignmentType.REGISTRATION)
            assert registered.user_data is not None
            assert registered.user_data.apns[0].service_selection == "internet"
            (answer,) = await gateway.attach(aka_user(subscriber))
            assert answer.result == Result.of(ResultCode.DIAMETER_REDIRECT_INDICATION)
            assert answer.eap_payload is None
            released = await other.assign(subscriber, ServerAssignmentType.USER_DEREGISTRATION)
            assert (released.result, released.user_data) == (SUCCESS, None)
            assert (await gateway.attach(aka_user(subscriber)))[-1].result == SUCCESS
            refused = await other.vectors(str(subscriber.imsi))
            assert refused.result == Result.of(ExperimentalResultCode.DIAMETER_ERROR_IDENTITY_ALREADY_REGISTERED)
            assert (refused.server_name, refused.user_name) == (HOST, str(subscriber.imsi))

    asyncio.run(run())


def test_the_pgw_that_a_server_reports_is_in_the_profile(home: Home) -> None:
    """TS 29.273 §8.1.2.2.2: PGW_UPDATE, seen in AAA_USER_DATA_REQUEST and RESTORATION, gone with the registration."""
    subscriber = laboratory_subscriber(23)
    home.hss.provision(subscriber)

    async def run() -> None:
        async with OtherServer.connected(home.hss.port) as other:
            assert (await other.assign(subscriber, ServerAssignmentType.AAA_USER_DATA_REQUEST)).result == Result.of(
                ExperimentalResultCode.DIAMETER_ERROR_IDENTITY_NOT_REGISTERED
            )
            await other.vectors(str(subscriber.imsi))
            await other.assign(subscriber, ServerAssignmentType.REGISTRATION)
            updated = await other.assign(
                subscriber, ServerAssignmentType.PGW_UPDATE, apn="internet", pgw="pgw1.epc.example.org"
            )
            assert updated.result == SUCCESS
            for kind in (ServerAssignmentType.AAA_USER_DATA_REQUEST, ServerAssignmentType.RESTORATION):
                told = await other.assign(subscriber, kind)
                assert told.user_data is not None
                assert told.user_data.apns[0].mip6_agent_info == "pgw1.epc.example.org"
            ended = await other.assign(subscriber, ServerAssignmentType.ADMINISTRATIVE_DEREGISTRATION)
            assert ended.result == SUCCESS
            nobody = await other.assign(subscriber, ServerAssignmentType.UNREGISTERED_USER)
            assert nobody.result == Result.of(ResultCode.DIAMETER_INVALID_AVP_VALUE)

    asyncio.run(run())


def test_a_name_that_is_no_imsi_and_a_scheme_that_is_none_are_refused(home: Home) -> None:
    async def run() -> tuple[Maa, Maa]:
        async with OtherServer.connected(home.hss.port) as other:
            return await other.vectors("nobody@example.org"), await other.vectors(str(USER.imsi), scheme="Digest-AKA")

    unknown, digest = asyncio.run(run())
    assert unknown.result == Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN)
    assert digest.result == Result.of(ExperimentalResultCode.DIAMETER_ERROR_AUTH_SCHEME_NOT_SUPPORTED)


# --- what the HSS says on its own -------------------------------------------------------------------


def event(node: AaaProcess, name: str, imsi: str) -> TraceRecord | None:
    for record in records(node):
        if record.kind.value == "event" and record.body["name"] == name:
            data = record.body["data"]
            if isinstance(data, dict) and data.get("imsi") == imsi:
                return record
    return None


def test_changes_in_the_database_reach_the_aaa_server(home: Home) -> None:
    """PPR and RTR (TS 29.273 §8.1.2.3, §8.1.2.2.3) although another process made the changes."""
    subscriber = laboratory_subscriber(24)
    imsi = str(subscriber.imsi)
    home.hss.provision(subscriber)
    assert attach(home, aka_user(subscriber))[-1].result == SUCCESS
    home.hss.provision(replace(subscriber, msisdn="491710000024"))
    wait_until(lambda: event(home.aaa, "profile-changed-by-hss", imsi), what="PPR", timeout=TIMEOUT)
    assert run_aaa("subscriber", "remove", imsi, "-c", home.hss.configuration).returncode == 0
    wait_until(lambda: event(home.aaa, "deregistered-by-hss", imsi), what="RTR", timeout=TIMEOUT)
    wait_until(lambda: home.registration(subscriber) is None, what="deregistration", timeout=TIMEOUT)
    assert event(home.hss, "registration-terminated", imsi) is not None


def test_the_hss_is_told_to_push_and_to_deregister(home: Home) -> None:
    subscriber = laboratory_subscriber(25)
    imsi = str(subscriber.imsi)
    home.hss.provision(subscriber)

    async def run() -> None:
        control = ControlClient(home.hss.control)
        async with OtherServer.connected(home.hss.port) as other:
            await other.vectors(imsi)
            await other.assign(subscriber, ServerAssignmentType.REGISTRATION)
            pushed = await control.call("registrations.push-profile", imsi=imsi)
            ended = await control.call("registrations.terminate", imsi=imsi, reason="the bill is not paid")
            assert isinstance(pushed, dict)
            assert isinstance(ended, dict)
            assert (pushed["success"], ended["success"]) == (True, True)
            ppr, rtr = other.pushed
            assert isinstance(ppr, Ppr)
            assert ppr.user_data is not None
            assert isinstance(rtr, Rtr)
            assert rtr.deregistration_reason.text == "the bill is not paid"
            with pytest.raises(ControlError, match="no server serves"):
                await control.call("registrations.terminate", imsi=imsi)

    asyncio.run(run())


# --- failures ---------------------------------------------------------------------------------------


def test_without_its_hss_the_server_serves_on_and_finds_it_again(tmp_path: Path) -> None:
    with own_home(tmp_path) as home:
        user = aka_user(USER)

        async def without() -> None:
            async with Gateway.connected(home.aaa.port) as gateway:
                session = gateway.session_id()
                assert (await gateway.attach(user, session_id=session))[-1].result == SUCCESS
                assert await asyncio.get_running_loop().run_in_executor(None, home.hss.stop) == 0
                assert (await gateway.attach(aka_user(HOMEBODY)))[-1].result == UNABLE
                # who is there already ends as always; the HSS is not told
                assert (await gateway.terminate(session, user.nai)).result == SUCCESS

        asyncio.run(without())
        home.hss.start()
        home.wait_for_swx()
        assert attach(home, aka_user(HOMEBODY))[-1].result == SUCCESS
        # the registration outlived the HSS's restart, and is this server's: it may go on
        assert home.registration(USER) is not None
        assert attach(home, user.again())[-1].result == SUCCESS
        # so it does when the AAA server is the one that starts anew
        assert home.aaa.stop() == 0
        home.aaa.start()
        home.wait_for_swx()
        assert attach(home, user.again())[-1].result == SUCCESS


def test_an_hss_that_does_not_answer_costs_its_time_and_no_more(tmp_path: Path) -> None:
    async def run() -> None:
        silent = DiameterNode(DiameterIdentity(host=HSS, realm=REALM, applications=(SWX,)))

        async def never(message: DiameterMessage) -> DiameterMessage:
            await asyncio.Event().wait()
            return message

        silent.on_request(SWX_APPLICATION, CommandCode.MULTIMEDIA_AUTH, never)
        at = await silent.listen("127.0.0.1", 0)
        aaa = AaaProcess(tmp_path, role="aaa", extra=to_the_hss(at.port, timeout=0.2))
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(None, aaa.start)
            async with Gateway.connected(aaa.port) as gateway:
                await silent.wait_open(TIMEOUT)
                answers = await asyncio.gather(*(gateway.attach(aka_user(USER)) for _ in range(3)))
            assert [rounds[-1].result for rounds in answers] == [UNABLE] * 3
        finally:
            await loop.run_in_executor(None, aaa.__exit__, None, None, None)
            await silent.close()
        assert "Traceback" not in aaa.log()

    asyncio.run(run())


# --- roles ------------------------------------------------------------------------------------------


def test_both_in_one_process_over_a_real_connection(tmp_path: Path) -> None:
    swx = f"hss: {{connection: swx, identity: {{host: {HSS}, realm: {REALM}}}}}\n"
    with AaaProcess(tmp_path, extra=swx) as node:
        node.provision(USER)
        home = Home(node, node)
        home.wait_for_swx()
        assert attach(home, aka_user(USER))[-1].result == SUCCESS
        registered = home.registration(USER)
        assert registered is not None
        assert registered["server"] == HOST
        # SWx is in the trace once, as the AAA server sees it
        names = [
            (r.body["name"], r.body["direction"])
            for r in records(node)
            if r.kind.value == "message" and r.body["interface"] == "SWx" and str(r.body["name"])[0] in "MS"
        ]
        assert names == [("MAR", "out"), ("MAA", "in"), ("SAR", "out"), ("SAA", "in")]
        # and so in the ladder, whose column of the HSS is not traced by itself
        assert arrows_of_swx([("aaa", node)], USER) == [
            ("MAR", "AAA", "HSS", None, ["aaa"]),
            ("MAA", "HSS", "AAA", True, ["aaa"]),
            ("SAR", "AAA", "HSS", None, ["aaa"]),
            ("SAA", "HSS", "AAA", True, ["aaa"]),
        ]
        ended = call_sync(node.control, "registrations.terminate", imsi=str(USER.imsi))
        assert isinstance(ended, dict)
        assert ended["success"] is True


def test_in_process_the_aaa_server_is_told_by_a_call(tmp_path: Path) -> None:
    with AaaProcess(tmp_path) as node:
        node.provision(USER)
        home = Home(node, node)
        assert attach(home, aka_user(USER))[-1].result == SUCCESS
        call_sync(node.control, "registrations.terminate", imsi=str(USER.imsi), reason="it is over")
        told = event(node, "deregistered-by-hss", str(USER.imsi))
        assert told is not None
        assert "it is over" in str(told.body["text"])


@pytest.mark.parametrize(
    ("role", "keys", "refused"),
    [
        ("aaa", "", "hss.peers: got nothing, expected an HSS or an agent to connect to, because the role is aaa"),
        ("hss", "", "database: got nothing, expected a database URL, where the HSS finds its subscribers"),
        ("both", "", "database: got nothing, expected a database URL, where the HSS finds its subscribers"),
        (
            "both",
            "database: sqlite:///aaa.db\nhss: {connection: swx}\n",
            "hss.identity: got nothing, expected the host and realm that the HSS has on SWx",
        ),
        (
            "both",
            f"database: sqlite:///aaa.db\nhss: {{connection: swx, identity: {{host: {HOST}, realm: {REALM}}}}}\n",
            f"hss.identity.host: got '{HOST}', expected another host than identity.host: "
            "AAA server and HSS are two nodes on SWx",
        ),
        (
            "both",
            f"database: sqlite:///aaa.db\ndiameter: {{peers: [{{host: {HOST}, address: 127.0.0.1}}]}}\n",
            f"diameter.peers.0.host: got '{HOST}', expected another node than this one itself",
        ),
        ("both", "hss: {connection: wire}\n", "hss.connection: got 'wire', expected 'in-process' or 'swx'"),
        ("both", "hss: {identity: {host: a b, realm: c}}\n", "hss.identity.host: got 'a b', expected a domain name"),
        ("both", "hss: {listen: {port: 70000}}\n", "hss.listen.port: got 70000, expected at most 65535"),
        ("both", "hss: {peers: [{host: x}]}\n", "hss.peers.0.address: got nothing, expected a value"),
        (
            "both",
            f"database: sqlite:///aaa.db\nhss: {{connection: swx, identity: {{host: {HSS}, realm: {REALM}}}, "
            "listen: {port: null, tls_port: 0}}\ndiameter: {tls: {chain: a.pem, key: a.key, authority: b.pem}}\n",
            "hss.listen.port: got nothing, expected a TCP port, to which the AAA server beside it connects",
        ),
        (
            "both",
            "hss: {listen: {tls_port: 0}}\n",
            "diameter.tls: got nothing, expected certificates, which hss.listen.tls_port needs",
        ),
        (
            "aaa",
            "hss: {peers: [{host: x, address: 192.0.2.1, transport: tls}]}\n",
            "diameter.tls: got nothing, expected certificates, which transport: tls needs",
        ),
        (
            "aaa",
            "hss: {peers: [{host: x, address: 192.0.2.1}]}\ndiameter: {peers: [{host: x, address: 192.0.2.2}]}\n",
            "hss.peers: got a list, expected every host once under diameter.peers and hss.peers",
        ),
        ("both", "hss: {realm: a b}\n", "hss.realm: got 'a b', expected a domain name"),
        ("both", "hss: {timeout: 0}\n", "hss.timeout: got 0, expected more than 0"),
        ("both", "hss: {poll_interval: 0}\n", "hss.poll_interval: got 0, expected more than 0"),
    ],
)
def test_what_a_role_lacks_is_one_line(tmp_path: Path, role: str, keys: str, refused: str) -> None:
    file = tmp_path / "aaa.yaml"
    file.write_text(f"identity: {{host: {HOST}, realm: {REALM}}}\ncontrol: aaa.sock\n{keys}")
    result = CliRunner().invoke(application, ["serve", "-c", str(file), "--role", role])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert re.sub(r":\d+: ", ": ", line, count=1).startswith(f"{file}: {refused}")


def test_gateway_and_servers_have_names_of_their_own() -> None:
    assert len({GATEWAY, HOST, HSS, OTHER}) == 4
