"""Keys, AT_MAC and AT_ENCR_DATA of both methods against FIPS 186-2, RFC 4186, RFC 9048, hostapd runs and AOSP."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from protocols.algorithms import fips186
from protocols.algorithms.vector import AkaVector
from protocols.buffer import Reader
from protocols.eap.aka.attributes import (
    AtAutn,
    AtCheckcode,
    AtCounter,
    AtEncrData,
    AtIdentity,
    AtIv,
    AtKdfInput,
    AtMac,
    AtNextPseudonym,
    AtNextReauthId,
    AtNonceS,
    decode_attributes,
)
from protocols.eap.aka.keys import AkaKeys, derive_ck_ik_prime, derive_keys, derive_reauthentication_keys, prime_vector
from protocols.eap.aka.messages import AkaMessage, AkaSubtype
from protocols.eap.aka.protection import (
    checkcode,
    decrypt_attributes,
    encrypt_attributes,
    mac_verifies,
    nested_attributes,
)
from protocols.eap.packet import EapPacket, EapType
from protocols.errors import DecodeError
from protocols.secret import Secret
from tests.harness.material import shared

DATA = json.loads((Path(__file__).parent / "data/eap_generator.json").read_text())


def library() -> fips186.Compression:
    """libcrypto's compression function, or a skipped test."""
    found = fips186.library_compression()
    if found is None:
        pytest.skip("no libcrypto with SHA1_Transform on this machine")
    return found


@pytest.fixture(params=["python", "library"])
def compress(request: pytest.FixtureRequest) -> fips186.Compression:
    """Either compression function."""
    return fips186.compress_in_python if request.param == "python" else library()


def test_compression_is_sha1_on_one_padded_block(compress: fips186.Compression) -> None:
    for length in range(0, 56, 5):
        message = bytes(range(length))
        block = message + b"\x80" + bytes(55 - length) + (8 * length).to_bytes(8, "big")
        assert compress(block) == hashlib.sha1(message).digest()


def test_fips186_general_purpose_generator(compress: fips186.Compression) -> None:
    vector = DATA["fips186_2"]
    expected = bytes.fromhex(vector["W0W1"])
    assert fips186.generate(bytes.fromhex(vector["XKEY"]), len(expected), compress) == expected


def test_the_generator_of_rfc4186(compress: fips186.Compression) -> None:
    keys = DATA["eap_sim"]
    stream = bytes.fromhex(keys["K_encr"] + keys["K_aut"] + keys["MSK"] + keys["EMSK"])
    assert fips186.generate(bytes.fromhex(keys["MK"]), len(stream), compress) == stream


def test_a_seed_key_of_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="19 octets"):
        fips186.generate(bytes(19), 20)


def test_aosp_keys(compress: fips186.Compression) -> None:
    aosp = json.loads(shared("vectors/fetched/eap_aka_aosp.json").read_text())["eap_aka"]
    ik, ck = bytes.fromhex(aosp["IK"]), bytes.fromhex(aosp["CK"])
    keys = derive_keys(aosp["identity_for_MK"].encode(), ik=ik, ck=ck, compress=compress)
    for name, value in (
        ("MK", keys.k_re),
        ("K_encr", keys.k_encr),
        ("K_aut", keys.k_aut),
        ("MSK", keys.msk),
        ("EMSK", keys.emsk),
    ):
        assert value.reveal().hex() == aosp[name], name
    other = derive_keys(aosp["identity_for_MK_without_identity_round"].encode(), ik=ik, ck=ck)
    assert other.msk.reveal().hex() == aosp["MSK_without_identity_round"]
    assert other.emsk.reveal().hex() == aosp["EMSK_without_identity_round"]


def test_aosp_packets_decode_and_their_macs_verify() -> None:
    aosp = json.loads(shared("vectors/fetched/eap_aka_aosp.json").read_text())["eap_aka"]
    nonce = bytes.fromhex(aosp["reauth"]["NONCE_S"])
    checked = 0
    for case in aosp["packets"]:
        octets = bytes.fromhex(case["hex"])
        message = AkaMessage.decode(octets)
        assert message.encode() == octets, case["name"]
        mac = case.get("mac")
        if mac is None:
            continue
        if not mac["ok"]:
            assert not mac_verifies(octets, Secret(bytes.fromhex(aosp["K_aut"])))
            continue
        extra = nonce if mac["input"] == "packet|NONCE_S" else b""
        assert mac_verifies(octets, Secret(bytes.fromhex(mac["k_aut"])), extra), case["name"]
        checked += 1
    assert checked == 9


