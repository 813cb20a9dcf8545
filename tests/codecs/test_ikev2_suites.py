"""Suites as text, key lengths, PRF and key exchange with RFC 6989's checks."""

from __future__ import annotations

import pytest

from protocols.entropy import SeededEntropy
from protocols.errors import LocalError, RemoteError
from protocols.ikev2.registry import EncryptionId, IntegrityId, KeGroup, NotifyType, PrfId
from protocols.ikev2.suites import KEY_EXCHANGES, EspSuite, IkeSuite, KeyExchange, ModpMethod, Prf

IKE_NAMES = [
    "aes128-sha256-x25519",
    "aes192-sha384-ecp384",
    "aes256-sha512-modp2048",
    "aes128-sha1-ecp256",
    "aes128-sha1-prfsha256-ecp256",
    "aes128gcm16-prfsha256-ecp256",
    "aes256gcm16-prfsha512-x25519",
]
ESP_NAMES = ["aes128-sha256", "aes128gcm16", "aes256-sha1-x25519", "aes256gcm16-ecp384-esn", "aes128-sha256-esn"]


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
        "aes128-sha256-modp768",
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


@pytest.mark.parametrize("text", ["aes128", "aes128gcm16-sha256", "aes128-sha256-prfsha256", "null-sha1", "aes128--"])
def test_bad_esp_text(text: str) -> None:
    with pytest.raises(ValueError):
        EspSuite.of(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"encryption_key_bits": None},
        {"encryption_key_bits": 129},
        {"encryption": EncryptionId.ENCR_3DES},
        {"encryption": EncryptionId(9001)},
        {"integrity": IntegrityId.AUTH_HMAC_MD5_96},
        {"integrity": IntegrityId.NONE},
        {"prf": PrfId.PRF_AES128_XCBC},
        {"group": KeGroup.MODP_1024},
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
    ],
)
def test_key_lengths_include_the_salt(name: str, encryption: int, integrity: int) -> None:
    suite = EspSuite.of(name)
    assert (suite.encryption_key_length, suite.integrity_key_length) == (encryption, integrity)
    assert suite.aead == (integrity == 0)


def test_without_group() -> None:
    assert EspSuite.of("aes128-sha256-x25519").without_group() == EspSuite.of("aes128-sha256")


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
PUBLIC_LENGTHS = {KeGroup.CURVE25519: 32, KeGroup.ECP_256: 64, KeGroup.ECP_384: 96, KeGroup.MODP_2048: 256}
SHARED_LENGTHS = {KeGroup.CURVE25519: 32, KeGroup.ECP_256: 32, KeGroup.ECP_384: 48, KeGroup.MODP_2048: 256}


@pytest.mark.parametrize("group", GROUPS)
def test_both_ends_agree_and_runs_replay(group: KeGroup) -> None:
    ue = KeyExchange.generate(group, SeededEntropy("ue"))
    epdg = KeyExchange.generate(group, SeededEntropy("epdg"))
    assert ue.group == group
    assert len(ue.public) == PUBLIC_LENGTHS[group]
    assert ue.public != epdg.public
    assert ue.shared(epdg.public) == epdg.shared(ue.public)
    assert len(ue.shared(epdg.public)) == SHARED_LENGTHS[group]
    assert KeyExchange.generate(group, SeededEntropy("ue")).public == ue.public


@pytest.mark.parametrize("group", GROUPS)
def test_values_of_other_lengths_are_refused(group: KeGroup) -> None:
    exchange = KeyExchange.generate(group, SeededEntropy(1))
    good = KeyExchange.generate(group, SeededEntropy(2)).public
    for bad in (b"", good[:-1], good + b"\0", b"\0" + good):
        with pytest.raises(RemoteError) as caught:
            exchange.shared(bad)
        assert caught.value.notify_type == NotifyType.INVALID_SYNTAX


@pytest.mark.parametrize("offset", [0, 1, -1, -2])
def test_modp_values_outside_the_group(offset: int) -> None:
    """RFC 6989 §2.1: 1 < r < p-1; here 0, 1, p-1 and p (2^2048-1 beyond it)."""
    method = KEY_EXCHANGES[KeGroup.MODP_2048]
    assert isinstance(method, ModpMethod)
    prime = int(method.prime)
    value = {0: 0, 1: 1, -1: prime - 1, -2: prime}[offset]
    exchange = KeyExchange.generate(KeGroup.MODP_2048, SeededEntropy(1))
    for bad in (value, 2**2048 - 1):
        with pytest.raises(RemoteError):
            exchange.shared(bad.to_bytes(256, "big"))
    assert len(exchange.shared((prime - 2).to_bytes(256, "big"))) == 256


@pytest.mark.parametrize("group", [KeGroup.ECP_256, KeGroup.ECP_384])
def test_points_off_the_curve(group: KeGroup) -> None:
    """RFC 6989 §2.3: the point has to satisfy the curve's equation."""
    exchange = KeyExchange.generate(group, SeededEntropy(1))
    good = KeyExchange.generate(group, SeededEntropy(2)).public
    for bad in (good[:-1] + bytes((good[-1] ^ 1,)), bytes(len(good)), b"\xff" * len(good)):
        with pytest.raises(RemoteError):
            exchange.shared(bad)


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
        KeyExchange.generate(KeGroup.MODP_768, SeededEntropy(1))


def test_modp_prime_is_rfc_3526s() -> None:
    """RFC 3526 §3: 2^2048 - 2^1984 - 1 + 2^64 * { [2^1918 pi] + 124476 }; pi here by Machin's formula."""
    one = 1 << 2100

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
    method = KEY_EXCHANGES[KeGroup.MODP_2048]
    assert isinstance(method, ModpMethod)
    assert int(method.prime) == 2**2048 - 2**1984 - 1 + 2**64 * ((pi >> (2100 - 1918)) + 124476)
