"""Other people's programs in tests: are they here, wait until they are ready, show what they said."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import pytest
from typer import Typer
from typer.testing import CliRunner

T = TypeVar("T")

POLL_INTERVAL = 0.02
LOG_TAIL_LINES = 60


class PeerError(Exception):
    """A peer's program failed or did not get ready; the text carries the end of its log."""


class Peer:
    """A program for the time of a ``with``: it begins on entering, is closed on leaving and where it cannot begin."""

    def begin(self) -> None:
        """Start it for the first time."""
        self.start()

    def start(self) -> None:
        """Start it and wait until it is ready."""
        raise NotImplementedError

    def close(self) -> None:
        """End it and give back what it had."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.begin()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def without_process(application: Typer, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command to its end in this process, where it is no node that serves: half a second less than ``python -m``."""
    strings = [os.fspath(word) for word in words]
    done = CliRunner().invoke(application, strings)
    return subprocess.CompletedProcess(strings, done.exit_code, done.stdout, done.stderr)


def require_root() -> None:
    """Skip the calling test where it may not make network namespaces."""
    if os.geteuid() != 0:
        pytest.skip("needs root (network namespaces, TUN)")


def require_program(*names: str | Path) -> None:
    """Skip the calling test where a program is not installed; a name is looked up on PATH and in sbin."""
    for name in names:
        if find_program(name) is None:
            pytest.skip(f"{name} is not installed (Debian packages: .ci/peers.txt)")


def require_file(*files: Path) -> None:
    """Skip the calling test where a part of a program (a plugin) is not installed."""
    for file in files:
        if not file.exists():
            pytest.skip(f"{file} is not installed (Debian packages: .ci/peers.txt)")


def find_program(name: str | Path) -> Path | None:
    """Where a program lies, or None."""
    found = shutil.which(os.fspath(name), path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")
    return None if found is None else Path(found)


def wait_until(
    ready: Callable[[], T | None],
    *,
    what: str,
    timeout: float,
    process: subprocess.Popen[bytes] | None = None,
    log: Callable[[], str] = str,
) -> T:
    """What ``ready`` returns once it is neither None nor False.

    ``PeerError`` with the end of ``log()`` at the deadline, or at once when ``process`` has ended.
    """
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while True:
        ended = process is not None and process.poll() is not None
        result = ready()
        if result is not None and result is not False:
            return result
        if ended or time.monotonic() >= deadline:
            why = f"exited with status {process.returncode}" if process is not None and ended else "timed out"
            raise PeerError(f"{what}: {why}\n{tail(log())}")
        pause.wait(POLL_INTERVAL)


def tail(text: str, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log."""
    return "\n".join(text.splitlines()[-lines:])
