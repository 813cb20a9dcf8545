"""MOBIKE's paths (RFC 4555 §3.5, §3.7, §3.8, §3.10, §3.11; RFC 4621 §5.4) in pairs on virtual time."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from protocols.errors import LocalError
from protocols.ikev2.config import ReturnRoutability
from protocols.ikev2.events import (
    AddressesUpdated,
    AddressUpdateFailed,
    ChildSaPathChanged,
    Closed,
    EspFollowed,
    NatStatus,
    PathSuspected,
    SaState,
    Suspended,
)
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.registry import NotifyType
from protocols.ikev2.tasks import mobike
from protocols.ikev2.tasks.informational import Liveness
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.path import Datagram, Endpoint, Path
from tests.harness.pair import ACCESS_A, ACCESS_B, Pair, initiator_config, responder_config
from tests.machines.test_mobike import NAT_OUTSIDE, A, B, forge, remote
from tests.machines.test_mobike_addresses import C6, R1, R2, R6, cut, gateway_addresses, gateway_lists

NAT_500 = Endpoint.of("203.0.113.77", 60500)
REBOUND = Endpoint.of("203.0.113.78", 62000)


def probe(pair: Pair, seconds: float = 0.0) -> None:
    """The UE asks whether the gateway lives."""
    pair.ue.endpoint.initiate(pair.ue.live, Liveness(), pair.now)
    pair.run(seconds)


def esp_path(pair: Pair) -> Path:
    return next(iter(pair.epdg.live.children.values())).spec.path


def esp_from(pair: Pair, source: Endpoint) -> bool:
    """What the gateway's data plane reports of authentic ESP."""
    sa = pair.epdg.live
    spi = next(iter(sa.children))
    followed = pair.epdg.endpoint.esp_heard_from(sa, spi, Path(sa.path.local, source), pair.now)
    pair.run(0.0)
    return followed


# --- path testing (§3.10)


def test_gateway_address_that_falls_silent() -> None:
    """RFC 4555 §2.2: after the path in use the other pair, then UPDATE_SA_ADDRESSES there; within three seconds."""
    pair = gateway_lists(R2).attach()
    cut(pair, R1)
    count, start = len(pair.wire), pair.now
    pair.ue.endpoint.suspect(pair.ue.live, pair.now)
    pair.run(3.0)
    detection = "[ N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP) ]"
    question = f"--> INFORMATIONAL request 4 {detection}"
    assert pair.wire[count:] == [
        question,
        *[f"{question} (again)"] * (24 + 1),  # in doubt, and by the clock of retransmission
        f"{question} (again)",  # on the other pair
        f"<-- INFORMATIONAL response 4 {detection}",
        "--> INFORMATIONAL request 5 [ N(UPDATE_SA_ADDRESSES), "
        "N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP) ]",
        "<-- INFORMATIONAL response 5 [ N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP) ]",
        "<-- INFORMATIONAL request 0 [ N(COOKIE2) ]",
        "--> INFORMATIONAL response 0 [ N(COOKIE2) ]",
    ]
    assert gateway_addresses(pair) == [R2, R2]
    assert pair.epdg.live.path.local == R2
    assert pair.ue.take(PathSuspected).path.remote == R1
    assert pair.now - start <= 3.0


def test_pairs_in_order_of_preference_and_of_one_version() -> None:
    """IPv4 goes with IPv4, IPv6 with IPv6; our own order first, then the peer's."""
    pair = gateway_lists(R2, R6).attach()
    pair.ue.endpoint.set_addresses(pair.ue.live, [A, B, C6], pair.now, tell=False)
    assert pair.ue.live.mobility.pairs(pair.ue.live) == [Path(A, R2), Path(B, R1), Path(B, R2), Path(C6, R6)]


def test_address_that_the_peer_has_no_more_is_not_tried() -> None:
    pair = gateway_lists(R6).attach()
    alone = forge(pair, "epdg", 0, NotifyPayload(type=NotifyType.NO_ADDITIONAL_ADDRESSES))
    pair.ue.endpoint.receive(Datagram(Path(A, R6), alone.payload), pair.now)  # nothing to go there by
    pair.ue.endpoint.set_addresses(pair.ue.live, [A, B], pair.now, tell=False)
    assert pair.ue.live.mobility.pairs(pair.ue.live) == []
    assert gateway_addresses(pair) == [R1, R1]


