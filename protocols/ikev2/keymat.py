"""Key derivation and the octets that AUTH covers (RFC 7296 §2.14, §2.15, §2.17, §2.18; RFC 9242 §3.3.2; RFC 9370)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocols.ikev2.message import HEADER_LENGTH
from protocols.ikev2.registry import PayloadType
from protocols.ikev2.suites import EspSuite, IkeSuite, Prf
from protocols.secret import Secret

NEXT_PAYLOAD_OFFSET: Final = 16  # of the IKE header (§3.1)
KEY_PAD: Final = b"Key Pad for IKEv2"  # RFC 7296 §2.15: seventeen octets, no terminating null


@dataclass(frozen=True, kw_only=True)
class IkeKeys:
    """The seven keys of an IKE SA (RFC 7296 §2.14); ``i`` and ``r`` are the SA's original ends."""

    sk_d: Secret
    sk_ai: Secret
    sk_ar: Secret
    sk_ei: Secret
    sk_er: Secret
    sk_pi: Secret
    sk_pr: Secret


@dataclass(frozen=True, kw_only=True)
class ChildKeys:
    """Keys of a child SA (RFC 7296 §2.17): ``i`` for what the exchange's initiator sends, ``r`` the rest."""

    ei: Secret
    ai: Secret
    er: Secret
    ar: Secret


def derive_ike_keys(suite: IkeSuite, shared: bytes, ni: bytes, nr: bytes, spi_i: bytes, spi_r: bytes) -> IkeKeys:
    """The keys of an initial IKE SA (RFC 7296 §2.14): SKEYSEED = prf(Ni | Nr, g^ir)."""
    prf = Prf.of(suite.prf)
    return _ike_keys(suite, prf, prf.skeyseed(ni, nr, shared), ni, nr, spi_i, spi_r)


def derive_rekeyed_ike_keys(
    suite: IkeSuite,
    old_prf: Prf,
    old_sk_d: Secret,
    shared: bytes,
    ni: bytes,
    nr: bytes,
    spi_i: bytes,
    spi_r: bytes,
    additional: bytes = b"",
) -> IkeKeys:
    """The keys of an IKE SA that replaces another (RFC 7296 §2.18, RFC 9370 §2.2.4).

    SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr | SK(1) | ... | SK(n)) with the old SA's PRF; ``suite`` is
    the new SA's, ``additional`` the secrets of its additional key exchanges one after the other.
    """
    skeyseed = old_prf(old_sk_d.reveal(), shared + ni + nr + additional)
    return _ike_keys(suite, Prf.of(suite.prf), skeyseed, ni, nr, spi_i, spi_r)


def derive_resumed_ike_keys(
    suite: IkeSuite, old_sk_d: Secret, ni: bytes, nr: bytes, spi_i: bytes, spi_r: bytes
) -> IkeKeys:
    """The keys of a resumed IKE SA (RFC 5723 §5.1): SKEYSEED = prf(SK_d (old), "Resumption" | Ni | Nr)."""
    prf = Prf.of(suite.prf)
    return _ike_keys(suite, prf, prf(old_sk_d.reveal(), b"Resumption" + ni + nr), ni, nr, spi_i, spi_r)


def derive_updated_ike_keys(
    suite: IkeSuite, keys: IkeKeys, shared: bytes, ni: bytes, nr: bytes, spi_i: bytes, spi_r: bytes
) -> IkeKeys:
    """The keys after an additional key exchange (RFC 9370 §2.2.2): SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr)."""
    prf = Prf.of(suite.prf)
    return _ike_keys(suite, prf, prf(keys.sk_d.reveal(), shared + ni + nr), ni, nr, spi_i, spi_r)


def _ike_keys(suite: IkeSuite, prf: Prf, skeyseed: bytes, ni: bytes, nr: bytes, spi_i: bytes, spi_r: bytes) -> IkeKeys:
    """{SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr)."""
    d, a, e = prf.key_length, suite.integrity_key_length, suite.encryption_key_length
    stream = prf.plus(skeyseed, ni + nr + spi_i + spi_r, 3 * d + 2 * a + 2 * e)
    end_a = d + 2 * a
    end_e = end_a + 2 * e
    return IkeKeys(
        sk_d=Secret(stream[:d]),
        sk_ai=Secret(stream[d : d + a]),
        sk_ar=Secret(stream[d + a : end_a]),
        sk_ei=Secret(stream[end_a : end_a + e]),
        sk_er=Secret(stream[end_a + e : end_e]),
        sk_pi=Secret(stream[end_e : end_e + d]),
        sk_pr=Secret(stream[end_e + d :]),
    )


def derive_child_keys(
    suite: EspSuite, prf: Prf, sk_d: Secret, ni: bytes, nr: bytes, shared: bytes = b"", additional: bytes = b""
) -> ChildKeys:
    """KEYMAT = prf+(SK_d, [g^ir |] Ni | Nr [| SK(1) | ... | SK(n)]), cut in the order of RFC 7296 §2.17.

    Nonces are those of the exchange that makes the child SA, ``shared`` that of its own key exchange, ``additional``
    the secrets of the additional ones (RFC 9370 §2.2.4).
    """
    e, a = suite.encryption_key_length, suite.integrity_key_length
    stream = prf.plus(sk_d.reveal(), shared + ni + nr + additional, 2 * (e + a))
    return ChildKeys(
        ei=Secret(stream[:e]),
        ai=Secret(stream[e : e + a]),
        er=Secret(stream[e + a : 2 * e + a]),
        ar=Secret(stream[2 * e + a :]),
    )


def auth_octets(real_message: bytes, peer_nonce: bytes, prf: Prf, sk_p: Secret, id_body: bytes) -> bytes:
    """What the sender of ``real_message`` (its IKE_SA_INIT) signs (RFC 7296 §2.15).

    ``peer_nonce`` is the other end's, ``sk_p`` and ``id_body`` (the ID payload's ``encode()``) the signer's.
    """
    return real_message + peer_nonce + prf(sk_p.reveal(), id_body)


def int_auth_content(clear: bytes, inner: bytes) -> bytes:
    """IntAuth_*A | IntAuth_*P of an IKE_INTERMEDIATE message (RFC 9242 §3.3.2).

    ``clear`` reaches from the IKE header to the end of the Encrypted payload's generic header. Neither of the
    two lengths in it counts the IV, the padding and the ICV; a fragment's payload becomes the whole one's.
    """
    total = len(clear) + len(inner)
    octets = bytearray(clear)
    names_it, place = NEXT_PAYLOAD_OFFSET, HEADER_LENGTH
    while octets[names_it] not in (PayloadType.SK, PayloadType.SKF):
        names_it = place
        place += int.from_bytes(octets[place + 2 : place + 4], "big")
    octets[names_it] = PayloadType.SK
    octets[HEADER_LENGTH - 4 : HEADER_LENGTH] = total.to_bytes(4, "big")
    octets[-2:] = (total - place).to_bytes(2, "big")
    return bytes(octets) + inner


def shared_key_auth(prf: Prf, secret: Secret, octets: bytes) -> bytes:
    """AUTH by a shared key, or by the MSK of EAP (RFC 7296 §2.15, §2.16)."""
    return prf(prf(secret.reveal(), KEY_PAD), octets)
