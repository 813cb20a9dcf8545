"""The event loop on virtual time: jumps, order, standstill; streams in memory with delay, silence and refusal."""

from __future__ import annotations

import asyncio
import time
from ipaddress import ip_address

import pytest

from lab.virtual.loop import START, Deadlock, VirtualLoop
from lab.virtual.streams import SOURCE
from protocols.path import Endpoint

SERVER = Endpoint.of("192.0.2.10", 3868)
WEEK = 7 * 24 * 3600.0


class Peer(asyncio.Protocol):
    """Remembers what came, and when."""

    def __init__(self, *, echoes: bool = False) -> None:
        self.heard: list[tuple[float, bytes]] = []
        self.lost: list[Exception | None] = []
        self.transport: asyncio.Transport | None = None
        self._echoes = echoes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard.append((asyncio.get_running_loop().time(), data))
        if self._echoes and self.transport is not None:
            self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


async def serve(loop: VirtualLoop, peers: list[Peer]) -> asyncio.Task[None]:
    """A server that echoes, as Diameter's listener has it: a listening socket, a task that accepts."""
    listening = loop.streams.listen(SERVER.address, SERVER.port)

    async def accept() -> None:
        try:
            while True:
                accepted, _ = await loop.sock_accept(listening)
                peers.append(Peer(echoes=True))
                await loop.connect_accepted_socket(lambda: peers[-1], accepted)
        finally:
            listening.close()

    return loop.create_task(accept())


async def connect(loop: VirtualLoop) -> Peer:
    _, peer = await loop.create_connection(Peer, str(SERVER.address), SERVER.port)
    assert isinstance(peer, Peer)
    return peer


def test_a_week_takes_no_time() -> None:
    loop = VirtualLoop()
    began = time.monotonic()
    loop.run(asyncio.sleep(WEEK))
    assert loop.time() == START + WEEK
    assert time.monotonic() - began < 5.0


def test_timers_fire_exactly_when_they_are_due_and_in_the_order_they_were_set() -> None:
    loop = VirtualLoop()
    fired: list[tuple[float, int]] = []

    def note(number: int) -> None:
        fired.append((loop.time(), number))

    async def main() -> None:
        for number in range(50):
            loop.call_at(START + 0.1 + 0.2, note, number)
            loop.call_at(START + WEEK / 7 * (number % 3), note, number)
        await asyncio.sleep(WEEK)

    loop.run(main())
    assert fired == sorted(fired)
    assert {moment for moment, _ in fired} == {START, START + 0.1 + 0.2, START + WEEK / 7, START + WEEK / 7 * 2}


def test_when_nothing_is_left_to_happen_it_says_who_waits() -> None:
    async def wait_for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match=r"nothing is left to happen at 1000\.000000 s.*wait_for_ever"):
        VirtualLoop().run(wait_for_ever())


def test_timeouts_task_groups_and_conditions_work() -> None:
    async def main() -> list[str]:
        done: list[str] = []

        async def step(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            done.append(name)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(step("late", 2.0))
            tasks.create_task(step("early", 1.0))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        return done

    loop = VirtualLoop()
    assert loop.run(main()) == ["early", "late"]
    assert loop.time() == START + 7


def test_what_blocks_is_done_at_once_and_its_error_belongs_to_who_waits() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        assert await loop.run_in_executor(None, sum, (1, 2)) == 3
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, divmod, 1, 0)
        assert loop.time() == before

    VirtualLoop().run(main())


def test_sets_of_tasks_are_walked_in_the_order_of_their_making() -> None:
    async def main() -> None:
        tasks = [asyncio.ensure_future(asyncio.sleep(number % 7)) for number in range(200)]
        done, _ = await asyncio.wait(tasks)
        hashes = [hash(task) for task in tasks]
        assert hashes == sorted(set(hashes))
        assert len(done) == len(tasks)

    VirtualLoop().run(main())


def test_octets_go_both_ways_with_the_servers_delay_and_in_order() -> None:
    loop = VirtualLoop()

    async def main() -> None:
        SOURCE.set(ip_address("192.0.2.1"))
        peers: list[Peer] = []
        serving = await serve(loop, peers)
        loop.streams.delays[SERVER.address] = 0.5
        client = await connect(loop)
        assert loop.time() == START + 1.0
        assert client.transport is not None
        assert client.transport.get_extra_info("sockname")[0] == "192.0.2.1"
        client.transport.write(b"one")
        loop.streams.delays[SERVER.address] = 0.0  # what comes later overtakes nothing
        client.transport.write(b"two")
        await asyncio.sleep(2)
        assert [octets for _, octets in peers[0].heard] == [b"one", b"two"]
        assert peers[0].heard[1][0] == START + 1.5
        assert b"".join(octets for _, octets in client.heard) == b"onetwo"
        client.transport.close()
        await asyncio.sleep(0.1)
        assert (client.lost, peers[0].lost) == ([None], [None])
        assert not loop.streams.open
        serving.cancel()

    loop.run(main())
    assert not loop.failures


def test_nobody_listens_and_the_port_is_taken() -> None:
    loop = VirtualLoop()

    async def main() -> None:
        with pytest.raises(ConnectionRefusedError):
            await connect(loop)
        listening = loop.streams.listen(SERVER.address, SERVER.port)
        with pytest.raises(OSError, match="Address already in use"):
            loop.streams.listen(SERVER.address, SERVER.port)
        loop.streams.delays[SERVER.address] = 1.0
        waiting = loop.create_task(connect(loop))
        await asyncio.sleep(1.5)  # it has arrived, and nobody has taken it
        listening.close()
        peer = await waiting
        await asyncio.sleep(1)
        assert isinstance(peer.lost[0], ConnectionResetError)

    loop.run(main())


def test_who_gives_up_while_connecting_leaves_no_half_open_connection() -> None:
    loop = VirtualLoop()
    loop.streams.delays[SERVER.address] = 1.0

    async def main() -> None:
        peers: list[Peer] = []
        serving = await serve(loop, peers)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await connect(loop)
        await asyncio.sleep(5)
        assert loop.streams.open == []
        assert [len(peer.lost) for peer in peers] == [1]
        serving.cancel()

    loop.run(main())
    assert not loop.failures


def test_a_silent_server_is_heard_again_later() -> None:
    loop = VirtualLoop()

    async def main() -> None:
        peers: list[Peer] = []
        serving = await serve(loop, peers)
        client = await connect(loop)
        loop.streams.silence(SERVER.address)
        assert client.transport is not None
        client.transport.write(b"anybody?")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await connect(loop)
        assert peers[0].heard == []
        loop.streams.hear(SERVER.address)
        await asyncio.sleep(1)
        assert [octets for _, octets in client.heard] == [b"anybody?"]
        serving.cancel()

    loop.run(main())


def test_an_exception_that_nobody_took_is_noted() -> None:
    loop = VirtualLoop()

    async def main() -> None:
        loop.call_soon(lambda: 1 // 0)
        await asyncio.sleep(1)

    loop.run(main())
    assert len(loop.failures) == 1
    assert "ZeroDivisionError" in loop.failures[0]
