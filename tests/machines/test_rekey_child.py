"""Collisions and hand-over when child SAs are rekeyed, in pairs on virtual time (RFC 7296 §2.8, §2.8.1, §2.25.1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.entropy import SeededEntropy
from protocols.ikev2.events import (
    ChildSaInstalled,
    ChildSaPathChanged,
    ChildSaRemoved,
    ChildSaRetired,
    Closed,
    CreateChildSaRefused,
    Event,
    MessageSent,
)
from protocols.ikev2.payloads import NoncePayload
from protocols.ikev2.registry import ExchangeType, NotifyType
from protocols.ikev2.tasks.child import RECEIVE_GRACE
from protocols.ikev2.tasks.informational import DeleteChildSa
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.path import Datagram, Path
from tests.dataplane.pairs import ue_spec
from tests.harness.pair import INNER, Node, Pair, initiator_config, responder_config

SERVER = "192.0.2.80"


def rekey(pair: Pair, node: Node) -> bytes:
    """SK {N(REKEY_SA), SA, Ni, TSi, TSr} -->, for the only child SA."""
    (spi,) = (spi for spi, one in node.live.children.items() if not one.replaced)
    node.endpoint.initiate(node.live, RekeyChild(spi), pair.now)
    return spi


def one_child(pair: Pair) -> bytes:
    """Both ends have one child SA, the same, with nothing pending; the UE's inbound SPI."""
    (ue,), (epdg,) = pair.ue.live.children.values(), pair.epdg.live.children.values()
    assert (ue.spec.inbound_spi, ue.spec.outbound_spi) == (epdg.spec.outbound_spi, epdg.spec.inbound_spi)
    assert ue.spec.inbound_encryption_key == epdg.spec.outbound_encryption_key
    for one in (ue, epdg):
        assert (one.replaced, one.closing, one.rekey) == (False, False, None)
    return ue.spec.inbound_spi


def lose_first(pair: Pair, sender: str, exchange: ExchangeType, *, response: bool, count: int = 1) -> None:
    """The first ``count`` such datagrams do not arrive."""
    left = [count]

    def lose(who: str, datagram: Datagram) -> bool:
        kind = (who, datagram.payload[18], bool(datagram.payload[19] & 0x20))
        if kind != (sender, exchange, response) or left[0] == 0:
            return False
        left[0] -= 1
        return True

    pair.lose = lose


def nonces(node: Node) -> list[bytes]:
    """Of the CREATE_CHILD_SA messages that a node has sent, in order."""
    found = [
        e.message.first(NoncePayload)
        for e in node.events
        if isinstance(e, MessageSent) and e.message.exchange == ExchangeType.CREATE_CHILD_SA and not e.retransmission
    ]
    return [nonce.data for nonce in found if nonce is not None]


@pytest.mark.parametrize("seed", range(6))
def test_both_ends_rekey_at_once(seed: int) -> None:
    """§2.8.1: the SA with the lowest of the four nonces is closed by its creator, the old one by the other."""
    pair = Pair(seed=seed).attach()
    old = {node.name: rekey(pair, node) for node in (pair.ue, pair.epdg)}
    pair.run(0.025)
    (ni_ue, nr_ue), (ni_epdg, nr_epdg) = nonces(pair.ue), nonces(pair.epdg)
    ue_loses = min(ni_ue, nr_epdg) < min(ni_epdg, nr_ue)
    assert len(pair.ue.live.children) == 3
    made = {node.name: list(node.live.children)[1:] for node in (pair.ue, pair.epdg)}  # answered, then asked for
    pair.run(2.0 + RECEIVE_GRACE)
    assert one_child(pair) == made["ue"][0 if ue_loses else 1]
    deletes = [line for line in pair.wire if "INFORMATIONAL request" in line and "[ D ]" in line]
    assert len(deletes) == 2
    assert {line[:3] for line in deletes} == {"-->", "<--"}
    removed = [e.inbound_spi for e in pair.ue.events if isinstance(e, ChildSaRemoved)]
    assert set(removed) == {old["ue"], made["ue"][1 if ue_loses else 0]}
    pair.run(200.0)
    one_child(pair)
    assert not pair.ue.has(Closed)


