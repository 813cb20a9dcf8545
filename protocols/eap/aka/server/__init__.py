"""The EAP server's end of EAP-AKA (RFC 4187) and EAP-AKA' (RFC 9048), a pure machine."""

from protocols.eap.aka.outcome import AkaFailure, PacketDiscarded, PacketToSend
from protocols.eap.aka.server.events import (
    Authenticated,
    ContextRequested,
    Failed,
    IdentityRequest,
    Resynchronisation,
    ServerEvent,
    ServerOptions,
    Succeeded,
    VectorRequested,
)
from protocols.eap.aka.server.machine import EapAkaServer

__all__ = [
    "AkaFailure",
    "Authenticated",
    "ContextRequested",
    "EapAkaServer",
    "Failed",
    "IdentityRequest",
    "PacketDiscarded",
    "PacketToSend",
    "Resynchronisation",
    "ServerEvent",
    "ServerOptions",
    "Succeeded",
    "VectorRequested",
]
