"""Errors of messages (RFC 7296 §2.5, §2.21): what is answered, what is waited out, what changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.ikev2.events import ChildSaInstalled, Closed, Established, Refused, SaState
from protocols.ikev2.message import Message, decode_message, encode_message
from protocols.ikev2.payloads import AuthPayload, NotifyPayload, Payload, UnknownPayload
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.ikev2.registry import AuthMethod, ExchangeType, NotifyType, PayloadType
from protocols.ikev2.suites import EspSuite, IkeSuite
from protocols.ikev2.tasks.informational import Liveness
from protocols.path import Datagram
from protocols.selectors import TrafficSelector
from tests.harness.forge import forge, receive
from tests.harness.pair import Pair, initiator_config, responder_config

CRITICAL = UnknownPayload(PayloadType(200), True, b"unheard of")
HARMLESS = UnknownPayload(PayloadType(201), False, b"unheard of")


def first_request(pair: Pair) -> Datagram:
    """The UE's IKE_SA_INIT request, not yet delivered."""
    pair.lose = lambda sender, datagram: True
    pair.start()
    pair.run(0.0)
    pair.lose = lambda sender, datagram: False
    return pair.seen[0][1]


def answer_to(request: Datagram, *payloads: Payload) -> Datagram:
    """An unprotected response to an IKE_SA_INIT request, by anybody, as the UE gets it."""
    asked = decode_message(request.payload)
    message = Message(
        spi_i=asked.spi_i,
        spi_r=bytes(8),
        exchange=ExchangeType.IKE_SA_INIT,
        original_initiator=False,
        response=True,
        message_id=0,
        payloads=payloads,
    )
    return Datagram(request.path, encode_message(message))


# --- payloads nobody knows (§2.5)


def test_an_unknown_critical_payload_in_a_request_is_named_in_the_answer() -> None:
    pair = Pair().attach()
    receive(pair, pair.epdg, forge(pair, "ue", 4, CRITICAL))
    assert pair.wire[-1] == "<-- INFORMATIONAL response 4 [ N(UNSUPPORTED_CRITICAL_PAYLOAD) ]"
    known = pair.epdg.live.window.answer_to(4)
    assert known is not None
    notify = known.response.message.notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD)
    assert notify is not None
    assert notify.data == bytes([200])
    assert pair.epdg.live.state is SaState.ESTABLISHED
    receive(pair, pair.epdg, forge(pair, "ue", 5, HARMLESS))  # "MUST be ignored"
    assert pair.wire[-1] == "<-- INFORMATIONAL response 5 [ ]"


def test_an_unknown_critical_payload_in_ike_sa_init() -> None:
    """The answer is as unprotected as the request; nothing is kept."""
    pair = Pair()
    request = first_request(pair)
    asked = decode_message(request.payload)
    odd = replace(asked, payloads=(*asked.payloads, CRITICAL))
    pair.epdg.endpoint.receive(Datagram(request.path.reversed(), encode_message(odd)), pair.now)
    answer = pair.epdg.endpoint.poll_transmit()
    assert answer is not None
    message = decode_message(answer.payload)
    assert message.summary() == "IKE_SA_INIT response 0 [ N(UNSUPPORTED_CRITICAL_PAYLOAD) ]"
    notify = message.notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD)
    assert notify is not None
    assert notify.data == bytes([200])
    assert pair.epdg.endpoint.sas == {}


def test_an_unknown_critical_payload_in_a_response_ends_the_exchange_and_the_sa() -> None:
    """§2.5: responses never carry it; §2.21: "clean up the IKE state (for example, by sending a Delete)"."""
    pair = Pair().attach()
    pair.lose = lambda sender, datagram: sender == "epdg"
    pair.ue.endpoint.initiate(pair.ue.live, Liveness(), pair.now)
    pair.run(0.1)
    pair.lose = lambda sender, datagram: False
    receive(pair, pair.ue, forge(pair, "epdg", 4, CRITICAL, response=True))
    assert pair.wire[-1] == "--> INFORMATIONAL request 5 [ D ]"
    pair.run(1.0)
    assert "200" in pair.ue.take(Refused).text
    assert pair.ue.take(Closed)
    assert pair.epdg.take(Closed).by_peer


