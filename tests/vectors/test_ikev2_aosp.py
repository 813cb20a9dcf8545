"""IKEv2 against AOSP's published tests: unit vectors, canned sessions of the CTS, and their capture.

Of the 38 checks that ``ikev2_aosp.json`` names three have no octets there to check by: "empty INFORMATIONAL (i)",
"SKEYSEED sha256" (every session of the CTS has one) and "ctr" (RFC 3686's own vectors are in ``test_rfc_algorithms``).
The sessions are replayed through the machine in ``test_ikev2_aosp_sessions``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether
from scapy.utils import RawPcapReader

from protocols.entropy import SeededEntropy
from protocols.errors import AuthenticationError
from protocols.ikev2.encryption import aead_of
from protocols.ikev2.keymat import (
    IkeKeys,
    auth_octets,
    derive_child_keys,
    derive_ike_keys,
    derive_rekeyed_ike_keys,
    shared_key_auth,
)
from protocols.ikev2.message import Message, decode_header, decode_message, encode_message
from protocols.ikev2.payloads import (
    AuthPayload,
    EncryptedFragmentPayload,
    EncryptedPayload,
    IdiPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    SaPayload,
    TsiPayload,
    TsrPayload,
    decode_payloads,
    encode_payloads,
)
from protocols.ikev2.protection import protection_of
from protocols.ikev2.registry import (
    AuthMethod,
    EncryptionId,
    ExchangeType,
    IntegrityId,
    KeGroup,
    NotifyType,
    PrfId,
    TransformType,
)
from protocols.ikev2.sealer import Sealer
from protocols.ikev2.suites import (
    KEY_EXCHANGES,
    EspSuite,
    IkeSuite,
    KeyExchange,
    ModpMethod,
    ModpPrivate,
    Prf,
)
from protocols.ikev2.tasks.natd import detection_hash
from protocols.path import Endpoint
from protocols.secret import Secret
from tests.harness.material import SHARED, shared
from tests.vectors.test_ikev2_rfc import Octets

octets = bytes.fromhex
KEY_NAMES = ("sk_d", "sk_ai", "sk_ar", "sk_ei", "sk_er", "sk_pi", "sk_pr")


@cache
def material(name: str) -> Any:
    return json.loads(shared(f"vectors/fetched/{name}").read_text())


def keys_in(row: dict[str, Any]) -> dict[str, bytes]:
    return {name: octets(row[f"SK_{name[3:]}"]) for name in KEY_NAMES}


def revealed(keys: IkeKeys) -> dict[str, bytes]:
    return {name: getattr(keys, name).reveal() for name in KEY_NAMES}


PSK_SUITE = IkeSuite.of("aes128-sha1-modp1024")


def psk_exchange() -> tuple[dict[str, Any], IkeKeys]:
    row = material("ikev2_aosp.json")["full_psk_exchange"]
    keys = derive_ike_keys(
        PSK_SUITE,
        octets(row["dh_shared"]),
        octets(row["Ni"]),
        octets(row["Nr"]),
        octets(row["SPIi"]),
        octets(row["SPIr"]),
    )
    return row, keys


def test_keys_of_the_ike_sa() -> None:
    row, keys = psk_exchange()
    assert Prf.of(PSK_SUITE.prf)(octets(row["Ni"] + row["Nr"]), octets(row["dh_shared"])) == octets(row["SKEYSEED"])
    assert revealed(keys) == keys_in(row)


def test_keys_of_the_child_sa() -> None:
    row, keys = psk_exchange()
    child = derive_child_keys(
        EspSuite.of("aes128-sha1"), Prf.of(PSK_SUITE.prf), keys.sk_d, octets(row["Ni"]), octets(row["Nr"])
    )
    expected = row["child_KEYMAT"]
    assert [secret.reveal() for secret in (child.ei, child.ai, child.er, child.ar)] == [
        octets(expected[name]) for name in ("ENCR_i", "INTEG_i", "ENCR_r", "INTEG_r")
    ]


def test_auth_by_shared_key() -> None:
    row, keys = psk_exchange()
    prf = Prf.of(PSK_SUITE.prf)
    signed = auth_octets(
        octets(row["ike_sa_init_request"]), octets(row["Nr"]), prf, keys.sk_pi, octets(row["IDi_body"])
    )
    assert shared_key_auth(prf, Secret(row["PSK"].encode()), signed) == octets(row["AUTH_i"])


def test_messages_of_the_exchange() -> None:
    row, keys = psk_exchange()
    for name, response in (("ike_sa_init_request", False), ("ike_sa_init_response", True)):
        message = decode_message(octets(row[name]))
        assert (message.exchange, message.response) == (ExchangeType.IKE_SA_INIT, response)
        assert encode_message(message) == octets(row[name])
        nonce = message.first(NoncePayload)
        assert nonce is not None
        assert nonce.data == octets(row["Nr" if response else "Ni"])
    request = octets(row["ike_auth_request"])
    responder = Sealer(PSK_SUITE, keys, False, SeededEntropy(1))
    message = responder.open(request, decode_header(request))
    assert message.payloads == decode_payloads(row["first_inner_payload"], octets(row["ike_auth_request_plaintext"]))
    assert message.summary().startswith("IKE_AUTH request 1 [ IDi, IDr, AUTH, ")
    identity, auth = message.first(IdiPayload), message.first(AuthPayload)
    assert identity is not None
    assert identity.encode() == octets(row["IDi_body"])
    assert auth == AuthPayload(AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE, octets(row["AUTH_i"]))
    # Sealed by ourselves and opened again it is the same message.
    again = Sealer(PSK_SUITE, keys, True, SeededEntropy(2)).seal(message)
    assert responder.open(again, decode_header(again)) == message


def test_nat_detection() -> None:
    """RFC 7296 §2.23: the hash that the initiator sent of its own address."""
    row = material("ikev2_aosp.json")["full_psk_exchange"]
    published = row["NAT_DETECTION_SOURCE_IP"]
    source = Endpoint.of(published["ip"], published["port"])
    digest = detection_hash(octets(row["SPIi"]), octets(published["spi_r"]), source)
    assert digest == octets(published["hash"])
    sent = decode_message(octets(row["ike_sa_init_request"])).notify(NotifyType.NAT_DETECTION_SOURCE_IP)
    assert sent is not None
    assert sent.data == digest


def test_prf() -> None:
    for row in material("ikev2_aosp.json")["prf"]:
        assert Prf.of(PrfId(row["prf"]))(octets(row["key"]), octets(row["data"])) == octets(row["out"])


def test_key_exchanges() -> None:
    seen = set()
    for row in material("ikev2_aosp.json")["dh"]:
        group = KeGroup(row["group"])
        assert modp_or_x25519(group, row["private"]).shared(octets(row["peer_public"])) == octets(row["shared"])
        seen.add(group)
    assert seen == {KeGroup.MODP_1024, KeGroup.MODP_1536, KeGroup.CURVE25519}


def modp_or_x25519(group: KeGroup, private: str) -> KeyExchange:
    method = KEY_EXCHANGES[group]
    if isinstance(method, ModpMethod):
        return KeyExchange(group, ModpPrivate(method, int(private, 16)))
    return KeyExchange.generate(group, Octets(octets(private)))


def test_keys_after_a_rekey_with_aes_xcbc() -> None:
    """RFC 7296 §2.18: SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr), with all of the nonces."""
    row = material("ikev2_aosp.json")["rekey_skeyseed_xcbc"]
    suite, prf = IkeSuite.of("aes128-aesxcbc-modp1024"), Prf.of(PrfId.PRF_AES128_XCBC)
    ni, nr = octets(row["nonceInitHex"]), octets(row["nonceRespHex"])
    keys = derive_rekeyed_ike_keys(
        suite, prf, Secret(octets(row["oldSkdHex"])), octets(row["sharedDhKeyHex"]), ni, nr, b"initiato", b"responde"
    )
    stream = prf.plus(octets(row["expectedSKeySeedHex"]), ni + nr + b"initiato" + b"responde", 7 * 16)
    assert b"".join(revealed(keys).values()) == stream


@pytest.mark.parametrize(
    ("name", "suite"),
    [
        ("3DES/HMAC-SHA1-96 SK (EAP-Request/AKA..id)", "3des-sha1-modp1024"),
        ("AES-GCM-16-256 SK", "aes256gcm16-prfsha256-x25519"),
    ],
)
def test_protected_messages(name: str, suite: str) -> None:
    """Messages made by another implementation; only one direction's keys are published."""
    (row,) = [row for row in material("ikev2_aosp.json")["protected_messages"] if row["name"] == name]
    datagram = octets(row["hex"])
    header = decode_header(datagram)
    theirs, integrity = Secret(octets(row["encr_key"])), Secret(octets(row["integ_key"] or ""))
    none = Secret(b"")
    keys = IkeKeys(sk_d=none, sk_ai=integrity, sk_ar=integrity, sk_ei=theirs, sk_er=theirs, sk_pi=none, sk_pr=none)
    sealer = Sealer(IkeSuite.of(suite), keys, False, SeededEntropy(1))
    message = sealer.open(datagram, header)
    assert message.payloads == decode_payloads(row["first_payload"], octets(row["plaintext"]))


