"""The in-process host and the echo client, on virtual time and through a tunnel."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest
from scapy.layers import inet

from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.dataplane.userspace.host import EchoClient, FlowKind, InProcessHost
from protocols.entropy import SeededEntropy
from protocols.errors import LocalError
from protocols.ip import ICMP, UDP, IcmpEcho, IpPacket, UdpDatagram
from tests.dataplane.pairs import GATEWAY_PATH, HOST_ADDRESS, UE_ADDRESS, mirrored, ue_spec

V6_UE, V6_HOST = ip_address("2001:db8:1::77"), ip_address("2001:db8:ff::1")


def udp(port: int, source_port: int = 5000, destination: str = str(HOST_ADDRESS)) -> bytes:
    to = ip_address(destination)
    payload = UdpDatagram(source_port=source_port, destination_port=port, payload=b"x").encode(UE_ADDRESS, to)
    return IpPacket(source=UE_ADDRESS, destination=to, protocol=UDP, payload=payload).encode()


class TestInProcessHost:
    def test_icmp_echo_as_scapy_sees_it(self) -> None:
        host = InProcessHost(HOST_ADDRESS)
        request = inet.IP(src=str(UE_ADDRESS), dst=str(HOST_ADDRESS)) / inet.ICMP(id=9, seq=3) / b"data"
        answer = host.receive(bytes(request))
        assert answer is not None
        reply = inet.IP(answer)
        assert (reply.src, reply.dst) == (str(HOST_ADDRESS), str(UE_ADDRESS))
        assert reply[inet.ICMP].answers(inet.IP(bytes(request))[inet.ICMP])
        assert bytes(reply[inet.ICMP].payload) == b"data"
        assert host.counters.icmp_echoes == 1

    def test_udp_echo_answers_on_port_7_only(self) -> None:
        host = InProcessHost(HOST_ADDRESS)
        answer = host.receive(udp(7))
        assert answer is not None
        datagram = UdpDatagram.decode(IpPacket.decode(answer))
        assert datagram == UdpDatagram(source_port=7, destination_port=5000, payload=b"x")
        assert host.receive(udp(8)) is None
        assert host.receive(udp(7, source_port=7)) is None  # two echo servers would never stop
        assert (host.counters.udp_echoes, host.counters.ignored) == (1, 2)

    def test_what_it_does_not_answer(self) -> None:
        host = InProcessHost(HOST_ADDRESS)
        assert host.receive(udp(7, destination="192.0.2.81")) is None
        assert host.receive(b"") is None
        assert host.receive(udp(7)[:-1]) is None
        echo = IcmpEcho(request=False, identifier=1, sequence=1, data=b"").encode(UE_ADDRESS, HOST_ADDRESS)
        reply = IpPacket(source=UE_ADDRESS, destination=HOST_ADDRESS, protocol=ICMP, payload=echo)
        assert host.receive(reply.encode()) is None
        tcp = IpPacket(source=UE_ADDRESS, destination=HOST_ADDRESS, protocol=6, payload=bytes(20))
        assert host.receive(tcp.encode()) is None
        counters = host.counters
        assert (counters.received, counters.refused, counters.malformed, counters.ignored) == (5, 1, 2, 2)

    def test_needs_an_address(self) -> None:
        with pytest.raises(LocalError):
            InProcessHost()


class Stage:
    """A client, a host and a link between them with a delay each way and a switch; virtual time."""

    def __init__(self, client: EchoClient, host: InProcessHost, delay: float = 0.01) -> None:
        self.client, self.host, self.delay = client, host, delay
        self.now = 0.0
        self.up = True
        self._arrivals: list[tuple[float, bytes]] = []

    def run(self, until: float, carry: Callable[[bytes], bytes | None] | None = None) -> None:
        """Advance the clock from one thing that happens to the next."""
        carry = carry or self.host.receive
        while True:
            moments = [at for at, _ in self._arrivals]
            if (deadline := self.client.next_deadline()) is not None:
                moments.append(deadline)
            if not moments or min(moments) > until:
                self.now = until
                return
            self.now = min(moments)
            self.client.handle_timeout(self.now)
            while (request := self.client.poll_packet()) is not None:
                answer = carry(request) if self.up else None
                if answer is not None:
                    self._arrivals.append((self.now + 2 * self.delay, answer))
            for arrival in [arrival for arrival in self._arrivals if arrival[0] <= self.now]:
                self._arrivals.remove(arrival)
                assert self.client.receive(arrival[1], self.now)


def stage(kind: FlowKind = FlowKind.ICMP, interval: float = 0.05, **options: int) -> Stage:
    client = EchoClient(source=UE_ADDRESS, destination=HOST_ADDRESS, kind=kind, interval=interval, **options)
    return Stage(client, InProcessHost(HOST_ADDRESS))


@pytest.mark.parametrize("kind", FlowKind)
def test_an_undisturbed_flow(kind: FlowKind) -> None:
    scene = stage(kind)
    scene.client.start(0.0)
    scene.run(until=0.99)
    scene.client.stop(0.99)
    scene.run(until=2.0)
    found = scene.client.statistics()
    assert (found.sent, found.received, found.lost, found.in_flight) == (20, 20, 0, 0)
    assert found.rtt_minimum_ms == pytest.approx(20)
    assert found.rtt_average_ms == pytest.approx(20)
    assert found.rtt_maximum_ms == pytest.approx(20)
    assert found.longest_gap_ms == pytest.approx(50)
    assert not scene.client.running
    assert scene.client.next_deadline() is None


def test_an_outage_is_measured() -> None:
    scene = stage()
    scene.client.start(0.0)
    scene.run(until=0.99)
    scene.up = False  # requests of 1.00 to 1.45 are lost
    scene.run(until=1.49)
    scene.up = True
    scene.run(until=4.0)
    found = scene.client.statistics()
    assert (found.sent, found.lost) == (81, 10)
    assert found.in_flight == 1
    assert found.longest_gap_ms == pytest.approx(550)  # answer of 0.95 to answer of 1.50
    before = scene.client.statistics(until=0.99)
    assert (before.sent, before.lost) == (20, 0)
    assert before.longest_gap_ms == pytest.approx(50)
    during = scene.client.statistics(since=1.0, until=1.49)
    assert (during.sent, during.received, during.lost) == (10, 0, 10)
    assert during.rtt_average_ms is None
    after = scene.client.statistics(since=1.499)
    assert (after.lost, after.longest_gap_ms) == (0, pytest.approx(50))


def test_a_flow_that_is_never_answered_is_one_gap() -> None:
    scene = stage()
    scene.up = False
    scene.client.start(0.0)
    scene.run(until=3.0)
    scene.client.stop(3.0)
    found = scene.client.statistics()
    assert (found.sent, found.received) == (61, 0)
    assert found.lost == 40  # the last second's may still be answered
    assert found.in_flight == 21
    assert found.longest_gap_ms == pytest.approx(3000)


def test_statistics_before_anything_happened() -> None:
    found = stage().client.statistics()
    assert (found.sent, found.received, found.lost, found.longest_gap_ms) == (0, 0, 0, 0.0)


def test_a_late_timer_does_not_make_a_burst() -> None:
    client = stage(interval=0.1).client
    client.start(5.0)
    client.handle_timeout(5.0)
    client.handle_timeout(5.05)  # too early: nothing
    client.handle_timeout(5.57)
    assert client.sent == 2
    assert client.next_deadline() == pytest.approx(5.6)


def test_answers_that_are_not_the_flows_own() -> None:
    scene = stage()
    scene.client.start(0.0)
    scene.client.handle_timeout(0.0)
    request = scene.client.poll_packet()
    assert request is not None
    answer = scene.host.receive(request)
    assert answer is not None
    assert not scene.client.receive(request, 0.01)
    assert not scene.client.receive(answer[:-1], 0.01)
    other = EchoClient(source=UE_ADDRESS, destination=HOST_ADDRESS, identifier=77)
    assert not other.receive(answer, 0.01)
    assert not EchoClient(source=UE_ADDRESS, destination=HOST_ADDRESS).receive(answer, 0.01)  # never asked
    assert scene.client.receive(answer, 0.01)
    assert scene.client.receive(answer, 0.02)
    assert (scene.client.received, scene.client.duplicates, scene.client.malformed) == (1, 1, 1)
    assert scene.client.statistics().rtt_average_ms == pytest.approx(10)


def test_an_answer_too_short_for_the_number() -> None:
    client = stage().client
    data = IcmpEcho(request=False, identifier=49152, sequence=0, data=b"abc").encode(HOST_ADDRESS, UE_ADDRESS)
    packet = IpPacket(source=HOST_ADDRESS, destination=UE_ADDRESS, protocol=ICMP, payload=data)
    assert not client.receive(packet.encode(), 0.0)
    assert client.malformed == 1


def test_only_so_many_packets_are_remembered() -> None:
    scene = stage(history=10)
    scene.client.start(0.0)
    scene.run(until=4.99)
    found = scene.client.statistics()
    assert (found.sent, found.lost) == (10, 0)
    assert scene.client.sent == scene.client.received == 100


@pytest.mark.parametrize(
    "options",
    [{"interval": 0.0}, {"payload_length": 7}, {"destination": V6_HOST}],
    ids=["interval", "payload", "versions"],
)
def test_impossible_flows(options: dict[str, object]) -> None:
    with pytest.raises(LocalError):
        EchoClient(**{"source": UE_ADDRESS, "destination": HOST_ADDRESS, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", FlowKind)
def test_ipv6(kind: FlowKind) -> None:
    client = EchoClient(source=V6_UE, destination=V6_HOST, kind=kind, interval=0.05)
    scene = Stage(client, InProcessHost(V6_HOST))
    client.start(0.0)
    scene.run(until=1.0)
    assert client.statistics(until=0.91).received == 19


@pytest.mark.parametrize("suite", ["aes128-sha256", "aes128gcm16"])
def test_through_a_tunnel_with_a_rekey_in_the_middle(suite: str) -> None:
    """UE and gateway back to back, a host behind the gateway: not one packet is lost."""
    scene = stage()
    back: list[bytes] = []
    old, new = ue_spec(suite), ue_spec(suite, number=2)
    ue = UserspaceDataPlane(
        entropy=SeededEntropy("ue"),
        deliver=lambda packet, inbound_spi: back.append(packet),
        transmit=lambda octets, path, encapsulation, traffic_class: epdg.receive_esp(octets, GATEWAY_PATH),
    )

    def behind_the_gateway(packet: bytes, inbound_spi: bytes) -> None:
        answer = scene.host.receive(packet)
        assert answer is not None
        epdg.send_inner(answer)

    epdg = UserspaceDataPlane(
        entropy=SeededEntropy("epdg"),
        deliver=behind_the_gateway,
        transmit=lambda octets, path, encapsulation, traffic_class: ue.receive_esp(octets, old.path),
    )

    def through_the_tunnel(packet: bytes) -> bytes | None:
        ue.send_inner(packet)
        return back.pop() if back else None

    ue.install(old)
    epdg.install(mirrored(old))
    scene.client.start(0.0)
    scene.run(until=0.49, carry=through_the_tunnel)
    epdg.replace(mirrored(old).inbound_spi, mirrored(new))
    ue.replace(old.inbound_spi, new)
    scene.run(until=0.99, carry=through_the_tunnel)
    ue.remove(old.inbound_spi)
    epdg.remove(old.outbound_spi)
    scene.run(until=1.99, carry=through_the_tunnel)
    scene.client.stop(1.99)
    scene.run(until=3.0, carry=through_the_tunnel)
    found = scene.client.statistics()
    assert (found.sent, found.received) == (40, 40)
    assert found.longest_gap_ms == pytest.approx(50)
    assert ue.counters(new.inbound_spi).inbound_packets == epdg.counters(new.outbound_spi).outbound_packets == 30
    assert ue.drops == epdg.drops == {}
