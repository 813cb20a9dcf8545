"""A modem on a pseudo-terminal: ATE0 and AT+CSIM (TS 27.007 §8.17), with a card in it, chatty or faulty."""

from __future__ import annotations

import os
import re
import select
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Transmit = Callable[[bytes], bytes]

CSIM = re.compile(r'AT\+CSIM=(\d+),"([0-9A-F]+)"\Z')
UNASKED = "\r\n+CREG: 1\r\n"


def answered(transmit: Transmit, command: str) -> str:
    """What a modem says; it does not echo any more after ATE0."""
    if command == "ATE0":
        return f"{command}\r\r\nOK\r\n"
    found = CSIM.match(command)
    if found is None or len(found[2]) != int(found[1]):
        return "\r\n+CME ERROR: 50\r\n"
    text = transmit(bytes.fromhex(found[2])).hex().upper()
    return f'{UNASKED}\r\n+CSIM: {len(text)},"{text}"\r\n\r\nOK\r\n'


@contextmanager
def modem(answer: Callable[[str], str]) -> Iterator[Path]:
    """Its serial line; ``answer`` says what comes back to a command."""
    line, other = os.openpty()
    tty.setraw(line)
    over, woken = os.pipe()

    def serve() -> None:
        held = b""
        while over not in (ready := select.select([line, over], [], [])[0]):
            held += os.read(ready[0], 4096)
            *commands, held = held.split(b"\r")
            for command in commands:
                os.write(line, answer(command.decode("ascii")).encode("ascii"))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield Path(os.ttyname(other))
    finally:
        os.close(woken)
        thread.join()
        for each in (over, line, other):
            os.close(each)
