"""Links, ports 500 and 4500 and the driver on real loopback sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path as FilePath

import pytest

from protocols.errors import BackendError, LocalError
from protocols.io.driver import Driver
from protocols.io.link import LossyLink, NextHopLink, Receiver, UdpLink
from protocols.io.udp import SwuPorts
from protocols.path import Datagram, Endpoint, Path

HERE, THERE, HOP = (Endpoint.of(f"127.0.33.{number}", 0) for number in (1, 2, 3))


class Inbox:
    """What arrived."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[bytes, Path]] = asyncio.Queue()

    def __call__(self, octets: bytes, path: Path) -> None:
        self.queue.put_nowait((octets, path))

    async def next(self) -> tuple[bytes, Path]:
        async with asyncio.timeout(5):
            return await self.queue.get()


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await story()

    asyncio.run(main())


def test_udp_link_both_ways() -> None:
    async def story() -> None:
        left, right = Inbox(), Inbox()
        a, b = UdpLink(HERE, left), UdpLink(THERE, right)
        try:
            a.send(b"hello", b.local)
            octets, path = await right.next()
            assert (octets, path) == (b"hello", Path(b.local, a.local))
            b.send(b"back", path.remote)
            assert await left.next() == (b"back", Path(a.local, b.local))
        finally:
            a.close()
            b.close()
            b.close()

    run(story)


@pytest.mark.parametrize(
    ("here", "closed"),
    [(HERE, Endpoint.of("127.0.33.9", 15999)), (Endpoint.of("::1", 0), Endpoint.of("::1", 15999))],
    ids=["IPv4", "IPv6"],
)
def test_icmp_errors_are_told_and_cost_no_datagram(here: Endpoint, closed: Endpoint) -> None:
    """The error of one datagram is reported by the next call on the socket, whomever that is for."""

    async def story() -> None:
        inbox, told = Inbox(), asyncio.Queue[tuple[bytes, Endpoint]]()
        a, b = UdpLink(here, Inbox()), UdpLink(here, inbox)
        a.report_unreachable(lambda octets, remote: told.put_nowait((octets, remote)))
        try:
            for _ in range(3):
                a.send(b"is anybody there?", closed)
                a.send(b"hello", b.local)
                assert (await inbox.next())[0] == b"hello"
                async with asyncio.timeout(5):
                    assert await told.get() == (b"is anybody there?", closed)
        finally:
            a.close()
            b.close()

    run(story)


def test_unusable_addresses_are_one_line() -> None:
    async def story() -> None:
        taken = UdpLink(HERE, Inbox())
        try:
            with pytest.raises(BackendError, match="the port is in use"):
                UdpLink(taken.local, Inbox())
            with pytest.raises(BackendError, match="does not have the address"):
                UdpLink(Endpoint.of("192.0.2.1", 0), Inbox())
        finally:
            taken.close()

    run(story)


def test_refused_datagrams_are_counted_and_harm_nothing() -> None:
    """An ICMP error of an earlier datagram is reported on a later call: neither may raise."""

    async def story() -> None:
        inbox = Inbox()
        gone = UdpLink(THERE, Inbox())
        gone.close()
        a, b = UdpLink(HERE, inbox), UdpLink(THERE, Inbox())
        try:
            a.send(b"to nobody", gone.local)
            a.send(b"x" * 70000, b.local)
            assert a.dropped["send-EMSGSIZE"] == 1
            b.send(b"still here", a.local)
            assert (await inbox.next())[0] == b"still here"
        finally:
            a.close()
            b.close()

    run(story)


def test_next_hop_is_on_the_path_and_not_at_its_end() -> None:
    async def story() -> None:
        inbox, hop_inbox = Inbox(), Inbox()
        hop = UdpLink(HOP, hop_inbox)
        far = Endpoint(THERE.address, hop.local.port)

        def opener(receive: Receiver) -> UdpLink:
            return UdpLink(HERE, receive)

        link = NextHopLink(opener, hop.local.address, inbox)
        stranger = UdpLink(THERE, Inbox())
        try:
            link.send(b"out", far)
            octets, path = await hop_inbox.next()
            assert (octets, path.remote) == (b"out", link.local)
            hop.send(b"in", link.local)
            assert await inbox.next() == (b"in", Path(link.local, far))
            stranger.send(b"forged", link.local)
            hop.send(b"more", link.local)
            assert (await inbox.next())[0] == b"more"
            assert link.dropped["not-from-the-hop"] == 1
        finally:
            link.close()
            hop.close()
            stranger.close()

    run(story)


