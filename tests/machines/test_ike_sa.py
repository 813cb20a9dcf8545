"""IKE SAs in pairs on virtual time (RFC 7296): set-up, retransmission, refusals, liveness, DELETE, rekey."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from protocols.entropy import SeededEntropy
from protocols.errors import LocalError
from protocols.ikev2.certificates import CertificateVerifier, Credential
from protocols.ikev2.config import Lifetime
from protocols.ikev2.events import (
    ChildSaInstalled,
    ChildSaRemoved,
    ChildSaRetired,
    Closed,
    ConfigurationRequested,
    EapReply,
    EapResponseReceived,
    Established,
    Event,
    IdentityReceived,
    IkeKeysDerived,
    Refused,
    SaState,
)
from protocols.ikev2.message import Message, decode_message, encode_message
from protocols.ikev2.payloads import (
    AuthPayload,
    CertPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
)
from protocols.ikev2.proposals import EspPolicy, IkePolicy
from protocols.ikev2.registry import ExchangeType, HashAlgorithmId, KeGroup, NotifyType, PayloadType, ProtocolId
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.sealer import Sealer
from protocols.ikev2.spi import RandomSpis
from protocols.ikev2.suites import EspSuite, IkeSuite
from protocols.ikev2.tasks.child import RECEIVE_GRACE
from protocols.ikev2.tasks.informational import DeleteChildSa, DeleteIkeSa, Liveness
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.path import Datagram, Endpoint, Path
from protocols.secret import Secret
from protocols.selectors import TrafficSelector
from tests.harness.certificates import GATEWAY_FQDN, MOMENT, make_pki
from tests.harness.pair import (
    ACCESS_A,
    GATEWAY,
    INNER,
    MSK,
    Pair,
    answer_as_gateway,
    eap,
    initiator_config,
    refuse_with,
    responder_config,
)

INIT_REQUEST = (
    "--> IKE_SA_INIT request 0 [ SAi1, KEi, Ni, N(NAT_DETECTION_SOURCE_IP), "
    "N(NAT_DETECTION_DESTINATION_IP), N(IKEV2_FRAGMENTATION_SUPPORTED), N(SIGNATURE_HASH_ALGORITHMS) ]"
)


def test_ike_sa_init_with_one_lost_datagram() -> None:
    pair = Pair()
    pair.lose_next("ue")
    pair.start()
    pair.run(0.4)
    assert pair.epdg.sa is None
    pair.run(0.2)
    assert pair.wire[:2] == [INIT_REQUEST, INIT_REQUEST + " (again)"]
    assert pair.wire[2].startswith("<-- IKE_SA_INIT response 0 [ SAr1, KEr, Nr, ")
    assert pair.ue.live.keys == pair.epdg.live.keys


def test_attach_in_rfc_notation() -> None:
    """RFC 7296 §2.16: four requests with a two-round EAP method."""
    pair = Pair().attach()
    assert pair.wire[2:] == [
        "--> IKE_AUTH request 1 [ IDi, CERTREQ, IDr, N(INITIAL_CONTACT), N(MOBIKE_SUPPORTED), "
        "CP(CFG_REQUEST), SAi2, TSi, TSr ]",
        "<-- IKE_AUTH response 1 [ IDr, CERT, AUTH, EAP ]",
        "--> IKE_AUTH request 2 [ EAP ]",
        "<-- IKE_AUTH response 2 [ EAP ]",
        "--> IKE_AUTH request 3 [ AUTH ]",
        "<-- IKE_AUTH response 3 [ AUTH, CP(CFG_REPLY), SAr2, TSi, TSr, N(MOBIKE_SUPPORTED) ]",
    ]
    assert pair.ue.take(Established).requests == 4
    ue, epdg = pair.ue.take(ChildSaInstalled).spec, pair.epdg.take(ChildSaInstalled).spec
    assert (ue.inbound_spi, ue.outbound_spi) == (epdg.outbound_spi, epdg.inbound_spi)
    assert ue.inbound_encryption_key == epdg.outbound_encryption_key
    assert ue.outbound_encryption_key == epdg.inbound_encryption_key
    assert [str(s) for s in ue.local_selectors] == ["10.45.0.2"]
    assert ue.path.local.port == ue.path.remote.port == 4500  # RFC 4555 §3.3
    assert ue.suite == epdg.suite == EspSuite.of("aes128gcm16")


@pytest.mark.parametrize("sender", ["ue", "epdg"])
@pytest.mark.parametrize("number", range(4))
def test_any_one_datagram_may_be_lost(sender: str, number: int) -> None:
    """§2.1: the request is sent again, the response comes from the cache, nothing is done twice."""
    pair = Pair()
    count = [0]

    def lose(who: str, datagram: Datagram) -> bool:
        del datagram
        if who != sender:
            return False
        count[0] += 1
        return count[0] == number + 1

    pair.lose = lose
    pair.attach()
    assert pair.ue.live.state is pair.epdg.live.state is SaState.ESTABLISHED
    assert len([e for e in pair.epdg.events if isinstance(e, ChildSaInstalled)]) == 1
    assert pair.ue.live.window.retransmissions_sent == 1


def test_a_seed_replays_byte_for_byte() -> None:
    first, second, other = Pair(seed=7).attach(), Pair(seed=7).attach(), Pair(seed=8).attach()
    assert [d.payload for _, d in first.seen[:2]] == [d.payload for _, d in second.seen[:2]]
    assert [d.payload for _, d in first.seen] == [d.payload for _, d in second.seen]
    assert first.seen[0][1].payload != other.seen[0][1].payload


@pytest.mark.parametrize(
    ("ike", "esp"),
    [
        ("aes128-sha256-x25519", "aes128-sha256"),
        ("aes256-sha256-ecp256", "aes256-sha256"),
        ("aes128gcm16-prfsha256-x25519", "aes128gcm16"),
        ("aes256gcm16-prfsha256-modp2048", "aes256gcm16"),
        ("aes256-sha256-modp2048", "aes128gcm16"),
    ],
)
@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_suites(ike: str, esp: str, kind: str) -> None:
    pki = make_pki(kind=kind)
    policy = {"ike_policy": IkePolicy((IkeSuite.of(ike),)), "esp_policy": EspPolicy((EspSuite.of(esp),))}
    pair = Pair(initiator_config(pki, **policy), responder_config(pki, **policy)).attach()
    assert pair.ue.live.state is SaState.ESTABLISHED
    assert pair.ue.take(IkeKeysDerived).suite == IkeSuite.of(ike)


def test_cookie_is_demanded_under_load_and_put_first() -> None:
    """§2.6."""
    pair = Pair(epdg=responder_config(cookie_threshold=0)).attach()
    assert pair.wire[1] == INIT_REQUEST.replace("[ SAi1", "[ N(COOKIE), SAi1")
    assert pair.ue.live.state is SaState.ESTABLISHED
    assert pair.epdg.endpoint.dropped["cookie-demanded"] == 1


def test_cookie_of_somebody_else_is_no_good() -> None:
    pair = Pair(epdg=responder_config(cookie_threshold=0))
    pair.start()
    pair.run(0.015)
    with_cookie = Pair(epdg=responder_config(cookie_threshold=0), seed=2)
    with_cookie.start()
    with_cookie.run(1.0)
    stolen = next(d for s, d in with_cookie.seen if s == "ue" and d.payload != b"" and "COOKIE" in _summary(d))
    pair.epdg.endpoint.receive(Datagram(stolen.path.reversed(), stolen.payload), pair.now)
    assert pair.epdg.endpoint.half_open == 0
    assert pair.epdg.endpoint.dropped["cookie-demanded"] == 1
    assert pair.epdg.endpoint.dropped["cookie-wrong"] == 1


def _summary(datagram: Datagram) -> str:
    if datagram.payload[18] != 34:
        return ""
    return decode_message(datagram.payload).summary()


def test_invalid_ke_payload_is_obeyed_for_an_offered_group() -> None:
    """§1.2: a new KE of the group the responder names."""
    ue = initiator_config(
        ike_policy=IkePolicy((IkeSuite.of("aes256-sha256-modp2048"), IkeSuite.of("aes128-sha256-x25519")))
    )
    pair = Pair(ue).attach()
    assert "N(INVALID_KE_PAYLOAD)" in pair.wire[1]
    retry = [d for s, d in pair.seen if s == "ue"][1]
    ke = decode_message(retry.payload).first(KePayload)
    assert ke is not None
    assert ke.group == KeGroup.CURVE25519
    assert pair.ue.live.state is SaState.ESTABLISHED
    assert pair.epdg.endpoint.half_open == 0


def test_no_proposal_chosen() -> None:
    ue = initiator_config(ike_policy=IkePolicy((IkeSuite.of("aes256-sha256-modp2048"),)))
    pair = Pair(ue).attach()
    refused = pair.ue.take(Refused)
    assert refused.notify is not None
    assert refused.notify.type == NotifyType.NO_PROPOSAL_CHOSEN
    assert pair.ue.take(Closed).by_peer
    assert pair.epdg.endpoint.sas == pair.ue.endpoint.sas == {}


def test_silence_ends_the_attempt_after_the_retransmissions() -> None:
    """§2.4; 0.5 + 1 + 2 + 4 + 8 + 16 s after the first transmission."""
    pair = Pair()
    pair.lose = lambda sender, datagram: sender == "ue"
    pair.start()
    pair.run(31.4)
    assert not pair.ue.has(Closed)
    pair.run(0.2)
    assert "no response" in pair.ue.take(Closed).why
    assert pair.wire == [INIT_REQUEST] + [INIT_REQUEST + " (again)"] * 5
    assert len({d.payload for _, d in pair.seen}) == 1


def test_half_open_sas_expire() -> None:
    pair = Pair()
    pair.lose = lambda sender, datagram: sender == "epdg"
    pair.start()
    pair.run(29.0)
    assert pair.epdg.endpoint.half_open == 1
    pair.run(3.0)
    assert pair.epdg.endpoint.half_open == 0
    assert pair.epdg.endpoint.sas == pair.epdg.endpoint._departed == {}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"names": ("somebody.example", "internet")}, GATEWAY_FQDN),
        ({"end": MOMENT - timedelta(hours=1)}, "expired"),
        ({"begin": MOMENT + timedelta(hours=1), "end": MOMENT + timedelta(days=9)}, "valid from"),
    ],
)
def test_gateway_certificate_is_refused(change: dict[str, object], why: str) -> None:
    """TS 33.402 §8.2.2: the UE aborts and says why."""
    pki = make_pki(**change)  # type: ignore[arg-type]
    pair = Pair(initiator_config(pki), responder_config(pki)).attach()
    refused = pair.ue.take(Refused)
    assert not refused.by_peer
    assert why in refused.text
    assert not pair.ue.has(Established)
    assert not pair.epdg.has(Established)


def test_gateway_certificate_of_another_authority_is_refused() -> None:
    verifier = CertificateVerifier((make_pki().authority,), lambda: MOMENT)
    pair = Pair(initiator_config(verifier=verifier)).attach()
    assert not pair.ue.take(Refused).by_peer
    assert pair.ue.endpoint.sas == {}
    assert pair.wire[-2] == "--> INFORMATIONAL request 2 [ N(AUTHENTICATION_FAILED), D ]"  # §2.21.2
    assert "does not accept our authentication" in pair.epdg.take(Refused).text


def test_gateway_that_signs_with_another_key_is_refused() -> None:
    """U31: the right certificate, the wrong signature."""
    pki, other = make_pki(), make_pki()

    class Forger(Credential):
        def sign(self, octets: bytes, peer_hashes: frozenset[HashAlgorithmId]) -> AuthPayload:
            return Credential(other.chain, other.key).sign(octets, peer_hashes)

    pair = Pair(initiator_config(pki), responder_config(pki, credentials=(Forger(pki.chain, pki.key),))).attach()
    assert not pair.ue.take(Refused).by_peer
    assert not pair.ue.has(Established)


def test_eap_only_authentication() -> None:
    """RFC 5998: no certificate; both AUTH payloads come from the MSK."""
    pair = Pair(
        initiator_config(eap_only=True, verifier=None), responder_config(eap_only=True, credentials=())
    ).attach()
    assert "<-- IKE_AUTH response 1 [ IDr, EAP ]" in pair.wire
    assert pair.ue.live.state is SaState.ESTABLISHED


def test_a_gateway_that_does_not_authenticate_itself_is_refused_unless_eap_only() -> None:
    """U28: AUTH may be left out only for a UE that offered EAP-only."""

    class Forgetful(Credential):
        def cert_payloads(self) -> tuple[CertPayload, ...]:
            return ()

        def sign(self, octets: bytes, peer_hashes: object) -> AuthPayload:
            return NotifyPayload(type=NotifyType.INITIAL_CONTACT)  # type: ignore[return-value]

    pki = make_pki()
    pair = Pair(initiator_config(pki), responder_config(pki, credentials=(Forgetful(pki.chain, pki.key),))).attach()
    assert "did not authenticate itself" in pair.ue.take(Refused).text


@pytest.mark.parametrize("liar", ["ue", "epdg"])
def test_final_auth_must_verify_with_the_msk(liar: str) -> None:
    """§2.16, U55, G23: another MSK at either end, and nobody gets a tunnel."""
    pair = Pair()
    honest = pair.ue.answers

    def other_msk(event: Event) -> object:
        reply = honest(event) if liar == "ue" else answer_as_gateway(event)
        return EapReply(packet=reply.packet, msk=Secret(bytes(64))) if getattr(reply, "msk", None) == MSK else reply

    if liar == "ue":
        pair.ue.answers = other_msk
    else:
        pair.epdg.answers = other_msk
    pair.attach()
    refused = pair.epdg.take(Refused)
    assert refused.notify is not None
    assert refused.notify.type == NotifyType.AUTHENTICATION_FAILED
    assert pair.ue.take(Refused).by_peer
    assert not pair.epdg.has(ConfigurationRequested)
    assert not pair.ue.has(ChildSaInstalled)


def test_configuration_refused_reaches_the_ue_with_its_notify() -> None:
    pair = Pair()
    pair.epdg.answers = refuse_with(NotifyPayload(type=NotifyType(9002), data=b""), "no such APN")
    pair.attach()
    notify = pair.ue.take(Refused).notify
    assert notify is not None
    assert int(notify.type) == 9002
    assert pair.epdg.take(Closed).why == "no such APN"


def test_deferred_answer_absorbs_retransmissions() -> None:
    """The AAA server takes three seconds: one question, one answer, no second EAP round."""
    pair = Pair()
    questions: list[Event] = []

    def slow(event: Event) -> object:
        if isinstance(event, EapResponseReceived):
            questions.append(event)
            return None
        return answer_as_gateway(event)

    pair.epdg.answers = slow
    pair.start()
    pair.run(3.0)
    assert len(questions) == 1
    assert pair.ue.live.window.retransmissions_sent == 2
    pair.epdg.endpoint.answer(pair.epdg.live, EapReply(packet=eap(3, b""), msk=MSK), pair.now)
    pair.run(1.0)
    assert pair.ue.live.state is SaState.ESTABLISHED


def test_liveness_finds_a_dead_peer_and_leaves_a_live_one_alone() -> None:
    """§2.4."""
    pair = Pair(initiator_config(liveness_interval=10.0)).attach()
    pair.run(100.0)
    assert pair.wire.count("--> INFORMATIONAL request 4 [ ]") == 1
    assert pair.ue.live.state is SaState.ESTABLISHED
    pair.lose = lambda sender, datagram: True
    pair.run(45.0)
    assert "no response" in pair.ue.take(Closed).why


@pytest.mark.parametrize("end", ["ue", "epdg"])
def test_delete_from_either_end(end: str) -> None:
    """§1.4.1."""
    pair = Pair().attach()
    node, other = (pair.ue, pair.epdg) if end == "ue" else (pair.epdg, pair.ue)
    node.endpoint.initiate(node.live, DeleteIkeSa("detached by the user"), pair.now)
    pair.run(1.0)
    assert not node.take(Closed).by_peer
    assert other.take(Closed).by_peer
    assert node.take(ChildSaRemoved)
    assert other.take(ChildSaRemoved)
    assert pair.ue.endpoint.sas == pair.epdg.endpoint.sas == {}


@pytest.mark.parametrize("end", ["ue", "epdg"])
@pytest.mark.parametrize("esp", ["aes128gcm16", "aes128gcm16-x25519"])
def test_child_rekey_by_either_end(end: str, esp: str) -> None:
    """§1.3.3, §2.8: new SPIs and keys, the old pair deleted on both sides."""
    policy = {"esp_policy": EspPolicy((EspSuite.of(esp),))}
    pair = Pair(initiator_config(**policy), responder_config(**policy)).attach()
    node = pair.ue if end == "ue" else pair.epdg
    old = {n.name: n.take(ChildSaInstalled).spec for n in (pair.ue, pair.epdg)}
    node.endpoint.initiate(node.live, RekeyChild(old[end].inbound_spi), pair.now)
    pair.run(1.0)
    new = {n.name: n.take(ChildSaInstalled) for n in (pair.ue, pair.epdg)}
    assert all(new[name].replaces == old[name].inbound_spi for name in new)
    assert new["ue"].spec.inbound_encryption_key == new["epdg"].spec.outbound_encryption_key
    assert new["ue"].spec.inbound_encryption_key != old["ue"].inbound_encryption_key
    assert new["ue"].spec.local_selectors == old["ue"].local_selectors
    for n in (pair.ue, pair.epdg):
        assert n.take(ChildSaRetired).inbound_spi == old[n.name].inbound_spi
        assert not n.has(ChildSaRemoved)
    pair.run(RECEIVE_GRACE)
    for n in (pair.ue, pair.epdg):
        assert n.take(ChildSaRemoved).inbound_spi == old[n.name].inbound_spi
        assert list(n.live.children) == [new[n.name].spec.inbound_spi]


def test_child_lifetime_rekeys_for_a_day() -> None:
    """A day of hourly rekeying: 24 of them, and one pair of child SAs at any time."""
    config = {"child_lifetime": Lifetime(soft=3600.0, jitter=0.0)}
    pair = Pair(initiator_config(**config), responder_config(**config)).attach()
    pair.run(86400.0)
    installed = [e for e in pair.ue.events if isinstance(e, ChildSaInstalled)]
    assert len(installed) == 1 + 24
    assert len(pair.ue.live.children) == len(pair.epdg.live.children) == 1


def test_rekey_of_an_unknown_child_sa() -> None:
    """§2.25.1: CHILD_SA_NOT_FOUND, and the IKE SA lives."""
    pair = Pair().attach()
    del pair.epdg.live.children[next(iter(pair.epdg.live.children))]
    pair.ue.endpoint.initiate(pair.ue.live, RekeyChild(next(iter(pair.ue.live.children))), pair.now)
    pair.run(1.0)
    assert "<-- CREATE_CHILD_SA response 4 [ N(CHILD_SA_NOT_FOUND) ]" in pair.wire
    assert pair.ue.live.state is SaState.ESTABLISHED
    (ue,), (epdg,) = pair.ue.live.children, pair.epdg.live.children  # §2.25: made anew from scratch
    assert pair.ue.live.children[ue].spec.outbound_spi == epdg


def test_old_request_gets_the_same_octets_and_older_ones_nothing() -> None:
    """§2.1, §2.3."""
    pair = Pair().attach()
    for _ in range(2):
        pair.ue.endpoint.initiate(pair.ue.live, Liveness(), pair.now)
        pair.run(0.1)
    requests = [d for s, d in pair.seen if s == "ue"]
    responses = [d for s, d in pair.seen if s == "epdg"]
    pair.epdg.endpoint.receive(Datagram(requests[-1].path.reversed(), requests[-1].payload), pair.now)
    pair.run(0.001)
    assert pair.seen[-1][1].payload == responses[-1].payload
    count = len(pair.seen)
    pair.epdg.endpoint.receive(Datagram(requests[-2].path.reversed(), requests[-2].payload), pair.now)
    pair.run(0.001)
    assert len(pair.seen) == count
    assert pair.epdg.live.dropped["out-of-window"] == 1


def test_tampered_and_truncated_datagrams_are_dropped_and_counted() -> None:
    pair = Pair().attach()
    pair.ue.endpoint.initiate(pair.ue.live, Liveness(), pair.now)
    datagram = next(d for s, d in reversed(pair.seen) if s == "ue")
    sent = len(pair.seen)
    for position in range(len(datagram.payload)):
        octets = bytearray(datagram.payload)
        octets[position] ^= 0x40
        pair.epdg.endpoint.receive(Datagram(datagram.path.reversed(), bytes(octets)), pair.now)
        pair.epdg.endpoint.receive(Datagram(datagram.path.reversed(), datagram.payload[:position]), pair.now)
    assert pair.epdg.live.state is SaState.ESTABLISHED
    assert pair.epdg.live.dropped["bad-icv"] > 20
    assert pair.epdg.endpoint.dropped["malformed"] > 20
    pair.run(0.0)
    assert len(pair.seen) - sent <= 12  # answers to a higher version and to eight unknown SPIs at most


def test_a_moving_responder_is_a_local_error() -> None:
    pair = Pair().attach()
    with pytest.raises(LocalError, match="first initiator"):
        pair.epdg.live.move(pair.epdg.live.path, pair.now)
    with pytest.raises(LocalError, match="no question"):
        pair.epdg.live.answer(EapReply(packet=b""), pair.now)


def test_authentic_request_that_does_not_parse_is_answered_invalid_syntax() -> None:
    """§2.21.3: fatal once authenticated."""
    pair = Pair().attach()
    sa = pair.ue.live
    suite, keys = sa.established_keys()

    class Raw(NotifyPayload):
        def encode(self) -> bytes:
            return b"\x03\xff"

    message = Message(
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        exchange=ExchangeType.INFORMATIONAL,
        original_initiator=True,
        response=False,
        message_id=4,
        payloads=(Raw(type=NotifyType.INITIAL_CONTACT),),
    )
    octets = Sealer(suite, keys, True, SeededEntropy(3)).seal(message)
    pair.epdg.endpoint.receive(Datagram(sa.path.reversed(), octets), pair.now)
    pair.run(0.005)
    assert pair.wire[-1] == "<-- INFORMATIONAL response 4 [ N(INVALID_SYNTAX) ]"
    assert pair.epdg.has(Closed)


def test_plain_ikev2_needs_nothing_of_3gpp() -> None:
    """Remove ``protocols.threegpp`` and IKEv2 still attaches: no module of it was imported for this pair."""
    import subprocess
    import sys

    program = (
        "import sys; sys.modules['protocols.threegpp'] = None;"
        "from tests.harness.pair import Pair; from protocols.ikev2.events import SaState;"
        "pair = Pair().attach(); assert pair.ue.live.state is SaState.ESTABLISHED;"
        "assert not [m for m in sys.modules if m.startswith('protocols.threegpp.')]"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_gateway_address_is_the_one_the_ue_was_given() -> None:
    pair = Pair()
    pair.start(ACCESS_A)
    assert pair.seen == []
    pair.run(0.0)
    assert pair.seen[0][1].path.remote == GATEWAY


def test_echoed_apn_needs_no_place_in_the_certificate() -> None:
    """TS 24.302 §7.2.2.1: an APN the gateway does not know is refused by the gateway, not by its certificate."""
    pki = make_pki((GATEWAY_FQDN,))
    pair = Pair(initiator_config(pki), responder_config(pki)).attach()
    assert pair.ue.live.state is SaState.ESTABLISHED


def test_a_certificate_that_the_peer_refuses_in_informational_is_a_refusal() -> None:
    """§2.21.2: strongSwan says so with N(AUTHENTICATION_FAILED) in an exchange of its own, and is gone."""

    class Complaint:
        exchange = ExchangeType.INFORMATIONAL

        def build_request(self, sa: IkeSa, now: float) -> tuple[NotifyPayload, ...]:
            return (NotifyPayload(type=NotifyType.AUTHENTICATION_FAILED),)

        def process_response(self, sa: IkeSa, message: Message, path: Path, now: float) -> None:
            sa.close("we complained", now)

    pair = Pair().attach()
    pair.ue.endpoint.initiate(pair.ue.live, Complaint(), pair.now)
    pair.run(0.1)
    refused = pair.epdg.take(Refused)
    assert refused.by_peer
    assert refused.notify is not None
    assert refused.notify.type == NotifyType.AUTHENTICATION_FAILED
    assert pair.epdg.take(Closed).by_peer
    assert pair.wire[-1].startswith("<-- INFORMATIONAL response")


@pytest.mark.parametrize("group", ["x25519", "modp2048"])
def test_an_ike_sa_init_that_makes_no_sa_is_answered_with_spi_zero(group: str) -> None:
    """§2.6: INVALID_KE_PAYLOAD and NO_PROPOSAL_CHOSEN carry a responder's SPI of zero."""
    suites = IkePolicy((IkeSuite.of("aes128-sha256-ecp256"), IkeSuite.of("aes128-sha256-x25519")))
    ours = IkePolicy((IkeSuite.of(f"aes128-sha256-{group}"),))
    pair = Pair(initiator_config(ike_policy=suites), responder_config(ike_policy=ours))
    pair.start()
    pair.run(0.015)
    sender, refusal = pair.seen[1]
    assert sender == "epdg"
    message = decode_message(refusal.payload)
    assert message.spi_r == bytes(8)
    expected = NotifyType.INVALID_KE_PAYLOAD if group == "x25519" else NotifyType.NO_PROPOSAL_CHOSEN
    assert message.notify(expected) is not None
    pair.run(5.0)
    assert pair.ue.has(Established) is (group == "x25519")


