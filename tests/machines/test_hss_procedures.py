"""The HSS's procedures (TS 29.273 §8.1.2) and what it pushes, on registrations in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from aaa.hss.in_process import Bridge, InProcessHss
from aaa.hss.local import LocalHss
from aaa.hss.port import HssRefusal, VectorRequest
from aaa.hss.procedures import VECTORS_LIMIT, HssProcedures
from aaa.hss.profile import user_data
from aaa.hss.push import HssPush, NotRegistered
from aaa.hss.registration import MemoryRegistrations, Registration, ServingServer
from aaa.subscribers import ApnSubscription, PdnType, Subscriber
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import (
    ExperimentalResultCode,
    PdnGwAllocationType,
    RatType,
    ReasonCode,
    ResultCode,
)
from protocols.diameter.dictionary import PdnType as PdnTypeCode
from protocols.diameter.profile import Ambr, ApnConfiguration, Arp, Non3gppUserData, QosProfile
from protocols.entropy import SeededEntropy
from protocols.errors import BackendError
from protocols.threegpp.identity import Apn, Imsi, Plmn
from protocols.trace.recorder import Recorder
from tests.harness.subscribers import Table

USER = laboratory_subscriber(1)
AAA, OTHER = ServingServer("aaa.test", "test"), ServingServer("other.test", "test")
REQUEST = VectorRequest(imsi=USER.imsi)
HOME, GERMANY, SPAIN = Plmn("001", "01"), Plmn("262", "02"), Plmn("214", "07")
ELSEWHERE = Result.of(ExperimentalResultCode.DIAMETER_ERROR_IDENTITY_ALREADY_REGISTERED)
SUCCESS = Result.of(ResultCode.DIAMETER_SUCCESS)
UNKNOWN = Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_UNKNOWN)


class Hss:
    """Procedures on a table; ``refused`` is what they refuse with."""

    def __init__(self, *subscribers: Subscriber) -> None:
        self.table = Table(*subscribers)
        self.registrations = MemoryRegistrations()
        vectors = LocalHss(self.table, SeededEntropy("hss"))
        self.procedures = HssProcedures(self.table, vectors, self.registrations)


def refused(call: Callable[[], object]) -> HssRefusal:
    with pytest.raises(HssRefusal) as raised:
        call()
    return raised.value


# --- MAR --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subscriber", "visited", "allowed"),
    [
        (USER, None, True),
        (USER, GERMANY.domain, True),
        (replace(USER, roaming_allowed=False), HOME.domain, True),
        (replace(USER, roaming_allowed=False), f"epc.{HOME.domain}".upper(), True),
        (replace(USER, roaming_allowed=False), None, True),
        (replace(USER, roaming_allowed=False), GERMANY.domain, False),
        (replace(USER, visited_networks=(GERMANY,)), GERMANY.domain, True),
        (replace(USER, visited_networks=(GERMANY,)), SPAIN.domain, False),
        (replace(USER, visited_networks=(GERMANY,)), f"x{GERMANY.domain}", False),
        (replace(USER, roaming_allowed=False, visited_networks=(GERMANY,)), GERMANY.domain, False),
        (replace(USER, roaming_allowed=False), "no.network", False),
    ],
)
def test_roaming(subscriber: Subscriber, visited: str | None, allowed: bool) -> None:
    hss = Hss(subscriber)
    request = replace(REQUEST, visited_network=visited)
    if allowed:
        assert hss.procedures.authenticate(request, server=AAA)
    else:
        refusal = refused(lambda: hss.procedures.authenticate(request, server=AAA))
        assert refusal.result == Result.of(ExperimentalResultCode.DIAMETER_ERROR_ROAMING_NOT_ALLOWED)
        assert hss.table.rows[USER.imsi].sequence == 0  # no vector was made


def test_a_barred_rat_is_refused_where_it_is_used() -> None:
    hss = Hss(replace(USER, wlan_allowed=False))
    refusal = refused(lambda: hss.procedures.authenticate(replace(REQUEST, rat_type=RatType.WLAN), server=AAA))
    assert refusal.result == Result.of(ExperimentalResultCode.DIAMETER_ERROR_RAT_TYPE_NOT_ALLOWED)
    assert hss.procedures.authenticate(replace(REQUEST, rat_type=RatType.VIRTUAL), server=AAA)


@pytest.mark.parametrize(("count", "given"), [(0, 1), (1, 1), (3, 3), (VECTORS_LIMIT + 1, VECTORS_LIMIT)])
def test_as_many_vectors_as_are_asked_for_up_to_a_limit(count: int, given: int) -> None:
    assert len(Hss(USER).procedures.authenticate(REQUEST, server=AAA, count=count)) == given


# --- who serves a user ------------------------------------------------------------------------------


def test_only_the_server_that_authenticated_a_user_registers_it() -> None:
    """TS 23.402 §12.1.2: the HSS checks that it is the one that asked for vectors."""
    hss = Hss(USER)
    hss.procedures.authenticate(REQUEST, server=AAA)
    refusal = refused(lambda: hss.procedures.register(USER.imsi, server=OTHER))
    assert (refusal.result, refusal.serving_server) == (ELSEWHERE, AAA.host)
    hss.procedures.register(USER.imsi, server=AAA)
    refusal = refused(lambda: hss.procedures.authenticate(REQUEST, server=OTHER))
    assert (refusal.result, refusal.serving_server) == (ELSEWHERE, AAA.host)
    for call in (hss.procedures.user_data, hss.procedures.restore):
        assert refused(lambda call=call: call(USER.imsi, server=OTHER)).result == ELSEWHERE  # type: ignore[misc]
    assert refused(lambda: hss.procedures.deregister(USER.imsi, server=OTHER)).result == ELSEWHERE
    assert hss.procedures.user_data(USER.imsi, server=AAA)


def test_a_server_that_failed_is_replaced_with_what_it_knew() -> None:
    hss = Hss(USER)
    hss.procedures.authenticate(REQUEST, server=AAA)
    hss.procedures.register(USER.imsi, server=AAA)
    hss.procedures.update_pgw(USER.imsi, "internet", "pgw.test", server=AAA)
    hss.procedures.authenticate(replace(REQUEST, replaces_failed_server=True), server=OTHER)
    # until its SAR the old one still has the user, and may have it again
    assert hss.procedures.user_data(USER.imsi, server=AAA)
    profile = hss.procedures.register(USER.imsi, server=OTHER)
    assert profile.user_data.apns[0].mip6_agent_info is None
    assert refused(lambda: hss.procedures.register(USER.imsi, server=AAA)).serving_server == OTHER.host


def test_pgws_are_of_subscribed_apns_and_have_names() -> None:
    """What a server reports is kept, so that it has to be bounded; APNs compare by network identifier."""
    hss = Hss(USER)
    hss.procedures.authenticate(REQUEST, server=AAA)
    hss.procedures.register(USER.imsi, server=AAA)
    no_apn = Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_NO_APN_SUBSCRIPTION)
    for apn in ("nowhere", "a\0b", "i" * 50_000, ""):
        refusal = refused(lambda apn=apn: hss.procedures.update_pgw(USER.imsi, apn, "pgw.test", server=AAA))
        assert refusal.result == no_apn
        hss.procedures.update_pgw(USER.imsi, apn, None, server=AAA)  # nothing to forget
    for pgw in ("", "two words", "p" * 50_000):
        refusal = refused(lambda pgw=pgw: hss.procedures.update_pgw(USER.imsi, "internet", pgw, server=AAA))
        assert refusal.result == Result.of(ResultCode.DIAMETER_INVALID_AVP_VALUE)
    hss.procedures.update_pgw(USER.imsi, "Internet.mnc001.mcc001.gprs", "pgw.test", server=AAA)
    registration = hss.registrations.registration(USER.imsi)
    assert registration is not None
    assert registration.pgws == {"internet": "pgw.test"}


def test_a_pgw_is_forgotten_when_none_is_named() -> None:
    hss = Hss(USER)
    hss.procedures.register(USER.imsi, server=AAA)
    hss.procedures.update_pgw(USER.imsi, "internet", "pgw.test", server=AAA)
    apn = hss.procedures.restore(USER.imsi, server=AAA).user_data.apns[0]
    assert (apn.mip6_agent_info, apn.pdn_gw_allocation_type) == ("pgw.test", PdnGwAllocationType.DYNAMIC)
    hss.procedures.update_pgw(USER.imsi, "internet", None, server=AAA)
    assert hss.procedures.user_data(USER.imsi, server=AAA).user_data.apns[0].mip6_agent_info is None


def test_a_removed_subscriber_is_unknown_to_every_procedure_but_the_last() -> None:
    hss = Hss(USER)
    hss.procedures.register(USER.imsi, server=AAA)
    hss.table.rows.clear()
    for call in (hss.procedures.register, hss.procedures.user_data, hss.procedures.restore):
        assert refused(lambda call=call: call(USER.imsi, server=AAA)).result == UNKNOWN  # type: ignore[misc]
    assert refused(lambda: hss.procedures.authenticate(REQUEST, server=AAA)).result == UNKNOWN
    hss.procedures.deregister(USER.imsi, server=AAA)
    assert hss.registrations.count() == 0


# --- the profile ------------------------------------------------------------------------------------


def test_the_profile_holds_everything_that_is_subscribed() -> None:
    ims = ApnSubscription(
        apn=Apn("ims"),
        pdn_type=PdnType.IPV4_OR_IPV6,
        ambr_uplink_bits=1,
        ambr_downlink_bits=2,
        static_ipv4=IPv4Address("10.45.0.9"),
        static_ipv6=IPv6Network("2001:db8:1::/64"),
        qci=5,
        priority_level=2,
        pre_emption_capability=True,
        pre_emption_vulnerability=False,
        is_default=True,
        visited_dynamic_address=True,
        pgw="pgw.static.test",
    )
    subscriber = replace(
        USER,
        apns=(ApnSubscription(apn=Apn("internet")), ims),
        msisdn="49171",
        session_timeout=60,
        ambr_uplink_bits=3,
        ambr_downlink_bits=4,
        wlan_allowed=False,
    )
    profile = user_data(subscriber, {"ims": "pgw.dynamic.test"})
    assert profile == Non3gppUserData(
        non_3gpp_ip_access=True,
        non_3gpp_ip_access_apn=True,
        default_context_identifier=2,
        apns=(profile.apns[0], profile.apns[1]),
        subscription_id="49171",
        rat_types_barred=(RatType.WLAN,),
        session_timeout=60,
        ambr=Ambr(3, 4),
    )
    assert profile.apns[1] == ApnConfiguration(
        context_identifier=2,
        service_selection="ims",
        pdn_type=PdnTypeCode.IPv4_OR_IPv6,
        ambr=Ambr(1, 2),
        served_party_addresses=(IPv4Address("10.45.0.9"), IPv6Address("2001:db8:1::")),
        qos=QosProfile(5, Arp(2, True, False)),
        vplmn_dynamic_address_allowed=True,
        mip6_agent_info="pgw.static.test",
        pdn_gw_allocation_type=PdnGwAllocationType.STATIC,
    )
    assert user_data(replace(subscriber, apns=()), {}).default_context_identifier is None
    assert not user_data(replace(subscriber, enabled=False), {}).non_3gpp_ip_access


# --- RTR and PPR ------------------------------------------------------------------------------------


class Servers:
    """AAA servers that answer ``result``, or not at all."""

    def __init__(self) -> None:
        self.result: Result | None = SUCCESS
        self.terminated: list[tuple[ServingServer, Imsi, int, str]] = []
        self.pushed: list[Non3gppUserData] = []

    async def terminate_registration(self, server: ServingServer, imsi: Imsi, reason: int, text: str) -> Result:
        self.terminated.append((server, imsi, reason, text))
        return self._answer()

    async def push_profile(self, server: ServingServer, imsi: Imsi, profile: Non3gppUserData) -> Result:
        self.pushed.append(profile)
        return self._answer()

    def _answer(self) -> Result:
        if self.result is None:
            raise BackendError("the server does not answer")
        return self.result


class Pushing(Hss):
    """The same with what it pushes."""

    def __init__(self, *subscribers: Subscriber) -> None:
        super().__init__(*subscribers)
        self.servers = Servers()
        self.bridge = Bridge()
        recorder = Recorder("hss", monotonic=lambda: 0.0, wall=lambda: 0.0, export_keys=False, ring=100)
        self.push = HssPush(self.table, self.registrations, self.bridge, self.servers, recorder)

    def look(self) -> None:
        asyncio.run(self.push.look())


def test_what_changed_is_told_once_and_what_did_not_is_not() -> None:
    hss = Pushing(USER, laboratory_subscriber(2))
    for number in (1, 2):
        hss.procedures.register(laboratory_subscriber(number).imsi, server=AAA)
    hss.look()
    assert (hss.servers.pushed, hss.servers.terminated) == ([], [])
    hss.table.rows[USER.imsi] = replace(hss.table.rows[USER.imsi], msisdn="49171")
    hss.look()
    hss.look()
    (profile,) = hss.servers.pushed
    assert profile.subscription_id == "49171"
    # keys and SQN are no part of the profile
    hss.table.rows[USER.imsi] = replace(hss.table.rows[USER.imsi], sequence=500)
    hss.look()
    assert len(hss.servers.pushed) == 1
    # what the AAA server itself reported is no news to it
    hss.procedures.update_pgw(USER.imsi, "internet", "pgw.test", server=AAA)
    hss.look()
    assert len(hss.servers.pushed) == 1


@pytest.mark.parametrize("how", ["removed", "without non-3GPP"])
def test_an_ended_subscription_ends_the_registration(how: str) -> None:
    hss = Pushing(USER)
    hss.procedures.register(USER.imsi, server=AAA)
    if how == "removed":
        hss.table.rows.clear()
    else:
        hss.table.rows[USER.imsi] = replace(USER, non_3gpp_allowed=False)
    hss.servers.result = None
    hss.look()  # the server is not there: again next time
    hss.servers.result = UNKNOWN  # it has no session of the user
    hss.look()
    hss.look()
    assert [(told[0], told[2]) for told in hss.servers.terminated] == [(AAA, ReasonCode.PERMANENT_TERMINATION)] * 2
    assert hss.registrations.count() == 0


def test_an_emergency_needs_no_subscription_that_could_end() -> None:
    without = replace(USER, non_3gpp_allowed=False)
    hss = Pushing(without)
    no_subscription = Result.of(ExperimentalResultCode.DIAMETER_ERROR_USER_NO_NON_3GPP_SUBSCRIPTION)
    # fast re-authentication asks for no vector
    assert refused(lambda: hss.procedures.register(USER.imsi, server=AAA)).result == no_subscription
    hss.procedures.authenticate(replace(REQUEST, emergency=True), server=AAA)
    hss.procedures.register(USER.imsi, server=AAA)
    # the emergency does not open the door for a fast re-authentication to another APN
    assert not hss.procedures.user_data(USER.imsi, server=AAA).user_data.non_3gpp_ip_access
    hss.look()
    assert (hss.servers.pushed, hss.servers.terminated) == ([], [])
    # one that had a subscription has to go when that ends, whatever is asked in between
    hss.table.rows[USER.imsi] = USER
    hss.look()
    assert len(hss.servers.pushed) == 1
    hss.table.rows[USER.imsi] = without
    hss.procedures.user_data(USER.imsi, server=AAA)
    hss.look()
    assert len(hss.servers.terminated) == 1


def test_a_registration_that_changes_meanwhile_stays() -> None:
    """A server registers the user while another one is told of its end."""
    hss = Pushing(USER)
    hss.procedures.register(USER.imsi, server=AAA)

    async def terminate(server: ServingServer, imsi: Imsi, reason: int, text: str) -> Result:
        hss.registrations.store_registration(imsi, Registration(server=OTHER))
        return SUCCESS

    hss.servers.terminate_registration = terminate  # type: ignore[method-assign]
    asyncio.run(hss.push.deregister(USER.imsi))
    assert hss.registrations.registration(USER.imsi) == Registration(server=OTHER)


def test_a_registration_at_a_server_that_is_gone_ends_by_force() -> None:
    hss = Pushing(USER)
    hss.procedures.register(USER.imsi, server=OTHER)
    hss.servers.result = None
    with pytest.raises(BackendError):
        asyncio.run(hss.push.deregister(USER.imsi))
    assert hss.registrations.count() == 1
    with pytest.raises(BackendError):
        asyncio.run(hss.push.deregister(USER.imsi, force=True))
    assert hss.registrations.count() == 0


def test_in_process_a_server_takes_over_what_another_name_left() -> None:
    """Several processes with one database, or one process under a new name: nobody is locked out."""
    hss = Pushing(USER)
    hss.registrations.store_registration(USER.imsi, Registration(server=OTHER))
    here = InProcessHss(hss.procedures, hss.bridge, server=AAA)

    async def attach() -> None:
        await here.authentication_vector(REQUEST)
        await here.register(USER.imsi)

    asyncio.run(attach())
    present = hss.registrations.registration(USER.imsi)
    assert present is not None
    assert present.server == AAA


def test_whoever_is_not_registered_cannot_be_told() -> None:
    hss = Pushing(USER)
    for call in (hss.push.deregister, hss.push.profile_changed):
        with pytest.raises(NotRegistered):
            asyncio.run(call(USER.imsi))


def test_more_registrations_than_a_page_are_all_looked_at() -> None:
    users = [laboratory_subscriber(number) for number in range(1, 451)]
    hss = Pushing(*users)
    for user in users:
        hss.procedures.register(user.imsi, server=AAA)
    hss.table.rows.clear()
    hss.look()
    assert [told[1] for told in hss.servers.terminated] == [user.imsi for user in users]
    assert hss.registrations.count() == 0
