"""Invariant: whatever datagrams arrive, ``IkeEndpoint.receive`` returns, and an established SA stays as it is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.entropy import SeededEntropy
from protocols.ikev2.endpoint import DEPARTED_KEPT, IkeEndpoint
from protocols.ikev2.events import SaState
from protocols.ikev2.message import Message, decode_message, encode_header
from protocols.ikev2.payloads import (
    ConfigurationPayload,
    DeletePayload,
    NoncePayload,
    NotifyPayload,
    SaPayload,
    TsiPayload,
    TsrPayload,
)
from protocols.ikev2.registry import ConfigType, ExchangeType, NotifyType, ProtocolId
from protocols.ikev2.sealer import Sealer
from protocols.path import Datagram, Endpoint, Path
from protocols.secret import Secret
from protocols.selectors import TrafficSelector
from tests.harness.pair import ACCESS_A, GATEWAY, Pair, initiator_config, responder_config

SETTINGS = settings(max_examples=60, deadline=None)


@SETTINGS
@given(st.lists(st.binary(max_size=120), max_size=20))
def test_random_datagrams(datagrams: list[bytes]) -> None:
    pair = Pair().attach()
    sa = pair.epdg.live
    for octets in datagrams:
        for prefix in (b"", sa.spi_i + sa.spi_r, sa.spi_i + bytes(8)):
            pair.epdg.endpoint.receive(Datagram(sa.path, prefix + octets), pair.now)
    pair.run(1.0)
    assert sa.state is SaState.ESTABLISHED


@pytest.mark.parametrize("seed", range(20))
def test_a_link_that_corrupts_duplicates_and_drops(seed: int) -> None:
    """Every datagram of an attach may be cut, flipped, doubled or lost; the ends never disagree for long."""
    generator = random.Random(seed)
    pair = Pair(seed=seed)

    def disturb(sender: str, datagram: Datagram) -> bool:
        if generator.random() < 0.5:
            return False
        octets = bytearray(datagram.payload)
        if generator.random() < 0.5:
            octets[generator.randrange(len(octets))] ^= 1 << generator.randrange(8)
        else:
            del octets[generator.randrange(len(octets)) :]
        node = pair.epdg if sender == "ue" else pair.ue
        node.endpoint.receive(Datagram(datagram.path.reversed(), bytes(octets)), pair.now)
        return generator.random() < 0.5

    pair.lose = disturb
    pair.attach()
    pair.run(120.0)
    ue_up = pair.ue.live.state is SaState.ESTABLISHED
    if ue_up:
        assert pair.epdg.live.state is SaState.ESTABLISHED


NOTIFY = st.builds(
    lambda kind, data: NotifyPayload(type=NotifyType(kind), data=data),
    st.sampled_from([0, 1, 14, 24, 38, 39, 40, 43, 44, 16384, 16388, 16393, 16396, 16400, 16401, 16402, 8192, 41101]),
    st.binary(max_size=20),
)
PAYLOADS = st.lists(
    st.one_of(
        NOTIFY,
        st.builds(lambda data: NoncePayload(data=data), st.binary(min_size=16, max_size=40)),
        st.builds(
            lambda spis: DeletePayload(protocol=ProtocolId.ESP, spis=tuple(spis)),
            st.lists(st.binary(min_size=4, max_size=4), max_size=3),
        ),
        st.just(SaPayload(proposals=())),
        st.just(TsiPayload(selectors=(TrafficSelector.network("0.0.0.0/0"),))),
        st.just(TsrPayload(selectors=(TrafficSelector.host("192.0.2.1"),))),
        st.just(ConfigurationPayload(type=ConfigType.CFG_REQUEST, attributes=())),
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL]),
            PAYLOADS,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_authentic_nonsense(requests: list[tuple[ExchangeType, list[NotifyPayload]]]) -> None:
    """An authenticated peer's odd requests: each is answered or dropped, nothing raises but our own bugs."""
    pair = Pair(initiator_config()).attach()
    sa = pair.ue.live
    suite, keys = sa.established_keys()
    sealer = Sealer(suite, keys, True, SeededEntropy(5))
    for number, (exchange, payloads) in enumerate(requests):
        message = Message(
            spi_i=sa.spi_i,
            spi_r=sa.spi_r,
            exchange=exchange,
            original_initiator=True,
            response=False,
            message_id=4 + number,
            payloads=tuple(payloads),
        )
        pair.epdg.endpoint.receive(Datagram(sa.path.reversed(), sealer.seal(message)), pair.now)
        pair.run(0.001)
    assert pair.epdg.live.state in (SaState.ESTABLISHED, SaState.CLOSED)


