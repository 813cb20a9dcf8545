"""ASR and RAR of the AAA server (RFC 6733 §8.1, §8.3, §8.5; TS 29.273 §7.1.2.4, §7.1.2.5): the pure machine."""

from __future__ import annotations

import pytest

from aaa.events import ServerIdentity
from aaa.initiated import (
    ATTEMPT_LIMIT,
    FOLLOW_INTERVAL,
    RETRY_INTERVAL,
    HeldSession,
    InitiatedProcedures,
    Procedure,
    ProcedureEnded,
    RequestToSend,
    SessionLost,
)
from protocols.diameter import s6b, swm
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import S6B_APPLICATION, SWM_APPLICATION, ResultCode
from protocols.errors import LocalError

SUCCESS = Result.of(ResultCode.DIAMETER_SUCCESS)
UNKNOWN = Result.of(ResultCode.DIAMETER_UNKNOWN_SESSION_ID)
UNABLE = Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)
TUNNEL = HeldSession(
    application=SWM_APPLICATION, session_id="e;1;1", host="epdg.test", realm="visited", user_name="0u@x"
)
PDN = HeldSession(application=S6B_APPLICATION, session_id="p;1;1", host="pgw.test", realm="home", user_name="0u@x")


class World:
    """The machine, with what it wants done."""

    def __init__(self) -> None:
        self.machine = InitiatedProcedures(ServerIdentity(host="aaa.test", realm="home"))
        self.now = 100.0

    def sent(self) -> RequestToSend:
        event = self.machine.poll_event()
        assert isinstance(event, RequestToSend)
        return event

    def ended(self) -> ProcedureEnded:
        event = self.machine.poll_event()
        assert isinstance(event, ProcedureEnded)
        return event

    def lost(self) -> SessionLost:
        event = self.machine.poll_event()
        assert isinstance(event, SessionLost)
        return event

    def is_quiet(self) -> bool:
        return self.machine.poll_event() is None

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.machine.handle_timeout(self.now)


@pytest.mark.parametrize("session", [TUNNEL, PDN])
def test_requests_go_to_the_gateway_of_the_session(session: HeldSession) -> None:
    world = World()
    world.machine.abort(session, "the operator asked for it")
    asr = (swm if session is TUNNEL else s6b).Asr.from_message(world.sent().request)
    assert (asr.destination_host, asr.destination_realm) == (session.host, session.realm)
    assert (asr.session_id, asr.origin_host, asr.user_name) == (session.session_id, "aaa.test", "0u@x")
    world = World()
    world.machine.reauthorise(session, "the profile changed")
    rar = (swm if session is TUNNEL else s6b).Rar.from_message(world.sent().request)
    assert (rar.destination_host, rar.session_id, rar.re_auth_request_type) == (session.host, session.session_id, 0)


def test_an_abort_is_done_with_the_gateways_str() -> None:
    world = World()
    world.machine.abort(TUNNEL, "the operator asked for it")  # <-- ASR
    world.machine.answered(world.sent().token, SUCCESS, world.now)  # ASA -->
    assert world.is_quiet()
    world.machine.ended(SWM_APPLICATION, TUNNEL.session_id)  # STR -->
    ended = world.ended()
    assert (ended.procedure, ended.succeeded, ended.result) == (Procedure.ABORT, True, SUCCESS)
    assert (
        ended.text == "The abort of session e;1;1 (the operator asked for it) is done: the gateway ended the session."
    )
    assert world.is_quiet()
    assert world.machine.next_deadline() is None


def test_an_str_before_the_asa_is_as_good() -> None:
    world = World()
    world.machine.abort(TUNNEL, "why")
    token = world.sent().token
    world.machine.ended(SWM_APPLICATION, TUNNEL.session_id)
    assert world.ended().succeeded
    world.machine.answered(token, SUCCESS, world.now)
    assert world.is_quiet()


def test_a_gateway_that_agrees_and_sends_no_str() -> None:
    world = World()
    world.machine.abort(TUNNEL, "why")
    world.machine.answered(world.sent().token, SUCCESS, world.now)
    assert world.machine.next_deadline() == world.now + FOLLOW_INTERVAL
    world.pass_time(FOLLOW_INTERVAL)
    assert world.ended().succeeded
    assert world.lost().session == TUNNEL


@pytest.mark.parametrize(("result", "succeeded"), [(UNKNOWN, True), (UNABLE, False)])
def test_an_abort_that_is_answered_otherwise_ends_the_session_here(result: Result, succeeded: bool) -> None:
    # RFC 6733 §8.1: Discon, ASA received, Cleanup
    world = World()
    world.machine.abort(TUNNEL, "why")
    world.machine.answered(world.sent().token, result, world.now)
    ended = world.ended()
    assert (ended.succeeded, ended.result) == (succeeded, result)
    assert world.lost().session == TUNNEL


