"""Diameter nodes with several peers: load sharing, failover and fail-back, redirect agents, busy ones, election."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from protocols.diameter.codec import Avp, DiameterMessage, RequestError, Result, answer_to
from protocols.diameter.dictionary import SWM_APPLICATION, CommandCode, DisconnectCause, ResultCode
from protocols.diameter.events import CloseReason, Direction
from protocols.diameter.identity import SWM, SWX, DiameterIdentity
from protocols.diameter.swm import Dea
from protocols.errors import BackendError
from protocols.io.diameter import DiameterNode
from protocols.path import Endpoint
from tests.harness.diameter_nodes import (
    AAA,
    AAA2,
    EPDG,
    LONG,
    RawPeer,
    accepting,
    changed,
    der,
    node,
    peer,
    run,
    server,
)

AGENT = DiameterIdentity(host="agent.epc.test", realm="epc.test")


async def answered_by(epdg: DiameterNode, number: int = 1) -> Counter[str | None]:
    answers = await asyncio.gather(*(epdg.request(der()) for _ in range(number)))
    return Counter(Dea.from_message(answer).origin_host for answer in answers)


def redirecting(agent: DiameterNode, *uris: str, avps: tuple[Avp, ...] = ()) -> list[DiameterMessage]:
    """Make a node answer every DER with a redirect indication; the requests that it gets."""
    seen: list[DiameterMessage] = []

    async def redirect(request: DiameterMessage) -> DiameterMessage:
        seen.append(request)
        return answer_to(
            request,
            origin_host=AGENT.host,
            origin_realm=AGENT.realm,
            result=Result.of(ResultCode.DIAMETER_REDIRECT_INDICATION),
            avps=(*(Avp.of("Redirect-Host", uri) for uri in uris), *avps),
        )

    agent.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, redirect)
    return seen


# Load sharing, failover, fail-back


def test_load_is_shared_by_weight() -> None:
    async def test() -> None:
        async with server(AAA) as (_, at), server(AAA2) as (_, at2), node(EPDG) as epdg:
            epdg.add_peer(peer(at, weight=3))
            epdg.add_peer(peer(at2, AAA2))
            await epdg.wait_open(LONG, AAA.host)
            await epdg.wait_open(LONG, AAA2.host)
            assert await answered_by(epdg, 80) == {AAA.host: 60, AAA2.host: 20}
            assert [(status.host, status.weight) for status in epdg.peers()] == [(AAA.host, 3), (AAA2.host, 1)]

    run(test())


def test_failover_to_the_next_priority_and_back() -> None:
    # RFC 3539 §3.4: the primary gets the requests again when its connection is back
    async def test() -> None:
        async with server(AAA2) as (_, at2), node(EPDG) as epdg:
            epdg.add_peer(peer(at2, AAA2, priority=1))
            await epdg.wait_open(LONG, AAA2.host)
            async with server(AAA) as (_, at):
                epdg.add_peer(peer(at))
                await epdg.wait_open(LONG, AAA.host)
                assert await answered_by(epdg, 10) == {AAA.host: 10}
                down = asyncio.ensure_future(changed(epdg, False))
            await down
            assert await answered_by(epdg, 10) == {AAA2.host: 10}
            async with node(AAA) as again:
                again.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, accepting(AAA))
                await again.listen("127.0.0.1", at.port)
                await epdg.wait_open(LONG, AAA.host)
                assert await answered_by(epdg, 10) == {AAA.host: 10}

    run(test())


def test_a_peer_that_wants_no_connection_is_left_alone() -> None:
    # RFC 6733 §5.4.3
    async def test() -> None:
        async with server(AAA) as (aaa, at), node(EPDG) as epdg:
            epdg.add_peer(peer(at))
            await epdg.wait_open(LONG)
            await aaa.close(DisconnectCause.DO_NOT_WANT_TO_TALK_TO_YOU)
            async with node(AAA) as again:
                await again.listen("127.0.0.1", at.port)
                with pytest.raises(BackendError):
                    await epdg.wait_open(0.2)
            assert epdg.ended == {CloseReason.UNWANTED.value: 1}

    run(test())


def test_what_the_first_did_not_answer_is_counted_and_answered_by_the_second() -> None:
    async def test() -> None:
        async with server(AAA2) as (second, at2), node(EPDG) as epdg:
            repeated: list[bool] = []

            async def note(request: DiameterMessage) -> DiameterMessage:
                repeated.append(request.retransmitted)
                return await accepting(AAA2)(request)

            second.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, note)
            epdg.add_peer(peer(at2, AAA2, priority=1))
            await epdg.wait_open(LONG, AAA2.host)
            async with server(AAA) as (first, at):
                arrived = asyncio.Semaphore(0)

                async def silent(request: DiameterMessage) -> DiameterMessage:
                    arrived.release()
                    await asyncio.Event().wait()
                    return request

                first.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, silent)
                epdg.add_peer(peer(at))
                await epdg.wait_open(LONG, AAA.host)
                asked = asyncio.ensure_future(answered_by(epdg, 20))
                for _ in range(20):
                    await arrived.acquire()
            assert await asked == {AAA2.host: 20}
            assert repeated == [True] * 20
            status = next(status for status in epdg.peers() if status.host == AAA.host)
            assert (status.failovers, status.in_service, status.priority) == (20, False, 0)

    run(test())


def test_when_all_are_busy_the_last_answer_is_the_result() -> None:
    # RFC 6733 §7.1.3: 3004 to an alternate peer; when none is left the failure is clean
    async def test() -> None:
        async with server(AAA) as (first, at), server(AAA2) as (second, at2), node(EPDG) as epdg:

            async def busy(request: DiameterMessage) -> DiameterMessage:
                raise RequestError(ResultCode.DIAMETER_TOO_BUSY, "later")

            for each in (first, second):
                each.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, busy)
            epdg.add_peer(peer(at))
            epdg.add_peer(peer(at2, AAA2))
            await epdg.wait_open(LONG, AAA.host)
            await epdg.wait_open(LONG, AAA2.host)
            answer = await epdg.request(der())
            assert (answer.error, Result.from_message(answer).code) == (True, 3004)
            assert [each.peers()[0].received["DER"] for each in (first, second)] == [1, 1]

    run(test())


def test_route_records_in_answers_are_tolerated() -> None:
    async def test() -> None:
        async with server() as (aaa, at), node(EPDG) as epdg:

            async def relayed(request: DiameterMessage) -> DiameterMessage:
                answer = await accepting(AAA)(request)
                return replace(answer, avps=(*answer.avps, Avp.of("Route-Record", "relay.test")))

            aaa.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, relayed)
            epdg.add_peer(peer(at))
            await epdg.wait_open(LONG)
            assert Dea.from_message(await epdg.request(der())).result.is_success
            assert not epdg.dropped

    run(test())


# Redirect agents


def test_a_redirect_is_followed_on_demand_and_kept() -> None:
    # RFC 6733 §6.1.8: If no transport connection exists with the new peer, one is created
    async def test() -> None:
        async with server(AAA) as (aaa, at), node(AGENT) as agent, node(EPDG) as epdg:
            usage = (Avp.of("Redirect-Host-Usage", 2), Avp.of("Redirect-Max-Cache-Time", 60))
            seen = redirecting(agent, "aaa://elsewhere.test", f"aaa://{AAA.host.upper()}:1", avps=usage)
            got: list[DiameterMessage] = []

            async def note(request: DiameterMessage) -> DiameterMessage:
                got.append(request)
                return await accepting(AAA)(request)

            aaa.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, note)
            epdg.add_peer(peer(at, on_demand=True))
            epdg.add_peer(peer(await agent.listen("127.0.0.1", 0), AGENT))
            await epdg.wait_open(LONG, AGENT.host)
            assert [(s.host, s.state) for s in epdg.peers()] == [(AGENT.host, "Open"), (AAA.host, "Closed")]
            assert await answered_by(epdg) == {AAA.host: 1}
            assert await answered_by(epdg, 10) == {AAA.host: 10}
            # The same request, not a repeated one; later ones go there without asking the agent
            assert (len(seen), got[0].end_to_end, got[0].retransmitted) == (1, seen[0].end_to_end, False)
            assert (epdg.redirected, dict(epdg.dropped)) == (1, {})

    run(test())


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("aaa://stranger.test",),
        ("http://aaa.epc.test",),
        (f"aaa://{AGENT.host}",),
    ],
)
def test_a_redirect_to_nobody_we_know_fails(uris: tuple[str, ...]) -> None:
    async def test() -> None:
        async with node(AGENT) as agent, node(EPDG) as epdg:
            seen = redirecting(agent, *uris)
            epdg.add_peer(peer(await agent.listen("127.0.0.1", 0), AGENT))
            await epdg.wait_open(LONG)
            answer = await epdg.request(der())
            assert (answer.error, Result.from_message(answer).code) == (True, 3006)
            assert (len(seen), epdg.redirected) == (1, 0)
            assert epdg.dropped == {"redirect indication that leads nowhere": 1}

    run(test())


def test_a_redirect_to_a_host_without_the_application_fails() -> None:
    async def test() -> None:
        other = replace(AAA, applications=(SWX,))
        both = replace(EPDG, applications=(SWM, SWX))
        async with node(other) as aaa, node(AGENT) as agent, node(both) as epdg:
            redirecting(agent, f"aaa://{AAA.host}")
            epdg.add_peer(peer(await aaa.listen("127.0.0.1", 0), on_demand=True))
            epdg.add_peer(peer(await agent.listen("127.0.0.1", 0), AGENT))
            await epdg.wait_open(LONG, AGENT.host)
            assert Result.from_message(await epdg.request(der())).code == 3006
            assert sorted(str(status.host) for status in epdg.peers() if status.in_service) == [AAA.host, AGENT.host]

    run(test())


def test_a_circle_of_redirects_ends() -> None:
    async def test() -> None:
        other = replace(AGENT, host="agent2.epc.test")
        async with node(AGENT) as one, node(other) as two, node(EPDG) as epdg:
            seen = [redirecting(one, f"aaa://{other.host}"), redirecting(two, f"aaa://{AGENT.host}")]
            epdg.add_peer(peer(await one.listen("127.0.0.1", 0), AGENT))
            epdg.add_peer(peer(await two.listen("127.0.0.1", 0), other))
            await epdg.wait_open(LONG, AGENT.host)
            await epdg.wait_open(LONG, other.host)
            assert Result.from_message(await epdg.request(der())).code == 3006
            assert [len(each) for each in seen] == [1, 1]

    run(test())


def test_a_redirect_to_a_host_that_is_down_goes_elsewhere() -> None:
    async def test() -> None:
        async with server(AAA2) as (_, at2), node(AGENT) as agent, node(EPDG) as epdg:
            redirecting(agent, f"aaa://{AAA.host}")
            epdg.add_peer(peer(Endpoint.of("127.0.0.1", 1), on_demand=True))
            epdg.add_peer(peer(await agent.listen("127.0.0.1", 0), AGENT))
            epdg.add_peer(peer(at2, AAA2, priority=5))
            await epdg.wait_open(LONG, AGENT.host)
            await epdg.wait_open(LONG, AAA2.host)
            assert await answered_by(epdg) == {AAA2.host: 1}

    run(test())


# Both ends connect


async def connected(one: DiameterNode, other: DiameterNode) -> None:
    """Both have the other in service, on one connection."""
    await one.wait_open(LONG, other.identity.host)
    await other.wait_open(LONG, one.identity.host)


def test_both_ends_connect_and_one_connection_stays() -> None:
    async def test() -> None:
        async with server(AAA) as (aaa, at), server(EPDG) as (epdg, at2):
            for _ in range(3):
                epdg.add_peer(peer(at))
                aaa.add_peer(peer(at2, EPDG))
            await connected(epdg, aaa)
            assert Dea.from_message(await epdg.request(der())).result.is_success
            assert Dea.from_message(await aaa.request(der(host=EPDG.host))).origin_host == EPDG.host
            for each in (aaa, epdg):
                assert [status.state for status in each.peers()] == ["Open"]

    run(test())


async def hold_cer(at: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[RawPeer, RawPeer]:
    """The node's connection to us, its CER unanswered, and ours to it."""
    theirs = RawPeer(reader, writer)
    assert (await theirs.receive()).name == "CER"
    return theirs, await RawPeer.connect(at)


