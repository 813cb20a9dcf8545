"""The stage itself: links, preference of accesses, NAT, rebinding and silence in network namespaces."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab.namespaces import (
    ACCESS_A,
    ACCESS_B,
    CORE,
    GATEWAY,
    GATEWAY_ROUTER,
    HOST_BEHIND_GATEWAY,
    AccessTopology,
    Namespace,
)
from protocols.errors import BackendError
from tests.peers.namespaces import namespaces, ping

pytestmark = pytest.mark.root


def opened(namespace: Namespace, address: str) -> socket.socket:
    def open_socket() -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind((address, 4500))
        opened.settimeout(5)
        return opened

    return namespace.call(open_socket)


@contextlib.contextmanager
def udp_pair(stage: AccessTopology) -> Iterator[Callable[[], tuple[str, int]]]:
    """A UDP socket of the UE and one of the gateway; the callable sends and tells whom the gateway saw."""

    with opened(stage.ue, "0.0.0.0") as ue, opened(stage.gateway, str(GATEWAY.ip)) as gateway:

        def send() -> tuple[str, int]:
            ue.sendto(b"\xff", (str(GATEWAY.ip), 4500))
            address, port = gateway.recvfrom(16)[1]
            return address, port

        yield send


def test_accesses_are_preferred_in_order_and_fail_over(stage: AccessTopology) -> None:
    with udp_pair(stage) as send:
        assert send() == (str(ACCESS_A.address.ip), 4500)
        stage.leave(ACCESS_A)
        assert str(ACCESS_A.address) not in stage.ue.addresses()
        assert send() == (str(ACCESS_B.address.ip), 4500)
        stage.join(ACCESS_A)
        assert send() == (str(ACCESS_A.address.ip), 4500)


def test_the_host_behind_the_gateway_and_the_core_are_reached(stage: AccessTopology) -> None:
    assert ping(stage.core, HOST_BEHIND_GATEWAY).received == 3
    assert ping(stage.gateway, CORE.ip).received == 3


def test_nat_hides_the_ue_and_rebinding_changes_its_port(stage: AccessTopology) -> None:
    with udp_pair(stage) as send:
        stage.translate(range(20000, 20100))
        address, port = send()
        assert address == str(GATEWAY_ROUTER.ip)
        assert port in range(20000, 20100)
        assert send() == (address, port)
        stage.rebind(range(30000, 30100))
        address, port = send()
        assert address == str(GATEWAY_ROUTER.ip)
        assert port in range(30000, 30100)


def test_nothing_passes_untranslated_while_a_nat_is_rebound(stage: AccessTopology) -> None:
    """Else the gateway's answer to the UE's own address makes an entry that keeps the NAT from its work."""
    stage.translate(range(20000, 20100))
    rebound, sources = threading.Event(), set[str]()
    with opened(stage.ue, "0.0.0.0") as ue, opened(stage.gateway, str(GATEWAY.ip)) as gateway:

        def echo() -> None:
            while not rebound.is_set() or select.select([gateway], [], [], 0)[0]:
                octets, source = gateway.recvfrom(16)
                sources.add(source[0])
                gateway.sendto(octets, source)

        def flow() -> None:
            while not rebound.is_set():
                ue.sendto(b"\xff", (str(GATEWAY.ip), 4500))
            ue.sendto(b"\xff", (str(GATEWAY.ip), 4500))

        with ThreadPoolExecutor(2) as threads:
            running = [threads.submit(echo), threads.submit(flow)]
            for first in range(30000, 31000, 100):
                stage.rebind(range(first, first + 100))
            rebound.set()
            for each in running:
                each.result()
    assert sources == {str(GATEWAY_ROUTER.ip)}


def test_silence_loses_packets_but_leaves_the_address(stage: AccessTopology) -> None:
    stage.silence(ACCESS_A)
    assert ping(stage.ue, GATEWAY.ip, count=2, wait=0.2).received == 0
    assert str(ACCESS_A.address) in stage.ue.addresses()
    assert ping(stage.ue, GATEWAY.ip, source=ACCESS_A.address.ip, count=1).sent == 1
    stage.restore(ACCESS_A)
    assert ping(stage.ue, GATEWAY.ip, count=2).received == 2


def test_processes_inside_end_with_the_namespace() -> None:
    with namespaces() as stage:
        process = stage.core.popen(["sleep", "600"])
        assert process.poll() is None
    assert process.poll() is not None


def test_a_kernel_refusal_is_a_backend_error(stage: AccessTopology) -> None:
    with pytest.raises(BackendError, match="namespace ue"):
        stage.ue.add_address(ACCESS_A.interface, ACCESS_A.address)
    with pytest.raises(BackendError, match="no interface nowhere"):
        stage.ue.set_link("nowhere", up=False)
