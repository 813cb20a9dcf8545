"""The client of SWx on a real connection to HSSes of this process: failover, and answers that are of no use."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace

import pytest

from aaa.hss.client import SwxClient
from aaa.hss.in_process import Bridge
from aaa.hss.local import LocalHss
from aaa.hss.port import HssRefusal, SubscriberProfile, VectorRequest
from aaa.hss.procedures import HssProcedures
from aaa.hss.registration import MemoryRegistrations, ServingServer
from aaa.hss.server import SwxServer
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.algorithms.vector import AkaVector
from protocols.diameter.codec import Avp, DiameterMessage, Result
from protocols.diameter.dictionary import (
    SWX_APPLICATION,
    CommandCode,
    ExperimentalResultCode,
    ResultCode,
    ServerAssignmentType,
)
from protocols.diameter.swx import Maa, Saa
from protocols.eap.aka.server import Resynchronisation
from protocols.entropy import SeededEntropy
from protocols.errors import AuthenticationError, BackendError
from protocols.io.diameter import SWX, DiameterIdentity, DiameterNode, PeerAddress
from protocols.threegpp.identity import Imsi
from tests.harness.diameter_nodes import run
from tests.harness.subscribers import Table

AAA = DiameterIdentity(host="aaa.epc.test", realm="epc.test", applications=(SWX,))
USER = laboratory_subscriber(1)
REQUEST = VectorRequest(imsi=USER.imsi)
TIMEOUT = 5.0
UNKNOWN = Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN)


class Listener:
    """What the HSS said on its own; the user is known here."""

    def __init__(self) -> None:
        self.deregistrations: list[tuple[Imsi, int, str]] = []
        self.profiles: list[SubscriberProfile | None] = []

    def deregistered(self, imsi: Imsi, reason: int, text: str) -> bool:
        self.deregistrations.append((imsi, reason, text))
        return imsi == USER.imsi

    def profile_changed(self, imsi: Imsi, profile: SubscriberProfile | None) -> bool:
        self.profiles.append(profile)
        return imsi == USER.imsi


class Home:
    """A subscriber table and registrations, which several HSSes serve."""

    def __init__(self) -> None:
        self.table = Table(USER)
        self.registrations = MemoryRegistrations()
        self.bridge = Bridge()
        self.listener = Listener()
        self.servers: dict[str, SwxServer] = {}
        self.asked: list[str] = []

    @contextlib.asynccontextmanager
    async def hss(self, host: str) -> AsyncIterator[tuple[DiameterNode, PeerAddress]]:
        node = DiameterNode(DiameterIdentity(host=host, realm="epc.test", applications=(SWX,)))
        node.on_traffic(lambda traffic: self._note(host, traffic.message))
        procedures = HssProcedures(self.table, LocalHss(self.table, SeededEntropy(host)), self.registrations)
        self.servers[host] = SwxServer(node, procedures, self.bridge, wall=lambda: 1.0, timeout=TIMEOUT)
        at = await node.listen("127.0.0.1", 0)
        try:
            yield node, PeerAddress(host=host, address=str(at.address), port=at.port)
        finally:
            await node.close()

    @contextlib.asynccontextmanager
    async def client(self, *peers: PeerAddress, timeout: float = TIMEOUT) -> AsyncIterator[SwxClient]:
        node = DiameterNode(AAA, reconnect_interval=0.01)
        client = SwxClient(node, realm="epc.test", timeout=timeout, wall=lambda: 1.0, listener=self.listener)
        try:
            for peer in peers:
                node.add_peer(peer)
                await node.wait_open(TIMEOUT, peer.host)
            yield client
        finally:
            await node.close()
            self.bridge.close()

    def _note(self, host: str, message: DiameterMessage | None) -> None:
        if message is not None and message.request and message.application == SWX_APPLICATION:
            self.asked.append(f"{host} {message.name}")


def test_a_user_stays_with_the_hss_that_answered_until_that_one_is_gone() -> None:
    """RFC 6733 §6.1: Destination-Host after the first answer; without a way there the realm's other HSS."""

    async def test() -> None:
        home = Home()
        async with (
            home.hss("hss2.epc.test") as (_, second),
            home.hss("hss1.epc.test") as (node, first),
            home.client(replace(first, priority=0), replace(second, priority=1)) as client,
        ):
            assert isinstance(await client.authentication_vector(REQUEST), AkaVector)
            await node.close()
            profile = await client.register(USER.imsi)
            assert profile.user_data.apns
            await client.authentication_vector(REQUEST)
        # the second HSS does not deliver what is for the first one, and is asked itself then
        assert home.asked == ["hss1.epc.test MAR", "hss2.epc.test SAR", "hss2.epc.test SAR", "hss2.epc.test MAR"]

    run(test())


