"""The gateway's session machine (TS 33.402 §8.2.2, TS 24.302 §7.4): events in, commands out."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from epdg.commands import (
    AllocateAddress,
    AnswerIke,
    Command,
    ReleaseAddress,
    SendDer,
    SendStr,
    Tell,
)
from epdg.pdn.configuration import GrantedNetwork
from epdg.pdn.pool import AddressPool
from epdg.policy import ServicePolicy
from epdg.refusals import read_refusals
from epdg.session import Session, SessionState
from protocols.diameter.swm import ApnConfiguration, Dea, Result
from protocols.eap.packet import EapPacket, EapType
from protocols.ikev2.events import (
    AddressesUpdated,
    AddressUpdateFailed,
    AddressUpdateStarted,
    AuthenticationKind,
    Closed,
    ConfigurationReply,
    ConfigurationRequested,
    EapReply,
    EapResponseReceived,
    Established,
    IdentityReceived,
    NatStatus,
    Refusal,
    Refused,
)
from protocols.ikev2.payloads import ConfigurationAttribute, IdiPayload, IdrPayload
from protocols.ikev2.registry import ConfigAttributeType, IdType, NotifyType
from protocols.path import Endpoint, Path
from protocols.secret import Secret
from protocols.threegpp.causes import PrivateNotify

NAI = "0001010000000001@nai.epc.mnc001.mcc001.3gppnetwork.org"
PATH = Path(Endpoint.of("203.0.113.1", 4500), Endpoint.of("192.0.2.1", 4500))
OTHER = Path(Endpoint.of("203.0.113.1", 4500), Endpoint.of("198.51.100.1", 4500))
NETWORK = GrantedNetwork(dns=(IPv4Address("10.45.0.1"),), p_cscf=(IPv4Address("10.45.0.9"),))
ADDRESS = IPv4Address("10.45.0.2")
POLICY = ServicePolicy(refusals=read_refusals())


def dea(vendor: int, code: int, **changes: object) -> Dea:
    values: dict[str, object] = {
        "session_id": "s",
        "origin_host": "aaa.test",
        "origin_realm": "test",
        "result": Result(vendor, code),
    }
    values.update(changes)
    return Dea(**values)  # type: ignore[arg-type]


def identity(apn: bytes | None = b"internet", nai: str = NAI) -> IdentityReceived:
    return IdentityReceived(
        identity=IdiPayload(id_type=IdType.ID_RFC822_ADDR, data=nai.encode()),
        responder_identity=None if apn is None else IdrPayload(id_type=IdType.ID_KEY_ID, data=apn),
        configuration=(),
        path=PATH,
    )


def attributes(*kinds: int) -> ConfigurationRequested:
    return ConfigurationRequested(
        identity=identity().identity,
        responder_identity=None,
        configuration=tuple(ConfigurationAttribute(type=ConfigAttributeType(kind), value=b"") for kind in kinds),
    )


def new(**changes: object) -> Session:
    values: dict[str, object] = {
        "default_apn": None,
        "own_names": frozenset({"epdg.test"}),
        "created": 0.0,
        "policy": POLICY,
    }
    values.update(changes)
    return Session("1", **values)  # type: ignore[arg-type]


def one(commands: list[Command], kind: type[Command]) -> Command:
    (found,) = [command for command in commands if isinstance(command, kind)]
    return found


def authenticated(session: Session, **changes: object) -> Session:
    session.handle(identity(), 0.0)
    session.aaa_answered(dea(0, 1001, eap_payload=b"\1\1\0\4"))
    session.handle(EapResponseReceived(packet=b"\2\1\0\4"), 0.0)
    session.aaa_answered(dea(0, 2001, eap_payload=b"\3\1\0\4", master_session_key=Secret(bytes(64)), **changes))
    return session


def test_idi_becomes_an_eap_identity_for_the_aaa_server() -> None:
    session = new()
    der = one(session.handle(identity(), 0.0), SendDer)
    assert isinstance(der, SendDer)
    packet = EapPacket.decode(der.eap_payload)
    assert (packet.type, packet.data, der.user_name, der.apn) == (EapType.IDENTITY, NAI.encode(), NAI, "internet")
    assert session.imsi == "001010000000001"


@pytest.mark.parametrize("kind", [AuthenticationKind.PSK, AuthenticationKind.CERTIFICATE])
def test_a_ue_without_eap_gets_its_address_without_the_aaa_server(kind: AuthenticationKind) -> None:
    """It has proved itself to IKE: from the pool at once, and no STR at the end."""
    session = new()
    (told,) = session.handle(replace(identity(nai="ue-1@example.org"), authentication=kind), 0.0)
    assert isinstance(told, Tell)
    assert told.data["authentication"] == kind.value
    assert session.handle(attributes(ConfigAttributeType.INTERNAL_IP4_ADDRESS), 0.0) == [
        AllocateAddress(apn="internet", versions=(4,))
    ]
    session.address_allocated((IPv4Address("10.45.0.2"),), GrantedNetwork())
    ended = session.handle(Closed(why="done", by_peer=True), 1.0)
    assert not any(isinstance(command, SendStr | SendDer) for command in ended)
    assert ReleaseAddress(apn="internet", address=IPv4Address("10.45.0.2")) in ended


@pytest.mark.parametrize(
    ("asked", "default", "apn"),
    [
        (b"internet", None, "internet"),
        (b"IMS", None, "ims"),
        (b"ims.mnc001.mcc001.gprs", None, "ims"),
        (None, "internet", "internet"),
        (b"epdg.test", "internet", "internet"),
        (b"\xff\xfe", None, "\ufffd\ufffd"),
    ],
)
def test_apn_of_idr(asked: bytes | None, default: str | None, apn: str) -> None:
    """G12: FQDN, KEY_ID, mixed case, operator identifier, absent, the gateway's own name."""
    session = new(default_apn=default)
    session.handle(identity(asked), 0.0)
    assert session.apn == apn


