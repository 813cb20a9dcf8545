"""Engines of SQLAlchemy as the subscriber database needs them: SQLite, PostgreSQL, others by their defaults.

A transaction on the engine that ``writing`` returns is one that changes something; ``migrating`` lets one process
at a time change the schema. No text that leaves here holds a password.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

LOCK_INTERVAL = 2.0  # how long a writer waits for another one: those who wait behind it have their answers in time
MIGRATION_INTERVAL = 30.0  # the same while the schema changes, when nobody is served yet
LIBPQ_DRIVERS = frozenset({"psycopg", "psycopg2", "psycopg2cffi"})
LIBPQ_LIMITS = {  # a server that does not answer is an error in seconds; libpq's defaults wait for minutes to hours
    "connect_timeout": 3,  # seconds, for each address
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
}
MIGRATION_LOCK = int.from_bytes(b"ePDG", "big")  # key of the advisory lock in PostgreSQL
_WRITING = "subscribers_writing"


def open_engine(url: str) -> Engine:
    """An engine for ``url``; ``ValueError`` when it is no database URL or its driver is not installed."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError("not a usable database URL") from None  # without the cause, which may quote the password
    if "@" in (parsed.host or ""):  # what stands before it would be shown as a part of the host's name
        raise ValueError("not a usable database URL: an @ in a user name or password is written %40")
    try:
        engine = create_engine(parsed, hide_parameters=True, **_options(parsed))  # parameters are keys
    except ImportError as error:
        raise ValueError(f"the driver of {parsed.drivername} is not installed: {_advice(parsed, error)}") from error
    except SQLAlchemyError as error:
        raise ValueError(f"not a usable database URL: {one_line(error)}") from error
    if engine.dialect.is_async:
        raise ValueError(f"not a usable database URL: {parsed.drivername} is an asynchronous driver")
    if parsed.get_backend_name() == "sqlite":
        file = _sqlite_file(parsed)
        if file is not None:
            event.listen(engine, "do_connect", lambda *_: _must_exist(file))
            event.listen(engine, "connect", lambda _, record: record.info.update(file=_identity(file)))
            event.listen(engine, "checkout", lambda _, record, __: _check_identity(file, record))
        event.listen(engine, "connect", _sqlite_connected)
        event.listen(engine, "begin", _sqlite_begin)
    elif parsed.get_backend_name() == "postgresql":
        event.listen(engine, "begin", _postgresql_begin)
    return engine


def writing(engine: Engine) -> Engine:
    """The same engine, for transactions that change something."""
    return engine.execution_options(**{_WRITING: True})


def create_file(engine: Engine) -> None:
    """Make the file of an SQLite database where there is none; other databases are made by their own means."""
    if engine.dialect.name == "sqlite":
        file = _sqlite_file(engine.url)
        if file is not None:
            _owner_only(file)


@contextmanager
def migrating(engine: Engine) -> Iterator[Connection]:
    """A transaction that changes the schema, when no other process does; what it holds is committed at its end.

    SQLite changes a table by making another one and dropping it, which must not take along what refers to it.
    """
    with writing(engine).connect() as connection:
        if connection.dialect.name == "sqlite":
            _prepare_sqlite_migration(connection)
        try:
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{1000 * MIGRATION_INTERVAL:.0f}'")
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
                yield connection
        finally:
            connection.invalidate()  # with the settings that only a migration has


def one_line(error: BaseException) -> str:
    """What went wrong in the driver's words: their first line, which holds no values of a row."""
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__


def _options(url: URL) -> dict[str, object]:
    if url.get_backend_name() == "sqlite":
        return {} if "timeout" in url.query else {"connect_args": {"timeout": LOCK_INTERVAL}}
    options: dict[str, object] = {"pool_pre_ping": True}
    if url.get_backend_name() == "postgresql":
        # the level under which a writer that had to wait goes on from what the other one stored, instead of failing
        options["isolation_level"] = "READ COMMITTED"
        if url.get_dialect().driver in LIBPQ_DRIVERS:
            options["connect_args"] = {name: value for name, value in LIBPQ_LIMITS.items() if name not in url.query}
    return options


def _advice(url: URL, error: ImportError) -> str:
    said = one_line(error)
    if url.get_backend_name() != "postgresql":
        return said
    return f"{said}; the extra epdg-emulator[postgresql] brings the one of postgresql+psycopg://"


# --- SQLite -----------------------------------------------------------------------------------------


def _sqlite_file(url: URL) -> Path | None:
    if url.database in (None, "", ":memory:") or str(url.database).startswith("file:"):
        return None
    return Path(str(url.database))


def _owner_only(file: Path) -> None:
    """The file holds K: it is made with mode 0600 before SQLite would make it with another."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))


def _must_exist(file: Path) -> None:
    """A file that is gone is an error: SQLite would make another, empty one in its place."""
    file.stat()


def _identity(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_dev, status.st_ino


def _check_identity(file: Path, record: ConnectionPoolEntry) -> None:
    """A connection to a file that was removed or replaced would write where nobody reads: another one is made."""
    try:
        present = _identity(file)
    except OSError:
        present = None
    if present != record.info.get("file"):
        raise DisconnectionError(f"{file} is another file now")


def _sqlite_connected(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """Foreign keys on; transactions are begun by ``_sqlite_begin``, also around DDL."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _prepare_sqlite_migration(connection: Connection) -> None:
    """Patience, and no foreign keys, which SQLite takes only outside of transactions, so not by SQLAlchemy's way."""
    cursor = connection.connection.cursor()
    cursor.execute("PRAGMA foreign_keys=OFF")
    cursor.execute(f"PRAGMA busy_timeout={1000 * MIGRATION_INTERVAL:.0f}")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    """A writer takes the lock first: a reader that upgrades later could only fail."""
    mode = "IMMEDIATE" if _writes(connection) else "DEFERRED"
    connection.exec_driver_sql(f"BEGIN {mode}")


# --- PostgreSQL -------------------------------------------------------------------------------------


def _postgresql_begin(connection: Connection) -> None:
    """What a writer commits is on disk, and it does not wait for locks for ever, however the server is set up."""
    if _writes(connection):
        connection.exec_driver_sql(
            "SELECT "
            "set_config('synchronous_commit',"
            " CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'"
            " ELSE current_setting('synchronous_commit') END, true), "
            "set_config('lock_timeout',"
            f" CASE current_setting('lock_timeout') WHEN '0' THEN '{1000 * LOCK_INTERVAL:.0f}'"
            " ELSE current_setting('lock_timeout') END, true)"
        )


def _writes(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get(_WRITING, False))
