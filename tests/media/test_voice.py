"""A call over a wire with known faults: what both ends know, and what their joined logs say."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

import pytest

from protocols.media.log import PacketFate, around, burst_ratio, figures, join
from protocols.media.rtp import SEQUENCE_MODULUS, RtpPacket
from protocols.media.score import score
from protocols.media.voice import IDLE_INTERVAL, VoiceEndpoint
from tests.media.wire import Rule, Wire

DELAY = 0.03


def clean(number: int, now: float) -> Sequence[float]:
    del number, now
    return (DELAY,)


def cut(since: float, until: float) -> Rule:
    return lambda number, now: () if since <= now < until else (DELAY,)


def call(
    *, to_left: Rule = clean, to_right: Rule = clean, offset: float = 0.0, history: int = 32768
) -> tuple[VoiceEndpoint, VoiceEndpoint, Wire]:
    caller = VoiceEndpoint(ssrc=1, history=history)
    answerer = VoiceEndpoint(ssrc=2, answering=True, history=history)
    wire = Wire(caller, answerer, caller.receive, answerer.receive, to_left=to_left, to_right=to_right, offset=offset)
    caller.start(0.0)
    return caller, answerer, wire


def test_a_clean_call() -> None:
    """50 packets a second each way; both ends know both directions, and the opinion is AMR's best."""
    caller, answerer, wire = call()
    wire.run(9.99)
    caller.stop(wire.now)
    wire.run(12.0)
    assert (caller.sent, answerer.sent) == (500, 500)  # BYE is 30 ms under way
    assert answerer.ended
    assert not answerer.running
    assert not caller.running
    assert answerer.next_deadline() is None
    assert caller.next_deadline() is None
    seen = caller.statistics(wire.now)
    assert (seen.outbound.sent, seen.outbound.received, seen.outbound.lost) == (500, 500, 0)
    assert (seen.inbound.received, seen.inbound.lost, seen.in_flight) == (500, 0, 0)
    assert seen.outbound.longest_gap_ms == pytest.approx(30, abs=0.2)  # until the first arrives
    assert seen.outbound.jitter_ms == pytest.approx(0, abs=0.1)
    assert seen.outbound_opinion is not None
    assert seen.inbound_opinion is not None
    assert seen.outbound_opinion.mos == pytest.approx(seen.inbound_opinion.mos, abs=0.01)
    assert seen.outbound_opinion.delay_ms == pytest.approx(115, abs=1)  # 30 + buffer 60 + AMR 25
    assert 4.1 < seen.outbound_opinion.mos < 4.3


def test_known_faults_are_counted_exactly() -> None:
    """Every 10th datagram lost, every 25th late by 50 ms, every 40th twice; the joined logs agree with both ends."""

    def faulty(number: int, now: float) -> Sequence[float]:
        if number % 10 == 5:
            return ()
        if number % 25 == 7:
            return (DELAY + 0.05,)
        if number % 40 == 9:
            return (DELAY, DELAY + 0.001)
        return (DELAY,)

    caller, answerer, wire = call(to_left=faulty)
    wire.run(20.0)
    wire_log = join(answerer.sent_log(0, 18), caller.received_log())
    truth = figures(wire_log)
    assert truth.lost == sum(fate.copies == 0 for fate in wire_log) > 80
    assert truth.duplicated > 15
    assert truth.reordered > 25
    # The caller by itself: numbers and times of what came; the answerer by the caller's reports.
    own = caller.statistics(wire.now, None, 17.9).inbound
    told = answerer.statistics(wire.now, None, 17.9).outbound
    for known in (own, told):
        exact = figures(wire_log, None, 17.9)
        assert (known.sent, known.received, known.lost) == pytest.approx(
            (exact.sent, exact.received, exact.lost), abs=1
        )
        assert (known.duplicated, known.reordered) == pytest.approx((exact.duplicated, exact.reordered), abs=1)
        assert known.jitter_ms == pytest.approx(exact.jitter_ms, rel=0.1)


