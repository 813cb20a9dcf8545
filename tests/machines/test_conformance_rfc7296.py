"""Rules of RFC 7296 that no other test shows: each test names its clause and fails without its rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest
from pydantic import ValidationError

from epdg.pdn.configuration import GrantedNetwork, Request, reply
from protocols.buffer import Reader
from protocols.errors import ConfigurationError, NegotiationError
from protocols.ikev2.config import RetransmissionPolicy
from protocols.ikev2.events import AuthenticationKind, CreateChildSaRefused, MessageSent, SaState
from protocols.ikev2.identity import identity_text
from protocols.ikev2.message import decode_header, decode_message, encode_message
from protocols.ikev2.payloads import (
    ConfigurationAttribute,
    ConfigurationPayload,
    DeletePayload,
    IdiPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Proposal,
    SaPayload,
    Transform,
    TsiPayload,
    TsrPayload,
    VendorIdPayload,
    encode_payloads,
)
from protocols.ikev2.proposals import EspPolicy, IkePolicy, select_ike
from protocols.ikev2.registry import (
    ConfigAttributeType,
    ExchangeType,
    IdType,
    KeGroup,
    NotifyType,
    ProtocolId,
    TransformType,
)
from protocols.ikev2.suites import EspSuite, IkeSuite
from protocols.ikev2.tasks.child import narrow
from protocols.ikev2.tasks.create_child import CreateChild
from protocols.ikev2.tasks.informational import DeleteIkeSa, Liveness
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.ikev2.tasks.rekey_ike import RekeyIke
from protocols.io.configuration import ConfigurationModel, SharedKey
from protocols.io.udp import SwuPorts
from protocols.path import Datagram, Endpoint, Path
from protocols.secret import Secret
from protocols.selectors import TrafficSelector
from tests.harness.forge import forge, receive
from tests.harness.pair import ACCESS_B, Pair, initiator_config, responder_config
from tests.machines.test_ue_configuration import configured
from ue.profile import own_identity


def messages(pair: Pair) -> list[MessageSent]:
    """Everything that both ends have said."""
    return [event for node in (pair.ue, pair.epdg) for event in node.events if isinstance(event, MessageSent)]


def busy() -> Pair:
    """A pair that has done everything that two ends do: set-up, move, rekeys of both kinds, liveness."""
    pair = Pair().attach()
    pair.roam(ACCESS_B)
    pair.run(1.0)
    for node in (pair.ue, pair.epdg):
        node.endpoint.initiate(node.live, RekeyChild(next(iter(node.live.children))), pair.now)
        pair.run(1.0)
        node.endpoint.initiate(node.live, RekeyIke(), pair.now)
        pair.run(1.0)
        node.endpoint.initiate(node.live, Liveness(), pair.now)
        pair.run(1.0)
    return pair


# --- messages (§2.1, §2.4, §2.5, §3.1)


def test_a_retransmission_is_the_same_octets_at_growing_intervals() -> None:
    """§2.1: "MUST be bitwise identical"; §2.2: the same Message ID; §2.4: times "MUST increase exponentially"."""
    policy = RetransmissionPolicy(base_interval=0.5, limit=4)
    pair = Pair(initiator_config(retransmission=policy, path_test_after=None)).attach()  # RFC 4555 §3.10 is faster
    pair.lose = lambda sender, datagram: True
    before = len(pair.seen)
    times: list[float] = []
    pair.ue.endpoint.initiate(pair.ue.live, Liveness(), pair.now)
    start = pair.now
    for _ in range(400):
        pair.run(0.05)
        while len(times) < len(pair.seen) - before:
            times.append(round(pair.now - start, 1))
    sent = [datagram.payload for _, datagram in pair.seen[before:]]
    assert len(sent) == 5
    assert len(set(sent)) == 1
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert gaps == pytest.approx([0.5, 1.0, 2.0, 4.0], abs=0.11)


def test_a_response_is_never_sent_unasked() -> None:
    """§2.1: "MUST never retransmit a response unless it receives a retransmission of the request"."""
    pair = Pair().attach()
    receive(pair, pair.epdg, forge(pair, "ue", 4))
    count = len(pair.seen)
    pair.run(120.0)
    assert len(pair.seen) == count


def test_header_fields_of_everything_that_is_sent() -> None:
    """§3.1: version 2.0, SPIs, V and X bits zero, the I flag of the original initiator, the R flag of responses."""
    pair = busy()
    exchanges = set()
    for number, (_, datagram) in enumerate(pair.seen):
        octets = datagram.payload
        header = decode_header(octets)
        assert octets[17] == 0x20
        assert octets[19] & ~0x28 == 0
        assert header.spi_i != bytes(8)
        assert (header.spi_r == bytes(8)) == (number == 0)
        exchanges.add(header.exchange)
    assert exchanges == set(ExchangeType) & {34, 35, 36, 37}


def test_the_gateway_is_original_initiator_of_the_ike_sa_that_it_has_made() -> None:
    """§3.1, §2.2: the I flag is "set in messages sent by the original initiator of the IKE SA"; IDs begin at 0."""
    pair = Pair().attach()
    pair.epdg.endpoint.initiate(pair.epdg.live, RekeyIke(), pair.now)
    pair.run(1.0)
    pair.ue.endpoint.initiate(pair.ue.live, Liveness(), pair.now)
    pair.run(1.0)
    request, response = (decode_header(datagram.payload) for _, datagram in pair.seen[-2:])
    assert (request.original_initiator, request.message_id) == (False, 0)
    assert (response.original_initiator, response.message_id, response.response) == (True, 0, True)


def test_no_payload_of_ours_is_critical() -> None:
    """§3.2: "MUST be set to zero for payload types defined in this document"; §2.5: never in a response."""
    for event in messages(busy()):
        _, chain = encode_payloads(event.message.payloads)
        while chain:
            assert chain[1] == 0
            chain = chain[int.from_bytes(chain[2:4], "big") :]


def test_payloads_in_any_order_are_taken() -> None:
    """§2.5: "implementations MUST NOT reject as invalid a message with those payloads in any other order"."""
    pair = Pair()
    pair.lose = lambda sender, datagram: True
    pair.start()
    pair.run(0.0)
    request = pair.seen[0][1]
    asked = decode_message(request.payload)
    mixed = encode_message(replace(asked, payloads=tuple(reversed(asked.payloads))))
    pair.epdg.endpoint.receive(Datagram(request.path.reversed(), mixed), pair.now)
    answer = pair.epdg.endpoint.poll_transmit()
    assert answer is not None
    assert decode_message(answer.payload).first(SaPayload) is not None


def test_payloads_leave_in_the_order_of_the_figures() -> None:
    """§2.5: "SHOULD send the payloads ... in the order shown in the figures"; §2.19: CP before SA."""
    pair = Pair().attach()
    wire = [line.split(" [ ")[1].split(", N(")[0] for line in pair.wire[:4]]
    assert wire[:2] == ["SAi1, KEi, Ni", "SAr1, KEr, Nr"]
    assert wire[2].startswith("IDi, CERTREQ, IDr")
    assert pair.wire[2].index("CP(CFG_REQUEST)") < pair.wire[2].index("SAi2, TSi, TSr")
    assert wire[3].startswith("IDr, CERT, AUTH")
    assert "AUTH, CP(CFG_REPLY), SAr2, TSi, TSr" in pair.wire[-1]


def test_vendor_ids_and_unknown_status_notifies_change_nothing() -> None:
    """§3.12: "Unfamiliar Vendor IDs MUST be ignored"; §3.10.1: so must status types, and error types in a request."""
    pair = Pair().attach()
    strange = (
        VendorIdPayload(data=b"nobody knows"),
        NotifyPayload(type=NotifyType.of(16000)),
        NotifyPayload(type=NotifyType.of(40000)),
        NotifyPayload(type=NotifyType.of(8000)),
    )
    receive(pair, pair.epdg, forge(pair, "ue", 4, *strange))
    assert pair.wire[-1] == "<-- INFORMATIONAL response 4 [ ]"
    assert pair.epdg.live.state is SaState.ESTABLISHED


def test_an_unknown_error_type_in_a_response_fails_the_request() -> None:
    """§3.10.1: "MUST assume that the corresponding request has failed entirely"."""
    pair = Pair().attach()
    pair.lose = lambda sender, datagram: True
    everything = TrafficSelector.network("0.0.0.0/0")
    pair.ue.endpoint.initiate(pair.ue.live, CreateChild((everything,), (everything,)), pair.now)
    pair.run(0.1)
    unknown = NotifyPayload(type=NotifyType.of(8000))
    answer = forge(pair, "epdg", 4, unknown, exchange=ExchangeType.CREATE_CHILD_SA, response=True)
    receive(pair, pair.ue, answer)
    assert pair.ue.take(CreateChildSaRefused).notify.type == 8000
    assert len(pair.ue.live.children) == 1


# --- addresses (§2.11, §2.23)


def test_requests_from_any_port_are_answered_there() -> None:
    """§2.11: "even if the source port is not 500 or 4500", to the address and port from which it came, from where."""
    pair = Pair()
    pair.lose = lambda sender, datagram: True
    pair.start()
    pair.run(0.0)
    came = Path(Endpoint.of("203.0.113.1", 500), Endpoint.of("198.51.100.200", 33333))
    pair.epdg.endpoint.receive(Datagram(came, pair.seen[0][1].payload), pair.now)
    answer = pair.epdg.endpoint.poll_transmit()
    assert answer is not None
    assert answer.path == came


# --- negotiation (§2.7, §2.18, §3.3)


def offer(*transforms: Transform) -> tuple[Proposal, ...]:
    return (Proposal(number=1, protocol=ProtocolId.IKE, transforms=transforms),)


POLICY = IkePolicy((IkeSuite.of("aes128-sha256-x25519"),))
FITTING = POLICY.proposals()[0].transforms


def without(kind: TransformType) -> tuple[Transform, ...]:
    return tuple(transform for transform in FITTING if transform.type != kind)


@pytest.mark.parametrize(
    "transform",
    [
        Transform(TransformType.ENCR, 12),
        Transform(TransformType.ENCR, 12, 128, unknown_attributes=((0x800E, b"\x00\x80"),)),
        Transform(TransformType.ENCR, 12, unknown_attributes=((14, b"\x00\x80"),)),
    ],
    ids=["no-key-length", "key-length-twice", "key-length-of-variable-form"],
)
def test_key_lengths_of_another_form_are_not_accepted(transform: Transform) -> None:
    """§3.3.5: proposals without a Key Length "MUST be rejected"; §3.3: no attribute twice; the fixed form alone."""
    select_ike(offer(*FITTING), POLICY)
    received = Transform.decode(Reader(transform.encode(more=False)[4:]))
    with pytest.raises(NegotiationError):
        select_ike(offer(received, *without(TransformType.ENCR)), POLICY)


def test_a_key_length_where_the_key_is_fixed_is_not_accepted() -> None:
    """§3.3.5: "MUST NOT be used with transforms that use a fixed-length key"."""
    policy = IkePolicy((IkeSuite.of("3des-sha1-modp1024"),))
    fitting = policy.proposals()[0].transforms
    assert all(transform.key_length_bits is None for transform in fitting)
    odd = tuple(replace(each, key_length_bits=192) if each.type == TransformType.ENCR else each for each in fitting)
    with pytest.raises(NegotiationError):
        select_ike(offer(*odd), policy)


def test_offers_are_numbered_from_one_with_one_transform_per_key_length() -> None:
    """§3.3.1: the first is 1, each one more than the one before; §3.3: alternatives are transforms of their own."""
    proposals = IkePolicy.of(["default"]).proposals()
    assert [proposal.number for proposal in proposals] == list(range(1, len(proposals) + 1))
    assert len(proposals) > 1
    assert all(not transform.unknown_attributes for proposal in proposals for transform in proposal.transforms)
    assert all(proposal.spi == b"" for proposal in proposals)
    lengths = {t.key_length_bits for p in proposals for t in p.of_type(TransformType.ENCR) if t.id == 12}
    assert lengths == {128, 256}


def test_a_rekey_of_the_ike_sa_without_key_exchange_is_refused() -> None:
    """§2.18: "a responder MUST NOT accept such a proposal"; without KEi it asks for one."""
    pair = Pair().attach()
    none = Transform(TransformType.KE, KeGroup.NONE)
    proposal = Proposal(
        number=1, protocol=ProtocolId.IKE, spi=bytes(range(1, 9)), transforms=(*without(TransformType.KE), none)
    )
    nonce = NoncePayload(data=bytes(32))
    create = ExchangeType.CREATE_CHILD_SA
    receive(pair, pair.epdg, forge(pair, "ue", 4, SaPayload((proposal,)), nonce, exchange=create))
    assert pair.wire[-1] == "<-- CREATE_CHILD_SA response 4 [ N(NO_PROPOSAL_CHOSEN) ]"
    full = replace(proposal, transforms=FITTING)
    receive(pair, pair.epdg, forge(pair, "ue", 5, SaPayload((full,)), nonce, exchange=create))
    assert pair.wire[-1] == "<-- CREATE_CHILD_SA response 5 [ N(INVALID_KE_PAYLOAD) ]"
    assert pair.epdg.live.state is SaState.ESTABLISHED


def test_key_exchanges_of_ours_are_of_a_group_that_is_offered_with_them() -> None:
    """§3.4, §1.3: the group "MUST match" one in the SA payload of the message; without a group there is no KE."""
    seen = 0
    for suite in ("aes128gcm16-x25519", "aes128gcm16"):
        pair = Pair(initiator_config(esp_policy=EspPolicy((EspSuite.of(suite),)))).attach()
        pair.ue.endpoint.initiate(pair.ue.live, RekeyChild(next(iter(pair.ue.live.children))), pair.now)
        pair.run(1.0)
        for event in messages(pair):
            sa, ke = event.message.first(SaPayload), event.message.first(KePayload)
            if sa is None:
                continue
            groups = {each.id for proposal in sa.proposals for each in proposal.of_type(TransformType.KE)}
            assert (ke is not None) == bool(groups)
            assert ke is None or ke.group in groups
            seen += ke is not None
    assert seen == 6


def test_nonces_are_fresh_long_enough_and_never_the_same() -> None:
    """§2.10: "MUST be at least 128 bits in size", half the key of the PRF; §3.9: "MUST NOT be reused"."""
    nonces = [nonce.data for event in messages(busy()) for nonce in event.message.all(NoncePayload)]
    assert len(nonces) == len(set(nonces)) == 10
    assert all(16 <= len(nonce) <= 256 for nonce in nonces)


def test_the_first_choice_of_the_initiator_survives_narrowing() -> None:
    """§2.9: "MUST narrow the Traffic Selectors to a subset that includes the initiator's first choices"."""
    first, rest = TrafficSelector.host("10.45.0.2"), TrafficSelector.network("0.0.0.0/0")
    assert narrow((first, rest), (TrafficSelector.network("10.45.0.0/16"),))[0] == first
    with pytest.raises(NegotiationError) as refused:
        narrow((first,), (TrafficSelector.host("10.45.0.3"),))
    assert refused.value.notify_type == NotifyType.TS_UNACCEPTABLE


def test_a_rekey_keeps_selectors_and_algorithms() -> None:
    """§2.8, §2.9.2: the same selectors, "MUST NOT narrow down" below those in use, no selectors of a packet."""
    pair = Pair().attach()
    before = next(iter(pair.ue.live.children.values())).spec
    for node in (pair.ue, pair.epdg):
        node.endpoint.initiate(node.live, RekeyChild(next(iter(node.live.children))), pair.now)
        pair.run(1.0)
        after = next(iter(pair.ue.live.children.values())).spec
        assert after.inbound_spi != before.inbound_spi
        assert (after.local_selectors, after.remote_selectors) == (before.local_selectors, before.remote_selectors)
        assert after.suite == before.suite
    asked = [tsi for event in messages(pair) for tsi in event.message.all(TsiPayload)]
    assert all(len(tsi.selectors) == 1 for tsi in asked)


def test_any_port_is_0_to_65535() -> None:
    """§3.13.1: "ANY" is start port 0 and end port 65535, also where the protocol has no ports."""
    for text in ("10.45.0.0/16", "2001:db8::/32"):
        selector = TrafficSelector.network(text)
        octets = TsiPayload(selectors=(selector,)).encode()
        assert octets[8:12] == b"\x00\x00\xff\xff"


# --- authentication (§2.15, §3.5, §4)


@pytest.mark.parametrize(
    ("kind", "data", "name"),
    [
        (IdType.ID_FQDN, b"ue.example", "ue.example"),
        (IdType.ID_RFC822_ADDR, b"ue@example.org", "ue@example.org"),
        (IdType.ID_KEY_ID, b"key one", "key one"),
        (IdType.ID_IPV4_ADDR, bytes([192, 0, 2, 9]), "192.0.2.9"),
        (IdType.ID_IPV6_ADDR, bytes.fromhex("20010db8000000000000000000000009"), "2001:db8::9"),
    ],
)
@pytest.mark.parametrize("own", [AuthenticationKind.PSK, AuthenticationKind.CERTIFICATE])
def test_shared_keys_for_every_kind_of_identity(kind: IdType, data: bytes, name: str, own: AuthenticationKind) -> None:
    """§3.5, §4: accept all four types and IPv6; the gateway by key or, "PKIX Certificates and ... shared key", not."""
    key = Secret(b"between the two of us")
    pair = Pair(
        initiator_config(
            identity=IdiPayload(id_type=kind, data=data),
            authentication=AuthenticationKind.PSK,
            psk=key,
            responder_identity=None,
            gateway_names=("epdg.epc.mnc001.mcc001.pub.3gppnetwork.org",),
        ),
        responder_config(
            authentications=frozenset({AuthenticationKind.PSK}), shared_keys={name: key}, own_authentication=own
        ),
    ).attach()
    assert pair.ue.live.state is SaState.ESTABLISHED


class Keys(ConfigurationModel):
    """As both nodes have it."""

    psk: SharedKey


def test_shared_keys_as_text_and_as_hexadecimal() -> None:
    """§2.15: "ASCII strings of at least 64 octets", no null terminator, and "a hex encoding of the shared secret"."""
    text = "".join(chr(33 + number % 90) for number in range(200))
    assert Keys.model_validate({"psk": text}).psk.reveal() == text.encode("ascii")
    assert Keys.model_validate({"psk": "0x" + "00ff" * 40}).psk.reveal() == bytes.fromhex("00ff" * 40)
    for bad in ("0xzz", "0xabc", ""):
        with pytest.raises(ValidationError):
            Keys.model_validate({"psk": bad})


# --- configuration, DELETE, limits


def test_a_reply_comes_to_a_request_only() -> None:
    """§2.19: "MUST NOT send a CFG_REPLY without having first received a CP(CFG_REQUEST)"."""
    pair = Pair().attach()
    kinds = [event.message.first(ConfigurationPayload) for event in messages(pair)]
    assert sum(payload is not None for payload in kinds) == 2
    receive(pair, pair.epdg, forge(pair, "ue", 4))
    assert pair.wire[-1] == "<-- INFORMATIONAL response 4 [ ]"


def test_a_delete_of_an_sa_that_does_not_exist_is_answered_without_one() -> None:
    """§2.25.1: "it SHOULD reply without a Delete payload"."""
    pair = Pair().attach()
    receive(pair, pair.epdg, forge(pair, "ue", 4, DeletePayload(protocol=ProtocolId.ESP, spis=(b"none",))))
    assert pair.wire[-1] == "<-- INFORMATIONAL response 4 [ ]"
    assert len(pair.epdg.live.children) == 1


def test_a_delete_names_spis_of_one_protocol() -> None:
    """§3.11: SPIs of four octets for ESP, none for IKE, one protocol in a payload."""
    pair = busy()
    pair.ue.endpoint.initiate(pair.ue.live, DeleteIkeSa("done"), pair.now)
    pair.run(1.0)
    deletes = [payload for event in messages(pair) for payload in event.message.all(DeletePayload)]
    assert {(each.protocol, len(spi)) for each in deletes for spi in each.spis} == {(ProtocolId.ESP, 4)}
    assert any(each.protocol == ProtocolId.IKE and not each.spis for each in deletes)
    ike = next(each for each in deletes if each.protocol == ProtocolId.IKE)
    assert ike.encode() == b"\x01\x00\x00\x00"


def test_a_sleeping_ike_sa_processes_requests_while_its_own_waits() -> None:
    """§2.3: "MUST be prepared to accept and process a request while it has a request outstanding"."""
    pair = Pair().attach()
    pair.lose = lambda sender, datagram: sender == "ue"
    pair.ue.endpoint.initiate(pair.ue.live, Liveness(), pair.now)
    pair.run(0.1)
    receive(pair, pair.ue, forge(pair, "epdg", 0))
    assert pair.wire[-1] == "--> INFORMATIONAL response 0 [ ]"
    assert pair.ue.live.window.outstanding is not None


def test_a_closed_sa_answers_its_last_request_for_a_while_and_then_forgets_its_keys() -> None:
    """§2.12: "each endpoint MUST forget not only the keys used by the connection but also" what leads to them."""
    pair = Pair().attach()
    pair.ue.endpoint.initiate(pair.ue.live, DeleteIkeSa("done"), pair.now)
    pair.run(1.0)
    endpoint = pair.epdg.endpoint
    assert list(endpoint._departed)
    pair.run(60.0)
    assert endpoint._departed == {}
    assert endpoint.next_deadline() is None


# --- ports (§2, §2.23)


class Wire:
    """A link that keeps what is sent."""

    def __init__(self, local: Endpoint) -> None:
        self.local = local
        self.sent: list[bytes] = []
        self.dropped: Counter[str] = Counter()

    def send(self, octets: bytes, remote: Endpoint, traffic_class: int | None = None) -> None:
        del remote, traffic_class
        self.sent.append(octets)

    def close(self) -> None:
        """Nothing is open."""


def test_port_4500_tells_ike_and_esp_apart_and_port_500_carries_no_esp() -> None:
    """§2: IKE on port 4500 "MUST begin with the prefix of four zeros"; §2.23: encapsulation not on port 500."""
    ike: list[Datagram] = []
    esp: list[bytes] = []
    ports = SwuPorts(on_ike=ike.append, on_esp=lambda octets, path, traffic_class: esp.append(octets))
    wires = {number: Wire(Endpoint.of("192.0.2.1", number)) for number in (500, 4500)}
    arrive = {}
    for number, wire in wires.items():

        def opener(received: Callable[[bytes, Path], None], number: int = number, wire: Wire = wire) -> Wire:
            arrive[number] = received
            return wire

        ports.open(wire.local, encapsulating=number == 4500, opener=opener)
    for wire in wires.values():
        path = Path(wire.local, Endpoint.of("203.0.113.1", wire.local.port))
        ports.send_ike(Datagram(path, b"an IKE message"))
        ports.send_esp(b"an ESP packet", path, encapsulation=True)
    assert wires[500].sent == [b"an IKE message"]
    assert wires[4500].sent == [bytes(4) + b"an IKE message", b"an ESP packet"]
    assert ports.dropped["no-port-for-esp"] == 1
    for number, wire in wires.items():
        for octets in (wire.sent[0], b"an ESP packet of its own"):
            arrive[number](octets, Path(wire.local, Endpoint.of("203.0.113.1", number)))
    assert [datagram.payload for datagram in ike] == [b"an IKE message", b"an ESP packet of its own", b"an IKE message"]
    assert esp == [b"an ESP packet of its own"]


def test_bare_esp_is_taken_beside_esp_in_udp_and_sent_where_it_was_agreed() -> None:
    """§2.23: "all devices MUST be able to receive and process both ... at any time"."""
    esp: list[tuple[bytes, Path]] = []
    ports = SwuPorts(on_ike=lambda datagram: None, on_esp=lambda octets, path, mark: esp.append((octets, path)))
    udp, raw = Wire(Endpoint.of("192.0.2.1", 4500)), Wire(Endpoint.of("192.0.2.1", 0))
    received: list[Callable[[bytes, Path], None]] = []

    def opener(wire: Wire) -> Callable[[Callable[[bytes, Path], None]], Wire]:
        def opening(receive: Callable[[bytes, Path], None]) -> Wire:
            received.append(receive)
            return wire

        return opening

    ports.open(udp.local, encapsulating=True, opener=opener(udp), raw=opener(raw))
    peer, no_port = Endpoint.of("203.0.113.1", 4500), Endpoint.of("203.0.113.1", 0)
    for encapsulation in (True, False):
        ports.send_esp(b"encapsulated" if encapsulation else b"bare", Path(udp.local, peer), encapsulation)
    assert (udp.sent, raw.sent) == ([b"encapsulated"], [b"bare"])
    in_udp, in_ip = received
    in_udp(b"ESP in UDP", Path(udp.local, peer))
    in_ip(b"ESP on IP", Path(raw.local, no_port))
    in_ip(b"short", Path(raw.local, no_port))
    assert esp == [(b"ESP in UDP", Path(udp.local, peer)), (b"ESP on IP", Path(udp.local, no_port))]
    assert ports.dropped["short"] == 1
    ports.close(udp.local)
    ports.send_esp(b"bare", Path(udp.local, peer), False)
    assert (raw.sent, ports.dropped["no-port-for-esp"]) == ([b"bare"], 1)


def test_what_cannot_go_straight_on_ip_goes_in_udp() -> None:
    """§2.23: "implementations MUST process received UDP-encapsulated ESP packets even when no NAT was detected"."""
    ports = SwuPorts(on_ike=lambda datagram: None, on_esp=lambda octets, path, traffic_class: None)
    wire = Wire(Endpoint.of("192.0.2.1", 4500))
    ports.open(wire.local, encapsulating=True, opener=lambda receive: wire)
    ports.send_esp(b"an ESP packet", Path(wire.local, Endpoint.of("203.0.113.1", 4500)), False)
    assert wire.sent == [b"an ESP packet"]


# --- the rest of §2.25, §3.3.6, §3.10, §3.15


@pytest.mark.parametrize("rekeyed", ["ike", "child"])
def test_a_delete_of_a_child_in_the_middle_of_a_rekey_is_answered_as_usual(rekeyed: str) -> None:
    """§2.25.1, §2.25.2: "it SHOULD reply as usual, with a Delete payload"."""
    pair = Pair().attach()
    spi = next(iter(pair.ue.live.children))
    pair.lose = lambda sender, datagram: sender == "ue"
    pair.ue.endpoint.initiate(pair.ue.live, RekeyIke() if rekeyed == "ike" else RekeyChild(spi), pair.now)
    pair.run(0.1)
    theirs = pair.ue.live.children[spi].spec.outbound_spi
    receive(pair, pair.ue, forge(pair, "epdg", 0, DeletePayload(protocol=ProtocolId.ESP, spis=(theirs,))))
    assert pair.wire[-1] == "--> INFORMATIONAL response 0 [ D ]"
    assert pair.ue.live.children == {}


def test_a_key_exchange_is_left_out_where_none_is_chosen() -> None:
    """§3.3.6: with group NONE chosen "it MUST ignore the initiator's KE payload and omit the KE payload"."""
    pair = Pair().attach()
    offered = EspPolicy((EspSuite.of("aes128gcm16"),)).proposals(b"\x12\x34\x56\x78")[0]
    groups = (Transform(TransformType.KE, KeGroup.CURVE25519), Transform(TransformType.KE, KeGroup.NONE))
    either = replace(offered, transforms=(*offered.transforms, *groups))
    everything = (TrafficSelector.network("0.0.0.0/0"),)
    request = forge(
        pair,
        "ue",
        4,
        SaPayload((either,)),
        NoncePayload(data=bytes(range(32))),
        KePayload(group=KeGroup.CURVE25519, data=bytes(range(32))),
        TsiPayload(selectors=everything),
        TsrPayload(selectors=everything),
        exchange=ExchangeType.CREATE_CHILD_SA,
    )
    receive(pair, pair.epdg, request)
    assert pair.wire[-1] == "<-- CREATE_CHILD_SA response 4 [ SA, Nr, TSi, TSr ]"


def test_notifies_name_a_protocol_where_they_name_an_spi() -> None:
    """§3.10: AH or ESP for child SAs; "If the SPI field is empty, this field MUST be sent as zero"."""
    notifies = [notify for event in messages(busy()) for notify in event.message.all(NotifyPayload)]
    assert {(n.type, n.protocol, len(n.spi)) for n in notifies if n.spi} == {(NotifyType.REKEY_SA, ProtocolId.ESP, 4)}
    assert all(notify.protocol == ProtocolId.NONE for notify in notifies if not notify.spi)


def test_the_netmask_comes_once_and_with_an_ipv4_address() -> None:
    """§3.15.1: "Only one netmask is allowed ..., and it MUST be used only with an INTERNAL_IP4_ADDRESS"."""
    asked = Request.of(
        ConfigurationAttribute(type=kind)
        for kind in (
            ConfigAttributeType.INTERNAL_IP4_ADDRESS,
            ConfigAttributeType.INTERNAL_IP4_NETMASK,
            ConfigAttributeType.INTERNAL_IP4_NETMASK,
            ConfigAttributeType.INTERNAL_IP6_ADDRESS,
        )
    )
    network = GrantedNetwork()
    both = [each.type for each in reply(asked, (ip_address("10.45.0.2"), ip_address("2001:db8::2")), network)]
    assert both.count(ConfigAttributeType.INTERNAL_IP4_NETMASK) == 1
    only = [each.type for each in reply(asked, (ip_address("2001:db8::2"),), network)]
    assert ConfigAttributeType.INTERNAL_IP4_NETMASK not in only


def test_long_messages_are_processed_and_answered() -> None:
    """§2: up to 1280 octets MUST, up to 3000 SHOULD be sent, received and processed, in one piece if need be."""
    pair = Pair(initiator_config(fragmentation=False), responder_config(fragmentation=False)).attach()
    for number, length in enumerate((1280, 3000), 4):
        cookie = NotifyPayload(type=NotifyType.COOKIE2, data=bytes(length - 100))
        request = forge(pair, "ue", number, cookie)
        assert length - 64 <= len(request.payload) <= length
        receive(pair, pair.epdg, request)
        assert len(pair.seen[-1][1].payload) == len(request.payload)


def test_the_full_set_is_proposed_again_after_invalid_ke_payload() -> None:
    """§1.2: "MUST again propose its full set of acceptable cryptographic suites"; §3.3.6 likewise."""
    suites = (IkeSuite.of("aes256-sha256-modp2048"), IkeSuite.of("aes128-sha256-x25519"))
    pair = Pair(initiator_config(ike_policy=IkePolicy(suites))).attach()
    first, second = (decode_message(datagram.payload) for sender, datagram in pair.seen[:3] if sender == "ue")
    assert second.first(KePayload) != first.first(KePayload)
    assert second.first(SaPayload) == first.first(SaPayload)
    assert pair.ue.live.state is SaState.ESTABLISHED


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (None, IdType.ID_RFC822_ADDR),
        ("ue@example.org", IdType.ID_RFC822_ADDR),
        ("ue.example", IdType.ID_FQDN),
        ("192.0.2.9", IdType.ID_IPV4_ADDR),
        ("2001:db8::9", IdType.ID_IPV6_ADDR),
    ],
)
def test_idi_of_the_ue_is_what_it_looks_like_without_terminators(text: str | None, kind: IdType) -> None:
    """§3.5: a NAI with realm SHOULD be ID_RFC822_ADDR; the string "MUST NOT contain any terminators"."""
    configuration = configured() if text is None else configured(identity=text)
    identity = own_identity(configuration)
    assert identity.id_type == kind
    assert text is None or identity_text(identity) == text
    for end in ("\0", "\r\n", "\n"):
        with pytest.raises(ConfigurationError):
            configured(identity=f"{text or 'ue'}{end}")


def test_a_request_for_a_child_of_an_ike_sa_that_is_replaced_is_put_off() -> None:
    """§2.8.2, §2.25.2: TEMPORARY_FAILURE, "because it is an IKE SA that it is currently trying to close"."""
    pair = Pair().attach()
    proposals = EspPolicy((EspSuite.of("aes128gcm16"),)).proposals(b"\x12\x34\x56\x78")
    everything = (TrafficSelector.network("0.0.0.0/0"),)
    late = forge(
        pair,
        "ue",
        5,
        SaPayload(proposals),
        NoncePayload(data=bytes(range(32))),
        TsiPayload(selectors=everything),
        TsrPayload(selectors=everything),
        exchange=ExchangeType.CREATE_CHILD_SA,
    )
    pair.lose = lambda sender, datagram: sender == "ue" and datagram.payload[18] == ExchangeType.INFORMATIONAL
    pair.ue.endpoint.initiate(pair.ue.live, RekeyIke(), pair.now)
    pair.run(0.1)
    receive(pair, pair.epdg, late)
    assert pair.wire[-1] == "<-- CREATE_CHILD_SA response 5 [ N(TEMPORARY_FAILURE) ]"
    assert len(pair.epdg.live.children) == 1
