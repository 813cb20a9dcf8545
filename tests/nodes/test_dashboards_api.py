"""The dashboard's REST interface and event stream, over HTTP against a running server and live nodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.nodes.dashboards_world import ACCESS_A, ACCESS_B, NAT_OUTSIDE, TOKEN, Site, site

API = "/api/v1"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server whose nodes stay as they are: four sessions of two APNs, one at a NAT."""
    with site(tmp_path_factory.mktemp("quiet")) as running:
        running.do(running.world.attach, 1)
        running.do(running.world.attach, 2, "ims")
        running.do(running.world.refuse, 3)
        running.do(running.world.attach, 4)
        running.do(running.world.move, "s000004", NAT_OUTSIDE)
        with httpx.Client(base_url=running.url, timeout=10) as connected:
            yield connected


def events(
    client: httpx.Client, last: str | None = None, **parameters: str | list[str]
) -> Iterator[tuple[str, str, Any]]:
    """(id, name, data) of the live feed."""
    headers = {"Last-Event-ID": last} if last else {}
    with client.stream("GET", f"{API}/events", headers=headers, params=parameters) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in response.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                yield fields["id"], fields["event"], json.loads(fields["data"])
                fields = {}


def epoch(client: httpx.Client) -> str:
    """The epoch of this server's event identifiers."""
    identifier, name, _ = next(events(client))
    assert name == "hello"
    return identifier.partition("-")[0]


def wait_for(client: httpx.Client, wanted: Callable[[str, Any], bool]) -> Any:
    """Read all events from the first one on until one is as wanted."""
    for _, name, data in events(client, f"{epoch(client)}-0"):
        if wanted(name, data):
            return data
    raise AssertionError("the stream ended")


def wait_for_record(client: httpx.Client, node: str, text: str) -> None:
    """Until the dashboard has a node's record with this text."""
    wait_for(client, lambda name, data: name == "record" and data["node"] == node and text in str(data["body"]))


