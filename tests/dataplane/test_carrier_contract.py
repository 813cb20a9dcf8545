"""What the planes of every carrier in a process do: the contract of data planes, and what nodes ask of them besides.

Events of one come within calls, those of another from the event loop: ``Ends.event`` waits for both. The kernel's
carrier is held to the same contract where a kernel has ESP, in ``tests/interop/test_xfrm_carrier.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from protocols.dataplane.carrier import CarriedPlane, Carrier, PythonCarrier
from protocols.dataplane.fast import plane as fast
from protocols.dataplane.fast.carrier import CompiledCarrier
from protocols.dataplane.port import Carried, DataPlane, DataPlaneEvent, LifetimeReached, PeerEndpointObserved
from protocols.entropy import SeededEntropy
from protocols.errors import LocalError
from protocols.esp.sa import DropReason, UsageLimits
from protocols.io.link import UdpLink
from protocols.ip import UDP, IpPacket, UdpDatagram
from protocols.path import Path
from tests.dataplane.pairs import HOST_ADDRESS, UE_ADDRESS, UE_ELSEWHERE, UE_PATH, mirrored, ue_spec
from tests.dataplane.test_contract import TestDataPlaneContract as DataPlaneContract

SUITE = "aes128gcm16"
LIMIT = 10.0


def python() -> Carrier:
    entropy = SeededEntropy("carrier")
    return PythonCarrier(entropy=entropy, now=lambda: 1000.0, open_link=UdpLink, open_raw=None)


def compiled() -> Carrier:
    return CompiledCarrier(workers=1, now=lambda: 1000.0)


@dataclass(eq=False)
class End:
    """A plane, and what it has sent, delivered and told of."""

    plane: CarriedPlane
    sent: list[tuple[bytes, Path, bool, int]]
    delivered: list[tuple[bytes, bytes]]
    told: asyncio.Event


class Ends:
    """Planes of one carrier, which runs on a loop that turns while something is waited for."""

    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier
        self.path_mtu: int | None = None
        self._loop = asyncio.new_event_loop()

        async def start() -> None:
            carrier.start()

        self._loop.run_until_complete(start())

    def end(self) -> End:
        """Another plane."""
        sent: list[tuple[bytes, Path, bool, int]] = []
        delivered: list[tuple[bytes, bytes]] = []
        told = asyncio.Event()
        plane = self.carrier.plane(
            deliver=lambda *one: delivered.append(one),
            transmit=lambda *one: sent.append(one),
            told=told.set,
            path_mtu=lambda path: self.path_mtu,
        )
        return End(plane, sent, delivered, told)

    def event(self, end: End) -> DataPlaneEvent:
        """The next event of a plane, had at once or when it has told of it."""

        async def polled() -> DataPlaneEvent:
            while (found := end.plane.poll_event()) is None:
                await end.told.wait()
                end.told.clear()
            return found

        return self._loop.run_until_complete(asyncio.wait_for(polled(), LIMIT))

    def close(self) -> None:
        self.carrier.close()
        self._loop.close()


@pytest.fixture(
    params=[
        python,
        pytest.param(
            compiled,
            marks=pytest.mark.skipif(not fast.available(), reason="the extension of the fast path is not built"),
        ),
    ],
    ids=["python", "compiled"],
)
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    make: Callable[[], Carrier] = request.param
    with contextlib.closing(Ends(make())) as made:
        yield made


@pytest.fixture
def plane(ends: Ends) -> DataPlane:
    return ends.end().plane


class TestPlaneContract(DataPlaneContract):
    """The contract of every data plane."""


def packet(text: bytes = b"there", *, back: bool = False) -> bytes:
    source, destination = (HOST_ADDRESS, UE_ADDRESS) if back else (UE_ADDRESS, HOST_ADDRESS)
    inner = UdpDatagram(source_port=7, destination_port=7, payload=text)
    return IpPacket(
        source=source, destination=destination, protocol=UDP, payload=inner.encode(source, destination)
    ).encode()


def carry(one: End, other: End, inner: bytes) -> None:
    """A packet through the tunnel."""
    assert one.plane.send_inner(inner)
    octets, path, encapsulation, traffic_class = one.sent.pop()
    assert encapsulation
    other.plane.receive_esp(octets, path.reversed(), traffic_class)
    assert other.delivered.pop()[0] == inner


def total(ends: Ends, *each: End) -> Counter[str]:
    """All drops, wherever they are counted."""
    found = Counter(ends.carrier.dropped)
    for end in each:
        found.update({reason.value: number for reason, number in end.plane.drops.items()})
    return found


class TestCarriedPlanes:
    def test_there_and_back(self, ends: Ends) -> None:
        ue, gateway, spec = ends.end(), ends.end(), ue_spec(SUITE)
        ue.plane.install(spec)
        gateway.plane.install(mirrored(spec))
        for _ in range(3):
            carry(ue, gateway, packet())
        carry(gateway, ue, packet(b"back", back=True))
        for end, spi, numbers in ((ue, spec.inbound_spi, (1, 3)), (gateway, spec.outbound_spi, (3, 1))):
            counters = end.plane.counters(spi)
            assert end.plane.installed == (spi,)
            assert (counters.inbound_packets, counters.outbound_packets) == numbers
            assert end.plane.poll_event() is None
        assert total(ends, ue, gateway) == {}

    def test_what_all_sas_have_carried_is_one_sum(self, ends: Ends) -> None:
        """Of one plane, with what has been removed; nothing of another one."""
        ue, gateway, stranger = ends.end(), ends.end(), ends.end()
        first, second = ue_spec(SUITE), ue_spec(SUITE, number=2)
        stranger.plane.install(ue_spec(SUITE, number=3))
        sent = received = 0
        assert gateway.plane.carried == Carried()
        for spec in (first, second):
            ue.plane.install(spec)
            gateway.plane.install(mirrored(spec))
            for length in (0, 100, 400):
                carry(ue, gateway, packet(bytes(length)))
                sent += len(packet(bytes(length)))
            carry(gateway, ue, packet(b"back", back=True))
            received += len(packet(b"back", back=True))
        whole = Carried(inbound_packets=6, inbound_octets=sent, outbound_packets=2, outbound_octets=received)
        assert gateway.plane.carried == whole
        gateway.plane.remove(first.outbound_spi)
        assert gateway.plane.carried == whole
        gateway.plane.remove(second.outbound_spi)
        assert gateway.plane.carried == whole
        turned = Carried(inbound_packets=2, inbound_octets=received, outbound_packets=6, outbound_octets=sent)
        assert ue.plane.carried == turned
        assert stranger.plane.carried == Carried()

    def test_lifetimes_are_told_of(self, ends: Ends) -> None:
        ue, spec = ends.end(), replace(ue_spec(SUITE), limits=UsageLimits(soft_packets=2, hard_packets=4))
        ue.plane.install(spec)
        for _ in range(2):
            assert ue.plane.send_inner(packet())
        assert ends.event(ue) == LifetimeReached(inbound_spi=spec.inbound_spi, hard=False)
        for _ in range(2):
            assert ue.plane.send_inner(packet())
        assert ends.event(ue) == LifetimeReached(inbound_spi=spec.inbound_spi, hard=True)
        assert not ue.plane.send_inner(packet())
        assert ue.plane.drops == {DropReason.LIFETIME_EXPIRED: 1}
        assert ue.plane.poll_event() is None

    def test_a_peer_elsewhere_is_told_of(self, ends: Ends) -> None:
        ue, gateway, spec = ends.end(), ends.end(), ue_spec(SUITE)
        ue.plane.install(spec)
        gateway.plane.install(mirrored(spec))
        moved = Path(UE_PATH.remote, UE_ELSEWHERE)
        assert ue.plane.send_inner(packet())
        gateway.plane.receive_esp(ue.sent.pop()[0], moved)
        assert ends.event(gateway) == PeerEndpointObserved(inbound_spi=spec.outbound_spi, path=moved)
        assert gateway.plane.counters(spec.outbound_spi).strayed_packets == 1
        gateway.plane.update_path(spec.outbound_spi, moved, True)
        assert gateway.plane.send_inner(packet(back=True))
        assert gateway.sent.pop()[1] == moved
        assert ue.plane.poll_event() is None

    def test_events_of_what_is_gone_are_not_told_of(self, ends: Ends) -> None:
        ue, spec = ends.end(), replace(ue_spec(SUITE), limits=UsageLimits(soft_packets=1))
        other = replace(ue_spec(SUITE, number=2), limits=UsageLimits(soft_packets=1))
        ue.plane.install(spec)
        assert ue.plane.send_inner(packet())
        ue.plane.remove(spec.inbound_spi)
        ue.plane.install(other)
        assert ue.plane.send_inner(packet())
        assert ends.event(ue) == LifetimeReached(inbound_spi=other.inbound_spi, hard=False)
        assert ue.plane.poll_event() is None

    def test_planes_with_equal_selectors(self, ends: Ends) -> None:
        """What a plane is given goes by its own SA, and nobody else hears of that."""
        limits = UsageLimits(soft_packets=1)
        specs = [replace(ue_spec(SUITE, number=number), limits=limits) for number in (1, 2)]
        one, other = ends.end(), ends.end()
        for end, spec in zip((one, other), specs, strict=True):
            end.plane.install(spec)
        for end, spec, count in ((one, specs[0], 2), (other, specs[1], 3)):
            for _ in range(count):
                assert end.plane.send_inner(packet())
            assert {octets[:4] for octets, *_ in end.sent} == {spec.outbound_spi}
            assert ends.event(end) == LifetimeReached(inbound_spi=spec.inbound_spi, hard=False)
            assert end.plane.counters(spec.inbound_spi).outbound_packets == count
        assert one.plane.poll_event() is other.plane.poll_event() is None
        with pytest.raises(LocalError):
            one.plane.counters(specs[1].inbound_spi)
        one.plane.remove(specs[0].inbound_spi)
        assert not one.plane.send_inner(packet())
        assert one.plane.drops == {DropReason.NO_SA: 1}
        assert other.plane.drops == {}

    def test_drops_are_counted_once(self, ends: Ends) -> None:
        ue, gateway, spec = ends.end(), ends.end(), ue_spec(SUITE)
        ue.plane.install(spec)
        gateway.plane.install(mirrored(spec))
        assert ue.plane.send_inner(packet())
        octets = ue.sent.pop()[0]
        for each in (octets, octets, octets[:4] + b"\0\0\0\2" + octets[8:], bytes(3) + b"\1" + octets[4:]):
            gateway.plane.receive_esp(each, UE_PATH.reversed())
        assert not ue.plane.send_inner(packet(back=True))
        assert not ue.plane.send_inner(b"no IP packet")
        assert gateway.plane.drops.items() >= {DropReason.REPLAYED: 1, DropReason.BAD_ICV: 1}.items()
        assert ue.plane.drops == {DropReason.NO_SA: 1, DropReason.NOT_IP: 1}
        assert total(ends, ue, gateway) == {"replayed": 1, "bad_icv": 1, "unknown_spi": 1, "no_sa": 1, "not_ip": 1}

    def test_a_packet_too_big_is_answered(self, ends: Ends) -> None:
        ends.path_mtu = 1000
        ue, spec = ends.end(), ue_spec(SUITE)
        ue.plane.install(spec)
        whole = packet(bytes(1100))
        assert not ue.plane.send_inner(whole[:6] + b"\x40\0" + whole[8:])  # DF; its sender has to make it shorter
        ((answer, spi),) = ue.delivered
        assert (answer[20], answer[21], spi) == (3, 4, spec.inbound_spi)  # RFC 792: fragmentation needed and DF set
        assert ue.plane.drops == {DropReason.TOO_BIG: 1}

    def test_a_successor_sends_when_it_has_received(self, ends: Ends) -> None:
        ue, gateway = ends.end(), ends.end()
        old, new = ue_spec(SUITE), ue_spec(SUITE, number=2)
        ue.plane.install(old)
        gateway.plane.install(mirrored(old))
        gateway.plane.replace(old.outbound_spi, mirrored(new), send_at_once=False)
        ue.plane.replace(old.inbound_spi, new)
        assert gateway.plane.send_inner(packet(back=True))
        assert gateway.sent.pop()[0][:4] == old.inbound_spi
        carry(ue, gateway, packet())
        assert gateway.plane.send_inner(packet(back=True))
        assert gateway.sent.pop()[0][:4] == new.inbound_spi
