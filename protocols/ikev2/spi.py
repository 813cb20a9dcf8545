"""Where SPIs come from (RFC 7296 §2.6, RFC 4303 §2.1): a port, so that workers can own a part of the space."""

from __future__ import annotations

from collections.abc import Container
from typing import Protocol

from protocols.entropy import Entropy

RESERVED_MAXIMUM = 255
NO_SPI = bytes(8)


class SpiAllocator(Protocol):
    """Where SPIs come from, so that workers can own a part of the space."""

    def child_spi(self) -> bytes:
        """Four octets, unique at this end."""

    def ike_spi(self) -> bytes:
        """Eight octets, not zero, unique at this end."""

    def owns(self, ike_spi: bytes) -> bool:
        """Whether an IKE SPI is of the part of the space that this allocator gives from."""


class RandomSpis:
    """SPIs from the entropy source, without those in use and the reserved ones up to 255 (RFC 4303 §2.1).

    With ``worker`` its number is the first octet of each: one of up to 256 parts of the space.
    """

    def __init__(
        self,
        entropy: Entropy,
        in_use: Container[bytes] = (),
        ike_in_use: Container[bytes] = (),
        worker: int | None = None,
    ) -> None:
        self._entropy = entropy
        self._in_use = in_use
        self._ike_in_use = ike_in_use
        self._prefix = b"" if worker is None else bytes([worker])

    def child_spi(self) -> bytes:
        """Four random octets."""
        while True:
            spi = self._prefix + self._entropy.octets(4 - len(self._prefix))
            if int.from_bytes(spi, "big") > RESERVED_MAXIMUM and spi not in self._in_use:
                return spi

    def ike_spi(self) -> bytes:
        """Eight random octets."""
        while True:
            spi = self._prefix + self._entropy.octets(8 - len(self._prefix))
            if spi != NO_SPI and spi not in self._ike_in_use:
                return spi

    def owns(self, ike_spi: bytes) -> bool:
        """Whether its first octet is the worker's."""
        return ike_spi.startswith(self._prefix)
