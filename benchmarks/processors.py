"""Processor time of processes and of all that they have started, as Linux counts it (proc(5), ``/proc/PID/stat``)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")  # a second


def _processes() -> dict[int, tuple[int, float]]:
    """The parent of each, and the seconds that it and its children of the past have used."""
    found: dict[int, tuple[int, float]] = {}
    for directory in Path("/proc").iterdir():
        if not directory.name.isdecimal():
            continue
        try:
            fields = (directory / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        found[int(directory.name)] = (int(fields[1]), sum(map(int, fields[11:15])) / _TICKS)
    return found


def used(roots: Mapping[str, int]) -> dict[str, float]:
    """Seconds of each process and of those below it, by name; one that is below another counts for itself alone."""
    processes = _processes()
    named = {number: name for name, number in roots.items()}
    seconds = dict.fromkeys(roots, 0.0)
    for number, (_, taken) in processes.items():
        above = number
        while above in processes and above not in named:
            above = processes[above][0]
        if above in named:
            seconds[named[above]] += taken
    return seconds
