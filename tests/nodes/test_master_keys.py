"""Keys at rest: sealed under a master key, rotated, refused in one line when it is another; nowhere else in clear."""

from __future__ import annotations

import asyncio
import base64
import re
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from typer.testing import CliRunner, Result

from aaa.command_line import application
from aaa.subscribers import Algorithm, Subscriber, SubscriberDatabase
from aaa.subscribers.laboratory import laboratory_subscriber
from aaa.subscribers.master_keys import MasterKeyError, add_master_key, create_master_keys, read_master_keys
from protocols.errors import BackendError
from protocols.io.control import ControlClient, call_sync
from protocols.secret import Secret
from protocols.trace.records import TraceRecord
from tests.harness.aka_user import aka_user
from tests.peers.aaa_node import AaaProcess, Gateway, run_aaa

USER = laboratory_subscriber(1)
TUAK = replace(
    laboratory_subscriber(2),
    algorithm=Algorithm.TUAK,
    k=Secret(b"K" * 32),
    op=Secret(b"T" * 32),
    opc=None,
)
XOR = replace(laboratory_subscriber(3), algorithm=Algorithm.XOR, opc=None)
USERS = (USER, TUAK, XOR)
ENCRYPTION = "encryption: {master_keys: aaa.key}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    create_master_keys(tmp_path / "aaa.key")
    return tmp_path / "aaa.key"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'aaa.db'}"


@pytest.fixture
def database(url: str, file: Path) -> Iterator[SubscriberDatabase]:
    with SubscriberDatabase(url, read_master_keys(file)) as opened:
        opened.migrate()
        yield opened


def secrets(*subscribers: Subscriber) -> list[bytes]:
    """Every key of theirs."""
    keys = [key for each in subscribers for key in (each.k, each.op, each.opc)]
    return [key.reveal() for key in keys if key is not None]


def written(octets: bytes) -> list[bytes]:
    """The ways in which a key may be found: as it is, in digits, in text of Python's, in Base64."""
    return [
        octets,
        octets.hex().encode(),
        octets.hex().upper().encode(),
        repr(octets).encode(),
        base64.b64encode(octets),
    ]


def aaa(*words: str) -> Result:
    return CliRunner().invoke(application, list(words))


def refusal(result: Result) -> str:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return str(line)


# --- at rest ----------------------------------------------------------------------------------------


def test_keys_are_read_back_and_not_in_the_file(database: SubscriberDatabase, url: str, tmp_path: Path) -> None:
    database.put(USERS)
    assert tuple(database.all()) == USERS
    octets = (tmp_path / "aaa.db").read_bytes()
    for key in secrets(*USERS):
        assert not [form for form in written(key) if form in octets]
    assert (tmp_path / "aaa.key").stat().st_mode & 0o777 == 0o600


def test_every_value_has_a_nonce_of_its_own(database: SubscriberDatabase, url: str) -> None:
    database.put([replace(USER, k=Secret(bytes(16)), opc=Secret(bytes(16))), replace(XOR, k=Secret(bytes(16)))])
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT k, opc FROM subscribers")).all()
    engine.dispose()
    values = [value for row in rows for value in row if value is not None]
    assert len({value[:12] for value in values}) == len(values) == 3
    assert len(set(values)) == 3


@pytest.mark.parametrize("change", ["UPDATE subscribers SET k = opc", "UPDATE subscribers SET k = x'00'"])
def test_a_sealed_key_stays_in_its_place(database: SubscriberDatabase, url: str, change: str) -> None:
    """Bound to IMSI and column: what somebody moved or damaged is not taken for a key."""
    database.add(USER)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(change))
    engine.dispose()
    with pytest.raises(BackendError, match=f"keys of IMSI {USER.imsi} cannot be read"):
        database.get(USER.imsi)


def test_replacing_knows_the_same_usim_when_sealed(database: SubscriberDatabase) -> None:
    database.add(replace(USER, sequence=500))
    database.replace(replace(USER, enabled=False))
    assert database.sequence(USER.imsi) == 500


# --- rotation ---------------------------------------------------------------------------------------


