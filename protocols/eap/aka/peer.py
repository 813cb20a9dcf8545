"""The peer's end of EAP-AKA full authentication (RFC 4187, RFC 3748 §4), a pure machine.

The USIM is asked by event and answered. Failure is reported once the server has sent EAP-Failure;
``refusal`` tells before that what this end found wrong. Left out: pseudonyms and fast
re-authentication, EAP-AKA'.

An EAP-Failure is taken at any time, against RFC 4187 §6.3.3's SHOULD: inside IKE_AUTH it comes from the
gateway under the SK payload and nothing else would follow it.
"""

from __future__ import annotations

import hmac
from collections import deque
from dataclasses import dataclass
from enum import Enum

from protocols.algorithms.usim import UsimReject, UsimResult, UsimSuccess, UsimSynchronisationFailure
from protocols.buffer import Reader
from protocols.eap.aka.attributes import (
    AtAnyIdReq,
    AtAutn,
    AtAuts,
    AtCheckcode,
    AtClientErrorCode,
    AtEncrData,
    AtIdentity,
    AtIv,
    AtMac,
    AtNextPseudonym,
    AtNextReauthId,
    AtNotification,
    AtPadding,
    AtPermanentIdReq,
    AtRand,
    AtRes,
    AtResultInd,
    Attribute,
    UnknownAttribute,
    decode_attributes,
)
from protocols.eap.aka.keys import AkaKeys, derive_keys
from protocols.eap.aka.messages import (
    IDENTITY_REQUESTS,
    NOTIFICATION_PHASE_BIT,
    NOTIFICATION_SUCCESS_BIT,
    NOTIFICATION_TEXTS,
    AkaMessage,
    AkaSubtype,
    NotificationCode,
)
from protocols.eap.aka.outcome import AkaFailure, PacketDiscarded, PacketToSend
from protocols.eap.aka.protection import checkcode, decrypt_attributes, encode_with_mac, mac_verifies
from protocols.eap.packet import EapCode, EapPacket, EapType, trimmed
from protocols.entropy import Entropy
from protocols.errors import DecodeError, LocalError
from protocols.secret import Secret
from protocols.threegpp.identity import Imsi, Nai

__all__ = [
    "AkaFailure",
    "ChallengeReceived",
    "EapAkaPeer",
    "Failed",
    "IdentityForm",
    "PacketDiscarded",
    "PacketToSend",
    "PeerEvent",
    "PeerOptions",
    "Succeeded",
]

MAXIMUM_IDENTITY_LENGTH = 253  # RFC 7542 §2.3
DEFAULT_SYNCHRONISATION_FAILURES = 3
UNABLE_TO_PROCESS = 0  # RFC 4187 §10.20
_NESTED = (AtNextPseudonym, AtNextReauthId, AtPadding, UnknownAttribute)


class IdentityForm(Enum):
    """How AT_IDENTITY names the subscriber."""

    NAI = "NAI"
    USERNAME = "username without realm"  # as Android answers AT_*_ID_REQ


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerOptions:
    """Policy of a peer."""

    identity_form: IdentityForm = IdentityForm.NAI
    result_indications: bool = False
    synchronisation_failures: int = DEFAULT_SYNCHRONISATION_FAILURES


@dataclass(frozen=True, slots=True)
class ChallengeReceived:
    """Ask the USIM, then ``answer``."""

    rand: bytes
    autn: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """EAP-Success after mutual authentication; ``identity`` is what MK was made of."""

    msk: Secret
    emsk: Secret
    identity: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The exchange failed; ``why`` is one plain sentence."""

    cause: AkaFailure
    why: str


PeerEvent = PacketToSend | ChallengeReceived | Succeeded | Failed | PacketDiscarded


@dataclass(frozen=True, slots=True)
class _Open:
    """Identity requests and a challenge may come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Challenged:
    """The USIM is being asked about this request."""

    request: AkaMessage
    octets: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Authenticated:
    """The server is authenticated and we have answered.

    ``success_allowed`` is false while a protected success notification has to come first.
    """

    keys: AkaKeys
    identity: bytes
    result_indications: bool
    success_allowed: bool


@dataclass(frozen=True, slots=True)
class _Refused:
    """We have refused, or a failure was notified: EAP-Failure is awaited, EAP-Success is not taken."""

    failure: Failed


@dataclass(frozen=True, slots=True)
class _Concluded:
    """Success or failure was reported."""


_State = _Open | _Challenged | _Authenticated | _Refused | _Concluded


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """One AKA-Identity round: the request's attribute class, and both packets."""

    identifier: int
    asked: type[Attribute]
    request: bytes
    response: bytes


