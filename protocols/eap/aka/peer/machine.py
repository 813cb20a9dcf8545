"""The EAP peer that knows EAP-AKA (RFC 4187) and EAP-AKA' (RFC 9048), over RFC 3748 §4, a pure machine.

The USIM is asked by event and answered. Failure is reported once the server has sent EAP-Failure;
``refusal`` tells before that what this end found wrong. Left out: Expanded Types, identities of 5G
(RFC 9048 §5.3).

An EAP-Failure is taken at any time, against RFC 4187 §6.3.3's SHOULD: inside IKE_AUTH it comes from the
gateway under the SK payload and nothing else would follow it.

::

                                         <--  EAP-Request/Identity        where the lower layer asks
    EAP-Response/Identity                -->
                                         <--  EAP-Request/AKA-Identity    up to three of them
    EAP-Response/AKA-Identity            -->
                                         <--  EAP-Request/AKA-Challenge  |  AKA-Reauthentication
    EAP-Response/AKA-Challenge           -->                             |  AKA-Reauthentication
                                         <--  EAP-Success
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from protocols.algorithms.usim import UsimReject, UsimResult, UsimSuccess, UsimSynchronisationFailure
from protocols.eap.aka.attributes import (
    AtAutn,
    AtAuts,
    AtClientErrorCode,
    AtIdentity,
    AtKdf,
    AtMac,
    AtNotification,
    AtRand,
    Attribute,
)
from protocols.eap.aka.messages import (
    NOTIFICATION_PHASE_BIT,
    NOTIFICATION_SUCCESS_BIT,
    NOTIFICATION_TEXTS,
    AkaMessage,
    AkaSubtype,
    NotificationCode,
)
from protocols.eap.aka.outcome import AkaFailure, PacketDiscarded, PacketToSend
from protocols.eap.aka.peer.authenticated import (
    Authenticated,
    CounterTooSmall,
    acknowledge_notification,
    answer_challenge,
    answer_reauthentication,
    response_to,
)
from protocols.eap.aka.peer.events import (
    ChallengeReceived,
    Failed,
    NetworkNameDiffers,
    PeerEvent,
    Succeeded,
    TemporaryIdentitiesChanged,
)
from protocols.eap.aka.peer.identities import PeerIdentities
from protocols.eap.aka.peer.negotiation import KdfNegotiation, check_separation_bit, network_name, network_names_match
from protocols.eap.aka.peer.options import NetworkNamePolicy, PeerOptions
from protocols.eap.aka.peer.refusal import Refusal
from protocols.eap.aka.peer.temporary import TemporaryIdentities
from protocols.eap.packet import EapCode, EapPacket, EapType, trimmed
from protocols.entropy import Entropy
from protocols.errors import DecodeError, LocalError
from protocols.threegpp.identity import Imsi

UNABLE_TO_PROCESS = 0  # RFC 4187 §10.20


@dataclass(frozen=True, slots=True)
class _Open:
    """Identity requests and what authenticates the server may come.

    ``challenge_only``: nothing but a challenge, after AT_KDF, AUTS or AT_COUNTER_TOO_SMALL of ours.
    """

    challenge_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Challenged:
    """The USIM is being asked about this request."""

    request: AkaMessage
    octets: bytes


@dataclass(frozen=True, slots=True)
class _Refused:
    """We have refused, or a failure was notified: EAP-Failure is awaited, EAP-Success is not taken."""

    failure: Failed


@dataclass(frozen=True, slots=True)
class _Concluded:
    """Success or failure was reported."""


_State = _Open | _Challenged | Authenticated | _Refused | _Concluded


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """One AKA-Identity round: the request's attribute class, and both packets."""

    asked: type[Attribute]
    request: bytes
    response: bytes


