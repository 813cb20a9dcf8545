"""Emergency sessions at the AAA server (TS 23.402 §4.5.7.2, TS 29.273 §7.1.2.1, TS 33.402 §13)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aaa.authorization import RefusalCause
from aaa.emergency import EmergencyPolicy
from aaa.equipment import ANY_EQUIPMENT, EquipmentList, EquipmentStatus
from aaa.events import AdmittedUnauthenticated, DeregistrationRequested, ServerIdentity
from aaa.reauthorization import AaaReady, Reauthorization
from aaa.subscribers import Subscriber
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import PdnType, ResultCode
from protocols.diameter.profile import Arp, QosProfile
from protocols.diameter.swm import Aar, Ambr, Dea
from protocols.eap.packet import EapCode, EapPacket, failure, identity_response, success
from protocols.eap.unauthenticated import Admitted, UnauthenticatedPeer, emergency_msk, emergency_nai
from protocols.threegpp.identity import IdentityKind, Nai
from tests.harness.aka_user import aka_user
from tests.machines.test_aaa_authentication import AAA, MULTI_ROUND, SUCCESS, World

USER = laboratory_subscriber(1)
IMEI = "490154203237518"
POLICY = EmergencyPolicy(
    apn="sos", unauthenticated=True, ambr_uplink_bits=1000, ambr_downlink_bits=2000, qci=5, priority_level=1
)
REJECTED = Result.of(ResultCode.DIAMETER_AUTHORIZATION_REJECTED)


def world(
    *subscribers: Subscriber, policy: EmergencyPolicy | None = POLICY, equipment: EquipmentList = ANY_EQUIPMENT
) -> World:
    world = World(*subscribers, emergency=policy, equipment=equipment)
    world.urgent, world.visited = True, "mnc002.mcc262.3gppnetwork.org"
    return world


def without_usim(world: World) -> Dea:
    return world.exchange(identity_response(7, emergency_nai(IMEI).encode()), apn=None)


def test_the_msk_is_made_of_the_imei() -> None:
    """TS 33.402 Annex A.4; the octets agree with those of another implementation of it."""
    expected = "e0331e121cc1b8f468f08e24f4e7b8dae3c8f7a8b5e7147613aedfce21d9d6ac"
    assert emergency_msk(IMEI).reveal().hex() == expected


def test_the_identity_is_one_for_emergencies() -> None:
    nai = Nai.parse(emergency_nai(IMEI))
    assert str(nai) == f"imei{IMEI}@sos.invalid"
    assert (nai.kind, nai.imei, nai.imsi, nai.emergency) == (IdentityKind.EMERGENCY_IMEI, IMEI, None, True)
    for other in ("12345", IMEI + "1", "49015420323751x"):
        with pytest.raises(ValueError, match="15 digits"):
            emergency_nai(other)


@pytest.mark.parametrize(
    "changes",
    [{}, {"enabled": False}, {"non_3gpp_allowed": False}, {"wlan_allowed": False}, {"roaming_allowed": False}],
    ids=str,
)
def test_an_authenticated_user_gets_the_apn_of_emergencies_whatever_it_has_subscribed(
    changes: dict[str, bool],
) -> None:
    subscriber = replace(USER, **changes)  # type: ignore[arg-type]
    home = world(subscriber)
    answers = home.attach(aka_user(subscriber), apn=None)
    assert [answer.result for answer in answers] == [MULTI_ROUND, SUCCESS]
    (session,) = home.sessions
    granted = answers[-1].apn_configuration
    assert granted is not None
    assert (granted.service_selection, granted.ambr, session.apn) == ("sos", Ambr(1000, 2000), "sos")
    assert (granted.qos, granted.pdn_type) == (QosProfile(5, Arp(1)), PdnType.IPv4v6)


@pytest.mark.parametrize("policy", [None, POLICY])
def test_without_policy_or_emergency_the_subscription_decides(policy: EmergencyPolicy | None) -> None:
    home = world(USER, policy=policy)
    home.urgent = policy is None
    granted = home.attach(aka_user(USER), apn=None)[-1].apn_configuration
    assert granted is not None
    assert granted.service_selection == "internet"
    stranger = world(replace(USER, roaming_allowed=False), policy=policy)
    stranger.urgent = policy is None
    assert stranger.attach(aka_user(USER), apn=None)[-1].result.name == "DIAMETER_ERROR_ROAMING_NOT_ALLOWED"


def test_a_stranger_is_not_known_in_an_emergency_either() -> None:
    assert world().attach(aka_user(USER), apn=None)[-1].result.name == "DIAMETER_ERROR_USER_UNKNOWN"


def test_a_ue_without_a_usim_is_admitted_with_the_msk_of_its_imei() -> None:
    home, peer = world(), UnauthenticatedPeer(IMEI)
    answer = without_usim(home)
    assert (answer.result, answer.eap_payload, answer.user_name) == (SUCCESS, success(7), peer.identity)
    assert answer.session_timeout is not None
    assert [event.imei for event in home.events if isinstance(event, AdmittedUnauthenticated)] == [IMEI]
    assert answer.eap_payload is not None
    peer.receive(answer.eap_payload)
    admitted = peer.poll_event()
    assert isinstance(admitted, Admitted)
    assert answer.master_session_key is not None
    assert admitted.msk.reveal() == answer.master_session_key.reveal()
    assert without_usim(home) == answer  # the same DER again


@pytest.mark.parametrize(
    ("policy", "urgent"),
    [(replace(POLICY, unauthenticated=False), True), (None, True), (POLICY, False)],
    ids=["refused", "no policy", "no emergency"],
)
def test_a_ue_without_a_usim_is_refused(policy: EmergencyPolicy | None, urgent: bool) -> None:
    home = world(policy=policy)
    home.urgent = urgent
    answer = without_usim(home)
    assert (answer.result, answer.eap_payload, answer.master_session_key) == (REJECTED, failure(7), None)
    (session,) = home.sessions
    assert session.refusal is not None
    assert session.refusal.cause is RefusalCause.UNAUTHENTICATED


def test_a_stolen_device_is_refused() -> None:
    black = EquipmentList(patterns={"490*": EquipmentStatus.BLACK})
    assert without_usim(world(equipment=black)).result.name == "DIAMETER_ERROR_ILLEGAL_EQUIPMENT"


def test_an_emergency_session_is_renewed_without_the_hss() -> None:
    home = world()
    without_usim(home)
    renewal = Reauthorization(home.sessions, identity=ServerIdentity(host=AAA.host, realm=AAA.realm))
    aar = Aar(
        session_id="s;1;1",
        origin_host="epdg.test",
        origin_realm="test",
        destination_realm="test",
        user_name=emergency_nai(IMEI),
    )
    renewal.receive(aar, 1, home.now)
    ready = renewal.poll_event()
    assert isinstance(ready, AaaReady)
    assert ready.answer.result == SUCCESS
    assert ready.answer.apn_configuration == POLICY.granted()
    assert AAA.host == ready.answer.origin_host


def test_a_session_of_a_user_that_goes_on_without_authentication_is_its_no_more() -> None:
    home = world(USER)
    home.attach(aka_user(USER), apn=None)
    assert without_usim(home).result == SUCCESS
    (session,) = home.sessions
    assert (session.imsi, session.user_name) == (None, emergency_nai(IMEI))
    assert not home.sessions.is_registered(USER.imsi)
    assert home.take(DeregistrationRequested)


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda tail: bytes([1, 7, 0, 4 + len(tail)]) + tail))
def test_the_peer_takes_any_octets(octets: bytes) -> None:
    peer = UnauthenticatedPeer(IMEI)
    peer.receive(octets)
    assert peer.poll_event() is not None
    assert peer.poll_event() is None


def test_the_peer_has_no_method() -> None:
    peer = UnauthenticatedPeer(IMEI)
    peer.receive(bytes([EapCode.REQUEST, 3, 0, 5, 1]))
    asked = peer.poll_event()
    assert asked is not None
    assert EapPacket.decode(asked.packet).data == peer.identity.encode()  # type: ignore[union-attr]
    for octets, words in (
        (bytes([EapCode.REQUEST, 4, 0, 8, 23, 1, 0, 0]), "wants a USIM"),
        (failure(4), "EAP-Failure"),
        (b"\x01", "not an EAP packet"),
        (bytes([EapCode.RESPONSE, 4, 0, 5, 1]), "not for a peer"),
    ):
        peer.receive(octets)
        event = peer.poll_event()
        assert words in event.why  # type: ignore[union-attr]
