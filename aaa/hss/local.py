"""The HSS in this process: vectors (TS 33.102 §6.3, Annex C) and profiles from the subscriber database.

Not for use by several threads at once: the runtime calls it through one bridge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aaa.hss.port import SubscriberProfile
from aaa.subscribers.database import UnknownImsi
from aaa.subscribers.sequences import SequenceNumbers, SequenceStore
from aaa.subscribers.subscriber import Subscriber
from protocols.algorithms.sqn import DEFAULT_BLOCK
from protocols.algorithms.vector import RAND_LENGTH, AkaVector, generate_vector, verify_auts
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
    ) -> None:
        self._database = database
        self._entropy = entropy
        self._sequences = SequenceNumbers(database, wall=wall or SystemClock().wall, block=sequence_block)

    def authentication_vector(self, imsi: Imsi, resynchronisation: Resynchronisation | None) -> AkaVector:
        """A fresh vector (TS 33.102 §6.3.2), after moving SEQ_HE when AUTS is given (§6.3.5)."""
        subscriber = self._database.get(imsi)
        if subscriber is None:
            self._sequences.forget(imsi)
            raise UnknownImsi(f"no subscriber has IMSI {imsi}")
        algorithm = subscriber.keys.functions()
        if resynchronisation is not None:
            sqn_ms = verify_auts(algorithm, rand=resynchronisation.rand, auts=resynchronisation.auts)
            self._sequences.resynchronise(subscriber, sqn_ms)
        sqn = self._sequences.next(subscriber)
        rand = self._entropy.octets(RAND_LENGTH)
        return generate_vector(algorithm, rand=rand, sqn=sqn, amf=subscriber.amf)

    def profile(self, imsi: Imsi) -> SubscriberProfile | None:
        """The profile of ``imsi``, ``None`` when it is unknown."""
        subscriber = self._database.get(imsi)
        if subscriber is None:
            return None
        return SubscriberProfile(
            imsi=subscriber.imsi,
            enabled=subscriber.enabled,
            non_3gpp_allowed=subscriber.non_3gpp_allowed,
            msisdn=subscriber.msisdn,
            apns=subscriber.apns,
        )
