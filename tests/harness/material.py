"""Where the shared reference material lies, and tests that read it skip without it."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"


def shared(relative: str) -> Path:
    """A file of the shared material; skips the calling test where it is absent."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"shared material {relative} is not beside this checkout")
    return path
