"""Pictures of every page, of nodes that live: ``python -m tests.browser.screenshots docs/images``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dashboards.tokens import Role
from tests.browser.chromium import PHONE, Sitting, chromium
from tests.browser.nodes import USER, Nodes, nodes
from tests.nodes.test_ue_node import CORE_HOST

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SETTLED = 2500.0  # milliseconds in which plots get points and animations end
OVERVIEW_SETTLED = 15_000.0  # its plots have a point every two seconds
DARK = ("overview", "session", "refused")  # also shown in the dark
NARROW = ("overview", "sessions", "session")  # also shown on a phone


def story(running: Nodes) -> dict[str, str]:
    """Something to look at: a session with traffic that has moved twice, a refused one; addresses by picture."""
    refused = running.refused()
    attached = running.attach()
    running.of_ue("ue.traffic.start", destination=CORE_HOST, kind="voice")
    running.of_ue("ue.move", to="wifi-b")
    running.of_ue("ue.move", to="wifi-a")
    return {
        "overview": "/#/",
        "sessions": "/#/sessions",
        "session": f"/#/sessions/{attached}",
        "refused": f"/#/sessions/{refused}",
        "lab": "/#/lab",
        "ues": "/#/ues",
        "runs": "/#/runs",
        "run": "/#/runs/walk-home-virtual-1",
        "subscribers": "/#/subscribers",
        "subscriber": f"/#/subscribers/{USER.imsi}?node=aaa",
        "faults": "/#/faults",
        "nodes": "/#/nodes",
        "audit": "/#/audit",
    }


def shoot(browser: Browser, running: Nodes, pages: dict[str, str], directory: Path) -> None:
    """Every page in the light, some in the dark and on a phone."""
    token = running.token("bench", Role.OPERATOR)
    for suffix, names, options in (
        ("", tuple(pages), {}),
        ("-dark", DARK, {"color_scheme": "dark"}),
        ("-phone", NARROW, {"viewport": PHONE, "device_scale_factor": 2}),
    ):
        sitting = Sitting(browser, running.dashboards.url, **options)
        page = sitting.open(f"/sign-in?token={token}")
        for name in names:
            page.goto(pages[name])
            page.locator("h1").wait_for()
            page.wait_for_timeout(OVERVIEW_SETTLED if (name, suffix) == ("overview", "") else SETTLED)
            page.screenshot(path=directory / f"dashboard-{name}{suffix}.png")
        sitting.close()
        for complaint in sitting.complaints:
            print(complaint, file=sys.stderr)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        results = Path(name, "results")
        words = [sys.executable, "-m", "lab", "run", "walk-home", "commuter-train", "--output", str(results)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        place = Path(name, "nodes")
        place.mkdir()
        extra = f"results: {results}\naudit_log: audit.jsonl"
        with nodes(place, extra) as running, chromium() as browser:
            shoot(browser, running, story(running), directory)


if __name__ == "__main__":
    main()
