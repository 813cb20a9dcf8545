"""The subscriber database in PostgreSQL: provisioning, sequence numbers under competition, a server that goes away."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import alembic.command
import pytest
from sqlalchemy import create_engine, inspect, text
from typer.testing import CliRunner, Result

from aaa.command_line import application
from aaa.subscribers import Subscriber, SubscriberDatabase, SubscriberExists, SubscriberFilter, UnknownImsi
from aaa.subscribers.engines import open_engine, writing
from aaa.subscribers.laboratory import laboratory_subscriber, provision
from aaa.subscribers.master_keys import MasterKeyError, create_master_keys, read_master_keys
from aaa.subscribers.schema import SubscriberRow
from protocols.algorithms.sqn import SqnScheme, SqnState
from protocols.diameter.codec import Result as DiameterResult
from protocols.diameter.dictionary import ResultCode
from protocols.diameter.swm import Dea
from protocols.errors import BackendError
from protocols.secret import Secret
from protocols.threegpp.identity import Apn
from tests.harness.aka_user import AkaUser, aka_user
from tests.harness.subscriber_schema import alembic_configuration, migrated, tables_of
from tests.nodes.test_aaa_subscribers import FULL, USER, draw
from tests.nodes.test_aaa_transfer import EVERYTHING
from tests.nodes.test_sqn_durability import lives
from tests.peers.aaa_node import AaaProcess, Gateway, free_port, run_aaa
from tests.peers.postgresql import PASSWORD, URL_PASSWORD, PostgreSql, require_psycopg

pytestmark = pytest.mark.peer

IMSI = str(USER.imsi)
K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"  # TS 35.208 §4.3.1, set 1
MULTI_ROUND = DiameterResult.of(ResultCode.DIAMETER_MULTI_ROUND_AUTH)
SUCCESS = DiameterResult.of(ResultCode.DIAMETER_SUCCESS)
UNABLE = DiameterResult.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)
WAIT_TIMEOUT = 15.0

T = TypeVar("T")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSql]:
    """One cluster for all tests, which have databases of their own."""
    with PostgreSql() as running:
        yield running


@pytest.fixture
def url(server: PostgreSql) -> str:
    return server.database()


@pytest.fixture
def database(url: str) -> Iterator[SubscriberDatabase]:
    with SubscriberDatabase(url) as opened:
        opened.migrate()
        yield opened


# --- migrations -------------------------------------------------------------------------------------


def test_a_new_database_is_what_the_migrations_make_which_go_down_again(url: str, server: PostgreSql) -> None:
    with SubscriberDatabase(url) as database:
        assert database.revision() is None
        assert database.migrate() == database.revision()
        database.add(USER)
    assert tables_of(url) == migrated(server.database())
    engine = create_engine(url)
    with engine.begin() as connection:
        alembic.command.downgrade(alembic_configuration(connection), "base")
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
    engine.dispose()


def migrate(url: str) -> str:
    with SubscriberDatabase(url) as database:
        return database.migrate()


def test_nodes_that_start_together_migrate_once(url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(migrate, [url] * 6))) == 1


# --- provisioning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("subscriber", [USER, FULL, replace(USER, apns=())], ids=["plain", "full", "without APN"])
def test_what_is_added_is_read_back(database: SubscriberDatabase, subscriber: Subscriber) -> None:
    database.add(subscriber)
    assert database.get(subscriber.imsi) == subscriber
    with pytest.raises(SubscriberExists):
        database.add(subscriber)
    assert database.count() == 1


def test_everything_is_stored_under_a_master_key(url: str, tmp_path: Path) -> None:
    create_master_keys(tmp_path / "aaa.key")
    with SubscriberDatabase(url) as in_clear:
        in_clear.migrate()
        in_clear.put([USER, EVERYTHING])
    with SubscriberDatabase(url, read_master_keys(tmp_path / "aaa.key")) as database:
        database.migrate()
        assert database.keys_in_clear() == database.rekey() == 2
        assert tuple(database.all()) == (USER, EVERYTHING)
        changed = database.update(EVERYTHING.imsi, lambda subscriber: replace(subscriber, enabled=True))
        assert database.get(EVERYTHING.imsi) == changed == replace(EVERYTHING, enabled=True)
        found = database.page(where=SubscriberFilter(imsi_prefix="310", apn=Apn("ims"), enabled=True, text="4901"))
        assert found == (changed,)
        assert database.count(SubscriberFilter(text="%")) == 0
    with SubscriberDatabase(url) as keyless, pytest.raises(MasterKeyError):
        keyless.migrate()


def test_many_subscribers_are_stored_in_transactions_of_some(database: SubscriberDatabase) -> None:
    users = [laboratory_subscriber(number) for number in range(1, 3001)]
    told: list[int] = []
    assert database.put_all(iter(users), progress=told.append) == 3000
    assert told == [2000, 1000]
    assert database.put_all(iter(users), over=True) == database.count() == 3000


def test_listing_goes_page_by_page(database: SubscriberDatabase) -> None:
    users = provision(database, range(1, 8))
    assert database.page(limit=3) == users[:3]
    assert database.page(after=users[2].imsi, limit=3) == users[3:6]
    assert tuple(database.all(size=3)) == users


def test_replacing_changes_all_but_the_sequence_number_of_the_same_usim(database: SubscriberDatabase) -> None:
    database.add(replace(FULL, sequence=500))
    first, second = FULL.apns
    apns = (replace(second, is_default=True), replace(first, is_default=False, ambr_uplink_bits=2))
    changed = replace(FULL, enabled=True, msisdn=None, apns=apns)
    database.replace(changed)
    assert database.get(FULL.imsi) == replace(changed, sequence=500)
    other = replace(changed, k=Secret(bytes(16)), sequence=0)
    database.replace(other)
    assert database.get(FULL.imsi) == other  # another K is another USIM


def test_removing_takes_the_apns_along(database: SubscriberDatabase, url: str) -> None:
    database.add(USER)
    assert database.remove(USER.imsi)
    assert not database.remove(USER.imsi)
    assert database.get(USER.imsi) is None
    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM apns")) == 0
    engine.dispose()


def test_a_unix_socket_does_as_well(server: PostgreSql, database: SubscriberDatabase, url: str) -> None:
    database.add(USER)
    with SubscriberDatabase(server.socket_url(url)) as local:
        assert local.get(USER.imsi) == USER


# --- the command line -------------------------------------------------------------------------------


def aaa(*words: str) -> Result:
    return CliRunner().invoke(application, list(words))


def test_subscribers_from_the_command_line(url: str) -> None:
    added = ("subscriber", "add", IMSI, "--k", K, "--opc", OPC, "--database", url)
    assert aaa(*added, "--apn", "ims", "--sqn", "0000000000ff").output == f"subscriber {IMSI} provisioned\n"
    again = aaa(*added)
    assert again.exit_code == 2
    assert "--replace" in again.stderr
    assert aaa(*added, "--apn", "internet", "--replace").exit_code == 0
    assert aaa("subscriber", "list", "--database", url).output == f"{IMSI}  enabled  internet  -\n"
    shown = json.loads(aaa("subscriber", "show", IMSI, "--database", url, "--json", "--secrets").output)
    assert (shown["k"], shown["opc"], shown["sqn"]) == (K, OPC, "0000000000e7")
    assert [apn["apn"] for apn in shown["apns"]] == ["internet"]
    assert aaa("subscriber", "remove", IMSI, "--database", url).exit_code == 0
    assert aaa("subscriber", "list", "--database", url, "--json").output == "[]\n"
    unknown = aaa("subscriber", "show", IMSI, "--database", url)
    assert (unknown.exit_code, unknown.stderr) == (1, f"no subscriber has IMSI {IMSI}\n")
    with SubscriberDatabase(url) as database:
        assert aaa("migrate", "--database", url).output == f"database is at revision {database.revision()}\n"


# --- sequence numbers (TS 33.102 §6.3, Annex C) -----------------------------------------------------


def test_threads_and_processes_never_draw_the_same_number(database: SubscriberDatabase, url: str) -> None:
    database.add(USER)
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawning) as processes, ThreadPoolExecutor(2) as threads:
        draws = [pool.submit(draw, url, seed, 40) for seed in range(2) for pool in (processes, threads)]
        drawn = [done.result() for done in draws]
    for numbers in drawn:
        assert numbers == sorted(numbers)
    assert len({sqn for numbers in drawn for sqn in numbers}) == 160


def reserve(state: SqnState) -> SqnState:
    """A block of 32."""
    return SqnScheme().reserve(state, 32)


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_a_change_that_another_one_overtook_is_made_again(server: PostgreSql, isolation: str) -> None:
    """Compare-and-swap: the other server's change comes between reading and storing, whatever the default level."""
    url = server.database({"default_transaction_isolation": isolation})
    with SubscriberDatabase(url) as slow, SubscriberDatabase(url) as quick:
        slow.migrate()
        slow.add(USER)
        applied: list[int] = []

        def transition(state: SqnState) -> SqnState:
            applied.append(state.seq)
            if len(applied) == 1:
                quick.change_sequence(USER.imsi, reserve)
            return reserve(state)

        assert slow.change_sequence(USER.imsi, transition) == SqnState(64)
        assert applied == [0, 32]
        assert slow.sequence(USER.imsi) == 64


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
def test_a_change_waits_for_one_that_is_not_committed_yet(server: PostgreSql, isolation: str) -> None:
    url = server.database({"default_transaction_isolation": isolation})
    with SubscriberDatabase(url) as database:
        database.migrate()
        database.add(USER)
        reserved = overtaken(
            server,
            url,
            "UPDATE subscribers SET sequence = 500",
            lambda: database.change_sequence(USER.imsi, reserve),
        )
        assert reserved == SqnState(532)
        assert database.sequence(USER.imsi) == 532


