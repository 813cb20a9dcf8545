"""Which run is next: one at a time, a bounded queue behind it, a bounded memory of those that are over."""

from __future__ import annotations

from collections.abc import Iterator

from lab.serving.run import Run, RunState
from protocols.io.control import ControlError


class RunQueue:
    """All runs that are known, in the order in which they were asked for."""

    def __init__(self, *, waiting: int, kept: int) -> None:
        self._runs: dict[str, Run] = {}
        self._waiting = waiting
        self._kept = kept

    def __iter__(self) -> Iterator[Run]:
        """The latest first."""
        return reversed(self._runs.values())

    @property
    def current(self) -> Run | None:
        """The one that is played."""
        return next((run for run in self._runs.values() if run.state is RunState.RUNNING), None)

    @property
    def queued(self) -> list[Run]:
        """Those that wait, the next one first."""
        return [run for run in self._runs.values() if run.state is RunState.QUEUED]

    def add(self, run: Run) -> None:
        """Let a run wait; ``ControlError`` when the queue is full."""
        waiting = len(self.queued)
        if waiting >= self._waiting:
            raise ControlError("not-now", f"the queue is full: {waiting} runs wait")
        self._runs[run.identifier] = run

    def find(self, identifier: str) -> Run:
        """A run; ``ControlError`` when it is not known, or not any more."""
        run = self._runs.get(identifier)
        if run is None:
            raise ControlError("not-found", f"there is no run {identifier}")
        return run

    def forget(self) -> None:
        """Let go of the oldest that are over, beyond as many as are kept."""
        over = [run.identifier for run in self._runs.values() if run.state.over]
        for identifier in over[: max(0, len(over) - self._kept)]:
            del self._runs[identifier]
