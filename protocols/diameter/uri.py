"""Transports of Diameter (RFC 6733 §2.1) and DiameterURI (§4.3.1), as Redirect-Host holds it.

Left out: DTLS over SCTP; the schemes' protocol parameter is checked, only ``diameter`` is spoken here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from protocols.errors import DecodeError

PORT = 3868  # RFC 6733 §2.1, TCP and SCTP
TLS_PORT = 5658  # RFC 6733 §2.1, TLS before any message

_URI = re.compile(
    r"(?P<scheme>aaas?)://(?P<host>[a-z0-9](?:[a-z0-9.-]{0,253}[a-z0-9])?)(?::(?P<port>[0-9]{1,5}))?"
    r"(?:;transport=(?P<transport>tcp|sctp|udp))?(?:;protocol=(?P<protocol>diameter|radius|tacacs\+))?",
    re.IGNORECASE | re.ASCII,
)


class Transport(str, Enum):
    """How a connection is made; ``TLS`` is TLS over TCP."""

    TCP = "tcp"
    TLS = "tls"
    SCTP = "sctp"

    @property
    def port(self) -> int:
        """Where peers listen (RFC 6733 §2.1)."""
        return TLS_PORT if self is Transport.TLS else PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class DiameterUri:
    """Where a Diameter node is; ``aaas`` over SCTP (DTLS) has no ``Transport`` here."""

    host: str
    port: int
    transport: Transport

    @classmethod
    def parse(cls, text: str) -> DiameterUri:
        """Parse ``aaa://host.example.com:3868;transport=tcp``; ``DecodeError`` for what is none or not spoken here."""
        found = _URI.fullmatch(text)
        if found is None:
            raise DecodeError(f"{text[:100]!r} is no DiameterURI")
        secure = found["scheme"].lower() == "aaas"
        transport = (found["transport"] or "tcp").lower()
        if (found["protocol"] or "diameter").lower() != "diameter" or transport == "udp":
            raise DecodeError(f"{text[:100]!r} is not of Diameter over TCP or SCTP")
        if secure and transport == "sctp":
            raise DecodeError(f"{text[:100]!r} wants DTLS, which is not spoken here")
        kind = Transport.TLS if secure else Transport(transport)
        port = int(found["port"]) if found["port"] else kind.port
        if not 0 < port < 65536:
            raise DecodeError(f"{text[:100]!r} has no port")
        return cls(host=found["host"].lower(), port=port, transport=kind)
