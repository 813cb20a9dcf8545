"""Overview, laboratory, UEs, subscribers, fault rules and nodes on the page, before real nodes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aaa.subscribers.laboratory import laboratory_subscriber
from dashboards.tokens import Role
from tests.browser.axe import complaints, require_axe
from tests.browser.chromium import Sitting, aside, require_chromium
from tests.browser.nodes import USER, Nodes, nodes
from tests.nodes.dashboards_world import TOKEN, site
from tests.nodes.test_lab_serve import SHORT
from tests.peers.lab_node import LabProcess

require_chromium()

from playwright.sync_api import expect  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser

NEW = laboratory_subscriber(7)
SMALL: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "is_mobile": True}
PAGES = {
    "/#/": "Overview",
    "/#/lab": "Laboratory",
    "/#/ues": "UEs",
    "/#/runs": "Results",
    "/#/subscribers": "Subscribers",
    f"/#/subscribers/{USER.imsi}": "001 01",
    "/#/faults": "Fault rules",
    "/#/aaa-sessions": "AAA sessions",
    "/#/nodes": "Nodes",
    "/#/audit": "Audit log",
}

JUDGED = ("/#/", "/#/ues", f"/#/subscribers/{USER.imsi}", "/#/nodes")  # every kind of piece that pages are made of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Real nodes and a dashboard."""
    with nodes(tmp_path_factory.mktemp("nodes"), "audit_log: audit.jsonl\n") as running:
        yield running


@pytest.fixture
def sit(browser: Browser, world: Nodes) -> Iterator[Callable[..., Sitting]]:
    """Sit down at the browser with a role; nothing but refusals (422) and what is not there (404) on its console."""
    sittings: list[Sitting] = []

    def sitting(role: Role = Role.OPERATOR, **options: Any) -> Sitting:
        sittings.append(Sitting(browser, world.dashboards.url, **options))
        name = f"{role.value}-{len(world.directory.name)}-{id(sittings[-1])}"
        sittings[-1].open(f"/sign-in?token={world.token(name, role)}")
        return sittings[-1]

    yield sitting
    for each in sittings:
        each.close()
    assert [text for each in sittings for text in each.complaints if not re.search("status of (422|404)", text)] == []


def go(page: Page, path: str) -> None:
    """To another address of the page, without loading it anew."""
    page.evaluate("(hash) => { location.hash = hash; }", path.removeprefix("/"))


def title(page: Page, text: str) -> None:
    """The page has this heading."""
    expect(page.get_by_role("heading", level=1)).to_contain_text(text)


def field(page: Page, name: str) -> Locator:
    """A member's field in the open form."""
    return page.get_by_role("dialog").locator(f"[data-field='{name}']")


def fill(page: Page, name: str, text: str) -> None:
    """Write into it."""
    field(page, name).get_by_role("textbox").or_(field(page, name).get_by_role("spinbutton")).fill(text)


def send(page: Page) -> None:
    """Press the open form's last button."""
    page.get_by_role("dialog").locator(".dialog-actions .primary").click()


def confirm(page: Page) -> None:
    """Say yes."""
    page.locator("#confirm").click()


def test_overview_follows_what_happens(world: Nodes, sit: Callable[..., Sitting]) -> None:
    page = sit().open("/#/")
    tiles = page.locator("[data-tile=sessions]")
    expect(tiles.locator(".tile-value")).to_have_text("0")
    world.attach()
    try:
        expect(tiles.locator(".tile-value")).to_have_text("1")
        expect(page.locator("[data-card=outcomes]")).to_contain_text("success")
        expect(page.locator("[data-card=times]")).to_contain_text("Attach")
        expect(page.locator("[data-card=peers]")).to_contain_text("aaa.epc.mnc001.mcc001.3gppnetwork.org")
        expect(page.get_by_role("img", name=re.compile("Attaches, moves and failures .* attaches: "))).to_be_visible()
        page.locator("[data-card=outcomes]").get_by_role("link", name="success").click()
        title(page, "Sessions")
        expect(page.locator("tr[data-session]")).to_have_count(1)
    finally:
        world.leave()


def test_keys_lead_to_every_section_and_can_be_switched_off(sit: Callable[..., Sitting]) -> None:
    page = sit().open("/#/")
    title(page, "Overview")
    for keys, heading in (
        ("s", "Sessions"),
        ("l", "Laboratory"),
        ("u", "Subscribers"),
        ("n", "Nodes"),
        ("o", "Overview"),
    ):
        page.keyboard.press("g")
        page.keyboard.press(keys)
        title(page, heading)
        expect(page.locator(".sections a[aria-current=page]")).to_have_count(1)
        expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_contain_text("Search")
    dialog.get_by_role("checkbox").uncheck()
    dialog.get_by_role("button", name="Close").click()
    page.keyboard.press("g")
    page.keyboard.press("s")
    title(page, "Overview")
    page.get_by_role("button", name="Show the keys").click()
    dialog.get_by_role("checkbox").check()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Show the keys")).to_be_focused()
    page.keyboard.press("g")
    page.keyboard.press("s")
    title(page, "Sessions")