def overtaken(server: PostgreSql, url: str, statement: str, call: Callable[[], T]) -> T:
    """What ``call`` returns when it ran into a transaction of somebody else, which then committed."""
    with ThreadPoolExecutor(1) as pool:
        with server.transaction(url) as other:
            other.execute(statement.encode())
            waiting: Future[T] = pool.submit(call)
            server.wait_for_waiter(url)
            assert not waiting.done()
        return waiting.result(WAIT_TIMEOUT)


def test_replacing_loses_no_reservation_that_is_being_made(
    server: PostgreSql, database: SubscriberDatabase, url: str
) -> None:
    """Otherwise the server that reserved it and the next one would both give out the same numbers."""
    database.add(USER)
    replacement = replace(USER, enabled=False, sequence=100)
    overtaken(server, url, "UPDATE subscribers SET sequence = 500", lambda: database.replace(replacement))
    assert database.get(USER.imsi) == replace(replacement, sequence=500)


def test_two_provision_the_same_subscriber(server: PostgreSql, database: SubscriberDatabase, url: str) -> None:
    database.add(USER)
    columns = [column.name for column in SubscriberRow.__table__.columns]
    values = {"imsi": f"'{FULL.imsi}'", "sequence": "77"}
    copied = ", ".join(values.get(name, name) for name in columns)
    insert = f"INSERT INTO subscribers ({', '.join(columns)}) SELECT {copied} FROM subscribers"
    mine = replace(USER, imsi=FULL.imsi)
    overtaken(server, url, insert, lambda: database.replace(mine))
    assert database.get(FULL.imsi) == replace(mine, sequence=77)


