"""RTP and RTCP as octets: a table both ways, every truncation, and scapy as the second reader."""

from __future__ import annotations

import pytest
from scapy.layers.rtp import RTP

from protocols.errors import DecodeError, LocalError
from protocols.media.rtp import Application, Bye, ExtendedSequence, RtpPacket, decode_rtcp, is_rtcp

PACKET = RtpPacket(payload_type=96, sequence=65535, timestamp=160, ssrc=0xDECAFBAD, payload=b"speech", marker=True)
MIXED = RtpPacket(payload_type=0, sequence=1, timestamp=0, ssrc=1, payload=b"", contributing=(2, 3))
TABLE = [
    (PACKET, bytes.fromhex("80e0ffff000000a0decafbad") + b"speech"),
    (MIXED, bytes.fromhex("8200000100000000000000010000000200000003")),
]


@pytest.mark.parametrize(("packet", "octets"), TABLE)
def test_rtp_both_ways(packet: RtpPacket, octets: bytes) -> None:
    assert packet.encode() == octets
    assert RtpPacket.decode(octets) == packet
    for length in range(len(octets) - len(packet.payload)):
        with pytest.raises(DecodeError):
            RtpPacket.decode(octets[:length])


def test_rtp_as_scapy_sees_it() -> None:
    seen = RTP(PACKET.encode())
    assert (seen.version, seen.payload_type, seen.marker) == (2, 96, 1)
    assert (seen.sequence, seen.timestamp, seen.sourcesync) == (65535, 160, 0xDECAFBAD)
    assert bytes(seen.payload) == b"speech"


def test_padding_and_extension_are_taken_off() -> None:
    extended = bytes.fromhex("b0600001000000000000000112340001aabbccdd") + b"data" + b"\0\0\3"
    assert RtpPacket.decode(extended).payload == b"data"


@pytest.mark.parametrize(
    "octets",
    [
        bytes.fromhex("406000010000000000000001"),  # version 1
        bytes.fromhex("a06000010000000000000001"),  # padding, but nothing there
        bytes.fromhex("a0600001000000000000000105"),  # longer than the packet
        bytes.fromhex("90600001000000000000000112340002aabbccdd"),  # extension longer than the packet
        bytes.fromhex("80cb0001000000000000000a"),  # RTCP
    ],
)
def test_rtp_that_is_none(octets: bytes) -> None:
    with pytest.raises(DecodeError):
        RtpPacket.decode(octets)


RTCP_TABLE = [
    (Bye(ssrc=5), bytes.fromhex("81cb000100000005")),
    (Bye(ssrc=5, reason="end"), bytes.fromhex("81cb00020000000503") + b"end"),
    (
        Application(ssrc=5, name=b"VLOG", data=b"\1\2\3\4", subtype=3),
        bytes.fromhex("83cc000300000005") + b"VLOG\1\2\3\4",
    ),
]


@pytest.mark.parametrize(("packet", "octets"), RTCP_TABLE)
def test_rtcp_both_ways(packet: Bye | Application, octets: bytes) -> None:
    assert packet.encode() == octets
    assert is_rtcp(octets)
    assert decode_rtcp(octets) == (packet,)
    for length in range(1, len(octets)):
        with pytest.raises(DecodeError):
            decode_rtcp(octets[:length])


def test_unknown_rtcp_is_passed_over() -> None:
    sender_report = bytes.fromhex("80c80006") + bytes(24)
    assert decode_rtcp(sender_report + Bye(ssrc=7).encode()) == (Bye(ssrc=7),)
    with pytest.raises(DecodeError):
        decode_rtcp(bytes.fromhex("01cb000100000005"))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(LocalError):
        Application(ssrc=1, name=b"VLOG", data=b"abc").encode()
    with pytest.raises(LocalError):
        RtpPacket(payload_type=72, sequence=0, timestamp=0, ssrc=0, payload=b"", marker=True).encode()


def test_sequence_numbers_go_on_over_the_wrap() -> None:
    extended = ExtendedSequence()
    assert [extended.extend(each) for each in (65534, 65535, 1, 0, 65533, 2)] == [
        65534,
        65535,
        65537,
        65536,
        65533,
        65538,
    ]
    young = ExtendedSequence()
    assert [young.extend(each) for each in (1, 0, 2)] == [1, 0, 2]
