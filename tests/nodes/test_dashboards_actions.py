"""What an operator does through the dashboard before two gateways, an AAA server and a UE as processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from protocols.trace.records import JsonValue
from tests.nodes.dashboards_nodes import FourNodes, four_nodes
from tests.nodes.dashboards_world import site
from tests.nodes.test_dashboards_api import API, assert_problem
from tests.nodes.test_ue_node import session
from tests.peers.dashboards_node import BEARER
from tests.peers.processes import wait_until

GATEWAY, OTHER, PLACE = "127.0.48.1", "127.0.48.2", "127.0.48.21"
SECOND_GATEWAY = "127.0.48.3"
PCSCF = "10.45.0.77"


class World(FourNodes):
    """The nodes and their attached UE."""

    def identifier(self) -> str:
        """The gateway's session, attached anew where it has gone."""
        listed = self.epdg.sessions(state="established")
        if not listed:
            self.ue.call("ue.attach")
            listed = self.epdg.sessions(state="established")
        return str(listed[0]["id"])

    def session(self) -> dict[str, Any]:
        """The same as the dashboard shows it."""
        shown: dict[str, Any] = self.client.get(f"{API}/sessions/{self.identifier()}").json()
        return shown

    def ended(self, identifier: str) -> dict[str, Any]:
        """A session as the dashboard shows it when it has ended."""

        def closed() -> dict[str, Any] | None:
            shown: dict[str, Any] = self.client.get(f"{API}/sessions/{identifier}").json()
            return shown if shown["state"] == "closed" else None

        return wait_until(closed, what="the end of the session", timeout=10)

    def ladder(self, identifier: str) -> list[dict[str, Any]]:
        """The entries of a session's ladder."""
        entries: list[dict[str, Any]] = self.client.get(f"{API}/sessions/{identifier}/ladder").json()["entries"]
        return entries

    def act(self, action: str, body: JsonValue = None) -> httpx.Response:
        """POST with or without a body."""
        path = f"{API}/sessions/{self.identifier()}/{action}"
        return self.client.post(path, json=body) if body is not None else self.client.post(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with four_nodes(
        tmp_path_factory.mktemp("actions"), gateway=GATEWAY, place=PLACE, second_gateway=SECOND_GATEWAY
    ) as nodes:
        yield World(nodes.epdg, nodes.ue, nodes.client, nodes.audit)


def test_a_session_tells_its_lifetimes_and_what_was_granted(world: World) -> None:
    shown = world.session()
    (child,) = shown["child_sas"]
    for sa in (shown["ike"], child):
        assert shown["established"] < sa["lifetime"]["rekey_at"] < sa["lifetime"]["expires_at"]
    assert child["lifetime"]["rekey_at"] < shown["established"] + 3600 * 1.1  # the default child_lifetime, and some lag
    assert shown["authorisation"]["apn"] == "internet"
    assert shown["authorisation"]["ambr"]["uplink_bits"] > 0
    assert shown["emergency"] is False
    (listed,) = world.client.get(f"{API}/sessions?state=established").json()["sessions"]
    assert listed["authorisation"] == shown["authorisation"]


@pytest.mark.parametrize("action", ["liveness", "check-path"])
@pytest.mark.parametrize("body", [None, {"interval": 5}])
def test_the_ue_is_asked_and_its_answer_told(world: World, action: str, body: JsonValue) -> None:
    answer = world.act(action, body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["answered"] is True
    assert 0 < told["seconds"] < 5
    assert told["path"]["remote"].startswith(f"{PLACE}:")


def test_the_ike_sa_is_rekeyed(world: World) -> None:
    before = world.session()["ike"]
    answer = world.act("rekey-ike")
    assert (answer.status_code, answer.json()) == (202, {"id": world.identifier()})
    after = wait_until(
        lambda: ike if (ike := world.session()["ike"])["spi_i"] != before["spi_i"] else None,
        what="another IKE SA",
        timeout=10,
    )
    assert after["spi_r"] != before["spi_r"]


def test_child_sas_are_rekeyed(world: World) -> None:
    (before,) = world.session()["child_sas"]
    answer = world.act("rekey-child", {"inbound_spi": before["inbound_spi"]})
    assert answer.status_code == 202, answer.text
    assert answer.json()["inbound_spis"] == [before["inbound_spi"]]

    def replaced() -> bool:
        return before["inbound_spi"] not in {child["inbound_spi"] for child in world.session()["child_sas"]}

    wait_until(replaced, what="another child SA", timeout=10)
    assert_problem(world.act("rekey-child", {"inbound_spi": before["inbound_spi"]}), 404)


def test_the_ue_is_told_of_other_p_cscfs(world: World) -> None:
    answer = world.act("restore-pcscf", {"addresses": [PCSCF]})
    assert (answer.status_code, answer.json()) == (202, {"id": world.identifier()})

    wait_until(lambda: session(world.ue)["p_cscf"] == [PCSCF], what="the new address at the UE", timeout=10)


def test_the_ue_authenticates_anew(world: World) -> None:
    before = world.session()
    answer = world.act("reauthenticate", {"lifetime": 1})
    assert (answer.status_code, answer.json()) == (202, {"id": before["id"]})

    def anew() -> Any:
        (*_, latest) = world.epdg.sessions(state="established") or [None]
        return latest if latest is not None and latest["id"] != before["id"] else None

    after = wait_until(anew, what="another session", timeout=10)
    assert after["inner_addresses"] == before["inner_addresses"]
    former = world.ended(before["id"])
    assert former["failure"] is None
    assert any("AUTH_LIFETIME" in entry["text"] for entry in world.ladder(before["id"]))


def test_the_ue_is_sent_to_another_gateway(world: World) -> None:
    before = world.session()
    answer = world.act("redirect", {"gateway": SECOND_GATEWAY})
    assert (answer.status_code, answer.json()) == (202, {"id": before["id"], "gateway": SECOND_GATEWAY})

    def there() -> Any:
        return world.client.get(f"{API}/sessions?state=established&gateway=gw-2").json()["sessions"] or None

    (after,) = wait_until(there, what="the session at the other gateway", timeout=10)
    assert (after["imsi"], after["gateway"]) == (before["imsi"], "gw-2")
    assert world.ended(before["id"])["failure"] is None
    assert any("REDIRECT" in entry["text"] for entry in world.ladder(before["id"]))
    assert_problem(world.client.post(f"{API}/sessions/{before['id']}/redirect", json={"gateway": OTHER}), 404)
    world.ue.call("ue.detach")


def test_a_refusal_has_the_gateways_words(world: World) -> None:
    refused = assert_problem(world.act("restore-pcscf", {"addresses": ["2001:db8::77"]}), 409)
    assert "asked for no P-CSCF of these IP versions" in refused["detail"]
    assert refused["type"].endswith("not-possible")
    assert refused["node"] == "gw"


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("liveness", {"interval": 0}),
        ("liveness", {"interval": 51}),
        ("check-path", {"seconds": 1}),
        ("rekey-child", {"inbound_spi": "C0A10001"}),
        ("redirect", {}),
        ("redirect", {"gateway": "not a name"}),
        ("restore-pcscf", {"addresses": []}),
        ("restore-pcscf", {"addresses": ["10.45.0"]}),
        ("reauthenticate", {"lifetime": -1}),
    ],
)
def test_a_wish_that_does_not_fit_is_a_problem(world: World, action: str, body: JsonValue) -> None:
    assert_problem(world.act(action, body), 422)


