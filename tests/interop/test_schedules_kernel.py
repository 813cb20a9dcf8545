"""The laboratory's schedules with the kernel's ESP at both ends, in user-mode-linux.

A move and back, a NAT that forgets, an update that is overtaken by the next move, moves while SAs are rekeyed, from
IPv4 to IPv6: the same files and the same expectations as everywhere. Starting the nodes takes user-mode-linux longer
than most of them.
"""

from __future__ import annotations

import pytest

from protocols.dataplane.port import Backend
from tests.peers.played_schedules import hold

pytestmark = [pytest.mark.peer, pytest.mark.guest(limit=420), pytest.mark.timeout(200)]

SLACK = 4.0  # seconds: one processor, and an emulated one


@pytest.mark.long
@pytest.mark.parametrize("name", ["walk-home", "nat-reboot", "a-b-a-outstanding", "move-during-rekey", "v4-to-v6"])
def test_a_schedule_with_the_kernels_esp(name: str) -> None:
    hold(name, Backend.KERNEL, SLACK)
