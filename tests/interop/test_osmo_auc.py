"""Milenage, the test algorithm, AUTN and AUTS against osmo-auc-gen, an independent authentication centre."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from protocols.algorithms.milenage import Milenage
from protocols.algorithms.sqn import SqnWindow, compose
from protocols.algorithms.usim import UsimSuccess, UsimSynchronisationFailure, authenticate
from protocols.algorithms.vector import generate_vector, xor
from protocols.algorithms.xor import XorTestAlgorithm
from protocols.entropy import SeededEntropy

pytestmark = pytest.mark.peer
PROGRAM = shutil.which("osmo-auc-gen")


def osmo(*arguments: str, algorithm: str = "milenage") -> dict[str, str]:
    """Run the program; its ``NAME: hexadecimal`` lines."""
    if PROGRAM is None:
        pytest.skip("osmo-auc-gen is not installed")
    completed = subprocess.run(
        [PROGRAM, "-3", "-a", algorithm, *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return dict(re.findall(r"^([A-Z.]+):\s+([0-9a-f]+)\s*$", completed.stdout, re.MULTILINE))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("operator", ["op", "opc"])
def test_vectors_agree(seed: int, operator: str) -> None:
    entropy = SeededEntropy(f"{operator}{seed}")
    k, op, rand = entropy.octets(16), entropy.octets(16), entropy.octets(16)
    sqn = int.from_bytes(entropy.octets(5), "big")
    milenage = Milenage(k, op=op) if operator == "op" else Milenage(k, opc=op)
    flag = "--op" if operator == "op" else "--opc"
    theirs = osmo("-k", k.hex(), flag, op.hex(), "-r", rand.hex(), "-f", "8000", "-s", str(sqn))
    ours = generate_vector(milenage, rand=rand, sqn=sqn)
    assert theirs["AUTN"] == ours.autn.hex()
    assert theirs["RES"] == ours.xres.hex()
    assert theirs["CK"] == ours.ck.hex()
    assert theirs["IK"] == ours.ik.hex()


@pytest.mark.parametrize("seed", range(3))
def test_vectors_of_the_test_algorithm_agree(seed: int) -> None:
    entropy = SeededEntropy(f"xor{seed}")
    k, rand = entropy.octets(16), entropy.octets(16)
    test_usim = XorTestAlgorithm(k)
    keys = ("-k", k.hex(), "-f", "8000")
    # libosmogsm takes the SQN before the one asked for, and with this algorithm does not step on from it
    theirs = osmo(*keys, "-r", rand.hex(), "-s", str(compose(8, 7)), algorithm="xor")
    ours = generate_vector(test_usim, rand=rand, sqn=compose(7, 7))
    assert [theirs[name] for name in ("AUTN", "RES", "CK", "IK")] == [
        value.hex() for value in (ours.autn, ours.xres, ours.ck, ours.ik)
    ]
    card = SqnWindow((4000,) * 32)
    refused, card = authenticate(test_usim, card, rand=rand, autn=bytes.fromhex(theirs["AUTN"]))
    assert isinstance(refused, UsimSynchronisationFailure)
    resynchronised = osmo(*keys, "-r", rand.hex(), "-A", refused.auts.hex(), algorithm="xor")
    ak = test_usim.f2345(bytes.fromhex(resynchronised["RAND"])).ak
    assert int.from_bytes(xor(bytes.fromhex(resynchronised["AUTN"])[:6], ak), "big") == card.sqn_ms


def test_their_autn_is_taken_and_our_auts_resynchronises_them() -> None:
    entropy = SeededEntropy("auts")
    k, opc, rand = entropy.octets(16), entropy.octets(16), entropy.octets(16)
    milenage = Milenage(k, opc=opc)
    keys = ("-k", k.hex(), "--opc", opc.hex(), "-f", "8000")
    card = SqnWindow((4000,) * 32)

    stale = osmo(*keys, "-r", rand.hex(), "-s", str(compose(7, 7)))
    refused, card = authenticate(milenage, card, rand=rand, autn=bytes.fromhex(stale["AUTN"]))
    assert isinstance(refused, UsimSynchronisationFailure)

    resynchronised = osmo(*keys, "-r", rand.hex(), "-A", refused.auts.hex(), "-i", "3")
    fresh_rand = bytes.fromhex(resynchronised["RAND"])
    accepted, _ = authenticate(milenage, card, rand=fresh_rand, autn=bytes.fromhex(resynchronised["AUTN"]))
    assert isinstance(accepted, UsimSuccess)
    assert accepted.res.hex() == resynchronised["RES"]


def test_auts_of_another_card_is_not_believed() -> None:
    if PROGRAM is None:
        pytest.skip("osmo-auc-gen is not installed")
    completed = subprocess.run(
        [PROGRAM, "-3", "-a", "milenage", "-k", "00" * 16, "--opc", "11" * 16, "-r", "22" * 16, "-A", "33" * 14],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    assert "AUTN" not in completed.stdout
