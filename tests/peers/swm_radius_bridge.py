"""A 3GPP AAA server on SWm that asks a RADIUS EAP server: any method that hostapd knows, for any gateway of ours.

::

    epdg                               bridge                                   hostapd
     DER [EAP-Payload]              -->   Access-Request [EAP-Message, State]  -->
     <--  DEA 1001 [EAP-Payload]           <--  Access-Challenge [EAP-Message, State]
     <--  DEA 2001 [EAP-Payload, EAP-Master-Session-Key, APN-Configuration]
                                           <--  Access-Accept [EAP-Message, MS-MPPE-*]
     <--  DEA 4001 [EAP-Payload]           <--  Access-Reject [EAP-Message]
     STR  -->  <--  STA 2001               (RADIUS has no word for it)

RADIUS is pyrad's (RFC 2865, RFC 3579 §3.2; MS-MPPE keys RFC 2548 §2.4), State belongs to the Session-Id.
The MSK is MS-MPPE-Recv-Key followed by MS-MPPE-Send-Key, filled up with zeros to the 64 octets that it has
at least (RFC 3748 §7.10): EAP-MSCHAPv2 has keys of 16 octets, EAP-AKA of 32.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import cast

from pyrad.packet import AccessAccept, AccessChallenge, AccessRequest, AuthPacket, Packet, PacketError

from lab.namespaces import Namespace
from protocols.diameter.codec import DiameterMessage
from protocols.diameter.swm import (
    SWM_APPLICATION,
    ApnConfiguration,
    CommandCode,
    Dea,
    Der,
    PdnType,
    Result,
    ResultCode,
    Sta,
    Str,
)
from protocols.errors import BackendError
from protocols.io.diameter import PORT, SWM, DiameterIdentity, DiameterNode
from protocols.path import Address
from protocols.secret import Secret
from tests.peers.aaa_node import HOST, REALM
from tests.peers.processes import PeerError, wait_until
from tests.peers.strongswan import RadiusServer

USER_NAME, STATE, VENDOR_SPECIFIC, NAS_IDENTIFIER, EAP_MESSAGE = 1, 24, 26, 32, 79
EAP_MESSAGE_LENGTH = 253
MICROSOFT = 311
MS_MPPE_SEND_KEY, MS_MPPE_RECV_KEY = 16, 17
MSK_LENGTH = 64
START_TIMEOUT = 10.0
RADIUS_TIMEOUT = 4.0  # hostapd answers at once; within the gateway's own patience
STR_TIMEOUT = 5.0


@dataclass
class SwmRadiusBridge:
    """Serves SWm on ``address`` of ``namespace`` in a thread of its own; says what it was asked and answered."""

    namespace: Namespace
    radius: RadiusServer
    address: Address | str
    port: int = PORT
    default_apn: str = "internet"
    requests: list[Der] = field(default_factory=list)
    answers: list[Dea] = field(default_factory=list)
    terminated: list[Str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._states: dict[str, list[bytes]] = {}
        self._server: _RadiusClient | None = None
        self._thread = threading.Thread(target=self._serve, name="swm-radius-bridge")

    def __enter__(self) -> SwmRadiusBridge:
        self._thread.start()
        self._started.wait(START_TIMEOUT)
        if self._server is None:
            raise PeerError(f"the SWm to RADIUS bridge did not start: {self._failure}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stopping is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def wait_terminated(self, session_id: str, *, timeout: float = STR_TIMEOUT) -> Str:
        """The STR of a session, waited for."""

        def found() -> Str | None:
            return next((request for request in self.terminated if request.session_id == session_id), None)

        return wait_until(found, what=f"STR of session {session_id}", timeout=timeout)

    def _serve(self) -> None:
        try:
            self.namespace.call(lambda: asyncio.run(self._run()))
        except BaseException as error:  # noqa: BLE001 - shown by __enter__, in the thread that waits for us
            self._failure = error
        finally:
            self._started.set()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        client = _RadiusClient(self.radius.secret.encode())
        transport, _ = await self._loop.create_datagram_endpoint(
            lambda: client, remote_addr=(str(self.radius.address), self.radius.port)
        )
        node = DiameterNode(DiameterIdentity(host=HOST, realm=REALM, applications=(SWM,)))
        node.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, self._authenticate)
        node.on_request(SWM_APPLICATION, CommandCode.SESSION_TERMINATION, self._terminate)
        try:
            await node.listen(str(self.address), self.port)
            self._server = client
            self._started.set()
            await self._stopping.wait()
        finally:
            await node.close()
            transport.close()

    async def _authenticate(self, message: DiameterMessage) -> DiameterMessage:
        der = Der.from_message(message)
        self.requests.append(der)
        assert self._server is not None
        request, reply = await self._server.exchange(
            der.user_name or "", der.eap_payload, self._states.pop(der.session_id, None), nas=der.origin_host
        )
        payload = b"".join(reply.get(EAP_MESSAGE, [])) or None
        key, apn = None, None
        if reply.code == AccessChallenge:
            self._states[der.session_id] = reply.get(STATE, [])
            result = ResultCode.DIAMETER_MULTI_ROUND_AUTH
        elif reply.code == AccessAccept:
            result = ResultCode.DIAMETER_SUCCESS
            key = Secret(master_session_key(request, reply))
            apn = ApnConfiguration(
                context_identifier=1,
                service_selection=der.service_selection or self.default_apn,
                pdn_type=PdnType.IPv4v6,
            )
        else:
            result = ResultCode.DIAMETER_AUTHENTICATION_REJECTED
        answer = Dea(
            session_id=der.session_id,
            origin_host=HOST,
            origin_realm=REALM,
            result=Result.of(result),
            eap_payload=payload,
            master_session_key=key,
            user_name=der.user_name if key is not None else None,
            apn_configuration=apn,
        )
        self.answers.append(answer)
        return answer.to_message(message)

    async def _terminate(self, message: DiameterMessage) -> DiameterMessage:
        request = Str.from_message(message)
        known = any(answer.session_id == request.session_id and answer.result.is_success for answer in self.answers)
        self.terminated.append(request)
        result = ResultCode.DIAMETER_SUCCESS if known else ResultCode.DIAMETER_UNKNOWN_SESSION_ID
        answer = Sta(session_id=request.session_id, origin_host=HOST, origin_realm=REALM, result=Result.of(result))
        return answer.to_message(message)


class _RadiusClient(asyncio.DatagramProtocol):
    """Access-Requests over one socket; a reply belongs to the request whose Identifier it carries."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._transport: asyncio.DatagramTransport | None = None
        self._waiting: dict[int, tuple[AuthPacket, asyncio.Future[Packet]]] = {}
        self._identifier = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        del addr
        if len(data) < 2 or data[1] not in self._waiting:
            return
        request, future = self._waiting[data[1]]
        try:
            reply = request.CreateReply(packet=data)
        except PacketError:
            return
        if request.VerifyReply(reply, data) and not future.done():
            future.set_result(reply)

    async def exchange(
        self, user: str, eap: bytes, state: list[bytes] | None, *, nas: str
    ) -> tuple[AuthPacket, Packet]:
        """Access-Request --> ; <-- the reply. ``BackendError`` when none comes."""
        self._identifier = (self._identifier + 1) % 256
        request = AuthPacket(code=AccessRequest, id=self._identifier, secret=self._secret)
        request[USER_NAME] = [user.encode()]
        request[NAS_IDENTIFIER] = [nas.encode()]
        request[EAP_MESSAGE] = [eap[at : at + EAP_MESSAGE_LENGTH] for at in range(0, len(eap), EAP_MESSAGE_LENGTH)]
        if state:
            request[STATE] = state
        request.add_message_authenticator()  # RFC 3579 §3.2: MUST be present beside EAP-Message
        octets = request.RequestPacket()
        future: asyncio.Future[Packet] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = request, future
        assert self._transport is not None
        self._transport.sendto(octets)
        try:
            async with asyncio.timeout(RADIUS_TIMEOUT):
                return request, await future
        except TimeoutError:
            raise BackendError("the RADIUS server does not answer") from None
        finally:
            del self._waiting[request.id]


def master_session_key(request: AuthPacket, reply: Packet) -> bytes:
    """Recv-Key and Send-Key as the authenticator sees them: the first and the second part of the MSK."""
    reply.request_authenticator = request.authenticator
    halves = [reply.SaltDecrypt(_microsoft(reply, kind)) for kind in (MS_MPPE_RECV_KEY, MS_MPPE_SEND_KEY)]
    return cast(bytes, b"".join(halves).ljust(MSK_LENGTH, b"\0"))


def _microsoft(reply: Packet, kind: int) -> bytes:
    """One of Microsoft's attributes; pyrad leaves vendors' whole where it has no dictionary (RFC 2865 §5.26)."""
    for octets in reply.get(VENDOR_SPECIFIC, []):
        vendor, found, length = int.from_bytes(octets[:4], "big"), octets[4], octets[5]
        if (vendor, found) == (MICROSOFT, kind):
            return cast(bytes, octets[6 : 4 + length])
    raise BackendError(f"Access-Accept without Microsoft's attribute {kind}")
