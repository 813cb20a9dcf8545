"""EAP-AKA (RFC 4187): both machines against each other, and each against recorded hostapd runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols.algorithms.milenage import Milenage
from protocols.algorithms.sqn import IND_COUNT, SqnScheme, SqnState, SqnWindow, compose, ind_of, seq_of
from protocols.algorithms.usim import UsimReject, UsimResult, UsimSuccess
from protocols.algorithms.vector import AkaVector, generate_vector, verify_auts
from protocols.eap.aka import peer as peer_side
from protocols.eap.aka import server as server_side
from protocols.eap.aka.attributes import (
    AtAnyIdReq,
    AtAutn,
    AtBidding,
    AtCheckcode,
    AtClientErrorCode,
    AtCounter,
    AtEncrData,
    AtFullauthIdReq,
    AtIdentity,
    AtIv,
    AtMac,
    AtNotification,
    AtPermanentIdReq,
    AtRand,
    AtRes,
    AtResultInd,
    Attribute,
    UnknownAttribute,
)
from protocols.eap.aka.keys import derive_keys
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.outcome import AkaFailure, PacketDiscarded, PacketToSend
from protocols.eap.aka.peer import ChallengeReceived, EapAkaPeer, IdentityForm, PeerOptions
from protocols.eap.aka.protection import checkcode, encode_with_mac, mac_verifies
from protocols.eap.aka.server import EapAkaServer, IdentityRequest, ServerOptions, VectorRequested
from protocols.eap.packet import EapCode, EapPacket, EapType, failure, identity_response, success
from protocols.entropy import SeededEntropy
from protocols.errors import LocalError
from protocols.secret import Secret
from protocols.threegpp.identity import Imsi
from tests.harness.material import shared
from ue.usim import MemorySqnStore, SoftwareUsim

IMSI = Imsi("001010000000001")
NAI = "0001010000000001@nai.epc.mnc001.mcc001.3gppnetwork.org"
K = Secret(bytes.fromhex("465b5ce8b199b49faa5f0a2ee238a6bc"))
OPC = Secret(bytes.fromhex("cd63cb71954a9f4e48a5994e37a02baf"))

Mangle = Callable[[bytes], bytes]
REQUEST, RESPONSE = EapCode.REQUEST, EapCode.RESPONSE


def unchanged(packet: bytes) -> bytes:
    """A link that alters nothing."""
    return packet


def window_at(sqn: int) -> SqnWindow:
    """The array of a USIM that has accepted just this SQN."""
    return SqnWindow(tuple(seq_of(sqn) if ind == ind_of(sqn) else 0 for ind in range(IND_COUNT)))


class HomeNetwork:
    """An AuC with one subscriber."""

    def __init__(self, *, k: Secret = K, sqn: SqnState | None = None) -> None:
        self.algorithm = Milenage(k, opc=OPC)
        self.sqn = sqn or SqnState()
        self.requests: list[VectorRequested] = []

    def vector(self, request: VectorRequested) -> AkaVector:
        """A fresh vector, after resynchronisation where one is asked for."""
        self.requests.append(request)
        again = request.resynchronisation
        if again is not None:
            sqn_ms = verify_auts(self.algorithm, rand=again.rand, auts=again.auts)
            self.sqn = SqnScheme().resynchronised(self.sqn, sqn_ms)
        sqn, self.sqn = SqnScheme().next(self.sqn)
        return generate_vector(self.algorithm, rand=bytes([len(self.requests)] * 16), sqn=sqn)


class Exchange:
    """Server and peer over a link that may alter packets; outcome and transcript of one run."""

    def __init__(
        self,
        *,
        home: HomeNetwork | None = None,
        usim: Callable[[bytes, bytes], UsimResult] | None = None,
        nai: str = NAI,
        server: ServerOptions | None = None,
        peer: PeerOptions | None = None,
        downlink: Mangle = unchanged,
        uplink: Mangle = unchanged,
    ) -> None:
        self.home = home or HomeNetwork()
        self.usim = usim or SoftwareUsim(imsi=IMSI, k=K, opc=OPC).authenticate
        self.server = EapAkaServer(entropy=SeededEntropy("server"), options=server)
        self.peer = EapAkaPeer(nai=nai, imsi=IMSI, entropy=SeededEntropy("peer"), options=peer)
        self.downlink, self.uplink = downlink, uplink
        self.transcript: list[bytes] = []
        self.server_events: list[server_side.ServerEvent] = []
        self.peer_events: list[peer_side.PeerEvent] = []

    def run(self, identity: bytes = NAI.encode()) -> Exchange:
        """From IDi to the end."""
        self.server.start(identity)
        return self.settle()

    def settle(self) -> Exchange:
        """Carry packets until neither machine has anything to say."""
        while True:
            moved = False
            while (event := self.server.poll_event()) is not None:
                moved = True
                self.server_events.append(event)
                if isinstance(event, VectorRequested):
                    self.server.answer_vector(self.home.vector(event))
                elif isinstance(event, (PacketToSend, server_side.Succeeded, server_side.Failed)):
                    self.transcript.append(event.packet)
                    self.peer.receive(self.downlink(event.packet))
            while (heard := self.peer.poll_event()) is not None:
                moved = True
                self.peer_events.append(heard)
                if isinstance(heard, ChallengeReceived):
                    self.peer.answer(self.usim(heard.rand, heard.autn))
                elif isinstance(heard, PacketToSend):
                    self.transcript.append(heard.packet)
                    self.server.receive(self.uplink(heard.packet))
            if not moved:
                return self

    @property
    def narrative(self) -> list[str]:
        """The exchange in the RFC's words."""
        return [spoken(packet) for packet in self.transcript]

    @property
    def server_success(self) -> server_side.Succeeded:
        """The server's success, which must have been its last event."""
        event = self.server_events[-1]
        assert isinstance(event, server_side.Succeeded), event
        return event

    @property
    def peer_success(self) -> peer_side.Succeeded:
        """The peer's success, which must have been its last event."""
        event = self.peer_events[-1]
        assert isinstance(event, peer_side.Succeeded), event
        return event

    @property
    def server_failure(self) -> server_side.Failed:
        """The server's failure, which must have been its last event."""
        event = self.server_events[-1]
        assert isinstance(event, server_side.Failed), event
        return event

    @property
    def peer_failure(self) -> peer_side.Failed:
        """The peer's failure, which must have been its last event."""
        event = self.peer_events[-1]
        assert isinstance(event, peer_side.Failed), event
        return event


