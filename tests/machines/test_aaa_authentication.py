"""SWm sessions of the AAA server (TS 29.273 §7.1, RFC 4072): the machine between a gateway and an HSS."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aaa.authorization import RefusalCause, backend_refusal, hss_refusal
from aaa.eap import EapService
from aaa.emergency import EmergencyPolicy
from aaa.equipment import ANY_EQUIPMENT, EquipmentList
from aaa.events import (
    AnswerReady,
    Authenticated,
    AuthenticationState,
    ContextIssued,
    ContextRequested,
    DeregistrationRequested,
    Refused,
    RegistrationRequested,
    Resynchronised,
    ServerIdentity,
    SessionEnded,
    SessionEvent,
    StateChanged,
    UserDataRequested,
    VectorRequested,
)
from aaa.hss.local import LocalHss
from aaa.hss.port import HssRefusal, VectorRequest
from aaa.hss.procedures import HssProcedures
from aaa.hss.registration import MemoryRegistrations, Registration, ServingServer
from aaa.sessions import SESSION_GRACE_INTERVAL, SessionLimits, Sessions
from aaa.subscribers import ApnSubscription, PdnType, Subscriber
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ExperimentalResultCode, RatType, ResultCode
from protocols.diameter.dictionary import PdnType as PdnTypeCode
from protocols.diameter.swm import EMERGENCY_INDICATION, Ambr, Dea, Der, Str, TerminalInformation
from protocols.eap.aka.server import ServerOptions
from protocols.eap.aka.temporary import ReauthenticationContext
from protocols.eap.packet import EapCode, EapPacket, EapType, identity_response
from protocols.entropy import SeededEntropy
from protocols.errors import AuthenticationError, BackendError, LocalError
from protocols.secret import Secret
from protocols.threegpp.identity import Apn
from tests.harness.aka_user import AkaUser, aka_user
from tests.harness.subscribers import Table

TIMEOUT = 3600
UNFINISHED = 60.0
AAA = ServingServer("aaa.test", "test")
SUCCESS = Result.of(ResultCode.DIAMETER_SUCCESS)
MULTI_ROUND = Result.of(ResultCode.DIAMETER_MULTI_ROUND_AUTH)
REJECTED = Result.of(ResultCode.DIAMETER_AUTHENTICATION_REJECTED)
USER = laboratory_subscriber(1)
HOME_REALM = "nai.epc.mnc001.mcc001.3gppnetwork.org"


class World:
    """A gateway's view of the server, on virtual time; questions are answered by the in-process HSS."""

    def __init__(
        self,
        *subscribers: Subscriber,
        options: ServerOptions | None = None,
        eap: EapService | None = None,
        equipment: EquipmentList = ANY_EQUIPMENT,
        imei: str | None = None,
        emergency: EmergencyPolicy | None = None,
        unfinished: int = 1000,
    ) -> None:
        self.imei = imei  # that the gateway passes on
        self.table = Table(*subscribers)
        self.registrations = MemoryRegistrations()
        vectors = LocalHss(self.table, SeededEntropy("hss"))
        self.hss = HssProcedures(self.table, vectors, self.registrations)
        self.now = 1000.0
        self.events: list[SessionEvent] = []
        self.sessions = Sessions(
            identity=ServerIdentity(host=AAA.host, realm=AAA.realm),
            entropy=SeededEntropy("aaa"),
            eap=eap or EapService(options=options or ServerOptions()),
            limits=SessionLimits(timeout=TIMEOUT, unfinished_interval=UNFINISHED, unfinished=unfinished),
            equipment=equipment,
            emergency=emergency,
        )
        self.urgent = False  # whether the gateway asks for an emergency session
        self.contexts: dict[str, ReauthenticationContext] = {}
        self.visited: str | None = None
        self._request = 0

    def send(
        self, packet: bytes, *, session: str = "s;1;1", apn: str | None = "internet", failure: int | None = None
    ) -> int:
        """DER --> ; returns the request's token."""
        self._request += 1
        der = Der(
            session_id=session,
            origin_host="epdg.test",
            origin_realm="test",
            destination_realm="test",
            eap_payload=packet,
            service_selection=apn,
            aaa_failure_indication=failure,
            terminal_information=None if self.imei is None else TerminalInformation(self.imei),
            emergency_services=EMERGENCY_INDICATION if self.urgent else None,
            visited_network_identifier=self.visited,
            rat_type=RatType.WLAN,
        )
        self.sessions.receive_der(der, self._request, self.now)
        return self._request

    def serve(self) -> None:
        """Answer every question of the server."""
        while (event := self.sessions.poll_event()) is not None:
            self.events.append(event)
            try:
                match event:
                    case VectorRequested():
                        (vector,) = self.hss.authenticate(event.request, server=AAA)
                        self.sessions.answer_vector(event.session_id, vector, self.now)
                    case RegistrationRequested():
                        profile = self.hss.register(event.imsi, server=AAA)
                        self.sessions.answer_profile(event.session_id, profile, self.now)
                    case UserDataRequested():
                        profile = self.hss.user_data(event.imsi, server=AAA)
                        self.sessions.answer_profile(event.session_id, profile, self.now)
                    case ContextRequested():
                        context = self.contexts.pop(event.username, None)
                        self.sessions.answer_context(event.session_id, context, self.now)
                    case ContextIssued():
                        self.contexts[event.context.username] = event.context
                        self.sessions.answer_kept(event.session_id, self.now)
                    case DeregistrationRequested():
                        self.hss.deregister(event.imsi, server=AAA)
            except AuthenticationError as error:
                assert isinstance(event, VectorRequested)
                self.sessions.answer_vector_refusal(event.session_id, str(error), self.now)
            except HssRefusal as error:
                assert isinstance(event, VectorRequested | RegistrationRequested | UserDataRequested)
                self.sessions.answer_refusal(event.session_id, hss_refusal(error), self.now)
            except BackendError as error:
                assert isinstance(event, VectorRequested | RegistrationRequested | UserDataRequested)
                self.sessions.answer_refusal(event.session_id, backend_refusal(str(error)), self.now)

    def answer_to(self, request: int) -> Dea:
        """<-- DEA"""
        self.serve()
        return next(e.answer for e in self.events if isinstance(e, AnswerReady) and request in e.requests)

    def exchange(self, packet: bytes, *, session: str = "s;1;1", apn: str | None = "internet") -> Dea:
        return self.answer_to(self.send(packet, session=session, apn=apn))

    def attach(self, ue: AkaUser, *, apn: str | None = "internet", session: str = "s;1;1") -> list[Dea]:
        """DER and DEA until the server is done; what it answered."""
        answers = [self.exchange(identity_response(1, ue.nai.encode()), session=session, apn=apn)]
        while answers[-1].result == MULTI_ROUND:
            assert answers[-1].eap_payload is not None
            response = ue.take(answers[-1].eap_payload)
            assert response is not None
            answers.append(self.exchange(response, session=session, apn=apn))
        if answers[-1].eap_payload is not None:
            ue.take(answers[-1].eap_payload)
        return answers

    def take(self, kind: type) -> list[SessionEvent]:
        self.serve()
        return [event for event in self.events if isinstance(event, kind)]


