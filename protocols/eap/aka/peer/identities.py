"""Which identity answers which question (RFC 4187 §4.1; TS 23.003 §19.3; TS 24.302 §7.2.2.1).

Outside of the method (IDi, EAP-Response/Identity) and for AT_ANY_ID_REQ: the fast re-authentication identity, else the
pseudonym, else the permanent one. For AT_FULLAUTH_ID_REQ one of the last two, for AT_PERMANENT_ID_REQ the last.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocols.eap.aka.attributes import AtAnyIdReq, AtPermanentIdReq, Attribute
from protocols.eap.aka.messages import IDENTITY_REQUESTS, AkaMessage
from protocols.eap.aka.outcome import AkaFailure
from protocols.eap.aka.peer.negotiation import network_names_match
from protocols.eap.aka.peer.options import IdentityForm, PeerOptions, PrivacyPolicy
from protocols.eap.aka.peer.refusal import Refusal
from protocols.eap.aka.peer.temporary import Pseudonym, ReauthenticationContext, TemporaryIdentities
from protocols.eap.packet import EapType
from protocols.errors import DecodeError, LocalError
from protocols.threegpp.identity import NAI_MAXIMUM_LENGTH, IdentityKind, Imsi, Nai

_LEADING_DIGITS = {EapType.AKA: "0", EapType.AKA_PRIME: "6"}  # RFC 4187 §4.1.1.6, TS 23.003 §19.3.2
_DIGITS = frozenset({IdentityKind.PERMANENT_AKA, IdentityKind.PERMANENT_SIM, IdentityKind.PERMANENT_AKA_PRIME})


class PeerIdentities:
    """The identities of one exchange; ``current`` is the last one given to the server, octet for octet.

    ``offered`` is the fast re-authentication context whose identity was the last given, if it was one's.
    """

    def __init__(
        self, nai: str, imsi: Imsi, options: PeerOptions, held: TemporaryIdentities, outer: str | None = None
    ) -> None:
        for text in (nai, outer or ""):
            if len(text.encode()) > NAI_MAXIMUM_LENGTH:
                raise LocalError(f"an identity has at most {NAI_MAXIMUM_LENGTH} octets")
        self.held = held
        self.offered: ReauthenticationContext | None = None
        self._options = options
        self._own = _own_nai(nai, imsi)
        context, pseudonym = self._context(None), self._pseudonym(None)
        self._outer_context: ReauthenticationContext | None = None
        if outer is not None:
            self.outer = outer
        elif context is not None:
            self.outer, self._outer_context = str(self._own.temporary(context.identity)), context
        elif pseudonym is not None:
            self.outer = str(self._own.temporary(pseudonym.username))
        else:
            self.outer = nai
        self.current = self.outer.encode()

    def give_outside(self) -> bool:
        """``outer`` is given, or was in IDi; whether that uses a fast re-authentication identity up."""
        self.current = self.outer.encode()
        return self._give(self._outer_context)

    def answer(self, message: AkaMessage, previous: Sequence[type[Attribute]]) -> tuple[type[Attribute], bool]:
        """Which identity a request asks for, which is ``current`` then; whether ``held`` has changed.

        Each of the three requests comes once at most, from ANY towards PERMANENT: that keeps the limit of three
        rounds as well (RFC 4187 §4.1.5). ``Refusal`` when the sequence is wrong or privacy forbids an answer.
        """
        found = [type(attribute) for attribute in message.attributes if isinstance(attribute, IDENTITY_REQUESTS)]
        if len(found) != 1:
            raise DecodeError(f"{message.name} asks for {len(found)} identities, not one")
        asked = found[0]
        if AtPermanentIdReq in previous or (asked is AtAnyIdReq and previous) or asked in previous:
            raise Refusal(AkaFailure.UNEXPECTED, f"{asked.type.name} breaks the sequence of identity requests")
        context = self._context(message.method) if asked is AtAnyIdReq else None
        pseudonym = self._pseudonym(message.method)
        if self._options.permanent_inside:
            context = pseudonym = None
        if asked is AtPermanentIdReq and pseudonym is not None:
            if self._options.privacy is PrivacyPolicy.CONSERVATIVE:
                why = "the server asks for the permanent identity though the peer has a pseudonym"
                raise Refusal(AkaFailure.IDENTITY_WITHHELD, why)
            pseudonym = None
        if context is not None:
            nai = self._own.undecorated.temporary(context.identity)
        elif pseudonym is not None:
            nai = self._own.undecorated.temporary(pseudonym.username)
        else:
            nai = self._permanent(message.method)
        # RFC 4187 §5.3: the realm that the server gave may be what its requests are routed by
        bare = self._options.identity_form is IdentityForm.USERNAME and context is None
        self.current = (nai.username if bare else str(nai)).encode()
        return asked, self._give(context)

    def next(self, pseudonym: Pseudonym | None, context: ReauthenticationContext | None) -> TemporaryIdentities:
        """What is held after a success that brought these; unusable ones and those not wanted are passed over."""
        if pseudonym is not None and not (self._options.pseudonyms and self._usable(pseudonym.username, bare=True)):
            pseudonym = None
        if context is not None and not (self._options.fast_reauthentication and self._usable(context.identity)):
            context = None
        # §4.1.1.8: without a new pseudonym the old one may go on; §5.3: without a new context the old one MUST go
        self.held = TemporaryIdentities(pseudonym=pseudonym or self.held.pseudonym, reauthentication=context)
        return self.held

    def _give(self, context: ReauthenticationContext | None) -> bool:
        """§4.1.1.8: an identity once used MUST be discarded, whatever becomes of the exchange."""
        self.offered = context
        if context is None or self.held.reauthentication is None:
            return False
        self.held = TemporaryIdentities(pseudonym=self.held.pseudonym)
        return True

    def _context(self, method: EapType | None) -> ReauthenticationContext | None:
        """The fast re-authentication context that may be used, in this method where one has begun."""
        context = self.held.reauthentication or self.offered
        options = self._options
        if context is None or not options.fast_reauthentication or not self._usable(context.identity):
            return None
        if context.method not in options.methods or method not in (None, context.method):
            return None
        if context.counter >= options.reauthentications:
            return None
        # RFC 9048 §3.3: not in an access network that is called otherwise
        elsewhere = options.network_name is not None and not network_names_match(
            options.network_name, context.network_name
        )
        return None if context.method is EapType.AKA_PRIME and elsewhere else context

    def _pseudonym(self, method: EapType | None) -> Pseudonym | None:
        pseudonym = self.held.pseudonym
        if pseudonym is None or not self._options.pseudonyms or not self._usable(pseudonym.username, bare=True):
            return None
        fits = pseudonym.method in self._options.methods and method in (None, pseudonym.method)
        return pseudonym if fits else None

    def _permanent(self, method: EapType) -> Nai:
        """The permanent identity without decoration, with the leading digit of the method."""
        own = self._own.undecorated
        if own.kind not in _DIGITS:
            return own
        return Nai(username=_LEADING_DIGITS[method] + own.username[1:], realm=own.realm)

    def _usable(self, identity: str, *, bare: bool = False) -> bool:
        """Whether this is an NAI, also with our realm and decoration; ``bare``: it must have none of its own.

        RFC 4187 §10.10: a pseudonym "MUST NOT include any realm portion".
        """
        try:
            given, nai = Nai.parse(identity), self._own.temporary(identity)
        except ValueError:
            return False
        return not (bare and given.realm) and len(str(nai).encode()) <= NAI_MAXIMUM_LENGTH


def _own_nai(nai: str, imsi: Imsi) -> Nai:
    """The permanent NAI: the one given, or one of the IMSI at its realm."""
    try:
        own = Nai.parse(nai)
    except ValueError:
        return Nai(username=f"0{imsi}")
    return own if own.imsi == imsi else Nai(username=f"0{imsi}", realm=own.home_realm)
