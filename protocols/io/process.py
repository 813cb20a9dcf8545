"""What this process takes of the machine."""

from __future__ import annotations

import os

from protocols.trace.records import JsonValue

STATM = "/proc/self/statm"  # proc(5): the second number is the resident set in pages


def process_view() -> dict[str, JsonValue]:
    """``resident_octets``: memory, null where the system does not tell; ``cpu_seconds``: user and system time."""
    times = os.times()
    resident: int | None = None
    try:
        with open(STATM, encoding="ascii") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux, or no /proc
        pass
    return {"resident_octets": resident, "cpu_seconds": round(times.user + times.system, 2)}
