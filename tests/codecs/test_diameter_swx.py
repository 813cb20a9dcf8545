"""SWx commands (TS 29.273 §8.2): values to octets and back, what is refused, what Open5GS sends."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

import pytest

from protocols.diameter.codec import (
    Avp,
    DiameterMessage,
    MalformedMessage,
    RequestError,
    Result,
    decode_message,
    encode_message,
    redact,
)
from protocols.diameter.dictionary import ResultCode, ServerAssignmentType
from protocols.diameter.swx import EAP_AKA, EAP_AKA_PRIME, Maa, Mar, Ppr, Rtr, Saa, Sar
from protocols.errors import DecodeError
from tests.harness.diameter_messages import (
    AUTS,
    MAA,
    MAR,
    PPR,
    RAND,
    RESYNCHRONISING,
    RTR,
    SAA,
    SAR,
    SWX,
    USER_DATA,
    VECTOR,
    Answer,
    Request,
)
from tests.harness.material import shared

REQUIRED = [  # TS 29.273 §8.2.2 and reference table of the required AVPs
    "Session-Id",
    "Vendor-Specific-Application-Id",
    "Auth-Session-State",
    "Origin-Host",
    "Origin-Realm",
    "Destination-Realm",
    "User-Name",
]
REQUIRED_OF = [
    *((value, name) for value in (MAR, SAR, RTR, PPR) for name in REQUIRED),
    (MAR, "3GPP-SIP-Auth-Data-Item"),
    (MAR, "3GPP-SIP-Number-Auth-Items"),
    (SAR, "Server-Assignment-Type"),
    (RTR, "Destination-Host"),
    (RTR, "Deregistration-Reason"),
    (PPR, "Destination-Host"),
]


def without(message: DiameterMessage, name: str) -> DiameterMessage:
    return replace(message, avps=tuple(avp for avp in message.avps if avp.name != name))


def instead(message: DiameterMessage, avp: Avp) -> DiameterMessage:
    """The message with one AVP in place of those of its name."""
    return replace(message, avps=(*(held for held in message.avps if held.name != avp.name), avp))


@pytest.mark.parametrize(("request_", "answer"), SWX)
def test_round_trip(request_: Request, answer: Answer) -> None:
    message = replace(request_.to_message(), hop_by_hop=11, end_to_end=12)
    assert (message.request, message.proxiable, message.application) == (True, True, 16777265)
    assert message.avps[0].name == "Session-Id"
    assert message.integer("Auth-Session-State") == 1  # NO_STATE_MAINTAINED
    assert type(request_).from_message(decode_message(encode_message(message))) == request_
    answered = answer.to_message(message)
    assert (answered.hop_by_hop, answered.end_to_end, answered.proxiable) == (11, 12, True)
    assert answered.integer("Auth-Session-State") == 1
    assert type(answer).from_message(decode_message(encode_message(answered))) == answer


@pytest.mark.parametrize(("request_", "answer"), SWX)
def test_every_truncation_is_refused(request_: Request, answer: Answer) -> None:
    """Cut octets never decode; with the length field put right, AVPs break or what is missing is named."""
    for message, value in ((request_.to_message(), request_), (answer.to_message(request_.to_message()), answer)):
        octets = encode_message(message)
        for length in range(20, len(octets), 4):
            with pytest.raises(DecodeError):
                decode_message(octets[:length])
            cut = octets[:1] + length.to_bytes(3, "big") + octets[4:length]
            with suppress(DecodeError, RequestError):  # or AVPs at the end were lost that may be absent
                type(value).from_message(decode_message(cut))


@pytest.mark.parametrize(("value", "name"), REQUIRED_OF)
def test_missing_avps_are_named(value: Mar | Sar | Rtr | Ppr, name: str) -> None:
    with pytest.raises(RequestError) as caught:
        type(value).from_message(without(value.to_message(), name))
    assert caught.value.result is ResultCode.DIAMETER_MISSING_AVP
    assert caught.value.failed is not None
    assert caught.value.failed.name == name


def test_wire_of_the_authentication_data() -> None:
    """TS 29.273 §8.2.3.6: codes, vendor and flags of RFC 4740's namesakes are not ours."""
    item = MAA.to_message(MAR.to_message()).group("3GPP-SIP-Auth-Data-Item")
    assert item is not None
    assert [(avp.code, avp.vendor, avp.mandatory) for avp in item.avps] == [
        (code, 10415, True) for code in (613, 608, 609, 610, 625, 626)
    ]
    assert item.octets("3GPP-SIP-Authenticate") == VECTOR.rand + VECTOR.autn
    asked = RESYNCHRONISING.to_message()
    assert asked.find("3GPP-SIP-Number-Auth-Items") == Avp(code=607, vendor=10415, data=b"\x00\x00\x00\x01")
    group = asked.group("3GPP-SIP-Auth-Data-Item")
    assert group is not None
    assert group.octets("3GPP-SIP-Authorization") == RAND + AUTS


