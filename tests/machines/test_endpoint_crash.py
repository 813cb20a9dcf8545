"""Quick crash detection (RFC 6290) and unprotected Notifies (RFC 7296 §2.21.4), liveness and who was heard (§2.4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.entropy import SeededEntropy
from protocols.ikev2.endpoint import IkeEndpoint
from protocols.ikev2.events import ChildSaRemoved, Closed, SaState
from protocols.ikev2.message import Message, decode_message, encode_message
from protocols.ikev2.payloads import EncryptedPayload, NotifyPayload
from protocols.ikev2.registry import ExchangeType, NotifyType, PayloadType, ProtocolId
from protocols.ikev2.tasks.crash_detection import RenewToken, present
from protocols.ikev2.tasks.informational import Liveness
from protocols.path import Datagram, Endpoint, Path
from protocols.secret import Secret
from tests.harness.pair import ACCESS_A, ACCESS_B, GATEWAY, Node, Pair, initiator_config, responder_config

SECRET = Secret(bytes(range(32)))
OLDER = Secret(bytes(range(32, 64)))
PROBE_EVERY = 30.0


def attached(*secrets: Secret, **changes: object) -> Pair:
    """A gateway that makes tokens, and a UE that has one."""
    return Pair(initiator_config(**changes), responder_config(crash_secrets=secrets)).attach()


def restart(node: Node, *secrets: Secret) -> None:
    """The node loses everything but its configuration."""
    config = responder_config(crash_secrets=secrets) if node.name == "epdg" else None
    node.endpoint = IkeEndpoint(entropy=SeededEntropy("after"), responder=config, crash_secrets=secrets)
    node.sa = None


def in_clear(pair: Pair, *payloads: NotifyPayload, to: str = "ue") -> Datagram:
    """What anybody could send who has seen the SPIs."""
    sa = pair.ue.live
    message = Message(
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        exchange=ExchangeType.INFORMATIONAL,
        original_initiator=to == "epdg",
        response=True,
        message_id=9,
        payloads=payloads,
    )
    path = Path(ACCESS_B, Endpoint.of("203.0.113.66", 4500))
    return Datagram(path, encode_message(message))


def unknown_sa(*tokens: bytes) -> tuple[NotifyPayload, ...]:
    return (
        NotifyPayload(NotifyType.INVALID_IKE_SPI),
        *[NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, token, protocol=ProtocolId.IKE) for token in tokens],
    )


# --- tokens


def test_restarted_gateway_is_noticed_at_once() -> None:
    """RFC 6290 §3, §4.5: N(INVALID_IKE_SPI), N(QUICK_CRASH_DETECTION), and the SA ends in silence."""
    pair = attached(SECRET)
    assert "AUTH, N(QUICK_CRASH_DETECTION), CP(CFG_REPLY)" in pair.wire[-1]  # §4.2: after AUTH, before CP
    restart(pair.epdg, SECRET)
    pair.ue.endpoint.initiate(pair.ue.live, Liveness(), pair.now)
    pair.run(0.05)
    answer = decode_message(pair.seen[-1][1].payload)
    assert answer.summary() == "INFORMATIONAL response 4 [ N(INVALID_IKE_SPI), N(QUICK_CRASH_DETECTION) ]"
    token = answer.notify(NotifyType.QUICK_CRASH_DETECTION)
    assert token is not None
    assert (token.protocol, token.spi) == (ProtocolId.IKE, b"")  # §4.1
    assert 16 <= len(token.data) <= 128  # §5
    closed = pair.ue.take(Closed)
    assert "quick crash detection" in closed.why
    assert closed.by_peer
    assert pair.ue.has(ChildSaRemoved)
    assert pair.ue.endpoint.sas == {}
    # and a new one at once
    pair.ue.sa = None
    pair.start()
    pair.run(1.0)
    assert pair.ue.live.state is SaState.ESTABLISHED


def test_both_ends_may_make_tokens() -> None:
    """§4.2: the initiator's goes with the first IKE_AUTH request; a UE that has lost its state says so."""
    pair = Pair(initiator_config(crash_secrets=(SECRET,)), responder_config()).attach()
    assert "N(INITIAL_CONTACT), N(QUICK_CRASH_DETECTION)" in next(w for w in pair.wire if "IDi" in w)
    restart(pair.ue, SECRET)
    pair.epdg.endpoint.initiate(pair.epdg.live, Liveness(), pair.now)
    pair.run(0.05)
    assert pair.epdg.live.state is SaState.CLOSED