def spoken(packet: bytes) -> str:
    """One packet in words."""
    decoded = EapPacket.decode(packet)
    if decoded.type == EapType.AKA:
        return AkaMessage.decode(packet).summary()
    if decoded.type is None:
        return f"EAP-{decoded.code.name.capitalize()}"
    return f"EAP-{decoded.code.name.capitalize()}/{EapType(decoded.type).name.capitalize()}"


def mangled(code: EapCode, subtype: int, change: Callable[[AkaMessage, bytes], bytes]) -> Mangle:
    """A link that alters one kind of message."""

    def mangle(packet: bytes) -> bytes:
        decoded = EapPacket.decode(packet)
        if decoded.code is not code or decoded.type != EapType.AKA:
            return packet
        message = AkaMessage.decode(packet)
        return change(message, packet) if message.subtype == subtype else packet

    return mangle


def flipped(packet: bytes, at: int = -1) -> bytes:
    """One bit of one octet changed."""
    altered = bytearray(packet)
    altered[at] ^= 1
    return bytes(altered)


def same_keys(exchange: Exchange, identity: bytes) -> None:
    """Both ends succeeded with the keys of this identity."""
    assert exchange.server_success.msk == exchange.peer_success.msk
    assert exchange.server_success.emsk == exchange.peer_success.emsk
    assert exchange.server_success.identity == exchange.peer_success.identity == identity
    assert exchange.server_success.imsi == IMSI
    vector = HomeNetwork(sqn=SqnState(exchange.home.sqn.seq - 1, exchange.home.sqn.ind - 1))
    output = vector.algorithm.f2345(bytes([len(exchange.home.requests)] * 16))
    assert derive_keys(identity, ik=output.ik, ck=output.ck).msk == exchange.peer_success.msk


# Full authentication


def test_full_authentication_with_the_identity_of_idi() -> None:
    exchange = Exchange().run()
    assert exchange.narrative == [
        "EAP-Request/AKA-Challenge [ AT_RAND, AT_AUTN, AT_CHECKCODE, AT_MAC ]",
        "EAP-Response/AKA-Challenge [ AT_RES, AT_CHECKCODE, AT_MAC ]",
        "EAP-Success",
    ]
    same_keys(exchange, NAI.encode())
    assert exchange.server.concluded
    assert exchange.peer.concluded
    identifiers = [packet[1] for packet in exchange.transcript]
    assert identifiers[0] == identifiers[1] == identifiers[2]


def test_full_authentication_begun_by_eap_response_identity() -> None:
    exchange = Exchange()
    exchange.server.receive(identity_response(41, NAI.encode()))
    exchange.settle()
    assert exchange.transcript[0][1] == 42
    same_keys(exchange, NAI.encode())


def test_eap_request_identity_is_answered_with_the_nai() -> None:
    peer = EapAkaPeer(nai=NAI, imsi=IMSI, entropy=SeededEntropy(1))
    peer.receive(bytes.fromhex("0107000501"))
    assert peer.poll_event() == PacketToSend(identity_response(7, NAI.encode()))


@pytest.mark.parametrize(
    ("asked", "attribute"),
    [
        (IdentityRequest.ANY, "AT_ANY_ID_REQ"),
        (IdentityRequest.FULL_AUTHENTICATION, "AT_FULLAUTH_ID_REQ"),
        (IdentityRequest.PERMANENT, "AT_PERMANENT_ID_REQ"),
    ],
)
@pytest.mark.parametrize("form", list(IdentityForm))
def test_identity_round_gives_the_identity_of_the_master_key(
    asked: IdentityRequest, attribute: str, form: IdentityForm
) -> None:
    exchange = Exchange(
        server=ServerOptions(always_request_identity=True, first_identity_request=asked),
        peer=PeerOptions(identity_form=form),
    ).run()
    assert exchange.narrative[:2] == [
        f"EAP-Request/AKA-Identity [ {attribute} ]",
        "EAP-Response/AKA-Identity [ AT_IDENTITY ]",
    ]
    same_keys(exchange, NAI.encode() if form is IdentityForm.NAI else b"0001010000000001")


@pytest.mark.parametrize(
    "identity",
    [
        b"",
        b"2pseudonym@nai.epc.mnc001.mcc001.3gppnetwork.org",
        b"anonymous@example.org",
        b"\xff\xfe",
        b"6001010000000001",
    ],
)
def test_an_unusable_identity_leads_to_an_identity_round(identity: bytes) -> None:
    exchange = Exchange().run(identity)
    assert exchange.narrative[0] == "EAP-Request/AKA-Identity [ AT_PERMANENT_ID_REQ ]"
    same_keys(exchange, NAI.encode())


def test_a_peer_with_a_pseudonym_in_idi_still_gives_its_permanent_identity() -> None:
    exchange = Exchange(nai="2hidden@nai.epc.mnc001.mcc001.3gppnetwork.org").run(b"2hidden@nai.epc")
    same_keys(exchange, NAI.encode())


ALL_THREE = ["AT_ANY_ID_REQ", "AT_FULLAUTH_ID_REQ", "AT_PERMANENT_ID_REQ"]


