"""Trains of datagrams (udp(7), UDP_SEGMENT and UDP_GRO) on real sockets: who receives cannot tell."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest
from pyroute2 import AsyncIPRoute

from protocols.io.link import UDP_GRO, UdpLink
from protocols.io.turn import turn_of
from protocols.path import Endpoint, Path
from tests.dataplane.test_tun import in_namespace

PATIENCE = 5.0
LOOPBACK = 1  # the index of every namespace's lo
V4, V6 = Endpoint.of("127.0.33.1", 0), Endpoint.of("::1", 0)


class Inbox:
    """What a link received, with its traffic class, until a number has come."""

    def __init__(self, local: Endpoint) -> None:
        self.seen: list[tuple[bytes, Path, int]] = []
        self.link = UdpLink(local, self._take)
        self.link.report_traffic_class()
        self._arrived = asyncio.Event()

    def _take(self, octets: bytes, path: Path) -> None:
        self.seen.append((octets, path, self.link.traffic_class))
        self._arrived.set()

    async def octets(self, number: int) -> list[bytes]:
        async with asyncio.timeout(PATIENCE):
            while len(self.seen) < number:
                self._arrived.clear()
                await self._arrived.wait()
        return [octets for octets, _, _ in self.seen]


def story(body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await body()

    asyncio.run(main())


def numbered(lengths: list[int]) -> list[bytes]:
    return [bytes([number % 256]) * length for number, length in enumerate(lengths)]


def ignore(octets: bytes, path: Path) -> None:
    """Nothing comes."""


@pytest.mark.parametrize("here", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(
    "lengths",
    [[1400] * 200, [100] * 5 + [60] + [100] * 3, [60, 100, 100, 60, 60, 1], [1] * 70, [40_000] * 3, [0, 0, 5, 0], [9]],
    ids=["long", "shorter", "mixed", "small", "too-long-together", "empty", "one"],
)
def test_all_datagrams_of_a_turn_arrive_in_order(here: Endpoint, lengths: list[int]) -> None:
    async def body() -> None:
        inbox, link = Inbox(here), UdpLink(here, ignore)
        datagrams = numbered(lengths)
        turn = turn_of(asyncio.get_running_loop())
        turn.begin()
        for octets in datagrams:
            link.send(octets, inbox.link.local)
        turn.end()
        assert await inbox.octets(len(datagrams)) == datagrams
        assert {path for _, path, _ in inbox.seen} == {Path(inbox.link.local, link.local)}
        assert len({id(path) for _, path, _ in inbox.seen}) == 1
        assert not link.dropped
        link.close()
        inbox.link.close()

    story(body)


def test_a_train_is_one_message_to_the_kernel() -> None:
    async def body() -> None:
        link = UdpLink(V4, ignore)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
            far.bind(("127.0.33.2", 0))
            far.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
            far.setblocking(False)
            to = Endpoint.of(*far.getsockname())
            turn = turn_of(asyncio.get_running_loop())
            turn.begin()
            for octets in numbered([1000, 1000, 1000, 999]):
                link.send(octets, to)
            with pytest.raises(BlockingIOError):
                far.recv(65535)  # they wait for the turn's end
            turn.end()
            octets, ancillary, _, _ = far.recvmsg(65535, 100)
            assert octets == b"".join(numbered([1000, 1000, 1000, 999]))
            ((level, kind, size),) = ancillary
            assert (level, kind, int.from_bytes(size, "little")) == (socket.IPPROTO_UDP, UDP_GRO, 1000)
            link.send(b"now", to)  # nobody's turn
            assert far.recv(65535) == b"now"
        link.close()

    story(body)


@pytest.mark.parametrize("here", [V4, V6], ids=["IPv4", "IPv6"])
def test_traffic_classes_and_end_points_are_kept_apart(here: Endpoint) -> None:
    async def body() -> None:
        left, right, link = Inbox(here), Inbox(here), UdpLink(here, ignore)
        link.mark(10)
        turn = turn_of(asyncio.get_running_loop())
        turn.begin()
        marks = [None, None, 0, 0, 3, 46 << 2 | 1, 46 << 2 | 1, None]
        for number, traffic_class in enumerate(marks):
            for inbox in (left, right) if number % 3 else (left, left, right):
                link.send(bytes([number] * 50), inbox.link.local, traffic_class)
        turn.end()
        for inbox, expected in ((left, [0, 0, 1, 2, 3, 3, 4, 5, 6, 6, 7]), (right, [0, 1, 2, 3, 4, 5, 6, 7])):
            assert [octets[0] for octets in await inbox.octets(len(expected))] == expected
            wanted = [10 << 2 if (mark := marks[number]) is None else mark for number in expected]
            assert [traffic_class for _, _, traffic_class in inbox.seen] == wanted
        for each in (left.link, right.link, link):
            each.close()

    story(body)


def test_what_waits_goes_before_the_link_is_closed() -> None:
    async def body() -> None:
        inbox, link = Inbox(V4), UdpLink(V4, ignore)
        turn = turn_of(asyncio.get_running_loop())
        turn.begin()
        link.send(b"one", inbox.link.local)
        link.send(b"two", inbox.link.local)
        link.close()
        turn.end()
        assert await inbox.octets(2) == [b"one", b"two"]
        inbox.link.close()

    story(body)


def test_a_receiver_that_closes_its_link_hears_no_more_of_a_train() -> None:
    async def body() -> None:
        heard: list[bytes] = []
        closed = asyncio.Event()

        def once(octets: bytes, path: Path) -> None:
            heard.append(octets)
            link.close()
            closed.set()

        link, sender = UdpLink(V4, once), UdpLink(V4, ignore)
        link.report_traffic_class()
        turn = turn_of(asyncio.get_running_loop())
        turn.begin()
        for octets in numbered([100] * 5):
            sender.send(octets, link.local)
        turn.end()
        async with asyncio.timeout(PATIENCE):
            await closed.wait()
        assert heard == numbered([100])
        sender.close()

    story(body)


def answering(inbox: list[bytes], arrived: asyncio.Event, number: int) -> Callable[[bytes, Path], None]:
    def receive(octets: bytes, path: Path) -> None:
        inbox.append(octets)
        if len(inbox) == number:
            arrived.set()

    return receive


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_what_is_too_long_for_a_train_goes_in_fragments() -> None:
    """A segment of a train cannot be fragmented; its datagrams alone can (RFC 791 §3.2)."""

    async def body() -> None:
        async with AsyncIPRoute() as netlink:
            await netlink.link("set", index=LOOPBACK, mtu=1000, state="up")
        heard: list[bytes] = []
        arrived = asyncio.Event()
        far = UdpLink(Endpoint.of("127.0.0.1", 0), answering(heard, arrived, 5))
        link = UdpLink(Endpoint.of("127.0.0.1", 0), ignore)
        turn = turn_of(asyncio.get_running_loop())
        turn.begin()
        for octets in numbered([2000] * 5):
            link.send(octets, far.local)
        turn.end()
        await arrived.wait()
        assert heard == numbered([2000] * 5)
        assert not link.dropped
        far.close()
        link.close()

    in_namespace(body)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_what_cannot_be_sent_is_counted_datagram_by_datagram() -> None:
    async def body() -> None:
        async with AsyncIPRoute() as netlink:
            await netlink.link("set", index=LOOPBACK, state="up")
        link = UdpLink(Endpoint.of("0.0.0.0", 0), ignore)
        turn = turn_of(asyncio.get_running_loop())
        turn.begin()
        for octets in numbered([100] * 5):
            link.send(octets, Endpoint.of("192.0.2.1", 4500))
        assert not link.dropped
        turn.end()
        assert link.dropped == {"send-ENETUNREACH": 5}
        link.close()

    in_namespace(body)
