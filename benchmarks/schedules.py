"""Every shipped schedule of moves on every stage it lists: what each move cost, as JSON and as a page of the documents.

    python -m benchmarks.schedules [--stages virtual loopback namespaces] [--backends python compiled kernel]
                                   [--schedules NAME ...] [--processes 1] [--results benchmarks/results/schedules.json]
                                   [--page docs/schedules.md]

Runs that are played replace their entries in ``--results``, the others stay; the page is written from all of them.
``--schedules`` without a name plays nothing and writes the page anew. Namespaces need root, and are played with every
one of ``--backends`` that is there; with Python among them, schedules with a NAT once more behind the kernel's own.
In user-mode-linux (``tests/peers/inkernel.sh -w benchmarks -w docs``) there is the kernel's ESP as well. Exit status 1
when an expectation failed. In real time a busy machine adds to outages: play with nothing else running.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from lab.mobility.command import open_stage
from lab.mobility.loader import load_schedule, shipped
from lab.mobility.namespaces import manages
from lab.mobility.player import play
from lab.mobility.result import DirectionFigures, MoveResult, Opinions
from lab.mobility.schedule import Schedule
from lab.mobility.stage_name import BackendName, NatName, StageName
from lab.router import why_no_nat
from protocols.dataplane.choice import Needs, why_not
from protocols.dataplane.port import Backend
from protocols.errors import BackendError
from protocols.esp.tunnel import DEFAULT_POLICY

RESULTS = Path("benchmarks/results/schedules.json")
PAGE = Path("docs/schedules.md")
DASH = "–"
BACKENDS = [backend.value for backend in Backend]
BEHIND_NFTABLES = f"{StageName.NAMESPACES.value}, {BackendName.PYTHON.value}, NAT by {NatName.NFTABLES.value}"
PLACES = [
    StageName.VIRTUAL.value,
    StageName.LOOPBACK.value,
    *(f"{StageName.NAMESPACES.value}, {backend}" for backend in BACKENDS),
    BEHIND_NFTABLES,
]
HEADER = """# What moves cost

Written by `python -m benchmarks.schedules`, which plays every shipped schedule (`lab list`) on every stage it lists;
`make test-long` holds them to their expectations. The figures are from `benchmarks/results/schedules.json`.
A cell is *uplink/downlink*; a dash: the schedule is not played there, or nothing was measured. Virtual time is exact
and the same every time; the others have the machine's own delays in them ({machine}).
Columns of namespaces say what carried ESP there; NATs are the laboratory's own unless the column says nftables.

**Outage**: the longest silence at the receiver around a move, in ms; an undisturbed stream shows 20 ms.
**Lost**: packets of 50 a second. **MOS**: while the move lasts (E-model), at least 4 s of speech.
"""


def measured(name: str, stage: StageName, backend: BackendName, nat: NatName) -> dict[str, Any]:
    """Play one, and what the documents want of it."""
    played = {"schedule": name, "stage": stage.value, "backend": backend.value, "nat": nat.value}
    try:
        result, _ = play(load_schedule(name), open_stage(stage, backend, nat), None, lambda schedule, at, words: None)
    except BackendError as error:
        return {**played, "passed": False, "failed": [str(error)], "moves": []}
    return {
        **played,
        "seed": result.seed,
        "passed": result.passed,
        "failed": [
            f"{check.subject}: {check.found}, expected {check.expected}" for check in result.checks if not check.passed
        ],
        "attach_ms": [attach.ms for attach in result.attaches],
        "sent": [result.uplink.sent, result.downlink.sent],
        "lost": [result.uplink.lost, result.downlink.lost],
        "longest_silence_ms": [result.uplink.outage_ms, result.downlink.outage_ms],
        "mos": [result.uplink.mos, result.downlink.mos],
        "leaks": list(result.leaks),
        "moves": [_move(move) for move in result.moves],
    }


def _place(run: Mapping[str, Any]) -> str:
    """The column of a run; runs of former days were Python's."""
    backend = run.get("backend", BackendName.PYTHON.value)
    if run.get("nat") == NatName.NFTABLES.value:
        return BEHIND_NFTABLES
    return f"{run['stage']}, {backend}" if run["stage"] == StageName.NAMESPACES.value else str(run["stage"])


def _move(move: MoveResult) -> dict[str, Any]:
    return {
        "from": move.origin,
        "to": move.target,
        "cause": move.cause,
        "outcome": move.outcome,
        "update_ms": move.update_ms,
        "check_ms": move.check_ms,
        "requests": move.requests,
        "retransmissions": move.retransmissions,
        "round_trips": move.round_trips,
        "outage_ms": [_outage(move.uplink), _outage(move.downlink)],
        "lost": [None if each is None else each.lost for each in (move.uplink, move.downlink)],
        "mos": _mos(move.mos_during),
        "kept": bool(move.inner_address_unchanged and move.spis_unchanged),
    }


def _outage(figures: DirectionFigures | None) -> float | None:
    return None if figures is None else figures.outage_ms


def _mos(opinions: Opinions) -> list[float | None]:
    return [opinions.uplink, opinions.downlink]


# --- the page -----------------------------------------------------------------------------------------


