"""tshark decrypts our ESP and finds its ICV right in every pair of algorithms it has: one capture, one run.

IPv4 and IPv6 inside and outside, in UDP (RFC 3948) and not. Of AES-XCBC and AES-CMAC it knows the length only; it has
neither AES-CCM nor ChaCha20-Poly1305.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from itertools import product
from pathlib import Path

import pytest

from protocols.entropy import SeededEntropy
from protocols.esp.packet import sealer_of
from protocols.ikev2.suites import EspSuite
from protocols.ip import UDP, IpPacket, UdpDatagram
from protocols.path import Endpoint
from protocols.path import Path as NetworkPath
from protocols.secret import Secret
from protocols.trace.keys import EspKeysRecord
from tests.interop.test_trace_tshark import Observer, judge

pytestmark = pytest.mark.peer

AES_BITS = (128, 192, 256)
CIPHERS = ("null", "3des", *(f"aes{bits}" for bits in AES_BITS), *(f"aes{bits}ctr" for bits in AES_BITS))
VERIFIED_MACS = ("md5", "sha1", "sha256", "sha384", "sha512")
UNVERIFIED_MACS = ("aesxcbc", "aescmac")
SUITES = [
    *(f"{cipher}-{mac}" for cipher, mac in product(CIPHERS, VERIFIED_MACS + UNVERIFIED_MACS)),
    *(f"aes{bits}gcm{icv}" for bits in AES_BITS for icv in (8, 12, 16)),
]
UE = {4: Endpoint.of("127.0.2.1", 14500), 6: Endpoint.of("2001:db8:1::7", 14500)}
EPDG = {4: Endpoint.of("127.0.1.1", 14500), 6: Endpoint.of("2001:db8:2::1", 14500)}
INNER = {4: ("10.45.0.2", "10.45.0.1"), 6: ("2001:db8:45::2", "2001:db8:45::1")}
NAMES = ("esp.spi", "esp.sequence", "esp.icv_good", "esp.icv_bad", "udp.payload", "ip.dst", "ipv6.dst")


@dataclass(frozen=True, kw_only=True)
class Way:
    """One packet of each suite: IP versions inside and outside, in UDP or not, its last octet changed or not."""

    inside: int
    outside: int
    encapsulated: bool
    forged: bool = False


WAYS = (
    Way(inside=4, outside=4, encapsulated=True),
    Way(inside=6, outside=4, encapsulated=False),
    Way(inside=4, outside=6, encapsulated=False),
    Way(inside=6, outside=6, encapsulated=True),
    Way(inside=4, outside=4, encapsulated=True, forged=True),
)


def payload_of(text: str, sequence: int) -> bytes:
    return f"{text} {sequence}".encode() + bytes(sequence)


def inner(version: int, payload: bytes) -> bytes:
    source, destination = map(ip_address, INNER[version])
    datagram = UdpDatagram(source_port=40000, destination_port=40001, payload=payload).encode(source, destination)
    return IpPacket(source=source, destination=destination, protocol=UDP, payload=datagram).encode()


def record(observer: Observer, number: int, text: str) -> None:
    """A suite's keys and its packets, one for each way."""
    suite, entropy = EspSuite.of(text), SeededEntropy(text)
    spi = (0x10000 + number).to_bytes(4, "big")
    key, integrity_key = entropy.octets(suite.encryption_key_length), entropy.octets(suite.integrity_key_length)
    for version in (4, 6):
        observer.keys(
            EspKeysRecord(
                spi=spi,
                source=UE[version],
                destination=EPDG[version],
                encryption=suite.encryption.name,
                encryption_key=key,
                integrity=None if suite.integrity is None else suite.integrity.name,
                integrity_key=integrity_key,
            )
        )
    sealer = sealer_of(suite, spi, Secret(key), Secret(integrity_key), entropy)
    for sequence, way in enumerate(WAYS, start=1):
        octets = sealer.seal(sequence, inner(way.inside, payload_of(text, sequence)), {4: 4, 6: 41}[way.inside])
        if way.forged:
            octets = octets[:-1] + bytes((octets[-1] ^ 1,))
        path = NetworkPath(UE[way.outside], EPDG[way.outside])
        if way.encapsulated:
            observer.tap.udp("out", path, octets, encapsulating=True)
        else:
            observer.tap.ip("out", path.local.address, path.remote.address, octets)


def test_every_pair_is_decrypted_and_verified(tmp_path: Path) -> None:
    observer = Observer("ue")
    for number, text in enumerate(SUITES):
        record(observer, number, text)
    tshark, capture = judge(tmp_path, observer.records)
    rows = tshark.fields(capture, NAMES, display_filter="esp")
    assert len(rows) == len(SUITES) * len(WAYS)
    for row, (text, (sequence, way)) in zip(rows, product(SUITES, enumerate(WAYS, start=1)), strict=True):
        assert row["esp.sequence"] == [str(sequence)], text
        verified = not text.endswith(UNVERIFIED_MACS)
        assert row["esp.icv_good"] == [str(int(verified and not way.forged))], (text, way)
        assert row["esp.icv_bad"] == [str(int(verified and way.forged))], (text, way)
        if not way.forged:
            assert row["udp.payload"][-1] == payload_of(text, sequence).hex(), (text, way)
            assert INNER[way.inside][1] in row["ip.dst"] + row["ipv6.dst"], (text, way)
    forged = {number for number in range(1, len(rows) + 1) if number % len(WAYS) == 0}
    assert {int(line.split()[1].rstrip(":")) for line in tshark.complaints(capture)} <= forged