def test_a_subscriber_is_added_changed_and_removed(sit: Callable[..., Sitting]) -> None:
    assert NEW.opc is not None
    page = sit().open("/#/subscribers")
    expect(page.locator(f"tr[data-imsi='{USER.imsi}']")).to_contain_text("internet")
    page.locator("#add-subscriber").click()
    fill(page, "imsi", "12x")
    fill(page, "k", "ff")
    send(page)
    expect(field(page, "imsi").locator(".wrong")).to_contain_text("pattern")
    fill(page, "imsi", str(NEW.imsi))
    send(page)
    expect(field(page, "k").locator(".wrong")).to_contain_text("expected 32 hexadecimal digits")
    expect(field(page, "k").get_by_role("textbox")).to_be_focused()
    fill(page, "k", NEW.k.reveal().hex())
    fill(page, "opc", NEW.opc.reveal().hex())
    fill(page, "ipv4", "10.45.300.1")
    send(page)
    expect(page.get_by_role("dialog")).to_contain_text("got '10.45.300.1'")
    fill(page, "ipv4", "10.45.3.1")
    send(page)
    expect(page.locator("#apns")).to_contain_text("10.45.3.1")
    expect(page.locator("[data-card=registration]")).to_contain_text("not attached")
    page.locator("#change-subscriber").click()
    fill(page, "msisdn", "491710000007")
    send(page)
    expect(page.locator("#summary")).to_contain_text("Changed")
    expect(page.locator("[data-card=subscription]")).to_contain_text("491710000007")
    page.locator("#remove-subscriber").click()
    confirm(page)
    title(page, "Subscribers")
    expect(page.locator(f"tr[data-imsi='{USER.imsi}']")).to_be_visible()
    expect(page.locator(f"tr[data-imsi='{NEW.imsi}']")).to_have_count(0)


def test_subscribers_are_imported_from_a_file(sit: Callable[..., Sitting]) -> None:
    assert NEW.opc is not None
    page = sit().open("/#/subscribers")
    page.locator("#import-subscribers").click()
    wrong, right = (
        f"IMSI,Ki,OPc\n001010000000008,{key},{NEW.opc.reveal().hex()}\n" for key in ("nonsense", NEW.k.reveal().hex())
    )
    chooser = page.locator("#import-file")
    chooser.set_input_files({"name": "sims.csv", "mimeType": "text/csv", "buffer": wrong.encode()})
    send(page)
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("line 2")
    chooser.set_input_files({"name": "sims.csv", "mimeType": "text/csv", "buffer": right.encode()})
    send(page)
    expect(page.locator("#summary")).to_contain_text("1 subscriber added")
    page.get_by_role("searchbox").fill("0000008")
    expect(page.locator("tr[data-imsi]")).to_have_count(1)
    page.locator("tr[data-imsi='001010000000008']").get_by_role("link").click()
    page.locator("#remove-subscriber").click()
    confirm(page)
    title(page, "Subscribers")


def test_a_fault_rule_is_added_and_removed_and_the_audit_log_says_so(sit: Callable[..., Sitting]) -> None:
    page = sit().open("/#/faults")
    expect(page.locator("#summary")).to_contain_text("aaa answers as it should")
    page.locator("#add-fault").click()
    fill(page, "name", "unknown-once")
    fill(page, "match.imsi", "nobody")
    fill(page, "action.result", "DIAMETER_ERROR_USER_UNKNOWN")
    fill(page, "times", "1")
    send(page)
    expect(field(page, "match.imsi").locator(".wrong")).to_contain_text("expected an IMSI")
    fill(page, "match.imsi", "99999*")
    send(page)
    rule = page.locator("tr[data-rule=unknown-once]")
    expect(rule).to_contain_text("IMSI 99999*")
    expect(rule).to_contain_text("DIAMETER_ERROR_USER_UNKNOWN")
    rule.get_by_role("button", name="Remove").click()
    expect(page.locator("#summary")).to_contain_text("aaa answers as it should")
    page.get_by_role("link", name="Nodes").first.click()
    page.get_by_role("link", name="Audit log").click()
    expect(page.locator("#audit")).to_contain_text("/faults/unknown-once")


def test_a_ue_attaches_moves_carries_traffic_and_detaches(world: Nodes, sit: Callable[..., Sitting]) -> None:
    page = sit().open("/#/ues")
    ue = page.locator("[data-ue=ue]")
    ue.locator("[data-key=attach-wifi-a]").click()
    expect(ue.locator("[data-access=wifi-a]")).to_contain_text("here")
    try:
        ue.locator("[data-key=move-wifi-b]").click()
        expect(ue.locator("[data-access=wifi-b]")).to_contain_text("here")
        expect(ue.locator("tr[data-outcome=completed]")).to_contain_text("wifi-a → wifi-b")
        ue.get_by_role("textbox", name="Destination address").fill("10.99.0.1")
        ue.get_by_role("button", name="Start").click()
        flow = ue.locator("tr[data-flow]").first
        expect(flow).to_contain_text("running")
        stop = flow.get_by_role("button", name="Stop")
        stop.focus()
        sent = flow.locator("td[data-label=Sent]")
        before = sent.inner_text()
        expect(sent).not_to_have_text(before)
        expect(stop).to_be_focused()  # though the table was drawn anew
        page.keyboard.press("Enter")
        expect(flow).to_contain_text("stopped")
        ue.get_by_role("button", name="Detach").click()
        confirm(page)
        expect(ue.locator(".connection-head")).to_contain_text("closed")
    finally:
        world.leave()


