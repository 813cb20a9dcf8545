"""A shipped schedule in network namespaces, with a backend of choice in UE and gateway, held to its expectations."""

from __future__ import annotations

from lab.mobility.loader import load_schedule
from lab.mobility.namespaces import NamespaceStage
from lab.mobility.player import play
from lab.mobility.stage_name import BackendName
from protocols.dataplane.port import Backend
from tests.peers.backends import require_backend


def hold(name: str, backend: Backend) -> None:
    """Play it; everything that it expects must hold, and ESP must have gone by the backend."""
    require_backend(backend)
    stage = NamespaceStage(BackendName(backend.value))
    result, _ = play(load_schedule(name), stage, None, lambda schedule, at, words: None)
    assert [check for check in result.checks if not check.passed] == []
    assert [event for event in result.events if event.error is not None] == []
    assert result.attaches
    assert result.backends == {"ue": backend.value, "epdg": backend.value}
