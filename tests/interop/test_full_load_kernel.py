"""Rekeys lose nothing under load with the kernel's ESP, in user-mode-linux.

Moves are left out: the kernel finds an SA by the address that a packet came to, so that what is sent to the UE's old
address until the gateway has checked the new one is lost (docs/divergences.md).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from protocols.dataplane.port import Backend
from tests.peers.full_load import nothing_is_lost

pytestmark = [pytest.mark.peer, pytest.mark.guest]

RATE = 500.0  # packets a second each way, from programs on the one processor that UE, gateway and kernel have too


def test_rekeys_lose_nothing(tmp_path: Path) -> None:
    nothing_is_lost(Backend.KERNEL, RATE, tmp_path, moves=False)