def test_a_schedule_is_run_watched_and_its_result_shown(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "lab" / "own").mkdir(parents=True)
    (tmp_path / "lab" / "own" / "short.yaml").write_text(SHORT, encoding="utf-8")
    lab = LabProcess(tmp_path / "lab", "schedules: own\n")
    bench = f"  - {{ name: bench, kind: lab, control: {lab.control} }}"
    aside(lab.__enter__)
    try:
        with site(tmp_path, f"results: {lab.results}", nodes=bench) as running:
            sitting = Sitting(browser, running.url)
            page = sitting.open(f"/sign-in?token={TOKEN}")
            sitting.open("/#/lab")
            expect(page.locator("[data-schedule=walk-home]")).to_be_visible()
            short = page.locator("[data-schedule=short]")
            expect(short).to_contain_text("There and back")
            short.get_by_role("button", name="Run").click()
            fill(page, "seed", "-1")
            send(page)
            expect(field(page, "seed").locator(".wrong")).to_contain_text("greater than or equal to 0")
            fill(page, "seed", "7")
            send(page)
            title(page, "There and back")
            steps = page.get_by_role("list", name="Steps")
            expect(steps).to_contain_text("Moved from a to b", timeout=60_000)
            expect(page.locator(".run-head")).to_contain_text("held", timeout=60_000)
            expect(page.locator("#moves")).to_contain_text("a → b")
            expect(page.get_by_role("img", name=re.compile("Timeline of short-virtual-7"))).to_have_js_property(
                "complete", True
            )
            page.get_by_role("link", name="Laboratory").click()
            expect(page.locator("#lab-runs")).to_contain_text("held")
            page.locator("#lab-runs").get_by_role("link", name="Result").click()
            title(page, "Run short-virtual-7")
            assert [text for text in sitting.complaints if "status of 422" not in text] == []
            sitting.close()
    finally:
        aside(lab.__exit__, None, None, None)


def test_a_viewer_is_offered_no_action_and_told_why(sit: Callable[..., Sitting]) -> None:
    page = sit(Role.VIEWER).open("/#/nodes")
    for path, button in (
        ("/#/subscribers", "#add-subscriber"),
        (f"/#/subscribers/{USER.imsi}", "#remove-subscriber"),
        ("/#/faults", "#add-fault"),
        ("/#/ues", "[data-key=attach-wifi-a]"),
    ):
        go(page, path)
        expect(page.locator(button)).to_be_disabled()
        expect(page.locator(button)).to_have_attribute("title", "Needs the role operator")
        expect(page.locator("#unable")).to_contain_text("looking is possible")
    go(page, "/#/audit")
    expect(page.locator(".empty")).to_contain_text("needs the role operator")


def test_what_is_not_there_is_said(sit: Callable[..., Sitting]) -> None:
    page = sit().open("/#/nodes")
    for path, words in (
        ("/#/lab", "No laboratory is configured"),
        ("/#/subscribers?node=nobody", "There is no AAA server nobody"),
        (f"/#/subscribers/{NEW.imsi}", str(NEW.imsi)),
        ("/#/lab/runs/0", "There is no laboratory"),
    ):
        go(page, path)
        expect(page.locator(".empty").first).to_contain_text(words)
    go(page, "/#/nothing/here")
    title(page, "Overview")
    go(page, "/#/subscribers/%E0%A4%A")  # no percent-encoding
    expect(page.locator("h1")).to_contain_text("%E0")


def test_no_page_scrolls_sideways_on_a_phone(sit: Callable[..., Sitting]) -> None:
    sitting = sit(**SMALL)
    page = sitting.open("/#/sessions")
    for path, heading in PAGES.items():
        go(page, path)
        title(page, heading)
        expect(page.locator(".card").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 360, path
        place = page.locator(".sections a[aria-current]").bounding_box()
        assert place is not None
        assert place["y"] > 600  # a bar at the thumb


def test_axe_finds_nothing(world: Nodes, sit: Callable[..., Sitting]) -> None:
    require_axe()
    sitting = sit(bypass_csp=True)
    world.attach()
    try:
        found: list[str] = []
        for path in JUDGED:
            page = sitting.open(path)
            title(page, PAGES[path])
            expect(page.locator(".card").first).to_be_visible()
            found += complaints(page)
        page = sitting.open("/#/subscribers")
        page.locator("#add-subscriber").click()
        found += complaints(page)
        assert found == []
    finally:
        world.leave()
