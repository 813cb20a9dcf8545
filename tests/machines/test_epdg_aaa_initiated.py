"""What the AAA server asks of a session (TS 29.273 §7.1.2.4, §7.1.2.5): ASR, RAR and the AAR that follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from epdg.commands import (
    AnswerIke,
    AuthenticateAnew,
    Command,
    DeleteUe,
    GrantTime,
    SendAar,
    SendDer,
    SendStr,
    Tell,
)
from epdg.session import Session, SessionState
from protocols.diameter.dictionary import PdnType, ReAuthRequestType
from protocols.diameter.swm import Aaa, Ambr, ApnConfiguration, Result, ResultCode
from protocols.ikev2.events import (
    AddressesUpdated,
    AuthenticationKind,
    Closed,
    EapResponseReceived,
    Established,
    NatStatus,
    Refusal,
)
from protocols.secret import Secret
from protocols.threegpp.causes import PrivateNotify
from tests.machines.test_epdg_session import (
    ADDRESS,
    NAI,
    NETWORK,
    OTHER,
    PATH,
    POLICY,
    attributes,
    dea,
    established,
    identity,
    new,
    one,
)

SUCCESS = ResultCode.DIAMETER_SUCCESS
UNKNOWN = ResultCode.DIAMETER_UNKNOWN_SESSION_ID
ONLY = ReAuthRequestType.AUTHORIZE_ONLY
PROFILE = ApnConfiguration(context_identifier=1, service_selection="internet", ambr=Ambr(1000, 2000))


def aaa(code: int = SUCCESS, vendor: int = 0, **changes: object) -> Aaa:
    values: dict[str, object] = {
        "session_id": "s",
        "origin_host": "aaa.test",
        "origin_realm": "test",
        "result": Result(vendor, code),
    }
    return Aaa(**{**values, **changes})  # type: ignore[arg-type]


def asked(session: Session, kind: int = ONLY) -> list[Command]:
    code, commands = session.reauthorise(kind)
    assert code is SUCCESS
    return commands


def kinds(commands: list[Command]) -> list[type[Command]]:
    return [type(command) for command in commands]


def upright(profile: ApnConfiguration | None = PROFILE, **changes: object) -> Session:
    """A session that is up, with this profile."""
    session = new(**changes)
    session.handle(identity(), 0.0)
    session.aaa_answered(
        dea(0, 2001, eap_payload=b"\3\1\0\4", master_session_key=Secret(bytes(64)), apn_configuration=profile)
    )
    session = configured(session)
    assert session.state is SessionState.ESTABLISHED
    return session


def configured(session: Session) -> Session:
    session.handle(attributes(1), 0.0)
    session.address_allocated((ADDRESS,), NETWORK)
    up = Established(
        identity=identity().identity,
        responder_identity=None,
        configuration=(),
        mobike=True,
        nat=NatStatus(),
        path=PATH,
        requests=0,
    )
    session.handle(up, 1.0)
    return session


# --- ASR ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reactivation", "notifies"), [(False, []), (True, [PrivateNotify.REACTIVATION_REQUESTED_CAUSE])]
)
def test_asr_detaches_the_ue_and_str_follows(reactivation: bool, notifies: list[int]) -> None:
    """TS 24.302 §7.4.3: whether the UE is to come back is the gateway's policy."""
    session = upright(policy=replace(POLICY, reactivation=reactivation))
    code, commands = session.abort()
    assert code is SUCCESS
    delete = one(commands, DeleteUe)
    assert isinstance(delete, DeleteUe)
    assert [int(each.type) for each in delete.notifies] == notifies
    assert session.last_error == ("aborted", "the AAA server has ended the session")
    end = one(session.handle(Closed(why="deleted"), 9.0), SendStr)
    assert isinstance(end, SendStr)
    assert end.termination_cause == 4  # DIAMETER_ADMINISTRATIVE


def test_a_second_asr_and_one_for_a_session_that_is_gone() -> None:
    session = upright()
    session.abort()
    assert session.abort() == (SUCCESS, [])  # it is being ended
    session.handle(Closed(why="deleted"), 9.0)
    assert session.abort() == (UNKNOWN, [])


def test_asr_of_a_session_that_the_operator_is_ending() -> None:
    session = upright()
    session.detach()
    assert session.abort() == (SUCCESS, [])


