"""The peer of EAP-AKA' (RFC 9048): keys, AT_KDF, network name, AMF, bidding down, method negotiation."""

from __future__ import annotations

import pytest

from protocols.algorithms.sqn import IND_COUNT, SqnWindow
from protocols.algorithms.usim import UsimSuccess
from protocols.eap.aka.attributes import (
    AtAnyIdReq,
    AtBidding,
    AtCheckcode,
    AtClientErrorCode,
    AtIdentity,
    AtKdf,
    AtKdfInput,
    AtPermanentIdReq,
    AtRes,
)
from protocols.eap.aka.keys import derive_ck_ik_prime, derive_keys
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.outcome import AkaFailure
from protocols.eap.aka.peer import Failed, NetworkNameDiffers, NetworkNamePolicy, PeerOptions
from protocols.eap.aka.peer.negotiation import network_names_match
from protocols.eap.aka.protection import checkcode, encode_with_mac, mac_verifies
from protocols.eap.packet import EapCode, EapPacket, EapType
from tests.harness.aka_server import IMSI, NAI, OPC, PRIME_NAI, FedPeer, HandMadeServer, K, identity_request
from ue.usim import MemorySqnStore, SoftwareUsim

PRIME_FIRST = PeerOptions(methods=(EapType.AKA_PRIME, EapType.AKA))
PRIME_ONLY = PeerOptions(methods=(EapType.AKA_PRIME,))
AKA_ONLY = PeerOptions(methods=(EapType.AKA,))


def prime() -> HandMadeServer:
    return HandMadeServer(method=EapType.AKA_PRIME)


def refused_as_autn(peer: FedPeer, packet: bytes, cause: AkaFailure) -> None:
    """The peer says Authentication-Reject, and why."""
    assert peer.told(packet).subtype == AkaSubtype.AUTHENTICATION_REJECT
    assert peer.machine.refusal is not None
    assert peer.machine.refusal.cause is cause


def refused(peer: FedPeer, packet: bytes, cause: AkaFailure) -> None:
    """The peer says Client-Error, and why."""
    assert peer.told(packet).attributes == (AtClientErrorCode(0),)
    assert peer.machine.refusal is not None
    assert peer.machine.refusal.cause is cause


def test_full_authentication_with_the_keys_of_the_network_name() -> None:
    server, peer = prime(), FedPeer(PRIME_ONLY, nai=PRIME_NAI)
    answer = peer.hear(server.challenge(PRIME_NAI))
    assert answer is not None
    message = AkaMessage.decode(answer)
    assert message.name == "EAP-Response/AKA'-Challenge"
    assert message.require(AtRes) == AtRes.of(server.vector.xres)
    assert mac_verifies(answer, server.keys.k_aut)
    outcome = peer.succeed(server.identifier)
    assert (outcome.msk, outcome.emsk) == (server.keys.msk, server.keys.emsk)
    assert (outcome.method, outcome.fast, outcome.identity) == (EapType.AKA_PRIME, False, PRIME_NAI.encode())
    autn, vector = server.vector.autn, server.vector
    ck, ik = derive_ck_ik_prime(vector.ck, vector.ik, network_name=b"WLAN", sqn_xor_ak=autn[:6])
    assert derive_keys(PRIME_NAI.encode(), ik=ik, ck=ck, method=EapType.AKA_PRIME).msk == outcome.msk


@pytest.mark.parametrize("length", [4, 5, 8, 16])
def test_res_of_every_length(length: int) -> None:
    for method in (EapType.AKA, EapType.AKA_PRIME):
        server, peer = HandMadeServer(method=method), FedPeer()
        packet = server.challenge(NAI)
        result = UsimSuccess(res=bytes(range(length)), ck=server.vector.ck, ik=server.vector.ik)
        answer = peer.told(packet, result).require(AtRes)
        assert (answer.res, answer.bits) == (bytes(range(length)), 8 * length)


@pytest.mark.parametrize(
    ("nai", "method", "expected"),
    [
        (NAI, EapType.AKA, NAI),
        (NAI, EapType.AKA_PRIME, PRIME_NAI),
        (PRIME_NAI, EapType.AKA, NAI),
        (PRIME_NAI, EapType.AKA_PRIME, PRIME_NAI),
        (f"{IMSI}@x.mnc001.mcc001.3gppnetwork.org", EapType.AKA, f"{IMSI}@x.mnc001.mcc001.3gppnetwork.org"),
    ],
)
def test_permanent_identity_has_the_digit_of_the_method(nai: str, method: EapType, expected: str) -> None:
    server, peer = HandMadeServer(method=method), FedPeer(nai=nai)
    assert peer.machine.identity == nai
    assert peer.told(server.ask(AtPermanentIdReq())).attributes == (AtIdentity(expected.encode()),)
    assert peer.told(server.challenge(expected)).subtype == AkaSubtype.CHALLENGE
    assert peer.succeed(server.identifier).msk == server.keys.msk


