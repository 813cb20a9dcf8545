"""What personas send, decoded, against what is known of the UEs they stand for, field by field.

The facts stand here as numbers of the wire, independently of the files in ``ue/personas``; their source is the
reference on real UEs (Android's from AOSP's Iwlan and IKE library). Fields on which it is silent are not compared.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from protocols.eap.aka.attributes import AtAnyIdReq, AtFullauthIdReq, AtIdentity, AtPermanentIdReq
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.peer import Pseudonym, ReauthenticationContext, TemporaryIdentities
from protocols.eap.packet import EapType, success
from protocols.entropy import SeededEntropy
from protocols.ikev2.events import (
    ChildSaInstalled,
    ConfigurationExchanged,
    EapReply,
    EapRequestReceived,
    Event,
    IdentityReceived,
    Refused,
    SaState,
    SpiRenewed,
)
from protocols.ikev2.extension import Step
from protocols.ikev2.message import Header, Message, encode_message
from protocols.ikev2.payloads import (
    AuthPayload,
    CertreqPayload,
    ConfigurationAttribute,
    ConfigurationPayload,
    IdiPayload,
    IdrPayload,
    KePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsiPayload,
    TsrPayload,
)
from protocols.ikev2.proposals import IkePolicy
from protocols.ikev2.registry import ConfigAttributeType, ConfigType, ExchangeType, IdType, NotifyType, TransformType
from protocols.ikev2.tasks.config import ExchangeConfiguration
from protocols.path import Datagram, Endpoint
from protocols.secret import Secret
from protocols.selectors import TrafficSelector
from protocols.threegpp.swu import DeviceSwu, GatewaySwu
from tests.harness.aka_server import IMSI, NAI, OPC, HandMadeServer, K
from tests.harness.certificates import GATEWAY_FQDN, make_pki
from tests.harness.pair import ACCESS_A, GATEWAY, answer_as_gateway, answer_as_ue, eap
from tests.harness.persona import (
    GATEWAY_SECTION,
    Editing,
    Phone,
    attached,
    configured,
    first_auth,
    lenient_gateway,
    names,
    of,
    offered,
)
from ue.authentication import Authenticator
from ue.commands import AnswerIke, AskUsim, Command
from ue.personas import shipped
from ue.profile import authenticator
from ue.retry import Retries
from ue.usim import SoftwareUsim

CBC, TRIPLE_DES, GCM_16 = 12, 3, 20
MD5, SHA1, XCBC, SHA256, SHA384, SHA512 = 1, 2, 5, 12, 13, 14  # of integrity
PRF_MD5, PRF_SHA1, PRF_XCBC, PRF_SHA256, PRF_SHA384, PRF_SHA512 = 1, 2, 4, 5, 6, 7
NATD_SOURCE, NATD_DESTINATION, COOKIE, COOKIE2 = 16388, 16389, 16390, 16401
MOBIKE, ADDITIONAL_4, ADDITIONAL_6, NO_ADDITIONAL, UPDATE = 16396, 16397, 16398, 16399, 16400
INITIAL_CONTACT, EAP_ONLY, FRAGMENTATION, SIGNATURE_HASHES = 16384, 16417, 16430, 16431
REDIRECT_SUPPORTED, N1_MODE, NO_NATS, BACKOFF = 16406, 51015, 16402, 41041
RFC822, FQDN, KEY_ID = 3, 2, 11
IP6_A, IP6_GATEWAY = Endpoint.of("2001:db8:1::1", 500), Endpoint.of("2001:db8:ffff::1", 500)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """``None``: the reference does not say. Lifetimes are (soft, hard); intervals in seconds."""

    encryption: list[tuple[int, int | None]] | None = None
    integrity: list[int] | None = None
    prfs: list[int] | None = None
    groups: list[int] | None = None
    first_group: int | None = None
    init: list[str] | None = None
    auth: list[str] | None = None
    one_suite: bool = False
    certreq: bool | None = None
    idr: int = FQDN
    attributes: list[int] | None = None
    p_cscf: tuple[int, int] | None = None
    eap_only: bool = False
    mobike: bool = True
    additional: list[int] | None = None
    retransmissions: list[float] | None = None
    given_up: float | None = None
    liveness: float | None = None
    keepalive: float | None = None
    ike_rekey: float | None = None
    child_rekey: float | None = None
    ike_hard: float | None = None
    child_hard: float | None = None
    dscp: int | None = None
    mtu: int | None = None
    stops_for: tuple[int, ...] = ()
    lax: int = 0


ANDROID = Facts(
    encryption=[(CBC, 128), (CBC, 192), (CBC, 256)],
    integrity=[XCBC, SHA1, SHA256, SHA384, SHA512],
    prfs=[PRF_XCBC, PRF_SHA1, PRF_SHA256, PRF_SHA384, PRF_SHA512],
    groups=[2, 5, 14],
    first_group=2,
    init=["SA", "KE", "NONCE", "N(16388)", "N(16389)", "N(16430)", "N(16431)"],
    auth=["IDi", "IDr", "N(16417)", "N(16396)", "N(16384)", "SA", "TSi", "TSr", "CP"],
    attributes=[1, 3, 20, 7],
    p_cscf=(20, 21),
    certreq=False,
    eap_only=True,
    retransmissions=[0.5, 1, 2, 4],
    given_up=15.5,
    liveness=120,
    keepalive=20,
    ike_rekey=7200,
    ike_hard=14400,
    child_rekey=3600,
    child_hard=7200,
    dscp=46,
    lax=2,
)
SAMSUNG = Facts(
    encryption=[(CBC, 128)],
    integrity=[SHA1],
    prfs=[PRF_SHA1],
    groups=[2],
    first_group=2,
    idr=KEY_ID,
    p_cscf=(20, 21),
    mobike=False,
    liveness=120,
    keepalive=30,
    ike_rekey=86400,
    child_rekey=28800,
)
OF_CARRIERS = replace(SAMSUNG, groups=[14], first_group=14, liveness=1800, p_cscf=(16384, 16386), mtu=1280)
IPHONE = Facts(one_suite=True, groups=[2], first_group=2, certreq=True, p_cscf=(16384, 16386), ike_rekey=80000)
FACTS = {
    "pixel-aosp": ANDROID,
    "pixel-carrier": replace(ANDROID, stops_for=(24, 9000, 9025, 9050, 11000, 11050)),
    "samsung-default": SAMSUNG,
    "samsung-carrier": OF_CARRIERS,
    "samsung-rare": replace(OF_CARRIERS, mobike=True, p_cscf=(16389, 16390), mtu=1300),
    "iphone": IPHONE,
    **{f"iphone-group{each}": replace(IPHONE, groups=[each], first_group=each) for each in (14, 1, 16)},
    "qualcomm": Facts(
        encryption=[(CBC, 128), (CBC, 256), (TRIPLE_DES, None)],
        integrity=[SHA1, XCBC, MD5],
        prfs=[PRF_SHA1, PRF_XCBC, PRF_MD5],
        groups=[2, 5, 14],
        first_group=2,
        ike_rekey=64800,
        ike_hard=64900,
        child_rekey=64800,
        child_hard=64900,
    ),
    "mediatek": Facts(lax=1),
    "strongswan": Facts(additional=[NO_ADDITIONAL], given_up=26.3),
}
PERSONAS = sorted(FACTS)
ANDROIDS = ["pixel-aosp", "pixel-carrier"]


def facts_with(field: str) -> list[str]:
    return [name for name in PERSONAS if getattr(FACTS[name], field) is not None]


def test_every_persona_has_its_facts() -> None:
    assert list(shipped()) == PERSONAS


@pytest.mark.parametrize("persona", PERSONAS)
def test_the_first_request(persona: str) -> None:
    """Proposals and their order, the group of KE, notifies and their order, the faked source."""
    facts, phone = FACTS[persona], attached(persona)
    request = phone.init_requests()[0]
    proposals, ke = of(request, SaPayload).proposals, of(request, KePayload)
    if facts.encryption is not None:
        (only,) = proposals
        assert offered(only, TransformType.ENCR) == facts.encryption
        assert [each for each, _ in offered(only, TransformType.INTEG)] == facts.integrity
        assert [each for each, _ in offered(only, TransformType.PRF)] == facts.prfs
    if facts.one_suite:
        (only,) = proposals
        assert all(len(offered(only, kind)) == 1 for kind in {transform.type for transform in only.transforms})
    if facts.groups is not None:
        assert [each for each, _ in offered(proposals[0], TransformType.KE)] == facts.groups
    if facts.first_group is not None:
        assert int(ke.group) == facts.first_group
    if facts.init is not None:
        assert names(request.payloads) == facts.init
    fake = hashlib.sha1(request.spi_i + bytes(8) + bytes([192, 0, 2, 0]) + bytes(2)).digest()
    told = {int(notify.type): notify.data for notify in request.all(NotifyPayload)}
    assert told[NATD_SOURCE] == fake
    gateway = hashlib.sha1(request.spi_i + bytes(8) + GATEWAY.address.packed + (500).to_bytes(2, "big")).digest()
    assert told[NATD_DESTINATION] == gateway
    assert (REDIRECT_SUPPORTED in told) is (persona == "strongswan")


@pytest.mark.parametrize("persona", PERSONAS)
def test_the_first_ike_auth(persona: str) -> None:
    """Identities, notifies and their order, CP, the child SA's proposal without groups."""
    facts, phone = FACTS[persona], attached(persona)
    request = first_auth(phone)
    identity, responder = of(request, IdiPayload), of(request, IdrPayload)
    assert (int(identity.id_type), identity.data) == (RFC822, NAI.encode())
    assert (int(responder.id_type), responder.data) == (facts.idr, b"internet")
    if facts.auth is not None:
        assert names(request.payloads) == facts.auth
    said = [int(notify.type) for notify in request.all(NotifyPayload)]
    assert (EAP_ONLY in said) is facts.eap_only
    assert (MOBIKE in said) is facts.mobike
    assert INITIAL_CONTACT in said
    assert NO_NATS not in said
    if facts.certreq is not None:
        assert (request.first(CertreqPayload) is not None) is facts.certreq
    assert request.first(AuthPayload) is None
    asked = [int(each.type) for each in of(request, ConfigurationPayload).attributes]
    if facts.attributes is not None:
        assert asked == facts.attributes
    if facts.p_cscf is not None:
        known = {20, 21, 16384, 16386, 16389, 16390}
        assert [each for each in asked if each in known] == [facts.p_cscf[0]]
    if facts.additional is not None:
        assert [each for each in said if each in (ADDITIONAL_4, ADDITIONAL_6, NO_ADDITIONAL)] == facts.additional
    for proposal in of(request, SaPayload).proposals:
        assert offered(proposal, TransformType.KE) == []
        if facts.encryption is not None:
            assert offered(proposal, TransformType.ENCR) == facts.encryption
            assert [each for each, _ in offered(proposal, TransformType.INTEG)] == facts.integrity


