"""The dashboard's REST interface to an AAA server, over HTTP against a running dashboard and a real ``aaa serve``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from urllib.parse import quote

import httpx
import pytest

from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.diameter.codec import DiameterMessage, Result
from protocols.diameter.dictionary import SWM_APPLICATION, CommandCode, ResultCode
from protocols.diameter.swm import Sta
from protocols.io.diameter import Traffic
from protocols.trace.records import Kind
from tests.harness.aka_user import aka_user
from tests.nodes.dashboards_world import TOKEN, site
from tests.nodes.test_dashboards_api import API, BEARER, assert_problem
from tests.nodes.test_ue_node import records_of
from tests.peers.aaa_node import HOST, AaaProcess, Gateway
from tests.peers.processes import wait_until

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


def test_a_number_that_json_has_not_is_a_problem(client: httpx.Client) -> None:
    for number in ("NaN", "-Infinity"):
        body = f'{{"name": "x", "action": {{"delay": {number}}}}}'
        response = client.post("/faults", content=body, headers={"content-type": "application/json"})
        assert "no form in JSON" in assert_problem(response, 422)["detail"]


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


def gateway_that_obeys(
    aaa: AaaProcess, act: Callable[[str], httpx.Response], asked: list[str] | None = None
) -> httpx.Response:
    """A gateway with a session answers what ``act`` (given the Session-Id) makes the server ask of it."""

    async def run() -> httpx.Response:
        async with Gateway.connected(aaa.port) as gateway:
            session = gateway.session_id()
            user = aka_user(USER)
            await gateway.attach(user, session_id=session)

            async def obey(request: DiameterMessage) -> DiameterMessage:
                if asked is not None:
                    asked.append(request.name)
                return gateway.node.identity.answer(request, ResultCode.DIAMETER_SUCCESS)

            def end(traffic: Traffic) -> None:
                if traffic.message is not None and traffic.message.name == "ASA":  # has left: the STR follows it
                    ending.append(asyncio.create_task(gateway.terminate(session, user.nai)))

            ending: list[asyncio.Task[Sta]] = []
            gateway.node.on_traffic(end)
            for command in (CommandCode.ABORT_SESSION, CommandCode.RE_AUTH):
                gateway.node.on_request(SWM_APPLICATION, command, obey)
            answer = await asyncio.to_thread(act, session)
            await asyncio.gather(*ending)
            return answer

    return asyncio.run(run())


def test_a_session_is_aborted_at_its_gateway(aaa: AaaProcess, client: httpx.Client) -> None:
    def abort(session: str) -> httpx.Response:
        return client.post(f"/aaa-sessions/{quote(session, safe='')}/abort", json={"reason": "stolen"})

    done = gateway_that_obeys(aaa, abort)
    assert done.status_code == 200, done.text
    assert (done.json()["succeeded"], done.json()["result"]) == (True, "DIAMETER_SUCCESS (2001)")
    assert_problem(client.get(f"/aaa-sessions/{quote(done.json()['id'], safe='')}"), 404)
    assert_problem(client.post("/aaa-sessions/nobody/abort"), 404)
    assert_problem(client.post("/aaa-sessions/nobody/reauthorise", json={"reason": 7}), 422)


# --- subscribers ------------------------------------------------------------------------------------

K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"  # TS 35.208 §4.3.1, set 1
OTHER = "001019000000001"


@pytest.fixture
def other(client: httpx.Client) -> Iterator[str]:
    """A subscriber of one test."""
    made = client.post("/subscribers", json={"imsi": OTHER, "k": K, "opc": OPC, "apns": [{"apn": "internet"}]})
    assert made.status_code == 201, made.text
    yield OTHER
    client.delete(f"/subscribers/{OTHER}")


def test_a_subscriber_is_made_read_changed_and_removed(client: httpx.Client, other: str) -> None:
    shown = client.get(f"/subscribers/{other}").json()
    assert (shown["imsi"], shown["algorithm"], shown["apns"][0]["default"]) == (other, "milenage", True)
    assert K not in str(shown)
    changed = client.patch(
        f"/subscribers/{other}",
        json={"msisdn": "49171", "enabled": False, "apns": [{"apn": "ims", "type": "ipv6", "qci": 5}]},
    )
    assert changed.status_code == 200, changed.text
    assert changed.json()["told"] is None
    assert changed.json()["subscriber"]["msisdn"] == "49171"
    again = client.patch(f"/subscribers/{other}", json={"msisdn": None}).json()["subscriber"]
    assert (again["msisdn"], again["enabled"]) == (None, False)
    assert [(apn["apn"], apn["type"], apn["qci"]) for apn in again["apns"]] == [("ims", "ipv6", 5)]
    assert client.delete(f"/subscribers/{other}").json() == {"imsi": other, "told": None}
    assert_problem(client.get(f"/subscribers/{other}"), 404)
    assert_problem(client.patch(f"/subscribers/{other}", json={}), 404)


def test_keys_are_shown_on_demand_to_who_may(aaa: AaaProcess, client: httpx.Client, other: str) -> None:
    shown = client.get(f"/subscribers/{other}", params={"secrets": True}).json()
    assert (shown["k"], shown["opc"], shown["op"]) == (K, OPC, None)
    anonymous = client.build_request("GET", f"/subscribers/{other}", params={"secrets": True})
    del anonymous.headers["authorization"]
    assert_problem(client.send(anonymous), 401)
    assert K not in client.get("/subscribers", params={"imsi": other}).text
    assert K not in aaa.log()
    assert K not in json.dumps([record.to_json() for record in records_of(aaa.control)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": "12"}, "k: got 2 characters that are not shown"),
        ({"amf": "xyz"}, "amf"),
        ({"apns": [{"apn": "a"}, {"apn": "a"}]}, "every APN once"),
        ({"nonsense": 1}, "nonsense"),
        ({"session_timeout": 0}, "session timeout"),
        ({"visited_networks": ["nowhere"]}, "001-01"),
    ],
)
def test_a_change_that_is_none_is_a_problem(
    client: httpx.Client, other: str, change: dict[str, object], words: str
) -> None:
    assert words in assert_problem(client.patch(f"/subscribers/{other}", json=change), 422)["detail"]


def test_an_sqn_does_not_go_back(client: httpx.Client, other: str) -> None:
    assert client.patch(f"/subscribers/{other}", json={"sqn": "000000001000"}).status_code == 200
    assert_problem(client.patch(f"/subscribers/{other}", json={"sqn": "000000000020"}), 409)


def test_subscribers_are_imported_listed_and_searched(client: httpx.Client) -> None:
    many: list[dict[str, object]] = [{"imsi": f"00102{number:010}", "k": K, "opc": OPC} for number in range(60)]
    wanted = {"subscribers": many, "defaults": {"apns": [{"apn": "internet"}], "msisdn": "49"}}
    assert client.post("/subscribers/import", json=wanted).json() == {"added": 60, "replaced": 0, "told": 0}
    assert_problem(client.post("/subscribers/import", json=wanted), 409)
    over = client.post("/subscribers/import", json={**wanted, "over": True}).json()
    assert over == {"added": 0, "replaced": 60, "told": 0}
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = client.get("/subscribers", params={"imsi": "00102", "limit": 25, "cursor": cursor or ""}).json()
        seen += [subscriber["imsi"] for subscriber in page["subscribers"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == [str(subscriber["imsi"]) for subscriber in many]
    assert page["total"] == 60
    assert client.get("/subscribers", params={"text": "0059"}).json()["total"] == 1
    assert client.get("/subscribers", params={"imsi": "00102", "apn": "ims"}).json()["total"] == 0
    many[3]["k"], many[7]["imsi"] = "short", "001020000000000"
    detail = assert_problem(client.post("/subscribers/import", json={**wanted, "over": True}), 422)["detail"]
    assert "subscribers.3: k: got 5 characters that are not shown" in detail
    assert "subscribers.7: imsi" in detail


@pytest.mark.parametrize("form", ["csv", "yaml"])
def test_files_are_imported_and_exported(client: httpx.Client, form: str) -> None:
    kind = {"csv": "text/csv", "yaml": "application/yaml"}[form]
    prefix = {"csv": "00103", "yaml": "00104"}[form]
    lines = [f"{prefix}{number:010},{K},{OPC}" for number in range(3)]
    text = "\n".join(lines) + "\n"
    if form == "yaml":
        rows = (line.split(",") for line in lines)
        text = "subscribers:\n" + "".join(f"  - {{imsi: {i}, k: {k}, opc: {opc}}}\n" for i, k, opc in rows)

    def send(content: str, **params: str) -> httpx.Response:
        return client.post(
            "/subscribers/import-file", content=content, headers={"Content-Type": kind}, params={**NODE, **params}
        )

    assert send(text, apn="ims,type=ipv6").json() == {"added": 3, "replaced": 0, "told": 0}
    assert client.get(f"/subscribers/{prefix}0000000002").json()["apns"][0]["type"] == "ipv6"
    assert_problem(send(text), 409)
    bad = assert_problem(send(text.replace(K, "short"), over="true"), 422)["detail"]
    assert "k: got 5 characters that are not shown" in bad
    assert_problem(send("nothing of the kind"), 422)
    assert K not in assert_problem(send(f"x{text}"), 422)["detail"]
    written = client.get("/subscribers/export", params={"format": form, "imsi": prefix})
    assert written.headers["content-type"].startswith(kind)
    assert K not in written.text
    assert written.text.count(prefix) == 3
    whole = client.get("/subscribers/export", params={"format": form, "imsi": prefix, "secrets": True}).text
    assert whole.count(K) == 3
    assert send(whole, over="true").json() == {"added": 0, "replaced": 3, "told": 0}


def test_files_of_another_kind_or_size_are_problems(client: httpx.Client) -> None:
    where = "/subscribers/import-file"
    assert_problem(client.post(where, content="x", headers={"Content-Type": "text/plain"}), 422)
    csv = {"Content-Type": "text/csv"}
    assert_problem(client.post(where, content=b"\xff\xfe", headers=csv), 422)
    assert_problem(client.post(where, content="x" * 1_000_000, headers=csv), 413)
    anonymous = client.build_request("GET", "/subscribers/export", params={"secrets": True})
    del anonymous.headers["authorization"]
    assert_problem(client.send(anonymous), 401)


def test_a_change_reaches_the_gateway_of_a_session(aaa: AaaProcess, client: httpx.Client) -> None:
    """PATCH, PPR, RAR: the loop from an HSS event to the gateway; and a subscriber who may no more is aborted."""

    def change(session: str) -> httpx.Response:
        answer = client.patch(f"/subscribers/{USER.imsi}", json={"non_3gpp_allowed": False})
        gone = f"/aaa-sessions/{quote(session, safe='')}"
        wait_until(lambda: client.get(gone).status_code == 404, what="the session's end", timeout=10)
        return answer

    told = gateway_that_obeys(aaa, change)
    client.patch(f"/subscribers/{USER.imsi}", json={"non_3gpp_allowed": True})
    assert told.json()["told"] == "DIAMETER_SUCCESS (2001)"
    names = [record.body["name"] for record in records_of(aaa.control) if record.kind is Kind.EVENT]
    assert "subscriber-changed" in names
    assert "deregistered-by-hss" in names


def test_a_changed_profile_makes_the_gateway_ask_again(aaa: AaaProcess, client: httpx.Client) -> None:
    asked: list[str] = []

    def change(session: str) -> httpx.Response:
        answer = client.patch(f"/subscribers/{USER.imsi}", json={"apns": [{"apn": "internet", "ul": 1_000_000}]})
        wait_until(lambda: bool(asked), what="RAR", timeout=10)
        return answer

    assert gateway_that_obeys(aaa, change, asked).json()["told"] == "DIAMETER_SUCCESS (2001)"
    assert asked == ["RAR"]


def test_a_registration_is_shown_pushed_to_and_terminated(aaa: AaaProcess, client: httpx.Client) -> None:
    where = f"/subscribers/{USER.imsi}"
    asked: list[str] = []

    def act(session: str) -> httpx.Response:
        shown = client.get(f"{where}/registration")
        assert shown.json()["server"] == HOST
        assert client.post(f"{where}/push-profile").json()["success"] is True
        wait_until(lambda: "RAR" in asked, what="RAR", timeout=10)
        told = client.delete(f"{where}/registration", params={"reason": "stolen"})
        wait_until(lambda: "ASR" in asked, what="ASR", timeout=10)
        return told

    assert gateway_that_obeys(aaa, act, asked).json()["success"] is True
    assert_problem(client.get(f"{where}/registration"), 404)
    assert_problem(client.delete(f"{where}/registration"), 404)


# --- who may ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/faults"),
        ("DELETE", "/faults"),
        ("DELETE", "/faults/x"),
        ("POST", "/aaa-sessions/x/abort"),
        ("DELETE", "/subscribers/001019000000001"),
    ],
)
def test_changing_needs_the_token(client: httpx.Client, method: str, path: str) -> None:
    body = {"name": "x", "action": {"silence": True}} if path == "/faults" and method == "POST" else None
    anonymous = client.build_request(method, path, json=body)
    del anonymous.headers["authorization"]
    assert_problem(client.send(anonymous), 401)
    wrong = client.build_request(method, path, json=body, headers={"Authorization": f"Bearer {TOKEN}x"})
    assert_problem(client.send(wrong), 401)


def test_the_description_has_examples_and_says_what_needs_the_token(client: httpx.Client) -> None:
    schema = httpx.get(f"{str(client.base_url).removesuffix(API + '/')}/openapi.json").json()
    for name in ("FaultRuleWanted", "SubscriberWanted", "SubscriberChanges", "ImportWanted", "Why"):
        assert schema["components"]["schemas"][name]["examples"]
    for path in ("/faults", "/faults/{name}", "/subscribers", "/subscribers/import", "/subscribers/{imsi}"):
        for method, operation in schema["paths"][API + path].items():
            assert ("security" in operation) == (method != "get")
