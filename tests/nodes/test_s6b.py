"""``aaa serve`` and its gateways: a PGW on S6b, ASR, RAR and AAR on both interfaces, what RTR and PPR lead to."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aaa.command_line import application
from aaa.subscribers import Subscriber
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.diameter import s6b, swm
from protocols.diameter.codec import DiameterMessage, Result
from protocols.diameter.dictionary import (
    S6B_APPLICATION,
    SWM_APPLICATION,
    CommandCode,
    ExperimentalResultCode,
    ResultCode,
)
from protocols.diameter.profile import GTPV2_SUPPORTED
from protocols.diameter.swm import SessionIdSource
from protocols.io.control import ControlClient, ControlError
from protocols.io.diameter import S6B, DiameterIdentity, DiameterNode, PeerAddress
from protocols.trace.records import JsonValue
from tests.harness.aka_user import AkaUser, aka_user
from tests.peers.aaa_node import ANSWER_TIMEOUT, GATEWAY, HOST, REALM, AaaProcess, Gateway

PGW = "pgw.epc.mnc001.mcc001.3gppnetwork.org"
USERS = [laboratory_subscriber(number) for number in range(1, 10)]
RESTARTED = USERS[8]
SUCCESS = Result.of(ResultCode.DIAMETER_SUCCESS)
UNKNOWN_SESSION = Result.of(ResultCode.DIAMETER_UNKNOWN_SESSION_ID)
_STARTS = itertools.count(1)  # every PGW of a run has Session-Ids of its own (RFC 6733 §8.8)


@pytest.fixture(scope="module")
def aaa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AaaProcess]:
    """One node; every test has a subscriber of its own."""
    node = AaaProcess(tmp_path_factory.mktemp("aaa"), extra="hss: {poll_interval: null}\n")
    node.provision(*USERS)
    with node:
        yield node


class Obedient:
    """What a gateway does with ASR and RAR of its sessions: agrees, and follows with STR or AAR."""

    def __init__(self, gateway: Gateway, user: AkaUser) -> None:
        self.gateway = gateway
        self.user = user
        self.aborted: list[str] = []
        self.profiles: list[swm.Aaa] = []
        self.fetched = asyncio.Event()
        self.ended = asyncio.Event()
        self.answer = SUCCESS
        self._tasks: set[asyncio.Task[None]] = set()
        gateway.node.on_request(SWM_APPLICATION, CommandCode.ABORT_SESSION, self._abort)
        gateway.node.on_request(SWM_APPLICATION, CommandCode.RE_AUTH, self._re_auth)

    async def _abort(self, message: DiameterMessage) -> DiameterMessage:
        asr = swm.Asr.from_message(message)
        self.aborted.append(asr.session_id)
        if self.answer == SUCCESS:
            self._follow(self._terminate(asr.session_id))
        return self._answered(swm.Asa, asr.session_id).to_message(message)

    async def _re_auth(self, message: DiameterMessage) -> DiameterMessage:
        rar = swm.Rar.from_message(message)
        if self.answer == SUCCESS:
            self._follow(self._fetch(rar.session_id))
        return self._answered(swm.Raa, rar.session_id).to_message(message)

    def _answered(self, kind: type[swm.Asa] | type[swm.Raa], session_id: str) -> swm.Asa | swm.Raa:
        return kind(session_id=session_id, origin_host=GATEWAY, origin_realm=REALM, result=self.answer)

    def _follow(self, work: object) -> None:
        assert asyncio.iscoroutine(work)
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _terminate(self, session_id: str) -> None:
        await self.gateway.terminate(session_id, self.user.nai)
        self.ended.set()

    async def _fetch(self, session_id: str) -> None:
        self.profiles.append(await self.authorise(session_id))
        self.fetched.set()

    async def authorise(self, session_id: str) -> swm.Aaa:
        """AAR --> ; <-- AAA"""
        aar = swm.Aar(
            session_id=session_id,
            origin_host=GATEWAY,
            origin_realm=REALM,
            destination_realm=REALM,
            user_name=self.user.nai,
        )
        return swm.Aaa.from_message(await self.gateway.node.request(aar.to_message(), ANSWER_TIMEOUT))


class Pgw:
    """A PGW's end of S6b: it authorises, terminates and obeys."""

    def __init__(self, node: DiameterNode) -> None:
        self.node = node
        self.aborted = asyncio.Event()
        self.reauthorised = asyncio.Event()
        self._session_ids = SessionIdSource(PGW, wall=next(_STARTS))
        node.on_request(S6B_APPLICATION, CommandCode.ABORT_SESSION, self._abort)
        node.on_request(S6B_APPLICATION, CommandCode.RE_AUTH, self._re_auth)

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, port: int, *, state: int = 1) -> AsyncIterator[Pgw]:
        identity = DiameterIdentity(host=PGW, realm=REALM, applications=(S6B,), origin_state_id=state)
        node = DiameterNode(identity, reconnect_interval=0.05)
        pgw = cls(node)
        try:
            node.add_peer(PeerAddress(host=HOST, address="127.0.0.1", port=port))
            await node.wait_open(ANSWER_TIMEOUT)
            yield pgw
        finally:
            await node.close()

    async def authorise(self, user: AkaUser, *, apn: str = "internet", session_id: str | None = None) -> s6b.Aaa:
        """AAR --> ; <-- AAA"""
        aar = s6b.Aar(
            session_id=session_id or self._session_ids.next(),
            origin_host=PGW,
            origin_realm=REALM,
            destination_realm=REALM,
            user_name=user.nai,
            service_selection=apn,
            mip6_agent_info="192.0.2.7",
            mip6_feature_vector=GTPV2_SUPPORTED,
            rat_type=0,
        )
        return s6b.Aaa.from_message(await self.node.request(aar.to_message(), ANSWER_TIMEOUT))

    async def terminate(self, session_id: str, user: AkaUser) -> s6b.Sta:
        """STR --> ; <-- STA"""
        request = s6b.Str(
            session_id=session_id, origin_host=PGW, origin_realm=REALM, destination_realm=REALM, user_name=user.nai
        )
        return s6b.Sta.from_message(await self.node.request(request.to_message(), ANSWER_TIMEOUT))

    async def _abort(self, message: DiameterMessage) -> DiameterMessage:
        asr = s6b.Asr.from_message(message)
        self.aborted.set()
        # the PGW has let go of it already: no STR will come
        answer = s6b.Asa(session_id=asr.session_id, origin_host=PGW, origin_realm=REALM, result=UNKNOWN_SESSION)
        return answer.to_message(message)

    async def _re_auth(self, message: DiameterMessage) -> DiameterMessage:
        rar = s6b.Rar.from_message(message)
        self.reauthorised.set()
        answer = s6b.Raa(session_id=rar.session_id, origin_host=PGW, origin_realm=REALM, result=SUCCESS)
        return answer.to_message(message)


