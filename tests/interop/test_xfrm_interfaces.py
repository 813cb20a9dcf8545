"""XFRM interfaces and the gateway's packet filter around them, under Debian's kernel: user-mode-linux has neither."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from ipaddress import ip_interface

import pytest

from epdg.config import ApnSection
from epdg.pdn.egress import Egress
from lab.namespaces import Namespace
from protocols.dataplane.xfrm.carrier import KernelCarrier
from protocols.dataplane.xfrm.socket import XfrmSocket
from protocols.esp.mss import mss_for
from protocols.esp.packet import inner_mtu
from protocols.esp.tunnel import TunnelPolicy
from protocols.io.nftables import NfTables
from protocols.path import Path
from tests.dataplane.pairs import mirrored
from tests.interop.test_xfrm_carrier import device_names, shared, stage
from tests.peers.xfrm_carriers import (
    GATEWAY_INNER,
    GATEWAY_OUTER,
    LIMIT,
    MTU,
    NETWORKS,
    POOLS,
    PORT,
    SERVER,
    SILENCE,
    UE_ELSEWHERE,
    UE_INNER,
    UE_OUTER,
    End,
    Stage,
    carriers,
    spec_of,
)
from tests.peers.xfrm_scene import FAMILIES, repeated

__all__ = ["shared", "stage"]

pytestmark = [pytest.mark.peer, pytest.mark.guest("debian")]

MOVES = 4
OUTER_MTU = 1420
BATCH = 16
SINK_PORT, DEVICE_PORT = 5001, 5002
POOL = {"pool": "10.45.0.0/16", "pool6": "2001:db8:45::/48"}


def on_device(end: End, device: str, address: str) -> socket.socket:
    """A UDP socket whose packets pass one device alone."""

    def opened() -> socket.socket:
        made = socket.socket(FAMILIES[6 if ":" in address else 4], socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        made.bind((address, DEVICE_PORT))
        made.settimeout(LIMIT)
        return made

    return end.namespace.call(opened)


def numbers() -> set[int | None]:
    """The XFRM interfaces of all SAs and policies of the namespace that it is called in."""
    with XfrmSocket() as xfrm:
        return {each.get_attr("XFRMA_IF_ID") for each in (*xfrm.sa("dump"), *xfrm.policy("dump"))}


class TestInterfaces:
    def test_sas_and_policies_are_of_the_devices_number(self, stage: Stage) -> None:
        stage.install(spec_of())
        for end, device in ((stage.ue, stage.ue_device), (stage.gateway, stage.gateway_device)):
            assert device.comes_in_by_it
            assert end.namespace.call(numbers) == {end.plane.if_id} == {device.if_id} != {0}

    @pytest.mark.parametrize("version", [4, 6])
    def test_packets_pass_the_device_both_ways(self, stage: Stage, version: int) -> None:
        stage.install(spec_of())
        ends = ((stage.ue, stage.ue_device), (stage.gateway, stage.gateway_device))
        before = [end.call(lambda device=device: device.counters) for end, device in ends]  # type: ignore[misc]
        stage.there_and_back(version)
        after = [end.call(lambda device=device: device.counters) for end, device in ends]  # type: ignore[misc]
        for earlier, later in zip(before, after, strict=True):
            assert (later.read, later.written, later.refused) == (
                earlier.read + 1,
                earlier.written + 1,
                earlier.refused,
            )

    @pytest.mark.parametrize("version", [4, 6])
    def test_inner_addresses_of_two_planes_overlap(self, stage: Stage, version: int) -> None:
        """Two networks that know nothing of one another: the same addresses and selectors, told apart by devices."""
        planes = [(end.plane, end.call(end.new_plane)) for end in (stage.ue, stage.gateway)]
        ue_inner = [f"{UE_INNER[4]}/32", f"{UE_INNER[6]}/128"]
        devices = [
            stage.ue.device("pdn1", ue_inner, NETWORKS, plane=planes[0][1], metric=2000),
            stage.gateway.device("epdg1", POOLS, plane=planes[1][1]),
        ]
        specs = [spec_of(number=number) for number in (1, 2)]
        try:
            for number, spec in enumerate(specs):
                stage.ue.call(lambda: planes[0][number].install(spec))  # noqa: B023 - called at once
                stage.gateway.call(lambda: planes[1][number].install(mirrored(spec)))  # noqa: B023
            ues = [on_device(stage.ue, f"pdn{number}", UE_INNER[version]) for number in (0, 1)]
            gateways = [on_device(stage.gateway, f"epdg{number}", GATEWAY_INNER[version]) for number in (0, 1)]
            for number in (0, 1, 1, 0):
                ue, gateway, spec = ues[number], gateways[number], specs[number]
                payload = f"by network {number}".encode()
                ue.sendto(payload, (GATEWAY_INNER[version], DEVICE_PORT))
                assert gateway.recv(2000) == payload
                gateway.sendto(payload, (UE_INNER[version], DEVICE_PORT))
                assert ue.recv(2000) == payload
                expected = [int.from_bytes(spi, "big") for spi in (spec.outbound_spi, spec.inbound_spi)]
                assert [each.spi for each in stage.esp()] == expected
            stage.ue.call(lambda: planes[0][1].remove(specs[1].inbound_spi))
            refused = stage.ue.call(lambda: devices[0].counters.refused)
            ues[1].sendto(b"without an SA of its own", (GATEWAY_INNER[version], DEVICE_PORT))
            assert stage.silent(gateways[1])
            assert stage.silent(gateways[0])
            assert stage.captured() == []
            assert stage.ue.call(lambda: devices[0].counters.refused) == refused + 1
            ues[0].sendto(b"the other goes on", (GATEWAY_INNER[version], DEVICE_PORT))
            assert gateways[0].recv(2000) == b"the other goes on"
            for each in (*ues, *gateways):
                each.close()
        finally:
            for end, (_, plane), device in zip((stage.ue, stage.gateway), planes, devices, strict=True):
                end.call(plane.end)
                end.call(device.close)

    @pytest.mark.parametrize("version", [4, 6])
    def test_syns_say_what_the_path_carries(self, version: int) -> None:
        """``data_plane.clamp_mss`` (RFC 9293 §3.7.1): the UE's SYN at the UE, the answer to it at the gateway."""
        with carriers(TunnelPolicy(mss=1200)) as made:
            made.install(spec_of())
            for namespace in (made.ue.namespace, made.network):
                namespace.set_sysctl("net/ipv4/tcp_timestamps", 0)  # 12 octets of the MSS that the kernel shows
            address = (SERVER[version], SINK_PORT)
            listening = made.network.call(lambda: socket.create_server(address, family=FAMILIES[version]))
            with listening, made.ue.namespace.call(lambda: socket.create_connection(address, LIMIT)) as mine:
                there, _ = listening.accept()
                with there:
                    agreed = [each.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) for each in (mine, there)]
            assert agreed == [1200, 1200]
            for end in (made.ue, made.gateway):
                assert end.call(lambda end=end: end.carrier.counted) == {"mss_clamped": 1}  # type: ignore[misc]
                assert len(end.namespace.call(NfTables().comments)) == 1
                end.close()
                assert end.namespace.call(NfTables().comments) == {}

    def test_auto_follows_outer_mtu(self) -> None:
        with carriers(TunnelPolicy(mss="auto", outer_mtu=OUTER_MTU)) as made:
            made.install(spec_of())
            made.network.set_sysctl("net/ipv4/tcp_timestamps", 0)
            made.ue.namespace.set_sysctl("net/ipv4/tcp_timestamps", 0)
            address = (SERVER[4], SINK_PORT)
            listening = made.network.call(lambda: socket.create_server(address))
            fits = inner_mtu(spec_of().suite, OUTER_MTU, outer_version=4, encapsulation=True)
            with listening, made.ue.namespace.call(lambda: socket.create_connection(address, LIMIT)) as mine:
                assert mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) == mss_for(fits, 4) < mss_for(MTU, 4)
            assert made.gateway.call(lambda: made.gateway.carrier.counted) == {"mss_clamped": 1}

    def test_moves_under_load_keep_number_and_sequence(self, stage: Stage) -> None:
        """XFRM_MSG_MIGRATE with XFRMA_IF_ID: no packet passes another device, none repeats a sequence number."""
        spec = stage.install(spec_of())
        paths = (Path(UE_ELSEWHERE, GATEWAY_OUTER), Path(UE_OUTER, GATEWAY_OUTER))
        seen = []
        with flood(stage) as arrived:
            for number in range(MOVES):
                seen += stage.esp()  # before the sockets are full
                path = paths[number % 2]
                stage.gateway.call(
                    lambda path=path: stage.gateway.plane.update_path(spec.outbound_spi, path.reversed(), True)  # type: ignore[misc]
                )
                stage.ue.call(lambda path=path: stage.ue.plane.update_path(spec.inbound_spi, path, True))  # type: ignore[misc]
                stage.there_and_back()
                arrived()
                for end in (stage.ue, stage.gateway):
                    assert end.namespace.call(numbers) == {end.plane.if_id}
                seen += stage.esp()
        assert {each.source for each in seen} >= {str(path.local.address) for path in paths}
        assert repeated(seen) == set()


