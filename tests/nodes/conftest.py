"""A dashboard before scripted nodes, for whoever asks it over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.nodes.dashboards_world import Site, site


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as started:
        yield started


@pytest.fixture
def client(running: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=10) as connected:
        yield connected
