"""IPv6 outside on the stage of namespaces: from IPv4 and back, and a UE that manages two accesses of IPv6 by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lab.mobility.loader import NamedSchedule, parse_schedule
from lab.mobility.namespaces import NamespaceStage
from lab.mobility.player import play
from lab.mobility.result import MoveResult
from lab.mobility.schedule import Schedule
from lab.mobility.stage import Scene, Stage
from lab.mobility.stage_name import BackendName, StageName
from protocols.dataplane.port import Backend
from tests.peers.backends import require_backend
from tests.peers.namespaces import require_namespaces

pytestmark = [pytest.mark.root, pytest.mark.timeout(90)]

T = TypeVar("T")

BETWEEN = """
title: From IPv4 behind a NAT to IPv6 and back
duration: 3
gateway: {addresses: {four: ipv4, six: ipv6}}
accesses:
  old: {family: ipv4, nat: {kind: port-restricted}, up: {delay: 10ms}, down: {delay: 10ms}}
  new: {family: ipv6, up: {delay: 10ms}, down: {delay: 10ms}}
events:
  - {at: 0, do: attach, access: old}
  - {at: 1, do: move, to: new}
  - {at: 2, do: move, to: old, make: make-before-break}
expect: {moves: 2, attaches: 1, final_access: old, final_gateway: four, real_time_slack: 1s}
"""
MANAGED = """
title: Two accesses of IPv6, one of which goes and comes back
duration: 5
gateway: {addresses: {six: ipv6}}
accesses:
  wifi: {family: ipv6, up: {delay: 10ms}, down: {delay: 10ms}}
  cellular: {family: ipv6, up: {delay: 30ms, loss: 0.01}, down: {delay: 30ms}}
ue: {management: {automatic: true, prefer: [wifi, cellular]}}
EXTRAevents:
  - {at: 0, do: attach, access: wifi}
  - {at: 1.5, do: address-lost, access: wifi}
  - {at: 2.5, do: address-gained, access: wifi}
  - {at: 3.5, do: address-lost, access: wifi}
expect: {attaches: 1, final_access: cellular, final_gateway: six, outage_ms: 500, real_time_slack: 1s}
"""


def moves_of(text: str, backend: Backend, stage: Stage | None = None) -> tuple[MoveResult, ...]:
    """Played in namespaces; everything that it expects must hold."""
    require_namespaces()
    require_backend(backend)
    named = NamedSchedule(name="ipv6", schedule=parse_schedule(text), file=Path("ipv6.yaml"))
    stage = stage or NamespaceStage(BackendName(backend.value))
    result, _ = play(named, stage, None, lambda name, at, words: None)
    assert [check for check in result.checks if not check.passed] == [], result.to_text()
    assert result.backends == {"ue": backend.value, "epdg": backend.value}
    return result.moves


@pytest.mark.parametrize(
    "backend",
    [pytest.param(Backend.PYTHON, marks=pytest.mark.long), Backend.COMPILED, Backend.KERNEL],
    ids=lambda each: each.value,
)
def test_from_ipv4_to_ipv6_and_back(backend: Backend) -> None:
    there, back = moves_of(BETWEEN, backend)
    assert there.path_after is not None
    assert there.path_after.local.startswith("[fd77:2::2]:")
    assert there.path_after.remote.startswith("[fd77::2]:")
    assert (there.nat, back.nat) == (False, True)


class Listening:
    """The stage, which asks the UE every now and then whether its ESP is in UDP."""

    name, real_time = StageName.NAMESPACES, True

    def __init__(self, backend: Backend) -> None:
        self._stage = NamespaceStage(BackendName(backend.value))
        self.heard: set[bool] = set()

    def perform(self, schedule: Schedule, seed: int, work: Callable[[Scene], Awaitable[T]]) -> T:
        """As the stage itself."""

        async def both(scene: Scene) -> T:
            listening = asyncio.create_task(self._listen(scene))
            try:
                return await work(scene)
            finally:
                listening.cancel()

        return self._stage.perform(schedule, seed, both)

    async def _listen(self, scene: Scene) -> None:
        moment = scene.now()
        while True:
            status: Any = await scene.ue.call("ue.status")
            self.heard |= {child["encapsulation"] for each in status["sessions"] for child in each["child_sas"]}
            moment += 0.2
            await scene.sleep_until(moment)


@pytest.mark.long
@pytest.mark.parametrize(
    ("gateway", "encapsulation"),
    [("", True), ("epdg: {ike: {force_encapsulation: false}}\n", False)],
    ids=["in-udp", "bare"],
)
@pytest.mark.parametrize("backend", [Backend.PYTHON, Backend.COMPILED], ids=lambda each: each.value)
def test_a_ue_that_manages_its_accesses_of_ipv6(gateway: str, encapsulation: bool, backend: Backend) -> None:
    """Without a NAT, and with a gateway that does not pretend one, ESP is straight on IPv6 (RFC 7296 §2.23)."""
    stage = Listening(backend)
    moves = moves_of(MANAGED.replace("EXTRA", gateway), backend, stage)
    assert moves[0].target == "cellular"
    assert stage.heard == {encapsulation}
    for move in moves:
        assert move.path_before.local.startswith("[fd77:")