def test_decoration_stays_outside_of_the_method() -> None:
    """RFC 4187 §4.1.1.4: nothing but EAP-Response/Identity may be decorated."""
    decorated = f"nai.epc.mnc001.mcc001.3gppnetwork.org!0{IMSI}@nai.epc.mnc071.mcc610.3gppnetwork.org"
    server, peer = HandMadeServer(), FedPeer(nai=decorated)
    assert peer.hear(identity_request()) is not None
    assert peer.machine.identity == decorated
    assert peer.told(server.ask(AtAnyIdReq())).attributes == (AtIdentity(NAI.encode()),)


# Method negotiation


def test_methods_are_wanted_in_order_of_preference() -> None:
    sim = EapPacket(code=EapCode.REQUEST, identifier=5, type=EapType.SIM, data=bytes(8)).encode()
    assert FedPeer(PRIME_FIRST).hear(sim) == bytes.fromhex("02050007033217")
    assert FedPeer(AKA_ONLY).hear(sim) == bytes.fromhex("020500060317")
    assert FedPeer(AKA_ONLY).hear(prime().challenge(NAI)) == bytes.fromhex("020100060317")
    assert FedPeer(PRIME_ONLY).hear(HandMadeServer().challenge(NAI)) == bytes.fromhex("020100060332")


def test_the_method_does_not_change_once_it_has_begun() -> None:
    peer = FedPeer()
    assert peer.hear(prime().ask(AtAnyIdReq())) is not None
    assert peer.hear(HandMadeServer(identifier=8).challenge(NAI)) is None


@pytest.mark.parametrize(
    ("options", "preferred", "bid_down"),
    [
        (PRIME_FIRST, True, True),
        (PRIME_FIRST, False, False),
        (PeerOptions(), True, False),  # this end rather uses EAP-AKA
        (AKA_ONLY, True, False),
    ],
)
def test_bidding_down(options: PeerOptions, preferred: bool, bid_down: bool) -> None:
    """RFC 9048 §4: both ends would rather have used EAP-AKA'."""
    server, peer = HandMadeServer(), FedPeer(options)
    packet = server.challenge(NAI, AtBidding(preferred))
    if bid_down:
        refused_as_autn(peer, packet, AkaFailure.BIDDING_DOWN)
    else:
        assert peer.told(packet).subtype == AkaSubtype.CHALLENGE


# AT_KDF


def test_another_key_derivation_function_is_asked_for() -> None:
    server, peer = prime(), FedPeer()
    first = peer.told(server.challenge(NAI, kdfs=(7, 2, 1)))
    assert first.attributes == (AtKdf(1),)
    assert peer.told(server.challenge(NAI, kdfs=(1, 7, 2, 1))).subtype == AkaSubtype.CHALLENGE
    assert peer.succeed(server.identifier).msk == server.keys.msk


@pytest.mark.parametrize("kdfs", [(7, 2, 1), (1, 7, 2), (1,), (1, 2, 7, 1), (1, 7, 2, 1, 1)])
def test_the_change_asked_for_must_be_the_only_one(kdfs: tuple[int, ...]) -> None:
    """RFC 9048 §3.2: "the requested change, and only the requested change, occurred"."""
    server, peer = prime(), FedPeer()
    peer.hear(server.challenge(NAI, kdfs=(7, 2, 1)))
    refused(peer, server.challenge(NAI, kdfs=kdfs), AkaFailure.KEY_DERIVATION_FUNCTION)


@pytest.mark.parametrize("kdfs", [(), (2,), (7, 2), (1, 1), (1, 2, 2), (2, 1, 1)])
def test_no_usable_key_derivation_function(kdfs: tuple[int, ...]) -> None:
    refused_as_autn(FedPeer(), prime().challenge(NAI, kdfs=kdfs), AkaFailure.KEY_DERIVATION_FUNCTION)


def test_kdf_attributes_are_copied_into_the_synchronisation_failure_and_must_stay() -> None:
    usim = SoftwareUsim(imsi=IMSI, k=K, opc=OPC, store=MemorySqnStore(SqnWindow((50,) * IND_COUNT)))
    server, peer = prime(), FedPeer(usim=usim)
    failure = peer.told(server.challenge(NAI, kdfs=(1, 2)))
    assert failure.subtype == AkaSubtype.SYNCHRONIZATION_FAILURE
    assert failure.kdfs == (1, 2)
    server.seq = 50
    refused(peer, server.challenge(NAI, kdfs=(1,)), AkaFailure.KEY_DERIVATION_FUNCTION)
    server, peer = prime(), FedPeer(usim=SoftwareUsim(imsi=IMSI, k=K, opc=OPC))
    server.seq = 60
    assert peer.told(server.challenge(NAI, kdfs=(1, 2))).subtype == AkaSubtype.CHALLENGE


