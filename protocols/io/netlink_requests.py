"""Requests to the kernel over netlink (RFC 3549) that are answered before the call returns.

Messages are pyroute2's classes, the socket is a plain one: the kernel answers these requests while they are being sent,
so that no event loop is needed and none is held up.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from sys import byteorder
from types import TracebackType
from typing import Any

from protocols.errors import BackendError

NLM_F_REQUEST = 0x01  # <linux/netlink.h>
NLM_F_ACK = 0x04
NLM_F_DUMP = 0x300
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE = 1, 2, 3
NLMSG_ALIGNTO = 4
HEADER_LENGTH = 16
RECEIVE_LENGTH = 1 << 17
ANSWER_INTERVAL = 5.0  # the answer is there when sending returns; a kernel without one must not hold us for ever


@dataclass(frozen=True, kw_only=True)
class Request:
    """A message of pyroute2's with its type and flags."""

    message: Any
    kind: int
    flags: int = NLM_F_ACK


class NetlinkRefusal(BackendError):
    """The kernel says no, and why; ``number`` is its errno, ``position`` that of the request among those sent."""

    def __init__(self, number: int, what: str, position: int = 0) -> None:
        super().__init__(f"{what}: {os.strerror(number)}")
        self.number = number
        self.position = position


class NetlinkRequests:
    """A socket of one netlink protocol in the process's network namespace; a context manager."""

    def __init__(self, protocol: int, what: str) -> None:
        """``what`` is in front of every error; ``NetlinkRefusal``: the kernel has no such protocol."""
        self._what = what
        self._sequence = 0
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            raise NetlinkRefusal(error.errno or 0, what) from error
        self._socket.settimeout(ANSWER_INTERVAL)
        self._socket.bind((0, 0))

    def __enter__(self) -> NetlinkRequests:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def change(self, requests: Sequence[Request]) -> None:
        """Send them in one go, in this order; ``NetlinkRefusal`` with the first that the kernel refuses."""
        positions: dict[int, int] = {}
        waiting: set[int] = set()
        octets = bytearray()
        for position, request in enumerate(requests):
            sequence = self._encode(request)
            octets += request.message.data
            positions[sequence] = position
            if request.flags & NLM_F_ACK:
                waiting.add(sequence)
        self._send(octets)
        refusal: NetlinkRefusal | None = None
        while waiting:
            for kind, sequence, payload in self._received():
                if kind != NLMSG_ERROR:
                    continue
                number = -int.from_bytes(payload[:4], byteorder, signed=True)
                if number and refusal is None:
                    refusal = NetlinkRefusal(number, self._what, positions.get(sequence, 0))
                if number and sequence not in waiting:  # of a message without an answer: of a batch as a whole
                    waiting.clear()
                waiting.discard(sequence)
        if refusal is not None:
            raise refusal

    def dump(self, request: Request, message_class: Any) -> list[Any]:
        """Everything that the kernel lists for a request, decoded."""
        self._encode(Request(message=request.message, kind=request.kind, flags=NLM_F_DUMP))
        self._send(request.message.data)
        found: list[Any] = []
        while True:
            for kind, _, octets in self._received(whole=True):
                if kind == NLMSG_DONE:
                    return found
                if kind == NLMSG_ERROR:
                    number = -int.from_bytes(octets[HEADER_LENGTH : HEADER_LENGTH + 4], byteorder, signed=True)
                    raise NetlinkRefusal(number, self._what)
                message = message_class(octets)
                message.decode()
                found.append(message)

    def _encode(self, request: Request) -> int:
        self._sequence += 1
        request.message["header"]["type"] = request.kind
        request.message["header"]["flags"] = request.flags | NLM_F_REQUEST
        request.message["header"]["sequence_number"] = self._sequence
        request.message.encode()
        return self._sequence

    def _send(self, octets: bytes | bytearray) -> None:
        try:
            self._socket.sendto(octets, (0, 0))
        except OSError as error:
            raise NetlinkRefusal(error.errno or 0, self._what) from error

    def _received(self, *, whole: bool = False) -> Iterator[tuple[int, int, bytes]]:
        """Type, sequence number and what follows the header (or all) of each message of one datagram."""
        try:
            octets = self._socket.recv(RECEIVE_LENGTH)
        except OSError as error:
            raise BackendError(f"{self._what}: no answer from the kernel ({error})") from error
        offset = 0
        while offset + HEADER_LENGTH <= len(octets):
            length = int.from_bytes(octets[offset : offset + 4], byteorder)
            kind = int.from_bytes(octets[offset + 4 : offset + 6], byteorder)
            sequence = int.from_bytes(octets[offset + 8 : offset + 12], byteorder)
            yield kind, sequence, octets[offset + (0 if whole else HEADER_LENGTH) : offset + length]
            offset += (length + NLMSG_ALIGNTO - 1) & -NLMSG_ALIGNTO
