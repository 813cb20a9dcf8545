"""Usage records: a line of CSV for each session that was up and has ended (``accounting`` in the configuration).

Sessions that end in one moment are written and flushed to the disk together, at once. What cannot be written is kept,
the last of it, and tried again with the next; a log line says so once.
"""

from __future__ import annotations

import asyncio
import csv
import io
import logging
from collections import deque
from datetime import UTC, datetime

from epdg.config import AccountingSection
from epdg.live import Live
from protocols.errors import BackendError
from protocols.io.durable import LineFile

COLUMNS = (
    "session",
    "imsi",
    "apn",
    "inner_addresses",
    "started",
    "ended",
    "ended_by",
    "why",
    "uplink_packets",
    "uplink_octets",
    "downlink_packets",
    "downlink_octets",
    "moves",
)
PENDING_KEPT = 10_000  # records that wait for the disk

_log = logging.getLogger(__name__)


class UsageRecords:
    """``None`` for a section: nothing is written."""

    def __init__(self, section: AccountingSection | None) -> None:
        self._file = _file(section)
        self._pending: deque[str] = deque(maxlen=PENDING_KEPT)
        self._is_due = self._is_failing = False

    def open(self) -> None:
        """Make the file, or go on with it; ``BackendError``."""
        if self._file is not None:
            self._file.open()

    def change(self, section: AccountingSection | None) -> None:
        """Write elsewhere from now on, or nothing; ``BackendError``: not there, and nothing has changed."""
        file = _file(section)
        if file is not None:
            file.open()
        self.write()
        self._file = file

    def ended(self, live: Live, *, why: str, by_peer: bool, wall: float) -> None:
        """A session is over; one that was never up has used nothing."""
        session = live.session
        if self._file is None or session.established is None:
            return
        carried = session.carried
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(
            (
                session.identifier,
                session.imsi or "",
                session.apn or "",
                " ".join(map(str, session.inner_addresses)),
                _moment(session.established),
                _moment(wall),
                "ue" if by_peer else "gateway",
                why,
                carried["inbound_packets"],
                carried["inbound_octets"],
                carried["outbound_packets"],
                carried["outbound_octets"],
                live.moves,
            )
        )
        self._pending.append(line.getvalue())
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self.write)

    def write(self) -> None:
        """Write what waits."""
        self._is_due = False
        if self._file is None or not self._pending:
            return
        try:
            self._file.append([*self._pending])
        except BackendError as error:
            if not self._is_failing:
                _log.error("usage records are not written: %s", error)
            self._is_failing = True
        else:
            if self._is_failing:
                _log.warning("usage records are written again")
            self._is_failing = False
            self._pending.clear()


def _file(section: AccountingSection | None) -> LineFile | None:
    if section is None:
        return None
    return LineFile(section.file, ",".join(COLUMNS), octets_limit=section.rotate_octets, kept=section.kept_files)


def _moment(wall: float) -> str:
    """ISO 8601 in UTC."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds")