def test_keys_are_not_shown() -> None:
    message = MAA.to_message(MAR.to_message())
    shown = json.dumps(message.detail()) + repr(MAA)
    masked = redact(encode_message(message))
    for secret in (VECTOR.xres, VECTOR.ck, VECTOR.ik):
        assert secret.hex() not in shown
        assert repr(secret) not in shown
        assert secret not in masked
    assert VECTOR.rand + VECTOR.autn in masked


def test_keys_in_a_group_that_breaks_are_not_shown() -> None:
    message = MAA.to_message(MAR.to_message())
    item = message.find("3GPP-SIP-Auth-Data-Item")
    assert item is not None
    broken = instead(message, replace(item, data=item.data[:-4]))
    assert VECTOR.ck.hex() not in json.dumps(broken.detail())
    assert VECTOR.ck not in redact(encode_message(broken))


def test_items_are_taken_in_the_order_of_their_numbers() -> None:
    # TS 29.229 §6.3.14
    message = MAA.to_message(MAR.to_message())
    items = message.find_all("3GPP-SIP-Auth-Data-Item")
    turned = replace(message, avps=(*without(message, items[0].name).avps, *reversed(items)))
    assert Maa.from_message(turned).items == MAA.items


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("3GPP-SIP-Authenticate", bytes(31)),
        ("3GPP-SIP-Authorization", bytes(3)),
        ("3GPP-SIP-Authorization", bytes(17)),
        ("Confidentiality-Key", bytes(15)),
        ("Integrity-Key", bytes(17)),
        ("3GPP-SIP-Authentication-Scheme", None),
        ("3GPP-SIP-Authenticate", None),
        ("Integrity-Key", None),
    ],
)
def test_vectors_without_meaning(name: str, value: bytes | None) -> None:
    members = VECTOR.to_avp(1).value
    assert isinstance(members, tuple)
    changed = tuple(avp for avp in members if avp.name != name)
    if value is not None:
        changed = (*changed, Avp.of(name, value))
    message = instead(MAA.to_message(MAR.to_message()), Avp.of("3GPP-SIP-Auth-Data-Item", changed))
    with pytest.raises(DecodeError):
        Maa.from_message(message)


def test_authorization_that_is_not_rand_and_auts() -> None:
    item = Avp.of("3GPP-SIP-Auth-Data-Item", (Avp.of("3GPP-SIP-Authorization", bytes(29)),))
    with pytest.raises(RequestError) as caught:
        Mar.from_message(instead(MAR.to_message(), item))
    assert caught.value.result is ResultCode.DIAMETER_INVALID_AVP_VALUE


def test_scheme_may_only_be_left_out_of_a_resynchronisation() -> None:
    item = Avp.of("3GPP-SIP-Auth-Data-Item", (Avp.of("3GPP-SIP-Authorization", RAND + AUTS),))
    read = Mar.from_message(instead(MAR.to_message(), item))
    assert (read.scheme, read.resynchronisation) == (EAP_AKA, (RAND, AUTS))
    with pytest.raises(RequestError) as caught:
        Mar.from_message(instead(MAR.to_message(), Avp.of("3GPP-SIP-Auth-Data-Item", ())))
    assert caught.value.result is ResultCode.DIAMETER_MISSING_AVP
    assert caught.value.failed is not None
    assert caught.value.failed.name == "3GPP-SIP-Auth-Data-Item"


def test_unknown_assignment_type() -> None:
    with pytest.raises(RequestError) as caught:
        Sar.from_message(instead(SAR.to_message(), Avp.of("Server-Assignment-Type", 99)))
    assert caught.value.result is ResultCode.DIAMETER_INVALID_AVP_VALUE


