"""A UE whose gateway, which holds all keys, misbehaves on and on: it stays within bounds, gives up cleanly, says why.

::

    UE                                          gateway
     (attached)                          <--    requests without end, each of them genuine

``tests/fuzz/test_ue_gateways.py`` spoils one message at a time; ``tests/nodes`` has the process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from protocols.entropy import SeededEntropy
from protocols.errors import LocalError
from protocols.ikev2.config import ADDITIONAL_CHILDREN, InitiatorConfig, RetransmissionPolicy
from protocols.ikev2.endpoint import IkeEndpoint
from protocols.ikev2.events import ConfigurationReply, SaState
from protocols.ikev2.message import Message
from protocols.ikev2.modp import PRIMES
from protocols.ikev2.payloads import (
    CertPayload,
    ConfigurationAttribute,
    DeletePayload,
    EapPayload,
    IdiPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
)
from protocols.ikev2.proposals import IkePolicy
from protocols.ikev2.redirection import InitialRedirect, RedirectObedience
from protocols.ikev2.registry import ConfigAttributeType as Attribute
from protocols.ikev2.registry import ExchangeType, IdType, KeGroup, NotifyType, ProtocolId
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.sealer import Sealer
from protocols.ikev2.suites import IkeSuite
from protocols.ikev2.task import Task
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.ikev2.tasks.mobike.mobility import ADDRESSES_MAXIMUM
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.path import Datagram, Endpoint
from tests.harness.mutation import PATIENCE, Story, another_child
from tests.harness.pair import initiator_config, responder_config
from tests.machines.test_ue_device import DNS, GATEWAY, INNER, NAI, World, granted
from ue.commands import Command, StartHost
from ue.configuration import SERVERS_MAXIMUM
from ue.context import DeviceState

REQUESTS = 300
ME = IdiPayload(id_type=IdType.ID_RFC822_ADDR, data=NAI.encode())


def attached(**changes: object) -> Story:
    story = Story(**changes)  # type: ignore[arg-type]
    assert story.attach() is None
    return story


def gateways(story: Story) -> IkeSa:
    """The gateway's end of what is up."""
    return [sa for sa in story.gateway_sas if sa.state is SaState.ESTABLISHED][-1]


