"""Our UE at Debian's strongSwan with every kind of algorithm: IKE and ESP suites, groups, PFS.

charon grants one suite after the other; the UE offers them all, its first guess of a group is mostly wrong, so
nearly every attach begins with INVALID_KE_PAYLOAD (RFC 7296 §1.2). Under each suite both SAs are rekeyed: the
PRF makes SKEYSEED and KEYMAT again from the old SK_d.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.peers.namespaces import namespaces
from tests.peers.strongswan import require_strongswan
from tests.peers.ue_at_strongswan import Bench, Terms, UeAtCharon, bench, children, inbound_spis, part

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.timeout(120)]

IKE_SUITES = {  # and as charon calls it
    "aes128-sha256-x25519": "AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/CURVE_25519",
    "aes128-sha1-modp1024": "AES_CBC_128/HMAC_SHA1_96/PRF_HMAC_SHA1/MODP_1024",
    "aes192-sha384-ecp384": "AES_CBC_192/HMAC_SHA2_384_192/PRF_HMAC_SHA2_384/ECP_384",
    "aes256-sha512-ecp521": "AES_CBC_256/HMAC_SHA2_512_256/PRF_HMAC_SHA2_512/ECP_521",
    "3des-sha1-modp1536": "3DES_CBC/HMAC_SHA1_96/PRF_HMAC_SHA1/MODP_1536",
    "aes128ctr-sha256-modp2048": "AES_CTR_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048",
    "aes256ctr-sha256-ecp256": "AES_CTR_256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_256",
    "aes128gcm8-prfsha256-x25519": "AES_GCM_8_128/PRF_HMAC_SHA2_256/CURVE_25519",
    "aes128gcm12-prfsha256-ecp256": "AES_GCM_12_128/PRF_HMAC_SHA2_256/ECP_256",
    "aes256gcm16-prfsha384-ecp384": "AES_GCM_16_256/PRF_HMAC_SHA2_384/ECP_384",
    "aes128ccm8-prfsha256-x25519": "AES_CCM_8_128/PRF_HMAC_SHA2_256/CURVE_25519",
    "aes192ccm12-prfsha1-ecp256": "AES_CCM_12_192/PRF_HMAC_SHA1/ECP_256",
    "aes256ccm16-prfsha512-x25519": "AES_CCM_16_256/PRF_HMAC_SHA2_512/CURVE_25519",
    "chacha20poly1305-prfsha256-x448": "CHACHA20_POLY1305/PRF_HMAC_SHA2_256/CURVE_448",
    "aes128-aesxcbc-x25519": "AES_CBC_128/AES_XCBC_96/PRF_AES128_XCBC/CURVE_25519",
    "aes128-aescmac-x25519": "AES_CBC_128/AES_CMAC_96/PRF_AES128_CMAC/CURVE_25519",
    "aes256gcm16-prfaesxcbc-ecp256bp": "AES_GCM_16_256/PRF_AES128_XCBC/ECP_256_BP",
    "aes256gcm16-prfaescmac-ecp384bp": "AES_GCM_16_256/PRF_AES128_CMAC/ECP_384_BP",
    "aes256-sha256-ecp512bp": "AES_CBC_256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_512_BP",
    "aes256-sha256-modp3072": "AES_CBC_256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_3072",
    "aes256-sha256-modp4096": "AES_CBC_256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_4096",
    "aes128-sha256-ecp224": "AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_224",
    "aes128-sha256-ecp192": "AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_192",
}
ESP_SUITES = {  # and as charon calls it
    "aes128-sha1": "AES_CBC_128/HMAC_SHA1_96",
    "aes192-sha384": "AES_CBC_192/HMAC_SHA2_384_192",
    "aes256-sha512": "AES_CBC_256/HMAC_SHA2_512_256",
    "aes128-sha256": "AES_CBC_128/HMAC_SHA2_256_128",
    "3des-sha1": "3DES_CBC/HMAC_SHA1_96",
    "aes128-aesxcbc": "AES_CBC_128/AES_XCBC_96",
    "aes128-aescmac": "AES_CBC_128/AES_CMAC_96",
    "aes128ctr-sha256": "AES_CTR_128/HMAC_SHA2_256_128",
    "aes256ctr-sha256": "AES_CTR_256/HMAC_SHA2_256_128",
    "aes128gcm8": "AES_GCM_8_128",
    "aes128gcm16": "AES_GCM_16_128",
    "aes192gcm12": "AES_GCM_12_192",
    "aes256gcm16": "AES_GCM_16_256",
    "aes128ccm8": "AES_CCM_8_128",
    "aes192ccm12": "AES_CCM_12_192",
    "aes256ccm16": "AES_CCM_16_256",
    "chacha20poly1305": "CHACHA20_POLY1305",
    "null-sha256": "NULL/HMAC_SHA2_256_128",
}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Bench]:
    """One charon for all suites."""
    require_strongswan()
    with namespaces() as stage, bench(stage) as opened:
        yield opened


@pytest.fixture(scope="module")
def ue(gateway: Bench) -> Iterator[UeAtCharon]:
    """A UE that offers everything."""
    with gateway.ue(algorithms={"ike": list(IKE_SUITES), "esp": list(ESP_SUITES)}) as started:
        yield started


@pytest.fixture
def attached(gateway: Bench, ue: UeAtCharon) -> Iterator[UeAtCharon]:
    """The UE; what it has attached is detached at the end."""
    yield ue
    if ue.session()["state"] == "established":
        ue.node.call("ue.detach")
    gateway.charon.wait_gone()


def rekey_both(gateway: Bench, ue: UeAtCharon) -> None:
    """The child SA by charon, the IKE SA by the UE."""
    before = ue.session()
    gateway.charon.rekey_child()
    ue.wait_single_child(other_than=inbound_spis(before))
    ue.node.call("ue.rekey-ike")
    ue.wait(lambda seen: part(seen, "ike")["spi_r"] != part(before, "ike")["spi_r"], "the IKE SA being rekeyed")
    gateway.agree(ue)


def selected(gateway: Bench, since: int, protocol: str) -> list[str]:
    """What charon has selected, in its own words."""
    return re.findall(rf"selected proposal: {protocol}:(\S+)", gateway.charon.log()[since:])


@pytest.mark.parametrize("suite", IKE_SUITES)
def test_ike_suite(gateway: Bench, attached: UeAtCharon, suite: str) -> None:
    gateway.grant(Terms(proposals=suite))
    since = gateway.since()
    attached.attach()
    rekey_both(gateway, attached)
    attached.ping()
    assert part(attached.session(), "ike")["suite"] == suite
    chosen = selected(gateway, since, "IKE")
    assert len(chosen) >= 2  # once more where INVALID_KE_PAYLOAD came first
    assert set(chosen) == {IKE_SUITES[suite]}


@pytest.mark.parametrize("suite", ESP_SUITES)
def test_esp_suite(gateway: Bench, attached: UeAtCharon, suite: str) -> None:
    gateway.grant(Terms(esp_proposals=suite))
    since = gateway.since()
    attached.attach()
    attached.ping()
    rekey_both(gateway, attached)
    attached.ping()
    assert [child["suite"] for child in children(attached.session())] == [suite]
    assert selected(gateway, since, "ESP") == [f"{ESP_SUITES[suite]}/NO_EXT_SEQ"] * 2


# --- perfect forward secrecy of child SAs (RFC 7296 §1.3.1) ------------------------------------------

GROUPS = ("x25519", "ecp256", "ecp384", "ecp521", "modp2048", "x448", "ecp256bp")


def rekeyed_by_ue(ue: UeAtCharon) -> None:
    before = inbound_spis(ue.session())
    ue.node.call("ue.rekey-child")
    ue.wait_single_child(other_than=before)


def rekeyed_by_charon(gateway: Bench, ue: UeAtCharon) -> None:
    before = inbound_spis(ue.session())
    gateway.charon.rekey_child()
    ue.wait_single_child(other_than=before)


@pytest.fixture(scope="module")
def guessing(gateway: Bench) -> Iterator[UeAtCharon]:
    """A UE that offers every group and guesses MODP-3072 first."""
    offered = [f"aes128gcm16-{group}" for group in ("modp3072", *GROUPS)]
    with gateway.ue(algorithms={"esp": offered}) as started:
        yield started


@pytest.mark.parametrize("group", GROUPS)
def test_pfs_and_a_wrong_guess_refused_by_charon(gateway: Bench, guessing: UeAtCharon, group: str) -> None:
    gateway.grant(Terms(esp_proposals=f"aes128gcm16-{group}"))
    guessing.attach()
    try:
        since = gateway.since()
        rekeyed_by_ue(guessing)
        gateway.charon.wait_for_log(r"generating CREATE_CHILD_SA response \d+ \[ N\(INVAL_KE\) \]", since=since)
        gateway.agree(guessing)
        assert [child["suite"] for child in children(guessing.session())] == [f"aes128gcm16-{group}"]
        guessing.ping()
        rekeyed_by_charon(gateway, guessing)
        gateway.agree(guessing)
        guessing.ping()
    finally:
        guessing.node.call("ue.detach")
        gateway.charon.wait_gone()


def test_a_wrong_guess_of_charon_is_refused_by_the_ue(gateway: Bench) -> None:
    gateway.grant(Terms(esp_proposals="aes128gcm16-ecp521-ecp384"))
    with gateway.ue(algorithms={"esp": ["aes128gcm16-ecp384"]}) as ue:
        ue.attach()
        since = gateway.since()
        rekeyed_by_charon(gateway, ue)
        gateway.charon.wait_for_log(r"parsed CREATE_CHILD_SA response \d+ \[ N\(INVAL_KE\) \]", since=since)
        gateway.charon.wait_for_log(r"peer didn't accept DH group ECP_521, it requested ECP_384", since=since)
        gateway.agree(ue)
        ue.ping()