@pytest.mark.parametrize(
    ("name", "suite", "clear_length"),
    [
        ("3DES/HMAC-SHA1-96 SKF 5/5", "3des-sha1-modp1024", 36),
        ("AES-GCM-16-256 SKF 2/2", "aes256gcm16-prfsha256-x25519", 36),
    ],
)
def test_protected_fragments(name: str, suite: str, clear_length: int) -> None:
    """RFC 7383 §2.5: four octets more are clear and covered by the ICV."""
    (row,) = [row for row in material("ikev2_aosp.json")["protected_messages"] if row["name"] == name]
    theirs, integrity, none = Secret(octets(row["encr_key"])), Secret(octets(row["integ_key"] or "")), Secret(b"")
    keys = IkeKeys(sk_d=none, sk_ai=integrity, sk_ar=integrity, sk_ei=theirs, sk_er=theirs, sk_pi=none, sk_pr=none)
    protection = protection_of(IkeSuite.of(suite), keys, False, SeededEntropy(1))
    padded = protection.unprotect(octets(row["hex"]), clear_length)
    assert padded[: -1 - padded[-1]] == octets(row["plaintext"])


def test_aead() -> None:
    for row in material("ikev2_aosp.json")["aead_raw"]:
        name = {"AES-GCM-16": "aes256gcm16", "ChaCha20-Poly1305": "chacha20poly1305"}[row["alg"]]
        suite = IkeSuite.of(f"{name}-prfsha256-x25519")
        aead, salt = aead_of(suite.encryption, octets(row["key_and_salt"]))
        nonce, clear = salt + octets(row["iv"]), octets(row["aad"])
        assert aead.encrypt(nonce, octets(row["plaintext"]), clear) == octets(row["ciphertext_icv"])


