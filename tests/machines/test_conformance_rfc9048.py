"""Rules of RFC 9048 that no other test is about; each test names its clause."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aaa.hss.local import LocalHss
from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.algorithms.vector import SQN_LENGTH
from protocols.buffer import Reader
from protocols.eap.aka import server as eap
from protocols.eap.aka.attributes import (
    AtAnyIdReq,
    AtBidding,
    AtIdentity,
    AtKdf,
    AtNextReauthId,
    AtPermanentIdReq,
    decode_attributes,
    encode_attributes,
)
from protocols.eap.aka.keys import derive_keys
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.outcome import AkaFailure, PacketToSend
from protocols.eap.aka.peer import PeerOptions
from protocols.eap.aka.server import EapAkaServer
from protocols.eap.packet import EapType, identity_response
from protocols.entropy import SeededEntropy
from tests.harness.aka_server import NAI, PRIME_NAI, FedPeer, HandMadeServer, identity_request
from tests.harness.eap_by_formula import IMSI, REALM, FormulaPeer, vector
from tests.harness.eap_network import AKA, PRIME, Network, only
from tests.harness.subscribers import Table

USER = laboratory_subscriber(1)


# --- attributes (§3.1, §3.2, §4)


def test_at_kdf_and_at_bidding_are_one_word_with_reserved_bits_of_zero() -> None:
    """§3.2, §4: "the Length field MUST be set to 1", reserved bits "set to zero when sent and ignored on receipt"."""
    assert encode_attributes([AtKdf(1)]) == bytes.fromhex("18010001")
    assert encode_attributes([AtBidding(True), AtBidding(False)]) == bytes.fromhex("8801800088010000")
    for octets, preferred in (("8801ffff", True), ("88017fff", False)):
        assert decode_attributes(Reader(bytes.fromhex(octets))) == (AtBidding(preferred),)


def test_a_peer_that_has_no_name_for_its_network_compares_none() -> None:
    """§3.1: it relies on AT_KDF_INPUT alone, whose name goes into the keys as received."""
    server = HandMadeServer(method=EapType.AKA_PRIME, name=b"NOBODY:knows")
    peer = FedPeer(PeerOptions(network_name=None))
    assert peer.told(server.challenge(NAI)).subtype == AkaSubtype.CHALLENGE
    assert peer.succeed(server.identifier).msk == server.keys.msk


# --- AMF (§3.3, §7.4)


@pytest.mark.parametrize("amf", [b"\x00\x00", b"\x7f\xff", b"\x80\x01"])
def test_the_home_network_sets_the_separation_bit(amf: bytes) -> None:
    """§3.3, §7.4: whatever the subscriber's AMF; in EAP-AKA that stays as it is."""
    hss = LocalHss(Table(replace(USER, amf=amf)), SeededEntropy("hss"))
    sent = hss.authentication_vector(USER.imsi, None, prime_for=b"WLAN").autn[SQN_LENGTH : SQN_LENGTH + 2]
    assert sent == bytes([amf[0] | 0x80, amf[1]])
    plain = hss.authentication_vector(USER.imsi, None).autn[SQN_LENGTH : SQN_LENGTH + 2]
    assert plain == amf


# --- identities of the key derivation (§5.3.1)


def test_the_server_derives_keys_from_the_identity_of_at_identity() -> None:
    """§5.3.1: exactly the one sent in AT_IDENTITY, whatever was said before."""
    network = Network(options=replace(only(PRIME), always_request_identity=True))
    outcome = network.succeed(FormulaPeer(methods=(PRIME,)), f"6{IMSI}@another.example.org")
    assert outcome.identity == f"6{IMSI}@{REALM}".encode()