@pytest.mark.parametrize(
    ("useless", "asked"),
    [
        (b"unrecognised", ALL_THREE),
        (b"4reauthentication", ALL_THREE),
        (b"\xff", ALL_THREE),
        (b"2pseudonym", ["AT_ANY_ID_REQ", "AT_PERMANENT_ID_REQ"]),
    ],
)
def test_useless_answers_escalate_to_permanent_and_end(useless: bytes, asked: list[str]) -> None:
    def hide(message: AkaMessage, packet: bytes) -> bytes:
        return aka(RESPONSE, AkaSubtype.IDENTITY, AtIdentity(useless), identifier=message.identifier)

    exchange = Exchange(
        server=ServerOptions(first_identity_request=IdentityRequest.ANY),
        uplink=mangled(RESPONSE, AkaSubtype.IDENTITY, hide),
    ).run(b"")
    assert [line for line in exchange.narrative if "Request" in line] == [
        *(f"EAP-Request/AKA-Identity [ {attribute} ]" for attribute in asked),
        "EAP-Request/AKA-Notification [ AT_NOTIFICATION ]",
    ]
    assert exchange.server_failure.cause is AkaFailure.IDENTITY_UNUSABLE
    assert repr(useless.decode(errors="backslashreplace")) in exchange.server_failure.why
    assert exchange.peer_failure.cause is AkaFailure.NOTIFICATION


def test_three_identity_rounds_and_then_success() -> None:
    rounds = 0

    def hide_twice(message: AkaMessage, packet: bytes) -> bytes:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            return packet
        return aka(RESPONSE, AkaSubtype.IDENTITY, AtIdentity(b"hidden"), identifier=message.identifier)

    exchange = Exchange(
        server=ServerOptions(first_identity_request=IdentityRequest.ANY, checkcode=False),
        uplink=mangled(RESPONSE, AkaSubtype.IDENTITY, hide_twice),
    ).run(b"")
    assert rounds == 3
    same_keys(exchange, NAI.encode())


def test_protected_result_indications() -> None:
    exchange = Exchange(server=ServerOptions(result_indications=True), peer=PeerOptions(result_indications=True)).run()
    assert exchange.narrative == [
        "EAP-Request/AKA-Challenge [ AT_RAND, AT_AUTN, AT_CHECKCODE, AT_RESULT_IND, AT_MAC ]",
        "EAP-Response/AKA-Challenge [ AT_RES, AT_CHECKCODE, AT_RESULT_IND, AT_MAC ]",
        "EAP-Request/AKA-Notification [ AT_NOTIFICATION, AT_MAC ]",
        "EAP-Response/AKA-Notification [ AT_MAC ]",
        "EAP-Success",
    ]
    same_keys(exchange, NAI.encode())


@pytest.mark.parametrize("wanting", ["server", "peer"])
def test_result_indications_wanted_by_one_end_only_are_left_out(wanting: str) -> None:
    exchange = Exchange(
        server=ServerOptions(result_indications=wanting == "server"),
        peer=PeerOptions(result_indications=wanting == "peer"),
    ).run()
    assert len(exchange.transcript) == 3
    assert "AT_RESULT_IND" not in exchange.narrative[1]
    same_keys(exchange, NAI.encode())


def test_success_without_the_agreed_indication_is_passed_over() -> None:
    exchange = Exchange(
        server=ServerOptions(result_indications=True),
        peer=PeerOptions(result_indications=True),
        downlink=lambda packet: success(packet[1]) if b"\x0c\x01\x80\x00" in packet else packet,
    ).run()
    assert exchange.peer_events[-1] == PacketDiscarded("EAP-Success before the protected success indication")
    assert not exchange.peer.concluded


def test_server_without_checkcode() -> None:
    exchange = Exchange(server=ServerOptions(always_request_identity=True, checkcode=False)).run()
    assert "AT_CHECKCODE" not in "".join(exchange.narrative)
    same_keys(exchange, NAI.encode())


# Sequence numbers


def test_a_home_network_behind_the_usim_is_resynchronised() -> None:
    usim = SoftwareUsim(imsi=IMSI, k=K, opc=OPC, store=MemorySqnStore(window_at(compose(5000, 1))))
    exchange = Exchange(usim=usim.authenticate).run()
    assert exchange.narrative[1:3] == [
        "EAP-Response/AKA-Synchronization-Failure [ AT_AUTS ]",
        "EAP-Request/AKA-Challenge [ AT_RAND, AT_AUTN, AT_CHECKCODE, AT_MAC ]",
    ]
    first, second = exchange.home.requests
    assert first.resynchronisation is None
    assert second.resynchronisation is not None
    assert second.resynchronisation.rand == bytes([1] * 16)
    assert exchange.home.sqn.seq == 5001
    assert exchange.transcript[2][1] == (exchange.transcript[0][1] + 1) % 256
    same_keys(exchange, NAI.encode())


class StubbornHome(HomeNetwork):
    """A home network that forgets to resynchronise."""

    def vector(self, request: VectorRequested) -> AkaVector:
        """The same stale SQN every time."""
        self.requests.append(request)
        return generate_vector(self.algorithm, rand=bytes([len(self.requests)] * 16), sqn=compose(1, 1))


def test_endless_synchronisation_failure_stops_at_the_server() -> None:
    usim = SoftwareUsim(imsi=IMSI, k=K, opc=OPC, store=MemorySqnStore(window_at(compose(5000, 1))))
    exchange = Exchange(home=StubbornHome(), usim=usim.authenticate).run()
    assert len(exchange.home.requests) == 3
    assert exchange.server_failure.cause is AkaFailure.SYNCHRONISATION
    assert exchange.peer_failure.cause is AkaFailure.NOTIFICATION


def test_endless_synchronisation_failure_stops_at_the_peer() -> None:
    usim = SoftwareUsim(imsi=IMSI, k=K, opc=OPC, store=MemorySqnStore(window_at(compose(5000, 1))))
    exchange = Exchange(home=StubbornHome(), usim=usim.authenticate, server=ServerOptions(resynchronisations=100)).run()
    assert sum("Synchronization" in line for line in exchange.narrative) == 3
    assert exchange.server_failure.cause is AkaFailure.CLIENT_ERROR
    assert exchange.peer_failure.cause is AkaFailure.SYNCHRONISATION


# Refusals


def test_wrong_key_makes_the_usim_reject_the_network() -> None:
    exchange = Exchange(home=HomeNetwork(k=Secret(bytes(16)))).run()
    assert exchange.narrative[1:] == ["EAP-Response/AKA-Authentication-Reject", "EAP-Failure"]
    assert exchange.server_failure.cause is AkaFailure.AUTN_REJECTED
    assert exchange.peer_failure.cause is AkaFailure.AUTN_REJECTED
    assert "MAC-A" in exchange.peer_failure.why


