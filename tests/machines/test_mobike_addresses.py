"""MOBIKE's address lists, policies and prohibitions (RFC 4555 §3.4, §3.5, §3.6, §3.9) in pairs on virtual time."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from protocols.errors import LocalError
from protocols.ikev2.events import (
    AddressesUpdated,
    AddressUpdateFailed,
    Closed,
    Established,
    MessageSent,
    PeerAddressesChanged,
    Refused,
    SaState,
)
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.registry import NotifyType
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.path import Address, Datagram, Endpoint, Path
from tests.harness.pair import ACCESS_A, ACCESS_B, GATEWAY, Pair, initiator_config, responder_config
from tests.machines.test_mobike import NAT_OUTSIDE, A, B, forge, remote

R1 = Endpoint(GATEWAY.address, 4500)
R2 = Endpoint.of("203.0.113.2", 4500)
R6 = Endpoint.of("2001:db8::1", 4500)
C6 = Endpoint.of("2001:db8:c::1", 4500)


def gateway_lists(*addresses: Endpoint, **changes: object) -> Pair:
    """A gateway that tells of other addresses in IKE_AUTH."""
    return Pair(
        initiator_config(**changes),
        responder_config(additional_addresses=tuple(each.address for each in addresses)),
    )


def gateway_addresses(pair: Pair) -> list[Endpoint]:
    """Where the UE sends IKE and ESP."""
    sa = pair.ue.live
    return [sa.path.remote, *(child.spec.path.remote for child in sa.children.values())]


def cut(pair: Pair, *dead: Endpoint) -> None:
    """Nothing passes to or from these addresses any more."""
    addresses = {each.address for each in dead}

    def lose(sender: str, datagram: Datagram) -> bool:
        del sender
        return bool(addresses & {datagram.path.local.address, datagram.path.remote.address})

    pair.lose = lose


def peer_addresses(pair: Pair) -> set[Address]:
    return set(pair.ue.live.mobility.peer_addresses)


def last(pair: Pair, count: int) -> list[str]:
    return [line.split(" (again)")[0] for line in pair.wire[-count:]]


# --- lists


def test_lists_go_into_ike_auth() -> None:
    """§3.4: in the messages with the SA payload; stored, nothing more."""
    pair = Pair(
        initiator_config(additional_addresses=(B.address, C6.address)),
        responder_config(additional_addresses=(R2.address, R6.address)),
    ).attach()
    first = next(line for line in pair.wire if "--> IKE_AUTH request 1" in line)
    assert "N(MOBIKE_SUPPORTED), N(ADDITIONAL_IP4_ADDRESS), N(ADDITIONAL_IP6_ADDRESS)" in first
    final = [line for line in pair.wire if "<-- IKE_AUTH response" in line][-1]
    assert "N(MOBIKE_SUPPORTED), N(ADDITIONAL_IP4_ADDRESS), N(ADDITIONAL_IP6_ADDRESS)" in final
    assert peer_addresses(pair) == {R1.address, R2.address, R6.address}
    assert set(pair.epdg.live.mobility.peer_addresses) == {A.address, B.address, C6.address}
    assert gateway_addresses(pair) == [R1, R1]


def test_gateway_gains_an_address() -> None:
    """§3.6: the complete list, and nothing moves."""
    pair = Pair().attach()
    pair.epdg.endpoint.set_addresses(pair.epdg.live, [R1, R2], pair.now)
    pair.run(1.0)
    assert last(pair, 2) == [
        "<-- INFORMATIONAL request 0 [ N(ADDITIONAL_IP4_ADDRESS) ]",
        "--> INFORMATIONAL response 0 [ ]",
    ]
    assert set(pair.ue.take(PeerAddressesChanged).addresses) == {R1.address, R2.address}
    assert gateway_addresses(pair) == [R1, R1]
    assert not pair.ue.has(AddressesUpdated)


def test_list_is_replaced_as_a_whole() -> None:
    """§3.6: "there are no separate add/delete operations"."""
    pair = gateway_lists(R2, R6).attach()
    pair.epdg.endpoint.set_addresses(pair.epdg.live, [R1], pair.now)
    pair.run(1.0)
    assert "<-- INFORMATIONAL request 0 [ N(NO_ADDITIONAL_ADDRESSES) ]" in pair.wire
    assert peer_addresses(pair) == {R1.address}
    count = len(pair.wire)
    pair.epdg.endpoint.set_addresses(pair.epdg.live, [R1], pair.now)
    pair.run(1.0)
    assert len(pair.wire) == count  # the same list again is not told again


def test_ue_tells_its_list_too() -> None:
    pair = Pair().attach()
    pair.ue.endpoint.set_addresses(pair.ue.live, [A, B], pair.now)
    pair.run(1.0)
    assert set(pair.epdg.take(PeerAddressesChanged).addresses) == {A.address, B.address}
    assert remote(pair) == [A, A]


def test_update_brings_the_list_that_it_makes_wrong() -> None:
    """§3.6: "The initiator MAY include these notifications in the same request as UPDATE_SA_ADDRESSES"."""
    pair = Pair().attach()
    pair.ue.endpoint.set_addresses(pair.ue.live, [A, B], pair.now)
    pair.run(1.0)
    pair.ue.endpoint.set_addresses(pair.ue.live, [B], pair.now, tell=False)  # A is lost
    pair.run(1.0)
    update = next(line for line in pair.wire if "UPDATE_SA_ADDRESSES" in line)
    assert "N(NO_ADDITIONAL_ADDRESSES)" in update
    assert set(pair.epdg.live.mobility.peer_addresses) == {B.address}
    assert remote(pair) == [B, B]


def test_addresses_that_cannot_be_any_are_counted() -> None:
    """§4.2.2: 4 or 16 octets; multicast, loopback, unspecified and broadcast are nobody's."""
    pair = gateway_lists().attach()
    bad = ["224.0.0.1", "0.0.0.0", "127.0.0.1", "255.255.255.255"]
    payloads = [NotifyPayload(type=NotifyType.ADDITIONAL_IP4_ADDRESS, data=ip_address(a).packed) for a in bad]
    payloads += [
        NotifyPayload(type=NotifyType.ADDITIONAL_IP6_ADDRESS, data=ip_address(a).packed) for a in ("ff02::1", "fe80::1")
    ]
    payloads.append(NotifyPayload(type=NotifyType.ADDITIONAL_IP4_ADDRESS, data=bytes(16)))
    payloads.append(NotifyPayload(type=NotifyType.ADDITIONAL_IP4_ADDRESS, data=R2.address.packed))
    pair.ue.endpoint.receive(forge(pair, "epdg", 0, *payloads), pair.now)
    assert peer_addresses(pair) == {R1.address, R2.address}
    assert pair.ue.live.dropped["bad-additional-address"] == 7