def forge(
    pair: Pair,
    sender: str,
    exchange: ExchangeType,
    *payloads: Payload,
    message_id: int,
    response: bool = False,
    at: Endpoint | None = None,
) -> Datagram:
    """A message under the SA's keys that the machine of ``sender`` would not send, as the other end sees it."""
    sa = pair.ue.live if sender == "ue" else pair.epdg.live
    suite, keys = sa.established_keys()
    message = Message(
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        exchange=exchange,
        original_initiator=sender == "ue",
        response=response,
        message_id=message_id,
        payloads=payloads,
    )
    path = sa.path.reversed()
    octets = Sealer(suite, keys, sender == "ue", SeededEntropy(3)).seal(message)
    return Datagram(Path(path.local, at or path.remote), octets)


def test_forged_ike_sa_init_moves_no_response() -> None:
    """Who has seen the SPIs cannot have the deferred response, or the cached one, sent to himself."""
    pair = Pair()
    pair.epdg.answers = lambda event: None if isinstance(event, EapResponseReceived) else answer_as_gateway(event)
    pair.start()
    pair.run(1.0)
    sa = pair.epdg.live
    init = decode_message(pair.seen[0][1].payload)
    elsewhere = Path(sa.path.local, Endpoint.of("203.0.113.66", 500))
    count = len(pair.seen)
    for message_id in (0, 1, 2, 3):
        forged = encode_message(replace(init, spi_r=sa.spi_r, message_id=message_id))
        pair.epdg.endpoint.receive(Datagram(elsewhere, forged), pair.now)
    pair.run(0.0)
    assert len(pair.seen) == count
    pair.epdg.endpoint.answer(sa, EapReply(packet=eap(3, b""), msk=MSK), pair.now)
    pair.run(1.0)
    assert all(d.path.remote != elsewhere.remote for _, d in pair.seen)
    assert pair.ue.live.state is SaState.ESTABLISHED


