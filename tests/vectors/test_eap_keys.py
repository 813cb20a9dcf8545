"""EAP-AKA keys and AT_MAC (RFC 4187 §7, §10.15) against FIPS 186-2, RFC 4186, hostapd runs and AOSP."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from protocols.algorithms import fips186
from protocols.buffer import Reader
from protocols.eap.aka.attributes import (
    AkaMessage,
    AkaSubtype,
    AtCheckcode,
    AtEncrData,
    AtIdentity,
    AtIv,
    AtMac,
    AtNextPseudonym,
    AtNextReauthId,
    checkcode,
    decode_attributes,
    encode_attributes,
    mac_verifies,
)
from protocols.eap.aka.keys import decrypt_attributes, derive_keys
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
        ("MK", keys.mk),
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


def aka_runs() -> list[dict[str, Any]]:
    """The recorded EAP-AKA (not EAP-AKA') runs of hostapd and eapol_test."""
    runs = json.loads(shared("vectors/runs/eap_aka_hostap_runs.json").read_text())["runs"]
    chosen = [run for run in runs if run["name"].startswith("aka_")]
    assert len(chosen) == 4
    return chosen


def test_hostapd_packets_survive_a_round_trip() -> None:
    for run in aka_runs():
        for recorded in run["packets"]:
            octets = bytes.fromhex(recorded["hex"])
            packet = EapPacket.decode(octets)
            assert packet.encode() == octets
            if packet.type == EapType.AKA:
                assert AkaMessage.decode(octets).encode() == octets


def test_hostapd_keys_macs_checkcodes_and_nested_attributes() -> None:
    keyed = checkcodes = nested = macs = 0
    for run in aka_runs():
        rounds: list[bytes] = []
        keys = None
        for recorded in run["packets"]:
            octets = bytes.fromhex(recorded["hex"])
            packet = EapPacket.decode(octets)
            if packet.type == EapType.IDENTITY:
                rounds, keys = [], None
            if packet.type != EapType.AKA:
                continue
            message = AkaMessage.decode(octets)
            if message.subtype == AkaSubtype.IDENTITY:
                rounds.append(octets)
                identity = message.get(AtIdentity)
                assert identity is None or identity.value.decode() == recorded["AT_IDENTITY"]
            if "aka_vector" in recorded:
                vector = {name: bytes.fromhex(value) for name, value in recorded["aka_vector"].items()}
                keys = derive_keys(recorded["mk_identity"].encode(), ik=vector["IK"], ck=vector["CK"])
                for name, value in recorded["keys"].items():
                    assert getattr(keys, name).reveal().hex() == value
                keyed += 1
            if message.subtype == AkaSubtype.REAUTHENTICATION:
                break  # later packets of the run are of fast re-authentication, with other MAC input
            if keys is not None and message.get(AtMac) is not None:
                assert mac_verifies(octets, keys.k_aut)
                assert not mac_verifies(octets[:-1] + bytes([octets[-1] ^ 1]), keys.k_aut)
                macs += 1
            code = message.get(AtCheckcode)
            if code is not None:
                assert code.checkcode == checkcode(rounds)
                checkcodes += 1
            iv, encrypted = message.get(AtIv), message.get(AtEncrData)
            if keys is not None and iv is not None and encrypted is not None:
                plaintext = decrypt_attributes(keys.k_encr, iv.value, encrypted.ciphertext)
                assert plaintext.hex() == recorded["encr_plaintext"]
                attributes = decode_attributes(Reader(plaintext))
                assert encode_attributes(attributes) == plaintext
                texts = {
                    type(a): a.value.decode() for a in attributes if isinstance(a, AtNextPseudonym | AtNextReauthId)
                }
                assert texts.get(AtNextPseudonym) == recorded.get("next_pseudonym")
                assert texts.get(AtNextReauthId) == recorded.get("next_reauth_id")
                nested += 1
    assert (keyed, checkcodes, nested, macs) == (6, 10, 6, 14)


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
