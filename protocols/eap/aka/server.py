"""The EAP server's end of EAP-AKA full authentication (RFC 4187, RFC 3748 §4), a pure machine.

It asks for vectors by event and is answered; retransmission of requests is the lower layer's (IKEv2
or Diameter). Left out: pseudonyms and fast re-authentication (RFC 4187 §4.1.1.2, §5), EAP-AKA'.

::

    EAP-Response/Identity                 -->     or start(NAI of IDi)
                                          <--     EAP-Request/AKA-Identity [ AT_PERMANENT_ID_REQ ]
    EAP-Response/AKA-Identity             -->     only where the identity is not usable as it is
                                          <--     EAP-Request/AKA-Challenge [ AT_RAND, AT_AUTN, … ]
    EAP-Response/AKA-Challenge            -->
                                          <--     EAP-Success
"""

from __future__ import annotations

import hmac
from collections import deque
from dataclasses import dataclass
from enum import Enum

from protocols.algorithms.vector import AkaVector
from protocols.eap.aka.attributes import (
    AtAnyIdReq,
    AtAutn,
    AtAuts,
    AtCheckcode,
    AtClientErrorCode,
    AtFullauthIdReq,
    AtIdentity,
    AtMac,
    AtNotification,
    AtPermanentIdReq,
    AtRand,
    AtRes,
    AtResultInd,
    Attribute,
)
from protocols.eap.aka.keys import AkaKeys, derive_keys
from protocols.eap.aka.messages import AkaMessage, AkaSubtype, NotificationCode
from protocols.eap.aka.outcome import AkaFailure, PacketDiscarded, PacketToSend
from protocols.eap.aka.protection import checkcode, encode_with_mac, mac_verifies
from protocols.eap.packet import EapCode, EapPacket, EapType, failure, success, trimmed
from protocols.entropy import Entropy
from protocols.errors import DecodeError, LocalError
from protocols.secret import Secret
from protocols.threegpp.identity import IdentityKind, Imsi, Nai

__all__ = [
    "AkaFailure",
    "EapAkaServer",
    "Failed",
    "IdentityRequest",
    "PacketDiscarded",
    "PacketToSend",
    "Resynchronisation",
    "ServerEvent",
    "ServerOptions",
    "Succeeded",
    "VectorRequested",
]

DEFAULT_RESYNCHRONISATIONS = 2  # one is enough unless another attach of the same USIM runs beside
_PSEUDONYMS = frozenset({IdentityKind.PSEUDONYM_AKA, IdentityKind.PSEUDONYM_SIM, IdentityKind.PSEUDONYM_AKA_PRIME})
_USABLE = frozenset({IdentityKind.PERMANENT_AKA, IdentityKind.UNPREFIXED_IMSI})


class IdentityRequest(Enum):
    """Which identity an EAP-Request/AKA-Identity asks for (RFC 4187 §9.1)."""

    ANY = "AT_ANY_ID_REQ"
    FULL_AUTHENTICATION = "AT_FULLAUTH_ID_REQ"
    PERMANENT = "AT_PERMANENT_ID_REQ"


