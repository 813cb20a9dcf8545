"""What the compiled core and its loop do when the kernel refuses: nothing ends that need not, and errors are told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from protocols.dataplane.fast.loop import FastLoop
from protocols.dataplane.fast.plane import FastDataPlane
from protocols.dataplane.fast.tun import FastTun
from protocols.errors import BackendError
from protocols.path import Endpoint
from tests.dataplane.fast_ends import assert_adds_up, until
from tests.dataplane.packets import UP

native = pytest.importorskip("protocols.dataplane.fast._native", reason="the extension of the fast path is not built")

NO_OFFLOAD = bytes(10)  # a virtio_net_hdr
ERRORS = 200  # more than a source may have in a row


def plane_of() -> FastDataPlane:
    return FastDataPlane(deliver=lambda *_: None, transmit=lambda *_: None)


def unused_port() -> tuple[str, int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        address: tuple[str, int] = unused.getsockname()
        return address


def test_a_read_that_fails_once_does_not_end_a_queue() -> None:
    """As of a packet that the kernel has no virtio_net_hdr for; a connected UDP socket can be made to do it."""

    async def body() -> None:
        failures: list[BackendError] = []
        plane, device = plane_of(), FastTun("odd")
        with contextlib.ExitStack() as undo:
            queue = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            queue.setblocking(False)
            queue.bind(("127.0.0.1", 0))
            nobody = unused_port()
            queue.connect(nobody)
            device.queues = (os.dup(queue.fileno()),)
            undo.callback(device.close)
            loop = FastLoop(plane.core, too_long=plane.send_inner, failed=failures.append)
            undo.callback(loop.close)
            loop.add_device(device)
            loop.start()
            queue.send(b"to nobody")
            await until(lambda: loop.counters.tun_malformed == 1, "the error")
            somebody = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            somebody.bind(nobody)
            somebody.sendto(NO_OFFLOAD + UP, queue.getsockname())
            await until(lambda: loop.counters.tun_packets == 1, "what comes afterwards")
            loop.stop()
            assert_adds_up(loop.counters)
            assert not failures

    asyncio.run(body())


def test_icmp_errors_in_a_row_end_no_socket() -> None:
    """Anybody can send them, as many as he likes, while no datagram comes."""

    async def body() -> None:
        failures: list[BackendError] = []
        plane = plane_of()
        with contextlib.ExitStack() as undo:
            loop = FastLoop(plane.core, too_long=plane.send_inner, failed=failures.append)
            undo.callback(loop.close)
            link = loop.open_link(Endpoint.of("127.0.0.1", 0), lambda octets, path: None)
            undo.callback(link.close)
            link.report_unreachable(lambda octets, remote: None)
            nobody = Endpoint.of(*unused_port())
            loop.start()
            for sent in range(ERRORS):
                link.send(b"\xff", nobody)
                await until(lambda sent=sent: loop.counters.receive_errors > sent // 2, "the errors")
            link.send(b"\xff", link.local)
            await until(lambda: loop.counters.keepalives == 1, "what comes afterwards")
            loop.stop()
            assert not failures

    asyncio.run(body())


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """No more than are open, one more each time that ``allow_one_more`` is called."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.usefixtures("few_descriptors")
def test_without_descriptors_it_says_so_and_leaves_none_open() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = descriptors()
    least = min(set(range(1024)) - {int(one) for one in before})
    refused = 0
    for limit in range(least, 1024):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            plane = plane_of()
            loop = FastLoop(plane.core, too_long=plane.send_inner, workers=2)
        except BackendError as error:
            assert "Too many open files" in str(error)  # noqa: PT017
            refused += 1
            continue
        loop.close()
        break
    assert refused > 5
    del plane, loop
    assert len(descriptors()) == len(before)


def test_the_core_takes_no_sa_without_selectors() -> None:
    """Their places in the index would have none either."""
    path = b"\x04\x11\x94" + bytes(16) + b"\x04\x11\x94" + bytes(16)
    one = b"\x04\x00\x00\x00\xff\xff" + bytes(16) + b"\xff" * 4 + bytes(12)
    keys = (bytes(20), b"", bytes(20), b"")
    limits = (2**64 - 1,) * 4
    core = native.Core()
    for local, remote in ((b"", b""), (one, b""), (b"", one)):
        taken = (1000, 1001, 20, 0, False, *keys, local, remote, path, True, False, 1024, limits)
        assert core.install(*taken) == native.UNSUPPORTED
    assert core.installed() == 0
