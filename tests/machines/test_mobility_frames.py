"""Translated frames are what a NAT's should be: other end points, right checksums, everything else as it was."""

from __future__ import annotations

import struct

import pytest

from lab.mobility.frames import ESP, UDP, carried, translated
from protocols.path import Endpoint

MACS = bytes(range(12))
INSIDE, OUTSIDE = Endpoint.of("10.77.1.2", 4500), Endpoint.of("10.77.101.2", 20000)
GATEWAY = Endpoint.of("10.77.0.1", 4500)
INSIDE6, GATEWAY6 = Endpoint.of("fd77:1::2", 4500), Endpoint.of("fd77::1", 500)
PAYLOADS = [b"", b"\xff", b"odd", bytes(range(256)), b"\xff" * 1000]
PARTIAL = struct.pack("<BBHHHH", 1, 0, 42, 0, 34, 6)  # NEEDS_CSUM: from the UDP header on, to be put at its checksum


def summed(octets: bytes) -> int:
    """RFC 1071, word by word."""
    total = 0
    for at in range(0, len(octets), 2):
        total += int.from_bytes(octets[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(source: Endpoint, destination: Endpoint, length: int) -> bytes:
    """RFC 768."""
    return source.address.packed + destination.address.packed + struct.pack("!BBH", 0, UDP, length)


def frame_of(
    source: Endpoint, destination: Endpoint, payload: bytes, *, checksum: str = "whole", place: int = 0
) -> bytes:
    """A frame with UDP as the kernel gives it: its checksum ``whole``, ``partial`` or ``none``."""
    length = 8 + len(payload)
    pseudo = pseudo_header(source, destination, length)
    udp = struct.pack("!HHHH", source.port, destination.port, length, 0) + payload
    value = {"whole": ~summed(pseudo + udp) & 0xFFFF or 0xFFFF, "partial": summed(pseudo), "none": 0}[checksum]
    udp = udp[:6] + value.to_bytes(2, "big") + udp[8:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 7, place, 64, UDP, 0)
    header += source.address.packed + destination.address.packed
    header = header[:10] + (~summed(header) & 0xFFFF).to_bytes(2, "big") + header[12:]
    return (PARTIAL if checksum == "partial" else bytes(10)) + MACS + b"\x08\x00" + header + udp


@pytest.mark.parametrize("checksum", ["whole", "partial", "none"])
@pytest.mark.parametrize("payload", PAYLOADS, ids=len)
def test_a_translated_frame_is_the_one_that_the_other_end_points_would_have_made(payload: bytes, checksum: str) -> None:
    frame = frame_of(INSIDE, GATEWAY, payload, checksum=checksum)
    assert translated(frame, OUTSIDE, GATEWAY) == frame_of(OUTSIDE, GATEWAY, payload, checksum=checksum)
    back = frame_of(GATEWAY, OUTSIDE, payload, checksum=checksum)
    assert translated(back, GATEWAY, INSIDE) == frame_of(GATEWAY, INSIDE, payload, checksum=checksum)


def test_a_checksum_that_comes_to_zero_is_sent_as_ones() -> None:
    """RFC 768: zero says that there is none."""
    for filler in range(0x10000):
        payload = filler.to_bytes(2, "big")
        wanted = frame_of(OUTSIDE, GATEWAY, payload)
        if wanted[50:52] == b"\xff\xff":
            assert translated(frame_of(INSIDE, GATEWAY, payload), OUTSIDE, GATEWAY) == wanted
            return
    pytest.fail("no payload has that sum")


def test_what_a_frame_carries() -> None:
    frame = frame_of(INSIDE, GATEWAY, b"payload")
    found = carried(frame + bytes(11))  # Ethernet's padding is not of the packet
    assert found is not None
    assert (found.protocol, found.source, found.destination, found.payload) == (UDP, INSIDE, GATEWAY, b"payload")
    assert found.length == 20 + 8 + 7
    assert not found.is_fragment
    esp = bytearray(frame)
    esp[24 + 9] = ESP
    found = carried(bytes(esp))
    assert found is not None
    assert (found.protocol, found.source.port, found.destination.port) == (ESP, 0, 0)
    assert found.payload == frame[44:]


def frame_of_ipv6(protocol: int, payload: bytes, *, place: int | None = None) -> bytes:
    """A frame with IPv6; ``place``: offset and M of a fragment header (RFC 8200 §4.5)."""
    if place is not None:
        payload = struct.pack("!BBHI", protocol, 0, place, 7) + payload
        protocol = 44
    header = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
    return bytes(10) + MACS + b"\x86\xdd" + header + INSIDE6.address.packed + GATEWAY6.address.packed + payload


def test_what_a_frame_of_ipv6_carries() -> None:
    udp = struct.pack("!HHHH", 4500, 500, 15, 1) + b"payload"
    found = carried(frame_of_ipv6(UDP, udp) + bytes(3))
    assert found is not None
    assert (found.protocol, found.source, found.destination) == (UDP, INSIDE6, GATEWAY6)
    assert (found.payload, found.length, found.is_fragment) == (b"payload", 40 + 8 + 7, False)
    found = carried(frame_of_ipv6(ESP, b"spi and more"))
    assert found is not None
    assert (found.protocol, found.source.port, found.payload, found.length) == (ESP, 0, b"spi and more", 52)
    assert carried(frame_of_ipv6(58, b"neighbour solicitation")) is None
    first, later = carried(frame_of_ipv6(UDP, udp, place=1)), carried(frame_of_ipv6(UDP, udp, place=8))
    assert first is not None
    assert (first.is_fragment, first.source, first.payload) == (True, INSIDE6, b"payload")
    assert later is not None
    assert (later.is_fragment, later.source.port, later.payload) == (True, 0, b"")
    whole = frame_of_ipv6(UDP, udp, place=1)
    for length in range(len(whole) - 7):
        assert carried(whole[:length]) is None


def test_fragments_are_told() -> None:
    first = carried(frame_of(INSIDE, GATEWAY, b"payload", place=0x2000))
    assert first is not None
    assert (first.is_fragment, first.source, first.payload) == (True, INSIDE, b"payload")
    later = carried(frame_of(INSIDE, GATEWAY, b"payload", place=0x0010))
    assert later is not None
    assert (later.is_fragment, later.source.port, later.payload) == (True, 0, b"")


def test_other_frames_carry_nothing_of_interest() -> None:
    frame = frame_of(INSIDE, GATEWAY, b"payload")
    assert carried(frame[:22] + b"\x08\x06" + frame[24:]) is None  # ARP
    assert carried(frame[:33] + b"\x01" + frame[34:]) is None  # ICMP
    for length in range(len(frame) - 7):  # what is cut short has no whole UDP header, or says so by its length
        assert carried(frame[:length]) is None or length >= 24 + 28
