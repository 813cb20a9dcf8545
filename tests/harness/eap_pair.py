"""The EAP server and the EAP peer against each other, over several authentications and a link that may do anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from protocols.algorithms.milenage import Milenage
from protocols.algorithms.sqn import SqnScheme, SqnState
from protocols.algorithms.vector import AMF_SEPARATION, AkaVector, generate_vector, verify_auts
from protocols.eap.aka import peer as peer_side
from protocols.eap.aka import server as server_side
from protocols.eap.aka.keys import prime_vector
from protocols.eap.aka.outcome import PacketToSend
from protocols.eap.aka.server import EapAkaServer, ServerOptions
from protocols.eap.aka.temporary import KeyRing, ReauthenticationContext
from protocols.eap.observation import eap_body
from protocols.entropy import SeededEntropy
from protocols.errors import AuthenticationError
from tests.harness.aka_server import IMSI, NAI, OPC, K
from ue.usim import SoftwareUsim

Link = Callable[[bytes], Iterable[bytes]]
"""What a link makes of a packet: itself, another, several, none."""

PACKETS_MAXIMUM = 100


def faithful(packet: bytes) -> Iterable[bytes]:
    """A link that alters nothing."""
    return (packet,)


@dataclass
class Outcome:
    """One authentication: what both ends reported, and every packet as it was sent."""

    server: server_side.Succeeded | server_side.Failed | None = None
    peer: peer_side.Succeeded | peer_side.Failed | None = None
    transcript: list[bytes] = field(default_factory=list)
    server_events: list[server_side.ServerEvent] = field(default_factory=list)
    peer_events: list[peer_side.PeerEvent] = field(default_factory=list)

    @property
    def narrative(self) -> list[str]:
        """The exchange in the RFC's words."""
        return [str(eap_body(packet, direction="", interface="", peer="")["summary"]) for packet in self.transcript]

    def succeeded(self) -> peer_side.Succeeded:
        """The peer's success, which must be the server's with the same keys."""
        assert isinstance(self.server, server_side.Succeeded), self.server
        assert isinstance(self.peer, peer_side.Succeeded), self.peer
        assert (self.server.msk, self.server.emsk) == (self.peer.msk, self.peer.emsk)
        assert (self.server.method, self.server.fast) == (self.peer.method, self.peer.fast)
        assert self.server.identity == self.peer.identity
        return self.peer


@dataclass
class EapPair:
    """A subscriber with its USIM and a home network, both of which remember."""

    server_options: ServerOptions = field(default_factory=ServerOptions)
    peer_options: peer_side.PeerOptions | None = None
    usim: SoftwareUsim = field(default_factory=lambda: SoftwareUsim(imsi=IMSI, k=K, opc=OPC))
    amf: bytes = AMF_SEPARATION
    downlink: Link = faithful
    uplink: Link = faithful
    held: peer_side.TemporaryIdentities = field(default_factory=peer_side.TemporaryIdentities)
    contexts: dict[str, ReauthenticationContext] = field(default_factory=dict)
    ring: KeyRing = field(default_factory=lambda: KeyRing.of(SeededEntropy("ring")))
    sqn: SqnState = field(default_factory=SqnState)

    def __post_init__(self) -> None:
        self._algorithm = Milenage(K, opc=OPC)
        self._entropy = SeededEntropy("both")
        self.challenges = 0

    def run(self, nai: str = NAI) -> Outcome:
        """One authentication, begun by the identity of IDi; ends where nobody has anything to say."""
        outcome = Outcome()
        server = EapAkaServer(entropy=self._entropy, options=self.server_options, ring=self.ring)
        peer = peer_side.EapAkaPeer(
            nai=nai, imsi=IMSI, entropy=self._entropy, options=self.peer_options, held=self.held
        )
        peer.identity_given()
        server.start(peer.identity.encode())
        while len(outcome.transcript) < PACKETS_MAXIMUM:
            if (event := server.poll_event()) is not None:
                outcome.server_events.append(event)
                self._of_server(event, server, peer, outcome)
            elif (heard := peer.poll_event()) is not None:
                outcome.peer_events.append(heard)
                self._of_peer(heard, server, peer, outcome)
            else:
                break
        return outcome

    def _of_server(
        self, event: server_side.ServerEvent, server: EapAkaServer, peer: peer_side.EapAkaPeer, outcome: Outcome
    ) -> None:
        match event:
            case server_side.VectorRequested():
                server.answer_vector(self._vector(event))
            case server_side.ContextRequested():
                server.answer_context(self.contexts.pop(event.username, None))
            case server_side.Authenticated():
                server.authorise()
            case server_side.Succeeded() | server_side.Failed():
                outcome.server = event
                if isinstance(event, server_side.Succeeded) and event.context is not None:
                    self.contexts[event.context.username] = event.context
                self._carry(event.packet, self.downlink, peer.receive, outcome)
            case PacketToSend():
                self._carry(event.packet, self.downlink, peer.receive, outcome)

    def _of_peer(
        self, event: peer_side.PeerEvent, server: EapAkaServer, peer: peer_side.EapAkaPeer, outcome: Outcome
    ) -> None:
        match event:
            case peer_side.ChallengeReceived():
                self.challenges += 1
                peer.answer(self.usim.authenticate(event.rand, event.autn))
            case peer_side.TemporaryIdentitiesChanged():
                self.held = event.held
            case peer_side.Succeeded() | peer_side.Failed():
                outcome.peer = event
            case PacketToSend():
                self._carry(event.packet, self.uplink, server.receive, outcome)

    @staticmethod
    def _carry(packet: bytes, link: Link, receive: Callable[[bytes], None], outcome: Outcome) -> None:
        outcome.transcript.append(packet)
        for arriving in link(packet):
            receive(arriving)

    def _vector(self, request: server_side.VectorRequested) -> AkaVector:
        again = request.resynchronisation
        if again is not None:
            try:
                sqn_ms = verify_auts(self._algorithm, rand=again.rand, auts=again.auts)
                self.sqn = SqnScheme().resynchronised(self.sqn, sqn_ms)
            except AuthenticationError:
                pass  # the next vector is as good as the last
        sqn, self.sqn = SqnScheme().next(self.sqn)
        rand = self._entropy.octets(16)
        vector = generate_vector(self._algorithm, rand=rand, sqn=sqn, amf=self.amf)
        return vector if request.network_name is None else prime_vector(vector, request.network_name)
