"""Rekeys of child SAs by either end, one of the IKE SA and moves make before break lose nothing under full load."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocols.dataplane.port import Backend
from tests.peers.full_load import nothing_is_lost
from tests.peers.namespaces import require_namespaces

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

RATES = {Backend.PYTHON: 1500.0, Backend.COMPILED: 10000.0}  # packets a second each way


@pytest.mark.parametrize("backend", list(RATES), ids=lambda each: each.value)
def test_nothing_is_lost_or_comes_twice(backend: Backend, tmp_path: Path) -> None:
    require_namespaces()
    nothing_is_lost(backend, RATES[backend], tmp_path)
