"""A progress bar on standard error, where that is a terminal."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType


class Progress:
    """Tasks one after the other; each gives a function that is told how much was done."""

    def __init__(self) -> None:
        from rich.console import Console  # here: the commands' alone, and a node starts without
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = RichProgress(*columns, console=console, transient=True, disable=not console.is_terminal)

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def task(self, what: str, total: int) -> Callable[[int], None]:
        """A bar of ``total`` steps."""
        task = self._bars.add_task(what, total=total)
        return lambda steps: self._bars.update(task, advance=steps)
