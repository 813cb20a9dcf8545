"""The paths that a session has been on."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.path import Path

PATHS_KEPT = 1000


@dataclass(kw_only=True)
class PathUse:
    """A path the session has been on; wall-clock seconds."""

    path: Path
    since: float
    why: str
    validated: bool
    until: float | None = None


class Whereabouts(list[PathUse]):
    """The paths in order, the last ``PATHS_KEPT`` of them."""

    def enter(self, use: PathUse) -> None:
        """Another path is in use from its time on; the same one again is none."""
        if self and self[-1].path == use.path:
            return
        self.leave(use.since)
        self.append(use)
        del self[:-PATHS_KEPT]

    def leave(self, wall: float) -> None:
        """The last path is not used any more."""
        if self:
            self[-1].until = wall
