"""What a move costs: our UE and strongSwan's client, each at our gateway and at strongSwan's, side by side in one run.

    python -m benchmarks.strongswan_moves [--rounds 3] [--only NAME] [--output benchmarks/results/strongswan_moves.json]

Needs root, Debian's strongSwan and hostapd. Both UEs are left alone: they watch their addresses and decide. Traffic
is iputils' ping through the tunnel. First single events (``tests.peers.moves``), then the laboratory's schedules at
strongSwan's gateway (``tests.peers.scheduled_moves``). Prints the tables of ``docs/moves.md``; a pair whose traffic
does not come back is measured once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.mobility.loader import load_schedule
from protocols.trace.records import JsonValue
from tests.peers import moves, scheduled_moves
from tests.peers.moves import PAIRS, SCENARIOS, UES, Measured, play
from tests.peers.strongswan import CHARON

Key = tuple[str, str, str]  # scenario or schedule, UE, gateway
Found = dict[Key, list[Measured]]


def keep(found: Found, key: Key, work: Callable[[], Measured]) -> None:
    """Measure, unless it is known already that the traffic never comes back."""
    known = found.setdefault(key, [])
    if any(None in one.silences for one in known):
        return
    with contextlib.redirect_stdout(io.StringIO()):  # the nodes' logs
        known.append(work())
    name, ue, gateway = key
    print(f"{name:18} {ue:>11} at {gateway:11} {known[-1].to_json()}", file=sys.stderr, flush=True)


def silence(measured: Sequence[Measured]) -> str:
    """The median and the worst of all events, in milliseconds."""
    values = [each for one in measured for each in one.silences]
    known = [value * 1000 for value in values if value is not None]
    if len(known) < len(values):
        return "**never**"
    if len(known) == 1:
        return f"{known[0]:.0f} ms"
    return f"{statistics.median(known):.0f} ms ({max(known):.0f})"


def lost(measured: Sequence[Measured]) -> str:
    """Echo requests without an answer in one run, the mean."""
    if any(None in one.silences for one in measured):
        return "all from then on"
    return f"{sum(one.lost for one in measured) / len(measured):.0f} lost"


def table(found: Found, titles: dict[str, str], pairs: Sequence[tuple[str, str]]) -> str:
    """As Markdown: silence, median and worst, and echoes lost."""
    lines = ["| what happens | " + " | ".join(f"{ue} at {gateway}" for ue, gateway in pairs) + " |"]
    lines.append("|---|" + "---|" * len(pairs))
    for name, title in titles.items():
        cells = [found[(name, ue, gateway)] for ue, gateway in pairs]
        lines.append(f"| {title} | " + " | ".join(f"{silence(each)}, {lost(each)}" for each in cells) + " |")
    return "\n".join(lines)


def version(words: Sequence[str | Path], pattern: str) -> str:
    """What a program says of its version; ``?`` where it is not there."""
    try:
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return "?"
    match = re.search(pattern, done.stdout + done.stderr)
    return match[1] if match else "?"


def about(rounds: int) -> dict[str, JsonValue]:
    """The machine, the versions, the unit."""
    return {
        "rounds": rounds,
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.platform(),
        "processors": os.cpu_count(),
        "load_at_start": [round(each, 1) for each in os.getloadavg()],
        "python": platform.pythonversion(),
        "strongswan": version([CHARON, "--version"], r"(\d+\.\d+\.\d+)"),
        "hostapd": version(["/usr/sbin/hostapd", "-v"], r"hostapd v(\S+)"),
        "unit": "ms without an answer to ping, beyond the time without any address and ping's interval",
        "interval_ms": {"events": moves.INTERVAL * 1000, "schedules": scheduled_moves.INTERVAL * 1000},
        "patience_s": moves.PATIENCE,
    }


def main() -> None:
    """Measure, print the tables, keep the figures."""
    known = [*(scenario.name for scenario in SCENARIOS), *scheduled_moves.PLAYED]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=known)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    wanted = options.only or known
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in wanted]
    schedules = {
        name: f"{name}: {load_schedule(name).schedule.title}" for name in scheduled_moves.PLAYED if name in wanted
    }
    head, events, scheduled = about(options.rounds), Found(), Found()
    for _ in range(options.rounds):
        for scenario in scenarios:
            for ue, gateway in PAIRS:
                keep(events, (scenario.name, ue, gateway), lambda: play(scenario, ue, gateway))  # noqa: B023 - at once
        for name in schedules:
            for ue in UES:
                keep(scheduled, (name, ue, "strongSwan"), lambda: scheduled_moves.play(name, ue))  # noqa: B023
    head["load_at_end"] = [round(each, 1) for each in os.getloadavg()]
    if scenarios:
        print(table(events, {scenario.name: scenario.title for scenario in scenarios}, PAIRS), end="\n\n")
    if schedules:
        print(table(scheduled, schedules, [(ue, "strongSwan") for ue in UES]))
    if options.output is not None:
        listed = {
            kind: [
                {"name": name, "ue": ue, "gateway": gateway, "runs": [one.to_json() for one in measured]}
                for (name, ue, gateway), measured in found.items()
            ]
            for kind, found in (("events", events), ("schedules", scheduled))
        }
        options.output.write_text(json.dumps({"about": head, **listed}, indent=2) + "\n")


if __name__ == "__main__":
    main()
