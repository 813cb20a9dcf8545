"""How many UEs attach at a time: as many as the gateway serves without making them wait for one another.

More at once bring no more attaches a second, only UEs that wait ever longer, ask again, and give up what the gateway
still works on. So the bound follows what attaches take, as TCP's window follows loss: it grows, by half at first, while
they take their time, and shrinks by a quarter when they take much longer than the quickest one did.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

FIRST_LIMIT = 4
LEAST_LIMIT = 2
UNHURRIED = 0.5  # seconds that an attach may take in any case: IKE requests are repeated after as much
STRETCH = 4.0  # and how many times as long as the quickest one
GROWTH_AT_FIRST, GROWTH, SHRINKING = 0.5, 0.0625, 0.25


class AttachLimit:
    """The bound; pure: told how long attaches took. ``fixed``: one that stays."""

    def __init__(self, fixed: int | None = None) -> None:
        self._fixed = fixed is not None
        self._limit = float(FIRST_LIMIT if fixed is None else fixed)
        self._quickest: float | None = None
        self._seconds = 0.0
        self._count = 0
        self._finding = True

    @property
    def value(self) -> int:
        """How many may attach at a time."""
        return int(self._limit)

    def took(self, seconds: float, *, attached: bool, used: bool) -> None:
        """An attach is over, well or not; ``used``: others waited for their turn meanwhile."""
        if self._fixed:
            return
        if attached:  # a refusal may come at once
            self._quickest = seconds if self._quickest is None else min(self._quickest, seconds)
        self._seconds += seconds
        self._count += 1
        if self._count < self.value:
            return
        average, self._seconds, self._count = self._seconds / self._count, 0.0, 0
        if average > max(UNHURRIED, STRETCH * (self._quickest or 0.0)):
            self._finding = False
            self._limit = max(LEAST_LIMIT, self._limit * (1 - SHRINKING))
        elif used:
            self._limit += max(1.0, self._limit * (GROWTH_AT_FIRST if self._finding else GROWTH))


class Turns:
    """Who may attach now, in the order in which they came."""

    def __init__(self, limit: AttachLimit) -> None:
        self.limit = limit
        self._attaching = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """A turn, when there is one."""
        if self._waiting or self._attaching >= self.limit.value:
            mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(mine)
            await mine
        else:
            self._attaching += 1
        try:
            yield
        finally:
            self._attaching -= 1
            self._call()

    def open(self) -> None:
        """Let everybody through, at the end."""
        for waiting in self._waiting:
            if not waiting.done():
                self._attaching += 1
                waiting.set_result(None)
        self._waiting.clear()

    def _call(self) -> None:
        while self._waiting and self._attaching < self.limit.value:
            waiting = self._waiting.popleft()
            if not waiting.done():  # cancelled, at the end
                self._attaching += 1
                waiting.set_result(None)