class EapAkaPeer:
    """One authentication. ``receive`` raises nothing for whatever octets a server sends.

    ``nai`` is the permanent NAI. ``held`` is what earlier authentications have left. ``outer_identity`` is what the
    lower layer gives (IDi) where that is not to be chosen here; ``identity`` is what it shall give otherwise.
    """

    def __init__(
        self,
        *,
        nai: str,
        imsi: Imsi,
        entropy: Entropy,
        options: PeerOptions | None = None,
        held: TemporaryIdentities | None = None,
        outer_identity: str | None = None,
    ) -> None:
        self._entropy = entropy
        self._options = options or PeerOptions()
        self._identities = PeerIdentities(nai, imsi, self._options, held or TemporaryIdentities(), outer_identity)
        self._state: _State = _Open()
        self._events: deque[PeerEvent] = deque()
        self._rounds: list[_Round] = []
        self._method: EapType | None = None
        self._kdf = KdfNegotiation()
        self._synchronisation_failures = 0
        self._notified = False
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

    @property
    def server_authenticated(self) -> bool:
        """Whether the server has proved itself and nothing has gone wrong since, before EAP-Success."""
        return isinstance(self._state, Authenticated)

    @property
    def identity(self) -> str:
        """What IDi and EAP-Response/Identity say (TS 24.302 §7.2.2.1, RFC 4187 §4.1.3)."""
        return self._identities.outer

    # Commands

    def identity_given(self) -> None:
        """The lower layer has sent ``identity``: a fast re-authentication identity is used up by that."""
        self._changed(self._identities.give_outside())

    def answer(self, result: UsimResult) -> None:
        """The USIM's answer to ``ChallengeReceived`` (RFC 4187 §6.3.1, §9.4)."""
        state = self._state
        if not isinstance(state, _Challenged):
            raise LocalError("the USIM was not asked")
        try:
            if isinstance(result, UsimReject):
                raise Refusal(AkaFailure.AUTN_REJECTED, result.why, as_autn=True)
            if isinstance(result, UsimSynchronisationFailure):
                self._answer_synchronisation_failure(state.request, result)
            else:
                self._answer_challenge(state, result)
        except (Refusal, DecodeError) as error:
            self._refuse(state.request.method, state.request.identifier, error)

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
        method = next((each for each in self._options.methods if each == packet.type), None)
        if packet.type == EapType.NOTIFICATION:
            self._send(EapPacket(code=EapCode.RESPONSE, identifier=packet.identifier, type=packet.type).encode())
        elif method is not None and self._method in (None, method):
            self._method = method
            try:
                self._receive_aka(AkaMessage.from_packet(packet), octets)
            except (Refusal, DecodeError) as error:
                self._refuse(method, packet.identifier, error)
        elif self._method is not None:
            # RFC 3748 §5.3.1: no Nak once the method has begun.
            self._discard(f"EAP type {packet.type} does not belong to the exchange")
        elif packet.type == EapType.IDENTITY:
            self.identity_given()
            self._respond(packet.identifier, EapType.IDENTITY, self.identity.encode())
        else:
            self._respond(packet.identifier, EapType.NAK, bytes(self._options.methods))

    def _receive_aka(self, message: AkaMessage, octets: bytes) -> None:
        """A request of the method, by state and subtype."""
        state = self._state
        if message.subtype == AkaSubtype.NOTIFICATION:
            self._receive_notification(message, octets)
        elif isinstance(state, _Open) and message.subtype == AkaSubtype.CHALLENGE:
            self._receive_challenge(message, octets)
        elif isinstance(state, _Open) and not state.challenge_only and message.subtype == AkaSubtype.IDENTITY:
            self._receive_identity_request(message, octets)
        elif isinstance(state, _Open) and not state.challenge_only and message.subtype == AkaSubtype.REAUTHENTICATION:
            self._receive_reauthentication(message, octets)
        else:
            raise Refusal(AkaFailure.UNEXPECTED, f"{message.name} was not expected here")

    def _receive_identity_request(self, message: AkaMessage, octets: bytes) -> None:
        """EAP-Request/AKA-Identity (RFC 4187 §4.1.5)."""
        asked, used_up = self._identities.answer(message, [earlier.asked for earlier in self._rounds])
        self._changed(used_up)
        response = response_to(message, AkaSubtype.IDENTITY, AtIdentity(self._identities.current)).encode()
        self._rounds.append(_Round(asked=asked, request=octets, response=response))
        self._send(response)

    def _receive_challenge(self, message: AkaMessage, octets: bytes) -> None:
        """EAP-Request/AKA-Challenge: RAND and AUTN before everything else (RFC 4187 §9.3, RFC 9048 §3)."""
        prime = message.method is EapType.AKA_PRIME
        if prime and (wanted := self._kdf.judge(message.kdfs)) is not None:
            # RFC 9048 §3.2: not processed in any other way than by naming the alternative
            self._state = _Open(challenge_only=True)
            self._send(response_to(message, AkaSubtype.CHALLENGE, AtKdf(wanted)).encode())
            return
        message.require(AtMac)
        challenge = ChallengeReceived(message.require(AtRand).value, message.require(AtAutn).value)
        if prime:
            self._check_network_name(network_name(message))
            check_separation_bit(challenge.autn)
        self._state = _Challenged(request=message, octets=octets)
        self._events.append(challenge)

    def _check_network_name(self, received: str) -> None:
        """RFC 9048 §3.1: the peer's own understanding of the access network's name, by policy."""
        expected = self._options.network_name
        if expected is None or network_names_match(expected, received):
            return
        if self._options.network_name_policy is NetworkNamePolicy.REJECT:
            why = f"the server names the access network {received!r}, this is {expected!r}"
            raise Refusal(AkaFailure.NETWORK_NAME, why, as_autn=True)
        self._events.append(NetworkNameDiffers(expected, received))

    def _answer_synchronisation_failure(self, request: AkaMessage, result: UsimSynchronisationFailure) -> None:
        """EAP-Response/AKA-Synchronization-Failure (RFC 4187 §9.6), a bounded number of times."""
        self._synchronisation_failures += 1
        if self._synchronisation_failures > self._options.synchronisation_failures:
            why = "the network keeps on using sequence numbers that the USIM has seen"
            raise Refusal(AkaFailure.SYNCHRONISATION, why)
        self._state = _Open(challenge_only=True)
        # RFC 9048 §3.2: with a copy of the AT_KDF attributes
        copies = [AtKdf(value) for value in request.kdfs]
        subtype = AkaSubtype.SYNCHRONIZATION_FAILURE
        self._send(response_to(request, subtype, AtAuts(result.auts), *copies).encode())

    def _answer_challenge(self, state: _Challenged, result: UsimSuccess) -> None:
        self._authenticated(
            answer_challenge(
                state.request,
                state.octets,
                result,
                identity=self._identities.current,
                identity_rounds=self._identity_packets,
                options=self._options,
            )
        )

    def _receive_reauthentication(self, message: AkaMessage, octets: bytes) -> None:
        """EAP-Request/AKA-Reauthentication, to a peer that has given the identity of one (RFC 4187 §5.4)."""
        context = self._identities.offered
        if context is None or context.method is not message.method:
            raise Refusal(AkaFailure.UNEXPECTED, f"{message.name} without a fast re-authentication identity")
        answer = answer_reauthentication(
            message,
            octets,
            context,
            identity=self._identities.current,
            identity_rounds=self._identity_packets,
            options=self._options,
            entropy=self._entropy,
        )
        if isinstance(answer, CounterTooSmall):
            self._state = _Open(challenge_only=True)
            self._send(answer.response)
        else:
            self._authenticated(answer)

    def _authenticated(self, state: Authenticated) -> None:
        self._state = state
        self._send(state.response)

    @property
    def _identity_packets(self) -> tuple[bytes, ...]:
        """What AT_CHECKCODE is made of (RFC 4187 §10.13)."""
        return tuple(packet for each in self._rounds for packet in (each.request, each.response))

    def _receive_notification(self, message: AkaMessage, octets: bytes) -> None:
        """EAP-Request/AKA-Notification (RFC 4187 §6.1, §9.10): acknowledged, then obeyed."""
        state = self._state
        code = message.require(AtNotification).value
        if self._notified:
            # §6.1: no more than one notification round
            raise Refusal(AkaFailure.UNEXPECTED, f"notification {code} after another one")
        implies_failure = not code & NOTIFICATION_SUCCESS_BIT
        # §9.10: AT_MAC if and only if the P bit is zero.
        if code & NOTIFICATION_PHASE_BIT:
            if message.get(AtMac) is not None or not implies_failure:
                raise DecodeError(f"notification {code} with AT_MAC or S bit though its P bit is set")
            packet = response_to(message, AkaSubtype.NOTIFICATION).encode()
        else:
            if not isinstance(state, Authenticated):
                raise Refusal(AkaFailure.UNEXPECTED, f"notification {code} before authentication")
            packet = acknowledge_notification(message, octets, state, self._entropy)
            if not implies_failure and not state.result_indications:
                raise Refusal(AkaFailure.UNEXPECTED, "a success notification though result indications were not agreed")
            if not implies_failure:
                self._state = replace(state, success_allowed=True)
        if implies_failure and not isinstance(state, _Refused):
            self._state = _Refused(Failed(AkaFailure.NOTIFICATION, _notification_text(code)))
        self._notified = True
        self._send(packet)

    def _receive_success(self) -> None:
        """EAP-Success counts only after the server was authenticated (RFC 4187 §6.3.4)."""
        state = self._state
        if not isinstance(state, Authenticated):
            self._discard("EAP-Success before the server was authenticated")
        elif not state.success_allowed:
            self._discard("EAP-Success before the protected success indication")
        else:
            self._state = _Concluded()
            before = self._identities.held
            self._changed(self._identities.next(state.pseudonym, state.context) != before)
            self._events.append(
                Succeeded(
                    msk=state.keys.msk,
                    emsk=state.keys.emsk,
                    identity=state.identity,
                    method=state.method,
                    fast=state.counter is not None,
                )
            )

    def _receive_failure(self) -> None:
        """EAP-Failure: with our own finding where there is one."""
        refused = Failed(AkaFailure.REFUSED, "the server refuses access and gives no reason")
        outcome = self._state.failure if isinstance(self._state, _Refused) else refused
        self._state = _Concluded()
        self._events.append(outcome)

    # Steps

    def _changed(self, changed: bool) -> None:
        if changed:
            self._events.append(TemporaryIdentitiesChanged(self._identities.held))

    def _refuse(self, method: EapType, identifier: int, error: Refusal | DecodeError) -> None:
        """Authentication-Reject for AUTN, Client-Error for everything else (RFC 4187 §6.3.1)."""
        refusal = error if isinstance(error, Refusal) else Refusal(AkaFailure.MALFORMED, str(error))
        message = AkaMessage(
            code=EapCode.RESPONSE,
            identifier=identifier,
            subtype=AkaSubtype.AUTHENTICATION_REJECT if refusal.as_autn else AkaSubtype.CLIENT_ERROR,
            attributes=() if refusal.as_autn else (AtClientErrorCode(UNABLE_TO_PROCESS),),
            method=method,
        )
        if not isinstance(self._state, _Refused):
            self._state = _Refused(Failed(refusal.cause, refusal.why))
        self._send(message.encode())

    def _respond(self, identifier: int, kind: EapType, data: bytes) -> None:
        """A response of another type than the method's."""
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


def _notification_text(code: int) -> str:
    """A notification code in words."""
    try:
        return f"the server notifies: {NOTIFICATION_TEXTS[NotificationCode(code)]} ({code})"
    except ValueError:
        return f"the server notifies failure {code}"