@pytest.mark.parametrize("procedure", list(Procedure))
def test_what_nobody_answers_is_sent_again_and_given_up(procedure: Procedure) -> None:
    # RFC 6733 §8.1: failure to send the ASR, wait, resend
    world = World()
    (world.machine.abort if procedure is Procedure.ABORT else world.machine.reauthorise)(TUNNEL, "why")
    for _ in range(ATTEMPT_LIMIT - 1):
        world.machine.unanswered(world.sent().token, "no peer", world.now)
        assert world.is_quiet()
        world.pass_time(RETRY_INTERVAL)
    world.machine.unanswered(world.sent().token, "no peer", world.now)
    ended = world.ended()
    assert (ended.procedure, ended.succeeded, ended.result) == (procedure, False, None)
    if procedure is Procedure.ABORT:
        assert world.lost().session == TUNNEL
    assert world.is_quiet()
    assert world.machine.next_deadline() is None


def test_a_reauthorisation_is_done_with_the_aar() -> None:
    world = World()
    world.machine.reauthorise(TUNNEL, "the profile changed")
    world.machine.answered(world.sent().token, SUCCESS, world.now)
    assert world.is_quiet()
    world.machine.authorised(SWM_APPLICATION, TUNNEL.session_id, SUCCESS)
    assert world.ended().succeeded
    world.machine.authorised(SWM_APPLICATION, TUNNEL.session_id, SUCCESS)  # an AAR that nobody asked for
    assert world.is_quiet()


def test_a_gateway_that_is_refused_the_profile() -> None:
    world = World()
    world.machine.reauthorise(TUNNEL, "why")
    world.machine.answered(world.sent().token, SUCCESS, world.now)
    world.machine.authorised(SWM_APPLICATION, TUNNEL.session_id, UNABLE)
    ended = world.ended()
    assert (ended.succeeded, ended.text.endswith("the gateway was told DIAMETER_UNABLE_TO_COMPLY (5012).")) == (
        False,
        True,
    )
    assert world.is_quiet()  # the STR is the gateway's


def test_what_changed_meanwhile_is_told_in_another_reauthorisation() -> None:
    world = World()
    assert world.machine.reauthorise(TUNNEL, "one change")
    assert world.machine.reauthorise(TUNNEL, "another")
    world.machine.answered(world.sent().token, SUCCESS, world.now)
    world.machine.authorised(SWM_APPLICATION, TUNNEL.session_id, SUCCESS)
    assert "one change" in world.ended().text
    world.machine.answered(world.sent().token, SUCCESS, world.now)
    world.machine.authorised(SWM_APPLICATION, TUNNEL.session_id, SUCCESS)
    assert "another" in world.ended().text
    assert world.is_quiet()


def test_a_reauthorisation_without_an_aar() -> None:
    world = World()
    world.machine.reauthorise(TUNNEL, "why")
    world.machine.answered(world.sent().token, SUCCESS, world.now)
    world.pass_time(FOLLOW_INTERVAL)
    assert not world.ended().succeeded
    assert world.is_quiet()  # the session stays


def test_a_gateway_that_refuses_the_reauthorisation_keeps_the_session() -> None:
    world = World()
    world.machine.reauthorise(TUNNEL, "why")
    world.machine.answered(world.sent().token, UNABLE, world.now)
    assert not world.ended().succeeded
    assert world.is_quiet()


def test_a_gateway_that_does_not_know_the_session_has_none() -> None:
    world = World()
    world.machine.reauthorise(TUNNEL, "why")
    world.machine.answered(world.sent().token, UNKNOWN, world.now)
    assert not world.ended().succeeded
    assert world.lost().session == TUNNEL


def test_one_procedure_at_a_time_and_the_abort_wins() -> None:
    world = World()
    world.machine.reauthorise(TUNNEL, "one")
    world.machine.reauthorise(TUNNEL, "two")
    first = world.sent()
    assert world.is_quiet()
    world.machine.abort(TUNNEL, "three")
    ended = world.ended()
    assert (ended.procedure, ended.succeeded) == (Procedure.REAUTHORISE, False)
    asr = world.sent()
    world.machine.abort(TUNNEL, "four")
    assert not world.machine.reauthorise(TUNNEL, "five")
    world.machine.answered(first.token, SUCCESS, world.now)  # the late RAA
    assert world.is_quiet()
    assert world.machine.is_running(SWM_APPLICATION, TUNNEL.session_id)
    world.machine.answered(asr.token, UNKNOWN, world.now)
    assert world.ended().procedure is Procedure.ABORT
    assert not world.machine.is_running(SWM_APPLICATION, TUNNEL.session_id)


def test_sessions_of_two_applications_are_apart() -> None:
    same = HeldSession(application=S6B_APPLICATION, session_id=TUNNEL.session_id, host="p", realm="r", user_name=None)
    world = World()
    world.machine.abort(TUNNEL, "why")
    world.machine.abort(same, "why")
    assert world.sent().session == TUNNEL
    assert world.sent().session == same


def test_another_application_has_no_such_request() -> None:
    world = World()
    other = HeldSession(application=1, session_id="s", host="h", realm="r", user_name=None)
    with pytest.raises(LocalError):
        world.machine.abort(other, "why")
