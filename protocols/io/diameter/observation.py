"""What a Diameter node shows: its traffic as trace records, its peers' comings and goings, their status."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocols.diameter.codec import DiameterMessage, redact
from protocols.diameter.events import Direction, DropReason
from protocols.diameter.framing import VERSION
from protocols.diameter.uri import Transport
from protocols.path import Endpoint
from protocols.trace.records import JsonValue, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """One message, or octets that are none (``message`` None, ``dropped`` says why), as it crossed the transport.

    Over TLS ``octets`` are those inside it.
    """

    direction: Direction
    local: Endpoint
    remote: Endpoint
    peer: str | None
    octets: bytes
    message: DiameterMessage | None
    transport: Transport = Transport.TCP
    dropped: DropReason | None = None

    def records(self, *, interface: str = "SWm", export_keys: bool = False) -> list[tuple[Kind, dict[str, JsonValue]]]:
        """Bodies for the trace; without ``export_keys`` secret AVPs are zeroed in the octets, dropped ones too."""
        # A message that came in half or is too long holds keys as well as a whole one; what is no Diameter has none
        is_diameter = self.message is not None or self.octets[:1] == bytes([VERSION])
        octets = redact(self.octets) if is_diameter and not export_keys else self.octets
        bodies: list[tuple[Kind, dict[str, JsonValue]]] = [
            (
                Kind.DATAGRAM,
                {
                    "direction": self.direction.value,
                    "transport": self.transport.value,
                    "local": str(self.local),
                    "remote": str(self.remote),
                    "payload": octets.hex(),
                    "protocol": "unknown" if self.message is None else "diameter",
                },
            )
        ]
        if self.message is not None:
            bodies.append(
                (
                    Kind.MESSAGE,
                    {
                        "protocol": "diameter",
                        "direction": self.direction.value,
                        "interface": interface,
                        "peer": self.peer or str(self.remote),
                        "name": self.message.name,
                        "summary": self.message.summary(),
                        "detail": {**self.message.detail(), "end_to_end": self.message.end_to_end},
                        "retransmission": self.message.retransmitted,
                    },
                )
            )
        return bodies


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerChange:
    """A peer came up, left or returned to service, or went down."""

    peer: str | None
    local: Endpoint
    remote: Endpoint
    is_up: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """What is known of one peer; of a configured one also while there is no connection.

    ``tls`` is the version in use; ``failovers`` are requests that were repeated to others.
    """

    host: str | None
    realm: str | None = None
    state: str
    watchdog: str | None = None
    local: Endpoint | None = None
    remote: Endpoint | None = None
    accepted: bool = False
    applications: tuple[int, ...] = ()
    pending_requests: int = 0
    sent: dict[str, int] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    last_error: str | None = None
    transport: str = "tcp"
    tls: str | None = None
    in_service: bool = False
    priority: int = 0
    weight: int = 1
    failovers: int = 0

    def to_json(self) -> dict[str, JsonValue]:
        """The status for the control interface."""
        return {
            "host": self.host,
            "realm": self.realm,
            "state": self.state,
            "watchdog": self.watchdog,
            "local": None if self.local is None else str(self.local),
            "remote": None if self.remote is None else str(self.remote),
            "accepted": self.accepted,
            "applications": list(self.applications),
            "pending_requests": self.pending_requests,
            "sent": dict(self.sent),
            "received": dict(self.received),
            "dropped": dict(self.dropped),
            "last_error": self.last_error,
            "transport": self.transport,
            "tls": self.tls,
            "in_service": self.in_service,
            "priority": self.priority,
            "weight": self.weight,
            "failovers": self.failovers,
        }