def test_success_carries_key_identity_and_apn() -> None:
    home = ApnSubscription(
        apn=Apn("internet"),
        pdn_type=PdnType.IPV4,
        ambr_uplink_bits=1000,
        ambr_downlink_bits=2000,
        static_ipv4=IPv4Address("10.45.0.9"),
    )
    world = World(replace(USER, apns=(ApnSubscription(apn=Apn("ims")), home)))
    ue = aka_user(USER)
    # DER [EAP-Response/Identity] --> <-- DEA 1001 [AKA-Challenge]; DER [AKA-Challenge] --> <-- DEA 2001
    challenge, success = world.attach(ue, apn="Internet")
    assert challenge.result == MULTI_ROUND
    assert challenge.master_session_key is None
    assert challenge.apn_configuration is None
    assert success.result == SUCCESS
    assert success.master_session_key is not None
    assert success.master_session_key == ue.msk
    assert len(success.master_session_key.reveal()) == 64
    assert success.user_name == ue.nai
    assert success.session_timeout == TIMEOUT
    apn = success.apn_configuration
    assert apn is not None
    assert (apn.service_selection, apn.context_identifier, apn.pdn_type, apn.ambr) == (
        "internet",
        2,
        PdnTypeCode.IPv4,
        Ambr(1000, 2000),
    )
    assert apn.served_party_addresses == (IPv4Address("10.45.0.9"),)
    (authenticated,) = world.take(Authenticated)
    assert isinstance(authenticated, Authenticated)
    assert authenticated.apn == "internet"
    states = [event.new for event in world.take(StateChanged) if isinstance(event, StateChanged)]
    assert states == [
        AuthenticationState.IDENTIFYING,
        AuthenticationState.WAITING_FOR_VECTOR,
        AuthenticationState.CHALLENGED,
        AuthenticationState.WAITING_FOR_PROFILE,
        AuthenticationState.AUTHENTICATED,
    ]


