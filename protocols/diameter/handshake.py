"""Capabilities exchange (RFC 6733 §5.3, §5.6.1): judging the first message of either end.

TLS begins before the first message (§13.1) or not at all: Inband-Security-Id is not sent, and a peer that offers
nothing but TLS by it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocols.diameter.capabilities import Admission, Capabilities, Judgement, capability_avps, in_common
from protocols.diameter.codec import Address, DiameterMessage, RequestError, Result, check_request
from protocols.diameter.delivery import check_error_flag
from protocols.diameter.dictionary import CommandCode, ResultCode
from protocols.diameter.events import CloseReason
from protocols.diameter.identity import DiameterIdentity
from protocols.errors import DecodeError

NO_INBAND_SECURITY = 0  # RFC 6733 §6.10


@dataclass(frozen=True, slots=True)
class HandshakeFailure:
    """The capabilities exchange came to nothing: the connection ends."""

    why: CloseReason
    text: str


class Election:
    """The CER waits for the outcome of our own connection to the peer (RFC 6733 §5.6, Wait-Returns)."""


_REFUSALS = {
    Judgement.UNKNOWN_PEER: (ResultCode.DIAMETER_UNKNOWN_PEER, CloseReason.UNKNOWN_PEER),
    Judgement.NOT_CERTIFIED: (ResultCode.DIAMETER_UNKNOWN_PEER, CloseReason.NOT_CERTIFIED),
    Judgement.ALREADY_CONNECTED: (ResultCode.ELECTION_LOST, CloseReason.ALREADY_CONNECTED),
}


def answer_cer(
    message: DiameterMessage, *, identity: DiameterIdentity, addresses: tuple[Address, ...], admission: Admission
) -> tuple[DiameterMessage | None, Capabilities | HandshakeFailure | Election]:
    """<-- CER, CEA -->: the answer, where there is one, and who the peer is.

    RFC 6733 §5.6.1: the connection is closed if any message other than a CER arrives.
    """
    if not (message.request and message.command == CommandCode.CAPABILITIES_EXCHANGE):
        return None, HandshakeFailure(CloseReason.NOT_CAPABILITIES, f"{message.name} came before CER")
    ours = capability_avps(identity, addresses)
    try:
        check_error_flag(message)
        check_request(message)
        capabilities = Capabilities.from_message(message)
        security = message.values("Inband-Security-Id")
    except RequestError as error:
        failure = HandshakeFailure(CloseReason.MALFORMED_CAPABILITIES, str(error))
        return identity.refusal(message, error, ours), failure
    except DecodeError as error:
        return None, HandshakeFailure(CloseReason.MALFORMED_CAPABILITIES, str(error))
    judgement = admission(capabilities)
    if judgement is Judgement.ELECTION:
        return None, Election()
    refusal = _REFUSALS.get(judgement) or _judge(identity, capabilities, security)
    if refusal is None:
        return identity.answer(message, ResultCode.DIAMETER_SUCCESS, ours), capabilities
    result, why = refusal
    return identity.answer(message, result, ours), HandshakeFailure(why, f"{capabilities.host}: {why.value}")


def _judge(
    identity: DiameterIdentity, capabilities: Capabilities, security: tuple[object, ...]
) -> tuple[ResultCode, CloseReason] | None:
    # RFC 6733 §5.3: a receiver without applications in common MUST answer so
    if not in_common(identity, capabilities):
        return ResultCode.DIAMETER_NO_COMMON_APPLICATION, CloseReason.NO_COMMON_APPLICATION
    # RFC 6733 §5.3: likewise without a security mechanism in common
    if security and NO_INBAND_SECURITY not in security:
        return ResultCode.DIAMETER_NO_COMMON_SECURITY, CloseReason.NO_COMMON_SECURITY
    return None


def take_cea(
    message: DiameterMessage, cer: DiameterMessage, *, identity: DiameterIdentity, expected_host: str | None
) -> Capabilities | HandshakeFailure:
    """<-- CEA (I-Rcv-CEA, I-Rcv-Non-CEA): who the peer is; ``expected_host`` is whom we meant to reach."""
    if message.request or message.command != CommandCode.CAPABILITIES_EXCHANGE or message.hop_by_hop != cer.hop_by_hop:
        return HandshakeFailure(CloseReason.NOT_CAPABILITIES, f"{message.name} came before CEA")
    try:
        result = Result.from_message(message)
        if not result.is_success:
            text = message.text("Error-Message")
            return HandshakeFailure(CloseReason.REFUSED, f"{result}{f': {text}' if text else ''}")
        capabilities = Capabilities.from_message(message)
    except (RequestError, DecodeError) as error:
        return HandshakeFailure(CloseReason.MALFORMED_CAPABILITIES, str(error))
    host = capabilities.host
    if expected_host is not None and expected_host.lower() != host.lower():
        return HandshakeFailure(CloseReason.UNKNOWN_PEER, f"{host} answered for {expected_host}")
    if not in_common(identity, capabilities):
        return HandshakeFailure(CloseReason.NO_COMMON_APPLICATION, f"no application in common with {host}")
    return capabilities
