"""The Diameter peer machine (RFC 6733 §5, RFC 3539): two ends on virtual time, or one end and octets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import TypeVar

import pytest

from protocols.diameter.capabilities import Admission, Capabilities, Judgement, admit_all
from protocols.diameter.codec import (
    Avp,
    DiameterMessage,
    RequestError,
    Result,
    answer_to,
    decode_message,
    encode_message,
)
from protocols.diameter.dictionary import (
    BASE_APPLICATION,
    RELAY_APPLICATION,
    SWM_APPLICATION,
    SWX_APPLICATION,
    CommandCode,
    DisconnectCause,
    ResultCode,
)
from protocols.diameter.events import (
    AnswerReceived,
    CloseReason,
    ConnectionEnded,
    DropReason,
    MessageSeen,
    OctetsDropped,
    PeerEvent,
    PeerOpened,
    PeerState,
    RequestFailed,
    RequestFailure,
    RequestReceived,
    ServiceChanged,
    StateChanged,
)
from protocols.diameter.identity import Application, DiameterIdentity, IdentifierSource
from protocols.diameter.peer import CLOSING_INTERVAL, HANDSHAKE_INTERVAL, PeerMachine
from protocols.diameter.swm import Dea, Der, Str
from protocols.diameter.watchdog import WATCHDOG_JITTER, WatchdogState
from protocols.entropy import SeededEntropy
from protocols.errors import LocalError

EPDG = DiameterIdentity(host="epdg.epc.test", realm="epc.test", origin_state_id=7)
AAA = DiameterIdentity(host="aaa.epc.test", realm="epc.test", origin_state_id=8)
LOCAL = (ip_address("127.0.0.1"),)
SERVED = {SWM_APPLICATION: {int(CommandCode.DIAMETER_EAP), int(CommandCode.SESSION_TERMINATION)}}

EventT = TypeVar("EventT")


def machine(
    identity: DiameterIdentity,
    *,
    seed: str = "seed",
    services: dict[int, set[int]] | None = None,
    expected_host: str | None = None,
    admission: Admission = admit_all,
    reopening: bool = False,
    watchdog_interval: float = 30.0,
) -> PeerMachine:
    entropy = SeededEntropy(f"{seed} {identity.host}")
    return PeerMachine(
        identity=identity,
        local_addresses=LOCAL,
        services=SERVED if services is None else services,
        identifiers=IdentifierSource(entropy, wall=1_700_000_000.0),
        entropy=entropy,
        expected_host=expected_host,
        admission=admission,
        reopening=reopening,
        watchdog_interval=watchdog_interval,
    )


class Ends:
    """An ePDG that connected to an AAA server; octets pass at once unless a direction is cut."""

    def __init__(self, epdg: PeerMachine | None = None, aaa: PeerMachine | None = None) -> None:
        self.epdg = epdg or machine(EPDG, expected_host=AAA.host)
        self.aaa = aaa or machine(AAA)
        self.now = 1000.0
        self.events: dict[str, list[PeerEvent]] = {"epdg": [], "aaa": []}
        self.is_cut_to_aaa = False
        self.is_cut_to_epdg = False

    def connect(self) -> Ends:
        """CER --> <-- CEA"""
        self.aaa.start_responder(self.now)
        self.epdg.start_initiator(self.now)
        return self.settle()

    def settle(self) -> Ends:
        """Exchange octets until both ends are silent."""
        while True:
            to_aaa, to_epdg = self.epdg.poll_transmit(), self.aaa.poll_transmit()
            if to_aaa is None and to_epdg is None:
                break
            if to_aaa is not None and not self.is_cut_to_aaa:
                self.aaa.receive(to_aaa, self.now)
            if to_epdg is not None and not self.is_cut_to_epdg:
                self.epdg.receive(to_epdg, self.now)
        for name, end in (("epdg", self.epdg), ("aaa", self.aaa)):
            while (event := end.poll_event()) is not None:
                self.events[name].append(event)
        return self

    def advance(self, interval: float) -> Ends:
        """Let time pass from deadline to deadline."""
        until = self.now + interval
        while True:
            deadlines = [end.next_deadline() for end in (self.epdg, self.aaa)]
            due = min((at for at in deadlines if at is not None), default=until)
            self.now = min(max(due, self.now), until)
            self.epdg.handle_timeout(self.now)
            self.aaa.handle_timeout(self.now)
            self.settle()
            if self.now >= until:
                return self

    def take(self, name: str, kind: type[EventT]) -> EventT:
        """The first event of a kind, removed."""
        for event in self.events[name]:
            if isinstance(event, kind):
                self.events[name].remove(event)
                return event
        raise AssertionError(f"{name} has no {kind.__name__}: {self.events[name]}")

    def count(self, name: str, kind: type[EventT]) -> int:
        return sum(isinstance(event, kind) for event in self.events[name])


def der(**fields: str) -> DiameterMessage:
    return Der(
        session_id="epdg.epc.test;1;1",
        origin_host=EPDG.host,
        origin_realm=EPDG.realm,
        destination_realm=fields.get("realm", AAA.realm),
        destination_host=fields.get("host"),
        eap_payload=b"\x02\x01\x00\x05\x01",
    ).to_message()


def dea(request: DiameterMessage) -> DiameterMessage:
    return Dea(
        session_id="epdg.epc.test;1;1", origin_host=AAA.host, origin_realm=AAA.realm, result=Result(0, 2001)
    ).to_message(request)


def sent(end: PeerMachine) -> list[DiameterMessage]:
    """Messages that an end wrote since last asked."""
    octets = end.poll_transmit() or b""
    messages = []
    while octets:
        length = int.from_bytes(octets[1:4], "big")
        messages.append(decode_message(octets[:length]))
        octets = octets[length:]
    return messages


def ended(end: PeerMachine) -> ConnectionEnded:
    """The ConnectionEnded among the events of an end."""
    while (event := end.poll_event()) is not None:
        if isinstance(event, ConnectionEnded):
            return event
    raise AssertionError("the connection has not ended")


def opened_aaa(**options: dict[int, set[int]]) -> PeerMachine:
    """An AAA server's end, open towards an ePDG of which only octets exist."""
    aaa = machine(AAA, services=options.get("services"))
    aaa.start_responder(0.0)
    aaa.receive(encode_message(cer()), 0.0)
    assert sent(aaa)[0].integer("Result-Code") == 2001
    assert aaa.state is PeerState.OPEN
    return aaa


