"""Pictures of every page, of nodes that live: ``python -m tests.browser.screenshots docs/images``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashboards.tokens import Role
from tests.browser.chromium import PHONE, WIDE, Sitting, aside, chromium
from tests.browser.nodes import USER, Nodes, nodes
from tests.nodes.test_ue_node import CORE_HOST
from tests.peers.lab_node import LabProcess
from tests.peers.processes import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SETTLED = 2500.0  # milliseconds in which plots get points and animations end
OVERVIEW_SETTLED = 15_000.0  # its plots have a point every two seconds
SAMPLED = 9000.0  # the traffic of a session has a sample every two seconds
HAPPENED = 8.0  # seconds of a run in which something has happened
TALL, HIGH = {"width": 1440, "height": 1500}, {"width": 1280, "height": 1240}
RUN = "commuter-train"  # half a minute on loopback, so that it is still going on when its pictures are taken


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A page; ``ready``: what is done there before, ``dark``, ``phone``: also shown so."""

    path: str
    ready: Callable[[Page], object] = lambda _: None
    size: dict[str, int] | None = None
    dark: bool = False
    phone: bool = False
    settled: float = SETTLED


def story(running: Nodes, lab: LabProcess) -> dict[str, Picture]:
    """Something to look at: a session with traffic that has moved twice, refused ones, runs of the laboratory."""
    refused = running.refused()
    attached = running.attach()
    running.of_ue("ue.traffic.start", destination=CORE_HOST, kind="voice")
    running.of_ue("ue.move", to="wifi-b")
    running.of_ue("ue.move", to="wifi-a")
    played = aside(lab.run, "walk-home")
    aside(lab.over, played)
    return {
        "overview": Picture(path="/#/", dark=True, phone=True, settled=OVERVIEW_SETTLED),
        "lab": Picture(path="/#/lab", ready=lambda _: aside(_running, lab)),
        "lab-running": Picture(path="/#/lab", ready=lambda page: page.locator("#lab-runs a").first.click()),
        "lab-run": Picture(path=f"/#/lab/runs/{played}", ready=_plotted, size=TALL, dark=True, phone=True),
        "sessions": Picture(path="/#/sessions", phone=True),
        "attempts": Picture(path="/#/attempts", dark=True, phone=True),
        "session": Picture(path=f"/#/sessions/{attached}", settled=SAMPLED, dark=True, phone=True),
        "message": Picture(path=f"/#/sessions/{attached}", ready=_message, size=HIGH, settled=SAMPLED),
        "refused": Picture(path=f"/#/sessions/{refused}", dark=True, phone=True),
        "ues": Picture(path="/#/ues", phone=True),
        "runs": Picture(path="/#/runs"),
        "subscribers": Picture(path="/#/subscribers", phone=True),
        "subscriber": Picture(path=f"/#/subscribers/{USER.imsi}?node=aaa", phone=True),
        "subscriber-editor": Picture(
            path=f"/#/subscribers/{USER.imsi}?node=aaa",
            ready=lambda page: page.locator("#change-subscriber").click(),
            dark=True,
            phone=True,
        ),
        "faults": Picture(path="/#/faults"),
        "nodes": Picture(path="/#/nodes", phone=True),
        "audit": Picture(path="/#/audit"),
    }


def _running(lab: LabProcess) -> None:
    """A run is going on, and so far that there is something to see."""
    wanted = lab.run(RUN, "loopback")

    def happened() -> bool:
        at = lab.call("lab.get", id=wanted)["at"]
        return isinstance(at, float) and at > HAPPENED

    wait_until(happened, what="the run", timeout=120)


def _plotted(page: Page) -> None:
    """The run's picture is there."""
    page.locator("img.timeline").evaluate("(image) => image.decode()")


def _message(page: Page) -> None:
    """The first message is open."""
    page.locator(".ladder .item").first.focus()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.evaluate("window.scrollTo(0, 0)")


def shoot(browser: Browser, running: Nodes, pictures: dict[str, Picture], directory: Path) -> None:
    """Every page in the light, some in the dark and on a phone."""
    token = running.token("bench", Role.OPERATOR)
    kinds: tuple[tuple[str, list[str], dict[str, Any]], ...] = (
        ("", list(pictures), {}),
        ("-dark", [name for name, each in pictures.items() if each.dark], {"color_scheme": "dark"}),
        (
            "-phone",
            [name for name, each in pictures.items() if each.phone],
            {"viewport": PHONE, "device_scale_factor": 2},
        ),
    )
    for suffix, names, options in kinds:
        sitting = Sitting(browser, running.dashboards.url, **options)
        page = sitting.open(f"/sign-in?token={token}")
        for name in names:
            picture = pictures[name]
            if suffix != "-phone":
                page.set_viewport_size(picture.size or WIDE)
            page.goto("about:blank")
            page.goto(picture.path)
            page.locator("h1").wait_for()
            picture.ready(page)
            page.wait_for_timeout(picture.settled if not suffix else SETTLED)
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
        for place in ("lab", "nodes"):
            Path(name, place).mkdir()
        with LabProcess(Path(name, "lab")) as lab:
            extra = f"results: {lab.results}\naudit_log: audit.jsonl"
            with nodes(Path(name, "nodes"), extra, lab=("lab", lab.control)) as running, chromium() as browser:
                shoot(browser, running, story(running, lab), directory)


if __name__ == "__main__":
    main()
