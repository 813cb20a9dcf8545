"""Authentication in IKE_AUTH on virtual time: every method at both ends, certificates, CRLs, OCSP, EAP's order.

RFC 7296 §2.15, §2.16, §3.6 to §3.8; RFC 4806, RFC 5998, RFC 7427, RFC 8420.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from protocols.errors import LocalError
from protocols.ikev2.certificates import CertificateVerifier
from protocols.ikev2.config import InitiatorConfig, ResponderConfig
from protocols.ikev2.events import (
    AuthenticationKind,
    ChildSaInstalled,
    ConfigurationRequested,
    EapReply,
    EapRequestReceived,
    EapResponseReceived,
    Established,
    Event,
    IdentityReceived,
    MessageReceived,
    Refused,
    SaState,
)
from protocols.ikev2.message import decode_message, encode_message
from protocols.ikev2.payloads import (
    AuthPayload,
    CertPayload,
    EapPayload,
    IdiPayload,
    IdrPayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsiPayload,
    TsrPayload,
)
from protocols.ikev2.registry import AuthMethod, CertEncoding, ExchangeType, IdType, NotifyType
from protocols.ikev2.revocation import Revocation, RevocationPolicy
from protocols.ikev2.signatures import library_pss
from protocols.path import Datagram
from protocols.secret import Secret
from tests.harness.certificates import GATEWAY_FQDN, MOMENT, Authority, Issued
from tests.harness.pair import MSK, Pair, answer_as_gateway, eap, initiator_config, responder_config
from tests.machines.test_ike_sa import forge

EAP, PSK, CERTIFICATE = AuthenticationKind.EAP, AuthenticationKind.PSK, AuthenticationKind.CERTIFICATE
KEY = Secret(b"correct horse battery staple")
UE = "ue-1@example.org"
IDI = IdiPayload(id_type=IdType.ID_RFC822_ADDR, data=UE.encode())
ROOT = Authority("root")
UE_ROOT = Authority("root of the UEs")
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def verifier(*authorities: Authority, revocation: Revocation | None = None) -> CertificateVerifier:
    return CertificateVerifier(tuple(one.der for one in authorities), lambda: MOMENT, revocation=revocation)


def ue(**changes: object) -> InitiatorConfig:
    """A UE that trusts ROOT."""
    return initiator_config(**{"identity": IDI, "verifier": verifier(ROOT), **changes})


def gateway(*issued: Issued, **changes: object) -> ResponderConfig:
    """A gateway with these certificates; every method is allowed."""
    values: dict[str, object] = {
        "credentials": tuple(one.credential(authorities=(ROOT.der,)) for one in issued),
        "authentications": frozenset(AuthenticationKind),
        "shared_keys": {UE: KEY},
        "verifier": verifier(UE_ROOT),
    }
    return responder_config(**{**values, **changes})


def by_certificate(issued: Issued | None = None, **changes: object) -> InitiatorConfig:
    """A UE that shows a certificate."""
    issued = issued or UE_ROOT.issue([UE], usage=CLIENT_AUTH)
    return ue(**{"authentication": CERTIFICATE, "credentials": (issued.credential(),), **changes})


def by_key(key: Secret = KEY, **changes: object) -> InitiatorConfig:
    """A UE with a pre-shared key."""
    return ue(**{"authentication": PSK, "psk": key, **changes})


def established(pair: Pair) -> bool:
    states = {pair.ue.live.state, pair.epdg.live.state}
    assert len({SaState.ESTABLISHED} & states) != 1 or len(states) == 1, pair.wire
    return states == {SaState.ESTABLISHED}


def sent(pair: Pair, sender: str, kind: type[AuthPayload] | type[CertPayload]) -> list[AuthPayload | CertPayload]:
    """Payloads of a kind that the other end received."""
    node = pair.epdg if sender == "ue" else pair.ue
    received = [event.message for event in node.events if isinstance(event, MessageReceived)]
    return [payload for message in received for payload in message.all(kind)]


def refused_by_ue(pair: Pair) -> str:
    """The UE's reason for refusing; the gateway has been told AUTHENTICATION_FAILED (§2.21.2)."""
    refused = pair.ue.take(Refused)
    assert not refused.by_peer
    assert not pair.ue.has(Established)
    assert any("--> INFORMATIONAL request 2 [ N(AUTHENTICATION_FAILED), D ]" in line for line in pair.wire)
    assert pair.epdg.endpoint.sas == pair.ue.endpoint.sas == {}
    return refused.text


def refused_by_gateway(pair: Pair, notify: NotifyType = NotifyType.AUTHENTICATION_FAILED) -> str:
    """The gateway's reason for refusing; the UE has seen the Notify."""
    theirs, ours = pair.ue.take(Refused), pair.epdg.take(Refused)
    assert theirs.by_peer
    assert theirs.notify is not None
    assert theirs.notify.type == notify
    assert not ours.by_peer
    assert not pair.epdg.has(Established)
    assert not pair.epdg.has(ConfigurationRequested)
    assert pair.epdg.endpoint.sas == pair.ue.endpoint.sas == {}
    return ours.text


# -- methods ----------------------------------------------------------------------------------------------


