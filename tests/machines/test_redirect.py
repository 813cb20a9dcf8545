"""REDIRECT in pairs on virtual time (RFC 5685): IKE_SA_INIT, IKE_AUTH, an established SA; forged ones, loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from protocols.entropy import SeededEntropy
from protocols.errors import DecodeError, LocalError
from protocols.ikev2.config import ResponderConfig
from protocols.ikev2.endpoint import IkeEndpoint
from protocols.ikev2.events import (
    ChildSaInstalled,
    Closed,
    ConfigurationRequested,
    EapResponseReceived,
    Established,
    Event,
    IdentityReceived,
    PeerRedirected,
    Redirected,
    RedirectIgnored,
    RedirectReply,
    Refused,
    SaState,
)
from protocols.ikev2.message import Message, decode_message, encode_message
from protocols.ikev2.payloads import EapPayload, NoncePayload, NotifyPayload
from protocols.ikev2.redirection import Gateway, GatewayIdentity, InitialRedirect, RedirectObedience, RedirectStage
from protocols.ikev2.registry import ExchangeType, NotifyType
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.ikev2.tasks.redirect import RedirectPeer
from protocols.path import Datagram, Endpoint
from tests.harness.pair import (
    ACCESS_A,
    GATEWAY,
    Node,
    Pair,
    answer_as_gateway,
    initiator_config,
    responder_config,
)
from tests.machines.test_ike_sa import forge

OTHER = IPv4Address("203.0.113.2")
ANY, AUTHENTICATED = RedirectObedience.ANY, RedirectObedience.AUTHENTICATED


def pair_of(
    obeys: RedirectObedience = ANY,
    epdg: ResponderConfig | None = None,
    answers: Callable[[Event], object] | None = None,
) -> Pair:
    pair = Pair(initiator_config(redirect=obeys), epdg)
    if answers is not None:
        pair.epdg.answers = answers
    return pair


def redirecting(gateway: Gateway = OTHER, **changes: object) -> ResponderConfig:
    return responder_config(redirect=InitialRedirect(gateway=gateway, **changes))  # type: ignore[arg-type]


def follow(pair: Pair, epdg: ResponderConfig | None = None) -> None:
    """What the owner of the UE does: connect to the address that ``Redirected`` names; another gateway is there."""
    event = pair.ue.take(Redirected)
    assert isinstance(event.gateway, (IPv4Address, IPv6Address))
    endpoint = IkeEndpoint(entropy=SeededEntropy("the other"), responder=epdg or responder_config())
    pair.epdg = Node("epdg", endpoint, answers=answer_as_gateway)
    pair.ue_config = replace(pair.ue_config, redirected=event.trail)
    pair.start(gateway=Endpoint(event.gateway, 500))
    pair.run(2.0)


@pytest.mark.parametrize(
    ("gateway", "nonce", "octets"),
    [
        (IPv4Address("203.0.113.2"), b"", "0104cb007102"),
        (IPv6Address("2001:db8::1"), bytes(16), "021020010db8000000000000000000000001" + "00" * 16),
        ("gw.example", b"", "030a67772e6578616d706c65"),
    ],
)
def test_gateway_identity(gateway: Gateway, nonce: bytes, octets: str) -> None:
    """§9.2."""
    value = GatewayIdentity(gateway, nonce)
    assert value.encode().hex() == octets
    assert GatewayIdentity.decode(bytes.fromhex(octets)) == value
    for length in range(len(octets) // 2 - len(nonce)):
        with pytest.raises(DecodeError):
            GatewayIdentity.decode(bytes.fromhex(octets)[:length])


@pytest.mark.parametrize("octets", ["0103cb0071", "020fcb0071" + "00" * 12, "0300", "0302c3bc", "03026120", "03020a61"])
def test_gateway_identity_that_is_none(octets: str) -> None:
    """§9.2: lengths that do not fit the type; a name that is none."""
    with pytest.raises(DecodeError):
        GatewayIdentity.decode(bytes.fromhex(octets))


def test_unknown_type_of_gateway_identity_is_no_error() -> None:
    """§12: 241 to 255 are for private use."""
    assert GatewayIdentity.decode(bytes([241, 2, 1, 2, 3])) == GatewayIdentity(None, b"\3")


# --- IKE_SA_INIT


def test_redirect_in_ike_sa_init() -> None:
    """§3: one answer with New_GW_ID and Ni, responder SPI zero, nothing kept; REDIRECTED_FROM at the next one."""
    pair = pair_of(epdg=redirecting())
    pair.start()
    pair.run(1.0)
    assert "N(REDIRECT_SUPPORTED)" in pair.wire[0]
    assert len(pair.wire) == 1  # the answer is stateless: no SA has spoken
    sent, answer = (decode_message(datagram.payload) for _, datagram in pair.seen)
    nonce = sent.first(NoncePayload)
    notify = answer.notify(NotifyType.REDIRECT)
    assert nonce is not None
    assert notify is not None
    assert GatewayIdentity.decode(notify.data) == GatewayIdentity(OTHER, nonce.data)
    assert answer.spi_r == bytes(8)
    assert pair.epdg.sa is None
    assert pair.epdg.endpoint.sas == {}
    assert pair.epdg.endpoint.dropped["redirected"] == 1
    assert pair.ue.take(Closed).by_peer
    follow(pair)
    request = next(line for line in reversed(pair.wire) if "IKE_SA_INIT request" in line)
    assert "N(REDIRECTED_FROM)" in request
    assert "REDIRECT_SUPPORTED" not in request
    again = next(m for m in map(decode_message, (d.payload for _, d in pair.seen[2:])) if not m.response)
    origin = again.notify(NotifyType.REDIRECTED_FROM)
    assert origin is not None
    assert GatewayIdentity.decode(origin.data) == GatewayIdentity(GATEWAY.address)
    assert pair.ue.take(Established).path.remote.address == OTHER
    assert pair.epdg.live.redirect_supported  # §3: REDIRECTED_FROM says so


def test_nobody_is_redirected_who_did_not_announce_it() -> None:
    """§3: the responder MUST NOT send REDIRECT."""
    pair = pair_of(RedirectObedience.NEVER, redirecting()).attach()
    assert "REDIRECT" not in pair.wire[0]
    assert pair.ue.has(Established)
    with pytest.raises(LocalError):
        RedirectPeer(pair.epdg.live, OTHER)


def test_threshold_and_anycast() -> None:
    """Below the threshold the gateway serves; an anycast address is redirected always (§4)."""
    assert pair_of(epdg=redirecting(threshold=1)).attach().ue.has(Established)
    pair = pair_of(epdg=redirecting(threshold=1)).attach()
    pair.ue.sa = None
    pair.start(Endpoint.of("192.0.2.9", 500))
    pair.run(1.0)
    assert pair.ue.take(Redirected).gateway == OTHER
    pair = pair_of(epdg=redirecting(threshold=100, anycast=frozenset({GATEWAY.address}))).attach()
    assert pair.ue.take(Redirected).gateway == OTHER


def test_unauthenticated_redirect_is_a_matter_of_policy() -> None:
    """The UE that obeys only authenticated gateways waits for another response, and says why."""
    pair = pair_of(AUTHENTICATED, redirecting())
    pair.start()
    pair.run(0.1)
    assert pair.ue.live.state is SaState.INIT_SENT
    assert not pair.ue.has(Redirected)
    assert pair.ue.take(RedirectIgnored).gateway == OTHER


@pytest.mark.parametrize("fault", ["nonce", "truncated", "unannounced", "type"])
def test_forged_redirect_leaves_the_attempt_alone(fault: str) -> None:
    """§3: "MUST silently discard the response (and keep waiting for another response)"."""
    pair = pair_of(RedirectObedience.NEVER if fault == "unannounced" else ANY)
    pair.start()
    sent = pair.ue.live
    request = decode_message(sent.init_request)
    nonce = request.first(NoncePayload)
    assert nonce is not None
    data = GatewayIdentity(OTHER, bytes(32) if fault == "nonce" else nonce.data).encode()
    if fault == "truncated":
        data = data[:4]
    elif fault == "type":
        data = b"\xf1" + data[1:]
    forged = Message(
        spi_i=sent.spi_i,
        spi_r=bytes(8),
        exchange=ExchangeType.IKE_SA_INIT,
        original_initiator=False,
        response=True,
        message_id=0,
        payloads=(NotifyPayload(type=NotifyType.REDIRECT, data=data),),
    )
    pair.ue.endpoint.receive(Datagram(sent.path, encode_message(forged)), pair.now)
    assert sent.state is SaState.INIT_SENT
    assert sum(number for why, number in sent.dropped.items() if why.startswith("redirect-")) == 1
    pair.run(2.0)
    assert pair.ue.live.state is SaState.ESTABLISHED
    assert not pair.ue.has(Redirected)


def test_loop_ends_after_max_redirects() -> None:
    """§7: five within 300 s, the sixth fails the attempt; much later it would be the first again."""
    pair = pair_of(epdg=redirecting())
    pair.attach()
    for _ in range(4):
        follow(pair, redirecting())
    event = pair.ue.take(Redirected)
    assert len(event.trail.moments) == 5
    pair.ue_config = replace(pair.ue_config, redirected=event.trail)
    pair.ue.events.clear()
    pair.start()
    pair.run(2.0)
    assert not pair.ue.has(Redirected)
    assert "more than 5 times within 300 s" in pair.ue.take(Refused).text
    pair.run(300.0)
    pair.start()
    pair.run(1.0)
    assert len(pair.ue.take(Redirected).trail.moments) == 1


# --- IKE_AUTH


def redirect_at(question: type[object]) -> Callable[[Event], object]:
    def answer(event: Event) -> object:
        if isinstance(event, question):
            return RedirectReply(OTHER)
        return answer_as_gateway(event)

    return answer


def test_redirect_in_the_first_ike_auth_response() -> None:
    """§6: by the unauthenticated identity; the gateway's AUTH is there, EAP is not, nobody deletes anything."""
    pair = pair_of(AUTHENTICATED, answers=redirect_at(IdentityReceived)).attach()
    assert pair.wire[-1] == "<-- IKE_AUTH response 1 [ IDr, CERT, AUTH, N(REDIRECT) ]"
    assert pair.ue.take(Redirected).stage is RedirectStage.AUTHENTICATION
    assert pair.epdg.take(PeerRedirected).gateway == OTHER
    assert pair.ue.has(Closed)
    assert pair.ue.endpoint.sas == pair.epdg.endpoint.sas == {}


