"""Where a schedule can be played, what carries ESP and translates there; for a command line that loads nothing else."""

from __future__ import annotations

from enum import Enum


class StageName(str, Enum):
    """Where a schedule can be played."""

    VIRTUAL = "virtual"
    LOOPBACK = "loopback"
    NAMESPACES = "namespaces"


class BackendName(str, Enum):
    """What carries ESP in the nodes: ``data_plane.backend`` of both configurations."""

    AUTO = "auto"
    PYTHON = "python"
    COMPILED = "compiled"
    KERNEL = "kernel"


class NatName(str, Enum):
    """What translates addresses behind an access."""

    LAB = "lab"
    NFTABLES = "nftables"
