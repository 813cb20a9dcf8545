"""Sequence numbers (TS 33.102 Annex C) and the USIM that keeps them (§6.3.3)."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocols.algorithms.milenage import Milenage
from protocols.algorithms.sqn import (
    IND_COUNT,
    SEQ_JUMP_LIMIT,
    SEQ_MAXIMUM,
    SqnAllocator,
    SqnScheme,
    SqnState,
    SqnWindow,
    Transition,
    compose,
    ind_of,
    seq_of,
)
from protocols.algorithms.usim import UsimReject, UsimSuccess, UsimSynchronisationFailure
from protocols.algorithms.vector import generate_vector, verify_auts
from protocols.errors import ConfigurationError, LocalError
from protocols.secret import Secret
from protocols.threegpp.identity import Imsi
from ue.usim import FileSqnStore, MemorySqnStore, SoftwareUsim

K, OPC = Secret(bytes(range(16))), Secret(bytes(range(16, 32)))
HOME = Milenage(K, opc=OPC)
RAND = bytes(range(0xA0, 0xB0))


class Subscriber:
    """A durable SEQ counter, as a database row keeps it."""

    def __init__(self, seq: int = 0) -> None:
        self.seq = seq

    def change(self, transition: Transition) -> SqnState:
        """Store what the transition makes of it."""
        new = transition(SqnState(self.seq))
        self.seq = new.seq
        return new

    def allocator(self, block: int) -> SqnAllocator:
        """A process that draws from it."""
        return SqnAllocator(SqnScheme(), self.change, lambda: 0.0, block=block)


def test_composition() -> None:
    sqn = compose(0x1234, 0x15)
    assert sqn == 0x1234 * 32 + 0x15
    assert (seq_of(sqn), ind_of(sqn)) == (0x1234, 0x15)


def test_generator_steps_seq_and_goes_round_ind() -> None:
    state = SqnState()
    sqns = []
    for _ in range(70):
        sqn, state = SqnScheme().next(state)
        sqns.append(sqn)
    assert [seq_of(sqn) for sqn in sqns] == list(range(1, 71))
    assert [ind_of(sqn) for sqn in sqns] == [at % IND_COUNT for at in range(1, 71)]


def test_generator_ends_rather_than_wraps() -> None:
    sqn, state = SqnScheme().next(SqnState(SEQ_MAXIMUM - 1, 0))
    assert sqn >> 5 == SEQ_MAXIMUM
    with pytest.raises(LocalError, match="exhausted"):
        SqnScheme().next(state)


@pytest.mark.parametrize(
    ("home", "card", "expected"),
    [
        (10, 50, 50),  # the home network is behind: go on after the card
        (50, 50, 50),
        (60, 50, 60),  # the next one will be taken as it is
        (50 + SEQ_JUMP_LIMIT - 1, 50, 50 + SEQ_JUMP_LIMIT - 1),
        (50 + SEQ_JUMP_LIMIT, 50, 50),  # too far ahead for the card: come back
    ],
)
def test_resynchronisation_makes_the_next_sqn_acceptable(home: int, card: int, expected: int) -> None:
    window = SqnWindow(tuple(card if ind == card % IND_COUNT else 0 for ind in range(IND_COUNT)))
    state = SqnScheme().resynchronised(SqnState(home, home % IND_COUNT), window.sqn_ms)
    assert state.seq == expected
    assert window.accept(SqnScheme().next(state)[0]) is not None


def test_allocator_reserves_blocks_and_never_repeats_after_a_crash() -> None:
    row = Subscriber()
    before = row.allocator(8)
    given = [before.next() for _ in range(11)]
    assert row.seq == 16
    after = row.allocator(8)  # the process died with five values unused
    given += [after.next() for _ in range(9)]
    assert [seq_of(sqn) for sqn in given] == [*range(1, 12), *range(17, 26)]
    window = SqnWindow()
    for sqn in given:
        accepted = window.accept(sqn)
        assert accepted is not None
        window = accepted


def test_allocator_resynchronises() -> None:
    row = Subscriber()
    allocator = row.allocator(4)
    allocator.next()
    allocator.resynchronise(compose(5000, 7))
    assert seq_of(allocator.next()) == 5001
    allocator.resynchronise(compose(4000, 7))  # the next one is acceptable: nothing is thrown away
    assert seq_of(allocator.next()) == 5002


def test_allocator_resynchronises_straight_after_a_restart() -> None:
    row = Subscriber(seq=100)
    allocator = row.allocator(4)
    allocator.resynchronise(compose(100, 4))
    assert seq_of(allocator.next()) == 101


def test_allocator_ends_rather_than_wraps() -> None:
    row = Subscriber(seq=SEQ_MAXIMUM - 1)
    allocator = row.allocator(4)
    assert seq_of(allocator.next()) == SEQ_MAXIMUM
    with pytest.raises(LocalError, match="exhausted"):
        allocator.next()


def test_window_takes_each_number_once_and_out_of_order_between_entries() -> None:
    window = SqnWindow()
    newer = window.accept(compose(40, 8))
    assert newer is not None
    older_other_entry = newer.accept(compose(33, 1))
    assert older_other_entry is not None
    assert older_other_entry.sqn_ms == compose(40, 8)
    for stale in (compose(40, 8), compose(39, 8), compose(33, 1), compose(1, 1)):
        assert older_other_entry.accept(stale) is None


def test_window_refuses_jumps_beyond_delta() -> None:
    window = SqnWindow()
    assert window.accept(compose(SEQ_JUMP_LIMIT + 1, 0)) is None
    assert window.accept(compose(SEQ_JUMP_LIMIT, 0)) is not None


def test_window_of_wrong_shape() -> None:
    with pytest.raises(ValueError, match="such as 32, not 31"):
        SqnWindow((0,) * 31)
    with pytest.raises(ValueError, match="43 bits"):
        SqnWindow((SEQ_MAXIMUM + 1,) + (0,) * 31)


def test_usim_accepts_once_then_asks_for_resynchronisation() -> None:
    usim = SoftwareUsim(imsi=Imsi("001010000000001"), k=K, opc=OPC)
    vector = generate_vector(HOME, rand=RAND, sqn=compose(3, 3))
    first = usim.authenticate(vector.rand, vector.autn)
    assert first == UsimSuccess(res=vector.xres, ck=vector.ck, ik=vector.ik)
    again = usim.authenticate(vector.rand, vector.autn)
    assert isinstance(again, UsimSynchronisationFailure)
    assert verify_auts(HOME, rand=RAND, auts=again.auts) == compose(3, 3) == usim.sqn_ms


def test_usim_rejects_foreign_and_damaged_autn() -> None:
    usim = SoftwareUsim(imsi=Imsi("001010000000001"), k=K, opc=OPC)
    vector = generate_vector(HOME, rand=RAND, sqn=compose(3, 3))
    for at in range(16):
        damaged = vector.autn[:at] + bytes([vector.autn[at] ^ 0x40]) + vector.autn[at + 1 :]
        assert isinstance(usim.authenticate(RAND, damaged), UsimReject)
    assert isinstance(usim.authenticate(RAND, vector.autn[:-1]), UsimReject)
    assert isinstance(usim.authenticate(RAND[:-1], vector.autn), UsimReject)
    foreign = generate_vector(Milenage(K, opc=bytes(16)), rand=RAND, sqn=compose(3, 3))
    assert isinstance(usim.authenticate(RAND, foreign.autn), UsimReject)
    assert usim.sqn_ms == 0


def test_usim_answers_do_not_show_keys() -> None:
    usim = SoftwareUsim(imsi=Imsi("001010000000001"), k=K, opc=OPC)
    vector = generate_vector(HOME, rand=RAND, sqn=compose(3, 3))
    assert "ck" not in repr(usim.authenticate(vector.rand, vector.autn))


def test_file_store_survives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "usim.json"
    vector = generate_vector(HOME, rand=RAND, sqn=compose(9, 9))
    SoftwareUsim(imsi=Imsi("001010000000001"), k=K, opc=OPC, store=FileSqnStore(path)).authenticate(
        vector.rand, vector.autn
    )
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["usim.json"]
    reborn = SoftwareUsim(imsi=Imsi("001010000000001"), k=K, opc=OPC, store=FileSqnStore(path))
    assert reborn.sqn_ms == compose(9, 9)
    assert isinstance(reborn.authenticate(vector.rand, vector.autn), UsimSynchronisationFailure)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"seqs": [1, 2]}', '{"seqs": 5}', '{"other": []}', '{"seqs": [1e999]}', "\xff"]
)
def test_file_store_does_not_start_over_from_a_damaged_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "usim.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigurationError, match="32 sequence numbers"):
        FileSqnStore(path).load()


def test_a_store_that_cannot_save_keeps_the_answer_back() -> None:
    class Full(MemorySqnStore):
        def save(self, window: SqnWindow) -> None:
            raise LocalError("no space")

    usim = SoftwareUsim(imsi=Imsi("001010000000001"), k=K, opc=OPC, store=Full())
    vector = generate_vector(HOME, rand=RAND, sqn=compose(3, 3))
    with pytest.raises(LocalError, match="no space"):
        usim.authenticate(vector.rand, vector.autn)
    assert usim.sqn_ms == 0