def test_unknown_user_fails_at_once() -> None:
    server = EapAkaServer(entropy=SeededEntropy(1))
    server.receive(identity_response(9, NAI.encode()))
    assert server.poll_event() == VectorRequested(identity=NAI.encode(), imsi=IMSI)
    server.answer_unknown_user()
    failed = server.poll_event()
    assert isinstance(failed, server_side.Failed)
    assert (failed.cause, failed.packet) == (AkaFailure.USER_UNKNOWN, failure(9))
    assert str(IMSI) in failed.why


def test_a_home_network_without_a_vector() -> None:
    server = EapAkaServer(entropy=SeededEntropy(1))
    server.start(NAI.encode())
    server.poll_event()
    server.answer_failure(AkaFailure.BACKEND, "the HSS does not answer")
    failed = server.poll_event()
    assert isinstance(failed, server_side.Failed)
    assert (failed.cause, failed.why) == (AkaFailure.BACKEND, "the HSS does not answer")


def resealed(change: Callable[[AkaMessage], tuple[Attribute, ...]]) -> Callable[[AkaMessage, bytes], bytes]:
    """Alter attributes and compute AT_MAC anew, with the keys of the first vector."""
    output = Milenage(K, opc=OPC).f2345(bytes([1] * 16))
    k_aut = derive_keys(NAI.encode(), ik=output.ik, ck=output.ck).k_aut

    def reseal(message: AkaMessage, packet: bytes) -> bytes:
        assert mac_verifies(packet, k_aut)
        kept = tuple(a for a in change(message) if not isinstance(a, AtMac))
        altered = AkaMessage(code=message.code, identifier=message.identifier, subtype=message.subtype, attributes=kept)
        return encode_with_mac(altered, k_aut)

    return reseal


def replaced(new: Attribute) -> Callable[[AkaMessage], tuple[Attribute, ...]]:
    """Replace the attribute of the same class."""
    return lambda message: tuple(new if type(a) is type(new) else a for a in message.attributes)


@pytest.mark.parametrize("res", [AtRes.of(bytes(8)), AtRes.of(bytes(4)), AtRes(bytes(8), 63)])
def test_wrong_res(res: AtRes) -> None:
    exchange = Exchange(uplink=mangled(RESPONSE, AkaSubtype.CHALLENGE, resealed(replaced(res)))).run()
    assert exchange.narrative[2:] == [
        "EAP-Request/AKA-Notification [ AT_NOTIFICATION ]",
        "EAP-Response/AKA-Notification",
        "EAP-Failure",
    ]
    assert exchange.server_failure.cause is AkaFailure.WRONG_RES
    assert exchange.peer_failure.cause is AkaFailure.NOTIFICATION
    assert "16384" in exchange.peer_failure.why


@pytest.mark.parametrize(("length", "bits"), [(4, 32), (8, 63), (8, 57)])
def test_a_res_cut_short_is_refused_although_its_octets_agree(length: int, bits: int) -> None:
    res = Milenage(K, opc=OPC).f2(bytes([1] * 16))
    cut = AtRes(res[:length], bits)
    exchange = Exchange(uplink=mangled(RESPONSE, AkaSubtype.CHALLENGE, resealed(replaced(cut)))).run()
    assert exchange.server_failure.cause is AkaFailure.WRONG_RES


def test_wrong_mac_of_the_response() -> None:
    exchange = Exchange(uplink=mangled(RESPONSE, AkaSubtype.CHALLENGE, lambda _, packet: flipped(packet))).run()
    assert exchange.server_failure.cause is AkaFailure.WRONG_MAC


def test_keys_of_another_identity_are_named_as_the_reason() -> None:
    exchange = Exchange(nai="0001010000000001@another.realm")
    exchange.run()
    assert exchange.peer_failure.cause is AkaFailure.WRONG_MAC  # the peer finds it first

    server = EapAkaServer(entropy=SeededEntropy(1))
    server.start(NAI.encode())
    home = HomeNetwork()
    request = server.poll_event()
    assert isinstance(request, VectorRequested)
    vector = home.vector(request)
    server.answer_vector(vector)
    sent = server.poll_event()
    assert isinstance(sent, PacketToSend)
    keys = derive_keys(b"0001010000000001", ik=vector.ik, ck=vector.ck)
    response = AkaMessage(
        code=RESPONSE,
        identifier=sent.packet[1],
        subtype=AkaSubtype.CHALLENGE,
        attributes=(AtRes.of(vector.xres),),
    )
    server.receive(encode_with_mac(response, keys.k_aut))
    notification = server.poll_event()
    assert isinstance(notification, PacketToSend)
    server.receive(aka(RESPONSE, AkaSubtype.NOTIFICATION, identifier=notification.packet[1]))
    failed = server.poll_event()
    assert isinstance(failed, server_side.Failed)
    assert failed.cause is AkaFailure.WRONG_MAC
    assert "another identity" in failed.why


def test_wrong_mac_of_the_challenge() -> None:
    exchange = Exchange(downlink=mangled(REQUEST, AkaSubtype.CHALLENGE, lambda _, packet: flipped(packet))).run()
    assert exchange.narrative[1:] == ["EAP-Response/AKA-Client-Error [ AT_CLIENT_ERROR_CODE ]", "EAP-Failure"]
    assert exchange.peer_failure.cause is AkaFailure.WRONG_MAC
    assert exchange.server_failure.cause is AkaFailure.CLIENT_ERROR


@pytest.mark.parametrize("missing", [AtRand, AtAutn, AtMac])
def test_challenge_without_a_mandatory_attribute(missing: type[Attribute]) -> None:
    def strip(message: AkaMessage, packet: bytes) -> bytes:
        kept = tuple(a for a in message.attributes if not isinstance(a, missing))
        return aka(REQUEST, AkaSubtype.CHALLENGE, *kept, identifier=message.identifier)

    exchange = Exchange(downlink=mangled(REQUEST, AkaSubtype.CHALLENGE, strip)).run()
    assert exchange.peer_failure.cause is AkaFailure.MALFORMED
    assert missing.type.name in exchange.peer_failure.why