def test_one_end_does_not_notice() -> None:
    """§2.8.1, second sequence: A's request is lost, B is done before it comes; CHILD_SA_NOT_FOUND is ignored."""
    pair = Pair().attach()
    lose_first(pair, "ue", ExchangeType.CREATE_CHILD_SA, response=False)
    for node in (pair.ue, pair.epdg):
        rekey(pair, node)
    pair.run(5.0)
    assert "<-- CREATE_CHILD_SA response 4 [ N(CHILD_SA_NOT_FOUND) ]" in pair.wire
    assert not pair.ue.has(CreateChildSaRefused)
    one_child(pair)
    assert len([line for line in pair.wire if "CREATE_CHILD_SA request" in line and "again" not in line]) == 2


@pytest.mark.parametrize("sender", ["ue", "epdg"])
@pytest.mark.parametrize("response", [False, True])
@pytest.mark.parametrize("exchange", [ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL])
@pytest.mark.parametrize("seed", [1, 2])
def test_any_datagram_of_a_collision_may_be_lost(
    sender: str, exchange: ExchangeType, *, response: bool, seed: int
) -> None:
    pair = Pair(seed=seed).attach()
    lose_first(pair, sender, exchange, response=response)
    for node in (pair.ue, pair.epdg):
        rekey(pair, node)
    pair.run(200.0)
    one_child(pair)


def test_rekey_of_a_child_that_the_peer_is_closing() -> None:
    """§2.25.1: TEMPORARY_FAILURE; when the DELETE has come the rekey is pointless and nothing is made anew."""
    pair = Pair().attach()
    (spi,) = pair.epdg.live.children
    pair.epdg.endpoint.initiate(pair.epdg.live, DeleteChildSa(spi), pair.now)
    rekey(pair, pair.ue)
    pair.run(30.0)
    assert "<-- CREATE_CHILD_SA response 4 [ N(TEMPORARY_FAILURE) ]" in pair.wire
    # "If a peer receives a request to close a Child SA that it is currently rekeying, it SHOULD reply as usual"
    assert "--> INFORMATIONAL response 0 [ D ]" in pair.wire
    assert pair.ue.live.children == pair.epdg.live.children == {}
    assert len([line for line in pair.wire if "CREATE_CHILD_SA request" in line]) == 1


def test_deletes_of_a_child_cross() -> None:
    """§1.4.1: "the responses MUST NOT include Delete payloads for the deleted SAs"."""
    pair = Pair().attach()
    for node in (pair.ue, pair.epdg):
        node.endpoint.initiate(node.live, DeleteChildSa(next(iter(node.live.children))), pair.now)
    pair.run(1.0)
    assert "--> INFORMATIONAL response 0 [ ]" in pair.wire
    assert "<-- INFORMATIONAL response 4 [ ]" in pair.wire
    assert pair.ue.live.children == pair.epdg.live.children == {}
    assert len([e for e in pair.ue.events if isinstance(e, ChildSaRemoved)]) == 1


def test_replaced_child_that_the_peer_never_deletes() -> None:
    """§2.8: who did not start the rekey waits for the DELETE, not for ever."""
    pair = Pair().attach()
    rekey(pair, pair.ue)
    pair.run(0.005)
    pair.ue.live._queue.clear()
    pair.ue.live.initiate = lambda task, now, urgent=False: None  # type: ignore[method-assign]
    pair.run(1.0)
    assert len(pair.epdg.live.children) == 2
    pair.run(65.0)
    one_child(pair)
    assert "<-- INFORMATIONAL request 0 [ D ]" in pair.wire


