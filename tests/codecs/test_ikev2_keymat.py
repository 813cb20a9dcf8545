"""Key derivation against the RFC's formulas written out with HMAC (RFC 7296 §2.13–2.18)."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from protocols.ikev2.keymat import (
    IkeKeys,
    auth_octets,
    derive_child_keys,
    derive_ike_keys,
    derive_rekeyed_ike_keys,
    shared_key_auth,
)
from protocols.ikev2.registry import PrfId
from protocols.ikev2.suites import EspSuite, IkeSuite, Prf
from protocols.secret import Secret

NI, NR, SPI_I, SPI_R, SHARED = b"Ni" * 16, b"Nr" * 20, b"initiato", b"responde", b"g^ir" * 8
ORDER = ("sk_d", "sk_ai", "sk_ar", "sk_ei", "sk_er", "sk_pi", "sk_pr")


def sha256(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def sha512(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha512).digest()


def joined(keys: IkeKeys) -> bytes:
    return b"".join(getattr(keys, name).reveal() for name in ORDER)


def test_prf_plus_by_hand() -> None:
    """T1 = prf (K, S | 0x01), T2 = prf (K, T1 | S | 0x02), ..."""
    t1 = sha256(b"K", b"S\x01")
    t2 = sha256(b"K", t1 + b"S\x02")
    t3 = sha256(b"K", t2 + b"S\x03")
    assert Prf.of(PrfId.PRF_HMAC_SHA2_256).plus(b"K", b"S", 70) == (t1 + t2 + t3)[:70]


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("aes128-sha256-x25519", (32, 32, 32, 16, 16, 32, 32)),
        ("aes256-sha512-prfsha256-x25519", (32, 64, 64, 32, 32, 32, 32)),
        ("aes128gcm16-prfsha256-x25519", (32, 0, 0, 20, 20, 32, 32)),
        ("aes256gcm16-prfsha256-x25519", (32, 0, 0, 36, 36, 32, 32)),
    ],
)
def test_ike_keys(name: str, lengths: tuple[int, ...]) -> None:
    keys = derive_ike_keys(IkeSuite.of(name), SHARED, NI, NR, SPI_I, SPI_R)
    assert tuple(len(getattr(keys, key).reveal()) for key in ORDER) == lengths
    skeyseed = sha256(NI + NR, SHARED)
    stream = Prf.of(PrfId.PRF_HMAC_SHA2_256).plus(skeyseed, NI + NR + SPI_I + SPI_R, sum(lengths))
    assert joined(keys) == stream


def test_rekeyed_ike_keys_use_the_old_prf_for_skeyseed_and_the_new_one_after() -> None:
    """RFC 7296 §2.18: SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr)."""
    old_sk_d = Secret(b"d" * 64)
    new = IkeSuite.of("aes128-sha256-x25519")
    keys = derive_rekeyed_ike_keys(new, Prf.of(PrfId.PRF_HMAC_SHA2_512), old_sk_d, SHARED, NI, NR, SPI_I, SPI_R)
    skeyseed = sha512(old_sk_d.reveal(), SHARED + NI + NR)
    stream = Prf.of(PrfId.PRF_HMAC_SHA2_256).plus(skeyseed, NI + NR + SPI_I + SPI_R, 192)
    assert joined(keys) == stream


@pytest.mark.parametrize(
    ("name", "encryption", "integrity"), [("aes128-sha256", 16, 32), ("aes256gcm16", 36, 0), ("aes256-sha1", 32, 20)]
)
@pytest.mark.parametrize("shared", [b"", SHARED], ids=["no key exchange", "its own key exchange"])
def test_child_keys(name: str, encryption: int, integrity: int, shared: bytes) -> None:
    """RFC 7296 §2.17: initiator to responder first, encryption before integrity; g^ir (new) before the nonces."""
    prf = Prf.of(PrfId.PRF_HMAC_SHA2_256)
    keys = derive_child_keys(EspSuite.of(name), prf, Secret(b"d" * 32), NI, NR, shared)
    stream = prf.plus(b"d" * 32, shared + NI + NR, 2 * (encryption + integrity))
    parts = [secret.reveal() for secret in (keys.ei, keys.ai, keys.er, keys.ar)]
    assert [len(part) for part in parts] == [encryption, integrity, encryption, integrity]
    assert b"".join(parts) == stream


def test_auth() -> None:
    """RFC 7296 §2.15."""
    prf = Prf.of(PrfId.PRF_HMAC_SHA2_256)
    signed = auth_octets(b"RealMessage1", NR, prf, Secret(b"p" * 32), b"\x02\0\0\0id")
    assert signed == b"RealMessage1" + NR + sha256(b"p" * 32, b"\x02\0\0\0id")
    assert shared_key_auth(prf, Secret(b"MSK"), signed) == sha256(sha256(b"MSK", b"Key Pad for IKEv2"), signed)


def test_keys_do_not_print() -> None:
    keys = derive_ike_keys(IkeSuite.of("aes128-sha256-x25519"), SHARED, NI, NR, SPI_I, SPI_R)
    for name in ORDER:
        assert getattr(keys, name).reveal().hex() not in repr(keys)
        assert repr(getattr(keys, name).reveal()) not in repr(keys)
