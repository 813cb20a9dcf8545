"""One exchange of the EAP server: EAP-AKA (RFC 4187), EAP-AKA' (RFC 9048), RFC 3748 §4, a pure machine.

It asks for vectors, re-authentication contexts and authorisation by event and is answered; retransmission of
requests is the lower layer's (IKEv2 or Diameter).

::

    EAP-Response/Identity                 -->     or start(NAI of IDi)
                                          <--     EAP-Request/AKA-Identity [ AT_ANY_ID_REQ ]
    EAP-Response/AKA-Identity             -->     only where the identity is not usable as it is
                                          <--     EAP-Request/AKA-Challenge [ AT_RAND, AT_AUTN, … ]
    EAP-Response/AKA-Challenge            -->     or AKA-Reauthentication in place of both
                                          <--     EAP-Request/AKA-Notification [ Success ]
    EAP-Response/AKA-Notification         -->     only where both ends want result indications
                                          <--     EAP-Success
"""

from __future__ import annotations

from collections import deque

from protocols.algorithms.vector import AkaVector
from protocols.eap.aka.attributes import AtClientErrorCode
from protocols.eap.aka.keys import derive_keys
from protocols.eap.aka.messages import METHOD_NAMES, AkaMessage, AkaSubtype, NotificationCode
from protocols.eap.aka.outcome import AkaFailure, PacketDiscarded, PacketToSend
from protocols.eap.aka.server.challenge import Challenge, separated
from protocols.eap.aka.server.events import (
    Authenticated,
    ContextRequested,
    Failed,
    ResponseRefused,
    Resynchronisation,
    ServerEvent,
    ServerOptions,
    Succeeded,
    VectorRequested,
)
from protocols.eap.aka.server.granted import Granted
from protocols.eap.aka.server.identification import Identification, Policy, Step
from protocols.eap.aka.server.notification import failure_before_authentication, notification_after_authentication
from protocols.eap.aka.server.reauthentication import NONCE_LENGTH, CounterTooSmall, Reauthentication
from protocols.eap.aka.server.states import (
    Accepting,
    AwaitingAuthorisation,
    AwaitingChallengeResponse,
    AwaitingContext,
    AwaitingIdentity,
    AwaitingReauthenticationResponse,
    AwaitingVector,
    Concluded,
    Initial,
    Outstanding,
    Refusing,
    State,
    following,
)
from protocols.eap.aka.temporary import FIRST_COUNTER, KeyRing, ReauthenticationContext
from protocols.eap.packet import EapCode, EapPacket, EapType, failure, success, trimmed
from protocols.entropy import Entropy
from protocols.errors import DecodeError, LocalError
from protocols.threegpp.identity import Imsi


