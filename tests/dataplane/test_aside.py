"""Packets of a process's own beside the kernel's stack (root, a TUN device): flows, and a kernel that keeps silent."""

from __future__ import annotations

import asyncio
import os
import platform
import struct
import subprocess
import sys
from contextlib import ExitStack
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from protocols.dataplane.fast.tun import FastTun
from protocols.dataplane.userspace.clients import StreamKind, TcpClient
from protocols.dataplane.userspace.host import FLOW_PORT, FlowKind
from protocols.dataplane.userspace.segment import Flags, TcpSegment
from protocols.dataplane.userspace.services import ServiceHost
from protocols.dataplane.userspace.tcp import TcpState
from protocols.dataplane.userspace.tun import TunDevice
from protocols.entropy import SeededEntropy
from protocols.errors import BackendError, LocalError
from protocols.io.aside import PacketPort
from protocols.io.driver import Driver
from protocols.io.super_packet import whole_packets
from protocols.ip import ICMP, ICMPV6, TCP, UDP, IcmpEcho, IpPacket, UdpDatagram, icmp_of, pseudo_header
from tests.dataplane.fast_ends import until
from tests.dataplane.packets import udp
from tests.dataplane.test_tun import in_namespace
from tests.dataplane.test_tun import pytestmark as pytestmark  # root, a TUN device
from tests.peers.processes import require_program
from ue.traffic import FLOWS_KEPT, Flows

DEVICE = "ue-test0"
MTU = 1400
UES = {4: ip_address("10.45.0.2"), 6: ip_address("2001:db8:45::2")}
HOSTS = {4: ip_address("192.0.2.80"), 6: ip_address("2001:db8:99::1")}
INTERFACES = [ip_interface(f"{UES[4]}/32"), ip_interface(f"{UES[6]}/128")]
NETWORKS = [ip_network("192.0.2.0/24"), ip_network("2001:db8:99::/64")]
FAR, NEAR = 7, 50000  # ports
UNREACHABLE = {ICMP: 3, ICMPV6: 1}  # RFC 792, RFC 4443 §3.1
SOLICITATIONS = {133, 143}  # RFC 4861, RFC 3810: what a kernel says on a new link


