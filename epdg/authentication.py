"""The files of the gateway's authentication as IKE wants them; what is wrong with one is a line of its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from epdg.config import AuthenticationSection, CertificateSection, EpdgConfiguration
from epdg.pki import read_chain, read_key
from protocols.errors import BackendError, LocalError
from protocols.ikev2.certificates import CertificateVerifier, Credential
from protocols.ikev2.revocation import Revocation
from protocols.ikev2.signatures import library_pss
from protocols.io.certificates import read_certificates, read_crls, read_ocsp_response


def own_credentials(configuration: EpdgConfiguration) -> tuple[Credential, ...]:
    """The certificates to show, the default one first."""
    if configuration.certificate is None:
        return ()
    return tuple([_credential(section) for section in (configuration.certificate, *configuration.further_certificates)])


def _credential(section: CertificateSection) -> Credential:
    authority = () if section.authority is None else read_certificates(section.authority, "certificate.authority")
    responses = tuple([read_ocsp_response(file, "certificate.ocsp") for file in section.ocsp])
    chain, key = read_chain(section.chain), read_key(section.key)
    pss = library_pss if section.pss else None
    try:
        return Credential(chain, key, authorities=authority, ocsp_responses=responses, pss=pss)
    except LocalError as error:
        raise BackendError(f"{section.chain} and {section.key} do not fit: {error}") from error


def ue_verifier(section: AuthenticationSection, moment: Callable[[], datetime]) -> CertificateVerifier | None:
    """Who checks the certificates of UEs; ``None`` where none are accepted."""
    anchors = [
        certificate
        for file in section.certificate_authorities
        for certificate in read_certificates(file, "authentication.certificate_authorities")
    ]
    if not anchors:
        return None
    return CertificateVerifier(tuple(anchors), moment, revocation=_revocation(section))


def _revocation(section: AuthenticationSection) -> Revocation:
    crls = [crl for file in section.crls for crl in read_crls(file, "authentication.crls")]
    responders = [
        certificate
        for file in section.ocsp_responders
        for certificate in read_certificates(file, "authentication.ocsp_responders")
    ]
    return Revocation(section.revocation, crls=tuple(crls), responders=tuple(responders))
