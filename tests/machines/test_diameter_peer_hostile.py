"""One end of a Diameter connection and a peer that breaks rules, or that connects while we do (RFC 6733 §5.6.4)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from protocols.diameter.capabilities import Capabilities, Judgement, wins_election
from protocols.diameter.codec import Avp, DiameterMessage, decode_message, encode_message, redact
from protocols.diameter.dictionary import DisconnectCause, ResultCode
from protocols.diameter.events import CloseReason, DropReason, PeerState, RequestReceived
from protocols.diameter.peer import HANDSHAKE_INTERVAL, PeerMachine
from protocols.diameter.watchdog import WatchdogState
from tests.machines.test_diameter_peer import AAA, EPDG, cer, der, ended, machine, opened_aaa, sent

LEVELS = 3000


def nested(name: str, levels: int, *, mandatory: bool, innermost: tuple[Avp, ...] = ()) -> Avp:
    """A group in a group in a group."""
    avp = replace(Avp.of(name, innermost), mandatory=mandatory)
    for _ in range(levels):
        avp = replace(avp, data=avp.encode())
    return avp


def received(end: PeerMachine) -> list[DiameterMessage]:
    requests = []
    while (event := end.poll_event()) is not None:
        if isinstance(event, RequestReceived):
            requests.append(event.request)
    return requests


# Groups without end


@pytest.mark.parametrize("name", ["Failed-AVP", "APN-Configuration"])
def test_groups_without_end_are_ignored_where_nobody_must_know_them(name: str) -> None:
    aaa = opened_aaa()
    message = replace(der(), hop_by_hop=9, avps=(*der().avps, nested(name, LEVELS, mandatory=False)))
    aaa.receive(encode_message(message), 0.0)
    assert [request.hop_by_hop for request in received(aaa)] == [9]
    json.dumps(message.detail())
    assert name in message.summary()


def test_groups_without_end_are_refused_at_the_first_that_must_be_known() -> None:
    # RFC 6733 §7.5: the offending AVP within copies of the groups around it
    aaa = opened_aaa()
    inside = nested("Proxy-Info", LEVELS, mandatory=True)
    message = replace(der(), avps=(*der().avps, inside))
    aaa.receive(encode_message(message), 0.0)
    [answer] = sent(aaa)
    assert answer.integer("Result-Code") == ResultCode.DIAMETER_AVP_UNSUPPORTED
    assert not received(aaa)


def test_a_group_that_ends_in_the_middle_of_a_member_is_refused() -> None:
    # RFC 6733 §7.1.5: DIAMETER_INVALID_AVP_LENGTH
    aaa = opened_aaa()
    broken = Avp(code=Avp.of("Proxy-Info", ()).code, data=Avp.of("Proxy-Host", "relay.test").encode()[:-5])
    aaa.receive(encode_message(replace(der(), avps=(*der().avps, broken))), 0.0)
    [answer] = sent(aaa)
    assert answer.integer("Result-Code") == ResultCode.DIAMETER_INVALID_AVP_LENGTH


def test_keys_far_inside_groups_stay_out_of_the_trace() -> None:
    key = Avp.of("EAP-Master-Session-Key", b"secret octets")
    message = replace(der(), avps=(nested("Failed-AVP", 20, mandatory=False, innermost=(key,)),))
    octets = redact(encode_message(message))
    assert b"secret octets" not in octets
    assert len(octets) == len(encode_message(message))
    assert decode_message(octets).avps[0].name == "Failed-AVP"


# A peer that never finishes


def test_a_message_that_never_ends_does_not_keep_a_connection() -> None:
    # RFC 3539 §3.4.1: only messages show that the peer is there
    aaa = opened_aaa()
    octets = encode_message(der())
    now, position = 0.0, 0
    while aaa.state is PeerState.OPEN:
        now += 1.0
        aaa.receive(octets[position : position + 1], now)
        aaa.handle_timeout(now)
        position = min(position + 1, len(octets) - 2)
        if position == len(octets) - 2:
            octets = octets[:position]
        assert now < 200
    assert ended(aaa).why is CloseReason.WATCHDOG
    assert aaa.watchdog is WatchdogState.SUSPECT


@pytest.mark.parametrize("octets", [b"", b"\x01", b"\x01\x00\x00\x20", encode_message(cer())[:-4]])
def test_capabilities_that_never_end_do_not_keep_a_connection(octets: bytes) -> None:
    aaa = machine(AAA)
    aaa.start_responder(0.0)
    for position in range(len(octets)):
        aaa.receive(octets[position : position + 1], HANDSHAKE_INTERVAL * position / (len(octets) + 1))
    aaa.handle_timeout(HANDSHAKE_INTERVAL)
    assert ended(aaa).why is CloseReason.NO_CAPABILITIES


def test_messages_behind_the_cer_are_served_behind_the_cea() -> None:
    aaa = machine(AAA)
    aaa.start_responder(0.0)
    aaa.receive(encode_message(cer()) + encode_message(der()), 0.0)
    assert [message.name for message in sent(aaa)] == ["CEA"]
    assert len(received(aaa)) == 1


# Election (RFC 6733 §5.6.4)


def electing(judge: Callable[[Capabilities], Judgement] = lambda _: Judgement.ELECTION) -> PeerMachine:
    """An accepted connection that waits for the outcome of our own."""
    aaa = machine(AAA, admission=judge)
    aaa.start_responder(0.0)
    aaa.receive(encode_message(cer()), 0.0)
    return aaa


@pytest.mark.parametrize(
    ("host", "other", "wins"),
    [
        ("b.test", "a.test", True),
        ("a.test", "b.test", False),
        ("B.test", "a.test", True),
        ("A.test", "a.TEST", False),
        ("aa.test", "a.test", True),
    ],
)
def test_the_greater_host_wins(host: str, other: str, wins: bool) -> None:
    assert wins_election(host, other) is wins


def test_a_cer_waits_for_the_election() -> None:
    aaa = electing()
    assert aaa.state is PeerState.WAIT_RETURNS
    assert sent(aaa) == []
    assert not aaa.is_usable
    # R-Disc
    aaa.lose_election()
    assert sent(aaa) == []
    assert ended(aaa).why is CloseReason.ELECTION_LOST


def test_a_cer_is_answered_when_our_own_connection_ended() -> None:
    judgements = [Judgement.ELECTION, Judgement.ACCEPTED]
    aaa = electing(lambda _: judgements.pop(0))
    aaa.win_election(1.0)
    [cea] = sent(aaa)
    assert (cea.name, cea.integer("Result-Code"), aaa.state) == ("CEA", 2001, PeerState.OPEN)
    assert aaa.capabilities is not None
    assert aaa.capabilities.host == EPDG.host


def test_the_election_does_not_last() -> None:
    aaa = electing()
    assert aaa.next_deadline() == HANDSHAKE_INTERVAL
    aaa.handle_timeout(HANDSHAKE_INTERVAL)
    assert ended(aaa).why is CloseReason.NO_CAPABILITIES


@pytest.mark.parametrize("message", [cer(), der()])
def test_nothing_may_come_before_the_cea(message: DiameterMessage) -> None:
    aaa = electing()
    aaa.receive(encode_message(message), 1.0)
    assert sent(aaa) == []
    assert ended(aaa).why is CloseReason.NOT_CAPABILITIES
    assert aaa.dropped[DropReason.NOT_CAPABILITIES] == 1


def test_a_stop_ends_the_election() -> None:
    aaa = electing()
    aaa.stop(DisconnectCause.REBOOTING, 1.0)
    assert ended(aaa).why is CloseReason.STOPPED
    # Afterwards nothing has an effect
    aaa.win_election(2.0)
    aaa.lose_election()
    assert aaa.state is PeerState.CLOSED
    assert sent(aaa) == []


def test_a_certificate_for_another_is_an_unknown_peer() -> None:
    aaa = electing(lambda _: Judgement.NOT_CERTIFIED)
    [cea] = sent(aaa)
    assert cea.integer("Result-Code") == ResultCode.DIAMETER_UNKNOWN_PEER
    assert ended(aaa).why is CloseReason.NOT_CERTIFIED
