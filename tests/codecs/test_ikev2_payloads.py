"""Every IKEv2 payload as (value, octets): decode, encode, length, and truncations (RFC 7296 §3.2–3.16)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from protocols.errors import DecodeError, NegotiationError
from protocols.ikev2.payloads import (
    AuthPayload,
    CertPayload,
    CertreqPayload,
    ConfigurationAttribute,
    ConfigurationPayload,
    DeletePayload,
    EapPayload,
    EncryptedFragmentPayload,
    EncryptedPayload,
    IdiPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    Proposal,
    SaPayload,
    Transform,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
    VendorIdPayload,
    decode_payloads,
    encode_payloads,
)
from protocols.ikev2.registry import (
    AuthMethod,
    CertEncoding,
    ConfigAttributeType,
    ConfigType,
    EncryptionId,
    EsnId,
    IdType,
    IntegrityId,
    KeGroup,
    NotifyType,
    PayloadType,
    PrfId,
    ProtocolId,
    TransformType,
)
from protocols.selectors import TrafficSelector

IKE_PROPOSAL = Proposal(
    number=1,
    protocol=ProtocolId.IKE,
    transforms=(
        Transform(TransformType.ENCR, EncryptionId.ENCR_AES_CBC, 128),
        Transform(TransformType.PRF, PrfId.PRF_HMAC_SHA2_256),
        Transform(TransformType.INTEG, IntegrityId.AUTH_HMAC_SHA2_256_128),
        Transform(TransformType.KE, KeGroup.CURVE25519),
    ),
)
ESP_PROPOSAL = Proposal(
    number=2,
    protocol=ProtocolId.ESP,
    spi=bytes.fromhex("01020304"),
    transforms=(
        Transform(TransformType.ENCR, EncryptionId.ENCR_AES_GCM_16, 256),
        Transform(TransformType.ESN, EsnId.NO_ESN),
    ),
)
UNKNOWN_TRANSFORMS = Proposal(
    number=1,
    protocol=ProtocolId.ESP,
    spi=bytes(4),
    transforms=(
        Transform(TransformType(200), 7),
        Transform(
            TransformType.ENCR,
            EncryptionId(9001),
            unknown_attributes=((0x8011, b"\x00\x05"), (0x0012, b"abc"), (0x000E, b"\x00\x80")),
        ),
    ),
)

TABLE: list[tuple[Payload, PayloadType, str]] = [
    (
        SaPayload((IKE_PROPOSAL, ESP_PROPOSAL)),
        PayloadType.SA,
        "0200002c 01010004"  # more follow, 44 octets; number 1, IKE, no SPI, four transforms
        "0300000c 0100000c 800e0080"
        "03000008 02000005"
        "03000008 0300000c"
        "00000008 0400001f"
        "00000020 02030402 01020304"  # the last, 32 octets; number 2, ESP, an SPI of four octets
        "0300000c 01000014 800e0100"
        "00000008 05000000",
    ),
    (
        SaPayload((UNKNOWN_TRANSFORMS,)),
        PayloadType.SA,
        "0000002d 01030402 00000000 03000008 c8000007 00000019 01002329 80110005 00120003616263 000e00020080",
    ),
    (KePayload(KeGroup.CURVE25519, bytes(range(32))), PayloadType.KE, "001f0000" + bytes(range(32)).hex()),
    (KePayload(KeGroup(60000), b"\x01"), PayloadType.KE, "ea600000 01"),
    (IdiPayload(IdType.ID_RFC822_ADDR, b"0@x"), PayloadType.IDi, "03000000 304078"),
    (IdrPayload(IdType.ID_FQDN, b"epdg"), PayloadType.IDr, "02000000 65706467"),
    (CertPayload(CertEncoding.X509_SIGNATURE, b"\x30\x00"), PayloadType.CERT, "04 3000"),
    (CertreqPayload(CertEncoding.X509_SIGNATURE, bytes(20)), PayloadType.CERTREQ, "04" + "00" * 20),
    (AuthPayload(AuthMethod.DIGITAL_SIGNATURE, b"\xff"), PayloadType.AUTH, "0e000000 ff"),
    (NoncePayload(bytes(16)), PayloadType.NONCE, "00" * 16),
    (NoncePayload(bytes(256)), PayloadType.NONCE, "00" * 256),
    (NotifyPayload(NotifyType.COOKIE, b"\xaa\xbb"), PayloadType.N, "00004006 aabb"),
    (
        NotifyPayload(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=bytes.fromhex("01020304")),
        PayloadType.N,
        "03044009 01020304",
    ),
    (NotifyPayload(NotifyType(41041), b"\x01"), PayloadType.N, "0000a051 01"),
    (DeletePayload(ProtocolId.IKE), PayloadType.D, "01000000"),
    (
        DeletePayload(ProtocolId.ESP, (bytes.fromhex("01020304"), bytes.fromhex("05060708"))),
        PayloadType.D,
        "03040002 01020304 05060708",
    ),
    (VendorIdPayload(b"strong"), PayloadType.V, "7374726f6e67"),
    (
        TsiPayload((TrafficSelector.host("192.0.2.1"),)),
        PayloadType.TSi,
        "01000000 07000010 0000ffff c0000201 c0000201",
    ),
    (
        TsrPayload(
            (
                TrafficSelector(
                    start=IPv6Address("2001:db8::"),
                    end=IPv6Address("2001:db8::ffff"),
                    protocol=17,
                    start_port=53,
                    end_port=53,
                ),
                TrafficSelector.network("0.0.0.0/0"),
            ),
            (bytes.fromhex("0a00000900000161ff"),),
        ),
        PayloadType.TSr,
        "03000000 08110028 00350035 20010db8000000000000000000000000 20010db800000000000000000000ffff"
        "07000010 0000ffff 00000000 ffffffff"
        "0a00000900000161ff",
    ),
    (
        TsiPayload(
            (TrafficSelector(start=IPv4Address(0), end=IPv4Address("255.255.255.255"), start_port=65535, end_port=0),)
        ),
        PayloadType.TSi,  # OPAQUE ports (§3.13.1)
        "01000000 07000010 ffff0000 00000000 ffffffff",
    ),
    (
        ConfigurationPayload(
            ConfigType.CFG_REQUEST,
            (
                ConfigurationAttribute(ConfigAttributeType.INTERNAL_IP4_ADDRESS),
                ConfigurationAttribute(ConfigAttributeType.INTERNAL_IP4_DNS, bytes((192, 0, 2, 53))),
                ConfigurationAttribute(ConfigAttributeType(16384), b"\x01"),
            ),
        ),
        PayloadType.CP,
        "01000000 00010000 00030004c0000235 4000000101",
    ),
    (EapPayload(bytes.fromhex("0101000501")), PayloadType.EAP, "0101000501"),
    (UnknownPayload(PayloadType(200), False, b"abc"), PayloadType(200), "616263"),
]
IDS = [f"{index}-{payload.payload_type.name}" for index, (payload, _, _) in enumerate(TABLE)]


def chain(kind: int, body: bytes, *, flags: int = 0, following: int = 0) -> bytes:
    return bytes((following, flags)) + (4 + len(body)).to_bytes(2, "big") + body


@pytest.mark.parametrize(("payload", "kind", "octets"), TABLE, ids=IDS)
def test_decode_encode_length(payload: Payload, kind: PayloadType, octets: str) -> None:
    body = bytes.fromhex(octets)
    assert encode_payloads((payload,)) == (kind, chain(kind, body))
    assert decode_payloads(kind, chain(kind, body)) == (payload,)
    assert payload.payload_type == kind
    assert len(payload.encode()) == len(body)


@pytest.mark.parametrize(("payload", "kind", "octets"), TABLE, ids=IDS)
def test_every_truncation_is_a_decode_error(payload: Payload, kind: PayloadType, octets: str) -> None:
    whole = chain(kind, bytes.fromhex(octets))
    for length in range(len(whole)):
        with pytest.raises(DecodeError) as caught:
            decode_payloads(kind, whole[:length])
        assert caught.value.notify_type == NotifyType.INVALID_SYNTAX


WITH_COUNTS = (PayloadType.SA, PayloadType.D, PayloadType.TSi, PayloadType.TSr)


@pytest.mark.parametrize(("kind", "octets"), [(kind, octets) for _, kind, octets in TABLE if kind in WITH_COUNTS])
def test_truncation_inside_a_consistent_payload_length(kind: PayloadType, octets: str) -> None:
    body = bytes.fromhex(octets)
    for length in range(len(body)):
        with pytest.raises(DecodeError):
            decode_payloads(kind, chain(kind, body[:length]))


@pytest.mark.parametrize(
    ("kind", "octets", "why"),
    [
        (PayloadType.SA, "", "no proposal"),
        (PayloadType.SA, "00000008 01010000 00", "an octet after the last proposal"),
        (PayloadType.SA, "02000008 01010000", "more is said to follow the last proposal"),
        (PayloadType.SA, "00000008 01010000 00000008 02010000", "a proposal after the last"),
        (PayloadType.SA, "00000003 01010000", "a proposal shorter than its own header"),
        (PayloadType.SA, "00000010 01010001 03000008 02000005", "more is said to follow the last transform"),
        (PayloadType.SA, "00000018 01010002 00000008 02000005 00000008 02000006", "a transform after the last"),
        (PayloadType.SA, "00000010 01010001 00000007 02000005", "a transform shorter than its fields"),
        (PayloadType.SA, "00000014 01010001 0000000c 0100000c 000e0080", "an attribute longer than its transform"),
        (PayloadType.SA, "00000010 01010000 00000008 02000005", "more transforms than are counted"),
        (PayloadType.NONCE, "00" * 15, "a nonce below 16 octets"),
        (PayloadType.NONCE, "00" * 257, "a nonce above 256 octets"),
        (PayloadType.D, "0100ffff", "SPIs of no octets"),
        (PayloadType.D, "03040001 0102030405", "an octet after the last SPI"),
        (PayloadType.TSi, "01000000 07000010 0000ffff c0000202 c0000201", "a range that runs backwards"),
        (PayloadType.TSi, "01000000 0700000f 0000ffff c0000201 c00002", "a selector shorter than its type's"),
        (PayloadType.TSi, "01000000 07000011 0000ffff c0000201 c0000201 00", "a selector longer than its type's"),
        (PayloadType.TSi, "01000000 07000003", "a selector shorter than its own header"),
        (PayloadType.TSr, "00000000 07000010 0000ffff c0000201 c0000201", "more selectors than are counted"),
        (PayloadType.CP, "01000000 000100ff", "an attribute longer than the payload"),
        (PayloadType.N, "03ff4009 01020304", "an SPI longer than the payload"),
    ],
)
def test_malformed_bodies(kind: PayloadType, octets: str, why: str) -> None:
    with pytest.raises(DecodeError):
        decode_payloads(kind, chain(kind, bytes.fromhex(octets)))


def test_reserved_fields_are_ignored_and_sent_zero() -> None:
    """RFC 7296 §3.2: RESERVED MUST be sent as zero and MUST be ignored on receipt."""
    for kind, dirty, clean in (
        (PayloadType.SA, "00ff0010 01010001 00ff0008 02ff0005", "00000010 01010001 00000008 02000005"),
        (PayloadType.KE, "001fffff 00", "001f0000 00"),
        (PayloadType.IDi, "02ffffff 61", "02000000 61"),
        (PayloadType.AUTH, "0effffff 61", "0e000000 61"),
        (PayloadType.TSi, "01ffffff 07000010 0000ffff 0000000000000000", "01000000 07000010 0000ffff 0000000000000000"),
        (PayloadType.CP, "01ffffff 80010000", "01000000 00010000"),
    ):
        payloads = decode_payloads(kind, chain(kind, bytes.fromhex(dirty), flags=0x7F))
        assert encode_payloads(payloads)[1] == chain(kind, bytes.fromhex(clean))


def test_a_chain_keeps_its_order() -> None:
    payloads = tuple(payload for payload, _, _ in TABLE)
    first, octets = encode_payloads(payloads)
    assert first == PayloadType.SA
    assert decode_payloads(first, octets) == payloads
    assert encode_payloads(()) == (PayloadType.NONE, b"")
    assert decode_payloads(0, b"") == ()


def test_octets_after_the_last_payload() -> None:
    with pytest.raises(DecodeError):
        decode_payloads(PayloadType.V, chain(PayloadType.V, b"") + b"\0")
    with pytest.raises(DecodeError):
        decode_payloads(0, b"\0")


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_a_payload_shorter_than_its_header(length: int) -> None:
    with pytest.raises(DecodeError):
        decode_payloads(PayloadType.V, bytes((0, 0, 0, length)))


def test_critical_bit() -> None:
    """RFC 7296 §2.5, §3.2: rejected with the type for unknown payloads, ignored for known ones."""
    unknown = chain(200, b"abc", flags=0x80)
    with pytest.raises(DecodeError) as caught:
        decode_payloads(200, unknown)
    assert caught.value.notify_type == NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD
    assert caught.value.notify_data == b"\xc8"
    assert decode_payloads(PayloadType.V, chain(PayloadType.V, b"x", flags=0x80)) == (VendorIdPayload(b"x"),)
    assert encode_payloads((UnknownPayload(PayloadType(200), True, b"abc"),)) == (200, unknown)


@pytest.mark.parametrize("kind", [PayloadType.SK, PayloadType.SKF])
def test_encrypted_payloads_end_the_chain(kind: PayloadType) -> None:
    """RFC 7296 §3.14: next payload names the first inside; nothing follows."""
    octets = chain(kind, b"sealed", following=PayloadType.IDi)
    value = EncryptedPayload if kind == PayloadType.SK else EncryptedFragmentPayload
    assert decode_payloads(kind, octets) == (value(PayloadType.IDi, b"sealed"),)
    assert encode_payloads((value(PayloadType.IDi, b"sealed"),)) == (kind, octets)
    with pytest.raises(DecodeError):
        decode_payloads(kind, octets + chain(PayloadType.V, b""))


def test_unknown_registry_values_are_members() -> None:
    assert NotifyType(41041).name == "UNKNOWN_41041"
    assert NotifyType(41041) is NotifyType(41041)
    assert not NotifyType(41041).known
    assert NotifyType.COOKIE.known
    assert not NotifyType.COOKIE.is_error
    assert NotifyType.INVALID_SYNTAX.is_error
    for bad in (-1, 65536, "COOKIE"):
        with pytest.raises(ValueError, match="is not a valid NotifyType"):
            NotifyType(bad)


def test_single_proposal_of_an_answer() -> None:
    assert SaPayload((IKE_PROPOSAL,)).single() is IKE_PROPOSAL
    with pytest.raises(NegotiationError):
        SaPayload((IKE_PROPOSAL, ESP_PROPOSAL)).single()


def test_lookups() -> None:
    assert IKE_PROPOSAL.of_type(TransformType.PRF) == (IKE_PROPOSAL.transforms[1],)
    assert [transform.is_key_exchange for transform in IKE_PROPOSAL.transforms] == [False, False, False, True]
    reply = ConfigurationPayload(
        ConfigType.CFG_REPLY,
        (
            ConfigurationAttribute(ConfigAttributeType.INTERNAL_IP4_DNS, b"1111"),
            ConfigurationAttribute(ConfigAttributeType.INTERNAL_IP4_ADDRESS, b"2222"),
            ConfigurationAttribute(ConfigAttributeType.INTERNAL_IP4_DNS, b"3333"),
        ),
    )
    assert reply.values(ConfigAttributeType.INTERNAL_IP4_DNS) == (b"1111", b"3333")
