"""The subscriber database: migrations, provisioning, and sequence numbers that are never given out twice."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from importlib.resources import files
from ipaddress import IPv4Address
from pathlib import Path

import alembic.command
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event, inspect, text

from aaa.hss.local import LocalHss
from aaa.hss.port import VectorRequest
from aaa.hss.procedures import HssProcedures
from aaa.hss.registration import ServingServer
from aaa.subscribers import (
    ApnSubscription,
    PdnType,
    SequenceGoesBack,
    SqnScheme,
    Subscriber,
    SubscriberDatabase,
    SubscriberExists,
    UnknownImsi,
)
from aaa.subscribers.laboratory import laboratory_subscriber, provision
from protocols.algorithms.milenage import Milenage
from protocols.algorithms.sqn import SqnState, seq_of
from protocols.algorithms.vector import AkaVector, build_auts, xor
from protocols.eap.aka.server import Resynchronisation
from protocols.entropy import SeededEntropy
from protocols.errors import AuthenticationError, BackendError, LocalError
from protocols.secret import Secret
from protocols.threegpp.identity import Apn, Imsi
from tests.harness.subscriber_schema import alembic_configuration, migrated, tables_of

USER = laboratory_subscriber(1)
TABLES = frozenset({"subscribers", "registrations", "pgws"})


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'aaa.db'}"


@pytest.fixture
def database(url: str) -> Iterator[SubscriberDatabase]:
    with SubscriberDatabase(url) as opened:
        opened.migrate()
        yield opened


# --- migrations -------------------------------------------------------------------------------------


def test_a_new_database_is_what_the_migrations_make(database: SubscriberDatabase, url: str, tmp_path: Path) -> None:
    assert tables_of(url) == migrated(f"sqlite:///{tmp_path / 'migrated.db'}")


def test_a_newer_database_is_refused(database: SubscriberDatabase, url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(BackendError, match="could not migrate: Can't locate revision identified by '9999'"):
        database.migrate()


def test_migrations_go_down_and_up_again(database: SubscriberDatabase, url: str) -> None:
    database.add(USER)
    engine = create_engine(url)
    with engine.begin() as connection:
        alembic.command.downgrade(alembic_configuration(connection), "base")
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
    engine.dispose()
    assert database.revision() is None
    assert database.migrate() == database.revision()
    assert database.count() == 0


def test_subscribers_of_an_older_revision_are_kept(url: str) -> None:
    """Keys, numbers and APNs of a database as the first revision made it."""
    migrated(url, "0001")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO subscribers (imsi, k, opc, amf, algorithm, sequence, enabled, non_3gpp_allowed)"
                f" VALUES ('{USER.imsi}', :k, :opc, :amf, 'milenage', 77, true, true)"
            ),
            {"k": USER.k.reveal(), "opc": USER.opc.reveal() if USER.opc else None, "amf": USER.amf},
        )
        for position, name in enumerate(("internet", "ims")):
            connection.execute(
                text(
                    "INSERT INTO apns"
                    " (imsi, position, name, pdn_type, ambr_uplink_bits, ambr_downlink_bits, is_default)"
                    f" VALUES ('{USER.imsi}', {position}, '{name}', 'ipv4v6', 100000000, 100000000, {position == 0})"
                )
            )
    engine.dispose()
    with SubscriberDatabase(url) as database:
        database.migrate()
        assert database.get(USER.imsi) == replace(USER, sequence=77)


def test_there_is_one_newest_revision(database: SubscriberDatabase) -> None:
    assert ScriptDirectory.from_config(alembic_configuration()).get_heads() == [database.revision()]
    packaged = files("aaa.subscribers.migrations")
    assert packaged.joinpath("env.py").is_file()
    assert packaged.joinpath("script.py.mako").is_file()


def _migrate(url: str) -> str:
    with SubscriberDatabase(url) as database:
        return database.migrate()


def test_nodes_that_start_together_migrate_once(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        revisions = set(pool.map(_migrate, [url] * 4))
    assert len(revisions) == 1


def test_the_database_file_is_its_owners(database: SubscriberDatabase, tmp_path: Path) -> None:
    assert (tmp_path / "aaa.db").stat().st_mode & 0o777 == 0o600


# --- provisioning -----------------------------------------------------------------------------------

FULL = Subscriber(
    imsi=Imsi("001010000000042"),
    k=Secret(bytes(range(16))),
    op=Secret(bytes(range(16, 32))),
    amf=bytes.fromhex("b9b9"),
    sequence=77,
    enabled=False,
    non_3gpp_allowed=False,
    msisdn="491710000042",
    apns=(
        ApnSubscription(
            apn=Apn("ims"),
            pdn_type=PdnType.IPV6,
            ambr_uplink_bits=1,
            ambr_downlink_bits=4_294_967_295,
            is_default=True,
        ),
        ApnSubscription(apn=Apn("internet"), static_ipv4=IPv4Address("10.45.0.7")),
    ),
)


@pytest.mark.parametrize("subscriber", [USER, FULL, replace(USER, apns=())])
def test_what_is_added_is_read_back(database: SubscriberDatabase, subscriber: Subscriber) -> None:
    database.add(subscriber)
    assert database.get(subscriber.imsi) == subscriber


def test_an_imsi_is_added_once(database: SubscriberDatabase) -> None:
    database.add(USER)
    with pytest.raises(SubscriberExists):
        database.add(USER)
    assert database.count() == 1


def test_replacing_keeps_the_sequence_number_of_the_same_usim(database: SubscriberDatabase) -> None:
    database.add(replace(USER, sequence=500))
    database.replace(replace(USER, enabled=False))
    kept = database.get(USER.imsi)
    assert kept is not None
    assert (kept.sequence, kept.enabled) == (500, False)
    database.replace(replace(USER, k=Secret(bytes(16))))
    assert database.sequence(USER.imsi) == 0  # another K is another USIM


def test_a_change_is_stored_whole_and_keeps_the_numbers(database: SubscriberDatabase) -> None:
    database.add(replace(USER, sequence=500))
    changed = database.update(USER.imsi, lambda subscriber: replace(subscriber, enabled=False, apns=FULL.apns))
    assert changed == database.get(USER.imsi) == replace(USER, sequence=500, enabled=False, apns=FULL.apns)
    forward = database.update(USER.imsi, lambda subscriber: replace(subscriber, sequence=600))
    assert forward.sequence == database.sequence(USER.imsi) == 600
    other = database.update(USER.imsi, lambda subscriber: replace(subscriber, k=Secret(bytes(16)), sequence=0))
    assert other.sequence == database.sequence(USER.imsi) == 0  # another K is another USIM


def test_a_change_that_may_not_be_leaves_all_as_it_was(database: SubscriberDatabase) -> None:
    database.add(replace(USER, sequence=500))

    def failing(subscriber: Subscriber) -> Subscriber:
        return replace(subscriber, sequence=-1)

    with pytest.raises(SequenceGoesBack, match="SEQ of IMSI 001010000000001 is 500 and does not go back"):
        database.update(USER.imsi, lambda subscriber: replace(subscriber, sequence=499, enabled=False))
    with pytest.raises(LocalError, match="stays what it is"):
        database.update(USER.imsi, lambda subscriber: replace(subscriber, imsi=FULL.imsi))
    with pytest.raises(ValueError):
        database.update(USER.imsi, failing)
    with pytest.raises(UnknownImsi):
        database.update(FULL.imsi, lambda subscriber: subscriber)
    assert database.get(USER.imsi) == replace(USER, sequence=500)


def test_another_length_of_ind_goes_on_behind_the_numbers_given_out(database: SubscriberDatabase) -> None:
    """SQN of the same USIM grows, whatever part of it is SEQ."""
    database.add(replace(USER, sequence=500))
    for bits in (0, 8, 5):
        before = database.get(USER.imsi)
        assert before is not None
        database.replace(replace(USER, sqn_scheme=SqnScheme(ind_bits=bits)))
        after = database.get(USER.imsi)
        assert after is not None
        highest = before.sqn_scheme.compose(before.sequence, before.sqn_scheme.ind_count - 1)
        assert after.sqn_scheme.compose(after.sequence + 1, 0) > highest


def test_many_are_stored_together_or_not_at_all(database: SubscriberDatabase) -> None:
    users = [laboratory_subscriber(number) for number in range(1, 6)]
    database.put(users[:2])
    with pytest.raises(SubscriberExists, match=f"IMSI {users[1].imsi} is provisioned already"):
        database.put(users[1:])
    assert database.count() == 2
    database.put(users, over=True)
    assert tuple(database.all()) == tuple(users)
    assert database.existing([users[0].imsi, FULL.imsi]) == {users[0].imsi}
    with pytest.raises(LocalError, match="once at a time"):
        database.put([users[0], users[0]], over=True)
    told: list[int] = []
    assert database.put_all(iter(users), over=True, progress=told.append) == sum(told) == 5


def test_removing_takes_the_apns_along(database: SubscriberDatabase, url: str) -> None:
    database.add(USER)
    assert database.remove(USER.imsi)
    assert not database.remove(USER.imsi)
    assert database.get(USER.imsi) is None
    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM apns")) == 0
    engine.dispose()


def test_listing_goes_page_by_page(database: SubscriberDatabase) -> None:
    users = provision(database, range(1, 8))
    assert database.page(limit=3) == users[:3]
    assert database.page(after=users[2].imsi, limit=3) == users[3:6]
    assert tuple(database.all(size=3)) == users
    assert database.count() == 7


@pytest.mark.parametrize(
    "wrong",
    [
        {"opc": None},
        {"op": Secret(bytes(16))},
        {"k": Secret(bytes(15))},
        {"amf": b"\x80"},
        {"sequence": -1},
        {"apns": (ApnSubscription(apn=Apn("ims")), ApnSubscription(apn=Apn("IMS")))},
        {"apns": tuple(ApnSubscription(apn=Apn(name), is_default=True) for name in ("a", "b"))},
    ],
)
def test_impossible_subscribers_cannot_be_made(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        replace(USER, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("pgw", ["", "two words", "pgw..example.org", "pgw.example.org.", "käse.example", "a." * 200])
def test_a_pgw_is_a_name_or_an_address(pgw: str) -> None:
    """What is none would make every answer with the profile impossible to encode."""
    for good in ("pgw.example.org", "PGW1", "192.0.2.1", "2001:db8::1"):
        assert ApnSubscription(apn=Apn("ims"), pgw=good).pgw == good
    with pytest.raises(ValueError, match="a host name or an address"):
        ApnSubscription(apn=Apn("ims"), pgw=pgw)


def test_a_row_that_makes_no_sense_is_named(database: SubscriberDatabase, url: str) -> None:
    database.add(USER)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE subscribers SET algorithm = 'rot13'"))
    engine.dispose()
    with pytest.raises(BackendError, match=str(USER.imsi)):
        database.get(USER.imsi)


@pytest.mark.parametrize("wrong", ["nonsense", "nosuchdatabase://host/name"])
def test_an_unusable_url_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="not a usable database URL"):
        SubscriberDatabase(wrong)


def test_a_failing_database_is_a_backend_error(tmp_path: Path) -> None:
    (tmp_path / "aaa.db").write_bytes(b"no database" * 100)
    database = SubscriberDatabase(f"sqlite:///{tmp_path / 'aaa.db'}")
    with pytest.raises(BackendError, match="not a database"):
        database.migrate()
    database.close()


def test_the_laboratory_provisions_the_test_network_only() -> None:
    assert str(laboratory_subscriber(1).imsi) == "001010000000001"
    assert laboratory_subscriber(1).k != laboratory_subscriber(2).k
    with pytest.raises(ValueError):
        laboratory_subscriber(0)
    with pytest.raises(ValueError):
        laboratory_subscriber(10**10)


# --- sequence numbers (TS 33.102 §6.3, Annex C) -----------------------------------------------------


def sqn_of(vector: AkaVector) -> int:
    """SQN out of AUTN, as the USIM sees it."""
    assert USER.opc is not None
    ak = Milenage(USER.k, opc=USER.opc).f5(vector.rand)
    return int.from_bytes(xor(vector.autn[:6], ak), "big")


def draw(url: str, seed: int, count: int) -> list[int]:
    """SQN values that one HSS, as in a process of its own, gives out."""
    with SubscriberDatabase(url) as database:
        hss = LocalHss(database, SeededEntropy(seed), sequence_block=3)
        return [sqn_of(hss.authentication_vector(USER.imsi, None)) for _ in range(count)]


def test_sequence_numbers_grow_and_survive_a_crash(database: SubscriberDatabase, url: str) -> None:
    database.add(USER)
    # each call ends in the middle of a block, as a crash would: values are skipped, none comes twice
    drawn = [sqn for seed in range(5) for sqn in draw(url, seed, 4)]
    assert drawn == sorted(set(drawn))
    assert seq_of(drawn[-1]) <= database.sequence(USER.imsi)


def test_a_block_is_durable_before_its_first_value_is_used(database: SubscriberDatabase) -> None:
    database.add(USER)
    hss = LocalHss(database, SeededEntropy(1), sequence_block=10)
    sqn = sqn_of(hss.authentication_vector(USER.imsi, None))
    assert (seq_of(sqn), database.sequence(USER.imsi)) == (1, 10)
    for _ in range(9):
        hss.authentication_vector(USER.imsi, None)
    assert database.sequence(USER.imsi) == 10
    hss.authentication_vector(USER.imsi, None)
    assert database.sequence(USER.imsi) == 20


def test_threads_never_draw_the_same_number(database: SubscriberDatabase, url: str) -> None:
    database.add(USER)
    with ThreadPoolExecutor(4) as pool:
        drawn = [sqn for sqns in pool.map(lambda seed: draw(url, seed, 20), range(4)) for sqn in sqns]
    assert len(set(drawn)) == 80


def test_processes_never_draw_the_same_number(database: SubscriberDatabase, url: str) -> None:
    database.add(USER)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        drawn = [sqn for sqns in pool.map(draw, [url] * 2, [1, 2], [25] * 2) for sqn in sqns]
    assert len(set(drawn)) == 50


def test_changes_of_two_writers_are_not_lost(database: SubscriberDatabase, url: str) -> None:
    """Every transition is applied to what the one before it stored, whoever made it."""
    database.add(USER)
    other = SubscriberDatabase(url)
    applied: list[int] = []

    def transition(state: SqnState) -> SqnState:
        applied.append(state.seq)
        return SqnState(state.seq + 1)

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(writer.change_sequence, USER.imsi, transition) for writer in [database, other] * 20]:
            future.result()
    other.close()
    assert database.sequence(USER.imsi) == 40
    assert sorted(set(applied)) == list(range(40))


def auts(vector: AkaVector, sqn_ms: int) -> Resynchronisation:
    assert USER.opc is not None
    algorithm = Milenage(USER.k, opc=USER.opc)
    return Resynchronisation(vector.rand, build_auts(algorithm, rand=vector.rand, sqn_ms=sqn_ms))


def test_resynchronisation_is_stored(database: SubscriberDatabase, url: str) -> None:
    database.add(USER)
    hss = LocalHss(database, SeededEntropy(1))
    first = hss.authentication_vector(USER.imsi, None)
    sqn_ms = 1 << 40
    second = hss.authentication_vector(USER.imsi, auts(first, sqn_ms))
    assert seq_of(sqn_of(second)) == seq_of(sqn_ms) + 1
    assert database.sequence(USER.imsi) > seq_of(sqn_ms)
    assert min(draw(url, 2, 1)) > sqn_of(second)


def test_an_old_auts_moves_nothing_back(database: SubscriberDatabase) -> None:
    """TS 33.102 §6.3.5: SQN_HE stays where the USIM would accept what comes next."""
    database.add(replace(USER, sequence=1000))
    hss = LocalHss(database, SeededEntropy(1))
    first = hss.authentication_vector(USER.imsi, None)
    second = hss.authentication_vector(USER.imsi, auts(first, 5 << 5))
    assert sqn_of(second) > sqn_of(first)


def test_a_wrong_auts_is_refused_and_moves_nothing(database: SubscriberDatabase) -> None:
    database.add(USER)
    hss = LocalHss(database, SeededEntropy(1))
    first = hss.authentication_vector(USER.imsi, None)
    before = database.sequence(USER.imsi)
    with pytest.raises(AuthenticationError):
        hss.authentication_vector(USER.imsi, Resynchronisation(first.rand, bytes(14)))
    assert database.sequence(USER.imsi) == before


def test_an_unknown_imsi_has_no_vector(database: SubscriberDatabase) -> None:
    hss = LocalHss(database, SeededEntropy(1))
    with pytest.raises(UnknownImsi):
        hss.authentication_vector(USER.imsi, None)
    with pytest.raises(UnknownImsi):
        database.change_sequence(USER.imsi, lambda state: state)


# --- what an attach costs ---------------------------------------------------------------------------


def test_an_attach_reads_and_writes_each_row_once(database: SubscriberDatabase) -> None:
    """MAR, SAR and the deregistration of thousands of UEs that come at once go through one thread."""
    database.add(USER)
    procedures = HssProcedures(database, LocalHss(database, SeededEntropy(1)), database.registrations)
    server, statements = ServingServer("aaa.test", "test"), list[str]()

    def count(*arguments: object) -> None:
        words = str(arguments[2]).split()
        if words[0] != "BEGIN":
            statements.append(f"{words[0]} {next(word for word in words if word in TABLES)}")

    event.listen(Engine, "before_cursor_execute", count)
    try:
        procedures.authenticate(VectorRequest(imsi=USER.imsi), server=server)
        assert statements == ["SELECT subscribers", "SELECT registrations", "SELECT subscribers", "UPDATE subscribers"]
        statements.clear()
        procedures.register(USER.imsi, server=server)
        assert statements == [
            "SELECT subscribers",
            "SELECT registrations",
            "UPDATE registrations",
            "INSERT registrations",
        ]
        statements.clear()
        procedures.deregister(USER.imsi, server=server)
        assert statements == ["SELECT registrations", "SELECT pgws", "DELETE registrations"]
    finally:
        event.remove(Engine, "before_cursor_execute", count)
    assert database.registrations.registration(USER.imsi) is None
