"""The page before real nodes: a UE attaches, moves and is refused, a gateway goes away, and somebody watches it."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dashboards.tokens import Role
from tests.browser.axe import complaints, require_axe
from tests.browser.chromium import Sitting, aside, require_chromium
from tests.browser.nodes import BARRED, USER, Nodes
from tests.peers.processes import require_program
from tests.peers.tshark import Tshark

require_chromium()

from playwright.sync_api import expect  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser


def spaced(imsi: object) -> str:
    """As the page writes an IMSI: MCC, MNC, MSIN."""
    text = str(imsi)
    return f"{text[:3]} {text[3:5]} {text[5:]}"


def row(page: Page, imsi: object) -> Locator:
    """A subscriber's row in the table of sessions."""
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=spaced(imsi)))


def test_an_attach_appears_its_ladder_grows_and_a_move_changes_the_path(
    world: Nodes, sit: Callable[..., Sitting]
) -> None:
    page = sit().open("/#/sessions")
    page.get_by_role("heading", name="Sessions", level=1).wait_for()
    world.attach()
    try:
        there = row(page, USER.imsi).filter(has_text="established")
        expect(there).to_contain_text("127.0.41.21")
        expect(there).to_contain_text("10.45.0.")
        there.get_by_role("link").first.click()
        expect(page.get_by_role("heading", level=1)).to_have_text(spaced(USER.imsi))
        ladder = page.get_by_role("region", name="Message ladder")
        expect(ladder.get_by_role("button", name=re.compile("IKE_SA_INIT request")).first).to_be_visible()
        expect(ladder.get_by_role("button", name=re.compile("ePDG to AAA, DER")).first).to_be_visible()
        grown = ladder.get_by_role("button").count()
        assert grown >= 15  # IKE_SA_INIT, four rounds of IKE_AUTH, two of SWm, EAP, events
        expect(page.get_by_text("N(UPDATE_SA_ADDRESSES)")).to_have_count(0)
        world.of_ue("ue.move", to="wifi-b")
        update = ladder.get_by_role(
            "button", name=re.compile("UE to ePDG, INFORMATIONAL request .*UPDATE_SA_ADDRESSES")
        )
        expect(update.first).to_be_visible()
        assert ladder.get_by_role("button").count() > grown
        steps = page.get_by_role("listitem").filter(has_text=re.compile(r"127\.0\.41\.(21|31):"))
        expect(steps.filter(has_text="127.0.41.31").filter(has_text="now")).to_be_visible()
        expect(steps.filter(has_text="127.0.41.21").filter(has_text="now")).to_have_count(0)
    finally:
        world.leave()


def test_a_message_is_taken_apart_where_one_clicks(attached: str, sit: Callable[..., Sitting]) -> None:
    page = sit().open(f"/#/sessions/{attached}")
    ladder = page.get_by_role("region", name="Message ladder")
    ladder.get_by_role("button", name=re.compile("UE to ePDG, IKE_AUTH request 1")).press("Enter")
    detail = page.get_by_role("complementary", name="Details")
    expect(detail).to_contain_text("IKE_AUTH request 1")
    expect(detail.get_by_text("N(MOBIKE_SUPPORTED)", exact=True).first).to_be_visible()
    page.keyboard.press("Escape")
    expect(detail).to_have_count(0)


def test_a_viewer_is_refused_an_action_and_an_operator_is_not(
    world: Nodes, attached: str, sit: Callable[..., Sitting]
) -> None:
    viewer = sit()
    page = viewer.open(f"/sign-in?token={world.token('wall', Role.VIEWER)}")
    expect(page.get_by_text("wall (viewer)")).to_be_visible()
    viewer.open(f"/#/sessions/{attached}")
    expect(page.get_by_role("button", name="Detach")).to_be_disabled()
    expect(page.get_by_role("button", name="Detach")).to_have_attribute("title", "Needs the role operator")
    refused = page.request.delete(f"/api/v1/sessions/{attached}", headers={"Origin": world.dashboards.url})
    assert (refused.status, refused.json()["needed"], refused.json()["role"]) == (403, "operator", "viewer")
    assert [session["id"] for session in aside(world.epdg.sessions, state="established")] == [attached]
    operator = sit()
    page = operator.open(f"/sign-in?token={world.token('bench', Role.OPERATOR)}")
    expect(page.get_by_text("bench (operator)")).to_be_visible()
    operator.open(f"/#/sessions/{attached}")
    page.get_by_role("button", name="Detach").click()
    page.get_by_role("dialog").get_by_role("button", name="Detach").click()
    expect(page.get_by_text("closed", exact=True).first).to_be_visible()
    assert aside(world.epdg.sessions, state="established") == []