def test_without_service_selection_the_default_apn_is_granted() -> None:
    apns = (ApnSubscription(apn=Apn("ims")), ApnSubscription(apn=Apn("internet"), is_default=True))
    answer = World(replace(USER, apns=apns)).attach(aka_user(USER), apn=None)[-1]
    assert answer.apn_configuration is not None
    assert answer.apn_configuration.service_selection == "internet"


@pytest.mark.parametrize(
    ("subscriber", "apn", "result", "cause", "rounds"),
    [
        (None, "internet", ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN, RefusalCause.USER_UNKNOWN, 1),
        (
            replace(USER, non_3gpp_allowed=False),
            "internet",
            ExperimentalResultCode.DIAMETER_ERROR_USER_NO_NON_3GPP_SUBSCRIPTION,
            RefusalCause.NON_3GPP_NOT_SUBSCRIBED,
            1,
        ),
        (
            replace(USER, enabled=False),
            "internet",
            ResultCode.DIAMETER_AUTHORIZATION_REJECTED,
            RefusalCause.SUBSCRIBER_DISABLED,
            3,
        ),
        (
            USER,
            "corporate",
            ExperimentalResultCode.DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION,
            RefusalCause.APN_NOT_SUBSCRIBED,
            3,
        ),
        (
            USER,
            "no apn at all",
            ExperimentalResultCode.DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION,
            RefusalCause.APN_NOT_SUBSCRIBED,
            3,
        ),
        (
            replace(USER, apns=()),
            None,
            ExperimentalResultCode.DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION,
            RefusalCause.APN_NOT_SUBSCRIBED,
            3,
        ),
    ],
)
def test_refusals(
    subscriber: Subscriber | None, apn: str | None, result: int, cause: RefusalCause, rounds: int
) -> None:
    world = World(*([] if subscriber is None else [subscriber]))
    ue = aka_user(USER)
    answers = world.attach(ue, apn=apn)
    # what concerns the APN is told to authenticated users only, and by a notification first (RFC 4187 §6.2)
    assert len(answers) == rounds
    assert answers[-1].result == Result.of(result)
    assert answers[-1].master_session_key is None
    assert answers[-1].apn_configuration is None
    payload = answers[-1].eap_payload
    assert payload is not None
    assert EapPacket.decode(payload).code is EapCode.FAILURE
    assert ue.failed
    (refused,) = world.take(Refused)
    assert isinstance(refused, Refused)
    assert refused.refusal.cause is cause
    assert refused.refusal.text.endswith(".")


def test_wrong_key_is_an_authentication_failure() -> None:
    world = World(USER)
    ue = aka_user(USER, k=Secret(bytes(16)))
    # <-- AKA-Challenge; AKA-Authentication-Reject --> ; <-- DEA 4001 [EAP-Failure]
    answer = world.attach(ue)[-1]
    assert answer.result == REJECTED
    assert answer.eap_payload is not None
    assert EapPacket.decode(answer.eap_payload).code is EapCode.FAILURE
    assert ue.failed


def test_resynchronisation_reaches_the_home_network_and_is_stored() -> None:
    world = World(USER)
    ue = aka_user(USER, seq_ms=5000)
    # <-- AKA-Challenge; AKA-Synchronization-Failure [AT_AUTS] --> ; <-- AKA-Challenge; ... <-- DEA 2001
    answers = world.attach(ue)
    assert [answer.result for answer in answers] == [MULTI_ROUND, MULTI_ROUND, SUCCESS]
    assert len(world.take(Resynchronised)) == 1
    assert world.table.rows[USER.imsi].sequence > 5000
    # the next attach needs none
    assert [a.result for a in world.attach(ue.again(), session="s;1;2")] == [MULTI_ROUND, SUCCESS]