class Flood:
    """Messages of the gateway's as its machine would never send them."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.sa = gateways(story)
        suite, keys = self.sa.established_keys()
        self.sealer = Sealer(suite, keys, self.sa.original_initiator, SeededEntropy("flood"))

    def message(self, message_id: int, *payloads: Payload, response: bool = False) -> Message:
        return Message(
            spi_i=self.sa.spi_i,
            spi_r=self.sa.spi_r,
            exchange=ExchangeType.INFORMATIONAL,
            original_initiator=self.sa.original_initiator,
            response=response,
            message_id=message_id,
            payloads=payloads,
        )

    def send(self, message_id: int, *payloads: Payload, response: bool = False) -> None:
        self.octets(self.sealer.seal(self.message(message_id, *payloads, response=response)))

    def octets(self, octets: bytes) -> None:
        assert self.story.sa is not None
        self.story._arrive("gateway", Datagram(self.story.sa.path, octets))
        self.story.run(0.0)


def on_and_on(story: Story, task: Callable[[IkeSa], Task], seconds: float) -> None:
    """The gateway begins this again and again, and never deletes what it has replaced."""

    def without_deletes(message: Message) -> Message | None:
        return None if message.first(DeletePayload) is not None and not message.response else message

    story.changed = without_deletes
    for _ in range(REQUESTS):
        with contextlib.suppress(LocalError):
            story.gateway.initiate(gateways(story), task(gateways(story)), story.now)
        story.run(seconds)


def over(story: Story) -> None:
    """It detaches within bounds, nothing is left, and another gateway serves it."""
    story.changed = None
    if story.device.state is DeviceState.ESTABLISHED:
        assert story.ask(lambda ticket: story.device.detach(ticket, story.now), PATIENCE) is None
    story.run(PATIENCE)
    assert story.left() == []
    assert story.honest() is None


def test_rekeys_without_a_delete() -> None:
    """Each leaves a child SA for a minute (RFC 7296 §2.8), so there is a number that is enough."""
    story = attached()
    asked: list[Message] = []
    story.changed = asked.append  # the gateway's own request, which is never sent
    story.gateway.initiate(gateways(story), RekeyChild(next(iter(gateways(story).children))), story.now)
    flood = Flood(story)
    for number in range(REQUESTS):
        assert story.sa is not None
        newest = list(story.sa.children.values())[-1].spec
        payloads = tuple(renewed(each, newest.outbound_spi, number) for each in asked[0].payloads)
        flood.octets(flood.sealer.seal(replace(asked[0], message_id=number, payloads=payloads)))
        story.run(0.01)
    assert 3 < len(story.installed) <= 2 * ADDITIONAL_CHILDREN + 3
    assert story.device.state is DeviceState.ESTABLISHED
    over(story)


def renewed(payload: Payload, spi: bytes, number: int) -> Payload:
    """A payload of a rekey as that of another one: of this child SA, with another nonce and SPI."""
    if isinstance(payload, NotifyPayload):
        return replace(payload, spi=spi)
    if isinstance(payload, NoncePayload):
        return replace(payload, data=number.to_bytes(32, "big"))
    if isinstance(payload, SaPayload):
        mine = (0x10000 + number).to_bytes(4, "big")
        return replace(payload, proposals=tuple(replace(each, spi=mine) for each in payload.proposals))
    return payload


def test_rekeys_of_the_ike_sa_without_a_delete() -> None:
    story = attached()
    on_and_on(story, lambda sa: RekeyIke(), 0.05)
    assert len(story.ue.sas) <= 6
    over(story)


def test_child_sas_without_end() -> None:
    story = attached()
    on_and_on(story, another_child, 0.05)
    assert len(story.installed) == ADDITIONAL_CHILDREN + 1
    over(story)


COOKIE2 = NotifyPayload(type=NotifyType.COOKIE2, data=bytes(64))
NOBODYS = DeletePayload(protocol=ProtocolId.ESP, spis=tuple(number.to_bytes(4, "big") for number in range(1, 200)))


@pytest.mark.parametrize("payloads", [(), (COOKIE2,), (NOBODYS,), (COOKIE2, NOBODYS)], ids=["empty", "2", "D", "both"])
@pytest.mark.parametrize("step", [1, 1 << 22], ids=["in order", "far ahead"])
def test_a_flood_of_requests(payloads: tuple[Payload, ...], step: int) -> None:
    """What lies outside of the window of one is nobody's (§2.3); what lies in it is answered."""
    story = attached()
    flood = Flood(story)
    for number in range(REQUESTS):
        flood.send(number * step, *payloads)
    assert story.device.state is DeviceState.ESTABLISHED
    assert len(story.installed) == 1
    over(story)


def test_responses_that_nobody_asked_for() -> None:
    story = attached()
    flood = Flood(story)
    for number in range(REQUESTS):
        flood.send(number, response=True)
    assert story.device.state is DeviceState.ESTABLISHED
    over(story)


def test_fragments_that_are_never_complete() -> None:
    story = attached()
    flood = Flood(story)
    long = NotifyPayload(type=NotifyType.of(40000), data=bytes(3000))
    for number in range(REQUESTS):
        pieces = flood.sealer.seal_fragments(flood.message(number % 3, long), 300)
        flood.octets(pieces[number % (len(pieces) - 1)])
    story.run(PATIENCE)
    assert story.device.state is DeviceState.ESTABLISHED
    over(story)


