"""The subscriber database over SQLAlchemy: provisioning, look-up, migrations, durable reservation of SQN.

Every call blocks; a node calls it through one bridge (``aaa.runtime``). Database failures leave as
``BackendError``, so that no caller sees an SQLAlchemy exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType

import alembic.command
import alembic.config
import alembic.util
from alembic.migration import MigrationContext
from sqlalchemy import Connection, func, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session, selectinload

from aaa.subscribers.contexts import ContextTable
from aaa.subscribers.engines import lock_for_migration, one_line, open_engine, writing
from aaa.subscribers.registrations import RegistrationTable
from aaa.subscribers.schema import ApnRow, SubscriberRow
from aaa.subscribers.subscriber import Algorithm, ApnSubscription, PdnType, Subscriber
from protocols.errors import BackendError, LocalError
from protocols.secret import Secret
from protocols.threegpp.identity import Apn, Imsi

MIGRATIONS = Path(__file__).parent / "migrations"


class SubscriberExists(LocalError):
    """The IMSI is provisioned already."""


class UnknownImsi(LocalError):
    """No subscriber has this IMSI."""


class SubscriberDatabase:
    """Subscribers behind any SQLAlchemy URL; an SQLite file is made readable by its owner only."""

    def __init__(self, url: str) -> None:
        """``ValueError`` when ``url`` is no database URL or its driver is not installed."""
        self._engine = open_engine(url)
        self._writing = writing(self._engine)
        self.registrations = RegistrationTable(self._engine, self._writing, self._mapped)
        self.contexts = ContextTable(self._writing, self._mapped)

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
            lock_for_migration(connection)
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
        with self._mapped("replace a subscriber"):
            try:
                self._put(subscriber)
            except IntegrityError:  # another process added the IMSI in between: now it is there to be replaced
                self._put(subscriber)

    def _put(self, subscriber: Subscriber) -> None:
        with Session(self._writing) as session, session.begin():
            row = _row(subscriber)
            old = _locked(session, subscriber.imsi)
            if old is None:
                session.add(row)
                return
            if (old.k, old.op, old.opc, old.algorithm) == (row.k, row.op, row.opc, row.algorithm):
                row.sequence = max(row.sequence, old.sequence)
            old.apns.clear()
            session.flush()  # the old APNs go before new ones of the same name come
            session.merge(row)

    def remove(self, imsi: Imsi) -> bool:
        """Remove; whether there was such a subscriber."""
        with self._mapped("remove a subscriber"), Session(self._writing) as session, session.begin():
            row = _locked(session, imsi)
            if row is None:
                return False
            session.delete(row)
            return True

    def get(self, imsi: Imsi) -> Subscriber | None:
        """The subscriber of ``imsi``, if provisioned."""
        with self._mapped("read a subscriber"), Session(self._engine) as session:
            row = session.get(SubscriberRow, str(imsi))
            return None if row is None else _subscriber(row)

    def get_many(self, imsis: tuple[Imsi, ...]) -> dict[Imsi, Subscriber]:
        """Those of ``imsis`` that are provisioned, in one statement."""
        statement = select(SubscriberRow).where(SubscriberRow.imsi.in_([str(imsi) for imsi in imsis]))
        with self._mapped("read subscribers"), Session(self._engine) as session:
            found = (_subscriber(row) for row in session.scalars(statement).unique())
            return {subscriber.imsi: subscriber for subscriber in found}

    def page(self, *, after: Imsi | None = None, limit: int = 1000) -> tuple[Subscriber, ...]:
        """Up to ``limit`` subscribers by ascending IMSI, beginning behind ``after``."""
        statement = select(SubscriberRow).order_by(SubscriberRow.imsi).limit(limit)
        if after is not None:
            statement = statement.where(SubscriberRow.imsi > str(after))
        with self._mapped("list subscribers"), Session(self._engine) as session:
            return tuple(_subscriber(row) for row in session.scalars(statement).unique())

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

        Compare-and-swap on the stored value, so that it is right with many processes; ``transition`` may
        therefore be called more than once. ``UnknownImsi``.
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
            raise BackendError(f"the subscriber database could not {what}: {one_line(error)}") from error


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _locked(session: Session, imsi: Imsi) -> SubscriberRow | None:
    """The row, which nobody else changes before the transaction ends; its APNs are read once it is locked."""
    return session.get(SubscriberRow, str(imsi), with_for_update=True, options=[selectinload(SubscriberRow.apns)])


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
