"""The equipment list: which devices may attach (white, grey, black lists of an EIR, TS 22.016 §3.3).

The identity is the IMEI or IMEISV in Terminal-Information of the DER (TS 29.273 §7.2.2.1.1). A device on the
black list is refused with DIAMETER_ERROR_ILLEGAL_EQUIPMENT (5554 of 3GPP), as after an EIR's answer on S13';
one on the grey list is let in and noted. Pure functions: who asks records what they say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

IMEI_LENGTH = 14  # TAC of 8 and serial number of 6 digits; the check digit or the SVN behind it counts for nothing
_PATTERN = re.compile(r"[0-9]{14,16}\Z|[0-9]{1,13}\*\Z|\*\Z")


class EquipmentStatus(str, Enum):
    """Equipment-Status (TS 29.272 §7.3.51), in the words of TS 22.016."""

    WHITE = "white"
    GREY = "grey"
    BLACK = "black"


@dataclass(frozen=True, kw_only=True, slots=True)
class EquipmentList:
    """What each pattern's devices are; the longest pattern that fits decides.

    A pattern is an IMEI, or the beginning of one and ``*``: eight digits of it are a TAC. ``unknown`` is for
    devices that no pattern names, ``unidentified`` for a UE that told no IMEI.
    """

    patterns: Mapping[str, EquipmentStatus] = field(default_factory=dict)
    unknown: EquipmentStatus = EquipmentStatus.WHITE
    unidentified: EquipmentStatus = EquipmentStatus.WHITE

    def status(self, imei: str | None) -> EquipmentStatus:
        """What the device is."""
        if imei is None:
            return self.unidentified
        digits = imei[:IMEI_LENGTH]
        found = self.patterns.get(digits)
        for length in range(len(digits), -1, -1):
            if found is not None:
                break
            found = self.patterns.get(digits[:length] + "*")
        return self.unknown if found is None else found


ANY_EQUIPMENT = EquipmentList()


@dataclass(frozen=True, kw_only=True, slots=True)
class EquipmentFinding:
    """What was found: whether to refuse, and one sentence where somebody wants to know."""

    status: EquipmentStatus
    refused: bool
    text: str | None


def check_equipment(equipment: EquipmentList, imei: str | None, *, bound: str | None = None) -> EquipmentFinding:
    """Judge a device; ``bound`` is the IMEI of the only one that the subscription may be used in."""
    status = equipment.status(imei)
    shown = f"with IMEI {imei}" if imei is not None else "that told no IMEI"
    if status is EquipmentStatus.BLACK:
        return EquipmentFinding(status=status, refused=True, text=f"A device {shown} is on the black list.")
    if bound is not None and (imei is None or imei[:IMEI_LENGTH] != bound[:IMEI_LENGTH]):
        return EquipmentFinding(
            status=status, refused=True, text=f"A device {shown} uses a subscription that is bound to another one."
        )
    if status is EquipmentStatus.GREY:
        return EquipmentFinding(status=status, refused=False, text=f"A device {shown} is on the grey list.")
    return EquipmentFinding(status=status, refused=False, text=None)


def parse_pattern(text: str) -> str:
    """A pattern as the list has it, 14 digits or a prefix; ``ValueError``."""
    if not _PATTERN.match(text):
        raise ValueError("an IMEI of 14 to 16 digits, or the beginning of one and *, such as 35693803*")
    return text if text.endswith("*") else text[:IMEI_LENGTH]


def parse_list(text: str) -> tuple[str, ...]:
    """The patterns in a file: one on each line; ``#`` begins a remark, empty lines are skipped; ``ValueError``."""
    found: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        pattern = line.partition("#")[0].strip()
        if pattern:
            try:
                found.append(parse_pattern(pattern))
            except ValueError as error:
                raise ValueError(f"{error}, in line {number}") from None
    return tuple(found)
