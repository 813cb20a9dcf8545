"""Suites as text, key lengths, PRF and key exchange with RFC 6989's checks."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import dh

from protocols.entropy import SeededEntropy
from protocols.errors import LocalError, RemoteError
from protocols.ikev2.registry import EncryptionId, IntegrityId, KeGroup, NotifyType, PrfId
from protocols.ikev2.suites import (
    KEY_EXCHANGES,
    EcpMethod,
    EspSuite,
    IkeSuite,
    KeyExchange,
    MlKemMethod,
    ModpMethod,
    Prf,
)

IKE_NAMES = [
    "aes128-sha256-x25519",
    "aes192-sha384-ecp384",
    "aes256-sha512-modp2048",
    "aes128-sha1-ecp256",
    "aes128-sha1-prfsha256-ecp256",
    "aes128gcm16-prfsha256-ecp256",
    "aes256gcm16-prfsha512-x25519",
    "3des-sha1-modp1024",
    "aes192ctr-aesxcbc-modp768",
    "aes128-aescmac-prfsha256-ecp521",
    "aes128-sha256-prfaesxcbc-x448",
    "aes128ccm8-prfaescmac-ecp256bp",
    "aes256gcm12-prfsha384-ecp224",
    "chacha20poly1305-prfsha256-mlkem768",
    "aes256gcm16-prfsha384-x25519-ke1_mlkem768",
    "aes256gcm16-prfsha384-x25519-ke2_mlkem512-ke7_modp8192",
]
ESP_NAMES = [
    "aes128-sha256",
    "aes128gcm16",
    "aes256-sha1-x25519",
    "aes256gcm16-ecp384-esn",
    "aes128-sha256-esn",
    "null-sha256",
    "3des-sha1",
    "aes128ctr-aesxcbc-modp1536",
    "aes256ccm12-ecp384bp-ke1_mlkem1024-esn",
    "chacha20poly1305",
]


@pytest.mark.parametrize("name", IKE_NAMES)
def test_ike_names(name: str) -> None:
    assert IkeSuite.of(name).name == name
    assert str(IkeSuite.of(name.upper())) == name


@pytest.mark.parametrize("name", ESP_NAMES)
def test_esp_names(name: str) -> None:
    assert EspSuite.of(name).name == name
    assert str(EspSuite.of(f" {name} ")) == name


def test_other_spellings() -> None:
    assert IkeSuite.of("aes128-curve25519-prfsha256-sha256").name == "aes128-sha256-x25519"
    assert EspSuite.of("aes128-sha256-noesn") == EspSuite.of("aes128-sha256")


def test_what_a_name_means() -> None:
    assert IkeSuite.of("aes128-sha256-x25519") == IkeSuite(
        encryption=EncryptionId.ENCR_AES_CBC,
        encryption_key_bits=128,
        integrity=IntegrityId.AUTH_HMAC_SHA2_256_128,
        prf=PrfId.PRF_HMAC_SHA2_256,
        group=KeGroup.CURVE25519,
    )
    assert EspSuite.of("aes256gcm16-modp2048-esn") == EspSuite(
        encryption=EncryptionId.ENCR_AES_GCM_16,
        encryption_key_bits=256,
        integrity=None,
        group=KeGroup.MODP_2048,
        esn=True,
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256-x25519",
        "aes128-x25519",
        "aes128-sha256",
        "aes128-sha256-modp1000",
        "null-sha256-x25519",
        "aes128ctr-x25519",
        "3des-x25519",
        "chacha20poly1305-sha256-x25519",
        "chacha20poly1305-x25519",
        "aes128-sha256-x25519-ke1_x25519",
        "aes128-sha256-x25519-ke1_mlkem768-ke2_mlkem768",
        "aes128-sha256-x25519-ke1_mlkem768-ke1_mlkem1024",
        "aes128-sha256-x25519-ke8_mlkem768",
        "aes128-sha256-x25519-ke0_mlkem768",
        "aes128-sha256-x25519-ke1_modp1000",
        "aes128-sha256-ke1_mlkem768",
        "aes128gcm16-x25519",
        "aes128gcm16-sha256-prfsha256-x25519",
        "aes128-sha256-sha256-x25519",
        "aes128-sha256-x25519-esn",
        "aes111-sha256-x25519",
    ],
)
def test_bad_ike_text(text: str) -> None:
    with pytest.raises(ValueError):
        IkeSuite.of(text)


@pytest.mark.parametrize(
    "text",
    [
        "aes128",
        "aes128gcm16-sha256",
        "aes128-sha256-prfsha256",
        "null",
        "aes128--",
        "aes128ccm8-sha1",
        "aes128-ke1_x448",
    ],
)
def test_bad_esp_text(text: str) -> None:
    with pytest.raises(ValueError):
        EspSuite.of(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"encryption_key_bits": None},
        {"encryption_key_bits": 129},
        {"encryption": EncryptionId.ENCR_3DES},
        {"encryption": EncryptionId.ENCR_NULL, "encryption_key_bits": None},
        {"encryption": EncryptionId.ENCR_DES, "encryption_key_bits": None},
        {"encryption": EncryptionId(9001)},
        {"integrity": IntegrityId.AUTH_HMAC_MD5_128},
        {"integrity": IntegrityId.NONE},
        {"prf": PrfId.PRF_HMAC_TIGER},
        {"group": KeGroup.MODP_1024_160},
        {"additional": (KeGroup.ML_KEM_768, KeGroup.NONE)},
        {"additional": (KeGroup.CURVE25519,)},
        {"additional": tuple(KeGroup(number) for number in (14, 15, 16, 17, 18, 19, 20, 21))},
    ],
)
def test_what_is_not_implemented_makes_no_suite(fields: dict[str, object]) -> None:
    values: dict[str, object] = {
        "encryption": EncryptionId.ENCR_AES_CBC,
        "encryption_key_bits": 128,
        "integrity": IntegrityId.AUTH_HMAC_SHA2_256_128,
        "prf": PrfId.PRF_HMAC_SHA2_256,
        "group": KeGroup.CURVE25519,
    }
    IkeSuite(**values)
    with pytest.raises(ValueError):
        IkeSuite(**values | fields)


@pytest.mark.parametrize(
    ("name", "encryption", "integrity"),
    [
        ("aes128-sha256", 16, 32),
        ("aes256-sha1", 32, 20),
        ("aes192-sha512", 24, 64),
        ("aes128gcm16", 20, 0),
        ("aes256gcm16", 36, 0),
        ("aes192ccm8", 27, 0),  # RFC 4309 §7.1: three octets of salt
        ("chacha20poly1305", 36, 0),
        ("aes128ctr-aesxcbc", 20, 16),  # RFC 3686 §5.1: the nonce is part of the key material
        ("3des-aescmac", 24, 16),
        ("null-sha384", 0, 48),
    ],
)
def test_key_lengths_include_the_salt(name: str, encryption: int, integrity: int) -> None:
    suite = EspSuite.of(name)
    assert (suite.encryption_key_length, suite.integrity_key_length) == (encryption, integrity)
    assert suite.aead == (integrity == 0)


def test_without_group() -> None:
    assert EspSuite.of("aes128-sha256-x25519").without_group() == EspSuite.of("aes128-sha256")
    assert EspSuite.of("aes128-sha256-x25519-ke1_mlkem768").without_group() == EspSuite.of("aes128-sha256")


def test_additional_key_exchanges() -> None:
    """RFC 9370 §2.2.2: transform types are numbered, and one may be left out between others."""
    assert IkeSuite.of("aes128-sha256-x25519-ke2_mlkem768").additional == (KeGroup.NONE, KeGroup.ML_KEM_768)
    assert IkeSuite.of("aes128-sha256-ke1_mlkem512-x25519").additional == (KeGroup.ML_KEM_512,)
    assert IkeSuite.of("aes128-sha256-x25519").additional == ()


@pytest.mark.parametrize(
    ("name", "weak"),
    [
        ("aes128-sha256-x25519", ()),
        ("aes128-sha1-modp1024", ("sha1", "prfsha1", "modp1024")),
        ("3des-sha256-modp2048", ("3des",)),
        ("aes128-aesxcbc-ecp192", ("ecp192",)),
    ],
)
def test_weak_algorithms_are_named(name: str, weak: tuple[str, ...]) -> None:
    assert IkeSuite.of(name).weak == weak
    assert EspSuite.of("null-sha1").weak == ("null", "sha1")
    assert EspSuite.of("aes128gcm16").weak == ()


def test_prf_limits() -> None:
    prf = Prf.of(PrfId.PRF_HMAC_SHA2_256)
    assert prf.key_length == prf.output_length == 32
    assert prf.plus(b"k", b"s", 100) == prf.plus(b"k", b"s", 255 * 32)[:100]
    assert prf.plus(b"k", b"s", 0) == b""
    with pytest.raises(LocalError):
        prf.plus(b"k", b"s", 255 * 32 + 1)  # RFC 7296 §2.13: the counter is one octet
    with pytest.raises(LocalError):
        Prf.of(PrfId.PRF_HMAC_TIGER)


GROUPS = list(KEY_EXCHANGES)
KEMS = [group for group in GROUPS if isinstance(KEY_EXCHANGES[group], MlKemMethod)]
ECP = [group for group in GROUPS if isinstance(KEY_EXCHANGES[group], EcpMethod)]
MODP = [group for group in GROUPS if isinstance(KEY_EXCHANGES[group], ModpMethod)]
# Octets of the initiator's public value, of the responder's, of the shared secret.
LENGTHS = {
    KeGroup.CURVE25519: (32, 32, 32),
    KeGroup.CURVE448: (56, 56, 56),
    KeGroup.ECP_192: (48, 48, 24),
    KeGroup.ECP_224: (56, 56, 28),
    KeGroup.ECP_256: (64, 64, 32),
    KeGroup.ECP_384: (96, 96, 48),
    KeGroup.ECP_521: (132, 132, 66),
    KeGroup.BRAINPOOL_P256R1: (64, 64, 32),
    KeGroup.BRAINPOOL_P384R1: (96, 96, 48),
    KeGroup.BRAINPOOL_P512R1: (128, 128, 64),
    # FIPS 203 §8, tables 2 and 3
    KeGroup.ML_KEM_512: (800, 768, 32),
    KeGroup.ML_KEM_768: (1184, 1088, 32),
    KeGroup.ML_KEM_1024: (1568, 1568, 32),
} | {group: (int(group.name.split("_")[1]) // 8,) * 3 for group in MODP}


@pytest.mark.parametrize("group", GROUPS)
def test_both_ends_agree_and_runs_replay(group: KeGroup) -> None:
    ue = KeyExchange.generate(group, SeededEntropy("ue"))
    public, shared = KeyExchange.respond(group, ue.public, SeededEntropy("epdg"))
    assert ue.group == group
    assert (len(ue.public), len(public), len(shared)) == LENGTHS[group]
    assert ue.public != public
    assert ue.shared(public) == shared
    assert KeyExchange.generate(group, SeededEntropy("ue")).public == ue.public
    again = KeyExchange.respond(group, ue.public, SeededEntropy("epdg"))
    # The library randomises the encapsulation of these two itself.
    assert (again == (public, shared)) == (group not in (KeGroup.ML_KEM_768, KeGroup.ML_KEM_1024))


@pytest.mark.parametrize("group", GROUPS)
def test_values_of_other_lengths_are_refused(group: KeGroup) -> None:
    """RFC 6989 §2.5: INVALID_SYNTAX, whichever end finds it."""
    exchange = KeyExchange.generate(group, SeededEntropy(1))
    good, _ = KeyExchange.respond(group, exchange.public, SeededEntropy(2))
    for bad in (b"", good[:-1], good + b"\0", b"\0" + good):
        with pytest.raises(RemoteError) as caught:
            exchange.shared(bad)
        assert caught.value.notify_type == NotifyType.INVALID_SYNTAX
    for bad in (b"", exchange.public[:-1], exchange.public + b"\0", b"\0" + exchange.public):
        with pytest.raises(RemoteError) as caught:
            KeyExchange.respond(group, bad, SeededEntropy(2))
        assert caught.value.notify_type == NotifyType.INVALID_SYNTAX


def refused_by_both_ends(group: KeGroup, value: bytes) -> None:
    with pytest.raises(RemoteError):
        KeyExchange.generate(group, SeededEntropy(1)).shared(value)
    with pytest.raises(RemoteError):
        KeyExchange.respond(group, value, SeededEntropy(1))


@pytest.mark.parametrize("group", MODP)
def test_modp_values_outside_the_group(group: KeGroup) -> None:
    """RFC 6989 §2.1: 1 < r < p-1; here 0, 1, p-1, p and all ones."""
    method = KEY_EXCHANGES[group]
    assert isinstance(method, ModpMethod)
    prime, length = int(method.prime), method.length
    for value in (0, 1, prime - 1, prime, 256**length - 1):
        refused_by_both_ends(group, value.to_bytes(length, "big"))
    assert len(KeyExchange.generate(group, SeededEntropy(1)).shared((prime - 2).to_bytes(length, "big"))) == length


@pytest.mark.parametrize("group", ECP)
def test_points_off_the_curve(group: KeGroup) -> None:
    """RFC 6989 §2.3: the point has to satisfy the curve's equation, and is not the one at infinity."""
    good = KeyExchange.generate(group, SeededEntropy(2)).public
    for bad in (good[:-1] + bytes((good[-1] ^ 1,)), bytes(len(good)), b"\xff" * len(good)):
        refused_by_both_ends(group, bad)


