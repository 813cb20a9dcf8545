"""IkeEndpoint (RFC 7296 §1.5, §2.6, §2.7, §2.10, §2.21.4; RFC 6989): set-up, floods, what belongs to no SA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from protocols.entropy import SeededEntropy
from protocols.ikev2.endpoint import IkeEndpoint
from protocols.ikev2.events import Closed, Established, Refused, SaState
from protocols.ikev2.exchanges import INIT_REFUSAL_INTERVAL
from protocols.ikev2.message import Message, decode_message, encode_message
from protocols.ikev2.payloads import (
    EncryptedPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    UnknownPayload,
)
from protocols.ikev2.proposals import IkePolicy
from protocols.ikev2.registry import ExchangeType, KeGroup, NotifyType, PayloadType
from protocols.ikev2.spi import RandomSpis
from protocols.ikev2.suites import IkeSuite
from protocols.path import Datagram, Endpoint, Path
from tests.harness.pair import ACCESS_A, ACCESS_B, GATEWAY, Pair, initiator_config, responder_config

TWO_GROUPS = IkePolicy((IkeSuite.of("aes128-sha256-ecp256"), IkeSuite.of("aes128-sha256-x25519")))
FIRST_ONLY = IkePolicy((IkeSuite.of("aes128-sha256-x25519"),))


def init_request(seed: int = 1, **changes: object) -> Datagram:
    """A genuine IKE_SA_INIT request, as the gateway receives it."""
    pair = Pair(initiator_config(**changes), seed=seed)
    pair.start()
    pair.run(0.0)
    return Datagram(Path(GATEWAY, ACCESS_A), pair.seen[0][1].payload)


def gateway(**changes: object) -> IkeEndpoint:
    """A gateway on its own."""
    return IkeEndpoint(entropy=SeededEntropy("gateway"), responder=responder_config(**changes))


def answers(endpoint: IkeEndpoint) -> list[Message]:
    """What an endpoint has sent, each in the clear."""
    found = []
    while (datagram := endpoint.poll_transmit()) is not None:
        found.append(decode_message(datagram.payload))
    return found


def names(messages: list[Message]) -> list[str]:
    """In RFC notation."""
    return [message.summary() for message in messages]


def forge(datagram: Datagram, change: Callable[[Message], Message]) -> Datagram:
    """A datagram with something else in it."""
    return Datagram(datagram.path, encode_message(change(decode_message(datagram.payload))))


def swap(kind: type[Payload], payload: Payload) -> Callable[[Message], Message]:
    """Another payload in the place of the one of a class."""

    def change(message: Message) -> Message:
        return replace(message, payloads=tuple(payload if isinstance(p, kind) else p for p in message.payloads))

    return change


# --- the initiator and unprotected answers


class Liar:
    """A responder that answers IKE_SA_INIT requests as it is told."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.requests: list[Message] = []

    def answer(self, *payloads: Payload, spi_r: bytes = bytes(8)) -> Message:
        """Take the last request of the UE's and answer it; returns the request that follows."""
        request = decode_message(next(d for s, d in reversed(self.pair.seen) if s == "ue").payload)
        self.requests.append(request)
        response = replace(request, original_initiator=False, response=True, spi_r=spi_r, payloads=payloads)
        path = self.pair.ue.live.path
        self.pair.ue.endpoint.receive(Datagram(path, encode_message(response)), self.pair.now)
        self.pair.run(0.0)
        return decode_message(next(d for s, d in reversed(self.pair.seen) if s == "ue").payload)


def liar(policy: IkePolicy = TWO_GROUPS) -> Liar:
    """A UE that has just sent its first request, and who will answer it."""
    pair = Pair(initiator_config(ike_policy=policy))
    pair.lose = lambda sender, datagram: True
    pair.start()
    pair.run(0.0)
    return Liar(pair)


def cookie(octets: bytes) -> NotifyPayload:
    return NotifyPayload(NotifyType.COOKIE, octets)


def invalid_ke(group: int) -> NotifyPayload:
    return NotifyPayload(NotifyType.INVALID_KE_PAYLOAD, group.to_bytes(2, "big"))


