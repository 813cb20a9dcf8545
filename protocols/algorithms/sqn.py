"""Sequence numbers of AKA (TS 33.102 Annex C): SQN = SEQ || IND, and the schemes that generate them.

Generation is not time-based, partly time-based or entirely time-based (§C.1.1, profiles of §C.3); IND goes round
the entries of the USIM's array (§C.1.2). The USIM's side is the array itself (§C.2.2). All of it is arithmetic on
values: the wall clock comes in as seconds, what is durable is reached through an injected function.

Whatever the clock does, a home network here never gives out an SEQ that is not above every one before it, but for
the one case of §6.3.5 in which a USIM says that it would not take them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from protocols.errors import LocalError

SQN_BITS = 48
IND_BITS = 5  # TS 33.102 §C.3
IND_BITS_MAXIMUM = 16
IND_COUNT = 1 << IND_BITS
SEQ_MAXIMUM = (1 << (SQN_BITS - IND_BITS)) - 1  # with IND of five bits
SEQ_JUMP_LIMIT = 1 << 28  # Δ of TS 33.102 §C.2.1, §C.3: protection against wrap-around
SEQ2_BITS = 24  # n of TS 33.102 §C.3.1: SEQ2 is the clock's part of SEQ
PARTLY_CLOCK_UNIT = 1.0  # seconds, TS 33.102 §C.3.1
PARTLY_LEAD = 1 << 16  # D of TS 33.102 §C.3.1: how far SEQ2 may be ahead of the clock
CLOCK_UNIT = 0.1  # seconds, TS 33.102 §C.3.3
DEFAULT_BLOCK = 32

_SEQ2_PERIOD = 1 << SEQ2_BITS


def compose(seq: int, ind: int, ind_bits: int = IND_BITS) -> int:
    """SQN from SEQ and IND (TS 33.102 §C.1.1)."""
    return seq << ind_bits | ind


def seq_of(sqn: int, ind_bits: int = IND_BITS) -> int:
    """SEQ of an SQN."""
    return sqn >> ind_bits


def ind_of(sqn: int, ind_bits: int = IND_BITS) -> int:
    """IND of an SQN."""
    return sqn & ((1 << ind_bits) - 1)


class SqnGeneration(str, Enum):
    """How SEQ is made (TS 33.102 §C.3): profiles 2, 1 and 3."""

    NOT_TIME_BASED = "not-time-based"
    PARTLY_TIME_BASED = "partly-time-based"
    TIME_BASED = "time-based"


@dataclass(frozen=True, slots=True)
class SqnState:
    """What the home network remembers of a subscriber: the highest SEQ, its IND, and DIF of a time-based scheme.

    ``difference`` is SEQ minus the clock (TS 33.102 §C.1.1.3); ``None`` until the first SEQ is made, which then
    follows the SEQ that was provisioned, so that a new USIM need not resynchronise.
    """

    seq: int = 0
    ind: int = 0
    difference: int | None = None


@dataclass(frozen=True, slots=True)
class SqnScheme:
    """How SQNs of one subscriber are generated: the scheme and the length of IND.

    Its methods are pure; ``wall`` is seconds since 1970, which a scheme without time does not look at.
    """

    generation: SqnGeneration = SqnGeneration.NOT_TIME_BASED
    ind_bits: int = IND_BITS

    def __post_init__(self) -> None:
        if not 0 <= self.ind_bits <= IND_BITS_MAXIMUM:
            raise ValueError(f"IND has 0 to {IND_BITS_MAXIMUM} bits, not {self.ind_bits}")

    @property
    def ind_count(self) -> int:
        """How many values IND has: the entries of the USIM's array."""
        return 1 << self.ind_bits

    @property
    def seq_maximum(self) -> int:
        """The last SEQ there is."""
        return (1 << (SQN_BITS - self.ind_bits)) - 1

    def compose(self, seq: int, ind: int) -> int:
        """SQN from SEQ and IND."""
        return compose(seq, ind, self.ind_bits)

    def seq_of(self, sqn: int) -> int:
        """SEQ of an SQN."""
        return seq_of(sqn, self.ind_bits)

    def state(self, sqn: int) -> SqnState:
        """The state after this SQN was given out."""
        return SqnState(self.seq_of(sqn), ind_of(sqn, self.ind_bits))

    def next(self, state: SqnState, wall: float = 0.0) -> tuple[int, SqnState]:
        """The next SQN and the state after it (TS 33.102 §C.1.1, §C.1.2); ``LocalError`` when none is left."""
        following = self.reserve(state, 1, wall)
        ind = (state.ind + 1) % self.ind_count
        return self.compose(following.seq, ind), SqnState(following.seq, ind, following.difference)

    def reserve(self, state: SqnState, count: int, wall: float = 0.0) -> SqnState:
        """The state after ``count`` consecutive SEQs, of which its ``seq`` is the last, were made ours.

        Fewer where the SEQs end: ``LocalError`` when there is none.
        """
        if self.generation is SqnGeneration.TIME_BASED and state.difference is None:
            state = SqnState(state.seq, state.ind, state.seq + 1 - _clock(wall, CLOCK_UNIT))
        first = self.following(state, wall)
        if first > self.seq_maximum:
            raise LocalError("sequence numbers of this subscriber are exhausted (TS 33.102 §C.2.1)")
        return SqnState(min(first + count - 1, self.seq_maximum), state.ind, state.difference)

    def following(self, state: SqnState, wall: float = 0.0) -> int:
        """The SEQ that comes after ``state.seq`` at this time; it is above it in every scheme."""
        match self.generation:
            case SqnGeneration.NOT_TIME_BASED:  # §C.1.1.2
                return state.seq + 1
            case SqnGeneration.PARTLY_TIME_BASED:
                return _partly_time_based(state.seq, _clock(wall, PARTLY_CLOCK_UNIT) % _SEQ2_PERIOD)
            case SqnGeneration.TIME_BASED:  # §C.1.1.3: SEQ = GLC + DIF, unless the clock went back or is too coarse
                return max(_clock(wall, CLOCK_UNIT) + (state.difference or 0), state.seq + 1)

    def resynchronised(self, state: SqnState, sqn_ms: int, wall: float = 0.0) -> SqnState:
        """The state after a verified AUTS (TS 33.102 §6.3.5).

        SQN_HE is reset to SQN_MS unless the next SQN would be accepted by the USIM as it stands; a time-based
        scheme takes the new difference to its clock along (§C.1.1.3).
        """
        seq_ms = self.seq_of(sqn_ms)
        has_clock = state.difference is not None or self.generation is not SqnGeneration.TIME_BASED
        if has_clock and seq_ms < self.following(state, wall) <= seq_ms + SEQ_JUMP_LIMIT:
            return state
        if self.generation is SqnGeneration.TIME_BASED:
            return SqnState(seq_ms, state.ind, seq_ms + 1 - _clock(wall, CLOCK_UNIT))
        return SqnState(seq_ms, ind_of(sqn_ms, self.ind_bits))


