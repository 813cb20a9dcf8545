"""``SilenceWatch`` on an event loop: armed by traffic, it asks the IKE SA when the path in use falls silent.

Where packets pass this process each of them can stir it; where they do not, the counters are looked at all the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ue.silence import SilenceWatch


class PathWatch:
    """``counters`` are packets sent and packets heard; ``hint`` is called when there is too much of one alone."""

    def __init__(
        self,
        interval: float,
        *,
        counters: Callable[[], tuple[int, int]],
        hint: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self._watch = SilenceWatch(interval)
        self._poll_interval = interval / 2
        self._polling = False
        self._seen: tuple[int, int] | None = None
        self.heard_at: float | None = None  # the last look that found something heard
        self._counters = counters
        self._hint = hint
        self._now = now
        self._timer: asyncio.TimerHandle | None = None

    def stirred(self) -> None:
        """A packet was sent or has come."""
        if self._timer is None and self._watch.stirred(self._now()):
            self._arm()

    def poll_always(self) -> None:
        """From now on nobody says that a packet was sent or has come: the counters are asked, until ``close``."""
        if not self._polling:
            self._polling, self._seen = True, self._counters()
            if self._timer is None:
                self._arm()

    def moved(self) -> None:
        """The path is another one."""
        self._watch.moved()

    def close(self) -> None:
        """Watch no more, until there is traffic or ``poll_always`` again."""
        self._polling = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._watch.deadline = None

    def _arm(self) -> None:
        deadline = self._watch.deadline
        if deadline is None and self._polling:
            deadline = self._now() + self._poll_interval
        if deadline is not None:
            delay = max(0.0, deadline - self._now())
            self._timer = asyncio.get_running_loop().call_later(delay, self._look)

    def _look(self) -> None:
        self._timer = None
        counters, now, hint = self._counters(), self._now(), False
        if self._watch.deadline is not None:
            hint = self._watch.look(*counters, now)
        elif counters != self._seen:
            self._watch.stirred(now)
        if self._seen is None or counters[1] != self._seen[1]:
            self.heard_at = now
        self._seen = counters
        self._arm()
        if hint:
            self._hint()
