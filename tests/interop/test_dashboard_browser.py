"""The dashboard's page in Debian's Chromium: live list, session page, ladder, detach, a gateway that goes away."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dashboards.tokens import Role, Tokens
from tests.nodes.dashboards_world import ACCESS_B, NAT_OUTSIDE, TOKEN, Site, site

selenium = pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="chromium or chromedriver is not installed"),
]

OPTIONS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1440,900",
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


class Page:
    """What a person does with the page, and sees on it."""

    def __init__(self, driver: webdriver.Chrome, at: Site) -> None:
        self.driver = driver
        self.site = at

    def open(self, path: str = "/") -> None:
        """Load an address anew."""
        self.driver.get("about:blank")
        self.driver.get(self.site.url + path)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Until the condition holds; elements that are replaced meanwhile do not disturb."""
        from selenium.common.exceptions import StaleElementReferenceException

        return WebDriverWait(
            self.driver, 15, poll_frequency=0.05, ignored_exceptions=(StaleElementReferenceException,)
        ).until(lambda _: condition())

    def all(self, selector: str) -> list[WebElement]:
        """Elements that are there now."""
        found: list[WebElement] = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found

    def see(self, selector: str, text: str = "") -> WebElement:
        """An element that is visible and contains the text, as soon as it does."""
        element = self.wait(
            lambda: next((each for each in self.all(selector) if each.is_displayed() and text in each.text), None)
        )
        assert isinstance(element, WebElement)
        return element

    def gone(self, selector: str) -> None:
        """Until nothing like it is there."""
        self.wait(lambda: not self.all(selector))

    def console(self) -> list[str]:
        """What the browser complained of since last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]


@pytest.fixture
def page(browser: webdriver.Chrome, tmp_path: Path) -> Iterator[Page]:
    with site(tmp_path) as running:
        browser.delete_all_cookies()
        shown = Page(browser, running)
        yield shown
        complaints = shown.console()
        browser.get("about:blank")
    assert complaints == []


def test_sessions_appear_and_change_by_themselves(page: Page) -> None:
    page.open("/#/sessions")
    page.see(".empty", "No sessions")
    page.see(".node.up[data-node=epdg]")
    session = page.site.do(page.site.world.new_session, 1)
    page.site.do(page.site.world.state, "epdg", "Session", "", "attaching", "IKE_SA_INIT", session)
    page.see("tr[data-session=s000001] .pill.attaching")
    page.site.do(page.site.world.attach, 2, "ims")
    page.see("tr[data-session=s000002] .pill.established")
    page.see("tr[data-session=s000002] .cell-inner", "10.45.0.4")
    page.see("[data-figure=sessions] dd", "1")
    page.site.do(page.site.world.move, "s000002", NAT_OUTSIDE)
    page.see("tr[data-session=s000002] .cell-outer", "127.0.6.1:40961")
    page.see("[data-figure=moves] dd", "1")
    page.site.do(
        page.site.world.event, "epdg", "moved", "The UE says again.", None, {"old": NAT_OUTSIDE, "new": NAT_OUTSIDE}
    )
    page.site.do(page.site.world.move, "s000002", ACCESS_B)
    page.see("[data-figure=moves] dd", "2")
    search = page.see("#search")
    for text, shown in (
        ("ims", {"s000002"}),
        ("127.0.2", {"s000001"}),
        ("0101", {"s000001", "s000002"}),
        ("zz", set()),
    ):
        search.clear()
        search.send_keys(text)
        page.wait(lambda shown=shown: {row.get_attribute("data-session") for row in page.all("#sessions tr")} == shown)


def test_session_page_shows_paths_and_a_live_ladder(page: Page) -> None:
    page.site.do(page.site.world.attach, 1, retransmit=True)
    page.open("/#/sessions")
    page.see("tr[data-session=s000001] .row-link").click()
    page.see("h1", "001 01 0000000001")
    page.see("[data-card=identity]", "10.45.0.3")
    page.see("[data-card='security associations']", "aes128gcm16")
    page.see("[data-card=traffic]", "1,843 packets")
    page.wait(lambda: len(page.all(".ladder .item.message")) == 17)
    page.see("#show-eap").click()
    assert len(page.all(".ladder .item.message")) == 13
    assert len(page.all(".ladder .message.SWu .head")) == 8
    assert len(page.all(".ladder .message.SWm .head")) == 4
    page.wait(lambda: len(page.all(".ladder .message.lost .lost-mark")) == 1)
    dashed = page.all(".ladder .message.retransmission .shaft")
    assert len(dashed) == 1
    assert dashed[0].value_of_css_property("stroke-dasharray") != "none"
    assert "attached" in page.all(".ladder .event.good")[0].text
    page.site.do(page.site.world.move, "s000001", ACCESS_B)
    page.see(".ladder .event[data-name=moved]", "127.0.3.1:4500")
    page.site.do(page.site.world.move, "s000001", "127.0.5.9:4500", answered=False)
    page.see(".ladder .event.bad", "address update failed")
    steps = page.wait(lambda: page.all(".step") if len(page.all(".step")) == 4 else None)
    assert ["not validated" in step.text for step in steps] == [False, True, False, False]
    assert "now" in steps[0].text
    page.driver.execute_script(
        "document.querySelectorAll('.item.message')[3].dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    detail = page.see("#detail", "IKE_AUTH request 1")
    assert "N(MOBIKE_SUPPORTED)" in [payload.text for payload in detail.find_elements(By.CSS_SELECTOR, ".payload")]


def test_detach_is_refused_without_signing_in_and_works_with_it(page: Page) -> None:
    page.site.do(page.site.world.attach, 1)
    page.open("/#/sessions/s000001")
    page.see("#detach").click()
    dialog = page.see("#sign-in-dialog")
    dialog.find_element(By.ID, "token").send_keys("wrong")
    page.driver.execute_script("document.querySelector('#sign-in-dialog button[type=button]').click()")
    page.see("#session-trouble", "Not detached")
    assert page.site.world.detached == []
    page.open(f"/sign-in?token={TOKEN}")
    page.see("#account", "Sign out")
    assert page.driver.current_url == f"{page.site.url}/"
    cookie = page.driver.get_cookies()[0]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert page.driver.execute_script("return document.cookie") == ""
    page.open("/#/sessions/s000001")
    page.see("#detach").click()
    page.see("#confirm").click()
    page.see(".title-line .pill.closed")
    page.see(".ladder .event[data-name=detached]")
    assert page.site.world.detached == ["s000001"]
    assert not page.see("h1").find_elements(By.XPATH, "//*[@id='detach' and not(@hidden)]")


def test_a_viewer_sees_who_is_signed_in_and_is_offered_no_action(browser: webdriver.Chrome, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    token = Tokens(tokens).add("wall", Role.VIEWER)
    with site(tmp_path, f"tokens: {tokens}\nrequire_sign_in: true") as running:
        browser.delete_all_cookies()
        page = Page(browser, running)
        running.do(running.world.attach, 1)
        page.open(f"/sign-in?token={token}")
        page.see("#who", "wall (viewer)")
        page.open("/#/sessions")
        page.see("tr[data-session=s000001]")
        page.open("/#/sessions/s000001")
        page.see("#detach[title='Needs the role operator']:disabled")
        assert page.console() == []
        browser.get("about:blank")


def test_wrong_sign_in_link_says_so(page: Page) -> None:
    page.open("/sign-in?token=wrong")
    page.see("[data-notice=link-wrong]", "not valid")
    page.see("#account", "Sign in")
    (complaint,) = page.console()
    assert "401" in complaint  # Chromium reports the status of the page itself


def test_gateway_that_goes_away_is_named_and_comes_back(page: Page) -> None:
    page.site.do(page.site.world.attach, 1)
    page.open("/#/sessions")
    page.see("tr[data-session=s000001]")
    page.site.do(page.site.world.stop, "epdg")
    page.see("[data-notice=away-epdg]", "cannot be reached")
    page.see(".node.down[data-node=epdg]")
    page.see("tr[data-session=s000001]")  # what was known is still shown
    page.site.do(page.site.world.attach, 2)
    page.site.do(page.site.world.start, "epdg")
    page.gone("[data-notice=away-epdg]")
    page.see(".node.up[data-node=epdg]")
    page.see("tr[data-session=s000002]")
    # Chromium reports the status of whatever was asked while the gateway was away.
    assert all("/api/v1/" in complaint and "503" in complaint for complaint in page.console())


@pytest.mark.parametrize("path", ["/#/sessions", "/#/sessions/s000001"])
def test_phone_width_needs_no_sideways_scrolling(page: Page, path: str) -> None:
    page.site.do(page.site.world.attach, 1)
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True},
    )
    try:
        page.open(path)
        page.see(".item.message" if path.endswith("s000001") else "tr[data-session=s000001]")
        width = page.driver.execute_script("return document.documentElement.scrollWidth")
        assert width == 360
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_phone_width_keeps_what_a_row_says_in_order(page: Page) -> None:
    page.site.do(page.site.world.attach, 1)
    page.site.do(page.site.world.refuse, 2)
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True},
    )
    try:
        page.open("/#/sessions")
        badge = page.see("tr[data-session=s000002] .badge.bad", "USER_UNKNOWN")
        assert page.driver.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth", badge)
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_refused_session_says_why_when_and_from_where(page: Page) -> None:
    page.site.do(page.site.world.refuse, 2)
    page.open("/#/sessions/s000002")
    page.see(".page-head", "USER_UNKNOWN: the home AAA does not know this subscriber · began")
    page.see("[data-card=addresses]", "asked from 127.0.2.1:4500")


def test_documentation_page_renders_without_internet(page: Page) -> None:
    page.open("/docs")
    page.see("#swagger-ui .title", "ePDG dashboard")
    page.see("#swagger-ui .opblock-delete")
    requested = page.driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert requested
    assert all(name.startswith((page.site.url, "data:", "blob:")) for name in requested)


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


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_runs_of_the_laboratory_are_listed_and_one_is_shown_with_its_timeline(
    browser: webdriver.Chrome, results: Path, tmp_path: Path, theme: str
) -> None:
    with site(tmp_path, f"results: {results}") as running:
        browser.delete_all_cookies()
        page = Page(browser, running)
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        )
        try:
            page.open("/#/runs")
            page.see("#summary", "2 runs, 1 with an expectation that did not hold")
            page.see("tr[data-run=walk-home-virtual-1] .outcome.good", "held")
            page.see("tr[data-run=strict-virtual-1] .outcome.bad", "failed")
            page.see("tr[data-run=strict-virtual-1]", "Stricter than <b>physics</b>")
            page.see("tr[data-run=walk-home-virtual-1] a", "walk-home").click()
            page.see("h1", "Run walk-home-virtual-1")
            page.see("#moves", "office → home")
            page.see("#checks .outcome.good", "held")
            picture = page.see("img.timeline")
            page.wait(lambda: page.driver.execute_script("return arguments[0].naturalWidth", picture) > 0)
            assert picture.size["width"] > 600
            assert picture.size["height"] > 300
            page.see("a.button", "All results").click()
            page.see("tr[data-run=strict-virtual-1] a").click()
            page.see("#checks .outcome.bad", "failed")
        finally:
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
            complaints = page.console()
            browser.get("about:blank")
        assert complaints == []
