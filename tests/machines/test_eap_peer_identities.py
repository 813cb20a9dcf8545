"""Temporary identities and fast re-authentication at the peer (RFC 4187 §4.1, §5; RFC 9048 §3.3)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from protocols.algorithms.sqn import SqnWindow
from protocols.eap.aka.attributes import (
    AtAnyIdReq,
    AtCheckcode,
    AtClientErrorCode,
    AtCounter,
    AtCounterTooSmall,
    AtEncrData,
    AtFullauthIdReq,
    AtIdentity,
    AtIv,
    AtNextPseudonym,
    AtNextReauthId,
    AtPermanentIdReq,
    AtResultInd,
    Attribute,
)
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.outcome import AkaFailure
from protocols.eap.aka.peer import (
    ChallengeReceived,
    EapAkaPeer,
    IdentityForm,
    PacketDiscarded,
    PacketToSend,
    PeerOptions,
    PrivacyPolicy,
    Pseudonym,
    Succeeded,
    TemporaryIdentities,
    TemporaryIdentitiesChanged,
)
from protocols.eap.aka.protection import checkcode, mac_verifies, nested_attributes
from protocols.eap.packet import EapType, failure, identity_response, success
from tests.harness.aka_server import (
    IMSI,
    NAI,
    NONCE_S,
    OPC,
    PRIME_NAI,
    REALM,
    FedPeer,
    HandMadeServer,
    K,
    identity_request,
    without_context,
)
from tests.harness.material import shared
from ue.usim import MemorySqnStore, SoftwareUsim

METHODS = pytest.mark.parametrize("method", [EapType.AKA, EapType.AKA_PRIME])
DIGITS = {EapType.AKA: ("2", "4"), EapType.AKA_PRIME: ("7", "8")}
PERMANENT = {EapType.AKA: NAI, EapType.AKA_PRIME: PRIME_NAI}


class World:
    """One subscriber at one hand-made server, over several exchanges; ``held`` survives them."""

    def __init__(self, method: EapType = EapType.AKA, options: PeerOptions | None = None) -> None:
        self.server = HandMadeServer(method=method)
        self.options = options
        self.nai = PERMANENT[method]
        self.pseudonym = f"{DIGITS[method][0]}hidden"
        self.fast = f"{DIGITS[method][1]}once"
        self.usim = SoftwareUsim(imsi=IMSI, k=K, opc=OPC)
        self.held = TemporaryIdentities()

    def peer(self, outer: str | None = None) -> FedPeer:
        """The subscriber's peer in a new exchange."""
        return FedPeer(self.options, self.held, nai=self.nai, outer=outer, usim=self.usim)

    def authenticate(self, *nested: Attribute) -> Succeeded:
        """A full authentication that gives these."""
        peer = self.peer()
        peer.machine.identity_given()
        answer = peer.told(self.server.challenge(peer.machine.identity, nested=nested))
        assert answer.subtype == AkaSubtype.CHALLENGE
        outcome = peer.succeed(self.server.identifier)
        self.held = peer.held
        return outcome

    def give_both(self) -> None:
        """A full authentication that gives a pseudonym and a fast re-authentication identity."""
        self.authenticate(AtNextPseudonym(self.pseudonym.encode()), AtNextReauthId(self.fast.encode()))

    def reauthenticate(self, counter: int, *nested: Attribute) -> Succeeded:
        """A fast re-authentication."""
        peer = self.peer()
        peer.machine.identity_given()
        identity = peer.machine.identity
        answer = peer.hear(self.server.reauthentication(counter, nested=nested))
        assert answer is not None
        assert mac_verifies(answer, self.server.keys.k_aut, NONCE_S)
        message = AkaMessage.decode(answer)
        assert nested_attributes(message, self.server.keys.k_encr).attributes == (AtCounter(counter),)
        outcome = peer.succeed(self.server.identifier)
        keys = self.server.reauthentication_keys(identity, counter)
        assert (outcome.msk, outcome.emsk) == (keys.msk, keys.emsk)
        assert (outcome.fast, outcome.identity) == (True, identity.encode())
        self.held = peer.held
        return outcome


def withheld(peer: FedPeer, packet: bytes, cause: AkaFailure) -> None:
    """The peer says Client-Error, and why."""
    assert peer.told(packet).attributes == (AtClientErrorCode(0),)
    assert peer.machine.refusal is not None
    assert peer.machine.refusal.cause is cause


