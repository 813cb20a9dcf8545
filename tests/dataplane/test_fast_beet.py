"""BEET mode (RFC 7402 appendix B): the fast data plane beside the userspace one, packet by packet."""

from __future__ import annotations

import random
import struct
from array import array
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.dataplane.fast.plane import FastDataPlane, available, why_not
from protocols.esp.beet import PSEUDO_HEADER, InnerAddresses, strip
from protocols.esp.sa import ChildSaSpec, DropReason, EspMode
from protocols.esp.tunnel import TunnelPolicy
from protocols.ip import IPIP, NO_NEXT_HEADER, TCP, UDP, IpPacket, checksum
from protocols.path import Address
from protocols.selectors import TrafficSelector
from tests.dataplane.packets import HOST_V6, UE_V6, long_packet, udp, wild_packet, wild_syn, with_traffic_class
from tests.dataplane.pairs import HOST_ADDRESS, SUITES, UE_ADDRESS, UE_PATH, mirrored, ue_spec

pytestmark = pytest.mark.skipif(not available(), reason=f"the fast data plane was not built (make fast): {why_not()}")
if available():
    from protocols.dataplane.fast._native import NO_ROOM
    from tests.dataplane.both import Both, from_peer, numbered, raw_from_peer

HOSTS: dict[int, tuple[Address, Address]] = {4: (UE_ADDRESS, HOST_ADDRESS), 6: (UE_V6, HOST_V6)}


def beet_spec(suite: str = "aes128gcm16", version: int = 4, **selected: int) -> ChildSaSpec:
    """An SA of the two hosts of an IP version; ``selected``: protocol and ports at the far end."""
    local, remote = map(TrafficSelector.host, HOSTS[version])
    return replace(
        ue_spec(suite),
        mode=EspMode.BEET,
        local_selectors=(replace(local, protocol=selected.get("protocol", 0)),),
        remote_selectors=(replace(remote, **selected),),
    )


def with_options(options: bytes, payload: bytes, protocol: int = UDP, *, down: bool = False) -> bytes:
    """An IPv4 packet with options."""
    source, destination = HOSTS[4][::-1] if down else HOSTS[4]
    words, length = 5 + len(options) // 4, 20 + len(options) + len(payload)
    header = struct.pack(">BBHHHBBH", 0x40 | words, 0, length, 0, 0x4000, 64, protocol, 0)
    header += source.packed + destination.packed + options
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + payload


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_in_every_length(suite: str, version: int) -> None:
    both = Both(suite)
    spec = beet_spec(suite, version)
    both.install(spec)
    here, there = HOSTS[version]
    header = 20 if version == 4 else 40
    for sequence, length in enumerate((0, 1, 2, 3, 5, 7, 11, 13, 14, 15, 16, 17, 31, 1400, 9000, 65000), 1):
        assert len(both.send(udp(here, there, bytes(length)))) == 1
        down = udp(there, here, bytes(length))
        whole = IpPacket.decode(down)
        octets = from_peer(spec, sequence, down[header:], UDP)
        spoilt = bytearray(octets)
        spoilt[-1] ^= 1
        assert not both.receive(bytes(spoilt), UE_PATH)
        ((packet, _),) = both.receive(octets, UE_PATH)
        found = IpPacket.decode(packet)
        assert (found.source, found.destination, found.payload) == (there, here, whole.payload)
        assert not both.receive(octets, UE_PATH)
    counters = both.fast.counters(spec.inbound_spi)
    assert counters.overhead_saved_octets == 2 * header * sequence
    assert counters.inbound_octets == counters.outbound_octets


@pytest.mark.parametrize("words", range(11))
def test_options_go_along(words: int) -> None:
    both = Both()
    spec = beet_spec()
    both.install(spec)
    options = (bytes.fromhex("94040000 01010101") * 5)[: 4 * words]
    for sequence, payload in enumerate((b"", bytes(8), bytes(1301)), 1):
        up, down = with_options(options, payload), with_options(options, payload, down=True)
        ((octets, *_),) = both.send(up)
        next_header, carried = strip(down)
        assert (next_header == PSEUDO_HEADER) == bool(words)
        octets = from_peer(spec, sequence, carried, next_header)
        assert both.receive(octets, UE_PATH) == [(down, spec.inbound_spi)]