def test_results_are_refusals_and_a_wrong_auts_is_the_user_s() -> None:
    async def test() -> None:
        home = Home()
        async with home.hss("hss1.epc.test") as (_, peer), home.client(peer) as client:
            with pytest.raises(HssRefusal) as unknown:
                await client.authentication_vector(VectorRequest(imsi=laboratory_subscriber(9).imsi))
            assert unknown.value.result == UNKNOWN
            vector = await client.authentication_vector(REQUEST)
            with pytest.raises(AuthenticationError):
                await client.authentication_vector(
                    replace(REQUEST, resynchronisation=Resynchronisation(vector.rand, bytes(14)))
                )
            home.table.broken = True
            with pytest.raises(HssRefusal) as broken:
                await client.authentication_vector(REQUEST)
            assert broken.value.result == Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)

    run(test())


def test_what_the_hss_pushes_reaches_the_listener() -> None:
    async def test() -> None:
        home = Home()
        async with home.hss("hss1.epc.test") as (_, peer), home.client(peer) as client:
            await client.authentication_vector(REQUEST)
            profile = await client.register(USER.imsi)
            server = home.servers["hss1.epc.test"]
            there = ServingServer(AAA.host, AAA.realm)
            success = Result.of(ResultCode.DIAMETER_SUCCESS)
            assert await server.push_profile(there, USER.imsi, profile.user_data) == success
            assert await server.terminate_registration(there, USER.imsi, 0, "over") == success
            assert home.listener.profiles == [profile]
            assert home.listener.deregistrations == [(USER.imsi, 0, "over")]
            stranger = laboratory_subscriber(9).imsi
            assert await server.terminate_registration(there, stranger, 0, "over") == UNKNOWN
            with pytest.raises(BackendError):
                await server.push_profile(
                    ServingServer("nobody.epc.test", "nowhere.test"), USER.imsi, profile.user_data
                )
            await client.update_pgw(USER.imsi, "internet", "pgw.epc.test")
            told = await client.user_data(USER.imsi)
            assert told.user_data.apns[0].mip6_agent_info == "pgw.epc.test"
            await client.deregister(USER.imsi, ServerAssignmentType.USER_DEREGISTRATION)
            assert home.registrations.registration(USER.imsi) is None

    run(test())


@pytest.mark.parametrize(
    ("command", "kind"), [(CommandCode.MULTIMEDIA_AUTH, Maa), (CommandCode.SERVER_ASSIGNMENT, Saa)]
)
def test_a_success_that_holds_nothing_is_a_failure_of_the_hss(command: CommandCode, kind: type[Maa | Saa]) -> None:
    """An MAA without a vector, an SAA without a profile: nothing that a user could be served with."""

    async def test() -> None:
        home = Home()
        async with home.hss("hss1.epc.test") as (node, peer), home.client(peer) as client:

            async def empty(message: DiameterMessage) -> DiameterMessage:
                return kind(
                    session_id="s;1;1",
                    origin_host="hss1.epc.test",
                    origin_realm="epc.test",
                    result=Result.of(ResultCode.DIAMETER_SUCCESS),
                ).to_message(message)

            node.on_request(SWX_APPLICATION, command, empty)
            asking: Awaitable[object] = (
                client.authentication_vector(REQUEST) if kind is Maa else client.register(USER.imsi)
            )
            with pytest.raises(BackendError, match="holds no"):
                await asking

    run(test())


@pytest.mark.parametrize(
    ("named", "serving"), [("aaa2.epc.test", "aaa2.epc.test"), ("", None), ("a b\nc", None), ("käse", None)]
)
def test_a_gateway_is_sent_only_to_what_is_a_host(named: str, serving: str | None) -> None:
    """3GPP-AAA-Server-Name becomes Redirect-Host."""

    async def test() -> None:
        home = Home()
        async with home.hss("hss1.epc.test") as (node, peer), home.client(peer) as client:

            async def elsewhere(message: DiameterMessage) -> DiameterMessage:
                answer = Maa(
                    session_id=message.session_id or "",
                    origin_host="hss1.epc.test",
                    origin_realm="epc.test",
                    result=Result.of(ExperimentalResultCode.DIAMETER_ERROR_IDENTITY_ALREADY_REGISTERED),
                ).to_message(message)
                name = replace(Avp.of("3GPP-AAA-Server-Name", "x"), data=named.encode())
                return replace(answer, avps=(*answer.avps, name))

            node.on_request(SWX_APPLICATION, CommandCode.MULTIMEDIA_AUTH, elsewhere)
            with pytest.raises((HssRefusal, BackendError)) as refused:
                await client.authentication_vector(REQUEST)
            assert getattr(refused.value, "serving_server", None) == serving

    run(test())


def test_silence_is_a_failure_in_its_time() -> None:
    async def test() -> None:
        home = Home()
        async with home.hss("hss1.epc.test") as (node, peer), home.client(peer, timeout=0.05) as client:

            async def never(message: DiameterMessage) -> DiameterMessage:
                await asyncio.Event().wait()
                return message

            node.on_request(SWX_APPLICATION, CommandCode.MULTIMEDIA_AUTH, never)
            with pytest.raises(BackendError, match="no answer"):
                await client.authentication_vector(REQUEST)

    run(test())
