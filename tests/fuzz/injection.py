"""How a fuzz target speaks for a peer that holds the right keys: any plaintext, sealed as the other end expects it."""

from __future__ import annotations

from protocols.entropy import SeededEntropy
from protocols.errors import RemoteError
from protocols.ikev2.config import InitiatorConfig, ResponderConfig
from protocols.ikev2.events import SaState
from protocols.ikev2.message import HEADER_LENGTH, encode_header
from protocols.ikev2.payloads import AuthPayload, IdiPayload, IdrPayload, decode_payloads, encode_payloads
from protocols.ikev2.protection import protection_of
from protocols.ikev2.registry import ExchangeType, PayloadType
from protocols.ikev2.sa import IkeSa
from protocols.ikev2.tasks import auth
from protocols.ikev2.window import Disposition
from protocols.path import Datagram, Path
from protocols.secret import Secret
from tests.harness import pair as pairs
from tests.harness.pair import Node, Pair

INPUTS_PER_PAIR = 64
SEED = 1  # the same pair for every input, so that a finding can be repeated


def fresh(ue: InitiatorConfig | None = None, epdg: ResponderConfig | None = None) -> Pair:
    """A pair that no list of the test suites keeps."""
    pairs.PAIRS.clear()
    return Pair(ue, epdg, seed=SEED)


class _Kept:
    """An established pair serves many inputs; the fuzzer is deterministic, so a finding can be repeated."""

    pair: Pair | None = None
    inputs = 0


def established() -> Pair:
    """A pair that is up; the one of the last input where that left it so."""
    pair = _Kept.pair
    usable = pair is not None and all(node.live.state is SaState.ESTABLISHED for node in (pair.ue, pair.epdg))
    if pair is None or not usable or _Kept.inputs >= INPUTS_PER_PAIR:
        pair = _Kept.pair = fresh().attach()
        _Kept.inputs = 0
    _Kept.inputs += 1
    return pair


def spent() -> None:
    """The kept pair is of no more use."""
    _Kept.pair = None


def node_of(pair: Pair, name: str) -> Node:
    """The end of that name."""
    return pair.ue if name == "ue" else pair.epdg


def other(name: str) -> str:
    """The name of the other end."""
    return "epdg" if name == "ue" else "ue"


def drain(node: Node) -> None:
    """Let go of what an end says."""
    while node.endpoint.poll_transmit() is not None:
        continue
    while node.endpoint.poll_event() is not None:
        continue


def next_expected(sa: IkeSa) -> int:
    """The Message ID that the SA takes for a new request."""
    return next(number for number in range(1 << 16) if sa.window.classify(number) is Disposition.NEW)


def outstanding(sa: IkeSa) -> int:
    """The Message ID that the SA waits for in a response."""
    return sa.window.next_request_id - 1


def truthful(pair: Pair, sender: str, octets: bytes, secret: Secret) -> bytes:
    """The same chain with a right AUTH wherever one by shared key stands in it, so that what follows is reached."""
    try:
        chain = decode_payloads(PayloadType.of(octets[0]), octets[1:])
    except (RemoteError, IndexError):
        return octets
    sa = node_of(pair, sender).live
    if sa.keys is None or not any(isinstance(payload, AuthPayload) for payload in chain):
        return octets
    kind = IdiPayload if sender == "ue" else IdrPayload
    said = [payload for payload in chain if isinstance(payload, kind)]
    known: tuple[IdiPayload | IdrPayload | None, ...] = (
        pair.ue_config.identity if sender == "ue" else pair.ue_config.responder_identity,
    )
    identity = (*said, *known)[0]
    if identity is None:
        return octets
    right = auth.prove_by_key(sa, secret, identity)
    first, body = encode_payloads(tuple([right if isinstance(each, AuthPayload) else each for each in chain]))
    return bytes((first,)) + body


def inject(
    pair: Pair,
    sender: str,
    exchange: ExchangeType,
    octets: bytes,
    *,
    response: bool,
    message_id: int,
    fragment: tuple[int, int] | None = None,
    path: Path | None = None,
    seconds: float = 0.05,
) -> None:
    """Seal a plaintext, its first payload type in front, as ``sender`` for the other end, if that has keys."""
    receiver = node_of(pair, other(sender))
    sa = receiver.live
    if sa.keys is None or sa.state is SaState.CLOSED:
        return
    suite, keys = sa.established_keys()
    protection = protection_of(suite, keys, not sa.original_initiator, SeededEntropy(7))
    plaintext = octets[1:]
    padding = protection.padding(len(plaintext))
    numbers = b"" if fragment is None else fragment[0].to_bytes(2, "big") + fragment[1].to_bytes(2, "big")
    length = 4 + len(numbers) + len(plaintext) + padding + 1 + protection.overhead
    clear = encode_header(
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        next_payload=PayloadType.SK if fragment is None else PayloadType.SKF,
        exchange=exchange,
        original_initiator=not sa.original_initiator,
        response=response,
        message_id=message_id,
        length=HEADER_LENGTH + length,
    )
    clear += bytes((octets[0] if octets else 0, 0)) + length.to_bytes(2, "big") + numbers
    datagram = protection.protect(clear, plaintext + bytes(padding) + bytes((padding,)))
    receiver.endpoint.receive(Datagram(path or sa.path, datagram), pair.now)
    pair.run(seconds)
