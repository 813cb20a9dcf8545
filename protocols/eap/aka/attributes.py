"""Attributes of EAP-AKA (RFC 4187 §8.1, §10, §11) and EAP-AKA' (RFC 9048 §3.1, §3.2, §3.4, §4).

Unknown skippable attributes survive a round trip; unknown non-skippable, duplicate or malformed ones
raise ``DecodeError``. AT_KDF alone may stand several times, and its order counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Self

from protocols.buffer import Reader
from protocols.eap.packet import EapType
from protocols.errors import DecodeError

UNIT = 4  # attribute lengths count words of four octets
MAC_LENGTH = 16
CHECKCODE_LENGTHS = {EapType.AKA: 20, EapType.AKA_PRIME: 32}  # RFC 4187 §10.13, RFC 9048 §3.4.3
KDF_CK_IK_PRIME = 1  # RFC 9048 §3.2: the default key derivation, from CK' and IK'
_MAXIMUM_ATTRIBUTE_LENGTH = 1020  # the largest multiple of 4 that the Length octet can name
_FIRST_SKIPPABLE = 128


class AttributeType(IntEnum):
    """Attribute types (RFC 4187 §11, RFC 9048 §8.2)."""

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
    AT_KDF_INPUT = 23
    AT_KDF = 24
    AT_IV = 129
    AT_ENCR_DATA = 130
    AT_NEXT_PSEUDONYM = 132
    AT_NEXT_REAUTH_ID = 133
    AT_CHECKCODE = 134
    AT_RESULT_IND = 135
    AT_BIDDING = 136


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
        if len(reader.rest()) >= UNIT:
            raise DecodeError(f"{cls.type.name} is longer than its actual length and padding")
        return cls(value)

    def encode_value(self) -> bytes:
        return len(self.value).to_bytes(2, "big") + self.value + bytes(-len(self.value) % UNIT)


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
        if len(reader.rest()) >= UNIT:
            raise DecodeError("AT_RES is longer than its RES")
        return cls(res, bits)

    def encode_value(self) -> bytes:
        return self.bits.to_bytes(2, "big") + self.res + bytes(-len(self.res) % UNIT)


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
    """The hash over the AKA-Identity rounds, empty when there were none (§10.13; RFC 9048 §3.4.3)."""

    type: ClassVar[AttributeType] = AttributeType.AT_CHECKCODE
    checkcode: bytes

    @classmethod
    def decode_value(cls, reader: Reader) -> Self:
        reader.skip(2)
        checkcode = reader.rest()
        if checkcode and len(checkcode) not in CHECKCODE_LENGTHS.values():
            raise DecodeError(f"AT_CHECKCODE holds {len(checkcode)} octets, which is no hash's length")
        return cls(checkcode)

    def encode_value(self) -> bytes:
        return bytes(2) + self.checkcode


class AtResultInd(_Flag):
    """Protected result indications are wanted (§10.14)."""

    type = AttributeType.AT_RESULT_IND


class AtMac(_Block):
    """HMAC-SHA1-128 over the packet, HMAC-SHA-256-128 in EAP-AKA' (§10.15; RFC 9048 §3.4.2)."""

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


class AtKdfInput(_Text):
    """The network name, UTF-8 without terminator (RFC 9048 §3.1)."""

    type = AttributeType.AT_KDF_INPUT


class AtKdf(_Number):
    """A key derivation function that is offered or chosen (RFC 9048 §3.2)."""

    type = AttributeType.AT_KDF


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
        AtKdfInput,
        AtKdf,
    )
}
# RFC 9048 §3.5, §4.1: what one of the two methods does not define, so that there it is an unknown attribute.
_UNDEFINED: dict[EapType, frozenset[int]] = {
    EapType.AKA: frozenset({AttributeType.AT_KDF_INPUT, AttributeType.AT_KDF}),
    EapType.AKA_PRIME: frozenset({AttributeType.AT_BIDDING}),
}


def decode_attributes(reader: Reader, method: EapType = EapType.AKA) -> tuple[Attribute, ...]:
    """Attributes to the end of the reader, also those nested in AT_ENCR_DATA (RFC 4187 §8.1)."""
    attributes: list[Attribute] = []
    seen: set[int] = set()
    while reader.remaining:
        number, units = reader.u8(), reader.u8()
        value = reader.sub(units * UNIT - 2)
        known = None if number in _UNDEFINED[method] else _CLASSES.get(number)
        if known is None:
            # §8.1: non-skippable attributes that are not recognised end the exchange.
            if number < _FIRST_SKIPPABLE:
                raise DecodeError(f"attribute {number} is not known and must not be skipped")
            attributes.append(UnknownAttribute(number, value.rest()))
            continue
        if number in seen and known is not AtKdf:
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
        if length % UNIT or length > _MAXIMUM_ATTRIBUTE_LENGTH:
            raise ValueError(f"attribute {number} of {length} octets cannot be written")
        octets += bytes([number, length // UNIT]) + value
    return octets
