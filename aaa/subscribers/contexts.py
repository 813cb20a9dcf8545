"""Contexts of fast re-authentication in the database (RFC 4187 §5.1): one for a subscriber, sealed by the AAA server.

They do not hang on the subscriber's row: an AAA server may have its subscribers at an HSS elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from sqlalchemy import Engine, LargeBinary, String
from sqlalchemy.orm import Mapped, Session, mapped_column

from aaa.subscribers.schema import Base
from protocols.threegpp.identity import Imsi


class ContextRow(Base):
    """The context behind the one-time identity that a subscriber got last."""

    __tablename__ = "reauthentication_contexts"

    imsi: Mapped[str] = mapped_column(String(15), primary_key=True)
    username: Mapped[str] = mapped_column(String(64))
    sealed: Mapped[bytes] = mapped_column(LargeBinary)


class ContextTable:
    """The ``ContextStore`` of a database; ``mapped`` turns its failures into ``BackendError``."""

    def __init__(self, writing: Engine, mapped: Callable[[str], AbstractContextManager[None]]) -> None:
        self._writing = writing
        self._mapped = mapped

    def take(self, imsi: Imsi, username: str) -> bytes | None:
        """Hand out the context of a re-authentication identity, and forget it."""
        with self._mapped("take a re-authentication context"), Session(self._writing) as session, session.begin():
            row = session.get(ContextRow, str(imsi), with_for_update=True)
            if row is None or row.username != username:
                return None
            session.delete(row)
            return row.sealed

    def keep(self, imsi: Imsi, username: str, sealed: bytes) -> None:
        """Keep one, durably before this returns, in place of the subscriber's last."""
        with self._mapped("keep a re-authentication context"), Session(self._writing) as session, session.begin():
            session.merge(ContextRow(imsi=str(imsi), username=username, sealed=sealed))