def test_silence_over_ipv4_is_left_by_ipv6() -> None:
    pair = gateway_lists(R6).attach()
    pair.ue.endpoint.set_addresses(pair.ue.live, [A, C6], pair.now, tell=False)
    cut(pair, R1)
    probe(pair, 3.0)
    assert pair.ue.live.path == Path(C6, R6)
    assert pair.epdg.live.path == Path(R6, C6)
    assert esp_path(pair) == Path(R6, C6)


def test_ue_leaves_a_dead_access_for_another() -> None:
    pair = Pair().attach()
    pair.ue.endpoint.set_addresses(pair.ue.live, [A, B], pair.now, tell=False)
    cut(pair, A)
    probe(pair, 3.0)
    assert remote(pair) == [B, B]
    assert pair.ue.take(AddressesUpdated).new.local == B


def test_path_that_answers_late_keeps_the_sa() -> None:
    """The current path is tested with the rest; its answer ends the test."""
    pair = gateway_lists(R2).attach()
    pair.lose = lambda sender, datagram: pair.now < 6.2
    probe(pair, 3.0)
    assert gateway_addresses(pair) == [R1, R1]
    assert not pair.ue.has(AddressesUpdated)


def test_probes_are_bounded() -> None:
    """The path in use 24 times, the pairs one every tenth of a second in four rounds, then the SA ends as ever."""
    pair = gateway_lists(R2, Endpoint.of("203.0.113.3", 4500)).attach()
    cut(pair, R1, R2, Endpoint.of("203.0.113.3", 4500))
    count = len(pair.seen)
    probe(pair, 60.0)
    assert pair.ue.live.state is SaState.CLOSED
    sent = [d.path.remote for _, d in pair.seen[count:]]
    assert sent.count(R1) == 1 + 5 + 24  # the request, its retransmissions, and the doubt
    assert len(sent) - sent.count(R1) == 2 * 3 * 4  # two other pairs, each three times a round, four rounds


def test_hint_about_a_path_that_loses_packets_moves_nothing() -> None:
    """Twenty of the questions are lost one after the other: the path in use is kept, nobody is told of it."""
    pair = Pair().attach()
    pair.ue.endpoint.set_addresses(pair.ue.live, [A, B], pair.now, tell=False)
    count, lost = len(pair.seen), pair.now + 1.0
    pair.lose = lambda sender, datagram: pair.now < lost
    pair.ue.endpoint.suspect(pair.ue.live, pair.now)
    pair.run(5.0)
    assert not [d for s, d in pair.seen[count:] if d.path.local == B]
    assert not pair.ue.has(PathSuspected)
    assert remote(pair) == [A, A]


def test_what_the_peer_asks_speaks_for_the_path() -> None:
    """The questions are lost, a request of the gateway's arrives: they are asked anew, and this time answered."""
    pair = Pair().attach()
    pair.ue.endpoint.set_addresses(pair.ue.live, [A, B], pair.now, tell=False)
    start, count = pair.now, len(pair.seen)
    pair.lose = lambda sender, datagram: sender == "ue" and pair.now < start + 1.8
    pair.ue.endpoint.suspect(pair.ue.live, pair.now)
    pair.run(0.5)
    pair.epdg.endpoint.initiate(pair.epdg.live, Liveness(), pair.now)
    pair.run(5.0)
    assert not [d for s, d in pair.seen[count:] if s == "ue" and d.path.local == B]
    assert remote(pair) == [A, A]


def test_path_of_one_direction_is_none() -> None:
    """RFC 4621 §5.1.2: the gateway is heard all the time and hears nothing; after three doubts others are tried."""
    pair = Pair().attach()
    pair.ue.endpoint.set_addresses(pair.ue.live, [A, B], pair.now, tell=False)
    pair.lose = lambda sender, datagram: sender == "ue" and datagram.path.local == A
    start = pair.now
    pair.ue.endpoint.suspect(pair.ue.live, pair.now)
    while pair.now < start + 5.0:
        pair.ue.live.heard(pair.now)  # ESP, say
        pair.run(0.1)
        assert pair.now > start + 3.5 or pair.ue.live.path.local == A
    assert remote(pair) == [B, B]