async def attached(gateway: Gateway, user: AkaUser) -> str:
    """A session of the user; its Session-Id."""
    session_id = gateway.session_id()
    answers = await gateway.attach(user, session_id=session_id)
    assert answers[-1].result == SUCCESS
    return session_id


async def call(node: AaaProcess, method: str, **params: JsonValue) -> dict[str, JsonValue]:
    answer = await ControlClient(node.control).call(method, **params)
    assert isinstance(answer, dict)
    return answer


async def pgws(node: AaaProcess, user: Subscriber) -> JsonValue:
    return (await call(node, "registrations.get", imsi=str(user.imsi)))["pgws"]


def test_a_pgw_is_authorised_known_to_the_hss_and_forgotten(aaa: AaaProcess) -> None:
    user = aka_user(USERS[0])

    async def run() -> None:
        async with Gateway.connected(aaa.port) as gateway, Pgw.connected(aaa.port) as pgw:
            stranger = await pgw.authorise(user)
            assert stranger.result == Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN)
            await attached(gateway, user)
            answer = await pgw.authorise(user)
            assert (answer.result, answer.mip6_feature_vector) == (SUCCESS, GTPV2_SUPPORTED)
            assert answer.apn_configuration is not None
            assert answer.apn_configuration.service_selection == "internet"
            assert answer.session_timeout == 86_400
            assert await pgws(aaa, USERS[0]) == {"internet": "192.0.2.7"}
            listed = (await call(aaa, "pgw-sessions.list"))["sessions"]
            assert isinstance(listed, list)
            assert [s["pgw"] for s in listed if isinstance(s, dict) and s["imsi"] == str(USERS[0].imsi)] == [
                "192.0.2.7"
            ]
            refused = await pgw.authorise(user, apn="nowhere")
            assert refused.result == Result.of(ResultCode.DIAMETER_AUTHORIZATION_REJECTED)
            assert (await pgw.terminate(answer.session_id, user)).result == SUCCESS
            assert (await pgw.terminate(answer.session_id, user)).result == UNKNOWN_SESSION

    asyncio.run(run())