def test_the_aaa_server_knows_nothing_of_a_ue_with_a_shared_key() -> None:
    session = new()
    session.handle(replace(identity(), authentication=AuthenticationKind.PSK), 0.0)
    configured(session)
    assert session.abort() == (UNKNOWN, [])
    assert session.reauthorise(ONLY) == (UNKNOWN, [])


def test_asr_while_the_aaa_server_is_asked_refuses_the_attach_at_once() -> None:
    session = new()
    session.handle(identity(), 0.0)
    session.aaa_answered(dea(0, 1001, eap_payload=b"\1\1\0\4"))
    session.handle(EapResponseReceived(packet=b"\2\1\0\4"), 0.0)
    code, commands = session.abort()
    answer = one(commands, AnswerIke)
    assert code is SUCCESS
    assert isinstance(answer, AnswerIke)
    assert isinstance(answer.answer, Refusal)
    assert int(answer.answer.notify.type) == PrivateNotify.AUTHORIZATION_REJECTED
    assert session.handle(Closed(why="refused"), 1.0)[:-1] == []  # the answer to the DER decides on STR
    assert kinds(session.aaa_answered(dea(0, 2001, eap_payload=b"\3\1\0\4"))) == [SendStr]


@pytest.mark.parametrize("answered", [True, False])
def test_asr_before_the_answer_with_the_refusal_still_on_its_way(answered: bool) -> None:
    session = new()
    session.handle(identity(), 0.0)
    session.abort()
    commands = session.aaa_answered(dea(0, 1001, eap_payload=b"\1\1\0\4")) if answered else session.aaa_failed("no")
    assert commands == []
    end = [command for command in session.handle(Closed(why="refused"), 1.0) if isinstance(command, SendStr)]
    assert [each.termination_cause for each in end] == ([4] if answered else [])


def test_asr_while_the_ue_is_asked_refuses_with_its_next_message() -> None:
    session = new()
    session.handle(identity(), 0.0)
    session.aaa_answered(dea(0, 1001, eap_payload=b"\1\1\0\4"))
    assert session.abort() == (SUCCESS, [])
    commands = session.handle(EapResponseReceived(packet=b"\2\1\0\4"), 0.0)
    assert kinds(commands) == [AnswerIke]
    assert not [command for command in commands if isinstance(command, SendDer)]
    assert one(session.handle(Closed(why="refused"), 1.0), SendStr)


# --- RAR ----------------------------------------------------------------------------------------------


def test_rar_fetches_the_profile_for_where_the_ue_is_now() -> None:
    session = upright()
    session.handle(AddressesUpdated(old=PATH, new=OTHER, nat=NatStatus(), validated=True), 5.0)
    (aar,) = asked(session)
    assert aar == SendAar(user_name=NAI, ue_address=OTHER, destination_host="aaa.test")


def test_a_changed_profile_is_stored_and_the_time_is_granted_anew() -> None:
    session = upright()
    asked(session)
    faster = replace(PROFILE, ambr=Ambr(5000, 6000))
    commands = session.authorisation_answered(aaa(apn_configuration=faster, session_timeout=60), 10.0)
    assert commands[0] == GrantTime(60)
    told = one(commands, Tell)
    assert isinstance(told, Tell)
    assert told.data["changes"] == "ambr, session_timeout"
    assert session.authorisation is not None
    view = session.authorisation.view()
    assert view["ambr"] == {"uplink_bits": 5000, "downlink_bits": 6000}
    assert (view["renewed"], session.session_timeout) == (10.0, 60)
    assert session.state is SessionState.ESTABLISHED


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (None, "does not include APN internet any more"),
        (replace(PROFILE, service_selection="ims"), "has APN ims in place of internet"),
        (replace(PROFILE, pdn_type=PdnType.IPv6), "allows only IPv6"),
        (replace(PROFILE, served_party_addresses=(IPv4Address("10.45.0.99"),)), "static address 10.45.0.99"),
    ],
)
@pytest.mark.parametrize("reactivation", [False, True])
def test_a_profile_that_the_session_does_not_fit_detaches_the_ue(
    profile: ApnConfiguration | None, words: str, reactivation: bool
) -> None:
    session = upright(policy=replace(POLICY, reactivation=reactivation))
    asked(session)
    delete = one(session.authorisation_answered(aaa(apn_configuration=profile), 10.0), DeleteUe)
    assert isinstance(delete, DeleteUe)
    assert words in delete.why
    assert bool(delete.notifies) is reactivation
    assert one(session.handle(Closed(why="deleted"), 11.0), SendStr)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((), (IPv4Address("10.45.0.2"),)),  # what it has already
        ((), (IPv6Address("2001:db8::1"),)),  # of a version that it does not use
    ],
)
def test_a_static_address_that_changes_nothing_detaches_nobody(
    before: tuple[object, ...], after: tuple[object, ...]
) -> None:
    both = replace(PROFILE, pdn_type=PdnType.IPv4v6, served_party_addresses=before)
    session = upright(both)
    asked(session)
    commands = session.authorisation_answered(aaa(apn_configuration=replace(both, served_party_addresses=after)), 10.0)
    assert DeleteUe not in kinds(commands)


