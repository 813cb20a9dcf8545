"""This process: how its command line is run, and what it takes of the machine."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from protocols.trace.records import JsonValue

GC_THRESHOLDS = (50_000, 20, 50)  # with thousands of sessions a sixth of the time went into collections
STATM = "/proc/self/statm"  # proc(5): the second number is the resident set in pages


@contextmanager
def starting() -> Iterator[None]:
    """While a program imports what it lasts as long as, nothing of which is garbage: the collector never looks at it.

    To look would take a fifth of the start, and pauses of the node that serves later.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def expect_many() -> None:
    """For a process that holds thousands of sessions: a full collection over them stalls them all, so there are few."""
    gc.set_threshold(*GC_THRESHOLDS)


def run_command_line(command_line: Callable[[], object]) -> None:
    """Run a command line to the end of the process, where nothing is taken apart: a node that is told to stop ends.

    What is imported by then the collector leaves alone, as after ``starting``.
    """
    gc.freeze()
    try:
        command_line()
    finally:
        gc.freeze()  # the collector's last round over all modules takes a fifth of a second


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