@pytest.mark.parametrize("group", KEMS)
def test_an_encapsulation_key_whose_coefficients_are_out_of_range(group: KeGroup) -> None:
    """FIPS 203 §7.2: the modulus check."""
    good = KeyExchange.generate(group, SeededEntropy(2)).public
    with pytest.raises(RemoteError) as caught:
        KeyExchange.respond(group, b"\xff" * 3 + good[3:], SeededEntropy(1))
    assert caught.value.notify_type == NotifyType.INVALID_SYNTAX


@pytest.mark.parametrize("group", KEMS)
def test_a_forged_ciphertext_gives_another_secret(group: KeGroup) -> None:
    """FIPS 203 §6.3: implicit rejection; the ends then fail to authenticate one another."""
    exchange = KeyExchange.generate(group, SeededEntropy(1))
    public, shared = KeyExchange.respond(group, exchange.public, SeededEntropy(2))
    forged = public[:-1] + bytes((public[-1] ^ 1,))
    assert exchange.shared(forged) not in (shared, exchange.shared(forged[::-1]))
    assert exchange.shared(forged) == exchange.shared(forged)


@pytest.mark.parametrize("low_order", ["00" * 56, "01" + "00" * 55, "fe" + "ff" * 27 + "fe" + "ff" * 27])
def test_x448_points_of_low_order(low_order: str) -> None:
    """RFC 7748 §6.2: an all-zero result is refused."""
    refused_by_both_ends(KeGroup.CURVE448, bytes.fromhex(low_order))


