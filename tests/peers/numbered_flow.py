"""Numbered datagrams both ways between two namespaces at a rate, each end a program: what was lost or came twice."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from lab.namespaces import Namespace, terminate

OCTETS = 200  # of a datagram's payload
PORT = 7000
BUFFER = 16 << 20
SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>
PATIENCE = 30.0


@dataclass(frozen=True, kw_only=True)
class Direction:
    """One way: ``lost`` are ranges of numbers, from the first to behind the last one."""

    sent: int
    lost: tuple[tuple[int, int], ...]
    duplicated: int

    @property
    def is_whole(self) -> bool:
        """Everything came once."""
        return not self.lost and not self.duplicated

    @property
    def lost_number(self) -> int:
        """Packets."""
        return sum(end - begin for begin, end in self.lost)

    def __str__(self) -> str:
        return f"{self.lost_number} of {self.sent} lost {list(self.lost)}, {self.duplicated} twice"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Both ways, the first one from the first end to the second one."""

    forth: Direction
    back: Direction

    @property
    def lost(self) -> int:
        """Both ways."""
        return self.forth.lost_number + self.back.lost_number

    @property
    def is_whole(self) -> bool:
        """Everything came once."""
        return self.forth.is_whole and self.back.is_whole

    def __str__(self) -> str:
        return f"forth: {self.forth}; back: {self.back}"


class NumberedFlow:
    """A flow that runs; ``set_rate`` in datagrams a second each way, ``finish`` stops it and tells."""

    def __init__(self, ends: tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]) -> None:
        self._ends = ends

    def set_rate(self, rate: float) -> None:
        """From now on."""
        for end in self._ends:
            assert end.stdin is not None
            end.stdin.write(f"{rate:g}\n".encode())
            end.stdin.flush()

    def finish(self) -> Outcome:
        """Stop sending, let arrive what is on its way, end both programs."""
        self.set_rate(0)
        first, second = (json.loads(end.communicate(timeout=PATIENCE)[0]) for end in self._ends)
        return Outcome(
            forth=_direction(first["sent"], second["came"], second["duplicated"]),
            back=_direction(second["sent"], first["came"], first["duplicated"]),
        )


@contextlib.contextmanager
def numbered_flow(first: tuple[Namespace, str], second: tuple[Namespace, str]) -> Iterator[NumberedFlow]:
    """A flow between two addresses, each in its namespace; nothing is sent before a rate is set."""
    with contextlib.ExitStack() as stack:
        sockets = [
            namespace.call(_socket(own, other)) for (namespace, own), other in ((first, second[1]), (second, first[1]))
        ]
        for each in sockets:
            stack.enter_context(each)
        ends = tuple(_program(each) for each in sockets)
        for end in ends:
            stack.callback(_end, end)
        for end in ends:
            assert end.stdout is not None
            assert json.loads(end.stdout.readline()) == {"ready": True}
        first_end, second_end = ends
        yield NumberedFlow((first_end, second_end))


def _socket(own: str, other: str) -> Callable[[], socket.socket]:
    def opened() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        made.bind((own, PORT))
        made.connect((other, PORT))
        return made

    return opened


def _program(opened: socket.socket) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tests.peers.numbered_end", str(opened.fileno()), str(OCTETS)]
    return subprocess.Popen(words, pass_fds=[opened.fileno()], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _end(program: subprocess.Popen[bytes]) -> None:
    terminate(program)
    for stream in (program.stdin, program.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _direction(sent: int, came: list[list[int]], duplicated: int) -> Direction:
    edges = [0, *(edge for begin, end in came for edge in (begin, end)), sent]
    gaps = [(begin, end) for begin, end in list(pairwise(edges))[::2] if begin < end]
    return Direction(sent=sent, lost=tuple(gaps), duplicated=duplicated)
