"""Childless IKE SAs in pairs on virtual time (RFC 6023)."""

from __future__ import annotations

import pytest

from protocols.ikev2.events import ChildSaInstalled, Closed, Established, SaState
from protocols.ikev2.message import decode_message
from protocols.ikev2.payloads import Payload, SaPayload, TsiPayload
from protocols.ikev2.registry import ExchangeType, NotifyType, ProtocolId
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.selectors import TrafficSelector
from tests.harness.pair import ACCESS_B, Pair, initiator_config, responder_config
from tests.machines.test_ike_sa import forge


def childless_pair(ue: bool = True, epdg: bool = True) -> Pair:
    liveness = {"liveness_interval": 20.0}
    return Pair(initiator_config(childless=ue, **liveness), responder_config(childless=epdg, **liveness))


def test_childless_ike_sa() -> None:
    """§5: without SA, TSi and TSr, with the configuration."""
    pair = childless_pair().attach()
    announced = decode_message(pair.seen[1][1].payload).notify(NotifyType.CHILDLESS_IKEV2_SUPPORTED)
    assert announced is not None
    assert announced.protocol == ProtocolId.IKE  # §4
    assert announced.spi == b""
    assert pair.wire[2] == (
        "--> IKE_AUTH request 1 [ IDi, CERTREQ, IDr, N(INITIAL_CONTACT), N(MOBIKE_SUPPORTED), CP(CFG_REQUEST) ]"
    )
    assert pair.wire[-1] == "<-- IKE_AUTH response 3 [ AUTH, CP(CFG_REPLY), N(MOBIKE_SUPPORTED) ]"
    for node in (pair.ue, pair.epdg):
        assert node.take(Established).configuration
        assert not node.has(ChildSaInstalled)
        assert node.live.children == {}


def test_childless_ike_sa_lives_and_is_deleted() -> None:
    pair = childless_pair().attach()
    pair.run(600.0)
    assert pair.wire.count("--> INFORMATIONAL request 4 [ ]") == 1
    assert pair.ue.live.state is pair.epdg.live.state is SaState.ESTABLISHED
    pair.ue.endpoint.initiate(pair.ue.live, DeleteIkeSa("done"), pair.now)
    pair.run(1.0)
    assert pair.epdg.take(Closed).by_peer
    assert pair.ue.endpoint.sas == pair.epdg.endpoint.sas == {}


def test_childless_ike_sa_moves() -> None:
    """RFC 4555 needs no child SA."""
    pair = childless_pair().attach()
    pair.roam(ACCESS_B)
    pair.run(2.0)
    assert pair.epdg.live.path.remote.address == ACCESS_B.address


@pytest.mark.parametrize(("ue", "epdg"), [(True, False), (False, True), (False, False)])
def test_both_must_be_configured(ue: bool, epdg: bool) -> None:
    """§3: the initiator MUST NOT leave it out unannounced; the responder MUST NOT where the initiator did not."""
    pair = childless_pair(ue, epdg).attach()
    announced = decode_message(pair.seen[1][1].payload).notify(NotifyType.CHILDLESS_IKEV2_SUPPORTED)
    assert (announced is not None) is epdg
    assert pair.wire[2].endswith("SAi2, TSi, TSr ]")
    assert len(pair.ue.live.children) == len(pair.epdg.live.children) == 1


@pytest.mark.parametrize("fault", ["unannounced", "SA alone", "TSi alone"])
def test_modified_ike_auth_that_is_not_allowed_is_invalid_syntax(fault: str) -> None:
    """§3: SHOULD reply with INVALID_SYNTAX; half a child SA is refused in any case."""
    pair = childless_pair(epdg=fault != "unannounced")
    pair.lose = lambda sender, datagram: datagram.payload[18] == ExchangeType.IKE_AUTH
    pair.start()
    pair.run(0.1)
    half: dict[str, tuple[Payload, ...]] = {
        "SA alone": (SaPayload(pair.epdg.live.config.esp_policy.proposals(b"\1\2\3\4", with_group=False)),),
        "TSi alone": (TsiPayload((TrafficSelector.network("0.0.0.0/0"),)),),
    }
    identity = pair.ue_config.identity
    request = forge(pair, "ue", ExchangeType.IKE_AUTH, identity, *half.get(fault, ()), message_id=1)
    pair.epdg.endpoint.receive(request, pair.now)
    pair.run(0.0)
    assert pair.wire[-1] == "<-- IKE_AUTH response 1 [ N(INVALID_SYNTAX) ]"
    assert pair.epdg.endpoint.sas == {}
