"""IKE fragmentation (RFC 7383) in pairs on virtual time: agreed, cut, put together, lost, hostile.

::

    HDR, SKF(Frag#=1, Total=m) {..}  ...  HDR, SKF(Frag#=m, Total=m) {..}
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.entropy import SeededEntropy
from protocols.ikev2.events import (
    ChildSaInstalled,
    Closed,
    EapReply,
    EapResponseReceived,
    Event,
    MessageReceived,
    MessageSent,
    SaState,
)
from protocols.ikev2.fragment import message_limit
from protocols.ikev2.message import Message, decode_header
from protocols.ikev2.payloads import NotifyPayload, Payload, UnknownPayload, VendorIdPayload
from protocols.ikev2.registry import ExchangeType, NotifyType, PayloadType
from protocols.ikev2.sealer import Sealer
from protocols.path import Datagram
from tests.harness.pair import MSK, Pair, answer_as_gateway, eap, initiator_config, responder_config

SMALL = 256  # cuts both the first IKE_AUTH request and its response


def pair_of(size: int = SMALL, **changes: object) -> Pair:
    """Both ends with this fragment size."""
    return Pair(
        initiator_config(fragment_size=size, **changes),
        responder_config(fragment_size=size, **changes),
    )


def numbers(datagram: Datagram) -> tuple[int, int] | None:
    """Fragment Number and Total Fragments, ``None`` when it is no fragment."""
    if datagram.payload[16] != PayloadType.SKF:
        return None
    return int.from_bytes(datagram.payload[32:34], "big"), int.from_bytes(datagram.payload[34:36], "big")


def fragments(pair: Pair, sender: str) -> list[tuple[int, int]]:
    """All fragments that an end has sent."""
    return [found for who, datagram in pair.seen if who == sender and (found := numbers(datagram)) is not None]


def sealed(pair: Pair, *payloads: Payload, message_id: int = 4, limit: int = 200) -> list[Datagram]:
    """A request of the UE's in fragments, as the gateway gets them."""
    sa = pair.ue.live
    suite, keys = sa.established_keys()
    message = Message(
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        exchange=ExchangeType.INFORMATIONAL,
        original_initiator=True,
        response=False,
        message_id=message_id,
        payloads=payloads,
    )
    sealer = Sealer(suite, keys, True, SeededEntropy(limit))
    return [Datagram(sa.path.reversed(), octets) for octets in sealer.seal_fragments(message, limit)]


LONG = (VendorIdPayload(bytes(600)), NotifyPayload(type=NotifyType.COOKIE2, data=b"12345678"))
ANSWER = "<-- INFORMATIONAL response 4 [ N(COOKIE2) ]"


def give(pair: Pair, *datagrams: Datagram) -> None:
    """The gateway receives these."""
    for datagram in datagrams:
        pair.epdg.endpoint.receive(datagram, pair.now)
    pair.run(0.001)


# --- agreed and used


def test_a_long_message_goes_in_fragments_both_ways() -> None:
    """§2.5: the header intact but for length and type; no datagram above the limit; IKE_SA_INIT in one piece."""
    pair = pair_of().attach()
    assert pair.ue.live.state is pair.epdg.live.state is SaState.ESTABLISHED
    up, down = fragments(pair, "ue"), fragments(pair, "epdg")
    first = [found for found in up if found[1] == up[0][1]]
    assert first == [(number, len(first)) for number in range(1, len(first) + 1)]
    assert len(first) >= 2
    assert len(down) >= 4
    limit = message_limit(pair.ue.live.path, SMALL)
    for _, datagram in pair.seen:
        header = decode_header(datagram.payload)
        if header.exchange == ExchangeType.IKE_SA_INIT:
            assert numbers(datagram) is None
        else:
            assert len(datagram.payload) <= limit
    kinds = [d.payload[28] for who, d in pair.seen if who == "ue" and numbers(d) is not None][: len(first)]
    assert kinds == [PayloadType.IDi] + [0] * (len(first) - 1)
    assert len(next(e for e in pair.ue.events if isinstance(e, MessageSent) and e.fragments > 1).message.payloads) > 5


def test_one_event_for_a_message_whatever_the_number_of_its_fragments() -> None:
    pair, plain = pair_of().attach(), Pair().attach()
    assert pair.wire == plain.wire
    for node, other in ((pair.ue, pair.epdg), (pair.epdg, pair.ue)):
        sent = [(e.message.name, e.message.message_id, e.fragments) for e in node.events if isinstance(e, MessageSent)]
        got = [
            (e.message.name, e.message.message_id, e.fragments) for e in other.events if isinstance(e, MessageReceived)
        ]
        assert sent == got
        assert any(count > 1 for _, _, count in sent)


