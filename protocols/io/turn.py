"""A reader's turn on an event loop: what it makes others send waits until it has done, so that it can go together.

A device or socket that delivers many packets at once opens the turn; whoever sends meanwhile may keep what it has for
``at_end``. Outside of a turn nothing waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary


class Turn:
    """The turn of one event loop; ``open``: somebody has it."""

    def __init__(self) -> None:
        self.open = False
        self._waiting: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Readers take turns: nobody else has it."""
        self.open = True

    def at_end(self, flush: Callable[[], None]) -> None:
        """Call ``flush`` when the turn is over; it must not raise."""
        self._waiting.append(flush)

    def end(self) -> None:
        """Let everybody send."""
        self.open = False
        waiting = self._waiting
        if waiting:
            self._waiting = []
            for flush in waiting:
                flush()


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turn] = WeakKeyDictionary()


def turn_of(loop: asyncio.AbstractEventLoop) -> Turn:
    """The one turn of a loop."""
    return _turns.setdefault(loop, Turn())