@pytest.mark.parametrize("seed", range(4))
def test_a_flood_of_headers(seed: int) -> None:
    """A gateway and a UE under arbitrary headers, with SPIs of theirs among them: nothing raises, nothing grows."""
    generator = random.Random(seed)
    config = responder_config(half_open_limit=20, half_open_limit_per_source=5, crash_secrets=(Secret(bytes(32)),))
    pair = Pair(initiator_config(crash_secrets=(Secret(bytes(32)),)), config, seed=seed).attach()
    genuine = [datagram for _, datagram in pair.seen]
    sa, spis = pair.ue.live, [pair.ue.live.spi_i, pair.ue.live.spi_r, bytes(8)]
    now, sent = pair.now, 0
    for number in range(3000):
        now += generator.random() * 0.01
        octets = generator.choice(genuine).payload
        if generator.random() < 0.8:
            body = octets[28:] if generator.random() < 0.5 else generator.randbytes(generator.randrange(60))
            octets = (
                encode_header(
                    spi_i=generator.choice([*spis, generator.randbytes(8)]),
                    spi_r=generator.choice([*spis, generator.randbytes(8)]),
                    next_payload=generator.choice([0, 33, 34, 40, 41, 42, 46, 53, 200]),
                    version=generator.choice([0x20, 0x20, 0x20, 0x2F, 0x30, 0x10]),
                    exchange=generator.choice([34, 34, 35, 36, 37, 38, 43, 255]),
                    original_initiator=generator.random() < 0.5,
                    response=generator.random() < 0.5,
                    message_id=generator.choice([0, 1, 4, 5, 0xFFFFFFFF]),
                    length=28 + len(body),
                )
                + body
            )
        elif generator.random() < 0.5:
            octets = generator.randbytes(8) + octets[8:]
        source = Endpoint.of(f"192.0.2.{generator.randrange(256)}", generator.choice([500, 4500, number + 1]))
        for endpoint in (pair.ue.endpoint, pair.epdg.endpoint):
            endpoint.receive(Datagram(Path(GATEWAY, source), octets), now)
            endpoint.handle_timeout(now)
            while endpoint.poll_event() is not None:
                pass
            while endpoint.poll_transmit() is not None:
                sent += 1
            assert endpoint.half_open <= 20
            assert len(endpoint.sas) <= 21
            assert len(endpoint._deadlines) <= 4 * 21
            assert len(endpoint._departed) <= DEPARTED_KEPT
    assert sa.state is SaState.ESTABLISHED
    assert pair.epdg.live.state is SaState.ESTABLISHED
    for endpoint in (pair.ue.endpoint, pair.epdg.endpoint):
        endpoint.handle_timeout(now + 40.0)
        assert endpoint.half_open == 0
        assert len(endpoint._half_open._sources) == 0


@SETTINGS
@given(st.binary(max_size=80), st.integers(0, 255))
def test_ike_sa_init_with_any_payloads(octets: bytes, first: int) -> None:
    """With and without a demand for cookies: an answer that decodes and names no SA, or a counted drop."""
    for threshold in (0, 64):
        config = responder_config(cookie_threshold=threshold)
        endpoint = IkeEndpoint(entropy=SeededEntropy(1), responder=config)
        header = encode_header(
            spi_i=b"initiatr",
            spi_r=bytes(8),
            next_payload=first,
            exchange=ExchangeType.IKE_SA_INIT,
            original_initiator=True,
            response=False,
            message_id=0,
            length=28 + len(octets),
        )
        endpoint.receive(Datagram(Path(GATEWAY, ACCESS_A), header + octets), 0.0)
        answer = endpoint.poll_transmit()
        if answer is None:
            assert sum(endpoint.dropped.values()) == 1
        else:
            assert decode_message(answer.payload).spi_r == bytes(8)
        assert endpoint.sas == {}
