"""Who may do what at the dashboard, over HTTP: tokens and roles, the audit log, TLS, CORS, probes, limits."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from dashboards.__main__ import application
from dashboards.audit import FILES, AuditLog
from dashboards.guard import BODY_LIMIT, TARGET_LIMIT
from epdg.pki import make_pki
from tests.nodes.dashboards_world import TOKEN, Site, site
from tests.nodes.test_dashboards_api import API, BEARER, assert_problem, wait_for

NODES = "nodes: [{name: epdg, kind: epdg, control: epdg.sock}]\n"


def command(directory: Path, *words: str) -> Result:
    """``dashboards token`` with a configuration that names a file of tokens."""
    path = directory / "dashboards.yaml"
    if not path.exists():
        path.write_text(f"tokens: tokens.json\n{NODES}")
    return CliRunner().invoke(application, ["token", *words, "-c", str(path)])


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Site]:
    """A site with a file of tokens, an audit log, and nothing open to read."""
    extra = f"tokens: {tmp_path / 'tokens.json'}\naudit_log: {tmp_path / 'audit.jsonl'}\nrequire_sign_in: true"
    with site(tmp_path, extra) as running:
        yield running


@pytest.fixture
def client(guarded: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.url, timeout=10) as connected:
        yield connected


def made(directory: Path, name: str, role: str) -> str:
    answer = command(directory, "add", name, "--role", role)
    assert answer.exit_code == 0, answer.output
    return answer.stdout.strip()


# --- tokens -----------------------------------------------------------------------------------------


def test_tokens_are_made_listed_and_removed_and_only_digests_are_kept(tmp_path: Path) -> None:
    tokens = {name: made(tmp_path, name, role) for name, role in (("wall", "viewer"), ("bench", "operator"))}
    assert all(len(token) == 43 for token in tokens.values())  # 256 bits in base64url
    path = tmp_path / "tokens.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert not any(token in path.read_text() for token in tokens.values())
    rows = [line.split("\t")[:2] for line in command(tmp_path, "list").stdout.splitlines()]
    assert rows == [["wall", "viewer"], ["bench", "operator"]]
    assert command(tmp_path, "add", "wall", "--role", "viewer").exit_code == 1
    assert command(tmp_path, "remove", "wall").exit_code == 0
    gone = command(tmp_path, "remove", "wall")
    assert (gone.exit_code, gone.stderr.strip()) == (1, "there is no token wall")


@pytest.mark.parametrize("name", ["operator", "loopback", "", "a b", "x" * 65, "line\nbreak"])
def test_a_name_that_is_none_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    answer = command(tmp_path, "add", name, "--role", "viewer")
    assert answer.exit_code == 2
    assert answer.stderr.count("\n") == 1
    assert not (tmp_path / "tokens.json").exists()


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("{", 0o600, "tokens.json"),
        ('{"tokens": [{"name": "a", "role": "king", "sha256": "", "created": 0}]}', 0o600, "tokens.0.role"),
        ('{"tokens": []}', 0o640, "mode: got '0640', expected 0600"),
    ],
)
def test_a_bad_file_of_tokens_stops_the_server_before_it_listens(
    tmp_path: Path, text: str, mode: int, words: str
) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(text)
    path.chmod(mode)
    (tmp_path / "dashboards.yaml").write_text(f"tokens: tokens.json\nlisten: 127.0.0.1:0\n{NODES}")
    answer = CliRunner().invoke(application, ["serve", "-c", str(tmp_path / "dashboards.yaml")])
    assert answer.exit_code == 2
    assert words in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_without_a_file_no_token_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "dashboards.yaml").write_text(NODES)
    answer = command(tmp_path, "add", "a", "--role", "viewer")
    assert answer.exit_code == 2
    assert "tokens: got nothing" in answer.stderr


# --- roles ------------------------------------------------------------------------------------------


def test_viewers_look_and_operators_act(tmp_path: Path, guarded: Site, client: httpx.Client) -> None:
    session = guarded.do(guarded.world.attach, 1)
    path = f"{API}/sessions/{session['id']}"
    viewer, operator = made(tmp_path, "wall", "viewer"), made(tmp_path, "bench", "operator")
    assert_problem(client.get(path), 401)  # loopback, but signing in is required
    assert client.get(path, headers=bearer(viewer)).status_code == 200
    refused = assert_problem(client.delete(path, headers=bearer(viewer)), 403)
    assert (refused["needed"], refused["role"]) == ("operator", "viewer")
    assert "needs the role operator" in refused["detail"]
    keys = f"{API}/subscribers/001010000000001?secrets=true"
    assert_problem(client.get(keys, headers=bearer(viewer)), 403)
    assert_problem(client.get(f"{API}/audit", headers=bearer(viewer)), 403)
    assert guarded.world.detached == []
    assert client.delete(path, headers=bearer(operator)).status_code == 202
    assert guarded.world.detached == [session["id"]]


def test_a_cookie_has_the_role_of_its_token_and_ends_with_it(
    tmp_path: Path, guarded: Site, client: httpx.Client
) -> None:
    session = guarded.do(guarded.world.attach, 1)
    token = made(tmp_path, "wall", "viewer")
    signed_in = client.post(f"{API}/sign-in", json={"token": token})
    assert (signed_in.json()["name"], signed_in.json()["role"]) == ("wall", "viewer")
    assert token not in signed_in.headers["set-cookie"]
    assert client.get(f"{API}/me").json()["role"] == "viewer"
    own = {"Origin": guarded.url}
    assert_problem(client.delete(f"{API}/sessions/{session['id']}", headers=own), 403)
    assert_problem(client.post(f"{API}/sign-out"), 401)  # not of our own page
    assert client.get(f"{API}/sessions").status_code == 200
    assert command(tmp_path, "remove", "wall").exit_code == 0
    assert_problem(client.get(f"{API}/sessions"), 401)
    assert client.get(f"{API}/me").json() == {"signed_in": False, "open_to_read": False, "name": None, "role": None}


def test_a_viewer_can_sign_out(tmp_path: Path, guarded: Site, client: httpx.Client) -> None:
    client.post(f"{API}/sign-in", json={"token": made(tmp_path, "wall", "viewer")})
    assert client.post(f"{API}/sign-out", headers={"Origin": guarded.url}).json()["signed_in"] is False
    assert client.get(f"{API}/me").json()["signed_in"] is False


def test_a_file_that_others_may_read_counts_no_longer(tmp_path: Path, guarded: Site, client: httpx.Client) -> None:
    token = made(tmp_path, "bench", "operator")
    assert client.get(f"{API}/nodes", headers=bearer(token)).status_code == 200
    (tmp_path / "tokens.json").chmod(0o644)
    assert_problem(client.get(f"{API}/nodes", headers=bearer(token)), 401)
    assert client.get(f"{API}/nodes", headers=BEARER).status_code == 200  # the configuration's own


# --- the audit log ----------------------------------------------------------------------------------


def test_every_action_is_in_the_audit_log_and_no_secret(tmp_path: Path, guarded: Site, client: httpx.Client) -> None:
    session = guarded.do(guarded.world.attach, 1)
    path = f"{API}/sessions/{session['id']}"
    viewer = made(tmp_path, "wall", "viewer")
    client.delete(path)
    client.delete(path, headers=bearer("wrong-wrong-wrong-wrong"))
    client.delete(path, headers=bearer(viewer))
    client.delete(path, headers=BEARER)
    client.get(path, headers=BEARER)  # no action
    client.get("/sign-in", params={"token": viewer})
    client.post(f"{API}/sign-out", headers={"Origin": guarded.url})
    client.post(f"{API}/sign-in", json={"token": "guessed"})
    client.get(f"{API}/subscribers/001010000000001", params={"secrets": "true"}, headers=BEARER)
    client.post(f"{API}/faults", content="{", headers=BEARER)
    page = client.get(f"{API}/audit", headers=BEARER).json()
    entries = page["entries"]
    assert page["next"] is None
    assert [entry["sequence"] for entry in entries] == list(range(9, 0, -1))
    told = [(each["who"], each["role"], each["method"], each["node"], each["status"]) for each in reversed(entries)]
    assert told == [
        ("loopback", None, "DELETE", None, 401),
        ("loopback", None, "DELETE", None, 401),
        ("wall", "viewer", "DELETE", None, 403),
        ("operator", "operator", "DELETE", "epdg", 202),
        ("wall", "viewer", "GET", None, 303),
        ("wall", "viewer", "POST", None, 200),
        ("loopback", None, "POST", None, 401),
        ("operator", "operator", "GET", "aaa", 404),
        ("operator", "operator", "POST", None, 422),
    ]
    assert entries[5]["about"] == {"identifier": session["id"]}
    assert {entry["remote"] for entry in entries} == {"127.0.0.1"}
    log = tmp_path / "audit.jsonl"
    assert log.stat().st_mode & 0o777 == 0o600
    assert [json.loads(line) for line in log.read_text().splitlines()] == list(reversed(entries))
    for secret in (viewer, TOKEN, "wrong-wrong", "guessed"):
        assert secret not in log.read_text()


def test_the_audit_log_is_paged(guarded: Site, client: httpx.Client) -> None:
    for number in range(7):
        client.delete(f"{API}/sessions/s{number}", headers=BEARER)
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(4):
        query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = client.get(f"{API}/audit", params=query, headers=BEARER).json()
        seen += [entry["path"].rpartition("/")[2] for entry in page["entries"]]
        cursor = page["next"]
    assert cursor is None
    assert seen == [f"s{number}" for number in range(6, -1, -1)]
    assert_problem(client.get(f"{API}/audit?cursor=x", headers=BEARER), 422)


def test_the_audit_log_is_bounded_and_counts_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, octets=4096, wall=lambda: 1.0)
    for number in range(1000):
        log.append({"path": f"/{number}"})
    files = sorted(tmp_path.iterdir())
    assert len(files) == FILES
    assert all(file.stat().st_size <= 4096 for file in files)
    with path.open("ab") as cut_short:
        cut_short.write(b'{"sequence": 10')
    log = AuditLog(path, octets=4096, wall=lambda: 1.0)  # the server was started anew
    log.append({"path": "/later"})
    entries, more = log.page(before=None, limit=3)
    assert more
    assert [entry["path"] for entry in entries] == ["/later", "/999", "/998"]
    assert [entry["sequence"] for entry in entries] == [1001, 1000, 999]


def test_without_an_audit_log_there_is_none_to_read(tmp_path: Path) -> None:
    with site(tmp_path) as running:
        problem = assert_problem(httpx.get(f"{running.url}{API}/audit", headers=BEARER), 404)
        assert "audit_log is not configured" in problem["detail"]


def test_an_audit_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    config = tmp_path / "dashboards.yaml"
    config.write_text(f"audit_log: missing/audit.jsonl\nlisten: 127.0.0.1:0\n{NODES}")
    answer = CliRunner().invoke(application, ["serve", "-c", str(config)])
    assert answer.exit_code == 1
    assert "audit_log" in answer.stderr.splitlines()[-1]


# --- TLS and CORS -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki")
    make_pki(directory, ("localhost",))
    return directory


def test_tls_by_configuration(tmp_path: Path, pki: Path) -> None:
    path = tmp_path / "dashboards.yaml"
    path.write_text(f"listen: 127.0.0.1:0\ntls: {{certificate: {pki}/gateway.pem, key: {pki}/gateway.key}}\n{NODES}")
    arguments = [sys.executable, "-m", "dashboards", "serve", "-c", str(path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            link = process.stdout.readline().removeprefix("Sign in at ").strip()
            assert link.startswith("https://127.0.0.1:")
            link = link.replace("127.0.0.1", "localhost")
            context = ssl.create_default_context(cafile=pki / "ca.pem")
            base = link.partition("/sign-in")[0]
            with httpx.Client(base_url=base, verify=context, timeout=10) as client:
                assert "secure" in client.get(link).headers["set-cookie"].lower()
                assert client.get(f"{API}/me").json()["signed_in"] is True
                assert client.post(f"{API}/sign-out", headers={"Origin": base}).status_code == 200
        finally:
            process.terminate()


def encrypted_key(pki: Path) -> str:
    made = subprocess.run(
        ["openssl", "pkey", "-in", str(pki / "gateway.key"), "-aes128", "-passout", "pass:x"],
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout


@pytest.mark.parametrize(
    ("certificate", "key", "wrong"),
    [
        ("missing", "key", "tls.certificate"),
        ("certificate", "missing", "tls.key"),
        ("key", "key", "tls.certificate"),
        ("certificate", "certificate", "tls.key"),
        ("certificate", "other", "tls.key"),
        ("octets", "key", "tls.certificate"),
        ("certificate", "encrypted", "tls.key"),
    ],
)
def test_bad_files_of_tls_are_one_line_with_the_key(
    tmp_path: Path, pki: Path, certificate: str, key: str, wrong: str
) -> None:
    files = {
        "certificate": pki / "gateway.pem",
        "key": pki / "gateway.key",
        "missing": tmp_path / "missing.pem",
        "octets": tmp_path / "octets.pem",
        "encrypted": tmp_path / "encrypted.key",
        "other": tmp_path / "other" / "gateway.key",
    }
    files["octets"].write_bytes(b"\xff\x00")
    if key == "encrypted":
        files["encrypted"].write_text(encrypted_key(pki))
    if key == "other":
        make_pki(tmp_path / "other", ("localhost",))
    config = tmp_path / "dashboards.yaml"
    config.write_text(f"listen: 127.0.0.1:0\ntls: {{certificate: {files[certificate]}, key: {files[key]}}}\n{NODES}")
    answer = CliRunner().invoke(application, ["serve", "-c", str(config)])
    assert answer.exit_code == 2
    assert f"{config}: {wrong}: got" in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_cors_is_off_unless_configured(tmp_path: Path) -> None:
    origin = "https://bench.example.net"
    asked = {"Origin": origin, "Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "x"}
    with site(tmp_path / "off") as running:
        answer = httpx.get(f"{running.url}{API}/nodes", headers={"Origin": origin})
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert_problem(httpx.options(f"{running.url}{API}/nodes", headers=asked), 405)
    with site(tmp_path / "on", f"cors_origins: ['{origin}']") as running:
        answer = httpx.get(f"{running.url}{API}/nodes", headers={"Origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin
        assert "access-control-allow-credentials" not in answer.headers
        asked["Access-Control-Request-Headers"] = "authorization"
        assert httpx.options(f"{running.url}{API}/nodes", headers=asked).status_code == 200
        asked["Origin"] = "https://other.example.net"
        refused = httpx.options(f"{running.url}{API}/nodes", headers=asked)
        assert "access-control-allow-origin" not in refused.headers
        assert refused.headers["x-content-type-options"] == "nosniff"


# --- probes, conditional requests, limits -----------------------------------------------------------


def test_probes(tmp_path: Path) -> None:
    with site(tmp_path) as running, httpx.Client(base_url=running.url) as client:
        wait_for(client, lambda name, data: name == "node" and data["name"] == "epdg" and data["reachable"])
        assert client.get("/readyz").json() == {"status": "ready"}
        running.do(running.world.stop, "aaa")  # no gateway
        running.do(running.world.stop, "epdg")
        wait_for(client, lambda name, data: name == "node" and data["name"] == "aaa" and not data["reachable"])
        wait_for(client, lambda name, data: name == "node" and data["name"] == "epdg" and not data["reachable"])
        assert assert_problem(client.get("/readyz"), 503)["nodes"] == ["epdg"]
        assert client.get("/healthz").json() == {"status": "alive"}


def test_probes_need_no_token(client: httpx.Client) -> None:
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code in (200, 503)


def test_conditional_requests(tmp_path: Path) -> None:
    with site(tmp_path) as running, httpx.Client(base_url=running.url) as client:
        session = running.do(running.world.attach, 1)
        for path in (f"{API}/sessions/{session['id']}", "/openapi.json"):
            first = client.get(path)
            tag = first.headers["etag"]
            for field in (tag, f'"other", W/{tag}', "*"):
                again = client.get(path, headers={"If-None-Match": field})
                assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
                assert again.headers["x-content-type-options"] == "nosniff"
            assert client.get(path, headers={"If-None-Match": '"other"'}).content == first.content
        path = f"{API}/sessions/{session['id']}"
        tag = client.get(path).headers["etag"]
        running.do(running.world.detach, session["id"])
        changed = client.get(path, headers={"If-None-Match": tag})
        assert changed.json()["state"] == "closed"
        assert changed.headers["etag"] != tag
        assert "etag" in client.get(f"{API}/nodes").headers
        assert "etag" not in client.get(f"{API}/sessions/none").headers


def test_bodies_and_queries_are_bounded(tmp_path: Path) -> None:
    with site(tmp_path) as running, httpx.Client(base_url=running.url, timeout=10) as client:
        long = "x" * (TARGET_LIMIT + 1)
        assert_problem(client.get(f"{API}/sessions", params={"q": long}), 414)
        large = b" " * (BODY_LIMIT + 1)
        assert_problem(client.post(f"{API}/sign-in", content=large), 413)
        pieces = (large[start : start + 65536] for start in range(0, len(large), 65536))
        assert_problem(client.post(f"{API}/sign-in", content=pieces), 413)  # chunked: no length in the field
        assert client.get(f"{API}/nodes").status_code == 200
