"""Invariant: a peer's octets raise DecodeError from the codecs and nothing at all from the machines.

Beside random octets: every truncation and every one-bit change of every message of real exchanges, and
messages with right headers and random attributes. A machine that was fed garbage never reports success.
"""

from __future__ import annotations

import contextlib
import functools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols.algorithms.milenage import Milenage
from protocols.algorithms.vector import AkaVector, generate_vector
from protocols.buffer import Reader
from protocols.eap.aka import peer as peer_side
from protocols.eap.aka import server as server_side
from protocols.eap.aka.attributes import AtNotification, AtRes, decode_attributes, encode_attributes
from protocols.eap.aka.messages import AkaMessage, NotificationCode
from protocols.eap.aka.outcome import PacketToSend
from protocols.eap.aka.protection import mac_verifies
from protocols.eap.packet import EapCode, EapPacket, EapType
from protocols.entropy import SeededEntropy
from protocols.errors import DecodeError
from protocols.secret import Secret
from protocols.threegpp.identity import Imsi, Nai
from ue.usim import SoftwareUsim

IMSI = Imsi("001010000000001")
NAI = "0001010000000001@nai.epc.mnc001.mcc001.3gppnetwork.org"
K, OPC = Secret(bytes(range(16))), Secret(bytes(range(16, 32)))
FEW = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@functools.cache
def vector() -> AkaVector:
    """The vector of every exchange here."""
    return generate_vector(Milenage(K, opc=OPC), rand=bytes(range(16)), sqn=33)


def new_server() -> server_side.EapAkaServer:
    """A server that asks for an identity and wants result indications, for the longest exchange."""
    options = server_side.ServerOptions(always_request_identity=True, result_indications=True)
    return server_side.EapAkaServer(entropy=SeededEntropy(1), options=options)


def new_peer() -> peer_side.EapAkaPeer:
    """Its peer."""
    options = peer_side.PeerOptions(result_indications=True)
    return peer_side.EapAkaPeer(nai=NAI, imsi=IMSI, entropy=SeededEntropy(2), options=options)


def drain_server(server: server_side.EapAkaServer) -> list[server_side.ServerEvent]:
    """The server's events, its questions answered."""
    events = []
    while (event := server.poll_event()) is not None:
        events.append(event)
        if isinstance(event, server_side.VectorRequested):
            server.answer_vector(vector())
    return events


def drain_peer(peer: peer_side.EapAkaPeer) -> list[peer_side.PeerEvent]:
    """The peer's events, its questions answered by a fresh USIM."""
    usim = SoftwareUsim(imsi=IMSI, k=K, opc=OPC)
    events = []
    while (event := peer.poll_event()) is not None:
        events.append(event)
        if isinstance(event, peer_side.ChallengeReceived):
            peer.answer(usim.authenticate(event.rand, event.autn))
    return events


@functools.cache
def recorded() -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """What server and peer say in the undisturbed exchange, the final EAP-Success included."""
    server, peer = new_server(), new_peer()
    server.start(NAI.encode())
    down: list[bytes] = []
    up: list[bytes] = []
    while not server.concluded:
        for event in drain_server(server):
            if isinstance(event, (PacketToSend, server_side.Succeeded)):
                down.append(event.packet)
                peer.receive(event.packet)
        for heard in drain_peer(peer):
            if isinstance(heard, PacketToSend):
                up.append(heard.packet)
                server.receive(heard.packet)
    down += [event.packet for event in drain_server(server) if isinstance(event, server_side.Succeeded)]
    assert (len(down), len(up)) == (4, 3)
    return tuple(down), tuple(up)


def disturbed(packet: bytes) -> list[bytes]:
    """Every truncation, with the length as it was and as it would be; every changed bit."""
    found = [packet[:length] for length in range(len(packet))]
    found += [packet[:2] + n.to_bytes(2, "big") + packet[4:n] for n in range(4, len(packet))]
    for at in range(len(packet)):
        found += [packet[:at] + bytes([packet[at] ^ 1 << bit]) + packet[at + 1 :] for bit in range(8)]
    return found


def advanced_peer(steps: int) -> peer_side.EapAkaPeer:
    """A peer that has heard the first packets of the exchange."""
    peer = new_peer()
    for packet in recorded()[0][:steps]:
        peer.receive(packet)
        drain_peer(peer)
    return peer


def advanced_server(steps: int) -> server_side.EapAkaServer:
    """A server that has heard the first packets of the exchange."""
    server = new_server()
    server.start(NAI.encode())
    drain_server(server)
    for packet in recorded()[1][:steps]:
        server.receive(packet)
        drain_server(server)
    return server


