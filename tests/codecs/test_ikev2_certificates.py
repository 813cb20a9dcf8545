"""Credentials, AUTH signatures and the checks of a peer's certificate (RFC 7296 §2.15, RFC 4754, RFC 7427)."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocols.errors import AuthenticationError, DecodeError, LocalError
from protocols.ikev2.certificates import CertificateVerifier, Credential
from protocols.ikev2.payloads import AuthPayload, IdrPayload
from protocols.ikev2.registry import AuthMethod, CertEncoding, HashAlgorithmId, IdType, NotifyType
from protocols.ikev2.signatures import (
    ANNOUNCED,
    PrivateKey,
    decode_hash_algorithms,
    encode_hash_algorithms,
    library_pss,
    verify_auth,
)

MOMENT = datetime(2026, 6, 1, tzinfo=UTC)
EPDG = "epdg.epc.mnc001.mcc001.pub.3gppnetwork.org"
OCTETS = b"RealMessage | NonceData | MACedID"
ALL_HASHES = frozenset(ANNOUNCED)
OID = x509.ObjectIdentifier
SERVER_AUTH, CLIENT_AUTH = OID("1.3.6.1.5.5.7.3.1"), OID("1.3.6.1.5.5.7.3.2")


@cache
def key(name: str) -> PrivateKey:
    if name.startswith("rsa-1024"):
        return rsa.generate_private_key(65537, 1024)
    if name.startswith("rsa"):
        return rsa.generate_private_key(65537, 2048)
    seed = hashlib.shake_256(name.encode()).digest(57)
    if name.startswith("ed25519"):
        return ed25519.Ed25519PrivateKey.from_private_bytes(seed[:32])
    if name.startswith("ed448"):
        return ed448.Ed448PrivateKey.from_private_bytes(seed)
    curve: ec.EllipticCurve = ec.SECP256R1()
    if name.startswith("p384"):
        curve = ec.SECP384R1()
    if name.startswith("p521"):
        curve = ec.SECP521R1()
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") >> 1, curve)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])


def certificate(
    subject: str,
    issuer: str,
    *extensions: x509.ExtensionType,
    subject_key: str | None = None,
    issuer_key: str | None = None,
    starts: datetime = MOMENT - timedelta(days=1),
    ends: datetime = MOMENT + timedelta(days=1),
) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(issuer))
        .public_key(key(subject_key or subject).public_key())
        .serial_number(1 + int.from_bytes(hashlib.sha1(subject.encode()).digest()[:8], "big"))
        .not_valid_before(starts)
        .not_valid_after(ends)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    signer = key(issuer_key or issuer)
    digest = None if isinstance(signer, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256()
    return builder.sign(signer, digest).public_bytes(Encoding.DER)


AUTHORITY = x509.BasicConstraints(ca=True, path_length=None)
END = x509.BasicConstraints(ca=False, path_length=None)


def hosts(*names: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.DNSName(name) for name in names])


def usage(*, digital_signature: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


ROOT = certificate("root", "root", AUTHORITY)
SUB = certificate("sub", "root", AUTHORITY)
GATEWAY = certificate("gateway", "root", END, hosts(EPDG))
IDR = IdrPayload(IdType.ID_FQDN, EPDG.encode())


def verifier(*anchors: bytes, moment: datetime = MOMENT) -> CertificateVerifier:
    return CertificateVerifier(anchors or (ROOT,), lambda: moment)


def spki(name: str) -> bytes:
    return key(name).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# -- paths and names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaf", "others", "identity", "names"),
    [
        (GATEWAY, (), IDR, (EPDG,)),
        (GATEWAY, (), IDR, ()),
        (GATEWAY, (), None, (EPDG.upper() + ".",)),
        (GATEWAY, (), None, ("other.example", EPDG)),
        (GATEWAY, (), IdrPayload(IdType.ID_FQDN, EPDG.upper().encode()), ()),
        (GATEWAY, (), IdrPayload(IdType.ID_DER_ASN1_DN, named("gateway").public_bytes()), ()),
        (GATEWAY, (ROOT,), IDR, ()),
        (certificate("gateway", "sub", END, hosts(EPDG)), (SUB,), IDR, (EPDG,)),
        (certificate("gateway", "sub", END, hosts(EPDG)), (ROOT, SUB), IDR, (EPDG,)),
        (certificate("gateway", "root", hosts(EPDG)), (), IDR, ()),
        (certificate("gateway", "root", END, hosts("*.epc.example")), (), None, ("epdg.epc.example",)),
        (certificate("gateway", "root", END, hosts(EPDG), x509.ExtendedKeyUsage([SERVER_AUTH])), (), IDR, ()),
        (
            certificate("gateway", "root", hosts(EPDG), x509.ExtendedKeyUsage([OID("1.3.6.1.5.5.8.2.2")])),
            (),
            IDR,
            (),
        ),
        (certificate("gateway", "root", hosts(EPDG), usage(digital_signature=True)), (), IDR, ()),
        (
            certificate(
                "gateway",
                "root",
                x509.SubjectAlternativeName(
                    [x509.IPAddress(ip_address("192.0.2.1")), x509.RFC822Name("gateway@example")]
                ),
            ),
            (),
            IdrPayload(IdType.ID_IPV4_ADDR, bytes((192, 0, 2, 1))),
            (),
        ),
        (
            certificate("gateway", "root", x509.SubjectAlternativeName([x509.RFC822Name("gateway@example")])),
            (),
            IdrPayload(IdType.ID_RFC822_ADDR, b"gateway@example"),
            (),
        ),
    ],
)
def test_accepted(leaf: bytes, others: tuple[bytes, ...], identity: IdrPayload | None, names: tuple[str, ...]) -> None:
    public_key = verifier().verify((leaf, *others), identity, names)
    assert public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == spki("gateway")


FAR = timedelta(days=30)


@pytest.mark.parametrize(
    ("chain", "identity", "names", "why"),
    [
        ((), IDR, (), "no certificate"),
        ((b"\x30\x00",), IDR, (), "does not parse"),
        ((GATEWAY[:-1],), IDR, (), "does not parse"),
        ((certificate("gateway", "stranger", END, hosts(EPDG)),), IDR, (), "no trust anchor"),
        (
            (certificate("gateway", "root", END, hosts(EPDG), issuer_key="stranger"),),
            IDR,
            (),
            "not signed by the 'CN=root'",
        ),
        (
            (certificate("gateway", "stranger", END, hosts(EPDG)), certificate("stranger", "stranger", AUTHORITY)),
            IDR,
            (),
            "no valid path",
        ),
        (
            (certificate("gateway", "root", END, hosts(EPDG), starts=MOMENT - FAR, ends=MOMENT - FAR / 2),),
            IDR,
            (),
            "'CN=gateway' expired",
        ),
        (
            (certificate("gateway", "root", END, hosts(EPDG), starts=MOMENT + FAR / 2, ends=MOMENT + FAR),),
            IDR,
            (),
            "'CN=gateway' is valid from",
        ),
        (
            (
                certificate("gateway", "sub", END, hosts(EPDG)),
                certificate("sub", "root", AUTHORITY, starts=MOMENT - FAR, ends=MOMENT - FAR / 2),
            ),
            IDR,
            (),
            "'CN=sub' expired",
        ),
        ((certificate("gateway", "gateway", END, hosts(EPDG)),), IDR, (), "self-signed"),
        ((certificate("gateway", "sub", END, hosts(EPDG)),), IDR, (), "'CN=sub', which is no trust anchor"),
        (
            (certificate("gateway", "sub", END, hosts(EPDG)), certificate("sub", "root", END)),
            IDR,
            (),
            "no valid path",
        ),
        ((certificate("gateway", "sub", END, hosts(EPDG)), certificate("sub", "root")), IDR, (), "no valid path"),
        ((GATEWAY,), IdrPayload(IdType.ID_FQDN, b"evil.example"), (), "not for evil.example"),
        ((GATEWAY,), IDR, ("epdg.other.example",), "not for epdg.other.example"),
        ((GATEWAY,), IdrPayload(IdType.ID_FQDN, b"\xff\xfe"), (), "not for"),
        ((GATEWAY,), IdrPayload(IdType.ID_IPV4_ADDR, bytes(4)), (), "not for 0.0.0.0"),
        ((GATEWAY,), IdrPayload(IdType.ID_IPV6_ADDR, bytes(4)), (), "no address"),
        ((GATEWAY,), IdrPayload(IdType.ID_RFC822_ADDR, b"a@b"), (), "not for a@b"),
        ((GATEWAY,), IdrPayload(IdType.ID_DER_ASN1_DN, named("root").public_bytes()), (), "not for"),
        ((GATEWAY,), IdrPayload(IdType.ID_KEY_ID, b"x"), (), "ID_KEY_ID"),
        ((certificate("gateway", "root", END),), IDR, (), f"not for {EPDG}"),
        ((certificate("gateway", "root", END),), None, (EPDG,), "no names"),
        (
            (certificate("gateway", "root", END, hosts("*.epc.example")),),
            None,
            ("a.b.epc.example",),
            "not for a.b",
        ),
        ((certificate("gateway", "root", END, hosts("*.epc.example")),), None, ("epc.example",), "not for epc"),
        ((certificate("gateway", "root", END, hosts("*.epc.example")),), None, (".epc.example",), "not for .epc"),
        ((certificate("rsa-1024", "root", END, hosts(EPDG)),), IDR, (), "1024 bits is too short"),
        (
            (certificate("gateway", "root", hosts(EPDG), x509.ExtendedKeyUsage([CLIENT_AUTH])),),
            IDR,
            (),
            "extended key usage",
        ),
        ((certificate("gateway", "root", hosts(EPDG), usage(digital_signature=False)),), IDR, (), "key usage"),
    ],
)
def test_refused_with_one_plain_reason(
    chain: tuple[bytes, ...], identity: IdrPayload | None, names: tuple[str, ...], why: str
) -> None:
    with pytest.raises(AuthenticationError, match=why) as caught:
        verifier().verify(chain, identity, names)
    assert caught.value.notify_type == NotifyType.AUTHENTICATION_FAILED
    assert "\n" not in str(caught.value)


def test_another_anchor_makes_another_answer() -> None:
    leaf = certificate("gateway", "stranger", END, hosts(EPDG))
    anchor = certificate("stranger", "stranger", AUTHORITY)
    verifier(ROOT, anchor).verify((leaf,), IDR)
    with pytest.raises(AuthenticationError):
        verifier(ROOT).verify((leaf,), IDR)


def test_the_moment_is_asked_each_time() -> None:
    now = [MOMENT]
    checks = CertificateVerifier((ROOT,), lambda: now[0])
    checks.verify((GATEWAY,), IDR)
    now[0] += timedelta(days=2)
    with pytest.raises(AuthenticationError, match="expired"):
        checks.verify((GATEWAY,), IDR)


def test_authorities_are_hashes_of_the_anchors_keys() -> None:
    """RFC 7296 §3.7: SHA-1 over the SubjectPublicKeyInfo element."""
    assert verifier(ROOT, SUB).authorities() == b"".join(hashlib.sha1(spki(name)).digest() for name in ("root", "sub"))


def test_a_verifier_needs_an_anchor() -> None:
    with pytest.raises(LocalError):
        CertificateVerifier((), lambda: MOMENT)


# -- signatures -------------------------------------------------------------------------------------------


@cache
def credential(name: str, *, pss: bool = False) -> Credential:
    chain = (certificate(name, "root", END, hosts(EPDG)), ROOT)
    return Credential(chain, key(name), pss=library_pss if pss else None)


SHA2_256, SHA2_384 = HashAlgorithmId.SHA2_256, HashAlgorithmId.SHA2_384
ECDSA_SHA256 = "300a06082a8648ce3d040302"
ECDSA_SHA384 = "300a06082a8648ce3d040303"
ECDSA_SHA512 = "300a06082a8648ce3d040304"
ED25519 = "300506032b6570"  # RFC 8420 A.1
ED448 = "300506032b6571"  # RFC 8420 A.2
RSA_SHA256 = "300d06092a864886f70d01010b0500"
PSS_SHA256 = (  # as RFC 7427 A.4.3 prints it
    "304606092a864886f70d01010a3039a00f300d06096086480165030402010500a11c301a06092a864886f70d010108"
    "300d06096086480165030402010500a203020120a303020101"
)


@pytest.mark.parametrize(
    ("name", "pss", "peer_hashes", "method", "identifier"),
    [
        ("gateway", False, ALL_HASHES, AuthMethod.DIGITAL_SIGNATURE, ECDSA_SHA256),
        ("gateway", False, {SHA2_384}, AuthMethod.DIGITAL_SIGNATURE, ECDSA_SHA384),
        ("gateway", False, (), AuthMethod.ECDSA_WITH_SHA_256_ON_P_256, ""),
        ("gateway", False, {HashAlgorithmId.SHA1}, AuthMethod.ECDSA_WITH_SHA_256_ON_P_256, ""),
        ("p384", False, ALL_HASHES, AuthMethod.DIGITAL_SIGNATURE, ECDSA_SHA384),
        ("p384", False, {SHA2_256}, AuthMethod.DIGITAL_SIGNATURE, ECDSA_SHA256),
        ("p384", False, (), AuthMethod.ECDSA_WITH_SHA_384_ON_P_384, ""),
        ("p521", False, ALL_HASHES, AuthMethod.DIGITAL_SIGNATURE, ECDSA_SHA512),
        ("p521", False, (), AuthMethod.ECDSA_WITH_SHA_512_ON_P_521, ""),
        ("ed25519", False, ALL_HASHES, AuthMethod.DIGITAL_SIGNATURE, ED25519),
        ("ed448", False, ALL_HASHES, AuthMethod.DIGITAL_SIGNATURE, ED448),
        ("rsa", False, ALL_HASHES, AuthMethod.DIGITAL_SIGNATURE, RSA_SHA256),
        ("rsa", True, ALL_HASHES, AuthMethod.DIGITAL_SIGNATURE, PSS_SHA256),
        ("rsa", False, (), AuthMethod.RSA_DIGITAL_SIGNATURE, ""),
        ("rsa", True, {HashAlgorithmId.SHA1}, AuthMethod.RSA_DIGITAL_SIGNATURE, ""),
    ],
)
def test_sign_and_verify(
    name: str, pss: bool, peer_hashes: frozenset[HashAlgorithmId], method: AuthMethod, identifier: str
) -> None:
    auth = credential(name, pss=pss).sign(OCTETS, frozenset(peer_hashes))
    assert auth.method == method
    if identifier:
        octets = bytes.fromhex(identifier)
        assert auth.data.startswith(bytes((len(octets),)) + octets)
    public_key = key(name).public_key()
    verify_auth(public_key, auth, OCTETS)
    for wrong_auth, wrong_octets in (
        (auth, OCTETS + b"!"),
        (AuthPayload(auth.method, auth.data[:-1] + bytes((auth.data[-1] ^ 1,))), OCTETS),
        (AuthPayload(auth.method, auth.data[:-1]), OCTETS),
        (AuthPayload(auth.method, auth.data + b"\0"), OCTETS),
        (AuthPayload(AuthMethod.NULL, auth.data), OCTETS),
        (AuthPayload(AuthMethod(200), auth.data), OCTETS),
    ):
        with pytest.raises(AuthenticationError) as caught:
            verify_auth(public_key, wrong_auth, wrong_octets)
        assert caught.value.notify_type == NotifyType.AUTHENTICATION_FAILED
    for kind in ("", "p384-", "p521-", "rsa-", "ed25519-", "ed448-"):
        with pytest.raises(AuthenticationError):
            verify_auth(key(f"{kind}stranger").public_key(), auth, OCTETS)


@pytest.mark.parametrize(("name", "length"), [("gateway", 32), ("p384", 48), ("p521", 66)])
def test_ecdsa_methods_have_fixed_lengths(name: str, length: int) -> None:
    """RFC 4754 §7: r and s have the curve's length, a zero between them makes it another signature."""
    auth = credential(name).sign(OCTETS, frozenset())
    assert len(auth.data) == 2 * length
    longer = AuthPayload(auth.method, auth.data[:length] + b"\0" + auth.data[length:])
    with pytest.raises(AuthenticationError):
        verify_auth(key(name).public_key(), longer, OCTETS)


