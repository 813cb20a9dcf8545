"""Coverage-guided fuzzing of ``tests.fuzz.targets`` (atheris, which is libFuzzer with Python's branches as coverage).

::

    python -m tests.fuzz.guided                         every target for a minute
    python -m tests.fuzz.guided --seconds 600 ikev2_auth
    python -m tests.fuzz.guided --input FILE TARGET      repeat a finding
    python -m tests.fuzz.guided ikev2_auth,ikev2_mobike  both in one process, chosen by the first octet of an input

A target runs in a process of its own; what it finds is written to ``run/fuzz/TARGET``, where the corpus that it
has grown is kept too. The last line of each says how many inputs were run and how far they reached.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path("run/fuzz")
LONGEST_INPUT = 4096


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run of a target came to; ``finding`` is its output when it found something."""

    target: str
    executions: int
    coverage: int
    finding: str | None


def run(target: str, directory: Path, *, seconds: int | None = None, executions: int | None = None) -> Outcome:
    """Fuzz a target in a process of its own, for a time or a number of inputs; seed 1, so that it repeats."""
    place = directory / target.replace(",", "+")
    place.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}"] if seconds is not None else []
    limits += [f"-runs={executions}"] if executions is not None else []
    finished = subprocess.run(
        [
            sys.executable, "-m", "tests.fuzz.guided", "--child", target, str(place),
            "-seed=1", f"-max_len={LONGEST_INPUT}", "-timeout=20", "-print_final_stats=1",
            f"-artifact_prefix={place}/finding-", *limits,
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    lines = (finished.stdout + finished.stderr).splitlines(keepends=True)
    output = "".join([line for line in lines if not line.startswith("INFO: Instrumenting")])
    done = re.search(r"stat::number_of_executed_units:\s*(\d+)", output)
    covered = re.findall(r"cov: (\d+)", output)
    return Outcome(
        target=target,
        executions=int(done.group(1)) if done else 0,
        coverage=int(covered[-1]) if covered else 0,
        finding=None if finished.returncode == 0 else output[-4000:],
    )


def child(target: str, arguments: Sequence[str]) -> None:
    """The fuzzing process: everything of the product's is instrumented while it is imported."""
    import atheris  # type: ignore[import-not-found, unused-ignore]

    with atheris.instrument_imports(include=["protocols", "epdg", "ue"]):
        from tests.fuzz import targets
    corpus = Path(arguments[0]) / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, octets in enumerate(targets.seeds(target)):
        (corpus / f"seed-{number:04}").write_bytes(octets[:LONGEST_INPUT])
    atheris.Setup([sys.argv[0], str(corpus), *arguments[1:]], targets.target(target))
    atheris.Fuzz()


def main() -> int:
    """Run the targets asked for one after another; status 1 when one found something."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
        return 0
    from tests.fuzz import targets

    parser = argparse.ArgumentParser(prog="tests.fuzz.guided", description="coverage-guided fuzzing")
    parser.add_argument("targets", nargs="*", help=f"all when none is named: {', '.join(targets.TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--input", type=Path, help="run a target once, on this file")
    asked = parser.parse_args()
    unknown = {part for name in asked.targets for part in name.split(",")} - targets.TARGETS.keys()
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    names = asked.targets or list(targets.TARGETS)
    if asked.input is not None:
        for name in names:
            targets.target(name)(asked.input.read_bytes())
        return 0
    findings = 0
    for name in names:
        outcome = run(name, DIRECTORY, seconds=asked.seconds)
        findings += outcome.finding is not None
        print(f"{name:<28} {outcome.executions:>9} inputs, {outcome.coverage:>6} branches covered")
        if outcome.finding is not None:
            print(outcome.finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
