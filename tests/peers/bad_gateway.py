"""A gateway of tests on real sockets that goes wrong where it is told to: our own responder, spoilt from outside.

It authenticates the UE by EAP-AKA as an AAA server would. ``Misbehaviour`` says what becomes of its datagrams, of its
messages before they are sealed, and of its answers to its own machine's questions.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from aaa.subscribers import Subscriber
from protocols.algorithms.milenage import Milenage
from protocols.algorithms.sqn import compose
from protocols.algorithms.vector import AkaVector, generate_vector
from protocols.eap.aka import server as aka
from protocols.entropy import SeededEntropy
from protocols.ikev2.config import ResponderConfig
from protocols.ikev2.endpoint import IkeEndpoint
from protocols.ikev2.events import (
    Closed,
    ConfigurationReply,
    ConfigurationRequested,
    EapReply,
    EapResponseReceived,
    Established,
    Event,
    IdentityReceived,
    IkeKeysDerived,
    Refusal,
)
from protocols.ikev2.fragment import Fragment
from protocols.ikev2.message import Header, Message
from protocols.ikev2.payloads import ConfigurationAttribute
from protocols.ikev2.registry import ConfigAttributeType
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.sealer import MessageSealer
from protocols.io.driver import Driver
from protocols.io.entropy import SystemEntropy
from protocols.io.udp import SwuPorts
from protocols.path import Datagram, Endpoint
from protocols.selectors import TrafficSelector

INNER = "10.45.0.2"
_SEQUENCE = itertools.count(100)  # one USIM stands before all gateways of a run


def unchanged(value: Any) -> Any:
    """The gateway does as it should."""
    return value


@dataclass(frozen=True, kw_only=True)
class Misbehaviour:
    """``wire``: octets on their way, ``b""``: silence. ``edit``: a message, ``None``: silence. ``answer``: to its
    machine's question, in place of the right one, ``None``: the right one. ``vector``: of the challenge.
    ``after``: what it does once the UE is attached.
    """

    wire: Callable[[bytes], bytes] = unchanged
    edit: Callable[[Message], Message | None] = unchanged
    answer: Callable[[Event], object] = lambda event: None
    vector: Callable[[AkaVector], AkaVector] = unchanged
    packet: Callable[[bytes], bytes] = unchanged
    after: Callable[[BadGateway, IkeSa], None] = lambda gateway, sa: None


class _Spoilt:
    """A sealer whose messages are edited on their way to it."""

    def __init__(self, sealer: MessageSealer, gateway: BadGateway) -> None:
        self._sealer = sealer
        self._gateway = gateway

    def seal(self, message: Message) -> bytes:
        edited = self._gateway.misbehaviour.edit(message)
        return b"" if edited is None else self._sealer.seal(edited)

    def open(self, octets: bytes, header: Header) -> Message:
        return self._sealer.open(octets, header)

    def seal_fragments(self, message: Message, limit: int) -> tuple[bytes, ...]:
        raise AssertionError("the UE of these tests takes no fragments")

    def open_fragment(self, octets: bytes, header: Header) -> Fragment:
        return self._sealer.open_fragment(octets, header)


@dataclass
class BadGateway:
    """``async with gateway.serving(...)``; ``closed`` says how its IKE SAs ended."""

    address: str
    user: Subscriber
    config: ResponderConfig
    misbehaviour: Misbehaviour = field(default_factory=Misbehaviour)
    closed: list[Closed] = field(default_factory=list)
    established: int = 0

    @contextlib.asynccontextmanager
    async def serving(self, ike_port: int, nat_traversal_port: int) -> AsyncIterator[BadGateway]:
        """On its ports, until the end of the block."""
        self.endpoint = IkeEndpoint(entropy=SystemEntropy(), responder=self.config)
        self._servers: dict[bytes, aka.EapAkaServer] = {}
        self._changed = asyncio.Event()
        self.ports = SwuPorts(on_ike=self._received, on_esp=lambda octets, path, traffic_class: None)
        self._driver = Driver(self.endpoint, on_event=self._event, transmit=self._transmit)
        try:
            self.ports.open(Endpoint.of(self.address, ike_port), encapsulating=False)
            self.ports.open(Endpoint.of(self.address, nat_traversal_port), encapsulating=True)
            yield self
        finally:
            self._driver.close()
            self.ports.close_all()

    def now(self) -> float:
        """The machines' clock."""
        return asyncio.get_running_loop().time()

    def pump(self) -> None:
        """Send what waits."""
        self._driver.pump()

    async def until_deleted(self) -> bool:
        """Whether the UE deletes the IKE SA within two seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while not any(each.by_peer for each in self.closed):
                    self._changed.clear()
                    await self._changed.wait()
                return True
        return False

    def forget(self) -> None:
        """Let go of every IKE SA without a word."""
        for sa in list(self.endpoint.sas.values()):
            self.endpoint.close(sa, "forgotten", self.now())
        while self.endpoint.poll_transmit() is not None or self.endpoint.poll_event() is not None:
            pass
        self.closed.clear()
        self.established = 0

    def _received(self, datagram: Datagram) -> None:
        self.endpoint.receive(datagram, self.now())
        self.pump()

    def _transmit(self, datagram: Datagram) -> None:
        octets = datagram.payload and self.misbehaviour.wire(datagram.payload)
        if octets:
            self.ports.send_ike(replace(datagram, payload=octets))

    def _event(self, found: tuple[IkeSa, Event]) -> None:
        sa, event = found
        if isinstance(event, IkeKeysDerived) and sa.sealer is not None:
            sa.sealer = _Spoilt(sa.sealer, self)
        if isinstance(event, Closed):
            self.closed.append(event)
            self._changed.set()
        reply = self.misbehaviour.answer(event) or self._right_answer(sa, event)
        if isinstance(reply, EapReply | ConfigurationReply | Refusal):
            self.endpoint.answer(sa, reply, self.now())
        if isinstance(event, Established):
            self.established += 1
            self.misbehaviour.after(self, sa)

    def _right_answer(self, sa: IkeSa, event: Event) -> object:
        if isinstance(event, IdentityReceived):
            server = self._servers[sa.local_spi] = aka.EapAkaServer(entropy=SeededEntropy(sa.local_spi.hex()))
            server.start(event.identity.data)
            return self._said(server)
        if isinstance(event, EapResponseReceived):
            self._servers[sa.local_spi].receive(event.packet)
            return self._said(self._servers[sa.local_spi])
        if isinstance(event, ConfigurationRequested):
            return granted(bytes([10, 45, 0, 2]))
        return None

    def _said(self, server: aka.EapAkaServer) -> EapReply | None:
        while (event := server.poll_event()) is not None:
            if isinstance(event, aka.VectorRequested):
                assert self.user.opc is not None
                sequence = next(_SEQUENCE)
                functions = Milenage(self.user.k.reveal(), opc=self.user.opc.reveal())
                rand = SeededEntropy(sequence).octets(16)
                vector = generate_vector(functions, rand=rand, sqn=compose(sequence, 1))
                server.answer_vector(self.misbehaviour.vector(vector))
            elif isinstance(event, aka.PacketToSend):
                return EapReply(packet=self.misbehaviour.packet(event.packet))
            elif isinstance(event, aka.Succeeded):
                return EapReply(packet=event.packet, msk=event.msk)
            elif isinstance(event, aka.Failed):
                return EapReply(packet=event.packet)
        return None


def granted(*addresses: bytes) -> ConfigurationReply:
    """CFG_REPLY with these addresses."""
    kind = ConfigAttributeType.INTERNAL_IP4_ADDRESS
    return ConfigurationReply(
        attributes=tuple(ConfigurationAttribute(type=kind, value=value) for value in addresses),
        local_selectors=(TrafficSelector.network("0.0.0.0/0"),),
        remote_selectors=(TrafficSelector.host(INNER),),
    )