def test_lists_are_bounded() -> None:
    pair = gateway_lists().attach()
    many = [ip_address(int(R2.address) + n).packed for n in range(100)]
    payloads = [NotifyPayload(type=NotifyType.ADDITIONAL_IP4_ADDRESS, data=each) for each in many]
    pair.ue.endpoint.receive(forge(pair, "epdg", 0, *payloads), pair.now)
    assert len(pair.ue.live.mobility.peer_addresses) == 32
    assert pair.ue.live.dropped["too-many-additional-addresses"] == 1
    with pytest.raises(LocalError, match="at most 32"):
        pair.ue.live.set_addresses([Endpoint.of(f"192.0.2.{n}", 4500) for n in range(33)], pair.now)


def test_older_list_is_answered_and_ignored() -> None:
    """§3.6, for windows larger than one: "a response message is sent, but the address set is not updated"."""
    pair = gateway_lists().attach()
    pair.ue.live.mobility.newest_list = 7
    listed = NotifyPayload(type=NotifyType.ADDITIONAL_IP4_ADDRESS, data=R2.address.packed)
    pair.ue.endpoint.receive(forge(pair, "epdg", 0, listed), pair.now)
    pair.run(0.1)
    assert pair.wire[-1] == "--> INFORMATIONAL response 0 [ ]"
    assert peer_addresses(pair) == {R1.address}


def test_older_update_is_answered_and_moves_nothing() -> None:
    """§3.5, for windows larger than one."""
    pair = Pair().attach()
    pair.epdg.live.mobility.newest_update = 9
    pair.roam(ACCESS_B)
    pair.run(1.0)
    assert remote(pair) == [A, A]
    assert pair.ue.live.path.local == B  # it was answered


