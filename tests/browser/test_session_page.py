"""A session's page before real nodes: why it failed, its messages octet by octet, what an operator has done with it."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from dashboards.tokens import Role
from tests.browser.chromium import Sitting, require_chromium
from tests.browser.nodes import ELSEWHERE, Nodes

require_chromium()

from playwright.sync_api import expect  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = pytest.mark.browser

OFFERED = "[...document.querySelectorAll('.action-grid button')].some((each) => each.offsetParent && !each.disabled)"
WATCH = f"""const look = () => {{
  if (document.querySelector("h1")?.textContent === "…" && {OFFERED}) window.early = true;
  requestAnimationFrame(look);
}};
look();"""
LIT = "CSS.highlights.has('octets') ? [...CSS.highlights.get('octets')].map(String).join(' ') : ''"


def test_a_refused_attach_is_found_by_its_cause_and_says_why_on_its_page(
    world: Nodes, sit: Callable[[], Sitting]
) -> None:
    refused = world.refused()
    page = sit().open("/#/")
    page.get_by_role("region", name="Attach results by cause").get_by_role("link").nth(1).click()
    expect(page.get_by_role("heading", name="Failed attaches")).to_be_visible()
    by_cause = page.get_by_role("region", name="By cause").get_by_role("link")
    cause = by_cause.first.inner_text()
    by_cause.first.click()
    expect(page.locator("#summary")).to_contain_text(f"{cause}: 1 of 1 failed attach")
    page.locator(f"[data-attempt='{refused}']").get_by_role("link").first.click()
    expect(page).to_have_url(re.compile(f"#/sessions/{refused}$"))
    why = page.get_by_role("region", name="Why it failed")
    sentence = why.locator(".sentence")
    expect(sentence).to_be_visible()
    assert sentence.inner_text().endswith(".")
    expect(why).to_contain_text("What to try")
    expect(why).to_contain_text(re.compile("TS 24.302|TS 29.273"))
    ladder = page.get_by_role("region", name="Message ladder")
    above, below = why.bounding_box(), ladder.bounding_box()
    assert above is not None
    assert below is not None
    assert above["y"] < below["y"]
    why.get_by_role("button").first.click()
    marked = ladder.locator(".item.evidence")
    expect(marked.first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary", name="Details")).to_be_visible()


def test_a_message_has_its_payloads_and_each_its_octets(attached: str, sit: Callable[[], Sitting]) -> None:
    page = sit().open(f"/#/sessions/{attached}")
    page.get_by_role("button", name=re.compile("UE to ePDG, IKE_SA_INIT request 0")).first.press("Enter")
    source = page.locator("[data-payload='N(NAT_DETECTION_SOURCE_IP)']")
    expect(source.locator(".dump")).to_contain_text("0000  00 00 40 04")  # protocol, SPI size, 16388
    hashed = source.locator(".leaf.placed")
    octets = hashed.inner_text()
    hashed.hover()
    page.wait_for_function(f"({LIT}).length > 0")
    lit = re.findall(r"\b[0-9a-f]{2}\b", page.evaluate(LIT))
    assert "".join(lit) == octets
    page.keyboard.press("Escape")
    expect(page.get_by_role("complementary", name="Details")).to_have_count(0)


def test_the_ladder_is_filtered_and_walked_through_by_keys(attached: str, sit: Callable[[], Sitting]) -> None:
    page = sit().open(f"/#/sessions/{attached}")
    ladder = page.get_by_role("region", name="Message ladder")
    expect(ladder.locator(".message.SWm").first).to_be_visible()
    page.get_by_role("checkbox", name="SWm").uncheck()
    expect(ladder.locator(".message.SWm")).to_have_count(0)
    page.get_by_role("checkbox", name="SWm").check()
    expect(ladder.locator(".message.SWm").first).to_be_visible()
    ladder.locator(".item").first.focus()
    page.keyboard.press("ArrowDown")
    expect(ladder.locator(".item").nth(1)).to_be_focused()
    page.keyboard.press("End")
    expect(ladder.locator(".item").last).to_be_focused()


def test_nothing_is_offered_before_the_session_is_known(
    world: Nodes, attached: str, sit: Callable[[], Sitting]
) -> None:
    sitting = sit()
    sitting.open(f"/sign-in?token={world.token('bench', Role.OPERATOR)}")
    held: list[Route] = []
    sitting.page.route("**/api/v1/sessions/**", lambda route: held.append(route))
    sitting.page.add_init_script(WATCH)
    page = sitting.open(f"/#/sessions/{attached}")
    expect(page.get_by_role("heading", name="…")).to_be_visible()
    page.evaluate("new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(painted)))")
    assert not page.evaluate("window.early")
    for each in held:
        each.continue_()
    page.unroute("**/api/v1/sessions/**")
    expect(page.get_by_role("button", name="Is it alive?")).to_be_enabled()


def test_an_operator_acts_and_reads_what_came_of_it(world: Nodes, attached: str, sit: Callable[[], Sitting]) -> None:
    sitting = sit()
    sitting.open(f"/sign-in?token={world.token('bench', Role.OPERATOR)}")
    page = sitting.open(f"/#/sessions/{attached}")
    told = page.get_by_role("log", name="What came of it")
    page.get_by_role("button", name="Is it alive?").click()
    expect(told).to_contain_text(re.compile(r"Liveness: the UE answered after [\d.]+ m?s at 127\.0\.41\.21"))
    page.get_by_role("button", name="Rekey child SAs").click()
    expect(told).to_contain_text("Rekeying of the child SAs has begun")
    expect(
        page.locator(".ladder").get_by_role("button", name=re.compile("CREATE_CHILD_SA request")).first
    ).to_be_visible()
    page.get_by_role("button", name="Redirect …").click()
    page.get_by_role("dialog").get_by_label("Gateway").fill("not a gateway!")
    page.get_by_role("dialog").get_by_role("button", name="Redirect").click()
    expect(told).to_contain_text("Redirect:")
    page.get_by_role("checkbox", name="with keys").check()
    assert any(name.endswith("ikev2_decryption_table") for name in _evidence(page))
    sitting.complaints[:] = [text for text in sitting.complaints if "422" not in text]


def test_an_operator_has_the_ue_authenticate_anew_and_sends_it_elsewhere(
    world: Nodes, attached: str, sit: Callable[[], Sitting]
) -> None:
    sitting = sit()
    sitting.open(f"/sign-in?token={world.token('bench', Role.OPERATOR)}")
    page = sitting.open(f"/#/sessions/{attached}")
    told, state = page.get_by_role("log", name="What came of it"), page.locator(".title-line .pill")
    dialog = page.get_by_role("dialog")
    page.get_by_role("button", name="Authenticate anew").click()
    dialog.get_by_label("Seconds that it has").fill("1")
    dialog.get_by_role("button", name="Ask for it").click()
    anew = world.end_of(attached)
    expect(state).to_have_text("closed")
    expect(told).to_contain_text("The UE is told to authenticate anew")
    expect(page.get_by_role("region", name="Why it failed")).to_have_count(0)
    expect(page.get_by_role("button", name="Is it alive?")).to_be_hidden()
    page.get_by_role("link", name="all of this subscriber").click()
    page.locator(f"[data-session='{anew}'] a").click()
    world.serve_elsewhere()
    page.get_by_role("button", name="Redirect …").click()
    dialog.get_by_label("Gateway").fill(ELSEWHERE)
    dialog.get_by_role("button", name="Redirect").click()
    there = world.end_of(anew)
    expect(state).to_have_text("closed")
    expect(told).to_contain_text(f"The UE is told to go to {ELSEWHERE}.")
    expect(page.get_by_role("region", name="Why it failed")).to_have_count(0)
    page.goto(f"/#/sessions/{there}")
    expect(page.get_by_role("button", name=re.compile(r"IKE_SA_INIT request 0 .*N\(REDIRECTED_FROM\)"))).to_be_visible()


def test_a_viewer_is_told_why_actions_are_not_offered(world: Nodes, attached: str, sit: Callable[[], Sitting]) -> None:
    sitting = sit()
    sitting.open(f"/sign-in?token={world.token('wall', Role.VIEWER)}")
    page = sitting.open(f"/#/sessions/{attached}")
    button = page.get_by_role("button", name="Is it alive?")
    expect(button).to_be_disabled()
    expect(button).to_have_accessible_description("Needs the role operator; wall is a viewer.")
    expect(page.get_by_role("checkbox", name="with keys")).to_have_count(0)
    names = _evidence(page)
    assert f"evidence-{attached}/README.txt" in names
    assert not any(name.endswith("ikev2_decryption_table") for name in names)


def _evidence(page: Page) -> list[str]:
    """The names of what one click brings."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Evidence").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        return archive.namelist()