def test_fragments_are_refused_and_atomic_ones_carried() -> None:
    """Of both families, first, middle, last; RFC 6946's are whole packets; of several headers the last one decides."""
    both = Both()
    for number, version in enumerate(HOSTS):
        both.install(numbered(beet_spec(version=version), number))
    four = udp()
    for field, carried in ((0x2000, 0), (0x0001, 0), (0x3FFF, 0), (0x4000, 1), (0x8000, 1), (0x6000, 0)):
        assert len(both.send(four[:6] + field.to_bytes(2, "big") + four[8:])) == carried
    six = udp(UE_V6, HOST_V6)

    def pieces(*fields: int) -> bytes:
        chain = b"".join(
            bytes((44 if at + 1 < len(fields) else UDP, 0)) + struct.pack(">HI", field, 7)
            for at, field in enumerate(fields)
        )
        return six[:4] + struct.pack(">HB", len(six) - 40 + len(chain), 44) + six[7:40] + chain + six[40:]

    wanted = ((1,), 0), ((8,), 0), ((9,), 0), ((0,), 1), ((6,), 1), ((1, 0), 1), ((0, 1), 0), ((1, 8), 0), ((0, 6), 1)
    for fields, carried in wanted:
        assert len(both.send(pieces(*fields))) == carried
    assert both.fast.drops == {DropReason.FRAGMENT: 9}


@pytest.mark.parametrize("protocol", [UDP, TCP, 253])
@pytest.mark.parametrize("version", [4, 6])
def test_what_the_selectors_do_not_allow(version: int, protocol: int) -> None:
    """Also payloads too short to have ports, or to be anything at all."""
    both = Both()
    ports = {"start_port": 7, "end_port": 7} if protocol != 253 else {}
    spec = beet_spec("aes128gcm16", version, protocol=protocol, **ports)
    both.install(spec)
    sequence = 0
    for next_header in (UDP, TCP, 253, 58, 1, IPIP, NO_NEXT_HEADER, 44, 0):
        for payload in (b"", b"\x00", struct.pack(">HH", 7, 9), struct.pack(">HHHH", 9, 7, 8, 0), bytes(24)):
            sequence += 1
            both.receive(from_peer(spec, sequence, payload, next_header), UE_PATH)
    counters = both.fast.counters(spec.inbound_spi)
    assert counters.inbound_packets
    assert counters.bad_selector
    assert counters.dummy == 5


def test_every_pseudo_header() -> None:
    """RFC 7402 appendix B: all lengths and paddings, within and beyond what is there."""
    both = Both()
    spec = beet_spec("aes128gcm16", 4)
    both.install(spec)
    sequence = 0
    for units in (0, 1, 2, 4, 5, 6, 7, 31, 32, 255):
        for padding in (*range(10), 12, 20, 36, 44, 52, 251, 252, 255):
            for length in (0, 3, 7, 8, 16, 48, 60):
                sequence += 1
                payload = (bytes((UDP, units, padding, 0)) + bytes(range(length)))[:length]
                both.receive(from_peer(spec, sequence, payload, PSEUDO_HEADER), UE_PATH)
    assert both.fast.counters(spec.inbound_spi).inbound_packets
    assert both.fast.drops[DropReason.MALFORMED]


def test_trailers_of_every_kind() -> None:
    """RFC 4303 §2.4 to §2.7: what follows the payload cannot be told from it, as the length went with the header."""
    both = Both()
    spec = beet_spec()
    both.install(spec)
    sequence = 0
    for body in (b"", b"\x01", udp()[20:], udp()[20:] + bytes(33)):
        for trailer in (b"\x00\x11", b"\x01\x01\x11", b"\x02\x01\x11", b"\xff\x11", b"\x00\x3b", b"\x00\x5e", b"\x11"):
            sequence += 1
            both.receive(raw_from_peer(spec, sequence, body + trailer), UE_PATH)
    counters = both.fast.counters(spec.inbound_spi)
    assert counters.dummy
    assert counters.malformed
    assert counters.inbound_packets