def test_rounds_go_to_the_server_that_answered_with_its_state() -> None:
    session = new()
    session.handle(identity(), 0.0)
    reply = one(session.aaa_answered(dea(0, 1001, eap_payload=b"\1\1\0\4", state=(b"x",))), AnswerIke)
    assert reply == AnswerIke(answer=EapReply(packet=b"\1\1\0\4"))
    der = one(session.handle(EapResponseReceived(packet=b"\2\1\0\4"), 0.0), SendDer)
    assert isinstance(der, SendDer)
    assert (der.destination_host, der.state, der.eap_payload) == ("aaa.test", (b"x",), b"\2\1\0\4")


@pytest.mark.parametrize(
    ("vendor", "code", "notify"),
    [
        (0, 4001, NotifyType.AUTHENTICATION_FAILED),
        (0, 5003, PrivateNotify.AUTHORIZATION_REJECTED),
        (0, 5012, PrivateNotify.NETWORK_FAILURE),
        (0, 3002, PrivateNotify.NETWORK_FAILURE),
        (0, 5001, PrivateNotify.NETWORK_FAILURE),  # AVP_UNSUPPORTED of the base protocol
        (10415, 5001, PrivateNotify.USER_UNKNOWN),
        (10415, 5004, PrivateNotify.PLMN_NOT_ALLOWED),
        (10415, 5450, PrivateNotify.NON_3GPP_ACCESS_TO_EPC_NOT_ALLOWED),
        (10415, 5451, PrivateNotify.NO_APN_SUBSCRIPTION),
        (10415, 5452, PrivateNotify.RAT_TYPE_NOT_ALLOWED),
        (10415, 5554, PrivateNotify.ILLEGAL_ME),
    ],
)
def test_every_result_has_its_notify(vendor: int, code: int, notify: int) -> None:
    """TS 24.302 §7.4.1: base and 3GPP codes are two number spaces."""
    session = new()
    session.handle(identity(), 0.0)
    command = one(session.aaa_answered(dea(vendor, code, eap_payload=b"\4\1\0\4")), AnswerIke)
    assert isinstance(command, AnswerIke)
    assert isinstance(command.answer, Refusal)
    assert int(command.answer.notify.type) == notify
    assert command.answer.eap_packet == b"\4\1\0\4"


def test_success_without_msk_is_no_success() -> None:
    session = new()
    session.handle(identity(), 0.0)
    command = one(session.aaa_answered(dea(0, 2001, eap_payload=b"\3\1\0\4")), AnswerIke)
    assert isinstance(command, AnswerIke)
    assert isinstance(command.answer, Refusal)