def test_an_operator_aborts_a_session(aaa: AaaProcess) -> None:
    user = aka_user(USERS[1])

    async def run() -> None:
        async with Gateway.connected(aaa.port) as gateway:
            obedient = Obedient(gateway, user)
            session_id = await attached(gateway, user)
            answer = await call(aaa, "sessions.abort", id=session_id, reason="a test")
            assert (answer["succeeded"], answer["gateway"]) == (True, GATEWAY)
            assert obedient.aborted == [session_id]
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await obedient.ended.wait()
            with pytest.raises(ControlError, match="no session"):
                await call(aaa, "sessions.get", id=session_id)
            with pytest.raises(ControlError, match="no authenticated session"):
                await call(aaa, "sessions.abort", id=session_id)

    asyncio.run(run())


def test_a_session_that_its_gateway_does_not_know_ends_here(aaa: AaaProcess) -> None:
    user = aka_user(USERS[2])

    async def run() -> None:
        async with Gateway.connected(aaa.port) as gateway:
            obedient = Obedient(gateway, user)
            session_id = await attached(gateway, user)
            obedient.answer = UNKNOWN_SESSION
            answer = await call(aaa, "sessions.reauthorise", id=session_id)
            assert (answer["succeeded"], answer["result"]) == (False, "DIAMETER_UNKNOWN_SESSION_ID (5002)")
            with pytest.raises(ControlError, match="no session"):
                await call(aaa, "sessions.get", id=session_id)
            assert (await obedient.authorise(session_id)).result == UNKNOWN_SESSION

    asyncio.run(run())


def test_gateways_that_lost_their_sessions_have_none(aaa: AaaProcess) -> None:
    """RFC 6733 §8.16: a greater Origin-State-Id says so; a connection that was only broken costs nothing."""
    user = aka_user(RESTARTED)

    async def sessions() -> list[JsonValue]:
        return [
            each["id"]
            for method in ("sessions.list", "pgw-sessions.list")
            for each in (await call(aaa, method))["sessions"]  # type: ignore[union-attr]
            if each["imsi"] == str(RESTARTED.imsi)  # type: ignore[index,call-overload]
        ]

    async def run() -> None:
        async with Gateway.connected(aaa.port) as gateway, Pgw.connected(aaa.port) as pgw:
            session_id = await attached(gateway, user)
            of_pgw = (await pgw.authorise(user)).session_id
        async with Gateway.connected(aaa.port), Pgw.connected(aaa.port):
            assert await sessions() == [session_id, of_pgw]
        async with Pgw.connected(aaa.port, state=2):
            assert await sessions() == [session_id]
        async with Gateway.connected(aaa.port, state=2):
            assert await sessions() == []
            with pytest.raises(ControlError, match="no server serves"):
                await call(aaa, "registrations.get", imsi=str(RESTARTED.imsi))

    asyncio.run(run())


