"""IKEv2 payloads (RFC 7296 §3.2–3.16, §2.5): one frozen value per payload, and chains of them.

Encrypted payloads (SK, and SKF of RFC 7383) appear here as their ciphertext; the sealer opens them.
Payloads of types that are not decoded survive as ``UnknownPayload``, unless they are critical.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import ClassVar, Final

from protocols.buffer import Reader
from protocols.errors import DecodeError, NegotiationError
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
    Registry,
    TrafficSelectorType,
    TransformType,
)
from protocols.selectors import TrafficSelector

GENERIC_HEADER_LENGTH: Final = 4
CRITICAL: Final = 0x80
MORE_PROPOSALS: Final = 2
MORE_TRANSFORMS: Final = 3
ATTRIBUTE_FORMAT: Final = 0x8000
KEY_LENGTH: Final = 14
# Fixed parts, which the reader has checked to be there; ``x`` is a reserved octet.
_GENERIC: Final = Struct("!BBH")
_SUBSTRUCTURE: Final = Struct("!BxH")
_PROPOSAL: Final = Struct("!BBBB")
_TRANSFORM: Final = Struct("!BxH")
_KEY_EXCHANGE: Final = Struct("!Hxx")
_NOTIFY: Final = Struct("!BBH")
_SELECTOR: Final = Struct("!BBH")
_SELECTOR_IPV4: Final = Struct("!HH4s4s")
_SELECTOR_IPV6: Final = Struct("!HH16s16s")
_ATTRIBUTE: Final = Struct("!HH")
MINIMUM_NONCE_LENGTH: Final = 16
MAXIMUM_NONCE_LENGTH: Final = 256

_TRANSFORM_IDS: dict[int, type[Registry]] = {
    TransformType.ENCR: EncryptionId,
    TransformType.PRF: PrfId,
    TransformType.INTEG: IntegrityId,
    TransformType.KE: KeGroup,
    TransformType.ESN: EsnId,
    TransformType.ADDKE1: KeGroup,
    TransformType.ADDKE2: KeGroup,
    TransformType.ADDKE3: KeGroup,
    TransformType.ADDKE4: KeGroup,
    TransformType.ADDKE5: KeGroup,
    TransformType.ADDKE6: KeGroup,
    TransformType.ADDKE7: KeGroup,
}


@dataclass(frozen=True)
class Transform:
    """A transform substructure (RFC 7296 §3.3.2).

    ``unknown_attributes`` are (type with its format bit, value) pairs: with any of them a transform must
    not be selected (§3.3.6).
    """

    type: TransformType
    id: int
    key_length_bits: int | None = None
    _: KW_ONLY
    unknown_attributes: tuple[tuple[int, bytes], ...] = ()

    @property
    def is_key_exchange(self) -> bool:
        """Whether it names a key exchange group (RFC 7296 §3.3.2)."""
        return self.type == TransformType.KE

    @classmethod
    def decode(cls, body: Reader) -> Transform:
        """The octets after the substructure's length."""
        kind_value, number = _TRANSFORM.unpack(body.take(4))
        kind = TransformType.of(kind_value)
        registry = _TRANSFORM_IDS.get(kind)
        key_length_bits = None
        unknown: list[tuple[int, bytes]] = []
        while body.remaining:
            attribute = body.u16()
            value = body.take(2) if attribute & ATTRIBUTE_FORMAT else body.take(body.u16())
            if attribute == KEY_LENGTH | ATTRIBUTE_FORMAT and key_length_bits is None:
                key_length_bits = int.from_bytes(value, "big")
            else:
                unknown.append((attribute, value))
        return cls(
            kind,
            number if registry is None else registry.of(number),
            key_length_bits,
            unknown_attributes=tuple(unknown),
        )

    def encode(self, more: bool) -> bytes:
        """The whole substructure; ``more`` says that it is not the proposal's last."""
        attributes = b""
        if self.key_length_bits is not None:
            attributes = (KEY_LENGTH | ATTRIBUTE_FORMAT).to_bytes(2, "big") + self.key_length_bits.to_bytes(2, "big")
        for attribute, value in self.unknown_attributes:
            attributes += attribute.to_bytes(2, "big")
            if not attribute & ATTRIBUTE_FORMAT:
                attributes += len(value).to_bytes(2, "big")
            attributes += value
        return (
            bytes((MORE_TRANSFORMS if more else 0, 0))
            + (8 + len(attributes)).to_bytes(2, "big")
            + bytes((self.type, 0))
            + self.id.to_bytes(2, "big")
            + attributes
        )


