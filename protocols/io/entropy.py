"""The operating system's random source behind ``protocols.entropy.Entropy``."""

from __future__ import annotations

import os


class SystemEntropy:
    """Octets from the kernel (``os.urandom``): what every live node uses."""

    def octets(self, length: int) -> bytes:
        """``length`` random octets."""
        return os.urandom(length)
