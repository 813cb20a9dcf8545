"""Whoever holds an EAP server in tests: home network, store of contexts, key ring; runs whole exchanges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from protocols.algorithms.vector import AkaVector
from protocols.eap.aka import server as eap
from protocols.eap.aka.messages import NotificationCode
from protocols.eap.aka.outcome import AkaFailure, PacketDiscarded, PacketToSend
from protocols.eap.aka.server import EapAkaServer, ServerOptions
from protocols.eap.aka.temporary import KeyRing, ReauthenticationContext
from protocols.eap.observation import eap_body
from protocols.eap.packet import EapType
from protocols.entropy import SeededEntropy
from protocols.threegpp.identity import Imsi
from tests.harness.eap_by_formula import IMSI, FormulaPeer, vector

AKA, PRIME = EapType.AKA, EapType.AKA_PRIME
BOTH = ServerOptions(methods=(AKA, PRIME))


def only(method: EapType) -> ServerOptions:
    """Options of a server of one method."""
    return ServerOptions(methods=(method,))


@dataclass
class Network:
    """Whoever holds the server: the home network, the store of contexts and the key ring, for several exchanges."""

    options: ServerOptions = BOTH
    ring: KeyRing | None = field(default_factory=lambda: KeyRing.of(SeededEntropy("ring")))
    policy: Callable[[Imsi], ServerOptions] | None = None
    contexts: dict[str, ReauthenticationContext] = field(default_factory=dict)
    vectors: list[eap.VectorRequested] = field(default_factory=list)
    amf: bytes = b"\x80\x00"
    denial: NotificationCode | None = None
    transcript: list[bytes] = field(default_factory=list)
    discarded: int = 0
    entropy: SeededEntropy = field(default_factory=lambda: SeededEntropy("server"))

    def run(self, peer: FormulaPeer, identity: str | None = None) -> eap.Succeeded | eap.Failed:
        """One exchange to its end; a stored context is used once."""
        self.transcript = []
        server = EapAkaServer(entropy=self.entropy, options=self.options, ring=self.ring, policy=self.policy)
        server.start(peer.begin(identity))
        while (event := server.poll_event()) is not None:
            match event:
                case eap.VectorRequested():
                    self.vectors.append(event)
                    server.answer_vector(self.vector(event))
                case eap.ContextRequested():
                    server.answer_context(self.contexts.pop(event.username, None))
                case eap.Authenticated():
                    if self.denial is None:
                        server.authorise()
                    else:
                        server.deny(self.denial, "no subscription")
                case PacketToSend():
                    response = peer.answer(event.packet)
                    self.transcript += [event.packet, response]
                    server.receive(response)
                case PacketDiscarded():
                    self.discarded += 1
                case eap.Succeeded():
                    assert server.concluded
                    if event.context is not None:
                        self.contexts[event.context.username] = event.context
                    return event
                case eap.Failed():
                    assert server.concluded
                    return event
        raise AssertionError("the exchange did not end")

    def vector(self, request: eap.VectorRequested) -> AkaVector:
        """A fresh vector."""
        return vector(len(self.vectors), method=request.method, network_name=request.network_name, amf=self.amf)

    def succeed(self, peer: FormulaPeer, identity: str | None = None) -> eap.Succeeded:
        """One exchange that must succeed at both ends alike."""
        outcome = self.run(peer, identity)
        assert isinstance(outcome, eap.Succeeded), outcome
        assert outcome.msk == peer.msk
        assert outcome.identity == peer.identity
        assert outcome.imsi == IMSI
        return outcome

    def fail(self, peer: FormulaPeer, cause: AkaFailure, identity: str | None = None) -> eap.Failed:
        """One exchange that must fail for this cause."""
        outcome = self.run(peer, identity)
        assert isinstance(outcome, eap.Failed)
        assert outcome.cause is cause, outcome
        return outcome

    @property
    def narrative(self) -> list[str]:
        """The exchange in the RFC's words."""
        return [str(eap_body(packet, direction="", interface="", peer="")["summary"]) for packet in self.transcript]

    @property
    def requests(self) -> list[str]:
        """The server's part of it."""
        return self.narrative[::2]