def cer(*avps: Avp, applications: tuple[Avp, ...] | None = None) -> DiameterMessage:
    if applications is None:
        applications = (Avp.of("Auth-Application-Id", SWM_APPLICATION),)
    return DiameterMessage(
        command=CommandCode.CAPABILITIES_EXCHANGE,
        application=BASE_APPLICATION,
        request=True,
        hop_by_hop=1,
        end_to_end=2,
        avps=(
            *EPDG.origin_avps(),
            Avp.of("Host-IP-Address", LOCAL[0]),
            Avp.of("Vendor-Id", 0),
            Avp.of("Product-Name", "test"),
            *applications,
            *avps,
        ),
    )


# Capabilities exchange (RFC 6733 §5.3)


def test_capabilities_exchange() -> None:
    ends = Ends().connect()
    assert ends.epdg.state is PeerState.OPEN
    assert ends.aaa.state is PeerState.OPEN
    assert ends.take("aaa", PeerOpened).capabilities.host == EPDG.host
    capabilities = ends.take("epdg", PeerOpened).capabilities
    assert capabilities.host == AAA.host
    assert capabilities.applications == {SWM_APPLICATION}
    assert capabilities.origin_state_id == 8
    assert capabilities.addresses == LOCAL
    changes = [event for event in ends.events["epdg"] if isinstance(event, StateChanged)]
    assert [(change.old.name, change.new.name) for change in changes] == [
        ("CLOSED", "WAIT_CEA"),
        ("WAIT_CEA", "OPEN"),
    ]


def test_what_a_cer_says() -> None:
    epdg = machine(EPDG)
    epdg.start_initiator(0.0)
    [message] = sent(epdg)
    assert (message.request, message.proxiable, message.application) == (True, False, 0)
    group = message.group("Vendor-Specific-Application-Id")
    assert group is not None
    assert (group.integer("Vendor-Id"), group.integer("Auth-Application-Id")) == (10415, SWM_APPLICATION)
    assert message.integer("Auth-Application-Id") == SWM_APPLICATION
    assert message.integer("Supported-Vendor-Id") == 10415
    assert message.address("Host-IP-Address") == LOCAL[0]


@pytest.mark.parametrize(
    "applications",
    [
        (Avp.of("Auth-Application-Id", SWM_APPLICATION),),
        (Avp.of("Acct-Application-Id", SWM_APPLICATION),),
        (
            Avp.of(
                "Vendor-Specific-Application-Id",
                (Avp.of("Vendor-Id", 1), Avp.of("Auth-Application-Id", SWM_APPLICATION)),
            ),
        ),
        (Avp.of("Auth-Application-Id", RELAY_APPLICATION),),
    ],
)
def test_common_application_in_any_avp(applications: tuple[Avp, ...]) -> None:
    # The Vendor-Id in Vendor-Specific-Application-Id MUST NOT be used during computation
    aaa = machine(AAA)
    aaa.start_responder(0.0)
    aaa.receive(encode_message(cer(applications=applications)), 0.0)
    assert aaa.state is PeerState.OPEN


