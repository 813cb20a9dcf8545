"""A gateway that holds the keys and spoils payloads of its messages, in a world whose UE lives through a whole story.

::

    UE                                          gateway
     IKE_SA_INIT, IKE_AUTH (EAP-AKA)      -->
                                          <--   INFORMATIONAL, rekeys, CFG_SET, another child SA
     UPDATE_SA_ADDRESSES, rekeys          -->
     DELETE                               -->

``Story`` counts what the gateway sends; each ``Mutation`` says which of it becomes what.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from protocols.errors import LocalError, RemoteError
from protocols.ikev2.events import Event, SaState
from protocols.ikev2.fragment import Fragment
from protocols.ikev2.message import Header, Message, decode_message, encode_message
from protocols.ikev2.payloads import (
    ConfigurationAttribute,
    ConfigurationPayload,
    DeletePayload,
    EapPayload,
    NotifyPayload,
    Payload,
    UnknownPayload,
)
from protocols.ikev2.registry import ConfigAttributeType, ConfigType, ExchangeType, NotifyType, PayloadType, ProtocolId
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.sealer import MessageSealer
from protocols.ikev2.task import Task
from protocols.ikev2.tasks.config import ExchangeConfiguration
from protocols.ikev2.tasks.create_child import CreateChild
from protocols.ikev2.tasks.informational import Liveness
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.path import Datagram
from tests.machines.test_ue_device import World
from ue.context import DeviceState

PATIENCE = 150.0  # seconds after which nothing is outstanding any more
IKE_SA_INIT = 34
Payloads = tuple[Payload, ...]
Change = Callable[[Message, random.Random], Message | None]


def _body(change: Callable[[bytes, random.Random], bytes]) -> Callable[[Payload, random.Random], Payloads]:
    """The body of a payload becomes another one."""
    return lambda held, chance: (UnknownPayload(held.payload_type, False, change(held.encode(), chance)),)


def _flipped(octets: bytes, at: int) -> bytes:
    if not octets:
        return b"\x01"
    changed = bytearray(octets)
    changed[at % len(octets)] ^= 1 << (at & 7)
    return bytes(changed)


OF_A_PAYLOAD: dict[str, Callable[[Payload, random.Random], Payloads]] = {
    "left out": lambda held, chance: (),
    "doubled": lambda held, chance: (held, held),
    "critical and unknown": lambda held, chance: (UnknownPayload(PayloadType.of(200), True, held.encode()),),
    "of the next type": lambda held, chance: (
        UnknownPayload(PayloadType.of(held.payload_type + 1), False, held.encode()),
    ),
    "empty": _body(lambda octets, chance: b""),
    "half": _body(lambda octets, chance: octets[: len(octets) // 2]),
    "an octet short": _body(lambda octets, chance: octets[:-1]),
    "four octets longer": _body(lambda octets, chance: octets + bytes(4)),
    "zeros": _body(lambda octets, chance: bytes(len(octets))),
    "ones": _body(lambda octets, chance: b"\xff" * len(octets)),
    "another first octet": _body(lambda octets, chance: _flipped(octets, 0)),
    "another last octet": _body(lambda octets, chance: _flipped(octets, len(octets) - 1)),
    "a bit flipped": _body(lambda octets, chance: _flipped(octets, chance.randrange(1 << 16))),
    "random": _body(lambda octets, chance: chance.randbytes(len(octets))),
    "of 4000 octets": _body(lambda octets, chance: (octets * 4000)[:4000] or bytes(4000)),
}


def _beside(*more: Payload) -> Change:
    return lambda message, chance: replace(message, payloads=(*message.payloads, *more))


def _instead(*other: Payload) -> Change:
    return lambda message, chance: replace(message, payloads=other)


def _notify(number: int, data: bytes = b"") -> NotifyPayload:
    return NotifyPayload(type=NotifyType.of(number), data=data)


_ERRORS = (1, 4, 7, 9, 11, 14, 17, 24, 34, 35, 36, 37, 38, 39, 40, 43, 44, 47, 9000, 9002, 10500, 8191, 12000)
_STATUSES = (16384, 16388, 16390, 16391, 16393, 16396, 16397, 16400, 16401, 16402, 16404, 16407, 16409, 41041, 41101)
_DELETES = (
    DeletePayload(protocol=ProtocolId.IKE, spis=()),
    DeletePayload(protocol=ProtocolId.ESP, spis=(bytes(4), b"\xff" * 4)),
    DeletePayload(protocol=ProtocolId.ESP, spis=()),
)
_ODD = ConfigurationPayload(
    type=ConfigType.CFG_REPLY,
    attributes=(ConfigurationAttribute(type=ConfigAttributeType.INTERNAL_IP4_ADDRESS, value=bytes(4)),),
)
OF_A_MESSAGE: dict[str, Change] = {
    "lost": lambda message, chance: None,
    "without payloads": _instead(),
    "payloads backwards": lambda message, chance: replace(message, payloads=message.payloads[::-1]),
    "another Message ID": lambda message, chance: replace(message, message_id=message.message_id + 1),
    "a far Message ID": lambda message, chance: replace(message, message_id=0xFFFFFFFF),
    "a request for a response": lambda message, chance: replace(message, response=not message.response),
    "another end's flag": lambda message, chance: replace(message, original_initiator=not message.original_initiator),
    "another exchange": lambda message, chance: replace(
        message,
        exchange=ExchangeType.INFORMATIONAL
        if message.exchange != ExchangeType.INFORMATIONAL
        else ExchangeType.IKE_AUTH,
    ),
    "another SPIi": lambda message, chance: replace(message, spi_i=bytes(8)),
    "another SPIr": lambda message, chance: replace(message, spi_r=bytes(8)),
    "payloads at random": lambda message, chance: replace(
        message, payloads=tuple(chance.sample(message.payloads, len(message.payloads) // 2))
    ),
    "with EAP-Failure": _beside(EapPayload(packet=bytes([4, 1, 0, 4]))),
    "with EAP-Success": _beside(EapPayload(packet=bytes([3, 1, 0, 4]))),
    "with CP": _beside(_ODD),
    **{f"with a DELETE ({number})": _beside(each) for number, each in enumerate(_DELETES)},
    **{f"only a DELETE ({number})": _instead(each) for number, each in enumerate(_DELETES)},
    **{f"only N({number})": _instead(_notify(number)) for number in _ERRORS},
    **{f"with N({number})": _beside(_notify(number)) for number in (*_ERRORS, *_STATUSES)},
    **{f"with long N({number})": _beside(_notify(number, bytes(64))) for number in _STATUSES},
}


@dataclass(frozen=True)
class Mutation:
    """What becomes of the gateway's message ``number``, counted from 0; ``payload``: of that one alone."""

    number: int
    payload: int | None
    name: str

    def apply(self, message: Message) -> Message | None:
        """The message as it goes out."""
        chance = random.Random(f"{self}")
        if self.payload is None:
            return OF_A_MESSAGE[self.name](message, chance)
        if self.payload >= len(message.payloads):
            return message
        before, held, after = (
            message.payloads[: self.payload],
            message.payloads[self.payload],
            message.payloads[self.payload + 1 :],
        )
        return replace(message, payloads=(*before, *OF_A_PAYLOAD[self.name](held, chance), *after))

    def __str__(self) -> str:
        which = "" if self.payload is None else f", payload {self.payload}"
        return f"message {self.number}{which}: {self.name}"


