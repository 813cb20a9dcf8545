"""The AAA server's EAP: options by subscriber and APN, fast re-authentication, the order of what success needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from aaa.authorization import RefusalCause
from aaa.eap import EapRule, EapService, ImsiRange
from aaa.events import (
    AnswerReady,
    Authenticated,
    AuthenticationState,
    ContextIssued,
    ContextRequested,
    EapSent,
    Refused,
    RegistrationRequested,
    StateChanged,
    UserDataRequested,
    VectorRequested,
)
from aaa.hss.port import SubscriberProfile
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ExperimentalResultCode, ResultCode
from protocols.diameter.profile import ApnConfiguration
from protocols.diameter.swm import Dea, Str
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.peer import PeerOptions
from protocols.eap.aka.server import ServerOptions
from protocols.eap.aka.temporary import KeyRing
from protocols.eap.packet import EapPacket, EapType, identity_response
from protocols.entropy import SeededEntropy
from protocols.threegpp.identity import Imsi
from tests.harness.aka_user import AkaUser, aka_user
from tests.machines.test_aaa_authentication import AAA as AAA_SERVER
from tests.machines.test_aaa_authentication import MULTI_ROUND, SUCCESS, USER, World

AKA, PRIME = EapType.AKA, EapType.AKA_PRIME
BOTH = ServerOptions(methods=(AKA, PRIME))
RING = KeyRing.of(SeededEntropy("ring"))
DIGITS = {AKA: "0", PRIME: "6"}


def world(options: ServerOptions = BOTH, *rules: EapRule) -> World:
    """A server with temporary identities."""
    return World(USER, eap=EapService(options=options, rules=rules, ring=lambda: RING))


def user(method: EapType = AKA) -> AkaUser:
    """A user whose identity is of this method."""
    return aka_user(USER, nai=f"{DIGITS[method]}{aka_user(USER).nai[1:]}")


@pytest.mark.parametrize("method", [AKA, PRIME])
def test_both_methods_from_the_vector_to_the_gateway(method: EapType) -> None:
    here = world()
    ue = user(method)
    assert [answer.result for answer in here.attach(ue)] == [MULTI_ROUND, SUCCESS]
    (asked,) = here.take(VectorRequested)
    assert isinstance(asked, VectorRequested)
    assert (asked.request.method, asked.request.network_name) == (method, b"WLAN" if method is PRIME else None)
    (authenticated,) = here.take(Authenticated)
    assert isinstance(authenticated, Authenticated)
    assert (authenticated.method, authenticated.fast) == (method, False)
    answer = here.take(AnswerReady)[-1]
    assert isinstance(answer, AnswerReady)
    assert answer.answer.master_session_key == ue.msk
    assert answer.answer.user_name == f"0{ue.nai[1:]}"  # the permanent identity, whatever the method calls it


@pytest.mark.parametrize("method", [AKA, PRIME])
def test_fast_reauthentication_asks_for_user_data_and_no_vector(method: EapType) -> None:
    here = world()
    ue = user(method)
    here.attach(ue)
    again = ue.returning()
    # DER [Identity: re-authentication identity] --> <-- DEA 1001 [AKA-Reauthentication]; DER --> <-- DEA 2001
    answers = here.attach(again, session="s;1;2")
    assert [answer.result for answer in answers] == [MULTI_ROUND, SUCCESS]
    assert answers[-1].master_session_key == again.msk != ue.msk
    assert answers[-1].user_name == f"0{ue.nai[1:]}"
    assert again.challenges == 0
    assert len(here.take(VectorRequested)) == 1
    assert len(here.take(RegistrationRequested)) == 1
    assert len(here.take(UserDataRequested)) == 1
    assert [event.fast for event in here.take(Authenticated) if isinstance(event, Authenticated)] == [False, True]
    # and once more inside the same session: a re-authentication of it
    third = again.returning()
    assert [answer.result for answer in here.attach(third, session="s;1;2")] == [MULTI_ROUND, SUCCESS]
    assert third.challenges == 0


def test_a_registration_ended_meanwhile_is_made_anew_by_fast_reauthentication() -> None:
    here = world()
    ue = user()
    here.attach(ue)
    here.sessions.receive_str(
        Str(session_id="s;1;1", origin_host="epdg.test", origin_realm="test", destination_realm="test", user_name="x")
    )
    here.serve()
    assert not here.sessions.is_registered(USER.imsi)
    assert here.attach(ue.returning(), session="s;1;2")[-1].result == SUCCESS
    assert len(here.take(RegistrationRequested)) == 2


def test_success_leaves_once_the_context_is_stored() -> None:
    here = world()
    ue = user()
    challenge = here.exchange(identity_response(1, ue.nai.encode()))
    assert challenge.eap_payload is not None
    response = ue.take(challenge.eap_payload)
    assert response is not None
    token = here.send(response)
    events = []
    while (event := here.sessions.poll_event()) is not None:
        events.append(event)
        if isinstance(event, RegistrationRequested):
            profile = here.hss.register(event.imsi, server=AAA_SERVER)
            here.sessions.answer_profile(event.session_id, profile, here.now)
    issued = events[-1]
    assert isinstance(issued, ContextIssued)
    assert not any(isinstance(event, (AnswerReady, EapSent)) for event in events)
    # a retransmission meanwhile waits with its original
    again = here.send(response)
    assert here.sessions.poll_event() is None
    here.sessions.answer_kept("s;1;1", here.now)
    here.serve()
    ready = next(event for event in here.events if isinstance(event, AnswerReady) and token in event.requests)
    assert ready.requests == (token, again)
    assert ready.answer.result == SUCCESS


@pytest.mark.parametrize("demanded", [True, False])
def test_a_vector_with_a_clear_separation_bit_is_the_home_networks_failure(demanded: bool) -> None:
    here = world(replace(BOTH, separation_bit=demanded))
    here.send(identity_response(1, user(PRIME).nai.encode()))
    while not isinstance(event := here.sessions.poll_event(), VectorRequested):
        assert event is not None
    (vector,) = here.hss.authenticate(event.request, server=AAA_SERVER)
    cleared = replace(vector, autn=vector.autn[:6] + bytes([vector.autn[6] & 0x7F]) + vector.autn[7:])
    here.sessions.answer_vector(event.session_id, cleared, here.now)
    here.serve()
    answer = here.take(AnswerReady)[-1]
    assert isinstance(answer, AnswerReady)
    if demanded:
        assert answer.answer.result == Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)
        assert "separation bit" in str(answer.answer.error_message)
    else:
        assert answer.answer.result == MULTI_ROUND


def test_a_context_that_is_gone_costs_a_full_authentication() -> None:
    here = world()
    ue = user()
    here.attach(ue)
    here.contexts.clear()
    again = ue.returning()
    assert [answer.result for answer in here.attach(again, session="s;1;2")] == [MULTI_ROUND, SUCCESS]
    assert again.challenges == 1
    assert len(here.take(ContextRequested)) == 1


def test_a_session_that_ends_while_a_store_is_asked_takes_no_late_answer() -> None:
    here = world()
    ue = user()
    here.attach(ue)
    here.send(identity_response(1, ue.returning().nai.encode()), session="s;1;2")
    while not isinstance(event := here.sessions.poll_event(), ContextRequested):
        assert event is not None
    here.now += 61.0
    here.sessions.handle_timeout(here.now)
    here.sessions.answer_context("s;1;2", None, here.now)
    here.sessions.answer_kept("s;1;2", here.now)
    assert here.sessions.get("s;1;2") is None


@pytest.mark.parametrize("agreed", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_a_denied_user_is_notified(fast: bool, agreed: bool) -> None:
    here = world(replace(BOTH, result_indications=agreed))
    ue = aka_user(USER, options=PeerOptions(result_indications=True))
    if fast:
        here.attach(ue)
        ue = ue.returning()
    # ... <-- DEA 1001 [AKA-Notification 1031]; DER --> <-- DEA 5451 [EAP-Failure]
    answers = here.attach(ue, apn="nowhere", session="s;1;2")
    no_apn = Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION)
    assert [answer.result for answer in answers] == [MULTI_ROUND, MULTI_ROUND, no_apn]
    assert answers[1].eap_payload is not None
    notification = AkaMessage.decode(answers[1].eap_payload)
    assert notification.subtype == AkaSubtype.NOTIFICATION
    assert ue.failed
    (refused,) = here.take(Refused)
    assert isinstance(refused, Refused)
    assert refused.refusal.cause is RefusalCause.APN_NOT_SUBSCRIBED
    assert not here.sessions.of_user(USER.imsi) or fast


def test_protected_success_is_one_more_round() -> None:
    here = world(replace(BOTH, result_indications=True))
    ue = aka_user(USER, options=PeerOptions(result_indications=True))
    assert [answer.result for answer in here.attach(ue)] == [MULTI_ROUND, MULTI_ROUND, SUCCESS]
    states = [event.new for event in here.take(StateChanged) if isinstance(event, StateChanged)]
    assert states[-4:] == [
        AuthenticationState.WAITING_FOR_PROFILE,
        AuthenticationState.CHALLENGED,
        AuthenticationState.WAITING_FOR_STORAGE,
        AuthenticationState.AUTHENTICATED,
    ]


def last_answer(here: World, ue: AkaUser, meanwhile: Callable[[], object]) -> Dea:
    """An attach with a protected success; ``meanwhile`` happens while the UE has the notification."""
    identity = here.exchange(identity_response(1, ue.nai.encode()))
    assert identity.eap_payload is not None
    challenge = ue.take(identity.eap_payload)
    assert challenge is not None
    notification = here.exchange(challenge).eap_payload
    assert notification is not None
    meanwhile()
    response = ue.take(notification)
    assert response is not None
    return here.exchange(response)


def test_what_the_hss_says_before_success_is_told_counts() -> None:
    """RTR and PPR between the SAA and the DEA (TS 29.273 §8.1.2.2.3, §8.1.2.3): no session without a registration."""
    indicated = replace(BOTH, result_indications=True)
    options = PeerOptions(result_indications=True)

    here = world(indicated)
    answer = last_answer(here, aka_user(USER, options=options), lambda: here.sessions.deregistered(USER.imsi, 0, "x"))
    assert answer.result == Result.of(ResultCode.DIAMETER_AUTHORIZATION_REJECTED)
    assert answer.master_session_key is None
    assert not here.sessions.is_registered(USER.imsi)

    here = world(indicated)
    answer = last_answer(
        here,
        aka_user(USER, options=options),
        lambda: here.sessions.profile_changed(
            USER.imsi, replaced(here.hss.user_data(USER.imsi, server=AAA_SERVER), "internet")
        ),
    )
    assert answer.result == SUCCESS
    assert answer.apn_configuration is not None
    assert answer.apn_configuration.context_identifier == 7

    here = world(indicated)
    answer = last_answer(
        here,
        aka_user(USER, options=options),
        lambda: here.sessions.profile_changed(
            USER.imsi, replaced(here.hss.user_data(USER.imsi, server=AAA_SERVER), "ims")
        ),
    )
    assert answer.result == Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION)
    assert not here.sessions.is_registered(USER.imsi)
    assert here.registrations.registration(USER.imsi) is None


def replaced(profile: SubscriberProfile, apn: str) -> SubscriberProfile:
    """The profile with this APN alone."""
    held = ApnConfiguration(context_identifier=7, service_selection=apn)
    return replace(profile, user_data=replace(profile.user_data, apns=(held,)))


# --- options by subscriber and APN


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("00101", ["001010000000001", "00101000"], ["001020000000001", "901700000000001"]),
        (
            "001010000000002-001010000000004",
            ["001010000000002", "001010000000004"],
            ["001010000000001", "001010000000005", "00101000000003"],
        ),
    ],
)
def test_ranges_of_imsis(text: str, inside: list[str], outside: list[str]) -> None:
    found = ImsiRange.parse(text)
    assert all(Imsi(digits) in found for digits in inside)
    assert not any(Imsi(digits) in found for digits in outside)


@pytest.mark.parametrize("text", ["", "00101x", "00101-", "001010000000004-001010000000002", "001010-0010109", "1-2"])
def test_texts_that_are_no_range(text: str) -> None:
    with pytest.raises(ValueError, match="first digits"):
        ImsiRange.parse(text)


def test_the_first_rule_that_fits_holds() -> None:
    base = ServerOptions()
    first, second, third, fourth = (replace(base, reauthentications=count) for count in (1, 2, 3, 4))
    service = EapService(
        options=base,
        rules=(
            EapRule(imsis=ImsiRange.parse("00101"), apn="ims", options=first),
            EapRule(imsis=ImsiRange.parse("001010000000001"), apn=None, options=second),
            EapRule(imsis=None, apn="ims", options=third),
            EapRule(imsis=ImsiRange.parse("9"), apn=None, options=fourth),
        ),
    )
    one, two = Imsi("001010000000001"), Imsi("001010000000002")
    held = {
        (one, "ims"): 1,
        (one, "IMS.mnc001.mcc001.gprs"): 1,
        (one, "internet"): 2,
        (one, None): 2,
        (two, "internet"): base.reauthentications,
        (Imsi("901700000000001"), "ims"): 3,
        (Imsi("901700000000001"), "not an apn"): 4,
        (None, "ims"): 3,
        (None, "internet"): base.reauthentications,
    }
    for (imsi, apn), expected in held.items():
        options = service.options_for(imsi, apn)
        assert options.reauthentications == expected, (imsi, apn)
        assert options.authorisation


def test_rules_choose_the_method_by_apn() -> None:
    rule = EapRule(imsis=None, apn="ims", options=replace(BOTH, methods=(PRIME,)))
    here = world(BOTH, rule)
    asked = here.exchange(identity_response(1, user().nai.encode()), apn="ims")
    assert asked.eap_payload is not None
    assert EapPacket.decode(asked.eap_payload).type == PRIME
    assert [answer.result for answer in here.attach(user(), session="s;1;2")] == [MULTI_ROUND, SUCCESS]
