"""The page's overview, UEs, subscribers, fault rules and nodes in Debian's Chromium, beside real nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aaa.subscribers.laboratory import laboratory_subscriber
from dashboards.tokens import Role, Tokens
from tests.interop.test_dashboard_browser import Page, browser, pytestmark  # noqa: F401 - a fixture, and its marks
from tests.nodes.dashboards_world import ACCESS_B, TOKEN, Site, site
from tests.nodes.test_lab_serve import SHORT
from tests.nodes.test_ue_node import GATEWAY, USER, Ue
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import EpdgProcess
from tests.peers.lab_node import LabProcess

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

NEW = laboratory_subscriber(7)
PAGES = {
    "overview": "/#/",
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
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An AAA server named ``core``, and the UE ``phone`` that may attach, as the dashboard's configuration has them."""
    core = AaaProcess(tmp_path_factory.mktemp("aaa"))
    core.provision(USER)
    with core, EpdgProcess(tmp_path_factory.mktemp("epdg"), core.port, address=GATEWAY) as epdg:
        phone = Ue(tmp_path_factory.mktemp("ue"), epdg.authority)
        with phone.node("run"):
            yield (
                f"  - {{ name: core, kind: aaa, control: {core.control} }}\n"
                f"  - {{ name: phone, kind: ue, control: {phone.control} }}"
            )