def test_reserved_bits_version_flag_and_minor_version_are_ignored() -> None:
    """§2.5: "their content MUST be ignored"; the minor version "MUST be ignored by a node with a smaller" one."""
    pair = Pair()
    request = first_request(pair)
    octets = bytearray(request.payload)
    octets[17] |= 0x0F  # minor version 15
    octets[19] |= 0xD7  # all flags but I and R, V among them
    octets[29] |= 0x7F  # reserved bits of the first payload
    pair.epdg.endpoint.receive(Datagram(request.path.reversed(), bytes(octets)), pair.now)
    answer = pair.epdg.endpoint.poll_transmit()
    assert answer is not None
    assert decode_message(answer.payload).summary().startswith("IKE_SA_INIT response 0 [ SAr1, KEr, Nr")
    assert answer.payload[17] == 0x20
    assert answer.payload[19] == 0x20


def test_a_higher_major_version_is_dropped_and_answered() -> None:
    """§2.5: "MUST drop the message and SHOULD send" INVALID_MAJOR_VERSION; a response is never answered."""
    pair = Pair()
    request = first_request(pair)
    for flags, answered in ((0x08, True), (0x28, False)):
        octets = bytearray(request.payload)
        octets[17], octets[19] = 0x30, flags
        pair.epdg.endpoint.receive(Datagram(request.path.reversed(), bytes(octets)), pair.now)
        answer = pair.epdg.endpoint.poll_transmit()
        assert (answer is not None) == answered
        if answer is not None:
            assert decode_message(answer.payload).summary() == "IKE_SA_INIT response 0 [ N(INVALID_MAJOR_VERSION) ]"
    assert pair.epdg.endpoint.sas == {}


# --- exchanges that are not for now (§2.21)


@pytest.mark.parametrize("exchange", [ExchangeType.IKE_AUTH, ExchangeType(77)])
def test_an_exchange_that_cannot_be_once_the_sa_is_up(exchange: ExchangeType) -> None:
    """§2.21.3: "all requests having errors MUST result in a response"; INVALID_SYNTAX is fatal in both peers."""
    pair = Pair().attach()
    receive(pair, pair.epdg, forge(pair, "ue", 4, exchange=exchange))
    assert pair.wire[-1] == f"<-- {exchange.name} response 4 [ N(INVALID_SYNTAX) ]"
    assert pair.epdg.take(Closed)


@pytest.mark.parametrize("exchange", [ExchangeType.CREATE_CHILD_SA, ExchangeType(77)])
def test_an_exchange_before_the_peer_is_authenticated_is_dropped(exchange: ExchangeType) -> None:
    pair = Pair()
    pair.lose = lambda sender, datagram: datagram.payload[18] == ExchangeType.IKE_AUTH
    pair.start()
    pair.run(0.1)
    count = len(pair.seen)
    receive(pair, pair.epdg, forge(pair, "ue", 1, exchange=exchange))
    assert len(pair.seen) == count
    assert pair.epdg.live.dropped["not-legal-now"] == 1
    pair.lose = lambda sender, datagram: False
    pair.run(2.0)
    assert pair.epdg.live.state is SaState.ESTABLISHED


# --- refusals nobody signed (§2.21.1)


@pytest.mark.parametrize(
    "notify", [NotifyType.NO_PROPOSAL_CHOSEN, NotifyType.INVALID_SYNTAX, NotifyType.INVALID_MAJOR_VERSION]
)
def test_a_forged_refusal_of_ike_sa_init_does_not_end_the_attempt(notify: NotifyType) -> None:
    """ "the recipient should continue trying for some time before giving up"."""
    pair = Pair()
    request = first_request(pair)
    receive(pair, pair.ue, answer_to(request, NotifyPayload(type=notify)))
    assert pair.ue.live.state is SaState.INIT_SENT
    pair.run(5.0)
    assert pair.ue.live.state is pair.epdg.live.state is SaState.ESTABLISHED
    assert not pair.ue.has(Refused)


def test_a_forged_answer_that_makes_no_sense_does_not_end_the_attempt() -> None:
    pair = Pair()
    request = first_request(pair)
    bad = NotifyPayload(type=NotifyType.INVALID_KE_PAYLOAD, data=b"\x00\x05")  # a group that was not offered
    receive(pair, pair.ue, answer_to(request, bad), answer_to(request))
    pair.run(5.0)
    assert pair.ue.live.state is SaState.ESTABLISHED


def test_a_genuine_refusal_of_ike_sa_init_is_reported_soon() -> None:
    pair = Pair(epdg=responder_config(ike_policy=IkePolicy((IkeSuite.of("aes256-sha384-ecp384"),))))
    pair.start()
    pair.run(1.0)
    assert not pair.ue.has(Closed)
    pair.run(0.6)
    refused = pair.ue.take(Refused)
    assert refused.by_peer
    assert refused.notify is not None
    assert refused.notify.type == NotifyType.NO_PROPOSAL_CHOSEN
    assert pair.ue.take(Closed).by_peer