@lru_cache(maxsize=1024)
def _decode_transform(octets: bytes) -> Transform:
    """Transforms are the same few in every exchange, and values: each is decoded once."""
    return Transform.decode(Reader(octets))


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A proposal substructure (RFC 7296 §3.3.1); ``spi`` is empty for an initial IKE SA."""

    number: int
    protocol: ProtocolId
    spi: bytes = b""
    transforms: tuple[Transform, ...]

    @classmethod
    def decode(cls, body: Reader) -> Proposal:
        """The octets after the substructure's length."""
        number, protocol, spi_length, count = _PROPOSAL.unpack(body.take(4))
        spi = body.take(spi_length)
        transforms: list[Transform] = []
        for left in range(count - 1, -1, -1):
            mark, length = _SUBSTRUCTURE.unpack(body.take(4))
            _more(mark, MORE_TRANSFORMS, left > 0)
            transforms.append(_decode_transform(body.take(length - GENERIC_HEADER_LENGTH)))
        body.finish("the last transform")
        return cls(number=number, protocol=ProtocolId.of(protocol), spi=spi, transforms=tuple(transforms))

    def encode(self, more: bool) -> bytes:
        """The whole substructure; ``more`` says that it is not the payload's last."""
        last = len(self.transforms) - 1
        body = b"".join([transform.encode(index < last) for index, transform in enumerate(self.transforms)])
        return (
            bytes((MORE_PROPOSALS if more else 0, 0))
            + (8 + len(self.spi) + len(body)).to_bytes(2, "big")
            + bytes((self.number, self.protocol, len(self.spi), len(self.transforms)))
            + self.spi
            + body
        )

    def of_type(self, kind: TransformType) -> tuple[Transform, ...]:
        """The transforms of one type, in order of preference."""
        return tuple([transform for transform in self.transforms if transform.type == kind])


def _more(value: int, expected: int, more: bool) -> None:
    """The "Last Substruc" octet (§3.3.1, §3.3.2) has to agree with what follows."""
    if value != (expected if more else 0):
        raise DecodeError(f"a substructure marked {value} where {expected if more else 0} belongs")


@dataclass(frozen=True)
class SaPayload:
    """Security Association payload (RFC 7296 §3.3)."""

    payload_type: ClassVar = PayloadType.SA

    proposals: tuple[Proposal, ...]

    @classmethod
    def decode(cls, body: Reader) -> SaPayload:
        """The octets after the generic header."""
        proposals: list[Proposal] = []
        while body.remaining:
            mark, length = _SUBSTRUCTURE.unpack(body.take(4))
            inside = body.sub(length - GENERIC_HEADER_LENGTH)
            _more(mark, MORE_PROPOSALS, body.remaining > 0)
            proposals.append(Proposal.decode(inside))
        if not proposals:
            raise DecodeError("a security association without proposals")
        return cls(tuple(proposals))

    def encode(self) -> bytes:
        """The octets after the generic header."""
        last = len(self.proposals) - 1
        return b"".join([proposal.encode(index < last) for index, proposal in enumerate(self.proposals)])

    def single(self) -> Proposal:
        """The one proposal of a response (RFC 7296 §2.7: MUST choose a single suite)."""
        if len(self.proposals) != 1:
            raise NegotiationError(
                f"the responder answered with {len(self.proposals)} proposals", NotifyType.NO_PROPOSAL_CHOSEN
            )
        return self.proposals[0]


@dataclass(frozen=True)
class KePayload:
    """Key Exchange payload (RFC 7296 §3.4)."""

    payload_type: ClassVar = PayloadType.KE

    group: KeGroup
    data: bytes

    @classmethod
    def decode(cls, body: Reader) -> KePayload:
        """The octets after the generic header."""
        (group,) = _KEY_EXCHANGE.unpack(body.take(4))
        return cls(KeGroup.of(group), body.rest())

    def encode(self) -> bytes:
        """The octets after the generic header."""
        return self.group.to_bytes(2, "big") + b"\0\0" + self.data


