"""EAP server and peer against each other: every pairing of policies, and a link that corrupts and repeats packets.

Invariant of the random part: nothing raises, and whenever both ends report success they have the same keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.algorithms.sqn import IND_COUNT, SqnWindow
from protocols.eap.aka.outcome import AkaFailure
from protocols.eap.aka.peer import (
    Failed,
    NetworkNamePolicy,
    PeerOptions,
    PrivacyPolicy,
    Pseudonym,
    Succeeded,
    TemporaryIdentities,
)
from protocols.eap.aka.server import Failed as ServerFailed
from protocols.eap.aka.server import IdentityRequest, ServerOptions
from protocols.eap.aka.server import Succeeded as ServerSucceeded
from protocols.eap.aka.temporary import KeyRing
from protocols.eap.packet import EapPacket, EapType
from protocols.entropy import SeededEntropy
from tests.harness.aka_server import IMSI, NAI, OPC, PRIME_NAI, K
from tests.harness.eap_pair import EapPair, faithful
from ue.usim import MemorySqnStore, SoftwareUsim

AKA, PRIME = EapType.AKA, EapType.AKA_PRIME
METHODS = [(AKA,), (PRIME,), (AKA, PRIME), (PRIME, AKA)]


@pytest.mark.parametrize("method", [AKA, PRIME])
@pytest.mark.parametrize("indications", [True, False])
@pytest.mark.parametrize("first", [None, IdentityRequest.ANY])
def test_full_then_twice_fast_then_pseudonym(method: EapType, indications: bool, first: IdentityRequest | None) -> None:
    pair = EapPair(
        server_options=ServerOptions(
            methods=(method,),
            result_indications=indications,
            first_identity_request=first,
            always_request_identity=first is not None,
            reauthentications=2,
        ),
        peer_options=PeerOptions(methods=(method,), result_indications=indications, network_name="WLAN"),
    )
    nai = NAI if method is AKA else PRIME_NAI
    kinds = []
    for _ in range(5):
        outcome = pair.run(nai).succeeded()
        kinds.append(outcome.fast)
        assert outcome.method is method
    assert kinds == [False, True, True, False, True]
    assert pair.challenges == 2
    pair.contexts.clear()
    fallen_back = pair.run(nai)
    assert not fallen_back.succeeded().fast


@pytest.mark.parametrize("method", [AKA, PRIME])
def test_fast_reauthentication_in_the_words_of_the_rfc(method: EapType) -> None:
    pair = EapPair(
        server_options=ServerOptions(methods=(method,), result_indications=True),
        peer_options=PeerOptions(methods=(method,), result_indications=True),
    )
    nai = NAI if method is AKA else PRIME_NAI
    pair.run(nai).succeeded()
    name = "AKA" if method is AKA else "AKA'"
    assert pair.run(nai).narrative == [
        f"EAP-Request/{name}-Reauthentication [ AT_IV, AT_ENCR_DATA, AT_CHECKCODE, AT_RESULT_IND, AT_MAC ]",
        f"EAP-Response/{name}-Reauthentication [ AT_IV, AT_ENCR_DATA, AT_CHECKCODE, AT_RESULT_IND, AT_MAC ]",
        f"EAP-Request/{name}-Notification [ AT_NOTIFICATION, AT_IV, AT_ENCR_DATA, AT_MAC ]",
        f"EAP-Response/{name}-Notification [ AT_IV, AT_ENCR_DATA, AT_MAC ]",
        "EAP-Success",
    ]


@pytest.mark.parametrize("server", METHODS)
@pytest.mark.parametrize("peer", METHODS)
def test_methods_are_negotiated_by_nak(server: tuple[EapType, ...], peer: tuple[EapType, ...]) -> None:
    """RFC 3748 §5.3.1."""
    pair = EapPair(
        server_options=ServerOptions(methods=server, identity_chooses=False), peer_options=PeerOptions(methods=peer)
    )
    outcome = pair.run(NAI if peer[0] is AKA else PRIME_NAI)
    if not set(server) & set(peer):
        assert isinstance(outcome.server, ServerFailed)
        assert isinstance(outcome.peer, Failed)
        return
    assert outcome.succeeded().method is next(method for method in server if method in peer)


@pytest.mark.parametrize("preference", METHODS[2:])
def test_somebody_between_them_bids_down(preference: tuple[EapType, ...]) -> None:
    """RFC 9048 §4: the offer of EAP-AKA' is made unreadable, and the Nak altered."""

    def unreadable(packet: bytes) -> Iterable[bytes]:
        prime = EapPacket.decode(packet).type == PRIME
        return (packet[:4] + bytes([EapType.SIM]) + packet[5:] if prime else packet,)

    def altered(packet: bytes) -> Iterable[bytes]:
        nak = EapPacket.decode(packet).type == EapType.NAK
        return (bytes([2, packet[1], 0, 6, EapType.NAK, AKA]) if nak else packet,)

    pair = EapPair(
        server_options=ServerOptions(methods=(PRIME, AKA), identity_chooses=False),
        peer_options=PeerOptions(methods=preference),
        downlink=unreadable,
        uplink=altered,
    )
    outcome = pair.run()
    if preference[0] is PRIME:
        assert isinstance(outcome.peer, Failed)
        assert outcome.peer.cause is AkaFailure.BIDDING_DOWN
        assert isinstance(outcome.server, ServerFailed)
    else:
        assert outcome.succeeded().method is AKA