# -- the canned sessions of the CTS -----------------------------------------------------------------------


@dataclass(frozen=True)
class Session:
    """A responder's messages of one test."""

    row: dict[str, Any]
    suite: IkeSuite

    @property
    def name(self) -> str:
        return f"{self.row['test']}:{self.row['init_resp_name']}"


def sessions() -> list[Session]:
    path = SHARED / "vectors/fetched/ikev2_aosp_cts.json"
    if not path.exists():
        return []
    found = []
    for row in json.loads(path.read_text())["sessions"]:
        chosen = {kind: (number, bits) for kind, number, bits in row["transforms"]}
        encryption, bits = chosen[TransformType.ENCR]
        suite = IkeSuite(
            encryption=EncryptionId(encryption),
            encryption_key_bits=bits,
            integrity=IntegrityId(chosen[TransformType.INTEG][0]),
            prf=PrfId(chosen[TransformType.PRF][0]),
            group=KeGroup(chosen[TransformType.KE][0]),
        )
        found.append(Session(row, suite))
    return found


SESSIONS = sessions()
pytestmark = pytest.mark.skipif(not SESSIONS, reason="AOSP's vectors are not beside this checkout")


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.name)
def test_cts_ike_sa_init(session: Session) -> None:
    """Every answer decodes, encodes to the same octets, and chooses what the session says."""
    datagram = octets(session.row["ike_sa_init_response"])
    message = decode_message(datagram)
    assert encode_message(message) == datagram
    security = message.first(SaPayload)
    assert security is not None
    assert [
        [transform.type, transform.id, transform.key_length_bits] for transform in security.single().transforms
    ] == session.row["transforms"]
    exchange = message.first(KePayload)
    assert exchange is not None
    assert exchange.group == session.row["dh_group"]


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.name)
def test_cts_key_exchange(session: Session) -> None:
    group, initiator = session.suite.group, session.row["initiator"]
    exchange = modp_or_x25519(group, initiator["dh_private"])
    assert exchange.public == octets(initiator["dh_public"])
    answer = decode_message(octets(session.row["ike_sa_init_response"])).first(KePayload)
    assert answer is not None
    assert exchange.shared(answer.data) == octets(session.row["dh_shared"])