@dataclass(frozen=True)
class IdiPayload:
    """Identification of the initiator (RFC 7296 §3.5)."""

    payload_type: ClassVar = PayloadType.IDi

    id_type: IdType
    data: bytes

    @classmethod
    def decode(cls, body: Reader) -> IdiPayload:
        """The octets after the generic header."""
        id_type = IdType.of(body.u8())
        body.skip(3)
        return cls(id_type, body.rest())

    def encode(self) -> bytes:
        """The octets after the generic header: RestOfInitIDPayload (RFC 7296 §2.15)."""
        return bytes((self.id_type, 0, 0, 0)) + self.data


@dataclass(frozen=True)
class IdrPayload:
    """Identification of the responder (RFC 7296 §3.5)."""

    payload_type: ClassVar = PayloadType.IDr

    id_type: IdType
    data: bytes

    @classmethod
    def decode(cls, body: Reader) -> IdrPayload:
        """The octets after the generic header."""
        id_type = IdType.of(body.u8())
        body.skip(3)
        return cls(id_type, body.rest())

    def encode(self) -> bytes:
        """The octets after the generic header: RestOfRespIDPayload (RFC 7296 §2.15)."""
        return bytes((self.id_type, 0, 0, 0)) + self.data


@dataclass(frozen=True)
class CertPayload:
    """Certificate payload (RFC 7296 §3.6)."""

    payload_type: ClassVar = PayloadType.CERT

    encoding: CertEncoding
    data: bytes

    @classmethod
    def decode(cls, body: Reader) -> CertPayload:
        """The octets after the generic header."""
        return cls(CertEncoding.of(body.u8()), body.rest())

    def encode(self) -> bytes:
        """The octets after the generic header."""
        return bytes((self.encoding,)) + self.data


@dataclass(frozen=True)
class CertreqPayload:
    """Certificate Request payload (RFC 7296 §3.7); ``authorities`` are SHA-1 hashes one after another."""

    payload_type: ClassVar = PayloadType.CERTREQ

    encoding: CertEncoding
    authorities: bytes = b""

    @classmethod
    def decode(cls, body: Reader) -> CertreqPayload:
        """The octets after the generic header."""
        return cls(CertEncoding.of(body.u8()), body.rest())

    def encode(self) -> bytes:
        """The octets after the generic header."""
        return bytes((self.encoding,)) + self.authorities


@dataclass(frozen=True)
class AuthPayload:
    """Authentication payload (RFC 7296 §3.8)."""

    payload_type: ClassVar = PayloadType.AUTH

    method: AuthMethod
    data: bytes

    @classmethod
    def decode(cls, body: Reader) -> AuthPayload:
        """The octets after the generic header."""
        method = AuthMethod.of(body.u8())
        body.skip(3)
        return cls(method, body.rest())

    def encode(self) -> bytes:
        """The octets after the generic header."""
        return bytes((self.method, 0, 0, 0)) + self.data


@dataclass(frozen=True)
class NoncePayload:
    """Nonce payload (RFC 7296 §3.9)."""

    payload_type: ClassVar = PayloadType.NONCE

    data: bytes

    @classmethod
    def decode(cls, body: Reader) -> NoncePayload:
        """The octets after the generic header."""
        # RFC 7296 §3.9: the size of the Nonce Data MUST be between 16 and 256 octets, inclusive.
        if not MINIMUM_NONCE_LENGTH <= body.remaining <= MAXIMUM_NONCE_LENGTH:
            raise DecodeError(f"a nonce of {body.remaining} octets")
        return cls(body.rest())

    def encode(self) -> bytes:
        """The octets after the generic header."""
        return self.data


@dataclass(frozen=True)
class NotifyPayload:
    """Notify payload (RFC 7296 §3.10); ``protocol`` and ``spi`` where it concerns an SA."""

    payload_type: ClassVar = PayloadType.N

    type: NotifyType
    data: bytes = b""
    _: KW_ONLY
    protocol: ProtocolId = ProtocolId.NONE
    spi: bytes = b""

    @classmethod
    def decode(cls, body: Reader) -> NotifyPayload:
        """The octets after the generic header."""
        protocol, spi_length, kind = _NOTIFY.unpack(body.take(4))
        spi = body.take(spi_length)
        return cls(NotifyType.of(kind), body.rest(), protocol=ProtocolId.of(protocol), spi=spi)

    def encode(self) -> bytes:
        """The octets after the generic header."""
        return bytes((self.protocol, len(self.spi))) + self.type.to_bytes(2, "big") + self.spi + self.data