def test_a_session_of_nobody_is_not_found(world: World) -> None:
    for action in ("rekey-ike", "liveness", "check-path", "reauthenticate"):
        assert_problem(world.client.post(f"{API}/sessions/0123456789abcdef/{action}"), 404)


def test_the_gateways_addresses_are_changed(world: World) -> None:
    path = f"{API}/gateways/gw/addresses"
    configured = {"address": GATEWAY, "present": True, "configured": True}
    assert world.client.get(path).json()["addresses"] == [configured]
    added = world.client.post(path, json={"address": OTHER})
    assert added.status_code == 200, added.text
    other = {"address": OTHER, "present": True, "configured": False}
    assert added.json()["addresses"] == [configured, other]
    assert assert_problem(world.client.post(path, json={"address": OTHER}), 409)["type"].endswith("exists")
    identifier = world.identifier()
    asked = world.client.post(f"{path}/{OTHER}/prefer", json={"id": identifier})
    assert asked.status_code == 200, asked.text

    def moved() -> bool:
        return str(world.session()["ike"]["path"]["local"]).startswith(f"{OTHER}:")

    wait_until(moved, what="the UE at the other address", timeout=10)
    gone = world.client.delete(f"{path}/{GATEWAY}")
    assert gone.json()["addresses"] == [{**configured, "present": False}, other]
    refused = assert_problem(world.client.delete(f"{path}/{OTHER}"), 409)
    assert "the last address" in refused["detail"]
    assert world.client.post(path, json={"address": GATEWAY}).json()["addresses"] == [configured, other]
    assert world.client.delete(f"{path}/{OTHER}").json()["addresses"] == [configured]
    assert_problem(world.client.delete(f"{path}/{OTHER}"), 404)
    assert_problem(world.client.get(f"{API}/gateways/aaa/addresses"), 404)
    assert_problem(world.client.post(path, json={"address": "gateway.example"}), 422)


