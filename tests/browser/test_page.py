"""The page before scripted nodes: what takes long, seldom happens or must look just so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dashboards.tokens import Role, Tokens
from tests.browser.chromium import PHONE, Sitting, require_chromium
from tests.nodes.dashboards_world import ACCESS_B, NAT_OUTSIDE, TOKEN, Site, site

require_chromium()

from playwright.sync_api import expect  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import APIResponse, Browser, Locator, Page, Route

pytestmark = pytest.mark.browser


class Seat:
    """A site and somebody at a browser who looks at it."""

    def __init__(self, at: Site, sitting: Sitting) -> None:
        self.site = at
        self.sitting = sitting
        self.page: Page = sitting.page

    def open(self, path: str = "/") -> Page:
        """Load an address anew."""
        return self.sitting.open(path)

    def do(self, name: str, *arguments: Any, **named: Any) -> Any:
        """Something that happens at the nodes."""
        return self.site.do(getattr(self.site.world, name), *arguments, **named)

    def row(self, session: str) -> Locator:
        """A session's row."""
        return self.page.locator(f"tr[data-session={session}]")


@pytest.fixture
def seat(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Seat]]:
    """Take a seat; ``extra`` is of the dashboard's configuration. Nothing on the console by the end."""
    sittings: list[Sitting] = []
    with ExitStack() as stack:

        def taken(extra: str = "", **options: Any) -> Seat:
            running = stack.enter_context(site(tmp_path, extra))
            sittings.append(Sitting(browser, running.url, **options))
            stack.callback(sittings[-1].close)
            return Seat(running, sittings[-1])

        yield taken
    assert [complaint for each in sittings for complaint in each.complaints] == []


def test_sessions_appear_and_change_by_themselves(seat: Callable[..., Seat]) -> None:
    at = seat()
    page = at.open("/#/sessions")
    expect(page.get_by_text("No sessions")).to_be_visible()
    expect(page.locator(".node.up[data-node=epdg]")).to_be_visible()
    session = at.do("new_session", 1)
    at.do("state", "epdg", "Session", "", "attaching", "IKE_SA_INIT", session)
    expect(at.row("s000001")).to_contain_text("attaching")
    at.do("attach", 2, "ims")
    expect(at.row("s000002")).to_contain_text("established")
    expect(at.row("s000002")).to_contain_text("10.45.0.4")
    expect(page.locator("[data-figure=sessions] dd")).to_have_text("1")
    at.do("move", "s000002", NAT_OUTSIDE)
    expect(at.row("s000002")).to_contain_text(NAT_OUTSIDE)
    expect(page.locator("[data-figure=moves] dd")).to_have_text("1")
    at.do("event", "epdg", "moved", "The UE says again.", None, {"old": NAT_OUTSIDE, "new": NAT_OUTSIDE})
    at.do("move", "s000002", ACCESS_B)
    expect(page.locator("[data-figure=moves] dd")).to_have_text("2")
    search = page.get_by_role("searchbox", name="Search sessions")
    for text, shown in (("ims", ["s000002"]), ("127.0.2", ["s000001"]), ("0101", ["s000001", "s000002"]), ("zz", [])):
        search.fill(text)
        expect(page.locator("tr[data-session]")).to_have_count(len(shown))
        for each in shown:
            expect(at.row(each)).to_be_visible()