def test_late_ike_sa_init_leaves_the_deferred_response_on_its_path() -> None:
    """A duplicate of the first datagram, from port 500, comes while IKE_AUTH on 4500 waits for the AAA server."""
    pair = Pair()
    pair.epdg.answers = lambda event: None
    pair.start()
    pair.run(0.1)
    first = pair.seen[0][1]
    pair.epdg.endpoint.receive(Datagram(first.path.reversed(), first.payload), pair.now)
    pair.epdg.endpoint.answer(pair.epdg.live, EapReply(packet=eap(1, b"request")), pair.now)
    pair.run(0.005)
    duplicate, response = [d for s, d in pair.seen if s == "epdg"][-2:]
    assert duplicate.path.local.port == 500
    assert response.path.local.port == response.path.remote.port == 4500


def critical(pair: Pair, sender: str, message_id: int, at: Endpoint | None = None) -> Datagram:
    """A request whose only payload is critical and unknown."""
    payload = UnknownPayload(PayloadType.of(200), True, b"")
    return forge(pair, sender, ExchangeType.INFORMATIONAL, payload, message_id=message_id, at=at)


@pytest.mark.parametrize("sender", ["ue", "epdg"])
def test_unsupported_critical_payload_is_answered_where_it_came_from_as_often_as_it_comes(sender: str) -> None:
    """§2.5, §2.1: the response may be lost, and the peer may probe from another address."""
    pair = Pair().attach()
    node = pair.epdg if sender == "ue" else pair.ue
    elsewhere = Endpoint.of("203.0.113.66", 4500)
    message_id = 4 if sender == "ue" else 0
    for at in (None, elsewhere):
        datagram = critical(pair, sender, message_id, at)
        node.endpoint.receive(datagram, pair.now)
        pair.run(0.0)
        assert pair.seen[-1][0] == node.name
        assert pair.seen[-1][1].path == datagram.path
        assert "UNSUPPORTED_CRITICAL_PAYLOAD" in pair.wire[-1]
    assert node.live.state is SaState.ESTABLISHED


