"""Two freeDiameter relays between our ePDG's node and our AAA server's: one dies under load; and one over TLS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import pytest

from lab.namespaces import Namespace
from protocols.diameter.codec import DiameterMessage
from protocols.diameter.dictionary import SWM_APPLICATION, CommandCode
from protocols.diameter.identity import DiameterIdentity
from protocols.diameter.swm import Dea, Der
from protocols.diameter.uri import Transport
from protocols.io.diameter import DiameterNode, PeerAddress
from protocols.io.diameter.tls import TlsContexts
from protocols.path import Endpoint
from tests.harness.diameter_nodes import accepting, changed
from tests.peers.certificates import CertificateAuthority
from tests.peers.freediameter import PORT, TLS_PORT, FreeDiameter, require_freediameter
from tests.peers.namespaces import require_namespaces

pytestmark = [pytest.mark.root, pytest.mark.peer]

NODES = {"one": "192.0.2.1", "two": "198.51.100.1"}
RELAYS = {"one": "192.0.2.2", "two": "198.51.100.2"}
HOSTS = {"one": "dra1.epc.test", "two": "dra2.epc.test"}
EPDG = DiameterIdentity(host="epdg.epc.test", realm="epdg-realm.test")
AAA = DiameterIdentity(host="aaa.epc.test", realm="aaa-realm.test")
LONG = 20.0


@pytest.fixture
def namespaces() -> Iterator[dict[str, Namespace]]:
    """Our nodes' namespace, and one for each relay with a link to it."""
    require_freediameter()
    require_namespaces()
    with Namespace("nodes") as nodes, Namespace("one") as one, Namespace("two") as two:
        relays = {"one": one, "two": two}
        for name, relay in relays.items():
            nodes.connect(name, relay, "nodes")
            nodes.add_address(name, f"{NODES[name]}/24")
            relay.add_address("nodes", f"{RELAYS[name]}/24")
        yield {"nodes": nodes, **relays}


def der(number: int) -> DiameterMessage:
    return Der(
        session_id=f"epdg.epc.test;1;{number}",
        origin_host=EPDG.host,
        origin_realm=EPDG.realm,
        destination_realm=AAA.realm,
        eap_payload=number.to_bytes(4, "big"),
    ).to_message()


async def answered(epdg: DiameterNode, numbers: range) -> None:
    """All of them have the answers that belong to them."""
    answers = await asyncio.gather(*(epdg.request(der(number)) for number in numbers))
    found = [Dea.from_message(answer).eap_payload for answer in answers]
    assert found == [number.to_bytes(4, "big") for number in numbers]


@contextlib.asynccontextmanager
async def our_nodes(
    *, aaa_tls: TlsContexts | None = None, epdg_tls: TlsContexts | None = None
) -> AsyncIterator[tuple[DiameterNode, DiameterNode]]:
    aaa = DiameterNode(AAA, tls=aaa_tls)
    epdg = DiameterNode(EPDG, reconnect_interval=0.05, tls=epdg_tls)
    try:
        yield aaa, epdg
    finally:
        await epdg.close()
        await aaa.close()


def run(namespaces: dict[str, Namespace], work: Awaitable[None]) -> None:
    namespaces["nodes"].call(lambda: asyncio.run(asyncio.wait_for(work, 60)))


