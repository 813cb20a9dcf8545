"""S6b commands (TS 29.273 §9.2) and SWm's with all that they may hold: values to octets and back, what is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

import pytest

from protocols.diameter import s6b, swm
from protocols.diameter.codec import Avp, RequestError, Result, decode_message, encode_message
from protocols.diameter.dictionary import ResultCode
from protocols.errors import DecodeError
from tests.harness.diameter_messages import S6B, S6B_AAA, S6B_AAR, SWM, SWM_AAA, SWM_AAR, Answer, Request
from tests.harness.material import shared

COMMANDS = [*S6B, *SWM]
REQUIRED = ["Session-Id", "Auth-Application-Id", "Origin-Host", "Origin-Realm", "Destination-Realm"]
ALSO_REQUIRED = {
    "DER": ["Auth-Request-Type", "EAP-Payload"],
    "AAR": ["Auth-Request-Type"],
    "STR": ["Termination-Cause"],
    "ASR": ["Destination-Host"],
    "RAR": ["Destination-Host", "Re-Auth-Request-Type"],
}


@pytest.mark.parametrize(("request_", "answer"), COMMANDS)
def test_round_trip(request_: Request, answer: Answer) -> None:
    message = replace(request_.to_message(), hop_by_hop=11, end_to_end=12)
    assert (message.request, message.proxiable) == (True, True)
    assert message.application == message.integer("Auth-Application-Id")
    assert message.avps[0].name == "Session-Id"
    assert message.find("Auth-Session-State") is None  # §9.2.1: sessions are maintained
    assert type(request_).from_message(decode_message(encode_message(message))) == request_
    answered = answer.to_message(message)
    assert (answered.hop_by_hop, answered.end_to_end, answered.application) == (11, 12, message.application)
    assert type(answer).from_message(decode_message(encode_message(answered))) == answer


@pytest.mark.parametrize(("request_", "answer"), COMMANDS)
def test_every_truncation_is_refused(request_: Request, answer: Answer) -> None:
    for message, value in ((request_.to_message(), request_), (answer.to_message(request_.to_message()), answer)):
        octets = encode_message(message)
        for length in range(20, len(octets), 4):
            with pytest.raises(DecodeError):
                decode_message(octets[:length])
            cut = octets[:1] + length.to_bytes(3, "big") + octets[4:length]
            with suppress(DecodeError, RequestError):  # or AVPs at the end were lost that may be absent
                type(value).from_message(decode_message(cut))


@pytest.mark.parametrize("request_", [request for request, _ in COMMANDS])
def test_missing_avps_are_named(request_: Request) -> None:
    message = request_.to_message()
    for name in (*REQUIRED, *ALSO_REQUIRED[message.name]):
        with pytest.raises(RequestError) as caught:
            type(request_).from_message(replace(message, avps=tuple(avp for avp in message.avps if avp.name != name)))
        assert caught.value.result is ResultCode.DIAMETER_MISSING_AVP
        assert caught.value.failed is not None
        assert caught.value.failed.name == name


def test_one_application_is_not_the_other() -> None:
    with pytest.raises(DecodeError):
        s6b.Aar.from_message(SWM_AAR.to_message())
    with pytest.raises(DecodeError):
        swm.Aaa.from_message(S6B_AAA.to_message(S6B_AAR.to_message()))
    with pytest.raises(DecodeError):
        s6b.Asr.from_message(S6B_AAR.to_message())


def test_wire_of_the_authorisation() -> None:
    avps = {avp.code: (avp.vendor, avp.mandatory) for avp in SWM_AAR.to_message().avps}
    assert avps[1539] == (10415, False)  # AAR-Flags
    assert avps[621] == (0, False)  # OC-Supported-Features
    answer = {avp.code: (avp.vendor, avp.mandatory) for avp in SWM_AAA.to_message(SWM_AAR.to_message()).avps}
    assert answer[443] == (0, True)
    assert answer[623] == (0, False)
    assert answer[1430] == (10415, True)


@pytest.mark.parametrize("answer", [SWM_AAA, S6B_AAA])
def test_incomplete_answers(answer: swm.Aaa | s6b.Aaa) -> None:
    request = SWM_AAR.to_message() if isinstance(answer, swm.Aaa) else S6B_AAR.to_message()
    message = answer.to_message(request)
    for name in ("Auth-Request-Type", "Result-Code", "Origin-Host", "Session-Id"):
        with pytest.raises(DecodeError):
            type(answer).from_message(replace(message, avps=tuple(avp for avp in message.avps if avp.name != name)))


def test_answer_with_the_error_flag_needs_no_more_than_a_result() -> None:
    # RFC 6733 §7.2
    full = replace(S6B_AAA, result=Result(0, 3002)).to_message(S6B_AAR.to_message())
    bare = replace(
        full, avps=tuple(avp for avp in full.avps if avp.name in ("Result-Code", "Origin-Host", "Origin-Realm"))
    )
    assert s6b.Aaa.from_message(bare).result == Result(0, 3002)


def test_values_of_the_wrong_type_in_an_answer() -> None:
    message = S6B_AAA.to_message(S6B_AAR.to_message())
    broken = tuple(avp for avp in message.avps if avp.name != "Session-Timeout")
    with pytest.raises(DecodeError):
        s6b.Aaa.from_message(replace(message, avps=(*broken, Avp(code=27, data=b"\x01"))))


def test_a_session_time_of_zero_is_without_end() -> None:
    """RFC 6733 §8.13."""
    message = replace(S6B_AAA, session_timeout=0).to_message(S6B_AAR.to_message())
    assert message.integer("Session-Timeout") == 0
    assert s6b.Aaa.from_message(message).session_timeout is None


def test_recorded_messages_of_open5gs_are_read() -> None:
    """AAR, AAA, STR and STA of the SMF of Open5GS 2.7.7 as PGW."""
    entries = json.loads(shared("vectors/runs/diameter_gtpv2_open5gs.json").read_text())["diameter"]
    kinds = {"AAR": s6b.Aar, "AAA": s6b.Aaa, "STR": s6b.Str, "STA": s6b.Sta}
    read = [
        kinds[entry["name"]].from_message(decode_message(bytes.fromhex(entry["hex"])))
        for entry in entries
        if entry["app"] == 16777272
    ]
    assert {type(value) for value in read} == set(kinds.values())
    asked = next(value for value in read if isinstance(value, s6b.Aar))
    assert (asked.auth_request_type, asked.rat_type, asked.mip6_feature_vector) == (2, 0, 0x0000400000000000)
    assert asked.mip6_agent_info is not None
    assert asked.service_selection is not None