@pytest.fixture(scope="module")
def running(nodes: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    tokens = directory / "tokens.json"
    with site(directory, f"tokens: {tokens}\naudit_log: {directory / 'audit.jsonl'}", nodes=nodes) as found:
        yield found


@pytest.fixture
def page(browser: webdriver.Chrome, running: Site) -> Iterator[Page]:  # noqa: F811
    """The page of an operator."""
    browser.delete_all_cookies()
    shown = Page(browser, running)
    shown.open(f"/sign-in?token={TOKEN}")
    shown.see("#who", "operator")
    shown.console()
    yield shown
    browser.get("about:blank")


def press(page: Page, keys: str) -> None:
    """Keys, as a person presses them who is in no field."""
    page.driver.switch_to.active_element.send_keys(keys)


def fill(page: Page, field: str, text: str) -> None:
    """Write into a field of the open form."""
    place = page.see(f"dialog [data-field='{field}'] input")
    place.clear()
    place.send_keys(text)


def send(page: Page) -> None:
    """Press the open form's last button."""
    page.see("dialog .dialog-actions .primary").click()


def test_overview_follows_what_happens(browser: webdriver.Chrome, tmp_path: Path) -> None:  # noqa: F811
    with site(tmp_path) as running:
        browser.delete_all_cookies()
        page = Page(browser, running)
        page.open()
        page.see("h1", "Overview")
        page.see("[data-tile=sessions] .tile-value", "0")
        running.do(running.world.attach, 1)
        page.see("[data-tile=sessions] .tile-value", "1")
        page.see("[data-card=outcomes]", "success")
        page.see("[data-card=peers]", "aaa.epc.mnc001.mcc001.3gppnetwork.org")
        page.see("[data-card=drops] tr", "replayed")
        assert "Attaches, moves and failures" in page.see("[data-card=rates] svg").get_attribute("aria-label")
        running.do(running.world.stop, "epdg")
        page.see("[data-notice=away-epdg]", "cannot be reached")
        page.see("[data-tile=sessions]", "no gateway answers")
        running.do(running.world.start, "epdg")
        page.gone("[data-notice=away-epdg]")
        page.see("[data-tile=sessions] .tile-value", "1")
        page.see("[data-card=outcomes] a", "success").click()
        page.see("h1", "Sessions")
        page.see("tr[data-session=s000001]")
        browser.get("about:blank")


def test_keys_lead_to_every_section_and_can_be_switched_off(page: Page) -> None:
    page.open()
    page.see("h1", "Overview")
    for keys, title in (
        ("gs", "Sessions"),
        ("gl", "Laboratory"),
        ("gu", "Subscribers"),
        ("gn", "Nodes"),
        ("go", "Overview"),
    ):
        press(page, keys)
        page.see("h1", title)
        page.see(".sections a[aria-current=page]")
        assert page.driver.switch_to.active_element.get_attribute("id") == "main"
    press(page, "?")
    page.see("#shortcuts-dialog kbd", "?")
    page.see("#shortcuts-on").click()
    page.see("#shortcuts-dialog .primary").click()
    page.gone("#shortcuts-dialog")
    press(page, "gs")
    page.see("h1", "Overview")
    page.see("#keys").click()
    page.see("#shortcuts-on").click()
    press(page, Keys.ESCAPE)
    page.gone("#shortcuts-dialog")
    assert page.driver.switch_to.active_element.get_attribute("id") == "keys"
    press(page, "gs")
    page.see("h1", "Sessions")


def test_a_subscriber_is_added_changed_and_removed(page: Page) -> None:
    assert NEW.opc is not None
    page.open(PAGES["subscribers"])
    page.see(f"tr[data-imsi='{USER.imsi}']", "internet")
    page.see("#add-subscriber").click()
    fill(page, "imsi", "12x")
    fill(page, "k", "ff")
    send(page)
    page.see("[data-field=imsi] .wrong", "pattern")
    fill(page, "imsi", str(NEW.imsi))
    send(page)
    page.see("[data-field=k] .wrong", "expected 32 hexadecimal digits")
    assert page.driver.switch_to.active_element == page.see("[data-field=k] input")
    fill(page, "k", NEW.k.reveal().hex())
    fill(page, "opc", NEW.opc.reveal().hex())
    page.see("dialog .form-row [data-field=ipv4] input").send_keys("10.45.300.1")
    send(page)
    page.see("dialog .form-row [data-field=ipv4] .wrong, dialog .trouble", "10.45.300.1")
    fill(page, "ipv4", "10.45.3.1")
    send(page)
    page.see("#apns", "10.45.3.1")
    page.see("[data-card=registration]", "not attached")
    page.see("#change-subscriber").click()
    fill(page, "msisdn", "491710000007")
    send(page)
    page.see("#summary", "Changed")
    page.see("[data-card=subscription]", "491710000007")
    page.see("#remove-subscriber").click()
    page.see("#confirm").click()
    page.see("h1", "Subscribers")
    page.see(f"tr[data-imsi='{USER.imsi}']")
    assert not page.all(f"tr[data-imsi='{NEW.imsi}']")


def test_subscribers_are_imported_from_a_file(page: Page, tmp_path: Path) -> None:
    assert NEW.opc is not None
    page.open(PAGES["subscribers"])
    page.see("#import-subscribers").click()
    file = tmp_path / "sims.csv"
    file.write_text("IMSI,Ki,OPc\n001010000000008,nonsense,00\n", encoding="utf-8")
    page.see("#import-file").send_keys(str(file))
    send(page)
    page.see("#import-dialog .trouble", "line 2")
    file = tmp_path / "right.csv"
    file.write_text(f"IMSI,Ki,OPc\n001010000000008,{NEW.k.reveal().hex()},{NEW.opc.reveal().hex()}\n", encoding="utf-8")
    page.see("#import-file").send_keys(str(file))
    send(page)
    page.see("#summary", "1 subscriber added")
    page.see("#search").send_keys("0000008")
    page.wait(lambda: len(page.all("#subscribers tbody tr")) == 1)
    page.see("tr[data-imsi='001010000000008'] a").click()
    page.see("#remove-subscriber").click()
    page.see("#confirm").click()
    page.see("h1", "Subscribers")


def test_a_fault_rule_is_added_and_removed(page: Page) -> None:
    page.open(PAGES["fault rules"])
    page.see("#summary", "core answers as it should")
    page.see("#add-fault").click()
    fill(page, "name", "unknown-once")
    fill(page, "match.imsi", "nobody")
    fill(page, "action.result", "DIAMETER_ERROR_USER_UNKNOWN")
    fill(page, "times", "1")
    send(page)
    page.see("[data-field='match.imsi'] .wrong", "expected an IMSI")
    fill(page, "match.imsi", "99999*")
    send(page)
    page.see("tr[data-rule=unknown-once]", "DIAMETER_ERROR_USER_UNKNOWN")
    page.see("tr[data-rule=unknown-once]", "IMSI 99999*")
    page.see("tr[data-rule=unknown-once] button").click()
    page.see("#summary", "core answers as it should")
    page.open(PAGES["audit log"])
    page.see("#audit tr", "/faults/unknown-once")


def test_a_ue_attaches_moves_carries_traffic_and_detaches(page: Page) -> None:
    page.open(PAGES["UEs"])
    page.see("[data-ue=phone] [data-access=wifi-a] [data-key=attach-wifi-a]").click()
    page.see("[data-ue=phone] [data-access=wifi-a].here", "here")
    page.see("[data-ue=phone] .connection-head", "established")
    move = "[data-ue=phone] [data-key=move-wifi-b]"
    page.see(move).click()
    page.see("[data-ue=phone] [data-access=wifi-b].here")
    page.see("#ue-moves tr[data-outcome=completed]", "wifi-a → wifi-b")
    page.see("#ue-moves", "kept")
    form = page.see("[data-ue=phone] .traffic-form")
    form.find_element(By.CSS_SELECTOR, "input[type=text]").send_keys("10.99.0.1")
    form.find_element(By.CSS_SELECTOR, "button").click()
    page.see("[data-ue=phone] tr[data-flow]", "running")
    stop = page.see("[data-ue=phone] tr[data-flow] button", "Stop")
    key = stop.get_attribute("data-key")
    page.driver.execute_script("arguments[0].focus()", stop)
    sent = "return document.querySelector('tr[data-flow] td[data-label=Sent]').textContent"
    before = page.driver.execute_script(sent)
    page.wait(lambda: page.driver.execute_script(sent) != before)
    assert page.driver.switch_to.active_element.get_attribute("data-key") == key  # though the table was drawn anew
    press(page, Keys.ENTER)
    page.see("[data-ue=phone] tr[data-flow]", "stopped")
    page.see("[data-ue=phone] .connection .danger", "Detach").click()
    page.see("#confirm").click()
    page.see("[data-ue=phone] .connection-head", "closed")


def test_a_schedule_is_run_watched_and_its_result_shown(browser: webdriver.Chrome, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "lab" / "own").mkdir(parents=True)
    (tmp_path / "lab" / "own" / "short.yaml").write_text(SHORT, encoding="utf-8")
    with LabProcess(tmp_path / "lab", "schedules: own\n") as lab:
        bench = f"  - {{ name: bench, kind: lab, control: {lab.control} }}"
        with site(tmp_path, f"results: {lab.results}", nodes=bench) as running:
            browser.delete_all_cookies()
            page = Page(browser, running)
            page.open(f"/sign-in?token={TOKEN}")
            page.open("/#/lab")
            page.see("[data-schedule=short] h3", "There and back")
            page.see("[data-schedule=walk-home]")
            page.see("[data-schedule=short] [data-key=start-short]").click()
            fill(page, "seed", "-1")
            send(page)
            page.see("[data-field=seed] .wrong", "greater than or equal to 0")
            fill(page, "seed", "7")
            send(page)
            page.see("h1", "There and back")
            page.see("#run-steps .script", "move b")
            page.see("#run-steps [data-name=moved]", "Moved from a to b")
            page.see(".run-head .mark.good", "held")
            page.see(".run-result #moves", "a → b")
            picture = page.see(".run-result img.timeline")
            page.wait(lambda: page.driver.execute_script("return arguments[0].naturalWidth", picture) > 0)
            page.see("[data-key=back]").click()
            page.see("#lab-runs tr", "held")
            page.see("#lab-runs [data-key^=result]").click()
            page.see("h1", "Run short-virtual-7")
            browser.get("about:blank")


def test_a_viewer_is_offered_no_action_and_told_why(page: Page) -> None:
    tokens = page.site.config.tokens
    assert tokens is not None
    token = Tokens(tokens).add("wall", Role.VIEWER)
    page.driver.delete_all_cookies()
    page.open(f"/sign-in?token={token}")
    page.see("#who", "wall (viewer)")
    for path, button in (
        ("subscribers", "#add-subscriber"),
        ("subscriber", "#remove-subscriber"),
        ("fault rules", "#add-fault"),
        ("UEs", "[data-ue=phone] [data-key=attach-wifi-a]"),
    ):
        page.open(PAGES[path])
        page.see(f"{button}[title='Needs the role operator']:disabled")
        page.see("#unable", "looking is possible")
    page.open(PAGES["audit log"])
    page.see(".empty", "needs the role operator")


def test_what_is_not_there_is_said(page: Page) -> None:
    page.open(PAGES["laboratory"])
    page.see(".empty", "No laboratory is configured")
    page.open("/#/subscribers?node=nobody")
    page.see(".empty", "There is no AAA server nobody")
    page.open(f"/#/subscribers/{NEW.imsi}?node=core")
    page.see(".empty", str(NEW.imsi))
    page.open("/#/lab/runs/nothing")
    page.see(".empty")


def test_no_page_scrolls_sideways_on_a_phone(page: Page) -> None:
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        for name, path in PAGES.items():
            page.open(path)
            page.see("h1")
            page.wait(lambda: page.all(".card"))
            assert page.driver.execute_script("return document.documentElement.scrollWidth") == 360, name
            assert page.see(".sections a[aria-current]").rect["y"] > 600  # a bar at the thumb
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_no_address_of_the_page_breaks_it(page: Page) -> None:
    page.site.do(page.site.world.attach, 1)
    page.site.do(page.site.world.move, "s000001", ACCESS_B)
    for path in (*PAGES.values(), "/#/sessions?state=closed", "/#/nothing/here", "/#/%E0%A4%A"):
        page.open(path)
        page.see("h1")
    assert all("404" in complaint for complaint in page.console())
