"""What every data plane does, whatever carries its packets: one class of tests, run against each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.dataplane.port import ChildSaCounters, DataPlane
from protocols.dataplane.recording import RecordingDataPlane
from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.entropy import SeededEntropy
from protocols.errors import LocalError
from protocols.path import Path
from protocols.secret import Secret
from tests.dataplane.pairs import GATEWAY_OUTER, SUITES, UE_ELSEWHERE, ue_spec

UNKNOWN = b"\xab\xcd\xef\x01"
NEW_PATH = Path(UE_ELSEWHERE, GATEWAY_OUTER)


def userspace() -> DataPlane:
    return UserspaceDataPlane(
        entropy=SeededEntropy("plane"),
        deliver=lambda packet, inbound_spi: None,
        transmit=lambda octets, path, encapsulation, traffic_class: None,
    )


@pytest.fixture(params=[userspace, RecordingDataPlane], ids=["userspace", "recording"])
def plane(request: pytest.FixtureRequest) -> DataPlane:
    made: DataPlane = request.param()
    return made


class TestDataPlaneContract:
    @pytest.mark.parametrize("suite", SUITES)
    def test_an_installed_sa_counts_from_zero(self, plane: DataPlane, suite: str) -> None:
        spec = ue_spec(suite)
        plane.install(spec)
        assert plane.counters(spec.inbound_spi) == ChildSaCounters()
        assert plane.poll_event() is None

    def test_an_spi_is_installed_once(self, plane: DataPlane) -> None:
        spec = ue_spec()
        plane.install(spec)
        with pytest.raises(LocalError):
            plane.install(spec)
        with pytest.raises(LocalError):
            plane.replace(spec.inbound_spi, spec)
        assert plane.counters(spec.inbound_spi) == ChildSaCounters()

    def test_unknown_spis(self, plane: DataPlane) -> None:
        plane.install(ue_spec())
        with pytest.raises(LocalError):
            plane.counters(UNKNOWN)
        with pytest.raises(LocalError):
            plane.remove(UNKNOWN)
        with pytest.raises(LocalError):
            plane.update_path(UNKNOWN, NEW_PATH, True)
        with pytest.raises(LocalError):
            plane.expect(UNKNOWN, NEW_PATH, True)
        with pytest.raises(LocalError):
            plane.replace(UNKNOWN, ue_spec(number=2))
        with pytest.raises(LocalError):
            plane.counters(ue_spec(number=2).inbound_spi)  # a refused replacement leaves nothing behind

    def test_a_removed_sa_is_gone_and_its_spi_free(self, plane: DataPlane) -> None:
        spec = ue_spec()
        plane.install(spec)
        plane.remove(spec.inbound_spi)
        with pytest.raises(LocalError):
            plane.counters(spec.inbound_spi)
        with pytest.raises(LocalError):
            plane.remove(spec.inbound_spi)
        plane.install(spec)
        assert plane.counters(spec.inbound_spi) == ChildSaCounters()

    def test_a_replaced_sa_stays_until_it_is_removed(self, plane: DataPlane) -> None:
        old, new = ue_spec(), ue_spec(number=2)
        plane.install(old)
        plane.replace(old.inbound_spi, new)
        assert plane.counters(old.inbound_spi) == plane.counters(new.inbound_spi) == ChildSaCounters()
        plane.remove(old.inbound_spi)
        assert plane.counters(new.inbound_spi) == ChildSaCounters()
        with pytest.raises(LocalError):
            plane.counters(old.inbound_spi)

    def test_a_retired_sa_stays_until_it_is_removed(self, plane: DataPlane) -> None:
        old, new = ue_spec(), ue_spec(number=2)
        plane.install(old)
        plane.replace(old.inbound_spi, new)
        plane.retire(old.inbound_spi)
        assert plane.counters(old.inbound_spi) == ChildSaCounters()
        plane.remove(old.inbound_spi)
        with pytest.raises(LocalError):
            plane.retire(old.inbound_spi)

    def test_a_move_is_no_new_sa(self, plane: DataPlane) -> None:
        spec = ue_spec()
        plane.install(spec)
        plane.update_path(spec.inbound_spi, NEW_PATH, False)
        plane.expect(spec.inbound_spi, spec.path, True)
        plane.update_path(spec.inbound_spi, NEW_PATH, True)
        assert plane.counters(spec.inbound_spi) == ChildSaCounters()

    @pytest.mark.parametrize(
        "changes",
        [
            {"inbound_spi": b"\x00\x00\x00\x01"},
            {"outbound_encryption_key": Secret(b"short")},
            {"inbound_integrity_key": Secret(b"")},
            {"replay_window": 8},
            {"remote_selectors": ()},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_impossible_specifications(self, plane: DataPlane, changes: dict[str, object]) -> None:
        spec = replace(ue_spec(), **changes)  # type: ignore[arg-type]
        with pytest.raises(LocalError):
            plane.install(spec)
        with pytest.raises(LocalError):
            plane.counters(spec.inbound_spi)
