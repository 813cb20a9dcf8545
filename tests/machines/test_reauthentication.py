"""Repeated authentication in pairs on virtual time (RFC 4478)."""

from __future__ import annotations

from protocols.ikev2.config import Lifetime
from protocols.ikev2.events import ChildSaRemoved, Closed, Established, ReauthenticationDue
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.ikev2.tasks.reauthentication import AuthenticationLifetime
from protocols.path import Path
from tests.harness.pair import ACCESS_A, GATEWAY, Pair, initiator_config, responder_config


def test_auth_lifetime_is_in_the_last_ike_auth_response_and_nowhere_else() -> None:
    """§2."""
    pair = Pair(epdg=responder_config(authentication_lifetime=1000.0)).attach()
    announcing = [line for line in pair.wire if "AUTH_LIFETIME" in line]
    assert len(announcing) == 1
    assert announcing[0].startswith("<-- IKE_AUTH response 3 [ AUTH, ")
    assert not any("AUTH_LIFETIME" in line for line in Pair().attach().wire)


def test_the_initiator_is_told_in_time_and_again_until_it_is_over_then_the_gateway_deletes() -> None:
    """§2, §4: an initiator that does nothing about it loses the SA soon after the end."""
    pair = Pair(epdg=responder_config(authentication_lifetime=1000.0)).attach()
    pair.run(890.0)
    assert not pair.ue.has(ReauthenticationDue)
    pair.run(10.0)
    assert 1000.0 <= pair.ue.take(ReauthenticationDue).until <= 1000.2
    pair.run(99.0)
    assert len([e for e in pair.ue.events if isinstance(e, ReauthenticationDue)]) == 3
    assert not pair.epdg.has(Closed)
    pair.run(15.0)
    assert "authentication lifetime" in pair.epdg.take(Closed).why
    assert pair.ue.take(Closed).by_peer


def test_changed_policy_is_told_in_an_informational_exchange() -> None:
    """§2; "the lifetime is zero": at once, and the responder allows a reasonable time."""
    pair = Pair().attach()
    pair.epdg.endpoint.initiate(pair.epdg.live, AuthenticationLifetime(500.0), pair.now)
    pair.run(1.0)
    assert "<-- INFORMATIONAL request 0 [ N(AUTH_LIFETIME) ]" in pair.wire
    assert "--> INFORMATIONAL response 0 [ ]" in pair.wire
    assert not pair.ue.has(ReauthenticationDue)
    pair.epdg.endpoint.initiate(pair.epdg.live, AuthenticationLifetime(0.0), pair.now)
    pair.run(1.0)
    assert pair.ue.take(ReauthenticationDue)
    pair.run(50.0)
    assert pair.ue.take(ReauthenticationDue)  # again: the UE may have been moving
    assert not pair.epdg.has(Closed)
    pair.run(10.0)
    assert pair.epdg.has(Closed)


def test_the_limit_passes_to_the_sa_that_a_rekey_makes() -> None:
    """§2: "If the IKE SA is rekeyed, then the time limit applies to the new SA"."""
    often = {"ike_lifetime": Lifetime(soft=100.0)}
    pair = Pair(initiator_config(**often), responder_config(authentication_lifetime=1000.0)).attach()
    pair.run(896.0)
    assert pair.ue.take(ReauthenticationDue)
    pair.run(115.0)
    assert pair.epdg.endpoint.sas == pair.ue.endpoint.sas == {}


def test_the_initiator_imposes_nothing_on_the_responder() -> None:
    """§2: it is "the original Responder that sends" it; from the initiator it means nothing."""
    pair = Pair().attach()
    pair.ue.endpoint.initiate(pair.ue.live, AuthenticationLifetime(10.0), pair.now)
    pair.run(1.0)
    assert pair.epdg.live.authenticated_until == float("inf")


def test_make_before_break() -> None:
    """RFC 7296 §2.8.3: a new IKE SA without INITIAL_CONTACT, then the old one is deleted; the new one has new time."""
    pair = Pair(initiator_config(initial_contact=False), responder_config(authentication_lifetime=1000.0)).attach()
    assert not any("INITIAL_CONTACT" in line for line in pair.wire)
    old = pair.ue.live
    pair.run(900.0)
    new = pair.ue.endpoint.connect(pair.ue_config, Path(ACCESS_A, GATEWAY), pair.now)
    pair.run(5.0)
    assert len(pair.epdg.endpoint.sas) == 2
    assert len([e for e in pair.ue.events if isinstance(e, Established)]) == 2
    pair.ue.endpoint.initiate(old, DeleteIkeSa("reauthenticated"), pair.now)
    pair.run(300.0)
    assert list(pair.ue.endpoint.sas.values()) == [new]
    assert len([e for e in pair.epdg.events if isinstance(e, ChildSaRemoved)]) == 1
    assert new.authenticated_until > 1900.0
