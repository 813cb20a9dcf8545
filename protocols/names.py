"""Domain names as questions and answers: what a machine asks to be looked up, and what came of it (RFC 1035, RFC 3403).

The machines ask by command; ``protocols.io.dns`` looks up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from protocols.path import Address

ADDRESSES_MAXIMUM = 8  # of one name; more are a mistake or an attack
REPLACEMENTS_MAXIMUM = 16


class RecordKind(str, Enum):
    """Types of resource records that are asked for."""

    A = "A"
    AAAA = "AAAA"
    NAPTR = "NAPTR"

    @classmethod
    def of_version(cls, version: int) -> RecordKind:
        """The one that holds addresses of this IP version."""
        return cls.A if version == 4 else cls.AAAA


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """The answer to a question: addresses, the replacement names of NAPTR records in their order, or why none came.

    Without a ``failure`` and with nothing else the name has no such records, or does not exist.
    """

    name: str
    addresses: tuple[Address, ...] = ()
    replacements: tuple[str, ...] = ()
    failure: str | None = None
