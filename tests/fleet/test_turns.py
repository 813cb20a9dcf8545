"""How many UEs attach at a time: the bound against gateways of any speed, and turns in the order in which UEs come."""

from __future__ import annotations

import asyncio
import heapq

import pytest

from lab.fleet.turns import FIRST_LIMIT, LEAST_LIMIT, AttachLimit, Turns


class Gateway:
    """Works on one attach after the other, each taking ``work``; a message takes ``delay`` besides."""

    def __init__(self, work: float, delay: float) -> None:
        self.work, self.delay = work, delay
        self._free = 0.0

    def done(self, now: float) -> float:
        """When an attach that begins now is over."""
        self._free = max(self._free, now) + self.work
        return self._free + self.delay


def attach_all(gateway: Gateway, count: int, limit: AttachLimit) -> tuple[float, list[int], list[float]]:
    """``count`` UEs that have all come: how long all take, the bounds meanwhile, how long each took."""
    now, begun, under_way = 0.0, 0, list[tuple[float, float]]()
    bounds, took = list[int](), list[float]()
    while len(took) < count:
        while begun < count and len(under_way) < limit.value:
            heapq.heappush(under_way, (gateway.done(now), now))
            begun += 1
        now, since = heapq.heappop(under_way)
        took.append(now - since)
        limit.took(now - since, attached=True, used=begun < count)
        bounds.append(limit.value)
    return now, bounds, took


@pytest.mark.parametrize(
    ("work", "delay"),
    [(0.02, 0.01), (0.002, 0.01), (0.2, 0.01), (0.02, 1.2), (0.001, 2.0)],
    ids=["laptop", "fast", "busy", "far", "fast and far"],
)
def test_the_bound_neither_slows_the_gateway_nor_keeps_ues_waiting_there(work: float, delay: float) -> None:
    count = max(400, int(40 / work))
    seconds, bounds, took = attach_all(Gateway(work, delay), count, AttachLimit())
    assert count * work + delay <= seconds < 1.25 * (count * work + delay) + 30 * delay
    later = sorted(took[len(took) // 4 :])
    assert later[int(0.95 * len(later))] < 1.6 * max(0.5, 4 * (work + delay)), max(bounds)


def test_a_gateway_that_slows_down_is_asked_less() -> None:
    gateway, limit = Gateway(0.005, 0.01), AttachLimit()
    _, before, _ = attach_all(gateway, 2000, limit)
    slower = Gateway(0.1, 0.01)
    _, after, _ = attach_all(slower, 1000, limit)
    assert before[-1] > 4 * after[-1]


def test_attaches_that_fail_shrink_the_bound_but_are_not_the_measure() -> None:
    """A refusal that comes at once does not make every other attach a slow one."""
    limit = AttachLimit()
    for _ in range(100):
        limit.took(0.001, attached=False, used=False)
        limit.took(1.4, attached=True, used=True)
    assert limit.value > FIRST_LIMIT
    for _ in range(400):
        limit.took(60.0, attached=False, used=True)
    assert limit.value == LEAST_LIMIT


def test_a_bound_that_nobody_reaches_does_not_grow() -> None:
    limit = AttachLimit()
    for _ in range(1000):
        limit.took(0.01, attached=True, used=False)
    assert limit.value == FIRST_LIMIT


def test_a_bound_that_is_set_stays() -> None:
    limit = AttachLimit(7)
    for seconds in (0.01, 90.0) * 100:
        limit.took(seconds, attached=True, used=True)
    assert limit.value == 7


def test_turns_come_in_order_and_all_at_once_at_the_end() -> None:
    async def scenario() -> None:
        turns, order, ending = Turns(AttachLimit(2)), list[int](), asyncio.Event()

        async def attach(number: int) -> None:
            async with turns.one():
                order.append(number)
                if number < 4:
                    return
                await ending.wait()

        tasks = [asyncio.create_task(attach(number)) for number in range(9)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert order == [0, 1, 2, 3, 4, 5]
        assert turns.waiting == 3
        turns.open()
        for _ in range(20):
            await asyncio.sleep(0)
        assert order == [*range(9)]
        assert turns.waiting == 0
        ending.set()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_who_is_cancelled_while_waiting_takes_no_turn() -> None:
    async def scenario() -> None:
        turns, ending = Turns(AttachLimit(1)), asyncio.Event()
        served = list[int]()

        async def attach(number: int) -> None:
            async with turns.one():
                served.append(number)
                await ending.wait()

        tasks = [asyncio.create_task(attach(number)) for number in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
        ending.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert served == [0, 2]
        async with turns.one():
            pass

    asyncio.run(scenario())