@pytest.mark.parametrize("persona", facts_with("p_cscf"))
def test_both_families_are_asked_for_with_the_same_kind_of_attributes(persona: str) -> None:
    phone = attached(persona, pdn_type="ipv4v6")
    asked = [int(each.type) for each in of(first_auth(phone), ConfigurationPayload).attributes]
    assert {each for each in asked if each in (20, 21) or each > 16383} == set(FACTS[persona].p_cscf or ())


EVERYTHING = {4: (4, bytes(4), b"\xff" * 4), 6: (6, bytes(16), b"\xff" * 16)}


@pytest.mark.parametrize(
    ("pdn_type", "families", "asked"),
    [("ipv4", [4], [1, 3, 20, 7]), ("ipv6", [6], [8, 10, 21, 7]), ("ipv4v6", [4, 6], [1, 3, 20, 8, 10, 21, 7])],
)
def test_android_offers_everything_in_each_family_and_asks_for_its_attributes(
    pdn_type: str, families: list[int], asked: list[int]
) -> None:
    """Full-range TSi/TSr per family; CP with address, DNS, P-CSCF 20/21, APPLICATION_VERSION."""
    phone = Phone("pixel-aosp", pdn_type=pdn_type)
    phone.attach()
    request = first_auth(phone)
    for payload in (of(request, TsiPayload), of(request, TsrPayload)):
        found = [
            (each.version, each.start.packed, each.end.packed, each.protocol, each.start_port, each.end_port)
            for each in payload.selectors
        ]
        assert found == [(*EVERYTHING[version], 0, 0, 65535) for version in families]
    attributes = of(request, ConfigurationPayload).attributes
    assert [(int(each.type), each.value) for each in attributes] == [(kind, b"") for kind in asked]


