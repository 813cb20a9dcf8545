"""Child SAs that the gateway's data plane has, or refuses, before they are granted (RFC 7296 §1.2, §1.3, §2.21)."""

from __future__ import annotations

import pytest

from protocols.errors import LocalError
from protocols.ikev2.events import (
    ChildSaAnswer,
    ChildSaInstalled,
    ChildSaOffered,
    Closed,
    ConfigurationReply,
    CreateChildSaRefused,
    Established,
    Event,
    Refused,
    SaState,
)
from protocols.ikev2.proposals import EspPolicy
from protocols.ikev2.registry import NotifyType
from protocols.ikev2.task import Task
from protocols.ikev2.tasks.create_child import CreateChild
from protocols.ikev2.tasks.informational import Liveness
from protocols.ikev2.tasks.rekey_child import RekeyChild
from tests.harness.pair import Pair, answer_as_gateway, initiator_config, responder_config

FOLLOWED = "aes128gcm16-x25519-ke1_mlkem768"
REFUSAL = "[ N(NO_PROPOSAL_CHOSEN) ]"


class DataPlane:
    """The gateway's; ``answer``: what it says of the next child SA, ``None``: nothing yet."""

    def __init__(self) -> None:
        self.answer: ChildSaAnswer | None = ChildSaAnswer(True)

    def answers(self, event: Event) -> object:
        """In the place of the pair's."""
        return self.answer if isinstance(event, ChildSaOffered) else answer_as_gateway(event)


@pytest.fixture
def data_plane() -> DataPlane:
    return DataPlane()


def pair_of(data_plane: DataPlane, esp: str = "aes128gcm16", **changes: object) -> Pair:
    policy = {"esp_policy": EspPolicy.of([esp])}
    pair = Pair(initiator_config(**policy, **changes), responder_config(offers_child_sas=True, **policy, **changes))
    pair.epdg.answers = data_plane.answers
    return pair


def one_more(pair: Pair) -> CreateChild:
    (child,) = pair.ue.live.children.values()
    return CreateChild(child.spec.local_selectors, child.spec.remote_selectors)


def rekey(pair: Pair) -> RekeyChild:
    return RekeyChild(next(iter(pair.ue.live.children)))


def begin(pair: Pair, task: Task) -> None:
    pair.ue.endpoint.initiate(pair.ue.live, task, pair.now)
    pair.run(1.0)


def test_offered_then_granted(data_plane: DataPlane) -> None:
    pair = pair_of(data_plane).attach()
    assert pair.wire[-1] == "<-- IKE_AUTH response 3 [ AUTH, CP(CFG_REPLY), SAr2, TSi, TSr, N(MOBIKE_SUPPORTED) ]"
    told = [type(event) for event in pair.epdg.events]
    assert told.index(ChildSaOffered) < told.index(ChildSaInstalled) < told.index(Established)
    offered, installed = pair.epdg.take(ChildSaOffered), pair.epdg.take(ChildSaInstalled)
    assert (offered.spec, offered.replaces, offered.send_at_once) == (installed.spec, None, True)
    assert not pair.ue.has(ChildSaOffered)


def test_refused_in_ike_auth(data_plane: DataPlane) -> None:
    """§1.2: "If creating the Child SA during the IKE_AUTH exchange fails ..., the IKE SA is still created"."""
    data_plane.answer = ChildSaAnswer(False)
    pair = pair_of(data_plane)
    pair.start()
    pair.run(1.0)
    assert "<-- IKE_AUTH response 3 [ AUTH, N(NO_PROPOSAL_CHOSEN), N(MOBIKE_SUPPORTED) ]" in pair.wire
    refused = pair.ue.take(Refused)
    assert refused.by_peer
    assert refused.notify is not None
    assert refused.notify.type == NotifyType.NO_PROPOSAL_CHOSEN
    assert not pair.ue.has(Established)
    assert pair.epdg.take(Established)
    assert not pair.epdg.has(ChildSaInstalled)
    assert pair.wire[-2:] == ["--> INFORMATIONAL request 4 [ D ]", "<-- INFORMATIONAL response 4 [ ]"]
    assert pair.epdg.take(Closed).by_peer
    assert pair.ue.endpoint.sas == pair.epdg.endpoint.sas == {}


