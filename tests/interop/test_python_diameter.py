"""python-diameter's own node as the other end of SWm, both ways, over TCP on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator

from diameter.message import Message
from diameter.message.commands import DiameterEapAnswer, DiameterEapRequest
from diameter.node import Node
from diameter.node.application import Application, SimpleThreadingApplication
from diameter.node.peer import Peer

from protocols.diameter.codec import DiameterMessage, Result
from protocols.diameter.dictionary import SWM_APPLICATION, CommandCode
from protocols.diameter.identity import DiameterIdentity
from protocols.diameter.swm import ApnConfiguration, Dea, Der
from protocols.io.diameter import DiameterNode, PeerAddress
from protocols.secret import Secret

OURS = DiameterIdentity(host="ours.epc.test", realm="ours.test")
THEIRS, THEIR_REALM = "theirs.epc.test", "theirs.test"
EAP = bytes.fromhex("020100090130303031")
KEY = bytes(range(64))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def their_node(
    *, port: int, our_port: int | None, handler: Callable[[Application, Message], Message] | None = None
) -> Iterator[tuple[Node, Application]]:
    """A python-diameter node for SWm that knows us, and connects to us where ``our_port`` says."""
    logging.getLogger("diameter").setLevel(logging.CRITICAL)
    node = Node(THEIRS, THEIR_REALM, ip_addresses=["127.0.0.1"], tcp_port=port, vendor_ids=[10415])
    # It would refuse what its own classes of another application do not list
    node.validate_received_request_avps = False
    node.wakeup_interval = 1
    uri = f"aaa://{OURS.host}:{our_port or 3868}"
    peer: Peer = node.add_peer(
        uri, OURS.realm, ip_addresses=["127.0.0.1"] if our_port else [], is_persistent=our_port is not None
    )
    application = SimpleThreadingApplication(SWM_APPLICATION, is_auth_application=True, request_handler=handler)
    node.add_application(application, [peer], realms=[THEIR_REALM, OURS.realm])
    node.start()
    try:
        yield node, application
    finally:
        node.stop(wait_timeout=5)


def our_der() -> Der:
    return Der(
        session_id="ours.epc.test;1;1",
        origin_host=OURS.host,
        origin_realm=OURS.realm,
        destination_realm=THEIR_REALM,
        destination_host=THEIRS,
        user_name="0001010000000001@nai.epc.mnc001.mcc001.3gppnetwork.org",
        eap_payload=EAP,
        service_selection="ims",
    )


def test_we_ask_their_server() -> None:
    seen: list[DiameterEapRequest] = []

    def handler(application: Application, message: Message) -> Message:
        assert isinstance(message, DiameterEapRequest)
        seen.append(message)
        answer = application.generate_answer(message, result_code=2001)
        assert isinstance(answer, DiameterEapAnswer)
        answer.session_id = message.session_id
        answer.auth_application_id = message.auth_application_id
        answer.auth_request_type = message.auth_request_type
        answer.eap_payload = message.eap_payload
        answer.eap_master_session_key = KEY
        return answer

    async def test(port: int) -> None:
        node = DiameterNode(OURS, reconnect_interval=0.05)
        node.add_peer(PeerAddress(host=THEIRS, address="127.0.0.1", port=port))
        try:
            await node.wait_open(10)
            answers = await asyncio.gather(*(node.request(our_der().to_message()) for _ in range(20)))
            for message in answers:
                dea = Dea.from_message(message)
                assert (dea.result, dea.eap_payload) == (Result(0, 2001), EAP)
                assert dea.master_session_key == Secret(KEY)
                assert dea.origin_host == THEIRS
            [status] = node.peers()
            assert status.dropped == {}
        finally:
            await node.close()

    port = free_port()
    with their_node(port=port, our_port=None, handler=handler):
        asyncio.run(asyncio.wait_for(test(port), 30))
    assert len(seen) == 20
    assert seen[0].user_name == our_der().user_name
    assert seen[0].eap_payload == EAP
    assert seen[0].header.application_id == SWM_APPLICATION


def test_their_client_asks_us() -> None:
    received: list[Der] = []

    async def handler(request: DiameterMessage) -> DiameterMessage:
        der = Der.from_message(request)
        received.append(der)
        return Dea(
            session_id=der.session_id,
            origin_host=OURS.host,
            origin_realm=OURS.realm,
            result=Result(0, 2001),
            eap_payload=der.eap_payload,
            master_session_key=Secret(KEY),
            apn_configuration=ApnConfiguration(context_identifier=1, service_selection="ims"),
        ).to_message(request)

    def ask(application: Application) -> Message:
        application.wait_for_ready(10)
        request = DiameterEapRequest()
        request.session_id = application.node.session_generator.next_id()
        request.header.application_id = SWM_APPLICATION
        request.auth_application_id = SWM_APPLICATION
        request.origin_host = THEIRS.encode()
        request.origin_realm = THEIR_REALM.encode()
        request.destination_realm = OURS.realm.encode()
        request.auth_request_type = 3
        request.eap_payload = EAP
        return application.send_request(request, timeout=10)

    async def test() -> Message:
        node = DiameterNode(OURS, known_peers=frozenset({THEIRS}))
        node.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, handler)
        at = await node.listen("127.0.0.1", 0)
        try:
            return await asyncio.to_thread(use_their_client, at.port)
        finally:
            await node.close()

    def use_their_client(our_port: int) -> Message:
        with their_node(port=free_port(), our_port=our_port) as (_, application):
            return ask(application)

    answer = asyncio.run(asyncio.wait_for(test(), 30))
    assert isinstance(answer, DiameterEapAnswer)
    assert answer.result_code == 2001
    assert answer.eap_payload == EAP
    assert answer.eap_master_session_key == KEY
    assert [der.eap_payload for der in received] == [EAP]
