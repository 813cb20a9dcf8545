"""Diameter over TCP, TLS and SCTP with asyncio (RFC 6733 §2.1, §5, §6): a node with its peers, requests and handlers.

The node connects to configured peers and connects again when a connection ends, accepts peers, routes
requests, follows redirects and serves received requests. Left out: DTLS, relaying.
"""

from protocols.diameter.dictionary import DisconnectCause
from protocols.diameter.identity import S6B, SWM, SWX, Application, DiameterIdentity
from protocols.diameter.uri import PORT
from protocols.io.diameter.link import PeerAddress
from protocols.io.diameter.node import DiameterNode
from protocols.io.diameter.observation import PeerChange, PeerStatus, Traffic

__all__ = [
    "PORT",
    "S6B",
    "SWM",
    "SWX",
    "Application",
    "DiameterIdentity",
    "DiameterNode",
    "DisconnectCause",
    "PeerAddress",
    "PeerChange",
    "PeerStatus",
    "Traffic",
]
