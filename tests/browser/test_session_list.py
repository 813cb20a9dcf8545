"""The list of sessions: the server searches, sorts and pages it, the keyboard goes through it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.chromium import Sitting, require_chromium
from tests.nodes.dashboards_world import ACCESS_B, NAT_OUTSIDE, Site, site

require_chromium()

from playwright.sync_api import expect  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

SESSIONS = 120
APNS = ("internet", "ims", "corp")


def _sessions(running: Site) -> list[str]:
    """Their IMSIs, the first one that began first."""
    imsis: list[str] = []
    for number in range(1, SESSIONS + 1):
        running.world.now += 0.01
        session = running.world.new_session(number, APNS[number % 3])
        session["state"] = "closed" if number % 10 == 0 else "established"
        imsis.append(session["imsi"])
    return imsis


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory: Path = tmp_path_factory.mktemp("list")
    (directory / "other").mkdir()
    other = directory / "other" / "epdg.sock"
    with site(directory, nodes=f"  - {{ name: other, kind: epdg, control: {other} }}") as at:
        elsewhere = at.do(at.other_world, directory / "other")
        elsewhere.now = at.world.now - 10.0  # before all others
        elsewhere.new_session(7000)
        at.do(_sessions, at)
        yield at


@pytest.fixture
def page(browser: Browser, running: Site) -> Iterator[Page]:
    sitting = Sitting(browser, running.url)
    yield sitting.open("/#/sessions")
    sitting.close()
    assert sitting.complaints == []


def _shown(page: Page) -> list[int]:
    """The numbers at the end of the IMSIs, row by row."""
    return [int(text.replace(" ", "")[-5:]) for text in page.locator("#sessions .row-link").all_inner_texts()]


def test_pages_and_orders_are_the_servers(page: Page) -> None:
    place = page.locator("#page-place")
    expect(place).to_have_text(f"1 – 50 of {SESSIONS + 1}")
    assert _shown(page)[:3] == [120, 119, 118]  # newest first
    page.get_by_role("button", name="Next").click()
    expect(place).to_have_text(f"51 – 100 of {SESSIONS + 1}")
    assert _shown(page)[0] == 70
    page.get_by_role("button", name="Previous").click()
    expect(place).to_have_text(f"1 – 50 of {SESSIONS + 1}")
    page.get_by_role("button", name="IMSI").click()
    expect(page.get_by_role("columnheader", name="IMSI")).to_have_attribute("aria-sort", "ascending")
    expect(page.locator("#sessions .row-link").first).to_have_text("001 01 0000000001")
    assert _shown(page) == list(range(1, 51))
    page.get_by_role("button", name="For").click()
    expect(page.locator("#sessions .row-link").first).to_have_text("001 01 0000000120")


def test_search_and_filters_find_what_is_on_no_page(page: Page) -> None:
    summary = page.locator("#summary")
    expect(summary).to_have_text(f"{SESSIONS + 1} sessions")
    page.get_by_role("searchbox", name="Search sessions").fill("000011")
    wanted = [number for number in range(SESSIONS, 0, -1) if "000011" in f"0010100000{number:05d}"]
    expect(summary).to_have_text(f"{len(wanted)} sessions match")
    assert _shown(page) == wanted
    page.get_by_role("searchbox", name="Search sessions").fill("")
    page.get_by_role("button", name="Closed").click()
    expect(summary).to_have_text("12 sessions match")
    page.get_by_label("APN", exact=True).fill("ims")
    page.get_by_label("APN", exact=True).press("Enter")
    expect(summary).to_have_text("4 sessions match")
    assert _shown(page) == [100, 70, 40, 10]
    page.get_by_label("Gateway").select_option("other")
    page.get_by_role("button", name="Show all").click()  # closed ones to ims: none there
    page.get_by_label("Gateway").select_option("other")
    expect(summary).to_have_text("1 session matches")
    assert _shown(page) == [7000]
    page.get_by_label("Gateway").select_option("")


def test_an_address_of_the_page_may_say_what_is_looked_for(page: Page) -> None:
    page.goto("/#/sessions?state=closed&sort=imsi")
    expect(page.locator("#summary")).to_have_text("12 sessions match")
    assert _shown(page) == list(range(10, 121, 10))
    expect(page.get_by_role("button", name="Closed")).to_have_attribute("aria-pressed", "true")
    page.goto("/#/sessions?sort=-created")
    expect(page.locator("#summary")).to_have_text(f"{SESSIONS + 1} sessions")


def test_the_keyboard_does(page: Page) -> None:
    links = page.locator("#sessions .row-link")
    expect(links).to_have_count(50)
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox", name="Search sessions")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(links.nth(0)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(links.nth(1)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#page-place")).to_have_text(f"51 – 100 of {SESSIONS + 1}")
    expect(links.nth(0)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#page-place")).to_have_text(f"1 – 50 of {SESSIONS + 1}")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("#/sessions/s000078$"))
    expect(page.get_by_role("heading", level=1)).to_have_text("001 01 0000000120")


def test_rows_are_followed_and_other_sessions_are_not_even_asked_for(page: Page, running: Site) -> None:
    expect(page.locator("#page-place")).to_have_text(f"1 – 50 of {SESSIONS + 1}")
    elsewhere, here = "s000001", "s000077"
    for access in (ACCESS_B, NAT_OUTSIDE):  # the second one when the page follows its rows, at the latest
        running.do(running.world.move, elsewhere, access)
        running.do(running.world.move, here, access)
        expect(page.locator(f"#sessions tr[data-session={here}] .cell-outer")).to_contain_text(access)
    assert elsewhere not in running.world.asked
    page.get_by_role("searchbox", name="Search sessions").fill("001010000000001")
    row = page.locator(f"#sessions tr[data-session={elsewhere}] .cell-outer")
    expect(row).to_contain_text(NAT_OUTSIDE)
    running.do(running.world.move, elsewhere, ACCESS_B)
    expect(row).to_contain_text(ACCESS_B)
    page.get_by_role("searchbox", name="Search sessions").fill("")


def test_what_is_typed_does_not_wait_for_what_the_list_asks_by_itself(page: Page, running: Site) -> None:
    expect(page.locator("#summary")).to_have_text(f"{SESSIONS + 1} sessions")
    list_asked = re.compile(r"/api/v1/sessions\?(?!.*q=)")
    page.route(list_asked, lambda route: None)  # never answered
    with page.expect_request(list_asked):
        session = running.world.sessions["s000078"]
        running.do(running.world.state, "epdg", "IkeSa", "REKEYED", "ESTABLISHED", "a change that is no move", session)
    page.get_by_role("searchbox", name="Search sessions").fill("0000000119")
    expect(page.locator("#summary")).to_have_text("1 session matches")
    page.unroute(list_asked)
    page.get_by_role("searchbox", name="Search sessions").fill("")
    expect(page.locator("#summary")).to_have_text(f"{SESSIONS + 1} sessions")