@contextmanager
def flood(stage: Stage) -> Iterator[Callable[[], None]]:
    """Datagrams of the UE's to the server, a batch as soon as the other has come; a call waits for one to come."""
    mine = stage.socket(stage.ue.namespace, UE_INNER[4])
    stopping, come = threading.Event(), threading.Event()

    def opened() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((SERVER[4], SINK_PORT))
        made.settimeout(SILENCE)
        return made

    def send(sink: socket.socket) -> None:
        number = 0
        while not stopping.is_set():
            for _ in range(BATCH):
                number += 1
                with suppress(OSError):  # blocked while it moves
                    mine.sendto(number.to_bytes(4, "big"), (SERVER[4], SINK_PORT))
            with suppress(TimeoutError):  # lost as it moved
                while int.from_bytes(sink.recv(64), "big") != number:
                    pass
                come.set()

    def arrived() -> None:
        for _ in range(2):  # the first may have begun before
            come.clear()
            assert come.wait(LIMIT), "the flood has ended"

    with closing(stage.network.call(opened)) as sink:
        thread = threading.Thread(target=send, args=(sink,), name="flood")
        thread.start()
        try:
            yield arrived
        finally:
            stopping.set()
            thread.join()


class TestEgressByDirection:
    """What the packet filter says of new connections, interfaces, and APNs that lead nowhere."""

    @pytest.mark.parametrize("version", [4, 6])
    def test_nobody_outside_begins_with_a_masqueraded_ue(self, stage: Stage, version: int) -> None:
        stage.install(spec_of())
        with egress(stage, egress="masqueraded"):
            assert stage.there_and_back(version) != UE_INNER[version]
            stage.captured()
            server = stage.socket(stage.network, SERVER[version])
            server.sendto(b"from outside", (UE_INNER[version], PORT + 7))
            assert stage.silent(stage.socket(stage.ue.namespace, UE_INNER[version]))
            assert stage.esp() == []

    @pytest.mark.parametrize("version", [4, 6])
    def test_an_apn_that_leads_nowhere(self, stage: Stage, version: int) -> None:
        stage.install(spec_of())
        with egress(stage, egress="none"):
            mine, server = (
                stage.socket(stage.ue.namespace, UE_INNER[version]),
                stage.socket(stage.network, SERVER[version]),
            )
            mine.sendto(b"out", (SERVER[version], PORT))
            server.sendto(b"in", (UE_INNER[version], PORT))
            assert stage.silent(server)
            assert stage.silent(mine)
        stage.forward()
        stage.there_and_back(version)

    @pytest.mark.parametrize("interface", ["net0", "gw0"])
    def test_one_outgoing_interface(self, stage: Stage, interface: str) -> None:
        """The server is behind net0."""
        stage.install(spec_of())
        with egress(stage, egress="routed", egress_interface=interface):
            if interface == "net0":
                assert stage.there_and_back() == UE_INNER[4]
            else:
                mine, server = stage.socket(stage.ue.namespace, UE_INNER[4]), stage.socket(stage.network, SERVER[4])
                mine.sendto(b"out", (SERVER[4], PORT))
                server.sendto(b"in", (UE_INNER[4], PORT))
                assert stage.silent(server)
                assert stage.silent(mine)