def test_what_is_asked_for_is_granted() -> None:
    session = authenticated(new())
    assert session.handle(attributes(1, 3, 20, 16384), 0.0) == [AllocateAddress(apn="internet", versions=(4,))]
    command = one(session.address_allocated((ADDRESS,), NETWORK), AnswerIke)
    assert isinstance(command, AnswerIke)
    assert isinstance(command.answer, ConfigurationReply)
    assert [(int(a.type), a.value) for a in command.answer.attributes] == [
        (1, ADDRESS.packed),
        (3, NETWORK.dns[0].packed),
        (20, NETWORK.p_cscf[0].packed),
        (16384, NETWORK.p_cscf[0].packed),
    ]
    assert [str(s) for s in command.answer.remote_selectors] == ["10.45.0.2"]


def test_static_address_of_the_profile() -> None:
    profile = ApnConfiguration(
        context_identifier=1, service_selection="internet", served_party_addresses=(IPv4Address("10.45.0.77"),)
    )
    session = authenticated(new(), apn_configuration=profile)
    command = one(session.handle(attributes(1), 0.0), AllocateAddress)
    assert command == AllocateAddress(apn="internet", versions=(4,), static=(IPv4Address("10.45.0.77"),))


@pytest.mark.parametrize(
    ("network", "notify"),
    [(NETWORK, NotifyType.INTERNAL_ADDRESS_FAILURE), (None, PrivateNotify.PDN_CONNECTION_REJECTION)],
)
def test_no_address(network: GrantedNetwork | None, notify: int) -> None:
    session = authenticated(new())
    session.handle(attributes(1), 0.0)
    command = one(session.address_allocated((), network), AnswerIke)
    assert isinstance(command, AnswerIke)
    assert isinstance(command.answer, Refusal)
    assert int(command.answer.notify.type) == notify


def established(session: Session) -> Session:
    authenticated(session)
    session.handle(attributes(1), 0.0)
    session.address_allocated((ADDRESS,), NETWORK)
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
    return session


def test_paths_are_kept_with_their_times() -> None:
    session = established(new())
    moved = AddressesUpdated(old=PATH, new=OTHER, nat=NatStatus(remote=True), validated=True)
    tell = one(session.handle(moved, 5.0), Tell)
    assert isinstance(tell, Tell)
    assert (tell.name, tell.data["nat"]) == ("moved", True)
    assert [(use.path, use.since, use.until) for use in session.paths] == [(PATH, 1.0, 5.0), (OTHER, 5.0, None)]


def test_a_move_that_is_never_checked_is_told_with_its_reason() -> None:
    """A UE counts it when the update is answered; the gateway has neither adopted nor refused the address."""
    session, other = established(new()), established(new())
    third = Path(PATH.local, Endpoint.of("203.0.113.9", 4500))

    def told(event: object) -> list[tuple[str, object]]:
        return [(each.name, each.data["why"]) for each in session.handle(event, 5.0) if isinstance(each, Tell)]

    started = [AddressUpdateStarted(old=PATH, new=path, nat=NatStatus()) for path in (OTHER, third)]
    assert told(started[0]) == []
    assert told(started[0]) == []  # the same addresses again
    newer = "a newer move came before the check was answered"
    assert told(started[1]) == [("address-update-unchecked", newer)]
    ended = "the session ended before the check was answered"
    assert told(Closed(why="over")) == [("address-update-unchecked", ended), ("detached", "over")]
    other.handle(started[0], 5.0)
    other.handle(AddressUpdateFailed(old=PATH, new=OTHER, why="not answered"), 6.0)
    assert len([each for each in other.handle(Closed(why="over"), 9.0) if isinstance(each, Tell)]) == 1


@pytest.mark.parametrize(("by_peer", "detach", "cause"), [(True, False, 1), (False, False, 5), (False, True, 4)])
def test_the_end_releases_the_address_and_tells_the_aaa_server(by_peer: bool, detach: bool, cause: int) -> None:
    """RFC 6733 §8.15: logout, link broken, administrative."""
    session = established(new())
    if detach:
        session.detach()
    commands = session.handle(Closed(why="over", by_peer=by_peer), 9.0)
    assert one(commands, ReleaseAddress) == ReleaseAddress(apn="internet", address=ADDRESS)
    end = one(commands, SendStr)
    assert isinstance(end, SendStr)
    assert (end.user_name, end.termination_cause) == (NAI, cause)
    assert session.state is SessionState.CLOSED
    assert session.handle(Closed(why="again"), 9.0)[-1] is not None
    assert not [c for c in session.handle(Closed(why="again"), 9.0) if isinstance(c, SendStr)]