@pytest.mark.parametrize("lost", ["refusal", "delete"])
def test_the_last_response_may_be_lost(lost: str) -> None:
    """§2.1: the SA has gone at this end, its last response is sent again all the same."""
    pair = Pair()
    if lost == "refusal":
        pair.epdg.answers = refuse_with(NotifyPayload(type=NotifyType(9002)), "no such APN")
        pair.start()
        pair.run(0.065)  # three round trips, and the fourth request is on its way
        pair.lose_next("epdg")
        pair.run(2.0)
        refused = pair.ue.take(Refused)
        assert refused.notify is not None
        assert int(refused.notify.type) == 9002
    else:
        pair.attach()
        pair.ue.endpoint.initiate(pair.ue.live, DeleteIkeSa("done"), pair.now)
        pair.lose_next("epdg")
        pair.run(2.0)
        assert pair.ue.take(Closed).why == "done"
    assert len([e for e in pair.epdg.events if isinstance(e, Closed)]) == 1
    assert isinstance(pair.epdg.events[-1], Closed)
    assert pair.epdg.endpoint.sas == {}


def test_only_the_last_request_of_a_closed_sa_is_answered() -> None:
    pair = Pair().attach()
    pair.ue.endpoint.initiate(pair.ue.live, DeleteIkeSa("done"), pair.now)
    pair.run(1.0)
    count = len(pair.seen)
    forged = forge(pair, "ue", ExchangeType.INFORMATIONAL, message_id=5)
    tampered = forge(pair, "ue", ExchangeType.INFORMATIONAL, message_id=4)
    for datagram in (forged, Datagram(tampered.path, tampered.payload[:-1] + b"\0")):
        pair.epdg.endpoint.receive(datagram, pair.now)
    pair.run(0.0)
    assert len(pair.seen) == count
    assert pair.epdg.endpoint.dropped["closed"] == 2


