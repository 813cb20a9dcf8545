"""The challenge round of full authentication (RFC 4187 §9.3, §9.4; RFC 9048 §3.1 to §3.3, §4)."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace

from protocols.algorithms.vector import AMF_SEPARATION, SQN_LENGTH, AkaVector
from protocols.eap.aka.attributes import (
    AtAutn,
    AtAuts,
    AtBidding,
    AtCheckcode,
    AtKdf,
    AtKdfInput,
    AtMac,
    AtNextPseudonym,
    AtNextReauthId,
    AtRand,
    AtRes,
    AtResultInd,
    Attribute,
)
from protocols.eap.aka.keys import AkaKeys
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.outcome import AkaFailure
from protocols.eap.aka.protection import IV_LENGTH, encode_with_mac, encrypt_attributes, mac_verifies, nested_attributes
from protocols.eap.aka.server.events import ResponseRefused
from protocols.eap.aka.server.granted import Granted
from protocols.eap.aka.server.identity import permanent_nai, shown
from protocols.eap.aka.server.notification import Protection
from protocols.eap.aka.temporary import FIRST_COUNTER, ReauthenticationContext
from protocols.eap.packet import EapCode, EapType
from protocols.entropy import Entropy
from protocols.threegpp.identity import Imsi, Nai

_AMF_AT = SQN_LENGTH  # AUTN is SQN xor AK, AMF, MAC (TS 33.102 §6.3.2)


def separated(vector: AkaVector) -> bool:
    """Whether the AMF separation bit is set in AUTN (TS 33.102 Annex H)."""
    return bool(vector.autn[_AMF_AT] & AMF_SEPARATION[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One challenge: what it offers, and what its response is judged by.

    ``bidding`` is AT_BIDDING's D bit, ``None`` for no attribute; ``kdfs`` are empty in EAP-AKA.
    ``checkcode`` is over the identity rounds before, sent where ``send_checkcode``. The new temporary identities are
    ``None`` where there are none.
    """

    method: EapType
    identity: bytes
    imsi: Imsi
    vector: AkaVector
    keys: AkaKeys
    checkcode: bytes
    send_checkcode: bool
    result_indications: bool
    bidding: bool | None = None
    network_name: bytes = b""
    kdfs: tuple[int, ...] = ()
    negotiated: bool = False
    next_pseudonym: bytes | None = None
    next_reauthentication: Nai | None = None

    def request(self, identifier: int, entropy: Entropy) -> bytes:
        """EAP-Request/AKA-Challenge (RFC 4187 §9.3)."""
        attributes: list[Attribute] = [AtRand(self.vector.rand), AtAutn(self.vector.autn)]
        if self.method is EapType.AKA_PRIME:
            attributes += [AtKdf(kdf) for kdf in self.kdfs]
            attributes.append(AtKdfInput(self.network_name))
        nested: list[Attribute] = []
        if self.next_pseudonym is not None:
            nested.append(AtNextPseudonym(self.next_pseudonym))
        if self.next_reauthentication is not None:
            nested.append(AtNextReauthId(str(self.next_reauthentication).encode()))
        if nested:
            attributes += encrypt_attributes(nested, self.keys.k_encr, entropy.octets(IV_LENGTH))
        if self.send_checkcode:
            attributes.append(AtCheckcode(self.checkcode))
        if self.result_indications:
            attributes.append(AtResultInd())
        if self.bidding is not None:
            attributes.append(AtBidding(self.bidding))
        message = AkaMessage(
            method=self.method,
            code=EapCode.REQUEST,
            identifier=identifier,
            subtype=AkaSubtype.CHALLENGE,
            attributes=tuple(attributes),
        )
        return encode_with_mac(message, self.keys.k_aut)

    def wants_another_kdf(self, message: AkaMessage) -> bool:
        """Whether a response is a choice among the offered functions (RFC 9048 §3.2): AT_KDF and nothing else."""
        return bool(message.kdfs) and message.get(AtRes) is None and message.get(AtMac) is None

    def renegotiated(self, message: AkaMessage) -> Challenge:
        """The same challenge with the chosen function in front; ``ResponseRefused`` for a choice that is none."""
        wanted = message.kdfs
        alternatives = () if self.negotiated else self.kdfs[1:]
        # RFC 9048 §3.2: the first value is not a valid alternative; then as if AT_MAC had been incorrect.
        if len(wanted) != 1 or wanted[0] not in alternatives:
            named = ", ".join(map(str, wanted))
            raise ResponseRefused(AkaFailure.WRONG_MAC, f"the key derivation function {named} is no alternative here")
        return replace(self, kdfs=(wanted[0], *self.kdfs), negotiated=True)

    def judge(self, message: AkaMessage, octets: bytes, realm: str) -> Granted:
        """AT_MAC, AT_RES, AT_CHECKCODE (RFC 4187 §9.4); ``ResponseRefused`` and ``DecodeError`` where one is wrong.

        ``realm`` is that of the subscriber's permanent identity.
        """
        res = message.require(AtRes)
        message.require(AtMac)
        right = res.bits == 8 * len(self.vector.xres) and hmac.compare_digest(res.res, self.vector.xres)
        if not mac_verifies(octets, self.keys.k_aut):
            hint = f"; RES is right, so the peer's keys are of another identity than {shown(self.identity)}"
            why = "AT_MAC of the challenge response does not verify"
            raise ResponseRefused(AkaFailure.WRONG_MAC, why + (hint if right else ""))
        if not right:
            lengths = f" ({res.bits} bits, XRES has {8 * len(self.vector.xres)})"
            unequal = lengths if res.bits != 8 * len(self.vector.xres) else ""
            raise ResponseRefused(AkaFailure.WRONG_RES, f"RES is not the XRES of the vector{unequal}")
        check_checkcode(message, self.checkcode)
        nested_attributes(message, self.keys.k_encr)
        pseudonym = self.next_pseudonym.decode() if self.next_pseudonym is not None else None
        return Granted(
            identity=self.identity,
            imsi=self.imsi,
            method=self.method,
            fast=False,
            msk=self.keys.msk,
            emsk=self.keys.emsk,
            context=self._context(realm, pseudonym),
            pseudonym=pseudonym,
            protection=Protection(k_encr=self.keys.k_encr, k_aut=self.keys.k_aut, counter=None),
            result_indications=self.result_indications and message.get(AtResultInd) is not None,
        )

    def _context(self, realm: str, pseudonym: str | None) -> ReauthenticationContext | None:
        """What the first fast re-authentication needs (RFC 4187 §5.1)."""
        if self.next_reauthentication is None:
            return None
        return ReauthenticationContext(
            username=self.next_reauthentication.username,
            method=self.method,
            imsi=self.imsi,
            permanent_identity=permanent_nai(self.imsi, realm),
            pseudonym=pseudonym,
            k_encr=self.keys.k_encr,
            k_aut=self.keys.k_aut,
            k_re=self.keys.k_re,
            counter=FIRST_COUNTER,
            network_name=self.network_name,
        )

    def auts(self, message: AkaMessage) -> bytes:
        """AUTS of a synchronisation failure, beside the AT_KDF list as it was sent (RFC 9048 §3.2)."""
        auts = message.require(AtAuts).auts
        if message.kdfs != self.kdfs:
            why = "AT_KDF of the synchronisation failure is not what the challenge offered"
            raise ResponseRefused(AkaFailure.WRONG_MAC, why)
        return auts


def check_checkcode(message: AkaMessage, expected: bytes) -> None:
    """AT_CHECKCODE where it is present; a receiver that implements it MUST check it (RFC 4187 §10.13)."""
    code = message.get(AtCheckcode)
    if code is not None and not hmac.compare_digest(code.checkcode, expected):
        why = "AT_CHECKCODE does not match: identity messages were altered"
        raise ResponseRefused(AkaFailure.WRONG_CHECKCODE, why)