@pytest.mark.parametrize("low_order", ["00" * 32, "01" + "00" * 31, "ecffffff" + "ff" * 27 + "7f"])
def test_x25519_points_of_low_order(low_order: str) -> None:
    """RFC 7748 §6.1: an all-zero result is refused."""
    exchange = KeyExchange.generate(KeGroup.CURVE25519, SeededEntropy(1))
    with pytest.raises(RemoteError):
        exchange.shared(bytes.fromhex(low_order))


def test_x25519_values_that_are_not_canonical() -> None:
    """RFC 8031 §3.2: the most significant bit MUST be masked, non-canonical values MUST be accepted."""
    exchange = KeyExchange.generate(KeGroup.CURVE25519, SeededEntropy(1))
    good = KeyExchange.generate(KeGroup.CURVE25519, SeededEntropy(2)).public
    assert exchange.shared(good[:-1] + bytes((good[-1] ^ 0x80,))) == exchange.shared(good)
    nine = (9).to_bytes(32, "little")
    assert exchange.shared((2**255 - 19 + 9).to_bytes(32, "little")) == exchange.shared(nine)


def test_a_group_that_is_not_implemented() -> None:
    with pytest.raises(LocalError):
        KeyExchange.generate(KeGroup.MODP_1024_160, SeededEntropy(1))
    with pytest.raises(LocalError):
        KeyExchange.respond(KeGroup.MODP_1024_160, bytes(128), SeededEntropy(1))