def test_no_test_where_it_is_off() -> None:
    pair = gateway_lists(R2, path_test_after=None).attach()
    cut(pair, R1)
    probe(pair, 10.0)
    assert {d.path.remote for s, d in pair.seen if s == "ue" and d.path.remote.port == 4500} == {R1}


def test_gateway_does_not_test_paths() -> None:
    """§2.1: the initiator decides, and collects what it needs for it."""
    pair = Pair(initiator_config(additional_addresses=(B.address,))).attach()
    cut(pair, A)
    pair.epdg.endpoint.initiate(pair.epdg.live, Liveness(), pair.now)
    pair.run(10.0)
    assert not [d for s, d in pair.seen if s == "epdg" and d.path.remote.address == B.address]


def test_update_to_a_deaf_access_ends_at_a_path_that_answers() -> None:
    """The pair that answered gets an update of its own: the gateway may have taken the other one."""
    pair = Pair().attach()
    pair.ue.endpoint.set_addresses(pair.ue.live, [A, B], pair.now, tell=False)
    pair.deaf = {B}
    pair.roam(ACCESS_B)
    pair.run(3.0)
    assert pair.ue.take(AddressesUpdated).new.local == A
    assert remote(pair) == [A, A]
    updates = [line for line in pair.wire if "UPDATE_SA_ADDRESSES" in line and "again" not in line]
    assert len(updates) == 2


def test_update_that_was_sent_from_several_addresses_is_sent_again() -> None:
    """§3.5, §3.10: the gateway may have taken a copy from another pair for the move; the UE says where it is."""
    pair = Pair(initiator_config(additional_addresses=(A.address,))).attach()
    other = Endpoint.of("198.51.100.7", 4500)
    pair.ue.endpoint.set_addresses(pair.ue.live, [B, other], pair.now, tell=False)
    pair.lose = lambda sender, datagram: (
        (sender, datagram.path.local) == ("ue", B) or ((sender, datagram.path.remote) == ("epdg", other))
    )
    pair.run(1.8)
    assert pair.epdg.live.path.remote == other  # by a copy that was a probe
    pair.lose = lambda sender, datagram: (sender, datagram.path.remote) == ("epdg", other)
    pair.run(10.0)
    assert pair.ue.live.path.local == B
    assert remote(pair) == [B, B]
    assert pair.epdg.live.nat == NatStatus()


def test_hint_is_not_asked_twice() -> None:
    """§3.5: unreliable information triggers liveness, once at a time."""
    pair = Pair().attach()
    pair.lose = lambda sender, datagram: True
    for _ in range(3):
        pair.ue.endpoint.suspect(pair.ue.live, pair.now)
    pair.run(0.1)
    pair.lose = lambda sender, datagram: False
    pair.run(3.0)
    assert sum("--> INFORMATIONAL" in line and "again" not in line for line in pair.wire) == 1


# --- the UE's own COOKIE2 (§3.7)


def test_update_with_a_cookie_as_strongswan_sends_it() -> None:
    pair = Pair(initiator_config(update_cookie=True)).attach()
    pair.roam(ACCESS_B)
    pair.run(1.0)
    updates = [line for line in pair.wire if " 4 [" in line and "INFORMATIONAL" in line]
    assert all(line.endswith("N(COOKIE2) ]") for line in updates)
    assert remote(pair) == [B, B]


@pytest.mark.parametrize("returned", [b"", bytes(16)])
def test_update_whose_cookie_does_not_come_back_closes(returned: bytes) -> None:
    pair = Pair(initiator_config(update_cookie=True)).attach()
    pair.lose = lambda sender, datagram: sender == "epdg"
    pair.roam(ACCESS_B)
    pair.run(0.015)
    payloads = (NotifyPayload(type=NotifyType.COOKIE2, data=returned),) if returned else ()
    pair.ue.endpoint.receive(forge(pair, "epdg", 4, *payloads, response=True), pair.now)
    pair.lose = lambda sender, datagram: False
    pair.run(1.0)
    assert pair.ue.live.state is SaState.CLOSED
    assert "COOKIE2" in pair.ue.take(Closed).why


# --- a path that is deaf for longer than the check and then hears