def test_cookie_comes_first_and_all_else_is_unchanged() -> None:
    """§2.6: same SPI, same KEi and Ni; a second cookie takes the place of the first."""
    peer = liar()
    retry = peer.answer(cookie(b"one"))
    first = peer.requests[0]
    assert retry.payloads == (cookie(b"one"), *first.payloads)
    assert (retry.spi_i, retry.spi_r, retry.message_id) == (first.spi_i, bytes(8), 0)
    again = peer.answer(cookie(b"two"), spi_r=b"not zero")  # "should not reject the response for only that reason"
    assert again.payloads == (cookie(b"two"), *first.payloads)
    assert again.spi_r == bytes(8)


def test_cookie_is_kept_when_another_group_is_asked_for() -> None:
    """§2.6.1: HDR(A,0), N(COOKIE), SAi1, KEi', Ni."""
    peer = liar()
    first = peer.answer(cookie(b"one"))
    retry = peer.answer(invalid_ke(KeGroup.CURVE25519))
    assert retry.payloads[0] == cookie(b"one")
    assert retry.spi_i == first.spi_i
    assert retry.first(NoncePayload) == first.first(NoncePayload)
    ke = retry.first(KePayload)
    assert ke is not None
    assert ke.group == KeGroup.CURVE25519


def test_cookie_then_invalid_ke_payload_takes_three_round_trips() -> None:
    """§2.6.1: the shorter exchange, which SHOULD be supported: one cookie serves both retries."""
    pair = Pair(initiator_config(ike_policy=TWO_GROUPS), responder_config(ike_policy=FIRST_ONLY, cookie_threshold=0))
    pair.attach()
    assert pair.ue.take(Established).requests == 6
    assert pair.epdg.endpoint.dropped["cookie-demanded"] == 1
    assert pair.epdg.endpoint.dropped["cookie-wrong"] == 0


def test_invalid_ke_payload_then_cookie() -> None:
    """§2.6.1 the other way round: the group stays, the cookie comes first."""
    peer = liar()
    other = peer.answer(invalid_ke(KeGroup.CURVE25519))
    assert peer.answer(cookie(b"one")).payloads == (cookie(b"one"), *other.payloads)


@pytest.mark.parametrize("length", [0, 65])
def test_cookie_of_no_legal_length(length: int) -> None:
    """§2.6: between 1 and 64 octets."""
    peer = liar()
    peer.answer(cookie(bytes(length)))
    peer.pair.run(INIT_REFUSAL_INTERVAL)
    assert f"COOKIE of {length} octets" in peer.pair.ue.take(Refused).text


def test_cookies_without_end_are_given_up() -> None:
    """§2.6: "should limit the number of cookie exchanges it tries"."""
    peer = liar()
    for number in range(6):
        peer.answer(cookie(bytes([number + 1])))
    peer.pair.run(INIT_REFUSAL_INTERVAL)
    assert peer.pair.ue.take(Closed)
    assert len({datagram.payload for _, datagram in peer.pair.seen}) == 6


@pytest.mark.parametrize("data", [(1).to_bytes(2, "big"), (19).to_bytes(2, "big"), b"", bytes(3)])
def test_invalid_ke_payload_for_a_group_that_was_not_offered(data: bytes) -> None:
    """§2.7: never group 1 for the asking, nor the one just sent."""
    peer = liar()
    peer.answer(NotifyPayload(NotifyType.INVALID_KE_PAYLOAD, data))
    peer.pair.run(INIT_REFUSAL_INTERVAL)
    assert "not offered" in peer.pair.ue.take(Refused).text
    assert len({datagram.payload for _, datagram in peer.pair.seen}) == 1


def test_invalid_ke_payload_to_and_fro_stops() -> None:
    peer = liar()
    for number in range(7):
        if peer.pair.ue.live.state is SaState.CLOSED:
            break
        peer.answer(invalid_ke(KeGroup.CURVE25519 if number % 2 == 0 else KeGroup.ECP_256))
    peer.pair.run(INIT_REFUSAL_INTERVAL)
    assert peer.pair.ue.live.state is SaState.CLOSED
    assert len({datagram.payload for _, datagram in peer.pair.seen}) == 6


def test_our_own_nonce_or_public_value_is_nobodys_answer() -> None:
    """A reflected request made up as a response: no keys come of it."""
    for kind in (NoncePayload, KePayload):
        peer = liar(FIRST_ONLY)
        responder = gateway()
        responder.receive(Datagram(Path(GATEWAY, ACCESS_A), peer.pair.seen[0][1].payload), 0.0)
        response = answers(responder)[0]
        mine = decode_message(peer.pair.seen[0][1].payload).first(kind)
        assert mine is not None
        peer.answer(*swap(kind, mine)(response).payloads, spi_r=response.spi_r)
        peer.pair.run(INIT_REFUSAL_INTERVAL)
        assert "came back" in peer.pair.ue.take(Refused).text
        assert peer.pair.ue.live.keys is None


