"""ESP against Scapy's implementation as an independent counterpart, both ways (scapy.layers.ipsec)."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import Raw

from protocols.entropy import SeededEntropy
from protocols.esp.sa import ChildSa, ChildSaSpec
from tests.dataplane.pairs import HOST_ADDRESS, UE_ADDRESS, mirrored, ue_spec

SUITES = {
    "aes128-sha256": ("AES-CBC", "SHA2-256-128"),
    "aes192-sha256": ("AES-CBC", "SHA2-256-128"),
    "aes256-sha256": ("AES-CBC", "SHA2-256-128"),
    "aes128-sha1": ("AES-CBC", "HMAC-SHA1-96"),
    "aes256-sha384": ("AES-CBC", "SHA2-384-192"),
    "aes256-sha512": ("AES-CBC", "SHA2-512-256"),
    "aes128gcm16": ("AES-GCM", None),
    "aes256gcm16": ("AES-GCM", None),
    "aes128-sha256-esn": ("AES-CBC", "SHA2-256-128"),
    "aes128gcm16-esn": ("AES-GCM", None),
    "aes128ctr-sha256": ("AES-CTR", "SHA2-256-128"),
    "aes256ctr-sha1-esn": ("AES-CTR", "HMAC-SHA1-96"),
    "3des-sha1": ("3DES", "HMAC-SHA1-96"),
    "null-sha256": ("NULL", "SHA2-256-128"),
    "null-sha512-esn": ("NULL", "SHA2-512-256"),
    "aes128-aescmac": ("AES-CBC", "AES-CMAC-96"),
    "aes256ccm16": ("AES-CCM", None),
    "chacha20poly1305": ("CHACHA20-POLY1305", None),
    "chacha20poly1305-esn": ("CHACHA20-POLY1305", None),
}


def scapy_association(spec: ChildSaSpec, name: str) -> SecurityAssociation:
    """The direction that ``spec`` sends in, as Scapy has it."""
    encryption, integrity = SUITES[name]
    return SecurityAssociation(
        ESP,
        spi=int.from_bytes(spec.outbound_spi, "big"),
        crypt_algo=encryption,
        crypt_key=spec.outbound_encryption_key.reveal(),
        auth_algo=integrity,
        auth_key=spec.outbound_integrity_key.reveal() or None,
        tunnel_header=IP(src="198.51.100.7", dst="192.0.2.1"),
        esn_en=spec.suite.esn,
    )


def inner(length: int) -> bytes:
    packet = IP(src=str(UE_ADDRESS), dst=str(HOST_ADDRESS)) / UDP(sport=5000, dport=7) / Raw(bytes(length))
    return bytes(packet)


@pytest.mark.parametrize("name", SUITES)
def test_ours_is_opened_by_scapy(name: str) -> None:
    spec = ue_spec(name)
    ue, scapy = ChildSa(spec, SeededEntropy("ue")), scapy_association(spec, name)
    for length in (0, 1, 2, 13, 14, 15, 16, 1300):
        octets = ue.seal(inner(length), 4)
        outer = IP(src="198.51.100.7", dst="192.0.2.1", proto=50) / ESP(octets)
        assert bytes(scapy.decrypt(IP(bytes(outer)), esn_en=spec.suite.esn, esn=0)) == inner(length)


@pytest.mark.parametrize("name", SUITES)
def test_scapys_is_opened_by_us(name: str) -> None:
    spec = ue_spec(name)
    epdg, scapy = ChildSa(mirrored(spec), SeededEntropy("epdg")), scapy_association(spec, name)
    for length in (0, 1, 2, 13, 14, 15, 16, 1300):
        encrypted = scapy.encrypt(IP(inner(length)))
        assert epdg.open(bytes(encrypted[ESP])) == inner(length)
    assert epdg.window.top == 8
