"""Two IKE end points on virtual time, a link between them that can be told to lose and to translate.

The UE's EAP peer and the gateway's AAA are a script of two rounds whose MSK both ends know: what is
tested here is IKE. The wire is kept in RFC notation.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from protocols.eap.packet import EapCode
from protocols.entropy import SeededEntropy
from protocols.ikev2.certificates import CertificateVerifier, Credential
from protocols.ikev2.config import InitiatorConfig, ResponderConfig
from protocols.ikev2.endpoint import IkeEndpoint
from protocols.ikev2.events import (
    Answer,
    AuthenticationKind,
    ConfigurationAnswer,
    ConfigurationReceived,
    ConfigurationReply,
    ConfigurationRequested,
    EapReply,
    EapRequestReceived,
    EapResponseReceived,
    Event,
    IdentityReceived,
    IkeKeysDerived,
    IkeSaRekeyed,
    MessageReceived,
    MessageSent,
    Refusal,
)
from protocols.ikev2.payloads import ConfigurationAttribute, IdiPayload, IdrPayload, NotifyPayload
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.ikev2.registry import ConfigAttributeType, IdType
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.suites import EspSuite, IkeSuite
from protocols.path import Datagram, Endpoint, Path
from protocols.secret import Secret
from protocols.selectors import TrafficSelector
from tests.harness.certificates import GATEWAY_FQDN, MOMENT, Pki, make_pki

ACCESS_A = Endpoint.of("192.0.2.1", 500)
ACCESS_B = Endpoint.of("198.51.100.1", 500)
GATEWAY = Endpoint.of("203.0.113.1", 500)
INNER = "10.45.0.2"
EAP_EKE = 53  # RFC 6124; mutual, so that EAP alone may authenticate the gateway (RFC 5998 §4)
LATENCY = 0.010
MSK = Secret(bytes(range(64)))

E = TypeVar("E")
_PKI = make_pki()
PAIRS: list[Pair] = []
"""Every pair of the running test, for the suite's capture."""


def eap(code: int, text: bytes) -> bytes:
    """An EAP packet with opaque contents; requests and responses say that they are of EAP-EKE, which nobody reads."""
    body = text if code > EapCode.RESPONSE else bytes([EAP_EKE]) + text
    return bytes([code, 1]) + (4 + len(body)).to_bytes(2, "big") + body


@dataclass
class Node:
    """One end: its machine, its events, and how it answers questions."""

    name: str
    endpoint: IkeEndpoint
    sa: IkeSa | None = None
    events: list[Event] = field(default_factory=list)
    answers: Callable[[Event], object] = lambda event: None

    def take(self, kind: type[E]) -> E:
        """The first event of a kind that was not taken yet."""
        for event in self.events:
            if isinstance(event, kind):
                self.events.remove(event)
                return event
        raise AssertionError(f"{self.name}: no {kind.__name__} among {[type(e).__name__ for e in self.events]}")

    def has(self, kind: type[object]) -> bool:
        """Whether an event of a kind waits."""
        return any(isinstance(event, kind) for event in self.events)

    @property
    def live(self) -> IkeSa:
        """The node's SA."""
        assert self.sa is not None
        return self.sa


def initiator_config(pki: Pki = _PKI, **changes: object) -> InitiatorConfig:
    """A UE's configuration; ``changes`` override single values."""
    values: dict[str, object] = {
        "ike_policy": IkePolicy((IkeSuite.of("aes128-sha256-x25519"),)),
        "esp_policy": EspPolicy((EspSuite.of("aes128gcm16"),)),
        "identity": IdiPayload(
            id_type=IdType.ID_RFC822_ADDR, data=b"0001010000000001@nai.epc.mnc001.mcc001.3gppnetwork.org"
        ),
        "responder_identity": IdrPayload(id_type=IdType.ID_FQDN, data=b"internet"),
        "verifier": CertificateVerifier((pki.authority,), lambda: MOMENT),
        "gateway_names": (GATEWAY_FQDN,),
        "configuration_request": (ConfigurationAttribute(type=ConfigAttributeType.INTERNAL_IP4_ADDRESS, value=b""),),
    }
    values.update(changes)
    return InitiatorConfig(**values)  # type: ignore[arg-type]


