"""Invariant: whatever octets arrive, ESP drops and counts or delivers, and raises nothing."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.dataplane.userspace.host import EchoClient, InProcessHost
from protocols.entropy import SeededEntropy
from protocols.errors import DecodeError
from protocols.esp.packet import sealer_of
from protocols.esp.sa import ChildSa, DropReason
from protocols.ip import IcmpEcho, IpPacket, UdpDatagram, flow_of
from tests.dataplane.pairs import GATEWAY_PATH, HOST_ADDRESS, SUITES, UE_ADDRESS, mirrored, ue_spec

IP_LIKE = st.one_of(
    st.binary(max_size=120),
    st.builds(lambda first, rest: bytes([first]) + rest, st.sampled_from([0x45, 0x4F, 0x60]), st.binary(max_size=120)),
)


@settings(max_examples=300, deadline=None)
@given(suite=st.sampled_from(SUITES), rest=st.binary(max_size=200), ours=st.booleans())
def test_hostile_octets(suite: str, rest: bytes, ours: bool) -> None:
    delivered: list[bytes] = []
    plane = UserspaceDataPlane(
        entropy=SeededEntropy(1),
        deliver=lambda packet, inbound_spi: delivered.append(packet),
        transmit=lambda octets, path, encapsulation, traffic_class: None,
    )
    spec = ue_spec(suite)
    plane.install(spec)
    plane.receive_esp((spec.inbound_spi if ours else b"") + rest, GATEWAY_PATH)
    assert delivered == []
    assert sum(plane.drops.values()) == 1
    assert plane.poll_event() is None


@settings(max_examples=300, deadline=None)
@given(
    suite=st.sampled_from(SUITES),
    payload=IP_LIKE,
    next_header=st.one_of(st.sampled_from([4, 41, 59]), st.integers(0, 255)),
    sequence=st.integers(0, (1 << 32) - 1),
)
def test_a_hostile_peer_with_the_right_keys(suite: str, payload: bytes, next_header: int, sequence: int) -> None:
    spec = ue_spec(suite)
    peer = mirrored(spec)
    sealer = sealer_of(
        spec.suite, peer.outbound_spi, peer.outbound_encryption_key, peer.outbound_integrity_key, SeededEntropy(2)
    )
    sa = ChildSa(spec, SeededEntropy(1))
    result = sa.open(sealer.seal(sequence, payload, next_header))
    if isinstance(result, DropReason):
        assert sa.drops == {result: 1}
    else:
        assert payload.startswith(result)
        assert flow_of(result).destination == int(UE_ADDRESS)


@settings(max_examples=300, deadline=None)
@given(packet=IP_LIKE)
def test_hostile_inner_packets(packet: bytes) -> None:
    plane = UserspaceDataPlane(
        entropy=SeededEntropy(1),
        deliver=lambda packet, inbound_spi: None,
        transmit=lambda octets, path, encapsulation, traffic_class: None,
    )
    plane.install(ue_spec())
    if not plane.send_inner(packet):
        assert sum(plane.drops.values()) == 1
    InProcessHost(HOST_ADDRESS, ip_address("::")).receive(packet)
    EchoClient(source=UE_ADDRESS, destination=HOST_ADDRESS).receive(packet, 0.0)


@settings(max_examples=300, deadline=None)
@given(payload=st.binary(max_size=60), protocol=st.sampled_from([1, 17, 58]))
def test_hostile_upper_layers(payload: bytes, protocol: int) -> None:
    packet = IpPacket(source=HOST_ADDRESS, destination=UE_ADDRESS, protocol=protocol, payload=payload)
    octets = packet.encode()
    assert IpPacket.decode(octets) == packet
    for decode in (UdpDatagram.decode, IcmpEcho.decode):
        try:
            decode(packet)
        except DecodeError:
            continue
    InProcessHost(UE_ADDRESS).receive(octets)
    EchoClient(source=UE_ADDRESS, destination=HOST_ADDRESS).receive(octets, 0.0)