def test_a_refused_attach_says_its_sentence_its_clause_and_its_evidence(
    world: Nodes, sit: Callable[..., Sitting]
) -> None:
    page = sit().open("/#/sessions")
    session = world.refused()
    there = row(page, BARRED.imsi).first
    expect(there).to_contain_text("NON_3GPP_ACCESS_TO_EPC_NOT_ALLOWED")
    there.get_by_role("link").first.click()
    expect(page).to_have_url(re.compile(f"/sessions/{session}$"))
    why = page.get_by_role("region", name=re.compile("^Why", re.IGNORECASE))
    told = page.request.get(f"/api/v1/sessions/{session}/explanation").json()
    finding = told["findings"][-1]
    assert finding["evidence"]
    assert told["sentence"] == f"Subscriber {BARRED.imsi} has no subscription to non-3GPP access."
    expect(why).to_contain_text(told["sentence"])
    expect(why).to_contain_text(finding["clause"])
    expect(why).to_contain_text(finding["advice"])


def test_the_bundle_of_evidence_is_downloaded_and_tshark_reads_it(
    world: Nodes, attached: str, sit: Callable[..., Sitting], tmp_path: Path
) -> None:
    require_program("tshark")
    world.of_ue("ue.move", to="wifi-b")
    operator = sit()
    operator.open(f"/sign-in?token={world.token('judge', Role.OPERATOR)}")
    page = operator.open(f"/#/sessions/{attached}")
    page.get_by_role("checkbox", name=re.compile("keys", re.IGNORECASE)).check()
    with page.expect_download() as download:
        page.get_by_role("button", name=re.compile("evidence", re.IGNORECASE)).click()
    archive = tmp_path / download.value.suggested_filename
    download.value.save_as(archive)
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path)
    (capture,) = tmp_path.glob("*/capture.pcapng")
    tshark = Tshark(tmp_path, capture.parent / "wireshark-profile")
    eap = tshark.fields(capture, ("isakmp.messageid",), display_filter="isakmp && eap")
    assert len(eap) >= 2  # opened by the keys in the bundle
    moved = tshark.fields(capture, ("ip.src",), display_filter="isakmp.notify.msgtype == 16400")
    assert ["127.0.41.31"] in [packet["ip.src"] for packet in moved]  # UPDATE_SA_ADDRESSES
    assert tshark.complaints(capture) == []


def test_axe_finds_nothing(world: Nodes, attached: str, sit: Callable[..., Sitting]) -> None:
    require_axe()
    refused = world.refused()
    world.of_ue("ue.move", to="wifi-b")
    sitting = sit(bypass_csp=True)
    page = sitting.open(f"/sign-in?token={world.token('axe', Role.OPERATOR)}")
    found: list[str] = []
    for address, sign in (
        ("/#/sessions", "table"),
        (f"/#/sessions/{refused}", ".ladder .item"),
        (f"/#/sessions/{attached}", ".ladder .item"),
    ):
        sitting.open(address)
        page.locator(sign).first.wait_for()
        found += complaints(page)
    page.get_by_role("button", name="IKE_AUTH request 1").first.press("Enter")
    page.get_by_role("complementary", name="Details").wait_for()
    found += complaints(page)
    assert found == []


def test_a_gateway_that_goes_away_is_said_on_the_page_which_goes_on_when_it_is_back(
    world: Nodes, sit: Callable[..., Sitting]
) -> None:
    world.attach()
    sitting = sit()
    page = sitting.open("/#/sessions")
    expect(row(page, USER.imsi).first).to_be_visible()
    assert world.epdg.process is not None
    world.epdg.process.kill()
    world.epdg.process.wait()
    expect(page.get_by_text("The gateway epdg cannot be reached.")).to_be_visible()
    expect(row(page, USER.imsi).first).to_be_visible()  # what was known is still shown
    aside(world.epdg.start)
    expect(page.get_by_text("The gateway epdg cannot be reached.")).to_have_count(0)
    world.leave()  # the gateway has forgotten it: the UE gives up
    world.attach()
    expect(row(page, USER.imsi).filter(has_text="established")).to_have_count(1)
    world.leave()
    # Chromium reports the status of whatever was asked while the gateway was away.
    sitting.complaints[:] = [text for text in sitting.complaints if "503" not in text]
