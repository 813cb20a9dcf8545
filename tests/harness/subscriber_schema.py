"""What a subscriber database's tables are, and Alembic's way to them."""

from __future__ import annotations

import alembic.command
import alembic.config
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect

from aaa.subscribers.revisions import MIGRATIONS
from aaa.subscribers.schema import Base


def alembic_configuration(connection: Connection | None = None) -> alembic.config.Config:
    """For Alembic's own commands."""
    configuration = alembic.config.Config()
    configuration.set_main_option("script_location", str(MIGRATIONS))
    configuration.attributes["connection"] = connection
    return configuration


def migrated(url: str, revision: str = "head") -> dict[str, object]:
    """Go through every migration from nothing; the tables then, which Alembic finds as the models have them."""
    engine = create_engine(url)
    with engine.begin() as connection:
        alembic.command.upgrade(alembic_configuration(connection), revision)
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert revision != "head" or compare_metadata(context, Base.metadata) == []
    tables = tables_of(url)
    engine.dispose()
    return tables


def tables_of(url: str) -> dict[str, object]:
    """Columns and constraints by table, whatever their order."""
    engine = create_engine(url)
    with engine.connect() as connection:
        inspector = inspect(connection)
        tables: dict[str, object] = {}
        for table in inspector.get_table_names():
            tables[table] = (
                {
                    column["name"]: (str(column["type"]), column["nullable"], column["default"])
                    for column in inspector.get_columns(table)
                },
                inspector.get_pk_constraint(table),
                sorted(map(repr, inspector.get_foreign_keys(table))),
                sorted(map(repr, inspector.get_unique_constraints(table))),
                sorted(map(repr, inspector.get_check_constraints(table))),
                sorted(map(repr, inspector.get_indexes(table))),
            )
    engine.dispose()
    return tables
