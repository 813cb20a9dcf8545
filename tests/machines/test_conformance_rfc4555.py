"""Rules of RFC 4555 that no other test shows: each test names its clause and fails without its rule."""

from __future__ import annotations

from dataclasses import replace

from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.ikev2.events import MessageSent, SaState
from protocols.ikev2.message import decode_message
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.registry import NotifyType
from protocols.ikev2.tasks.informational import Liveness
from protocols.ikev2.tasks.mobike import announced
from protocols.path import Datagram, Endpoint, Path
from tests.dataplane.pairs import GATEWAY_OUTER, GATEWAY_PATH, UE_ELSEWHERE, UE_OUTER
from tests.dataplane.test_userspace import DOWN, UP, ends
from tests.harness.forge import forge, receive
from tests.harness.pair import ACCESS_A, ACCESS_B, GATEWAY, Pair, initiator_config, responder_config
from tests.machines.test_ue_device import World
from ue.context import DeviceState

OTHER_GATEWAY = Endpoint.of("203.0.113.2", 500)
PAIRS = (Path(ACCESS_A, OTHER_GATEWAY), Path(ACCESS_B, GATEWAY), Path(ACCESS_B, OTHER_GATEWAY))


def only(*alive: Path) -> Pair:
    """A UE with two addresses and a gateway with two, of whose pairs these work."""
    pair = Pair(initiator_config(initial_paths=PAIRS))
    living = {frozenset({path.local.address, path.remote.address}) for path in alive}

    def lose(sender: str, datagram: Datagram) -> bool:
        del sender
        return frozenset({datagram.path.local.address, datagram.path.remote.address}) not in living

    pair.lose = lose
    return pair


def test_ike_sa_init_is_retransmitted_over_other_address_pairs() -> None:
    """§3.1: "SHOULD try various source and destination address combinations when retransmitting"."""
    for living in PAIRS:
        pair = only(living)
        pair.start()
        pair.run(20.0)
        assert pair.ue.live.state is SaState.ESTABLISHED
        assert pair.ue.live.path == Path(Endpoint(living.local.address, 4500), Endpoint(living.remote.address, 4500))


def test_each_retransmission_of_ike_sa_init_tries_one_more_pair() -> None:
    """§3.1 with RFC 7296 §2.1: the same octets everywhere, and not more of them than necessary."""
    pair = only()
    pair.start()
    pair.run(8.0)
    tried = [datagram.path for _, datagram in pair.seen]
    first = Path(ACCESS_A, GATEWAY)
    assert tried == [first, first, PAIRS[0], first, PAIRS[1], first, PAIRS[2], first, PAIRS[0]]
    assert len({datagram.payload for _, datagram in pair.seen}) == 1


def test_an_answer_from_a_pair_that_was_not_tried_changes_nothing() -> None:
    """§3.1: the pairs are the initiator's; whoever else answers an unprotected request does not choose them."""
    pair = Pair(initiator_config(initial_paths=PAIRS[:1]))
    stranger = Endpoint.of("203.0.113.66", 500)
    pair.lose = lambda sender, datagram: True
    pair.start()
    pair.run(0.0)
    request = pair.seen[0][1]
    pair.lose = lambda sender, datagram: False
    pair.epdg.endpoint.receive(Datagram(request.path.reversed(), request.payload), pair.now)
    answer = pair.epdg.endpoint.poll_transmit()
    assert answer is not None
    pair.ue.endpoint.receive(Datagram(Path(ACCESS_A, stranger), answer.payload), pair.now)
    assert pair.ue.live.path.remote.address == GATEWAY.address


def test_mobike_supported_has_no_data_and_what_it_has_is_ignored() -> None:
    """§4.2.1: "MUST be left empty (zero-length) when sending, and its contents (if any) MUST be ignored"."""
    pair = Pair().attach()
    sent = [
        notify.data
        for node in (pair.ue, pair.epdg)
        for event in node.events
        if isinstance(event, MessageSent)
        for notify in event.message.all(NotifyPayload)
        if notify.type == NotifyType.MOBIKE_SUPPORTED
    ]
    assert sent == [b"", b""]
    filled = NotifyPayload(type=NotifyType.MOBIKE_SUPPORTED, data=b"of another time")
    assert announced(replace(decode_message(pair.seen[0][1].payload), payloads=(filled,)))


def test_cookie2_of_ours_is_long_enough_and_never_the_same() -> None:
    """§4.2.5: "MUST be between 8 and 64 octets in length" and "unpredictable to the exchange responder"."""
    pair = Pair().attach()
    for access in (ACCESS_B, ACCESS_A, ACCESS_B):
        pair.roam(access)
        pair.run(1.0)
    cookies = [
        notify.data
        for event in pair.epdg.events
        if isinstance(event, MessageSent) and not event.message.response
        for notify in event.message.notifies(NotifyType.COOKIE2)
    ]
    assert len(cookies) == 3
    assert len(set(cookies)) == 3
    assert all(8 <= len(cookie) <= 64 for cookie in cookies)