def test_without_mobike_a_list_is_nothing() -> None:
    pair = Pair(epdg=responder_config(mobike=False)).attach()
    listed = NotifyPayload(type=NotifyType.ADDITIONAL_IP4_ADDRESS, data=R2.address.packed)
    pair.ue.endpoint.receive(forge(pair, "epdg", 0, listed), pair.now)
    assert peer_addresses(pair) == set()
    pair.epdg.live.set_addresses([R2], pair.now)
    pair.run(1.0)
    assert pair.epdg.live.path.local == R1


# --- a gateway with several addresses


def test_gateway_loses_the_address_in_use() -> None:
    """§3.5, §3.6: it goes on from another one at once, ESP included, says so, and the UE moves there."""
    pair = gateway_lists(R2).attach()
    cut(pair, R1)
    count = len(pair.wire)
    pair.epdg.endpoint.set_addresses(pair.epdg.live, [R2], pair.now)
    assert next(iter(pair.epdg.live.children.values())).spec.path.local == R2
    pair.run(1.0)
    assert pair.wire[count:] == [
        "<-- INFORMATIONAL request 0 [ N(NO_ADDITIONAL_ADDRESSES) ]",
        "--> INFORMATIONAL response 0 [ ]",
        "--> INFORMATIONAL request 4 [ N(UPDATE_SA_ADDRESSES), "
        "N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP) ]",
        "<-- INFORMATIONAL response 4 [ N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP) ]",
        "<-- INFORMATIONAL request 1 [ N(COOKIE2) ]",
        "--> INFORMATIONAL response 1 [ N(COOKIE2) ]",
    ]
    assert gateway_addresses(pair) == [R2, R2]
    assert pair.epdg.live.path.local == R2
    assert peer_addresses(pair) == {R2.address}


def test_gateway_loses_an_address_that_is_not_in_use() -> None:
    pair = gateway_lists(R2).attach()
    pair.epdg.endpoint.set_addresses(pair.epdg.live, [R1], pair.now)
    pair.run(1.0)
    assert gateway_addresses(pair) == [R1, R1]
    assert peer_addresses(pair) == {R1.address}
    assert not pair.ue.has(AddressesUpdated)


def test_gateway_gives_clients_different_preferred_addresses() -> None:
    """§3.6 has no preference: the preferred one is named alone until the UE is there, then all of them."""
    pair = gateway_lists(R2).attach()
    pair.epdg.endpoint.set_addresses(pair.epdg.live, [R2, R1], pair.now, prefer=True)
    assert next(iter(pair.epdg.live.children.values())).spec.path.local == R1  # R1 still works: ESP waits
    pair.run(1.0)
    assert gateway_addresses(pair) == [R2, R2]
    assert peer_addresses(pair) == {R1.address, R2.address}
    assert pair.epdg.take(AddressesUpdated).new.local == R2


def test_preference_that_a_nat_keeps_from_the_ue_changes_nothing() -> None:
    """§2.3: a NAT that lets only known addresses in. §3.6: sent from several addresses, a new request follows."""
    pair = gateway_lists(R2).attach()
    pair.lose = lambda sender, datagram: sender == "epdg" and datagram.path.local == R2
    pair.epdg.endpoint.set_addresses(pair.epdg.live, [R2, R1], pair.now, prefer=True)
    pair.run(5.0)
    assert gateway_addresses(pair) == [R1, R1]
    assert pair.epdg.live.path.local == R1
    assert peer_addresses(pair) == {R1.address, R2.address}
    lists = [line for line in pair.wire if line.startswith("<-- INFORMATIONAL request") and "again" not in line]
    assert lists == [
        "<-- INFORMATIONAL request 0 [ N(NO_ADDITIONAL_ADDRESSES) ]",
        "<-- INFORMATIONAL request 1 [ N(ADDITIONAL_IP4_ADDRESS) ]",
    ]


def test_list_reaches_a_ue_by_its_other_address() -> None:
    """§3.6: "the responder uses the additional address list received from the initiator"."""
    pair = Pair(initiator_config(additional_addresses=(C6.address,))).attach()
    cut(pair, R1)
    pair.epdg.endpoint.set_addresses(pair.epdg.live, [R6], pair.now)
    assert pair.epdg.live.path == Path(R6, C6)
    pair.run(1.0)
    assert gateway_addresses(pair) == [R6, R6]
    assert pair.ue.live.path.local == C6
    assert pair.ue.take(AddressesUpdated).old.remote == R1


