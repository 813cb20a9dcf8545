"""A shipped schedule in network namespaces, with a backend of choice in UE and gateway, held to its expectations.

All of them but the machine's share: where other programs or an emulated processor take their time, silences are longer
and voice is worse than between nodes alone.
"""

from __future__ import annotations

from dataclasses import replace

from lab.mobility.loader import NamedSchedule, load_schedule
from lab.mobility.namespaces import NamespaceStage
from lab.mobility.player import play
from lab.mobility.stage_name import BackendName
from protocols.dataplane.port import Backend
from tests.peers.backends import require_backend


def hold(name: str, backend: Backend, slack: float) -> None:
    """Play it; what it expects must hold with so many seconds of slack, and ESP must have gone by the backend."""
    require_backend(backend)
    stage = NamespaceStage(BackendName(backend.value))
    result, _ = play(_with_slack(load_schedule(name), slack), stage, None, lambda schedule, at, words: None)
    failed = [check for check in result.checks if not check.passed]
    assert not failed, f"{failed}\n{result.to_text()}"
    assert result.attaches
    assert result.backends == {"ue": backend.value, "epdg": backend.value}, result.backends


def _with_slack(named: NamedSchedule, slack: float) -> NamedSchedule:
    expect = named.schedule.expect.model_copy(update={"real_time_slack": slack, "mos": None})
    return replace(named, schedule=named.schedule.model_copy(update={"expect": expect}))
