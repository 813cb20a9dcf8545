"""A Diameter node made and opened as its configuration says."""

from __future__ import annotations

import time
from collections.abc import Callable

from protocols.diameter.identity import DiameterIdentity
from protocols.diameter.uri import Transport
from protocols.entropy import Entropy
from protocols.io.diameter.configuration import DiameterNodeSection, ListenSection
from protocols.io.diameter.link import PeerAddress
from protocols.io.diameter.node import DiameterNode
from protocols.io.diameter.tls import TlsContexts
from protocols.io.streams import StreamBinder, listening_socket


def make_node(
    identity: DiameterIdentity,
    section: DiameterNodeSection,
    *,
    listen: ListenSection | None = None,
    entropy: Entropy | None = None,
    wall: Callable[[], float] = time.time,
    bind: StreamBinder = listening_socket,
) -> DiameterNode:
    """A node with the section's limits and certificates; ``ConfigurationError`` for files that are none."""
    tls = section.tls
    known_peers = None if listen is None else listen.known_peers
    return DiameterNode(
        identity,
        entropy=entropy,
        wall=wall,
        known_peers=None if known_peers is None else frozenset(known_peers),
        watchdog_interval=section.watchdog_interval,
        message_length_limit=section.limits.message_length,
        requests_limit=section.limits.requests,
        answers_limit=section.limits.answers,
        tls=None if tls is None else TlsContexts.load(chain=tls.chain, key=tls.key, authority=tls.authority),
        bind=bind,
    )


async def open_node(
    node: DiameterNode, section: DiameterNodeSection, listen: ListenSection | None = None
) -> tuple[str, ...]:
    """Listen, then connect to the peers; where it listens (TCP, TLS, SCTP). ``BackendError`` where it cannot."""
    endpoints: list[str] = []
    if listen is not None:
        ports = {
            Transport.TCP: listen.port,
            Transport.TLS: listen.tls_port,
            Transport.SCTP: listen.sctp_port,
        }
        for transport, port in ports.items():
            if port is not None:
                endpoints.append(str(await node.listen(str(listen.address), port, transport)))
    for peer in section.peers:
        node.add_peer(
            PeerAddress(
                host=peer.host,
                address=str(peer.address),
                port=peer.port or peer.transport.port,
                transport=peer.transport,
                realms=frozenset(peer.realms),
                applications=frozenset(application.identifier for application in peer.applications),
                priority=peer.priority,
                weight=peer.weight,
                on_demand=peer.on_demand,
            )
        )
    return tuple(endpoints)