def assert_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """An RFC 9457 body that agrees with the status line."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["type"]
    assert body["detail"]
    assert body["instance"] == response.request.url.path
    return body


# --- sessions ---------------------------------------------------------------------------------------


def test_session_shows_identity_sas_paths_and_counters(running: Site, client: httpx.Client) -> None:
    session = running.do(running.world.attach, 1)
    running.do(running.world.move, session["id"], ACCESS_B)
    running.do(running.world.move, session["id"], "127.0.5.9:4500", answered=False)
    shown = client.get(f"{API}/sessions/{session['id']}").json()
    assert shown["imsi"] == "001010000000001"
    assert shown["apn"] == "internet"
    assert shown["inner_addresses"] == ["10.45.0.3"]
    assert shown["ike"]["suite"] == "aes256-sha256-x25519"
    assert shown["child_sas"][0]["counters"]["inbound_packets"] == 1843
    walked = [(path["remote"], path["validated"], path["until"] is None) for path in shown["paths"]]
    assert walked == [
        (ACCESS_A, True, False),
        (ACCESS_B, True, False),
        ("127.0.5.9:4500", False, False),
        (ACCESS_B, True, True),
    ]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({}, [1, 2, 3, 4]),
        ({"imsi": "001010000000002"}, [2]),
        ({"apn": "ims"}, [2, 3]),
        ({"state": "closed"}, [3]),
        ({"address": "10.45.0.6"}, [4]),
        ({"address": "127.0.6.1"}, [4]),
        ({"apn": "ims", "state": "established"}, [2]),
        ({"apn": "none"}, []),
        ({"q": "0000002"}, [2]),
        ({"q": "IMS"}, [2, 3]),
        ({"q": "127.0.6.1"}, [4]),
        ({"q": "0001010000000003@nai"}, [3]),
        ({"sort": "created"}, [1, 2, 3, 4]),
        ({"sort": "-created", "apn": "internet"}, [4, 1]),
        ({"sort": "apn"}, [2, 3, 1, 4]),
        ({"sort": "state", "limit": "9"}, [3, 1, 2, 4]),
        ({"since": "0", "until": "1"}, []),
        ({"since": "1000", "sort": "imsi"}, [1, 2, 3, 4]),
        ({"until": "99999999999", "q": "ims"}, [2, 3]),
    ],
)
def test_list_filters(quiet: httpx.Client, query: dict[str, str], numbers: list[int]) -> None:
    page = quiet.get(f"{API}/sessions", params=query).json()
    assert [session["id"] for session in page["sessions"]] == [f"s{number:06x}" for number in numbers]
    assert page["total"] == len(numbers)
    assert page["next"] is None


def test_paging_visits_every_session_once(running: Site, client: httpx.Client) -> None:
    for number in range(1, 8):
        running.do(running.world.new_session, number)
    seen: list[str] = []
    cursor: str | None = None
    pages = 0
    while pages < 10:
        query = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
        page = client.get(f"{API}/sessions", params=query).json()
        assert page["total"] == 7
        seen += [session["id"] for session in page["sessions"]]
        pages += 1
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == [f"s{number:06x}" for number in range(1, 8)]
    assert pages == 3


def test_time_filters_take_both_ends(running: Site, client: httpx.Client) -> None:
    first = running.do(running.world.attach, 1)
    second = running.do(running.world.attach, 2)
    moments = {"since": repr(second["created"]), "until": repr(second["created"])}
    page = client.get(f"{API}/sessions", params=moments).json()
    assert [session["id"] for session in page["sessions"]] == [second["id"]]
    page = client.get(f"{API}/sessions", params={"until": repr(first["created"])}).json()
    assert [session["id"] for session in page["sessions"]] == [first["id"]]


def test_sorted_pages_merge_the_gateways(tmp_path: Path) -> None:
    socket = tmp_path / "other" / "epdg.sock"
    with site(tmp_path / "main", nodes=f"  - {{ name: other, kind: epdg, control: {socket} }}") as running:
        other = running.do(running.other_world, tmp_path / "other")
        for number in range(1, 10):
            world = (running.world, other)[number % 3 == 0]
            world.now = 1000.0 + number
            running.do(world.new_session, number)
        with httpx.Client(base_url=running.url) as client:
            for order, wanted in (("-created", range(9, 0, -1)), ("imsi", range(1, 10))):
                seen: list[str] = []
                cursor: str | None = None
                pages = 0
                while pages == 0 or cursor is not None:
                    query = {"limit": "2", "sort": order} | ({"cursor": cursor} if cursor else {})
                    page = client.get(f"{API}/sessions", params=query).json()
                    assert page["total"] == 9
                    seen += [session["id"] for session in page["sessions"]]
                    cursor = page["next"]
                    pages += 1
                assert seen == [f"s{number:06x}" for number in wanted]
                assert pages == 5
            running.do(other.stop, "epdg")
            page = client.get(f"{API}/sessions", params={"sort": "imsi"}).json()
            assert (page["total"], page["unreachable"]) == (6, ["other"])


@pytest.mark.parametrize(
    "cursor", ["W3siZXBkZyI6LTF9XQ", "W3siZWxzZSI6MX1d", "WyJlcGRnIiwiMSJd", "W3siZXBkZyI6dHJ1ZX1d"]
)
def test_foreign_cursor_of_a_sorted_page_is_refused(quiet: httpx.Client, cursor: str) -> None:
    assert_problem(quiet.get(f"{API}/sessions", params={"cursor": cursor, "sort": "imsi"}), 422)


@pytest.mark.parametrize("cursor", ["nonsense", "W10", "WyJlbHNld2hlcmUiLCIxIl0", "%00", "é"])
def test_foreign_cursor_is_refused(quiet: httpx.Client, cursor: str) -> None:
    assert_problem(quiet.get(f"{API}/sessions", params={"cursor": cursor}), 422)


def test_two_gateways_are_paged_one_after_the_other_and_one_may_be_away(tmp_path: Path) -> None:
    socket = tmp_path / "other" / "epdg.sock"
    with site(tmp_path / "main", nodes=f"  - {{ name: other, kind: epdg, control: {socket} }}") as running:
        for number in (1, 2, 3):
            running.do(running.world.new_session, number)
        with httpx.Client(base_url=running.url) as client:
            page = client.get(f"{API}/sessions").json()
            assert len(page["sessions"]) == 3
            assert page["unreachable"] == ["other"]
            other = running.do(running.other_world, tmp_path / "other")
            other.new_session(9)
            page = client.get(f"{API}/sessions", params={"limit": 3}).json()
            assert page["total"] == 4
            assert page["unreachable"] == []
            page = client.get(f"{API}/sessions", params={"limit": 3, "cursor": page["next"]}).json()
            assert [session["id"] for session in page["sessions"]] == ["s000009"]
            assert page["next"] is None
            for order in ({}, {"sort": "imsi"}):
                only = client.get(f"{API}/sessions", params={"gateway": "other", **order}).json()
                assert [session["id"] for session in only["sessions"]] == ["s000009"]
                assert (only["total"], only["next"]) == (1, None)
            assert client.get(f"{API}/sessions/s000009").json()["imsi"] == "001010000000009"


# --- problems ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", f"{API}/sessions/none", 404),
        ("GET", f"{API}/sessions/none/ladder", 404),
        ("GET", f"{API}/sessions/none/messages", 404),
        ("GET", "/static/none.js", 404),
        ("GET", f"{API}/sessions?limit=0", 422),
        ("GET", f"{API}/sessions?state=sleeping", 422),
        ("GET", f"{API}/sessions?imsi=abc", 422),
        ("GET", f"{API}/sessions?sort=age", 422),
        ("GET", f"{API}/sessions?gateway=nobody", 422),
        ("GET", f"{API}/sessions?since=NaN", 422),
        ("GET", f"{API}/sessions?until=-1", 422),
        ("GET", f"{API}/events?events=keys", 422),
        ("POST", f"{API}/sign-in", 422),
        ("PUT", f"{API}/sessions", 405),
        ("DELETE", f"{API}/sessions/none", 401),
        ("GET", "/sign-in?token=wrong", 401),
    ],
)
def test_every_error_is_problem_details(quiet: httpx.Client, method: str, path: str, status: int) -> None:
    assert_problem(quiet.request(method, path), status)


def test_unreachable_gateway_is_503_and_shown(running: Site, client: httpx.Client) -> None:
    running.do(running.world.attach, 1)
    wait_for(client, lambda name, data: name == "node" and data["name"] == "epdg" and data["reachable"])
    running.do(running.world.stop, "epdg")
    for path in (f"{API}/sessions", f"{API}/sessions/s000001"):
        problem = assert_problem(client.get(path), 503)
        assert problem["node"] == "epdg"
    assert_problem(client.delete(f"{API}/sessions/s000001", headers=BEARER), 503)
    wait_for(client, lambda name, data: name == "node" and data["name"] == "epdg" and not data["reachable"])
    nodes = {node["name"]: node for node in client.get(f"{API}/nodes").json()["nodes"]}
    assert nodes["epdg"]["reachable"] is False
    assert nodes["epdg"]["why"]
    assert nodes["aaa"]["reachable"] is True
    running.do(running.world.start, "epdg")
    since = nodes["epdg"]["since"]
    wait_for(
        client,
        lambda name, data: name == "node" and data["name"] == "epdg" and data["reachable"] and data["since"] > since,
    )
    assert client.get(f"{API}/sessions").json()["total"] == 1


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("OPTIONS", f"{API}/faults", "DELETE, GET, POST"),
        ("PUT", f"{API}/sessions/none", "DELETE, GET"),
        ("PATCH", f"{API}/subscribers/import", "POST"),
    ],
)
def test_a_method_that_is_not_there_says_which_are(quiet: httpx.Client, method: str, path: str, allowed: str) -> None:
    refused = quiet.request(method, path)
    assert_problem(refused, 405)
    assert refused.headers["allow"] == allowed


# --- who may do what --------------------------------------------------------------------------------

OWN = "own"


@pytest.mark.parametrize(
    ("headers", "cookie", "status"),
    [
        ({}, False, 401),
        ({"Authorization": "Bearer wrong"}, False, 401),
        ({"Authorization": f"Basic {TOKEN}"}, False, 401),
        ({"Authorization": "Bearer wrong"}, True, 401),
        (BEARER, False, 202),
        (BEARER | {"Origin": "http://evil.example"}, False, 202),
        ({}, True, 401),  # a cookie without proof of our own page
        ({"Origin": "http://evil.example"}, True, 401),
        ({"Origin": "http://127.0.0.1:1"}, True, 401),
        ({"Origin": OWN, "Sec-Fetch-Site": "same-site"}, True, 401),
        ({"Sec-Fetch-Site": "cross-site"}, True, 401),
        ({"Origin": OWN}, False, 401),
        ({"Origin": OWN}, True, 202),
        ({"Origin": OWN, "Sec-Fetch-Site": "same-origin"}, True, 202),
        ({"Sec-Fetch-Site": "same-origin"}, True, 202),
    ],
)
def test_detach_needs_token_or_cookie_of_own_page(
    running: Site, client: httpx.Client, headers: dict[str, str], cookie: bool, status: int
) -> None:
    session = running.do(running.world.attach, 1)
    if cookie:
        assert client.post(f"{API}/sign-in", json={"token": TOKEN}).json()["signed_in"] is True
    headers = {name: running.url if value == OWN else value for name, value in headers.items()}
    response = client.delete(f"{API}/sessions/{session['id']}", headers=headers)
    if status == 401:
        assert_problem(response, 401)
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert running.world.detached == []
    else:
        assert response.status_code == 202
        assert running.world.detached == [session["id"]]


def test_sign_in_link_exchanges_the_token_for_a_strict_cookie(running: Site, client: httpx.Client) -> None:
    response = client.get("/sign-in", params={"token": TOKEN})
    assert response.status_code == 303
    assert response.headers["location"] == "/"
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert TOKEN not in cookie
    standing = {"signed_in": True, "open_to_read": True, "name": "operator", "role": "operator"}
    assert client.get(f"{API}/me").json() == standing
    stolen = dict(client.cookies)
    signed_out = client.post(f"{API}/sign-out", headers={"Origin": running.url})
    assert signed_out.json()["signed_in"] is False
    assert httpx.get(f"{running.url}{API}/me", cookies=stolen).json()["signed_in"] is False


def test_wrong_sign_in_gives_no_cookie(quiet: httpx.Client) -> None:
    for response in (
        quiet.get("/sign-in", params={"token": "wrong"}),
        quiet.get("/sign-in", params={"token": "wrong"}, headers={"Accept": "text/html"}),
        quiet.post(f"{API}/sign-in", json={"token": "wrong"}),
    ):
        assert response.status_code == 401
        assert "set-cookie" not in response.headers
    assert quiet.get(f"{API}/me").json()["signed_in"] is False


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("evil.example", 421),
        ("localhost.evil.example:8080", 421),
        ("", 421),
    ],
)
def test_foreign_host_names_are_refused(quiet: httpx.Client, host: str, status: int) -> None:
    response = quiet.get(f"{API}/nodes", headers={"Host": host})
    assert response.status_code == status
    if status != 200:
        assert_problem(response, status)


def test_security_fields_on_every_answer(quiet: httpx.Client) -> None:
    for path in ("/", f"{API}/nodes", "/static/js/main.js", "/docs", "/nothing"):
        headers = quiet.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "script-src 'self';" in headers["content-security-policy"]


def test_no_secret_leaves(running: Site, client: httpx.Client) -> None:
    session = running.do(running.world.attach, 1)
    wait_for_record(client, "epdg", "attached to")
    wait_for_record(client, "aaa", "DIAMETER_SUCCESS")
    texts = [
        client.get(f"{API}{path}").text
        for path in (
            "/sessions",
            f"/sessions/{session['id']}",
            f"/sessions/{session['id']}/ladder",
            f"/sessions/{session['id']}/messages?limit=500",
            "/nodes",
        )
    ]
    stream = events(client, f"{epoch(client)}-0")
    for _, name, data in stream:
        texts.append(json.dumps(data))
        if name == "session":
            break
    everything = "\n".join(texts)
    assert "EAP-Master-Session-Key" in everything  # the name is shown …
    for secret in ("abab" * 8, "00" * 32, "11" * 16, "must-not-be-seen", TOKEN):
        assert secret not in everything  # … its value is not


def test_nodes_tell_how_much_of_their_trace_is_kept(tmp_path: Path) -> None:
    with site(tmp_path, "trace_ring: 100") as running, httpx.Client(base_url=running.url) as client:
        for number in range(1, 5):
            session = running.do(running.world.attach, number)
        wait_for_record(client, "epdg", f"{session['imsi']} attached")
        kept = {node["name"]: node["trace"] for node in client.get(f"{API}/nodes").json()["nodes"]}
        total = running.world.recorders["epdg"].sequence
        assert kept["epdg"] == {"records": total, "ring": 100, "oldest": pytest.approx(session["created"], abs=60)}
        for number in range(5, 9):
            session = running.do(running.world.attach, number)
        wait_for_record(client, "epdg", f"{session['imsi']} attached")
        (later,) = [node["trace"] for node in client.get(f"{API}/nodes").json()["nodes"] if node["name"] == "epdg"]
        assert later["records"] == 100
        assert later["oldest"] > kept["epdg"]["oldest"]


# --- ladder and messages ----------------------------------------------------------------------------


def ladder_of(client: httpx.Client, identifier: str) -> dict[str, Any]:
    answer = client.get(f"{API}/sessions/{identifier}/ladder")
    assert answer.status_code == 200, answer.text
    ladder: dict[str, Any] = answer.json()
    return ladder


def test_ladder_merges_the_nodes_in_order(running: Site, client: httpx.Client) -> None:
    session = running.do(running.world.attach, 1, retransmit=True)
    running.do(running.world.attach, 2)  # another session does not mix in
    for node, text in (("epdg", "001010000000002 attached"), ("aaa", ";2"), ("ue", "Attached")):
        wait_for_record(client, node, text)
    wait_for(client, lambda name, data: name == "record" and data["node"] == "ue" and data["sequence"] >= 19)
    ladder = ladder_of(client, session["id"])
    assert ladder["columns"] == ["UE", "ePDG", "AAA"]
    assert [pair["node"] for pair in ladder["names"]] == ["aaa", "epdg", "ue"]
    messages = [entry for entry in ladder["entries"] if entry["protocol"] in ("ikev2", "diameter")]
    ways = [(entry["from"], entry["to"], entry["name"]) for entry in messages]
    assert ways == [
        ("UE", "ePDG", "IKE_SA_INIT request 0"),
        ("UE", "ePDG", "IKE_SA_INIT request 0"),
        ("ePDG", "UE", "IKE_SA_INIT response 0"),
        ("UE", "ePDG", "IKE_AUTH request 1"),
        ("ePDG", "AAA", "DER"),
        ("AAA", "ePDG", "DEA"),
        ("ePDG", "UE", "IKE_AUTH response 1"),
        ("UE", "ePDG", "IKE_AUTH request 2"),
        ("ePDG", "AAA", "DER"),
        ("AAA", "ePDG", "DEA"),
        ("ePDG", "UE", "IKE_AUTH response 2"),
        ("UE", "ePDG", "IKE_AUTH request 3"),
        ("ePDG", "UE", "IKE_AUTH response 3"),
    ]
    lost, again, *rest = messages
    assert (lost["arrived"], lost["retransmission"], lost["seen_by"]) == (False, False, ["ue"])
    assert (again["arrived"], again["retransmission"], again["seen_by"]) == (True, True, ["ue", "epdg"])
    assert all(entry["arrived"] and len(entry["seen_by"]) == 2 for entry in rest)
    assert {entry["interface"] for entry in messages} == {"SWu", "SWm"}
    (attached,) = [entry for entry in ladder["entries"] if entry["kind"] == "event"]
    assert attached["name"] == "attached"
    assert sorted(attached["seen_by"]) == ["epdg", "ue"]
    assert "10.45.0.3" in attached["text"]


def test_ladder_without_the_other_nodes_is_the_gateways(running: Site, client: httpx.Client) -> None:
    running.do(running.world.stop, "ue")
    running.do(running.world.stop, "aaa")
    session = running.do(running.world.attach, 1)
    wait_for_record(client, "epdg", "attached to")
    wait_for(client, lambda name, data: name == "node" and data["name"] == "ue" and not data["reachable"])
    ladder = ladder_of(client, session["id"])
    messages = [entry for entry in ladder["entries"] if entry["kind"] == "message"]
    assert len(messages) == 12
    assert {tuple(entry["seen_by"]) for entry in messages} == {("epdg",)}
    assert not any(entry["arrived"] is False for entry in messages)  # nobody can tell
    assert "ue" in ladder["silent"]


def test_ladder_outlives_the_session(running: Site, client: httpx.Client) -> None:
    session = running.do(running.world.refuse, 3)
    wait_for_record(client, "epdg", "user unknown")
    running.do(running.world.sessions.clear)
    assert_problem(client.get(f"{API}/sessions/{session['id']}"), 404)
    names = [entry["name"] for entry in ladder_of(client, session["id"])["entries"]]
    assert names[-1] == "refused"


def test_restarted_node_brings_a_new_trace(running: Site, client: httpx.Client) -> None:
    running.do(running.world.attach, 1)
    wait_for_record(client, "epdg", "attached to")
    running.do(running.world.restart, "epdg")
    wait_for(client, lambda name, data: name == "restarted" and data["name"] == "epdg")
    running.do(running.world.refuse, 3)
    wait_for_record(client, "epdg", "user unknown")
    assert ladder_of(client, "s000003")["entries"][-1]["name"] == "refused"
    assert_problem(client.get(f"{API}/sessions/s000001/ladder"), 404)


def test_messages_page_through_every_record(running: Site, client: httpx.Client) -> None:
    session = running.do(running.world.attach, 1)
    for node, text in (("epdg", "attached to"), ("aaa", "DIAMETER_SUCCESS"), ("ue", "Attached")):
        wait_for_record(client, node, text)
    path = f"{API}/sessions/{session['id']}/messages"
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(20):
        page = client.get(path, params={"limit": "5"} | ({"cursor": cursor} if cursor else {})).json()
        seen += [message["id"] for message in page["messages"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == page["total"] == 28
    page = client.get(path, params={"node": "aaa", "protocol": "diameter"}).json()
    assert [message["body"]["name"] for message in page["messages"]] == ["DER", "DEA", "DER", "DEA"]
    assert client.get(path, params={"protocol": "eap"}).json()["total"] == 4
    assert client.get(path, params={"node": "ue", "protocol": "eap"}).json()["total"] == 0


# --- events -----------------------------------------------------------------------------------------


def test_events_resume_where_they_were_left(running: Site, client: httpx.Client) -> None:
    stream = events(client, events="record")
    _, name, _ = next(stream)
    assert name == "hello"
    running.do(running.world.attach, 1)
    last, _, first = next(stream)
    stream.close()
    running.do(running.world.move, "s000001", ACCESS_B)
    records: list[dict[str, Any]] = [first]
    resumed = events(client, last, events="record")
    assert next(resumed)[1] == "hello"
    for _, _, data in resumed:
        records.append(data)
        if data["node"] == "epdg" and data["body"].get("name") == "moved":
            break
    own = [record["sequence"] for record in records if record["node"] == "epdg"]
    assert own == list(range(1, 21))  # none lost, none twice


@pytest.mark.parametrize("last", ["00000000-5", "garbage", "{epoch}-999999", "{epoch}-x"])
def test_unknown_event_identifier_means_read_anew(quiet: httpx.Client, last: str) -> None:
    assert next(events(quiet, last.format(epoch=epoch(quiet))))[1] == "reset"


def test_event_ring_is_bounded_and_says_what_it_dropped(tmp_path: Path) -> None:
    with site(tmp_path, "event_ring: 16") as running, httpx.Client(base_url=running.url) as client:
        first = f"{epoch(client)}-0"
        running.do(running.world.attach, 1)
        while client.get(f"{API}/nodes").json()["nodes"][0]["tally"]["messages"] < 12:
            pass
        assert next(events(client, first))[1] == "reset"


def test_events_of_one_session(running: Site, client: httpx.Client) -> None:
    stream = events(client, session="s000002", events="record,session")
    next(stream)
    running.do(running.world.attach, 1)
    running.do(running.world.attach, 2)
    for _, name, data in stream:
        if name == "session":
            assert data["id"] == "s000002"
            assert "sk_d" not in data["ike"]
            break
        assert data["session"] == "s000002"


def test_heartbeats_and_the_limit_of_readers(tmp_path: Path) -> None:
    extra = "heartbeat_interval: 0.05\nevent_readers: 1"
    with site(tmp_path, extra) as running, httpx.Client(base_url=running.url) as client:
        with client.stream("GET", f"{API}/events", params={"events": "restarted"}) as response:
            lines = response.iter_lines()
            assert next(line for line in lines if line.startswith(":")) == ": heartbeat"
            refused = httpx.get(f"{running.url}{API}/events")
            assert_problem(refused, 503)
            assert refused.headers["retry-after"]
        # the place is free again as soon as the server has noticed
        again: list[str] = []
        while not again:
            with client.stream("GET", f"{API}/events") as response:
                if response.status_code == 200:
                    again.append(next(response.iter_lines()))
        assert again[0].startswith("retry:")


# --- documentation ----------------------------------------------------------------------------------


def test_openapi_describes_problems_and_documentation_works_offline(quiet: httpx.Client) -> None:
    schema = quiet.get("/openapi.json").json()
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert list(response["content"]) == ["application/problem+json"], (path, method, status)
    assert schema["paths"][f"{API}/sessions/{{identifier}}"]["delete"]["security"] == [{"bearer": []}]
    page = quiet.get("/docs").text
    assert "http://" not in page
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "initialise.js"):
        assert f"/static/swagger/{asset}" in page
        assert quiet.get(f"/static/swagger/{asset}").status_code == 200


def test_metrics_of_every_node_that_answers(running: Site, client: httpx.Client) -> None:
    """Counters and gauges of what the nodes say, without anybody's identity; a node that is away is only down."""
    running.do(running.world.attach, 1)
    wait_for(client, lambda name, data: name == "node" and data["name"] == "ue" and data["reachable"])
    wait_for(client, lambda name, data: name == "node" and (data["sessions"] or {}).get("established") == 1)

    found = client.get("/metrics")
    assert found.headers["content-type"].startswith("text/plain")
    assert {
        'epdg_node_up{kind="epdg",node="epdg"} 1.0',
        'epdg_node_up{kind="ue",node="ue"} 1.0',
        'epdg_sessions{node="epdg",state="established"} 1.0',
        'epdg_half_open_sas{node="epdg"} 0.0',
        'epdg_events_total{event="attached",node="epdg"} 7.0',
        'epdg_dropped_total{layer="esp",node="epdg",reason="replayed"} 3.0',
    } <= set(found.text.splitlines())
    assert "001010000000001" not in found.text
    running.do(running.world.stop, "epdg")
    wait_for(client, lambda name, data: name == "node" and data["name"] == "epdg" and not data["reachable"])
    of_the_gateway = [line for line in client.get("/metrics").text.splitlines() if 'node="epdg"' in line]
    assert of_the_gateway == ['epdg_node_up{kind="epdg",node="epdg"} 0.0']