def test_late_answer_from_an_earlier_address_does_not_undo_an_update() -> None:
    """§3.5: the initiator decides where IKE goes, and it has moved twice since the gateway's list left."""
    pair = Pair().attach()
    third = Endpoint.of("198.51.100.7", 4500)
    late: list[Datagram] = []

    def hold(sender: str, datagram: Datagram) -> bool:
        answer = sender == "ue" and bool(datagram.payload[19] & 0x20)
        if answer and datagram.path.local == B:
            late.append(datagram)
        return answer

    pair.lose = hold
    pair.epdg.endpoint.set_addresses(pair.epdg.live, [R1, R2], pair.now)
    pair.roam(ACCESS_B)
    pair.run(0.1)
    pair.roam(third)
    pair.run(0.1)
    assert remote(pair)[0] == third
    pair.epdg.endpoint.receive(Datagram(late[0].path.reversed(), late[0].payload), pair.now)
    assert pair.epdg.live.path.remote == third
    pair.lose = lambda sender, datagram: False
    pair.run(5.0)
    assert remote(pair) == [third, third]


def test_gateway_that_loses_its_address_keeps_the_ues() -> None:
    """§3.5: a UE that has told no list is where its last update says, not where it attached."""
    pair = gateway_lists(R2).attach()
    pair.roam(ACCESS_B)
    pair.run(1.0)
    pair.epdg.endpoint.set_addresses(pair.epdg.live, [R2], pair.now)
    assert pair.epdg.live.path == Path(R2, B)
    pair.run(1.0)
    assert pair.ue.live.path == Path(B, R2)


def test_loss_of_an_address_that_was_never_told_is_told() -> None:
    """§3.6: a UE may have moved to an address of the gateway that no list had."""
    pair = Pair().attach()
    pair.epdg.endpoint.set_addresses(pair.epdg.live, [R1], pair.now)
    pair.run(1.0)
    pair.ue.endpoint.move(pair.ue.live, Path(A, R2), pair.now)
    pair.run(1.0)
    pair.epdg.endpoint.set_addresses(pair.epdg.live, [R1], pair.now)
    pair.run(1.0)
    assert gateway_addresses(pair) == [R1, R1]
    assert pair.epdg.live.path == Path(R1, A)


def test_list_that_waits_for_a_rekey_goes_out_under_the_new_sa() -> None:
    """RFC 7296 §2.8: what is queued behind the rekey goes on in the SA that it makes."""
    pair = Pair().attach()
    pair.epdg.endpoint.initiate(pair.epdg.live, RekeyIke(), pair.now)
    pair.epdg.endpoint.set_addresses(pair.epdg.live, [R1, R2], pair.now)
    pair.run(1.0)
    assert peer_addresses(pair) == {R1.address, R2.address}
    assert pair.epdg.live.mobility.announcing is None


def test_list_that_was_sent_from_several_addresses_is_sent_again() -> None:
    """§3.6: whichever copy the gateway took, "a new INFORMATIONAL request MUST be sent"."""
    pair = Pair().attach()
    pair.lose = lambda sender, datagram: sender == "ue" and datagram.path.local == A
    pair.ue.endpoint.set_addresses(pair.ue.live, [A, B], pair.now)
    pair.lose = lambda sender, datagram: (
        (sender, datagram.path.local) == ("ue", A) or ((sender, datagram.path.remote) == ("epdg", B))
    )
    pair.run(1.8)  # the copy from B has arrived, its answer has not
    assert pair.epdg.live.mobility.peer_addresses == (B.address,)
    pair.lose = lambda sender, datagram: (sender, datagram.path.remote) == ("epdg", B)
    pair.run(5.0)
    assert pair.ue.live.path.local == A
    assert set(pair.epdg.live.mobility.peer_addresses) == {A.address, B.address}


def test_move_to_an_address_that_was_not_set_makes_it_one() -> None:
    """§3.5: after a pause by an empty set and a move, the UE can follow when the gateway gives up its address."""
    pair = gateway_lists(R2).attach()
    pair.ue.endpoint.set_addresses(pair.ue.live, [], pair.now)
    pair.roam(ACCESS_B)
    pair.run(1.0)
    pair.epdg.endpoint.set_addresses(pair.epdg.live, [R2], pair.now)
    pair.run(1.0)
    assert gateway_addresses(pair) == [R2, R2]


