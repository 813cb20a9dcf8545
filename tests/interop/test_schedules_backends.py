"""The same schedules on every backend of ESP: what a UE goes through does not depend on what carries its packets.

With ``--long``. ``test_schedules_kernel.py`` has the kernel's ESP where this machine has none, the long run of
``tests/nodes/test_mobility_schedules.py`` every schedule on every backend.
"""

from __future__ import annotations

import pytest

from protocols.dataplane.port import Backend
from tests.peers.namespaces import require_namespaces
from tests.peers.played_schedules import hold

pytestmark = [pytest.mark.root, pytest.mark.timeout(90)]

SLACK = 1.0  # seconds


@pytest.mark.parametrize("backend", [Backend.COMPILED, Backend.KERNEL], ids=lambda each: each.value)
@pytest.mark.long
@pytest.mark.parametrize("name", ["walk-home", "move-during-rekey"])
def test_a_schedule(name: str, backend: Backend) -> None:
    require_namespaces()
    hold(name, backend, SLACK)
