"""Keys of EAP-AKA (RFC 4187 §7) and EAP-AKA' (RFC 9048 §3.3), of full and fast re-authentication.

CK' and IK' are those of TS 33.402 Annex A.2.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace

from protocols.algorithms import fips186
from protocols.algorithms.vector import SQN_LENGTH, AkaVector
from protocols.eap.packet import EapType
from protocols.secret import Secret

K_ENCR_LENGTH = 16
K_AUT_LENGTH = 16
K_AUT_PRIME_LENGTH = 32
K_RE_LENGTH = 32
MSK_LENGTH = 64
EMSK_LENGTH = 64
COUNTER_LENGTH = 2
_FC_CK_IK_PRIME = 0x20  # TS 33.402 Annex A.2
_FULL_LABEL = b"EAP-AKA'"
_REAUTHENTICATION_LABEL = b"EAP-AKA' re-auth"


@dataclass(frozen=True, slots=True, kw_only=True)
class AkaKeys:
    """Keys of a full authentication.

    ``k_re`` is what the keys of fast re-authentication are made of: MK in EAP-AKA (20 octets, RFC 4187
    §7), K_re in EAP-AKA' (32 octets, RFC 9048 §3.3).
    """

    method: EapType
    k_encr: Secret
    k_aut: Secret
    k_re: Secret
    msk: Secret
    emsk: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionKeys:
    """What an exchange exports: MSK and EMSK."""

    msk: Secret
    emsk: Secret


def derive_keys(
    identity: bytes,
    *,
    ik: bytes,
    ck: bytes,
    method: EapType = EapType.AKA,
    compress: fips186.Compression | None = None,
) -> AkaKeys:
    """Keys of full authentication; for EAP-AKA' ``ik`` and ``ck`` are IK' and CK'.

    ``identity`` is the last one the peer sent, octet for octet (RFC 4187 §7, RFC 9048 §5.3.1).
    """
    if method is EapType.AKA_PRIME:
        return _derive_prime(identity, ik=ik, ck=ck)
    mk = hashlib.sha1(identity + ik + ck, usedforsecurity=False).digest()
    stream = fips186.generate(mk, K_ENCR_LENGTH + K_AUT_LENGTH + MSK_LENGTH + EMSK_LENGTH, compress)
    k_encr, k_aut, msk, emsk = _parts(stream, K_ENCR_LENGTH, K_AUT_LENGTH, MSK_LENGTH, EMSK_LENGTH)
    return AkaKeys(method=EapType.AKA, k_encr=k_encr, k_aut=k_aut, k_re=Secret(mk), msk=msk, emsk=emsk)


def derive_reauthentication_keys(
    k_re: Secret,
    *,
    method: EapType,
    identity: bytes,
    counter: int,
    nonce_s: bytes,
    compress: fips186.Compression | None = None,
) -> SessionKeys:
    """MSK and EMSK of fast re-authentication (RFC 4187 §7: XKEY'; RFC 9048 §3.3).

    ``identity`` is the fast re-authentication identity as the peer sent it.
    """
    seed = identity + counter.to_bytes(COUNTER_LENGTH, "big") + nonce_s
    length = MSK_LENGTH + EMSK_LENGTH
    if method is EapType.AKA_PRIME:
        stream = prf_prime(k_re.reveal(), _REAUTHENTICATION_LABEL + seed, length)
    else:
        xkey = hashlib.sha1(seed + k_re.reveal(), usedforsecurity=False).digest()
        stream = fips186.generate(xkey, length, compress)
    msk, emsk = _parts(stream, MSK_LENGTH, EMSK_LENGTH)
    return SessionKeys(msk=msk, emsk=emsk)


def derive_ck_ik_prime(ck: bytes, ik: bytes, *, network_name: bytes, sqn_xor_ak: bytes) -> tuple[bytes, bytes]:
    """(CK', IK') for an access network (TS 33.402 Annex A.2); ``sqn_xor_ak`` is AUTN's first 6 octets."""
    string = bytes([_FC_CK_IK_PRIME])
    for parameter in (network_name, sqn_xor_ak):
        string += parameter + len(parameter).to_bytes(2, "big")
    derived = hmac.digest(ck + ik, string, hashlib.sha256)
    return derived[:16], derived[16:]


def prime_vector(vector: AkaVector, network_name: bytes) -> AkaVector:
    """The vector with CK' and IK' in place of CK and IK (TS 33.402 §6.2, Annex A.2)."""
    ck, ik = derive_ck_ik_prime(vector.ck, vector.ik, network_name=network_name, sqn_xor_ak=vector.autn[:SQN_LENGTH])
    return replace(vector, ck=ck, ik=ik)


def prf_prime(key: bytes, seed: bytes, length: int) -> bytes:
    """PRF' (RFC 9048 §3.4.1): HMAC-SHA-256 chained, ``length`` octets of it."""
    stream = block = b""
    counter = 1
    while len(stream) < length:
        block = hmac.digest(key, block + seed + bytes([counter]), hashlib.sha256)
        stream += block
        counter += 1
    return stream[:length]


def _derive_prime(identity: bytes, *, ik: bytes, ck: bytes) -> AkaKeys:
    """MK = PRF'(IK' | CK', "EAP-AKA'" | Identity) (RFC 9048 §3.3)."""
    lengths = (K_ENCR_LENGTH, K_AUT_PRIME_LENGTH, K_RE_LENGTH, MSK_LENGTH, EMSK_LENGTH)
    mk = prf_prime(ik + ck, _FULL_LABEL + identity, sum(lengths))
    k_encr, k_aut, k_re, msk, emsk = _parts(mk, *lengths)
    return AkaKeys(method=EapType.AKA_PRIME, k_encr=k_encr, k_aut=k_aut, k_re=k_re, msk=msk, emsk=emsk)


def _parts(stream: bytes, *lengths: int) -> list[Secret]:
    """A key stream cut into keys."""
    parts: list[Secret] = []
    at = 0
    for length in lengths:
        parts.append(Secret(stream[at : at + length]))
        at += length
    return parts
