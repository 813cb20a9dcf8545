"""Results of the laboratory in a directory, as ``lab run --output`` leaves them: read anew at each question.

A run is three files of one name: ``NAME.json`` (``lab.mobility.result``), ``NAME.svg`` and ``NAME.png``. What is no
such result is passed over and counted.
"""

from __future__ import annotations

import contextlib
import json
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULT, PICTURE = ".json", ".svg"
RUNS_MAXIMUM = 500  # the latest are shown
OCTETS_MAXIMUM = 32 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A result; ``written`` is wall clock, ``picture`` the timeline where there is one."""

    name: str
    written: float
    result: dict[str, Any]
    picture: Path | None


class Runs:
    """The results in a directory; without one there are none."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def latest(self) -> tuple[list[Run], int]:
        """The latest results, newest first, and how many files were none."""
        runs, unreadable = [], 0
        for path in self._files():
            run = self._read(path)
            if run is None:
                unreadable += 1
            else:
                runs.append(run)
        return runs, unreadable

    def find(self, name: str) -> Run | None:
        """A result by its name."""
        if self._directory is None or not _NAME.fullmatch(name):
            return None
        return self._read(self._directory / f"{name}{RESULT}")

    def _files(self) -> Iterator[Path]:
        if self._directory is None:
            return
        found: list[tuple[float, Path]] = []
        try:
            paths = [path for path in self._directory.iterdir() if path.suffix == RESULT and _NAME.fullmatch(path.stem)]
        except OSError:
            return  # not there yet: nothing was run
        for path in paths:
            with contextlib.suppress(OSError):  # it is gone again, or a link to nowhere
                found.append((path.stat().st_mtime, path))
        found.sort(key=lambda each: (-each[0], each[1].name))
        yield from (path for _, path in found[:RUNS_MAXIMUM])

    @staticmethod
    def _read(path: Path) -> Run | None:
        try:
            status = path.stat()
            if status.st_size > OCTETS_MAXIMUM or not stat.S_ISREG(status.st_mode):  # a pipe would never end
                return None
            result = json.loads(path.read_text(encoding="utf-8"))
            # what JSON can escape but UTF-8 not hold, an answer could not either
            json.dumps(result, ensure_ascii=False).encode()
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(result, dict) or not isinstance(result.get("schedule"), str):
            return None
        picture = path.with_suffix(PICTURE)
        return Run(
            name=path.stem, written=status.st_mtime, result=result, picture=picture if picture.is_file() else None
        )