@pytest.mark.parametrize(
    ("request_", "result", "reason"),
    [
        (
            cer(applications=(Avp.of("Auth-Application-Id", SWX_APPLICATION),)),
            ResultCode.DIAMETER_NO_COMMON_APPLICATION,
            CloseReason.NO_COMMON_APPLICATION,
        ),
        (cer(applications=()), ResultCode.DIAMETER_NO_COMMON_APPLICATION, CloseReason.NO_COMMON_APPLICATION),
        (
            cer(Avp.of("Inband-Security-Id", 1)),
            ResultCode.DIAMETER_NO_COMMON_SECURITY,
            CloseReason.NO_COMMON_SECURITY,
        ),
        (
            cer(Avp(code=77777, data=b"x")),
            ResultCode.DIAMETER_AVP_UNSUPPORTED,
            CloseReason.MALFORMED_CAPABILITIES,
        ),
        (
            replace(cer(), avps=cer().avps[1:]),
            ResultCode.DIAMETER_MISSING_AVP,
            CloseReason.MALFORMED_CAPABILITIES,
        ),
        (
            replace(cer(), error=True),
            ResultCode.DIAMETER_INVALID_HDR_BITS,
            CloseReason.MALFORMED_CAPABILITIES,
        ),
    ],
)
def test_refused_cer(request_: DiameterMessage, result: ResultCode, reason: CloseReason) -> None:
    aaa = machine(AAA)
    aaa.start_responder(0.0)
    aaa.receive(encode_message(request_), 0.0)
    [answer] = sent(aaa)
    assert (answer.name, answer.integer("Result-Code")) == ("CEA", result)
    assert answer.error == (result // 1000 == 3)
    assert ended(aaa).why is reason
    assert aaa.state is PeerState.CLOSED


def test_unknown_peer() -> None:
    aaa = machine(AAA, admission=lambda peer: Judgement.UNKNOWN_PEER)
    ends = Ends(aaa=aaa).connect()
    assert ends.take("aaa", ConnectionEnded).why is CloseReason.UNKNOWN_PEER
    refused = ends.take("epdg", ConnectionEnded)
    assert refused.why is CloseReason.REFUSED
    assert "DIAMETER_UNKNOWN_PEER (3010)" in refused.text


def test_another_peer_than_expected() -> None:
    ends = Ends(epdg=machine(EPDG, expected_host="other.epc.test")).connect()
    assert ends.take("epdg", ConnectionEnded).why is CloseReason.UNKNOWN_PEER


def test_expected_host_compares_without_case() -> None:
    ends = Ends(epdg=machine(EPDG, expected_host="AAA.EPC.test")).connect()
    assert ends.epdg.state is PeerState.OPEN


def test_first_message_must_be_cer() -> None:
    # RFC 6733 §5.6.1
    aaa = machine(AAA)
    aaa.start_responder(0.0)
    aaa.receive(encode_message(der()), 0.0)
    assert sent(aaa) == []
    assert ended(aaa).why is CloseReason.NOT_CAPABILITIES
    assert aaa.dropped[DropReason.NOT_CAPABILITIES] == 1


def test_answer_to_cer_must_be_cea() -> None:
    epdg = machine(EPDG)
    epdg.start_initiator(0.0)
    [request] = sent(epdg)
    stray = answer_to(request, origin_host="a", origin_realm="b", result=Result(0, 2001))
    epdg.receive(encode_message(replace(stray, hop_by_hop=request.hop_by_hop + 1)), 0.0)
    assert ended(epdg).why is CloseReason.NOT_CAPABILITIES


def test_cea_without_identity() -> None:
    epdg = machine(EPDG)
    epdg.start_initiator(0.0)
    [request] = sent(epdg)
    cea = answer_to(request, origin_host="a", origin_realm="b", result=Result(0, 2001))
    epdg.receive(encode_message(replace(cea, avps=cea.avps[:1])), 0.0)
    assert ended(epdg).why is CloseReason.MALFORMED_CAPABILITIES


@pytest.mark.parametrize("start", [PeerMachine.start_responder, PeerMachine.start_initiator])
def test_silent_connection_ends(start: Callable[[PeerMachine, float], None]) -> None:
    end = machine(AAA)
    start(end, 5.0)
    assert end.next_deadline() == 5.0 + HANDSHAKE_INTERVAL
    end.handle_timeout(5.0 + HANDSHAKE_INTERVAL)
    assert ended(end).why is CloseReason.NO_CAPABILITIES


def test_second_cer_on_an_open_connection() -> None:
    aaa = opened_aaa()
    aaa.receive(encode_message(cer()), 1.0)
    [answer] = sent(aaa)
    assert answer.integer("Result-Code") == ResultCode.DIAMETER_UNABLE_TO_COMPLY
    assert aaa.state is PeerState.OPEN


# Requests and answers (RFC 6733 §3, §6)


def test_request_and_answer() -> None:
    ends = Ends().connect()
    request = ends.epdg.send_request(der(), ends.now)
    ends.settle()
    received = ends.take("aaa", RequestReceived).request
    assert received == request
    assert ends.aaa.send_answer(received, dea(received))
    ends.settle()
    event = ends.take("epdg", AnswerReceived)
    assert event.request == request
    assert (event.answer.hop_by_hop, event.answer.end_to_end) == (request.hop_by_hop, request.end_to_end)
    assert ends.epdg.pending_requests == 0


def test_identifiers_are_unique() -> None:
    ends = Ends().connect()
    requests = [ends.epdg.send_request(der(), ends.now) for _ in range(50)]
    assert len({request.hop_by_hop for request in requests}) == 50
    assert len({request.end_to_end for request in requests}) == 50


def test_end_to_end_begins_with_the_time() -> None:
    # RFC 6733 §3: the high order 12 bits may hold the low order 12 bits of current time
    source = IdentifierSource(SeededEntropy(1), wall=0x12345)
    assert source.end_to_end() >> 20 in (0x345, 0x346)


def test_answers_in_any_order() -> None:
    ends = Ends().connect()
    first, second = (ends.epdg.send_request(der(), ends.now) for _ in range(2))
    ends.settle()
    received = [ends.take("aaa", RequestReceived).request for _ in range(2)]
    for request in reversed(received):
        ends.aaa.send_answer(request, dea(request))
    ends.settle()
    assert ends.take("epdg", AnswerReceived).request == second
    assert ends.take("epdg", AnswerReceived).request == first


@pytest.mark.parametrize("field", ["hop_by_hop", "end_to_end", "command", "application"])
def test_answer_that_matches_nothing_is_discarded(field: str) -> None:
    # RFC 6733 §3: an answer with an unknown Hop-by-Hop Identifier MUST be discarded
    ends = Ends().connect()
    request = ends.epdg.send_request(der(), ends.now)
    answer = dea(request)
    changed = {
        "hop_by_hop": replace(answer, hop_by_hop=answer.hop_by_hop ^ 1),
        "end_to_end": replace(answer, end_to_end=answer.end_to_end ^ 1),
        "command": replace(answer, command=CommandCode.SESSION_TERMINATION),
        "application": replace(answer, application=SWX_APPLICATION),
    }[field]
    ends.epdg.receive(encode_message(changed), ends.now)
    ends.settle()
    assert ends.count("epdg", AnswerReceived) == 0
    assert ends.epdg.dropped[DropReason.UNKNOWN_ANSWER] == 1
    ends.epdg.receive(encode_message(answer), ends.now)
    ends.settle()
    assert ends.take("epdg", AnswerReceived).answer == answer


def test_duplicate_answer_is_discarded() -> None:
    ends = Ends().connect()
    request = ends.epdg.send_request(der(), ends.now)
    for _ in range(2):
        ends.epdg.receive(encode_message(dea(request)), ends.now)
    ends.settle()
    assert ends.count("epdg", AnswerReceived) == 1
    assert ends.epdg.dropped[DropReason.UNKNOWN_ANSWER] == 1


def test_request_times_out() -> None:
    ends = Ends().connect()
    slow = ends.epdg.send_request(der(), ends.now, timeout=4.0)
    quick = ends.epdg.send_request(der(), ends.now, timeout=2.0)
    ends.advance(1.9)
    assert ends.count("epdg", RequestFailed) == 0
    ends.advance(0.2)
    assert ends.take("epdg", RequestFailed) == RequestFailed(quick, RequestFailure.TIME_OUT)
    ends.advance(2.0)
    assert ends.take("epdg", RequestFailed) == RequestFailed(slow, RequestFailure.TIME_OUT)
    # A late answer finds no request
    ends.epdg.receive(encode_message(dea(quick)), ends.now)
    assert ends.epdg.dropped[DropReason.UNKNOWN_ANSWER] == 1


def test_pending_requests_fail_with_the_connection() -> None:
    ends = Ends().connect()
    request = ends.epdg.send_request(der(), ends.now)
    ends.epdg.disconnected(ends.now)
    ends.settle()
    assert ends.take("epdg", RequestFailed) == RequestFailed(request, RequestFailure.PEER_DOWN)
    assert ends.take("epdg", ConnectionEnded).why is CloseReason.DISCONNECTED
    assert ends.epdg.next_deadline() is None
    with pytest.raises(LocalError):
        ends.epdg.send_request(der(), ends.now)


def test_withdrawn_request_neither_fails_nor_is_answered() -> None:
    ends = Ends().connect()
    request = ends.epdg.send_request(der(), ends.now)
    assert ends.epdg.withdraw(request)
    assert not ends.epdg.withdraw(request)
    ends.advance(20.0)
    assert ends.count("epdg", RequestFailed) == 0


def test_both_ends_may_ask() -> None:
    ends = Ends(epdg=machine(EPDG, services={SWM_APPLICATION: {int(CommandCode.ABORT_SESSION)}})).connect()
    asr = DiameterMessage(
        command=CommandCode.ABORT_SESSION,
        application=SWM_APPLICATION,
        request=True,
        proxiable=True,
        avps=(
            Avp.of("Session-Id", "s"),
            *AAA.origin_avps(),
            Avp.of("Destination-Realm", EPDG.realm),
            Avp.of("Destination-Host", EPDG.host),
            Avp.of("Auth-Application-Id", SWM_APPLICATION),
        ),
    )
    ends.aaa.send_request(asr, ends.now)
    ends.settle()
    assert ends.take("epdg", RequestReceived).request.name == "ASR"


def test_proxy_info_is_copied_and_route_record_tolerated() -> None:
    # RFC 6733 §6.2: any Proxy-Info AVPs in the request MUST be added to the answer, in the same order
    proxies = tuple(
        Avp.of("Proxy-Info", (Avp.of("Proxy-Host", host), Avp.of("Proxy-State", host.encode()))) for host in "ab"
    )
    aaa = opened_aaa()
    request = replace(der(), hop_by_hop=5, end_to_end=6)
    request = replace(request, avps=(*request.avps, Avp.of("Route-Record", "relay"), *proxies))
    aaa.receive(encode_message(request), 1.0)
    plain = replace(dea(request), avps=dea(der()).avps)
    assert aaa.send_answer(request, plain)
    [answer] = sent(aaa)
    assert answer.find_all("Proxy-Info") == proxies
    assert aaa.send_answer(request, dea(request))
    [answer] = sent(aaa)
    assert answer.find_all("Proxy-Info") == proxies


# What a node answers by itself (RFC 6733 §7)


def refused(request: DiameterMessage, **options: dict[int, set[int]]) -> DiameterMessage:
    """The answer to a request that never reaches a handler."""
    aaa = opened_aaa(**options)
    aaa.receive(encode_message(replace(request, hop_by_hop=21, end_to_end=22)), 1.0)
    [answer] = sent(aaa)
    assert (answer.hop_by_hop, answer.end_to_end) == (21, 22)
    assert answer.text("Origin-Host") == AAA.host
    while (event := aaa.poll_event()) is not None:
        assert not isinstance(event, RequestReceived)
    assert aaa.state is PeerState.OPEN
    return answer


def test_unknown_application() -> None:
    answer = refused(replace(der(), application=SWX_APPLICATION))
    assert (answer.error, answer.integer("Result-Code")) == (True, ResultCode.DIAMETER_APPLICATION_UNSUPPORTED)
    assert answer.session_id == "epdg.epc.test;1;1"


@pytest.mark.parametrize("application", [SWM_APPLICATION, BASE_APPLICATION])
def test_unknown_command(application: int) -> None:
    answer = refused(replace(der(), command=9999, application=application))
    assert (answer.error, answer.integer("Result-Code")) == (True, ResultCode.DIAMETER_COMMAND_UNSUPPORTED)


def test_another_destination() -> None:
    answer = refused(der(host="other.epc.test"))
    assert (answer.error, answer.integer("Result-Code")) == (True, ResultCode.DIAMETER_UNABLE_TO_DELIVER)
    answer = refused(der(realm="other.test"))
    assert (answer.error, answer.integer("Result-Code")) == (True, ResultCode.DIAMETER_REALM_NOT_SERVED)


def test_error_flag_in_a_request() -> None:
    answer = refused(replace(der(), error=True))
    assert (answer.error, answer.integer("Result-Code")) == (True, ResultCode.DIAMETER_INVALID_HDR_BITS)


def test_missing_avp() -> None:
    request = der()
    answer = refused(replace(request, avps=tuple(avp for avp in request.avps if avp.name != "EAP-Payload")))
    assert (answer.error, answer.integer("Result-Code")) == (False, ResultCode.DIAMETER_MISSING_AVP)
    assert answer.get("Failed-AVP") == (Avp.of("EAP-Payload", b""),)


def test_missing_user_name_in_str() -> None:
    request = Str(
        session_id="s", origin_host="e", origin_realm="x", destination_realm=AAA.realm, user_name="u"
    ).to_message()
    answer = refused(replace(request, avps=tuple(avp for avp in request.avps if avp.name != "User-Name")))
    assert answer.integer("Result-Code") == ResultCode.DIAMETER_MISSING_AVP


def test_unknown_mandatory_avp() -> None:
    unknown = Avp(code=4321, vendor=10415, mandatory=True, data=b"xyz")
    answer = refused(replace(der(), avps=(*der().avps, unknown)))
    assert (answer.error, answer.integer("Result-Code")) == (False, ResultCode.DIAMETER_AVP_UNSUPPORTED)
    assert answer.get("Failed-AVP") == (unknown,)


def test_malformed_request_is_answered() -> None:
    aaa = opened_aaa()
    octets = bytearray(encode_message(replace(der(), hop_by_hop=21, end_to_end=22)))
    octets[25:28] = b"\xff\xff\xff"  # the length of Session-Id
    aaa.receive(bytes(octets), 1.0)
    [answer] = sent(aaa)
    assert answer.integer("Result-Code") == ResultCode.DIAMETER_INVALID_AVP_LENGTH
    assert answer.hop_by_hop == 21
    failed = answer.get("Failed-AVP")
    assert isinstance(failed, tuple)
    assert failed[0].name == "Session-Id"
    assert aaa.dropped[DropReason.MALFORMED_REQUEST] == 1
    assert aaa.state is PeerState.OPEN


def test_malformed_answer_is_dropped() -> None:
    ends = Ends().connect()
    request = ends.epdg.send_request(der(), ends.now)
    octets = bytearray(encode_message(dea(request)))
    octets[25:28] = b"\x00\x00\x01"
    ends.epdg.receive(bytes(octets), ends.now)
    ends.settle()
    assert ends.epdg.dropped[DropReason.MALFORMED_ANSWER] == 1
    assert ends.epdg.pending_requests == 1


def test_never_an_error_in_return_for_an_answer() -> None:
    # RFC 6733 §7.2: the 'E' bit MUST NOT be sent as a response to an answer message
    aaa = opened_aaa()
    stray = answer_to(der(), origin_host="x", origin_realm="y", result=Result(0, 2001))
    aaa.receive(encode_message(replace(stray, application=1, command=1)), 1.0)
    assert sent(aaa) == []


# Octets that are not Diameter


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", DropReason.VERSION),
        (b"\x01\x00\x00\x04", DropReason.LENGTH),
        (b"\x01\xff\xff\xfc", DropReason.TOO_LONG),
    ],
)
def test_garbage_ends_the_connection(octets: bytes, reason: DropReason) -> None:
    for aaa in (opened_aaa(), machine(AAA)):
        if aaa.state is PeerState.CLOSED:
            aaa.start_responder(0.0)
        aaa.receive(octets, 1.0)
        assert aaa.dropped[reason] == 1
        events = []
        while (event := aaa.poll_event()) is not None:
            events.append(event)
        assert OctetsDropped(reason, octets) in events
        assert any(isinstance(e, ConnectionEnded) and e.why is CloseReason.NOT_DIAMETER for e in events)
        aaa.receive(b"more", 1.0)
        assert aaa.dropped[DropReason.AFTER_CLOSE] == 1


