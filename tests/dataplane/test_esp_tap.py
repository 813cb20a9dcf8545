"""ESP that does not pass this process comes into the trace: each packet once, split, and not too many (root)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import pytest

from lab.namespaces import Namespace
from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.entropy import SeededEntropy
from protocols.io.esp_tap import EspTap, open_tap_socket
from protocols.io.link import UdpLink
from protocols.io.packet_socket import ETH_P_ALL
from protocols.io.platform import Platform
from protocols.io.raw import RawEspLink
from protocols.io.tap import NAT_KEEPALIVE, NON_ESP_MARKER, DatagramTap
from protocols.io.udp import SwuPorts
from protocols.path import Datagram, Endpoint, Path
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue, Kind
from tests.dataplane.fast_ends import WIRE, ends, inner_address, octets, transfer, until
from tests.dataplane.pairs import mirrored
from tests.peers.namespaces import require_namespaces
from ue.swu import Swu

pytestmark = pytest.mark.root

ENDS = {
    4: (Endpoint.of("127.0.2.1", 4500), Endpoint.of("127.0.1.1", 4500)),
    6: (Endpoint.of("2001:db8:2::1", 4500), Endpoint.of("2001:db8:1::1", 4500)),
}
SPI = b"\x12\x34\x56\x78"
UDP_SEGMENT = 103  # <linux/udp.h>
Body = dict[str, JsonValue]


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    require_namespaces()


def on_loopback(story: Callable[[], Awaitable[None]]) -> None:
    """In a namespace with the addresses of ``ENDS``."""
    with Namespace("tap", ipv6=True) as namespace:
        for end in ENDS[6]:
            namespace.add_address("lo", f"{end.address}/128")
        namespace.run(["ip", "link", "set", "lo", "mtu", "1500"], timeout=5)

        async def bounded() -> None:
            async with asyncio.timeout(20):
                await story()

        namespace.call(lambda: asyncio.run(bounded()))


def esp(number: int, length: int = 100) -> bytes:
    return SPI + number.to_bytes(4, "big") + octets(length - 8, number)


def recorder() -> Recorder:
    return Recorder("node", monotonic=lambda: 0.0, wall=lambda: 0.0)


class Node:
    """What hears one end point."""

    def __init__(
        self,
        local: Endpoint,
        *,
        bare: bool = False,
        limit: int = 1000,
        open_socket: Callable[[], socket.socket] = open_tap_socket,
    ) -> None:
        self.local = local
        self.recorder = recorder()
        self.tap = EspTap(self.recorder, limit=limit, open_socket=open_socket)
        self.tap.open(local, bare=bare)
        assert self.tap.hears

    @property
    def bodies(self) -> list[Body]:
        return [record.body for record in self.recorder.since(0) if record.kind is Kind.DATAGRAM]

    @property
    def payloads(self) -> list[bytes]:
        return [bytes.fromhex(str(body["payload"])) for body in self.bodies]

    @property
    def left_out(self) -> JsonValue:
        return self.tap.view["left_out"]

    def close(self) -> None:
        self.tap.close(self.local)
        self.tap.close(self.local)
        assert not self.tap.hears


@contextlib.contextmanager
def both(version: int, *, bare: bool = False, limit: int = 1000) -> Iterator[tuple[Node, Node]]:
    ue, gateway = (Node(end, bare=bare, limit=limit) for end in ENDS[version])
    try:
        yield ue, gateway
    finally:
        ue.close()
        gateway.close()


@contextlib.contextmanager
def sockets(version: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Of both ends, connected with one another."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as ue, socket.socket(family, socket.SOCK_DGRAM) as gateway:
        names = [(str(end.address), end.port) for end in ENDS[version]]
        for opened, own in zip((ue, gateway), names, strict=True):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
            opened.bind(own)
        ue.connect(names[1])
        gateway.connect(names[0])
        yield ue, gateway


def send_train(opened: socket.socket, datagrams: list[bytes]) -> None:
    """Joined, as UDP GSO does it; the last may be shorter."""
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", len(datagrams[0])))]
    opened.sendmsg([b"".join(datagrams)], control)


def as_by_python(calls: Callable[[DatagramTap], None]) -> list[Body]:
    """What the node's own links would have recorded."""
    kept = recorder()
    calls(DatagramTap(kept))
    return [record.body for record in kept.since(0)]


def test_a_node_that_closes_its_last_port_does_not_wait_for_the_kernel() -> None:
    """Closing a packet socket takes the kernel milliseconds (it waits for RCU), and a move has none to spare."""
    closed_by: list[int] = []

    class Told(socket.socket):
        def close(self) -> None:
            closed_by.append(threading.get_ident())
            super().close()

    def told() -> socket.socket:
        with open_tap_socket() as opened:
            return Told(fileno=opened.detach())

    async def story() -> None:
        node = Node(ENDS[4][0], open_socket=told)
        node.close()
        await until(lambda: closed_by, "the socket being closed")
        assert threading.get_ident() not in closed_by

    on_loopback(story)