@pytest.mark.parametrize("missing", [AtRes, AtMac])
def test_response_without_a_mandatory_attribute(missing: type[Attribute]) -> None:
    def strip(message: AkaMessage, packet: bytes) -> bytes:
        kept = tuple(a for a in message.attributes if not isinstance(a, missing))
        return aka(RESPONSE, AkaSubtype.CHALLENGE, *kept, identifier=message.identifier)

    exchange = Exchange(uplink=mangled(RESPONSE, AkaSubtype.CHALLENGE, strip)).run()
    assert exchange.server_failure.cause is AkaFailure.MALFORMED
    assert missing.type.name in exchange.server_failure.why


def test_identity_request_altered_on_the_way_is_found_by_the_peers_checkcode() -> None:
    def degrade(message: AkaMessage, packet: bytes) -> bytes:
        return aka(REQUEST, AkaSubtype.IDENTITY, AtPermanentIdReq(), identifier=message.identifier)

    exchange = Exchange(
        server=ServerOptions(always_request_identity=True, first_identity_request=IdentityRequest.ANY),
        downlink=mangled(REQUEST, AkaSubtype.IDENTITY, degrade),
    ).run()
    assert exchange.peer_failure.cause is AkaFailure.WRONG_CHECKCODE
    assert exchange.server_failure.cause is AkaFailure.CLIENT_ERROR


@pytest.mark.parametrize("code", [AtCheckcode(bytes(20)), AtCheckcode(checkcode([b"x"]))])
def test_wrong_checkcode_of_the_response(code: AtCheckcode) -> None:
    exchange = Exchange(uplink=mangled(RESPONSE, AkaSubtype.CHALLENGE, resealed(replaced(code)))).run()
    assert exchange.server_failure.cause is AkaFailure.WRONG_CHECKCODE


def test_wrong_checkcode_of_the_request() -> None:
    tampered = resealed(replaced(AtCheckcode(bytes(20))))
    exchange = Exchange(downlink=mangled(REQUEST, AkaSubtype.CHALLENGE, tampered)).run()
    assert exchange.peer_failure.cause is AkaFailure.WRONG_CHECKCODE


def test_peer_that_refuses_the_method() -> None:
    def nak(packet: bytes) -> bytes:
        return EapPacket(code=RESPONSE, identifier=packet[1], type=EapType.NAK, data=b"\x32\x12").encode()

    exchange = Exchange(uplink=nak).run()
    assert exchange.server_failure.cause is AkaFailure.METHOD_REFUSED
    assert "50, 18" in exchange.server_failure.why


def test_client_error_is_answered_by_failure() -> None:
    exchange = Exchange(
        uplink=lambda packet: aka(RESPONSE, AkaSubtype.CLIENT_ERROR, AtClientErrorCode(3), identifier=packet[1])
    ).run()
    assert exchange.server_failure.cause is AkaFailure.CLIENT_ERROR
    assert "3" in exchange.server_failure.why


@pytest.mark.parametrize("subtype", [AkaSubtype.IDENTITY, AkaSubtype.NOTIFICATION, AkaSubtype.REAUTHENTICATION, 77])
def test_unexpected_response_is_refused_by_notification(subtype: int) -> None:
    unexpected = mangled(
        RESPONSE, AkaSubtype.CHALLENGE, lambda message, _: aka(RESPONSE, subtype, identifier=message.identifier)
    )
    exchange = Exchange(uplink=unexpected).run()
    assert exchange.server_failure.cause is AkaFailure.UNEXPECTED
    assert exchange.narrative[-3] == "EAP-Request/AKA-Notification [ AT_NOTIFICATION ]"


# The peer by itself


def aka(code: EapCode, subtype: int, *attributes: Attribute, identifier: int = 1) -> bytes:
    """An EAP-AKA packet."""
    return AkaMessage(code=code, identifier=identifier, subtype=subtype, attributes=attributes).encode()


class LonePeer:
    """A peer that is fed by hand."""

    def __init__(self, options: PeerOptions | None = None) -> None:
        self.machine = EapAkaPeer(nai=NAI, imsi=IMSI, entropy=SeededEntropy(1), options=options)
        self.home = Milenage(K, opc=OPC)
        self.vector = generate_vector(self.home, rand=bytes([1] * 16), sqn=compose(1, 1))
        self.keys = derive_keys(NAI.encode(), ik=self.vector.ik, ck=self.vector.ck)

    def hear(self, packet: bytes) -> list[peer_side.PeerEvent]:
        """Receive and collect."""
        self.machine.receive(packet)
        return self.events()

    def events(self) -> list[peer_side.PeerEvent]:
        """What the machine has to say."""
        heard = []
        while (event := self.machine.poll_event()) is not None:
            heard.append(event)
        return heard

    def challenge(self, *extra: Attribute, identifier: int = 9) -> bytes:
        """A right challenge with further attributes."""
        message = AkaMessage(
            code=REQUEST,
            identifier=identifier,
            subtype=AkaSubtype.CHALLENGE,
            attributes=(AtRand(self.vector.rand), AtAutn(self.vector.autn), *extra),
        )
        return encode_with_mac(message, self.keys.k_aut)

    def authenticate(self, *extra: Attribute) -> list[peer_side.PeerEvent]:
        """Take a challenge and let the USIM agree."""
        assert self.hear(self.challenge(*extra)) == [ChallengeReceived(self.vector.rand, self.vector.autn)]
        self.machine.answer(UsimSuccess(res=self.vector.xres, ck=self.vector.ck, ik=self.vector.ik))
        return self.events()

    def notification(self, code: int, *, sealed: bool, identifier: int = 20) -> bytes:
        """An AKA-Notification."""
        message = AkaMessage(
            code=REQUEST,
            identifier=identifier,
            subtype=AkaSubtype.NOTIFICATION,
            attributes=(AtNotification(code),),
        )
        return encode_with_mac(message, self.keys.k_aut) if sealed else message.encode()