@dataclass(frozen=True)
class DeletePayload:
    """Delete payload (RFC 7296 §3.11); ``spis`` is empty when the IKE SA itself is deleted."""

    payload_type: ClassVar = PayloadType.D

    protocol: ProtocolId
    spis: tuple[bytes, ...] = ()

    @classmethod
    def decode(cls, body: Reader) -> DeletePayload:
        """The octets after the generic header."""
        protocol, spi_length, count = _NOTIFY.unpack(body.take(4))
        if count and not spi_length:
            raise DecodeError(f"{count} SPIs of no octets to delete")
        spis = tuple([body.take(spi_length) for _ in range(count)])
        body.finish("the last SPI")
        return cls(ProtocolId.of(protocol), spis)

    def encode(self) -> bytes:
        """The octets after the generic header; all SPIs have one length."""
        spi_length = len(self.spis[0]) if self.spis else (0 if self.protocol == ProtocolId.IKE else 4)
        return bytes((self.protocol, spi_length)) + len(self.spis).to_bytes(2, "big") + b"".join(self.spis)


@dataclass(frozen=True)
class VendorIdPayload:
    """Vendor ID payload (RFC 7296 §3.12)."""

    payload_type: ClassVar = PayloadType.V

    data: bytes

    @classmethod
    def decode(cls, body: Reader) -> VendorIdPayload:
        """The octets after the generic header."""
        return cls(body.rest())

    def encode(self) -> bytes:
        """The octets after the generic header."""
        return self.data


def _decode_selectors(body: Reader) -> tuple[tuple[TrafficSelector, ...], tuple[bytes, ...]]:
    """Selectors of the two address types, and the others as octets (RFC 7296 §3.13.1)."""
    count = body.u8()
    body.skip(3)
    selectors: list[TrafficSelector] = []
    unknown: list[bytes] = []
    for _ in range(count):
        kind, protocol, length = _SELECTOR.unpack(body.take(4))
        inside = body.sub(length - GENERIC_HEADER_LENGTH)
        if kind == TrafficSelectorType.TS_IPV4_ADDR_RANGE:
            start_port, end_port, start, end = _SELECTOR_IPV4.unpack(inside.take(12))
            selector = TrafficSelector(
                start=IPv4Address(start),
                end=IPv4Address(end),
                protocol=protocol,
                start_port=start_port,
                end_port=end_port,
            )
        elif kind == TrafficSelectorType.TS_IPV6_ADDR_RANGE:
            start_port, end_port, start, end = _SELECTOR_IPV6.unpack(inside.take(36))
            selector = TrafficSelector(
                start=IPv6Address(start),
                end=IPv6Address(end),
                protocol=protocol,
                start_port=start_port,
                end_port=end_port,
            )
        else:
            unknown.append(bytes((kind, protocol)) + length.to_bytes(2, "big") + inside.rest())
            continue
        inside.finish("a traffic selector")
        if int(selector.start) > int(selector.end):
            raise DecodeError(f"a traffic selector from {selector.start} back to {selector.end}")
        selectors.append(selector)
    body.finish("the last traffic selector")
    return tuple(selectors), tuple(unknown)


def _encode_selectors(selectors: tuple[TrafficSelector, ...], unknown: tuple[bytes, ...]) -> bytes:
    parts = [bytes((len(selectors) + len(unknown), 0, 0, 0))]
    for selector in selectors:
        if selector.version == 4:
            kind, length = TrafficSelectorType.TS_IPV4_ADDR_RANGE, 16
        else:
            kind, length = TrafficSelectorType.TS_IPV6_ADDR_RANGE, 40
        parts.append(
            bytes((kind, selector.protocol, 0, length))
            + selector.start_port.to_bytes(2, "big")
            + selector.end_port.to_bytes(2, "big")
            + selector.start.packed
            + selector.end.packed
        )
    parts.extend(unknown)
    return b"".join(parts)


