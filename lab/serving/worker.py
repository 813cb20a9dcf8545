"""A process that plays one schedule once: ``python -m lab.serving.worker SCHEDULE STAGE SEED DIRECTORY NAME``.

What happens goes to standard output, a JSON object on a line: ``{"step": …}``, at the end ``{"result": …}`` or
``{"error": …}``. The result's files stand in DIRECTORY as NAME.json, .svg and .png, or none of them does. SIGTERM ends
it as Ctrl-C does, with everything that it has started.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from lab.mobility.command import open_stage
from lab.mobility.loader import load_schedule
from lab.mobility.player import play
from lab.mobility.plot import write_plots
from lab.mobility.result import PacketSeries, RunResult
from lab.mobility.stage_name import StageName
from lab.run_directory import RunDirectory
from protocols.errors import BackendError, StackError
from protocols.io.process import run_command_line
from protocols.trace.records import JsonValue, Kind, TraceRecord

TEXT_CHARACTERS = 500  # of a step: what a peer has written may be in it
EXIT_FAILED, EXIT_STOPPED = 1, 130
SCHEDULE = "schedule"  # whose events they are that no node tells


def _tell(kind: str, value: JsonValue) -> None:
    print(json.dumps({kind: value}, ensure_ascii=True), flush=True)


def _step(at: float, node: str, name: str, text: str) -> None:
    _tell("step", {"at": round(at, 3), "node": node, "name": name, "text": text[:TEXT_CHARACTERS]})


def _watch(at: float, record: TraceRecord) -> None:
    if record.kind is Kind.EVENT:
        _step(at, record.node, str(record.body.get("name")), str(record.body.get("text")))


def _write(result: RunResult, series: PacketSeries, directory: Path, name: str) -> None:
    """All files of a result or none; the JSON comes last, by which it is found."""
    try:
        with RunDirectory("result", directory) as temporary:
            stem = Path(temporary) / name
            path = stem.with_name(f"{name}.json")
            path.write_text(result.to_text(), encoding="utf-8")
            for each in (*write_plots(result, series, stem), path):
                each.replace(directory / each.name)
    except OSError as error:
        raise BackendError(f"{directory}: {error.strerror}") from error


def _play(schedule: str, stage: StageName, seed: int, directory: Path, name: str) -> None:
    named = load_schedule(schedule)
    result, series = play(
        named, open_stage(stage), seed, lambda _, at, words: _step(at, SCHEDULE, words.split()[0], words), _watch
    )
    signal.signal(signal.SIGTERM, _interrupt)  # a loop that has ended has put it back
    _write(result, series, directory, name)
    failed: list[JsonValue] = [
        f"{check.subject}: {check.expected}, found {check.found}" for check in result.checks if not check.passed
    ]
    _tell("result", {"name": name, "passed": result.passed, "failed_checks": failed})


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Play; the exit status."""
    schedule, stage, seed, directory, name = sys.argv[1:]
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _play(schedule, StageName(stage), int(seed), Path(directory), name)
    except KeyboardInterrupt:
        return EXIT_STOPPED
    except StackError as error:
        _tell("error", str(error))
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    run_command_line(lambda: sys.exit(main()))
