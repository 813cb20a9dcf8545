"""Lifetimes on virtual time (RFC 7296 §2.8): soft and hard, in seconds, octets and packets; a day of both rekeys."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from protocols.dataplane.port import LifetimeReached
from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.entropy import SeededEntropy
from protocols.esp.sa import DropReason, UsageLimits
from protocols.ikev2.config import Lifetime, RetransmissionPolicy
from protocols.ikev2.events import ChildSaInstalled, ChildSaRemoved, Closed, IkeSaRekeyed, SaState
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.registry import NotifyType
from protocols.ikev2.sa import IkeSa
from protocols.path import Datagram
from tests.dataplane.pairs import UE_PATH, mirrored, ue_spec
from tests.harness.pair import Pair, initiator_config, responder_config
from tests.machines.test_create_child import _answer_with
from tests.machines.test_rekey_child import SERVER, _packet

INSIDE = "10.45.0.2"


def test_lifetime_limits_that_follow_from_the_soft_ones() -> None:
    assert Lifetime(soft=3600.0).hard_seconds == 4500.0
    assert Lifetime(soft=1.0).hard_seconds == 61.0
    assert Lifetime(soft=10.0, hard=12.0).hard_seconds == 12.0
    assert Lifetime().hard_seconds is None
    assert Lifetime(soft_packets=100).usage == UsageLimits(soft_packets=100, hard_packets=126)


@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_ends_with_the_same_lifetimes_do_not_collide(jitter: float) -> None:
    """§2.8.1: jitter, and the end that waited for the first SA comes later whoever has rekeyed since."""
    lifetimes = {
        "child_lifetime": Lifetime(soft=600.0, jitter=jitter),
        "ike_lifetime": Lifetime(soft=2000.0, jitter=jitter),
    }
    pair = Pair(initiator_config(**lifetimes), responder_config(**lifetimes)).attach()
    pair.run(20_000.0)
    assert not any("<-- CREATE_CHILD_SA request" in line for line in pair.wire)
    children = sum("REKEY_SA" in line for line in pair.wire)
    ikes = sum("CREATE_CHILD_SA request" in line and "KEi" in line for line in pair.wire)
    assert 32 <= children <= 38
    assert 9 <= ikes <= 11
    times = {child.rekey_at for child in pair.ue.live.children.values()}
    assert times


def test_jitter_is_drawn_from_the_entropy() -> None:
    """Replays, and differs between seeds."""
    lifetimes = {"child_lifetime": Lifetime(soft=1000.0, jitter=0.5)}
    due = []
    for seed in (1, 1, 2):
        pair = Pair(initiator_config(**lifetimes), seed=seed).attach()
        (child,) = pair.ue.live.children.values()
        assert child.rekey_at is not None
        due.append(child.rekey_at)
    assert due[0] == due[1] != due[2]
    assert all(500.0 <= at <= 1001.0 for at in due)


@pytest.mark.parametrize("lifetime", ["child_lifetime", "ike_lifetime"])
def test_rekey_that_is_always_refused_ends_by_the_hard_lifetime(lifetime: str) -> None:
    """§2.8: "an implementation MUST close the IKE SA and any associated Child SAs"."""
    pair = Pair(initiator_config(**{lifetime: Lifetime(soft=100.0, hard=150.0, jitter=0.0)})).attach()
    _answer_with(pair.epdg, NotifyPayload(type=NotifyType.NO_ADDITIONAL_SAS))
    pair.run(140.0)
    assert pair.ue.live.state is SaState.ESTABLISHED
    pair.run(15.0)
    assert "hard lifetime" in pair.ue.take(Closed).why
    assert pair.ue.has(ChildSaRemoved)
    assert pair.epdg.take(Closed).by_peer


def test_hard_lifetime_stops_the_traffic_even_when_nothing_can_be_sent() -> None:
    """§2.8: the expired SA MUST NOT be used; a DELETE that cannot leave does not keep it."""
    patient = RetransmissionPolicy(limit=1000, cap=5.0)
    config = {"child_lifetime": Lifetime(soft=100.0, hard=150.0, jitter=0.0), "retransmission": patient}
    pair = Pair(initiator_config(**config)).attach()
    pair.lose = lambda sender, datagram: True
    pair.run(144.0)
    assert not pair.ue.has(ChildSaRemoved)
    pair.run(2.0)
    assert pair.ue.take(ChildSaRemoved)
    assert not pair.ue.has(Closed)
    pair.run(30.0)
    assert pair.ue.take(Closed)
    assert pair.ue.endpoint.sas == {}


@pytest.mark.parametrize("hard", [False, True])
def test_limits_of_the_data_plane(*, hard: bool) -> None:
    """Octets, packets and sequence numbers: a soft limit rekeys, a hard one ends."""
    pair = Pair().attach()
    (old,) = pair.ue.live.children
    pair.ue.endpoint.limit_reached(pair.ue.live, old, pair.now, hard=hard)
    pair.ue.endpoint.limit_reached(pair.ue.live, old, pair.now, hard=hard)  # said twice, done once
    pair.ue.endpoint.limit_reached(pair.ue.live, b"none", pair.now, hard=True)
    pair.run(1.0)
    if hard:
        assert "carried" in pair.ue.take(Closed).why
        return
    (new,) = pair.ue.live.children
    assert new != old
    assert sum("CREATE_CHILD_SA request" in line for line in pair.wire) == 1


def test_limits_go_with_the_child_sa() -> None:
    """What is configured is in the specification that the data plane gets."""
    pair = Pair(initiator_config(child_lifetime=Lifetime(soft_octets=1000, hard_packets=7))).attach()
    limits = pair.ue.take(ChildSaInstalled).spec.limits
    assert limits == UsageLimits(soft_octets=1000, hard_octets=1251, hard_packets=7)
    assert pair.epdg.take(ChildSaInstalled).spec.limits == UsageLimits()


@pytest.mark.parametrize(
    "limits",
    [UsageLimits(soft_packets=3, hard_packets=5), UsageLimits(soft_octets=100, hard_octets=180)],
)
@pytest.mark.parametrize("direction", ["out", "in"])
def test_engine_reports_limits_and_stops_at_the_hard_one(limits: UsageLimits, direction: str) -> None:
    """36 octets a packet: soft at the third, hard at the fifth, nothing after that in either direction."""
    delivered: list[bytes] = []
    sent: list[bytes] = []
    limited = replace(ue_spec(), limits=limits)
    plane = UserspaceDataPlane(
        entropy=SeededEntropy(1),
        deliver=lambda packet, spi: delivered.append(packet),
        transmit=lambda octets, path, encapsulation, traffic_class: sent.append(octets),
    )
    peer = UserspaceDataPlane(
        entropy=SeededEntropy(2),
        deliver=lambda packet, spi: None,
        transmit=lambda octets, path, encapsulation, traffic_class: plane.receive_esp(octets, UE_PATH),
    )
    plane.install(limited)
    peer.install(mirrored(ue_spec()))
    seen = []
    for _ in range(7):
        if direction == "out":
            plane.send_inner(_packet(INSIDE, SERVER))
        else:
            peer.send_inner(_packet(SERVER, INSIDE))
        seen.append(plane.poll_event())
        assert plane.poll_event() is None
    spi = limited.inbound_spi
    assert seen == [
        None,
        None,
        LifetimeReached(inbound_spi=spi, hard=False),
        None,
        LifetimeReached(inbound_spi=spi, hard=True),
        None,
        None,
    ]
    assert len(sent if direction == "out" else delivered) == 5
    assert plane.drops == {DropReason.LIFETIME_EXPIRED: 2}


class Watch:
    """At every moment a child SA carries the traffic at both ends, and nothing grows."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.most_sas = 0
        self.most_children = 0

    def look(self) -> None:
        """One look."""
        for node in (self.pair.ue, self.pair.epdg):
            sas = list(node.endpoint.sas.values())
            children = [child for sa in sas for child in sa.children.values()]
            assert children, f"{node.name} has no child SA at {self.pair.now}"
            self.most_sas = max(self.most_sas, len(sas))
            self.most_children = max(self.most_children, len(children))
            assert node.endpoint._child_spis >= {child.spec.inbound_spi for child in children}
            node.events.clear()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lag", [True, False])
