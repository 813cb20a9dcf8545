"""What our tests call a lost echo: one that nobody answers, not one whose answer takes its time on a busy machine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address, ip_interface
from itertools import count

import pytest

from lab.namespaces import Namespace
from protocols.dataplane.userspace.host import InProcessHost
from protocols.dataplane.userspace.tun import TunDevice
from tests.peers.namespaces import ping, require_namespaces
from tests.peers.ping_flow import PingFlow

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

HERE = ip_interface("192.0.2.1/24")
HOST = ip_address("192.0.2.80")
LATE = 0.3  # seconds; much more than twice the round trip of the others, and than the interval


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    require_namespaces()
    with Namespace("ping") as made:
        yield made


def asked(namespace: Namespace, delay: Callable[[int], float | None], ask: Callable[[], Awaitable[None]]) -> None:
    """Run ``ask`` beside a host that answers the first, second, ... echo with this delay, ``None``: never."""

    async def body() -> None:
        host, numbers = InProcessHost(HOST), count(1)
        device = await TunDevice.open("ping0", [HERE], 1400)

        def receive(packet: bytes) -> None:
            answer = host.receive(packet)
            seconds = None if answer is None else delay(next(numbers))
            if answer is not None and seconds is not None:
                asyncio.get_running_loop().call_later(seconds, device.write, answer)

        device.start(receive)
        try:
            await ask()
        finally:
            device.close()

    namespace.call(lambda: asyncio.run(body()))


@pytest.mark.parametrize("late", [1, 2, 3])
def test_an_answer_that_comes_late_is_not_lost(namespace: Namespace, late: int) -> None:
    """ping(8) itself gives up its last echo soon after the others were answered."""

    async def ask() -> None:
        found = await asyncio.to_thread(ping, namespace, HOST, count=3, wait=10.0)
        assert (found.sent, found.received) == (3, 3), found.output

    asked(namespace, lambda number: LATE if number == late else 0.0, ask)


def test_an_echo_that_nobody_answers_is_lost(namespace: Namespace) -> None:
    async def ask() -> None:
        found = await asyncio.to_thread(ping, namespace, HOST, count=3, wait=LATE)
        assert (found.sent, found.received) == (3, 2), found.output

    asked(namespace, lambda number: None if number == 2 else 0.0, ask)


def test_what_is_on_its_way_when_a_flow_is_stopped_is_not_lost(namespace: Namespace) -> None:
    async def ask() -> None:
        def flow() -> PingFlow:
            with PingFlow(namespace, HOST, interval=0.01) as flow:
                flow.wait_answers(20)
            return flow

        assert (await asyncio.to_thread(flow)).lost == 2

    asked(namespace, lambda number: None if number in (3, 5) else LATE, ask)
