"""Requests to the kernel's XFRM that complete before they return, and its events without waiting for them.

pyroute2's own synchronous sockets run an event loop, and so cannot be used from inside one; its messages can. The
kernel answers while the request is being sent: nothing here waits for anybody.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from pyroute2.netlink import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_DROP_MEMBERSHIP,
    NETLINK_EXT_ACK,
    NETLINK_XFRM,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOL_NETLINK,
)

from protocols.dataplane.xfrm.messages import XFRM_MSG_GETSA, XFRM_MSG_NEWSA, MarshalXfrm, xfrm_request
from protocols.dataplane.xfrm.structures import (
    xfrm_id,
    xfrm_lifetime_cfg,
    xfrm_lifetime_cur,
    xfrm_selector,
    xfrm_stats,
    xfrm_usersa_id,
)
from protocols.errors import BackendError

BUFFER_LENGTH = 1 << 16
EVENT_BUFFER_LENGTH = 1 << 22
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_CURRENT_LIFETIME = xfrm_selector.get_size() + xfrm_id.get_size() + 16 + xfrm_lifetime_cfg.get_size()
_ERROR = struct.Struct("=i")  # the first of nlmsgerr
NLMSG_ALIGNTO = 4
ANSWER_INTERVAL = 5  # seconds; far above what the kernel takes, so that a lost answer is an error and no hang

Request = tuple[str, str, dict[str, Any]]  # kind and command of XFRM_COMMANDS, values


class XfrmRefused(BackendError):
    """The kernel did not do it; ``number`` is its errno."""

    def __init__(self, what: str, number: int, text: str) -> None:
        super().__init__(f"kernel XFRM, {what}: {text}")
        self.number = number


class XfrmConnection:
    """A netlink socket in the network namespace of the thread that makes it."""

    def __init__(self, groups: Sequence[int] = ()) -> None:
        """``groups``: the multicast groups to hear. ``XfrmRefused`` without XFRM in the kernel."""
        self._sequence = 0
        self._marshal = MarshalXfrm()
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_XFRM)
        except OSError as error:
            raise XfrmRefused("opening a socket", error.errno or 0, error.strerror or "") from error
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        if groups:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, EVENT_BUFFER_LENGTH)
        # not settimeout(): with it Python waits even where MSG_DONTWAIT is asked for
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", ANSWER_INTERVAL, 0))
        try:
            self._socket.bind((0, 0))
            for group in groups:
                self.join(group)
        except OSError as error:
            self._socket.close()
            raise XfrmRefused("hearing events", error.errno or 0, error.strerror or "") from error

    def fileno(self) -> int:
        """For event loops."""
        return self._socket.fileno()

    def join(self, group: int) -> None:
        """Hear a multicast group."""
        self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def leave(self, group: int) -> None:
        """Hear it no more."""
        self._socket.setsockopt(SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, group)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def request(self, kind: str, command: str, **values: Any) -> list[Any]:
        """Ask for a command of ``XFRM_COMMANDS``; what was answered. ``XfrmRefused`` when it is not done."""
        what = f"{kind} {command}"
        message = xfrm_request(kind, command, values)
        self._sequence += 1
        header = message["header"]
        header["sequence_number"] = self._sequence
        message.encode()
        answers: list[Any] = []
        try:
            self._socket.send(message.data)
            while True:
                for answer in self._marshal.parse(self._socket.recv(BUFFER_LENGTH)):
                    if answer["header"]["sequence_number"] != self._sequence:
                        continue
                    problem = answer["header"]["error"]
                    if problem is not None:
                        raise XfrmRefused(what, getattr(problem, "code", 0), str(problem.args[-1]))
                    if answer["header"]["type"] in (NLMSG_DONE, NLMSG_ERROR):
                        return answers
                    answers.append(answer)
                    if not header["flags"] & (NLM_F_ACK | NLM_F_DUMP):
                        return answers
        except OSError as error:
            raise XfrmRefused(what, error.errno or 0, error.strerror or str(error)) from error

    def batch(self, requests: Sequence[Request]) -> list[XfrmRefused | None]:
        """Ask for several commands in one system call, so that as little as can be happens between them.

        What became of each; one that is refused does not keep the kernel from the next.
        """
        octets, pending = bytearray(), {}
        for index, (kind, command, values) in enumerate(requests):
            message = xfrm_request(kind, command, values)
            self._sequence += 1
            message["header"]["sequence_number"] = self._sequence
            message.encode()
            octets += message.data.ljust(-(-len(message.data) // NLMSG_ALIGNTO) * NLMSG_ALIGNTO, b"\0")
            pending[self._sequence] = index
        outcome: list[XfrmRefused | None] = [None] * len(requests)
        try:
            self._socket.send(octets)
            while pending:
                for answer in self._marshal.parse(self._socket.recv(BUFFER_LENGTH)):
                    answered = pending.pop(answer["header"]["sequence_number"], None)
                    problem = answer["header"]["error"]
                    if answered is not None and problem is not None:
                        what = " ".join(requests[answered][:2])
                        outcome[answered] = XfrmRefused(what, getattr(problem, "code", 0), str(problem.args[-1]))
        except OSError as error:
            raise XfrmRefused("several requests", error.errno or 0, error.strerror or str(error)) from error
        return outcome

    def counted(self, identity: dict[str, Any]) -> dict[str, Any]:
        """``curlft`` and ``stats`` of an SA's ``usersa_info``; ``XfrmRefused``: there is none.

        As ``request("sa", "get")`` has them, in a fraction of its time: a gateway has many SAs.
        """
        self._sequence += 1
        message = bytearray(_HEADER.size)
        length = xfrm_usersa_id.encode_into(message, _HEADER.size, identity)
        _HEADER.pack_into(message, 0, length, XFRM_MSG_GETSA, NLM_F_REQUEST, self._sequence, 0)
        try:
            self._socket.send(message)
            while True:
                octets = self._socket.recv(BUFFER_LENGTH)
                _, kind, _, sequence, _ = _HEADER.unpack_from(octets)
                if sequence != self._sequence:
                    continue
                if kind != XFRM_MSG_NEWSA:
                    (number,) = _ERROR.unpack_from(octets, _HEADER.size)
                    raise XfrmRefused("sa get", -number, os.strerror(-number))
                used, offset = xfrm_lifetime_cur.decode_from(octets, _HEADER.size + _CURRENT_LIFETIME)
                return {"curlft": used, "stats": xfrm_stats.decode_from(octets, offset)[0]}
        except OSError as error:
            raise XfrmRefused("sa get", error.errno or 0, error.strerror or str(error)) from error

    def events(self) -> Iterator[Any]:
        """What has come for the groups so far; messages that the kernel could not keep for us are left out."""
        while True:
            try:
                octets = self._socket.recv(BUFFER_LENGTH, socket.MSG_DONTWAIT)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    continue
                return
            yield from (each for each in self._marshal.parse(octets) if each["header"]["error"] is None)
