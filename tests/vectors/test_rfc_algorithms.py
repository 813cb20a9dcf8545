"""Algorithms against the numbers in their RFCs: RFC 2202, 3566, 4494, 4434, 4615, 3686, 5114, 6954, 7748."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocols.ikev2.encryption import decryptor_of, encryptor_of
from protocols.ikev2.registry import EncryptionId, IntegrityId, KeGroup, PrfId
from protocols.ikev2.suites import INTEGRITY, Prf
from tests.vectors.test_ikev2_rfc import Octets, exchange_from

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "rfc_algorithms.json").read_text())
octets = bytes.fromhex


def test_mac() -> None:
    """AES-XCBC and AES-CMAC; one keyed context serves all messages, in any order."""
    keyed = {number: INTEGRITY[IntegrityId(number)].keyed for number in (5, 8)}
    contexts = {number: keyed[number](octets(row["key"])) for row in VECTORS["mac"] for number in [row["algorithm"]]}
    for row in [*VECTORS["mac"], *reversed(VECTORS["mac"])]:
        mac = contexts[row["algorithm"]].compute(octets(row["message"]))
        assert mac.startswith(octets(row["mac"]))
        assert mac == keyed[row["algorithm"]](octets(row["key"])).compute(octets(row["message"]))
    assert [row["algorithm"] for row in VECTORS["mac"]].count(5) == 6


@pytest.mark.parametrize("row", VECTORS["prf"], ids=lambda row: f"{PrfId(row['prf']).name}-{len(row['key']) // 2}")
def test_prf_keys_of_any_length(row: dict[str, Any]) -> None:
    """RFC 4434 §2, RFC 4615 §3: shorter, right and longer keys."""
    assert Prf.of(PrfId(row["prf"]))(octets(row["key"]), octets(row["data"])) == octets(row["out"])


@pytest.mark.parametrize(
    ("key", "data", "mac"),
    [
        (b"\x0b" * 16, b"Hi There", "9294727a3638bb1c13f48ef8158bfc9d"),
        (b"Jefe", b"what do ya want for nothing?", "750c783e6ab0b503eaa86e310a5db738"),
        (b"\xaa" * 16, b"\xdd" * 50, "56be34521d144c88dbb8c733f0e8b3f6"),
    ],
)
def test_hmac_md5(key: bytes, data: bytes, mac: str) -> None:
    """RFC 2202 §2, RFC 2403 §2.1: the first 96 bits are the ICV."""
    assert INTEGRITY[IntegrityId.AUTH_HMAC_MD5_96].keyed(key).compute(data).hex().startswith(mac[:24])
    assert Prf.of(PrfId.PRF_HMAC_MD5)(key, data).hex() == mac


def test_skeyseed_of_fixed_key_prfs() -> None:
    """RFC 7296 §2.14: sixty-four bits of each nonce are the key."""
    for identifier in (PrfId.PRF_AES128_XCBC, PrfId.PRF_AES128_CMAC):
        prf = Prf.of(identifier)
        assert prf.skeyseed(b"12345678" * 4, b"abcdefgh" * 4, b"g^ir") == prf(b"12345678abcdefgh", b"g^ir")
    sha = Prf.of(PrfId.PRF_HMAC_SHA2_256)
    assert sha.skeyseed(b"12345678" * 4, b"abcdefgh" * 4, b"g^ir") == sha(b"12345678" * 4 + b"abcdefgh" * 4, b"g^ir")


@pytest.mark.parametrize("row", VECTORS["aes_ctr"], ids=lambda row: f"{len(row['key']) * 4}-{len(row['plaintext'])}")
def test_aes_ctr(row: dict[str, str]) -> None:
    """RFC 3686 §4: nonce | IV | block counter from one. Our own IV counts packets (§3.1)."""
    key = octets(row["key"] + row["nonce"])
    decryptor = decryptor_of(EncryptionId.ENCR_AES_CTR, key)
    for _ in range(2):  # the context starts afresh for each packet
        assert decryptor.decrypt(octets(row["iv"] + row["ciphertext"])) == octets(row["plaintext"])
    encryptor = encryptor_of(EncryptionId.ENCR_AES_CTR, key, Octets(b""))
    for number in range(1, 4):
        sealed = encryptor.encrypt(octets(row["plaintext"]))
        assert sealed[:8] == number.to_bytes(8, "big")
        assert decryptor.decrypt(sealed) == octets(row["plaintext"])


@pytest.mark.parametrize("row", VECTORS["ecdh"], ids=lambda row: KeGroup(row["group"]).name)
def test_ecdh(row: dict[str, Any]) -> None:
    group = KeGroup(row["group"])
    initiator, responder = exchange_from(group, row["i"]), exchange_from(group, row["r"])
    assert initiator.public == octets(row["gi"])
    assert responder.public == octets(row["gr"])
    assert initiator.shared(responder.public) == responder.shared(initiator.public) == octets(row["shared"])