def test_a_relay_dies_under_load_and_comes_back(
    namespaces: dict[str, Namespace], tmp_path: Path, authority: CertificateAuthority
) -> None:
    def relay(name: str, at: Endpoint) -> FreeDiameter:
        return FreeDiameter(
            namespaces[name],
            tmp_path,
            address=RELAYS[name],
            server_host=AAA.host,
            server_address=NODES[name],
            server_port=at.port,
            authority=authority,
            host=HOSTS[name],
        )

    async def in_service(epdg: DiameterNode, aaa: DiameterNode, *names: str) -> None:
        for name in names:
            await epdg.wait_open(LONG, HOSTS[name])
            await aaa.wait_open(LONG, HOSTS[name])

    async def test() -> None:
        handled: list[int] = []
        seen: list[tuple[str, bool]] = []
        arrived, go_on = asyncio.Semaphore(0), asyncio.Event()

        async def handle(request: DiameterMessage) -> DiameterMessage:
            handled.append(request.end_to_end)
            arrived.release()
            await go_on.wait()
            return await accepting(AAA)(request)

        async with our_nodes() as (aaa, epdg):
            aaa.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, handle)
            aaa.on_traffic(
                lambda traffic: (
                    seen.append((traffic.peer or "", traffic.message.retransmitted))
                    if traffic.message is not None and traffic.message.name == "DER"
                    else None
                )
            )
            at = await aaa.listen("0.0.0.0", 0)
            one, two = await asyncio.gather(*(asyncio.to_thread(relay, name, at) for name in ("one", "two")))
            try:
                for priority, name in enumerate(("one", "two")):
                    epdg.add_peer(PeerAddress(host=HOSTS[name], address=RELAYS[name], port=PORT, priority=priority))
                await in_service(epdg, aaa, "one", "two")
                # Forty requests lie with the AAA server, all through the first relay, when that dies
                asked = asyncio.ensure_future(answered(epdg, range(40)))
                for _ in range(40):
                    await arrived.acquire()
                assert seen == [(HOSTS["one"], False)] * 40
                down = asyncio.ensure_future(changed(epdg, False))
                await asyncio.to_thread(one.kill)
                assert (await down).peer == HOSTS["one"]
                go_on.set()
                await asked
                # They came again through the second with the T flag, and were handled once each
                assert seen[40:] == [(HOSTS["two"], True)] * 40
                assert (len(handled), len(set(handled))) == (40, 40)
                assert epdg.failovers == {HOSTS["one"]: 40}
                await answered(epdg, range(40, 60))
                # Fail-back
                one = await asyncio.to_thread(relay, "one", at)
                await in_service(epdg, aaa, "one")
                seen.clear()
                await answered(epdg, range(60, 80))
                assert seen == [(HOSTS["one"], False)] * 20
            finally:
                await epdg.close()
                for each in (one, two):
                    await asyncio.to_thread(each.close)
        assert not epdg.dropped

    run(namespaces, test())


def test_a_relay_over_tls(namespaces: dict[str, Namespace], tmp_path: Path, authority: CertificateAuthority) -> None:
    def contexts(host: str) -> TlsContexts:
        credentials = authority.issue(names=[host], kind="rsa", diameter=True)
        chain, key, trusted = (tmp_path / f"{host}.{end}" for end in ("pem", "key", "ca"))
        chain.write_bytes(credentials.certificate_pem)
        key.write_bytes(credentials.key_pem)
        trusted.write_bytes(authority.credentials.certificate_pem)
        return TlsContexts.load(chain=chain, key=key, authority=trusted)

    async def test() -> None:
        async with our_nodes(aaa_tls=contexts(AAA.host), epdg_tls=contexts(EPDG.host)) as (aaa, epdg):
            aaa.on_request(SWM_APPLICATION, CommandCode.DIAMETER_EAP, accepting(AAA))
            at = await aaa.listen(NODES["one"], 0, Transport.TLS)
            agent = await asyncio.to_thread(
                lambda: FreeDiameter(
                    namespaces["one"],
                    tmp_path,
                    address=RELAYS["one"],
                    server_host=AAA.host,
                    server_address=NODES["one"],
                    server_port=at.port,
                    authority=authority,
                    host=HOSTS["one"],
                    tls=True,
                )
            )
            try:
                address = PeerAddress(host=HOSTS["one"], address=RELAYS["one"], port=TLS_PORT, transport=Transport.TLS)
                epdg.add_peer(address)
                await epdg.wait_open(LONG, HOSTS["one"])
                await aaa.wait_open(LONG, HOSTS["one"])
                await answered(epdg, range(50))
                versions = [status.tls for each in (epdg, aaa) for status in each.peers()]
                assert versions == ["TLSv1.3", "TLSv1.3"]
            finally:
                await epdg.close()
                await asyncio.to_thread(agent.close)
                print(agent.log()[-3000:])
        assert not epdg.dropped
        assert not aaa.dropped

    run(namespaces, test())
