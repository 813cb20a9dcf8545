"""The USIM on a card in a PC/SC reader, by the optional extra ``pyscard``; ``ue.card`` has the APDUs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from protocols.algorithms.usim import UsimResult
from protocols.errors import BackendError
from protocols.threegpp.identity import Imsi
from ue import card

if TYPE_CHECKING:
    from collections.abc import Iterator

EXTRA = "usim.card needs pyscard, which the extra epdg-emulator[card] brings"


class CardConnection(Protocol):
    """A card that is powered."""

    def transmit(self, command: bytes) -> bytes:
        """Command APDU to response APDU; ``BackendError``."""


Connect = Callable[[], AbstractContextManager[CardConnection]]


class CardUsim:
    """Answers AUTHENTICATE by the card; between two challenges it is nobody's, and may be put in anew."""

    def __init__(self, connect: Connect, *, pin: str | None, imsi: Imsi) -> None:
        self._connect = connect
        self._pin = pin
        self._imsi = imsi
        self._lock = asyncio.Lock()

    async def authenticate(self, rand: bytes, autn: bytes) -> UsimResult:
        """The card's verdict, one challenge after another; ``BackendError``."""
        async with self._lock:
            return await asyncio.to_thread(self._authenticate, rand, autn)

    def _authenticate(self, rand: bytes, autn: bytes) -> UsimResult:
        with self._connect() as connection:
            found = card.run(card.identify(self._pin), connection.transmit)
            if found.imsi != self._imsi:
                raise BackendError(f"the card in the reader is of IMSI {found.imsi}, not {self._imsi}")
            return card.run(card.authenticate(rand, autn), connection.transmit)


def identify(connect: Connect, pin: str | None) -> card.CardIdentity:
    """Who the subscriber is; blocks as long as the card does. ``BackendError``."""
    with connect() as connection:
        return card.run(card.identify(pin), connection.transmit)


def reader_named(reader: str | int) -> Connect:
    """Connections to the card in a reader: by (a part of) its name, or by number from 0."""

    @contextmanager
    def connect() -> Iterator[CardConnection]:
        connection = _connect(reader)
        try:
            yield connection
        finally:
            connection.close()

    return connect


class _PcscConnection:
    def __init__(self, connection: _Transmitting, failure: type[Exception], name: str) -> None:
        self._connection = connection
        self._failure = failure
        self._name = name

    def transmit(self, command: bytes) -> bytes:
        try:
            data, first, second = self._connection.transmit(list(command))
        except self._failure as error:
            raise BackendError(f"reader {self._name}: {_line(error)}") from error
        return bytes([*data, first, second])

    def close(self) -> None:
        self._connection.disconnect()


class _Transmitting(Protocol):
    """What is used of a connection of pyscard."""

    def transmit(self, command: list[int]) -> tuple[list[int], int, int]: ...

    def disconnect(self) -> None: ...


def _connect(reader: str | int) -> _PcscConnection:
    """Power the card, for this program alone. ``BackendError`` in one line, whatever is missing."""
    try:
        from smartcard.Exceptions import NoCardException, SmartcardException
        from smartcard.scard import SCARD_SHARE_EXCLUSIVE
        from smartcard.System import readers
    except ImportError as error:
        raise BackendError(EXTRA) from error
    try:
        present = list(readers())
    except SmartcardException as error:
        raise BackendError(f"usim.card: no PC/SC service answers (is pcscd running?): {_line(error)}") from error
    names = [str(each) for each in present]
    if isinstance(reader, int):
        found = present[reader : reader + 1]
    else:
        found = [each for each, name in zip(present, names, strict=True) if name == reader] or [
            each for each, name in zip(present, names, strict=True) if reader in name
        ]
    if not found:
        raise BackendError(f"usim.card.reader: there is no reader {reader!r}; known are {', '.join(names) or 'none'}")
    connection = found[0].createConnection()
    try:
        connection.connect(mode=SCARD_SHARE_EXCLUSIVE)
    except NoCardException as error:
        raise BackendError(f"reader {found[0]}: no card in it") from error
    except SmartcardException as error:
        raise BackendError(f"reader {found[0]}: {_line(error)}") from error
    return _PcscConnection(connection, SmartcardException, str(found[0]))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