class EapAkaPeer:
    """One authentication. ``receive`` raises nothing for whatever octets a server sends.

    ``nai`` is the identity that EAP-Response/Identity gives, and the one that the lower layer gave
    (IDi) where the server asks for none. ``entropy`` is the source that every machine has; full
    authentication as a peer draws nothing from it.
    """

    def __init__(self, *, nai: str, imsi: Imsi, entropy: Entropy, options: PeerOptions | None = None) -> None:
        if len(nai.encode()) > MAXIMUM_IDENTITY_LENGTH:
            raise LocalError(f"an identity has at most {MAXIMUM_IDENTITY_LENGTH} octets")
        self._nai = nai
        self._imsi = imsi
        self._entropy = entropy
        self._options = options or PeerOptions()
        self._state: _State = _Open()
        self._events: deque[PeerEvent] = deque()
        self._identity = nai.encode()
        self._rounds: list[_Round] = []
        self._method_begun = False
        self._synchronisation_failures = 0
        self._last_request = b""
        self._last_response = b""

    def poll_event(self) -> PeerEvent | None:
        """The next event, ``None`` when there is none."""
        return self._events.popleft() if self._events else None

    @property
    def concluded(self) -> bool:
        """Whether success or failure was reported."""
        return isinstance(self._state, _Concluded)

    @property
    def refusal(self) -> Failed | None:
        """What is wrong, while the server has not confirmed it by EAP-Failure."""
        return self._state.failure if isinstance(self._state, _Refused) else None

    # Commands

    def answer(self, result: UsimResult) -> None:
        """The USIM's answer to ``ChallengeReceived`` (RFC 4187 §6.3.1, §9.4)."""
        state = self._state
        if not isinstance(state, _Challenged):
            raise LocalError("the USIM was not asked")
        if isinstance(result, UsimReject):
            self._refuse(state.request.identifier, AkaFailure.AUTN_REJECTED, result.why)
        elif isinstance(result, UsimSynchronisationFailure):
            self._answer_synchronisation_failure(state.request.identifier, result)
        else:
            try:
                self._answer_challenge(state, result)
            except DecodeError as error:
                self._refuse(state.request.identifier, AkaFailure.MALFORMED, str(error))

    # Packets

    def receive(self, packet: bytes) -> None:
        """An EAP packet from the server."""
        try:
            decoded = EapPacket.decode(packet)
        except DecodeError as error:
            self._discard(f"not an EAP packet: {error}")
            return
        octets = trimmed(packet)
        if isinstance(self._state, _Concluded):
            self._discard("the exchange is over")
        elif decoded.code is EapCode.SUCCESS:
            self._receive_success()
        elif decoded.code is EapCode.FAILURE:
            self._receive_failure()
        elif decoded.code is EapCode.RESPONSE:
            self._discard("a peer takes no Responses")
        elif octets == self._last_request:
            # RFC 3748 §4.1: a retransmitted Request MUST be answered by the same Response.
            self._retransmit()
        elif isinstance(self._state, _Challenged):
            self._discard("the USIM has not answered the previous request yet")
        else:
            self._receive_request(decoded, octets)

    def _receive_request(self, packet: EapPacket, octets: bytes) -> None:
        """A new Request, by its type (RFC 3748 §5)."""
        self._last_request, self._last_response = octets, b""
        if packet.type == EapType.NOTIFICATION:
            self._send(EapPacket(code=EapCode.RESPONSE, identifier=packet.identifier, type=packet.type).encode())
        elif packet.type == EapType.AKA:
            self._method_begun = True
            try:
                self._receive_aka(AkaMessage.from_packet(packet), octets)
            except DecodeError as error:
                self._refuse(packet.identifier, AkaFailure.MALFORMED, str(error))
        elif self._method_begun:
            # RFC 3748 §5.3.1: no Nak once the method has begun.
            self._discard(f"EAP type {packet.type} does not belong to the EAP-AKA exchange")
        elif packet.type == EapType.IDENTITY:
            self._respond(packet.identifier, EapType.IDENTITY, self._nai.encode())
        else:
            self._respond(packet.identifier, EapType.NAK, bytes([EapType.AKA]))

    def _receive_aka(self, message: AkaMessage, octets: bytes) -> None:
        """An EAP-AKA request, by state and subtype."""
        state = self._state
        if message.subtype == AkaSubtype.NOTIFICATION:
            self._receive_notification(message, octets)
        elif isinstance(state, _Open) and message.subtype == AkaSubtype.IDENTITY:
            self._receive_identity_request(message, octets)
        elif isinstance(state, _Open) and message.subtype == AkaSubtype.CHALLENGE:
            self._receive_challenge(message, octets)
        else:
            self._refuse(message.identifier, AkaFailure.UNEXPECTED, f"{message.name} was not expected here")

    def _receive_identity_request(self, message: AkaMessage, octets: bytes) -> None:
        """EAP-Request/AKA-Identity: sequence rules, then the permanent identity (RFC 4187 §4.1.5).

        Each of the three requests comes once at most, from ANY towards PERMANENT: that keeps the limit
        of three rounds as well.
        """
        asked = [type(attribute) for attribute in message.attributes if isinstance(attribute, IDENTITY_REQUESTS)]
        if len(asked) != 1:
            raise DecodeError(f"{message.name} asks for {len(asked)} identities, not one")
        previous = {earlier.asked for earlier in self._rounds}
        out_of_order = AtPermanentIdReq in previous or (asked[0] is AtAnyIdReq and previous) or asked[0] in previous
        if out_of_order:
            why = f"{asked[0].type.name} breaks the sequence of identity requests"
            self._refuse(message.identifier, AkaFailure.UNEXPECTED, why)
            return
        self._identity = self._permanent_identity()
        response = AkaMessage(
            code=EapCode.RESPONSE,
            identifier=message.identifier,
            subtype=AkaSubtype.IDENTITY,
            attributes=(AtIdentity(self._identity),),
        ).encode()
        self._rounds.append(_Round(identifier=message.identifier, asked=asked[0], request=octets, response=response))
        self._send(response)

    def _receive_challenge(self, message: AkaMessage, octets: bytes) -> None:
        """EAP-Request/AKA-Challenge: RAND and AUTN before everything else (RFC 4187 §9.3)."""
        message.require(AtMac)
        challenge = ChallengeReceived(message.require(AtRand).value, message.require(AtAutn).value)
        self._state = _Challenged(request=message, octets=octets)
        self._events.append(challenge)

    def _answer_synchronisation_failure(self, identifier: int, result: UsimSynchronisationFailure) -> None:
        """EAP-Response/AKA-Synchronization-Failure (RFC 4187 §9.6), a bounded number of times."""
        self._synchronisation_failures += 1
        if self._synchronisation_failures > self._options.synchronisation_failures:
            why = "the network keeps on using sequence numbers that the USIM has seen"
            self._refuse(identifier, AkaFailure.SYNCHRONISATION, why)
            return
        self._state = _Open()
        self._send(self._message(identifier, AkaSubtype.SYNCHRONIZATION_FAILURE, AtAuts(result.auts)).encode())

    def _answer_challenge(self, state: _Challenged, result: UsimSuccess) -> None:
        """Verify AT_MAC, AT_CHECKCODE, AT_ENCR_DATA, then answer (RFC 4187 §9.3, §9.4)."""
        request = state.request
        keys = derive_keys(self._identity, ik=result.ik, ck=result.ck)
        if not mac_verifies(state.octets, keys.k_aut):
            self._refuse(request.identifier, AkaFailure.WRONG_MAC, "AT_MAC of the challenge does not verify")
            return
        expected = checkcode(packet for each in self._rounds for packet in (each.request, each.response))
        code = request.get(AtCheckcode)
        # §10.13: a receiver that implements AT_CHECKCODE MUST check it.
        if code is not None and not hmac.compare_digest(code.checkcode, expected):
            why = "AT_CHECKCODE does not match: identity messages were altered"
            self._refuse(request.identifier, AkaFailure.WRONG_CHECKCODE, why)
            return
        _check_nested(request, keys)
        # §6.2: the peer MUST NOT include AT_RESULT_IND if it did not receive it.
        indications = self._options.result_indications and request.get(AtResultInd) is not None
        attributes: list[Attribute] = [AtRes.of(result.res)]
        if code is not None:
            attributes.append(AtCheckcode(expected))
        if indications:
            attributes.append(AtResultInd())
        self._state = _Authenticated(
            keys=keys,
            identity=self._identity,
            result_indications=indications,
            success_allowed=not indications,
        )
        response = self._message(request.identifier, AkaSubtype.CHALLENGE, *attributes)
        self._send(encode_with_mac(response, keys.k_aut))

    def _receive_notification(self, message: AkaMessage, octets: bytes) -> None:
        """EAP-Request/AKA-Notification (RFC 4187 §6.1, §9.10): acknowledged, then obeyed."""
        state = self._state
        code = message.require(AtNotification).value
        before_authentication = bool(code & NOTIFICATION_PHASE_BIT)
        implies_failure = not code & NOTIFICATION_SUCCESS_BIT
        response = self._message(message.identifier, AkaSubtype.NOTIFICATION)
        # §9.10: AT_MAC if and only if the P bit is zero.
        if before_authentication:
            if message.get(AtMac) is not None or not implies_failure:
                raise DecodeError(f"notification {code} with AT_MAC or S bit though its P bit is set")
            packet = response.encode()
        else:
            if not isinstance(state, _Authenticated):
                why = f"notification {code} before authentication"
                self._refuse(message.identifier, AkaFailure.UNEXPECTED, why)
                return
            if not mac_verifies(octets, state.keys.k_aut):
                self._refuse(message.identifier, AkaFailure.WRONG_MAC, "AT_MAC of a notification does not verify")
                return
            if not implies_failure and not state.result_indications:
                why = "a success notification though result indications were not agreed"
                self._refuse(message.identifier, AkaFailure.UNEXPECTED, why)
                return
            packet = encode_with_mac(response, state.keys.k_aut)
        if implies_failure:
            if not isinstance(state, _Refused):
                self._state = _Refused(Failed(AkaFailure.NOTIFICATION, _notification_text(code)))
        elif isinstance(state, _Authenticated):
            self._state = _Authenticated(
                keys=state.keys, identity=state.identity, result_indications=True, success_allowed=True
            )
        self._send(packet)

    def _receive_success(self) -> None:
        """EAP-Success counts only after the challenge was answered (RFC 4187 §6.3.4)."""
        state = self._state
        if not isinstance(state, _Authenticated):
            self._discard("EAP-Success before the server was authenticated")
        elif not state.success_allowed:
            self._discard("EAP-Success before the protected success indication")
        else:
            self._state = _Concluded()
            self._events.append(Succeeded(msk=state.keys.msk, emsk=state.keys.emsk, identity=state.identity))

    def _receive_failure(self) -> None:
        """EAP-Failure: with our own finding where there is one."""
        refused = Failed(AkaFailure.REFUSED, "the server refuses access and gives no reason")
        outcome = self._state.failure if isinstance(self._state, _Refused) else refused
        self._state = _Concluded()
        self._events.append(outcome)

    # Steps

    def _permanent_identity(self) -> bytes:
        """What AT_IDENTITY holds: we have neither pseudonym nor fast re-authentication identity."""
        try:
            nai = Nai.parse(self._nai)
        except ValueError:
            nai = Nai(username="")
        if nai.imsi != self._imsi:
            nai = Nai(username=f"0{self._imsi}", realm=nai.home_realm)
        if self._options.identity_form is IdentityForm.USERNAME:
            return nai.username.encode()
        return str(nai).encode()

    def _message(self, identifier: int, subtype: AkaSubtype, *attributes: Attribute) -> AkaMessage:
        """A response."""
        return AkaMessage(code=EapCode.RESPONSE, identifier=identifier, subtype=subtype, attributes=attributes)

    def _refuse(self, identifier: int, cause: AkaFailure, why: str) -> None:
        """Authentication-Reject for AUTN, Client-Error for everything else (RFC 4187 §6.3.1)."""
        if cause is AkaFailure.AUTN_REJECTED:
            message = self._message(identifier, AkaSubtype.AUTHENTICATION_REJECT)
        else:
            message = self._message(identifier, AkaSubtype.CLIENT_ERROR, AtClientErrorCode(UNABLE_TO_PROCESS))
        if not isinstance(self._state, _Refused):
            self._state = _Refused(Failed(cause, why))
        self._send(message.encode())

    def _respond(self, identifier: int, kind: EapType, data: bytes) -> None:
        """A response of another type than EAP-AKA."""
        self._send(EapPacket(code=EapCode.RESPONSE, identifier=identifier, type=kind, data=data).encode())

    def _send(self, packet: bytes) -> None:
        """Send a response and keep it for retransmissions of its request."""
        self._last_response = packet
        self._events.append(PacketToSend(packet))

    def _retransmit(self) -> None:
        """Answer a repeated request."""
        if self._last_response:
            self._events.append(PacketToSend(self._last_response))
        else:
            self._discard("repeats a request that has no response yet")

    def _discard(self, why: str) -> None:
        """Pass a packet over."""
        self._events.append(PacketDiscarded(why))


def _check_nested(request: AkaMessage, keys: AkaKeys) -> None:
    """Whether AT_ENCR_DATA decrypts to what may stand in a challenge (RFC 4187 §9.3, §10.12)."""
    iv, encrypted = request.get(AtIv), request.get(AtEncrData)
    if iv is None or encrypted is None:
        return
    for attribute in decode_attributes(Reader(decrypt_attributes(keys.k_encr, iv.value, encrypted.ciphertext))):
        if not isinstance(attribute, _NESTED):
            raise DecodeError(f"{attribute.type.name} must not be nested in {request.name}")


def _notification_text(code: int) -> str:
    """A notification code in words."""
    try:
        return f"the server notifies: {NOTIFICATION_TEXTS[NotificationCode(code)]} ({code})"
    except ValueError:
        return f"the server notifies failure {code}"