def sent(events: list[peer_side.PeerEvent]) -> bytes:
    """The one packet among the events."""
    (event,) = events
    assert isinstance(event, PacketToSend)
    return event.packet


def is_client_error(events: list[peer_side.PeerEvent]) -> bool:
    """Whether the peer answered with Client-Error, code 0."""
    return AkaMessage.decode(sent(events)).attributes == (AtClientErrorCode(0),)


@pytest.mark.parametrize("method", [EapType.MD5_CHALLENGE, EapType.TLS, EapType.SIM, EapType.EXPANDED])
def test_other_methods_are_refused(method: EapType) -> None:
    offer = EapPacket(code=REQUEST, identifier=3, type=method, data=bytes(8)).encode()
    assert sent(LonePeer().hear(offer)).hex() == "02030007031732"


def test_no_nak_once_the_method_has_begun() -> None:
    peer = LonePeer()
    peer.hear(aka(REQUEST, AkaSubtype.IDENTITY, AtAnyIdReq()))
    (event,) = peer.hear(bytes.fromhex("0102000604ff"))
    assert isinstance(event, PacketDiscarded)


def test_eap_notification_is_acknowledged_at_any_time() -> None:
    peer = LonePeer()
    notice = EapPacket(code=REQUEST, identifier=3, type=EapType.NOTIFICATION, data=b"hello").encode()
    assert sent(peer.hear(notice)).hex() == "0203000502"
    peer.authenticate()
    assert sent(peer.hear(notice)).hex() == "0203000502"


def test_retransmitted_requests_get_the_same_response_and_ask_the_usim_once() -> None:
    peer = LonePeer()
    request = aka(REQUEST, AkaSubtype.IDENTITY, AtAnyIdReq())
    response = sent(peer.hear(request))
    assert sent(peer.hear(request)) == response
    challenge = peer.challenge()
    assert peer.hear(challenge) == [ChallengeReceived(peer.vector.rand, peer.vector.autn)]
    (while_asking,) = peer.hear(challenge)
    assert isinstance(while_asking, PacketDiscarded)
    peer.machine.answer(UsimSuccess(res=peer.vector.xres, ck=peer.vector.ck, ik=peer.vector.ik))
    answer = sent(peer.events())
    assert sent(peer.hear(challenge)) == answer
    assert sent(peer.hear(challenge)) == answer


def test_requests_while_the_usim_is_asked_wait() -> None:
    peer = LonePeer()
    peer.hear(peer.challenge())
    (event,) = peer.hear(aka(REQUEST, AkaSubtype.IDENTITY, AtAnyIdReq(), identifier=77))
    assert isinstance(event, PacketDiscarded)


def test_success_before_the_challenge_is_passed_over() -> None:
    peer = LonePeer()
    (event,) = peer.hear(success(1))
    assert event == PacketDiscarded("EAP-Success before the server was authenticated")
    assert not peer.machine.concluded


def test_failure_is_taken_at_any_time() -> None:
    for peer in (LonePeer(), LonePeer()):
        (event,) = peer.hear(failure(1))
        assert isinstance(event, peer_side.Failed)
        assert event.cause is AkaFailure.REFUSED
    authenticated = LonePeer()
    authenticated.authenticate()
    (event,) = authenticated.hear(failure(9))
    assert isinstance(event, peer_side.Failed)
    assert event.cause is AkaFailure.REFUSED
    (after,) = authenticated.hear(success(9))
    assert after == PacketDiscarded("the exchange is over")


def test_success_after_our_refusal_is_passed_over() -> None:
    peer = LonePeer()
    peer.hear(peer.challenge())
    peer.machine.answer(UsimReject("MAC-A is wrong"))
    assert AkaMessage.decode(sent(peer.events())).subtype == AkaSubtype.AUTHENTICATION_REJECT
    assert peer.machine.refusal == peer_side.Failed(AkaFailure.AUTN_REJECTED, "MAC-A is wrong")
    (event,) = peer.hear(success(9))
    assert isinstance(event, PacketDiscarded)
    (failed,) = peer.hear(failure(9))
    assert failed == peer_side.Failed(AkaFailure.AUTN_REJECTED, "MAC-A is wrong")


@pytest.mark.parametrize("count", [0, 2])
def test_none_or_two_identity_requests_in_one_message(count: int) -> None:
    attributes = (AtAnyIdReq(), AtPermanentIdReq())[:count]
    assert is_client_error(LonePeer().hear(aka(REQUEST, AkaSubtype.IDENTITY, *attributes)))


@pytest.mark.parametrize(
    "sequence",
    [
        (AtAnyIdReq(), AtAnyIdReq()),
        (AtFullauthIdReq(), AtAnyIdReq()),
        (AtPermanentIdReq(), AtFullauthIdReq()),
        (AtPermanentIdReq(), AtPermanentIdReq()),
        (AtAnyIdReq(), AtFullauthIdReq(), AtFullauthIdReq()),
        (AtAnyIdReq(), AtFullauthIdReq(), AtPermanentIdReq(), AtPermanentIdReq()),
    ],
)
def test_identity_requests_out_of_sequence(sequence: tuple[Attribute, ...]) -> None:
    peer = LonePeer()
    for at, attribute in enumerate(sequence[:-1]):
        response = AkaMessage.decode(sent(peer.hear(aka(REQUEST, AkaSubtype.IDENTITY, attribute, identifier=at))))
        assert response.subtype == AkaSubtype.IDENTITY
    last = aka(REQUEST, AkaSubtype.IDENTITY, sequence[-1], identifier=len(sequence))
    assert is_client_error(peer.hear(last))


