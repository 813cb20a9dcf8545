"""The general-purpose generator of FIPS 186-2, change notice 1, algorithm 1, with SHA-1 as G.

EAP-SIM and EAP-AKA expand their keys with it (RFC 4187 §7, appendix A). G is the SHA-1 compression
function alone, with other padding than SHA-1, so that no digest interface offers it: libcrypto's
``SHA1_Transform`` is called where the library is present, otherwise the function stands here in
plain Python, some thirty times slower. The two agree or the library's is not used.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Callable

BLOCK_LENGTH = 64
STATE_LENGTH = 20
_LIBRARIES = ("libcrypto.so.3", "libcrypto.so.4", "libcrypto.so.1.1", "libcrypto.3.dylib", "libcrypto.dylib")
_INITIAL = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)
_WORD = 0xFFFFFFFF
_MODULUS = 1 << 160
# SHA-1 of nothing is the compression of this one block: what a library's function is tried with.
_EMPTY_MESSAGE_BLOCK = b"\x80" + bytes(BLOCK_LENGTH - 1)

Compression = Callable[[bytes], bytes]


def compress_in_python(block: bytes) -> bytes:
    """SHA-1's compression of one 64-octet block from the initial value, 20 octets (FIPS 180-4 §6.1.2)."""
    schedule = [int.from_bytes(block[at : at + 4], "big") for at in range(0, BLOCK_LENGTH, 4)]
    for at in range(16, 80):
        word = schedule[at - 3] ^ schedule[at - 8] ^ schedule[at - 14] ^ schedule[at - 16]
        schedule.append((word << 1 | word >> 31) & _WORD)
    a, b, c, d, e = _INITIAL
    for at, word in enumerate(schedule):
        if at < 20:
            mixed, constant = (b & c) | (~b & d), 0x5A827999
        elif at < 40:
            mixed, constant = b ^ c ^ d, 0x6ED9EBA1
        elif at < 60:
            mixed, constant = (b & c) | (b & d) | (c & d), 0x8F1BBCDC
        else:
            mixed, constant = b ^ c ^ d, 0xCA62C1D6
        rotated = (a << 5 | a >> 27) & _WORD
        a, b, c, d, e = (rotated + mixed + e + constant + word) & _WORD, a, (b << 30 | b >> 2) & _WORD, c, d
    state = zip(_INITIAL, (a, b, c, d, e), strict=True)
    return b"".join(((initial + final) & _WORD).to_bytes(4, "big") for initial, final in state)


class _Sha1Context(ctypes.Structure):
    """``SHA_CTX`` of OpenSSL's ``sha.h``."""

    _fields_ = (
        ("h", ctypes.c_uint32 * 5),
        ("length_low", ctypes.c_uint32),
        ("length_high", ctypes.c_uint32),
        ("data", ctypes.c_uint32 * 16),
        ("number", ctypes.c_uint),
    )


def library_compression() -> Compression | None:
    """The compression function of the first libcrypto that has it and computes it right."""
    for name in _LIBRARIES:
        try:
            transform = ctypes.CDLL(name).SHA1_Transform
        except (OSError, AttributeError):
            continue
        transform.argtypes = (ctypes.POINTER(_Sha1Context), ctypes.c_char_p)
        transform.restype = None

        def compress(block: bytes, transform: Callable[[object, bytes], None] = transform) -> bytes:
            context = _Sha1Context(h=(ctypes.c_uint32 * 5)(*_INITIAL))
            transform(ctypes.byref(context), block)
            return b"".join(word.to_bytes(4, "big") for word in context.h)

        if compress(_EMPTY_MESSAGE_BLOCK) == hashlib.sha1(b"", usedforsecurity=False).digest():
            return compress
    return None


@functools.cache
def compression() -> Compression:
    """The fastest compression function of this machine, looked for once."""
    return library_compression() or compress_in_python


def generate(xkey: bytes, length: int, compress: Compression | None = None) -> bytes:
    """``length`` octets x_0 || x_1 || … from the 20-octet seed key (RFC 4187 appendix A).

    There is no optional user input and no reduction modulo q; b is 160.
    """
    if len(xkey) != STATE_LENGTH:
        raise ValueError(f"XKEY has {len(xkey)} octets, not {STATE_LENGTH}")
    chosen = compress or compression()
    padding = bytes(BLOCK_LENGTH - STATE_LENGTH)
    key = int.from_bytes(xkey, "big")
    output = b""
    while len(output) < length:
        w = chosen(key.to_bytes(STATE_LENGTH, "big") + padding)
        key = (1 + key + int.from_bytes(w, "big")) % _MODULUS
        output += w
    return output[:length]
