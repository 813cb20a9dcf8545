"""Invariant: whatever octets a target is given, it returns; an exception from it is a defect of the product.

Targets of the coverage-guided fuzzer (``python -m tests.fuzz.guided``). Each takes octets and feeds one room: a
decoder (what decodes must encode and decode to itself), a machine with octets from the network, or a machine
with the plaintext of a peer that holds the right keys. ``SEEDS`` are where the search starts.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

from scapy.utils import RawPcapReader

from epdg.pdn.configuration import GrantedNetwork, Request, only_allowed, possible, reply, selectors
from protocols.buffer import Reader
from protocols.diameter.codec import RequestError, check_request, encode_message, redact
from protocols.diameter.codec import decode_message as decode_diameter
from protocols.diameter.swm import Dea, Der, Str
from protocols.eap.aka.attributes import decode_attributes, encode_attributes
from protocols.eap.packet import EapPacket
from protocols.entropy import SeededEntropy
from protocols.errors import DecodeError, RemoteError
from protocols.esp.packet import sealer_of
from protocols.esp.sa import ChildSa
from protocols.ikev2.description import describe
from protocols.ikev2.events import SaState
from protocols.ikev2.message import Message, decode_header, decode_message
from protocols.ikev2.message import encode_message as encode_ikev2
from protocols.ikev2.payloads import ConfigurationPayload, decode_payloads, encode_payloads
from protocols.ikev2.registry import ExchangeType, PayloadType
from protocols.ikev2.task import Task
from protocols.ikev2.tasks.informational import DeleteIkeSa, Liveness
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ip import IcmpEcho, IpPacket, UdpDatagram, flow_of
from protocols.path import Datagram
from protocols.threegpp.backoff import decode_backoff
from protocols.threegpp.description import ATTRIBUTE_NAMES, NOTIFY_DATA
from protocols.threegpp.identity import Apn, Imsi, Nai
from protocols.threegpp.swu import decode_device_identity
from tests.dataplane.pairs import SUITES, mirrored, ue_spec
from tests.fuzz import compiled, conversations, test_diameter, test_eap, test_eap_peer
from tests.fuzz.conversations import CONVERSATIONS
from tests.fuzz.injection import drain, established, fresh, inject, next_expected, outstanding, spent
from tests.harness.material import SHARED
from tests.harness.pair import ACCESS_A, Pair
from ue.configuration import Granted, p_cscf_among

EXCHANGES = (
    ExchangeType.IKE_AUTH,
    ExchangeType.CREATE_CHILD_SA,
    ExchangeType.INFORMATIONAL,
    ExchangeType.IKE_SA_INIT,
)
ADDRESSES = (ip_address("10.45.0.2"), ip_address("2001:db8::2"))
MALFORMED = SHARED / "captures" / "malformed"


# --- decoders


def ikev2_message(octets: bytes) -> None:
    """A datagram; what decodes is the same after a round trip."""
    try:
        message = decode_message(octets)
    except RemoteError:
        return
    assert decode_message(encode_ikev2(message)) == message
    message.summary()
    _describe(message)


def ikev2_payloads(octets: bytes) -> None:
    """A chain of payloads, its first type in front: what a decrypted message is."""
    if not octets:
        return
    try:
        payloads = decode_payloads(PayloadType.of(octets[0]), octets[1:])
    except RemoteError:
        return
    first, body = encode_payloads(payloads)
    assert decode_payloads(PayloadType.of(first), body) == payloads
    _describe(
        Message(
            spi_i=bytes(8),
            spi_r=bytes(8),
            exchange=ExchangeType.IKE_AUTH,
            original_initiator=True,
            response=False,
            message_id=1,
            payloads=payloads,
        )
    )


def _describe(message: Message) -> None:
    """Any message can be told about, one entry for each payload, in JSON."""
    described = describe(message, notify_data=NOTIFY_DATA, attribute_names=ATTRIBUTE_NAMES)
    assert len(json.loads(json.dumps(described))) == len(message.payloads)


def eap(octets: bytes) -> None:
    """An EAP packet, and AKA's attributes."""
    with contextlib.suppress(DecodeError):
        packet = EapPacket.decode(octets)
        assert EapPacket.decode(packet.encode()) == packet
    with contextlib.suppress(DecodeError):
        attributes = decode_attributes(Reader(octets))
        assert decode_attributes(Reader(encode_attributes(attributes))) == attributes


def diameter(octets: bytes) -> None:
    """A Diameter message and the typed commands."""
    assert len(redact(octets)) == len(octets)
    try:
        message = decode_diameter(octets)
    except DecodeError:
        return
    assert decode_diameter(encode_message(message)) == message
    with contextlib.suppress(RequestError):
        check_request(message)
    for value in (Der, Dea, Str):
        with contextlib.suppress(RemoteError):
            value.from_message(message)


