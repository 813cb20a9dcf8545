"""IKEv2 against AOSP's published tests: unit vectors, canned sessions of the CTS, and their capture."""

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
from protocols.ikev2.keymat import (
    IkeKeys,
    auth_octets,
    derive_child_keys,
    derive_ike_keys,
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
    INTEGRITY,
    KEY_EXCHANGES,
    PRFS,
    EspSuite,
    IkeSuite,
    KeyExchange,
    ModpMethod,
    ModpPrivate,
    Prf,
)
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


# The vectors are on MODP-1024, which is not implemented: g^ir is theirs, the suite's group does not matter here.
PSK_SUITE = IkeSuite.of("aes128-sha1-modp2048")


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


def test_prf() -> None:
    rows = [row for row in material("ikev2_aosp.json")["prf"] if row["prf"] in PRFS]
    assert rows
    for row in rows:
        assert Prf.of(PrfId(row["prf"]))(octets(row["key"]), octets(row["data"])) == octets(row["out"])


def test_x25519() -> None:
    (row,) = [row for row in material("ikev2_aosp.json")["dh"] if row["group"] == KeGroup.CURVE25519]
    exchange = KeyExchange.generate(KeGroup.CURVE25519, Octets(octets(row["private"])))
    assert exchange.shared(octets(row["peer_public"])) == octets(row["shared"])


def test_aes_gcm_message() -> None:
    """AES-GCM-16-256, made by another implementation; only one direction's key is published."""
    (row,) = [row for row in material("ikev2_aosp.json")["protected_messages"] if row["name"] == "AES-GCM-16-256 SK"]
    datagram = octets(row["hex"])
    header = decode_header(datagram)
    theirs, none = Secret(octets(row["encr_key"])), Secret(bytes(36))
    keys = IkeKeys(sk_d=none, sk_ai=none, sk_ar=none, sk_ei=theirs, sk_er=theirs, sk_pi=none, sk_pr=none)
    sealer = Sealer(IkeSuite.of("aes256gcm16-prfsha256-x25519"), keys, False, SeededEntropy(1))
    message = sealer.open(datagram, header)
    assert message.payloads == decode_payloads(row["first_payload"], octets(row["plaintext"]))


# -- the canned sessions of the CTS -----------------------------------------------------------------------

MODP_1024 = KeGroup.MODP_1024


@dataclass(frozen=True)
class Session:
    """A responder's messages of one test, with the suite as far as it is implemented."""

    row: dict[str, Any]
    suite: IkeSuite | None

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
        integrity, prf = IntegrityId(chosen[TransformType.INTEG][0]), PrfId(chosen[TransformType.PRF][0])
        suite = None
        if integrity in INTEGRITY and prf in PRFS:
            suite = IkeSuite(
                encryption=EncryptionId(encryption),
                encryption_key_bits=bits,
                integrity=integrity,
                prf=prf,
                group=KeGroup.MODP_2048,
            )
        found.append(Session(row, suite))
    return found


SESSIONS = sessions()
WITH_SUITE = [session for session in SESSIONS if session.suite is not None]
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
def test_cts_modp_2048(session: Session) -> None:
    if session.row["dh_group"] != KeGroup.MODP_2048:
        assert session.row["dh_group"] == MODP_1024
        return
    method = KEY_EXCHANGES[KeGroup.MODP_2048]
    assert isinstance(method, ModpMethod)
    initiator = session.row["initiator"]
    exchange = KeyExchange(KeGroup.MODP_2048, ModpPrivate(method, int(initiator["dh_private"], 16)))
    assert exchange.public == octets(initiator["dh_public"])
    answer = decode_message(octets(session.row["ike_sa_init_response"])).first(KePayload)
    assert answer is not None
    assert exchange.shared(answer.data) == octets(session.row["dh_shared"])


def derived(session: Session) -> tuple[IkeSuite, IkeKeys, Message]:
    suite = session.suite
    assert suite is not None
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


@pytest.mark.parametrize("session", WITH_SUITE, ids=lambda session: session.name)
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
    for session in WITH_SUITE:
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
