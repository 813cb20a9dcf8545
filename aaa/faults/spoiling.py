"""What a fault does to a vector, an EAP packet, an answer and its octets: pure functions over values.

Nothing here decides. An answer that is refused keeps what identifies it (RFC 6733 §6.2) and loses what it
granted; a back-off is an overload report (RFC 7683 §7.3) for this host whose validity is the time to
stay away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from aaa.faults.rule import Action, AttachStep
from protocols.algorithms.vector import AMF_LENGTH, SQN_LENGTH, AkaAlgorithm, AkaVector, xor
from protocols.buffer import Reader
from protocols.diameter.codec import Avp, DiameterMessage, Result, answer_to
from protocols.diameter.dictionary import ResultCode
from protocols.diameter.framing import HEADER_LENGTH
from protocols.diameter.profile import OverloadReport, overload_avps
from protocols.eap.aka.attributes import AttributeType
from protocols.eap.aka.messages import AkaSubtype
from protocols.eap.packet import EapCode, EapPacket, EapType, failure
from protocols.errors import DecodeError

OLDEST_SQN = bytes(SQN_LENGTH)  # no USIM accepts it: SEQ must be more than one it has accepted (TS 33.102 §C.2.1)
_FLIPPED = 0x01
_SEPARATION = 0x80  # TS 33.102 Annex H: bit 0 of AMF
_EAP_TYPES = (EapType.AKA, EapType.AKA_PRIME)
_AKA_HEADER_LENGTH = 8  # EAP header, Type, Subtype, Reserved (RFC 4187 §8.1)
_UNIT = 4
_LENGTH_MASK = 0xFFFFFF

# what an answer keeps when it is turned into a refusal
_KEPT = frozenset({"Auth-Application-Id", "Auth-Request-Type", "Vendor-Specific-Application-Id", "Auth-Session-State"})


def _flip(octets: bytes) -> bytes:
    return octets[:-1] + bytes([octets[-1] ^ _FLIPPED])


# --- the vector -------------------------------------------------------------------------------------


def spoil_vector(vector: AkaVector, action: Action, algorithm: AkaAlgorithm | None) -> AkaVector:
    """The vector (TS 33.102 §6.3.2) as ``action`` wants it; ``algorithm`` is needed where a MAC is made anew.

    CK and IK stay those of the true SQN, CK' and IK' too: a USIM that refuses AUTN never gets that far.
    """
    autn = vector.autn
    if action.wrong_autn:
        autn = _flip(autn)  # the last octet is MAC-A's
    if action.needs_key:
        assert algorithm is not None
        ak = algorithm.f2345(vector.rand).ak
        sqn = OLDEST_SQN if action.old_sqn else xor(autn[:SQN_LENGTH], ak)
        amf = autn[SQN_LENGTH : SQN_LENGTH + AMF_LENGTH]
        if action.clear_amf_bit:
            amf = bytes([amf[0] & ~_SEPARATION, amf[1]])
        autn = xor(sqn, ak) + amf + algorithm.f1(vector.rand, sqn, amf)
    keys = {"ck": _flip(vector.ck), "ik": _flip(vector.ik)} if action.wrong_keys else {}
    return replace(vector, autn=autn, **keys)


# --- the EAP packet ---------------------------------------------------------------------------------


def step_of(answer: DiameterMessage) -> AttachStep | None:
    """What an answer to a DER does; ``None`` between the steps (EAP-Request/AKA-Notification, EAP-Reissued-Payload)."""
    packet = _packet(answer)
    if packet is None:
        return None if answer.integer("Result-Code") == ResultCode.DIAMETER_MULTI_ROUND_AUTH else AttachStep.FINAL
    if packet.code is not EapCode.REQUEST:
        return AttachStep.FINAL
    if packet.type == EapType.IDENTITY:
        return AttachStep.IDENTITY
    if packet.type in _EAP_TYPES and packet.data:
        if packet.data[0] == AkaSubtype.IDENTITY:
            return AttachStep.IDENTITY
        if packet.data[0] == AkaSubtype.NOTIFICATION:
            return None
    return AttachStep.CHALLENGE


def has_eap(answer: DiameterMessage) -> bool:
    """Whether the answer carries an EAP request."""
    packet = _packet(answer)
    return packet is not None and packet.code is EapCode.REQUEST


def has_mac(answer: DiameterMessage) -> bool:
    """Whether the answer carries an EAP packet with AT_MAC."""
    return _mac_end(_payload(answer)) is not None


def _payload(message: DiameterMessage) -> bytes:
    avp = message.find("EAP-Payload")
    return b"" if avp is None else avp.data


def _packet(message: DiameterMessage) -> EapPacket | None:
    try:
        return EapPacket.decode(_payload(message))
    except DecodeError:
        return None


def _mac_end(octets: bytes) -> int | None:
    """Where AT_MAC ends (RFC 4187 §10.15) in an EAP-AKA packet that this server made."""
    try:
        if EapPacket.decode(octets).type not in _EAP_TYPES:
            return None
        reader = Reader(octets)
        reader.skip(_AKA_HEADER_LENGTH)
        while reader.remaining:
            kind, units = reader.u8(), reader.u8()
            reader.skip(units * _UNIT - 2)
            if kind == AttributeType.AT_MAC:
                return reader.offset
    except DecodeError:
        return None
    return None


# --- the answer -------------------------------------------------------------------------------------


def spoil_answer(
    request: DiameterMessage, answer: DiameterMessage, action: Action, *, sequence: int
) -> DiameterMessage:
    """The answer as ``action`` wants it; ``sequence`` numbers overload reports (RFC 7683 §7.4)."""
    if action.result is not None:
        answer = _refused(request, answer, action.result)
    if action.wrong_mac:
        payload = _payload(answer)
        end = _mac_end(payload)
        if end is not None:
            answer = _with_payload(answer, _flip(payload[:end]) + payload[end:])
    if action.eap_failure:
        packet = _packet(answer)
        if packet is not None:
            answer = _with_payload(answer, failure(packet.identifier))
    if action.backoff is not None:
        report = OverloadReport(sequence=sequence, validity=action.backoff)
        answer = replace(answer, avps=(*answer.avps, *overload_avps(None, report)))
    if action.wrong_session_id:
        answer = _replaced(answer, "Session-Id", lambda avp: replace(avp, data=avp.data + b";0"))
    return answer


def _refused(request: DiameterMessage, answer: DiameterMessage, result: Result) -> DiameterMessage:
    """``result`` in place of the answer's; a user that is waiting for EAP gets EAP-Failure (RFC 4072 §2.4)."""
    kept: list[Avp] = [avp for avp in answer.avps if avp.name in _KEPT]
    asked = _packet(request)
    if asked is not None:
        kept.append(Avp.of("EAP-Payload", failure(asked.identifier)))
    return answer_to(
        request,
        origin_host=answer.text("Origin-Host") or "",
        origin_realm=answer.text("Origin-Realm") or "",
        result=result,
        avps=kept,
    )


def _with_payload(answer: DiameterMessage, payload: bytes) -> DiameterMessage:
    return _replaced(answer, "EAP-Payload", lambda avp: replace(avp, data=payload))


def _replaced(message: DiameterMessage, name: str, change: Callable[[Avp], Avp]) -> DiameterMessage:
    avps: Iterable[Avp] = (change(avp) if avp.name == name else avp for avp in message.avps)
    return replace(message, avps=tuple(avps))


# --- its octets -------------------------------------------------------------------------------------


def spoil_octets(octets: bytes, action: Action) -> tuple[bytes, ...]:
    """What is sent of an encoded answer: nothing, once, twice, or a part whose Message Length says so.

    The cut falls on a multiple of 4 octets behind the header, so that the stream stays readable and the
    answer alone is broken: its last AVP says more than there is, or what belongs behind it is missing.
    """
    if action.silence:
        return ()
    if action.truncate is not None:
        length = min(len(octets), max(HEADER_LENGTH, action.truncate)) // _UNIT * _UNIT
        word = int.from_bytes(octets[:_UNIT], "big") & ~_LENGTH_MASK | length
        octets = word.to_bytes(_UNIT, "big") + octets[_UNIT:length]
    return (octets, octets) if action.duplicate else (octets,)
