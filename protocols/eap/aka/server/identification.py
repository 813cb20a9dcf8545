"""Which method is used, and who the peer is: everything up to the first request that needs keys.

RFC 3748 §5.3.1 (Nak), RFC 4187 §4.1.4 and §4.1.7 (identity rounds), RFC 9048 §3 (leading digits).
"""

from __future__ import annotations

from collections.abc import Callable

from protocols.eap.aka.attributes import AtIdentity
from protocols.eap.aka.messages import METHOD_NAMES, AkaMessage
from protocols.eap.aka.outcome import AkaFailure
from protocols.eap.aka.protection import checkcode
from protocols.eap.aka.server.events import IdentityRequest, ResponseRefused, ServerOptions
from protocols.eap.aka.server.identity import (
    Permanent,
    Pseudonym,
    Reauthentication,
    Recognised,
    Unusable,
    first_request,
    identity_request,
    is_decorated,
    method_of,
    nai_of,
    next_request,
    recognise,
    shown,
)
from protocols.eap.aka.server.states import AwaitingContext, AwaitingIdentity, Identified, following, preceding
from protocols.eap.aka.temporary import PSEUDONYMS, REAUTHENTICATION_IDENTITIES, KeyRing, issue_username
from protocols.eap.packet import EapType
from protocols.entropy import Entropy
from protocols.threegpp.identity import Imsi, Nai

Policy = Callable[[Imsi], ServerOptions]
Step = AwaitingIdentity | AwaitingContext | Identified


