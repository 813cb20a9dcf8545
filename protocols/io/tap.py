"""The tap on a socket: what crossed it becomes datagram records.

A driver or link calls ``udp``, ``ip`` or ``tcp`` for everything it receives or sends, exactly as it is
on the wire (with the non-ESP marker of RFC 3948 §2.2 where the port carries it).
"""

from __future__ import annotations

from typing import Literal

from protocols.path import Address, Endpoint, Path
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue, Kind

Direction = Literal["in", "out"]

NON_ESP_MARKER = bytes(4)  # RFC 3948 §2.2
NAT_KEEPALIVE = b"\xff"  # RFC 3948 §2.3


def classify_udp(octets: bytes, *, encapsulating: bool) -> str:
    """The ``protocol`` of a UDP payload; ``encapsulating`` ports carry the marker (RFC 3948 §2)."""
    if octets == NAT_KEEPALIVE:
        return "keepalive"
    if encapsulating:
        if octets.startswith(NON_ESP_MARKER):
            return "ikev2" if len(octets) >= 4 + 28 else "unknown"
        return "esp" if len(octets) > 8 else "unknown"
    return "ikev2" if len(octets) >= 28 else "unknown"


class DatagramTap:
    """Records the traffic of a node's sockets; of each datagram only what has to be kept until somebody looks."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def udp(
        self,
        direction: Direction,
        path: Path,
        octets: bytes,
        *,
        encapsulating: bool,
        session: str | None = None,
    ) -> None:
        """A UDP payload with its marker; ``encapsulating`` on port 4500 and its stand-ins."""
        if self._recorder.enabled:
            self._recorder.record_later(
                Kind.DATAGRAM, _udp, direction, path.local, path.remote, octets, encapsulating, session=session
            )

    def ip(
        self,
        direction: Direction,
        local: Address,
        remote: Address,
        octets: bytes,
        session: str | None = None,
    ) -> None:
        """An ESP packet straight on IP (protocol 50)."""
        if self._recorder.enabled:
            self._recorder.record_later(
                Kind.DATAGRAM, _datagram, direction, "ip", local, remote, octets, "esp", session=session
            )

    def tcp(self, direction: Direction, path: Path, octets: bytes, session: str | None = None) -> None:
        """A piece of a Diameter connection's stream, whole messages or not."""
        if self._recorder.enabled:
            self._recorder.record_later(
                Kind.DATAGRAM,
                _datagram,
                direction,
                "tcp",
                path.local,
                path.remote,
                octets,
                "diameter",
                session=session,
            )


def _udp(
    direction: Direction, local: Endpoint, remote: Endpoint, octets: bytes, encapsulating: bool
) -> dict[str, JsonValue]:
    protocol = classify_udp(octets, encapsulating=encapsulating)
    return _datagram(direction, "udp", local, remote, octets, protocol)


def _datagram(
    direction: Direction,
    transport: str,
    local: Endpoint | Address,
    remote: Endpoint | Address,
    octets: bytes,
    protocol: str,
) -> dict[str, JsonValue]:
    """The body of a datagram record."""
    return {
        "direction": direction,
        "transport": transport,
        "local": str(local),
        "remote": str(remote),
        "payload": octets.hex(),
        "protocol": protocol,
    }
