"""What somebody at the page does and sees."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.browser.chromium import Sitting, require_chromium

require_chromium()

from playwright.sync_api import expect  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Locator


class Seat(Sitting):
    """Somebody at a browser who looks at a site."""

    def see(self, selector: str, text: str | re.Pattern[str] = "") -> Locator:
        """What is visible and has the text, as soon as it is there."""
        found = self.page.locator(selector).filter(visible=True, has_text=text or None).first
        expect(found).to_be_visible()
        return found

    def fill(self, field: str, text: str) -> None:
        """Write into a field of the open form."""
        self.page.locator(f"dialog [data-field='{field}'] input").fill(text)

    def send(self) -> None:
        """Press the open form's last button."""
        self.see("dialog .dialog-actions .primary").click()

    def focused(self, attribute: str) -> str | None:
        """This attribute of what has the focus."""
        return self.page.evaluate("(name) => document.activeElement.getAttribute(name)", attribute)
