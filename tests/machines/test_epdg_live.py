"""Whose sessions a gateway has, found without looking through those of all others."""

from __future__ import annotations

from epdg.live import Live, SubscriberSessions
from tests.harness.pair import Pair
from tests.machines.test_epdg_session import authenticated, identity, new

IDI, OTHER = "0001010000000001@nai.test", "0001010000000002@nai.test"
AS_THE_AAA_SAYS = "0001010000000002"


def test_sessions_of_a_subscriber_are_found_by_what_the_aaa_server_calls_it() -> None:
    """IDi is only what the UE says (RFC 7296 §2.16): the name may change once, when the AAA server has answered."""
    sa, found = Pair().attach().epdg.live, SubscriberSessions()
    sessions = [new(), new(), new()]
    first, second, stranger = (Live(session, sa, "id") for session in sessions)
    for live, nai in ((first, IDI), (second, OTHER), (stranger, OTHER)):
        live.session.handle(identity(nai=nai), 0.0)
        found.follow(live)
    assert found.beside(first) == ()
    assert found.beside(second) == (stranger,)
    for session in sessions[:2]:
        authenticated(session, user_name=AS_THE_AAA_SAYS)
    found.follow(first)
    found.follow(second)
    found.follow(second)  # nothing new
    assert found.beside(first) == (second,)
    assert found.beside(second) == (first,)
    assert found.beside(stranger) == ()
    found.forget(first)
    found.forget(first)
    assert found.beside(second) == ()
    assert found.beside(first) == (second,)  # it has ended, and asks all the same
