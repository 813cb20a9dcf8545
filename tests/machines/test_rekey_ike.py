"""Rekeying of the IKE SA in pairs on virtual time (RFC 7296 §1.3.2, §2.8, §2.8.2, §2.18, §2.25.2)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.ikev2.events import (
    AddressesUpdated,
    ChildSaInstalled,
    ChildSaRemoved,
    ConfigurationExchanged,
    ConfigurationReceived,
    CreateChildSaRefused,
    IkeSaRekeyed,
    MessageReceived,
    MessageSent,
    OriginalRole,
    SaState,
)
from protocols.ikev2.keymat import derive_rekeyed_ike_keys
from protocols.ikev2.payloads import ConfigurationAttribute, KePayload, NoncePayload, NotifyPayload
from protocols.ikev2.proposals import IkePolicy
from protocols.ikev2.registry import ConfigAttributeType, ConfigType, ExchangeType, NotifyType
from protocols.ikev2.suites import IkeSuite, Prf
from protocols.ikev2.tasks.config import ExchangeConfiguration
from protocols.ikev2.tasks.informational import DeleteIkeSa, Liveness
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.path import Datagram
from tests.harness.forge import forge, receive
from tests.harness.pair import ACCESS_B, Node, Pair, initiator_config, responder_config

X25519, ECP256 = "aes128-sha256-x25519", "aes256gcm16-prfsha256-ecp256"


def ends(pair: Pair, end: str) -> tuple[Node, Node]:
    """The end that acts, and the other."""
    return (pair.ue, pair.epdg) if end == "ue" else (pair.epdg, pair.ue)


def rekey(pair: Pair, node: Node) -> None:
    """SK {SA, Ni, KEi} -->"""
    node.endpoint.initiate(node.live, RekeyIke(), pair.now)


def one_sa(pair: Pair) -> None:
    """Both ends have one IKE SA, the same, with one child SA, the same; nothing waits."""
    (ue,), (epdg,) = pair.ue.endpoint.sas.values(), pair.epdg.endpoint.sas.values()
    assert (pair.ue.live, pair.epdg.live) == (ue, epdg)
    assert (ue.spi_i, ue.spi_r, ue.keys) == (epdg.spi_i, epdg.spi_r, epdg.keys)
    assert ue.state is epdg.state is SaState.ESTABLISHED
    assert ue.original_initiator is not epdg.original_initiator
    (theirs,), (ours,) = ue.children.values(), epdg.children.values()
    assert theirs.spec.inbound_spi == ours.spec.outbound_spi
    for node in (pair.ue, pair.epdg):
        node.endpoint.initiate(node.live, Liveness(), pair.now)
    pair.run(1.0)
    assert ue.window.outstanding is epdg.window.outstanding is None
    assert ue.window.retransmissions_sent == epdg.window.retransmissions_sent == 0


def lose_exchange(pair: Pair, sender: str, exchange: ExchangeType, count: int = 1) -> None:
    """The next ``count`` datagrams of that exchange from a sender do not arrive."""
    left = [count]

    def lose(who: str, datagram: Datagram) -> bool:
        if who != sender or datagram.payload[18] != exchange or left[0] == 0:
            return False
        left[0] -= 1
        return True

    pair.lose = lose


@pytest.mark.parametrize("end", ["ue", "epdg"])
def test_rekey_by_either_end(end: str) -> None:
    """§1.3.2, §2.18: new SPIs and keys, Message IDs from 0, the children inherited, the old SA deleted."""
    pair = Pair().attach()
    node, other = ends(pair, end)
    old, child = node.live, node.take(ChildSaInstalled).spec
    keys, sent = old.keys, len(pair.wire)
    rekey(pair, node)
    pair.run(1.0)
    arrow, back = ("-->", "<--") if end == "ue" else ("<--", "-->")
    number = 4 if end == "ue" else 0
    assert pair.wire[sent:] == [
        f"{arrow} CREATE_CHILD_SA request {number} [ SA, Ni, KEi ]",
        f"{back} CREATE_CHILD_SA response {number} [ SA, Nr, KEr ]",
        f"{arrow} INFORMATIONAL request {number + 1} [ D ]",
        f"{back} INFORMATIONAL response {number + 1} [ ]",
    ]
    assert node.take(IkeSaRekeyed).successor is node.live is not old
    assert old.state is SaState.CLOSED
    assert node.live.role is OriginalRole.INITIATOR
    assert other.live.role is OriginalRole.RESPONDER
    assert pair.ue.live.first_initiator
    assert not pair.epdg.live.first_initiator
    assert node.live.keys != keys
    assert list(node.live.children) == [child.inbound_spi]
    assert not node.has(ChildSaRemoved)
    one_sa(pair)
    assert "--> INFORMATIONAL request 0 [ ]" in pair.wire[sent:]
    assert "<-- INFORMATIONAL request 0 [ ]" in pair.wire[sent:]


@pytest.mark.parametrize("end", ["ue", "epdg"])
def test_a_rekey_keeps_the_prf_although_the_ends_prefer_another(end: str) -> None:
    """Not every peer changes it as §2.18 says: whoever rekeys, the preference of the other end brings no new PRF."""
    sha512, sha256 = IkeSuite.of("aes256-sha512-x25519"), IkeSuite.of(X25519)
    pair = Pair(
        initiator_config(ike_policy=IkePolicy((sha256, sha512))), responder_config(ike_policy=IkePolicy((sha512,)))
    )
    pair.attach()
    node, other = ends(pair, end)
    for each in (node, other):
        each.live.config = replace(each.live.config, ike_policy=IkePolicy((sha256, sha512)))
    rekey(pair, node)
    pair.run(1.0)
    one_sa(pair)
    assert node.live.suite == other.live.suite == sha512


def test_skeyseed_comes_from_the_old_sk_d_by_the_old_prf() -> None:
    """§2.18: the exchange belongs to the old SA, whose PRF makes SKEYSEED; the new SA's PRF makes the keys."""
    policy = (IkeSuite.of(X25519), IkeSuite.of("aes256-sha512-x25519"))
    pair = Pair(initiator_config(ike_policy=IkePolicy(policy[:1])), responder_config(ike_policy=IkePolicy(policy)))
    pair.attach()
    for node in (pair.ue, pair.epdg):
        node.live.config = replace(node.live.config, ike_policy=IkePolicy(policy[1:]))
    suite, keys = pair.ue.live.established_keys()
    rekey(pair, pair.ue)
    task = pair.ue.live.rekeying.own
    assert task is not None
    assert task._dialogue.key_exchange is not None
    pair.run(1.0)
    new = pair.ue.live
    received = [e.message for e in pair.ue.events if isinstance(e, MessageReceived)]
    answer = next(m for m in received if m.exchange == ExchangeType.CREATE_CHILD_SA).first(KePayload)
    assert answer is not None
    shared = task._dialogue.key_exchange.shared(answer.data)
    nonces_and_spis = (new.nonce_i, new.nonce_r, new.spi_i, new.spi_r)
    assert (suite.prf, new.suite) == (policy[0].prf, policy[1])
    assert new.keys == derive_rekeyed_ike_keys(policy[1], Prf.of(suite.prf), keys.sk_d, shared, *nonces_and_spis)
    one_sa(pair)