def test_android_names_the_address_that_it_hands_over() -> None:
    """On handover the old address is in the CP."""
    phone = Phone("pixel-aosp", pdn_type="ipv4v6", request={"previous_addresses": ["10.45.0.9", "2001:db8:45::9"]})
    phone.attach()
    asked = {int(each.type): each.value for each in of(first_auth(phone), ConfigurationPayload).attributes}
    assert asked[1] == bytes([10, 45, 0, 9])
    assert asked[8] == bytes.fromhex("20010db8004500000000000000000009") + bytes([64])  # RFC 7296 §3.15.1
    assert not any(value for kind, value in asked.items() if kind not in (1, 8))


def test_a_carriers_profile_may_say_another_group_and_key_id() -> None:
    """The first group of the KE and the form of IDr are those of the carrier's profile, the offer stays."""
    phone = attached("pixel-aosp", ike={"group": "modp2048", "responder_id": "key-id"})
    request = phone.init_requests()[0]
    assert int(of(request, KePayload).group) == 14
    assert [each for each, _ in offered(of(request, SaPayload).proposals[0], TransformType.KE)] == [2, 5, 14]
    responder = of(first_auth(phone), IdrPayload)
    assert (int(responder.id_type), responder.data) == (KEY_ID, b"internet")


@pytest.mark.parametrize("persona", facts_with("mtu"))
def test_the_mtu_inside(persona: str) -> None:
    """Of the device: ``tests/nodes/test_ue_tun.py``."""
    assert configured(persona).data_plane.mtu == FACTS[persona].mtu


@pytest.mark.parametrize("persona", [*ANDROIDS, "strongswan"])
def test_retransmissions(persona: str) -> None:
    """When a request is sent again, and when the gateway is given up."""
    facts, phone = FACTS[persona], Phone(persona)
    phone.drop = lambda sender, datagram: True
    phone.start()
    phone.run(200.0)
    times = [at for at, _ in phone.sent]
    gaps = [round(after - before, 6) for before, after in zip(times, times[1:], strict=False)]
    if facts.retransmissions is not None:
        assert gaps == facts.retransmissions
    closed = next(at for at, event in phone.said if type(event).__name__ == "Closed")
    assert closed == pytest.approx(facts.given_up, abs=0.05)


