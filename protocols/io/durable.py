"""Files that outlive a process and are never found half written: beside, to disk, renamed over."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from protocols.errors import BackendError

OWNER_ONLY = 0o600


def replace_file(path: Path, text: str) -> None:
    """Replace a file's contents for its owner only; what was there stays whole until then. ``BackendError``."""
    beside = path.with_name(path.name + ".new")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_ONLY)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise BackendError(f"{path}: {error.strerror}") from error


class LineFile:
    """Lines under a first one that names the columns, each on the disk when ``append`` returns.

    At ``octets_limit`` the file becomes ``.1``, the former ``.1`` becomes ``.2`` and so on up to ``kept``. So does,
    when it is opened, a file with another first line or a last line that a crash has cut off.
    """

    def __init__(self, path: Path, header: str, *, octets_limit: int, kept: int) -> None:
        self._path = path
        self._header = f"{header}\n".encode()
        self._limit = octets_limit
        self._kept = kept

    def open(self) -> None:
        """Make the file, or go on with the one there is; ``BackendError``: it cannot be written."""
        try:
            if self._path.exists() and not self._goes_on():
                self._rotate()
            self._write(b"")
        except OSError as error:
            raise BackendError(f"{self._path}: {error.strerror}") from error

    def append(self, lines: list[str]) -> None:
        """All of them or none; ``BackendError``: they could not be written."""
        octets = "".join(f"{line}\n" for line in lines).encode()
        try:
            size = self._path.stat().st_size if self._path.exists() else 0
            if size > len(self._header) and size + len(octets) > self._limit:
                self._rotate()
            self._write(octets)
        except OSError as error:
            raise BackendError(f"{self._path}: {error.strerror}") from error

    def _goes_on(self) -> bool:
        with self._path.open("rb") as file:
            if file.readline() not in (self._header, b""):
                return False
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                return file.read(1) == b"\n"
        return True

    def _rotate(self) -> None:
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._kept + 1))]
        for older, newer in zip(reversed(names), list(reversed(names))[1:], strict=False):
            if newer.exists():
                os.replace(newer, older)
        if not self._kept:
            self._path.unlink()

    def _write(self, octets: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, OWNER_ONLY)
        try:
            size = os.fstat(descriptor).st_size
            whole = octets if size else self._header + octets
            try:
                if os.write(descriptor, whole) != len(whole):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