def test_everything_goes_on_under_the_new_sa() -> None:
    """§2.8: child rekey, moves, a further rekey by the other end, and detach."""
    pair = Pair().attach()
    rekey(pair, pair.epdg)
    pair.run(1.0)
    pair.ue.take(ChildSaInstalled)
    pair.roam(ACCESS_B)
    pair.run(2.0)
    assert pair.epdg.take(AddressesUpdated).new.remote.address == ACCESS_B.address
    assert pair.epdg.live.mobility.validated.remote.address == ACCESS_B.address
    for node in (pair.ue, pair.epdg):
        node.endpoint.initiate(node.live, RekeyChild(next(iter(node.live.children))), pair.now)
        pair.run(1.0)
    rekey(pair, pair.ue)
    pair.run(1.0)
    one_sa(pair)
    pair.epdg.endpoint.initiate(pair.epdg.live, DeleteIkeSa("done"), pair.now)
    pair.run(1.0)
    assert pair.ue.endpoint.sas == pair.epdg.endpoint.sas == {}


def test_period_of_liveness_checks_goes_on_under_the_new_sa() -> None:
    """§2.4: what was set for the SA since its configuration counts for the one that replaces it."""
    pair = Pair().attach()
    pair.ue.endpoint.set_liveness_interval(pair.ue.live, 5.0, pair.now)
    rekey(pair, pair.epdg)
    pair.run(1.0)
    count = len(pair.wire)
    pair.run(11.0)
    assert pair.wire[count::2] == ["--> INFORMATIONAL request 0 [ ]", "--> INFORMATIONAL request 1 [ ]"]