async def race(host: str) -> tuple[DiameterNode, RawPeer, RawPeer]:
    """A node that has sent us, ``host``, its CER; our connection to it beside that."""
    accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
    accepted = asyncio.get_running_loop().create_future()
    listening = await asyncio.start_server(lambda r, w: accepted.set_result((r, w)), "127.0.0.1", 0)
    aaa = DiameterNode(AAA, reconnect_interval=60.0)
    at = await aaa.listen("127.0.0.1", 0)
    bound = listening.sockets[0].getsockname()
    aaa.add_peer(peer(Endpoint.of(bound[0], bound[1]), replace(EPDG, host=host)))
    theirs, ours = await hold_cer(at, *await accepted)
    listening.close()
    return aaa, theirs, ours


async def took_cer(aaa: DiameterNode) -> None:
    """The node has a CER."""
    taken = asyncio.Event()
    stop = aaa.on_traffic(
        lambda t: taken.set() if t.direction is Direction.IN and t.message and t.message.name == "CER" else None
    )
    await taken.wait()
    stop()


def test_the_node_that_wins_the_election_closes_the_connection_that_it_opened() -> None:
    # RFC 6733 §5.6, Wait-Returns: Win-Election: I-Disc, R-Snd-CEA
    async def test() -> None:
        aaa, theirs, ours = await race("a.epc.test")
        answer = await ours.exchange_capabilities(replace(EPDG, host="a.epc.test"))
        assert answer.integer("Result-Code") == 2001
        assert await theirs.is_closed()
        assert [status.accepted for status in aaa.peers()] == [True]
        assert aaa.ended[CloseReason.ELECTION_LOST.value] == 1
        await theirs.close()
        await ours.close()
        await aaa.close()

    run(test())


