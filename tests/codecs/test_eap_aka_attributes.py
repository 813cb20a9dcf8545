"""EAP-AKA attributes and messages (RFC 4187 §8 to §11)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.buffer import Reader
from protocols.eap.aka.attributes import (
    AtAnyIdReq,
    AtAutn,
    AtAuts,
    AtBidding,
    AtCheckcode,
    AtClientErrorCode,
    AtCounter,
    AtCounterTooSmall,
    AtEncrData,
    AtFullauthIdReq,
    AtIdentity,
    AtIv,
    AtKdf,
    AtKdfInput,
    AtMac,
    AtNextPseudonym,
    AtNextReauthId,
    AtNonceS,
    AtNotification,
    AtPadding,
    AtPermanentIdReq,
    AtRand,
    AtRes,
    AtResultInd,
    Attribute,
    UnknownAttribute,
    decode_attributes,
    encode_attributes,
)
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.protection import (
    checkcode,
    encode_with_mac,
    encrypt_attributes,
    mac_verifies,
    nested_attributes,
)
from protocols.eap.packet import EapCode, EapType
from protocols.errors import DecodeError
from protocols.secret import Secret

BLOCK = bytes(range(16))
K_AUT = Secret(BLOCK)
TABLE: list[tuple[Attribute, str]] = [
    (AtRand(BLOCK), "01050000" + BLOCK.hex()),
    (AtAutn(BLOCK), "02050000" + BLOCK.hex()),
    (AtRes.of(BLOCK[:8]), "03030040" + BLOCK[:8].hex()),
    (AtRes(BLOCK[:5], 37), "03030025" + BLOCK[:5].hex() + "000000"),
    (AtAuts(BLOCK[:14]), "0404" + BLOCK[:14].hex()),
    (AtPadding(4), "06010000"),
    (AtPadding(12), "0603" + "00" * 10),
    (AtPermanentIdReq(), "0a010000"),
    (AtMac(BLOCK), "0b050000" + BLOCK.hex()),
    (AtNotification(16384), "0c014000"),
    (AtAnyIdReq(), "0d010000"),
    (AtIdentity(b"0@abc"), "0e0300053040616263000000"),
    (AtIdentity(b""), "0e010000"),
    (AtFullauthIdReq(), "11010000"),
    (AtCounter(258), "13010102"),
    (AtCounterTooSmall(), "14010000"),
    (AtNonceS(BLOCK), "15050000" + BLOCK.hex()),
    (AtClientErrorCode(0), "16010000"),
    (AtIv(BLOCK), "81050000" + BLOCK.hex()),
    (AtEncrData(BLOCK * 2), "82090000" + (BLOCK * 2).hex()),
    (AtNextPseudonym(b"2abc"), "8402000432616263"),
    (AtNextReauthId(b"4a@b"), "8502000434614062"),
    (AtCheckcode(b""), "86010000"),
    (AtCheckcode(bytes(20)), "86060000" + "00" * 20),
    (AtResultInd(), "87010000"),
    (AtBidding(True), "88018000"),
    (AtBidding(False), "88010000"),
    (AtCheckcode(bytes(32)), "86090000" + "00" * 32),
    (UnknownAttribute(200, b"\x01\x02\x03\x04\x05\x06"), "c802010203040506"),
]


@pytest.mark.parametrize(("value", "text"), TABLE, ids=lambda item: type(item).__name__)
def test_table(value: Attribute, text: str) -> None:
    octets = bytes.fromhex(text)
    assert decode_attributes(Reader(octets)) == (value,)
    assert encode_attributes([value]) == octets
    for length in range(1, len(octets)):
        with pytest.raises(DecodeError):
            decode_attributes(Reader(octets[:length]))


PRIME_TABLE: list[tuple[Attribute, str]] = [
    (AtKdfInput(b"WLAN"), "17020004" + b"WLAN".hex()),
    (AtKdfInput(b"WLAN:x"), "17030006" + b"WLAN:x".hex() + "0000"),
    (AtKdfInput(b""), "17010000"),
    (AtKdf(1), "18010001"),
    (UnknownAttribute(136, b"\x80\x00"), "88018000"),  # AT_BIDDING is of EAP-AKA alone
]


@pytest.mark.parametrize(("value", "text"), PRIME_TABLE, ids=lambda item: type(item).__name__)
def test_table_of_aka_prime(value: Attribute, text: str) -> None:
    octets = bytes.fromhex(text)
    assert decode_attributes(Reader(octets), EapType.AKA_PRIME) == (value,)
    assert encode_attributes([value]) == octets
    for length in range(1, len(octets)):
        with pytest.raises(DecodeError):
            decode_attributes(Reader(octets[:length]), EapType.AKA_PRIME)


def test_at_kdf_alone_stands_several_times_and_keeps_its_order() -> None:
    octets = bytes.fromhex("180100021801000118010002")
    assert decode_attributes(Reader(octets), EapType.AKA_PRIME) == (AtKdf(2), AtKdf(1), AtKdf(2))
    with pytest.raises(DecodeError, match="stands twice"):
        decode_attributes(Reader(bytes.fromhex("1701000017010000")), EapType.AKA_PRIME)


@pytest.mark.parametrize("text", ["0105ffff" + BLOCK.hex(), "0a01ffff", "86017fff", "8205abcd" + BLOCK.hex()])
def test_reserved_octets_are_ignored_on_receipt_and_sent_zero(text: str) -> None:
    (value,) = decode_attributes(Reader(bytes.fromhex(text)))
    sent = encode_attributes([value])
    assert sent[2:4] == bytes(2)
    assert decode_attributes(Reader(sent)) == (value,)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0100", "octets needed"),  # Length 0 would not end
        ("07010000", "attribute 7 is not known"),
        ("18010000", "attribute 24 is not known"),  # AT_KDF belongs to EAP-AKA'
        ("0d0100000d010000", "stands twice"),
        ("0d02000000000000", "left over"),
        ("0301001f", "31 bits"),
        ("0306008100000000" + "00" * 16, "129 bits"),
        ("030400400000000000000000" + "00000000", "longer than its RES"),
        ("0e0300010000000000000000", "longer than its actual length"),
        ("0e010004", "octets needed"),
        ("06010001", "AT_PADDING"),
        ("0604" + "00" * 14, "AT_PADDING"),
        ("860200000000 0000", "4 octets, which is no hash"),
        ("0404" + "00" * 10, "octets needed"),
    ],
)
def test_malformed(text: str, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        decode_attributes(Reader(bytes.fromhex(text)))


def test_an_attribute_that_the_length_octet_cannot_name() -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        encode_attributes([AtIdentity(bytes(1017))])
    assert len(encode_attributes([AtIdentity(bytes(1016))])) == 1020


def message(code: EapCode, subtype: int, *attributes: Attribute) -> AkaMessage:
    """A message of identifier 5."""
    return AkaMessage(code=code, identifier=5, subtype=subtype, attributes=attributes)


def prime(code: EapCode, subtype: int, *attributes: Attribute) -> AkaMessage:
    """A message of EAP-AKA'."""
    return replace(message(code, subtype, *attributes), method=EapType.AKA_PRIME)


