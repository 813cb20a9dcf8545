"""A USIM card of tests, at the level of APDUs: files, PIN, AUTHENTICATE with Milenage; T=0 manners (61 xx, 6C xx).

``serve`` puts it into a virtual reader of pcscd (vsmartcard's vpcd: two octets of length, then a command or an APDU).
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from protocols.algorithms.milenage import Milenage
from protocols.algorithms.sqn import SqnWindow
from protocols.algorithms.usim import UsimSuccess, UsimSynchronisationFailure, authenticate

AID = bytes.fromhex("a0000000871002ff49ff0589")
ISIM_AID = bytes.fromhex("a0000000871004ff49ff0589")
ATR = bytes.fromhex("3b9f96801fc78031a073be21136743200718000001a5")
RECORD_LENGTH = 38
OK, NOT_FOUND, SECURITY = b"\x90\x00", b"\x6a\x82", b"\x69\x82"


def tlv(tag: int, value: bytes) -> bytes:
    return bytes([tag, len(value)]) + value


def imsi_file(imsi: str) -> bytes:
    """EF.IMSI (TS 31.102 §4.2.2)."""
    nibbles = ("9" if len(imsi) % 2 else "1") + imsi + ("" if len(imsi) % 2 else "f")
    packed = bytes(int(nibbles[at + 1] + nibbles[at], 16) for at in range(0, len(nibbles), 2))
    return (bytes([len(packed)]) + packed).ljust(9, b"\xff")


@dataclass
class UsimCard:
    """One card; ``commands`` are those that it was sent."""

    imsi: str
    functions: Milenage
    pin: str | None = None
    mnc_length: int = 2
    has_usim: bool = True
    attempts: int = 3
    window: SqnWindow = field(default_factory=SqnWindow)
    commands: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Power on."""
        self._selected, self._in_usim, self._verified = "mf", False, False
        self._response = b""

    def transmit(self, command: bytes) -> bytes:
        """Command APDU to response APDU."""
        self.commands.append(command)
        instruction, data = command[1], command[5 : 5 + command[4]] if len(command) > 5 else b""
        if instruction != 0xC0:
            self._response = b""
        match instruction:
            case 0xA4:
                return self._select(command, data)
            case 0xC0:
                return self._response[: command[4]] + OK
            case 0xB2:
                return self._record(command)
            case 0xB0:
                return self._binary(command)
            case 0x20:
                return self._verify(data)
            case 0x88:
                return self._authenticate(command, data)
        return b"\x6d\x00"

    def _later(self, response: bytes) -> bytes:
        self._response = response
        return bytes([0x61, len(response)])

    def _select(self, command: bytes, data: bytes) -> bytes:
        if command[2] == 0x04:
            if not (self.has_usim and AID.startswith(data)):
                return NOT_FOUND
            self._in_usim, self._selected = True, "adf"
            return self._later(tlv(0x62, tlv(0x82, b"\x78\x21") + tlv(0x84, AID)))
        names = {0x3F00: "mf", 0x2F00: "dir", 0x6F07: "imsi", 0x6FAD: "ad"}
        name = names.get(int.from_bytes(data, "big"))
        if name is None or (name in ("imsi", "ad") and not self._in_usim):
            return NOT_FOUND
        self._selected = name
        if name == "dir":
            return self._later(tlv(0x62, tlv(0x82, bytes([0x42, 0x21, 0, RECORD_LENGTH, 2])) + tlv(0x83, data)))
        if name == "mf":
            return self._later(tlv(0x62, tlv(0x82, b"\x78\x21") + tlv(0x83, data)))
        size = len(self._file())
        return self._later(tlv(0x62, tlv(0x82, b"\x41\x21") + tlv(0x83, data) + tlv(0x80, size.to_bytes(2, "big"))))

    def _file(self) -> bytes:
        return imsi_file(self.imsi) if self._selected == "imsi" else bytes([0, 0, 0, self.mnc_length])

    def _record(self, command: bytes) -> bytes:
        aids = [ISIM_AID, *([AID] if self.has_usim else [])]
        if self._selected != "dir" or not 1 <= command[2] <= len(aids):
            return b"\x6a\x83"
        if command[4] != RECORD_LENGTH:
            return bytes([0x6C, RECORD_LENGTH])
        aid = aids[command[2] - 1]
        return tlv(0x61, tlv(0x4F, aid) + tlv(0x50, b"Test")).ljust(RECORD_LENGTH, b"\xff") + OK

    def _binary(self, command: bytes) -> bytes:
        if self._selected == "imsi" and self.pin is not None and not self._verified:
            return SECURITY
        size = len(self._file())
        return self._file() + OK if command[4] == size else bytes([0x6C, size])

    def _verify(self, data: bytes) -> bytes:
        if self.attempts == 0:
            return b"\x69\x83"
        if self.pin is None or self._verified:
            return OK
        if data and data == self.pin.encode().ljust(8, b"\xff"):
            self._verified, self.attempts = True, 3
            return OK
        if data:
            self.attempts -= 1
        return bytes([0x63, 0xC0 | self.attempts])

    def _authenticate(self, command: bytes, data: bytes) -> bytes:
        if not self._in_usim or command[3] != 0x81 or len(data) != 34:
            return b"\x6a\x86"
        if self.pin is not None and not self._verified:
            return SECURITY
        result, self.window = authenticate(self.functions, self.window, rand=data[1:17], autn=data[18:34])
        match result:
            case UsimSuccess():
                return self._later(b"\xdb" + b"".join(bytes([len(v)]) + v for v in (result.res, result.ck, result.ik)))
            case UsimSynchronisationFailure():
                return self._later(b"\xdc" + bytes([len(result.auts)]) + result.auts)
        return b"\x98\x62"


@contextlib.contextmanager
def serve(card: UsimCard, port: int) -> Iterator[None]:
    """Put the card into the virtual reader at ``port`` of loopback."""
    reader = socket.create_connection(("127.0.0.1", port), timeout=10)
    reader.settimeout(None)
    serving = threading.Thread(target=_answer, args=(card, reader), daemon=True)
    serving.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            reader.shutdown(socket.SHUT_RDWR)
        serving.join(5)
        reader.close()


def _answer(card: UsimCard, reader: socket.socket) -> None:
    with contextlib.suppress(OSError), reader.makefile("rb") as stream:
        while len(length := stream.read(2)) == 2:
            command = stream.read(int.from_bytes(length, "big"))
            answer: bytes | None = None
            if command == b"\x04":
                answer = ATR
            elif len(command) == 1:  # power off, power on, reset
                card.reset()
            else:
                answer = card.transmit(command)
            if answer is not None:
                reader.sendall(len(answer).to_bytes(2, "big") + answer)