@pytest.mark.parametrize("method", [AKA, PRIME])
def test_resynchronisation(method: EapType) -> None:
    card = MemorySqnStore(SqnWindow((1000,) * IND_COUNT))
    pair = EapPair(
        server_options=ServerOptions(methods=(method,)),
        usim=SoftwareUsim(imsi=IMSI, k=K, opc=OPC, store=card),
    )
    pair.run().succeeded()
    assert pair.challenges == 2
    pair.held, pair.contexts = TemporaryIdentities(), {}
    pair.run().succeeded()
    assert pair.challenges == 3


def test_another_key_derivation_function() -> None:
    pair = EapPair(server_options=ServerOptions(methods=(PRIME,), kdfs=(9, 1)))
    assert [line for line in pair.run(PRIME_NAI).narrative if "KDF" in line][:2] == [
        "EAP-Request/AKA'-Challenge [ AT_RAND, AT_AUTN, AT_KDF, AT_KDF, AT_KDF_INPUT, AT_IV, AT_ENCR_DATA, "
        "AT_CHECKCODE, AT_MAC ]",
        "EAP-Response/AKA'-Challenge [ AT_KDF ]",
    ]
    pair.run(PRIME_NAI).succeeded()


@pytest.mark.parametrize("policy", list(NetworkNamePolicy))
def test_another_network_name(policy: NetworkNamePolicy) -> None:
    pair = EapPair(
        server_options=ServerOptions(methods=(PRIME,), network_name=b"HRPD"),
        peer_options=PeerOptions(network_name="WLAN", network_name_policy=policy),
    )
    outcome = pair.run(PRIME_NAI)
    if policy is NetworkNamePolicy.WARN:
        outcome.succeeded()
    else:
        assert isinstance(outcome.peer, Failed)
        assert outcome.peer.cause is AkaFailure.NETWORK_NAME
        assert isinstance(outcome.server, ServerFailed)


def test_a_counter_that_is_behind_leads_to_full_authentication() -> None:
    pair = EapPair()
    for _ in range(3):
        pair.run().succeeded()
    pair.contexts = {name: replace(context, counter=2) for name, context in pair.contexts.items()}
    outcome = pair.run()
    assert not outcome.succeeded().fast
    assert pair.challenges == 2


@pytest.mark.parametrize("policy", list(PrivacyPolicy))
def test_a_pseudonym_that_the_network_has_forgotten(policy: PrivacyPolicy) -> None:
    pair = EapPair(peer_options=PeerOptions(privacy=policy))
    pair.run().succeeded()
    pair.held, pair.ring = replace(pair.held, reauthentication=None), KeyRing.of(SeededEntropy("another"))
    outcome = pair.run()
    if policy is PrivacyPolicy.LIBERAL:
        outcome.succeeded()
    else:
        assert isinstance(outcome.peer, Failed)
        assert outcome.peer.cause is AkaFailure.IDENTITY_WITHHELD
        assert pair.held.pseudonym is not None


def test_a_forged_pseudonym_is_not_taken_for_a_subscribers() -> None:
    held = TemporaryIdentities(pseudonym=Pseudonym(method=AKA, username="2AAAAAAA"))
    pair = EapPair(held=held)
    outcome = pair.run().succeeded()
    assert outcome.identity == NAI.encode()


