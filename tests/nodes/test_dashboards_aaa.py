"""The dashboard's REST interface to an AAA server, over HTTP against a running dashboard and a real ``aaa serve``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ResultCode
from tests.harness.aka_user import aka_user
from tests.nodes.dashboards_world import TOKEN, site
from tests.nodes.test_dashboards_api import API, BEARER, assert_problem
from tests.peers.aaa_node import AaaProcess, Gateway

USER = laboratory_subscriber(1)
NODE = {"node": "core"}


@pytest.fixture(scope="module")
def aaa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AaaProcess]:
    node = AaaProcess(tmp_path_factory.mktemp("aaa"))
    node.provision(USER)
    with node:
        yield node


@pytest.fixture(scope="module")
def client(aaa: AaaProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client that may change things, and means the real node unless it says otherwise."""
    nodes = f"  - {{ name: core, kind: aaa, control: {aaa.control} }}"
    with (
        site(tmp_path_factory.mktemp("site"), nodes=nodes) as running,
        httpx.Client(base_url=running.url + API, timeout=10, headers=BEARER, params=NODE) as connected,
    ):
        yield connected


def attach(aaa: AaaProcess, apn: str = "internet") -> str:
    """A session that stays; its Session-Id."""

    async def run() -> str:
        async with Gateway.connected(aaa.port) as gateway:
            session = gateway.session_id()
            answers = await gateway.attach(aka_user(USER), apn=apn, session_id=session)
            assert answers[-1].result == Result.of(ResultCode.DIAMETER_SUCCESS)
            return session

    return asyncio.run(run())


# --- fault rules ------------------------------------------------------------------------------------


def test_fault_rules_come_act_and_go(aaa: AaaProcess, client: httpx.Client) -> None:
    rule = {"name": "rest", "match": {"imsi": "00101*"}, "action": {"result": "10415:5001", "backoff": 30}, "times": 1}
    made = client.post("/faults", json=rule)
    assert made.status_code == 201
    shown = made.json()
    assert shown["match"] == {"imsi": "00101*"}
    assert shown["action"] == {"result": "DIAMETER_ERROR_USER_UNKNOWN", "backoff": 30}
    assert (shown["origin"], shown["remaining"], shown["applied"]) == ("control", 1, 0)

    async def refused() -> str:
        async with Gateway.connected(aaa.port) as gateway:
            return str((await gateway.attach(aka_user(USER)))[-1].result)

    assert asyncio.run(refused()) == "DIAMETER_ERROR_USER_UNKNOWN (5001)"
    (listed,) = client.get("/faults").json()["faults"]
    assert (listed["remaining"], listed["applied"]) == (0, 1)
    assert client.delete("/faults/rest").json()["applied"] == 1
    assert client.get("/faults").json() == {"faults": []}
    client.post("/faults", json=rule)
    assert client.delete("/faults").json() == {"removed": 1}


@pytest.mark.parametrize(
    ("rule", "status", "words"),
    [
        ({}, 422, "name"),
        ({"name": "x", "action": {}}, 422, "one of wrong_autn"),
        ({"name": "x", "action": {"nonsense": True}}, 422, "nonsense"),
        ({"name": "x", "action": {"silence": True}, "match": {"imsi": "22-1"}}, 422, "match.imsi: got '22-1'"),
        ({"name": "x y", "action": {"silence": True}}, 422, "name"),
    ],
)
def test_a_rule_that_is_none_is_a_problem(
    client: httpx.Client, rule: dict[str, object], status: int, words: str
) -> None:
    assert words in assert_problem(client.post("/faults", json=rule), status)["detail"]


def test_a_rule_twice_and_a_rule_that_is_not_there(client: httpx.Client) -> None:
    rule = {"name": "twice", "action": {"silence": True}, "enabled": False}
    client.post("/faults", json=rule)
    assert_problem(client.post("/faults", json=rule), 409)
    client.delete("/faults/twice")
    assert_problem(client.delete("/faults/twice"), 404)
    assert "no AAA server nobody" in assert_problem(client.get("/faults", params={"node": "nobody"}), 404)["detail"]


# --- sessions ---------------------------------------------------------------------------------------


def test_sessions_are_listed_and_shown(aaa: AaaProcess, client: httpx.Client) -> None:
    session = attach(aaa)
    page = client.get("/aaa-sessions", params={"state": "authenticated", "imsi": str(USER.imsi)}).json()
    assert session in [each["id"] for each in page["sessions"]]
    shown = client.get(f"/aaa-sessions/{quote(session, safe='')}").json()
    assert (shown["id"], shown["state"], shown["apn"]) == (session, "authenticated", "internet")
    assert_problem(client.get("/aaa-sessions/nobody"), 404)
    assert_problem(client.get("/aaa-sessions", params={"state": "dreaming"}), 422)
    assert_problem(client.get("/aaa-sessions", params={"cursor": "x"}), 422)


# --- who may ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [("POST", "/faults"), ("DELETE", "/faults"), ("DELETE", "/faults/x")])
def test_changing_needs_the_token(client: httpx.Client, method: str, path: str) -> None:
    body = {"name": "x", "action": {"silence": True}} if method == "POST" else None
    anonymous = client.build_request(method, path, json=body)
    del anonymous.headers["authorization"]
    assert_problem(client.send(anonymous), 401)
    wrong = client.build_request(method, path, json=body, headers={"Authorization": f"Bearer {TOKEN}x"})
    assert_problem(client.send(wrong), 401)


def test_the_description_has_examples_and_says_what_needs_the_token(client: httpx.Client) -> None:
    schema = httpx.get(f"{str(client.base_url).removesuffix(API + '/')}/openapi.json").json()
    assert schema["components"]["schemas"]["FaultRuleWanted"]["examples"]
    for path in ("/faults", "/faults/{name}"):
        for method, operation in schema["paths"][API + path].items():
            assert ("security" in operation) == (method != "get")
