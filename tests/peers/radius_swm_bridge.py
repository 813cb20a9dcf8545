"""A RADIUS EAP server that is a gateway on SWm: what arrives in RADIUS is asked of the real AAA by Diameter.

::

    eapol_test                       bridge                              aaa
     Access-Request [EAP-Message]  -->   DER [EAP-Payload]            -->
     <--  Access-Challenge [EAP-Message, State]   <--  DEA 1001 [EAP-Payload]
     <--  Access-Accept [EAP-Message, MS-MPPE-*]  <--  DEA 2001 [EAP-Payload, EAP-Master-Session-Key]
     <--  Access-Reject [EAP-Message]             <--  DEA, any other result

RADIUS is pyrad's (RFC 2865, RFC 3579; MS-MPPE keys RFC 2548 §2.4). State holds the SWm Session-Id.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import cast

from pyrad.packet import AccessAccept, AccessChallenge, AccessReject, AccessRequest, AuthPacket, Packet, PacketError

from protocols.diameter.swm import Dea
from tests.peers.aaa_node import Gateway
from tests.peers.processes import PeerError
from tests.peers.strongswan import RadiusServer

USER_NAME, STATE, EAP_MESSAGE = 1, 24, 79
EAP_MESSAGE_LENGTH = 253
MS_MPPE_SEND_KEY, MS_MPPE_RECV_KEY = (311, 16), (311, 17)
KEY_LENGTH = 32  # of each half of the MSK (RFC 3748 §7.10 and RFC 2548)
START_TIMEOUT = 10.0


@dataclass
class RadiusSwmBridge:
    """Listens on a free UDP port of loopback in a thread of its own; ``answers`` are the DEAs it got.

    ``received`` are the EAP packets of the peer, ``alter`` changes them on their way to the server.
    """

    aaa_port: int
    apn: str | None = "internet"
    secret: bytes = b"radius"
    alter: Callable[[bytes], bytes] = lambda packet: packet
    answers: list[Dea] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="radius-swm-bridge")
        self._port = 0

    @property
    def server(self) -> RadiusServer:
        """Where it listens."""
        return RadiusServer(address="127.0.0.1", secret=self.secret.decode(), port=self._port)

    def __enter__(self) -> RadiusSwmBridge:
        self._thread.start()
        if not self._started.wait(START_TIMEOUT) or not self._port:
            raise PeerError("the RADIUS to SWm bridge did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stopping is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            async with Gateway.connected(self.aaa_port) as gateway, asyncio.TaskGroup() as group:
                listener = _Listener(self, gateway, group)
                transport, _ = await self._loop.create_datagram_endpoint(lambda: listener, local_addr=("127.0.0.1", 0))
                self._port = transport.get_extra_info("sockname")[1]
                self._started.set()
                await self._stopping.wait()
                transport.close()
        finally:
            self._started.set()


class _Listener(asyncio.DatagramProtocol):
    """Access-Requests in, replies out; a retransmitted request gets the reply of its original."""

    def __init__(self, bridge: RadiusSwmBridge, gateway: Gateway, group: asyncio.TaskGroup) -> None:
        self._bridge = bridge
        self._gateway = gateway
        self._group = group
        self._transport: asyncio.DatagramTransport | None = None
        self._replies: dict[tuple[object, int, bytes], bytes | None] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        try:
            request = AuthPacket(packet=data, secret=self._bridge.secret)
        except PacketError:
            return
        if request.code != AccessRequest or not request.verify_message_authenticator():
            return
        key = (addr, request.id, request.authenticator)
        if key not in self._replies:
            self._replies[key] = None
            self._group.create_task(self._answer(request, key, addr))
            return
        reply = self._replies[key]
        if reply is not None and self._transport is not None:
            self._transport.sendto(reply, addr)

    async def _answer(self, request: Packet, key: tuple[object, int, bytes], addr: tuple[object, int]) -> None:
        state = request.get(STATE)
        session = state[0].decode() if state else self._gateway.session_id()
        packet = b"".join(request.get(EAP_MESSAGE, []))
        self._bridge.received.append(packet)
        answer = await self._gateway.exchange(
            session,
            self._bridge.alter(packet),
            user_name=request[USER_NAME][0].decode(),
            apn=self._bridge.apn,
        )
        self._bridge.answers.append(answer)
        reply = _reply(request, answer)
        self._replies[key] = reply
        if self._transport is not None:
            self._transport.sendto(reply, addr)


def _reply(request: Packet, answer: Dea) -> bytes:
    reply = request.CreateReply()
    if answer.result.is_multi_round:
        reply.code = AccessChallenge
        reply[STATE] = [answer.session_id.encode()]
    elif answer.result.is_success:
        reply.code = AccessAccept
        assert answer.master_session_key is not None
        msk = answer.master_session_key.reveal()
        # RFC 2548: what the authenticator receives with is the first half of the MSK
        reply[MS_MPPE_RECV_KEY] = [reply.SaltCrypt(msk[:KEY_LENGTH])]
        reply[MS_MPPE_SEND_KEY] = [reply.SaltCrypt(msk[KEY_LENGTH : 2 * KEY_LENGTH])]
    else:
        reply.code = AccessReject
    payload = answer.eap_payload or b""
    reply[EAP_MESSAGE] = [payload[at : at + EAP_MESSAGE_LENGTH] for at in range(0, len(payload), EAP_MESSAGE_LENGTH)]
    reply.add_message_authenticator()
    octets: bytes = reply.ReplyPacket()
    return octets