def test_pre_shared_key_in_rfc_notation() -> None:
    """§1.2: one exchange, both AUTH payloads by method 2."""
    pair = Pair(by_key(verifier=None), gateway()).attach()
    assert pair.wire[2:] == [
        "--> IKE_AUTH request 1 [ IDi, IDr, AUTH, N(INITIAL_CONTACT), N(MOBIKE_SUPPORTED), CP(CFG_REQUEST), "
        "SAi2, TSi, TSr ]",
        "<-- IKE_AUTH response 1 [ IDr, AUTH, CP(CFG_REPLY), SAr2, TSi, TSr, N(MOBIKE_SUPPORTED) ]",
    ]
    assert pair.ue.take(Established).requests == 2
    assert pair.epdg.take(IdentityReceived).authentication is PSK
    assert pair.epdg.take(ConfigurationRequested).identity == IDI
    ours, theirs = pair.ue.take(ChildSaInstalled).spec, pair.epdg.take(ChildSaInstalled).spec
    assert ours.inbound_encryption_key == theirs.outbound_encryption_key


def test_certificates_in_rfc_notation() -> None:
    """§1.2, §3.7: the gateway asks in the response to IKE_SA_INIT, the UE in IKE_AUTH."""
    pair = Pair(by_certificate(), gateway(ROOT.issue())).attach()
    assert pair.wire[1].startswith("<-- IKE_SA_INIT response 0 [ SAr1, KEr, Nr, CERTREQ, ")
    assert pair.wire[2:] == [
        "--> IKE_AUTH request 1 [ IDi, CERT, CERTREQ, IDr, AUTH, N(INITIAL_CONTACT), N(MOBIKE_SUPPORTED), "
        "CP(CFG_REQUEST), SAi2, TSi, TSr ]",
        "<-- IKE_AUTH response 1 [ IDr, CERT, AUTH, CP(CFG_REPLY), SAr2, TSi, TSr, N(MOBIKE_SUPPORTED) ]",
    ]
    assert pair.epdg.take(IdentityReceived).authentication is CERTIFICATE
    assert established(pair)


@pytest.mark.parametrize("lost", ["ue", "epdg"])
def test_one_exchange_survives_a_lost_datagram(lost: str) -> None:
    """§2.1: the second datagram of either end is lost; nobody is asked twice."""
    pair = Pair(by_key(), gateway())
    pair.start()
    pair.run(0.025 if lost == "epdg" else 0.015)
    pair.lose_next(lost)
    pair.run(5.0)
    assert established(pair)
    assert len([event for event in pair.epdg.events if isinstance(event, ConfigurationRequested)]) == 1


@pytest.mark.parametrize(
    ("initiator", "own", "method"),
    [
        (by_key(), None, AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE),
        (by_key(), CERTIFICATE, AuthMethod.DIGITAL_SIGNATURE),
        (by_certificate(), None, AuthMethod.DIGITAL_SIGNATURE),
        (by_certificate(psk=KEY), PSK, AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE),
        (ue(), None, AuthMethod.DIGITAL_SIGNATURE),
        (ue(), PSK, AuthMethod.DIGITAL_SIGNATURE),  # §2.16: with EAP the gateway MUST sign
    ],
    ids=["key-key", "key-certificate", "certificate-certificate", "certificate-key", "eap", "eap-never-key"],
)
def test_either_end_has_its_own_method(
    initiator: InitiatorConfig, own: AuthenticationKind | None, method: AuthMethod
) -> None:
    """§2.15: "There is no requirement that the initiator and responder sign with the same cryptographic algorithms"."""
    pair = Pair(initiator, gateway(ROOT.issue(), own_authentication=own)).attach()
    assert established(pair), pair.wire
    first = sent(pair, "epdg", AuthPayload)[0]
    assert isinstance(first, AuthPayload)
    assert first.method == method


@pytest.mark.parametrize("kind", ["ecdsa", "p384", "p521", "rsa", "ed25519", "ed448"])
@pytest.mark.parametrize("end", ["ue", "epdg"])
def test_kinds_of_keys(kind: str, end: str) -> None:
    """RFC 7427 §3, RFC 8420."""
    own = UE_ROOT.issue([UE], usage=CLIENT_AUTH, kind=kind if end == "ue" else "ecdsa")
    served = ROOT.issue(kind=kind if end == "epdg" else "ecdsa")
    pair = Pair(by_certificate(own), gateway(served)).attach()
    assert established(pair), pair.wire


def test_rsa_pss_at_both_ends() -> None:
    """RFC 7427 §4: RSASSA-PSS under method 14."""
    own, served = UE_ROOT.issue([UE], usage=CLIENT_AUTH, kind="rsa"), ROOT.issue(kind="rsa")
    pair = Pair(
        by_certificate(own, credentials=(own.credential(pss=library_pss),)),
        gateway(credentials=(served.credential(pss=library_pss),)),
    ).attach()
    assert established(pair)
    for end in ("ue", "epdg"):
        (auth,) = sent(pair, end, AuthPayload)
        assert auth.data[3:14] == bytes.fromhex("06092a864886f70d01010a")


