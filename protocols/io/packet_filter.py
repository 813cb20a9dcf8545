"""Classic BPF on sockets (<linux/filter.h>, <kernel>/Documentation/networking/filter.rst): which packets they get."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>
SO_ATTACH_REUSEPORT_CBPF = 51

LOAD_WORD, LOAD_HALF, LOAD_OCTET = 0x20, 0x28, 0x30
LOAD_WORD_INDEXED, LOAD_HALF_INDEXED, LOAD_OCTET_INDEXED = 0x40, 0x48, 0x50  # at X + the offset
LOAD_IPV4_HEADER_LENGTH = 0xB1  # X = 4 * (octet & 15)
AND, MODULO = 0x54, 0x94
JUMP_IF_EQUAL, JUMP_IF_GREATER = 0x15, 0x25
RETURN, RETURN_ACCUMULATOR = 0x06, 0x16

NETWORK_HEADER = -0x100000  # SKF_NET_OFF: offsets from the network header, whatever lies before it
PROTOCOL = -0x1000  # SKF_AD_OFF + SKF_AD_PROTOCOL: the EtherType
PACKET_TYPE = -0x1000 + 4  # SKF_AD_OFF + SKF_AD_PKTTYPE
WHOLE = 0x40000  # octets of a packet that passes

Instruction = tuple[int, int, int, int]
"""Code, how far to jump if true and if not, operand."""
Check = tuple[int, int, int, int]
"""How to load, from where, mask, value."""


class Above(NamedTuple):
    """A check for a value, without sign, that is greater than this one."""

    load: int
    offset: int
    mask: int
    value: int


NOTHING: tuple[Instruction, ...] = ((RETURN, 0, 0, 0),)

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog


def attach(opened: socket.socket, program: Sequence[Instruction]) -> None:
    """Give a socket a program, in the place of the one it has; ``OSError`` when the kernel refuses."""
    _give(opened, SO_ATTACH_FILTER, program)


def steer(opened: socket.socket, program: Sequence[Instruction]) -> None:
    """Give the group of a socket (SO_REUSEPORT) a program that says whose a datagram is, by order of joining.

    The program sees the payload of UDP. ``OSError`` when the kernel refuses.
    """
    _give(opened, SO_ATTACH_REUSEPORT_CBPF, program)


def _give(opened: socket.socket, option: int, program: Sequence[Instruction]) -> None:
    packed = b"".join(_INSTRUCTION.pack(code, yes, no, operand & 0xFFFFFFFF) for code, yes, no, operand in program)
    kept = ctypes.create_string_buffer(packed, len(packed))
    opened.setsockopt(socket.SOL_SOCKET, option, _PROGRAM.pack(len(program), ctypes.addressof(kept)))


def any_of(alternatives: Sequence[Sequence[Check]]) -> tuple[Instruction, ...]:
    """A program that passes what satisfies every check of one of the alternatives.

    Indexed loads are from behind an IPv4 header of whatever length.
    """
    program: list[Instruction] = [(LOAD_IPV4_HEADER_LENGTH, 0, 0, NETWORK_HEADER)]
    for checks in alternatives:
        left = 3 * len(checks) + 1  # instructions of this alternative, its RETURN included
        for check in checks:
            load, offset, mask, value = check
            left -= 3
            jump = JUMP_IF_GREATER if isinstance(check, Above) else JUMP_IF_EQUAL
            program += [(load, 0, 0, offset), (AND, 0, 0, mask), (jump, 0, left, value)]
        program.append((RETURN, 0, 0, WHOLE))
    return (*program, *NOTHING)
