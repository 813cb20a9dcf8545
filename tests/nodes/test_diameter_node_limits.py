"""Diameter nodes under too much: requests in work, answers kept, long messages, peers that do not read."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from protocols.diameter.codec import Avp, DiameterMessage, encode_message
from protocols.diameter.dictionary import SWM_APPLICATION, CommandCode, ResultCode
from protocols.diameter.events import DropReason
from protocols.diameter.identity import DiameterIdentity
from protocols.diameter.swm import Dea
from protocols.io.diameter.answers import AnswerCache
from protocols.io.diameter.connection import WRITE_LIMIT
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
    numbered,
    peer,
    run,
    server,
)

LARGE = "x" * 60_000


def test_more_than_the_node_can_do_is_answered_too_busy() -> None:
    # RFC 6733 §7.1.3: DIAMETER_TOO_BUSY with the E flag; duplicates cost nothing
    async def test() -> None:
        async with server(requests_limit=2) as (aaa, at):
            go_on = asyncio.Event()

            async def slow(request: DiameterMessage) -> DiameterMessage:
                await go_on.wait()
                return await accepting(AAA)(request)

            aaa.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, slow)
            raw = await RawPeer.connect(at)
            await raw.exchange_capabilities()
            for number in range(1, 5):
                raw.send(numbered(number, der()))
            raw.send(replace(numbered(1, der()), hop_by_hop=9, retransmitted=True))
            busy = [await raw.receive() for _ in range(2)]
            assert [(answer.hop_by_hop, answer.error) for answer in busy] == [(3, True), (4, True)]
            assert {answer.integer("Result-Code") for answer in busy} == {ResultCode.DIAMETER_TOO_BUSY}
            go_on.set()
            assert sorted([(await raw.receive()).hop_by_hop for _ in range(3)]) == [1, 2, 9]
            # What was refused may come again
            raw.send(replace(numbered(3, der()), retransmitted=True))
            assert (await raw.receive()).integer("Result-Code") == ResultCode.DIAMETER_SUCCESS
            assert aaa.dropped["too busy"] == 2
            await raw.close()

    run(test())


def test_a_busy_peer_s_requests_go_to_another() -> None:
    async def test() -> None:
        async with server(requests_limit=5) as (first, at), server(AAA2) as (_, at2), node(EPDG) as epdg:
            go_on = asyncio.Event()

            async def slow(request: DiameterMessage) -> DiameterMessage:
                await go_on.wait()
                return await accepting(AAA)(request)

            first.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, slow)
            epdg.add_peer(peer(at))
            epdg.add_peer(peer(at2, AAA2, priority=1))
            await epdg.wait_open(LONG, AAA.host)
            await epdg.wait_open(LONG, AAA2.host)
            asked = [asyncio.ensure_future(epdg.request(der())) for _ in range(20)]
            done: set[asyncio.Future[DiameterMessage]] = set()
            while len(done) < 15:
                done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                asked = [each for each in asked if not each.done()] + list(done)
            go_on.set()
            answers = [Dea.from_message(answer).origin_host for answer in await asyncio.gather(*asked)]
            assert (answers.count(AAA.host), answers.count(AAA2.host)) == (5, 15)

    run(test())


def test_answers_are_kept_up_to_a_limit_of_octets() -> None:
    async def test() -> None:
        cache = AnswerCache(limit=10_000)

        async def verbose(request: DiameterMessage) -> DiameterMessage:
            return replace(request, request=False, avps=(Avp.of("Reply-Message", "x" * 1000),))

        for number in range(1, 100):
            await cache.answer(numbered(number, der()), verbose)
            assert cache.octets <= 10_000
        assert len(cache) == 9
        assert cache.knows(numbered(99, der()))
        assert not cache.knows(numbered(1, der()))
        # One that is larger than all is answered, not kept
        small = AnswerCache(limit=100)
        assert (await small.answer(numbered(1, der()), verbose)).text("Reply-Message") == "x" * 1000
        assert (len(small), small.octets, small.in_work) == (0, 0, 0)

    run(test())


def test_a_peer_that_asks_and_never_reads_is_cut_off() -> None:
    async def test() -> None:
        async with server() as (aaa, at), node(EPDG) as epdg:

            async def verbose(request: DiameterMessage) -> DiameterMessage:
                answer = await accepting(AAA)(request)
                return replace(answer, avps=(*answer.avps, Avp.of("Reply-Message", LARGE)))

            aaa.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, verbose)
            deaf = await RawPeer.connect(at)
            await deaf.exchange_capabilities(DiameterIdentity(host="deaf.epc.test", realm="epc.test"))
            deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]  # noqa: SLF001
            down = asyncio.ensure_future(changed(aaa, False))
            for number in range(1, WRITE_LIMIT // len(LARGE) + 200):
                deaf.send(numbered(number, der()))
            assert (await down).peer == "deaf.epc.test"
            epdg.add_peer(peer(at))
            await epdg.wait_open(LONG)
            assert Dea.from_message(await epdg.request(der())).result.is_success
            deaf.writer.transport.abort()

    run(test())


@pytest.mark.parametrize("limit", [1024, 4096])
def test_the_longest_message_is_configured(limit: int) -> None:
    async def test() -> None:
        async with server(message_length_limit=limit) as (aaa, at):
            raw = await RawPeer.connect(at)
            await raw.exchange_capabilities()
            spare = limit - len(encode_message(der(b"")))
            raw.send(numbered(1, der(bytes(spare))))
            assert (await raw.receive()).integer("Result-Code") == ResultCode.DIAMETER_SUCCESS
            raw.send(numbered(2, der(bytes(spare + 4))))
            assert await raw.is_closed()
            await raw.close()
        assert aaa.dropped[DropReason.TOO_LONG.value] == 1

    run(test())


def test_octets_that_are_no_diameter_end_with_a_reset() -> None:
    # RFC 6733 §2.1: The transport connection MUST be closed using a RESET call
    async def test() -> None:
        async with server() as (aaa, at):
            raw = await RawPeer.connect(at)
            await raw.exchange_capabilities()
            raw.writer.write(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                await raw.reader.read(1)
            await raw.close()
            assert aaa.dropped[DropReason.VERSION.value] == 1

    run(test())