@pytest.mark.parametrize("data", ["", "05", "0c300a06082a8648ce3d0403"])
def test_method_14_cut_short(data: str) -> None:
    auth = AuthPayload(AuthMethod.DIGITAL_SIGNATURE, bytes.fromhex(data))
    with pytest.raises(DecodeError) as caught:
        verify_auth(key("gateway").public_key(), auth, OCTETS)
    assert caught.value.notify_type == NotifyType.INVALID_SYNTAX


@pytest.mark.parametrize("identifier", ["", "300906072a8648ce3d0401", "300d06092a864886f70d0101050500", RSA_SHA256])
def test_method_14_with_algorithms_that_are_not_accepted(identifier: str) -> None:
    """Nothing, ECDSA and RSA with SHA-1 (RFC 8247 §3.2), RSA for a key that is not RSA."""
    octets = bytes.fromhex(identifier)
    auth = AuthPayload(AuthMethod.DIGITAL_SIGNATURE, bytes((len(octets),)) + octets + bytes(64))
    with pytest.raises(AuthenticationError, match="signature algorithm"):
        verify_auth(key("gateway").public_key(), auth, OCTETS)


@pytest.mark.parametrize("name", ["gateway", "p384", "p521", "rsa"])
@pytest.mark.parametrize("peer_hashes", [ALL_HASHES, frozenset()], ids=["method 14", "older methods"])
def test_signatures_replay(name: str, peer_hashes: frozenset[HashAlgorithmId]) -> None:
    """RFC 6979 for ECDSA; PKCS #1 v1.5 has no randomness."""
    assert credential(name).sign(OCTETS, peer_hashes) == credential(name).sign(OCTETS, peer_hashes)


