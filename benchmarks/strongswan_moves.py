"""What a move costs: our UE and strongSwan's client, each at our gateway and at strongSwan's, side by side in one run.

    python -m benchmarks.strongswan_moves [--rounds 2] [--only NAME] [--output benchmarks/results/strongswan_moves.json]
                                          [--document docs/moves.md]
    python -m benchmarks.strongswan_moves --from benchmarks/results/strongswan_moves.json --document docs/moves.md

Needs root, Debian's strongSwan and hostapd. Both UEs are left alone: they watch their addresses and decide. Traffic
is iputils' ping through the tunnel. First single events (``tests.peers.moves``), then the laboratory's schedules
(``tests.peers.scheduled_moves``). Prints the tables, and puts them into a document between its markers. A pair whose
traffic does not come back is measured once, as are the longest schedules; a pair that fails is tried once more, and
is said to have failed. With ``--output`` the figures are written after every measurement. Two rounds take 40 minutes.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.mobility.loader import load_schedule
from protocols.trace.records import JsonValue
from tests.peers import moves, scheduled_moves
from tests.peers.moves import PAIRS, SCENARIOS, Measured, play
from tests.peers.strongswan import CHARON

ATTEMPTS = 2
BOUNDED = (  # an address comes or goes, and nothing else is lost: what is beyond is of the UE and the gateway
    "walk-home",
    "walk-home-pixel",
    "lift",
    "flapping-wifi",
    "v4-to-v6",
    "lost-response",
    "move-during-eap",
    "suspend-weekend",
)
ONCE = ("lossy-path", "suspend-weekend")  # long, and yes or no: played in the first round alone
NONE = "–"

Key = tuple[str, str, str]  # scenario or schedule, UE, gateway


@dataclass(kw_only=True)
class Found:
    """What was measured, and what failed."""

    runs: dict[Key, list[Measured]] = field(default_factory=dict)
    failures: dict[Key, str] = field(default_factory=dict)

    def keep(self, key: Key, work: Callable[[], Measured]) -> None:
        """Measure, unless it is known already that the traffic never comes back."""
        known = self.runs.setdefault(key, [])
        if any(None in one.silences for one in known):
            return
        name, ue, gateway = key
        for _ in range(ATTEMPTS):
            words = io.StringIO()
            try:
                with contextlib.redirect_stdout(words):  # the nodes' logs
                    known.append(work())
            except Exception as error:  # noqa: BLE001 - one pair must not lose the others; it is told and kept
                self.failures[key] = f"{type(error).__name__}: {error}".splitlines()[0]
                _say(f"{name:20} {ue:>11} at {gateway:11} {self.failures[key]}\n{words.getvalue()[-2000:]}")
            else:
                self.failures.pop(key, None)
                _say(f"{name:20} {ue:>11} at {gateway:11} {known[-1].to_json()}")
                return

    def to_json(self) -> list[JsonValue]:
        """A list of pairs with their runs."""
        return [
            {
                "name": name,
                "ue": ue,
                "gateway": gateway,
                "runs": [one.to_json() for one in measured],
                **({"failure": self.failures[key]} if (key := (name, ue, gateway)) in self.failures else {}),
            }
            for (name, ue, gateway), measured in self.runs.items()
        ]

    @classmethod
    def of(cls, listed: Sequence[Mapping[str, Any]]) -> Found:
        """As ``to_json`` wrote it."""
        found = cls()
        for each in listed:
            key = each["name"], each["ue"], each["gateway"]
            found.runs[key] = [Measured.of(run) for run in each["runs"]]
            if "failure" in each:
                found.failures[key] = each["failure"]
        return found

    @property
    def names(self) -> list[str]:
        """Scenarios or schedules, in order."""
        return list(dict.fromkeys(name for name, _, _ in self.runs))


def _say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


# --- tables ---------------------------------------------------------------------------------------------------


def milliseconds(values: Sequence[float | None]) -> str:
    """The median and the worst."""
    known = [value * 1000 for value in values if value is not None]
    if not known or len(known) < len(values):
        return "**never**"
    if len(known) == 1:
        return f"{known[0]:.0f} ms"
    return f"{statistics.median(known):.0f} ms ({max(known):.0f})"


def outage(measured: Sequence[Measured]) -> str:
    """Silence, and echo requests without an answer in one run, the mean."""
    if any(None in one.silences for one in measured):
        return "**never**, all from then on"
    silence = milliseconds([each for one in measured for each in one.silences])
    return f"{silence}, {statistics.mean(one.lost for one in measured):.0f} lost"


def staying(measured: Sequence[Measured]) -> str:
    """Of a schedule in which nobody should move: whether anybody did, and whose the losses are."""
    elsewhere = sum(one.elsewhere or 0 for one in measured)
    moved = f"**{elsewhere} packets elsewhere**" if elsewhere else "no move"
    if any(None in one.silences for one in measured):
        return f"{moved}, **dead**"
    sent, lost, taken = (
        statistics.mean(values)
        for values in zip(*((one.sent, one.lost, one.taken or 0) for one in measured), strict=True)
    )
    return f"{moved}; of {sent:.0f} echoes {lost:.0f} lost, {taken:.0f} of them by the path"


def beyond(measured: Sequence[Measured]) -> str:
    """What is left of the silence without two round trips of the path."""
    if all(one.beyond is None and None not in one.silences for one in measured):
        return NONE
    return milliseconds([one.beyond for one in measured])


def table(
    found: Found,
    titles: Mapping[str, str],
    cell: Callable[[str, Sequence[Measured]], str],
    pairs: Sequence[tuple[str, str]] = PAIRS,
) -> str:
    """As Markdown."""

    def text(key: Key) -> str:
        if found.runs.get(key):
            return cell(key[0], found.runs[key])
        return "failed" if key in found.failures else NONE

    lines = ["| what happens | " + " | ".join(f"{ue} at {gateway}" for ue, gateway in pairs) + " |"]
    lines.append("|---|" + "---|" * len(pairs))
    for name, title in titles.items():
        cells = [text((name, ue, gateway)) for ue, gateway in pairs]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tables(events: Found, schedules: Found) -> dict[str, str]:
    """By the names of their markers."""
    named = {scenario.name: scenario.title for scenario in SCENARIOS if scenario.name in events.names}
    known = {name: load_schedule(name).schedule for name in schedules.names}
    titles = {name: f"{name}: {schedule.title}" for name, schedule in known.items()}
    still = {name for name, schedule in known.items() if schedule.expect.moves == 0}

    def scheduled(name: str, measured: Sequence[Measured]) -> str:
        return staying(measured) if name in still else outage(measured)

    made: dict[str, str] = {}
    if named:
        made["events"] = table(events, named, lambda _, measured: outage(measured))
    if titles:
        made["schedules"] = table(schedules, titles, scheduled)
    bounded = {name: title for name, title in titles.items() if name in BOUNDED}
    if bounded:
        made["beyond"] = table(schedules, bounded, lambda _, measured: beyond(measured))
    return made


def place(document: Path, made: Mapping[str, str]) -> None:
    """Put parts of a document between ``<!-- NAME -->`` and ``<!-- end -->``; ``SystemExit`` without such markers."""
    text = document.read_text(encoding="utf-8")
    for name, words in made.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = pattern.subn(lambda match: f"{match[1]}{words}\n{match[2]}", text)  # noqa: B023 - at once
        if count != 1:
            raise SystemExit(f"{document}: no place for {name}: <!-- {name} --> and <!-- end --> are expected once")
    document.write_text(text, encoding="utf-8")


# --- about the run --------------------------------------------------------------------------------------------


def version(words: Sequence[str | Path], pattern: str) -> str:
    """What a program says of its version; ``?`` where it is not there."""
    try:
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return "?"
    match = re.search(pattern, done.stdout + done.stderr)
    return match[1] if match else "?"


def about(rounds: int) -> dict[str, Any]:
    """The machine, the versions, the unit."""
    return {
        "rounds": rounds,
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.platform(),
        "processors": os.cpu_count(),
        "load_at_start": [round(each, 1) for each in os.getloadavg()],
        "python": platform.python_version(),
        "strongswan": version([CHARON, "--version"], r"(\d+\.\d+\.\d+)"),
        "hostapd": version(["/usr/sbin/hostapd", "-v"], r"hostapd v(\S+)"),
        "unit": "ms without an answer to ping, beyond the time without any address and ping's interval; beyond_ms:"
        f" beyond {scheduled_moves.ROUND_TRIPS} round trips of the path as well",
        "interval_ms": {"events": moves.INTERVAL * 1000, "schedules": scheduled_moves.INTERVAL * 1000},
        "patience_s": moves.PATIENCE,
    }


def machine(head: Mapping[str, Any]) -> str:
    """One paragraph about the run."""

    def load(when: str) -> str:
        return ", ".join(str(each) for each in head[when])

    took = f" in {head['minutes']} minutes" if "minutes" in head else ""
    return (
        f"Machine: {head['machine']}, {head['processors']} processors (load averages {load('load_at_start')} at the\n"
        f"start, {load('load_at_end')} at the end); {head['date']}; strongSwan {head['strongswan']},"
        f" hostapd {head['hostapd']}, Python {head['python']};\n"
        f"rounds: {head['rounds']}{took}, all in one run."
    )


# --- measuring ------------------------------------------------------------------------------------------------


def measure(
    rounds: int, wanted: Sequence[str], write: Callable[[dict[str, Any], Found, Found], None]
) -> tuple[dict[str, Any], Found, Found]:
    """Everything that is wanted, ``rounds`` times; ``write`` after each."""
    head, events, schedules = about(rounds), Found(), Found()
    began = time.monotonic()

    def keep(found: Found, key: Key, work: Callable[[], Measured]) -> None:
        found.keep(key, work)
        head["load_at_end"] = [round(each, 1) for each in os.getloadavg()]
        head["minutes"] = round((time.monotonic() - began) / 60, 1)
        write(head, events, schedules)

    for number in range(1, rounds + 1):
        _say(f"round {number} of {rounds}")
        for scenario in SCENARIOS:
            for ue, gateway in PAIRS if scenario.name in wanted else ():
                keep(events, (scenario.name, ue, gateway), lambda: play(scenario, ue, gateway))  # noqa: B023 - at once
        for name in scheduled_moves.played():
            once = name in ONCE and number > 1
            for ue, gateway in scheduled_moves.pairs(name) if name in wanted and not once else ():
                work = lambda: scheduled_moves.play(name, ue, gateway)  # noqa: B023, E731
                keep(schedules, (name, ue, gateway), work)
    return head, events, schedules


def main() -> None:
    """Measure or read, print the tables, keep the figures."""
    known = [*(scenario.name for scenario in SCENARIOS), *scheduled_moves.played()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", action="append", choices=sorted(set(known)))
    parser.add_argument("--output", type=Path, help="of the figures, as JSON")
    parser.add_argument("--from", dest="figures", type=Path, help="figures of an earlier run; nothing is measured")
    parser.add_argument("--document", type=Path, help="whose tables are renewed")
    options = parser.parse_args()

    def write(head: dict[str, Any], events: Found, schedules: Found) -> None:
        if options.output is not None:
            document = {"about": head, "events": events.to_json(), "schedules": schedules.to_json()}
            options.output.write_text(json.dumps(document, indent=2) + "\n")

    if options.figures is None:
        head, events, schedules = measure(options.rounds, options.only or known, write)
    else:
        figures = json.loads(options.figures.read_text())
        head, events, schedules = figures["about"], Found.of(figures["events"]), Found.of(figures["schedules"])
    made = {"machine": machine(head), **tables(events, schedules)}
    print("\n\n".join(made.values()))
    if options.document is not None:
        place(options.document, made)
    failures = {**events.failures, **schedules.failures}
    for (name, ue, gateway), why in failures.items():
        print(f"failed: {name}, {ue} at {gateway}: {why}", file=sys.stderr)
    if failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