@pytest.mark.parametrize("case", range(4))
def test_rfc9048_appendix_d(case: int) -> None:
    vector = json.loads(shared("vectors/spec/eap_aka_prime_rfc9048.json").read_text())["cases"][case]
    octets = {name: bytes.fromhex(vector[name]) for name in ("RAND", "AUTN", "IK", "CK", "RES")}
    plain = AkaVector(rand=octets["RAND"], autn=octets["AUTN"], xres=octets["RES"], ck=octets["CK"], ik=octets["IK"])
    prime = prime_vector(plain, vector["Network_name"].encode())
    assert (prime.ck.hex(), prime.ik.hex()) == (vector["CK'"], vector["IK'"])
    keys = derive_keys(vector["Identity"].encode(), ik=prime.ik, ck=prime.ck, method=EapType.AKA_PRIME)
    for name in ("K_encr", "K_aut", "K_re", "MSK", "EMSK"):
        assert getattr(keys, name.lower()).reveal().hex() == vector[name], name


def test_aosp_keys_of_aka_prime() -> None:
    aosp = json.loads(shared("vectors/fetched/eap_aka_aosp.json").read_text())["eap_aka_prime"]
    ck, ik = derive_ck_ik_prime(
        bytes.fromhex(aosp["CK"]),
        bytes.fromhex(aosp["IK"]),
        network_name=aosp["network_name"].encode(),
        sqn_xor_ak=bytes.fromhex(aosp["AUTN"])[:6],
    )
    assert (ck.hex(), ik.hex()) == (aosp["CKp"], aosp["IKp"])
    keys = derive_keys(aosp["identity"].encode(), ik=ik, ck=ck, method=EapType.AKA_PRIME)
    for name in ("k_encr", "k_aut", "k_re", "msk", "emsk"):
        assert getattr(keys, name).reveal().hex() == aosp[name], name
    checked = 0
    for case in aosp["packets"]:
        octets = bytes.fromhex(case["hex"])
        assert AkaMessage.decode(octets).encode() == octets, case["name"]
        if "mac" in case:
            verifies = mac_verifies(octets, Secret(bytes.fromhex(case["mac"].get("k_aut", aosp["k_aut"]))))
            assert verifies == case["mac"]["ok"], case["name"]
            checked += 1
    assert checked > 3


def test_aosp_keys_of_fast_reauthentication(compress: fips186.Compression) -> None:
    aosp = json.loads(shared("vectors/fetched/eap_aka_aosp.json").read_text())["eap_aka"]
    reauth = aosp["reauth"]
    found = []
    for identity in reauth["identities"]:
        keys = derive_reauthentication_keys(
            Secret(bytes.fromhex(aosp["MK"])),
            method=EapType.AKA,
            identity=identity.encode(),
            counter=reauth["counter"],
            nonce_s=bytes.fromhex(reauth["NONCE_S"]),
            compress=compress,
        )
        found.append((keys.msk.reveal().hex(), keys.emsk.reveal().hex()))
    assert (reauth["MSK"], reauth["EMSK"]) in found


def runs() -> list[dict[str, Any]]:
    """The recorded runs of hostapd and eapol_test, of both methods."""
    recorded = json.loads(shared("vectors/runs/eap_aka_hostap_runs.json").read_text())["runs"]
    assert len(recorded) == 7
    return list(recorded)


def test_hostapd_packets_survive_a_round_trip() -> None:
    for run in runs():
        for recorded in run["packets"]:
            octets = bytes.fromhex(recorded["hex"])
            packet = EapPacket.decode(octets)
            assert packet.encode() == octets
            if packet.type in (EapType.AKA, EapType.AKA_PRIME):
                assert AkaMessage.decode(octets).encode() == octets