class _Mutating:
    """The gateway's sealer."""

    def __init__(self, sealer: MessageSealer, story: Story) -> None:
        self._sealer = sealer
        self._story = story

    def seal(self, message: Message) -> bytes:
        changed = self._story.mutated(message)
        return b"" if changed is None else self._sealer.seal(changed)

    def open(self, octets: bytes, header: Header) -> Message:
        return self._sealer.open(octets, header)

    def seal_fragments(self, message: Message, limit: int) -> tuple[bytes, ...]:
        changed = self._story.mutated(message)
        return () if changed is None else self._sealer.seal_fragments(changed, limit)

    def open_fragment(self, octets: bytes, header: Header) -> Fragment:
        return self._sealer.open_fragment(octets, header)


@dataclass
class Story(World):
    """``tell()`` plays it; ``sent`` are the gateway's messages as they were meant.

    ``changed``, where it is set, has the say in place of ``changes``.
    """

    changes: tuple[Mutation, ...] = ()
    sent: list[Message] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._initial: dict[bytes, bytes] = {}
        self.changed: Callable[[Message], Message | None] | None = None

    def mutated(self, message: Message) -> Message | None:
        """The next of the gateway's messages as it goes out; ``None``: not at all."""
        number = len(self.sent)
        self.sent.append(message)
        if self.changed is not None:
            return self.changed(message)
        mutation = next((each for each in self.changes if each.number == number), None)
        return message if mutation is None else mutation.apply(message)

    def tell(self) -> None:
        """Everything that happens between a UE and its gateway, as far as the mutations let it."""
        self._asked("a", lambda ticket: self.device.attach("a", ticket, self.now), 40.0)
        self._gateways(lambda sa: Liveness())
        self._gateways(lambda sa: RekeyChild(next(iter(sa.children))))
        self._gateways(lambda sa: ExchangeConfiguration(ConfigType.CFG_SET, _ODD.attributes))
        self._asked("b", lambda ticket: self.device.move("b", ticket, self.now), 5.0)
        self._gateways(lambda sa: RekeyIke())
        self._gateways(another_child)
        self._ues(lambda sa: RekeyChild(next(iter(sa.children))))
        self._ues(lambda sa: Liveness())
        self._ues(lambda sa: RekeyIke())
        self.run(PATIENCE)
        assert self.device.state in (DeviceState.ESTABLISHED, DeviceState.CLOSED), self.device.state
        self._asked("", lambda ticket: self.device.detach(ticket, self.now), PATIENCE)
        self.run(PATIENCE)

    def _asked(self, access: str, begin: Callable[[int], list], seconds: float) -> None:  # type: ignore[type-arg]
        """Ask the device for something, which has to come to an end."""
        with contextlib.suppress(LocalError):  # it is not, or no longer, attached
            ticket = self.ask_only(begin)
            self.asked.append(ticket)
            self.run(seconds)
            if ticket not in self.finished:
                self.run(PATIENCE)
            failure = self.finished[ticket]
            if failure is not None:
                self.failures.append(failure)

    def _gateways(self, task: Callable[[IkeSa], Task]) -> None:
        """The gateway begins something, if it can."""
        live = [sa for sa in self.gateway_sas if sa.state is SaState.ESTABLISHED and sa.children]
        if live:
            with contextlib.suppress(LocalError):
                self.gateway.initiate(live[-1], task(live[-1]), self.now)
        self.run(2.0)

    def _ues(self, task: Callable[[IkeSa], Task]) -> None:
        """The UE begins something, if it can."""
        if self.sa is not None and self.sa.state is SaState.ESTABLISHED and self.sa.children:
            with contextlib.suppress(LocalError):
                self.ue.initiate(self.sa, task(self.sa), self.now)
        self.run(2.0)

    def left(self) -> list[str]:
        """What is left behind by a UE that is not attached."""
        found = {
            "state": self.device.state is not DeviceState.CLOSED and self.device.state,
            "ports": self.open,
            "addresses": self.addresses,
            "child SAs": self.installed,
            "IKE SAs": self.ue.sas,
            "unfinished": set(self.asked) - set(self.finished),
        }
        return [f"{name}: {value}" for name, value in found.items() if value]

    def honest(self) -> str | None:
        """Why the UE does not attach to another gateway that does nothing wrong."""
        self.changes = ()
        fresh = World(gateway_config=self.gateway_config)
        self.gateway = fresh.gateway
        return self.ask(lambda ticket: self.device.attach("a", ticket, self.now, force=True))

    # --- the layer

    def _gateway_event(self, sa: IkeSa, event: Event) -> None:
        for each in self.gateway.sas.values():
            if each.sealer is not None and not isinstance(each.sealer, _Mutating):
                each.sealer = _Mutating(each.sealer, self)
        super()._gateway_event(sa, event)

    def _arrive(self, sender: str, datagram: Datagram) -> None:
        octets = datagram.payload
        if sender == "gateway" and octets[18:19] == bytes([IKE_SA_INIT]):
            octets = self._initial.get(octets) or self._unprotected(octets)
        if octets:
            super()._arrive(sender, Datagram(datagram.path, octets))

    def _unprotected(self, octets: bytes) -> bytes:
        with contextlib.suppress(RemoteError):
            changed = self.mutated(decode_message(octets))
            self._initial[octets] = b"" if changed is None else encode_message(changed)
        return self._initial.get(octets, octets)


def another_child(sa: IkeSa) -> CreateChild:
    """A child SA beside the first, for the same traffic."""
    child = next(iter(sa.children.values()))
    return CreateChild(child.spec.local_selectors, child.spec.remote_selectors)


def mutations(sent: list[Message]) -> Iterator[Mutation]:
    """Every mutation of every payload of every message."""
    for number, message in enumerate(sent):
        yield from (Mutation(number, None, name) for name in OF_A_MESSAGE)
        for payload in range(len(message.payloads)):
            yield from (Mutation(number, payload, name) for name in OF_A_PAYLOAD)
