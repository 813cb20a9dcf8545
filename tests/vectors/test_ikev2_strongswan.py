"""IKEv2's algorithms against strongSwan's test vectors."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from protocols.ikev2.payloads import NotifyPayload, decode_payloads
from protocols.ikev2.registry import IntegrityId, KeGroup, NotifyType, PrfId
from protocols.ikev2.sealer import GcmProtection
from protocols.ikev2.suites import INTEGRITY, KEY_EXCHANGES, PRFS, KeyExchange, ModpMethod, ModpPrivate, Prf
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
    assert seen == set(KEY_EXCHANGES)


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
            whole = hmac.digest(octets(row["key"]), octets(row["data"]), algorithm.digest)
            assert whole[: algorithm.icv_length] == octets(row["mac"])
            seen.add(identifier)
    assert seen == set(INTEGRITY)


def test_aes_gcm() -> None:
    """Sealed by their vector, opened by ours: associated data, explicit IV, ciphertext with ICV."""
    opened = 0
    for row in rows("aead"):
        if row["alg"] != "ENCR_AES_GCM_ICV16":
            continue
        key = Secret(octets(row["key"] + row["salt"]))
        clear = octets(row["adata"])
        plaintext = GcmProtection(key, key).unprotect(clear + octets(row["iv"] + row["cipher"]), len(clear))
        assert plaintext == octets(row["plain"])
        opened += 1
    assert opened >= 6


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