REQUEST, RESPONSE = EapCode.REQUEST, EapCode.RESPONSE
MESSAGES = [
    message(REQUEST, AkaSubtype.IDENTITY, AtAnyIdReq()),
    message(RESPONSE, AkaSubtype.IDENTITY, AtIdentity(b"0001010000000001"), UnknownAttribute(199, bytes(2))),
    message(REQUEST, AkaSubtype.CHALLENGE, AtRand(BLOCK), AtAutn(BLOCK), AtCheckcode(b""), AtMac(BLOCK)),
    message(RESPONSE, AkaSubtype.CHALLENGE, AtRes.of(BLOCK[:8]), AtResultInd(), AtMac(BLOCK)),
    message(RESPONSE, AkaSubtype.AUTHENTICATION_REJECT),
    message(RESPONSE, AkaSubtype.SYNCHRONIZATION_FAILURE, AtAuts(bytes(14))),
    message(REQUEST, AkaSubtype.NOTIFICATION, AtNotification(0), AtMac(BLOCK)),
    message(RESPONSE, AkaSubtype.NOTIFICATION, AtMac(BLOCK)),
    message(RESPONSE, AkaSubtype.CLIENT_ERROR, AtClientErrorCode(0)),
    message(REQUEST, AkaSubtype.REAUTHENTICATION, AtIv(BLOCK), AtEncrData(BLOCK), AtMac(BLOCK)),
    message(REQUEST, 99, AtRand(BLOCK)),
]
PRIME_MESSAGES = [
    prime(
        REQUEST, AkaSubtype.CHALLENGE, AtRand(BLOCK), AtAutn(BLOCK), AtKdf(2), AtKdf(1), AtKdfInput(b"W"), AtMac(BLOCK)
    ),
    prime(RESPONSE, AkaSubtype.CHALLENGE, AtKdf(1)),
    prime(RESPONSE, AkaSubtype.CHALLENGE, AtRes.of(BLOCK[:4]), AtCheckcode(bytes(32)), AtMac(BLOCK)),
    prime(RESPONSE, AkaSubtype.SYNCHRONIZATION_FAILURE, AtAuts(bytes(14)), AtKdf(1)),
]


@pytest.mark.parametrize("value", MESSAGES + PRIME_MESSAGES, ids=lambda value: value.name)
def test_messages_round_trip_and_truncations_do_not_decode(value: AkaMessage) -> None:
    octets = value.encode()
    assert AkaMessage.decode(octets) == value
    for length in range(len(octets)):
        with pytest.raises(DecodeError):
            AkaMessage.decode(octets[:length])


