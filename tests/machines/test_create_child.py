"""CREATE_CHILD_SA for child SAs in pairs on virtual time: additional ones, PFS, refusals (RFC 7296 §1.3.1, §2.17)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.ikev2.events import ChildSaInstalled, ChildSaRemoved, CreateChildSaRefused, SaState
from protocols.ikev2.payloads import NotifyPayload
from protocols.ikev2.proposals import EspPolicy
from protocols.ikev2.registry import ExchangeType, NotifyType
from protocols.ikev2.suites import EspSuite
from protocols.ikev2.task import Response
from protocols.ikev2.tasks.child import Selectors
from protocols.ikev2.tasks.create_child import CreateChild
from protocols.ikev2.tasks.informational import DeleteChildSa
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.selectors import TrafficSelector
from tests.harness.pair import INNER, Node, Pair, initiator_config, responder_config

ANY = (TrafficSelector.network("0.0.0.0/0"),)
HOST = (TrafficSelector.host(INNER),)
SERVERS = (TrafficSelector.network("192.0.2.0/24"),)


def policy(*names: str) -> dict[str, object]:
    """The ESP policy with these suites."""
    return {"esp_policy": EspPolicy(tuple(EspSuite.of(name) for name in names))}


def ask(pair: Pair, node: Node, local: Selectors, remote: Selectors) -> None:
    """SK {SA, Ni, [KEi,] TSi, TSr} -->"""
    node.endpoint.initiate(node.live, CreateChild(local, remote), pair.now)
    pair.run(1.0)


@pytest.mark.parametrize("esp", ["aes128gcm16", "aes128gcm16-x25519"])
@pytest.mark.parametrize("end", ["ue", "epdg"])
def test_additional_child_sa_by_either_end(end: str, esp: str) -> None:
    """§1.3.1, §2.17: keys of its own, beside the first child SA."""
    pair = Pair(initiator_config(**policy(esp)), responder_config(**policy(esp))).attach()
    node = pair.ue if end == "ue" else pair.epdg
    for one in (pair.ue, pair.epdg):
        one.take(ChildSaInstalled)
    ask(pair, node, *((ANY, SERVERS) if end == "ue" else (SERVERS, ANY)))
    ke = "KEi, " if "x25519" in esp else ""
    arrow, number = ("-->", 4) if end == "ue" else ("<--", 0)
    assert f"{arrow} CREATE_CHILD_SA request {number} [ SA, Ni, {ke}TSi, TSr ]" in pair.wire
    ue, epdg = pair.ue.take(ChildSaInstalled), pair.epdg.take(ChildSaInstalled)
    assert ue.replaces is epdg.replaces is None
    assert ue.spec.inbound_encryption_key == epdg.spec.outbound_encryption_key
    # §2.9: the gateway narrows to what the session's configuration allows, whoever asks
    assert (ue.spec.local_selectors, ue.spec.remote_selectors) == (HOST, SERVERS)
    assert len(pair.ue.live.children) == len(pair.epdg.live.children) == 2
    assert (ue.spec.suite.group is not None) == ("x25519" in esp)


def test_selectors_outside_what_was_granted_are_unacceptable() -> None:
    """§2.9: TS_UNACCEPTABLE, and nothing ends."""
    pair = Pair().attach()
    ask(pair, pair.ue, (TrafficSelector.host("10.45.0.99"),), ANY)
    assert pair.ue.take(CreateChildSaRefused).notify.type == NotifyType.TS_UNACCEPTABLE
    ask(pair, pair.epdg, ANY, (TrafficSelector.host("10.45.0.99"),))
    assert pair.epdg.take(CreateChildSaRefused).notify.type == NotifyType.TS_UNACCEPTABLE
    assert len(pair.ue.live.children) == len(pair.epdg.live.children) == 1
    assert pair.ue.live.state is SaState.ESTABLISHED


def test_no_additional_sas_beyond_the_limit() -> None:
    """§1.3: NO_ADDITIONAL_SAS; a rekey is not an additional SA."""
    pair = Pair(epdg=responder_config(additional_children=1)).attach()
    ask(pair, pair.ue, ANY, SERVERS)
    ask(pair, pair.ue, ANY, SERVERS)
    assert pair.ue.take(CreateChildSaRefused).notify.type == NotifyType.NO_ADDITIONAL_SAS
    assert len(pair.ue.live.children) == 2
    for spi in list(pair.ue.live.children):
        pair.ue.endpoint.initiate(pair.ue.live, RekeyChild(spi), pair.now)
        pair.run(1.0)
        assert spi not in pair.ue.live.children
    assert len(pair.ue.live.children) == 2


def test_invalid_ke_payload_is_obeyed_and_bounded() -> None:
    """§1.3: the group that the responder names, if it was offered and not tried."""
    both = policy("aes128gcm16-x25519", "aes128gcm16-ecp256")
    pair = Pair(initiator_config(**both), responder_config(**policy("aes128gcm16-ecp256"))).attach()
    ask(pair, pair.ue, ANY, SERVERS)
    assert "<-- CREATE_CHILD_SA response 4 [ N(INVALID_KE_PAYLOAD) ]" in pair.wire
    assert "<-- CREATE_CHILD_SA response 5 [ SA, Nr, KEr, TSi, TSr ]" in pair.wire
    # a responder that goes on and on, in circles
    for group in (b"\x00\x13", b"\x00\x1f", b"\x00\x05", b""):
        _answer_with(pair.epdg, NotifyPayload(type=NotifyType.INVALID_KE_PAYLOAD, data=group))
        before = len(pair.wire)
        ask(pair, pair.ue, ANY, SERVERS)
        assert len(pair.wire) - before <= 4
        assert pair.ue.take(CreateChildSaRefused).notify.type == NotifyType.INVALID_KE_PAYLOAD


def _answer_with(node: Node, notify: NotifyPayload) -> None:
    """A peer that answers every CREATE_CHILD_SA with an error."""
    sa, process = node.live, node.live._process

    def refuse(procedure: object, *arguments: object) -> Response | None:
        if getattr(procedure, "value", "") == "create-child":
            return Response(payloads=(notify,))
        return process(procedure, *arguments)  # type: ignore[arg-type]

    sa._process = refuse  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize(
    "notify",
    [
        NotifyType.NO_PROPOSAL_CHOSEN,
        NotifyType.TS_UNACCEPTABLE,
        NotifyType.SINGLE_PAIR_REQUIRED,
        NotifyType.NO_ADDITIONAL_SAS,
        NotifyType.INTERNAL_ADDRESS_FAILURE,
        NotifyType.FAILED_CP_REQUIRED,
        NotifyType.INVALID_SELECTORS,
        NotifyType(8191),
    ],
)
def test_error_answers_end_nothing(notify: NotifyType) -> None:
    """§1.3.1, §3.10.1: told, not tried again, and both SAs live."""
    pair = Pair().attach()
    (spi,) = pair.ue.live.children
    _answer_with(pair.epdg, NotifyPayload(type=notify))
    ask(pair, pair.ue, ANY, SERVERS)
    pair.ue.endpoint.initiate(pair.ue.live, RekeyChild(spi), pair.now)
    pair.run(600.0)
    for _ in range(2):
        refused = pair.ue.take(CreateChildSaRefused)
        assert (refused.notify.type, refused.again_at) == (notify, None)
    assert not pair.ue.has(CreateChildSaRefused)
    assert list(pair.ue.live.children) == [spi]
    assert pair.ue.live.state is SaState.ESTABLISHED


def test_without_pfs_a_policy_that_wants_it_refuses() -> None:
    """§2.17: a suite with a group is one with a key exchange of its own."""
    pair = Pair(initiator_config(**policy("aes128gcm16")), responder_config(**policy("aes128gcm16-x25519"))).attach()
    ask(pair, pair.ue, ANY, SERVERS)
    assert pair.ue.take(CreateChildSaRefused).notify.type == NotifyType.NO_PROPOSAL_CHOSEN


def test_answer_that_widens_the_selectors_is_deleted_at_the_peer() -> None:
    """§2.9, §2.21.3: the responder believes it has a child SA; the initiator, which cannot take it, deletes it."""
    pair = Pair().attach()
    granted = pair.epdg.live.granted
    assert granted is not None
    pair.ue.take(ChildSaInstalled)
    pair.epdg.take(ChildSaInstalled)
    task = CreateChild(ANY, SERVERS)
    pair.ue.endpoint.initiate(pair.ue.live, task, pair.now)
    assert task._offer is not None
    task._offer = replace(task._offer, remote_selectors=(TrafficSelector.host("192.0.2.1"),))
    pair.run(1.0)
    assert not pair.ue.take(CreateChildSaRefused).by_peer
    assert not pair.ue.has(ChildSaInstalled)
    spec = pair.epdg.take(ChildSaInstalled).spec
    assert pair.epdg.take(ChildSaRemoved).inbound_spi == spec.inbound_spi
    assert len(pair.ue.live.children) == len(pair.epdg.live.children) == 1


# --- the peer goes on before its answer is there


def answer_lost(pair: Pair) -> None:
    """SK {SA, Ni, TSi, TSr} -->, whose answer is on its way still: the gateway has a child SA more than the UE."""
    pair.lose = lambda sender, datagram: sender == "epdg" and datagram.payload[18] == ExchangeType.CREATE_CHILD_SA
    pair.ue.endpoint.initiate(pair.ue.live, CreateChild(HOST, SERVERS), pair.now)
    pair.run(0.1)
    assert (len(pair.ue.live.children), len(pair.epdg.live.children)) == (1, 2)


def same_children(pair: Pair) -> None:
    ue = {(c.spec.inbound_spi, c.spec.outbound_spi) for c in pair.ue.live.children.values()}
    assert ue == {(c.spec.outbound_spi, c.spec.inbound_spi) for c in pair.epdg.live.children.values()}


def test_delete_that_overtakes_the_answer() -> None:
    """§1.4.1: the peer has deleted what its late answer grants; nothing is installed."""
    pair = Pair().attach()
    answer_lost(pair)
    made = list(pair.epdg.live.children)[-1]
    pair.epdg.endpoint.initiate(pair.epdg.live, DeleteChildSa(made), pair.now)
    pair.run(0.1)
    pair.lose = lambda sender, datagram: False
    pair.run(2.0)
    assert len(pair.ue.live.children) == 1
    same_children(pair)


def test_rekey_that_overtakes_the_answer() -> None:
    """§2.25: what is to be rekeyed may be what we are waiting for: TEMPORARY_FAILURE, not CHILD_SA_NOT_FOUND."""
    pair = Pair().attach()
    answer_lost(pair)
    made = list(pair.epdg.live.children)[-1]
    pair.epdg.endpoint.initiate(pair.epdg.live, RekeyChild(made), pair.now)
    pair.lose = lambda sender, datagram: sender == "epdg" and bool(datagram.payload[19] & 0x20)
    pair.run(0.1)
    pair.lose = lambda sender, datagram: False
    pair.run(5.0)
    assert pair.epdg.take(CreateChildSaRefused).notify.type == NotifyType.TEMPORARY_FAILURE
    assert len(pair.ue.live.children) == 2
    assert made not in pair.epdg.live.children
    same_children(pair)