@pytest.mark.parametrize("persona", facts_with("liveness"))
def test_liveness_and_keepalives(persona: str) -> None:
    facts, phone = FACTS[persona], Phone(persona)
    outside = {500: Endpoint.of("192.0.2.254", 40500), 4500: Endpoint.of("192.0.2.254", 44500)}
    phone.translate = {Endpoint(ACCESS_A.address, port): found for port, found in outside.items()}
    phone.attach()
    begin = phone.now
    phone.run(3 * facts.liveness + 5 if facts.liveness else 0.0)
    probes = [at for at, _ in phone.requests(ExchangeType.INFORMATIONAL)]
    assert probes[-1] - probes[-2] == pytest.approx(facts.liveness, abs=0.1)
    assert probes[0] < begin + (facts.liveness or 0)
    keepalives = [at for at, datagram in phone.sent if datagram.payload == b"\xff"]
    assert keepalives[2] - keepalives[1] == pytest.approx(facts.keepalive, abs=0.1)
    if persona in ANDROIDS:
        assert all(not message.payloads for _, message in phone.requests(ExchangeType.INFORMATIONAL))


@pytest.mark.parametrize("persona", facts_with("ike_rekey"))
def test_lifetimes(persona: str) -> None:
    """When the UE rekeys child SA and IKE SA, on the wire: up to a tenth earlier where jitter is not known."""
    facts, quiet = FACTS[persona], {"keepalive_interval": None, "liveness_interval": None}
    for wanted, other in ((facts.ike_rekey, "child_lifetime"), (facts.child_rekey, "ike_lifetime")):
        if wanted is None:
            continue
        phone = attached(persona, **quiet, **{other: None})
        phone.run(wanted + 10)
        first = next(at for at, _ in phone.requests(ExchangeType.CREATE_CHILD_SA))
        assert 0.89 * wanted < first <= wanted + 1


@pytest.mark.parametrize("persona", facts_with("ike_hard"))
def test_the_end_of_what_cannot_be_rekeyed(persona: str) -> None:
    """At the hard lifetime the child SA is gone, and so is the IKE SA, though the gateway answers all but rekeys."""
    facts = FACTS[persona]
    for hard, other in ((facts.ike_hard, "child_lifetime"), (facts.child_hard, "ike_lifetime")):
        assert hard is not None
        phone = attached(persona, keepalive_interval=None, liveness_interval=None, **{other: None})
        refusing_rekeys(phone)
        phone.run(hard - 10)
        assert phone.ue.live.state is SaState.ESTABLISHED
        assert phone.ue.live.children
        phone.run(20)
        assert phone.ue.live.state is SaState.CLOSED or not phone.ue.live.children


def refusing_rekeys(phone: Phone) -> None:
    """From now on the gateway answers CREATE_CHILD_SA with NO_PROPOSAL_CHOSEN."""
    sealer = phone.epdg.live.sealer
    assert sealer is not None

    class Refusing(Editing):
        def open(self, octets: bytes, header: Header) -> Message:
            """The gateway reads of no proposal, so that it makes no successor."""
            message = super().open(octets, header)
            kept = tuple(each for each in message.payloads if not isinstance(each, SaPayload))
            return replace(message, payloads=kept)

        def seal(self, message: Message) -> bytes:
            refused = message.response and message.exchange == ExchangeType.CREATE_CHILD_SA
            failure = (NotifyPayload(type=NotifyType.NO_PROPOSAL_CHOSEN),)
            return super().seal(replace(message, payloads=failure) if refused else message)

    phone.epdg.live.sealer = Refusing(sealer, lambda payload: payload)


def test_android_sends_fragments_of_1280_octets() -> None:
    phone = Phone("pixel-aosp")

    def long(event: Event) -> object:
        if isinstance(event, EapRequestReceived) and event.packet[0] != 3:
            return EapReply(packet=eap(2, bytes(4000)))
        return answer_as_ue(event)

    phone.ue.answers = long
    phone.attach()
    assert phone.ue.live.state is SaState.ESTABLISHED
    pieces = [len(each.payload) for _, each in phone.sent if each.payload[16:17] == b"\x35"]  # SKF
    assert len(pieces) >= 4
    assert 1280 - 16 <= max(pieces) + 20 + 8 + 4 <= 1280  # with IPv4, UDP, non-ESP marker; CBC's blocks are of 16


def test_android_leaves_mobike_out_on_ipv6() -> None:
    phone = Phone("pixel-aosp")
    phone.start(IP6_A, IP6_GATEWAY)
    phone.run(5.0)
    assert phone.ue.live.state is SaState.ESTABLISHED
    assert MOBIKE not in [int(each.type) for each in first_auth(phone).all(NotifyPayload)]
    assert not phone.ue.live.mobility.negotiated


