"""IKE_INTERMEDIATE (RFC 9242) with additional key exchanges (RFC 9370) in pairs on virtual time.

No peer here speaks either of them: what the two ends agree in is computed once more in this file, by straight-line
code from the formulas of the RFCs (``harness/formulas``), out of the captured octets and the entropy drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from protocols.entropy import SeededEntropy
from protocols.ikev2.events import (
    AuthenticationKind,
    Closed,
    MessageSent,
    Refused,
    SaState,
)
from protocols.ikev2.fragment import Fragment
from protocols.ikev2.message import Header, Message, decode_header, decode_message, encode_message
from protocols.ikev2.payloads import KePayload, NotifyPayload, Payload, VendorIdPayload
from protocols.ikev2.proposals import IkePolicy
from protocols.ikev2.registry import ExchangeType, KeGroup, NotifyType
from protocols.ikev2.sealer import MessageSealer
from protocols.ikev2.tasks.informational import Liveness
from protocols.path import Datagram
from protocols.secret import Secret
from tests.harness.forge import forge, receive
from tests.harness.formulas import Keys, body_of, captured, prf, recorded, secret_of, whole
from tests.harness.pair import Node, Pair, initiator_config, responder_config

PLAIN = "aes128-sha256-x25519"
HYBRID = "aes128gcm16-prfsha256-x25519-ke1_mlkem768"
TWICE = "aes128gcm16-prfsha256-x25519-ke1_mlkem1024-ke2_mlkem768"
KEY = b"a key that both have"
PSK = AuthenticationKind.PSK


def pair_of(*names: str, epdg: tuple[str, ...] = (), size: int = 1280, psk: bool = False) -> Pair:
    """Both ends with these suites, the gateway with its own if it has any."""
    ue = {"authentication": PSK, "psk": Secret(KEY)} if psk else {}
    identity = initiator_config().identity.data.decode()
    gateway = {"authentications": frozenset({PSK}), "shared_keys": {identity: Secret(KEY)}} if psk else {}
    ours = IkePolicy.of(epdg or names)
    return Pair(
        initiator_config(ike_policy=IkePolicy.of(names), fragment_size=size, gateway_names=(), **ue)
        if psk
        else initiator_config(ike_policy=IkePolicy.of(names), fragment_size=size),
        responder_config(ike_policy=ours, fragment_size=size, **gateway),
    )


def established(pair: Pair) -> None:
    """Both ends are up with the same keys, which carry a message each way."""
    ue, epdg = pair.ue.live, pair.epdg.live
    assert ue.state is epdg.state is SaState.ESTABLISHED
    assert ue.keys == epdg.keys
    for node in (pair.ue, pair.epdg):
        node.endpoint.initiate(node.live, Liveness(), pair.now)
    pair.run(1.0)
    assert ue.window.outstanding is epdg.window.outstanding is None


def exchanges(pair: Pair) -> list[str]:
    """The wire without what is inside, and without retransmissions."""
    return [line.split(" [")[0] for line in pair.wire if not line.endswith("(again)")]


# --- the exchanges


@pytest.mark.parametrize("method", ["mlkem512", "mlkem768", "mlkem1024", "x448"])
def test_one_additional_key_exchange(method: str) -> None:
    """RFC 9370 §2.2.2: KEi(1), KEr(1) between IKE_SA_INIT and IKE_AUTH; keys change once."""
    pair = pair_of(f"aes128-sha256-x25519-ke1_{method}").attach()
    assert pair.wire[2:4] == [
        "--> IKE_INTERMEDIATE request 1 [ KEi ]",
        "<-- IKE_INTERMEDIATE response 1 [ KEr ]",
    ]
    assert pair.wire[4].startswith("--> IKE_AUTH request 2 [ IDi, ")
    assert "N(INTERMEDIATE_EXCHANGE_SUPPORTED)" in pair.wire[0]
    assert "N(INTERMEDIATE_EXCHANGE_SUPPORTED)" in pair.wire[1]
    established(pair)
    assert len({keys.keys for keys in pair.keys}) == 2
    assert {(keys.spi_i, keys.spi_r) for keys in pair.keys} == {(pair.ue.live.spi_i, pair.ue.live.spi_r)}


def test_one_exchange_after_the_other_in_the_order_of_transform_types() -> None:
    """RFC 9242 §3.2: sequential, with Message IDs 1 and 2; ADDKE2 may be there without ADDKE1."""
    pair = pair_of(TWICE).attach()
    assert exchanges(pair)[2:7] == [
        "--> IKE_INTERMEDIATE request 1",
        "<-- IKE_INTERMEDIATE response 1",
        "--> IKE_INTERMEDIATE request 2",
        "<-- IKE_INTERMEDIATE response 2",
        "--> IKE_AUTH request 3",
    ]
    sent = [event.message for event in pair.ue.events if isinstance(event, MessageSent)]
    groups = [payload.group for message in sent for payload in message.all(KePayload)]
    assert groups == [KeGroup.CURVE25519, KeGroup.ML_KEM_1024, KeGroup.ML_KEM_768]
    established(pair)
    only_second = pair_of("aes128gcm16-prfsha256-x25519-ke2_mlkem768").attach()
    assert sum("IKE_INTERMEDIATE request" in line for line in only_second.wire) == 1
    established(only_second)


def test_seven_additional_key_exchanges() -> None:
    """RFC 9370 §2.2.1: ADDKE1 to ADDKE7."""
    names = ("x448", "ecp256", "ecp384", "mlkem512", "mlkem768", "mlkem1024", "modp2048")
    pair = pair_of("-".join(["aes128-sha256-x25519", *(f"ke{n}_{name}" for n, name in enumerate(names, 1))])).attach()
    assert "--> IKE_AUTH request 8" in exchanges(pair)
    established(pair)


def test_without_support_at_the_other_end_a_plain_suite_is_taken() -> None:
    """RFC 9242 §3.1: both have to announce it; RFC 7296 §3.3.6: who does not know ADDKE1 takes another proposal."""
    for pair in (pair_of(HYBRID, PLAIN, epdg=(PLAIN,)), pair_of(PLAIN, epdg=(HYBRID, PLAIN))):
        pair.attach()
        assert not any("IKE_INTERMEDIATE" in line for line in pair.wire)
        assert "N(INTERMEDIATE_EXCHANGE_SUPPORTED)" not in pair.wire[1]
        assert pair.ue.live.suite is not None
        assert pair.ue.live.suite.additional == ()
        established(pair)
    refused = pair_of(HYBRID, epdg=(PLAIN,)).attach()
    assert refused.wire[1] == "<-- IKE_SA_INIT response 0 [ N(NO_PROPOSAL_CHOSEN) ]"
    assert refused.ue.live.state is SaState.CLOSED


def edit_init(pair: Pair, sender: str, edit: Callable[[tuple[Payload, ...]], tuple[Payload, ...]]) -> None:
    """The other end gets another IKE_SA_INIT than ``sender`` sent."""

    def lose(who: str, datagram: Datagram) -> bool:
        if who != sender or datagram.payload[18] != ExchangeType.IKE_SA_INIT:
            return False
        message = decode_message(datagram.payload)
        edited = encode_message(replace(message, payloads=edit(message.payloads)))
        node = pair.epdg if sender == "ue" else pair.ue
        node.endpoint.receive(Datagram(datagram.path.reversed(), edited), pair.now)
        return True

    pair.lose = lose


def without_announcement(payloads: tuple[Payload, ...]) -> tuple[Payload, ...]:
    """As a peer that does not know IKE_INTERMEDIATE."""
    return tuple(
        payload
        for payload in payloads
        if not (isinstance(payload, NotifyPayload) and payload.type == NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED)
    )


def with_data(payloads: tuple[Payload, ...]) -> tuple[Payload, ...]:
    """The announcement of a later standard."""
    return tuple(
        replace(payload, data=b"later")
        if isinstance(payload, NotifyPayload) and payload.type == NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED
        else payload
        for payload in payloads
    )


def test_additional_key_exchanges_need_the_announcement_of_both() -> None:
    """RFC 9370 §2.2.1: "it MUST also return this notification in the IKE_SA_INIT response message"."""
    pair = pair_of(HYBRID)
    edit_init(pair, "epdg", without_announcement)
    pair.attach()
    assert "without IKE_INTERMEDIATE" in pair.ue.take(Refused).text
    assert pair.ue.live.state is SaState.CLOSED
    other = pair_of(HYBRID)
    edit_init(other, "ue", without_announcement)
    other.attach()
    assert other.wire[1] == "<-- IKE_SA_INIT response 0 [ N(NO_PROPOSAL_CHOSEN) ]"


def test_data_of_the_announcement_is_ignored() -> None:
    """RFC 9242 §3.1: "Implementations MUST ignore non-empty Notification Data"."""
    pair = pair_of(HYBRID)
    edit_init(pair, "epdg", with_data)
    pair.attach()
    # both go on; as what was received is not what was sent, AUTH of the gateway says so in the end
    assert "--> IKE_INTERMEDIATE request 1 [ KEi ]" in pair.wire
    assert "does not verify" in pair.ue.take(Refused).text or pair.ue.live.state is SaState.CLOSED


def test_behind_a_nat_port_4500_from_the_first_exchange_on() -> None:
    """RFC 9242 §3.2: "the peers switch to port 4500 in the first IKE_INTERMEDIATE exchange"."""
    pair = pair_of(HYBRID).attach()
    ports = {
        decode_header(datagram.payload).exchange: datagram.path.remote.port
        for who, datagram in pair.seen
        if who == "ue" and datagram.payload != b"\xff"
    }
    assert ports[ExchangeType.IKE_SA_INIT] == 500
    assert ports[ExchangeType.IKE_INTERMEDIATE] == ports[ExchangeType.IKE_AUTH] == 4500


# --- loss, repetition, deadlines


def lose_once(pair: Pair, sender: str, place: int) -> list[int]:
    """The IKE_INTERMEDIATE datagram of a sender in this place does not arrive."""
    seen = [0]

    def lose(who: str, datagram: Datagram) -> bool:
        if who != sender or datagram.payload[18] != ExchangeType.IKE_INTERMEDIATE:
            return False
        seen[0] += 1
        return seen[0] == place + 1

    pair.lose = lose
    return seen


@pytest.mark.parametrize("sender", ["ue", "epdg"])
@pytest.mark.parametrize("place", range(6))
def test_any_fragment_may_be_lost(sender: str, place: int) -> None:
    """ML-KEM-1024's 1568 octets in fragments of 576; a lost response is sent again under the keys of its exchange."""
    pair = pair_of(TWICE, size=576)
    seen = lose_once(pair, sender, place)
    pair.attach()
    pair.run(10.0)
    assert seen[0] > 6
    assert any(line.endswith("IKE_INTERMEDIATE request 1 [ KEi ] (again)") for line in pair.wire) == (place < 4)
    established(pair)


