"""The files of the gateway's authentication as IKE wants them; what is wrong with one is a line of its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from epdg.config import AuthenticationSection, CertificateSection, EpdgConfiguration
from protocols.errors import ConfigurationError, LocalError
from protocols.ikev2.certificates import CertificateVerifier, Credential
from protocols.ikev2.revocation import Revocation
from protocols.ikev2.signatures import library_pss
from protocols.io.certificates import read_certificates, read_crls, read_ocsp_response, read_private_key


def own_credentials(configuration: EpdgConfiguration) -> tuple[Credential, ...]:
    """The certificates to show, the default one first."""
    if configuration.certificate is None:
        return ()
    first = _credential(configuration.certificate, "certificate")
    others = enumerate(configuration.further_certificates)
    return (first, *[_credential(section, f"further_certificates.{number}") for number, section in others])


def _credential(section: CertificateSection, key: str) -> Credential:
    authority = () if section.authority is None else read_certificates(section.authority, f"{key}.authority")
    chain = read_certificates(section.chain, f"{key}.chain")
    private = read_private_key(section.key, f"{key}.key")
    responses = tuple([read_ocsp_response(file, f"{key}.ocsp") for file in section.ocsp])
    pss = library_pss if section.pss else None
    try:
        return Credential(chain, private, authorities=authority, ocsp_responses=responses, pss=pss)
    except LocalError as error:
        raise ConfigurationError(
            file=str(section.chain), key=key, value=str(error), expected=f"a certificate for the key in {section.key}"
        ) from error


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
