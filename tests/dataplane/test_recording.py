"""The recording data plane: what it writes down, and what a test can make it say."""

from __future__ import annotations

import pytest

from protocols.dataplane.port import ChildSaCounters, PeerEndpointObserved
from protocols.dataplane.recording import Installed, PathExpected, PathUpdated, RecordingDataPlane, Removed, Replaced
from protocols.errors import LocalError
from protocols.path import Path
from tests.dataplane.pairs import GATEWAY_OUTER, UE_ELSEWHERE, ue_spec

NEW_PATH = Path(UE_ELSEWHERE, GATEWAY_OUTER)


def test_calls_in_order_and_the_present_state() -> None:
    plane = RecordingDataPlane()
    old, new = ue_spec(), ue_spec(number=2)
    plane.install(old)
    plane.replace(old.inbound_spi, new)
    plane.expect(new.inbound_spi, NEW_PATH, True)
    plane.update_path(new.inbound_spi, NEW_PATH, False)
    plane.remove(old.inbound_spi)
    assert plane.calls == [
        Installed(old),
        Replaced(old.inbound_spi, new),
        PathExpected(inbound_spi=new.inbound_spi, path=NEW_PATH, encapsulation=True),
        PathUpdated(inbound_spi=new.inbound_spi, path=NEW_PATH, encapsulation=False),
        Removed(old.inbound_spi),
    ]
    assert plane.specs == {new.inbound_spi: new}
    assert plane.paths == {new.inbound_spi: (NEW_PATH, False)}


def test_refused_calls_are_not_written_down() -> None:
    plane = RecordingDataPlane()
    with pytest.raises(LocalError):
        plane.remove(ue_spec().inbound_spi)
    assert plane.calls == []


def test_events_and_counters_come_from_the_test() -> None:
    plane = RecordingDataPlane()
    spec, other = ue_spec(), ue_spec(number=2)
    plane.install(spec)
    plane.install(other)
    first = PeerEndpointObserved(inbound_spi=spec.inbound_spi, path=NEW_PATH)
    second = PeerEndpointObserved(inbound_spi=other.inbound_spi, path=NEW_PATH)
    plane.report(first)
    plane.report(second)
    plane.count(spec.inbound_spi, ChildSaCounters(inbound_packets=5))
    assert plane.counters(spec.inbound_spi).inbound_packets == 5
    plane.remove(spec.inbound_spi)  # what was to be said about it goes with it
    assert plane.poll_event() == second
    assert plane.poll_event() is None
    with pytest.raises(LocalError):
        plane.report(first)