def test_a_day_of_rekeying_by_both_ends_with_losses(seed: int, *, lag: bool) -> None:
    """Both rekey both, one datagram in twelve is lost; traffic is always carried and nothing is left over.

    Without the lag both ends are due within the same second, again and again.
    """
    drops = random.Random(seed)
    config = {
        "child_lifetime": Lifetime(soft=300.0, hard=600.0, jitter=0.1 if lag else 0.002),
        "ike_lifetime": Lifetime(soft=1100.0, hard=1900.0, jitter=0.1 if lag else 0.002),
        "retransmission": RetransmissionPolicy(limit=9, cap=8.0),
        "liveness_interval": 120.0,
    }
    pair = Pair(initiator_config(**config), responder_config(**config), seed=seed).attach()
    if not lag:
        _stop_lagging(pair)

    def lose(sender: str, datagram: Datagram) -> bool:
        return drops.random() < 1 / 12

    pair.lose = lose
    watch = Watch(pair)
    while pair.now < 86400.0:
        pair.run(20.0)
        watch.look()
        pair.wire.clear()
        pair.seen.clear()
    pair.lose = lambda sender, datagram: False
    pair.run(100.0)
    ue, epdg = pair.ue.live, pair.epdg.live
    assert (ue.spi_i, ue.spi_r) == (epdg.spi_i, epdg.spi_r)
    for node in (pair.ue, pair.epdg):
        assert 1 <= len(node.live.children) <= 2
        assert len(node.endpoint.sas) <= 2
        assert len(node.endpoint._departed) <= 256
        assert len(node.endpoint._deadlines) < 50
        assert len(_reachable(node.live)) <= 3
        assert not node.live._delayed
    assert watch.most_sas <= 4
    assert watch.most_children <= 4


def _stop_lagging(pair: Pair) -> None:
    """The ends are due at the same time from here on, which is what lag and jitter are there to avoid."""
    soft, hard = 300.0, 600.0
    late = min(soft * 0.1, (hard - soft) * 0.4)
    config = pair.epdg.live.config
    child, ike = config.child_lifetime, config.ike_lifetime
    assert child is not None
    assert ike is not None
    assert ike.soft is not None
    pair.epdg.live.config = replace(
        config,
        child_lifetime=replace(child, soft=(soft - late + 3.0)),
        ike_lifetime=replace(ike, soft=ike.soft / 1.1),
    )


def _reachable(sa: IkeSa) -> set[int]:
    """The IKE SAs that one keeps alive."""
    found: set[int] = set()
    waiting: list[IkeSa | None] = [sa]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in found:
            found.add(id(one))
            waiting += [one.predecessor, one.heir, *one.successors]
    return found


def test_a_seed_replays_a_day() -> None:
    """Jitter and back-off come from the entropy source: the same datagrams again."""
    config = {"child_lifetime": Lifetime(soft=300.0), "ike_lifetime": Lifetime(soft=1000.0)}
    days = []
    for _ in range(2):
        pair = Pair(initiator_config(**config), responder_config(**config), seed=7).attach()
        pair.run(20_000.0)
        days.append([datagram.payload for _, datagram in pair.seen])
        assert pair.ue.has(IkeSaRekeyed)
    assert days[0] == days[1]