def test_datagrams_leave_nothing_behind_in_the_table_of_deadlines() -> None:
    """Forged ones, retransmissions and our own exchanges: one entry or two for an SA, not one for each."""
    pair = Pair(epdg=responder_config(liveness_interval=50.0, child_lifetime=Lifetime(soft=86400.0))).attach()
    endpoint = pair.epdg.endpoint
    junk = forge(pair, "ue", ExchangeType.INFORMATIONAL, message_id=4)
    for _ in range(500):
        endpoint.receive(Datagram(junk.path, junk.payload[:-1] + b"\0"), pair.now)
    assert len(endpoint._deadlines) <= 3
    pair.run(5000.0)
    assert len(endpoint._deadlines) <= 6
    assert pair.epdg.live.window.requests_sent > 90


def test_gateway_without_certificate_refuses_a_ue_that_does_not_offer_eap_only() -> None:
    """RFC 5998 §3: the answer is a refusal at once, and nobody is asked about the UE."""
    pair = Pair(epdg=responder_config(credentials=(), eap_only=True)).attach()
    refused = pair.ue.take(Refused)
    assert refused.notify is not None
    assert refused.notify.type == NotifyType.AUTHENTICATION_FAILED
    assert not pair.epdg.has(IdentityReceived)
    assert pair.epdg.endpoint.sas == {}


