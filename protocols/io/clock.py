"""The two clocks of a live node: monotonic seconds drive timers, wall seconds are shown to people."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SystemClock:
    """The operating system's clocks."""

    def monotonic(self) -> float:
        """Seconds that never go back; the same clock as asyncio's ``loop.time``."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return time.time()

    def moment(self) -> datetime:
        """Now, in UTC: what certificates are checked against."""
        return datetime.now(UTC)
