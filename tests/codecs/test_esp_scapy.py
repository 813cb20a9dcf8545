"""ESP against Scapy's implementation as an independent counterpart (scapy.layers.ipsec): every pair it has.

Tunnel mode, IPv4 and IPv6 inside and outside, in UDP (RFC 3948) and not; with extended sequence numbers beyond 32 bits.
Given our IV, Scapy makes our very packet; each end opens what the other has sealed. Scapy has neither AES-XCBC nor
short ICVs of AES-GCM.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import Packet, Raw

from protocols.dataplane.port import ChildSaCounters
from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.entropy import SeededEntropy
from protocols.esp.sa import ChildSaSpec
from protocols.path import Endpoint, Path
from protocols.selectors import TrafficSelector
from tests.dataplane.pairs import mirrored, ue_spec

AES_BITS = (128, 192, 256)
CIPHERS = {
    "null": "NULL",
    "3des": "3DES",
    **{f"aes{bits}": "AES-CBC" for bits in AES_BITS},
    **{f"aes{bits}ctr": "AES-CTR" for bits in AES_BITS},
}
MACS = {
    "md5": "HMAC-MD5-96",
    "sha1": "HMAC-SHA1-96",
    "sha256": "SHA2-256-128",
    "sha384": "SHA2-384-192",
    "sha512": "SHA2-512-256",
    "aescmac": "AES-CMAC-96",
}
AEADS = {
    "chacha20poly1305": ("CHACHA20-POLY1305", 16),
    **{f"aes{bits}gcm16": ("AES-GCM", 16) for bits in AES_BITS},
    **{f"aes{bits}ccm{icv}": ("AES-CCM", icv) for bits in AES_BITS for icv in (8, 12, 16)},
}
PAIRS: dict[str, tuple[str, str | None, int | None]] = {
    **{f"{cipher}-{mac}": (CIPHERS[cipher], MACS[mac], None) for cipher, mac in product(CIPHERS, MACS)},
    **{name: (scapy_name, None, icv_length) for name, (scapy_name, icv_length) in AEADS.items()},
}
SUITES = [name + esn for name, esn in product(PAIRS, ("", "-esn"))]
IV_LENGTHS = {"NULL": 0, "3DES": 8, "AES-CBC": 16}  # others: 8

UE = {4: "10.45.0.2", 6: "2001:db8:45::2"}
HOST = {4: "192.0.2.80", 6: "2001:db8:99::80"}
OUTSIDE = {4: ("198.51.100.7", "192.0.2.1"), 6: ("2001:db8:1::7", "2001:db8:2::1")}
PORT = 4500
START = {False: 0, True: 7 << 32}  # of the sequence numbers, by ESN


@dataclass(frozen=True, kw_only=True)
class Outside:
    """How ESP travels: the IP version, whether in UDP; ``length``: of the inner payload, another for each way."""

    version: int
    encapsulated: bool
    length: int

    @property
    def path(self) -> Path:
        """From the UE to the gateway."""
        ue, gateway = OUTSIDE[self.version]
        return Path(Endpoint.of(ue, PORT), Endpoint.of(gateway, PORT))

    @property
    def header(self) -> Packet:
        """The outer IP header from the UE to the gateway."""
        ue, gateway = OUTSIDE[self.version]
        return IP(src=ue, dst=gateway) if self.version == 4 else IPv6(src=ue, dst=gateway)

    @property
    def header_length(self) -> int:
        """What stands before ESP."""
        return (20 if self.version == 4 else 40) + (8 if self.encapsulated else 0)

    def around(self, octets: bytes) -> Packet:
        """The packet on the wire, as Scapy dissects it."""
        header = self.header
        if self.encapsulated:
            return header.__class__(bytes(header / UDP(sport=PORT, dport=PORT, chksum=0) / Raw(octets)))
        if self.version == 4:
            header.proto = 50
        else:
            header.nh = 50
        return header.__class__(bytes(header / Raw(octets)))


WAYS = (
    Outside(version=4, encapsulated=True, length=1300),
    Outside(version=4, encapsulated=False, length=0),
    Outside(version=6, encapsulated=True, length=13),
    Outside(version=6, encapsulated=False, length=15),
)


def packet(version: int, length: int) -> Packet:
    header = IP(src=UE[4], dst=HOST[4]) if version == 4 else IPv6(src=UE[6], dst=HOST[6])
    return header.__class__(bytes(header / UDP(sport=5000, dport=7) / Raw((bytes(range(256)) * 6)[:length])))


def spec_of(text: str, outside: Outside) -> ChildSaSpec:
    """The UE's end."""
    return replace(
        ue_spec(text),
        local_selectors=tuple(TrafficSelector.host(address) for address in UE.values()),
        remote_selectors=(TrafficSelector.network("0.0.0.0/0"), TrafficSelector.network("::/0")),
        path=outside.path,
        encapsulation=outside.encapsulated,
    )


