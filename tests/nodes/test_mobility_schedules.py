"""Every shipped schedule on every stage it lists where time is real; virtual time has them all in every run.

Those with a NAT are played behind the kernel's as well. Takes as long as the schedules do, about six minutes a stage
and backend of ESP, and holds where the processors are not busy otherwise.
"""

from __future__ import annotations

import pytest

from lab.mobility.command import open_stage
from lab.mobility.loader import load_schedule, shipped
from lab.mobility.namespaces import manages
from lab.mobility.player import play
from lab.mobility.stage_name import BackendName, NatName, StageName
from protocols.dataplane.port import Backend
from tests.peers.backends import require_backend
from tests.peers.namespaces import require_namespaces, require_nftables_nat

PLACES = [
    (StageName.LOOPBACK, BackendName.AUTO),
    *((StageName.NAMESPACES, backend) for backend in BackendName if backend is not BackendName.AUTO),
]
BEHIND_NATS = [
    name
    for name, schedule in ((each, load_schedule(each).schedule) for each in shipped())
    if schedule.has_nat and StageName.NAMESPACES in schedule.stages
]
PLAYED = [
    pytest.param(name, stage, backend, marks=[pytest.mark.root] if stage is StageName.NAMESPACES else [])
    for name in shipped()
    for stage, backend in PLACES
    if stage in load_schedule(name).schedule.stages
]


@pytest.mark.long
@pytest.mark.parametrize(("name", "stage", "backend"), PLAYED)
def test_expectations_of_a_shipped_schedule_hold_in_real_time(
    name: str, stage: StageName, backend: BackendName
) -> None:
    if backend is not BackendName.AUTO:
        require_backend(Backend(backend.value))
    if backend is BackendName.KERNEL and manages(load_schedule(name).schedule):
        pytest.skip("the kernel does not carry the ESP of a UE on several interfaces")
    result, _ = play(load_schedule(name), open_stage(stage, backend), None, lambda schedule, at, words: None)
    assert [check for check in result.checks if not check.passed] == []
    assert result.attaches


@pytest.mark.long
@pytest.mark.root
@pytest.mark.parametrize("name", BEHIND_NATS)
def test_expectations_of_a_shipped_schedule_hold_behind_the_kernels_nat(name: str) -> None:
    require_namespaces()
    require_nftables_nat()
    stage = open_stage(StageName.NAMESPACES, nat=NatName.NFTABLES)
    result, _ = play(load_schedule(name), stage, None, lambda schedule, at, words: None)
    assert [check for check in result.checks if not check.passed] == []
    assert result.attaches
    assert result.nat == "nftables"
