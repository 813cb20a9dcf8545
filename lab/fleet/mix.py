"""Which persona each UE of a fleet is: ``pixel-aosp=60,iphone=40``, the same for the same seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from protocols.errors import ConfigurationError

DEFAULT_PERSONA = "default"
WEIGHT_MAXIMUM = 1000


@dataclass(frozen=True)
class PersonaMix:
    """Personas and their weights.

    UEs are dealt personas in blocks, each block shuffled by the seed and with the shares of the whole: the shares are
    exact in every block and do not depend on how many processes share the fleet.
    """

    weights: tuple[tuple[str, int], ...] = ((DEFAULT_PERSONA, 1),)

    @classmethod
    def parse(cls, text: str, known: Callable[[str], bool] = lambda name: True, names: str = "") -> PersonaMix:
        """``NAME[=WEIGHT],…``; ``ConfigurationError`` when that does not parse or a name is not ``known``."""
        weights: dict[str, int] = {}
        for part in text.split(","):
            name, divider, weight = (piece.strip() for piece in part.partition("="))
            good = bool(name) and name not in weights
            if not good or (divider and not _weight(weight)):
                expected = f"NAME=WEIGHT,… with every name once and weights from 1 to {WEIGHT_MAXIMUM}"
                raise _refused(part.strip() or text, expected)
            if not known(name):
                raise _refused(name, names or "a persona that there is")
            weights[name] = int(weight) if divider else 1
        return cls(tuple(weights.items()))

    def of(self, index: int, seed: int) -> str:
        """The persona of a UE."""
        block = self._block()
        number, place = divmod(index, len(block))
        if len(self.weights) > 1:
            random.Random(f"{seed}/persona/{number}").shuffle(block)
        return block[place]

    def _block(self) -> list[str]:
        divisor = math.gcd(*(weight for _, weight in self.weights))
        return [name for name, weight in self.weights for _ in range(weight // divisor)]

    def __str__(self) -> str:
        return ",".join(f"{name}={weight}" for name, weight in self.weights)


def _weight(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text) <= WEIGHT_MAXIMUM


def _refused(value: str, expected: str) -> ConfigurationError:
    return ConfigurationError(file="command line", key="--persona", value=value, expected=expected)
