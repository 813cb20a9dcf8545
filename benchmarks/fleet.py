"""How many UEs a fleet holds against a gateway of this machine's own, how fast they attach, what each costs.

    python -m benchmarks.fleet [--sizes 10000] [--rate 200] [--processes 1] [--costs 1000]
                               [--output benchmarks/results/fleet.json]

UEs, gateway and AAA server share the machine's cores, so that paces are those of all three together; processor time is
told for each. Every run is one of ``lab fleet --with-nodes``: all attach, as fast as the nodes take them, and detach
when all have been there for a while.

``living``, for each of ``--sizes``: meanwhile one in five talks, and everybody moves once.
``still``, of ``--costs`` UEs: nobody does anything; what an attach, a UE that is idle and a detach take.
``moving``, of ``--costs`` UEs: everybody moves every ten seconds or so; what a move takes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SIZES = (10_000,)
COSTS = 1000
RATE = 200.0
PLATEAUS = {"living": 60.0, "still": 20.0, "moving": 40.0}  # seconds that everybody is attached for
SLOWEST = 5.0  # attaches a second on a machine of interest: bounds a run
NETWORK = "127.0.83.0/24"  # beside whoever runs a fleet with nodes of its own here
HERE = Path(__file__).parent
SCHEDULES = {"living": HERE / "fleet_living.yaml", "still": "stay", "moving": HERE / "fleet_moving.yaml"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: what its UEs do and how many they are."""

    kind: str
    size: int
    rate: float
    processes: int

    def summary(self) -> dict[str, object]:
        """What `lab fleet` says of it."""
        plateau = PLATEAUS[self.kind]
        with tempfile.TemporaryDirectory() as directory:
            output = Path(directory) / "summary.json"
            words = ["--with-nodes", "--network", NETWORK, "--schedule", SCHEDULES[self.kind], "--output", output]
            words += ["--count", self.size, "--rate", self.rate, "--processes", self.processes]
            words += ["--plateau", plateau, "--duration", self.size / SLOWEST + plateau]
            done = subprocess.run(
                [sys.executable, "-m", "lab", "fleet", *map(str, words)], check=False, capture_output=True, text=True
            )
            if not output.exists():
                raise SystemExit(done.stdout + done.stderr)
            summary = json.loads(output.read_text())
        assert isinstance(summary, dict)
        return summary


def row_of(run: Run, summary: dict[str, object]) -> dict[str, object]:
    """What a run came to; processor time and memory by process, where all have attached."""
    figures, nodes, moments = summary["figures"], summary["nodes"], summary["moments"]
    assert isinstance(figures, dict)
    assert isinstance(nodes, dict)
    assert isinstance(moments, dict)
    latencies = figures["latencies"]
    both_ends = summary["both_ends"]
    assert isinstance(both_ends, dict)
    row: dict[str, object] = {
        "kind": run.kind,
        "ues": run.size,
        "processes": run.processes,
        "rate_asked_for": run.rate,
        "attached_at_once": summary["attached_at_most"],
        "seconds": summary["seconds"],
        "failures": summary["failures"],
        "remarks": summary["remarks"],
        "outcomes": figures["outcomes"],
        "lost": figures["lost"],
        "packets": figures["packets"],
        "both_ends": {name: both_ends[name] for name in ("attaches", "moves", "detaches", "differences")},
        "sessions_left": {name: status["sessions"] for name, status in nodes.items()},
        "attaches_per_second_peak": summary["attaches_per_second"]["peak"],  # type: ignore[index]
        "moves_per_second_peak": summary["moves_per_second"]["peak"],  # type: ignore[index]
        **{name: latencies[name] for name in ("attach", "move", "detach", "lateness") if latencies[name]["count"]},
    }
    if len(moments) == 4:
        row |= phases(run, moments)
    return row


def phases(run: Run, moments: dict[str, dict[str, object]]) -> dict[str, object]:
    """Between the moments: attaching, staying, detaching."""
    ues = run.size
    began, gathered, leaving, ended = (moments[name] for name in ("began", "gathered", "leaving", "ended"))
    staying, detaching = seconds_between(gathered, leaving), seconds_between(leaving, ended)
    moves = counted(leaving, "move") - counted(gathered, "move")
    row: dict[str, object] = {
        "seconds_until_all_attached": gathered["at"],
        "attaches_per_second": round(counted(gathered, "attach") / seconds_between(began, gathered), 1),
        "detaches_per_second": round((counted(ended, "detach") - counted(leaving, "detach")) / detaching, 1),
        "moves_per_second_when_all_attached": round(moves / staying, 1),
        "processor_ms_per_attach": processor_ms(began, gathered, ues),
        "processor_share_when_all_attached": processor_ms(gathered, leaving, 1000 * staying, digits=4),
        "processor_ms_per_detach": processor_ms(leaving, ended, ues),
        "memory_kib_per_ue": per_process(began, gathered, "resident_octets", 1 / 1024 / ues, 1),
    }
    if moves and run.kind == "moving":
        row["processor_ms_per_move"] = processor_ms(gathered, leaving, moves)
    return row


def seconds_between(first: dict[str, object], last: dict[str, object]) -> float:
    """Wall clock."""
    return float(str(last["at"])) - float(str(first["at"]))


def counted(moment: dict[str, object], procedure: str) -> int:
    """How many of a procedure had gone well."""
    succeeded = moment["succeeded"]
    assert isinstance(succeeded, dict)
    return int(succeeded[procedure])


def processor_ms(first: dict[str, object], last: dict[str, object], over: float, digits: int = 2) -> dict[str, float]:
    """Milliseconds of processor time for each of so many, by process."""
    return per_process(first, last, "processor_seconds", 1000 / over, digits)


def per_process(
    first: dict[str, object], last: dict[str, object], what: str, factor: float, digits: int
) -> dict[str, float]:
    """The difference by process, fleet processes together, and of all."""
    before, after = first[what], last[what]
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    found: dict[str, float] = {}
    for name, value in after.items():
        group = "ues" if name.startswith("fleet-") else name
        found[group] = found.get(group, 0.0) + (value - before[name]) * factor
    return {name: round(value, digits) for name, value in {**found, "all": sum(found.values())}.items()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--costs", type=int, default=COSTS, help="UEs of the runs still and moving; 0: none.")
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    runs = [Run(kind=kind, size=options.costs, rate=options.rate, processes=1) for kind in ("still", "moving")]
    runs = runs if options.costs else []
    runs += [Run(kind="living", size=size, rate=options.rate, processes=options.processes) for size in options.sizes]
    rows: list[dict[str, object]] = []
    for run in runs:
        before = os.getloadavg()
        row = row_of(run, run.summary()) | {"load_average": {"before": before, "after": os.getloadavg()}}
        rows.append(row)
        print(json.dumps(row), flush=True)
    result: dict[str, object] = {
        "machine": {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()},
        "note": "UEs, gateway and AAA server on the same cores",
        "runs": rows,
    }
    if options.output is not None:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
