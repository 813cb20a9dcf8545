"""Alembic environment: runs inside the connection and transaction that the caller passes in."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from aaa.subscribers.schema import Base


def run() -> None:
    """Migrate over the connection in ``config.attributes``."""
    connection = context.config.attributes["connection"]
    assert isinstance(connection, Connection)
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",  # SQLite cannot alter a column in place
        compare_type=True,
    )
    context.run_migrations()


run()
