"""Invariant: whatever both ends ask for, and whatever the network does, they agree once it is quiet.

Each seed is a run of its own on virtual time: datagrams are lost, doubled, delayed and overtake one another
while both ends rekey, make and delete child SAs, and the UE moves, suspends and changes its addresses.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random

import pytest

from protocols.ikev2.config import RetransmissionPolicy
from protocols.ikev2.events import (
    ChildSaInstalled,
    ChildSaPathChanged,
    ChildSaRemoved,
    Closed,
    IkeSaRekeyed,
    NatStatus,
    SaState,
    SuccessorCreated,
)
from protocols.ikev2.payloads import ConfigurationAttribute
from protocols.ikev2.registry import ConfigAttributeType, ConfigType
from protocols.ikev2.sa import KEEPALIVE, IkeSa
from protocols.ikev2.tasks.config import ExchangeConfiguration
from protocols.ikev2.tasks.create_child import CreateChild
from protocols.ikev2.tasks.informational import DeleteChildSa, Liveness
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.path import Datagram, Endpoint, Path
from protocols.selectors import TrafficSelector
from tests.harness.pair import ACCESS_A, GATEWAY, INNER, LATENCY, Node, Pair, initiator_config, responder_config

ACCESSES = tuple(Endpoint.of(f"198.51.100.{last}", 4500) for last in (1, 2, 3))
OTHER_GATEWAY = Endpoint.of("203.0.113.2", 4500)
WINDOW = 4
PATIENT = RetransmissionPolicy(limit=14, cap=2.0)
QUIET = 600.0  # longer than any lifetime, pause and retransmission
# what the network makes of honest datagrams; nothing else may be dropped
DROPS = {
    "busy",  # one question at a time is open
    "closed",
    "fragment-again",
    "fragment-duplicate",
    "fragment-total",
    "initial-mismatch",
    "out-of-window",
    "suspended",
    "unexpected-response",
    "unknown-spi",  # of an SA whose rekey this end has not heard of yet
    "unprotected",  # the answer to that
    "reflected",
}


class Storm(Pair):
    """A pair whose network and users are wild."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        common: dict[str, object] = {"window_size": WINDOW, "fragment_size": self.random.choice((200, 1280))}
        common["retransmission"] = PATIENT
        super().__init__(
            initiator_config(**common, path_test_after=self.random.choice((None, 0.5))),
            responder_config(**common, return_routability_interval=20.0, hold_lifetime=QUIET),
            seed=seed,
        )
        self.loss = 0.0
        self.said: list[str] = []

    def _carry(self, sender: str, datagram: Datagram) -> None:
        self.seen.append((sender, datagram))
        if datagram.payload == KEEPALIVE:
            return
        arriving = datagram.path.reversed()
        for _ in range(self.random.choice((1, 1, 1, 2)) if self.loss else 1):
            if self.random.random() < self.loss:
                continue
            late = self.random.expovariate(8.0) if self.loss and self.random.random() < 0.3 else 0.0
            self._count += 1
            at = self.now + LATENCY + late
            heapq.heappush(self._flying, (at, self._count, sender, Datagram(arriving, datagram.payload)))

    # --- what users do

    def act(self) -> None:
        """One end does something."""
        node = self.random.choice((self.ue, self.epdg))
        deeds: list[Callable[[Node], None]] = [
            self.rekey_ike,
            self.rekey_child,
            self.rekey_child,
            self.create_child,
            self.delete_child,
            self.probe,
            self.ask,
        ]
        if node is self.ue:
            deeds += [self.move, self.move, self.suspend, self.addresses, self.suspect]
        else:
            deeds += [self.gateway_addresses]
        deed = self.random.choice(deeds)
        self.said.append(f"{self.now:.2f} {node.name} {deed.__name__}")
        deed(node)

    def rekey_ike(self, node: Node) -> None:
        node.endpoint.initiate(node.live, RekeyIke(), self.now)

    def rekey_child(self, node: Node) -> None:
        if node.live.children:
            spi = self.random.choice(list(node.live.children))
            node.endpoint.initiate(node.live, RekeyChild(spi), self.now)

    def create_child(self, node: Node) -> None:
        inner, anywhere = TrafficSelector.host(INNER), TrafficSelector.network("0.0.0.0/0")
        mine, theirs = ((inner,), (anywhere,)) if node is self.ue else ((anywhere,), (inner,))
        node.endpoint.initiate(node.live, CreateChild(mine, theirs), self.now)

    def delete_child(self, node: Node) -> None:
        if node.live.children:
            spi = self.random.choice(list(node.live.children))
            node.endpoint.initiate(node.live, DeleteChildSa(spi), self.now)

    def probe(self, node: Node) -> None:
        for _ in range(self.random.randrange(1, WINDOW)):
            node.endpoint.initiate(node.live, Liveness(), self.now)

    def ask(self, node: Node) -> None:
        attribute = ConfigurationAttribute(type=ConfigAttributeType.INTERNAL_IP4_DNS, value=b"")
        node.endpoint.initiate(node.live, ExchangeConfiguration(ConfigType.CFG_REQUEST, (attribute,)), self.now)

    def move(self, node: Node) -> None:
        remote = self.random.choice((Endpoint(GATEWAY.address, 4500), OTHER_GATEWAY))
        node.endpoint.move(node.live, Path(self.random.choice(ACCESSES), remote), self.now)

    def suspend(self, node: Node) -> None:
        node.endpoint.suspend(node.live, self.now)

    def addresses(self, node: Node) -> None:
        count = self.random.randrange(len(ACCESSES) + 1)
        node.endpoint.set_addresses(node.live, self.random.sample(ACCESSES, count), self.now)

    def gateway_addresses(self, node: Node) -> None:
        both = [Endpoint(GATEWAY.address, 4500), OTHER_GATEWAY]
        node.endpoint.set_addresses(node.live, both[: self.random.randrange(1, 3)], self.now)

    def suspect(self, node: Node) -> None:
        node.endpoint.suspect(node.live, self.now)

    # --- from storm to calm

    def rage(self, deeds: int) -> None:
        """So many deeds in bad weather, then good weather for as long as it takes."""
        self.attach(ACCESS_A)
        self.loss = self.random.choice((0.02, 0.1, 0.25))
        for _ in range(deeds):
            self.act()
            self.run(self.random.choice((0.0, 0.005, 0.015, 0.1, 1.0, 5.0)))
        self.loss = 0.0
        self.run(60.0)
        self.ue.endpoint.set_addresses(self.ue.live, ACCESSES, self.now)
        self.epdg.endpoint.set_addresses(self.epdg.live, [Endpoint(GATEWAY.address, 4500), OTHER_GATEWAY], self.now)
        if self.ue.live.mobility.suspended:
            self.move(self.ue)
        self.run(QUIET)

    # --- what must be true then

    def judge(self) -> None:
        """Both ends agree, nothing waits, nothing is left over."""
        for node in (self.ue, self.epdg):
            assert list(node.endpoint.sas.values()) == [node.live], [sa.state for sa in node.endpoint.sas.values()]
            self._quiet(node)
            self._ledger(node)
        ue, epdg = self.ue.live, self.epdg.live
        assert (ue.spi_i, ue.spi_r, ue.keys) == (epdg.spi_i, epdg.spi_r, epdg.keys)
        assert ue.path == epdg.path.reversed()
        assert ue.first_initiator
        assert ue.nat == epdg.nat == NatStatus()
        theirs = {(c.spec.outbound_spi, spi): c.spec for spi, c in epdg.children.items()}
        assert {(spi, c.spec.outbound_spi) for spi, c in ue.children.items()} == set(theirs)
        for spi, one in ue.children.items():
            other = theirs[spi, one.spec.outbound_spi]
            assert one.spec.local_selectors == other.remote_selectors
            assert one.spec.remote_selectors == other.local_selectors
            assert one.spec.inbound_encryption_key == other.outbound_encryption_key
            assert one.spec.path == other.path.reversed() == ue.path
            assert not one.replaced
            assert one.rekey is None
        assert (ue.window.peer_size, epdg.window.peer_size) == (WINDOW, WINDOW)
        assert ue.mobility.told is None or set(epdg.mobility.peer_addresses) == ue.mobility.told
        assert epdg.mobility.told is None or set(ue.mobility.peer_addresses) == epdg.mobility.told
        self.loss = 0.0
        for node in (self.ue, self.epdg):
            node.endpoint.initiate(node.live, Liveness(), self.now)
            before = node.live.window.retransmissions_sent
            self.run(1.0)
            assert node.live.window.outstanding is None
            assert node.live.window.retransmissions_sent == before

    def _quiet(self, node: Node) -> None:
        sa, endpoint = node.live, node.endpoint
        assert sa.state is SaState.ESTABLISHED
        assert sa.window.outstanding is None
        assert not sa._queue
        assert not sa._delayed
        mobility = sa.mobility
        assert [mobility.update, mobility.check, mobility.announcing, mobility.testing] == [None] * 4
        assert sa.deferred is None
        assert sa.predecessor is None
        assert set(endpoint._armed) <= set(endpoint.sas)
        assert endpoint._child_spis == set(sa.children)
        assert endpoint.next_deadline() is None
        assert set(endpoint.dropped + sa.dropped) <= DROPS, endpoint.dropped + sa.dropped

    def _ledger(self, node: Node) -> None:
        """The data plane as the events tell it, in their order."""
        installed: dict[bytes, Path] = {}
        gone: set[bytes] = set()
        sas: list[IkeSa] = []
        for event in node.events:
            if isinstance(event, ChildSaInstalled):
                assert event.spec.inbound_spi not in installed.keys() | gone
                assert event.replaces is None or event.replaces in installed.keys() | gone
                installed[event.spec.inbound_spi] = event.spec.path
            elif isinstance(event, ChildSaRemoved):
                del installed[event.inbound_spi]
                gone.add(event.inbound_spi)
            elif isinstance(event, ChildSaPathChanged):
                assert event.inbound_spi in installed
                installed[event.inbound_spi] = event.path
            elif isinstance(event, SuccessorCreated):
                sas.append(event.successor)
            elif isinstance(event, IkeSaRekeyed):
                assert event.successor in sas
        assert installed == {spi: one.spec.path for spi, one in node.live.children.items()}
        assert sum(isinstance(event, Closed) for event in node.events) == len(sas)


def judge(seed: int, deeds: int) -> None:
    storm = Storm(seed)
    try:
        storm.rage(deeds)
        storm.judge()
    except Exception:
        print("\n".join(storm.said))
        raise


@pytest.mark.parametrize("seed", range(12))
def test_both_ends_agree_after_a_storm(seed: int) -> None:
    judge(seed, 12)


@pytest.mark.long
@pytest.mark.parametrize("block", range(20))
def test_both_ends_agree_after_many_storms(block: int) -> None:
    for seed in range(1000 + 50 * block, 1050 + 50 * block):
        judge(seed, 30)
