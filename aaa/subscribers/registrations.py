"""Registrations of users in the subscriber database (TS 29.273 §8.1.2.2.2): a row each, and one for each PDN gateway.

They do not hang on the subscriber's row: one who was removed while an AAA server serves it is still told of.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from sqlalchemy import Engine, ForeignKey, String, bindparam, delete, func, insert, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

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
        with self._mapped("read a registration"), self._engine.connect() as connection:
            row = connection.execute(_ONE, {"key": str(imsi)}).one_or_none()
            if row is None:
                return None
            pgws = connection.execute(_PGWS, {"key": str(imsi)}).all()
        server = ServingServer(row.host, row.realm)
        return Registration(server=server, profile=row.profile, pgws={held.apn: held.pgw for held in pgws})

    def store_registration(self, imsi: Imsi, registration: Registration | None) -> None:
        """Keep ``registration``, durably before this returns; ``None`` forgets."""
        key = {"key": str(imsi)}
        with self._mapped("store a registration"), self._writing.begin() as connection:
            if registration is None:
                connection.execute(_FORGET, key)  # and its PDN gateways with it
                return
            server = registration.server
            values = {"host": server.host, "realm": server.realm, "profile": registration.profile}
            # the registration first: who changes it at the same time waits here, in every process
            if connection.execute(_CHANGE, {**key, **values}).rowcount == 0:
                connection.execute(_STORE, {"imsi": str(imsi), **values})
            else:
                connection.execute(_FORGET_PGWS, key)
            if registration.pgws:
                held = [{"imsi": str(imsi), "apn": apn, "pgw": pgw} for apn, pgw in registration.pgws.items()]
                connection.execute(_STORE_PGWS, held)

    def page(self, *, after: Imsi | None = None, limit: int = 500) -> tuple[tuple[Imsi, Registration], ...]:
        """Up to ``limit`` registrations by ascending IMSI, beginning behind ``after``."""
        where = {"after": "" if after is None else str(after), "limit": limit}
        with self._mapped("list registrations"), self._engine.connect() as connection:
            rows = connection.execute(_PAGE, where).all()
            if not rows:
                return ()
            pgws: dict[str, dict[str, str]] = {}
            for held in connection.execute(_PGWS_OF_PAGE, {"first": rows[0].imsi, "last": rows[-1].imsi}):
                pgws.setdefault(held.imsi, {})[held.apn] = held.pgw
        return tuple(
            (
                Imsi(row.imsi),
                Registration(
                    server=ServingServer(row.host, row.realm), profile=row.profile, pgws=pgws.get(row.imsi, {})
                ),
            )
            for row in rows
        )

    def count(self) -> int:
        """How many users are registered."""
        with self._mapped("count registrations"), Session(self._engine) as session:
            return session.scalar(select(func.count()).select_from(RegistrationRow)) or 0


# Statements are plain ones: every attach has three, a look at who is registered reads all, and objects for rows cost
# more than SQL
_ROWS, _PGW_ROWS = (Base.metadata.tables[each.__tablename__] for each in (RegistrationRow, PgwRow))
_ONE = select(_ROWS.c.host, _ROWS.c.realm, _ROWS.c.profile).where(_ROWS.c.imsi == bindparam("key"))
_PGWS = select(_PGW_ROWS.c.apn, _PGW_ROWS.c.pgw).where(_PGW_ROWS.c.imsi == bindparam("key"))
_PAGE = select(_ROWS).where(_ROWS.c.imsi > bindparam("after")).order_by(_ROWS.c.imsi).limit(bindparam("limit"))
_PGWS_OF_PAGE = select(_PGW_ROWS).where(_PGW_ROWS.c.imsi.between(bindparam("first"), bindparam("last")))
_FORGET = delete(_ROWS).where(_ROWS.c.imsi == bindparam("key"))
_FORGET_PGWS = delete(_PGW_ROWS).where(_PGW_ROWS.c.imsi == bindparam("key"))
_STORE, _STORE_PGWS = insert(_ROWS), insert(_PGW_ROWS)
_CHANGE = (
    update(_ROWS)
    .where(_ROWS.c.imsi == bindparam("key"))
    .values(host=bindparam("host"), realm=bindparam("realm"), profile=bindparam("profile"))
)
