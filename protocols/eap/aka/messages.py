"""Messages of EAP-AKA and EAP-AKA' (RFC 4187 §8.1, §9, §10.1; RFC 9048 §3.5).

Which attribute may stand in which message is checked here, and which may be nested in its AT_ENCR_DATA.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from protocols.buffer import Reader
from protocols.eap.aka.attributes import (
    CHECKCODE_LENGTHS,
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
from protocols.eap.packet import EapCode, EapPacket, EapType
from protocols.errors import DecodeError

METHOD_NAMES = {EapType.AKA: "AKA", EapType.AKA_PRIME: "AKA'"}


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


IDENTITY_REQUESTS = (AtPermanentIdReq, AtAnyIdReq, AtFullauthIdReq)

# RFC 4187 §10.1: what may stand in which message. The columns "0*" count as allowed.
_ENCRYPTED = frozenset({AtIv, AtEncrData})
_Allowed = dict[tuple[EapCode, int], frozenset[type[Attribute]]]
_ALLOWED_AKA: _Allowed = {
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
# RFC 9048 §3.5: the same table with AT_KDF and AT_KDF_INPUT.
_ALLOWED: dict[EapType, _Allowed] = {
    EapType.AKA: _ALLOWED_AKA,
    EapType.AKA_PRIME: _ALLOWED_AKA
    | {
        (EapCode.REQUEST, AkaSubtype.CHALLENGE): frozenset(
            {AtRand, AtAutn, AtKdf, AtKdfInput, AtCheckcode, AtResultInd, AtMac}
        )
        | _ENCRYPTED,
        (EapCode.RESPONSE, AkaSubtype.CHALLENGE): frozenset({AtRes, AtKdf, AtCheckcode, AtResultInd, AtMac})
        | _ENCRYPTED,
        (EapCode.RESPONSE, AkaSubtype.SYNCHRONIZATION_FAILURE): frozenset({AtAuts, AtKdf}),
    },
}
# RFC 4187 §10.1, RFC 9048 §3.5, column E: what AT_ENCR_DATA may hold.
_NESTED: _Allowed = {
    (EapCode.REQUEST, AkaSubtype.CHALLENGE): frozenset({AtNextPseudonym, AtNextReauthId}),
    (EapCode.RESPONSE, AkaSubtype.CHALLENGE): frozenset(),
    (EapCode.REQUEST, AkaSubtype.NOTIFICATION): frozenset({AtCounter}),
    (EapCode.RESPONSE, AkaSubtype.NOTIFICATION): frozenset({AtCounter}),
    (EapCode.REQUEST, AkaSubtype.REAUTHENTICATION): frozenset({AtNextReauthId, AtCounter, AtNonceS}),
    (EapCode.RESPONSE, AkaSubtype.REAUTHENTICATION): frozenset({AtCounter, AtCounterTooSmall}),
}

AttributeT = TypeVar("AttributeT", bound=Attribute)


@dataclass(frozen=True, slots=True)
class NestedAttributes:
    """What AT_ENCR_DATA of a message held, without its padding; ``message`` is that message's name."""

    message: str
    attributes: tuple[Attribute, ...]

    def get(self, kind: type[AttributeT]) -> AttributeT | None:
        """The attribute of this class, ``None`` when it is absent."""
        return _first(self.attributes, kind)

    def require(self, kind: type[AttributeT]) -> AttributeT:
        """The attribute of this class; ``DecodeError`` when it is absent."""
        found = self.get(kind)
        if found is None:
            raise DecodeError(f"{kind.type.name} is missing from AT_ENCR_DATA of {self.message}")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class AkaMessage:
    """One Request or Response of either method (RFC 4187 §8.1); ``subtype`` may be an unknown number."""

    code: EapCode
    identifier: int
    subtype: int
    attributes: tuple[Attribute, ...] = ()
    method: EapType = EapType.AKA

    @classmethod
    def decode(cls, octets: bytes) -> AkaMessage:
        """From a whole EAP packet."""
        return cls.from_packet(EapPacket.decode(octets))

    @classmethod
    def from_packet(cls, packet: EapPacket) -> AkaMessage:
        """From an EAP packet of type AKA or AKA'; attributes out of place raise ``DecodeError`` (§10.1)."""
        method = _method(packet.type)
        if method is None:
            raise DecodeError(f"EAP type {packet.type} is neither EAP-AKA nor EAP-AKA'")
        reader = Reader(packet.data)
        subtype = reader.u8()
        reader.skip(2)
        attributes = decode_attributes(reader, method)
        name = _name(packet.code, subtype, method)
        allowed = _ALLOWED[method].get((packet.code, subtype))
        for attribute in attributes:
            if allowed is None or isinstance(attribute, UnknownAttribute):
                continue
            if type(attribute) not in allowed:
                raise DecodeError(f"{attribute.type.name} must not stand in {name}")
            if isinstance(attribute, AtCheckcode) and len(attribute.checkcode) not in (0, CHECKCODE_LENGTHS[method]):
                raise DecodeError(f"AT_CHECKCODE of {len(attribute.checkcode)} octets does not belong to {name}")
        present = {type(attribute) for attribute in attributes}
        # §10.1: AT_IV if and only if AT_ENCR_DATA.
        if len(present & _ENCRYPTED) == 1:
            raise DecodeError("AT_IV and AT_ENCR_DATA stand together or not at all")
        return cls(
            code=packet.code, identifier=packet.identifier, subtype=subtype, attributes=attributes, method=method
        )

    def encode(self) -> bytes:
        """To a whole EAP packet; an AT_MAC is written as it stands."""
        data = bytes([self.subtype, 0, 0]) + encode_attributes(self.attributes)
        packet = EapPacket(code=self.code, identifier=self.identifier, type=self.method, data=data)
        return packet.encode()

    def get(self, kind: type[AttributeT]) -> AttributeT | None:
        """The first attribute of this class, ``None`` when it is absent."""
        return _first(self.attributes, kind)

    def require(self, kind: type[AttributeT]) -> AttributeT:
        """The first attribute of this class; ``DecodeError`` when it is absent."""
        found = self.get(kind)
        if found is None:
            raise DecodeError(f"{kind.type.name} is missing from {self.name}")
        return found

    @property
    def kdfs(self) -> tuple[int, ...]:
        """The values of AT_KDF in their order (RFC 9048 §3.2)."""
        return tuple(attribute.value for attribute in self.attributes if isinstance(attribute, AtKdf))

    def decode_nested(self, plaintext: bytes) -> NestedAttributes:
        """The plaintext of AT_ENCR_DATA; attributes out of place raise ``DecodeError`` (§10.1, §10.12)."""
        attributes = decode_attributes(Reader(plaintext), self.method)
        allowed = _NESTED.get((self.code, self.subtype), frozenset())
        for attribute in attributes[:-1]:
            if isinstance(attribute, AtPadding):
                raise DecodeError("AT_PADDING is not the last attribute of AT_ENCR_DATA")
        if attributes and isinstance(attributes[-1], AtPadding):
            attributes = attributes[:-1]
        for attribute in attributes:
            if not isinstance(attribute, UnknownAttribute) and type(attribute) not in allowed:
                raise DecodeError(f"{attribute.type.name} must not be nested in {self.name}")
        return NestedAttributes(self.name, attributes)

    @property
    def name(self) -> str:
        """Such as ``EAP-Request/AKA-Challenge`` or ``EAP-Request/AKA'-Challenge``."""
        return _name(self.code, self.subtype, self.method)

    def summary(self) -> str:
        """Name and attributes, such as ``EAP-Request/AKA-Challenge [ AT_RAND, AT_AUTN, AT_MAC ]``."""
        names = [f"AT_{a.number}" if isinstance(a, UnknownAttribute) else a.type.name for a in self.attributes]
        return f"{self.name} [ {', '.join(names)} ]" if names else self.name


def _first(attributes: tuple[Attribute, ...], kind: type[AttributeT]) -> AttributeT | None:
    """The first attribute of a class."""
    for attribute in attributes:
        if isinstance(attribute, kind):
            return attribute
    return None


def _method(number: int | None) -> EapType | None:
    """The method of an EAP type, where it is one of the two."""
    for method in METHOD_NAMES:
        if number == method:
            return method
    return None


def _name(code: EapCode, subtype: int, method: EapType) -> str:
    """A message's name in the RFC's spelling."""
    try:
        word = "-".join(part.capitalize() for part in AkaSubtype(subtype).name.split("_"))
    except ValueError:
        word = f"subtype-{subtype}"
    return f"EAP-{code.name.capitalize()}/{METHOD_NAMES[method]}-{word}"
