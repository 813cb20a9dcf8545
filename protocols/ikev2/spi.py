"""Where SPIs of child SAs come from (RFC 4303 §2.1): a port, so that workers can own a part of the space."""

from __future__ import annotations

from typing import Protocol

from protocols.entropy import Entropy


class SpiAllocator(Protocol):
    """Where SPIs come from, so that workers can own a part of the space."""

    def child_spi(self) -> bytes:
        """Four octets, unique at this end."""


class RandomSpis:
    """SPIs from the entropy source; the reserved values up to 255 are left out (RFC 4303 §2.1)."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy

    def child_spi(self) -> bytes:
        """Four random octets."""
        while True:
            spi = self._entropy.octets(4)
            if int.from_bytes(spi, "big") > 255:
                return spi