@pytest.mark.parametrize("offset", [0.0, 5000.0, -3.5])
def test_an_outage_of_both_directions_is_told_afterwards(offset: float) -> None:
    """Ten seconds without a path: 500 packets of each direction; the clocks of the ends need not agree."""
    caller, answerer, wire = call(to_left=cut(5.0, 15.0), to_right=cut(5.0, 15.0), offset=offset)
    wire.run(30.0)
    seen = caller.statistics(wire.now, 0, 25)
    for known in (seen.outbound, seen.inbound):
        assert known.lost == pytest.approx(500, abs=2)
        assert known.longest_gap_ms == pytest.approx(10_020, abs=25)
    assert seen.outbound_opinion is not None
    assert seen.outbound_opinion.mos < 1.5
    before, after = caller.statistics(wire.now, 1, 4.9), caller.statistics(wire.now, 16, 25)
    for opinion in (before.outbound_opinion, before.inbound_opinion, after.outbound_opinion, after.inbound_opinion):
        assert opinion is not None
        assert opinion.mos > 4.1
    fates = join(caller.sent_log(), [(number, at - offset) for number, at in answerer.received_log()])
    last, first = around(fates, 10.0)
    assert last == pytest.approx(5.01, abs=0.021)
    assert first == pytest.approx(15.03, abs=0.021)


def test_an_outage_of_one_direction_hides_nothing_of_the_other() -> None:
    """Reports that were lost with the downlink come again: the uplink's score is complete."""
    caller, _, wire = call(to_left=cut(5.0, 35.0))
    wire.run(34.9)
    during = caller.statistics(wire.now, 0, 30)
    assert during.outbound.lost > 1000  # nobody has told the caller: as good as lost
    wire.run(42.0)
    seen = caller.statistics(wire.now, 0, 38)
    assert seen.outbound.lost == 0
    assert seen.inbound.lost == pytest.approx(1500, abs=2)


def test_random_loss_is_found_on_both_sides() -> None:
    for seed in range(5):
        random = Random(seed)

        def lossy(number: int, now: float, random: Random = random) -> Sequence[float]:
            return () if random.random() < 0.1 else (DELAY + random.random() * 0.02,)

        caller, answerer, wire = call(to_left=lossy, to_right=lossy)
        wire.run(30.0)
        exact = figures(join(caller.sent_log(), answerer.received_log()), 0, 25)
        seen = caller.statistics(wire.now, 0, 25).outbound
        assert (seen.sent, seen.received, seen.lost) == (exact.sent, exact.received, exact.lost)
        assert 0.07 < exact.lost / exact.sent < 0.13
        opinion = score(join(caller.sent_log(), answerer.received_log()), 0, 25)
        assert opinion is not None
        assert opinion.loss_ratio == pytest.approx(exact.lost / exact.sent)
        assert opinion.burst_ratio == pytest.approx(1.0, abs=0.15)
        assert 1.9 < opinion.mos < 2.7


def test_an_answering_end_outlives_an_outage_and_not_its_caller() -> None:
    """BYE is lost with the path: it ends after the idle interval, and a packet brings it back."""
    caller, answerer, wire = call(to_right=cut(2.0, 2.0 + IDLE_INTERVAL + 20))
    wire.run(1.0 + IDLE_INTERVAL)
    assert answerer.running
    wire.run(10.0 + IDLE_INTERVAL)
    assert not answerer.running
    assert not answerer.ended
    wire.run(30.0 + IDLE_INTERVAL)
    assert answerer.running
    caller.stop(wire.now)
    wire.run(wire.now + 1)
    assert answerer.ended


def test_history_is_bounded() -> None:
    caller, answerer, wire = call(history=100, to_left=lambda number, now: () if number % 3 else (DELAY,))
    wire.run(30.0)
    assert len(caller.sent_log()) == len(answerer.received_log()) == 100
    assert len(caller.received_log()) <= 100
    seen = caller.statistics(wire.now)
    assert seen.outbound.sent <= 100
    assert seen.inbound.sent <= 300


def test_what_is_no_packet_of_the_call_is_counted() -> None:
    caller, answerer, wire = call()
    wire.run(1.0)
    other = VoiceEndpoint(ssrc=99)
    other.start(1.0)
    other.handle_timeout(1.0)
    stray = other.poll_transmit()
    assert stray is not None
    assert not answerer.receive(stray, 1.0)
    other.stop(1.0)
    bye = other.poll_transmit()
    assert bye is not None
    assert not answerer.receive(bye, 1.0)
    assert answerer.running
    assert answerer.counters.foreign == 2
    random = Random(1)
    for length in range(80):
        caller.receive(random.randbytes(length), 1.0)
        caller.receive(b"\x80\xcc" + random.randbytes(length), 1.0)
        caller.receive(stray[: length % len(stray)], 1.0)
    assert caller.counters.malformed > 100
    wire.run(2.0)
    assert caller.statistics(wire.now).inbound.lost == 0


