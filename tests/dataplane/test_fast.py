"""The fast data plane: the contract of every data plane, and the userspace one as its oracle."""

from __future__ import annotations

import random
import select
import struct
import threading
from array import array
from dataclasses import replace
from ipaddress import ip_address

import pytest

from protocols.dataplane.fast.plane import FastDataPlane, available, ipsec_mb, lacking, new_core, why_not
from protocols.dataplane.port import DataPlane, LifetimeReached, PeerEndpointObserved, SequenceNumbersRunningOut
from protocols.errors import LocalError
from protocols.esp.sa import MAXIMUM_EXTENDED_SEQUENCE, MAXIMUM_SEQUENCE, ChildSaSpec, DropReason, UsageLimits
from protocols.esp.tunnel import TunnelPolicy
from protocols.ikev2.suites import EspSuite
from protocols.ip import (
    IPIP,
    IPV6,
    NO_NEXT_HEADER,
    UDP,
)
from protocols.path import Endpoint, Path
from protocols.selectors import TrafficSelector
from tests.dataplane import test_contract
from tests.dataplane.packets import (
    DOWN,
    HOST_V6,
    UE_V6,
    UP,
    long_packet,
    udp,
    wild_packet,
)
from tests.dataplane.pairs import (
    GATEWAY_OUTER,
    GATEWAY_PATH,
    HOST_ADDRESS,
    SUITES,
    UE_ADDRESS,
    UE_ELSEWHERE,
    UE_OUTER,
    UE_PATH,
    mirrored,
    ue_spec,
)

pytestmark = pytest.mark.skipif(not available(), reason=f"the fast data plane was not built (make fast): {why_not()}")
if available():
    from protocols.dataplane.fast._native import TOO_BIG
    from tests.dataplane.both import Both, from_peer, numbered, raw_from_peer

EVERY_SUITE = (*SUITES, "aes128-md5", "aes256-aescmac", "aes192ctr-sha1", "aes128gcm12", "null-aesxcbc-esn")


LIBCRYPTO_ALONE = pytest.mark.parametrize(
    "libcrypto_alone",
    [
        True,
        pytest.param(
            False, marks=pytest.mark.skipif(ipsec_mb() is None, reason="libipsec-mb-dev was not there to build with")
        ),
    ],
    ids=["libcrypto", "ipsec-mb"],
)


def fast(contexts: int | None = None, *, libcrypto_alone: bool = False, **outputs: list[object]) -> FastDataPlane:
    delivered, transmitted = outputs.get("delivered", []), outputs.get("transmitted", [])
    return FastDataPlane(
        deliver=lambda *packet: delivered.append(packet),
        transmit=lambda *packet: transmitted.append(packet),
        core=new_core(contexts, libcrypto_alone=libcrypto_alone),
    )


class TestFastDataPlaneContract(test_contract.TestDataPlaneContract):
    """As any other data plane."""

    @pytest.fixture
    def plane(self) -> DataPlane:
        return fast()

    def test_windows_that_the_ring_does_not_hold(self, plane: DataPlane) -> None:
        with pytest.raises(LocalError, match="4096 is the most"):
            plane.install(ue_spec(replay_window=4097))
        plane.install(ue_spec(replay_window=4096))


def test_no_suite_is_lacking() -> None:
    """Every one is tried; ``tests/nodes/test_data_plane_backends.py`` has a libcrypto without them."""
    assert lacking(EspSuite.of(name) for name in EVERY_SUITE) == ()


@pytest.mark.parametrize("suite", EVERY_SUITE)
def test_every_suite_in_every_length(suite: str) -> None:
    _every_length(suite, libcrypto_alone=False)


@pytest.mark.parametrize("suite", [suite for suite in EVERY_SUITE if "gcm" in suite])
def test_what_another_library_does_libcrypto_does_too(suite: str) -> None:
    _every_length(suite, libcrypto_alone=True)


