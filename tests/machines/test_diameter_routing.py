"""The routing table of a Diameter node (RFC 6733 §2.7, §6.1, §6.12 to §6.14)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from protocols.diameter.capabilities import Capabilities
from protocols.diameter.codec import Avp, DiameterMessage, answer_to
from protocols.diameter.codec import Result as DiameterResult
from protocols.diameter.dictionary import RELAY_APPLICATION, SWM_APPLICATION, SWX_APPLICATION, ResultCode
from protocols.diameter.routing import REDIRECTIONS_LIMIT, RedirectHostUsage, Route, RoutingTable, is_redirect
from protocols.diameter.swm import Der
from protocols.diameter.uri import DiameterUri, Transport
from protocols.errors import DecodeError

REALM = "epc.test"


def peer(host: str, realm: str = REALM, applications: tuple[int, ...] = (SWM_APPLICATION,)) -> Capabilities:
    return Capabilities(
        host=host,
        realm=realm,
        applications=frozenset(applications),
        product_name="",
        origin_state_id=0,
        addresses=(),
    )


def relay(host: str) -> Capabilities:
    return peer(host, "agents.test", (RELAY_APPLICATION,))


def der(
    *, realm: str = REALM, host: str | None = None, session: str = "epdg;1;1", user: str = "u@x"
) -> DiameterMessage:
    return Der(
        session_id=session,
        origin_host="epdg.epc.test",
        origin_realm=REALM,
        destination_realm=realm,
        destination_host=host,
        user_name=user,
        eap_payload=b"",
    ).to_message()


def indication(
    request: DiameterMessage, *hosts: str, usage: int | None = None, lifetime: int | None = None
) -> DiameterMessage:
    avps = [Avp.of("Redirect-Host", host) for host in hosts]
    if usage is not None:
        avps.append(Avp.of("Redirect-Host-Usage", usage))
    if lifetime is not None:
        avps.append(Avp.of("Redirect-Max-Cache-Time", lifetime))
    return answer_to(
        request,
        origin_host="agent.test",
        origin_realm="agents.test",
        result=DiameterResult.of(ResultCode.DIAMETER_REDIRECT_INDICATION),
        avps=avps,
    )


# Realm routing


def test_the_destination_host_itself_comes_first() -> None:
    table = RoutingTable([Route(host="b.test", priority=9)])
    present = (peer("a.test"), peer("B.test"), relay("r.test"))
    assert table.choose(der(host="b.TEST"), present, 0.0) == "b.test"


def test_a_realm_leads_to_its_servers_then_to_relays() -> None:
    table = RoutingTable()
    present = (relay("r.test"), peer("a.test"), peer("other.test", "other"))
    assert table.choose(der(), present, 0.0) == "a.test"
    assert table.choose(der(realm="OTHER"), present, 0.0) == "other.test"
    assert table.choose(der(realm="far"), present, 0.0) == "r.test"
    assert table.choose(der(), present, 0.0, tried={"a.test"}) == "r.test"


def test_another_destination_host_of_the_realm_is_reached_through_a_relay() -> None:
    present = (peer("a.test"), relay("r.test"))
    assert RoutingTable().candidates(der(host="c.test"), present, 0.0) == ("r.test",)
    assert RoutingTable().candidates(der(host="c.test"), present, 0.0, tried={"r.test"}) == ("a.test",)


def test_a_configured_realm_is_the_only_one_that_leads_to_its_peer() -> None:
    table = RoutingTable([Route(host="dra.test", realms=frozenset({"far"}))])
    present = (peer("dra.test", "elsewhere"),)
    assert table.choose(der(realm="far"), present, 0.0) == "dra.test"
    assert table.choose(der(realm="elsewhere"), present, 0.0) is None
    # RFC 6733 §6.1.5: as the destination itself it gets the request all the same
    assert table.choose(der(realm="elsewhere", host="dra.test"), present, 0.0) == "dra.test"


def test_a_peer_without_realms_is_the_default_entry() -> None:
    table = RoutingTable([Route(host="far.test", realms=frozenset({"far"}))])
    present = (peer("any.test", "any"), peer("far.test", "far"))
    assert table.choose(der(realm="unknown"), present, 0.0) == "any.test"
    assert table.choose(der(realm="far"), present, 0.0) == "far.test"


@pytest.mark.parametrize("application", [SWX_APPLICATION, 1])
def test_the_next_hop_serves_the_application(application: int) -> None:
    # RFC 6733 §2.7: the target server MUST have advertised the Application Id, or be a relay
    request = replace(der(), application=application)
    assert RoutingTable().choose(request, (peer("a.test"),), 0.0) is None
    assert RoutingTable().choose(request, (peer("a.test"), relay("r.test")), 0.0) == "r.test"


def test_applications_of_an_entry_narrow_what_its_peer_gets() -> None:
    both = (SWM_APPLICATION, SWX_APPLICATION)
    table = RoutingTable(
        [
            Route(host="a.test", applications=frozenset({SWX_APPLICATION})),
            Route(host="b.test", applications=frozenset({SWM_APPLICATION})),
        ]
    )
    present = (peer("a.test", applications=both), peer("b.test", applications=both))
    assert table.candidates(der(), present, 0.0) == ("b.test",)
    assert table.candidates(replace(der(), application=SWX_APPLICATION), present, 0.0) == ("a.test",)


# Failover, fail-back, load sharing


def test_the_lowest_priority_in_service_gets_everything() -> None:
    # RFC 3539 §3.4: failover to the next, fail-back when the first returns
    table = RoutingTable([Route(host="first.test", priority=0), Route(host="second.test", priority=1)])
    first, second = peer("first.test"), peer("second.test")
    assert [table.choose(der(), (second, first), 0.0) for _ in range(3)] == ["first.test"] * 3
    assert [table.choose(der(), (second,), 0.0) for _ in range(3)] == ["second.test"] * 3
    assert [table.choose(der(), (second, first), 0.0) for _ in range(3)] == ["first.test"] * 3
    assert table.choose(der(), (second, first), 0.0, tried={"first.test"}) == "second.test"


def test_a_priority_counts_more_than_the_kind_of_peer() -> None:
    table = RoutingTable([Route(host="a.test", priority=1), Route(host="r.test", priority=0)])
    assert table.choose(der(), (peer("a.test"), relay("r.test")), 0.0) == "r.test"


def test_equal_priorities_share_by_weight() -> None:
    table = RoutingTable([Route(host="a.test", weight=3), Route(host="b.test", weight=1)])
    present = (peer("a.test"), peer("b.test"))
    chosen = [table.choose(der(), present, 0.0) for _ in range(400)]
    assert Counter(chosen) == {"a.test": 300, "b.test": 100}
    # and not in long runs of one
    assert all("b.test" in chosen[start : start + 4] for start in range(397))


def test_nobody_else_is_tried_twice() -> None:
    table = RoutingTable()
    present = (peer("a.test"), peer("b.test"))
    assert table.choose(der(), present, 0.0, tried={"a.test", "b.test"}) is None
    assert table.choose(der(), (), 0.0) is None


# Redirect indications


@pytest.mark.parametrize(
    ("usage", "like", "unlike"),
    [
        (RedirectHostUsage.ALL_SESSION, der(user="v@x", realm="far"), der(session="epdg;1;2")),
        (RedirectHostUsage.ALL_USER, der(session="epdg;1;2", realm="far"), der(user="v@x")),
        (RedirectHostUsage.ALL_REALM, replace(der(user="v@x"), application=SWX_APPLICATION), der(realm="far")),
        (
            RedirectHostUsage.REALM_AND_APPLICATION,
            der(user="v@x", session="epdg;1;2"),
            replace(der(), application=SWX_APPLICATION),
        ),
        (RedirectHostUsage.ALL_APPLICATION, der(realm="far"), replace(der(), application=SWX_APPLICATION)),
        (RedirectHostUsage.ALL_HOST, der(session="s", user="v@x"), der(host="a.test")),
    ],
)
def test_a_redirect_is_kept_for_what_its_usage_says(
    usage: RedirectHostUsage, like: DiameterMessage, unlike: DiameterMessage
) -> None:
    both = (SWM_APPLICATION, SWX_APPLICATION)
    table = RoutingTable([Route(host="agent.test", priority=0), Route(host="b.test", priority=9)])
    present = (peer("agent.test", applications=both), peer("b.test", "b.realm", both), peer("a.test", "a", both))
    answer = indication(der(), "aaa://b.test", usage=usage, lifetime=60)
    assert is_redirect(answer)
    assert table.learn(der(), answer, by="agent.test", now=100.0) == ("b.test",)
    assert table.choose(der(), present, 159.9) == "b.test"
    assert table.choose(like, present, 159.9) == "b.test"
    assert table.choose(unlike, present, 159.9) != "b.test"
    # RFC 6733 §6.14: for that long and no longer
    assert table.choose(like, present, 160.0) != "b.test"


@pytest.mark.parametrize(("usage", "lifetime"), [(None, None), (0, 60), (1, None), (1, 0), (7, 60)])
def test_a_redirect_is_not_kept(usage: int | None, lifetime: int | None) -> None:
    table = RoutingTable()
    answer = indication(der(), "aaa://b.test", usage=usage, lifetime=lifetime)
    assert table.learn(der(), answer, by="agent.test", now=0.0) == ("b.test",)
    assert table.redirections == 0


def test_usages_have_a_precedence() -> None:
    table = RoutingTable()
    order = [
        RedirectHostUsage.ALL_SESSION,
        RedirectHostUsage.ALL_USER,
        RedirectHostUsage.REALM_AND_APPLICATION,
        RedirectHostUsage.ALL_REALM,
        RedirectHostUsage.ALL_APPLICATION,
        RedirectHostUsage.ALL_HOST,
    ]
    present = [peer("agent.test"), *(peer(f"h{usage.value}.test", "far") for usage in order)]
    for usage in reversed(order):
        answer = indication(der(), f"aaa://h{usage.value}.test", usage=usage, lifetime=60)
        table.learn(der(), answer, by="agent.test", now=0.0)
        assert table.choose(der(), present, 1.0) == f"h{usage.value}.test"


def test_hosts_that_are_gone_are_forgotten() -> None:
    # RFC 6733 §6.14: once a host is no longer reachable, associated entries MUST be deleted
    table = RoutingTable()
    answer = indication(der(), "aaa://B.test", "aaa://c.test", usage=RedirectHostUsage.ALL_REALM, lifetime=60)
    table.learn(der(), answer, by="agent.test", now=0.0)
    present = (peer("agent.test"), peer("b.test", "far"), peer("c.test", "far"))
    assert table.choose(der(), present, 0.0) == "b.test"
    table.lost("b.test")
    assert table.choose(der(), present, 0.0) == "c.test"
    table.lost("c.test")
    assert table.redirections == 0


def test_the_cache_of_redirects_is_bounded() -> None:
    table = RoutingTable()
    for number in range(REDIRECTIONS_LIMIT + 5):
        request = der(session=f"epdg;1;{number}")
        answer = indication(request, "aaa://b.test", usage=RedirectHostUsage.ALL_SESSION, lifetime=60)
        table.learn(request, answer, by="agent.test", now=0.0)
    assert table.redirections == REDIRECTIONS_LIMIT


def test_hosts_that_are_none_are_left_out() -> None:
    answer = indication(
        der(), "http://b.test", "b.test", "aaa://c.test;transport=udp", "aaas://d.test:99999", "aaa://e.test"
    )
    broken = replace(answer, avps=(*answer.avps, Avp(code=292, data=b"\xff\xfe"), Avp(code=261, data=b"\x01")))
    assert RoutingTable().learn(der(), broken, by="agent.test", now=0.0) == ("e.test",)


# DiameterURI


@pytest.mark.parametrize(
    ("text", "host", "port", "transport"),
    [
        # The examples of RFC 6733 §4.3.1
        ("aaa://host.example.com;transport=tcp", "host.example.com", 3868, Transport.TCP),
        ("aaa://host.example.com:6666;transport=tcp", "host.example.com", 6666, Transport.TCP),
        ("aaa://host.example.com;protocol=diameter", "host.example.com", 3868, Transport.TCP),
        ("aaa://host.example.com:6666;protocol=diameter", "host.example.com", 6666, Transport.TCP),
        ("aaa://host.example.com:6666;transport=tcp;protocol=diameter", "host.example.com", 6666, Transport.TCP),
        ("aaas://HOST.example.com", "host.example.com", 5658, Transport.TLS),
        ("aaa://host;transport=sctp", "host", 3868, Transport.SCTP),
    ],
)
def test_uri(text: str, host: str, port: int, transport: Transport) -> None:
    assert DiameterUri.parse(text) == DiameterUri(host=host, port=port, transport=transport)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host.example.com",
        "aaa://",
        "aaa://host:0",
        "aaa://host:65536",
        "aaa://host;transport=udp;protocol=radius",
        "aaa://host.example.com:1813;transport=udp;protocol=radius",
        "aaas://host;transport=sctp",
        "aaa://host;transport=tcp;x",
        "aaa://ho st",
        "aaa://hóst",
    ],
)
def test_uri_that_is_none(text: str) -> None:
    with pytest.raises(DecodeError):
        DiameterUri.parse(text)
