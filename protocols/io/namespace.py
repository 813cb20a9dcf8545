"""Network namespaces with a name, as ``ip netns add`` makes them (ip-netns(8)): work in them by threads of their own.

A thread that has entered one ends there: the process's other threads stay where they are, and only what is opened
inside (sockets, ``/dev/net/tun``) belongs to it. To enter takes CAP_SYS_ADMIN.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from protocols.errors import BackendError

T = TypeVar("T")

NAMES = Path("/run/netns")
RESOLVERS = Path("/etc/netns")  # what is in NAME there, `ip netns exec NAME` mounts over what is in /etc
OWN = "/proc/thread-self/ns/net"
CLONE_NEWNET = 0x40000000  # <linux/sched.h>
NS_GET_NSTYPE = 0xB703  # <linux/nsfs.h>
WATCH_INTERVAL = 1.0

_libc = ctypes.CDLL(None, use_errno=True)


def in_thread(function: Callable[[], T]) -> T:
    """Call ``function`` in a thread of its own, whose namespaces may be changed and end with it."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            outcome.append(function())
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread, nothing is swallowed
            failure.append(error)

    thread = threading.Thread(target=body, name="namespace")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def enter(descriptor: int, what: str) -> None:
    """Take the calling thread, and what it starts from now on, into a network namespace for good; ``BackendError``."""
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise BackendError(f"cannot enter {what}: {os.strerror(ctypes.get_errno())}")


class NetworkNamespace:
    """One that has a name when this is made, held until ``close``; ``str`` says which."""

    def __init__(self, name: str) -> None:
        """``BackendError``: there is none of that name, or it is the one that the process runs in."""
        self.name = name
        self._timer: asyncio.TimerHandle | None = None
        self._file = NAMES / name
        try:
            self._descriptor = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise BackendError(f"there is no {self._file}, which ip netns add {name} makes") from error
        except OSError as error:
            raise BackendError(f"{self._file}: {error.strerror}") from error
        reason = self._unfit()
        if reason is not None:
            self.close()
            raise BackendError(reason)

    def __str__(self) -> str:
        return f"network namespace {self.name}"

    def _unfit(self) -> str | None:
        try:
            kind = fcntl.ioctl(self._descriptor, NS_GET_NSTYPE)
        except OSError:
            kind = 0
        if kind != CLONE_NEWNET:
            return f"{self._file} is no network namespace"
        return f"the process itself runs in {self.name}" if self._is_at(OWN) else None

    def call(self, function: Callable[[], T]) -> T:
        """What ``function`` returns when called inside; ``BackendError``: not permitted to enter."""

        def inside() -> T:
            enter(self._descriptor, str(self))
            return function()

        return in_thread(inside)

    async def run(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What a coroutine returns that runs inside, on an event loop of its own."""
        return await asyncio.to_thread(self.call, lambda: asyncio.run(function()))

    def watch(self, deleted: Callable[[], object]) -> None:
        """Tell once, on the running loop, that the name leads here no longer: then nobody comes in any more."""
        if self._is_at(self._file):
            self._timer = asyncio.get_running_loop().call_later(WATCH_INTERVAL, self.watch, deleted)
        else:
            deleted()

    def _is_at(self, path: str | Path) -> bool:
        try:
            found = os.stat(path)
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self._descriptor))

    def close(self) -> None:
        """Let go of it; again is harmless."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
