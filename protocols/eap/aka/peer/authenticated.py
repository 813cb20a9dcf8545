"""Judging what authenticates the server, and answering it: the challenge, and fast re-authentication.

Both are functions of the request and what is known; ``Refusal`` and ``DecodeError`` say why not.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from protocols.algorithms.usim import UsimSuccess
from protocols.algorithms.vector import SQN_LENGTH
from protocols.eap.aka.attributes import (
    AtAutn,
    AtBidding,
    AtCheckcode,
    AtCounter,
    AtCounterTooSmall,
    AtEncrData,
    AtIv,
    AtKdfInput,
    AtMac,
    AtNextPseudonym,
    AtNextReauthId,
    AtNonceS,
    AtRes,
    AtResultInd,
    Attribute,
)
from protocols.eap.aka.keys import SessionKeys, derive_ck_ik_prime, derive_keys, derive_reauthentication_keys
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.outcome import AkaFailure
from protocols.eap.aka.peer.negotiation import network_name
from protocols.eap.aka.peer.options import PeerOptions
from protocols.eap.aka.peer.refusal import Refusal
from protocols.eap.aka.peer.temporary import Pseudonym, ReauthenticationContext
from protocols.eap.aka.protection import IV_LENGTH, checkcode, encode_with_mac, encrypt_attributes, mac_verifies
from protocols.eap.aka.protection import nested_attributes as nested
from protocols.eap.packet import EapCode, EapType
from protocols.entropy import Entropy
from protocols.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticated:
    """The server is authenticated and ``response`` says so.

    ``counter`` is that of a fast re-authentication, ``None`` after full authentication. ``pseudonym`` and ``context``
    are what the server gave for the next time. ``success_allowed`` is false while a protected success notification
    has to come first.
    """

    method: EapType
    response: bytes
    keys: SessionKeys
    k_encr: Secret
    k_aut: Secret
    identity: bytes
    counter: int | None
    pseudonym: Pseudonym | None
    context: ReauthenticationContext | None
    result_indications: bool
    success_allowed: bool


@dataclass(frozen=True, slots=True)
class CounterTooSmall:
    """The counter of a fast re-authentication is not fresh; ``response`` asks for full authentication."""

    response: bytes


def answer_challenge(
    request: AkaMessage,
    octets: bytes,
    result: UsimSuccess,
    *,
    identity: bytes,
    identity_rounds: tuple[bytes, ...],
    options: PeerOptions,
) -> Authenticated:
    """AT_MAC, AT_BIDDING, AT_CHECKCODE, AT_ENCR_DATA, then the response (RFC 4187 §9.3, §9.4; RFC 9048 §3, §4)."""
    ck, ik, name = result.ck, result.ik, ""
    if request.method is EapType.AKA_PRIME:
        name = network_name(request)
        sqn_xor_ak = request.require(AtAutn).value[:SQN_LENGTH]
        ck, ik = derive_ck_ik_prime(ck, ik, network_name=request.require(AtKdfInput).value, sqn_xor_ak=sqn_xor_ak)
    keys = derive_keys(identity, ik=ik, ck=ck, method=request.method)
    _check_mac(request, octets, keys.k_aut)
    bidding = request.get(AtBidding)
    if bidding is not None and bidding.aka_prime_preferred and options.prefers_aka_prime:
        # RFC 9048 §4: "the peer behaves as if AUTN had been incorrect"
        why = "both ends would rather use EAP-AKA': somebody bids down"
        raise Refusal(AkaFailure.BIDDING_DOWN, why, as_autn=True)
    attributes: list[Attribute] = [AtRes.of(result.res)]
    attributes += _checkcode(request, identity_rounds)
    given = nested(request, keys.k_encr)
    indications = _indications(request, options, attributes)
    next_pseudonym, next_identity = _text(given.get(AtNextPseudonym)), _text(given.get(AtNextReauthId))
    context = None
    if next_identity is not None:
        context = ReauthenticationContext(
            method=request.method,
            identity=next_identity,
            counter=0,
            k_encr=keys.k_encr,
            k_aut=keys.k_aut,
            k_re=keys.k_re,
            network_name=name,
        )
    return Authenticated(
        method=request.method,
        response=encode_with_mac(response_to(request, AkaSubtype.CHALLENGE, *attributes), keys.k_aut),
        keys=SessionKeys(msk=keys.msk, emsk=keys.emsk),
        k_encr=keys.k_encr,
        k_aut=keys.k_aut,
        identity=identity,
        counter=None,
        pseudonym=None if next_pseudonym is None else Pseudonym(method=request.method, username=next_pseudonym),
        context=context,
        result_indications=indications,
        success_allowed=not indications,
    )


def answer_reauthentication(
    request: AkaMessage,
    octets: bytes,
    context: ReauthenticationContext,
    *,
    identity: bytes,
    identity_rounds: tuple[bytes, ...],
    options: PeerOptions,
    entropy: Entropy,
) -> Authenticated | CounterTooSmall:
    """AT_MAC, AT_CHECKCODE, AT_COUNTER, then the response (RFC 4187 §5.4, §5.5, §9.7, §9.8)."""
    for kind in (AtMac, AtIv, AtEncrData):
        request.require(kind)
    _check_mac(request, octets, context.k_aut)
    checkcodes = _checkcode(request, identity_rounds)
    given = nested(request, context.k_encr)
    counter, nonce_s = given.require(AtCounter), given.require(AtNonceS).value
    # §5.1: "the counter MUST be greater than on any of the previous fast re-authentications"
    too_small = counter.value <= context.counter
    inside: tuple[Attribute, ...] = (AtCounterTooSmall(), counter) if too_small else (counter,)
    attributes: list[Attribute] = [*encrypt_attributes(inside, context.k_encr, entropy.octets(IV_LENGTH)), *checkcodes]
    indications = not too_small and _indications(request, options, attributes)
    message = response_to(request, AkaSubtype.REAUTHENTICATION, *attributes)
    response = encode_with_mac(message, context.k_aut, nonce_s)
    if too_small:
        return CounterTooSmall(response)
    keys = derive_reauthentication_keys(
        context.k_re, method=context.method, identity=identity, counter=counter.value, nonce_s=nonce_s
    )
    next_identity = _text(given.get(AtNextReauthId))
    following = None
    if next_identity is not None:
        following = ReauthenticationContext(
            method=context.method,
            identity=next_identity,
            counter=counter.value,
            k_encr=context.k_encr,
            k_aut=context.k_aut,
            k_re=context.k_re,
            network_name=context.network_name,
        )
    return Authenticated(
        method=context.method,
        response=response,
        keys=keys,
        k_encr=context.k_encr,
        k_aut=context.k_aut,
        identity=identity,
        counter=counter.value,
        pseudonym=None,
        context=following,
        result_indications=indications,
        success_allowed=not indications,
    )


def acknowledge_notification(request: AkaMessage, octets: bytes, state: Authenticated, entropy: Entropy) -> bytes:
    """The response to a notification after authentication (RFC 4187 §9.10, §9.11)."""
    _check_mac(request, octets, state.k_aut)
    attributes: tuple[Attribute, ...] = ()
    if state.counter is not None:
        # "The counter value … MUST be the same as in the EAP-Request/AKA-Reauthentication packet"
        counter = nested(request, state.k_encr).require(AtCounter)
        if counter.value != state.counter:
            why = f"AT_COUNTER of a notification is {counter.value}, not {state.counter}"
            raise Refusal(AkaFailure.UNEXPECTED, why)
        attributes = encrypt_attributes((counter,), state.k_encr, entropy.octets(IV_LENGTH))
    else:
        nested(request, state.k_encr)
    return encode_with_mac(response_to(request, AkaSubtype.NOTIFICATION, *attributes), state.k_aut)


def response_to(request: AkaMessage, subtype: int, *attributes: Attribute) -> AkaMessage:
    """A response of the request's method."""
    return AkaMessage(
        code=EapCode.RESPONSE,
        identifier=request.identifier,
        subtype=subtype,
        attributes=attributes,
        method=request.method,
    )


