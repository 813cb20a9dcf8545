"""ESP against published octets: RFC 3602 §4, tcpdump's and Wireshark's captures, GCM vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols.entropy import SeededEntropy
from protocols.errors import AuthenticationError
from protocols.esp.packet import opener_of, sealer_of, strip_trailer
from protocols.ikev2.suites import EspSuite
from protocols.secret import Secret
from tests.harness.material import SHARED

INTEGRITY_KEY = Secret(bytes(range(32)))
CHACHA: dict[str, str] = json.loads((Path(__file__).parent / "data" / "rfc_algorithms.json").read_text())["esp_rfc7634"]


def rows(name: str, *keys: str) -> list[Any]:
    """The vectors of a file for parametrisation; one skipped row where the file is absent."""
    path = SHARED / "vectors" / name
    if not path.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"{name} is not beside this checkout"))]
    found = json.loads(path.read_text())
    for key in keys:
        found = found[key]
    return list(found)


class FixedIv:
    """Entropy that makes a fresh CBC sealer's first block come out as a wanted IV."""

    def __init__(self, key: bytes, iv: bytes) -> None:
        block = Cipher(algorithms.AES(key), modes.CBC(bytes(16))).decryptor()
        self._octets = block.update(iv)

    def octets(self, length: int) -> bytes:
        assert length == len(self._octets)
        return self._octets


@pytest.mark.parametrize("vector", rows("spec/rfc_ipsec.json", "esp_rfc3602"))
def test_rfc3602_packets(vector: dict[str, Any]) -> None:
    key, spi = bytes.fromhex(vector["key"]), bytes.fromhex(vector["spi"])
    plaintext, packet = bytes.fromhex(vector["plaintext_with_trailer"]), bytes.fromhex(vector["esp_packet"])
    suite = EspSuite.of("aes128-sha256")
    next_header, payload = strip_trailer(plaintext)
    assert next_header == (4 if vector["mode"] == "tunnel" else 1)

    sealer = sealer_of(suite, spi, Secret(key), INTEGRITY_KEY, FixedIv(key, bytes.fromhex(vector["iv"])))
    sealed = sealer.seal(vector["seq"], payload, next_header)
    assert sealed[:-16] == packet  # the RFC's packets have no ICV

    mac = hmac.HMAC(INTEGRITY_KEY.reveal(), hashes.SHA256())
    mac.update(packet)
    opener = opener_of(suite, spi, Secret(key), INTEGRITY_KEY)
    assert opener.open(packet + mac.finalize()[:16], vector["seq"]) == plaintext


@pytest.mark.parametrize("vector", rows("fetched/esp_captures.json", "tcpdump"))
def test_tcpdump_captures(vector: dict[str, Any]) -> None:
    """AES-CBC-256 and 3DES. Their integrity key is not published: an ICV of ours takes the place of theirs."""
    suite = {"aes256-cbc-hmac96": "aes256-sha256", "3des-cbc-hmac96": "3des-sha256"}[vector["alg"]]
    packet = bytes.fromhex(vector["esp"])[: -vector["icv_len"]]
    key = Secret(bytes.fromhex(vector["enc_key"]))
    mac = hmac.HMAC(INTEGRITY_KEY.reveal(), hashes.SHA256())
    mac.update(packet)
    opener = opener_of(EspSuite.of(suite), packet[:4], key, INTEGRITY_KEY)
    plaintext = opener.open(packet + mac.finalize()[:16], vector["seq"])
    assert strip_trailer(plaintext) == (vector["next_header"], bytes.fromhex(vector["plaintext"]))


def test_the_packet_of_rfc_7634() -> None:
    """RFC 7634 Appendix A: ChaCha20-Poly1305, an IV that is not the sequence number."""
    octets, key = bytes.fromhex(CHACHA["esp_packet"]), Secret(bytes.fromhex(CHACHA["keymat"]))
    opener = opener_of(EspSuite.of("chacha20poly1305"), octets[:4], key, Secret(b""))
    assert strip_trailer(opener.open(octets, 5)) == (4, bytes.fromhex(CHACHA["source_packet"]))
    with pytest.raises(AuthenticationError):
        opener.open(octets, 6)  # the sequence number is associated data