def accepts(event: peer_side.PeerEvent | server_side.ServerEvent) -> bool:
    """Whether a machine believes the other end: RES from the peer, success or its notification."""
    if isinstance(event, (peer_side.Succeeded, server_side.Succeeded)):
        return True
    if not isinstance(event, PacketToSend):
        return False
    packet = EapPacket.decode(event.packet)
    if packet.type != EapType.AKA:
        return False
    message = AkaMessage.from_packet(packet)
    told = message.get(AtNotification)
    return message.get(AtRes) is not None or (told is not None and told.value == NotificationCode.SUCCESS)


def test_the_undisturbed_exchange_is_accepted() -> None:
    peer, server = advanced_peer(1), advanced_server(1)
    peer.receive(recorded()[0][1])
    assert any(accepts(event) for event in drain_peer(peer))
    server.receive(recorded()[1][1])
    assert any(accepts(event) for event in drain_server(server))


@pytest.mark.parametrize("step", range(3))
def test_peer_stands_every_disturbance_of_every_request(step: int) -> None:
    for packet in disturbed(recorded()[0][step]):
        peer = advanced_peer(step)
        peer.receive(packet)
        events = drain_peer(peer)
        assert len(events) <= 2
        assert not any(accepts(event) for event in events)


@pytest.mark.parametrize("step", range(2))
def test_server_stands_every_disturbance_of_every_response(step: int) -> None:
    for packet in disturbed(recorded()[1][step]):
        server = advanced_server(step)
        server.receive(packet)
        events = drain_server(server)
        assert 1 <= len(events) <= 2
        assert not any(accepts(event) for event in events)


@FEW
@given(st.binary(max_size=300))
def test_decoders_on_random_octets(octets: bytes) -> None:
    with contextlib.suppress(DecodeError):
        packet = EapPacket.decode(octets)
        assert EapPacket.decode(packet.encode()) == packet
    with contextlib.suppress(DecodeError):
        attributes = decode_attributes(Reader(octets))
        assert decode_attributes(Reader(encode_attributes(attributes))) == attributes


ATTRIBUTES = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 3, 4, 6, 10, 11, 12, 13, 14, 17, 19, 21, 22, 23, 129, 130, 132, 134, 135, 136, 200]),
        st.integers(0, 7),
        st.binary(min_size=26, max_size=26),
    ),
    max_size=6,
)


def built(code: int, identifier: int, subtype: int, attributes: list[tuple[int, int, bytes]]) -> bytes:
    """A packet with a right header."""
    data = bytes([subtype, 0, 0])
    for number, units, value in attributes:
        data += bytes([number, units]) + value[: max(0, units * 4 - 2)]
    return EapPacket(code=EapCode(code), identifier=identifier, type=EapType.AKA, data=data).encode()


@FEW
@given(st.sampled_from([1, 2]), st.sampled_from([1, 2, 4, 5, 12, 13, 14, 99]), ATTRIBUTES)
def test_messages_of_random_attributes(code: int, subtype: int, attributes: list[tuple[int, int, bytes]]) -> None:
    octets = built(code, 1, subtype, attributes)
    try:
        message = AkaMessage.decode(octets)
    except DecodeError:
        return
    assert AkaMessage.decode(message.encode()) == message
    assert not mac_verifies(octets, Secret(bytes(16)))


@FEW
@given(
    st.integers(0, 3),
    st.lists(
        st.one_of(
            st.binary(max_size=80),
            st.builds(built, st.just(1), st.integers(0, 3), st.sampled_from([1, 5, 12, 13]), ATTRIBUTES),
        ),
        max_size=8,
    ),
)
def test_peer_on_random_packets(step: int, packets: list[bytes]) -> None:
    peer = advanced_peer(step)
    for packet in packets:
        peer.receive(packet)
        for event in drain_peer(peer):
            assert step == 3 or not isinstance(event, peer_side.Succeeded)


@FEW
@given(
    st.integers(0, 2),
    st.lists(
        st.one_of(
            st.binary(max_size=80),
            st.tuples(st.sampled_from([1, 2, 4, 5, 12, 14]), ATTRIBUTES),
        ),
        max_size=8,
    ),
)
def test_server_on_random_packets(step: int, packets: list[bytes | tuple[int, list[tuple[int, int, bytes]]]]) -> None:
    server = advanced_server(step)
    identifier = recorded()[0][step][1]  # the outstanding request's, so that packets are read at all
    for packet in packets:
        server.receive(packet if isinstance(packet, bytes) else built(2, identifier, *packet))
        for event in drain_server(server):
            assert step == 2 or not isinstance(event, server_side.Succeeded)
            if isinstance(event, PacketToSend):
                identifier = event.packet[1]


@FEW
@given(st.text(max_size=60))
def test_identities_raise_value_errors_only(text: str) -> None:
    with contextlib.suppress(ValueError):
        nai = Nai.parse(text)
        assert str(nai) == text
        assert nai.imsi is None or str(nai.imsi) in text
        assert nai.kind is not None
        assert nai.plmn is None or nai.realm or nai.decoration
