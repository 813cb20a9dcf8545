"""TUAK (TS 35.231): f1, f1*, f2, f3, f4, f5, f5* over Keccak-f[1600], K of 128 or 256 bits.

Lengths as TS 35.231 §6 allows: MAC of 64, 128 or 256 bits, RES of 32, 64, 128 or 256, CK and IK of 128 or 256.
The vectors of AKA take a MAC of 64 bits and CK and IK of 128 (TS 33.102 §6.3.7), which are the defaults.
"""

from __future__ import annotations

import hashlib

from protocols.algorithms.keccak import STATE_LENGTH, keccak_f1600
from protocols.algorithms.vector import AK_LENGTH, AkaOutput
from protocols.secret import Secret

KEY_LENGTHS = (16, 32)
TOP_LENGTH = 32
RES_LENGTHS = (4, 8, 16, 32)
MAC_LENGTHS = (8, 16, 32)
SESSION_KEY_LENGTHS = (16, 32)
_ALGORITHM_NAME = b"TUAK1.0"  # ALGONAME, TS 35.231 §6.1
_BLOCK_LENGTH = 136  # what one permutation of SHAKE256 takes and gives: its rate, FIPS 202 §6.2
_MESSAGE_LENGTH = 96

# INSTANCE[0], its highest bits, for each function; MAC and RES lengths in the bits below (TS 35.231 §6.2 to §6.6)
_TOPC, _F1, _F1_STAR, _F2345, _F5_STAR = 0x00, 0x00, 0x80, 0x40, 0xC0
_LENGTH_BITS = {4: 0x00, 8: 0x08, 16: 0x10, 32: 0x20}
_CK_256, _IK_256, _KEY_256 = 0x04, 0x02, 0x01


class Tuak:
    """The algorithm set keyed with K and either TOP or TOPc.

    ``iterations`` is how often the permutation is applied each time (TS 35.231 §7), which the operator chooses.
    """

    __slots__ = ("_ck_length", "_ik_length", "_iterations", "_k", "_mac_length", "_res_length", "_topc")

    def __init__(
        self,
        k: Secret | bytes,
        *,
        topc: Secret | bytes | None = None,
        top: Secret | bytes | None = None,
        iterations: int = 1,
        res_length: int = 8,
        mac_length: int = 8,
        ck_length: int = 16,
        ik_length: int = 16,
    ) -> None:
        """Lengths in octets; ``ValueError`` names what is wrong."""
        if (topc is None) == (top is None):
            raise ValueError("TUAK takes either TOP or TOPc")
        if iterations < 1:
            raise ValueError(f"TUAK permutes at least once, not {iterations} times")
        for name, length, allowed in (
            ("RES", res_length, RES_LENGTHS),
            ("MAC", mac_length, MAC_LENGTHS),
            ("CK", ck_length, SESSION_KEY_LENGTHS),
            ("IK", ik_length, SESSION_KEY_LENGTHS),
        ):
            if length not in allowed:
                raise ValueError(f"{name} of TUAK has {_either(allowed)} octets, not {length}")
        self._k = _octets("K", k, KEY_LENGTHS)
        self._iterations = iterations
        self._res_length, self._mac_length = res_length, mac_length
        self._ck_length, self._ik_length = ck_length, ik_length
        if topc is not None:
            self._topc = _octets("TOPc", topc, (TOP_LENGTH,))
        else:
            plain = _octets("TOP", top or b"", (TOP_LENGTH,))
            self._topc = _piece(self._permuted(plain, _TOPC), 0, TOP_LENGTH)

    def __repr__(self) -> str:
        return "Tuak(keyed)"

    @property
    def topc(self) -> Secret:
        """TOPc (TS 35.231 §6.2)."""
        return Secret(self._topc)

    def f1(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-A (TS 35.231 §6.3)."""
        return self._mac(_F1, rand, sqn, amf)

    def f1_star(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-S (TS 35.231 §6.4)."""
        return self._mac(_F1_STAR, rand, sqn, amf)

    def f2345(self, rand: bytes) -> AkaOutput:
        """RES, CK, IK and AK of one permutation (TS 35.231 §6.5)."""
        instance = _F2345 | _LENGTH_BITS[self._res_length]
        instance |= (_CK_256 if self._ck_length == 32 else 0) | (_IK_256 if self._ik_length == 32 else 0)
        out = self._permuted(self._topc, instance, rand=rand)
        return AkaOutput(
            res=_piece(out, 0, self._res_length),
            ck=_piece(out, 32, self._ck_length),
            ik=_piece(out, 64, self._ik_length),
            ak=_piece(out, 96, AK_LENGTH),
        )

    def f5_star(self, rand: bytes) -> bytes:
        """AK for resynchronisation, 6 octets (TS 35.231 §6.6)."""
        return _piece(self._permuted(self._topc, _F5_STAR, rand=rand), 96, AK_LENGTH)

    def _mac(self, function: int, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        out = self._permuted(self._topc, function | _LENGTH_BITS[self._mac_length], rand=rand, sqn=sqn, amf=amf)
        return _piece(out, 0, self._mac_length)

    def _permuted(
        self, operator: bytes, instance: int, *, rand: bytes = bytes(16), sqn: bytes = bytes(6), amf: bytes = bytes(2)
    ) -> bytes:
        """136 octets of INOUT after the permutations (TS 35.231 §6.1); every value goes in its last octet first."""
        instance |= _KEY_256 if len(self._k) == 32 else 0
        fields = (operator, bytes((instance,)), _ALGORITHM_NAME, rand, amf, sqn, self._k)
        message = b"".join(field[::-1] for field in fields).ljust(_MESSAGE_LENGTH, b"\x00")
        if self._iterations == 1:  # the padding is SHAKE256's: 1111 and 10*1 up to its rate
            return hashlib.shake_256(message).digest(_BLOCK_LENGTH)
        state = (message + b"\x1f").ljust(_BLOCK_LENGTH - 1, b"\x00") + b"\x80"
        state = state.ljust(STATE_LENGTH, b"\x00")
        for _ in range(self._iterations):
            state = keccak_f1600(state)
        return state[:_BLOCK_LENGTH]


def derive_topc(k: Secret | bytes, top: Secret | bytes, *, iterations: int = 1) -> Secret:
    """TOPc from TOP and K (TS 35.231 §6.2)."""
    return Tuak(k, top=top, iterations=iterations).topc


def _piece(out: bytes, start: int, length: int) -> bytes:
    """A value of INOUT in its own order of octets."""
    return out[start : start + length][::-1]


def _either(lengths: tuple[int, ...]) -> str:
    *others, last = map(str, lengths)
    return f"{', '.join(others)} or {last}" if others else last


def _octets(name: str, value: Secret | bytes, lengths: tuple[int, ...]) -> bytes:
    """Key octets; ``ValueError`` names the one of a wrong length."""
    octets = value.reveal() if isinstance(value, Secret) else value
    if len(octets) not in lengths:
        raise ValueError(f"{name} has {len(octets)} octets, not {_either(lengths)}")
    return octets