def test_no_identity_is_told_after_a_synchronisation_failure() -> None:
    usim = SoftwareUsim(imsi=IMSI, k=K, opc=OPC, store=MemorySqnStore(SqnWindow((50,) * IND_COUNT)))
    server, peer = prime(), FedPeer(usim=usim)
    peer.hear(server.challenge(NAI))
    refused(peer, server.ask(AtPermanentIdReq()), AkaFailure.UNEXPECTED)


# The access network's name


@pytest.mark.parametrize(
    ("one", "other", "match"),
    [
        ("WLAN", "WLAN", True),
        ("WLAN", "WLAN:operator", True),
        ("WLAN:operator", "WLAN", True),
        ("", "WLAN:x", True),
        ("WLAN", "wlan", False),
        ("WLAN", "WLANx", False),
        ("WLAN:a", "WLAN:b", False),
        ("HRPD", "WLAN", False),
    ],
)
def test_network_names_are_compared_by_fields(one: str, other: str, match: bool) -> None:
    assert network_names_match(one, other) is match
    assert network_names_match(other, one) is match


def test_a_wrong_network_name_is_refused_or_told() -> None:
    server = HandMadeServer(method=EapType.AKA_PRIME, name=b"HRPD")
    peer = FedPeer(PeerOptions(network_name="WLAN"))
    refused_as_autn(peer, server.challenge(NAI), AkaFailure.NETWORK_NAME)
    assert peer.usim.sqn_ms == 0  # the USIM was not asked
    lenient = FedPeer(PeerOptions(network_name="WLAN", network_name_policy=NetworkNamePolicy.WARN))
    assert lenient.told(server.challenge(NAI)).subtype == AkaSubtype.CHALLENGE
    assert lenient.seen[0] == NetworkNameDiffers("WLAN", "HRPD")
    assert lenient.succeed(server.identifier).msk == server.keys.msk
    fitting = FedPeer(PeerOptions(network_name="HRPD:more"))
    assert fitting.told(server.challenge(NAI)).subtype == AkaSubtype.CHALLENGE


@pytest.mark.parametrize(("name", "as_autn"), [(b"", True), (b"\xff\xfe", False)])
def test_a_network_name_that_is_none(name: bytes, as_autn: bool) -> None:
    server, peer = HandMadeServer(method=EapType.AKA_PRIME, name=name), FedPeer()
    if as_autn:
        refused_as_autn(peer, server.challenge(NAI), AkaFailure.NETWORK_NAME)
    else:
        refused(peer, server.challenge(NAI), AkaFailure.MALFORMED)


def test_a_challenge_without_network_name() -> None:
    server, peer = prime(), FedPeer()
    whole = AkaMessage.decode(server.challenge(NAI))
    kept = tuple(each for each in whole.attributes[:-1] if not isinstance(each, AtKdfInput))
    refused(peer, encode_with_mac(server.message(whole.subtype, *kept), server.keys.k_aut), AkaFailure.MALFORMED)


# AMF, AT_MAC, AT_CHECKCODE


def test_the_separation_bit_must_be_set_in_aka_prime_only() -> None:
    peer = FedPeer()
    refused_as_autn(peer, prime().challenge(NAI, amf=b"\x7f\xff"), AkaFailure.SEPARATION_BIT)
    assert peer.usim.sqn_ms == 0
    assert FedPeer().told(HandMadeServer().challenge(NAI, amf=bytes(2))).subtype == AkaSubtype.CHALLENGE


def test_the_checkcode_is_of_sha_256() -> None:
    server, peer = prime(), FedPeer()
    request = server.ask(AtAnyIdReq())
    response = peer.hear(request)
    assert response is not None
    code = checkcode((request, response), EapType.AKA_PRIME)
    assert len(code) == 32
    answer = peer.told(server.challenge(PRIME_NAI, AtCheckcode(code)))
    assert answer.get(AtCheckcode) == AtCheckcode(code)
    for wrong in (bytes(32), b""):
        server, peer = prime(), FedPeer()
        peer.hear(server.ask(AtAnyIdReq()))
        refused(peer, server.challenge(PRIME_NAI, AtCheckcode(wrong)), AkaFailure.WRONG_CHECKCODE)


def test_a_wrong_mac_is_a_client_error() -> None:
    server, peer = prime(), FedPeer()
    refused(peer, server.challenge(NAI)[:-1] + b"\0", AkaFailure.WRONG_MAC)
    assert peer.hear(bytes([EapCode.FAILURE, 1, 0, 4])) is None
    event = peer.seen[-1]
    assert isinstance(event, Failed)
    assert event.cause is AkaFailure.WRONG_MAC