def test_android_says_its_pdu_session() -> None:
    phone = attached(None)  # without it: nothing
    assert N1_MODE not in [int(each.type) for each in first_auth(phone).all(NotifyPayload)]
    phone = attached("pixel-aosp", extension=lambda: DeviceSwu(pdu_session=5))
    last = first_auth(phone).payloads[-1]
    assert isinstance(last, NotifyPayload)
    assert (int(last.type), last.data) == (N1_MODE, b"\x01\x05")
    assert configured("pixel-aosp", request={"pdu_session": 5}).request.application_version


# --- IKE_SA_INIT again -----------------------------------------------------------------------------------


@pytest.mark.parametrize("persona", PERSONAS)
def test_cookie_comes_first_in_the_retry(persona: str) -> None:
    phone = attached(persona, epdg=lenient_gateway(cookie_threshold=0))
    first, second = phone.init_requests()[:2]
    assert names(second.payloads)[0] == f"N({COOKIE})"
    assert names(second.payloads)[1:] == names(first.payloads)
    assert second.spi_i == first.spi_i


def test_android_obeys_invalid_ke_payload_under_a_fresh_spi() -> None:
    gateway = lenient_gateway(ike_policy=IkePolicy.of(["aes256-sha256-modp2048"]))
    phone = attached("pixel-aosp", epdg=gateway)
    first, second = phone.init_requests()
    assert [int(of(each, KePayload).group) for each in (first, second)] == [2, 14]
    assert first.spi_i != second.spi_i
    assert phone.ue.has(SpiRenewed)
    assert list(phone.ue.endpoint.sas) == [second.spi_i]
    phone.run(300.0)  # its timers are those of the new SPI
    assert phone.requests(ExchangeType.INFORMATIONAL)


def test_a_cookie_for_the_old_spi_is_not_returned_with_a_fresh_one() -> None:
    gateway = lenient_gateway(ike_policy=IkePolicy.of(["aes256-sha256-modp2048"]), cookie_threshold=0)
    phone = attached("pixel-aosp", epdg=gateway)
    assert [names(each.payloads)[0] for each in phone.init_requests()] == ["SA", "N(16390)", "SA", "N(16390)"]


def test_android_obeys_only_a_group_of_every_proposal() -> None:
    suites = {"ike": ["aes128-sha256-modp1024", "aes128gcm16-prfsha256-modp2048"]}
    gateway = lenient_gateway(ike_policy=IkePolicy.of(["aes128gcm16-prfsha256-modp2048"]))
    phone = Phone("pixel-aosp", gateway, algorithms=suites)
    phone.attach()
    assert {int(of(each, KePayload).group) for each in phone.init_requests()} == {2}
    assert "was not offered" in phone.ue.take(Refused).text
    assert len(attached("mediatek", epdg=gateway, algorithms=suites).init_requests()) == 2


def demand_group(phone: Phone, group: int) -> None:
    """A forged INVALID_KE_PAYLOAD, which nobody signs."""
    phone.start()
    phone.run(0.0)
    (request,) = phone.init_requests()
    notify = NotifyPayload(type=NotifyType.INVALID_KE_PAYLOAD, data=group.to_bytes(2, "big"))
    answer = replace(request, response=True, original_initiator=False, payloads=(notify,))
    path = phone.sent[0][1].path
    phone.ue.endpoint.receive(Datagram(path, encode_message(answer)), phone.now)


def test_mediatek_accepts_a_group_that_was_not_offered() -> None:
    """CVE-2024-20069."""
    phone = Phone("mediatek", lenient_gateway(ike_policy=IkePolicy.of(["aes128-sha256-modp768"])))
    phone.drop = lambda sender, datagram: sender == "ue" and len(phone.sent) == 1
    demand_group(phone, 1)
    phone.run(5.0)
    first, second = phone.init_requests()
    assert all((1, None) not in offered(each, TransformType.KE) for each in of(first, SaPayload).proposals)
    assert int(of(second, KePayload).group) == 1
    assert phone.ue.live.suite is not None
    assert phone.ue.live.suite.group == 1
    assert phone.ue.live.state is SaState.ESTABLISHED


@pytest.mark.parametrize("persona", [None, *(name for name in PERSONAS if name not in ("mediatek", "iphone-group1"))])
def test_nobody_else_accepts_it(persona: str | None) -> None:
    phone = Phone(persona)
    phone.drop = lambda sender, datagram: True
    demand_group(phone, 1)
    phone.run(40.0)
    assert all(int(of(each, KePayload).group) != 1 for each in phone.init_requests())
    assert "group 1, which was not offered" in phone.ue.take(Refused).text


# --- what is checked of the gateway ----------------------------------------------------------------------


SOMEBODY_ELSE = IdrPayload(id_type=IdType.ID_FQDN, data=b"somewhere.else.example")


@pytest.mark.parametrize(("persona", "taken"), [("pixel-aosp", True), ("iphone", False), (None, False)])
def test_an_idr_that_is_not_in_the_certificate(persona: str | None, taken: bool) -> None:
    """Android takes any IDr."""
    phone = Phone(persona, lenient_gateway(identity=SOMEBODY_ELSE))
    phone.ue_config = replace(phone.ue_config, responder_identity=None)  # what it asks for would be echoed
    phone.attach()
    assert (phone.ue.live.state is SaState.ESTABLISHED) is taken


