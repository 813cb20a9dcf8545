"""SWm commands (TS 29.273 §7.2): values to octets and back, what is refused, and tshark's reading of them."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from protocols.diameter.codec import Avp, RequestError, Result, decode_message, encode_message
from protocols.diameter.dictionary import ResultCode
from protocols.diameter.swm import (
    GTPV2_SUPPORTED,
    MIP6_INTEGRATED,
    Ambr,
    ApnConfiguration,
    Asa,
    Asr,
    Dea,
    Der,
    PdnType,
    Raa,
    Rar,
    SessionIdSource,
    Sta,
    Str,
    TerminalInformation,
    TerminationCause,
)
from protocols.errors import DecodeError
from protocols.secret import Secret
from tests.harness.diameter_capture import capture
from tests.harness.material import shared
from tests.peers.tshark import Tshark

NAI = "0001010000000001@nai.epc.mnc001.mcc001.3gppnetwork.org"

DER = Der(
    session_id="epdg.epc.test;1;1",
    origin_host="epdg.epc.test",
    origin_realm="epc.test",
    destination_realm="aaa.test",
    destination_host="aaa.epc.test",
    user_name=NAI,
    eap_payload=bytes.fromhex("020100090130303031"),
    service_selection="ims",
    ue_local_ip=ip_address("198.51.100.7"),
    visited_network_identifier="mnc001.mcc001.3gppnetwork.org",
    terminal_information=TerminalInformation("35209900176148", "01"),
    mip6_feature_vector=MIP6_INTEGRATED | GTPV2_SUPPORTED,
    aaa_failure_indication=1,
    emergency_services=1,
    state=(b"one", b"two"),
)
SHORT_DER = Der(
    session_id="e;1;2", origin_host="e", origin_realm="x", destination_realm="x", eap_payload=b"", rat_type=None
)
APN = ApnConfiguration(
    context_identifier=3,
    service_selection="ims",
    pdn_type=PdnType.IPv4v6,
    ambr=Ambr(50_000_000, 100_000_000),
    served_party_addresses=(ip_address("10.45.0.9"), ip_address("2001:db8::9")),
)
DEA = Dea(
    session_id=DER.session_id,
    origin_host="aaa.epc.test",
    origin_realm="aaa.test",
    result=Result(0, 2001),
    eap_payload=bytes.fromhex("03020004"),
    master_session_key=Secret(bytes(range(64))),
    user_name="001010000000001",
    apn_configuration=APN,
    session_timeout=3600,
    mip6_feature_vector=GTPV2_SUPPORTED,
    multi_round_timeout=20,
    state=(b"one",),
    error_message="none",
)
SHORT_DEA = Dea(
    session_id=DER.session_id, origin_host="aaa.epc.test", origin_realm="aaa.test", result=Result(10415, 5001)
)
STR = Str(
    session_id=DER.session_id,
    origin_host="epdg.epc.test",
    origin_realm="epc.test",
    destination_realm="aaa.test",
    destination_host="aaa.epc.test",
    user_name=NAI,
    termination_cause=TerminationCause.DIAMETER_LOGOUT,
)
ASR = Asr(
    session_id=DER.session_id,
    origin_host="aaa.epc.test",
    origin_realm="aaa.test",
    destination_realm="epc.test",
    destination_host="epdg.epc.test",
    user_name=NAI,
)
RAR = Rar(
    session_id=DER.session_id,
    origin_host="aaa.epc.test",
    origin_realm="aaa.test",
    destination_realm="epc.test",
    destination_host="epdg.epc.test",
)
ANSWERED = {"session_id": DER.session_id, "origin_host": "h", "origin_realm": "r"}

REQUESTS: list[Der | Str | Asr | Rar] = [DER, SHORT_DER, STR, ASR, RAR]
ANSWERS: list[tuple[Dea | Sta | Asa | Raa, Der | Str | Asr | Rar]] = [
    (DEA, DER),
    (SHORT_DEA, DER),
    (Sta(**ANSWERED, result=Result(0, 2001)), STR),
    (Sta(**ANSWERED, result=Result(0, 5002), error_message="unknown session"), STR),
    (Asa(**ANSWERED, result=Result(0, 2001)), ASR),
    (Raa(**ANSWERED, result=Result(0, 5012)), RAR),
]


@pytest.mark.parametrize("value", REQUESTS)
def test_requests_round_trip(value: Der | Str | Asr | Rar) -> None:
    message = value.to_message()
    assert (message.request, message.proxiable, message.application) == (True, True, 16777264)
    assert message.avps[0].name == "Session-Id"
    assert type(value).from_message(decode_message(encode_message(message))) == value


@pytest.mark.parametrize(("value", "request_"), ANSWERS)
def test_answers_round_trip(value: Dea | Sta | Asa | Raa, request_: Der | Str | Asr | Rar) -> None:
    request = replace(request_.to_message(), hop_by_hop=11, end_to_end=12)
    message = value.to_message(request)
    assert (message.hop_by_hop, message.end_to_end, message.proxiable) == (11, 12, True)
    assert type(value).from_message(decode_message(encode_message(message))) == value


def test_codes_and_flags_on_the_wire() -> None:
    """The traps: EAP-Payload with the M flag, 464 for the key, vendor 10415 where it belongs."""
    both = (*DER.to_message().avps, *DEA.to_message(DER.to_message()).avps)
    avps = {avp.code: (avp.vendor, avp.mandatory) for avp in both}
    assert avps[462] == (0, True)
    assert avps[464] == (0, True)
    assert avps[493] == (0, True)
    assert avps[124] == (0, True)
    assert avps[27] == (0, True)
    assert avps[600] == (10415, True)
    assert avps[1032] == (10415, False)  # TS 29.212 §5.3.0
    assert avps[1430] == (10415, True)
    assert avps[1401] == (10415, False)
    assert avps[2805] == (10415, False)
    assert 343 not in avps
    assert 277 not in avps  # Auth-Session-State is not part of SWm DER/DEA


def test_experimental_result() -> None:
    message = SHORT_DEA.to_message(DER.to_message())
    assert message.find("Result-Code") is None
    assert Result.from_message(message) == Result(10415, 5001)
    assert not message.error


def test_answer_with_the_error_flag_needs_no_more_than_a_result() -> None:
    # RFC 6733 §7.2
    full = replace(SHORT_DEA, result=Result(0, 3002)).to_message(DER.to_message())
    assert full.error
    bare = replace(
        full, avps=tuple(avp for avp in full.avps if avp.name in ("Result-Code", "Origin-Host", "Origin-Realm"))
    )
    assert Dea.from_message(bare).result == Result(0, 3002)
    with pytest.raises(DecodeError):
        Dea.from_message(replace(bare, error=False))


@pytest.mark.parametrize("name", ["Auth-Request-Type", "Result-Code", "Origin-Host", "Session-Id"])
def test_incomplete_answers(name: str) -> None:
    message = DEA.to_message(DER.to_message())
    with pytest.raises(DecodeError):
        Dea.from_message(replace(message, avps=tuple(avp for avp in message.avps if avp.name != name)))


@pytest.mark.parametrize("name", ["Context-Identifier", "PDN-Type", "Service-Selection"])
def test_incomplete_apn_configuration(name: str) -> None:
    members = APN.to_avp().value
    assert isinstance(members, tuple)
    broken = Avp.of("APN-Configuration", tuple(avp for avp in members if avp.name != name))
    message = SHORT_DEA.to_message(DER.to_message())
    with pytest.raises(DecodeError, match=name):
        Dea.from_message(replace(message, avps=(*message.avps, broken)))


def test_apn_configuration_of_another_server_is_read() -> None:
    """What we do not use is kept out, the rest is read."""
    members = APN.to_avp().value
    assert isinstance(members, tuple)
    more = Avp.of(
        "APN-Configuration",
        (*members, Avp.of("APN-OI-Replacement", "oi.test"), Avp(code=99999, vendor=10415, data=b"x")),
    )
    message = SHORT_DEA.to_message(DER.to_message())
    assert Dea.from_message(replace(message, avps=(*message.avps, more))).apn_configuration == APN


def test_unknown_pdn_type() -> None:
    message = SHORT_DEA.to_message(DER.to_message())
    apn = Avp.of(
        "APN-Configuration",
        (Avp.of("Context-Identifier", 1), Avp.of("PDN-Type", 9), Avp.of("Service-Selection", "ims")),
    )
    with pytest.raises(DecodeError, match="PDN-Type 9"):
        Dea.from_message(replace(message, avps=(*message.avps, apn)))


def test_values_of_the_wrong_type_in_an_answer() -> None:
    message = SHORT_DEA.to_message(DER.to_message())
    with pytest.raises(DecodeError):
        Dea.from_message(replace(message, avps=(*message.avps, Avp(code=27, data=b"\x01"))))
    with pytest.raises(DecodeError):
        Dea.from_message(replace(message, avps=(*message.avps, Avp(code=1, data=b"\xff"))))


def test_missing_avp_in_a_request() -> None:
    message = STR.to_message()
    with pytest.raises(RequestError) as caught:
        Str.from_message(replace(message, avps=tuple(avp for avp in message.avps if avp.name != "User-Name")))
    assert caught.value.result is ResultCode.DIAMETER_MISSING_AVP


@pytest.mark.parametrize("change", [{"command": 275}, {"application": 16777250}, {"request": False}])
def test_another_command_is_not_a_der(change: dict[str, int]) -> None:
    with pytest.raises(DecodeError):
        Der.from_message(replace(DER.to_message(), **change))  # type: ignore[arg-type]


def test_session_ids() -> None:
    # RFC 6733 §8.8: <DiameterIdentity>;<high 32 bits>;<low 32 bits>[;<optional value>]
    source = SessionIdSource("epdg.epc.test", wall=1_700_000_000.5)
    assert source.next() == "epdg.epc.test;1700000000;1"
    assert source.next("imsi") == "epdg.epc.test;1700000000;2;imsi"


def test_tshark_reads_what_we_write(tmp_path: Path) -> None:
    """An independent decoder finds application, command and values, and nothing to complain about."""
    messages = [replace(value.to_message(), hop_by_hop=n) for n, value in enumerate(REQUESTS)]
    messages += [
        value.to_message(replace(asked.to_message(), hop_by_hop=20 + n)) for n, (value, asked) in enumerate(ANSWERS)
    ]
    written = capture(tmp_path / "swm.pcap", messages)
    tshark = Tshark(tmp_path)
    fields = ("diameter.applicationId", "diameter.cmd.code", "diameter.flags.request", "diameter.hopbyhopid")
    rows = tshark.fields(written, fields, display_filter="diameter")
    assert [[int(row[name][0], 0) for name in fields] for row in rows] == [
        [m.application, m.command, m.request, m.hop_by_hop] for m in messages
    ]
    names = (
        "diameter.Session-Id",
        "diameter.Service-Selection",
        "diameter.UE-Local-IP-Address.IPv4",
        "diameter.IMEI",
        "diameter.EAP-Master-Session-Key",
        "diameter.Context-Identifier",
        "diameter.PDN-Type",
        "diameter.Served-Party-IP-Address.IPv4",
        "diameter.Served-Party-IP-Address.IPv6",
        "diameter.Session-Timeout",
        "diameter.Experimental-Result-Code",
        "diameter.Termination-Cause",
    )
    values = tshark.fields(written, names, display_filter="diameter")
    der, dea, short_dea = values[0], values[len(REQUESTS)], values[len(REQUESTS) + 1]
    assert der["diameter.Session-Id"] == [DER.session_id]
    assert der["diameter.Service-Selection"] == ["ims"]
    assert der["diameter.UE-Local-IP-Address.IPv4"] == ["198.51.100.7"]
    assert der["diameter.IMEI"] == ["35209900176148"]
    assert dea["diameter.EAP-Master-Session-Key"] == [bytes(range(64)).hex()]
    assert (dea["diameter.Context-Identifier"], dea["diameter.PDN-Type"]) == (["3"], ["2"])
    assert dea["diameter.Served-Party-IP-Address.IPv4"] == ["10.45.0.9"]
    assert dea["diameter.Served-Party-IP-Address.IPv6"] == ["2001:db8::9"]
    assert dea["diameter.Session-Timeout"] == ["3600"]
    assert short_dea["diameter.Experimental-Result-Code"] == ["5001"]
    assert values[2]["diameter.Termination-Cause"] == ["1"]
    assert tshark.complaints(written) == []


def test_recorded_swm_messages_are_read() -> None:
    """DER, DEA, ASR and ASA of python-diameter nodes through freeDiameter."""
    entries = json.loads(shared("vectors/runs/diameter_gtpv2_open5gs.json").read_text())["diameter"]
    kinds = {"DER": Der, "DEA": Dea, "ASR": Asr, "ASA": Asa}
    read = [
        kinds[entry["name"]].from_message(decode_message(bytes.fromhex(entry["hex"])))
        for entry in entries
        if entry["app"] == 16777264
    ]
    ders = [value for value in read if isinstance(value, Der)]
    assert {value.user_name for value in ders} == {NAI}
    assert {value.rat_type for value in ders} == {0}
    assert {value.result for value in read if isinstance(value, Dea)} == {Result(0, 1001)}
    assert any(isinstance(value, Asr) for value in read)


def test_a_session_time_of_zero_is_without_end() -> None:
    """RFC 6733 §8.13."""
    assert Dea.from_message(replace(DEA, session_timeout=0).to_message(DER.to_message())).session_timeout is None