def test_truncated_message_is_counted() -> None:
    aaa = opened_aaa()
    aaa.receive(encode_message(der())[:-1], 1.0)
    aaa.disconnected(2.0)
    assert aaa.dropped[DropReason.TRUNCATED] == 1


# Watchdog (RFC 3539 §3.4.1)


def test_watchdog_must_not_be_set_low() -> None:
    with pytest.raises(LocalError):
        machine(EPDG, watchdog_interval=5.9)


def test_watchdog_is_sent_on_a_silent_connection_with_jitter() -> None:
    intervals = set()
    for seed in range(20):
        ends = Ends(epdg=machine(EPDG, seed=str(seed))).connect()
        deadline = ends.epdg.next_deadline()
        assert deadline is not None
        assert abs(deadline - ends.now - 30.0) <= WATCHDOG_JITTER
        intervals.add(deadline)
    assert len(intervals) == 20


def test_watchdog_is_answered_and_keeps_the_connection() -> None:
    ends = Ends().connect()
    ends.advance(1000.0)
    assert ends.epdg.is_usable
    assert ends.epdg.sent["DWR"] + ends.aaa.sent["DWR"] >= 30
    assert ends.epdg.sent["DWR"] == ends.epdg.received["DWA"]
    assert ends.epdg.received["DWR"] == ends.epdg.sent["DWA"]


