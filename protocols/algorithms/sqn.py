"""Sequence numbers of AKA (TS 33.102 Annex C): SQN = SEQ || IND, IND of five bits.

Generation is not time-based (§C.1.1, profiles §C.3): every vector takes the next SEQ, IND goes
round the 32 entries of the USIM's array (§C.1.2). The USIM side is the array itself (§C.2.2).
All of it is arithmetic on values; what is durable is reached through injected functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from protocols.errors import LocalError

IND_BITS = 5  # TS 33.102 §C.3
IND_COUNT = 1 << IND_BITS
SQN_BITS = 48
SEQ_MAXIMUM = (1 << (SQN_BITS - IND_BITS)) - 1
SEQ_JUMP_LIMIT = 1 << 28  # Δ of TS 33.102 §C.2.1, §C.3: protection against wrap-around
DEFAULT_BLOCK = 32


def compose(seq: int, ind: int) -> int:
    """SQN from SEQ and IND (TS 33.102 §C.1.1)."""
    return seq << IND_BITS | ind


def seq_of(sqn: int) -> int:
    """SEQ of an SQN."""
    return sqn >> IND_BITS


def ind_of(sqn: int) -> int:
    """IND of an SQN."""
    return sqn & (IND_COUNT - 1)


@dataclass(frozen=True, slots=True)
class SqnState:
    """What the home network remembers of a subscriber: the last SEQ and IND given out."""

    seq: int = 0
    ind: int = 0

    @property
    def sqn(self) -> int:
        """SQN_HE, the last one given out."""
        return compose(self.seq, self.ind)

    @classmethod
    def of(cls, sqn: int) -> SqnState:
        """From an SQN."""
        return cls(seq_of(sqn), ind_of(sqn))


class SqnGenerator:
    """The home network's state transitions, as pure functions of ``SqnState``."""

    @staticmethod
    def next(state: SqnState) -> tuple[int, SqnState]:
        """The next SQN and the state after it (TS 33.102 §C.1.1, §C.1.2)."""
        if state.seq >= SEQ_MAXIMUM:
            raise LocalError("sequence numbers of this subscriber are exhausted (TS 33.102 §C.2.1)")
        following = SqnState(state.seq + 1, (state.ind + 1) % IND_COUNT)
        return following.sqn, following

    @staticmethod
    def resynchronised(state: SqnState, sqn_ms: int) -> SqnState:
        """The state after a verified AUTS (TS 33.102 §6.3.5).

        SQN_HE is reset to SQN_MS unless the next SQN would be accepted by the USIM as it stands.
        """
        seq_ms = seq_of(sqn_ms)
        if seq_ms <= state.seq < seq_ms + SEQ_JUMP_LIMIT:
            return state
        return SqnState.of(sqn_ms)


class SqnAllocator:
    """Hands out SQNs of one subscriber from blocks that were reserved durably beforehand.

    ``reserve(count)`` makes ``count`` consecutive SEQ values ours for good and returns the first of
    them; a crash then skips what was left of a block and never repeats a value. ``reset(seq)`` makes
    the next reservation start after ``seq``. IND is SEQ modulo 32, so that it goes round as well.
    """

    def __init__(
        self, reserve: Callable[[int], int], reset: Callable[[int], None], *, block: int = DEFAULT_BLOCK
    ) -> None:
        if block < 1:
            raise LocalError("a block holds at least one sequence number")
        self._reserve = reserve
        self._reset = reset
        self._block = block
        self._next = 0
        self._end = 0

    def next(self) -> int:
        """The next SQN; reserves a block when the present one is used up."""
        if self._next == self._end:
            self._next = self._reserve(self._block)
            self._end = self._next + self._block
        seq = self._next
        if seq > SEQ_MAXIMUM:
            raise LocalError("sequence numbers of this subscriber are exhausted (TS 33.102 §C.2.1)")
        self._next += 1
        return compose(seq, seq % IND_COUNT)

    def resynchronise(self, sqn_ms: int) -> None:
        """After a verified AUTS: go on after SQN_MS unless the next SQN is acceptable (TS 33.102 §6.3.5)."""
        if self._next == self._end:
            self._next = self._reserve(self._block)
            self._end = self._next + self._block
        last = SqnState(self._next - 1, (self._next - 1) % IND_COUNT)
        if SqnGenerator.resynchronised(last, sqn_ms) == last:
            return
        self._reset(seq_of(sqn_ms))
        self._next = self._end = 0


@dataclass(frozen=True, slots=True)
class SqnWindow:
    """The USIM's array: the highest SEQ accepted for each IND (TS 33.102 §C.2.2)."""

    seqs: tuple[int, ...] = (0,) * IND_COUNT

    def __post_init__(self) -> None:
        if len(self.seqs) != IND_COUNT or not all(0 <= seq <= SEQ_MAXIMUM for seq in self.seqs):
            raise ValueError(f"a USIM's array has {IND_COUNT} SEQ values of 43 bits")

    @property
    def sqn_ms(self) -> int:
        """SQN_MS: the highest SQN accepted so far, over all entries."""
        highest = max(self.seqs)
        return compose(highest, self.seqs.index(highest))

    def accept(self, sqn: int) -> SqnWindow | None:
        """The array after this SQN, ``None`` when it is not fresh or jumps too far ahead."""
        seq, ind = seq_of(sqn), ind_of(sqn)
        if seq - seq_of(self.sqn_ms) > SEQ_JUMP_LIMIT or seq <= self.seqs[ind]:
            return None
        return SqnWindow((*self.seqs[:ind], seq, *self.seqs[ind + 1 :]))
