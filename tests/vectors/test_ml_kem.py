"""ML-KEM (FIPS 203) against NIST's key generation vectors and against accumulated runs of other implementations.

Neither library lets the other's encapsulation be steered: ML-KEM-768 and -1024 encapsulate with their own
randomness, so their encapsulation is judged by decapsulation, and their decapsulation by ciphertexts that
pycryptodome made from the vectors' messages.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from Crypto.PublicKey import MLKEM

from protocols.entropy import SeededEntropy
from protocols.ikev2.registry import KeGroup
from protocols.ikev2.suites import KeyExchange
from tests.vectors.test_ikev2_rfc import Octets

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "ml_kem.json").read_text())
PARAMETERS = {
    KeGroup.ML_KEM_512: MLKEM.ML_KEM_512,
    KeGroup.ML_KEM_768: MLKEM.ML_KEM_768,
    KeGroup.ML_KEM_1024: MLKEM.ML_KEM_1024,
}
octets = bytes.fromhex


@pytest.mark.parametrize("row", VECTORS["key_generation"], ids=lambda row: row["parameters"])
def test_key_generation(row: dict[str, Any]) -> None:
    """NIST: ek from the seed d | z (FIPS 203 §7.1)."""
    exchange = KeyExchange.generate(KeGroup(row["group"]), Octets(octets(row["d"] + row["z"])))
    assert hashlib.sha3_256(exchange.public).digest() == octets(row["ek_hash"])


@pytest.mark.parametrize("row", VECTORS["accumulated"], ids=lambda row: KeGroup(row["group"]).name)
def test_accumulated(row: dict[str, Any]) -> None:
    """A hundred key pairs, encapsulations by given messages, decapsulations of right and of random ciphertexts."""
    group, length = KeGroup(row["group"]), row["ciphertext_length"]
    stream = hashlib.shake_128().digest(100 * (64 + 32 + length))
    outputs = hashlib.shake_128()
    for start in range(0, len(stream), 96 + length):
        seed, message = stream[start : start + 64], stream[start + 64 : start + 96]
        exchange = KeyExchange.generate(group, Octets(seed))
        if group == KeGroup.ML_KEM_512:
            ciphertext, shared = KeyExchange.respond(group, exchange.public, Octets(message))
        else:
            peer = MLKEM.construct(param_set=PARAMETERS[group], ek=exchange.public)
            shared, ciphertext = peer._encaps(message)
        assert exchange.shared(ciphertext) == shared
        # A ciphertext that nobody made gives the secret of implicit rejection (FIPS 203 §6.3).
        outputs.update(exchange.public + ciphertext + shared)
        outputs.update(exchange.shared(stream[start + 96 : start + 96 + length]))
    assert outputs.digest(32) == octets(row["digest"])


@pytest.mark.parametrize("group", list(PARAMETERS))
def test_encapsulation_is_understood_by_the_other_library(group: KeGroup) -> None:
    theirs = MLKEM.construct(param_set=PARAMETERS[group], seed=bytes(range(64)))
    ciphertext, shared = KeyExchange.respond(group, theirs.ek, SeededEntropy(1))
    assert theirs._decaps(ciphertext) == shared
