"""All timers of a machine in one table, keyed by an enum; the driver arms a single one."""

from __future__ import annotations

from enum import Enum
from typing import Generic, TypeVar

TimerT = TypeVar("TimerT", bound=Enum)


class TimerTable(Generic[TimerT]):
    """Deadlines (monotonic seconds) by timer."""

    __slots__ = ("_deadlines",)

    def __init__(self) -> None:
        self._deadlines: dict[TimerT, float] = {}

    def set(self, timer: TimerT, deadline: float) -> None:
        """Arm or re-arm ``timer``."""
        self._deadlines[timer] = deadline

    def cancel(self, timer: TimerT) -> None:
        """Disarm ``timer``, armed or not."""
        self._deadlines.pop(timer, None)

    def clear(self) -> None:
        """Disarm everything."""
        self._deadlines.clear()

    def get(self, timer: TimerT) -> float | None:
        """The deadline of ``timer``, ``None`` when it is not armed."""
        return self._deadlines.get(timer)

    def next_deadline(self) -> float | None:
        """The earliest deadline, ``None`` when nothing is armed."""
        return min(self._deadlines.values(), default=None)

    def expired(self, now: float) -> list[TimerT]:
        """Disarm and return the timers due at ``now``, earliest first."""
        due = sorted((at, timer.name, timer) for timer, at in self._deadlines.items() if at <= now)
        for _, _, timer in due:
            del self._deadlines[timer]
        return [timer for _, _, timer in due]
