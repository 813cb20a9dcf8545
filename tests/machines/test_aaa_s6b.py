"""S6b sessions of the AAA server (TS 29.273 §9.1.2) and the AAR of a gateway on SWm (§7.1.2.5): pure machines."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from aaa.authorization import Refusal, RefusalCause, backend_refusal
from aaa.events import ServerIdentity
from aaa.hss.port import SubscriberProfile
from aaa.s6b import (
    RELEASE_INTERVAL,
    SESSION_GRACE_INTERVAL,
    AaaReady,
    AbortRequested,
    PgwSessionEnded,
    PgwSessions,
    PgwUpdateRequested,
    ProfileRequested,
    S6bEvent,
    imsi_of,
)
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ExperimentalResultCode, ResultCode
from protocols.diameter.profile import GTPV2_SUPPORTED, MIP6_INTEGRATED, ApnConfiguration, Non3gppUserData
from protocols.diameter.s6b import Aaa, Aar, Str
from protocols.threegpp.identity import Imsi

TIMEOUT = 3600
USER, OTHER = laboratory_subscriber(1), laboratory_subscriber(2)
INTERNET = ApnConfiguration(context_identifier=1, service_selection="internet")
DATA = Non3gppUserData(
    non_3gpp_ip_access=True, non_3gpp_ip_access_apn=True, default_context_identifier=1, apns=(INTERNET,)
)
PROFILE = SubscriberProfile(imsi=USER.imsi, user_data=DATA)
NAI = f"0{USER.imsi}@nai.epc.mnc001.mcc001.3gppnetwork.org"
APN = "internet"
AAR = Aar(
    session_id="p;1;1",
    origin_host="pgw.test",
    origin_realm="home",
    destination_realm="home",
    user_name=NAI,
    service_selection=APN,
    mip6_agent_info="192.0.2.7",
    mip6_feature_vector=GTPV2_SUPPORTED | MIP6_INTEGRATED,
)
SUCCESS = Result.of(ResultCode.DIAMETER_SUCCESS)
STR = Str(session_id=AAR.session_id, origin_host="pgw.test", origin_realm="home", destination_realm="home")


class World:
    """A PGW's view of the server; the HSS says yes."""

    def __init__(self) -> None:
        self.attached = {USER.imsi}
        self.now = 100.0
        self.sessions = PgwSessions(
            identity=ServerIdentity(host="aaa.test", realm="home"),
            is_registered=lambda imsi: imsi in self.attached,
            session_timeout=TIMEOUT,
        )
        self.profile = PROFILE
        self.pgws: dict[str, str | None] = {}
        self.events: list[S6bEvent] = []
        self.refusal: Refusal | None = None
        self._token = 0

    def serve(self) -> None:
        while (event := self.sessions.poll_event()) is not None:
            self.events.append(event)
            match event:
                case ProfileRequested():
                    self.sessions.answer_profile(event.token, self.profile, self.now)
                case PgwUpdateRequested() if event.token is not None and self.refusal is not None:
                    self.sessions.answer_refusal(event.token, self.refusal)
                case PgwUpdateRequested():
                    self.pgws[event.apn] = event.pgw
                    if event.token is not None:
                        self.sessions.answer_update(event.token, self.now)

    def authorise(self, aar: Aar = AAR) -> Aaa:
        """AAR --> ; <-- AAA"""
        self._token += 1
        self.sessions.receive_aar(aar, self._token, self.now)
        self.serve()
        return next(e.answer for e in self.events if isinstance(e, AaaReady) and e.token == self._token)

    def terminate(self, request: Str = STR) -> Result:
        """STR --> ; <-- STA"""
        answer = self.sessions.receive_str(request)
        self.serve()
        return answer.result

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.sessions.handle_timeout(self.now)
        self.serve()

    def asked(self) -> int:
        return sum(isinstance(event, ProfileRequested) for event in self.events)


def test_a_pgw_is_authorised_and_known_to_the_hss() -> None:
    world = World()
    answer = world.authorise()
    assert (answer.result, answer.session_timeout, answer.auth_request_type) == (SUCCESS, TIMEOUT, 2)
    assert answer.mip6_feature_vector == GTPV2_SUPPORTED
    assert answer.apn_configuration is not None
    assert answer.apn_configuration.service_selection == APN
    assert world.pgws == {APN: "192.0.2.7"}
    assert [session.pgw for session in world.sessions.of_user(USER.imsi)] == ["192.0.2.7"]
    assert world.sessions.get(AAR.session_id) is not None


def test_a_pgw_without_agent_info_is_its_origin_host() -> None:
    world = World()
    world.authorise(replace(AAR, mip6_agent_info=None, service_selection=None, mip6_feature_vector=None))
    assert list(world.pgws.values()) == ["pgw.test"]


@pytest.mark.parametrize("name", [None, "", "nobody", f"0{laboratory_subscriber(2).imsi}@x.test"])
def test_a_user_who_is_not_attached_here(name: str | None) -> None:
    answer = World().authorise(replace(AAR, user_name=name))
    assert answer.result == Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN)


def test_an_apn_that_is_not_subscribed() -> None:
    world = World()
    answer = world.authorise(replace(AAR, service_selection="nowhere"))
    assert answer.result == Result.of(ResultCode.DIAMETER_AUTHORIZATION_REJECTED)
    assert len(world.sessions) == 0
    assert world.pgws == {}


def test_a_barred_subscriber() -> None:
    world = World()
    world.profile = replace(PROFILE, user_data=replace(DATA, non_3gpp_ip_access=False))
    assert world.authorise().result == Result.of(ResultCode.DIAMETER_AUTHORIZATION_REJECTED)