def test_session_page_shows_paths_and_a_live_ladder(seat: Callable[..., Seat]) -> None:
    at = seat()
    at.do("attach", 1, retransmit=True)
    page = at.open("/#/sessions")
    at.row("s000001").get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("001 01 0000000001")
    expect(page.locator("[data-card=identity]")).to_contain_text("10.45.0.3")
    expect(page.locator("[data-card='security associations']")).to_contain_text("aes128gcm16")
    expect(page.locator("[data-card=traffic]")).to_contain_text("1,843 packets")
    ladder = page.get_by_role("region", name="Message ladder")
    messages = ladder.locator(".item.message")
    expect(messages).to_have_count(17)
    page.get_by_role("checkbox", name="EAP").uncheck()
    expect(messages).to_have_count(13)
    expect(ladder.locator(".message.SWu .head")).to_have_count(8)
    expect(ladder.locator(".message.SWm .head")).to_have_count(4)
    expect(ladder.locator(".message.lost .lost-mark")).to_have_count(1)
    dashed = ladder.locator(".message.retransmission .shaft")
    expect(dashed).to_have_count(1)
    expect(dashed).not_to_have_css("stroke-dasharray", "none")
    expect(ladder.locator(".event.good").first).to_contain_text("attached")
    at.do("move", "s000001", ACCESS_B)
    expect(ladder.locator(".event[data-name=moved]")).to_contain_text("127.0.3.1:4500")
    at.do("move", "s000001", "127.0.5.9:4500", answered=False)
    expect(ladder.locator(".event.bad")).to_contain_text("address update failed")
    steps = page.locator(".step")
    expect(steps).to_have_count(4)
    assert ["not validated" in step for step in steps.all_inner_texts()] == [False, True, False, False]
    expect(steps.first).to_contain_text("now")
    ladder.get_by_role("button", name=re.compile("UE to ePDG, IKE_AUTH request 1")).press("Enter")
    detail = page.get_by_role("complementary", name="Details")
    expect(detail).to_contain_text("IKE_AUTH request 1")
    expect(detail.get_by_text("N(MOBIKE_SUPPORTED)", exact=True).first).to_be_visible()


def test_what_is_drawn_anew_without_news_is_no_sample_of_the_traffic(seat: Callable[..., Seat]) -> None:
    at = seat()
    at.do("attach", 1)
    asked: list[Route] = []

    def first_alone(route: Route) -> None:
        asked.append(route)
        if len(asked) == 1:
            route.continue_()

    at.page.clock.install()
    at.page.route("**/api/v1/sessions/s000001", first_alone)
    page = at.open("/#/sessions/s000001")
    expect(page.locator("[data-card=traffic]")).to_contain_text("1,843 packets")
    page.clock.run_for(60_000)
    expect(page.locator("[data-card=traffic] .hint")).to_have_text("Sampled while this page is open.")


def test_detach_is_refused_without_signing_in_and_works_with_it(seat: Callable[..., Seat]) -> None:
    at = seat()
    at.do("attach", 1)
    page = at.open("/#/sessions/s000001")
    page.get_by_role("button", name="Detach").click()
    dialog = page.get_by_role("dialog", name="Sign in")
    dialog.get_by_label("Token").fill("wrong")
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert").filter(has_text="Not detached")).to_be_visible()
    assert at.site.world.detached == []
    at.open(f"/sign-in?token={TOKEN}")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    assert page.url.partition("#")[0] == f"{at.site.url}/"
    (cookie,) = at.sitting.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert page.evaluate("document.cookie") == ""
    at.open("/#/sessions/s000001")
    page.get_by_role("button", name="Detach").click()
    page.get_by_role("dialog").get_by_role("button", name="Detach").click()
    expect(page.locator(".title-line .pill.closed")).to_be_visible()
    expect(page.locator(".ladder .event[data-name=detached]")).to_be_visible()
    assert at.site.world.detached == ["s000001"]
    expect(page.get_by_role("button", name="Detach", exact=True)).to_have_count(0)