@contextmanager
def egress(stage: Stage, **values: str) -> Iterator[Egress]:
    """The gateway's packet filter for one APN, as its node opens it."""
    apns = {"internet": ApnSection.model_validate({**POOL, **values})}
    made = Egress("epdg0", apns, by_ipsec=not stage.gateway_device.comes_in_by_it)
    stage.gateway.call(made.open)
    try:
        yield made
    finally:
        stage.gateway.call(made.close)
        stage.forward()


class TestLeftovers:
    def test_kill_9_leaves_what_the_next_run_removes(self) -> None:
        with Namespace("crash") as namespace:
            ready, told = os.pipe()
            child = os.fork()
            if child == 0:
                carry(namespace, told)
            os.close(told)
            with os.fdopen(ready, "rb") as pipe:
                assert pipe.read(1) == b"!"
            assert device_names(namespace) == {"lo", "pdn0"}
            assert set(namespace.call(NfTables().comments)) == {"esp-mss-pdn0"}
            os.kill(child, signal.SIGKILL)
            assert os.waitpid(child, 0)[1] == signal.SIGKILL
            assert device_names(namespace) == {"lo", "pdn0"}
            assert len(namespace.call(numbers)) == 1
            assert set(namespace.call(NfTables().comments)) == {"esp-mss-pdn0"}
            end = End(namespace)
            assert device_names(namespace) == {"lo"}
            assert namespace.call(numbers) == set()
            assert namespace.call(NfTables().comments) == {}
            end.device("pdn0", ["10.45.0.2/32"])
            end.close()
            assert device_names(namespace) == {"lo"}


