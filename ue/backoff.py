"""How long a refused UE leaves the network alone (TS 24.302 §7.2.2.2, §8.2.9.1), over restarts of the process too."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from protocols.errors import BackendError
from protocols.io.durable import replace_file


@dataclass(frozen=True, kw_only=True)
class BackOff:
    """The network refused with ``cause``; no attach before ``until``, the machine's seconds, infinite: never."""

    cause: str
    until: float

    def refusal(self, now: float) -> str | None:
        """Why there is no attach now, in one sentence; ``None`` when the time is over."""
        if now >= self.until:
            return None
        return f"the network refused the UE with {self.cause} and asked it to stay away {self.how_long(now)}"

    def how_long(self, now: float) -> str:
        """The time that is left, in words."""
        if self.until == math.inf:
            return "until the UE is switched off and on"
        return f"for another {math.ceil(self.until - now)} s"


class FileBackOff:
    """The back-off in a file, by wall clock; one without an end is not kept: a new process is a UE switched on."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self, wall_offset: float) -> BackOff | None:
        """What was kept; ``wall_offset`` is the wall clock's lead over the machine's. Nonsense counts as nothing."""
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            until = float(kept["until"]) - wall_offset
            return BackOff(cause=str(kept["cause"]), until=until) if math.isfinite(until) else None
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None

    def write(self, back_off: BackOff | None, wall_offset: float) -> None:
        """Keep it; ``BackendError`` when the file cannot be written."""
        try:
            if back_off is None or back_off.until == math.inf:
                self._file.unlink(missing_ok=True)
                return
        except OSError as error:
            raise BackendError(f"{self._file}: {error.strerror}") from error
        replace_file(self._file, json.dumps({"cause": back_off.cause, "until": back_off.until + wall_offset}))
