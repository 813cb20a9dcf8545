"""Why it failed: the gateway's certificate, as the UE judges it; each provoked through the nodes."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from epdg.pki import make_pki
from lab.virtual.world import START
from protocols.entropy import SeededEntropy
from protocols.trace.explanation.catalogue import explain
from protocols.trace.records import JsonValue
from tests.harness.certificates import Authority
from tests.harness.explanations import Case, Changes, check, records, the_finding

FQDN = "epdg.epc.mnc001.mcc001.pub.3gppnetwork.org"
PROVOKED = {
    "gateway-certificate-names",
    "gateway-certificate-untrusted",
    "gateway-certificate-expired",
    "gateway-certificate-early",
    "gateway-certificate-revoked",
    "gateway-not-accepted",
}


def test_a_certificate_for_another_name() -> None:
    case = Case(
        cause="gateway-certificate-names",
        changes={"ue": {"gateway": {"names": ["epdg.example.org"]}}},
        says=(f"certificate is for {FQDN}, internet, ims, and the UE wants epdg.example.org.",),
    )
    check(case)


def pki(directory: Path, moment: datetime) -> tuple[str, dict[str, JsonValue]]:
    """The authority for the UE, and the gateway's certificate of another time or authority."""
    files = make_pki(directory, (FQDN, "internet"), entropy=SeededEntropy(7), now=moment)
    return str(files.authority), {"chain": str(files.chain), "key": str(files.key)}


@pytest.mark.parametrize(
    ("cause", "moment", "says"),
    [
        ("gateway-certificate-expired", START - timedelta(days=9000), "the UE's clock says 2026-01-01"),
        ("gateway-certificate-early", START + timedelta(days=900), "is valid from 2028-"),
    ],
)
def test_a_certificate_of_another_time(cause: str, moment: datetime, says: str, tmp_path: Path) -> None:
    authority, certificate = pki(tmp_path, moment)
    changes: Changes = {
        "ue": {"gateway": {"ca": authority}},
        "epdg": {"certificate": certificate},
    }
    check(Case(cause=cause, changes=changes, says=(f"The gateway's certificate CN={FQDN} ", says)))


def test_a_certificate_of_an_authority_that_the_ue_does_not_know(tmp_path: Path) -> None:
    authority, _ = pki(tmp_path, START)
    case = Case(
        cause="gateway-certificate-untrusted",
        changes={"ue": {"gateway": {"ca": authority}}},
        says=(f"certificate CN={FQDN}: it is not signed by the", f"the UE trusts CN={FQDN} test CA."),
    )
    world = check(case)
    # a phone is not traced: the gateway hears that it is not accepted, and not why
    finding = the_finding(explain(records(world, "epdg", "aaa")), "gateway-not-accepted")
    assert f"its certificate CN={FQDN}" in finding.sentence


def test_a_certificate_that_was_revoked(tmp_path: Path) -> None:
    authority = Authority()
    issued = authority.issue((FQDN, "internet"))
    (tmp_path / "ca.pem").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "gateway.pem").write_bytes(issued.certificate.public_bytes(Encoding.PEM))
    key = issued.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "gateway.key").write_bytes(key)
    (tmp_path / "gateway.key").chmod(0o600)
    crl = authority.crl(issued.certificate)
    (tmp_path / "revoked.crl").write_bytes(crl)
    changes: Changes = {
        "ue": {
            "gateway": {
                "ca": str(tmp_path / "ca.pem"),
                "revocation": "if-present",
                "crls": [str(tmp_path / "revoked.crl")],
            }
        },
        "epdg": {"certificate": {"chain": str(tmp_path / "gateway.pem"), "key": str(tmp_path / "gateway.key")}},
    }
    check(Case(cause="gateway-certificate-revoked", changes=changes, says=("was revoked at 20", "says a CRL.")))