def test_path_that_hears_again_after_the_roll_back() -> None:
    """The cached answer to the repeated update makes the UE believe; one fresh check makes it true."""
    pair = Pair().attach()
    pair.deaf = {B}
    pair.roam(ACCESS_B)
    pair.run(5.0)
    assert pair.epdg.take(AddressUpdateFailed)
    assert remote(pair) == [A, A]
    pair.deaf = set()
    pair.run(5.0)
    assert pair.ue.take(AddressesUpdated).new.local == B
    moved = pair.epdg.take(AddressesUpdated)
    assert (moved.new.remote, moved.validated) == (B, True)
    assert remote(pair) == [B, B]


def test_replayed_updates_start_a_bounded_number_of_checks() -> None:
    pair = Pair().attach()
    pair.deaf = {B}
    pair.roam(ACCESS_B)
    pair.run(4.0)
    update = next(d for s, d in reversed(pair.seen) if s == "ue" and d.path.local == B)
    pair.roam(ACCESS_A)
    pair.lose = lambda sender, datagram: sender == "ue" and datagram.path.local == A and pair.now < 60
    pair.run(0.1)
    for _ in range(20):
        pair.epdg.endpoint.receive(Datagram(update.path.reversed(), update.payload), pair.now)
        pair.run(4.0)
    assert pair.epdg.live.mobility.rechecks == 5
    elsewhere = Datagram(Path(R1, NAT_OUTSIDE), update.payload)
    pair.epdg.endpoint.receive(elsewhere, pair.now)
    pair.run(0.1)
    assert NAT_OUTSIDE not in remote(pair)


def test_only_a_repeated_update_starts_another_check() -> None:
    """§3.8: another repeated request from the path that was given up moves nothing."""
    pair = Pair().attach()
    pair.deaf = {B}
    pair.roam(ACCESS_B)
    pair.run(4.0)
    for _ in range(2):
        pair.epdg.endpoint.receive(Datagram(Path(R1, B), forge(pair, "ue", 5).payload), pair.now)
        pair.run(0.1)
    assert pair.epdg.live.mobility.rechecks == 0
    assert remote(pair) == [A, A]


# --- NAT mappings (§3.8)


def behind_nat(**changes: object) -> Pair:
    pair = Pair(initiator_config(**changes))
    pair.translate = {ACCESS_A: NAT_500, A: NAT_OUTSIDE}
    return pair.attach()


def test_liveness_finds_a_changed_mapping() -> None:
    """§3.8: NAT detection in liveness checks; another hash than before leads to UPDATE_SA_ADDRESSES."""
    pair = behind_nat()
    count = len(pair.wire)
    probe(pair, 1.0)
    assert "N(NAT_DETECTION_DESTINATION_IP)" in pair.wire[count]
    assert "UPDATE_SA_ADDRESSES" in pair.wire[count + 2]  # IKE_SA_INIT's hash was that of port 500's mapping
    assert pair.epdg.take(AddressesUpdated).old.remote == NAT_OUTSIDE
    count = len(pair.wire)
    probe(pair, 1.0)
    assert len(pair.wire) == count + 2  # as before: nothing follows
    pair.translate = {A: REBOUND}
    probe(pair, 1.0)
    assert remote(pair) == [REBOUND, REBOUND]
    assert pair.epdg.take(AddressesUpdated).old.remote == NAT_OUTSIDE


def test_a_nat_that_appears_and_vanishes_is_found_by_a_hint() -> None:
    """§3.8: a check after a hint looks for a NAT where none was known; nothing follows where there is none."""
    pair = Pair().attach()
    count = len(pair.wire)
    pair.ue.endpoint.suspect(pair.ue.live, pair.now)
    pair.run(1.0)
    assert len(pair.wire) == count + 2
    for outside, behind in ((NAT_OUTSIDE, True), (A, False)):
        pair.translate = {A: outside}
        pair.ue.endpoint.suspect(pair.ue.live, pair.now)
        pair.run(1.0)
        assert remote(pair) == [outside, outside]
        assert pair.ue.live.nat.local is behind


