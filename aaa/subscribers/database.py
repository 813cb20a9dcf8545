"""The subscriber database over SQLAlchemy: provisioning, look-up, migrations, durable reservation of SQN.

Every call blocks; a node calls it through one bridge (``aaa.runtime``). Database failures leave as
``BackendError``, so that no caller sees an SQLAlchemy exception.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType

import alembic.command
import alembic.config
import alembic.util
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, event, func, select, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from aaa.subscribers.schema import ApnRow, SubscriberRow
from aaa.subscribers.subscriber import Algorithm, ApnSubscription, PdnType, Subscriber
from protocols.errors import BackendError, LocalError
from protocols.secret import Secret
from protocols.threegpp.identity import Apn, Imsi

MIGRATIONS = Path(__file__).parent / "migrations"
SQLITE_BUSY_TIMEOUT_INTERVAL = 10.0  # how long a writer waits for another process's write


class SubscriberExists(LocalError):
    """The IMSI is provisioned already."""


class UnknownImsi(LocalError):
    """No subscriber has this IMSI."""


class SubscriberDatabase:
    """Subscribers behind any SQLAlchemy URL; an SQLite file is made readable by its owner only."""

    def __init__(self, url: str) -> None:
        """``ValueError`` when ``url`` is no database URL or its driver is not installed."""
        try:
            parsed = make_url(url)
            self._engine = create_engine(parsed, **_options(parsed))
        except (ArgumentError, SQLAlchemyError, ImportError) as error:
            raise ValueError(f"not a usable database URL: {_one_line(error)}") from error
        if parsed.get_backend_name() == "sqlite":
            file = _sqlite_file(parsed)
            if file is not None:
                event.listen(self._engine, "do_connect", lambda *_: _owner_only(file))
            event.listen(self._engine, "connect", _sqlite_connected)
            event.listen(self._engine, "begin", _sqlite_begin)
        self._writing: Engine = self._engine.execution_options(sqlite_begin="IMMEDIATE")

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def __enter__(self) -> SubscriberDatabase:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- schema -------------------------------------------------------------------------------------

    def migrate(self) -> str:
        """Bring the schema to the newest revision, which is returned; safe to run from several processes."""
        with self._mapped("migrate"), self._writing.begin() as connection:
            configuration = alembic.config.Config()
            configuration.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
            configuration.attributes["connection"] = connection
            alembic.command.upgrade(configuration, "head")
            return _revision(connection) or ""

    def revision(self) -> str | None:
        """The schema's revision, ``None`` before the first migration."""
        with self._mapped("read the schema revision"), self._engine.connect() as connection:
            return _revision(connection)

    # --- provisioning -------------------------------------------------------------------------------

    def add(self, subscriber: Subscriber) -> None:
        """Provision; ``SubscriberExists`` when the IMSI is there already."""
        with self._mapped("add a subscriber"):
            try:
                with Session(self._writing) as session, session.begin():
                    session.add(_row(subscriber))
            except IntegrityError as error:
                if self.get(subscriber.imsi) is None:
                    raise
                raise SubscriberExists(f"IMSI {subscriber.imsi} is provisioned already") from error

    def replace(self, subscriber: Subscriber) -> None:
        """Provision, over an older subscriber of the same IMSI if there is one.

        SEQ only moves forward (TS 33.102 §C.1.1.1), unless K or the algorithm's constants change: then it is
        another USIM, whose sequence numbers start anew.
        """
        with self._mapped("replace a subscriber"), Session(self._writing) as session, session.begin():
            row = _row(subscriber)
            old = session.get(SubscriberRow, row.imsi)
            if old is not None:
                if (old.k, old.op, old.opc, old.algorithm) == (row.k, row.op, row.opc, row.algorithm):
                    row.sequence = max(row.sequence, old.sequence)
                session.delete(old)
                session.flush()
            session.add(row)

    def remove(self, imsi: Imsi) -> bool:
        """Remove; whether there was such a subscriber."""
        with self._mapped("remove a subscriber"), Session(self._writing) as session, session.begin():
            row = session.get(SubscriberRow, str(imsi))
            if row is None:
                return False
            session.delete(row)
            return True

    def get(self, imsi: Imsi) -> Subscriber | None:
        """The subscriber of ``imsi``, if provisioned."""
        with self._mapped("read a subscriber"), Session(self._engine) as session:
            row = session.get(SubscriberRow, str(imsi))
            return None if row is None else _subscriber(row)

    def page(self, *, after: Imsi | None = None, limit: int = 1000) -> tuple[Subscriber, ...]:
        """Up to ``limit`` subscribers by ascending IMSI, beginning behind ``after``."""
        statement = select(SubscriberRow).order_by(SubscriberRow.imsi).limit(limit)
        if after is not None:
            statement = statement.where(SubscriberRow.imsi > str(after))
        with self._mapped("list subscribers"), Session(self._engine) as session:
            return tuple(_subscriber(row) for row in session.scalars(statement))

    def all(self, *, size: int = 1000) -> Iterator[Subscriber]:
        """Every subscriber by ascending IMSI, read page by page."""
        after: Imsi | None = None
        while batch := self.page(after=after, limit=size):
            yield from batch
            after = batch[-1].imsi

    def count(self) -> int:
        """How many subscribers are provisioned."""
        with self._mapped("count subscribers"), Session(self._engine) as session:
            return session.scalar(select(func.count()).select_from(SubscriberRow)) or 0

    # --- sequence numbers ---------------------------------------------------------------------------

    def change_sequence(self, imsi: Imsi, transition: Callable[[int], int]) -> int:
        """Store ``transition(SEQ_HE)``, durably before this returns; the value it was applied to.

        Compare-and-swap on the stored value, so that it is right at every isolation level and with many
        processes; ``transition`` may therefore be called more than once. ``UnknownImsi``.
        """
        with self._mapped("store a sequence number"):
            while True:
                with self._writing.begin() as connection:
                    old = _sequence(connection, imsi)
                    if _swap(connection, imsi, old, transition(old)):
                        return old

    def sequence(self, imsi: Imsi) -> int:
        """The stored SEQ_HE; ``UnknownImsi``."""
        with self._mapped("read a sequence number"), self._engine.begin() as connection:
            return _sequence(connection, imsi)

    @contextmanager
    def _mapped(self, what: str) -> Iterator[None]:
        """Failures as ``BackendError``; pooled connections are let go: they may have been the reason."""
        try:
            yield
        except (SQLAlchemyError, alembic.util.CommandError, OSError) as error:
            self._engine.dispose()
            raise BackendError(f"the subscriber database could not {what}: {_one_line(error)}") from error


