"""BEET mode negotiated between two ends on virtual time: agreed, refused, rekeyed, moved (RFC 7296 §1.3.1's way)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.esp.sa import EspMode
from protocols.ikev2.events import ChildSaInstalled, Established, SaState
from protocols.ikev2.tasks.create_child import CreateChild
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.selectors import TrafficSelector
from tests.harness.pair import ACCESS_B, INNER, Pair, initiator_config, responder_config

SERVER = TrafficSelector.host("192.0.2.80")
NETWORK = TrafficSelector.network("192.0.2.0/24")
BEET = "N(UNKNOWN_40961)"


def pair_of(ue: bool, epdg: bool, remote: TrafficSelector = SERVER) -> Pair:
    return Pair(initiator_config(beet=ue, remote_selectors=(remote,)), responder_config(beet=epdg))


def modes(pair: Pair) -> set[EspMode]:
    """Of the child SAs in use, at both ends."""
    children = (one for node in (pair.ue, pair.epdg) for one in node.live.children.values())
    return {one.spec.mode for one in children if not one.replaced}


def test_agreed_in_rfc_notation() -> None:
    """IKE_AUTH [.., N(USE_BEET_MODE), SA, TSi, TSr], after V in IKE_SA_INIT has said what that means."""
    pair = pair_of(True, True).attach()
    assert modes(pair) == {EspMode.BEET}
    asked = [line for line in pair.wire if BEET in line]
    assert ["-->" in line for line in asked] == [True, False]
    assert f"{BEET}, SAi2, TSi, TSr" in asked[0]
    assert f"{BEET}, SAr2, TSi, TSr" in asked[1]
    assert [line.endswith(", V ]") for line in pair.wire[:2]] == [True, True]
    spec = pair.epdg.take(ChildSaInstalled).spec
    assert spec.mode is EspMode.BEET
    assert (spec.local_selectors, spec.remote_selectors) == ((SERVER,), (TrafficSelector.host(INNER),))


@pytest.mark.parametrize(
    ("ue", "epdg", "remote"),
    [(True, False, SERVER), (False, True, SERVER), (True, True, NETWORK), (False, False, SERVER)],
    ids=["the gateway does not allow it", "the UE does not ask", "a network behind the gateway", "neither"],
)
def test_else_it_is_tunnel_mode(ue: bool, epdg: bool, remote: TrafficSelector) -> None:
    pair = pair_of(ue, epdg, remote).attach()
    assert pair.ue.take(Established)
    assert modes(pair) == {EspMode.TUNNEL}
    agreed = [line for line in pair.wire if BEET in line and "<--" in line]
    assert agreed == []


def test_nothing_shows_where_it_is_off() -> None:
    """Neither Vendor ID nor Notify, so that default configurations look as they always have."""
    pair = pair_of(False, True).attach()
    assert not [line for line in pair.wire if BEET in line or " V" in line]


def test_without_the_vendor_id_the_number_means_nothing() -> None:
    """§3.10.1: types of private use; a peer that does not say whose it uses gets tunnel mode."""
    pair = pair_of(False, True)
    pair.start()
    pair.ue.live.config = replace(pair.ue.live.config, beet=True)  # once IKE_SA_INIT has left without V
    pair.run(5.0)
    asked = [line for line in pair.wire if BEET in line]
    assert ["-->" in line for line in asked] == [True]
    assert modes(pair) == {EspMode.TUNNEL}


@pytest.mark.parametrize("end", ["ue", "epdg"])
def test_a_rekey_keeps_the_mode(end: str) -> None:
    """Whoever rekeys, and after a rekey of the IKE SA too."""
    pair = pair_of(True, True).attach()
    for _ in range(2):
        node = pair.ue if end == "ue" else pair.epdg
        (spi,) = (spi for spi, one in node.live.children.items() if not one.replaced)
        node.endpoint.initiate(node.live, RekeyChild(spi), pair.now)
        pair.run(5.0)
        assert modes(pair) == {EspMode.BEET}
        node.endpoint.initiate(node.live, RekeyIke(), pair.now)
        pair.run(5.0)


def test_a_rekey_of_a_tunnel_is_a_tunnel() -> None:
    """Also where both would agree to BEET mode by now."""
    pair = pair_of(False, True).attach()
    pair.ue.live.config = replace(pair.ue.live.config, beet=True)
    (spi,) = pair.ue.live.children
    pair.ue.endpoint.initiate(pair.ue.live, RekeyChild(spi), pair.now)
    pair.run(5.0)
    assert modes(pair) == {EspMode.TUNNEL}


def test_an_additional_child_sa_asks_by_its_own_selectors() -> None:
    pair = pair_of(True, True).attach()
    for node in (pair.ue, pair.epdg):
        node.take(ChildSaInstalled)
    for remote, mode in ((TrafficSelector.host("192.0.2.81"), EspMode.BEET), (NETWORK, EspMode.TUNNEL)):
        task = CreateChild((TrafficSelector.host(INNER),), (remote,))
        pair.ue.endpoint.initiate(pair.ue.live, task, pair.now)
        pair.run(1.0)
        for node in (pair.ue, pair.epdg):
            assert node.take(ChildSaInstalled).spec.mode is mode


def test_a_move_leaves_the_mode() -> None:
    """RFC 4555 §3.5: only addresses change; the inner ones are the SA's."""
    pair = pair_of(True, True).attach()
    before = {one.spec.inbound_spi for one in pair.ue.live.children.values()}
    pair.roam(ACCESS_B)
    pair.run(1.0)
    assert modes(pair) == {EspMode.BEET}
    assert {one.spec.inbound_spi for one in pair.ue.live.children.values()} == before
    assert pair.ue.live.state is SaState.ESTABLISHED