class Line:
    """A TUN device of the kernel's, behind it a host for each family; what the kernel and what the port has sent."""

    def __init__(self, *, by_routes: bool = False) -> None:
        self.by_routes = by_routes
        self.hosts = {version: ServiceHost(address, SeededEntropy(version)) for version, address in HOSTS.items()}
        self.came: list[bytes] = []
        self.sent: list[bytes] = []
        self.heard: list[bytes] = []
        self.answering = True

    async def __aenter__(self) -> Line:
        self.device = await TunDevice.open(DEVICE, INTERFACES, MTU, NETWORKS)
        self._drivers = {
            version: Driver[None, bytes](host, on_event=lambda event: None, transmit=self.device.write)
            for version, host in self.hosts.items()
        }
        self.device.start(self._take)
        self.port = PacketPort(self._hear, None if self.by_routes else DEVICE)
        self.flows = Flows(self._send, SeededEntropy("flows"), reservations=self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.flows.stop_all()
        self.port.close()
        for driver in self._drivers.values():
            driver.close()
        self.device.close()

    def _take(self, packet: bytes) -> None:
        version = packet[0] >> 4
        self.came.append(packet)
        if self.answering:
            self.hosts[version].receive(packet, self._drivers[version].now())
            self._drivers[version].pump()

    def _send(self, packet: bytes) -> bool:
        self.sent.append(packet)
        return self.port.send(packet)

    def _hear(self, packet: bytes) -> None:
        self.heard.append(packet)
        self.flows.receive(packet)

    def kernels_own(self) -> list[IpPacket]:
        """What has come that the port did not send, but for what a kernel says on every new link."""
        found = [IpPacket.decode(packet) for packet in self.came if not _says_hello(packet)]
        sent = [IpPacket.decode(packet) for packet in self.sent]
        return [each for each in found if not any(_same(each, one) for one in sent)]

    async def settled(self, version: int) -> None:
        """Wait until the kernel has done with everything that was written before: it answers in order."""
        before = len(self.came)
        request = IcmpEcho(request=True, identifier=1, sequence=1, data=b"")
        self.device.write(_packet(version, icmp_of(HOSTS[version]), request.encode(HOSTS[version], UES[version])))
        reply = 0 if version == 4 else 129
        offset = 20 if version == 4 else 40
        await until(lambda: any(packet[offset] == reply for packet in self.came[before:]), "the kernel's own answer")
        self.came = [packet for packet in self.came if packet[offset] != reply]


def _says_hello(packet: bytes) -> bool:
    """IPv6 alone: router solicitations and listener reports, these behind a hop-by-hop header."""
    return packet[0] >> 4 == 6 and (packet[6] == 0 or (packet[6] == ICMPV6 and packet[40] in SOLICITATIONS))


def _same(one: IpPacket, other: IpPacket) -> bool:
    return (one.source, one.destination, one.protocol, one.payload) == (
        other.source,
        other.destination,
        other.protocol,
        other.payload,
    )


def _packet(version: int, protocol: int, payload: bytes) -> bytes:
    """From the far host to the UE."""
    return IpPacket(source=HOSTS[version], destination=UES[version], protocol=protocol, payload=payload).encode()


def _segment(version: int, flags: Flags, payload: bytes = b"") -> bytes:
    segment = TcpSegment(
        source_port=FAR,
        destination_port=NEAR,
        sequence=1000,
        acknowledgment=2000 if Flags.ACK in flags else 0,
        flags=flags,
        window=65535,
        payload=payload,
    )
    return _packet(version, TCP, segment.encode(HOSTS[version], UES[version]))


both_families = pytest.mark.parametrize("version", [4, 6])


@pytest.mark.parametrize("by_routes", [False, True])
@pytest.mark.parametrize("kind", [FlowKind.ICMP, FlowKind.UDP])
@both_families
def test_echo_requests_are_answered(version: int, kind: FlowKind, by_routes: bool) -> None:
    async def body() -> None:
        async with Line(by_routes=by_routes) as line:
            flow = line.flows.start(kind, UES[version], HOSTS[version], rate=500.0, limit=20)
            await flow.finished(5.0)
            score = flow.statistics()
            assert (score.sent, score.received, score.lost) == (20, 20, 0)
            assert line.kernels_own() == []
            assert not line.port.dropped

    in_namespace(body)


@pytest.mark.parametrize("by_routes", [False, True])
@both_families
def test_a_tcp_flow_from_syn_to_fin(version: int, by_routes: bool) -> None:
    """The kernel resets nothing: not the SYN-ACK, not data, not the FIN."""

    async def body() -> None:
        async with Line(by_routes=by_routes) as line:
            flow = line.flows.start(StreamKind.TCP, UES[version], HOSTS[version], rate=1000.0)
            client = flow.client
            assert isinstance(client, TcpClient)
            await until(lambda: client.connection.counters.received >= 100_000, "echoes")
            flow.stop()
            await until(lambda: client.connection.state is TcpState.TIME_WAIT, "the FIN of the other side")
            assert (client.corrupted, client.malformed, client.connection.failure) == (0, 0, None)
            assert line.kernels_own() == []
            assert line.hosts[version].counters.connections == 1

    in_namespace(body)


@both_families
def test_a_call_is_heard_both_ways(version: int) -> None:
    async def body() -> None:
        async with Line() as line:
            flow = line.flows.start(StreamKind.VOICE, UES[version], HOSTS[version], rate=100.0)
            loop = asyncio.get_running_loop()
            began = loop.time()
            await until(lambda: flow.call_statistics(began, loop.time()).inbound.received >= 20, "voice")
            flow.stop()
            assert line.kernels_own() == []

    in_namespace(body)


@pytest.mark.parametrize("reserved", [False, True])
@both_families
def test_the_kernel_answers_for_what_is_not_reserved_only(version: int, reserved: bool) -> None:
    """Without a reservation it sends RST and ICMP errors: what the other tests would see."""

    async def body() -> None:
        async with Line() as line:
            line.answering = False
            if reserved:
                line.port.reserve(TCP, UES[version], NEAR)
                line.port.reserve(UDP, UES[version], NEAR)
            written = [
                *(
                    _segment(version, flags, payload)
                    for flags, payload in (
                        (Flags.SYN, b""),
                        (Flags.SYN | Flags.ACK, b""),
                        (Flags.ACK, b"data"),
                        (Flags.ACK | Flags.FIN, b""),
                        (Flags.RST, b""),
                    )
                ),
                udp(HOSTS[version], UES[version], ports=(FAR, NEAR)),
            ]
            for packet in written:
                assert line.device.write(packet)
            await line.settled(version)
            answers = line.kernels_own()
            if reserved:
                assert answers == []
                await until(lambda: len(line.heard) == len(written), "the packets")
                assert line.heard == written
                return
            assert line.heard == []
            resets = [each for each in answers if each.protocol == TCP]
            assert all(Flags.RST in TcpSegment.decode(each).flags for each in resets)
            assert len(resets) == 4
            (refused,) = (each for each in answers if each.protocol != TCP)
            assert refused.payload[0] == UNREACHABLE[refused.protocol]

    in_namespace(body)


@both_families
def test_only_what_is_reserved_is_heard(version: int) -> None:
    """Other ports, protocols, addresses and identifiers are the kernel's; so is everything after a release."""
    other = {4: ip_address("10.45.0.3"), 6: ip_address("2001:db8:45::3")}[version]

    def echo(identifier: int, *, request: bool = False) -> bytes:
        told = IcmpEcho(request=request, identifier=identifier, sequence=1, data=b"x" * 8)
        return _packet(version, icmp_of(UES[version]), told.encode(HOSTS[version], UES[version]))

    async def body() -> None:
        async with Line() as line:
            line.answering = False
            icmp = icmp_of(UES[version])
            for protocol, port in ((UDP, NEAR), (icmp, 77)):
                line.port.reserve(protocol, UES[version], port)
            good = [udp(HOSTS[version], UES[version], ports=(FAR, NEAR)), echo(77)]
            for packet in (
                udp(HOSTS[version], UES[version], ports=(FAR, NEAR + 1)),
                udp(HOSTS[version], other, ports=(FAR, NEAR)),
                _segment(version, Flags.ACK),
                echo(78),
                echo(77, request=True),
                good[0][: 22 if version == 4 else 42],
                *good,
            ):
                line.device.write(packet)
            await until(lambda: len(line.heard) >= 2, "packets")
            await line.settled(version)
            assert line.heard == good
            line.port.release(icmp, UES[version], 77)
            for packet in good:
                line.device.write(packet)
            await until(lambda: len(line.heard) >= 3, "a packet")
            await line.settled(version)
            assert line.heard == [*good, good[0]]
            line.port.close()
            assert not line.port.send(good[0])
            assert line.port.dropped == {"send-nothing-reserved": 1}

    in_namespace(body)


def test_ipv4_options_are_passed_over_and_fragments_are_not_heard() -> None:
    async def body() -> None:
        async with Line() as line:
            line.answering = False
            line.port.reserve(UDP, UES[4], NEAR)
            plain = udp(HOSTS[4], UES[4], ports=(FAR, NEAR))
            fragment = plain[:6] + b"\x20\x00" + plain[8:]
            options = (
                b"\x47" + plain[1:2] + (len(plain) + 8).to_bytes(2, "big") + plain[4:20] + b"\x01" * 8 + plain[20:]
            )
            for packet in (fragment, options, plain):
                line.device.write(packet)
            await until(lambda: len(line.heard) >= 2, "packets")
            assert line.heard == [options, plain]

    in_namespace(body)


def test_ports_are_reserved_as_long_as_flows_are_remembered() -> None:
    """With ``stop_all`` all of them are the kernel's again, and nothing is open."""

    async def body() -> None:
        async with Line() as line:

            def held() -> list[int]:
                free = []
                for port in range(FLOW_PORT + 1, FLOW_PORT + FLOWS_KEPT + 3):
                    probe = PacketPort(lambda packet: None, DEVICE)
                    try:
                        probe.reserve(UDP, UES[4], port)
                        free.append(port - FLOW_PORT)
                    except BackendError:
                        pass
                    probe.close()
                return [each for each in range(1, FLOWS_KEPT + 3) if each not in free]

            before = len(os.listdir("/proc/self/fd"))
            for _ in range(FLOWS_KEPT + 1):
                line.flows.start(FlowKind.UDP, UES[4], HOSTS[4], rate=10.0)
            assert held() == [2, 3, 4, 5]
            line.flows.stop_all()
            assert held() == []
            assert len(os.listdir("/proc/self/fd")) == before

    in_namespace(body)


def test_what_cannot_be_reserved_is_one_line_and_leaves_nothing() -> None:
    async def body() -> None:
        async with Line() as line:
            line.port.reserve(UDP, UES[4], NEAR)
            with pytest.raises(LocalError, match="is reserved already"):
                line.port.reserve(UDP, UES[4], NEAR)
            other = PacketPort(lambda packet: None, DEVICE)
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(
                BackendError, match="^cannot reserve UDP port 50000 of 10.45.0.2: Address already in use$"
            ):
                other.reserve(UDP, UES[4], NEAR)
            with pytest.raises(BackendError, match="^cannot reserve TCP port 1 of 10.45.0.9: Cannot assign req"):
                other.reserve(TCP, ip_address("10.45.0.9"), 1)
            with pytest.raises(LocalError, match="protocol 132 has no ports"):
                other.reserve(132, UES[4], 1)
            nowhere = PacketPort(lambda packet: None, "nowhere0")
            with pytest.raises(BackendError, match="^cannot hear packets of device nowhere0: No such device$"):
                nowhere.reserve(ICMP, UES[4], 1)
            assert len(os.listdir("/proc/self/fd")) == before
            flows = Flows(other.send, SeededEntropy(1), iter([NEAR - FLOW_PORT]), reservations=other)
            with pytest.raises(BackendError, match="already in use"):
                flows.start(FlowKind.UDP, UES[4], HOSTS[4], rate=1.0)
            assert flows.all() == ()

    in_namespace(body)


def test_too_many_ports_are_refused_and_the_others_go_on() -> None:
    """A program of the kernel's has an end; a thousand ports are more than any UE's flows."""

    async def body() -> None:
        async with Line() as line:
            line.answering = False
            reserved = 0
            refusal = ""
            while not refusal:
                try:
                    line.port.reserve(ICMPV6, UES[6], reserved)
                    reserved += 1
                except BackendError as error:
                    refusal = str(error)
            assert refusal.startswith(f"cannot hear packets of {reserved + 1} ports: ")
            assert 10 * FLOWS_KEPT < reserved < 1000
            told = IcmpEcho(request=False, identifier=0, sequence=1, data=b"x").encode(HOSTS[6], UES[6])
            line.device.write(_packet(6, ICMPV6, told))
            await until(lambda: len(line.heard) == 1, "the answer")
            line.port.release(ICMPV6, UES[6], 1)
            line.port.reserve(ICMPV6, UES[6], reserved)

    in_namespace(body)


def test_without_the_right_to_packet_sockets() -> None:
    program = """
import asyncio, ctypes, ipaddress
from protocols.errors import BackendError
from protocols.io.aside import PacketPort
assert ctypes.CDLL(None).prctl(24, 13, 0, 0, 0) == 0  # PR_CAPBSET_DROP, CAP_NET_RAW
import os
os.setresuid(65534, 65534, 65534)
async def body():
    try:
        PacketPort(lambda packet: None).reserve(1, ipaddress.ip_address("127.0.0.1"), 1)
    except BackendError as error:
        print(error)
asyncio.run(body())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout == "traffic of the node's own beside the kernel's needs root or CAP_NET_RAW\n", done.stderr


def test_a_device_that_goes_costs_packets_only() -> None:
    async def body() -> None:
        async with Line() as line:
            line.port.reserve(UDP, UES[4], NEAR)
            line.device.close()
            assert not line.port.send(udp(UES[4], HOSTS[4], ports=(NEAR, FAR)))
            await until(lambda: line.port.dropped["receive-ENETDOWN"] == 1, "the end of the device")
            assert line.port.dropped == {"send-ENODEV": 1, "receive-ENETDOWN": 1}
            line.port.release(UDP, UES[4], NEAR)

    in_namespace(body)


@both_families
def test_a_device_takes_what_no_route_leads_into_it(version: int) -> None:
    beyond = {4: ip_address("203.0.113.80"), 6: ip_address("2001:db8:ffff::1")}[version]

    async def body() -> None:
        async with Line() as line:
            line.port.reserve(UDP, UES[version], NEAR)
            packet = udp(UES[version], beyond, ports=(NEAR, FAR))
            answer = udp(beyond, UES[version], ports=(FAR, NEAR))
            assert line.port.send(packet)
            await until(lambda: packet in line.came, "the packet")
            line.device.write(answer)
            await until(lambda: line.heard == [answer], "its answer")

    in_namespace(body)


@both_families
def test_policies_of_the_kernel_see_the_protocol(version: int) -> None:
    """Of a packet sent by its routes: one for TCP passes UDP, one for UDP blocks it (Linux 6.4)."""
    require_program("ip")
    if tuple(map(int, platform.release().split(".")[:2])) < (6, 4):
        pytest.skip("before Linux 6.4 they take every packet of a raw socket for protocol 255")

    def policy(verb: str, protocol: str, *action: str) -> None:
        ends = ("src", str(UES[version]), "dst", str(HOSTS[version]), "proto", protocol)
        subprocess.run(["ip", "xfrm", "policy", verb, *ends, "dir", "out", *action], check=True, timeout=5)

    async def body() -> None:
        async with Line(by_routes=True) as line:
            line.port.reserve(UDP, UES[version], NEAR)
            packet = udp(UES[version], HOSTS[version], ports=(NEAR, FAR))
            policy("add", "tcp", "action", "block")
            assert line.port.send(packet)
            policy("add", "udp", "action", "block")
            assert not line.port.send(packet)
            assert line.port.dropped == {"send-EPERM": 1}

    in_namespace(body)


# --- coalesced packets


def _coalesced(version: int, protocol: int, headers: bytes, payload: bytes, size: int) -> bytes:
    """A super-packet as a writer of a TUN device hands it in, its checksum left to the kernel."""
    field = 6 if protocol == UDP else 16
    network = 20 if version == 4 else 40
    length = len(headers) + len(payload)
    covered = pseudo_header(HOSTS[version], UES[version], protocol, length)
    total = sum(struct.unpack(f">{len(covered) // 2}H", covered))
    partial = (total & 0xFFFF) + (total >> 16)
    transport = headers[:field] + partial.to_bytes(2, "big") + headers[field + 2 :] + payload
    kind = 5 if protocol == UDP else {4: 1, 6: 4}[version]
    offload = struct.pack("=BBHHHH", 1, kind, network + len(headers), size, network, field)
    return offload + _packet(version, protocol, transport)


async def _heard_of(version: int, protocol: int, written: bytes, count: int) -> list[bytes]:
    heard: list[bytes] = []
    device = await FastTun.open(DEVICE, INTERFACES, MTU, NETWORKS)
    port = PacketPort(heard.append, DEVICE)
    with ExitStack() as undo:
        undo.callback(device.close)
        undo.callback(port.close)
        if protocol == UDP and not device.udp_offload:
            pytest.skip("this kernel takes no coalesced UDP")
        port.reserve(protocol, UES[version], NEAR)
        os.write(device.queues[0], written)
        await until(lambda: len(heard) >= count, "packets")
    return heard


@both_families
def test_coalesced_tcp_is_one_long_segment(version: int) -> None:
    """Its checksum complete, as ``TcpSegment.decode`` checks."""
    payload = bytes(range(256)) * 20
    flags = Flags.ACK
    head = TcpSegment(
        source_port=FAR, destination_port=NEAR, sequence=1, acknowledgment=1, flags=flags, window=100
    ).encode(HOSTS[version], UES[version])

    async def body() -> None:
        (packet,) = await _heard_of(version, TCP, _coalesced(version, TCP, head, payload, 1000), 1)
        segment = TcpSegment.decode(IpPacket.decode(packet))
        assert (segment.payload, segment.flags, segment.destination_port) == (payload, flags, NEAR)

    in_namespace(body)


@both_families
def test_coalesced_udp_is_datagrams_again(version: int) -> None:
    payload = b"".join(bytes([number]) * 100 for number in range(5)) + b"short"
    head = struct.pack(">HHHH", FAR, NEAR, 8 + len(payload), 0)

    async def body() -> None:
        heard = await _heard_of(version, UDP, _coalesced(version, UDP, head, payload, 100), 6)
        datagrams = [UdpDatagram.decode(IpPacket.decode(packet)) for packet in heard]
        assert [each.payload for each in datagrams] == [payload[at : at + 100] for at in range(0, len(payload), 100)]
        assert {(each.source_port, each.destination_port) for each in datagrams} == {(FAR, NEAR)}

    in_namespace(body)


def test_a_link_header_is_passed_over() -> None:
    """As of a packet that came in by Ethernet: offsets of checksums count from its beginning."""
    packet = udp(HOSTS[4], UES[4], b"one", (FAR, NEAR))
    total = sum(struct.unpack(">6H", pseudo_header(HOSTS[4], UES[4], UDP, 11)))
    partial = packet[:26] + ((total & 0xFFFF) + (total >> 16)).to_bytes(2, "big") + packet[28:]
    assert [*whole_packets(struct.pack("=BBHHHH", 1, 0, 0, 0, 34, 6) + bytes(14) + partial, 14)] == [packet]