def test_a_database_in_clear_is_sealed_and_sealed_again(url: str, file: Path, tmp_path: Path) -> None:
    with SubscriberDatabase(url) as in_clear:
        in_clear.migrate()
        in_clear.put(USERS)
    options = ("--database", url, "--master-keys", str(file))
    assert aaa("rekey-database", *options).output == "keys of 3 subscribers sealed\n"
    assert aaa("rekey-database", *options).output == "keys of 0 subscribers sealed\n"
    assert aaa("master-key", "add", str(file)).output == f"master key 2 added to {file}\n"
    with SubscriberDatabase(url, read_master_keys(file)) as database:
        database.migrate()
        assert tuple(database.all()) == USERS  # still under the first one
    assert aaa("rekey-database", *options).output == "keys of 3 subscribers sealed\n"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line for line in lines if not line.startswith("1 ")))
    with SubscriberDatabase(url, read_master_keys(file)) as database:
        database.migrate()
        assert tuple(database.all()) == USERS
        assert database.keys_in_clear() == 0
    for key in secrets(*USERS):
        assert key not in (tmp_path / "aaa.db").read_bytes()


def test_rekeying_wants_a_master_key(url: str) -> None:
    line = refusal(aaa("rekey-database", "--database", url))
    assert "--master-keys" in line


# --- the wrong key ----------------------------------------------------------------------------------


def test_another_master_key_is_one_line(database: SubscriberDatabase, url: str, tmp_path: Path) -> None:
    database.add(USER)
    database.close()
    other = tmp_path / "other.key"
    create_master_keys(other)
    for command in (("subscriber", "list"), ("migrate",), ("rekey-database",)):
        line = refusal(aaa(*command, "--database", url, "--master-keys", str(other)))
        assert line.startswith(f"{other}: master keys: got another key of version 1, expected the one that")
    assert "got nothing, expected the file of the master keys" in refusal(aaa("subscriber", "list", "--database", url))
    lines = other.read_text().splitlines()
    other.write_text(lines[-1].replace("1 ", "7 ", 1))
    line = refusal(aaa("subscriber", "list", "--database", url, "--master-keys", str(other)))
    assert "got no version 1, expected that version" in line


def test_a_wrong_key_is_known_before_there_is_a_subscriber(database: SubscriberDatabase, url: str, file: Path) -> None:
    file.unlink()
    create_master_keys(file)
    with SubscriberDatabase(url, read_master_keys(file)) as other, pytest.raises(MasterKeyError):
        other.migrate()


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ("", "got no key, expected at least one line"),
        ("1 00\n", "got another line, expected a version"),
        ("0 " + "00" * 32, "got another line, expected a version"),
        (f"1 {'00' * 32}\n1 {'11' * 32}\n", "got version 1 twice"),
        ("ä", "got octets that are no text"),
    ],
)
def test_files_that_are_none(tmp_path: Path, url: str, contents: str, words: str) -> None:
    file = tmp_path / "bad.key"
    file.write_text(contents)
    file.chmod(0o600)
    line = refusal(aaa("migrate", "--database", url, "--master-keys", str(file)))
    assert words in line
    assert "00000000" not in line


def test_a_file_for_everybody_is_refused(file: Path, url: str, tmp_path: Path) -> None:
    file.chmod(0o640)
    assert "got mode 0640, expected a file that its owner alone may read" in refusal(
        aaa("migrate", "--database", url, "--master-keys", str(file))
    )
    missing = str(tmp_path / "none.key")
    assert "No such file" in refusal(aaa("migrate", "--database", url, "--master-keys", missing))


def test_a_file_is_not_made_twice(file: Path) -> None:
    before = file.read_text()
    assert "got a file that exists" in refusal(aaa("master-key", "init", str(file)))
    assert file.read_text() == before
    assert re.fullmatch(r"(#.*\n)?1 [0-9a-f]{64}\n", before)
    assert add_master_key(file) == 2
    assert file.stat().st_mode & 0o777 == 0o600
    assert "keys" not in repr(read_master_keys(file)).lower().replace("masterkeys", "")


# --- a node -----------------------------------------------------------------------------------------