@pytest.mark.parametrize("refuses", ["ue", "epdg"])
def test_not_unless_both_ends_have_said_so(refuses: str) -> None:
    """§2.3, §2.4."""
    pair = Pair(
        initiator_config(fragment_size=SMALL, fragmentation=refuses != "ue"),
        responder_config(fragment_size=SMALL, fragmentation=refuses != "epdg"),
    ).attach()
    assert pair.ue.live.state is SaState.ESTABLISHED
    assert ("N(IKEV2_FRAGMENTATION_SUPPORTED)" in pair.wire[0]) == (refuses != "ue")
    assert "N(IKEV2_FRAGMENTATION_SUPPORTED)" not in pair.wire[1]
    assert fragments(pair, "ue") == fragments(pair, "epdg") == []
    give(pair, *sealed(pair, *LONG))
    assert pair.epdg.live.dropped["fragment-not-negotiated"] == len(sealed(pair, *LONG))
    assert ANSWER not in pair.wire


def test_the_default_leaves_short_messages_alone() -> None:
    """§2.4: "there is no point in fragmenting liveness check messages"."""
    pair = Pair().attach()
    assert fragments(pair, "ue") == fragments(pair, "epdg") == []


# --- put together


def test_fragments_in_any_order_and_twice() -> None:
    """§2.6."""
    pair = pair_of().attach()
    pieces = sealed(pair, *LONG)
    assert len(pieces) > 3
    give(pair, *reversed(pieces[1:]), *pieces[1:])
    assert ANSWER not in pair.wire
    give(pair, pieces[0])
    assert pair.wire[-1] == ANSWER
    assert pair.epdg.live.dropped["fragment-duplicate"] == len(pieces) - 1


def test_a_single_fragment_of_one_is_a_message() -> None:
    pair = pair_of().attach()
    pieces = sealed(pair, LONG[1])
    assert [numbers(piece) for piece in pieces] == [(1, 1)]
    give(pair, *pieces)
    assert pair.wire[-1] == ANSWER


def test_a_smaller_total_is_discarded_and_a_greater_one_starts_anew() -> None:
    """§2.6: never are fragments of two sets mixed."""
    pair = pair_of().attach()
    coarse, fine = sealed(pair, *LONG, limit=300), sealed(pair, *LONG, limit=200)
    assert len(coarse) < len(fine)
    give(pair, *coarse[:-1])
    give(pair, *fine[:-1])
    give(pair, coarse[-1])
    assert pair.epdg.live.dropped["fragment-total"] == 1
    assert ANSWER not in pair.wire
    give(pair, fine[-1])
    assert pair.wire[-1] == ANSWER


def test_a_fragment_that_is_not_genuine_is_dropped_and_does_no_harm() -> None:
    """§2.6: "If the ICV check fails, the message MUST be silently discarded"."""
    pair = pair_of().attach()
    pieces = sealed(pair, *LONG)
    for piece in pieces:
        forged = piece.payload[:-1] + bytes([piece.payload[-1] ^ 1])
        give(pair, replace(piece, payload=forged))
        # a greater total, unauthenticated, throws nothing away
        more = piece.payload[:34] + (60).to_bytes(2, "big") + piece.payload[36:]
        give(pair, replace(piece, payload=more))
        give(pair, piece)
    assert pair.epdg.live.dropped["bad-icv"] >= len(pieces)
    assert pair.wire[-1] == ANSWER


@pytest.mark.parametrize(("number", "total"), [(0, 3), (4, 3), (1, 0), (0, 0)])
def test_numbers_that_cannot_be(number: int, total: int) -> None:
    """§2.6: neither is zero, the number is not above the total."""
    pair = pair_of().attach()
    piece = sealed(pair, *LONG)[0]
    octets = bytearray(piece.payload)
    octets[32:36] = number.to_bytes(2, "big") + total.to_bytes(2, "big")
    give(pair, replace(piece, payload=bytes(octets)))
    assert pair.epdg.live.dropped["malformed"] == 1
    assert pair.epdg.live.dropped["bad-icv"] == 0