def deterministic_pss(key: rsa.RSAPrivateKey, octets: bytes, digest: hashes.HashAlgorithm) -> bytes:
    """EMSA-PSS (RFC 8017 §9.1.1) with a salt made of the message, for replays."""
    name, length = digest.name, digest.digest_size
    hashed = hashlib.new(name, octets).digest()
    salt = hashlib.new(name, b"salt" + hashed).digest()
    size = (key.key_size + 7) // 8
    check = hashlib.new(name, bytes(8) + hashed + salt).digest()
    block = bytes(size - 2 * length - 2) + b"\1" + salt
    mask = b"".join(hashlib.new(name, check + count.to_bytes(4, "big")).digest() for count in range(size // length + 1))
    masked = bytearray(left ^ right for left, right in zip(block, mask, strict=False))
    masked[0] &= 0x7F
    encoded = int.from_bytes(bytes(masked) + check + b"\xbc", "big")
    numbers = key.private_numbers()
    return pow(encoded, numbers.d, numbers.public_numbers.n).to_bytes(size, "big")


def test_pss_replays_where_its_port_is_told_the_salt() -> None:
    """The library salts by itself; whoever needs the same octets again puts a signer of his own into the port."""
    served = ROOT.issue(kind="rsa")
    config = gateway(credentials=(served.credential(pss=deterministic_pss),))
    first, second = Pair(ue(), config, seed=7).attach(), Pair(ue(), config, seed=7).attach()
    assert established(first)
    assert [datagram.payload for _, datagram in first.seen] == [datagram.payload for _, datagram in second.seen]


# -- refusals ---------------------------------------------------------------------------------------------


def test_a_wrong_key_is_refused_by_the_gateway() -> None:
    """§2.15: nothing is granted, and nobody is asked."""
    pair = Pair(by_key(Secret(b"another")), gateway()).attach()
    assert "does not verify with the pre-shared key" in refused_by_gateway(pair)


def test_an_identity_without_a_key_is_refused() -> None:
    stranger = IdiPayload(id_type=IdType.ID_RFC822_ADDR, data=b"stranger@example.org")
    pair = Pair(by_key(identity=stranger), gateway()).attach()
    assert refused_by_gateway(pair) == "there is no pre-shared key for stranger@example.org"


def test_a_gateway_with_another_key_is_refused() -> None:
    """The UE has shown a certificate, the gateway proves itself by a key that is not the UE's."""
    config = gateway(own_authentication=PSK, shared_keys={UE: Secret(b"another")})
    assert "of the gateway does not verify" in refused_by_ue(Pair(by_certificate(psk=KEY), config).attach())


def test_a_gateway_that_proves_itself_by_a_key_nobody_has() -> None:
    config = gateway(own_authentication=PSK)
    assert "none is configured" in refused_by_ue(Pair(by_certificate(), config).attach())


def test_a_gateway_with_the_key_and_another_name_is_refused() -> None:
    """§2.15, RFC 4945 §3.1: the key may be that of many gateways, IDr says which."""

    asked = IdrPayload(id_type=IdType.ID_FQDN, data=b"gateway-1.example")
    pair = Pair(by_key(responder_identity=None, gateway_names=("gateway-1.example",)), gateway()).attach()
    assert f"says that it is {GATEWAY_FQDN}" in refused_by_ue(pair)
    assert established(Pair(by_key(responder_identity=asked, gateway_names=()), gateway()).attach())
    assert established(Pair(by_key(responder_identity=None, gateway_names=()), gateway()).attach())


def test_with_eap_a_gateway_may_not_prove_itself_by_a_key() -> None:
    """§2.16: "public-key-signature-based authentication of the responder"."""
    pair = Pair(ue(psk=KEY), gateway(ROOT.issue()))
    pair.epdg.answers = lambda event: None
    pair.start()
    pair.run(0.1)
    identity = IdrPayload(id_type=IdType.ID_FQDN, data=b"internet")
    auth = AuthPayload(AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE, bytes(32))
    packet = EapPayload(packet=eap(1, b"request"))
    response = forge(pair, "epdg", ExchangeType.IKE_AUTH, identity, auth, packet, message_id=1, response=True)
    pair.ue.endpoint.receive(response, pair.now)
    pair.run(0.0)
    assert "which EAP does not allow" in pair.ue.take(Refused).text


@pytest.mark.parametrize(
    ("initiator", "allowed"),
    [(by_key(), {EAP, CERTIFICATE}), (by_certificate(), {EAP, PSK}), (ue(), {PSK, CERTIFICATE})],
    ids=["psk", "certificate", "eap"],
)
def test_methods_that_are_not_allowed(initiator: InitiatorConfig, allowed: set[AuthenticationKind]) -> None:
    """AUTHENTICATION_FAILED; the UE's authority and AAA are never asked."""
    pair = Pair(initiator, gateway(ROOT.issue(), authentications=frozenset(allowed))).attach()
    text = refused_by_gateway(pair)
    assert text.startswith(f"the UE authenticates by {initiator.authentication.value}, this gateway allows ")
    assert not pair.epdg.has(IdentityReceived)


def test_a_gateway_that_wants_eap_from_a_ue_with_a_key() -> None:
    """The UE's AUTH asked for one exchange: EAP is not what it agreed to."""
    pair = Pair(by_key(), gateway())
    pair.epdg.answers = lambda event: None
    pair.start()
    pair.run(0.1)
    live = pair.epdg.live
    assert live.authenticator is not None
    identity = IdrPayload(id_type=IdType.ID_FQDN, data=b"internet")
    proof = live.authenticator._prove(live, identity)
    packet = EapPayload(packet=eap(1, b"request"))
    response = forge(pair, "epdg", ExchangeType.IKE_AUTH, *proof, packet, message_id=1, response=True)
    pair.ue.endpoint.receive(response, pair.now)
    pair.run(0.0)
    assert "EAP, which this UE did not ask for" in pair.ue.take(Refused).text


def test_configurations_that_cannot_authenticate() -> None:
    with pytest.raises(LocalError, match="pre-shared key"):
        ue(authentication=PSK)
    with pytest.raises(LocalError, match="certificate"):
        ue(authentication=CERTIFICATE)


@pytest.mark.parametrize(
    ("issued", "why"),
    [
        (UE_ROOT.issue(["other@example.org"], usage=CLIENT_AUTH), "is not for ue-1@example.org"),
        (UE_ROOT.issue([UE], usage=CLIENT_AUTH, begin=MOMENT - 2 * DAY, end=MOMENT - DAY), "expired"),
        (ROOT.issue([UE], usage=CLIENT_AUTH), "'CN=root', which is no trust anchor"),
        (UE_ROOT.issue([UE], usage=ExtendedKeyUsageOID.CODE_SIGNING), "neither clients nor IKE"),
    ],
    ids=["identity", "expired", "authority", "usage"],
)
def test_certificates_of_ues_that_are_refused(issued: Issued, why: str) -> None:
    """RFC 4945 §3.1, §5.1.3.12."""
    assert why in refused_by_gateway(Pair(by_certificate(issued), gateway(ROOT.issue())).attach())


def test_a_ue_that_signs_with_another_key_is_refused() -> None:
    own, other = UE_ROOT.issue([UE], usage=CLIENT_AUTH), UE_ROOT.issue([UE], usage=CLIENT_AUTH)
    forged = own.credential()
    forged._private_key = other.key
    pair = Pair(by_certificate(own, credentials=(forged,)), gateway(ROOT.issue())).attach()
    assert refused_by_gateway(pair) == "the signature in AUTH is wrong"


def test_a_gateway_that_takes_certificates_and_trusts_nobody() -> None:
    pair = Pair(by_certificate(), gateway(ROOT.issue(), verifier=None)).attach()
    assert "CERTREQ" not in pair.wire[1]
    assert refused_by_gateway(pair) == "no trust anchor to verify the UE by"


def test_a_gateway_that_does_not_take_the_ues_only_kind_of_signature() -> None:
    """RFC 8420 §2: without "Identity" in SIGNATURE_HASH_ALGORITHMS there is nothing to sign with Ed25519."""
    own = UE_ROOT.issue([UE], usage=CLIENT_AUTH, kind="ed25519")
    pair = Pair(by_certificate(own), gateway(ROOT.issue()))
    pair.lose = lambda sender, datagram: sender == "epdg"
    pair.start()
    pair.run(0.1)
    pair.lose = lambda sender, datagram: False
    answered = decode_message(next(d.payload for s, d in pair.seen if s == "epdg"))
    sha2 = NotifyPayload(NotifyType.SIGNATURE_HASH_ALGORITHMS, bytes.fromhex("000200030004"))
    payloads = tuple(
        sha2 if isinstance(one, NotifyPayload) and one.type == sha2.type else one for one in answered.payloads
    )
    octets = encode_message(replace(answered, payloads=payloads))
    pair.ue.endpoint.receive(Datagram(pair.ue.live.path, octets), pair.now)
    pair.run(1.0)
    refused = pair.ue.take(Refused)
    assert refused.text == "no certificate of ours has a key whose signatures the peer takes"
    assert pair.epdg.endpoint.sas == pair.ue.endpoint.sas == {}


# -- chains, and the choice of a certificate --------------------------------------------------------------


def test_chains_with_intermediates_in_any_order() -> None:
    """§3.6: the end certificate first, the others in any order."""
    lower = Authority("lower", above=Authority("upper", above=ROOT))
    issued = lower.issue()
    first, *others = issued.chain
    assert len(others) == 2
    shuffled = Issued(certificate=issued.certificate, chain=(first, *reversed(others)), key=issued.key)
    for one in (issued, shuffled):
        pair = Pair(ue(), gateway(one)).attach()
        assert established(pair)
        assert len(sent(pair, "epdg", CertPayload)) == 3


def test_a_missing_intermediate_is_named() -> None:
    issued = Authority("lower", above=ROOT).issue()
    alone = Issued(certificate=issued.certificate, chain=issued.chain[:1], key=issued.key)
    assert "is issued by 'CN=lower', which is no trust anchor" in refused_by_ue(Pair(ue(), gateway(alone)).attach())


def test_the_certificate_is_chosen_by_certreq() -> None:
    """§3.7: two authorities, two certificates; each UE gets the one that it can verify, a stranger the first."""
    other = Authority("another root")
    credentials = (
        ROOT.issue().credential(authorities=(ROOT.der,)),
        other.issue().credential(authorities=(other.der,)),
    )
    config = gateway(credentials=credentials)
    for trusted, shown in ((ROOT, 0), (other, 1)):
        pair = Pair(ue(verifier=verifier(trusted)), config).attach()
        assert established(pair)
        assert sent(pair, "epdg", CertPayload)[0].data == credentials[shown].chain[0]
    stranger = Pair(ue(verifier=verifier(Authority("nobody"))), config).attach()
    assert sent(stranger, "epdg", CertPayload)[0].data == credentials[0].chain[0]
    assert stranger.ue.take(Refused)


def test_the_certificate_is_chosen_by_the_intermediate_that_certreq_names() -> None:
    lower = Authority("lower", above=ROOT)
    config = gateway(credentials=(Authority("another").issue().credential(), lower.issue().credential()))
    assert established(Pair(ue(verifier=verifier(lower)), config).attach())


def test_the_certificate_is_chosen_by_idr() -> None:
    """Of two that CERTREQ leads to, the one for whom the UE wants."""
    ims = IdrPayload(id_type=IdType.ID_FQDN, data=b"ims")
    config = gateway(ROOT.issue([GATEWAY_FQDN, "internet"]), ROOT.issue([GATEWAY_FQDN, "ims"]))
    for wanted, shown in ((None, 0), (ims, 1)):
        pair = Pair(ue(responder_identity=wanted), config).attach()
        assert established(pair)
        assert sent(pair, "epdg", CertPayload)[0].data == config.credentials[shown].chain[0]


def test_a_ue_chooses_by_the_gateways_certreq() -> None:
    other = Authority("another root of UEs")
    mine = (other.issue([UE], usage=CLIENT_AUTH), UE_ROOT.issue([UE], usage=CLIENT_AUTH))
    credentials = (
        mine[0].credential(authorities=(other.der,)),
        mine[1].credential(authorities=(UE_ROOT.der,)),
    )
    pair = Pair(by_certificate(mine[0], credentials=credentials), gateway(ROOT.issue())).attach()
    assert established(pair)
    assert sent(pair, "ue", CertPayload)[0].data == mine[1].chain[0]


# -- revocation -------------------------------------------------------------------------------------------

SERVED = ROOT.issue()
RESPONDER = ROOT.issue(["ocsp.example"], usage=ExtendedKeyUsageOID.OCSP_SIGNING)
STRANGER = Authority("stranger").issue(["ocsp.example"], usage=ExtendedKeyUsageOID.OCSP_SIGNING)
CLERK = ROOT.issue(["clerk.example"])  # of the same authority, without id-kp-OCSPSigning
LATE = ROOT.issue(["ocsp.example"], usage=ExtendedKeyUsageOID.OCSP_SIGNING, begin=MOMENT - 2 * DAY, end=MOMENT - DAY)
INDIRECT = x509.IssuingDistributionPoint(
    full_name=None,
    relative_name=None,
    only_contains_user_certs=False,
    only_contains_ca_certs=False,
    only_some_reasons=None,
    indirect_crl=True,
    only_contains_attribute_certs=False,
)
REQUIRED, IF_PRESENT = RevocationPolicy.REQUIRED, RevocationPolicy.IF_PRESENT


def attach_with(
    revocation: Revocation, *responses: bytes, crls: tuple[bytes, ...] = (), served: Issued = SERVED
) -> Pair:
    """A UE with this policy at a gateway that staples the responses and sends CRLs (encoding 7)."""
    credential = served.credential(ocsp_responses=responses)
    chain = credential.cert_payloads()
    credential.cert_payloads = lambda: (  # type: ignore[method-assign]
        *chain,
        *(CertPayload(CertEncoding.CRL, crl) for crl in crls),
    )
    return Pair(ue(verifier=verifier(ROOT, revocation=revocation)), gateway(credentials=(credential,))).attach()


def attach_with_crls(policy: RevocationPolicy, by: str, *crls: bytes) -> Pair:
    """The CRLs lie with the UE, or come in CERT payloads of encoding 7."""
    if by == "configured":
        return attach_with(Revocation(policy, crls=crls))
    return attach_with(Revocation(policy), crls=crls)


@pytest.mark.parametrize("by", ["configured", "sent"])
def test_a_revoked_gateway_is_refused_by_crl(by: str) -> None:
    """RFC 5280 §6.3."""
    crl = ROOT.crl(SERVED.certificate)
    for policy in (IF_PRESENT, REQUIRED):
        assert f"{GATEWAY_FQDN}' was revoked at" in refused_by_ue(attach_with_crls(policy, by, crl))
    assert established(attach_with_crls(RevocationPolicy.OFF, by, crl))


@pytest.mark.parametrize("by", ["configured", "sent"])
def test_a_crl_without_the_gateway_vouches_for_it(by: str) -> None:
    assert established(attach_with_crls(REQUIRED, by, ROOT.crl(ROOT.issue().certificate)))


def test_ocsp_is_asked_for_and_stapled() -> None:
    """RFC 4806 §4.1, §4.2: a CERTREQ of its own, with the hashes of trusted responders; a CERT of its own."""
    revocation = Revocation(REQUIRED, responders=(STRANGER.chain[0],))
    pair = attach_with(revocation, ROOT.ocsp(SERVED.certificate))
    assert "CERTREQ, CERTREQ, IDr" in pair.wire[2]
    assert "<-- IKE_AUTH response 1 [ IDr, CERT, CERT, AUTH, EAP ]" in pair.wire
    assert established(pair)
    plain = Pair(ue(), gateway(credentials=(SERVED.credential(ocsp_responses=(ROOT.ocsp(SERVED.certificate),)),)))
    assert "<-- IKE_AUTH response 1 [ IDr, CERT, AUTH, EAP ]" in plain.attach().wire  # nobody has asked


@pytest.mark.parametrize("policy", [IF_PRESENT, REQUIRED])
@pytest.mark.parametrize(
    ("response", "why"),
    [
        (ROOT.ocsp(SERVED.certificate, status=ocsp.OCSPCertStatus.REVOKED), "was revoked at"),
        (
            ROOT.ocsp(SERVED.certificate, status=ocsp.OCSPCertStatus.REVOKED, made=MOMENT - DAY, until=MOMENT - HOUR),
            "was revoked at",
        ),
        (ROOT.ocsp(SERVED.certificate, status=ocsp.OCSPCertStatus.UNKNOWN), "does not know the certificate"),
        (ROOT.ocsp(SERVED.certificate, made=MOMENT - DAY, until=MOMENT - HOUR), "out of date"),
        (ROOT.ocsp(SERVED.certificate, made=MOMENT - 2 * DAY, until=None), "out of date"),
        (ROOT.ocsp(SERVED.certificate, made=MOMENT + HOUR), "of the future"),
        (ROOT.ocsp(SERVED.certificate, signer=STRANGER), "is not signed by 'CN=root'"),
        (ROOT.ocsp(SERVED.certificate, signer=CLERK), "is not signed by 'CN=root'"),
        (ROOT.ocsp(SERVED.certificate, signer=LATE), "is not signed by 'CN=root'"),
        (ROOT.ocsp(SERVED.certificate, digest=hashes.SHA224()), "is signed with another hash"),
        (ROOT.ocsp(SERVED.certificate)[:-1], "does not parse"),
        (bytes.fromhex("30030a0103"), "an error of the responder (TRY_LATER)"),
    ],
    ids=[
        "revoked",
        "revoked-old",
        "unknown",
        "stale",
        "old",
        "future",
        "stranger",
        "clerk",
        "late",
        "hash",
        "cut",
        "error",
    ],
)
def test_ocsp_responses_that_refuse_a_gateway(policy: RevocationPolicy, response: bytes, why: str) -> None:
    """RFC 6960 §3.2, §4.2.2.2; one plain reason."""
    text = refused_by_ue(attach_with(Revocation(policy), response))
    assert why in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("response", "responders"),
    [
        (ROOT.ocsp(SERVED.certificate), ()),
        (ROOT.ocsp(SERVED.certificate, algorithm=hashes.SHA256()), ()),
        (ROOT.ocsp(SERVED.certificate, until=None), ()),
        (ROOT.ocsp(SERVED.certificate, signer=RESPONDER), ()),
        (ROOT.ocsp(SERVED.certificate, signer=STRANGER), (STRANGER.chain[0],)),
    ],
    ids=["issuer", "sha256", "no-next-update", "delegate", "trusted"],
)
def test_ocsp_responses_that_vouch_for_a_gateway(response: bytes, responders: tuple[bytes, ...]) -> None:
    """RFC 6960 §4.2.2.2: the issuer, its delegate, or a responder that the UE trusts (RFC 4806 §3.1 (b))."""
    assert established(attach_with(Revocation(REQUIRED, responders=responders), response))


def test_what_is_required_and_missing() -> None:
    """Nothing at all, and a response about another certificate; ``if-present`` lets both pass."""
    other = ROOT.ocsp(ROOT.issue().certificate)
    for responses in ((), (other,)):
        assert "no CRL and no OCSP response" in refused_by_ue(attach_with(Revocation(REQUIRED), *responses))
        assert established(attach_with(Revocation(IF_PRESENT), *responses))


@pytest.mark.parametrize(
    ("crl", "why"),
    [
        (ROOT.crl(made=MOMENT - DAY, until=MOMENT - HOUR), "out of date"),
        (ROOT.crl(made=MOMENT + HOUR), "of the future"),
        (ROOT.crl(signer=Authority("stranger")), "is not signed by it"),
        (ROOT.crl(digest=hashes.SHA224()), "is signed with another hash"),
        (ROOT.crl(extension=INDIRECT), "is of a special kind"),
        (ROOT.crl()[:-1], "does not parse"),
    ],
    ids=["stale", "future", "forged", "hash", "indirect", "cut"],
)
def test_crls_that_cannot_be_relied_on(crl: bytes, why: str) -> None:
    assert why in refused_by_ue(attach_with(Revocation(IF_PRESENT), crls=(crl,)))
    if why != "does not parse":  # other evidence that is good makes up for it
        assert established(attach_with(Revocation(REQUIRED), ROOT.ocsp(SERVED.certificate), crls=(crl,)))


def test_an_authority_that_may_not_sign_crls() -> None:
    """RFC 5280 §6.3.3 (f)."""
    clerical = Authority("clerical", above=ROOT, signs_crls=False)
    crls = (clerical.crl(), ROOT.crl())
    pair = attach_with(Revocation(IF_PRESENT, crls=crls), served=clerical.issue())
    assert "may not sign CRLs" in refused_by_ue(pair)


def test_every_certificate_below_the_anchor_is_checked() -> None:
    """RFC 5280 §6.1.3 (a)(3): a revoked intermediate takes its certificates with it."""
    lower = Authority("lower", above=ROOT)
    served = lower.issue()
    vouching = (lower.crl(), ROOT.crl())
    assert established(attach_with(Revocation(REQUIRED, crls=vouching), served=served))
    revoked = (lower.crl(), ROOT.crl(lower.certificate))
    assert "'CN=lower' was revoked" in refused_by_ue(attach_with(Revocation(IF_PRESENT, crls=revoked), served=served))
    missing = refused_by_ue(attach_with(Revocation(REQUIRED, crls=vouching[:1]), served=served))
    assert "'CN=lower' is not revoked" in missing


def test_more_evidence_than_anybody_needs_is_refused() -> None:
    crls = (ROOT.crl(),) * 9
    assert "more than 8 CRLs" in refused_by_ue(attach_with(Revocation(IF_PRESENT), crls=crls))
    many = Issued(certificate=SERVED.certificate, chain=SERVED.chain * 11, key=SERVED.key)
    assert "more than 10 certificates" in refused_by_ue(attach_with(Revocation(), served=many))


def test_a_revoked_ue_is_refused_by_crl_and_by_ocsp() -> None:
    """The same at the gateway, which asks for OCSP in the response to IKE_SA_INIT (RFC 4806 §5.1)."""
    own = UE_ROOT.issue([UE], usage=CLIENT_AUTH)
    for status, crls, why in (
        (ocsp.OCSPCertStatus.GOOD, (), None),
        (ocsp.OCSPCertStatus.REVOKED, (), "(OCSP)"),
        (ocsp.OCSPCertStatus.GOOD, (UE_ROOT.crl(own.certificate),), "(CRL)"),
    ):
        credential = own.credential(ocsp_responses=(UE_ROOT.ocsp(own.certificate, status=status),))
        checks = verifier(UE_ROOT, revocation=Revocation(REQUIRED, crls=crls))
        pair = Pair(by_certificate(own, credentials=(credential,)), gateway(ROOT.issue(), verifier=checks)).attach()
        assert "Nr, CERTREQ, CERTREQ, " in pair.wire[1]
        if why is None:
            assert established(pair)
        else:
            assert why in refused_by_gateway(pair)


# -- EAP --------------------------------------------------------------------------------------------------


def endless(event: Event) -> object:
    """A gateway whose AAA server never comes to an end."""
    if isinstance(event, EapResponseReceived):
        return EapReply(packet=eap(1, b"again"))
    return answer_as_gateway(event)


def test_rounds_of_eap_are_bounded_at_the_ue() -> None:
    """Thirty packets of a gateway that does not come to an end."""
    pair = Pair()
    pair.epdg.answers = endless
    pair.attach()
    assert "more than 30 rounds" in pair.ue.take(Refused).text
    assert len([event for event in pair.ue.events if isinstance(event, EapRequestReceived)]) == 30
    assert pair.epdg.endpoint.sas == {}


def test_rounds_of_eap_are_bounded_at_the_gateway() -> None:
    """Thirty packets of a UE that does not come to an end."""
    pair = silent_ue()
    pair.epdg.answers = endless
    pair.epdg.endpoint.receive(forge(pair, "ue", ExchangeType.IKE_AUTH, *first_request(pair), message_id=1), pair.now)
    packet = EapPayload(packet=eap(2, b"again"))
    for message_id in range(2, 33):
        pair.run(0.0)
        request = forge(pair, "ue", ExchangeType.IKE_AUTH, packet, message_id=message_id)
        pair.epdg.endpoint.receive(request, pair.now)
    pair.run(0.0)
    assert "more than 30 rounds" in pair.epdg.take(Refused).text
    assert len([event for event in pair.epdg.events if isinstance(event, EapResponseReceived)]) == 30
    assert pair.epdg.endpoint.sas == {}


def silent_ue() -> Pair:
    """A half-open SA; the UE's own IKE_AUTH never arrives."""
    pair = Pair()
    pair.lose = lambda sender, datagram: sender == "ue" and datagram.payload[18] == ExchangeType.IKE_AUTH
    pair.start()
    pair.run(0.1)
    return pair


def first_request(pair: Pair) -> tuple[Payload, ...]:
    """What the UE's first IKE_AUTH request must hold."""
    config = pair.ue_config
    return (
        config.identity,
        SaPayload(config.esp_policy.proposals(b"\1\2\3\4", with_group=False)),
        TsiPayload(config.local_selectors),
        TsrPayload(config.remote_selectors),
    )


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (eap(1, b"a request"), "EAP-Request of the UE"),
        (bytes([3, 1, 0, 4]), "EAP-Success of the UE"),
        (bytes([2, 9, 0, 5, 23]), "nothing that was asked"),
        (bytes([2, 1, 0, 99, 23]), "no EAP packet"),
        (b"", "no EAP packet"),
    ],
    ids=["request", "success", "identifier", "length", "empty"],
)
def test_eap_out_of_order_at_the_gateway(packet: bytes, why: str) -> None:
    """RFC 3748 §4.1, RFC 7296 §2.21.2: INVALID_SYNTAX, and the AAA server is not troubled."""
    pair = Pair()
    pair.ue.answers = lambda event: EapReply(packet=packet) if isinstance(event, EapRequestReceived) else None
    pair.attach()
    assert why in refused_by_gateway(pair, NotifyType.INVALID_SYNTAX)
    assert not pair.epdg.has(EapResponseReceived)


