"""The laboratory's networks: impairments, NATs by kind (RFC 3489 §5, RFC 4787), accesses with both."""

from __future__ import annotations

from ipaddress import ip_address
from random import Random

import pytest

from lab.network.access import AccessNetwork
from lab.network.impairments import Impairments
from lab.network.nat import Nat, NatKind
from protocols.path import Endpoint

OUTSIDE = ip_address("198.51.100.1")
UE = Endpoint.of("10.0.0.2", 4500)
GATEWAY = Endpoint.of("203.0.113.1", 4500)
SAME_HOST = Endpoint.of("203.0.113.1", 500)
STRANGER = Endpoint.of("203.0.113.99", 4500)
DATAGRAMS = 10_000


def shares(impairments: Impairments) -> list[list[float]]:
    """When the copies of many datagrams arrive, one after the other, each sent 1 s later."""
    random = Random(1)
    return [impairments.plan(100, random, float(number)) for number in range(DATAGRAMS)]


def test_nothing_happens_on_a_perfect_path() -> None:
    assert shares(Impairments()) == [[float(number)] for number in range(DATAGRAMS)]


def test_loss_is_the_share_it_says() -> None:
    lost = sum(not arrivals for arrivals in shares(Impairments(loss=0.3)))
    assert lost == pytest.approx(0.3 * DATAGRAMS, rel=0.05)
    assert not any(shares(Impairments(loss=1.0)))


def test_duplicates_are_the_share_they_say() -> None:
    doubled = sum(len(arrivals) == 2 for arrivals in shares(Impairments(duplication=0.1)))
    assert doubled == pytest.approx(0.1 * DATAGRAMS, rel=0.1)


def test_delay_and_jitter_are_added() -> None:
    delays = [arrivals[0] - number for number, arrivals in enumerate(shares(Impairments(delay=0.05, jitter=0.02)))]
    assert min(delays) >= 0.05 - 1e-9
    assert max(delays) <= 0.07 + 1e-9
    assert max(delays) - min(delays) > 0.015


def test_what_is_reordered_is_overtaken() -> None:
    random = Random(2)
    impairments = Impairments(delay=0.005, reordering=0.2)
    sent = [(impairments.plan(100, random, number * 0.01)[0], number) for number in range(1000)]
    order = [number for _, number in sorted(sent)]
    overtaken = sum(later < earlier for earlier, later in zip(order, order[1:], strict=False))
    assert 100 < overtaken < 300


def test_what_is_longer_than_the_mtu_vanishes() -> None:
    impairments = Impairments(mtu=1280)
    assert impairments.plan(1280, Random(1), 0.0) == [0.0]
    assert impairments.plan(1281, Random(1), 0.0) == []


def test_the_same_seed_does_the_same() -> None:
    impairments = Impairments(loss=0.2, delay=0.01, jitter=0.01, duplication=0.1, reordering=0.1)
    assert shares(impairments) == shares(impairments)


@pytest.mark.parametrize("values", [{"loss": 1.1}, {"duplication": -0.1}, {"delay": -1.0}, {"mtu": 0}])
def test_impossible_impairments_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(values))} "):
        Impairments(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "same_host", "stranger"),
    [
        (NatKind.FULL_CONE, True, True),
        (NatKind.RESTRICTED, True, False),
        (NatKind.PORT_RESTRICTED, False, False),
        (NatKind.SYMMETRIC, False, False),
    ],
)
def test_filtering_is_by_kind(kind: NatKind, same_host: bool, stranger: bool) -> None:
    nat = Nat(kind, OUTSIDE)
    outside = nat.outbound(UE, GATEWAY, 0.0)
    assert outside is not None
    assert outside.address == OUTSIDE
    assert nat.inbound(outside, GATEWAY, 1.0) == UE
    assert (nat.inbound(outside, SAME_HOST, 1.0) == UE) is same_host
    assert (nat.inbound(outside, STRANGER, 1.0) == UE) is stranger


@pytest.mark.parametrize("kind", [NatKind.FULL_CONE, NatKind.RESTRICTED, NatKind.PORT_RESTRICTED])
def test_cones_map_independently_of_the_remote_end_point(kind: NatKind) -> None:
    nat = Nat(kind, OUTSIDE)
    assert nat.outbound(UE, GATEWAY, 0.0) == nat.outbound(UE, STRANGER, 0.0)


def test_a_symmetric_nat_maps_for_each_remote_end_point() -> None:
    nat = Nat(NatKind.SYMMETRIC, OUTSIDE)
    to_gateway, to_stranger = nat.outbound(UE, GATEWAY, 0.0), nat.outbound(UE, STRANGER, 0.0)
    assert to_gateway != to_stranger
    assert to_stranger is not None
    assert nat.inbound(to_stranger, GATEWAY, 0.0) is None


def test_no_nat_changes_and_filters_nothing() -> None:
    nat = Nat(NatKind.NONE, OUTSIDE)
    assert nat.outbound(UE, GATEWAY, 0.0) == UE
    assert nat.inbound(UE, STRANGER, 0.0) == UE


