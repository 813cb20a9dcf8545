"""axe-core (Deque) as the judge of accessibility: its rules of WCAG 2.2 A and AA, and its best practices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.chromium import PHONE, WIDE
from tests.harness.material import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

SOURCE = ROOT / ".venv" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
STILL = "*, *::before, *::after { animation: none !important; transition: none !important; }"  # no colour half-way


def has_axe() -> bool:
    """Whether it is installed."""
    return SOURCE.exists()


def require_axe() -> None:
    """Skip the calling test where it is not installed."""
    if not has_axe():
        pytest.skip("axe-core is not installed (make test installs it where there is npm)")


def complaints(page: Page) -> list[str]:
    """What axe finds on the page as it is now: light on a wide screen, dark on a phone's, dark colours on the wide one.

    Its content security policy must not count (Playwright's ``bypass_csp``), else axe could not be brought to it.
    """
    page.add_style_tag(content=STILL)
    page.evaluate(SOURCE.read_text(encoding="utf-8"))
    page.emulate_media(color_scheme="light")
    found = _judged(page, "light")
    page.emulate_media(color_scheme="dark")
    found += _judged(page, "dark", only=["color-contrast"])  # all else is as in the light
    page.set_viewport_size(PHONE)
    found += _judged(page, "dark, on a phone")
    page.set_viewport_size(WIDE)
    return found


def _judged(page: Page, where: str, only: list[str] | None = None) -> list[str]:
    rules: list[dict[str, Any]] = page.evaluate(
        "(only) => axe.run(only ? { runOnly: { type: 'rule', values: only } } : {}).then((found) => found.violations)",
        only,
    )
    return [
        f"{page.url.partition('#')[2]} {where}: {rule['id']} ({rule['help']}) {node['target'][0]} "
        + "; ".join(check["message"] for check in (*node["any"], *node["all"], *node["none"]))
        for rule in rules
        for node in rule["nodes"]
    ]