def test_reassembly_is_bounded_in_fragments_and_octets() -> None:
    pair = pair_of(1280, fragments_maximum=8, reassembled_maximum=3000).attach()
    give(pair, *sealed(pair, VendorIdPayload(bytes(2000)), limit=200))
    assert pair.epdg.live.dropped["fragment-excess"] > 8
    give(pair, *sealed(pair, VendorIdPayload(bytes(3200)), limit=600))
    assert pair.epdg.live.dropped["malformed"] == 1
    assert ANSWER not in pair.wire
    pair.run(40.0)
    give(pair, *sealed(pair, LONG[1]))
    assert pair.wire[-1] == ANSWER


def test_fragments_outside_the_window_are_dropped_before_they_are_decrypted() -> None:
    pair = pair_of().attach()
    give(pair, *sealed(pair, *LONG, message_id=7))
    assert pair.epdg.live.dropped["out-of-window"] == len(sealed(pair, *LONG))


def test_an_incomplete_request_is_forgotten() -> None:
    """§2.6: after as long as an initiator tries; what comes later starts anew."""
    pair = pair_of().attach()
    pieces = sealed(pair, *LONG)
    give(pair, *pieces[1:])
    pair.run(40.0)
    give(pair, pieces[0])
    assert ANSWER not in pair.wire
    give(pair, *pieces[1:])
    assert pair.wire[-1] == ANSWER


def test_a_reassembled_message_that_does_not_parse() -> None:
    """RFC 7296 §2.5: it is processed as if it had come in one piece."""
    pair = pair_of().attach()
    odd = UnknownPayload(PayloadType(200), True, bytes(600))
    give(pair, *sealed(pair, odd))
    assert pair.wire[-1] == "<-- INFORMATIONAL response 4 [ N(UNSUPPORTED_CRITICAL_PAYLOAD) ]"
    assert pair.epdg.live.state is SaState.ESTABLISHED


# --- repeated


def test_fragment_one_of_an_answered_request_brings_the_response_again() -> None:
    """§2.6.1: "otherwise, it MUST be ignored"."""
    pair = pair_of().attach()
    pieces = sealed(pair, *LONG)
    give(pair, *pieces)
    count = len(pair.seen)
    give(pair, *pieces[1:])
    assert len(pair.seen) == count
    assert pair.epdg.live.dropped["fragment-again"] == len(pieces) - 1
    give(pair, replace(pieces[0], payload=pieces[0].payload[:-1] + b"\x00"))
    assert len(pair.seen) == count  # not genuine
    give(pair, pieces[0])
    assert pair.wire[-1] == ANSWER + " (again)"
    assert pair.seen[-1][1].payload == pair.seen[count - 1][1].payload


def test_a_fragmented_request_waits_for_its_answer() -> None:
    """Retransmissions of a request whose answer is deferred ask nothing again."""
    pair = pair_of(160)
    questions: list[Event] = []

    def slow(event: Event) -> object:
        if isinstance(event, EapResponseReceived) and not questions:
            questions.append(event)
            return None
        return answer_as_gateway(event)

    pair.epdg.answers = slow
    pair.attach()
    assert len(questions) == 1
    assert pair.ue.live.window.retransmissions_sent >= 2
    pair.epdg.endpoint.answer(pair.epdg.live, EapReply(packet=eap(3, b""), msk=MSK), pair.now)
    pair.run(5.0)
    assert pair.ue.live.state is SaState.ESTABLISHED


@pytest.mark.parametrize("sender", ["ue", "epdg"])
@pytest.mark.parametrize("number", range(10))
def test_any_one_datagram_may_be_lost(sender: str, number: int) -> None:
    """§2.6: all fragments are sent again, with the same octets."""
    pair = pair_of()
    count = [0]

    def lose(who: str, datagram: Datagram) -> bool:
        if who == sender:
            count[0] += 1
        return who == sender and count[0] == number + 1

    pair.lose = lose
    pair.attach()
    assert pair.ue.live.state is pair.epdg.live.state is SaState.ESTABLISHED
    assert len([e for e in pair.epdg.events if isinstance(e, ChildSaInstalled)]) == 1


# --- path MTU


def test_smaller_fragments_are_tried_when_there_is_no_answer() -> None:
    """§2.5.2: the initiator goes down from the configured size, the response follows (§2.5.1)."""
    pair = Pair(initiator_config(fragment_size=1500), responder_config(fragment_size=1500))
    pair.lose = lambda sender, datagram: len(datagram.payload) > message_limit(datagram.path, 600)
    pair.ue_config = replace(
        pair.ue_config,
        configuration_request=pair.ue_config.configuration_request * 100,
    )
    pair.start()
    pair.run(20.0)
    assert pair.ue.live.state is SaState.ESTABLISHED
    tried = [total for number, total in fragments(pair, "ue") if number == 1]
    assert tried == sorted(tried)  # §2.5.2: "really increased"
    assert tried[0] > 1
    assert pair.ue.live.fragmentation.size == 576