def test_list_of_an_update_that_was_overtaken_is_told_again() -> None:
    """§3.6: the address of the header belongs to the list, and the copy that arrived came from another one."""
    pair = Pair().attach()
    third = Endpoint.of("198.51.100.7", 4500)
    pair.ue.endpoint.set_addresses(pair.ue.live, [A, B], pair.now)
    pair.run(1.0)
    pair.lose = lambda sender, datagram: datagram.path.local == B
    pair.ue.endpoint.set_addresses(pair.ue.live, [B, third], pair.now, tell=False)
    pair.run(0.1)
    pair.roam(third)
    pair.run(1.0)
    assert remote(pair) == [third, third]
    assert set(pair.epdg.live.mobility.peer_addresses) == {B.address, third.address}


def test_responder_has_an_address() -> None:
    pair = Pair().attach()
    with pytest.raises(LocalError, match="needs an address"):
        pair.epdg.live.set_addresses([], pair.now)


# --- acceptable addresses


def test_gateway_does_not_accept_an_address() -> None:
    """§3.5: UNACCEPTABLE_ADDRESSES, and nothing changes."""
    pair = Pair(epdg=responder_config(acceptable_addresses=(ip_network("192.0.2.0/24"),))).attach()
    pair.roam(ACCESS_B)
    pair.run(1.0)
    assert "<-- INFORMATIONAL response 4 [ N(UNACCEPTABLE_ADDRESSES) ]" in pair.wire
    assert "UNACCEPTABLE_ADDRESSES" in pair.ue.take(AddressUpdateFailed).why
    assert remote(pair) == [A, A]
    assert pair.ue.live.path.local == A
    assert pair.epdg.live.dropped["unacceptable-addresses"] == 1
    assert not pair.epdg.has(AddressesUpdated)


def test_refused_ue_without_its_old_address_tries_another() -> None:
    """§3.5: "MAY select another addresses and retry the exchange"."""
    pair = Pair(epdg=responder_config(acceptable_addresses=(ip_network("192.0.2.0/24"),))).attach()
    third = Endpoint.of("192.0.2.33", 4500)
    pair.ue.endpoint.set_addresses(pair.ue.live, [B, third], pair.now, tell=False)
    pair.run(1.0)
    assert pair.ue.take(AddressUpdateFailed).new.local == B
    assert pair.ue.take(AddressesUpdated).new.local == third
    assert remote(pair) == [third, third]


def test_refused_ue_without_any_other_address_ends() -> None:
    pair = Pair(epdg=responder_config(acceptable_addresses=(ip_network("192.0.2.0/24"),))).attach()
    other = Endpoint.of("198.51.100.7", 4500)
    pair.ue.endpoint.set_addresses(pair.ue.live, [B, other], pair.now, tell=False)
    pair.run(1.0)
    assert "no other address" in pair.ue.take(Closed).why
    assert sum("UPDATE_SA_ADDRESSES" in line for line in pair.wire) == 2
    assert pair.epdg.live.state is SaState.CLOSED  # it was told


# --- NO_NATS_ALLOWED


def prohibiting(**changes: object) -> Pair:
    return Pair(initiator_config(nats_allowed=False, **changes))


def test_prohibition_goes_into_every_message_that_moves() -> None:
    """§3.9: the first IKE_AUTH request, updates, lists; NAT traversal is not enabled, and the port stays."""
    pair = prohibiting().attach()
    assert "NAT_DETECTION" not in "".join(pair.wire)
    first = next(line for line in pair.wire if "--> IKE_AUTH request 1" in line)
    assert "N(NO_NATS_ALLOWED)" in first
    assert pair.ue.live.path == Path(ACCESS_A, GATEWAY)
    assert not pair.ue.take(Established).nat.encapsulation
    pair.ue.endpoint.move(pair.ue.live, Path(ACCESS_B, GATEWAY), pair.now)
    pair.run(1.0)
    assert "--> INFORMATIONAL request 4 [ N(UPDATE_SA_ADDRESSES), N(NO_NATS_ALLOWED) ]" in pair.wire
    assert remote(pair) == [ACCESS_B, ACCESS_B]
    pair.ue.endpoint.set_addresses(pair.ue.live, [ACCESS_B, ACCESS_A], pair.now)
    pair.epdg.endpoint.set_addresses(pair.epdg.live, [GATEWAY, R2], pair.now)
    pair.run(1.0)
    assert "--> INFORMATIONAL request 5 [ N(ADDITIONAL_IP4_ADDRESS), N(NO_NATS_ALLOWED) ]" in pair.wire
    assert "<-- INFORMATIONAL request 1 [ N(ADDITIONAL_IP4_ADDRESS), N(NO_NATS_ALLOWED) ]" in pair.wire
    assert pair.ue.has(PeerAddressesChanged)


