"""The gateway's policy file: every result and cause has its Notify, a back-off where configured (TS 24.302 §7.4)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
import yaml

from epdg.commands import AllocateAddress, AnswerIke, Command, SendDer
from epdg.emergency import EmergencyPolicy, imei_of
from epdg.pdn.configuration import GrantedNetwork
from epdg.policy import ServicePolicy
from epdg.refusals import SHIPPED, GatewayCause, RefusalPolicy, read_refusals
from epdg.session import Session
from protocols.diameter.dictionary import PdnType
from protocols.diameter.profile import OverloadReport
from protocols.diameter.swm import ApnConfiguration, ExperimentalResultCode, Result, ResultCode
from protocols.errors import ConfigurationError
from protocols.ikev2.events import ConfigurationReply, EapReply, EapResponseReceived, Refusal
from protocols.ikev2.registry import NotifyType
from protocols.secret import Secret
from protocols.threegpp.backoff import DEACTIVATED, decode_backoff
from protocols.threegpp.causes import PrivateNotify, words
from tests.harness.refusals import without_line
from tests.machines.test_epdg_session import POLICY, attributes, authenticated, dea, identity, new, one

IMEI_NAI = "imei356938035643809@sos.nai.epc.mnc001.mcc001.3gppnetwork.org"
SOS_NAI = "0001010000000001@sos.nai.epc.mnc001.mcc001.3gppnetwork.org"
TABLE = {  # the whole of it, as the laboratory's reference has it; key (vendor, code)
    (0, 3004): PrivateNotify.CONGESTION,
    (0, 4001): NotifyType.AUTHENTICATION_FAILED,
    (0, 5003): PrivateNotify.AUTHORIZATION_REJECTED,
    (0, 5006): PrivateNotify.MAX_CONNECTION_REACHED,
    (0, 5012): PrivateNotify.NETWORK_FAILURE,
    (10415, 4181): PrivateNotify.NETWORK_FAILURE,
    (10415, 5001): PrivateNotify.USER_UNKNOWN,
    (10415, 5003): PrivateNotify.NETWORK_FAILURE,
    (10415, 5005): PrivateNotify.NETWORK_FAILURE,
    (10415, 5006): PrivateNotify.NETWORK_FAILURE,
    (10415, 5004): PrivateNotify.PLMN_NOT_ALLOWED,
    (10415, 5422): PrivateNotify.IMEI_NOT_ACCEPTED,
    (10415, 5450): PrivateNotify.NON_3GPP_ACCESS_TO_EPC_NOT_ALLOWED,
    (10415, 5451): PrivateNotify.NO_APN_SUBSCRIPTION,
    (10415, 5452): PrivateNotify.RAT_TYPE_NOT_ALLOWED,
    (10415, 5554): PrivateNotify.ILLEGAL_ME,
}


def refusal(commands: list[Command]) -> Refusal:
    command = one(commands, AnswerIke)
    assert isinstance(command, AnswerIke)
    assert isinstance(command.answer, Refusal)
    return command.answer


def back_off(answer: Refusal) -> float | None:
    """The seconds beside the error."""
    data = [each.data for each in answer.beside if each.type == PrivateNotify.BACKOFF_TIMER]
    return decode_backoff(data[0]) if data else None


def changed(tmp_path: Path, **sections: object) -> RefusalPolicy:
    """The shipped file with other entries."""
    values = yaml.safe_load(SHIPPED.read_text())
    for name, entries in sections.items():
        values[name] = {**values[name], **entries} if isinstance(entries, dict) else entries
    file = tmp_path / "refusals.yaml"
    file.write_text(yaml.safe_dump(values))
    return read_refusals(file)


@pytest.mark.parametrize(("key", "notify"), TABLE.items())
def test_every_result_of_the_table_has_its_notify_and_words(key: tuple[int, int], notify: int) -> None:
    verdict = read_refusals().of_result(Result(*key))
    assert verdict.notify == notify
    assert words(notify)


def test_a_result_without_an_entry_is_a_network_failure_that_names_it() -> None:
    known = {code for vendor, code in TABLE if vendor == 0}
    for code in ResultCode:
        if code not in known:
            verdict = read_refusals().of_result(Result(0, code))
            assert verdict.notify == PrivateNotify.NETWORK_FAILURE
            assert f"result {int(code)}" in verdict.text
    assert {code for code in ExperimentalResultCode if (10415, code) not in TABLE} == set()
    assert "result 9999 of vendor 7" in read_refusals().of_result(Result(7, 9999)).text


def test_a_policy_of_ones_own_says_how_long_and_in_which_words(tmp_path: Path) -> None:
    policy = changed(
        tmp_path,
        experimental_results={
            "DIAMETER_ERROR_USER_NO_NON_3GPP_SUBSCRIPTION": {
                "notify": 9000,
                "back_off": 3600,
                "text": "no Wi-Fi for this tariff",
            }
        },
        results={5002: {"notify": "PLMN_NOT_ALLOWED", "back_off": "deactivated"}},
        gateway={"congestion": {"notify": "CONGESTION", "back_off": 10}},
    )
    session = new(policy=replace(POLICY, refusals=policy))
    session.handle(identity(), 0.0)
    answer = refusal(session.aaa_answered(dea(10415, 5450, error_message="tariff S")))
    assert (int(answer.notify.type), answer.text) == (9000, "no Wi-Fi for this tariff: tariff S")
    assert back_off(answer) == 3600
    endless = policy.of_result(Result(0, 5002))
    assert (endless.notify, endless.back_off) == (PrivateNotify.PLMN_NOT_ALLOWED, DEACTIVATED)
    assert policy.of_cause(GatewayCause.CONGESTION, "full").back_off == 10


@pytest.mark.parametrize(
    ("section", "value", "line"),
    [
        ("default", {"notify": "NONSENSE"}, "default.notify: got 'NONSENSE', expected an error Notify type, such as"),
        ("default", {"notify": "BACKOFF_TIMER"}, "default.notify: got 'BACKOFF_TIMER', expected an error Notify type"),
        ("default", {"notify": 16384}, "default.notify: got 16384, expected an error Notify type"),
        ("default", {"notify": 24, "back_off": -1}, "default.back_off: got -1, expected a number of seconds from 0"),
        ("default", {"notify": 24, "back_off": "soon"}, "default.back_off: got 'soon', expected a number of seconds"),
        ("default", {"notify": 24, "txt": "x"}, "default.txt: got an unknown key, expected no such key (did you mean"),
        (
            "results",
            {"DIAMETER_ERROR_USER_UNKNOWN": {"notify": 24}},
            "results: got a mapping, expected results",
        ),
        ("results", {"5012": {"notify": 24}}, "results: got a mapping, expected every result once, but"),
        (
            "experimental_results",
            {"12": {"notify": 24}},
            "experimental_results: got a mapping, expected results",
        ),
        ("gateway", {"no-luck": {"notify": 24}}, "gateway.no-luck"),
    ],
)
def test_a_wrong_policy_is_refused_in_one_line(tmp_path: Path, section: str, value: object, line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        changed(tmp_path, **{section: value})
    assert without_line(caught.value).startswith(f"{tmp_path}/refusals.yaml: {line}")
    assert "\n" not in without_line(caught.value)


def test_a_cause_that_is_left_out_is_named(tmp_path: Path) -> None:
    values = yaml.safe_load(SHIPPED.read_text())
    del values["gateway"]["no-apn"]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigurationError, match=r"gateway: got a mapping, expected an entry for no-apn too"):
        read_refusals(tmp_path / "r.yaml")


def test_an_overload_report_sets_the_back_off_where_the_file_has_none() -> None:
    """RFC 7683 §7.5: how long the report is valid."""
    session = new()
    session.handle(identity(), 0.0)
    overload = OverloadReport(1, validity=120)
    assert back_off(refusal(session.aaa_answered(dea(0, 5012, overload=overload)))) == 120
    other = new()
    other.handle(identity(), 0.0)
    assert back_off(refusal(other.aaa_answered(dea(0, 3004, overload=overload)))) == 60


def test_a_congested_gateway_asks_nobody() -> None:
    session = new(congested=lambda who: True)
    commands = session.handle(identity(), 0.0)
    assert not [command for command in commands if isinstance(command, SendDer)]
    answer = refusal(commands)
    assert (int(answer.notify.type), back_off(answer)) == (PrivateNotify.CONGESTION, 60)


def test_too_many_connections() -> None:
    session = authenticated(new())
    session.handle(attributes(1), 0.0)
    assert int(refusal(session.too_many_connections(2)).notify.type) == PrivateNotify.MAX_CONNECTION_REACHED


# --- PDN types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subscribed", "pools", "asked", "notifies"),
    [
        (PdnType.IPv4, (4, 6), (8,), [PrivateNotify.PDN_TYPE_IPV4_ONLY_ALLOWED]),
        (PdnType.IPv6, (4, 6), (1,), [PrivateNotify.PDN_TYPE_IPV6_ONLY_ALLOWED]),
        (PdnType.IPv4v6, (4,), (8,), [PrivateNotify.PDN_TYPE_IPV4_ONLY_ALLOWED]),
        (PdnType.IPv6, (4,), (1,), []),  # nothing can be had
    ],
)
def test_a_refusal_says_which_type_could_be_had(
    subscribed: PdnType, pools: tuple[int, ...], asked: tuple[int, ...], notifies: list[int]
) -> None:
    profile = ApnConfiguration(context_identifier=1, service_selection="internet", pdn_type=subscribed)
    session = authenticated(new(), apn_configuration=profile)
    session.handle(attributes(*asked), 0.0)
    answer = refusal(session.address_allocated((), GrantedNetwork(versions=pools)))
    assert int(answer.notify.type) == NotifyType.INTERNAL_ADDRESS_FAILURE
    assert [int(each.type) for each in answer.beside] == notifies


# --- equipment ----------------------------------------------------------------------------------------


def test_a_ue_has_to_tell_its_identity_where_that_is_required() -> None:
    session = authenticated(new(policy=replace(POLICY, require_device_identity=True)))
    assert int(refusal(session.handle(attributes(1), 0.0)).notify.type) == PrivateNotify.IMEI_NOT_ACCEPTED
    known = new(policy=replace(POLICY, require_device_identity=True))
    known.device_identity = "356938035643809"
    authenticated(known)
    known.handle(attributes(1), 0.0)
    command = one(known.address_allocated((IPv4Address("10.45.0.2"),), GrantedNetwork()), AnswerIke)
    assert isinstance(command, AnswerIke)
    assert isinstance(command.answer, ConfigurationReply)


def test_the_identity_is_in_every_der_once_it_is_known() -> None:
    session = new()
    first = one(session.handle(identity(), 0.0), SendDer)
    assert isinstance(first, SendDer)
    assert (first.first, first.device_identity) == (True, None)
    session.aaa_answered(dea(0, 1001, eap_payload=b"\1\1\0\4"))
    session.device_identity = "3569380356438091"

    later = one(session.handle(EapResponseReceived(packet=b"\2\1\0\4"), 0.0), SendDer)
    assert isinstance(later, SendDer)
    assert (later.first, later.device_identity) == (False, "3569380356438091")


# --- emergency ----------------------------------------------------------------------------------------

REFUSING = replace(POLICY, emergency=EmergencyPolicy(apn="sos"))
ALLOWING = replace(POLICY, emergency=EmergencyPolicy(apn="sos", unauthenticated=True))


def emergency(
    policy: ServicePolicy, apn: bytes | None = b"EMERGENCY", nai: str = SOS_NAI
) -> tuple[Session, list[Command]]:
    session = new(policy=policy, congested=lambda who: True)
    return session, session.handle(identity(apn, nai), 0.0)


@pytest.mark.parametrize("apn", [b"EMERGENCY", b"sos", b"SOS", None])
def test_an_emergency_is_told_to_the_aaa_server_without_an_apn(apn: bytes | None) -> None:
    """TS 24.302 §7.2.5; congestion does not count."""
    session, commands = emergency(REFUSING, apn)
    der = one(commands, SendDer)
    assert isinstance(der, SendDer)
    assert (der.emergency, der.apn, session.apn, session.imsi) == (True, None, "sos", "001010000000001")


def test_an_apn_of_that_name_is_an_ordinary_one_without_emergency_services() -> None:
    session = new()
    session.handle(identity(b"sos"), 0.0)
    assert (session.emergency, session.apn) == (False, "sos")


def test_a_ue_without_usim_is_refused_or_taken_to_the_aaa_server() -> None:
    _, refused = emergency(REFUSING, nai=IMEI_NAI)
    assert int(refusal(refused).notify.type) == PrivateNotify.UNAUTHENTICATED_EMERGENCY_NOT_SUPPORTED
    session, commands = emergency(ALLOWING, nai=IMEI_NAI)
    der = one(commands, SendDer)
    assert isinstance(der, SendDer)
    assert (der.emergency, der.device_identity, session.imsi) == (True, "356938035643809", None)
    success = dea(0, 2001, eap_payload=b"\3\0\0\4", master_session_key=Secret(bytes(64)))
    command = one(session.aaa_answered(success), AnswerIke)
    assert isinstance(command, AnswerIke)
    assert isinstance(command.answer, EapReply)


@pytest.mark.parametrize(("vendor", "code"), [(0, 4001), (10415, 5001)])
def test_a_user_who_cannot_be_authenticated_has_no_emergency_session_where_that_is_refused(
    vendor: int, code: int
) -> None:
    session, _ = emergency(REFUSING)
    answer = refusal(session.aaa_answered(dea(vendor, code)))
    assert int(answer.notify.type) == PrivateNotify.UNAUTHENTICATED_EMERGENCY_NOT_SUPPORTED
    session, _ = emergency(ALLOWING)
    answer = refusal(session.aaa_answered(dea(vendor, code)))
    assert int(answer.notify.type) == TABLE[vendor, code]


def test_the_subscription_does_not_decide_on_an_emergency() -> None:
    session, _ = emergency(REFUSING)
    profile = ApnConfiguration(
        context_identifier=1,
        service_selection="internet",
        pdn_type=PdnType.IPv6,
        served_party_addresses=(IPv6Address("2001:db8::1"),),
    )
    success = dea(0, 2001, eap_payload=b"\3\0\0\4", master_session_key=Secret(bytes(64)), apn_configuration=profile)
    session.aaa_answered(success)

    assert session.handle(attributes(1), 0.0) == [AllocateAddress(apn="sos", versions=(4,))]


@pytest.mark.parametrize(
    ("nai", "imei"),
    [
        (IMEI_NAI, "356938035643809"),
        ("imei35693803564380@sos.nai.epc.mnc001.mcc001.3gppnetwork.org", "35693803564380"),
        ("imei356938035643809@nai.epc.mnc001.mcc001.3gppnetwork.org", None),
        ("imei12@sos.nai.epc.mnc001.mcc001.3gppnetwork.org", None),
        (SOS_NAI, None),
    ],
)
def test_imei_in_an_nai(nai: str, imei: str | None) -> None:
    """TS 23.003 §19.3.9."""
    assert imei_of(nai) == imei
