"""What an identity says to a server, and what it asks for next (RFC 4187 §4.1.4, §4.1.7; RFC 9048 §3)."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.eap.aka.attributes import AtAnyIdReq, AtFullauthIdReq, AtPermanentIdReq, Attribute
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.server.events import IdentityRequest, ServerOptions
from protocols.eap.aka.temporary import PSEUDONYMS, REAUTHENTICATION_IDENTITIES, KeyRing, imsi_of_username
from protocols.eap.packet import EapCode, EapType
from protocols.threegpp.identity import IdentityKind, Imsi, Nai

_PERMANENT = {EapType.AKA: IdentityKind.PERMANENT_AKA, EapType.AKA_PRIME: IdentityKind.PERMANENT_AKA_PRIME}
_REQUEST_ATTRIBUTES: dict[IdentityRequest, Attribute] = {
    IdentityRequest.ANY: AtAnyIdReq(),
    IdentityRequest.FULL_AUTHENTICATION: AtFullauthIdReq(),
    IdentityRequest.PERMANENT: AtPermanentIdReq(),
}


@dataclass(frozen=True, slots=True)
class Permanent:
    """A permanent identity."""

    imsi: Imsi


@dataclass(frozen=True, slots=True)
class Pseudonym:
    """A pseudonym; ``imsi`` is ``None`` where it maps to nobody."""

    imsi: Imsi | None


@dataclass(frozen=True, slots=True)
class Reauthentication:
    """A fast re-authentication identity; ``imsi`` is ``None`` where it maps to nobody."""

    username: str
    imsi: Imsi | None


@dataclass(frozen=True, slots=True)
class Unusable:
    """Nothing that this method knows."""


Recognised = Permanent | Pseudonym | Reauthentication | Unusable


def nai_of(identity: bytes) -> Nai | None:
    """An identity as an NAI, where it is one."""
    try:
        return Nai.parse(identity.decode())
    except (UnicodeDecodeError, ValueError):
        return None


def is_decorated(identity: bytes) -> bool:
    """Whether realms stand before the username (TS 23.003 §19.3.3)."""
    nai = nai_of(identity)
    return nai is not None and bool(nai.decoration)


def method_of(identity: bytes) -> EapType | None:
    """The method that the leading digit of an identity belongs to (TS 23.003 §19.3, RFC 9048 §3)."""
    nai = nai_of(identity)
    for method in _PERMANENT:
        if nai is not None and nai.kind in _kinds(method):
            return method
    return None


def recognise(identity: bytes, method: EapType, ring: KeyRing | None) -> Recognised:
    """An identity in the eyes of a method; the realm of temporary ones is not looked at (RFC 4187 §4.1.1.7)."""
    nai = nai_of(identity)
    if nai is None:
        return Unusable()
    if nai.kind in (_PERMANENT[method], IdentityKind.UNPREFIXED_IMSI) and nai.imsi is not None:
        return Permanent(nai.imsi)
    imsi = imsi_of_username(ring, nai.username) if ring is not None else None
    if nai.kind is REAUTHENTICATION_IDENTITIES[method]:
        return Reauthentication(nai.username, imsi)
    if nai.kind is PSEUDONYMS[method]:
        return Pseudonym(imsi)
    return Unusable()


def first_request(recognised: Recognised | None, options: ServerOptions, ring: KeyRing | None) -> IdentityRequest:
    """What is asked first (RFC 4187 §4.1.4); ``recognised`` is ``None`` where the identity is ignored."""
    if options.first_identity_request is not None:
        return options.first_identity_request
    pseudonyms = options.pseudonyms and ring is not None
    fast = options.reauthentication and ring is not None
    if isinstance(recognised, Pseudonym):
        return IdentityRequest.PERMANENT
    if fast and not isinstance(recognised, Reauthentication):
        return IdentityRequest.ANY
    return IdentityRequest.FULL_AUTHENTICATION if pseudonyms else IdentityRequest.PERMANENT


def next_request(asked: IdentityRequest, recognised: Recognised) -> IdentityRequest | None:
    """What is asked after an answer of no use, ``None`` when nothing is left (RFC 4187 §4.1.7).

    A pseudonym that maps to nobody leaves the permanent identity; any other answer to ANY leads to one for
    full authentication first.
    """
    if asked is IdentityRequest.PERMANENT:
        return None
    if asked is IdentityRequest.ANY and not isinstance(recognised, Pseudonym):
        return IdentityRequest.FULL_AUTHENTICATION
    return IdentityRequest.PERMANENT


def identity_request(method: EapType, identifier: int, asked: IdentityRequest) -> bytes:
    """EAP-Request/AKA-Identity (RFC 4187 §9.1)."""
    return AkaMessage(
        method=method,
        code=EapCode.REQUEST,
        identifier=identifier,
        subtype=AkaSubtype.IDENTITY,
        attributes=(_REQUEST_ATTRIBUTES[asked],),
    ).encode()


def permanent_nai(imsi: Imsi, realm: str) -> str:
    """The permanent identity that names a subscriber to the network (TS 23.003 §19.3.2)."""
    return str(Nai(username=f"0{imsi}", realm=realm))


def shown(identity: bytes) -> str:
    """An identity in a sentence."""
    return repr(identity.decode(errors="backslashreplace"))


def _kinds(method: EapType) -> tuple[IdentityKind, ...]:
    """The kinds of identities of a method."""
    return (_PERMANENT[method], PSEUDONYMS[method], REAUTHENTICATION_IDENTITIES[method])