@pytest.mark.parametrize("digest", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_method_1_does_not_say_its_hash(digest: hashes.HashAlgorithm) -> None:
    """RFC 7296 §3.8: SHA-1 by default, others by configuration."""
    private = key("rsa")
    assert isinstance(private, rsa.RSAPrivateKey)
    auth = AuthPayload(AuthMethod.RSA_DIGITAL_SIGNATURE, private.sign(OCTETS, PKCS1v15(), digest))
    verify_auth(private.public_key(), auth, OCTETS)


@pytest.mark.parametrize("parameters", ["0500", ""])
@pytest.mark.parametrize("trailer", ["a303020101", ""])
def test_pss_as_others_write_it(parameters: str, trailer: str) -> None:
    """RFC 4055 §2.1: hash parameters NULL or absent; the trailer field's default may be left out."""

    def tagged(tag: int, content: bytes) -> bytes:
        return bytes((tag, len(content))) + content

    digest = tagged(0x30, bytes.fromhex("0609608648016503040201" + parameters))
    mask = tagged(0x30, bytes.fromhex("06092a864886f70d010108") + digest)
    inside = tagged(0xA0, digest) + tagged(0xA1, mask) + bytes.fromhex("a203020120" + trailer)
    identifier = tagged(0x30, bytes.fromhex("06092a864886f70d01010a") + tagged(0x30, inside))
    made = credential("rsa", pss=True).sign(OCTETS, ALL_HASHES)
    signature = made.data[1 + made.data[0] :]
    auth = AuthPayload(AuthMethod.DIGITAL_SIGNATURE, bytes((len(identifier),)) + identifier + signature)
    verify_auth(key("rsa").public_key(), auth, OCTETS)


def test_certificates_to_send() -> None:
    first, second = credential("gateway").cert_payloads()
    assert first.encoding == second.encoding == CertEncoding.X509_SIGNATURE
    assert (first.data, second.data) == credential("gateway").chain


def test_credentials_that_cannot_be() -> None:
    with pytest.raises(LocalError, match="needs a certificate"):
        Credential((), key("gateway"))
    with pytest.raises(LocalError, match="does not belong"):
        Credential((GATEWAY,), key("stranger"))
    with pytest.raises(LocalError, match="does not belong"):
        Credential((GATEWAY,), key("rsa"))
    with pytest.raises(LocalError, match="secp256k1"):
        Credential((GATEWAY,), ec.derive_private_key(7, ec.SECP256K1()))
    with pytest.raises(LocalError, match="Identity"):  # RFC 8420 §2
        credential("ed25519").sign(OCTETS, frozenset({SHA2_256}))


def test_hash_algorithms_notify() -> None:
    assert encode_hash_algorithms() == bytes.fromhex("0002000300040005")
    assert decode_hash_algorithms(bytes.fromhex("00020001")) == {SHA2_256, HashAlgorithmId.SHA1}
    assert decode_hash_algorithms(b"") == frozenset()
    with pytest.raises(DecodeError):
        decode_hash_algorithms(b"\0\2\0")
