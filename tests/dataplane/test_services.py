"""The host behind the gateway by its packets: voice of both IP versions, what nobody should send, bounds."""

from __future__ import annotations

from ipaddress import ip_address
from random import Random

import pytest

from protocols.dataplane.userspace.clients import VoiceClient
from protocols.dataplane.userspace.segment import Flags, TcpSegment
from protocols.dataplane.userspace.services import CONNECTIONS_MAXIMUM, ServiceHost
from protocols.entropy import SeededEntropy
from protocols.errors import LocalError
from protocols.ip import ICMP, TCP, UDP, IcmpEcho, IpPacket, UdpDatagram
from protocols.media.answerer import CALLS_KEPT, Answerer
from protocols.media.voice import IDLE_INTERVAL, VOICE_PORT, VoiceEndpoint
from protocols.path import Address, Endpoint
from tests.dataplane.pairs import HOST_ADDRESS, UE_ADDRESS
from tests.media.wire import Wire

V6_UE, V6_HOST = ip_address("2001:db8:1::77"), ip_address("2001:db8:ff::1")


class Caller(VoiceClient):
    """In the shape that a wire knows."""

    def poll_transmit(self) -> bytes | None:
        return self.poll_packet()


def caller(source: Address = UE_ADDRESS, destination: Address = HOST_ADDRESS, seed: int = 1) -> Caller:
    return Caller(source=source, destination=destination, interval=0.02, port=50000, entropy=SeededEntropy(seed))


@pytest.mark.parametrize(("own", "far"), [(UE_ADDRESS, HOST_ADDRESS), (V6_UE, V6_HOST)])
def test_a_call(own: Address, far: Address) -> None:
    client, host = caller(own, far), ServiceHost(far, SeededEntropy(2))
    wire = Wire(
        client,
        host,
        client.receive,
        host.receive,
        to_left=lambda number, now: (0.01,),
        to_right=lambda number, now: (0.01,),
    )
    client.start(0.0)
    wire.run(5.0)
    client.stop(wire.now)
    wire.run(5.1)
    seen = client.statistics(wire.now, None, None)
    assert (seen.outbound.sent, seen.outbound.lost, seen.inbound.lost) == (251, 0, 0)
    call = host.voice.call(client.call.ssrc)
    assert call is not None
    assert call.ended
    assert host.next_deadline() is None
    assert (client.malformed, host.voice.malformed, host.counters.malformed) == (0, 0, 0)


def test_addresses_of_two_versions_make_no_call() -> None:
    with pytest.raises(LocalError, match="a call from"):
        caller(UE_ADDRESS, V6_HOST)


def test_echo_is_still_there() -> None:
    host = ServiceHost(HOST_ADDRESS, SeededEntropy(2))
    echo = IcmpEcho(request=True, identifier=1, sequence=1, data=b"x").encode(UE_ADDRESS, HOST_ADDRESS)
    host.receive(IpPacket(source=UE_ADDRESS, destination=HOST_ADDRESS, protocol=ICMP, payload=echo).encode(), 0.0)
    assert host.poll_transmit() is not None
    assert host.echo.counters.icmp_echoes == 1


def test_whatever_comes_nothing_is_raised() -> None:
    """Random IP, UDP to the voice port, TCP to the services; answers never grow without end."""
    random = Random(5)
    host = ServiceHost(HOST_ADDRESS, SeededEntropy(2))

    def packet(protocol: int, payload: bytes) -> bytes:
        return IpPacket(source=UE_ADDRESS, destination=HOST_ADDRESS, protocol=protocol, payload=payload).encode()

    answers = 0
    for step in range(3000):
        kind = step % 3
        if kind == 0:
            octets = random.randbytes(random.randrange(80))
        elif kind == 1:
            voice = bytes([0x80, random.choice([0x60, 203, 204])]) + random.randbytes(random.randrange(60))
            datagram = UdpDatagram(source_port=random.randrange(5), destination_port=VOICE_PORT, payload=voice)
            octets = packet(UDP, datagram.encode(UE_ADDRESS, HOST_ADDRESS))
        else:
            segment = TcpSegment(
                source_port=random.randrange(3),
                destination_port=random.choice([7, 9, 19, 80]),
                sequence=random.randrange(1 << 32),
                acknowledgment=random.randrange(1 << 32),
                flags=Flags(random.randrange(64)),
                window=random.randrange(65536),
                payload=random.randbytes(random.randrange(100)),
            )
            octets = packet(TCP, segment.encode(UE_ADDRESS, HOST_ADDRESS))
        host.receive(octets, step * 0.01)
        host.handle_timeout(step * 0.01)
        while host.poll_transmit() is not None:
            answers += 1
    assert answers < 200_000
    assert host.counters.malformed > 100


def test_half_open_connections_are_bounded() -> None:
    host = ServiceHost(HOST_ADDRESS, SeededEntropy(2))
    for number in range(CONNECTIONS_MAXIMUM + 5):
        syn = TcpSegment(
            source_port=number + 1, destination_port=7, sequence=0, acknowledgment=0, flags=Flags.SYN, window=1000
        ).encode(UE_ADDRESS, HOST_ADDRESS)
        host.receive(IpPacket(source=UE_ADDRESS, destination=HOST_ADDRESS, protocol=TCP, payload=syn).encode(), 0.0)
    assert (host.counters.connections, host.counters.refused) == (CONNECTIONS_MAXIMUM, 5)


def test_calls_that_are_over_are_forgotten_in_time() -> None:
    """The last that ended are kept for their logs; the caller that says nothing is given up."""
    answerer = Answerer(SeededEntropy(1))
    first = None
    for number in range(CALLS_KEPT + 10):
        now = float(number)
        call = VoiceEndpoint(ssrc=number)
        call.start(now)
        call.handle_timeout(now)
        speech = call.poll_transmit()
        assert speech is not None
        answerer.receive(speech, Endpoint(UE_ADDRESS, 50000), now)
        call.stop(now)
        while (octets := call.poll_transmit()) is not None:
            answerer.receive(octets, Endpoint(UE_ADDRESS, 50000), now)
        first = first or answerer.calls()[0]
    assert len(answerer.calls()) <= CALLS_KEPT + 1
    assert first not in answerer.calls()
    silent = VoiceEndpoint(ssrc=5000)
    silent.start(1000.0)
    silent.handle_timeout(1000.0)
    speech = silent.poll_transmit()
    assert speech is not None
    answerer.receive(speech, Endpoint(UE_ADDRESS, 50000), 1000.0)
    while (deadline := answerer.next_deadline()) is not None:
        answerer.handle_timeout(deadline)
        while answerer.poll_transmit() is not None:
            pass
        assert deadline <= 1001 + IDLE_INTERVAL