def test_more_addresses_than_anybody_has() -> None:
    """ADDITIONAL_IP4_ADDRESS by the thousand, absurd ones among them; then silence on all of them."""
    liveness = initiator_config(identity=ME, liveness_interval=60.0)
    story = attached(ue_config=liveness)
    absurd = [bytes(4), b"\xff" * 4, bytes([127, 0, 0, 1]), bytes([224, 0, 0, 1]), bytes([192, 0, 2, 1])]
    many = [bytes([198, 18, number >> 8, number & 255]) for number in range(2000)]
    listed = [NotifyPayload(type=NotifyType.ADDITIONAL_IP4_ADDRESS, data=each) for each in (*absurd, *many)]
    Flood(story).send(0, *listed)
    story.gateway_up = False
    story.run(400.0)
    assert story.device.state is DeviceState.CLOSED
    told = story.event("connection-lost").text
    assert told.isprintable()
    assert len(told) < 300
    (addresses,) = [each for each in story.told if each.name == "gateway-addresses"]
    assert str(addresses.data).count("198.18.") <= 2 * ADDRESSES_MAXIMUM
    story.gateway_up = True
    over(story)


def test_a_responder_that_updates_addresses() -> None:
    """RFC 4555 §3.5: only the initiator does."""
    story = attached()
    assert story.sa is not None
    before = story.sa.path
    Flood(story).send(0, NotifyPayload(type=NotifyType.UPDATE_SA_ADDRESSES))
    story.run(2.0)
    assert story.sa.path == before
    over(story)


# --- CFG_REPLY ----------------------------------------------------------------------------------------


def grants(*attributes: tuple[Attribute, bytes]) -> Callable[[], ConfigurationReply]:
    made = tuple(ConfigurationAttribute(type=kind, value=value) for kind, value in attributes)
    return lambda: replace(granted(), attributes=made)


def ip(text: str) -> bytes:
    return IPv4Address(text).packed


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "0.0.0.1", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "203.0.113.1"],
)
def test_an_inner_address_that_nobody_can_have(address: str) -> None:
    """Of no host, or of an end of the tunnel: IKE's own packets would go astray."""
    story = Story(grant=grants((Attribute.INTERNAL_IP4_ADDRESS, ip(address))))
    why = story.attach()
    assert why is not None
    assert f"the gateway assigned {address}, which is" in why
    story.grant = None
    over(story)


@pytest.mark.parametrize("value", [b"\x01", bytes(3), bytes(5), bytes(16)])
def test_an_inner_address_of_another_length(value: bytes) -> None:
    story = Story(grant=grants((Attribute.INTERNAL_IP4_ADDRESS, value)))
    assert story.attach() == f"the gateway's INTERNAL_IP4_ADDRESS has {len(value)} octets"
    story.grant = None
    over(story)


def test_hundreds_of_inner_addresses() -> None:
    addresses = [(Attribute.INTERNAL_IP4_ADDRESS, bytes([10, 45, number >> 8, number & 255])) for number in range(300)]
    story = Story(grant=grants(*addresses))
    assert story.attach() == "the gateway assigned 300 addresses, where 8 would do"
    story.grant = None
    over(story)


def test_hundreds_of_servers_and_such_as_cannot_be_one() -> None:
    absurd = [(Attribute.INTERNAL_IP4_DNS, ip(each)) for each in ("0.0.0.0", "127.0.0.53", "224.0.0.251")]
    many = [(Attribute.INTERNAL_IP4_DNS, bytes([10, 45, number >> 8, number & 255])) for number in range(1, 300)]
    own = (Attribute.INTERNAL_IP4_ADDRESS, INNER.packed)
    story = attached(grant=grants(own, *absurd, (Attribute.INTERNAL_IP4_DNS, DNS.packed), *many))
    assert story.device.connection is not None
    assert story.device.connection.dns[0] == DNS
    assert len(story.device.connection.dns) == SERVERS_MAXIMUM
    story.grant = None
    over(story)