def test_traffic_resets_the_watchdog() -> None:
    ends = Ends().connect()
    for _ in range(40):
        ends.advance(5.0)
        request = ends.epdg.send_request(der(), ends.now)
        ends.settle()
        ends.aaa.send_answer(request, dea(request))
        ends.settle()
    assert ends.epdg.sent["DWR"] == ends.aaa.sent["DWR"] == 0


def test_unanswered_watchdog_suspects_then_closes() -> None:
    ends = Ends().connect()
    ends.is_cut_to_epdg = True
    request = ends.epdg.send_request(der(), ends.now, timeout=1000.0)
    ends.advance(32.5)  # Tw: DWR -->
    assert ends.epdg.sent["DWR"] == 1
    assert ends.epdg.is_usable
    ends.advance(32.5)  # Tw: failover
    assert ends.take("epdg", ServiceChanged) == ServiceChanged(WatchdogState.OKAY, WatchdogState.SUSPECT)
    assert not ends.epdg.is_usable
    assert ends.epdg.state is PeerState.OPEN
    ends.advance(32.5)  # Tw: close
    assert ends.take("epdg", ConnectionEnded).why is CloseReason.WATCHDOG
    assert ends.take("epdg", RequestFailed) == RequestFailed(request, RequestFailure.PEER_DOWN)
    assert ends.epdg.sent["DWR"] == 1  # never a second one while the first is unanswered