def test_nothing_is_offered_of_a_childless_sa(data_plane: DataPlane) -> None:
    pair = pair_of(data_plane, childless=True).attach()
    assert not pair.epdg.has(ChildSaOffered)
    assert pair.epdg.take(Established)


@pytest.mark.parametrize("carried", [True, False])
def test_one_more(data_plane: DataPlane, carried: bool) -> None:
    """§1.3.1: an error "does not affect" the IKE SA."""
    pair = pair_of(data_plane).attach()
    for node in (pair.ue, pair.epdg):
        node.take(ChildSaInstalled)
    data_plane.answer = ChildSaAnswer(carried)
    begin(pair, one_more(pair))
    assert (pair.wire[-1] == f"<-- CREATE_CHILD_SA response 4 {REFUSAL}") is not carried
    assert len(pair.ue.live.children) == len(pair.epdg.live.children) == 1 + carried
    for node in (pair.ue, pair.epdg):
        assert node.has(ChildSaInstalled) is carried
        assert node.live.state is SaState.ESTABLISHED
        if not carried:
            assert node.take(CreateChildSaRefused).notify.type == NotifyType.NO_PROPOSAL_CHOSEN


@pytest.mark.parametrize("esp", ["aes128gcm16", FOLLOWED])
@pytest.mark.parametrize("carried", [True, False])
def test_rekeying(data_plane: DataPlane, carried: bool, esp: str) -> None:
    """§2.8; RFC 9370 §2.2.4: after the last additional key exchange. The old child SA stays where it is refused."""
    pair = pair_of(data_plane, esp).attach()
    (old,), (old_at_epdg,) = pair.ue.live.children, pair.epdg.live.children
    for node in (pair.ue, pair.epdg):
        node.take(ChildSaInstalled)
    pair.epdg.take(ChildSaOffered)
    data_plane.answer = ChildSaAnswer(carried)
    begin(pair, rekey(pair))
    offered = pair.epdg.take(ChildSaOffered)
    assert (offered.replaces, offered.send_at_once) == (old_at_epdg, False)
    for node, spi in ((pair.ue, old), (pair.epdg, old_at_epdg)):
        assert len(node.live.children) == 1
        assert (spi in node.live.children) is not carried
        assert node.has(ChildSaInstalled) is carried
    if not carried:
        exchange = "IKE_FOLLOWUP_KE response 5" if esp == FOLLOWED else "CREATE_CHILD_SA response 4"
        assert f"<-- {exchange} {REFUSAL}" in pair.wire
        told = [node.take(CreateChildSaRefused).what for node in (pair.ue, pair.epdg)]
        assert told == [f"the rekey of child SA {old.hex()}"] * 2
        assert pair.ue.live.followups.subjects == pair.epdg.live.followups.subjects == ()


def test_the_request_waits_for_the_data_plane(data_plane: DataPlane) -> None:
    """Retransmissions are absorbed, one answer is sent, and the IKE SA goes on."""
    pair = pair_of(data_plane).attach()
    data_plane.answer = None
    begin(pair, one_more(pair))
    pair.run(2.0)
    assert not any("CREATE_CHILD_SA response" in line for line in pair.wire)
    pair.epdg.endpoint.answer(pair.epdg.live, ChildSaAnswer(True), pair.now)
    pair.run(1.0)
    assert sum("CREATE_CHILD_SA response" in line for line in pair.wire) == 1
    assert len(pair.ue.live.children) == len(pair.epdg.live.children) == 2
    begin(pair, Liveness())
    assert pair.wire[-1] == "<-- INFORMATIONAL response 5 [ ]"


def test_an_answer_to_another_question_is_our_mistake(data_plane: DataPlane) -> None:
    pair = pair_of(data_plane).attach()
    data_plane.answer = None
    begin(pair, one_more(pair))
    reply = ConfigurationReply(attributes=(), local_selectors=(), remote_selectors=())
    with pytest.raises(LocalError, match="ConfigurationReply does not answer a child SA"):
        pair.epdg.endpoint.answer(pair.epdg.live, reply, pair.now)