class End:
    """One end of ours, with the sequence numbers as far as they are; what comes out is kept."""

    def __init__(self, spec: ChildSaSpec, start: int) -> None:
        self.spec = spec
        self.delivered: list[bytes] = []
        self.transmitted: list[bytes] = []
        self.plane = UserspaceDataPlane(
            entropy=SeededEntropy("end"),
            deliver=lambda packet, spi: self.delivered.append(packet),
            transmit=lambda octets, path, encapsulation, traffic_class: self.transmitted.append(octets),
        )
        self.plane.install(spec)
        self.sa = self.plane.child_sa(spec.inbound_spi)
        self.sa.sequence = start
        self.sa.window.advance(start)


def scapy_association(spec: ChildSaSpec, outside: Outside, start: int) -> SecurityAssociation:
    """The direction that ``spec`` sends in, as Scapy has it."""
    encryption, integrity, icv_length = PAIRS[spec.suite.name.removesuffix("-esn")]
    return SecurityAssociation(
        ESP,
        spi=int.from_bytes(spec.outbound_spi, "big"),
        crypt_algo=encryption,
        crypt_key=spec.outbound_encryption_key.reveal() or None,
        crypt_icv_size=icv_length,
        auth_algo=integrity,
        auth_key=spec.outbound_integrity_key.reveal() or None,
        tunnel_header=outside.header,
        nat_t_header=UDP(sport=PORT, dport=PORT) if outside.encapsulated else None,
        esn_en=spec.suite.esn,
        esn=start >> 32,
    )


@pytest.mark.parametrize("text", SUITES)
def test_scapy_opens_ours_and_makes_the_same(text: str) -> None:
    iv_length = IV_LENGTHS.get(PAIRS[text.removesuffix("-esn")][0], 8)
    for outside in WAYS:
        spec = spec_of(text, outside)
        start = START[spec.suite.esn]
        ue, scapy = End(spec, start), scapy_association(spec, outside, start)
        for number, version in enumerate((4, 6), start=1):
            sent = packet(version, outside.length)
            assert ue.plane.send_inner(bytes(sent))
            octets = ue.transmitted[-1]
            made = scapy.encrypt(sent, seq_num=number, iv=octets[8 : 8 + iv_length])
            assert bytes(made)[outside.header_length :] == octets
            assert bytes(scapy.decrypt(outside.around(octets))) == bytes(sent)


@pytest.mark.parametrize("text", SUITES)
def test_we_open_scapys(text: str) -> None:
    for outside in WAYS:
        spec = spec_of(text, outside)
        start = START[spec.suite.esn]
        epdg, scapy = End(mirrored(spec), start), scapy_association(spec, outside, start)
        sent = [packet(version, outside.length) for version in (4, 6)]
        for each in sent:
            made = bytes(scapy.encrypt(each))
            epdg.plane.receive_esp(made[outside.header_length :], outside.path.reversed())
        octets = [bytes(each) for each in sent]
        assert epdg.delivered == octets
        assert epdg.sa.window.top == start + len(sent)
        assert epdg.plane.counters(spec.outbound_spi) == ChildSaCounters(
            inbound_packets=len(sent), inbound_octets=sum(map(len, octets))
        )
