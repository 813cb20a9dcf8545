"""Rules of RFC 4187 that no other test is about; each test names its clause."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from aaa.events import Refused
from aaa.subscribers.laboratory import laboratory_subscriber
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
    AtNonceS,
    AtNotification,
    AtPermanentIdReq,
    AtRes,
    AtResultInd,
    Attribute,
    UnknownAttribute,
    encode_attributes,
)
from protocols.eap.aka.messages import AkaMessage, AkaSubtype, NotificationCode
from protocols.eap.aka.outcome import AkaFailure
from protocols.eap.aka.peer import Failed, PacketDiscarded, PeerOptions, TemporaryIdentities
from protocols.eap.aka.protection import checkcode
from protocols.eap.packet import EapCode, EapPacket, EapType, failure, identity_response, success
from protocols.entropy import SeededEntropy
from protocols.io.entropy import SystemEntropy
from protocols.io.platform import Platform
from protocols.secret import Secret
from protocols.threegpp.identity import NAI_MAXIMUM_LENGTH
from tests.harness.aka_server import NAI, REALM, FedPeer, HandMadeServer
from tests.harness.aka_user import aka_user
from tests.harness.eap_by_formula import IMSI, FormulaPeer
from tests.harness.eap_network import AKA, PRIME, Network, only
from tests.harness.eap_pair import EapPair
from tests.machines.test_aaa_authentication import World

METHODS = pytest.mark.parametrize("method", [AKA, PRIME], ids=["AKA", "AKA'"])
UNKNOWN = UnknownAttribute(99, bytes(2))  # one that must not be skipped
EAP_MTU = 1020  # RFC 3748 §3.1
NAI_OF_THE_RFC = re.compile(r"[0-9A-Za-z_-]+@[0-9A-Za-z.-]+\Z")  # what every grammar of an NAI allows


def returning(method: EapType = AKA, options: PeerOptions | None = None) -> tuple[HandMadeServer, FedPeer]:
    """A server and a peer that has said its fast re-authentication identity."""
    server, first = HandMadeServer(method=method), FedPeer()
    first.told(server.challenge(NAI, nested=[AtNextReauthId(b"4once")]))
    first.succeed(server.identifier)
    peer = FedPeer(options, first.held, usim=first.usim)
    peer.machine.identity_given()
    return server, peer


def client_error(peer: FedPeer, packet: bytes, cause: AkaFailure) -> None:
    """The peer says Client-Error and nothing else, and why."""
    assert peer.told(packet).attributes == (AtClientErrorCode(0),)
    assert peer.machine.refusal is not None
    assert peer.machine.refusal.cause is cause


# --- identities (§4.1)


@pytest.mark.parametrize("realm", ["nai.epc.mnc010.mcc001.3gppnetwork.org", "wlan.mnc010.mcc001.owlan.org"])
def test_a_realm_with_a_third_digit_of_the_mnc_is_the_subscribers(realm: str) -> None:
    """§4.1.1.5: a terminal that does not know the length of its MNC takes three digits."""
    network = Network()
    assert network.succeed(FormulaPeer(), f"0{IMSI}@{realm}").imsi == IMSI
    assert len(network.transcript) == 2


@METHODS
@pytest.mark.parametrize("decoration", ["", f"{REALM}!"])
def test_temporary_identities_are_nais_without_decoration(method: EapType, decoration: str) -> None:
    """§4.1.1.4, §4.1.1.7, §5.3, §10.10, §10.11: a username alone, and a username at the realm of the peer."""
    network = Network(options=only(method))
    peer = FormulaPeer(methods=(method,))
    digit = "0" if method is AKA else "6"
    realm = "visited.example.org" if decoration else REALM
    outcome = network.succeed(peer, f"{decoration}{digit}{IMSI}@{realm}")
    assert peer.reauthentication is not None
    assert NAI_OF_THE_RFC.match(peer.reauthentication)
    assert peer.reauthentication.endswith(f"@{REALM}")
    assert outcome.pseudonym is not None
    assert NAI_OF_THE_RFC.match(f"{outcome.pseudonym}@{REALM}")
    # §4.1.2.2: of a decorated identity the server requests an undecorated copy
    assert len(network.transcript) == (4 if decoration else 2)


@METHODS
def test_no_identity_in_an_attribute_is_decorated(method: EapType) -> None:
    """§4.1.1.4, §10.5: neither a permanent nor a temporary one of a peer that decorates in EAP-Response/Identity."""
    server, first = HandMadeServer(method=method), FedPeer()
    first.told(server.challenge(NAI, nested=[AtNextPseudonym(b"hidden"), AtNextReauthId(b"once")]))
    first.succeed(server.identifier)
    decorated = f"{REALM}!0{IMSI}@visited.example.org"
    peer = FedPeer(held=first.held, nai=decorated, usim=first.usim)
    assert peer.machine.identity == f"{REALM}!once@visited.example.org"
    questions = (AtAnyIdReq(), AtFullauthIdReq(), AtPermanentIdReq())
    answers = [peer.told(server.ask(question)).require(AtIdentity).value.decode() for question in questions]
    assert answers == [f"once@{REALM}", f"hidden@{REALM}", f"{'0' if method is AKA else '6'}{IMSI}@{REALM}"]


@METHODS
def test_no_two_temporary_usernames_are_alike(method: EapType) -> None:
    """§4.1.1.7: unique, with a random component, also between servers that have keys of their own."""
    seen = set()
    for number in range(3):
        network = Network(options=only(method), entropy=SeededEntropy(number))
        peer = FormulaPeer(methods=(method,))
        for _ in range(4):
            network.succeed(peer)
            seen |= {peer.pseudonym, peer.reauthentication}
    assert len(seen) == 3 * (1 + 4)  # fast re-authentication gives no pseudonym


class Forgetful(FormulaPeer):
    """A peer whose response has a wrong AT_MAC."""

    def answer_challenge(self, message: AkaMessage, packet: bytes) -> bytes:
        """One bit is wrong."""
        right = super().answer_challenge(message, packet)
        return right[:-1] + bytes([right[-1] ^ 1])


@METHODS
def test_a_failed_exchange_leaves_the_pseudonym_of_the_last_success(method: EapType) -> None:
    """§4.1.1.7: the server should not overwrite it."""
    network = Network(options=replace(only(method), reauthentication=False))
    peer = FormulaPeer(methods=(method,))
    network.succeed(peer)
    pseudonym = peer.pseudonym
    network.fail(Forgetful(methods=(method,)), AkaFailure.WRONG_MAC, pseudonym)
    assert network.succeed(FormulaPeer(methods=(method,)), pseudonym).identity.decode() == pseudonym
    assert len(network.transcript) == 2


def test_full_authentication_is_done_under_any_other_identity() -> None:
    """§5.3: a peer that has a fast re-authentication identity may use another one."""
    pair = EapPair()
    pair.run().succeeded()
    pair.peer_options = PeerOptions(fast_reauthentication=False)
    assert not pair.run().succeeded().fast


# --- attributes (§8.1, §8.2)


class Chatty(FormulaPeer):
    """A peer that says more than this version knows."""

    def response(self, request: AkaMessage, subtype: AkaSubtype, *attributes: Attribute) -> AkaMessage:
        """With a skippable attribute in front."""
        return super().response(request, subtype, UnknownAttribute(201, bytes(6)), *attributes)


@METHODS
def test_what_the_server_does_not_know_and_may_skip_is_skipped(method: EapType) -> None:
    """§8.1: "the rest of the attributes and message data MUST still be processed"."""
    network = Network(options=replace(only(method), always_request_identity=True))
    peer = Chatty(methods=(method,))
    network.succeed(peer)
    assert network.succeed(peer).fast


@METHODS
def test_what_the_peer_does_not_know_and_may_not_skip_ends_the_exchange(method: EapType) -> None:
    """§8.1: Client-Error, although everything else is right."""
    client_error(FedPeer(), HandMadeServer(method=method).challenge(NAI, UNKNOWN), AkaFailure.MALFORMED)
    server, peer = returning(method)
    client_error(peer, server.reauthentication(1, UNKNOWN), AkaFailure.MALFORMED)


@METHODS
def test_no_message_is_longer_than_the_eap_mtu(method: EapType) -> None:
    """§8.2: with every attribute that this end has, and the longest identity that there is."""
    user = f"{'0' if method is AKA else '6'}{IMSI}@"
    permanent = user + "a" * 60 + ".example" * ((NAI_MAXIMUM_LENGTH - len(user) - 60) // 8)
    assert len(permanent) > NAI_MAXIMUM_LENGTH - 8
    network = Network(options=replace(only(method), always_request_identity=True, result_indications=True))
    peer = FormulaPeer(methods=(method,), result_indications=True, permanent=permanent)
    longest = 0
    for _ in range(2):
        network.succeed(peer)
        longest = max(longest, *map(len, network.transcript))
    assert len(permanent) < longest <= EAP_MTU


# --- notifications, success and failure (§6)


@pytest.mark.parametrize("first", [32768, 16384, 1026])
def test_a_second_notification_round_without_protection_is_refused(first: int) -> None:
    """§6.1: no more than one notification round in an exchange, whoever begins the second one."""
    server, peer = HandMadeServer(), FedPeer(PeerOptions(result_indications=True))
    peer.told(server.challenge(NAI, AtResultInd()))
    packet = server.notification(first)
    if first == 16384:
        packet = server.message(AkaSubtype.NOTIFICATION, AtNotification(first)).encode()
    assert peer.told(packet).subtype == AkaSubtype.NOTIFICATION
    assert peer.hear(packet) is not None  # a retransmission is no second round
    second = server.message(AkaSubtype.NOTIFICATION, AtNotification(16384)).encode()
    assert peer.told(second).subtype == AkaSubtype.CLIENT_ERROR
    assert peer.hear(success(server.identifier)) is None
    assert isinstance(peer.seen[-1], PacketDiscarded)


@pytest.mark.parametrize("indications", [False, True])
def test_success_counts_once_the_reauthentication_is_answered(indications: bool) -> None:
    """§6.3.4: not before the server is authenticated, and not before the notification where one was agreed."""
    server, peer = returning(options=PeerOptions(result_indications=indications))
    assert peer.hear(success(1)) is None
    assert isinstance(peer.seen[-1], PacketDiscarded)
    assert peer.told(server.reauthentication(1, AtResultInd())).subtype == AkaSubtype.REAUTHENTICATION
    if indications:
        assert peer.hear(success(server.identifier)) is None
        assert isinstance(peer.seen[-1], PacketDiscarded)
        assert peer.told(server.notification(32768, counter=1)).subtype == AkaSubtype.NOTIFICATION
    assert peer.succeed(server.identifier).fast


class Garbled(FormulaPeer):
    """A peer that answers notifications by octets which are no message."""

    def answer_notification(self, message: AkaMessage, packet: bytes) -> bytes:
        """A response of the right identifier and type."""
        return EapPacket(code=EapCode.RESPONSE, identifier=packet[1], type=packet[4], data=b"\xff").encode()


@METHODS
@pytest.mark.parametrize("denied", [False, True])
def test_the_answer_to_a_notification_decides_nothing(method: EapType, denied: bool) -> None:
    """§6.1, §6.2: EAP-Failure follows a notification of failure, EAP-Success that of success, whatever comes back."""
    network = Network(options=replace(only(method), result_indications=True, authorisation=True))
    peer = Garbled(methods=(method,), result_indications=True)
    if denied:
        network.denial = NotificationCode.TEMPORARILY_DENIED
        network.fail(peer, AkaFailure.DENIED)
    else:
        network.succeed(peer)


@pytest.mark.parametrize("why", ["client error", "reject", "notification"])
def test_failure_is_taken_after_an_error_message_and_after_a_notification(why: str) -> None:
    """§6.3.3: the three cases in which a peer must take it."""
    server, peer = HandMadeServer(), FedPeer()
    if why == "client error":
        client_error(peer, server.challenge(NAI)[:-1] + b"\0", AkaFailure.WRONG_MAC)
    elif why == "reject":
        garbled = bytearray(server.challenge(NAI))
        garbled[40] ^= 1  # MAC-A in AUTN
        assert peer.told(bytes(garbled)).subtype == AkaSubtype.AUTHENTICATION_REJECT
    else:
        peer.told(server.message(AkaSubtype.NOTIFICATION, AtNotification(16384)).encode())
    assert peer.hear(failure(server.identifier)) is None
    assert isinstance(peer.seen[-1], Failed)
    assert peer.machine.concluded


def test_what_the_server_finds_wrong_is_told_to_its_people() -> None:
    """§6.3.2: "The server SHOULD log this event"; EAP-Failure follows the notification (§6.1)."""
    world, ue = World(laboratory_subscriber(1)), aka_user(laboratory_subscriber(1))
    challenge = world.exchange(identity_response(1, ue.nai.encode())).eap_payload
    assert challenge is not None
    response = ue.take(challenge)
    assert response is not None
    notification = world.exchange(response[:-1] + bytes([response[-1] ^ 1])).eap_payload
    assert notification is not None
    acknowledgement = ue.take(notification)
    assert acknowledgement is not None
    last = world.exchange(acknowledgement).eap_payload
    assert last is not None
    assert EapPacket.decode(last).code is EapCode.FAILURE
    (refused,) = world.take(Refused)
    assert isinstance(refused, Refused)
    assert refused.refusal.text.startswith("Authentication failed: AT_MAC of the challenge response does not verify")


# --- keys and protection (§7, §10.12, §10.15, §10.18)


@METHODS
def test_transient_keys_stay_and_master_keys_change(method: EapType) -> None:
    """§7: on fast re-authentication the same TEKs, a new MSK and a new EMSK."""
    network = Network(options=only(method))
    peer = FormulaPeer(methods=(method,))
    outcomes = [network.succeed(peer) for _ in range(3)]
    assert [outcome.fast for outcome in outcomes] == [False, True, True]
    contexts = [outcome.context for outcome in outcomes]
    assert len({(each.k_encr, each.k_aut, each.k_re) for each in contexts if each is not None}) == 1
    assert len({outcome.msk for outcome in outcomes} | {outcome.emsk for outcome in outcomes}) == 6


@METHODS
def test_no_end_uses_an_initialisation_vector_or_a_nonce_twice(method: EapType) -> None:
    """§10.12, §10.18."""
    pair = EapPair(
        server_options=replace(only(method), result_indications=True),
        peer_options=PeerOptions(methods=(method,), result_indications=True),
    )
    vectors: list[bytes] = []
    for _ in range(4):
        outcome = pair.run()
        outcome.succeeded()
        for packet in outcome.transcript:
            iv = AkaMessage.decode(packet).get(AtIv) if EapPacket.decode(packet).type == method else None
            vectors += [] if iv is None else [iv.value]
    # one in the challenge; request, response, notification and its response in each of three re-authentications
    assert len(vectors) == len(set(vectors)) == 1 + 3 * 4
    network, peer = Network(options=only(method)), FormulaPeer(methods=(method,))
    network.succeed(peer)
    nonces = []
    for _ in range(4):
        assert network.succeed(peer).fast
        nonces.append(peer.nonce)
    assert len(set(nonces)) == 4


def padded(k_encr: Secret, last: int) -> tuple[AtIv, AtEncrData]:
    """A skippable nested attribute and AT_PADDING, whose last octet is ``last``."""
    plaintext = encode_attributes([UnknownAttribute(200, bytes(6))]) + b"\x06\x02" + bytes(5) + bytes([last])
    encryptor = Cipher(algorithms.AES(k_encr.reveal()), modes.CBC(bytes(16))).encryptor()
    return AtIv(bytes(16)), AtEncrData(encryptor.update(plaintext) + encryptor.finalize())


@METHODS
@pytest.mark.parametrize("last", [0, 1])
def test_pad_bytes_are_zeros(method: EapType, last: int) -> None:
    """§10.12: the recipient verifies it; Client-Error where it is the peer, a notification where it is the server."""
    server, peer = HandMadeServer(method=method), FedPeer()
    server.challenge(NAI)
    server.seq = server.identifier = 0
    packet = server.challenge(NAI, *padded(server.keys.k_encr, last))
    if last:
        client_error(peer, packet, AkaFailure.MALFORMED)
    else:
        assert peer.told(packet).subtype == AkaSubtype.CHALLENGE

    class Padding(FormulaPeer):
        def closing(self, message: AkaMessage) -> list[Attribute]:
            assert self.keys is not None
            return [*super().closing(message), *padded(self.keys.k_encr, last)]

    network = Network(options=only(method))
    if last:
        network.fail(Padding(methods=(method,)), AkaFailure.MALFORMED)
    else:
        network.succeed(Padding(methods=(method,)))


class WrongAltogether(FormulaPeer):
    """A peer whose response has nothing right but its attributes' types."""

    def response(self, request: AkaMessage, subtype: AkaSubtype, *attributes: Attribute) -> AkaMessage:
        """A RES of zeros, and the checkcode of other messages."""
        if subtype == AkaSubtype.CHALLENGE:
            attributes = (AtRes.of(bytes(8)), AtCheckcode(checkcode([b"x"], request.method)))
        return super().response(request, subtype, *attributes)

    def answer_challenge(self, message: AkaMessage, packet: bytes) -> bytes:
        """And the wrong AT_MAC."""
        wrong = super().answer_challenge(message, packet)
        return wrong[:-1] + bytes([wrong[-1] ^ 1])