def test_mapping_is_compared_with_the_last_update() -> None:
    pair = behind_nat()
    pair.translate = {B: NAT_OUTSIDE}
    pair.roam(ACCESS_B)
    pair.run(1.0)
    count = len(pair.wire)
    probe(pair, 1.0)
    assert len(pair.wire) == count + 2
    pair.translate = {B: REBOUND}
    probe(pair, 1.0)
    assert remote(pair) == [REBOUND, REBOUND]


def test_liveness_is_empty_without_a_nat_or_where_it_is_off() -> None:
    for pair in (Pair().attach(), behind_nat(detect_mapping_changes=False)):
        probe(pair, 1.0)
        assert "--> INFORMATIONAL request 4 [ ]" in pair.wire


def test_ike_never_follows_a_mapping() -> None:
    """§3.8: "MUST NOT use these dynamic updates for IKEv2 packets"."""
    pair = behind_nat(detect_mapping_changes=False)
    pair.translate = {A: REBOUND}
    probe(pair, 1.0)
    pair.ue.endpoint.initiate(pair.ue.live, RekeyChild(next(iter(pair.ue.live.children))), pair.now)
    pair.run(1.0)
    assert set(remote(pair)) == {NAT_OUTSIDE}


def test_esp_follows_esp_behind_a_nat() -> None:
    """§3.8: "but MAY use them for ESP packets"; IKE stays until the UE finds out."""
    pair = behind_nat()
    pair.translate = {A: REBOUND}
    assert esp_from(pair, REBOUND)
    assert remote(pair) == [NAT_OUTSIDE, REBOUND]
    assert pair.epdg.take(EspFollowed).old.remote == NAT_OUTSIDE
    assert pair.epdg.take(ChildSaPathChanged).path.remote == REBOUND
    probe(pair, 1.0)
    assert remote(pair) == [REBOUND, REBOUND]


def test_esp_is_not_followed_where_it_must_not() -> None:
    """Only behind a NAT, only by policy, not into a move that is being checked, not to nowhere."""
    assert not esp_from(Pair().attach(), REBOUND)
    off = Pair(epdg=responder_config(follow_esp=False))
    off.translate = {ACCESS_A: NAT_500, A: NAT_OUTSIDE}
    assert not esp_from(off.attach(), REBOUND)
    moving = behind_nat()
    moving.deaf = {B}
    moving.translate = {A: NAT_OUTSIDE, B: REBOUND}
    moving.roam(ACCESS_B)
    moving.run(0.1)
    assert not esp_from(moving, REBOUND)
    moving.run(4.0)
    assert moving.epdg.take(AddressUpdateFailed)
    assert not esp_from(moving, REBOUND)  # the path that was found wanting
    assert remote(moving)[1] == NAT_OUTSIDE
    moving.roam(ACCESS_A)
    moving.run(4.0)
    assert esp_from(moving, REBOUND)  # it has been elsewhere since
    assert not esp_from(behind_nat(), Endpoint.of("224.0.0.1", 4500))
    assert not behind_nat().epdg.live.esp_heard_from(b"none", Path(R1, REBOUND), 9.0)


def test_roll_back_returns_esp_to_where_it_had_followed() -> None:
    pair = Pair(epdg=responder_config(return_routability=ReturnRoutability.AFTER_UPDATE))
    pair.translate = {ACCESS_A: NAT_500, A: NAT_OUTSIDE}
    pair.attach()
    assert esp_from(pair, REBOUND)
    pair.deaf = {B}
    pair.roam(ACCESS_B)
    pair.run(4.0)
    assert pair.epdg.take(AddressUpdateFailed)
    assert remote(pair) == [NAT_OUTSIDE, REBOUND]
    pair.run(8.0)  # the repeated update is checked once more, and rolled back once more
    assert pair.epdg.take(AddressUpdateFailed)
    assert remote(pair) == [NAT_OUTSIDE, REBOUND]


# --- peers without MOBIKE


def without_mobike(*, nat: bool, **changes: object) -> Pair:
    pair = Pair(initiator_config(mobike=False), responder_config(**changes))
    if nat:
        pair.translate = {ACCESS_A: NAT_500, A: NAT_OUTSIDE}
    return pair.attach()


def rebind(pair: Pair) -> None:
    """The mapping changes, or a UE without a NAT sends from elsewhere."""
    pair.translate = {ACCESS_A: REBOUND, A: REBOUND}


