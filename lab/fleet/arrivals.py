"""How the attaches of a fleet are spread, by name."""

from __future__ import annotations

from enum import Enum


class Arrivals(str, Enum):
    """How attaches are spread: one every 1/rate seconds, or as a Poisson process of that rate."""

    EVEN = "even"
    POISSON = "poisson"