def test_the_secret_may_roll_over() -> None:
    """§4.5, §5.1: up to four generations are presented, any of them counts."""
    pair = attached(OLDER)
    restart(pair.epdg, SECRET, OLDER)
    pair.ue.endpoint.initiate(pair.ue.live, Liveness(), pair.now)
    pair.run(0.05)
    assert len(decode_message(pair.seen[-1][1].payload).notifies(NotifyType.QUICK_CRASH_DETECTION)) == 2
    assert pair.ue.live.state is SaState.CLOSED


def test_without_the_secret_nothing_is_proved() -> None:
    """§3: only the token ends the SA; RFC 7296 §2.4: silence does."""
    pair = attached(SECRET)
    restart(pair.epdg, OLDER)
    pair.ue.endpoint.initiate(pair.ue.live, Liveness(), pair.now)
    pair.run(5.0)
    assert pair.ue.live.state is SaState.ESTABLISHED
    assert pair.ue.live.dropped["crash-token-wrong"] > 1
    pair.run(30.0)
    assert "retransmission limit" in pair.ue.take(Closed).why


def test_wrong_tokens_are_counted_and_looked_at_not_too_often() -> None:
    """§8.1: "SHOULD limit the rate of QCD_TOKENs verified"; the right one is heard again later, from anywhere (§3)."""
    pair = attached(SECRET)
    sa = pair.ue.live
    right = present((SECRET,), sa.spi_i, sa.spi_r)[0].data
    for number in range(50):
        pair.ue.endpoint.receive(in_clear(pair, *unknown_sa(bytes([number]) * 32)), pair.now)
    assert sa.dropped["crash-token-wrong"] == 8
    assert sa.dropped["crash-token-rate"] == 42
    pair.ue.endpoint.receive(in_clear(pair, *unknown_sa(right)), pair.now)
    assert sa.state is SaState.ESTABLISHED
    pair.run(2.0)
    pair.ue.endpoint.receive(in_clear(pair, *unknown_sa(bytes(32), bytes(16), b"x" * 20, right)), pair.now)
    assert sa.state is SaState.CLOSED


@pytest.mark.parametrize("token", [b"", bytes(15), bytes(129)])
def test_tokens_of_no_legal_length_are_not_kept(token: bytes) -> None:
    """§5: at least 16 octets and no more than 128."""
    pair = attached()
    pair.epdg.endpoint.initiate(pair.epdg.live, Renewal(token), pair.now)
    pair.run(0.1)
    pair.ue.endpoint.receive(in_clear(pair, *unknown_sa(token)), pair.now)
    assert pair.ue.live.state is SaState.ESTABLISHED