def _clock(wall: float, unit: float) -> int:
    """GLC: the units of time since 1970."""
    return int(wall / unit)


def _partly_time_based(seq_he: int, glc: int) -> int:
    """The next SEQ of SEQ_HE = SEQ1 || SEQ2 and the clock, rules (i) to (iii) (TS 33.102 §C.1.1.1 number 5)."""
    seq1, seq2 = divmod(seq_he, _SEQ2_PERIOD)
    if seq2 < glc < seq2 + _SEQ2_PERIOD - PARTLY_LEAD + 1:
        return seq1 * _SEQ2_PERIOD + glc
    if glc + PARTLY_LEAD - 1 < seq2:
        return (seq1 + 1) * _SEQ2_PERIOD + glc
    return seq_he + 1


Transition = Callable[[SqnState], SqnState]


class SqnAllocator:
    """Hands out SQNs of one subscriber from blocks of SEQs that were reserved durably beforehand.

    ``change`` stores what the transition makes of the stored state, durably, and returns what is stored then. A
    crash skips what was left of a block and never repeats a value. ``wall`` tells the seconds since 1970.
    """

    def __init__(
        self,
        scheme: SqnScheme,
        change: Callable[[Transition], SqnState],
        wall: Callable[[], float],
        *,
        block: int = DEFAULT_BLOCK,
    ) -> None:
        if block < 1:
            raise LocalError("a block holds at least one sequence number")
        self._scheme = scheme
        self._change = change
        self._wall = wall
        self._block = block
        self._last: SqnState | None = None  # as given out; None when no block is ours
        self._end = 0  # the last SEQ of our block

    def next(self) -> int:
        """The next SQN; reserves a block when the present one is used up, or when the clock has left it behind."""
        wall = self._wall()
        if self._last is None or self._scheme.following(self._last, wall) > self._end:
            self._reserve(wall)
        assert self._last is not None
        sqn, self._last = self._scheme.next(self._last, wall)
        return sqn

    def resynchronise(self, sqn_ms: int) -> None:
        """After a verified AUTS: go on after SQN_MS unless the next SQN is acceptable (TS 33.102 §6.3.5).

        What is stored decides, not our block: another process may have moved on.
        """
        wall = self._wall()
        scheme = self._scheme
        if self._last is not None and scheme.resynchronised(self._last, sqn_ms, wall) == self._last:
            return
        self._change(lambda stored: scheme.resynchronised(stored, sqn_ms, wall))
        self._last = None

    def _reserve(self, wall: float) -> None:
        before: list[SqnState] = []

        def transition(stored: SqnState) -> SqnState:
            before[:] = [stored]
            return self._scheme.reserve(stored, self._block, wall)

        stored = self._change(transition)
        first = self._scheme.reserve(before[0], 1, wall).seq
        ind = first % self._scheme.ind_count if self._last is None else (self._last.ind + 1) % self._scheme.ind_count
        # as if the SEQ before our first one had been given out
        self._last = SqnState(first - 1, (ind - 1) % self._scheme.ind_count, stored.difference)
        self._end = stored.seq


