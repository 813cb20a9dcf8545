"""Where a schedule can be played; by itself, so that a command line knows it without the rest."""

from __future__ import annotations

from enum import Enum


class StageName(str, Enum):
    """Where a schedule can be played."""

    VIRTUAL = "virtual"
    LOOPBACK = "loopback"
    NAMESPACES = "namespaces"
