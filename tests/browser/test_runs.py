"""Runs of the laboratory on the page: the list, and one of them with its timeline."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.axe import complaints, require_axe
from tests.browser.chromium import Sitting, require_chromium
from tests.nodes.dashboards_world import site

require_chromium()

from playwright.sync_api import expect  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``lab run`` leaves of a schedule whose expectations hold, and of one whose do not."""
    directory = tmp_path_factory.mktemp("results")
    strict = directory / "strict.yaml"
    strict.write_text(
        "title: Stricter than <b>physics</b>\nduration: 4\naccesses: {a: {up: {delay: 30ms}}, b: {up: {delay: 30ms}}}\n"
        "events:\n  - {at: 0, do: attach}\n  - {at: 2, do: move, to: b, expect: {outage_ms: 1}}\n",
        encoding="utf-8",
    )
    words = [sys.executable, "-m", "lab", "run", "walk-home", str(strict), "--output", str(directory)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return directory


@pytest.fixture
def sitting(browser: Browser, results: Path, tmp_path: Path) -> Iterator[Sitting]:
    """Before a dashboard that knows these results; nothing on the console by the end."""
    with site(tmp_path, f"results: {results}") as running:
        seat = Sitting(browser, running.url, bypass_csp=True)
        yield seat
        seat.close()
    assert seat.complaints == []


def test_runs_of_the_laboratory_are_listed_and_one_is_shown_with_its_timeline(sitting: Sitting) -> None:
    page = sitting.open("/#/runs")
    expect(page.get_by_text("2 runs, 1 with an expectation that did not hold")).to_be_visible()
    held, failed = page.locator("tr[data-run=walk-home-virtual-1]"), page.locator("tr[data-run=strict-virtual-1]")
    expect(held.locator(".outcome.good")).to_have_text("held")
    expect(failed.locator(".outcome.bad")).to_contain_text("failed")
    expect(failed).to_contain_text("Stricter than <b>physics</b>")
    held.get_by_role("link", name="walk-home").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Run walk-home-virtual-1")
    expect(page.locator("#moves")).to_contain_text("office → home")
    expect(page.locator("#checks .outcome.good").first).to_have_text("held")
    picture = page.locator("img.timeline")
    expect(picture).to_have_js_property("complete", True)
    assert picture.evaluate("(image) => image.naturalWidth") > 0
    box = picture.bounding_box()
    assert box is not None
    assert (box["width"] > 600, box["height"] > 300) == (True, True)
    page.get_by_role("link", name="All results").click()
    failed.get_by_role("link").first.click()
    expect(page.locator("#checks .outcome.bad").first).to_contain_text("failed")


def test_axe_finds_nothing(sitting: Sitting) -> None:
    require_axe()
    page = sitting.open("/#/runs")
    page.get_by_role("table").first.wait_for()
    found = complaints(page)
    sitting.open("/#/runs/walk-home-virtual-1")
    page.get_by_role("img").last.wait_for()
    assert found + complaints(page) == []