def _every_length(suite: str, *, libcrypto_alone: bool) -> None:
    both = Both(suite, libcrypto_alone=libcrypto_alone)
    spec = ue_spec(suite)
    both.install(spec)
    for sequence, length in enumerate((0, 1, 2, 3, 5, 11, 13, 14, 15, 16, 17, 31, 100, 996, 997, 1400, 9000), 1):
        both.send(udp(data=bytes(length)))
        down = udp(HOST_ADDRESS, UE_ADDRESS, bytes(length))
        octets = from_peer(spec, sequence, down, IPIP)
        for broken in (0, 4, 8, len(octets) // 2, len(octets) - 1):
            spoilt = bytearray(octets)
            spoilt[broken] ^= 1 << sequence % 8
            assert not both.receive(bytes(spoilt), UE_PATH)
        for missing in (1, 2, 3, 4, 8, 11, 12, 16, 17, 32, 39):
            assert not both.receive(octets[:-missing], UE_PATH)
        assert both.receive(octets, UE_PATH) == [(down, spec.inbound_spi)]
        assert not both.receive(octets, UE_PATH)
    assert both.fast.counters(spec.inbound_spi).bad_icv
    assert both.fast.counters(spec.inbound_spi).inbound_packets == sequence
    for length in range(48):
        both.receive(octets[:length], UE_PATH)
    assert both.fast.drops[DropReason.MALFORMED]


@pytest.mark.parametrize("window", [32, 33, 64, 65, 100, 128, 1000, 4096])
@pytest.mark.parametrize("suite", ["aes128gcm16", "aes128gcm16-esn", "null-sha256-esn"])
def test_the_window_in_any_order(suite: str, window: int) -> None:
    """Reorderings, replays, jumps, and the wrap of the low half, which with ESN is none."""
    both, chance = Both(), random.Random(f"{suite} {window}")
    spec = ue_spec(suite, replay_window=window)
    both.install(spec)
    esn = spec.suite.esn
    most = MAXIMUM_EXTENDED_SEQUENCE if esn else MAXIMUM_SEQUENCE
    top = 0
    for turn in range(300):
        if turn % 100 == 60:
            top = ((top >> 32) + 1 << 32) - window // 2 if esn else (1 << 32) - 2 * window
        steps = (1, 1, 1, 2, 3, 63, 64, 65, window - 1, window, window + 1, 1 << 20)
        sequence = top + chance.choice(steps if chance.random() < 0.3 else (1, 2))
        if chance.random() < 0.6:
            sequence = top - chance.choice((0, 1, 2, 3, chance.randrange(window), window - 1, window, window + 1))
        sequence = min(max(sequence, 0), most)
        octets = from_peer(spec, sequence, DOWN, IPIP)
        if both.receive(octets, UE_PATH):
            top = max(top, sequence)
        if chance.random() < 0.2:
            both.receive(octets, UE_PATH)
    assert both.fast.counters(spec.inbound_spi).replayed
    assert top > 1 << 33 if esn else top > (1 << 32) - 2 * window - 1


def test_the_last_extended_sequence_numbers_are_reached_by_half_spaces() -> None:
    both = Both()
    spec = ue_spec("aes128gcm16-esn")
    both.install(spec)
    for sequence in (1, 0x7FFFFFFF, 0xFFFFFFFF, 0x100000005, 0xFFFFFFF0, 0x100000001, 0x180000000, 0x17FFFFFF0):
        both.receive(from_peer(spec, sequence, DOWN, IPIP), UE_PATH)
    assert both.fast.core.sequences(int.from_bytes(spec.inbound_spi, "big")) == (0, 0x180000000)


def test_without_a_window_everything_passes_twice() -> None:
    both = Both()
    spec = ue_spec(replay_window=0)
    both.install(spec)
    for sequence in (0, 5, 5, 3, 1 << 20, 0):
        assert both.receive(from_peer(spec, sequence, DOWN, IPIP), UE_PATH)


@pytest.mark.parametrize(
    "suite", ["aes256gcm12-esn", "chacha20poly1305", "aes128ccm8", "null-sha256", "null-aescmac-esn"]
)
def test_trailers_of_every_kind(suite: str) -> None:
    """RFC 4303 §2.4 to §2.7: padding of any length and wrong padding, TFC padding, dummies, next headers."""
    both, chance = Both(), random.Random(suite)
    spec = ue_spec(suite)
    both.install(spec)
    trailers = [bytes(range(1, length + 1)) + bytes((length, IPIP)) for length in (0, 1, 2, 3, 4, 30, 254, 255)]
    trailers += [
        b"\x01\x02\x04\x03\x04",
        b"\x02\x01\x04",
        b"\xff\x04",
        b"\x00\x29",
        b"\x00\x3b",
        b"\x01\x01\x3b",
        b"\x04",
    ]
    bodies = [DOWN, DOWN + bytes(7), DOWN + bytes(200), DOWN[:-1], DOWN[:19], b"", b"\x00", b"\x75" + DOWN[1:]]
    bodies += [udp(HOST_V6, UE_V6), udp(HOST_ADDRESS, "10.45.0.3"), udp("192.0.2.99", UE_ADDRESS)]
    sequence = 0
    for body in bodies:
        for trailer in trailers:
            sequence += 1
            plaintext = body + trailer
            if suite.startswith("null"):
                plaintext = bytes(-len(plaintext) % 4) + plaintext if chance.random() < 0.5 else plaintext
            both.receive(raw_from_peer(spec, sequence, plaintext), UE_PATH)
    counters = both.fast.counters(spec.inbound_spi)
    assert counters.dummy
    assert counters.malformed
    assert counters.bad_selector
    assert counters.inbound_packets


def test_selectors_of_every_shape() -> None:
    """Ranges, prefixes, protocols, ports and ICMP types of both families, both ways, with wild packets."""
    both, chance = Both(), random.Random("selectors")
    network, host = TrafficSelector.network, TrafficSelector.host
    anything = (network("0.0.0.0/0"), network("::/0"))
    ports = replace(network("0.0.0.0/0"), protocol=UDP, start_port=7, end_port=80)
    odd = TrafficSelector(start=ip_address("192.0.2.5"), end=ip_address("192.0.2.177"))
    six = TrafficSelector(start=ip_address("2001:db8::1"), end=ip_address("2001:db8:ff::f"))
    shapes = [
        ((host(UE_ADDRESS),), anything),
        ((network("10.45.0.0/16"), network("2001:db8:1::/48")), anything),
        ((network("0.0.0.0/0"),), (network("192.0.2.0/25"),)),
        ((host(UE_ADDRESS), host("10.45.0.3"), host(UE_V6)), (odd, six)),
        ((network("10.45.0.0/16"),), (ports,)),
        ((network("0.0.0.0/0"), replace(network("::/0"), protocol=UDP)), (network("192.0.2.64/26"), host(HOST_V6))),
        (anything, (replace(network("::/0"), protocol=58, start_port=0x8000, end_port=0x80FF),)),
        ((host(UE_V6), host(UE_V6)), (network("2001:db8::/32"), network("2001:db8::/32"))),
        (anything, anything),
    ]
    specs = []
    for number, (local, remote) in enumerate(shapes):
        spec = numbered(replace(ue_spec("aes128gcm16"), local_selectors=local, remote_selectors=remote), number)
        both.install(spec)
        specs.append(spec)
    reached = set()
    for turn in range(1, 2501):
        packet = wild_packet(chance)
        reached.update(octets[:4] for octets, *_ in both.send(packet))
        spec = chance.choice(specs)
        both.receive(from_peer(spec, turn, packet, chance.choice([IPIP, IPV6])), UE_PATH, chance.randrange(4))
        if turn % 290 == 0:
            gone = specs.pop()
            both.remove(gone.inbound_spi)
    assert reached == {numbered(ue_spec(), number).outbound_spi for number in range(len(shapes))}
    expected = {DropReason.NOT_IP, DropReason.BAD_SELECTOR, DropReason.MALFORMED, DropReason.FRAGMENT}
    expected.add(DropReason.CONGESTION)
    assert expected <= set(both.fast.drops)


def test_sequence_numbers_run_out() -> None:
    """RFC 4303 §3.3.3: warned of, reported, and nothing after the last."""
    for suite, most in (("aes128gcm16", MAXIMUM_SEQUENCE), ("aes128gcm16-esn", MAXIMUM_EXTENDED_SEQUENCE)):
        both = Both()
        spec = ue_spec(suite)
        both.install(spec)
        both.skip_sequence(spec.inbound_spi, most - (most >> 3) - 3)
        for _ in range(6):
            both.send(UP)
        assert both.events() == [SequenceNumbersRunningOut(inbound_spi=spec.inbound_spi, exhausted=False)]
        if spec.suite.esn:
            both.skip_sequence(spec.inbound_spi, (0xEFFFFFFF << 32) + 0xFFFFFFFE)
            for _ in range(4):
                assert both.send(UP)
        both.skip_sequence(spec.inbound_spi, most - 2)
        assert [bool(both.send(UP)) for _ in range(4)] == [True, True, False, False]
        assert both.events() == [SequenceNumbersRunningOut(inbound_spi=spec.inbound_spi, exhausted=True)]
        assert both.fast.drops == {DropReason.SEQUENCE_EXHAUSTED: 2}
        core, spi = both.fast.core, int.from_bytes(spec.inbound_spi, "big")
        assert core.skip_sequence(spi, 5)  # never back
        assert core.sequences(spi) == (most, 0)


@pytest.mark.parametrize(
    "limits",
    [
        UsageLimits(soft_packets=3, hard_packets=5),
        UsageLimits(soft_octets=70, hard_octets=100),
        UsageLimits(hard_packets=2),
        UsageLimits(soft_octets=0),
        UsageLimits(soft_packets=4, hard_octets=90),
    ],
)
def test_limits(limits: UsageLimits) -> None:
    """RFC 4301 §4.4.2.1, RFC 7296 §2.8: either direction reaches them, and a hard one ends both."""
    for pattern in ("sssssss", "rrrrrrr", "srsrsrsrsrsr", "rrrrsssss"):
        both = Both()
        spec = replace(ue_spec("aes128gcm16"), limits=limits)
        both.install(spec)
        events = []
        for sequence, what in enumerate(pattern, 1):
            if what == "s":
                both.send(UP)
            else:
                both.receive(from_peer(spec, sequence, DOWN, IPIP), UE_PATH)
            events += both.events()
        assert events
        assert all(isinstance(event, LifetimeReached) for event in events)


def test_the_descriptor_is_readable_while_an_event_waits() -> None:
    plane = fast()
    spec = replace(ue_spec(), limits=UsageLimits(soft_packets=1))
    plane.install(spec)
    poller = select.poll()
    poller.register(plane.event_descriptor, select.POLLIN)
    assert not poller.poll(0)
    plane.send_inner(UP)
    plane.receive_esp(from_peer(spec, 1, DOWN, IPIP), Path(UE_OUTER, UE_ELSEWHERE))
    assert poller.poll(0)
    assert plane.poll_event() == LifetimeReached(inbound_spi=spec.inbound_spi, hard=False)
    assert poller.poll(0)
    assert isinstance(plane.poll_event(), PeerEndpointObserved)
    assert not poller.poll(0)
    plane.receive_esp(from_peer(spec, 2, DOWN, IPIP), UE_PATH)
    plane.receive_esp(from_peer(spec, 3, DOWN, IPIP), Path(UE_OUTER, UE_ELSEWHERE))
    assert poller.poll(0)
    plane.remove(spec.inbound_spi)  # what it had to say goes with it
    assert not poller.poll(0)
    assert plane.poll_event() is None


class Life:
    """A random life of a few child SAs: traffic, rekeys, moves, attacks."""

    PATHS = (
        UE_PATH,
        Path(UE_OUTER, UE_ELSEWHERE),
        Path(UE_OUTER, Endpoint(GATEWAY_OUTER.address, 40000)),
        Path(Endpoint.of("198.51.100.8", 4500), GATEWAY_OUTER),
        Path(Endpoint.of("2001:db8::7", 4500), Endpoint.of("2001:db8::1", 4500)),
        Path(replace(UE_OUTER, port=0), replace(GATEWAY_OUTER, port=0)),  # straight on IP
    )

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        policy = TunnelPolicy(dscp=seed % 64 if seed % 2 else None, mss=(None, 700, "auto")[seed % 3])
        self.both = Both(seed, policy=policy)
        self.sequences: dict[bytes, int] = {}
        self.sent: list[bytes] = []
        self.made = 0

    def new_spec(self) -> ChildSaSpec:
        chance = self.chance
        self.made += 1
        spec = numbered(ue_spec(chance.choice(EVERY_SUITE), number=self.made), self.made)
        limits = UsageLimits()
        if chance.random() < 0.3:
            limits = UsageLimits(soft_packets=chance.randrange(1, 20), hard_packets=chance.choice([None, 25]))
        anything, ue = TrafficSelector.network("0.0.0.0/0"), TrafficSelector.host("10.45.0.3")
        local = chance.choice([spec.local_selectors, spec.local_selectors, (ue,), (anything,)])
        return replace(
            spec,
            limits=limits,
            local_selectors=local,
            path=chance.choice(self.PATHS),
            encapsulation=chance.random() < 0.7,
            replay_window=chance.choice([32, 64, 100, 128, 500]),
        )

    def step(self) -> None:
        chance, both = self.chance, self.both
        spis = list(both.specs) or [b"none"]
        spi = chance.choice(spis)
        roll = chance.random()
        if roll < 0.4:
            self.receive(spi)
        elif roll < 0.75:
            both.send(
                chance.choice(
                    [UP, UP, udp("10.45.0.3"), udp("10.99.0.1"), wild_packet(chance), long_packet(chance, 900)]
                )
            )
        elif roll < 0.78:
            both.install(self.new_spec() if chance.random() < 0.9 else both.specs.get(spi, ue_spec()))
        elif roll < 0.84:
            both.replace(spi, self.new_spec(), send_at_once=chance.random() < 0.4)
        elif roll < 0.87:
            both.retire(spi)
        elif roll < 0.91:
            both.remove(spi)
        elif roll < 0.95:
            both.update_path(spi, chance.choice(self.PATHS), chance.random() < 0.6)
        elif roll < 0.96 and spi in both.specs:
            sequence = both.oracle.child_sa(spi).sequence
            most = MAXIMUM_EXTENDED_SEQUENCE if both.specs[spi].suite.esn else MAXIMUM_SEQUENCE
            both.skip_sequence(
                spi, max(sequence, chance.choice([most - 2, most - (most >> 3) - 2, (1 << 32) - 3])) & most
            )
        elif roll < 0.97:
            both.change_path_mtu(chance.choice([None, 1400, 700]))
        else:
            both.events()
        both.compare()

    def receive(self, spi: bytes) -> None:
        chance, both = self.chance, self.both
        spec = both.specs.get(spi)
        if spec is None or chance.random() < 0.1:
            octets = chance.choice(self.sent) if self.sent else chance.randbytes(40)
        else:
            at = self.sequences.get(spi, 0) + chance.choice([1, 1, 1, 1, 3, -1, -40, -200, 70])
            at = max(at, 0)
            self.sequences[spi] = max(at, self.sequences.get(spi, 0))
            payload = chance.choice([DOWN, DOWN, DOWN + bytes(50), udp(HOST_ADDRESS, "10.45.0.3"), b""])
            octets = from_peer(spec, at, payload, chance.choice([IPIP] * 6 + [IPV6, NO_NEXT_HEADER]))
            self.sent.append(octets)
        if chance.random() < 0.1 and octets:
            spoilt = bytearray(octets)
            spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
            octets = bytes(spoilt)
        if chance.random() < 0.05:
            octets = octets[: chance.randrange(len(octets) + 1)]
        usual = both.oracle.child_sa(spi).path if spi in both.specs else UE_PATH
        path = usual if chance.random() < 0.6 else chance.choice(self.PATHS)
        both.receive(octets, path, chance.getrandbits(8) if chance.random() < 0.3 else 0)


@pytest.mark.parametrize("seed", range(12))
def test_lives_of_child_sas(seed: int) -> None:
    """Whatever happens to a few child SAs, both data planes say and do the same."""
    life = Life(seed)
    for _ in range(300):
        life.step()
    life.both.events()
    assert {reason for reason in DropReason if reason in life.both.fast.drops} >= {
        DropReason.REPLAYED,
        DropReason.BAD_ICV,
    }


def slots(packets: list[bytes], stride: int) -> tuple[bytearray, array[int]]:
    """A buffer with a packet in each slot, and their lengths."""
    return bytearray(b"".join(packet.ljust(stride, b"\x00") for packet in packets)), array("i", map(len, packets))


PACKED_GATEWAY_PATH = b"".join(
    struct.pack(">BH16s", 4, end.port, end.address.packed.ljust(16, b"\x00"))
    for end in (GATEWAY_PATH.local, GATEWAY_PATH.remote)
)


def test_batches() -> None:
    ue, gateway = fast(), fast()
    spec = ue_spec("aes128gcm16")
    ue.install(spec)
    gateway.install(mirrored(spec))
    packets = [udp(data=bytes(number)) for number in range(100)] + [b"", udp("10.45.0.9")]
    inner, lengths = slots(packets, 256)
    out, offsets = bytearray(len(packets) * 512), array("i", bytes(4 * len(packets)))
    assert ue.core.seal_batch(inner, 256, lengths, out, 512) == 100
    assert lengths[100] < 0
    assert lengths[101] < 0
    assert ue.drops == {DropReason.NOT_IP: 1, DropReason.NO_SA: 1}
    sealed = lengths[:100]
    assert gateway.core.open_batch(out, 512, sealed, offsets, PACKED_GATEWAY_PATH, 0) == 100
    for number in range(100):
        start = number * 512 + offsets[number]
        assert out[start : start + sealed[number]] == packets[number]
    with pytest.raises(ValueError, match="slots"):
        ue.core.seal_batch(inner, 256, array("i", [300]), out, 512)
    with pytest.raises(ValueError, match="slots"):
        ue.core.seal_batch(inner, 256, array("i", [200]), out, 256)
    with pytest.raises(ValueError, match="offsets"):
        gateway.core.open_batch(out, 512, sealed, array("i"), PACKED_GATEWAY_PATH, 0)
    with pytest.raises(ValueError, match="path"):
        gateway.core.open_batch(out, 512, sealed, offsets, b"", 0)


def test_batches_leave_out_what_is_too_long_for_the_path() -> None:
    """Neither sealed nor dropped: ``send_inner`` takes it further."""
    plane = FastDataPlane(deliver=lambda *_: None, transmit=lambda *_: None, policy=TunnelPolicy(outer_mtu=1000))
    spec = ue_spec("aes128gcm16")
    plane.install(spec)
    packets = [udp(data=bytes(1200)), UP, udp(data=bytes(900))]
    inner, lengths = slots(packets, 1300)
    assert plane.core.seal_batch(inner, 1300, lengths, bytearray(3 * 1500), 1500) == 2
    assert lengths[0] == -TOO_BIG
    assert plane.drops == {}
    assert plane.send_inner(packets[0])
    assert plane.counters(spec.inbound_spi).fragmented == 1
    assert plane.counters(spec.inbound_spi).outbound_packets == 4


def test_among_many_sas_each_packet_finds_its_own() -> None:
    """Batches over more SAs than the first tables hold, with SAs gone, and packets that are none between them."""
    ue, gateway = fast(), fast()
    suites = ("aes128gcm16", "aes128-sha256", "null-sha256", "aes128ccm8")
    specs = [
        numbered(ue_spec(suites[number % 4], number=number, ue_address=f"10.45.{number >> 8}.{number & 255}"), number)
        for number in range(1, 701)
    ]
    for spec in specs:
        ue.install(spec)
        gateway.install(mirrored(spec))
    for spec in specs[::7]:
        ue.remove(spec.inbound_spi)
    chance = random.Random("many")
    for _ in range(5):
        chosen = [chance.choice(specs) for _ in range(101)]
        packets = [udp(spec.local_selectors[0].start) for spec in chosen] + [b"", b"\x60", UP[:-1]]
        chance.shuffle(packets)
        inner, lengths = slots(packets, 64)
        out = bytearray(len(packets) * 256)
        installed = set(ue.installed)
        expected = sum(spec.inbound_spi in installed for spec in chosen)
        assert ue.core.seal_batch(inner, 64, lengths, out, 256) == expected
        sealed, offsets = array("i", [max(length, 0) for length in lengths]), array("i", bytes(4 * len(packets)))
        assert gateway.core.open_batch(out, 256, sealed, offsets, PACKED_GATEWAY_PATH, 0) == expected
        for at, packet in enumerate(packets):
            if lengths[at] > 0:
                start = at * 256 + offsets[at]
                assert out[start : start + sealed[at]] == packet


@LIBCRYPTO_ALONE
def test_borrowed_contexts_have_the_right_key(libcrypto_alone: bool) -> None:
    """More SAs than keep contexts of their own: keys change with every packet, and go with their SA."""
    both, chance = Both(contexts=8, libcrypto_alone=libcrypto_alone), random.Random("borrowed")

    def spec_of(number: int, suite: str = "aes128gcm16", life: int = 0) -> ChildSaSpec:
        spec = ue_spec(suite, number=number + 10_000 * life, ue_address=f"10.{number >> 8}.{number & 255}.1")
        return numbered(spec, number)

    for number in range(1, 17):  # of these nothing but their presence is compared
        for plane in (both.oracle, both.fast):
            plane.install(spec_of(number))
            assert plane.send_inner(udp(f"10.{number >> 8}.{number & 255}.1"))
    suites = ("aes128gcm16", "aes256gcm12-esn", "aes128ccm8", "aes256ccm16", "chacha20poly1305", "aes128-sha256")
    specs: dict[int, ChildSaSpec] = {}
    sequences: dict[int, int] = {}
    for life in range(1, 1001):
        number = 3001 + 32 * chance.randrange(4) + chance.randrange(5)  # some share a place, by SPI
        if number in specs and chance.random() < 0.1:
            both.remove(specs.pop(number).inbound_spi)
        if number not in specs:
            specs[number] = spec_of(number, chance.choice(suites), life)
            sequences[number] = 0
            both.install(specs[number])
        spec = specs[number]
        source = spec.local_selectors[0].start
        sequences[number] += 1
        octets = from_peer(spec, sequences[number], udp(HOST_ADDRESS, source), IPIP)
        assert both.send(udp(source))
        assert not both.receive(octets[:-1] + bytes([octets[-1] ^ 1]), UE_PATH)
        assert both.receive(octets, UE_PATH)


@LIBCRYPTO_ALONE
@pytest.mark.parametrize(("others", "contexts"), [(0, None), (600, None), (600, 10_000)])
def test_threads_and_control_at_once(others: int, contexts: int | None, libcrypto_alone: bool) -> None:
    """Two threads send batches by one SA and by many while SAs come, go and move: every packet is accounted for.

    Beside 600 others hints are followed. By default libcrypto's contexts are gone by then: they borrow their worker's,
    which get their own keys nevertheless.
    """
    plane, gateway = fast(contexts, libcrypto_alone=libcrypto_alone), fast()
    for number in range(others):
        plane.install(
            numbered(ue_spec("aes128gcm16", ue_address=f"10.46.{number >> 8}.{number & 255}"), 50_000 + number)
        )
        assert plane.send_inner(udp(f"10.46.{number >> 8}.{number & 255}"))
    specs = [
        numbered(ue_spec("aes128gcm16", number=number, ue_address=f"10.45.0.{number}"), number)
        for number in range(1, 9)
    ]
    for spec in specs:
        plane.install(spec)
        gateway.install(replace(mirrored(spec), replay_window=0))  # threads are not opened in order
    rounds, batch = 60, 64
    sealed: list[list[bytes]] = [[], []]

    def work(which: int) -> None:
        for turn in range(rounds):
            number = 1 if turn % 2 else turn % 8 + 1
            inner, lengths = slots([udp(f"10.45.0.{number}")] * batch, 64)
            out = bytearray(batch * 256)
            plane.core.seal_batch(inner, 64, lengths, out, 256)
            sealed[which] += [bytes(out[at * 256 : at * 256 + lengths[at]]) for at in range(batch) if lengths[at] > 0]

    threads = [threading.Thread(target=work, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    churned = 100
    while any(thread.is_alive() for thread in threads):
        churned += 1
        spare = numbered(ue_spec("aes128gcm16", ue_address="10.45.0.200"), churned)
        plane.install(spare)
        assert plane.send_inner(udp("10.45.0.200"))
        plane.update_path(specs[0].inbound_spi, Life.PATHS[churned % 2], True)
        plane.replace(spare.inbound_spi, numbered(ue_spec("aes128gcm16"), 100), send_at_once=False)
        plane.remove(numbered(ue_spec(), 100).inbound_spi)
        plane.remove(spare.inbound_spi)
    for thread in threads:
        thread.join()
    everything = sealed[0] + sealed[1]
    assert len(everything) == 2 * rounds * batch
    assert len({octets[:8] for octets in everything}) == len(everything)  # no sequence number twice
    for octets in everything:
        assert isinstance(gateway.core.open(octets, PACKED_GATEWAY_PATH, 0), bytes)
    assert sum(plane.counters(spec.inbound_spi).outbound_packets for spec in specs) == len(everything)
