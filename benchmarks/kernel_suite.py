"""The tests of the kernel's data plane under Debian's kernel in QEMU as one whole: JSON and a page of the documents.

    python -m benchmarks.kernel_suite [--files NAME ...] [--results benchmarks/results/kernel_suite.json]
                                      [--page docs/kernel.md]

Needs root and what ``make test-long`` installs and fetches. ``seconds`` are the tests' own in the guest, ``ended`` is
when a file's run did. Files that are run replace their entries in ``--results``, the others stay; ``--files`` without a
name runs nothing. The page has the figures of ``benchmarks.kernel_moves``, too. Exit status 1 when a test failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.kernel_moves import RESULTS as MOVES
from tests.peers.guest import DEBIAN_KERNEL, SECONDS

RESULTS = Path("benchmarks/results/kernel_suite.json")
PAGE = Path("docs/kernel.md")
FILES = "tests/interop"
OUTCOMES = ("failure", "error", "skipped")
FIGURES = ("moves", "sent", "refused", "lost", "moves_with_loss", "uncounted", "twice")
HEADER = """# The kernel's data plane under Debian's kernel

Written by `python -m benchmarks.kernel_suite` and `python -m benchmarks.kernel_moves`, from
`benchmarks/results/kernel_suite.json` and `benchmarks/results/kernel_moves.json`. `make test-long` runs the same tests.

## The tests

Linux {kernel} in QEMU without KVM, two virtual processors on {processors} that others used as well. The
time is that of the tests alone, without boots and what is set up for them.

| | tests | passed | failed | skipped | s | ended (UTC) |
|---|---|---|---|---|---|---|
"""
MOVES_HEADER = """
## Moves under full traffic

{machine}, {suite}. One end moves its child SA to another path while one end sends as fast as it can; the other end
follows when nothing is sent. *Refused*: the sender's system call failed. *Lost*: it did not, and the packet did not
come. *Uncounted*: it came, and `inbound_packets` does not have it. *Twice*: of all packets, replayed to the gateway
afterwards, those that it took again. *Beside*: an older SA of the same selectors is there, as in the midst of a rekey.

| mover | sender | UDP | beside | moves | sent | refused | lost | moves with a loss | uncounted | twice |
|---|---|---|---|---|---|---|---|---|---|---|
"""


def outcome(case: ElementTree.Element) -> tuple[str, str]:
    """What a test has come to, and why."""
    for kind in OUTCOMES:
        found = case.find(kind)
        if found is not None:
            return ("skipped" if kind == "skipped" else "failed"), found.get("message", "").partition("\n")[0]
    return "passed", ""


def measured(xml: Path) -> list[dict[str, Any]]:
    """What is known of each file."""
    files: dict[str, dict[str, Any]] = {}
    for case in ElementTree.parse(xml).iter("testcase"):
        words = case.get("classname", "").split(".")
        name = next(word for word in words if word.startswith("test_"))
        file = files.setdefault(name, {"file": name, "seconds": 0.0, "outcomes": Counter(), "told": []})
        what, why = outcome(case)
        spent = case.find(f"properties/property[@name='{SECONDS}']")
        file["seconds"] += 0.0 if spent is None else float(spent.get("value", "0"))
        file["outcomes"][what] += 1
        if what != "passed":
            file["told"].append({"test": case.get("name"), "outcome": what, "why": why})
    return [{**file, "seconds": round(file["seconds"])} for file in files.values()]


def played(files: Sequence[str]) -> list[dict[str, Any]]:
    """Run them."""
    with tempfile.TemporaryDirectory() as directory:
        xml = Path(directory, "all.xml")
        words = ["pytest", "--long", "-q", "-p", "no:cacheprovider", "-k", "debian", f"--junitxml={xml}"]
        subprocess.run([sys.executable, "-m", *words, *(f"{FILES}/{name}.py" for name in files)], check=False)
        ended = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        return [{**each, "ended": ended} for each in measured(xml)]


def brought_together(former: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the same files what was found now."""
    files = {each["file"]: each for each in (*former, *found)}
    kernel = next((DEBIAN_KERNEL / "lib" / "modules").iterdir()).name
    return {"kernel": kernel, "processors": os.cpu_count(), "files": [files[name] for name in sorted(files)]}


def page(suite: Mapping[str, Any], moves: Mapping[str, Any]) -> str:
    """As Markdown."""
    text = HEADER.format(**suite)
    total: Counter[str] = Counter()
    for file in suite["files"]:
        counted = Counter(file["outcomes"])
        total += counted
        text += _row(f"`{file['file']}`", counted, file["seconds"], file["ended"])
    text += _row("all", total, sum(file["seconds"] for file in suite["files"]), "")
    if suite.get("note"):
        text += f"\n{suite['note']}\n"
    missing = {path.stem for path in Path(FILES).glob("test_xfrm_*.py")} - {file["file"] for file in suite["files"]}
    if missing:
        text += f"\nNot run as they are now: {', '.join(f'`{name}`' for name in sorted(missing))}.\n"
    told = [(file["file"], each) for file in suite["files"] for each in file["told"]]
    if told:
        text += "\n" + "".join(f"- `{file}::{each['test']}` {each['outcome']}: {each['why']}\n" for file, each in told)
    text += MOVES_HEADER.format(**moves)
    for row in moves["rows"]:
        said = ["yes" if row[name] else "no" for name in ("encapsulation", "beside")]
        figures = [str(row[name]) for name in FIGURES]
        cells = [row["mover"], row["sender"], *said, *figures]
        text += f"| {' | '.join(cells)} |\n"
    return text


def _row(name: str, counted: Counter[str], seconds: float, ended: str) -> str:
    number = sum(counted[each] for each in ("passed", "failed", "skipped"))
    outcomes = " | ".join(str(counted[each]) for each in ("passed", "failed", "skipped"))
    return f"| {name} | {number} | {outcomes} | {seconds} | {ended} |\n"


def main() -> None:
    """Run, write; fail as a test did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--files", nargs="*", default=sorted(path.stem for path in Path(FILES).glob("test_xfrm_*.py")))
    options = parser.parse_args()
    suite = json.loads(options.results.read_text()) if options.results.exists() else {"files": []}
    if options.files:
        suite = brought_together(suite["files"], played(options.files))
        options.results.write_text(json.dumps(suite, indent=1) + "\n")
    options.page.write_text(page(suite, json.loads(MOVES.read_text())))
    sys.exit(any(file["outcomes"].get("failed") for file in suite["files"]))


if __name__ == "__main__":
    main()
