"""The page's overview, UEs, subscribers, fault rules and nodes before a real AAA server and UE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aaa.subscribers.laboratory import laboratory_subscriber
from dashboards.tokens import Role, Tokens
from tests.browser.axe import complaints, has_axe, require_axe
from tests.browser.chromium import PHONE, WIDE, require_chromium
from tests.browser.nodes import core_and_phone
from tests.browser.seat import Seat
from tests.nodes.dashboards_world import ACCESS_B, TOKEN, Site, site
from tests.nodes.test_ue_node import USER

require_chromium()

from playwright.sync_api import expect  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

NEW = laboratory_subscriber(7)
PAGES = {
    "overview": "/#/",
    "failed attaches": "/#/attempts",
    "laboratory": "/#/lab",
    "UEs": "/#/ues",
    "results": "/#/runs",
    "subscribers": "/#/subscribers?node=core",
    "subscriber": f"/#/subscribers/{USER.imsi}?node=core",
    "fault rules": "/#/faults?node=core",
    "AAA sessions": "/#/aaa-sessions?node=core",
    "nodes": "/#/nodes",
    "audit log": "/#/audit",
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site that has an AAA server named ``core`` and the UE ``phone`` besides."""
    directory = tmp_path_factory.mktemp("site")
    extra = f"tokens: {directory / 'tokens.json'}\naudit_log: {directory / 'audit.jsonl'}"
    with core_and_phone(tmp_path_factory.mktemp("nodes")) as nodes, site(directory, extra, nodes=nodes) as found:
        yield found


@pytest.fixture
def at(browser: Browser, running: Site) -> Iterator[Seat]:
    """An operator."""
    seat = Seat(browser, running.url, bypass_csp=True)
    seat.open(f"/sign-in?token={TOKEN}")
    seat.see("#who", "operator")
    yield seat
    seat.close()


def test_overview_follows_what_happens(browser: Browser, tmp_path: Path) -> None:
    with site(tmp_path) as running:
        at = Seat(browser, running.url)
        at.open()
        at.see("h1", "Overview")
        at.see("[data-tile=sessions] .tile-value", "0")
        running.do(running.world.attach, 1)
        at.see("[data-tile=sessions] .tile-value", "1")
        at.see("[data-card=outcomes]", "success")
        at.see("[data-card=peers]", "aaa.epc.mnc001.mcc001.3gppnetwork.org")
        at.see("[data-card=drops] tr", "replayed")
        label = at.see("[data-card=rates] svg").get_attribute("aria-label")
        assert label is not None
        assert "Attaches, moves and failures" in label
        running.do(running.world.stop, "epdg")
        at.see("[data-notice=away-epdg]", "cannot be reached")
        at.see("[data-tile=sessions]", "no gateway answers")
        running.do(running.world.start, "epdg")
        expect(at.page.locator("[data-notice=away-epdg]")).to_have_count(0)
        at.see("[data-tile=sessions] .tile-value", "1")
        at.see("[data-card=outcomes] a", "success").click()
        at.see("h1", "Sessions")
        at.see("tr[data-session=s000001]")
        at.close()


def test_keys_lead_to_every_section_and_can_be_switched_off(at: Seat) -> None:
    at.open()
    at.see("h1", "Overview")
    for keys, title in (
        ("gs", "Sessions"),
        ("gl", "Laboratory"),
        ("gu", "Subscribers"),
        ("gn", "Nodes"),
        ("go", "Overview"),
    ):
        at.page.keyboard.type(keys)
        at.see("h1", title)
        at.see(".sections a[aria-current=page]")
        assert at.focused("id") == "main"
    at.page.keyboard.press("?")
    at.see("#shortcuts-dialog kbd", "?")
    at.see("#shortcuts-on").click()
    at.see("#shortcuts-dialog .primary").click()
    expect(at.page.locator("#shortcuts-dialog")).to_have_count(0)
    at.page.keyboard.type("gs")
    at.see("h1", "Overview")
    at.see("#keys").click()
    at.see("#shortcuts-on").click()
    at.page.keyboard.press("Escape")
    expect(at.page.locator("#shortcuts-dialog")).to_have_count(0)
    assert at.focused("id") == "keys"
    at.page.keyboard.type("gs")
    at.see("h1", "Sessions")


