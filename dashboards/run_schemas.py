"""What the API says of the laboratory's runs."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from dashboards.schemas import Answer


class RunCheck(Answer):
    """An expectation of the schedule."""

    subject: str
    expected: str
    found: str
    passed: bool


class RunStream(Answer):
    """One direction of the traffic; times in milliseconds."""

    sent: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    outage_ms: float | None = None
    jitter_ms: float | None = None
    mos: float | None = None


class RunMove(Answer):
    """A move; ``uplink`` and ``downlink`` are its outage and losses by direction."""

    number: int
    origin: str
    target: str
    cause: str = ""
    outcome: str
    why: str | None = None
    update_ms: float | None = None
    check_ms: float | None = None
    requests: int = 0
    retransmissions: int = 0
    inner_address_unchanged: bool | None = None
    spis_unchanged: bool | None = None
    uplink: RunStream | None = None
    downlink: RunStream | None = None


class RunView(Answer):
    """A run of a schedule; ``written`` in seconds since 1970-01-01 UTC."""

    name: str
    written: float
    schedule: str
    title: str = ""
    stage: str = ""
    seed: int = 0
    duration_ms: float = 0.0
    passed: bool = Field(description="every expectation of the schedule held")
    timeline: bool = Field(description="there is a picture of it")
    uplink: RunStream = RunStream()
    downlink: RunStream = RunStream()
    moves: list[RunMove] = []
    checks: list[RunCheck] = []
    leaks: list[str] = []

    @classmethod
    def of(cls, name: str, written: float, result: dict[str, Any], *, timeline: bool) -> RunView:
        """A result as the laboratory wrote it; ``ValueError`` where it is none."""
        checks = result.get("checks")
        held = isinstance(checks, list) and all(
            isinstance(each, dict) and each.get("passed") is True for each in checks
        )
        passed = held and bool(checks)  # where nothing was looked at, nothing held
        return cls.model_validate({**result, "name": name, "written": written, "passed": passed, "timeline": timeline})


class RunList(Answer):
    """The latest runs, newest first."""

    runs: list[RunView]
    unreadable: int = Field(description="files in the directory that are no results")