def test_a_forged_auts_is_refused_and_moves_nothing() -> None:
    world = World(USER)
    challenge = world.exchange(identity_response(1, aka_user(USER).nai.encode()))
    stored = world.table.rows[USER.imsi].sequence
    assert challenge.eap_payload is not None
    # EAP-Response/AKA-Synchronization-Failure with octets for AUTS that no USIM made
    forged = bytes([2, challenge.eap_payload[1], 0, 24, EapType.AKA, 4, 0, 0, 4, 4]) + bytes(14)
    answer = world.exchange(forged)
    assert answer.result == REJECTED
    assert world.table.rows[USER.imsi].sequence == stored


def test_database_failure_is_unable_to_comply() -> None:
    world = World(USER)
    world.table.broken = True
    ue = aka_user(USER)
    answer = world.attach(ue)[-1]
    assert answer.result == Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)
    assert ue.failed
    (refused,) = world.take(Refused)
    assert isinstance(refused, Refused)
    assert refused.refusal.cause is RefusalCause.BACKEND_FAILED


def test_eap_start_is_answered_by_identity_request() -> None:
    world = World(USER)
    ue = aka_user(USER)
    # RFC 4072 §2.2: DER with an empty EAP-Payload --> ; <-- DEA 1001 [EAP-Request/Identity]
    answer = world.exchange(b"")
    assert answer.eap_payload is not None
    assert EapPacket.decode(answer.eap_payload).type == EapType.IDENTITY
    while answer.result == MULTI_ROUND:
        assert answer.eap_payload is not None
        response = ue.take(answer.eap_payload)
        assert response is not None
        answer = world.exchange(response)
    assert answer.result == SUCCESS
    assert answer.master_session_key is not None


def test_pseudonym_is_asked_for_the_permanent_identity() -> None:
    world = World(USER)
    ue = aka_user(USER)
    pseudonym = ue.named("2" + "z" * 15 + "@" + HOME_REALM)
    answers = world.attach(pseudonym)
    assert [a.result for a in answers] == [MULTI_ROUND, MULTI_ROUND, SUCCESS]
    assert answers[-1].user_name == ue.nai
    assert answers[-1].master_session_key == pseudonym.msk


@pytest.mark.parametrize(
    ("named", "permanent"),
    [
        (f"{USER.imsi}@{HOME_REALM}", f"0{USER.imsi}@{HOME_REALM}"),
        (f"{HOME_REALM}!0{USER.imsi}@visited.example.org", f"0{USER.imsi}@{HOME_REALM}"),
        (f"0{USER.imsi}", f"0{USER.imsi}"),
    ],
    ids=["bare IMSI", "decorated NAI", "no realm"],
)
def test_the_answer_names_the_permanent_identity(named: str, permanent: str) -> None:
    """TS 29.273 §7.2.2.1.2: User-Name of the DEA is the root NAI, in whatever form the user named itself."""
    user = aka_user(USER, nai=named)
    answer = World(USER).attach(user)[-1]
    assert answer.result == SUCCESS
    assert answer.user_name == permanent
    assert answer.master_session_key == user.msk


def test_retransmitted_der_gets_the_same_answer_and_no_second_vector() -> None:
    world = World(USER)
    first_packet = identity_response(1, aka_user(USER).nai.encode())
    first, again = world.send(first_packet), world.send(first_packet)
    # both wait for the same answer (RFC 6733 §5.5.4) ...
    assert world.answer_to(first) is world.answer_to(again)
    # ... and one that comes late gets it again
    late = world.send(first_packet)
    assert world.answer_to(late) is world.answer_to(first)
    assert len(world.take(VectorRequested)) == 1


def test_second_request_out_of_turn_is_refused_alone() -> None:
    world = World(USER)
    ue = aka_user(USER)
    first = world.send(identity_response(1, ue.nai.encode()))
    second = world.send(identity_response(2, b"0001019999999999@x.org"))
    assert world.answer_to(second).result == Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)
    assert world.answer_to(first).result == MULTI_ROUND


def test_continuation_without_a_session_is_unknown() -> None:
    world = World(USER)
    ue = aka_user(USER)
    challenge = world.exchange(identity_response(1, ue.nai.encode())).eap_payload
    assert challenge is not None
    response = ue.take(challenge)
    assert response is not None
    answer = world.exchange(response, session="another;1;1")
    assert answer.result == Result.of(ResultCode.DIAMETER_UNKNOWN_SESSION_ID)