def test_unknown_attributes() -> None:
    peer = LonePeer()
    skippable = peer.authenticate(UnknownAttribute(250, bytes(2)), AtBidding(True))
    assert AkaMessage.decode(sent(skippable)).subtype == AkaSubtype.CHALLENGE
    data = bytes([AkaSubtype.CHALLENGE, 0, 0, 99, 1, 0, 0])
    packet = EapPacket(code=REQUEST, identifier=1, type=EapType.AKA, data=data).encode()
    assert is_client_error(LonePeer().hear(packet))


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "general failure after authentication"), (1026, "temporarily denied"), (1031, "not subscribed"), (77, "77")],
)
def test_failure_notifications_after_authentication(code: int, text: str) -> None:
    peer = LonePeer()
    peer.authenticate()
    answer = sent(peer.hear(peer.notification(code, sealed=True)))
    assert mac_verifies(answer, peer.keys.k_aut)
    (ignored,) = peer.hear(success(20))
    assert isinstance(ignored, PacketDiscarded)
    (failed,) = peer.hear(failure(20))
    assert isinstance(failed, peer_side.Failed)
    assert failed.cause is AkaFailure.NOTIFICATION
    assert text in failed.why


def test_general_failure_before_authentication_is_acknowledged_without_mac() -> None:
    peer = LonePeer()
    answer = AkaMessage.decode(sent(peer.hear(peer.notification(16384, sealed=False))))
    assert (answer.subtype, answer.attributes) == (AkaSubtype.NOTIFICATION, ())
    (failed,) = peer.hear(failure(20))
    assert isinstance(failed, peer_side.Failed)
    assert failed.cause is AkaFailure.NOTIFICATION


@pytest.mark.parametrize(
    ("code", "sealed", "authenticated"),
    [
        (0, True, False),  # P bit zero needs a challenge round before
        (0, False, True),  # P bit zero needs AT_MAC
        (16384, True, True),  # P bit one forbids AT_MAC
        (0xC000, False, False),  # P bit one forbids the S bit
        (32768, True, True),  # Success was not agreed on
    ],
)
def test_notifications_that_break_the_rules(code: int, sealed: bool, authenticated: bool) -> None:
    peer = LonePeer()
    if authenticated:
        peer.authenticate()
    assert is_client_error(peer.hear(peer.notification(code, sealed=sealed)))
    (ignored,) = peer.hear(success(20))
    assert isinstance(ignored, PacketDiscarded)


@pytest.mark.parametrize("subtype", [AkaSubtype.REAUTHENTICATION, AkaSubtype.CLIENT_ERROR, 99])
def test_unexpected_requests(subtype: int) -> None:
    assert is_client_error(LonePeer().hear(aka(REQUEST, subtype)))


def test_a_second_challenge_after_authentication() -> None:
    peer = LonePeer()
    peer.authenticate()
    assert is_client_error(peer.hear(peer.challenge(identifier=10)))


@pytest.mark.parametrize(
    "plaintext", [bytes.fromhex("13010001060300000000000000000000"), b"\x06\x03" + bytes(9) + b"\x01" + bytes(4)]
)
def test_nested_attributes_that_do_not_belong_in_a_challenge(plaintext: bytes) -> None:
    peer = LonePeer()
    encryptor = Cipher(algorithms.AES(peer.keys.k_encr.reveal()), modes.CBC(bytes(16))).encryptor()
    events = peer.authenticate(AtIv(bytes(16)), AtEncrData(encryptor.update(plaintext)))
    assert is_client_error(events)


def test_usim_answer_that_nobody_asked_for() -> None:
    with pytest.raises(LocalError, match="not asked"):
        LonePeer().machine.answer(UsimReject("x"))


def test_an_identity_too_long_for_its_attribute() -> None:
    with pytest.raises(LocalError, match="253 octets"):
        EapAkaPeer(nai="0" * 254, imsi=IMSI, entropy=SeededEntropy(1))


# The server by itself


def challenged_server() -> tuple[EapAkaServer, bytes]:
    """A server that has sent its challenge, and that packet."""
    server = EapAkaServer(entropy=SeededEntropy(1))
    server.receive(identity_response(1, NAI.encode()))
    request = server.poll_event()
    assert isinstance(request, VectorRequested)
    server.answer_vector(HomeNetwork().vector(request))
    event = server.poll_event()
    assert isinstance(event, PacketToSend)
    return server, event.packet


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x02\x02",
        aka(REQUEST, AkaSubtype.CHALLENGE, identifier=2),
        aka(RESPONSE, AkaSubtype.CLIENT_ERROR, AtClientErrorCode(0), identifier=3),  # not the outstanding one
        aka(RESPONSE, AkaSubtype.CLIENT_ERROR, AtClientErrorCode(0), identifier=1),
        identity_response(2, NAI.encode()),
        success(2),
    ],
)
def test_packets_that_answer_nothing_are_passed_over(packet: bytes) -> None:
    server, _ = challenged_server()
    server.receive(packet)
    assert isinstance(server.poll_event(), PacketDiscarded)
    assert server.poll_event() is None
    assert not server.concluded


def test_a_duplicate_response_is_taken_once() -> None:
    server = EapAkaServer(entropy=SeededEntropy(1))
    response = identity_response(1, NAI.encode())
    server.receive(response)
    assert isinstance(server.poll_event(), VectorRequested)
    server.receive(response)
    assert isinstance(server.poll_event(), PacketDiscarded)


def test_server_commands_out_of_order() -> None:
    server, _ = challenged_server()
    with pytest.raises(LocalError, match="started already"):
        server.start(b"x")
    with pytest.raises(LocalError, match="no vector"):
        server.answer_unknown_user()


def test_identity_rounds_wrap_the_identifier() -> None:
    server = EapAkaServer(entropy=SeededEntropy(1))
    server.receive(identity_response(255, b"anonymous@x"))
    event = server.poll_event()
    assert isinstance(event, PacketToSend)
    assert event.packet[1] == 0


def test_anything_but_an_identity_first() -> None:
    server = EapAkaServer(entropy=SeededEntropy(1))
    server.receive(aka(RESPONSE, AkaSubtype.CLIENT_ERROR, AtClientErrorCode(0)))
    assert isinstance(server.poll_event(), PacketDiscarded)


def test_a_response_to_the_success_notification_is_not_read() -> None:
    exchange = Exchange(
        server=ServerOptions(result_indications=True),
        peer=PeerOptions(result_indications=True),
        uplink=mangled(RESPONSE, AkaSubtype.NOTIFICATION, lambda _, packet: flipped(packet)),
    ).run()
    same_keys(exchange, NAI.encode())