# RFC 7296 Appendix B and RFC 3526: the number added to the digits of pi.
PI_OFFSETS = {
    768: 149686,
    1024: 129093,
    1536: 741804,
    2048: 124476,
    3072: 1690314,
    4096: 240904,
    6144: 929484,
    8192: 4743158,
}


def test_modp_primes_are_the_rfcs() -> None:
    """2^n - 2^(n-64) - 1 + 2^64 * { [2^(n-130) pi] + offset }; pi here by Machin's formula."""
    one = 1 << 8200

    def arctan_of_reciprocal(x: int) -> int:
        total = term = one // x
        divisor, sign = 1, -1
        while term:
            term //= x * x
            divisor += 2
            total += sign * (term // divisor)
            sign = -sign
        return total

    pi = 4 * (4 * arctan_of_reciprocal(5) - arctan_of_reciprocal(239))
    assert len(MODP) == len(PI_OFFSETS)
    for bits, offset in PI_OFFSETS.items():
        method = KEY_EXCHANGES[KeGroup[f"MODP_{bits}"]]
        assert isinstance(method, ModpMethod)
        digits = (pi >> (8200 - (bits - 130))) + offset
        assert int(method.prime) == 2**bits - 2 ** (bits - 64) - 1 + 2**64 * digits


@pytest.mark.parametrize("group", MODP)
def test_modp_against_the_library(group: KeGroup) -> None:
    """The library's finite-field Diffie-Hellman as oracle; its exponents are its own."""
    method = KEY_EXCHANGES[group]
    assert isinstance(method, ModpMethod)
    numbers = dh.DHParameterNumbers(int(method.prime), 2)
    theirs = numbers.parameters().generate_private_key()
    ours = KeyExchange.generate(group, SeededEntropy(1))
    public = dh.DHPublicNumbers(int.from_bytes(ours.public, "big"), numbers).public_key()
    value = theirs.public_key().public_numbers().y.to_bytes(method.length, "big")
    assert ours.shared(value) == theirs.exchange(public).rjust(method.length, b"\0")
