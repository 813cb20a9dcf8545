"""IKEv2's algorithms against strongSwan's test vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from protocols.entropy import SeededEntropy
from protocols.errors import AuthenticationError
from protocols.ikev2.encryption import aead_of, decryptor_of
from protocols.ikev2.keymat import IkeKeys
from protocols.ikev2.message import decode_header
from protocols.ikev2.payloads import NotifyPayload, decode_payloads
from protocols.ikev2.protection import AeadProtection
from protocols.ikev2.registry import EncryptionId, ExchangeType, IntegrityId, KeGroup, NotifyType, PrfId
from protocols.ikev2.sealer import Sealer
from protocols.ikev2.suites import INTEGRITY, KEY_EXCHANGES, PRFS, IkeSuite, KeyExchange, ModpMethod, ModpPrivate, Prf
from protocols.secret import Secret
from tests.harness.material import shared
from tests.vectors.test_ikev2_rfc import exchange_from

octets = bytes.fromhex


@cache
def material() -> dict[str, Any]:
    found = json.loads(shared("vectors/fetched/crypto_strongswan.json").read_text())
    assert isinstance(found, dict)
    return found


def rows(kind: str) -> Iterator[dict[str, Any]]:
    yield from material()["vectors"][kind]


def exchange(group: KeGroup, private: str) -> KeyExchange:
    method = KEY_EXCHANGES[group]
    if isinstance(method, ModpMethod):
        return KeyExchange(group, ModpPrivate(method, int(private, 16)))
    return exchange_from(group, private)


def test_key_exchanges() -> None:
    seen = set()
    for row in rows("ke"):
        if row["group"] not in KEY_EXCHANGES:
            continue
        group = KeGroup(row["group"])
        initiator, responder = exchange(group, row["priv_i"]), exchange(group, row["priv_r"])
        assert initiator.public == octets(row["pub_i"])
        assert responder.public == octets(row["pub_r"])
        assert initiator.shared(responder.public) == octets(row["shared"])
        assert responder.shared(initiator.public) == octets(row["shared"])
        seen.add(group)
    assert seen >= {1, 2, 5, 14, 15, 16, 17, 18, 19, 20, 21, 25, 26, 31}


def test_prf() -> None:
    seen = set()
    for row in rows("prf"):
        if row["prf"] in PRFS:
            assert Prf.of(PrfId(row["prf"]))(octets(row["key"]), octets(row["seed"])) == octets(row["out"])
            seen.add(row["prf"])
    assert seen == set(PRFS)


def test_skeyseed() -> None:
    for row in rows("kdf_prf"):
        assert Prf.of(PrfId(row["prf"]))(octets(row["salt"]), octets(row["key"])) == octets(row["out"])


def test_prf_plus() -> None:
    for row in rows("kdf_prf_plus"):
        expected = octets(row["out"])
        prf = Prf.of(PrfId(row["prf"]))
        assert prf.plus(octets(row["key"]), octets(row["salt"]), len(expected)) == expected


def test_integrity() -> None:
    seen = set()
    for row in rows("signer"):
        identifier = getattr(IntegrityId, row["alg"], None)
        if identifier in INTEGRITY:
            algorithm = INTEGRITY[identifier]
            whole = algorithm.keyed(octets(row["key"])).compute(octets(row["data"]))
            assert whole[: algorithm.icv_length] == octets(row["mac"])
            seen.add(identifier)
    assert seen == set(INTEGRITY)


AEADS = {
    "ENCR_AES_GCM_ICV8": "aes{}gcm8",
    "ENCR_AES_GCM_ICV12": "aes{}gcm12",
    "ENCR_AES_GCM_ICV16": "aes{}gcm16",
    "ENCR_AES_CCM_ICV8": "aes{}ccm8",
    "ENCR_AES_CCM_ICV12": "aes{}ccm12",
    "ENCR_AES_CCM_ICV16": "aes{}ccm16",
    "ENCR_CHACHA20_POLY1305": "chacha20poly1305",
}


def test_aead() -> None:
    """Both ways, with their associated data, explicit IV, ciphertext and ICV; one octet changed is noticed."""
    seen = set()
    for row in rows("aead"):
        name = AEADS[row["alg"]].format(len(row["key"]) * 4)
        suite = IkeSuite.of(f"{name}-prfsha256-x25519")
        aead, salt = aead_of(suite.encryption, octets(row["key"] + row["salt"]))
        nonce, clear, sealed = salt + octets(row["iv"]), octets(row["adata"]), octets(row["cipher"])
        assert aead.encrypt(nonce, octets(row["plain"]), clear) == sealed
        assert aead.decrypt(nonce, sealed, clear) == octets(row["plain"])
        with pytest.raises(AuthenticationError):
            aead.decrypt(nonce, sealed[:-1] + bytes((sealed[-1] ^ 1,)), clear)
        key = Secret(octets(row["key"] + row["salt"]))
        assert AeadProtection(suite, key, key).unprotect(clear + octets(row["iv"]) + sealed, len(clear)) == octets(
            row["plain"]
        )
        seen.add(row["alg"])
    assert seen == set(AEADS)


def test_encryption_without_integrity() -> None:
    seen = set()
    for row in rows("crypter"):
        # The key of AES-CTR includes the nonce (RFC 3686 §5.1), as in KEYMAT.
        identifier = EncryptionId[row["alg"]]
        assert decryptor_of(identifier, octets(row["key"])).decrypt(octets(row["iv"] + row["cipher"])) == octets(
            row["plain"]
        )
        seen.add(row["alg"])
    assert seen == {"ENCR_AES_CBC", "ENCR_AES_CTR"}


def test_the_message_of_rfc_7634() -> None:
    """RFC 7634 Appendix B: opened as the original initiator, from whom the responder's message comes."""
    row = material()["ikev2_chacha20poly1305_message"]
    datagram, key, none = octets(row["hex"]), Secret(octets(row["key_and_salt"])), Secret(bytes(32))
    keys = IkeKeys(sk_d=none, sk_ai=none, sk_ar=none, sk_ei=key, sk_er=key, sk_pi=none, sk_pr=none)
    sealer = Sealer(IkeSuite.of("chacha20poly1305-prfsha256-x25519"), keys, True, SeededEntropy(1))
    message = sealer.open(datagram, decode_header(datagram))
    assert (message.exchange, message.message_id) == (ExchangeType.INFORMATIONAL, 9)
    assert message.payloads == (NotifyPayload(NotifyType.SET_WINDOW_SIZE, bytes((0, 0, 0, 10))),)


def test_the_plaintext_of_rfc_7634() -> None:
    """A Notify whose critical bit is set: ignored, for its type is known (RFC 7296 §3.2)."""
    row = material()["ikev2_chacha20poly1305_message"]
    (notify,) = decode_payloads(row["first_payload"], octets(row["plaintext"]))
    assert notify == NotifyPayload(NotifyType.SET_WINDOW_SIZE, bytes((0, 0, 0, 10)))


@pytest.mark.parametrize("group", [KeGroup.MODP_2048])
def test_modp_results_keep_their_leading_zeros(group: KeGroup) -> None:
    """RFC 7296 §2.14: g^ir is as long as the modulus, zeros in front if necessary."""
    method = KEY_EXCHANGES[group]
    assert isinstance(method, ModpMethod)
    one = KeyExchange(group, ModpPrivate(method, 1))
    assert one.public == bytes(255) + b"\x02"
    assert one.shared(bytes(255) + b"\x05") == bytes(255) + b"\x05"