def test_no_key_leaves_a_node(tmp_path: Path) -> None:
    """Log at its loudest, trace with its own keys, control answers, listings: everything is looked through."""
    node = AaaProcess(tmp_path, extra="encryption: {master_keys: aaa.key, create: true}\ntrace: {export_keys: true}\n")
    config = str(node.write_configuration())
    assert USER.opc is not None
    keys = ("--k", USER.k.reveal().hex(), "--opc", USER.opc.reveal().hex())
    results = [aaa("subscriber", "add", str(USER.imsi), "-c", config, *keys)]
    assert (tmp_path / "aaa.key").stat().st_mode & 0o777 == 0o600
    trace: list[TraceRecord] = []
    with node:
        user, stranger = aka_user(USER), aka_user(USER, k=Secret(bytes(16)))

        async def attach() -> None:
            async with Gateway.connected(node.port) as gateway:
                await gateway.attach(user)
                await gateway.attach(stranger)

        async def everything_traced() -> None:
            stream = ControlClient(node.control).subscribe(0)
            async for record in stream:
                if not trace:
                    node.stop()
                trace.append(record)

        asyncio.run(attach())
        assert user.msk is not None
        answers = [call_sync(node.control, method) for method in ("node.status", "sessions.list", "peers.list")]
        for words in (("list",), ("list", "--json"), ("show", str(USER.imsi)), ("show", str(USER.imsi), "--json")):
            results.append(aaa("subscriber", *words, "-c", config))
        asyncio.run(everything_traced())
    everything = "\n".join(
        [node.log(), *(repr(record.to_json()) for record in trace), repr(answers), *(each.output for each in results)]
    ).encode()
    assert everything.count(str(USER.imsi).encode()) > 10
    assert b"stored in clear" not in everything
    master_key = (tmp_path / "aaa.key").read_text().split()[-1]
    for key in (*secrets(USER), bytes.fromhex(master_key)):
        assert not [form for form in written(key) if form in everything]
        assert key not in (tmp_path / "aaa.db").read_bytes()


def test_a_node_says_what_is_in_clear_and_refuses_another_key(tmp_path: Path) -> None:
    node = AaaProcess(tmp_path)
    node.provision(USER)
    create_master_keys(tmp_path / "aaa.key")
    node.extra = ENCRYPTION
    with node:
        node.stop()
    assert "Keys of 1 subscribers are stored in clear: `aaa rekey-database` seals them." in node.log()
    assert aaa("rekey-database", "-c", str(node.configuration)).output == "keys of 1 subscribers sealed\n"
    (tmp_path / "aaa.key").unlink()
    create_master_keys(tmp_path / "aaa.key")
    refused = run_aaa("serve", "-c", node.configuration)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "got another key of version 1" in line


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{master_keys: 7}", "encryption.master_keys: got a value that is not shown, expected a path"),
        ("{create: perhaps}", "encryption.create: got 'perhaps', expected true or false"),
        ("{key: aaa.key}", "encryption.key: got an unknown key"),
    ],
)
def test_a_wrong_configuration_is_one_line(tmp_path: Path, section: str, words: str) -> None:
    file = AaaProcess(tmp_path, extra=f"encryption: {section}\n").write_configuration()
    refused = re.sub(r":\d+: ", ": ", refusal(aaa("migrate", "-c", str(file))), count=1)
    assert refused.startswith(f"{file}: {words}")


def test_no_key_stands_behind_an_exception(tmp_path: Path, url: str) -> None:
    """In clear, and with a statement that fails: what a traceback would show has no values of the row."""
    with SubscriberDatabase(url) as database:
        database.migrate()
        engine = create_engine(url)
        with engine.begin() as connection:
            refusing = "CREATE TRIGGER no BEFORE INSERT ON subscribers BEGIN SELECT RAISE(ABORT, 'refused'); END"
            connection.execute(text(refusing))
        engine.dispose()
        with pytest.raises(BackendError) as caught:
            database.add(USER)
    shown = "".join(traceback.format_exception(caught.value)).encode()
    assert b"INSERT INTO subscribers" in shown
    assert b"[parameters:" not in shown  # whose form is the driver's
    for key in secrets(USER):
        assert not [form for form in written(key) if form in shown]