def test_the_server_derives_keys_from_the_identity_of_eap_identity() -> None:
    """§5.3.1: where no AT_IDENTITY was sent."""
    identity = f"6{IMSI}@{REALM}".encode()
    server = EapAkaServer(entropy=SeededEntropy(1), options=only(PRIME))
    server.receive(identity_response(1, identity))
    asked = server.poll_event()
    assert isinstance(asked, eap.VectorRequested)
    mine = vector(1, method=PRIME, network_name=asked.network_name)
    server.answer_vector(mine)
    sent = server.poll_event()
    assert isinstance(sent, PacketToSend)
    peer = FormulaPeer(methods=(PRIME,))
    peer.begin(identity.decode())
    server.receive(peer.answer(sent.packet))
    outcome = server.poll_event()
    assert isinstance(outcome, eap.Succeeded)
    assert outcome.identity == identity
    assert outcome.msk == derive_keys(identity, ik=mine.ik, ck=mine.ck, method=PRIME).msk


@pytest.mark.parametrize("asked", ["nothing", "EAP-Request/Identity", "AT_ANY_ID_REQ", "twice"])
def test_the_peer_derives_keys_from_the_identity_that_it_said_last(asked: str) -> None:
    """§5.3.1: "the identity most recently communicated by the peer to the network"."""
    outer = "6001010000000001@outer.example.org"
    server, peer = HandMadeServer(method=EapType.AKA_PRIME), FedPeer(nai=PRIME_NAI, outer=outer)
    expected = outer
    if asked == "EAP-Request/Identity":
        assert peer.hear(identity_request()) == identity_response(200, outer.encode())
    elif asked != "nothing":
        for question in (AtAnyIdReq(), AtPermanentIdReq())[: 1 if asked == "AT_ANY_ID_REQ" else 2]:
            expected = peer.told(server.ask(question)).require(AtIdentity).value.decode()
        assert expected == PRIME_NAI
    peer.told(server.challenge(expected))
    outcome = peer.succeed(server.identifier)
    assert (outcome.identity, outcome.msk) == (expected.encode(), server.keys.msk)


# --- fast reconnect across method types (§7)


@pytest.mark.parametrize(("first", "second"), [(AKA, PRIME), (PRIME, AKA)])
def test_the_server_keeps_fast_reauthentication_within_a_method(first: EapType, second: EapType) -> None:
    """§7: "implementations MUST prevent performing a fast reconnect across method types"."""
    network = Network(options=only(first))
    peer = FormulaPeer(methods=(first,))
    network.succeed(peer)
    identity = peer.reauthentication
    network.options = only(second)
    other = FormulaPeer(methods=(second,))
    assert not network.succeed(other, identity).fast
    # and where whoever stores contexts hands out one of the other method
    network = Network(options=only(second))
    peer = FormulaPeer(methods=(second,))
    network.succeed(peer)
    network.contexts = {name: replace(context, method=first) for name, context in network.contexts.items()}
    assert not network.succeed(peer).fast


@pytest.mark.parametrize(("first", "second"), [(AKA, PRIME), (PRIME, AKA)])
def test_the_peer_keeps_fast_reauthentication_within_a_method(first: EapType, second: EapType) -> None:
    """§7: neither is the identity given in the other method, nor a request of it answered."""
    server, peer = HandMadeServer(method=first), FedPeer()
    peer.told(server.challenge(NAI, nested=[AtNextReauthId(b"8once" if first is PRIME else b"4once")]))
    peer.succeed(server.identifier)
    other = HandMadeServer(method=second)
    asked = FedPeer(held=peer.held, outer=NAI)
    assert b"once" not in asked.told(other.ask(AtAnyIdReq())).require(AtIdentity).value
    returning = FedPeer(held=peer.held)
    returning.machine.identity_given()
    other.challenge(NAI)
    answer: AkaMessage = returning.told(other.reauthentication(1))
    assert answer.subtype == AkaSubtype.CLIENT_ERROR
    assert returning.machine.refusal is not None
    assert returning.machine.refusal.cause is AkaFailure.UNEXPECTED
