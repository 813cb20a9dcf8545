"""A data plane that carries nothing and writes down what it was asked: for tests of whatever drives one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from protocols.dataplane.port import ChildSaCounters, DataPlaneEvent
from protocols.errors import LocalError
from protocols.esp.sa import ChildSaSpec, check_spec
from protocols.path import Path


@dataclass(frozen=True)
class Installed:
    """``install`` was called."""

    spec: ChildSaSpec


@dataclass(frozen=True)
class Replaced:
    """``replace`` was called."""

    old_inbound_spi: bytes
    spec: ChildSaSpec
    send_at_once: bool = True


@dataclass(frozen=True, kw_only=True)
class PathUpdated:
    """``update_path`` was called."""

    inbound_spi: bytes
    path: Path
    encapsulation: bool


@dataclass(frozen=True, kw_only=True)
class PathExpected:
    """``expect`` was called."""

    inbound_spi: bytes
    path: Path
    encapsulation: bool


@dataclass(frozen=True)
class Retired:
    """``retire`` was called."""

    inbound_spi: bytes


@dataclass(frozen=True)
class Removed:
    """``remove`` was called."""

    inbound_spi: bytes


Call = Installed | Replaced | PathUpdated | PathExpected | Retired | Removed


class RecordingDataPlane:
    """``DataPlane``: ``calls`` in order, and what is installed now with its present path.

    ``report`` puts an event where ``poll_event`` finds it, ``count`` sets what ``counters`` answers.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.specs: dict[bytes, ChildSaSpec] = {}
        self.paths: dict[bytes, tuple[Path, bool]] = {}
        self._counters: dict[bytes, ChildSaCounters] = {}
        self._events: deque[DataPlaneEvent] = deque()

    def install(self, spec: ChildSaSpec) -> None:
        """Record; see ``DataPlane.install``."""
        self._add(spec)
        self.calls.append(Installed(spec))

    def replace(self, old_inbound_spi: bytes, spec: ChildSaSpec, *, send_at_once: bool = True) -> None:
        """Record; see ``DataPlane.replace``."""
        self._require(old_inbound_spi)
        self._add(spec)
        self.calls.append(Replaced(old_inbound_spi, spec, send_at_once))

    def update_path(self, inbound_spi: bytes, path: Path, encapsulation: bool) -> None:
        """Record; see ``DataPlane.update_path``."""
        self._require(inbound_spi)
        self.paths[inbound_spi] = (path, encapsulation)
        self.calls.append(PathUpdated(inbound_spi=inbound_spi, path=path, encapsulation=encapsulation))

    def expect(self, inbound_spi: bytes, path: Path, encapsulation: bool) -> None:
        """Record; see ``DataPlane.expect``."""
        self._require(inbound_spi)
        self.calls.append(PathExpected(inbound_spi=inbound_spi, path=path, encapsulation=encapsulation))

    def retire(self, inbound_spi: bytes) -> None:
        """Record; see ``DataPlane.retire``."""
        self._require(inbound_spi)
        self.calls.append(Retired(inbound_spi))

    def remove(self, inbound_spi: bytes) -> None:
        """Record; see ``DataPlane.remove``."""
        self._require(inbound_spi)
        del self.specs[inbound_spi], self.paths[inbound_spi], self._counters[inbound_spi]
        self._events = deque(event for event in self._events if event.inbound_spi != inbound_spi)
        self.calls.append(Removed(inbound_spi))

    def counters(self, inbound_spi: bytes) -> ChildSaCounters:
        """What ``count`` has set, zeros before."""
        self._require(inbound_spi)
        return self._counters[inbound_spi]

    def poll_event(self) -> DataPlaneEvent | None:
        """The next event that ``report`` was given."""
        return self._events.popleft() if self._events else None

    def count(self, inbound_spi: bytes, counters: ChildSaCounters) -> None:
        """Set the counters of an installed SA."""
        self._require(inbound_spi)
        self._counters[inbound_spi] = counters

    def report(self, event: DataPlaneEvent) -> None:
        """Let an event about an installed SA happen."""
        self._require(event.inbound_spi)
        self._events.append(event)

    def _add(self, spec: ChildSaSpec) -> None:
        check_spec(spec)
        if spec.inbound_spi in self.specs:
            raise LocalError(f"SA {spec.inbound_spi.hex()} is installed already")
        self.specs[spec.inbound_spi] = spec
        self.paths[spec.inbound_spi] = (spec.path, spec.encapsulation)
        self._counters[spec.inbound_spi] = ChildSaCounters()

    def _require(self, inbound_spi: bytes) -> None:
        if inbound_spi not in self.specs:
            raise LocalError(f"SA {inbound_spi.hex()} is not installed")