def test_the_sessions_have_both_ciphers_as_prf() -> None:
    """RFC 7296 §2.14: the PRFs whose SKEYSEED takes only the first 64 bits of each nonce."""
    assert {session.suite.prf for session in SESSIONS} >= {PrfId.PRF_AES128_XCBC, PrfId.PRF_AES128_CMAC}


def derived(session: Session) -> tuple[IkeSuite, IkeKeys, Message]:
    suite = session.suite
    answer = decode_message(octets(session.row["ike_sa_init_response"]))
    nonce = answer.first(NoncePayload)
    assert nonce is not None
    keys = derive_ike_keys(
        suite,
        octets(session.row["dh_shared"]),
        octets(session.row["initiator"]["nonce"]),
        nonce.data,
        answer.spi_i,
        answer.spi_r,
    )
    return suite, keys, answer


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.name)
def test_cts_session(session: Session) -> None:
    """Keys, then every message of the responder's: opened, decoded, and its AUTH by shared key computed."""
    suite, keys, _ = derived(session)
    assert revealed(keys) == keys_in(session.row)
    initiator = Sealer(suite, keys, True, SeededEntropy(1))
    opened = 0
    for row in session.row["messages"]:
        datagram = octets(row["hex"])
        closed = decode_message(datagram)
        if row.get("frag") is not None:
            assert isinstance(closed.payloads[-1], EncryptedFragmentPayload)
            continue
        assert isinstance(closed.payloads[-1], EncryptedPayload)
        message = initiator.open(datagram, decode_header(datagram))
        assert encode_payloads(message.payloads)[1] == octets(row["plaintext"])
        assert [[payload.payload_type, payload.encode().hex()] for payload in message.payloads] == row["payloads"]
        with pytest.raises(AuthenticationError):
            initiator.open(datagram[:-1] + bytes((datagram[-1] ^ 1,)), decode_header(datagram))
        if row.get("psk_auth_verified"):
            auth, identity = message.first(AuthPayload), message.first(IdrPayload)
            assert auth is not None
            assert identity is not None
            prf = Prf.of(suite.prf)
            signed = auth_octets(
                octets(session.row["ike_sa_init_response"]),
                octets(session.row["initiator"]["nonce"]),
                prf,
                keys.sk_pr,
                identity.encode(),
            )
            assert shared_key_auth(prf, Secret(row["psk"].encode()), signed) == auth.data
        opened += 1
    assert opened


def test_cts_capture() -> None:
    """The same sessions as datagrams: every one decodes, and those with known keys open."""
    path = shared("captures/aosp_cts_ikev2.pcap")
    sealers = {}
    for session in SESSIONS:
        suite, keys, answer = derived(session)
        sealers[answer.spi_i, answer.spi_r] = Sealer(suite, keys, True, SeededEntropy(1))
    names: set[str] = set()
    with RawPcapReader(str(path)) as capture:
        frames = [frame for frame, _ in capture]
    for frame in frames:
        udp = Ether(frame)[UDP]
        datagram = bytes(udp.payload)[: udp.len - 8]
        if datagram.startswith(bytes(4)):
            datagram = datagram[4:]  # the non-ESP marker (RFC 3948 §2.2)
        header = decode_header(datagram)
        message = decode_message(datagram)
        assert encode_message(message) == datagram
        sealer = sealers.get((header.spi_i, header.spi_r))
        if sealer is not None and any(isinstance(payload, EncryptedPayload) for payload in message.payloads):
            message = sealer.open(datagram, header)
        names.add(message.summary().split(" [")[0].rsplit(" ", 1)[0])
        for selectors in (*message.all(TsiPayload), *message.all(TsrPayload)):
            assert selectors.selectors
        for notify in message.all(NotifyPayload):
            assert NotifyType(notify.type).known
    assert names >= {
        "IKE_SA_INIT response",
        "IKE_AUTH response",
        "CREATE_CHILD_SA response",
        "CREATE_CHILD_SA request",
        "INFORMATIONAL response",
        "INFORMATIONAL request",
    }
