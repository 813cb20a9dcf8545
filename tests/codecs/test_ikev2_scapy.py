"""Scapy's contrib.ikev2 as an independent encoder: it builds the octets that our codec builds and reads."""

from __future__ import annotations

import pytest
from scapy.contrib import ikev2 as scapy
from scapy.packet import Packet, Raw

from protocols.ikev2.message import Message, decode_message, encode_message
from protocols.ikev2.payloads import (
    AuthPayload,
    CertPayload,
    CertreqPayload,
    ConfigurationAttribute,
    ConfigurationPayload,
    DeletePayload,
    EapPayload,
    EncryptedFragmentPayload,
    IdiPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsiPayload,
    TsrPayload,
    VendorIdPayload,
)
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.ikev2.registry import (
    AuthMethod,
    CertEncoding,
    ConfigAttributeType,
    ConfigType,
    ExchangeType,
    IdType,
    KeGroup,
    NotifyType,
    PayloadType,
    ProtocolId,
)
from protocols.ikev2.suites import EspSuite, IkeSuite
from protocols.selectors import TrafficSelector

SPI_I, SPI_R = b"initiato", b"responde"
CHILD_SPI = bytes.fromhex("c0ffee01")


def chained(*layers: Packet) -> Packet:
    packet = layers[0]
    for layer in layers[1:]:
        packet = packet / layer
    return packet


def transform(kind: int, number: int, bits: int | None = None, *, last: bool = False) -> Packet:
    more = {"next_payload": 0 if last else 3}
    if bits is None:
        return scapy.IKEv2_Transform(transform_type=kind, transform_id=number, **more)
    return scapy.IKEv2_Transform(transform_type=kind, transform_id=number, length=12, key_length=bits, **more)


IKE_POLICY = IkePolicy((IkeSuite.of("aes128gcm16-prfsha256-x25519"), IkeSuite.of("aes256-sha256-ecp256")))
SCAPY_IKE = scapy.IKEv2_SA(
    next_payload=34,
    prop=chained(
        scapy.IKEv2_Proposal(
            next_payload=2,
            proposal=1,
            proto=1,
            trans_nb=3,
            trans=chained(transform(1, 20, 128), transform(2, 5), transform(4, 31, last=True)),
        ),
        scapy.IKEv2_Proposal(
            next_payload=0,
            proposal=2,
            proto=1,
            trans_nb=4,
            trans=chained(transform(1, 12, 256), transform(2, 5), transform(3, 12), transform(4, 19, last=True)),
        ),
    ),
)
ESP_POLICY = EspPolicy((EspSuite.of("aes128-sha256"),))
SCAPY_ESP = scapy.IKEv2_SA(
    next_payload=44,
    prop=scapy.IKEv2_Proposal(
        next_payload=0,
        proposal=1,
        proto=3,
        SPI=CHILD_SPI,
        trans_nb=3,
        trans=chained(transform(1, 12, 128), transform(3, 12), transform(5, 0, last=True)),
    ),
)