def test_two_remove_the_same_subscriber(server: PostgreSql, database: SubscriberDatabase, url: str) -> None:
    database.add(USER)
    assert not overtaken(server, url, "DELETE FROM subscribers", lambda: database.remove(USER.imsi))


def test_a_reservation_survives_a_crash_of_the_server(server: PostgreSql) -> None:
    """It is on disk before it is used, also where the server acknowledges commits ahead of that."""
    url = server.database({"synchronous_commit": "off"})
    with SubscriberDatabase(url) as database:
        database.migrate()
        database.add(USER)
        reserved = database.change_sequence(USER.imsi, reserve)
        server.stop(signal.SIGQUIT)
        server.start()
        assert database.sequence(USER.imsi) == reserved.seq == 32


def test_processes_killed_at_random_moments(url: str) -> None:
    """No number that left one of them comes again, whoever gives out the next ones."""
    assert lives(url, 25)["numbers"] > 25


def test_a_lock_is_not_waited_for_for_ever(server: PostgreSql, database: SubscriberDatabase, url: str) -> None:
    database.add(USER)
    engine = open_engine(url)
    for connected, limit in ((writing(engine), "2s"), (engine, "0")):
        with connected.begin() as connection:
            assert connection.scalar(text("SHOW lock_timeout")) == limit
    engine.dispose()
    with (
        SubscriberDatabase(f"{url}?options=-c%20lock_timeout%3D100ms") as hasty,
        server.transaction(url) as other,
    ):
        other.execute("UPDATE subscribers SET sequence = 500")
        with pytest.raises(BackendError, match="lock timeout"):
            hasty.change_sequence(USER.imsi, reserve)
        other.rollback()
        assert hasty.change_sequence(USER.imsi, reserve) == SqnState(32)


def test_an_unknown_imsi_has_no_sequence(database: SubscriberDatabase) -> None:
    with pytest.raises(UnknownImsi):
        database.change_sequence(USER.imsi, reserve)


# --- the node ---------------------------------------------------------------------------------------


@dataclass
class PostgreSqlAaa(AaaProcess):
    """``aaa serve`` over a database of the cluster."""

    url: str = ""

    @property
    def database_url(self) -> str:
        return self.url

    def write_configuration(self) -> Path:
        file = super().write_configuration()
        file.write_text(file.read_text().replace("sqlite:///aaa.db", self.url))
        return file


def attach(node: AaaProcess, user: AkaUser) -> list[DiameterResult]:
    async def run() -> list[Dea]:
        async with Gateway.connected(node.port) as gateway:
            return await gateway.attach(user)

    return [answer.result for answer in asyncio.run(run())]


