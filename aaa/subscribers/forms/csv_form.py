"""CSV in the shape that SIM vendors deliver: ``IMSI,Ki,OPc``, with a header of more columns or without one.

Columns are divided by a comma, a semicolon, a tab or other white space, which the first line tells. Without a header
there are the three; a header may name them in any order and with others, of which those that are not known here
(ICCID, PINs, keys of applets) are not looked at. Hexadecimal may be written with spaces where no space divides.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from aaa.subscribers.document import DocumentError
from aaa.subscribers.forms.entry import Advance, Document, FileProblem
from aaa.subscribers.subscriber import Subscriber
from protocols.algorithms.milenage import derive_opc
from protocols.algorithms.sqn import SQN_BITS
from protocols.algorithms.suite import Algorithm
from protocols.algorithms.tuak import derive_topc
from protocols.secret import Secret

# what a header may call a field, in lower case and without anything but letters and digits
_NAMES = {
    "imsi": "imsi",
    "k": "k",
    "ki": "k",
    "key": "k",
    "op": "op",
    "top": "op",
    "opc": "opc",
    "topc": "opc",
    "msisdn": "msisdn",
    "imei": "imei",
    "algorithm": "algorithm",
    "algo": "algorithm",
    "amf": "amf",
    "sqn": "sqn",
    "apn": "apns",
    "reslength": "res_length",
    "tuakiterations": "tuak_iterations",
    "sqnscheme": "sqn_scheme",
    "indbits": "ind_bits",
}
_HEXADECIMAL = frozenset({"k", "op", "opc", "amf", "sqn"})
_WITHOUT_HEADER = ("imsi", "k", "opc")
_DIVIDERS = (";", ",", "\t")
_COLUMNS = ("imsi", "ki", "opc", "algorithm", "amf", "sqn", "msisdn")


def read_csv(file: Path, advance: Advance = lambda octets: None) -> Iterator[tuple[int, Document | DocumentError]]:
    """Line numbers and documents; ``FileProblem``. ``advance`` is told the octets that each line took."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            yield from _documents(_lines(opened, advance), file)
    except OSError as error:
        raise FileProblem(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise FileProblem(f"{file}: not UTF-8 text") from None


def parse_csv(text: str, name: str) -> Iterator[tuple[int, Document | DocumentError]]:
    """The same of text that is no file; ``name`` is what problems call it."""
    return _documents(_lines(text.splitlines(), lambda octets: None), Path(name))


def _lines(opened: Iterable[str], advance: Advance) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(opened, start=1):
        advance(len(line))
        text = line.strip()
        if text and not text.startswith("#"):
            yield number, text


def _documents(lines: Iterator[tuple[int, str]], file: Path) -> Iterator[tuple[int, Document | DocumentError]]:
    first = next(lines, None)
    if first is None:
        return
    number, text = first
    divider = next((divider for divider in _DIVIDERS if divider in text), None)
    cells = _cells(text, divider)
    fields: list[str | None]
    if any(cell.isdigit() for cell in cells[:1]):
        fields = [*_WITHOUT_HEADER]
        yield number, _document(cells, fields)
    else:
        fields = [_NAMES.get(_plain(cell)) for cell in cells]
        known = [field for field in fields if field is not None]
        if len(set(known)) != len(known) or not {"imsi", "k"} <= set(known):
            # not the line itself: it may be no header, and hold keys
            got = f"{len(cells)} columns that do not begin with digits"
            raise FileProblem(f"{file}:{number}: got {got}, expected IMSI,Ki,OPc or a header that has IMSI and Ki")
    for number, text in lines:
        yield number, _document(_cells(text, divider), fields)


def _cells(text: str, divider: str | None) -> list[str]:
    if divider is None:
        return text.split()
    try:
        return [cell.strip() for cell in next(csv.reader((text,), delimiter=divider, skipinitialspace=True))]
    except csv.Error:
        return []


def _plain(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())


def _document(cells: list[str], fields: list[str | None]) -> Document | DocumentError:
    if len(cells) != len(fields):
        return DocumentError("line", f"{len(cells)} columns", f"{len(fields)} columns")
    document: Document = {}
    for field, cell in zip(fields, cells, strict=True):
        if field is None or not cell:
            continue
        document[field] = "".join(cell.split()) if field in _HEXADECIMAL else cell
    if document.get("algorithm"):
        document["algorithm"] = str(document["algorithm"]).lower()
    if "op" in document and "opc" in document:  # both are often delivered; the one that the card holds is enough
        del document["op"]
    return document


def write_csv(subscribers: Iterable[Subscriber], *, secrets: bool) -> Iterator[str]:
    """Lines with a header; OPc in place of OP. Without ``secrets`` the columns of keys are left out."""
    columns = [column for column in _COLUMNS if secrets or column not in ("ki", "opc")]
    yield ",".join(columns) + "\n"
    for subscriber in subscribers:
        scheme = subscriber.sqn_scheme
        sqn = scheme.compose(subscriber.sequence, subscriber.sequence % scheme.ind_count)
        opc = _opc(subscriber)
        values = {
            "imsi": str(subscriber.imsi),
            "ki": subscriber.k.reveal().hex(),
            "opc": "" if opc is None else opc.reveal().hex(),
            "algorithm": subscriber.algorithm.value,
            "amf": subscriber.amf.hex(),
            "sqn": f"{sqn:0{SQN_BITS // 4}x}",
            "msisdn": subscriber.msisdn or "",
        }
        yield ",".join(values[column] for column in columns) + "\n"


def _opc(subscriber: Subscriber) -> Secret | None:
    if subscriber.opc is not None or subscriber.op is None:
        return subscriber.opc
    if subscriber.algorithm is Algorithm.TUAK:
        return derive_topc(subscriber.k, subscriber.op, iterations=subscriber.tuak_iterations)
    return derive_opc(subscriber.k, subscriber.op)