# Identities


@METHODS
def test_identities_given_are_used_outside_in_order(method: EapType) -> None:
    world = World(method)
    world.give_both()
    assert world.held.pseudonym == Pseudonym(method=method, username=world.pseudonym)
    assert world.held.reauthentication is not None
    assert world.peer().machine.identity == f"{world.fast}@{REALM}"
    world.held = without_context(world.held)
    assert world.peer().machine.identity == f"{world.pseudonym}@{REALM}"
    assert world.authenticate().identity == f"{world.pseudonym}@{REALM}".encode()
    assert world.held.pseudonym is not None  # §4.1.1.8: an old one may go on
    world.held = TemporaryIdentities()
    assert world.peer().machine.identity == world.nai


@METHODS
def test_identities_inside_of_the_method(method: EapType) -> None:
    world = World(method)
    world.give_both()
    peer = world.peer(outer=NAI)
    asked = (AtAnyIdReq(), AtFullauthIdReq(), AtPermanentIdReq())
    answers = [peer.told(world.server.ask(each)).require(AtIdentity).value.decode() for each in asked]
    assert answers == [f"{world.fast}@{REALM}", f"{world.pseudonym}@{REALM}", world.nai]
    assert peer.told(world.server.challenge(world.nai)).subtype == AkaSubtype.CHALLENGE
    assert peer.succeed(world.server.identifier).identity == world.nai.encode()


def test_a_realm_that_the_server_gives_is_kept() -> None:
    world = World()
    world.authenticate(AtNextReauthId(b"4once@aaa1.example.org"))
    assert world.peer().machine.identity == "4once@aaa1.example.org"


def test_bare_usernames_are_for_full_authentication() -> None:
    world = World(options=PeerOptions(identity_form=IdentityForm.USERNAME))
    world.give_both()
    peer = world.peer(outer=NAI)
    answers = [
        peer.told(world.server.ask(each)).require(AtIdentity).value
        for each in (AtAnyIdReq(), AtFullauthIdReq(), AtPermanentIdReq())
    ]
    assert answers == [f"{world.fast}@{REALM}".encode(), b"2hidden", f"0{IMSI}".encode()]


def test_a_fast_reauthentication_identity_is_used_once() -> None:
    """RFC 4187 §4.1.1.8: "even if the authentication exchange was not completed"."""
    world = World()
    world.give_both()
    for give in ("IDi", "EAP-Response/Identity", "AT_IDENTITY"):
        peer = world.peer()
        if give == "IDi":
            peer.machine.identity_given()
            event = peer.machine.poll_event()
            assert event == TemporaryIdentitiesChanged(without_context(world.held))
        elif give == "AT_IDENTITY":
            peer.told(world.server.ask(AtAnyIdReq()))
            assert peer.held == without_context(world.held)
        else:
            answer = peer.hear(identity_request(7))
            assert answer == identity_response(7, f"{world.fast}@{REALM}".encode())
            assert peer.held == without_context(world.held)
    untouched = world.peer(outer=NAI)
    untouched.told(world.server.ask(AtPermanentIdReq()))
    assert untouched.held == world.held


def test_a_full_authentication_without_new_context_ends_the_old_one() -> None:
    """RFC 4187 §5.3: "the peer MUST discard its current fast re-authentication state information"."""
    world = World()
    world.give_both()
    peer = world.peer(outer=NAI)
    peer.told(world.server.challenge(NAI))
    peer.succeed(world.server.identifier)
    assert peer.held == without_context(world.held)


def test_what_a_failed_exchange_gives_is_not_kept() -> None:
    world = World()
    peer = world.peer()
    peer.told(world.server.challenge(NAI, nested=[AtNextPseudonym(b"2new"), AtNextReauthId(b"4new")]))
    peer.hear(failure(world.server.identifier))
    assert peer.held == TemporaryIdentities()


@pytest.mark.parametrize("given", [b"", b"\xff\xfe", b"2 spaced", b"2" * 254, b"@x", b"2" * 230])
def test_identities_that_are_no_nai_are_passed_over(given: bytes) -> None:
    world = World()
    world.authenticate(AtNextPseudonym(given), AtNextReauthId(given))
    assert world.held == TemporaryIdentities()


