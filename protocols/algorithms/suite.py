"""The authentication function sets by name: Milenage, TUAK, the test algorithm; one keyed set for one subscriber."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from protocols.algorithms import milenage, tuak, xor
from protocols.algorithms.vector import AkaAlgorithm
from protocols.secret import Secret

DEFAULT_RES_LENGTH = 8
_RES_MINIMUM_LENGTH, _RES_MAXIMUM_LENGTH = 4, 16  # TS 33.102 §6.3.7, and RFC 4187 §10.8


class Algorithm(str, Enum):
    """The authentication function set a USIM was made with."""

    MILENAGE = "milenage"
    TUAK = "tuak"
    XOR = "xor"


KEY_LENGTHS = {Algorithm.MILENAGE: (16,), Algorithm.TUAK: tuak.KEY_LENGTHS, Algorithm.XOR: (16,)}
OPERATOR_LENGTH = {Algorithm.MILENAGE: 16, Algorithm.TUAK: 32, Algorithm.XOR: 0}
_RES_LENGTHS = {
    Algorithm.MILENAGE: milenage.RES_LENGTHS,
    Algorithm.TUAK: tuak.RES_LENGTHS,
    Algorithm.XOR: xor.RES_LENGTHS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmKeys:
    """What makes a USIM's functions: for TUAK ``op`` and ``opc`` are TOP and TOPc, XOR takes neither.

    ``res_length`` in octets: 4 to 8 for Milenage, whose f2 gives 8 of which the first are taken; 4, 8 or 16 for
    TUAK; 4 to 16 for XOR. ``ValueError`` says in plain words what does not fit, and shows no key.
    """

    algorithm: Algorithm = Algorithm.MILENAGE
    k: Secret
    op: Secret | None = None
    opc: Secret | None = None
    tuak_iterations: int = 1
    res_length: int = DEFAULT_RES_LENGTH

    def __post_init__(self) -> None:
        name = self.algorithm.value
        if not _RES_MINIMUM_LENGTH <= self.res_length <= _RES_MAXIMUM_LENGTH:
            raise ValueError(f"RES has 4 to 16 octets, not {self.res_length}")
        if self.res_length not in _RES_LENGTHS[self.algorithm]:
            raise ValueError(f"RES of {name} has not {self.res_length} octets")
        if len(self.k.reveal()) not in KEY_LENGTHS[self.algorithm]:
            lengths = " or ".join(map(str, KEY_LENGTHS[self.algorithm]))
            raise ValueError(f"K of {name} has {lengths} octets, not {len(self.k.reveal())}")
        operator_length = OPERATOR_LENGTH[self.algorithm]
        if not operator_length:
            if self.op is not None or self.opc is not None:
                raise ValueError(f"{name} has neither OP nor OPc")
        elif (self.op is None) == (self.opc is None):
            raise ValueError(f"{name} takes either {self._operator('OP')} or {self._operator('OPc')}")
        for label, key in (("OP", self.op), ("OPc", self.opc)):
            if key is not None and len(key.reveal()) != operator_length:
                raise ValueError(
                    f"{self._operator(label)} of {name} has {operator_length} octets, not {len(key.reveal())}"
                )
        if self.tuak_iterations < 1 or (self.tuak_iterations != 1 and self.algorithm is not Algorithm.TUAK):
            raise ValueError(f"{name} has not {self.tuak_iterations} iterations")

    def _operator(self, name: str) -> str:
        return f"T{name}" if self.algorithm is Algorithm.TUAK else name

    def functions(self) -> AkaAlgorithm:
        """The functions, keyed."""
        match self.algorithm:
            case Algorithm.MILENAGE:
                return milenage.Milenage(self.k, op=self.op, opc=self.opc, res_length=self.res_length)
            case Algorithm.TUAK:
                return tuak.Tuak(
                    self.k,
                    top=self.op,
                    topc=self.opc,
                    iterations=self.tuak_iterations,
                    res_length=self.res_length,
                )
            case Algorithm.XOR:
                return xor.XorTestAlgorithm(self.k, res_length=self.res_length)