def test_suspected_peer_returns_with_any_message() -> None:
    ends = Ends().connect()
    ends.is_cut_to_epdg = True
    ends.advance(65.0)
    assert ends.epdg.watchdog is WatchdogState.SUSPECT
    ends.is_cut_to_epdg = False
    dwr = DiameterMessage(
        command=CommandCode.DEVICE_WATCHDOG,
        application=BASE_APPLICATION,
        request=True,
        avps=AAA.origin_avps(),
    )
    ends.epdg.receive(encode_message(dwr), ends.now)
    ends.settle()
    assert ends.epdg.is_usable
    assert ServiceChanged(WatchdogState.SUSPECT, WatchdogState.OKAY) in ends.events["epdg"]


def test_reopened_connection_waits_for_three_watchdogs() -> None:
    epdg, aaa = machine(EPDG, reopening=True), machine(AAA)
    aaa.start_responder(0.0)
    epdg.start_initiator(0.0)
    aaa.receive(epdg.poll_transmit() or b"", 0.0)
    epdg.receive(aaa.poll_transmit() or b"", 0.0)
    assert epdg.state is PeerState.OPEN
    for _ in range(3):
        assert not epdg.is_usable
        with pytest.raises(LocalError):
            epdg.send_request(der(), 0.0)
        aaa.receive(epdg.poll_transmit() or b"", 0.0)
        epdg.receive(aaa.poll_transmit() or b"", 0.0)
    assert epdg.is_usable
    assert epdg.sent["DWR"] == 3