def test_invalid_packets_reissue_the_request_until_the_limit() -> None:
    """RFC 4072 §2.4: 1001 with EAP-Reissued-Payload, five invalid packets end the session."""
    world = World(USER)
    ue = aka_user(USER)
    challenge = world.exchange(identity_response(1, ue.nai.encode())).eap_payload
    results = [world.exchange(bytes([9, number])).result for number in range(5)]
    reissued = [event.reissued for event in world.take(AnswerReady) if isinstance(event, AnswerReady)]
    assert results == [MULTI_ROUND] * 4 + [REJECTED]
    assert reissued == [None] + [challenge] * 4 + [None]


def test_str_closes_the_session() -> None:
    world = World(USER)
    world.attach(aka_user(USER))
    request = Str(
        session_id="s;1;1",
        origin_host="epdg.test",
        origin_realm="test",
        destination_realm="test",
        user_name="0001010000000001",
    )
    assert world.sessions.receive_str(request).result == SUCCESS
    assert len(world.sessions) == 0
    unknown = Result.of(ResultCode.DIAMETER_UNKNOWN_SESSION_ID)
    assert world.sessions.receive_str(request).result == unknown
    (ended,) = world.take(SessionEnded)
    assert isinstance(ended, SessionEnded)
    assert (ended.was_authenticated, ended.expired) == (True, False)
    assert world.sessions.next_deadline() is None


def test_sessions_that_come_to_nothing_are_bounded() -> None:
    """A gateway's flood of first DERs: those beyond the limit are told so, authenticated ones do not count."""
    world, ue = World(USER, unfinished=2), aka_user(USER)
    challenge = world.exchange(identity_response(1, ue.nai.encode()))
    assert challenge.eap_payload is not None
    response = ue.take(challenge.eap_payload)
    assert response is not None
    assert world.exchange(response).result == SUCCESS
    for number in (2, 3):
        assert world.exchange(b"", session=f"s;1;{number}").result.is_multi_round
    assert world.exchange(b"", session="s;1;4").result == Result.of(ResultCode.DIAMETER_TOO_BUSY)
    assert len(world.sessions) == 3
    world.now += UNFINISHED
    world.sessions.handle_timeout(world.now)
    assert world.exchange(b"", session="s;1;4").result.is_multi_round


def test_another_gateway_gets_nothing_of_a_session() -> None:
    """A retransmission is answered with the same DEA, key included: to the gateway whose session it is."""
    world, ue = World(USER), aka_user(USER)
    first = world.exchange(identity_response(1, ue.nai.encode()))
    assert first.eap_payload is not None
    response = ue.take(first.eap_payload)
    assert response is not None
    assert world.exchange(response).result == SUCCESS
    der = Der(
        session_id="s;1;1",
        origin_host="evil.test",
        origin_realm="test",
        destination_realm="test",
        eap_payload=response,
    )
    for number, packet in enumerate((response, identity_response(1, ue.nai.encode()), b"")):
        world.sessions.receive_der(replace(der, eap_payload=packet), 1000 + number, world.now)
        answer = world.answer_to(1000 + number)
        assert answer.result == Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)
        assert answer.master_session_key is None
    request = Str(
        session_id="s;1;1", origin_host="evil.test", origin_realm="test", destination_realm="test", user_name=ue.nai
    )
    unknown = Result.of(ResultCode.DIAMETER_UNKNOWN_SESSION_ID)
    assert world.sessions.receive_str(request).result == unknown
    assert world.sessions.receive_str(replace(request, origin_host="EPDG.test")).result == SUCCESS


def test_unfinished_sessions_expire_and_late_answers_are_dropped() -> None:
    world = World(USER)
    request = world.send(identity_response(1, aka_user(USER).nai.encode()))
    question = world.sessions.poll_event()
    while not isinstance(question, VectorRequested):
        question = world.sessions.poll_event()
    assert world.sessions.next_deadline() == world.now + UNFINISHED
    world.now += UNFINISHED - 0.1
    world.sessions.handle_timeout(world.now)
    assert len(world.sessions) == 1
    world.now += 0.1
    world.sessions.handle_timeout(world.now)
    assert len(world.sessions) == 0
    # the DER that still waited is answered, and the HSS comes too late
    assert world.answer_to(request).result == Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)
    (vector,) = world.hss.authenticate(question.request, server=AAA)
    world.sessions.answer_vector(question.session_id, vector, world.now)
    assert world.sessions.poll_event() is None