class Renewal:
    """INFORMATIONAL { N(QUICK_CRASH_DETECTION) } with any token."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, token: bytes) -> None:
        self._token = token

    def build_request(self, sa: object, now: float) -> tuple[NotifyPayload, ...]:
        return (NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, self._token, protocol=ProtocolId.IKE),)

    def process_response(self, sa: object, message: Message, path: Path, now: float) -> None:
        """Nothing."""


def test_a_token_may_be_replaced_under_protection() -> None:
    """§4.4: gratuitous tokens MUST be accepted; the last four serve."""
    pair = attached(SECRET)
    sa = pair.ue.live
    for number in range(5):
        pair.epdg.endpoint.initiate(pair.epdg.live, Renewal(bytes([number]) * 32), pair.now)
        pair.run(0.1)
    pair.ue.endpoint.receive(in_clear(pair, *unknown_sa(bytes(32))), pair.now)
    assert sa.state is SaState.ESTABLISHED  # the fifth but last
    pair.ue.endpoint.receive(in_clear(pair, *unknown_sa(bytes([1]) * 32)), pair.now)
    assert sa.state is SaState.CLOSED


def test_the_maker_sends_its_token_again() -> None:
    """§4.3: INFORMATIONAL { N(QUICK_CRASH_DETECTION) } after a rekey that the maker has started."""
    pair = attached(SECRET)
    pair.epdg.endpoint.initiate(pair.epdg.live, RenewToken(), pair.now)
    pair.run(0.1)
    assert pair.wire[-2] == "<-- INFORMATIONAL request 0 [ N(QUICK_CRASH_DETECTION) ]"
    plain = attached()
    plain.epdg.endpoint.initiate(plain.epdg.live, RenewToken(), plain.now)
    plain.run(0.1)
    assert "IKE_AUTH" in plain.wire[-1]


@pytest.mark.parametrize("original_initiator", [True, False])
def test_no_token_in_the_clear_for_an_sa_that_exists(original_initiator: bool) -> None:
    """§9.2: whichever SPI the flags point at, whatever the other SPI is."""
    pair = attached(SECRET)
    sa = pair.epdg.live
    for spi_i, spi_r in ((sa.spi_i, sa.spi_r), (b"anything", sa.spi_r), (sa.spi_r, b"anything")):
        message = Message(
            spi_i=spi_i,
            spi_r=spi_r,
            exchange=ExchangeType.INFORMATIONAL,
            original_initiator=original_initiator,
            response=False,
            message_id=4,
            payloads=(EncryptedPayload(PayloadType.NONE, bytes(40)),),
        )
        pair.epdg.endpoint.receive(Datagram(Path(GATEWAY, ACCESS_B), encode_message(message)), pair.now)
        assert pair.epdg.endpoint.poll_transmit() is None


def test_no_token_for_an_sa_of_another_worker() -> None:
    """§9.2: the SA may be valid there."""
    message = Message(
        spi_i=b"initiatr",
        spi_r=b"\x07-------",
        exchange=ExchangeType.INFORMATIONAL,
        original_initiator=True,
        response=False,
        message_id=4,
        payloads=(EncryptedPayload(PayloadType.NONE, bytes(40)),),
    )
    for worker, count in ((7, 2), (8, 1)):
        config = responder_config(crash_secrets=(SECRET,))
        endpoint = IkeEndpoint(entropy=SeededEntropy(1), responder=config, worker=worker)
        endpoint.receive(Datagram(Path(GATEWAY, ACCESS_A), encode_message(message)), 0.0)
        answer = endpoint.poll_transmit()
        assert answer is not None
        assert len(decode_message(answer.payload).payloads) == count


# --- hints


@pytest.mark.parametrize("kind", [NotifyType.INVALID_IKE_SPI, NotifyType.INVALID_SPI])
def test_an_unprotected_notify_is_a_hint_and_no_more(kind: NotifyType) -> None:
    """§2.21.4: "MUST NOT change the state of any existing SAs", "should initiate a liveness check", rarely."""
    pair = attached()
    wire = len(pair.wire)
    for _ in range(20):
        pair.ue.endpoint.receive(in_clear(pair, NotifyPayload(kind)), pair.now)
    pair.run(1.0)
    assert pair.wire[wire:] == ["--> INFORMATIONAL request 4 [ ]", "<-- INFORMATIONAL response 4 [ ]"]
    assert pair.ue.live.state is SaState.ESTABLISHED
    assert pair.ue.live.dropped["unprotected"] == 20
    pair.ue.endpoint.receive(in_clear(pair, NotifyPayload(kind)), pair.now)
    pair.run(9.0)
    assert len(pair.wire) == wire + 2
    pair.ue.endpoint.receive(in_clear(pair, NotifyPayload(kind)), pair.now)
    pair.run(1.0)
    assert len(pair.wire) == wire + 4
    pair.run(10.0)
    pair.ue.endpoint.initiate(pair.ue.live, Liveness(), pair.now)
    pair.ue.endpoint.receive(in_clear(pair, NotifyPayload(kind)), pair.now)
    pair.run(1.0)
    assert len(pair.wire) == wire + 6  # a request is on its way already


def test_unprotected_delete_is_dropped() -> None:
    pair = attached()
    delete = NotifyPayload(NotifyType.AUTHENTICATION_FAILED)
    pair.ue.endpoint.receive(in_clear(pair, delete), pair.now)
    request = replace(decode_message(in_clear(pair, *unknown_sa()).payload), response=False)
    pair.ue.endpoint.receive(Datagram(pair.ue.live.path, encode_message(request)), pair.now)
    pair.run(1.0)
    assert pair.ue.live.state is SaState.ESTABLISHED
    assert pair.ue.live.dropped["unprotected"] == 2


# --- INITIAL_CONTACT, liveness, keepalives


def test_initial_contact_only_where_it_is_true() -> None:
    """§2.4: "asserts that this IKE SA is the only IKE SA currently active"."""
    for flag in (True, False):
        pair = Pair(initiator_config(initial_contact=flag)).attach()
        assert ("N(INITIAL_CONTACT)" in next(w for w in pair.wire if "IDi" in w)) is flag


def test_a_peer_heard_on_a_child_sa_is_not_probed() -> None:
    """§2.4: "on an IKE SA or any of its Child SAs"."""
    packets = [0]
    pair = Pair(initiator_config(liveness_interval=PROBE_EVERY))
    pair.ue.endpoint = IkeEndpoint(entropy=SeededEntropy("ue"), inbound_packets=lambda spi: packets[0])
    pair.attach()
    quiet = len(pair.wire)
    for _ in range(10):
        packets[0] += 1
        pair.run(PROBE_EVERY)
    assert len(pair.wire) == quiet
    pair.run(2 * PROBE_EVERY)
    assert pair.wire[quiet] == "--> INFORMATIONAL request 4 [ ]"


def test_the_liveness_interval_may_change_while_the_sa_is_up() -> None:
    pair = attached(liveness_interval=PROBE_EVERY)
    quiet = len(pair.wire)
    pair.ue.endpoint.set_liveness_interval(pair.ue.live, 5.0, pair.now)
    pair.run(6.0)
    assert len(pair.wire) == quiet + 2
    pair.ue.endpoint.set_liveness_interval(pair.ue.live, None, pair.now)
    pair.run(600.0)
    assert len(pair.wire) == quiet + 2


def test_keepalives_only_behind_a_nat() -> None:
    """RFC 3948 §4: they end when the SA moves out of the NAT, and come back with it."""
    outside = Endpoint.of("198.51.100.77", 500)
    pair = Pair()
    pair.translate = {
        ACCESS_A: outside,
        Endpoint(ACCESS_A.address, 4500): Endpoint(outside.address, 4500),
    }
    pair.attach()

    def keepalives(seconds: float) -> int:
        before = len(pair.seen)
        pair.run(seconds)
        return sum(1 for sender, d in pair.seen[before:] if sender == "ue" and d.payload == b"\xff")

    assert keepalives(100.0) in (4, 5)
    pair.roam(ACCESS_B)
    pair.run(1.0)
    assert not pair.ue.live.nat.local
    assert keepalives(100.0) == 0
    pair.roam(ACCESS_A)
    pair.run(1.0)
    assert keepalives(100.0) in (4, 5)