_REQUEST_ATTRIBUTES: dict[IdentityRequest, Attribute] = {
    IdentityRequest.ANY: AtAnyIdReq(),
    IdentityRequest.FULL_AUTHENTICATION: AtFullauthIdReq(),
    IdentityRequest.PERMANENT: AtPermanentIdReq(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Policy of a server.

    ``always_request_identity`` asks although the identity is usable; ``first_identity_request`` is
    what is asked first (RFC 4187 §4.1.4: AT_PERMANENT_ID_REQ where a server has neither pseudonyms nor
    fast re-authentication).
    """

    always_request_identity: bool = False
    first_identity_request: IdentityRequest = IdentityRequest.PERMANENT
    checkcode: bool = True
    result_indications: bool = False
    resynchronisations: int = DEFAULT_RESYNCHRONISATIONS


@dataclass(frozen=True, slots=True)
class Resynchronisation:
    """What the home network needs to resynchronise (TS 33.102 §6.3.5): the RAND used, and AUTS."""

    rand: bytes
    auts: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorRequested:
    """A fresh vector is needed: answer with ``answer_vector`` or one of the refusals."""

    identity: bytes
    imsi: Imsi
    resynchronisation: Resynchronisation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """The peer is authenticated; ``packet`` is the EAP-Success, ``identity`` what MK was made of."""

    msk: Secret
    emsk: Secret
    imsi: Imsi
    identity: bytes
    packet: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The exchange failed; ``packet`` is the EAP-Failure, ``why`` one plain sentence."""

    cause: AkaFailure
    why: str
    packet: bytes


ServerEvent = PacketToSend | VectorRequested | Succeeded | Failed | PacketDiscarded


@dataclass(frozen=True, slots=True)
class _Initial:
    """Nothing received yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _AwaitingIdentity:
    """AKA-Identity was asked for."""

    identifier: int
    packet: bytes
    asked: IdentityRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class _AwaitingVector:
    """The home network is being asked; ``identifier`` is that of the last response."""

    identifier: int
    identity: bytes
    imsi: Imsi


@dataclass(frozen=True, slots=True, kw_only=True)
class _AwaitingChallengeResponse:
    """AKA-Challenge was sent."""

    identifier: int
    identity: bytes
    imsi: Imsi
    vector: AkaVector
    keys: AkaKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class _Accepting:
    """Authenticated; the protected success notification was sent (RFC 4187 §6.2)."""

    identifier: int
    identity: bytes
    imsi: Imsi
    keys: AkaKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refusing:
    """A failure notification was sent; EAP-Failure follows its response (RFC 4187 §6.3.2)."""

    identifier: int
    cause: AkaFailure
    why: str


@dataclass(frozen=True, slots=True)
class _Concluded:
    """Success or failure was reported."""


_State = (
    _Initial | _AwaitingIdentity | _AwaitingVector | _AwaitingChallengeResponse | _Accepting | _Refusing | _Concluded
)


class EapAkaServer:
    """One authentication. ``receive`` raises nothing for whatever octets a peer sends."""

    def __init__(self, *, entropy: Entropy, options: ServerOptions | None = None) -> None:
        self._entropy = entropy
        self._options = options or ServerOptions()
        self._state: _State = _Initial()
        self._events: deque[ServerEvent] = deque()
        self._identity_packets: list[bytes] = []
        self._resynchronisations = 0

    def poll_event(self) -> ServerEvent | None:
        """The next event, ``None`` when there is none."""
        return self._events.popleft() if self._events else None

    @property
    def concluded(self) -> bool:
        """Whether success or failure was reported."""
        return isinstance(self._state, _Concluded)

    # Commands

    def start(self, identity: bytes) -> None:
        """Begin with an identity learnt outside EAP: the NAI of IDi, empty for none (RFC 4187 §4.1.4)."""
        if not isinstance(self._state, _Initial):
            raise LocalError("this EAP-AKA exchange has started already")
        self._begin(identity, self._entropy.octets(1)[0])

    def answer_vector(self, vector: AkaVector) -> None:
        """The vector asked for by ``VectorRequested``."""
        state = self._awaiting_vector()
        keys = derive_keys(state.identity, ik=vector.ik, ck=vector.ck)
        attributes: list[Attribute] = [AtRand(vector.rand), AtAutn(vector.autn)]
        if self._options.checkcode:
            attributes.append(AtCheckcode(checkcode(self._identity_packets)))
        if self._options.result_indications:
            attributes.append(AtResultInd())
        identifier = _following(state.identifier)
        request = AkaMessage(
            code=EapCode.REQUEST,
            identifier=identifier,
            subtype=AkaSubtype.CHALLENGE,
            attributes=tuple(attributes),
        )
        self._state = _AwaitingChallengeResponse(
            identifier=identifier, identity=state.identity, imsi=state.imsi, vector=vector, keys=keys
        )
        self._events.append(PacketToSend(encode_with_mac(request, keys.k_aut)))

    def answer_unknown_user(self) -> None:
        """The home network does not know the subscriber: EAP-Failure at once (RFC 4187 §6.3.3)."""
        state = self._awaiting_vector()
        self._fail(state.identifier, AkaFailure.USER_UNKNOWN, f"the home network does not know IMSI {state.imsi}")

    def answer_failure(self, cause: AkaFailure, why: str) -> None:
        """No vector can be had for another reason (AUTS does not verify, HSS unreachable)."""
        state = self._awaiting_vector()
        self._fail(state.identifier, cause, why)

    # Packets

    def receive(self, packet: bytes) -> None:
        """An EAP packet from the peer."""
        state = self._state
        try:
            decoded = EapPacket.decode(packet)
        except DecodeError as error:
            self._discard(f"not an EAP packet: {error}")
            return
        if decoded.code is not EapCode.RESPONSE:
            self._discard(f"an EAP server takes Responses only, not code {decoded.code.name}")
            return
        if isinstance(state, _Initial):
            if decoded.type == EapType.IDENTITY:
                self._begin(decoded.data, _following(decoded.identifier))
            else:
                self._discard("the exchange begins with EAP-Response/Identity")
            return
        if isinstance(state, (_AwaitingVector, _Concluded)):
            self._discard("no request is outstanding")
            return
        # RFC 3748 §4.1: a Response whose Identifier is not the outstanding Request's MUST be discarded.
        if decoded.identifier != state.identifier:
            self._discard(f"identifier {decoded.identifier} is not {state.identifier}, which is outstanding")
            return
        if isinstance(state, _Refusing):
            # RFC 4187 §6.3.3: EAP-Failure follows the notification round, whatever the response holds.
            self._fail(state.identifier, state.cause, state.why)
            return
        if isinstance(state, _Accepting):
            # RFC 4187 §6.2: the response's contents MUST be ignored, EAP-Success is the next packet.
            self._succeed(state.identifier, state.identity, state.imsi, state.keys)
            return
        if decoded.type == EapType.NAK:
            wanted = ", ".join(str(number) for number in decoded.data) or "none"
            self._fail(
                state.identifier,
                AkaFailure.METHOD_REFUSED,
                f"the peer refuses EAP-AKA; types wanted: {wanted}",
            )
            return
        if decoded.type != EapType.AKA:
            self._discard(f"EAP type {decoded.type} answers no EAP-AKA request")
            return
        try:
            self._process(state, AkaMessage.from_packet(decoded), trimmed(packet))
        except DecodeError as error:
            self._refuse(state.identifier, AkaFailure.MALFORMED, str(error))

    def _process(
        self, state: _AwaitingIdentity | _AwaitingChallengeResponse, message: AkaMessage, octets: bytes
    ) -> None:
        """A response of the right identifier and type; ``DecodeError`` where an attribute is missing."""
        if message.subtype == AkaSubtype.CLIENT_ERROR:
            code = message.require(AtClientErrorCode).value
            self._fail(message.identifier, AkaFailure.CLIENT_ERROR, f"the peer reports client error {code}")
        elif isinstance(state, _AwaitingIdentity) and message.subtype == AkaSubtype.IDENTITY:
            self._process_identity(state, message, octets)
        elif isinstance(state, _AwaitingChallengeResponse) and message.subtype == AkaSubtype.CHALLENGE:
            self._process_challenge(state, message, octets)
        elif isinstance(state, _AwaitingChallengeResponse) and message.subtype == AkaSubtype.AUTHENTICATION_REJECT:
            why = "the USIM rejects AUTN: K or OPc of USIM and network differ"
            self._fail(message.identifier, AkaFailure.AUTN_REJECTED, why)
        elif isinstance(state, _AwaitingChallengeResponse) and message.subtype == AkaSubtype.SYNCHRONIZATION_FAILURE:
            self._process_synchronisation_failure(state, message)
        else:
            self._refuse(message.identifier, AkaFailure.UNEXPECTED, f"{message.name} was not expected here")

    def _process_identity(self, state: _AwaitingIdentity, message: AkaMessage, octets: bytes) -> None:
        """AT_IDENTITY (RFC 4187 §4.1.7)."""
        identity = message.require(AtIdentity).value
        # §10.13: a request counts only once its response has come.
        self._identity_packets += [state.packet, octets]
        imsi = _usable_imsi(identity)
        if imsi is not None:
            self._request_vector(message.identifier, identity, imsi)
        elif state.asked is not IdentityRequest.PERMANENT:
            self._request_identity(_following(message.identifier), _escalated(state.asked, identity))
        else:
            self._refuse(
                message.identifier,
                AkaFailure.IDENTITY_UNUSABLE,
                f"identity {_shown(identity)} is no permanent EAP-AKA identity",
            )

    def _process_challenge(self, state: _AwaitingChallengeResponse, message: AkaMessage, octets: bytes) -> None:
        """AT_MAC, AT_RES, AT_CHECKCODE (RFC 4187 §9.4, §6.3.2)."""
        res = message.require(AtRes)
        message.require(AtMac)
        right = res.bits == 8 * len(state.vector.xres) and hmac.compare_digest(res.res, state.vector.xres)
        if not mac_verifies(octets, state.keys.k_aut):
            hint = f"; RES is right, so the peer's keys are of another identity than {_shown(state.identity)}"
            self._refuse(
                message.identifier,
                AkaFailure.WRONG_MAC,
                "AT_MAC of the challenge response does not verify" + (hint if right else ""),
            )
            return
        if not right:
            self._refuse(message.identifier, AkaFailure.WRONG_RES, "RES is not the XRES of the vector")
            return
        code = message.get(AtCheckcode)
        # §10.13: a receiver that implements AT_CHECKCODE MUST check it.
        if code is not None and not hmac.compare_digest(code.checkcode, checkcode(self._identity_packets)):
            self._refuse(
                message.identifier,
                AkaFailure.WRONG_CHECKCODE,
                "AT_CHECKCODE does not match: identity messages were altered",
            )
            return
        if self._options.result_indications and message.get(AtResultInd) is not None:
            self._notify_success(state)
        else:
            self._succeed(message.identifier, state.identity, state.imsi, state.keys)

    def _process_synchronisation_failure(self, state: _AwaitingChallengeResponse, message: AkaMessage) -> None:
        """AT_AUTS: a fresh vector is asked for, a bounded number of times (RFC 4187 §6.3.1)."""
        auts = message.require(AtAuts).auts
        if self._resynchronisations >= self._options.resynchronisations:
            self._refuse(
                message.identifier,
                AkaFailure.SYNCHRONISATION,
                "the USIM still refuses the sequence number after resynchronisation",
            )
            return
        self._resynchronisations += 1
        again = Resynchronisation(state.vector.rand, auts)
        self._request_vector(message.identifier, state.identity, state.imsi, again)

    # Steps

    def _begin(self, identity: bytes, identifier: int) -> None:
        """First step with an identity from outside or from EAP-Response/Identity."""
        imsi = _usable_imsi(identity)
        if imsi is None or self._options.always_request_identity:
            self._request_identity(identifier, self._options.first_identity_request)
        else:
            self._request_vector(_preceding(identifier), identity, imsi)

    def _request_identity(self, identifier: int, asked: IdentityRequest) -> None:
        """EAP-Request/AKA-Identity (RFC 4187 §9.1)."""
        packet = AkaMessage(
            code=EapCode.REQUEST,
            identifier=identifier,
            subtype=AkaSubtype.IDENTITY,
            attributes=(_REQUEST_ATTRIBUTES[asked],),
        ).encode()
        self._state = _AwaitingIdentity(identifier=identifier, packet=packet, asked=asked)
        self._events.append(PacketToSend(packet))

    def _request_vector(
        self, identifier: int, identity: bytes, imsi: Imsi, resynchronisation: Resynchronisation | None = None
    ) -> None:
        """Ask the home network."""
        self._state = _AwaitingVector(identifier=identifier, identity=identity, imsi=imsi)
        self._events.append(VectorRequested(identity=identity, imsi=imsi, resynchronisation=resynchronisation))

    def _notify_success(self, state: _AwaitingChallengeResponse) -> None:
        """EAP-Request/AKA-Notification, code Success, under AT_MAC (RFC 4187 §6.2)."""
        identifier = _following(state.identifier)
        notification = AkaMessage(
            code=EapCode.REQUEST,
            identifier=identifier,
            subtype=AkaSubtype.NOTIFICATION,
            attributes=(AtNotification(NotificationCode.SUCCESS),),
        )
        self._state = _Accepting(identifier=identifier, identity=state.identity, imsi=state.imsi, keys=state.keys)
        self._events.append(PacketToSend(encode_with_mac(notification, state.keys.k_aut)))

    def _refuse(self, identifier: int, cause: AkaFailure, why: str) -> None:
        """Our own finding: the server MUST notify before EAP-Failure (RFC 4187 §6.3.2).

        Nothing here happens after a successful challenge round, so the code is General failure and
        carries no AT_MAC (§6.1, §9.10).
        """
        identifier = _following(identifier)
        packet = AkaMessage(
            code=EapCode.REQUEST,
            identifier=identifier,
            subtype=AkaSubtype.NOTIFICATION,
            attributes=(AtNotification(NotificationCode.GENERAL_FAILURE),),
        ).encode()
        self._state = _Refusing(identifier=identifier, cause=cause, why=why)
        self._events.append(PacketToSend(packet))

    def _succeed(self, identifier: int, identity: bytes, imsi: Imsi, keys: AkaKeys) -> None:
        """EAP-Success (RFC 3748 §4.2)."""
        self._state = _Concluded()
        self._events.append(
            Succeeded(msk=keys.msk, emsk=keys.emsk, imsi=imsi, identity=identity, packet=success(identifier))
        )

    def _fail(self, identifier: int, cause: AkaFailure, why: str) -> None:
        """EAP-Failure (RFC 3748 §4.2)."""
        self._state = _Concluded()
        self._events.append(Failed(cause=cause, why=why, packet=failure(identifier)))

    def _discard(self, why: str) -> None:
        """Pass a packet over."""
        self._events.append(PacketDiscarded(why))

    def _awaiting_vector(self) -> _AwaitingVector:
        """The state in which an answer of the home network is awaited."""
        if not isinstance(self._state, _AwaitingVector):
            raise LocalError("no vector was asked for")
        return self._state


def _following(identifier: int) -> int:
    """The next Identifier: it need only differ from the one before (RFC 3748 §4.1)."""
    return (identifier + 1) % 256


def _preceding(identifier: int) -> int:
    """The Identifier whose following one this is."""
    return (identifier - 1) % 256


def _nai(identity: bytes) -> Nai | None:
    """An identity as an NAI, where it is one."""
    try:
        return Nai.parse(identity.decode())
    except (UnicodeDecodeError, ValueError):
        return None


def _usable_imsi(identity: bytes) -> Imsi | None:
    """The IMSI of a permanent EAP-AKA identity."""
    nai = _nai(identity)
    return nai.imsi if nai is not None and nai.kind in _USABLE else None


def _escalated(asked: IdentityRequest, identity: bytes) -> IdentityRequest:
    """What to ask after an answer of no use, other than to PERMANENT (RFC 4187 §4.1.7).

    A pseudonym that maps to nobody leaves the permanent identity; any other answer to ANY leads to
    one for full authentication first.
    """
    nai = _nai(identity)
    if asked is IdentityRequest.ANY and (nai is None or nai.kind not in _PSEUDONYMS):
        return IdentityRequest.FULL_AUTHENTICATION
    return IdentityRequest.PERMANENT


def _shown(identity: bytes) -> str:
    """An identity in a sentence."""
    return repr(identity.decode(errors="backslashreplace"))