CASES: list[tuple[str, ExchangeType, int, int, tuple[Payload, ...], tuple[Packet, ...]]] = [
    (
        "IKE_SA_INIT request",
        ExchangeType.IKE_SA_INIT,
        0x08,
        0,
        (
            SaPayload(IKE_POLICY.proposals()),
            KePayload(KeGroup.CURVE25519, bytes(range(32))),
            NoncePayload(bytes(range(24))),
            NotifyPayload(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(range(20))),
            VendorIdPayload(b"vendor"),
        ),
        (
            SCAPY_IKE,
            scapy.IKEv2_KE(next_payload=40, group=31, ke=bytes(range(32))),
            scapy.IKEv2_Nonce(next_payload=41, nonce=bytes(range(24))),
            scapy.IKEv2_Notify(next_payload=43, proto=0, type=16388, notify=bytes(range(20))),
            scapy.IKEv2_VendorID(next_payload=0, vendorID=b"vendor"),
        ),
    ),
    (
        "IKE_AUTH request",
        ExchangeType.IKE_AUTH,
        0x08,
        1,
        (
            IdiPayload(IdType.ID_RFC822_ADDR, b"0001010000000001@nai.epc.example"),
            IdrPayload(IdType.ID_FQDN, b"internet"),
            CertreqPayload(CertEncoding.X509_SIGNATURE, bytes(range(20))),
            ConfigurationPayload(
                ConfigType.CFG_REQUEST,
                (
                    ConfigurationAttribute(ConfigAttributeType.INTERNAL_IP4_ADDRESS),
                    ConfigurationAttribute(ConfigAttributeType.APPLICATION_VERSION, b"1.0"),
                ),
            ),
            SaPayload(ESP_POLICY.proposals(CHILD_SPI)),
            TsiPayload((TrafficSelector.network("0.0.0.0/0"),)),
            TsrPayload((TrafficSelector.host("192.0.2.1"), TrafficSelector.host("192.0.2.2"))),
            NotifyPayload(NotifyType.MOBIKE_SUPPORTED),
        ),
        (
            scapy.IKEv2_IDi(next_payload=36, IDtype=3, ID=b"0001010000000001@nai.epc.example"),
            scapy.IKEv2_IDr(next_payload=38, IDtype=2, ID=b"internet"),
            scapy.IKEv2_CERTREQ(next_payload=47, cert_encoding=4, cert_authority=bytes(range(20))),
            scapy.IKEv2_CP(
                next_payload=33,
                CFGType=1,
                attributes=[
                    scapy.ConfigurationAttribute(type=1, length=0, value=b""),
                    scapy.ConfigurationAttribute(type=7, value=b"1.0"),
                ],
            ),
            SCAPY_ESP,
            scapy.IKEv2_TSi(
                next_payload=45,
                traffic_selector=[
                    scapy.IPv4TrafficSelector(
                        IP_protocol_ID=0, starting_address_v4="0.0.0.0", ending_address_v4="255.255.255.255"
                    )
                ],
            ),
            scapy.IKEv2_TSr(
                next_payload=41,
                traffic_selector=[
                    scapy.IPv4TrafficSelector(
                        IP_protocol_ID=0,
                        starting_address_v4=f"192.0.2.{last}",
                        ending_address_v4=f"192.0.2.{last}",
                    )
                    for last in (1, 2)
                ],
            ),
            scapy.IKEv2_Notify(next_payload=0, proto=0, type=16396, notify=b""),
        ),
    ),
    (
        "IKE_AUTH response",
        ExchangeType.IKE_AUTH,
        0x20,
        1,
        (
            CertPayload(CertEncoding.RAW_PUBLIC_KEY, b"key"),
            AuthPayload(AuthMethod.DIGITAL_SIGNATURE, b"signature"),
            TsiPayload((TrafficSelector.host("2001:db8::1"),)),
            EapPayload(bytes.fromhex("0101000501")),
        ),
        (
            scapy.IKEv2_CERT(next_payload=39, cert_encoding=15, cert_data=b"key"),
            scapy.IKEv2_AUTH(next_payload=44, auth_type=14, load=b"signature"),
            scapy.IKEv2_TSi(
                next_payload=48,
                traffic_selector=[
                    scapy.IPv6TrafficSelector(
                        IP_protocol_ID=0,
                        length=40,
                        starting_address_v6="2001:db8::1",
                        ending_address_v6="2001:db8::1",
                    )
                ],
            ),
            scapy.IKEv2_EAP(next_payload=0, load=bytes.fromhex("0101000501")),
        ),
    ),
    (
        "INFORMATIONAL",
        ExchangeType.INFORMATIONAL,
        0x00,
        0x01020304,
        (
            DeletePayload(ProtocolId.ESP, (CHILD_SPI, b"abcd")),
            NotifyPayload(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=CHILD_SPI),
        ),
        (
            scapy.IKEv2_Delete(next_payload=41, proto=3, SPIsize=4, SPInum=2, SPI=[CHILD_SPI, b"abcd"]),
            scapy.IKEv2_Notify(next_payload=0, proto=3, type=16393, SPI=CHILD_SPI, notify=b""),
        ),
    ),
    (
        "fragment",
        ExchangeType.IKE_AUTH,
        0x08,
        1,
        (EncryptedFragmentPayload(PayloadType.IDi, bytes.fromhex("00010002") + b"sealed"),),
        (scapy.IKEv2_Encrypted_Fragment(next_payload=35, frag_number=1, frag_total=2, load=b"sealed"),),
    ),
]


@pytest.mark.parametrize(
    ("exchange", "flags", "message_id", "payloads", "layers"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_scapy_builds_what_we_build(
    exchange: ExchangeType,
    flags: int,
    message_id: int,
    payloads: tuple[Payload, ...],
    layers: tuple[Packet, ...],
) -> None:
    message = Message(
        spi_i=SPI_I,
        spi_r=SPI_R,
        exchange=exchange,
        original_initiator=bool(flags & 0x08),
        response=bool(flags & 0x20),
        message_id=message_id,
        payloads=payloads,
    )
    header = scapy.IKEv2(
        init_SPI=SPI_I,
        resp_SPI=SPI_R,
        next_payload=payloads[0].payload_type,
        exch_type=exchange,
        flags=flags,
        id=message_id,
    )
    built = bytes(chained(header, *layers))
    assert decode_message(built) == message
    assert encode_message(message) == built


def test_scapy_reads_what_we_write() -> None:
    """Every payload of a message of ours appears in Scapy's dissection, with nothing left over."""
    for _, exchange, flags, message_id, payloads, _ in CASES:
        octets = encode_message(
            Message(
                spi_i=SPI_I,
                spi_r=SPI_R,
                exchange=exchange,
                original_initiator=bool(flags & 0x08),
                response=bool(flags & 0x20),
                message_id=message_id,
                payloads=payloads,
            )
        )
        dissected = scapy.IKEv2(octets)
        assert not dissected.haslayer(Raw)
        kinds = []
        kind, layer = dissected.next_payload, dissected.payload
        while layer:
            kinds.append(kind)
            kind, layer = layer.next_payload, layer.payload
        assert kinds == [payload.payload_type for payload in payloads]
