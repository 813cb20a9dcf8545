"""MOBIKE (RFC 4555) in pairs on virtual time: moves, NAT, return routability, roll-back, supersession."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from protocols.entropy import SeededEntropy
from protocols.errors import LocalError
from protocols.ikev2.config import RetransmissionPolicy, ReturnRoutability
from protocols.ikev2.events import (
    AddressesUpdated,
    AddressUpdateFailed,
    ChildSaInstalled,
    ChildSaPathChanged,
    Closed,
    Established,
    NatStatus,
    PathValidated,
    SaState,
)
from protocols.ikev2.habits import Habits
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import NotifyPayload, Payload
from protocols.ikev2.registry import ExchangeType, NotifyType
from protocols.ikev2.sealer import Sealer
from protocols.ikev2.tasks.informational import DeleteIkeSa, Liveness
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.path import Datagram, Endpoint
from tests.harness.pair import ACCESS_A, ACCESS_B, Pair, initiator_config, responder_config

UPDATE = (
    "--> INFORMATIONAL request 4 [ N(UPDATE_SA_ADDRESSES), "
    "N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP) ]"
)
A = Endpoint(ACCESS_A.address, 4500)
B = Endpoint(ACCESS_B.address, 4500)
NAT_OUTSIDE = Endpoint.of("203.0.113.77", 61000)


def spis(pair: Pair) -> list[bytes]:
    return [*pair.ue.live.children, *pair.epdg.live.children]


def remote(pair: Pair) -> list[Endpoint]:
    """Where the gateway sends IKE and ESP."""
    sa = pair.epdg.live
    return [sa.path.remote, *(child.spec.path.remote for child in sa.children.values())]


def test_a_move_in_rfc_notation() -> None:
    pair = Pair().attach()
    before = spis(pair)
    count = len(pair.wire)
    pair.roam(ACCESS_B)
    pair.run(1.0)
    assert pair.wire[count:] == [
        UPDATE,
        "<-- INFORMATIONAL response 4 [ N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP) ]",
        "<-- INFORMATIONAL request 0 [ N(COOKIE2) ]",
        "--> INFORMATIONAL response 0 [ N(COOKIE2) ]",
    ]
    moved = pair.epdg.take(AddressesUpdated)
    assert (moved.old.remote, moved.new.remote, moved.validated) == (A, B, True)
    assert pair.ue.take(AddressesUpdated).new.local == B
    assert remote(pair) == [B, B]
    assert spis(pair) == before


def test_child_sas_wait_for_the_check() -> None:
    """§3.7, before-update: the update is answered, IKE is at B, ESP still at A."""
    pair = Pair().attach()
    pair.roam(ACCESS_B)
    pair.run(0.015)
    assert remote(pair) == [B, A]
    pair.run(0.02)
    assert remote(pair) == [B, B]


@pytest.mark.parametrize("policy", [ReturnRoutability.AFTER_UPDATE, ReturnRoutability.NEVER])
def test_other_policies_move_at_once(policy: ReturnRoutability) -> None:
    pair = Pair(epdg=responder_config(return_routability=policy)).attach()
    pair.roam(ACCESS_B)
    pair.run(0.015)
    assert remote(pair) == [B, B]
    pair.run(1.0)
    assert pair.epdg.take(AddressesUpdated).validated is (policy is ReturnRoutability.AFTER_UPDATE)
    assert ("N(COOKIE2)" in pair.wire[-1]) is (policy is ReturnRoutability.AFTER_UPDATE)


@pytest.mark.parametrize("policy", [ReturnRoutability.BEFORE_UPDATE, ReturnRoutability.AFTER_UPDATE])
def test_unanswered_check_rolls_ike_and_esp_back(policy: ReturnRoutability) -> None:
    """G37: an address that sends but does not hear is not adopted; both are where they were."""
    pair = Pair(epdg=responder_config(return_routability=policy)).attach()
    pair.deaf = {B}
    pair.roam(ACCESS_B)
    pair.run(3.4)
    assert remote(pair)[0] == B
    pair.run(0.2)
    failed = pair.epdg.take(AddressUpdateFailed)
    assert (failed.old.remote, failed.new.remote) == (A, B)
    assert "not answered" in failed.why
    assert remote(pair) == [A, A]


def test_late_answer_proves_nothing_and_a_fresh_check_follows() -> None:
    pair = Pair().attach()
    pair.deaf = {B}
    pair.roam(ACCESS_B)
    pair.run(3.6)
    checks = [line for line in pair.wire if line.startswith("<--") and "request" in line]
    assert [line.removesuffix(" (again)") for line in checks[-2:]] == [
        "<-- INFORMATIONAL request 0 [ N(COOKIE2) ]",
        "<-- INFORMATIONAL request 1 [ N(COOKIE2) ]",
    ]
    assert pair.epdg.take(PathValidated).path.remote == A
    assert not pair.epdg.has(AddressesUpdated)
    assert remote(pair) == [A, A]


def test_late_answer_from_the_address_that_was_given_up_gets_a_fresh_check_there() -> None:
    """A slow UE (or gateway) has moved, and its old address is gone: it is not left where nobody hears it."""
    pair = Pair().attach()
    pair.lose = lambda sender, datagram: sender == "ue" and datagram.payload[19] & 0x20 != 0
    pair.roam(ACCESS_B)
    pair.run(0.1)
    late = next(datagram for sender, datagram in reversed(pair.seen) if sender == "ue")
    pair.deaf = {A}
    pair.run(3.6)
    assert pair.epdg.take(AddressUpdateFailed).new.remote == B
    assert remote(pair) == [A, A]
    pair.lose = lambda sender, datagram: False
    pair.epdg.endpoint.receive(Datagram(late.path.reversed(), late.payload), pair.now)
    pair.run(0.1)
    assert pair.wire[-2:] == [
        "<-- INFORMATIONAL request 1 [ N(COOKIE2) ]",
        "--> INFORMATIONAL response 1 [ N(COOKIE2) ]",
    ]
    assert pair.epdg.take(AddressesUpdated).new.remote == B
    assert remote(pair) == [B, B]


def test_back_to_the_old_address_while_the_check_is_outstanding() -> None:
    """§3.5: the outstanding request is sent again from the newest address, then a new update."""
    pair = Pair().attach()
    pair.deaf = {B}
    pair.roam(ACCESS_B)
    pair.run(1.0)
    pair.roam(ACCESS_A)
    pair.run(1.0)
    assert remote(pair) == [A, A]
    updates = [line for line in pair.wire if "UPDATE_SA_ADDRESSES" in line and "again" not in line]
    assert len(updates) == 2
    assert pair.ue.take(AddressesUpdated).new.local == A
    pair.run(30.0)
    assert pair.ue.live.state is pair.epdg.live.state is SaState.ESTABLISHED
    assert not pair.epdg.has(AddressUpdateFailed)


@pytest.mark.parametrize(("sender", "count"), [("ue", 1), ("ue", 3), ("epdg", 1), ("epdg", 2), ("epdg", 3)])
def test_lost_datagrams_during_a_move(sender: str, count: int) -> None:
    """U103: the same Message ID again; the response comes from the cache, one check only."""
    pair = Pair().attach()
    pair.lose_next(sender, count)
    pair.roam(ACCESS_B)
    pair.run(8.0)
    assert remote(pair) == [B, B]
    assert pair.ue.take(AddressesUpdated)
    fresh = [line for line in pair.wire if "<-- INFORMATIONAL request" in line and "again" not in line]
    assert len(fresh) == 1


def test_second_move_while_the_first_is_outstanding() -> None:
    """U104: newest address wins."""
    pair = Pair().attach()
    other = Endpoint.of("198.51.100.99", 4500)
    pair.deaf = {B}
    pair.roam(ACCESS_B)
    pair.run(0.2)
    pair.roam(other)
    pair.run(2.0)
    assert remote(pair) == [other, other]
    assert pair.ue.take(AddressesUpdated).new.local == other
    assert not pair.ue.has(AddressesUpdated)


def test_esp_does_not_wait_for_an_update_that_repeats_the_last_one() -> None:
    """The route comes after the address: the update is told again, and the answer to the first is good enough."""
    pair = Pair().attach()
    pair.roam(ACCESS_B)
    pair.roam(ACCESS_B)
    pair.run(0.025)  # one round trip
    assert pair.ue.take(ChildSaPathChanged).path.local == B
    assert not pair.ue.has(AddressesUpdated)
    pair.run(1.0)
    assert pair.ue.take(AddressesUpdated).new.local == B
    assert remote(pair) == [B, B]
    assert pair.ue.live.mobility.validated.local == B


def test_esp_goes_with_the_update_where_the_old_address_is_gone() -> None:
    """§3.5: with nothing to lose the IPsec SAs are updated before the request is answered."""
    pair = Pair().attach()
    before = spis(pair)
    pair.lose_next("epdg")
    pair.ue.endpoint.set_addresses(pair.ue.live, (B,), pair.now, tell=False)
    pair.run(0.001)
    early = pair.ue.take(ChildSaPathChanged)
    # "suspects ... a NAT": of the new address nothing is known, and UDP gets through either way
    assert (early.path.local, early.encapsulation) == (B, True)
    assert not pair.ue.has(AddressesUpdated)
    pair.run(2.0)
    moved = pair.ue.take(AddressesUpdated)
    assert (moved.old.local, moved.new.local) == (A, B)
    known = pair.ue.take(ChildSaPathChanged)
    assert (known.path.local, known.encapsulation) == (B, False)
    assert not pair.ue.has(ChildSaPathChanged)
    assert (remote(pair), spis(pair)) == ([B, B], before)


def test_esp_waits_for_the_response_by_habit() -> None:
    """§3.5: "unless the initiator's policy requires a return routability check"."""
    pair = Pair(ue=initiator_config(habits=Habits(esp_waits_for_response=True))).attach()
    pair.ue.endpoint.set_addresses(pair.ue.live, (B,), pair.now, tell=False)
    pair.run(0.001)
    assert not pair.ue.has(ChildSaPathChanged)
    pair.run(1.0)
    assert pair.ue.take(ChildSaPathChanged).path.local == B


def test_a_second_loss_before_the_first_is_answered_leaves_from_where_the_ue_was_last_known() -> None:
    pair = Pair().attach()
    pair.lose = lambda sender, datagram: True
    pair.ue.endpoint.set_addresses(pair.ue.live, (B,), pair.now, tell=False)
    pair.run(0.1)
    pair.lose = lambda sender, datagram: False
    pair.ue.endpoint.set_addresses(pair.ue.live, (A,), pair.now, tell=False)
    pair.run(2.0)
    assert pair.ue.take(AddressesUpdated).new.local == A
    assert {child.spec.path.local for child in pair.ue.live.children.values()} == {A}
    assert remote(pair) == [A, A]


def test_a_refused_early_move_goes_where_an_address_is() -> None:
    """UNACCEPTABLE_ADDRESSES after ESP has gone: it is where IKE is."""
    unacceptable = responder_config(acceptable_addresses=(ip_network(f"{A.address}/32"),))
    pair = Pair(epdg=unacceptable).attach()
    pair.lose = lambda sender, datagram: sender == "ue"
    pair.ue.endpoint.set_addresses(pair.ue.live, (B,), pair.now, tell=False)
    pair.run(0.001)
    pair.ue.endpoint.set_addresses(pair.ue.live, (B, A), pair.now, tell=False)
    pair.lose = lambda sender, datagram: False
    pair.run(3.0)
    ue = pair.ue.live
    assert pair.ue.has(AddressUpdateFailed)
    assert {ue.path.local, *(child.spec.path.local for child in ue.children.values())} == {A}


def test_move_behind_a_nat_and_out_again() -> None:
    """U110: NAT detection is repeated with every update."""
    pair = Pair().attach()
    assert not pair.ue.take(Established).nat.encapsulation
    assert not pair.epdg.take(ChildSaInstalled).spec.encapsulation
    pair.translate = {B: NAT_OUTSIDE}
    pair.roam(ACCESS_B)
    pair.run(1.0)
    moved = pair.epdg.take(AddressesUpdated)
    assert (moved.nat.remote, moved.nat.local, moved.new.remote) == (True, False, NAT_OUTSIDE)
    assert pair.ue.take(AddressesUpdated).nat.local
    assert pair.epdg.take(ChildSaPathChanged).encapsulation
    pair.roam(ACCESS_A)
    pair.run(1.0)
    assert not pair.epdg.take(AddressesUpdated).nat.remote
    assert not pair.epdg.take(ChildSaPathChanged).encapsulation
    assert not pair.ue.take(AddressesUpdated).nat.encapsulation


def test_a_nat_that_appears_where_the_ue_is_and_one_that_vanishes() -> None:
    """§3.8: nothing has moved but the mapping; a hint (ESP falls silent) has it found out, an update tells of it."""
    pair = Pair().attach()
    pair.run(1.0)
    for outside, encapsulation in ((NAT_OUTSIDE, True), (None, False)):
        pair.translate = {} if outside is None else {A: outside}
        pair.ue.endpoint.suspect(pair.ue.live, pair.now)
        pair.run(1.0)
        for node in (pair.ue, pair.epdg):
            assert [child.spec.encapsulation for child in node.live.children.values()] == [encapsulation]
        assert pair.epdg.live.path.remote == (outside or A)


def test_keepalives_only_behind_a_nat() -> None:
    """RFC 3948 §4."""
    pair = Pair().attach()
    pair.run(100.0)
    assert not [d for _, d in pair.seen if d.payload == b"\xff"]
    pair.translate = {B: NAT_OUTSIDE}
    pair.roam(ACCESS_B)
    pair.run(61.0)
    assert len([d for _, d in pair.seen if d.payload == b"\xff"]) == 3


def test_move_while_a_request_is_in_flight() -> None:
    """§3.5: the outstanding exchange finishes from the new address before the update is sent."""
    pair = Pair().attach()
    pair.lose_next("ue")
    pair.ue.endpoint.initiate(pair.ue.live, Liveness(), pair.now)
    pair.run(0.1)
    pair.roam(ACCESS_B)
    pair.run(1.0)
    assert pair.wire[-4].startswith("--> INFORMATIONAL request 5 [ N(UPDATE_SA_ADDRESSES)")
    assert remote(pair) == [B, B]


def test_move_while_the_gateway_deletes_the_sa() -> None:
    """§3.5: the DELETE that was lost on the old path follows the update to the new one."""
    pair = Pair().attach()
    pair.lose = lambda sender, datagram: sender == "epdg" and datagram.path.remote == A
    pair.epdg.endpoint.initiate(pair.epdg.live, DeleteIkeSa("detached by the operator"), pair.now)
    pair.run(0.2)
    pair.roam(ACCESS_B)
    pair.run(0.2)
    assert pair.ue.has(Closed)
    assert pair.epdg.has(Closed)
    assert not pair.epdg.has(AddressesUpdated)


def test_rekey_right_after_the_update() -> None:
    """What strongSwan does: CREATE_CHILD_SA before the check is through is answered."""
    pair = Pair().attach()
    pair.roam(ACCESS_B)
    pair.ue.endpoint.initiate(pair.ue.live, RekeyChild(next(iter(pair.ue.live.children))), pair.now)
    pair.run(2.0)
    assert remote(pair) == [B, B]
    assert len(pair.epdg.live.children) == 1


def test_wrong_cookie2_closes_the_ike_sa() -> None:
    """§3.7."""
    pair = Pair().attach()
    sa = pair.ue.live
    suite, keys = sa.established_keys()
    pair.lose = lambda sender, datagram: sender == "ue" and datagram.payload[19] & 0x20 != 0
    pair.roam(ACCESS_B)
    pair.run(0.1)
    forged = Message(
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        exchange=ExchangeType.INFORMATIONAL,
        original_initiator=True,
        response=True,
        message_id=0,
        payloads=(NotifyPayload(type=NotifyType.COOKIE2, data=bytes(16)),),
    )
    octets = Sealer(suite, keys, True, SeededEntropy(9)).seal(forged)
    pair.epdg.endpoint.receive(Datagram(sa.path.reversed(), octets), pair.now)
    pair.lose = lambda sender, datagram: False
    pair.run(1.0)
    assert "COOKIE2" in pair.epdg.take(Closed).why
    assert not pair.epdg.has(AddressesUpdated)


def test_probe_from_another_address_moves_nothing() -> None:
    """strongSwan's path probe: answered where it came from, no switch."""
    pair = Pair().attach()
    pair.ue.endpoint.initiate(pair.ue.live, Liveness(), pair.now)
    pair.lose = lambda sender, datagram: sender == "ue"
    pair.run(0.0)
    probe = pair.seen[-1][1]
    from_b = Datagram(probe.path.reversed(), probe.payload)
    from_b = Datagram(type(from_b.path)(from_b.path.local, B), probe.payload)
    pair.epdg.endpoint.receive(from_b, pair.now)
    pair.run(0.005)
    assert pair.seen[-1][0] == "epdg"
    assert pair.seen[-1][1].path.remote == B
    assert remote(pair) == [A, A]


