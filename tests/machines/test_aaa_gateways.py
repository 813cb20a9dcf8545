"""AAR on SWm (TS 29.273 §7.1.2.5) as a machine, and what carries the procedures out on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace

import pytest

from aaa.authorization import Refusal, RefusalCause, backend_refusal
from aaa.emergency import EmergencyPolicy
from aaa.events import ServerIdentity, SessionEvent
from aaa.gateways import Gateways, UnknownSession
from aaa.hss.port import HssRefusal, SubscriberProfile
from aaa.initiated import Procedure
from aaa.reauthorization import AaaReady, ProfileRequested, Reauthorization
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.diameter import s6b, swm
from protocols.diameter.codec import DiameterMessage, RequestError, Result, answer_to
from protocols.diameter.dictionary import (
    S6B_APPLICATION,
    SWM_APPLICATION,
    CommandCode,
    ExperimentalResultCode,
    ResultCode,
)
from protocols.diameter.profile import GTPV2_SUPPORTED, MIP6_INTEGRATED, Ambr, ApnConfiguration, Non3gppUserData
from protocols.eap.packet import identity_response
from protocols.errors import BackendError
from protocols.threegpp.identity import Imsi
from protocols.trace.recorder import Recorder
from tests.harness.aka_user import aka_user
from tests.machines.test_aaa_authentication import TIMEOUT, World

USER = laboratory_subscriber(1)
NAI = aka_user(USER).nai
SESSION = "s;1;1"
SUCCESS = Result.of(ResultCode.DIAMETER_SUCCESS)
UNKNOWN_SESSION = Result.of(ResultCode.DIAMETER_UNKNOWN_SESSION_ID)
UNABLE = Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)
INTERNET = ApnConfiguration(context_identifier=1, service_selection="internet", ambr=Ambr(1, 2))
DATA = Non3gppUserData(non_3gpp_ip_access=True, non_3gpp_ip_access_apn=True, apns=(INTERNET,), subscription_id="49170")
PROFILE = SubscriberProfile(imsi=USER.imsi, user_data=DATA)
BARRED = replace(PROFILE, user_data=replace(DATA, non_3gpp_ip_access=False))
IDENTITY = ServerIdentity(host="aaa.test", realm="home")
AAR = swm.Aar(session_id=SESSION, origin_host="epdg.test", origin_realm="test", destination_realm="home", user_name=NAI)


def attached() -> World:
    world = World(USER)
    assert world.attach(aka_user(USER))[-1].result == SUCCESS
    return world


@pytest.mark.parametrize(
    ("said", "answered"),
    [(None, None), (GTPV2_SUPPORTED | MIP6_INTEGRATED, GTPV2_SUPPORTED), (MIP6_INTEGRATED, 0)],
)
def test_mobility_is_what_both_have(said: int | None, answered: int | None) -> None:
    """TS 29.273 §7.1.2.1.2: the gateway says its features once, the DEA of success which of them hold."""
    world, ue = World(USER), aka_user(USER)
    der = swm.Der(
        session_id=SESSION,
        origin_host="epdg.test",
        origin_realm="test",
        destination_realm="test",
        eap_payload=identity_response(1, ue.nai.encode()),
        service_selection="internet",
        mip6_feature_vector=said,
    )
    world.sessions.receive_der(der, 100, world.now)
    challenge = world.answer_to(100).eap_payload
    assert challenge is not None
    response = ue.take(challenge)
    assert response is not None
    assert world.exchange(response).mip6_feature_vector == answered


# --- AAR on SWm -----------------------------------------------------------------------------------------


def test_an_aar_is_answered_with_the_present_profile_and_the_time_that_is_left() -> None:
    world = attached()
    machine = Reauthorization(world.sessions, identity=IDENTITY)
    machine.receive(AAR, 1, world.now + 600)
    asked = machine.poll_event()
    assert asked == ProfileRequested(token=1, imsi=USER.imsi)
    machine.answer_profile(1, PROFILE, world.now + 600)
    ready = machine.poll_event()
    assert isinstance(ready, AaaReady)
    assert (ready.answer.result, ready.answer.apn_configuration) == (SUCCESS, INTERNET)
    assert (ready.answer.session_timeout, ready.answer.subscription_id) == (TIMEOUT - 600, "49170")
    assert ready.answer.user_name == NAI


def test_a_pushed_profile_needs_no_question() -> None:
    world = attached()
    machine = Reauthorization(world.sessions, identity=IDENTITY)
    machine.push(SESSION, PROFILE)
    machine.receive(AAR, 1, world.now)
    assert isinstance(machine.poll_event(), AaaReady)
    machine.push(SESSION, PROFILE)
    machine.forget(SESSION)
    machine.receive(AAR, 2, world.now)
    assert isinstance(machine.poll_event(), ProfileRequested)


def test_a_session_that_is_unknown_or_ends_meanwhile() -> None:
    world = attached()
    machine = Reauthorization(world.sessions, identity=IDENTITY)
    for unknown in (replace(AAR, session_id="other"), replace(AAR, origin_host="another.test")):
        machine.receive(unknown, 1, world.now)
        ready = machine.poll_event()
        assert isinstance(ready, AaaReady)
        assert ready.answer.result == UNKNOWN_SESSION
    machine.receive(AAR, 2, world.now)
    machine.poll_event()
    world.sessions.end(SESSION, "it is gone")
    machine.answer_profile(2, PROFILE, world.now)
    ready = machine.poll_event()
    assert isinstance(ready, AaaReady)
    assert ready.answer.result == UNKNOWN_SESSION


REDIRECT = Refusal(
    cause=RefusalCause.SERVED_ELSEWHERE,
    result=Result.of(ResultCode.DIAMETER_REDIRECT_INDICATION),
    text="elsewhere",
    redirect_host="other.test",
)


@pytest.mark.parametrize(("refusal", "result"), [(backend_refusal("gone"), UNABLE), (REDIRECT, UNABLE)])
def test_an_hss_that_does_not_help(refusal: Refusal, result: Result) -> None:
    world = attached()
    machine = Reauthorization(world.sessions, identity=IDENTITY)
    machine.receive(AAR, 1, world.now)
    machine.poll_event()
    machine.answer_refusal(1, refusal)
    ready = machine.poll_event()
    assert isinstance(ready, AaaReady)
    assert ready.answer.result == result
    assert ready.answer.apn_configuration is None


def test_a_profile_that_allows_the_apn_no_more() -> None:
    world = attached()
    machine = Reauthorization(world.sessions, identity=IDENTITY)
    machine.push(SESSION, replace(PROFILE, user_data=replace(DATA, apns=())))
    machine.receive(AAR, 1, world.now)
    ready = machine.poll_event()
    assert isinstance(ready, AaaReady)
    assert ready.answer.result == Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION)


# --- carried out ----------------------------------------------------------------------------------------


class Hss:
    """Says what it is told to."""

    def __init__(self) -> None:
        self.profile: SubscriberProfile | Exception = PROFILE
        self.update: Exception | None = None
        self.pgws: list[tuple[str, str | None]] = []

    async def user_data(self, imsi: Imsi) -> SubscriberProfile:
        if isinstance(self.profile, Exception):
            raise self.profile
        return self.profile

    async def update_pgw(self, imsi: Imsi, apn: str, pgw: str | None) -> None:
        if self.update is not None:
            raise self.update
        self.pgws.append((apn, pgw))


class Table:
    """The SWm server as ``Gateways`` uses it: the sessions of a ``World``, and its events."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.table = world.sessions
        self.hooks: list[Callable[[SessionEvent], None]] = []

    def on_event(self, hook: Callable[[SessionEvent], None]) -> None:
        self.hooks.append(hook)

    def end(self, session_id: str, why: str) -> None:
        self.world.sessions.end(session_id, why)
        self.show()

    def show(self) -> None:
        """Events that came since the last time go to the hooks."""
        before = len(self.world.events)
        self.world.serve()
        for event in self.world.events[before:]:
            for hook in self.hooks:
                hook(event)


