"""The profile on the wire (TS 29.272 §7.3.35, TS 29.273 §8.2.3.1) and overload reports (RFC 7683 §7)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from protocols.diameter.codec import Avp, AvpGroup, RequestError
from protocols.diameter.dictionary import VALUE_NAMES
from protocols.diameter.profile import (
    OLR_DEFAULT_ALGO,
    Ambr,
    ApnConfiguration,
    Arp,
    Non3gppUserData,
    OverloadReport,
    QosProfile,
    TerminalInformation,
    agent_info,
    agent_within,
    msisdn_within,
    overload_avps,
    overload_features_within,
)
from protocols.errors import DecodeError
from tests.harness.diameter_messages import BARRED, IMS, INTERNET, USER_DATA


def group(*avps: Avp) -> AvpGroup:
    return AvpGroup(avps)


def opened(avp: Avp) -> AvpGroup:
    """A group as it comes from the wire."""
    opened = AvpGroup((avp,)).group(avp.name)
    assert opened is not None
    return opened


@pytest.mark.parametrize("apn", [IMS, INTERNET, ApnConfiguration(context_identifier=1, service_selection="x")])
def test_apn_configuration(apn: ApnConfiguration) -> None:
    assert ApnConfiguration.from_group(opened(apn.to_avp())) == apn


@pytest.mark.parametrize("data", [USER_DATA, BARRED])
def test_user_data(data: Non3gppUserData) -> None:
    assert Non3gppUserData.within(group(data.to_avp())) == data


# Octets by hand after RFC 6733 §4.1 and the tables of TS 29.272 §7.3.1, TS 29.212 §5.3.0, RFC 5447, RFC 7683
WIRE: list[tuple[Avp, str]] = [
    (
        QosProfile(9, Arp(8)).to_avp(),
        "00000597 c0000058 000028af"
        "00000404 c0000010 000028af 00000009"
        "0000040a 8000003c 000028af"
        "00000416 80000010 000028af 00000008"
        "00000417 80000010 000028af 00000001"
        "00000418 80000010 000028af 00000000",
    ),
    (
        Ambr(1000, 2000).to_avp(),
        "0000059b c000002c 000028af 00000204 c0000010 000028af 000003e8 00000203 c0000010 000028af 000007d0",
    ),
    (agent_info("192.0.2.7")[0], "000001e6 40000018 0000014e 4000000e 0001c0000207 0000"),
    (
        agent_info("p.x")[0],
        "000001e6 40000028 0000015c 40000020 0000011b 40000009 78 000000 00000125 4000000b 702e78 00",
    ),
    (
        OverloadReport(1, 60, 50).to_avp(),
        "0000026f 0000003c 00000270 00000010 0000000000000001 00000272 0000000c 00000000"
        "00000273 0000000c 00000032 00000271 0000000c 0000003c",
    ),
]


@pytest.mark.parametrize(("avp", "octets"), WIRE)
def test_wire(avp: Avp, octets: str) -> None:
    assert avp.encode() == bytes.fromhex(octets)


def test_rates_beyond_the_avp() -> None:
    assert Ambr.within(group(Ambr(10**10, 1).to_avp())) == Ambr(0xFFFFFFFF, 1)


def test_static_addresses() -> None:
    assert (IMS.static_ipv4, IMS.static_ipv6) == (ip_address("10.45.0.9"), ip_address("2001:db8:0:9::"))
    assert (INTERNET.static_ipv4, INTERNET.static_ipv6) == (None, None)


def test_absent_pre_emption_members() -> None:
    # TS 29.212 §5.3.46, §5.3.47: capability disabled, vulnerability enabled
    avp = Avp.of(
        "EPS-Subscribed-QoS-Profile",
        (
            Avp.of("QoS-Class-Identifier", 5),
            Avp.of("Allocation-Retention-Priority", (Avp.of("Priority-Level", 3),)),
        ),
    )
    assert QosProfile.within(group(avp)) == QosProfile(5, Arp(3, False, True))


@pytest.mark.parametrize(
    "members",
    [
        (Avp.of("QoS-Class-Identifier", 5),),
        (Avp.of("Allocation-Retention-Priority", (Avp.of("Priority-Level", 3),)),),
        (Avp.of("QoS-Class-Identifier", 5), Avp.of("Allocation-Retention-Priority", ())),
    ],
)
def test_incomplete_qos(members: tuple[Avp, ...]) -> None:
    with pytest.raises(DecodeError):
        QosProfile.within(group(Avp.of("EPS-Subscribed-QoS-Profile", members)))


def test_unknown_allocation_type() -> None:
    members = IMS.to_avp().value
    assert isinstance(members, tuple)
    kept = tuple(avp for avp in members if avp.name != "PDN-GW-Allocation-Type")
    with pytest.raises(DecodeError, match="PDN-GW-Allocation-Type 7"):
        ApnConfiguration.from_group(group(*kept, Avp.of("PDN-GW-Allocation-Type", 7)))


def test_agent_of_two_addresses_and_of_none() -> None:
    both = Avp.of(
        "MIP6-Agent-Info",
        tuple(Avp.of("MIP-Home-Agent-Address", ip_address(text)) for text in ("2001:db8::7", "192.0.2.7")),
    )
    assert agent_within(group(both)) == "2001:db8::7"
    assert agent_within(group(Avp.of("MIP6-Agent-Info", ()))) is None
    assert agent_within(group()) is None


def test_msisdn_among_other_identities() -> None:
    imsi = Avp.of("Subscription-Id", (Avp.of("Subscription-Id-Type", 1), Avp.of("Subscription-Id-Data", "00101")))
    e164 = Avp.of("Subscription-Id", (Avp.of("Subscription-Id-Type", 0), Avp.of("Subscription-Id-Data", "49170")))
    assert msisdn_within(group(imsi, e164)) == "49170"
    assert msisdn_within(group(imsi)) is None


def test_terminal_without_an_imei() -> None:
    assert TerminalInformation.within(group(Avp.of("Terminal-Information", ()))) is None


def test_user_data_with_a_trace_alone() -> None:
    # TS 29.273 §8.2.3.1: no profile
    assert Non3gppUserData.within(group(Avp.of("Non-3GPP-User-Data", (Avp.of("Trace-Info", ()),)))) is None


def test_overload_reports() -> None:
    report = OverloadReport(3, 120, 10)
    answer = group(*overload_avps(None, report))
    assert overload_features_within(answer) == OLR_DEFAULT_ALGO
    assert OverloadReport.within(answer) == report
    assert overload_avps(None, None) == ()


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        # RFC 7683 §7.5: beyond 86400 seconds or absent, the default of 30 seconds
        ((("OC-Sequence-Number", 1), ("OC-Report-Type", 0)), OverloadReport(1, 30, 0)),
        (
            (("OC-Sequence-Number", 1), ("OC-Report-Type", 0), ("OC-Validity-Duration", 86_401)),
            OverloadReport(1, 30, 0),
        ),
        # §7.7: values above 100 are ignored
        ((("OC-Sequence-Number", 1), ("OC-Report-Type", 0), ("OC-Reduction-Percentage", 101)), None),
        ((("OC-Report-Type", 0),), None),
        ((("OC-Sequence-Number", 1),), None),
    ],
)
def test_overload_reports_at_the_edges(members: tuple[tuple[str, int], ...], expected: OverloadReport | None) -> None:
    avp = Avp.of("OC-OLR", tuple(Avp.of(name, value) for name, value in members))
    assert OverloadReport.within(group(avp)) == expected


def test_features_without_a_vector_mean_the_default() -> None:
    assert overload_features_within(group(Avp.of("OC-Supported-Features", ()))) == OLR_DEFAULT_ALGO


def test_a_member_of_the_wrong_length() -> None:
    broken = Avp.of("AMBR", (Avp(code=516, vendor=10415, data=b"\x01"),))
    with pytest.raises(RequestError):
        Ambr.within(group(broken))


def test_values_have_the_names_of_the_standards() -> None:
    assert VALUE_NAMES["Non-3GPP-IP-Access"](1).name == "NON_3GPP_SUBSCRIPTION_BARRED"
    detail = AvpGroup((USER_DATA.to_avp(),)).detail()["Non-3GPP-User-Data"]
    assert isinstance(detail, dict)
    assert detail["Non-3GPP-IP-Access-APN"] == "NON_3GPP_APNS_ENABLE (0)"
