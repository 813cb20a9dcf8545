"""Files of authentication vectors: what a USIM, or an HSS, answers from when nobody may know K.

YAML (JSON is YAML too), CSV, or the output of ``osmo-auc-gen``, any number of its vectors one behind another::

    imsi: "001010000000001"            # optional: the file is for this subscriber only
    vectors:
      - {rand: 32 hex digits, autn: 32, res: 8 to 32, ck: 32, ik: 32}
      - {rand: …, autn: …, res: …, ck: …, ik: …, auts: 28 hex digits}    # auts: the answer to a repetition
      - {rand: …, autn: …, outcome: sync-failure, auts: 28 hex digits}
      - {rand: …, autn: …, outcome: mac-failure}

The first line of CSV has these names. ``xres`` is another name of ``res``; other lines of osmo-auc-gen are skipped.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator
from pydantic_core import PydanticCustomError

from protocols.algorithms.vector import AUTN_LENGTH, AUTS_LENGTH, RAND_LENGTH, AkaVector
from protocols.errors import ConfigurationError
from protocols.io.configuration import ConfigurationModel, Digits, HexSecret, Key128, parse
from protocols.io.documents import file_text
from protocols.io.durable import replace_file

CSV_SUFFIX = ".csv"
_RES_LENGTHS = range(4, 17)  # octets (TS 33.102 §6.3.7)
_OSMO_LINE = re.compile(r"^(RAND|AUTN|RES|CK|IK|AUTS|IMSI):\s*([0-9A-Fa-f]+)\s*$", re.MULTILINE)
_USED = "used"


class VectorOutcome(str, Enum):
    """What the USIM says to RAND and AUTN."""

    SUCCESS = "success"
    MAC_FAILURE = "mac-failure"
    SYNC_FAILURE = "sync-failure"


def _octets(length: int) -> BeforeValidator:
    def parsed(value: object) -> bytes:
        if isinstance(value, bytes):
            return value
        text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        try:
            octets = bytes.fromhex(text)
        except ValueError:
            octets = b""
        if len(octets) != length:
            raise PydanticCustomError("octets", "{digits} hexadecimal digits", {"digits": 2 * length})
        return octets

    return BeforeValidator(parsed)


_HEX = PlainSerializer(lambda value: None if value is None else value.hex())
Rand = Annotated[bytes, _octets(RAND_LENGTH), _HEX]
Autn = Annotated[bytes, _octets(AUTN_LENGTH), _HEX]
Auts = Annotated[bytes, _octets(AUTS_LENGTH), _HEX]


class VectorEntry(ConfigurationModel):
    """RAND and AUTN, and what the USIM answers."""

    rand: Rand
    autn: Autn
    outcome: VectorOutcome = VectorOutcome.SUCCESS
    res: HexSecret | None = None
    ck: Key128 | None = None
    ik: Key128 | None = None
    auts: Auts | None = None

    @model_validator(mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        if isinstance(value, dict) and "xres" in value and "res" not in value:
            return {("res" if name == "xres" else name): each for name, each in value.items()}
        return value

    @model_validator(mode="after")
    def _complete(self) -> VectorEntry:
        if self.outcome is VectorOutcome.SUCCESS and (self.res is None or self.ck is None or self.ik is None):
            raise PydanticCustomError("vector", "res, ck and ik, or an outcome of mac-failure or sync-failure")
        if self.res is not None and len(self.res.reveal()) not in _RES_LENGTHS:
            raise PydanticCustomError("vector", "res of 8 to 32 hexadecimal digits")
        if self.outcome is VectorOutcome.SYNC_FAILURE and self.auts is None:
            raise PydanticCustomError("vector", "auts, which sync-failure needs")
        return self

    @property
    def vector(self) -> AkaVector | None:
        """The quintet, of an entry that has one."""
        if self.outcome is not VectorOutcome.SUCCESS or self.res is None or self.ck is None or self.ik is None:
            return None
        return AkaVector(
            rand=self.rand, autn=self.autn, xres=self.res.reveal(), ck=self.ck.reveal(), ik=self.ik.reveal()
        )


class VectorFile(ConfigurationModel):
    """A file's contents; every RAND once."""

    imsi: Digits | None = Field(default=None, pattern=r"^[0-9]{6,15}$")
    vectors: tuple[VectorEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> VectorFile:
        if len({entry.rand for entry in self.vectors}) != len(self.vectors):
            raise PydanticCustomError("vectors", "every RAND once")
        return self


def load_vectors(path: Path) -> VectorFile:
    """Read a file of vectors; ``ConfigurationError`` on the first thing wrong."""
    text = file_text(path)
    if path.suffix.lower() == CSV_SUFFIX:
        text = _from_csv(text, path)
    elif re.search(r"^RAND:", text, re.MULTILINE):
        text = _from_osmo(text)
    return parse(text, VectorFile, file=str(path), directory=path.parent)


def write_vectors(path: Path, imsi: str, vectors: Iterable[AkaVector]) -> None:
    """Write a file of vectors for its owner only; ``BackendError``."""
    lines = [f'imsi: "{imsi}"', "vectors:"]
    for each in vectors:
        named = {"rand": each.rand, "autn": each.autn, "res": each.xres, "ck": each.ck, "ik": each.ik}
        lines.append("  - {" + ", ".join(f'{name}: "{value.hex()}"' for name, value in named.items()) + "}")
    replace_file(path, "\n".join(lines) + "\n")


class UsedVectors:
    """Which vectors of a file were used, in a file of its own: none is used twice, restart or not."""

    def __init__(self, path: Path) -> None:
        """``ConfigurationError`` when the file is not one that this class wrote."""
        self._path = path
        self._used: set[str] = set()
        if not path.exists():
            return
        text = file_text(path)
        try:
            self._used = {str(rand) for rand in json.loads(text)[_USED]}
        except (ValueError, KeyError, TypeError) as error:
            expected = "RANDs that were used; without the file all vectors count as new"
            raise ConfigurationError(file=str(path), key=_USED, value=text[:40], expected=expected) from error

    def __contains__(self, rand: bytes) -> bool:
        return rand.hex() in self._used

    def add(self, rand: bytes) -> None:
        """On return it is on disk that the vector is used; ``BackendError``."""
        used = self._used | {rand.hex()}
        replace_file(self._path, json.dumps({_USED: sorted(used)}))
        self._used = used


def _from_csv(text: str, path: Path) -> str:
    rows: list[dict[str, str]] = []
    imsi: str | None = None
    try:
        for row in csv.DictReader(io.StringIO(text), skipinitialspace=True):
            # values beyond the first line's names come as one list, under no name
            named = {str(name).strip().lower(): str(value or "").strip() for name, value in row.items()}
            imsi = named.pop("imsi", "") or imsi
            rows.append({name: value for name, value in named.items() if value})
    except csv.Error as error:
        expected = "CSV whose first line has the names"
        raise ConfigurationError(file=str(path), key="(syntax)", value=str(error), expected=expected) from error
    return json.dumps({"vectors": rows} if imsi is None else {"imsi": imsi, "vectors": rows})


def _from_osmo(text: str) -> str:
    """Lines ``NAME: hexadecimal digits``; RAND begins a vector."""
    found: list[dict[str, str]] = []
    contents: dict[str, object] = {"vectors": found}
    for name, value in _OSMO_LINE.findall(text):
        if name == "IMSI":
            contents["imsi"] = value
        elif name == "RAND":
            found.append({"rand": value})
        elif found:
            found[-1][name.lower()] = value
    return json.dumps(contents)
