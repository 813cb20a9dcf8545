"""Log lines of a node: one line each on standard error, as text for people or JSON for machines.

What a user wants to know of a session is in the trace; the log is for what concerns the process. A JSON line has
``time`` (ISO 8601, UTC), ``level``, ``node``, ``logger``, ``session`` where there is one, ``text``, and ``traceback``
of a defect.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from protocols.errors import printable

SESSION = "session"  # in ``extra`` of a log call: the id of the session that the line is about


class _JsonLines(logging.Formatter):
    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "node": self._node,
            "logger": record.name,
            **({"session": session} if (session := getattr(record, SESSION, None)) else {}),
            "text": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _TextLines(logging.Formatter):
    """What a peer wrote makes no lines of its own, and commands no terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of the base class
        record.message = printable(record.message)
        return super().formatMessage(record)


def start_logging(
    node: str, *, level: int = logging.INFO, machine_readable: bool = False, stream: TextIO | None = None
) -> None:
    """Send the process's log to ``stream`` (standard error), replacing what was configured before."""
    handler = logging.StreamHandler(stream or sys.stderr)
    if machine_readable:
        handler.setFormatter(_JsonLines(node))
    else:
        handler.setFormatter(_TextLines(f"%(asctime)s {node} %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    for former in tuple(root.handlers):
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(level)