@pytest.mark.parametrize(
    ("packet", "why"), [(eap(2, b"a response"), "EAP response of the gateway"), (b"\1", "no EAP packet")]
)
def test_eap_out_of_order_at_the_ue(packet: bytes, why: str) -> None:
    pair = Pair()
    pair.epdg.answers = lambda event: EapReply(packet=packet) if isinstance(event, IdentityReceived) else None
    pair.attach()
    refused = pair.ue.take(Refused)
    assert why in refused.text
    assert not pair.ue.has(EapRequestReceived)


@pytest.mark.parametrize("number", ["first", "second"])
def test_eap_beside_auth_is_no_request(number: str) -> None:
    """§2.16: EAP in the first request, or AUTH beside EAP in a later one: INVALID_SYNTAX."""
    pair = silent_ue()
    packet, auth = EapPayload(packet=eap(2, b"x")), AuthPayload(AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE, bytes(32))
    first = first_request(pair)
    if number == "second":
        pair.epdg.endpoint.receive(forge(pair, "ue", ExchangeType.IKE_AUTH, *first, message_id=1), pair.now)
        pair.run(0.005)
        request = forge(pair, "ue", ExchangeType.IKE_AUTH, packet, auth, message_id=2)
    else:
        request = forge(pair, "ue", ExchangeType.IKE_AUTH, *first, packet, auth, message_id=1)
    pair.epdg.endpoint.receive(request, pair.now)
    pair.run(0.005)
    assert any(line.startswith("<-- ") and line.endswith("[ N(INVALID_SYNTAX) ]") for line in pair.wire)
    assert pair.epdg.endpoint.sas == {}


