"""The round of fast re-authentication (RFC 4187 §5.4, §5.5, §9.7, §9.8; RFC 9048 §3.3)."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.eap.aka.attributes import (
    AtCheckcode,
    AtCounter,
    AtCounterTooSmall,
    AtMac,
    AtNextReauthId,
    AtNonceS,
    AtResultInd,
    Attribute,
)
from protocols.eap.aka.keys import derive_reauthentication_keys
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.outcome import AkaFailure
from protocols.eap.aka.protection import IV_LENGTH, encode_with_mac, encrypt_attributes, mac_verifies, nested_attributes
from protocols.eap.aka.server.challenge import check_checkcode
from protocols.eap.aka.server.events import ResponseRefused
from protocols.eap.aka.server.granted import Granted
from protocols.eap.aka.server.notification import Protection
from protocols.eap.aka.temporary import ReauthenticationContext
from protocols.eap.packet import EapCode
from protocols.entropy import Entropy
from protocols.threegpp.identity import Nai

NONCE_LENGTH = 16


class CounterTooSmall(Exception):
    """The peer has seen this counter: full authentication follows (RFC 4187 §5.5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reauthentication:
    """One re-authentication request: what it offers, and what its response is judged by."""

    context: ReauthenticationContext
    identity: bytes
    nonce_s: bytes
    checkcode: bytes
    send_checkcode: bool
    result_indications: bool
    next_reauthentication: Nai | None

    def request(self, identifier: int, entropy: Entropy) -> bytes:
        """EAP-Request/AKA-Reauthentication (RFC 4187 §9.7)."""
        nested: list[Attribute] = [AtCounter(self.context.counter), AtNonceS(self.nonce_s)]
        if self.next_reauthentication is not None:
            nested.append(AtNextReauthId(str(self.next_reauthentication).encode()))
        attributes: list[Attribute] = [
            *encrypt_attributes(nested, self.context.k_encr, entropy.octets(IV_LENGTH)),
        ]
        if self.send_checkcode:
            attributes.append(AtCheckcode(self.checkcode))
        if self.result_indications:
            attributes.append(AtResultInd())
        message = AkaMessage(
            method=self.context.method,
            code=EapCode.REQUEST,
            identifier=identifier,
            subtype=AkaSubtype.REAUTHENTICATION,
            attributes=tuple(attributes),
        )
        return encode_with_mac(message, self.context.k_aut)

    def judge(self, message: AkaMessage, octets: bytes) -> Granted:
        """AT_MAC over NONCE_S, AT_COUNTER, AT_CHECKCODE (§9.8).

        ``CounterTooSmall`` where the peer says so; ``ResponseRefused`` and ``DecodeError`` where the response is wrong.
        """
        message.require(AtMac)
        if not mac_verifies(octets, self.context.k_aut, self.nonce_s):
            why = "AT_MAC of the re-authentication response does not verify"
            raise ResponseRefused(AkaFailure.WRONG_MAC, why)
        check_checkcode(message, self.checkcode)
        nested = nested_attributes(message, self.context.k_encr)
        counter = nested.require(AtCounter).value
        # §6.3.2: an invalid AT_COUNTER is answered by a notification.
        if counter != self.context.counter:
            why = f"AT_COUNTER is {counter}, not {self.context.counter} as requested"
            raise ResponseRefused(AkaFailure.WRONG_COUNTER, why)
        if nested.get(AtCounterTooSmall) is not None:
            raise CounterTooSmall
        keys = derive_reauthentication_keys(
            self.context.k_re,
            method=self.context.method,
            identity=self.identity,
            counter=counter,
            nonce_s=self.nonce_s,
        )
        following = None
        if self.next_reauthentication is not None:
            following = self.context.following(self.next_reauthentication.username)
        return Granted(
            identity=self.identity,
            imsi=self.context.imsi,
            method=self.context.method,
            fast=True,
            msk=keys.msk,
            emsk=keys.emsk,
            context=following,
            pseudonym=self.context.pseudonym,
            protection=Protection(k_encr=self.context.k_encr, k_aut=self.context.k_aut, counter=counter),
            result_indications=self.result_indications and message.get(AtResultInd) is not None,
        )
