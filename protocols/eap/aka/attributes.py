"""EAP-AKA messages and attributes (RFC 4187 §8 to §11; AT_BIDDING of RFC 9048 §4).

Unknown skippable attributes survive a round trip; unknown non-skippable, duplicate, misplaced or
malformed ones raise ``DecodeError``. AT_MAC (§10.15) and AT_CHECKCODE (§10.13) are computed here over
the octets as they were on the wire. Left out: the attributes of EAP-AKA' (RFC 9048).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Self, TypeVar

from protocols.buffer import Reader
from protocols.eap.packet import EapCode, EapPacket, EapType, trimmed
from protocols.errors import DecodeError
from protocols.secret import Secret

_UNIT = 4  # attribute lengths count words of four octets
_MAXIMUM_ATTRIBUTE_LENGTH = 1020  # the largest multiple of 4 that the Length octet can name
_FIRST_SKIPPABLE = 128
MAC_LENGTH = 16
CHECKCODE_LENGTH = 20


class AttributeType(IntEnum):
    """Attribute types (RFC 4187 §11)."""

    AT_RAND = 1
    AT_AUTN = 2
    AT_RES = 3
    AT_AUTS = 4
    AT_PADDING = 6
    AT_PERMANENT_ID_REQ = 10
    AT_MAC = 11
    AT_NOTIFICATION = 12
    AT_ANY_ID_REQ = 13
    AT_IDENTITY = 14
    AT_FULLAUTH_ID_REQ = 17
    AT_COUNTER = 19
    AT_COUNTER_TOO_SMALL = 20
    AT_NONCE_S = 21
    AT_CLIENT_ERROR_CODE = 22
    AT_IV = 129
    AT_ENCR_DATA = 130
    AT_NEXT_PSEUDONYM = 132
    AT_NEXT_REAUTH_ID = 133
    AT_CHECKCODE = 134
    AT_RESULT_IND = 135
    AT_BIDDING = 136


class AkaSubtype(IntEnum):
    """Subtypes (RFC 4187 §11)."""

    CHALLENGE = 1
    AUTHENTICATION_REJECT = 2
    SYNCHRONIZATION_FAILURE = 4
    IDENTITY = 5
    NOTIFICATION = 12
    REAUTHENTICATION = 13
    CLIENT_ERROR = 14


class NotificationCode(IntEnum):
    """Values of AT_NOTIFICATION (RFC 4187 §10.19)."""

    GENERAL_FAILURE_AFTER_AUTHENTICATION = 0
    TEMPORARILY_DENIED = 1026
    NOT_SUBSCRIBED = 1031
    GENERAL_FAILURE = 16384
    SUCCESS = 32768


NOTIFICATION_TEXTS = {
    NotificationCode.GENERAL_FAILURE_AFTER_AUTHENTICATION: "general failure after authentication",
    NotificationCode.TEMPORARILY_DENIED: "the user is temporarily denied access to the requested service",
    NotificationCode.NOT_SUBSCRIBED: "the user has not subscribed to the requested service",
    NotificationCode.GENERAL_FAILURE: "general failure",
    NotificationCode.SUCCESS: "success",
}
NOTIFICATION_SUCCESS_BIT = 0x8000  # RFC 4187 §6.1: S, no failure implied
NOTIFICATION_PHASE_BIT = 0x4000  # RFC 4187 §6.1: P, used before the challenge round succeeded


class Attribute:
    """An attribute: its type, and its value field, which follows Type and Length."""

    type: ClassVar[AttributeType]

    @classmethod
    def decode_value(cls, reader: Reader) -> Self:
        """From the value field."""
        raise NotImplementedError

    def encode_value(self) -> bytes:
        """To the value field, padded so that the attribute is a multiple of four octets."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _Flag(Attribute):
    """Two reserved octets and nothing else."""

    @classmethod
    def decode_value(cls, reader: Reader) -> Self:
        reader.skip(2)
        reader.finish(cls.type.name)
        return cls()

    def encode_value(self) -> bytes:
        return bytes(2)


