"""The IKE header and messages (RFC 7296 §3.1), and their notation."""

from __future__ import annotations

import pytest

from protocols.errors import DecodeError
from protocols.ikev2.message import Header, Message, decode_header, decode_message, encode_message
from protocols.ikev2.payloads import (
    ConfigurationPayload,
    EncryptedPayload,
    IdiPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    SaPayload,
    TsiPayload,
    VendorIdPayload,
)
from protocols.ikev2.registry import ConfigType, ExchangeType, IdType, KeGroup, NotifyType, PayloadType
from tests.codecs.test_ikev2_payloads import IKE_PROPOSAL

SPI_I = bytes.fromhex("0102030405060708")
SPI_R = bytes.fromhex("1112131415161718")
MESSAGE = Message(
    spi_i=SPI_I,
    spi_r=bytes(8),
    exchange=ExchangeType.IKE_SA_INIT,
    original_initiator=True,
    response=False,
    message_id=0,
    payloads=(VendorIdPayload(b"ab"),),
)
OCTETS = bytes.fromhex("0102030405060708 0000000000000000 2b 20 22 08 00000000 00000022 000000066162")


def test_decode_encode() -> None:
    assert encode_message(MESSAGE) == OCTETS
    assert decode_message(OCTETS) == MESSAGE
    header = decode_header(OCTETS)
    assert header == Header(
        spi_i=SPI_I,
        spi_r=bytes(8),
        next_payload=PayloadType.V,
        major=2,
        minor=0,
        exchange=ExchangeType.IKE_SA_INIT,
        original_initiator=True,
        response=False,
        message_id=0,
        length=34,
    )
    assert header.encode() == OCTETS[:28]


@pytest.mark.parametrize("original_initiator", [True, False])
@pytest.mark.parametrize("response", [True, False])
def test_flags(original_initiator: bool, response: bool) -> None:
    message = Message(
        spi_i=SPI_I,
        spi_r=SPI_R,
        exchange=ExchangeType.INFORMATIONAL,
        original_initiator=original_initiator,
        response=response,
        message_id=0xFFFFFFFE,
    )
    octets = encode_message(message)
    assert octets[19] == 0x08 * original_initiator + 0x20 * response
    assert decode_message(octets) == message
    # The version flag and reserved bits are ignored (§3.1).
    assert decode_message(octets[:19] + bytes((octets[19] | 0xD7,)) + octets[20:]) == message


def test_every_truncation_is_a_decode_error() -> None:
    for length in range(len(OCTETS)):
        with pytest.raises(DecodeError):
            decode_header(OCTETS[:length])
        with pytest.raises(DecodeError):
            decode_message(OCTETS[:length])


def test_length_has_to_be_the_datagrams() -> None:
    with pytest.raises(DecodeError) as caught:
        decode_header(OCTETS + b"\0")
    assert caught.value.notify_type is None


@pytest.mark.parametrize(
    ("version", "notify"), [(0x30, NotifyType.INVALID_MAJOR_VERSION), (0xF0, 5), (0x10, None), (0x00, None)]
)
def test_major_version(version: int, notify: int | None) -> None:
    """RFC 7296 §2.5: a higher major version is answered with INVALID_MAJOR_VERSION, an IKEv1 datagram is not."""
    with pytest.raises(DecodeError) as caught:
        decode_header(OCTETS[:17] + bytes((version,)) + OCTETS[18:])
    assert caught.value.notify_type == notify


def test_minor_version_is_ignored() -> None:
    assert decode_message(OCTETS[:17] + b"\x2f" + OCTETS[18:]) == MESSAGE


def test_payload_lookups() -> None:
    cookie = NotifyPayload(NotifyType.COOKIE, b"1")
    again = NotifyPayload(NotifyType.COOKIE, b"2")
    private = NotifyPayload(NotifyType(41041))
    message = Message(
        spi_i=SPI_I,
        spi_r=SPI_R,
        exchange=ExchangeType.IKE_AUTH,
        original_initiator=False,
        response=True,
        message_id=1,
        payloads=(cookie, NoncePayload(bytes(16)), again, private),
    )
    assert message.first(NoncePayload) == NoncePayload(bytes(16))
    assert message.first(SaPayload) is None
    assert message.all(NotifyPayload) == (cookie, again, private)
    assert message.notify(NotifyType.COOKIE) is cookie
    assert message.notify(41041) is private
    assert message.notify(NotifyType.COOKIE2) is None
    assert message.notifies(NotifyType.COOKIE) == (cookie, again)


@pytest.mark.parametrize(
    ("exchange", "response", "message_id", "payloads", "summary"),
    [
        (
            ExchangeType.IKE_SA_INIT,
            False,
            0,
            (
                SaPayload((IKE_PROPOSAL,)),
                KePayload(KeGroup.CURVE25519, bytes(32)),
                NoncePayload(bytes(32)),
                NotifyPayload(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(20)),
            ),
            "IKE_SA_INIT request 0 [ SAi1, KEi, Ni, N(NAT_DETECTION_SOURCE_IP) ]",
        ),
        (
            ExchangeType.IKE_AUTH,
            True,
            5,
            (
                IdrPayload(IdType.ID_FQDN, b"e"),
                SaPayload((IKE_PROPOSAL,)),
                TsiPayload(()),
                ConfigurationPayload(ConfigType.CFG_REPLY),
                NotifyPayload(NotifyType(41101)),
            ),
            "IKE_AUTH response 5 [ IDr, SAr2, TSi, CP(CFG_REPLY), N(P_CSCF_RESELECTION_SUPPORT) ]",
        ),
        (
            ExchangeType.CREATE_CHILD_SA,
            True,
            7,
            (SaPayload((IKE_PROPOSAL,)), NoncePayload(bytes(16)), KePayload(KeGroup.ECP_256, b"")),
            "CREATE_CHILD_SA response 7 [ SA, Nr, KEr ]",
        ),
        (ExchangeType.INFORMATIONAL, False, 8, (), "INFORMATIONAL request 8 [ ]"),
        (
            ExchangeType.IKE_AUTH,
            False,
            1,
            (EncryptedPayload(PayloadType.IDi, b""),),
            "IKE_AUTH request 1 [ SK {...} ]",
        ),
        (ExchangeType(99), False, 1, (IdiPayload(IdType.ID_FQDN, b""),), "UNKNOWN_99 request 1 [ IDi ]"),
    ],
)
def test_summary(
    exchange: ExchangeType, response: bool, message_id: int, payloads: tuple[object, ...], summary: str
) -> None:
    message = Message(
        spi_i=SPI_I,
        spi_r=SPI_R,
        exchange=exchange,
        original_initiator=not response,
        response=response,
        message_id=message_id,
        payloads=payloads,
    )
    assert message.summary({41101: "P_CSCF_RESELECTION_SUPPORT"}) == summary
