"""AKA values of the home network (TS 33.102 §6.3): the quintet, AUTN and AUTS, built and checked.

``AkaAlgorithm`` is what an algorithm set offers: Milenage (TS 35.206), TUAK (TS 35.231), the test algorithm
(TS 34.108 §8.1.2); ``protocols.algorithms.suite`` makes one by its name. Sequence
numbers are integers of 48 bits here, octets on the wire.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Protocol

from protocols.errors import AuthenticationError, DecodeError

RAND_LENGTH = 16
AUTN_LENGTH = 16
AUTS_LENGTH = 14
SQN_LENGTH = 6
AK_LENGTH = 6
AMF_LENGTH = 2
AMF_SEPARATION = b"\x80\x00"  # TS 33.102 Annex H: bit 0 separates EPS contexts
AMF_RESYNCHRONISATION = b"\x00\x00"  # TS 33.102 §6.3.3: MAC-S is computed with a dummy AMF of zeros


@dataclass(frozen=True, slots=True, kw_only=True)
class AkaVector:
    """An authentication vector (quintet, TS 33.102 §6.3.2): RAND, AUTN, XRES, CK, IK."""

    rand: bytes
    autn: bytes
    xres: bytes = field(repr=False)
    ck: bytes = field(repr=False)
    ik: bytes = field(repr=False)

    def __post_init__(self) -> None:
        for name, value in (("RAND", self.rand), ("AUTN", self.autn), ("CK", self.ck), ("IK", self.ik)):
            if len(value) != 16:
                raise ValueError(f"{name} has {len(value)} octets, not 16")
        if not 4 <= len(self.xres) <= 16:
            raise ValueError(f"XRES has {len(self.xres)} octets, not 4 to 16")


@dataclass(frozen=True, slots=True, kw_only=True)
class AkaOutput:
    """What one RAND gives without a sequence number: f2 (RES), f3 (CK), f4 (IK), f5 (AK)."""

    res: bytes = field(repr=False)
    ck: bytes = field(repr=False)
    ik: bytes = field(repr=False)
    ak: bytes = field(repr=False)


class AkaAlgorithm(Protocol):
    """The authentication and key generation functions (TS 33.102 §6.3), keyed for one subscriber."""

    def f1(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-A, 8 octets."""

    def f1_star(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-S, 8 octets."""

    def f2345(self, rand: bytes) -> AkaOutput:
        """RES, CK, IK and AK at once."""

    def f5_star(self, rand: bytes) -> bytes:
        """AK for resynchronisation, 6 octets."""


def xor(left: bytes, right: bytes) -> bytes:
    """Octets of equal length, added modulo 2."""
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def generate_vector(algorithm: AkaAlgorithm, *, rand: bytes, sqn: int, amf: bytes = AMF_SEPARATION) -> AkaVector:
    """The quintet for ``rand`` and ``sqn``: AUTN = SQN xor AK || AMF || MAC-A (TS 33.102 §6.3.2)."""
    sequence = sqn.to_bytes(SQN_LENGTH, "big")
    output = algorithm.f2345(rand)
    autn = xor(sequence, output.ak) + amf + algorithm.f1(rand, sequence, amf)
    return AkaVector(rand=rand, autn=autn, xres=output.res, ck=output.ck, ik=output.ik)


def build_auts(algorithm: AkaAlgorithm, *, rand: bytes, sqn_ms: int) -> bytes:
    """AUTS = SQN_MS xor AK* || MAC-S, 14 octets, as a USIM answers (TS 33.102 §6.3.3)."""
    sequence = sqn_ms.to_bytes(SQN_LENGTH, "big")
    return xor(sequence, algorithm.f5_star(rand)) + algorithm.f1_star(rand, sequence, AMF_RESYNCHRONISATION)


def verify_auts(algorithm: AkaAlgorithm, *, rand: bytes, auts: bytes) -> int:
    """SQN_MS out of AUTS (TS 33.102 §6.3.5); ``AuthenticationError`` when MAC-S does not verify."""
    if len(auts) != AUTS_LENGTH:
        raise DecodeError(f"AUTS has {len(auts)} octets, not {AUTS_LENGTH}")
    sequence = xor(auts[:SQN_LENGTH], algorithm.f5_star(rand))
    expected = algorithm.f1_star(rand, sequence, AMF_RESYNCHRONISATION)
    if not hmac.compare_digest(expected, auts[SQN_LENGTH:]):
        raise AuthenticationError("MAC-S in AUTS does not verify: K or OPc of USIM and network differ")
    return int.from_bytes(sequence, "big")