# At random

server_policies = st.builds(
    ServerOptions,
    methods=st.sampled_from(METHODS),
    identity_chooses=st.booleans(),
    always_request_identity=st.booleans(),
    first_identity_request=st.sampled_from([None, *IdentityRequest]),
    pseudonyms=st.booleans(),
    reauthentication=st.booleans(),
    reauthentications=st.integers(1, 3),
    checkcode=st.booleans(),
    result_indications=st.booleans(),
    kdfs=st.sampled_from([(1,), (2, 1), (1, 2)]),
    bidding=st.booleans(),
)
peer_policies = st.builds(
    PeerOptions,
    methods=st.sampled_from(METHODS),
    privacy=st.sampled_from(PrivacyPolicy),
    pseudonyms=st.booleans(),
    fast_reauthentication=st.booleans(),
    reauthentications=st.integers(0, 3),
    result_indications=st.booleans(),
    network_name=st.sampled_from([None, "WLAN"]),
)
# at which packet of how many, what: flip a bit, repeat, lose, cut, add octets, swap for the one before
faults = st.lists(
    st.tuples(
        st.integers(0, 14),
        st.sampled_from(["flip", "repeat", "lose", "cut", "pad", "before"]),
        st.integers(0, 2**16 - 1),
    ),
    max_size=4,
)


class FaultyLinks:
    """Both directions as one series of packets, with faults at some of them."""

    def __init__(self, found: list[tuple[int, str, int]]) -> None:
        self._faults = found
        self._count = 0
        self._before: dict[str, bytes] = {}

    def link(self, direction: str) -> Callable[[bytes], Iterable[bytes]]:
        """One direction."""

        def carry(packet: bytes) -> Iterable[bytes]:
            at, self._count = self._count, self._count + 1
            before = self._before.get(direction, packet)
            self._before[direction] = packet
            arriving = [packet]
            for place, kind, number in self._faults:
                if place == at:
                    arriving = self._with(kind, number, arriving, before)
            return arriving

        return carry

    @staticmethod
    def _with(kind: str, number: int, arriving: list[bytes], before: bytes) -> list[bytes]:
        if kind == "repeat":
            return arriving * 2
        if kind == "lose":
            return []
        if kind == "before":
            return [before, *arriving]
        changed = []
        for packet in arriving:
            octets = bytearray(packet)
            if kind == "flip" and octets:
                octets[number // 8 % len(octets)] ^= 1 << number % 8
            elif kind == "cut":
                del octets[number % max(1, len(octets)) :]  # an earlier fault may have left none
            elif kind != "flip":
                octets += bytes(number % 64)
            changed.append(bytes(octets))
        return changed


@settings(deadline=None, max_examples=60)
@given(server=server_policies, peer=peer_policies, prime=st.booleans())
def test_any_pairing_ends_alike_at_both_ends(server: ServerOptions, peer: PeerOptions, prime: bool) -> None:
    pair = EapPair(server_options=server, peer_options=peer)
    for _ in range(4):
        outcome = pair.run(PRIME_NAI if prime else NAI)
        if isinstance(outcome.server, ServerSucceeded):
            outcome.succeeded()
        else:
            assert isinstance(outcome.server, ServerFailed)
            assert isinstance(outcome.peer, Failed)


@settings(deadline=None, max_examples=60)
@given(
    server=server_policies,
    peer=peer_policies,
    runs=st.lists(faults, min_size=1, max_size=3),
)
def test_corrupted_and_repeated_packets(
    server: ServerOptions, peer: PeerOptions, runs: list[list[tuple[int, str, int]]]
) -> None:
    pair = EapPair(server_options=server, peer_options=peer)
    for found in runs:
        links = FaultyLinks(found)
        pair.downlink, pair.uplink = links.link("down"), links.link("up")
        outcome = pair.run()
        if isinstance(outcome.peer, Succeeded):
            assert isinstance(outcome.server, ServerSucceeded)
            assert outcome.peer.msk == outcome.server.msk
    pair.downlink = pair.uplink = faithful
    last = pair.run()
    # whatever has happened, both ends still agree on how an undisturbed exchange ends
    assert isinstance(last.peer, Succeeded) == isinstance(last.server, ServerSucceeded)
    if isinstance(last.server, ServerSucceeded):
        last.succeeded()
    assert all(EapPacket.decode(packet) for packet in last.transcript)
