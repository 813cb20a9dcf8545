"""Invariant: of whatever is an IP packet, headers are read and changed without raising, and nothing else is changed."""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.entropy import SeededEntropy
from protocols.errors import DecodeError
from protocols.esp.mss import clamped, is_syn
from protocols.esp.path_mtu import fragments_of, may_be_fragmented, too_big
from protocols.esp.traffic_class import ECN_MASK, decapsulated, outer_traffic_class, traffic_class_of
from protocols.esp.tunnel import TunnelPolicy
from protocols.ip import flow_of
from tests.dataplane.pairs import GATEWAY_PATH, mirrored, ue_spec
from tests.dataplane.test_tunnel_headers import dual_stack

TCP = bytes.fromhex("9c4001bb0000000000000000") + b"\xf0\x02\xff\xff\x00\x00\x00\x00"


def ipv4(words: int, flags: int, protocol: int, options: bytes, payload: bytes, source: bytes) -> bytes:
    header = 20 + 4 * words
    fixed = bytes([0x40 | header // 4, 0]) + (header + len(payload)).to_bytes(2, "big") + b"\0\1"
    fixed += flags.to_bytes(2, "big") + bytes([64, protocol, 0, 0]) + source + b"\xc0\x00\x02\x50"
    return fixed + options[: 4 * words].ljust(4 * words, b"\0") + payload


def ipv6(protocol: int, payload: bytes, source: bytes) -> bytes:
    fixed = b"\x60\0\0\0" + len(payload).to_bytes(2, "big") + bytes([protocol, 64])
    return fixed + source + bytes.fromhex("20010db8009900000000000000000001") + payload


PAYLOADS = st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(lambda rest: TCP + rest))
PROTOCOLS = st.sampled_from([0, 1, 6, 17, 43, 44, 51, 58, 60, 255])
PACKETS = st.one_of(
    st.builds(
        ipv4,
        st.integers(0, 10),
        st.one_of(st.just(0), st.integers(0, 0xFFFF)),
        PROTOCOLS,
        st.binary(max_size=40),
        PAYLOADS,
        st.just(bytes([10, 45, 0, 2])),
    ),
    st.builds(ipv6, PROTOCOLS, PAYLOADS, st.just(bytes.fromhex("20010db8004500000000000000000002"))),
    st.binary(min_size=1, max_size=120),
)


def whole(packet: bytes) -> bytes:
    """As the data plane has it: an IP packet and nothing behind it."""
    try:
        return packet[: flow_of(packet).length]
    except DecodeError:
        assume(False)
        raise


@settings(max_examples=300, deadline=None)
@given(packet=PACKETS, outer=st.integers(0, 255), dscp=st.one_of(st.none(), st.integers(0, 63)))
def test_traffic_class(packet: bytes, outer: int, dscp: int | None) -> None:
    packet = whole(packet)
    assert 0 <= outer_traffic_class(packet, dscp) <= 255
    result = decapsulated(packet, outer)
    if result is not None:
        assert (len(result), result[2:10], result[12:]) == (len(packet), packet[2:10], packet[12:])
        assert traffic_class_of(result) | ECN_MASK == traffic_class_of(packet) | ECN_MASK


@settings(max_examples=300, deadline=None)
@given(packet=PACKETS, maximum=st.integers(1, 65535))
def test_mss(packet: bytes, maximum: int) -> None:
    packet = whole(packet)
    result = clamped(packet, maximum)
    changed = [index for index in range(len(packet)) if packet[index] != result[index]]
    assert len(result) == len(packet)
    assert len(changed) <= 4
    assert is_syn(packet) or not changed
    assert clamped(result, maximum) == result


@settings(max_examples=300, deadline=None)
@given(packet=PACKETS, mtu=st.integers(68, 600))
def test_fragments_and_too_big(packet: bytes, mtu: int) -> None:
    packet = whole(packet)
    answer = too_big(packet, mtu)
    if answer is not None:
        assert flow_of(answer).length == len(answer) <= 1280
        assert too_big(answer, mtu) is None  # RFC 1122 §3.2.2: never about an error
    if may_be_fragmented(packet) and len(packet) > mtu:
        pieces = fragments_of(packet, mtu)
        assert max(map(len, pieces)) <= mtu
        assert b"".join(piece[(piece[0] & 15) * 4 :] for piece in pieces) == packet[(packet[0] & 15) * 4 :]


@settings(max_examples=300, deadline=None)
@given(packet=PACKETS, mark=st.integers(0, 255), mtu=st.integers(576, 700))
def test_the_data_plane_with_everything_on(packet: bytes, mark: int, mtu: int) -> None:
    """What goes in at one end comes out at the other, is answered, or is counted."""
    policy = TunnelPolicy(outer_mtu=mtu, mss="auto")
    out: list[bytes] = []
    back: list[bytes] = []
    gateway = UserspaceDataPlane(
        entropy=SeededEntropy(1),
        deliver=lambda inner, spi: out.append(inner),
        transmit=lambda octets, path, encapsulation, traffic_class: None,
        policy=policy,
    )
    ue = UserspaceDataPlane(
        entropy=SeededEntropy(2),
        deliver=lambda inner, spi: back.append(inner),
        transmit=lambda octets, path, encapsulation, traffic_class: gateway.receive_esp(octets, GATEWAY_PATH, mark),
        policy=policy,
    )
    spec = dual_stack(ue_spec("aes128gcm16"))
    ue.install(spec)
    gateway.install(mirrored(spec))
    ue.send_inner(packet)
    assert out or sum(ue.drops.values()) + sum(gateway.drops.values()) >= 1