def ports(first: int, last: int) -> TrafficSelector:
    """The UE's inner address with a range of ports."""
    return replace(TrafficSelector.host(INNER), start_port=first, end_port=last)


def test_more_selectors_than_a_payload_can_hold() -> None:
    """§2.9, §3.13: 255 by 255 that all differ; the answer narrows further."""
    offered = tuple(ports(low, 65535) for low in range(255))
    pair = Pair(initiator_config(local_selectors=offered)).attach()
    old = pair.epdg.take(ChildSaInstalled).spec
    assert len(old.remote_selectors) == 255
    request = forge(
        pair,
        "ue",
        ExchangeType.CREATE_CHILD_SA,
        NotifyPayload(type=NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=old.outbound_spi),
        SaPayload(EspPolicy((EspSuite.of("aes128gcm16"),)).proposals(b"\1\2\3\4")),
        NoncePayload(bytes(32)),
        TsiPayload(tuple(ports(0, 60000 + high) for high in range(255))),
        TsrPayload((TrafficSelector.network("0.0.0.0/0"),)),
        message_id=4,
    )
    pair.epdg.endpoint.receive(request, pair.now)
    pair.run(0.0)
    assert pair.wire[-1].startswith("<-- CREATE_CHILD_SA response 4 [ SA, Nr, TSi, TSr ]")
    assert len(pair.epdg.take(ChildSaInstalled).spec.remote_selectors) == 255


