"""Octets that must not be printed: keys, MSK, K, OPc, tokens."""

from __future__ import annotations

import hmac


class Secret:
    """Secret octets with a redacted ``repr``; ``reveal()`` where they are used."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = bytes(octets)

    def reveal(self) -> bytes:
        """The octets themselves."""
        return self._octets

    def __repr__(self) -> str:
        return f"Secret({len(self._octets)} octets)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._octets, other._octets)

    def __hash__(self) -> int:
        return hash(self._octets)