def test_an_answer_with_an_spi_of_zero_or_a_short_nonce_makes_no_keys() -> None:
    """§2.6 (SPIr), §2.10: half of the 64 octets that PRF_HMAC_SHA2_512 has as key."""
    policy = IkePolicy((IkeSuite.of("aes128-sha512-x25519"),))
    for short in (True, False):
        peer = liar(policy)
        responder = gateway(ike_policy=policy)
        responder.receive(Datagram(Path(GATEWAY, ACCESS_A), peer.pair.seen[0][1].payload), 0.0)
        response = answers(responder)[0]
        nonce = NoncePayload(bytes(range(31)))
        payloads = swap(NoncePayload, nonce)(response).payloads if short else response.payloads
        peer.answer(*payloads, spi_r=response.spi_r if short else bytes(8))
        peer.pair.run(INIT_REFUSAL_INTERVAL)
        assert ("a nonce of 31 octets" if short else "SPI of zero") in peer.pair.ue.take(Refused).text
        assert peer.pair.ue.live.keys is None


# --- the responder and bad requests


def test_nonce_shorter_than_half_the_key_of_the_prf() -> None:
    """§2.10: 16 octets are a legal nonce, and too few for PRF_HMAC_SHA2_512."""
    policy = IkePolicy((IkeSuite.of("aes128-sha512-x25519"),))
    request = init_request(ike_policy=policy)
    for length, verdict in ((31, "N(INVALID_SYNTAX)"), (32, "SAr1, KEr, Nr")):
        endpoint = gateway(ike_policy=policy)
        endpoint.receive(forge(request, swap(NoncePayload, NoncePayload(bytes(length)))), 0.0)
        assert verdict in names(answers(endpoint))[0]


@pytest.mark.parametrize("length", [15, 257])
def test_nonce_of_no_legal_length_is_answered_in_the_clear_and_makes_no_sa(length: int) -> None:
    """§3.9, §2.21.1."""
    endpoint = gateway()
    endpoint.receive(forge(init_request(), swap(NoncePayload, NoncePayload(bytes(length)))), 0.0)
    assert names(answers(endpoint)) == ["IKE_SA_INIT response 0 [ N(INVALID_SYNTAX) ]"]
    assert endpoint.sas == {}
    assert endpoint.dropped["malformed"] == 1


@pytest.mark.parametrize("data", [bytes(32), bytes(31), b""])
def test_public_value_that_fails_its_checks(data: bytes) -> None:
    """RFC 6989 §2.5, RFC 8031 §3.2: INVALID_SYNTAX, and no SA."""
    endpoint = gateway()
    endpoint.receive(forge(init_request(), swap(KePayload, KePayload(KeGroup.CURVE25519, data))), 0.0)
    assert names(answers(endpoint)) == ["IKE_SA_INIT response 0 [ N(INVALID_SYNTAX) ]"]
    assert endpoint.sas == {}
    assert endpoint.half_open == 0


def test_unsupported_critical_payload_in_ike_sa_init() -> None:
    """§2.5: the Notify names the type."""
    endpoint = gateway()
    unknown = UnknownPayload(PayloadType.of(200), True, b"")
    endpoint.receive(forge(init_request(), lambda m: replace(m, payloads=(*m.payloads, unknown))), 0.0)
    (answer,) = answers(endpoint)
    notify = answer.notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD)
    assert notify is not None
    assert notify.data == bytes([200])
    assert answer.spi_r == bytes(8)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: replace(m, spi_i=bytes(8)), "unknown-spi"),
        (lambda m: replace(m, spi_r=bytes(7) + b"1"), "unknown-spi"),
        (lambda m: replace(m, message_id=1), "malformed"),
        (lambda m: replace(m, response=True), "unknown-spi"),
    ],
)
def test_requests_that_are_no_ike_sa_init(change: Callable[[Message], Message], reason: str) -> None:
    """§2.6, §3.1: SPIi not zero, SPIr zero, Message ID 0; none is answered."""
    endpoint = gateway()
    endpoint.receive(forge(init_request(), change), 0.0)
    assert answers(endpoint) == []
    assert endpoint.sas == {}
    assert endpoint.dropped[reason] == 1


