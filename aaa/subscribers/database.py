"""The subscriber database over SQLAlchemy: provisioning, look-up, migrations, durable reservation of SQN.

Every call blocks; a node calls it through one bridge (``aaa.runtime``). Database failures leave as
``BackendError``, so that no caller sees an SQLAlchemy exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from types import TracebackType

from sqlalchemy import BigInteger, Connection, Select, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from aaa.subscribers.contexts import ContextTable
from aaa.subscribers.engines import create_file, migrating, one_line, open_engine, writing
from aaa.subscribers.master_keys import MasterKeyError, MasterKeys
from aaa.subscribers.registrations import RegistrationTable
from aaa.subscribers.revisions import MigrationError, revision_of, upgrade
from aaa.subscribers.rows import (
    SUBSCRIBERS,
    Values,
    apn_values,
    opened_keys,
    scheme_of,
    sealed_keys,
    subscriber_values,
    subscribers_of,
)
from aaa.subscribers.schema import ApnRow, Base, MasterKeyRow, SubscriberRow
from aaa.subscribers.selection import EVERYBODY, SubscriberFilter
from aaa.subscribers.subscriber import Subscriber
from protocols.algorithms.sqn import SqnState, Transition
from protocols.errors import BackendError, LocalError
from protocols.threegpp.identity import Imsi

BATCH = 2000  # subscribers in one transaction


class SubscriberExists(LocalError):
    """The IMSI is provisioned already."""


class UnknownImsi(LocalError):
    """No subscriber has this IMSI."""


class SequenceGoesBack(LocalError):
    """A change would let sequence numbers come again that were given out already."""


class SubscriberDatabase:
    """Subscribers behind any SQLAlchemy URL; an SQLite file is made readable by its owner only.

    With ``keys`` K, OP and OPc are sealed as they are written, whatever stands there from before; without, they
    are written in clear.
    """

    def __init__(self, url: str, keys: MasterKeys | None = None) -> None:
        """``ValueError`` when ``url`` is no database URL or its driver is not installed."""
        self._engine = open_engine(url)
        self._writing = writing(self._engine)
        self._keys = keys
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
        """Bring the schema to the newest revision, which is returned; safe to run from several processes.

        ``MasterKeyError`` when the keys that are stored are not sealed under the master keys given.
        """
        with self._mapped("migrate"):
            create_file(self._engine)
            with migrating(self._engine) as connection:
                upgrade(connection)
                _check_master_keys(connection, self._keys)
                return revision_of(connection) or ""

    def revision(self) -> str | None:
        """The schema's revision, ``None`` before the first migration."""
        with self._mapped("read the schema revision"):
            create_file(self._engine)
            with self._engine.connect() as connection:
                return revision_of(connection)

    # --- keys at rest -------------------------------------------------------------------------------

    @property
    def seals_keys(self) -> bool:
        """Whether there is a master key."""
        return self._keys is not None

    def keys_in_clear(self) -> int:
        """Of how many subscribers the keys are stored in clear."""
        statement = select(func.count()).select_from(SubscriberRow).where(SubscriberRow.key_version.is_(None))
        with self._mapped("count keys"), self._engine.connect() as connection:
            return connection.scalar(statement) or 0

    def rekey(self, progress: Callable[[int], None] = lambda count: None) -> int:
        """Seal every key that is not sealed under the newest master key; of how many subscribers.

        Transactions of some thousands; ``progress`` is told how many each one did. ``LocalError`` without keys.
        """
        if self._keys is None:
            raise LocalError("there is no master key to seal under")
        done = 0
        while count := self._rekey_some(self._keys):
            done += count
            progress(count)
        return done

    def _rekey_some(self, keys: MasterKeys) -> int:
        statement = (
            select(SubscriberRow)
            .where(SubscriberRow.key_version.is_distinct_from(keys.newest))
            .order_by(SubscriberRow.imsi)
            .limit(BATCH)
            .with_for_update()
        )
        with self._mapped("seal keys"), Session(self._writing) as session, session.begin():
            rows = session.scalars(statement).all()
            for row in rows:
                for name, value in sealed_keys(row.imsi, opened_keys(row, keys), keys).items():
                    setattr(row, name, value)
            return len(rows)

    # --- provisioning -------------------------------------------------------------------------------

    def add(self, subscriber: Subscriber) -> None:
        """Provision; ``SubscriberExists`` when the IMSI is there already."""
        self.put((subscriber,))

    def replace(self, subscriber: Subscriber) -> None:
        """Provision, over an older subscriber of the same IMSI if there is one; see ``put``."""
        self.put((subscriber,), over=True)

    def put(self, subscribers: Sequence[Subscriber], *, over: bool = False) -> None:
        """Provision all of them in one transaction, or none; ``SubscriberExists`` names one that is there already.

        ``over`` puts them over older subscribers of the same IMSI. SEQ then only moves forward (TS 33.102
        §C.1.1.1), unless K or the algorithm's constants change: that is another USIM, whose numbers start anew.
        """
        with self._mapped("store subscribers"):
            try:
                self._put(subscribers, over=over)
            except IntegrityError:  # another process added one in between: now it is there to be found
                self._put(subscribers, over=over)

    def put_all(
        self,
        subscribers: Iterable[Subscriber],
        *,
        over: bool = False,
        progress: Callable[[int], None] = lambda count: None,
    ) -> int:
        """Provision a stream in transactions of some thousands; how many. ``progress`` is told of each one's."""
        done = 0
        stream = iter(subscribers)
        while batch := tuple(islice(stream, BATCH)):
            self.put(batch, over=over)
            done += len(batch)
            progress(len(batch))
        return done

    def _put(self, subscribers: Sequence[Subscriber], *, over: bool) -> None:
        with Session(self._writing) as session, session.begin():
            wanted = {str(subscriber.imsi): subscriber for subscriber in subscribers}
            if len(wanted) != len(subscribers):
                raise LocalError("an IMSI is provisioned once at a time")
            there = session.scalars(_locking().where(SubscriberRow.imsi.in_(wanted))).all()
            if there and not over:
                raise SubscriberExists(f"IMSI {there[0].imsi} is provisioned already")
            values = [subscriber_values(subscriber, self._keys) for subscriber in subscribers]
            if there:
                old = {row.imsi: row for row in there}
                for row_values in values:
                    row = old.get(str(row_values["imsi"]))
                    if row is not None:
                        self._keep_sequence(row, wanted[row.imsi], row_values)
                session.expunge_all()
                session.execute(delete(SubscriberRow).where(SubscriberRow.imsi.in_(old)))
            _insert(session, values, [row for subscriber in subscribers for row in apn_values(subscriber)])

    def _keep_sequence(self, row: SubscriberRow, subscriber: Subscriber, values: Values) -> None:
        """Numbers of the same USIM go on, also under a scheme with another length of IND."""
        clear = opened_keys(row, self._keys)
        mine = [None if key is None else key.reveal() for key in (subscriber.k, subscriber.op, subscriber.opc)]
        if (row.algorithm, row.tuak_iterations) != (subscriber.algorithm.value, subscriber.tuak_iterations):
            return
        if mine != [clear["k"], clear["op"], clear["opc"]]:
            return
        scheme, before = subscriber.sqn_scheme, scheme_of(row.sqn_generation, row.ind_bits)
        values["sequence"] = max(subscriber.sequence, scheme.seq_of(before.compose(row.sequence, before.ind_count - 1)))
        if scheme == before:
            values["clock_difference"] = row.clock_difference

    def update(self, imsi: Imsi, change: Callable[[Subscriber], Subscriber]) -> Subscriber:
        """Store what ``change`` makes of a subscriber, which is returned; nobody changes it in between.

        ``UnknownImsi``; ``SequenceGoesBack`` when it lowers SEQ of the same USIM; what ``change`` raises goes on.
        """
        with self._mapped("change a subscriber"), Session(self._writing) as session, session.begin():
            row = session.get(SubscriberRow, str(imsi), with_for_update=True)
            if row is None:
                raise UnknownImsi(f"no subscriber has IMSI {imsi}")
            (old,) = subscribers_of(session.execute(_ONE, {"key": str(imsi)}), self._keys)
            changed = change(old)
            if changed.imsi != imsi:
                raise LocalError(f"IMSI {imsi} stays what it is")
            values = subscriber_values(changed, self._keys)
            self._keep_sequence(row, changed, values)
            kept = values["sequence"]
            assert isinstance(kept, int)
            if changed.sqn_scheme == old.sqn_scheme and kept > changed.sequence:
                raise SequenceGoesBack(f"SEQ of IMSI {imsi} is {kept} and does not go back")
            session.expunge_all()
            session.execute(delete(SubscriberRow).where(SubscriberRow.imsi == str(imsi)))
            _insert(session, [values], apn_values(changed))
            return replace(changed, sequence=kept)

    def remove(self, imsi: Imsi) -> bool:
        """Remove; whether there was such a subscriber."""
        with self._mapped("remove a subscriber"), self._writing.begin() as connection:
            statement = delete(SubscriberRow).where(SubscriberRow.imsi == str(imsi))
            return connection.execute(statement).rowcount == 1

    def get(self, imsi: Imsi) -> Subscriber | None:
        """The subscriber of ``imsi``, if provisioned."""
        with self._mapped("read a subscriber"), self._engine.connect() as connection:
            return next(subscribers_of(connection.execute(_ONE, {"key": str(imsi)}), self._keys), None)

    def get_many(self, imsis: Sequence[Imsi]) -> dict[Imsi, Subscriber]:
        """Those of ``imsis`` that are provisioned, in one statement."""
        statement = SUBSCRIBERS.where(SubscriberRow.imsi.in_(map(str, imsis)))
        with self._mapped("read subscribers"), self._engine.connect() as connection:
            found = subscribers_of(connection.execute(statement), self._keys)
            return {subscriber.imsi: subscriber for subscriber in found}

    def existing(self, imsis: Sequence[Imsi]) -> frozenset[Imsi]:
        """Which of them are provisioned."""
        statement = select(SubscriberRow.imsi).where(SubscriberRow.imsi.in_(map(str, imsis)))
        with self._mapped("look subscribers up"), self._engine.connect() as connection:
            return frozenset(Imsi(imsi) for imsi in connection.scalars(statement))

    def page(
        self, *, after: Imsi | None = None, limit: int = 1000, where: SubscriberFilter = EVERYBODY
    ) -> tuple[Subscriber, ...]:
        """Up to ``limit`` subscribers by ascending IMSI, beginning behind ``after``."""
        conditions = where.conditions()
        statement = select(SubscriberRow.imsi).where(*conditions).order_by(SubscriberRow.imsi).limit(limit)
        if after is not None:
            statement = statement.where(SubscriberRow.imsi > str(after))
        with self._mapped("list subscribers"), self._engine.connect() as connection:
            imsis = connection.scalars(statement).all()
            found = connection.execute(SUBSCRIBERS.where(SubscriberRow.imsi.in_(imsis), *conditions))
            return tuple(subscribers_of(found, self._keys))

    def all(self, *, size: int = 1000, where: SubscriberFilter = EVERYBODY) -> Iterator[Subscriber]:
        """Every subscriber by ascending IMSI, read page by page."""
        after: Imsi | None = None
        while batch := self.page(after=after, limit=size, where=where):
            yield from batch
            after = batch[-1].imsi

    def count(self, where: SubscriberFilter = EVERYBODY) -> int:
        """How many subscribers are provisioned."""
        statement = select(func.count()).select_from(SubscriberRow).where(*where.conditions())
        with self._mapped("count subscribers"), Session(self._engine) as session:
            return session.scalar(statement) or 0

    # --- sequence numbers ---------------------------------------------------------------------------

    def change_sequence(self, imsi: Imsi, transition: Transition) -> SqnState:
        """Store what ``transition`` makes of the stored state, durably before this returns; what is stored then.

        Compare-and-swap on the stored value, so that it is right with many processes; ``transition`` may
        therefore be called more than once, the last time with what was replaced. ``UnknownImsi``.
        """
        with self._mapped("store a sequence number"):
            while True:
                with self._writing.begin() as connection:
                    old = _sequence(connection, imsi)
                    new = transition(old)
                    if _swap(connection, imsi, old, new):
                        return new

    def sequence(self, imsi: Imsi) -> int:
        """The stored SEQ_HE; ``UnknownImsi``."""
        with self._mapped("read a sequence number"), self._engine.begin() as connection:
            return _sequence(connection, imsi).seq

    @contextmanager
    def _mapped(self, what: str) -> Iterator[None]:
        """Failures as ``BackendError``; pooled connections are let go: they may have been the reason."""
        try:
            yield
        except (SQLAlchemyError, MigrationError, OSError, UnicodeEncodeError) as error:
            self._engine.dispose()
            raise BackendError(f"the subscriber database could not {what}: {one_line(error)}") from error


