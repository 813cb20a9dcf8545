"""A database that is locked or gone: refusals meanwhile, nothing written elsewhere, service when it is back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from aaa.hss.local import LocalHss
from aaa.subscribers import SubscriberDatabase
from aaa.subscribers.laboratory import laboratory_subscriber, provision
from protocols.diameter.codec import Result
from protocols.diameter.dictionary import ResultCode
from protocols.entropy import SeededEntropy
from protocols.errors import BackendError
from tests.harness.aka_user import AkaUser, aka_user
from tests.peers.aaa_node import AaaProcess, Gateway

USERS = [laboratory_subscriber(number) for number in (1, 2, 3)]
MULTI_ROUND = Result.of(ResultCode.DIAMETER_MULTI_ROUND_AUTH)
SUCCESS = Result.of(ResultCode.DIAMETER_SUCCESS)
UNABLE = Result.of(ResultCode.DIAMETER_UNABLE_TO_COMPLY)


@contextmanager
def locked(file: Path, mode: str) -> Iterator[None]:
    """Somebody else's transaction: IMMEDIATE lets others read, EXCLUSIVE does not."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute(f"BEGIN {mode}")
        yield
        other.execute("ROLLBACK")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "aaa.db"


@pytest.fixture
def database(file: Path) -> Iterator[SubscriberDatabase]:
    with SubscriberDatabase(f"sqlite:///{file}?timeout=0.05") as opened:
        opened.migrate()
        provision(opened, (1, 2, 3))
        yield opened


def test_a_lock_stops_those_who_need_to_write(database: SubscriberDatabase, file: Path) -> None:
    """Who has numbers left in its block is served; the others are when the lock is gone."""
    hss = LocalHss(database, SeededEntropy(1))
    hss.authentication_vector(USERS[0].imsi, None)
    with locked(file, "IMMEDIATE"):
        hss.authentication_vector(USERS[0].imsi, None)
        with pytest.raises(BackendError, match="could not store a sequence number: database is locked"):
            hss.authentication_vector(USERS[1].imsi, None)
        with pytest.raises(BackendError, match="could not store subscribers: database is locked"):
            database.replace(USERS[2])
    hss.authentication_vector(USERS[1].imsi, None)
    with locked(file, "EXCLUSIVE"), pytest.raises(BackendError, match="could not read a subscriber"):
        hss.authentication_vector(USERS[0].imsi, None)
    hss.authentication_vector(USERS[0].imsi, None)


def test_a_file_that_is_gone_is_not_made_anew(database: SubscriberDatabase, file: Path) -> None:
    hss = LocalHss(database, SeededEntropy(1))
    hss.authentication_vector(USERS[0].imsi, None)
    away = file.rename(file.with_suffix(".away"))
    for _ in range(2):
        with pytest.raises(BackendError, match="No such file"):
            hss.authentication_vector(USERS[0].imsi, None)
    assert not file.exists()
    away.rename(file)
    hss.authentication_vector(USERS[0].imsi, None)
    hss.authentication_vector(USERS[1].imsi, None)


def test_a_file_that_was_replaced_is_read_anew(database: SubscriberDatabase, file: Path) -> None:
    """A connection to the old one would go on with a file that nobody finds again."""
    assert database.count() == 3
    copy = file.with_suffix(".copy")
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    with SubscriberDatabase(f"sqlite:///{copy}") as other:
        other.remove(USERS[0].imsi)
    copy.replace(file)
    assert database.count() == 2
    database.add(USERS[0])
    with closing(sqlite3.connect(file)) as reader:
        assert reader.execute("SELECT count(*) FROM subscribers").fetchone() == (3,)


class HastyAaa(AaaProcess):
    """A node that waits for locks a tenth of a second."""

    def write_configuration(self) -> Path:
        """With a time-out in the URL."""
        file = super().write_configuration()
        file.write_text(file.read_text().replace("sqlite:///aaa.db", "sqlite:///aaa.db?timeout=0.1"))
        return file


def attached(node: AaaProcess, *users: AkaUser) -> list[list[Result]]:
    """The results of each user's attach, all of them at the same time."""

    async def run() -> list[list[Result]]:
        async with Gateway.connected(node.port) as gateway:
            attaches = await asyncio.gather(*(gateway.attach(user) for user in users))
            return [[answer.result for answer in answers] for answers in attaches]

    return asyncio.run(run())


def test_a_node_through_a_lock_and_a_loss(tmp_path: Path) -> None:
    """DIAMETER_UNABLE_TO_COMPLY while it lasts (RFC 6733 §7.1.5); afterwards everybody, without resynchronisation."""
    with HastyAaa(tmp_path) as node:
        node.provision(*USERS)
        first, second, third = users = [aka_user(subscriber) for subscriber in USERS]
        file = tmp_path / "aaa.db"
        assert attached(node, first) == [[MULTI_ROUND, SUCCESS]]
        with locked(file, "EXCLUSIVE"):
            assert attached(node, first.again(), second) == [[UNABLE], [UNABLE]]
        away = file.rename(tmp_path / "away.db")
        assert attached(node, first.again(), third) == [[UNABLE], [UNABLE]]
        assert not file.exists()
        away.rename(file)
        assert attached(node, *(user.again() for user in users)) == [[MULTI_ROUND, SUCCESS]] * 3
        assert node.stop() == 0
        assert "Traceback" not in node.log()
        assert "database is locked" in node.log()
        assert "No such file" in node.log()
