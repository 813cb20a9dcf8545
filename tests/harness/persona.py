"""A UE that speaks as a persona, at a gateway of the harness: configured by YAML as a user would, on virtual time."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

import yaml

from protocols.entropy import SeededEntropy
from protocols.ikev2.certificates import CertificateVerifier
from protocols.ikev2.config import InitiatorConfig, ResponderConfig
from protocols.ikev2.endpoint import IkeEndpoint
from protocols.ikev2.events import Event, MessageReceived, MessageSent, SaState
from protocols.ikev2.extension import Extension, NoExtension
from protocols.ikev2.fragment import Fragment
from protocols.ikev2.message import Header, Message, decode_message
from protocols.ikev2.payloads import ConfigurationPayload, NotifyPayload, Payload, Proposal
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.ikev2.registry import ExchangeType, TransformType
from protocols.ikev2.sealer import MessageSealer
from protocols.io.configuration import parse
from protocols.path import Datagram
from tests.harness.certificates import GATEWAY_FQDN, MOMENT, Pki, make_pki
from tests.harness.pair import PAIRS, Pair, responder_config
from ue.config import UeConfiguration
from ue.profile import initiator_config

_PKI = make_pki()
SOMEBODY: dict[str, object] = {
    "imsi": "001010000000001",
    "plmn": {"mcc": "001", "mnc": "01"},
    "usim": {"k": "465b5ce8b199b49faa5f0a2ee238a6bc", "opc": "cd63cb71954a9f4e48a5994e37a02baf"},
    "apn": "internet",
    "accesses": {"wifi": {"address": "192.0.2.1"}},
    "control": "ue.sock",
}
GATEWAY_SECTION: dict[str, object] = {"address": "203.0.113.1", "ca": "ca.pem", "names": [GATEWAY_FQDN]}


def configured(persona: str | None, **changes: object) -> UeConfiguration:
    """The UE's configuration: who it is, the persona, and ``changes`` on top."""
    named = {} if persona is None else {"persona": persona}
    values = {**SOMEBODY, "gateway": GATEWAY_SECTION, **named, **changes}
    return parse(yaml.safe_dump(values), UeConfiguration)


def machine_config(persona: str | None, pki: Pki = _PKI, **changes: object) -> InitiatorConfig:
    """The same for the IKE SA, with trust in the harness's authority."""
    configuration = configured(persona, **changes)
    gateway = configuration.gateway.model_copy(update={"ca": None})  # there is no such file
    config = initiator_config(configuration.model_copy(update={"gateway": gateway}), lambda: datetime.now(UTC))
    return replace(config, verifier=CertificateVerifier((pki.authority,), lambda: MOMENT))


def lenient_gateway(pki: Pki = _PKI, **changes: object) -> ResponderConfig:
    """A gateway with the suites that old phones need."""
    values: dict[str, object] = {"ike_policy": IkePolicy.of(["legacy"]), "esp_policy": EspPolicy.of(["legacy"])}
    return responder_config(pki, **{**values, **changes})


class Phone(Pair):
    """A pair whose UE is a persona; what the UE sends is kept with its time."""

    def __init__(
        self,
        persona: str | None,
        epdg: ResponderConfig | None = None,
        pki: Pki = _PKI,
        extension: Callable[[], Extension] = NoExtension,
        gateway_extension: Callable[[], Extension] = NoExtension,
        **changes: object,
    ) -> None:
        gateway = epdg or lenient_gateway(pki)
        super().__init__(machine_config(persona, pki, **changes), gateway)
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
        for node, responder, made in ((self.ue, None, extension), (self.epdg, gateway, gateway_extension)):
            # SPIs are each test's and pair's own, as Pair has them
            entropy = SeededEntropy(f"{node.name} {test} {len(PAIRS)}")
            node.endpoint = IkeEndpoint(entropy=entropy, responder=responder, extension=made)
        self.sent: list[tuple[float, Datagram]] = []
        self.said: list[tuple[float, Event]] = []
        self.drop = lambda sender, datagram: False
        self.lose = self._see
        answers = self.ue.answers

        def answer(event: Event) -> object:
            self.said.append((self.now, event))
            return answers(event)

        self.ue.answers = answer

    def _see(self, sender: str, datagram: Datagram) -> bool:
        if sender == "ue":
            self.sent.append((self.now, datagram))
        return self.drop(sender, datagram)

    def init_requests(self) -> list[Message]:
        """IKE_SA_INIT requests, decoded from the UE's datagrams."""
        found = [decode_message(datagram.payload) for _, datagram in self.sent if datagram.payload[18:19] == b"\x22"]
        return [message for message in found if not message.response]

    def received(self, exchange: ExchangeType, *, response: bool = False) -> list[Message]:
        """What the gateway has decoded of the UE's."""
        messages = [event.message for event in self.epdg.events if isinstance(event, MessageReceived)]
        return [each for each in messages if each.exchange == exchange and each.response is response]

    def requests(self, exchange: ExchangeType) -> list[tuple[float, Message]]:
        """The UE's requests when they were sent, repetitions included."""
        return [
            (at, event.message)
            for at, event in self.said
            if isinstance(event, MessageSent) and event.message.exchange == exchange and not event.message.response
        ]


def names(payloads: tuple[Payload, ...]) -> list[str]:
    """Payloads in the order of a message: their notation, a notify by its number."""
    return [
        f"N({int(payload.type)})" if isinstance(payload, NotifyPayload) else payload.payload_type.name
        for payload in payloads
    ]


def offered(proposal: Proposal, kind: TransformType) -> list[tuple[int, int | None]]:
    """Transforms of a type in their order: identifier and key length."""
    return [(int(transform.id), transform.key_length_bits) for transform in proposal.of_type(kind)]


def attached(persona: str | None, **changes: object) -> Phone:
    """A phone that is attached."""
    phone = Phone(persona, **changes)  # type: ignore[arg-type]
    phone.attach()
    assert phone.ue.live.state is phone.epdg.live.state is SaState.ESTABLISHED
    return phone


P = TypeVar("P", bound=Payload)


def of(message: Message, kind: type[P]) -> P:
    """The first payload of a kind, which has to be there."""
    found = message.first(kind)
    assert found is not None
    return found


def first_auth(phone: Phone) -> Message:
    """The first IKE_AUTH request, as the gateway has decoded it."""
    return phone.received(ExchangeType.IKE_AUTH)[0]


class Editing:
    """A gateway's sealer that changes the payloads of the response with AUTH and CP."""

    def __init__(self, sealer: MessageSealer, edit: Callable[[Payload], Payload]) -> None:
        self._sealer = sealer
        self._edit = edit

    def seal(self, message: Message) -> bytes:
        if message.response and message.first(ConfigurationPayload) is not None:
            message = replace(message, payloads=tuple(map(self._edit, message.payloads)))
        return self._sealer.seal(message)

    def open(self, octets: bytes, header: Header) -> Message:
        return self._sealer.open(octets, header)

    def seal_fragments(self, message: Message, limit: int) -> tuple[bytes, ...]:
        return self._sealer.seal_fragments(message, limit)

    def open_fragment(self, octets: bytes, header: Header) -> Fragment:
        return self._sealer.open_fragment(octets, header)