def test_a_request_sent_whole_is_sent_again_in_fragments() -> None:
    """§2.4: "resend it as fragmented only if no complete response is received even after several"."""
    pair = Pair(initiator_config(), responder_config())
    pair.lose = lambda sender, datagram: sender == "ue" and len(datagram.payload) > 544
    pair.ue_config = replace(pair.ue_config, configuration_request=pair.ue_config.configuration_request * 80)
    pair.start()
    pair.run(3.0)
    assert fragments(pair, "ue") == []
    pair.run(10.0)
    assert fragments(pair, "ue")[0][0] == 1
    assert pair.ue.live.state is SaState.ESTABLISHED
    again = [e for e in pair.ue.events if isinstance(e, MessageSent) and e.message.message_id == 1]
    assert [(e.retransmission, e.fragments > 1) for e in again] == [
        (False, False),
        (True, False),
        (True, False),
        (True, True),
    ]


def test_the_smallest_fragments_are_retransmitted_to_the_limit() -> None:
    """§2.5.2: "MUST continue retransmitting until the exchange either completes or times out"."""
    pair = pair_of(1280)
    pair.lose = lambda sender, datagram: sender == "ue" and datagram.payload[18] == ExchangeType.IKE_AUTH
    pair.ue_config = replace(pair.ue_config, configuration_request=pair.ue_config.configuration_request * 400)
    pair.start()
    pair.run(3.5 + 31.0)
    assert not pair.ue.has(Closed)
    assert len({total for _, total in fragments(pair, "ue")}) == 2
    pair.run(2.0)
    assert "no response" in pair.ue.take(Closed).why


def test_the_response_goes_in_the_size_that_the_request_came_in() -> None:
    """§2.5.1: "The responder may use the maximum size of the received" fragments, down to the smallest probe."""
    pair = Pair(initiator_config(fragment_size=SMALL), responder_config(fragment_size=1280)).attach()
    lengths = [len(d.payload) for who, d in pair.seen if who == "epdg" and numbers(d) is not None]
    assert lengths
    assert max(lengths) <= message_limit(pair.epdg.live.path, 576)


def test_a_response_that_keeps_getting_lost_goes_in_smaller_fragments() -> None:
    """§2.4: the responder's heuristic is "receiving repeated retransmissions of the request"."""
    pair = Pair()
    pair.lose = lambda sender, datagram: sender == "epdg" and len(datagram.payload) > 544
    pair.start()
    pair.run(10.0)
    assert pair.ue.live.state is SaState.ESTABLISHED
    sent = [e for e in pair.epdg.events if isinstance(e, MessageSent) and e.message.message_id == 1]
    assert [e.fragments > 1 for e in sent] == [False, False, False, True]
    assert len([e for e in pair.epdg.events if isinstance(e, ChildSaInstalled)]) == 1


# --- any order, any loss, any forgery


@settings(max_examples=100, deadline=None)
@given(
    st.data(),
    st.lists(st.sampled_from([120, 160, 200, 300, 500]), min_size=1, max_size=3),
)
def test_reassembly_gives_the_message_or_nothing(data: st.DataObject, limits: list[int]) -> None:
    """Invariant: whatever arrives, the gateway gives one answer to the message as it was sent, or none."""
    pair = FUZZED
    pair.run(60.0)
    message_id = pair.epdg.live.window._expected_id
    pool = [piece for limit in limits for piece in sealed(pair, *LONG, message_id=message_id, limit=limit)]
    order = data.draw(st.lists(st.integers(0, len(pool) - 1), max_size=30))
    for index in order:
        octets = bytearray(pool[index].payload)
        for at in data.draw(st.lists(st.integers(28, len(octets) - 1), max_size=1)):
            octets[at] ^= 1 << data.draw(st.integers(0, 7))
        give(pair, replace(pool[index], payload=bytes(octets)))
    answers = [line for line in pair.wire if line == f"<-- INFORMATIONAL response {message_id} [ N(COOKIE2) ]"]
    assert len(answers) <= 1
    give(pair, *sealed(pair, *LONG, message_id=message_id, limit=100))
    assert pair.epdg.live.window.classify(message_id).value == "answered"
    assert pair.epdg.live.state is SaState.ESTABLISHED


FUZZED = pair_of().attach()
