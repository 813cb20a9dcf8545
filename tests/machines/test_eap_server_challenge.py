"""Challenges of the EAP server: resynchronisation, RES, and what EAP-AKA' adds (RFC 4187 §9, RFC 9048 §3, §4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.algorithms.vector import AkaVector
from protocols.eap.aka import server as eap
from protocols.eap.aka.attributes import (
    AtAuts,
    AtBidding,
    AtCheckcode,
    AtKdf,
    AtKdfInput,
    AtRes,
    Attribute,
    UnknownAttribute,
)
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.outcome import AkaFailure, PacketDiscarded, PacketToSend
from protocols.eap.aka.protection import encrypt_attributes
from protocols.eap.aka.server import EapAkaServer, ServerOptions
from protocols.eap.observation import eap_body
from protocols.eap.packet import EapType
from protocols.entropy import SeededEntropy
from tests.harness.eap_by_formula import IMSI, IV, REALM, FormulaPeer, vector
from tests.harness.eap_network import AKA, BOTH, PRIME, Network, only

METHODS = pytest.mark.parametrize("method", [AKA, PRIME], ids=["AKA", "AKA'"])


class WrongChallenge(FormulaPeer):
    """A peer whose challenge response lacks, or has wrong, one attribute."""

    def closing(self, message: AkaMessage) -> list[Attribute]:
        """A checkcode of other messages."""
        return [AtCheckcode(bytes(20 if message.method is AKA else 32))]


@METHODS
def test_a_wrong_checkcode(method: EapType) -> None:
    network = Network(options=only(method))
    network.fail(WrongChallenge(methods=(method,)), AkaFailure.WRONG_CHECKCODE)


class Encrypting(FormulaPeer):
    """A peer of a later version, which nests something in its challenge response."""

    def closing(self, message: AkaMessage) -> list[Attribute]:
        """AT_ENCR_DATA with an attribute that nobody knows yet."""
        assert self.keys is not None
        pair = encrypt_attributes([UnknownAttribute(200, bytes(6))], self.keys.k_encr, IV)
        return [*super().closing(message), *pair]


@METHODS
def test_encrypted_attributes_of_a_later_version_are_passed_over(method: EapType) -> None:
    """RFC 4187 §9.4."""
    Network(options=only(method)).succeed(Encrypting(methods=(method,)))


@METHODS
def test_resynchronisation(method: EapType) -> None:
    network = Network(options=only(method))
    peer = FormulaPeer(methods=(method,), synchronisation_failures=1)
    network.succeed(peer)
    first, second = network.vectors
    assert first.resynchronisation is None
    assert second.resynchronisation == eap.Resynchronisation(bytes([1] * 16), bytes(14))
    network.fail(FormulaPeer(methods=(method,), synchronisation_failures=9), AkaFailure.SYNCHRONISATION)


@METHODS
@pytest.mark.parametrize("length", range(4, 17))
def test_res_of_every_length(method: EapType, length: int) -> None:
    class Home(Network):
        def vector(self, request: eap.VectorRequested) -> AkaVector:
            return replace(super().vector(request), xres=bytes(range(length)))

    class Card(FormulaPeer):
        def response(self, request: AkaMessage, subtype: AkaSubtype, *attributes: Attribute) -> AkaMessage:
            if attributes and isinstance(attributes[0], AtRes):
                attributes = (AtRes.of(bytes(range(length))), *attributes[1:])
            return super().response(request, subtype, *attributes)

    Home(options=only(method)).succeed(Card(methods=(method,)))


# --- EAP-AKA' by itself


def test_the_network_name_is_sent_and_makes_the_keys() -> None:
    names = (b"WLAN", b"HRPD", "WLAN:Zürich".encode())
    keys = set()
    for name in names:
        network = Network(options=replace(only(PRIME), network_name=name), entropy=SeededEntropy("same"))
        peer = FormulaPeer(methods=(PRIME,))
        keys.add(network.succeed(peer).msk)
        assert peer.heard[-1].require(AtKdfInput).value == name
    assert len(keys) == len(names)


def test_a_vector_with_a_clear_separation_bit_is_a_failure_of_the_home_network() -> None:
    network = Network(options=BOTH, amf=b"\x00\x00")
    failed = network.fail(FormulaPeer(methods=(PRIME,)), AkaFailure.BACKEND)
    assert failed.why == "the AMF separation bit of the vector is clear"
    assert network.transcript == []


def test_the_separation_bit_is_of_no_concern_to_aka_or_where_it_is_not_demanded() -> None:
    server = EapAkaServer(entropy=SeededEntropy(1), options=replace(BOTH, separation_bit=False))
    server.start(f"6{IMSI}@{REALM}".encode())
    assert isinstance(server.poll_event(), eap.VectorRequested)
    server.answer_vector(vector(1, method=PRIME, network_name=b"WLAN", amf=b"\x00\x00"))
    assert isinstance(server.poll_event(), PacketToSend)
    server = EapAkaServer(entropy=SeededEntropy(1), options=BOTH)
    server.start(f"0{IMSI}@{REALM}".encode())
    assert isinstance(server.poll_event(), eap.VectorRequested)
    server.answer_vector(vector(1, method=AKA, network_name=None, amf=b"\x00\x00"))
    assert isinstance(server.poll_event(), PacketToSend)


@pytest.mark.parametrize("failures", [0, 1])
def test_the_peer_chooses_another_key_derivation_function(failures: int) -> None:
    network = Network(options=replace(only(PRIME), kdfs=(7, 3, 1)))
    peer = FormulaPeer(methods=(PRIME,), synchronisation_failures=failures)
    network.succeed(peer)
    assert [message.kdfs for message in peer.heard] == [(7, 3, 1), *[(1, 7, 3, 1)] * (1 + failures)]
    rands = [message.attributes[0] for message in peer.heard[:2]]
    assert rands[0] == rands[1]
    assert network.narrative[1] == "EAP-Response/AKA'-Challenge [ AT_KDF ]"
    assert len(network.vectors) == 1 + failures


class WrongKdf(FormulaPeer):
    """A peer that chooses what it must not."""

    choice: tuple[int, ...] = ()

    def answer_challenge(self, message: AkaMessage, packet: bytes) -> bytes:
        """AT_KDF alone."""
        return self.response(message, AkaSubtype.CHALLENGE, *[AtKdf(kdf) for kdf in self.choice]).encode()


@pytest.mark.parametrize("choice", [(7,), (9,), (1, 3), (1,)])
def test_a_choice_that_was_not_offered_or_comes_twice(choice: tuple[int, ...]) -> None:
    network = Network(options=replace(only(PRIME), kdfs=(7, 3, 1)))
    peer = WrongKdf(methods=(PRIME,))
    peer.choice = choice  # (1,) is right the first time and comes again
    failed = network.fail(peer, AkaFailure.WRONG_MAC)
    assert "is no alternative here" in failed.why


class WrongCopy(FormulaPeer):
    """A peer that reports a synchronisation failure without the list of key derivation functions."""

    def answer_challenge(self, message: AkaMessage, packet: bytes) -> bytes:
        """AT_AUTS and another AT_KDF."""
        return self.response(message, AkaSubtype.SYNCHRONIZATION_FAILURE, AtAuts(bytes(14)), AtKdf(2)).encode()


def test_a_synchronisation_failure_with_another_list_of_functions() -> None:
    network = Network(options=only(PRIME))
    network.fail(WrongCopy(methods=(PRIME,)), AkaFailure.WRONG_MAC)
    assert len(network.vectors) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (replace(BOTH, methods=(AKA, PRIME)), False),
        (replace(BOTH, methods=(PRIME, AKA)), True),
        (replace(BOTH, bidding=False), None),
        (only(AKA), None),
    ],
)
def test_bidding_says_whether_aka_prime_is_preferred(options: ServerOptions, expected: bool | None) -> None:
    peer = FormulaPeer(methods=(AKA,))
    Network(options=options).succeed(peer)
    bidding = peer.heard[-1].get(AtBidding)
    assert (bidding.aka_prime_preferred if bidding is not None else None) == expected


def test_attributes_of_the_other_method_end_the_exchange() -> None:
    class Confused(FormulaPeer):
        def response(self, request: AkaMessage, subtype: AkaSubtype, *attributes: Attribute) -> AkaMessage:
            return super().response(request, subtype, *attributes, AtKdf(1))

    Network(options=only(AKA)).fail(Confused(methods=(AKA,)), AkaFailure.MALFORMED)


def test_a_response_of_the_other_method_is_passed_over() -> None:
    server = EapAkaServer(entropy=SeededEntropy(1), options=BOTH)
    server.start(f"0{IMSI}@{REALM}".encode())
    assert isinstance(server.poll_event(), eap.VectorRequested)
    server.answer_vector(vector(1, method=AKA, network_name=None))
    challenge = server.poll_event()
    assert isinstance(challenge, PacketToSend)
    server.receive(bytes([2, challenge.packet[1], 0, 8, PRIME, AkaSubtype.AUTHENTICATION_REJECT, 0, 0]))
    assert server.poll_event() == PacketDiscarded("EAP type 50 answers no EAP-AKA request")


# --- what a trace shows


def test_the_trace_of_aka_prime() -> None:
    network = Network(options=replace(only(PRIME), kdfs=(2, 1)))
    network.succeed(FormulaPeer(methods=(PRIME,)))
    body = eap_body(network.transcript[-2], direction="sent", interface="SWm", peer="epdg")
    assert body["name"] == "EAP-Request/AKA'-Challenge"
    detail = body["detail"]
    assert isinstance(detail, dict)
    assert detail["AT_KDF"] == [1, 2, 1]
    assert detail["AT_KDF_INPUT"] == "WLAN"
    broken = eap_body(bytes([1, 1, 0, 6, PRIME, 1]), direction="sent", interface="SWm", peer="epdg")
    assert broken["name"] == "EAP-Request/AKA'"