@dataclass(frozen=True, slots=True)
class _Number(Attribute):
    """One number of two octets."""

    value: int

    @classmethod
    def decode_value(cls, reader: Reader) -> Self:
        value = reader.u16()
        reader.finish(cls.type.name)
        return cls(value)

    def encode_value(self) -> bytes:
        return self.value.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class _Block(Attribute):
    """Two reserved octets, then 16 octets."""

    value: bytes

    @classmethod
    def decode_value(cls, reader: Reader) -> Self:
        reader.skip(2)
        value = reader.take(16)
        reader.finish(cls.type.name)
        return cls(value)

    def encode_value(self) -> bytes:
        return bytes(2) + self.value


@dataclass(frozen=True, slots=True)
class _Text(Attribute):
    """An actual length in octets, then a text, padded with zeros that nobody checks."""

    value: bytes

    @classmethod
    def decode_value(cls, reader: Reader) -> Self:
        value = reader.take(reader.u16())
        if len(reader.rest()) >= _UNIT:
            raise DecodeError(f"{cls.type.name} is longer than its actual length and padding")
        return cls(value)

    def encode_value(self) -> bytes:
        return len(self.value).to_bytes(2, "big") + self.value + bytes(-len(self.value) % _UNIT)


class AtPermanentIdReq(_Flag):
    """The permanent identity is asked for (§10.2)."""

    type = AttributeType.AT_PERMANENT_ID_REQ


class AtAnyIdReq(_Flag):
    """Any identity is asked for (§10.3)."""

    type = AttributeType.AT_ANY_ID_REQ


class AtFullauthIdReq(_Flag):
    """An identity for full authentication is asked for (§10.4)."""

    type = AttributeType.AT_FULLAUTH_ID_REQ


class AtIdentity(_Text):
    """The peer's identity (§10.5)."""

    type = AttributeType.AT_IDENTITY


class AtRand(_Block):
    """RAND (§10.6)."""

    type = AttributeType.AT_RAND


class AtAutn(_Block):
    """AUTN (§10.7)."""

    type = AttributeType.AT_AUTN


