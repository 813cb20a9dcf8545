"""A USIM on a card, as APDUs (TS 102 221, TS 31.102): octets out, octets in, no reader.

Every procedure is a generator: it yields a command APDU and is sent the response, data and status word::

    SELECT MF, EF.DIR; READ RECORD        the AID of the USIM
    SELECT ADF.USIM                       by that AID
    VERIFY PIN                            where the card asks for it, never with the last attempt
    SELECT, READ BINARY  EF.IMSI, EF.AD   who the subscriber is, how long its MNC
    AUTHENTICATE                          3G context: DB RES CK IK, or DC AUTS

Left out: GSM context, ISIM, secure messaging, several logical channels.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from protocols.algorithms.usim import UsimReject, UsimResult, UsimSuccess, UsimSynchronisationFailure
from protocols.errors import BackendError
from protocols.threegpp.identity import Imsi

USIM_AID = bytes.fromhex("a0000000871002")  # TS 101 220 Annex E: RID of 3GPP, application 1002
MF, EF_DIR, EF_IMSI, EF_AD = 0x3F00, 0x2F00, 0x6F07, 0x6FAD
PIN_LENGTHS = range(4, 9)
_PIN_PADDED = 8
_PIN_1 = 0x01  # TS 102 221 §9.5.1: PIN Appl 1
_RECORDS_MAXIMUM = 254
_SW_OK = 0x9000
_SW_SECURITY = 0x6982
_SW_BLOCKED = frozenset({0x6983, 0x63C0})
_SW_NOT_FOUND = frozenset({0x6A82, 0x6A83})
_SW_WRONG_MAC = 0x9862  # TS 31.102 §7.3.1
_TAG_SUCCESS, _TAG_SYNCHRONISATION = 0xDB, 0xDC  # §7.1.2.1
_WORDS = {
    _SW_SECURITY: "the card wants its PIN (usim.card.pin)",
    0x6984: "the PIN is disabled",
    0x6985: "conditions of use not satisfied",
    0x6A82: "no such file",
    0x6A86: "incorrect parameters",
    0x6D00: "instruction not supported",
    0x6E00: "class not supported",
    0x9864: "security context not supported",
}


class CardError(BackendError):
    """The card says no, or something that no USIM says."""


@dataclass(frozen=True, slots=True)
class Response:
    """Data and status word of a response APDU."""

    data: bytes
    status: int

    def require(self, what: str) -> bytes:
        """The data of a command that went well; ``CardError`` in plain words."""
        if self.status != _SW_OK:
            words = _WORDS.get(self.status)
            raise CardError(f"{what}: status {self.status:04X}" + ("" if words is None else f", {words}"))
        return self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class CardIdentity:
    """Who the subscriber is; ``mnc_length`` is ``None`` where the card does not tell."""

    imsi: Imsi
    mnc_length: int | None


T = TypeVar("T")
Procedure = Generator[bytes, bytes, T]


def run(procedure: Procedure[T], transmit: Callable[[bytes], bytes]) -> T:
    """Carry a procedure out over ``transmit``, command APDU to response APDU."""
    try:
        command = next(procedure)
        while True:
            command = procedure.send(transmit(command))
    except StopIteration as done:
        result: T = done.value
        return result


def identify(pin: str | None) -> Procedure[CardIdentity]:
    """Select the USIM, give the PIN where it is wanted, read EF.IMSI and EF.AD (TS 31.102 §4.2.2, §4.2.18)."""
    aid = yield from _find_usim()
    (yield from _select_application(aid)).require("SELECT ADF.USIM")
    if pin is not None:
        yield from _verify(pin)
    imsi = _imsi((yield from _read_binary(EF_IMSI, "EF.IMSI")))
    administrative = yield from _read_binary(EF_AD, "EF.AD")
    length = administrative[3] & 0x0F if len(administrative) > 3 else 0
    return CardIdentity(imsi=imsi, mnc_length=length if length in (2, 3) else None)


def authenticate(rand: bytes, autn: bytes) -> Procedure[UsimResult]:
    """AUTHENTICATE in 3G security context (TS 31.102 §7.1.2.1), with the USIM selected."""
    data = bytes([len(rand)]) + rand + bytes([len(autn)]) + autn
    response = yield from _exchange(bytes([0x00, 0x88, 0x00, 0x81, len(data)]) + data + b"\x00")
    if response.status == _SW_WRONG_MAC:
        return UsimReject("the card says: incorrect MAC in AUTN (status 9862)")
    answer = response.require("AUTHENTICATE")
    fields = _fields(answer[1:])
    if answer[:1] == bytes([_TAG_SYNCHRONISATION]) and fields and len(fields[0]) == 14:
        return UsimSynchronisationFailure(fields[0])
    if answer[:1] == bytes([_TAG_SUCCESS]) and len(fields) >= 3:
        res, ck, ik = fields[:3]
        if 4 <= len(res) <= 16 and len(ck) == len(ik) == 16:
            return UsimSuccess(res=res, ck=ck, ik=ik)
    raise CardError(f"AUTHENTICATE: an answer of {len(answer)} octets that is no RES, CK, IK and no AUTS")


def _find_usim() -> Procedure[bytes]:
    """The AID of the first USIM in EF.DIR (TS 102 221 §13.1); by its first octets where the card has no EF.DIR."""
    (yield from _select_file(MF)).require("SELECT MF")
    selected = yield from _select_file(EF_DIR)
    if selected.status in _SW_NOT_FOUND:
        return USIM_AID
    length = _record_length(selected.require("SELECT EF.DIR"))
    for number in range(1, _RECORDS_MAXIMUM + 1):
        record = yield from _exchange(bytes([0x00, 0xB2, number, 0x04, length]))
        if record.status in _SW_NOT_FOUND:
            break
        template = _tlv(record.require("READ RECORD EF.DIR")).get(0x61, b"")
        aid = _tlv(template).get(0x4F, b"")
        if aid.startswith(USIM_AID):
            return aid
    raise CardError("the card has no USIM: EF.DIR names none")


def _verify(pin: str) -> Procedure[None]:
    """VERIFY PIN (TS 102 221 §11.1.9), once it is known that the card wants it and that attempts are left."""
    asked = yield from _exchange(bytes([0x00, 0x20, 0x00, _PIN_1]))
    if asked.status in (_SW_OK, 0x6984):  # verified already, or disabled
        return
    left = asked.status & 0x0F if asked.status & 0xFFF0 == 0x63C0 else None
    if asked.status in _SW_BLOCKED:
        raise CardError("the card's PIN is blocked; its PUK unblocks it elsewhere")
    if left == 1:
        raise CardError("the card leaves one attempt at its PIN: it is not risked here")
    octets = pin.encode("ascii").ljust(_PIN_PADDED, b"\xff")
    answer = yield from _exchange(bytes([0x00, 0x20, 0x00, _PIN_1, len(octets)]) + octets)
    if answer.status & 0xFFF0 == 0x63C0:
        raise CardError(f"the card refuses the PIN; {answer.status & 0x0F} attempt(s) left")
    answer.require("VERIFY PIN")


def _select_file(identifier: int) -> Procedure[Response]:
    """SELECT by file identifier, FCP wanted (TS 102 221 §11.1.1)."""
    return (yield from _exchange(bytes([0x00, 0xA4, 0x00, 0x04, 0x02]) + identifier.to_bytes(2, "big") + b"\x00"))


def _select_application(aid: bytes) -> Procedure[Response]:
    return (yield from _exchange(bytes([0x00, 0xA4, 0x04, 0x04, len(aid)]) + aid + b"\x00"))


def _read_binary(identifier: int, name: str) -> Procedure[bytes]:
    fcp = (yield from _select_file(identifier)).require(f"SELECT {name}")
    size = int.from_bytes(_tlv(_tlv(fcp).get(0x62, b"")).get(0x80, b""), "big")
    return (yield from _exchange(bytes([0x00, 0xB0, 0x00, 0x00, min(size, 255)]))).require(f"READ BINARY {name}")


def _exchange(command: bytes) -> Procedure[Response]:
    """A command; more of an answer is fetched (61 xx), a length corrected (6C xx) (TS 102 221 §7.3.1.1)."""
    data = b""
    for _ in range(16):  # a card that always has more is none
        octets = yield command
        if len(octets) < 2:
            raise CardError(f"the card answers {len(octets)} octet(s), not even a status word")
        first, second = octets[-2:]
        data += octets[:-2]
        if first == 0x61:
            command = bytes([0x00, 0xC0, 0x00, 0x00, second])
        elif first == 0x6C:
            command = command[:4] + bytes([second]) if len(command) == 5 else command[:-1] + bytes([second])
        else:
            return Response(data, first << 8 | second)
    raise CardError("the card does not come to an end of its answer")


def _tlv(octets: bytes) -> dict[int, bytes]:
    """BER-TLV with tags of one octet; what is cut off or padding (FF) ends it."""
    found: dict[int, bytes] = {}
    position = 0
    while position + 2 <= len(octets) and octets[position] not in (0x00, 0xFF):
        tag, length = octets[position], octets[position + 1]
        position += 2
        if length == 0x81 and position < len(octets):
            length = octets[position]
            position += 1
        found.setdefault(tag, octets[position : position + length])
        position += length
    return found


def _fields(octets: bytes) -> list[bytes]:
    """Length and value, one behind another; ``CardError`` when one is cut off."""
    found: list[bytes] = []
    position = 0
    while position < len(octets):
        end = position + 1 + octets[position]
        if end > len(octets):
            raise CardError("AUTHENTICATE: an answer that is cut off")
        found.append(octets[position + 1 : end])
        position = end
    return found


def _record_length(fcp: bytes) -> int:
    descriptor = _tlv(_tlv(fcp).get(0x62, b"")).get(0x82, b"")
    if len(descriptor) < 4:
        raise CardError("SELECT EF.DIR: a file without records")
    return min(int.from_bytes(descriptor[2:4], "big"), 255)


def _imsi(octets: bytes) -> Imsi:
    """EF.IMSI: length, then digits in nibbles behind the parity one (TS 31.102 §4.2.2)."""
    held = octets[1 : 1 + octets[0]] if octets else b""
    digits = "".join(f"{octet & 0x0F:x}{octet >> 4:x}" for octet in held)[1:].rstrip("f")
    try:
        return Imsi(digits)
    except ValueError:
        raise CardError("EF.IMSI holds no IMSI: the card is not personalised") from None
