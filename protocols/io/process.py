"""This process: how its command line is run, and what it takes of the machine."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable

from protocols.trace.records import JsonValue

STATM = "/proc/self/statm"  # proc(5): the second number is the resident set in pages


def run_command_line(command_line: Callable[[], object]) -> None:
    """Run a command line to the end of the process, and keep the garbage collector off what lasts as long.

    It neither visits what is imported, in pauses of a node that serves, nor takes all modules apart at the end, which
    took a node that was told to stop a fifth of a second.
    """
    gc.freeze()
    try:
        command_line()
    finally:
        gc.freeze()


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