def test_own_request_reflected_makes_no_sa() -> None:
    """An endpoint that both starts and answers does not talk to itself."""
    endpoint = gateway()
    endpoint.connect(initiator_config(), Path(GATEWAY, ACCESS_A), 0.0)
    request = endpoint.poll_transmit()
    assert request is not None
    endpoint.receive(request, 0.0)
    assert endpoint.dropped["reflected"] == 1
    assert len(endpoint.sas) == 1


def test_several_proposals_the_responder_takes_what_it_prefers() -> None:
    """§2.7, §3.3: one proposal, with the number that it was offered under, one transform of each type."""
    offered = ("aes256-sha256-x25519", "aes128-sha256-x25519", "aes256gcm16-prfsha256-x25519")
    preferred = ("aes256gcm16-prfsha256-x25519", "aes128-sha256-x25519")
    endpoint = gateway(ike_policy=IkePolicy(tuple(IkeSuite.of(name) for name in preferred)))
    endpoint.receive(init_request(ike_policy=IkePolicy(tuple(IkeSuite.of(name) for name in offered))), 0.0)
    (answer,) = answers(endpoint)
    chosen = answer.first(SaPayload)
    assert chosen is not None
    (proposal,) = chosen.proposals
    assert proposal.number == 2
    assert len({transform.type for transform in proposal.transforms}) == len(proposal.transforms) == 3


def test_every_sa_has_a_fresh_key_and_a_retransmission_the_same_answer() -> None:
    """§2.1, §2.12."""
    endpoint = gateway()
    first, second = init_request(1), init_request(2)
    for request in (first, first, second):
        endpoint.receive(request, 0.0)
    one, again, other = answers(endpoint)
    assert one == again
    assert one.first(KePayload) != other.first(KePayload)
    assert one.first(NoncePayload) != other.first(NoncePayload)


# --- COOKIE and floods


def flood(endpoint: IkeEndpoint, count: int, *, start: float = 0.0, spacing: float = 0.0, first: int = 0) -> float:
    """IKE_SA_INIT requests from forged addresses, each with an SPI and a nonce of its own; when it ended."""
    request = init_request().payload
    at = request.index(decode_message(request).first(NoncePayload).data)  # type: ignore[union-attr]
    now = start
    for number in range(first, first + count):
        now += spacing
        spi = (0x5A << 56 | number).to_bytes(8, "big")
        octets = spi + request[8:at] + spi * 4 + request[at + 32 :]
        source = Endpoint(IPv4Address(100 << 24 | number), 500)
        endpoint.receive(Datagram(Path(GATEWAY, source), octets), now)
        while endpoint.poll_transmit() is not None or endpoint.poll_event() is not None:
            pass
    return now


def test_a_flood_from_forged_addresses_leaves_little_behind_and_lets_a_genuine_ue_in() -> None:
    """§2.6: a hundred thousand requests in a hundred seconds."""
    pair = Pair()
    endpoint = pair.epdg.endpoint
    pair.now = flood(endpoint, 100_000, spacing=0.001)
    assert endpoint.half_open <= 64
    assert len(endpoint.sas) <= 64
    assert endpoint.dropped["cookie-demanded"] > 99_000
    pair.attach()
    assert "N(COOKIE), SAi1, KEi, Ni" in pair.wire[1]
    assert pair.ue.take(Established)
    # and once it is over nobody needs a cookie any more
    pair.run(120.0)
    assert endpoint.half_open == 0
    endpoint.receive(init_request(7), pair.now)
    assert endpoint.half_open == 1


def test_who_is_turned_away_is_told_and_of_a_flood_a_few_each_second() -> None:
    endpoint = gateway(cookie_threshold=0)
    flood(endpoint, 1000, spacing=0.0001, start=100.0)
    told = list(iter(endpoint.poll_turned_away, None))
    assert len(told) == 20
    assert {each.reason for each in told} == {"cookie-demanded"}
    number = int.from_bytes(told[0].spi_i, "big") - (0x5A << 56)
    assert told[0].path.remote == Endpoint(IPv4Address(100 << 24 | number), 500)
    flood(endpoint, 10_000, spacing=0.001, start=200.0, first=1000)  # nobody asks for ten seconds
    assert len(list(iter(endpoint.poll_turned_away, None))) == 20
    flood(endpoint, 1, start=300.0, first=20_000)
    assert len(list(iter(endpoint.poll_turned_away, None))) == 1