@pytest.mark.parametrize("version", [4, 6])
def test_two_nodes_on_one_loopback_each_record_their_own_esp_once(version: int) -> None:
    async def story() -> None:
        ue, gateway = ENDS[version]
        stranger = Endpoint(ue.address, 4501)
        with both(version) as nodes, sockets(version) as (from_ue, from_gateway):
            others = UdpLink(stranger, lambda packet, path: None)
            others.send(esp(1), Endpoint(gateway.address, 4501))
            others.close()
            for no_esp in (NON_ESP_MARKER + bytes(28), NAT_KEEPALIVE, esp(2)[:8], b""):
                from_ue.send(no_esp)
                from_gateway.send(no_esp)
            from_ue.send(esp(3))
            from_gateway.send(esp(4, 9))
            from_ue.send(esp(5, 1400))
            await until(lambda: all(len(node.bodies) >= 3 for node in nodes), "three packets at both ends")
            path = Path(ue, gateway)

            def at_the_ue(tap: DatagramTap) -> None:
                tap.udp("out", path, esp(3), encapsulating=True)
                tap.udp("in", path, esp(4, 9), encapsulating=True)
                tap.udp("out", path, esp(5, 1400), encapsulating=True)

            def at_the_gateway(tap: DatagramTap) -> None:
                tap.udp("in", path.reversed(), esp(3), encapsulating=True)
                tap.udp("out", path.reversed(), esp(4, 9), encapsulating=True)
                tap.udp("in", path.reversed(), esp(5, 1400), encapsulating=True)

            assert nodes[0].bodies == as_by_python(at_the_ue)
            assert nodes[1].bodies == as_by_python(at_the_gateway)
            assert nodes[0].tap.view == {"recorded": 3, "pauses": 0, "left_out": {}}

    on_loopback(story)


def test_beside_the_nodes_own_links_nothing_is_recorded_twice_and_all_in_its_order() -> None:
    """ESP that passes them, as some does with every carrier, and IKE: ESP on the wire before it is recorded before."""

    async def story() -> None:
        ue, gateway = ENDS[4]
        path, kept = Path(ue, gateway), recorder()
        opened: list[bytes] = []
        tap = EspTap(kept)
        ports = SwuPorts(
            on_ike=lambda datagram: opened.append(datagram.payload),
            on_esp=lambda packet, path, kind: opened.append(packet),
            tap=DatagramTap(kept),
            esp_tap=tap,
        )
        ports.open(
            ue,
            encapsulating=True,
            opener=lambda receive: UdpLink(ue, receive),
            raw=lambda receive: RawEspLink(ue, receive),
        )
        peer, raw = UdpLink(gateway, lambda packet, path: None), RawEspLink(gateway, lambda packet, path: None)
        ike = octets(28, 1)
        try:
            peer.send(esp(1), ue)
            ports.send_ike(Datagram(path, ike))
            ports.send_esp(esp(2), path, True)
            ports.send_ike(Datagram(path, NAT_KEEPALIVE))
            ports.send_esp(esp(3), path, False)
            raw.send(esp(4), ue)
            peer.send(NON_ESP_MARKER + ike, ue)
            await until(lambda: Counter(opened) == Counter([esp(1), esp(4), ike]), "what was sent")
        finally:
            ports.close_all()
            peer.close()
            raw.close()
        assert not tap.hears

        def expected(tap: DatagramTap) -> None:
            tap.udp("in", path, esp(1), encapsulating=True)
            tap.udp("out", path, NON_ESP_MARKER + ike, encapsulating=True)
            tap.udp("out", path, esp(2), encapsulating=True)
            tap.udp("out", path, NAT_KEEPALIVE, encapsulating=True)
            tap.ip("out", ue.address, gateway.address, esp(3))
            tap.ip("in", ue.address, gateway.address, esp(4))
            tap.udp("in", path, NON_ESP_MARKER + ike, encapsulating=True)

        assert [record.body for record in kept.since(0)] == as_by_python(expected)

    on_loopback(story)


