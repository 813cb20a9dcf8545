"""Registrations of users in the subscriber database (TS 29.273 §8.1.2.2.2): a row each, and one for each PDN gateway.

They do not hang on the subscriber's row: one who was removed while an AAA server serves it is still told of.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from sqlalchemy import Engine, ForeignKey, String, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from aaa.hss.registration import Registration, ServingServer
from aaa.subscribers.schema import Base
from protocols.threegpp.identity import Imsi


class RegistrationRow(Base):
    """The AAA server that serves an IMSI."""

    __tablename__ = "registrations"

    imsi: Mapped[str] = mapped_column(String(15), primary_key=True)
    host: Mapped[str] = mapped_column(String(255))
    realm: Mapped[str] = mapped_column(String(255))
    profile: Mapped[str] = mapped_column(String(64))
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

    def page(self, *, after: Imsi | None = None, limit: int = 500) -> tuple[tuple[Imsi, Registration], ...]:
        """Up to ``limit`` registrations by ascending IMSI, beginning behind ``after``."""
        statement = select(RegistrationRow).order_by(RegistrationRow.imsi).limit(limit)
        if after is not None:
            statement = statement.where(RegistrationRow.imsi > str(after))
        with self._mapped("list registrations"), Session(self._engine) as session:
            return tuple((Imsi(row.imsi), _registration(row)) for row in session.scalars(statement).unique())

    def count(self) -> int:
        """How many users are registered."""
        with self._mapped("count registrations"), Session(self._engine) as session:
            return session.scalar(select(func.count()).select_from(RegistrationRow)) or 0


def _registration(row: RegistrationRow) -> Registration:
    return Registration(
        server=ServingServer(row.host, row.realm),
        profile=row.profile,
        pgws={held.apn: held.pgw for held in row.pgws},
    )


def _row(imsi: Imsi, registration: Registration) -> RegistrationRow:
    return RegistrationRow(
        imsi=str(imsi),
        host=registration.server.host,
        realm=registration.server.realm,
        profile=registration.profile,
        pgws=[PgwRow(imsi=str(imsi), apn=apn, pgw=pgw) for apn, pgw in registration.pgws.items()],
    )