@dataclass(frozen=True, slots=True)
class AtRes(Attribute):
    """RES, of 32 to 128 bits (§10.8); ``bits`` counts them, the last octet's low bits are padding."""

    type: ClassVar[AttributeType] = AttributeType.AT_RES
    res: bytes
    bits: int

    @classmethod
    def of(cls, res: bytes) -> AtRes:
        """A RES of whole octets."""
        return cls(res, 8 * len(res))

    @classmethod
    def decode_value(cls, reader: Reader) -> Self:
        bits = reader.u16()
        if not 32 <= bits <= 128:
            raise DecodeError(f"AT_RES holds {bits} bits, not 32 to 128")
        res = reader.take((bits + 7) // 8)
        if len(reader.rest()) >= _UNIT:
            raise DecodeError("AT_RES is longer than its RES")
        return cls(res, bits)

    def encode_value(self) -> bytes:
        return self.bits.to_bytes(2, "big") + self.res + bytes(-len(self.res) % _UNIT)


@dataclass(frozen=True, slots=True)
class AtAuts(Attribute):
    """AUTS, 14 octets without reserved ones (§10.9)."""

    type: ClassVar[AttributeType] = AttributeType.AT_AUTS
    auts: bytes

    @classmethod
    def decode_value(cls, reader: Reader) -> Self:
        auts = reader.take(14)
        reader.finish("AT_AUTS")
        return cls(auts)

    def encode_value(self) -> bytes:
        return self.auts


class AtNextPseudonym(_Text):
    """The pseudonym for the next full authentication (§10.10)."""

    type = AttributeType.AT_NEXT_PSEUDONYM


class AtNextReauthId(_Text):
    """The identity for the next fast re-authentication (§10.11)."""

    type = AttributeType.AT_NEXT_REAUTH_ID


class AtIv(_Block):
    """The initialisation vector of AT_ENCR_DATA (§10.12)."""

    type = AttributeType.AT_IV


@dataclass(frozen=True, slots=True)
class AtEncrData(Attribute):
    """Encrypted nested attributes (§10.12)."""

    type: ClassVar[AttributeType] = AttributeType.AT_ENCR_DATA
    ciphertext: bytes

    @classmethod
    def decode_value(cls, reader: Reader) -> Self:
        reader.skip(2)
        return cls(reader.rest())

    def encode_value(self) -> bytes:
        return bytes(2) + self.ciphertext


@dataclass(frozen=True, slots=True)
class AtPadding(Attribute):
    """Padding of nested attributes: 4, 8 or 12 octets in all (§10.12)."""

    type: ClassVar[AttributeType] = AttributeType.AT_PADDING
    length: int

    @classmethod
    def decode_value(cls, reader: Reader) -> Self:
        padding = reader.rest()
        # §10.12: the recipient MUST verify that the pad bytes are zero.
        if any(padding) or len(padding) not in (2, 6, 10):
            raise DecodeError("AT_PADDING is not 2, 6 or 10 zeros")
        return cls(len(padding) + 2)

    def encode_value(self) -> bytes:
        return bytes(self.length - 2)


@dataclass(frozen=True, slots=True)
class AtCheckcode(Attribute):
    """The hash over the AKA-Identity rounds, empty when there were none (§10.13)."""

    type: ClassVar[AttributeType] = AttributeType.AT_CHECKCODE
    checkcode: bytes

    @classmethod
    def decode_value(cls, reader: Reader) -> Self:
        reader.skip(2)
        checkcode = reader.rest()
        if len(checkcode) not in (0, CHECKCODE_LENGTH):
            raise DecodeError(f"AT_CHECKCODE holds {len(checkcode)} octets, not 0 or {CHECKCODE_LENGTH}")
        return cls(checkcode)

    def encode_value(self) -> bytes:
        return bytes(2) + self.checkcode


class AtResultInd(_Flag):
    """Protected result indications are wanted (§10.14)."""

    type = AttributeType.AT_RESULT_IND


class AtMac(_Block):
    """HMAC-SHA1-128 over the packet (§10.15)."""

    type = AttributeType.AT_MAC


class AtCounter(_Number):
    """The counter of fast re-authentication (§10.16)."""

    type = AttributeType.AT_COUNTER


class AtCounterTooSmall(_Flag):
    """The peer does not accept the counter (§10.17)."""

    type = AttributeType.AT_COUNTER_TOO_SMALL


class AtNonceS(_Block):
    """The server's nonce of fast re-authentication (§10.18)."""

    type = AttributeType.AT_NONCE_S


class AtNotification(_Number):
    """A notification code (§10.19)."""

    type = AttributeType.AT_NOTIFICATION


class AtClientErrorCode(_Number):
    """A client error code; 0 is "unable to process packet" (§10.20)."""

    type = AttributeType.AT_CLIENT_ERROR_CODE


@dataclass(frozen=True, slots=True)
class AtBidding(Attribute):
    """Whether the server would rather use EAP-AKA' (RFC 9048 §4)."""

    type: ClassVar[AttributeType] = AttributeType.AT_BIDDING
    aka_prime_preferred: bool

    @classmethod
    def decode_value(cls, reader: Reader) -> Self:
        flags = reader.u16()
        reader.finish("AT_BIDDING")
        return cls(bool(flags & 0x8000))

    def encode_value(self) -> bytes:
        return (0x8000 if self.aka_prime_preferred else 0).to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class UnknownAttribute(Attribute):
    """A skippable attribute of an unknown type: its number and its value field."""

    number: int
    value: bytes

    def encode_value(self) -> bytes:
        return self.value


_CLASSES: dict[int, type[Attribute]] = {
    known.type: known
    for known in (
        AtRand,
        AtAutn,
        AtRes,
        AtAuts,
        AtPadding,
        AtPermanentIdReq,
        AtMac,
        AtNotification,
        AtAnyIdReq,
        AtIdentity,
        AtFullauthIdReq,
        AtCounter,
        AtCounterTooSmall,
        AtNonceS,
        AtClientErrorCode,
        AtIv,
        AtEncrData,
        AtNextPseudonym,
        AtNextReauthId,
        AtCheckcode,
        AtResultInd,
        AtBidding,
    )
}

IDENTITY_REQUESTS = (AtPermanentIdReq, AtAnyIdReq, AtFullauthIdReq)

# RFC 4187 §10.1: what may stand in which message. The columns "0*" count as allowed.
_ENCRYPTED = frozenset({AtIv, AtEncrData})
_ALLOWED: dict[tuple[EapCode, int], frozenset[type[Attribute]]] = {
    (EapCode.REQUEST, AkaSubtype.IDENTITY): frozenset(IDENTITY_REQUESTS),
    (EapCode.RESPONSE, AkaSubtype.IDENTITY): frozenset({AtIdentity}),
    (EapCode.REQUEST, AkaSubtype.CHALLENGE): frozenset({AtRand, AtAutn, AtCheckcode, AtResultInd, AtMac, AtBidding})
    | _ENCRYPTED,
    (EapCode.RESPONSE, AkaSubtype.CHALLENGE): frozenset({AtRes, AtCheckcode, AtResultInd, AtMac}) | _ENCRYPTED,
    (EapCode.REQUEST, AkaSubtype.NOTIFICATION): frozenset({AtNotification, AtMac}) | _ENCRYPTED,
    (EapCode.RESPONSE, AkaSubtype.NOTIFICATION): frozenset({AtMac}) | _ENCRYPTED,
    (EapCode.REQUEST, AkaSubtype.REAUTHENTICATION): frozenset({AtCheckcode, AtResultInd, AtMac}) | _ENCRYPTED,
    (EapCode.RESPONSE, AkaSubtype.REAUTHENTICATION): frozenset({AtCheckcode, AtResultInd, AtMac}) | _ENCRYPTED,
    (EapCode.RESPONSE, AkaSubtype.CLIENT_ERROR): frozenset({AtClientErrorCode}),
    (EapCode.RESPONSE, AkaSubtype.AUTHENTICATION_REJECT): frozenset(),
    (EapCode.RESPONSE, AkaSubtype.SYNCHRONIZATION_FAILURE): frozenset({AtAuts}),
}

AttributeT = TypeVar("AttributeT", bound=Attribute)


def decode_attributes(reader: Reader) -> tuple[Attribute, ...]:
    """Attributes to the end of the reader, also those nested in AT_ENCR_DATA (RFC 4187 §8.1)."""
    attributes: list[Attribute] = []
    seen: set[int] = set()
    while reader.remaining:
        number, units = reader.u8(), reader.u8()
        value = reader.sub(units * _UNIT - 2)
        known = _CLASSES.get(number)
        if known is None:
            # §8.1: non-skippable attributes that are not recognised end the exchange.
            if number < _FIRST_SKIPPABLE:
                raise DecodeError(f"attribute {number} is not known and must not be skipped")
            attributes.append(UnknownAttribute(number, value.rest()))
            continue
        if number in seen:
            raise DecodeError(f"{known.type.name} stands twice in one message")
        seen.add(number)
        attributes.append(known.decode_value(value))
    return tuple(attributes)


def encode_attributes(attributes: Iterable[Attribute]) -> bytes:
    """Type, Length in words, value field, one attribute after the other (RFC 4187 §8.1)."""
    octets = b""
    for attribute in attributes:
        value = attribute.encode_value()
        number = attribute.number if isinstance(attribute, UnknownAttribute) else attribute.type
        length = 2 + len(value)
        if length % _UNIT or length > _MAXIMUM_ATTRIBUTE_LENGTH:
            raise ValueError(f"attribute {number} of {length} octets cannot be written")
        octets += bytes([number, length // _UNIT]) + value
    return octets


@dataclass(frozen=True, slots=True, kw_only=True)
class AkaMessage:
    """One EAP-AKA Request or Response (RFC 4187 §8.1); ``subtype`` may be an unknown number."""

    code: EapCode
    identifier: int
    subtype: int
    attributes: tuple[Attribute, ...] = ()

    @classmethod
    def decode(cls, octets: bytes) -> AkaMessage:
        """From a whole EAP packet."""
        return cls.from_packet(EapPacket.decode(octets))

    @classmethod
    def from_packet(cls, packet: EapPacket) -> AkaMessage:
        """From an EAP packet of type AKA; attributes out of place raise ``DecodeError`` (§10.1)."""
        if packet.type != EapType.AKA:
            raise DecodeError(f"EAP type {packet.type} is not EAP-AKA")
        reader = Reader(packet.data)
        subtype = reader.u8()
        reader.skip(2)
        attributes = decode_attributes(reader)
        allowed = _ALLOWED.get((packet.code, subtype))
        for attribute in attributes:
            if allowed is None or isinstance(attribute, UnknownAttribute):
                continue
            if type(attribute) not in allowed:
                raise DecodeError(f"{attribute.type.name} must not stand in {_name(packet.code, subtype)}")
        present = {type(attribute) for attribute in attributes}
        # §10.1: AT_IV if and only if AT_ENCR_DATA.
        if len(present & _ENCRYPTED) == 1:
            raise DecodeError("AT_IV and AT_ENCR_DATA stand together or not at all")
        return cls(code=packet.code, identifier=packet.identifier, subtype=subtype, attributes=attributes)

    def encode(self) -> bytes:
        """To a whole EAP packet; an AT_MAC is written as it stands."""
        data = bytes([self.subtype, 0, 0]) + encode_attributes(self.attributes)
        packet = EapPacket(code=self.code, identifier=self.identifier, type=EapType.AKA, data=data)
        return packet.encode()

    def get(self, kind: type[AttributeT]) -> AttributeT | None:
        """The attribute of this class, ``None`` when it is absent."""
        for attribute in self.attributes:
            if isinstance(attribute, kind):
                return attribute
        return None

    def require(self, kind: type[AttributeT]) -> AttributeT:
        """The attribute of this class; ``DecodeError`` when it is absent."""
        found = self.get(kind)
        if found is None:
            raise DecodeError(f"{kind.type.name} is missing from {self.name}")
        return found

    @property
    def name(self) -> str:
        """Such as ``EAP-Request/AKA-Challenge``."""
        return _name(self.code, self.subtype)

    def summary(self) -> str:
        """Name and attributes, such as ``EAP-Request/AKA-Challenge [ AT_RAND, AT_AUTN, AT_MAC ]``."""
        names = [f"AT_{a.number}" if isinstance(a, UnknownAttribute) else a.type.name for a in self.attributes]
        return f"{self.name} [ {', '.join(names)} ]" if names else self.name


def _name(code: EapCode, subtype: int) -> str:
    """A message's name in the RFC's spelling."""
    try:
        word = "-".join(part.capitalize() for part in AkaSubtype(subtype).name.split("_"))
    except ValueError:
        word = f"subtype-{subtype}"
    return f"EAP-{code.name.capitalize()}/AKA-{word}"


def encode_with_mac(message: AkaMessage, k_aut: Secret, extra: bytes = b"") -> bytes:
    """The packet with AT_MAC added as its last attribute (RFC 4187 §10.15).

    ``extra`` is the message-specific data that the MAC covers behind the packet.
    """
    blank = AkaMessage(
        code=message.code,
        identifier=message.identifier,
        subtype=message.subtype,
        attributes=(*message.attributes, AtMac(bytes(MAC_LENGTH))),
    ).encode()
    return blank[:-MAC_LENGTH] + _mac(blank, k_aut, extra)


def mac_verifies(octets: bytes, k_aut: Secret, extra: bytes = b"") -> bool:
    """Whether the packet has an AT_MAC and it is right, over the octets as received (RFC 4187 §10.15)."""
    octets = trimmed(octets)
    at = _mac_offset(octets)
    if at is None:
        return False
    blank = octets[:at] + bytes(MAC_LENGTH) + octets[at + MAC_LENGTH :]
    return hmac.compare_digest(_mac(blank, k_aut, extra), octets[at : at + MAC_LENGTH])


def _mac(octets: bytes, k_aut: Secret, extra: bytes) -> bytes:
    """HMAC-SHA1-128: HMAC-SHA1 truncated to 16 octets."""
    return hmac.digest(k_aut.reveal(), octets + extra, hashlib.sha1)[:MAC_LENGTH]


def _mac_offset(octets: bytes) -> int | None:
    """Where the 16 octets of the MAC begin."""
    reader = Reader(octets)
    reader.skip(8)
    while reader.remaining:
        number, units = reader.u8(), reader.u8()
        value = reader.offset
        reader.skip(units * _UNIT - 2)
        if number == AttributeType.AT_MAC and units * _UNIT == 4 + MAC_LENGTH:
            return value + 2
    return None


def checkcode(packets: Iterable[bytes]) -> bytes:
    """SHA-1 over the AKA-Identity packets as they were on the wire, nothing for none (RFC 4187 §10.13)."""
    octets = b"".join(packets)
    return hashlib.sha1(octets, usedforsecurity=False).digest() if octets else b""