def test_temporary_identities_can_be_switched_off() -> None:
    world = World(options=PeerOptions(pseudonyms=False, fast_reauthentication=False))
    world.give_both()
    assert world.held == TemporaryIdentities()
    world.options = None
    world.give_both()
    world.options = PeerOptions(pseudonyms=False, fast_reauthentication=False)
    assert world.peer().machine.identity == NAI
    peer = world.peer()
    assert peer.told(world.server.ask(AtAnyIdReq())).require(AtIdentity).value == NAI.encode()


def test_identities_of_a_method_that_is_not_spoken_any_more() -> None:
    world = World(EapType.AKA_PRIME)
    world.give_both()
    world.options = PeerOptions(methods=(EapType.AKA,))
    assert world.peer().machine.identity == PRIME_NAI
    world.options = None
    other = HandMadeServer(method=EapType.AKA)
    peer = world.peer(outer=NAI)
    answers = [peer.told(other.ask(each)).require(AtIdentity).value for each in (AtAnyIdReq(), AtFullauthIdReq())]
    assert answers == [NAI.encode(), NAI.encode()]


def test_a_conservative_peer_with_a_pseudonym_withholds_its_permanent_identity() -> None:
    """RFC 4187 §4.1.5, §4.1.6."""
    world = World(options=PeerOptions(privacy=PrivacyPolicy.CONSERVATIVE))
    peer = world.peer()
    assert peer.told(world.server.ask(AtPermanentIdReq())).require(AtIdentity).value == NAI.encode()
    world.give_both()
    peer = world.peer(outer="anonymous@x")
    withheld(peer, world.server.ask(AtPermanentIdReq()), AkaFailure.IDENTITY_WITHHELD)
    assert peer.hear(failure(9)) is None


# Fast re-authentication


@METHODS
def test_fast_reauthentications_in_a_row(method: EapType) -> None:
    world = World(method)
    world.give_both()
    world.reauthenticate(1, AtNextReauthId(b"4second"))
    assert world.held.reauthentication is not None
    assert (world.held.reauthentication.identity, world.held.reauthentication.counter) == ("4second", 1)
    world.reauthenticate(7, AtNextReauthId(b"4third"))
    world.reauthenticate(8)  # §5.4: no next identity, so full authentication follows
    assert world.held.reauthentication is None
    assert world.peer().machine.identity == f"{world.pseudonym}@{REALM}"


@METHODS
def test_fast_reauthentication_by_identity_round_and_checkcode(method: EapType) -> None:
    world = World(method)
    world.give_both()
    peer = world.peer(outer=NAI)
    request = world.server.ask(AtAnyIdReq())
    response = peer.hear(request)
    assert response is not None
    code = AtCheckcode(checkcode((request, response), method))
    answer = peer.told(world.server.reauthentication(1, code))
    assert answer.get(AtCheckcode) == code
    outcome = peer.succeed(world.server.identifier)
    assert outcome.msk == world.server.reauthentication_keys(f"{world.fast}@{REALM}", 1).msk
    wrong = world.peer(outer=NAI)
    wrong.hear(world.server.ask(AtAnyIdReq()))
    withheld(wrong, world.server.reauthentication(1, AtCheckcode(b"")), AkaFailure.WRONG_CHECKCODE)


@METHODS
@pytest.mark.parametrize("counter", [0, 1, 3])
def test_a_counter_that_is_not_fresh_leads_to_full_authentication(method: EapType, counter: int) -> None:
    world = World(method)
    world.give_both()
    world.reauthenticate(3, AtNextReauthId(b"4next"))
    peer = world.peer()
    peer.machine.identity_given()
    packet = world.server.reauthentication(counter, AtResultInd(), nested=[AtNextReauthId(b"4ignored")])
    answer = peer.hear(packet)
    assert answer is not None
    assert mac_verifies(answer, world.server.keys.k_aut, NONCE_S)
    message = AkaMessage.decode(answer)
    inside = nested_attributes(message, world.server.keys.k_encr)
    assert inside.attributes == (AtCounterTooSmall(), AtCounter(counter))
    assert peer.hear(success(world.server.identifier)) is None
    assert isinstance(peer.seen[-1], PacketDiscarded)
    # §5.5: the fast re-authentication identity is used in the key derivation
    assert peer.told(world.server.challenge("4next@" + REALM)).subtype == AkaSubtype.CHALLENGE
    assert peer.succeed(world.server.identifier).msk == world.server.keys.msk
    assert peer.held.reauthentication is None


