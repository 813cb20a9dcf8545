"""The tap on a socket: what crossed it becomes datagram records.

A driver or link calls ``udp``, ``ip`` or ``tcp`` for everything it receives or sends, exactly as it is
on the wire (with the non-ESP marker of RFC 3948 §2.2 where the port carries it).
"""

from __future__ import annotations

from typing import Literal

from protocols.path import Address, Path
from protocols.trace.recorder import Recorder
from protocols.trace.records import Kind

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
    """Records the traffic of a node's sockets."""

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
        if not self._recorder.enabled:
            return
        protocol = classify_udp(octets, encapsulating=encapsulating)
        self._record(direction, "udp", str(path.local), str(path.remote), octets, protocol, session)

    def ip(
        self,
        direction: Direction,
        local: Address,
        remote: Address,
        octets: bytes,
        session: str | None = None,
    ) -> None:
        """An ESP packet straight on IP (protocol 50)."""
        if not self._recorder.enabled:
            return
        self._record(direction, "ip", str(local), str(remote), octets, "esp", session)

    def tcp(self, direction: Direction, path: Path, octets: bytes, session: str | None = None) -> None:
        """A piece of a Diameter connection's stream, whole messages or not."""
        self._record(direction, "tcp", str(path.local), str(path.remote), octets, "diameter", session)

    def _record(
        self,
        direction: Direction,
        transport: str,
        local: str,
        remote: str,
        octets: bytes,
        protocol: str,
        session: str | None,
    ) -> None:
        if not self._recorder.enabled:
            return
        self._recorder.record(
            Kind.DATAGRAM,
            {
                "direction": direction,
                "transport": transport,
                "local": local,
                "remote": remote,
                "payload": octets.hex(),
                "protocol": protocol,
            },
            session,
        )
