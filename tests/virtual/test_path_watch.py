"""The watch over the path in use (RFC 4555 §3.5) where nobody says that there are packets: it asks the counters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from lab.virtual.loop import START, VirtualLoop
from ue.path_watch import PathWatch
from ue.silence import HINT_INTERVAL

INTERVAL = 0.5
PACE = 0.02


@dataclass(eq=False)
class Path:
    """Packets sent and heard, how often they were asked for, and when there was a hint."""

    sent: int = 0
    heard: int = 0
    asked: int = 0
    hints: list[float] = field(default_factory=list)

    def counters(self) -> tuple[int, int]:
        self.asked += 1
        return self.sent, self.heard


def played(story: Callable[[Path, PathWatch], object]) -> Path:
    """Run a coroutine on virtual time with a watch; every timer has ended when the watch is closed."""
    path = Path()

    async def body() -> None:
        loop = asyncio.get_running_loop()
        watch = PathWatch(
            INTERVAL,
            counters=path.counters,
            hint=lambda: path.hints.append(round(loop.time() - START, 6)),
            now=loop.time,
        )
        coroutine = story(path, watch)
        assert asyncio.iscoroutine(coroutine)
        await coroutine
        watch.close()
        asked = path.asked
        await asyncio.sleep(60)
        assert path.asked == asked

    VirtualLoop().run(body())
    return path


async def traffic(path: Path, seconds: float, *, answered: bool) -> None:
    for _ in range(round(seconds / PACE)):
        path.sent += 1
        path.heard += answered
        await asyncio.sleep(PACE)


def test_a_path_that_falls_silent_under_traffic_is_a_hint() -> None:
    async def story(path: Path, watch: PathWatch) -> None:
        watch.poll_always()
        await asyncio.sleep(3.1)
        await traffic(path, 5.0, answered=True)
        assert path.hints == []
        await traffic(path, 2.0, answered=False)

    path = played(story)
    first, second = path.hints
    assert 8.1 < first <= 8.1 + 1.5 * INTERVAL
    assert second - first == pytest.approx(HINT_INTERVAL)


def test_one_packet_without_an_answer_is_a_hint_and_one_with_an_answer_is_none() -> None:
    """At least the interval after it, wherever between two looks it was sent."""

    for early in (0.001, 0.12, 0.249):

        async def story(path: Path, watch: PathWatch, early: float = early) -> None:
            watch.poll_always()
            await asyncio.sleep(1.0 + early)
            path.sent += 1
            await asyncio.sleep(0.2)
            path.heard += 1
            await asyncio.sleep(10.0 - 1.2 - early)
            path.sent += 1
            await asyncio.sleep(10.0)

        (hint,) = played(story).hints
        assert 10.0 + INTERVAL <= hint <= 10.0 + 1.5 * INTERVAL


def test_an_idle_path_is_only_looked_at() -> None:
    async def story(path: Path, watch: PathWatch) -> None:
        watch.poll_always()
        watch.poll_always()
        await asyncio.sleep(10.01)
        assert path.asked == 1 + 10.0 / (INTERVAL / 2)

    assert played(story).hints == []


def test_without_polling_it_is_stirred_by_packets_alone() -> None:
    async def story(path: Path, watch: PathWatch) -> None:
        path.sent += 1
        await asyncio.sleep(10.0)
        assert path.asked == 0
        watch.stirred()
        await asyncio.sleep(10.0)

    assert played(story).hints == [10.0 + INTERVAL]


def test_polling_begins_again_after_an_end() -> None:
    async def story(path: Path, watch: PathWatch) -> None:
        watch.poll_always()
        await traffic(path, 1.0, answered=True)
        watch.close()
        asked = path.asked
        await traffic(path, 1.0, answered=False)
        assert path.asked == asked
        watch.poll_always()
        await asyncio.sleep(5.0)
        assert path.hints == []  # what was sent in between is not asked about
        path.sent += 1
        await asyncio.sleep(1.0)

    (hint,) = played(story).hints
    assert 7.0 + INTERVAL <= hint <= 7.0 + 1.5 * INTERVAL
