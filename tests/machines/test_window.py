"""Message IDs and windows (RFC 7296 §2.1–§2.3) in pairs on virtual time.

::

    SK {N(SET_WINDOW_SIZE)}  -->
                      <--  SK {}
"""

from __future__ import annotations

import pytest

from protocols.ikev2.events import Closed, MessageSent, SaState
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.registry import NotifyType
from protocols.ikev2.tasks.informational import DeleteIkeSa, Liveness
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from tests.harness.forge import forge, receive
from tests.harness.pair import ACCESS_B, Pair, initiator_config, responder_config


def pair_with(ue: int = 1, epdg: int = 1) -> Pair:
    """An established pair whose ends announced these windows."""
    return Pair(initiator_config(window_size=ue), responder_config(window_size=epdg)).attach()


def window_size(octets: bytes) -> NotifyPayload:
    return NotifyPayload(type=NotifyType.SET_WINDOW_SIZE, data=octets)


def cookie(text: bytes) -> NotifyPayload:
    """Something whose answer shows which request it is for."""
    return NotifyPayload(type=NotifyType.COOKIE2, data=text)


def probe(pair: Pair, count: int) -> list[str]:
    """Ask the UE for so many liveness checks at once; the requests that leave before any answer."""
    before = len(pair.wire)
    for _ in range(count):
        pair.ue.endpoint.initiate(pair.ue.live, Liveness(), pair.now)
    pair.run(0.005)
    return pair.wire[before:]


# --- announced


def test_a_window_above_one_is_announced_when_the_sa_is_up() -> None:
    """§2.3: "The window size is always one until the initial exchanges complete"."""
    pair = pair_with(ue=4, epdg=3)
    ups = [line for line in pair.wire if "SET_WINDOW_SIZE" in line]
    assert ups == [
        "<-- INFORMATIONAL request 0 [ N(SET_WINDOW_SIZE) ]",
        "--> INFORMATIONAL request 4 [ N(SET_WINDOW_SIZE) ]",
    ]
    sent = [n for e in pair.ue.events if isinstance(e, MessageSent) if (n := e.message.notify(16385)) is not None]
    assert [n.data for n in sent] == [bytes([0, 0, 0, 4])]
    assert (pair.ue.live.window.size, pair.ue.live.window.peer_size) == (4, 3)
    assert (pair.epdg.live.window.size, pair.epdg.live.window.peer_size) == (3, 4)


@pytest.mark.parametrize("end", ["ue", "epdg"])
def test_a_rekeyed_sa_has_its_window_announced_again(end: str) -> None:
    """§2.3: "the new IKE SA starts with window size 1 until it is explicitly increased"."""
    pair = pair_with(ue=4, epdg=3)
    old, node = pair.ue.live, pair.ue if end == "ue" else pair.epdg
    node.endpoint.initiate(node.live, RekeyIke(), pair.now)
    pair.run(1.0)
    assert pair.ue.live is not old
    assert (pair.ue.live.window.size, pair.ue.live.window.peer_size) == (4, 3)
    assert (pair.epdg.live.window.size, pair.epdg.live.window.peer_size) == (3, 4)


def test_a_window_of_one_is_not_worth_a_word() -> None:
    assert not any("SET_WINDOW_SIZE" in line for line in pair_with().wire)


@pytest.mark.parametrize(
    ("data", "size"), [(b"\x00\x00\x00\x02", 4), (b"\x00\x00\x00\x08", 8), (b"\x08", 4), (b"\xff\xff\xff\xff", 16)]
)
def test_a_window_can_only_be_increased_and_ours_is_bounded(data: bytes, size: int) -> None:
    """§2.3; the data "MUST be 4 octets long"."""
    pair = pair_with(epdg=4)
    receive(pair, pair.ue, forge(pair, "epdg", 1, window_size(data)))
    assert pair.ue.live.window.peer_size == size


# --- requests of ours


def test_requests_leave_together_up_to_the_peers_window() -> None:
    """§2.3: "it MUST wait until it has received responses to all requests up through request X-N"."""
    pair = pair_with(epdg=3)
    assert probe(pair, 5) == [f"--> INFORMATIONAL request {number} [ ]" for number in (4, 5, 6)]
    pair.run(1.0)
    assert "--> INFORMATIONAL request 8 [ ]" in pair.wire
    assert pair.ue.live.window.outstanding is None


def test_a_lost_request_holds_up_what_is_a_window_later() -> None:
    pair = pair_with(epdg=3)
    pair.lose_next("ue")
    probe(pair, 5)
    pair.run(0.3)
    assert not any("request 7" in line for line in pair.wire)  # 4 is unanswered
    pair.run(1.0)
    assert "--> INFORMATIONAL request 4 [ ] (again)" in pair.wire
    assert "--> INFORMATIONAL request 5 [ ] (again)" not in pair.wire
    assert "--> INFORMATIONAL request 8 [ ]" in pair.wire
    assert pair.ue.live.window.outstanding is None