def test_the_node_that_loses_the_election_waits_and_keeps_the_connection_that_it_opened() -> None:
    # RFC 6733 §5.6, Wait-Returns: I-Rcv-CEA: R-Disc
    async def test() -> None:
        aaa, theirs, ours = await race("z.epc.test")
        us = replace(EPDG, host="z.epc.test")
        asked = asyncio.ensure_future(ours.exchange_capabilities(us))
        await took_cer(aaa)
        assert [status.state for status in aaa.peers()] == ["Wait-I-CEA", "Wait-Returns"]
        theirs.answer_capabilities(us)
        await aaa.wait_open(LONG, us.host)
        with pytest.raises(AssertionError, match="closed"):
            await asked
        assert [(status.state, status.accepted) for status in aaa.peers()] == [("Open", False)]
        await ours.close()
        await theirs.close()
        await aaa.close()

    run(test())


def test_the_node_that_loses_the_election_takes_the_other_connection_when_its_own_ends() -> None:
    # RFC 6733 §5.6, Wait-Returns: I-Peer-Disc: R-Snd-CEA
    async def test() -> None:
        aaa, theirs, ours = await race("z.epc.test")
        asked = asyncio.ensure_future(ours.exchange_capabilities(replace(EPDG, host="z.epc.test")))
        await took_cer(aaa)
        assert [status.state for status in aaa.peers() if status.accepted] == ["Wait-Returns"]
        await theirs.close()
        assert (await asked).integer("Result-Code") == 2001
        assert [(status.state, status.accepted) for status in aaa.peers()] == [("Open", True)]
        await ours.close()
        await aaa.close()

    run(test())


def test_a_node_does_not_connect_to_itself() -> None:
    async def test() -> None:
        async with server(AAA) as (aaa, at):
            aaa.add_peer(peer(at))
            with pytest.raises(BackendError):
                await aaa.wait_open(0.2)
            assert aaa.ended[CloseReason.UNKNOWN_PEER.value] >= 1

    run(test())
