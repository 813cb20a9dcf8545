"""How many UEs a fleet attaches per second, and what one costs in memory, against a gateway of this machine's own.

    python benchmarks/fleet.py [--sizes 100 1000 5000] [--rate 200] [--processes 2] [--slowest 15]
                               [--output benchmarks/results/fleet.json]
    python benchmarks/fleet.py --summaries FILE… --output …      (of runs made before with `lab fleet --output FILE`)

Every size is a run of ``lab fleet --with-nodes --schedule stay``: everybody attaches as fast as the nodes can take it,
stays, and detaches at the end. The larger runs in ``results`` were made with ``fleet_gather.yaml`` and
``fleet_short.yaml``, in which everybody talks and moves as well. Memory of a UE is the difference of the engine's
peaks between the largest and the smallest size. UEs, gateway and AAA server share the machine's cores, so that this
is the speed of all three together: what the gateway can take is to be measured from another machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = (100, 1000)
RATE = 200.0
PLATEAU = 3.0  # seconds that everybody is attached for
SLOWEST = 15.0  # attaches per second that a machine of interest makes at least: bounds a run
NETWORK = "127.0.83.0/24"  # beside whoever runs a fleet with nodes of its own here


def run(size: int, rate: float, processes: int, slowest: float) -> dict[str, object]:
    """The summary of one run; the load of the machine before and after stands in it."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "summary.json"
        duration = size / min(rate, slowest) + PLATEAU
        before = os.getloadavg()
        words = ["--with-nodes", "--schedule", "stay", "--count", str(size), "--rate", str(rate)]
        words += ["--duration", str(duration), "--processes", str(processes), "--output", str(output)]
        words += ["--network", NETWORK]
        done = subprocess.run(
            [sys.executable, "-m", "lab", "fleet", *words], check=False, capture_output=True, text=True
        )
        if not output.exists():
            raise SystemExit(done.stdout + done.stderr)
        summary = json.loads(output.read_text())
    assert isinstance(summary, dict)
    summary["load_average"] = {"before": before, "after": os.getloadavg()}
    return summary


def row_of(summary: dict[str, object]) -> dict[str, object]:
    """What a run came to: counts of the UEs and of both nodes, paces, latencies, memory."""
    figures, attaches, plan = summary["figures"], summary["attaches_per_second"], summary["plan"]
    memory, nodes = summary["memory_octets"], summary["nodes"]
    assert isinstance(figures, dict)
    assert isinstance(attaches, dict)
    assert isinstance(plan, dict)
    assert isinstance(memory, list)
    assert isinstance(nodes, dict)
    latencies = figures["latencies"]
    return {
        "ues": figures["begun"],
        "attached": figures["outcomes"].get("attach", {}).get("success", 0),
        "plan": {key: plan[key] for key in ("count", "rate", "duration", "schedule", "personas", "processes")},
        "seconds": summary["seconds"],
        "failures": summary["failures"],
        "outcomes": figures["outcomes"],
        "attaches_by_persona": figures["attaches_by_persona"],
        "lost": figures["lost"],
        "packets": figures["packets"],
        "both_ends": summary.get("both_ends"),
        "load_average": summary.get("load_average"),
        "gateway": nodes["epdg"]["totals"],
        "sessions_left": {name: status["sessions"] for name, status in nodes.items()},
        "attaches_per_second_peak": attaches["peak"],
        **{name: latencies[name] for name in ("attach", "move", "detach", "lateness") if latencies[name]["count"]},
        "engine_memory_octets": sum(memory),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--slowest", type=float, default=SLOWEST, help="Attaches per second to wait for, at least.")
    parser.add_argument("--summaries", type=Path, nargs="+")
    parser.add_argument("--load", help="What else the machine was at, in words.")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    summaries = (
        (run(size, options.rate, options.processes, options.slowest) for size in options.sizes)
        if options.summaries is None
        else (json.loads(file.read_text(encoding="utf-8")) for file in options.summaries)
    )
    for summary in summaries:
        row = row_of(summary)
        rows.append(row)
        print(json.dumps(row), flush=True)
    result: dict[str, object] = {
        "machine": {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()},
        "load_average": os.getloadavg(),
        "note": "UEs, gateway and AAA server on the same cores",
        "other_load": options.load,
        "runs": rows,
    }
    if len(rows) > 1 and options.summaries is None:
        first, last = rows[0], rows[-1]
        octets = int(str(last["engine_memory_octets"])) - int(str(first["engine_memory_octets"]))
        result["memory_octets_per_ue"] = octets // (int(str(last["ues"])) - int(str(first["ues"])))
        print("memory per UE:", result["memory_octets_per_ue"], "octets")
    if options.output is not None:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