@pytest.mark.parametrize("seed", range(5))
def test_a_quarter_of_the_datagrams_lost(seed: int) -> None:
    """The whole set-up over a bad link."""
    pair, chance = pair_of(TWICE, size=576), SeededEntropy(f"loss {seed}")
    pair.lose = lambda who, datagram: chance.octets(1)[0] < 64
    pair.attach()
    pair.run(60.0)
    pair.lose = lambda who, datagram: False
    established(pair)


def test_a_repeated_request_gets_the_same_octets_while_the_keys_have_changed() -> None:
    """RFC 7296 §2.1: the response is bitwise identical; after IKE_AUTH has begun nothing is said any more (§2.3)."""
    pair = pair_of(HYBRID)
    pair.start()
    pair.run(0.035)  # the gateway has answered IKE_INTERMEDIATE
    assert pair.epdg.live.state is SaState.HALF_OPEN
    sent = [d for who, d in pair.seen if d.payload[18] == ExchangeType.IKE_INTERMEDIATE]
    (request, *_), answer = [d for d in sent if not d.payload[19] & 0x20], [d for d in sent if d.payload[19] & 0x20]
    before = len(pair.seen)
    whole = [Datagram(d.path.reversed(), d.payload) for d in sent if not d.payload[19] & 0x20]
    receive(pair, pair.epdg, *whole)
    assert [d.payload for _, d in pair.seen[before : before + len(answer)]] == [d.payload for d in answer]
    pair.run(5.0)
    established(pair)
    before = len(pair.seen)
    receive(pair, pair.epdg, Datagram(request.path.reversed(), request.payload))
    assert len(pair.seen) == before
    assert pair.epdg.live.dropped["out-of-window"] == 1


