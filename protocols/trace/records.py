"""The one trace record type: everything a user sees, exports or is judged by is made of these.

A record is JSON-ready: ``body`` holds only str, int, float, bool, None, lists and dicts of these;
octets are lower-case hex. Bodies by kind:

``datagram``  what crossed a socket: ``direction`` ("in"/"out"), ``transport`` ("udp", "tcp", "tls", "sctp",
    or "ip" for ESP straight on IP, where ``local``/``remote`` are addresses alone), ``local``/``remote``
    ("address:port"), ``payload`` (hex, with the non-ESP marker where it was on the wire; of "tls" what lies
    inside, of "sctp" one message), ``protocol`` ("ikev2"/"esp"/"diameter"/"keepalive"/"unknown").
``message``  a decoded protocol message: ``protocol`` ("ikev2"/"diameter"/"eap"), ``direction``,
    ``interface`` ("SWu"/"SWm"/"SWx"/"S6b"), ``peer`` (address or Diameter identity), ``name`` (e.g. "IKE_AUTH
    request", "DER"), ``summary`` (RFC notation), ``detail`` (dict; of "ikev2" its ``payloads`` are a list of
    every payload, decoded, and its octets: ``ikev2.description``), ``retransmission`` (bool).
``state``  ``machine``, ``old``, ``new``, ``why``.
``keys``  secret: ``table`` ("ikev2"/"esp") and the fields of ``trace.keys``; only with key export on.
``event``  something a person wants to know: ``name`` (e.g. "attached", "moved", "refused",
    "address-update-failed", "detached", "peer-up", "peer-down"), ``text`` (one plain sentence), ``data``.
``command``  ``name``, ``data``: what a node told another part of itself or was told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from protocols.errors import DecodeError, Fact

JsonValue = Fact

STREAMS = frozenset({"tcp", "tls", "sctp"})  # transports with connections


class Kind(str, Enum):
    """The kinds of record."""

    DATAGRAM = "datagram"
    MESSAGE = "message"
    STATE = "state"
    KEYS = "keys"
    EVENT = "event"
    COMMAND = "command"


@dataclass(frozen=True, kw_only=True)
class TraceRecord:
    """One observation; ``sequence`` counts per node, ``monotonic`` and ``wall`` are float seconds."""

    sequence: int
    monotonic: float
    wall: float
    node: str
    kind: Kind
    session: str | None = None
    body: dict[str, JsonValue] = field(default_factory=dict)

    def to_json(self) -> dict[str, JsonValue]:
        """The record as one flat-keyed JSON object."""
        return {
            "sequence": self.sequence,
            "monotonic": self.monotonic,
            "wall": self.wall,
            "node": self.node,
            "kind": self.kind.value,
            "session": self.session,
            "body": self.body,
        }

    @classmethod
    def from_json(cls, value: JsonValue) -> TraceRecord:
        """The record back from ``to_json``'s object; ``DecodeError`` names what does not fit."""
        if not isinstance(value, dict):
            raise DecodeError("a trace record is a JSON object")
        sequence, monotonic, wall = value.get("sequence"), value.get("monotonic"), value.get("wall")
        node, kind, session, body = (value.get(key) for key in ("node", "kind", "session", "body"))
        if not isinstance(sequence, int) or isinstance(sequence, bool):
            raise DecodeError("trace record: sequence is not a whole number")
        if not isinstance(monotonic, int | float) or not isinstance(wall, int | float):
            raise DecodeError("trace record: monotonic and wall are not both numbers")
        if not isinstance(node, str) or not (session is None or isinstance(session, str)):
            raise DecodeError("trace record: node or session is not text")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise DecodeError(f"trace record: unknown kind {kind!r}")
        if not isinstance(body, dict):
            raise DecodeError("trace record: body is not an object")
        return cls(
            sequence=sequence,
            monotonic=float(monotonic),
            wall=float(wall),
            node=node,
            kind=Kind(kind),
            session=session,
            body=body,
        )


_KINDS = frozenset(kind.value for kind in Kind)