@pytest.mark.parametrize("value", MESSAGES + PRIME_MESSAGES, ids=lambda value: value.name)
def test_truncations_with_a_length_that_fits_raise_only_decode_errors(value: AkaMessage) -> None:
    octets = value.encode()
    survivors = 0
    for length in range(4, len(octets)):
        shortened = octets[:2] + length.to_bytes(2, "big") + octets[4:length]
        try:
            AkaMessage.decode(shortened)
        except DecodeError:
            continue
        survivors += 1  # cut between two attributes
    assert survivors <= len(value.attributes)


@pytest.mark.parametrize(
    ("code", "subtype", "attribute"),
    [
        (REQUEST, AkaSubtype.IDENTITY, AtMac(BLOCK)),
        (REQUEST, AkaSubtype.IDENTITY, AtIdentity(b"0")),
        (RESPONSE, AkaSubtype.IDENTITY, AtAnyIdReq()),
        (REQUEST, AkaSubtype.CHALLENGE, AtRes.of(BLOCK)),
        (REQUEST, AkaSubtype.CHALLENGE, AtNextPseudonym(b"2abc")),
        (RESPONSE, AkaSubtype.CHALLENGE, AtRand(BLOCK)),
        (RESPONSE, AkaSubtype.AUTHENTICATION_REJECT, AtMac(BLOCK)),
        (RESPONSE, AkaSubtype.SYNCHRONIZATION_FAILURE, AtMac(BLOCK)),
        (RESPONSE, AkaSubtype.CLIENT_ERROR, AtMac(BLOCK)),
        (RESPONSE, AkaSubtype.NOTIFICATION, AtNotification(0)),
    ],
)
def test_attributes_out_of_place(code: EapCode, subtype: int, attribute: Attribute) -> None:
    with pytest.raises(DecodeError, match="must not stand in"):
        AkaMessage.decode(message(code, subtype, attribute).encode())


@pytest.mark.parametrize("attribute", [AtIv(BLOCK), AtEncrData(BLOCK)])
def test_iv_and_encrypted_data_stand_together(attribute: Attribute) -> None:
    octets = message(REQUEST, AkaSubtype.CHALLENGE, AtRand(BLOCK), attribute).encode()
    with pytest.raises(DecodeError, match="together or not at all"):
        AkaMessage.decode(octets)


def test_another_eap_type_is_no_aka_message() -> None:
    with pytest.raises(DecodeError, match="EAP type 18"):
        AkaMessage.decode(bytes.fromhex("0105000812010000"))


@pytest.mark.parametrize("value", PRIME_MESSAGES, ids=lambda value: value.name)
def test_attributes_of_aka_prime_are_none_of_aka(value: AkaMessage) -> None:
    with pytest.raises(DecodeError):
        AkaMessage.decode(replace(value, method=EapType.AKA).encode())


def test_a_checkcode_has_the_length_of_its_method() -> None:
    of_sha1 = message(RESPONSE, AkaSubtype.CHALLENGE, AtCheckcode(bytes(20)))
    AkaMessage.decode(of_sha1.encode())
    with pytest.raises(DecodeError, match="AT_CHECKCODE of 20 octets does not belong to EAP-Response/AKA'-Challenge"):
        AkaMessage.decode(replace(of_sha1, method=EapType.AKA_PRIME).encode())


@pytest.mark.parametrize("method", [EapType.AKA, EapType.AKA_PRIME])
@pytest.mark.parametrize(
    ("code", "subtype", "attributes"),
    [
        (EapCode.REQUEST, AkaSubtype.CHALLENGE, (AtNextPseudonym(b"2abc"), AtNextReauthId(b"4a@b"))),
        (EapCode.REQUEST, AkaSubtype.REAUTHENTICATION, (AtCounter(1), AtNonceS(BLOCK), AtNextReauthId(b"4a@b"))),
        (EapCode.RESPONSE, AkaSubtype.REAUTHENTICATION, (AtCounter(1), AtCounterTooSmall())),
        (EapCode.REQUEST, AkaSubtype.NOTIFICATION, (AtCounter(1), UnknownAttribute(200, bytes(10)))),
        (EapCode.REQUEST, AkaSubtype.NOTIFICATION, (UnknownAttribute(200, bytes(14)),)),  # nothing to pad
    ],
)
def test_nested_attributes(
    method: EapType, code: EapCode, subtype: AkaSubtype, attributes: tuple[Attribute, ...]
) -> None:
    pair = encrypt_attributes(attributes, K_AUT, BLOCK)
    sent = replace(message(code, subtype, *pair), method=method)
    assert len(pair[1].ciphertext) % 16 == 0
    received = nested_attributes(AkaMessage.decode(sent.encode()), K_AUT)
    assert received.attributes == attributes
    assert received.get(AtPadding) is None
    with pytest.raises(DecodeError, match="AT_PADDING is missing from AT_ENCR_DATA of EAP-"):
        received.require(AtPadding)