@pytest.mark.parametrize(("method", "safe"), [(23, True), (50, True), (13, True), (4, False), (26, False)])
def test_eap_only_needs_a_method_that_authenticates_the_gateway(method: int, safe: bool) -> None:
    """RFC 5998 §4: EAP-MD5 and EAP-MSCHAPv2 are not enough for a gateway that shows no certificate."""

    def answers(event: Event) -> object:
        if isinstance(event, IdentityReceived):
            return EapReply(packet=bytes([1, 1, 0, 5, method]))
        return answer_as_gateway(event)

    pair = Pair(ue(eap_only=True, verifier=None), gateway(eap_only=True))
    pair.epdg.answers = answers
    pair.attach()
    assert pair.ue.has(EapRequestReceived) is safe
    if safe:
        assert established(pair)
    else:
        assert f"EAP type {method}" in refused_by_ue(pair)
    with_certificate = Pair(ue(), gateway(ROOT.issue()))
    with_certificate.epdg.answers = answers
    assert established(with_certificate.attach())  # where it shows one, any method will do


def test_eap_only_is_offered_with_eap_alone() -> None:
    """RFC 5998 §3: who proves himself otherwise does not offer it, and a gateway without AUTH is refused."""
    pair = Pair(by_key(eap_only=True), gateway())
    pair.epdg.answers = lambda event: None
    pair.start()
    pair.run(0.1)
    assert "EAP_ONLY" not in "".join(pair.wire)
    identity = IdrPayload(id_type=IdType.ID_FQDN, data=b"internet")
    silent = forge(
        pair, "epdg", ExchangeType.IKE_AUTH, identity, EapPayload(packet=eap(1, b"x")), message_id=1, response=True
    )
    pair.ue.endpoint.receive(silent, pair.now)
    pair.run(0.0)
    assert "did not authenticate itself" in pair.ue.take(Refused).text


def test_a_shared_key_is_never_an_msk() -> None:
    """A UE that has begun with EAP cannot end with its pre-shared key."""
    pair = Pair(ue(psk=KEY), gateway(ROOT.issue()))
    honest = pair.ue.answers

    def impatient(event: Event) -> object:
        return EapReply(msk=KEY) if isinstance(event, EapRequestReceived) else honest(event)

    pair.ue.answers = impatient
    pair.attach()
    assert refused_by_gateway(pair) == "AUTH before EAP has succeeded"
    assert MSK != KEY


def test_notify_payloads_do_not_ask_for_hash_and_url() -> None:
    """§3.7: HTTP_CERT_LOOKUP_SUPPORTED is never sent."""
    pair = Pair(by_certificate(), gateway(ROOT.issue())).attach()
    events = [*pair.ue.events, *pair.epdg.events]
    notifies = [
        payload
        for event in events
        if isinstance(event, MessageReceived)
        for payload in event.message.all(NotifyPayload)
    ]
    assert notifies
    assert all(payload.type != NotifyType.HTTP_CERT_LOOKUP_SUPPORTED for payload in notifies)
