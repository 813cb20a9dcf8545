"""Configuration payloads between two machines (RFC 7296 §2.19, §3.15): in IKE_AUTH, and in exchanges of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.errors import LocalError
from protocols.ikev2.events import (
    ChildSaInstalled,
    ConfigurationAnswer,
    ConfigurationExchanged,
    ConfigurationReceived,
    ConfigurationReply,
    ConfigurationRequested,
    EapReply,
    Established,
    Event,
    MessageReceived,
    SaState,
)
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import ConfigurationAttribute, ConfigurationPayload, NotifyPayload, Payload
from protocols.ikev2.registry import ConfigAttributeType, ConfigType, ExchangeType, NotifyType
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.tasks.config import ExchangeConfiguration
from protocols.path import Path
from protocols.selectors import TrafficSelector
from protocols.threegpp.causes import PrivateNotify
from tests.harness.pair import Pair, answer_as_gateway, initiator_config

INNER_4, INNER_6 = bytes([10, 45, 0, 2]), bytes.fromhex("20010db8004500010000000000000001")
PERIOD = ConfigAttributeType.TIMEOUT_PERIOD_FOR_LIVENESS_CHECK
P_CSCF = ConfigurationAttribute(type=ConfigAttributeType.P_CSCF_IP4_ADDRESS, value=bytes([10, 45, 0, 9]))
VERSION = ConfigurationAttribute(type=ConfigAttributeType.APPLICATION_VERSION)
ANY = (TrafficSelector.network("0.0.0.0/0"), TrafficSelector.network("::/0"))


def attribute(kind: int, value: bytes = b"") -> ConfigurationAttribute:
    return ConfigurationAttribute(type=ConfigAttributeType.of(kind), value=value)


def granting(reply: ConfigurationReply) -> object:
    """A gateway that grants this."""

    def answer(event: Event) -> object:
        return reply if isinstance(event, ConfigurationRequested) else answer_as_gateway(event)

    return answer


def attached_with(reply: ConfigurationReply, *, asked: tuple[int, ...] = (1,), **changes: object) -> Pair:
    wanted = tuple(attribute(kind) for kind in asked)
    pair = Pair(ue=initiator_config(configuration_request=wanted, **changes))
    pair.epdg.answers = granting(reply)  # type: ignore[assignment]
    return pair.attach()


def answering(answers: dict[ConfigType, tuple[ConfigurationAttribute, ...]]) -> object:
    """An end that answers questions of configuration like this, and is silent otherwise."""

    def answer(event: Event) -> object:
        if isinstance(event, ConfigurationReceived):
            return ConfigurationAnswer(attributes=answers.get(event.type, ()))
        return None

    return answer


class Informational:
    """An INFORMATIONAL request with whatever a test puts into it."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, *payloads: Payload) -> None:
        self._payloads = payloads
        self.response: Message | None = None

    def build_request(self, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        return self._payloads

    def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
        self.response = message


# --- IKE_AUTH -----------------------------------------------------------------------------------------


def test_both_families_in_one_child_sa_narrowed_to_what_is_granted() -> None:
    """RFC 7296 §2.9, §3.15.3: SK {.., CP(IP4, IP6), TSi = 0.0.0.0/0, ::/0, ..} --> <-- TSi = the two addresses."""
    mine = (TrafficSelector.host("10.45.0.2"), TrafficSelector.network("2001:db8:45:1::/64"))
    reply = ConfigurationReply(
        attributes=(attribute(1, INNER_4), attribute(8, INNER_6 + b"\x40")),
        local_selectors=ANY,
        remote_selectors=mine,
    )
    pair = attached_with(reply, asked=(1, 8), local_selectors=ANY, remote_selectors=ANY)
    assert pair.ue.take(Established).configuration == reply.attributes
    ours, theirs = pair.ue.take(ChildSaInstalled).spec, pair.epdg.take(ChildSaInstalled).spec
    assert ours.local_selectors == theirs.remote_selectors == mine
    assert ours.remote_selectors == theirs.local_selectors == ANY


def test_one_family_of_two_is_said_with_its_notify() -> None:
    """TS 24.302 §8.1.2.3: <-- SK {AUTH, CP(IP4), N(PDN_TYPE_IPv4_ONLY_ALLOWED), ..}"""
    only = NotifyPayload(type=NotifyType(PrivateNotify.PDN_TYPE_IPV4_ONLY_ALLOWED))
    reply = ConfigurationReply(
        attributes=(attribute(1, INNER_4),),
        local_selectors=ANY[:1],
        remote_selectors=(TrafficSelector.host("10.45.0.2"),),
        notifies=(only,),
    )
    pair = attached_with(reply, asked=(1, 8), local_selectors=ANY, remote_selectors=ANY)
    assert pair.ue.live.state is SaState.ESTABLISHED
    received = [event.message for event in pair.ue.events if isinstance(event, MessageReceived)]
    assert received[-1].notify(PrivateNotify.PDN_TYPE_IPV4_ONLY_ALLOWED) == only


@pytest.mark.parametrize(
    ("asked", "value", "interval"),
    [
        ((1, 24), (30).to_bytes(4, "big"), 30.0),
        ((1, 24), (0).to_bytes(4, "big"), 120.0),  # no period
        ((1, 24), b"\x1e", 120.0),  # not of four octets
        ((1,), (30).to_bytes(4, "big"), 120.0),  # nobody asked
    ],
)
def test_the_gateways_liveness_period_takes_the_place_of_ours(
    asked: tuple[int, ...], value: bytes, interval: float
) -> None:
    """TS 24.302 §7.2.2A: after that much silence the UE sends INFORMATIONAL { } -->"""
    reply = ConfigurationReply(
        attributes=(attribute(1, INNER_4), attribute(PERIOD, value)),
        local_selectors=ANY[:1],
        remote_selectors=(TrafficSelector.host("10.45.0.2"),),
    )
    pair = attached_with(reply, asked=asked, liveness_interval=120.0)
    before = len(pair.wire)
    pair.run(interval - 6.0)  # of the five seconds that the attach was given almost all are silence
    assert len(pair.wire) == before
    pair.run(2.0)
    assert [line.split(" [")[0] for line in pair.wire[before:]] == [
        "--> INFORMATIONAL request 4",
        "<-- INFORMATIONAL response 4",
    ]


def test_a_period_leaves_the_gateways_own_interval_alone() -> None:
    """What the gateway sends in CFG_REPLY is for the UE."""
    reply = ConfigurationReply(
        attributes=(attribute(1, INNER_4), attribute(PERIOD, (30).to_bytes(4, "big"))),
        local_selectors=ANY[:1],
        remote_selectors=(TrafficSelector.host("10.45.0.2"),),
    )
    pair = attached_with(reply, asked=(1, 24))
    assert pair.epdg.live.timers.liveness_interval is None
    assert pair.ue.live.config.liveness_interval == 30.0


# --- INFORMATIONAL ------------------------------------------------------------------------------------


def test_cfg_request_is_a_question_and_cfg_reply_its_answer() -> None:
    """RFC 7296 §3.15.1: INFORMATIONAL {CP(CFG_REQUEST)} --> <-- {CP(CFG_REPLY)}"""
    pair = Pair().attach()
    pair.epdg.answers = answering({ConfigType.CFG_REQUEST: (attribute(7, b"text"),)})  # type: ignore[assignment]
    pair.ue.endpoint.initiate(pair.ue.live, ExchangeConfiguration(ConfigType.CFG_REQUEST, (VERSION,)), pair.now)
    pair.run(1.0)
    assert pair.epdg.take(ConfigurationReceived) == ConfigurationReceived(
        type=ConfigType.CFG_REQUEST, attributes=(VERSION,)
    )
    assert pair.ue.take(ConfigurationExchanged).answer == (attribute(7, b"text"),)


def test_cfg_ack_names_what_was_accepted_without_values() -> None:
    """RFC 7296 §3.15.1: "the attributes that the responder accepted with zero-length data"."""
    pair = Pair().attach()
    pair.ue.answers = answering({ConfigType.CFG_SET: (P_CSCF, P_CSCF)})  # type: ignore[assignment]
    task = ExchangeConfiguration(ConfigType.CFG_SET, (P_CSCF, attribute(32000, b"x")))
    pair.epdg.endpoint.initiate(pair.epdg.live, task, pair.now)
    pair.run(1.0)
    assert pair.epdg.take(ConfigurationExchanged).answer == (attribute(20),)


def test_a_response_without_configuration_is_an_answer_too() -> None:
    """Android answers INFORMATIONAL with CP by an empty response; so may anybody to CFG_SET (§3.15.1)."""
    pair = Pair().attach()

    class Mute(Informational):
        def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
            task.process_response(sa, replace(message, payloads=()), path, now)

    task = ExchangeConfiguration(ConfigType.CFG_REQUEST, (P_CSCF,))
    pair.ue.answers = answering({})  # type: ignore[assignment]
    mute = Mute(ConfigurationPayload(type=ConfigType.CFG_REQUEST, attributes=(P_CSCF,)))
    pair.epdg.endpoint.initiate(pair.epdg.live, mute, pair.now)
    pair.run(1.0)
    assert pair.epdg.take(ConfigurationExchanged).answer is None
    assert pair.epdg.live.state is SaState.ESTABLISHED


def test_retransmissions_wait_for_the_answer_and_ask_nothing_again() -> None:
    """RFC 7296 §2.1: one question however often the request comes; then the cached response."""
    pair = Pair().attach()
    pair.ue.answers = lambda event: None
    task = ExchangeConfiguration(ConfigType.CFG_REQUEST, (P_CSCF,))
    pair.epdg.endpoint.initiate(pair.epdg.live, task, pair.now)
    pair.run(2.0)  # retransmitted after 0.5 and 1.5 seconds
    assert sum(isinstance(event, ConfigurationReceived) for event in pair.ue.events) == 1
    pair.ue.endpoint.answer(pair.ue.live, ConfigurationAnswer(), pair.now)
    pair.run(5.0)
    assert pair.epdg.take(ConfigurationExchanged).answer == ()
    with pytest.raises(LocalError):
        pair.ue.endpoint.answer(pair.ue.live, ConfigurationAnswer(), pair.now)


def test_a_question_of_configuration_takes_no_other_answer() -> None:
    pair = Pair().attach()
    pair.ue.answers = lambda event: None
    task = ExchangeConfiguration(ConfigType.CFG_SET, (P_CSCF,))
    pair.epdg.endpoint.initiate(pair.epdg.live, task, pair.now)
    pair.run(0.1)
    with pytest.raises(LocalError):
        pair.ue.endpoint.answer(pair.ue.live, EapReply(packet=b"x"), pair.now)


def test_what_else_the_request_carries_is_answered_with_it() -> None:
    """INFORMATIONAL {N(COOKIE2), CP(CFG_SET)} --> <-- {N(COOKIE2), CP(CFG_ACK)}"""
    pair = Pair().attach()
    pair.ue.answers = answering({})  # type: ignore[assignment]
    task = Informational(
        NotifyPayload(type=NotifyType.COOKIE2, data=bytes(16)),
        ConfigurationPayload(type=ConfigType.CFG_SET, attributes=(P_CSCF,)),
    )
    pair.epdg.endpoint.initiate(pair.epdg.live, task, pair.now)
    pair.run(1.0)
    assert task.response is not None
    assert task.response.notify(NotifyType.COOKIE2) is not None
    acknowledged = task.response.first(ConfigurationPayload)
    assert acknowledged == ConfigurationPayload(type=ConfigType.CFG_ACK)


@pytest.mark.parametrize("kind", [ConfigType.CFG_REPLY, ConfigType.CFG_ACK, ConfigType(77)])
def test_an_answer_that_nobody_asked_for_is_counted_and_passed_over(kind: ConfigType) -> None:
    pair = Pair().attach()
    task = Informational(ConfigurationPayload(type=kind, attributes=(P_CSCF,)))
    pair.epdg.endpoint.initiate(pair.epdg.live, task, pair.now)
    pair.run(1.0)
    assert task.response is not None
    assert task.response.payloads == ()
    assert not pair.ue.has(ConfigurationReceived)
    assert pair.ue.live.dropped["unexpected-configuration"] == 1


@pytest.mark.parametrize("kind", [ConfigType.CFG_REPLY, ConfigType.CFG_ACK])
def test_an_answer_cannot_be_sent_as_a_request(kind: ConfigType) -> None:
    with pytest.raises(LocalError):
        ExchangeConfiguration(kind, ())