def test_an_hss_that_does_not_take_the_pgw() -> None:
    world = World()
    world.refusal = backend_refusal("it is gone")
    assert world.authorise().result == Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)
    assert len(world.sessions) == 0


def test_a_redirect_is_not_for_a_pgw() -> None:
    world = World()
    world.refusal = Refusal(
        cause=RefusalCause.SERVED_ELSEWHERE,
        result=Result.of(ResultCode.DIAMETER_REDIRECT_INDICATION),
        text="elsewhere",
        redirect_host="other.test",
    )
    assert world.authorise().result == Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)


def test_the_hss_forgets_the_pgw_with_the_last_session_of_the_apn() -> None:
    world = World()
    world.authorise()
    world.authorise(replace(AAR, session_id="p;1;2"))
    assert world.terminate() == SUCCESS
    assert world.pgws == {APN: "192.0.2.7"}
    assert world.terminate(replace(STR, session_id="p;1;2")) == SUCCESS
    assert world.pgws == {APN: None}
    assert len(world.sessions) == 0
    assert sum(isinstance(event, PgwSessionEnded) for event in world.events) == 2


def test_a_user_who_is_registered_no_more_has_no_pgw_to_forget() -> None:
    # TS 29.273 §8.1.2.2.2: the PGWs went with the registration
    world = World()
    world.authorise()
    world.attached.clear()
    assert world.terminate() == SUCCESS
    assert world.pgws == {APN: "192.0.2.7"}


def test_an_unknown_session_is_terminated_with_5002() -> None:
    assert World().terminate() == Result.of(ResultCode.DIAMETER_UNKNOWN_SESSION_ID)


def test_authorising_anew_tells_the_hss_only_of_another_pgw() -> None:
    world = World()
    world.authorise()
    world.pgws.clear()
    assert world.authorise().result == SUCCESS
    assert world.pgws == {}
    assert world.asked() == 2
    world.authorise(replace(AAR, mip6_agent_info="192.0.2.8"))
    assert world.pgws == {APN: "192.0.2.8"}
    assert len(world.sessions) == 1


@pytest.mark.parametrize(
    "change", [{"origin_host": "other.test"}, {"user_name": NAI.replace(str(USER.imsi), str(OTHER.imsi))}]
)
def test_a_session_id_is_one_users_at_one_pgw(change: dict[str, str]) -> None:
    world = World()
    world.attached.add(OTHER.imsi)
    world.authorise()
    assert world.authorise(replace(AAR, **change)).result == Result.of(  # type: ignore[arg-type]
        ResultCode.DIAMETER_UNABLE_TO_COMPLY
    )
    assert [session.host for session in world.sessions] == ["pgw.test"]


def test_another_pgw_does_not_end_a_session() -> None:
    world = World()
    world.authorise()
    assert world.terminate(replace(STR, origin_host="other.test")) == Result.of(ResultCode.DIAMETER_UNKNOWN_SESSION_ID)
    assert world.terminate(replace(STR, origin_host="PGW.test")) == SUCCESS


def test_a_pushed_profile_answers_the_next_aar_once() -> None:
    world = World()
    world.authorise()
    changed = replace(INTERNET, served_party_addresses=(ip_address("10.45.0.77"),))
    world.sessions.push(AAR.session_id, replace(PROFILE, user_data=replace(DATA, apns=(changed,))))
    answer = world.authorise()
    assert answer.apn_configuration is not None
    assert answer.apn_configuration.static_ipv4 == ip_address("10.45.0.77")
    assert world.asked() == 1
    world.authorise()
    assert world.asked() == 2


def test_a_pgw_has_a_while_after_the_access_is_gone() -> None:
    world = World()
    world.authorise()
    world.sessions.release(USER.imsi, "other", world.now)
    world.sessions.release(USER.imsi, APN, world.now)
    world.sessions.release(USER.imsi, APN, world.now + 5)  # the second access counts for nothing more
    assert world.sessions.next_deadline() == world.now + RELEASE_INTERVAL
    world.pass_time(RELEASE_INTERVAL)
    aborts = [event for event in world.events if isinstance(event, AbortRequested)]
    assert [event.session.session_id for event in aborts] == [AAR.session_id]
    assert world.sessions.next_deadline() is None
    world.sessions.end(AAR.session_id, "its gateway does not know it")
    world.sessions.end(AAR.session_id, "once more")
    world.serve()
    assert len(world.sessions) == 0


def test_an_aar_takes_the_release_back() -> None:
    # the user attached again before the time was over
    world = World()
    world.authorise()
    world.sessions.release(USER.imsi, APN, world.now)
    world.authorise()
    world.pass_time(RELEASE_INTERVAL)
    assert not any(isinstance(event, AbortRequested) for event in world.events)


def test_a_profile_shortens_the_session() -> None:
    world = World()
    world.profile = replace(PROFILE, user_data=replace(DATA, session_timeout=60))
    assert world.authorise().session_timeout == 60
    assert world.sessions.next_deadline() == world.now + 60 + SESSION_GRACE_INTERVAL


def test_sessions_end_with_their_time() -> None:
    world = World()
    world.authorise()
    world.pass_time(TIMEOUT + SESSION_GRACE_INTERVAL)
    assert len(world.sessions) == 0
    (ended,) = [event for event in world.events if isinstance(event, PgwSessionEnded)]
    assert "Session-Timeout" in ended.text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (NAI, USER.imsi),
        (str(USER.imsi), USER.imsi),
        (f"{USER.imsi}@nai.epc.mnc001.mcc001.3gppnetwork.org", USER.imsi),
        ("2pseudonym@x.test", None),
        (" ", None),
    ],
)
def test_users_by_name(name: str, expected: Imsi | None) -> None:
    assert imsi_of(name) == expected