def test_who_stops_after_ike_sa_init_is_forgotten() -> None:
    """The half-open deadline ends it, and the endpoint keeps nothing."""
    pair = pair_of(HYBRID)
    pair.lose = lambda who, datagram: datagram.payload[18] == ExchangeType.IKE_INTERMEDIATE
    pair.attach()
    assert pair.epdg.live.state is SaState.INTERMEDIATE
    assert pair.epdg.endpoint.half_open == 1
    pair.run(60.0)
    assert pair.epdg.live.state is pair.ue.live.state is SaState.CLOSED
    assert pair.epdg.endpoint.half_open == 0
    assert "in time" in pair.epdg.take(Closed).why


# --- what is not legal


def halted(*names: str) -> Pair:
    """IKE_SA_INIT is over, IKE_INTERMEDIATE does not arrive."""
    pair = pair_of(*names)
    pair.lose = lambda who, datagram: datagram.payload[18] == ExchangeType.IKE_INTERMEDIATE
    pair.start()
    pair.run(0.05)
    pair.lose = lambda who, datagram: False
    assert pair.epdg.live.state is SaState.INTERMEDIATE
    return pair


INTERMEDIATE = ExchangeType.IKE_INTERMEDIATE


@pytest.mark.parametrize(
    "payloads",
    [
        (KePayload(group=KeGroup.ML_KEM_1024, data=bytes(1184)),),  # the turn is ML-KEM-768's, and so is the length
        (KePayload(group=KeGroup.ML_KEM_768, data=b"\xff" * 1184),),  # FIPS 203 §7.2: coefficients above q
        (KePayload(group=KeGroup.ML_KEM_768, data=bytes(1183)),),
        (VendorIdPayload(b"no KE"),),
    ],
    ids=["method", "modulus", "length", "none"],
)
def test_a_bad_request_is_refused(payloads: tuple[Payload, ...]) -> None:
    """RFC 9242 §3.4, RFC 7296 §2.21.2: an authentic request in error gets an answer, and the set-up is over."""
    pair = halted(HYBRID)
    receive(pair, pair.epdg, forge(pair, "ue", 1, *payloads, exchange=INTERMEDIATE))
    assert pair.wire[-1] == "<-- IKE_INTERMEDIATE response 1 [ N(INVALID_SYNTAX) ]"
    assert pair.epdg.live.state is SaState.CLOSED