def test_serving_through_restarts_and_an_outage_of_the_server(server: PostgreSql, url: str, tmp_path: Path) -> None:
    with PostgreSqlAaa(tmp_path, url=url) as node:
        node.provision(USER)
        user = aka_user(USER)
        assert attach(node, user) == [MULTI_ROUND, SUCCESS]
        assert user.msk is not None
        server.stop()
        server.start()  # between two questions: the connections of the pool are dead, and nobody notices
        user = user.again()
        assert attach(node, user) == [MULTI_ROUND, SUCCESS]
        server.stop()
        assert attach(node, aka_user(USER)) == [UNABLE]
        server.start()
        user = user.again()
        assert attach(node, user) == [MULTI_ROUND, SUCCESS]  # no resynchronisation: no number came twice
        assert node.stop() == 0
        assert "Connection refused" in node.log()
        assert "Traceback" not in node.log()
        assert PASSWORD not in node.log()
        assert URL_PASSWORD not in node.log()


def test_an_outage_between_two_rounds(server: PostgreSql, url: str, tmp_path: Path) -> None:
    """The user's registration needs the database too (SAR, TS 29.273 §8.1.2.2.2): refused, until it is back."""
    with PostgreSqlAaa(tmp_path, url=url) as node:
        node.provision(USER)

        async def run() -> list[Dea]:
            async with Gateway.connected(node.port) as gateway:
                return await gateway.attach(aka_user(USER), between=server.stop)

        answers = asyncio.run(run())
        server.start()
        # AKA-Challenge, AKA-Notification (RFC 4187 §6.2), EAP-Failure
        assert [answer.result for answer in answers] == [MULTI_ROUND, MULTI_ROUND, UNABLE]
        assert attach(node, aka_user(USER)) == [MULTI_ROUND, SUCCESS]


# --- refusals: one line, no password ----------------------------------------------------------------


def refused(result: Result, status: int) -> str:
    assert result.exit_code == status, result.output
    (line,) = result.output.splitlines()
    assert PASSWORD not in line
    assert URL_PASSWORD not in line
    return str(line)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    require_psycopg()
    url = f"postgresql+psycopg://aaa:{URL_PASSWORD}@127.0.0.1:{free_port()}/aaa"
    for command in (("migrate",), ("subscriber", "list"), ("subscriber", "add", IMSI, "--k", K, "--opc", OPC)):
        line = refused(aaa(*command, "--database", url), 1)
        assert "Connection refused" in line
        assert K not in line
    result = run_aaa("serve", "-c", PostgreSqlAaa(tmp_path, url=url).write_configuration())
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "Connection refused" in line
    assert URL_PASSWORD not in line


def test_a_server_that_refuses(server: PostgreSql) -> None:
    wrong = server.url("postgres", password="another-secret")
    line = refused(aaa("migrate", "--database", wrong), 1)
    assert 'password authentication failed for user "aaa"' in line
    assert "another-secret" not in line
    assert 'database "nowhere" does not exist' in refused(aaa("migrate", "--database", server.url("nowhere")), 1)
    # the role may read this database, not make tables in it
    assert "permission denied" in refused(aaa("migrate", "--database", server.url("postgres")), 1)


def test_a_server_that_does_not_answer() -> None:
    require_psycopg()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"postgresql+psycopg://aaa:{URL_PASSWORD}@127.0.0.1:{silent.getsockname()[1]}/aaa"
        assert "timeout" in refused(aaa("migrate", "--database", url), 1)


@pytest.mark.parametrize(
    ("scheme", "rest", "expected"),
    [
        ("postgresql+pg8000", "127.0.0.1/aaa", "epdg-emulator[postgresql]"),
        ("postgresql+psycopg_async", "127.0.0.1/aaa", "asynchronous"),
        ("postgresql+nosuch", "127.0.0.1/aaa", "nosuch"),
        ("postgresql+psycopg", "127.0.0.1:port/aaa", "not a usable database URL"),
        ("postgresql+psycopg", f"more:{URL_PASSWORD}@127.0.0.1/aaa", "not a usable database URL"),
        ("postgresql+psycopg", f"{URL_PASSWORD}@127.0.0.1/aaa", "%40"),
    ],
)
def test_urls_that_cannot_be_used(scheme: str, rest: str, expected: str) -> None:
    require_psycopg()
    line = refused(aaa("migrate", "--database", f"{scheme}://aaa:{URL_PASSWORD}@{rest}"), 2)
    assert "--database" in line
    assert expected in line


def test_without_the_driver_the_extra_is_named(tmp_path: Path) -> None:
    """A directory that stands before the installed packages says what Python says where psycopg is absent."""
    (tmp_path / "psycopg.py").write_text("raise ModuleNotFoundError(\"No module named 'psycopg'\", name='psycopg')\n")
    url = f"postgresql+psycopg://aaa:{URL_PASSWORD}@127.0.0.1/aaa"
    result = run_aaa("subscriber", "list", "--database", url, environment={"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "No module named 'psycopg'" in line
    assert "epdg-emulator[postgresql]" in line
    assert URL_PASSWORD not in line