@pytest.mark.parametrize(
    ("members", "result"),
    [
        ((Avp.of("Non-3GPP-IP-Access", 0),), ResultCode.DIAMETER_INVALID_AVP_VALUE),
        ((Avp.of("APN-Configuration", ()),), ResultCode.DIAMETER_MISSING_AVP),
        ((Avp.of("Subscription-Id", ()),), ResultCode.DIAMETER_MISSING_AVP),
        ((Avp(code=99999, vendor=10415, data=b""),), ResultCode.DIAMETER_AVP_UNSUPPORTED),
        ((Avp.of("Session-Timeout", 1), Avp.of("Session-Timeout", 1)), ResultCode.DIAMETER_AVP_OCCURS_TOO_MANY_TIMES),
        ((Avp(code=1423, vendor=10415, data=b"\x01"),), ResultCode.DIAMETER_INVALID_AVP_LENGTH),
    ],
)
def test_pushed_profile_without_meaning(members: tuple[Avp, ...], result: ResultCode) -> None:
    with pytest.raises(RequestError) as caught:
        Ppr.from_message(instead(PPR.to_message(), Avp.of("Non-3GPP-User-Data", members)))
    assert caught.value.result is result


def test_push_without_a_profile() -> None:
    # §8.2.3.1: the group may be empty
    message = instead(PPR.to_message(), Avp.of("Non-3GPP-User-Data", ()))
    assert Ppr.from_message(message) == replace(PPR, user_data=None)
    assert Ppr.from_message(without(message, "Non-3GPP-User-Data")) == replace(PPR, user_data=None)


def test_default_apn() -> None:
    assert USER_DATA.default_apn is USER_DATA.apns[1]


@pytest.mark.parametrize("change", [{"command": 275}, {"application": 16777250}, {"request": False}])
def test_another_command_is_none_of_these(change: dict[str, int]) -> None:
    for value in (MAR, SAR, RTR, PPR):
        with pytest.raises(DecodeError):
            type(value).from_message(replace(value.to_message(), **change))  # type: ignore[arg-type]


def test_answer_with_the_error_flag_needs_no_more_than_a_result() -> None:
    # RFC 6733 §7.2
    full = replace(SAA, result=Result(0, 3002)).to_message(SAR.to_message())
    bare = replace(
        full, avps=tuple(avp for avp in full.avps if avp.name in ("Result-Code", "Origin-Host", "Origin-Realm"))
    )
    assert Saa.from_message(bare).result == Result(0, 3002)
    with pytest.raises(DecodeError):
        Saa.from_message(replace(bare, error=False))


def test_group_without_end() -> None:
    """A nested group whose length points past its end is 5014 with the group that breaks."""
    message = MAR.to_message()
    item = message.find("3GPP-SIP-Auth-Data-Item")
    assert item is not None
    octets = bytearray(item.data)
    octets[7] += 1 if octets[7] % 4 == 0 else 8  # the inner AVP length
    with pytest.raises((RequestError, MalformedMessage)) as caught:
        Mar.from_message(instead(message, replace(item, data=bytes(octets))))
    assert isinstance(caught.value, RequestError)
    assert caught.value.result is ResultCode.DIAMETER_INVALID_AVP_LENGTH


def test_recorded_messages_of_open5gs_are_read() -> None:
    """MAR, MAA, SAR and SAA of Open5GS 2.7.7, with resynchronisation."""
    entries = json.loads(shared("vectors/runs/diameter_gtpv2_open5gs.json").read_text())["diameter"]
    messages = [decode_message(bytes.fromhex(entry["hex"])) for entry in entries if entry["app"] == 16777265]
    kinds = {"MAR": Mar, "MAA": Maa, "SAR": Sar, "SAA": Saa}
    read: list[Mar | Maa | Sar | Saa] = [kinds[message.name].from_message(message) for message in messages]
    assert {type(value) for value in read} == set(kinds.values())
    for value in read:
        match value:
            case Mar():
                assert value.scheme in (EAP_AKA, EAP_AKA_PRIME)
                assert value.user_name.partition("@")[0].isdigit()
            case Maa():
                assert not value.result.is_success or all(len(item.ck) == 16 for item in value.items)
            case Sar():
                assert value.server_assignment_type is ServerAssignmentType.REGISTRATION
            case Saa() if value.user_data is not None:
                assert value.user_data.non_3gpp_ip_access
                assert value.user_data.default_apn is not None
    assert any(isinstance(value, Mar) and value.resynchronisation is not None for value in read)
    assert any(isinstance(value, Saa) and value.user_data is not None for value in read)
