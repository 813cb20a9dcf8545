"""A certification authority and a gateway certificate (TS 33.310 §6.1.3b, RFC 4945): ``epdg pki init``.

The certificate carries the ePDG FQDN and the APNs as subject alternative names: phones check the FQDN,
strongSwan checks whatever IDr comes back, which is the APN. Beside it certificates of UEs and of more gateways,
the CA's CRL and OCSP responses, for laboratories.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocols.entropy import Entropy
from protocols.errors import BackendError
from protocols.ikev2.signatures import PRIVATE_KEYS, PrivateKey

AUTHORITY_LIFETIME = timedelta(days=3650)
CERTIFICATE_LIFETIME = timedelta(days=825)
REVOCATION_LIFETIME = timedelta(days=7)  # of CRLs and OCSP responses
BACKDATED = timedelta(hours=1)  # clocks of phones run late
RSA_BITS = 2048
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # FIPS 186-5, SP 800-186 §3.2.1.3
IKE_INTERMEDIATE = x509.ObjectIdentifier("1.3.6.1.5.5.8.2.2")  # RFC 4945 §5.1.3.12


AuthorityKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, kw_only=True)
class PkiFiles:
    """Where the pieces lie."""

    authority: Path
    authority_key: Path
    chain: Path
    key: Path


def files_in(directory: Path) -> PkiFiles:
    """The names used in a directory."""
    return PkiFiles(
        authority=directory / "ca.pem",
        authority_key=directory / "ca.key",
        chain=directory / "gateway.pem",
        key=directory / "gateway.key",
    )


def make_pki(
    directory: Path,
    names: tuple[str, ...],
    *,
    use_rsa: bool = False,
    entropy: Entropy | None = None,
    now: datetime | None = None,
) -> PkiFiles:
    """Make a CA and a gateway certificate for ``names``; existing files are an error (``BackendError``).

    With ``entropy`` and ``now`` given, ECDSA keys and everything else in the files depend on these alone.
    """
    files = files_in(directory)
    for path in (files.authority, files.authority_key, files.chain, files.key):
        if path.exists():
            raise BackendError(f"{path} exists already; choose another directory or remove it")
    now = now or datetime.now(UTC)
    ca_key = _new_key(use_rsa, entropy)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{names[0]} test CA"[:64])])
    authority = (
        _builder(subject, subject, ca_key, now, AUTHORITY_LIFETIME, entropy)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256(), ecdsa_deterministic=_deterministic(ca_key))
    )
    key = _new_key(use_rsa, entropy)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    certificate = (
        _builder(name, subject, key, now, CERTIFICATE_LIFETIME, entropy)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, IKE_INTERMEDIATE]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256(), ecdsa_deterministic=_deterministic(ca_key))
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write(files.authority, authority.public_bytes(serialization.Encoding.PEM), 0o644)
        _write(files.authority_key, _pem(ca_key), 0o600)
        _write(files.chain, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        _write(files.key, _pem(key), 0o600)
    except OSError as error:
        raise BackendError(f"cannot write to {directory}: {error.strerror or error}") from error
    return files


class KeyKind(str, Enum):
    """Kinds of keys a certificate can be made for."""

    ECDSA = "ecdsa"
    P384 = "p384"
    P521 = "p521"
    RSA = "rsa"
    ED25519 = "ed25519"
    ED448 = "ed448"


def issue(
    directory: Path,
    names: tuple[str, ...],
    *,
    kind: KeyKind = KeyKind.ECDSA,
    client: bool = False,
    diameter: bool = False,
) -> Path:
    """A certificate of the CA in ``directory`` for names, mailboxes and addresses; where it lies, its key beside it.

    ``client`` is for a UE instead of a gateway, ``diameter`` for a node that opens and accepts TLS (RFC 6733 §13.1).
    """
    authority, authority_key = _authority(directory)
    path = directory / f"{names[0].replace('/', '_')}.pem"
    for file in (path, path.with_suffix(".key")):
        if file.exists():
            raise BackendError(f"{file} exists already; choose another directory or remove it")
    key = _key_of(kind)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH, IKE_INTERMEDIATE]
    if diameter:
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(name, authority.subject, key, datetime.now(UTC), CERTIFICATE_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _store(path.with_suffix(".key"), _pem(key), 0o600)
    _store(path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return path


def write_crl(directory: Path, revoke: Path | None = None) -> Path:
    """A fresh CRL of the CA in ``directory`` with all that was on the former one and the certificate ``revoke``."""
    authority, authority_key = _authority(directory)
    path = directory / "ca.crl"
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now - BACKDATED)
        .next_update(now + REVOCATION_LIFETIME)
    )
    revoked = _revoked(path)
    if revoke is not None:
        revoked.setdefault(_own_certificate(revoke, authority).serial_number, now)
    for serial, moment in revoked.items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment).build()
        builder = builder.add_revoked_certificate(entry)
    crl = builder.sign(authority_key, hashes.SHA256())
    _store(path, crl.public_bytes(serialization.Encoding.PEM), 0o644)
    return path


def write_ocsp_response(directory: Path, certificate: Path) -> Path:
    """What the CA in ``directory`` says of a certificate of its own, by its CRL, as an OCSP response in DER."""
    authority, authority_key = _authority(directory)
    own = _own_certificate(certificate, authority)
    since = _revoked(directory / "ca.crl").get(own.serial_number)
    now = datetime.now(UTC)
    response = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=own,
            issuer=authority,
            algorithm=hashes.SHA1(),  # of the CertID, as everybody has it (RFC 6960 §4.1.1)
            cert_status=ocsp.OCSPCertStatus.GOOD if since is None else ocsp.OCSPCertStatus.REVOKED,
            this_update=now - BACKDATED,
            next_update=now + REVOCATION_LIFETIME,
            revocation_time=since,
            revocation_reason=None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, authority)
        .sign(authority_key, hashes.SHA256())
    )
    path = certificate.with_suffix(".ocsp")
    _store(path, response.public_bytes(serialization.Encoding.DER), 0o644)
    return path


def _authority(directory: Path) -> tuple[x509.Certificate, AuthorityKey]:
    files = files_in(directory)
    key = read_key(files.authority_key)
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise BackendError(f"{files.authority_key} holds a key that is neither ECDSA nor RSA")
    return x509.load_der_x509_certificate(read_chain(files.authority)[0]), key


def _own_certificate(path: Path, authority: x509.Certificate) -> x509.Certificate:
    certificate = x509.load_der_x509_certificate(read_chain(path)[0])
    if certificate.issuer != authority.subject:
        raise BackendError(f"{path} was not issued by {authority.subject.rfc4514_string()}")
    return certificate


def _revoked(path: Path) -> dict[int, datetime]:
    """Serial numbers on the CRL, if there is one."""
    if not path.exists():
        return {}
    try:
        crl = x509.load_pem_x509_crl(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BackendError(f"{path} holds no CRL in PEM") from error
    return {entry.serial_number: entry.revocation_date_utc for entry in crl}


def read_chain(path: Path) -> tuple[bytes, ...]:
    """The certificates of a PEM file as DER; ``BackendError`` says what is wrong with it."""
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise BackendError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise BackendError(f"{path} holds no certificate in PEM") from error
    return tuple(certificate.public_bytes(serialization.Encoding.DER) for certificate in found)


def read_key(path: Path) -> PrivateKey:
    """The private key of a PEM file; ``BackendError`` says what is wrong with it."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise BackendError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError) as error:
        raise BackendError(f"{path} holds no unencrypted private key in PEM") from error
    if not isinstance(key, PRIVATE_KEYS):
        raise BackendError(f"{path} holds a key that is neither RSA, ECDSA, Ed25519 nor Ed448")
    return key