def test_redirect_in_the_last_ike_auth_response() -> None:
    """§6: both AUTH payloads verified, no child SA, and the UE deletes the IKE SA."""
    pair = pair_of(AUTHENTICATED, answers=redirect_at(ConfigurationRequested)).attach()
    assert pair.wire[-3:] == [
        "<-- IKE_AUTH response 3 [ AUTH, N(REDIRECT) ]",
        "--> INFORMATIONAL request 4 [ D ]",
        "<-- INFORMATIONAL response 4 [ ]",
    ]
    assert not pair.ue.has(ChildSaInstalled)
    assert not pair.ue.has(Established)
    assert not pair.epdg.has(Established)
    assert pair.ue.endpoint.sas == pair.epdg.endpoint.sas == {}
    follow(pair)
    assert pair.ue.take(Established).path.remote.address == OTHER


def test_no_redirect_in_an_intermediate_response() -> None:
    """§6: the gateway does not send it, the client MUST NOT accept it."""
    pair = pair_of(AUTHENTICATED)
    pair.epdg.answers = lambda event: None if isinstance(event, EapResponseReceived) else answer_as_gateway(event)
    pair.start()
    pair.run(1.0)
    with pytest.raises(LocalError):
        pair.epdg.endpoint.answer(pair.epdg.live, RedirectReply(OTHER), pair.now)
    eap = b"\x01\x02\x00\x05\x01"
    notify = NotifyPayload(type=NotifyType.REDIRECT, data=GatewayIdentity(OTHER).encode())
    response = forge(pair, "epdg", ExchangeType.IKE_AUTH, EapPayload(packet=eap), notify, message_id=2, response=True)
    pair.ue.endpoint.receive(response, pair.now)
    pair.run(0.0)
    assert not pair.ue.has(Redirected)
    assert pair.ue.live.state is SaState.AUTHENTICATING