class Network:
    """Gateways that answer every request with ``result``, or not at all."""

    def __init__(self) -> None:
        self.result: Result | None = SUCCESS
        self.sent: list[DiameterMessage] = []

    async def request(self, message: DiameterMessage) -> DiameterMessage:
        self.sent.append(message)
        if self.result is None:
            raise BackendError("no open Diameter peer")
        return answer_to(message, origin_host="epdg.test", origin_realm="test", result=self.result)


class Node:
    """``Gateways`` on a running event loop, whose clock is the machine's."""

    def __init__(self, world: World | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.world = world or attached()
        self.server = Table(self.world)
        self.hss = Hss()
        self.network = Network()
        self.recorder = Recorder("aaa", monotonic=loop.time, wall=loop.time)
        self.tasks: set[asyncio.Task[None]] = set()
        self.gateways = Gateways(
            identity=IDENTITY,
            server=self.server,  # type: ignore[arg-type]
            hss=lambda: self.hss,  # type: ignore[arg-type,return-value]
            sender=self.network,
            recorder=self.recorder,
            session_timeout=TIMEOUT,
            monotonic=loop.time,
            spawn=self.spawn,
        )

    def spawn(self, work: Coroutine[object, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def settle(self) -> None:
        """Until nothing is under way."""
        while self.tasks:
            await asyncio.gather(*self.tasks)

    async def swm_aar(self) -> swm.Aaa:
        return swm.Aaa.from_message(await self.gateways.swm_aar(AAR.to_message()))

    async def s6b_aar(self, session_id: str = "p;1;1") -> s6b.Aaa:
        aar = s6b.Aar(
            session_id=session_id,
            origin_host="pgw.test",
            origin_realm="home",
            destination_realm="home",
            user_name=NAI,
            service_selection="internet",
        )
        return s6b.Aaa.from_message(await self.gateways.s6b_aar(aar.to_message()))


def run(story: Callable[[Node], Coroutine[object, None, None]], world: World | None = None) -> None:
    async def told() -> None:
        node = Node(world)
        try:
            await story(node)
            await node.settle()
        finally:
            node.gateways.close()

    asyncio.run(told())


def test_the_applications_that_are_served() -> None:
    async def story(node: Node) -> None:
        assert set(node.gateways.handlers()) == {
            (SWM_APPLICATION, CommandCode.AA),
            (S6B_APPLICATION, CommandCode.AA),
            (S6B_APPLICATION, CommandCode.SESSION_TERMINATION),
        }
        for handler in (node.gateways.swm_aar, node.gateways.s6b_aar, node.gateways.s6b_str):
            bare = DiameterMessage(command=265, application=SWM_APPLICATION, request=True)
            if handler != node.gateways.swm_aar:
                bare = replace(bare, application=S6B_APPLICATION)
            if handler == node.gateways.s6b_str:
                bare = replace(bare, command=275)
            with pytest.raises(RequestError):
                await handler(bare)

    run(story)


@pytest.mark.parametrize(
    ("failure", "result"),
    [
        (BackendError("the database is gone"), UNABLE),
        (
            HssRefusal(Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN), "unknown"),
            Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN),
        ),
        (RuntimeError("a defect"), UNABLE),
    ],
)
def test_an_hss_that_fails_is_an_answer(failure: Exception, result: Result, caplog: pytest.LogCaptureFixture) -> None:
    async def story(node: Node) -> None:
        node.hss.profile = failure
        assert (await node.swm_aar()).result == result
        assert (await node.s6b_aar()).result == result
        node.hss.profile = PROFILE
        node.hss.update = failure
        assert (await node.s6b_aar()).result == result
        node.hss.update = None
        assert (await node.s6b_aar()).result == SUCCESS
        assert node.hss.pgws == [("internet", "pgw.test")]
        node.hss.update = failure  # the HSS keeps a PGW that is gone: nobody waits for that
        request = s6b.Str(
            session_id="p;1;1", origin_host="pgw.test", origin_realm="home", destination_realm="home", user_name=NAI
        )
        assert s6b.Sta.from_message(await node.gateways.s6b_str(request.to_message())).result == SUCCESS

    run(story)
    assert ("a defect" in caplog.text) is isinstance(failure, RuntimeError)


def test_an_abort_to_its_end() -> None:
    async def story(node: Node) -> None:
        outcome = asyncio.create_task(node.gateways.abort(SESSION, "a test"))
        await asyncio.sleep(0)
        await node.settle()
        assert [message.name for message in node.network.sent] == ["ASR"]
        assert not outcome.done()
        node.server.end(SESSION, "the gateway terminated the session")  # STR
        ended = await outcome
        assert (ended.procedure, ended.succeeded) == (Procedure.ABORT, True)
        with pytest.raises(UnknownSession):
            await node.gateways.abort(SESSION, "once more")

    run(story)


def test_what_a_relay_cannot_deliver_is_not_the_gateways_answer() -> None:
    async def story(node: Node) -> None:
        for result in (Result.of(ResultCode.DIAMETER_UNABLE_TO_DELIVER), None):
            node.network.result = result
            outcome = asyncio.create_task(node.gateways.reauthorise(SESSION, "a test"))
            await asyncio.sleep(0)
            await node.settle()
            assert not outcome.done()  # it is sent again after a while
            assert len(node.world.sessions) == 1
            if result is None:
                node.gateways.close()
                with pytest.raises(BackendError, match="the node stops"):
                    await outcome
            else:
                node.server.end(SESSION, "meanwhile")
                assert not (await outcome).succeeded
                node.world.attach(aka_user(replace(USER, sequence=1)))

    run(story)


def test_nothing_is_reauthorised_while_it_is_aborted() -> None:
    async def story(node: Node) -> None:
        outcome = asyncio.create_task(node.gateways.abort(SESSION, "a test"))
        await asyncio.sleep(0)
        await node.settle()
        with pytest.raises(UnknownSession, match="is being aborted"):
            await node.gateways.reauthorise(SESSION, "a test")
        node.server.end(SESSION, "STR")
        await outcome

    run(story)


def test_what_the_hss_says_reaches_both_gateways() -> None:
    async def story(node: Node) -> None:
        assert (await node.s6b_aar()).result == SUCCESS
        node.world.sessions.profile_changed(USER.imsi, None)
        node.server.show()
        await node.settle()
        assert [message.name for message in node.network.sent] == ["RAR", "RAR"]
        await node.swm_aar()
        await node.s6b_aar()
        node.world.sessions.profile_changed(USER.imsi, BARRED)
        node.server.show()
        await node.settle()
        assert [message.name for message in node.network.sent[2:]] == ["ASR", "ASR"]

    run(story)


def test_a_changed_subscription_does_not_end_an_emergency() -> None:
    policy = EmergencyPolicy(apn="sos", ambr_uplink_bits=1, ambr_downlink_bits=2, qci=5, priority_level=1)
    world = World(USER, emergency=policy)
    world.urgent = True
    assert world.attach(aka_user(USER), apn=None)[-1].result == SUCCESS

    async def story(node: Node) -> None:
        for profile in (PROFILE, BARRED):
            node.world.sessions.profile_changed(USER.imsi, profile)
            node.server.show()
            await node.settle()
        assert node.network.sent == []
        assert len(node.world.sessions) == 1

    run(story, world)


def test_a_deregistration_reaches_both_gateways() -> None:
    async def story(node: Node) -> None:
        await node.s6b_aar()
        await node.s6b_aar("p;1;2")
        node.world.sessions.deregistered(USER.imsi, 0, "moved")
        node.server.show()
        await node.settle()
        assert sorted(message.session_id or "" for message in node.network.sent) == ["p;1;1", "p;1;2", SESSION]
        assert {message.name for message in node.network.sent} == {"ASR"}

    run(story)


def test_sessions_of_pgws_are_listed() -> None:
    async def story(node: Node) -> None:
        await node.s6b_aar()
        (session,) = node.gateways.pgw_sessions()
        assert isinstance(session, dict)
        assert (session["id"], session["apn"], session["pgw"]) == ("p;1;1", "internet", "pgw.test")

    run(story)
