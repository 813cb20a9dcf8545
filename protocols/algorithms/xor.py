"""The test algorithm of test USIMs (TS 34.108 §8.1.2): exclusive or of K and RAND. It protects nothing."""

from __future__ import annotations

from protocols.algorithms.vector import AK_LENGTH, AkaOutput, xor
from protocols.secret import Secret

KEY_LENGTH = 16
RES_LENGTHS = range(4, 17)
_MAC_LENGTH = 8


class XorTestAlgorithm:
    """The algorithm set keyed with K; RES is the first ``res_length`` octets of XDOUT."""

    __slots__ = ("_k", "_res_length")

    def __init__(self, k: Secret | bytes, *, res_length: int = KEY_LENGTH) -> None:
        """``ValueError`` names a length that is wrong."""
        self._k = k.reveal() if isinstance(k, Secret) else k
        if len(self._k) != KEY_LENGTH:
            raise ValueError(f"K has {len(self._k)} octets, not {KEY_LENGTH}")
        if res_length not in RES_LENGTHS:
            raise ValueError(f"RES has 4 to 16 octets, not {res_length}")
        self._res_length = res_length

    def __repr__(self) -> str:
        return "XorTestAlgorithm(keyed)"

    def f1(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-A: the first half of XDOUT, added to CDOUT = SQN || AMF (TS 34.108 §8.1.2.1)."""
        return xor(self._xdout(rand)[:_MAC_LENGTH], sqn + amf)

    def f1_star(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-S: as MAC-A (TS 34.108 §8.1.2.2)."""
        return self.f1(rand, sqn, amf)

    def f2345(self, rand: bytes) -> AkaOutput:
        """RES, CK, IK and AK: XDOUT from its octets 0, 1, 2 and 3 on (TS 34.108 §8.1.2.1)."""
        out = self._xdout(rand)
        return AkaOutput(
            res=out[: self._res_length], ck=out[1:] + out[:1], ik=out[2:] + out[:2], ak=out[3 : 3 + AK_LENGTH]
        )

    def f5_star(self, rand: bytes) -> bytes:
        """AK for resynchronisation: as AK (TS 34.108 §8.1.2.2)."""
        return self._xdout(rand)[3 : 3 + AK_LENGTH]

    def _xdout(self, rand: bytes) -> bytes:
        return xor(self._k, rand)
