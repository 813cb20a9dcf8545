"""EAP packets (RFC 3748 §4)."""

from __future__ import annotations

import pytest

from protocols.eap.packet import EapCode, EapPacket, EapType, failure, identity_response, success, trimmed
from protocols.errors import DecodeError

TABLE = [
    (EapPacket(code=EapCode.REQUEST, identifier=0, type=EapType.IDENTITY), "0100000501"),
    (EapPacket(code=EapCode.RESPONSE, identifier=7, type=EapType.IDENTITY, data=b"0@x"), "0207000801304078"),
    (EapPacket(code=EapCode.RESPONSE, identifier=255, type=EapType.NAK, data=b"\x17"), "02ff00060317"),
    (EapPacket(code=EapCode.REQUEST, identifier=1, type=200, data=b"\x01"), "01010006c801"),
    (EapPacket(code=EapCode.SUCCESS, identifier=9), "03090004"),
    (EapPacket(code=EapCode.FAILURE, identifier=9), "04090004"),
]


@pytest.mark.parametrize(("value", "text"), TABLE)
def test_table(value: EapPacket, text: str) -> None:
    octets = bytes.fromhex(text)
    assert EapPacket.decode(octets) == value
    assert value.encode() == octets
    for length in range(len(octets)):
        with pytest.raises(DecodeError):
            EapPacket.decode(octets[:length])


def test_octets_beyond_the_length_are_padding() -> None:
    octets = bytes.fromhex("0207000801304078")
    assert EapPacket.decode(octets + bytes(3)) == EapPacket.decode(octets)
    assert trimmed(octets + bytes(3)) == octets


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0500000501", "code 5"),
        ("0000000501", "code 0"),
        ("0100000301", "length 3"),
        ("01000004", "1 octets needed"),
        ("0309000501", "left over"),
        ("0409000501", "left over"),
    ],
)
def test_malformed(text: str, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        EapPacket.decode(bytes.fromhex(text))


def test_short_forms() -> None:
    assert success(5).hex() == "03050004"
    assert failure(6).hex() == "04060004"
    assert identity_response(7, b"0@x").hex() == "0207000801304078"
