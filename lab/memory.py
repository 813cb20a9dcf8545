"""A directory in memory for what no disk has to keep: SQLite waits for a disk with every commit."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")  # noqa: S108 - for fresh directories of our own in there


def memory_directory() -> str | None:
    """Where temporary directories are to be made; ``None``: the usual place, which may be in memory already."""
    if Path(tempfile.gettempdir()).is_relative_to(MEMORY):
        return None
    return str(MEMORY) if os.access(MEMORY, os.W_OK | os.X_OK) else None