@pytest.mark.parametrize("period", [0, 1, 0xFFFFFFFF])
def test_an_absurd_period_of_silence(period: int) -> None:
    """TIMEOUT_PERIOD_FOR_LIVENESS_CHECK: none, a second, a century."""
    wanted = (Attribute.INTERNAL_IP4_ADDRESS, Attribute.TIMEOUT_PERIOD_FOR_LIVENESS_CHECK)
    asked = tuple(ConfigurationAttribute(type=kind, value=b"") for kind in wanted)
    given = ((wanted[0], INNER.packed), (wanted[1], period.to_bytes(4, "big")))
    story = attached(
        ue_config=initiator_config(identity=ME, configuration_request=asked, liveness_interval=60.0),
        grant=grants(*given),
    )
    assert story.sa is not None
    story.run(60.5)
    probes = story.sa.window.requests_sent - 4
    assert (probes == 1) if period == 0 else (50 < probes <= 66) if period == 1 else probes == 0
    story.grant = None
    over(story)


# --- attach -------------------------------------------------------------------------------------------


BAD_VALUES = {
    "x25519": {
        "zero": bytes(32),
        "of low order": b"\x01" + bytes(31),
        "short": bytes(31),
        "long": bytes(33),
        "none": b"",
    },
    "ecp256": {"zero": bytes(64), "not on the curve": b"\x01" * 64, "short": b"\x01" * 63, "compressed": b"\x02" * 33},
    "modp2048": {
        "zero": bytes(256),
        "one": (1).to_bytes(256, "big"),
        "p - 1": (int(PRIMES[KeGroup.MODP_2048], 16) - 1).to_bytes(256, "big"),
        "over the prime": b"\xff" * 256,
        "short": b"\x02" * 255,
        "none": b"",
    },
}


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, values in BAD_VALUES.items() for name in values])
def test_a_public_value_that_is_none(group: str, name: str) -> None:
    """RFC 7296 §2.12, RFC 6989: small subgroups, points off the curve, lengths that are not the group's."""
    policy = IkePolicy((IkeSuite.of(f"aes128-sha256-{group}"),))
    story = Story(
        ue_config=initiator_config(identity=ME, ike_policy=policy), gateway_config=responder_config(ike_policy=policy)
    )

    def spoilt(message: Message) -> Message:
        return replace(
            message,
            payloads=tuple(
                replace(each, data=BAD_VALUES[group][name]) if isinstance(each, KePayload) else each
                for each in message.payloads
            ),
        )

    story.changed = spoilt
    why = story.attach(seconds=PATIENCE)
    assert why is not None
    assert why.isprintable()
    assert story.device.state is DeviceState.CLOSED
    assert not story.installed
    over(story)


def test_a_chain_of_certificates_without_end() -> None:
    story = Story()

    def longer(message: Message) -> Message:
        certificates = [each for each in message.payloads if isinstance(each, CertPayload)]
        return replace(message, payloads=(*message.payloads, *(certificates * 40)))

    story.changed = longer
    assert story.attach() == "the gateway is not accepted: the peer sent more than 10 certificates"
    over(story)


@pytest.mark.parametrize("method", [4, 6, 13, 18, 26, 254])
def test_an_eap_method_that_the_ue_does_not_have(method: int) -> None:
    """RFC 3748 §5.3.1: it says what it has, once; the gateway goes on asking."""
    story = Story()
    rounds = iter(range(1, 200))

    def other(message: Message) -> Message:
        asked = bytes([1, next(rounds), 0, 6, method, 0])
        return replace(
            message,
            payloads=tuple(
                EapPayload(packet=asked) if isinstance(each, EapPayload) else each for each in message.payloads
            ),
        )

    story.changed = other
    why = story.attach(seconds=PATIENCE)
    assert why is not None
    assert why.isprintable()
    assert story.device.state is DeviceState.CLOSED
    over(story)