def test_a_subscriber_is_added_changed_and_removed(at: Seat) -> None:
    assert NEW.opc is not None
    at.open(PAGES["subscribers"])
    at.see(f"tr[data-imsi='{USER.imsi}']", "internet")
    at.see("#add-subscriber").click()
    at.fill("imsi", "12x")
    at.fill("k", "ff")
    at.send()
    at.see("[data-field=imsi] .wrong", "pattern")
    at.fill("imsi", str(NEW.imsi))
    at.send()
    at.see("[data-field=k] .wrong", "expected 32 hexadecimal digits")
    expect(at.see("[data-field=k] input")).to_be_focused()
    at.fill("k", NEW.k.reveal().hex())
    at.fill("opc", NEW.opc.reveal().hex())
    at.see("dialog .form-row [data-field=ipv4] input").fill("10.45.300.1")
    at.send()
    at.see("dialog .form-row [data-field=ipv4] .wrong, dialog .trouble", "10.45.300.1")
    at.fill("ipv4", "10.45.3.1")
    at.send()
    at.see("#apns", "10.45.3.1")
    at.see("[data-card=registration]", "not attached")
    at.see("#change-subscriber").click()
    at.fill("msisdn", "491710000007")
    at.send()
    at.see("#summary", "Changed")
    at.see("[data-card=subscription]", "491710000007")
    at.see("#remove-subscriber").click()
    at.see("#confirm").click()
    at.see("h1", "Subscribers")
    at.see(f"tr[data-imsi='{USER.imsi}']")
    expect(at.page.locator(f"tr[data-imsi='{NEW.imsi}']")).to_have_count(0)


def test_subscribers_are_imported_from_a_file(at: Seat, tmp_path: Path) -> None:
    assert NEW.opc is not None
    at.open(PAGES["subscribers"])
    at.see("#import-subscribers").click()
    file = tmp_path / "sims.csv"
    file.write_text("IMSI,Ki,OPc\n001010000000008,nonsense,00\n", encoding="utf-8")
    at.see("#import-file").set_input_files(file)
    at.send()
    at.see("#import-dialog .trouble", "line 2")
    file = tmp_path / "right.csv"
    file.write_text(f"IMSI,Ki,OPc\n001010000000008,{NEW.k.reveal().hex()},{NEW.opc.reveal().hex()}\n", encoding="utf-8")
    at.see("#import-file").set_input_files(file)
    at.send()
    at.see("#summary", "1 subscriber added")
    at.see("#search").fill("0000008")
    expect(at.page.locator("#subscribers tbody tr")).to_have_count(1)
    at.see("tr[data-imsi='001010000000008'] a").click()
    at.see("#remove-subscriber").click()
    at.see("#confirm").click()
    at.see("h1", "Subscribers")


def test_a_fault_rule_is_added_and_removed(at: Seat) -> None:
    at.open(PAGES["fault rules"])
    at.see("#summary", "core answers as it should")
    at.see("#add-fault").click()
    at.fill("name", "unknown-once")
    at.fill("match.imsi", "nobody")
    at.fill("action.result", "DIAMETER_ERROR_USER_UNKNOWN")
    at.fill("times", "1")
    at.send()
    at.see("[data-field='match.imsi'] .wrong", "expected an IMSI")
    at.fill("match.imsi", "99999*")
    at.send()
    at.see("tr[data-rule=unknown-once]", "DIAMETER_ERROR_USER_UNKNOWN")
    at.see("tr[data-rule=unknown-once]", "IMSI 99999*")
    at.see("tr[data-rule=unknown-once] button").click()
    at.see("#summary", "core answers as it should")
    at.open(PAGES["audit log"])
    at.see("#audit tr", "/faults/unknown-once")