def test_a_refused_authorisation_detaches_the_ue_with_its_cause() -> None:
    session = upright(policy=replace(POLICY, reactivation=True))
    asked(session)
    delete = one(session.authorisation_answered(aaa(5451, 10415), 10.0), DeleteUe)
    assert isinstance(delete, DeleteUe)
    assert delete.notifies == ()  # it would come in vain
    assert session.last_error is not None
    assert session.last_error[0] == "NO_APN_SUBSCRIPTION"
    assert one(session.handle(Closed(why="deleted"), 11.0), SendStr)


@pytest.mark.parametrize("code", [3002, 3004, 4002])
def test_an_error_that_passes_decides_nothing(code: int) -> None:
    """RFC 6733 §7.1.3, §7.1.4: a protocol error, or a server that is full."""
    session = upright()
    asked(session)
    assert kinds(session.authorisation_answered(aaa(code), 10.0)) == [Tell]
    assert session.state is SessionState.ESTABLISHED


def test_a_session_that_the_aaa_server_has_lost_needs_no_str() -> None:
    session = upright()
    asked(session)
    session.authorisation_answered(aaa(5002), 10.0)
    assert SendStr not in kinds(session.handle(Closed(why="deleted"), 11.0))


def test_without_an_answer_everything_stays_as_it_was() -> None:
    session = upright()
    asked(session)
    assert kinds(session.authorisation_failed("no answer")) == [Tell]
    assert session.state is SessionState.ESTABLISHED
    assert kinds(asked(session)) == [SendAar]


def test_a_second_rar_while_the_first_is_worked_on_is_followed_by_a_second_aar() -> None:
    session = upright()
    assert kinds(asked(session)) == [SendAar]
    assert asked(session) == []
    assert asked(session) == []
    commands = session.authorisation_answered(aaa(apn_configuration=PROFILE), 10.0)
    assert kinds(commands).count(SendAar) == 1
    commands = session.authorisation_answered(aaa(apn_configuration=PROFILE), 11.0)
    assert SendAar not in kinds(commands)


def test_rar_during_the_attach_is_obeyed_when_the_ue_is_up() -> None:
    session = new()
    session.handle(identity(), 0.0)
    session.aaa_answered(dea(0, 2001, eap_payload=b"\3\1\0\4", master_session_key=Secret(bytes(64))))
    assert asked(session) == []
    sent: list[Command] = []
    handle: Callable[..., list[Command]] = session.handle

    def listening(*arguments: object) -> list[Command]:
        commands = handle(*arguments)
        sent.extend(commands)
        return commands

    session.handle = listening  # type: ignore[method-assign]
    configured(session)
    assert kinds(sent).count(SendAar) == 1


@pytest.mark.parametrize("late", [aaa(apn_configuration=None), aaa(5451, 10415)])
def test_an_answer_for_a_session_that_is_ending_changes_nothing(late: Aaa) -> None:
    session = upright()
    asked(session)
    session.abort()
    assert session.authorisation_answered(late, 10.0) == []
    assert session.reauthorise(ONLY) == (UNKNOWN, [])
    session.handle(Closed(why="deleted"), 11.0)
    assert session.authorisation_answered(late, 12.0) == []
    assert session.authorisation_failed("no answer") == []


def test_rar_may_want_the_ue_to_authenticate_anew() -> None:
    """RFC 6733 §8.12; RFC 4478 has the UE do so."""
    session = established(new())
    assert asked(session, ReAuthRequestType.AUTHORIZE_AUTHENTICATE) == [AuthenticateAnew()]
    assert session.reauthorise(7) == (ResultCode.DIAMETER_INVALID_AVP_VALUE, [])