def test_octets_of_the_prohibition() -> None:
    """§4.2.6: source, destination, source port, destination port; 12 octets, 36 with IPv6."""
    for here, there, length in ((ACCESS_A, GATEWAY, 12), (Endpoint(C6.address, 500), Endpoint(R6.address, 500), 36)):
        pair = prohibiting()
        pair.ue.sa = pair.ue.endpoint.connect(pair.ue_config, Path(here, there), 0.0)
        pair.run(5.0)
        update_to = Path(Endpoint(here.address, 501), there)
        pair.ue.endpoint.move(pair.ue.live, update_to, pair.now)
        pair.run(0.001)
        sent = next(e for e in pair.ue.events if isinstance(e, MessageSent) and e.message.message_id == 4)
        notify = sent.message.notify(NotifyType.NO_NATS_ALLOWED)
        assert notify is not None
        assert len(notify.data) == length
        ports = (501).to_bytes(2, "big") + (500).to_bytes(2, "big")
        assert notify.data == here.address.packed + there.address.packed + ports


def test_nat_on_the_way_to_ike_auth_is_refused() -> None:
    """§3.9: UNEXPECTED_NAT_DETECTED ends the attempt."""
    pair = prohibiting()
    pair.translate = {ACCESS_A: Endpoint.of("203.0.113.77", 500)}
    pair.attach()
    assert "<-- IKE_AUTH response 1 [ N(UNEXPECTED_NAT_DETECTED) ]" in pair.wire
    refused = pair.ue.take(Refused)
    assert refused.notify is not None
    assert refused.notify.type == NotifyType.UNEXPECTED_NAT_DETECTED
    assert pair.ue.live.state is SaState.CLOSED


def test_nat_on_the_way_of_an_update_is_refused_after_several_attempts() -> None:
    """§3.9: "SHOULD retry the operation several times using new INFORMATIONAL requests"."""
    pair = prohibiting().attach()
    pair.translate = {ACCESS_B: NAT_OUTSIDE}
    pair.ue.endpoint.move(pair.ue.live, Path(ACCESS_B, GATEWAY), pair.now)
    pair.run(1.0)
    assert "UNEXPECTED_NAT_DETECTED" in pair.ue.take(AddressUpdateFailed).why
    assert sum("--> INFORMATIONAL request" in line for line in pair.wire) == 6
    assert remote(pair) == [ACCESS_A, ACCESS_A]
    assert pair.epdg.live.dropped["unexpected-nat"] == 6


def test_one_changed_packet_does_not_stop_an_update() -> None:
    """§3.9: "an attacker who is able to modify only a single packet does not ... cause a path to remain unused"."""
    pair = prohibiting().attach()
    pair.translate = {ACCESS_B: NAT_OUTSIDE}
    pair.ue.endpoint.move(pair.ue.live, Path(ACCESS_B, GATEWAY), pair.now)
    pair.run(0.011)
    pair.translate = {}
    pair.ue.endpoint.receive(Datagram(Path(ACCESS_B, GATEWAY), pair.seen[-1][1].payload), pair.now)
    pair.run(1.0)
    assert remote(pair) == [ACCESS_B, ACCESS_B]


def test_gateway_without_nat_traversal() -> None:
    """§3.9: enabled means at both ends."""
    pair = Pair(epdg=responder_config(nats_allowed=False)).attach()
    first = next(line for line in pair.wire if "--> IKE_AUTH request 1" in line)
    assert "N(NO_NATS_ALLOWED)" in first
    assert pair.ue.live.state is SaState.ESTABLISHED
