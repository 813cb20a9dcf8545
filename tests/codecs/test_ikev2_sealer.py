"""Sealing and opening of messages (RFC 7296 §3.14, RFC 5282)."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from protocols.entropy import SeededEntropy
from protocols.errors import AuthenticationError, DecodeError
from protocols.ikev2.keymat import IkeKeys, derive_ike_keys
from protocols.ikev2.message import Message, decode_header, encode_header, encode_message
from protocols.ikev2.payloads import (
    EncryptedPayload,
    NotifyPayload,
    Payload,
    UnknownPayload,
    VendorIdPayload,
    encode_payloads,
)
from protocols.ikev2.registry import ExchangeType, NotifyType, PayloadType
from protocols.ikev2.sealer import MessageSealer, Sealer
from protocols.ikev2.suites import IkeSuite

SPI_I, SPI_R = b"initiato", b"responde"
SUITES = [
    "aes128-sha256-x25519",
    "aes192-sha384-x25519",
    "aes256-sha512-x25519",
    "aes128-sha1-x25519",
    "aes128gcm16-prfsha256-x25519",
    "aes256gcm16-prfsha384-x25519",
    "3des-sha1-modp1024",
    "aes192ctr-sha256-x25519",
    "aes128-aesxcbc-x25519",
    "aes256ctr-aescmac-x25519",
    "aes128gcm8-prfaesxcbc-x25519",
    "aes256gcm12-prfsha256-x25519",
    "aes128ccm8-prfaescmac-x25519",
    "aes192ccm12-prfsha256-x25519",
    "aes256ccm16-prfsha512-x25519",
    "chacha20poly1305-prfsha256-x25519",
]
CBC_SUITE = IkeSuite.of("aes128-sha256-x25519")
GCM_SUITE = IkeSuite.of("aes128gcm16-prfsha256-x25519")


def keys_of(suite: IkeSuite) -> IkeKeys:
    return derive_ike_keys(suite, b"g^ir", b"Ni" * 16, b"Nr" * 16, SPI_I, SPI_R)


def ends(suite: IkeSuite) -> tuple[MessageSealer, MessageSealer]:
    keys = keys_of(suite)
    return (
        Sealer(suite, keys, True, SeededEntropy("i")),
        Sealer(suite, keys, False, SeededEntropy("r")),
    )


def message(*payloads: Payload, original_initiator: bool = True, message_id: int = 2) -> Message:
    return Message(
        spi_i=SPI_I,
        spi_r=SPI_R,
        exchange=ExchangeType.INFORMATIONAL,
        original_initiator=original_initiator,
        response=False,
        message_id=message_id,
        payloads=payloads,
    )


@pytest.mark.parametrize("name", SUITES)
def test_what_one_end_seals_the_other_opens(name: str) -> None:
    ue, epdg = ends(IkeSuite.of(name))
    for length in range(36):
        for sender, receiver, original in ((ue, epdg, True), (epdg, ue, False)):
            sent = message(VendorIdPayload(bytes(length)), original_initiator=original, message_id=length)
            octets = sender.seal(sent)
            header = decode_header(octets)
            assert header.next_payload == PayloadType.SK
            assert receiver.open(octets, header) == sent
    empty = message()
    octets = ue.seal(empty)
    assert epdg.open(octets, decode_header(octets)) == empty


@pytest.mark.parametrize("name", SUITES)
def test_every_changed_octet_is_noticed(name: str) -> None:
    ue, epdg = ends(IkeSuite.of(name))
    octets = ue.seal(message(NotifyPayload(NotifyType.COOKIE2, b"12345678")))
    header = decode_header(octets)
    for index in range(len(octets)):
        changed = octets[:index] + bytes((octets[index] ^ 1,)) + octets[index + 1 :]
        # Octets 28 to 31 are SK's generic header: a wrong length there is noticed before the ICV.
        with pytest.raises((AuthenticationError, DecodeError)) as caught:
            epdg.open(changed, header)
        assert caught.value.notify_type is None
        if index not in (30, 31):
            assert isinstance(caught.value, AuthenticationError)
    assert epdg.open(octets, header).payloads


@pytest.mark.parametrize("name", SUITES)
def test_every_truncation_is_an_error_without_a_notify(name: str) -> None:
    ue, epdg = ends(IkeSuite.of(name))
    octets = ue.seal(message(VendorIdPayload(bytes(20))))
    for length in range(28, len(octets)):
        for fix_payload_length in (False, True):
            cut = bytearray(octets[:length])
            if fix_payload_length and length >= 32:
                cut[30:32] = (length - 28).to_bytes(2, "big")
            with pytest.raises((AuthenticationError, DecodeError)) as caught:
                epdg.open(bytes(cut), decode_header(octets))
            assert caught.value.notify_type is None


@pytest.mark.parametrize("name", SUITES)
def test_keys_have_directions(name: str) -> None:
    ue, _ = ends(IkeSuite.of(name))
    octets = ue.seal(message())
    with pytest.raises(AuthenticationError):
        ue.open(octets, decode_header(octets))


@pytest.mark.parametrize("name", SUITES)
def test_a_message_in_plain_text_is_refused(name: str) -> None:
    _, epdg = ends(IkeSuite.of(name))
    for payloads in ((), (NotifyPayload(NotifyType.AUTHENTICATION_FAILED),)):
        octets = encode_message(message(*payloads))
        with pytest.raises(DecodeError) as caught:
            epdg.open(octets, decode_header(octets))
        assert caught.value.notify_type is None


def sealed_by_hand(suite: IkeSuite, first: int, plaintext: bytes, before: tuple[Payload, ...] = ()) -> bytes:
    """An independent sealing by the initiator: fresh contexts, an IV of its own."""
    keys = keys_of(suite)
    iv = b"\x5a" * (8 if suite.aead else 16)
    sk = EncryptedPayload(PayloadType(first), iv + plaintext + bytes(16))
    kind, chain = encode_payloads((*before, sk))
    head = encode_header(
        spi_i=SPI_I,
        spi_r=SPI_R,
        next_payload=kind,
        exchange=ExchangeType.INFORMATIONAL,
        original_initiator=True,
        response=False,
        message_id=2,
        length=28 + len(chain),
    )
    clear = head + chain[: len(chain) - len(sk.data)]
    if suite.aead:
        key = keys.sk_ei.reveal()
        return clear + iv + AESGCM(key[:-4]).encrypt(key[-4:] + iv, plaintext, clear)
    encryptor = Cipher(AES(keys.sk_ei.reveal()), CBC(iv)).encryptor()
    octets = clear + iv + encryptor.update(plaintext) + encryptor.finalize()
    return octets + hmac.digest(keys.sk_ai.reveal(), octets, hashlib.sha256)[:16]


@pytest.mark.parametrize("suite", [CBC_SUITE, GCM_SUITE], ids=str)
def test_a_peers_own_iv_and_longer_padding(suite: IkeSuite) -> None:
    _, epdg = ends(suite)
    inner = bytes.fromhex("00000008") + b"abcd"
    for padding in (7, 23, 247):
        octets = sealed_by_hand(suite, 43, inner + b"\xaa" * padding + bytes((padding,)))
        assert epdg.open(octets, decode_header(octets)).payloads == (VendorIdPayload(b"abcd"),)


@pytest.mark.parametrize("suite", [CBC_SUITE, GCM_SUITE], ids=str)
@pytest.mark.parametrize(
    ("first", "plaintext", "notify"),
    [
        (0, b"\0" * 15 + b"\x10", NotifyType.INVALID_SYNTAX),  # more padding than plaintext
        (0, b"\0" * 15 + b"\xff", NotifyType.INVALID_SYNTAX),
        (43, bytes.fromhex("0000000900000000000000000000000b"), NotifyType.INVALID_SYNTAX),
        (200, bytes.fromhex("0080000400000000000000000000000b"), NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD),
    ],
)
def test_a_genuine_message_that_does_not_parse_carries_its_notify(
    suite: IkeSuite, first: int, plaintext: bytes, notify: NotifyType
) -> None:
    """RFC 7296 §2.21.2, §2.5: the peer is to hear about its own mistakes, strangers are not."""
    _, epdg = ends(suite)
    octets = sealed_by_hand(suite, first, plaintext)
    with pytest.raises(DecodeError) as caught:
        epdg.open(octets, decode_header(octets))
    assert caught.value.notify_type == notify


@pytest.mark.parametrize("length", [0, 15, 16, 17, 31, 33])
def test_a_cbc_ciphertext_that_is_not_whole_blocks(length: int) -> None:
    """With a right ICV even; the decryptor, which is kept, is not put out of step by it."""
    ue, epdg = ends(CBC_SUITE)
    clear = encode_header(
        spi_i=SPI_I,
        spi_r=SPI_R,
        next_payload=PayloadType.SK,
        exchange=ExchangeType.INFORMATIONAL,
        original_initiator=True,
        response=False,
        message_id=2,
        length=28 + 4 + length + 16,
    )
    octets = clear + bytes((0, 0)) + (4 + length + 16).to_bytes(2, "big") + bytes(length)
    octets += hmac.digest(keys_of(CBC_SUITE).sk_ai.reveal(), octets, hashlib.sha256)[:16]
    with pytest.raises(DecodeError):
        epdg.open(octets, decode_header(octets))
    good = ue.seal(message(VendorIdPayload(b"abcd")))
    assert epdg.open(good, decode_header(good)).payloads == (VendorIdPayload(b"abcd"),)


@pytest.mark.parametrize("name", ["aes128ctr-sha256-x25519", "3des-sha256-x25519"])
@pytest.mark.parametrize("length", [0, 7, 8])
def test_a_ciphertext_without_room_for_iv_and_pad_length(name: str, length: int) -> None:
    """With a right ICV even: nothing is decrypted, and nothing is answered."""
    suite = IkeSuite.of(name)
    ue, epdg = ends(suite)
    clear = ue.seal(message())[:28] + bytes((0, 0)) + (4 + length + 16).to_bytes(2, "big")
    octets = clear + bytes(length)
    octets += hmac.digest(keys_of(suite).sk_ai.reveal(), octets, hashlib.sha256)[:16]
    with pytest.raises(DecodeError) as caught:
        epdg.open(octets, decode_header(ue.seal(message())))
    assert caught.value.notify_type is None


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("aes128-sha256-x25519", 16),
        ("3des-sha256-x25519", 8),
        ("aes128ctr-sha256-x25519", 1),  # RFC 5930 §2.4
        ("aes128ccm8-prfsha256-x25519", 1),  # RFC 5282 §3
        ("chacha20poly1305-prfsha256-x25519", 1),
    ],
)
def test_no_more_padding_than_the_cipher_needs(name: str, block: int) -> None:
    ue, _ = ends(IkeSuite.of(name))
    lengths = [len(ue.seal(message(VendorIdPayload(bytes(length))))) for length in range(33)]
    steps = {longer - shorter for shorter, longer in zip(lengths, lengths[1:], strict=False)}
    assert steps == ({0, block} if block > 1 else {1})


def test_a_gcm_plaintext_without_its_pad_length() -> None:
    _, epdg = ends(GCM_SUITE)
    octets = sealed_by_hand(GCM_SUITE, 0, b"")
    with pytest.raises(DecodeError) as caught:
        epdg.open(octets, decode_header(octets))
    assert caught.value.notify_type == NotifyType.INVALID_SYNTAX


@pytest.mark.parametrize("suite", [CBC_SUITE, GCM_SUITE], ids=str)
def test_only_the_plaintext_counts(suite: IkeSuite) -> None:
    """Payloads in front of SK are covered by the ICV and passed over."""
    _, epdg = ends(suite)
    outside = (VendorIdPayload(b"outside"), UnknownPayload(PayloadType(200), False, b""))
    inner = bytes.fromhex("00000008") + b"abcd" + bytes(7) + b"\x07"
    octets = sealed_by_hand(suite, 43, inner, outside)
    assert epdg.open(octets, decode_header(octets)).payloads == (VendorIdPayload(b"abcd"),)


@pytest.mark.parametrize("suite", [CBC_SUITE, GCM_SUITE], ids=str)
def test_nothing_follows_sk(suite: IkeSuite) -> None:
    """RFC 7296 §3.14: the Encrypted payload MUST be the last."""
    ue, epdg = ends(suite)
    octets = ue.seal(message()) + bytes.fromhex("00000004")
    with pytest.raises(DecodeError):
        epdg.open(octets, decode_header(octets[:24] + len(octets).to_bytes(4, "big") + octets[28:]))


def test_ivs_differ_and_cbc_ivs_cannot_be_foretold() -> None:
    """RFC 7296 §3.14 (CBC: unpredictable), RFC 5282 §3.1 (GCM: never twice)."""
    for suite, length in ((CBC_SUITE, 16), (GCM_SUITE, 8)):
        ue, _ = ends(suite)
        ivs = [ue.seal(message())[32 : 32 + length] for _ in range(100)]
        assert len(set(ivs)) == 100
    keys = keys_of(CBC_SUITE)
    ivs = {Sealer(CBC_SUITE, keys, True, SeededEntropy(seed)).seal(message())[32:48] for seed in range(20)}
    assert len(ivs) == 20


def test_runs_replay() -> None:
    for suite in (CBC_SUITE, GCM_SUITE):
        assert ends(suite)[0].seal(message()) == ends(suite)[0].seal(message())