def test_the_threshold_falls_with_those_who_never_come_back() -> None:
    """RFC 8019 §4.2: forged requests so slow that no number alone is suspicious."""
    endpoint = gateway(cookie_threshold=40)
    pauses = flood(endpoint, 39)
    assert endpoint.half_open == 39
    endpoint.handle_timeout(31.0)
    assert endpoint.half_open == 0
    flood(endpoint, 39, start=max(31.0, pauses))
    assert endpoint.half_open == 7  # 40 * 8 / (39 + 8)
    assert endpoint.dropped["cookie-demanded"] == 32


def test_a_burst_of_arrivals_needs_cookies_however_few_are_half_open() -> None:
    endpoint = gateway(cookie_threshold=10_000, cookie_rate=10.0)
    flood(endpoint, 100)
    assert endpoint.half_open == 20
    assert endpoint.dropped["cookie-demanded"] == 80
    # hysteresis: half a bucket has to come back first
    flood(endpoint, 1, start=0.5, first=100)
    assert endpoint.dropped["cookie-demanded"] == 81
    flood(endpoint, 1, start=2.0, first=101)
    assert endpoint.half_open == 21


def test_cookie_is_bound_to_address_spi_and_nonce_and_grows_old() -> None:
    """§2.6: a cookie that does not match is ignored, and another demanded; the old secret's serves a while."""
    endpoint = gateway(cookie_threshold=0)
    request = init_request()
    endpoint.receive(request, 0.0)
    notify = answers(endpoint)[0].notify(NotifyType.COOKIE)
    assert notify is not None
    assert 1 <= len(notify.data) <= 64

    def with_cookie(message: Message) -> Message:
        return replace(message, payloads=(notify, *message.payloads))

    good = forge(request, with_cookie)
    bad = [
        Datagram(Path(GATEWAY, ACCESS_B), good.payload),
        forge(good, lambda m: replace(m, spi_i=b"elsewher")),
        forge(good, swap(NoncePayload, NoncePayload(bytes(32)))),
    ]
    for datagram in bad:
        endpoint.receive(datagram, 1.0)
    assert names(answers(endpoint)) == ["IKE_SA_INIT response 0 [ N(COOKIE) ]"] * 3
    assert endpoint.dropped["cookie-wrong"] == 3
    endpoint.receive(good, 121.0)
    assert endpoint.half_open == 0
    endpoint = gateway(cookie_threshold=0)
    endpoint.receive(request, 0.0)
    endpoint.receive(Datagram(Path(GATEWAY, replace(ACCESS_A, port=1024)), good.payload), 61.0)
    assert endpoint.half_open == 1  # the secret of before, and a NAT that has changed the port


def test_one_source_has_its_share_and_no_more() -> None:
    """RFC 8019 §4.2: an IPv4 address, an IPv6 /64; half of it without a cookie, so that forgers cannot take all."""
    for sources in (
        [ACCESS_A] * 9,
        [Endpoint(IPv6Address(f"2001:db8:0:1::{number + 1}"), 500) for number in range(9)],
    ):
        endpoint = gateway(half_open_limit_per_source=4)
        for number, source in enumerate(sources):
            request = Datagram(Path(GATEWAY, source), init_request(number).payload)
            endpoint.receive(request, 0.0)
            (answer,) = answers(endpoint)
            notify = answer.notify(NotifyType.COOKIE)
            if notify is not None:
                payloads = (notify, *decode_message(request.payload).payloads)
                endpoint.receive(forge(request, lambda m, p=payloads: replace(m, payloads=p)), 0.0)  # type: ignore[misc]
                answers(endpoint)
        assert endpoint.half_open == 4
        assert endpoint.dropped["cookie-demanded"] == 7
        assert endpoint.dropped["half-open-limit-per-source"] == 5
        endpoint.receive(Datagram(Path(GATEWAY, ACCESS_B), init_request(20).payload), 0.0)
        assert endpoint.half_open == 5
        endpoint.handle_timeout(31.0)
        endpoint.receive(Datagram(Path(GATEWAY, sources[0]), init_request(21).payload), 40.0)
        assert endpoint.half_open == 1