def test_peers_of_all_ends_are_told(world: World) -> None:
    def all_of_them() -> Any:
        told = world.client.get(f"{API}/peers").json()
        return told if {peer["node"] for peer in told["peers"]} == {"gw", "gw-2", "aaa"} else None

    told = wait_until(all_of_them, what="peers", timeout=10)
    assert told["unreachable"] == []
    world.identifier()
    of_gateway = next(peer for peer in told["peers"] if peer["node"] == "gw")
    assert of_gateway["state"] == "Open"
    assert of_gateway["in_service"] is True
    of_server = [peer for peer in told["peers"] if peer["node"] == "aaa"]
    assert [(peer["interface"], peer["accepted"]) for peer in of_server] == [("SWm", True)] * 2


def test_the_ue_is_told_to_come_again(world: World) -> None:
    identifier = world.identifier()
    assert_problem(world.client.delete(f"{API}/sessions/{identifier}", params={"cause": "boredom"}), 422)
    answer = world.client.delete(f"{API}/sessions/{identifier}", params={"cause": "reactivate"})
    assert (answer.status_code, answer.json()) == (202, {"id": identifier, "gateway": "gw"})

    def told() -> bool:
        page = world.client.get(f"{API}/sessions/{identifier}/messages", params={"node": "gw", "limit": 500}).json()
        return any("REACTIVATION_REQUESTED_CAUSE" in message["body"]["summary"] for message in page["messages"])

    wait_until(told, what="N(REACTIVATION_REQUESTED_CAUSE)", timeout=10)
    entries = [json.loads(line) for line in world.audit.read_text().splitlines()]
    done = [
        (entry["method"], entry["status"], entry["node"])
        for entry in entries
        if entry["about"].get("identifier") == identifier
    ]
    assert done[-2:] == [("DELETE", 422, None), ("DELETE", 202, "gw")]
    assert {entry["who"] for entry in entries} == {"operator"}


@pytest.mark.parametrize(
    ("action", "body", "members"),
    [
        ("redirect", {"gateway": "epdg2.example.net"}, {"gateway": "epdg2.example.net"}),
        ("restore-pcscf", {"addresses": [PCSCF]}, {}),
        ("reauthenticate", {"lifetime": 60}, {}),
        ("reauthenticate", None, {}),
    ],
)
def test_what_has_begun_is_accepted(tmp_path: Path, action: str, body: JsonValue, members: dict[str, str]) -> None:
    with site(tmp_path) as running, httpx.Client(base_url=running.url, headers=BEARER) as client:
        identifier = running.do(running.world.attach, 1)["id"]
        path = f"{API}/sessions/{identifier}/{action}"
        answer = client.post(path, json=body) if body is not None else client.post(path)
        assert (answer.status_code, answer.json()) == (202, {"id": identifier, **members})
        assert running.world.actions.done == [(action, identifier)]
        assert_problem(client.post(path, json=body, headers={"Authorization": "Bearer no"}), 401)
        attaching = running.do(running.world.new_session, 2)["id"]
        assert_problem(client.post(f"{API}/sessions/{attaching}/{action}", json=body), 409)