def test_the_gateways_words_make_no_lines() -> None:
    """IDr with control characters: the reason stays one line that commands no terminal."""
    identity = IdrPayload(id_type=IdType.ID_FQDN, data=b"a\nb\x1b[2J\x00")
    story = Story(
        ue_config=initiator_config(identity=ME, responder_identity=None),
        gateway_config=responder_config(identity=identity),
    )
    why = story.attach()
    assert why is not None
    assert why.isprintable()
    assert r"a\nb\x1b[2J\x00" in why
    story.gateway_config = None
    over(story)


def test_redirects_without_end() -> None:
    """Each gateway names another one (RFC 5685 §8: five at most)."""
    story = World(ue_config=initiator_config(identity=ME, redirect=RedirectObedience.ANY))
    arrive, seen = story._arrive, []

    def elsewhere(sender: str, datagram: Datagram) -> None:
        to = IPv4Address(int(GATEWAY.address) + 1 + len(seen))
        if sender == "ue":
            seen.append(datagram.path.local.address)
            story.gateway = IkeEndpoint(
                entropy=SeededEntropy(f"gateway {len(seen)}"),
                responder=responder_config(redirect=InitialRedirect(gateway=to)),
            )
        arrive(sender, datagram)

    story._arrive = elsewhere  # type: ignore[method-assign]
    why = story.attach(seconds=PATIENCE)
    assert why is not None
    assert "redirected" in why
    assert len(set(seen)) <= 6
    assert story.device.state is DeviceState.CLOSED
    assert (story.open, story.ue.sas) == (set(), {})


def test_answers_just_before_the_ue_gives_up() -> None:
    """A trickle: every datagram of the gateway's comes when the UE has asked for the last time."""
    policy = RetransmissionPolicy(base_interval=0.5, factor=2, cap=30, limit=3)
    config: InitiatorConfig = initiator_config(identity=ME, retransmission=policy)
    story = Story(ue_config=config)
    arrive, held = story._arrive, list[tuple[float, Datagram]]()

    def late(sender: str, datagram: Datagram) -> None:
        if sender == "gateway":
            held.append((story.now, datagram))
        else:
            arrive(sender, datagram)

    story._arrive = late  # type: ignore[method-assign]
    ticket = story.ask_only(lambda ticket: story.device.attach("a", ticket, story.now))
    while ticket not in story.finished and story.now < 200.0:
        story.run(7.0)
        while held:
            arrive("gateway", held.pop()[1])
        story.run(0.0)
    assert story.finished[ticket] is None
    assert story.now < 60.0
    story._arrive = arrive  # type: ignore[method-assign]
    over(story)


def test_ports_are_those_of_the_access() -> None:
    """What ``left`` looks at is there while the UE is attached: the cases above could fail."""
    story = attached()
    assert story.open == {Endpoint.of("192.0.2.1", port) for port in (500, 4500)}
    assert len(story.left()) == 5


class SlowHost(Story):
    """The kernel takes its time to make the device."""

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, StartHost):
            self.addresses = command.addresses
        else:
            super()._carry_out(command)


@pytest.mark.parametrize(
    ("ending", "words"),
    [("deleted", "the connection ended before it could be used: "), ("detached", "the UE was told to detach")],
)
def test_the_end_comes_before_the_device_is_there(ending: str, words: str) -> None:
    """Who waits for the attach hears of it."""
    story = SlowHost()
    ticket = story.ask_only(lambda ticket: story.device.attach("a", ticket, story.now))
    story.run(1.0)
    assert ticket not in story.finished
    if ending == "deleted":
        story.gateway.initiate(gateways(story), DeleteIkeSa("the gateway wants it so"), story.now)
    else:
        story.carry_out(story.device.detach(99, story.now))
    story.run(1.0)
    assert story.left() == []
    why = story.finished[ticket]
    assert why is not None
    assert why.startswith(words)
    assert (story.device.host_started(story.now), story.addresses) == ([], ())