def test_reopened_connection_without_answers_closes() -> None:
    ends = Ends(epdg=machine(EPDG, reopening=True))
    ends.aaa.start_responder(0.0)
    ends.epdg.start_initiator(0.0)
    ends.aaa.receive(ends.epdg.poll_transmit() or b"", 0.0)
    ends.epdg.receive(ends.aaa.poll_transmit() or b"", 0.0)
    ends.now = 0.0
    ends.is_cut_to_epdg = True
    ends.advance(32.5)  # NumDWA = -1
    assert ends.epdg.state is PeerState.OPEN
    ends.advance(32.5)
    assert ends.take("epdg", ConnectionEnded).why is CloseReason.WATCHDOG


# Disconnection (RFC 6733 §5.4)


def test_disconnection() -> None:
    ends = Ends().connect()
    ends.epdg.stop(DisconnectCause.REBOOTING, ends.now)
    ends.settle()
    assert ends.take("epdg", ConnectionEnded).why is CloseReason.STOPPED
    dpr = [
        event.message for event in ends.events["aaa"] if isinstance(event, MessageSeen) and event.message.name == "DPR"
    ]
    assert dpr[0].integer("Disconnect-Cause") == DisconnectCause.REBOOTING
    # The sender of the DPA waits for the receiver to disconnect
    assert ends.aaa.state is PeerState.CLOSING
    ends.aaa.disconnected(ends.now)
    ends.settle()
    assert ends.take("aaa", ConnectionEnded).why is CloseReason.DISCONNECT_REQUESTED