def test_outbound_alone_keeps_a_mapping_alive() -> None:
    nat = Nat(NatKind.FULL_CONE, OUTSIDE, lifetime=30.0)
    outside = nat.outbound(UE, GATEWAY, 0.0)
    assert outside is not None
    assert nat.outbound(UE, GATEWAY, 20.0) == outside
    assert nat.inbound(outside, GATEWAY, 49.9) == UE
    assert nat.inbound(outside, GATEWAY, 50.0) is None
    assert nat.outbound(UE, GATEWAY, 50.0) not in (None, outside)
    assert nat.mappings_expired == 1


def test_permissions_expire_by_themselves() -> None:
    nat = Nat(NatKind.PORT_RESTRICTED, OUTSIDE, lifetime=30.0)
    outside = nat.outbound(UE, STRANGER, 0.0)
    assert outside is not None
    assert nat.outbound(UE, GATEWAY, 20.0) == outside
    assert nat.inbound(outside, STRANGER, 31.0) is None
    assert nat.inbound(outside, GATEWAY, 31.0) == UE


def test_a_rebinding_takes_new_ports_and_forgets_the_old() -> None:
    nat = Nat(NatKind.FULL_CONE, OUTSIDE)
    before = nat.outbound(UE, GATEWAY, 0.0)
    assert before is not None
    nat.rebind()
    assert nat.inbound(before, GATEWAY, 1.0) is None
    after = nat.outbound(UE, GATEWAY, 1.0)
    assert after is not None
    assert after.port != before.port
    nat.rebind(ip_address("198.51.100.7"))
    moved = nat.outbound(UE, GATEWAY, 2.0)
    assert moved is not None
    assert str(moved.address) == "198.51.100.7"


def test_mappings_are_bounded_and_expired_ones_make_room() -> None:
    nat = Nat(NatKind.FULL_CONE, OUTSIDE, lifetime=30.0, first_port=1000, last_port=1003, mappings_maximum=3)
    for port in range(3):
        assert nat.outbound(Endpoint(UE.address, port), GATEWAY, 0.0) is not None
    assert nat.outbound(Endpoint(UE.address, 9), GATEWAY, 1.0) is None
    assert nat.dropped["no-room"] == 1
    assert nat.outbound(Endpoint(UE.address, 9), GATEWAY, 31.0) is not None
    assert len(nat.mappings(31.0)) == 1


def test_an_access_carries_both_ways_through_its_nat() -> None:
    up, down = Impairments(delay=0.03), Impairments(delay=0.01)
    access = AccessNetwork(
        "wifi", UE.address, uplink=up, downlink=down, nat=Nat(NatKind.PORT_RESTRICTED, OUTSIDE, lifetime=30.0)
    )
    random = Random(1)
    out = access.outbound(100, UE, GATEWAY, random, 1.0)
    assert out is not None
    assert (out.source.address, out.destination, out.arrivals) == (OUTSIDE, GATEWAY, (1.03,))
    back = access.inbound(100, GATEWAY, out.source, random, 2.0)
    assert back is not None
    assert (back.source, back.destination, back.arrivals) == (GATEWAY, UE, (2.01,))
    assert access.inbound(100, STRANGER, out.source, random, 2.0) is None
    assert access.dropped["inbound-nat"] == 1


@pytest.mark.parametrize(("attribute", "value"), [("captive", True), ("up", False)])
def test_nothing_crosses_a_captive_or_absent_access(attribute: str, value: bool) -> None:
    access = AccessNetwork("wifi", UE.address)
    setattr(access, attribute, value)
    assert access.outbound(100, UE, GATEWAY, Random(1), 0.0) is None
    assert access.inbound(100, GATEWAY, UE, Random(1), 0.0) is None
    why = "captive" if attribute == "captive" else "down"
    assert access.dropped == {f"outbound-{why}": 1, f"inbound-{why}": 1}


def test_what_the_radio_loses_keeps_no_mapping() -> None:
    access = AccessNetwork("wifi", UE.address, nat=Nat(NatKind.FULL_CONE, OUTSIDE, lifetime=30.0))
    first = access.outbound(100, UE, GATEWAY, Random(1), 0.0)
    assert first is not None
    access.uplink = Impairments(loss=1.0)
    assert access.outbound(1, UE, GATEWAY, Random(1), 20.0) is None
    assert access.inbound(100, GATEWAY, first.source, Random(1), 31.0) is None


def test_the_mtu_counts_the_headers_of_ip_and_udp() -> None:
    access = AccessNetwork("wifi", UE.address, uplink=Impairments(mtu=1280))
    assert access.outbound(1252, UE, GATEWAY, Random(1), 0.0) is not None
    assert access.outbound(1253, UE, GATEWAY, Random(1), 0.0) is None
    v6, gateway = Endpoint.of("2001:db8::2", 4500), Endpoint.of("2001:db8::1", 4500)
    assert access.outbound(1233, v6, gateway, Random(1), 0.0) is None
    assert access.dropped == {"outbound-too-long": 2}