def test_another_pace_is_taken_up() -> None:
    caller = VoiceEndpoint(ssrc=1, interval=0.1)
    answerer = VoiceEndpoint(ssrc=2, answering=True)
    wire = Wire(caller, answerer, caller.receive, answerer.receive, to_left=clean, to_right=clean)
    caller.start(0.0)
    wire.run(10.0)
    assert answerer.sent == pytest.approx(100, abs=2)


def speech(sequence: int, ticks_between: int = 200) -> bytes:
    note = struct.pack(">III", 0, ticks_between, 0)
    number = sequence % SEQUENCE_MODULUS
    return RtpPacket(
        payload_type=96, sequence=number, timestamp=0, ssrc=9, payload=b"\xf0\x3c" + note + bytes(19)
    ).encode()


def test_a_peer_whose_numbers_jump_costs_no_more_than_the_history() -> None:
    """A hundred packets count to three millions: the end of the call is told in as many reports as there is memory."""
    caller = VoiceEndpoint(ssrc=1, history=1280)
    caller.start(0.0)
    for jump in range(100):
        caller.receive(speech(jump * 32_000), 0.0)
    caller.stop(1.0)
    packets = 0
    while caller.poll_transmit() is not None:
        packets += 1
    assert packets == 1280 / 128 + 1  # reports and BYE
    for late in range(1000):
        caller.receive(speech(3_200_000 + late), 2.0)
    assert len(caller._marks) == 0  # nothing is kept for reports that will never be made


def test_an_answering_end_is_no_amplifier() -> None:
    """One packet with a pace of 10,000 per second is no call."""
    answerer = VoiceEndpoint(ssrc=2, answering=True)
    assert not answerer.receive(speech(0, ticks_between=1), 0.0)
    assert not answerer.running
    assert answerer.receive(speech(0, ticks_between=5), 0.0)
    assert answerer.interval == 0.0005


class TestFigures:
    """Windows of fates made by hand."""

    FATES = tuple(
        PacketFate(
            sequence=n, sent=n * 0.02, received=None if 10 <= n < 20 else n * 0.02 + 0.05, copies=int(n < 10 or n >= 20)
        )
        for n in range(100)
    )

    def test_window(self) -> None:
        seen = figures(self.FATES, 0.1, 0.3)
        assert (seen.sent, seen.received, seen.lost, seen.duplicated, seen.reordered) == (10, 5, 5, 0, 0)
        assert (seen.longest_gap_ms, seen.jitter_ms) == pytest.approx((70, 0), abs=1e-6)
        assert figures(self.FATES).longest_gap_ms == pytest.approx(220)
        assert figures(()).sent == 0
        assert figures((), 0, 1).jitter_ms is None

    def test_around(self) -> None:
        assert around(self.FATES, 0.25) == pytest.approx((0.23, 0.45))
        assert around((), 1.0) == (None, None)

    def test_jitter_converges_to_the_mean_difference(self) -> None:
        """RFC 3550 A.8: arrivals that alternate by 8 ms differ by 8 ms each time."""
        fates = [PacketFate(sequence=n, sent=n * 0.02, received=n * 0.02 + n % 2 * 0.008, copies=1) for n in range(500)]
        assert figures(fates).jitter_ms == pytest.approx(8, abs=0.01)

    def test_join_knows_copies_and_order(self) -> None:
        fates = join([(0, 0.0), (1, 0.02), (2, 0.04)], [(2, 0.05), (0, 0.06), (0, 0.055), (7, 0.1)])
        assert [(fate.received, fate.copies) for fate in fates] == [(0.055, 2), (None, 0), (0.05, 1)]
        seen = figures(fates)
        assert (seen.lost, seen.duplicated, seen.reordered) == (1, 1, 1)

    def test_burst_ratio(self) -> None:
        assert burst_ratio([True] * 10) == 1.0
        assert burst_ratio([False] * 10) == 1.0
        assert burst_ratio([True, False] * 5) == 1.0
        assert burst_ratio([True] * 90 + [False] * 10) == pytest.approx(9.0)

    def test_late_packets_are_lost_to_the_listener(self) -> None:
        fates = [
            PacketFate(sequence=n, sent=n * 0.02, received=n * 0.02 + (0.2 if n % 10 == 0 else 0.05), copies=1)
            for n in range(100)
        ]
        opinion = score(fates)
        assert opinion is not None
        assert (opinion.loss_ratio, opinion.late_ratio) == pytest.approx((0.0, 0.1))
        roomy = score(fates, buffer_interval=0.3)
        assert roomy is not None
        assert roomy.late_ratio == 0
        assert roomy.delay_ms > opinion.delay_ms
        assert score(fates, 100.0) is None
