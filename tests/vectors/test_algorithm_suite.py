"""Function sets by name: the test algorithm (TS 34.108 §8.1.2), lengths of RES, what does not fit together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocols.algorithms.suite import Algorithm, AlgorithmKeys
from protocols.algorithms.tuak import Tuak
from protocols.algorithms.vector import build_auts, generate_vector, verify_auts
from protocols.algorithms.xor import XorTestAlgorithm
from protocols.secret import Secret

K = bytes.fromhex("00112233445566778899aabbccddeeff")
RAND = bytes.fromhex("0102030405060708090a0b0c0d0e0f10")
MILENAGE = json.loads((Path(__file__).parent / "data/milenage_ts35208.json").read_text())["test_sets"][0]


def keys(**changes: Any) -> AlgorithmKeys:
    given: dict[str, Any] = {"k": Secret(K), "opc": Secret(bytes(16))}
    return AlgorithmKeys(**{**given, **changes})


def test_the_test_algorithm_step_by_step() -> None:
    """XDOUT = K xor RAND; RES, CK, IK, AK from it; XMAC with CDOUT = SQN || AMF (TS 34.108 §8.1.2.1)."""
    xdout = bytes.fromhex("011321374153617f8193a1b7c1d3e1ef")
    vector = generate_vector(XorTestAlgorithm(K), rand=RAND, sqn=32)
    assert vector.xres == xdout
    assert vector.ck == bytes.fromhex("1321374153617f8193a1b7c1d3e1ef01")
    assert vector.ik == bytes.fromhex("21374153617f8193a1b7c1d3e1ef0113")
    assert vector.autn.hex() == "374153617fa1" + "8000" + "011321374173e17f"


@pytest.mark.parametrize("length", range(4, 17))
def test_res_of_the_test_algorithm_is_cut(length: int) -> None:
    whole = XorTestAlgorithm(K).f2345(RAND).res
    assert XorTestAlgorithm(K, res_length=length).f2345(RAND).res == whole[:length]


@pytest.mark.parametrize("length", range(4, 9))
def test_res_of_milenage_is_cut(length: int) -> None:
    made = keys(
        k=Secret(bytes.fromhex(MILENAGE["K"])), opc=Secret(bytes.fromhex(MILENAGE["OPc"])), res_length=length
    ).functions()
    assert made.f2345(bytes.fromhex(MILENAGE["RAND"])).res == bytes.fromhex(MILENAGE["f2"])[:length]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"op": Secret(bytes(16)), "opc": None},
        {"algorithm": Algorithm.XOR, "opc": None, "res_length": 16},
        {"algorithm": Algorithm.TUAK, "opc": Secret(bytes(32)), "res_length": 16},
        {"algorithm": Algorithm.TUAK, "op": Secret(bytes(32)), "opc": None, "k": Secret(bytes(32))},
        {"algorithm": Algorithm.TUAK, "opc": Secret(bytes(32)), "tuak_iterations": 2, "res_length": 4},
    ],
)
def test_each_set_makes_vectors_and_reads_auts(changes: dict[str, Any]) -> None:
    chosen = keys(**changes)
    functions = chosen.functions()
    vector = generate_vector(functions, rand=RAND, sqn=99)
    assert len(vector.xres) == chosen.res_length
    auts = build_auts(functions, rand=RAND, sqn_ms=0x1234)
    assert verify_auts(functions, rand=RAND, auts=auts) == 0x1234


def test_tuak_has_its_iterations() -> None:
    chosen = keys(algorithm=Algorithm.TUAK, opc=Secret(bytes(32)), tuak_iterations=3)
    assert chosen.functions().f2345(RAND) == Tuak(K, topc=bytes(32), iterations=3).f2345(RAND)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"opc": None}, "milenage takes either OP or OPc"),
        ({"op": Secret(bytes(16))}, "milenage takes either OP or OPc"),
        ({"algorithm": Algorithm.TUAK, "opc": None}, "tuak takes either TOP or TOPc"),
        ({"algorithm": Algorithm.TUAK}, "TOPc of tuak has 32 octets, not 16"),
        ({"algorithm": Algorithm.XOR}, "neither OP nor OPc"),
        ({"algorithm": Algorithm.XOR, "opc": None, "k": Secret(bytes(32))}, "has 16 octets, not 32"),
        ({"k": Secret(bytes(32))}, "has 16 octets, not 32"),
        ({"opc": Secret(bytes(15))}, "OPc of milenage has 16 octets, not 15"),
        ({"res_length": 3}, "4 to 16 octets, not 3"),
        ({"res_length": 17}, "4 to 16 octets, not 17"),
        ({"res_length": 9}, "RES of milenage has not 9 octets"),
        ({"tuak_iterations": 2}, "milenage has not 2 iterations"),
        ({"algorithm": Algorithm.TUAK, "opc": Secret(bytes(32)), "res_length": 12}, "not 12"),
        ({"algorithm": Algorithm.TUAK, "opc": Secret(bytes(32)), "tuak_iterations": 0}, "not 0 iterations"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        keys(**changes)


def test_keys_stay_out_of_texts() -> None:
    chosen = keys(algorithm=Algorithm.XOR, opc=None)
    assert K.hex() not in repr(chosen) + repr(chosen.functions())
    assert repr(K) not in repr(chosen) + repr(chosen.functions())