def _check_master_keys(connection: Connection, keys: MasterKeys | None) -> None:
    """``MasterKeyError`` unless the given keys are those of the database; a new one leaves its witness here."""
    used = set(
        connection.scalars(select(SubscriberRow.key_version).where(SubscriberRow.key_version.is_not(None)).distinct())
    )
    if keys is None:
        if used:
            expected = "the file of the master keys that the keys in this database are sealed under"
            raise MasterKeyError("the subscriber database", "nothing", expected)
        return
    witnesses = {row.version: row.witness for row in connection.execute(select(MasterKeyRow.__table__))}
    for version, witness in sorted(witnesses.items()):
        if version in keys and not keys.is_of(version, witness):
            expected = "the one that the keys in the database are sealed under"
            raise MasterKeyError(keys.file, f"another key of version {version}", expected)
    for version in sorted(version for version in used if version is not None and version not in keys):
        expected = "that version, which keys in the database are sealed under"
        raise MasterKeyError(keys.file, f"no version {version}", expected)
    if keys.newest not in witnesses:
        connection.execute(insert(MasterKeyRow).values(version=keys.newest, witness=keys.witness()))


def _locking() -> Select[SubscriberRow]:
    """Rows that nobody else changes before the transaction ends."""
    return select(SubscriberRow).with_for_update()


