"""What the gateway grants to which CFG_REQUEST (RFC 7296 §3.15, RFC 7651, TS 24.302 §7.4.1), and its pools."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest

from epdg.commands import (
    AllocateAddress,
    AnswerIke,
    Command,
    ReleaseAddress,
    SendConfiguration,
    Tell,
)
from epdg.pdn.configuration import SUPPORTED, GrantedNetwork
from epdg.pdn.pool import AddressPool, AddressPools, ForeignAddresses
from epdg.session import Session
from protocols.diameter.dictionary import PdnType
from protocols.diameter.swm import ApnConfiguration
from protocols.ikev2.events import (
    Closed,
    ConfigurationAnswer,
    ConfigurationExchanged,
    ConfigurationReceived,
    ConfigurationReply,
    ConfigurationRequested,
    Established,
    NatStatus,
    Refusal,
)
from protocols.ikev2.payloads import ConfigurationAttribute
from protocols.ikev2.registry import ConfigAttributeType, ConfigType, NotifyType
from protocols.path import Address
from protocols.threegpp.causes import PrivateNotify
from tests.machines.test_epdg_session import PATH, authenticated, identity, new, one

INNER_4, INNER_6 = IPv4Address("10.45.0.2"), IPv6Address("2001:db8:45:1::1")
DNS_4, DNS_6 = IPv4Address("10.45.0.1"), IPv6Address("2001:db8:45::1")
P_CSCF_4, P_CSCF_6 = IPv4Address("10.45.0.9"), IPv6Address("2001:db8:45::9")
BOTH = GrantedNetwork(
    versions=(4, 6),
    dns=(DNS_4, DNS_6),
    p_cscf=(P_CSCF_4, P_CSCF_6),
    application_version="gateway 1.0",
    liveness_period=90,
)
PREFIXED_6 = INNER_6.packed + b"\x40"


def attribute(kind: int, value: bytes = b"") -> ConfigurationAttribute:
    return ConfigurationAttribute(type=ConfigAttributeType.of(kind), value=value)


def profile(pdn_type: PdnType, *static: Address) -> ApnConfiguration:
    return ApnConfiguration(
        context_identifier=1, service_selection="internet", pdn_type=pdn_type, served_party_addresses=static
    )


def ask(session: Session, *wanted: ConfigurationAttribute) -> list[Command]:
    requested = ConfigurationRequested(identity=identity().identity, responder_identity=None, configuration=wanted)
    return session.handle(requested, 0.0)


def asked(*wanted: ConfigurationAttribute, pdn_type: PdnType | None = None) -> Session:
    """A session whose UE is authenticated and has asked for these."""
    changes = {} if pdn_type is None else {"apn_configuration": profile(pdn_type)}
    session = authenticated(new(), **changes)
    ask(session, *wanted)
    return session


def answer(commands: list[Command]) -> ConfigurationReply | Refusal:
    command = one(commands, AnswerIke)
    assert isinstance(command, AnswerIke)
    assert isinstance(command.answer, ConfigurationReply | Refusal)
    return command.answer


def granted(session: Session, *addresses: Address, network: GrantedNetwork = BOTH) -> ConfigurationReply:
    reply = answer(session.address_allocated(addresses, network))
    assert isinstance(reply, ConfigurationReply)
    return reply


def refused(commands: list[Command]) -> int:
    refusal = answer(commands)
    assert isinstance(refusal, Refusal)
    return int(refusal.notify.type)


def values(reply: ConfigurationReply) -> list[tuple[int, bytes]]:
    return [(int(each.type), each.value) for each in reply.attributes]


def attached(*wanted: ConfigurationAttribute) -> Session:
    session = asked(*wanted)
    session.address_allocated((INNER_4, INNER_6), BOTH)
    established = Established(
        identity=identity().identity,
        responder_identity=None,
        configuration=(),
        mobike=True,
        nat=NatStatus(),
        path=PATH,
        requests=0,
    )
    session.handle(established, 1.0)
    return session


# --- attributes ---------------------------------------------------------------------------------------

ALWAYS = [(1, INNER_4.packed), (8, PREFIXED_6)]


@pytest.mark.parametrize(
    ("kinds", "more"),
    [
        ((), []),
        ((2,), [(2, bytes([255] * 4))]),
        ((3,), [(3, DNS_4.packed)]),
        ((10,), [(10, DNS_6.packed)]),
        ((20,), [(20, P_CSCF_4.packed)]),
        ((21,), [(21, P_CSCF_6.packed)]),
        ((16384,), [(16384, P_CSCF_4.packed)]),
        ((16386,), [(16386, P_CSCF_6.packed)]),
        ((16389,), [(16389, P_CSCF_4.packed)]),
        ((16390,), [(16390, P_CSCF_6.packed)]),
        ((20, 16384, 16389), [(kind, P_CSCF_4.packed) for kind in (20, 16384, 16389)]),
        ((7,), [(7, b"gateway 1.0")]),
        ((24,), [(24, (90).to_bytes(4, "big"))]),
        ((4, 6, 12, 13, 15, 19, 25, 30000), []),  # what is not served here, and what nobody knows
    ],
)
def test_nothing_is_granted_that_was_not_asked_for(kinds: tuple[int, ...], more: list[tuple[int, bytes]]) -> None:
    """RFC 7296 §3.15.1: unknown attributes ignored; RFC 7651 and the private P-CSCF numbers; TS 24.302 §8.2.4.2."""
    session = asked(attribute(1), attribute(8), *map(attribute, kinds))
    found = values(granted(session, INNER_4, INNER_6))
    assert [each for each in found if each not in ALWAYS] == more
    assert [each for each in found if each in ALWAYS] == ALWAYS


def test_supported_attributes_are_those_that_are_granted_at_all() -> None:
    """RFC 7296 §3.15.1: attribute identifiers in two octets each."""
    (found,) = [value for kind, value in values(granted(asked(attribute(1), attribute(14)), INNER_4)) if kind == 14]
    numbers = [int.from_bytes(found[at : at + 2], "big") for at in range(0, len(found), 2)]
    assert numbers == sorted(SUPPORTED) == [1, 2, 3, 7, 8, 10, 14, 20, 21, 24, 16384, 16386, 16389, 16390]


def test_a_gateway_that_keeps_its_version_and_period_to_itself() -> None:
    session = asked(attribute(1), attribute(7), attribute(24))
    assert values(granted(session, INNER_4, network=GrantedNetwork())) == [(1, INNER_4.packed)]


def test_servers_of_a_family_without_an_address_are_no_use() -> None:
    session = asked(attribute(1), attribute(10), attribute(21))
    assert values(granted(session, INNER_4)) == [(1, INNER_4.packed)]


def test_the_child_sa_may_carry_the_address_and_the_prefix() -> None:
    """TS 23.402 §4.7.3: the UE may choose its addresses in its /64."""
    reply = granted(asked(attribute(1), attribute(8)), INNER_4, INNER_6)
    assert [str(each) for each in reply.remote_selectors] == [
        "10.45.0.2",
        "2001:db8:45:1::-2001:db8:45:1:ffff:ffff:ffff:ffff",
    ]
    assert [str(each) for each in reply.local_selectors] == [
        "0.0.0.0-255.255.255.255",
        "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ]
    assert reply.notifies == ()


# --- which families -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pdn_type", "versions", "single"),
    [
        (None, (4, 6), False),
        (PdnType.IPv4, (4,), False),
        (PdnType.IPv6, (6,), False),
        (PdnType.IPv4v6, (4, 6), False),
        (PdnType.IPv4_OR_IPv6, (4, 6), True),
    ],
)
def test_the_subscriptions_pdn_type_is_kept(pdn_type: PdnType | None, versions: tuple[int, ...], single: bool) -> None:
    """TS 29.272 §7.3.62."""
    changes = {} if pdn_type is None else {"apn_configuration": profile(pdn_type)}
    session = authenticated(new(), **changes)
    command = one(ask(session, attribute(1), attribute(8)), AllocateAddress)
    assert command == AllocateAddress(apn="internet", versions=versions, single=single)


@pytest.mark.parametrize(
    ("pdn_type", "versions", "address", "notify"),
    [
        (PdnType.IPv4, (4, 6), INNER_4, PrivateNotify.PDN_TYPE_IPV4_ONLY_ALLOWED),
        (PdnType.IPv6, (4, 6), INNER_6, PrivateNotify.PDN_TYPE_IPV6_ONLY_ALLOWED),
        (PdnType.IPv4v6, (4,), INNER_4, PrivateNotify.PDN_TYPE_IPV4_ONLY_ALLOWED),
        (PdnType.IPv4v6, (6,), INNER_6, PrivateNotify.PDN_TYPE_IPV6_ONLY_ALLOWED),
        (PdnType.IPv4v6, (4, 6), INNER_4, None),  # no prefix was free
        (PdnType.IPv4_OR_IPv6, (4, 6), INNER_4, None),  # either would do
    ],
)
def test_one_family_for_a_dual_stack_ue(
    pdn_type: PdnType, versions: tuple[int, ...], address: Address, notify: int | None
) -> None:
    """TS 24.302 §8.1.2.3: PDN_TYPE_IPv4_ONLY_ALLOWED or IPv6; RFC 7296 §3.15.4: what can be had is given."""
    session = asked(attribute(1), attribute(8), pdn_type=pdn_type)
    reply = granted(session, address, network=GrantedNetwork(versions=versions))
    assert [int(each.type) for each in reply.notifies] == ([] if notify is None else [notify])
    assert len(reply.remote_selectors) == 1


@pytest.mark.parametrize(
    ("kind", "pdn_type", "versions"), [(8, PdnType.IPv4v6, (4,)), (8, PdnType.IPv4, (4, 6)), (1, PdnType.IPv6, (4, 6))]
)
def test_a_family_that_cannot_be_had_is_refused(kind: int, pdn_type: PdnType, versions: tuple[int, ...]) -> None:
    """RFC 7296 §3.15.4: INTERNAL_ADDRESS_FAILURE "only if no addresses can be assigned"."""
    session = asked(attribute(kind), pdn_type=pdn_type)
    refusal = answer(session.address_allocated((), GrantedNetwork(versions=versions)))
    assert isinstance(refusal, Refusal)
    assert refusal.notify.type == NotifyType.INTERNAL_ADDRESS_FAILURE
    wanted, allowed = ("IPv4", "IPv6") if kind == 1 else ("IPv6", "IPv4")
    assert refusal.text == f"the UE asks for {wanted} and may have {allowed} in APN internet"


def test_a_ue_that_wants_one_family_is_told_nothing_of_the_other() -> None:
    session = asked(attribute(1), pdn_type=PdnType.IPv4)
    assert granted(session, INNER_4, network=GrantedNetwork(versions=(4,))).notifies == ()


@pytest.mark.parametrize("wanted", [(), (attribute(3),), (attribute(20), attribute(7))])
def test_a_ue_that_asks_for_no_address_is_told_to(wanted: tuple[ConfigurationAttribute, ...]) -> None:
    """RFC 7296 §2.19: <-- SK {N(FAILED_CP_REQUIRED)}"""
    assert refused(ask(authenticated(new()), *wanted)) == NotifyType.FAILED_CP_REQUIRED


# --- handover -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "addresses"),
    [
        ((attribute(1, INNER_4.packed),), (INNER_4,)),
        ((attribute(1), attribute(8, PREFIXED_6)), (INNER_6,)),
        ((attribute(8, INNER_6.packed),), (INNER_6,)),  # without its prefix length
        ((attribute(1, INNER_4.packed), attribute(8, PREFIXED_6)), (INNER_4, INNER_6)),
        ((attribute(1, bytes(4)), attribute(8, bytes(16) + b"\x40")), ()),  # the unspecified address asks for any
        ((attribute(1, b"\x0a"), attribute(8, b"\x40")), ()),  # no address at all
    ],
)
def test_the_address_a_ue_had_is_asked_of_the_pool(
    wanted: tuple[ConfigurationAttribute, ...], addresses: tuple[Address, ...]
) -> None:
    """TS 24.302 §7.2.2.1: a UE that comes by handover puts its address into CFG_REQUEST."""
    command = one(ask(authenticated(new()), *wanted), AllocateAddress)
    assert isinstance(command, AllocateAddress)
    assert command.wanted == addresses


def test_static_addresses_of_both_families() -> None:
    """Served-Party-IP-Address (TS 32.299), once for each family."""
    session = authenticated(new(), apn_configuration=profile(PdnType.IPv4v6, INNER_4, INNER_6))
    command = one(ask(session, attribute(1), attribute(8)), AllocateAddress)
    assert isinstance(command, AllocateAddress)
    assert command.static == (INNER_4, INNER_6)


# --- later --------------------------------------------------------------------------------------------


def test_the_end_gives_every_address_back_once() -> None:
    session = attached(attribute(1), attribute(8))
    released = [c.address for c in session.handle(Closed(why="over"), 9.0) if isinstance(c, ReleaseAddress)]
    assert released == [INNER_4, INNER_6]
    assert not [c for c in session.handle(Closed(why="again"), 9.0) if isinstance(c, ReleaseAddress)]


def test_a_ue_that_asks_again_gets_what_it_has() -> None:
    """INFORMATIONAL {CP(CFG_REQUEST)} --> <-- {CP(CFG_REPLY)}: RFC 7296 §3.15."""
    session = attached(attribute(1), attribute(8))
    question = ConfigurationReceived(type=ConfigType.CFG_REQUEST, attributes=(attribute(8), attribute(21)))
    assert session.handle(question, 2.0) == [
        AnswerIke(
            answer=ConfigurationAnswer(
                attributes=(attribute(1, INNER_4.packed), attribute(8, PREFIXED_6), attribute(21, P_CSCF_6.packed))
            )
        )
    ]


def test_a_ue_sets_nothing_here() -> None:
    """RFC 7296 §3.15.1: what is not accepted is not in CFG_ACK."""
    session = attached(attribute(1), attribute(8))
    question = ConfigurationReceived(type=ConfigType.CFG_SET, attributes=(attribute(3, DNS_4.packed),))
    assert session.handle(question, 2.0) == [AnswerIke(answer=ConfigurationAnswer())]


def test_other_p_cscfs_go_in_the_attributes_that_the_ue_knows() -> None:
    """TS 23.380 §5.6.5: INFORMATIONAL {CP(CFG_REQUEST(P_CSCF..))} <--"""
    session = attached(attribute(1), attribute(8), attribute(20), attribute(16386))
    others = (IPv4Address("10.45.0.10"), IPv6Address("2001:db8:45::10"))
    (command,) = session.restore_p_cscf(others)
    assert command == SendConfiguration(
        type=ConfigType.CFG_REQUEST, attributes=(attribute(20, others[0].packed), attribute(16386, others[1].packed))
    )
    assert isinstance(command, SendConfiguration)
    outcome = ConfigurationExchanged(type=command.type, attributes=command.attributes, answer=(attribute(20),))
    tell = one(session.handle(outcome, 3.0), Tell)
    assert isinstance(tell, Tell)
    assert (tell.name, tell.data["p_cscf"], tell.data["confirmed"]) == (
        "p-cscf-restored",
        "10.45.0.10, 2001:db8:45::10",
        True,
    )


def test_no_p_cscf_for_a_ue_that_knows_none_or_is_gone() -> None:
    assert attached(attribute(1)).restore_p_cscf((P_CSCF_4,)) == []
    session = attached(attribute(1), attribute(20))
    session.handle(Closed(why="over"), 9.0)
    assert session.restore_p_cscf((P_CSCF_4,)) == []


# --- pools --------------------------------------------------------------------------------------------


def test_ipv6_pool_gives_a_prefix_to_each() -> None:
    """TS 23.402 §4.7.3: a /64 for every UE; the gateway's own is nobody's."""
    pool = AddressPool(IPv6Network("2001:db8:45::/62"))
    assert [str(each) for each in pool.gateways] == ["2001:db8:45::1"]
    assert [str(pool.allocate()) for _ in range(4)] == [
        "2001:db8:45:1::1",
        "2001:db8:45:2::1",
        "2001:db8:45:3::1",
        "None",
    ]
    assert pool.in_use == 3
    pool.release(IPv6Address("2001:db8:45:2::abcd"))  # any address of the prefix stands for it
    assert str(pool.allocate()) == "2001:db8:45:2::1"


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ("2001:db8:45:3::77", "2001:db8:45:3::77"),  # free
        ("2001:db8:45:1::77", "2001:db8:45:2::77"),  # taken: its interface identifier with another prefix
        ("2001:db8:45::77", "2001:db8:45:2::77"),  # the gateway's
        ("2001:db8:99::77", "2001:db8:45:2::77"),  # elsewhere
        ("2001:db8:45:3::", "2001:db8:45:3::1"),  # a prefix without an interface identifier
    ],
)
def test_ipv6_address_that_a_ue_wants(wanted: str, given: str) -> None:
    """RFC 7296 §3.15.3: the address if acceptable, else its interface identifier with another prefix."""
    pool = AddressPool(IPv6Network("2001:db8:45::/62"))
    pool.allocate()
    assert str(pool.allocate(IPv6Address(wanted))) == given


POOLS = (IPv4Network("10.45.0.0/29"), IPv6Network("2001:db8:45::/62"))


@pytest.mark.parametrize(
    ("versions", "options", "given"),
    [
        ((4, 6), {}, ["10.45.0.2", "2001:db8:45:1::1"]),
        ((6,), {}, ["2001:db8:45:1::1"]),
        ((4, 6), {"single": True}, ["10.45.0.2"]),
        ((4, 6), {"wanted": ["10.45.0.5", "2001:db8:45:3::9"]}, ["10.45.0.5", "2001:db8:45:3::9"]),
        ((4,), {"wanted": ["10.45.0.1"]}, ["10.45.0.2"]),
        ((4, 6), {"wanted": ["10.45.0.1"], "other": False}, ["2001:db8:45:1::1"]),
        ((4, 6), {"static": ["192.0.2.9", "2001:db8:9::9"]}, ["192.0.2.9", "2001:db8:9::9"]),
        ((4,), {"static": ["192.0.2.9"], "wanted": ["10.45.0.5"]}, ["192.0.2.9"]),
    ],
)
def test_addresses_of_an_apn(versions: tuple[int, ...], options: dict[str, object], given: list[str]) -> None:
    pools = AddressPools(POOLS)
    for name in ("wanted", "static"):
        texts = options.get(name, [])
        assert isinstance(texts, list)
        options = {**options, name: [ip_address(text) for text in texts]}
    assert [str(each) for each in pools.allocate(versions, **options)] == given  # type: ignore[arg-type]


def test_an_apn_with_one_family_has_nothing_of_the_other() -> None:
    pools = AddressPools(POOLS[:1])
    assert pools.versions == (4,)
    assert pools.allocate((6,)) == ()
    assert [str(each) for each in pools.allocate((4, 6), single=True)] == ["10.45.0.2"]
    assert AddressPools(POOLS[1:]).allocate((4, 6), single=True) == (IPv6Address("2001:db8:45:1::1"),)


def test_a_static_address_is_one_sessions_at_a_time() -> None:
    pools = AddressPools(POOLS)
    assert pools.allocate((4,), static=(IPv4Address("10.45.0.4"),)) == (IPv4Address("10.45.0.4"),)
    assert pools.allocate((4, 6), static=(IPv4Address("10.45.0.4"),)) == (IPv6Address("2001:db8:45:1::1"),)
    pools.release(IPv4Address("10.45.0.4"))
    pools.release(IPv6Address("2001:db8:45:1::1"))
    assert pools.in_use == 0


# --- several networks, exclusions, static addresses, returning subscribers ----------------------------


def addresses(*texts: str) -> list[Address]:
    return [ip_address(text) for text in texts]


def test_a_pool_of_several_networks_with_exclusions_until_nothing_is_left() -> None:
    networks = (IPv4Network("10.45.0.0/30"), IPv4Network("10.46.0.0/29"))
    pool = AddressPool(*networks, excluded=[(IPv4Address("10.46.0.3"), IPv4Address("10.46.0.4"))])
    given = [pool.allocate() for _ in range(5)]
    assert given == [*addresses("10.45.0.2", "10.46.0.2", "10.46.0.5", "10.46.0.6"), None]
    assert pool.allocate(IPv4Address("10.46.0.3")) is None
    assert [str(each) for each in pool.gateways] == ["10.45.0.1", "10.46.0.1"]


def test_a_hole_larger_than_a_network_and_holes_that_overlap() -> None:
    holes = [tuple(addresses(*pair)) for pair in (("10.0.0.0", "10.45.0.2"), ("10.45.0.2", "10.45.0.3"))]
    pool = AddressPool(IPv4Network("10.44.0.0/29"), IPv4Network("10.45.0.0/29"), excluded=holes)  # type: ignore[arg-type]
    assert [str(pool.allocate()) for _ in range(3)] == ["10.45.0.4", "10.45.0.5", "10.45.0.6"]
    assert pool.allocate() is None


def test_a_large_pool_is_not_written_out() -> None:
    pool = AddressPool(IPv6Network("2001:db8::/32"), excluded=[tuple(addresses("2001:db8::", "2001:db8:7fff::ffff"))])  # type: ignore[list-item]
    assert str(pool.allocate()) == "2001:db8:7fff:1::1"


@pytest.mark.parametrize("static", ["10.45.0.4", "10.45.0.5", "192.0.2.9"])
def test_a_static_address_is_never_given_twice(static: str) -> None:
    """In the turn, excluded from it, and outside: as static and as dynamic address, whoever comes first."""
    excluded = [tuple(addresses("10.45.0.5", "10.45.0.5"))]
    pools = AddressPools([IPv4Network("10.45.0.0/29")], excluded=excluded)  # type: ignore[arg-type]
    (held,) = pools.allocate((4,), static=addresses(static))
    assert str(held) == static
    assert pools.in_use == 1
    others = [pools.allocate((4,)) for _ in range(6)]
    assert held not in [address for each in others for address in each]
    assert pools.allocate((4,), static=addresses(static)) == ()
    pools.release(held)
    assert pools.allocate((4,), static=addresses(static)) == (held,)
    taken = next(address for each in others for address in each)
    assert pools.allocate((4,), static=[taken]) == ()


@pytest.mark.parametrize(
    "static", ["10.45.0.0", "10.45.0.1", "10.45.0.7", "10.46.0.9", "127.0.1.1", "2001:db8:45::9", "2001:db8:46:7::9"]
)
def test_a_static_address_is_not_the_gateways_nor_another_apns(static: str) -> None:
    others = [ip_network(text) for text in ("10.46.0.0/16", "127.0.1.1/32", "2001:db8:46::/48")]
    own = [IPv4Network("10.45.0.0/29"), IPv6Network("2001:db8:45::/62")]
    pools = AddressPools(own, foreign=ForeignAddresses([*own, *others]))
    assert pools.allocate((ip_address(static).version,), static=addresses(static)) == ()
    assert pools.in_use == 0


def test_two_apns_do_not_share_a_static_address_outside_both() -> None:
    """Of IPv6 no /64 either."""
    foreign = ForeignAddresses()
    pools = [AddressPools([ip_network(text)], foreign=foreign) for text in ("2001:db8:45::/48", "2001:db8:46::/48")]
    assert pools[0].allocate((6,), static=addresses("2001:db8:9::1")) == (ip_address("2001:db8:9::1"),)
    assert pools[1].allocate((6,), static=addresses("2001:db8:9::2")) == ()
    assert pools[0].is_outside(ip_address("2001:db8:9::1"))
    pools[0].release(ip_address("2001:db8:9::1"))
    assert pools[1].allocate((6,), static=addresses("2001:db8:9::2")) == (ip_address("2001:db8:9::2"),)


def test_who_comes_back_gets_the_address_it_had_unless_it_was_given_away() -> None:
    pools = AddressPools([IPv4Network("10.45.0.0/29")], stable=True)
    first, second = (pools.allocate((4,), who=who) for who in ("one", "two"))
    for given in (first, second):
        pools.release(given[0])
    assert pools.allocate((4,), who="three") == tuple(addresses("10.45.0.4"))
    assert pools.allocate((4,), who="two") == second
    assert pools.allocate((4,), who="one") == first
    pools.release(first[0])
    for who in ("four", "five", "six"):  # two that were never given, then the one that rests
        last = pools.allocate((4,), who=who)
    assert last == first
    assert pools.allocate((4,), who="one") == ()
    pools.release(last[0])
    assert pools.allocate((4,), who="seven") == first


def test_without_memory_a_released_address_rests_longest() -> None:
    pools = AddressPools([IPv4Network("10.45.0.0/29")])
    (first,) = pools.allocate((4,), who="one")
    pools.release(first)
    assert [str(pools.allocate((4,), who="one")[0]) for _ in range(5)] == [
        *(f"10.45.0.{number}" for number in (3, 4, 5, 6)),
        str(first),
    ]