def test_lossy_link_loses_by_its_seed() -> None:
    async def story() -> None:
        inbox = Inbox()
        far = UdpLink(THERE, inbox)
        arrived = asyncio.Event()

        def opener(receive: Receiver) -> UdpLink:
            def watched(octets: bytes, path: Path) -> None:
                receive(octets, path)
                arrived.set()

            return UdpLink(HERE, watched)

        link = LossyLink(opener, Inbox(), send_loss=0.5, receive_loss=1.0, seed=1)
        try:
            for number in range(100):
                link.send(bytes([number]), far.local)
            far.send(b"never heard", link.local)
            lost = link.dropped["lost-outbound"]
            assert 30 < lost < 70
            for _ in range(100 - lost):
                await inbox.next()
            assert inbox.queue.empty()
            async with asyncio.timeout(5):
                await arrived.wait()
            assert link.dropped["lost-inbound"] == 1
        finally:
            link.close()
            far.close()

    run(story)


def test_ports_tell_ike_from_esp() -> None:
    """RFC 3948 §2.2, §2.3: the marker, ESP, keepalives, and what is too short for either."""

    async def story() -> None:
        ike: asyncio.Queue[Datagram] = asyncio.Queue()
        esp: asyncio.Queue[tuple[bytes, Path]] = asyncio.Queue()
        ports = SwuPorts(on_ike=ike.put_nowait, on_esp=lambda octets, path, mark: esp.put_nowait((octets, path)))
        plain = ports.open(HERE, encapsulating=False)
        natt = ports.open(HERE, encapsulating=True)
        inbox = Inbox()
        far = UdpLink(THERE, inbox)
        try:
            far.send(b"init", plain)
            far.send(b"\xff", natt)
            far.send(b"short", natt)
            far.send(bytes(4) + b"auth", natt)
            far.send(b"\0\0\1\0" + bytes(8), natt)
            async with asyncio.timeout(5):
                assert (await ike.get()).payload == b"init"
                assert (await ike.get()).payload == b"auth"
                assert (await esp.get())[0] == b"\0\0\1\0" + bytes(8)
            assert ports.dropped["short"] == 1
            ports.send_ike(Datagram(Path(natt, far.local), b"answer"))
            assert (await inbox.next())[0] == bytes(4) + b"answer"
            ports.send_ike(Datagram(Path(natt, far.local), b"\xff"))
            assert (await inbox.next())[0] == b"\xff"
            ports.send_ike(Datagram(Path(plain, far.local), b"init"))
            assert (await inbox.next())[0] == b"init"
            ports.send_esp(b"esp" * 4, Path(plain, far.local), True)
            ports.send_ike(Datagram(Path(Endpoint.of("127.0.33.9", 1), far.local), b"x"))
            assert (ports.dropped["no-port-for-esp"], ports.dropped["no-port"]) == (1, 1)
            with pytest.raises(BackendError):
                ports.open(natt, encapsulating=True)
            ports.close(natt)
            assert ports.local_endpoints == (plain,)
        finally:
            ports.close_all()
            far.close()

    run(story)


class Countdown:
    """A machine that says a number, sends it, and wants to be woken for the next."""

    def __init__(self, count: int) -> None:
        self.left = count
        self._due: list[int] = []
        self._sent: list[int] = []
        self._deadline: float | None = 0.0

    def poll_event(self) -> int | None:
        return self._due.pop() if self._due else None

    def poll_transmit(self) -> int | None:
        return self._sent.pop() if self._sent else None

    def next_deadline(self) -> float | None:
        return self._deadline

    def handle_timeout(self, now: float) -> None:
        self.left -= 1
        self._due.append(self.left + 1)
        self._sent.append(self.left + 1)
        self._deadline = now + 0.001 if self.left else None


def test_driver_carries_out_and_wakes() -> None:
    async def story() -> None:
        log: list[str] = []
        done = asyncio.Event()
        driver: Driver[int, int]

        def event(number: int) -> None:
            log.append(f"event {number}")
            driver.pump()  # folds
            if number == 1:
                done.set()

        driver = Driver(Countdown(3), on_event=event, transmit=lambda number: log.append(f"send {number}"))
        driver.pump()
        async with asyncio.timeout(5):
            await done.wait()
        assert log == ["send 3", "event 3", "send 2", "event 2", "send 1", "event 1"]
        driver.close()
        driver.pump()

    run(story)


class Answering:
    """A machine that has an answer to send, and events about it."""

    def __init__(self, events: list[str]) -> None:
        self._events = events
        self._sent = ["answer"]

    def poll_event(self) -> str | None:
        return self._events.pop(0) if self._events else None

    def poll_transmit(self) -> str | None:
        return self._sent.pop() if self._sent else None

    def next_deadline(self) -> None:
        return None

    def handle_timeout(self, now: float) -> None:
        """Nothing is ever due."""


