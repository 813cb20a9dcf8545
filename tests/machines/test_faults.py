"""Fault rules: what they match, which attempts they hit, and what they do to vectors, packets and answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aaa.faults.eap import FaultyEap
from aaa.faults.patterns import AttemptPattern, ImsiPattern, parse_result, written_result
from aaa.faults.rule import Action, AttachStep, FaultRule, Match, Point
from aaa.faults.spoiling import OLDEST_SQN, has_mac, spoil_answer, spoil_octets, spoil_vector, step_of
from aaa.faults.table import Fault, FaultExists, FaultTable, Occasion, UnknownFault
from protocols.algorithms.milenage import Milenage
from protocols.algorithms.vector import generate_vector, xor
from protocols.diameter.codec import (
    DiameterMessage,
    MalformedMessage,
    Result,
    decode_message,
    encode_message,
)
from protocols.diameter.dictionary import ExperimentalResultCode, ResultCode
from protocols.diameter.profile import OverloadReport
from protocols.diameter.swm import Dea, Der
from protocols.eap.aka.server import ServerOptions
from protocols.eap.packet import EapCode, EapPacket, EapType, failure, identity_response, success
from protocols.errors import ConfigurationError
from protocols.io.configuration import parse
from protocols.secret import Secret
from protocols.threegpp.identity import Imsi

IMSI, OTHER = "001010000000001", "001010000000002"
ANSWER = Point.ANSWER


def rule(name: str = "r", *, times: int | None = None, enabled: bool = True, **parts: object) -> FaultRule:
    match = {key: value for key, value in parts.items() if key in ("imsi", "apn", "command", "step", "attempts")}
    match |= {key: parts[key] for key in ("share", "seed") if key in parts}
    action = {key: value for key, value in parts.items() if key not in match} or {"silence": True}
    return FaultRule.model_validate(
        {"name": name, "match": match, "action": action, "times": times, "enabled": enabled}
    )


def at(
    session: str = "s;1", imsi: str | None = IMSI, apn: str = "internet", step: AttachStep = AttachStep.CHALLENGE
) -> Occasion:
    return Occasion(commands=("DER",), session_id=session, imsi=imsi, apn=apn, step=step, has_eap=True, has_mac=True)


def hits(table: FaultTable, count: int, imsi: str = IMSI) -> list[int]:
    """Which of ``count`` attempts are hit."""
    found = [table.decide(at(f"{imsi};{number}", imsi), ANSWER) for number in range(1, count + 1)]
    return [number for number, fault in enumerate(found, 1) if fault is not None]


# --- patterns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "matching", "other"),
    [
        (IMSI, [IMSI], [OTHER, None]),
        ("00101*", [IMSI, OTHER], ["262010000000001", None]),
        ("*", [IMSI, None], []),
        ("001010000000001-001010000000009", [IMSI, OTHER], ["001010000000010", "00101000000002", None]),
    ],
)
def test_imsis(text: str, matching: list[str | None], other: list[str | None]) -> None:
    pattern = ImsiPattern.parse(text)
    assert str(pattern) == text
    assert [imsi for imsi in (*matching, *other) if pattern.matches(imsi)] == matching


@pytest.mark.parametrize("text", ["", "x", "1-", "22-1", "2-1", "12*3", "1" * 16])
def test_what_is_no_imsi(text: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        ImsiPattern.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", [1]), ("2-4", [2, 3, 4]), ("5-", [5, 6, 7]), ("every 3", [3, 6]), ("every 1", [*range(1, 8)])],
)
def test_attempts(text: str, expected: list[int]) -> None:
    pattern = AttemptPattern.parse(text)
    assert str(pattern) == text
    assert [number for number in range(1, 8) if pattern.matches(number)] == expected


@pytest.mark.parametrize("text", ["", "0", "4-2", "every 0", "every", "-1", "1,2"])
def test_what_is_no_attempt(text: str) -> None:
    with pytest.raises(ValueError, match="every 3"):
        AttemptPattern.parse(text)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("DIAMETER_ERROR_USER_UNKNOWN", Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN)),
        ("DIAMETER_TOO_BUSY", Result.of(ResultCode.DIAMETER_TOO_BUSY)),
        ("10415:5999", Result(10415, 5999)),
        ("5999", Result(0, 5999)),
    ],
)
def test_results_by_name_and_number(text: str, result: Result) -> None:
    assert parse_result(text) == result
    assert written_result(result) == text


@pytest.mark.parametrize("text", ["", "DIAMETER_NONSENSE", "2001", "DIAMETER_SUCCESS", "10415:", "99999999999"])
def test_what_is_no_refusal(text: str) -> None:
    with pytest.raises(ValueError, match="result"):
        parse_result(text)


# --- rules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"truncate": None}, "one of wrong_autn"),
        ({"silence": True, "result": "5012"}, "without anything else"),
        ({"old_sqn": True, "wrong_autn": True}, "one of wrong_autn"),
        ({"wrong_autn": True, "command": "STR"}, "vectors are asked for"),
        ({"wrong_autn": True, "step": "final"}, "for nothing else"),
        ({"step": "final", "command": "STR"}, "only answers to a DER"),
        ({"apn": "not an apn"}, "an APN"),
        ({"truncate": 20, "command": "MAR"}, "result, delay or silence"),
        ({"share": 1.5}, "less than or equal to 1"),
        ({"delay": 0}, "greater than 0"),
        ({"backoff": 90_000}, "86400"),
        ({"nonsense": True}, "nonsense"),
    ],
)
def test_rules_that_mean_nothing_are_refused(parts: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        rule(**parts)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_a_rule_reads_what_it_writes() -> None:
    made = rule(imsi="00101*", apn="ims", attempts="2-4", share=0.5, seed=7, result="10415:5451", backoff=60, times=2)
    assert FaultRule.model_validate(made.to_json()) == made
    assert made.action.described(ANSWER) == "result DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION, back-off of 60 s"


SCALARS = st.none() | st.booleans() | st.integers(-5, 9) | st.floats(allow_nan=False) | st.text(max_size=8)
SECTIONS = {"match": Match, "action": Action}
DOCUMENTS = st.fixed_dictionaries(
    {"name": st.just("x")},
    optional={
        "times": SCALARS,
        "enabled": SCALARS,
        **{
            name: st.dictionaries(st.sampled_from(sorted(model.model_fields)), SCALARS, max_size=3)
            for name, model in SECTIONS.items()
        },
    },
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(DOCUMENTS)
def test_whatever_is_given_is_a_rule_or_one_line(document: dict[str, object]) -> None:
    """A rule, which then reads what it writes, or ``ConfigurationError``."""
    try:
        made = parse(json.dumps(document), FaultRule)
    except ConfigurationError as error:
        line = str(error)
    else:
        line = ""
        assert FaultRule.model_validate(made.to_json()) == made
    assert "\n" not in line


# --- the table --------------------------------------------------------------------------------------


def test_a_rule_is_for_whom_and_when_it_says() -> None:
    table = FaultTable([rule(imsi=IMSI, apn="IMS", step="final")])
    final = AttachStep.FINAL
    assert table.decide(at(apn="internet", step=final), ANSWER) is None
    assert table.decide(at(imsi=OTHER, apn="ims", step=final), ANSWER) is None
    assert table.decide(at(apn="ims"), ANSWER) is None
    assert table.decide(at(apn="ims", step=final), Point.VECTOR) is None
    assert table.decide(at(apn="ims.mnc001.mcc001.gprs", step=final), ANSWER) is not None


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [("1", [1]), ("2-3", [2, 3]), ("every 2", [2, 4, 6]), ("5-", [5, 6]), (None, [*range(1, 7)])],
)
def test_attempts_are_counted_by_subscriber(attempts: str | None, expected: list[int]) -> None:
    table = FaultTable([rule(attempts=attempts)])
    assert hits(table, 6) == expected
    assert hits(table, 6, OTHER) == expected


def test_one_session_is_one_attempt_also_among_others() -> None:
    table = FaultTable([rule(attempts="1", step="final")])
    for session in ("a", "b", "a", "b"):
        assert table.decide(at(session), ANSWER) is None
    assert table.decide(at("b", step=AttachStep.FINAL), ANSWER) is None
    assert table.decide(at("a", step=AttachStep.FINAL), ANSWER) == Fault(
        rule="r", action=Action(silence=True), attempt=1
    )


def test_a_share_is_hit_and_the_same_again() -> None:
    def run(seed: int) -> list[int]:
        return hits(FaultTable([rule(share=0.3, seed=seed)]), 1000)

    assert 250 < len(run(1)) < 350
    assert run(1) == run(1) != run(2)
    assert hits(FaultTable([rule(share=0)]), 100) == []


def test_a_rule_is_spent_after_its_times() -> None:
    table = FaultTable([rule("first", times=2), rule("second")])
    found = [table.decide(at(str(number)), ANSWER) for number in range(3)]
    assert [fault and fault.rule for fault in found] == ["first", "first", "second"]
    first, second = table.rules()
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert (first["remaining"], first["matched"], first["applied"]) == (0, 3, 2)
    assert (second["remaining"], second["matched"], second["applied"]) == (None, 1, 1)


def test_disabled_rules_only_count() -> None:
    table = FaultTable([rule(enabled=False)])
    assert hits(table, 2) == []
    (listed,) = table.rules()
    assert isinstance(listed, dict)
    assert (listed["matched"], listed["applied"], listed["enabled"]) == (2, 0, False)


def test_a_rule_waits_for_what_it_spoils() -> None:
    table = FaultTable([rule(wrong_mac=True, times=1)])
    assert table.decide(Occasion(commands=("DER",), imsi=IMSI, has_eap=True), ANSWER) is None
    assert table.decide(Occasion(commands=("DER",), imsi=IMSI, has_eap=True, has_mac=True), ANSWER) is not None


def test_one_rule_takes_hold_at_both_points() -> None:
    table = FaultTable([rule(wrong_keys=True, delay=1)])
    vector = Occasion(commands=("MAR", "DER"), session_id="s;1", imsi=IMSI, step=AttachStep.CHALLENGE)
    assert table.decide(vector, Point.VECTOR) is not None
    assert table.decide(at(), ANSWER) is not None


def test_the_hss_refuses_only_where_the_rule_says_so() -> None:
    asked = Occasion(commands=("SAR", "DER"), session_id="s;1", imsi=IMSI)
    table = FaultTable([rule("all", result="5012"), rule("der", result="5012", command="DER")])
    assert table.decide(asked, ANSWER) is None
    table.add(rule("sar", result="5012", command="SAR"))
    fault = table.decide(asked, ANSWER)
    assert fault is not None
    assert fault.rule == "sar"


def test_the_eap_server_lets_a_cleared_separation_bit_pass_where_a_rule_clears_it() -> None:
    table = FaultTable([rule(clear_amf_bit=True, imsi=IMSI, apn="internet", times=1)])
    service = FaultyEap(options=ServerOptions(), table=table)
    assert not service.options_for(Imsi(IMSI), "internet").separation_bit
    assert service.options_for(Imsi(OTHER), "internet").separation_bit
    assert service.options_for(Imsi(IMSI), "ims").separation_bit
    assert service.options_for(None, "internet").separation_bit
    vector = Occasion(commands=("MAR", "DER"), session_id="s;1", imsi=IMSI, apn="internet", step=AttachStep.CHALLENGE)
    assert table.decide(vector, Point.VECTOR) is not None
    assert service.options_for(Imsi(IMSI), "internet").separation_bit  # the rule is spent


def test_rules_are_added_and_removed() -> None:
    table = FaultTable([rule("a")])
    assert table.add(rule("b"))["origin"] == "control"
    with pytest.raises(FaultExists):
        table.add(rule("a"))
    with pytest.raises(UnknownFault):
        table.remove("c")
    assert table.remove("a")["origin"] == "configuration"
    assert (table.clear(), len(table)) == (1, 0)


# --- what is done -----------------------------------------------------------------------------------

ALGORITHM = Milenage(Secret(bytes(range(16))), opc=Secret(bytes(16)))
VECTOR = generate_vector(ALGORITHM, rand=bytes(range(16)), sqn=0x123)


def test_the_vector_is_spoilt() -> None:
    def spoilt(**parts: bool) -> tuple[bytes, bytes, bytes, bytes]:
        vector = spoil_vector(VECTOR, Action.model_validate(parts), ALGORITHM)
        assert (vector.rand, vector.xres) == (VECTOR.rand, VECTOR.xres)
        return vector.autn[:6], vector.autn[6:8], vector.autn[8:], vector.ck + vector.ik

    sqn, amf, mac, keys = VECTOR.autn[:6], VECTOR.autn[6:8], VECTOR.autn[8:], VECTOR.ck + VECTOR.ik
    wrong = spoilt(wrong_autn=True)
    assert (wrong[:2], wrong[3]) == ((sqn, amf), keys)
    assert wrong[2] != mac
    ak = ALGORITHM.f2345(VECTOR.rand).ak
    old = spoilt(old_sqn=True)
    assert (xor(old[0], ak), old[1]) == (OLDEST_SQN, amf)
    assert old[2] == ALGORITHM.f1(VECTOR.rand, OLDEST_SQN, amf)
    cleared = spoilt(clear_amf_bit=True)
    assert cleared == (sqn, b"\x00\x00", ALGORITHM.f1(VECTOR.rand, xor(sqn, ak), b"\x00\x00"), keys)
    assert spoilt(wrong_keys=True)[:3] == (sqn, amf, mac)
    assert spoilt(wrong_keys=True)[3] != keys


MAC = bytes(range(16))
CHALLENGE = EapPacket(
    code=EapCode.REQUEST,
    identifier=7,
    type=EapType.AKA,
    data=bytes([1, 0, 0]) + bytes([11, 5, 0, 0]) + MAC + bytes([135, 1, 0, 0]),
).encode()
IDENTITY = EapPacket(code=EapCode.REQUEST, identifier=7, type=EapType.AKA, data=bytes([5, 0, 0, 13, 1, 0, 0])).encode()
NOTIFICATION = EapPacket(code=EapCode.REQUEST, identifier=7, type=EapType.AKA_PRIME, data=bytes([12, 0, 0])).encode()
REQUEST = Der(
    session_id="gw;1;2",
    origin_host="gw.example.org",
    origin_realm="example.org",
    destination_realm="example.org",
    eap_payload=identity_response(6, b"0001010000000001@example.org"),
).to_message()


def answer(packet: bytes | None, result: int = ResultCode.DIAMETER_MULTI_ROUND_AUTH) -> DiameterMessage:
    return Dea(
        session_id="gw;1;2",
        origin_host="aaa.example.org",
        origin_realm="example.org",
        result=Result.of(result),
        eap_payload=packet,
        master_session_key=None if result != ResultCode.DIAMETER_SUCCESS else Secret(bytes(64)),
        user_name="0001010000000001@example.org",
    ).to_message(REQUEST)


@pytest.mark.parametrize(
    ("packet", "step"),
    [
        (EapPacket(code=EapCode.REQUEST, identifier=1, type=EapType.IDENTITY).encode(), AttachStep.IDENTITY),
        (IDENTITY, AttachStep.IDENTITY),
        (CHALLENGE, AttachStep.CHALLENGE),
        (NOTIFICATION, None),
        (success(7), AttachStep.FINAL),
        (failure(7), AttachStep.FINAL),
        (None, None),
    ],
)
def test_steps(packet: bytes | None, step: AttachStep | None) -> None:
    assert step_of(answer(packet)) is step


def test_a_refusal_without_eap_is_final() -> None:
    assert step_of(answer(None, ResultCode.DIAMETER_UNABLE_TO_COMPLY)) is AttachStep.FINAL


def spoilt(message: DiameterMessage, **parts: object) -> Dea:
    action = Action.model_validate(parts)
    return Dea.from_message(spoil_answer(REQUEST, message, action, sequence=3))


def test_a_refusal_grants_nothing() -> None:
    dea = spoilt(answer(success(7), ResultCode.DIAMETER_SUCCESS), result="DIAMETER_ERROR_USER_UNKNOWN")
    assert dea.result == Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN)
    assert (dea.session_id, dea.origin_host) == ("gw;1;2", "aaa.example.org")
    assert (dea.master_session_key, dea.user_name, dea.eap_payload) == (None, None, failure(6))


def test_a_protocol_error_has_the_e_flag() -> None:
    spoiled = spoil_answer(
        REQUEST, answer(CHALLENGE), Action.model_validate({"result": "DIAMETER_TOO_BUSY"}), sequence=1
    )
    assert spoiled.error


@pytest.mark.parametrize("result", ["DIAMETER_UNABLE_TO_COMPLY", "DIAMETER_TOO_BUSY", None])
def test_a_back_off_is_an_overload_report(result: str | None) -> None:
    dea = spoilt(answer(CHALLENGE), backoff=45, **({} if result is None else {"result": result}))
    assert dea.overload == OverloadReport(sequence=3, validity=45, reduction=100)
    assert dea.overload_features is not None  # RFC 7683 §5.1.2: a report never goes without


def test_one_bit_of_the_mac_is_wrong() -> None:
    message = answer(CHALLENGE)
    assert has_mac(message)
    assert not has_mac(answer(IDENTITY))
    packet = spoilt(message, wrong_mac=True).eap_payload
    assert packet is not None
    assert packet == CHALLENGE.replace(MAC, MAC[:-1] + bytes([MAC[-1] ^ 1]))


def test_the_packet_and_the_session_are_replaced() -> None:
    assert spoilt(answer(CHALLENGE), eap_failure=True).eap_payload == failure(7)
    assert spoilt(answer(CHALLENGE), wrong_session_id=True).session_id == "gw;1;2;0"


def test_octets_are_kept_doubled_and_cut() -> None:
    octets = encode_message(answer(CHALLENGE))
    assert spoil_octets(octets, Action(silence=True)) == ()
    assert spoil_octets(octets, Action(delay=1)) == (octets,)
    assert spoil_octets(octets, Action(duplicate=True)) == (octets, octets)
    (cut,) = spoil_octets(octets, Action(truncate=len(octets) - 2))
    assert len(cut) == len(octets) - 4
    with pytest.raises(MalformedMessage):
        decode_message(cut)
    (short,) = spoil_octets(octets, Action(truncate=1))
    assert decode_message(short).avps == ()
    assert spoil_octets(octets, Action(truncate=10_000)) == (octets,)
