"""The USIM in a modem on a serial line, by AT+CSIM (TS 27.007 §8.17); ``ue.card`` has the APDUs.

::

    AT+CSIM=14,"00A40004023F00"  -->
                                 <--  +CSIM: 44,"621A…9000"
                                 <--  OK

Lengths are those of the hexadecimal text. Left out: logical channels (+CCHO, +CGLA), so that the modem itself should
not be registered meanwhile; and AT+CPIN, since VERIFY PIN goes the same way as all else.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from protocols.errors import BackendError
from ue.pcsc import CardConnection, Connect

ANSWER_INTERVAL = 10.0  # seconds for a command; V.250 leaves it open, and a card may think for long
ANSWER_MAXIMUM = 8192  # octets that are waited through for it
_CSIM = re.compile(r'\+CSIM: *(\d+), *"?([0-9A-Fa-f]*)"?\Z')
T = TypeVar("T")

_ERROR = re.compile(r"(?:\+CM[ES] )?ERROR\b.*\Z")


def modem_at(device: Path, interval: float = ANSWER_INTERVAL) -> Connect:
    """Connections to the card in the modem on a serial line; nobody else may open it meanwhile."""

    @contextmanager
    def connect() -> Iterator[CardConnection]:
        with _opened(device) as descriptor:
            modem = _Modem(device, descriptor, interval)
            modem.command("ATE0")  # whatever somebody has left in its line goes with the answer
            yield modem

    return connect


@contextmanager
def _opened(device: Path) -> Iterator[int]:
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BackendError(f"usim.card.modem: {device}: {error.strerror}") from error
    try:
        try:
            tty.setraw(descriptor)
            fcntl.ioctl(descriptor, termios.TIOCEXCL)
            termios.tcflush(descriptor, termios.TCIOFLUSH)
        except (OSError, termios.error) as error:
            raise BackendError(f"usim.card.modem: {device} is no serial line: {error.args[-1]}") from error
        yield descriptor
    finally:
        with suppress(OSError):
            fcntl.ioctl(descriptor, termios.TIOCNXCL)
        os.close(descriptor)


class _Modem:
    def __init__(self, device: Path, descriptor: int, interval: float) -> None:
        self._device = device
        self._descriptor = descriptor
        self._interval = interval

    def transmit(self, command: bytes) -> bytes:
        """Command APDU to response APDU; ``BackendError``."""
        text = command.hex().upper()
        for line in self.command(f'AT+CSIM={len(text)},"{text}"'):
            found = _CSIM.match(line)
            if found is not None and len(found[2]) == int(found[1]) and len(found[2]) % 2 == 0:
                return bytes.fromhex(found[2])
        raise BackendError(f"modem {self._device}: no answer of the card's in its answer to AT+CSIM")

    def command(self, text: str) -> list[str]:
        """The lines up to OK; what it says unasked is among them."""
        deadline = time.monotonic() + self._interval
        self._io(lambda: os.write(self._descriptor, f"{text}\r".encode("ascii")))
        held, lines = b"", list[str]()
        while len(held) < ANSWER_MAXIMUM:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._descriptor], [], [], left)[0]:
                raise BackendError(f"modem {self._device}: no answer to {text[:7]} within {self._interval:g} s")
            octets = self._io(lambda: os.read(self._descriptor, ANSWER_MAXIMUM))
            if not octets:
                break
            held += octets
            lines = [line.strip() for line in held.decode("ascii", "replace").replace("\r", "\n").split("\n")[:-1]]
            refusal = next((line for line in lines if _ERROR.match(line)), None)
            if refusal is not None:
                raise BackendError(f"modem {self._device}: {text[:7]}: {refusal[:80]}")
            if "OK" in lines:
                return lines
        raise BackendError(f"modem {self._device}: nothing that ends in its answer to {text[:7]}")

    def _io(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except OSError as error:
            raise BackendError(f"modem {self._device}: {error.strerror}") from error