@pytest.mark.parametrize(
    ("subtype", "nested", "why"),
    [
        (AkaSubtype.CHALLENGE, (AtCounter(1),), "AT_COUNTER must not be nested"),
        (AkaSubtype.REAUTHENTICATION, (AtNextPseudonym(b"2"),), "AT_NEXT_PSEUDONYM must not be nested"),
        (AkaSubtype.REAUTHENTICATION, (AtRand(BLOCK),), "AT_RAND must not be nested"),
        (AkaSubtype.REAUTHENTICATION, (AtPadding(12), AtCounter(1)), "not the last"),
        (AkaSubtype.REAUTHENTICATION, (AtCounter(1), AtCounter(1)), "stands twice"),
    ],
)
def test_nested_attributes_out_of_place(subtype: AkaSubtype, nested: tuple[Attribute, ...], why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        nested_attributes(message(REQUEST, subtype, *encrypt_attributes(nested, K_AUT, BLOCK)), K_AUT)


def test_no_encrypted_data_is_no_nested_attribute() -> None:
    assert nested_attributes(MESSAGES[2], K_AUT).attributes == ()


def test_access_by_class() -> None:
    value = MESSAGES[2]
    assert value.get(AtRand) == AtRand(BLOCK)
    assert value.get(AtRes) is None
    with pytest.raises(DecodeError, match="AT_RES is missing from EAP-Request/AKA-Challenge"):
        value.require(AtRes)


def test_names() -> None:
    assert MESSAGES[1].summary() == "EAP-Response/AKA-Identity [ AT_IDENTITY, AT_199 ]"
    assert MESSAGES[4].summary() == "EAP-Response/AKA-Authentication-Reject"
    assert PRIME_MESSAGES[1].summary() == "EAP-Response/AKA'-Challenge [ AT_KDF ]"
    assert PRIME_MESSAGES[0].kdfs == (2, 1)
    assert MESSAGES[-1].name == "EAP-Request/AKA-subtype-99"


def test_mac_covers_every_octet_and_the_extra_data() -> None:
    octets = encode_with_mac(message(REQUEST, AkaSubtype.CHALLENGE, AtRand(BLOCK), AtAutn(BLOCK)), K_AUT, b"nonce")
    assert mac_verifies(octets, K_AUT, b"nonce")
    assert mac_verifies(octets + b"padding of the lower layer", K_AUT, b"nonce")
    assert not mac_verifies(octets, K_AUT)
    assert not mac_verifies(octets, Secret(bytes(16)), b"nonce")
    for at in (*range(2), *range(5, 8), *range(10, 28), *range(30, len(octets))):
        altered = octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :]
        try:
            AkaMessage.decode(altered)
        except DecodeError:
            continue
        assert not mac_verifies(altered, K_AUT, b"nonce"), at


def test_mac_stands_anywhere() -> None:
    first = AkaMessage.decode(encode_with_mac(message(REQUEST, AkaSubtype.CHALLENGE), K_AUT))
    assert first.get(AtMac) is not None
    moved = message(REQUEST, AkaSubtype.CHALLENGE, AtMac(bytes(16)), AtRand(BLOCK)).encode()
    last = message(REQUEST, AkaSubtype.CHALLENGE, AtRand(BLOCK), AtMac(bytes(16))).encode()
    assert len(moved) == len(last)
    assert not mac_verifies(moved, K_AUT)
    assert not mac_verifies(message(REQUEST, AkaSubtype.CHALLENGE, AtRand(BLOCK)).encode(), K_AUT)


def test_checkcode() -> None:
    assert checkcode([]) == b""
    assert checkcode([b"a", b"b"]) == checkcode([b"ab"]) != checkcode([b"ba"])
    assert len(checkcode([b"a"])) == 20
    assert checkcode([], EapType.AKA_PRIME) == b""
    assert len(checkcode([b"a"], EapType.AKA_PRIME)) == 32


def test_the_mac_is_of_the_method() -> None:
    aka = encode_with_mac(message(REQUEST, AkaSubtype.CHALLENGE), K_AUT)
    other = encode_with_mac(prime(REQUEST, AkaSubtype.CHALLENGE), K_AUT)
    assert mac_verifies(aka, K_AUT)
    assert mac_verifies(other, K_AUT)
    assert not mac_verifies(aka[:4] + b"\x32" + aka[5:], K_AUT)
    assert not mac_verifies(aka[:4] + b"\x12" + aka[5:], K_AUT)