def _check_mac(request: AkaMessage, octets: bytes, k_aut: Secret) -> None:
    if not mac_verifies(octets, k_aut):
        raise Refusal(AkaFailure.WRONG_MAC, f"AT_MAC of {request.name} does not verify")


def _checkcode(request: AkaMessage, identity_rounds: tuple[bytes, ...]) -> list[Attribute]:
    """Our own AT_CHECKCODE where the server sent one, which must be right (RFC 4187 §10.13)."""
    received = request.get(AtCheckcode)
    if received is None:
        return []
    expected = checkcode(identity_rounds, request.method)
    if not hmac.compare_digest(received.checkcode, expected):
        why = "AT_CHECKCODE does not match: identity messages were altered"
        raise Refusal(AkaFailure.WRONG_CHECKCODE, why)
    return [AtCheckcode(expected)]


def _indications(request: AkaMessage, options: PeerOptions, attributes: list[Attribute]) -> bool:
    """Whether a protected result indication is agreed; AT_RESULT_IND is added then (RFC 4187 §6.2)."""
    # "The peer MUST NOT include AT_RESULT_IND if it did not receive AT_RESULT_IND from the server."
    agreed = options.result_indications and request.get(AtResultInd) is not None
    if agreed:
        attributes.append(AtResultInd())
    return agreed


def _text(attribute: AtNextPseudonym | AtNextReauthId | None) -> str | None:
    """An identity; one that is no text is ignored, as RFC 4187 §4.1.1.8 lets a peer do."""
    if attribute is None:
        return None
    try:
        return attribute.value.decode()
    except UnicodeDecodeError:
        return None