def test_cookie2_of_the_ue_is_echoed() -> None:
    """§3.7: strongSwan sends its own in UPDATE_SA_ADDRESSES and closes the SA unless it comes back."""
    pair = Pair().attach()
    sa = pair.ue.live
    suite, keys = sa.established_keys()
    request = Message(
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        exchange=ExchangeType.INFORMATIONAL,
        original_initiator=True,
        response=False,
        message_id=4,
        payloads=(
            NotifyPayload(type=NotifyType.UPDATE_SA_ADDRESSES),
            NotifyPayload(type=NotifyType.COOKIE2, data=b"strongswan cookie"),
        ),
    )
    octets = Sealer(suite, keys, True, SeededEntropy(9)).seal(request)
    pair.epdg.endpoint.receive(Datagram(sa.path.reversed(), octets), pair.now)
    pair.run(0.001)
    responses = [line for line in pair.wire if line.startswith("<-- INFORMATIONAL response 4")]
    assert responses[0].endswith("N(COOKIE2) ]")
    assert sum("N(COOKIE2)" in line for line in pair.wire) == 2  # the echo, and our own check as a request


def test_refused_update_leaves_the_sa_where_it_was() -> None:
    """U105: UNACCEPTABLE_ADDRESSES; IKE and ESP are both at the old address afterwards."""
    pair = Pair().attach()
    gateway = pair.epdg.live
    suite, keys = gateway.established_keys()
    pair.lose = lambda sender, datagram: sender == "ue"
    pair.roam(ACCESS_B)
    pair.run(0.001)
    refusal = Message(
        spi_i=gateway.spi_i,
        spi_r=gateway.spi_r,
        exchange=ExchangeType.INFORMATIONAL,
        original_initiator=False,
        response=True,
        message_id=4,
        payloads=(NotifyPayload(type=NotifyType.UNACCEPTABLE_ADDRESSES),),
    )
    octets = Sealer(suite, keys, False, SeededEntropy(9)).seal(refusal)
    pair.ue.endpoint.receive(Datagram(pair.ue.live.path, octets), pair.now)
    pair.run(0.001)
    assert "UNACCEPTABLE_ADDRESSES" in pair.ue.take(AddressUpdateFailed).why
    ue = pair.ue.live
    assert {ue.path.local, *(child.spec.path.local for child in ue.children.values())} == {A}


