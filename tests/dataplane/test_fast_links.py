"""Links of the fast path do what links on sockets do: interfaces, marks, ICMP errors, path MTUs; bare ESP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path as FilePath

import pytest

from protocols.dataplane.port import PeerEndpointObserved
from protocols.errors import BackendError, LocalError
from protocols.io.link import KnowsPathMtu, Link, ReportsUnreachable, SocketLink
from protocols.io.raw import NO_PORT
from protocols.io.sockets import RECEIVED_TRAFFIC_CLASSES
from protocols.path import Endpoint, Path
from tests.dataplane.fast_ends import GATEWAY_SECOND, PORT, WIRE, End, Pair, ends, inner_address, until
from tests.dataplane.pairs import mirrored
from tests.peers.namespaces import ping, require_namespaces

pytest.importorskip("protocols.dataplane.fast._native", reason="the extension of the fast path is not built")

pytestmark = pytest.mark.root
MARKER = bytes(4)


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    require_namespaces()


async def passes(pair: Pair) -> bool:
    """Whether a packet goes through the tunnel and its answer comes back."""
    done = await asyncio.to_thread(ping, pair.ue.namespace, inner_address("host", 4), count=1)
    return done.received == 1


def test_a_link_is_all_that_nodes_ask_of_one() -> None:
    async def body() -> None:
        async with ends() as pair:
            link: Link = pair.ue.links[0]
            assert isinstance(link, SocketLink)
            assert isinstance(link, KnowsPathMtu)
            assert isinstance(link, ReportsUnreachable)
            to = pair.gateway.links[0].local
            assert isinstance(link, KnowsPathMtu)
            known = link
            assert await asyncio.to_thread(pair.ue.namespace.call, lambda: known.path_mtu(to)) == 1500
            link.close()
            link.close()
            link.send(MARKER, to)
            assert link.dropped == {"send-EBADF": 1}

    asyncio.run(body())


def queued(end: End) -> list[int]:
    """What waits in each socket of the port, in octets of the kernel's memory."""
    rows = end.namespace.call(lambda: FilePath("/proc/thread-self/net/udp").read_text()).splitlines()[1:]
    return [int(row.split()[4].split(":")[1], 16) for row in rows if row.split()[1].endswith(f":{PORT:04X}")]


def test_a_link_that_is_bound_to_an_interface_is_a_group_still() -> None:
    """ESP of either worker, and what is none, wait in sockets of their own."""

    async def body() -> None:
        async with ends(workers=2) as pair:
            end, link = pair.ue, pair.ue.links[0]
            told: list[bytes] = []
            link.report_unreachable(lambda octets, remote: told.append(octets))
            end.namespace.call(lambda: link.bind_to(WIRE))
            assert await passes(pair)
            pair.gateway.links[0].send(MARKER + b"what is no ESP", link.local)
            await until(lambda: bool(end.others), "IKE")
            link.send(MARKER + b"to nobody", Endpoint(pair.gateway.links[0].local.address, 4999))
            await until(lambda: bool(told), "the error")

            end.loop.stop()
            assert queued(end) == [0, 0, 0]
            for spi in (b"\0\0\1\0", b"\0\0\1\1", MARKER):
                pair.gateway.links[0].send(spi + bytes(100), link.local)
            await until(lambda: all(queued(end)), "a datagram in each socket")

    asyncio.run(body())


def test_an_interface_that_is_not_there_closes_the_link() -> None:
    async def body() -> None:
        async with ends() as pair:
            link = pair.ue.links[0]
            with pytest.raises(
                BackendError, match=r"cannot use interface nowhere for UDP 198\.51\.100\.7:4500: No such device"
            ):
                pair.ue.namespace.call(lambda: link.bind_to("nowhere"))
            assert queued(pair.ue) == []
            pair.ue.open_link(link.local.address)
            assert await passes(pair)

    asyncio.run(body())


