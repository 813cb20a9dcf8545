"""Seconds of an import of subscribers from a vendor's CSV, in clear and sealed, new and over older ones.

    python benchmarks/subscriber_import.py [--subscribers 100000] [--output benchmarks/results/import.json]

Each run is ``aaa subscriber import`` as a process of its own over SQLite in a temporary directory: ``cpu`` is what it
used, ``seconds`` what passed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def write_cards(file: Path, count: int) -> None:
    """A CSV with keys that look like keys."""
    with file.open("w") as opened:
        opened.write("IMSI;Ki;OPc;ICCID;MSISDN\n")
        for number in range(count):
            keys = hashlib.sha256(str(number).encode()).hexdigest()
            opened.write(f"00101{number:010d};{keys[:32]};{keys[32:]};8988{number:015d};49171{number:08d}\n")


def measured(*words: str) -> dict[str, float]:
    """One ``aaa`` command."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "aaa", *words], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": round(time.perf_counter() - start, 2), "cpu": round(used, 2)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--subscribers", type=int, default=100_000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        cards, key = f"{directory}/cards.csv", f"{directory}/aaa.key"
        write_cards(Path(cards), arguments.subscribers)
        measured("master-key", "init", key)
        clear, sealed = f"sqlite:///{directory}/clear.db", f"sqlite:///{directory}/sealed.db"
        under = ("--master-keys", key)
        results = {
            "import": measured("subscriber", "import", cards, "--database", clear),
            "import sealed": measured("subscriber", "import", cards, "--database", sealed, *under),
            "import sealed over older": measured(
                "subscriber", "import", cards, "--replace", "--database", sealed, *under
            ),
            "rekey-database": measured("rekey-database", "--database", clear, *under),
            "export yaml": measured(
                "subscriber", "export", f"{directory}/all.yaml", "--secrets", "--database", sealed, *under
            ),
            "import yaml": measured(
                "subscriber", "import", f"{directory}/all.yaml", "--replace", "--database", sealed, *under
            ),
        }
    text = json.dumps(
        {
            "subscribers": arguments.subscribers,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "results": results,
        },
        indent=1,
    )
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
