"""Diameter nodes over TCP on loopback: requests, reconnection, failover, duplicates, garbage, a clean end."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import pytest

from protocols.diameter.codec import Avp, DiameterMessage, RequestError, Result, encode_message
from protocols.diameter.dictionary import SWM_APPLICATION, SWX_APPLICATION, CommandCode, ResultCode
from protocols.diameter.events import CloseReason, Direction, DropReason
from protocols.diameter.identity import DiameterIdentity
from protocols.diameter.swm import Dea
from protocols.errors import BackendError, RemoteError
from protocols.io.diameter import PeerAddress, Traffic
from protocols.trace.records import Kind
from tests.harness.diameter_nodes import (
    AAA,
    AAA2,
    EPDG,
    KEY,
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


def test_request_and_answer() -> None:
    async def test() -> None:
        async with server() as (_, at), node(EPDG) as epdg:
            epdg.add_peer(peer(at))
            await epdg.wait_open(LONG)
            answers = await asyncio.gather(*(epdg.request(der(bytes([n]))) for n in range(100)))
            assert [Dea.from_message(answer).eap_payload for answer in answers] == [bytes([n]) for n in range(100)]
            [status] = epdg.peers()
            assert (status.host, status.state, status.accepted) == (AAA.host, "Open", False)
            assert (status.sent["DER"], status.received["DEA"], status.pending_requests) == (100, 100, 0)
            assert status.to_json()["remote"] == str(at)

    run(test())


def test_server_asks_over_the_accepted_connection() -> None:
    async def test() -> None:
        async with server() as (aaa, at), node(EPDG) as epdg:
            epdg.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, accepting(EPDG))
            epdg.add_peer(peer(at))
            await aaa.wait_open(LONG, EPDG.host)
            answer = Dea.from_message(await aaa.request(der(host=EPDG.host)))
            assert answer.origin_host == EPDG.host
            assert [status.accepted for status in aaa.peers()] == [True]

    run(test())


def test_no_peer() -> None:
    async def test() -> None:
        async with node(EPDG) as epdg:
            with pytest.raises(BackendError, match="no open Diameter peer"):
                await epdg.request(der())
            with pytest.raises(BackendError, match="no open Diameter connection to aaa"):
                await epdg.wait_open(0.01, "aaa")

    run(test())


def test_no_peer_for_the_application() -> None:
    # RFC 6733 §5.3: only to a peer that has advertised the application
    async def test() -> None:
        async with server() as (_, at), node(EPDG) as epdg:
            epdg.add_peer(peer(at))
            await epdg.wait_open(LONG)
            with pytest.raises(BackendError, match=str(SWX_APPLICATION)):
                await epdg.request(replace(der(), application=SWX_APPLICATION))

    run(test())


def test_unused_address_is_reported_and_tried_again() -> None:
    async def test() -> None:
        free = socket.create_server(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        async with node(EPDG) as epdg:
            epdg.add_peer(PeerAddress(host=AAA.host, address="127.0.0.1", port=port))
            with pytest.raises(BackendError):
                await epdg.wait_open(0.1)
            assert str(port) in (epdg.peers()[0].last_error or "")
            async with node(AAA) as aaa:
                await aaa.listen("127.0.0.1", port)
                await epdg.wait_open(LONG)

    run(test())


def test_reconnects_when_the_server_comes_back() -> None:
    async def test() -> None:
        async with node(EPDG) as epdg:
            async with server() as (_, at):
                epdg.add_peer(peer(at))
                await epdg.wait_open(LONG)
                down = asyncio.ensure_future(changed(epdg, False))
            assert AAA.host in (await down).text
            assert epdg.ended[CloseReason.DISCONNECT_REQUESTED.value] == 1
            async with node(AAA) as again:
                again.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, accepting(AAA))
                await again.listen("127.0.0.1", at.port)
                await epdg.wait_open(LONG)
                assert Dea.from_message(await epdg.request(der())).result.is_success

    run(test())


def test_time_out() -> None:
    async def test() -> None:
        async with server() as (aaa, at), node(EPDG) as epdg:

            async def silent(request: DiameterMessage) -> DiameterMessage:
                await asyncio.Event().wait()
                return request

            aaa.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, silent)
            epdg.add_peer(peer(at))
            await epdg.wait_open(LONG)
            with pytest.raises(BackendError, match=f"no answer from {AAA.host} in 0.05 s"):
                await epdg.request(der(), 0.05)
            assert epdg.peers()[0].pending_requests == 0

    run(test())


def test_cancelled_request_leaves_nothing() -> None:
    async def test() -> None:
        async with server() as (aaa, at), node(EPDG) as epdg:
            arrived = asyncio.Event()

            async def silent(request: DiameterMessage) -> DiameterMessage:
                arrived.set()
                await asyncio.Event().wait()
                return request

            aaa.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, silent)
            epdg.add_peer(peer(at))
            await epdg.wait_open(LONG)
            task = asyncio.ensure_future(epdg.request(der()))
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert epdg.peers()[0].pending_requests == 0

    run(test())


def test_peer_that_goes_down_fails_what_is_pending() -> None:
    async def test() -> None:
        async with node(EPDG) as epdg:
            arrived = asyncio.Event()
            async with server() as (aaa, at):

                async def silent(request: DiameterMessage) -> DiameterMessage:
                    arrived.set()
                    await asyncio.Event().wait()
                    return request

                aaa.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, silent)
                epdg.add_peer(peer(at))
                await epdg.wait_open(LONG)
                task = asyncio.ensure_future(epdg.request(der()))
                await arrived.wait()
            with pytest.raises(BackendError, match="went down and there is no other"):
                await task

    run(test())


def test_failover_repeats_with_the_t_flag() -> None:
    # RFC 6733 §5.5.4: to an alternate agent with the T flag; §3: the same End-to-End Identifier
    async def test() -> None:
        async with server(AAA2) as (second, at2), node(EPDG) as epdg:
            seen: list[DiameterMessage] = []

            async def note(request: DiameterMessage) -> DiameterMessage:
                seen.append(request)
                return await accepting(AAA2)(request)

            second.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, note)
            arrived = asyncio.Event()
            async with server(AAA) as (first, at):

                async def silent(request: DiameterMessage) -> DiameterMessage:
                    seen.append(request)
                    arrived.set()
                    await asyncio.Event().wait()
                    return request

                first.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, silent)
                epdg.add_peer(peer(at))
                await epdg.wait_open(LONG, AAA.host)
                epdg.add_peer(peer(at2, AAA2))
                await epdg.wait_open(LONG, AAA2.host)
                task = asyncio.ensure_future(epdg.request(der()))
                await arrived.wait()
            assert Dea.from_message(await task).origin_host == AAA2.host
            assert [request.retransmitted for request in seen] == [False, True]
            assert seen[0].end_to_end == seen[1].end_to_end

    run(test())


def test_undeliverable_goes_to_another_peer() -> None:
    async def test() -> None:
        async with server(AAA) as (first, at), server(AAA2) as (second, at2), node(EPDG) as epdg:
            flags: list[bool] = []

            async def undeliverable(request: DiameterMessage) -> DiameterMessage:
                raise RequestError(ResultCode.DIAMETER_UNABLE_TO_DELIVER, "not now")

            async def note(request: DiameterMessage) -> DiameterMessage:
                flags.append(request.retransmitted)
                return await accepting(AAA2)(request)

            first.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, undeliverable)
            second.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, note)
            epdg.add_peer(peer(at))
            await epdg.wait_open(LONG, AAA.host)
            alone = await epdg.request(der())
            assert (alone.error, Result.from_message(alone).code) == (True, 3002)
            epdg.add_peer(peer(at2, AAA2))
            await epdg.wait_open(LONG, AAA2.host)
            assert Dea.from_message(await epdg.request(der())).origin_host == AAA2.host
            # RFC 6733 §3: no T flag after an error answer
            assert flags == [False]

    run(test())


def test_destination_host_decides() -> None:
    async def test() -> None:
        async with server(AAA) as (_, at), server(AAA2) as (_, at2), node(EPDG) as epdg:
            epdg.add_peer(peer(at))
            epdg.add_peer(peer(at2, AAA2))
            await epdg.wait_open(LONG, AAA.host)
            await epdg.wait_open(LONG, AAA2.host)
            for host in (AAA.host, AAA2.host, AAA.host):
                assert Dea.from_message(await epdg.request(der(host=host))).origin_host == host

    run(test())


def test_handler_errors_become_answers(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with server() as (aaa, at), node(EPDG) as epdg:
            errors = [
                RequestError(ResultCode.DIAMETER_INVALID_AVP_VALUE, "no", Avp.of("RAT-Type", 9)),
                RemoteError("not that"),
                ValueError("a fault of ours"),
            ]

            async def fail(request: DiameterMessage) -> DiameterMessage:
                raise errors.pop(0)

            aaa.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, fail)
            epdg.add_peer(peer(at))
            await epdg.wait_open(LONG)
            answer = await epdg.request(der())
            assert answer.integer("Result-Code") == 5004
            assert answer.get("Failed-AVP") == (Avp.of("RAT-Type", 9),)
            assert (await epdg.request(der())).integer("Result-Code") == 5012
            assert "Traceback" not in caplog.text
            assert (await epdg.request(der())).integer("Result-Code") == 5012
            assert "a fault of ours" in caplog.text

    run(test())


# Octets of our own


def test_duplicate_requests_are_handled_once() -> None:
    # RFC 6733 §3: Duplicate requests SHOULD cause the same answer and MUST NOT affect any state
    async def test() -> None:
        async with server() as (aaa, at):
            handled: list[int] = []
            begun, go_on = asyncio.Event(), asyncio.Event()

            async def count(request: DiameterMessage) -> DiameterMessage:
                handled.append(request.end_to_end)
                begun.set()
                await go_on.wait()
                return await accepting(AAA)(request)

            aaa.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, count)
            raw = await RawPeer.connect(at)
            await raw.exchange_capabilities()
            raw.send(replace(der(), hop_by_hop=1, end_to_end=77))
            await begun.wait()
            # Once while the first is in work, once afterwards, and a new one
            raw.send(replace(der(), hop_by_hop=2, end_to_end=77, retransmitted=True))
            go_on.set()
            answers = [await raw.receive() for _ in range(2)]
            raw.send(replace(der(), hop_by_hop=3, end_to_end=77, retransmitted=True))
            raw.send(replace(der(), hop_by_hop=4, end_to_end=78))
            answers += [await raw.receive() for _ in range(2)]
            assert sorted(answer.hop_by_hop for answer in answers) == [1, 2, 3, 4]
            assert handled == [77, 78]
            assert len({answer.avps for answer in answers}) == 1
            await raw.close()

    run(test())


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: aaa\r\n\r\n", DropReason.VERSION),
        (bytes(64), DropReason.VERSION),
        (b"\x01\x00\x00\x08" + bytes(8), DropReason.LENGTH),
        (b"\x01\xff\xff\xf0" + bytes(16), DropReason.TOO_LONG),
    ],
)
@pytest.mark.parametrize("is_open", [False, True])
def test_garbage_closes_the_connection(
    octets: bytes, reason: DropReason, is_open: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with server() as (aaa, at), node(DiameterIdentity(host="other.epc.test", realm="epc.test")) as other:
            other.add_peer(peer(at))
            await other.wait_open(LONG)
            traffic: list[Traffic] = []
            aaa.on_traffic(traffic.append)
            raw = await RawPeer.connect(at)
            if is_open:
                assert (await raw.exchange_capabilities()).integer("Result-Code") == 2001
            raw.writer.write(octets)
            assert await raw.is_closed()
            await raw.close()
            assert [t.octets for t in traffic if t.dropped is reason] == [octets]
            # Others are not touched
            assert Dea.from_message(await other.request(der())).result.is_success
        assert aaa.dropped[reason.value] == 1
        assert aaa.ended[CloseReason.NOT_DIAMETER.value] == 1

    run(test())
    assert "Traceback" not in caplog.text


def test_truncated_message_is_counted() -> None:
    async def test() -> None:
        async with server() as (aaa, at):
            down = asyncio.ensure_future(changed(aaa, False))
            raw = await RawPeer.connect(at)
            await raw.exchange_capabilities()
            raw.writer.write(encode_message(der())[:-3])
            await raw.close()
            await down
            assert aaa.ended[CloseReason.DISCONNECTED.value] == 1
        assert aaa.dropped[DropReason.TRUNCATED.value] == 1

    run(test())


def test_unknown_peers_are_refused() -> None:
    async def test() -> None:
        async with server(known_peers=frozenset({"EPDG.epc.test"})) as (aaa, at):
            raw = await RawPeer.connect(at)
            stranger = DiameterIdentity(host="stranger.test", realm="test")
            answer = await raw.exchange_capabilities(stranger)
            assert (answer.error, answer.integer("Result-Code")) == (True, ResultCode.DIAMETER_UNKNOWN_PEER)
            assert await raw.is_closed()
            await raw.close()
            known = await RawPeer.connect(at)
            assert (await known.exchange_capabilities()).integer("Result-Code") == 2001
            await known.close()
            assert aaa.ended[CloseReason.UNKNOWN_PEER.value] == 1

    run(test())


def test_a_peer_has_one_connection_unless_it_restarted() -> None:
    async def test() -> None:
        async with server() as (aaa, at):
            first = await RawPeer.connect(at)
            await first.exchange_capabilities()
            second = await RawPeer.connect(at)
            refused = await second.exchange_capabilities()
            assert refused.integer("Result-Code") == ResultCode.ELECTION_LOST
            assert await second.is_closed()
            third = await RawPeer.connect(at)
            restarted = replace(EPDG, origin_state_id=EPDG.origin_state_id + 1)
            assert (await third.exchange_capabilities(restarted)).integer("Result-Code") == 2001
            assert await first.is_closed()
            assert len([status for status in aaa.peers() if status.state == "Open"]) == 1
            for raw in (first, second, third):
                await raw.close()

    run(test())


def test_close_says_goodbye() -> None:
    async def test() -> None:
        async with server() as (aaa, at), node(EPDG) as epdg:
            epdg.add_peer(peer(at))
            await epdg.wait_open(LONG)
            seen: list[str] = []
            aaa.on_traffic(lambda traffic: seen.append(traffic.message.name if traffic.message else ""))
            await epdg.close()
            assert seen == ["DPR", "DPA"]
            assert epdg.peers()[0].state == "Closed"
            with pytest.raises(BackendError):
                await epdg.request(der())

    run(test())


def test_close_does_not_wait_for_a_peer_that_never_said_anything() -> None:
    async def test() -> None:
        async with server() as (aaa, at):
            raw = await RawPeer.connect(at)
            # Accepted in order: once this one is answered, the node knows the silent one
            other = await RawPeer.connect(at)
            await other.exchange_capabilities()
            await other.close()
            assert any(status.host is None for status in aaa.peers())
            await aaa.close()
            assert await raw.is_closed()
            await raw.close()

    run(test())


def test_traffic_without_keys() -> None:
    async def test() -> None:
        async with server() as (_, at), node(EPDG) as epdg:
            epdg.add_peer(peer(at))
            await epdg.wait_open(LONG)
            seen: list[Traffic] = []
            stop = epdg.on_traffic(seen.append)
            await epdg.request(der())
            stop()
            await epdg.request(der())
            assert [(t.direction, t.message.name if t.message else None) for t in seen] == [
                (Direction.OUT, "DER"),
                (Direction.IN, "DEA"),
            ]
            assert seen[0].remote == at
            (datagram, body), (message, description) = seen[1].records()
            assert (datagram, message) == (Kind.DATAGRAM, Kind.MESSAGE)
            assert body["transport"] == "tcp"
            assert KEY.hex() not in f"{body}{description}"
            assert (description["name"], description["peer"]) == ("DEA", AAA.host)
            (_, with_keys), _ = seen[1].records(export_keys=True)
            assert KEY.hex() in str(with_keys["payload"])
            # half a message that is dropped is as secret as a whole one; what is no Diameter is shown
            whole = seen[1].octets
            ends = whole.index(KEY) + len(KEY)
            for octets, is_shown in ((whole[:ends], False), (whole[: ends - 1], False), (b"GET / HTTP/1.1", True)):
                (half,) = replace(seen[1], message=None, octets=octets).records()
                assert (half[1]["payload"] == octets.hex()) is is_shown
                assert KEY[:-1].hex() not in str(half[1]["payload"])

    run(test())


def test_port_in_use_is_a_backend_error() -> None:
    async def test() -> None:
        async with server() as (_, at), node(EPDG) as other:
            line = f"^cannot listen on 127.0.0.1 port {at.port}: Address already in use$"
            with pytest.raises(BackendError, match=line):
                await other.listen("127.0.0.1", at.port)

    run(test())
