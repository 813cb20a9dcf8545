"""One message of every SWx, S6b and SWm command, with all that they may hold."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Protocol, Self

from protocols.diameter import s6b, swm
from protocols.diameter.codec import DiameterMessage, Result
from protocols.diameter.dictionary import PdnGwAllocationType, PdnType, ServerAssignmentType
from protocols.diameter.profile import (
    GTPV2_SUPPORTED,
    OLR_DEFAULT_ALGO,
    Ambr,
    ApnConfiguration,
    Arp,
    Non3gppUserData,
    OverloadReport,
    QosProfile,
    TerminalInformation,
)
from protocols.diameter.swx import (
    EAP_AKA,
    EAP_AKA_PRIME,
    AuthItem,
    DeregistrationReason,
    Maa,
    Mar,
    Ppa,
    Ppr,
    Rta,
    Rtr,
    Saa,
    Sar,
)
from protocols.secret import Secret

IMSI = "001010000000001"
NAI = f"0{IMSI}@nai.epc.mnc001.mcc001.3gppnetwork.org"
SUCCESS = Result(0, 2001)


class Request(Protocol):
    """A request as a value."""

    def to_message(self) -> DiameterMessage: ...

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Self: ...


class Answer(Protocol):
    """An answer as a value."""

    def to_message(self, request: DiameterMessage) -> DiameterMessage: ...

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Self: ...


IMS = ApnConfiguration(
    context_identifier=1,
    service_selection="ims",
    pdn_type=PdnType.IPv4v6,
    ambr=Ambr(50_000_000, 100_000_000),
    served_party_addresses=(ip_address("10.45.0.9"), ip_address("2001:db8:0:9::")),
    qos=QosProfile(5, Arp(1, True, False)),
    vplmn_dynamic_address_allowed=True,
    mip6_agent_info="pgw.epc.test",
    pdn_gw_allocation_type=PdnGwAllocationType.STATIC,
    charging_characteristics="0800",
)
INTERNET = ApnConfiguration(
    context_identifier=2,
    service_selection="internet",
    pdn_type=PdnType.IPv4_OR_IPv6,
    qos=QosProfile(9, Arp(8)),
    vplmn_dynamic_address_allowed=False,
    mip6_agent_info="192.0.2.7",
    pdn_gw_allocation_type=PdnGwAllocationType.DYNAMIC,
)
USER_DATA = Non3gppUserData(
    subscription_id="491701234567",
    non_3gpp_ip_access=True,
    non_3gpp_ip_access_apn=True,
    rat_types_barred=(1, 2001),
    session_timeout=7200,
    mip6_feature_vector=GTPV2_SUPPORTED,
    ambr=Ambr(1_000_000_000, 2_000_000_000),
    charging_characteristics="0400",
    default_context_identifier=2,
    apns=(IMS, INTERNET),
)
BARRED = Non3gppUserData(non_3gpp_ip_access=False, non_3gpp_ip_access_apn=False)
TERMINAL = TerminalInformation("35209900176148", "01")
OVERLOAD = OverloadReport(7, 60, 100)
RAND, AUTN, AUTS = bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 46))
VECTOR = AuthItem(rand=RAND, autn=AUTN, xres=b"\x4c" * 8, ck=b"\x0c" * 16, ik=b"\x1c" * 16, scheme=EAP_AKA)
PRIME_VECTOR = AuthItem(rand=AUTN, autn=RAND, xres=b"\x5c" * 16, ck=b"\x2c" * 16, ik=b"\x3c" * 16, scheme=EAP_AKA_PRIME)

_AAA = {"origin_host": "aaa.epc.test", "origin_realm": "aaa.test"}
_HSS = {"origin_host": "hss.epc.test", "origin_realm": "hss.test"}
_PGW = {"origin_host": "pgw.epc.test", "origin_realm": "epc.test"}
_EPDG = {"origin_host": "epdg.epc.test", "origin_realm": "epc.test"}
_TO_HSS = {**_AAA, "destination_realm": "hss.test", "user_name": IMSI}
_TO_AAA = {**_HSS, "destination_realm": "aaa.test", "destination_host": "aaa.epc.test", "user_name": IMSI}

MAR = Mar(
    session_id="aaa.epc.test;1;1",
    **_TO_HSS,
    destination_host="hss.epc.test",
    scheme=EAP_AKA_PRIME,
    number_of_items=2,
    access_network_identity="WLAN",
    visited_network="mnc001.mcc001.3gppnetwork.org",
    terminal_information=TERMINAL,
)
RESYNCHRONISING = Mar(session_id="aaa.epc.test;1;2", **_TO_HSS, resynchronisation=(RAND, AUTS), rat_type=None)
MAA = Maa(
    session_id=MAR.session_id,
    **_HSS,
    result=SUCCESS,
    user_name=IMSI,
    items=(VECTOR, PRIME_VECTOR),
    server_name="aaa.epc.test",
)
SAR = Sar(
    session_id="aaa.epc.test;1;3",
    **_TO_HSS,
    destination_host="hss.epc.test",
    server_assignment_type=ServerAssignmentType.REGISTRATION,
    visited_network="mnc001.mcc001.3gppnetwork.org",
    terminal_information=TERMINAL,
)
PGW_UPDATE = Sar(
    session_id="aaa.epc.test;1;4",
    **_TO_HSS,
    server_assignment_type=ServerAssignmentType.PGW_UPDATE,
    service_selection="ims",
    context_identifier=1,
    pgw="2001:db8::7",
    emergency_services=1,
)
SAA = Saa(
    session_id=SAR.session_id,
    **_HSS,
    result=SUCCESS,
    user_name=IMSI,
    user_data=USER_DATA,
    server_name="aaa.epc.test",
)
RTR = Rtr(session_id="hss.epc.test;1;1", **_TO_AAA, deregistration_reason=DeregistrationReason(2, "moved"))
PPR = Ppr(session_id="hss.epc.test;1;2", **_TO_AAA, user_data=USER_DATA, flags=1)

S6B_AAR = s6b.Aar(
    session_id="pgw.epc.test;1;1",
    **_PGW,
    destination_realm="aaa.test",
    destination_host="aaa.epc.test",
    user_name=NAI,
    rat_type=0,
    mip6_agent_info="192.0.2.7",
    mip6_feature_vector=GTPV2_SUPPORTED,
    visited_network_identifier="mnc001.mcc001.3gppnetwork.org",
    service_selection="ims",
    overload_features=OLR_DEFAULT_ALGO,
    emergency_services=1,
)
S6B_AAA = s6b.Aaa(
    session_id=S6B_AAR.session_id,
    **_AAA,
    result=SUCCESS,
    mip6_feature_vector=GTPV2_SUPPORTED,
    session_timeout=3600,
    apn_configuration=IMS,
    overload_features=OLR_DEFAULT_ALGO,
    overload=OVERLOAD,
)
_TO_PGW = {**_AAA, "destination_realm": "epc.test", "destination_host": "pgw.epc.test", "user_name": NAI}
S6B_STR = s6b.Str(session_id=S6B_AAR.session_id, **_PGW, destination_realm="aaa.test", user_name=NAI)
S6B_ASR = s6b.Asr(session_id=S6B_AAR.session_id, **_TO_PGW)
S6B_RAR = s6b.Rar(session_id=S6B_AAR.session_id, **_TO_PGW)

_TO_EPDG = {**_AAA, "destination_realm": "epc.test", "destination_host": "epdg.epc.test", "user_name": NAI}
DER = swm.Der(
    session_id="epdg.epc.test;1;1",
    **_EPDG,
    destination_realm="aaa.test",
    destination_host="aaa.epc.test",
    user_name=NAI,
    eap_payload=bytes.fromhex("020100090130303031"),
    service_selection="ims",
    ue_local_ip=ip_address("198.51.100.7"),
    visited_network_identifier="mnc001.mcc001.3gppnetwork.org",
    terminal_information=TERMINAL,
    mip6_feature_vector=GTPV2_SUPPORTED,
    aaa_failure_indication=1,
    emergency_services=1,
    overload_features=OLR_DEFAULT_ALGO,
    state=(b"one", b"two"),
)
DEA = swm.Dea(
    session_id=DER.session_id,
    **_AAA,
    result=SUCCESS,
    eap_payload=bytes.fromhex("03020004"),
    master_session_key=Secret(bytes(range(64))),
    user_name=NAI,
    apn_oi_replacement="apn.test",
    apn_configuration=IMS,
    session_timeout=3600,
    mip6_feature_vector=GTPV2_SUPPORTED,
    mobile_node_identifier=NAI,
    subscription_id="491701234567",
    mip6_agent_info="192.0.2.7",
    charging_characteristics="0800",
    multi_round_timeout=20,
    overload_features=OLR_DEFAULT_ALGO,
    overload=OVERLOAD,
    state=(b"one",),
    error_message="none",
)
SWM_AAR = swm.Aar(
    session_id="epdg.epc.test;1;1",
    **_EPDG,
    destination_realm="aaa.test",
    destination_host="aaa.epc.test",
    user_name=NAI,
    aar_flags=1,
    ue_local_ip=ip_address("198.51.100.7"),
    overload_features=OLR_DEFAULT_ALGO,
)
SWM_AAA = swm.Aaa(
    session_id=SWM_AAR.session_id,
    **_AAA,
    result=SUCCESS,
    user_name=IMSI,
    apn_oi_replacement="apn.test",
    apn_configuration=IMS,
    session_timeout=3600,
    subscription_id="491701234567",
    charging_characteristics="0800",
    overload_features=OLR_DEFAULT_ALGO,
    overload=OVERLOAD,
)

SWX: list[tuple[Request, Answer]] = [
    (MAR, MAA),
    (RESYNCHRONISING, Maa(session_id="aaa.epc.test;1;2", **_HSS, result=Result(10415, 5001), error_message="unknown")),
    (SAR, SAA),
    (PGW_UPDATE, Saa(session_id="aaa.epc.test;1;4", **_HSS, result=SUCCESS, user_name=IMSI, user_data=BARRED)),
    (RTR, Rta(session_id=RTR.session_id, **_AAA, result=SUCCESS)),
    (PPR, Ppa(session_id=PPR.session_id, **_AAA, result=Result(10415, 5001), error_message="unknown")),
]
S6B: list[tuple[Request, Answer]] = [
    (S6B_AAR, S6B_AAA),
    (S6B_STR, s6b.Sta(session_id=S6B_AAR.session_id, **_AAA, result=SUCCESS)),
    (S6B_ASR, s6b.Asa(session_id=S6B_AAR.session_id, **_PGW, result=SUCCESS)),
    (S6B_RAR, s6b.Raa(session_id=S6B_AAR.session_id, **_PGW, result=Result(0, 5002), error_message="none")),
]
SWM: list[tuple[Request, Answer]] = [
    (DER, DEA),
    (SWM_AAR, SWM_AAA),
    (
        swm.Str(session_id=DER.session_id, **_EPDG, destination_realm="aaa.test", user_name=NAI),
        swm.Sta(session_id=DER.session_id, **_AAA, result=SUCCESS),
    ),
    (
        swm.Asr(session_id=DER.session_id, **_TO_EPDG),
        swm.Asa(session_id=DER.session_id, **_EPDG, result=SUCCESS),
    ),
    (
        swm.Rar(session_id=DER.session_id, **_TO_EPDG),
        swm.Raa(session_id=DER.session_id, **_EPDG, result=Result(0, 5002), error_message="none"),
    ),
]
