"""Rekeys and make-before-break moves lose nothing under load with the kernel's ESP, in user-mode-linux."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocols.dataplane.port import Backend
from tests.peers.full_load import nothing_is_lost

pytestmark = [pytest.mark.peer, pytest.mark.guest]

RATE = 500.0  # packets a second each way, from programs on the one processor that UE, gateway and kernel have too


@pytest.mark.parametrize("return_routability", ["before-update", pytest.param("after-update", marks=pytest.mark.long)])
def test_rekeys_and_moves_lose_nothing(tmp_path: Path, return_routability: str) -> None:
    """The gateway sends to the new address once it is checked, or with the request: the UE has no response then yet."""
    nothing_is_lost(Backend.KERNEL, RATE, tmp_path, return_routability)
