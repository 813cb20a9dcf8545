"""What a USIM does with RAND and AUTN (TS 33.102 §6.3.3, TS 31.102 §7.1.2), as a pure function."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from protocols.algorithms.sqn import SqnWindow
from protocols.algorithms.vector import (
    AMF_LENGTH,
    AUTN_LENGTH,
    RAND_LENGTH,
    SQN_LENGTH,
    AkaAlgorithm,
    build_auts,
    xor,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsimSuccess:
    """AUTN is right and fresh: RES, CK, IK."""

    res: bytes = field(repr=False)
    ck: bytes = field(repr=False)
    ik: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class UsimSynchronisationFailure:
    """AUTN is right but its SQN is not fresh: AUTS, 14 octets."""

    auts: bytes


@dataclass(frozen=True, slots=True)
class UsimReject:
    """AUTN is not from our home network; ``why`` in plain words."""

    why: str


UsimResult = UsimSuccess | UsimSynchronisationFailure | UsimReject


def authenticate(
    algorithm: AkaAlgorithm, window: SqnWindow, *, rand: bytes, autn: bytes
) -> tuple[UsimResult, SqnWindow]:
    """The USIM's verdict and its array afterwards (TS 33.102 §6.3.3, §C.2.2)."""
    if len(rand) != RAND_LENGTH or len(autn) != AUTN_LENGTH:
        return UsimReject("RAND or AUTN does not have 16 octets"), window
    output = algorithm.f2345(rand)
    sequence = xor(autn[:SQN_LENGTH], output.ak)
    amf = autn[SQN_LENGTH : SQN_LENGTH + AMF_LENGTH]
    if not hmac.compare_digest(algorithm.f1(rand, sequence, amf), autn[SQN_LENGTH + AMF_LENGTH :]):
        return UsimReject("MAC-A in AUTN does not verify: K or OPc of USIM and network differ"), window
    accepted = window.accept(int.from_bytes(sequence, "big"))
    if accepted is None:
        return UsimSynchronisationFailure(build_auts(algorithm, rand=rand, sqn_ms=window.sqn_ms)), window
    return UsimSuccess(res=output.res, ck=output.ck, ik=output.ik), accepted
