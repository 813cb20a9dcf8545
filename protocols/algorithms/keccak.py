"""Keccak-f[1600] (FIPS 202 §3.3, TS 35.231 annex): the permutation that TUAK repeats.

No library offers the bare permutation, only sponges made of it; one permutation over one block is SHAKE256 of
``hashlib``, which ``protocols.algorithms.tuak`` uses where that is enough.
"""

from __future__ import annotations

import struct

STATE_LENGTH = 200
_LANES = struct.Struct("<25Q")
_MASK = (1 << 64) - 1


def _round_constants() -> tuple[int, ...]:
    """RC of the 24 rounds from the linear feedback shift register of FIPS 202 §3.2.5."""
    register, constants = 1, []
    for _ in range(24):
        constant = 0
        for j in range(7):
            if register & 1:
                constant |= 1 << ((1 << j) - 1)
            register <<= 1
            if register & 0x100:
                register ^= 0x171
        constants.append(constant)
    return tuple(constants)


def _rotations() -> tuple[tuple[int, int, int], ...]:
    """The way of ρ and π (FIPS 202 §3.2.2, §3.2.3): (lane taken, lane filled, bits of rotation)."""
    moves = [(0, 0, 0)]
    x, y = 1, 0
    for t in range(24):
        moves.append((x + 5 * y, y + 5 * ((2 * x + 3 * y) % 5), (t + 1) * (t + 2) // 2 % 64))
        x, y = y, (2 * x + 3 * y) % 5
    return tuple(moves)


_CONSTANTS = _round_constants()
_MOVES = _rotations()


def keccak_f1600(state: bytes) -> bytes:
    """The permutation of a state of 200 octets; octet 0 holds bits 0 to 7, the lowest one first (FIPS 202 §B.1)."""
    if len(state) != STATE_LENGTH:
        raise ValueError(f"a state of Keccak-f[1600] has {len(state)} octets, not {STATE_LENGTH}")
    lanes = list(_LANES.unpack(state))
    moved = [0] * 25
    for constant in _CONSTANTS:
        parity = [lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20] for x in range(5)]
        theta = [parity[x - 1] ^ ((parity[(x + 1) % 5] << 1 | parity[(x + 1) % 5] >> 63) & _MASK) for x in range(5)]
        for source, target, bits in _MOVES:
            lane = lanes[source] ^ theta[source % 5]
            moved[target] = (lane << bits | lane >> (64 - bits)) & _MASK
        for row in range(0, 25, 5):
            a, b, c, d, e = moved[row : row + 5]
            lanes[row] = a ^ (~b & c)
            lanes[row + 1] = b ^ (~c & d)
            lanes[row + 2] = c ^ (~d & e)
            lanes[row + 3] = d ^ (~e & a)
            lanes[row + 4] = e ^ (~a & b)
        lanes[0] ^= constant
    return _LANES.pack(*lanes)