def ip(octets: bytes) -> None:
    """An IP packet out of a tunnel."""
    with contextlib.suppress(DecodeError):
        flow_of(octets)
    with contextlib.suppress(DecodeError):
        packet = IpPacket.decode(octets)
        for kind in (UdpDatagram, IcmpEcho):
            with contextlib.suppress(DecodeError):
                kind.decode(packet)


def identities(octets: bytes) -> None:
    """Identities as a peer writes them."""
    text = octets.decode("utf-8", "replace")
    for parse in (Nai.parse, Apn, Imsi):
        with contextlib.suppress(ValueError):
            parse(text)
    for decode in (decode_device_identity, decode_backoff):
        with contextlib.suppress(RemoteError):
            decode(octets)


def configuration(octets: bytes) -> None:
    """Configuration attributes as each end takes them; what a gateway grants to a request a UE understands."""
    try:
        payload = ConfigurationPayload.decode(Reader(octets))
    except DecodeError:
        return
    with contextlib.suppress(RemoteError):
        Granted.of(payload.attributes)
    p_cscf_among(payload.attributes)
    request = Request.of(payload.attributes)
    network = GrantedNetwork(versions=(4, 6), dns=ADDRESSES, p_cscf=ADDRESSES, application_version="1")
    given = ADDRESSES[: len(request.versions)]
    granted = Granted.of(reply(request, given, network))
    assert granted.addresses == given
    assert all(selectors(given)) or not given
    only_allowed(request, given, possible(network, None))


# --- machines and the network


def ikev2_endpoint(octets: bytes) -> None:
    """Datagrams for a gateway and a UE that have an SA; nothing that is not authentic changes it."""
    pair = established()
    sa, ue = pair.epdg.live, pair.ue.live
    for data in (octets, sa.spi_i + sa.spi_r + octets, sa.spi_i + bytes(8) + octets):
        for node, path in ((pair.epdg, sa.path), (pair.ue, ue.path)):
            node.endpoint.receive(Datagram(path, data), pair.now)
            drain(node)
    assert sa.state is ue.state is SaState.ESTABLISHED


def ikev2_init_response(octets: bytes) -> None:
    """What answers an IKE_SA_INIT request; no keys protect it."""
    pair = fresh()
    pair.start(ACCESS_A)
    drain(pair.ue)
    sa = pair.ue.live
    head = sa.spi_i + octets[:8].ljust(8, b"\x01")
    body = octets[8:]
    first = body[:1] or b"\0"
    length = (28 + max(0, len(body) - 1)).to_bytes(4, "big")
    datagram = head + first + b"\x20\x22\x20" + bytes(4) + length + body[1:]
    pair.ue.endpoint.receive(Datagram(sa.path, datagram), pair.now)
    drain(pair.ue)


def diameter_machine(octets: bytes) -> None:
    """A Diameter connection's octets, before and after the capabilities are exchanged."""
    fresh = test_diameter.machine()
    fresh.start_responder(0.0)
    opened, _ = test_diameter.opened()
    opened.send_request(test_diameter.valid_der(), 0.0)
    for machine in (fresh, opened):
        machine.receive(octets, 0.0)
        test_diameter.drain(machine)
        machine.handle_timeout(60.0)
        test_diameter.drain(machine)
        machine.disconnected(61.0)
        test_diameter.drain(machine)


def eap_machines(octets: bytes) -> None:
    """EAP packets for a peer and a server in the middle of their exchange; neither believes them."""
    if not octets:
        return
    step = octets[0] % 3
    peer = test_eap.advanced_peer(step)
    peer.receive(octets[1:])
    heard = test_eap.drain_peer(peer)
    genuine = octets[1:].startswith(test_eap.recorded()[0])  # RFC 3748 §4.1: what follows its Length is padding
    assert genuine or not any(test_eap.accepts(event) for event in heard)
    server = test_eap.advanced_server(step % 2)
    server.receive(octets[1:])
    told = test_eap.drain_server(server)
    genuine = octets[1:].startswith(test_eap.recorded()[1])
    assert genuine or not any(test_eap.accepts(event) for event in told)


# --- a peer with the right keys


def ikev2_plaintext_for_gateway(octets: bytes) -> None:
    """The decrypted requests and responses of a UE."""
    _plaintext(octets, "ue")


def ikev2_plaintext_for_ue(octets: bytes) -> None:
    """The decrypted requests and responses of a gateway."""
    _plaintext(octets, "epdg")


def esp(octets: bytes) -> None:
    """An inner packet under the right keys, and octets under none."""
    spec = ue_spec(SUITES[0])
    peer = mirrored(spec)
    sealer = sealer_of(
        spec.suite, peer.outbound_spi, peer.outbound_encryption_key, peer.outbound_integrity_key, SeededEntropy(2)
    )
    sa = ChildSa(spec, SeededEntropy(1))
    sa.open(sealer.seal(1, octets[1:], octets[0] if octets else 4))
    sa.open(spec.inbound_spi + octets)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        ikev2_message,
        ikev2_payloads,
        ikev2_endpoint,
        ikev2_init_response,
        *CONVERSATIONS,
        ikev2_plaintext_for_gateway,
        ikev2_plaintext_for_ue,
        eap,
        eap_machines,
        test_eap_peer.peer_of_either_method,
        diameter,
        diameter_machine,
        esp,
        *compiled.TARGETS,
        ip,
        identities,
        configuration,
    )
}