def test_first_response_without_the_gateways_auth_is_not_obeyed() -> None:
    """§6: the client MUST verify the gateway's AUTH before acting; EAP-only leaves it to the end."""
    pair = Pair(initiator_config(redirect=ANY, eap_only=True), responder_config(eap_only=True))
    pair.epdg.answers = lambda event: None
    pair.start()
    pair.run(1.0)
    notify = NotifyPayload(type=NotifyType.REDIRECT, data=GatewayIdentity(OTHER).encode())
    identity = pair.epdg.live.responder_config.identity
    assert identity is not None
    response = forge(pair, "epdg", ExchangeType.IKE_AUTH, identity, notify, message_id=1, response=True)
    pair.ue.endpoint.receive(response, pair.now)
    pair.run(0.0)
    assert not pair.ue.has(Redirected)
    assert "without AUTH" in pair.ue.take(Refused).text


def test_the_machine_refuses_a_redirect_answer_for_a_ue_that_cannot() -> None:
    """§3 in IKE_AUTH: the question says that the UE is not redirectable, and so does the machine."""
    pair = pair_of(RedirectObedience.NEVER)
    pair.epdg.answers = lambda event: None
    pair.start()
    pair.run(1.0)
    assert not pair.epdg.take(IdentityReceived).redirectable
    with pytest.raises(LocalError):
        pair.epdg.endpoint.answer(pair.epdg.live, RedirectReply(OTHER), pair.now)


# --- established