@pytest.mark.parametrize("version", [4, 6])
def test_joined_packets_are_recorded_one_by_one_without_ike_among_them(version: int) -> None:
    async def story() -> None:
        train = [esp(number, 1000) for number in range(1, 11)] + [esp(11, 300)]
        train[5] = NON_ESP_MARKER + octets(996, 5)
        with both(version) as (ue, gateway), sockets(version) as (sender, receiver):
            with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as listener:
                send_train(sender, train)
                assert len(listener.recv(65535)) > sum(map(len, train))
            arrived = [receiver.recv(2000) for _ in train]
            assert arrived == train
            expected = [each for each in arrived if each.startswith(SPI)]
            await until(lambda: all(len(node.bodies) >= 10 for node in (ue, gateway)), "the train at both ends")
            assert ue.payloads == gateway.payloads == expected
            assert {str(body["direction"]) for body in ue.bodies} == {"out"}
            assert {str(body["direction"]) for body in gateway.bodies} == {"in"}

    on_loopback(story)


@pytest.mark.parametrize("version", [4, 6])
def test_esp_straight_on_ip_where_it_is_open_and_no_fragments(version: int) -> None:
    async def story() -> None:
        ue, gateway = ENDS[version]
        with both(version, bare=True) as nodes, contextlib.ExitStack() as undo:
            deaf = Node(gateway)
            undo.callback(deaf.close)
            a, b = (RawEspLink(end, lambda packet, path: None) for end in (ue, gateway))
            undo.callback(a.close)
            undo.callback(b.close)
            a.send(esp(1), gateway)
            a.send(esp(2, 4000), gateway)  # in fragments
            b.send(esp(3), ue)
            await until(lambda: all(len(node.bodies) >= 2 for node in nodes), "both packets at both ends")

            def at_the_ue(tap: DatagramTap) -> None:
                tap.ip("out", ue.address, gateway.address, esp(1))
                tap.ip("in", ue.address, gateway.address, esp(3))

            assert nodes[0].bodies == as_by_python(at_the_ue)
            assert nodes[1].payloads == [esp(1), esp(3)]
            with sockets(version) as (sender, _):
                sender.send(esp(4))
                await until(lambda: deaf.payloads == [esp(4)], "ESP in UDP")
                sender.send(esp(5, 4000))
                sender.send(esp(6))
                await until(lambda: deaf.payloads == [esp(4), esp(6)], "what is no fragment")

    on_loopback(story)


@pytest.mark.parametrize("joined", [False, True])
def test_no_more_than_the_limit_and_again_in_the_next_interval(joined: bool) -> None:
    async def story() -> None:
        with both(4, limit=5) as (ue, _), sockets(4) as (sender, _):
            packets = [esp(number) for number in range(1, 13)]
            if joined:
                send_train(sender, packets)
                send_train(sender, packets)
            else:
                for packet in packets + packets:
                    sender.send(packet)
            await until(lambda: ue.tap.view["pauses"] == 1, "the limit")
            sender.send(esp(99))
            assert ue.payloads == packets[:5]
            number = 100

            def heard_again() -> bool:
                nonlocal number
                number += 1
                sender.send(esp(number))
                return len(ue.bodies) > 5

            await until(heard_again, "the next interval")
            assert esp(99) not in ue.payloads
            assert ue.payloads[5] == esp(number - 1) or ue.payloads[5] == esp(number)
            assert ue.left_out == {"over-limit": 19}
            events = [str(record.body["text"]) for record in ue.recorder.since(0) if record.kind is Kind.EVENT]
            assert events == ["More than 5 ESP packets in a second: the others are not in the trace."]

    on_loopback(story)


def test_what_finds_no_room_is_counted() -> None:
    async def story() -> None:
        with both(4) as (ue, _), sockets(4) as (sender, _):
            for first in range(1, 4001, 40):
                send_train(sender, [esp(number, 1400) for number in range(first, first + 40)])
            await until(lambda: ue.tap.view["pauses"] == 1, "the limit")
            view = ue.tap.view
            assert view["recorded"] == 1000
            assert isinstance(view["left_out"], dict)
            lost, over = view["left_out"]["buffer-full"], view["left_out"].get("over-limit", 0)
            assert isinstance(lost, int)
            assert isinstance(over, int)
            assert lost >= 1
            assert 1000 + over + 40 * lost <= 4000

    on_loopback(story)