def _insert(session: Session, subscribers: list[Values], apns: list[Values]) -> None:
    session.execute(insert(SubscriberRow.__table__), subscribers)  # type: ignore[arg-type]
    if apns:
        session.execute(insert(ApnRow.__table__), apns)  # type: ignore[arg-type]


def _sequence(connection: Connection, imsi: Imsi) -> SqnState:
    row = connection.execute(_SEQUENCE, {"key": str(imsi)}).one_or_none()
    if row is None:
        raise UnknownImsi(f"no subscriber has IMSI {imsi}")
    return SqnState(row.sequence, difference=row.clock_difference)


def _swap(connection: Connection, imsi: Imsi, old: SqnState, new: SqnState) -> bool:
    stored = {"key": str(imsi), "old_sequence": old.seq, "old_difference": old.difference}
    values = {"new_sequence": new.seq, "new_difference": new.difference}
    return connection.execute(_SWAP, stored | values).rowcount == 1


# Statements of every attach are made once: to put one together costs as much as SQLite needs to answer it
_ONE = SUBSCRIBERS.where(SubscriberRow.imsi == bindparam("key"))
_TABLE = Base.metadata.tables[SubscriberRow.__tablename__]
_SEQUENCE = select(_TABLE.c.sequence, _TABLE.c.clock_difference).where(_TABLE.c.imsi == bindparam("key"))
_SWAP = (
    update(_TABLE)
    .where(
        _TABLE.c.imsi == bindparam("key"),
        _TABLE.c.sequence == bindparam("old_sequence"),
        _TABLE.c.clock_difference.is_not_distinct_from(bindparam("old_difference", type_=BigInteger)),
    )
    .values(sequence=bindparam("new_sequence"), clock_difference=bindparam("new_difference"))
)
