"""What a check of ``epdg doctor`` has found, and what the checks know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum

from epdg.config import DataPlaneKind, EpdgConfiguration
from protocols.errors import StackError
from protocols.io.control import call_sync
from protocols.trace.records import JsonValue


class Status(str, Enum):
    """``MISSING``: the gateway needs it as it is configured; ``ABSENT``: it is not there, and does without."""

    OK = "ok"
    MISSING = "missing"
    ABSENT = "absent"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line: what was looked at, how it is, why, and what to do about it."""

    check: str
    status: Status
    why: str
    remedy: str = ""

    @classmethod
    def good(cls, check: str, why: str) -> Finding:
        """Nothing to do."""
        return cls(check=check, status=Status.OK, why=why)

    @classmethod
    def bad(cls, check: str, why: str, remedy: str, *, needed: bool = True) -> Finding:
        """Something is not there."""
        return cls(check=check, status=Status.MISSING if needed else Status.ABSENT, why=why, remedy=remedy)

    def view(self) -> dict[str, JsonValue]:
        """As ``--json`` has it."""
        return {**asdict(self), "status": self.status.value}

    def line(self) -> str:
        """As the terminal has it."""
        words = f"{self.why}. {self.remedy}." if self.remedy else f"{self.why}."
        return f"{self.status.value:<8} {self.check:<12} {words}"


@dataclass(frozen=True, kw_only=True)
class Situation:
    """The configuration, if there is one, and whether a gateway runs with it now."""

    configuration: EpdgConfiguration | None = None
    running: bool = False

    @classmethod
    def of(cls, configuration: EpdgConfiguration | None) -> Situation:
        """Ask the control socket whether a gateway runs."""
        if configuration is None:
            return cls()
        try:
            call_sync(configuration.control, "node.status")
        except StackError:
            return cls(configuration=configuration)
        return cls(configuration=configuration, running=True)

    @property
    def needs_tun(self) -> bool:
        """Whether a TUN device is configured."""
        return self.configuration is not None and self.configuration.data_plane.kind is DataPlaneKind.TUN


Check = Callable[[Situation], Iterator[Finding]]