@dataclass(frozen=True, slots=True)
class SqnWindow:
    """The USIM's array: the highest SEQ accepted for each IND (TS 33.102 §C.2.2).

    It has as many entries as IND has values: a power of two.
    """

    seqs: tuple[int, ...] = (0,) * IND_COUNT

    def __post_init__(self) -> None:
        count = len(self.seqs)
        if count & (count - 1) or not 1 <= count <= 1 << IND_BITS_MAXIMUM:
            raise ValueError(f"a USIM's array has a power of two of SEQ values, such as {IND_COUNT}, not {count}")
        bits = SQN_BITS - self.ind_bits
        if not all(0 <= seq < 1 << bits for seq in self.seqs):
            raise ValueError(f"a USIM's array of {count} has SEQ values of {bits} bits")

    @classmethod
    def fresh(cls, ind_bits: int = IND_BITS) -> SqnWindow:
        """The array of a USIM that has accepted nothing yet."""
        return cls((0,) * (1 << ind_bits))

    @property
    def ind_bits(self) -> int:
        """The length of IND."""
        return len(self.seqs).bit_length() - 1

    @property
    def sqn_ms(self) -> int:
        """SQN_MS: the highest SQN accepted so far, over all entries."""
        highest = max(self.seqs)
        return compose(highest, self.seqs.index(highest), self.ind_bits)

    def accept(self, sqn: int) -> SqnWindow | None:
        """The array after this SQN, ``None`` when it is not fresh or jumps too far ahead."""
        seq, ind = seq_of(sqn, self.ind_bits), ind_of(sqn, self.ind_bits)
        if seq - max(self.seqs) > SEQ_JUMP_LIMIT or seq <= self.seqs[ind]:
            return None
        return SqnWindow((*self.seqs[:ind], seq, *self.seqs[ind + 1 :]))
