"""Where SPIs come from (RFC 4303 §2.1, RFC 7296 §3.1): a port, so that workers can own a part of the space."""

from __future__ import annotations

from collections.abc import Container
from typing import Protocol

from protocols.entropy import Entropy

RESERVED_MAXIMUM = 255


class SpiAllocator(Protocol):
    """Where SPIs come from, so that workers can own a part of the space."""

    def child_spi(self) -> bytes:
        """Four octets, unique at this end."""

    def ike_spi(self) -> bytes:
        """Eight octets, unique at this end and not zero (RFC 7296 §3.1)."""


class RandomSpis:
    """SPIs from the entropy source, without those in use and the reserved ones up to 255 (RFC 4303 §2.1)."""

    def __init__(self, entropy: Entropy, in_use: Container[bytes] = (), ike_in_use: Container[bytes] = ()) -> None:
        self._entropy = entropy
        self._in_use = in_use
        self._ike_in_use = ike_in_use

    def child_spi(self) -> bytes:
        """Four random octets."""
        while True:
            spi = self._entropy.octets(4)
            if int.from_bytes(spi, "big") > RESERVED_MAXIMUM and spi not in self._in_use:
                return spi

    def ike_spi(self) -> bytes:
        """Eight random octets."""
        while True:
            spi = self._entropy.octets(8)
            if any(spi) and spi not in self._ike_in_use:
                return spi
