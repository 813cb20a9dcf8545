"""Datagrams made by hand: protected with the keys of an SA in a ``Pair``, or by nobody at all."""

from __future__ import annotations

from protocols.entropy import SeededEntropy
from protocols.ikev2.message import Message, encode_message
from protocols.ikev2.payloads import Payload
from protocols.ikev2.registry import ExchangeType
from protocols.ikev2.sealer import Sealer
from protocols.path import Datagram
from tests.harness.pair import Node, Pair


def forge(
    pair: Pair,
    sender: str,
    message_id: int,
    *payloads: Payload,
    exchange: ExchangeType = ExchangeType.INFORMATIONAL,
    response: bool = False,
    protected: bool = True,
) -> Datagram:
    """What ``sender`` might have sent, as the other end gets it."""
    node = _node(pair, sender)
    sa = node.live
    message = Message(
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        exchange=exchange,
        original_initiator=sa.original_initiator,
        response=response,
        message_id=message_id,
        payloads=payloads,
    )
    if protected:
        suite, keys = sa.established_keys()
        octets = Sealer(suite, keys, sa.original_initiator, SeededEntropy(f"{sender} {message_id}")).seal(message)
    else:
        octets = encode_message(message)
    return Datagram(sa.path.reversed(), octets)


def receive(pair: Pair, node: Node, *datagrams: Datagram) -> None:
    """An end receives these and says what it has to say."""
    for datagram in datagrams:
        node.endpoint.receive(datagram, pair.now)
    pair.run(0.001)


def _node(pair: Pair, name: str) -> Node:
    return pair.ue if name == "ue" else pair.epdg
