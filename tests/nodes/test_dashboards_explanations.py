"""Why sessions failed, told by the dashboard before gateway, AAA server and UEs as processes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from protocols.io.control import ControlError
from protocols.secret import Secret
from protocols.trace.explanation.catalogue import CATALOGUE
from tests.nodes.test_dashboards_api import assert_problem
from tests.nodes.test_ue_node import IKE_PORT, NATT_PORT, USER, Ue, session
from tests.peers.aaa_node import AaaProcess
from tests.peers.dashboards_node import API, DashboardsProcess
from tests.peers.epdg_node import EpdgProcess
from tests.peers.processes import wait_until

GATEWAY, PLACE, OTHER_PLACE, NOBODY = "127.0.46.1", "127.0.46.21", "127.0.46.22", "127.0.46.23"
WRONG_K = replace(USER, k=Secret(bytes(16)))
VERSION_3 = bytes.fromhex("a1b2c3d4e5f60718") + bytes(8) + b"\x21\x30\x22\x08" + bytes(4) + (28).to_bytes(4, "big")


@dataclass
class World:
    """The nodes, one UE of which has attached and one of which was refused, and a client of the dashboard."""

    epdg: EpdgProcess
    attached: str
    client: httpx.Client

    def get(self, path: str) -> Any:
        """What a route answers."""
        answer = self.client.get(f"{API}{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self) -> str:
        """The session of the UE whose K is wrong."""
        (one,) = self.get("/sessions?state=closed")["sessions"]
        return str(one["id"])


def ue(directory: Path, authority: Path, address: str, **members: Any) -> Ue:
    def change(values: dict[str, object]) -> None:
        ports: dict[str, object] = {"ike_port": IKE_PORT, "nat_traversal_port": NATT_PORT}
        values["gateway"] = {**ports, "address": GATEWAY, "ca": str(authority)}
        values["accesses"] = {"wifi": {"address": address, **ports}}

    directory.mkdir()
    return Ue(directory, authority, change=change, **members)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("explanations")
    for name in ("aaa", "epdg", "dashboards"):
        (directory / name).mkdir()
    aaa = AaaProcess(directory / "aaa")
    aaa.provision(USER)
    with ExitStack() as running:
        running.enter_context(aaa)
        epdg = running.enter_context(EpdgProcess(directory / "epdg", aaa.port, address=GATEWAY))
        good = running.enter_context(ue(directory / "good", epdg.authority, PLACE).node("run"))
        bad = running.enter_context(ue(directory / "bad", epdg.authority, OTHER_PLACE, subscriber=WRONG_K).node("run"))
        nodes = {
            "epdg": ("epdg", epdg.control),
            "aaa": ("aaa", aaa.control),
            "good": ("ue", good.control),
            "bad": ("ue", bad.control),
        }
        dashboards = running.enter_context(DashboardsProcess(directory / "dashboards", nodes))
        with pytest.raises(ControlError):
            bad.call("ue.attach")
        good.call("ue.attach")
        client = running.enter_context(dashboards.client())
        yield World(epdg, str(session(good)["id"]), client)


def test_a_wrong_k_is_explained_in_one_sentence(world: World) -> None:
    one = world.refused()

    def told() -> Any:
        found = world.get(f"/sessions/{one}/explanation")
        return (
            found
            if {each["node"] for finding in found["findings"] for each in finding["evidence"]}
            >= {
                "bad",
                "aaa",
            }
            else None
        )

    explained = wait_until(told, what="records of UE and AAA server", timeout=10)
    sentence = "AUTN rejected by the UE: K or OPc in its USIM differ from the subscriber's in the HSS."
    assert explained["sentence"] == sentence
    assert explained["silent"] == []
    (finding,) = [each for each in explained["findings"] if each["sentence"] == sentence]
    assert finding["clause"]
    assert finding["advice"]
    assert not finding["remark"]
    assert world.get(f"/sessions/{one}")["failure"] == sentence
    (arrow, *_) = [each for each in finding["evidence"] if each["node"] == "aaa"]
    ladder = world.get(f"/sessions/{one}/ladder")
    assert any(f"{arrow['node']}:{arrow['sequence']}" in entry["records"] for entry in ladder["entries"])


def test_any_name_of_a_session_finds_its_explanation(world: World) -> None:
    one = world.refused()
    gateway = world.get(f"/sessions/{one}")
    sentence = gateway["failure"]
    for name in (gateway["ike"]["spi_i"], gateway["diameter_session_id"]):
        assert world.get(f"/sessions/{name}/explanation")["sentence"] == sentence


def test_a_session_that_is_well_has_nothing_to_explain(world: World) -> None:
    (one,) = world.get("/sessions?state=established")["sessions"]
    explained = world.get(f"/sessions/{one['id']}/explanation")
    assert (explained["sentence"], explained["findings"]) == (None, [])
    assert world.get(f"/sessions/{one['id']}")["failure"] is None
    assert world.get(f"/sessions/{world.attached}/explanation")["findings"] == []


def test_an_attach_that_made_no_session_is_found(world: World) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind((NOBODY, 0))
        stranger.sendto(VERSION_3, (GATEWAY, IKE_PORT))
    spi = VERSION_3[:8].hex()

    def found() -> Any:
        return next((each for each in world.get("/attempts")["attempts"] if each["id"] == spi), None)

    attempt = wait_until(found, what="the attempt", timeout=10)
    assert attempt["sentence"] == "The UE speaks version 3 of IKE, the gateway speaks version 2 only."
    assert NOBODY in attempt["text"]
    assert attempt["names"] == [{"node": "epdg", "session": spi}]
    assert_problem(world.client.get(f"{API}/sessions/{spi}"), 404)
    assert world.get(f"/sessions/{spi}/explanation")["sentence"] == attempt["sentence"]
    assert [entry["name"] for entry in world.get(f"/sessions/{spi}/ladder")["entries"]] == ["turned-away"]


def test_attempts_are_those_that_failed_each_once(world: World) -> None:
    listed = world.get("/attempts?limit=100")
    refused = [each for each in listed["attempts"] if each["id"] == world.refused()]
    assert len(refused) == 1
    assert sorted({name["node"] for name in refused[0]["names"]}) == ["aaa", "bad", "epdg"]
    names = {name["session"] for each in listed["attempts"] for name in each["names"]}
    assert world.attached not in names
    assert len(world.get("/attempts?limit=1")["attempts"]) == 1


def test_attempts_are_asked_for_by_cause_and_by_what_the_gateway_counts(world: World) -> None:
    refused, (one,) = world.refused(), world.get("/attempts?cause=autn-rejected")["attempts"]
    assert (one["id"], one["cause"], one["title"]) == (refused, "autn-rejected", "AUTN rejected by the UE")
    assert one["sentence"] == world.get(f"/sessions/{refused}")["failure"]
    counted = {each["reason"]: each["count"] for each in world.get("/overview")["outcomes"]}
    listed = world.get(f"/attempts?outcome={one['outcome']}")
    assert refused in {each["id"] for each in listed["attempts"]}
    assert listed["total"] == listed["looked_through"] == counted[one["outcome"]]
    assert {"cause": "autn-rejected", "title": "AUTN rejected by the UE", "count": 1} in listed["causes"]
    other = world.get(f"/attempts?outcome={one['outcome']}&cause=major-version")
    assert (other["attempts"], other["total"]) == ([], 0)
    assert other["causes"] == listed["causes"]
    assert_problem(world.client.get(f"{API}/attempts?cause=bad-luck"), 422)


def test_the_catalogue_is_listed(world: World) -> None:
    causes = world.get("/causes")["causes"]
    assert [each["cause"] for each in causes] == [cause.name for cause in CATALOGUE]
    assert len(causes) >= 40
    assert all(each["title"] and each["clause"] and each["advice"] for each in causes)


def test_one_message_has_its_payloads_and_lists_have_none(world: World) -> None:
    (one,) = world.get("/sessions?state=established")["sessions"]
    path = f"/sessions/{one['id']}"
    page = world.get(f"{path}/messages?protocol=ikev2&limit=500")
    assert all("payloads" not in message["body"]["detail"] for message in page["messages"])
    assert all("payloads" not in (entry["detail"] or {}) for entry in world.get(f"{path}/ladder")["entries"])
    initial = page["messages"][0]
    shown = world.get(f"{path}/messages/{initial['id']}")
    payloads = shown["body"]["detail"].pop("payloads")
    assert shown == initial
    assert [each["name"] for each in payloads][:3] == ["SAi1", "KEi", "Ni"]
    assert all(bytes.fromhex(each["octets"]) for each in payloads)
    assert payloads[0]["proposals"][0]["ENCR"]


@pytest.mark.parametrize(
    ("message", "status"), [("epdg:999999999", 404), ("nobody:1", 404), ("epdg", 422), ("epdg:-1", 422)]
)
def test_a_message_that_is_not_there_is_a_problem(world: World, message: str, status: int) -> None:
    assert_problem(world.client.get(f"{API}/sessions/{world.refused()}/messages/{message}"), status)


def test_a_message_of_another_session_is_not_this_ones(world: World) -> None:
    (one,) = world.get("/sessions?state=established")["sessions"]
    message = world.get(f"/sessions/{one['id']}/messages?node=epdg")["messages"][0]["id"]
    assert_problem(world.client.get(f"{API}/sessions/{world.refused()}/messages/{message}"), 404)


@pytest.mark.parametrize("path", ["explanation", "messages/epdg:1"])
def test_a_session_of_nobody_is_a_problem(world: World, path: str) -> None:
    assert_problem(world.client.get(f"{API}/sessions/0123456789abcdef/{path}"), 404)
