"""Session resumption in pairs on virtual time (RFC 5723): tickets, IKE_SESSION_RESUME, keys, replays, refusals."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from protocols.entropy import SeededEntropy
from protocols.errors import LocalError, RemoteError
from protocols.ikev2.config import Lifetime
from protocols.ikev2.endpoint import IkeEndpoint
from protocols.ikev2.events import (
    ChildSaInstalled,
    Closed,
    ConfigurationReply,
    ConfigurationRequested,
    EapReply,
    EapRequestReceived,
    Established,
    Event,
    IdentityReceived,
    Redirected,
    Refusal,
    Refused,
    Resumed,
    SaState,
    TicketReceived,
    TicketRejected,
)
from protocols.ikev2.extension import NoExtension, Step
from protocols.ikev2.message import decode_message, encode_message
from protocols.ikev2.payloads import DeletePayload, IdiPayload, IdrPayload, NotifyPayload, Payload
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.ikev2.redirection import GatewayIdentity, RedirectObedience
from protocols.ikev2.registry import ExchangeType, IdType, NotifyType, ProtocolId
from protocols.ikev2.suites import EspSuite, IkeSuite
from protocols.ikev2.tasks.informational import DeleteIkeSa
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.ikev2.tasks.tickets import RequestTicket
from protocols.ikev2.ticket import ResumableSession, TicketContents, TicketOffice, TicketPolicy
from protocols.path import Datagram, Endpoint
from protocols.secret import Secret
from protocols.threegpp.swu import DeviceSwu, GatewaySwu
from tests.harness.pair import ACCESS_A, ACCESS_B, Node, Pair, answer_as_gateway, initiator_config, responder_config
from tests.machines.test_ike_sa import forge

SECRET = Secret(b"ticket secret of the gateway 32+")
DATA = b"subscriber 1, internet"


class Clock:
    """The gateway's wall clock."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def office(clock: Clock, secret: Secret = SECRET, **changes: object) -> TicketOffice:
    return TicketOffice(TicketPolicy(secret=secret, wall=clock, **changes))  # type: ignore[arg-type]


def answer_with_session(event: Event) -> object:
    """The script of the pair; the node's own octets go into the ticket."""
    reply = answer_as_gateway(event)
    return replace(reply, session=DATA) if isinstance(reply, ConfigurationReply) else reply


def resumable(
    tickets: TicketOffice, answers: Callable[[Event], object] = answer_with_session, **changes: object
) -> Pair:
    pair = Pair(initiator_config(resumption=True), responder_config(tickets=tickets, **changes))
    pair.epdg.answers = answers
    return pair


def lose_sa(pair: Pair) -> ResumableSession:
    """The UE attaches and then loses the SA without a word to the gateway."""
    pair.attach()
    session = pair.ue.take(TicketReceived).session
    pair.ue.endpoint.close(pair.ue.live, "lost", pair.now)
    pair.run(0.0)
    pair.ue.events.clear()
    pair.epdg.events.clear()
    pair.wire.clear()
    return session


def resume(pair: Pair, session: ResumableSession, at: Endpoint = ACCESS_A, seconds: float = 5.0) -> None:
    """A new attempt with the ticket."""
    pair.ue_config = replace(pair.ue_config, session=session)
    pair.ue.sa = None
    pair.start(at)
    pair.run(seconds)


def another_gateway(pair: Pair, tickets: TicketOffice, **changes: object) -> None:
    """The gateway's process starts anew: it knows nothing but its configuration."""
    endpoint = IkeEndpoint(entropy=SeededEntropy("restarted"), responder=responder_config(tickets=tickets, **changes))
    pair.epdg = Node("epdg", endpoint, answers=answer_with_session)


# --- asking