@pytest.mark.parametrize(
    "payloads",
    [
        (KePayload(group=KeGroup.ML_KEM_1024, data=bytes(1088)),),
        (KePayload(group=KeGroup.ML_KEM_768, data=bytes(1087)),),
        (),
        (NotifyPayload(type=NotifyType.INVALID_SYNTAX),),
    ],
    ids=["method", "length", "none", "refusal"],
)
def test_a_bad_response_ends_the_set_up(payloads: tuple[Payload, ...]) -> None:
    """RFC 7296 §2.21.2: a peer that believes it is half open is told, unless it refused itself."""
    pair = halted(HYBRID)
    receive(pair, pair.ue, forge(pair, "epdg", 1, *payloads, exchange=INTERMEDIATE, response=True))
    if pair.ue.take(Refused).by_peer:
        assert pair.ue.live.state is SaState.CLOSED
    else:
        assert pair.wire[-1] == "--> INFORMATIONAL request 2 [ D ]"
        pair.run(60.0)
        assert pair.ue.live.state is SaState.CLOSED


def test_no_ike_auth_before_the_key_exchanges_and_no_key_exchange_after_them() -> None:
    """RFC 9242 §3.2: they "MUST all be completed before the IKE_AUTH exchange is initiated"."""
    pair = halted(HYBRID)
    early = forge(pair, "ue", 1, initiator_config().identity, exchange=ExchangeType.IKE_AUTH)
    receive(pair, pair.epdg, early)
    assert pair.epdg.live.dropped["not-legal-now"] == 1
    assert pair.epdg.live.state is SaState.INTERMEDIATE
    pair.run(5.0)
    established(pair)
    plain = pair_of(PLAIN)
    plain.lose = lambda who, datagram: datagram.payload[18] == ExchangeType.IKE_AUTH
    plain.start()
    plain.run(0.05)
    ke = KePayload(group=KeGroup.ML_KEM_768, data=bytes(1184))
    receive(plain, plain.epdg, forge(plain, "ue", 1, ke, exchange=INTERMEDIATE))
    assert plain.epdg.live.dropped["not-legal-now"] == 1


def test_message_ids_follow_the_rule() -> None:
    """RFC 9242 §3.2: "Implementations MUST verify that Message IDs .. actually follow this rule"."""
    pair = halted(HYBRID)
    ke = KePayload(group=KeGroup.ML_KEM_768, data=bytes(1184))
    receive(pair, pair.epdg, forge(pair, "ue", 2, ke, exchange=INTERMEDIATE))
    assert pair.epdg.live.dropped["out-of-window"] == 1
    assert pair.epdg.live.state is SaState.INTERMEDIATE


# --- authenticated by AUTH


class Edited:
    """A sealer that sends something else than its SA believes: an attacker who has broken the first keys."""

    def __init__(self, inner: MessageSealer) -> None:
        self._inner = inner

    def seal(self, message: Message) -> bytes:
        return self._inner.seal(self._edit(message))

    def seal_fragments(self, message: Message, limit: int) -> tuple[bytes, ...]:
        return self._inner.seal_fragments(self._edit(message), limit)

    def open(self, octets: bytes, header: Header) -> Message:
        return self._inner.open(octets, header)

    def open_fragment(self, octets: bytes, header: Header) -> Fragment:
        return self._inner.open_fragment(octets, header)

    def _edit(self, message: Message) -> Message:
        if message.exchange != ExchangeType.IKE_INTERMEDIATE:
            return message
        return replace(message, payloads=(*message.payloads, VendorIdPayload(b"not from me")))