def test_a_ue_attaches_moves_carries_traffic_and_detaches(at: Seat) -> None:
    at.open(PAGES["UEs"])
    at.see("[data-ue=phone] [data-access=wifi-a] [data-key=attach-wifi-a]").click()
    at.see("[data-ue=phone] [data-access=wifi-a].here", "here")
    at.see("[data-ue=phone] .connection-head", "established")
    move = "[data-ue=phone] [data-key=move-wifi-b]"
    at.see(move).click()
    at.see("[data-ue=phone] [data-access=wifi-b].here")
    at.see("#ue-moves tr[data-outcome=completed]", "wifi-a → wifi-b")
    at.see("#ue-moves", "kept")
    form = at.see("[data-ue=phone] .traffic-form")
    form.locator("input[type=text]").first.fill("10.99.0.1")
    form.get_by_role("button").first.click()
    at.see("[data-ue=phone] tr[data-flow]", "running")
    stop = at.see("[data-ue=phone] tr[data-flow] button", "Stop")
    key = stop.get_attribute("data-key")
    stop.focus()
    sent = at.see("tr[data-flow] td[data-label=Sent]")
    expect(sent).not_to_have_text(sent.inner_text())
    assert at.focused("data-key") == key  # though the table was drawn anew
    at.page.keyboard.press("Enter")
    at.see("[data-ue=phone] tr[data-flow]", "stopped")
    at.see("[data-ue=phone] .connection .danger", "Detach").click()
    at.see("#confirm").click()
    at.see("[data-ue=phone] .connection-head", "closed")


def test_a_viewer_is_offered_no_action_and_told_why(at: Seat, running: Site) -> None:
    tokens = running.config.tokens
    assert tokens is not None
    token = Tokens(tokens).add("wall", Role.VIEWER)
    at.context.clear_cookies()
    at.open(f"/sign-in?token={token}")
    at.see("#who", "wall (viewer)")
    for path, button in (
        ("subscribers", "#add-subscriber"),
        ("subscriber", "#remove-subscriber"),
        ("fault rules", "#add-fault"),
        ("UEs", "[data-ue=phone] [data-key=attach-wifi-a]"),
    ):
        at.open(PAGES[path])
        at.see(f"{button}[title='Needs the role operator']:disabled")
        at.see("#unable", "looking is possible")
    at.open(PAGES["audit log"])
    at.see(".empty", "needs the role operator")


def test_what_is_not_there_is_said(at: Seat) -> None:
    at.open(PAGES["laboratory"])
    at.see(".empty", "No laboratory is configured")
    at.open("/#/subscribers?node=nobody")
    at.see(".empty", "There is no AAA server nobody")
    at.open(f"/#/subscribers/{NEW.imsi}?node=core")
    at.see(".empty", str(NEW.imsi))
    at.open("/#/lab/runs/nothing")
    at.see(".empty")


def test_every_page_by_its_address_on_a_phone_and_before_axe(at: Seat, running: Site) -> None:
    """One after the other: nothing breaks it, nothing scrolls sideways, axe finds nothing."""
    running.do(running.world.attach, 1)
    running.do(running.world.move, "s000001", ACCESS_B)
    running.do(running.world.refuse, 2)
    found: list[str] = []
    for name, path in PAGES.items():
        at.open(path)
        at.see("h1")
        at.see(".card")
        found += complaints(at.page) if has_axe() else []
        at.page.set_viewport_size(PHONE)
        assert at.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], name
        box = at.see(".sections a[aria-current]").bounding_box()
        assert box is not None
        assert box["y"] > 600, name  # a bar at the thumb
        at.page.set_viewport_size(WIDE)
    assert found == []
    for path in ("/#/sessions?state=closed", "/#/nothing/here", "/#/%E0%A4%A"):
        at.open(path)
        at.see("h1")
    assert all("404" in complaint for complaint in at.complaints)
    require_axe()  # what else is asked here has been looked at