def test_half_open_sas_are_limited_in_all() -> None:
    endpoint = gateway(half_open_limit=3, cookie_threshold=100)
    flood(endpoint, 5)
    assert endpoint.half_open == 3
    assert endpoint.dropped["half-open-limit"] == 2


# --- what belongs to no SA


def stray(**changes: object) -> Datagram:
    """A protected INFORMATIONAL request of an SA that nobody has."""
    message = Message(
        spi_i=b"initiatr",
        spi_r=b"respondr",
        exchange=ExchangeType.INFORMATIONAL,
        original_initiator=True,
        response=False,
        message_id=7,
        payloads=(EncryptedPayload(PayloadType.NONE, bytes(40)),),
    )
    return Datagram(Path(GATEWAY, ACCESS_A), encode_message(replace(message, **changes)))  # type: ignore[arg-type]


def test_protected_request_of_an_unknown_sa() -> None:
    """§2.21.4: unprotected, the same SPIs, exchange and Message ID, to where it came from."""
    endpoint = gateway()
    endpoint.receive(stray(), 0.0)
    datagram = endpoint.poll_transmit()
    assert datagram is not None
    assert datagram.path == stray().path
    answer = decode_message(datagram.payload)
    assert answer.summary() == "INFORMATIONAL response 7 [ N(INVALID_IKE_SPI) ]"
    assert (answer.spi_i, answer.spi_r) == (b"initiatr", b"respondr")
    assert not answer.original_initiator


@pytest.mark.parametrize(
    "changes",
    [
        {"response": True},  # "MUST NOT respond"
        {"payloads": (NotifyPayload(NotifyType.INVALID_IKE_SPI),)},
        {"spi_i": bytes(8)},
        {"spi_r": bytes(8)},
    ],
)
def test_what_is_never_answered(changes: dict[str, object]) -> None:
    """§2.21.4."""
    endpoint = gateway()
    endpoint.receive(stray(**changes), 0.0)
    assert answers(endpoint) == []
    assert endpoint.dropped["unknown-spi"] == 1


def test_answers_without_protection_are_rare() -> None:
    """§2.21.4: "A node needs to limit the rate"; versions too high share it (§2.5)."""
    endpoint = gateway(unprotected_rate=5.0)
    higher = bytearray(stray().payload)
    higher[17] = 0x30
    for _ in range(50):
        endpoint.receive(stray(), 0.0)
        endpoint.receive(Datagram(stray().path, bytes(higher)), 0.0)
    assert len(answers(endpoint)) == 5
    assert endpoint.dropped["unprotected-rate"] == 95
    endpoint.receive(stray(), 1.0)
    assert len(answers(endpoint)) == 1


def test_a_higher_version_is_answered_with_what_it_came_with() -> None:
    """§1.5: SPIs, Message ID and exchange type are copied; a response is never answered."""
    endpoint = gateway()
    for flags, count in ((0x08, 1), (0x28, 0)):
        octets = bytearray(stray().payload)
        octets[17], octets[19] = 0x30, flags
        endpoint.receive(Datagram(stray().path, bytes(octets)), 0.0)
        found = answers(endpoint)
        assert len(found) == count
        for answer in found:
            assert answer.summary() == "INFORMATIONAL response 7 [ N(INVALID_MAJOR_VERSION) ]"
            assert (answer.spi_i, answer.spi_r) == (b"initiatr", b"respondr")


# --- SPIs


def test_spis_of_a_worker_are_its_own_part_of_the_space() -> None:
    spis = RandomSpis(SeededEntropy(1), worker=7)
    assert {spis.ike_spi()[0] for _ in range(20)} == {spis.child_spi()[0] for _ in range(20)} == {7}
    assert spis.owns(spis.ike_spi())
    assert not RandomSpis(SeededEntropy(1), worker=8).owns(spis.ike_spi())
    endpoint = IkeEndpoint(entropy=SeededEntropy(1), responder=responder_config(), worker=0)
    endpoint.receive(init_request(), 0.0)
    assert next(iter(endpoint.sas))[0] == 0


def test_ike_spis_are_unique_and_not_zero() -> None:
    """§2.6: "MUST choose them so as to be unique identifiers of an IKE SA"; zero is special."""

    class Repeating:
        def __init__(self) -> None:
            self.given = [bytes(8), b"in use..", b"in use..", b"another."]

        def octets(self, length: int) -> bytes:
            return self.given.pop(0)

    assert RandomSpis(Repeating(), (), {b"in use.."}).ike_spi() == b"another."
