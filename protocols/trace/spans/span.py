"""A span of a distributed trace (OpenTelemetry), and the identifiers that all nodes come to by themselves.

- The trace of a session is ``SHA-256(Session-Id)[:16]``, of the Session-Id on SWm: gateway and AAA server both have it.
- A Session-Id whose optional part (RFC 6733 §8.8, "implementation specific") is ``trace-`` and 32 hexadecimal digits
  belongs to that trace. The AAA server makes those on SWx so while it has telemetry: the HSS has nothing else.
- A span is ``SHA-256(trace ‖ key)[:8]``. The root's key is ``attach``. A Diameter exchange's is its end (``client``,
  ``server``), command and End-to-End Identifier (RFC 6733 §3), so that either end knows the other's.
- A UE's trace is ``SHA-256(SPIi)[:16]`` of its IKE_SA_INIT request, to which the gateway's ``attach`` has a link.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from enum import Enum

ROOT = "attach"
_OPTIONAL = re.compile(r".*;trace-([0-9a-f]{32})", re.ASCII | re.DOTALL)


class Side(str, Enum):
    """Which end of an exchange a span is of."""

    INTERNAL = "internal"
    CLIENT = "client"
    SERVER = "server"


@dataclass(frozen=True, kw_only=True)
class Span:
    """Something that began and ended, wall clock in seconds; ``parent`` is a key, ``link`` another trace's root.

    ``trace`` is empty while it is not known.
    """

    trace: bytes = b""
    key: str
    parent: str | None
    name: str
    side: Side
    start: float
    end: float
    attributes: dict[str, str | int | float] = field(default_factory=dict)
    error: str | None = None
    link: bytes | None = None

    @property
    def identifier(self) -> bytes:
        """Its span id, 8 octets."""
        return span_id(self.trace, self.key)

    @property
    def parent_identifier(self) -> bytes | None:
        """That of its parent."""
        return None if self.parent is None else span_id(self.trace, self.parent)

    def of(self, trace: bytes) -> Span:
        """The same in a trace, unless it has one."""
        return self if self.trace else replace(self, trace=trace)


def trace_of(name: str) -> bytes:
    """The trace id (16 octets) of a Session-Id, or of another name that only one session has."""
    found = _OPTIONAL.fullmatch(name)
    return hashlib.sha256(name.encode()).digest()[:16] if found is None else bytes.fromhex(found[1])


def names_trace(session_id: str) -> bool:
    """Whether a Session-Id says of which trace it is."""
    return _OPTIONAL.fullmatch(session_id) is not None


def optional_part(session_id: str) -> str:
    """What another Session-Id ends in to be of the same trace."""
    return f"trace-{trace_of(session_id).hex()}"


def span_id(trace: bytes, key: str) -> bytes:
    """8 octets."""
    return hashlib.sha256(trace + key.encode()).digest()[:8]