def test_ticket_in_ike_auth() -> None:
    """§4.1, §4.2: asked for in the first IKE_AUTH request, granted in the last response, with its lifetime."""
    pair = resumable(office(Clock(), lifetime=600.0)).attach()
    assert "N(TICKET_REQUEST)" in pair.wire[2]
    assert [("N(TICKET_LT_OPAQUE)" in line) for line in pair.wire[3:]] == [False] * 4 + [True]
    session = pair.ue.take(TicketReceived).session
    assert session.expires == pytest.approx(pair.ue.live.created + 600.0, abs=1.0)
    assert DATA not in session.ticket
    assert pair.ue_config.identity.data not in session.ticket  # §6.1: encrypted
    assert pair.ue.live.keys is not None
    assert pair.ue.live.keys.sk_d.reveal() not in session.ticket
    assert "Secret(" in repr(session)


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({"authentication_lifetime": 300.0}, 300),
        ({"ike_lifetime": Lifetime(soft=100.0, hard=200.0)}, 200),
        ({}, 600),
    ],
)
def test_ticket_lives_no_longer_than_the_ike_sa_and_its_authentication(limits: dict[str, object], seconds: int) -> None:
    """§6.2: SHOULD be the minimum; later tickets have what is left."""
    pair = resumable(office(Clock(), lifetime=600.0), **limits).attach()
    session = pair.ue.take(TicketReceived).session
    assert session.expires - pair.ue.live.created == pytest.approx(seconds, abs=1.0)
    if "authentication_lifetime" in limits:
        pair.run(100.0)
        pair.ue.endpoint.initiate(pair.ue.live, RequestTicket(), pair.now)
        pair.run(1.0)
        assert pair.ue.take(TicketReceived).session.expires <= session.expires


def test_no_ticket_unasked_or_where_it_is_off() -> None:
    pair = Pair(epdg=responder_config(tickets=office(Clock()))).attach()
    assert not any("TICKET" in line for line in pair.wire)
    pair = Pair(initiator_config(resumption=True)).attach()
    assert not any("TICKET_LT" in line or "TICKET_NACK" in line for line in pair.wire)
    assert pair.ue.has(Established)


def test_gateway_may_refuse_a_ticket() -> None:
    """§4.1: N(TICKET_NACK), and the exchange goes on as ever."""

    def no_ticket(event: Event) -> object:
        reply = answer_as_gateway(event)
        return replace(reply, session=None) if isinstance(reply, ConfigurationReply) else reply

    pair = resumable(office(Clock()), no_ticket).attach()
    assert "N(TICKET_NACK)" in pair.wire[-1]
    assert pair.ue.has(Established)
    assert not pair.ue.has(TicketReceived)


def test_ticket_by_informational_and_before_it_expires() -> None:
    """§4.1: at any time, by the client; the one before is revoked with it."""
    tickets = office(Clock(), lifetime=400.0)
    pair = resumable(tickets).attach()
    first = pair.ue.take(TicketReceived).session
    pair.ue.endpoint.initiate(pair.ue.live, RequestTicket(), pair.now)
    pair.run(1.0)
    assert pair.wire[-2:] == [
        "--> INFORMATIONAL request 4 [ N(TICKET_REQUEST) ]",
        "<-- INFORMATIONAL response 4 [ N(TICKET_LT_OPAQUE) ]",
    ]
    second = pair.ue.take(TicketReceived).session
    with pytest.raises(RemoteError, match="spent"):
        tickets.open(first.ticket)
    assert tickets.open(second.ticket).data == DATA
    pair.run(300.0)
    assert pair.ue.take(TicketReceived).session.expires > second.expires
    pair.epdg.endpoint.initiate(pair.epdg.live, RequestTicket(), pair.now)  # not the client: nothing is sent
    count = len(pair.wire)
    pair.run(1.0)
    assert len(pair.wire) == count


def test_rekey_invalidates_the_ticket_at_once() -> None:
    """§6.2: not only when the old SA is deleted, which may take its time."""
    tickets = office(Clock())
    pair = resumable(tickets).attach()
    first = pair.ue.take(TicketReceived).session
    pair.lose = lambda sender, datagram: datagram.payload[18] == ExchangeType.INFORMATIONAL
    pair.ue.endpoint.initiate(pair.ue.live, RekeyIke(), pair.now)
    pair.run(0.1)
    with pytest.raises(RemoteError, match="spent"):
        tickets.open(first.ticket)


