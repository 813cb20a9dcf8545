"""TCP without a kernel: over lossy wires on virtual time, as scapy sees it, hostile segments."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from random import Random

import pytest
from scapy.layers import inet

from protocols.dataplane.userspace.clients import RECORD_LENGTH, TcpClient
from protocols.dataplane.userspace.segment import Flags, TcpSegment
from protocols.dataplane.userspace.services import GENERATOR_PORT, ServiceHost
from protocols.dataplane.userspace.tcp import (
    GIVE_UP_INTERVAL,
    MSS_MINIMUM,
    RECEIVE_WINDOW,
    TIME_WAIT_INTERVAL,
    TcpConnection,
    TcpState,
)
from protocols.entropy import SeededEntropy
from protocols.errors import DecodeError, LocalError
from protocols.ip import TCP, IpPacket
from protocols.path import Address
from tests.dataplane.pairs import HOST_ADDRESS, UE_ADDRESS
from tests.media.wire import Rule, Wire

DELAY = 0.02
V6_UE, V6_HOST = ip_address("2001:db8:1::77"), ip_address("2001:db8:ff::1")


class End:
    """A connection in the shape that a wire carries: IP packets."""

    def __init__(self, connection: TcpConnection, own: Address, peer: Address) -> None:
        self.connection, self.own, self.peer = connection, own, peer
        self.got = bytearray()
        self.seen: list[TcpSegment] = []
        self.reading = True

    @property
    def state(self) -> TcpState:
        return self.connection.state

    def poll_transmit(self) -> bytes | None:
        segment = self.connection.poll_transmit()
        if segment is None:
            return None
        self.seen.append(segment)
        payload = segment.encode(self.own, self.peer)
        return IpPacket(source=self.own, destination=self.peer, protocol=TCP, payload=payload).encode()

    def receive(self, packet: bytes, now: float) -> None:
        self.connection.receive(TcpSegment.decode(IpPacket.decode(packet)), now)
        if self.reading:
            self.got += self.connection.read(now)

    def next_deadline(self) -> float | None:
        return self.connection.next_deadline()

    def handle_timeout(self, now: float) -> None:
        self.connection.handle_timeout(now)


class Passive(End):
    """The end that waits for a SYN."""

    def receive(self, packet: bytes, now: float) -> None:
        segment = TcpSegment.decode(IpPacket.decode(packet))
        if self.connection.state is TcpState.CLOSED and Flags.SYN in segment.flags:
            self.connection.accept(segment, now)
            return
        super().receive(packet, now)


def clean(number: int, now: float) -> Sequence[float]:
    del number, now
    return (DELAY,)


def lossy(seed: int, loss: float, *, shuffle: float = 0.0) -> Rule:
    random = Random(seed)

    def rule(number: int, now: float) -> Sequence[float]:
        del number, now
        copies = 0 if random.random() < loss else 2 if random.random() < shuffle / 4 else 1
        return [DELAY + random.random() * shuffle for _ in range(copies)]

    return rule


def pair(
    to_left: Rule = clean, to_right: Rule = clean, *, initial_sequence: int = 0xFFFFF000
) -> tuple[End, Passive, Wire]:
    left = End(
        TcpConnection(local_port=40000, remote_port=7, initial_sequence=initial_sequence), UE_ADDRESS, HOST_ADDRESS
    )
    right = Passive(TcpConnection(local_port=7, remote_port=40000, initial_sequence=5), HOST_ADDRESS, UE_ADDRESS)
    wire = Wire(left, right, left.receive, right.receive, to_left=to_left, to_right=to_right)
    left.connection.open(0.0)
    return left, right, wire


def transfer(left: End, wire: Wire, octets: bytes, until: float) -> None:
    """Send everything, then FIN."""
    sent = 0
    while wire.now < until and sent < len(octets):
        sent += left.connection.send(octets[sent:], wire.now)
        wire.run(wire.now + 0.05)
    left.connection.close(wire.now)


def test_handshake_data_and_close() -> None:
    """--> SYN, <-- SYN ACK, --> ACK; data; --> FIN, <-- ACK, <-- FIN, --> ACK (RFC 9293 §3.5, §3.6)."""
    left, right, wire = pair()
    wire.run(0.1)
    assert left.state is right.state is TcpState.ESTABLISHED
    assert [segment.flags for segment in left.seen] == [Flags.SYN, Flags.ACK]
    assert [segment.flags for segment in right.seen] == [Flags.SYN | Flags.ACK]
    left.connection.send(b"question", wire.now)
    right.connection.send(b"answer", wire.now)
    wire.run(0.2)
    assert (bytes(right.got), bytes(left.got)) == (b"question", b"answer")
    assert left.connection.round_trip == pytest.approx(2 * DELAY)
    left.connection.close(wire.now)
    wire.run(0.3)
    assert (left.state, right.state) == (TcpState.FIN_WAIT_2, TcpState.CLOSE_WAIT)
    assert right.connection.finished_receiving
    right.connection.close(wire.now)
    wire.run(0.4)
    assert (left.state, right.state) == (TcpState.TIME_WAIT, TcpState.CLOSED)
    wire.run(1 + TIME_WAIT_INTERVAL)
    assert left.state is TcpState.CLOSED
    assert left.connection.failure is right.connection.failure is None
    assert not left.connection.counters.retransmissions
    with pytest.raises(LocalError, match="CLOSED"):
        left.connection.send(b"more", wire.now)


def test_both_close_at_once() -> None:
    left, right, wire = pair()
    wire.run(0.1)
    left.connection.close(wire.now)
    right.connection.close(wire.now)
    wire.run(0.3)
    assert left.state is right.state is TcpState.TIME_WAIT


@pytest.mark.parametrize("seed", range(6))
def test_everything_arrives_in_order_under_loss_and_reordering(seed: int) -> None:
    """10 % loss each way, delays that reorder and duplicates: 300,000 octets, sequence numbers wrapping."""
    octets = Random(seed).randbytes(300_000)
    left, right, wire = pair(lossy(seed, 0.1, shuffle=0.01), lossy(seed + 100, 0.1, shuffle=0.01))
    transfer(left, wire, octets, 300.0)
    wire.run(wire.now + 120.0)
    assert bytes(right.got) == octets
    assert right.connection.finished_receiving
    assert left.connection.counters.retransmissions > 10
    assert left.connection.counters.fast_retransmissions > 0


def test_a_single_loss_is_repaired_without_a_timeout() -> None:
    """RFC 5681 §3.2: three duplicate acknowledgments."""
    left, right, wire = pair(to_right=lambda number, now: () if number == 20 else (DELAY,))
    octets = bytes(60_000)
    transfer(left, wire, octets, 10.0)
    wire.run(wire.now + 5)
    assert bytes(right.got) == octets
    counters = left.connection.counters
    assert (counters.fast_retransmissions, counters.timeouts, counters.retransmissions) == (1, 0, 1)


def test_slow_start_doubles_and_then_grows_by_a_segment() -> None:
    """RFC 5681 §3.1: the flight of each round trip after the handshake."""
    left, _, wire = pair()
    wire.run(2 * DELAY + 0.001)
    left.connection.send(bytes(250_000), wire.now)
    before, flights = len(left.seen), []
    for _ in range(4):
        wire.run(wire.now + 2 * DELAY - (0.001 if not flights else 0))  # to just before the acknowledgments
        flights.append(sum(bool(segment.payload) for segment in left.seen[before:]))
        before = len(left.seen)
    assert flights[:3] == [3, 6, 12]


def test_it_survives_an_outage_of_a_minute() -> None:
    """A move with a long silence: the retransmission timer backs off and the flow goes on (RFC 6298 §5.5)."""

    def cut(number: int, now: float) -> Sequence[float]:
        del number
        return () if 1.0 <= now < 61.0 else (DELAY,)

    left, right, wire = pair(cut, cut)
    octets = Random(9).randbytes(200_000)
    for start in range(0, len(octets), 1000):
        left.connection.send(octets[start : start + 1000], wire.now)
        wire.run(wire.now + 0.02)
    wire.run(130.0)
    assert bytes(right.got) == octets
    assert 4 <= left.connection.counters.timeouts <= 12


def test_a_peer_that_is_gone_is_given_up() -> None:
    left, _, wire = pair(to_right=lambda number, now: () if now > 1 else (DELAY,))
    wire.run(2.0)
    left.connection.send(b"hello?", wire.now)
    wire.run(10 + GIVE_UP_INTERVAL)
    assert left.state is TcpState.ESTABLISHED
    wire.run(200 + GIVE_UP_INTERVAL)
    assert left.state is TcpState.CLOSED
    assert left.connection.failure == "the peer does not answer"


def test_a_shut_window_is_respected_and_probed() -> None:
    """RFC 9293 §3.8.6.1: nothing beyond the window but probes of one octet, and it goes on when it opens."""
    left, right, wire = pair()
    right.reading = False
    octets = Random(3).randbytes(150_000)
    left.connection.send(octets, wire.now)
    wire.run(30.0)
    assert right.connection.waiting <= RECEIVE_WINDOW
    assert left.state is TcpState.ESTABLISHED
    late = [segment for segment in left.seen if segment.payload][-3:]
    assert all(len(segment.payload) == 1 for segment in late)
    right.reading = True
    right.got += right.connection.read(wire.now)
    wire.run(100.0)
    assert bytes(right.got) == octets


class TestHostile:
    """Segments that no honest peer sends."""

    @staticmethod
    def established() -> tuple[TcpConnection, TcpSegment]:
        """A connection that expects sequence number 1001, and a segment that fits it."""
        connection = TcpConnection(local_port=1, remote_port=2, initial_sequence=0)
        connection.open(0.0)
        connection.poll_transmit()
        answer = TcpSegment(
            source_port=2, destination_port=1, sequence=1000, acknowledgment=1, flags=Flags.SYN | Flags.ACK, window=9000
        )
        connection.receive(answer, 0.0)
        connection.poll_transmit()
        fitting = TcpSegment(
            source_port=2, destination_port=1, sequence=1001, acknowledgment=1, flags=Flags.ACK, window=9000
        )
        return connection, fitting

    @pytest.mark.parametrize(("offset", "state"), [(0, TcpState.CLOSED), (1, TcpState.ESTABLISHED)])
    def test_reset_counts_at_the_exact_number_only(self, offset: int, state: TcpState) -> None:
        """RFC 5961 §3.2; another one in the window is challenged."""
        connection, fitting = self.established()
        reset = TcpSegment(
            source_port=2, destination_port=1, sequence=1001 + offset, acknowledgment=0, flags=Flags.RST, window=0
        )
        connection.receive(reset, 0.1)
        assert connection.state is state
        challenge = connection.poll_transmit()
        assert (challenge is not None) is bool(offset)

    def test_thousands_of_pieces_are_put_together_in_no_time(self) -> None:
        """One octet each, all but the first: searching them for the lowest each time took seconds."""
        connection, fitting = self.established()
        pieces = [replace(fitting, sequence=1002 + number, payload=b"z") for number in range(20_000)]
        before = time.process_time()
        for piece in [*pieces, replace(fitting, payload=b"z")]:
            connection.receive(piece, 0.1)
        assert connection.waiting == 20_001
        assert time.process_time() - before < 2.0

    def test_tiny_segments_are_not_sent_because_the_peer_wants_them(self) -> None:
        connection = TcpConnection(local_port=1, remote_port=2, initial_sequence=0)
        connection.open(0.0)
        connection.poll_transmit()
        flags = Flags.SYN | Flags.ACK
        connection.receive(
            TcpSegment(
                source_port=2, destination_port=1, sequence=0, acknowledgment=1, flags=flags, window=9000, mss=1
            ),
            0.0,
        )
        connection.send(bytes(500), 0.0)
        segment = connection.poll_transmit()
        assert segment is not None
        assert len(segment.payload) == MSS_MINIMUM

    def test_refusal(self) -> None:
        connection = TcpConnection(local_port=1, remote_port=2, initial_sequence=0)
        connection.open(0.0)
        connection.poll_transmit()
        refusal = TcpSegment(
            source_port=2, destination_port=1, sequence=0, acknowledgment=1, flags=Flags.RST | Flags.ACK, window=0
        )
        connection.receive(refusal, 0.1)
        assert connection.failure == "refused by the peer"

    def test_random_segments_never_break_it(self) -> None:
        """Whatever comes, memory stays bounded and nothing is raised."""
        for seed in range(40):
            random = Random(seed)
            connection, _ = self.established()
            for step in range(200):
                segment = TcpSegment(
                    source_port=2,
                    destination_port=1,
                    sequence=(1001 + random.randrange(-70_000, 140_000)) % (1 << 32),
                    acknowledgment=random.randrange(-5, 5_000) % (1 << 32),
                    flags=Flags(random.choice([0x10, 0x10, 0x10, 0x11, 0x18, 0x12, 0x02, 0x00])),
                    window=random.randrange(65536),
                    payload=random.randbytes(random.choice([0, 1, 500, 60_000])),
                )
                if connection.sends and random.random() < 0.3:
                    connection.send(bytes(500), step * 0.1)
                connection.receive(segment, step * 0.1)
                connection.handle_timeout(step * 0.1)
                while connection.poll_transmit() is not None:
                    pass
                assert connection.waiting <= RECEIVE_WINDOW
                assert connection._pieces_length <= RECEIVE_WINDOW


class TestSegment:
    """The octets."""

    SEGMENT = TcpSegment(
        source_port=40000, destination_port=7, sequence=1, acknowledgment=2, flags=Flags.SYN | Flags.ACK,
        window=512, payload=b"x", mss=1220,
    )  # fmt: skip

    @pytest.mark.parametrize(("own", "peer"), [(UE_ADDRESS, HOST_ADDRESS), (V6_UE, V6_HOST)])
    def test_both_ways(self, own: Address, peer: Address) -> None:
        packet = IpPacket(source=own, destination=peer, protocol=TCP, payload=self.SEGMENT.encode(own, peer))
        assert TcpSegment.decode(packet) == self.SEGMENT
        for length in range(len(packet.payload)):
            cut = IpPacket(source=own, destination=peer, protocol=TCP, payload=packet.payload[:length])
            with pytest.raises(DecodeError):
                TcpSegment.decode(cut)

    def test_as_scapy_sees_it(self) -> None:
        octets = IpPacket(
            source=UE_ADDRESS,
            destination=HOST_ADDRESS,
            protocol=TCP,
            payload=self.SEGMENT.encode(UE_ADDRESS, HOST_ADDRESS),
        ).encode()
        seen = inet.IP(octets)[inet.TCP]
        assert (seen.sport, seen.dport, seen.seq, seen.ack, seen.window) == (40000, 7, 1, 2, 512)
        assert str(seen.flags) == "SA"
        assert seen.options == [("MSS", 1220)]
        computed = seen.chksum
        del seen.chksum
        again = inet.IP(bytes(inet.IP(src=str(UE_ADDRESS), dst=str(HOST_ADDRESS)) / seen))
        assert again[inet.TCP].chksum == computed

    def test_options_of_a_kernel_are_passed_over(self) -> None:
        """A SYN as Linux sends it: MSS, SACK permitted, timestamps, NOP, window scale."""
        syn = inet.IP(src=str(UE_ADDRESS), dst=str(HOST_ADDRESS)) / inet.TCP(
            flags="S", options=[("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
        )
        assert TcpSegment.decode(IpPacket.decode(bytes(syn))).mss == 1460


class TestFlow:
    """A client and the services of a host, by the packets between them."""

    @staticmethod
    def flow(rule: Rule = clean, interval: float = 0.02) -> tuple[TcpClient, ServiceHost, Wire]:
        client = TcpClient(
            source=UE_ADDRESS, destination=HOST_ADDRESS, interval=interval, port=50000, entropy=SeededEntropy(1)
        )
        host = ServiceHost(HOST_ADDRESS, SeededEntropy(2))
        wire = Wire(Packets(client), host, client.receive, host.receive, to_left=rule, to_right=rule)
        client.start(0.0)
        return client, host, wire

    def test_echo_flow(self) -> None:
        client, host, wire = self.flow()
        wire.run(10.0)
        seen = client.statistics(wire.now, 1.0, 9.0)
        assert seen.octets_received == pytest.approx(400 * RECORD_LENGTH, rel=0.02)
        assert seen.throughput_kbps == pytest.approx(400, rel=0.02)
        assert seen.longest_stall_ms < 50
        assert (seen.retransmissions, seen.corrupted, seen.withheld) == (0, 0, 0)
        client.stop(wire.now)
        wire.run(10.5)
        assert client.connection.state is TcpState.TIME_WAIT
        assert host.next_deadline() is None  # nothing of it is left

    def test_a_stall_is_seen(self) -> None:
        client, _, wire = self.flow(lambda number, now: () if 4.0 <= now < 6.0 else (DELAY,))
        wire.run(20.0)
        seen = client.statistics(wire.now, 0.0, 20.0)
        assert 2000 < seen.longest_stall_ms < 5000
        assert seen.timeouts >= 2
        assert seen.corrupted == 0
        assert client.statistics(wire.now, 10.0, 20.0).longest_stall_ms < 50

    def test_a_port_without_a_service_refuses(self) -> None:
        host = ServiceHost(HOST_ADDRESS, SeededEntropy(2))
        left = End(TcpConnection(local_port=40000, remote_port=80, initial_sequence=1), UE_ADDRESS, HOST_ADDRESS)
        wire = Wire(left, host, left.receive, host.receive, to_left=clean, to_right=clean)
        left.connection.open(0.0)
        wire.run(0.1)
        assert left.connection.failure == "refused by the peer"
        assert host.counters.resets == 1

    def test_the_character_generator_fills_the_line(self) -> None:
        """RFC 864: as much as the windows let through."""
        host = ServiceHost(HOST_ADDRESS, SeededEntropy(2))
        left = End(
            TcpConnection(local_port=40000, remote_port=GENERATOR_PORT, initial_sequence=1), UE_ADDRESS, HOST_ADDRESS
        )
        wire = Wire(left, host, left.receive, host.receive, to_left=clean, to_right=clean)
        left.connection.open(0.0)
        wire.run(3.0)
        assert len(left.got) > 2_000_000  # 64 KiB each 40 ms are 1.6 MB/s
        left.connection.close(wire.now)
        wire.run(4.0)
        assert left.state is TcpState.TIME_WAIT


class Packets:
    """A client in the shape that a wire knows."""

    def __init__(self, client: TcpClient) -> None:
        self._client = client

    def poll_transmit(self) -> bytes | None:
        return self._client.poll_packet()

    def next_deadline(self) -> float | None:
        return self._client.next_deadline()

    def handle_timeout(self, now: float) -> None:
        self._client.handle_timeout(now)