@pytest.mark.parametrize(
    ("events", "order"),
    [
        (["closed"], ["answer", "closed"]),
        (["installed"], ["installed", "answer"]),
        (["established", "installed", "closed"], ["established", "installed", "answer", "closed"]),
    ],
)
def test_what_is_urgent_is_there_before_the_answer_leaves(events: list[str], order: list[str]) -> None:
    async def story() -> None:
        log: list[str] = []
        driver = Driver(Answering(events), on_event=log.append, transmit=log.append, urgent="installed".__eq__)
        driver.pump()
        assert log == order
        driver.close()

    run(story)


def test_closing_twice_and_opening_twice() -> None:
    async def story() -> None:
        ports = SwuPorts(on_ike=lambda d: None, on_esp=lambda o, p, t: None)
        local = ports.open(HERE, encapsulating=False)
        with pytest.raises(LocalError, match="open already"):
            ports.open(local, encapsulating=False, opener=lambda receive: _Same(local))
        ports.close(local)
        ports.close(local)
        ports.close_all()
        assert ip_address("127.0.33.1") == local.address

    run(story)


class _Same:
    """A link that claims an end point."""

    def __init__(self, local: Endpoint) -> None:
        from collections import Counter

        self.local = local
        self.dropped: Counter[str] = Counter()

    def send(self, octets: bytes, remote: Endpoint, traffic_class: int | None = None) -> None:
        """Nowhere."""

    def close(self) -> None:
        """Nothing to close."""


V4, V6 = HERE, Endpoint.of("::1", 0)


@pytest.mark.parametrize("here", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("mark", [0, 34], ids=["unmarked", "marked"])
def test_each_datagram_has_its_traffic_class(here: Endpoint, mark: int) -> None:
    """RFC 2474, RFC 3168: of each by itself, and the port's own where there is none; also what looks like it."""

    async def story() -> None:
        seen: list[int] = []
        inbox = Inbox()

        def receive(octets: bytes, path: Path) -> None:
            seen.append(far.traffic_class)
            inbox(octets, path)

        far, link = UdpLink(here, receive), UdpLink(here, Inbox())
        try:
            far.report_traffic_class()
            if mark:
                link.mark(mark)
            for traffic_class in (None, 46 << 2 | 2, 0, 3, 255, mark << 2, None):
                link.send(b"hello", far.local, traffic_class)
                assert (await inbox.next())[0] == b"hello"
            assert seen == [mark << 2, 46 << 2 | 2, 0, 3, 255, mark << 2, mark << 2]
            assert not link.dropped
        finally:
            link.close()
            far.close()

    run(story)


def test_ports_hand_the_traffic_class_of_esp_on_through_links_that_wrap_links() -> None:
    """A marked datagram goes by way of a hop and a lossy link, out and in."""

    async def story() -> None:
        esp: asyncio.Queue[tuple[bytes, int]] = asyncio.Queue()
        ports = SwuPorts(on_ike=lambda d: None, on_esp=lambda o, p, mark: esp.put_nowait((o, mark)))
        seen: list[int] = []
        inbox = Inbox()

        def receive(octets: bytes, path: Path) -> None:
            seen.append(hop.traffic_class)
            inbox(octets, path)

        hop = UdpLink(HOP, receive)
        hop.report_traffic_class()

        def through(receive: Receiver) -> NextHopLink:
            return NextHopLink(lambda inner: UdpLink(HERE, inner), HOP.address, receive)

        local = ports.open(HERE, encapsulating=True, opener=lambda receive: LossyLink(through, receive))
        gateway = Endpoint(THERE.address, hop.local.port)
        try:
            octets = bytes(range(1, 60))
            ports.send_esp(octets, Path(local, gateway), True, 46 << 2 | 1)
            _, path = await inbox.next()
            for traffic_class in (10 << 2 | 3, None):
                hop.send(octets, path.remote, traffic_class)
                async with asyncio.timeout(5):
                    assert await esp.get() == (octets, traffic_class or 0)
            assert seen == [46 << 2 | 1]
            assert ports.path_mtu(Path(local, gateway)) == hop.path_mtu(local)
        finally:
            ports.close_all()
            hop.close()

    run(story)


@pytest.mark.parametrize("here", [V4, V6], ids=["IPv4", "IPv6"])
def test_the_path_mtu_is_the_kernels(here: Endpoint) -> None:
    """Of loopback, that of the device; where a socket cannot send to, nothing is known."""

    async def story() -> None:
        link = UdpLink(here, Inbox())
        mtu = min(int(FilePath("/sys/class/net/lo/mtu").read_text()), 65535 if here is V4 else 65575)
        try:
            assert link.path_mtu(Endpoint(here.address, 9)) == mtu
            assert link.path_mtu(Endpoint((V6 if here is V4 else V4).address, 9)) is None
        finally:
            link.close()
        ports = SwuPorts(on_ike=lambda d: None, on_esp=lambda o, p, t: None)
        assert ports.path_mtu(Path(here, here)) is None

    run(story)