def test_refused_sessions_leave_in_silence_and_know_no_str() -> None:
    world = World()
    world.attach(aka_user(USER))
    request = Str(
        session_id="s;1;1",
        origin_host="epdg.test",
        origin_realm="test",
        destination_realm="test",
        user_name="0001010000000001",
    )
    unknown = Result.of(ResultCode.DIAMETER_UNKNOWN_SESSION_ID)
    assert world.sessions.receive_str(request).result == unknown
    assert len(world.sessions) == 1  # a retransmitted DER still gets its answer
    world.now += UNFINISHED
    world.sessions.handle_timeout(world.now)
    assert len(world.sessions) == 0
    assert world.take(SessionEnded) == []


def test_authenticated_session_lives_for_its_session_timeout() -> None:
    world = World(USER)
    world.attach(aka_user(USER))
    assert world.sessions.next_deadline() == world.now + TIMEOUT + SESSION_GRACE_INTERVAL
    world.now += TIMEOUT + SESSION_GRACE_INTERVAL
    world.sessions.handle_timeout(world.now)
    (ended,) = world.take(SessionEnded)
    assert isinstance(ended, SessionEnded)
    assert ended.expired
    assert len(world.sessions) == 0


def terminate(world: World, session: str) -> None:
    """STR -->"""
    world.sessions.receive_str(
        Str(
            session_id=session,
            origin_host="epdg.test",
            origin_realm="test",
            destination_realm="test",
            user_name=str(USER.imsi),
        )
    )
    world.serve()


def test_the_hss_knows_the_server_from_the_first_session_to_the_last() -> None:
    """TS 29.273 §8.1.2.2.2: REGISTRATION once, the profile alone for further sessions, then USER_DEREGISTRATION."""
    world = World(USER)
    user = aka_user(USER)
    world.attach(user, session="s;1;1")
    assert world.registrations.registration(USER.imsi) is not None
    world.attach(user.again(), session="s;1;2", apn="ims")
    assert len(world.take(RegistrationRequested)) == 1
    assert len(world.take(UserDataRequested)) == 1
    terminate(world, "s;1;1")
    assert world.take(DeregistrationRequested) == []
    terminate(world, "s;1;2")
    assert len(world.take(DeregistrationRequested)) == 1
    assert world.registrations.registration(USER.imsi) is None


def test_a_user_who_may_not_use_the_apn_is_not_left_registered() -> None:
    world = World(USER)
    world.attach(aka_user(USER), apn="corporate")
    assert len(world.take(RegistrationRequested)) == 1
    assert world.registrations.registration(USER.imsi) is None


def test_a_registration_that_comes_too_late_is_taken_back() -> None:
    world = World(USER)
    user = aka_user(USER)
    challenge = world.exchange(identity_response(1, user.nai.encode())).eap_payload
    assert challenge is not None
    response = user.take(challenge)
    assert response is not None
    world.send(response)
    while not isinstance(question := world.sessions.poll_event(), RegistrationRequested):
        assert question is not None
    profile = world.hss.register(question.imsi, server=AAA)
    world.now += UNFINISHED
    world.sessions.handle_timeout(world.now)  # the gateway gave up
    world.sessions.answer_profile(question.session_id, profile, world.now)
    world.serve()
    assert world.registrations.registration(USER.imsi) is None


def test_the_profile_is_asked_for_when_the_user_is_authenticated_and_may_be_refused_then() -> None:
    world = World(USER)
    user = aka_user(USER)
    challenge = world.exchange(identity_response(1, user.nai.encode())).eap_payload
    assert challenge is not None
    response = user.take(challenge)
    assert response is not None
    world.table.broken = True
    answer = world.exchange(response)
    assert answer.result == MULTI_ROUND
    assert answer.master_session_key is None
    assert answer.eap_payload is not None
    acknowledgement = user.take(answer.eap_payload)  # of a notification (RFC 4187 §6.2)
    assert acknowledgement is not None
    answer = world.exchange(acknowledgement)
    assert answer.result == Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)
    assert answer.master_session_key is None
    assert answer.eap_payload is not None
    assert EapPacket.decode(answer.eap_payload).code is EapCode.FAILURE