def test_a_ue_that_vanishes_inside_eap_is_taken_off_the_aaa_server() -> None:
    """G24."""
    session = new()
    session.handle(identity(), 0.0)
    session.aaa_answered(dea(0, 1001, eap_payload=b"\1\1\0\4"))
    assert one(session.handle(Closed(why="timeout"), 9.0), SendStr)


def test_a_refused_user_needs_no_str() -> None:
    session = new()
    session.handle(identity(), 0.0)
    session.aaa_answered(dea(10415, 5001))
    session.handle(Refused(text="no", by_peer=False), 0.0)
    assert not [c for c in session.handle(Closed(why="no"), 0.0) if isinstance(c, SendStr)]
    assert session.last_error == ("error", "no")


def test_a_wrong_final_auth_is_followed_by_str() -> None:
    """G23."""
    session = authenticated(new())
    assert one(session.handle(Closed(why="AUTH does not verify"), 0.0), SendStr)


def test_pool() -> None:
    from ipaddress import IPv4Network

    pool = AddressPool(IPv4Network("10.0.0.0/29"))
    first = [pool.allocate() for _ in range(5)]
    assert [str(address) for address in first] == ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
    assert pool.allocate() is None
    pool.release(IPv4Address("10.0.0.3"))
    assert str(pool.allocate()) == "10.0.0.3"
    pool.release(IPv4Address("10.0.0.4"))
    pool.release(IPv4Address("10.0.0.5"))
    assert str(pool.allocate(IPv4Address("10.0.0.5"))) == "10.0.0.5"
    assert str(pool.allocate(IPv4Address("10.0.0.1"))) == "10.0.0.4"
    assert not pool.reserve(IPv4Address("10.0.0.4"))
    assert pool.reserve(IPv4Address("192.0.2.9"))
    assert pool.in_use == 6


@pytest.mark.parametrize(("code", "told"), [(1001, True), (2001, True), (4001, False)])
def test_an_answer_that_comes_after_the_end_leaves_no_session_at_the_aaa_server(code: int, told: bool) -> None:
    """RFC 6733 §8.4: the UE went while the AAA server made up its mind."""
    session = new()
    session.handle(identity(), 0.0)
    assert not [c for c in session.handle(Closed(why="over", by_peer=True), 9.0) if isinstance(c, SendStr)]
    late = session.aaa_answered(dea(0, code, eap_payload=b"\3\1\0\4", master_session_key=Secret(bytes(64))))
    assert [type(command) for command in late] == ([SendStr] if told else [])
    assert session.aaa_failed("no answer") == []


@pytest.mark.parametrize("answer", [1001, 2001, 4001, None])
def test_a_ue_that_vanishes_while_the_aaa_server_is_asked_is_told_of_once(answer: int | None) -> None:
    """RFC 6733 §8.4: in the second round the server has the session; STR follows its answer, and once."""
    session = new()
    session.handle(identity(), 0.0)
    session.aaa_answered(dea(0, 1001, eap_payload=b"\1\1\0\4"))
    session.handle(EapResponseReceived(packet=b"\2\1\0\4"), 0.0)
    commands = session.handle(Closed(why="over", by_peer=True), 9.0)
    assert not [command for command in commands if isinstance(command, SendStr)]
    if answer is None:
        commands = session.aaa_failed("no answer")
    else:
        commands = session.aaa_answered(dea(0, answer, eap_payload=b"\3\1\0\4"))
    assert [type(command) for command in commands] == ([] if answer == 4001 else [SendStr])
    assert session.aaa_failed("again") == []


def test_a_session_is_the_subscribers_that_the_aaa_server_names() -> None:
    """RFC 7296 §2.16: IDi is what the UE says; what EAP authenticated may be another."""
    honest = authenticated(new(), user_name="001010000000001")
    liar = authenticated(new(), user_name="001010000000002")
    assert honest.nai == liar.nai
    assert honest.subscriber != liar.subscriber