def test_move_while_the_rekey_waits_goes_out_under_the_new_sa() -> None:
    """RFC 4555 §3.5: what is outstanding goes first, from the new address; UPDATE_SA_ADDRESSES follows."""
    pair = Pair().attach()
    lose_exchange(pair, "epdg", ExchangeType.CREATE_CHILD_SA)
    rekey(pair, pair.ue)
    pair.run(0.1)
    pair.roam(ACCESS_B)
    pair.run(3.0)
    assert pair.ue.take(AddressesUpdated).new.local.address == ACCESS_B.address
    assert pair.ue.live.window.requests_sent >= 1
    assert pair.epdg.live.path.remote.address == ACCESS_B.address
    one_sa(pair)


@pytest.mark.parametrize("sender", ["ue", "epdg"])
@pytest.mark.parametrize("exchange", [ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL])
def test_any_datagram_of_a_rekey_may_be_lost(sender: str, exchange: ExchangeType) -> None:
    pair = Pair().attach()
    lose_exchange(pair, sender, exchange)
    rekey(pair, pair.ue)
    pair.run(3.0)
    one_sa(pair)


def test_invalid_ke_payload_is_obeyed() -> None:
    """§1.3: "the initiator will probably retry the exchange" with the group that the responder gave."""
    both = IkePolicy((IkeSuite.of(X25519), IkeSuite.of("aes128-sha256-ecp256")))
    pair = Pair(initiator_config(ike_policy=both), responder_config(ike_policy=both)).attach()
    pair.epdg.live.config = replace(pair.epdg.live.config, ike_policy=IkePolicy(both.suites[1:]))
    rekey(pair, pair.ue)
    pair.run(1.0)
    assert "<-- CREATE_CHILD_SA response 4 [ N(INVALID_KE_PAYLOAD) ]" in pair.wire
    assert pair.ue.live.suite == both.suites[1]
    one_sa(pair)


def test_no_proposal_chosen_ends_nothing() -> None:
    """§1.3.1: a failed CREATE_CHILD_SA does not tear the IKE SA down."""
    pair = Pair().attach()
    pair.epdg.live.config = replace(pair.epdg.live.config, ike_policy=IkePolicy((IkeSuite.of(ECP256),)))
    rekey(pair, pair.ue)
    pair.run(100.0)
    refused = pair.ue.take(CreateChildSaRefused)
    assert (refused.notify.type, refused.again_at) == (NotifyType.NO_PROPOSAL_CHOSEN, None)
    assert not pair.ue.has(CreateChildSaRefused)
    one_sa(pair)


@pytest.mark.parametrize("seed", range(6))
def test_both_ends_rekey_at_once(seed: int) -> None:
    """§2.8.2: the SA with the lowest of four nonces is deleted by its creator; the other has all child SAs."""
    pair = Pair(seed=seed).attach()
    child = next(iter(pair.ue.live.children))
    for node in (pair.ue, pair.epdg):
        rekey(pair, node)
    pair.run(0.025)
    sent = {
        node.name: [e.message for e in node.events if isinstance(e, MessageSent) if e.message.first(NoncePayload)]
        for node in (pair.ue, pair.epdg)
    }
    nonces = {name: [m.first(NoncePayload) for m in messages[-2:]] for name, messages in sent.items()}
    (ni_ue, nr_ue), (ni_epdg, nr_epdg) = ([n.data for n in nonces[name] if n] for name in ("ue", "epdg"))
    loser = pair.ue if min(ni_ue, nr_epdg) < min(ni_epdg, nr_ue) else pair.epdg
    winner = pair.epdg if loser is pair.ue else pair.ue
    pair.run(2.0)
    assert winner.live.role is OriginalRole.INITIATOR
    assert {winner.live.nonce_i, winner.live.nonce_r} == ({ni_epdg, nr_ue} if loser is pair.ue else {ni_ue, nr_epdg})
    # each deletes one: the loser the SA that it created (Message ID 0 there), the winner the old one
    arrows = {"ue": "-->", "epdg": "<--"}
    deletes = [line for line in pair.wire if line.endswith("[ D ]")]
    assert f"{arrows[loser.name]} INFORMATIONAL request 0 [ D ]" in deletes
    assert len(deletes) == 2
    assert any(line.startswith(arrows[winner.name]) for line in deletes)
    one_sa(pair)
    assert list(pair.ue.live.children) == [child]
    assert not pair.ue.has(ChildSaRemoved)