def test_redirect_of_an_established_sa() -> None:
    """§5: an INFORMATIONAL without nonce data, an empty answer; the UE deletes and goes."""
    pair = pair_of(AUTHENTICATED).attach()
    pair.epdg.endpoint.initiate(pair.epdg.live, RedirectPeer(pair.epdg.live, OTHER), pair.now)
    pair.run(0.1)
    assert pair.wire[-2:] == [
        "<-- INFORMATIONAL request 0 [ N(REDIRECT) ]",
        "--> INFORMATIONAL response 0 [ ]",
    ]
    assert pair.epdg.take(PeerRedirected).stage is RedirectStage.ESTABLISHED
    assert pair.ue.live.state is SaState.ESTABLISHED  # the owner decides
    pair.ue.endpoint.initiate(pair.ue.live, DeleteIkeSa("redirected"), pair.now)
    pair.run(1.0)
    assert pair.epdg.take(Closed).by_peer
    pair.ue.take(Established)
    follow(pair)
    assert pair.ue.take(Established).path.remote.address == OTHER


def test_redirect_request_is_retransmitted_and_obeyed_once() -> None:
    """§5: until it gets a response."""
    pair = pair_of(AUTHENTICATED).attach()
    pair.epdg.endpoint.initiate(pair.epdg.live, RedirectPeer(pair.epdg.live, OTHER), pair.now)
    pair.lose_next("ue")
    pair.run(2.0)
    assert pair.wire[-2] == "<-- INFORMATIONAL request 0 [ N(REDIRECT) ] (again)"
    pair.ue.take(Redirected)
    assert not pair.ue.has(Redirected)


@pytest.mark.parametrize("stage", ["established", "last response"])
def test_ue_that_does_not_leave_is_deleted_after_a_while(stage: str) -> None:
    """§5: the gateway MAY delete, after a time that is configurable."""
    epdg = responder_config(redirected_lifetime=7.0)
    if stage == "established":
        pair = pair_of(AUTHENTICATED, epdg).attach()
        pair.epdg.endpoint.initiate(pair.epdg.live, RedirectPeer(pair.epdg.live, OTHER), pair.now)
    else:
        pair = pair_of(AUTHENTICATED, epdg, redirect_at(ConfigurationRequested))
        pair.start()
        pair.run(0.075)  # the response is on its way
        pair.lose = lambda sender, datagram: sender == "ue"
    pair.run(6.0)
    assert pair.epdg.live.state is SaState.ESTABLISHED
    pair.run(2.0)
    assert pair.epdg.live.state is not SaState.ESTABLISHED
    assert any(line.startswith("<-- INFORMATIONAL request") and "[ D ]" in line for line in pair.wire)


def established(pair: Pair, *payloads: NotifyPayload) -> None:
    pair.ue.endpoint.receive(forge(pair, "epdg", ExchangeType.INFORMATIONAL, *payloads, message_id=0), pair.now)
    pair.run(0.0)


def test_established_sa_is_not_redirected_without_announcement() -> None:
    pair = pair_of(RedirectObedience.NEVER).attach()
    established(pair, NotifyPayload(type=NotifyType.REDIRECT, data=GatewayIdentity(OTHER).encode()))
    assert not pair.ue.has(Redirected)
    assert pair.ue.live.dropped["redirect-ignored"] == 1
    assert pair.wire[-1] == "--> INFORMATIONAL response 0 [ ]"
    assert pair.ue.live.state is SaState.ESTABLISHED


def test_nonce_data_in_a_protected_redirect_is_a_syntax_error() -> None:
    """§9.2: MUST NOT be included."""
    pair = pair_of(AUTHENTICATED).attach()
    established(pair, NotifyPayload(type=NotifyType.REDIRECT, data=GatewayIdentity(OTHER, bytes(16)).encode()))
    assert not pair.ue.has(Redirected)
    assert pair.wire[-1] == "--> INFORMATIONAL response 0 [ N(INVALID_SYNTAX) ]"


def test_only_the_responder_redirects() -> None:
    """§10."""
    pair = pair_of(AUTHENTICATED).attach()
    with pytest.raises(LocalError):
        RedirectPeer(pair.ue.live, OTHER)
    notify = NotifyPayload(type=NotifyType.REDIRECT, data=GatewayIdentity(OTHER).encode())
    pair.epdg.endpoint.receive(forge(pair, "ue", ExchangeType.INFORMATIONAL, notify, message_id=4), pair.now)
    pair.run(0.0)
    assert pair.epdg.take(RedirectIgnored).why == "only the responder may redirect"
    assert pair.epdg.live.state is SaState.ESTABLISHED


def test_loop_of_established_redirects_is_ignored() -> None:
    """§7 for an SA that is up: it stays."""
    pair = pair_of(AUTHENTICATED)
    pair.ue_config = replace(pair.ue_config, redirect_limit=0)
    pair.attach()
    pair.epdg.endpoint.initiate(pair.epdg.live, RedirectPeer(pair.epdg.live, OTHER), pair.now)
    pair.run(1.0)
    assert not pair.ue.has(Redirected)
    assert pair.ue.live.dropped["redirect-loop"] == 1
    assert pair.ue.live.path.local.address == ACCESS_A.address