def test_a_changed_profile_reaches_the_gateways(aaa: AaaProcess) -> None:
    """The HSS pushes (PPR), the AAA server asks for re-authorisation (RAR), the gateway fetches (AAR)."""
    user = aka_user(USERS[3])
    apns = tuple(replace(apn, static_ipv4=ip_address("10.45.0.77")) for apn in USERS[3].apns)

    async def run() -> None:
        async with Gateway.connected(aaa.port) as gateway, Pgw.connected(aaa.port) as pgw:
            obedient = Obedient(gateway, user)
            await attached(gateway, user)
            first = await pgw.authorise(user)
            aaa.provision(replace(USERS[3], apns=apns))
            told = await call(aaa, "registrations.push-profile", imsi=str(USERS[3].imsi))
            assert told["success"]
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await obedient.fetched.wait()
                await pgw.reauthorised.wait()
            (profile,) = obedient.profiles
            assert profile.result == SUCCESS
            assert profile.apn_configuration is not None
            assert profile.apn_configuration.static_ipv4 == ip_address("10.45.0.77")
            assert profile.session_timeout is not None
            assert profile.session_timeout <= 86_400
            again = await pgw.authorise(user, session_id=first.session_id)
            assert again.apn_configuration is not None
            assert again.apn_configuration.static_ipv4 == ip_address("10.45.0.77")

    asyncio.run(run())


def test_an_operator_has_a_session_authorised_anew(aaa: AaaProcess) -> None:
    """Without a push the profile is asked of the HSS when the AAR comes."""
    user = aka_user(USERS[4])

    async def run() -> None:
        async with Gateway.connected(aaa.port) as gateway:
            obedient = Obedient(gateway, user)
            session_id = await attached(gateway, user)
            aaa.provision(replace(USERS[4], apns=tuple(replace(apn, ambr_uplink_bits=1234) for apn in USERS[4].apns)))
            answer = await call(aaa, "sessions.reauthorise", id=session_id)
            assert answer["succeeded"]
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await obedient.fetched.wait()
            apn = obedient.profiles[0].apn_configuration
            assert apn is not None
            assert apn.ambr is not None
            assert apn.ambr.uplink == 1234

    asyncio.run(run())


def test_a_deregistration_of_the_hss_ends_every_session(aaa: AaaProcess) -> None:
    """RTR: ASR to the ePDG and to the PGW."""
    user = aka_user(USERS[5])

    async def run() -> None:
        async with Gateway.connected(aaa.port) as gateway, Pgw.connected(aaa.port) as pgw:
            obedient = Obedient(gateway, user)
            session_id = await attached(gateway, user)
            assert (await pgw.authorise(user)).result == SUCCESS
            told = await call(aaa, "registrations.terminate", imsi=str(USERS[5].imsi), reason="moved")
            assert told["success"]
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await obedient.ended.wait()
                await pgw.aborted.wait()
            assert obedient.aborted == [session_id]
            with pytest.raises(ControlError, match="no server serves"):
                await call(aaa, "registrations.get", imsi=str(USERS[5].imsi))

    asyncio.run(run())


def test_an_apn_that_is_gone_from_the_profile_aborts_the_session(aaa: AaaProcess) -> None:
    user = aka_user(USERS[6])

    async def run() -> None:
        async with Gateway.connected(aaa.port) as gateway:
            obedient = Obedient(gateway, user)
            session_id = await attached(gateway, user)
            aaa.provision(replace(USERS[6], apns=tuple(apn for apn in USERS[6].apns if str(apn.apn) != "internet")))
            await call(aaa, "registrations.push-profile", imsi=str(USERS[6].imsi))
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await obedient.ended.wait()
            assert obedient.aborted == [session_id]
            assert obedient.profiles == []

    asyncio.run(run())


async def command(*words: str | Path) -> tuple[int, str]:
    """An ``aaa`` command beside the gateway that it concerns: its status and what it said."""
    done = await asyncio.to_thread(CliRunner().invoke, application, [str(word) for word in words])
    return done.exit_code, done.output


def test_the_command_line(aaa: AaaProcess) -> None:
    user = aka_user(USERS[7])

    async def run() -> None:
        async with Gateway.connected(aaa.port) as gateway:
            Obedient(gateway, user)
            session_id = await attached(gateway, user)
            status, text = await command("sessions", "reauthorise", session_id, "--control", aaa.control)
            assert (status, text.endswith("is done: the gateway has the present profile.\n")) == (0, True)
            status, text = await command("sessions", "abort", session_id, "--reason", "a test", "-c", aaa.configuration)
            assert (status, text.startswith(f"The abort of session {session_id} (a test) is done")) == (0, True)
            status, text = await command("sessions", "abort", session_id, "--control", aaa.control)
            assert (status, text) == (1, f"there is no authenticated session {session_id}\n")

    asyncio.run(run())