@dataclass(frozen=True)
class TsiPayload:
    """Traffic Selectors of the initiator (RFC 7296 §3.13); ``unknown`` are selectors of other types."""

    payload_type: ClassVar = PayloadType.TSi

    selectors: tuple[TrafficSelector, ...]
    unknown: tuple[bytes, ...] = ()

    @classmethod
    def decode(cls, body: Reader) -> TsiPayload:
        """The octets after the generic header."""
        selectors, unknown = _decode_selectors(body)
        return cls(selectors, unknown)

    def encode(self) -> bytes:
        """The octets after the generic header."""
        return _encode_selectors(self.selectors, self.unknown)


@dataclass(frozen=True)
class TsrPayload:
    """Traffic Selectors of the responder (RFC 7296 §3.13); ``unknown`` are selectors of other types."""

    payload_type: ClassVar = PayloadType.TSr

    selectors: tuple[TrafficSelector, ...]
    unknown: tuple[bytes, ...] = ()

    @classmethod
    def decode(cls, body: Reader) -> TsrPayload:
        """The octets after the generic header."""
        selectors, unknown = _decode_selectors(body)
        return cls(selectors, unknown)

    def encode(self) -> bytes:
        """The octets after the generic header."""
        return _encode_selectors(self.selectors, self.unknown)


@dataclass(frozen=True)
class EncryptedPayload:
    """Encrypted payload (RFC 7296 §3.14) unopened: type of its first payload, then IV to ICV."""

    payload_type: ClassVar = PayloadType.SK

    first_type: PayloadType
    data: bytes

    def encode(self) -> bytes:
        """The octets after the generic header."""
        return self.data


@dataclass(frozen=True)
class EncryptedFragmentPayload:
    """Encrypted Fragment payload (RFC 7383 §2.5) unopened; ``data`` begins with the fragment number."""

    payload_type: ClassVar = PayloadType.SKF

    first_type: PayloadType
    data: bytes

    def encode(self) -> bytes:
        """The octets after the generic header."""
        return self.data


@dataclass(frozen=True)
class ConfigurationAttribute:
    """A configuration attribute (RFC 7296 §3.15.1)."""

    type: ConfigAttributeType
    value: bytes = b""

    def encode(self) -> bytes:
        """The whole attribute."""
        return self.type.to_bytes(2, "big") + len(self.value).to_bytes(2, "big") + self.value


@dataclass(frozen=True)
class ConfigurationPayload:
    """Configuration payload (RFC 7296 §3.15)."""

    payload_type: ClassVar = PayloadType.CP

    type: ConfigType
    attributes: tuple[ConfigurationAttribute, ...] = ()

    @classmethod
    def decode(cls, body: Reader) -> ConfigurationPayload:
        """The octets after the generic header; the attributes' reserved bit is ignored."""
        kind = ConfigType.of(body.u8())
        body.skip(3)
        attributes: list[ConfigurationAttribute] = []
        while body.remaining:
            attribute, length = _ATTRIBUTE.unpack(body.take(4))
            attributes.append(ConfigurationAttribute(ConfigAttributeType.of(attribute & 0x7FFF), body.take(length)))
        return cls(kind, tuple(attributes))

    def encode(self) -> bytes:
        """The octets after the generic header."""
        return bytes((self.type, 0, 0, 0)) + b"".join([attribute.encode() for attribute in self.attributes])

    def values(self, kind: ConfigAttributeType) -> tuple[bytes, ...]:
        """The values of every attribute of one type, in order."""
        return tuple([attribute.value for attribute in self.attributes if attribute.type == kind])


@dataclass(frozen=True)
class EapPayload:
    """EAP payload (RFC 7296 §3.16): an EAP packet as it is."""

    payload_type: ClassVar = PayloadType.EAP

    packet: bytes

    @classmethod
    def decode(cls, body: Reader) -> EapPayload:
        """The octets after the generic header."""
        return cls(body.rest())

    def encode(self) -> bytes:
        """The octets after the generic header."""
        return self.packet