@pytest.mark.parametrize("question", [AtFullauthIdReq(), AtPermanentIdReq()])
def test_no_identity_is_told_after_counter_too_small(question: Attribute) -> None:
    world = World()
    world.give_both()
    peer = world.peer()
    peer.machine.identity_given()
    peer.told(world.server.reauthentication(0))
    withheld(peer, world.server.ask(question), AkaFailure.UNEXPECTED)


def test_the_server_falls_back_on_full_authentication() -> None:
    world = World()
    world.give_both()
    outcome = world.authenticate(AtNextReauthId(b"4other"))
    assert (outcome.identity, outcome.fast) == (f"{world.fast}@{REALM}".encode(), False)
    assert world.held.reauthentication is not None
    assert world.held.reauthentication.counter == 0


def test_reauthentication_that_nobody_began() -> None:
    world = World()
    world.give_both()
    for identity in (NAI, f"{world.pseudonym}@{REALM}"):
        withheld(world.peer(outer=identity), world.server.reauthentication(1), AkaFailure.UNEXPECTED)
    peer = world.peer()
    peer.machine.identity_given()
    peer.told(world.server.ask(AtFullauthIdReq()))
    withheld(peer, world.server.reauthentication(1), AkaFailure.UNEXPECTED)
    other = HandMadeServer(method=EapType.AKA_PRIME)
    other.challenge(NAI)
    peer = world.peer()
    peer.machine.identity_given()
    withheld(peer, other.reauthentication(1), AkaFailure.UNEXPECTED)


def test_malformed_reauthentication_requests() -> None:
    world = World()
    world.give_both()

    def begun() -> FedPeer:
        peer = world.peer()
        peer.machine.identity_given()
        return peer

    whole = world.server.reauthentication(1)
    withheld(begun(), whole[:-1] + bytes([whole[-1] ^ 1]), AkaFailure.WRONG_MAC)
    withheld(begun(), world.server.reauthentication(1, nonce_s=None), AkaFailure.MALFORMED)
    withheld(begun(), world.server.reauthentication(1, nested=[AtNextPseudonym(b"2x")]), AkaFailure.MALFORMED)
    withheld(begun(), world.server.message(AkaSubtype.REAUTHENTICATION).encode(), AkaFailure.MALFORMED)
    torn = AkaMessage.decode(whole)
    data = AtEncrData(torn.require(AtEncrData).ciphertext[:-4])
    packet = replace(torn, attributes=(torn.require(AtIv), data)).encode()
    withheld(begun(), packet, AkaFailure.MALFORMED)


@METHODS
def test_result_indication_after_fast_reauthentication(method: EapType) -> None:
    """RFC 4187 §6.2, §9.10: with the counter of the exchange."""
    world = World(method, PeerOptions(result_indications=True))
    world.give_both()
    peer = world.peer()
    peer.machine.identity_given()
    assert peer.told(world.server.reauthentication(1, AtResultInd())).get(AtResultInd) is not None
    assert peer.hear(success(world.server.identifier)) is None
    assert isinstance(peer.seen[-1], PacketDiscarded)
    answer = peer.told(world.server.notification(32768, counter=1))
    assert nested_attributes(answer, world.server.keys.k_encr).attributes == (AtCounter(1),)
    assert peer.succeed(world.server.identifier).fast


@pytest.mark.parametrize("counter", [None, 2])
def test_a_notification_after_fast_reauthentication_needs_its_counter(counter: int | None) -> None:
    world = World(options=PeerOptions(result_indications=True))
    world.give_both()
    peer = world.peer()
    peer.machine.identity_given()
    peer.told(world.server.reauthentication(1, AtResultInd()))
    cause = AkaFailure.MALFORMED if counter is None else AkaFailure.UNEXPECTED
    withheld(peer, world.server.notification(32768, counter=counter), cause)


def test_a_failure_notification_after_fast_reauthentication() -> None:
    world = World()
    world.give_both()
    peer = world.peer()
    peer.machine.identity_given()
    peer.told(world.server.reauthentication(1, nested=[AtNextReauthId(b"4next")]))
    assert peer.told(world.server.notification(1026, counter=1)).subtype == AkaSubtype.NOTIFICATION
    peer.hear(failure(world.server.identifier))
    assert peer.held.reauthentication is None