@settings(max_examples=300, deadline=None)
@given(
    version=st.sampled_from([4, 6]),
    suite=st.sampled_from(["aes128gcm16-esn", "aes128-sha256", "null-aescmac-esn", "aes128ccm8"]),
    next_header=st.one_of(st.integers(0, 255), st.sampled_from([PSEUDO_HEADER, 44, 60, UDP])),
    payload=st.binary(max_size=300),
    outer=st.integers(0, 255),
)
def test_whatever_the_peer_sends(version: int, suite: str, next_header: int, payload: bytes, outer: int) -> None:
    both = Both()
    spec = beet_spec(suite, version)
    both.install(spec)
    octets = from_peer(spec, 1, payload, next_header)
    delivered = both.receive(octets, UE_PATH, outer)
    for packet, _ in delivered:
        assert len(packet) >= (20 if version == 4 else 40)
    both.receive(octets[: len(octets) // 2], UE_PATH)


@pytest.mark.parametrize("seed", range(6))
def test_wild_packets_both_ways(seed: int) -> None:
    """Random packets, SYNs, ECN and packets too long, between SAs of BEET and of tunnel mode."""
    chance = random.Random(seed)
    policy = TunnelPolicy(dscp=(None, 46)[seed % 2], mss=(None, 700, "auto")[seed % 3])
    both = Both(seed, policy=policy)
    suites = ("aes128gcm16", "aes128-sha256", "null-sha256", "chacha20poly1305-esn")
    tunnel = replace(ue_spec(), local_selectors=(TrafficSelector.network("::/0"), TrafficSelector.network("0.0.0.0/0")))
    tunnel = replace(tunnel, remote_selectors=tunnel.local_selectors)
    specs = [numbered(spec, at) for at, spec in enumerate((tunnel, *(beet_spec(suites[seed % 4], v) for v in HOSTS)))]
    for spec in specs:
        both.install(spec)
    for turn in range(1, 501):
        if turn % 50 == 0:
            both.change_path_mtu(chance.choice([None, 1400, 700]))
        version = chance.choice([4, 6])
        here, there = HOSTS[version]
        packet = chance.choice(
            [wild_packet(chance), wild_syn(chance, here, there), long_packet(chance, 900), udp(here, there, bytes(40))]
        )
        both.send(packet)
        spec = chance.choice(specs)
        down = chance.choice([wild_syn(chance, there, here), udp(there, here), wild_packet(chance)])
        down = with_traffic_class(down, chance.getrandbits(8)) if len(down) >= 40 else down
        payload = down[chance.choice([0, 20, 20, 40, 40]) :]
        next_header = chance.choice([UDP, TCP, TCP, PSEUDO_HEADER, IPIP, 44, chance.getrandbits(8)])
        both.receive(from_peer(spec, turn, payload, next_header), UE_PATH, chance.getrandbits(8))
    both.compare()
    counters = [both.fast.counters(spec.inbound_spi) for spec in specs]
    assert not counters[0].overhead_saved_octets
    assert all(each.overhead_saved_octets for each in counters[1:])
    assert {DropReason.FRAGMENT, DropReason.MALFORMED} <= set(both.fast.drops)


def test_selectors_of_more_than_one_host() -> None:
    both = Both()
    net = replace(beet_spec(), remote_selectors=(TrafficSelector.network("192.0.2.0/24"),))
    assert not both.install(net)
    assert not both.install(replace(beet_spec(), local_selectors=(TrafficSelector.host(UE_V6),)))
    twice = (TrafficSelector.host(HOST_ADDRESS), replace(TrafficSelector.host(HOST_ADDRESS), protocol=UDP))
    assert both.install(replace(beet_spec(), remote_selectors=twice))


@pytest.mark.parametrize("version", [4, 6])
def test_batches(version: int) -> None:
    """Packets come back into their slots, which they may be too long for."""
    ue, gateway = (FastDataPlane(deliver=lambda *_: None, transmit=lambda *_: None) for _ in range(2))
    spec = beet_spec(version=version)
    ue.install(spec)
    gateway.install(mirrored(spec))
    here, there = HOSTS[version]
    header = 20 if version == 4 else 40
    packets = [udp(here, there, bytes(number)) for number in range(100)]
    inner = bytearray(b"".join(packet.ljust(256, b"\x00") for packet in packets))
    lengths, offsets = array("i", map(len, packets)), array("i", bytes(400))
    out = bytearray(100 * 512)
    assert ue.core.seal_batch(inner, 256, lengths, out, 512) == 100
    path = b"".join(
        struct.pack(">BH16s", 4, end.port, end.address.packed.ljust(16, b"\x00"))
        for end in (UE_PATH.remote, UE_PATH.local)
    )
    whole = InnerAddresses.of(spec.remote_selectors, spec.local_selectors)
    assert gateway.core.open_batch(out, 512, lengths, offsets, path, 0) == 100
    for number, packet in enumerate(packets):
        start = number * 512 + offsets[number]
        found = IpPacket.decode(bytes(out[start : start + lengths[number]]))
        assert (found.destination, found.source) == (whole.local, whole.remote)
        assert found.payload == IpPacket.decode(packet).payload
    inner, lengths = bytearray(udp(here, there, bytes(60))), array("i", [header + 68])
    assert ue.core.seal_batch(inner, len(inner), lengths, out, 512) == 1
    tight = out[: lengths[0]]
    assert gateway.core.open_batch(tight, len(tight), lengths, array("i", [0]), path, 0) == (version == 4)
    assert lengths[0] == (header + 68 if version == 4 else -NO_ROOM)


def test_addresses_that_are_written_out() -> None:
    """Every octet of both addresses, in their order."""
    both = Both()
    for number, (here, there) in enumerate(
        (("1.2.3.4", "250.249.248.247"), ("102:304:506:708:90a:b0c:d0e:f10", "f1f2:f3f4::fffe:fdfc"))
    ):
        local, remote = (TrafficSelector.host(ip_address(each)) for each in (here, there))
        spec = replace(numbered(beet_spec(), number), local_selectors=(local,), remote_selectors=(remote,))
        assert both.install(spec)
        ((packet, _),) = both.receive(from_peer(spec, 1, udp(there, here)[20 if number == 0 else 40 :], UDP), UE_PATH)
        assert IpPacket.decode(packet).source == ip_address(there)
        assert IpPacket.decode(packet).destination == ip_address(here)