def test_marks_are_of_what_has_no_class_of_its_own() -> None:
    async def body() -> None:
        async with ends() as pair:
            link = pair.ue.links[0]
            address = pair.gateway.links[0].local.address
            with pair.gateway.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
                opened.bind((str(address), 4999))
                opened.setsockopt(*RECEIVED_TRAFFIC_CLASSES[4], 1)

                def come() -> int:
                    _, ancillary, _, _ = opened.recvmsg(100, 100)
                    return ancillary[0][2][0]

                to = Endpoint(address, 4999)
                link.send(MARKER, to)
                assert come() == 0
                link.mark(46)
                link.send(MARKER, to)
                assert come() == 46 << 2
                link.send(MARKER, to, 1)
                assert come() == 1
                link.send(MARKER, to, 0)
                assert come() == 0
                pair.ue.plane.update_path(pair.spec.inbound_spi, Path(link.local, to), True)
                with pair.ue.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.sendto(b"x", (str(inner_address("host", 4)), 7))
                assert come() == 0  # ESP of a packet of the class 0

    asyncio.run(body())


@pytest.mark.parametrize("version", [4, 6])
def test_icmp_errors_are_told_and_cost_no_packet(version: int) -> None:
    """However many come, no socket is given up, and none of ESP is told."""

    async def body() -> None:
        async with ends(version=version) as pair:
            link, nobody = pair.ue.links[0], Endpoint(pair.gateway.links[0].local.address, 4999)
            told: list[tuple[bytes, Endpoint]] = []
            link.report_unreachable(lambda octets, remote: told.append((octets, remote)))
            link.send(MARKER + b"is anybody there?", nobody)
            await until(lambda: bool(told), "the error")
            assert told == [(MARKER + b"is anybody there?", nobody)]
            await asyncio.to_thread(pair.gateway.namespace.set_sysctl, "net/ipv4/icmp_ratelimit", 0)
            await asyncio.to_thread(pair.gateway.namespace.set_sysctl, "net/ipv6/icmp/ratelimit", 0)
            while pair.ue.counters.receive_errors < 200:
                link.send(b"\1\2\3\4 of ESP", nobody)
                await asyncio.sleep(0)
            assert await passes(pair)
            while len(told) == 1:  # kernels send so many errors a second
                link.send(MARKER + b"last", nobody)
                await asyncio.sleep(0.01)
            assert set(told[1:]) == {(MARKER + b"last", nobody)}
            assert pair.ue.failures == []
            pair.check_sums()
            assert pair.ue.counters.send_errors == 0
            assert pair.ue.counters.unreachable >= len(told)

    asyncio.run(body())


def test_bare_esp_is_a_link() -> None:
    async def body() -> None:
        async with ends(encapsulation=False) as pair:
            link = pair.ue.links[0]
            address, gateway = link.local.address, pair.gateway.links[0].local
            assert link.local == Endpoint(address, NO_PORT)
            with pytest.raises(LocalError, match=r"ESP of 198\.51\.100\.7 is open already"):
                pair.ue.open_raw(address)
            assert await passes(pair)
            pair.ue.namespace.call(lambda: link.bind_to(WIRE))
            assert await passes(pair)

            link.send(b"\1\2\3\4 of ESP", gateway)  # what Python makes
            await until(lambda: pair.gateway.counters.opening_drops == {"unknown_spi": 1}, "ESP")
            with pytest.raises(BackendError, match=r"cannot use interface nowhere for ESP on 198\.51\.100\.7"):
                pair.ue.namespace.call(lambda: link.bind_to("nowhere"))
            pair.ue.open_raw(address)
            assert await passes(pair)

    asyncio.run(body())


def test_where_bare_esp_comes_from_is_said_by_the_port_beside_it() -> None:
    async def body() -> None:
        async with ends(encapsulation=False) as pair:
            elsewhere = Path(mirrored(pair.spec).path.local, Endpoint(GATEWAY_SECOND.ip, PORT))
            spi = pair.spec.outbound_spi
            pair.gateway.plane.update_path(spi, elsewhere, False)
            with contextlib.closing(pair.ue.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
                client.sendto(b"x", (str(inner_address("host", 4)), 7))
            await until(lambda: pair.gateway.counters.opened >= 1, "a packet")
            path = Path(elsewhere.local, Endpoint(pair.ue.links[0].local.address, NO_PORT))
            assert pair.gateway.plane.poll_event() == PeerEndpointObserved(inbound_spi=spi, path=path)

    asyncio.run(body())