def test_temporary_failure_is_asked_again_with_growing_pauses_and_then_ends_the_ike_sa() -> None:
    """§2.25: "MUST NOT immediately retry"; after several minutes of it "it SHOULD ... close the IKE SA"."""
    pair = Pair().attach()
    pair.epdg.live.rekeying.own = RekeyIke()  # a peer that is busy for ever
    rekey(pair, pair.ue)
    pair.run(290.0)
    waits = [e.again_at for e in pair.ue.events if isinstance(e, CreateChildSaRefused)]
    assert 6 <= len(waits) <= 12
    gaps = [later - earlier for earlier, later in zip(waits, waits[1:], strict=False) if later and earlier]
    assert min(gaps) >= 2.0
    assert max(gaps) <= 91.0
    assert pair.ue.live.children
    pair.run(200.0)
    assert "TEMPORARY_FAILURE" in pair.ue.take(Closed).why
    assert pair.ue.endpoint.sas == {}


def test_temporary_failure_goes_away() -> None:
    """A retry succeeds long before a lifetime later."""
    pair = Pair().attach()
    pair.epdg.live.rekeying.own = RekeyIke()
    old = rekey(pair, pair.ue)
    pair.run(0.5)
    assert pair.ue.take(CreateChildSaRefused).notify.type == NotifyType.TEMPORARY_FAILURE
    pair.epdg.live.rekeying.own = None
    pair.run(4.0)
    assert one_child(pair) != old


# --- hand-over: two real data planes over the same link, a packet each way every millisecond


class Tunnel:
    """ESP between two engines with the link's latency, beside the pair's IKE."""

    def __init__(self, pair: Pair, latency: float) -> None:
        self.pair = pair
        self.latency = latency
        self.sent = {"ue": 0, "epdg": 0}
        self.received = {"ue": 0, "epdg": 0}
        self.used: dict[str, set[bytes]] = {"ue": set(), "epdg": set()}
        self._flying: list[tuple[float, str, bytes, Path]] = []
        self.planes = {name: self._plane(name) for name in ("ue", "epdg")}
        self._seen = {"ue": 0, "epdg": 0}

    def _plane(self, name: str) -> UserspaceDataPlane:
        other = "epdg" if name == "ue" else "ue"

        def deliver(packet: bytes, inbound_spi: bytes) -> None:
            self.received[name] += 1
            self.used[name].add(inbound_spi)

        def transmit(octets: bytes, path: Path, encapsulation: bool, traffic_class: int) -> None:
            self._flying.append((self.pair.now + self.latency, other, octets, path.reversed()))

        return UserspaceDataPlane(entropy=SeededEntropy(name), deliver=deliver, transmit=transmit)

    def follow(self) -> None:
        """Tell the engines what the machines have said since."""
        for node in (self.pair.ue, self.pair.epdg):
            plane = self.planes[node.name]
            for event in node.events[self._seen[node.name] :]:
                _apply(plane, event)
            self._seen[node.name] = len(node.events)

    def run(self, seconds: float, step: float = 0.001) -> None:
        """Let time pass with a packet each way at every step."""
        for _ in range(round(seconds / step)):
            self.pair.run(step)
            self.follow()
            while self._flying and self._flying[0][0] <= self.pair.now:
                _, name, octets, path = self._flying.pop(0)
                self.planes[name].receive_esp(octets, path)
            for name, packet in (("ue", _packet(INNER, SERVER)), ("epdg", _packet(SERVER, INNER))):
                self.sent[name] += self.planes[name].send_inner(packet)

    def settle(self) -> None:
        """What still flies arrives."""
        for _, name, octets, path in self._flying:
            self.planes[name].receive_esp(octets, path)
        self._flying.clear()


def _apply(plane: UserspaceDataPlane, event: Event) -> None:
    if isinstance(event, ChildSaInstalled):
        if event.replaces is None:
            plane.install(event.spec)
        else:
            plane.replace(event.replaces, event.spec, send_at_once=event.send_at_once)
    elif isinstance(event, ChildSaRetired):
        plane.retire(event.inbound_spi)
    elif isinstance(event, ChildSaRemoved):
        plane.remove(event.inbound_spi)
    elif isinstance(event, ChildSaPathChanged):
        plane.update_path(event.inbound_spi, event.path, event.encapsulation)