def test_without_mobike_new_packets_of_a_nated_peer_move_it() -> None:
    """RFC 7296 §2.23: "all packets (including retransmission packets) to the IP address and port"."""
    pair = without_mobike(nat=True)
    rebind(pair)
    probe(pair, 1.0)
    assert remote(pair) == [REBOUND, REBOUND]
    assert pair.epdg.take(AddressesUpdated).validated is False


def test_without_mobike_replayed_packets_move_nothing() -> None:
    """RFC 7296 §2.23: "only ... in response to a new packet"."""
    pair = without_mobike(nat=True)
    probe(pair, 1.0)
    old = next(d for s, d in reversed(pair.seen) if s == "ue")
    pair.epdg.endpoint.receive(Datagram(Path(R1, REBOUND), old.payload), pair.now)
    pair.run(1.0)
    assert set(remote(pair)) == {NAT_OUTSIDE}


def test_without_mobike_and_nat_packets_move_nothing_but_a_rekey_does() -> None:
    """Android's way to move where the gateway has no MOBIKE."""
    for allowed in (True, False):
        pair = without_mobike(nat=False, move_by_rekey=allowed)
        where = remote(pair)[0]
        rebind(pair)
        probe(pair, 1.0)
        assert set(remote(pair)) == {where}
        pair.ue.endpoint.initiate(pair.ue.live, RekeyChild(next(iter(pair.ue.live.children))), pair.now)
        pair.run(1.0)
        assert set(remote(pair)) == ({REBOUND} if allowed else {where})
        assert pair.epdg.has(AddressesUpdated) is allowed
        assert len(pair.epdg.live.children) == 1


def test_without_mobike_esp_moves_everything() -> None:
    pair = without_mobike(nat=True)
    assert esp_from(pair, REBOUND)
    assert remote(pair) == [REBOUND, REBOUND]


# --- IPv4 and IPv6


def test_from_ipv4_to_ipv6_and_back() -> None:
    pair = gateway_lists(R6).attach()
    for here, there in ((C6, R6), (A, R1)):
        pair.ue.endpoint.move(pair.ue.live, Path(here, there), pair.now)
        pair.run(1.0)
        assert pair.ue.take(AddressesUpdated).new == Path(here, there)
        assert pair.epdg.live.path == esp_path(pair) == Path(there, here)


# --- no address at all, and silence


WEEKEND = 2.5 * 86400


def test_weekend_without_an_address() -> None:
    """RFC 4621 §5.4: nothing is sent, the gateway holds the SA, and the next update resumes everything."""
    pair = Pair(
        initiator_config(liveness_interval=60.0),
        responder_config(liveness_interval=120.0, hold_lifetime=3 * 86400.0),
    ).attach()
    before = [*pair.ue.live.children, *pair.epdg.live.children]
    pair.ue.endpoint.suspend(pair.ue.live, pair.now)
    cut(pair, A)
    count = len(pair.seen)
    pair.run(WEEKEND)
    assert pair.ue.take(Suspended).path.local == A
    assert not [s for s, _ in pair.seen[count:] if s == "ue"]
    pair.lose = lambda sender, datagram: False
    pair.roam(ACCESS_B)
    pair.run(1.0)
    assert remote(pair) == [B, B]
    assert [*pair.ue.live.children, *pair.epdg.live.children] == before
    probe(pair, 1.0)
    assert pair.ue.live.window.outstanding is None


def test_request_that_was_outstanding_goes_on_after_the_pause() -> None:
    pair = Pair().attach()
    pair.lose = lambda sender, datagram: True
    probe(pair, 0.1)
    pair.ue.endpoint.suspend(pair.ue.live, pair.now)
    pair.run(600.0)
    assert pair.ue.live.state is SaState.ESTABLISHED
    pair.lose = lambda sender, datagram: False
    pair.roam(ACCESS_A)  # the same address again
    pair.run(1.0)
    assert pair.ue.live.window.outstanding is None
    assert pair.ue.take(AddressesUpdated).new.local == A


