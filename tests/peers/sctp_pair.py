"""Two Diameter nodes over SCTP, as a program for a kernel that has it: prints what it found as one line of JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from dataclasses import replace

from protocols.diameter.codec import Avp, DiameterMessage, encode_message
from protocols.diameter.dictionary import SWM_APPLICATION, CommandCode
from protocols.diameter.identity import DiameterIdentity
from protocols.diameter.swm import Dea
from protocols.diameter.uri import Transport
from protocols.io.configuration import parse
from protocols.io.diameter import PeerAddress
from protocols.io.diameter.composition import make_node, open_node
from protocols.io.diameter.configuration import DiameterNodeSection, ListenSection
from protocols.io.diameter.connection import WRITE_LIMIT
from protocols.io.diameter.sctp import IPPROTO_SCTP, connect_sctp, has_sctp, sctp_socket
from protocols.trace.records import JsonValue
from tests.harness.diameter_nodes import AAA, EPDG, LONG, accepting, capabilities_request, changed, der, node, numbered

LARGE = bytes(60_000)
SCTP_RECVRCVINFO = 32  # <linux/sctp.h>
DEAF = DiameterIdentity(host="deaf.epc.test", realm="epc.test")


async def talk(address: str) -> dict[str, JsonValue]:
    """Nodes as configured: requests both ways, large ones, a hundred at a time, DPR at the end."""
    listen = parse(f"{{address: '{address}', port: null, sctp_port: 3868}}", ListenSection)
    peers = parse(f"peers: [{{host: {AAA.host}, address: '{address}', transport: sctp}}]", DiameterNodeSection)
    alone = DiameterNodeSection()
    recorded: set[str] = set()
    aaa, epdg = make_node(AAA, alone, listen=listen), make_node(EPDG, peers)
    try:
        aaa.on_traffic(lambda traffic: recorded.add(str(traffic.records()[0][1]["transport"])))
        aaa.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, accepting(AAA))
        epdg.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, accepting(EPDG))
        await open_node(aaa, alone, listen)
        await open_node(epdg, peers)
        await epdg.wait_open(LONG, AAA.host)
        await aaa.wait_open(LONG, EPDG.host)
        payloads = [LARGE, *(bytes([n]) for n in range(100))]
        answers = await asyncio.gather(*(epdg.request(der(each)) for each in payloads))
        back = await aaa.request(der(host=EPDG.host))
        transports = [status.transport for status in aaa.peers()]
    finally:
        await epdg.close()
        await aaa.close()
    return {
        "echoed": [Dea.from_message(answer).eap_payload for answer in answers] == payloads,
        "back": Dea.from_message(back).origin_host,
        "transports": [*transports],
        "recorded": [*recorded],
        "dropped": dict(aaa.dropped),
        "ended": dict(aaa.ended),
    }


async def verbose(request: DiameterMessage) -> DiameterMessage:
    """A long answer to a short question."""
    answer = await accepting(AAA)(request)
    return replace(answer, avps=(*answer.avps, Avp.of("Reply-Message", LARGE.decode())))


async def refuse_to_read() -> dict[str, JsonValue]:
    """A peer that asks and never reads is cut off, others are served."""
    async with node(AAA) as aaa, node(EPDG) as epdg:
        aaa.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, verbose)
        at = await aaa.listen("127.0.0.1", 0, Transport.SCTP)
        deaf = await connect_sctp(at.address, at.port)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        cut = asyncio.ensure_future(changed(aaa, False))
        requests = (numbered(n, der()) for n in range(1, WRITE_LIMIT // len(LARGE) + 100))
        with contextlib.suppress(OSError):
            for message in (capabilities_request(DEAF), *requests):
                await loop.sock_sendall(deaf, encode_message(message))
        await cut
        epdg.add_peer(PeerAddress(host=AAA.host, address="127.0.0.1", port=at.port, transport=Transport.SCTP))
        await epdg.wait_open(LONG, AAA.host)
        answer = await epdg.request(der())
        deaf.close()
        return {"served": Dea.from_message(answer).result.is_success, "ended": dict(aaa.ended)}


async def payload_identifiers() -> list[JsonValue]:
    """What our nodes write on their messages: the one that accepts, and the one that connects (RFC 6733 §2.1.1)."""

    async def received(end: socket.socket) -> int:
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(end, readable.set_result, None)
        await readable
        loop.remove_reader(end)
        _, information, _, _ = end.recvmsg(65536, 256)
        ((_, _, data),) = information  # struct sctp_rcvinfo, RFC 6458 §5.3.5
        return int.from_bytes(data[8:12], "big")

    async with node(AAA) as aaa, node(EPDG) as epdg:
        at = await aaa.listen("127.0.0.1", 0, Transport.SCTP)
        loop = asyncio.get_running_loop()
        with await connect_sctp(at.address, at.port) as client, sctp_socket(at.address) as listening:
            client.setsockopt(IPPROTO_SCTP, SCTP_RECVRCVINFO, 1)
            await loop.sock_sendall(client, encode_message(capabilities_request(DEAF)))
            of_server = await received(client)
            listening.bind(("127.0.0.1", 0))
            listening.setsockopt(IPPROTO_SCTP, SCTP_RECVRCVINFO, 1)
            listening.listen()
            port = listening.getsockname()[1]
            epdg.add_peer(PeerAddress(host=AAA.host, address="127.0.0.1", port=port, transport=Transport.SCTP))
            accepted, _ = await loop.sock_accept(listening)
            with accepted:
                return [of_server, await received(accepted)]


async def main() -> dict[str, JsonValue]:
    """Everything, one after the other."""
    return {
        "sctp": has_sctp(),
        "ipv4": await talk("127.0.0.1"),
        "ipv6": await talk("::1"),
        "identifiers": await payload_identifiers(),
        "deaf": await refuse_to_read(),
    }


if __name__ == "__main__":
    json.dump(asyncio.run(asyncio.wait_for(main(), 60)), sys.stdout)
    print()
