"""freeDiameter relays SWm between our ePDG's node and our AAA server's node: a strict third party on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.namespaces import Namespace
from protocols.diameter.codec import DiameterMessage, Result
from protocols.diameter.dictionary import SWM_APPLICATION, CommandCode, ExperimentalResultCode
from protocols.diameter.identity import DiameterIdentity
from protocols.diameter.swm import (
    Ambr,
    ApnConfiguration,
    Asa,
    Asr,
    Dea,
    Der,
    Sta,
    Str,
    TerminalInformation,
)
from protocols.io.diameter import DiameterNode, PeerAddress, Traffic
from protocols.path import Endpoint
from protocols.secret import Secret
from tests.peers.certificates import CertificateAuthority
from tests.peers.freediameter import HOST, PORT, FreeDiameter, require_freediameter
from tests.peers.namespaces import require_namespaces

pytestmark = [pytest.mark.root, pytest.mark.peer]

NODES, RELAY = "192.0.2.1", "192.0.2.2"
EPDG = DiameterIdentity(host="epdg.epc.test", realm="epdg-realm.test")
AAA = DiameterIdentity(host="aaa.epc.test", realm="aaa-realm.test")
NAI = "0001010000000001@nai.epc.mnc001.mcc001.3gppnetwork.org"
KEY = Secret(bytes(range(64)))
APN = ApnConfiguration(
    context_identifier=1,
    service_selection="ims",
    ambr=Ambr(50_000_000, 100_000_000),
    served_party_addresses=(Endpoint.of("10.45.0.9", 0).address,),
)


@pytest.fixture
def namespaces() -> Iterator[tuple[Namespace, Namespace]]:
    """One namespace for our nodes, one for the relay, a link between them."""
    require_freediameter()
    require_namespaces()
    with Namespace("nodes") as nodes, Namespace("relay") as relay:
        nodes.connect("relay", relay, "nodes")
        nodes.add_address("relay", f"{NODES}/24")
        relay.add_address("nodes", f"{RELAY}/24")
        yield nodes, relay


def der(eap: bytes, user: str = NAI) -> DiameterMessage:
    return Der(
        session_id="epdg.epc.test;1;1",
        origin_host=EPDG.host,
        origin_realm=EPDG.realm,
        destination_realm=AAA.realm,
        user_name=user,
        eap_payload=eap,
        service_selection="ims",
        ue_local_ip=Endpoint.of("198.51.100.7", 0).address,
        visited_network_identifier="mnc001.mcc001.3gppnetwork.org",
        terminal_information=TerminalInformation("35209900176148"),
        mip6_feature_vector=1,
    ).to_message()


async def handle_der(request: DiameterMessage) -> DiameterMessage:
    """Another round for a response of five octets, an unknown user, else success with all we have."""
    value = Der.from_message(request)
    answer = Dea(
        session_id=value.session_id,
        origin_host=AAA.host,
        origin_realm=AAA.realm,
        result=Result(0, 2001),
        eap_payload=bytes.fromhex("03020004"),
        master_session_key=KEY,
        user_name="001010000000001",
        apn_configuration=APN,
        session_timeout=3600,
    )
    if value.user_name != NAI:
        unknown = Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN)
        answer = Dea(session_id=value.session_id, origin_host=AAA.host, origin_realm=AAA.realm, result=unknown)
    elif value.eap_payload[1] == 1:
        answer = Dea(
            session_id=value.session_id,
            origin_host=AAA.host,
            origin_realm=AAA.realm,
            result=Result(0, 1001),
            eap_payload=bytes.fromhex("0102000c170500000d010000"),
            state=(b"round 1",),
        )
    return answer.to_message(request)


async def handle_str(request: DiameterMessage) -> DiameterMessage:
    value = Str.from_message(request)
    return Sta(
        session_id=value.session_id, origin_host=AAA.host, origin_realm=AAA.realm, result=Result(0, 2001)
    ).to_message(request)


async def handle_asr(request: DiameterMessage) -> DiameterMessage:
    value = Asr.from_message(request)
    return Asa(
        session_id=value.session_id, origin_host=EPDG.host, origin_realm=EPDG.realm, result=Result(0, 2001)
    ).to_message(request)


def test_swm_through_a_relay(
    namespaces: tuple[Namespace, Namespace], tmp_path: Path, authority: CertificateAuthority
) -> None:
    nodes, relay = namespaces
    seen: list[Traffic] = []

    async def talk() -> None:
        aaa, epdg = DiameterNode(AAA), DiameterNode(EPDG, reconnect_interval=0.05)
        aaa.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, handle_der)
        aaa.on_request(SWM_APPLICATION, CommandCode.SESSION_TERMINATION, handle_str)
        aaa.on_traffic(seen.append)
        epdg.on_request(SWM_APPLICATION, CommandCode.ABORT_SESSION, handle_asr)
        at = await aaa.listen(NODES, 0)
        agent = await asyncio.to_thread(
            lambda: FreeDiameter(
                relay,
                tmp_path,
                address=RELAY,
                server_host=AAA.host,
                server_address=NODES,
                server_port=at.port,
                authority=authority,
            )
        )
        try:
            epdg.add_peer(PeerAddress(host=HOST, address=RELAY, port=PORT))
            await epdg.wait_open(15, HOST)
            await aaa.wait_open(15, HOST)
            await exchange(epdg, aaa)
        finally:
            await epdg.close()
            await aaa.close()
            await asyncio.to_thread(agent.close)
        assert not epdg.dropped
        assert not aaa.dropped

    async def exchange(epdg: DiameterNode, aaa: DiameterNode) -> None:
        # DER(identity) --> relay --> AAA, <-- DEA(1001)
        first = Dea.from_message(await epdg.request(der(bytes.fromhex("020100090130303031"))))
        assert (first.result, first.origin_host, first.state) == (Result(0, 1001), AAA.host, (b"round 1",))
        # DER(challenge response) --> <-- DEA(2001, key, APN)
        last = Dea.from_message(await epdg.request(der(bytes.fromhex("0202000c170100000b050000"))))
        assert last.result.is_success
        assert (last.master_session_key, last.apn_configuration, last.session_timeout) == (KEY, APN, 3600)
        # DER(stranger) --> <-- DEA(Experimental-Result 5001)
        refused = Dea.from_message(await epdg.request(der(bytes.fromhex("020100090130303032"), "stranger@x")))
        assert refused.result == Result(10415, 5001)
        # <-- ASR from the AAA server over the same relay, ASA -->
        asr = Asr(
            session_id="epdg.epc.test;1;1",
            origin_host=AAA.host,
            origin_realm=AAA.realm,
            destination_realm=EPDG.realm,
            destination_host=EPDG.host,
            user_name=NAI,
        )
        assert Asa.from_message(await aaa.request(asr.to_message())).result.is_success
        # STR --> <-- STA
        goodbye = Str(
            session_id="epdg.epc.test;1;1",
            origin_host=EPDG.host,
            origin_realm=EPDG.realm,
            destination_realm=AAA.realm,
            user_name=NAI,
        )
        assert Sta.from_message(await epdg.request(goodbye.to_message())).result.is_success
        # Many at a time
        answers = await asyncio.gather(
            *(epdg.request(der(bytes.fromhex("0202000c170100000b050000"))) for _ in range(100))
        )
        assert all(Dea.from_message(answer).master_session_key == KEY for answer in answers)
        # A realm that nobody serves: the relay answers itself, with the E flag
        elsewhere = Der(
            session_id="epdg.epc.test;1;2",
            origin_host=EPDG.host,
            origin_realm=EPDG.realm,
            destination_realm="nowhere.test",
            eap_payload=b"",
        )
        undelivered = await epdg.request(elsewhere.to_message())
        assert undelivered.error
        assert Dea.from_message(undelivered).result == Result(0, 3002)

    nodes.call(lambda: asyncio.run(asyncio.wait_for(talk(), 60)))
    relayed = [t.message for t in seen if t.message is not None and t.message.name == "DER"]
    assert relayed
    assert all(message.text("Route-Record") == EPDG.host for message in relayed)
