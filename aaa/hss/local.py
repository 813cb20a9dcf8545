"""The authentication centre of the HSS: vectors (TS 33.102 §6.3, Annex C) out of the subscriber database.

Not for use by several threads at once: the runtime calls it through one bridge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aaa.subscribers.database import UnknownImsi
from aaa.subscribers.subscriber import Algorithm, Subscriber
from protocols.algorithms.milenage import Milenage
from protocols.algorithms.sqn import (
    DEFAULT_BLOCK,
    IND_COUNT,
    SqnAllocator,
    SqnGenerator,
    SqnState,
    compose,
)
from protocols.algorithms.vector import (
    AMF_SEPARATION,
    RAND_LENGTH,
    AkaAlgorithm,
    AkaVector,
    generate_vector,
    verify_auts,
)
from protocols.eap.aka.keys import prime_vector
from protocols.eap.aka.server import Resynchronisation
from protocols.entropy import Entropy
from protocols.threegpp.identity import Imsi


class SubscriberStore(Protocol):
    """What the HSS needs of ``SubscriberDatabase``."""

    def get(self, imsi: Imsi) -> Subscriber | None:
        """The subscriber of ``imsi``, if provisioned."""

    def change_sequence(self, imsi: Imsi, transition: Callable[[int], int]) -> int:
        """Store ``transition(SEQ_HE)`` durably; the value it was applied to."""


class LocalHss:
    """Answers from the database; SQN values come from blocks reserved there ahead of their use."""

    def __init__(self, database: SubscriberStore, entropy: Entropy, *, sequence_block: int = DEFAULT_BLOCK) -> None:
        self._database = database
        self._entropy = entropy
        self._sequence_block = sequence_block
        self._allocators: dict[Imsi, SqnAllocator] = {}

    def authentication_vector(
        self, imsi: Imsi, resynchronisation: Resynchronisation | None, *, prime_for: bytes | None = None
    ) -> AkaVector:
        """A fresh vector (TS 33.102 §6.3.2), after moving SEQ_HE when AUTS is given (§6.3.5).

        ``prime_for`` is the access network identity of an EAP-AKA' vector: CK' and IK' are bound to it, and
        the AMF has its separation bit (TS 33.402 §6.2, Annex A.2). ``UnknownImsi``, ``AuthenticationError``.
        """
        subscriber = self._database.get(imsi)
        if subscriber is None:
            self._allocators.pop(imsi, None)
            raise UnknownImsi(f"no subscriber has IMSI {imsi}")
        algorithm = _algorithm(subscriber)
        allocator = self._allocator(imsi)
        if resynchronisation is not None:
            sqn_ms = verify_auts(algorithm, rand=resynchronisation.rand, auts=resynchronisation.auts)
            allocator.resynchronise(sqn_ms)
        sqn = allocator.next()
        rand = self._entropy.octets(RAND_LENGTH)
        if prime_for is None:
            return generate_vector(algorithm, rand=rand, sqn=sqn, amf=subscriber.amf)
        separated = bytes([subscriber.amf[0] | AMF_SEPARATION[0], subscriber.amf[1]])
        return prime_vector(generate_vector(algorithm, rand=rand, sqn=sqn, amf=separated), prime_for)

    def _allocator(self, imsi: Imsi) -> SqnAllocator:
        allocator = self._allocators.get(imsi)
        if allocator is None:
            allocator = SqnAllocator(
                lambda count: self._database.change_sequence(imsi, lambda seq: seq + count) + 1,
                lambda seq_ms: self._reset(imsi, seq_ms),
                block=self._sequence_block,
            )
            self._allocators[imsi] = allocator
        return allocator

    def _reset(self, imsi: Imsi, seq_ms: int) -> None:
        """Follow the USIM, unless what is stored is acceptable to it: another process may have moved on."""
        sqn_ms = compose(seq_ms, seq_ms % IND_COUNT)

        def transition(seq: int) -> int:
            return SqnGenerator.resynchronised(SqnState(seq, seq % IND_COUNT), sqn_ms).seq

        self._database.change_sequence(imsi, transition)


def _algorithm(subscriber: Subscriber) -> AkaAlgorithm:
    match subscriber.algorithm:
        case Algorithm.MILENAGE:
            return Milenage(subscriber.k, op=subscriber.op, opc=subscriber.opc)