def test_reserved_esp_spi_of_the_peer_is_refused() -> None:
    """RFC 4303 §2.1: 0 to 255 are no SPIs; the data plane would not take them."""

    class Reserved:
        def child_spi(self) -> bytes:
            return bytes([0, 0, 0, 7])

    pair = Pair()
    pair.start()
    pair.ue.live.spis = Reserved()
    pair.run(2.0)
    refused = pair.ue.take(Refused)
    assert refused.notify is not None
    assert refused.notify.type == NotifyType.NO_PROPOSAL_CHOSEN
    assert not pair.epdg.has(ChildSaInstalled)


def test_inbound_spis_are_unique_across_the_sas_of_an_endpoint() -> None:
    """RFC 4303 §4.1: an SPI alone finds the SA; an entropy source that repeats itself is asked again."""

    class Repeating:
        def __init__(self) -> None:
            self._other = SeededEntropy(5)
            self._count = 0

        def octets(self, length: int) -> bytes:
            if length != 4:
                return self._other.octets(length)
            self._count += 1
            return bytes([9, 9, 9, self._count // 3])

    spis = RandomSpis(Repeating(), in_use := set[bytes]())
    for _ in range(4):
        in_use.add(spis.child_spi())
    assert len(in_use) == 4
    pair = Pair().attach()
    (spi,) = pair.epdg.live.children
    assert spi in pair.epdg.endpoint._child_spis
    pair.ue.endpoint.initiate(pair.ue.live, RekeyChild(next(iter(pair.ue.live.children))), pair.now)
    pair.run(1.0 + RECEIVE_GRACE)
    assert pair.epdg.endpoint._child_spis == set(pair.epdg.live.children)
    pair.ue.endpoint.initiate(pair.ue.live, DeleteIkeSa("done"), pair.now)
    pair.run(1.0)
    assert pair.epdg.endpoint._child_spis == set()


def test_delete_of_the_old_child_overtakes_the_response_to_its_rekey() -> None:
    """§2.8: the new SA exists at the peer; it is installed though the old one has gone already."""
    pair = Pair().attach()
    old = pair.ue.take(ChildSaInstalled).spec
    pair.lose = lambda sender, datagram: sender == "epdg" and datagram.payload[18] == ExchangeType.CREATE_CHILD_SA
    pair.ue.endpoint.initiate(pair.ue.live, RekeyChild(old.inbound_spi), pair.now)
    pair.run(0.1)
    pair.epdg.endpoint.initiate(pair.epdg.live, DeleteChildSa(old.outbound_spi), pair.now)
    pair.run(0.1)
    assert pair.ue.live.children == {}
    pair.lose = lambda sender, datagram: False
    pair.run(2.0)
    new = pair.ue.take(ChildSaInstalled)
    assert new.replaces is None
    assert list(pair.epdg.live.children) == [new.spec.outbound_spi]


@pytest.mark.parametrize("esp", ["aes128gcm16", "aes128gcm16-x25519"])
def test_rekeys_by_both_ends_at_once_lose_nothing(esp: str) -> None:
    """§2.8.1 in its least form: both are refused for the moment, and the child SA carries on."""
    policy = {"esp_policy": EspPolicy((EspSuite.of(esp),))}
    pair = Pair(initiator_config(**policy), responder_config(**policy)).attach()
    for node in (pair.ue, pair.epdg):
        node.endpoint.initiate(node.live, RekeyChild(next(iter(node.live.children))), pair.now)
    pair.run(2.0)
    (ue,), (epdg,) = pair.ue.live.children.values(), pair.epdg.live.children.values()
    assert (ue.spec.inbound_spi, ue.spec.outbound_spi) == (epdg.spec.outbound_spi, epdg.spec.inbound_spi)
    pair.ue.endpoint.initiate(pair.ue.live, RekeyChild(ue.spec.inbound_spi), pair.now)
    pair.run(2.0)
    assert len(pair.ue.live.children) == len(pair.epdg.live.children) == 1
    assert pair.ue.live.children.keys() != {ue.spec.inbound_spi}


def test_deletes_of_the_ike_sa_cross() -> None:
    """§1.4.1: both answer, both are gone, nobody waits."""
    pair = Pair().attach()
    for node in (pair.ue, pair.epdg):
        node.endpoint.initiate(node.live, DeleteIkeSa("done"), pair.now)
    pair.run(0.1)
    assert pair.ue.endpoint.sas == pair.epdg.endpoint.sas == {}
    pair.run(60.0)
    assert pair.ue.endpoint.next_deadline() is pair.epdg.endpoint.next_deadline() is None
