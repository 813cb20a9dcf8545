"""Whatever stands in place of a CRL, an OCSP response or an EAP packet: ``RemoteError`` or a verdict, nothing else."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.eap.packet import EapPacket
from protocols.errors import RemoteError
from protocols.ikev2.certificates import CertificateVerifier, Requested
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import CertreqPayload
from protocols.ikev2.registry import CertEncoding, ExchangeType
from protocols.ikev2.revocation import Evidence, Revocation, RevocationPolicy
from protocols.ikev2.tasks.eap_rounds import Rounds
from tests.harness.certificates import MOMENT, Authority

ROOT = Authority("root")
SERVED = ROOT.issue()
DELEGATE = ROOT.issue(["ocsp.example"])
GOOD = (ROOT.crl(ROOT.issue().certificate), ROOT.ocsp(SERVED.certificate))
SIGNED = (*GOOD, ROOT.ocsp(SERVED.certificate, signer=DELEGATE))
VERIFIER = CertificateVerifier(
    (ROOT.der,), lambda: MOMENT, revocation=Revocation(RevocationPolicy.REQUIRED, responders=(SERVED.chain[0],))
)
often = settings(max_examples=200, deadline=None)


@often
@given(
    st.sampled_from(SIGNED),
    st.integers(0, 900),
    st.integers(0, 3),
    st.binary(max_size=3),
    st.booleans(),
)
def test_damaged_evidence_vouches_for_nobody(octets: bytes, at: int, cut: int, put: bytes, as_crl: bool) -> None:
    damaged = octets[:at] + put + octets[at + cut :]
    evidence = Evidence(crls=(damaged,)) if as_crl else Evidence(ocsp_responses=(damaged,))
    try:
        VERIFIER.verify(SERVED.chain, None, evidence=evidence)
    except RemoteError as error:
        reason = str(error)
    else:
        # what lies outside of the signed part may differ: the responder's certificates, the outer algorithm
        assert damaged in GOOD or not as_crl
        return
    assert "\n" not in reason


@often
@given(st.binary(max_size=12) | st.builds(lambda code, rest: bytes([code]) + rest, st.integers(0, 5), st.binary()))
def test_eap_packets(octets: bytes) -> None:
    """The ends let pass what is an EAP packet in its place."""
    for judge in (Rounds().response, lambda packet: Rounds().request(packet, gateway_authenticated=False)):
        try:
            judge(octets)
        except RemoteError:
            continue
        EapPacket.decode(octets)


@often
@given(st.lists(st.tuples(st.sampled_from([*CertEncoding]), st.binary(max_size=50)), max_size=5))
def test_certificate_requests(requests: list[tuple[CertEncoding, bytes]]) -> None:
    """Each hash that is understood has twenty octets."""
    message = Message(
        spi_i=bytes(8),
        spi_r=bytes(8),
        exchange=ExchangeType.IKE_AUTH,
        original_initiator=True,
        response=False,
        message_id=1,
        payloads=tuple(CertreqPayload(encoding, octets) for encoding, octets in requests),
    )
    assert all(len(found) == 20 for found in Requested.of(message).authorities)