@pytest.mark.parametrize("data", ["", "000000", "00000e10", "00000000aabb"])
def test_ticket_that_is_none_is_left_alone(data: str) -> None:
    """§7.1: four octets of lifetime, then the ticket; the SA needs neither."""
    pair = resumable(office(Clock())).attach()
    pair.ue.take(TicketReceived)
    pair.lose = lambda sender, datagram: sender == "ue"
    pair.ue.endpoint.initiate(pair.ue.live, RequestTicket(), pair.now)
    pair.run(0.0)
    notify = NotifyPayload(type=NotifyType.TICKET_LT_OPAQUE, data=bytes.fromhex(data))
    response = forge(pair, "epdg", ExchangeType.INFORMATIONAL, notify, message_id=4, response=True)
    pair.ue.endpoint.receive(response, pair.now)
    pair.run(0.0)
    assert pair.ue.live.dropped["ticket-malformed"] == 1
    assert not pair.ue.has(TicketReceived)
    assert pair.ue.live.state is SaState.ESTABLISHED


# --- resuming


def test_resumption_in_rfc_notation() -> None:
    """§4.3: two round trips, no EAP, no certificate, a new ticket; the former SA goes in silence (§4.3.4)."""
    pair = resumable(office(Clock()))
    session = lose_sa(pair)
    former = pair.epdg.live
    resume(pair, session, ACCESS_B)
    assert pair.wire == [
        "--> IKE_SESSION_RESUME request 0 [ Ni, N(TICKET_OPAQUE), N(NAT_DETECTION_SOURCE_IP), "
        "N(NAT_DETECTION_DESTINATION_IP), N(IKEV2_FRAGMENTATION_SUPPORTED) ]",
        "<-- IKE_SESSION_RESUME response 0 [ Nr, N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), "
        "N(IKEV2_FRAGMENTATION_SUPPORTED) ]",
        "--> IKE_AUTH request 1 [ IDi, AUTH, N(TICKET_REQUEST), N(MOBIKE_SUPPORTED), CP(CFG_REQUEST), SAi2, TSi, TSr ]",
        "<-- IKE_AUTH response 1 [ IDr, AUTH, CP(CFG_REPLY), SAr2, TSi, TSr, N(MOBIKE_SUPPORTED), "
        "N(TICKET_LT_OPAQUE) ]",
    ]
    asked = pair.epdg.take(ConfigurationRequested)
    assert asked.resumed == DATA
    assert asked.identity == pair.ue_config.identity
    assert not pair.epdg.has(IdentityReceived)
    assert not pair.ue.has(EapRequestReceived)
    assert former.state is SaState.CLOSED
    assert not former.children
    assert pair.epdg.take(Closed).why == "the peer has resumed it in a new SA"
    assert pair.epdg.endpoint.sas == {pair.epdg.live.local_spi: pair.epdg.live}
    ue = pair.ue.take(Established)
    assert ue.mobike
    assert ue.path.local.address == ACCESS_B.address
    assert ue.path.local.port == 4500
    ours, theirs = pair.ue.take(ChildSaInstalled).spec, pair.epdg.take(ChildSaInstalled).spec
    assert ours.inbound_encryption_key == theirs.outbound_encryption_key
    again = pair.ue.take(TicketReceived).session
    assert again.ticket != session.ticket
    assert again.sk_d != session.sk_d


def test_key_material_of_a_resumed_sa() -> None:
    """§5.1: SKEYSEED = prf(SK_d (old), "Resumption" | Ni | Nr); SPIs are new; §5: the suite is the ticket's."""
    pair = resumable(office(Clock()))
    session = lose_sa(pair)
    old = pair.epdg.live
    resume(pair, session)
    ue, epdg = pair.ue.live, pair.epdg.live
    assert ue.keys == epdg.keys
    assert ue.suite == old.suite
    assert {ue.spi_i, ue.spi_r}.isdisjoint({old.spi_i, old.spi_r})
    seed = hmac.digest(session.sk_d.reveal(), b"Resumption" + ue.nonce_i + ue.nonce_r, "sha256")
    context = ue.nonce_i + ue.nonce_r + ue.spi_i + ue.spi_r
    assert ue.keys is not None
    assert ue.keys.sk_d.reveal() == hmac.digest(seed, context + b"\1", "sha256")


@pytest.mark.parametrize("sender", ["ue", "epdg"])
@pytest.mark.parametrize("number", range(2))
def test_any_one_datagram_of_a_resumption_may_be_lost(sender: str, number: int) -> None:
    pair = resumable(office(Clock()))
    session = lose_sa(pair)
    count = [0]

    def lose(who: str, datagram: Datagram) -> bool:
        del datagram
        count[0] += who == sender
        return who == sender and count[0] == number + 1

    pair.lose = lose
    resume(pair, session)
    assert pair.ue.live.state is pair.epdg.live.state is SaState.ESTABLISHED
    assert pair.ue.live.keys == pair.epdg.live.keys
    assert len([e for e in pair.epdg.events if isinstance(e, ConfigurationRequested)]) == 1