def carry(namespace: Namespace, told: int) -> None:
    """In a child process: a device, SYNs clamped and an SA, word of it, and never an end."""

    async def run() -> None:
        carrier = KernelCarrier(policy=TunnelPolicy(mss=1200))
        plane = carrier.plane(
            deliver=lambda packet, spi: None,
            transmit=lambda octets, path, encapsulation, traffic_class: None,
            told=lambda: None,
            path_mtu=lambda path: None,
        )
        carrier.start()
        await carrier.open_device(plane, "pdn0", [ip_interface("10.45.0.2/32")], MTU)
        plane.install(spec_of())
        os.write(told, b"!")
        await asyncio.Event().wait()

    try:
        namespace.enter()
        asyncio.run(run())
    finally:
        os._exit(1)


class TestADeviceThatIsGone:
    def test_nothing_gets_through_until_it_is_there_again(self) -> None:
        """Deleted under SAs that stay: nothing leaks at either end, and a new one carries on with the same SAs."""
        with carriers() as made:
            spec = made.install(spec_of())
            made.there_and_back()
            made.captured()
            made.gateway.delete_device("epdg0")
            made.gateway.until(lambda: bool(made.gateway.failures))
            mine, server = made.socket(made.ue.namespace, UE_INNER[4]), made.socket(made.network, SERVER[4])
            dropped = made.gateway.carrier.dropped
            mine.sendto(b"into nothing", (SERVER[4], PORT))
            server.sendto(b"into nothing", (UE_INNER[4], PORT))
            assert made.silent(server)
            assert made.silent(mine)
            assert made.in_the_clear() == []
            assert made.gateway.carrier.dropped - dropped
            made.gateway.call(made.gateway_device.close)
            again = made.gateway.device("epdg0", POOLS)
            assert again.if_id == made.gateway.plane.if_id
            assert made.there_and_back() == UE_INNER[4]
            counters = made.gateway.call(lambda: made.gateway.plane.counters(spec.outbound_spi))
            assert counters.outbound_packets == 2