@METHODS
def test_the_mac_is_judged_before_everything_else(method: EapType) -> None:
    """§10.15: with a wrong one the other attributes are ignored, by either end."""
    Network(options=only(method)).fail(WrongAltogether(methods=(method,)), AkaFailure.WRONG_MAC)
    server, peer = HandMadeServer(method=method), FedPeer()
    given = [AtNextPseudonym(b"2x"), AtNextReauthId(b"4x")]
    packet = server.challenge(NAI, AtCheckcode(checkcode([b"x"], method)), AtResultInd(), nested=given)
    client_error(peer, packet[:-1] + bytes([packet[-1] ^ 1]), AkaFailure.WRONG_MAC)
    assert peer.held == TemporaryIdentities()
    server, peer = returning(method)
    packet = server.reauthentication(0, AtCheckcode(checkcode([b"x"], method)))  # a counter that is too small
    client_error(peer, packet[:-1] + bytes([packet[-1] ^ 1]), AkaFailure.WRONG_MAC)


# --- where attributes stand (§10.1, §10.14 to §10.18), randomness (§12.10)

COLUMN_E: list[Attribute] = [
    AtCounter(1),
    AtCounterTooSmall(),
    AtNonceS(bytes(16)),
    AtNextPseudonym(b"2x"),
    AtNextReauthId(b"4x@y"),
]