def test_resumed_sa_moves_and_dies_as_any_other() -> None:
    pair = resumable(office(Clock()))
    resume(pair, lose_sa(pair))
    pair.roam(ACCESS_B)
    pair.run(2.0)
    assert pair.epdg.live.path.remote.address == ACCESS_B.address
    pair.ue.endpoint.initiate(pair.ue.live, DeleteIkeSa("done"), pair.now)
    pair.run(1.0)
    assert pair.epdg.endpoint.sas == {}


def test_cookie_in_ike_session_resume() -> None:
    """§4.3.2: the first message may be rejected with a COOKIE."""
    pair = resumable(office(Clock()), cookie_threshold=0)
    resume(pair, lose_sa(pair))
    assert pair.wire[0].startswith("--> IKE_SESSION_RESUME request 0 [ Ni, N(TICKET_OPAQUE)")
    assert pair.wire[1].startswith("--> IKE_SESSION_RESUME request 0 [ N(COOKIE), Ni, N(TICKET_OPAQUE)")
    assert decode_message(pair.seen[-3][1].payload).exchange is ExchangeType.IKE_SESSION_RESUME
    assert pair.ue.live.state is SaState.ESTABLISHED


def test_gateway_that_was_restarted_resumes() -> None:
    """Keys come from the configured secret: a ticket by value needs no memory."""
    clock = Clock()
    pair = resumable(office(clock))
    session = lose_sa(pair)
    another_gateway(pair, office(clock))
    resume(pair, session)
    assert pair.epdg.take(ConfigurationRequested).resumed == DATA
    assert pair.ue.live.state is SaState.ESTABLISHED


# --- tickets that are not accepted


def nacked(pair: Pair) -> None:
    """§4.3.2: unprotected, SPI zero, nothing kept; a full exchange follows and succeeds."""
    nack = next(m for m in (decode_message(d.payload) for s, d in pair.seen if s == "epdg") if m.exchange == 38)
    assert [p.type for p in nack.all(NotifyPayload)] == [NotifyType.TICKET_NACK]
    assert nack.spi_r == bytes(8)
    assert pair.ue.has(TicketRejected)
    assert any("IKE_SA_INIT request 0" in line for line in pair.wire)
    assert pair.epdg.has(IdentityReceived)
    assert pair.ue.live.state is SaState.ESTABLISHED
    assert not pair.epdg.has(Resumed)


@pytest.mark.parametrize(
    "fault",
    ["expired", "wrong key", "rotated away", "tampered", "truncated", "empty", "policy", "deleted", "deleted by us"],
)
def test_ticket_nack_and_full_exchange(fault: str) -> None:
    clock = Clock()
    tickets = office(clock)
    pair = resumable(tickets)
    session = lose_sa(pair)
    changes: dict[str, object] = {}
    if fault == "expired":
        clock.now += 3601.0
    elif fault == "wrong key":
        tickets = office(clock, Secret(bytes(32)))
    elif fault == "rotated away":
        clock.now += 2 * 86400.0
    elif fault == "tampered":
        session = replace(session, ticket=session.ticket[:-1] + bytes([session.ticket[-1] ^ 1]))
    elif fault == "truncated":
        session = replace(session, ticket=session.ticket[:30])
    elif fault == "empty":
        session = replace(session, ticket=b"")
    elif fault == "policy":
        changes["ike_policy"] = IkePolicy((IkeSuite.of("aes256-sha256-x25519"), IkeSuite.of("aes256-sha256-ecp256")))
        pair.ue_config = replace(pair.ue_config, ike_policy=changes["ike_policy"])  # type: ignore[arg-type]
    elif fault == "deleted":
        pair.epdg.endpoint.initiate(pair.epdg.live, DeleteIkeSa("detached by the operator"), pair.now)
        pair.run(0.0)
    else:
        request = forge(pair, "ue", ExchangeType.INFORMATIONAL, DeletePayload(ProtocolId.IKE), message_id=4)
        pair.epdg.endpoint.receive(request, pair.now)
        pair.run(0.0)
    if "deleted" not in fault:
        another_gateway(pair, tickets, **changes)
    pair.seen.clear()
    resume(pair, session)
    nacked(pair)


