"""What the configuration says of Diameter, as ``aaa serve`` obeys it: TLS beside TCP, and one line where it cannot."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aaa.config import AaaConfiguration
from protocols.diameter.identity import DiameterIdentity
from protocols.diameter.uri import Transport
from protocols.errors import ConfigurationError
from protocols.io.configuration import parse
from protocols.io.control import call_sync
from protocols.io.diameter import DiameterNode, PeerAddress
from protocols.io.diameter.configuration import DiameterNodeSection, ListenSection
from protocols.io.diameter.tls import TlsContexts
from tests.harness.refusals import without_line
from tests.peers.aaa_node import GATEWAY, HOST, REALM, AaaProcess, free_port, run_aaa
from tests.peers.certificates import CertificateAuthority

AAA = "identity: {host: aaa.test, realm: test}\ndatabase: sqlite:///x.db\ncontrol: x.sock\n"


def write(directory: Path, authority: CertificateAuthority, host: str) -> str:
    """The files of a node called ``host``; the section ``tls`` that names them."""
    credentials = authority.issue(names=[host], diameter=True)
    files = {"chain": credentials.certificate_pem, "key": credentials.key_pem}
    files["authority"] = authority.credentials.certificate_pem
    for name, octets in files.items():
        (directory / f"{host}.{name}").write_bytes(octets)
    return "{" + ", ".join(f"{name}: {host}.{name}" for name in files) + "}"


def test_the_server_listens_on_tcp_and_tls(tmp_path: Path, authority: CertificateAuthority) -> None:
    section = write(tmp_path, authority, HOST)
    write(tmp_path, authority, GATEWAY)
    secure = free_port()

    async def connect() -> None:
        tls = TlsContexts.load(**{name: tmp_path / f"{GATEWAY}.{name}" for name in ("chain", "key", "authority")})
        gateway = DiameterNode(DiameterIdentity(host=GATEWAY, realm=REALM), tls=tls)
        try:
            gateway.add_peer(
                PeerAddress(host=HOST, address="127.0.0.1", port=secure, transport=Transport.TLS, priority=1, weight=2)
            )
            await gateway.wait_open(10)
            [status] = gateway.peers()
            assert (status.tls, status.priority, status.weight, status.in_service) == ("TLSv1.3", 1, 2, True)
            answer = await asyncio.to_thread(call_sync, node.control, "peers.list")
            assert isinstance(answer, dict)
            [peer] = answer["peers"]
            wanted = {"host": GATEWAY, "transport": "tls", "tls": "TLSv1.3", "in_service": True, "failovers": 0}
            assert {name: peer[name] for name in wanted} == wanted
        finally:
            await gateway.close()

    with AaaProcess(tmp_path, extra=f"diameter: {{tls: {section}}}\n", listen=f", tls_port: {secure}") as node:
        status = call_sync(node.control, "node.status")
        assert isinstance(status, dict)
        assert str(status["listen"]).endswith(f", 127.0.0.1:{secure}")
        asyncio.run(asyncio.wait_for(connect(), 30))


def test_certificates_that_are_none_end_the_start_with_one_line(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    section = write(tmp_path, authority, HOST)
    (tmp_path / f"{HOST}.key").write_text("nothing")
    node = AaaProcess(tmp_path, extra=f"diameter: {{tls: {section}}}\n")
    done = run_aaa("serve", "-c", node.write_configuration())
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    *_, line = done.stderr.strip().splitlines()  # the log may have begun
    assert "tls.key: got 'a file without such a key', expected an unencrypted private key in PEM" in line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("listen: {port: null}", "listen: got a mapping, expected a port, tls_port or sctp_port"),
        (
            "listen: {tls_port: 5658}",
            "diameter.tls: got nothing, expected certificates, which listen.tls_port needs",
        ),
        (
            "listen: {known_peers: [a b]}",
            "listen.known_peers.0: got 'a b', expected a domain name such as aaa.example.org",
        ),
        ("listen: {tls_port: 70000}", "listen.tls_port: got 70000, expected at most 65535"),
        ("diameter: {peer: []}", "diameter.peer: got an empty list, expected no such key (did you mean peers?)"),
    ],
)
def test_a_bad_value_of_the_server_is_one_line(text: str, line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(AAA + text, AaaConfiguration, file="f")
    assert without_line(caught.value) == f"f: {line}"


def test_both_sections_are_complete_when_empty() -> None:
    assert parse("", ListenSection).port == 3868
    assert parse("", DiameterNodeSection).peers == ()