@pytest.mark.parametrize("attribute", [AtCounter(1), AtResultInd()])
def test_counter_outside_of_encryption(attribute: Attribute) -> None:
    assert is_client_error(LonePeer().hear(aka(REQUEST, AkaSubtype.IDENTITY, AtAnyIdReq(), attribute)))


# Recorded runs of hostapd and eapol_test


def conversations(name: str) -> list[list[dict[str, Any]]]:
    """The full authentications of one recorded run, each from its EAP-Response/Identity."""
    runs = json.loads(shared("vectors/runs/eap_aka_hostap_runs.json").read_text())["runs"]
    packets = next(run["packets"] for run in runs if run["name"] == name)
    found: list[list[dict[str, Any]]] = []
    for packet in packets:
        if packet.get("what") == "Identity":
            found.append([])
        found[-1].append(packet)
    return [conversation for conversation in found if any("aka_vector" in packet for packet in conversation)]


RUNS = ["aka_full_reauth2", "aka_auts", "aka_resultind_pseudonym"]


@pytest.mark.parametrize("name", RUNS)
def test_our_peer_says_what_eapol_test_said(name: str) -> None:
    conversation = conversations(name)[0]
    card = SqnWindow() if name != "aka_auts" else window_at(0x4C4B40)
    usim = SoftwareUsim(imsi=IMSI, k=K, opc=OPC, store=MemorySqnStore(card))
    peer = EapAkaPeer(
        nai=NAI,
        imsi=IMSI,
        entropy=SeededEntropy(1),
        options=PeerOptions(result_indications=name == "aka_resultind_pseudonym"),
    )
    request = EapPacket(code=REQUEST, identifier=bytes.fromhex(conversation[0]["hex"])[1], type=EapType.IDENTITY)
    said: list[bytes] = []
    events: list[peer_side.PeerEvent] = []
    heard = [request.encode()]
    heard += [bytes.fromhex(each["hex"]) for each in conversation if each["dir"] == "server->peer"]
    for packet in heard:
        peer.receive(packet)
        while (event := peer.poll_event()) is not None:
            events.append(event)
            if isinstance(event, PacketToSend):
                said.append(event.packet)
            elif isinstance(event, ChallengeReceived):
                peer.answer(usim.authenticate(event.rand, event.autn))
    assert said == [bytes.fromhex(each["hex"]) for each in conversation if each["dir"] == "peer->server"]
    outcome = events[-1]
    assert isinstance(outcome, peer_side.Succeeded)
    assert outcome.msk.reveal().hex() == [e["keys"]["msk"] for e in conversation if "keys" in e][-1]


@pytest.mark.parametrize("name", [*RUNS, "aka_auth_reject"])
def test_our_server_takes_what_eapol_test_said(name: str) -> None:
    conversation = conversations(name)[0]
    recorded = [each["aka_vector"] for each in conversation if "aka_vector" in each]
    vectors = [{field.lower(): bytes.fromhex(value) for field, value in each.items()} for each in recorded]
    server = EapAkaServer(
        entropy=SeededEntropy(1),
        options=ServerOptions(
            always_request_identity=True,
            first_identity_request=IdentityRequest.ANY,
            result_indications=name == "aka_resultind_pseudonym",
        ),
    )
    events: list[server_side.ServerEvent] = []
    for packet in (bytes.fromhex(each["hex"]) for each in conversation if each["dir"] == "peer->server"):
        server.receive(packet)
        while (event := server.poll_event()) is not None:
            events.append(event)
            if isinstance(event, VectorRequested):
                vector = vectors.pop(0)
                server.answer_vector(
                    AkaVector(
                        rand=vector["rand"],
                        autn=vector["autn"],
                        xres=vector["res"],
                        ck=vector["ck"],
                        ik=vector["ik"],
                    )
                )
    assert not vectors
    outcome = events[-1]
    assert isinstance(outcome, (server_side.Succeeded, server_side.Failed))
    if name == "aka_auth_reject":
        assert isinstance(outcome, server_side.Failed)
        assert outcome.cause is AkaFailure.AUTN_REJECTED
    else:
        assert isinstance(outcome, server_side.Succeeded)
        assert outcome.msk.reveal().hex() == [e["keys"]["msk"] for e in conversation if "keys" in e][-1]
    assert outcome.packet.hex() == conversation[-1]["hex"]
    requests = [event for event in events if isinstance(event, VectorRequested)]
    assert (requests[-1].resynchronisation is not None) == (name == "aka_auts")


def test_our_peer_says_what_aosp_expects() -> None:
    aosp = json.loads(shared("vectors/fetched/eap_aka_aosp.json").read_text())["eap_aka"]
    packets = {each["name"]: bytes.fromhex(each["hex"]) for each in aosp["packets"]}
    card = UsimSuccess(res=bytes.fromhex(aosp["RES"]), ck=bytes.fromhex(aosp["CK"]), ik=bytes.fromhex(aosp["IK"]))
    peer = EapAkaPeer(
        nai="0123456789012345@test",
        imsi=Imsi("123456789012345"),
        entropy=SeededEntropy(1),
        options=PeerOptions(identity_form=IdentityForm.USERNAME),
    )
    said = []
    for name in ("EAP_AKA_IDENTITY_REQUEST", "EAP_AKA_CHALLENGE_REQUEST"):
        peer.receive(packets[name])
        while (event := peer.poll_event()) is not None:
            if isinstance(event, ChallengeReceived):
                peer.answer(card)
            else:
                assert isinstance(event, PacketToSend)
                said.append(event.packet)
    assert said == [packets["EAP_AKA_IDENTITY_RESPONSE"], packets["EAP_AKA_CHALLENGE_RESPONSE"]]
    peer.receive(success(0xCE))
    outcome = peer.poll_event()
    assert isinstance(outcome, peer_side.Succeeded)
    assert outcome.msk.reveal().hex() == aosp["MSK"]
    assert outcome.emsk.reveal().hex() == aosp["EMSK"]
