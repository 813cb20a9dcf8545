"""IKEv2's algorithms against the RFCs' own numbers: RFC 4868 §2.7, RFC 5903 §8, RFC 4754 §8, RFC 7748 §6.1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from protocols.ikev2.payloads import AuthPayload, KePayload, decode_payloads, encode_payloads
from protocols.ikev2.registry import AuthMethod, KeGroup, PayloadType
from protocols.ikev2.signatures import verify_auth
from protocols.ikev2.suites import INTEGRITY, KEY_EXCHANGES, PRFS, EcpMethod, KeyExchange

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "rfc_ipsec.json").read_text())
octets = bytes.fromhex


class Octets:
    """Entropy that is one given value."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def octets(self, length: int) -> bytes:
        return self._value.rjust(length, b"\0")


def exchange_from(group: KeGroup, private: str) -> KeyExchange:
    """A key exchange with a private value of the vector's."""
    if isinstance(KEY_EXCHANGES[group], EcpMethod):
        # The scalar is entropy modulo (order - 1), plus one.
        value = int(private, 16) - 1
        return KeyExchange.generate(group, Octets(value.to_bytes((value.bit_length() + 7) // 8, "big")))
    return KeyExchange.generate(group, Octets(octets(private)))


@pytest.mark.parametrize("row", VECTORS["hmac_rfc4868"], ids=lambda row: row["name"])
def test_hmac_sha2(row: dict[str, str]) -> None:
    bits = int(row["name"].split("-")[0].removeprefix("AUTH").removeprefix("PRF"))
    prf = next(prf for prf in PRFS.values() if prf.name == f"prfsha{bits}")
    assert prf(octets(row["key"]), octets(row["data"])) == octets(row["prf"])
    if "icv" in row:
        integrity = next(found for found in INTEGRITY.values() if found.name == f"sha{bits}")
        whole = integrity.keyed(octets(row["key"])).compute(octets(row["data"]))
        assert whole[: integrity.icv_length] == octets(row["icv"])


ECDH = [row for row in VECTORS["ecdh_rfc5903"] if row["group"] in KEY_EXCHANGES]


def test_the_curves_have_vectors() -> None:
    assert [row["group"] for row in ECDH] == [KeGroup.ECP_256, KeGroup.ECP_384, KeGroup.ECP_521]


@pytest.mark.parametrize("row", ECDH, ids=lambda row: KeGroup(row["group"]).name)
def test_ecdh(row: dict[str, Any]) -> None:
    group = KeGroup(row["group"])
    initiator, responder = exchange_from(group, row["i"]), exchange_from(group, row["r"])
    assert initiator.public == octets(row["gix"] + row["giy"])
    assert responder.public == octets(row["grx"] + row["gry"])
    assert initiator.shared(responder.public) == octets(row["girx"])
    assert responder.shared(initiator.public) == octets(row["girx"])
    for exchange, payload in ((initiator, row["KEi_payload"]), (responder, row["KEr_payload"])):
        value = KePayload(group, exchange.public)
        assert decode_payloads(PayloadType.KE, octets(payload)) == (value,)
        assert encode_payloads((value,)) == (PayloadType.KE, octets(payload))


def test_x25519() -> None:
    """RFC 7748 §6.1."""
    alice = exchange_from(KeGroup.CURVE25519, "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = exchange_from(KeGroup.CURVE25519, "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    assert alice.public == octets("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    assert bob.public == octets("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    shared = octets("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert alice.shared(bob.public) == bob.shared(alice.public) == shared


CURVES = {
    AuthMethod.ECDSA_WITH_SHA_256_ON_P_256: ec.SECP256R1(),
    AuthMethod.ECDSA_WITH_SHA_384_ON_P_384: ec.SECP384R1(),
    AuthMethod.ECDSA_WITH_SHA_512_ON_P_521: ec.SECP521R1(),
}


@pytest.mark.parametrize(
    "row", [row for row in VECTORS["ecdsa_rfc4754"] if row["auth_method"] in CURVES], ids=lambda row: row["auth_method"]
)
def test_ecdsa_auth(row: dict[str, Any]) -> None:
    method = AuthMethod(row["auth_method"])
    point = ec.EllipticCurvePublicNumbers(int(row["gwx"], 16), int(row["gwy"], 16), CURVES[method])
    value = AuthPayload(method, octets(row["r"] + row["s"]))
    # RFC 4754 §8 prints the method as the body's second octet; RFC 7296 §3.8 has it first.
    printed = octets(row["auth_payload"])
    payload = printed[:4] + bytes((printed[5], printed[4])) + printed[6:]
    assert decode_payloads(PayloadType.AUTH, payload) == (value,)
    assert encode_payloads((value,)) == (PayloadType.AUTH, payload)
    verify_auth(point.public_key(), value, octets(row["message"]))
