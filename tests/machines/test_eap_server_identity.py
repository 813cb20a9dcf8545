"""Method choice, Nak and identity rounds of the EAP server (RFC 3748 §5.3, RFC 4187 §4.1), against formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.eap.aka import server as eap
from protocols.eap.aka.attributes import (
    AtCheckcode,
)
from protocols.eap.aka.outcome import AkaFailure, PacketDiscarded, PacketToSend
from protocols.eap.aka.server import EapAkaServer, IdentityRequest, ServerOptions
from protocols.eap.packet import EapType
from protocols.entropy import SeededEntropy
from protocols.threegpp.identity import Imsi
from tests.harness.eap_by_formula import IMSI, REALM, FormulaPeer, vector
from tests.harness.eap_network import AKA, BOTH, PRIME, Network, only

METHODS = pytest.mark.parametrize("method", [AKA, PRIME], ids=["AKA", "AKA'"])


def full(method: str, *, identity: str | None = None) -> list[str]:
    """The requests of a full authentication with pseudonym and re-authentication identity."""
    kdf = ", AT_KDF, AT_KDF_INPUT" if method == "AKA'" else ""
    asked = [f"EAP-Request/{method}-Identity [ {identity} ]"] if identity else []
    bidding = ", AT_BIDDING" if method == "AKA" else ""
    attributes = f"AT_RAND, AT_AUTN{kdf}, AT_IV, AT_ENCR_DATA, AT_CHECKCODE{bidding}, AT_MAC"
    return [*asked, f"EAP-Request/{method}-Challenge [ {attributes} ]"]


# --- method and identity


@METHODS
def test_the_leading_digit_of_a_known_identity_chooses_the_method(method: EapType) -> None:
    network = Network(options=replace(BOTH, methods=(PRIME, AKA) if method is AKA else (AKA, PRIME)))
    outcome = network.succeed(FormulaPeer(methods=(method,)))
    assert outcome.method is method
    assert len(network.transcript) == 2
    asked = network.vectors[0]
    assert (asked.method, asked.network_name) == (method, b"WLAN" if method is PRIME else None)


def test_options_may_choose_the_first_method_whatever_the_digit() -> None:
    network = Network(options=replace(BOTH, methods=(PRIME, AKA), identity_chooses=False))
    outcome = network.succeed(FormulaPeer(), f"0{IMSI}@{REALM}")
    assert outcome.method is PRIME
    # "0" is no identity of EAP-AKA', so that the right one is asked for
    assert network.requests == full("AKA'", identity="AT_ANY_ID_REQ")


@pytest.mark.parametrize(("first", "second"), [(AKA, PRIME), (PRIME, AKA)])
def test_a_nak_leads_to_the_method_that_the_peer_wants(first: EapType, second: EapType) -> None:
    network = Network(options=replace(BOTH, methods=(first, second), identity_chooses=False))
    peer = FormulaPeer(methods=(second,))
    outcome = network.succeed(peer)
    assert outcome.method is second
    assert network.narrative[1] == f"EAP-Response/Nak [ {int(second)} ]"
    assert [message.method for message in peer.heard] == [second] * len(peer.heard)


def test_a_nak_to_the_challenge_of_a_permanent_identity_costs_a_vector_and_no_identity_round() -> None:
    network = Network(options=replace(BOTH, methods=(PRIME, AKA)))
    assert network.succeed(FormulaPeer(methods=(AKA,)), f"{IMSI}@{REALM}").method is AKA
    assert [asked.method for asked in network.vectors] == [PRIME, AKA]


def test_a_nak_for_a_method_that_is_not_allowed_fails() -> None:
    network = Network(options=only(PRIME))
    failed = network.fail(FormulaPeer(methods=(AKA,)), AkaFailure.METHOD_REFUSED, f"6{IMSI}@{REALM}")
    assert failed.why == "the peer refuses EAP-AKA'; types wanted: 23"
    assert len(network.transcript) == 2


def test_a_peer_that_refuses_both_methods_fails() -> None:
    peer = FormulaPeer(methods=(EapType.TLS,))
    network = Network(options=BOTH)
    network.fail(peer, AkaFailure.METHOD_REFUSED, f"0{IMSI}@{REALM}")


def test_a_nak_after_the_method_has_begun_is_passed_over() -> None:
    server = EapAkaServer(entropy=SeededEntropy(1), options=BOTH)
    server.start(b"")
    asked = server.poll_event()
    assert isinstance(asked, PacketToSend)
    peer = FormulaPeer()
    peer.begin()
    server.receive(peer.answer(asked.packet))
    request = server.poll_event()
    assert isinstance(request, eap.VectorRequested)
    server.answer_vector(vector(1, method=AKA, network_name=None))
    challenge = server.poll_event()
    assert isinstance(challenge, PacketToSend)
    server.receive(bytes([2, challenge.packet[1], 0, 6, EapType.NAK, PRIME]))
    assert isinstance(server.poll_event(), PacketDiscarded)
    assert not server.concluded


@METHODS
@pytest.mark.parametrize(
    ("options", "with_ring", "asked"),
    [
        ({}, True, "AT_ANY_ID_REQ"),
        ({"reauthentication": False}, True, "AT_FULLAUTH_ID_REQ"),
        ({"reauthentication": False, "pseudonyms": False}, True, "AT_PERMANENT_ID_REQ"),
        ({}, False, "AT_PERMANENT_ID_REQ"),
        ({"first_identity_request": IdentityRequest.FULL_AUTHENTICATION}, False, "AT_FULLAUTH_ID_REQ"),
    ],
)
def test_what_a_server_asks_that_knows_no_identity(
    method: EapType, options: dict[str, bool], with_ring: bool, asked: str
) -> None:
    network = Network(options=replace(only(method), **options))  # type: ignore[arg-type]
    if not with_ring:
        network.ring = None
    network.succeed(FormulaPeer(), "")
    assert f"Identity [ {asked} ]" in network.requests[0]


@METHODS
def test_the_three_identity_rounds_in_their_order(method: EapType) -> None:
    network = Network(options=only(method))
    peer = FormulaPeer(
        methods=(method,),
        pseudonym=("2" if method is AKA else "7") + "nobody@x",
        reauthentication=("4" if method is AKA else "8") + "nobody@x",
    )
    network.succeed(peer, "")
    asked = ["AT_ANY_ID_REQ", "AT_FULLAUTH_ID_REQ", "AT_PERMANENT_ID_REQ"]
    assert [each.split("[ ")[1][:-2] for each in network.requests[:3]] == asked
    code = peer.heard[-1].get(AtCheckcode)
    assert code is not None
    assert len(code.checkcode) == (20 if method is AKA else 32)


@METHODS
def test_unknown_temporary_identities_from_outside_decide_what_is_asked(method: EapType) -> None:
    digits = ("2", "4") if method is AKA else ("7", "8")
    for digit, asked in zip(digits, ("AT_PERMANENT_ID_REQ", "AT_FULLAUTH_ID_REQ"), strict=True):
        network = Network(options=only(method))
        network.succeed(FormulaPeer(methods=(method,)), f"{digit}AbutNotOurs@{REALM}")
        assert f"[ {asked} ]" in network.requests[0]


def test_a_permanent_identity_without_realm_or_decorated_is_the_subscribers() -> None:
    network = Network(options=BOTH)
    peer = FormulaPeer()
    assert network.succeed(peer, f"0{IMSI}").context is not None
    assert peer.reauthentication is not None
    assert "@" not in peer.reauthentication
    # RFC 4187 §4.1.2.2: an undecorated copy is asked for, and makes the keys
    outcome = network.succeed(FormulaPeer(), f"{REALM}!0{IMSI}@nai.epc.mnc002.mcc901.3gppnetwork.org")
    assert network.requests == full("AKA", identity="AT_ANY_ID_REQ")
    assert outcome.identity.decode() == f"0{IMSI}@{REALM}"
    again = network.contexts[next(reversed(network.contexts))]
    assert again.permanent_identity == f"0{IMSI}@{REALM}"


def test_options_of_a_subscriber_hold_once_its_imsi_is_known() -> None:
    def policy(imsi: Imsi) -> ServerOptions:
        assert imsi == IMSI
        return replace(BOTH, methods=(PRIME,), network_name=b"HRPD", result_indications=True, pseudonyms=False)

    network = Network(options=BOTH, policy=policy)
    peer = FormulaPeer()
    outcome = network.succeed(peer, f"0{IMSI}@{REALM}")
    assert outcome.method is PRIME
    assert outcome.pseudonym is None
    assert network.vectors[-1].network_name == b"HRPD"
    assert "AT_RESULT_IND" in network.requests[-1]


def test_options_of_a_subscriber_may_ask_for_the_identity_again() -> None:
    network = Network(options=BOTH, policy=lambda _: replace(BOTH, always_request_identity=True))
    network.succeed(FormulaPeer(), f"0{IMSI}@{REALM}")
    assert network.requests == full("AKA", identity="AT_ANY_ID_REQ")


def test_a_method_that_has_begun_and_is_not_the_subscribers_is_refused() -> None:
    network = Network(options=only(AKA), policy=lambda _: only(PRIME))
    failed = network.fail(FormulaPeer(), AkaFailure.METHOD_REFUSED, "")
    assert failed.why == f"EAP-AKA is not allowed to IMSI {IMSI}"
