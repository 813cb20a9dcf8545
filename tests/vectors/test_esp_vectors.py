"""ESP against published octets, through the sealers and openers that SAs use.

RFC 3602 §4 (AES-CBC), RFC 3686 §6 (AES-CTR), RFC 7634 Appendix A, RFC 2410 §5 (NULL), RFC 2202 and RFC 4868 (HMAC),
draft-mcgrew-gcm-test-01 §4 (AES-GCM as in RFC 4106), tcpdump's and Wireshark's captures.
"""

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
DATA = Path(__file__).parent / "data"
ALGORITHMS: dict[str, Any] = json.loads((DATA / "rfc_algorithms.json").read_text())
IPSEC: dict[str, Any] = json.loads((DATA / "rfc_ipsec.json").read_text())
PACKETS: dict[str, Any] = json.loads((DATA / "esp_packets.json").read_text())
CHACHA: dict[str, str] = ALGORITHMS["esp_rfc7634"]


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


def icv_of(packet: bytes) -> bytes:
    """HMAC-SHA-256-128 for packets that were published without an ICV."""
    mac = hmac.HMAC(INTEGRITY_KEY.reveal(), hashes.SHA256())
    mac.update(packet)
    return mac.finalize()[:16]


@pytest.mark.parametrize("vector", IPSEC["esp_rfc3602"], ids=lambda vector: f"case {vector['case']}")
def test_rfc3602_packets(vector: dict[str, Any]) -> None:
    key, spi = bytes.fromhex(vector["key"]), bytes.fromhex(vector["spi"])
    plaintext, packet = bytes.fromhex(vector["plaintext_with_trailer"]), bytes.fromhex(vector["esp_packet"])
    suite = EspSuite.of("aes128-sha256")
    next_header, payload = strip_trailer(plaintext)
    assert next_header == (4 if vector["mode"] == "tunnel" else 1)

    sealer = sealer_of(suite, spi, Secret(key), INTEGRITY_KEY, FixedIv(key, bytes.fromhex(vector["iv"])))
    sealed = sealer.seal(vector["seq"], payload, next_header)
    assert sealed[:-16] == packet  # the RFC's packets have no ICV

    opener = opener_of(suite, spi, Secret(key), INTEGRITY_KEY)
    assert opener.open(packet + icv_of(packet), vector["seq"]) == plaintext


@pytest.mark.parametrize("vector", rows("fetched/esp_captures.json", "tcpdump"))
def test_tcpdump_captures(vector: dict[str, Any]) -> None:
    """AES-CBC-256 and 3DES. Their integrity key is not published: an ICV of ours takes the place of theirs."""
    suite = {"aes256-cbc-hmac96": "aes256-sha256", "3des-cbc-hmac96": "3des-sha256"}[vector["alg"]]
    packet = bytes.fromhex(vector["esp"])[: -vector["icv_len"]]
    key = Secret(bytes.fromhex(vector["enc_key"]))
    opener = opener_of(EspSuite.of(suite), packet[:4], key, INTEGRITY_KEY)
    plaintext = opener.open(packet + icv_of(packet), vector["seq"])
    assert strip_trailer(plaintext) == (vector["next_header"], bytes.fromhex(vector["plaintext"]))


@pytest.mark.parametrize("row", ALGORITHMS["aes_ctr"], ids=lambda row: f"{len(row['key']) * 4}-{row['plaintext'][:8]}")
def test_aes_ctr_packets(row: dict[str, str]) -> None:
    """RFC 3686 §6: the IV stands in the packet, nonce and key in the keying material (§5.1)."""
    packet = bytes.fromhex("0000432100000001" + row["iv"] + row["ciphertext"])
    suite = EspSuite.of(f"aes{len(row['key']) * 4}ctr-sha256")
    opener = opener_of(suite, packet[:4], Secret(bytes.fromhex(row["key"] + row["nonce"])), INTEGRITY_KEY)
    assert opener.open(packet + icv_of(packet), 1) == bytes.fromhex(row["plaintext"])


@pytest.mark.parametrize("row", PACKETS["aes_gcm"], ids=[f"case {number}" for number in range(1, 15)])
@pytest.mark.parametrize("icv_length", [8, 12, 16])
def test_aes_gcm_packets(row: dict[str, str], icv_length: int) -> None:
    """RFC 4106: salt, IV, associated data with 32 and with 64 bits of sequence number, and the ICV, also cut (§6)."""
    associated, key = bytes.fromhex(row["associated_data"]), bytes.fromhex(row["key"] + row["salt"])
    esn = len(associated) == 12
    spi, sequence = associated[:4], int.from_bytes(associated[4:], "big")
    packet = spi + associated[-4:] + bytes.fromhex(row["iv"] + row["ciphertext"] + row["icv"][: 2 * icv_length])
    suite = EspSuite.of(f"aes{len(key) * 8 - 32}gcm{icv_length}{'-esn' if esn else ''}")
    opener = opener_of(suite, spi, Secret(key), Secret(b""))
    assert opener.open(packet, sequence) == bytes.fromhex(row["plaintext_with_trailer"])
    with pytest.raises(AuthenticationError):
        opener.open(packet, sequence ^ (1 << 32 if esn else 1))  # it is associated data, the half not sent too


@pytest.mark.parametrize("data", [bytes.fromhex(each) for each in PACKETS["null"]])
def test_null_packets(data: bytes) -> None:
    """RFC 2410 §5: the data as they are; around them RFC 4303's packet with HMAC-SHA-256-128."""
    suite, spi = EspSuite.of("null-sha256"), bytes.fromhex("00004321")
    sealed = sealer_of(suite, spi, Secret(b""), INTEGRITY_KEY, SeededEntropy(1)).seal(1, data, 4)
    padding = bytes(range(1, -(len(data) + 2) % 4 + 1))
    packet = spi + b"\0\0\0\1" + data + padding + bytes((len(padding), 4))
    assert sealed == packet + icv_of(packet)
    opened = opener_of(suite, spi, Secret(b""), INTEGRITY_KEY).open(sealed, 1)
    assert strip_trailer(opened) == (4, data)


HMAC_NAMES = {20: "null-sha1", 32: "null-sha256", 48: "null-sha384", 64: "null-sha512"}
HMAC_MESSAGES = [
    row
    for row in (*PACKETS["hmac_sha1"], *(row for row in IPSEC["hmac_rfc4868"] if "icv" in row))
    if len(row["data"]) % 8 == 0 and len(row["data"]) >= 24  # of the form of a packet: whole words, more than a header
]


def test_every_hmac_has_a_message() -> None:
    assert sorted(len(row["key"]) // 2 for row in HMAC_MESSAGES) == sorted(HMAC_NAMES)


@pytest.mark.parametrize("row", HMAC_MESSAGES, ids=lambda row: HMAC_NAMES[len(row["key"]) // 2])
def test_hmac_covers_the_whole_packet(row: dict[str, str]) -> None:
    """RFC 2202 §3 with RFC 2404 §2, RFC 4868 §2.7.2: the RFC's message as a packet, its truncated HMAC as the ICV."""
    data, key = bytes.fromhex(row["data"]), bytes.fromhex(row["key"])
    opener = opener_of(EspSuite.of(HMAC_NAMES[len(key)]), data[:4], Secret(b""), Secret(key))
    assert opener.open(data + bytes.fromhex(row["icv"]), int.from_bytes(data[4:8], "big")) == data[8:]
    with pytest.raises(AuthenticationError):
        opener.open(data[:-1] + b"\0" + bytes.fromhex(row["icv"]), int.from_bytes(data[4:8], "big"))


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