def test_ticket_is_good_once() -> None:
    """§4.3.1: a reused ticket SHOULD be rejected."""
    pair = resumable(office(Clock()))
    session = lose_sa(pair)
    resume(pair, session)
    assert pair.epdg.has(Resumed)
    pair.ue.endpoint.close(pair.ue.live, "lost again", pair.now)
    pair.run(0.0)
    for node in (pair.ue, pair.epdg):
        node.events.clear()
    pair.seen.clear()
    resume(pair, session)
    nacked(pair)


def test_ticket_may_be_good_more_than_once_by_policy() -> None:
    clock = Clock()
    pair = resumable(office(clock, one_time=False))
    session = lose_sa(pair)
    for _ in range(2):
        resume(pair, session)
        pair.epdg.take(Resumed)
        pair.ue.endpoint.close(pair.ue.live, "lost", pair.now)
        pair.run(0.0)


def test_ticket_is_not_used_up_by_an_attempt() -> None:
    """§4.3.1: used only when an IKE SA has been established with it."""
    pair = resumable(office(Clock()))
    session = lose_sa(pair)
    pair.lose = lambda sender, datagram: datagram.payload[18] == ExchangeType.IKE_AUTH
    resume(pair, session, seconds=40.0)
    assert pair.ue.live.state is SaState.CLOSED
    pair.lose = lambda sender, datagram: False
    resume(pair, session)
    assert pair.epdg.has(Resumed)


def test_two_resumptions_of_one_ticket_at_once() -> None:
    """Both pass IKE_SESSION_RESUME; the second to finish IKE_AUTH is refused."""
    pair = resumable(office(Clock()))
    session = lose_sa(pair)
    resume(pair, session, seconds=0.015)
    resume(pair, session, Endpoint.of("192.0.2.7", 500))
    assert len([e for e in pair.epdg.events if isinstance(e, Established)]) == 1
    refused = pair.ue.take(Refused)
    assert refused.notify is not None
    assert refused.notify.type == NotifyType.AUTHENTICATION_FAILED


def test_expired_ticket_is_not_presented() -> None:
    """§4.3.1: a client MUST NOT present a ticket when it knows that its lifetime has expired."""
    pair = resumable(office(Clock(), lifetime=100.0))
    session = lose_sa(pair)
    pair.run(101.0)
    pair.wire.clear()
    resume(pair, session)
    assert pair.wire[0].startswith("--> IKE_SA_INIT request 0")
    assert pair.ue.live.state is SaState.ESTABLISHED


def test_resumption_that_is_off_is_unknown() -> None:
    """The exchange type is not spoken: dropped and counted, no SA is made."""
    pair = resumable(office(Clock()))
    session = lose_sa(pair)
    pair.epdg = Node("epdg", IkeEndpoint(entropy=SeededEntropy(9), responder=responder_config()))
    resume(pair, session, seconds=0.1)
    assert pair.epdg.endpoint.dropped["resumption-off"] == 1
    assert pair.epdg.endpoint.sas == {}
    assert pair.ue.live.state is SaState.INIT_SENT


def half_open(pair: Pair) -> None:
    session = lose_sa(pair)
    pair.lose = lambda sender, datagram: datagram.payload[18] == ExchangeType.IKE_AUTH
    resume(pair, session, seconds=0.05)


@pytest.mark.parametrize("fault", ["no AUTH", "wrong AUTH", "other IDi", "other IDr"])
def test_ike_auth_of_a_resumption_that_does_not_verify(fault: str) -> None:
    """§4.3.3: AUTH from SK_pi; IDi and IDr MUST be identical to the ticket's."""
    pair = resumable(office(Clock()))
    former_spis = set(pair.epdg.endpoint.sas)
    half_open(pair)
    request = pair.ue.live.window.outstanding
    assert request is not None
    sent = [p for p in request.sent.message.payloads if isinstance(p, Payload)]
    if fault == "no AUTH":
        sent = [p for p in sent if p.payload_type.name != "AUTH"]
    elif fault == "wrong AUTH":
        sent = [replace(p, data=bytes(32)) if p.payload_type.name == "AUTH" else p for p in sent]  # type: ignore[call-arg]
    elif fault == "other IDi":
        sent[0] = IdiPayload(id_type=IdType.ID_RFC822_ADDR, data=b"0001010000000002@nai.epc")
    else:
        sent.append(IdrPayload(id_type=IdType.ID_FQDN, data=b"elsewhere"))
    request = forge(pair, "ue", ExchangeType.IKE_AUTH, *sent, message_id=1)
    pair.epdg.endpoint.receive(request, pair.now)
    pair.run(0.0)
    assert pair.wire[-1] == "<-- IKE_AUTH response 1 [ N(AUTHENTICATION_FAILED) ]"
    assert not pair.epdg.has(Resumed)
    assert not pair.epdg.has(ConfigurationRequested)
    assert len(pair.epdg.endpoint.sas) == 1  # the former SA is untouched
    assert former_spis == set()