# --- messages without protection (§2.21.4)


@pytest.mark.parametrize("kind", [NotifyType.INVALID_IKE_SPI, NotifyType.INVALID_SPI])
@pytest.mark.parametrize("response", [True, False])
def test_an_unprotected_notify_is_a_hint_and_no_more(kind: NotifyType, response: bool) -> None:
    """ "MUST NOT respond and MUST NOT change the state ... should initiate a liveness check", seldom."""
    pair = Pair().attach()
    hint = forge(pair, "epdg", 4, NotifyPayload(type=kind), response=response, protected=False)
    count = len(pair.wire)
    for _ in range(20):
        receive(pair, pair.ue, hint)
        pair.run(0.1)
    assert pair.wire[count:] == ["--> INFORMATIONAL request 4 [ ]", "<-- INFORMATIONAL response 4 [ ]"]
    assert pair.ue.live.dropped["unprotected"] == 20
    assert pair.ue.live.state is SaState.ESTABLISHED
    pair.run(10.0)
    receive(pair, pair.ue, hint)
    assert pair.wire[-1] == "--> INFORMATIONAL request 5 [ ]"


@pytest.mark.parametrize("kind", [NotifyType.AUTHENTICATION_FAILED, NotifyType.INVALID_SYNTAX])
def test_other_unprotected_messages_are_not_even_a_hint(kind: NotifyType) -> None:
    pair = Pair().attach()
    count = len(pair.seen)
    for response in (True, False):
        receive(pair, pair.ue, forge(pair, "epdg", 0, NotifyPayload(type=kind), response=response, protected=False))
    assert len(pair.seen) == count
    assert pair.ue.live.dropped["unprotected"] == 2


# --- the child SA alone is refused (§1.2, §2.21.2)


@pytest.mark.parametrize("reason", [NotifyType.NO_PROPOSAL_CHOSEN, NotifyType.TS_UNACCEPTABLE])
def test_a_refused_child_leaves_the_ike_sa_and_the_ue_deletes_it(reason: NotifyType) -> None:
    """ "the initiator MUST NOT fail the authentication because of this"; by policy it deletes the IKE SA."""
    changes: dict[str, object] = (
        {"esp_policy": EspPolicy((EspSuite.of("aes256-sha256"),))}
        if reason == NotifyType.NO_PROPOSAL_CHOSEN
        else {"local_selectors": (TrafficSelector.network("192.0.2.0/24"),)}
    )
    esp = {"esp_policy": EspPolicy((EspSuite.of("aes128gcm16"),))}
    pair = Pair(initiator_config(**changes), responder_config(**esp)).attach()
    assert pair.wire[-3:] == [
        f"<-- IKE_AUTH response 3 [ AUTH, N({reason.name}), N(MOBIKE_SUPPORTED) ]",
        "--> INFORMATIONAL request 4 [ D ]",
        "<-- INFORMATIONAL response 4 [ ]",
    ]
    refused = pair.ue.take(Refused)
    assert refused.by_peer
    assert refused.notify is not None
    assert refused.notify.type == reason
    assert not pair.epdg.take(Refused).by_peer
    assert pair.epdg.take(Established)
    assert pair.epdg.take(Closed).by_peer
    assert not pair.ue.take(Closed).by_peer
    assert not pair.ue.has(Established)
    assert not pair.ue.has(ChildSaInstalled)


def test_a_refused_child_is_no_excuse_for_a_wrong_auth() -> None:
    """The refusal counts only when AUTH verifies."""
    pair = Pair(
        initiator_config(local_selectors=(TrafficSelector.network("192.0.2.0/24"),)),
    )
    pair.lose = lambda sender, datagram: sender == "epdg" and datagram.payload[20:24] == bytes([0, 0, 0, 3])
    pair.start()
    pair.run(0.2)
    bad = AuthPayload(method=AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE, data=bytes(32))
    forged = forge(
        pair,
        "epdg",
        3,
        bad,
        NotifyPayload(type=NotifyType.TS_UNACCEPTABLE),
        exchange=ExchangeType.IKE_AUTH,
        response=True,
    )
    receive(pair, pair.ue, forged)
    assert pair.wire[-1] == "--> INFORMATIONAL request 4 [ N(AUTHENTICATION_FAILED), D ]"
