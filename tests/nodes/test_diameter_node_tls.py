"""Diameter nodes over TLS (RFC 6733 §2.1, §13.1): both certificates are checked, and whom they name."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from protocols.diameter.identity import DiameterIdentity
from protocols.diameter.swm import Dea
from protocols.diameter.uri import Transport
from protocols.errors import BackendError, ConfigurationError
from protocols.io.diameter import DiameterNode, PeerChange, Traffic
from protocols.io.diameter.tls import TlsContexts
from protocols.path import Endpoint
from protocols.trace.records import Kind
from tests.harness.diameter_nodes import AAA, AAA2, EPDG, LONG, RawPeer, der, node, peer, run, server
from tests.peers.certificates import CertificateAuthority


def files(directory: Path, authority: CertificateAuthority, host: str, *, trusted: CertificateAuthority) -> TlsContexts:
    """The contexts of a node that is called ``host``."""
    credentials = authority.issue(names=[host], diameter=True)
    (directory / f"{host}.pem").write_bytes(credentials.certificate_pem)
    (directory / f"{host}.key").write_bytes(credentials.key_pem)
    (directory / f"{host}.ca").write_bytes(trusted.credentials.certificate_pem)
    return TlsContexts.load(
        chain=directory / f"{host}.pem", key=directory / f"{host}.key", authority=directory / f"{host}.ca"
    )


async def refused(server_: DiameterNode, client: DiameterNode) -> str:
    """Wait until the server has told of a peer that it does not want; what it says."""
    told: asyncio.Future[PeerChange] = asyncio.get_running_loop().create_future()
    stop = server_.on_peer(lambda change: None if told.done() else told.set_result(change))
    try:
        async with asyncio.timeout(LONG):
            return (await told).text
    finally:
        stop()


def test_both_ways(tmp_path: Path, authority: CertificateAuthority) -> None:
    ours, theirs = (files(tmp_path, authority, each.host, trusted=authority) for each in (EPDG, AAA))

    async def test() -> None:
        async with server(transport=Transport.TLS, tls=theirs) as (aaa, at), node(EPDG, tls=ours) as epdg:
            epdg.add_peer(peer(at, transport=Transport.TLS))
            await epdg.wait_open(LONG, AAA.host)
            seen: list[Traffic] = []
            epdg.on_traffic(seen.append)
            answers = await asyncio.gather(*(epdg.request(der(bytes([n]))) for n in range(50)))
            assert [Dea.from_message(answer).eap_payload for answer in answers] == [bytes([n]) for n in range(50)]
            for status in (*epdg.peers(), *aaa.peers()):
                assert (status.transport, status.tls, status.in_service) == ("tls", "TLSv1.3", True)
            datagrams = [body for each in seen for kind, body in each.records() if kind is Kind.DATAGRAM]
            assert [body["transport"] for body in datagrams] == ["tls"] * 100
        assert not aaa.dropped

    run(test())


def test_tls_1_2_is_the_least(tmp_path: Path, authority: CertificateAuthority) -> None:
    ours, theirs = (files(tmp_path, authority, each.host, trusted=authority) for each in (EPDG, AAA))
    ours.client.maximum_version = ssl.TLSVersion.TLSv1_2

    async def test() -> None:
        async with server(transport=Transport.TLS, tls=theirs) as (_, at), node(EPDG, tls=ours) as epdg:
            epdg.add_peer(peer(at, transport=Transport.TLS))
            await epdg.wait_open(LONG, AAA.host)
            assert epdg.peers()[0].tls == "TLSv1.2"

    run(test())
    assert {context.minimum_version for context in (ours.client, ours.server)} == {ssl.TLSVersion.TLSv1_2}


def test_a_client_of_another_authority_is_refused(tmp_path: Path, authority: CertificateAuthority) -> None:
    stranger = files(tmp_path, CertificateAuthority("other"), EPDG.host, trusted=authority)
    theirs = files(tmp_path, authority, AAA.host, trusted=authority)

    async def test() -> None:
        async with server(transport=Transport.TLS, tls=theirs) as (aaa, at), node(EPDG, tls=stranger) as epdg:
            why = asyncio.ensure_future(refused(aaa, epdg))
            epdg.add_peer(peer(at, transport=Transport.TLS))
            text = await why
            assert "its certificate does not hold" in text
            assert aaa.ended["no transport connection"] >= 1
            with pytest.raises(BackendError):
                await epdg.request(der())

    run(test())


def test_a_server_of_another_authority_is_refused(tmp_path: Path, authority: CertificateAuthority) -> None:
    ours = files(tmp_path, authority, EPDG.host, trusted=authority)
    stranger = files(tmp_path, CertificateAuthority("other"), AAA.host, trusted=authority)

    async def test() -> None:
        async with server(transport=Transport.TLS, tls=stranger) as (aaa, at), node(EPDG, tls=ours) as epdg:
            why = asyncio.ensure_future(refused(aaa, epdg))
            epdg.add_peer(peer(at, transport=Transport.TLS))
            await why
            assert "its certificate does not hold" in (epdg.peers()[0].last_error or "")
            assert epdg.ended["no transport connection"] >= 1

    run(test())


def test_a_server_with_the_name_of_another_is_refused(tmp_path: Path, authority: CertificateAuthority) -> None:
    ours = files(tmp_path, authority, EPDG.host, trusted=authority)
    theirs = files(tmp_path, authority, AAA2.host, trusted=authority)

    async def test() -> None:
        async with server(transport=Transport.TLS, tls=theirs) as (aaa, at), node(EPDG, tls=ours) as epdg:
            why = asyncio.ensure_future(refused(aaa, epdg))
            epdg.add_peer(peer(at, transport=Transport.TLS))
            await why
            assert "Hostname mismatch" in (epdg.peers()[0].last_error or "")

    run(test())


def test_a_client_with_the_name_of_another_is_an_unknown_peer(tmp_path: Path, authority: CertificateAuthority) -> None:
    other = DiameterIdentity(host="other.epc.test", realm="epc.test")
    ours = files(tmp_path, authority, other.host, trusted=authority)
    theirs = files(tmp_path, authority, AAA.host, trusted=authority)

    async def test() -> None:
        async with server(transport=Transport.TLS, tls=theirs) as (aaa, at):
            raw = RawPeer(
                *await asyncio.open_connection(str(at.address), at.port, ssl=ours.client, server_hostname=AAA.host)
            )
            answer = await raw.exchange_capabilities(EPDG)
            assert answer.integer("Result-Code") == 3010
            assert await raw.is_closed()
            await raw.close()
            assert aaa.ended["the peer's certificate does not name it"] == 1

    run(test())


def test_nobody_pretends_to_be_a_peer_over_tls_without_tls(tmp_path: Path, authority: CertificateAuthority) -> None:
    theirs = files(tmp_path, authority, AAA.host, trusted=authority)

    async def test() -> None:
        async with server(tls=theirs) as (aaa, at):
            aaa.add_peer(peer(Endpoint.of("127.0.0.1", 1), EPDG, transport=Transport.TLS))
            raw = await RawPeer.connect(at)
            assert (await raw.exchange_capabilities(EPDG)).integer("Result-Code") == 3010
            await raw.close()
            other = await RawPeer.connect(at)
            assert (await other.exchange_capabilities(AAA2)).integer("Result-Code") == 2001
            await other.close()

    run(test())


def test_plain_octets_and_silence_do_no_harm(tmp_path: Path, authority: CertificateAuthority) -> None:
    ours, theirs = (files(tmp_path, authority, each.host, trusted=authority) for each in (EPDG, AAA))

    async def test() -> None:
        async with server(transport=Transport.TLS, tls=theirs) as (aaa, at), node(EPDG, tls=ours) as epdg:
            silent = await RawPeer.connect(at)
            why = asyncio.ensure_future(refused(aaa, epdg))
            raw = await RawPeer.connect(at)
            raw.send(der())
            assert await raw.is_closed()
            await why
            epdg.add_peer(peer(at, transport=Transport.TLS))
            await epdg.wait_open(LONG, AAA.host)
            assert Dea.from_message(await epdg.request(der())).result.is_success
            await raw.close()
            await silent.close()

    run(test())


def test_bad_files_are_one_line(tmp_path: Path, authority: CertificateAuthority) -> None:
    files(tmp_path, authority, AAA.host, trusted=authority)
    files(tmp_path, authority, AAA2.host, trusted=authority)
    chain, key, ca = (tmp_path / f"{AAA.host}.{end}" for end in ("pem", "key", "ca"))
    for arguments, line in [
        (
            {"chain": tmp_path / "no.pem"},
            "no.pem: tls.chain: got 'No such file or directory', expected a readable file",
        ),
        ({"chain": key}, "tls.chain: got 'a file without a certificate in PEM', expected a PEM file"),
        ({"authority": key}, "tls.authority: got 'a file without a certificate in PEM', expected a PEM file"),
        ({"key": chain}, "tls.key: got 'a file without such a key', expected an unencrypted private key in PEM"),
        ({"key": tmp_path / f"{AAA2.host}.key"}, "tls.key: got 'another key', expected the key of the certificate"),
    ]:
        with pytest.raises(ConfigurationError) as caught:
            TlsContexts.load(**{"chain": chain, "key": key, "authority": ca, **arguments})
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)