def responder_config(pki: Pki = _PKI, **changes: object) -> ResponderConfig:
    """A gateway's configuration; ``changes`` override single values."""
    values: dict[str, object] = {
        "ike_policy": IkePolicy((IkeSuite.of("aes128-sha256-x25519"), IkeSuite.of("aes256gcm16-prfsha256-ecp256"))),
        "esp_policy": EspPolicy((EspSuite.of("aes128gcm16"), EspSuite.of("aes256-sha256"))),
        "credentials": (Credential(pki.chain, pki.key),),
        "identity": IdrPayload(id_type=IdType.ID_FQDN, data=GATEWAY_FQDN.encode()),
    }
    values.update(changes)
    return ResponderConfig(**values)  # type: ignore[arg-type]


class Pair:
    """A UE and a gateway; time stands still unless it is advanced."""

    def __init__(
        self, ue: InitiatorConfig | None = None, epdg: ResponderConfig | None = None, seed: int | None = None
    ) -> None:
        self.now = 0.0
        self.ue_config = ue or initiator_config()
        # each pair of each test has SPIs of its own, the same in every run
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
        source = f"{test} {seed if seed is not None else -1 - len(PAIRS)}"
        PAIRS.append(self)
        self.keys: list[IkeKeysDerived] = []
        self.ue = Node("ue", IkeEndpoint(entropy=SeededEntropy(f"ue {source}")), answers=answer_as_ue)
        self.epdg = Node(
            "epdg",
            IkeEndpoint(entropy=SeededEntropy(f"epdg {source}"), responder=epdg or responder_config()),
            answers=answer_as_gateway,
        )
        self.wire: list[str] = []
        self.lose: Callable[[str, Datagram], bool] = lambda sender, datagram: False
        self.translate: dict[Endpoint, Endpoint] = {}
        self.deaf: set[Endpoint] = set()
        self.seen: list[tuple[str, Datagram]] = []
        self._flying: list[tuple[float, int, str, Datagram]] = []
        self._count = 0

    # --- what a test says

    def attach(self, at: Endpoint = ACCESS_A) -> Pair:
        """From nothing to an established SA, or to whatever comes of it."""
        self.start(at)
        self.run(5.0)
        return self

    def start(self, at: Endpoint = ACCESS_A, gateway: Endpoint = GATEWAY) -> None:
        """Send the first datagram."""
        self.ue.sa = self.ue.endpoint.connect(self.ue_config, Path(at, gateway), self.now)

    def roam(self, to: Endpoint) -> None:
        """Move the UE and let everything settle."""
        here = Path(Endpoint(to.address, 4500), Endpoint(GATEWAY.address, 4500))
        self.ue.endpoint.move(self.ue.live, here, self.now)

    def lose_next(self, sender: str, count: int = 1) -> None:
        """The next ``count`` datagrams of a sender do not arrive."""
        left = [count]

        def lose(who: str, datagram: Datagram) -> bool:
            del datagram
            if who != sender or left[0] == 0:
                return False
            left[0] -= 1
            return True

        self.lose = lose

    def run(self, seconds: float) -> None:
        """Let ``seconds`` of virtual time pass."""
        end = self.now + seconds
        while True:
            self._settle()
            times = [t for t in (self.ue.endpoint.next_deadline(), self.epdg.endpoint.next_deadline()) if t is not None]
            if self._flying:
                times.append(self._flying[0][0])
            following = min(times, default=None)
            if following is None or following > end:
                break
            self.now = max(self.now, following)
            while self._flying and self._flying[0][0] <= self.now:
                _, _, sender, datagram = heapq.heappop(self._flying)
                node = self.epdg if sender == "ue" else self.ue
                node.endpoint.receive(datagram, self.now)
            for node in (self.ue, self.epdg):
                node.endpoint.handle_timeout(self.now)
        self.now = end

    # --- the link

    def _settle(self) -> None:
        busy = True
        while busy:
            busy = False
            for node in (self.ue, self.epdg):
                while (found := node.endpoint.poll_event()) is not None:
                    busy = True
                    sa, event = found
                    if node.sa is None or (node is self.epdg and sa.init_request and sa.heir is None):
                        node.sa = sa
                    if isinstance(event, IkeSaRekeyed) and sa is node.sa:
                        node.sa = event.successor
                    self._narrate(node, event)
                    node.events.append(event)
                    reply = node.answers(event)
                    if isinstance(reply, Answer):
                        node.endpoint.answer(sa, reply, self.now)
                while (datagram := node.endpoint.poll_transmit()) is not None:
                    busy = True
                    self._carry(node.name, datagram)

    def _narrate(self, node: Node, event: Event) -> None:
        if isinstance(event, IkeKeysDerived):
            self.keys.append(event)
        if isinstance(event, MessageSent):
            arrow = "-->" if node is self.ue else "<--"
            again = " (again)" if event.retransmission else ""
            self.wire.append(f"{arrow} {event.message.summary()}{again}")

    def _carry(self, sender: str, datagram: Datagram) -> None:
        self.seen.append((sender, datagram))
        if self.lose(sender, datagram) or datagram.payload == b"\xff":
            return
        arriving = datagram.path.reversed()
        if sender == "ue" and arriving.remote in self.translate:
            arriving = Path(arriving.local, self.translate[arriving.remote])
        if sender == "epdg":
            back = {outside: inside for inside, outside in self.translate.items()}
            arriving = Path(back.get(arriving.local, arriving.local), arriving.remote)
            if arriving.local in self.deaf:
                return
        self._count += 1
        heapq.heappush(self._flying, (self.now + LATENCY, self._count, sender, Datagram(arriving, datagram.payload)))


