"""UEs over the dashboard's REST interface: real ``aaa``, ``epdg`` and ``ue`` processes, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.nodes.dashboards_world import TOKEN, site
from tests.nodes.test_dashboards_api import API, BEARER, assert_problem
from tests.nodes.test_ue_node import ADDRESSES, GATEWAY, USER, Ue
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import CORE_HOST, EpdgProcess
from tests.peers.processes import wait_until

PHONE = "/ues/phone"


@pytest.fixture(scope="module")
def ue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ue]:
    node = AaaProcess(tmp_path_factory.mktemp("aaa"))
    node.provision(USER)
    with node, EpdgProcess(tmp_path_factory.mktemp("epdg"), node.port, address=GATEWAY) as epdg:
        phone = Ue(tmp_path_factory.mktemp("ue"), epdg.authority)
        with phone.node("run"):
            yield phone


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "audit.jsonl"


@pytest.fixture(scope="module")
def client(ue: Ue, audit: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    directory = tmp_path_factory.mktemp("site")
    nodes = f"  - {{ name: phone, kind: ue, control: {ue.control} }}\n"
    nodes += f"  - {{ name: gone, kind: ue, control: {directory / 'gone.sock'} }}"
    with (
        site(directory, f"audit_log: {audit}", nodes=nodes) as running,
        httpx.Client(base_url=running.url + API, timeout=30, headers=BEARER) as connected,
    ):
        yield connected


@pytest.fixture
def attached(client: httpx.Client) -> Iterator[dict[str, Any]]:
    """A session that is there for one test."""
    made = client.post(f"{PHONE}/attach", json={"access": "wifi-a"})
    assert made.status_code == 200, made.text
    yield made.json()
    client.post(f"{PHONE}/detach")


def test_a_ue_attaches_moves_and_detaches(client: httpx.Client) -> None:
    attached = client.post(f"{PHONE}/attach").json()
    assert (attached["state"], attached["access"], attached["imsi"]) == ("established", "wifi-a", str(USER.imsi))
    assert attached["attach"]["requests"] >= 3
    moved = client.post(f"{PHONE}/move", json={"to": "wifi-b", "keep_old": True}).json()
    assert (moved["move"]["from"], moved["move"]["to"], moved["move"]["outcome"]) == ("wifi-a", "wifi-b", "completed")
    assert moved["move"]["spis_unchanged"] is True
    assert moved["pdns"]["internet"] == {"move": moved["move"], "error": None}
    assert moved["session"]["inner_addresses"] == attached["inner_addresses"]
    closed = client.post(f"{PHONE}/accesses/wifi-a/close")
    assert closed.json() == {"open_accesses": ["wifi-b"]}
    shown = client.get(PHONE).json()
    assert shown["state"] == "established"
    assert [path["access"] for path in shown["sessions"][0]["paths"]] == ["wifi-a", "wifi-b"]
    assert shown["accesses"]["wifi-b"] == {
        "address": ADDRESSES["wifi-b"],
        "interface": None,
        "next_hop": None,
        "hears": True,
        "open": True,
    }
    detached = client.post(f"{PHONE}/detach", json={"pdn": "internet"}).json()
    assert (detached["state"], detached["open_accesses"]) == ("closed", [])


def test_sas_are_rekeyed_and_the_gateway_is_asked_whether_it_lives(
    client: httpx.Client, attached: dict[str, Any]
) -> None:
    spi = attached["child_sas"][0]["inbound_spi"]
    assert client.post(f"{PHONE}/rekey-child", json={"inbound_spi": spi}).json() == {"inbound_spis": [spi]}

    def session() -> dict[str, Any]:
        found: dict[str, Any] = client.get(PHONE).json()["sessions"][0]
        return found

    wait_until(
        lambda: [child["inbound_spi"] for child in session()["child_sas"]] not in ([spi], []),
        what="the child SA's successor",
        timeout=10,
    )
    assert client.post(f"{PHONE}/rekey-ike").json()["id"] == attached["id"]
    wait_until(lambda: session()["ike"]["spi_i"] != attached["ike"]["spi_i"], what="the IKE SA's successor", timeout=10)
    before = session()["ike"]["requests_sent"]
    assert client.post(f"{PHONE}/liveness").json()["state"] == "established"
    wait_until(lambda: session()["ike"]["requests_sent"] > before, what="the empty request", timeout=10)
    assert_problem(client.post(f"{PHONE}/rekey-child", json={"inbound_spi": "00000000"}), 404)


def test_a_suspended_ue_comes_back_by_a_move(client: httpx.Client, attached: dict[str, Any]) -> None:
    assert client.post(f"{PHONE}/suspend").json()["open_accesses"] == []
    moved = client.post(f"{PHONE}/move", json={"to": ADDRESSES["wifi-b"]}).json()
    assert moved["session"]["open_accesses"] == ["wifi-b"]
    assert moved["session"]["inner_addresses"] == attached["inner_addresses"]


def test_flows_come_score_and_go(client: httpx.Client, attached: dict[str, Any]) -> None:
    wanted = {"destination": CORE_HOST, "kind": "icmp", "rate": 100}
    made = client.post(f"{PHONE}/traffic", json=wanted)
    assert made.status_code == 201
    flow = made.json()["id"]

    def listed() -> dict[str, Any]:
        return next(each for each in client.get(f"{PHONE}/traffic").json()["flows"] if each["id"] == flow)

    wait_until(lambda: (listed()["received"] or 0) >= 5, what="echo", timeout=10)
    assert listed()["source"] == attached["inner_addresses"][0]
    stopped = client.delete(f"{PHONE}/traffic/{flow}").json()
    assert (stopped["running"], stopped["lost"]) == (False, 0)
    call = client.post(f"{PHONE}/traffic", json={**wanted, "kind": "voice"}).json()
    assert (call["kind"], call["uplink"]["lost"]) == ("voice", 0)
    client.delete(f"{PHONE}/traffic/{call['id']}")
    assert_problem(client.delete(f"{PHONE}/traffic/4711"), 409)


def test_accesses_come_go_and_are_judged(client: httpx.Client) -> None:
    def standing() -> dict[str, Any]:
        found: dict[str, Any] = client.get(PHONE).json()["management"]["accesses"]["wifi-b"]
        return found

    assert client.post(f"{PHONE}/accesses/wifi-b/hint", json={"hint": "weak"}).json()["automatic"] is False
    assert standing()["hint"] == "weak"
    client.post(f"{PHONE}/accesses/wifi-b/lost")
    assert standing()["available"] is False
    regained = client.post(f"{PHONE}/accesses/wifi-b/gained", json={"address": ADDRESSES["wifi-b"]}).json()
    assert regained["accesses"]["wifi-b"]["available"] is True
    client.post(f"{PHONE}/accesses/wifi-b/hint", json={"hint": "good"})


def test_refusals_are_problems_in_the_ues_words(client: httpx.Client) -> None:
    assert "the UE is detached" in assert_problem(client.post(f"{PHONE}/move", json={"to": "wifi-b"}), 409)["detail"]
    assert "known are" in assert_problem(client.post(f"{PHONE}/attach", json={"access": "moon"}), 404)["detail"]
    assert "no PDN connection" in assert_problem(client.post(f"{PHONE}/detach", json={"pdn": "moon"}), 404)["detail"]
    deaf = assert_problem(client.post(f"{PHONE}/attach", json={"access": "deaf"}), 409)
    assert deaf["node"] == "phone"
    assert assert_problem(client.post(f"{PHONE}/move", json={"to": "wifi-b", "too": 1}), 422)["errors"]
    assert_problem(client.post(f"{PHONE}/accesses/wifi-b/hint", json={"hint": "splendid"}), 422)
    assert_problem(client.post(f"{PHONE}/traffic", json={"destination": CORE_HOST, "rate": 2001}), 422)
    unknown = assert_problem(client.get("/ues/moon"), 404)
    assert "phone" in unknown["detail"]


def test_ues_are_listed_those_that_cannot_be_asked_too(client: httpx.Client) -> None:
    listed = {each["node"]: each for each in client.get("/ues").json()["ues"]}
    assert listed["phone"]["ue"]["imsi"] == str(USER.imsi)
    assert (listed["gone"]["reachable"], listed["gone"]["ue"]) == (False, None)
    assert "cannot be reached" in listed["gone"]["why"]
    assert_problem(client.get("/ues/gone"), 503)


def test_acting_takes_an_operator_and_is_in_the_audit_log(client: httpx.Client, audit: Path) -> None:
    stranger = client.post(f"{PHONE}/suspend", headers={"Authorization": "Bearer nobody-knows-this-one"})
    assert_problem(stranger, 401)
    assert_problem(client.post(f"{PHONE}/suspend"), 409)
    last, before = map(json.loads, reversed(audit.read_text().splitlines()[-2:]))
    assert (last["path"], last["node"], last["status"]) == (f"{API}{PHONE}/suspend", "phone", 409)
    assert (before["node"], before["status"]) == (None, 401)
    assert TOKEN not in audit.read_text()