def test_without_mobike_nothing_moves() -> None:
    """§3.2: the UE may not, and a gateway ignores an update."""
    pair = Pair(epdg=responder_config(mobike=False)).attach()
    with pytest.raises(LocalError, match="MOBIKE"):
        pair.roam(ACCESS_B)
    other = Pair(initiator_config(mobike=False)).attach()
    assert not other.epdg.take(Established).mobike
    assert "MOBIKE_SUPPORTED" not in "".join(other.wire)


def test_a_hundred_moves_leak_nothing() -> None:
    """U116."""
    pair = Pair().attach()
    before = spis(pair)
    for number in range(100):
        pair.roam(ACCESS_A if number % 2 else ACCESS_B)
        pair.run(0.6)
    assert spis(pair) == before
    assert len([e for e in pair.epdg.events if isinstance(e, AddressesUpdated)]) == 100
    assert pair.epdg.live.window.outstanding is pair.ue.live.window.outstanding is None


def forge(pair: Pair, sender: str, message_id: int, *payloads: Payload, response: bool = False) -> Datagram:
    """A message under the SA's keys that the machine of ``sender`` would not send, as the other end sees it."""
    sa = pair.ue.live if sender == "ue" else pair.epdg.live
    suite, keys = sa.established_keys()
    message = Message(
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        exchange=ExchangeType.INFORMATIONAL,
        original_initiator=sender == "ue",
        response=response,
        message_id=message_id,
        payloads=payloads,
    )
    octets = Sealer(suite, keys, sender == "ue", SeededEntropy(9)).seal(message)
    return Datagram(sa.path.reversed(), octets)