def full_keys(recorded: dict[str, Any], message: AkaMessage) -> AkaKeys:
    """The keys of a recorded challenge, judged by the record."""
    ck, ik = (bytes.fromhex(recorded["aka_vector"][name]) for name in ("CK", "IK"))
    if message.method is EapType.AKA_PRIME:
        name, autn = message.require(AtKdfInput).value, message.require(AtAutn).value
        ck, ik = derive_ck_ik_prime(ck, ik, network_name=name, sqn_xor_ak=autn[:6])
    keys = derive_keys(recorded["mk_identity"].encode(), ik=ik, ck=ck, method=message.method)
    for name, value in recorded["keys"].items():
        if name == "mk":
            assert keys.k_re.reveal().hex() == value
        elif hasattr(keys, name):
            assert getattr(keys, name).reveal().hex() == value, name
    return keys


def test_hostapd_keys_macs_checkcodes_and_nested_attributes() -> None:
    keyed = checkcodes = nested = macs = again = 0
    for run in runs():
        rounds: list[bytes] = []
        keys: AkaKeys | None = None
        nonce = b""
        for recorded in run["packets"]:
            octets = bytes.fromhex(recorded["hex"])
            packet = EapPacket.decode(octets)
            if packet.type == EapType.IDENTITY:
                rounds, nonce = [], b""
            if packet.type not in (EapType.AKA, EapType.AKA_PRIME):
                continue
            message = AkaMessage.decode(octets)
            if message.subtype == AkaSubtype.IDENTITY:
                rounds.append(octets)
                identity = message.get(AtIdentity)
                assert identity is None or identity.value.decode() == recorded["AT_IDENTITY"]
            if "aka_vector" in recorded:
                keys = full_keys(recorded, message)
                keyed += 1
            if keys is None:
                continue
            attributes = nested_attributes(message, keys.k_encr)
            if message.get(AtMac) is not None:
                assert mac_verifies(octets, keys.k_aut, nonce)
                assert not mac_verifies(octets[:-1] + bytes([octets[-1] ^ 1]), keys.k_aut, nonce)
                macs += 1
            code = message.get(AtCheckcode)
            if code is not None:
                assert code.checkcode == checkcode(rounds, message.method)
                checkcodes += 1
            if "encr_plaintext" in recorded:
                iv = message.require(AtIv)
                again_encrypted = encrypt_attributes(attributes.attributes, keys.k_encr, iv.value)
                assert again_encrypted == (iv, message.require(AtEncrData))
                plaintext = decrypt_attributes(keys.k_encr, iv.value, again_encrypted[1].ciphertext)
                assert plaintext.hex() == recorded["encr_plaintext"]
                for kind, name in ((AtNextPseudonym, "next_pseudonym"), (AtNextReauthId, "next_reauth_id")):
                    text = attributes.get(kind)
                    assert (text.value.decode() if text else None) == recorded.get(name)
                nested += 1
            if "reauth_keys" in recorded:
                nonce = attributes.require(AtNonceS).value
                session = derive_reauthentication_keys(
                    keys.k_re,
                    method=message.method,
                    identity=recorded["reauth_identity"].encode(),
                    counter=attributes.require(AtCounter).value,
                    nonce_s=nonce,
                )
                assert session.msk.reveal().hex() == recorded["reauth_keys"]["msk"]
                assert session.emsk.reveal().hex() == recorded["reauth_keys"]["emsk"]
                again += 1
    assert (keyed, checkcodes, nested, macs, again) == (11, 27, 19, 35, 4)


def test_the_cipher_of_rfc4186_is_ours() -> None:
    sim = json.loads(shared("vectors/spec/eap_sim_rfc4186.json").read_text())
    packet = EapPacket.decode(bytes.fromhex(sim["packets"]["A.9"]["hex"]))
    attributes = {type(a): a for a in decode_attributes(Reader(packet.data, 3))}
    iv, encrypted = attributes[AtIv], attributes[AtEncrData]
    assert isinstance(iv, AtIv)
    assert isinstance(encrypted, AtEncrData)
    k_encr = Secret(bytes.fromhex(sim["keys_full_auth"]["K_encr"]))
    plaintext = decrypt_attributes(k_encr, iv.value, encrypted.ciphertext)
    assert plaintext.hex() == sim["packets"]["A.9"]["encr_plaintext"]


@pytest.mark.parametrize("length", [0, 1, 15, 17])
def test_ciphertext_that_is_no_whole_blocks(length: int) -> None:
    with pytest.raises(DecodeError, match="AT_ENCR_DATA"):
        decrypt_attributes(Secret(bytes(16)), bytes(16), bytes(length))
