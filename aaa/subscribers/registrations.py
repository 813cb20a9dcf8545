"""Registrations of users in the subscriber database (TS 29.273 §8.1.2.2.2): a row each, and one for each PDN gateway.

They do not hang on the subscriber's row: one who was removed while an AAA server serves it is still told of.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from sqlalchemy import Engine, ForeignKey, String
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from aaa.hss.registration import Registration
from aaa.subscribers.schema import Base
from protocols.threegpp.identity import Imsi


class RegistrationRow(Base):
    """The AAA server that serves an IMSI."""

    __tablename__ = "registrations"

    imsi: Mapped[str] = mapped_column(String(15), primary_key=True)
    server: Mapped[str] = mapped_column(String(255))
    pgws: Mapped[list[PgwRow]] = relationship(cascade="all, delete-orphan", lazy="joined")


class PgwRow(Base):
    """The PDN gateway that serves an APN of a registered user (PGW_UPDATE)."""

    __tablename__ = "pgws"

    imsi: Mapped[str] = mapped_column(ForeignKey("registrations.imsi", ondelete="CASCADE"), primary_key=True)
    apn: Mapped[str] = mapped_column(String(100), primary_key=True)
    pgw: Mapped[str] = mapped_column(String(255))


class RegistrationTable:
    """The ``RegistrationStore`` of a database; ``mapped`` turns its failures into ``BackendError``."""

    def __init__(self, engine: Engine, writing: Engine, mapped: Callable[[str], AbstractContextManager[None]]) -> None:
        self._engine = engine
        self._writing = writing
        self._mapped = mapped

    def registration(self, imsi: Imsi) -> Registration | None:
        """The registration of ``imsi``, if there is one."""
        with self._mapped("read a registration"), Session(self._engine) as session:
            row = session.get(RegistrationRow, str(imsi))
            return None if row is None else _registration(row)

    def store_registration(self, imsi: Imsi, registration: Registration | None) -> None:
        """Keep ``registration``, durably before this returns; ``None`` forgets."""
        with self._mapped("store a registration"), Session(self._writing) as session, session.begin():
            row = session.get(RegistrationRow, str(imsi))
            if registration is not None:
                session.merge(_row(imsi, registration))
            elif row is not None:
                session.delete(row)


def _registration(row: RegistrationRow) -> Registration:
    return Registration(server=row.server, pgws={held.apn: held.pgw for held in row.pgws})


def _row(imsi: Imsi, registration: Registration) -> RegistrationRow:
    return RegistrationRow(
        imsi=str(imsi),
        server=registration.server,
        pgws=[PgwRow(imsi=str(imsi), apn=apn, pgw=pgw) for apn, pgw in registration.pgws.items()],
    )