class EapAkaServer:
    """One authentication. ``receive`` raises nothing for whatever octets a peer sends.

    Without a key ring there are neither pseudonyms nor fast re-authentication. ``policy`` gives the options of a
    subscriber once its IMSI is known, ``options`` hold until then.
    """

    def __init__(
        self,
        *,
        entropy: Entropy,
        options: ServerOptions | None = None,
        ring: KeyRing | None = None,
        policy: Policy | None = None,
    ) -> None:
        self._entropy = entropy
        self._peer = Identification(options or ServerOptions(), ring, policy)
        self._state: State = Initial()
        self._events: deque[ServerEvent] = deque()
        self._resynchronisations = 0

    def poll_event(self) -> ServerEvent | None:
        """The next event, ``None`` when there is none."""
        return self._events.popleft() if self._events else None

    @property
    def concluded(self) -> bool:
        """Whether success or failure was reported."""
        return isinstance(self._state, Concluded)

    @property
    def method(self) -> EapType:
        """The method that is being used."""
        return self._peer.method

    # Commands

    def start(self, identity: bytes) -> None:
        """Begin with an identity learnt outside EAP: the NAI of IDi, empty for none (RFC 4187 §4.1.4)."""
        if not isinstance(self._state, Initial):
            raise LocalError("this EAP-AKA exchange has started already")
        self._take(self._peer.begin(identity, self._entropy.octets(1)[0]))

    def answer_context(self, context: ReauthenticationContext | None) -> None:
        """What is kept behind the identity of ``ContextRequested``, ``None`` for nothing: full authentication.

        Fast re-authentication is not agreed to past its limit (RFC 4187 §5.1) or under another network name
        (RFC 9048 §3.3).
        """
        state = self._state
        if not isinstance(state, AwaitingContext):
            raise LocalError("no re-authentication context was asked for")
        agreed = (
            context is not None
            and context.imsi == state.imsi
            and context.method is self._peer.method
            and context.counter <= self._peer.options.reauthentications
            and context.network_name == self._peer.network_name()
        )
        if context is not None and agreed:
            self._reauthenticate(state, context)
        else:
            self._request_vector(state.identifier, state.identity, state.imsi)

    def answer_vector(self, vector: AkaVector) -> None:
        """The vector asked for by ``VectorRequested``."""
        state = self._awaiting_vector()
        prime = self._peer.method is EapType.AKA_PRIME
        # RFC 9048 §3.3: the server MUST set the AMF separation bit.
        if prime and self._peer.options.separation_bit and not separated(vector):
            self._fail(state.identifier, AkaFailure.BACKEND, "the AMF separation bit of the vector is clear")
            return
        options = self._peer.options
        both = set(options.methods) == {EapType.AKA, EapType.AKA_PRIME}
        preferred = options.methods[0] is EapType.AKA_PRIME
        challenge = Challenge(
            method=self._peer.method,
            identity=state.identity,
            imsi=state.imsi,
            vector=vector,
            keys=derive_keys(state.identity, ik=vector.ik, ck=vector.ck, method=self._peer.method),
            checkcode=self._peer.checkcode(),
            send_checkcode=options.checkcode,
            result_indications=options.result_indications,
            bidding=preferred if options.bidding and both and not prime else None,
            network_name=self._peer.network_name(),
            kdfs=state.kdfs,
            negotiated=state.negotiated,
            next_pseudonym=self._peer.new_pseudonym(state.imsi, self._entropy),
            next_reauthentication=self._peer.new_reauthentication_identity(state.imsi, FIRST_COUNTER, self._entropy),
        )
        self._challenge(state.identifier, challenge)

    def answer_unknown_user(self) -> None:
        """The home network does not know the subscriber: EAP-Failure at once (RFC 4187 §6.3.3)."""
        state = self._awaiting_vector()
        self._fail(state.identifier, AkaFailure.USER_UNKNOWN, f"the home network does not know IMSI {state.imsi}")

    def answer_failure(self, cause: AkaFailure, why: str) -> None:
        """No vector can be had for another reason (AUTS does not verify, HSS unreachable)."""
        self._fail(self._awaiting_vector().identifier, cause, why)

    def authorise(self) -> None:
        """The peer of ``Authenticated`` may come in."""
        state = self._awaiting_authorisation()
        self._accept(state.identifier, state.granted)

    def deny(self, code: NotificationCode, why: str) -> None:
        """The peer of ``Authenticated`` may not come in: ``code``, of the failures after authentication, says so.

        RFC 4187 §6.2, §6.3.3: EAP-Failure follows the notification, whether result indications were agreed or not.
        """
        state = self._awaiting_authorisation()
        self._notify(state.identifier, state.granted, code)
        self._state = Refusing(identifier=following(state.identifier), cause=AkaFailure.DENIED, why=why)

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
        if isinstance(state, Initial):
            if decoded.type == EapType.IDENTITY:
                self._take(self._peer.begin(decoded.data, following(decoded.identifier)))
            else:
                self._discard("the exchange begins with EAP-Response/Identity")
            return
        if isinstance(state, (AwaitingVector, AwaitingContext, AwaitingAuthorisation, Concluded)):
            self._discard("no request is outstanding")
            return
        # RFC 3748 §4.1: a Response whose Identifier is not the outstanding Request's MUST be discarded.
        if decoded.identifier != state.identifier:
            self._discard(f"identifier {decoded.identifier} is not {state.identifier}, which is outstanding")
        elif isinstance(state, Refusing):
            # RFC 4187 §6.3.3: EAP-Failure follows the notification round, whatever the response holds.
            self._fail(state.identifier, state.cause, state.why)
        elif isinstance(state, Accepting):
            # RFC 4187 §6.2: the response's contents MUST be ignored, EAP-Success is the next packet.
            self._succeed(state.identifier, state.granted)
        elif decoded.type == EapType.NAK:
            self._process_nak(state.identifier, decoded.data)
        elif decoded.type != self._peer.method:
            self._discard(f"EAP type {decoded.type} answers no EAP-{METHOD_NAMES[self._peer.method]} request")
        else:
            self._peer.begun = True
            try:
                self._process(state, AkaMessage.from_packet(decoded), trimmed(packet))
            except ResponseRefused as error:
                self._refuse(state.identifier, error.cause, str(error))
            except DecodeError as error:
                self._refuse(state.identifier, AkaFailure.MALFORMED, str(error))

    def _process_nak(self, identifier: int, wanted: bytes) -> None:
        """EAP-Response/Nak: the next method that both ends want (RFC 3748 §5.3.1)."""
        if self._peer.begun:
            self._discard("a Nak after the method has begun")
            return
        step = self._peer.nak(identifier, wanted)
        if step is not None:
            self._take(step)
            return
        types = ", ".join(str(number) for number in wanted) or "none"
        why = f"the peer refuses EAP-{METHOD_NAMES[self._peer.method]}; types wanted: {types}"
        self._fail(identifier, AkaFailure.METHOD_REFUSED, why)

    def _process(self, state: Outstanding, message: AkaMessage, octets: bytes) -> None:
        """A response of the right identifier and type; ``DecodeError`` and ``ResponseRefused`` where it is wrong."""
        subtype = message.subtype
        if subtype == AkaSubtype.CLIENT_ERROR:
            code = message.require(AtClientErrorCode).value
            self._fail(message.identifier, AkaFailure.CLIENT_ERROR, f"the peer reports client error {code}")
        elif isinstance(state, AwaitingIdentity) and subtype == AkaSubtype.IDENTITY:
            self._take(self._peer.answer(state, message, octets))
        elif isinstance(state, AwaitingChallengeResponse) and subtype == AkaSubtype.CHALLENGE:
            self._process_challenge(state.challenge, message, octets)
        elif isinstance(state, AwaitingChallengeResponse) and subtype == AkaSubtype.AUTHENTICATION_REJECT:
            why = "the USIM rejects AUTN: K or OPc of USIM and network differ"
            self._fail(message.identifier, AkaFailure.AUTN_REJECTED, why)
        elif isinstance(state, AwaitingChallengeResponse) and subtype == AkaSubtype.SYNCHRONIZATION_FAILURE:
            self._process_synchronisation_failure(state.challenge, message)
        elif isinstance(state, AwaitingReauthenticationResponse) and subtype == AkaSubtype.REAUTHENTICATION:
            self._process_reauthentication(state.reauthentication, message, octets)
        else:
            self._refuse(message.identifier, AkaFailure.UNEXPECTED, f"{message.name} was not expected here")

    def _process_challenge(self, challenge: Challenge, message: AkaMessage, octets: bytes) -> None:
        """The response to a challenge, or another key derivation function (RFC 4187 §9.4, RFC 9048 §3.2)."""
        if challenge.wants_another_kdf(message):
            self._challenge(message.identifier, challenge.renegotiated(message))
            return
        self._authenticated(message.identifier, challenge.judge(message, octets, self._peer.realm))

    def _process_synchronisation_failure(self, challenge: Challenge, message: AkaMessage) -> None:
        """AT_AUTS: a fresh vector is asked for, a bounded number of times (RFC 4187 §6.3.1)."""
        auts = challenge.auts(message)
        if self._resynchronisations >= self._peer.options.resynchronisations:
            why = "the USIM still refuses the sequence number after resynchronisation"
            raise ResponseRefused(AkaFailure.SYNCHRONISATION, why)
        self._resynchronisations += 1
        again = Resynchronisation(challenge.vector.rand, auts)
        self._request_vector(message.identifier, challenge.identity, challenge.imsi, again, challenge)

    def _process_reauthentication(self, asked: Reauthentication, message: AkaMessage, octets: bytes) -> None:
        """The response to a re-authentication request (RFC 4187 §5.4, §5.5)."""
        try:
            granted = asked.judge(message, octets)
        except CounterTooSmall:
            self._request_vector(message.identifier, asked.identity, asked.context.imsi)
            return
        self._authenticated(message.identifier, granted)

    # Steps towards a challenge

    def _take(self, step: Step) -> None:
        """Go on as identification says."""
        if isinstance(step, AwaitingIdentity):
            self._state = step
            self._events.append(PacketToSend(step.packet))
        elif isinstance(step, AwaitingContext):
            self._state = step
            self._events.append(ContextRequested(identity=step.identity, username=step.username, imsi=step.imsi))
        else:
            self._request_vector(step.identifier, step.identity, step.imsi)

    def _request_vector(
        self,
        identifier: int,
        identity: bytes,
        imsi: Imsi,
        again: Resynchronisation | None = None,
        challenge: Challenge | None = None,
    ) -> None:
        """Ask the home network; after resynchronisation AT_KDF stays as it was negotiated (RFC 9048 §3.2)."""
        prime = self._peer.method is EapType.AKA_PRIME
        self._state = AwaitingVector(
            identifier=identifier,
            identity=identity,
            imsi=imsi,
            kdfs=challenge.kdfs if challenge is not None else self._peer.options.kdfs if prime else (),
            negotiated=challenge is not None and challenge.negotiated,
        )
        requested = VectorRequested(
            identity=identity,
            imsi=imsi,
            resynchronisation=again,
            method=self._peer.method,
            network_name=self._peer.network_name() if prime else None,
        )
        self._events.append(requested)

    def _challenge(self, identifier: int, challenge: Challenge) -> None:
        """Send a challenge."""
        identifier = following(identifier)
        self._state = AwaitingChallengeResponse(identifier=identifier, challenge=challenge)
        self._events.append(PacketToSend(challenge.request(identifier, self._entropy)))

    def _reauthenticate(self, state: AwaitingContext, context: ReauthenticationContext) -> None:
        """Send a re-authentication request."""
        identifier = following(state.identifier)
        asked = Reauthentication(
            context=context,
            identity=state.identity,
            nonce_s=self._entropy.octets(NONCE_LENGTH),
            checkcode=self._peer.checkcode(),
            send_checkcode=self._peer.options.checkcode,
            result_indications=self._peer.options.result_indications,
            next_reauthentication=self._peer.new_reauthentication_identity(
                state.imsi, context.counter + 1, self._entropy
            ),
        )
        self._state = AwaitingReauthenticationResponse(identifier=identifier, reauthentication=asked)
        self._events.append(PacketToSend(asked.request(identifier, self._entropy)))

    # Steps towards the end

    def _authenticated(self, identifier: int, granted: Granted) -> None:
        """The peer is who it says: ask for authorisation where that is wanted."""
        if not self._peer.options.authorisation:
            self._accept(identifier, granted)
            return
        self._state = AwaitingAuthorisation(identifier=identifier, granted=granted)
        asked = Authenticated(imsi=granted.imsi, identity=granted.identity, method=granted.method, fast=granted.fast)
        self._events.append(asked)

    def _accept(self, identifier: int, granted: Granted) -> None:
        """Success, behind a protected notification where both ends want one (RFC 4187 §6.2)."""
        if granted.result_indications:
            self._notify(identifier, granted, NotificationCode.SUCCESS)
            self._state = Accepting(identifier=following(identifier), granted=granted)
        else:
            self._succeed(identifier, granted)

    def _notify(self, identifier: int, granted: Granted, code: NotificationCode) -> None:
        """EAP-Request/AKA-Notification after authentication."""
        packet = notification_after_authentication(
            granted.method, following(identifier), code, granted.protection, self._entropy
        )
        self._events.append(PacketToSend(packet))

    def _refuse(self, identifier: int, cause: AkaFailure, why: str) -> None:
        """Our own finding: the server MUST notify before EAP-Failure (RFC 4187 §6.3.2).

        It is always before a successful round, so the code is General failure and carries no AT_MAC (§6.1).
        """
        identifier = following(identifier)
        self._state = Refusing(identifier=identifier, cause=cause, why=why)
        self._events.append(PacketToSend(failure_before_authentication(self._peer.method, identifier)))

    def _succeed(self, identifier: int, granted: Granted) -> None:
        """EAP-Success (RFC 3748 §4.2)."""
        self._state = Concluded()
        succeeded = Succeeded(
            msk=granted.msk,
            emsk=granted.emsk,
            imsi=granted.imsi,
            identity=granted.identity,
            packet=success(identifier),
            method=granted.method,
            fast=granted.fast,
            context=granted.context,
            pseudonym=granted.pseudonym,
        )
        self._events.append(succeeded)

    def _fail(self, identifier: int, cause: AkaFailure, why: str) -> None:
        """EAP-Failure (RFC 3748 §4.2)."""
        self._state = Concluded()
        self._events.append(Failed(cause=cause, why=why, packet=failure(identifier)))

    def _discard(self, why: str) -> None:
        """Pass a packet over."""
        self._events.append(PacketDiscarded(why))

    def _awaiting_vector(self) -> AwaitingVector:
        """The state in which an answer of the home network is awaited."""
        if not isinstance(self._state, AwaitingVector):
            raise LocalError("no vector was asked for")
        return self._state

    def _awaiting_authorisation(self) -> AwaitingAuthorisation:
        """The state in which authorisation is awaited."""
        if not isinstance(self._state, AwaitingAuthorisation):
            raise LocalError("no authorisation was asked for")
        return self._state