def test_peer_that_did_not_notice_answers_temporary_failure_and_its_sa_is_the_one() -> None:
    """§2.8.2: A's request is lost; B finishes its rekey before it sees A's; "the first peer can forget its own"."""
    pair = Pair().attach()
    lose_exchange(pair, "ue", ExchangeType.CREATE_CHILD_SA)
    rekey(pair, pair.ue)  # lost
    rekey(pair, pair.epdg)
    pair.run(3.0)
    assert pair.epdg.live.role is OriginalRole.INITIATOR
    assert not pair.ue.has(CreateChildSaRefused)
    one_sa(pair)


def test_update_under_an_sa_that_is_being_deleted_after_its_rekey() -> None:
    """RFC 4555 §3.5: a move that nobody carries out is not answered as if somebody had; §3.7: COOKIE2 comes back."""
    pair = Pair().attach()
    old = pair.epdg.live
    update = forge(
        pair,
        "ue",
        4,
        NotifyPayload(type=NotifyType.UPDATE_SA_ADDRESSES),
        NotifyPayload(type=NotifyType.COOKIE2, data=bytes(8)),
    )
    pair.lose = lambda sender, datagram: sender == "ue" and datagram.payload[18] == ExchangeType.INFORMATIONAL
    rekey(pair, pair.epdg)
    pair.run(0.1)
    assert old.state is SaState.DELETING
    receive(pair, pair.epdg, update)
    assert pair.wire[-1] == "<-- INFORMATIONAL response 4 [ N(TEMPORARY_FAILURE), N(COOKIE2) ]"


def test_late_request_for_a_rekeyed_sa_is_answered_temporary_failure() -> None:
    """§2.25.2: "it is currently trying to close it" whether or not the DELETE has been sent."""
    pair = Pair().attach()
    lost = [0]

    def lose(sender: str, datagram: Datagram) -> bool:
        # A's request is lost once; B's DELETE is lost until A has tried again
        exchange, response = datagram.payload[18], bool(datagram.payload[19] & 0x20)
        if sender == "ue" and exchange == ExchangeType.CREATE_CHILD_SA and not response and not lost[0]:
            lost[0] = 1
            return True
        return sender == "epdg" and exchange == ExchangeType.INFORMATIONAL and pair.now < 5.9

    pair.lose = lose
    rekey(pair, pair.ue)
    rekey(pair, pair.epdg)
    pair.run(5.0)
    assert "<-- CREATE_CHILD_SA response 4 [ N(TEMPORARY_FAILURE) ]" in pair.wire
    one_sa(pair)


def test_child_rekey_meets_ike_rekey() -> None:
    """§2.25.1, §2.25.2: TEMPORARY_FAILURE in both directions, and both are done after a pause."""
    pair = Pair().attach()
    old = next(iter(pair.epdg.live.children))
    rekey(pair, pair.ue)
    pair.epdg.endpoint.initiate(pair.epdg.live, RekeyChild(old), pair.now)
    pair.run(0.5)
    assert "<-- CREATE_CHILD_SA response 4 [ N(TEMPORARY_FAILURE) ]" in pair.wire
    assert "--> CREATE_CHILD_SA response 0 [ N(TEMPORARY_FAILURE) ]" in pair.wire
    assert pair.ue.take(CreateChildSaRefused).again_at is not None
    pair.run(20.0)
    assert pair.ue.take(IkeSaRekeyed)
    assert old not in pair.epdg.live.children
    one_sa(pair)


def test_delete_of_the_ike_sa_crosses_its_rekey() -> None:
    """§2.25.2: "reply as usual, and forget about its own rekeying request"; who deletes says TEMPORARY_FAILURE."""
    pair = Pair().attach()
    rekey(pair, pair.ue)
    pair.epdg.endpoint.initiate(pair.epdg.live, DeleteIkeSa("done"), pair.now)
    pair.run(1.0)
    assert "<-- CREATE_CHILD_SA response 4 [ N(TEMPORARY_FAILURE) ]" in pair.wire
    assert pair.ue.endpoint.sas == pair.epdg.endpoint.sas == {}
    pair.run(60.0)  # the last response has not been asked for again: its keys are forgotten (§2.12)
    assert pair.ue.endpoint.next_deadline() is None