def test_a_repeated_reauthentication_request_gets_the_same_answer() -> None:
    world = World()
    world.give_both()
    peer = world.peer()
    peer.machine.identity_given()
    packet = world.server.reauthentication(1)
    assert peer.hear(packet) == peer.hear(packet)


def test_reauthentications_have_a_limit() -> None:
    """RFC 4187 §5.1: "SHOULD have an upper limit"."""
    world = World(options=PeerOptions(reauthentications=2))
    world.give_both()
    world.reauthenticate(1, AtNextReauthId(b"4b"))
    world.reauthenticate(2, AtNextReauthId(b"4c"))
    assert world.peer().machine.identity == f"{world.pseudonym}@{REALM}"


def test_no_fast_reauthentication_in_another_access_network() -> None:
    """RFC 9048 §3.3: "The peer SHOULD NOT attempt"."""
    world = World(EapType.AKA_PRIME)
    world.give_both()
    world.options = PeerOptions(network_name="HRPD")
    assert world.peer().machine.identity == f"{world.pseudonym}@{REALM}"
    world.options = PeerOptions(network_name="WLAN")
    assert world.peer().machine.identity == f"{world.fast}@{REALM}"


# Recorded runs of hostapd and eapol_test


def conversations(name: str) -> list[list[dict[str, Any]]]:
    """The authentications of one recorded run, each from its EAP-Response/Identity."""
    runs = json.loads(shared("vectors/runs/eap_aka_hostap_runs.json").read_text())["runs"]
    found: list[list[dict[str, Any]]] = []
    for packet in next(run["packets"] for run in runs if run["name"] == name):
        if packet.get("what") == "Identity":
            found.append([])
        found[-1].append(packet)
    return found


class RecordedIv:
    """The IV of a recorded response, so that ours is the same octet for octet."""

    def __init__(self, packets: list[bytes]) -> None:
        self._ivs = [found.value for found in (AkaMessage.decode(each).get(AtIv) for each in packets) if found]

    def octets(self, length: int) -> bytes:
        """The next one."""
        iv = self._ivs.pop(0)
        assert len(iv) == length
        return iv


@pytest.mark.parametrize(
    ("name", "authentications"),
    [
        ("aka_full_reauth2", 3),
        ("aka_resultind_pseudonym", 2),
        ("akaprime_full_reauth2", 3),
        ("akaprime_resultind_pseudonym", 2),
        ("akaprime_auts", 1),
    ],
)
def test_our_peer_says_what_eapol_test_said(name: str, authentications: int) -> None:
    """Octet for octet over a run of authentications, with the identities that earlier ones gave."""
    recorded = conversations(name)
    assert len(recorded) == authentications
    card = SqnWindow() if name != "akaprime_auts" else SqnWindow((0x895440 >> 5, *(0,) * 31))
    usim = SoftwareUsim(imsi=IMSI, k=K, opc=OPC, store=MemorySqnStore(card))
    held = TemporaryIdentities()
    for number, conversation in enumerate(recorded):
        said = [bytes.fromhex(each["hex"]) for each in conversation if each["dir"] == "peer->server"]
        permanent = PRIME_NAI if name.startswith("akaprime") else NAI
        # eapol_test adds no realm to what the server gives for fast re-authentication
        bare = number > 0 and "reauth2" in name
        peer = EapAkaPeer(
            nai=permanent.partition("@")[0] if bare else permanent,
            imsi=IMSI,
            entropy=RecordedIv(said[1:]),
            options=PeerOptions(result_indications="resultind" in name, network_name="WLAN"),
            held=held,
        )
        heard = [identity_request(said[0][1])]
        heard += [bytes.fromhex(each["hex"]) for each in conversation if each["dir"] == "server->peer"]
        ours: list[bytes] = []
        outcome: Succeeded | None = None
        for packet in heard:
            peer.receive(packet)
            while (event := peer.poll_event()) is not None:
                if isinstance(event, PacketToSend):
                    ours.append(event.packet)
                elif isinstance(event, ChallengeReceived):
                    peer.answer(usim.authenticate(event.rand, event.autn))
                elif isinstance(event, TemporaryIdentitiesChanged):
                    held = event.held
                elif isinstance(event, Succeeded):
                    outcome = event
        assert ours == said
        assert outcome is not None
        keys = [each.get("reauth_keys") or each.get("keys") for each in conversation]
        assert outcome.msk.reveal().hex() == [each for each in keys if each][-1]["msk"]