@dataclass(frozen=True)
class UnknownPayload:
    """A payload of a type that is not decoded here (RFC 7296 §2.5)."""

    type: PayloadType
    critical: bool
    data: bytes

    @property
    def payload_type(self) -> PayloadType:
        """Its type, as other payloads have it."""
        return self.type

    def encode(self) -> bytes:
        """The octets after the generic header."""
        return self.data


Payload = (
    SaPayload
    | KePayload
    | IdiPayload
    | IdrPayload
    | CertPayload
    | CertreqPayload
    | AuthPayload
    | NoncePayload
    | NotifyPayload
    | DeletePayload
    | VendorIdPayload
    | TsiPayload
    | TsrPayload
    | EncryptedPayload
    | EncryptedFragmentPayload
    | ConfigurationPayload
    | EapPayload
    | UnknownPayload
)

_DECODERS: dict[int, Callable[[Reader], Payload]] = {
    int(PayloadType.SA): SaPayload.decode,
    int(PayloadType.KE): KePayload.decode,
    int(PayloadType.IDi): IdiPayload.decode,
    int(PayloadType.IDr): IdrPayload.decode,
    int(PayloadType.CERT): CertPayload.decode,
    int(PayloadType.CERTREQ): CertreqPayload.decode,
    int(PayloadType.AUTH): AuthPayload.decode,
    int(PayloadType.NONCE): NoncePayload.decode,
    int(PayloadType.N): NotifyPayload.decode,
    int(PayloadType.D): DeletePayload.decode,
    int(PayloadType.V): VendorIdPayload.decode,
    int(PayloadType.TSi): TsiPayload.decode,
    int(PayloadType.TSr): TsrPayload.decode,
    int(PayloadType.CP): ConfigurationPayload.decode,
    int(PayloadType.EAP): EapPayload.decode,
}


def decode_payloads(first_type: int, data: bytes) -> tuple[Payload, ...]:
    """A chain of payloads (RFC 7296 §3.2); ``DecodeError`` carries the Notify that answers it."""
    try:
        return _decode_chain(first_type, Reader(data))
    except DecodeError as error:
        if error.notify_type is None:
            error.notify_type = NotifyType.INVALID_SYNTAX
        raise


def _decode_chain(kind: int, reader: Reader) -> tuple[Payload, ...]:
    payloads: list[Payload] = []
    while kind:
        following, flags, length = _GENERIC.unpack(reader.take(4))
        body = reader.sub(length - GENERIC_HEADER_LENGTH)
        decode = _DECODERS.get(kind)
        if decode is not None:
            # RFC 7296 §3.2: the critical bit MUST be ignored for the types that this document defines.
            payloads.append(decode(body))
        elif kind in (PayloadType.SK, PayloadType.SKF):
            # RFC 7296 §3.14: it MUST be the last payload, and its next-payload field names the first inside.
            reader.finish("the encrypted payload")
            first = PayloadType.of(following)
            if kind == PayloadType.SK:
                payloads.append(EncryptedPayload(first, body.rest()))
            else:
                payloads.append(EncryptedFragmentPayload(first, body.rest()))
            return tuple(payloads)
        elif flags & CRITICAL:
            # RFC 7296 §2.5: MUST be rejected, the Notify naming the type in one octet.
            raise DecodeError(
                f"critical payload of unsupported type {kind}",
                NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD,
                bytes((kind,)),
            )
        else:
            payloads.append(UnknownPayload(PayloadType.of(kind), False, body.rest()))
        kind = following
    reader.finish("the last payload")
    return tuple(payloads)


def encode_payloads(payloads: tuple[Payload, ...]) -> tuple[PayloadType, bytes]:
    """The type of the first payload and the chain (RFC 7296 §3.2); an encrypted payload has to be last."""
    following = PayloadType.NONE
    parts: list[bytes] = []
    for payload in reversed(payloads):
        body = payload.encode()
        flags = 0
        if isinstance(payload, UnknownPayload):
            flags = CRITICAL if payload.critical else 0
        elif isinstance(payload, (EncryptedPayload, EncryptedFragmentPayload)):
            following = payload.first_type
        parts.append(bytes((following, flags)) + (GENERIC_HEADER_LENGTH + len(body)).to_bytes(2, "big") + body)
        following = payload.payload_type
    parts.reverse()
    return following, b"".join(parts)
