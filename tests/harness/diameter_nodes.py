"""Diameter nodes over loopback for tests: two servers, a gateway, a connection on which a test writes octets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from protocols.diameter.capabilities import capability_avps
from protocols.diameter.codec import Avp, DiameterMessage, Result, decode_message, encode_message
from protocols.diameter.dictionary import SWM_APPLICATION, CommandCode, ResultCode
from protocols.diameter.framing import Framer
from protocols.diameter.identity import DiameterIdentity
from protocols.diameter.swm import Dea, Der
from protocols.diameter.uri import Transport
from protocols.io.diameter import DiameterNode, PeerAddress, PeerChange
from protocols.path import Endpoint
from protocols.secret import Secret

EPDG = DiameterIdentity(host="epdg.epc.test", realm="epc.test", origin_state_id=5)
AAA = DiameterIdentity(host="aaa.epc.test", realm="epc.test", origin_state_id=5)
AAA2 = DiameterIdentity(host="aaa2.epc.test", realm="epc.test", origin_state_id=5)
KEY = bytes(range(64))
LONG = 10.0  # never reached by a test that passes


def der(eap: bytes = b"\x02\x01\x00\x05\x01", **fields: str) -> DiameterMessage:
    return Der(
        session_id="epdg.epc.test;1;1",
        origin_host=EPDG.host,
        origin_realm=EPDG.realm,
        destination_realm="epc.test",
        destination_host=fields.get("host"),
        eap_payload=eap,
    ).to_message()


def accepting(identity: DiameterIdentity) -> Callable[[DiameterMessage], Awaitable[DiameterMessage]]:
    """A handler that answers DIAMETER_SUCCESS with the EAP payload returned and a key."""

    async def handle(request: DiameterMessage) -> DiameterMessage:
        received = Der.from_message(request)
        return Dea(
            session_id=received.session_id,
            origin_host=identity.host,
            origin_realm=identity.realm,
            result=Result(0, 2001),
            eap_payload=received.eap_payload,
            master_session_key=Secret(KEY),
        ).to_message(request)

    return handle


@contextlib.asynccontextmanager
async def node(identity: DiameterIdentity, **options: object) -> AsyncIterator[DiameterNode]:
    made = DiameterNode(identity, reconnect_interval=0.01, **options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def server(
    identity: DiameterIdentity = AAA, *, transport: Transport = Transport.TCP, **options: object
) -> AsyncIterator[tuple[DiameterNode, Endpoint]]:
    async with node(identity, **options) as aaa:
        aaa.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, accepting(identity))
        yield aaa, await aaa.listen("127.0.0.1", 0, transport)


def peer(at: Endpoint, identity: DiameterIdentity = AAA, **options: object) -> PeerAddress:
    made = PeerAddress(host=identity.host, address=str(at.address), port=at.port)
    return replace(made, **options)  # type: ignore[arg-type]


def run(test: Awaitable[None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await test

    asyncio.run(limited())


async def changed(node_: DiameterNode, is_up: bool) -> PeerChange:
    """The next change of a peer in that direction."""
    future: asyncio.Future[PeerChange] = asyncio.get_running_loop().create_future()

    def note(change: PeerChange) -> None:
        if change.is_up is is_up and not future.done():
            future.set_result(change)

    stop = node_.on_peer(note)
    try:
        return await future
    finally:
        stop()


def capabilities_request(identity: DiameterIdentity = EPDG) -> DiameterMessage:
    """CER with the application SWm."""
    return DiameterMessage(
        command=CommandCode.CAPABILITIES_EXCHANGE,
        application=0,
        request=True,
        avps=(
            *identity.origin_avps(),
            Avp.of("Host-IP-Address", Endpoint.of("127.0.0.1", 0).address),
            Avp.of("Vendor-Id", 0),
            Avp.of("Product-Name", "raw"),
            *identity.state_avps(),
            Avp.of("Auth-Application-Id", SWM_APPLICATION),
        ),
    )


def numbered(number: int, message: DiameterMessage) -> DiameterMessage:
    """A request that is no duplicate of others."""
    return replace(message, hop_by_hop=number, end_to_end=number)


class RawPeer:
    """A TCP connection on which the test writes octets itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.last: DiameterMessage | None = None
        self._framer = Framer()

    @classmethod
    async def connect(cls, at: Endpoint) -> RawPeer:
        return cls(*await asyncio.open_connection(str(at.address), at.port))

    def send(self, message: DiameterMessage) -> None:
        self.writer.write(encode_message(message))

    async def receive(self) -> DiameterMessage:
        while (octets := self._framer.next()) is None:
            data = await self.reader.read(65536)
            assert data, "the node closed the connection"
            self._framer.feed(data)
        self.last = decode_message(octets)
        return self.last

    async def exchange_capabilities(self, identity: DiameterIdentity = EPDG) -> DiameterMessage:
        self.send(capabilities_request(identity))
        return await self.receive()

    def answer_capabilities(self, identity: DiameterIdentity) -> None:
        """CEA to the CER that was received last."""
        assert self.last is not None
        addresses = (Endpoint.of("127.0.0.1", 0).address,)
        self.send(identity.answer(self.last, ResultCode.DIAMETER_SUCCESS, capability_avps(identity, addresses)))

    async def is_closed(self) -> bool:
        """Wait for the node to close."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                continue
        return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()
