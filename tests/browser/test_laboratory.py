"""A schedule of one of two laboratories is started on the page, watched, and its result shown."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.chromium import aside, require_chromium
from tests.browser.seat import Seat
from tests.nodes.dashboards_world import TOKEN, site
from tests.nodes.test_lab_serve import SHORT
from tests.peers.lab_node import LabProcess

require_chromium()

from playwright.sync_api import expect  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


def test_a_schedule_is_run_watched_and_its_result_shown(browser: Browser, tmp_path: Path) -> None:
    own = tmp_path / "lab" / "own"
    own.mkdir(parents=True)
    (own / "short.yaml").write_text(SHORT, encoding="utf-8")
    (tmp_path / "other").mkdir()
    lab, other = LabProcess(tmp_path / "lab", "schedules: own\n"), LabProcess(tmp_path / "other")
    with ExitStack() as ended:
        for each in (other, lab):
            aside(each.__enter__)
            ended.callback(aside, each.__exit__, None, None, None)
        nodes = "\n".join(
            f"  - {{ name: {name}, kind: lab, control: {each.control} }}"
            for name, each in (("attic", other), ("bench", lab))
        )
        with site(tmp_path, f"results: {lab.results}", nodes=nodes) as running:
            at = Seat(browser, running.url)
            at.open(f"/sign-in?token={TOKEN}")
            at.open("/#/lab")
            at.see("[data-schedule=walk-home]")
            expect(at.page.locator("[data-schedule=short]")).to_have_count(0)
            at.page.get_by_label("Laboratory", exact=True).select_option("bench")
            at.see("[data-schedule=short] h3", "There and back")
            at.see("[data-schedule=walk-home]")
            at.see("[data-schedule=short] [data-key=start-short]").click()
            at.fill("seed", "-1")
            at.send()
            at.see("[data-field=seed] .wrong", "greater than or equal to 0")
            at.fill("seed", "7")
            at.send()
            at.see("h1", "There and back")
            at.see("#run-steps .script", "move b")
            at.see("#run-steps [data-name=moved]", "Moved from a to b")
            at.see(".run-head .mark.good", "held")
            at.see(".run-result #moves", "a → b")
            picture = at.see(".run-result img.timeline")
            at.page.wait_for_function("(image) => image.naturalWidth > 0", arg=picture.element_handle())
            at.see("[data-key=back]").click()
            at.see("#lab-runs tr", "held")
            at.see("#lab-runs [data-key^=result]").click()
            at.see("h1", "Run short-virtual-7")
            at.close()
