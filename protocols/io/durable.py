"""Files that outlive a process and are never found half written: beside, to disk, renamed over."""

from __future__ import annotations

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