def _key_of(kind: KeyKind) -> PrivateKey:
    if kind is KeyKind.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    if kind is KeyKind.ED448:
        return ed448.Ed448PrivateKey.generate()
    if kind is KeyKind.P384:
        return ec.generate_private_key(ec.SECP384R1())
    if kind is KeyKind.P521:
        return ec.generate_private_key(ec.SECP521R1())
    return _new_key(kind is KeyKind.RSA)


def _general_name(name: str) -> x509.GeneralName:
    if "@" in name:
        return x509.RFC822Name(name)
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _new_key(use_rsa: bool, entropy: Entropy | None = None) -> AuthorityKey:
    if use_rsa:
        return rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    if entropy is None:
        return ec.generate_private_key(ec.SECP256R1())
    # FIPS 186-5 §A.2.1: from 64 bits more than the order has
    return ec.derive_private_key(int.from_bytes(entropy.octets(40), "big") % (P256_ORDER - 1) + 1, ec.SECP256R1())


def _deterministic(key: AuthorityKey) -> bool | None:
    """RFC 6979 for ECDSA, the only kind of key for which there is a choice."""
    return True if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _serial_number(entropy: Entropy | None) -> int:
    """RFC 5280 §4.1.2.2: positive, at most 20 octets."""
    return x509.random_serial_number() if entropy is None else int.from_bytes(entropy.octets(20), "big") >> 1


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: PrivateKey,
    now: datetime,
    lifetime: timedelta,
    entropy: Entropy | None = None,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(_serial_number(entropy))
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, octets: bytes, mode: int) -> None:
    path.touch(mode=mode)
    path.chmod(mode)
    path.write_bytes(octets)


def _store(path: Path, octets: bytes, mode: int) -> None:
    try:
        _write(path, octets, mode)
    except OSError as error:
        raise BackendError(f"cannot write {path}: {error.strerror or error}") from error