class BusyUe:
    """Answers the gateway's requests with TEMPORARY_FAILURE, as Android does while its update is outstanding."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self.checks = 0
        pair.lose = lambda sender, datagram: sender == "ue" and datagram.payload[19] & 0x20 != 0

    def run(self, seconds: float) -> None:
        pair = self._pair
        end = pair.now + seconds
        while pair.now < end:
            outstanding = pair.epdg.live.window.outstanding
            if outstanding is not None and pair.epdg.live.state is SaState.ESTABLISHED:
                self.checks += 1
                busy = NotifyPayload(type=NotifyType.TEMPORARY_FAILURE)
                answer = forge(pair, "ue", outstanding.message_id, busy, response=True)
                pair.epdg.endpoint.receive(answer, pair.now)
            pair.run(0.05)

    def relent(self) -> None:
        self._pair.lose = lambda sender, datagram: False


def test_temporary_failure_postpones_the_check() -> None:
    """Android answers it as long as it has not seen our response to its update: nothing is wrong with the SA."""
    pair = Pair().attach()
    ue = BusyUe(pair)
    pair.roam(ACCESS_B)
    ue.run(1.0)
    assert remote(pair) == [B, A]
    assert ue.checks == 2
    cookies = [line for line in pair.wire if "<-- INFORMATIONAL request" in line and "again" not in line]
    assert len(cookies) == len(set(cookies)) == 2  # fresh ones, each a request of its own
    ue.relent()
    pair.run(2.0)
    assert remote(pair) == [B, B]
    assert pair.epdg.take(AddressesUpdated).validated


def test_temporary_failure_for_ever_is_no_answer() -> None:
    pair = Pair().attach()
    ue = BusyUe(pair)
    pair.roam(ACCESS_B)
    ue.run(20.0)
    assert "not answered" in pair.epdg.take(AddressUpdateFailed).why
    assert remote(pair) == [A, A]
    ue.run(60.0)
    assert ue.checks == 12  # six for the new address, six for the one returned to
    assert pair.epdg.live.state is SaState.ESTABLISHED


def test_newer_update_supersedes_a_postponed_check() -> None:
    pair = Pair().attach()
    ue = BusyUe(pair)
    pair.roam(ACCESS_B)
    ue.run(0.1)
    ue.relent()
    pair.roam(ACCESS_A)
    pair.run(0.1)
    assert pair.epdg.take(AddressesUpdated).new.remote == A
    count = len(pair.wire)
    pair.run(30.0)
    assert len(pair.wire) == count


def test_answer_to_the_check_after_a_roll_back_does_not_end_a_newer_one() -> None:
    """Checks of A (returned to) and of C cross: C is not adopted before its own check, and is rolled back."""
    pair = Pair().attach()
    gateway = pair.epdg.live
    other = Endpoint.of("198.51.100.99", 4500)
    pair.deaf = {B}
    pair.roam(ACCESS_B)
    pair.run(3.535)  # rolled back; the old check is answered from A, the fresh one is on its way
    assert gateway.window.outstanding is not None
    fresh = gateway.window.outstanding.message_id
    assert fresh == 1
    pair.lose = lambda sender, datagram: sender == "ue" and datagram.payload[19] & 0x20 != 0
    pair.deaf = set()
    pair.translate = {other: NAT_OUTSIDE}
    pair.roam(other)
    pair.run(0.1)
    assert gateway.path.remote == NAT_OUTSIDE
    pair.deaf = {other}
    pair.lose = lambda sender, datagram: False
    cookie = next(d for s, d in reversed(pair.seen) if s == "ue" and d.payload[20:24] == bytes([0, 0, 0, fresh]))
    pair.epdg.endpoint.receive(Datagram(gateway.path, cookie.payload), pair.now)
    pair.run(0.05)
    assert remote(pair) == [NAT_OUTSIDE, A]
    assert not next(iter(gateway.children.values())).spec.encapsulation
    pair.run(5.0)
    assert remote(pair) == [A, A]
    assert not gateway.nat.encapsulation
    assert not next(iter(gateway.children.values())).spec.encapsulation


def test_response_to_the_update_leaves_before_anything_else() -> None:
    """What was outstanding is sent again after it: a UE with its update outstanding takes no request."""
    pair = Pair().attach()
    pair.lose_next("epdg")
    pair.epdg.endpoint.initiate(pair.epdg.live, Liveness(), pair.now)
    pair.run(0.1)
    count = len(pair.wire)
    pair.roam(ACCESS_B)
    pair.run(0.1)
    assert [line.split(" [")[0] for line in pair.wire[count:]] == [
        "--> INFORMATIONAL request 4",
        "<-- INFORMATIONAL response 4",
        "<-- INFORMATIONAL request 0",
        "--> INFORMATIONAL response 0",
        "<-- INFORMATIONAL request 1",
        "--> INFORMATIONAL response 1",
    ]
    assert remote(pair) == [B, B]


@pytest.mark.parametrize("limit", [0, 2])
def test_retransmission_limit_at_a_new_address_rolls_back(limit: int) -> None:
    """A limit that is reached before the check's interval is over blames the address, not the peer."""
    pair = Pair(epdg=responder_config(retransmission=RetransmissionPolicy(limit=limit))).attach()
    pair.deaf = {B}
    pair.roam(ACCESS_B)
    pair.run(3.6)
    assert pair.epdg.take(AddressUpdateFailed).new.remote == B
    assert pair.epdg.live.state is SaState.ESTABLISHED
    assert remote(pair) == [A, A]


def test_request_that_blocks_the_check_rolls_back_at_its_limit() -> None:
    """The check never left, since a liveness request waits for its answer from an address that is deaf."""
    pair = Pair().attach()
    pair.lose_next("epdg")
    pair.epdg.endpoint.initiate(pair.epdg.live, Liveness(), pair.now)
    pair.deaf = {B}
    pair.roam(ACCESS_B)
    pair.run(31.0)
    assert remote(pair) == [B, A]
    pair.run(1.0)
    assert remote(pair) == [A, A]
    assert pair.epdg.take(AddressUpdateFailed)
    assert pair.epdg.live.state is SaState.ESTABLISHED


def test_roll_back_restores_keepalives() -> None:
    """RFC 3948 §4: a gateway behind a NAT goes on with them when it is back on the path that has the NAT."""
    pair = Pair().attach()
    gateway = pair.epdg.live
    gateway.nat = gateway.mobility.validated_nat = NatStatus(local=True)
    pair.deaf = {B}
    pair.roam(ACCESS_B)
    pair.run(3.6)
    assert gateway.nat.local
    count = len(pair.seen)
    pair.run(25.0)
    assert [d for s, d in pair.seen[count:] if s == "epdg" and d.payload == b"\xff"]
