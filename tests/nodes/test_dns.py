"""The resolver against a real DNS server: what it takes, what it bounds, and what harms it not."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from protocols.io.dns import DnsResolver, ResolverSettings
from protocols.names import ADDRESSES_MAXIMUM, REPLACEMENTS_MAXIMUM, RecordKind, Resolution
from tests.peers.dns_server import GARBAGE, SERVFAIL, SILENT, DnsServer, Zone

A, AAAA, NAPTR = RecordKind.A, RecordKind.AAAA, RecordKind.NAPTR
MANY = [("A", f"192.0.2.{number}") for number in range(1, 60)]
ZONE: Zone = {
    "gw.example": [("A", "192.0.2.1"), ("A", "192.0.2.2"), ("AAAA", "2001:db8::1")],
    "four.example": [("A", "192.0.2.4")],
    "alias.example": [("CNAME", "gw.example.")],
    "alias.of.alias.example": [("CNAME", "alias.example.")],
    "loop.example": [("CNAME", "loop.example.")],
    "many.example": MANY,
    "nonsense.example": [("A", "0.0.0.0"), ("A", "224.0.0.1"), ("A", "192.0.2.9")],
    "country.example": [
        ("NAPTR", '200 1 "" "" "" second.example.'),
        ("NAPTR", '100 9 "" "" "" first.example.'),
        ("NAPTR", '100 10 "" "" "" then.example.'),
        ("NAPTR", '1 1 "" "" "!.*!x!" .'),
    ],
    "countries.example": [("NAPTR", f'{number} 1 "" "" "" gw{number}.example.') for number in range(20)],
    "silent.example": SILENT,
    "failing.example": SERVFAIL,
    "garbage.example": GARBAGE,
}


def addresses(*texts: str) -> dict[str, object]:
    return {"addresses": tuple(map(ip_address, texts))}


TABLE: list[tuple[str, tuple[RecordKind, ...], dict[str, object]]] = [
    ("gw.example", (A,), addresses("192.0.2.1", "192.0.2.2")),
    ("gw.example.", (AAAA,), addresses("2001:db8::1")),
    ("GW.example", (A, AAAA), addresses("192.0.2.1", "192.0.2.2", "2001:db8::1")),
    ("four.example", (AAAA,), {}),
    ("four.example", (AAAA, A), addresses("192.0.2.4")),
    ("absent.example", (A,), {}),
    ("nonsense.example", (A,), addresses("192.0.2.9")),
    ("alias.example", (A,), addresses("192.0.2.1", "192.0.2.2")),
    ("alias.of.alias.example", (AAAA,), addresses("2001:db8::1")),
    ("country.example", (NAPTR,), {"replacements": ("first.example", "then.example", "second.example")}),
    ("silent.example", (A,), {"failure": "no answer from DNS within 0.3 s"}),
    ("failing.example", (A,), {"failure": "DNS failed: no name server gives an answer that can be used"}),
    ("a" * 64 + ".example", (A,), {"failure": "DNS failed: A DNS label is > 63 octets long."}),
]


def looked_up(server: DnsServer, *questions: tuple[str, tuple[RecordKind, ...]]) -> list[Resolution]:
    async def ask() -> list[Resolution]:
        settings = ResolverSettings(servers=(ip_address(server.address),), port=server.port, timeout=0.3)
        resolver = DnsResolver(settings, lambda: 0.0)
        return [await resolver.resolve(name, kinds) for name, kinds in questions]

    return asyncio.run(ask())


@pytest.mark.parametrize(("name", "kinds", "expected"), TABLE)
def test_answers(name: str, kinds: tuple[RecordKind, ...], expected: dict[str, object]) -> None:
    with DnsServer({**ZONE, "GW.example": ZONE["gw.example"]}) as server:
        (found,) = looked_up(server, (name, kinds))
    shown = {key: getattr(found, key) for key in ("addresses", "replacements", "failure") if getattr(found, key)}
    assert shown == expected


def test_hostile_answers_are_bounded_failures() -> None:
    """Never an exception, never more than is believed, never longer than the time that is given."""
    with DnsServer(ZONE) as server:
        many, countries, loop, garbage = looked_up(
            server,
            ("many.example", (A,)),
            ("countries.example", (NAPTR,)),
            ("loop.example", (A,)),
            ("garbage.example", (A,)),
        )
    assert len(many.addresses) == ADDRESSES_MAXIMUM
    assert len(countries.replacements) == REPLACEMENTS_MAXIMUM
    assert (loop.addresses, garbage.addresses) == ((), ())
    assert loop.failure is not None
    assert garbage.failure is not None


def test_answers_live_as_long_as_they_say() -> None:
    """The clock is the machines'; failures and absences are asked again."""
    now = 0.0

    async def ask(server: DnsServer) -> None:
        nonlocal now
        settings = ResolverSettings(servers=(ip_address(server.address),), port=server.port, timeout=0.3)
        resolver = DnsResolver(settings, lambda: now)
        for moment in (0.0, 59.0, 59.9, 60.0, 100.0):
            now = moment
            assert (await resolver.resolve("four.example", (A,))).addresses
            assert not (await resolver.resolve("absent.example", (A,))).addresses

    with DnsServer(ZONE, ttl=60) as server:
        asyncio.run(ask(server))
        assert server.asked["four.example", "A"] == 2
        assert server.asked["absent.example", "A"] == 5


def test_an_answer_that_must_not_be_kept_is_not() -> None:
    with DnsServer(ZONE, ttl=0) as server:
        looked_up(server, ("four.example", (A,)), ("four.example", (A,)))
        assert server.asked["four.example", "A"] == 2


def test_an_alias_is_believed_no_longer_than_it_says() -> None:
    """The shortest time to live on the way to the addresses counts: a CNAME is a record too (RFC 1034 §3.6.2)."""
    now = 0.0

    async def ask(server: DnsServer) -> None:
        nonlocal now
        settings = ResolverSettings(servers=(ip_address(server.address),), port=server.port, timeout=0.3)
        resolver = DnsResolver(settings, lambda: now)
        for moment in (0.0, 4.9, 5.0, 9.0):
            now = moment
            assert (await resolver.resolve("alias.example", (A,))).addresses

    with DnsServer(ZONE, ttl=3600, alias_ttl=5) as server:
        asyncio.run(ask(server))
        assert server.asked["alias.example", "A"] == 2


def test_an_answer_that_does_not_fit_is_fetched_over_tcp() -> None:
    """RFC 7766 §5: a truncated answer is no answer."""
    zone: Zone = {"long.example": [("A", f"192.0.2.{number}") for number in range(1, 120)]}
    with DnsServer(zone) as server:
        (found,) = looked_up(server, ("long.example", (A,)))
        assert (len(found.addresses), server.by_tcp) == (ADDRESSES_MAXIMUM, 1)


def test_a_name_server_of_ipv6() -> None:
    with DnsServer(ZONE, address="::1") as server:
        (found,) = looked_up(server, ("gw.example", (AAAA,)))
        assert found.addresses == (ip_address("2001:db8::1"),)