@pytest.mark.parametrize("psk", [False, True], ids=["eap", "psk"])
@pytest.mark.parametrize("end", ["ue", "epdg"])
@pytest.mark.parametrize("size", [576, 4000])
def test_a_changed_intermediate_message_is_found_out(end: str, psk: bool, size: int) -> None:
    """RFC 9242 §5: "The forgery would become evident in the IKE_AUTH exchange"; the key exchange itself goes well."""
    pair = pair_of(HYBRID, size=size, psk=psk)
    pair.lose = lambda who, datagram: datagram.payload[18] == ExchangeType.IKE_INTERMEDIATE
    pair.start()
    pair.run(0.05)
    pair.lose = lambda who, datagram: False
    sa = _node(pair, end).live
    assert sa.sealer is not None
    sa.sealer = Edited(sa.sealer)
    if end == "ue":
        # its first request was lost; what is sent again has been edited
        request = sa.window.outstanding
        assert request is not None
        request.sent = sa.fragmentation.encode(sa.sealer, request.sent.message, sa.path, sa.fragmentation.size)
    pair.run(10.0)
    assert any(line.startswith("--> IKE_AUTH request 2") for line in pair.wire)
    reasons = [event.text for node in (pair.ue, pair.epdg) for event in node.events if isinstance(event, Refused)]
    assert any("does not verify" in why or "signature" in why for why in reasons), reasons
    assert pair.ue.live.state is pair.epdg.live.state is SaState.CLOSED


def _node(pair: Pair, name: str) -> Node:
    return pair.ue if name == "ue" else pair.epdg


# --- computed once more


@pytest.mark.parametrize("size", [576, 4000], ids=["fragments", "whole"])
@pytest.mark.parametrize("name", [HYBRID, TWICE])
def test_keys_int_auth_and_auth_by_the_formulas(name: str, size: int) -> None:
    """RFC 9370 §2.2.2: SKEYSEED(n); RFC 9242 §3.3.2: IntAuth in AUTH of both ends, here by a pre-shared key."""
    pair = pair_of(name, size=size, psk=True)
    entropy = recorded(pair.ue)
    pair.attach()
    established(pair)
    (real_i,), (real_r,) = (captured(pair, end, ExchangeType.IKE_SA_INIT, 0) for end in ("ue", "epdg"))
    ke_i, ke_r = (body_of(real[28:], real[16], 34)[4:] for real in (real_i, real_r))
    ni, nr = (body_of(real[28:], real[16], 40) for real in (real_i, real_r))
    seed = ni + nr + real_r[:16]
    keys = Keys.of(prf(ni + nr, secret_of(entropy, ke_i, ke_r)), seed)
    int_auth_i = int_auth_r = b""
    last = 2 if name == TWICE else 1
    for n in range(1, last + 1):
        requests, responses = (captured(pair, end, INTERMEDIATE, n) for end in ("ue", "epdg"))
        assert (len(requests) > 1) == (len(responses) > 1) == (size == 576)
        request, inner_i = whole(requests, keys.ei)
        response, inner_r = whole(responses, keys.er)
        int_auth_i = prf(keys.pi, int_auth_i + request)
        int_auth_r = prf(keys.pr, int_auth_r + response)
        shared = secret_of(entropy, body_of(inner_i, 34, 34)[4:], body_of(inner_r, 34, 34)[4:])
        keys = Keys.of(prf(keys.d, shared + ni + nr), seed)
    live = pair.ue.live.keys
    assert live is not None
    assert (live.sk_d.reveal(), live.sk_pi.reveal(), live.sk_er.reveal()) == (keys.d, keys.pi, keys.er)
    int_auth = int_auth_i + int_auth_r + (last + 1).to_bytes(4, "big")
    for end, sk_e, sk_p, real, nonce, kind in (
        ("ue", keys.ei, keys.pi, real_i, nr, 35),
        ("epdg", keys.er, keys.pr, real_r, ni, 36),
    ):
        datagrams = captured(pair, end, ExchangeType.IKE_AUTH, last + 1)
        first = min(datagrams, key=lambda octets: octets[32:34] if octets[16] == 53 else b"")[28]
        _, inner = whole(datagrams, sk_e)
        signed = real + nonce + prf(sk_p, body_of(inner, first, kind)) + int_auth
        assert body_of(inner, first, 39)[4:] == prf(prf(KEY, b"Key Pad for IKEv2"), signed)