def test_gateway_that_cannot_prove_itself_is_not_accepted() -> None:
    """§4.3.3: the gateway's AUTH from SK_pr and its IDr are checked too."""
    for fault in ("AUTH", "IDr"):
        pair = resumable(office(Clock()))
        half_open(pair)
        identity = pair.ue_config.session.responder_identity if pair.ue_config.session else None
        assert identity is not None
        payloads = () if fault == "IDr" else (identity,)
        response = forge(pair, "epdg", ExchangeType.IKE_AUTH, *payloads, message_id=1, response=True)
        pair.ue.endpoint.receive(response, pair.now)
        pair.run(0.0)
        assert not pair.ue.has(Established)
        assert pair.ue.has(Refused)


def test_gateway_may_refuse_a_resumption() -> None:
    def refuse(event: Event) -> object:
        if isinstance(event, ConfigurationRequested) and event.resumed is not None:
            return Refusal(notify=NotifyPayload(type=NotifyType.INTERNAL_ADDRESS_FAILURE), text="no address")
        return answer_with_session(event)

    pair = resumable(office(Clock()), refuse)
    resume(pair, lose_sa(pair))
    assert pair.wire[-1] == "<-- IKE_AUTH response 1 [ N(INTERNAL_ADDRESS_FAILURE) ]"
    assert pair.ue.has(Refused)


def test_resumed_sa_without_child_sa_is_deleted_at_both_ends() -> None:
    """RFC 7296 §2.21.2: the IKE SA is established where only the child SA is refused; the UE deletes it."""
    pair = resumable(office(Clock()))
    session = lose_sa(pair)
    pair.ue_config = replace(pair.ue_config, esp_policy=EspPolicy((EspSuite.of("aes256gcm16"),)))
    resume(pair, session)
    assert "N(NO_PROPOSAL_CHOSEN)" in pair.wire[3]
    assert pair.wire[4] == "--> INFORMATIONAL request 2 [ D ]"
    assert pair.epdg.take(Refused).text.startswith("no child SA")
    assert pair.ue.endpoint.sas == pair.epdg.endpoint.sas == {}


def test_resumed_sa_is_redirected() -> None:
    """RFC 5685 §6: in the last IKE_AUTH response, once the gateway's AUTH has been verified."""
    pair = resumable(office(Clock()))
    session = lose_sa(pair)
    pair.ue_config = replace(pair.ue_config, redirect=RedirectObedience.AUTHENTICATED)
    tell = NotifyPayload(type=NotifyType.REDIRECT, data=GatewayIdentity(ip_address("203.0.113.2")).encode())

    class Redirecting(NoExtension):
        def payloads(self, step: Step) -> tuple[Payload, ...]:
            return (tell,) if step is Step.FINAL_RESPONSE else ()

    another = IkeEndpoint(
        entropy=SeededEntropy("another"), responder=pair.epdg.endpoint._responder, extension=Redirecting
    )
    pair.epdg = Node("epdg", another, answers=answer_with_session)
    resume(pair, session)
    assert pair.ue.take(Redirected).gateway == ip_address("203.0.113.2")
    assert not pair.ue.has(ChildSaInstalled)
    assert pair.ue.endpoint.sas == pair.epdg.endpoint.sas == {}