def _packet(source: str, destination: str) -> bytes:
    """A UDP packet."""
    header = bytes([0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0])
    addresses = b"".join(bytes(map(int, address.split("."))) for address in (source, destination))
    return header + addresses + bytes([0x10, 0, 0x10, 0, 0, 16, 0, 0]) + bytes(8)


def _ue(pair: Pair) -> None:
    rekey(pair, pair.ue)


def _epdg(pair: Pair) -> None:
    rekey(pair, pair.epdg)


def _both(pair: Pair) -> None:
    _ue(pair)
    _epdg(pair)


def _ike(pair: Pair) -> None:
    pair.epdg.endpoint.initiate(pair.epdg.live, RekeyIke(), pair.now)


@pytest.mark.parametrize("start", [_ue, _epdg, _both, _ike])
@pytest.mark.parametrize("latency", [0.001, 0.0095, 0.0105, 0.2])
@pytest.mark.parametrize("seed", [1, 2])
def test_hand_over_without_loss(start: Callable[[Pair], None], latency: float, seed: int) -> None:
    """§2.8: 3000 packets each way, five rekeys on the way, each packet delivered."""
    pair = Pair(seed=seed).attach()
    tunnel = Tunnel(pair, latency)
    tunnel.follow()
    for _ in range(5):
        start(pair)
        tunnel.run(0.6)
    tunnel.settle()
    for name, other in (("ue", "epdg"), ("epdg", "ue")):
        assert tunnel.sent[name] == 3000
        assert tunnel.received[other] == 3000
        assert tunnel.planes[name].drops == {}
    if start is not _ike:
        assert len(tunnel.used["ue"]) >= 6
    one_child(pair)


def test_what_waits_for_the_old_sa_does_not_overtake_what_sends_already() -> None:
    """§2.8.1: of two new SAs the one that loses sends nothing when the old one goes, only when the other does."""
    sent: list[bytes] = []
    plane = UserspaceDataPlane(
        entropy=SeededEntropy(1),
        deliver=lambda packet, spi: None,
        transmit=lambda octets, path, encapsulation, traffic_class: sent.append(octets[:4]),
    )
    old, loser, winner = (ue_spec(number=number) for number in (1, 2, 3))
    plane.install(old)
    plane.replace(old.inbound_spi, loser, send_at_once=False)
    plane.replace(old.inbound_spi, winner)
    for gone in (None, old, winner):
        if gone is not None:
            plane.remove(gone.inbound_spi)
        assert plane.send_inner(_packet(INNER, SERVER))
    assert sent == [winner.outbound_spi, winner.outbound_spi, loser.outbound_spi]


def test_child_that_is_rekeyed_and_deleted_at_once_stays_deleted() -> None:
    """§2.25: CHILD_SA_NOT_FOUND for what our own DELETE has closed asks for no other child SA."""
    pair = Pair(initiator_config(window_size=4), responder_config(window_size=4)).attach()
    (spi,) = pair.ue.live.children
    left = [1, 1]  # the rekey request and the answer to the DELETE

    def lose(sender: str, datagram: Datagram) -> bool:
        which = 0 if sender == "ue" and datagram.payload[18] == ExchangeType.CREATE_CHILD_SA else 1
        if (which == 1 and sender == "ue") or not left[which]:
            return False
        left[which] = 0
        return True

    pair.lose = lose
    pair.ue.endpoint.initiate(pair.ue.live, RekeyChild(spi), pair.now)
    pair.ue.endpoint.initiate(pair.ue.live, DeleteChildSa(spi), pair.now)
    pair.run(5.0)
    assert any("N(CHILD_SA_NOT_FOUND)" in line for line in pair.wire)
    assert not pair.ue.live.children
    assert not pair.epdg.live.children