def test_one_at_a_time_without_the_peers_leave() -> None:
    """§2.3: "MUST wait for a response to each of its messages before sending a subsequent message"."""
    assert probe(pair_with(ue=4), 3) == ["--> INFORMATIONAL request 5 [ ]"]


def test_what_changes_the_ike_sa_goes_alone() -> None:
    pair = pair_with(epdg=8)
    probe(pair, 2)
    pair.ue.endpoint.initiate(pair.ue.live, DeleteIkeSa("done"), pair.now)
    pair.run(0.005)
    assert not any("[ D ]" in line for line in pair.wire)
    pair.run(1.0)
    assert pair.ue.take(Closed)


def test_a_move_waits_for_what_is_outstanding() -> None:
    """RFC 4555 §3.5: what is outstanding is retransmitted from the new address first, all of it."""
    pair = pair_with(epdg=8)
    pair.lose = lambda sender, datagram: datagram.path.local.address != ACCESS_B.address and sender == "ue"
    probe(pair, 2)
    count = len(pair.wire)
    pair.roam(ACCESS_B)
    pair.run(0.005)
    assert pair.wire[count:] == [f"--> INFORMATIONAL request {number} [ ] (again)" for number in (4, 5)]
    pair.run(1.0)
    assert pair.ue.live.mobility.validated.local.address == ACCESS_B.address


# --- requests of the peer's


def test_requests_are_taken_in_any_order_and_their_answers_kept() -> None:
    """§2.3: "ought to be capable of processing incoming requests out of order"."""
    pair = pair_with(epdg=3)
    requests = {number: forge(pair, "ue", number, cookie(bytes([number]) * 8)) for number in range(4, 10)}
    before = len(pair.wire)
    receive(pair, pair.epdg, requests[6], requests[4], requests[7])
    answer = "<-- INFORMATIONAL response {} [ N(COOKIE2) ]"
    # 7 is out of the window: 5 is unanswered, and 7 - 3 = 4 is not
    assert pair.wire[before:] == [answer.format(number) for number in (6, 4, 7)]
    receive(pair, pair.epdg, requests[8])
    assert pair.epdg.live.dropped["out-of-window"] == 1
    before = len(pair.wire)
    receive(pair, pair.epdg, requests[6], requests[7], requests[5], requests[8])
    assert pair.wire[before:] == [
        answer.format(6) + " (again)",
        answer.format(7) + " (again)",
        answer.format(5),
        answer.format(8),
    ]


def test_as_many_answers_are_kept_as_the_window_promises() -> None:
    """§2.3: a copy of "the number of previous responses equal to its declared window size"."""
    pair = pair_with(epdg=3)
    requests = [forge(pair, "ue", number) for number in range(4, 9)]
    receive(pair, pair.epdg, *requests)
    octets = {d.payload[23]: d.payload for who, d in pair.seen if who == "epdg" and d.payload[19] & 0x20}
    before, sent = len(pair.wire), len(pair.seen)
    receive(pair, pair.epdg, *requests)
    assert pair.wire[before:] == [f"<-- INFORMATIONAL response {number} [ ] (again)" for number in (6, 7, 8)]
    assert [d.payload for _, d in pair.seen[sent:]] == [octets[number] for number in (6, 7, 8)]
    assert pair.epdg.live.dropped["out-of-window"] == 2


def test_window_one_takes_one() -> None:
    pair = pair_with()
    receive(pair, pair.epdg, forge(pair, "ue", 5))
    assert pair.epdg.live.dropped["out-of-window"] == 1
    assert not any("response 5" in line for line in pair.wire)


def test_invalid_message_id_is_only_information() -> None:
    """§2.3: the notification is a request of its own, answered and nothing else."""
    pair = pair_with()
    complaint = NotifyPayload(type=NotifyType.INVALID_MESSAGE_ID, data=bytes([0, 0, 0, 9]))
    receive(pair, pair.epdg, forge(pair, "ue", 4, complaint))
    assert pair.wire[-1] == "<-- INFORMATIONAL response 4 [ ]"
    assert pair.epdg.live.state is SaState.ESTABLISHED


# --- the end of the numbers


@pytest.mark.parametrize("end", ["ue", "epdg"])
def test_an_sa_whose_message_ids_run_out_is_deleted(end: str) -> None:
    """§2.2: "the IKE SA MUST be closed or rekeyed"; the last Message ID carries the DELETE."""
    pair = Pair().attach()
    sa, other = (pair.ue.live, pair.epdg.live) if end == "ue" else (pair.epdg.live, pair.ue.live)
    for mine, window in ((True, sa.window), (False, other.window)):
        if mine:
            window.next_request_id = 2**32 - 2
        else:
            window._expected_id = 2**32 - 2
    node = pair.ue if end == "ue" else pair.epdg
    node.endpoint.initiate(sa, Liveness(), pair.now)
    pair.run(1.0)
    arrow = "-->" if end == "ue" else "<--"
    assert f"{arrow} INFORMATIONAL request 4294967294 [ ]" in pair.wire
    assert f"{arrow} INFORMATIONAL request 4294967295 [ D ]" in pair.wire
    assert node.take(Closed).why == "its Message IDs are used up"
