"""A fleet whose process dies. It leaves sessions at the gateway, so that it has nodes of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.fleet.processes import FleetProcesses
from lab.processes import poll_until
from protocols.errors import BackendError
from tests.fleet.conftest import FleetWorld, fleet_world, loopback_network
from tests.fleet.test_fleet import HOLD, difference, plan


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetWorld]:
    with fleet_world(tmp_path_factory.mktemp("nodes-left"), loopback_network(81)) as own:
        yield own


def test_when_a_process_dies_the_others_leave_in_order(world: FleetWorld, tmp_path: Path) -> None:
    async def scenario() -> None:
        before = await world.totals()
        async with FleetProcesses(world.plan.fleet, 2, tmp_path) as processes:
            await processes.start(plan(HOLD, count=20))

            async def all_attached() -> bool | None:
                return True if (await processes.figures()).attached == 20 else None

            await poll_until(all_attached, what="twenty UEs", interval=20)
            victim = processes.processes[0]
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)

            async def noticed() -> str | None:
                try:
                    await processes.figures()
                except BackendError as error:
                    return str(error)
                return None

            assert "fleet-1" in await poll_until(noticed, what="the end of a process", interval=10)
            await processes.stop(10)
            figures = await processes.last_figures()
        assert figures.succeeded("attach") == 20
        assert figures.succeeded("detach") == 10
        after = difference(await world.totals(), before)
        assert (after["attached"], after["detached"]) == (20, 10)

    world.run(scenario())