def test_nat_detection_in_any_informational_request_is_answered_in_kind() -> None:
    """§3.8: "if the request includes them, the responder MUST also include them in the response"."""
    pair = Pair().attach()
    path = pair.ue.live.path
    before = pair.epdg.live.path
    hashes = (
        NotifyPayload(type=NotifyType.NAT_DETECTION_SOURCE_IP, data=bytes(20)),
        NotifyPayload(type=NotifyType.NAT_DETECTION_DESTINATION_IP, data=bytes(20)),
    )
    receive(pair, pair.epdg, forge(pair, "ue", 4, *hashes))
    assert pair.wire[-1] == (
        "<-- INFORMATIONAL response 4 [ N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP) ]"
    )
    assert pair.epdg.live.path == before == path.reversed()  # "no other action is taken"


def test_only_the_initiator_decides_about_addresses() -> None:
    """§3.5, §1.3: UPDATE_SA_ADDRESSES of the responder moves nothing."""
    pair = Pair().attach()
    before = pair.ue.live.path
    pair.epdg.endpoint.initiate(pair.epdg.live, Liveness(), pair.now)
    pair.run(0.1)
    update = forge(pair, "epdg", 1, NotifyPayload(type=NotifyType.UPDATE_SA_ADDRESSES))
    receive(pair, pair.ue, Datagram(Path(before.local, Endpoint.of("203.0.113.9", 4500)), update.payload))
    assert pair.wire[-1] == "--> INFORMATIONAL response 1 [ ]"
    assert pair.ue.live.path == before


def test_esp_between_other_addresses_is_no_evidence_of_life() -> None:
    """§3.12: such packets "SHOULD NOT be used as evidence that the peer is able to communicate with this node"."""
    ue, epdg, spec = ends()
    elsewhere = Path(GATEWAY_OUTER, UE_ELSEWHERE)
    ours = Path(Endpoint.of("192.0.2.99", 4500), UE_OUTER)

    def evidence(end: UserspaceDataPlane, spi: bytes) -> tuple[int, int]:
        counters = end.counters(spi)
        return counters.inbound_packets, counters.evidence

    epdg.plane.receive_esp(ue.sent(UP), GATEWAY_PATH)
    assert evidence(epdg.plane, spec.outbound_spi) == (1, 1)
    for number, path in enumerate((elsewhere, ours), 2):
        epdg.plane.receive_esp(ue.sent(UP), path)
        assert evidence(epdg.plane, spec.outbound_spi) == (number, 1)
    epdg.plane.update_path(spec.outbound_spi, elsewhere, True)
    epdg.plane.receive_esp(ue.sent(UP), elsewhere)  # where it should be now
    assert evidence(epdg.plane, spec.outbound_spi) == (4, 2)
    ue.plane.receive_esp(epdg.sent(DOWN), spec.path)
    assert evidence(ue.plane, spec.inbound_spi) == (1, 1)


def world_behind_a_nat(packets: int) -> World:
    """Without NAT traversal, and a NAT that changes the first ``packets`` IKE_AUTH requests."""
    world = World(gateway_config=responder_config(nats_allowed=False))
    arrive, left = world._arrive, [packets]
    outside, inside = Endpoint.of("203.0.113.77", 1025), Endpoint.of("192.0.2.1", 500)

    def translate(sender: str, datagram: Datagram) -> None:
        if sender == "ue" and datagram.payload[18] == 35 and left[0]:
            left[0] -= 1
            datagram = Datagram(Path(datagram.path.local, outside), datagram.payload)
        elif datagram.path.local == outside:
            datagram = Datagram(Path(inside, datagram.path.remote), datagram.payload)
        arrive(sender, datagram)

    world._arrive = translate  # type: ignore[method-assign]
    return world


def test_nat_in_ike_auth_begins_the_attach_anew() -> None:
    """§3.9: "it SHOULD retry IKE_SA establishment several times, starting from a new IKE_SA_INIT request"."""
    world = world_behind_a_nat(1)
    assert world.attach() is None
    assert world.device.state is DeviceState.ESTABLISHED
    assert "NAT" in world.event("nat-detected").text


def test_nat_in_every_ike_auth_ends_the_attach_after_several_attempts() -> None:
    world = world_behind_a_nat(1000)
    failure = world.attach()
    assert failure is not None
    assert "UNEXPECTED_NAT_DETECTED" in failure
    assert len(world.gateway_sas) == 4
    assert world.device.state is DeviceState.CLOSED


def test_a_list_that_left_from_several_addresses_is_told_anew() -> None:
    """§3.6: "retransmitted using several different source addresses, a new INFORMATIONAL request MUST be sent"."""
    pair = Pair().attach()
    here, there = (Endpoint(access.address, 4500) for access in (ACCESS_A, ACCESS_B))
    pair.lose = lambda sender, datagram: sender == "ue" and datagram.path.local.address == ACCESS_A.address
    before = len(pair.wire)
    pair.ue.endpoint.set_addresses(pair.ue.live, [here, there], pair.now)
    pair.run(0.1)
    pair.roam(ACCESS_B)
    pair.run(1.0)
    lists = [line for line in pair.wire[before:] if line.startswith("-->") and "N(ADDITIONAL_IP4_ADDRESS)" in line]
    assert lists[0] == "--> INFORMATIONAL request 4 [ N(ADDITIONAL_IP4_ADDRESS) ]"
    assert lists[1] == "--> INFORMATIONAL request 4 [ N(ADDITIONAL_IP4_ADDRESS) ] (again)"
    assert lists[-1].startswith("--> INFORMATIONAL request 6 [ N(ADDITIONAL_IP4_ADDRESS)")
