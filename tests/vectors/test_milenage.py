"""Milenage (TS 35.206) against TS 35.208, AUTN and AUTS (TS 33.102 §6.3), K and OPc of wrong lengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocols.algorithms.milenage import Milenage, derive_opc
from protocols.algorithms.vector import AkaVector, build_auts, generate_vector, verify_auts
from protocols.errors import AuthenticationError, DecodeError
from protocols.secret import Secret
from tests.harness.material import shared

SETS = json.loads((Path(__file__).parent / "data/milenage_ts35208.json").read_text())["test_sets"]


def octets(case: dict[str, Any], name: str) -> bytes:
    """A vector's hexadecimal value."""
    return bytes.fromhex(case[name])


@pytest.mark.parametrize("case", SETS, ids=lambda case: str(case["section"]))
@pytest.mark.parametrize("operator", ["OP", "OPc"])
def test_functions(case: dict[str, Any], operator: str) -> None:
    milenage = Milenage(octets(case, "K"), **{operator.lower(): Secret(octets(case, operator))})
    rand, sqn, amf = octets(case, "RAND"), octets(case, "SQN"), octets(case, "AMF")
    assert milenage.f1(rand, sqn, amf) == octets(case, "f1")
    assert milenage.f1_star(rand, sqn, amf) == octets(case, "f1star")
    assert milenage.f2(rand) == octets(case, "f2")
    assert milenage.f3(rand) == octets(case, "f3")
    assert milenage.f4(rand) == octets(case, "f4")
    assert milenage.f5(rand) == octets(case, "f5")
    assert milenage.f5_star(rand) == octets(case, "f5star")
    output = milenage.f2345(rand)
    assert (output.res, output.ck, output.ik, output.ak) == tuple(
        octets(case, name) for name in ("f2", "f3", "f4", "f5")
    )


@pytest.mark.parametrize("case", SETS, ids=lambda case: str(case["section"]))
def test_opc(case: dict[str, Any]) -> None:
    assert derive_opc(octets(case, "K"), octets(case, "OP")).reveal() == octets(case, "OPc")


def test_autn_and_auts_as_derived_from_ts35208() -> None:
    for case in json.loads(shared("vectors/spec/milenage_ts35208.json").read_text())["test_sets"]:
        milenage = Milenage(octets(case, "K"), opc=octets(case, "OPc"))
        rand, sqn = octets(case, "RAND"), int(case["SQN"], 16)
        vector = generate_vector(milenage, rand=rand, sqn=sqn, amf=octets(case, "AMF"))
        assert vector.autn == octets(case["derived"], "AUTN")
        assert (vector.xres, vector.ck, vector.ik) == tuple(octets(case, n) for n in ("f2", "f3", "f4"))
        auts = octets(case["derived"], "AUTS_for_SQN_as_SQNms_AMF0000")
        assert build_auts(milenage, rand=rand, sqn_ms=sqn) == auts
        assert verify_auts(milenage, rand=rand, auts=auts) == sqn


def test_auts_of_other_implementations() -> None:
    for case in json.loads(shared("vectors/spec/milenage_ts35208.json").read_text())["auts"]:
        milenage = Milenage(octets(case, "K"), opc=octets(case, "OPc"))
        sqn_ms = verify_auts(milenage, rand=octets(case, "RAND"), auts=octets(case, "AUTS"))
        assert sqn_ms == int(case["SQN_MS"], 16)


def test_auts_that_is_not_of_this_usim() -> None:
    milenage = Milenage(octets(SETS[2], "K"), opc=octets(SETS[2], "OPc"))
    auts = build_auts(milenage, rand=bytes(16), sqn_ms=77)
    for at in range(len(auts)):
        altered = auts[:at] + bytes([auts[at] ^ 1]) + auts[at + 1 :]
        with pytest.raises(AuthenticationError, match="MAC-S"):
            verify_auts(milenage, rand=bytes(16), auts=altered)
    with pytest.raises(DecodeError, match="13 octets"):
        verify_auts(milenage, rand=bytes(16), auts=auts[:-1])


def test_keys_of_wrong_length_are_named() -> None:
    with pytest.raises(ValueError, match="OPc has 15"):
        Milenage(bytes(16), opc=bytes(15))
    with pytest.raises(ValueError, match="K has 17"):
        Milenage(bytes(17), opc=bytes(16))
    with pytest.raises(ValueError, match="either OP or OPc"):
        Milenage(bytes(16))
    with pytest.raises(ValueError, match="either OP or OPc"):
        Milenage(bytes(16), op=bytes(16), opc=bytes(16))


def test_keys_stay_out_of_texts() -> None:
    case = SETS[3]
    milenage = Milenage(octets(case, "K"), opc=octets(case, "OPc"))
    vector = generate_vector(milenage, rand=octets(case, "RAND"), sqn=1)
    shown = repr(milenage) + repr(vector)
    for secret in (vector.ck, vector.ik, vector.xres, octets(case, "K"), octets(case, "OPc")):
        assert repr(secret) not in shown
        assert secret.hex() not in shown


def test_vectors_of_wrong_shape_are_refused() -> None:
    right = {"rand": bytes(16), "autn": bytes(16), "xres": bytes(8), "ck": bytes(16), "ik": bytes(16)}
    AkaVector(**right)
    for name in right:
        with pytest.raises(ValueError, match=f"{name.upper()} has 3 octets"):
            AkaVector(**{**right, name: bytes(3)})