def test_a_bridge_and_its_port_show_a_packet_once_and_a_replayed_one_again() -> None:
    async def body() -> None:
        with Namespace("ue") as near, Namespace("gateway") as far, contextlib.ExitStack() as undo:
            near.connect(WIRE, far, WIRE)
            for words in (
                ["add", "bridge", "type", "bridge"],
                ["set", WIRE, "master", "bridge"],
                ["set", "bridge", "up"],
            ):
                near.run(["ip", "link", *words], timeout=5)
            here, there = Endpoint.of("198.51.100.7", 4500), Endpoint.of("198.51.100.1", 4500)
            near.add_address("bridge", f"{here.address}/24")
            far.add_address(WIRE, f"{there.address}/24")
            node = Node(here, open_socket=lambda: near.call(open_tap_socket))
            undo.callback(node.close)
            made = []
            for namespace, local in ((near, here), (far, there)):
                made.append(namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
                undo.enter_context(made[-1])
                made[-1].settimeout(10)
                made[-1].bind((str(local.address), local.port))
            to = (str(there.address), there.port)
            made[0].sendto(esp(1), to)
            assert made[1].recv(2000) == esp(1)
            for number in (2, 3, 3, 4):
                made[1].sendto(esp(number), (str(here.address), here.port))
                assert made[0].recv(2000) == esp(number)
            await until(lambda: esp(4) in node.payloads, "the last packet")
            assert Counter(node.payloads) == Counter(map(esp, (1, 2, 3, 3, 4)))

    asyncio.run(body())


@pytest.mark.parametrize(("version", "encapsulation"), [(4, True), (6, True), (4, False)])
def test_what_the_compiled_loop_carries_is_recorded_octet_by_octet(version: int, encapsulation: bool) -> None:
    """The record of one end is that of the other, and Python opens all of it."""
    pytest.importorskip("protocols.dataplane.fast._native", reason="the extension of the fast path is not built")

    async def body() -> None:
        async with ends(version=version, encapsulation=encapsulation) as pair, contextlib.AsyncExitStack() as undo:
            nodes = []
            for end, spec in ((pair.ue, pair.spec), (pair.gateway, mirrored(pair.spec))):
                nodes.append(
                    Node(
                        spec.path.local,
                        bare=not encapsulation,
                        open_socket=lambda end=end: end.namespace.call(open_tap_socket),  # type: ignore[misc]
                    )
                )
                undo.callback(nodes[-1].close)
            ue, gateway = nodes
            address = inner_address("host", 4)
            assert await asyncio.to_thread(
                transfer, pair.ue, pair.gateway, address, 200_000, write=lambda done: 200_000 - done
            )
            pair.check_sums()
            if encapsulation:
                assert pair.ue.counters.sent_trains < pair.ue.counters.sent
            sent = pair.ue.counters.sent + pair.gateway.counters.sent
            await until(lambda: len(ue.bodies) == len(gateway.bodies) == sent, "all packets at both ends")
            for node, spec, other in (
                (ue, pair.spec, gateway),
                (gateway, mirrored(pair.spec), ue),
            ):
                inner: list[bytes] = []
                plane = UserspaceDataPlane(
                    entropy=SeededEntropy(1),
                    deliver=lambda packet, spi, inner=inner: inner.append(packet),  # type: ignore[misc]
                    transmit=lambda packet, path, encapsulated, kind: None,
                )
                plane.install(spec)
                came = [bytes.fromhex(str(body["payload"])) for body in node.bodies if body["direction"] == "in"]
                went = [bytes.fromhex(str(body["payload"])) for body in other.bodies if body["direction"] == "out"]
                assert Counter(came) == Counter(went)
                for packet in came:
                    plane.receive_esp(packet, spec.path)
                assert len(inner) == len(came) > 0
                assert not any(plane.drops.values())
                assert node.tap.view["left_out"] == {}

    asyncio.run(body())


def test_more_ports_than_a_filter_has_room_for(caplog: pytest.LogCaptureFixture) -> None:
    """The log says it once, and nothing else is different."""

    async def story() -> None:
        tap = EspTap(recorder())
        locals_ = [Endpoint.of(f"127.0.9.{number}", 4500) for number in range(1, 200)]
        for local in locals_:
            tap.open(local, bare=True)
        assert not tap.hears
        for local in locals_:
            tap.close(local)

    on_loopback(story)
    (line,) = (record.getMessage() for record in caplog.records if record.name == "protocols.io.esp_tap")
    assert line.startswith("ESP packets are not in the trace: no filter for ")


def test_there_is_a_tap_only_where_packets_pass_by_and_the_trace_is_on() -> None:
    pytest.importorskip("protocols.dataplane.fast._native", reason="the extension of the fast path is not built")
    from protocols.dataplane.fast.carrier import CompiledCarrier

    off = Recorder("node", monotonic=lambda: 0.0, wall=lambda: 0.0, enabled=False)
    compiled = CompiledCarrier()
    try:
        assert Swu({}, platform=Platform(), recorder=recorder(), carrier=compiled).esp_tap is not None
        assert Swu({}, platform=Platform(), recorder=off, carrier=compiled).esp_tap is None
        assert Swu({}, platform=Platform(), recorder=recorder(), carrier=compiled, tapped=False).esp_tap is None
        assert Swu({}, platform=Platform(), recorder=recorder()).esp_tap is None
    finally:
        compiled.close()