def test_queued_requests_move_to_the_successor() -> None:
    """What was asked for while the rekey waited is sent under the new SA, from Message ID 0."""
    pair = Pair().attach()
    rekey(pair, pair.ue)
    pair.ue.endpoint.initiate(pair.ue.live, Liveness(), pair.now)
    pair.run(1.0)
    assert "--> INFORMATIONAL request 0 [ ]" in pair.wire
    one_sa(pair)


def test_old_sa_that_nobody_deletes_ends_by_itself() -> None:
    """The responder of a rekey waits for the DELETE, not for ever."""
    pair = Pair().attach()
    old = pair.epdg.live
    pair.lose = lambda sender, datagram: sender == "ue" and datagram.payload[18] == ExchangeType.INFORMATIONAL
    rekey(pair, pair.ue)
    pair.run(30.0)
    assert old.state is SaState.REKEYED
    pair.run(61.0)
    assert old.state is SaState.CLOSED
    pair.lose = lambda sender, datagram: False
    one_sa(pair)


def test_both_rekey_and_the_link_dies() -> None:
    """Nothing is left of three IKE SAs."""
    pair = Pair().attach()
    for node in (pair.ue, pair.epdg):
        rekey(pair, node)
    pair.run(0.015)
    pair.lose = lambda sender, datagram: True
    for node in (pair.ue, pair.epdg):
        node.endpoint.initiate(node.live, Liveness(), pair.now)
    pair.run(300.0)
    for node in (pair.ue, pair.epdg):
        assert node.endpoint.sas == {}
        assert node.endpoint._child_spis == set()
        assert node.endpoint.next_deadline() is None


def test_peer_that_goes_on_under_the_sa_that_it_made() -> None:
    """§2.8.2: its DELETE of the old SA is lost, but what it does under its new SA tells as much."""
    pair = Pair().attach()

    def lose(sender: str, datagram: Datagram) -> bool:
        exchange, response = datagram.payload[18], bool(datagram.payload[19] & 0x20)
        if sender == "ue":
            return exchange == ExchangeType.CREATE_CHILD_SA and not response
        return exchange == ExchangeType.INFORMATIONAL and not response

    pair.lose = lose
    rekey(pair, pair.ue)
    rekey(pair, pair.epdg)
    pair.run(0.1)
    assert not pair.ue.live.heir
    old = next(iter(pair.epdg.live.children))
    pair.epdg.endpoint.initiate(pair.epdg.live, RekeyChild(old), pair.now)
    pair.run(0.1)
    told = [event for event in pair.ue.events if isinstance(event, IkeSaRekeyed | ChildSaInstalled)]
    assert [type(event) for event in told] == [ChildSaInstalled, IkeSaRekeyed, ChildSaInstalled]  # whose is said first
    assert pair.ue.take(IkeSaRekeyed).successor is pair.ue.live
    assert pair.epdg.live.children[old].replaced
    pair.lose = lambda sender, datagram: False
    pair.run(3.0)
    assert old not in pair.epdg.live.children
    assert len(pair.ue.live.children) == len(pair.epdg.live.children) == 1


def test_question_under_the_sa_that_the_peer_made_comes_after_the_event_that_it_is_the_one() -> None:
    """§2.8.2: whoever follows the events knows the new SA before it is asked something under it."""
    pair = Pair().attach()
    old = pair.ue.live

    def lose(sender: str, datagram: Datagram) -> bool:
        """Our request, and the peer's DELETE of the old SA."""
        exchange, response = datagram.payload[18], bool(datagram.payload[19] & 0x20)
        kind = ExchangeType.CREATE_CHILD_SA if sender == "ue" else ExchangeType.INFORMATIONAL
        return datagram.payload[:8] == old.spi_i and exchange == kind and not response

    pair.lose = lose
    rekey(pair, pair.ue)
    rekey(pair, pair.epdg)
    pair.run(0.1)
    assert old.heir is None
    attribute = ConfigurationAttribute(type=ConfigAttributeType.P_CSCF_IP4_ADDRESS, value=bytes([10, 45, 0, 3]))
    pair.epdg.endpoint.initiate(pair.epdg.live, ExchangeConfiguration(ConfigType.CFG_REQUEST, (attribute,)), pair.now)
    pair.run(1.0)
    kinds = [type(event) for event in pair.ue.events]
    assert kinds.index(IkeSaRekeyed) < kinds.index(ConfigurationReceived)
    assert pair.epdg.has(ConfigurationExchanged)
