"""The gateway's session machine: UEs sent elsewhere (RFC 5685), sessions resumed by ticket (RFC 5723)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from epdg.commands import (
    AllocateAddress,
    AnswerIke,
    ReleaseAddress,
    SendStr,
    Tell,
)
from epdg.config import RedirectSection, ResumptionSection
from epdg.resumption import ResumedSubscriber, ticket_office
from epdg.session import Session
from protocols.errors import ConfigurationError, RemoteError
from protocols.ikev2.events import (
    Closed,
    ConfigurationReply,
    Established,
    NatStatus,
    PeerRedirected,
    RedirectReply,
    Refusal,
)
from protocols.ikev2.redirection import RedirectStage
from protocols.ikev2.registry import NotifyType
from tests.machines.test_epdg_session import ADDRESS, NETWORK, PATH, attributes, authenticated, identity, new, one

OTHER = IPv4Address("203.0.113.2")


def established(session: Session) -> bytes:
    """The session goes on to be established; the octets for its ticket."""
    session.handle(attributes(1), 0.0)
    answer = one(session.address_allocated((ADDRESS,), NETWORK), AnswerIke)
    assert isinstance(answer, AnswerIke)
    assert isinstance(answer.answer, ConfigurationReply)
    session.handle(
        Established(
            identity=identity().identity,
            responder_identity=None,
            configuration=(),
            mobike=True,
            nat=NatStatus(),
            path=PATH,
            requests=0,
        ),
        1.0,
    )
    assert answer.answer.session is not None
    return answer.answer.session


def test_ue_is_redirected_once_it_is_authenticated() -> None:
    """§6, §11: by the identity that the AAA server has accepted; no address is taken."""
    session = authenticated(new(elsewhere=OTHER))
    commands = session.handle(replace(attributes(1), redirectable=True), 0.0)
    assert commands == [AnswerIke(answer=RedirectReply(OTHER))]
    told = one(session.handle(PeerRedirected(gateway=OTHER, stage=RedirectStage.AUTHENTICATION), 0.0), Tell)
    assert isinstance(told, Tell)
    assert "203.0.113.2" in told.text
    assert one(session.handle(Closed(why="redirected", by_peer=True), 0.0), SendStr)  # the AAA server is told


def test_ue_that_cannot_be_redirected_is_served() -> None:
    """§3."""
    assert one(authenticated(new(elsewhere=OTHER)).handle(attributes(1), 0.0), AllocateAddress)


def test_resumed_session_is_the_same_subscriber_with_the_same_address() -> None:
    former = authenticated(new(), user_name="0001010000000001@nai.epc", session_timeout=600)
    ticket = established(former)
    session = new(created=100.0)
    commands = session.handle(replace(attributes(1), resumed=ticket), 100.0)
    assert commands == [AllocateAddress(apn="internet", versions=(4,), wanted=(ADDRESS,))]
    assert (session.subscriber, session.imsi, session.apn) == (former.subscriber, former.imsi, former.apn)
    assert session.session_timeout == 500  # what is left of the AAA server's time


def test_former_session_that_is_still_there_hands_the_aaa_session_on() -> None:
    """No STR for the former one; the resumed one sends it at its own end."""
    former = authenticated(new())
    ticket = established(former)
    ended = former.handle(Closed(why="resumed", resumed=True), 2.0)
    assert not [command for command in ended if isinstance(command, SendStr)]
    assert [command for command in ended if isinstance(command, ReleaseAddress)]
    session = new()
    session.inherit(former)
    session.handle(replace(attributes(1), resumed=ticket), 2.0)
    assert one(session.handle(Closed(why="done", by_peer=True), 3.0), SendStr)


def test_session_resumed_after_its_end_was_told_sends_no_second_str() -> None:
    session = new()
    session.handle(replace(attributes(1), resumed=established(authenticated(new()))), 2.0)
    commands = session.handle(Closed(why="done", by_peer=True), 3.0)
    assert not [command for command in commands if isinstance(command, SendStr)]


@pytest.mark.parametrize("fault", ["time over", "not ours", "other fields"])
def test_session_that_cannot_be_resumed_is_refused(fault: str) -> None:
    ticket = established(authenticated(new(), session_timeout=600))
    octets = {"time over": ticket, "not ours": b"\xff", "other fields": b'{"nai":"x"}'}[fault]
    commands = new().handle(replace(attributes(1), resumed=octets), 601.0)
    answer = one(commands, AnswerIke)
    assert isinstance(answer, AnswerIke)
    assert isinstance(answer.answer, Refusal)
    assert answer.answer.notify.type == NotifyType.AUTHENTICATION_FAILED


@pytest.mark.parametrize(
    "octets",
    [b"[]", b"{}", b"\x00", b'{"nai":"a","user_name":null,"imsi":null,"apn":"x","addresses":["y"],"until":null}'],
)
def test_octets_that_are_no_session(octets: bytes) -> None:
    with pytest.raises(RemoteError):
        ResumedSubscriber.decode(octets)


def test_ticket_secret_file(tmp_path: Path) -> None:
    """One line that names file and key."""
    secret = tmp_path / "ticket.secret"
    with pytest.raises(ConfigurationError, match=r"ike.resumption.secret_file"):
        ticket_office(secret, 3600.0, 86400.0, lambda: 0.0)
    secret.write_bytes(b"short")
    with pytest.raises(ConfigurationError, match="5 octets"):
        ticket_office(secret, 3600.0, 86400.0, lambda: 0.0)
    secret.write_bytes(bytes(32))
    assert ticket_office(secret, 3600.0, 86400.0, lambda: 0.0).policy.lifetime == 3600.0


def test_configuration_sections() -> None:
    with pytest.raises(ValueError, match="at most key_interval"):
        ResumptionSection(secret_file=Path("x"), lifetime=10.0, key_interval=5.0)
    assert RedirectSection.model_validate({"gateway": "203.0.113.2"}).gateway == OTHER
    assert RedirectSection.model_validate({"gateway": "gw.example"}).gateway == "gw.example"
    with pytest.raises(ValueError):
        RedirectSection.model_validate({"gateway": "no name"})
