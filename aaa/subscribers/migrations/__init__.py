"""Alembic migrations of the subscriber database, packaged and run by ``SubscriberDatabase.migrate``."""
