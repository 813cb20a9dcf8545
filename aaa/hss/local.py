"""The authentication centre of the HSS: vectors (TS 33.102 §6.3, Annex C) out of the subscriber database.

Not for use by several threads at once: the runtime calls it through one bridge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aaa.hss.given import GivenVectors
from aaa.subscribers.database import UnknownImsi
from aaa.subscribers.sequences import SequenceNumbers, SequenceStore
from aaa.subscribers.subscriber import Subscriber
from protocols.algorithms.sqn import DEFAULT_BLOCK
from protocols.algorithms.vector import AMF_SEPARATION, RAND_LENGTH, AkaVector, generate_vector, verify_auts
from protocols.eap.aka.keys import prime_vector
from protocols.eap.aka.server import Resynchronisation
from protocols.entropy import Entropy
from protocols.io.clock import SystemClock
from protocols.threegpp.identity import Imsi


class SubscriberStore(SequenceStore, Protocol):
    """What the HSS needs of ``SubscriberDatabase``."""

    def get(self, imsi: Imsi) -> Subscriber | None:
        """The subscriber of ``imsi``, if provisioned."""


class LocalHss:
    """Answers from the database; SQN values come from blocks reserved there ahead of their use."""

    def __init__(
        self,
        database: SubscriberStore,
        entropy: Entropy,
        *,
        sequence_block: int = DEFAULT_BLOCK,
        wall: Callable[[], float] | None = None,
        given: GivenVectors | None = None,
    ) -> None:
        """``given``: vectors from files, which take the place of made ones where a subscriber has some."""
        self._given = given
        self._database = database
        self._entropy = entropy
        self._sequences = SequenceNumbers(database, wall=wall or SystemClock().wall, block=sequence_block)

    def authentication_vector(
        self, imsi: Imsi, resynchronisation: Resynchronisation | None, *, prime_for: bytes | None = None
    ) -> AkaVector:
        """A fresh vector (TS 33.102 §6.3.2), after moving SEQ_HE when AUTS is given (§6.3.5).

        ``prime_for`` is the access network identity of an EAP-AKA' vector: CK' and IK' are bound to it, and
        the AMF has its separation bit (TS 33.402 §6.2, Annex A.2). ``UnknownImsi``, ``AuthenticationError``.
        """
        subscriber = self._database.get(imsi)
        if subscriber is None:
            self._sequences.forget(imsi)
            raise UnknownImsi(f"no subscriber has IMSI {imsi}")
        return self.vector_of(subscriber, resynchronisation, prime_for=prime_for)

    def vector_of(
        self, subscriber: Subscriber, resynchronisation: Resynchronisation | None, *, prime_for: bytes | None = None
    ) -> AkaVector:
        """As ``authentication_vector``, for a subscriber that has just been read."""
        imsi = subscriber.imsi
        if self._given is not None and imsi in self._given:
            vector = self._given.next(imsi, resynchronisation)
            return vector if prime_for is None else prime_vector(vector, prime_for)
        algorithm = subscriber.keys.functions()
        if resynchronisation is not None:
            sqn_ms = verify_auts(algorithm, rand=resynchronisation.rand, auts=resynchronisation.auts)
            self._sequences.resynchronise(subscriber, sqn_ms)
        sqn = self._sequences.next(subscriber)
        rand = self._entropy.octets(RAND_LENGTH)
        if prime_for is None:
            return generate_vector(algorithm, rand=rand, sqn=sqn, amf=subscriber.amf)
        separated = bytes([subscriber.amf[0] | AMF_SEPARATION[0], subscriber.amf[1]])
        return prime_vector(generate_vector(algorithm, rand=rand, sqn=sqn, amf=separated), prime_for)