def answer_as_ue(event: Event) -> object:
    """Two rounds of a script instead of a USIM."""
    if isinstance(event, EapRequestReceived):
        if event.packet[0] == 3:
            return EapReply(msk=MSK)
        return EapReply(packet=eap(2, b"response"))
    return answer_configuration(event)


def answer_as_gateway(event: Event) -> object:
    """Two rounds of a script instead of an AAA server, one address instead of a pool."""
    if isinstance(event, IdentityReceived) and event.authentication is AuthenticationKind.EAP:
        return EapReply(packet=eap(1, b"request"))
    if isinstance(event, EapResponseReceived):
        return EapReply(packet=eap(3, b""), msk=MSK)
    if isinstance(event, ConfigurationRequested):
        address = ConfigurationAttribute(type=ConfigAttributeType.INTERNAL_IP4_ADDRESS, value=bytes([10, 45, 0, 2]))
        return ConfigurationReply(
            attributes=(address,),
            local_selectors=(TrafficSelector.network("0.0.0.0/0"),),
            remote_selectors=(TrafficSelector.host(INNER),),
        )
    return answer_configuration(event)


def answer_configuration(event: Event) -> object:
    """What comes in CFG_REQUEST or CFG_SET of an SA that is up is taken as it is."""
    return ConfigurationAnswer(attributes=event.attributes) if isinstance(event, ConfigurationReceived) else None


def refuse_with(notify: NotifyPayload, text: str, *beside: NotifyPayload) -> Callable[[Event], object]:
    """A gateway whose configuration question is refused, with other Notify payloads beside."""

    def answer(event: Event) -> object:
        if isinstance(event, ConfigurationRequested):
            return Refusal(notify=notify, text=text, beside=beside)
        return answer_as_gateway(event)

    return answer


__all__ = ["ACCESS_A", "ACCESS_B", "GATEWAY", "MessageReceived", "Pair"]
