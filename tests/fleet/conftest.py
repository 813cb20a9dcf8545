"""A gateway and an AAA server as processes, with the subscribers of a rule: what fleets of the tests run against."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lab.fleet.config import FleetFile
from lab.fleet.nodes import FleetNodes, NodesPlan
from lab.processes import poll_until
from protocols.io.control import ControlClient
from protocols.trace.records import JsonValue

T = TypeVar("T")

SUBSCRIBERS = 60


@dataclass(frozen=True)
class FleetWorld:
    """The nodes; ``run`` runs a coroutine on the loop that they were started on."""

    plan: NodesPlan
    runner: asyncio.Runner

    @property
    def file(self) -> FleetFile:
        """The fleet's configuration."""
        return FleetFile.read(self.plan.fleet)

    def run(self, scenario: Coroutine[Any, Any, T]) -> T:
        """Its result."""
        return self.runner.run(scenario)

    async def status(self, node: str) -> dict[str, JsonValue]:
        """What a node says of itself."""
        status = await ControlClient(self.plan.control(node)).call("node.status")
        assert isinstance(status, dict)
        return status

    async def totals(self) -> dict[str, int]:
        """What the gateway has counted since its start."""
        totals = (await self.status("epdg"))["totals"]
        assert isinstance(totals, dict)
        return {key: number for key, number in totals.items() if isinstance(number, int)}

    async def esp_packets(self, imsi: str) -> dict[str, int]:
        """How many ESP packets of a subscriber the gateway has taken, and how many it has sent."""
        listed = await ControlClient(self.plan.control("epdg")).call("sessions.list", imsi=imsi, state="established")
        assert isinstance(listed, dict)
        sessions = listed["sessions"]
        assert isinstance(sessions, list)
        (session,) = sessions
        assert isinstance(session, dict)
        children = session["child_sas"]
        assert isinstance(children, list)
        (child,) = children
        assert isinstance(child, dict)
        counters = child["counters"]
        assert isinstance(counters, dict)
        found = {name: counters[f"{name}_packets"] for name in ("inbound", "outbound")}
        return {name: number for name, number in found.items() if isinstance(number, int)}

    async def emptied(self) -> None:
        """Return when neither node has a session left; the AAA server remembers refused ones for a while."""

        async def look() -> bool | None:
            aaa = await ControlClient(self.plan.control("aaa")).call("sessions.list", state="authenticated")
            assert isinstance(aaa, dict)
            return True if (await self.status("epdg"))["sessions"] == aaa["total"] == 0 else None

        await poll_until(look, what="sessions that were left", interval=10)


def loopback_network(number: int) -> IPv4Network:
    """Addresses of this process's own: other fleets may run beside the tests."""
    return IPv4Network(f"127.{64 + os.getpid() % 128}.{number}.0/24")


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetWorld]:
    with fleet_world(tmp_path_factory.mktemp("fleet-nodes"), loopback_network(80)) as shared:
        yield shared


@contextmanager
def fleet_world(directory: Path, network: IPv4Network) -> Iterator[FleetWorld]:
    """Nodes in ``directory``, at addresses of ``network``."""
    plan = NodesPlan(directory=directory, count=SUBSCRIBERS, network=network)
    plan.prepare()
    nodes = FleetNodes(plan)
    with asyncio.Runner() as runner:
        runner.run(nodes.__aenter__())
        try:
            yield FleetWorld(plan, runner)
        finally:
            runner.run(nodes.__aexit__())