def target(names: str) -> Callable[[bytes], None]:
    """The target of that name, or several joined by commas, of which an input's first octet chooses one."""
    chosen = [TARGETS.get(name, defective) for name in names.split(",")]
    if len(chosen) == 1:
        return chosen[0]

    def choose(octets: bytes) -> None:
        if octets:
            chosen[octets[0] % len(chosen)](octets[1:])

    return choose


def defective(octets: bytes) -> None:
    """Not of the product: shows in a test that coverage leads to a finding and that it is reported."""
    try:
        decode_header(octets.ljust(28, b"\0"))
    except RemoteError as error:
        if octets[:1] == b"\x45" and error.notify_type is not None:
            raise AssertionError("a defect on purpose") from error


# --- how machines are kept


def _plaintext(octets: bytes, sender: str) -> None:
    """A request of ``sender``'s, or its response to one of three requests of the receiver's."""
    if len(octets) < 2:
        return
    pair = established()
    choice, rest = octets[0], octets[1:]
    receiver = pair.epdg if sender == "ue" else pair.ue
    sa = receiver.live
    if choice & 4:
        pair.lose = lambda who, datagram: True
        tasks: tuple[Task, ...] = (Liveness(), RekeyChild(next(iter(sa.children), b"")), DeleteIkeSa("fuzzing"))
        task = tasks[(choice >> 3) % len(tasks)]
        receiver.endpoint.initiate(sa, task, pair.now)
        pair.run(0.01)
        inject(pair, sender, task.exchange, rest, response=True, message_id=outstanding(sa))
        spent()
    else:
        inject(pair, sender, EXCHANGES[choice & 3], rest, response=False, message_id=next_expected(sa))


# --- where the search starts


@functools.cache
def _conversation() -> Pair:
    return fresh().attach()


def seeds(name: str) -> Iterator[bytes]:
    """Octets that reach far into a target: a real attach, real exchanges, and the malformed captures."""
    if "," in name:
        for number, part in enumerate(name.split(",")):
            for octets in seeds(part):
                yield bytes((number,)) + octets
        return
    pair = _conversation()
    datagrams = [datagram.payload for _, datagram in pair.seen]
    if name in ("ikev2_message", "ikev2_endpoint"):
        yield from datagrams
        yield from malformed(MALFORMED)
    elif name == "ikev2_init_response":
        answer = next(d.payload for who, d in pair.seen if who == "epdg")
        yield answer[8:17] + answer[28:]
    elif name in {target.__name__ for target in CONVERSATIONS}:
        yield from conversations.seeds(name)
    elif name.startswith("compiled"):
        yield from compiled.seeds(name)
    elif name.startswith("ikev2"):
        from tests.codecs.test_ikev2_payloads import TABLE

        for payload, _, _ in TABLE:
            first, body = encode_payloads((payload,))
            chain = bytes([first]) + body
            if name.startswith("ikev2_plaintext"):
                yield bytes([len(chain) & 7]) + chain
            else:
                yield chain
    elif name.startswith("eap"):
        for packets in test_eap.recorded():
            for step, packet in enumerate(packets):
                yield packet if name == "eap" else bytes([step]) + packet
                yield packet[8:]
    elif name == "peer_of_either_method":
        yield from test_eap_peer.seeds()
    elif name.startswith("diameter"):
        yield encode_message(test_diameter.valid_der())
        one = test_diameter.machine()
        one.start_initiator(0.0)
        yield one.poll_transmit() or b""
    elif name == "configuration":
        for kind in (b"\1", b"\2"):
            yield kind + bytes(3) + b"".join(bytes((0, number, 0, 0)) for number in (1, 2, 3, 7, 8, 10, 14, 20, 21))
            yield kind + bytes.fromhex("000000 00010004 0a2d0002 4000 0004 01020304 00080011") + bytes(17)
    elif name == "identities":
        yield test_eap.NAI.encode()
        yield b"ims.mnc001.mcc001.gprs"
        yield bytes.fromhex("010821436587092143f5")
    else:
        yield bytes.fromhex("45000054000040004001000a0a2d00020a2d0001")
        yield bytes.fromhex("0445000054000040004001000a0a2d00020a2d0001") + bytes(64)


def malformed(directory: Path) -> Iterator[bytes]:
    """The UDP payloads (and what else there is) of captures of malformed messages, where they are at hand."""
    if not directory.is_dir():
        return
    for file in sorted(directory.iterdir()):
        with RawPcapReader(str(file)) as reader:
            for packet, _ in reader:
                yield bytes(packet)[42:]