@pytest.mark.parametrize(("persona", "taken"), [("strongswan", False), ("pixel-aosp", True), (None, True)])
def test_an_echoed_apn_that_is_not_in_the_certificate(persona: str | None, taken: bool) -> None:
    """strongSwan wants it there; TS 24.302 §7.2.2.1 has the APN in IDr, which names no host."""
    pki = make_pki((GATEWAY_FQDN,))
    phone = Phone(persona, lenient_gateway(pki), pki=pki)
    phone.attach()
    assert (phone.ue.live.state is SaState.ESTABLISHED) is taken


@pytest.mark.parametrize("persona", [None, *PERSONAS])
def test_a_gateway_with_another_name_in_its_certificate_is_refused(persona: str | None) -> None:
    """iPhone: "certificate authentication with a hostname check"; nobody here goes without."""
    phone = Phone(persona, gateway={**GATEWAY_SECTION, "names": ["epdg.other.example"]})
    phone.attach()
    assert phone.ue.live.state is SaState.CLOSED
    assert "epdg.other.example" in phone.ue.take(Refused).text


@pytest.mark.parametrize("persona", [None, *PERSONAS])
def test_a_certificate_of_another_authority_is_refused(persona: str | None) -> None:
    phone = Phone(persona, lenient_gateway(make_pki()))
    phone.attach()
    assert phone.ue.live.state is SaState.CLOSED
    assert "certificate" in phone.ue.take(Refused).text


def edited(phone: Phone, edit: Callable[[Payload], Payload]) -> Phone:
    """The gateway's last IKE_AUTH response is not what it meant to say."""

    def answer(event: Event) -> object:
        sealer = phone.epdg.live.sealer
        if isinstance(event, IdentityReceived) and sealer is not None:
            phone.epdg.live.sealer = Editing(sealer, edit)
        return answer_as_gateway(event)

    phone.epdg.answers = answer
    phone.attach()
    return phone


def wrong_auth(payload: Payload) -> Payload:
    return replace(payload, data=bytes(len(payload.data))) if isinstance(payload, AuthPayload) else payload


@pytest.mark.parametrize("persona", [None, *PERSONAS])
def test_notifies_before_auth(persona: str | None) -> None:
    """Nobody attaches on a wrong AUTH; Android has acted upon the notifies beside it by then."""
    heard: list[str] = []
    phone = Phone(
        persona,
        extension=lambda: DeviceSwu(emergency_support=lambda: heard.append("emergency")),
        gateway_extension=lambda: GatewaySwu(emergency_support=True),
    )
    edited(phone, wrong_auth)
    assert phone.ue.live.state is SaState.CLOSED
    assert heard == (["emergency"] if persona in ANDROIDS else [])


@pytest.mark.parametrize("persona", [None, *PERSONAS])
def test_a_back_off_timer_before_auth(persona: str | None) -> None:
    """Beside a refusal of the child SA and a wrong AUTH: Android goes by it, nobody else."""
    heard: list[float] = []
    phone = Phone(persona, extension=lambda: DeviceSwu(back_off=heard.append))

    def refused(payload: Payload) -> Payload:
        if isinstance(payload, SaPayload):
            return NotifyPayload(type=NotifyType.INTERNAL_ADDRESS_FAILURE)
        if isinstance(payload, TsiPayload):
            return NotifyPayload(type=NotifyType.of(BACKOFF), data=bytes.fromhex("019e"))  # 15 minutes
        return wrong_auth(payload)

    edited(phone, refused)
    assert phone.ue.live.state is SaState.CLOSED
    assert heard == ([900.0] if persona in ANDROIDS else [])


@pytest.mark.parametrize("persona", [None, *PERSONAS])
@pytest.mark.parametrize("kind", [TsiPayload, TsrPayload])
def test_selectors_that_the_gateway_has_widened_are_refused(persona: str | None, kind: type[Payload]) -> None:
    """RFC 7296 §2.9: the responder narrows; what is wider than the offer is no answer to it."""

    def widened(payload: Payload) -> Payload:
        if isinstance(payload, TsiPayload | TsrPayload) and isinstance(payload, kind):
            return replace(payload, selectors=(*payload.selectors, TrafficSelector.network("::/0")))
        return payload

    phone = edited(Phone(persona), widened)
    assert phone.ue.live.state is SaState.CLOSED
    refusal = phone.ue.take(Refused)
    assert not refusal.by_peer
    assert refusal.text == f"the peer widened {kind.payload_type.name}"
    assert not phone.ue.has(ChildSaInstalled)


# --- identities inside of EAP ----------------------------------------------------------------------------


