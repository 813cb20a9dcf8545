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
        if not _RES_MINIMUM_LENGTH <= self.res_length <= _RES_MAXIMUM_LENGTH:
            raise ValueError(f"RES has 4 to 16 octets, not {self.res_length}")
        if self.algorithm is Algorithm.XOR:
            if self.op is not None or self.opc is not None:
                raise ValueError("the XOR test algorithm has neither OP nor OPc")
        elif (self.op is None) == (self.opc is None):
            top = "T" if self.algorithm is Algorithm.TUAK else ""
            raise ValueError(f"{self.algorithm.value} takes either {top}OP or {top}OPc")
        if self.algorithm is not Algorithm.TUAK and self.tuak_iterations != 1:
            raise ValueError(f"{self.algorithm.value} has no iterations")
        self.functions()

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