def test_what_the_ue_can_do_is_said_again() -> None:
    """TS 24.302 §7.2.2.1: a resumed SA hears of P_CSCF_RESELECTION_SUPPORT too."""
    pair = resumable(office(Clock()))
    pair.ue.endpoint = IkeEndpoint(entropy=SeededEntropy(5), extension=lambda: DeviceSwu(p_cscf_reselection=True))
    gateways: list[GatewaySwu] = []
    pair.epdg.endpoint._extension = lambda: gateways.append(GatewaySwu()) or gateways[-1]  # type: ignore[func-returns-value]
    resume(pair, lose_sa(pair))
    assert [gateway.p_cscf_reselection for gateway in gateways] == [True, True]


def test_eap_does_not_answer_a_resumption() -> None:
    pair = resumable(office(Clock()))
    session = lose_sa(pair)
    pair.epdg.answers = lambda event: None
    resume(pair, session, seconds=1.0)
    with pytest.raises(LocalError):
        pair.epdg.endpoint.answer(pair.epdg.live, EapReply(packet=b"\1\1\0\4"), pair.now)


def test_request_without_ticket_or_with_a_short_nonce() -> None:
    """§4.3.2: what IKE_SESSION_RESUME must carry."""
    pair = resumable(office(Clock()))
    session = lose_sa(pair)
    resume(pair, session, seconds=0.0)
    request = pair.seen[-1][1]
    message = decode_message(request.payload)
    bare = replace(message, spi_i=b"\7" * 8, payloads=message.payloads[:1])
    pair.epdg.endpoint.receive(Datagram(request.path.reversed(), encode_message(bare)), pair.now)
    pair.run(0.0)
    answer = decode_message(next(d for s, d in reversed(pair.seen) if s == "epdg").payload)
    assert answer.notify(NotifyType.INVALID_SYNTAX) is not None
    assert len(pair.epdg.endpoint.sas) == 1


# --- the office


def contents(identifier: bytes = b"8 octets", expires: int = 1_800_000_100) -> TicketContents:
    return TicketContents(
        identifier=identifier,
        identity=IdiPayload(id_type=IdType.ID_RFC822_ADDR, data=b"someone@example"),
        responder_identity=IdrPayload(id_type=IdType.ID_FQDN, data=b"gw.example"),
        suite=IkeSuite.of("aes256gcm16-prfsha384-ecp384"),
        sk_d=Secret(bytes(48)),
        spi_i=b"i" * 8,
        spi_r=b"r" * 8,
        expires=expires,
        data=b"data",
    )


def test_ticket_round_trip_and_every_truncation() -> None:
    """§6.1: whatever is cut or changed, is not accepted."""
    tickets = office(Clock())
    ticket = tickets.seal(contents(), SeededEntropy(1))
    assert tickets.open(ticket) == contents()
    for length in range(len(ticket)):
        with pytest.raises(RemoteError):
            tickets.open(ticket[:length])
    for position in range(len(ticket)):
        changed = bytearray(ticket)
        changed[position] ^= 0x40
        with pytest.raises(RemoteError):
            tickets.open(bytes(changed))
    plain = contents().encode()
    for length in range(len(plain)):
        with pytest.raises(RemoteError):
            TicketContents.decode(plain[:length])


def test_keys_rotate_and_the_last_one_still_opens() -> None:
    """§6.1, §9.5: a key identity in the ticket; changed regularly."""
    clock = Clock()
    tickets = office(clock, lifetime=86400.0)
    ticket = tickets.seal(contents(expires=int(clock.now + 10 * 86400)), SeededEntropy(1))
    clock.now += 86400.0
    assert tickets.open(ticket).data == b"data"
    assert tickets.seal(contents(), SeededEntropy(1))[4:12] != ticket[4:12]
    clock.now += 86400.0
    with pytest.raises(RemoteError, match="key"):
        tickets.open(ticket)


def test_memory_of_spent_tickets_is_bounded() -> None:
    clock = Clock()
    tickets = office(clock, spent_limit=10)
    for number in range(50):
        tickets.use(contents(bytes([number]) * 8))
    assert tickets.spent == 10
    assert tickets.is_spent(contents(bytes([49]) * 8))
    clock.now += 3601.0
    tickets.use(contents(b"the last"))
    assert tickets.spent == 1


@pytest.mark.parametrize("changes", [{"secret": Secret(b"short")}, {"lifetime": 0.0}, {"lifetime": 90000.0}])
def test_policy_that_would_not_protect(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        office(Clock(), **changes)  # type: ignore[arg-type]
