"""Where machines get randomness from: a port, and a seeded source so that runs replay."""

from __future__ import annotations

import hashlib
from typing import Protocol


class Entropy(Protocol):
    """A source of random octets."""

    def octets(self, length: int) -> bytes:
        """``length`` random octets."""


class SeededEntropy:
    """Deterministic octets from a seed (SHAKE-256 in counter mode): for tests and replays only."""

    def __init__(self, seed: str | int) -> None:
        self._seed = str(seed).encode()
        self._counter = 0

    def octets(self, length: int) -> bytes:
        """``length`` octets that depend on the seed and on how many calls came before."""
        self._counter += 1
        return hashlib.shake_256(self._seed + self._counter.to_bytes(8, "big")).digest(length)