def test_a_viewer_sees_who_is_signed_in_and_is_offered_no_action(seat: Callable[..., Seat], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    token = Tokens(tokens).add("wall", Role.VIEWER)
    at = seat(f"tokens: {tokens}\nrequire_sign_in: true")
    at.do("attach", 1)
    page = at.open(f"/sign-in?token={token}")
    expect(page.get_by_text("wall (viewer)")).to_be_visible()
    at.open("/#/sessions")
    expect(at.row("s000001")).to_be_visible()
    at.open("/#/sessions/s000001")
    expect(page.get_by_role("button", name="Detach")).to_be_disabled()
    expect(page.get_by_role("button", name="Detach")).to_have_attribute("title", "Needs the role operator")


def test_wrong_sign_in_link_says_so(seat: Callable[..., Seat]) -> None:
    at = seat()
    page = at.open("/sign-in?token=wrong")
    expect(page.locator("[data-notice=link-wrong]")).to_contain_text("not valid")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    (complaint,) = at.sitting.complaints
    assert "401" in complaint  # Chromium reports the status of the page itself
    at.sitting.complaints.clear()


def test_gateway_that_goes_away_is_named_and_comes_back(seat: Callable[..., Seat]) -> None:
    at = seat()
    at.do("attach", 1)
    page = at.open("/#/sessions")
    expect(at.row("s000001")).to_be_visible()
    at.do("stop", "epdg")
    expect(page.locator("[data-notice=away-epdg]")).to_contain_text("cannot be reached")
    expect(page.locator(".node.down[data-node=epdg]")).to_be_visible()
    expect(at.row("s000001")).to_be_visible()  # what was known is still shown
    at.do("attach", 2)
    at.do("start", "epdg")
    expect(page.locator("[data-notice=away-epdg]")).to_have_count(0)
    expect(page.locator(".node.up[data-node=epdg]")).to_be_visible()
    expect(at.row("s000002")).to_be_visible()
    # Chromium reports the status of whatever was asked while the gateway was away.
    at.sitting.complaints[:] = [text for text in at.sitting.complaints if "503" not in text]


def test_what_was_answered_before_does_not_bring_a_gateway_back(seat: Callable[..., Seat]) -> None:
    """The nodes are asked for now and then; what the feed tells before that answer is here is newer."""
    at = seat()
    late: list[tuple[Route, APIResponse]] = []
    page = at.open("/#/sessions")
    expect(page.locator(".node.up[data-node=epdg]")).to_be_visible()
    page.route("**/api/v1/nodes", lambda route: late.append((route, route.fetch())))
    page.evaluate("import('/static/js/state.js').then(({ state }) => void state.refresh())")
    while not late:
        page.evaluate("0")  # Playwright hears of requests while it waits for something
    at.do("stop", "epdg")
    notice = page.locator("[data-notice=away-epdg]")
    expect(notice).to_contain_text("cannot be reached")
    for route, answer in late:
        assert all(node["reachable"] for node in answer.json()["nodes"])
        with page.expect_response("**/api/v1/nodes"):
            route.fulfill(response=answer)
    page.evaluate("new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(painted)))")
    expect(notice).to_contain_text("cannot be reached")
    at.sitting.complaints[:] = [text for text in at.sitting.complaints if "503" not in text]


@pytest.mark.parametrize("path", ["/", "/#/sessions", "/#/sessions/s000001"])
def test_phone_width_needs_no_sideways_scrolling(seat: Callable[..., Seat], path: str) -> None:
    at = seat(viewport={"width": 360, "height": 740}, is_mobile=True)
    at.do("attach", 1)
    page = at.open(path)
    if path != "/":
        expect(
            page.locator(".item.message" if path.endswith("1") else "tr[data-session=s000001]").first
        ).to_be_visible()
    else:
        expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_phone_width_keeps_what_a_row_says_in_order(seat: Callable[..., Seat]) -> None:
    at = seat(viewport=PHONE, is_mobile=True)
    at.do("attach", 1)
    at.do("refuse", 2)
    at.open("/#/sessions")
    badge = at.row("s000002").locator(".badge.bad").filter(has_text="USER_UNKNOWN")
    expect(badge).to_be_visible()
    assert badge.evaluate("(element) => element.scrollWidth <= element.clientWidth")


def test_refused_session_says_why_when_and_from_where(seat: Callable[..., Seat]) -> None:
    at = seat()
    at.do("refuse", 2)
    page = at.open("/#/sessions/s000002")
    expect(page.locator(".page-head")).to_contain_text(
        "USER_UNKNOWN: the home AAA does not know this subscriber · began"
    )
    expect(page.locator("[data-card=addresses]")).to_contain_text("asked from 127.0.2.1:4500")


def test_documentation_page_renders_without_internet(seat: Callable[..., Seat]) -> None:
    at = seat()
    page = at.open("/docs")
    expect(page.locator("#swagger-ui .title")).to_contain_text("ePDG dashboard")
    expect(page.locator("#swagger-ui .opblock-delete").first).to_be_visible()
    requested = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert requested
    assert all(name.startswith((at.site.url, "data:", "blob:")) for name in requested)