HELD = TemporaryIdentities(
    pseudonym=Pseudonym(method=EapType.AKA, username="2hidden"),
    reauthentication=ReauthenticationContext(
        method=EapType.AKA,
        identity="4once@aaa1.example",
        counter=1,
        k_encr=Secret(bytes(16)),
        k_aut=Secret(bytes(16)),
        k_re=Secret(bytes(20)),
        network_name=None,
    ),
)
PSEUDONYM = TemporaryIdentities(pseudonym=HELD.pseudonym)
REALM = NAI.partition("@")[2]


class Dialogue:
    """A persona's EAP at a server made by hand."""

    def __init__(self, persona: str | None, held: TemporaryIdentities) -> None:
        made = authenticator(configured(persona), SeededEntropy(1), held)
        assert isinstance(made, Authenticator)
        self.exchange = made.begin(lambda reply: AnswerIke(answer=reply))
        self.server = HandMadeServer()
        self.usim = SoftwareUsim(imsi=IMSI, k=K, opc=OPC)
        self.msk: Secret | None = None

    def hear(self, packet: bytes) -> bytes:
        """What the phone answers."""
        return self._answer(self.exchange.receive(packet))

    def _answer(self, commands: list[Command]) -> bytes:
        said = b""
        for command in commands:
            if isinstance(command, AskUsim):
                return self._answer(self.exchange.usim_answered(self.usim.authenticate(command.rand, command.autn)))
            if isinstance(command, AnswerIke) and isinstance(command.answer, EapReply):
                said, self.msk = command.answer.packet or b"", command.answer.msk
        return said


@pytest.mark.parametrize(
    ("persona", "held", "outer", "inner"),
    [
        ("pixel-aosp", TemporaryIdentities(), NAI, "0001010000000001"),
        ("pixel-aosp", PSEUDONYM, NAI, "0001010000000001"),
        ("pixel-aosp", HELD, "4once@aaa1.example", None),
        ("iphone", PSEUDONYM, f"2hidden@{REALM}", NAI),
        (None, PSEUDONYM, f"2hidden@{REALM}", f"2hidden@{REALM}"),
    ],
)
def test_identities(persona: str | None, held: TemporaryIdentities, outer: str, inner: str | None) -> None:
    """IDi, what AT_ANY_ID_REQ gets, and MK made of the identity that was given last."""
    dialogue = Dialogue(persona, held)
    assert dialogue.exchange.identity == outer
    if inner is None:
        return
    message = AkaMessage.decode(dialogue.hear(dialogue.server.ask(AtAnyIdReq())))
    assert [each.value for each in message.attributes if isinstance(each, AtIdentity)] == [inner.encode()]
    assert dialogue.hear(dialogue.server.challenge(inner)) != b""
    dialogue.hear(success(dialogue.server.identifier))
    assert dialogue.msk == dialogue.server.keys.msk


@pytest.mark.parametrize("request_kind", [AtAnyIdReq, AtFullauthIdReq, AtPermanentIdReq])
def test_android_answers_every_identity_request_with_the_bare_imsi(request_kind: type) -> None:
    dialogue = Dialogue("pixel-aosp", PSEUDONYM)
    message = AkaMessage.decode(dialogue.hear(dialogue.server.ask(request_kind())))
    assert [each.value for each in message.attributes if isinstance(each, AtIdentity)] == [b"0001010000000001"]


def test_android_without_identity_requests_makes_mk_of_the_nai() -> None:
    dialogue = Dialogue("pixel-aosp", TemporaryIdentities())
    dialogue.hear(dialogue.server.challenge(NAI))
    dialogue.hear(success(dialogue.server.identifier))
    assert dialogue.msk == dialogue.server.keys.msk


def subtype(packet: bytes) -> AkaSubtype:
    return AkaSubtype(AkaMessage.decode(packet).subtype)


@pytest.mark.parametrize("persona", [None, *PERSONAS])
def test_a_network_that_does_not_prove_itself_is_refused(persona: str | None) -> None:
    """AUTN rejected: Authentication-Reject; an old SQN: Synchronization-Failure; a bad AT_MAC: Client-Error."""

    def dialogue() -> Dialogue:
        return Dialogue(persona, TemporaryIdentities())

    good = dialogue()
    challenge = good.server.challenge(NAI)
    assert subtype(good.hear(challenge)) is AkaSubtype.CHALLENGE
    rejected = dialogue()
    rejected.usim = SoftwareUsim(imsi=IMSI, k=Secret(bytes(16)), opc=OPC)
    assert subtype(rejected.hear(challenge)) is AkaSubtype.AUTHENTICATION_REJECT
    late = dialogue()
    late.usim = good.usim
    assert subtype(late.hear(challenge)) is AkaSubtype.SYNCHRONIZATION_FAILURE
    forged = dialogue()
    assert subtype(forged.hear(challenge[:-1] + bytes([challenge[-1] ^ 1]))) is AkaSubtype.CLIENT_ERROR


