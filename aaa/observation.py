"""Diameter traffic and peers of this process as trace records: which interface, and whose session."""

from __future__ import annotations

from protocols.diameter.codec import DiameterMessage, RequestError
from protocols.diameter.dictionary import S6B_APPLICATION, SWM_APPLICATION, SWX_APPLICATION
from protocols.io.diameter import PeerChange, Traffic
from protocols.threegpp.identity import Imsi
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

_INTERFACES = {SWM_APPLICATION: "SWm", SWX_APPLICATION: "SWx", S6B_APPLICATION: "S6b"}


class DiameterObservation:
    """Records of one Diameter node; messages of the base protocol belong to the interface of their peer."""

    def __init__(self, recorder: Recorder, *, interface: str) -> None:
        """``interface`` is that of peers that ``place`` says nothing of."""
        self._recorder = recorder
        self._interface = interface
        self._peers: dict[str, str] = {}

    def place(self, peer: str, interface: str) -> None:
        """The peer of this Origin-Host is on ``interface``."""
        self._peers[peer.lower()] = interface

    def traffic(self, traffic: Traffic) -> None:
        """A message, or octets that are none."""
        if not self._recorder.enabled:
            return
        message = traffic.message
        application = None if message is None else message.application
        interface = _INTERFACES.get(application or 0) or self.interface_of(traffic.peer)
        session = None if message is None else _session(message)
        for kind, body in traffic.records(interface=interface, export_keys=self._recorder.export_keys):
            self._recorder.record(kind, body, session)

    def peer(self, change: PeerChange) -> None:
        """A peer came or went."""
        name = "peer-up" if change.is_up else "peer-down"
        data: dict[str, JsonValue] = {"peer": change.peer, "remote": str(change.remote)}
        self._recorder.event(name, f"Diameter peer {change.text}.", data)

    def interface_of(self, peer: str | None) -> str:
        """What is spoken with the peer of this Origin-Host."""
        return self._peers.get((peer or "").lower(), self._interface)


def _session(message: DiameterMessage) -> str | None:
    """The Session-Id; on SWx, where it names no session of a user (TS 29.273 §8.2.2), the IMSI."""
    try:
        if message.application == SWX_APPLICATION:
            user = message.text("User-Name")
            if user is not None:
                return str(Imsi(user))
        return message.session_id
    except (RequestError, ValueError):  # octets that are no text or digits; the answer says so
        return None