def test_disconnection_without_answer() -> None:
    ends = Ends().connect()
    ends.is_cut_to_aaa = True
    ends.epdg.stop(DisconnectCause.BUSY, ends.now)
    ends.advance(CLOSING_INTERVAL)
    assert ends.take("epdg", ConnectionEnded).why is CloseReason.STOPPED


def test_peer_that_asks_to_disconnect_and_stays() -> None:
    ends = Ends().connect()
    ends.is_cut_to_epdg = True
    ends.epdg.stop(DisconnectCause.REBOOTING, ends.now)
    ends.settle()
    ends.advance(CLOSING_INTERVAL)
    assert ends.take("aaa", ConnectionEnded).why is CloseReason.DISCONNECT_REQUESTED


@pytest.mark.parametrize("cause", [DisconnectCause.BUSY, DisconnectCause.DO_NOT_WANT_TO_TALK_TO_YOU])
def test_peer_that_does_not_want_us(cause: DisconnectCause) -> None:
    # RFC 6733 §5.4.3: A receiver of a DPR with above result code SHOULD NOT attempt reconnection
    ends = Ends().connect()
    ends.epdg.stop(cause, ends.now)
    ends.settle()
    ends.aaa.disconnected(ends.now)
    ends.settle()
    assert ends.take("aaa", ConnectionEnded).why is CloseReason.UNWANTED


def test_both_ask_to_disconnect() -> None:
    ends = Ends().connect()
    ends.epdg.stop(DisconnectCause.REBOOTING, ends.now)
    ends.aaa.stop(DisconnectCause.REBOOTING, ends.now)
    ends.settle()
    assert ends.epdg.state is PeerState.CLOSED
    assert ends.aaa.state is PeerState.CLOSED


def test_answers_arrive_while_closing_but_requests_do_not() -> None:
    ends = Ends().connect()
    request = ends.epdg.send_request(der(), ends.now)
    ends.settle()
    received = ends.take("aaa", RequestReceived).request
    ends.is_cut_to_aaa = True
    ends.epdg.stop(DisconnectCause.REBOOTING, ends.now)
    ends.settle()
    ends.aaa.send_answer(received, dea(received))
    ends.settle()
    assert ends.take("epdg", AnswerReceived).request == request
    ends.epdg.receive(encode_message(der()), ends.now)
    [answer] = sent(ends.epdg)
    assert answer.integer("Result-Code") == ResultCode.DIAMETER_UNABLE_TO_DELIVER


def test_stop_before_the_capabilities_exchange() -> None:
    epdg = machine(EPDG)
    epdg.start_initiator(0.0)
    epdg.stop(DisconnectCause.REBOOTING, 1.0)
    assert ended(epdg).why is CloseReason.STOPPED
    assert not epdg.send_answer(der(), dea(der()))


# Values


def test_relay_supports_everything() -> None:
    message = cer(applications=(Avp.of("Auth-Application-Id", RELAY_APPLICATION),))
    capabilities = Capabilities.from_message(message)
    assert capabilities.is_relay
    assert capabilities.supports(12345)
    assert not Capabilities.from_message(cer()).supports(12345)


def test_runs_replay() -> None:
    def run() -> list[bytes]:
        ends = Ends().connect()
        ends.epdg.send_request(der(), ends.now)
        ends.advance(100.0)
        return [event.octets for event in ends.events["epdg"] if isinstance(event, MessageSeen)]

    assert run() == run()


def test_an_identity_may_serve_more_realms() -> None:
    identity = DiameterIdentity(
        host="a", realm="home.test", served_realms=("visited.test",), applications=(Application(5),)
    )
    assert identity.serves_realm("VISITED.test")
    assert not identity.serves_realm("other.test")


def test_request_error_carries_its_answer() -> None:
    error = RequestError(ResultCode.DIAMETER_UNKNOWN_SESSION_ID, "no such session")
    assert (error.result, error.failed, str(error)) == (5002, None, "no such session")