def test_android_tells_its_imei_only_to_a_network_that_has_proved_itself_inside_eap() -> None:
    """DEVICE_IDENTITY, asked for with the first EAP packet: the certificate alone opens nothing."""
    dialogue = Dialogue("pixel-aosp", TemporaryIdentities())
    swu = DeviceSwu(imei="356938035643809", server_authenticated=lambda: dialogue.exchange.server_authenticated)
    asks = Message(
        spi_i=bytes(8), spi_r=bytes(8), exchange=ExchangeType.IKE_AUTH, original_initiator=False, response=True,
        message_id=1, payloads=(NotifyPayload(type=NotifyType.of(41101)),),
    )  # fmt: skip
    swu.take(Step.IDENTITY_RESPONSE, asks)
    dialogue.hear(dialogue.server.ask(AtAnyIdReq()))
    assert not swu.payloads(Step.EAP_REQUEST)
    dialogue.hear(dialogue.server.challenge("0001010000000001"))
    (told,) = swu.payloads(Step.EAP_REQUEST)
    assert isinstance(told, NotifyPayload)
    assert told.data[3:].hex().startswith("53968330653408")  # TS 24.302 §8.2.9.2: digits swapped


def test_temporary_failure_is_fatal_to_android_after_five_minutes() -> None:
    phone = attached("pixel-aosp", keepalive_interval=None, liveness_interval=None)
    sealer = phone.epdg.live.sealer
    assert sealer is not None

    class Busy(Editing):
        def open(self, octets: bytes, header: Header) -> Message:
            """The gateway reads of a child SA that it does not know, so that it does nothing."""
            message = super().open(octets, header)
            unknown = tuple(
                replace(each, spi=bytes(4)) if isinstance(each, NotifyPayload) and each.spi else each
                for each in message.payloads
            )
            return replace(message, payloads=unknown)

        def seal(self, message: Message) -> bytes:
            busy = message.response and message.exchange == ExchangeType.CREATE_CHILD_SA
            failure = (NotifyPayload(type=NotifyType.TEMPORARY_FAILURE),)
            return super().seal(replace(message, payloads=failure) if busy else message)

    phone.epdg.live.sealer = Busy(sealer, lambda payload: payload)
    phone.run(3600 + 290)
    assert phone.ue.live.state is SaState.ESTABLISHED
    phone.run(200)
    assert phone.ue.live.state is SaState.CLOSED


def pace(persona: str, causes: list[int | None]) -> list[float]:
    """How long the phone waits after each of these failures in a row."""
    retries = Retries(configured(persona).retry.policy())
    return [retries.failed(cause, 1000.0).at - 1000.0 for cause in causes]


@pytest.mark.parametrize("cause", [None, 24, 38, 9001, 10000, 11050])
def test_the_pace_of_androids_retries(cause: int | None) -> None:
    """5, 10, 10, 20, 40 ... 3600 s, without an end."""
    waits = pace("pixel-aosp", [cause] * 20)
    assert waits[:5] == [5, 10, 10, 20, 40]
    assert waits == sorted(waits)
    assert set(waits[-8:]) == {3600}


def test_a_carriers_profile_stops_after_two_tries() -> None:
    """For 24, 9000 to 9050 and 11000 to 11050; after a success it begins anew."""
    for cause in FACTS["pixel-carrier"].stops_for:
        assert pace("pixel-carrier", [cause, cause]) == [5, math.inf]
    for cause in (None, 23, 8999, 9051, 10999, 11051):
        assert pace("pixel-carrier", [cause] * 5) == [5, 10, 10, 20, 40]
    retries = Retries(configured("pixel-carrier").retry.policy())
    assert not retries.failed(24, 0.0).never
    retries.attached()
    assert not retries.failed(24, 0.0).never


# --- configuration exchanges ------------------------------------------------------------------------------


@pytest.mark.parametrize(("persona", "answered"), [("pixel-aosp", False), ("iphone", True)])
def test_android_does_not_answer_cp_with_cp(persona: str, answered: bool) -> None:
    phone = attached(persona)
    asked = (ConfigurationAttribute(type=ConfigAttributeType.INTERNAL_IP4_DNS, value=bytes(4)),)
    phone.epdg.endpoint.initiate(phone.epdg.live, ExchangeConfiguration(ConfigType.CFG_SET, asked), phone.now)
    phone.run(1.0)
    (answer,) = phone.received(ExchangeType.INFORMATIONAL, response=True)
    assert [each for each in answer.payloads if isinstance(each, ConfigurationPayload)] == list(answer.payloads)
    assert bool(answer.payloads) is answered
    assert (phone.epdg.take(ConfigurationExchanged).answer is not None) is answered


@pytest.mark.parametrize("persona", facts_with("dscp"))
def test_dscp(persona: str) -> None:
    """On the wire: ``tests/nodes/test_personas.py``."""
    assert configured(persona).ike.dscp == FACTS[persona].dscp


@pytest.mark.parametrize("persona", PERSONAS)
def test_what_a_persona_does_not_check_is_said(persona: str) -> None:
    header = configured(persona).persona
    assert header is not None
    assert (header.name, len(header.lax)) == (persona, FACTS[persona].lax)
