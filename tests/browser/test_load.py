"""The page with 10,000 sessions and 1,000 events a second for a short time: it paints all along and grows no bounds.

How long things take is measured by ``python -m benchmarks.dashboard``; here nothing depends on the machine's speed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.chromium import aside, require_chromium

require_chromium()

from benchmarks.busy_gateway import address_at  # noqa: E402
from benchmarks.dashboard import PROBE, Observer, busy  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

SECONDS, PARTS = 8.0, 4
HEAP_MAXIMUM = 40e6  # octets after a collection; 10,000 sessions kept as objects would take more
NODES_MAXIMUM = 10_000  # a page of 50 rows has some 1,200; 8 s of rows never let go would be hundreds of thousands


@pytest.mark.timeout(300)
def test_the_list_goes_on_painting_and_does_not_grow_without_bound(browser: Browser, tmp_path: Path) -> None:
    scene = busy(tmp_path)
    dashboards = aside(scene.__enter__)
    try:
        observer = Observer(browser, dashboards, "/#/sessions")
        observer.page.locator("#sessions tr").nth(49).wait_for(timeout=60_000)
        painted = 0
        for _ in range(PARTS):
            seen = observer.watch(SECONDS / PARTS, SECONDS / PARTS)
            assert seen.frames > 0
            (sample,) = seen.samples
            assert sample.heap < HEAP_MAXIMUM
            assert sample.nodes < NODES_MAXIMUM
            painted += len(seen.ages)
        assert painted > 0
        observer.sitting.close()
        assert observer.sitting.complaints == []
    finally:
        aside(scene.__exit__, None, None, None)


PAST, LATE = 5000, 300  # milliseconds


def test_the_probe_counts_what_is_told_from_its_beginning_on_however_late_it_is_painted(browser: Browser) -> None:
    """A session's past comes into view at any time, and says nothing of how long painting takes."""
    page = browser.new_page()
    page.add_init_script(path=PROBE)
    page.goto("about:blank")
    begun = page.evaluate("probe.begin(); performance.timeOrigin + performance.now()")
    page.wait_for_timeout(LATE)
    for wall in (begun - PAST, begun + 1):
        page.evaluate("(text) => document.body.append(text)", f"{address_at(wall / 1000)} ")
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))")
    (age,) = page.evaluate("probe.take()")["ages"]
    assert LATE - 1 <= age < PAST
    page.close()
