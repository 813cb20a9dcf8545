"""Milenage (TS 35.206): f1, f1*, f2, f3, f4, f5, f5* over AES-128 with the default constants.

Left out: operator-specific r1..r5 and c1..c5 (TS 35.206 §5.3), GSM conversion functions.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols.algorithms.vector import AkaOutput, xor
from protocols.secret import Secret

KEY_LENGTH = 16
RES_LENGTHS = range(4, 9)  # f2 gives 8 octets; a shorter RES is its first ones (TS 33.102 §6.3.7)

# TS 35.206 §4.1: rotations r1..r5 (here in octets), constants c1..c5.
_ROTATION = {1: 8, 2: 0, 3: 4, 4: 8, 5: 12}
_CONSTANT = {number: value.to_bytes(16, "big") for number, value in {1: 0, 2: 1, 3: 2, 4: 4, 5: 8}.items()}


def derive_opc(k: Secret | bytes, op: Secret | bytes) -> Secret:
    """OPc = OP xor E_K(OP) (TS 35.206 §4.1)."""
    plain = _octets("OP", op)
    encryptor = Cipher(algorithms.AES(_octets("K", k)), modes.ECB()).encryptor()  # noqa: S305
    return Secret(xor(plain, encryptor.update(plain)))


def _octets(name: str, value: Secret | bytes) -> bytes:
    """Key octets; ``ValueError`` names the one of a wrong length."""
    octets = value.reveal() if isinstance(value, Secret) else value
    if len(octets) != KEY_LENGTH:
        raise ValueError(f"{name} has {len(octets)} octets, not {KEY_LENGTH}")
    return octets


class Milenage:
    """The algorithm set keyed with K and either OP or OPc; the AES context is made once and kept."""

    __slots__ = ("_encryptor", "_opc", "_res_length")

    def __init__(
        self,
        k: Secret | bytes,
        *,
        opc: Secret | bytes | None = None,
        op: Secret | bytes | None = None,
        res_length: int = 8,
    ) -> None:
        if (opc is None) == (op is None):
            raise ValueError("Milenage takes either OP or OPc")
        if res_length not in RES_LENGTHS:
            raise ValueError(f"RES of Milenage has 4 to 8 octets, not {res_length}")
        self._res_length = res_length
        self._opc = _octets("OPc", opc) if opc is not None else derive_opc(k, op or b"").reveal()
        self._encryptor = Cipher(algorithms.AES(_octets("K", k)), modes.ECB()).encryptor()  # noqa: S305

    def __repr__(self) -> str:
        return "Milenage(keyed)"

    def f1(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-A, 8 octets (TS 35.206 §4.1)."""
        return self._out1(rand, sqn, amf)[:8]

    def f1_star(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-S, 8 octets (TS 35.206 §4.1)."""
        return self._out1(rand, sqn, amf)[8:]

    def f2(self, rand: bytes) -> bytes:
        """RES."""
        return self._res(self._out(2, self._temp(rand)))

    def f3(self, rand: bytes) -> bytes:
        """CK, 16 octets."""
        return self._out(3, self._temp(rand))

    def f4(self, rand: bytes) -> bytes:
        """IK, 16 octets."""
        return self._out(4, self._temp(rand))

    def f5(self, rand: bytes) -> bytes:
        """AK, 6 octets."""
        return self._out(2, self._temp(rand))[:6]

    def f5_star(self, rand: bytes) -> bytes:
        """AK for resynchronisation, 6 octets."""
        return self._out(5, self._temp(rand))[:6]

    def f2345(self, rand: bytes) -> AkaOutput:
        """RES, CK, IK and AK with TEMP and OUT2 computed once."""
        temp = self._temp(rand)
        out2 = self._out(2, temp)
        return AkaOutput(res=self._res(out2), ck=self._out(3, temp), ik=self._out(4, temp), ak=out2[:6])

    def _res(self, out2: bytes) -> bytes:
        return out2[8 : 8 + self._res_length]

    def _temp(self, rand: bytes) -> bytes:
        """TEMP = E_K(RAND xor OPc)."""
        return self._encryptor.update(xor(rand, self._opc))

    def _out1(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """OUT1 = E_K(TEMP xor rot(IN1 xor OPc, r1) xor c1) xor OPc."""
        in1 = (sqn + amf) * 2
        rotated = _rotate(xor(in1, self._opc), _ROTATION[1])
        block = xor(xor(self._temp(rand), rotated), _CONSTANT[1])
        return xor(self._encryptor.update(block), self._opc)

    def _out(self, number: int, temp: bytes) -> bytes:
        """OUTn = E_K(rot(TEMP xor OPc, rn) xor cn) xor OPc, for n of 2 to 5."""
        block = xor(_rotate(xor(temp, self._opc), _ROTATION[number]), _CONSTANT[number])
        return xor(self._encryptor.update(block), self._opc)


def _rotate(block: bytes, octets: int) -> bytes:
    """Rotate towards the most significant octet."""
    return block[octets:] + block[:octets]
