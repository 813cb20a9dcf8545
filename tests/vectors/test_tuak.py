"""TUAK (TS 35.231) against TS 35.233, Keccak-f[1600] against TS 35.232, and what its parameters refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocols.algorithms.keccak import keccak_f1600
from protocols.algorithms.tuak import Tuak, derive_topc
from protocols.algorithms.vector import build_auts, generate_vector, verify_auts
from protocols.errors import AuthenticationError

DATA = json.loads((Path(__file__).parent / "data/tuak_ts35233.json").read_text())


def octets(case: dict[str, Any], name: str) -> bytes:
    """A vector's hexadecimal value."""
    return bytes.fromhex(case[name])


def tuak(case: dict[str, Any], **operator: bytes) -> Tuak:
    bits = case["bits"]
    return Tuak(
        octets(case, "K"),
        **operator,
        iterations=case["keccak_iterations"],
        res_length=bits["RES"] // 8,
        mac_length=bits["MAC"] // 8,
        ck_length=bits["CK"] // 8,
        ik_length=bits["IK"] // 8,
    )


@pytest.mark.parametrize("case", DATA["test_sets"], ids=lambda case: case["section"].split()[-1])
@pytest.mark.parametrize("operator", ["TOP", "TOPc"])
def test_functions(case: dict[str, Any], operator: str) -> None:
    keyed = tuak(case, **{operator.lower(): octets(case, operator)})
    rand, sqn, amf = octets(case, "RAND"), octets(case, "SQN"), octets(case, "AMF")
    assert keyed.topc.reveal() == octets(case, "TOPc")
    assert keyed.f1(rand, sqn, amf) == octets(case, "f1")
    assert keyed.f1_star(rand, sqn, amf) == octets(case, "f1star")
    output = keyed.f2345(rand)
    assert (output.res, output.ck, output.ik, output.ak) == tuple(
        octets(case, name) for name in ("f2", "f3", "f4", "f5")
    )
    assert keyed.f5_star(rand) == octets(case, "f5star")


@pytest.mark.parametrize("case", DATA["test_sets"], ids=lambda case: case["section"].split()[-1])
def test_topc(case: dict[str, Any]) -> None:
    derived = derive_topc(octets(case, "K"), octets(case, "TOP"), iterations=case["keccak_iterations"])
    assert derived.reveal() == octets(case, "TOPc")


@pytest.mark.parametrize("case", DATA["keccak_f1600"], ids=lambda case: str(case["set"]))
def test_the_permutation(case: dict[str, Any]) -> None:
    assert keccak_f1600(octets(case, "input")) == octets(case, "output")


def test_a_state_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="199 octets"):
        keccak_f1600(bytes(199))


@pytest.mark.parametrize("key_length", [16, 32])
@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize("res_length", [4, 8, 16])
def test_vectors_and_auts(key_length: int, iterations: int, res_length: int) -> None:
    keyed = Tuak(bytes(range(key_length)), topc=bytes(32), iterations=iterations, res_length=res_length)
    vector = generate_vector(keyed, rand=bytes(16), sqn=77)
    assert len(vector.xres) == res_length
    auts = build_auts(keyed, rand=bytes(16), sqn_ms=0x123456789A)
    assert verify_auts(keyed, rand=bytes(16), auts=auts) == 0x123456789A
    with pytest.raises(AuthenticationError, match="MAC-S"):
        verify_auts(keyed, rand=bytes(16), auts=auts[:-1] + bytes((auts[-1] ^ 1,)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": bytes(24)}, "K has 24 octets, not 16 or 32"),
        ({"topc": bytes(16)}, "TOPc has 16 octets, not 32"),
        ({"topc": None, "top": bytes(31)}, "TOP has 31 octets, not 32"),
        ({"topc": None}, "either TOP or TOPc"),
        ({"top": bytes(32)}, "either TOP or TOPc"),
        ({"iterations": 0}, "at least once"),
        ({"res_length": 12}, "RES of TUAK has 4, 8, 16 or 32 octets, not 12"),
        ({"mac_length": 4}, "MAC of TUAK has 8, 16 or 32 octets, not 4"),
        ({"ck_length": 8}, "CK of TUAK has 16 or 32 octets, not 8"),
        ({"ik_length": 8}, "IK of TUAK has 16 or 32 octets, not 8"),
    ],
)
def test_wrong_parameters_are_named(changes: dict[str, Any], words: str) -> None:
    parameters = {"k": bytes(16), "topc": bytes(32), **changes}
    with pytest.raises(ValueError, match=words):
        Tuak(parameters.pop("k"), **parameters)


def test_keys_stay_out_of_texts() -> None:
    assert repr(Tuak(b"K" * 16, topc=b"T" * 32)) == "Tuak(keyed)"
