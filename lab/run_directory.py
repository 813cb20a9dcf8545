"""Temporary directories of the laboratory, which hold keys: who is killed leaves them, and the next one removes them.

Each has a file that its maker keeps locked (flock(2)) as long as it lives, however it ends. Without that file in it a
directory is nobody's here and is let be, as is one of another user.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

from lab.memory import memory_directory

PREFIX = "epdg-lab-"
LOCK = ".in-use"


class RunDirectory(tempfile.TemporaryDirectory[str]):
    """A directory that only we may read, locked; ``kind`` is for whoever sees its name.

    ``parent``: where it is made, the usual place for temporary files by default.
    """

    def __init__(self, kind: str, parent: str | Path | None = None) -> None:
        for place in {Path(each) for each in (tempfile.gettempdir(), memory_directory(), parent) if each is not None}:
            remove_abandoned(place)
        super().__init__(prefix=f"{PREFIX}{kind}-", dir=parent, ignore_cleanup_errors=True)
        self._lock = _lock(Path(self.name))

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path(self.name)

    def cleanup(self) -> None:
        """Remove it, and only then let go of it; again is harmless."""
        super().cleanup()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _lock(directory: Path) -> int:
    """Locked before it has its name: nobody ever finds it free."""
    unnamed = directory / f"{LOCK}.new"
    descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    unnamed.rename(directory / LOCK)
    return descriptor


def remove_abandoned(place: Path) -> None:
    """Remove this user's directories in ``place`` whose makers are gone; what cannot be looked at is let be."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX):
                with contextlib.suppress(OSError):
                    _remove(entry.path)


def _remove(path: str) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if not _ours(directory, stat.S_IFDIR):
            return
        lock = os.open(LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        try:
            if _ours(lock, stat.S_IFREG):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: it is in use
                shutil.rmtree(path, ignore_errors=True)  # follows no symbolic link
        finally:
            os.close(lock)
    finally:
        os.close(directory)


def _ours(descriptor: int, kind: int) -> bool:
    """Whether it is this user's, of that kind, and nobody else's to write."""
    found = os.fstat(descriptor)
    return found.st_uid == os.geteuid() and stat.S_IFMT(found.st_mode) == kind and not found.st_mode & 0o022
