"""The name servers that the network grants, in a file in the form of resolv.conf(5), for as long as they are granted.

What stood there before is kept in a file of its own until it is back, so that a UE that was killed puts it back when
it is started again. A file that somebody else has written meanwhile is theirs and stays. The directory that
``ip netns exec`` takes a network namespace's files from is made where it is not there, and goes with the file.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from protocols.errors import BackendError
from protocols.io.namespace import RESOLVERS
from protocols.path import Address

HEADER = "# Name servers granted to the UE; what was here comes back when it detaches."
MODE = 0o644  # of a file that was not there


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """The file before the UE wrote it: ``None`` where there was none.

    ``made``: the directories that go with it when nothing else is in them, the innermost first.
    """

    file: Path
    content: bytes | None
    mode: int
    made: tuple[Path, ...]


def resolver_of(namespace: str) -> Path:
    """The file that `ip netns exec NAMESPACE` mounts over /etc/resolv.conf (ip-netns(8))."""
    return RESOLVERS / namespace / "resolv.conf"


class ResolverFile:
    """Writes name servers into a file and puts back what was there; ``kept`` is where that waits."""

    def __init__(self, kept: Path) -> None:
        self._kept = kept

    def write(self, file: Path, servers: Sequence[Address]) -> None:
        """Put name servers there; none leave the file alone. ``BackendError`` in one line, nothing is changed then."""
        if not servers:
            return
        self.restore()
        file = Path(os.path.realpath(file))  # /etc/resolv.conf is often a link, which stays
        text = "\n".join([HEADER, *(f"nameserver {server}" for server in servers), ""])
        try:
            try:
                content: bytes | None = file.read_bytes()
                mode = file.stat().st_mode & 0o7777
            except FileNotFoundError:
                content, mode = None, MODE
            directory = file.parent
            made = [directory, RESOLVERS] if directory.parent == RESOLVERS and not directory.exists() else []
            kept = {
                "file": str(file),
                "content": None if content is None else base64.b64encode(content).decode(),
                "mode": mode,
                "made": [str(each) for each in made],
            }
            _replace(self._kept, json.dumps(kept).encode(), 0o600)
            try:
                if made:
                    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
                _replace(file, text.encode(), mode)
            except OSError:
                _remove(made)
                self._kept.unlink()
                raise
        except OSError as error:
            raise BackendError(f"name servers: {error.filename or file}: {error.strerror}") from error

    def restore(self) -> None:
        """Put back what was there, if anything was changed; a second time does nothing. ``BackendError``."""
        kept = self._read()
        if kept is None:
            return
        try:
            if self._is_ours(kept.file):
                if kept.content is None:
                    kept.file.unlink(missing_ok=True)
                else:
                    _replace(kept.file, kept.content, kept.mode)
            _remove(kept.made)
            self._kept.unlink(missing_ok=True)
        except OSError as error:
            raise BackendError(f"name servers: {error.filename or kept.file}: {error.strerror}") from error

    def _read(self) -> _Kept | None:
        try:
            value = json.loads(self._kept.read_text(encoding="utf-8"))
            content = value["content"]
            return _Kept(
                file=Path(value["file"]),
                content=None if content is None else base64.b64decode(content, validate=True),
                mode=int(value["mode"]),
                made=tuple(Path(each) for each in value.get("made", ())),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BackendError(f"name servers: {self._kept} cannot be read: {error}") from error

    @staticmethod
    def _is_ours(file: Path) -> bool:
        with contextlib.suppress(OSError):
            return file.read_bytes().startswith(HEADER.encode())
        return False


def _remove(directories: Iterable[Path]) -> None:
    """Those that nothing is in."""
    for each in directories:
        with contextlib.suppress(OSError):
            each.rmdir()


def _replace(file: Path, content: bytes, mode: int) -> None:
    """Whoever reads the file finds the old or the new content; where it is mounted, written in place."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as output:
            output.write(content)
            output.flush()
            os.fchmod(output.fileno(), mode)
            os.fsync(output.fileno())
        os.replace(beside, file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        if error.errno != errno.EBUSY:
            raise
        file.write_bytes(content)  # a mount, as in containers and `ip netns`