def test_a_user_whom_another_server_registers_meanwhile_is_sent_there_without_a_word() -> None:
    world = World(USER)
    user = aka_user(USER)
    challenge = world.exchange(identity_response(1, user.nai.encode())).eap_payload
    assert challenge is not None
    response = user.take(challenge)
    assert response is not None
    world.hss.authenticate(VectorRequest(imsi=USER.imsi), server=ServingServer("other.test", "test"))
    answer = world.exchange(response)
    assert answer.result == Result.of(ResultCode.DIAMETER_REDIRECT_INDICATION)
    assert answer.eap_payload is None


def test_a_user_served_by_another_server_is_sent_there_unless_that_one_failed() -> None:
    """TS 29.273 §8.1.2.1.2: 5005 with 3GPP-AAA-Server-Name; AAA-Failure-Indication moves the user here."""
    world = World(USER)
    user = aka_user(USER)
    world.registrations.store_registration(USER.imsi, Registration(server=ServingServer("other.test", "test")))
    request = world.send(identity_response(1, user.nai.encode()))
    answer = world.answer_to(request)
    assert answer.result == Result.of(ResultCode.DIAMETER_REDIRECT_INDICATION)
    assert answer.eap_payload is None
    (ready,) = [event for event in world.take(AnswerReady) if isinstance(event, AnswerReady)]
    assert ready.redirect_host == "other.test"
    # the gateway says that other.test is down
    first = world.answer_to(world.send(identity_response(1, user.nai.encode()), session="s;1;2", failure=1))
    assert first.result == MULTI_ROUND
    assert first.eap_payload is not None
    response = user.take(first.eap_payload)
    assert response is not None
    assert world.exchange(response, session="s;1;2").result == SUCCESS
    present = world.registrations.registration(USER.imsi)
    assert present is not None
    assert present.server == AAA


def test_sessions_are_independent() -> None:
    world = World(USER, laboratory_subscriber(2))
    first, second = aka_user(USER), aka_user(laboratory_subscriber(2))
    one = world.exchange(identity_response(1, first.nai.encode()), session="s;1;1")
    two = world.exchange(identity_response(1, second.nai.encode()), session="s;1;2")
    assert one.eap_payload is not None
    assert two.eap_payload is not None
    reply_two, reply_one = second.take(two.eap_payload), first.take(one.eap_payload)
    assert reply_one is not None
    assert reply_two is not None
    answer_two = world.exchange(reply_two, session="s;1;2")
    answer_one = world.exchange(reply_one, session="s;1;1")
    assert (answer_one.user_name, answer_two.user_name) == (first.nai, second.nai)
    assert answer_one.master_session_key != answer_two.master_session_key


def test_an_answer_nobody_waits_for_is_our_fault() -> None:
    world = World(USER)
    world.attach(aka_user(USER))
    session = world.sessions.get("s;1;1")
    assert session is not None
    with pytest.raises(LocalError):
        session.answer_vector_refusal("late")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=80),
            st.builds(
                lambda identifier, identity: identity_response(identifier, identity),
                st.integers(0, 255),
                st.binary(max_size=60),
            ),
            st.just(identity_response(1, aka_user(USER).nai.encode())),
            # EAP-AKA responses of every identifier and subtype, with octets for attributes
            st.builds(
                lambda identifier, subtype, attributes: EapPacket(
                    code=EapCode.RESPONSE,
                    identifier=identifier,
                    type=EapType.AKA,
                    data=bytes([subtype, 0, 0]) + attributes,
                ).encode(),
                st.integers(0, 255),
                st.sampled_from([1, 2, 4, 5, 12, 13, 14, 99]),
                st.binary(max_size=40),
            ),
        ),
        max_size=8,
    )
)
def test_whatever_a_user_sends_every_der_is_answered_once(packets: list[bytes]) -> None:
    """Invariant: no octets raise, every DER gets exactly one answer, and none of them success."""
    world = World(USER)
    for packet in packets:
        request = world.send(packet)
        world.serve()
        answers = [e for e in world.events if isinstance(e, AnswerReady) and request in e.requests]
        assert len(answers) == 1
        assert answers[0].answer.result != SUCCESS
        assert answers[0].answer.master_session_key is None