@pytest.mark.parametrize("vector", rows("fetched/esp_captures.json", "wireshark_esp_bug_12671"))
def test_wireshark_captures_with_icv(vector: dict[str, Any]) -> None:
    packet = bytes.fromhex(vector["esp"])
    key, integrity_key = Secret(bytes.fromhex(vector["enc_key"])), Secret(bytes.fromhex(vector["auth_key"]))
    assert (vector["encr"], vector["integ"]) == ("AES-CBC-128", "HMAC-SHA1-96")
    suite = EspSuite.of("aes128-sha1")
    sequence = int.from_bytes(packet[4:8], "big")
    plaintext = opener_of(suite, packet[:4], key, integrity_key).open(packet, sequence)
    next_header, payload = strip_trailer(plaintext)
    assert (next_header, payload) == (vector["next_header"], bytes.fromhex(vector["plaintext"]))

    fixed = FixedIv(key.reveal(), packet[8:24])
    resealed = sealer_of(suite, packet[:4], key, integrity_key, fixed).seal(sequence, payload, next_header)
    assert resealed == packet


NAMES = {
    "ENCR_AES_GCM_ICV8": "aes{}gcm8",
    "ENCR_AES_GCM_ICV12": "aes{}gcm12",
    "ENCR_AES_GCM_ICV16": "aes{}gcm16",
    "ENCR_AES_CCM_ICV8": "aes{}ccm8",
    "ENCR_AES_CCM_ICV12": "aes{}ccm12",
    "ENCR_AES_CCM_ICV16": "aes{}ccm16",
    "ENCR_CHACHA20_POLY1305": "chacha20poly1305",
}


def aead_vectors() -> list[Any]:
    """AEAD with an 8 octet IV, a salt and something to encrypt."""
    found = []
    for vector in rows("fetched/crypto_strongswan.json", "vectors", "aead"):
        if not isinstance(vector, dict):
            return [vector]
        if vector["plain"]:
            found.append(pytest.param(vector, id=vector["name"]))
    return found


@pytest.mark.parametrize("vector", aead_vectors())
def test_aead_keystream(vector: dict[str, Any]) -> None:
    """Key, salt and IV (the whole sequence number) go where RFC 4106 §4, RFC 4309 §4 and RFC 7634 §2 say.

    The vectors' associated data is not an ESP header's, so their ICVs are not looked at: ``test_esp_scapy``.
    """
    key = Secret(bytes.fromhex(vector["key"]) + bytes.fromhex(vector["salt"]))
    plain, iv = bytes.fromhex(vector["plain"]), bytes.fromhex(vector["iv"])
    suite = EspSuite.of(NAMES[vector["alg"]].format(len(vector["key"]) * 4) + "-esn")
    sealer = sealer_of(suite, b"\x00\x00\x10\x00", key, Secret(b""), SeededEntropy(1))
    packet = sealer.seal(int.from_bytes(iv, "big"), plain, 4)
    assert packet[8:16] == iv
    assert packet[16 : 16 + len(plain)] == bytes.fromhex(vector["cipher"])[: len(plain)]


def test_a_sealer_never_repeats_an_iv() -> None:
    """RFC 3602 §3, RFC 3686 §3.1, RFC 4106 §3.1, RFC 4309 §3.1, RFC 7634 §2."""
    for text, start, end in (
        ("aes128-sha256", 8, 24),
        ("3des-sha1", 8, 16),
        ("aes128ctr-sha1", 8, 16),
        ("aes128gcm8", 8, 16),
        ("aes128gcm16", 8, 16),
        ("aes128ccm12", 8, 16),
        ("chacha20poly1305", 8, 16),
    ):
        suite = EspSuite.of(text)
        key = Secret(bytes(suite.encryption_key_length))
        integrity_key = Secret(bytes(suite.integrity_key_length))
        sealer = sealer_of(suite, b"\x00\x00\x10\x00", key, integrity_key, SeededEntropy(1))
        ivs = {sealer.seal(sequence, b"same payload", 4)[start:end] for sequence in range(1, 501)}
        assert len(ivs) == 500
