"""Debian's Chromium under Playwright: started without a download, its pages watched for complaints."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

T = TypeVar("T")

PROGRAM = shutil.which("chromium")
OPTIONS = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
WAIT = 15_000.0  # milliseconds until something that should be seen is missed
WIDE = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}


def require_chromium() -> None:
    """Skip the calling module where Playwright or Chromium is not installed."""
    pytest.importorskip("playwright", reason="playwright is not installed")
    if PROGRAM is None:
        pytest.skip("chromium is not installed (Debian packages: .ci/peers.txt)", allow_module_level=True)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; Playwright has the thread's event loop until the end of the block."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=OPTIONS)
        try:
            yield browser
        finally:
            browser.close()


def aside(work: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """What ``work`` returns, done on a thread of its own: asyncio.run has no place beside Playwright's loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work, *arguments, **named).result()


class Sitting:
    """Somebody at a browser: cookies and storage of their own, and what the browser complained of meanwhile."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        """``options`` are of Playwright's ``new_context``: viewport, colour scheme."""
        self.context: BrowserContext = browser.new_context(
            base_url=url, **{"viewport": WIDE, "accept_downloads": True, **options}
        )
        self.context.set_default_timeout(WAIT)
        self.complaints: list[str] = []
        self.page: Page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None,
        )

    def open(self, path: str = "/") -> Page:
        """Load an address anew."""
        self.page.goto("about:blank")
        self.page.goto(path)
        return self.page

    def close(self) -> None:
        """Leave."""
        self.context.close()
