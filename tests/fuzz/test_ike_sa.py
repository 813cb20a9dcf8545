"""Invariant: whatever datagrams arrive, ``IkeEndpoint.receive`` returns, and an established SA stays as it is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.entropy import SeededEntropy
from protocols.ikev2.events import SaState
from protocols.ikev2.message import Message
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
from protocols.path import Datagram
from protocols.selectors import TrafficSelector
from tests.harness.pair import Pair, initiator_config

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