def page(document: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    runs = {(run["schedule"], _place(run)): run for run in document["runs"]}
    names = sorted({name for name, _ in runs})
    held = sum(run["passed"] for run in runs.values())
    note = [f"{document['note']}\n"] if document.get("note") else []
    parts = [
        HEADER.format(machine=document["machine"]),
        *note,
        f"{held} of {len(runs)} runs held all their expectations.\n",
    ]
    places = [place for place in PLACES if any(place == each for _, each in runs)]
    columns = [f"{place}: outage; lost; MOS" for place in places]
    parts.append(_table(["Schedule", "Move", *columns], _rows(runs, names, places, _cost)))
    parts.append(
        "\n## Signalling\n\n**Update**: from the UE's decision to the gateway's answer; **check**: return routability "
        "(COOKIE2), both in ms. **Requests**: of the UE, what was sent again behind the plus. **Trips**: exchanges "
        "of either end that were answered until the move had settled.\n"
    )
    columns = [f"{place}: update; check; requests; trips" for place in places]
    parts.append(_table(["Schedule", "Move", *columns], _rows(runs, names, places, _signalling)))
    failures = [
        f"- {name} ({place}): {words}" for (name, place), run in sorted(runs.items()) for words in run["failed"]
    ]
    if failures:
        parts.append("\n## Expectations that failed\n\n" + "\n".join(failures))
    return "\n".join(parts) + "\n"


def _rows(runs: Mapping[tuple[str, str], Any], names: list[str], places: list[str], cell: Any) -> Iterator[list[str]]:
    for name in names:
        of_places = [runs.get((name, place)) for place in places]
        count = max(len(run["moves"]) for run in of_places if run is not None)
        for number in range(max(count, 1)):
            moves = [
                run["moves"][number] if run is not None and number < len(run["moves"]) else None for run in of_places
            ]
            known = next((move for move in moves if move is not None), None)
            words = "no move" if known is None else f"{known['from']} → {known['to']}"
            if known is not None and known["outcome"] != "completed":
                words += f" ({known['outcome']})"
            cells = [DASH if run is None else cell(run, move) for run, move in zip(of_places, moves, strict=True)]
            yield [name if number == 0 else "", words, *cells]


def _cost(run: Mapping[str, Any], move: Mapping[str, Any] | None) -> str:
    silence = run["longest_silence_ms"] if move is None else move["outage_ms"]
    shown = run if move is None else move
    return f"{_pair(silence, 0)}; {_pair(shown['lost'], 0)}; {_pair(shown['mos'], 2)}"


def _signalling(run: Mapping[str, Any], move: Mapping[str, Any] | None) -> str:
    del run
    if move is None:
        return DASH
    trips = f"{move['requests']}+{move['retransmissions']}; {move['round_trips']}"
    return f"{_number(move['update_ms'], 1)}; {_number(move['check_ms'], 1)}; {trips}"


def _pair(values: list[float | None], digits: int) -> str:
    return "/".join(_number(value, digits) for value in values)


def _number(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def _table(titles: list[str], rows: Iterator[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _can_be_played(schedule: Schedule, stage: StageName, backend: BackendName) -> bool:
    return stage in schedule.stages and not (backend is BackendName.KERNEL and manages(schedule))


def _is_there(backend: Backend) -> bool:
    reason = why_not(backend, Needs(policy=DEFAULT_POLICY))
    if reason is not None:
        print(f"not with {backend.value}: {reason}", flush=True)
    return reason is None


def _behind_nftables(names: list[str]) -> list[tuple[str, StageName, BackendName, NatName]]:
    reason = why_no_nat()
    if reason is not None:
        print(f"not behind nftables: {reason}", flush=True)
        return []
    return [
        (name, StageName.NAMESPACES, BackendName.PYTHON, NatName.NFTABLES)
        for name in names
        if load_schedule(name).schedule.has_nat and StageName.NAMESPACES in load_schedule(name).schedule.stages
    ]


def main() -> int:
    """Play, write, tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    every = [stage.value for stage in StageName]
    parser.add_argument("--stages", nargs="+", choices=every, default=every)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--schedules", nargs="*", choices=shipped(), default=None)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    names = shipped() if arguments.schedules is None else arguments.schedules
    backends = {stage: [BackendName.PYTHON] for stage in StageName}
    backends[StageName.NAMESPACES] = [BackendName(each) for each in arguments.backends if _is_there(Backend(each))]
    played = [
        (name, stage, backend, NatName.LAB)
        for stage in map(StageName, arguments.stages)
        for backend in backends[stage]
        for name in names
        if _can_be_played(load_schedule(name).schedule, stage, backend)
    ]
    if StageName.NAMESPACES.value in arguments.stages and BackendName.PYTHON in backends[StageName.NAMESPACES]:
        played += _behind_nftables(names)
    known = json.loads(arguments.results.read_text()) if arguments.results.exists() else {"runs": []}
    runs = {(run["schedule"], _place(run)): run for run in known["runs"]}
    machine = f"{os.cpu_count()} processors, Python {platform.python_version()}"

    def write() -> None:
        document = {"machine": machine, "note": known.get("note"), "runs": [runs[pair] for pair in sorted(runs)]}
        arguments.results.write_text(json.dumps(document, indent=1) + "\n")
        arguments.page.write_text(page(document), encoding="utf-8")

    write()
    with ProcessPoolExecutor(arguments.processes) as pool:
        for run in pool.map(measured, *zip(*played, strict=True)) if played else ():
            runs[run["schedule"], _place(run)] = run
            print(run["schedule"], _place(run), "held" if run["passed"] else "; ".join(run["failed"]), flush=True)
            write()
    return 0 if all(run["passed"] for run in runs.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
