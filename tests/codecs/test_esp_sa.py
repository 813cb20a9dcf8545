"""A child SA at work: replay window, order of the checks of RFC 4303 §3.4, what a move leaves alone."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest

from protocols.entropy import SeededEntropy
from protocols.errors import LocalError
from protocols.esp.packet import sealer_of
from protocols.esp.sa import (
    MAXIMUM_EXTENDED_SEQUENCE,
    MAXIMUM_SEQUENCE,
    ChildSa,
    ChildSaSpec,
    DropReason,
    ReplayWindow,
    SelectorSet,
)
from protocols.ip import IpPacket
from protocols.path import Address
from protocols.selectors import TrafficSelector
from tests.dataplane.pairs import HOST_ADDRESS, SUITES, UE_ADDRESS, UE_ELSEWHERE, mirrored, ue_spec

# RFC 4303 §3.4.3, window of 32 packets: what arrives → whether it is accepted
REPLAY_TABLES = {
    "in order": [(1, True), (2, True), (3, True)],
    "duplicate": [(1, True), (1, False), (2, True), (2, False), (1, False)],
    "zero is never sent": [(0, False), (1, True), (0, False)],
    "reordered": [(5, True), (3, True), (4, True), (1, True), (2, True), (3, False), (5, False)],
    "left edge": [(32, True), (1, True), (33, True), (1, False), (2, True), (2, False)],
    "too old": [(100, True), (68, False), (69, True), (69, False), (70, True)],
    "jump by the window's size": [(1, True), (33, True), (2, True), (1, False)],
    "jump by more": [(1, True), (1000, True), (969, True), (968, False), (1, False)],
    "to the end": [(MAXIMUM_SEQUENCE, True), (MAXIMUM_SEQUENCE, False), (1, False)],
}


@pytest.mark.parametrize("name", REPLAY_TABLES)
def test_replay_window(name: str) -> None:
    window = ReplayWindow(32, esn=False)
    for low, accepted in REPLAY_TABLES[name]:
        sequence = window.check(low)
        assert (sequence is not None) == accepted, (low, accepted)
        if sequence is not None:
            window.advance(sequence)


@pytest.mark.parametrize("size", [32, 33, 64, 128, 1024, 4096])
def test_replay_window_against_a_set_of_all_numbers_seen(size: int) -> None:
    """Any order of arrival: accepted exactly when new and less than ``size`` behind the highest."""
    window, seen, top = ReplayWindow(size, esn=False), set(), 0
    octets = SeededEntropy(size).octets(6000)
    for index in range(0, len(octets), 2):
        low = max(1, index + int.from_bytes(octets[index : index + 2], "big") % (3 * size) - size)
        expected = low not in seen and low > top - size
        sequence = window.check(low)
        assert (sequence == low) if expected else (sequence is None)
        if sequence is not None:
            window.advance(sequence)
            seen.add(low)
            top = max(top, low)
    assert window.top == top


@pytest.mark.parametrize("size", [32, 33, 1024, 4096])
@pytest.mark.parametrize("start", [0, (1 << 32) - 3000, (5 << 32) - 3000, (1 << 32) + 3000])
def test_extended_replay_window_against_a_set_of_all_numbers_seen(size: int, start: int) -> None:
    """The same with 64-bit numbers of which 32 are seen, across the boundary of a subspace and away from it."""
    window, seen = ReplayWindow(size, esn=True), set()
    top = start
    if start:
        window.advance(start)
        seen.add(start)
    octets = SeededEntropy(f"{size} {start}").octets(6000)
    for index in range(0, len(octets), 2):
        jump = int.from_bytes(octets[index : index + 2], "big") % (3 * size) - 2 * size
        full = max(1, top + min(jump, size // 4))
        if full <= top - size and full >> 32 != top >> 32:
            continue  # so old that it looks like one to come: its ICV tells (RFC 4303 Appendix A2)
        expected = full not in seen and full > top - size
        sequence = window.check(full & 0xFFFFFFFF)
        if full <= top - size:
            assert sequence != full
            continue
        assert (sequence == full) if expected else (sequence is None)
        if sequence is not None:
            window.advance(sequence)
            seen.add(sequence)
            top = max(top, sequence)
    assert window.top == top > start


def test_without_a_window_everything_is_fresh() -> None:
    window = ReplayWindow(0, esn=False)
    for low in (5, 5, 1, 5, MAXIMUM_SEQUENCE, 1):
        assert window.check(low) == low
        window.advance(low)


def test_without_a_window_a_number_far_behind_costs_no_memory() -> None:
    """The peer chooses its numbers: nothing is kept of those below the highest."""
    window = ReplayWindow(0, esn=False)
    window.advance(0xFFFFFFFF)
    tracemalloc.start()
    try:
        window.advance(3)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert window.top == 0xFFFFFFFF


K = 1 << 32
# RFC 4303 Appendix A2.1, window of 64: highest number so far, low half received → full number
EXTENDED_TABLE = [
    (0, 1, 1),
    (0, K - 1, None),  # there is no subspace before the first
    (0, 0, None),
    (100, 37, 37),
    (100, 36, K + 36),  # left of the window: must be the next subspace
    (K - 1, 5, K + 5),
    (K - 1, K - 2, K - 2),
    (K + 5, K - 10, K - 10),  # Case B: the window reaches back
    (K + 5, K - 58, K - 58),
    (K + 5, K - 59, 2 * K - 59),
    (K + 5, 6, K + 6),
    (K + 5, 5, None),
    (7 * K + 1000, 2000, 7 * K + 2000),
    (7 * K + 1000, 999, 7 * K + 999),
    (7 * K + 1000, 900, 8 * K + 900),
    (MAXIMUM_EXTENDED_SEQUENCE, 5, None),  # beyond 64 bits
]


@pytest.mark.parametrize(("top", "low", "expected"), EXTENDED_TABLE)
def test_extended_sequence_numbers(top: int, low: int, expected: int | None) -> None:
    window = ReplayWindow(64, esn=True)
    window.advance(top)
    assert window.check(low) == expected


def packet(source: Address = UE_ADDRESS, destination: Address = HOST_ADDRESS, **fields: object) -> bytes:
    values = {"protocol": 17, "payload": b"\x13\x88\x00\x07\x00\x0a\x00\x00hi", **fields}
    return IpPacket(source=source, destination=destination, **values).encode()  # type: ignore[arg-type]


def pair(suite: str = "aes128-sha256") -> tuple[ChildSa, ChildSa]:
    spec = ue_spec(suite)
    return ChildSa(spec, SeededEntropy("ue")), ChildSa(mirrored(spec), SeededEntropy("epdg"))


@pytest.mark.parametrize("suite", SUITES)
def test_both_directions(suite: str) -> None:
    ue, epdg = pair(suite)
    there, back = packet(), packet(HOST_ADDRESS, UE_ADDRESS)
    for _ in range(3):
        assert epdg.open(ue.seal(there, 4)) == there
        assert ue.open(epdg.seal(back, 4)) == back
    assert (ue.sequence, epdg.window.top) == (3, 3)
    assert (ue.outbound_packets, ue.outbound_octets) == (3, 3 * len(there))
    assert (epdg.inbound_packets, epdg.inbound_octets) == (3, 3 * len(there))
    assert ue.drops == epdg.drops == {}


@pytest.mark.parametrize("suite", ["aes128-sha256", "aes128gcm16"])
def test_a_wrong_icv_does_not_move_the_window(suite: str) -> None:
    """RFC 4303 §3.4.3: the window is updated only if the ICV verifies."""
    ue, epdg = pair(suite)
    first, second = ue.seal(packet(), 4), ue.seal(packet(), 4)
    forged = bytearray(second)
    forged[4:8] = (5000).to_bytes(4, "big")
    assert epdg.open(bytes(forged)) is DropReason.BAD_ICV
    assert epdg.open(second[:-1] + bytes([second[-1] ^ 1])) is DropReason.BAD_ICV
    assert epdg.window.top == 0
    assert epdg.open(first) == packet()
    assert epdg.open(second) == packet()
    assert epdg.open(second) is DropReason.REPLAYED
    assert epdg.drops == {DropReason.BAD_ICV: 2, DropReason.REPLAYED: 1}


def sealed(spec: ChildSaSpec, payload: bytes, next_header: int, sequence: int = 1) -> bytes:
    """An authentic ESP packet of any content, towards the owner of ``mirrored(spec)``."""
    sealer = sealer_of(
        spec.suite,
        spec.outbound_spi,
        spec.outbound_encryption_key,
        spec.outbound_integrity_key,
        SeededEntropy("peer"),
    )
    return sealer.seal(sequence, payload, next_header)


GOOD = packet()
V6 = IpPacket(
    source=TrafficSelector.host("2001:db8::1").start,
    destination=TrafficSelector.host("2001:db8::2").start,
    protocol=59,
    payload=b"",
).encode()


@pytest.mark.parametrize(
    ("payload", "next_header", "expected"),
    [
        (GOOD, 4, GOOD),
        (GOOD + bytes(100), 4, GOOD),  # RFC 4303 §2.7: traffic flow confidentiality padding
        (b"", 59, DropReason.DUMMY),
        (b"\xff" * 80, 59, DropReason.DUMMY),
        (GOOD, 41, DropReason.MALFORMED),
        (V6, 4, DropReason.MALFORMED),
        (V6, 41, DropReason.BAD_SELECTOR),
        (GOOD, 17, DropReason.MALFORMED),
        (GOOD[:-1], 4, DropReason.MALFORMED),
        (GOOD[:19], 4, DropReason.MALFORMED),
        (b"", 4, DropReason.MALFORMED),
        (b"\x45", 4, DropReason.MALFORMED),
        (b"\x00" * 40, 4, DropReason.MALFORMED),
        (packet(source=HOST_ADDRESS), 4, DropReason.BAD_SELECTOR),
    ],
    ids=range(14),
)
@pytest.mark.parametrize("suite", ["aes128-sha256", "aes128gcm16"])
def test_authentic_packets_of_any_content(
    suite: str, payload: bytes, next_header: int, expected: bytes | DropReason
) -> None:
    spec = ue_spec(suite)
    epdg = ChildSa(mirrored(spec), SeededEntropy("epdg"))
    octets = sealed(spec, payload, next_header)
    assert epdg.open(octets) == expected
    assert epdg.window.top == 1  # authentic: it has moved the window whatever it carried
    assert epdg.open(octets) is DropReason.REPLAYED
    counted = {DropReason.REPLAYED: 1}
    if isinstance(expected, DropReason):
        counted[expected] = 1
    assert epdg.drops == counted


def test_a_destination_outside_the_selectors() -> None:
    spec = ue_spec(remote="192.0.2.0/24")
    ue, epdg = ChildSa(spec, SeededEntropy("ue")), ChildSa(mirrored(spec), SeededEntropy("epdg"))
    stray = packet(destination=TrafficSelector.host("192.0.3.1").start)
    assert epdg.open(ue.seal(stray, 4)) is DropReason.BAD_SELECTOR
    assert epdg.open(ue.seal(packet(), 4)) == packet()


@pytest.mark.parametrize(
    ("limit", "suite"),
    [(MAXIMUM_SEQUENCE, "aes128-sha256"), (MAXIMUM_EXTENDED_SEQUENCE, "aes128gcm16-esn")],
)
def test_sequence_numbers_do_not_cycle(limit: int, suite: str) -> None:
    """RFC 4303 §3.3.3."""
    ue, _ = pair(suite)
    ue.sequence = limit - 1
    assert not ue.exhausted
    assert ue.seal(packet(), 4)[4:8] == b"\xff\xff\xff\xff"
    assert ue.exhausted
    with pytest.raises(LocalError):
        ue.seal(packet(), 4)
    assert ue.sequence == limit


def test_extended_sequence_numbers_cross_the_32_bit_boundary() -> None:
    ue, epdg = pair("aes128-sha256-esn")
    ue.sequence = K - 3
    epdg.window.advance(K - 3)
    crossing = [ue.seal(packet(), 4) for _ in range(6)]
    for octets in (*crossing[::2], *crossing[1::2]):
        assert epdg.open(octets) == packet()
    assert epdg.window.top == K + 3
    assert [epdg.open(octets) for octets in crossing] == [DropReason.REPLAYED] * 6


@pytest.mark.parametrize(
    "changes",
    [
        {"inbound_spi": b"\x00\x00\x00\xff"},
        {"outbound_spi": b"\x00\x00\x00\x00"},
        {"outbound_spi": b"\xc0\x00\x00"},
        {"replay_window": 31},
        {"local_selectors": ()},
        {"remote_selectors": ()},
    ],
)
def test_impossible_specifications(changes: dict[str, object]) -> None:
    with pytest.raises(LocalError):
        ChildSa(replace(ue_spec(), **changes), SeededEntropy(1))  # type: ignore[arg-type]


def test_extended_sequence_numbers_need_a_window() -> None:
    with pytest.raises(LocalError):
        ChildSa(ue_spec("aes128-sha256-esn", replay_window=0), SeededEntropy(1))


def test_a_move_touches_neither_numbers_nor_window() -> None:
    ue, epdg = pair()
    early = ue.seal(packet(), 4)
    assert epdg.open(early) == packet()
    epdg.path = replace(epdg.path, remote=UE_ELSEWHERE)
    epdg.encapsulation = False
    assert epdg.open(early) is DropReason.REPLAYED
    assert ue.seal(packet(), 4)[4:8] == (2).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("port", "protocol", "expected"),
    [(5060, 17, True), (5061, 17, True), (5062, 17, False), (5060, 6, False), (None, 17, False)],
)
def test_selectors_with_ports(port: int | None, protocol: int, expected: bool) -> None:
    selector = replace(TrafficSelector.host(UE_ADDRESS), protocol=17, start_port=5060, end_port=5061)
    compiled = SelectorSet((selector,))
    assert compiled.matches(4, int(UE_ADDRESS), protocol, port) is expected
    assert selector.matches(UE_ADDRESS, protocol, port) is expected
    assert not compiled.matches(6, int(UE_ADDRESS), protocol, port)
