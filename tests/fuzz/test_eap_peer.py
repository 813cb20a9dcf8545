"""Invariant: whatever a server of either method sends, a peer raises nothing, and none without its keys is believed.

A server that does have the keys (right AT_MAC, its own attributes and nested ones) may make it do anything but raise.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols.eap.aka.attributes import (
    AtAnyIdReq,
    AtEncrData,
    AtIv,
    AtMac,
    AtNextPseudonym,
    AtNextReauthId,
    AtRes,
    AtResultInd,
    UnknownAttribute,
)
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.peer import PacketToSend, PeerEvent, PeerOptions, Succeeded
from protocols.eap.aka.protection import encode_with_mac, encrypt_attributes
from protocols.eap.packet import EapPacket, EapType
from protocols.errors import DecodeError
from tests.fuzz.test_eap import ATTRIBUTES, built, disturbed
from tests.harness.aka_server import NAI, PRIME_NAI, REALM, FedPeer, HandMadeServer, identity_request

METHODS = (EapType.AKA, EapType.AKA_PRIME)
STAGES = ("new", "identified", "fast", "notified")
OPTIONS = PeerOptions(result_indications=True, network_name="WLAN")
FEW = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def at(stage: str, method: EapType) -> tuple[HandMadeServer, FedPeer, bytes]:
    """A peer at a stage of an exchange, and the server's next packet; ``fast`` and ``notified`` re-authenticate."""
    server = HandMadeServer(method=method)
    permanent = NAI if method is EapType.AKA else PRIME_NAI
    first = FedPeer(OPTIONS, nai=permanent)
    if stage == "new":
        return server, first, server.challenge(permanent, AtResultInd())
    if stage == "identified":
        first.hear(server.ask(AtAnyIdReq()))
        return server, first, server.challenge(permanent)
    first.hear(server.challenge(permanent, nested=[AtNextPseudonym(b"2x"), AtNextReauthId(b"4x")]))
    first.succeed(server.identifier)
    peer = FedPeer(OPTIONS, first.held, nai=permanent, usim=first.usim)
    peer.hear(identity_request(server.identifier))
    if stage == "fast":
        return server, peer, server.reauthentication(1, nested=[AtNextReauthId(b"4y")])
    peer.hear(server.reauthentication(1, AtResultInd()))
    return server, peer, server.notification(32768, counter=1)


def believes(event: PeerEvent) -> bool:
    """Whether the peer takes the server for authentic: success, RES, or the answer to a re-authentication."""
    if isinstance(event, Succeeded):
        return True
    if not isinstance(event, PacketToSend) or EapPacket.decode(event.packet).type not in METHODS:
        return False
    message = AkaMessage.decode(event.packet)
    return message.get(AtRes) is not None or message.subtype == AkaSubtype.REAUTHENTICATION


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stage", ["new", "fast", "notified"])
def test_every_disturbance_of_a_request(stage: str, method: EapType) -> None:
    # every third: each octet has eight changed bits, so every one of them is met
    for packet in disturbed(at(stage, method)[2])[::3]:
        _, peer, _ = at(stage, method)
        before = len(peer.seen)
        peer.hear(packet)
        assert not any(believes(event) for event in peer.seen[before:])


@FEW
@given(
    st.sampled_from(STAGES),
    st.sampled_from(METHODS),
    st.lists(
        st.one_of(
            st.binary(max_size=80),
            st.builds(built, st.just(1), st.integers(0, 255), st.sampled_from([1, 5, 12, 13, 99]), ATTRIBUTES),
        ),
        max_size=6,
    ),
)
def test_random_packets(stage: str, method: EapType, packets: list[bytes]) -> None:
    _, peer, _ = at(stage, method)
    before = len(peer.seen)
    for packet in packets:
        if len(packet) > 4:
            packet = packet[:4] + bytes([method]) + packet[5:]
        peer.hear(packet)
    assert stage == "notified" or not any(believes(event) for event in peer.seen[before:])


@FEW
@given(
    st.sampled_from(STAGES),
    st.sampled_from(METHODS),
    st.sampled_from([1, 5, 12, 13, 99]),
    ATTRIBUTES,
    st.lists(st.tuples(st.sampled_from([6, 19, 20, 21, 132, 133, 200]), st.binary(max_size=40)), max_size=4),
)
def test_a_server_with_the_right_keys_cannot_make_it_raise(
    stage: str,
    method: EapType,
    subtype: int,
    attributes: list[tuple[int, int, bytes]],
    nested: list[tuple[int, bytes]],
) -> None:
    server, peer, _ = at(stage, method)
    packet = built(1, 99, subtype, attributes)
    packet = packet[:4] + bytes([method]) + packet[5:]
    inside = [UnknownAttribute(number, value + bytes(-(len(value) + 2) % 4)) for number, value in nested]
    try:
        message = AkaMessage.decode(packet)
    except DecodeError:
        message = server.message(subtype)
    sealed = encrypt_attributes(inside, server.keys.k_encr, bytes(16)) if inside else ()
    kept = tuple(each for each in message.attributes if not isinstance(each, AtMac | AtIv | AtEncrData))
    peer.hear(encode_with_mac(replace(message, attributes=(*kept, *sealed)), server.keys.k_aut))
    assert REALM in peer.machine.identity


def peer_of_either_method(octets: bytes) -> None:
    """Packets for a peer of either method at any stage; what is not the genuine packet is not believed."""
    if not octets:
        return
    stage, method = STAGES[octets[0] >> 1 & 3], METHODS[octets[0] & 1]
    _, peer, genuine = at(stage, method)
    before = len(peer.seen)
    peer.hear(octets[1:])
    believed = any(believes(event) for event in peer.seen[before:])
    assert octets[1:].startswith(genuine) or not believed


def seeds() -> list[bytes]:
    """The genuine packet of every stage."""
    return [
        bytes([number << 1 | prime]) + at(stage, method)[2]
        for number, stage in enumerate(STAGES)
        for prime, method in enumerate(METHODS)
    ]


def test_the_genuine_packets_are_taken() -> None:
    for octets in seeds():
        peer_of_either_method(octets)
        stage, method = STAGES[octets[0] >> 1 & 3], METHODS[octets[0] & 1]
        _, peer, genuine = at(stage, method)
        before = len(peer.seen)
        assert peer.hear(genuine) is not None
        assert stage == "notified" or any(believes(event) for event in peer.seen[before:])