@METHODS
@pytest.mark.parametrize("attribute", COLUMN_E, ids=lambda value: value.type.name)
def test_attributes_of_column_e_are_refused_outside(method: EapType, attribute: Attribute) -> None:
    """§10.1, §10.10, §10.11, §10.16 to §10.18: "MUST always be encrypted"."""
    server = HandMadeServer(method=method)
    client_error(FedPeer(), server.challenge(NAI, attribute), AkaFailure.MALFORMED)
    server, peer = returning(method)
    client_error(peer, server.reauthentication(1, attribute), AkaFailure.MALFORMED)

    class Open(FormulaPeer):
        def closing(self, message: AkaMessage) -> list[Attribute]:
            return [*super().closing(message), attribute]

    Network(options=only(method)).fail(Open(methods=(method,)), AkaFailure.MALFORMED)


def test_a_result_indication_is_not_nested() -> None:
    """§10.14: it "MUST NOT be encapsulated within the AT_ENCR_DATA attribute"."""
    peer = FedPeer(PeerOptions(result_indications=True))
    client_error(peer, HandMadeServer().challenge(NAI, nested=[AtResultInd()]), AkaFailure.MALFORMED)


def test_live_nodes_take_their_randomness_from_the_kernel() -> None:
    """§10.12, §10.18, §12.10: a good source of randomness."""
    octets = SystemEntropy().octets(4096)
    assert len(octets) == 4096
    assert len(set(octets)) == 256
    assert SystemEntropy().octets(16) != octets[:16]
    assert isinstance(Platform().entropy, SystemEntropy), "what a node stands on unless it is told otherwise"