def test_the_same_address_again_ends_the_pause() -> None:
    """§3.6 with RFC 4621 §5.4: an address is there again, be it the one of before."""
    pair = Pair().attach()
    pair.ue.endpoint.set_addresses(pair.ue.live, [], pair.now)
    pair.run(60.0)
    pair.ue.endpoint.set_addresses(pair.ue.live, [A], pair.now)
    assert not pair.ue.live.mobility.suspended
    pair.run(1.0)
    assert pair.ue.take(AddressesUpdated).new.local == A
    assert pair.epdg.has(AddressesUpdated)


def test_keepalives_go_on_after_the_pause() -> None:
    """RFC 3948 §4: also when the update that ends the pause is refused."""
    pair = Pair(epdg=responder_config(acceptable_addresses=(ip_network(f"{NAT_OUTSIDE.address}/32"),)))
    pair.translate = {A: NAT_OUTSIDE, ACCESS_A: NAT_OUTSIDE}
    pair.attach()
    pair.ue.endpoint.suspend(pair.ue.live, pair.now)
    pair.run(60.0)
    count = len(pair.seen)
    pair.roam(ACCESS_B)
    pair.run(30.0)
    assert pair.ue.has(AddressUpdateFailed)
    assert pair.ue.live.path.local == A
    assert b"\xff" in [datagram.payload for _, datagram in pair.seen[count:]]


def test_pause_is_silence_in_both_directions() -> None:
    pair = Pair().attach()
    pair.ue.endpoint.suspend(pair.ue.live, pair.now)
    count = len(pair.seen)
    pair.epdg.endpoint.initiate(pair.epdg.live, Liveness(), pair.now)
    probe(pair, 1.0)
    assert {s for s, _ in pair.seen[count:]} == {"epdg"}
    assert pair.ue.live.dropped["suspended"] == 2
    pair.roam(ACCESS_B)
    pair.run(2.0)
    assert remote(pair) == [B, B]
    assert pair.ue.live.window.outstanding is pair.epdg.live.window.outstanding is None


def test_setting_no_address_is_a_pause() -> None:
    pair = Pair().attach()
    pair.ue.endpoint.set_addresses(pair.ue.live, [], pair.now)
    assert pair.ue.live.mobility.suspended
    pair.ue.endpoint.set_addresses(pair.ue.live, [B], pair.now, tell=False)
    pair.run(1.0)
    assert remote(pair) == [B, B]


def test_silence_ends_nothing_before_its_time() -> None:
    """§3.11: retransmission backs off to its cap; then the SA ends."""
    pair = Pair(epdg=responder_config(hold_lifetime=300.0)).attach()
    heard = pair.epdg.live.mobility.heard_at
    pair.lose = lambda sender, datagram: True
    pair.epdg.endpoint.initiate(pair.epdg.live, Liveness(), pair.now)
    pair.run(heard + 299.0 - pair.now)
    assert pair.epdg.live.state is SaState.ESTABLISHED
    pair.run(2.0)
    assert pair.epdg.live.state is SaState.CLOSED
    sent = [s for s, _ in pair.seen if s == "epdg"]
    assert pair.epdg.live.window.retransmissions_sent == sum(line.endswith("(again)") for line in pair.wire)
    assert len(sent) < 30


def test_only_the_first_initiator_pauses() -> None:
    with pytest.raises(LocalError, match="first initiator"):
        Pair().attach().epdg.live.suspend(9.0)


# --- a rekeyed IKE SA


def test_successor_is_where_the_old_sa_is_and_finishes_its_move() -> None:
    """RFC 7296 §2.18 with RFC 4555 §3.8: the hashes have the SPIs in them, one update more may follow."""
    pair = gateway_lists(R2)
    pair.translate = {B: NAT_OUTSIDE}
    pair.attach()
    pair.lose = lambda sender, datagram: True
    pair.roam(ACCESS_B)
    fresh = Pair().attach()
    successor = fresh.ue.live
    mobike.succeed(pair.ue.live, successor)
    assert successor.path == pair.ue.live.path
    state = successor.mobility
    assert (state.negotiated, state.validated.local) == (True, A)
    assert set(state.peer_addresses) == {R1.address, R2.address}
    assert state.update is not None
    fresh.ue.endpoint.initiate(successor, Liveness(), fresh.now)
    fresh.run(1.0)
    assert any("UPDATE_SA_ADDRESSES" in line for line in fresh.wire)