class Identification:
    """Method, options and identity of one exchange; each answer is the next step.

    ``policy`` gives the options of a subscriber once its IMSI is known, ``options`` hold until then.
    """

    def __init__(self, options: ServerOptions, ring: KeyRing | None, policy: Policy | None) -> None:
        self.options = options
        self.method = options.methods[0]
        self.begun = False
        self.realm = ""
        self._ring = ring
        self._policy = policy
        self._identity = b""
        self._refused: set[EapType] = set()
        self._packets: list[bytes] = []

    # --- steps

    def begin(self, identity: bytes, identifier: int) -> Step:
        """With an identity from outside or from EAP-Response/Identity; ``identifier`` is the next request's."""
        self._note(identity)
        self._use(self._first_method(identity))
        return self._go_on(identifier)

    def nak(self, identifier: int, wanted: bytes) -> Step | None:
        """The next method that both ends want, ``None`` when there is none (RFC 3748 §5.3.1)."""
        self._refused.add(self.method)
        for method in self.options.methods:
            if method in wanted and method not in self._refused:
                self._use(method)
                return self._go_on(following(identifier))
        return None

    def answer(self, state: AwaitingIdentity, message: AkaMessage, octets: bytes) -> Step:
        """AT_IDENTITY (RFC 4187 §4.1.7); ``ResponseRefused`` when nothing is left to ask."""
        identity = message.require(AtIdentity).value
        # §10.13: a request counts only once its response has come.
        self._packets += [state.packet, octets]
        self._note(identity)
        recognised = recognise(identity, self.method, self._ring)
        answers = isinstance(recognised, Permanent)
        answers |= isinstance(recognised, Pseudonym) and state.asked is not IdentityRequest.PERMANENT
        answers |= isinstance(recognised, Reauthentication) and state.asked is IdentityRequest.ANY
        step = self._identified(message.identifier, recognised) if answers else None
        if step is not None:
            return step
        asked = next_request(state.asked, recognised)
        if asked is None:
            why = f"identity {shown(identity)} is no permanent EAP-{METHOD_NAMES[self.method]} identity"
            raise ResponseRefused(AkaFailure.IDENTITY_UNUSABLE, why)
        return self._ask(following(message.identifier), asked)

    # --- what later rounds need

    def checkcode(self) -> bytes:
        """Over the identity rounds so far (RFC 4187 §10.13)."""
        return checkcode(self._packets, self.method)

    def network_name(self) -> bytes:
        """The network name (RFC 9048 §3.1), nothing in EAP-AKA."""
        return self.options.network_name if self.method is EapType.AKA_PRIME else b""

    def new_pseudonym(self, imsi: Imsi, entropy: Entropy) -> bytes | None:
        """A pseudonym: a username without realm (RFC 4187 §4.1.1.7)."""
        if self._ring is None or not self.options.pseudonyms:
            return None
        return issue_username(self._ring, PSEUDONYMS[self.method], imsi, entropy)

    def new_reauthentication_identity(self, imsi: Imsi, counter: int, entropy: Entropy) -> Nai | None:
        """A re-authentication identity in the realm that the peer named (TS 23.003 §19.3.4), for ``counter``."""
        if self._ring is None or not self.options.reauthentication or counter > self.options.reauthentications:
            return None
        username = issue_username(self._ring, REAUTHENTICATION_IDENTITIES[self.method], imsi, entropy)
        return _in_realm(username.decode(), self.realm)

    # --- inside

    def _go_on(self, identifier: int) -> Step:
        """With the identity at hand, unless it is of no use or not to be trusted.

        RFC 4187 §4.1.2.2: of a decorated one the server MUST request an undecorated copy.
        """
        recognised: Recognised | None = None
        if not self.options.always_request_identity and not is_decorated(self._identity):
            recognised = recognise(self._identity, self.method, self._ring)
            step = self._identified(preceding(identifier), recognised)
            if step is not None:
                return step
        return self._ask(identifier, first_request(recognised, self.options, self._ring))

    def _identified(self, identifier: int, recognised: Recognised) -> Step | None:
        """The step that a recognised identity allows; ``identifier`` is the last one used."""
        imsi = None if isinstance(recognised, Unusable) else recognised.imsi
        if imsi is None:
            return None
        if self._policy is not None:
            self.options, self._policy = self._policy(imsi), None
            if self.begun and self.method not in self.options.methods:
                why = f"EAP-{METHOD_NAMES[self.method]} is not allowed to IMSI {imsi}"
                raise ResponseRefused(AkaFailure.METHOD_REFUSED, why)
            wanted = self.method if self.begun else self._first_method(self._identity)
            if wanted is not self.method or (self.options.always_request_identity and not self.begun):
                self._use(wanted)
                return self._go_on(following(identifier))
        if isinstance(recognised, Reauthentication) and self.options.reauthentication:
            return AwaitingContext(
                identifier=identifier, identity=self._identity, imsi=imsi, username=recognised.username
            )
        return Identified(identifier=identifier, identity=self._identity, imsi=imsi)

    def _first_method(self, identity: bytes) -> EapType:
        """The method to begin with; one that the peer has refused does not come again."""
        methods = [each for each in self.options.methods if each not in self._refused]
        named = method_of(identity) if self.options.identity_chooses else None
        if named is not None and named in methods:
            return named
        return methods[0] if methods else self.method

    def _use(self, method: EapType) -> None:
        """Go on with a method."""
        self.method = method
        self._packets = []

    def _note(self, identity: bytes) -> None:
        """Remember the last identity, and the last home realm that one named."""
        self._identity = identity
        nai = nai_of(identity)
        if nai is not None and nai.home_realm:
            self.realm = nai.home_realm

    def _ask(self, identifier: int, asked: IdentityRequest) -> AwaitingIdentity:
        """EAP-Request/AKA-Identity (RFC 4187 §9.1)."""
        packet = identity_request(self.method, identifier, asked)
        return AwaitingIdentity(identifier=identifier, packet=packet, asked=asked)


def _in_realm(username: str, realm: str) -> Nai:
    """An NAI, without the realm where that is too long or none (a decoration may be any text)."""
    whole = Nai(username=username, realm=realm)
    try:
        return whole if Nai.parse(str(whole)) == whole else Nai(username=username)
    except ValueError:
        return Nai(username=username)