def _options(url: URL) -> dict[str, object]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": SQLITE_BUSY_TIMEOUT_INTERVAL}}
    return {"pool_pre_ping": True}


def _sqlite_file(url: URL) -> Path | None:
    if url.database in (None, "", ":memory:") or str(url.database).startswith("file:"):
        return None
    return Path(str(url.database))


def _owner_only(file: Path) -> None:
    """The file holds K: it is made with mode 0600 before SQLite would make it with another."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))


def _sqlite_connected(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """Foreign keys on; transactions are begun by ``_sqlite_begin``, also around DDL."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    """A writer takes the lock first: a reader that upgrades later could only fail."""
    mode = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _sequence(connection: Connection, imsi: Imsi) -> int:
    value = connection.scalar(select(SubscriberRow.sequence).where(SubscriberRow.imsi == str(imsi)))
    if value is None:
        raise UnknownImsi(f"no subscriber has IMSI {imsi}")
    return value


def _swap(connection: Connection, imsi: Imsi, old: int, new: int) -> bool:
    statement = (
        update(SubscriberRow).where(SubscriberRow.imsi == str(imsi), SubscriberRow.sequence == old).values(sequence=new)
    )
    return connection.execute(statement).rowcount == 1


def _row(subscriber: Subscriber) -> SubscriberRow:
    return SubscriberRow(
        imsi=str(subscriber.imsi),
        k=subscriber.k.reveal(),
        op=subscriber.op.reveal() if subscriber.op else None,
        opc=subscriber.opc.reveal() if subscriber.opc else None,
        amf=subscriber.amf,
        algorithm=subscriber.algorithm.value,
        sequence=subscriber.sequence,
        enabled=subscriber.enabled,
        non_3gpp_allowed=subscriber.non_3gpp_allowed,
        msisdn=subscriber.msisdn,
        apns=[
            ApnRow(
                position=position,
                name=str(subscription.apn),
                pdn_type=subscription.pdn_type.value,
                ambr_uplink_bits=subscription.ambr_uplink_bits,
                ambr_downlink_bits=subscription.ambr_downlink_bits,
                static_ipv4=str(subscription.static_ipv4) if subscription.static_ipv4 else None,
                is_default=subscription.is_default,
            )
            for position, subscription in enumerate(subscriber.apns)
        ],
    )


def _subscriber(row: SubscriberRow) -> Subscriber:
    try:
        return Subscriber(
            imsi=Imsi(row.imsi),
            k=Secret(row.k),
            op=Secret(row.op) if row.op is not None else None,
            opc=Secret(row.opc) if row.opc is not None else None,
            amf=row.amf,
            algorithm=Algorithm(row.algorithm),
            sequence=row.sequence,
            enabled=row.enabled,
            non_3gpp_allowed=row.non_3gpp_allowed,
            msisdn=row.msisdn,
            apns=tuple(
                ApnSubscription(
                    apn=Apn(apn.name),
                    pdn_type=PdnType(apn.pdn_type),
                    ambr_uplink_bits=apn.ambr_uplink_bits,
                    ambr_downlink_bits=apn.ambr_downlink_bits,
                    static_ipv4=IPv4Address(apn.static_ipv4) if apn.static_ipv4 else None,
                    is_default=apn.is_default,
                )
                for apn in row.apns
            ),
        )
    except ValueError as error:
        raise BackendError(f"the database row of IMSI {row.imsi} is not valid: {error}") from error


def _one_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
