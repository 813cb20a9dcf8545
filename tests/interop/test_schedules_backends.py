"""The same schedules on every backend of ESP: what a UE goes through does not depend on what carries its packets.

These are those of ``test_schedules_kernel.py``, which has the kernel's ESP where this machine has none.
"""

from __future__ import annotations

import pytest

from protocols.dataplane.port import Backend
from tests.peers.namespaces import require_namespaces
from tests.peers.played_schedules import hold

pytestmark = [pytest.mark.root, pytest.mark.timeout(90)]

SCHEDULES = ("walk-home", "nat-reboot", "lost-update", "a-b-a-outstanding", "move-during-rekey")


@pytest.mark.parametrize("backend", [Backend.COMPILED, Backend.KERNEL], ids=lambda each: each.value)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule(name: str, backend: Backend) -> None:
    require_namespaces()
    hold(name, backend)


@pytest.mark.parametrize("name", SCHEDULES[1:])  # the first one Python has in every run of another file
def test_a_schedule_with_python(name: str) -> None:
    require_namespaces()
    hold(name, Backend.PYTHON)
