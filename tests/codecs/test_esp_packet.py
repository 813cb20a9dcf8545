"""ESP packets: round trips per suite, form of the packet, refusals, truncation."""

from __future__ import annotations

import pytest

from protocols.entropy import SeededEntropy
from protocols.errors import AuthenticationError, DecodeError, LocalError, RemoteError
from protocols.esp.packet import check_keys, inner_mtu, opener_of, sealer_of, strip_trailer
from protocols.ikev2.suites import EspSuite
from protocols.secret import Secret
from tests.dataplane.pairs import SUITES

SPI = b"\xc1\x02\x03\x04"
ICV_LENGTHS = {14: 8, 15: 12, 16: 16, 18: 8, 19: 12, 20: 16, 28: 16}


def keys(suite: EspSuite) -> tuple[Secret, Secret]:
    entropy = SeededEntropy(suite.name)
    return (
        Secret(entropy.octets(suite.encryption_key_length)),
        Secret(entropy.octets(suite.integrity_key_length)),
    )


@pytest.mark.parametrize("text", SUITES)
def test_round_trip_and_form(text: str) -> None:
    suite = EspSuite.of(text)
    sealer = sealer_of(suite, SPI, *keys(suite), SeededEntropy(1))
    opener = opener_of(suite, SPI, *keys(suite))
    icv_length = {2: 12, 5: 12, 8: 12, 12: 16, 13: 24, 14: 32}.get(suite.integrity or 0) or ICV_LENGTHS[
        suite.encryption
    ]
    iv_length, block = {11: (0, 4), 3: (8, 8), 12: (16, 16)}.get(suite.encryption, (8, 4))
    for sequence, length in enumerate((*range(40), 1400), start=1):
        payload = bytes(length)
        packet = sealer.seal(sequence, payload, 4)
        assert packet[:8] == SPI + sequence.to_bytes(4, "big")
        encrypted = len(packet) - 8 - iv_length - icv_length
        assert encrypted % block == 0
        assert length + 2 <= encrypted < length + 2 + block  # no more padding than needed
        assert strip_trailer(opener.open(packet, sequence)) == (4, payload)


@pytest.mark.parametrize("text", SUITES)
def test_every_truncation_and_every_changed_octet_is_refused(text: str) -> None:
    suite = EspSuite.of(text)
    packet = sealer_of(suite, SPI, *keys(suite), SeededEntropy(1)).seal(7, b"payload", 4)
    opener = opener_of(suite, SPI, *keys(suite))
    for end in range(len(packet)):
        with pytest.raises((DecodeError, AuthenticationError)):
            opener.open(packet[:end], 7)
    header_is_covered_by_caller = range(8) if suite.aead else range(0)
    for index in set(range(len(packet))) - set(header_is_covered_by_caller):
        changed = bytearray(packet)
        changed[index] ^= 0x40
        with pytest.raises(AuthenticationError):
            opener.open(bytes(changed), 7)
    assert strip_trailer(opener.open(packet, 7)) == (4, b"payload")  # still in step after all that


@pytest.mark.parametrize("text", [text for text in SUITES if text.endswith("-esn")])
def test_the_high_half_of_an_extended_sequence_number_is_authenticated(text: str) -> None:
    """RFC 4303 §2.2.1: not sent, but covered by the ICV."""
    suite = EspSuite.of(text)
    packet = sealer_of(suite, SPI, *keys(suite), SeededEntropy(1)).seal(5 << 32 | 9, b"payload", 4)
    opener = opener_of(suite, SPI, *keys(suite))
    assert packet[4:8] == (9).to_bytes(4, "big")
    with pytest.raises(AuthenticationError):
        opener.open(packet, 9)
    assert strip_trailer(opener.open(packet, 5 << 32 | 9)) == (4, b"payload")


@pytest.mark.parametrize(
    ("plaintext", "expected"),
    [
        (b"\x00\x04", (4, b"")),
        (b"ab\x00\x29", (41, b"ab")),
        (b"ab\x01\x02\x03\x03\x3b", (59, b"ab")),
        (bytes(range(1, 256)) + b"\xff\x04", (4, b"")),
    ],
)
def test_trailers(plaintext: bytes, expected: tuple[int, bytes]) -> None:
    assert strip_trailer(plaintext) == expected


@pytest.mark.parametrize(
    "plaintext",
    [b"", b"\x00", b"\x01\x04", b"ab\x03\x04", b"ab\x01\x02\x02\x03\x04", b"ab\x00\x00\x02\x04"],
    ids=["empty", "one octet", "pad beyond start", "pad beyond two octets", "wrong order", "zeros"],
)
def test_bad_trailers(plaintext: bytes) -> None:
    with pytest.raises(DecodeError):
        strip_trailer(plaintext)


@pytest.mark.parametrize("text", SUITES)
def test_keys_of_other_lengths_are_our_own_mistake(text: str) -> None:
    suite = EspSuite.of(text)
    encryption_key, integrity_key = keys(suite)
    check_keys(suite, encryption_key, integrity_key)
    with pytest.raises(LocalError):
        check_keys(suite, Secret(encryption_key.reveal() + b"\x00"), integrity_key)
    with pytest.raises(LocalError):
        check_keys(suite, encryption_key, Secret(integrity_key.reveal() + b"\x00"))


@pytest.mark.parametrize("text", SUITES)
@pytest.mark.parametrize("outer_version", [4, 6])
@pytest.mark.parametrize("encapsulation", [True, False])
@pytest.mark.parametrize("outer_mtu", [1500, 1492, 1280, 1281])
def test_inner_mtu_is_the_longest_that_fits(text: str, outer_version: int, encapsulation: bool, outer_mtu: int) -> None:
    suite = EspSuite.of(text)
    longest = inner_mtu(suite, outer_mtu, outer_version=outer_version, encapsulation=encapsulation)
    sealer = sealer_of(suite, SPI, *keys(suite), SeededEntropy(1))
    outer = (20 if outer_version == 4 else 40) + (8 if encapsulation else 0)
    assert outer + len(sealer.seal(1, bytes(longest), 4)) <= outer_mtu
    assert outer + len(sealer.seal(1, bytes(longest + 1), 4)) > outer_mtu


def test_another_key_or_spi_does_not_open() -> None:
    for text in SUITES:
        suite = EspSuite.of(text)
        encryption_key, integrity_key = keys(suite)
        packet = sealer_of(suite, SPI, encryption_key, integrity_key, SeededEntropy(1)).seal(1, b"x", 4)
        other = Secret(bytes(len(encryption_key.reveal())))
        if suite.aead:
            with pytest.raises(RemoteError):
                opener_of(suite, SPI, other, integrity_key).open(packet, 1)
            with pytest.raises(RemoteError):
                opener_of(suite, b"\xc1\x02\x03\x05", encryption_key, integrity_key).open(packet, 1)
        else:
            other_integrity = Secret(bytes(len(integrity_key.reveal())))
            with pytest.raises(RemoteError):
                opener_of(suite, SPI, encryption_key, other_integrity).open(packet, 1)
