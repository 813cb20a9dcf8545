"""The schema's revision: which one a database has, and the way to the newest.

An empty database gets the tables as ``schema`` describes them, an older one is migrated by Alembic; a node that finds
the newest revision does without.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, insert, inspect, select

from aaa.subscribers.schema import Base

MIGRATIONS = Path(__file__).parent / "migrations"
NEWEST = "0004"

_VERSION = Table(  # as Alembic makes it
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


class MigrationError(Exception):
    """Alembic cannot bring this database to the newest revision."""


def revision_of(connection: Connection) -> str | None:
    """The schema's revision, ``None`` where there is no schema yet."""
    if not inspect(connection).has_table(_VERSION.name):
        return None
    return connection.scalar(select(_VERSION.c.version_num))


def upgrade(connection: Connection) -> None:
    """Bring the schema to ``NEWEST`` in the transaction of ``connection``; ``MigrationError``."""
    present = revision_of(connection)
    if present == NEWEST:
        return
    if present is None and not Base.metadata.tables.keys() & set(inspect(connection).get_table_names()):
        Base.metadata.create_all(connection)
        _VERSION.create(connection, checkfirst=True)
        connection.execute(insert(_VERSION).values(version_num=NEWEST))
        return
    _migrate(connection)


def _migrate(connection: Connection) -> None:
    import alembic.command  # here: a fifth of a node's start, for older databases only
    import alembic.config
    import alembic.util

    configuration = alembic.config.Config()
    configuration.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    configuration.attributes["connection"] = connection
    try:
        alembic.command.upgrade(configuration, "head")
    except alembic.util.CommandError as error:
        raise MigrationError(str(error)) from error
